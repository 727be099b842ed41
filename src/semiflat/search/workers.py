"""Work sent to other processes: packed, run there as a whole, and handed back as it comes."""

from __future__ import annotations

import pickle
import signal
import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semiflat.problem import Problem
from semiflat.search.block import Settings, run_block
from semiflat.search.record import Finished

_alone = threading.Lock()


@dataclass(frozen=True)
class Block:
    """Some starts that are run together.

    Attributes:
        problems: one for all, or one for each start.
        numbers: of the starts, one after the other; they name the results.
        starts: parameters, (B, P).
    """

    problems: list[Problem]
    numbers: range
    starts: Tensor


@dataclass(frozen=True)
class Lost:
    """Stands for the result of a block that the scheduler of a cluster gave up."""

    error: BaseException


def parallel(jobs: Iterator[tuple[int, bytes]], **how: Any) -> Generator[Any]:
    """Pairs of a job's number and its result, as they come."""
    from joblib import Parallel, delayed

    run = Parallel(return_as="generator_unordered", batch_size=1, **how)
    with _no_interrupts():
        results = run(delayed(run_packed)(k, packed) for k, packed in jobs)
    try:
        # `yield from` would close them outside of the `finally`.
        for result in results:  # noqa: UP028
            yield result
    finally:
        with warnings.catch_warnings():
            # joblib warns of what is cancelled, which is what whoever leaves early wants.
            warnings.simplefilter("ignore", UserWarning)
            results.close()


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Processes begun inside never see Ctrl-C, nor does this one before it leaves.

    A terminal sends it to all processes, and it is for this one to say what becomes of the others.
    To block it would not do: who spawns processes unblocks it.
    """
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is None:  # not Python's to give back
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def pack(block: Block, settings: Settings, thread_count: int) -> bytes:
    from cloudpickle import dumps

    # The starts are a view of all starts, which would be sent along. As bytes, a block is opened only
    # where it is run, not by the scheduler of a cluster on its way.
    job = (block.problems, block.numbers, block.starts.clone(), settings, thread_count)
    packed: bytes = dumps(job)
    return packed


def run_packed(k: int, packed: bytes) -> tuple[int, tuple[list[Finished], bool]]:
    """Run block ``k``, where it was sent to."""
    problems, numbers, starts, settings, thread_count = pickle.loads(packed)
    # A process of a cluster may have several threads, but here one block after the other is run in
    # it: torch's number of threads is one for the whole process.
    with _alone:
        torch.set_num_threads(thread_count)
        return k, run_block(problems, numbers, starts, settings, thread_count=thread_count)
