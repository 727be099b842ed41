"""Draws the picture of docs/induced.md: a gap that rescaling leaves alone, and a minimum refuted.

Run ``python docs/draw_induced.py`` (or ``make figures``); it writes ``docs/figures/induced.svg``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from draw_embeddings import BLUE, INK, ORANGE
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import write

import semiflat as sf

STEPS = sorted({0, *(round(10 ** (k / 6)) for k in range(25))})
"""Steps of gradient descent at which the gap is taken."""
SCALES: dict[float, Any] = {1.0: "-", 10.0: (0, (6, 2)), 100.0: (0, (1.5, 1.5))}


def trained() -> list[sf.Point]:
    """A 1-8-1 ReLU network along gradient descent.

    >>> points = trained()
    >>> points[0].loss > points[-1].loss
    True
    """
    X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * X + 1) - 0.8 * torch.tanh(1.5 * X - 1) + 0.3 * X**2
    problem = sf.Problem(sf.MLP([1, 8, 1], "relu"), X, y)
    at, found = problem.net.flatten(problem.net.random_params(0)), []
    for step in range(max(STEPS) + 1):
        point = sf.Point(problem, problem.net.unflatten(at))
        if step in STEPS:
            found.append(point)
        at = at - 0.05 * sf.gradient(point)
    return found


def rescaled(point: sf.Point, scale: float) -> sf.Point:
    """The same function: incoming weights times ``scale``, outgoing ones over it."""
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    params["0.weight"] *= scale
    params["0.bias"] *= scale
    params["2.weight"] /= scale
    return sf.Point(point.problem, params)


def flat() -> sf.Point:
    """A 1-2-1 tanh network of zeros but for the mean: the gradient is 0, the Hessian semidefinite.

    >>> flat().gradient_norm < 1e-15
    True
    """
    problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    bias_only = torch.tensor([0, 0, 0, 0, 0, 0, 2 / 3], dtype=torch.float64)
    return sf.Point(problem, problem.net.unflatten(bias_only))


def draw_gap(axes: Axes) -> None:
    """Largest entry of the gradient, and the gap, for three scales of one network."""
    points = trained()
    steps = [max(step, 0.5) for step in STEPS]
    for scale, style in SCALES.items():
        gradients = [rescaled(point, scale).gradient_norm for point in points]
        axes.loglog(steps, gradients, color=ORANGE, ls=style, lw=1.5)
        label = "‖∇R‖∞" if scale == 1 else f"‖∇R‖∞, w × {scale:g}"
        _say(axes, (steps[-1], gradients[-1]), label, (4, 0))
    for scale, style in SCALES.items():
        gaps = [sf.gradient_basis_gap(rescaled(point, scale)) for point in points]
        axes.loglog(steps, gaps, color=BLUE, ls=style, lw=2.2 - 0.5 * math.log10(scale))
    _say(axes, (steps[-1], gaps[-1]), "gap, all three", (4, 4))
    axes.set_xlim(0.5, 1.3e6)
    axes.set_xticks([0.5, 10, 100, 1000, 10000], ["0", "10", "100", "1000", "10000"])
    axes.minorticks_off()
    axes.set_xlabel("step of gradient descent")
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.set_title("distance from criticality", fontsize=9.5, color=INK)


def draw_refutation(axes: Axes) -> None:
    """The loss on the way down, at the point and after moves that keep the outputs."""
    point = flat()
    found = sf.refute_minimum(point)
    assert found.direction is not None
    assert found.descent is not None
    problem, net = point.problem, point.problem.net
    at, v, down = (net.flatten(each) for each in (point.params, found.direction, found.descent))
    reach = torch.linspace(0, 0.2, 61, dtype=torch.float64)
    for part, style in ((0.0, "-"), (0.5, (0, (6, 2))), (1.0, (0, (1.5, 1.5)))):
        way = at + part * found.size * v + reach[:, None] * down
        change = problem.risk(net.unflatten(way)) - point.loss
        axes.plot(reach, change, color=INK, ls=style, lw=1.6)
        label = "from θ" if part == 0 else f"from θ + {part * found.size:.1f} v"
        _say(axes, (0.2, float(change[-1])), label, (4, -3))
    axes.set_xlim(0, 0.26)
    axes.set_xticks([0, 0.05, 0.1, 0.15, 0.2])
    axes.set_xlabel("length along the way down from θ + εv")
    axes.set_ylabel("change of the loss")
    axes.set_title("no local minimum", fontsize=9.5, color=INK)


def _say(axes: Axes, at: tuple[float, float], text: str, shift: tuple[float, float]) -> None:
    axes.annotate(text, at, shift, textcoords="offset points", fontsize=8, va="center", color=INK)


def draw() -> Figure:
    """Both panels."""
    figure = Figure(figsize=(8.2, 3.3), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    left, right = figure.add_subplot(1, 2, 1), figure.add_subplot(1, 2, 2)
    draw_gap(left)
    draw_refutation(right)
    for axes in (left, right):
        axes.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    return figure


if __name__ == "__main__":
    write({"induced": draw})
