"""Jobs over processes: each is run as a whole, wherever it is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from semiflat.errors import InputError, Unfinished
from semiflat.jobs.workers import Job, pack, parallel
from semiflat.threads import threads

TRIES = 3
"""How often a job is begun before it is given up because its process is lost each time."""


@dataclass(frozen=True)
class Machines:
    """Where jobs are run.

    Attributes:
        processes: of this machine; one is this one.
        threads: of torch, in each process.
        dask: address of a Dask scheduler whose workers are used instead.
    """

    processes: int = 1
    threads: int = 1
    dask: str | None = None

    @classmethod
    def asked(cls, processes: int | None, dask: str | None, thread_count: int = 1) -> Machines:
        """Those that were asked for: all cores of this machine, where nothing was.

        Raises:
            InputError: for both processes here and a cluster, and a number of processes that makes no sense.
        """
        if dask is not None and processes is not None:
            raise InputError(
                f"processes={processes!r} is for this machine alone, dask={dask!r} for a cluster; give one"
            )
        return cls(process_count(processes), thread_count, dask)


OnEnd = Callable[[Job, Sequence[Any]], None]
"""Called with parts of what comes of a job, as soon as they are known in this process."""


class JobsLost(Unfinished):
    """Jobs that could not be run because their processes were lost again and again.

    Attributes:
        jobs: which.
        why: in words.
    """

    def __init__(self, jobs: Sequence[Job], why: str) -> None:
        self.jobs, self.why = list(jobs), why
        names = ", ".join(str(job.name) for job in self.jobs)
        super().__init__(f"jobs {names} have no result: {why}; all other jobs were run")


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


def spread(jobs: Sequence[Job], on_end: OnEnd, machines: Machines = Machines()) -> None:
    """Run jobs in this process, in several, or on a Dask cluster; in no particular order.

    Args:
        on_end: gets what comes of them: part by part where jobs are run in this process, otherwise all
            of a job together.

    Raises:
        KeyboardInterrupt: after Ctrl-C, here or where a job was run; what had come of that job before
            was handed on.
        JobsLost: when all others have been run, for jobs that lost :data:`TRIES` processes.
        InputError: if there is no cluster at that address that could run them.
    """
    if machines.dask is not None and jobs:
        _over_cluster(machines.dask, jobs, machines.threads, on_end)
    elif machines.processes > 1 and len(jobs) > 1:
        _over_processes(jobs, machines, on_end)
    else:
        with threads(machines.threads):
            for job in jobs:
                job.work(lambda part, job=job: on_end(job, [part]))  # type: ignore[misc]


def _elsewhere(
    jobs: Sequence[Job],
    waiting: dict[int, Any],
    packed: Iterator[tuple[int, bytes]],
    on_end: OnEnd,
    **how: Any,
) -> None:
    """Run packed jobs in other processes; who ends leaves ``waiting``, who is given up has its reason there."""
    with closing(parallel(packed, **how)) as results:
        for k, ended in results:
            if ended.gave_up is not None:
                waiting[k] = f"the cluster gave them up ({ended.gave_up})"
                continue
            del waiting[k]
            on_end(jobs[k], ended.parts)
            if ended.interrupted:
                raise KeyboardInterrupt


def _over_processes(jobs: Sequence[Job], machines: Machines, on_end: OnEnd) -> None:
    from joblib.externals.loky.process_executor import BrokenProcessPool

    # How often each job that has no result yet was being run when a process was lost. Which of
    # those that were run at the time it was, nothing tells; so the last try of each is by itself.
    losses = dict.fromkeys(range(len(jobs)), 0)
    begun: set[int] = set()

    def packed(chosen: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        for k in chosen:
            begun.add(k)
            yield k, pack(jobs[k], machines.threads)

    while waiting := [k for k, lost in losses.items() if lost < TRIES]:
        together = [k for k in waiting if losses[k] < TRIES - 1]
        chosen = together or waiting[:1]
        begun.clear()
        # Not more is handed out than is run, so that what was begun is what may be at fault. Of one
        # process joblib makes none, and a job that kills its process would kill this one.
        how = {"n_jobs": max(2, min(machines.processes, len(chosen))), "pre_dispatch": "n_jobs"}
        try:
            _elsewhere(jobs, losses, packed(chosen), on_end, **how)
        except BrokenProcessPool:
            for k in begun & losses.keys():
                losses[k] += 1
    if losses:
        why = (
            f"their processes were lost {TRIES} times, the last time with nothing beside them, as "
            "happens where memory runs out"
        )
        raise JobsLost([jobs[k] for k in losses], why)


def _over_cluster(address: str, jobs: Sequence[Job], thread_count: int, on_end: OnEnd) -> None:
    from semiflat.jobs.cluster import connected

    lost = dict.fromkeys(range(len(jobs)), "they were not run")

    def run(how_many: str) -> None:
        packed = ((k, pack(jobs[k], thread_count)) for k in list(lost))
        _elsewhere(jobs, lost, packed, on_end, n_jobs=-1, pre_dispatch=how_many)

    with connected(address):
        try:
            # A lost worker's jobs are run again by the scheduler, which gives a job up by itself.
            # More is handed out than there are workers, for those that join later.
            run("3*n_jobs")
            # It may have taken jobs that waited beside a deadly one for deadly, too.
            if len(lost) > 1:
                run("1")
        except CancelledError as error:
            lost = dict.fromkeys(lost, f"the cluster was lost ({error})")
    if lost:
        why = " ".join(next(iter(lost.values())).split())
        raise JobsLost([jobs[k] for k in lost], why)
