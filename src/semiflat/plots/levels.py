"""Levels as columns: points at their losses, where they are embedded, and where ways down lead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from semiflat.plots.drawing import GREY, MARKS, SIGNS, UNKNOWN, Mark
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 100.0
"""Times the least loss that the largest is where the axis is logarithmic."""
NAMED = 5
"""Points of a column, lowest first, whose names are written."""
ROOM = 0.035
"""Height of a name, in parts of the picture's."""


@dataclass(frozen=True)
class Dot:
    """A point to draw.

    Attributes:
        name: written beside it, where there is room.
        column: its level.
        loss: its height.
        kind: a kind of :data:`semiflat.plots.drawing.MARKS`; at infinity ``"infinity"``.
        found: how many random starts ended there.
        reaches: for each wider level that it is embedded in, whether it is a minimum there.
    """

    name: str
    column: int
    loss: float
    kind: str
    found: int
    reaches: dict[int, bool]


@dataclass(frozen=True)
class Fall:
    """A descent to draw: within a column, from one loss to another."""

    column: int
    above: float
    below: float


def draw_levels(
    ax: Axes, columns: Sequence[str], dots: Sequence[Dot], falls: Sequence[Fall]
) -> None:
    """See :meth:`semiflat.Hierarchy.plot`."""
    heights = [dot.loss for dot in dots]
    least = min((height for height in heights if height > 0), default=1.0)
    logarithmic = max(heights) > WIDE * least
    floor = least / 3 if logarithmic else min(heights)  # an exact fit has no logarithm
    largest = max((dot.found for dot in dots), default=1) or 1

    def height(loss: float) -> float:
        return max(loss, floor)

    for fall in {(each.column, each.above, each.below) for each in falls}:
        column, above, below = fall
        ends = [height(above), height(below)]
        ax.plot([column - 0.12, column], ends, color=GREY, lw=0.7, ls=":", zorder=1)
    for dot in dots:
        own = height(dot.loss)
        for column, stays in dot.reaches.items():
            ax.plot([dot.column, column], [own, own], color=INK, lw=0.6, alpha=0.5, zorder=1)
            face = INK if stays else "white"
            ax.plot(
                [column],
                [own],
                "|" if stays else "o",
                ms=5 if stays else 3,
                mec=INK,
                mfc=face,
                zorder=2,
            )
    for dot in dots:
        mark = mark_of(dot.kind)
        size = 24 + 90 * dot.found / largest
        ax.scatter(
            [dot.column],
            [height(dot.loss)],
            s=size,
            c=mark.face,
            marker=mark.marker,
            edgecolors=mark.edge,
            zorder=3,
        )
    ax.set_xticks(range(len(columns)), columns)
    ax.set_xlim(-0.4, len(columns) - 0.4)
    if logarithmic:
        ax.set_yscale("log")
    for column in range(len(columns)):
        lowest = sorted((dot for dot in dots if dot.column == column), key=lambda dot: dot.loss)
        _name(ax, lowest[:NAMED], height)
    ax.set_xlabel("hidden units")
    ax.set_ylabel("loss")
    kinds = list(dict.fromkeys(dot.kind for dot in dots))
    ax.legend(
        handles=[mark_of(kind).legend() for kind in kinds], frameon=False, fontsize=8, loc="best"
    )


def _name(ax: Axes, dots: Sequence[Dot], height: Callable[[float], float]) -> None:
    """Write names beside a column's points, from below, where they do not lie on each other."""
    last = -float("inf")
    for dot in dots:
        place = float(
            ax.transAxes.inverted().transform(ax.transData.transform((0, height(dot.loss))))[1]
        )
        if place - last > ROOM:
            at = dot.column, height(dot.loss)
            ax.annotate(dot.name, at, (7, -3), textcoords="offset points", fontsize=7.5, color=INK)
            last = place


def mark_of(kind: str) -> Mark:
    """How a kind is drawn."""
    return SIGNS["infinity"] if kind == "infinity" else MARKS.get(kind, UNKNOWN)
