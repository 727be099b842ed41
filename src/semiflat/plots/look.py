"""How figures look: the settings that the study's and the experiments' share."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from semiflat.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches; with 160 dots to each the letters are legible at 800 pixels."""
INK = "#222222"


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for semiflat's figures, whatever the user's are.

    Raises:
        InputError: without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError("pictures need matplotlib: pip install 'semiflat[report]'") from None

    interactive = matplotlib.is_interactive()
    try:
        with matplotlib.rc_context():
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(
                {
                    "font.size": 9.5,
                    "axes.titlesize": 9.5,
                    "axes.labelsize": 9.5,
                    "axes.titlelocation": "left",
                    "axes.spines.top": False,
                    "axes.spines.right": False,
                    "axes.edgecolor": "#555555",
                    "axes.linewidth": 0.8,
                    "text.color": INK,
                    "axes.labelcolor": INK,
                    "xtick.color": "#444444",
                    "ytick.color": "#444444",
                    "text.parse_math": False,
                    "axes.formatter.use_mathtext": False,
                }
            )
            try:
                yield
            finally:
                interactive = matplotlib.is_interactive()
    finally:
        # A notebook's first figure turns it on; turned off again, no further one would be shown.
        matplotlib.interactive(interactive)


def canvas(height: float) -> Figure:
    """An empty figure ``height`` inches high."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure, dpi: int = 160) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=dpi, metadata={"Software": None})
    return stream.getvalue()
