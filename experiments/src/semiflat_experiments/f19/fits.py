"""Ten noisy points of a network with one unit, and a network with five that goes through them all.

F19 §5.2 leaves open how inputs and the teacher are drawn and how the fit is found. Here inputs are
uniform in [−1, 1], where Prop. 7 holds, and the teacher's weights Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.f19.relu_fit import smallest_fit

POINTS, UNITS = 10, 5
NOISE = 1e-2
"""Variance of the noise in the targets."""
EXACT = 1e-29
"""A squared error below it counts as zero."""
GRID = ((torch.arange(64, dtype=torch.float64) + 0.5) / 32 - 1)[:, None]
"""Middles of 64 cells of [−1, 1], on which expectations over the inputs are taken."""

_APART = 10**8
"""Between the seeds of teachers and of data, so that these do not come from the same numbers."""


def noisy_points(activation: str, draw: int) -> tuple[sf.Problem, Tensor]:
    """Data set number ``draw`` for a network with five units; the teacher's values on the grid."""
    teacher = sf.MLP([1, 1, 1], activation)
    params = teacher.random_params(draw)
    generator = torch.Generator().manual_seed(_APART + draw)
    X = 2 * torch.rand(POINTS, 1, generator=generator, dtype=torch.float64) - 1
    noise = NOISE**0.5 * torch.randn(POINTS, 1, generator=generator, dtype=torch.float64)
    problem = sf.Problem(sf.MLP([1, UNITS, 1], activation), X, teacher.forward(params, X) + noise)
    return problem, teacher.forward(params, GRID)


def squared_error(point: sf.Point) -> float:
    """Its sum over the data."""
    return float(2 * point.problem.samples * point.loss)


def norm(point: sf.Point) -> float:
    """``‖θ‖``."""
    return float(point.problem.net.flatten(point.params).norm())


def tanh_fit(problem: sf.Problem, starts: int, iterations: int) -> sf.Point | None:
    """The exact fit of smallest norm of those that a search ends at."""
    search = sf.run_search(problem, starts, max_iterations=iterations, processes=1)
    fits = [point for point in search.runs if squared_error(point) < EXACT]
    return min(fits, key=norm, default=None)


def relu_fit(problem: sf.Problem) -> sf.Point | None:
    """The exact fit of smallest norm, up to rounding; None if there is none."""
    fit = smallest_fit(problem.X[:, 0].numpy(), problem.y[:, 0].numpy())
    if fit is None:
        return None
    return sf.Point(problem, {key: torch.from_numpy(value) for key, value in fit.items()})
