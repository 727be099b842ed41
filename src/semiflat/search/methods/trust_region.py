"""Down the loss by its exact second-order model."""

from __future__ import annotations

from torch import Tensor

from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.search.methods.method import Eigen, bounded_newton, rotate


class TrustRegion:
    """Minimise the loss: the exact minimiser of the quadratic model inside the radius.

    Negative curvature is followed, so saddles do not hold it (Moré & Sorensen 1983).
    """

    exact = True
    follows_loss = True

    def model(self, problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        return risk_gradient_hessian(problem, params)

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        return risk

    def step(self, gradient: Tensor, eigen: Eigen, radius: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = eigen
        along = rotate(vectors.mT, gradient)
        moves = bounded_newton(values, along, radius)
        promised = -(along * moves + values * moves.square() / 2).sum(-1)
        return rotate(vectors, moves), promised
