"""What can be measured at a point whose Hessian is not built."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from semiflat.curvature.factors import LayerFactors
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.products import HessianProducts, hessian_products
from semiflat.evidence.derivatives import (
    ANOTHER_PLACE,
    CLOSE,
    allowed_gradient,
    kinks,
    no_hessian,
    roundings,
    settles_penalty,
)
from semiflat.evidence.on_data import OnData
from semiflat.evidence.spectrum import EPS, LUCK, ROUNDINGS
from semiflat.problem import Located

LEFT = 1e-12
"""Part of the gradient that a Newton step leaves of it. A direction that hardly curves has a small part of the
gradient and a large one of the step: at 1e-6 steps were found 2,500 times too short."""
MOST = 3000
"""Products that a Newton step may take."""


class Unbuilt:
    """A plain point's gradient, and its Hessian as products, computed when first asked for.

    Args:
        point: the point.
        relative_tolerance: as for :class:`Evidence`.
    """

    def __init__(self, point: Located, relative_tolerance: float) -> None:
        self.point, self.relative_tolerance = point, relative_tolerance
        self.data = OnData(point.problem, point.params)
        self.gradient = risk_gradient(point.problem, point.params)[1]
        self.gradient_norm = float(self.gradient.abs().max())
        self.allowed = allowed_gradient(self.data, relative_tolerance)
        self.worst = int((self.gradient.abs() / self.allowed.clamp(min=1e-300)).argmax())
        self.no_hessian = no_hessian(self.data, kinks(self.data))
        self.settles_penalty = settles_penalty(self.data, self.gradient)

    @cached_property
    def products(self) -> HessianProducts:
        """The Hessian."""
        return HessianProducts(self.point.problem, self.point.params)

    @cached_property
    def factors(self) -> LayerFactors:
        """What stands in for it."""
        return LayerFactors.of(self.products)

    def scaled(self, vector: Tensor) -> Tensor:
        """``M^{-½} H M^{-½} v``: the Hessian in units of what stands in for it, with the same signs."""
        eased = self.factors.divide(vector, 0.5)
        return self.factors.divide(self.products.times(eased), 0.5)

    @cached_property
    def step(self) -> Tensor | None:
        """A Newton step (P,), whatever the signs of the curvature; None where it was not reached."""
        from scipy.sparse.linalg import (  # a tenth of what torch takes to import
            LinearOperator,
            minres,
        )

        size = len(self.gradient)
        operator = LinearOperator(
            (size, size),
            matvec=lambda v: self.scaled(torch.from_numpy(v)).numpy(),
            dtype=np.float64,
        )
        right = -self.factors.divide(self.gradient, 0.5)
        length = float(torch.linalg.vector_norm(right))
        if not 0 < length < math.inf:
            return torch.zeros_like(right) if length == 0 else None
        found, unfinished = minres(operator, (right / length).numpy(), rtol=LEFT, maxiter=MOST)
        if unfinished:
            return None
        return self.factors.divide(length * torch.from_numpy(found), 0.5)

    @cached_property
    def distance(self) -> float:
        """How many natural units the Newton step goes; inf where there is none."""
        if self.step is None:
            return math.inf
        return float((self.step / self.data.natural.step.clamp(min=1e-300)).abs().max())

    def curvature(self, direction: Tensor) -> tuple[float, float]:
        """``vᵀ H v`` along a unit direction v (P,), and its floor: what rounding and the distance may do.

        It is no less than the least eigenvalue. Measured as for eigenvalues: at neighbours.
        """
        problem, net = self.point.problem, self.point.problem.net
        vector = net.flatten(self.point.params)
        turned = self.products.times(direction)
        here = float(direction @ turned)
        floor = EPS * len(vector) * float(direction.abs() @ turned.abs())

        def change(site: Tensor) -> float:
            there = hessian_products(problem, net.unflatten(site), direction)
            return abs(float(direction @ there) - here)

        floor += LUCK / ROUNDINGS**2 * max(change(site) for site in roundings(vector))
        return here, floor + (0.0 if self.step is None else 2 * change(vector + self.step))

    def farthest(self, way: Tensor, curvature: float) -> float:
        """How many natural units away a critical point may be along a unit direction (P,), or none be.

        By the gradient along it, with what rounding may make of that, and the curvature.
        """
        noise = float((way * self.data.natural.noise).square().sum().sqrt())
        length = (abs(float(self.gradient @ way)) + noise) / max(abs(curvature), 1e-300)
        return float((length * way.abs() / self.data.natural.step.clamp(min=1e-300)).max())

    @property
    def within(self) -> bool:
        """Whether every entry of the gradient is within tolerance or rounding."""
        return bool((self.gradient.abs() <= self.allowed).all())

    @cached_property
    def critical(self) -> bool:
        """Whether every entry of the gradient is within tolerance or rounding, or a Newton step is short."""
        if self.data.fits_best or self.within:
            return True
        # A short step makes no large gradient: no curvature is far beyond 1 in natural units.
        longest = CLOSE * self.relative_tolerance
        slope = float((self.data.natural.unit * self.gradient).abs().max())
        return slope <= len(self.gradient) * longest and self.distance <= longest

    @property
    def near(self) -> bool:
        """Whether a critical point is near, as far as a Newton step tells."""
        return self.critical and (self.data.fits_best or self.distance <= ANOTHER_PLACE)
