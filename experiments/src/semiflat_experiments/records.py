"""The records of an experiment: a line for each task as it ends, so that an interrupted run goes on."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from semiflat.jobs import Contents, LinesStore
from semiflat_experiments.experiment import Record, Settings, Task


@dataclass(frozen=True)
class Done:
    """A task that was run.

    Attributes:
        task: which.
        record: what it came to.
        seconds: it took, on one core.
    """

    task: Task
    record: Record
    seconds: float


def key(task: Task) -> str:
    """What names a task."""
    return json.dumps(task, sort_keys=True)


def open_records(out: Path, name: str, settings: Settings, force: bool = False) -> LinesStore[Done]:
    """The records in ``out/records/NAME.jsonl``, held by this process alone until they are closed.

    Args:
        force: whether to begin anew, whatever the file holds.

    Raises:
        InputError: if it does hold another run's, is no such file, or another process writes to it.
    """
    contents = Contents(
        "a run's results",
        {"settings": dict(settings)},
        "choose another --out, or give --force to replace them",
        lambda done: key(done.task),
        asdict,
        _done,
    )
    return LinesStore(out / "records" / f"{name}.jsonl", contents, force)


def _done(plain: dict[str, Any]) -> Done:
    try:
        return Done(plain["task"], plain["record"], float(plain["seconds"]))
    except (KeyError, TypeError) as error:
        raise ValueError("it holds no task with its record") from error
