"""A network on its way to being reduced, and what one step does to a layer of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiflat.networks import MLP, Params, weight_key
from semiflat.unit_surgery import merged, with_layer

GIVEN = 8
"""How many rounding errors a weight may be off as it is given: a few operations made it."""

ROUNDING = 64
"""How many rounding errors of its terms a weight that was summed may be off.

A sum of n terms in any order is off by √n errors of its largest partial sum where they are random; 64
is that for a layer of 4096 units.
"""


@dataclass(frozen=True)
class State:
    """A network, and how exactly its parameters are known.

    Attributes:
        net: the architecture.
        params: float64.
        sizes: shaped like ``params``: the sum of the absolute values of the given parameters that each
            one is a sum of, which is what its rounding error scales with.
        origins: for each hidden layer and unit the units of the given network that it stands for.
        precision: relative rounding error that the entries may have, times ``sizes``.
    """

    net: MLP
    params: Params
    sizes: Params
    origins: tuple[tuple[tuple[int, ...], ...], ...]
    precision: float
    given_precision: float

    @classmethod
    def given(cls, net: MLP, params: Params) -> State:
        """The network as it was given; its dtype says how exactly."""
        eps = torch.finfo(next(iter(params.values())).dtype).eps
        exact = {key: tensor.detach().to(torch.float64).clone() for key, tensor in params.items()}
        origins = tuple(tuple((unit,) for unit in range(width)) for width in net.hidden)
        return cls(
            net, exact, {k: t.abs() for k, t in exact.items()}, origins, GIVEN * eps, GIVEN * eps
        )

    def is_zero(self, key: str) -> Tensor:
        """Which entries of a parameter are 0 to rounding."""
        return self.params[key].abs() <= self.precision * self.sizes[key]

    def rows(self, layer: int) -> tuple[Tensor, Tensor]:
        """Incoming weights, the bias last, of a layer's units, (n, D), and their sizes."""
        return self.net.layer(self.params, layer), self.net.layer(self.sizes, layer)

    def mixed(self, layer: int, mix: Tensor, back: Tensor) -> State:
        """The units of a linear layer mixed by M, its inverse given; see :class:`semiflat.Mix`."""
        above, found = weight_key(layer + 1), []
        for values, there, from_there in (
            (self.params, mix, back),
            (self.sizes, mix.abs(), back.abs()),
        ):
            rows = with_layer(self.net, values, layer, there @ self.net.layer(values, layer))
            found.append(rows | {above: values[above] @ from_there})
        params, sizes = found
        return replace(self, params=params, sizes=sizes, precision=self.summed)

    @property
    def summed(self) -> float:
        """The precision of what is summed from the entries."""
        return max(self.precision, ROUNDING / GIVEN * self.given_precision)


@dataclass(frozen=True)
class Plan:
    """What becomes of the n units of a hidden layer; k of them are left.

    Attributes:
        layer: the hidden layer.
        source: for each unit the new unit that it is a copy of, −1 if it is dropped, (n,).
        scale: its incoming weights over those of its source, (n,); below 0 it is mirrored.
        rows, row_sizes: incoming weights of the new units, (k, D), and their sizes.
        constant: what a dropped unit hands on, whose share goes to the bias above, (n,).
        dropped: the units dropped, by the way they come back.
        exact: whether the function stays the same but for rounding.
    """

    layer: int
    source: Tensor
    scale: Tensor
    rows: Tensor
    row_sizes: Tensor
    constant: Tensor
    dropped: dict[str, list[int]]
    exact: bool = True

    @property
    def kept(self) -> Tensor:
        """The units that are copies of a new one, in order."""
        return (self.source >= 0).nonzero().flatten()

    def members(self) -> list[list[int]]:
        """For each new unit those it stands for, in order."""
        found: list[list[int]] = [[] for _ in range(len(self.rows))]
        for unit, source in enumerate(self.source.tolist()):
            if source >= 0:
                found[source].append(unit)
        return found

    def apply(self, state: State) -> State:
        """The network with the layer so reduced."""
        layer, handed = self.layer, self.handed_on(state.net)
        hidden = list(state.net.hidden)
        hidden[layer] = len(self.rows)
        params, sizes = (
            merged(state.net, values, layer, rows, self.source, scale, constant)
            for values, rows, scale, constant in (
                (state.params, self.rows, self.scale, handed),
                (state.sizes, self.row_sizes, self.scale.abs(), handed.abs()),
            )
        )
        origins = list(state.origins)
        before = origins[layer]
        origins[layer] = tuple(
            before[members[0]]
            if len(members) == 1
            else tuple(sorted(unit for member in members for unit in before[member]))
            for members in self.members()
        )
        net = state.net.with_hidden(hidden)
        return replace(
            state,
            net=net,
            params=params,
            sizes=sizes,
            origins=tuple(origins),
            precision=state.summed,
        )

    def handed_on(self, net: MLP) -> Tensor:
        """The constants that each unit hands on besides a multiple of its source, (n,)."""
        kappa = net.activations[self.layer].reflection or 0.0
        mirrored = (self.source >= 0) & (self.scale < 0)
        return torch.where(mirrored, kappa, self.constant)
