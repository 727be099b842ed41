"""Jumps along the way to infinity of units that grow sharp."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semiflat.search.driver import GAIN, GROWTH, Driver, Phase
from semiflat.search.methods import LevenbergMarquardt, TrustRegion

JUMPS = (2, 12)
"""How many at most, each one by a factor: after a stage, and after the last."""
LOWER = 1e-9
"""Part of its size by which one loss has to lie below another to be lower."""
PHASES = [Phase(LevenbergMarquardt(), 20), Phase(TrustRegion(), 40)]

Jump = Callable[[int, Tensor], Tensor | None]
"""From a run's number and its parameters (P,) to those after the jump, None if there is nowhere to jump."""


def go_further(driver: Driver, rows: Sequence[int], jump: Jump, last: bool) -> None:
    """Let runs jump, and walk down from there, for as long as they get lower.

    A jump that gains as little as a look at a creeping run would tell is told in its words.
    """
    runs, options = driver.runs, driver.options
    for _ in range(JUMPS[last]):
        moved: list[int] = []
        kept = runs.theta.clone(), runs.risk.clone(), runs.gradient.clone(), driver.lengths.clone()
        flags = [each.clone() for each in (runs.stuck, runs.creeping, runs.promised, runs.last)]
        for row in rows:
            if int(runs.iterations[row]) >= options.max_iterations or driver.left(row):
                continue
            there = jump(row, runs.theta[row])
            if there is not None:
                driver.move(row, there)
                moved.append(row)
        if not moved:
            return
        driver.go(PHASES, torch.tensor(moved))
        lower = runs.risk < kept[1]  # False where it is not finite
        sizes, before = runs.theta.abs().amax(-1), kept[0].abs().amax(-1)
        gain = (kept[1] - runs.risk) / kept[1].abs().clamp(min=1e-300)
        crept = (sizes > GROWTH * before) & (gain < GAIN)
        for row in moved:
            if lower[row]:
                if crept[row]:
                    runs.creeping[row] = True
                    runs.last[row] = torch.stack([before[row], kept[1][row]])
            else:
                runs.theta[row], runs.risk[row], runs.gradient[row], driver.lengths[row] = (
                    each[row] for each in kept
                )
                runs.stuck[row], runs.creeping[row], runs.promised[row], runs.last[row] = (
                    each[row] for each in flags
                )
                runs.settled[row] = False
        rows = [row for row in moved if gain[row] > LOWER and not runs.settled[row]]
