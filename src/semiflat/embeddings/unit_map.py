"""What replications, null units and symmetries did to each hidden layer, run by run.

Any sequence of them, in any layers and on any units, copies and null units included, ends in a wide
network each unit of which either copies one unit with some share λ of its outgoing weights, scaled or
mirrored as the activation allows, or is a null unit. That is all a verdict or the wide parameters need;
the order of the steps is gone. Equal neighbours are kept as one run, so a layer of a million copies is
one entry.

A copy with share λ and scale s has incoming weights ``s u`` and outgoing weights ``(λ/s) ζ``. For s > 0
the activation is positively homogeneous and the copy hands on ``s σ(z)``; for s = −1 it has a reflection
σ(−z) = κ − σ(z), the copy hands on ``κ − σ(z)``, and the constant is taken off the bias above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property

import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.embeddings.affine import AffineMap, Entries, places
from semiflat.embeddings.exact import Run
from semiflat.embeddings.unit_axes import Axis, Factors, own, repeat, select
from semiflat.embeddings.unit_runs import ONE, Copies, LayerMap, Nulls
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class UnitMap(Shown):
    """The units of every hidden layer of a wide network, as runs over a narrow one's.

    Attributes:
        layers: for each hidden layer its runs, in order.

    >>> import semiflat as sf
    >>> wide = sf.Replicate(0, 1, ["1/4", "3/4"]) >> sf.NullUnits(0, [0.5])
    >>> units = wide.unit_map(sf.MLP([1, 2, 1]))
    >>> units.hidden, units.shares(0, 1), len(units.nulls(0))
    ((4,), [(Fraction(1, 4), 1), (Fraction(3, 4), 1)], 1)
    """

    layers: tuple[LayerMap, ...]

    @classmethod
    def identity(cls, net: MLP) -> UnitMap:
        """Every unit copies itself with λ = 1."""
        return cls(tuple(tuple(Copies(unit, ONE) for unit in range(width)) for width in net.hidden))

    @cached_property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the wide hidden layers."""
        return tuple(sum(run.count for run in layer) for layer in self.layers)

    @cached_property
    def scaled(self) -> bool:
        """Whether some copy is scaled or mirrored."""
        return any(
            isinstance(run, Copies) and run.scale != 1 for layer in self.layers for run in layer
        )

    def trivial(self, layer: int) -> bool:
        """Whether every unit of a layer is itself, in its place."""
        return all(run == Copies(unit, ONE) for unit, run in enumerate(self.layers[layer]))

    def shares(self, layer: int, unit: int) -> list[Run]:
        """The λ of all copies of ``unit``, as runs."""
        return [
            (run.weight, run.count)
            for run in self.layers[layer]
            if isinstance(run, Copies) and run.source == unit
        ]

    def nulls(self, layer: int) -> list[Nulls]:
        """The null units of a layer."""
        return [run for run in self.layers[layer] if isinstance(run, Nulls)]

    # -- building it step by step -----------------------------------------------------------------

    def replicated(
        self,
        layer: int,
        unit: int,
        weights: Sequence[Run],
        scales: Sequence[Fraction] | None = None,
    ) -> UnitMap:
        """Wide unit ``unit`` replaced by copies: the first in its place, the rest at the end."""
        factors = [ONE] * len(weights) if scales is None else scales
        place, offset = self._locate(layer, unit)
        runs = list(self.layers[layer])
        run = runs[place]
        copies = [
            self._copy(run, weight, count, scale)
            for (weight, count), scale in zip(weights, factors, strict=True)
        ]
        first, rest = copies[0], [replace(copies[0], count=copies[0].count - 1), *copies[1:]]
        around = [
            replace(run, count=offset),
            replace(first, count=1),
            replace(run, count=run.count - offset - 1),
        ]
        return self._with_layer(layer, [*runs[:place], *around, *runs[place + 1 :], *rest])

    def with_runs(self, layer: int, added: Sequence[Copies | Nulls]) -> UnitMap:
        """Units added at the end of a layer."""
        return self._with_layer(layer, [*self.layers[layer], *added])

    def split(
        self,
        layer: int,
        sources: Sequence[int],
        shares: Sequence[Fraction],
        scales: Sequence[Fraction],
    ) -> UnitMap:
        """A layer whose unit j is a copy of wide unit ``sources[j]``."""
        single = [replace(run, count=1) for run in self.layers[layer] for _ in range(run.count)]
        copies = [
            self._copy(single[source], share, 1, scale)
            for source, share, scale in zip(sources, shares, scales, strict=True)
        ]
        return self._with_layer(layer, copies)

    def permuted(self, layer: int, order: Sequence[int]) -> UnitMap:
        """The units of a layer in another order: the new unit k is the old ``order[k]``."""
        single = [replace(run, count=1) for run in self.layers[layer] for _ in range(run.count)]
        return self._with_layer(layer, [single[unit] for unit in order])

    def without(self, layer: int, sources: set[int]) -> UnitMap:
        """The copies of some units dropped, and the sources that are left numbered anew."""
        kept = [
            run
            for run in self.layers[layer]
            if not (isinstance(run, Copies) and run.source in sources)
        ]
        moved = [
            replace(run, source=run.source - sum(unit < run.source for unit in sources))
            if isinstance(run, Copies)
            else run
            for run in kept
        ]
        return self._with_layer(layer, moved)

    @staticmethod
    def _copy(run: Copies | Nulls, weight: Fraction, count: int, scale: Fraction) -> Copies | Nulls:
        # A copy of a null unit is a null unit: all its shares of the outgoing 0 are 0.
        if isinstance(run, Nulls):
            return Nulls(run.bias * scale, count)
        return Copies(run.source, run.weight * weight, count, run.scale * scale)

    def _locate(self, layer: int, unit: int) -> tuple[int, int]:
        for place, run in enumerate(self.layers[layer]):
            if unit < run.count:
                return place, unit
            unit -= run.count
        raise AssertionError("the caller has checked the unit against the wide network")

    def _with_layer(self, layer: int, runs: Sequence[Copies | Nulls]) -> UnitMap:
        merged: list[Copies | Nulls] = []
        for run in runs:
            if run.count == 0:
                continue
            if merged and replace(merged[-1], count=1) == replace(run, count=1):
                run = replace(run, count=run.count + merged.pop().count)
            merged.append(run)
        layers = list(self.layers)
        layers[layer] = tuple(merged)
        return UnitMap(tuple(layers))

    def condensed(self) -> UnitMap:
        """The same runs, each with a single unit: enough wherever only the largest entry counts."""
        return UnitMap(
            tuple(tuple(replace(run, count=1) for run in layer) for layer in self.layers)
        )

    def unscaled(self) -> UnitMap:
        """The same copies, none of them scaled or mirrored."""
        return UnitMap(
            tuple(
                tuple(replace(run, scale=ONE) if isinstance(run, Copies) else run for run in layer)
                for layer in self.layers
            )
        )

    # -- what it does to parameters, tangent vectors and gradients ---------------------------------

    def parameters(self, net: MLP, params: Params) -> Params:
        """The wide parameters ``Aθ + c``; batch axes are kept."""
        wide = self._spread(net, params, _scales, Axis.tangent_columns)
        for layer, runs in enumerate(self.layers):
            if any(isinstance(run, Nulls) for run in runs) and net.biases[layer]:
                axis = self._axis(net, layer, params[weight_key(layer)].dtype)
                wide[bias_key(layer)] += repeat(axis.alpha, -1, axis.counts)
        return wide

    def tangent(self, net: MLP, vector: Params, out: Params | None = None) -> Params:
        """The linear part ``A v``: a direction at the narrow point as one at the wide point.

        Args:
            out: tensors to write it to.
        """
        return self._spread(net, vector, _scales, Axis.tangent_columns, out)

    def gradient(self, net: MLP, gradient: Params) -> Params:
        """The wide gradient at the image of a point, from the narrow one.

        A copy's incoming weights see ``λ/s`` times the narrow gradient, and what it hands on is
        ``s σ(z)`` or ``κ − σ(z)``. A null unit's outgoing weights see σ(α) times the next bias's
        gradient.
        """
        return self._spread(net, gradient, Axis.shares_out, Axis.gradient_columns)

    def adjoint(self, net: MLP, covector: Params) -> Params:
        """``Aᵀ g``: what a covector at the wide point says of the narrow parameters."""
        narrow: Params = {}
        for layer in range(net.depth):
            weight = covector[weight_key(layer)]
            bias = covector.get(bias_key(layer))
            if layer < net.depth - 1:
                axis = self._axis(net, layer, weight.dtype)
                weight = axis.collect(weight, -2, axis.tangent_rows(), net.widths[layer + 1])
                if bias is not None:
                    bias = axis.collect(bias, -1, axis.tangent_rows(), net.widths[layer + 1])
            if layer > 0:
                below = self._axis(net, layer - 1, weight.dtype)
                weight = below.collect(weight, -1, below.shares_out(), net.widths[layer])
                if bias is not None and below.constants.any():
                    weight = weight - bias[..., None] * below.shift(net.widths[layer])
            narrow[weight_key(layer)] = weight
            if bias is not None:
                narrow[bias_key(layer)] = bias
        return narrow

    def rescaled(self, net: MLP, wide: Params) -> Params:
        """The wide vector of copies without scales, as one of the copies with them."""
        out = dict(wide)
        for layer in range(len(self.layers)):
            dtype = wide[weight_key(layer)].dtype
            axis = self._axis(net, layer, dtype)
            scale = repeat(torch.where(axis.source < 0, 1.0, axis.scale), -1, axis.counts)
            constant = repeat(torch.where(axis.source < 0, 0.0, axis.constants), -1, axis.counts)
            out[weight_key(layer)] = out[weight_key(layer)] * scale[:, None]
            if net.biases[layer]:
                out[bias_key(layer)] = out[bias_key(layer)] * scale
            above = out[weight_key(layer + 1)] / scale
            out[weight_key(layer + 1)] = above
            if bool(constant.any()):
                out[bias_key(layer + 1)] = out[bias_key(layer + 1)] - above @ constant
        return out

    def affine(self, net: MLP) -> AffineMap:
        """The whole map with its sparse matrix."""
        wide_net = net.of_units(self.layers)
        entries = Entries(net, wide_net)
        here, there = places(net), places(wide_net)
        for layer in range(net.depth):
            rows = Factors.outside(net.outputs)
            if layer < net.depth - 1:
                rows = Factors.of(self._axis(net, layer, torch.float64))
            columns = Factors.outside(net.inputs)
            if layer > 0:
                columns = Factors.of(self._axis(net, layer - 1, torch.float64))
            weights = here[weight_key(layer)][rows.source[:, None], columns.source]
            values = rows.incoming[:, None] * columns.outgoing
            entries.add(there[weight_key(layer)], weights, values)
            if net.biases[layer]:
                biases = there[bias_key(layer)]
                entries.add(biases, here[bias_key(layer)][rows.source], rows.incoming)
                lost = -rows.incoming[:, None] * (columns.outgoing * columns.constants)
                entries.add(biases[:, None], weights, lost)
                entries.c[biases] = rows.alpha
        return entries.build()

    def _axis(self, net: MLP, layer: int, dtype: torch.dtype) -> Axis:
        """A layer's runs as tensors, made once: a million runs take a second."""
        key = layer, net.activations[layer], dtype
        if key not in self._axes:
            self._axes[key] = Axis.of(self.layers[layer], net, layer, dtype)
        return self._axes[key]

    @cached_property
    def _axes(self) -> dict[tuple[int, Activation, torch.dtype], Axis]:
        return {}

    def _spread(
        self,
        net: MLP,
        narrow: Params,
        rows: Callable[[Axis], Tensor | None],
        columns: Callable[[Axis, Tensor, Tensor | None], tuple[Tensor, Tensor | None]],
        out: Params | None = None,
    ) -> Params:
        wide: Params = {}
        into: Params = out or {}
        for layer in range(net.depth):
            weight, bias = narrow[weight_key(layer)], narrow.get(bias_key(layer))
            below = above = None
            if layer > 0:
                below = self._axis(net, layer - 1, weight.dtype)
                weight, bias = columns(below, weight, bias)
            target, target_bias = into.get(weight_key(layer)), into.get(bias_key(layer))
            if layer < net.depth - 1:
                above = self._axis(net, layer, weight.dtype)
                factor = rows(above)
                direct = target if below is None else None
                weight = select(weight, -2, above.index, factor, direct)
                if bias is not None:
                    bias = select(bias, -1, above.index, factor, target_bias)
            # Everything so far has one entry a run; each array is written at its full size once.
            if below is not None:
                weight = repeat(weight, -1, below.counts, target if above is None else None)
            if above is not None:
                weight = repeat(weight, -2, above.counts, target)
                if bias is not None:
                    bias = repeat(bias, -1, above.counts, target_bias)
            wide[weight_key(layer)] = own(weight, narrow, target)
            if bias is not None:
                wide[bias_key(layer)] = own(bias, narrow, target_bias)
        return wide


def _scales(axis: Axis) -> Tensor | None:
    return None if axis.plain else axis.tangent_rows()
