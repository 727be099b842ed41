"""The problems and starts of the search benchmark.

Everything drawn depends on the case, the seed and the number of the problem alone, so that any process,
on any machine, makes the same ones.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import semiflat as sf

ACTIVATIONS = ("tanh", "gelu", "sigmoid", "softplus")
NAMES = ("a", "b", "c", "cn", *(f"diabetes-{name}" for name in ACTIVATIONS), "digits")


@dataclass(frozen=True)
class Case:
    """What is searched, and from where.

    Attributes:
        title: how it was made, in words.
        problems: one for all starts, or one for each.
        starts: flat, (B, P).
    """

    title: str
    problems: list[sf.Problem]
    starts: Tensor

    def pairs(self, count: int | None = None) -> list[tuple[sf.Problem, Tensor]]:
        """The first ``count`` starts, each with its problem."""
        shared = len(self.problems) == 1
        rows = range(len(self.starts) if count is None else min(count, len(self.starts)))
        return [(self.problems[0 if shared else row], self.starts[row]) for row in rows]


def problems(case: str, count: int, seed: int = 0) -> Case:
    """A case by name, with ``count`` starts.

    Raises:
        NotImplementedError: if this version of semiflat has no such problem.
    """
    if case == "a":
        return _student(count, seed)
    if case == "b":
        return _rosenbrock(count, seed)
    if case in ("c", "cn"):
        return _deep(count, seed, noisy=case == "cn")
    if case.startswith("diabetes-"):
        return _diabetes(count, seed, case.removeprefix("diabetes-"))
    if case == "digits":
        return _digits(count, seed)
    raise ValueError(f"no case {case!r}; there are {', '.join(NAMES)}")


def _student(count: int, seed: int) -> Case:
    generator = np.random.default_rng([seed, 1])
    X = torch.from_numpy(generator.standard_normal((1000, 2)))
    teacher = sf.MLP([2, 3, 1], "tanh")
    drawn = torch.from_numpy(2 * generator.standard_normal(teacher.parameter_count))
    y = teacher.forward(teacher.unflatten(drawn), X)
    y = y + 0.1 * torch.from_numpy(generator.standard_normal((1000, 1)))
    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), X, y)
    title = (
        "2-2-1 tanh, squared loss, 1000 samples: x normal, y from a 2-3-1 tanh teacher with weights "
        "N(0, 4), noise of deviation 0.1"
    )
    return Case(title, [problem], _default_starts(problem, count, seed))


def _rosenbrock(count: int, seed: int) -> Case:
    generator = np.random.default_rng([seed, 2])
    X = generator.uniform(-2, 2, (1000, 2))
    y = np.log(1 + (1 - X[:, 0]) ** 2 + 100 * (X[:, 1] - X[:, 0] ** 2) ** 2)
    problem = sf.Problem(sf.MLP([2, 4, 1], "tanh"), X, y)
    title = (
        "2-4-1 tanh, squared loss, 1000 samples: (u, v) uniform in [−2, 2]², "
        "y = log(1 + (1−u)² + 100 (v−u²)²), neither standardised"
    )
    return Case(title, [problem], _default_starts(problem, count, seed))


def _deep(count: int, seed: int, noisy: bool) -> Case:
    # P21 §V-E names the two architectures and the number of samples and of networks. The rest is
    # not published: inputs, teacher and starts are taken as standard normal there.
    net, teacher = sf.MLP([2, 4, 6, 4, 1], "sigmoid"), sf.MLP([2, 8, 12, 8, 1], "sigmoid")
    made, starts = [], []
    for number in range(count):
        generator = np.random.default_rng([seed, 3, number])
        X = torch.from_numpy(generator.standard_normal((500, 2)))
        drawn = torch.from_numpy(generator.standard_normal(teacher.parameter_count))
        start = torch.from_numpy(generator.standard_normal(net.parameter_count))
        y = teacher.forward(teacher.unflatten((3 if noisy else 1) * drawn), X)
        if noisy:
            y = (y - y.mean()) / y.std(correction=0)
            y = y + 0.1 * torch.from_numpy(generator.standard_normal((500, 1)))
        made.append(sf.Problem(net, X, y))
        starts.append((2 if noisy else 1) * start)
    title = (
        "2-4-6-4-1 sigmoid, squared loss, 500 samples each from a 2-8-12-8-1 sigmoid teacher: "
        + (
            "x normal, teacher weights N(0, 9), y standardised and then noise of deviation 0.1 added, "
            "starts N(0, 4)"
            if noisy
            else "x normal, teacher weights and starts N(0, 1), y as it is (P21 §V-E; its distributions "
            "are not published)"
        )
    )
    return Case(title, made, torch.stack(starts))


def _diabetes(count: int, seed: int, activation: str) -> Case:
    data = sf.load_data("diabetes")
    problem = sf.Problem(sf.MLP([10, 4, 1], activation), data.X, data.y)
    title = f"diabetes, 10-4-1 {activation}, squared loss, 442 samples, standardised"
    return Case(title, [problem], _default_starts(problem, count, seed))


def _digits(count: int, seed: int) -> Case:
    if "weight_decay" not in inspect.signature(sf.Problem).parameters:
        raise NotImplementedError("Problem has no weight_decay")
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    pixels, digits = load_digits(return_X_y=True)
    X = PCA(8, svd_solver="full").fit_transform(pixels)
    X = (X - X.mean(0)) / X.std(0)
    net = sf.MLP([8, 4, 10], "tanh")
    problem = sf.Problem(net, X, digits, loss="cross_entropy", weight_decay=1e-3)
    title = (
        "digits, first 8 principal components standardised, 8-4-10 tanh, cross-entropy with weight "
        "decay 1e-3, 1797 samples"
    )
    return Case(title, [problem], _default_starts(problem, count, seed))


def _default_starts(problem: sf.Problem, count: int, seed: int) -> Tensor:
    """Those of ``run_search``: weights of deviation 1/√fan_in."""
    return problem.net.flatten(problem.net.random_params(seed, (count,)))
