"""P21 §III-B: how long gradient descent stays in a non-attracting region, by the noise that is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
from semiflat_experiments.figure import LINES, MARKERS, SHADES, logarithmic, say_so

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACTIVATIONS = ("tanh", "gelu")
SAMPLES = 30
STEEP = 1e-3
"""Least curvature of a region across itself, over the largest: below it no run gets anywhere in time."""
HIGH = 0.01
"""Least loss of a region, the targets' variance being 1."""
OFF = 1e-3
"""Distance of the starts from the region's middle, over the parameters' length."""
LOWER = 0.9
"""A run has escaped where its loss is below this part of the region's."""


def tasks(settings: Settings) -> list[Task]:
    """Each data set for each activation and number of copies."""
    first = settings["seed"]
    return [
        {"seed": seed, "activation": activation, "copies": copies}
        for activation in ACTIVATIONS
        for seed in range(first, first + settings["data_sets"])
        for copies in settings["copies"]
    ]


def problem_of(activation: str, seed: int) -> sf.Problem:
    """Thirty samples of two units with biases, for a network with one unit without.

    >>> problem_of("tanh", 0).net.widths
    (1, 1, 1)
    """
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(SAMPLES, 1, generator=generator, dtype=torch.float64)
    teacher = sf.MLP([1, 2, 1], activation)
    weights = 2 * torch.randn(teacher.parameter_count, generator=generator, dtype=torch.float64)
    y = teacher.forward(teacher.unflatten(weights), X)
    return sf.Problem(sf.MLP([1, 1, 1], activation, [False, True]), X, (y - y.mean()) / y.std())


def run(settings: Settings, task: Task) -> Record:
    """Descents from a region of one data set, with noise of several kinds and sizes."""
    problem = problem_of(task["activation"], task["seed"])
    found = sf.run_search(problem, starts=8, seed=task["seed"], processes=1).points
    if not found:
        return {**task, "dropped": "no minimum was found"}
    try:
        region = sf.non_attracting_region(found[0], copies=task["copies"])
    except sf.InputError:
        return {**task, "dropped": "the lowest minimum found has no region"}
    if found[0].loss < HIGH:
        return {**task, "dropped": "the region's loss is too low to be told from noise"}
    if region.replication.intervals != ((0.0, 1.0),):
        return {**task, "dropped": "the region is outside [0, 1]"}
    middle = region.minimum.materialize()
    across = torch.linalg.eigvalsh(sf.hessian(middle))
    flat = task["copies"] - 1
    steepness = float(across[flat] / across[-1])
    if steepness < STEEP:
        return {**task, "dropped": "the loss rises too little across the region"}
    rate = settings["rate"] / float(across[-1])
    arms = _runs(middle, rate, settings, task["seed"])
    return {**task, "loss": middle.loss, "steepness": steepness, "rate": rate, "arms": arms}


def arms_of(settings: Settings) -> list[tuple[str, float]]:
    """Kinds of noise and their sizes: deviations of what is added to gradients, and sizes of batches."""
    weights = [("weights", size) for size in settings["noise"]]
    return weights + [("samples", size) for size in settings["batches"]]


def _runs(middle: sf.Point, rate: float, settings: Settings, seed: int) -> list[dict[str, Any]]:
    """For each arm when its runs leave the region, and when they are lower; −1 for never."""
    problem, net, repeats = middle.problem, middle.problem.net, settings["repeats"]
    generator = torch.Generator().manual_seed(seed)
    theta = net.flatten(middle.params)
    arms = arms_of(settings)
    places = [slice(k * repeats, (k + 1) * repeats) for k in range(len(arms))]
    # Runs without noise differ in their starts alone, and arms do not differ in theirs.
    off = torch.randn(repeats, len(theta), generator=generator, dtype=torch.float64)
    at = (theta + OFF * float(theta.norm()) * off / len(theta) ** 0.5).repeat(len(arms), 1)
    sizes = torch.zeros(len(at), 1, dtype=torch.float64)
    share = torch.full((len(at), SAMPLES), 1 / SAMPLES, dtype=torch.float64)
    for (kind, size), own in zip(arms, places, strict=True):
        sizes[own] = size if kind == "weights" else 0.0
    sign = middle.params["2.weight"].sum().sign()
    crossed, escaped = (torch.full((len(at),), -1) for _ in range(2))
    for step in range(1, settings["steps"] + 1):
        for (kind, size), own in zip(arms, places, strict=True):
            if kind == "samples":
                few = torch.randint(SAMPLES, (repeats, int(size)), generator=generator)
                each = torch.full(few.shape, 1 / size, dtype=torch.float64)
                share[own] = torch.zeros_like(share[own]).scatter_add(1, few, each)
        noise = sizes * torch.randn(at.shape, generator=generator, dtype=torch.float64)
        at = at - rate * (gradients(problem, at, share=share) + noise)
        if step % settings["every"] == 0:
            params = net.unflatten(at)
            out = (params["2.weight"] * sign).amin((1, 2)) < 0
            low = problem.risk(params) < LOWER * middle.loss
            crossed[out & (crossed < 0)] = step
            escaped[low & (escaped < 0)] = step
    apart = _apart(net.unflatten(at)["0.weight"])
    return [
        {
            "noise": kind,
            "size": size,
            "crossed": crossed[own].tolist(),
            "escaped": escaped[own].tolist(),
            "apart": float(apart[own].median()),
        }
        for (kind, size), own in zip(arms, places, strict=True)
    ]


