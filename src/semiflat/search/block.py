"""A block of starts, run as one batch: the unit of work that is spread, stored and run again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from semiflat.problem import Problem, ProblemBatch
from semiflat.search.beyond import go_beyond
from semiflat.search.driver import Options, Phase, Runs, drive
from semiflat.search.methods import GradientSystem, LevenbergMarquardt, TrustRegion
from semiflat.search.outcome import beyond_outcome, outcome
from semiflat.search.record import CriticalPoint, Finished, SearchRecord, Status
from semiflat.threads import threads

PHASES: dict[str, list[Phase]] = {
    # Gauss–Newton walks, the exact Hessian leaves saddles and goes down to rounding. Where neither
    # gets there at the first go, both get a second.
    "minimum": [
        Phase(LevenbergMarquardt(), 500, until=1e-5),
        Phase(TrustRegion(), 50),
        Phase(LevenbergMarquardt(), 400, until=1e-7),
        Phase(TrustRegion(), 10**9),
    ],
    "any": [Phase(GradientSystem(), 10**9)],
}
BLOCK = 64
"""Starts in a block: enough for the batch to pay, few enough that its slowest run is not waited for
by many. It does not depend on the machine, so that the same starts are always run together."""

OnEnd = Callable[[Finished], None]


@dataclass(frozen=True)
class Settings:
    """How to search; what a start's result depends on, beside the problem and its number."""

    kind: Literal["minimum", "any"] = "minimum"
    seed: int | None = 0
    tolerance: float = 1e-12
    max_iterations: int = 1000


def run_block(
    problems: Sequence[Problem],
    numbers: Sequence[int],
    starts: Tensor,
    settings: Settings,
    on_end: OnEnd = lambda finished: None,
    thread_count: int = 1,
) -> tuple[list[Finished], bool]:
    """Run some starts to their ends.

    Args:
        problems: one for all starts, or one for each.
        numbers: of the starts; they name the results.
        starts: parameters, (B, P).
        on_end: called with each result as soon as there is one.

    Returns:
        The results in the order of ``numbers``, and whether Ctrl-C stopped them early.
    """
    shared = problems[0] if len(problems) == 1 else ProblemBatch(problems)
    options = Options(settings.tolerance, settings.max_iterations)
    each = problems if len(problems) > 1 else list(problems) * len(numbers)
    with threads(thread_count):
        runs, interrupted = drive(shared, starts, options, PHASES[settings.kind])
        results = [
            _finished(each[row], runs, row, number, settings, options)
            for row, number in enumerate(numbers)
        ]
        if settings.kind == "minimum" and not interrupted:
            results = _with_limits(each, results, options)
    for result in results:
        on_end(result)
    return results, interrupted


def _with_limits(
    problems: Sequence[Problem], results: list[Finished], options: Options
) -> list[Finished]:
    """The same results, those that run to infinity with the critical point there."""
    rows = [
        row
        for row, result in enumerate(results)
        if result.status not in (Status.CONVERGED, Status.NON_FINITE)
        and result.loss >= problems[row].no_critical_point_below
        and not problems[row].weight_decay  # with it the risk has no limits at infinity
    ]
    out = list(results)
    reached = go_beyond(
        [problems[row] for row in rows], [results[row].vector for row in rows], options
    )
    for row, end in zip(rows, reached, strict=True):
        if end is not None:
            out[row] = beyond_outcome(problems[row], results[row], end, options)
    return out


def _finished(
    problem: Problem, runs: Runs, row: int, number: int, settings: Settings, options: Options
) -> Finished:
    iterations, vector = int(runs.iterations[row]), runs.theta[row]
    loss, gradient_norm = float(runs.risk[row]), float(runs.gradient[row].abs().max())
    if not bool(runs.risk[row].isfinite()):
        return Finished(
            number,
            Status.NON_FINITE,
            "the loss is not finite at the start",
            iterations,
            vector,
            loss,
            gradient_norm,
        )
    bare = SearchRecord(number, settings.seed, iterations, Status.STALLED, "")
    point = CriticalPoint(problem, problem.net.unflatten(vector), bare)
    size, risk = runs.last[row].tolist()
    creeping = (size, risk) if bool(runs.creeping[row]) else None
    stuck = bool(runs.stuck[row])
    status, evidence = outcome(point, iterations, creeping, stuck, options)
    return Finished(number, status, evidence, iterations, vector, loss, gradient_norm)
