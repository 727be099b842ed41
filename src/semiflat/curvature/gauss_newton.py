"""The Gauss–Newton matrix: the part of the Hessian that is there even where the network is linear."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.curvature.gradient import jacobian_of
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.sweep import chunks, sweep
from semiflat.networks import Params
from semiflat.problem import Problem


def risk_gradient_gauss_newton(problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
    """``R``, ``∇R`` and ``Σ_ν J_νᵀ ∂²(ℓ_ν/N)/∂f² J_ν`` of each network in the batch.

    The Hessian of weight decay, which is known exactly, is part of the matrix.

    Args:
        params: parameters with any leading batch axes.

    Returns:
        Shapes ``(*batch,)``, ``(*batch, P)`` and ``(*batch, P, P)``; the matrix is positive
        semidefinite where the loss is convex in the outputs.
    """
    net = problem.net
    batch, size = net.check_params(params), net.parameter_count
    risk = torch.zeros(batch, dtype=problem.dtype)
    gradient = torch.zeros((*batch, size), dtype=problem.dtype)
    matrix = torch.zeros((*batch, size, size), dtype=problem.dtype)
    floats = 3 * net.outputs * size * math.prod(batch)
    for part in chunks(problem.samples, floats):
        s = sweep(problem, params, part, curved=True)
        jacobian = jacobian_of(net, s)
        assert s.loss_second is not None
        risk += s.losses.sum(-1)
        rows = jacobian.flatten(-3, -2)
        gradient += (s.deltas[-1].mT.flatten(-2)[..., None, :] @ rows)[..., 0, :]
        bent = s.loss_second.movedim(-1, -3) @ jacobian
        matrix += rows.mT @ bent.flatten(-3, -2)
    add_penalty(problem, params, risk, gradient, matrix)
    return risk, gradient, matrix
