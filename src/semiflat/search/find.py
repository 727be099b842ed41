"""Multi-start search for critical points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch

from semiflat.errors import InputError, unknown_name
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.search.block import PHASES
from semiflat.search.driver import Options, Runs, drive
from semiflat.search.outcome import outcome
from semiflat.search.record import CriticalPoint, SearchRecord, SearchResult, Status
from semiflat.symmetries.canonical import same_network
from semiflat.threads import threads

_BATCH_BYTES = 2**30

Progress = Callable[[int], None]
"""Called now and then with the number of runs that ended since the last call."""


def run_search(
    problem: Problem,
    starts: int = 1000,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
    start_scale: float = 1.0,
    start: Params | None = None,
    progress: Progress = lambda ended: None,
    thread_count: int = 1,
) -> SearchResult:
    """Second-order search from many random starts at once; every run is accounted for.

    Args:
        problem: what to search.
        starts: number of random starts; start k depends on ``seed`` and k alone.
        seed: of the starts; None for fresh ones.
        kind: ``"minimum"`` follows the loss down (trust region, exact Hessian); ``"any"`` goes to
            critical points of every index.
        tolerance: ``‖∇R‖∞`` to reach. A run below it is CONVERGED only if its Hessian is
            nonsingular but for explained flat directions.
        max_iterations: steps a run may try.
        start_scale: multiplies the starting weights, which have deviation 1/√fan_in.
        start: begin here instead of at random: one set of parameters, or a batch of them.
        progress: see :data:`Progress`.
        thread_count: torch threads to use; more than one pays only for thousands of samples.

    Returns:
        A :class:`SearchResult`; after Ctrl-C, of what is done.

    Raises:
        InputError: for an unknown kind, or numbers that make no sense.
    """
    if kind not in PHASES:
        raise unknown_name("kind", kind, PHASES)
    for name, value in {"starts": starts, "max_iterations": max_iterations}.items():
        if not isinstance(value, int) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    if seed is not None and (not isinstance(seed, int) or seed < 0):
        raise InputError(f"seed must be a whole number of at least 0, or None, not {seed!r}")
    for name, number in {"tolerance": tolerance, "start_scale": start_scale}.items():
        if not number > 0:
            raise InputError(f"{name} must be positive, not {number!r}")
    net = problem.net
    if start is None:
        theta = net.flatten(net.random_params(seed, (starts,), start_scale))
    else:
        theta = net.flatten(start).to(torch.float64)
        theta = theta.reshape(-1, theta.shape[-1])
    options = Options(tolerance=tolerance, max_iterations=max_iterations)
    runs: list[CriticalPoint] = []
    bad = 0
    interrupted = False
    size = max(1, _BATCH_BYTES // (32 * net.parameter_count**2))
    for first in range(0, len(theta), size):
        batch = theta[first : first + size]
        with threads(thread_count):
            done, interrupted = drive(problem, batch, options, PHASES[kind], progress)
        for row in range(len(batch)):
            number = first + row if start is None else -1
            run = _ended(problem, done, row, number, seed, options)
            if run is None:
                bad += 1
            else:
                runs.append(run)
        if interrupted:
            break
    found = sorted((run for run in runs if run.status is Status.CONVERGED), key=lambda r: r.loss)
    return SearchResult(distinct(found), runs, bad, interrupted)


def find_critical_points(
    problem: Problem,
    starts: int = 1000,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
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
    tolerance: float = 1e-10,
    max_iterations: int = 1000,
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


def _ended(
    problem: Problem, runs: Runs, row: int, number: int, seed: int | None, options: Options
) -> CriticalPoint | None:
    if not bool(torch.isfinite(runs.risk[row])):
        return None
    iterations = int(runs.iterations[row])
    bare = SearchRecord(number, seed, iterations, Status.STALLED, "")
    point = CriticalPoint(problem, problem.net.unflatten(runs.theta[row]), bare)
    size, risk = runs.last[row].tolist()
    creeping = (size, risk) if bool(runs.creeping[row]) else None
    status, evidence = outcome(point, iterations, creeping, bool(runs.stuck[row]), options)
    point.record = SearchRecord(number, seed, iterations, status, evidence)
    return point
