"""Work in jobs: spread over processes and machines, and what comes of it kept, so that it goes on later.

The search runs its starts by this, and the published experiments their tasks.

>>> from functools import partial
>>> from semiflat.jobs import Job, spread
>>> def squares(numbers, emit):
...     for n in numbers:
...         emit(n * n)
>>> spread(
...     [Job("low", partial(squares, [1, 2])), Job("high", partial(squares, [8]))],
...     on_end=lambda job, parts: print(job.name, parts),
... )
low [1]
low [4]
high [64]
"""

from semiflat.jobs.lines import LinesStore
from semiflat.jobs.spread import JobsLost, Machines, process_count, spread
from semiflat.jobs.store import Contents, JobStore, is_database
from semiflat.jobs.workers import Emit, Job

__all__ = [
    "Contents",
    "Emit",
    "Job",
    "JobStore",
    "JobsLost",
    "LinesStore",
    "Machines",
    "is_database",
    "process_count",
    "spread",
]
