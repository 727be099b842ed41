"""Starts over processes: the same results, also when a process is lost on the way."""

import os
import signal
from pathlib import Path

import pytest
import torch

import semiflat as sf
from semiflat.search.block import Settings
from semiflat.search.spread import Block, spread

X = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]


def problem(activation="tanh") -> sf.Problem:
    return sf.Problem(sf.MLP([1, 2, 1], activation), X, torch.sin(2 * X) + 0.3 * X**2)


def test_one_process_and_two_give_the_same():
    one, two = (
        sf.run_search(problem(), starts=130, seed=3, max_iterations=60, processes=n) for n in (1, 2)
    )
    assert [run.record.start for run in one.runs] == list(range(130))
    for first, second in zip(one.runs, two.runs, strict=True):
        assert first.status is second.status
        assert first.record.evidence == second.record.evidence
        assert all(torch.equal(first.params[key], second.params[key]) for key in first.params)


def test_several_problems_are_searched_at_once():
    generator = torch.Generator().manual_seed(0)
    net = sf.MLP([1, 1, 1], "gelu")
    problems = [
        sf.Problem(net, X, torch.sin(2 * X) + 0.1 * torch.randn((20, 1), generator=generator))
        for _ in range(3)
    ]
    result = sf.run_search(problems, starts=5, seed=1)
    assert [run.record.start for run in result.runs] == list(range(15))
    alone = sf.run_search(
        problems[1], start=net.unflatten(net.flatten(net.random_params(1, (15,)))[5:10])
    )
    for run, twin in zip(result.runs[5:10], alone.runs, strict=True):
        assert run.problem is problems[1]
        assert run.status is twin.status
        assert run.loss == pytest.approx(twin.loss, rel=1e-9)


def test_problems_that_do_not_belong_together_are_refused():
    short = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X[:7], X[:7])
    with pytest.raises(sf.InputError, match="shape of X"):
        sf.run_search([problem(), short], starts=1)
    with pytest.raises(sf.InputError, match="network"):
        sf.run_search([problem(), problem("gelu")], starts=1)
    with pytest.raises(sf.InputError, match="at least one"):
        sf.run_search([], starts=1)
    with pytest.raises(sf.InputError, match="processes"):
        sf.run_search(problem(), starts=1, processes=0)
    with pytest.raises(sf.InputError, match="as many for each"):
        sf.run_search([problem(), problem()], start=problem().net.random_params(0, (3,)))


class Deadly(sf.Problem):
    """Kills the first process that works on it."""

    def rows(self, chosen):
        mark = Path(self.mark)
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self


def test_a_lost_process_costs_no_start(tmp_path: Path):
    harmless = problem()
    deadly = object.__new__(Deadly)
    deadly.__dict__ = {**harmless.__dict__, "mark": str(tmp_path / "dead")}
    starts = harmless.net.flatten(harmless.net.random_params(0, (8,)))
    settings = Settings(max_iterations=20)
    expected, results = (
        list(
            spread(
                [
                    Block([one], [0, 1, 2, 3], starts[:4]),
                    Block([harmless], [4, 5, 6, 7], starts[4:]),
                ],
                settings,
                processes,
            )
        )
        for one, processes in ((harmless, 1), (deadly, 2))
    )
    assert (tmp_path / "dead").exists()
    for (first, _), (second, _) in zip(expected, results, strict=True):
        assert [end.start for end in first] == [end.start for end in second]
        for end, twin in zip(first, second, strict=True):
            assert torch.equal(end.vector, twin.vector)
