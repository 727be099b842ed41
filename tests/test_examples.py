"""The notebooks run, and show what they are stored with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks import NOTEBOOKS, alike, executed, shown

DRAWS = r"plt[.]show\(|^(?!axes)\w[^=\n]*[.]plot\w*\("
"""What draws: pyplot's show, and a picture of the library's that ends a cell."""


def _code(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 5


LONG = {"how-wide-should-it-be"}
"""A minute and more."""
EVERY = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.stem in LONG else [])
    for path in NOTEBOOKS
]


@pytest.mark.parametrize("path", EVERY)
def test_a_notebook_shows_what_it_is_stored_with(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    found = shown(executed(path))
    kept = shown(stored)
    say = f"run `make examples`, and look at {path.name}"
    assert [len(cell) for cell in found] == [len(cell) for cell in kept], say
    for cell, there in zip(found, kept, strict=True):
        differ = [pair for pair in zip(cell, there, strict=True) if not alike(*pair)]
        assert not differ, say
    assert not any(text.startswith("stderr") for cell in found for text in cell)
    assert sum(cell.count("a picture") for cell in found) == len(
        re.findall(DRAWS, _code(stored), re.M)
    )
