"""The generalisation error of a perturbed fit as inactive units are added to it (F19 §5.2).

Two choices that F19 leaves open are varied: the outgoing weights v of tanh units, which are arbitrary
where the training error is 0, and where in ``{w : w·x̃ < 0 on the data}`` ReLU units are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.f19.fits import GRID, UNITS, norm

RELATIVE = 0.01
"""Deviation of the perturbation over ‖θ*‖."""
Added = Callable[[sf.Point, Tensor, float], sf.Embedding]
"""Inactive units for a fit, with given outgoing weights, (count, 1), and a margin."""


def edge_of_the_data(fit: sf.Point, v: Tensor, margin: float) -> sf.Embedding:
    """ReLU units that face outwards, right and left by turns, and begin a margin beyond the data.

    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), [[-0.5], [0.25]], [0.0, 1.0])
    >>> fit = sf.Point(problem, problem.net.random_params(0))
    >>> edge_of_the_data(fit, torch.ones(2, 1), 0.125).incoming.tolist()
    [[1.0, -0.375], [-1.0, -0.625]]
    """
    sides = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(v))[: len(v)]
    farthest = (fit.problem.X * sides).amax(0)
    incoming = torch.stack([sides, -farthest - margin], 1)
    return sf.InactiveUnits(0, incoming=incoming, outgoing=v)


CHOICES: dict[tuple[str, str], Added] = {
    ("tanh", "v from N(0, 1)"): lambda fit, v, margin: sf.InactiveUnits(0, outgoing=v),
    ("tanh", "v = 0"): lambda fit, v, margin: sf.InactiveUnits(0, outgoing=0 * v),
    ("relu", "middle of B_K"): lambda fit, v, margin: sf.InactiveUnits.in_box(
        0, len(v), inputs=1, outgoing=v
    ),
    ("relu", "edge of the data"): edge_of_the_data,
}


def measured(
    fit: sf.Point, truth: Tensor, widths: Sequence[int], trials: int, margin: float, seed: int
) -> dict[str, Any]:
    """Errors of the fit, and for each choice and width the ratio of the perturbed networks' errors.

    Args:
        fit: a network with five units.
        truth: what its outputs on the grid should be, (64, 1).
        widths: H, 5 among them.
        trials: how many perturbations.
        margin: of units at the edge of the data.
        seed: of the outgoing weights and the perturbations.

    Returns:
        Plain values; ``ratios`` has for each choice a list of pairs, the ratio and the standard error
        of its distance from 1.
    """
    net, most, deviation = fit.problem.net, max(widths), RELATIVE * norm(fit)
    generator = torch.Generator().manual_seed(seed)
    v = torch.randn(most - UNITS, 1, generator=generator, dtype=torch.float64)
    # Units that two widths share are perturbed alike, so that the widths differ by the others alone.
    moves = {
        key: deviation * torch.randn(trials, *shape, generator=generator, dtype=torch.float64)
        for key, shape in net.with_hidden([most]).shapes.items()
    }
    narrow = _errors(fit, moves, truth)

    def ratio(added: Added, width: int) -> list[float]:
        wide = fit
        if width > UNITS:
            wide = fit.widened_by(added(fit, v[: width - UNITS], margin))
        change = (_errors(wide, moves, truth) - narrow) / narrow.mean()
        return [1 + float(change.mean()), float(change.std()) / trials**0.5]

    curve = net.forward(fit.params, GRID)
    surplus = [float(v[: width - UNITS].square().sum()) for width in widths]
    return {
        "deviation": deviation,
        "as_fitted": float((curve - truth).square().mean()),
        "perturbed": float(narrow.mean()),
        "standard_error": float(narrow.std() / narrow.mean()) / trials**0.5,
        "expected": [
            1 + _expected(each, width - UNITS, deviation) / float(narrow.mean())
            for each, width in zip(surplus, widths, strict=True)
        ],
        "ratios": {
            choice: [ratio(added, width) for width in widths]
            for (activation, choice), added in CHOICES.items()
            if activation == net.activations[0].name
        },
        "points": torch.cat([fit.problem.X, fit.problem.y], 1).tolist(),
        "curve": curve[:, 0].tolist(),
    }


def _errors(point: sf.Point, moves: dict[str, Tensor], truth: Tensor) -> Tensor:
    """Mean squared errors of the perturbed networks on the grid, (trials,)."""
    net, params = point.problem.net, point.params
    width = net.hidden[0]
    perturbed = {
        "0.weight": params["0.weight"] + moves["0.weight"][:, :width],
        "0.bias": params["0.bias"] + moves["0.bias"][:, :width],
        "2.weight": params["2.weight"] + moves["2.weight"][:, :, :width],
        "2.bias": params["2.bias"] + moves["2.bias"],
    }
    return (net.forward(perturbed, GRID) - truth).square().mean((1, 2))


def _expected(squares: float, count: int, deviation: float) -> float:
    """What tanh units add to the error, to lowest order in ρ: ``Σ (v² + ρ²) ρ² E[x² + 1]``."""
    return (squares + count * deviation**2) * deviation**2 * (1 / 3 + 1)
