"""What an embedding makes of one network: first units with constants of their own, then copies.

The wide network is reached in two stages. The *core* is the narrow network with whatever cannot be
written as copies: units with incoming or outgoing weights of their own, and general compatible maps. It
is an affine map with a sparse matrix, small as long as the units added are few kinds. The *units* of the
wide network are then copies of the core's units and null units, kept as runs, however many they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import overload

import numpy as np
import scipy  # which imports its parts where they are first used
import torch
from torch import Tensor

from semiflat.embeddings.affine import AffineMap, Entries, places
from semiflat.embeddings.unit_map import UnitMap
from semiflat.embeddings.unit_runs import Copies
from semiflat.embeddings.vectors import zeros
from semiflat.errors import InputError
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class AddedUnit(Shown):
    """A hidden unit with weights of its own, and how many of it stand side by side.

    Attributes:
        row: incoming weights and, where the layer has one, the bias, (D,).
        column: outgoing weights of one of them, (M,).
        hands_on: the constant that is taken off the bias above, times ``column``; 0 if the unit is
            not constant.
        count: how many there are.

    >>> import torch
    >>> import semiflat as sf
    >>> net = sf.MLP([2, 1, 1])
    >>> unheard = sf.AddedUnit(torch.tensor([0.3, -0.2, 0.1]), torch.zeros(1), count=5)
    >>> wide = sf.Widening.identity(net).with_added(0, [unheard])
    >>> wide.wide.widths, wide.parameters(net.random_params(seed=0))["0.weight"][-1].tolist()
    ((2, 6, 1), [0.3..., -0.2...])
    """

    row: Tensor
    column: Tensor
    hands_on: float = 0.0
    count: int = 1


@dataclass(frozen=True, eq=False)
class Widening(Shown):
    """An embedding applied to one network: ``θ_wide = A θ + c``.

    Attributes:
        net: the narrow network.
        core: the map to the core network; None where the core is the narrow network itself.
        units: the wide network's units over the core's.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> embedding = sf.Replicate(0, 0, [0.3, 0.7])
    >>> widening = embedding.on(problem.net)
    >>> widening.wide.widths, tuple(widening.lift(torch.ones(7)).shape)
    ((1, 3, 1), (10,))
    >>> torch.allclose(widening.restrict(sf.gradient(embedding(point))), sf.gradient(point))
    True
    """

    net: MLP
    core: AffineMap | None
    units: UnitMap

    @classmethod
    def identity(cls, net: MLP) -> Widening:
        """The map that changes nothing."""
        return cls(net, None, UnitMap.identity(net))

    @property
    def core_net(self) -> MLP:
        """The core's architecture."""
        return self.net if self.core is None else self.core.wide

    @cached_property
    def wide(self) -> MLP:
        """The wide architecture."""
        return self.net.of_units(self.units.layers)

    # -- building it ------------------------------------------------------------------------------

    def with_units(self, units: UnitMap) -> Widening:
        """The same core with other copies."""
        return Widening(self.net, self.core, units)

    def followed_by(self, step: AffineMap) -> Widening:
        """This map followed by any affine one, which becomes part of the core."""
        return Widening(self.net, self.matrix().then(step), UnitMap.identity(step.wide))

    def with_added(self, layer: int, added: Sequence[AddedUnit]) -> Widening:
        """Units with weights of their own at the end of a hidden layer.

        Rows and columns are those of the wide network so far. The copies made so far stay copies
        where the layers below and above have none, or the weights to them are 0.
        """
        below = layer == 0 or self.units.trivial(layer - 1)
        above = layer + 1 == len(self.net.hidden) or self.units.trivial(layer + 1)
        width, bias = self.wide.widths[layer], self.wide.biases[layer]
        if not (below or all(not unit.row[:width].any() for unit in added)) or not (
            above or all(not unit.column.any() for unit in added)
        ):
            whole = Widening(self.net, self.matrix(), UnitMap.identity(self.wide))
            return whole.with_added(layer, added)
        core_net = self.core_net
        if not below:
            zeros = torch.zeros(core_net.widths[layer], dtype=torch.float64)
            rows = [torch.cat([zeros, unit.row[width:]]) if bias else zeros for unit in added]
        else:
            rows = [unit.row for unit in added]
        blank = torch.zeros(core_net.widths[layer + 2], dtype=torch.float64)
        columns = [unit.column if above else blank for unit in added]
        # Equal units are one unit of the core with all their outgoing weights, copied.
        one = [
            AddedUnit(row, column * float(unit.count), unit.hands_on)
            for row, column, unit in zip(rows, columns, added, strict=True)
        ]
        step = _injection(core_net, layer, one)
        core = step if self.core is None else self.core.then(step)
        start = core_net.widths[layer + 1]
        copies = [
            Copies(start + k, Fraction(1, unit.count), unit.count) for k, unit in enumerate(added)
        ]
        return Widening(self.net, core, self.units.with_runs(layer, copies))

    # -- what it does -----------------------------------------------------------------------------

    def parameters(self, params: Params) -> Params:
        """``A θ + c``; batch axes are kept."""
        core = params if self.core is None else self.core.parameters(params)
        return self.units.parameters(self.core_net, core)

    @overload
    def lift(self, vector: Tensor) -> Tensor: ...
    @overload
    def lift(self, vector: Params) -> Params: ...
    def lift(self, vector: Tensor | Params) -> Tensor | Params:
        """``A v``: a direction at the narrow point as one at the wide point.

        Args:
            vector: flat, ``(*batch, P_narrow)``, or shaped like the parameters; so is the result.
        """
        if not isinstance(vector, Tensor):
            self.net.check_params(_parameters(vector))
            return self._lift(vector, None)
        _flat(vector, self.net)
        size = self.wide.parameter_count
        flat = torch.empty((*vector.shape[:-1], size), dtype=vector.dtype)
        self._lift(self.net.unflatten(vector), self.wide.unflatten(flat))
        return flat

    def _lift(self, vector: Params, out: Params | None) -> Params:
        core = vector if self.core is None else self.core.tangent(vector)
        return self.units.tangent(self.core_net, core, out)

    @overload
    def restrict(self, vector: Tensor) -> Tensor: ...
    @overload
    def restrict(self, vector: Params) -> Params: ...
    def restrict(self, vector: Tensor | Params) -> Tensor | Params:
        """``Aᵀ g``: what a covector, such as the wide gradient, says of the narrow parameters.

        The gradient of the wide risk goes to that of the narrow one, and ``restrict(H_w lift(v))``
        is ``H_n v``.

        Args:
            vector: flat, ``(*batch, P_wide)``, or shaped like the parameters; so is the result.
        """
        if isinstance(vector, Tensor):
            _flat(vector, self.wide)
            return self.net.flatten(self.restrict(self.wide.unflatten(vector)))
        self.wide.check_params(_parameters(vector))
        core = self.units.adjoint(self.core_net, vector)
        return core if self.core is None else self.core.adjoint(core)

    def matrix(self) -> AffineMap:
        """The whole map with its sparse matrix ``A`` and constants ``c``."""
        copies = self.units.affine(self.core_net)
        return copies if self.core is None else self.core.then(copies)


