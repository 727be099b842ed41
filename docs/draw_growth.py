"""Draws the pictures of docs/growth.md from the record of benchmarks/growth.

Run ``python docs/draw_growth.py`` (or ``make figures``); it writes ``docs/figures/growth-*.svg``.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

from draw_embeddings import BLUE, GREY, INK, ORANGE
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from pictures import write

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from common import read  # noqa: E402
from growth.summary import OURS, SCRATCH, by_group, by_task, interval  # noqa: E402

GREEN, PURPLE, SKY, YELLOW = "#009E73", "#AA4499", "#56B4E9", "#B8860B"
LAYERS = {
    "linear": BLUE,
    "gated unit": GREEN,
    "head": PURPLE,
    "convolution": SKY,
    "convolution with batch norm": ORANGE,
    "linear in a transformer": YELLOW,
}
STATES = ("untrained", "some epochs", "all epochs")


def record() -> dict[str, Any]:
    """Of the last full run."""
    return read(BENCHMARKS / "results" / "growth.json")


def draw_groups() -> Figure:
    """What was predicted, and what came, by group and state."""
    found = by_group(record())
    figure = Figure(figsize=(8.2, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    groups = list(dict.fromkeys((task, group) for task, _, group in found))
    for row, state in enumerate(STATES):
        axes = _clean(figure.add_subplot(len(STATES), 1, row + 1))
        for k, (task, group) in enumerate(groups):
            parts = found.get((task, state, group))
            if parts is None:
                continue
            bars = (("predicted", BLUE), ("one_step", GREEN), ("one_step_held", ORANGE))
            for shift, (key, colour) in enumerate(bars):
                at, high = k + 0.26 * (shift - 1), 100 * parts[key]
                axes.bar(at, high, 0.24, color=colour)
                if key == "predicted":
                    axes.errorbar(
                        at, high, 100 * parts["error"], color=INK, capsize=2, linewidth=0.9
                    )
        axes.axhline(0, color=GREY, linewidth=0.6)
        axes.set_ylabel("% of the loss")
        axes.set_title(state, loc="left", fontsize=9, color=INK)
        axes.set_xlim(-0.6, len(groups) - 0.4)
        axes.set_xticks(range(len(groups)))
        words = [f"{task}\n{group}".replace(" ", "\n", 1) for task, group in groups]
        axes.set_xticklabels(words if row == len(STATES) - 1 else [], fontsize=7)
    names = "predicted on confirming samples", "came there", "came on held-out data"
    handles = [Patch(color=colour) for colour in (BLUE, GREEN, ORANGE)]
    figure.legend(handles, names, frameon=False, fontsize=8, ncols=3, loc="outside upper center")
    return figure


def draw_scatter() -> Figure:
    """Every growth: what was predicted, and what came on held-out data."""
    cases = [case for case in record().values() if "growths" in case]
    figure = Figure(figsize=(8.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = (("one_step_all", "one step, all batches"), ("one_step_held", "one step, held out"))
    parts = {
        key: [
            (case["layer"], each["predicted"] / each["loss"], each[key] / each["loss"])
            for case in cases
            for each in case["growths"]
        ]
        for key, _ in panels
    }
    low = 1e-4
    for k, (key, title) in enumerate(panels):
        axes = _clean(figure.add_subplot(1, 2, k + 1))
        axes.plot([low, 1], [low, 1], color=INK, linewidth=0.9)
        axes.fill_between(
            [low, 1], [low / 2, 0.5], [2 * low, 2], color=GREY, alpha=0.2, linewidth=0
        )
        for layer, colour in LAYERS.items():
            some = [each[1:] for each in parts[key] if each[0] == layer]
            x, y = ([max(each[axis], low) for each in some] for axis in (0, 1))
            axes.scatter(x, y, s=9, color=colour, alpha=0.65, linewidth=0, label=layer)
        axes.set(xscale="log", yscale="log", xlim=(low * 0.8, 1.2), ylim=(low * 0.8, 1.2))
        axes.set_xlabel("predicted, part of the loss")
        axes.set_ylabel("came, part of the loss")
        axes.set_title(title, loc="left", fontsize=9, color=INK)
        ticks = [10.0**-p for p in range(4, -1, -1)]
        axes.set_xticks(ticks, [_power(tick, low) for tick in ticks])
        axes.set_yticks(ticks, [_power(tick, low) for tick in ticks])
        axes.minorticks_off()
        if not k:
            axes.legend(frameon=False, fontsize=7.5, loc="upper left")
    return figure


def _power(value: float, low: float) -> str:
    return f"≤ {value:g}" if value <= low else f"{value:g}"


def draw_methods() -> Figure:
    """Losses after equal epochs, of every way on every task, with intervals."""
    found = by_task(record())
    figure = Figure(figsize=(8.2, 7.2), layout="constrained")
    FigureCanvasAgg(figure)
    ways = list(dict.fromkeys(way for each in found.values() for way in each))
    columns = 2
    rows = math.ceil(len(found) / columns)
    for k, (task, runs) in enumerate(found.items()):
        axes = _clean(figure.add_subplot(rows, columns, k + 1))
        means = list[float]()
        for row, way in enumerate(ways):
            if way not in runs:
                continue
            colour = ORANGE if way == OURS else INK if way == SCRATCH else BLUE
            for measure, lift, face in (("train", -0.14, colour), ("held", 0.14, "white")):
                values = [run[measure] for run in runs[way]]
                if None in values:
                    continue
                mean, half = interval(values)
                means.append(mean)
                axes.errorbar(
                    mean,
                    row + lift,
                    xerr=half if half == half else 0.0,
                    color=colour,
                    linewidth=1.0,
                    marker="o",
                    markersize=4,
                    markerfacecolor=face,
                )
        room = 0.15 * (max(means) - min(means))  # what few seeds leave open may be cut
        axes.set_xlim(min(means) - room, max(means) + room)
        axes.set_title(task, loc="left", fontsize=9, color=INK)
        axes.set_yticks(range(len(ways)))
        axes.set_yticklabels(ways if k % columns == 0 else [], fontsize=7)
        axes.set_ylim(len(ways) - 0.5, -0.5)
        axes.grid(axis="x", color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
    return figure


def _clean(axes: Axes) -> Axes:
    axes.tick_params(labelsize=8, colors=INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    return axes


if __name__ == "__main__":
    write(
        {
            "growth-methods": draw_methods,
            "growth-groups": draw_groups,
            "growth-predictions": draw_scatter,
        }
    )
