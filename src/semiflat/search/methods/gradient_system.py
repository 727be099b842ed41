"""To a critical point of any index, by the gradient's norm."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.search.methods.method import Eigen, bounded_newton, rotate


class GradientSystem:
    """Reach a critical point of any index: Levenberg–Marquardt on ``∇R = 0``.

    The merit is ``½‖∇R‖²`` and its Jacobian the Hessian, so saddles and maxima attract as minima do.
    A minimum of ``‖∇R‖`` that is no critical point attracts too, and is reported as STALLED.
    """

    exact = True
    follows_loss = False

    def model(self, problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        return risk_gradient_hessian(problem, params)

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        return gradient.square().sum(-1) / 2

    def step(self, gradient: Tensor, eigen: Eigen, radius: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigen
        along = rotate(vectors.mT, gradient)
        squared, pulled = values.square(), values * along
        ascending = squared.argsort(-1)
        moves = torch.zeros_like(along).scatter(
            -1,
            ascending,
            bounded_newton(squared.gather(-1, ascending), pulled.gather(-1, ascending), radius),
        )
        promised = (along.square() - (along + values * moves).square()).sum(-1) / 2
        return rotate(vectors, moves), promised
