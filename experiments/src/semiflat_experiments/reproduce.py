"""Running an experiment: its tasks over processes, its records kept, its outcome written."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import semiflat as sf
from semiflat.jobs import Emit, Job, JobsLost, Machines, process_count, spread
from semiflat.outputs import Outputs, as_json
from semiflat_experiments import experiment
from semiflat_experiments.experiment import Experiment, Outcome, Settings, Task
from semiflat_experiments.figure import check_installed, render
from semiflat_experiments.records import Done, key, open_records

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
        about = ("name", "source", "title", "describes")
        return {
            **{key: getattr(self.experiment, key) for key in about},
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
    check_installed("matplotlib")
    begun, machines = time.perf_counter(), Machines(process_count(processes))
    chosen = experiment(name)
    settings = chosen.settings(quick)
    ended, picture, outputs = out / f"{name}.json", out / f"{name}.png", Outputs("reproduce", force)
    with open_records(out, name, settings, force) as records:
        if ended.exists() and not force:  # its records may be gone, as they are from a repository
            records.contents.check(ended, {"settings": _read(ended).get("settings")})
        tasks = {key(task): task for task in chosen.tasks(settings)}
        known = set(records.keys())
        missing = [task for named, task in tasks.items() if named not in known]
        if missing:  # with all records kept there is nothing to wait for; the results are compared
            outputs.check(ended, picture)

        def keep(done: Done) -> None:
            records.put([done])
            if on_progress is not None:
                on_progress(name, len(records.keys()), len(tasks))

        _run_all(chosen, settings, missing, machines, keep)
        done = [each for named in tasks if (each := records.get(named)) is not None]
        found = [each.record for each in done]
        result = Reproduction(
            chosen,
            settings,
            quick,
            chosen.outcome(settings, found),
            render(chosen, settings, found),
            sum(each.seconds for each in done),
            time.perf_counter() - begun,
            _machine(machines.processes),
        )
        results = {picture: result.png, ended: as_json(result.to_json())}
        at_another_time = dict.fromkeys(_WHEN)
        if _read(ended) | at_another_time == json.loads(results[ended]) | at_another_time:
            del results[ended]
        outputs.write(results)
    return result


def _read(ended: Path) -> dict[str, Any]:
    """A result that is there already; nothing where there is none, or no result."""
    try:
        found = json.loads(ended.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _run_all(
    chosen: Experiment,
    settings: Settings,
    tasks: Sequence[Task],
    machines: Machines,
    keep: Callable[[Done], None],
) -> None:
    def on_end(job: Job, parts: Sequence[Done | str]) -> None:
        for part in parts:
            if isinstance(part, str):
                raise _unfinished(chosen, [job.name], part)
            keep(part)

    try:
        spread([Job(t, partial(_run, chosen.name, settings, t)) for t in tasks], on_end, machines)
    except JobsLost as lost:
        raise _unfinished(chosen, [job.name for job in lost.jobs], lost.why) from lost


def _run(name: str, settings: Settings, task: Task, emit: Emit) -> None:
    """Emit what came of a task, or in words what went wrong, which need not pickle."""
    begun = time.perf_counter()
    try:
        record = experiment(name).run(settings, task)
    except Exception as error:
        emit(f"{type(error).__name__}: {error}")
        return
    # As it will be read: with lists for tuples, and text for keys.
    emit(Done(task, json.loads(json.dumps(record)), round(time.perf_counter() - begun, 3)))


def _unfinished(chosen: Experiment, tasks: Sequence[Task], why: str) -> sf.Unfinished:
    named = []
    for task in tasks:
        rest = ", ".join(f"{key} {value}" for key, value in task.items() if key != "seed")
        named.append(f"seed {task['seed']}{f' ({rest})' if rest else ''}")
    return sf.Unfinished(
        f"{chosen.name} failed at {', '.join(named)}: {why}; what was done before is kept, and the same "
        "command goes on from there"
    )


def _machine(processes: int) -> dict[str, Any]:
    import torch

    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "processes": processes,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "semiflat": sf.__version__,
        "date": date.today().isoformat(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
