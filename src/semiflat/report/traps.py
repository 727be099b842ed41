"""Which narrow points stop being traps: embedded points and escapes, joined by narrow point."""

from __future__ import annotations

from dataclasses import dataclass

from semiflat.records.study import EmbeddedRow, EscapeRow, PointRow, StudyRecord
from semiflat.report.words import FAMILIES, MINIMA, STATUS_MARKS, kinds_counted


@dataclass(frozen=True)
class Reached:
    """The lowest loss that escapes ended at, and how the one that did so ended."""

    loss: float
    status: str

    @property
    def mark(self) -> str:
        """Tells where the end was no critical point."""
        return STATUS_MARKS.get(self.status, "·")


@dataclass(frozen=True)
class EmbeddedFamily:
    """What one family of embeddings with one added unit made of a narrow point."""

    kinds: list[tuple[str, str]]
    best: Reached | None


@dataclass(frozen=True)
class NarrowPoint:
    """One embedded narrow point.

    Attributes:
        name, loss, at_infinity: its own.
        wide: the wide points made of it.
        families: in the order of :func:`family_names`; one added unit.
        best: lowest loss after an escape, by number of added units from 1 up.
        freed: whether an escape with one added unit ended below its loss; None if it was a saddle
            already, so that there was no trap.
        followed: whether any escape of its wide points is in the record.
        closed: whether it was widened by one unit and no wide point is a strict saddle: nothing to follow.
    """

    name: str
    loss: float | None
    at_infinity: bool
    wide: list[EmbeddedRow]
    families: list[EmbeddedFamily]
    best: list[Reached | None]
    freed: bool | None
    followed: bool
    closed: bool


def family_names(record: StudyRecord) -> list[str]:
    """The families that occur, known ones first."""
    present = {row.family for row in record.embedded}
    return [*(f for f in FAMILIES if f in present), *sorted(present - set(FAMILIES))]


def most_added(record: StudyRecord) -> int:
    """The largest number of added units."""
    return max((row.added for row in record.embedded), default=0)


def narrow_points(record: StudyRecord) -> list[NarrowPoint]:
    """The embedded narrow points, in the record's order: lowest loss first."""
    points = {row.name: row for row in record.points}
    escapes: dict[str, list[EscapeRow]] = {}
    for escape in record.escapes:
        escapes.setdefault(escape.embedded, []).append(escape)
    families, most = family_names(record), most_added(record)
    return [
        _narrow_point(points.get(name, PointRow(name=name)), wide, escapes, families, most)
        for name, wide in record.by_source().items()
    ]


def _narrow_point(
    point: PointRow,
    wide: list[EmbeddedRow],
    escapes: dict[str, list[EscapeRow]],
    families: list[str],
    most: int,
) -> NarrowPoint:
    def left(some: list[EmbeddedRow]) -> list[EscapeRow]:
        return [escape for row in some for escape in escapes.get(row.name, [])]

    one = [row for row in wide if row.added == 1]
    fell = any(_fell(escape) for escape in left(one))
    return NarrowPoint(
        name=point.name,
        loss=point.loss,
        at_infinity=bool(point.at_infinity),
        wide=wide,
        families=[
            EmbeddedFamily(kinds_counted([row.kind for row in some]), lowest(left(some)))
            for family in families
            for some in [[row for row in one if row.family == family]]
        ],
        best=[
            lowest(left([row for row in wide if row.added == added]))
            for added in range(1, most + 1)
        ],
        freed=fell if point.kind in MINIMA else None,
        followed=bool(left(wide)),
        closed=bool(one) and all(row.kind in MINIMA for row in wide),
    )


def _fell(escape: EscapeRow) -> bool:
    before, after = escape.loss_before, escape.loss_after
    return before is not None and after is not None and after < before


def lowest(escapes: list[EscapeRow]) -> Reached | None:
    """The escape that ended lowest, if any ended at a number."""
    ended = [Reached(e.loss_after, e.status) for e in escapes if e.loss_after is not None]
    return min(ended, key=lambda reached: reached.loss, default=None)
