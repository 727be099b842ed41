"""The loss on a plane through a point, as contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from semiflat.plots.drawing import VERMILLION, Numbers, minus
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = 9
"""Contours, each as much of the plane apart as the next."""


def draw_plane(
    ax: Axes,
    s: Numbers,
    t: Numbers,
    losses: Numbers,
    loss: float,
    others: Sequence[tuple[float, float]] = (),
) -> None:
    """Contours of equal loss, darker where it is higher; a dot at the point, a triangle at the lowest.

    Args:
        ax: to draw on.
        s: distances along the first direction, (k,).
        t: distances along the second, (m,).
        losses: at each, (m, k).
        loss: at the point.
        others: places of other points, drawn as squares.
    """
    finite = losses[np.isfinite(losses)]
    # By rank, not by size: what rises far out would leave no line near the point.
    levels = np.unique(np.quantile(finite, np.linspace(0.02, 0.98, LINES)))
    shown = np.where(np.isfinite(losses), losses, finite.max())
    if len(levels) > 1 and levels[-1] - levels[0] > 1e-12 * abs(levels[-1]):
        ax.contourf(s, t, shown, levels=levels, extend="both", cmap="Greys", alpha=0.55)
        lines = ax.contour(s, t, shown, levels=levels, colors=INK, linewidths=0.6)
        for text in ax.clabel(lines, fontsize=7, fmt=_told_apart(levels)):
            x, y = text.get_position()
            if max(abs(x) / np.abs(s).max(), abs(y) / np.abs(t).max()) > 0.85:
                text.remove()  # the frame would cut it off
    else:
        ax.text(
            0.5, 0.06, "the same loss all over", transform=ax.transAxes, ha="center", va="bottom"
        )
    row, column = np.unravel_index(
        np.nanargmin(np.where(np.isfinite(losses), losses, np.nan)), losses.shape
    )
    if losses[row, column] < loss - 1e-12 * abs(loss):
        ax.plot(s[column], t[row], "v", color=VERMILLION, markersize=8, markeredgecolor="white")
    for place in others:
        ax.plot(*place, "s", color="white", markersize=6, markeredgecolor=INK)
    ax.plot(0, 0, "o", color=INK, markersize=6, markeredgecolor="white")
    ax.set_xlim(s[0], s[-1])
    ax.set_ylim(t[0], t[-1])
    ax.set_aspect("equal")
    ax.locator_params(nbins=6)


def _told_apart(levels: Numbers) -> dict[float, str]:
    """Levels in as few digits as tell them apart."""
    for digits in range(3, 17):
        texts = [minus(f"{level:.{digits}g}".replace("e-0", "e-")) for level in levels]
        if len(set(texts)) == len(texts):
            break
    return dict(zip(levels.tolist(), texts, strict=True))
