"""What all pictures share: axes, colours that differ in grey as well, numbers written plainly."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semiflat.errors import InputError
from semiflat.plots.look import INK, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

Numbers = NDArray[np.float64]

# Okabe and Ito's colours: told apart by the colour-blind; their lightness differs too.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"


@dataclass(frozen=True)
class Mark:
    """How one sort of point is drawn: told apart by shape and filling, so in grey, too."""

    marker: str
    edge: str
    face: str
    label: str

    def legend(self) -> Line2D:
        """Its line of a legend."""
        from matplotlib.lines import Line2D

        return Line2D(
            [],
            [],
            linestyle="",
            marker=self.marker,
            markeredgecolor=self.edge,
            markerfacecolor=self.face,
            markersize=6.5,
            label=self.label,
        )


UNKNOWN = Mark("X", INK, "#BBBBBB", "undecided")
MARKS = {
    "STRICT_MINIMUM": Mark("o", BLUE, BLUE, "strict minimum"),
    "MINIMUM": Mark("o", BLUE, "#9CCBE8", "minimum"),
    "STRICT_SADDLE": Mark("v", VERMILLION, VERMILLION, "strict saddle"),
    "UNDECIDED": UNKNOWN,
    "NOT_CRITICAL": Mark("s", INK, "white", "not critical"),
}
"""Kinds of points by the names that files use, in the order of a legend."""
SIGNS = {
    "positive": Mark("o", BLUE, BLUE, "all curvatures positive"),
    "flat": Mark("o", BLUE, "white", "some zero, none negative"),
    "negative": Mark("v", VERMILLION, VERMILLION, "a negative curvature"),
    "unknown": Mark("X", INK, "#BBBBBB", "not known"),
    "infinity": Mark("D", INK, "white", "at infinity"),
}
"""What is known of a point's curvatures where nobody has judged it."""


@contextmanager
def axes_for(ax: Any, width: float = 5.8, height: float = 3.7) -> Iterator[Axes]:
    """The axes to draw on: the given ones as they are, or those of a new pyplot figure in our style.

    Raises:
        InputError: without matplotlib, or for anything but axes.
    """
    if ax is None:
        with style():
            from matplotlib import pyplot

            figure, new = pyplot.subplots(figsize=(width, height), layout="constrained")
            try:
                yield new
            except BaseException:
                pyplot.close(figure)  # a notebook would show it, empty
                raise
        return
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise InputError(
            f"ax must be matplotlib axes, as of fig, ax = plt.subplots(), not {type(ax).__name__}"
        )
    yield ax


def array(values: Sequence[float | None]) -> Numbers:
    """Numbers to draw; what is missing is not drawn."""
    return np.array([math.nan if v is None else v for v in values], dtype=np.float64)


def drawable(*columns: Sequence[float | None]) -> bool:
    """Whether all columns are of one length and each has a finite number."""
    arrays = [array(column) for column in columns]
    return len({len(a) for a in arrays}) == 1 and all(np.isfinite(a).any() for a in arrays)


def shared_power(ax: Axes, values: Numbers, label: str) -> None:
    """Ticks as small numbers; the label says by which power of ten they were divided."""
    largest = float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0))
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    power = power if abs(power) > 1 else 0
    ax.yaxis.set_major_formatter(lambda y, _: minus(f"{y / 10.0**power:.3g}"))
    ax.set_ylabel(label if power == 0 else f"{label} / 1e{minus(str(power))}")


def minus(text: str) -> str:
    """With the minus sign that is as long as the plus."""
    return text.replace("-", "−")


def size(value: float | None, digits: int = 2) -> str:
    """A few digits, with an exponent below a hundredth; what is missing is a dash.

    >>> size(1.18e-16), size(-0.0031352, 3), size(9.7920), size(0), size(None)
    ('1.2e-16', '-3.14e-3', '9.8', '0', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    small = 0 < abs(value) < 0.01
    text = f"{value:.{digits - 1}e}" if small else f"{value:.{digits}g}"
    mantissa, e, exponent = text.partition("e")
    return f"{mantissa}e{int(exponent)}" if e else text


def shortened(text: str, most: int = 46) -> str:
    """An embedding's text, short enough for half a figure."""
    for name in ("layer=", "unit=", "weights=", "biases="):
        text = text.replace(name, "")
    return text if len(text) <= most else f"{text[: most - 1]}…"
