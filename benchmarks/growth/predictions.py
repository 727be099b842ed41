"""What the table predicts of a growth, against what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import semiflat as sf
from common import Record
from growth.summary import prediction_name
from growth.tasks import TASKS

STATES = {"untrained": 0.0, "some epochs": 0.2, "all epochs": 1.0}
"""Part of the epochs before growing that a model has seen."""
UNITS = (1, 2, 4)


def predictions(record: Record, tasks: list[str], count: int, started: Callable[..., Any]) -> None:
    """So many growths in each task and state, and the predictions made before; what is there stays."""
    for number in range(count):
        for name in tasks:
            task = TASKS[name]
            for state, part in STATES.items():
                case = prediction_name(name, state)
                done = record.cases.get(case, {}).get("growths", [])
                if len({each["number"] for each in done}) > number:
                    continue
                start = started(task, number, round(task.before * part))
                units = min(UNITS[number % len(UNITS)], task.width)
                groups = list(task.groups)
                pairs, begun = start.batches(), time.perf_counter()
                table = sf.where_to_grow(
                    start.model, pairs, task.loss, groups, units=units, curvature=False, seed=number
                )
                for group in groups:
                    new = []
                    for rounds in (1, 4):
                        grown = sf.grow(
                            start.model,
                            pairs,
                            task.loss,
                            [group],
                            units=units,
                            rounds=rounds,
                            seed=number,
                        )
                        step = grown.plan[0] if grown.plan else None
                        new.append(
                            {
                                "planned": None if step is None else step.growth.predicted,
                                "confirmed": 0.0 if step is None else step.achieved,
                                "all": grown.loss_before - grown.loss_after,
                            }
                        )
                    done = [
                        *done,
                        {
                            "number": number,
                            "units": units,
                            "loss": table.loss,
                            "predicted": table[group].predicted,
                            "error": table[group].error,
                            "planned": new[0]["planned"],
                            "one_step": new[0]["confirmed"],
                            "one_step_all": new[0]["all"],
                            "confirmed": new[1]["confirmed"],
                            "all": new[1]["all"],
                        },
                    ]
                    print(
                        f"{case}, {number}, {group} +{units}: predicted {done[-1]['predicted']:.4g}, one "
                        f"step {done[-1]['one_step']:.4g} (all {done[-1]['one_step_all']:.4g}), all steps "
                        f"{done[-1]['confirmed']:.4g}; {time.perf_counter() - begun:.1f} s",
                        flush=True,
                    )
                record.keep(case, {"layer": task.layer, "growths": done})
