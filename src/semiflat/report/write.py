"""Writing the page and its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.records.study import StudyRecord, read

FIGURES = ("descent", "spectrum", "share_line")


def report_files(out: Path) -> list[Path]:
    """All files that :func:`write_report` may write: the page first."""
    return [out / "report.html", *(out / "figures" / f"{name}.png" for name in FIGURES)]


def write_report(record: dict[str, Any], out: Path, force: bool = False) -> list[Path]:
    """Write ``out/report.html`` and ``out/figures/*.png``.

    The page stands alone: its style and figures are inside it, and it asks nothing of the network.

    Args:
        record: what ``study.json`` holds, finished or not.
        out: folder; made where it is missing. Figures of an earlier record in it are removed.
        force: replace files in it that no study wrote, or that were changed since.

    Returns:
        The files written: the page first, then the figures there were data for.

    Raises:
        InputError: if matplotlib or jinja2 is missing, ``record`` is not a study's, or ``out``
            cannot be written or holds other files of these names.
    """
    try:
        study = read(StudyRecord, record if isinstance(record, dict) else {})
    except ValueError as error:
        raise InputError(
            f"not the record of a study: {error}; give the content of a study.json"
        ) from error
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

    figures = draw_figures(study)
    page, *possible = report_files(out)
    pictures = {out / "figures" / f"{figure.name}.png": figure.png for figure in figures}
    outputs = Outputs("study", force)
    outputs.write({**pictures, page: render(study, figures).encode()})
    outputs.remove([path for path in possible if path not in pictures])
    return [page, *pictures]
