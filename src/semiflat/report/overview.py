"""Loss against width: every point of the study in one chart, and the same as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semiflat.records.study import EmbeddedRow, EscapeRow, NearestRow, PointRow, StudyRecord
from semiflat.report.charts import POINT, by_family, encoded, family, frame, lines, loss_axis
from semiflat.report.numbers import change, loss, widths
from semiflat.report.words import KINDS, kind_words, status_words

LEFT_AT = "end of a way down, at a critical point"
LEFT_ELSEWHERE = "end of a way down, elsewhere"

_MARKS = {
    "STRICT_MINIMUM": ("circle", "var(--minimum)", "var(--minimum)"),
    "MINIMUM": ("circle", "var(--paper)", "var(--minimum)"),
    "STRICT_SADDLE": ("triangle-down", "var(--saddle)", "var(--saddle)"),
    "UNDECIDED": ("cross", "var(--paper)", "var(--ink)"),
    "NOT_CRITICAL": ("triangle-right", "var(--paper)", "var(--soft)"),
    LEFT_AT: ("diamond", "var(--left)", "var(--left)"),
    LEFT_ELSEWHERE: ("diamond", "var(--paper)", "var(--left)"),
}
"""Shape, fill and edge: no two kinds have the same shape and the same fill."""
_SPREAD = 0.84
"""Part of the room between two widths that the points of one width are spread over."""


@dataclass(frozen=True)
class Mark:
    """One point of the chart.

    Attributes:
        name: leads to its section.
        kind: a key of the chart's legend.
        what: the kind or the end of a run, in words.
        units: hidden units in all layers.
        widths: of its network.
        loss: its own.
        source: the narrow point that it belongs to.
        origin: what it was made of or left from, in words.
        begun: for the end of a way down, the point it was left from; else None.
        level: whether its loss is that of its narrow point.
    """

    name: str
    kind: str
    what: str
    units: int
    widths: str
    loss: float
    source: str
    origin: str
    begun: str | None = None
    level: bool = True


def marks(record: StudyRecord) -> list[Mark]:
    """All points whose loss is known: critical ones, wide ones, where descents from these ended."""
    losses = {row.name: row.loss for row in record.points}
    return [
        *(
            _narrow(row, record.network.widths, row.loss)
            for row in record.points
            if row.loss is not None
        ),
        *_some(_wide(row, losses.get(row.source)) for row in record.embedded),
        *_some(_nearest(row) for row in record.nearest or ()),
        *_some(_end(row) for row in record.escapes),
    ]


def _some(found: Iterator[Mark | None]) -> list[Mark]:
    return [mark for mark in found if mark is not None]


def _narrow(row: PointRow, shape: Sequence[int], own: float) -> Mark:
    where = " at infinity" if row.at_infinity else ""
    what = f"{kind_words(row.kind).one}{where}"
    return Mark(
        row.name,
        _drawn(row.kind),
        what,
        _units(shape),
        widths(shape),
        own,
        row.name,
        "found by the search",
    )


def _wide(row: EmbeddedRow, own: float | None) -> Mark | None:
    if own is None or not row.widths:
        return None
    origin = f"{row.source}, {row.family}" if row.family else row.source
    what = kind_words(row.kind).one
    return Mark(
        row.name,
        _drawn(row.kind),
        what,
        _units(row.widths),
        widths(row.widths),
        own,
        row.source,
        origin,
    )


def _nearest(row: NearestRow) -> Mark | None:
    if row.loss is None or not row.widths:
        return None
    shape, origin = row.widths, f"{row.source}, {row.family}, not critical with weight decay"
    what = f"{kind_words(row.kind).one}, reached from a wide point"
    return Mark(
        row.name,
        _drawn(row.kind),
        what,
        _units(shape),
        widths(shape),
        row.loss,
        row.source,
        origin,
        None,
        False,
    )


def _end(row: EscapeRow) -> Mark | None:
    if row.loss_after is None or not row.widths:
        return None
    kind = LEFT_AT if row.status == "CONVERGED" else LEFT_ELSEWHERE
    fall = change(row.loss_before, row.loss_after)
    origin = f"{row.embedded} at {loss(row.loss_before)} ({fall})"
    what = f"way down that {status_words(row.status)}"
    name = row.name or f"from {row.embedded}"
    return Mark(
        name,
        kind,
        what,
        _units(row.widths),
        widths(row.widths),
        row.loss_after,
        row.source,
        origin,
        row.embedded,
    )


def _drawn(kind: str) -> str:
    """Kinds of a later version look like undecided ones; their words tell what they are."""
    return kind if kind in _MARKS else "UNDECIDED"


def _units(shape: Sequence[int]) -> int:
    return sum(shape[1:-1])


def chart(found: list[Mark], losses: dict[str, float]) -> dict[str, Any]:
    """The chart as Vega-Lite takes it; colours are variables of the page's style.

    Args:
        found: from :func:`marks`.
        losses: of the narrow points, by name: their wide points lie on that line.
    """
    places = _places(found)
    at = {mark.name: places[mark.name] for mark in found}
    values = [
        {
            "name": mark.name,
            "kind": _legend(mark.kind),
            "what": mark.what,
            "network": mark.widths,
            "from": mark.origin,
            "source": mark.source,
            "x": at[mark.name],
            "loss": mark.loss,
            "text": loss(mark.loss),
        }
        for mark in found
    ]
    start = {mark.name: mark for mark in found}
    falls = [
        {
            "x": at[m.name],
            "x0": at[m.begun],
            "loss": m.loss,
            "loss0": start[m.begun].loss,
            "source": m.source,
        }
        for m in found
        if m.begun in start
    ]
    wide = [
        mark for mark in found if mark.begun is None and mark.level and mark.name != mark.source
    ]
    last = {mark.source: max(at[m.name] for m in wide if m.source == mark.source) for mark in wide}
    levels = [
        {"x0": at[name], "x": end, "loss0": losses[name], "loss": losses[name], "source": name}
        for name, end in last.items()
        if name in at and name in losses
    ]
    kinds = [kind for kind in _MARKS if any(mark.kind == kind for mark in found)]
    columns = sorted({mark.units for mark in found})
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "hidden units",
        "scale": {"domain": [columns[0] - 0.5, columns[-1] + 0.5], "nice": False},
        "axis": {"values": columns, "format": "d", "grid": False, "domain": False, "tickSize": 0},
    }
    by_kind = {_legend(kind): _MARKS[kind] for kind in kinds}
    return frame(x, loss_axis([mark.loss for mark in found])) | {
        "layer": [
            *([lines(levels, "var(--line-strong)", 0.9)] if levels else []),
            *([lines(falls, "var(--left)", 0.45)] if falls else []),
            {
                "data": {"values": values},
                "transform": [
                    {
                        "calculate": "datum.name + ', ' + datum.what + ', loss ' + datum.text",
                        "as": "about",
                    }
                ],
                "name": "points",
                "params": [family("source")],
                "mark": POINT | {"size": 46},
                "encoding": {
                    "opacity": by_family(1, 0.12),
                    "description": {"field": "about"},
                    "shape": encoded(by_kind, 0),
                    "fill": encoded(by_kind, 1),
                    "stroke": encoded(by_kind, 2),
                    "tooltip": [
                        {"field": "name", "title": "title"},
                        {"field": "what", "title": "kind"},
                        {"field": "text", "title": "loss"},
                        {"field": "network", "title": "network"},
                        {"field": "from", "title": "from"},
                    ],
                },
            },
        ],
    }  # fmt: skip


def _legend(kind: str) -> str:
    return KINDS[kind].one if kind in KINDS else kind


def _places(found: list[Mark]) -> dict[str, float]:
    """Where across its width each point stands: one narrow point's side by side, the end below its start."""
    columns: dict[int, list[Mark]] = {}
    for mark in found:
        columns.setdefault(mark.units, []).append(mark)
    order = {name: k for k, name in enumerate(dict.fromkeys(mark.source for mark in found))}
    places: dict[str, float] = {}
    for units, those in columns.items():
        slots = {mark.begun or mark.name: order[mark.source] for mark in those}
        for k, name in enumerate(sorted(slots, key=lambda slot: slots[slot])):
            places[name] = round(units + _SPREAD * ((k + 0.5) / len(slots) - 0.5), 4)
        for mark in those:
            places[mark.name] = places[mark.begun or mark.name]
    return places
