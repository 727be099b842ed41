"""A training run beside the critical functions it passes, drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from semiflat.errors import InputError

if TYPE_CHECKING:
    from semiflat.nesting.stages import Stages

INK, SHADE, FAINT = "#222222", "#E4E4E4", "#999999"


def draw(run: Stages, ax: Any = None) -> Any:
    """See :meth:`semiflat.Stages.plot`."""
    ax = _axes() if ax is None else ax
    rows = [row for row in run if row.step]  # step 0 is on no logarithmic axis
    steps, losses = [row.step for row in rows], [row.loss for row in rows]
    low, high = min(losses, default=0.0), max(losses, default=1.0)
    for plateau in run.plateaus:
        ax.axvspan(plateau.first, plateau.last, color=SHADE, linewidth=0, zorder=0)
    named = {plateau.function for plateau in run.plateaus} | {run[-1].function}
    for function in run.functions:
        if not low <= function.loss <= high:
            continue
        if function.number not in named:
            ax.axhline(function.loss, linestyle=":", linewidth=0.7, color=FAINT, zorder=1)
            continue
        ax.axhline(function.loss, linestyle="--", linewidth=1.0, color=INK, zorder=1)
        at = (1.01, function.loss)
        place = ("axes fraction", "data")
        ax.annotate(function.points[0], at, xycoords=place, va="center", fontsize=8.5, color=INK)
    ax.plot(steps, losses, "-", color=INK, linewidth=1.6, zorder=2)
    ax.set_xscale("log")
    if low > 0:
        ax.set_yscale("log")
    ax.set_xlabel("step (shaded: plateaus)")
    ax.set_ylabel("loss (lines: critical functions)")
    return ax


def _axes() -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("drawing needs matplotlib: pip install 'semiflat[report]'") from None
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()
