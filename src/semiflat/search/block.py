"""A block of starts, run as one batch: the job that is spread, kept and run again.

In torch the last bits of a run depend on its batch (``bmm``, ``eigh`` and sums change with it), so what is
to come out the same anywhere has to be run together. In the compiled engine a run depends on its start
alone: there a block is what is handed to one process at a time, and of no consequence.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from semiflat.curvature.engine import EngineName, compiled, using
from semiflat.evidence import Evidence
from semiflat.limits import Form, LimitMLP, sharpened
from semiflat.memory import freed_memory_kept
from semiflat.networks import MLP
from semiflat.problem import Problem, ProblemBatch
from semiflat.search.beyond import LARGEST, Reached, go_beyond
from semiflat.search.driver import Options, Phase, driver_of
from semiflat.search.further import go_further
from semiflat.search.large import dense, large_outcome, without
from semiflat.search.methods import (
    GradientSystem,
    LevenbergMarquardt,
    Method,
    NewtonCG,
    SignedNewton,
    TrustRegion,
)
from semiflat.search.outcome import beyond_outcome, outcome
from semiflat.search.race import Stage, advance, methods_of
from semiflat.search.record import Finished, Status
from semiflat.search.stop import Stop

STAGES: dict[str, list[Stage]] = {
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
        engine: what computes.
    """

    kind: Literal["minimum", "any"] = "minimum"
    seed: int | None = 0
    tolerance: float = 1e-12
    max_iterations: int = 1500
    given: bool = False
    method: Method | None = None
    engine: EngineName = "auto"

    def stages(self, net: MLP) -> list[Stage]:
        """What a run goes through: after each stage, who runs to infinity is looked for there."""
        if self.method is None and (self.kind == "any" or dense(net)):
            return STAGES[self.kind]
        return [[Phase(self.method or NewtonCG(), 10**9)]]

    def one_by_one(self, problem: Problem) -> bool:
        """Whether a run depends on its own start alone: where the compiled engine takes all of its steps."""
        methods = [method for stage in self.stages(problem.net) for method in methods_of(stage)]
        with using(self.engine):
            return all(each.compiled for each in methods) and compiled(problem, 1) is not None


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
    with freed_memory_kept(), using(settings.engine):
        _Block(problems, numbers, starts, settings, on_end).run(settings.stages(problems[0].net))


class _Block:
    """Starts on their way, by row.

    Attributes:
        ended: the results there are.
        jumped: steps tried after jumps (:mod:`semiflat.search.further`), which are not counted otherwise.
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
        self.driver = driver_of(shared, starts, self.options)
        self.ended: dict[int, Finished] = {}
        self.there: dict[int, Reached] = {}
        self.jumped: Counter[int] = Counter()
        # With weight decay the risk has no limits at infinity; small gradients do not lead to any.
        self.any_index = settings.kind == "any"
        self.descends = self.any_index and not settings.given and settings.method is None
        # Limiting networks are walked in by dense Hessians.
        builds = settings.method is None or settings.method.builds
        self.dense = builds and dense(shared.net)
        self.beyond = not self.any_index and shared.by_algebra and self.dense

    def run(self, stages: Sequence[Stage]) -> None:
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
            advance(self.driver, stage, finite)
            if self.beyond:
                self._go_further(finite, last)
            stopped = self._stopped(going)
            for row in finite:
                if stopped[row].status in _FINAL:
                    self._end(row, stopped.pop(row))
            if self.beyond:
                self._go_beyond(stopped, last)
            if last:
                for row in stopped.keys() - self.ended.keys():
                    self._end(row, stopped[row])

    def _go_further(self, rows: list[int], last: bool) -> None:
        """On along the way of units that grow sharp."""
        runs, net = self.driver.runs, self.driver.problem.net
        small = runs.small(torch.arange(len(runs.risk)), self.options.tolerance)
        rows = [row for row in rows if bool(torch.isfinite(runs.risk[row])) and not small[row]]
        if not rows:
            return
        plain = LimitMLP(net, [[Form.UNIT] * width for width in net.hidden])

        def jump(place: int, vector: Tensor) -> Tensor | None:
            problem = self.problems[rows[place]]
            none = [torch.zeros(width, problem.samples).double() for width in net.hidden]
            params = sharpened(problem, plain, net.unflatten(vector), none)
            return None if params is None else net.flatten(params)

        shared = self.driver.problem.rows(torch.tensor(rows))
        further = driver_of(shared, runs.theta[rows], replace(self.options, largest=LARGEST))
        go_further(further, range(len(rows)), jump, last)
        for place, row in enumerate(rows):
            self.jumped[row] += int(further.runs.iterations[place])
            if further.runs.risk[place] < runs.risk[row]:
                self.driver.move(row, further.runs.theta[place])
                for name in ("stuck", "creeping", "promised", "last"):
                    getattr(runs, name)[row] = getattr(further.runs, name)[place]

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
            [stopped[row] for row in rows],
            [self.there.get(row) for row in rows],
            self.options,
            last,
        )
        for row, there in zip(rows, reached, strict=True):
            if there is None:
                continue
            problem, end = self.problems[row], stopped[row]
            result = beyond_outcome(problem, end, there, self.options)
            self.there.pop(row, None)
            back = None
            if result.at_infinity is not None and not last:
                back = result.at_infinity.at(problem).way_down()
            if back is not None:
                self.driver.move(row, problem.net.flatten(back))
            elif result.at_infinity is not None or last:
                self._end(row, result)
            elif not there.stop.small:
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
        iterations = end.iterations + self.jumped[row]
        self.ended[row] = end = replace(end, iterations=iterations, engine=self.driver.engine)
        self.on_end(end)
