"""What all figures share: size, colours that differ in grey as well, axes in plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

# Okabe and Ito's colours: told apart by the colour-blind; their lightness differs too.
BLUE, VERMILLION, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8C8C8C"


@dataclass(frozen=True)
class Figure:
    """A drawn figure.

    Attributes:
        name: of its file, without ``.png``.
        png: the picture.
        title: a few words.
        caption: what to see in it.
    """

    name: str
    png: bytes
    title: str
    caption: str


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
