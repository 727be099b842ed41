"""Ways of growing against each other, at equal parameters, and at equal epochs as well as equal time.

In each task a small model is trained, once for each seed; every way grows that same model by the same number of
units, the optimiser's state is carried, and all train on alike on the same batches. First for equal epochs;
then those whose growing took less time than that of sf.grow go on for the rest of it. A run is kept when it is
done, and a run that is there is not done again.
Run in benchmarks/: python -m growth [--seeds 5] [--tasks "digits MLP" GPT] [--methods sf.grow TINY]
Or: python -m growth --predictions 18
Two at once: each with tasks of its own and an ``--out`` of its own; then python -m growth --merge A.json B.json
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import nn

import semiflat as sf
from common import RESULTS, Figures, Record, header, read
from growth.methods import GROMO, METHODS, SCRATCH, fits
from growth.predictions import STATES, predictions
from growth.summary import case_name, page, prediction_name, settings
from growth.tasks import MORE, TASKS, Split, Task
from growth.wide import Start

SEEDS, MOST = 5, 40.0
"""Seeds; and process seconds that a run may train on at most for the time that growing took."""


def trained(
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Split,
    epochs: int,
    seed: int,
) -> float:
    """Train in place; process seconds of an epoch.

    What batch norms keep is then that of all data, once: as training leaves it, it is that of some batches, and
    lags behind what training did.
    """
    draw = torch.Generator().manual_seed(seed)
    model.train()
    begun = time.process_time()
    for _ in range(epochs):
        for some in torch.randperm(len(data.y), generator=draw).split(task.batch):
            optimizer.zero_grad()
            task.loss(model(data.X[some]), data.y[some]).backward()
            optimizer.step()
    spent = time.process_time() - begun
    norms = [each for each in model.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    kept = [each.momentum for each in norms]
    for each in norms:
        each.momentum = 1.0
    if norms:
        with torch.no_grad():
            model(data.X)
    for each, momentum in zip(norms, kept, strict=True):
        each.momentum = momentum
    return spent / max(epochs, 1)


def losses(task: Task, model: nn.Module, data: Split) -> tuple[float, float]:
    """Of what is trained on and of what is held out, in eval mode."""
    model.eval()
    with torch.no_grad():
        return tuple(  # type: ignore[return-value]
            float(task.loss(model(X), y)) for X, y in ((data.X, data.y), (data.X_held, data.y_held))
        )


def adam(task: Task, model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=task.rate)


def started(task: Task, seed: int, epochs: int | None = None, width: int | None = None) -> Start:
    """A small model, trained so many epochs."""
    data = task.data()
    torch.manual_seed(seed)
    model = task.model(width or task.width)
    optimizer = adam(task, model)
    trained(task, model, optimizer, data, task.before if epochs is None else epochs, seed)
    return Start(task, model.eval(), optimizer, data, seed)


def run(task: Task, method: str, start: Start, budget: float | None, most: float) -> Figures:
    """One way from one start.

    Args:
        budget: process seconds that growing by sf.grow took; None if this is that.
        most: that are trained on for it.
    """
    data, seed = start.data, start.seed
    begun = time.process_time()
    if method == SCRATCH:
        fresh = started(task, seed, width=task.wide)
        model, optimizer = fresh.model, fresh.optimizer
        spent = 0.0
    else:
        alike = copy.deepcopy(start.model)
        own = adam(task, alike)
        own.load_state_dict(copy.deepcopy(start.optimizer.state_dict()))
        begun = time.process_time()
        model, optimizer = METHODS[method](Start(task, alike, own, data, seed))
        spent = time.process_time() - begun
    grown = losses(task, model, data)
    epoch = trained(task, model, optimizer, data, task.after, 50 + seed)
    equal = losses(task, model, data)
    left = 0.0 if budget is None else max(budget - spent, 0.0)
    more = int(min(left, most) / max(epoch, 1e-6))
    trained(task, model, optimizer, data, more, 100 + seed)
    later = losses(task, model, data)
    return {
        "before": losses(task, start.model, data)[0],
        "grown": grown[0],
        "train": equal[0],
        "held": equal[1],
        "train_time": later[0],
        "held_time": later[1],
        "growing_seconds": spent,
        "epoch_seconds": epoch,
        "more_epochs": more,
        "time_missing": max(left - most, 0.0),
        "parameters": sum(p.numel() for p in model.parameters()),
        "units": sum(sf.units(model, data.X[:4])[name].size - task.width for name in task.groups),
    }


def measured(record: Record, tasks: list[str], methods: list[str], seeds: int, most: float) -> None:
    """All runs that are not there yet, the seeds outside, so that all tasks have some early."""
    warm = TASKS["breast cancer"]
    for method in methods:  # so that none pays for what is loaded once
        if method != SCRATCH:
            METHODS[method](started(warm, 0, 1))
    for seed in range(seeds):
        for name in tasks:
            task, start = TASKS[name], None
            for method in (each for each in methods if fits(task, each)):
                case = case_name(name, method)
                done = record.cases.get(case, {}).get("runs", {})
                if str(seed) in done:
                    continue
                start = start or started(task, seed)
                first = record.cases.get(case_name(name, "sf.grow"), {}).get("runs", {})
                budget = None if method == "sf.grow" else first[str(seed)]["growing_seconds"]
                begun = time.perf_counter()
                figures = run(task, method, start, budget, most)
                record.keep(case, settings(task) | {"runs": done | {str(seed): figures}})
                print(
                    f"{case}, {seed}: grown {figures['grown']:.4g}, trained {figures['train']:.4g} "
                    f"held out {figures['held']:.4g}; equal time {figures['train_time']:.4g} held out "
                    f"{figures['held_time']:.4g} (growing {figures['growing_seconds']:.2f} s, "
                    f"{figures['more_epochs']} epochs more); {time.perf_counter() - begun:.0f} s",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS, *MORE])
    every = [*METHODS, SCRATCH]
    parser.add_argument("--methods", nargs="+", default=every, choices=every)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--most",
        type=float,
        default=MOST,
        help="process seconds to train on for equal time, at most",
    )
    parser.add_argument("--predictions", type=int, help="growths predicted in each task and state")
    parser.add_argument("--merge", type=Path, nargs="+", help="records to put into one")
    parser.add_argument("--out", type=Path, default=RESULTS / "growth.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    header("Growing")
    ways = dict.fromkeys((*METHODS, GROMO, SCRATCH))  # whether gromo is installed or not
    order = [case_name(task, way) for task in TASKS for way in ways]
    order += [prediction_name(task, state) for task in [*TASKS, *MORE] for state in STATES]
    record = Record(arguments.out, page, order)
    if arguments.merge:
        for file in arguments.merge:
            for name, case in read(file).items():
                record.keep(name, case)
    elif arguments.predictions:
        tasks = arguments.tasks or [*TASKS, *MORE]
        predictions(record, tasks, arguments.predictions, started, losses)
    else:
        if only := set(arguments.tasks or ()) & MORE.keys():
            parser.error(f"{', '.join(sorted(only))}: only for --predictions")
        methods = [each for each in every if each in {"sf.grow", *arguments.methods}]
        measured(record, arguments.tasks or list(TASKS), methods, arguments.seeds, arguments.most)
