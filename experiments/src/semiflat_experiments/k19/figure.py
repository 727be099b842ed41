"""Logarithmic axes of K19's figures, in plain numbers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def logarithmic(axes: Axes) -> None:
    """Both axes logarithmic, with a few ticks written 1e−6."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis, ticks in ((axes.xaxis, 5), (axes.yaxis, 7)):
        axis.set_major_locator(LogLocator(numticks=ticks))
        axis.set_minor_locator(NullLocator())
        axis.set_major_formatter(lambda value, _: power(value))


def power(value: float) -> str:
    """A power of ten in a few letters.

    >>> power(1e-6), power(1.0)
    ('1e−6', '1')
    """
    exponent = round(math.log10(value))
    return "1" if exponent == 0 else f"1e{exponent}".replace("-", "−")
