"""The critical points of all widths, nested, and which of them a training run is near."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from semiflat.errors import InputError, unknown_name, whole, whole_number, whole_seed
from semiflat.nesting.build import Builder, Progress
from semiflat.nesting.proofs import Proved
from semiflat.nesting.record import Edge, Level, PointRecord, Widths
from semiflat.nesting.result import (
    CriticalFunction,
    Hierarchy,
    HierarchyPoint,
    Induced,
    LeastWidth,
    Trap,
    check_store,
)
from semiflat.nesting.valleys import Disconnectivity, Pass
from semiflat.problem import Problem
from semiflat.progress import Report, following
from semiflat.verdicts import Kind

__all__ = [
    "CriticalFunction",
    "Disconnectivity",
    "Edge",
    "Hierarchy",
    "HierarchyPoint",
    "Induced",
    "LeastWidth",
    "Level",
    "Pass",
    "PointRecord",
    "Proved",
    "Trap",
    "hierarchy",
    "load_hierarchy",
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
    store: str | Path | None = None,
    progress: Progress | bool = False,
) -> Hierarchy:
    """The critical points of a problem at several widths, and how they nest (Z22 Figs 1, 4.4).

    At each width: random starts for minima and for points of any index; descents both ways from every
    strict saddle that a point one level narrower becomes here, by the inertia law; and from the saddles
    found here. From the lowest points of a level minimisation goes on one level narrower, with units left out:
    so what is found easily with more units is not missed with fewer. What all of these end at is kept once for
    each point, modulo symmetries, and left out where it is only a narrower level's point, embedded (told by
    :func:`semiflat.reduce`). Minima at infinity are points of limiting networks. Points of all widths with the
    same outputs on the data have one
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
        processes: see :func:`semiflat.run_search`.
        dask: likewise.
        store: keeps all that is run, and the hierarchy when it is done: a file ending in ``.db`` or
            ``.sqlite``, or a URL, ``postgresql://user@host/database``. Called again, it runs only what is
            missing; more starts and wider levels may be asked for. :func:`load_hierarchy` reads it.
        progress: True shows bars, in a terminal or a notebook. Or a function that is called with what is done,
            in words, how much of it, and of how much.

    Raises:
        InputError: for widths that do not grow or do not fit the network, and numbers that make no sense;
            for a store that cannot be used, or holds another problem's hierarchy.

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
    whole("max_iterations", max_iterations, 1)
    of_what = "what is done, in words, how much of it, and of how much"
    with following(progress, _bars, of_what) as tell:
        builder = Builder(
            problem,
            levels,
            starts=starts,
            saddle_starts=saddle_starts,
            seed=seed,
            max_iterations=max_iterations,
            search={"processes": processes, "dask": dask},
            store=store,
            progress=tell,
        )
        if store is not None:
            from semiflat.nesting.store import bind

            bind(check_store(store), problem)
        builder.run()
    records, certificates = builder.points(), None
    if store is not None:
        from semiflat.nesting.store import certificates_of

        certificates = certificates_of(store, problem, records)
    found = Hierarchy(problem, records, builder.edges, builder.levels(), certificates=certificates)
    if store is not None:
        found.save(store)
    return found


def load_hierarchy(
    store: str | Path,
    X: Any,
    y: Any,
    *,
    sample_weight: Any = None,
    widths: Sequence[int | Sequence[int]] | None = None,
    kinds: Sequence[str] | None = None,
    lowest: int | None = None,
) -> Hierarchy:
    """Read a hierarchy that :func:`hierarchy` kept or :meth:`Hierarchy.save` wrote; or some of its points.

    The edges are those that leave these points and end at one of them, at an embedded point, or at none.
    All levels are there. The hierarchy's ``selection`` says what was read.

    Args:
        store: a file, or the URL of a database.
        X: the data that it was made on; their hash is checked.
        y: its targets.
        sample_weight: of the samples, if the problem had some.
        widths: points of these levels alone.
        kinds: points of these kinds alone: ``"STRICT_SADDLE"`` or ``Kind.STRICT_SADDLE``.
        lowest: so many points of each level at most, lowest loss first.

    Raises:
        InputError: if the store cannot be used, or holds no hierarchy; for other data; for widths that are
            those of no level, and unknown kinds.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> y = [abs(x[0]) - x[0] for x in X]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "h.db"
    >>> h = sf.hierarchy(problem, widths=[1], starts=8, store=file)
    >>> len(sf.load_hierarchy(file, X, y)) == len(h)
    True
    >>> sf.load_hierarchy(file, X, y, lowest=1)
    Hierarchy(widths=[[1]], points=1, functions=1, edges=0, selection='the 1 lowest of each width: 1 of ...')
    """
    from semiflat.nesting.store import Selection, read

    if isinstance(kinds, str) or isinstance(widths, int):
        raise InputError("kinds and widths are lists; give [...] of one or more")
    for kind in kinds or ():
        if kind not in list(Kind):
            raise unknown_name("kind of point", str(kind), map(str, Kind))
    rows: list[Any] | None = None
    if widths is not None:
        rows = [[each] if whole_number(each) is not None else each for each in widths]
        rows = [tuple(whole("a width", width, 1) for width in row) for row in rows]
    selection = Selection(
        rows,
        None if kinds is None else [str(Kind(kind)) for kind in kinds],
        None if lowest is None else whole("lowest", lowest, 1),
    )
    loaded = read(check_store(store), X, y, sample_weight, selection)
    return Hierarchy(
        loaded.problem,
        loaded.points,
        loaded.edges,
        loaded.levels,
        certificates=loaded.certificates,
        selection=loaded.selection,
    )


def _bars(report: Report) -> Progress:
    return lambda words, done, total: report(words, done, total, "")


def _levels(problem: Problem, widths: Any) -> list[Widths]:
    if not isinstance(widths, list | tuple | range) or not widths:
        raise InputError(f"widths must be a list such as [1, 2, 3], not {widths!r:.60}")
    depth = len(problem.net.hidden)
    levels = []
    for given in widths:
        row = [given] if whole_number(given) is not None else given
        if not isinstance(row, list | tuple) or len(row) != depth:
            raise InputError(
                f"widths {given!r:.60} do not fit a network with {depth} hidden layer(s); give "
                f"{'a number' if depth == 1 else f'{depth} numbers'} for each level"
            )
        levels.append(tuple(whole("a width", width, 1) for width in row))
    for narrow, wide in pairwise(levels):
        if narrow == wide or any(a > b for a, b in zip(narrow, wide, strict=True)):
            raise InputError(
                f"widths must grow from level to level, and {list(wide)} comes after {list(narrow)}; give each "
                "level once, in ascending order"
            )
    return levels
