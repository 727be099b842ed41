"""What P21 trains in §V-E: random data of a wide network, and a narrow one trained on it by SciPy's BFGS.

P21 leaves open how inputs, the teacher's weights and the start are drawn, and whether BFGS was given the
gradient. Here all are N(0, 1), the loss is P21's sum of squares, its gradient is exact, and BFGS runs with
SciPy's own settings. Variants change one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize

import semiflat as sf

TEACHER, STUDENT, SAMPLES = (2, 8, 12, 8, 1), (2, 4, 6, 4, 1), 500
Array = NDArray[np.float64]

PUBLISHED, NOISY = "as published", "noisy targets"
AS_PUBLISHED: Mapping[str, Any] = {
    "activation": "sigmoid",  # P21 §II; its examples all are
    "inputs": "normal",  # or "uniform", in [0, 1]
    "teacher": 1.0,  # deviation of the teacher's weights
    "start": "normal",  # or "fan-in": deviation 1/√fan-in
    "loss": "sum",  # of squares; or "mean"
    "bias": True,  # in teacher and student
    "gradient": "exact",  # or "differences", as SciPy takes them itself
    "noise": 0.0,  # in the targets, in deviations of the targets
}
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    PUBLISHED: {},
    "no biases": {"bias": False},
    "mean of squares": {"loss": "mean"},
    "teacher's weights × 3": {"teacher": 3.0},
    "inputs in [0, 1]": {"inputs": "uniform"},
    "start by fan-in": {"start": "fan-in"},
    "tanh": {"activation": "tanh"},
    NOISY: {"noise": 0.3},
    "gradient by differences": {"gradient": "differences"},
}


def _chosen(variant: str) -> dict[str, Any]:
    return {**AS_PUBLISHED, **VARIANTS[variant]}


def draw_data(variant: str, seed: int) -> tuple[sf.Problem, Array]:
    """A data set for the narrow network, and where its training starts, (P,).

    Args:
        variant: one of ``VARIANTS``.
        seed: of data and start.
    """
    chosen = _chosen(variant)
    random = np.random.default_rng([seed, 21])
    teacher, student = (
        sf.MLP(widths, chosen["activation"], chosen["bias"]) for widths in (TEACHER, STUDENT)
    )
    normal = random.standard_normal((SAMPLES, TEACHER[0]))
    uniform = random.uniform(0, 1, (SAMPLES, TEACHER[0]))
    X = torch.from_numpy(normal if chosen["inputs"] == "normal" else uniform)
    weights = chosen["teacher"] * random.standard_normal(teacher.parameter_count)
    y = teacher.forward(teacher.unflatten(torch.from_numpy(weights)), X)
    start = random.standard_normal(student.parameter_count)
    if chosen["start"] == "fan-in":
        start = student.flatten(student.random_params(seed)).numpy()
    y = y + chosen["noise"] * y.std() * torch.from_numpy(random.standard_normal((SAMPLES, 1)))
    return sf.Problem(student, X, y), start


def loss_of(problem: sf.Problem, variant: str) -> Callable[[Array], tuple[float, Array]]:
    """P21's loss and its gradient, for flat parameters (P,).

    Written out in NumPy: SciPy asks for it several million times.
    """
    chosen = _chosen(variant)
    X, y, widths = problem.X.numpy().T.copy(), problem.y.numpy().T.copy(), problem.net.widths
    scale = 1.0 if chosen["loss"] == "sum" else 1.0 / y.shape[1]
    tanh, biases = chosen["activation"] == "tanh", chosen["bias"]

    def loss(vector: Array) -> tuple[float, Array]:
        layers, used = [], 0
        for fan_in, out in pairwise(widths):
            end = used + fan_in * out
            weight, used = vector[used:end].reshape(out, fan_in), end + out * biases
            layers.append((weight, vector[end:used, None] if biases else 0.0))
        fed = [X]
        for weight, bias in layers[:-1]:
            z = weight @ fed[-1] + bias
            fed.append(np.tanh(z) if tanh else 1 / (1 + np.exp(-z)))
        residual = layers[-1][0] @ fed[-1] + layers[-1][1] - y
        back, parts = 2 * scale * residual, []
        for layer in range(len(layers) - 1, -1, -1):
            parts += [back.sum(1)] * biases + [(back @ fed[layer].T).ravel()]
            if layer:
                h = fed[layer]
                back = (layers[layer][0].T @ back) * (1 - h * h if tanh else h * (1 - h))
        return scale * float((residual * residual).sum()), np.concatenate(parts[::-1])

    return loss


def train(problem: sf.Problem, start: Array, variant: str) -> tuple[sf.Point, int, str]:
    """Where BFGS ends, its iterations, and what it says of itself."""
    with np.errstate(over="ignore"):  # exp of a saturated unit
        loss = loss_of(problem, variant)
        if _chosen(variant)["gradient"] == "exact":
            ended = minimize(loss, start, jac=True, method="BFGS")
        else:
            ended = minimize(lambda vector: loss(vector)[0], start, method="BFGS")
    vector = torch.from_numpy(ended.x)
    return sf.Point(problem, problem.net.unflatten(vector)), int(ended.nit), str(ended.message)
