"""Starts over processes: the same results, also when a process is lost on the way."""

from functools import partial
from pathlib import Path

import pytest
import torch

import semiflat as sf
from marked import Marked, mark, marks
from semiflat.jobs import Job, JobsLost, Machines, spread
from semiflat.jobs.spread import TRIES
from semiflat.search import gather
from semiflat.search.block import Settings, run_block

SETTINGS = Settings(max_iterations=20)
TWO = Machines(processes=2)
X = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]


def problem(activation="tanh") -> sf.Problem:
    return sf.Problem(sf.MLP([1, 2, 1], activation), X, torch.sin(2 * X) + 0.3 * X**2)


def test_one_process_and_two_give_the_same():
    one, two = (
        sf.run_search(problem(), starts=130, seed=3, max_iterations=60, processes=n) for n in (1, 2)
    )
    same(one, two)


def same(one: sf.SearchResult, two: sf.SearchResult) -> None:
    """Run for run, to the last bit."""
    assert [run.record.start for run in one.runs] == list(range(len(one.runs)))
    assert one.counts == two.counts
    for first, second in zip(one.runs, two.runs, strict=True):
        assert first.status is second.status
        assert first.record.start == second.record.start
        assert first.record.iterations == second.record.iterations
        assert first.record.evidence == second.record.evidence
        assert all(torch.equal(first.params[key], second.params[key]) for key in first.params)
        assert (first.record.limit is None) == (second.record.limit is None)
        if first.record.limit is not None:
            assert first.record.limit.forms == second.record.limit.forms
            assert torch.equal(first.record.limit.vector, second.record.limit.vector)
    assert [point.loss for point in one.points] == [point.loss for point in two.points]


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


def blocks_of(problems, size=4) -> list[Job]:
    """One block of starts for each problem."""
    net = problems[0].net
    starts = net.flatten(net.random_params(0, (size * len(problems),)))
    return [
        Job(numbers, partial(run_block, [one], numbers, starts[list(numbers)], SETTINGS))
        for k, one in enumerate(problems)
        for numbers in [range(size * k, size * (k + 1))]
    ]


def results(blocks, machines) -> dict:
    got = {}
    spread(blocks, lambda block, ends: got.update({end.start: end for end in ends}), machines)
    return got


def test_a_slow_block_does_not_hold_up_the_others(tmp_path: Path):
    """It ends only when they all have."""
    order = []

    def on_end(block, ends):
        order.append(block.name[0])
        mark(tmp_path, "ended")

    slow = Marked(problem(), tmp_path, "slow", after={"ended": 3})
    blocks = blocks_of([slow, problem(), problem(), problem()])
    spread(blocks, on_end, TWO)
    assert sorted(order) == [0, 4, 8, 12]
    assert order[-1] == 0


def test_a_lost_process_costs_no_start(tmp_path: Path):
    """And blocks that have a result are not run again.

    Block 4 kills its process when all before it have a result and block 5 has been begun; block 5 does
    not end before block 4 is begun again, so both are run twice, and no other.
    """
    waits = {4: {"ended": 4, "b5": 1}, 5: {"b4": 2}}
    got = {}

    def on_end(block, ends):
        got.update({end.start: end for end in ends})
        mark(tmp_path, "ended")

    marked = blocks_of(
        [Marked(problem(), tmp_path, f"b{k}", int(k == 4), waits.get(k)) for k in range(7)]
    )
    spread(marked, on_end, TWO)
    assert [len(marks(tmp_path, f"b{k}")) for k in range(7)] == [1, 1, 1, 1, 2, 2, 1]
    expected = results(blocks_of([problem()] * 7), Machines())
    assert got.keys() == expected.keys()
    assert all(torch.equal(got[n].vector, expected[n].vector) for n in got)


