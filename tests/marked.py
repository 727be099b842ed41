"""Problems that tell where they were run, and that kill the processes that run them."""

from __future__ import annotations

import os
import signal
import time
import uuid
from pathlib import Path
from typing import Any

import semiflat as sf


class Marked(sf.Problem):
    """A problem that leaves a mark in a folder each time another process unpacks it to run it.

    Args:
        deaths: how many of these processes it kills.
        after: labels, and how many marks of each it waits for first: the order of things is said, and
            not left to who is faster.
    """

    def __init__(
        self,
        problem: sf.Problem,
        folder: Path,
        label: str,
        deaths: int = 0,
        after: dict[str, int] | None = None,
    ) -> None:
        self.__dict__.update(problem.__dict__)
        self._state = (problem, folder, label, deaths, after or {})

    def __reduce__(self) -> Any:
        return unpack, self._state


def unpack(
    problem: sf.Problem, folder: Path, label: str, deaths: int, after: dict[str, int]
) -> sf.Problem:
    mark(folder, label)
    times = len(marks(folder, label))
    end = time.monotonic() + 600  # it should have been killed by then
    while any(len(marks(folder, other)) < count for other, count in after.items()):
        if time.monotonic() > end:
            raise TimeoutError(f"{label} has waited too long for {after}")
        time.sleep(0.02)
    if times <= deaths:
        time.sleep(0.5)  # a cluster fetches meanwhile what the process has done before
        os.kill(os.getpid(), signal.SIGKILL)
    return problem


def mark(folder: Path, label: str) -> None:
    (folder / f"{label}.{uuid.uuid4().hex}").touch()


def marks(folder: Path, label: str) -> list[Path]:
    """One file for each time."""
    return list(folder.glob(f"{label}.*"))
