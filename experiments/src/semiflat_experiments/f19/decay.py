"""F19 §5.3: whether weight decay makes surplus units inactive, or copies of others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.descent import gradients
from semiflat_experiments.experiment import (
    Check,
    Experiment,
    Outcome,
    Record,
    Row,
    Settings,
    Task,
    counted,
    qualified,
)
from semiflat_experiments.f19.problems import Family, drawn
from semiflat_experiments.figure import SHADES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVATIONS = ("tanh", "softplus", "relu")
MOMENTUM = 0.98
TOLERANCE = 0.01
"""Change of the outputs, in parts of their spread, within which units are copies or inactive."""
FAINT = 0.1
"""A copy that hands on less than this part of what the loudest of its group does counts as inactive."""
BELOW = 1e-6
"""Part of a risk by which it is to be below another, to count."""
KINDS = {"needed": SHADES[2], "copies": SHADES[0], "inactive": SHADES[3]}
"""What a unit may be, and its shade in the figure."""


def tasks(settings: Settings) -> list[Task]:
    """One for each activation and decay."""
    return [
        {"seed": settings["seed"], "activation": activation, "decay": decay}
        for activation in ACTIVATIONS
        for decay in settings["decays"]
    ]


def problems(settings: Settings, activation: str, decay: float) -> list[sf.Problem]:
    """Forty noisy samples each of a network with three units, for a wider one."""
    first = settings["seed"]
    family = Family((1, 2, 1), activation, "squared", True)
    found = [drawn(family, seed) for seed in range(first, first + settings["data_sets"])]
    net = found[0].net.with_hidden([settings["width"]])
    return [sf.Problem(net, each.X, each.y, weight_decay=decay) for each in found]


def train(settings: Settings, data: Sequence[sf.Problem]) -> Tensor:
    """Where gradient descent with momentum is after its steps: (data sets, starts, P)."""
    net, starts = data[0].net, settings["starts"]
    at = net.flatten(net.random_params(settings["seed"], batch=(len(data) * starts,)))
    X, y = (
        torch.stack([getattr(each, key) for each in data]).repeat_interleave(starts, 0)
        for key in ("X", "y")
    )
    speed = torch.zeros_like(at)
    for _ in range(settings["steps"]):
        speed = MOMENTUM * speed - settings["rate"] * gradients(data[0], at, (X, y))
        at = at + speed
    return at.reshape(len(data), starts, -1)


def run(settings: Settings, task: Task) -> Record:
    """Train from random starts on every data set, and count what kinds of units there are at the ends."""
    data = problems(settings, task["activation"], task["decay"])
    ends = train(settings, data)
    rows = []
    for problem, of_one in zip(data, ends, strict=True):
        for number, vector in enumerate(of_one):
            if not bool(torch.isfinite(vector).all()):
                continue
            point = sf.Point(problem, problem.net.unflatten(vector))
            row = {**counts(point), "gradient": float(point.gradient_norm), "risk": point.loss}
            if task["decay"] and number < settings["compared"] and row["copies"]:
                row["alone"] = without_surplus(point)
            rows.append(row)
    return {**task, "ends": rows}


def counts(point: sf.Point) -> dict[str, int]:
    """How many of the hidden units are needed, copies of these, and inactive.

    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> one = sf.Point(problem, problem.net.random_params(seed=0))
    >>> counts((sf.Replicate(0, 0, [0.5, 0.25, 0.25]) >> sf.NullUnits(0, [0.3]))(one))
    {'needed': 1, 'copies': 2, 'inactive': 1}
    """
    net = point.problem.net
    small = sf.reduce(point, tolerance=TOLERANCE)
    groups = _groups(small)
    twins = {unit for group in groups for unit in group}
    dropped = {unit for each in small.merges if "twins" not in each.rule for unit in each.units}
    loud = handed_on(point)
    faint = sum(
        float(loud[unit]) < FAINT * float(loud[group].max())
        for group in map(sorted, groups)
        for unit in group
    )
    inactive = len(dropped - twins) + faint
    needed = small.widths[0]
    return {
        "needed": needed,
        "copies": net.hidden[0] - needed - inactive,
        "inactive": inactive,
    }


def _groups(small: sf.Reduction) -> list[set[int]]:
    """Units that became one, all that were merged into each other in one set; those dropped later left out."""
    groups: list[set[int]] = []
    for merge in small.merges:
        units = set(merge.units)
        apart = [group for group in groups if not group & units]
        if "twins" in merge.rule:
            joined = units.union(*(group for group in groups if group & units))
            groups = [*apart, joined]
        else:
            groups = apart
    return groups


def handed_on(point: sf.Point) -> Tensor:
    """The largest change that each unit makes to an output over the data, (H,)."""
    net, params = point.problem.net, point.params
    h = net.activations[0].function(point.problem.X @ params["0.weight"].mT + params["0.bias"])
    largest: Tensor = (h - h.mean(0)).abs().amax(0) * params["2.weight"].abs().amax(0)
    return largest


def without_surplus(point: sf.Point) -> float:
    """The least risk near the reduced network, all surplus units inactive with weights of 0."""
    small = sf.reduce(point, tolerance=TOLERANCE).point
    found = sf.run_search(small.problem, 1, start=small.params, processes=1)
    return min(run.loss for run in found.runs)


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Counts by activation and decay."""
    kept = qualified(records)
    rows = [_row_of(settings, record) for record in kept]
    largest = max(settings["decays"])
    at_most = {each["activation"]: _means(each) for each in kept if each["decay"] == largest}
    at_none = {
        each["activation"]: _means(each)
        for each in kept
        if each["decay"] == min(settings["decays"])
    }
    rows += [_row_of_risks(decay, kept) for decay in settings["decays"] if decay]
    rows.append(counted(records))
    lower, compared = _lower(kept, largest)
    checks = [
        Check(
            "with the largest decay networks need fewer units than with the least",
            bool(at_most) and all(at_most[a][0] < at_none[a][0] for a in at_most),
            _listed({a: (at_none[a][0], at_most[a][0]) for a in at_most}),
        ),
        Check(
            "surplus tanh units are copies, not inactive, with the largest decay more than with the least",
            bool(at_most) and at_most["tanh"][1] > max(at_most["tanh"][2], at_none["tanh"][1]),
            _listed({a: means[1:] for a, means in at_most.items()}),
        ),
        Check(
            "with the largest decay copies have a lower risk than surplus weights of 0, tanh and softplus",
            0 < 0.9 * compared <= lower,
            f"{lower} of {compared} ends compared",
        ),
    ]
    return Outcome(rows, checks, CAPTION, {"counts": [_kept(record) for record in kept]})


