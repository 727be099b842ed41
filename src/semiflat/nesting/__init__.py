"""The critical points of all widths, nested, and which of them a training run is near."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from semiflat.errors import InputError, whole, whole_seed
from semiflat.nesting.build import Builder
from semiflat.nesting.record import Edge, Level, PointRecord, Widths
from semiflat.nesting.result import (
    CriticalFunction,
    Hierarchy,
    HierarchyPoint,
    LeastWidth,
    Trap,
)
from semiflat.problem import Problem

__all__ = [
    "CriticalFunction",
    "Edge",
    "Hierarchy",
    "HierarchyPoint",
    "LeastWidth",
    "Level",
    "PointRecord",
    "Trap",
    "hierarchy",
]


def hierarchy(
    problem: Problem,
    widths: Sequence[int | Sequence[int]],
    starts: int = 200,
    *,
    seed: int = 0,
    saddle_starts: int | None = None,
    max_iterations: int = 1500,
    processes: int | None = None,
    dask: str | None = None,
    store: str | None = None,
    progress: Callable[[str, int, int], None] = lambda words, done, total: None,
) -> Hierarchy:
    """The critical points of a problem at several widths, and how they nest (Z22 Figs 1, 4.4).

    At each width: random starts for minima and for points of any index; descents both ways from every
    strict saddle that a point one level narrower becomes here, by the inertia law; and from the saddles
    found here. What they end at is kept once for each point, modulo symmetries, and left out where it is
    only a narrower level's point, embedded (told by :func:`semiflat.reduce`). Minima at infinity are
    points of limiting networks. Points of all widths with the same outputs on the data have one
    *critical function*.

    Args:
        problem: data, loss and network; the hidden widths of the network are replaced.
        widths: of the hidden layer, or of all hidden layers, of each level; each level no narrower than the
            one before.
        starts: random starts for minima, at each level.
        seed: of the starts.
        saddle_starts: random starts for points of any index; a quarter of ``starts`` by default. These
            take several times as long.
        max_iterations: steps of one start.
        processes, dask: see :func:`semiflat.run_search`.
        store: keeps what has been run, to go on later: a file, or the URL of a database.
        progress: called with what is done, in words, how much of it, and of how much.

    Raises:
        InputError: for widths that do not grow or do not fit the network, and numbers that make no sense.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1, 2], starts=16, seed=0)
    >>> [level.new_minima for level in h.levels]
    [1, ...]
    >>> print(h.least_width(1e-2))
    width ...
    """
    if not isinstance(problem, Problem):
        raise InputError(f"a hierarchy is of a Problem, not of a {type(problem).__name__}")
    levels = _levels(problem, widths)
    whole("starts", starts, 1)
    whole_seed(seed)
    saddle_starts = starts // 4 if saddle_starts is None else whole("saddle_starts", saddle_starts)
    search: dict[str, Any] = {"processes": processes, "dask": dask, "out": store}
    builder = Builder(
        problem,
        levels,
        starts=starts,
        saddle_starts=saddle_starts,
        seed=seed,
        max_iterations=whole("max_iterations", max_iterations, 1),
        search={name: value for name, value in search.items() if value is not None},
        progress=progress,
    )
    builder.run()
    return Hierarchy(problem, builder.points(), builder.edges, builder.levels())


def _levels(problem: Problem, widths: Any) -> list[Widths]:
    if not isinstance(widths, list | tuple | range) or not widths:
        raise InputError(f"widths must be a list such as [1, 2, 3], not {widths!r:.60}")
    depth = len(problem.net.hidden)
    levels = []
    for given in widths:
        row = [given] if isinstance(given, int) and not isinstance(given, bool) else given
        if not isinstance(row, list | tuple) or len(row) != depth:
            raise InputError(
                f"widths {given!r:.60} do not fit a network with {depth} hidden layer(s); give "
                f"{'a number' if depth == 1 else f'{depth} numbers'} for each level"
            )
        levels.append(tuple(whole("a width", width, 1) for width in row))
    for narrow, wide in pairwise(levels):
        if narrow == wide or any(a > b for a, b in zip(narrow, wide, strict=True)):
            raise InputError(
                f"widths must grow from level to level, and {list(wide)} does not contain {list(narrow)}; "
                "give them in ascending order"
            )
    return levels
