"""Down the loss by the model that forgets what the network does to its residuals."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.acceleration import bending
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.problem import Problem
from semiflat.search.methods.method import LEAST, Local, Method, Step, sizes

FIRST = 1e-2
"""The first damping, as a part of the matrix's largest diagonal entry."""
SMALLEST = 1e-16
"""The smallest damping, likewise."""
BENT = 0.75
"""Twice the acceleration over the velocity, beyond which a path bends too much to be followed."""


class LevenbergMarquardt(Method):
    """Damped Gauss–Newton steps along paths that bend with the network's outputs.

    Far from a minimum the exact Hessian's negative curvature comes from residuals that will be gone;
    without it the valleys of sigmoid networks are walked down in a small part of the steps. A step is
    ``v + a/2`` with ``(A + μ) v = −g`` and the geodesic acceleration ``(A + μ) a = −Jᵀ ℓ'' f''[v, v]``
    (Transtrum & Sethna 2012), which follows curved valleys; it is refused where ``2‖a‖`` is not well
    below ``‖v‖``, all in the units of :func:`sizes`. The damping goes by Nielsen's rule (Madsen,
    Nielsen & Tingleff 2004, 2.21).

    Scale: the damping μ, and what it is multiplied by at the next failure.
    """

    compiled = "levenberg_marquardt"

    def local(self, problem: Problem, theta: Tensor) -> Local:
        matrix = risk_gradient_gauss_newton(problem, problem.net.unflatten(theta))[2]
        unit = sizes(problem.net, theta)
        return matrix * unit[:, :, None] * unit[:, None, :], unit

    def scale(self, local: Local, gradient: Tensor, length: Tensor) -> Tensor:
        largest = local[0].diagonal(dim1=-2, dim2=-1).amax(-1)
        slope = torch.linalg.vector_norm(gradient * local[1], dim=-1)
        damping = torch.minimum(FIRST * largest, slope / length.clamp(min=1e-300))
        damping = damping.clamp(min=1e-300)
        return torch.stack([damping, torch.full_like(damping, 2.0)], -1)

    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        (matrix, unit), damping = local, scale[:, 0]
        slope = gradient * unit
        diagonal = matrix.diagonal(dim1=-2, dim2=-1)
        damping = torch.maximum(damping, SMALLEST * diagonal.amax(-1))
        damped = matrix.clone()
        damped.diagonal(dim1=-2, dim2=-1).add_(damping[:, None])
        factor, failed = torch.linalg.cholesky_ex(damped)
        factor = torch.where(
            (failed > 0)[:, None, None], torch.eye(len(damped[0])).double(), factor
        )
        velocity = _solve(factor, -slope)
        net = problem.net
        bend = bending(problem, net.unflatten(theta), net.unflatten(unit * velocity))
        acceleration = _solve(factor, -unit * bend)
        speed = torch.linalg.vector_norm(velocity, dim=-1)
        turn = 2 * torch.linalg.vector_norm(acceleration, dim=-1)
        promised = (damping * speed.square() - (slope * velocity).sum(-1)) / 2
        refused = (failed > 0) | ~(turn <= BENT * speed)
        path = velocity + acceleration / 2
        length = torch.linalg.vector_norm(path, dim=-1)
        return Step(unit * path, torch.where(refused, torch.inf, promised), length)

    def adapt(self, scale: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
        damping, factor = scale.unbind(-1)
        eased = damping * (1 - (2 * ratio - 1) ** 3).clamp(min=1 / 3, max=1.0)
        good = ratio > LEAST
        return torch.stack(
            [
                torch.where(good, eased, damping * factor),
                torch.where(good, 2.0, (2 * factor).clamp(max=64.0)),
            ],
            -1,
        )


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    return torch.cholesky_solve(right[..., None], factor).squeeze(-1)
