"""The figure of planted teachers: widths found, and losses by width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from semiflat_experiments.experiment import Record, Settings, qualified
from semiflat_experiments.figure import LINES, SHADES, logarithmic, say_so

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Widths found beside the teacher's, and the least losses."""
    kept = qualified(records)
    left, right = figure.subplots(1, 2)
    if not kept:
        say_so(left, "no teacher qualified")
        return say_so(right, "no teacher qualified")
    of = {noise: [each for each in kept if each["noise"] == noise] for noise in settings["noise"]}
    _draw_widths(left, of)
    _draw_losses(right, of)
    return None


def _draw_widths(axes: Axes, of: dict[float, list[Record]]) -> None:
    offs = sorted({0, *(each["answer"] - each["width"] for mine in of.values() for each in mine)})
    thick = 0.8 / len(of)
    for k, (noise, mine) in enumerate(of.items()):
        heights = [sum(each["answer"] - each["width"] == off for each in mine) for off in offs]
        places = [off + thick * (k - (len(of) - 1) / 2) for off in offs]
        axes.bar(places, heights, width=thick, color=SHADES[k], label=_named(noise))
    axes.set_xticks(offs, ["as the teacher" if off == 0 else f"{off:+d}" for off in offs])
    axes.set_xlabel("width found, less the teacher's")
    axes.set_ylabel("teachers")
    axes.legend(frameon=False, fontsize=8)


def _draw_losses(axes: Axes, of: dict[float, list[Record]]) -> None:
    for k, (noise, mine) in enumerate(of.items()):
        for each in mine:
            x = [level + 1 - each["width"] for level in range(len(each["losses"]))]
            y = [max(loss, 1e-33) for loss in each["losses"]]
            axes.plot(x, y, color=SHADES[k], linestyle=LINES[k], linewidth=0.6, alpha=0.6)
        if noise:
            axes.axhline(noise**2, color=SHADES[k], linestyle=":", linewidth=0.8)
    logarithmic(axes, "y")
    axes.set_xlabel("units more than the teacher has")
    axes.set_ylabel("part of the variance left")
    axes.set_xticks(range(-max(each["width"] for mine in of.values() for each in mine) + 1, 2))


def _named(noise: float) -> str:
    return f"noise {noise:.0%}" if noise else "no noise"
