"""All figures of a record, in the order of the page: small multiples of what `plots` draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes

from semiflat.plots.drawing import MARKS, array, drawable, minus, shortened, size
from semiflat.plots.line import draw_line, line_legend
from semiflat.plots.look import canvas, png, style
from semiflat.plots.shares import draw_same_loss, draw_shares
from semiflat.plots.spectrum import draw_spectrum, linear_below, set_ticks, signs_header
from semiflat.records.study import Descent, ShareLine, StudyRecord
from semiflat.report.words import kind_words

__all__ = ["Figure", "draw_figures"]

DESCENT = (
    "Δ loss: the loss on the straight line through a saddle along its direction of descent, minus "
    "the loss at the saddle (the dot). Solid: as the wide network computes it. Dashed: ½κt², with "
    "the curvature κ that the verdict predicts from the narrow network alone. To see: the two touch "
    "at the saddle, and the loss falls to both sides of it. Further out the loss has its own shape; "
    "from its lowest point (the triangle) the descent goes on in all directions."
)
SPECTRUM = (
    "Every mark is one eigenvalue of a Hessian: negative ones as triangles, those that are zero "
    "within rounding as circles at 0, positive ones as strokes. The axis is logarithmic to both "
    "sides and linear close to 0. At the right, how many are positive / zero / negative. To see: "
    "the wide Hessian has at least as many of each sign as the narrow one; those that the added "
    "unit brings may lie on either side of zero, or at it. One on the left is a way down."
)
SHARES = (
    "One unit of the lowest critical point becomes two copies with shares λ and 1 − λ of its "
    "outgoing weights; the shaded band is λ between 0 and 1. Above: the lowest eigenvalue of the "
    "wide Hessian; below zero there is a way down. Below: the loss minus its mean over the line. "
    "To see: the loss is the same everywhere but for rounding, "
)
MOST_DESCENTS, MOST_SHARES = 6, 9


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


def draw_figures(record: StudyRecord) -> list[Figure]:
    """Those of the three figures there are data for."""
    with style():
        drawn = [draw(record) for draw in (_descents, _spectra, _share_lines)]
    return [figure for figure in drawn if figure is not None]


def _descents(record: StudyRecord) -> Figure | None:
    """The ways down from strict saddles, up to six."""
    curves = [
        curve
        for curve in record.curves.descent
        if drawable(curve.step, curve.loss) and curve.loss_before is not None
    ][:MOST_DESCENTS]
    if not curves:
        return None
    columns = min(2, len(curves))
    lines = -(-len(curves) // columns)
    figure = canvas(2.35 * lines + 0.45)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for ax, curve in zip(axes, curves, strict=False):
        _descent(ax, curve)
    for ax in axes[len(curves) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(curves) - columns) : len(curves)]:
        ax.set_xlabel("t, distance along the direction")
    legend = line_legend("loss of the wide network", "½κt²", "saddle")
    figure.legend(handles=legend, loc="outside upper center", ncols=3, frameon=False)
    return Figure("descent", png(figure), "Ways down from saddles", DESCENT)


def _descent(ax: Axes, curve: Descent) -> None:
    change = array(curve.loss) - array([curve.loss_before])
    draw_line(ax, array(curve.step), change, curve.curvature)
    kappa = "" if curve.curvature is None else f"κ = {minus(size(curve.curvature, 3))}"
    ax.set_title(f"{curve.embedded}   {kappa}\n{shortened(curve.embedding)}")
    ax.title.set_fontsize(8.5)


def _spectra(record: StudyRecord) -> Figure | None:
    """The eigenvalues of the narrow Hessian above those of the wide one, a pair for each family."""
    curves = [c for c in record.curves.spectrum if drawable(c.narrow) and drawable(c.wide)]
    if not curves:
        return None
    known = {row.name: row.inertia for row in (*record.points, *record.embedded)}
    figure = canvas(1.35 * len(curves) + 0.75)
    axes = figure.subplots(len(curves), 1, squeeze=False, sharex=True).flatten()
    every = np.concatenate([array(each) for c in curves for each in (c.narrow, c.wide)])
    threshold = linear_below(every)
    for ax, curve in zip(axes, curves, strict=True):
        rows = [
            (label, array([v for v in own if v is not None]), known.get(name))
            for label, own, name in (
                ("narrow", curve.narrow, curve.source),
                ("wide", curve.wide, curve.embedded),
            )
        ]
        draw_spectrum(ax, rows, threshold)
        ax.set_title(f"{curve.family}:  {shortened(curve.embedding, 60)}")
    set_ticks(axes[-1], every, threshold)
    signs_header(axes[0])
    return Figure("spectrum", png(figure), "What an added unit does to the curvatures", SPECTRUM)


def _share_lines(record: StudyRecord) -> Figure | None:
    """A pair of panels for each unit, the lowest eigenvalue above the loss."""
    every = [c for c in record.curves.share_line if drawable(c.share, c.lowest)]
    curves = every[:MOST_SHARES]
    if not curves:
        return None
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    figure = canvas(3.5 * lines + 0.45)
    heights = [2.3, 1.0] * lines
    axes = figure.subplots(2 * lines, columns, squeeze=False, height_ratios=heights)
    for ax in axes.flatten():
        ax.set_visible(False)
    for number, curve in enumerate(curves):
        line, column = divmod(number, columns)
        _share_line(axes[2 * line, column], axes[2 * line + 1, column], curve)
    figure.align_ylabels(axes)
    kinds = [kind for curve in curves for kind in curve.kind]
    figure.legend(
        handles=[mark.legend() for kind, mark in MARKS.items() if kind in kinds],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    title, seen = _kinds_in_words(kinds)
    more = f" Shown are {MOST_SHARES} of {len(every)} units." if len(every) > MOST_SHARES else ""
    return Figure("share_line", png(figure), title, SHARES + seen + more)


def _share_line(above: Axes, below: Axes, curve: ShareLine) -> None:
    share = array(curve.share)
    for ax in (above, below):
        ax.set_visible(True)
    draw_shares(above, share, array(curve.lowest), curve.kind, MARKS)
    above.set_title(f"unit {curve.unit} of hidden layer {curve.layer}")
    above.tick_params(labelbottom=False)
    draw_same_loss(below, share, array(curve.loss))


def _kinds_in_words(kinds: list[str]) -> tuple[str, str]:
    """Title and end of the caption, by whether the kind changes along the lines at all."""
    if len(set(kinds)) > 1:
        return (
            "Same function, different kind",
            "while the kind of point changes with λ. Every λ is the same function, and some of them are "
            f"{_listed(kinds)}.",
        )
    if not kinds:
        return "Same function, other shares", "whatever the share."
    return (
        f"Same function, same kind: {kind_words(kinds[0]).many}",
        f"and here so is the kind: every λ drawn gives {_listed(kinds)}.",
    )


def _listed(kinds: list[str]) -> str:
    return " and others ".join(kind_words(kind).many for kind in MARKS if kind in kinds)
