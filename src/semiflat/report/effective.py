"""How many units the wide networks that training ended at really use."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from semiflat.records.study import StudyRecord
from semiflat.report.numbers import widths


@dataclass(frozen=True)
class EffectiveWidths:
    """The wide networks of one size.

    Attributes:
        hidden: hidden widths, as text.
        runs: how many there are.
        effective: (effective hidden widths as text, how many), most first.
    """

    hidden: str
    runs: int
    effective: list[tuple[str, int]]


def effective_widths(record: StudyRecord) -> list[EffectiveWidths]:
    """One entry for each wide architecture, narrowest first; empty if none was reduced."""
    by_width: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for escape in record.escapes:
        if escape.widths and escape.effective_hidden is not None:
            hidden = tuple(escape.widths[1:-1])
            by_width.setdefault(hidden, []).append(tuple(escape.effective_hidden))
    return [
        EffectiveWidths(
            hidden=widths(hidden),
            runs=len(found),
            effective=[(widths(each), n) for each, n in Counter(found).most_common()],
        )
        for hidden, found in sorted(by_width.items())
    ]
