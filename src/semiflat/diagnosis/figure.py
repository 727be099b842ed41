"""A diagnosis drawn: the gradient by layer, the loss along the lowest curvature, and the way to the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.limits import AtInfinity
from semiflat.plots.look import INK, style
from semiflat.points import Point

if TYPE_CHECKING:
    from semiflat.diagnosis.result import Diagnosis

POINTS = 61
"""Losses along each line."""
LINE = "#1f5a8a"


def drawn(found: Diagnosis) -> Any:
    """The figure.

    Raises:
        InputError: without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("drawing needs matplotlib: pip install 'semiflat[report]'") from None
    panels = _panels(found)
    with style():
        figure = Figure(figsize=(4.4 * len(panels), 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        rows = figure.subplots(1, len(panels), squeeze=False)
        for axes, panel in zip(rows[0], panels, strict=True):
            panel(axes, found)
    return figure


def _panels(found: Diagnosis) -> list[Callable[[Any, Diagnosis], None]]:
    """The parts that have something to see, from left to right."""
    parts: list[Callable[[Any, Diagnosis], None]] = []
    if found.steep:
        parts.append(_layers)
    elif found.dense and not found.no_hessian:
        parts.append(_spectrum)
    if found.curvature is not None:
        parts.append(_along_curvature)
    there = found.polished.point
    if there is not None and there is not found.point and not isinstance(there.problem, AtInfinity):
        parts.append(_to_the_end)
    return parts or [_nothing]


def _spectrum(axes: Any, found: Diagnosis) -> None:
    found.point.plot_spectrum(ax=axes)


def _layers(axes: Any, found: Diagnosis) -> None:
    names = [str(each.layer) for each in found.gradient]
    axes.bar(names, [100 * each.share for each in found.gradient], color=LINE, edgecolor=INK)
    axes.set(xlabel="layer", ylabel="% of the squared gradient", title="Gradient by layer")
    axes.set_ylim(0, 100)


def _along_curvature(axes: Any, found: Diagnosis) -> None:
    axes.set(title="Loss along the lowest curvature")
    lowest = found.curvature
    assert lowest is not None
    way = found.point.problem.net.flatten(lowest.direction)
    reach = 1.6 * lowest.step if lowest.step else 1.0
    t = torch.linspace(-reach / 4, reach, POINTS, dtype=torch.float64)
    axes.plot(t, losses(found.point, way, t), color=LINE)
    axes.plot(0, found.point.loss, "o", color=INK, label="the point")
    axes.plot(
        lowest.step, found.point.loss - lowest.drop, "v", color=INK, label="best step that way"
    )
    axes.set(xlabel="distance along it", ylabel="loss")
    axes.legend(frameon=False)


def _to_the_end(axes: Any, found: Diagnosis) -> None:
    axes.set(title="Loss on the way to the polished point")
    there = found.polished.point
    assert there is not None
    net = found.point.problem.net
    way = net.flatten(there.params) - net.flatten(found.point.params)
    t = torch.linspace(-0.1, 1.1, POINTS, dtype=torch.float64)
    axes.plot(t, losses(found.point, way, t), color=LINE)
    axes.plot(0, found.point.loss, "o", color=INK, label="the point")
    axes.plot(1, there.loss, "v", color=INK, label="polished")
    axes.set(xlabel="part of the way", ylabel="loss")
    axes.legend(frameon=False)


def losses(point: Point, way: Tensor, lengths: Tensor) -> list[float]:
    """The loss on a line from a point along ``way`` (P,)."""
    problem, net = point.problem, point.problem.net
    vector = net.flatten(point.params)
    return [float(problem.risk(net.unflatten(vector + t * way))) for t in lengths.tolist()]


def _nothing(axes: Any, found: Diagnosis) -> None:
    axes.text(
        0.5,
        0.5,
        "the gradient is 0 to rounding, no curvature is\nsurely negative, and polishing leads nowhere else",
        ha="center",
        va="center",
        transform=axes.transAxes,
    )
    axes.set_axis_off()
