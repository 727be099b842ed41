"""Writing the page and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.files import write_whole

_NEEDED = ("data", "network", "settings")


def write_report(record: dict[str, Any], out: Path) -> list[Path]:
    """Write ``out/report.html`` and ``out/figures/*.png``.

    The page stands alone: its style and figures are inside it, and it asks nothing of the network.

    Args:
        record: what ``study.json`` holds, finished or not.
        out: folder; made where it is missing.

    Returns:
        The files written: the page first, then the figures there were data for.

    Raises:
        InputError: if matplotlib or jinja2 is missing, ``record`` is not a study's, or ``out``
            cannot be written.
    """
    content: Any = record if isinstance(record, dict) else {}
    missing = [key for key in _NEEDED if not isinstance(content.get(key), dict)]
    if missing:
        raise InputError(
            f"not the record of a study: it has no {', '.join(map(repr, missing))}; give the "
            "content of a study.json"
        )
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"a report needs {error.name}, which is not installed; run "
            "pip install 'semiflat[report]'"
        ) from error
    from semiflat.report.figures import draw_figures
    from semiflat.report.page import render

    figures = draw_figures(record)
    page = out / "report.html"
    pictures = [(out / "figures" / f"{figure.name}.png", figure.png) for figure in figures]
    for path, png in pictures:
        write_whole(path, png)
    write_whole(page, render(record, figures).encode())
    return [page, *(path for path, _ in pictures)]
