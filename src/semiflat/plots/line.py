"""The loss along a straight line through a point, and the parabola that its derivatives predict."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from semiflat.plots.drawing import BLUE, GREY, VERMILLION, Numbers, shared_power
from semiflat.plots.look import INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D


def draw_line(
    ax: Axes,
    t: Numbers,
    change: Numbers,
    curvature: float | None,
    slope: float = 0.0,
    noise: float = 0.0,
) -> None:
    """Solid the loss, dashed ``slope t + ½ curvature t²``, a dot at the point, a triangle at the lowest.

    Args:
        ax: to draw on.
        t: distance along the line.
        change: the loss minus that at the point.
        curvature: None if it is not known.
        slope: 0 at a critical point.
        noise: what rounding may make of a change.
    """
    ax.axhline(0, color=GREY, linewidth=0.6)
    if curvature is not None:
        parabola = slope * t + 0.5 * curvature * t**2
        ax.plot(t, parabola, color=VERMILLION, linewidth=1.5, dashes=(4, 2.5), zorder=3)
    ax.plot(t, change, color=BLUE, linewidth=2.0)
    ax.plot(0, 0, "o", color=INK, markersize=5)
    if np.nanmin(change) < -noise:
        lowest = int(np.nanargmin(change))
        ax.plot(t[lowest], change[lowest], "v", color=BLUE, markersize=7, markeredgecolor="white")
    _limits(ax, change, noise)
    shared_power(ax, np.array(ax.get_ylim()), "Δ loss")


def line_legend(loss: str, parabola: str, point: str) -> list[Line2D]:
    """What a legend says of it."""
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color=BLUE, linewidth=2.0, label=loss),
        Line2D([], [], color=VERMILLION, linewidth=1.5, dashes=(4, 2.5), label=parabola),
        Line2D([], [], color=INK, marker="o", markersize=5, linestyle="", label=point),
    ]


def _limits(ax: Axes, change: Numbers, noise: float) -> None:
    """Cut off what rises far above the point, so that the fall is seen; and the parabola's excess."""
    fall, top = -float(np.nanmin(change)), float(np.nanmax(change))
    if fall > noise:
        ax.set_ylim(-1.15 * fall, 1.1 * min(max(top, 0.12 * fall), 0.8 * fall))
    elif top > noise > 0:
        ax.set_ylim(-0.08 * top, 1.08 * top)
    elif noise > 0:
        ax.set_ylim(-10 * noise, 10 * noise)
