"""Blocks of starts over processes: each is run as a whole, wherever it is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from semiflat.errors import InputError
from semiflat.problem import Problem
from semiflat.search.block import Settings, run_block
from semiflat.search.record import Finished

TRIES = 3
"""How often a block is begun again after its process was lost."""

Done = tuple[list[Finished], bool]
"""A block's results in the order of its numbers, and whether Ctrl-C cut it short."""


@dataclass(frozen=True)
class Block:
    """Some starts that are run together.

    Attributes:
        problems: one for all, or one for each start.
        numbers: of the starts.
        starts: parameters, (B, P).
    """

    problems: list[Problem]
    numbers: list[int]
    starts: Tensor


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
    processes: int,
    thread_count: int = 1,
    on_end: Callable[[int], None] = lambda ended: None,
) -> Iterator[Done]:
    """The results of ``blocks``, in their order.

    A block whose process is lost is run again, the others' results stand.

    Args:
        on_end: called with the number of starts that ended since the last call.

    Raises:
        RuntimeError: if processes are lost :data:`TRIES` times without a block done in between.
    """
    if processes == 1 or len(blocks) == 1:
        for block in blocks:
            yield run_block(
                block.problems,
                block.numbers,
                block.starts,
                settings,
                lambda ended: on_end(1),
                thread_count,
            )
        return
    done = lost = 0
    while done < len(blocks):
        try:
            for result in _parallel(blocks[done:], settings, processes, thread_count):
                done, lost = done + 1, 0
                on_end(len(result[0]))
                yield result
        except _lost_worker() as error:
            lost += 1
            if lost == TRIES:
                raise RuntimeError(
                    f"worker processes were lost {TRIES} times in a row, the last time with: {error}; "
                    "they may have run out of memory: use fewer processes"
                ) from error


def _parallel(
    blocks: Sequence[Block], settings: Settings, processes: int, thread_count: int
) -> Iterator[Done]:
    from joblib import Parallel, delayed

    jobs = (
        delayed(run_block)(
            block.problems, block.numbers, block.starts, settings, thread_count=thread_count
        )
        for block in blocks
    )
    results: Iterator[Done] = Parallel(
        n_jobs=min(processes, len(blocks)), return_as="generator", batch_size=1
    )(jobs)
    yield from results


def _lost_worker() -> type[Exception]:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    found: type[Exception] = BrokenProcessPool
    return found
