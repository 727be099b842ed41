"""The units of a wide layer as runs of equal ones: copies and null units."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from semiflat.records.shown import Shown

ONE = Fraction(1)


@dataclass(frozen=True)
class Copies(Shown):
    """A run of wide units: copies of unit ``source``, each with the share ``weight`` (λ).

    Attributes:
        source: the unit that they copy.
        weight: λ of each: its part of the outgoing weights.
        count: how many there are.
        scale: s of each: incoming weights ``s u``, outgoing weights ``(λ/s) ζ``; −1 mirrors.

    >>> import semiflat as sf
    >>> sf.Replicate(0, 0, ["1/4", "3/4"]).unit_map(sf.MLP([1, 1, 1])).layers[0][1]
    Copies(source=0, weight=3/4, count=1, scale=1)
    """

    source: int
    weight: Fraction
    count: int = 1
    scale: Fraction = ONE


@dataclass(frozen=True)
class Nulls(Shown):
    """A run of null units: incoming weights 0, bias ``bias``, outgoing weights 0 (Z22 Def. 4.3).

    Or of null gates of the unit before, in a limiting network (theory §9).

    Attributes:
        bias: α of each.
        count: how many there are.
        gate: whether they are null gates.

    >>> import semiflat as sf
    >>> sf.NullUnits(0, [0.5, 0.5, 2]).unit_map(sf.MLP([1, 1, 1])).nulls(0)
    [Nulls(bias=1/2, count=2, gate=False), Nulls(bias=2, count=1, gate=False)]
    """

    bias: Fraction
    count: int = 1
    gate: bool = False


LayerMap = tuple[Copies | Nulls, ...]
