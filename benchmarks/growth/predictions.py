"""What the table predicts of a growth, against what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import semiflat as sf
from common import Figures, Record
from growth.summary import prediction_name
from growth.tasks import MORE, TASKS
from growth.wide import Start

STATES = {"untrained": 0.0, "some epochs": 0.2, "all epochs": 1.0}
"""Part of the epochs before growing that a model has seen."""
UNITS = (1, 2, 4)
Losses = Callable[..., tuple[float, float]]


def predictions(
    record: Record, tasks: list[str], count: int, started: Callable[..., Start], losses: Losses
) -> None:
    """So many growths at least in each task and state, and the predictions made before; what is there stays."""
    every = TASKS | MORE
    for number in range(count):
        for name in tasks:
            task = every[name]
            for state, part in STATES.items():
                case = prediction_name(name, state)
                done = record.cases.get(case, {}).get("growths", [])
                known = {each["number"] for each in done}
                if number in known or len(done) >= count:
                    continue
                begun = time.perf_counter()
                start = started(task, number, round(task.before * part))
                new = grown(start, min(UNITS[number % len(UNITS)], task.width), losses)
                record.keep(case, {"layer": task.layer, "growths": [*done, *new]})
                for each in new:
                    print(
                        f"{case}, {number}, {each['group']} +{each['units']}: predicted "
                        f"{each['predicted']:.4g}, one step {each['one_step']:.4g} (all "
                        f"{each['one_step_all']:.4g}, held out {each['one_step_held']:.4g}), all steps "
                        f"{each['confirmed']:.4g}; {time.perf_counter() - begun:.1f} s",
                        flush=True,
                    )


def grown(start: Start, units: int, losses: Losses) -> list[Figures]:
    """Each group grown by itself, by one step and by all."""
    task, pairs = start.task, start.batches()
    options: dict[str, Any] = {"units": units, "samples": task.searched, "seed": start.seed}
    groups = list(task.groups)
    table = sf.where_to_grow(start.model, pairs, task.loss, groups, curvature=False, **options)
    held = losses(task, start.model, start.data)[1]
    found = []
    for group in groups:
        figures: Figures = {
            "number": start.seed,
            "group": group,
            "units": units,
            "loss": table.loss,
            "predicted": table[group].predicted,
            "error": table[group].error,
        }
        ways = {"one_step": ("one_step", 1), "all": ("confirmed", 4)}
        for way, (confirmed, rounds) in ways.items():
            wide = sf.grow(start.model, pairs, task.loss, [group], rounds=rounds, **options)
            over_all = "all" if way == "all" else f"{way}_all"
            figures[confirmed] = sum(step.achieved for step in wide.plan)
            figures[over_all] = wide.loss_before - wide.loss_after
            figures["held" if way == "all" else f"{way}_held"] = (
                held - losses(task, wide.model, start.data)[1]
            )
        found.append(figures)
    return found
