"""The notebooks run, and show what they are stored with."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from notebooks import NOTEBOOKS, executed, shown


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_is_stored_with(path: Path) -> None:
    stored = nbformat.read(path, as_version=4)
    nbformat.validate(stored)
    found = shown(executed(path))
    assert found == shown(stored), f"run `make examples`, and look at {path.name}"
    assert not any(text.startswith("stderr") for cell in found for text in cell)
    assert any("a picture" in cell for cell in found)
