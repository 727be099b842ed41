"""Writes the docs' pictures: each script's figures, as SVG that is the same on every run."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from semiflat.threads import threads


def write(figures: Mapping[str, Callable[[], Figure]]) -> None:
    """Draw them into the folder named on the command line, ``docs/figures`` by default."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(), threads(1):
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "path",
                "svg.hashsalt": "semiflat",
                "text.parse_math": False,
                "axes.labelsize": 9,
            }
        )
        for name, draw in figures.items():
            (folder / f"{name}.svg").write_text(svg(draw()), encoding="utf-8")


def svg(figure: Figure) -> str:
    """The figure as SVG, paths to a hundredth of a point."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r' d="[^"]*"', lambda path: _rounded(path[0]), stream.getvalue())


def _rounded(path: str) -> str:
    return re.sub(r"-?\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", path)
