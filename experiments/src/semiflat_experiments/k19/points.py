"""Points that K19's Theorem 2 is about: degenerate saddles, and minima that look like them."""

from __future__ import annotations

import math
from itertools import product

import torch
from torch import Tensor

import semiflat as sf

SAMPLES = 20
_APART = 10**6
"""Between the seeds of teachers and of data."""

EVEN = list(
    product(
        [(2, 2, 1), (2, 3, 2), (1, 2, 2, 1), (2, 2, 3, 2)],
        ["tanh", "softplus", "gelu"],
        ["squared", "logistic"],
    )
)
"""Networks with all weights 0, on data that are even in the inputs."""
FLAT = {"sin": math.pi / 2, "gelu": -0.7517915246935645, "silu": -1.2784645427610738}
"""Where the slope of an activation is 0."""
LINEAR = [(2, 2, 2, 1), (2, 2, 3, 2), (3, 2, 2, 2), (2, 3, 2, 3, 1)]
"""Deep linear networks; with three layers of weights or more their Hessian at 0 is positive semidefinite."""


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _at_zero(problem: sf.Problem, bias: Tensor | None) -> sf.Point:
    shapes = problem.net.shapes
    params = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in shapes.items()}
    if bias is not None:
        params[list(params)[-1]] = bias
    return sf.Point(problem, params)


def bias_only(seed: int, fitted: bool = False) -> sf.Point:
    """All weights 0, the output's bias at its best, inputs in pairs ±x of one target: Σ(y − ȳ)x = 0.

    Args:
        seed: of the data; it also chooses one of :data:`EVEN`.
        fitted: one target for all, so that the loss is 0 and the point a global minimum.

    >>> bias_only(0).gradient_norm < 1e-15
    True
    """
    widths, activation, loss = EVEN[seed % len(EVEN)]
    loss = "squared" if fitted else loss
    generator = torch.Generator().manual_seed(_APART + seed)
    half = _normal(generator, SAMPLES // 2, widths[0])
    targets = _normal(generator, SAMPLES // 2, widths[-1])
    if fitted:
        targets = targets[:1].expand(SAMPLES // 2, -1)
    y = torch.cat([targets, targets])
    bias = y.mean(0)
    if loss == "logistic":
        y = torch.sigmoid(y)
        bias = torch.logit(y.mean(0))
    if fitted:
        bias = y[0].clone()
    problem = sf.Problem(sf.MLP(widths, activation), torch.cat([half, -half]), y, loss)
    return _at_zero(problem, bias)


def linear_at_zero(seed: int, best: bool = False) -> sf.Point:
    """A deep linear network without biases at 0: with zero Hessian, or one of rank the outputs' at most.

    Args:
        seed: of the data; it also chooses one of :data:`LINEAR`.
        best: targets that no linear map of the inputs fits better than 0, a global minimum.

    >>> linear_at_zero(0).gradient_norm
    0.0
    """
    widths = LINEAR[seed % len(LINEAR)]
    generator = torch.Generator().manual_seed(2 * _APART + seed)
    X, y = _normal(generator, SAMPLES, widths[0]), _normal(generator, SAMPLES, widths[-1])
    if best:
        y = y - X @ torch.linalg.lstsq(X, y).solution
    return _at_zero(sf.Problem(sf.MLP(widths, "identity", bias=False), X, y), None)


def narrow_minimum(seed: int, activation: str) -> sf.CriticalPoint | None:
    """A strict minimum of a 1-1-1 network on two steps and a parabola, with noise; None if none is found."""
    generator = torch.Generator().manual_seed(3 * _APART + seed)
    X = 4 * torch.rand((2 * SAMPLES, 1), generator=generator, dtype=torch.float64) - 2
    a, b, c = 0.5 + torch.rand(3, generator=generator, dtype=torch.float64)
    y = a * torch.tanh(2 * X + 1) - b * torch.tanh(1.5 * X - 1) + 0.3 * c * X**2
    y = y + 0.1 * _normal(generator, 2 * SAMPLES, 1)
    problem = sf.Problem(sf.MLP([1, 1, 1], activation), X, y)
    point = sf.find_critical_point(problem, starts=4, seed=seed)
    return point if sf.judge(point).kind is sf.Kind.STRICT_MINIMUM else None


def share_of_zero(seed: int) -> sf.Point | None:
    """A strict minimum with a copy of its unit that nothing hears."""
    narrow = narrow_minimum(seed, ("tanh", "gelu", "sin")[seed % 3])
    return None if narrow is None else sf.Replicate(0, 0, [0.0, 1.0])(narrow).materialize()


def flat_null_unit(seed: int) -> sf.Point | None:
    """A strict minimum with a null unit where its activation has slope 0."""
    activation = list(FLAT)[seed % len(FLAT)]
    narrow = narrow_minimum(seed, activation)
    return None if narrow is None else sf.NullUnits(0, [FLAT[activation]])(narrow).materialize()


def minima(seed: int) -> list[sf.Point]:
    """A strict minimum, and copies of its unit with shares that keep it one (theory §4): all proved later."""
    narrow = narrow_minimum(seed, ("gelu", "sin", "silu", "gelu", "tanh")[seed % 5])
    if narrow is None:
        return []
    curvature = torch.linalg.eigvalsh(sf.unit_blocks(narrow, 0, 0).G)
    shares: list[list[float]] = []
    if bool(curvature[0] > 0):
        shares = [[0.4, 0.6], [0.001, 0.999]]
    elif bool(curvature[-1] < 0):
        shares = [[1.5, -0.5], [1.001, -0.001]]
    return [narrow, *(sf.Replicate(0, 0, each)(narrow) for each in shares)]
