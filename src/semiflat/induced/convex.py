"""The infimum of a convex loss over outputs in a subspace, as a bracket: Newton's method and its dual.

The Newton step d at outputs f gives a dual point for nothing: ``u = ℓ'(f) + ℓ''(f) U d`` has ``Uᵀu = 0``,
and where it is the slope of some tangent of ℓ, the conjugate of ℓ at u bounds the infimum from below.
For cross-entropy u is ``q − e_y`` with class probabilities q, and the bound is their mean entropy; for the
logistic loss the same with two classes an output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiflat.evidence import EPS
from semiflat.induced.spans import Span
from semiflat.losses import Loss
from semiflat.losses.separable import Vanishing, separated, separation

STEPS = 200
DENSE_DIMENSION = 1500
"""Coefficients up to which the Hessian in them is built."""
ROUNDING = 4 * EPS
"""How far rounding moves the features, as a part of their largest singular value."""
DAMPINGS = range(-10, 3)
"""Powers of ten of damping, in parts of the largest curvature, tried where Newton's step is too long."""
BRACKETED = 1e-9
"""Part of the infimum that may be left open before another start is tried."""


@dataclass(frozen=True)
class Minimum:
    """The infimum of a convex loss over a subspace.

    Attributes:
        value: the lowest loss found, an upper bound.
        lower: a lower bound for outputs up to ten times as large as those found; where the loss has no
            known conjugate an estimate.
        attained: whether some coefficients reach the infimum; None if that could not be told.
        vanishing: (N, M), which terms of the loss vanish in the limit.
        outputs: where ``value`` is taken, the vanishing terms left out; (N, M).
        steps: Newton steps taken.
        noise: what rounding of the span may change of ``value``: to first order ``uᵀEα`` for the slope u
            and the coefficients α at ``outputs``, which is large where nearly dependent features are used.
    """

    value: float
    lower: float
    attained: bool | None
    vanishing: Tensor
    outputs: Tensor
    steps: int
    noise: float = 0.0


def minimise(start: Tensor, span: Span, loss: Loss, targets: Tensor) -> Minimum:
    """The infimum over ``start + U c``, where ``start`` (N, M) lies in the span itself."""
    none = torch.zeros(start.shape, dtype=torch.bool)
    if separated(loss, start, targets):
        return Minimum(0.0, 0.0, False, ~none, start, 0)
    matrix = span.matrix()
    told = Vanishing(none, loss.attains)
    if matrix is not None:
        told = separation(loss, matrix, targets)
    found = _Descent(start, span, loss, targets, told).run()
    if found.value - found.lower <= BRACKETED * abs(found.value):
        return found
    # Far out the loss may be straight to the last digit, and Newton's steps of no use; at 0 it bends.
    again = _Descent(torch.zeros_like(start), span, loss, targets, told).run()
    best, other = sorted((found, again), key=lambda each: each.value)
    return replace(best, lower=min(best.value, max(best.lower, other.lower)))


def slope_noise(loss: Loss, outputs: Tensor, targets: Tensor, moved: float) -> float:
    """What outputs (N, M) moved by δ, ``‖δ‖ = moved``, change of the mean loss."""
    _, slope, curvature = loss.derivatives(outputs, targets)
    size = float(torch.linalg.vector_norm(slope))
    bend = float(torch.linalg.vector_norm(curvature, dim=(-2, -1)).max())
    return moved * (size + bend * moved) / len(outputs)


