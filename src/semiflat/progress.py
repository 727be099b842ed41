"""How far a long computation is: a bar in a terminal, one in a notebook, nothing elsewhere."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from semiflat.errors import InputError, switch

Report = Callable[[str, int, int, str], None]
"""Called with a stage, how much of it is done, of how much, and a few words."""
Item = TypeVar("Item")
Told = TypeVar("Told", bound=Callable[..., None])
EVERY = 0.2
"""Seconds between two pictures of a bar in a notebook."""


@contextmanager
def stages() -> Iterator[Report]:
    """Yields ``report(stage, done, total, so_far)``.

    Shown in a notebook's cell, or on standard error if that is a terminal.
    """
    if _in_notebook():
        yield _Notebook().report
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:20}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[so_far]}"),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, done: int, total: int, so_far: str) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total, so_far="")
            bar.update(tasks[stage], completed=done, total=total, so_far=so_far)

        yield report


@contextmanager
def following(
    progress: Told | bool, bars: Callable[[Report], Told], of_what: str
) -> Iterator[Told | Callable[..., None]]:
    """What is called as a computation goes on: the given function, ``bars`` for True, nothing for False.

    Args:
        bars: makes of a report the function that draws.
        of_what: a given function is called with, in words.

    Raises:
        InputError: for anything else.

    >>> with following(False, lambda report: report, "stages") as tell:
    ...     tell("search", 1, 2, "")
    """
    if callable(progress):
        yield progress
    elif progress is True:
        with stages() as report:
            yield bars(report)
    elif progress is False:
        yield lambda *told: None
    else:
        raise InputError(
            f"progress must be True, False or a function of {of_what}, not {progress!r:.60}"
        )


def counted(items: Sequence[Item], stage: str, progress: bool) -> Iterator[Item]:
    """The items one after the other, with a bar that counts them if ``progress``.

    Raises:
        InputError: if ``progress`` is neither True nor False.

    >>> list(counted([3, 4], "judge", False))
    [3, 4]
    """
    switch("progress", progress)
    if not progress:
        yield from items
        return
    with stages() as report:
        for done, item in enumerate(items):
            report(stage, done, len(items), "")
            yield item
        report(stage, len(items), len(items), "")


def _in_notebook() -> bool:
    """Whether this runs in a kernel whose front end draws what is displayed."""
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


class _Notebook:
    """Bars in a cell's output, redrawn in place; the last picture stays in the file."""

    def __init__(self) -> None:
        from IPython.display import DisplayHandle

        self.bars: dict[str, tuple[int, int, str]] = {}
        self.handle: Any = DisplayHandle()
        self.begun = self.drawn = time.monotonic()

    def report(self, stage: str, done: int, total: int, so_far: str) -> None:
        from IPython.display import HTML

        first, now = not self.bars, time.monotonic()
        self.bars[stage] = done, total, so_far
        if first or done >= total or now - self.drawn >= EVERY:
            self.drawn = now
            picture = HTML(bars_in_html(self.bars, now - self.begun))
            (self.handle.display if first else self.handle.update)(picture)


def bars_in_html(bars: dict[str, tuple[int, int, str]], seconds: float) -> str:
    """One bar for each stage: how much is done, of how much, and in words.

    >>> bars_in_html({"search": (3, 8, "3 CONVERGED")}, 2.0)
    '<div>search <progress value="3" max="8"></progress> 3/8 &middot; 3 CONVERGED &middot; 2 s</div>'
    """
    return "".join(
        f'<div>{html.escape(stage)} <progress value="{done}" max="{max(total, 1)}"></progress> '
        f"{done}/{total}{' &middot; ' * bool(so_far)}{html.escape(so_far)} &middot; {seconds:.0f} s</div>"
        for stage, (done, total, so_far) in bars.items()
    )
