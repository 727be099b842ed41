"""One unit as two copies with shares λ and 1 − λ: what changes along the line, and what does not."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from semiflat.records.study import ShareLine, StudyRecord
from semiflat.report.drawing import (
    BLUE,
    GREY,
    VERMILLION,
    Figure,
    array,
    drawable,
    shared_power,
)
from semiflat.report.look import INK, canvas, png
from semiflat.report.numbers import size
from semiflat.report.words import KINDS, kind_words

CAPTION = (
    "One unit of the lowest critical point becomes two copies with shares λ and 1 − λ of its "
    "outgoing weights; the shaded band is λ between 0 and 1. Above: the lowest eigenvalue of the "
    "wide Hessian; below zero there is a way down. Below: the loss minus its mean over the line. "
    "To see: the loss is the same everywhere but for rounding, "
)

_MOST = 9
_MARKS = {
    "STRICT_MINIMUM": ("o", BLUE, BLUE),
    "MINIMUM": ("o", BLUE, "#9CCBE8"),
    "STRICT_SADDLE": ("v", VERMILLION, VERMILLION),
    "UNDECIDED": ("X", INK, "#BBBBBB"),
    "NOT_CRITICAL": ("s", INK, "white"),
}


def draw_share_line(record: StudyRecord) -> Figure | None:
    """A pair of panels for each unit, the lowest eigenvalue above the loss."""
    every = [c for c in record.curves.share_line if drawable(c.share, c.lowest)]
    curves = every[:_MOST]
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
        _pair(axes[2 * line, column], axes[2 * line + 1, column], curve)
    figure.align_ylabels(axes)
    kinds = [kind for curve in curves for kind in curve.kind]
    figure.legend(
        handles=[_legend(kind) for kind in (*KINDS,) if kind in kinds],
        loc="outside upper center",
        ncols=4,
        frameon=False,
    )
    title, seen = _kinds_in_words(kinds)
    more = f" Shown are {_MOST} of {len(every)} units." if len(every) > _MOST else ""
    return Figure("share_line", png(figure), title, CAPTION + seen + more)


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
    return " and others ".join(kind_words(kind).many for kind in (*KINDS,) if kind in kinds)


def _pair(above: Axes, below: Axes, curve: ShareLine) -> None:
    share, lowest, loss = map(array, (curve.share, curve.lowest, curve.loss))
    for ax in (above, below):
        ax.set_visible(True)
        ax.axvspan(0, 1, color="#EEF2F5", zorder=0)
        ax.axhline(0, color=GREY, linewidth=0.6, zorder=1)
        ax.margins(x=0)
    above.set_title(f"unit {curve.unit} of hidden layer {curve.layer}")
    above.plot(share, lowest, color=GREY, linewidth=0.8, zorder=2)
    kinds = [*curve.kind, *[""] * len(share)][: len(share)]
    for kind in dict.fromkeys(kinds):
        marker, edge, face = _MARKS.get(kind, _MARKS["UNDECIDED"])
        chosen = np.array([k == kind for k in kinds])
        size_of = 30 if kind == "UNDECIDED" else 15
        above.scatter(
            share[chosen],
            lowest[chosen],
            s=size_of,
            c=face,
            marker=marker,
            edgecolors=edge,
            linewidths=0.8,
            zorder=3,
        )
    shared_power(above, lowest, "lowest eigenvalue")
    above.tick_params(labelbottom=False)
    below.set_xlabel("share λ")
    _flat(below, share, loss)


def _flat(ax: Axes, share: np.ndarray, loss: np.ndarray) -> None:
    if len(loss) != len(share) or not np.isfinite(loss).any():
        ax.text(0.5, 0.5, "no loss recorded", transform=ax.transAxes, ha="center", va="center")
        ax.set_yticks([])
        return
    change = loss - loss[np.isfinite(loss)][0]  # exact, and so is the mean that comes off it
    change -= np.nanmean(change)
    spread = float(np.nanmax(loss) - np.nanmin(loss))
    ulp = max(float(np.spacing(np.nanmax(np.abs(loss)))), 1e-300)
    reach = 10.0 ** math.ceil(math.log10(max(1.2 * float(np.nanmax(np.abs(change))), 2 * ulp)))
    ax.plot(share, change, ".", color=INK, markersize=3)
    ax.set_ylim(-1.5 * reach, 2.3 * reach)
    ax.set_yticks([-reach, 0, reach])
    shared_power(ax, np.array([1.01 * reach]), "loss − mean\n")
    ax.text(
        0.5,
        0.97,
        f"max − min = {size(spread)}",
        transform=ax.transAxes,
        ha="center",
        va="top",
        fontsize=8,
    )


def _legend(kind: str) -> Line2D:
    marker, edge, face = _MARKS[kind]
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        markeredgecolor=edge,
        markerfacecolor=face,
        markersize=6.5,
        label=kind_words(kind).one,
    )
