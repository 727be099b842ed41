"""Z22 Figs 4.3 and 4.4(c): a wide network stays for a while near what a single unit does best."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import semiflat as sf
from semiflat_experiments.experiment import Experiment, Record, Settings, Task
from semiflat_experiments.z22.stages_figure import draw
from semiflat_experiments.z22.stages_outcome import NARROW, STAGNANT, outcome
from semiflat_experiments.z22.training import (
    CHOSEN,
    Training,
    Units,
    curve,
    descend,
    drawn_units,
    plateau,
)
from semiflat_experiments.z22.tree import (
    CriticalFunction,
    best,
    critical_functions,
    described,
    nearest,
)

if TYPE_CHECKING:
    from torch import Tensor


def tasks(settings: Settings) -> list[Task]:
    """The critical functions, runs on the chosen target, and runs on targets that are drawn."""
    first = settings["seed"]
    runs = [{"seed": first + k, "part": "chosen target"} for k in range(settings["runs"])]
    drawn = [{"seed": first + k, "part": "drawn target"} for k in range(settings["drawn"])]
    return [{"seed": first, "part": "tree"}, *runs, *drawn]


def run(settings: Settings, task: Task) -> Record:
    """The tree, or one training."""
    if task["part"] == "tree":
        functions = _functions(CHOSEN, settings["starts"], settings["saddles"])
        return {
            **task,
            "functions": [described(each, settings["width"]) for each in functions],
            "x": functions[0].point.problem.X[:, 0].tolist(),
            "y": functions[0].point.problem.y[:, 0].tolist(),
            "best": {
                str(width): one.outputs.tolist()
                for width in NARROW
                if (one := best(functions, width)) is not None
            },
        }
    units = CHOSEN if task["part"] == "chosen target" else tuple(drawn_units(task["seed"]))
    functions = _functions(units, settings["starts"], 0)
    if best(functions, 1) is None:
        return {**task, "dropped": "no critical function of one unit was found"}
    problem = curve(units, sf.MLP([1, settings["width"], 1], "tanh"))
    steps = settings["steps"] if units == CHOSEN else settings["drawn_steps"]
    training = descend(problem, task["seed"], settings["rate"], steps, settings["written"])
    return {**task, **_stages(training, functions)}


@cache
def _functions(units: Units, starts: int, saddles: int) -> list[CriticalFunction]:
    return critical_functions(units, NARROW, starts, saddles)


def _stages(training: Training, functions: Sequence[CriticalFunction]) -> Record:
    """Where the loss stagnates and where it ends, in terms of the critical functions."""
    constant = float(functions[0].point.loss)
    at, lost = plateau(training, constant / 2)
    lowest = {width: best(functions, width) for width in NARROW}
    level = float(lowest[1].point.loss)  # type: ignore[union-attr]
    near = [
        step
        for step, risk, outputs in zip(
            training.steps, training.risks, training.outputs, strict=True
        )
        if abs(risk / level - 1) < 2 * STAGNANT
        and functions[nearest(functions, outputs)] is lowest[1]
    ]
    return {
        "steps": training.steps,
        "risks": [risk / constant for risk in training.risks],
        "levels": {
            str(width): None if one is None else float(one.point.loss) / constant
            for width, one in lowest.items()
        },
        "distances": {
            str(width): [] if one is None else one.distance(training.outputs).tolist()
            for width, one in lowest.items()
        },
        "lost": lost,
        "near_width_1": [near[0], near[-1]] if near else [],
        "plateau": _stage(training, at, functions),
        "end": _stage(training, -1, functions),
    }


def _stage(training: Training, at: int, functions: Sequence[CriticalFunction]) -> dict[str, Any]:
    outputs: Tensor = training.outputs[at]
    which = functions[nearest(functions, outputs)]
    mine = best(functions, which.width)
    return {
        "step": training.steps[at],
        "risk": training.risks[at] / float(functions[0].point.loss),
        "nearest_width": which.width,
        "nearest_is_best": which is mine,
        "nearest": float(which.distance(outputs)),
        "distances": {
            str(width): None
            if (one := best(functions, width)) is None
            else float(one.distance(outputs))
            for width in NARROW
        },
        "effective": sf.reduce(training.points[at], tolerance=STAGNANT).widths[0],
        "outputs": outputs.tolist(),
    }


EXPERIMENT = Experiment(
    "z22-stages",
    "Z22 Figs 4.3, 4.4(c)",
    "stages of training near critical functions of narrow networks",
    "A tanh network of width 500 is fitted to fifty points on a line by gradient descent. Its loss stagnates "
    "while its outputs are near the best fit of width 1, and it ends near the best fit of width 3, which "
    "interpolates the data. Z22 does not give the data, initialisation and learning rate. Here the target is a "
    "sum of three tanh units, "
    "50 (tanh 1.5x + 0.6 tanh 3(x − 1.8) + 0.5 tanh 3(x + 2)) on [−3, 3], chosen for a long plateau; all "
    "parameters start from N(0, m⁻³) and the rate is fixed. Runs on targets of three units drawn at random "
    "show how common the plateau is. The narrow critical functions are found by searches and judged, with "
    "proofs, and so are their embedded points at the next width and at width 500.",
    {
        "seed": 0,
        "runs": 8,
        "drawn": 12,
        "width": 500,
        "rate": 0.003,
        "steps": 80000,
        "drawn_steps": 30000,
        "written": 200,
        "starts": 100,
        "saddles": 200,
    },
    {
        "runs": 2,
        "drawn": 1,
        "width": 100,
        "rate": 0.005,
        "steps": 12000,
        "drawn_steps": 3000,
        "starts": 16,
        "saddles": 0,
    },
    tasks,
    run,
    outcome,
    draw,
)
