"""F19 Fig. 2: what surplus inactive units do to the generalisation error of a perturbed fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.f19.fits import (
    EXACT,
    GRID,
    NOISE,
    noisy_points,
    norm,
    relu_fit,
    squared_error,
    tanh_fit,
)
from semiflat_experiments.f19.surplus import CHOICES, measured
from semiflat_experiments.figure import LINES, MARKERS, SHADES, say_so

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

BLOCK = 1000
"""The task of seed k looks at data sets 1000k, 1000k + 1, …"""
PUBLISHED = {"tanh": "rises with H", "relu": "does not rise"}
TANH, RELU = ("tanh", "v from N(0, 1)"), ("relu", "middle of B_K")
"""The choices that the claims are about."""


def tasks(settings: Settings) -> list[Task]:
    """So many data sets of each activation."""
    seeds = range(settings["seed"], settings["seed"] + settings["runs"])
    return [{"seed": seed, "activation": name} for name in PUBLISHED for seed in seeds]


def run(settings: Settings, task: Task) -> Record:
    """What happens at the first data set with an exact fit among those that the task looks at."""
    activation, fitted, first = task["activation"], 0, BLOCK * task["seed"]
    for draw in range(first, first + settings["draws"]):
        problem, truth = noisy_points(activation, draw)
        if activation == "relu":
            fit = relu_fit(problem)
        else:
            fit = tanh_fit(problem, settings["starts"], settings["iterations"])
        fitted += fit is not None
        if fit is not None and squared_error(fit) < EXACT:
            about = {"draw": draw, "norm": norm(fit), "squared_error": squared_error(fit)}
            found = measured(
                fit, truth, settings["widths"], settings["trials"], settings["margin"], draw
            )
            return {**task, "looked_at": draw - first + 1, "fitted": fitted, **about, **found}
    reason = f"no {activation} fit below 1e-29 among {settings['draws']} data sets"
    return {**task, "dropped": reason, "looked_at": settings["draws"], "fitted": fitted}


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Ratios over the data sets, what they rest on, and what was left out."""
    kept, widest = qualified(records), max(settings["widths"])
    of = {key: _ratios(kept, *key) for key in CHOICES}  # (data sets, widths, 2)
    rises = {key: int((of[key][:, -1, 0] > 1 + 2 * of[key][:, -1, 1]).sum()) for key in CHOICES}
    rows = [_row_of_fits(records, activation) for activation in PUBLISHED]
    rows += [_row_of_ratios(key, of[key], rises[key], widest) for key in CHOICES]
    rows += [_row_of_expected(kept, of[TANH], widest)]
    rows += [_row_of_errors(kept, activation) for activation in PUBLISHED]
    medians = {key: np.median(of[key][:, :, 0], axis=0) for key in (TANH, RELU) if len(of[key])}
    many = {key: len(of[key]) for key in (TANH, RELU)}
    smallest = max((record["squared_error"] for record in kept), default=0.0)
    checks = [
        Check(
            "tanh: the median ratio rises with every step of H, and the ratio on most data sets",
            many[TANH] > 0
            and bool((np.diff(medians[TANH]) > 0).all())
            and 2 * rises[TANH] > many[TANH],
            f"{_list(medians.get(TANH))}; at H = {widest} above 1 by two standard errors on "
            f"{rises[TANH]} of {many[TANH]} data sets",
        ),
        Check(
            "ReLU: it does not, on nine data sets of ten or more",
            many[RELU] > 0 and 10 * rises[RELU] <= many[RELU],
            f"{_list(medians.get(RELU))}; above 1 by two standard errors on {rises[RELU]} of {many[RELU]}",
        ),
        Check(
            "nine tasks of ten or more found a data set with an exact fit",
            10 * len(kept) >= 9 * len(records) > 0,
            f"{len(kept)} of {len(records)}; squared errors up to {smallest:.1e}",
        ),
    ]
    return Outcome([*rows, counted(records)], checks, CAPTION, _data(settings, kept, of, rises))


CAPTION = (
    "Left: the first ReLU data set and its fit by five units, as F19 Fig. 2(a). Right: generalisation error "
    "of perturbed networks with H units over that of perturbed networks with five, as F19 Fig. 2(b): medians "
    "over the data sets, with the quartiles as bands where F19's claim is tested. Tanh units that say nothing "
    "(v = 0) cost less; ReLU units that begin near the edge of the data cost as well."
)


def _ratios(kept: Sequence[Record], activation: str, choice: str) -> Array:
    found = [each["ratios"][choice] for each in kept if each["activation"] == activation]
    return np.array(found, dtype=float).reshape(len(found), -1, 2)


def _list(values: Array | None) -> str:
    return "none" if values is None else ", ".join(f"{value:.3f}" for value in values)


def _quartiles(values: Sequence[float] | Array) -> list[float]:
    return [float(q) for q in np.quantile(values, [0.25, 0.5, 0.75])] if len(values) else [1.0] * 3


def _row_of_fits(records: Sequence[Record], activation: str) -> Row:
    mine = [each for each in records if each["activation"] == activation]
    looked_at, fitted = (sum(each[key] for each in mine) for key in ("looked_at", "fitted"))
    passed = fitted - len(qualified(mine))
    why = (
        f"decided exactly; {passed} of the fits are above 1e-29 by rounding and were passed over"
        if activation == "relu"
        else "by a search, which may miss some"
    )
    return Row(f"data sets with an exact {activation} fit", "—", f"{fitted} of {looked_at}", why)


