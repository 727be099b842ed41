"""Null gates: one more finite unit at a branch of a limiting network, which nothing shows yet."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.unit_runs import Nulls
from semiflat.embeddings.vectors import index
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole


class NullGates(Embedding):
    """Gates with incoming and outgoing weights 0 beside those of a unit of a limiting network.

    The branch then stands for so many finite units more. It keeps the function, and critical points
    critical; to the Hessian's signs it adds the rank of the unit's F to both counts (theory §9).

    Args:
        layer: hidden layer, from 0.
        unit: the plain unit, from 0.
        count: how many gates.

    >>> NullGates(layer=0, unit=2)
    NullGates(layer=0, unit=2, count=1)
    """

    def __init__(self, layer: int, unit: int, count: int = 1) -> None:
        self.layer, self.unit, self.count = index(layer), index(unit), whole("count", count, 1)

    def extend(self, widening: Widening) -> Widening:
        """The gates, right after those there are."""
        net = widening.wide
        branch = net.branch(self.layer, self.unit)
        if not hasattr(net, "forms"):
            raise InputError(
                "null gates are of a limiting network (run.limit.point), and this one is finite; use NullUnits"
            )
        if not bool(net.plain_units(self.layer)[self.unit]):
            raise InputError(
                f"unit {self.unit} of hidden layer {self.layer} is {net.forms[self.layer][self.unit]!s}, and "
                "gates are of plain units"
            )
        width, place = net.hidden[self.layer], branch[-1] + 1
        units = widening.units.with_runs(self.layer, [Nulls(Fraction(0), self.count, gate=True)])
        added = range(width, width + self.count)
        order = [*range(place), *added, *range(place, width)]
        return widening.with_units(units.permuted(self.layer, order))

    def to_json(self) -> list[dict[str, Any]]:
        """What :meth:`from_json` takes."""
        return [{"type": "NullGates", "layer": self.layer, "unit": self.unit, "count": self.count}]

    def __repr__(self) -> str:
        return f"NullGates(layer={self.layer}, unit={self.unit}, count={self.count})"
