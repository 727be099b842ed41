"""Points for the mass test, and how they are drawn, built to be critical, and rescaled.

Most are built to be critical: parameters are drawn, and the targets are chosen so that the loss's slopes
lie in the null space of the Jacobian's transpose. The size of those slopes is free, so that minima, saddles
and points as near to the border between them as is wished come out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import semiflat as sf
from mass_landscape import SLOPES, SMOOTH, Array, Case, Landscape, balls, floats
from mass_truth import polish

ACTIVATIONS = (*SMOOTH, *SLOPES)
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "bump": lambda z: z * torch.exp(-z * z / 2),
    "arctan": torch.atan,
}
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "soft_cross_entropy": lambda f, y: torch.logsumexp(f, -1) - (f * y).sum(-1),
    "cauchy": lambda f, y: torch.log1p(((f - y) ** 2).sum()),
    "huber": lambda f, y: (torch.sqrt(1 + (f - y) ** 2) - 1).sum(),
}
ALL_LOSSES = ("squared", "cross_entropy", "logistic", *LOSSES)
LARGEST = 26  # parameters of a drawn network; embedded ones have up to WIDEST
WIDEST = 40


@dataclass
class Made:
    """One point and how it came about.

    Attributes:
        twin: a point that must be of the same kind: this one before it was rescaled.
        sizes: of inputs and outputs, for the units of a wider network; None where units have sizes too.
        tags: what the summary counts by.
    """

    case: Case
    single: bool = False
    twin: Case | None = None
    sizes: tuple[Any, Any] | None = (1.0, 1.0)
    tags: dict[str, Any] = field(default_factory=dict)


def network(case: Case) -> sf.MLP:
    """The case's network as semiflat's."""
    activations = [FUNCTIONS.get(name, name) for name in case.activations]
    return sf.MLP(case.widths, activations, case.biases)


def point_of(case: Case, single: bool = False) -> sf.Point:
    """The case as a point of semiflat; with ``single`` its data are handed over as float32."""
    dtype = torch.float32 if single else torch.float64
    X = torch.tensor(case.X, dtype=dtype)
    y = torch.tensor(case.y, dtype=torch.int64 if case.loss == "cross_entropy" else dtype)
    net = network(case)
    problem = sf.Problem(net, X, y, LOSSES.get(case.loss, case.loss), weight_decay=case.decay)
    return sf.Point(problem, net.unflatten(torch.tensor(case.params, dtype=torch.float64)))


def case_of(point: sf.Point, like: Case, unit: list[float] | None = None) -> Case:
    """A point on the data and loss of another case."""
    net = point.problem.net
    return Case(
        list(net.widths),
        like.activations,
        list(net.biases),
        like.loss,
        like.X,
        like.y,
        like.decay,
        net.flatten(point.params).tolist(),
        unit or units(list(net.widths), list(net.biases)),
    )


# -- units: what a change of each parameter is measured in ----------------------------------------


def units(
    widths: list[int], biases: list[bool], inputs: Any = 1.0, outputs: Any = 1.0, hidden: Any = None
) -> list[float]:
    """Units of parameters for inputs and outputs of given sizes, and of hidden units made larger.

    Args:
        hidden: for each hidden layer a factor for each unit of it, or None.
    """
    sizes = [np.broadcast_to(inputs, widths[0])]
    for layer, width in enumerate(widths[1:-1]):
        sizes.append(np.ones(width) if hidden is None else np.asarray(hidden[layer]))
    sizes.append(np.broadcast_to(outputs, widths[-1]))
    found: list[float] = []
    for below, above, bias in zip(sizes, sizes[1:], biases, strict=False):
        found += (above[:, None] / below[None, :]).ravel().tolist()
        found += above.tolist() if bias else []
    return found


# -- drawing ---------------------------------------------------------------------------------------


def draw_network(
    rng: np.random.Generator, activation: str | None = None, hidden: int | None = None
) -> Case:
    """A random network at random parameters on random inputs; loss and targets are to come."""
    while True:
        depth = int(rng.choice(4, p=[0.05, 0.5, 0.3, 0.15])) if hidden is None else hidden
        widths = [
            int(rng.integers(1, 3)),
            *rng.integers(1, 4, depth).tolist(),
            int(rng.choice([1, 1, 2, 3])),
        ]
        chosen = activation or str(rng.choice(ACTIVATIONS))
        names = [chosen] * depth
        if depth > 1 and rng.random() < 0.2:
            names[1] = str(rng.choice(ACTIVATIONS))
        style = rng.random()
        biases = [
            style < 0.65 or (style > 0.8 and bool(rng.random() < 0.5)) for _ in range(depth + 1)
        ]
        unit = units(widths, biases)
        if len(unit) <= LARGEST:
            break
    enough = len(unit) // widths[-1] + 2
    samples = min(
        int(rng.integers(3, 10) if rng.random() < 0.25 else rng.integers(enough, enough + 6)), 20
    )
    X = rng.standard_normal((samples, widths[0]))
    style = rng.random()
    if style < 0.15:
        X = np.round(2 * X) / 2
    elif style < 0.25:
        X[:, -1] = X[:, 0]  # columns alike
    elif style < 0.3:
        X[:, -1] = 1.0  # like a bias
    elif style < 0.4:
        X[samples // 2 :] = X[: samples - samples // 2]  # rows repeated
    params = rng.standard_normal(len(unit)) * (1.0 if rng.random() < 0.8 else 3.0)
    return Case(widths, names, biases, "squared", X.tolist(), [], 0.0, params.tolist(), unit)


def draw_loss(rng: np.random.Generator, case: Case) -> Case:
    """The case with a random loss that fits its outputs."""
    losses = [name for name in ALL_LOSSES if case.widths[-1] > 1 or "cross_entropy" not in name]
    weights = np.array([4.0 if name == "squared" else 1.0 for name in losses])
    return replace(case, loss=str(rng.choice(losses, p=weights / weights.sum())))


def rough_targets(rng: np.random.Generator, case: Case) -> Case:
    """The case with random targets of the kind its loss wants."""
    shape = len(case.X), case.widths[-1]
    if case.loss == "cross_entropy":
        return replace(case, y=rng.integers(0, shape[1], shape[0]).tolist())
    y = rng.standard_normal(shape)
    if case.loss == "logistic":
        y = rng.random(shape) if rng.random() < 0.5 else (y > 0).astype(float)
    if case.loss == "soft_cross_entropy":
        y = summing_to_one(np.exp(y) / np.exp(y).sum(1, keepdims=True))
    return replace(case, y=y.tolist())


def summing_to_one(y: Array) -> Array:
    """Probabilities that sum to 1 exactly: else the loss has a slope of 1e-16 with no end."""
    y = np.round(y * 2.0**40) / 2.0**40
    y[:, -1] = 1 - y[:, :-1].sum(1)
    return y


# -- constructed to be critical --------------------------------------------------------------------


def outputs_and_jacobian(case: Case) -> tuple[Array, Array]:
    """f, (N, M), and ∂f/∂θ in the parameters' units, (N·M, P), both as floats."""
    whole = replace(case, y=[[0.0] * case.widths[-1]] * len(case.X), loss="squared")
    landscape, params = Landscape(whole), balls(case.params)
    landscape.fix_pattern(params)
    gradients, responses = landscape.rows(params)
    f = responses[-1][0]
    rows = gradients[-1].reshape(-1, len(case.params))
    jacobian = np.array([floats(row) for row in rows]) * np.array(case.unit)
    return floats(f.ravel()).reshape(f.shape), jacobian


