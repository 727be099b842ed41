"""The Gauss–Newton matrix: the part of the Hessian that is there even where the network is linear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.curvature.engine import on_engine
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.sweep import (
    Sweep,
    chunks,
    contract,
    in_groups,
    pull_back,
    row_order,
    sweep,
)
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
    batch = math.prod(problem.net.check_params(params))
    check_hessians(batch, problem.net.parameter_count, problem.dtype.itemsize)
    found = on_engine(problem, params, "gauss_newton")
    found = found or in_groups(
        problem, params, _floats_per_sample(problem.net), _risk_gradient_gauss_newton
    )
    risk, gradient, matrix = found
    return risk, gradient, matrix


def _risk_gradient_gauss_newton(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    net = problem.net
    batch, size = net.check_params(params), net.parameter_count
    order = row_order(net)
    risk = torch.zeros(batch, dtype=problem.dtype)
    gradient = torch.zeros((*batch, size), dtype=problem.dtype)
    matrix = torch.zeros((*batch, size, size), dtype=problem.dtype)
    floats = _floats_per_sample(net) * math.prod(batch)
    for part in chunks(problem.samples, floats):
        s = sweep(problem, params, part, curved=True)
        risk += s.losses.sum(-1)
        factor = _factor(net, s, size)
        matrix += factor @ factor.mT
        at = 0
        for delta, fed in zip(s.deltas, s.inputs, strict=True):
            rows = contract(delta, fed).flatten(-2)
            gradient[..., at : at + rows.shape[-1]] += rows
            at += rows.shape[-1]
    gradient, matrix = gradient[..., order], matrix[..., order[:, None], order]
    add_penalty(problem, params, risk, gradient, matrix)
    return risk, gradient, matrix


def _floats_per_sample(net: MLP) -> int:
    return net.outputs * (net.parameter_count + 2 * sum(net.widths))


def _factor(net: MLP, s: Sweep, size: int) -> Tensor:
    """C with ``C Cᵀ`` the sum over a sweep's samples, ``(*batch, P, M n)``, in the order of rows.

    Every entry is written once: C is the largest thing here, and moving it about costs more than
    multiplying it.
    """
    assert s.loss_second is not None
    samples, batch = s.losses.shape[-1], s.losses.shape[:-1]
    factor = s.losses.new_empty((*batch, size, net.outputs, samples))
    back, end = _root(s.loss_second), size
    for layer in range(net.depth - 1, -1, -1):
        shape = net.widths[layer + 1], net.fan_in(layer)
        rows = factor[..., end - math.prod(shape) : end, :, :].unflatten(-3, shape)
        torch.mul(back[..., :, None, :, :], s.inputs[layer][..., None, :, None, :], out=rows)
        end -= math.prod(shape)
        if layer:
            back = (s.weights[layer].mT @ back.flatten(-2)).unflatten(-1, back.shape[-2:])
            back = pull_back(back, s.first[layer - 1], s.cross[layer - 1], axis=-3)
    return factor.flatten(-2)


def _root(second: Tensor) -> Tensor:
    """S with ``S Sᵀ`` the positive part of ``∂²(ℓ/N)/∂f²``, (*batch, M, M, n)."""
    outputs = second.shape[-2]
    if outputs == 1:
        return second.clamp(min=0).sqrt()
    matrices = second.movedim(-1, -3)
    off_diagonal = matrices - torch.diag_embed(matrices.diagonal(dim1=-2, dim2=-1))
    if not off_diagonal.any():
        return second.clamp(min=0).sqrt()
    values, vectors = torch.linalg.eigh(matrices)
    root: Tensor = vectors * values.clamp(min=0).sqrt()[..., None, :]
    return root.movedim(-3, -1)
