"""Products of the Hessian with directions, in closed form: the Hessian is never built.

A direction v moves every quantity of the two passes to first order. One more pass up carries what it
does to ``z_l`` and ``h_l``, one more down what it does to ``δ_l``; the rows of ``H v`` are then

    d(Σ_ν δ_l h̃_{l-1}ᵀ) = Σ_ν (dδ_l h̃_{l-1}ᵀ + δ_l dh̃_{l-1}ᵀ)     (Pearlmutter 1994).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.sweep import Sweep, chunks, contract, pull_back, sweep
from semiflat.networks import Params, bias_key, weight_key
from semiflat.problem import Problem

KEPT_BYTES = 2**29
"""Sweeps that take no more are kept from one product to the next: a product then costs a quarter."""


class HessianProducts:
    """``∇²R v`` at fixed parameters.

    Args:
        params: with any leading batch axes.
    """

    def __init__(self, problem: Problem, params: Params) -> None:
        self.problem, self.params = problem, params
        net = problem.net
        self.batch = net.check_params(params)
        self._floats = _floats_per_sample(problem) * math.prod(self.batch)
        self._parts = list(chunks(problem.samples, self._floats))
        keep = 8 * _kept_floats(problem) * math.prod(self.batch) * problem.samples <= KEPT_BYTES
        self._kept = [self._sweep(part) for part in self._parts] if keep else None

    def sweeps(self) -> Iterator[Sweep]:
        """The sweeps over all samples, in parts."""
        yield from self._kept or (self._sweep(part) for part in self._parts)

    def _sweep(self, part: slice) -> Sweep:
        return sweep(self.problem, self.params, part, curved=True)

    def times(self, directions: Tensor) -> Tensor:
        """``H v`` for directions ``(*more, *batch, P)``, in the same shape."""
        net, problem = self.problem.net, self.problem
        moved = net.unflatten(directions)
        leading = directions.shape[:-1]
        rows = [
            directions.new_zeros((*leading, out, net.fan_in(layer)))
            for layer, out in enumerate(net.widths[1:])
        ]
        times = math.prod(leading) // max(1, math.prod(self.batch))
        for k, part in enumerate(self._parts):
            if times > 1:  # several directions at a place: the sweep is taken in smaller pieces
                for piece in chunks(part.stop - part.start, self._floats * times):
                    at = slice(part.start + piece.start, part.start + piece.stop)
                    _add_products(problem, self._sweep(at), moved, rows)
            else:
                s = self._sweep(part) if self._kept is None else self._kept[k]
                _add_products(problem, s, moved, rows)
        found = torch.cat([flat_rows(net, layer, each) for layer, each in enumerate(rows)], -1)
        return found + problem.decays * directions if problem.decay else found


def hessian_products(problem: Problem, params: Params, directions: Tensor) -> Tensor:
    """``∇²R v`` for directions ``(*more, *batch, P)``, in the same shape."""
    return HessianProducts(problem, params).times(directions)


def _floats_per_sample(problem: Problem) -> int:
    return 12 * sum(problem.net.widths) + 2 * problem.net.outputs**2


def _kept_floats(problem: Problem) -> int:
    """What a sweep keeps of a sample: inputs of layers, and up to six numbers a unit."""
    net = problem.net
    fed = sum(net.fan_in(layer) for layer in range(net.depth))
    return fed + 6 * sum(net.widths[1:]) + net.outputs**2


def _add_products(problem: Problem, s: Sweep, moved: Params, rows: list[Tensor]) -> None:
    """Add what a sweep's samples give of each layer's rows of ``H v``, in place."""
    net = problem.net
    z_slopes: list[Tensor] = []
    h_slopes: list[Tensor] = []
    for layer, weight in enumerate(s.weights):
        own = moved[weight_key(layer)]
        z_slope = own @ s.inputs[layer][..., : net.widths[layer], :]
        if layer:
            z_slope += weight @ h_slopes[-1]
        if net.biases[layer]:
            z_slope += moved[bias_key(layer)][..., None]
        z_slopes.append(z_slope)
        if layer < net.depth - 1:
            cross = s.cross[layer]
            h_slopes.append(s.first[layer] * z_slope)
            if cross is not None:
                h_slopes[-1] += cross.slope * cross.seen(z_slope)
    assert s.loss_second is not None
    turn = (s.loss_second * z_slopes[-1][..., None, :, :]).sum(-2)
    for layer in range(net.depth - 1, -1, -1):
        rows[layer] += contract(turn, s.inputs[layer])
        if not layer:
            break
        rows[layer][..., : net.widths[layer]] += s.deltas[layer] @ h_slopes[layer - 1].mT
        below = layer - 1
        pull = s.weights[layer].mT @ turn + moved[weight_key(layer)].mT @ s.deltas[layer]
        turn = pull_back(pull, s.first[below], s.cross[below])
        turn += s.pulled[below] * s.second[below] * z_slopes[below]
        cross = s.cross[below]
        if cross is not None:
            mixed, seen = s.pulled[below] * cross.mixed, cross.seen(z_slopes[below])
            turn += mixed * seen
            back = mixed * z_slopes[below] + s.pulled[below] * cross.twice * seen
            turn.scatter_add_(-2, cross.places(back, axis=-2), back)