def _parameters(vector: object) -> Params:
    if not isinstance(vector, dict):
        raise InputError(
            f"a vector is a flat tensor, (*batch, P), or a dict like the parameters, not "
            f"{type(vector).__name__}"
        )
    return vector


def _flat(vector: Tensor, net: MLP) -> None:
    if not vector.is_floating_point():
        raise InputError(f"a vector must be of a floating-point type, not {vector.dtype}")
    if vector.ndim == 0 or vector.shape[-1] != net.parameter_count:
        raise InputError(
            f"a vector of shape {tuple(vector.shape)} does not fit widths {list(net.widths)}; its last "
            f"axis must have their {net.parameter_count} parameters"
        )


def with_offsets(
    widening: Widening,
    layer: int,
    places: Sequence[int],
    offsets: Tensor,
    lost: Tensor | None = None,
) -> Widening:
    """Constants added to the outgoing weights of some units, and ``lost`` taken off the bias above.

    Args:
        offsets: (len(places), M).

    Raises:
        InputError: if M is not the width of the layer above.
    """
    net = widening.wide
    if offsets.shape[1] != net.widths[layer + 2]:
        raise InputError(
            f"offsets have {offsets.shape[1]} entries each, but the layer above hidden layer {layer} "
            f"has width {net.widths[layer + 2]}"
        )
    shift = zeros(net)
    shift[weight_key(layer + 1)][:, places] = offsets.mT
    if lost is not None:
        shift[bias_key(layer + 1)] -= lost
    plain = AffineMap.identity(net)
    return widening.followed_by(AffineMap(net, net, plain.A, net.flatten(shift).numpy()))


def _injection(net: MLP, layer: int, added: Sequence[AddedUnit]) -> AffineMap:
    """The map that keeps every parameter and adds units at the end of a hidden layer."""
    hidden = list(net.hidden)
    old = hidden[layer]
    hidden[layer] += len(added)
    wide = net.with_hidden(hidden)
    entries = Entries(net, wide)
    here, there = places(net), places(wide)
    for key, numbers in here.items():
        corner = tuple(slice(0, size) for size in numbers.shape)
        entries.add(there[key][corner], numbers, np.ones(1))
    width = net.widths[layer]
    for k, unit in enumerate(added, start=old):
        entries.c[there[weight_key(layer)][k]] = unit.row[:width].numpy()
        if net.biases[layer]:
            entries.c[there[bias_key(layer)][k]] = float(unit.row[width])
        entries.c[there[weight_key(layer + 1)][:, k]] = unit.column.numpy()
        if unit.hands_on:
            lost = unit.hands_on * unit.column.numpy()
            entries.c[there[bias_key(layer + 1)]] -= lost
    built = entries.build()
    return AffineMap(net, wide, scipy.sparse.csr_array(built.A), built.c)
