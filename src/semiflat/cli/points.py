"""The points of a search, in files of its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import semiflat as sf

_OWN = re.compile(r"p\d+\.safetensors")


def save_points(result: sf.SearchResult, out: Path, source: dict[str, Any]) -> list[dict[str, Any]]:
    """Write ``p0.safetensors``, …, lowest loss first, and remove what is left of an earlier result.

    Args:
        source: how the data were loaded.

    Returns:
        A record of each point.
    """
    rows = []
    for number, (point, found) in enumerate(zip(result.points, result.frequencies, strict=True)):
        path = out / f"p{number}.safetensors"
        sf.save_point(point, path, source)
        rows.append(
            {
                "file": str(path),
                "loss": point.loss,
                "gradient_norm": point.gradient_norm,
                "status": str(point.status),
                "iterations": point.record.iterations,
                "found": found,
                "index": point.index,
                "trivial": point.trivial,
            }
        )
    names = {Path(row["file"]).name for row in rows}
    for path in out.glob("p*.safetensors"):
        if _OWN.fullmatch(path.name) and path.name not in names:
            path.unlink()
    return rows


def point_line(row: dict[str, Any]) -> str:
    """A record of :func:`save_points` in words."""
    line = (
        f"{row['file']}  loss {row['loss']:.10g}  gradient {row['gradient_norm']:.1e}  index "
        f"{row['index']}  found {row['found']} time(s)"
    )
    return f"{line}  {row['trivial']}" if row["trivial"] else line


def limits(result: sf.SearchResult) -> list[dict[str, Any]]:
    """The critical points at infinity, lowest loss first, as plain data."""
    runs = [run for run in result.runs if run.limit is not None]
    found = [(run, run.limit) for run in runs]
    return sorted(
        (
            {
                "start": run.record.start,
                "status": str(run.status),
                "loss": limit.loss,
                "gradient_norm": limit.gradient_norm,
                "forms": [[str(form) for form in row] for row in limit.net.forms],
            }
            for run, limit in found
            if limit is not None
        ),
        key=lambda row: row["loss"],
    )
