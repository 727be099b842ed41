"""A progress bar on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import TaskID

    from semiflat.costs import Cost


@contextmanager
def stages() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yields ``report(stage, done, total, so_far)``, shown on standard error if that is a terminal."""
    # Here: who shows no bar goes without.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
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


def say_cost(cost: Cost) -> None:
    """On standard error what a command will take, where that is much."""
    if cost.words:
        print(f"this will take {cost.words}", file=sys.stderr)
