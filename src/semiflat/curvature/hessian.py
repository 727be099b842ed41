"""The full Hessian of the risk in closed form, for a batch of networks at once.

With per-sample ``S = ∂h_{l-1}/∂z_m`` and ``B = ∂δ_l/∂z_m`` (both follow from one more sweep down and up
the layers), the block of ``W̃_l`` and ``W̃_m``, m ≤ l, is

    ∂²R / ∂W̃_l[i,j] ∂W̃_m[a,b] = Σ_ν h̃_{m-1,b} ( B[i,a] h̃_{l-1,j} + δ_{l,i} S[j,a] ),

the second term for m < l alone. Nothing is neglected: this is not Gauss–Newton.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.curvature.engine import on_engine
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.sweep import (
    Sweep,
    chunks,
    contract,
    in_groups,
    outer,
    pull_back,
    row_order,
    row_ranges,
    sweep,
)
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
    batch = math.prod(problem.net.check_params(params))
    check_hessians(batch, problem.net.parameter_count, problem.dtype.itemsize)
    found = on_engine(problem, params, "hessian")
    found = found or in_groups(
        problem, params, _floats_per_sample(problem.net), _risk_gradient_hessian
    )
    risk, gradient, hessian = found
    return risk, gradient, hessian


def _risk_gradient_hessian(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    net = problem.net
    batch = net.check_params(params)
    rows = row_ranges(net)
    risk = torch.zeros(batch, dtype=problem.dtype)
    gradient = torch.zeros((*batch, net.parameter_count), dtype=problem.dtype)
    hessian = torch.zeros((*batch, *gradient.shape[-1:] * 2), dtype=problem.dtype)
    for part in chunks(problem.samples, _floats_per_sample(net) * math.prod(batch)):
        s = sweep(problem, params, part, curved=True)
        hidden, bent = _responses(s)
        risk += s.losses.sum(-1)
        for layer in range(net.depth):
            gradient[..., rows[layer]] += contract(s.deltas[layer], s.inputs[layer]).flatten(-2)
            at = 0
            for below in range(layer + 1):
                among = slice(at, at + net.widths[below + 1])
                at = among.stop
                block = _curved(s, layer, below, bent[layer][..., among, :])
                if below == layer - 1:
                    _add_next(block, s, layer)
                elif below < layer:
                    _add_skipping(block, s, layer, below, hidden[layer][..., among, :])
                block = block.flatten(-2).flatten(-3, -2)
                hessian[..., rows[layer], rows[below]] += block
                if below < layer:
                    hessian[..., rows[below], rows[layer]] += block.mT
    order = row_order(net)
    gradient, hessian = gradient[..., order], hessian[..., order[:, None], order]
    add_penalty(problem, params, risk, gradient, hessian)
    return risk, gradient, hessian


def _responses(s: Sweep) -> tuple[list[Tensor], list[Tensor]]:
    """For each linear layer l, ``∂h_{l-1}/∂z_m`` (m < l − 1) and ``∂δ_l/∂z_m`` (m ≤ l).

    Shapes ``(*batch, ·, Σ_m out_m, n)``, the layers m one after the other along the third axis. What
    a layer's z does to itself is 1, and to its own h a diagonal: neither is stored.
    """
    empty = s.deltas[0][..., :, None, :][..., :0, :]
    moved, hidden = [empty], [empty]  # moved: ∂z_l/∂z_m for all m < l
    for layer, weight in enumerate(s.weights[1:]):
        through = moved[-1] * s.first[layer][..., None, :]
        direct = weight[..., None] * s.first[layer][..., None, :, :]
        cross = s.cross[layer]
        if cross is not None:
            through = through + cross.slope[..., None, :] * cross.seen(moved[-1], axis=-3)
            owed = weight[..., None] * cross.slope[..., None, :, :]
            direct.scatter_add_(-2, cross.places(owed, axis=-2), owed)
        hidden.append(through)
        moved.append(torch.cat([_times(weight, through), direct], dim=-2))
    assert s.loss_second is not None
    top = (s.loss_second[..., None, :] * moved[-1][..., None, :, :, :]).sum(-3)
    bent = [torch.cat([top, s.loss_second], dim=-2)]
    for layer in range(len(s.weights) - 2, -1, -1):
        below, width = moved[layer].shape[-2], moved[layer].shape[-3]
        through = _times(s.weights[layer + 1].mT, bent[-1][..., : below + width, :])
        through = pull_back(through, s.first[layer], s.cross[layer], axis=-3)
        bend = s.pulled[layer] * s.second[layer]
        through[..., :below, :].addcmul_(moved[layer], bend[..., None, :])
        through[..., below:, :].diagonal(dim1=-3, dim2=-2).add_(bend.mT)
        cross = s.cross[layer]
        if cross is not None:
            _add_cross(through, moved[layer], s.pulled[layer], cross)
        bent.append(through)
    return hidden, bent[::-1]


def _add_cross(through: Tensor, moved: Tensor, pulled: Tensor, cross: Cross) -> None:
    """Add ``Σ_i pulled_i ∂²h_i/∂z_j∂z_k · ∂z_k/∂z_m`` for units i that another's z moves, in place.

    Each unit i has one other unit j = by[i]; the pairs (i, j), (j, i) and (j, j) have terms.
    """
    below = moved.shape[-2]
    lower, own = (
        through[..., :below, :],
        through[..., below:, :],
    )  # by z_m, and by the layer's own z
    mixed, twice = pulled * cross.mixed, pulled * cross.twice
    seen = cross.seen(moved, axis=-3)
    lower += mixed[..., None, :] * seen
    back = mixed[..., None, :] * moved + twice[..., None, :] * seen
    lower.scatter_add_(-3, cross.places(back, axis=-3), back)
    pair = mixed[..., :, None, :]
    index = cross.places(pair, axis=-3)
    own.scatter_add_(-2, index, pair)
    own.transpose(-3, -2).scatter_add_(-2, index, pair)
    square = twice.mT
    own.diagonal(dim1=-3, dim2=-2).scatter_add_(-1, cross.places(square, axis=-1), square)


def _times(weight: Tensor, stack: Tensor) -> Tensor:
    """``Σ_j weight[i, j] stack[j, a, ν]`` as one matrix product a network."""
    product: Tensor = (weight @ stack.flatten(-2)).unflatten(-1, stack.shape[-2:])
    return product


def _curved(s: Sweep, layer: int, below: int, bent: Tensor) -> Tensor:
    """``Σ_ν B[i,a] h̃_{l-1,j} h̃_{m-1,b}``, shape ``(*batch, i, j, a, b)``."""
    upper, lower = s.inputs[layer], s.inputs[below]
    out, moved = bent.shape[-3:-1]
    bent = bent.flatten(-3, -2)
    # The three factors' first product is the larger part of the memory traffic; the products of
    # two layers' inputs are shared by all networks where both are the data. How many there are is not
    # asked, so that it changes no result.
    if upper.ndim == 2 or upper.shape[-2] <= out * moved:
        block = contract(bent, outer(upper, lower))
        block = block.unflatten(-1, (upper.shape[-2], lower.shape[-2]))
        block = block.unflatten(-3, (out, moved)).transpose(-3, -2)
    else:
        block = contract(outer(bent, lower), upper)
        block = block.unflatten(-2, (out, moved, lower.shape[-2])).movedim(-1, -3)
    ordered: Tensor = block.contiguous()
    return ordered


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
    responses = 4 * sum(
        sum(net.widths[1 : layer + 2]) * net.widths[layer + 1] for layer in range(net.depth)
    )
    largest = max(
        net.fan_in(layer) * net.fan_in(below)
        + net.widths[layer + 1] * net.widths[below + 1] * (1 + net.widths[layer] * (below < layer))
        for layer in range(net.depth)
        for below in range(layer + 1)
    )
    return responses + largest + 8 * sum(net.widths)