CAPTION = (
    "What the units of a network are at the end of training, on average, by activation and weight decay: "
    "those that are needed for the outputs to stay within 1 % of their spread; copies of these; and inactive "
    "ones, which hand on a constant or are not heard. Decay frees units; with tanh and softplus most of them "
    "are copies."
)


def _means(record: Record) -> tuple[float, ...]:
    return tuple(float(np.mean([end[kind] for end in record["ends"]])) for kind in KINDS)


def _listed(pairs: dict[str, tuple[float, ...]]) -> str:
    return ", ".join(
        f"{activation} {' and '.join(f'{value:.2f}' for value in values)}"
        for activation, values in pairs.items()
    )


def _lower(kept: Sequence[Record], decay: float) -> tuple[int, int]:
    """How many ends of smooth activations have a lower risk with copies, and of how many."""
    mine = [each for each in kept if each["decay"] == decay and each["activation"] != "relu"]
    compared = [end for each in mine for end in each["ends"] if "alone" in end]
    return sum(map(_is_cheaper, compared)), len(compared)


def _is_cheaper(end: Record) -> bool:
    """Whether the risk of an end with copies is below that without surplus."""
    return bool(end["risk"] < (1 - BELOW) * end["alone"])


def _row_of(settings: Settings, record: Record) -> Row:
    needed, copies, inactive = _means(record)
    slope = np.median([end["gradient"] for end in record["ends"]])
    return Row(
        f"{record['activation']}, decay {record['decay']:g}: copies and inactive units of {settings['width']}",
        "inactive ones are promoted",
        f"{copies:.2f} and {inactive:.2f}",
        f"means of {len(record['ends'])} ends; {needed:.2f} are needed; median gradient {slope:.0e}",
    )


def _row_of_risks(decay: float, kept: Sequence[Record]) -> Row:
    lower, compared = _lower(kept, decay)
    return Row(
        f"ends with copies whose risk is below that with surplus weights of 0, decay {decay:g}",
        "none, as the norm would be larger",
        f"{lower} of {compared}",
        "tanh and softplus; the reduced network is searched on to its own minimum, with the same decay",
    )


def _kept(record: Record) -> Record:
    means = dict(zip(KINDS, (round(mean, 3) for mean in _means(record)), strict=True))
    return {"activation": record["activation"], "decay": record["decay"], **means}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Stacked counts: a panel for each activation, a bar for each decay."""
    panels = figure.subplots(1, len(ACTIVATIONS), sharey=True)
    for axes, activation in zip(panels, ACTIVATIONS, strict=True):
        mine = [each for each in qualified(records) if each["activation"] == activation]
        bottom = np.zeros(len(mine))
        heights_of = np.array([_means(each) for each in mine]).reshape(-1, len(KINDS)).T
        for (kind, shade), heights in zip(KINDS.items(), heights_of, strict=True):
            axes.bar(range(len(mine)), heights, bottom=bottom, color=shade, label=kind)
            bottom += heights
        axes.set_xticks(range(len(mine)), [f"{each['decay']:g}" for each in mine])
        axes.set_xlabel("weight decay")
        axes.set_title(activation, fontsize=9)
    panels[0].set_ylabel("hidden units, mean")
    panels[0].set_ylim(0, 1.25 * settings["width"])
    panels[0].legend(
        frameon=False, fontsize=8, loc="upper left", ncols=3, columnspacing=0.8, handlelength=1
    )


EXPERIMENT = Experiment(
    "f19-decay",
    "F19 §5.3",
    "what weight decay makes of surplus units",
    "F19 §5.3 expects a norm penalty to promote inactive units, because these have a smaller norm than "
    "copies with the same incoming weights. Here networks of eight units are trained on forty noisy samples "
    "of a network of three, by full gradient descent with momentum from random starts, with several weight "
    "decays of all parameters. At the ends sf.reduce tells which units are copies and which can be dropped, "
    "within 1 % of the outputs' spread.",
    {
        "seed": 0,
        "data_sets": 5,
        "starts": 10,
        "width": 8,
        "decays": [0.0, 1e-4, 1e-3, 1e-2],
        "rate": 0.02,
        "steps": 10000,
        "compared": 5,
    },
    {"data_sets": 2, "starts": 3, "decays": [0.0, 1e-2], "steps": 1500, "compared": 1},
    tasks,
    run,
    outcome,
    draw,
)
