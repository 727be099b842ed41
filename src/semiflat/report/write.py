"""Writing the page and its figures."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.records.nested import NestedRecord
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
    _check_installed("jinja2", "matplotlib")
    from semiflat.report.figures import draw_figures
    from semiflat.report.page import render

    figures = draw_figures(study)
    page, *possible = report_files(out)
    pictures = {out / "figures" / f"{figure.name}.png": figure.png for figure in figures}
    outputs = Outputs("study", force)
    outputs.write({**pictures, page: render(study, figures).encode()})
    outputs.remove([path for path in possible if path not in pictures])
    return [page, *pictures]


def write_hierarchy_page(record: dict[str, Any], path: str | Path, force: bool = False) -> Path:
    """Write the page of a hierarchy: one file that stands alone and asks nothing of the network.

    Args:
        record: of :meth:`semiflat.Hierarchy.page_record`.
        path: of the file.
        force: replace a file that this did not write, or that was changed since.

    Returns:
        The file.

    Raises:
        InputError: if jinja2 is missing, ``record`` is not a hierarchy's, or the file cannot be written.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=8)
    >>> page = write_hierarchy_page(h.page_record(), pathlib.Path(tempfile.mkdtemp()) / "hierarchy.html")
    >>> "Critical points of 1 width, nested" in page.read_text("utf-8")
    True
    """
    path = Path(path)
    Outputs("hierarchy", force).write({path: hierarchy_page(record)})
    return path


def hierarchy_page(record: dict[str, Any]) -> bytes:
    """The page that :func:`write_hierarchy_page` writes.

    Raises:
        InputError: as there.
    """
    try:
        nested = read(NestedRecord, record if isinstance(record, dict) else [])
    except ValueError as error:
        raise InputError(
            f"not the record of a hierarchy's page: {error}; give what its page_record() returns"
        ) from error
    _check_installed("jinja2")
    from semiflat.report.nested import render

    return render(nested).encode()


def _check_installed(*names: str) -> None:
    for name in names:
        if find_spec(name) is None:
            raise InputError(
                f"a report needs {name}, which is not installed; run pip install 'semiflat[report]'"
            )