def _apart(weights: Tensor) -> Tensor:
    """How far the copies' incoming weights are apart, over their size: (repeats,)."""
    return weights.std(1, correction=0)[:, 0] / weights.abs().mean(1)[:, 0]


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Escapes by kind and size of the noise."""
    kept = qualified(records)
    steps = settings["steps"]
    weights = [_arm(kept, "weights", size) for size in settings["noise"]]
    samples = [_arm(kept, "samples", size) for size in settings["batches"]]
    quiet = _share(weights[0], "crossed")
    noisy = [_share(arm, "crossed") for arm in weights[1:]]
    few = [_share(arm, "crossed") for arm in samples]
    lower = [_share(arm, "escaped") for arm in weights[1:]]
    rows = [
        Row(
            "data sets with a region, by activation",
            "—",
            ", ".join(
                f"{a}: {len({r['seed'] for r in kept if r['activation'] == a})}"
                for a in ACTIVATIONS
            ),
            f"of {settings['data_sets']} each, with {_words(settings['copies'])} copies, or one of these",
        ),
        *(
            _row_of(f"noise {size:g} in every weight's gradient", arm, steps)
            for size, arm in zip(settings["noise"], weights, strict=True)
        ),
        *(
            _row_of(f"noise of batches of {size}", arm, steps)
            for size, arm in zip(settings["batches"], samples, strict=True)
        ),
        *(_row_of_copies(count, kept, settings) for count in settings["copies"]),
        counted(records),
    ]
    checks = [
        Check(
            "without noise no run crosses the edge of its region",
            bool(kept) and quiet == 0,
            f"{quiet:.0%} of {len(_times(weights[0], 'crossed'))} runs",
        ),
        Check(
            "with enough noise in every weight's gradient most runs do, and some then fall lower",
            max(noisy, default=0.0) > 0.5 and max(lower, default=0.0) > 0,
            f"{_words([f'{share:.0%}' for share in noisy])}; "
            f"{_words([f'{share:.0%}' for share in lower])} fall lower",
        ),
        Check(
            "the more of that noise, the sooner half of the runs are across",
            _falling([_half(_times(arm, "crossed")) for arm in weights[1:]]),
            _words([_step(_half(_times(arm, "crossed")), steps) for arm in weights[1:]]),
        ),
        Check(
            "noise of batches takes fewer runs across than that noise does",
            bool(few) and max(few) < max(noisy, default=0.0),
            f"{max(few, default=0.0):.0%} at most against {max(noisy, default=0.0):.0%}",
        ),
    ]
    return Outcome(rows, checks, CAPTION, {"regions": [_kept(record) for record in kept]})


CAPTION = (
    "Left: steps until a share of the unit passes 0, the edge of the region (open), and until the loss is a "
    "tenth below the region's (filled), against the size of Gaussian noise in every weight's gradient; "
    "medians over all runs, none where half did not get there. Right: the parts of the runs that did. Copies "
    "with one incoming weight have one gradient on every sample, up to a factor, so noise from batches does "
    "not move them apart."
)


def _arm(kept: Sequence[Record], kind: str, size: float) -> list[dict[str, Any]]:
    """An arm's runs on all regions."""
    return [
        {**arm, "copies": record["copies"]}
        for record in kept
        for arm in record["arms"]
        if (arm["noise"], arm["size"]) == (kind, size)
    ]


def _times(arm: Sequence[dict[str, Any]], key: str) -> list[int]:
    return [time for each in arm for time in each[key]]


def _share(arm: Sequence[dict[str, Any]], key: str) -> float:
    """The part of the runs that get there."""
    times = _times(arm, key)
    return sum(time > 0 for time in times) / max(len(times), 1)


