"""Loss against width: points of networks of several widths, and what leads from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from semiflat.plots.drawing import BLUE, GREEN, GREY, VERMILLION, Mark
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Placed:
    """A point of the picture.

    Attributes:
        width: hidden units in all.
        loss: its own.
        sort: name among :data:`SORTS`.
    """

    width: int
    loss: float
    sort: str


SORTS = {
    "converged": Mark("o", BLUE, BLUE, "critical point of a search"),
    "run": Mark("X", INK, "#BBBBBB", "a run that did not converge"),
    "infinity": Mark("D", INK, "white", "critical point at infinity"),
    "embedded": Mark("s", VERMILLION, "white", "embedded in a wider network"),
    "point": Mark("^", GREEN, GREEN, "any other point"),
    "reduced": Mark("o", BLUE, "white", "the same, reduced"),
}


def draw_widths(ax: Axes, points: Sequence[Placed], links: Sequence[tuple[Placed, Placed]]) -> None:
    """Each point at its width and loss; dashed from source to embedded, dotted from reduced to given.

    Args:
        ax: to draw on.
        points: to mark.
        links: pairs of them to join.
    """
    for one, two in links:
        ax.plot(
            [one.width, two.width],
            [one.loss, two.loss],
            color=GREY,
            linewidth=0.9,
            linestyle=":" if one.sort == "reduced" else "--",
            zorder=1,
        )
    for sort, mark in SORTS.items():
        own = [point for point in points if point.sort == sort]
        if own:
            ax.scatter(
                [point.width for point in own],
                [point.loss for point in own],
                s=34,
                c=mark.face,
                marker=mark.marker,
                edgecolors=mark.edge,
                linewidths=1.0,
                label=mark.label,
                zorder=3,
            )
    from matplotlib.ticker import MaxNLocator, NullLocator

    widths = sorted({point.width for point in points})
    if widths[-1] > 20 * max(widths[0], 1):
        ax.set_xscale("symlog", linthresh=1)
        places = [0, *(lead * 10**power for power in range(7) for lead in (1, 2, 5))]
        ax.set_xticks([p for p in places if widths[0] <= p <= widths[-1]])
        ax.xaxis.set_major_formatter(lambda width, _: f"{width:,.0f}".replace(",", " "))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(0.1)
    ax.grid(axis="y", color="#EEEEEE", zorder=0)
    ax.set_xlabel("hidden units")
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize=8.5)
