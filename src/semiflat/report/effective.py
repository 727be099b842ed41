"""How many units the wide networks that training ended at really use."""

from __future__ import annotations

from collections import Counter

from semiflat.records.study import StudyRecord
from semiflat.report.numbers import widths


def effective_widths(record: StudyRecord) -> list[tuple[str, Counter[str]]]:
    """Hidden widths of the wide networks, narrowest first, and how often they are which effective ones."""
    found: dict[tuple[int, ...], Counter[str]] = {}
    for escape in record.escapes:
        if escape.widths and escape.effective_hidden is not None:
            effective = found.setdefault(tuple(escape.widths[1:-1]), Counter())
            effective[widths(escape.effective_hidden)] += 1
    return [(widths(hidden), effective) for hidden, effective in sorted(found.items())]
