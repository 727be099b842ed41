"""The results of a search's blocks of starts: read from a store as far as they are there, else run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from torch import Tensor

from semiflat.curvature.engine import using
from semiflat.errors import Unfinished
from semiflat.jobs import Job, JobsLost, JobStore, Machines, spread
from semiflat.problem import Problem
from semiflat.search.block import Settings, run_block
from semiflat.search.large import block
from semiflat.search.record import Finished, SearchResult, Status, count_line
from semiflat.search.store import KeptRun, block_of

Progress = Callable[[Sequence[Finished]], None]
"""Called with runs that ended since the last call; first with those read from a store."""


def tally(tell: Callable[[int, str], None]) -> Progress:
    """A progress that tells after each call how many runs have ended, and of each status how many.

    >>> import torch
    >>> tell = tally(lambda done, so_far: print(done, so_far))
    >>> run = Finished(0, Status.CHANNEL, "", 7, torch.zeros(2), 0.5, 1e-3)
    >>> tell([run]), tell([run, run])
    1 1 CHANNEL
    3 3 CHANNEL
    (None, None)
    """
    counts: Counter[Status] = Counter()

    def count(finished: Sequence[Finished]) -> None:
        counts.update(end.status for end in finished)
        tell(counts.total(), count_line(counts))

    return count


HANDFUL = 16
"""Starts handed out at a time where each is run by itself."""


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

    def __init__(self, numbers: Sequence[int], seed: int | None, why: str) -> None:
        self.numbers = sorted(numbers)
        known = set(self.numbers)
        firsts = [number for number in self.numbers if number - 1 not in known]
        lasts = [number for number in self.numbers if number + 1 not in known]
        ranges = ", ".join(f"{one} to {two}" for one, two in zip(firsts, lasts, strict=True))
        super().__init__(
            f"starts {ranges} of seed {seed} have no result: {why}; all other starts were run"
        )
        self.result: SearchResult | None = None


@dataclass
class Gathered:
    """What there is of a search.

    Attributes:
        ended: results by row of the starts.
        stored: how many of them were read from a store.
        interrupted: whether Ctrl-C stopped it early.
        lost: what to raise if starts could not be run.
    """

    ended: dict[int, Finished] = field(default_factory=dict)
    stored: int = 0
    interrupted: bool = False
    lost: LostStarts | None = None


def gather(
    problems: Sequence[Problem],
    starts: Tensor,
    settings: Settings,
    machines: Machines,
    store: JobStore[KeptRun] | None = None,
    progress: Progress = lambda finished: None,
) -> Gathered:
    """Run all starts (B, P), of which every problem has as many, but those that the store has.

    What has ended is handed on at once: to the store, then to ``progress``. In torch a block of which the
    store has a part alone is run again as a whole; where each start is run by itself, none is.
    """
    got = Gathered()
    one_by_one = settings.one_by_one(problems[0])
    # Threads need not be started, and share what is in memory.
    together = block(problems[0].net, settings.method)
    few = one_by_one and machines.dask is None and len(starts) <= together
    cores = machines.processes if few else machines.threads
    machines = replace(machines, processes=1) if few else machines
    whole = 1 if one_by_one else together  # starts whose results hold together alone
    blocks = [
        range(first, min(first + whole, len(starts))) for first in range(0, len(starts), whole)
    ]
    of_start = {number: some for some in blocks for number in some}
    missing: list[int] = []
    for some in blocks:
        kept = [] if store is None else [store.get((block_of(some), n)) for n in some]
        runs = {each.run.start: each.run for each in kept if each is not None}
        if len(runs) == len(some):
            got.ended.update(runs)
        else:
            missing += some
    got.stored = len(got.ended)

    def on_end(job: Job, finished: Sequence[Finished]) -> None:
        got.ended.update({end.start: end for end in finished})
        if store is not None:
            store.put([KeptRun(block_of(of_start[end.start]), end) for end in finished])
        progress(finished)

    at_a_time = min(HANDFUL, together) if one_by_one and not few else together
    try:
        progress(list(got.ended.values()))
        with using(threads=cores):
            spread(_jobs(problems, starts, settings, missing, at_a_time), on_end, machines)
    except KeyboardInterrupt:
        got.interrupted = True
    except JobsLost as lost:
        numbers = [number for job in lost.jobs for number in job.name]
        got.lost = LostStarts(numbers, settings.seed, lost.why)
    return got


def _jobs(
    problems: Sequence[Problem],
    starts: Tensor,
    settings: Settings,
    numbers: Sequence[int],
    at_a_time: int,
) -> list[Job]:
    """Jobs for the starts of these numbers, by which they are named."""
    each = len(starts) // len(problems)
    jobs = []
    for first in range(0, len(numbers), at_a_time):
        rows = list(numbers[first : first + at_a_time])
        own = [problems[row // each] for row in rows] if len(problems) > 1 else list(problems)
        jobs.append(Job(rows, partial(run_block, own, rows, starts[rows], settings)))
    return jobs
