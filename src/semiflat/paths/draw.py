"""The loss along a path, drawn."""

from __future__ import annotations

import io
from pathlib import Path as File
from typing import Any

import torch

from semiflat.errors import InputError
from semiflat.files import write_whole
from semiflat.paths.path import Claim, Path

SHADES = {Claim.CONSTANT: "#E4E4E4", Claim.DECREASING: "white", Claim.FREE: "#F5E6D8"}
STYLES = {Claim.CONSTANT: "-", Claim.DECREASING: "--", Claim.FREE: ":"}
INK = "#222222"


def draw_path(path: Path, file: Any = None, points: int = 60) -> bytes:
    """The loss against t as a PNG: pieces of constant loss shaded, decreasing ones dashed.

    Args:
        path: any path.
        file: where to write it, too.
        points: losses taken along each piece.

    Raises:
        InputError: without matplotlib, or if the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("drawing needs matplotlib: pip install 'semiflat[report]'") from None
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_on(axes, path, points)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160, metadata={"Software": None})
    if file is not None:
        write_whole(File(file), stream.getvalue())
    return stream.getvalue()


def draw_on(axes: Any, path: Path, points: int = 60) -> None:
    """The same on axes that are there."""
    lowest, highest = torch.inf, 0.0
    for number, piece in enumerate(path.pieces):
        left, right = path.breaks[number], path.breaks[number + 1]
        t = torch.linspace(left, right, points, dtype=torch.float64)
        losses = path.losses(t)
        lowest, highest = min(lowest, float(losses.min())), max(highest, float(losses.max()))
        axes.axvspan(left, right, color=SHADES[piece.claim], linewidth=0)
        axes.plot(t, losses, STYLES[piece.claim], color=INK, linewidth=1.6)
        axes.axvline(right, color="#999999", linewidth=0.6)
        axes.text(
            (left + right) / 2,
            1.02,
            piece.name.split(":")[0],
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8.5,
            color=INK,
        )
    margin = 0.06 * (highest - min(lowest, highest)) or 0.1 * (highest or 1.0)
    axes.set_xlim(0, 1)
    axes.set_ylim(lowest - margin, highest + margin)
    axes.set_xlabel("t (shaded: constant loss; dashed: decreasing)")
    axes.set_ylabel("loss")