def slopes_that_vanish(
    rng: np.random.Generator, case: Case, jacobian: Array, size: float
) -> tuple[Array, Array] | None:
    """(fixed, free) slopes of the loss, (N, M) each: fixed balances the decay, free is in the null space.

    None if no slopes balance the decay.
    """
    samples, outputs = len(case.X), case.widths[-1]
    rows = jacobian.T
    if case.loss == "soft_cross_entropy":  # targets that sum to 1 need slopes that sum to 0
        rows = np.vstack([rows, np.kron(np.eye(samples), np.ones(outputs))])
    left, values, right = np.linalg.svd(rows)
    rank = int((values > 1e-11 * values.max(initial=0.0)).sum())
    push = -case.decay * np.array(case.params) * np.array(case.unit) * samples
    push = np.concatenate([push, np.zeros(len(rows) - len(push))])
    fixed = right[:rank].T @ ((left[:, :rank].T @ push) / values[:rank])
    if np.abs(rows @ fixed - push).max(initial=0.0) > 1e-12 * max(np.abs(push).max(), 1e-300):
        return None
    null = right[rank:]
    free = null.T @ rng.standard_normal(len(null)) if len(null) else np.zeros(samples * outputs)
    largest = np.abs(free).max(initial=0.0)
    free = free * (size / largest) if largest > 0 else free
    return fixed.reshape(samples, outputs), free.reshape(samples, outputs)


