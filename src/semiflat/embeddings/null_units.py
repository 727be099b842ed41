"""Null units: units that hand on a constant and are not listened to."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from torch import Tensor

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import PointLike
from semiflat.embeddings.exact import Exact, Run, read_runs, runs, show_runs
from semiflat.embeddings.unit_runs import Nulls
from semiflat.embeddings.vectors import index, rows_of
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError
from semiflat.networks import MLP, bias_key


class NullUnits(Embedding):
    """Add hidden units with incoming weights 0, the given biases and outgoing weights 0.

    They stand at the end of the layer. Maps critical points to critical points, because the next
    layer has a bias whose gradient is 0 there (Z22 Def. 4.3, Thm 4.1). With weight decay the gradient of the
    data at that bias b is −λb instead. A null unit then keeps them critical where σ(α) = 0, or that bias is not
    decayed (or is 0); and, in any case, where α is 0 or its own layer's bias is not decayed.

    Args:
        layer: hidden layer, from 0.
        biases: one bias α for each new unit, exact like the weights of ``Replicate``.

    Raises:
        InputError: if no bias is given, or one is not a finite number; and, once applied, if the
            layer above has no bias, or the layer itself has none and some α is not 0.

    >>> NullUnits(layer=0, biases=[0.4])
    NullUnits(layer=0, biases=[0.4])
    """

    def __init__(self, layer: int, biases: Iterable[Exact]) -> None:
        try:
            given = list(biases)
        except TypeError:
            given = []
        if not given:
            raise InputError(
                f"biases must be a list with one number for each new unit, not {biases!r}"
            )
        self.layer = index(layer)
        self.bias_runs: tuple[Run, ...] = tuple(runs(given, "bias"))

    @property
    def biases(self) -> list[Fraction]:
        """The α one by one."""
        return [bias for bias, count in self.bias_runs for _ in range(count)]

    @property
    def count(self) -> int:
        """How many units are added."""
        return sum(count for _, count in self.bias_runs)

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the null units.

        Raises:
            InputError: if the layer above has no bias, or a bias other than 0 is given where there is none.
        """
        net = widening.wide
        net.check_layer(self.layer)
        if not net.biases[self.layer + 1]:
            raise InputError(
                f"null units in hidden layer {self.layer} need a bias in linear layer "
                f"{self.layer + 1} above it, which this network does not have: without one a "
                "critical point would not stay critical. Use Replicate, or a network with biases"
            )
        if not net.biases[self.layer] and any(bias for bias, _ in self.bias_runs):
            raise InputError(
                f"linear layer {self.layer} has no bias, so a null unit's bias can only be 0; "
                f"given: {show_runs(self.bias_runs)}"
            )
        added = [Nulls(bias, count) for bias, count in self.bias_runs]
        return widening.with_units(widening.units.with_runs(self.layer, added))

    def own_dimension(self, net: MLP) -> int:
        """count, the biases; 0 where the layer has none."""
        return self.count if net.biases[self.layer] else 0

    def own_freedom(self, net: MLP) -> int:
        """The same as :meth:`own_dimension`: critical points stay critical for every bias."""
        return self.own_dimension(net)

    def own_directions(self, point: PointLike) -> Tensor:
        """The biases of the null units one by one, (count, P_wide)."""
        net = point.problem.net
        rows, parts = rows_of(self.on(net).wide, self.own_dimension(net))
        width = net.hidden[self.layer]
        for k in range(len(rows)):
            parts[bias_key(self.layer)][k, width + k] = 1
        return rows

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; biases are fractions as text, in runs of ``[bias, count]``."""
        biases = [[str(bias), count] for bias, count in self.bias_runs]
        return [{"type": "NullUnits", "layer": self.layer, "biases": biases}]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> NullUnits:
        """The inverse of :meth:`to_json`, for one step."""
        made = object.__new__(cls)
        made.layer = index(entry["layer"])
        made.bias_runs = tuple(read_runs(entry["biases"], "bias"))
        return made

    def __repr__(self) -> str:
        return f"NullUnits(layer={self.layer}, biases={show_runs(self.bias_runs)})"
