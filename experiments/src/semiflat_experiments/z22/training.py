"""Z22 Fig. 4.3: a wide tanh network on fifty points of a curve, from small parameters by gradient descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import semiflat as sf

POINTS = 50
HALF = 3.0
"""The inputs lie evenly in [−3, 3]."""
SCALE = 50.0
"""Units of size m^(−3/2) leave their linear range the sooner the larger the outputs are."""
CHOSEN = ((1.0, 1.5, 0.0), (0.6, 3.0, 1.8), (0.5, 3.0, -2.0))
"""Height, steepness and place of the target's three units: one over the whole range, two at its ends."""

Units = Sequence[tuple[float, float, float]]


def curve(units: Units, net: sf.MLP) -> sf.Problem:
    """Fifty points of ``50 Σ height tanh(steepness (x − place))``, for a network of any width.

    >>> problem = curve(CHOSEN, sf.MLP([1, 3, 1], "tanh"))
    >>> tuple(problem.X.shape)
    (50, 1)
    """
    x = torch.linspace(-HALF, HALF, POINTS, dtype=torch.float64)[:, None]
    y = sum(height * torch.tanh(steepness * (x - place)) for height, steepness, place in units)
    return sf.Problem(net, x, SCALE * y)


def drawn_units(seed: int) -> Units:
    """Three units with heights from N(0, 1), steepness in [1, 4] and places in [−2.5, 2.5]."""
    rng = np.random.default_rng(seed)
    units = zip(
        rng.standard_normal(3), rng.uniform(1, 4, 3), rng.uniform(-2.5, 2.5, 3), strict=True
    )
    return [(float(height), float(steepness), float(place)) for height, steepness, place in units]


@dataclass(frozen=True)
class Training:
    """Where gradient descent came by.

    Attributes:
        steps: numbers of the steps that were written down, from 1 up.
        risks: there, as long.
        outputs: (as long, 50).
        points: the wide network there.
    """

    steps: list[int]
    risks: list[float]
    outputs: Tensor
    points: list[sf.Point]


def descend(
    problem: sf.Problem, seed: int, rate: float, steps: int, written: int, power: float = 1.5
) -> Training:
    """Gradient descent with a fixed rate, all parameters of deviation m^−power for width m.

    Steps are written down evenly in their logarithm. One hidden layer and one output; the gradient is
    written out, as a step through autograd costs several times as much.

    Raises:
        InputError: if it diverges, so that parameters are no longer finite.
    """
    width = problem.net.widths[1]
    generator = torch.Generator().manual_seed(seed)
    size = width**-power
    w, b, v, c = (
        size * torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((1, width), (width,), (width, 1), (1,))
    )
    marks = set(np.unique(np.geomspace(1, steps, written).round().astype(int)).tolist())
    x, y = problem.X, problem.y
    found: list[tuple[int, Tensor, sf.Point]] = []
    for step in range(1, steps + 1):
        h = torch.addmm(b, x, w).tanh_()
        residual = torch.addmm(c, h, v) - y
        if step in marks:
            params = {"0.weight": w.T, "0.bias": b, "2.weight": v.T, "2.bias": c}
            found.append((step, (residual + y)[:, 0], sf.Point(problem, params)))
        error = residual * (rate / len(x))
        backward = (error @ v.T).addcmul_(error @ v.T, h.square(), value=-1)
        v = v - h.T @ error
        c = c - error.sum(0)
        w = w - x.T @ backward
        b = b - backward.sum(0)
    outputs = torch.stack([output for _, output, _ in found])
    risks = (outputs - y[:, 0]).square().mean(1) / 2
    points = [point for _, _, point in found]
    return Training([step for step, _, _ in found], risks.tolist(), outputs, points)


def plateau(training: Training, below: float) -> tuple[int, float]:
    """Where the risk is below a level and changes least while the number of steps doubles.

    Returns:
        The place in ``training.steps`` at the middle of that stretch, and by what part the least risk
        along it is below the largest; the last place and 1.0 if no stretch is below the level.
    """
    steps, risks = np.array(training.steps), np.array(training.risks)
    best = (len(steps) - 1, 1.0)
    for first in np.flatnonzero(risks < below):
        last = int(np.searchsorted(steps, 2 * steps[first]))
        if last >= len(steps):
            break
        along = risks[first : last + 1]
        lost = float(1 - along.min() / along.max())
        if lost < best[1]:
            best = (int(np.searchsorted(steps, steps[first] * 2**0.5)), lost)
    return best