class _Descent:
    """Damped Newton steps with their dual bounds."""

    def __init__(
        self, start: Tensor, span: Span, loss: Loss, targets: Tensor, told: Vanishing
    ) -> None:
        self.span, self.loss, self.targets, self.told = span, loss, targets, told
        self.start, self.outputs = start, start
        self.coefficients = torch.zeros(span.dimension, dtype=torch.float64)
        self.samples = len(start)
        matrix = span.matrix()
        self.matrix = matrix if span.dimension <= DENSE_DIMENSION else None
        self.lower = -math.inf if loss.lower_bound is None else loss.lower_bound

    def run(self) -> Minimum:
        told = self.told
        value = self._value(self.outputs)
        if bool(told.vanishing.any()) and value == 0.0:
            return self._minimum(0.0, 0)
        step = 0
        for step in range(STEPS):
            slope, curvature = self._derivatives(self.outputs)
            gradient = self.span.adjoint(slope)
            moves = self._newton(curvature, gradient)
            move, change = moves[0], self.span.apply(moves[0])
            fall = -float(gradient @ move)
            self._bound(value, slope, curvature, change, fall)
            if value - self.lower <= 4 * EPS * abs(value) or fall <= EPS * EPS * abs(value):
                break
            taken = self._search(value, change, fall)
            if taken is None or taken < 1:
                damped = self._damped(value, moves[1:])
                if damped is not None:
                    move, change, taken = *damped, 1.0
            if taken is None:
                break
            self.outputs = self.outputs + taken * change
            self.coefficients = self.coefficients + taken * move
            lowered = self._value(self.outputs)
            if separated(self.loss, self.outputs, self.targets):
                return Minimum(
                    0.0, 0.0, False, torch.ones_like(told.vanishing), self.outputs, step + 1
                )
            if value - lowered <= 0 and fall <= 16 * EPS * abs(value):
                break
            value = lowered
        return self._minimum(value, step)

    def _minimum(self, value: float, steps: int) -> Minimum:
        attained = not bool(self.told.vanishing.any()) if self.told.known else None
        lower = min(self.lower, value)
        slope = self._derivatives(self.outputs)[0]
        moved = ROUNDING * self.span.leverage(self.outputs, self.coefficients)
        noise = float(torch.linalg.vector_norm(slope)) * moved
        return Minimum(value, lower, attained, self.told.vanishing, self.outputs, steps, noise)

    def _seen(self, outputs: Tensor) -> Tensor:
        """Outputs with the vanishing terms where they end: they then count nothing at all."""
        vanishing = self.told.vanishing
        return (
            self.loss.in_the_limit(outputs, self.targets, vanishing) if vanishing.any() else outputs
        )

    def _value(self, outputs: Tensor) -> float:
        return float(self.loss.value(self._seen(outputs), self.targets).mean())

    def _derivatives(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        _, first, second = self.loss.derivatives(self._seen(outputs), self.targets)
        return first / self.samples, second / self.samples

    def _newton(self, curvature: Tensor, gradient: Tensor) -> list[Tensor]:
        """``−H⁺∇`` with H = Uᵀℓ''U, and damped steps −(H + μ)⁻¹∇ for growing μ where H is built.

        It is where that is small; elsewhere Newton's step alone, by conjugate gradients.
        """
        if self.matrix is None:
            return [self._conjugate_gradients(curvature, gradient)]
        columns = (curvature @ self.matrix).flatten(0, 1)
        H = self.matrix.flatten(0, 1).mT @ columns
        values, vectors = torch.linalg.eigh((H + H.mT) / 2)
        kept = values > 64 * EPS * values[-1] if len(values) else values > 0
        values, vectors = values[kept], vectors[:, kept]
        along = vectors.mT @ gradient
        dampings = [0.0, *(10.0**k * float(values.max()) for k in DAMPINGS if len(values))]
        return [-(vectors @ (along / (values + damping))) for damping in dampings]

    def _damped(self, value: float, moves: list[Tensor]) -> tuple[Tensor, Tensor] | None:
        """The damped step that leads lowest, and what it does to the outputs, if one leads down."""
        best = None
        for move in moves:
            change = self.span.apply(move)
            reached = self._value(self.outputs + change)
            if reached < value:
                value, best = reached, (move, change)
        return best

    def _conjugate_gradients(self, curvature: Tensor, gradient: Tensor) -> Tensor:
        def product(vector: Tensor) -> Tensor:
            pushed = self.span.apply(vector)
            return self.span.adjoint((curvature @ pushed[..., None])[..., 0])

        found = torch.zeros_like(gradient)
        rest = -gradient
        direction, size = rest, float(rest @ rest)
        goal = 1e-8**2 * size
        for _ in range(300):
            if size <= goal or size == 0:
                break
            image = product(direction)
            bend = float(direction @ image)
            if bend <= 0:
                break
            length = size / bend
            found, rest = found + length * direction, rest - length * image
            size, before = float(rest @ rest), size
            direction = rest + (size / before) * direction
        return found if bool(found.any()) else -gradient

    def _search(self, value: float, change: Tensor, fall: float) -> float | None:
        length = 1.0
        for _ in range(50):
            lowered = self._value(self.outputs + length * change)
            if lowered <= value - 1e-4 * length * fall + 4 * EPS * abs(value):
                return length
            length /= 2
        return None

    def _bound(
        self, value: float, slope: Tensor, curvature: Tensor, change: Tensor, fall: float
    ) -> None:
        """Raise the lower bound by the dual point of a Newton step, if it is one."""
        dual = slope + (curvature @ change[..., None])[..., 0]
        least = self.loss.dual(dual * self.samples, self.targets, self.told.vanishing)
        if least is None:
            # What Newton's model still promises, twice over: an estimate.
            self.lower = max(self.lower, value - 2 * fall - 8 * EPS * abs(value))
            return
        if not bool(torch.isfinite(least).all()):
            return
        # f = start + U c: the bound holds up to Uᵀu, which is 0 but for rounding and unfinished solves.
        left = torch.linalg.vector_norm(self.span.adjoint(dual))
        reach = 10 * (1 + torch.linalg.vector_norm(self.coefficients))
        reach = reach + 10 * torch.linalg.vector_norm(self.outputs)
        bound = float(least.sum() / self.samples + (dual * self._plain_start()).sum())
        self.lower = max(self.lower, bound - float(left * reach) - 8 * EPS * abs(value))

    def _plain_start(self) -> Tensor:
        return torch.where(self.told.vanishing, 0.0, self.start)
