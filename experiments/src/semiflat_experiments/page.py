"""The page of all experiments that a folder holds; it stands alone, figures included."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from semiflat.outputs import Outputs
from semiflat_experiments import NAMES
from semiflat_experiments.figure import check_installed

PAGE = "reproduction.html"


def write_page(out: Path, force: bool = False) -> Path:
    """Write ``out/reproduction.html`` from the outcomes in ``out``.

    Raises:
        InputError: without jinja2, or where another file of that name is in the way.
    """
    check_installed("jinja2")
    import jinja2

    template = files("semiflat_experiments").joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    runs = [run for name in NAMES if (run := _shown(out, name)) is not None]
    page = out / PAGE
    content = environment.from_string(template).render(runs=runs).encode()
    Outputs("reproduce", force).write({page: content})
    return page


def _shown(out: Path, name: str) -> dict[str, Any] | None:
    """An outcome with its picture; None where either is missing or damaged."""
    try:
        run: dict[str, Any] = json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        picture = base64.b64encode((out / f"{name}.png").read_bytes()).decode()
    except (OSError, ValueError):
        return None
    failed = sum(not check["holds"] for check in run["checks"])
    return {**run, "png": picture, "failed": failed}


def table_lines(run: dict[str, Any]) -> list[str]:
    """The outcome as lines of text: the table, then the checks."""
    header = {"what": "", "published": "published", "measured": "measured", "why": ""}
    rows = [header, *run["rows"]]
    first, second = (max(len(row[key]) for row in rows) for key in ("what", "published"))
    third = max(len(row["measured"]) for row in rows)
    lines = [f"{run['source']}: {run['title']}"]
    for row in rows:
        cells = f"{row['what']:{first}}  {row['published']:{second}}  {row['measured']:{third}}"
        lines.append(f"  {cells}  {row['why']}".rstrip())
    lines += [_check_line(check) for check in run["checks"]]
    return lines


def _check_line(check: dict[str, Any]) -> str:
    return f"  {'holds' if check['holds'] else 'DOES NOT HOLD'}: {check['claim']} ({check['evidence']})"


def settings_line(run: dict[str, Any]) -> str:
    """Settings, seconds and machine in one line."""
    settings = ", ".join(f"{key} {value}" for key, value in run["settings"].items())
    return (
        f"  settings: {settings}; {run['seconds']} s of computing on {run['machine']['processor']}"
    )


def lines(runs: Sequence[dict[str, Any]]) -> list[str]:
    """All that the command prints."""
    return [line for run in runs for line in (*table_lines(run), settings_line(run), "")][:-1]
