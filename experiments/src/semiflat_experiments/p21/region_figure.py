"""The figure of P21 §V-D: the minimum, the way to the saddle, and off it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from semiflat_experiments.figure import LINES, SHADES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor


def draw_region(figure: Figure, record: dict[str, Any]) -> None:
    """As P21 Fig. 3: (a) to the left, (b) and (c) to the right."""
    figure.set_size_inches(7.2, 4.4)
    axes = figure.subplot_mosaic([["above", "shares"], ["below", "fall"]])
    steps = torch.linspace(-1, 1, len(record["fall"]), dtype=torch.float64)
    _draw_random(axes["above"], axes["below"], steps, record)
    _draw_shares(axes["shares"], record)
    axes["fall"].plot(steps, record["fall"], color=SHADES[1])
    axes["fall"].set_xlabel("step along the descent direction")
    axes["fall"].set_title("(c) off the saddle", loc="left", fontsize=9)
    for name in ("above", "below", "fall"):
        axes[name].set_ylabel("loss R")


def _draw_random(above: Axes, below: Axes, steps: Tensor, record: dict[str, Any]) -> None:
    for number, losses in enumerate(record["random"]["some"]):
        above.plot(
            steps, losses, color=SHADES[number % 4], linestyle=LINES[number % 4], linewidth=0.9
        )
    above.set_title("(a) from the minimum, random directions", loc="left", fontsize=9)
    below.plot(steps, record["random"]["lowest"], color=SHADES[2])
    below.axhline(record["loss"], color=SHADES[3], linewidth=0.8, linestyle=":")
    below.set_title("      the lowest over all of them", loc="left", fontsize=9)
    below.set_xlabel("distance from the minimum")


def _draw_shares(axes: Axes, record: dict[str, Any]) -> None:
    way = torch.linspace(0, 1, len(record["lowest"]))
    lowest = axes.plot(way, record["lowest"], color=SHADES[2], label="lowest eigenvalue")
    axes.axvline(record["edge"], color=SHADES[3], linewidth=0.8, linestyle=":")
    axes.set_ylabel("lowest eigenvalue of ∇²R")
    axes.set_xlabel("way from the minimum (0) to the saddle (1)")
    axes.set_title("(b) along the shares", loc="left", fontsize=9)
    right = axes.twinx()
    loss = right.plot(
        way, [record["loss"]] * len(way), color=SHADES[1], linestyle="--", label="loss R"
    )
    right.set_ylim(0, 2 * record["loss"])
    right.set_ylabel("loss R")
    axes.legend(handles=[*lowest, *loss], frameon=False, fontsize=8, loc="lower left")
