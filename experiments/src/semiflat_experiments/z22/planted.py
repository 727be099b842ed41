"""Planted teachers: whether a hierarchy tells how wide the network was that made the data."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.dense import compared, dense_hessian
from semiflat_experiments.experiment import Experiment, Record, Settings, Task
from semiflat_experiments.z22.planted_figure import draw
from semiflat_experiments.z22.planted_outcome import HELD_OUT, SAMPLES, outcome

WEIGHTS = 2.0
"""Deviation of a teacher's parameters: units that bend within the data's square, [−2, 2]."""
EXACT = 1e-10
"""The tolerance for targets without noise, in parts of their variance."""


def tasks(settings: Settings) -> list[Task]:
    """Every teacher without noise, and those of the first seeds with noise."""
    first = settings["seed"]
    kinds = list(product(settings["widths"], settings["activations"], settings["inputs"]))
    return [
        {"seed": first + k, "width": width, "activation": name, "inputs": inputs, "noise": noise}
        for noise in settings["noise"]
        for k in range(settings["noisy_runs"] if noise else settings["runs"])
        for width, name, inputs in kinds
    ]


def planted(task: Task) -> tuple[sf.Problem, Tensor, Tensor]:
    """A student of one unit on a random teacher's data, and inputs and targets held out, without noise.

    The targets of the data have mean 0 and variance 1 before the noise.
    """
    inputs, width = task["inputs"], task["width"]
    generator = torch.Generator().manual_seed(1000 * task["seed"] + 97 * width + inputs)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def square(samples: int) -> Tensor:
        return 4 * torch.rand((samples, inputs), generator=generator, dtype=torch.float64) - 2

    teacher = sf.MLP([inputs, width, 1], task["activation"])
    params = {key: WEIGHTS * normal(*shape) for key, shape in teacher.shapes.items()}
    X, other = square(SAMPLES), square(HELD_OUT)
    y, held_out = (teacher.forward(params, each) for each in (X, other))
    mean, spread = y.mean(), y.std(correction=0)
    noisy = (y - mean) / spread + task["noise"] * normal(SAMPLES, 1)
    student = sf.MLP([inputs, 1, 1], task["activation"])
    return sf.Problem(student, X, noisy), other, (held_out - mean) / spread


def run(settings: Settings, task: Task) -> Record:
    """The least width by a hierarchy up to one unit more than the teacher has."""
    problem, X, y = planted(task)
    exact, _, _ = planted({**task, "noise": 0.0})
    gap = _narrower(exact, task["width"], settings["fair_starts"])
    if gap < settings["fair"]:
        return {**task, "dropped": f"a narrower network leaves less than {settings['fair']:g}"}
    found = sf.hierarchy(
        problem,
        widths=range(1, task["width"] + 2),
        starts=settings["starts"],
        saddle_starts=0,
        seed=task["seed"],
        processes=1,
    )
    # With noise, a fit may be worse than the best by as much as the noise is of the targets.
    answer = found.least_width(task["noise"] ** 2 or EXACT, X=X, y=y)
    return {
        **task,
        "gap": gap,
        "answer": answer.hidden[0],
        "critical": sum(point.hidden == answer.hidden for point in found) > 0
        and min(point.record.loss for point in found.at(answer.hidden)) <= answer.allowed,
        "losses": [2 * loss for loss in _losses(found)],
        "held_out": {str(hidden[0]): 2 * loss for hidden, loss in answer.held_out.items()},
        "embedded": embedded(found),
    }


def _narrower(problem: sf.Problem, width: int, starts: int) -> float:
    """What the best network found of one unit less leaves of the targets' variance."""
    if width == 1:
        return 1.0
    narrow = problem.with_net(problem.net.with_hidden([width - 1]))
    return 2 * min(run.loss for run in sf.run_search(narrow, starts, seed=1, processes=1).runs)


def _losses(found: sf.Hierarchy) -> list[float]:
    """The lowest loss known at each width: a wider network does as well as a narrower one."""
    losses: list[float] = []
    for level in found.levels:
        there = [point.record.loss for point in found.at(level.hidden)]
        runs = [level.lowest] if level.lowest is not None else []
        losses.append(min([*there, *runs, *losses[-1:]]))
    return losses


def embedded(found: sf.Hierarchy) -> dict[str, int]:
    """How the inertia of every embedded point compares with that of a dense Hessian."""
    counts: dict[str, int] = {"equal": 0, "different": 0, "unclear": 0}
    for edge, wide in wide_points(found):
        values = torch.linalg.eigvalsh(dense_hessian(wide))
        counts[compared(values, edge.inertia and sf.Inertia(*edge.inertia))] += 1
    return counts


def wide_points(found: sf.Hierarchy) -> Iterator[tuple[Any, sf.Point]]:
    """The edges of points that are embedded, and these points, built from the edges' words."""
    for edge in found.edges:
        if edge.kind != "embeds" or found[edge.source].record.at_infinity:
            continue
        source = found[edge.source]
        added = edge.hidden[0] - source.hidden[0]
        if edge.unit is None:
            step: sf.Embedding = sf.NullUnits(0, [0.0] * added)
        else:
            step = sf.Replicate.simple(0, edge.unit, added)[edge.how]
        wide = step(source)
        yield edge, sf.Point(wide.problem, wide.params)


EXPERIMENT = Experiment(
    "z22-planted",
    "Z22 Fig. 1",
    "how wide the network was that made the data",
    "The landscape of a wide network holds those of all narrower ones, so the least width that does as well as "
    "the best is asked of a hierarchy of critical points. Here it is known: sixty samples are drawn from a "
    "random network of one, two or three units (the teacher), without noise or with noise of 1 % and 10 % of "
    "the targets' deviation, and the hierarchy has all widths up to one unit more. Teachers that a narrower "
    "network fits to 1e-4 of the variance are left out. Without noise the tolerance is 1e-10 of the variance; "
    "with noise it is the noise's share of it. The signs of the Hessian at every embedded point are held "
    "against those by automatic differentiation.",
    {
        "seed": 0,
        "runs": 5,
        "noisy_runs": 2,
        "widths": [1, 2, 3],
        "activations": ["tanh", "sigmoid", "gelu"],
        "inputs": [1, 2],
        "noise": [0.0, 0.01, 0.1],
        "starts": 24,
        "fair_starts": 200,
        "fair": 1e-4,
    },
    {
        "seed": 1,
        "runs": 1,
        "noisy_runs": 1,
        "widths": [1, 2],
        "noise": [0.0, 0.1],
        "starts": 12,
        "fair_starts": 32,
    },
    tasks,
    run,
    outcome,
    draw,
)
