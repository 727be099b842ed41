"""What a composition of replications and null units did to each hidden layer, run by run.

Any sequence of the two, in any layers and on any units, copies and null units included, ends in a
wide network each unit of which either copies one narrow unit with some share λ of its outgoing
weights, or is a null unit. That is all a verdict or the wide parameters need; the order of the steps
is gone. Equal neighbours are kept as one run, so a layer of a million copies is one entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor

from semiflat.embeddings.exact import Run
from semiflat.networks import MLP, Params, bias_key, weight_key


@dataclass(frozen=True)
class Copies:
    """A run of wide units: copies of narrow unit ``source``, each with the share ``weight`` (λ)."""

    source: int
    weight: Fraction
    count: int = 1


@dataclass(frozen=True)
class Nulls:
    """A run of null units: incoming weights 0, bias ``bias``, outgoing weights 0 (Z22 Def. 4.3)."""

    bias: Fraction
    count: int = 1


LayerMap = tuple[Copies | Nulls, ...]


@dataclass(frozen=True)
class UnitMap:
    """The units of every hidden layer of a wide network, as runs over a narrow one's."""

    layers: tuple[LayerMap, ...]

    @classmethod
    def identity(cls, net: MLP) -> UnitMap:
        """Every unit copies itself with λ = 1."""
        one = Fraction(1)
        return cls(tuple(tuple(Copies(unit, one) for unit in range(width)) for width in net.hidden))

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the wide hidden layers."""
        return tuple(sum(run.count for run in layer) for layer in self.layers)

    def shares(self, layer: int, unit: int) -> list[Run]:
        """The λ of all copies of narrow ``unit``, as runs."""
        return [
            (run.weight, run.count)
            for run in self.layers[layer]
            if isinstance(run, Copies) and run.source == unit
        ]

    def nulls(self, layer: int) -> list[Nulls]:
        """The null units of a layer."""
        return [run for run in self.layers[layer] if isinstance(run, Nulls)]

    # -- building it step by step -----------------------------------------------------------------

    def replicated(self, layer: int, unit: int, weights: Sequence[Run]) -> UnitMap:
        """Wide unit ``unit`` replaced by copies: the first in its place, the rest at the end."""
        place, offset = self._locate(layer, unit)
        runs = list(self.layers[layer])
        run = runs[place]
        copies = [self._share(run, weight, count) for weight, count in weights]
        first, rest = copies[0], [replace(copies[0], count=copies[0].count - 1), *copies[1:]]
        around = [
            replace(run, count=offset),
            replace(first, count=1),
            replace(run, count=run.count - offset - 1),
        ]
        return self._with_layer(layer, [*runs[:place], *around, *runs[place + 1 :], *rest])

    def with_nulls(self, layer: int, biases: Sequence[Run]) -> UnitMap:
        """Null units added at the end of a layer."""
        added = [Nulls(bias, count) for bias, count in biases]
        return self._with_layer(layer, [*self.layers[layer], *added])

    @staticmethod
    def _share(run: Copies | Nulls, weight: Fraction, count: int) -> Copies | Nulls:
        # A copy of a null unit is a null unit: all its shares of the outgoing 0 are 0.
        if isinstance(run, Nulls):
            return replace(run, count=count)
        return Copies(run.source, run.weight * weight, count)

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

    # -- what it does to parameters, tangent vectors and gradients ---------------------------------

    def parameters(self, net: MLP, params: Params) -> Params:
        """The wide parameters ``Aθ + c``; batch axes are kept."""
        wide = {k: t.clone() if t is params[k] else t for k, t in self.tangent(net, params).items()}
        for layer, runs in enumerate(self.layers):
            if any(isinstance(run, Nulls) for run in runs) and net.biases[layer]:
                _, _, alpha = _arrays(runs, params[weight_key(layer)])
                wide[bias_key(layer)] = wide[bias_key(layer)] + alpha
        return wide

    def tangent(self, net: MLP, vector: Params) -> Params:
        """The linear part ``A v``: a direction at the narrow point as one at the wide point."""
        return self._spread(net, vector, shares_in=True)

    def gradient(self, net: MLP, gradient: Params) -> Params:
        """The wide gradient at the image of a point, from the narrow one.

        A copy's incoming weights see λ times the narrow gradient, and the input it hands on is the
        narrow unit's. A null unit's outgoing weights see σ(α) times the next bias's gradient.
        """
        wide = self._spread(net, gradient, shares_in=False)
        for layer, runs in enumerate(self.layers):
            if any(isinstance(run, Nulls) for run in runs):
                source, _, alpha = _arrays(runs, gradient[weight_key(layer)])
                constant = net.activations[layer].function(alpha) * (source < 0)
                key = weight_key(layer + 1)
                wide[key] = wide[key] + wide[bias_key(layer + 1)][..., None] * constant
        return wide

    def _spread(self, net: MLP, narrow: Params, shares_in: bool) -> Params:
        wide: Params = {}
        for layer in range(net.depth):
            weight = narrow[weight_key(layer)]
            bias = narrow.get(bias_key(layer))
            if layer > 0:
                source, share, _ = _arrays(self.layers[layer - 1], weight)
                weight = weight[..., source.clamp(min=0)]
                weight = weight * (share if shares_in else (source >= 0).to(weight.dtype))
            if layer < net.depth - 1:
                source, share, _ = _arrays(self.layers[layer], weight)
                factor = (source >= 0).to(weight.dtype) if shares_in else share
                weight = weight[..., source.clamp(min=0), :] * factor[:, None]
                bias = None if bias is None else bias[..., source.clamp(min=0)] * factor
            wide[weight_key(layer)] = weight
            if bias is not None:
                wide[bias_key(layer)] = bias
        return wide


def _arrays(runs: LayerMap, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each wide unit's source (−1 for a null unit), share λ (0) and null bias α (0)."""
    counts = torch.tensor([run.count for run in runs])
    source = torch.tensor([run.source if isinstance(run, Copies) else -1 for run in runs])
    share = [float(run.weight) if isinstance(run, Copies) else 0.0 for run in runs]
    alpha = [float(run.bias) if isinstance(run, Nulls) else 0.0 for run in runs]
    return (
        source.repeat_interleave(counts),
        torch.tensor(share, dtype=like.dtype).repeat_interleave(counts),
        torch.tensor(alpha, dtype=like.dtype).repeat_interleave(counts),
    )
