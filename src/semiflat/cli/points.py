"""The points of a search, in files of its folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import semiflat as sf
from semiflat.outputs import Outputs

_NUMBERED = re.compile(r"p(0|[1-9]\d*)\.safetensors")


def check_points(outputs: Outputs, out: Path, starts: int) -> None:
    """Refuse a folder with files in the way of the points of a search; asked before it starts.

    Only points that so many starts can find are in the way. Where all starts are kept in the folder, there
    is nothing to wait for, and what is to be written is compared with what is there (:func:`save_points`).
    """
    outputs.check_folder(out)
    if _kept(out) < starts:
        outputs.check(*(path for path, number in _numbered(out) if number < starts))


def save_points(
    result: sf.SearchResult, out: Path | None, source: dict[str, Any], outputs: Outputs
) -> list[dict[str, Any]]:
    """Write ``p0.safetensors``, …, lowest loss first, and remove what is left of an earlier result.

    Args:
        out: the folder; without one nothing is written.
        source: how the data were loaded.
        outputs: of the command; other files of these names are not removed.

    Returns:
        A record of each point.
    """
    from semiflat.checkpoints import holds, packed

    rows, files = [], {}
    for number, (point, found) in enumerate(zip(result.points, result.frequencies, strict=True)):
        path = None if out is None else out / f"p{number}.safetensors"
        content = packed(point, source)
        if path is not None and not holds(path, content):
            files[path] = content
        rows.append(
            {
                "file": None if path is None else str(path),
                "loss": point.loss,
                "gradient_norm": point.gradient_norm,
                "status": str(point.status),
                "iterations": point.record.iterations,
                "found": found,
                "index": point.index,
                "trivial": point.trivial,
            }
        )
    if out is not None:
        outputs.write(files)
        outputs.remove(path for path, number in _numbered(out) if number >= len(rows))
    return rows


def _numbered(out: Path) -> list[tuple[Path, int]]:
    found = [(path, _NUMBERED.fullmatch(path.name)) for path in out.glob("p*.safetensors")]
    return [(path, int(match[1])) for path, match in found if match is not None]


def _kept(out: Path) -> int:
    """How many starts a search has left in the folder, whichever search that is."""
    from semiflat.search.store import FILE

    try:
        return (out / FILE).read_bytes().count(b"\n") - 1
    except OSError:
        return 0


def point_line(row: dict[str, Any]) -> str:
    """A record of :func:`save_points` in words."""
    line = (
        f"{row['file'] or 'a point'}  loss {row['loss']:.10g}  gradient {row['gradient_norm']:.1e}  index "
        f"{row['index']}  found {row['found']} time(s)"
    )
    return f"{line}  {row['trivial']}" if row["trivial"] else line


def limits(result: sf.SearchResult) -> list[dict[str, Any]]:
    """The critical points at infinity, lowest loss first, as plain data."""
    runs = [run for run in result.runs if run.status.at_infinity]
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
