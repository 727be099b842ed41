"""Two methods by turns: the faster one goes on, and every run for itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import semiflat as sf
from semiflat.curvature.engine import compiled
from semiflat.search.driver import Driver, Options, Phase, driver_of
from semiflat.search.methods import LevenbergMarquardt, TrustRegion
from semiflat.search.race import LEG, TRIAL, Race, advance

Paces = dict[type, list[float]]


class Scripted(Driver):
    """Lowers the loss of each run by so much a step, whatever the problem is."""

    def __init__(self, problem: sf.Problem, starts: Tensor, paces: Paces) -> None:
        super().__init__(problem, starts, Options(max_iterations=10**6))
        self.paces, self.taken = paces, [Counter[type]() for _ in starts]

    def go(self, phases: Sequence[Phase], among: Tensor) -> None:
        for phase in phases:
            kind = type(phase.method)
            for row in among.tolist():
                self.runs.risk[row] -= phase.steps * self.paces[kind][row]
                self.runs.iterations[row] += phase.steps
                self.taken[row][kind] += phase.steps


def problem() -> sf.Problem:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn((40, 2), generator=generator).double()
    return sf.Problem(sf.MLP([2, 3, 1], "sigmoid"), X, torch.sin(2 * X[:, :1]) + X[:, 1:] ** 2)


def starts(count: int) -> Tensor:
    net = problem().net
    return net.flatten(net.random_params(1, (count,)))


def test_the_faster_method_takes_the_leg_run_by_run() -> None:
    paces: Paces = {LevenbergMarquardt: [2.0, 1.0], TrustRegion: [1.0, 2.0]}
    driver = Scripted(problem(), starts(2), paces)
    advance(driver, Race(2 * TRIAL + LEG), [0, 1])
    bent, exact = driver.taken
    assert bent[LevenbergMarquardt] == exact[TrustRegion] == TRIAL + LEG
    assert exact[LevenbergMarquardt] == TRIAL
    # After bending paths exact steps have the last word, on whether a run has settled.
    assert TRIAL < bent[TrustRegion] < TRIAL + LEG


def test_a_race_ends_with_its_steps_and_touches_no_other_run() -> None:
    paces: Paces = {LevenbergMarquardt: [1.0] * 3, TrustRegion: [2.0] * 3}
    driver = Scripted(problem(), starts(3), paces)
    advance(driver, Race(500), [0, 2])
    used = driver.runs.iterations.tolist()
    assert used[1] == 0
    assert 500 <= used[0] == used[2] < 500 + 2 * TRIAL + LEG + 2


@pytest.mark.parametrize("flag", ["settled", "stuck"])
def test_who_is_there_leaves_the_race(flag: str) -> None:
    paces: Paces = {LevenbergMarquardt: [1.0] * 2, TrustRegion: [1.0] * 2}
    driver = Scripted(problem(), starts(2), paces)
    getattr(driver.runs, flag)[1] = True
    advance(driver, Race(300), [0, 1])
    assert driver.runs.iterations[1] == 2 * TRIAL
    assert driver.runs.iterations[0] >= 300


def test_a_run_that_takes_no_steps_ends_the_race() -> None:
    given = problem()
    driver = driver_of(given, starts(1), Options(max_iterations=7))
    advance(driver, Race(10**9), [0])
    assert driver.runs.iterations[0] == 7


def test_a_raced_run_depends_on_its_start_alone() -> None:
    given = problem()
    if compiled(given, 4) is None:
        pytest.skip("in torch the last bits depend on the batch")
    options = Options(1e-12, 400)
    together = driver_of(given, starts(4), options)
    advance(together, Race(300), [0, 1, 2, 3])
    for row in range(4):
        alone = driver_of(given, starts(4)[row : row + 1], options)
        advance(alone, Race(300), [0])
        assert torch.equal(alone.runs.theta[0], together.runs.theta[row])
        assert alone.runs.iterations[0] == together.runs.iterations[row]
