"""The points of a search, in files of its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from semiflat.checkpoints import save_point
from semiflat.search import SearchResult

_OWN = re.compile(r"p\d+\.safetensors")


def save_points(result: SearchResult, out: Path, source: dict[str, Any]) -> list[dict[str, Any]]:
    """Write ``p0.safetensors``, …, lowest loss first, and remove what is left of an earlier result.

    Args:
        source: how the data were loaded.

    Returns:
        A record of each point.
    """
    rows = []
    for number, point in enumerate(result.points):
        path = out / f"p{number}.safetensors"
        save_point(point, path, source)
        rows.append(
            {
                "file": str(path),
                "loss": point.loss,
                "gradient_norm": point.gradient_norm,
                "status": str(point.status),
                "iterations": point.record.iterations,
            }
        )
    names = {Path(row["file"]).name for row in rows}
    for path in out.glob("p*.safetensors"):
        if _OWN.fullmatch(path.name) and path.name not in names:
            path.unlink()
    return rows
