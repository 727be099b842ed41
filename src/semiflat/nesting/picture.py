"""A hierarchy as plots draw it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semiflat.nesting.record import widths_name
from semiflat.plots.drawing import axes_for
from semiflat.plots.levels import Dot, Fall, draw_levels

if TYPE_CHECKING:
    from semiflat.nesting.result import Hierarchy


def draw(hierarchy: Hierarchy, ax: Any) -> Any:
    """See :meth:`semiflat.Hierarchy.plot`."""
    columns = {level.hidden: place for place, level in enumerate(hierarchy.levels)}
    reaches: dict[str, dict[int, bool]] = {}
    for edge in hierarchy.edges:
        if edge.kind == "embeds":
            there = reaches.setdefault(edge.source, {})
            column = columns[edge.hidden]
            there[column] = there.get(column, False) or edge.verdict.endswith("MINIMUM")
    dots = [
        Dot(
            point.name,
            columns[point.hidden],
            point.record.loss,
            "infinity" if point.record.at_infinity else point.record.kind,
            point.record.found,
            reaches.get(point.name, {}),
        )
        for point in hierarchy
    ]
    falls = [
        Fall(columns[edge.hidden], hierarchy[edge.source].record.loss, edge.loss)
        for edge in hierarchy.edges
        if edge.kind == "descends" and edge.target is not None and edge.loss is not None
    ]
    with axes_for(ax, 7.0, 4.4) as ax:
        draw_levels(ax, [widths_name(level.hidden) for level in hierarchy.levels], dots, falls)
        ax.set_title(
            f"{len(dots)} critical points at {len(columns)} widths\n"
            "lines: the same function, embedded (|: still a minimum, o: none known to be); dotted: ways down",
            loc="left",
            fontsize=9.5,
        )
    return ax
