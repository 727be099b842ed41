"""Multi-start search for critical points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch

from semiflat.errors import InputError, unknown_name
from semiflat.networks import Params
from semiflat.problem import Problem, ProblemBatch
from semiflat.search.block import BLOCK, STAGES, Settings
from semiflat.search.record import CriticalPoint, Finished, SearchRecord, SearchResult, Status
from semiflat.search.spread import Block, process_count, spread
from semiflat.symmetries.canonical import same_network

Progress = Callable[[int], None]
"""Called now and then with the number of runs that ended since the last call."""


def run_search(
    problem: Problem | Sequence[Problem],
    starts: int = 1000,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 2000,
    start_scale: float = 1.0,
    start: Params | None = None,
    progress: Progress = lambda ended: None,
    thread_count: int = 1,
    processes: int | None = None,
) -> SearchResult:
    """Second-order search from many random starts at once; every run is accounted for.

    Args:
        problem: what to search; or several problems that differ in their data alone, each with as
            many samples as the others: they are searched as one batch.
        starts: number of random starts of each problem. Start k of problem i is number
            n = i·starts + k, and depends on ``seed`` and n alone.
        seed: of the starts; None for fresh ones.
        kind: ``"minimum"`` follows the loss down (trust region, exact Hessian); ``"any"`` goes to
            critical points of every index.
        tolerance: ``‖∇R‖∞`` to reach, times √R where R > 1. Rounding in the gradient is near 1e-15
            for data and targets of size 1. A run below it is CONVERGED only if its Hessian is
            nonsingular but for explained flat directions.
        max_iterations: steps a run may try.
        start_scale: multiplies the starting weights, which have deviation 1/√fan_in.
        start: begin here instead of at random: one set of parameters, or a batch of them; with
            several problems, one for each.
        progress: see :data:`Progress`.
        thread_count: torch threads of each process; more than one pays only for thousands of
            samples.
        processes: over how many processes to spread the starts; all cores by default. Starts are
            run in blocks of 64 whatever this is, so that it does not change what is found; up to 64
            starts are run in this process.

    Returns:
        A :class:`SearchResult`; after Ctrl-C, of what is done.

    Raises:
        InputError: for an unknown kind, or numbers that make no sense.
    """
    if kind not in STAGES:
        raise unknown_name("kind", kind, STAGES)
    for name, value in {"starts": starts, "max_iterations": max_iterations}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InputError(f"seed must be a whole number of at least 0, or None, not {seed!r}")
    for name, number in {"tolerance": tolerance, "start_scale": start_scale}.items():
        if not number > 0:
            raise InputError(f"{name} must be positive, not {number!r}")
    problems = _problems(problem)
    net = problems[0].net
    if start is None:
        theta = net.flatten(net.random_params(seed, (starts * len(problems),), start_scale))
        numbers = list(range(len(theta)))
    else:
        theta = net.flatten(start).to(torch.float64)
        theta = theta.reshape(-1, theta.shape[-1])
        numbers = [-1] * len(theta)
        if len(theta) % len(problems):
            raise InputError(
                f"start holds {len(theta)} sets of parameters for {len(problems)} problems; give as "
                "many for each"
            )
    each = len(theta) // len(problems)
    settings = Settings(kind, seed, tolerance, max_iterations)
    blocks = []
    for first in range(0, len(theta), BLOCK):
        rows = range(first, min(first + BLOCK, len(theta)))
        own = [problems[row // each] for row in rows] if len(problems) > 1 else problems
        chosen = [numbers[row] for row in rows]
        blocks.append(Block(own, chosen, theta[rows.start : rows.stop]))
    finished: list[tuple[Problem, Finished]] = []
    interrupted = False
    results = spread(blocks, settings, process_count(processes), thread_count, progress)
    try:
        for block, (done, interrupted) in zip(blocks, results, strict=False):
            own = block.problems * (len(done) if len(block.problems) == 1 else 1)
            finished += zip(own, done, strict=True)
            if interrupted:
                break
    except KeyboardInterrupt:
        interrupted = True
    return _result(finished, seed, interrupted)


def _problems(given: Problem | Sequence[Problem]) -> list[Problem]:
    problems = [given] if isinstance(given, Problem) else list(given)
    if not problems or not all(isinstance(problem, Problem) for problem in problems):
        raise InputError(
            "run_search takes a Problem or a list of at least one, not "
            f"{[type(problem).__name__ for problem in problems][:3]}"
        )
    if len(problems) > 1:
        ProblemBatch(problems)  # refuses what cannot be searched together
    return problems


def _result(
    finished: list[tuple[Problem, Finished]], seed: int | None, interrupted: bool
) -> SearchResult:
    runs = [
        CriticalPoint(
            problem,
            problem.net.unflatten(end.vector),
            SearchRecord(
                end.start, seed, end.iterations, end.status, end.evidence, end.limit, end.inertia
            ),
        )
        for problem, end in finished
        if end.status is not Status.NON_FINITE
    ]
    points: list[CriticalPoint] = []
    for problem in {id(problem): problem for problem, _ in finished}.values():
        found = [r for r in runs if r.problem is problem and r.status is Status.CONVERGED]
        points += distinct(sorted(found, key=lambda run: run.loss))
    return SearchResult(
        sorted(points, key=lambda point: point.loss), runs, len(finished) - len(runs), interrupted
    )


def find_critical_points(
    problem: Problem,
    starts: int = 1000,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 2000,
    progress: Progress = lambda ended: None,
) -> list[CriticalPoint]:
    """The distinct critical points that random starts lead to, lowest loss first.

    Only CONVERGED runs are in the list, modulo permutation of units, reflection of odd activations
    and of sigmoid, and positive scaling. :func:`run_search` tells how the others ended.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> y = [abs(x[0]) - x[0] for x in X]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> points = sf.find_critical_points(problem, starts=8, seed=0)
    >>> points[0].status, points[0].gradient_norm < 1e-10
    (<Status.CONVERGED: 'CONVERGED'>, True)
    """
    return run_search(
        problem, starts, seed, kind, tolerance, max_iterations, progress=progress
    ).points


def find_critical_point(
    problem: Problem,
    starts: int = 32,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 2000,
    start: Params | None = None,
) -> CriticalPoint:
    """The critical point of lowest loss among those found.

    If no run converged, where the lowest run ended: look at its ``status``.

    Args:
        start: polish these parameters instead of starting at random.

    Raises:
        InputError: if the loss is not finite at any start.
    """
    result = run_search(problem, starts, seed, kind, tolerance, max_iterations, start=start)
    if result.points:
        return result.points[0]
    if not result.runs:
        raise InputError(
            f"the loss is not finite at any of {result.non_finite} starts; scale the data or the "
            "starting weights down"
        )
    return min(result.runs, key=lambda run: run.loss)


def distinct(points: list[CriticalPoint]) -> list[CriticalPoint]:
    """One of each set of points that are the same network modulo symmetry, in the given order."""
    kept: list[CriticalPoint] = []
    for point in points:
        close = (
            other
            for other in kept
            if abs(other.loss - point.loss) <= 1e-8 * max(abs(point.loss), 1e-12)
        )
        if not any(same_network(point.problem.net, p.params, point.params) for p in close):
            kept.append(point)
    return kept
