"""One unit as two copies with shares λ and 1 − λ: what changes along the line, and what does not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from semiflat.plots.drawing import GREY, UNKNOWN, Mark, Numbers, shared_power, size
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def draw_shares(
    ax: Axes, share: Numbers, lowest: Numbers, sorts: Sequence[str], marks: Mapping[str, Mark]
) -> None:
    """The lowest eigenvalue against the share, each point marked as what it is; λ in [0, 1] shaded.

    Args:
        ax: to draw on.
        share: λ of one of the two copies.
        lowest: eigenvalue of the wide Hessian at each.
        sorts: what each is, by its name among the marks.
        marks: how sorts are drawn.
    """
    _ground(ax)
    ax.plot(share, lowest, color=GREY, linewidth=0.8, zorder=2)
    sorts = [*sorts, *[""] * len(share)][: len(share)]
    for sort in dict.fromkeys(sorts):
        mark = marks.get(sort, UNKNOWN)
        chosen = np.array([each == sort for each in sorts])
        ax.scatter(
            share[chosen],
            lowest[chosen],
            s=30 if mark.marker == "X" else 15,
            c=mark.face,
            marker=mark.marker,
            edgecolors=mark.edge,
            linewidths=0.8,
            zorder=3,
        )
    shared_power(ax, lowest, "lowest eigenvalue")


def draw_same_loss(ax: Axes, share: Numbers, loss: Numbers) -> None:
    """The loss minus its mean over the line: rounding, if all is well."""
    _ground(ax)
    ax.set_xlabel("share λ")
    if len(loss) != len(share) or not np.isfinite(loss).any():
        ax.text(0.5, 0.5, "no loss recorded", transform=ax.transAxes, ha="center", va="center")
        ax.set_yticks([])
        return
    change = loss - loss[np.isfinite(loss)][0]  # exact, and so is the mean that comes off it
    change -= np.nanmean(change)
    ulp = max(float(np.spacing(np.nanmax(np.abs(loss)))), 1e-300)
    reach = 10.0 ** math.ceil(math.log10(max(1.2 * float(np.nanmax(np.abs(change))), 2 * ulp)))
    ax.plot(share, change, ".", color=INK, markersize=3)
    ax.set_ylim(-1.5 * reach, 2.3 * reach)
    ax.set_yticks([-reach, 0, reach])
    shared_power(ax, np.array([1.01 * reach]), "loss − mean\n")
    ax.text(
        0.5,
        0.97,
        f"max − min = {size(spread(loss))}",
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=8,
    )


def spread(loss: Numbers) -> float:
    """By how much the loss differs along the line."""
    return float(np.nanmax(loss) - np.nanmin(loss))


def _ground(ax: Axes) -> None:
    ax.axvspan(0, 1, color="#EEF2F5", zorder=0)
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=1)
    ax.margins(x=0)
