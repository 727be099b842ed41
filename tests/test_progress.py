"""Bars: one mechanism for commands and for Python, in a terminal and in a notebook, silent elsewhere."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
import torch

import semiflat as sf
from semiflat.progress import bars_in_html, counted, stages

PROBLEM = sf.Problem(
    sf.MLP([1, 1, 1], "gelu"),
    torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None],
    torch.cos(torch.linspace(-3, 3, 12, dtype=torch.float64)),
)


class Terminal(io.StringIO):
    """What a terminal would show."""

    def isatty(self) -> bool:
        return True


class Kernel:
    """A front end that keeps what it is told to draw."""

    kernel = object()


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    """What a notebook's cell is told to draw: whether anew in place, and what."""
    import IPython
    import IPython.display

    seen: list[tuple[bool, str]] = []

    class Handle:
        def display(self, picture: Any) -> None:
            seen.append((False, picture.data))

        def update(self, picture: Any) -> None:
            seen.append((True, picture.data))

    monkeypatch.setattr(IPython, "get_ipython", Kernel)
    monkeypatch.setattr(IPython.display, "DisplayHandle", Handle)
    return seen


def test_a_terminal_shows_a_bar_that_ends_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    sf.run_search(PROBLEM, starts=6, progress=True)
    text = terminal.getvalue()
    assert "search" in text
    assert "6/6" in text
    assert "CONVERGED" in text


@pytest.mark.parametrize("call", [sf.run_search, sf.find_critical_points, sf.find_critical_point])
def test_what_is_no_terminal_stays_silent(call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call(PROBLEM, starts=4, progress=True)
    call(PROBLEM, starts=4)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_redraws_one_output_and_its_last_picture_is_full(
    drawn: list[tuple[bool, str]],
) -> None:
    points = sf.find_critical_points(PROBLEM, starts=6, progress=True)
    assert 'value="6" max="6"' in drawn[-1][1]
    assert [again for again, _ in drawn] == [False] + [True] * (len(drawn) - 1)
    drawn.clear()
    verdicts = sf.judge_all(points, progress=True)
    assert len(verdicts) == len(points)
    assert f">{'</progress> '}{len(points)}/{len(points)}" in drawn[-1][1]
    drawn.clear()
    assert list(counted(range(5000), "judge", True)) == list(range(5000))
    assert 2 <= len(drawn) < 500  # not one picture for each


def test_a_hierarchy_shows_a_bar_for_each_thing_it_does(drawn: list[tuple[bool, str]]) -> None:
    shown, plain = (
        sf.hierarchy(PROBLEM, [1, 2], 2, saddle_starts=1, processes=1, progress=given)
        for given in (True, False)
    )
    assert [repr(point) for point in shown] == [repr(point) for point in plain]
    last = drawn[-1][1]
    for words in ("1 units, minima", "1 units, any index", "2 units, descents", "1 units, judged"):
        assert f"<div>{words} <progress" in last
    assert [again for again, _ in drawn] == [False] + [True] * (len(drawn) - 1)


def test_a_bar_does_not_change_what_is_found() -> None:
    plain, shown = (sf.run_search(PROBLEM, starts=6, progress=given) for given in (False, True))
    assert [p.loss for p in plain.runs] == [p.loss for p in shown.runs]
    points = list(plain)
    assert [c.document for c in sf.certify_all(points)] == [
        c.document for c in sf.certify_all(points, progress=True)
    ]


def test_stages_are_one_bar_each_and_text_is_escaped() -> None:
    html = bars_in_html({"<find>": (1, 2, "<i>"), "prove": (0, 0, "")}, 1.0)
    assert html.count("<progress") == 2
    assert "<find>" not in html
    assert "<i>" not in html
    with stages() as report:
        report("search", 1, 2, "")


@pytest.mark.parametrize("wrong", ["yes", None, 1])
def test_what_is_neither_true_nor_false_nor_a_function_is_refused(wrong: Any) -> None:
    for call in (
        lambda: sf.run_search(PROBLEM, starts=1, progress=wrong),
        lambda: sf.hierarchy(PROBLEM, [1], 1, progress=wrong),
        lambda: sf.judge_all([], progress=wrong),
        lambda: sf.certify_all([], progress=wrong),
    ):
        with pytest.raises(sf.InputError, match="progress must be True"):
            call()
