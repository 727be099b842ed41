"""The figure of P21 §V-E: parts of the blocks that are positive definite, and sizes of D."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from semiflat_experiments.figure import LINES, MARKERS, SHADES
from semiflat_experiments.p21.training import STUDENT

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAYERS = range(3)
COUNTS = ((547, 4000), (33, 6000), (6, 4000))
"""P21's: positive definite matrices of all, for each hidden layer."""
EDGES = np.arange(-16, 1.01, 0.5)
"""Of the histograms of log10 max |D|."""


def positive(records: Iterable[dict[str, Any]], key: str, letters: str = "+p") -> list[int]:
    """Of each layer, units whose B has only positive eigenvalues (p: maybe by rounding alone)."""
    found = Counter(
        layer
        for each in records
        for layer in LAYERS
        for letter in each[key][layer]
        if letter in letters
    )
    return [found[layer] for layer in LAYERS]


def histogram(records: Iterable[dict[str, Any]], layer: int) -> list[int]:
    """How many units of the layer have which log10 max |D|, between ``EDGES``."""
    values = np.clip([d for each in records for d in each["D"][layer]], EDGES[0], EDGES[-1])
    return [int(count) for count in np.histogram(values, EDGES)[0]]


def range_of(ends: Iterable[dict[str, Any]], layer: int) -> list[float]:
    """The lowest and the highest log10 max |D| of the layer's units."""
    values = [d for end in ends for d in end["D"][layer]]
    return [min(values), max(values)] if values else []


def draw_parts(axes: Axes, mine: Sequence[dict[str, Any]]) -> None:
    """Parts that are positive definite over the layers, published and ours."""
    units = np.array([len(mine) * width for width in STUDENT[1:4]])
    layers = np.array([1, 2, 3])
    shown = {
        "published": [100 * count / total for count, total in COUNTS],
        "ours, without bias row": 100 * np.array(positive(mine, "without")) / units,
        "ours, with bias row": 100 * np.array(positive(mine, "with")) / units,
    }
    for k, (label, parts) in enumerate(shown.items()):
        axes.plot(
            layers, parts, color=SHADES[k], marker=MARKERS[k], linestyle=LINES[k], label=label
        )
    expected = [100 * 0.5**n for n in STUDENT[:3]]
    axes.plot(layers, expected, color=SHADES[3], linestyle=":", label="independent signs")
    axes.set_yscale("symlog", linthresh=0.01)
    axes.set_ylim(0, 100)
    ticks = (0, 0.01, 0.1, 1, 10, 100)
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks(layers)
    axes.set_xlabel("hidden layer, from the input")
    axes.set_ylabel("positive definite B (%)")
    axes.legend(frameon=False, fontsize=7.5, loc="lower right", bbox_to_anchor=(1, 0.02))


def draw_D(axes: Axes, mine: Sequence[dict[str, Any]], reached: Sequence[dict[str, Any]]) -> None:
    """Histograms of the sizes of D where BFGS ends, and their ranges at critical points."""
    for layer in LAYERS:
        counts = np.array(histogram(mine, layer))
        axes.stairs(
            100 * counts / counts.sum(), EDGES, color=SHADES[layer], linestyle=LINES[layer],
            linewidth=1.4, label=f"hidden layer {layer + 1}",
        )  # fmt: skip
    axes.set_xlabel("log10 max |D|")
    axes.set_ylabel("part of the layer's units (%)")
    axes.set_xlim(EDGES[0], 0)
    if reached:
        _draw_ranges(axes, reached)
    axes.legend(frameon=False, fontsize=7.5, loc="center left")


def _draw_ranges(axes: Axes, reached: Sequence[dict[str, Any]]) -> None:
    """From lowest to highest at critical points, above the histograms."""
    top = axes.get_ylim()[1]
    for layer in LAYERS:
        low, high = range_of(reached, layer)
        height = top * (1.04 + 0.07 * layer)
        axes.plot([low, high], [height] * 2, color=SHADES[layer], linewidth=2.5)
        axes.plot([low, high], [height] * 2, MARKERS[layer], color=SHADES[layer], markersize=4)
    axes.text(-9, top * 1.11, "at critical\npoints", ha="center", va="center", fontsize=8)
