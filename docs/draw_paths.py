"""Draws the pictures of docs/paths.md: the loss along three paths, each as the library finds it.

Run ``python docs/draw_paths.py`` (or ``make figures``); it writes ``docs/figures/path-*.svg``.
"""

from __future__ import annotations

import math

import torch
from draw_embeddings import BLUE, INK, ORANGE
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import write

import semiflat as sf

SAMPLES = 50


def wide_problem() -> sf.Problem:
    """50 samples, 50 units in the first of two hidden layers, sigmoid."""
    X = torch.linspace(-2, 2, SAMPLES, dtype=torch.float64)[:, None]
    return sf.Problem(sf.MLP([1, SAMPLES, 3, 1], "sigmoid"), X, torch.sin(4 * X) + 0.3 * X**2)


def to_zero() -> sf.ZeroLossPath:
    """The path of P21 Thm 3 from random parameters whose output weights are all positive.

    >>> to_zero().check.largest_increase < 1e-9
    True
    """
    problem = wide_problem()
    params = problem.net.random_params(seed=1)
    params["4.weight"] = params["4.weight"].abs()
    return sf.path_to_zero_loss(sf.Point(problem, params))


def region() -> sf.NonAttractingRegion:
    """The region over a 1-1-1 GELU network's minimum, with three copies.

    >>> region().saddle_verdict.kind.label
    'strict saddle'
    """
    x = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    y = torch.tanh(2 * x + 1) - 0.8 * torch.tanh(1.5 * x - 1) + 0.3 * x**2
    problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), x, y)
    return sf.non_attracting_region(sf.find_critical_point(problem, starts=8, seed=0), copies=3)


def at_infinity() -> sf.MinimumAtInfinity:
    """A minimum at infinity of a 1-3-1 sigmoid network.

    >>> at_infinity().check().radius > 0
    True
    """
    x = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    return sf.minimum_at_infinity(sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), x, x + x**2))


def draw_to_zero() -> Figure:
    """Loss along Γ0 to Γ3."""
    figure, (axes,) = _figure(1, 3.3)
    to_zero().plot(places=80, ax=axes).set_title("", loc="left")
    return figure


def draw_region() -> Figure:
    """Loss along the way out, and the lowest eigenvalue of the Hessian across the edge."""
    figure, (left, right) = _figure(2, 3.1)
    found = region()
    found.path.plot(places=80, ax=left).set_title("", loc="left")
    t = torch.linspace(0, found.path.breaks[1], 81, dtype=torch.float64)
    lowest = [
        float(torch.linalg.eigvalsh(sf.hessian(sf.Point(found.path.problem, found.path(at))))[0])
        for at in t.tolist()
    ]
    right.plot(t, lowest, color=INK, linewidth=1.6)
    right.axhline(0, color="#999999", linewidth=0.6)
    right.axvline(found.edge, color=ORANGE, linewidth=1.2, linestyle="--")
    right.annotate(
        "the edge: a share is 0",
        (found.edge, min(lowest) / 2),
        (found.edge * 0.92, min(lowest) / 2),
        ha="right",
        fontsize=8.5,
        color=INK,
    )
    right.set_xlabel("t, along the shares")
    right.set_ylabel("lowest eigenvalue of the Hessian")
    return figure


def draw_infinity() -> Figure:
    """How the loss on the ray tends to its limit, and the loss along another way."""
    figure, (left, right) = _figure(2, 3.1)
    found = at_infinity()
    biases = torch.linspace(0, 30, 61, dtype=torch.float64)
    gaps = [found.ray(bias).loss - found.loss for bias in biases.tolist()]
    left.semilogy(biases, gaps, color=INK, linewidth=1.6, label="on the ray")
    slope = float(found.slopes.sum()) * torch.exp(-biases)
    left.semilogy(biases, slope, ":", color=BLUE, linewidth=1.6, label="Σ slopes · exp(−bias)")
    left.yaxis.set_major_formatter(lambda y, _: f"1e{round(math.log10(y))}".replace("-", "−"))
    left.set_xlabel("bias of the last hidden units")
    left.set_ylabel("loss − loss at infinity")
    left.legend(frameon=False, fontsize=8.5)
    found.path.plot(places=80, ax=right).set_title("", loc="left")
    return figure


def _figure(panels: int, height: float) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.2, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(1, panels, k + 1) for k in range(panels)]
    for one in axes:
        one.tick_params(labelsize=8, colors=INK)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return figure, axes


if __name__ == "__main__":
    write(
        {"path-to-zero": draw_to_zero, "path-region": draw_region, "path-infinity": draw_infinity}
    )