@pytest.mark.slow
def test_a_block_that_always_kills_its_process_is_named_and_the_others_are_run(tmp_path: Path):
    got = set()
    marked = blocks_of([Marked(problem(), tmp_path, f"b{k}", 99 * (k == 1)) for k in range(4)])
    with pytest.raises(JobsLost, match=r"jobs range\(4, 8\) have no result: .* all other") as error:
        spread(marked, lambda block, ends: got.update(end.start for end in ends), TWO)
    assert error.value.jobs == [marked[1]]
    assert len(marks(tmp_path, "b1")) == TRIES
    assert got == set(range(16)) - {4, 5, 6, 7}


def test_what_was_run_is_in_the_error_and_in_the_folder(tmp_path: Path, monkeypatch):
    """And the next search runs what is missing."""

    def lose_the_last(jobs, on_end, machines):
        spread(jobs[:-1], on_end, machines)
        raise JobsLost(jobs[-1:], "it was told to")

    monkeypatch.setattr(gather, "spread", lose_the_last)
    how = {"starts": 70, "max_iterations": 5, "processes": 1, "out": tmp_path}
    with pytest.raises(sf.LostStarts, match="starts 64 to 69 of seed 0 have no result") as error:
        sf.run_search(problem(), **how)
    assert error.value.numbers == list(range(64, 70))
    assert [run.record.start for run in error.value.result.runs] == list(range(64))
    monkeypatch.undo()
    assert sf.run_search(problem(), **how).stored == 64


@pytest.mark.parametrize("processes", [1, 2])
def test_ctrl_c_returns_what_is_done(processes: int):
    """Nothing is made up for the runs that were cut short."""

    def stop(finished):
        told.extend(finished)
        if len(told) >= 64:
            raise KeyboardInterrupt

    told = []
    result = sf.run_search(
        problem(), starts=200, max_iterations=5, processes=processes, progress=stop
    )
    assert result.interrupted
    assert len(result.runs) == len(told) == 64
    assert [run.record.start for run in result.runs] == sorted(end.start for end in told)


def test_a_block_that_is_cut_short_gives_what_really_ended(monkeypatch):
    def cut(problems, numbers, starts, settings, on_end):
        run_block(problems, numbers[:3], starts[:3], settings, on_end)
        raise KeyboardInterrupt

    monkeypatch.setattr("semiflat.search.gather.run_block", cut)
    result = sf.run_search(problem(), starts=100, max_iterations=5, processes=1)
    assert result.interrupted
    assert [run.record.start for run in result.runs] == [0, 1, 2]
    start = problem().net.random_params(0, (5,))
    given = sf.run_search(problem(), start=start, max_iterations=5)
    assert [run.record.start for run in given.runs] == [-1, -2, -3]


def cut_short(emit):
    emit("a part")
    raise KeyboardInterrupt


def test_ctrl_c_in_another_process_hands_on_what_had_come_of_the_job():
    got = []
    with pytest.raises(KeyboardInterrupt):
        spread([Job(k, cut_short) for k in range(2)], lambda job, parts: got.append(parts), TWO)
    assert got == [["a part"]]


def test_a_job_that_fails_fails_here():
    with pytest.raises(ZeroDivisionError):
        spread([Job(k, lambda emit: emit(1 / 0)) for k in range(2)], lambda job, parts: None, TWO)


@pytest.mark.parametrize("processes", [1, 2])
def test_jobs_run_with_the_threads_they_are_given(processes: int):
    before = torch.get_num_threads()
    got = []
    jobs = [Job(k, lambda emit: emit(torch.get_num_threads())) for k in range(2)]
    spread(jobs, lambda job, parts: got.extend(parts), Machines(processes, threads=3))
    assert got == [3, 3]
    assert torch.get_num_threads() == before


def test_a_search_stopped_before_a_run_ended_has_no_reason_made_up(monkeypatch):
    def stop(*args: object):
        raise KeyboardInterrupt

    monkeypatch.setattr("semiflat.search.gather.run_block", stop)
    result = sf.run_search(problem(), starts=5, max_iterations=5, processes=1)
    assert result.interrupted
    assert result.why_none.startswith("no run had ended when the search was stopped")
