"""Two methods by turns, and further with the one that lowers the loss faster.

Along a narrow valley the exact Hessian's steps are as short as the valley bends. Gauss–Newton paths bend with
it, but crawl where the residuals' own curvature matters. Which of them gets on differs from place to place by
factors of ten to a hundred, and shows within a few steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.search.driver import Driver, Phase
from semiflat.search.methods import LevenbergMarquardt, Method, TrustRegion

TRIAL = 15
"""Steps by which a method shows how fast it gets lower, ..."""
LEG = 60
"""... and those that the faster one goes on for."""


@dataclass(frozen=True)
class Race:
    """A stage of the search in which two methods race each other.

    Attributes:
        steps: how many a run tries, about.
        until: as of a :class:`Phase`, for Gauss–Newton paths.
    """

    steps: int
    until: float = 1e-10


Stage = list[Phase] | Race


def methods_of(stage: Stage) -> list[Method]:
    """Whose steps a stage takes."""
    if isinstance(stage, Race):
        return [LevenbergMarquardt(), TrustRegion()]
    return [phase.method for phase in stage]


def advance(driver: Driver, stage: Stage, among: list[int]) -> None:
    """Take the runs numbered ``among`` through a stage."""
    if not isinstance(stage, Race):
        driver.go(stage, torch.tensor(among, dtype=torch.int64))
        return
    runs, rows = driver.runs, torch.tensor(among, dtype=torch.int64)
    end = runs.iterations + stage.steps
    while len(rows):
        before = runs.iterations[rows]
        bent = _pace(driver, Phase(LevenbergMarquardt(), TRIAL, stage.until), rows)
        exact = _pace(driver, Phase(TrustRegion(), TRIAL), rows)
        # Who has settled is there; who takes no steps has left, or used up what a run may try.
        going = ~(runs.settled[rows] | runs.stuck[rows])
        going &= (runs.iterations[rows] > before) & (runs.iterations[rows] < end[rows])
        faster = bent > exact
        driver.go([Phase(TrustRegion(), LEG)], rows[going & ~faster])
        driver.go(
            [Phase(LevenbergMarquardt(), LEG, stage.until), Phase(TrustRegion(), 2)],
            rows[going & faster],
        )
        going &= ~(runs.settled[rows] | runs.stuck[rows]) & (runs.iterations[rows] < end[rows])
        rows = rows[going]


def _pace(driver: Driver, phase: Phase, rows: Tensor) -> Tensor:
    """By how much a step of the phase lowers each run's loss, on average."""
    runs = driver.runs
    steps, risk = runs.iterations[rows], runs.risk[rows]
    driver.go([phase], rows)
    return (risk - runs.risk[rows]) / (runs.iterations[rows] - steps).clamp(min=1)
