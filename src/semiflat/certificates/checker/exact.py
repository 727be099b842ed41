"""Exact numbers of a certificate as balls of radius 0: part of the checker."""

from __future__ import annotations

import math
import re
from fractions import Fraction

from semiflat.certificates.checker.arithmetic import arb, arb_mat


class Invalid(Exception):
    """The file is no certificate at all."""


def exact(text: str) -> float:
    """The number that a hexadecimal float stands for."""
    value = float.fromhex(text)
    if not math.isfinite(value):
        raise Invalid(f"{text!r} is not finite")
    return value


def number(text: str) -> arb:
    """The same as a ball of radius 0."""
    return arb(exact(text))


def rational(text: str) -> Fraction:
    """The number that a quotient of whole numbers stands for."""
    if not re.fullmatch(r"-?[0-9]{1,4000}(/[0-9]{1,4000})?", text):
        raise Invalid(f"{text[:40]!r} is no quotient of whole numbers")
    return Fraction(text)


def matrix(rows: list[list[str]], height: int, width: int) -> arb_mat:
    """A matrix of hexadecimal floats."""
    if len(rows) != height or any(len(row) != width for row in rows):
        raise Invalid(f"a matrix must be {height} × {width}")
    return arb_mat(height, width, [number(v) for row in rows for v in row])
