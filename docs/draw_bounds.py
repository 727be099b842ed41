"""Draws the picture of docs/bounds.md: what surplus units cost, tanh beside relu.

Run ``python docs/draw_bounds.py`` (or ``make figures``); it writes ``docs/figures/bounds.svg``. All that is
drawn is computed here, in about a minute.
"""

from __future__ import annotations

from typing import Any

import torch
from draw_embeddings import BLUE, INK, ORANGE
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import write
from torch import Tensor

import semiflat as sf

SURPLUS = (0, 1, 2, 4, 8, 16, 32, 64, 128)
"""Surplus units E."""

STYLES: dict[str, dict[str, Any]] = {
    "tanh": {"color": ORANGE, "ls": "-", "marker": "o"},
    "relu": {"color": BLUE, "ls": (0, (6, 2)), "marker": "s"},
}


def data(samples: int = 2000, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Points of the unit disk, classes divided by a parabola, one in fifty flipped.

    >>> X, y = data()
    >>> bool((torch.linalg.vector_norm(X, dim=1) <= 1).all()), round(float(y.mean()), 2)
    (True, 0.55)
    """
    generator = torch.Generator().manual_seed(seed)
    radius = torch.rand(samples, generator=generator, dtype=torch.float64).sqrt()
    angle = 2 * torch.pi * torch.rand(samples, generator=generator, dtype=torch.float64)
    X = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    flipped = torch.rand(samples, generator=generator) < 0.02
    return X, ((X[:, 0] + X[:, 1].square() > 0.2) ^ flipped).double()


def trained(activation: str) -> sf.Point:
    """A network with four hidden units at a minimum on these data."""
    problem = sf.Problem(sf.MLP([2, 4, 1], activation), *data(), "logistic", weight_decay=1e-3)
    return sf.find_critical_point(problem, starts=8, seed=0)


def widened(point: sf.Point, count: int) -> sf.Point:
    """The same with surplus inactive units: of the box B_2 for relu, at w⁰ = 0 and v = 0 for tanh."""
    if not count:
        return point
    if point.problem.net.activations[0].smooth:
        return sf.InactiveUnits(0, count)(point)
    return sf.InactiveUnits.in_box(0, count, inputs=2)(point)


def bounds(activation: str) -> list[sf.PacBayesBound]:
    """The bound for each number of surplus units."""
    point = trained(activation)
    return [sf.pac_bayes_bound(widened(point, count), draws=1000) for count in SURPLUS]


def draw() -> Figure:
    """Two panels over the number of surplus units: the bound and what it bounds, and KL(Q‖P)."""
    figure = Figure(figsize=(7.2, 3.4), facecolor="white")
    FigureCanvasAgg(figure)
    left = figure.add_axes((0.085, 0.15, 0.385, 0.76))
    right = figure.add_axes((0.595, 0.15, 0.385, 0.76))
    for activation, style in STYLES.items():
        found = bounds(activation)
        places = range(len(SURPLUS))
        line = {"lw": 1.6, "ms": 4.5, **style}
        left.plot(places, [bound.value for bound in found], **line)
        risk = {**line, "lw": 0.9, "ms": 3.5, "mfc": "white"}
        left.plot(places, [bound.empirical.mean for bound in found], **risk)
        right.plot(places, [bound.kl for bound in found], **line)
        _end(left, found[-1].value, activation)
        _end(right, found[-1].kl, activation)
    trivial = found[-1].trivial
    left.axhline(trivial, color=INK, lw=0.8, ls=":")
    _note(left, (0.1, trivial - 0.013), "always the most frequent class", "top")
    _note(left, (0.1, 0.172), "the bound (filled)", "bottom")
    _note(left, (0.1, 0.053), "on the data (hollow)", "bottom")
    left.set_ylim(0, 0.52)
    left.set_ylabel("zero-one loss", fontsize=9, color=INK)
    left.set_title("the true loss is at most (δ = 0.05)", fontsize=9.5, color=INK)
    right.set_ylim(0, 380)
    right.set_ylabel("KL(Q‖P) (nats)", fontsize=9, color=INK)
    right.set_title("what the posterior costs", fontsize=9.5, color=INK)
    for axes in (left, right):
        _axis(axes)
    return figure


def _axis(axes: Axes) -> None:
    axes.set_xticks(range(len(SURPLUS)), [str(count) for count in SURPLUS])
    axes.set_xlim(-0.3, len(SURPLUS) - 0.2)
    axes.set_xlabel("surplus units E", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _end(axes: Axes, height: float, text: str) -> None:
    at, shift = (len(SURPLUS) - 1, height), (-4, 7)
    axes.annotate(text, at, shift, textcoords="offset points", fontsize=9, ha="center", color=INK)


def _note(axes: Axes, at: tuple[float, float], text: str, vertical: str) -> None:
    axes.text(*at, text, fontsize=8, ha="left", va=vertical, color=INK)


if __name__ == "__main__":
    write({"bounds": draw})
