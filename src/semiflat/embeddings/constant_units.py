"""Constant units: their constant is taken back by the bias above."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiflat.embeddings.added import (
    columns_of,
    shown,
)
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import Condition, PointLike
from semiflat.embeddings.vectors import index, numbers, rows_of
from semiflat.embeddings.widening import AddedUnit, Widening
from semiflat.errors import InputError
from semiflat.networks import MLP, bias_key, weight_key


class ConstantUnits(Embedding):
    """Add hidden units with incoming weights 0, whose constant the bias above takes back.

    Unit j hands on σ(α_j) whatever the input; with outgoing weights v_j the bias above becomes
    ``b − Σ_j σ(α_j) v_j``. For activations without a zero this stands in for inactive units. A
    critical point stays one where ``σ'(α_j) F∅ᵀ v_j = 0`` (cf. Z22 Cond. 2, F19 §B).

    Args:
        layer: hidden layer, from 0.
        biases: the α_j.
        outgoing: the v_j, (count, M).

    Raises:
        InputError: once applied, if the layer or the one above it has no bias.

    >>> ConstantUnits(layer=0, biases=[0.5], outgoing=[[1.0]])
    ConstantUnits(layer=0, biases=[0.5], outgoing=[[1.0]])
    """

    def __init__(self, layer: int, biases: Any, outgoing: Any) -> None:
        self.layer = index(layer)
        self.biases = numbers("biases", biases, 1)
        self.outgoing = numbers("outgoing", outgoing, 2)
        self.count = len(self.biases)
        if self.count == 0 or len(self.outgoing) != self.count:
            raise InputError(
                f"{self.count} biases and {len(self.outgoing)} rows of outgoing weights were given; "
                "give one of each for every added unit, at least one"
            )

    @property
    def preserves_criticality(self) -> bool | Condition:
        """``True`` without outgoing weights; else where ``σ'(α_j) F∅ᵀ v_j = 0`` for every added unit."""
        if not self.outgoing.any():
            return True
        return self.critical_where("σ'(α_j) F∅ᵀ v_j = 0 for every added unit")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the added units.

        Raises:
            InputError: if the layer or the one above it has no bias.
        """
        net = widening.wide
        net.check_layer(self.layer)
        for layer in (self.layer, self.layer + 1):
            if not net.biases[layer]:
                raise InputError(
                    f"constant units in hidden layer {self.layer} need biases in linear layers "
                    f"{self.layer} and {self.layer + 1}, and layer {layer} has none; use Replicate, "
                    "or a network with biases"
                )
        columns = columns_of(self.outgoing, self.count, net.widths[self.layer + 2])
        values = net.activations[self.layer].function(self.biases)
        rows = torch.zeros((self.count, net.fan_in(self.layer)), dtype=torch.float64)
        rows[:, -1] = self.biases
        added = [
            AddedUnit(row, column, float(value))
            for row, column, value in zip(rows, columns, values, strict=True)
        ]
        return widening.with_added(self.layer, added)

    def own_dimension(self, net: MLP) -> int:
        """count·(1 + M): each unit's bias, and its outgoing weights against the bias above."""
        return self.count * (1 + net.widths[self.layer + 2])

    def own_freedom(self, net: MLP) -> int:
        """count, the biases, if the outgoing weights are 0; else 0."""
        return 0 if self.outgoing.any() else self.count

    def own_directions(self, point: PointLike) -> Tensor:
        """Outgoing weights, and biases, each against the bias above."""
        net = point.problem.net
        wide, above = self.on(net).wide, net.widths[self.layer + 2]
        values, slopes, _ = net.activations[self.layer].derivatives(self.biases)
        rows, parts = rows_of(wide, self.own_dimension(net))
        column, lost = parts[weight_key(self.layer + 1)], parts[bias_key(self.layer + 1)]
        start = net.hidden[self.layer]
        for k in range(self.count):
            at = k * (above + 1)
            unit_vectors = torch.eye(above, dtype=torch.float64)
            column[at : at + above, :, start + k] = unit_vectors
            lost[at : at + above] = -values[k] * unit_vectors
            parts[bias_key(self.layer)][at + above, start + k] = 1
            lost[at + above] = -slopes[k] * self.outgoing[k]
        return rows

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; biases and weights are lists of floats."""
        return [
            {
                "type": "ConstantUnits",
                "layer": self.layer,
                "biases": self.biases.tolist(),
                "outgoing": self.outgoing.tolist(),
            }
        ]

    def __repr__(self) -> str:
        return shown(self)
