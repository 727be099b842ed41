"""The Gauss–Newton matrix: the part of the Hessian that is there even where the network is linear."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from semiflat.curvature.engine import on_engine
from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.hessian import second_derivatives
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.sweep import Sweep, chunks, contract, in_groups, pull_back, sweep
from semiflat.losses import Loss
from semiflat.memory import check_hessians
from semiflat.networks import MLP, Params
from semiflat.problem import Problem


def risk_gradient_gauss_newton(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """``R``, ``∇R`` and ``Σ_ν J_νᵀ ∂²(ℓ_ν/N)/∂f² J_ν`` of each network in the batch.

    The Hessian of weight decay, which is known exactly, is part of the matrix.

    Args:
        params: parameters with any leading batch axes.

    Returns:
        Shapes ``(*batch,)``, ``(*batch, P)`` and ``(*batch, P, P)``. Where the loss is not convex in
        the outputs the positive part of its second derivative is taken: the matrix is positive
        semidefinite.
    """
    found = on_engine(problem, params, "gauss_newton")
    if found is not None:
        risk, gradient, matrix = found
        return risk, gradient, matrix
    if problem.net.outputs > 1:
        return second_derivatives(problem, params, partial(_positive, problem.loss))
    batch = math.prod(problem.net.check_params(params))
    check_hessians(batch, problem.net.parameter_count, problem.dtype.itemsize)
    risk, gradient, matrix = in_groups(problem, params, _floats_per_sample(problem.net), _of_one)
    return risk, gradient, matrix


def _of_one(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """The same for networks with one output: a sample's matrix is ``ccᵀ``, and one product sums them."""
    net = problem.net
    batch, size = net.check_params(params), net.parameter_count
    risk = torch.zeros(batch, dtype=problem.dtype)
    gradient = torch.zeros((*batch, size), dtype=problem.dtype)
    matrix = torch.zeros((*batch, size, size), dtype=problem.dtype)
    for part in chunks(problem.samples, _floats_per_sample(net) * math.prod(batch)):
        s = sweep(problem, params, part, curved=True)
        risk += s.losses.sum(-1)
        factor = _factor(net, s)
        matrix += factor @ factor.mT
        rows = [contract(delta, fed) for delta, fed in zip(s.deltas, s.inputs, strict=True)]
        gradient += torch.cat(
            [flat_rows(net, layer, slope) for layer, slope in enumerate(rows)], -1
        )
    add_penalty(problem, params, risk, gradient, matrix)
    return risk, gradient, matrix


def _floats_per_sample(net: MLP) -> int:
    return net.parameter_count + 2 * sum(net.widths)


def _factor(net: MLP, s: Sweep) -> Tensor:
    """C with ``C Cᵀ`` the sum over a sweep's samples, ``(*batch, P, n)``, of one output.

    Every entry is written once: C is the largest thing here, and moving it about costs more than
    multiplying it.
    """
    assert s.loss_second is not None
    samples, batch = s.losses.shape[-1], s.losses.shape[:-1]
    factor = s.losses.new_empty((*batch, net.parameter_count, samples))
    back, end = s.loss_second[..., 0, :, :].clamp(min=0).sqrt(), net.parameter_count
    for layer in range(net.depth - 1, -1, -1):
        shape = net.widths[layer + 1], net.widths[layer]
        if net.biases[layer]:
            factor[..., end - shape[0] : end, :] = back
            end -= shape[0]
        rows = factor[..., end - math.prod(shape) : end, :].unflatten(-2, shape)
        fed = s.inputs[layer][..., : shape[1], :]
        torch.mul(back[..., :, None, :], fed[..., None, :, :], out=rows)
        end -= math.prod(shape)
        if layer:
            back = pull_back(s.weights[layer].mT @ back, s.first[layer - 1], s.cross[layer - 1])
    return factor


def _positive(loss: Loss, second: Tensor) -> Tensor:
    """The positive part of ``∂²(ℓ/N)/∂f²``, (*batch, M, M, n)."""
    if loss.convex:
        return second
    matrices = second.movedim(-1, -3)
    off_diagonal = matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    if not off_diagonal.any():
        return second.clamp(min=0)
    values, vectors = torch.linalg.eigh(matrices)
    positive: Tensor = (vectors * values.clamp(min=0)[..., None, :]) @ vectors.mT
    return positive.movedim(-3, -1)
