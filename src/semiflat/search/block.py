"""A block of starts, run as one batch: the job that is spread, kept and run again.

A job is not one start: in torch the last bits of a run depend on its batch (``bmm``, ``eigh`` and sums
change with it), so what is to come out the same anywhere has to be run together. Once a run depends on
its start alone, a job can be one start: a block of one, which stores can hold as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from semiflat.evidence import Evidence
from semiflat.memory import freed_memory_kept
from semiflat.networks import MLP
from semiflat.problem import Problem, ProblemBatch
from semiflat.search.beyond import Reached, go_beyond
from semiflat.search.driver import Driver, Options, Phase
from semiflat.search.large import dense, large_outcome, without
from semiflat.search.methods import (
    GradientSystem,
    LevenbergMarquardt,
    Method,
    NewtonCG,
    SignedNewton,
    TrustRegion,
)
from semiflat.search.outcome import Stop, beyond_outcome, outcome
from semiflat.search.record import Finished, Status

STAGES: dict[str, list[list[Phase]]] = {
    # The exact Hessian is enough for problems that are not badly conditioned. Where it does not get
    # there in few steps, bending Gauss–Newton paths walk down the valleys and it comes back near
    # their ends. After each stage, who runs to infinity is looked for there.
    "minimum": [
        [
            Phase(TrustRegion(), 40),
            Phase(LevenbergMarquardt(), 300, until=1e-5),
            Phase(TrustRegion(), 30),
        ],
        [Phase(LevenbergMarquardt(), 300, until=1e-6), Phase(TrustRegion(), 30)],
        [Phase(LevenbergMarquardt(), 400, until=1e-7), Phase(TrustRegion(), 30)],
        [Phase(LevenbergMarquardt(), 300, until=1e-8), Phase(TrustRegion(), 10**9)],
    ],
    # Newton's steps with the signs kept; where they get nowhere, down the gradient's norm.
    "any": [[Phase(SignedNewton(), 200), Phase(GradientSystem(), 10**9)]],
}
DESCENTS = (0, 4, 8, 16)
"""For critical points of any index, how far down the starts go first, in turn: from random parameters
themselves, Newton's steps mostly lead to the constant predictor."""
_FINAL = (Status.CONVERGED, Status.NON_FINITE)

OnEnd = Callable[[Finished], None]


@dataclass(frozen=True)
class Settings:
    """How to search; what a start's result depends on, beside the problem and its number.

    Attributes:
        given: whether the starts were given; then what is near them is looked for.
        method: whose steps are taken, all the way; None for those of the kind, in stages.
    """

    kind: Literal["minimum", "any"] = "minimum"
    seed: int | None = 0
    tolerance: float = 1e-12
    max_iterations: int = 1500
    given: bool = False
    method: Method | None = None

    def stages(self, net: MLP) -> list[list[Phase]]:
        """What a run goes through: after each stage, who runs to infinity is looked for there."""
        if self.method is None and (self.kind == "any" or dense(net)):
            return STAGES[self.kind]
        return [[Phase(self.method or NewtonCG(), 10**9)]]


def run_block(
    problems: Sequence[Problem],
    numbers: Sequence[int],
    starts: Tensor,
    settings: Settings,
    on_end: OnEnd,
) -> None:
    """Run some starts to their ends.

    Args:
        problems: one for all starts, or one for each.
        numbers: of the starts; they name the results.
        starts: parameters, (B, P).
        on_end: called with each result as soon as there is one.
    """
    with freed_memory_kept():
        _Block(problems, numbers, starts, settings, on_end).run(settings.stages(problems[0].net))


