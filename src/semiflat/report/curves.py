"""The numbers behind the figures, as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semiflat.records.study import StudyRecord
from semiflat.report.numbers import NONE, loss, size
from semiflat.report.words import kind_words

_MOST = 41
"""Rows of a curve; of a longer one they are taken evenly."""


@dataclass(frozen=True)
class CurveTable:
    """One curve of a figure in numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(record: StudyRecord) -> dict[str, list[CurveTable]]:
    """By the name of the figure, a table for each of its curves."""
    return {
        "descent": list(_descents(record)),
        "spectrum": list(_spectra(record)),
        "share_line": list(_share_lines(record)),
    }


def _descents(record: StudyRecord) -> Iterator[CurveTable]:
    for curve in record.curves.descent:
        rows = [(size(t, 3), loss(value)) for t, value in zip(curve.step, curve.loss, strict=False)]
        title = f"{curve.embedded}, loss {loss(curve.loss_before)} at the saddle"
        yield CurveTable(title, ("t", "loss"), thinned(rows))


def _spectra(record: StudyRecord) -> Iterator[CurveTable]:
    for curve in record.curves.spectrum:
        rows: list[tuple[str, ...]] = [
            (name, ", ".join(size(value, 3) for value in values))
            for name, values in ((curve.source, curve.narrow), (curve.embedded, curve.wide))
        ]
        yield CurveTable(curve.family, ("point", "eigenvalues"), rows)


def _share_lines(record: StudyRecord) -> Iterator[CurveTable]:
    for curve in record.curves.share_line:
        missing = [None] * len(curve.share)
        kinds = [*curve.kind, *[""] * len(curve.share)]
        rows = [
            (size(share, 3), size(lowest, 3), loss(value), kind_words(kind).one if kind else NONE)
            for share, lowest, value, kind in zip(
                curve.share, curve.lowest or missing, curve.loss or missing, kinds, strict=False
            )
        ]
        title = f"{curve.source}, unit {curve.unit} of hidden layer {curve.layer}"
        yield CurveTable(title, ("share λ", "lowest eigenvalue", "loss", "kind"), thinned(rows))


def thinned(rows: Sequence[tuple[str, ...]], most: int = _MOST) -> list[tuple[str, ...]]:
    """Every second, third, … row, so that no more than about so many are left.

    >>> [row[0] for row in thinned([(str(k),) for k in range(9)], most=5)]
    ['0', '2', '4', '6', '8']
    """
    step = max(1, -(-(len(rows) - 1) // (most - 1)))
    return list(rows[::step])
