"""Down the loss by its exact second-order model, of which no matrix is built."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.factors import LayerFactors
from semiflat.curvature.newton_steps import MOST, newton_step
from semiflat.curvature.products import HessianProducts
from semiflat.problem import Problem
from semiflat.search.methods.method import Local, Method, Step, next_radius


class NewtonCG(Method):
    """Minimise the loss by conjugate gradients within a radius, for networks too large for their Hessian.

    A step takes products with the exact Hessian alone (Steihaug 1983). It ends where the model's gradient
    is a small part of the risk's, or at the radius: along the first direction of negative curvature, if
    there is one. Lengths are those of the preconditioner (:class:`LayerFactors`), which is all that is
    kept of a place.

    Negative curvature is seen only where the gradient has a part along it: a run may end at a saddle.

    Attributes:
        most: products that a step may take.
    """

    exact = True
    most: int = MOST

    def local(self, problem: Problem, theta: Tensor) -> Local:
        parts = [
            LayerFactors.of(HessianProducts(*_one(problem, theta, k))).parts
            for k in range(len(theta))
        ]
        return tuple(torch.stack(each) for each in zip(*parts, strict=True))

    def scale(self, local: Local, gradient: Tensor, length: Tensor) -> Tensor:
        return length.clamp(min=1e-3)[:, None]

    def step(
        self, problem: Problem, theta: Tensor, gradient: Tensor, local: Local, scale: Tensor
    ) -> Step:
        # One run after the other: each fills the caches, and none waits for the slowest.
        found = []
        for k in range(len(theta)):
            factors = LayerFactors(problem.net, tuple(part[k] for part in local))
            products = HessianProducts(*_one(problem, theta, k))
            found.append(newton_step(products, factors, gradient[k], float(scale[k, 0]), self.most))
        moves, promised, lengths = zip(*found, strict=True)
        return Step(torch.stack(moves), theta.new_tensor(promised), theta.new_tensor(lengths))

    def adapt(self, scale: Tensor, ratio: Tensor, length: Tensor) -> Tensor:
        return next_radius(scale[:, 0], ratio, length)[:, None]


def _one(problem: Problem, theta: Tensor, k: int) -> tuple[Problem, dict[str, Tensor]]:
    return problem.rows(torch.tensor([k])), problem.net.unflatten(theta[k : k + 1])
