"""The results of a search's blocks of starts: read from a folder as far as they are there, else run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from semiflat.problem import Problem
from semiflat.search.block import BLOCK, Settings
from semiflat.search.record import Finished, Status, count_line
from semiflat.search.spread import LostStarts, Machines, spread
from semiflat.search.store import Store
from semiflat.search.workers import Block

Progress = Callable[[Sequence[Finished]], None]
"""Called with runs that ended since the last call; first with those read from a folder."""


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


@dataclass
class Gathered:
    """What there is of a search.

    Attributes:
        ended: results by row of the starts.
        stored: how many of them were read from a folder.
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
    store: Store | None = None,
    progress: Progress = lambda finished: None,
) -> Gathered:
    """Run all starts (B, P), of which every problem has as many, but those that the store has.

    What has ended is handed on at once: to the store, then to ``progress``.
    """
    got = Gathered()
    waiting = []
    for block in _blocks(problems, starts):
        done = None if store is None else store.done(block.numbers)
        if done is None:
            waiting.append(block)
        else:
            got.ended.update(zip(block.numbers, done, strict=True))
    got.stored = len(got.ended)

    def on_end(block: Block, finished: Sequence[Finished]) -> None:
        got.ended.update({end.start: end for end in finished})
        if store is not None:
            store.add(block.numbers, finished)
        progress(finished)

    try:
        progress(list(got.ended.values()))
        got.interrupted = spread(waiting, settings, on_end, machines)
    except KeyboardInterrupt:
        got.interrupted = True
    except LostStarts as error:
        got.lost = error
    return got


def _blocks(problems: Sequence[Problem], starts: Tensor) -> list[Block]:
    each = len(starts) // len(problems)
    blocks = []
    for first in range(0, len(starts), BLOCK):
        rows = range(first, min(first + BLOCK, len(starts)))
        own = [problems[row // each] for row in rows] if len(problems) > 1 else list(problems)
        blocks.append(Block(own, rows, starts[rows.start : rows.stop]))
    return blocks
