"""Numbers as people read them. What is missing is a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence

from semiflat.plots.drawing import size as size

NONE = "–"


def loss(value: float | None) -> str:
    """Six digits, also where the last are zeros.

    >>> loss(0.1973307077707846), loss(0.5), loss(None)
    ('0.197331', '0.500000', '–')
    """
    return NONE if value is None else f"{value:#.6g}"


def times(value: float | None) -> str:
    """How many times the noise floor, as a power of ten or a small number.

    >>> times(9492347.2), times(3.4)
    ('9e6', '3.4')
    """
    if value is None:
        return NONE
    return size(value, 1) if value >= 100 else size(value, 2)


def signs(value: Sequence[int] | None) -> str:
    """Counts of positive, zero and negative eigenvalues.

    >>> signs([45, 1, 3]), signs(None)
    ('45 / 1 / 3', '–')
    """
    return " / ".join(map(str, value)) if value else NONE


def widths(value: Sequence[int]) -> str:
    """Widths of the layers.

    >>> widths([10, 3, 1])
    '10-3-1'
    """
    return "-".join(map(str, value)) or NONE


def change(before: float | None, after: float | None) -> str:
    """By how many percent a loss changed, never rounded to all of it; as a factor if it grew tenfold.

    >>> change(0.2, 0.15), change(0.2, None), change(1.09, 0.0014987), change(1.0, 1e-9), change(1.0, 25.0)
    ('−25 %', '–', '−99.86 %', 'over −99.99 %', '25 times')
    >>> change(1.0, 2.5), change(0.5, 0.5), change(1.0, 0.0)
    ('+150 %', '0 %', '−100 %')
    """
    if before is None or after is None or before == 0:
        return NONE
    if before > 0 and after >= 10 * before:
        return f"{size(after / before)} times"
    if before > 0 and 0 < after < 1e-4 * before:
        return "over −99.99 %"
    percent = 100 * (after - before) / abs(before)
    rest = 100 - abs(percent)
    text = f"{percent:+.2g}"
    if abs(percent) > 99:
        # What is left of it in two digits, cut off so that it is not rounded to nothing.
        digits = max(0, 1 - math.floor(math.log10(rest))) if percent < 0 < rest < 1 else 0
        text = f"{percent:+.{digits}f}"
    return f"{'0' if not percent else text} %".replace("-", "−")


def count(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts.

    >>> count(1, "run"), count(3, "run"), count(2, "minimum", "minima")
    ('1 run', '3 runs', '2 minima')
    """
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(parts: Sequence[str]) -> str:
    """As a list is spoken.

    >>> listed(["a", "b", "c"]), listed(["a"]), listed([])
    ('a, b and c', 'a', '')
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