class _Block:
    """Starts on their way, by row.

    Attributes:
        ended: the results there are.
        there: who is in a limiting network now, and where.
    """

    def __init__(
        self,
        problems: Sequence[Problem],
        numbers: Sequence[int],
        starts: Tensor,
        settings: Settings,
        on_end: OnEnd,
    ) -> None:
        self.numbers, self.on_end = numbers, on_end
        self.problems = list(problems) if len(problems) > 1 else list(problems) * len(numbers)
        self.options = Options(settings.tolerance, settings.max_iterations)
        shared = problems[0] if len(problems) == 1 else ProblemBatch(problems)
        self.driver = Driver(shared, starts, self.options)
        self.ended: dict[int, Finished] = {}
        self.there: dict[int, Reached] = {}
        # With weight decay the risk has no limits at infinity; small gradients do not lead to any.
        self.any_index = settings.kind == "any"
        self.descends = self.any_index and not settings.given and settings.method is None
        # Limiting networks are walked in by dense Hessians.
        self.dense = dense(shared.net)
        self.beyond = not self.any_index and shared.by_algebra and self.dense

    def run(self, stages: Sequence[Sequence[Phase]]) -> None:
        """Take all starts to their ends."""
        if self.descends:
            for turn, steps in enumerate(DESCENTS):
                rows = [row for row, k in enumerate(self.numbers) if k % len(DESCENTS) == turn]
                self.driver.go(
                    [Phase(TrustRegion(), steps)] if steps else [],
                    torch.tensor(rows, dtype=torch.int64),
                )
        for stage in stages:
            last = stage is stages[-1]
            going = [row for row in range(len(self.numbers)) if row not in self.ended]
            finite = [row for row in going if row not in self.there]
            self.driver.go(stage, torch.tensor(finite, dtype=torch.int64))
            stopped = self._stopped(going)
            for row in finite:
                if stopped[row].status in _FINAL:
                    self._end(row, stopped.pop(row))
            if self.beyond:
                self._go_beyond(stopped, last)
            if last:
                for row in stopped.keys() - self.ended.keys():
                    self._end(row, stopped[row])

    def _go_beyond(self, stopped: dict[int, Finished], last: bool) -> None:
        """On to critical points at infinity, and back from those that a finite network improves on."""
        rows = [
            row
            for row, end in stopped.items()
            if end.loss >= self.problems[row].no_critical_point_below
            and not self.problems[row].fits(end.loss)
        ]
        reached = go_beyond(
            [self.problems[row] for row in rows],
            [stopped[row].vector for row in rows],
            [self.there.get(row) for row in rows],
            self.options,
        )
        for row, there in zip(rows, reached, strict=True):
            if there is None:
                continue
            problem, end = self.problems[row], stopped[row]
            result = beyond_outcome(problem, end, there, self.options)
            self.there.pop(row, None)
            back = None
            if result.limit is not None and not last:
                back = result.limit.at(problem).way_down()
            if back is not None:
                self.driver.move(row, problem.net.flatten(back))
            elif result.limit is not None or last:
                self._end(row, result)
            elif there.loss <= end.loss and not there.converged:
                self.there[row] = there  # it is lower there: go on there

    def _stopped(self, rows: list[int]) -> dict[int, Finished]:
        runs = self.driver.runs
        stops = {row: Stop.of(runs, row, self.options) for row in rows}
        small = [row for row, stop in stops.items() if math.isfinite(stop.risk) and stop.small]
        known: dict[int, Evidence] = {}
        if not self.dense:
            return {row: self._unbuilt(row, stop) for row, stop in stops.items()}
        if small:
            points = [stops[row].point(self.problems[row]) for row in small]
            shared = self.driver.problem.rows(torch.tensor(small))
            found = Evidence.of_batch(shared, points, self.options.judged)
            known = dict(zip(small, found, strict=True))
        return {
            row: outcome(self.problems[row], self.numbers[row], stop, self.options, known.get(row))
            for row, stop in stops.items()
        }

    def _unbuilt(self, row: int, stop: Stop) -> Finished:
        problem, number = self.problems[row], self.numbers[row]
        separated = stop.risk < problem.no_critical_point_below
        if math.isfinite(stop.risk) and stop.small and not separated:
            return large_outcome(number, stop, problem, self.options.judged)
        end = outcome(problem, number, stop, self.options)
        return replace(end, evidence=f"{end.evidence}; {without(problem.net)}")

    def _end(self, row: int, end: Finished) -> None:
        self.ended[row] = end
        self.on_end(end)
