"""The eigenvalues of Hessians in rows, one mark each, on an axis that is logarithmic to both sides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from semiflat.plots.drawing import BLUE, GREY, VERMILLION, Numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Signs = tuple[int, int, int]
"""Numbers of positive, zero and negative eigenvalues."""
_NOISE = 1e-11  # of the largest eigenvalue: below it a mark without a counted sign is drawn at 0


def draw_spectrum(
    ax: Axes, rows: Sequence[tuple[str, Numbers, Signs | None]], threshold: float
) -> None:
    """Rows of eigenvalues: negative ones triangles, zero ones circles at 0, positive ones strokes.

    Args:
        ax: to draw on.
        rows: from the top: a name, eigenvalues, and how many of them count as positive, zero and negative;
            None to have those count as zero that lie below the threshold.
        threshold: the axis is linear below it.
    """
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.6)
    ax.axvline(0, color=GREY, linewidth=0.8)
    for between in range(1, len(rows)):
        ax.axhline(between - 0.5, color="#dddddd", linewidth=0.6)
    heights = [float(k) for k in range(len(rows) - 1, -1, -1)]
    for height, (_, values, inertia) in zip(heights, rows, strict=True):
        negative, zero, positive = _by_sign(np.sort(values), inertia, threshold)
        ax.plot(positive, np.full(len(positive), height), "|", color=BLUE, ms=13, mew=1.3)
        ax.plot(
            0 * zero, np.full(len(zero), height), "o", color="white", mec="#555555", ms=7, mew=1.4
        )
        ax.plot(
            negative, np.full(len(negative), height), "v", color=VERMILLION, ms=7.5, mec="#5a2700"
        )
        if len(zero) > 1:
            ax.annotate(f"×{len(zero)}", (0, height), (7, 6), textcoords="offset points")
        ax.annotate(
            f"{len(positive)} / {len(zero)} / {len(negative)}",
            (1.01, height),
            xycoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
        )
    ax.set_yticks(heights, [name for name, *_ in rows])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.55, len(rows) - 0.45)
    ax.spines["left"].set_visible(False)


def signs_header(ax: Axes) -> None:
    """Says above the right end what the three numbers of a row count."""
    ax.annotate("+ / 0 / −", (1.01, 1.06), xycoords="axes fraction", annotation_clip=False)


def _by_sign(
    values: Numbers, inertia: Signs | None, threshold: float
) -> tuple[Numbers, Numbers, Numbers]:
    """Negative, zero and positive ones: as they are counted, or else by the drawn axis."""
    if inertia and sum(inertia) == len(values):
        below, zero = inertia[2], inertia[1]
        return values[:below], values[below : below + zero], values[below + zero :]
    small = np.abs(values) < threshold
    return values[(values < 0) & ~small], values[small], values[(values > 0) & ~small]


def linear_below(values: Numbers) -> float:
    """The power of ten below the smallest eigenvalue that is more than rounding."""
    sizes = np.abs(values[np.isfinite(values)])
    sizes = sizes[sizes > _NOISE * sizes.max(initial=0.0)]
    return float(10.0 ** math.floor(math.log10(sizes.min()))) if len(sizes) else 1e-12


def set_ticks(ax: Axes, values: Numbers, threshold: float) -> None:
    """Powers of ten on both sides, few enough to be read."""
    from matplotlib.ticker import NullLocator

    finite = values[np.isfinite(values)]
    low = math.log10(threshold)
    top = math.log10(max(float(finite.max()), threshold))
    bottom = math.log10(max(-float(finite.min()), threshold))
    step = max(1, round((top - low + bottom - low) / 6))
    first = round(low) + (top - low > 4)  # the power next to 0 only where there is room for it
    right = [p for p in range(first, math.floor(top) + 1) if p % step == 0]
    left = [p for p in range(first, math.floor(bottom) + 1) if p % step == 0]
    places = [*(-(10.0**p) for p in reversed(left)), 0.0, *(10.0**p for p in right)]
    ax.set_xticks(places, [_power(place) for place in places])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(
        -(10 ** (bottom + 0.35)) if float(finite.min()) < -threshold else -1.5 * threshold,
        10 ** (top + 0.35),
    )
    ax.set_xlabel("eigenvalue of the Hessian")


def _power(place: float) -> str:
    if place == 0:
        return "0"
    power = round(math.log10(abs(place)))
    sign = "−" if place < 0 else ""
    return f"{sign}1" if power == 0 else f"{sign}1e{power}".replace("e-", "e−")
