"""The experiments are written as any user would write them: over the public names alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder

from semiflat_experiments import cli

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "experiments" / "src" / "semiflat_experiments"
FILES = sorted(SOURCE.rglob("*.py"))
PUBLIC = {"semiflat.errors", "semiflat.outputs", "semiflat.jobs", "semiflat.report", "semiflat.cli"}


def imported(path: Path) -> Iterator[str]:
    """What a file imports: modules, and the modules that names are taken from."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; write the whole name"
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_of_semiflat_they_import_public_names_and_public_modules(path: Path):
    own = {name for name in imported(path) if name.split(".")[0] == "semiflat"}
    assert own <= {"semiflat", *PUBLIC}


def test_the_public_modules_are_those_of_the_docs():
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^- `(semiflat\.\w+)`", page, re.M)) == PUBLIC


@pytest.mark.parametrize("path", FILES, ids=lambda p: "/".join(p.parts[-2:]))
def test_one_paper_cannot_see_another(path: Path):
    papers = {each.parent.name for each in SOURCE.glob("*/__init__.py")}
    assert len(papers) == 5
    for name in imported(path):
        seen = [*name.split("."), ""][1] if name.startswith("semiflat_experiments.") else ""
        if path.parent != SOURCE:
            assert seen == path.parent.name or seen not in papers, f"{path} must not import {seen}"


def test_reproduce_is_found_by_its_entry_point():
    (entry,) = [e for e in entry_points(group="semiflat.commands") if e.name == "reproduce"]
    assert entry.load() is cli.reproduce


@pytest.mark.parametrize("builder", [WheelBuilder, SdistBuilder])
def test_what_a_user_installs_does_not_hold_them(builder):
    held = [each.relative_path for each in builder(str(ROOT)).recurse_included_files()]
    assert "src/semiflat/jobs/spread.py" in held
    assert not [path for path in held if "papers" in path or "experiments" in path]