def targets_with_slopes(
    rng: np.random.Generator, loss: str, f: Array, slopes: Array
) -> Array | None:
    """Targets at which the loss has the given slopes in f, or None if there are none."""
    if loss == "squared":
        return f - slopes
    if loss == "logistic":
        y = 1 / (1 + np.exp(-f)) - slopes
        return y if ((y >= 0) & (y <= 1)).all() else None
    if loss == "soft_cross_entropy":
        p = np.exp(f - f.max(1, keepdims=True))
        y = summing_to_one(p / p.sum(1, keepdims=True) - slopes)
        return y if ((y >= 0) & (y <= 1)).all() else None
    if loss == "huber":
        return f - slopes / np.sqrt(1 - slopes**2) if (np.abs(slopes) < 0.99).all() else None
    length = np.linalg.norm(slopes, axis=1, keepdims=True)  # cauchy: slopes 2r/(1 + |r|²)
    if (length >= 0.99).any():
        return None
    root = np.sqrt(1 - length**2)
    far = (rng.random(length.shape) < 0.15) & (length > 0.3)  # where the loss is no longer convex
    reach = np.where(far, 1 + root, 1 - root) / np.where(length > 0, length, 1.0)
    return f - slopes * np.where(length > 1e-9, reach / np.where(length > 0, length, 1.0), 0.5)


def constructed(rng: np.random.Generator, case: Case, size: float) -> Case | None:
    """Targets for which the case's point is critical, the slopes about ``size``; decay may shrink."""
    f, jacobian = outputs_and_jacobian(case)
    for _ in range(6):
        found = slopes_that_vanish(rng, case, jacobian, size)
        if found is None:
            return None
        y = targets_with_slopes(rng, case.loss, f, found[0] + found[1])
        if y is not None and np.isfinite(y).all():
            return replace(case, y=y.tolist())
        size, case = size / 4, replace(case, decay=case.decay / 4)
    return None


def polished(case: Case) -> Case:
    """The case at its critical point rounded to floats, where high precision finds one."""
    found = polish(case)
    return case if isinstance(found, str) else case.moved([float(p) for p in found.params])


def to_single(case: Case) -> Case:
    """The case with data that float32 holds exactly."""
    if case.loss == "cross_entropy":
        y = case.y
    elif case.loss == "soft_cross_entropy":
        y = (np.round(np.array(case.y) * 2.0**16) / 2.0**16).tolist()
        y = [[*row[:-1], 1 - sum(row[:-1])] for row in y]
    else:
        y = np.float32(case.y).astype(float).tolist()
    return replace(case, X=np.float32(case.X).astype(float).tolist(), y=y)


# -- rescaling -------------------------------------------------------------------------------------


def rescaled(rng: np.random.Generator, case: Case) -> Made:
    """The same point with inputs, targets or homogeneous units in other sizes, parameters taken along."""
    inputs, outputs = np.ones(case.widths[0]), np.ones(case.widths[-1])
    hidden = [np.ones(width) for width in case.widths[1:-1]]
    which = rng.random()
    tags: dict[str, Any] = {}
    if which < 0.65:
        sizes = rng.integers(-6, 7, len(inputs))
        # Columns that are alike must not be rounded apart.
        alike = rng.random() < 0.7 or all(row[0] == row[-1] for row in case.X)
        inputs = 10.0 ** (np.full(len(inputs), sizes[0]) if alike else sizes)
        tags["X"] = round(math.log10(inputs[0]))
    if case.loss == "squared" and which > 0.35:
        outputs = 10.0 ** np.repeat(rng.integers(-6, 7, 1), len(outputs))
        tags["y"] = round(math.log10(outputs[0]))
    for layer, name in enumerate(case.activations):
        if name in SLOPES and rng.random() < 0.4:
            unit = int(rng.integers(len(hidden[layer])))
            hidden[layer][unit] = 10.0 ** int(rng.integers(-6, 7))
            tags["unit"] = round(math.log10(hidden[layer][unit]))
    unit = units(case.widths, case.biases, inputs, outputs, hidden)
    params = (np.array(case.params) * np.array(unit)).tolist()
    y = case.y if case.loss != "squared" else (np.array(case.y) * outputs).tolist()
    other = replace(case, X=(np.array(case.X) * inputs).tolist(), y=y, params=params, unit=unit)
    return Made(other, twin=case, sizes=None if "unit" in tags else (inputs, outputs), tags=tags)
