"""The matrices that decide what widening does to a unit: F, G, K and a layer's F∅ (theory §1).

They are made of the data's part of the risk alone: weight decay is not in them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.sweep import chunks, contract, outer, sweep
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class LayerBlocks(Shown):
    """The unit blocks of one hidden layer, H units wide, with D inputs and M units above it.

    Attributes:
        F: ``Σ_ν δ_{l+1} σ'(z_r) x̃ᵀ`` of each unit r, ``(*batch, H, M, D)``.
        G: ``Σ_ν (δ_{l+1}·ζ_r) σ''(z_r) x̃ x̃ᵀ`` of each unit r, ``(*batch, H, D, D)``.
        F_null: ``F∅ = Σ_ν δ_{l+1} x̃ᵀ``, ``(*batch, M, D)``.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([2, 3, 1]), [[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0])
    >>> blocks = sf.Point(problem, problem.net.random_params(seed=0)).evidence.layer(0)[0]
    >>> tuple(blocks.F.shape), tuple(blocks.G.shape), tuple(blocks.F_null.shape)  # D = 3 with the bias
    ((3, 1, 3), (3, 3, 3), (1, 3))
    """

    F: Tensor
    G: Tensor
    F_null: Tensor


@dataclass(frozen=True)
class UnitBlocks(Shown):
    """F (M × D), G (D × D) and ``K = [[0, F], [Fᵀ, G]]`` of one hidden unit (F19 Lemma 4).

    >>> import torch
    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> blocks = sf.unit_blocks(point, layer=0, unit=0)
    >>> tuple(blocks.F.shape), tuple(blocks.G.shape), tuple(blocks.K.shape)
    ((1, 2), (2, 2), (3, 3))
    >>> bool(torch.linalg.eigvalsh(blocks.G)[0] < 0)          # so one more copy makes a strict saddle
    True
    """

    F: Tensor
    G: Tensor

    @property
    def K(self) -> Tensor:
        """``[[0, F], [Fᵀ, G]]``, (M + D) square."""
        corner = self.F.new_zeros((*self.F.shape[:-1], self.F.shape[-2]))
        upper = torch.cat([corner, self.F], dim=-1)
        return torch.cat([upper, torch.cat([self.F.mT, self.G], dim=-1)], dim=-2)


def layer_blocks(problem: Problem, params: Params, layer: int) -> LayerBlocks:
    """F, G and F∅ of every unit in hidden ``layer``, for each network in the batch.

    Of ``mean_ν ℓ``, whatever the problem's weight decay; with one, ``Fᵀζ`` is ∂R/∂u less the decay's λu.
    """
    net = problem.net
    net.check_layer(layer)
    batch = net.check_params(params)
    units, above, fan = net.hidden[layer], net.widths[layer + 2], net.fan_in(layer)
    dtype = problem.dtype
    F = torch.zeros((*batch, above * units, fan), dtype=dtype)
    G = torch.zeros((*batch, units, fan * fan), dtype=dtype)
    F_null = torch.zeros((*batch, above, fan), dtype=dtype)
    per_sample = 8 * sum(net.widths) + above * units + fan * fan
    for part in chunks(problem.samples, per_sample * math.prod(batch)):
        s = sweep(problem, params, part)
        x, delta = s.inputs[layer], s.deltas[layer + 1]
        F += contract(outer(delta, s.first[layer]), x)
        G += contract(s.pulled[layer] * s.second[layer], outer(x, x))
        F_null += contract(delta, x)
    return LayerBlocks(
        F.unflatten(-2, (above, units)).transpose(-2, -3), G.unflatten(-1, (fan, fan)), F_null
    )
