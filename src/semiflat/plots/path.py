"""The loss along a path, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from semiflat.plots.drawing import Numbers
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHADES: Mapping[str, str] = {"constant": "#E4E4E4", "decreasing": "white", "free": "#F5E6D8"}
STYLES: Mapping[str, str] = {"constant": "-", "decreasing": "--", "free": ":"}


def draw_path(ax: Axes, pieces: Sequence[tuple[str, str, Numbers, Numbers]]) -> None:
    """The loss against t: pieces of constant loss shaded, decreasing ones dashed.

    Args:
        ax: to draw on.
        pieces: name, claim, t and loss of each, in order.
    """
    lowest = min(float(losses.min()) for *_, losses in pieces)
    highest = max(0.0, *(float(losses.max()) for *_, losses in pieces))
    for name, claim, t, losses in pieces:
        left, right = float(t[0]), float(t[-1])
        ax.axvspan(left, right, color=SHADES[claim], linewidth=0)
        ax.plot(t, losses, STYLES[claim], color=INK, linewidth=1.6)
        ax.axvline(right, color="#999999", linewidth=0.6)
        ax.text(
            (left + right) / 2,
            1.02,
            name.split(":")[0],
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=INK,
        )
    margin = 0.06 * (highest - min(lowest, highest)) or 0.1 * (highest or 1.0)
    ax.set_xlim(0, 1)
    ax.set_ylim(lowest - margin, highest + margin)
    ax.set_xlabel("t (shaded: constant loss; dashed: decreasing)")
    ax.set_ylabel("loss")
