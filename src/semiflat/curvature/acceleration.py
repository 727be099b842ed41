"""How a straight path in the parameters bends in the outputs, pulled back to the parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.curvature.engine import on_engine
from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.sweep import chunks, contract, in_groups, pull_back, sweep
from semiflat.networks import Params, bias_key, weight_key
from semiflat.problem import Problem


def bending(problem: Problem, params: Params, direction: Params) -> Tensor:
    """``Σ_ν J_νᵀ ∂²(ℓ_ν/N)/∂f² f''_ν[v, v]`` for each network in the batch.

    The right-hand side of a path's geodesic acceleration (Transtrum & Sethna 2012): ``f''[v, v]`` is
    the second derivative of the outputs along ``v``, exact, by one forward pass that carries a path's
    first two derivatives.

    Args:
        params: parameters with any leading batch axes.
        direction: ``v``, shaped as the parameters.

    Returns:
        Shape ``(*batch, P)``, flat in the order of the dict.
    """
    found = on_engine(problem, params, "bending", direction)
    return (found or in_groups(problem, params, 12 * sum(problem.net.widths), _bending, direction))[
        0
    ]


def _bending(problem: Problem, params: Params, direction: Params) -> tuple[Tensor]:
    net = problem.net
    batch = net.check_params(params)
    parts = [
        torch.zeros((*batch, out, net.fan_in(layer)), dtype=problem.dtype)
        for layer, out in enumerate(net.widths[1:])
    ]
    for part in chunks(problem.samples, 12 * sum(net.widths) * math.prod(batch)):
        s = sweep(problem, params, part, curved=True)
        slope = bend = None  # of h along the path
        for layer, weight in enumerate(s.weights):
            moved = direction[weight_key(layer)]
            h = s.inputs[layer][..., : net.widths[layer], :]
            z_slope, z_bend = moved @ h, torch.zeros_like(s.deltas[layer])
            if slope is not None and bend is not None:
                z_slope = z_slope + weight @ slope
                z_bend = weight @ bend + 2 * (moved @ slope)
            if net.biases[layer]:
                z_slope = z_slope + direction[bias_key(layer)][..., None]
            if layer == net.depth - 1:
                break
            first, second = s.first[layer], s.second[layer]
            slope, bend = first * z_slope, first * z_bend + second * z_slope.square()
            cross = s.cross[layer]
            if cross is not None:
                other = cross.seen(z_slope)
                slope = slope + cross.slope * other
                bend = bend + cross.slope * cross.seen(z_bend)
                bend = bend + 2 * cross.mixed * z_slope * other + cross.twice * other.square()
        assert s.loss_second is not None
        delta = (s.loss_second * z_bend[..., None, :, :]).sum(-2)
        for layer in range(net.depth - 1, -1, -1):
            parts[layer] += contract(delta, s.inputs[layer])
            if layer:
                delta = pull_back(
                    s.weights[layer].mT @ delta, s.first[layer - 1], s.cross[layer - 1]
                )
    return (torch.cat([flat_rows(net, layer, rows) for layer, rows in enumerate(parts)], -1),)
