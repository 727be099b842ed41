"""Jobs sent to other processes: packed, run there as a whole, and their parts handed back as they come."""

from __future__ import annotations

import pickle
import signal
import threading
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from semiflat.threads import threads

Emit = Callable[[Any], None]
"""Takes a part of what comes of a job."""

_alone = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A piece of work that depends on nothing but itself.

    Attributes:
        name: tells it from the others; it stays in this process.
        work: called with an :data:`Emit` for what comes of it, part by part. To run elsewhere it must
            pickle, as cloudpickle does it.
    """

    name: Any
    work: Callable[[Emit], None]


@dataclass(frozen=True)
class Ended:
    """What came back of a job.

    Attributes:
        parts: in the order they were emitted.
        interrupted: whether Ctrl-C cut it short.
        gave_up: why the scheduler of a cluster gave it up, if it did.
    """

    parts: list[Any]
    interrupted: bool = False
    gave_up: BaseException | None = None


def parallel(jobs: Iterator[tuple[int, bytes]], **how: Any) -> Generator[tuple[int, Ended]]:
    """Pairs of a packed job's number and what came of it, as they come."""
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


def pack(job: Job, thread_count: int) -> bytes:
    """As bytes, a job is opened only where it is run, not by the scheduler of a cluster on its way."""
    from cloudpickle import dumps

    packed: bytes = dumps((job.work, thread_count))
    return packed


def run_packed(k: int, packed: bytes) -> tuple[int, Ended]:
    """Run job ``k``, where it was sent to."""
    work, thread_count = pickle.loads(packed)
    parts: list[Any] = []
    # A process of a cluster may have several threads, but here one job after the other is run in it:
    # torch's number of threads is one for the whole process.
    with _alone, threads(thread_count):
        try:
            work(parts.append)
        except KeyboardInterrupt:
            return k, Ended(parts, interrupted=True)
    return k, Ended(parts)
