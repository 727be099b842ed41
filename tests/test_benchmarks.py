"""Benchmarks keep their figures in one form, and a worse figure is found."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RECORDED = sorted(BENCHMARKS.glob("results/*.json"))


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch):
    """Imports a benchmark as it is when it is run."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    yield load
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCHMARKS)):
            del sys.modules[name]


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_a_record_says_its_machine_and_makes_its_page(file: Path, load) -> None:
    cases = load("common").read(file)
    assert all(
        {"cpu", "date", "torch_threads"} <= case["machine"].keys() for case in cases.values()
    )
    page = load("search_figures" if file.stem == "search" else file.stem).page
    assert page(cases) == file.with_suffix(".md").read_text(encoding="utf-8")


def test_every_record_is_compared() -> None:
    assert {file.stem for file in RECORDED} == {
        "carry",
        "certificates",
        "engine",
        "hessian",
        "induced",
        "judge_module",
        "large",
        "mass_branches",
        "module_peers",
        "paths",
        "search",
        "startup",
        "store",
        "unit_curvature",
    }
    # compare.py has each measured again into a file of its own.
    scripts = [BENCHMARKS / f"{file.stem}.py" for file in RECORDED]
    assert all('"--out"' in script.read_text(encoding="utf-8") for script in scripts)


def test_a_figure_that_is_worse_is_found_and_one_that_is_better_is_not(load, capsys) -> None:
    compare = load("compare")
    recorded = {
        "a": {"seconds": [1.0, 2.0, 3.0], "certified": 4, "gap": 1.0, "check": {"peak": 10}}
    }
    assert compare.compared(recorded, recorded, 1.5) == []
    better = {"a": {"seconds": [1.0], "certified": 8, "gap": 9.0, "check": {"peak": 5}}}
    assert compare.compared(recorded, better, 1.5) == []
    worse = {"a": {"seconds": [4.0], "certified": 2, "gap": 1.0, "check": {"peak": 14}}}
    assert compare.compared(recorded, worse, 1.5) == [
        "a: seconds is worse by 2.00",
        "a: certified is worse by 2.00",
    ]
    assert "! seconds" in capsys.readouterr().out
    assert compare.compared(recorded, {}, 1.5) == ["a: not measured"]
    gone = {"a": {"seconds": [1.0], "certified": 0}}
    assert compare.compared(recorded, gone, 1.5) == ["a: certified is worse by inf"]


def test_a_record_keeps_what_is_not_measured_again(load, tmp_path: Path) -> None:
    common, file = load("common"), tmp_path / "x.json"
    common.Record(file, lambda cases: " ".join(cases), ["b", "a"]).keep(
        "a", {"seconds": float("inf")}
    )
    common.Record(file, lambda cases: " ".join(cases), ["b", "a"]).keep("b", {"seconds": 1.0})
    assert json.loads(file.read_text())["cases"]["a"]["seconds"] is None
    assert file.with_suffix(".md").read_text() == "b a"
