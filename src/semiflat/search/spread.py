"""Blocks of starts over processes: each is run as a whole, wherever it is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass

from semiflat.errors import InputError, Unfinished
from semiflat.search.block import Settings, run_block
from semiflat.search.record import Finished, SearchResult
from semiflat.search.workers import Block, Lost, pack, parallel

TRIES = 3
"""How often a block is begun before it is given up because its process is lost each time."""


@dataclass(frozen=True)
class Machines:
    """Where blocks are run.

    Attributes:
        processes: of this machine; one is this one.
        threads: of torch, in each process.
        dask: address of a Dask scheduler whose workers are used instead.
    """

    processes: int = 1
    threads: int = 1
    dask: str | None = None


OnEnd = Callable[[Block, Sequence[Finished]], None]
"""Called with results of a block as soon as they are known in this process."""


class LostStarts(Unfinished):
    """Starts that could not be run because their processes were lost again and again.

    Attributes:
        numbers: of the starts.
        result: of the search, all others having been run.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> try:
    ...     found = sf.run_search(problem, starts=4, processes=1)
    ... except sf.LostStarts as lost:       # say, for want of memory
    ...     found = lost.result
    >>> len(found.runs)
    4
    """

    def __init__(self, blocks: Sequence[Block], seed: int | None, why: str) -> None:
        self.numbers = sorted(number for block in blocks for number in block.numbers)
        known = set(self.numbers)
        firsts = [number for number in self.numbers if number - 1 not in known]
        lasts = [number for number in self.numbers if number + 1 not in known]
        ranges = ", ".join(f"{one} to {two}" for one, two in zip(firsts, lasts, strict=True))
        super().__init__(
            f"starts {ranges} of seed {seed} have no result: {why}; all other starts were run"
        )
        self.result: SearchResult | None = None


def process_count(asked: int | None) -> int:
    """The number of processes: all cores that this process may use, if none is asked for."""
    if asked is None:
        return (
            len(os.sched_getaffinity(0))
            if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1
        )
    if not isinstance(asked, int) or isinstance(asked, bool) or asked < 1:
        raise InputError(
            f"processes must be a whole number of at least 1, or None for all cores, not {asked!r}"
        )
    return asked


def spread(
    blocks: Sequence[Block],
    settings: Settings,
    on_end: OnEnd,
    machines: Machines = Machines(),
) -> bool:
    """Run blocks in this process, in several, or on a Dask cluster; in no particular order.

    Args:
        on_end: gets the results: each by itself where blocks are run in this process, otherwise
            those of a block together.

    Returns:
        Whether Ctrl-C stopped it early.

    Raises:
        LostStarts: when all others have been run, for blocks that lost :data:`TRIES` processes.
        InputError: if there is no cluster at that address that could run them.
    """
    if machines.dask is not None and blocks:
        return _over_cluster(machines.dask, blocks, settings, machines.threads, on_end)
    if machines.processes > 1 and len(blocks) > 1:
        return _over_processes(blocks, settings, machines, on_end)
    for block in blocks:
        interrupted = run_block(
            block.problems,
            block.numbers,
            block.starts,
            settings,
            lambda finished, block=block: on_end(block, [finished]),  # type: ignore[misc]
            machines.threads,
        )[1]
        if interrupted:
            return True
    return False


def _over_processes(
    blocks: Sequence[Block], settings: Settings, machines: Machines, on_end: OnEnd
) -> bool:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # How often each block that has no result yet was being run when a process was lost. Which of
    # those that were run at the time it was, nothing tells; so the last try of each is by itself.
    losses = dict.fromkeys(range(len(blocks)), 0)
    begun: set[int] = set()

    def jobs(chosen: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for k in chosen:
            begun.add(k)
            yield k, pack(blocks[k], settings, machines.threads)

    while waiting := [k for k, lost in losses.items() if lost < TRIES]:
        together = [k for k in waiting if losses[k] < TRIES - 1]
        chosen = together or waiting[:1]
        begun.clear()
        # Not more is handed out than is run, so that what was begun is what may be at fault. Of one
        # process joblib makes none, and a block that kills its process would kill this one.
        how = {"n_jobs": max(2, min(machines.processes, len(chosen))), "pre_dispatch": "n_jobs"}
        try:
            with closing(parallel(jobs(chosen), **how)) as results:
                for k, (finished, interrupted) in results:
                    del losses[k]
                    on_end(blocks[k], finished)
                    if interrupted:
                        return True
        except BrokenProcessPool:
            for k in begun & losses.keys():
                losses[k] += 1
    if losses:
        why = (
            f"their processes were lost {TRIES} times, the last time with nothing beside them, as "
            "happens where memory runs out"
        )
        raise LostStarts([blocks[k] for k in losses], settings.seed, why)
    return False


def _over_cluster(
    address: str, blocks: Sequence[Block], settings: Settings, thread_count: int, on_end: OnEnd
) -> bool:
    from semiflat.search.cluster import connected

    lost = dict.fromkeys(range(len(blocks)), "they were not run")

    def run(chosen: Sequence[int], how_many: str) -> bool:
        jobs = ((k, pack(blocks[k], settings, thread_count)) for k in chosen)
        with closing(parallel(jobs, n_jobs=-1, pre_dispatch=how_many)) as results:
            for k, result in results:
                if isinstance(result, Lost):
                    lost[k] = f"the cluster gave them up ({result.error})"
                    continue
                del lost[k]
                finished, interrupted = result
                on_end(blocks[k], finished)
                if interrupted:
                    return True
        return False

    with connected(address):
        try:
            # A lost worker's blocks are run again by the scheduler, which gives a block up by itself.
            # More is handed out than there are workers, for those that join later.
            if run(list(lost), "3*n_jobs"):
                return True
            # It may have taken blocks that waited beside a deadly one for deadly, too.
            if len(lost) > 1 and run(list(lost), "1"):
                return True
        except CancelledError as error:
            lost = dict.fromkeys(lost, f"the cluster was lost ({error})")
    if lost:
        why = " ".join(next(iter(lost.values())).split())
        raise LostStarts([blocks[k] for k in lost], settings.seed, why)
    return False
