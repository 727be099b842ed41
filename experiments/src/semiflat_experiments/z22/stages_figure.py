"""The figure of Z22's stages: loss, distances, outputs, and the tree of critical functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from semiflat_experiments.experiment import Record, Settings, qualified
from semiflat_experiments.figure import LINES, MARKERS, SHADES, logarithmic, say_so
from semiflat_experiments.z22.tree import ROUNDING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILLED = {"strict minimum": SHADES[0], "minimum": SHADES[0], "strict saddle": "white"}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Four panels."""
    figure.set_size_inches(7.2, 6.0)
    (loss, distance), (outputs, tree) = figure.subplots(2, 2)
    kept = qualified(records)
    runs = [each for each in kept if each["part"] == "chosen target"]
    trees = [each for each in kept if each["part"] == "tree"]
    if not runs or not trees:
        for axes in (loss, distance, outputs, tree):
            say_so(axes, "no run qualified")
        return
    _draw_loss(loss, runs)
    _draw_distances(distance, runs[0])
    _draw_outputs(outputs, runs[0], trees[0], settings["width"])
    _draw_tree(tree, trees[0], settings["width"])


def _draw_loss(axes: Axes, runs: Sequence[Record]) -> None:
    for each in runs:
        axes.plot(each["steps"], each["risks"], color=SHADES[3], linewidth=0.8)
        stage = each["plateau"]
        axes.plot(stage["step"], stage["risk"], "o", color=SHADES[1], markersize=4, zorder=3)
    levels = runs[0]["levels"]
    for width, line, side in (("1", LINES[0], "bottom"), ("2", LINES[1], "top")):
        if levels[width] is not None:
            axes.axhline(levels[width], color=SHADES[2], linestyle=line, linewidth=1)
            axes.text(1.5, levels[width], f"width {width}", fontsize=8, va=side)
    axes.set_ylabel("loss / loss of the constant")
    _logarithmic(axes)


def _draw_distances(axes: Axes, run: Record) -> None:
    for k, (width, values) in enumerate(run["distances"].items()):
        if values:
            style: Any = {"color": SHADES[k], "linestyle": LINES[k]}
            axes.plot(run["steps"], values, label=f"to width {width}", **style)
    stage = run["plateau"]
    axes.plot(stage["step"], stage["distances"]["1"], "o", color=SHADES[1], markersize=4, zorder=3)
    axes.set_ylabel("distance / spread of the data")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
    _logarithmic(axes)


def _logarithmic(axes: Axes) -> None:
    axes.set_xlabel("step of gradient descent")
    logarithmic(axes)


def _draw_outputs(axes: Axes, run: Record, tree: Record, wide: int) -> None:
    shift = 1.2 * (max(tree["y"]) - min(tree["y"]))
    for k, (stage, width) in enumerate((("plateau", "1"), ("end", "3"))):
        lines: tuple[tuple[Any, Any, str], ...] = (
            (tree["y"], {"marker": MARKERS[0], "color": SHADES[3], "linestyle": "none"}, "data"),
            (run[stage]["outputs"], {"color": SHADES[1], "linewidth": 2}, f"width {wide}"),
            (tree["best"].get(width, []), {"color": SHADES[2], "linestyle": LINES[1]}, "narrow"),
        )
        for values, style, label in lines:
            moved = [value - k * shift for value in values]
            axes.plot(
                tree["x"][: len(moved)], moved, markersize=3, label=None if k else label, **style
            )
        words = f"step {run[stage]['step']},\nwidth {width}"
        axes.text(tree["x"][0], 0.2 * shift - k * shift, words, fontsize=8)
    axes.set_xlabel("input x")
    axes.set_ylabel("output (lower: shifted)")
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _draw_tree(axes: Axes, tree: Record, wide: int) -> None:
    """A line for each critical function, the lowest loss at the bottom."""
    nodes = sorted(tree["functions"], key=lambda node: float(node["loss"]))
    places = {**{width: width for width in range(5)}, wide: 5}
    seen = set()
    for height, node in enumerate(nodes):
        axes.plot([node["width"], 5], [height, height], color=SHADES[3], linewidth=0.8, zorder=1)
        own = [(node["width"], node["kind"])]
        for width, kind in own + [(each["width"], each["kind"]) for each in node["embedded"]]:
            name = kind.removeprefix("strict ")
            label = None if name in seen else name
            seen.add(name)
            fill = FILLED.get(kind, SHADES[3])
            axes.plot(places[width], height, "o", color=SHADES[0], markerfacecolor=fill, markersize=5,
                      label=label)  # fmt: skip
    losses = [node["loss"] if node["loss"] > ROUNDING else 0 for node in nodes]
    axes.set_yticks(range(len(nodes)), [f"{loss:.4g}" for loss in losses])
    axes.set_xticks(range(6), ["0", "1", "2", "3", "4", str(wide)])
    axes.set_xlabel("hidden units")
    axes.set_ylabel("loss of the critical function")
    axes.legend(frameon=False, fontsize=8, loc="lower left")
