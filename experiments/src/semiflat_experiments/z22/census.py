"""Z22 §6 at one point: dimensions of embedded sets, signs of Hessians, ways down."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.dense import dense_gradient, dense_hessian
from semiflat_experiments.z22.second_part import as_written, below_output, second_part
from semiflat_experiments.z22.sets import WideSet, span

SHAPES = {
    "1-2-1": ((1, 2, 1), (1, 4, 1), "squared"),
    "2-2-2": ((2, 2, 2), (2, 5, 2), "squared"),
    "2-3-2 logistic": ((2, 3, 2), (2, 5, 2), "logistic"),
    "2-2-2-1": ((2, 2, 2, 1), (2, 3, 4, 1), "squared"),
    "2-3-3-2": ((2, 3, 3, 2), (2, 5, 4, 2), "squared"),
    "2-2-2-2-1 logistic": ((2, 2, 2, 2, 1), (2, 4, 3, 3, 1), "logistic"),
}
"""Narrow widths, wide widths, loss."""
ACTIVATIONS = ("tanh", "sigmoid", "softplus", "gelu")
SAMPLES = 40
ZERO, CLEAR = 1e-12, 1e-10
"""Of the largest eigenvalue: below the first it is 0, above the second it is not, between it is unclear."""

HALVINGS = 12

Counts = tuple[int, int, int]


def planted(shape: str, seed: int, minimum: bool, draws: int) -> sf.Point | None:
    """A critical point at random parameters: targets whose errors no parameter moves.

    The errors are drawn, projected to the complement of the derivatives of the outputs, and for a minimum
    halved until the Hessian is positive definite. Such a point needs no search, in networks of any depth,
    and is critical to rounding.

    Args:
        minimum: whether the Hessian is to be positive definite; else errors are as large as the outputs.
        draws: of parameters, errors and inputs to try.

    Returns:
        None if no draw comes to a minimum.

    >>> point = planted("2-3-3-2", 0, True, draws=5)
    >>> point.problem.net.widths, bool(dense_gradient(point).abs().max() < 1e-14)
    ((2, 3, 3, 2), True)
    """
    for draw in range(draws):
        means, errors, size, point = _errors_apart(shape, seed, draw)
        for _ in range(HALVINGS):
            problem = sf.Problem(
                point.problem.net, point.problem.X, means - size * errors, SHAPES[shape][2]
            )
            point = sf.Point(problem, point.params)
            if not minimum:
                return point
            values = torch.linalg.eigvalsh(dense_hessian(point))
            if values[0] > 100 * CLEAR * values[-1]:
                return point
            size /= 2
    return None


def _errors_apart(shape: str, seed: int, draw: int) -> tuple[Tensor, Tensor, float, sf.Point]:
    """Outputs in the units of the targets, errors orthogonal to all derivatives, how large, and the point."""
    widths, _, loss = SHAPES[shape]
    net = sf.MLP(widths, ACTIVATIONS[seed % len(ACTIVATIONS)])
    generator = torch.Generator().manual_seed(10**6 + 100 * seed + draw)
    X = 1.5 * torch.randn(SAMPLES, widths[0], generator=generator, dtype=torch.float64)
    gaussian = torch.randn(net.parameter_count, generator=generator, dtype=torch.float64)
    params = net.unflatten(1.5 * gaussian)
    f = net.forward(params, X)
    point = sf.Point(sf.Problem(net, X, torch.full_like(f, 0.5), loss), params)
    errors = torch.randn(f.numel(), generator=generator, dtype=torch.float64)
    space = torch.linalg.qr(sf.jacobian(point).reshape(-1, net.parameter_count))[0]
    for _ in range(2):  # twice for rounding
        errors = errors - space @ (space.T @ errors)
    errors = errors.reshape(f.shape)
    if loss == "squared":
        return f, errors, float(f.std()), point
    means = torch.sigmoid(f)
    return means, errors, 0.95 * float(_room(means, errors)), point


def _room(means: Tensor, errors: Tensor) -> Tensor:
    """The largest factor with which ``means − factor · errors`` stays between 0 and 1."""
    return torch.where(errors > 0, means / errors, (means - 1) / errors).min()


def counts(hessian: Tensor) -> Counts | None:
    """Positive, zero and negative eigenvalues; None if one is too near to 0 to say.

    >>> counts(torch.diag(torch.tensor([1.0, 0.0, -2.0], dtype=torch.float64)))
    (1, 1, 1)
    """
    values = torch.linalg.eigvalsh(hessian)
    parts = values / values.abs().max()
    if bool(((parts.abs() > ZERO) & (parts.abs() < CLEAR)).any()):
        return None
    positive, negative = int((parts >= CLEAR).sum()), int((parts <= -CLEAR).sum())
    return positive, len(values) - positive - negative, negative


def embeddings(shape: str, net: sf.MLP, seed: int) -> dict[str, sf.Embedding]:
    """One of each kind that Z22 has: as many units more as the shape says, or three- and two-fold."""
    before, after, _ = SHAPES[shape]
    wide = [own + w - n for own, n, w in zip(net.widths, before, after, strict=True)]
    rng = np.random.default_rng(seed)
    steps: list[sf.Embedding] = []
    for layer, (own, more) in enumerate(zip(net.hidden, wide[1:-1], strict=True)):
        for unit in rng.integers(-1, own, more - own).tolist():
            share = float(rng.normal())
            one = (
                sf.NullUnits(layer, [share])
                if unit < 0
                else sf.Replicate(layer, unit, [share, None])
            )
            steps.append(one)
    composed = steps[0]
    for step in steps[1:]:
        composed = composed >> step
    return {
        "general compatible": sf.Compatible.random(net, wide, seed=seed),
        "K-step composition": composed,
        "three-fold global splitting": sf.GlobalSplit(),
        "two-fold global null": sf.GlobalNull(float(rng.normal())),
    }


def dimensions(shape: str, point: sf.Point, seed: int) -> list[dict[str, Any]]:
    """Z22's estimate, the rank of the tangents and the affine span, without and with null units."""
    net, wide = point.problem.net, SHAPES[shape][1]
    rng = np.random.default_rng(seed)
    found = []
    for lowest in (0, -1):
        index = [
            [
                *range(own),
                *(lowest if k == 0 else int(rng.integers(0, own)) for k in range(more - own)),
            ]
            for own, more in zip(net.hidden, wide[1:-1], strict=True)
        ]
        embedding = sf.Compatible.random(net, wide, seed=seed, index_map=index)
        wide_set, placed = WideSet.of(embedding, point), embedding(point)
        own_way = placed.problem.net.flatten(placed.params)
        hessian = dense_hessian(placed.materialize())
        here = counts(hessian)
        added = [0, *(m - n for n, m in zip(net.hidden, wide[1:-1], strict=True)), 0]
        found.append(
            {
                "null_units": -lowest * len(net.hidden),
                "K": sum(added),
                "estimate": sum(added) + sum(a * b for a, b in pairwise(added)),
                "freedom": embedding.degrees_of_freedom(net),
                "rank": wide_set.tangent_rank(),
                "library_rank": embedding.tangent_rank(point),
                "span": span(embedding, point, seed),
                "apart": float((wide_set.parameters(wide_set.start) - own_way).abs().max()),
                "zeros": None if here is None else here[1],
                "gradient": float(dense_gradient(placed.materialize()).abs().max()),
            }
        )
    return found


