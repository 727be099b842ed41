"""What several test files say in the same words."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import semiflat as sf
from reference import Reference, Step, cauchy
from semiflat.cli.app import _run


def refused(text: str) -> Any:
    """An InputError whose message holds ``text``."""
    return pytest.raises(sf.InputError, match=re.escape(text))


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """A command's exit code, and what it printed on either stream."""
    capsys.readouterr()
    code = _run([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refused_command(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a command given unusable input prints."""
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, ""), err
    assert err.startswith("error: ")
    assert err.count("\n") == 1, f"more than one line: {err}"
    assert "Traceback" not in err
    return err


def problem_of(ref: Reference, dtype: torch.dtype = torch.float64) -> sf.Problem:
    """The problem of a reference."""
    net = sf.MLP(ref.widths, ref.activation, ref.has_bias)
    return sf.Problem(net, ref.X, ref.y, cauchy if ref.loss == "cauchy" else ref.loss, dtype)


def point_of(ref: Reference) -> sf.Point:
    """The point of a reference."""
    return sf.Point(problem_of(ref), ref.params)


def embedding_of(steps: list[Step]) -> sf.Embedding:
    """The embedding that does what the steps do to a reference."""
    made = [
        sf.Replicate(step[1], step[2], step[3])
        if step[0] == "replicate"
        else sf.NullUnits(step[1], step[2])
        for step in steps
    ]
    whole: sf.Embedding = made[0]
    for each in made[1:]:
        whole = whole >> each
    return whole
