"""To a critical point of any index, by the gradient's norm."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.problem import Problem
from semiflat.search.methods.method import Local, Step, bounded_newton, eigen, rotate
from semiflat.search.methods.trust_region import TrustRegion


class GradientSystem(TrustRegion):
    """Reach a critical point of any index: Levenberg–Marquardt on ``∇R = 0``.

    The merit is ``½‖∇R‖²`` and its Jacobian the Hessian, so saddles and maxima attract as minima do.
    A minimum of ``‖∇R‖`` that is no critical point attracts too, and is reported as STALLED.
    """

    follows_loss = False

    def local(self, problem: Problem, theta: Tensor) -> Local:
        return eigen(risk_gradient_hessian(problem, problem.net.unflatten(theta))[2])

    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        values, vectors = local
        along = rotate(vectors.mT, gradient)
        squared, pulled = values.square(), values * along
        ascending = squared.argsort(-1)
        moves = torch.zeros_like(along).scatter(
            -1,
            ascending,
            bounded_newton(
                squared.gather(-1, ascending), pulled.gather(-1, ascending), scale[:, 0]
            ),
        )
        promised = (along.square() - (along + values * moves).square()).sum(-1) / 2
        return Step(rotate(vectors, moves), promised, torch.linalg.vector_norm(moves, dim=-1))

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        return gradient.square().sum(-1) / 2
