"""The eigenvalues of the narrow Hessian above those of the wide one."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from semiflat.records.study import Signs, Spectrum, StudyRecord
from semiflat.report.descent import shortened
from semiflat.report.drawing import (
    BLUE,
    GREY,
    VERMILLION,
    Figure,
    Numbers,
    array,
    drawable,
)
from semiflat.report.look import canvas, png

CAPTION = (
    "Every mark is one eigenvalue of a Hessian: negative ones as triangles, those that are zero "
    "within rounding as circles at 0, positive ones as strokes. The axis is logarithmic to both "
    "sides and linear close to 0. At the right, how many are positive / zero / negative. To see: "
    "the wide Hessian has at least as many of each sign as the narrow one; those that the added "
    "unit brings may lie on either side of zero, or at it. One on the left is a way down."
)

_NOISE = 1e-11  # of the largest eigenvalue: below it a mark without a counted sign is drawn at 0


def draw_spectrum(record: StudyRecord) -> Figure | None:
    """One pair of rows for each family."""
    curves = [c for c in record.curves.spectrum if drawable(c.narrow) and drawable(c.wide)]
    if not curves:
        return None
    known = {row.name: row.inertia for row in (*record.points, *record.embedded)}
    figure = canvas(1.35 * len(curves) + 0.75)
    axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True).flatten()
    every = np.concatenate([array(each) for c in curves for each in (c.narrow, c.wide)])
    threshold = _linear_below(every)
    for ax, curve in zip(axes, curves, strict=True):
        _panel(ax, curve, known, threshold)
    _ticks(axes[-1], every, threshold)
    axes[0].annotate("+ / 0 / −", (1.01, 1.06), xycoords="axes fraction", annotation_clip=False)
    axes[-1].set_xlabel("eigenvalue of the Hessian")
    return Figure("spectrum", png(figure), "What an added unit does to the curvatures", CAPTION)


def _panel(ax: Axes, curve: Spectrum, known: dict[str, Signs | None], threshold: float) -> None:
    ax.set_xscale("symlog", linthresh=threshold, linscale=0.6)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.axhline(0.5, color="#dddddd", linewidth=0.6)
    for height, name, own in (
        (1.0, curve.source, curve.narrow),
        (0.0, curve.embedded, curve.wide),
    ):
        values = np.sort([value for value in own if value is not None])
        negative, zero, positive = _by_sign(values, known.get(name), threshold)
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
    ax.set_yticks([1.0, 0.0], ["narrow", "wide"])
    ax.tick_params(axis="y", length=0)
    ax.set_ylim(-0.55, 1.55)
    ax.spines["left"].set_visible(False)
    ax.set_title(f"{curve.family}:  {shortened(curve.embedding, 60)}")


def _by_sign(
    values: Numbers, inertia: Signs | None, threshold: float
) -> tuple[Numbers, Numbers, Numbers]:
    """Negative, zero and positive ones: as the record counts them, or else by the drawn axis."""
    if inertia and sum(inertia) == len(values):
        below, zero = inertia[2], inertia[1]
        return values[:below], values[below : below + zero], values[below + zero :]
    small = np.abs(values) < threshold
    return values[(values < 0) & ~small], values[small], values[(values > 0) & ~small]


def _linear_below(values: Numbers) -> float:
    """The power of ten below the smallest eigenvalue that is more than rounding."""
    sizes = np.abs(values[np.isfinite(values)])
    sizes = sizes[sizes > _NOISE * sizes.max(initial=0.0)]
    return 10.0 ** math.floor(math.log10(sizes.min())) if len(sizes) else 1e-12


def _ticks(ax: Axes, values: Numbers, threshold: float) -> None:
    """Powers of ten on both sides, few enough to be read."""
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


def _power(place: float) -> str:
    if place == 0:
        return "0"
    power = round(math.log10(abs(place)))
    sign = "−" if place < 0 else ""
    return f"{sign}1" if power == 0 else f"{sign}1e{power}".replace("e-", "e−")
