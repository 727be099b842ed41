"""Down from a point in straight steps, along each of which the loss falls all the way."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.errors import InputError
from semiflat.paths.path import Curve, straight
from semiflat.problem import Problem

LARGEST = 2000
"""Parameters up to which a dense Hessian is taken at every step."""
SAMPLES = 9
"""Points of a step at which the loss is compared."""
SMALLEST = 1e-12
"""Damping step, relative to the parameters, below which there is no way on in float64."""
STILL = 1e-9
"""Part of the loss that a step has to gain."""
SEEN = 1e-15
"""Part of the loss that rounding may change."""
SHORT = 0.9
"""Part of a damped Newton step that is taken: at its whole length the loss no longer falls."""


def check_dense(problem: Problem) -> None:
    """Raise :class:`InputError` for a network too large for dense Hessians."""
    count = problem.net.parameter_count
    if count > LARGEST:
        raise InputError(
            f"the way down is followed with dense Hessians, up to {LARGEST} parameters, and this network "
            f"has {count}; take a narrower one or fewer copies"
        )


def along(problem: Problem, start: Tensor, direction: Tensor) -> Tensor | None:
    """The end of a step from ``start`` to either side of ``direction`` (P,), falling all the way.

    None if the loss falls to neither side by more than rounding.
    """
    lengths = torch.logspace(-5, 2, 57, dtype=torch.float64)
    best: Tensor | None = None
    lowest = float(problem.risk(problem.net.unflatten(start)))
    for sign in (1.0, -1.0):
        at = start + sign * lengths[:, None] * direction
        losses = problem.risk(problem.net.unflatten(at)).nan_to_num(nan=torch.inf)
        # The first steps may be too short for the loss to tell.
        falling = int((losses.diff() <= SEEN * abs(lowest)).long().cumprod(0).sum())
        for last in range(falling, 0, -4):
            if float(losses[last]) < lowest and _falls(problem, start, at[last]):
                best, lowest = at[last], float(losses[last])
                break
    return best


def down(problem: Problem, start: Tensor, steps: int = 200) -> tuple[list[Curve], Tensor]:
    """Straight steps from ``start`` (P,) down to where the loss hardly falls any more.

    Damped Newton steps in which negative curvature counts as positive, each damped more until loss
    and slope fall at every point looked at.

    Returns:
        The steps, and where they end.
    """
    net = problem.net
    theta, damping = start, 1e-3
    curves: list[Curve] = []
    for _ in range(steps):
        risk, gradient, hessian = risk_gradient_hessian(problem, net.unflatten(theta))
        values, vectors = torch.linalg.eigh(hessian)
        slope = vectors.mT @ gradient
        moved = None
        while damping < 1 / SMALLEST:
            step = SHORT * vectors @ (slope / (values.abs() + damping * values.abs().max()))
            if _falls(problem, theta, theta - step):
                moved = theta - step
                break
            damping *= 10
        if moved is None:
            break
        curves.append(straight(theta, moved))
        theta, damping = moved, max(damping / 5, 1e-12)
        if float(risk - problem.risk(net.unflatten(moved))) < STILL * abs(float(risk)):
            break
    return curves, theta


def _falls(problem: Problem, start: Tensor, end: Tensor) -> bool:
    """Whether the loss and, so that none is hidden between two points, its slope fall all the way."""
    s = torch.linspace(0, 1, SAMPLES, dtype=torch.float64)
    at = problem.net.unflatten(straight(start, end)(s))
    losses, gradients = risk_gradient(problem, at)
    slopes = gradients @ (end - start)
    return bool((losses.diff() < 0).all() and (slopes[1:] < 0).all())