def _half(times: Sequence[int]) -> float:
    """The step by which half of the runs are there; infinite if fewer are."""
    known = sorted(time if time > 0 else np.inf for time in times)
    return float(known[(len(known) - 1) // 2]) if known else float("inf")


def _falling(times: Sequence[float]) -> bool:
    """Whether times that are known fall, and none is unknown after one that is known."""
    known = [time for time in times if time < np.inf]
    return len(known) > 1 and known == sorted(known, reverse=True) and times[-1] < np.inf


def _words(values: Sequence[Any]) -> str:
    *first, last = map(str, values)
    return f"{', '.join(first)} and {last}" if first else last


def _step(time: float, steps: int) -> str:
    return f"{time:.0f}" if time < np.inf else f"over {steps}"


def _row_of(what: str, arm: Sequence[dict[str, Any]], steps: int) -> Row:
    times = _times(arm, "escaped")
    apart = np.median([each["apart"] for each in arm]) if arm else 0.0
    return Row(
        f"{what}: runs that escape",
        "none" if what.startswith("noise 0 ") else "a good chance",
        f"{sum(time > 0 for time in times)} of {len(times)}",
        f"half by step {_step(_half(times), steps)}; across the edge by step "
        f"{_step(_half(_times(arm, 'crossed')), steps)}; copies apart by {apart:.0e} at the end",
    )


def _row_of_copies(count: int, kept: Sequence[Record], settings: Settings) -> Row:
    mine = [record for record in kept if record["copies"] == count]
    halves = [
        _step(
            _half(_times(_arm(mine, "weights", size), "crossed")),
            settings["steps"],
        )
        for size in settings["noise"][1:]
    ]
    sizes = _words([f"{size:g}" for size in settings["noise"][1:]])
    return Row(
        f"step by which half are across the edge, {count} copies",
        "—",
        _words(halves),
        f"with noise {sizes} in the gradients",
    )


def _kept(record: Record) -> dict[str, Any]:
    about = {key: record[key] for key in ("seed", "activation", "copies")}
    numbers = {key: float(f"{record[key]:.3g}") for key in ("loss", "steepness", "rate")}
    arms = [
        {
            "noise": arm["noise"],
            "size": arm["size"],
            **{key: sorted(arm[key]) for key in ("crossed", "escaped")},
        }
        for arm in record["arms"]
    ]
    return {**about, **numbers, "arms": arms}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Times and parts of the runs against the noise."""
    kept = qualified(records)
    left, right = figure.subplots(1, 2)
    if not kept:
        say_so(left, "no region was found")
        return say_so(right, "no region was found")
    sizes = settings["noise"][1:]
    for number, count in enumerate(settings["copies"]):
        mine = [record for record in kept if record["copies"] == count]
        style: Any = {
            "color": SHADES[number],
            "linestyle": LINES[number],
            "marker": MARKERS[number],
        }
        _draw_times(left, settings, mine, count, style)
        for key, fill in (("crossed", "none"), ("escaped", None)):
            shares = [_share(_arm(mine, "weights", size), key) for size in sizes]
            right.plot(sizes, shares, markersize=5, markerfacecolor=fill, **style)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
        axes.minorticks_off()
        axes.set_xlabel("noise in the gradient")
    few = [_share(_arm(kept, "samples", size), "crossed") for size in settings["batches"]]
    right.axhline(max(few), color=SHADES[3], linestyle=":", linewidth=1,
                  label="edge, noise of batches, at most")  # fmt: skip
    logarithmic(left, "y")
    left.set_ylabel("steps, median")
    left.legend(frameon=False, fontsize=8)
    left.margins(y=0.3)
    right.set_ylim(-0.03, 1.03)
    right.set_ylabel(f"part of the runs, in {settings['steps']} steps")
    right.legend(frameon=False, fontsize=8)
    return None


def _draw_times(
    axes: Axes, settings: Settings, records: Sequence[Record], count: int, style: dict[str, Any]
) -> None:
    for key, fill, words in (("crossed", "none", "edge"), ("escaped", None, "escape")):
        halves = [
            (size, _half(_times(_arm(records, "weights", size), key)))
            for size in settings["noise"][1:]
        ]
        known = [(size, time) for size, time in halves if time < np.inf]
        if known:
            axes.plot(*zip(*known, strict=True), label=f"{words}, {count} copies", markersize=5,
                      markerfacecolor=fill, **style)  # fmt: skip


EXPERIMENT = Experiment(
    "p21-escape",
    "P21 §III-B",
    "how long noise takes to leave a non-attracting region",
    "P21 §III-B says that a stochastic method has a good chance to escape from a non-attracting region. Here "
    "a network with one unit and no hidden bias is fitted to thirty samples of two units that have one; its "
    "minimum with that unit copied, with equal shares, lies in a region of local minima. Gradient descent "
    "starts next to it, without noise, with Gaussian noise in every weight's gradient, or with the noise of "
    "small batches drawn with replacement. A run has crossed the edge when a copy's outgoing weight changes "
    "sign, and has escaped when its loss is a tenth below the region's. Regions across which the loss rises "
    "by less than 1e-3 of the largest curvature are left out.",
    {
        "seed": 0,
        "data_sets": 8,
        "copies": [2, 6],
        "noise": [0.0, 0.03, 0.1, 0.2, 0.4],
        "batches": [1, 5],
        "rate": 0.2,
        "repeats": 16,
        "steps": 8000,
        "every": 10,
    },
    {
        "seed": 6,
        "data_sets": 1,
        "noise": [0.0, 0.1, 0.3],
        "batches": [1],
        "repeats": 8,
        "steps": 2000,
    },
    tasks,
    run,
    outcome,
    draw,
)
