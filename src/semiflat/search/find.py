"""Multi-start search for critical points."""

from __future__ import annotations

import os
import warnings
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal

import torch

from semiflat.curvature.engine import EngineName, checked_engine
from semiflat.errors import InputError, positive, switch, unknown_name, whole, whole_seed
from semiflat.jobs import Machines, is_database
from semiflat.networks import Params
from semiflat.problem import Problem, ProblemBatch
from semiflat.progress import Report, following
from semiflat.search.block import STAGES, Settings
from semiflat.search.distinct import classes
from semiflat.search.gather import Gathered, Progress, gather, tally
from semiflat.search.methods import METHODS, Method
from semiflat.search.record import CriticalPoint, Finished, SearchRecord, SearchResult, Status
from semiflat.search.store import open_store
from semiflat.search.unseen import Unseen


def run_search(
    problem: Problem | Sequence[Problem],
    starts: int = 1000,
    *,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 1500,
    start_scale: float = 1.0,
    start: Params | None = None,
    progress: Progress | bool = False,
    thread_count: int = 1,
    processes: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    method: str | Method | None = None,
    engine: EngineName = "auto",
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
            for data and targets of size 1. A run below it is not CONVERGED where parameters run to
            infinity, at a kink, and where the gradient is small only because the residuals are. It
            is where the Hessian is singular: its evidence says for what reason, or for none known.
        max_iterations: steps a run may try, and as many again in limiting networks, once units run off to
            infinity.
        start_scale: multiplies the starting weights, which have deviation 1/√fan_in.
        start: begin here instead of at random: one set of parameters, or a batch of them; with
            several problems, one for each.
        progress: True shows a bar, in a terminal or a notebook. Or a function that is called with the runs
            that have ended since the last call, first with those read from a folder.
        thread_count: torch threads of each process; more than one pays only for thousands of
            samples.
        processes: over how many processes to spread the starts; all cores by default. It does not change
            what is found. One block of starts (64, or as many as 1 GiB has room for, above 512 parameters) is
            run in this process, by as many threads where the engine is compiled.
        dask: address of a Dask scheduler (``"tcp://host:8786"``), to spread them over its workers
            instead.
        out: where to keep finished starts; those that are there already are not run again. The
            result is that of a search never interrupted. A folder for one search; or a database, which has
            room for many, and whose given starts (``start``) are kept, too: a file ending in ``.db`` or
            ``.sqlite``, or a URL, ``postgresql://user@host/database``.
        method: take this one's steps alone: a name (``"trust_region"``, ``"levenberg_marquardt"``,
            ``"signed_newton"``, ``"gradient_system"``, ``"newton_cg"``), or a :class:`Method` of your own. By
            default several take turns, as is best for the kind. For minima of networks of more than
            4,096 parameters (fewer where memory is short) it is ``"newton_cg"``, which builds no Hessian;
            runs to infinity are then not followed there, and their evidence says so.
        engine: ``"auto"`` has the compiled engine compute where it is installed and knows activations, loss
            and method, and torch elsewhere; ``"torch"`` torch alone; ``"native"`` refuses what the engine does
            not know. Each run's record says which it was.

    Returns:
        A :class:`SearchResult`; after Ctrl-C, of what is done.

    Raises:
        InputError: for an unknown kind, numbers that make no sense, a folder that cannot be written
            or holds another search, a database that cannot be used, and a cluster that cannot.
        LostStarts: if the processes of some starts were lost each time they were run. All others
            were run: the error's ``result`` has them, and so has ``out``.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, torch.cos(3 * X))
    >>> found = sf.run_search(problem, starts=16)
    >>> len(found.runs), found.counts["CONVERGED"]
    (16, 16)
    >>> print(found.points[0].status.meaning)
    reached a finite critical point; its evidence says whether it is isolated, ...
    """
    if not isinstance(kind, str) or kind not in STAGES:
        raise unknown_name("kind", kind, STAGES)
    counts = {"starts": starts, "max_iterations": max_iterations, "thread_count": thread_count}
    for name, value in counts.items():
        whole(name, value, 1)
    if seed is not None:
        whole_seed(seed)
    tolerance, start_scale = positive("tolerance", tolerance), positive("start_scale", start_scale)
    if out is not None and not isinstance(out, str | os.PathLike):
        raise InputError(
            f"out must be the path of a folder or a database, not {type(out).__name__}"
        )
    if out is not None and start is not None and not is_database(out):
        raise InputError(
            "a folder keeps random starts, which their seed and number tell: give a seed and no start; or a "
            "database as out (a file ending in .db or .sqlite, or a URL), which keeps given ones, too"
        )
    if out is not None and start is None and seed is None:
        raise InputError(
            "out keeps random starts, which their seed and number tell: give a seed and no start, "
            "or leave out away"
        )
    machines = Machines.asked(processes, dask, thread_count)
    problems = _problems(problem)
    net = problems[0].net
    if start is None:
        theta = net.flatten(net.random_params(seed, (starts * len(problems),), start_scale))
    else:
        if not isinstance(start, dict):
            raise InputError(
                f"start must be a dict of parameters as net.random_params gives, not a "
                f"{type(start).__name__}"
            )
        theta = net.flatten(start).detach().to(torch.float64)
        theta = theta.reshape(-1, theta.shape[-1])
        if len(theta) % len(problems):
            raise InputError(
                f"start holds {len(theta)} sets of parameters for {len(problems)} problems; give as "
                "many for each"
            )
    chosen, engine = _method(method, out), checked_engine(engine)
    settings = Settings(kind, seed, tolerance, max_iterations, start is not None, chosen, engine)
    each = len(theta) // len(problems)
    given = None if start is None else theta

    def bar(report: Report) -> Progress:
        return tally(lambda done, so_far: report("search", done, len(theta), so_far))

    with (
        (
            nullcontext()
            if out is None
            else open_store(out, problems, settings, start_scale, starts, given)
        ) as store,
        following(progress, bar, "the runs that ended") as tell,
    ):
        got = gather(problems, theta, settings, machines, store, tell)
    ended = [(problems[row // each], got.ended[row]) for row in sorted(got.ended)]
    result = _result(ended, seed, start is not None, got)
    if got.lost is not None:
        got.lost.result = result
        raise got.lost
    return result


def _method(given: str | Method | None, out: str | Path | None) -> Method | None:
    """The method of that name, or the one given."""
    if given is None or (isinstance(given, str) and given in METHODS):
        return METHODS.get(given or "")
    if isinstance(given, str):
        raise unknown_name("method", given, METHODS)
    if not isinstance(given, Method):
        raise InputError(
            f"method must be a name or a semiflat.Method, not {given!r:.60}. Known names: "
            f"{', '.join(METHODS)}"
        )
    if out is not None and given not in METHODS.values():
        raise InputError(
            f"{type(given).__name__} is a method of your own, and a folder cannot tell whether it is the same "
            "one when the search goes on; give no folder (out)"
        )
    return given


def _problems(given: Problem | Sequence[Problem]) -> list[Problem]:
    problems: list[Any] = list(given) if isinstance(given, list | tuple) else [given]
    if not problems or not all(isinstance(problem, Problem) for problem in problems):
        raise InputError(
            "a search takes a Problem or a list of at least one, not "
            f"{[type(problem).__name__ for problem in problems][:3]}; make one with Problem(net, X, y)"
        )
    for problem in problems:
        if problem.dtype != torch.float64:
            raise InputError(
                f"a search needs float64, the problem computes in {problem.dtype}; leave dtype away "
                "(data of any precision are taken)"
            )
    if len(problems) > 1:
        ProblemBatch(problems)  # refuses what cannot be searched together
    return problems


def _result(
    finished: list[tuple[Problem, Finished]],
    seed: int | None,
    given: bool,
    got: Gathered,
) -> SearchResult:
    runs = [
        CriticalPoint(
            problem,
            problem.net.unflatten(end.vector),
            SearchRecord(
                -1 - end.start if given else end.start,
                seed,
                end.iterations,
                end.status,
                end.evidence,
                end.limit,
                end.inertia,
                end.engine,
            ),
        )
        for problem, end in finished
        if end.status is not Status.NON_FINITE
    ]
    converged: dict[int, list[CriticalPoint]] = defaultdict(list)
    for run in runs:
        if run.status is Status.CONVERGED:
            converged[id(run.problem)].append(run)
    groups = [
        group
        for found in converged.values()
        for group in classes(sorted(found, key=lambda run: run.loss))
    ]
    groups.sort(key=lambda group: group.runs[0].loss)
    return SearchResult(
        [group.runs[0] for group in groups],
        runs,
        len(finished) - len(runs),
        got.interrupted,
        got.stored,
        [len(group.runs) for group in groups],
        [point for group in groups for point in group.apart],
        Unseen.of([len(group.runs) for group in groups if not group.apart]),
    )


def find_critical_points(
    problem: Problem,
    starts: int = 1000,
    *,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 1500,
    progress: Progress | bool = False,
    processes: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    method: str | Method | None = None,
    engine: EngineName = "auto",
    infinity: bool = False,
) -> list[CriticalPoint]:
    """The distinct critical points that random starts lead to, lowest loss first.

    Only CONVERGED runs are in the list, modulo permutation of units, reflection of odd activations
    and of sigmoid, and positive scaling, and one of each connected set of critical points.
    :func:`run_search` tells how the others ended, and what the arguments are. Where there is none, a
    warning says how the runs ended and what to do.

    Args:
        infinity: whether points at infinity are in the list, too: of limiting networks, and no less to be
            judged, embedded, left and saved.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> y = [abs(x[0]) - x[0] for x in X]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> points = sf.find_critical_points(problem, starts=8, seed=0)
    >>> points[0].status, points[0].gradient_norm < 1e-10
    (<Status.CONVERGED: 'CONVERGED'>, True)
    """
    switch("infinity", infinity)
    result = run_search(
        problem,
        starts=starts,
        seed=seed,
        kind=kind,
        tolerance=tolerance,
        max_iterations=max_iterations,
        progress=progress,
        processes=processes,
        dask=dask,
        out=out,
        method=method,
        engine=engine,
    )
    if infinity and result.at_infinity:
        return result.with_infinity
    if not result.points:
        warnings.warn(result.why_none, stacklevel=2)
    return result.points


def find_critical_point(
    problem: Problem,
    starts: int = 32,
    *,
    seed: int | None = 0,
    kind: Literal["minimum", "any"] = "minimum",
    tolerance: float = 1e-12,
    max_iterations: int = 1500,
    start: Params | None = None,
    progress: Progress | bool = False,
    processes: int | None = None,
    dask: str | None = None,
    out: str | Path | None = None,
    method: str | Method | None = None,
    engine: EngineName = "auto",
) -> CriticalPoint:
    """The critical point of lowest loss among those found.

    If no run converged, where the lowest run ended: its ``status`` and ``note`` say why it is none.

    Args:
        start: polish these parameters instead of starting at random.

    Raises:
        InputError: if the loss is not finite at any start.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, torch.cos(3 * X))
    >>> point = sf.find_critical_point(problem, starts=8)
    >>> point.status, point.gradient_norm < 1e-12
    (<Status.CONVERGED: 'CONVERGED'>, True)
    >>> near = {key: value + 0.01 for key, value in point.params.items()}
    >>> polished = sf.find_critical_point(problem, start=near)
    >>> abs(polished.loss - point.loss) < 1e-12
    True
    """
    result = run_search(
        problem,
        starts=starts,
        seed=seed,
        kind=kind,
        tolerance=tolerance,
        max_iterations=max_iterations,
        start=start,
        progress=progress,
        processes=processes,
        dask=dask,
        out=out,
        method=method,
        engine=engine,
    )
    if result.points:
        return result.points[0]
    if not result.runs:
        raise InputError(
            f"the loss is not finite at any of {result.non_finite} starts; scale the data or the "
            "starting weights down"
        )
    return min(result.runs, key=lambda run: run.loss)
