"""What the repository says of itself beside the code agrees with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import semiflat

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def loaded(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_is_of_this_version():
    citation = loaded("CITATION.cff")
    assert citation["version"] == semiflat.__version__
    # What the format asks for, and what else the two files both say.
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["authors"] == PROJECT["authors"]
    assert citation["license"] == PROJECT["license"]
    assert citation["keywords"] == PROJECT["keywords"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]


def test_workflows_run_what_a_developer_runs():
    job = loaded(".github/workflows/ci.yml")["jobs"]["test"]
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"] == [oldest, "3.12", "3.13"]
    steps = loaded(".github/workflows/wheels.yml")["jobs"]["build"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ["make wheels"]
    # The last line of a run is pytest's.
    assert (ROOT / ".ci/run").read_text(encoding="utf-8").split()[-1] == "test"


def test_hooks_are_of_what_is_installed():
    hooks = [hook for repo in loaded(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    installed = {re.split(r"[\[>=]", each)[0] for each in PROJECT["optional-dependencies"]["dev"]}
    assert hooks
    assert {hook["entry"].split()[0] for hook in hooks} <= installed


def test_every_goal_of_make_is_told_and_stands():
    goals = set(re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[1].split())
    assert goals == set(re.findall(r"^([a-z-]+):(?!=)", MAKEFILE, re.M))
    told = " ".join(re.findall(r'@echo "make ([^"]*)"', MAKEFILE))
    assert {
        goal for goal in goals - {"help", "setup"} if not re.search(rf"\b{goal}\b", told)
    } == set()