def signs(shape: str, point: sf.Point, seed: int) -> list[dict[str, Any]]:
    """Eigenvalue counts before and after each embedding, and the library's for the wide point."""
    narrow = counts(dense_hessian(point))
    found = []
    for name, embedding in embeddings(shape, point.problem.net, seed).items():
        placed = embedding(point)
        wide = counts(dense_hessian(placed.materialize()))
        said = sf.judge(placed).inertia
        found.append(
            {"embedding": name, "narrow": narrow, "wide": wide, "said": said and tuple(said)}
        )
    return found


def kernel_lost(point: sf.Point, seed: int) -> dict[str, Any]:
    """The counts where the output alone is kept: a null unit, copied with outgoing weights ±d.

    ``AᵀH_wA = H_n`` holds there as well.
    """
    net = point.problem.net
    last = net.depth - 2
    with_null = sf.NullUnits(last, [0.4])(point).materialize()
    d = np.random.default_rng(seed).normal(size=net.outputs)
    step = sf.Replicate(last, net.hidden[last], ["1/2", "1/2"], offsets=[d, -d])
    placed = step(with_null)
    narrow, wide = dense_hessian(with_null), dense_hessian(placed.materialize())
    A = torch.from_numpy(step.matrix(with_null.problem.net).A.toarray())
    apart = float((A.T @ wide @ A - narrow).abs().max() / narrow.abs().max())
    return {"narrow": counts(narrow), "wide": counts(wide), "apart": apart}


