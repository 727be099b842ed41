"""The arms of the mass test: points constructed, rescaled, at borders and kinks, searched for, moved away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import torch

import semiflat as sf
from mass_landscape import KINKED, SLOPES, Array, Case, Landscape, balls
from mass_points import (
    FUNCTIONS,
    Made,
    case_of,
    constructed,
    draw_loss,
    draw_network,
    outputs_and_jacobian,
    point_of,
    polished,
    rescaled,
    rough_targets,
    slopes_that_vanish,
    to_single,
    units,
)

NO_BORDER = "no border between minimum and saddle"


def size_of_slopes(rng: np.random.Generator) -> float:
    """How far the targets are from the fit: from hardly to further than the outputs reach."""
    return float(10 ** rng.uniform(-3.5, 0.7))


def some_decay(rng: np.random.Generator, chance: float = 0.3) -> float:
    """A weight decay, or none."""
    return float(10 ** rng.uniform(-7, -1)) if rng.random() < chance else 0.0


def arm_constructed(rng: np.random.Generator) -> Iterator[Made]:
    """Critical by construction, with and without decay, polished to the last bit or not."""
    case = draw_loss(rng, draw_network(rng))
    if case.loss == "cross_entropy":
        case = replace(case, loss="squared")
    case = replace(case, decay=some_decay(rng))
    if case.decay and any(name in SLOPES for name in case.activations):
        case = replace(case, decay=0.0)  # needs balanced units: the search finds such
    made = constructed(rng, case, size_of_slopes(rng))
    if made is None:
        return
    single = bool(rng.random() < 0.2)
    made = to_single(made) if single else made
    bit = single or bool(rng.random() < 0.5)
    yield Made(polished(made) if bit else made, single, tags={"polished": bit})


def arm_scales(rng: np.random.Generator) -> Iterator[Made]:
    """The law that sizes of inputs, outputs and homogeneous units change no verdict."""
    for made in arm_constructed(rng):
        if made.case.decay:
            made.case = replace(made.case, decay=0.0)
            again = constructed(rng, made.case, size_of_slopes(rng))
            if again is None:
                return
            made.case = again
        base = polished(made.case)
        yield Made(base, tags={"X": 0})
        for _ in range(2):
            other = rescaled(rng, base)
            yield replace(other, case=polished(other.case)) if rng.random() < 0.5 else other


def arm_border(rng: np.random.Generator) -> Iterator[Made]:
    """Squared loss, the slopes scaled to where the lowest eigenvalue is about to change its sign."""
    case = replace(draw_network(rng, hidden=int(rng.integers(1, 3))), loss="squared")
    f, jacobian = outputs_and_jacobian(case)
    found = slopes_that_vanish(rng, case, jacobian, 1.0)
    if found is None or not found[1].any():
        return
    flat, bent = (_dense_hessian(replace(case, y=(f - s * found[1]).tolist())) for s in (0.0, 1.0))
    values = np.linalg.eigvalsh(flat)
    if values[0] < 1e-9 * values[-1]:
        yield Made(replace(case, y=(f - found[1]).tolist()), tags={"border": NO_BORDER})
        return
    low, high = 0.0, 1.0
    while np.linalg.eigvalsh(flat + high * (bent - flat))[0] > 0 and high < 1e6:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high)
            if np.linalg.eigvalsh(flat + middle * (bent - flat))[0] > 0
            else (low, middle)
        )
    for _ in range(2):
        digits = int(rng.integers(2, 11))
        size = low * (1 + rng.choice([-1, 1]) * 10.0**-digits)
        near = replace(case, y=(f - size * found[1]).tolist())
        yield Made(polished(near) if rng.random() < 0.7 else near, tags={"border": digits})


def _dense_hessian(case: Case) -> Array:
    landscape, params = Landscape(case), balls(case.params)
    landscape.fix_pattern(params)
    raw = landscape.derivatives(params)[1]
    assert raw is not None
    n = len(case.params)
    return np.array([[float(raw[i, k]) for k in range(n)] for i in range(n)])


def arm_search(rng: np.random.Generator) -> Iterator[Made]:
    """What the search finds, converged and not."""
    case = rough_targets(rng, draw_loss(rng, draw_network(rng)))
    case = replace(case, decay=some_decay(rng, 0.5))
    single = bool(rng.random() < 0.2)
    case = to_single(case) if single else case
    problem = point_of(case, single).problem
    kind = "any" if rng.random() < 0.5 else "minimum"
    result = sf.run_search(
        problem,
        starts=4,
        seed=int(rng.integers(1 << 30)),
        kind=kind,
        processes=1,
        max_iterations=200,
    )
    converged = [run for run in result.runs if run.status is sf.Status.CONVERGED]
    others = [run for run in result.runs if run.status is not sf.Status.CONVERGED]
    for run in (*converged[:3], *others[: 1 if converged else 2]):
        tags = {"status": str(run.status.value), "search": kind}
        yield Made(case_of(run, case), single, tags=tags)


def arm_repeated(rng: np.random.Generator) -> Iterator[Made]:
    """Inputs that repeat, each distinct one at its optimum: global minima of a convex loss."""
    distinct, times = int(rng.integers(2, 4)), int(rng.integers(2, 4))
    loss = str(rng.choice(["squared", "logistic", "cross_entropy", "huber"]))
    outputs = int(rng.integers(2, 4)) if loss == "cross_entropy" else int(rng.integers(1, 3))
    hot = bool(rng.random() < 0.5)
    widths = [distinct if hot else 1, distinct, outputs]
    biases = [True, bool(rng.random() < 0.7)]
    X = np.tile(np.eye(distinct) if hot else rng.standard_normal((distinct, 1)), (times, 1))
    if loss == "squared":
        y: Array = rng.standard_normal((len(X), outputs))
        best = y.reshape(times, distinct, outputs).mean(0)
    elif loss == "huber":
        middle, off = (
            rng.standard_normal((distinct, outputs)),
            rng.standard_normal((distinct, outputs)),
        )
        y = np.concatenate([middle + off, middle - off, *[middle] * (times - 2)])
        best = middle
    elif loss == "logistic":
        y = (rng.random((times, distinct, outputs)) < 0.5).astype(float)
        y[0], y[1] = 1.0, 0.0
        best = np.log(y.mean(0) / (1 - y.mean(0)))
        y = y.reshape(-1, outputs)
    else:
        times = outputs * int(rng.integers(1, 3))
        X = np.tile(X[:distinct], (times, 1))
        y = np.repeat(np.arange(times) % outputs, distinct)
        best = np.zeros((distinct, outputs))
    hidden = rng.standard_normal((distinct, widths[0] + 1))
    name = str(rng.choice(["tanh", "sigmoid", "softplus", "gelu", "silu", "sin", "arctan"]))
    act = sf.MLP([1, 1, 1], FUNCTIONS.get(name, name)).activations[0].function
    h = act(torch.tensor(X[:distinct] @ hidden[:, :-1].T + hidden[:, -1])).numpy()
    h = np.hstack([h, np.ones((distinct, 1))]) if biases[1] else h
    last = np.linalg.lstsq(h, best, rcond=None)[0].T
    params = [*hidden[:, :-1].ravel(), *hidden[:, -1], *last[:, :distinct].ravel()]
    params += list(last[:, distinct]) if biases[1] else []
    case = Case(
        widths, [name], biases, loss, X.tolist(), y.tolist(), 0.0, [float(p) for p in params]
    )
    yield Made(case, tags={"repeated": "one-hot" if hot else "rows"})
    yield Made(polished(case), tags={"repeated": "one-hot" if hot else "rows"})


def arm_kinks(rng: np.random.Generator) -> Iterator[Made]:
    """Samples on a kink or next to one, and whole units that decay has brought to 0."""
    name = str(rng.choice(KINKED))
    tiny = float(10.0 ** -rng.integers(8, 18)) if rng.random() < 0.7 else 0.0
    if rng.random() < 0.5:
        yield from _sample_on_kink(rng, name, tiny)
    else:
        yield from _unit_at_zero(rng, name, tiny)


def _sample_on_kink(rng: np.random.Generator, name: str, tiny: float) -> Iterator[Made]:
    case = draw_network(rng, name, int(rng.integers(1, 3)))
    case = replace(case, biases=[True] * len(case.biases))
    case = replace(
        case, params=rng.standard_normal(len(units(case.widths, case.biases))).tolist(), unit=[]
    )
    width = case.widths[1]
    sample, unit = int(rng.integers(len(case.X))), int(rng.integers(width))
    params = np.array(case.params)
    weights = params[: width * case.widths[0]].reshape(width, -1)
    place = width * case.widths[0] + unit
    params[place] = -weights[unit] @ np.array(case.X[sample]) + rng.choice([-1, 1]) * tiny
    made = constructed(rng, case.moved(params.tolist()), size_of_slopes(rng))
    if made is None:
        return
    yield Made(made, tags={"kink": "sample", "tiny": tiny})
    params[place] = -weights[unit] @ np.array(case.X[sample]) - rng.choice([-1, 1]) * tiny
    yield Made(made.moved(params.tolist()), tags={"kink": "sample", "tiny": tiny})


def _unit_at_zero(rng: np.random.Generator, name: str, tiny: float) -> Iterator[Made]:
    case = rough_targets(rng, replace(draw_network(rng, name, 1), loss="squared"))
    case = replace(case, decay=float(10 ** rng.uniform(-2.5, -0.2)))
    problem = point_of(case).problem
    found = sf.run_search(
        problem, starts=2, seed=int(rng.integers(1 << 30)), processes=1, max_iterations=300
    )
    for run in found.runs:
        net = problem.net.with_hidden([case.widths[1] + 1])
        params = {key: torch.zeros(shape, dtype=torch.float64) for key, shape in net.shapes.items()}
        for key, value in run.params.items():
            params[key][tuple(slice(0, s) for s in value.shape)] = value
        params["0.weight"][-1] = tiny * torch.from_numpy(rng.standard_normal(case.widths[0]))
        params["2.weight"][:, -1] = tiny * torch.from_numpy(rng.standard_normal(case.widths[-1]))
        wider = problem.with_net(net)
        yield Made(case_of(sf.Point(wider, params), case), tags={"kink": "unit", "tiny": tiny})


def arm_moved(rng: np.random.Generator) -> Iterator[Made]:
    """Points next to critical ones, by 1e-3 to 1e-12 of the parameters' units, and points anywhere."""
    for made in arm_scales(rng):
        case = polished(made.case)
        digits = int(rng.integers(3, 13))
        steps = rng.standard_normal(len(case.params)) * 10.0**-digits * np.array(case.unit)
        yield Made(case.moved((np.array(case.params) + steps).tolist()), tags={"moved": digits})
        scale = 10.0 ** rng.integers(-6, 3)
        anywhere = rng.standard_normal(len(case.params)) * scale * np.array(case.unit)
        yield Made(case.moved(anywhere.tolist()), tags={"moved": "anywhere"})


