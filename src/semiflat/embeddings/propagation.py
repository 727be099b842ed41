"""Inactive propagation: units that nothing listens to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from semiflat.embeddings.added import (
    columns_of,
    fitting,
    grouped,
    how_many,
    shown,
    unit_directions,
)
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import Condition, PointLike
from semiflat.embeddings.vectors import index, numbers
from semiflat.embeddings.widening import Widening
from semiflat.networks import MLP


class InactivePropagation(Embedding):
    """Add hidden units with any incoming weights that nothing listens to (F19 (III), Table 1).

    Their outgoing weights are 0. A critical point stays one where ``Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0``
    for every added unit, for example where every sample is fitted exactly (F19 §B).

    Args:
        layer: hidden layer, from 0.
        incoming: rows u_j with the bias last, (count, D).

    >>> InactivePropagation(layer=0, incoming=[[1.0, -2.0, 0.5]])
    InactivePropagation(layer=0, incoming=[[1.0, -2.0, 0.5]])
    """

    def __init__(self, layer: int, incoming: Any) -> None:
        self.layer = index(layer)
        self.incoming = numbers("incoming", incoming, 2)
        self.count = how_many(None, self.incoming, None)

    @property
    def preserves_criticality(self) -> Condition:
        """Where ``Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0`` for every added unit."""
        return self.critical_where("Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0 for every added unit")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the added units; :class:`InputError` if the rows do not fit."""
        net = widening.wide
        net.check_layer(self.layer)
        rows = fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        columns = columns_of(None, self.count, net.widths[self.layer + 2])
        return widening.with_added(self.layer, grouped(rows, columns, self.count))

    def own_dimension(self, net: MLP) -> int:
        """count·D: the incoming weights."""
        return self.count * net.fan_in(self.layer)

    def own_directions(self, point: PointLike) -> Tensor:
        """The incoming weights of the added units one by one, (count·D, P_wide)."""
        net = point.problem.net
        return unit_directions(
            net, self.on(net).wide, self.layer, self.count, rows=True, columns=False
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; the rows are lists of floats."""
        incoming = self.incoming.tolist()
        return [{"type": "InactivePropagation", "layer": self.layer, "incoming": incoming}]

    def __repr__(self) -> str:
        return shown(self)
