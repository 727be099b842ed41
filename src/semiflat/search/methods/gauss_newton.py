"""Down the loss by the model that forgets what the network does to its residuals."""

from __future__ import annotations

from torch import Tensor

from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.search.methods.trust_region import TrustRegion


class GaussNewton(TrustRegion):
    """The same with the Gauss–Newton matrix for the Hessian: Levenberg–Marquardt with a radius.

    Far from a minimum the exact Hessian's negative curvature comes from residuals that will be gone;
    without it the valleys of sigmoid networks are walked down in a small part of the steps.
    """

    exact = False

    def model(self, problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        return risk_gradient_gauss_newton(problem, params)
