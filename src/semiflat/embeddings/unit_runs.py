"""The units of a wide layer as runs of equal ones: copies and null units."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

ONE = Fraction(1)


@dataclass(frozen=True)
class Copies:
    """A run of wide units: copies of unit ``source``, each with the share ``weight`` (λ)."""

    source: int
    weight: Fraction
    count: int = 1
    scale: Fraction = ONE


@dataclass(frozen=True)
class Nulls:
    """A run of null units: incoming weights 0, bias ``bias``, outgoing weights 0 (Z22 Def. 4.3).

    Or of null gates of the unit before, in a limiting network (theory §9).
    """

    bias: Fraction
    count: int = 1
    gate: bool = False


LayerMap = tuple[Copies | Nulls, ...]
