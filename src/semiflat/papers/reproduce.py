"""Running an experiment: its tasks over processes, its records kept, its outcome written."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any

from semiflat._version import __version__
from semiflat.errors import Unfinished
from semiflat.files import as_json, sole_writer
from semiflat.jobs import process_count
from semiflat.outputs import Outputs
from semiflat.papers import experiment
from semiflat.papers.experiment import Experiment, Outcome, Record, Settings, Task
from semiflat.papers.figure import check_can_draw, render
from semiflat.papers.records import Records, check_same
from semiflat.threads import threads

_WHEN = "seconds", "wall", "machine"
OnProgress = Callable[[str, int, int], None]
"""Called with an experiment's name, the tasks done and all of them."""


@dataclass(frozen=True)
class Reproduction:
    """An experiment that was run.

    Attributes:
        experiment: which.
        settings: what it was run with.
        quick: whether these are the quick ones.
        outcome: published beside measured, and the checks.
        png: the figure.
        seconds: of computing, all tasks together.
        wall: seconds since this command began, tasks kept from before not counted.
        machine: what it ran on.
    """

    experiment: Experiment
    settings: dict[str, Any]
    quick: bool
    outcome: Outcome
    png: bytes
    seconds: float
    wall: float
    machine: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """All but the picture, as plain data."""
        return {
            "name": self.experiment.name,
            "source": self.experiment.source,
            "title": self.experiment.title,
            "describes": self.experiment.describes,
            "quick": self.quick,
            "settings": self.settings,
            "rows": [asdict(row) for row in self.outcome.rows],
            "checks": [asdict(check) for check in self.outcome.checks],
            "caption": self.outcome.caption,
            "data": self.outcome.data,
            "seconds": round(self.seconds, 1),
            "wall": round(self.wall, 1),
            "machine": self.machine,
        }


def reproduce(
    name: str,
    out: Path,
    quick: bool = False,
    processes: int | None = None,
    force: bool = False,
    on_progress: OnProgress | None = None,
) -> Reproduction:
    """Run an experiment, or what of it is missing, and write its records, figure and outcome.

    Args:
        name: of the experiment.
        out: folder for ``NAME.json``, ``NAME.png`` and ``records/NAME.jsonl``.
        quick: small settings, minutes for all experiments together.
        processes: of this machine, with one thread each; all cores by default.
        force: start afresh, whatever the folder holds.

    Raises:
        InputError: for an unknown name, a folder with another run's results, with results that this did
            not write, or that another process writes to, and without matplotlib.
        Unfinished: if a task fails, naming its seed; records that are there stay.
    """
    check_can_draw()
    with sole_writer(out / "records" / f"{name}.lock"):
        return _reproduce(name, out, quick, processes, force, on_progress)


def _reproduce(
    name: str,
    out: Path,
    quick: bool,
    processes: int | None,
    force: bool,
    on_progress: OnProgress | None,
) -> Reproduction:
    begun = time.perf_counter()
    chosen = experiment(name)
    settings = chosen.settings(quick)
    records = Records(out / "records" / f"{name}.jsonl", settings, force)
    ended, picture, outputs = out / f"{name}.json", out / f"{name}.png", Outputs("reproduce", force)
    if ended.exists() and not force:  # its records may be gone, as they are from a repository
        check_same(ended, _settings_in(ended), records.settings)
    tasks = list(chosen.tasks(settings))
    missing = records.missing(tasks)
    done = len(tasks) - len(missing)
    if missing:  # with all records kept there is nothing to wait for, and the results are compared
        outputs.check(ended, picture)
    for task, record, seconds in _run_all(chosen, settings, missing, process_count(processes)):
        records.add(task, record, seconds)
        done += 1
        if on_progress is not None:
            on_progress(name, done, len(tasks))
    found = records.of(tasks)
    outcome = chosen.outcome(settings, found)
    result = Reproduction(
        chosen,
        settings,
        quick,
        outcome,
        render(chosen, settings, found),
        records.seconds,
        time.perf_counter() - begun,
        _machine(process_count(processes)),
    )
    results = {picture: result.png, ended: as_json(result.to_json())}
    if _same_but_for_time(ended, results[ended]):
        del results[ended]
    outputs.write(results)
    return result


def _same_but_for_time(ended: Path, content: bytes) -> bool:
    """Whether a result is there already, computed at another time or elsewhere."""
    try:
        there, now = json.loads(ended.read_bytes()), json.loads(content)
        return {**there, **dict.fromkeys(_WHEN)} == {**now, **dict.fromkeys(_WHEN)}
    except (OSError, ValueError, TypeError):
        return False


def _settings_in(ended: Path) -> Any:
    try:
        return json.loads(ended.read_text(encoding="utf-8"))["settings"]
    except (ValueError, KeyError, TypeError):
        return None  # no result of any run


def _run_all(
    chosen: Experiment, settings: Settings, tasks: Sequence[Task], processes: int
) -> Iterator[tuple[Task, Record, float]]:
    if processes == 1 or len(tasks) < 2:
        for task in tasks:
            yield _told(chosen, task, _run(chosen.name, settings, task))
        return
    from joblib import Parallel, delayed

    run = Parallel(n_jobs=processes, return_as="generator_unordered", batch_size=1)
    for number, ended in run(
        delayed(_numbered)(chosen.name, settings, t, k) for k, t in enumerate(tasks)
    ):
        yield _told(chosen, tasks[number], ended)


Ended = tuple[Record | None, float, str]


def _numbered(name: str, settings: Settings, task: Task, number: int) -> tuple[int, Ended]:
    return number, _run(name, settings, task)


def _run(name: str, settings: Settings, task: Task) -> Ended:
    begun = time.perf_counter()
    with threads(1):
        try:
            return experiment(name).run(settings, task), time.perf_counter() - begun, ""
        except Exception as error:
            return None, 0.0, f"{type(error).__name__}: {error}"


def _told(chosen: Experiment, task: Task, ended: Ended) -> tuple[Task, Record, float]:
    record, seconds, error = ended
    if record is None:
        rest = ", ".join(f"{key} {value}" for key, value in task.items() if key != "seed")
        raise Unfinished(
            f"{chosen.name} failed at seed {task['seed']}{f' ({rest})' if rest else ''}: {error}; what "
            "was done before is kept, and the same command goes on from there"
        )
    return task, record, seconds


def _machine(processes: int) -> dict[str, Any]:
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "processes": processes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "semiflat": __version__,
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
