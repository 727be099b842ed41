"""How figures look: the settings that the study's and the experiments' share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

INK = "#222222"


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's settings for semiflat's figures, whatever the user's are. Needs matplotlib."""
    import matplotlib

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
        yield
