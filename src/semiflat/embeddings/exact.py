"""Exact weights: a float stands for the decimal it prints as, and sums are checked without rounding."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from semiflat.errors import InputError, whole

Exact = int | float | str | Fraction | Decimal
"""A number given exactly; 0.3 stands for 3/10, "1/3" for a third."""

SMALLEST = 1e-300
"""Numbers closer to 0 lose digits, or their reciprocal overflows."""

DIGITS = 1000
"""Of a numerator or denominator at most: more say nothing that a float could hold, and take long to add up."""

_LONGEST = 2 * DIGITS + 2
_EXPONENT = re.compile(r"[eE]([+-]?[0-9_]+)$")

Run = tuple[Fraction, int]
"""A value and how many times in a row it stands."""


def fraction(given: Any, what: str = "weight") -> Fraction:
    """The rational number that ``given`` stands for.

    Raises:
        InputError: if it is not a finite number, or one of too many digits.

    >>> fraction(0.3), fraction("1/3"), fraction(2)
    (Fraction(3, 10), Fraction(1, 3), Fraction(2, 1))
    """
    if isinstance(given, Fraction):
        return short(given, what)
    try:
        if isinstance(given, bool):
            raise ValueError
        # str() of a NumPy scalar prints the shortest decimal of its own precision.
        text = str(given.detach().cpu().numpy()[()] if hasattr(given, "detach") else given)
        text = text.strip()
        power = _EXPONENT.search(text)
        # Before it is written out: 1e9999999 has ten million digits.
        if len(text) > _LONGEST or (power and not -DIGITS <= int(power[1]) <= DIGITS):
            raise _too_long(what, text)
        found = Fraction(text)
    except InputError:
        raise
    except (ValueError, ZeroDivisionError, TypeError, AttributeError, RuntimeError):
        raise InputError(
            f"{what} {given!r:.60} is not a finite number; give an int, a float, a Fraction, or a "
            'text such as "1/3"'
        ) from None
    return short(found, what)


def short(value: Fraction, what: str = "weight") -> Fraction:
    """``value``, if it fits floating point and is no quotient of numbers of more than ``DIGITS`` digits.

    Raises:
        InputError: if not.
    """
    _need_short(value, what)
    as_float(value, what)
    return value


def _need_short(value: Fraction, what: str) -> None:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > DIGITS * 10 / 3 + 4:
        raise _too_long(what, "")


def _too_long(what: str, text: str) -> InputError:
    shown = f" {text[:24]!r}{'…' * (len(text) > 24)}" if text else ""
    return InputError(
        f"{what}{shown} is too long a number; give a quotient of at most {DIGITS} digits each, from "
        f"{SMALLEST:g} to 1e308 in size, or 0"
    )


def as_float(value: Fraction, what: str = "weight") -> float:
    """The float nearest to an exact number.

    Raises:
        InputError: if it is too large or too small for one.
    """
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if math.isinf(found) or (value != 0 and abs(found) < SMALLEST):
        raise InputError(
            f"{what} {Decimal(value.numerator) / value.denominator:.3g} does not fit floating point; "
            f"use sizes from {SMALLEST:g} to 1e308, or 0"
        )
    return found


def runs(values: Iterable[Any], what: str = "weight") -> list[Run]:
    """``values`` as exact runs of equal ones, in order; a million equal weights are one run.

    >>> runs([0.5, 0.5, 0])
    [(Fraction(1, 2), 2), (Fraction(0, 1), 1)]
    """
    return [
        (fraction(value, what), sum(1 for _ in group)) for value, group in itertools.groupby(values)
    ]


def total(weights: Iterable[Run]) -> Fraction:
    """The exact sum.

    Raises:
        InputError: if the numbers have no common denominator of ``DIGITS`` digits.
    """
    found = Fraction(0)
    for value, count in weights:
        found += value * count
        _need_short(found, "the sum of the weights")  # their common denominator grows with each
    return found


def read_runs(entries: Any, what: str = "weight") -> list[Run]:
    """Runs as a file holds them: ``[["1/3", 3]]``.

    Raises:
        InputError: if a number is none, or a count no whole number from 1 up.
    """
    return [(fraction(value, what), whole("a count", count, 1)) for value, count in entries]


def show(value: Fraction) -> str:
    """A short exact text: a decimal where one of at most six digits exists, else ``p/q``.

    >>> show(Fraction(3, 10)), show(Fraction(1, 3))
    ('0.3', '1/3')
    """
    decimal = f"{float(value):.6g}"
    return decimal if Fraction(decimal) == value else str(value)


def show_runs(weights: Iterable[Run]) -> str:
    """``[0.3, 0.7]``, or ``[1/1000 × 1000]`` for long runs."""
    parts = []
    for value, count in weights:
        parts += [show(value)] * count if count <= 3 else [f"{show(value)} × {count}"]
    if len(parts) > 8:
        parts = [*parts[:6], f"… {len(parts) - 7} more …", parts[-1]]
    return f"[{', '.join(parts)}]"