def ways_down(point: sf.Point) -> dict[str, Any]:
    """Z22 Lemmas 6.1 and 6.2 at a minimum, along the paper's directions, and the library's escape."""
    problem, few = point.problem, below_output(point)
    second = second_part(point)
    values, vectors = torch.linalg.eigh(second[:few, :few])
    split = sf.GlobalSplit()(point).materialize()
    hessian = dense_hessian(split)
    size = float(hessian.abs().max())
    lemma = []
    for value, v in ((values[0], vectors[:, 0]), (values[-1], vectors[:, -1])):
        # (v, −v, 0) where H⁽²⁾ curves down, (v/2, v/2, v) where it curves up.
        parts = (1.0, -1.0, 0.0) if float(value) < 0 else (0.5, 0.5, 1.0)
        u = _in_copies(split, problem.net, v, parts)
        expected = 2 * float(value) if float(value) < 0 else -float(value) / 2
        lemma.append(abs(float(u @ hessian @ u) - expected) / size)
    escape = sf.escape(point)
    down = None
    if escape.point is not None:
        reached = sf.Point(escape.point.problem, escape.point.params)
        lowest = torch.linalg.eigvalsh(dense_hessian(reached))
        down = {
            "least": float(lowest[0] / lowest.abs().max()),
            "gradient": float(dense_gradient(reached).abs().max()),
            "loss_apart": abs(float(reached.loss) - float(point.loss)),
        }
    return {
        "second_part": float(second.norm()),
        "split_scale": size,
        "below_output": float(values.abs().max()),
        "split_least": float(torch.linalg.eigvalsh(hessian)[0] / size),
        "lemma_apart": max(lemma),
        "escape": escape.kind,
        "new_units": escape.new_units,
        "down": down,
    }


def _in_copies(split: sf.Point, net: sf.MLP, v: Tensor, parts: tuple[float, ...]) -> Tensor:
    """A direction of the parameters below the last layer, so many times in each copy of them."""
    narrow = net.unflatten(torch.cat([v, torch.zeros(net.parameter_count - len(v)).to(v)]))
    wide = {key: torch.zeros_like(tensor) for key, tensor in split.params.items()}
    for copy, part in enumerate(parts):
        for layer in range(net.depth - 1):
            rows, columns = net.widths[layer + 1], net.widths[layer]
            place = slice(copy * rows, (copy + 1) * rows)
            below = slice(copy * columns, (copy + 1) * columns) if layer else slice(None)
            wide[f"{2 * layer}.weight"][place, below] = part * narrow[f"{2 * layer}.weight"]
            wide[f"{2 * layer}.bias"][place] = part * narrow[f"{2 * layer}.bias"]
    return split.problem.net.flatten(wide)


def as_printed(point: sf.Point) -> list[float]:
    """How far ``H⁽²⁾,[L−1]`` with j up to m_L, as printed, and up to m_{L−1} is from the derivative."""
    few, widths = below_output(point), point.problem.net.widths
    block = second_part(point)[:few, :few]
    return [
        float((as_written(point, terms) - block).norm() / block.norm())
        for terms in (widths[-1], widths[-2])
    ]
