"""To a critical point of any index, by Newton's steps with the signs of the curvatures kept."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.problem import Problem
from semiflat.search.methods.method import Local, Step, next_radius, rotate
from semiflat.search.methods.trust_region import TrustRegion

WIDEST = 1.0
"""The largest radius: what is to be found near a start is to be found, not what is far away."""


class SignedNewton(TrustRegion):
    """Down along positive curvature, up along negative: ``p_i = −g_i / (λ_i ± μ)`` within a radius.

    Newton's step where it is short enough, and like it led to saddles of the index that the Hessian
    has on the way (eigenvector following: Cerjan & Miller 1981). No merit falls all the way; a step is
    taken where the quadratic model foretold the gradient, and runs that get nowhere are left to
    :class:`semiflat.search.methods.gradient_system.GradientSystem`.
    """

    follows_loss = False

    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        values, vectors, unit = local
        along = rotate(vectors.mT, unit * gradient)
        moves = _within(along, values.abs(), scale[:, 0]) * torch.where(values < 0, 1.0, -1.0)
        left = rotate(vectors, along + values * moves) / unit
        promised = (gradient.square().sum(-1) - left.square().sum(-1)) / 2
        length = torch.linalg.vector_norm(moves, dim=-1)
        return Step(unit * rotate(vectors, moves), promised, length, left)

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        return gradient.square().sum(-1) / 2

    def adapt(self, scale: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
        return next_radius(scale[:, 0], ratio, length).clamp(max=WIDEST)[:, None]


def _within(along: Tensor, sizes: Tensor, radius: Tensor) -> Tensor:
    """``along / (sizes + μ)`` with the smallest μ ≥ 0 for which its length is within ``radius``."""
    floor = 1e-14 * sizes.amax(-1, keepdim=True).clamp(min=1e-300)
    sizes = torch.maximum(sizes, floor)
    low = torch.zeros_like(radius)
    high = torch.linalg.vector_norm(along, dim=-1) / radius
    for _ in range(60):
        middle = torch.where(
            low > 0.1 * high, (low + high) / 2, (low * high).sqrt().clamp(min=1e-20)
        )
        middle = torch.where(low == 0, torch.minimum(middle, high), middle)
        long = torch.linalg.vector_norm(along / (sizes + middle[:, None]), dim=-1) > radius
        low, high = torch.where(long, middle, low), torch.where(long, high, middle)
    free = torch.linalg.vector_norm(along / sizes, dim=-1) <= radius
    return along / (sizes + torch.where(free, 0.0, high)[:, None])
