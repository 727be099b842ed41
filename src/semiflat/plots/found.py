"""What a search found: the losses of distinct points, what they are, and how often each was found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from semiflat.plots.drawing import SIGNS, Numbers
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COUNTED = 30
"""Points up to which each one's number of runs is written beside it."""


def draw_found(
    ax: Axes, losses: Numbers, sorts: Sequence[str], times: Sequence[int | None]
) -> None:
    """The losses, lowest first; the mark says what a point is, the number how many runs ended there.

    Args:
        ax: to draw on.
        losses: of the points, in order.
        sorts: what each is, by its name in :data:`semiflat.plots.drawing.SIGNS`.
        times: how many runs ended at each; None where that is not counted.
    """
    from matplotlib.ticker import MaxNLocator

    place = np.arange(1, len(losses) + 1)
    largest = max((n for n in times if n), default=1)
    for sort, mark in SIGNS.items():
        chosen = [k for k, own in enumerate(sorts) if own == sort]
        if chosen:
            area = [_area(times[k], largest) for k in chosen]
            ax.scatter(
                place[chosen],
                losses[chosen],
                s=area,
                c=mark.face,
                marker=mark.marker,
                edgecolors=mark.edge,
                linewidths=1.0,
                zorder=3,
            )
    if len(losses) <= COUNTED:
        for x, y, count in zip(place, losses, times, strict=True):
            if count is not None:
                ax.annotate(
                    f"×{count}",
                    (x, y),
                    (0, 4 + math.sqrt(_area(count, largest)) / 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=INK,
                )
    ax.set_xlim(0.4, len(losses) + 0.6)
    ax.margins(y=0.14)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("distinct points, lowest loss first")
    ax.set_ylabel("loss")
    ax.legend(
        handles=[mark.legend() for sort, mark in SIGNS.items() if sort in sorts],
        frameon=False,
        fontsize=8.5,
    )


def _area(count: int | None, largest: int) -> float:
    """Of a mark, in square points: larger where more runs ended."""
    return 22 + 110 * (count or 0) / largest
