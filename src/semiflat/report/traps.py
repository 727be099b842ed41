"""Which narrow points stop being traps: embedded points and escapes, joined by narrow point."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semiflat.report.numbers import is_number
from semiflat.report.words import FAMILIES, MINIMA, STATUS_MARKS, kinds_counted

Row = dict[str, Any]


@dataclass(frozen=True)
class Reached:
    """The lowest loss that escapes ended at, and how the one that did so ended."""

    loss: float
    status: str
    embedded: str

    @property
    def mark(self) -> str:
        """Tells where the end was no critical point."""
        return STATUS_MARKS.get(self.status, "·")


@dataclass(frozen=True)
class Family:
    """What one family of embeddings with one added unit made of a narrow point."""

    kinds: list[tuple[str, str]]
    best: Reached | None


@dataclass(frozen=True)
class NarrowPoint:
    """One embedded narrow point.

    Attributes:
        name, loss, kind: its own.
        families: in the order of :func:`family_names`; one added unit.
        best: lowest loss after an escape, by number of added units from 1 up.
        freed: whether an escape with one added unit ended below its loss; None if it was a saddle
            already, so that there was no trap.
        followed: whether any escape of its wide points is in the record.
    """

    name: str
    loss: float | None
    kind: str
    families: list[Family]
    best: list[Reached | None]
    freed: bool | None
    followed: bool


def rows(record: Row, key: str) -> list[Row]:
    """A list of the record; empty where an interrupted study has none."""
    return [row for row in record.get(key) or [] if isinstance(row, dict)]


def family_names(record: Row) -> list[str]:
    """The families that occur, known ones first."""
    present = {str(row.get("family")) for row in rows(record, "embedded")}
    return [*(f for f in FAMILIES if f in present), *sorted(present - set(FAMILIES))]


def most_added(record: Row) -> int:
    """The largest number of added units."""
    return max((int(row.get("added") or 0) for row in rows(record, "embedded")), default=0)


def narrow_points(record: Row) -> list[NarrowPoint]:
    """The embedded narrow points, in the record's order: lowest loss first."""
    points = {str(row.get("name")): row for row in rows(record, "points")}
    escapes: dict[str, list[Row]] = {}
    for escape in rows(record, "escapes"):
        escapes.setdefault(str(escape.get("embedded")), []).append(escape)
    by_source: dict[str, list[Row]] = {}
    for row in rows(record, "embedded"):
        by_source.setdefault(str(row.get("source")), []).append(row)
    families, most = family_names(record), most_added(record)
    return [
        _narrow_point(name, points.get(name, {}), wide, escapes, families, most)
        for name, wide in by_source.items()
    ]


def _narrow_point(
    name: str,
    point: Row,
    wide: list[Row],
    escapes: dict[str, list[Row]],
    families: list[str],
    most: int,
) -> NarrowPoint:
    def left(some: list[Row]) -> list[Row]:
        return [escape for row in some for escape in escapes.get(str(row.get("name")), [])]

    one = [row for row in wide if row.get("added") == 1]
    kind = str(point.get("kind"))
    fell = any(_fell(escape) for escape in left(one))
    return NarrowPoint(
        name=name,
        loss=point.get("loss"),
        kind=kind,
        families=[
            Family(kinds_counted([row.get("kind") for row in some]), lowest(left(some)))
            for family in families
            for some in [[row for row in one if row.get("family") == family]]
        ],
        best=[
            lowest(left([row for row in wide if row.get("added") == added]))
            for added in range(1, most + 1)
        ],
        freed=fell if kind in MINIMA else None,
        followed=bool(left(wide)),
    )


def _fell(escape: Row) -> bool:
    before, after = escape.get("loss_before"), escape.get("loss_after")
    return is_number(before) and is_number(after) and after < before


def lowest(escapes: list[Row]) -> Reached | None:
    """The escape that ended lowest, if any ended at a number."""
    ended = [escape for escape in escapes if is_number(escape.get("loss_after"))]
    if not ended:
        return None
    best = min(ended, key=lambda escape: float(escape["loss_after"]))
    return Reached(best["loss_after"], str(best.get("status")), str(best.get("embedded")))
