"""The records of an experiment: a line for each task as it ends, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.files import write_whole
from semiflat.papers.experiment import Record, Settings, Task


class Records:
    """Lines of JSON: the settings first, then a task with its record and seconds each.

    Args:
        path: of the file; made when the first record comes.
        settings: of the run.
        force: whether to begin anew, whatever the file holds.

    Raises:
        InputError: if it does hold another run's, or is no such file.
    """

    def __init__(self, path: Path, settings: Settings, force: bool = False) -> None:
        self.path = path
        self.settings = json.loads(json.dumps(dict(settings)))
        self._lines: list[dict[str, Any]] = []
        if force:
            path.unlink(missing_ok=True)
        elif path.exists():
            head, lines = _read(path)
            check_same(path, head, self.settings)
            self._lines = lines
            self._write()  # without a line that was cut off

    def add(self, task: Task, record: Record, seconds: float) -> None:
        """Put a record down at once."""
        line = {"task": task, "record": record, "seconds": round(seconds, 3)}
        if not self._lines:
            self._write()
        self._lines.append(json.loads(json.dumps(line)))
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def missing(self, tasks: Sequence[Task]) -> list[Task]:
        """The tasks that have no record yet, in order."""
        known = {_key(line["task"]) for line in self._lines}
        return [task for task in tasks if _key(task) not in known]

    def of(self, tasks: Sequence[Task]) -> list[Record]:
        """The records in the order of the tasks, whatever order they came in."""
        known = {_key(line["task"]): line["record"] for line in self._lines}
        return [known[_key(task)] for task in tasks]

    @property
    def seconds(self) -> float:
        """What all tasks took together, on one core each."""
        return float(sum(line["seconds"] for line in self._lines))

    def _write(self) -> None:
        lines = [{"settings": self.settings}, *self._lines]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())


def check_same(path: Path, there: Any, now: Any) -> None:
    """Raise :class:`InputError` if a file's settings are those of another run."""
    if there != now:
        raise InputError(
            f"{str(path)!r} holds another run's results ({_difference(there, now)}); choose another --out, "
            "or give --force to replace them"
        )


def _key(task: Task) -> str:
    return json.dumps(task, sort_keys=True)


def _read(path: Path) -> tuple[Any, list[dict[str, Any]]]:
    try:
        head, *rest = path.read_text(encoding="utf-8").split("\n")
        settings = json.loads(head)["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{str(path)!r} is not a file of records ({error}); choose another --out, or remove it"
        ) from error
    lines = []
    for line in rest:
        try:
            found = json.loads(line)
            lines.append({key: found[key] for key in ("task", "record", "seconds")})
        except (ValueError, KeyError, TypeError):
            break  # cut off by whatever stopped the run; what follows is nothing
    return settings, lines


def _difference(one: Any, other: Any) -> str:
    if not isinstance(one, dict):
        return "of no known settings"
    keys = sorted(set(one) | set(other))
    changed = [
        f"{key} {one.get(key)!r} there, {other.get(key)!r} now"
        for key in keys
        if one.get(key) != other.get(key)
    ]
    return "; ".join(changed[:3]) + (f"; {len(changed) - 3} more" if len(changed) > 3 else "")
