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
from semiflat.jobs import Emit, Job, JobsLost, JobStore, Machines, process_count, spread
from semiflat.outputs import Outputs, as_json
from semiflat_experiments import experiment
from semiflat_experiments.experiment import Experiment, Outcome, Settings, Task
from semiflat_experiments.figure import check_can_draw, render
from semiflat_experiments.records import Done, contents, key, open_records

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
    chosen = experiment(name)
    settings = chosen.settings(quick)
    with open_records(out, name, settings, force) as records:
        return _reproduce(chosen, settings, out, quick, processes, force, on_progress, records)


def _reproduce(
    chosen: Experiment,
    settings: dict[str, Any],
    out: Path,
    quick: bool,
    processes: int | None,
    force: bool,
    on_progress: OnProgress | None,
    records: JobStore[Done],
) -> Reproduction:
    begun, name, machines = time.perf_counter(), chosen.name, Machines(process_count(processes))
    ended, picture, outputs = out / f"{name}.json", out / f"{name}.png", Outputs("reproduce", force)
    if ended.exists() and not force:  # its records may be gone, as they are from a repository
        contents(settings).check(ended, {"settings": _settings_in(ended)})
    tasks = {key(task): task for task in chosen.tasks(settings)}
    known = set(records.keys())
    missing = [task for named, task in tasks.items() if named not in known]
    if missing:  # with all records kept there is nothing to wait for, and the results are compared
        outputs.check(ended, picture)

    def on_end(job: Job, parts: Sequence[Done | str]) -> None:
        for part in parts:
            if isinstance(part, str):
                raise _unfinished(chosen, [job.name], part)
            records.put([part])
            if on_progress is not None:
                on_progress(name, len(records.keys()), len(tasks))

    try:
        spread([Job(t, partial(_run, name, settings, t)) for t in missing], on_end, machines)
    except JobsLost as lost:
        raise _unfinished(chosen, [job.name for job in lost.jobs], lost.why) from lost
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