def arm_outputs(rng: np.random.Generator) -> Iterator[Made]:
    """Two or three outputs of very different size: the small ones' slopes cancel in the last layer only."""
    case = draw_network(rng, hidden=1)
    widths = [*case.widths[:2], int(rng.integers(2, 4))]
    case = replace(case, widths=widths, X=rng.standard_normal((12, widths[0])).tolist())
    unit = units(widths, case.biases)
    case = replace(case, params=rng.standard_normal(len(unit)).tolist(), unit=unit)
    f, jacobian = outputs_and_jacobian(case)
    samples, outputs = f.shape
    sizes = np.array([1.0, *10.0 ** -rng.integers(1, 13, outputs - 1)])
    blocks = jacobian.reshape(samples, outputs, -1)
    slopes = np.zeros_like(f)
    pull = np.zeros(jacobian.shape[1])
    first = widths[1] * (widths[0] + case.biases[0])  # the parameters that all outputs share
    for k in range(1, outputs):
        null = _null(blocks[:, k, first:].T)
        slopes[:, k] = null @ rng.standard_normal(null.shape[1]) * size_of_slopes(rng)
        pull[:first] -= sizes[k] ** 2 * blocks[:, k, :first].T @ slopes[:, k]
    null = _null(blocks[:, 0].T)
    slopes[:, 0] = np.linalg.lstsq(blocks[:, 0].T, pull, rcond=1e-11)[0]
    slopes[:, 0] += null @ rng.standard_normal(null.shape[1]) * size_of_slopes(rng)
    unit = units(widths, case.biases, 1.0, sizes)
    params = (np.array(case.params) * np.array(unit)).tolist()
    made = replace(case, y=((f - slopes) * sizes).tolist(), params=params, unit=unit)
    tags = {"uneven": round(-np.log10(sizes.min()))}
    made = polished(made) if rng.random() < 0.7 else made
    yield Made(made, sizes=(1.0, sizes), tags=tags)


def _null(rows: Array) -> Array:
    values, right = np.linalg.svd(rows)[1:]
    return right[int((values > 1e-11 * values.max(initial=0.0)).sum()) :].T


ARMS: dict[str, Callable[[np.random.Generator], Iterator[Made]]] = {
    "constructed": arm_constructed,
    "scales": arm_scales,
    "border": arm_border,
    "search": arm_search,
    "repeated": arm_repeated,
    "kinks": arm_kinks,
    "moved": arm_moved,
    "outputs": arm_outputs,
}
SCHEDULE = (
    *(
        "constructed",
        "scales",
        "constructed",
        "border",
        "scales",
        "constructed",
        "search",
        "outputs",
    ),
    *("repeated", "constructed", "kinks", "scales", "constructed", "moved", "border", "scales"),
)
