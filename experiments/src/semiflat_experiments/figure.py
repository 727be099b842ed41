"""The experiments' figures: one size, one style, readable in grey."""

from __future__ import annotations

import math
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import semiflat as sf
from semiflat_experiments.experiment import Experiment, Record, Settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D")
SHADES = ("#0072B2", "#D55E00", "#222222", "#8C8C8C")
"""Told apart by the colour-blind, and in grey by their lightness together with line and marker."""


def check_installed(package: str) -> None:
    """Raise :class:`InputError` without a package: better before the computing than after it."""
    try:
        import_module(package)
    except ImportError:
        why = f"figures and pages need {package}: pip install 'semiflat[report]'"
        raise sf.InputError(why) from None


def render(experiment: Experiment, settings: Settings, records: Sequence[Record]) -> bytes:
    """The experiment's figure as a PNG, 7.2 inches wide.

    Raises:
        InputError: without matplotlib.
    """
    check_installed("matplotlib")
    from semiflat.report import canvas, png, style

    with style():
        figure = canvas(3.2)
        experiment.draw(figure, settings, records)
        return png(figure, dpi=130)


def say_so(axes: Axes, words: str) -> None:
    """Words in the middle of axes that have nothing to show."""
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center")
    axes.set_xticks([])
    axes.set_yticks([])


def logarithmic(axes: Axes, which: str = "xy") -> None:
    """Axes logarithmic, both or one of them, with a few ticks written 10⁻⁶."""
    from matplotlib.ticker import LogLocator, NullLocator

    for name, axis, ticks in (("x", axes.xaxis, 5), ("y", axes.yaxis, 7)):
        if name in which:
            axes.set(**{f"{name}scale": "log"})
            axis.set_major_locator(LogLocator(numticks=ticks))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(lambda value, _: power(value))


def power(value: float) -> str:
    """A power of ten.

    >>> power(1e-12), power(10.0), power(1.0)
    ('10⁻¹²', '10¹', '1')
    """
    exponent = str(round(math.log10(value)))
    digits = exponent.translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return "1" if exponent == "0" else "10" + digits
