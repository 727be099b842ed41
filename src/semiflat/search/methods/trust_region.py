"""Down the loss by its exact second-order model."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.problem import Problem
from semiflat.search.methods.method import (
    Local,
    Method,
    Step,
    bounded_newton,
    eigen,
    next_radius,
    rotate,
    sizes,
)

NEGATIVE = -1e-9
"""An eigenvalue below this part of the largest is a way down."""


class TrustRegion(Method):
    """Minimise the loss: the exact minimiser of the quadratic model inside the radius.

    Negative curvature is followed, so saddles do not hold it (Moré & Sorensen 1983). The radius is in
    the units of :func:`sizes`.
    """

    exact = True
    compiled = "trust_region"

    def local(self, problem: Problem, theta: Tensor) -> Local:
        hessian = risk_gradient_hessian(problem, problem.net.unflatten(theta))[2]
        unit = sizes(problem.net, theta)
        return *eigen(hessian * unit[:, :, None] * unit[:, None, :]), unit

    def scale(self, local: Local, gradient: Tensor, length: Tensor) -> Tensor:
        return length.clamp(min=1e-3)[:, None]

    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        values, vectors, unit = local
        along = rotate(vectors.mT, unit * gradient)
        moves = bounded_newton(values, along, scale[:, 0])
        promised = -(along * moves + values * moves.square() / 2).sum(-1)
        return Step(
            unit * rotate(vectors, moves), promised, torch.linalg.vector_norm(moves, dim=-1)
        )

    def adapt(self, scale: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
        return next_radius(scale[:, 0], ratio, length)[:, None]

    def downhill(self, local: Local) -> Tensor:
        values = local[0]
        return values[:, 0] < NEGATIVE * values.abs().amax(-1)