def _row_of_ratios(key: tuple[str, str], found: Array, rises: int, widest: int) -> Row:
    activation, choice = key
    low, middle, high = _quartiles(found[:, -1, 0])
    return Row(
        f"ratio at H = {widest}, {activation}, {choice}",
        PUBLISHED[activation] if key in (TANH, RELU) else "—",
        f"{middle:.3f} ({low:.3f} to {high:.3f})",
        f"median and quartiles; above 1 by two standard errors on {rises} of {len(found)} data sets",
    )


def _row_of_expected(kept: Sequence[Record], found: Array, widest: int) -> Row:
    lowest = [each["expected"][-1] for each in kept if each["activation"] == TANH[0]]
    part = [(f - 1) / (e - 1) for f, e in zip(found[:, -1, 0], lowest, strict=True)]
    low, middle, high = _quartiles(part)
    return Row(
        f"rise at H = {widest}, tanh, over Σ (v² + ρ²) ρ² E[x² + 1]",
        "—",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        "the lowest order in ρ; tanh saturates where ρ is not small",
    )


def _row_of_errors(kept: Sequence[Record], activation: str) -> Row:
    mine = [each for each in kept if each["activation"] == activation]
    fitted, perturbed, deviation = (
        _quartiles([each[key] for each in mine])[1]
        for key in ("as_fitted", "perturbed", "deviation")
    )
    return Row(
        f"error of five {activation} units, as fitted and perturbed",
        "—",
        f"{fitted:.3g} and {perturbed:.3g}",
        f"medians; deviation ρ of the perturbation {deviation:.2g}, noise in the data {NOISE**0.5:g}",
    )


def _data(
    settings: Settings,
    kept: Sequence[Record],
    of: dict[tuple[str, str], Array],
    rises: dict[tuple[str, str], int],
) -> dict[str, Any]:
    first = next((each for each in kept if each["activation"] == "relu"), None)
    return {
        "widths": list(settings["widths"]),
        "choices": [
            {
                "activation": key[0],
                "choice": key[1],
                "data_sets": len(of[key]),
                "rises": rises[key],
                "quartiles": [_quartiles(of[key][:, k, 0]) for k in range(of[key].shape[1])],
            }
            for key in CHOICES
        ],
        "points": first["points"] if first else [],
        "curve": first["curve"] if first else [],
    }


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """A fit, and the ratios over H."""
    kept, widths = qualified(records), settings["widths"]
    left, right = figure.subplots(1, 2)
    _draw_fit(left, next((each for each in kept if each["activation"] == "relu"), None))
    for k, key in enumerate(CHOICES):
        found = _ratios(kept, *key)
        if not len(found):
            continue
        low, middle, high = np.quantile(found[:, :, 0], [0.25, 0.5, 0.75], axis=0)
        style = {"color": SHADES[k], "marker": MARKERS[k], "linestyle": LINES[k], "markersize": 4}
        right.plot(widths, middle, label=": ".join(key), **style)
        if key in (TANH, RELU):
            right.fill_between(widths, low, high, color=SHADES[k], alpha=0.2, linewidth=0)
    if not kept:
        return say_so(right, "no data set qualified")
    right.set_xlabel("hidden units H")
    right.set_ylabel("error over that at H = 5")
    right.legend(frameon=False, fontsize=8)
    return None


def _draw_fit(axes: Axes, record: Record | None) -> None:
    if record is None:
        return say_so(axes, "no ReLU fit")
    x, y = np.array(record["points"]).T
    axes.plot(GRID[:, 0].numpy(), record["curve"], color=SHADES[1], label="ReLU, five units")
    axes.plot(x, y, "o", color=SHADES[2], markersize=4, label="data")
    axes.set_xlabel("input x")
    axes.set_ylabel("output y")
    axes.legend(frameon=False, fontsize=8)
    return None


EXPERIMENT = Experiment(
    "f19-generalisation",
    "F19 Fig. 2",
    "surplus inactive units and the error of perturbed fits",
    "Ten points from one unit with noise of variance 0.01 are fitted exactly by five units, inactive units "
    "are added, all parameters are perturbed by N(0, ρ²) with ρ = 0.01 ‖θ*‖, and the error against the "
    "noiseless target is compared with that of five perturbed units. With tanh it rises with every unit, "
    "with ReLU not. F19 leaves open how the inputs (here uniform in [−1, 1]), the target's weights (Gaussian), "
    "the fit (of those found the one of smallest norm), tanh units' outgoing weights v and the place of ReLU "
    "units are chosen: the last two are varied. Widths share their perturbations, so that they differ by the "
    "surplus units alone.",
    {
        "seed": 0,
        "runs": 50,
        "draws": 200,
        "starts": 32,
        "iterations": 300,
        "widths": [5, 10, 15, 20, 25, 30],
        "trials": 1000,
        "margin": 0.05,
    },
    {"runs": 3, "starts": 8, "iterations": 200, "trials": 200},
    tasks,
    run,
    outcome,
    draw,
)
