"""How many units the wide networks that training ended at really use."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from semiflat.report.numbers import widths
from semiflat.report.traps import rows

Row = dict[str, Any]


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


def effective_widths(record: Row) -> list[EffectiveWidths]:
    """One entry for each wide architecture, narrowest first; empty if none was reduced."""
    by_width: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for escape in rows(record, "escapes"):
        given, effective = escape.get("widths"), escape.get("effective_hidden")
        if isinstance(given, list) and isinstance(effective, list):
            by_width.setdefault(tuple(given[1:-1]), []).append(tuple(effective))
    return [
        EffectiveWidths(
            hidden=widths(hidden),
            runs=len(found),
            effective=[(widths(each), n) for each, n in Counter(found).most_common()],
        )
        for hidden, found in sorted(by_width.items())
    ]
