"""The full Hessian of the risk in closed form, for a batch of networks at once.

With per-sample ``S = ∂h_{l-1}/∂z_m`` and ``B = ∂δ_l/∂z_m`` (both follow from one more sweep down and up
the layers), the block of ``W̃_l`` and ``W̃_m``, m ≤ l, is

    ∂²R / ∂W̃_l[i,j] ∂W̃_m[a,b] = Σ_ν h̃_{m-1,b} ( B[i,a] h̃_{l-1,j} + δ_{l,i} S[j,a] ),

the second term for m < l alone. Nothing is neglected: this is not Gauss–Newton. That matrix is the same
sum without the second term, and with a B in which no activation bends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from semiflat.curvature.engine import on_engine
from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.halves import blocks, spread
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.responses import responses
from semiflat.curvature.sweep import Sweep, chunks, contract, in_groups, outer, sweep
from semiflat.memory import check_hessians
from semiflat.networks import MLP, Params
from semiflat.problem import Problem


def risk_gradient_hessian(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """``R``, ``∇R`` and ``∇²R`` of each network in the batch.

    Args:
        params: parameters with any leading batch axes.

    Returns:
        Shapes ``(*batch,)``, ``(*batch, P)`` and ``(*batch, P, P)``, flat in the order of the dict.
        Memory beyond the result is bounded: samples are taken in chunks.

    Raises:
        InputError: if the Hessians are more than memory has room for.
    """
    found = on_engine(problem, params, "hessian")
    if found is None:
        return second_derivatives(problem, params)
    risk, gradient, hessian = found
    return risk, gradient, hessian


def second_derivatives(
    problem: Problem, params: Params, convex: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """``R``, ``∇R`` and ``∇²R``, or with ``convex`` the Gauss–Newton matrix.

    Args:
        convex: what it takes of ``∂²(ℓ/N)/∂f²``, (*batch, M, M, n).
    """
    batch = math.prod(problem.net.check_params(params))
    check_hessians(batch, problem.net.parameter_count, problem.dtype.itemsize)
    compute = partial(_second_derivatives, convex=convex)
    found = in_groups(problem, params, _floats_per_sample(problem.net), compute)
    risk, gradient, matrix = found
    return risk, gradient, matrix


def _second_derivatives(
    problem: Problem, params: Params, convex: Callable[[Tensor], Tensor] | None
) -> tuple[Tensor, Tensor, Tensor]:
    net = problem.net
    batch = net.check_params(params)
    risk = torch.zeros(batch, dtype=problem.dtype)
    slopes = [
        torch.zeros((*batch, out, net.fan_in(layer)), dtype=problem.dtype)
        for layer, out in enumerate(net.widths[1:])
    ]
    sums = torch.zeros((*batch, blocks(net)[-1].span.stop), dtype=problem.dtype)
    for part in chunks(problem.samples, _floats_per_sample(net) * math.prod(batch)):
        s = sweep(problem, params, part, curved=True)
        assert s.loss_second is not None
        if convex is not None:
            s.loss_second = convex(s.loss_second)
        hidden, bent = responses(s, bends=convex is None)
        risk += s.losses.sum(-1)
        for layer, slope in enumerate(slopes):
            slope += contract(s.deltas[layer], s.inputs[layer])
        for block in blocks(net):
            layer, below = block.layer, block.below
            start = sum(net.widths[1 : below + 1])
            among = slice(start, start + net.widths[below + 1])
            moved = bent[layer][..., among, :]
            block.add(sums, moved, s.inputs[layer], s.inputs[below])
            if convex is None and below == layer - 1:
                _add_next(block.entries(sums), s, layer)
            elif convex is None and below < layer:
                _add_skipping(block.entries(sums), s, layer, below, hidden[layer][..., among, :])
    gradient = torch.cat([flat_rows(net, layer, slope) for layer, slope in enumerate(slopes)], -1)
    matrix = spread(net, sums)
    add_penalty(problem, params, risk, gradient, matrix)
    return risk, gradient, matrix


def _add_next(block: Tensor, s: Sweep, layer: int) -> None:
    """Add ``Σ_ν δ_{l,i} S[j,a] h̃_{m-1,b}`` to ``block[i, j, a, b]`` for m = l − 1, in place.

    z_m moves unit a of the layer in between through σ' alone, so S is diagonal.
    """
    below = layer - 1
    units = s.deltas[layer].shape[-2], s.first[below].shape[-2]
    skip = contract(outer(s.deltas[layer], s.first[below]), s.inputs[below]).unflatten(-2, units)
    block[..., : units[1], :, :].diagonal(dim1=-3, dim2=-2).add_(skip.mT)  # (…, i, b, a)
    cross = s.cross[below]
    if cross is not None:
        owed = contract(outer(s.deltas[layer], cross.slope), s.inputs[below]).unflatten(-2, units)
        owed = owed[..., None, :]
        block[..., : units[1], :, :].scatter_add_(-2, cross.places(owed, axis=-3), owed)


def _add_skipping(block: Tensor, s: Sweep, layer: int, below: int, hidden: Tensor) -> None:
    """Add ``Σ_ν δ_{l,i} S[j,a] h̃_{m-1,b}`` to ``block[i, j, a, b]`` for m < l − 1, in place.

    The bias's j does not move with z_m, so j runs over the hidden units alone.
    """
    delta = s.deltas[layer]
    skip = contract(outer(delta, hidden.flatten(-3, -2)), s.inputs[below])
    skip = skip.unflatten(-2, (delta.shape[-2], *hidden.shape[-3:-1]))
    block[..., : hidden.shape[-3], :, :] += skip


def _floats_per_sample(net: MLP) -> int:
    """An upper estimate of the float64 numbers the passes hold for one sample of one network."""
    answers = 4 * sum(
        sum(net.widths[1 : layer + 2]) * net.widths[layer + 1] for layer in range(net.depth)
    )
    products = [sum(block.shape) for block in blocks(net)]
    for layer in range(2, net.depth):  # what _add_skipping multiplies
        products += [math.prod(net.widths[layer : layer + 2]) * w for w in net.widths[1:layer]]
    return answers + max(products) + 8 * sum(net.widths)
