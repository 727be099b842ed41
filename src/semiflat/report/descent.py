"""The loss along the ways down from strict saddles, and the parabola the verdict predicts."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from semiflat.records.study import Descent, StudyRecord
from semiflat.report.drawing import (
    BLUE,
    GREY,
    VERMILLION,
    Figure,
    array,
    drawable,
    minus,
    shared_power,
)
from semiflat.report.look import INK, canvas, png
from semiflat.report.numbers import size

_MOST = 6

CAPTION = (
    "Δ loss: the loss on the straight line through a saddle along its direction of descent, minus "
    "the loss at the saddle (the dot). Solid: as the wide network computes it. Dashed: ½κt², with "
    "the curvature κ that the verdict predicts from the narrow network alone. To see: the two touch "
    "at the saddle, and the loss falls to both sides of it. Further out the loss has its own shape; "
    "from its lowest point (the triangle) the descent goes on in all directions."
)


def draw_descent(record: StudyRecord) -> Figure | None:
    """Small multiples, one for each recorded way down, up to six."""
    curves = [
        curve
        for curve in record.curves.descent
        if drawable(curve.step, curve.loss) and curve.loss_before is not None
    ][:_MOST]
    if not curves:
        return None
    columns = min(2, len(curves))
    lines = -(-len(curves) // columns)
    figure = canvas(2.35 * lines + 0.45)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, curve in zip(axes, curves, strict=False):
        _panel(ax, curve)
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(curves) - columns) : len(curves)]:
        ax.set_xlabel("t, distance along the direction")
    figure.legend(
        handles=[
            Line2D([], [], color=BLUE, linewidth=2.0, label="loss of the wide network"),
            Line2D([], [], color=VERMILLION, linewidth=1.5, dashes=(4, 2.5), label="½κt²"),
            Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label="saddle"),
        ],
        loc="outside upper center",
        ncols=3,
        frameon=False,
    )
    return Figure("descent", png(figure), "Ways down from saddles", CAPTION)


def _panel(ax: Axes, curve: Descent) -> None:
    t, change = array(curve.step), array(curve.loss) - array([curve.loss_before])
    ax.axhline(0, color=GREY, linewidth=0.6)
    if curve.curvature is not None:
        ax.plot(t, 0.5 * curve.curvature * t**2, color=VERMILLION, linewidth=1.5, dashes=(4, 2.5))
    ax.plot(t, change, color=BLUE, linewidth=2.0)
    ax.plot(0, 0, "o", color=INK, markersize=5)
    lowest = int(np.nanargmin(change))
    ax.plot(t[lowest], change[lowest], "v", color=BLUE, markersize=7, markeredgecolor="white")
    _limits(ax, change)
    shared_power(ax, np.array(ax.get_ylim()), "Δ loss")
    kappa = "" if curve.curvature is None else f"κ = {minus(size(curve.curvature, 3))}"
    ax.set_title(f"{curve.embedded}   {kappa}\n{shortened(curve.embedding)}")
    ax.title.set_fontsize(8.5)


def _limits(ax: Axes, change: np.ndarray) -> None:
    """Cut off what rises far above the saddle, so that the fall is seen."""
    fall = -float(np.nanmin(change))
    if fall <= 0:
        return
    rise = min(max(float(np.nanmax(change)), 0.12 * fall), 0.8 * fall)
    ax.set_ylim(-1.15 * fall, 1.1 * rise)


def shortened(embedding: str, most: int = 46) -> str:
    """An embedding's text, short enough for half a figure."""
    text = embedding.replace("layer=", "").replace("unit=", "")
    text = text.replace("weights=", "").replace("biases=", "")
    return text if len(text) <= most else f"{text[: most - 1]}…"
