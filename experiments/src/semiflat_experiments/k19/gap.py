"""K19 Thm 1: L(θ) = inf_α L_θ(α) at critical points of trained networks, and the gap on the way there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.figure import LINES, MARKERS, SHADES, logarithmic, say_so
from semiflat_experiments.k19.digits import (
    Limiting,
    gradient_of,
    knows,
    network,
    reduced,
    rescaled,
    train,
    whole,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CRITICAL = {
    "2-2-3 tanh squared": ((2, 2, 3), "tanh", "squared"),
    "2-2-3 gelu cross_entropy": ((2, 2, 3), "gelu", "cross_entropy"),
    "4-2-2-3 gelu squared": ((4, 2, 2, 3), "gelu", "squared"),
    "2-2-3 tanh cross_entropy": ((2, 2, 3), "tanh", "cross_entropy"),
    "2-2-3 gelu squared": ((2, 2, 3), "gelu", "squared"),
    "4-2-3 sigmoid squared": ((4, 2, 3), "sigmoid", "squared"),
    "2-2-2-3 gelu squared": ((2, 2, 2, 3), "gelu", "squared"),
    "2-2-2-3 gelu cross_entropy": ((2, 2, 2, 3), "gelu", "cross_entropy"),
}
"""Networks on digits 3, 5 and 8 by so many principal components as they have inputs."""
TRAINED = {
    "Adam, squared": ("Adam", 1e-3, "squared"),
    "gradient descent, squared": ("gradient descent", 0.03, "squared"),
    "Adam, cross-entropy": ("Adam", 1e-3, "cross_entropy"),
}
"""ReLU networks 61-16-10 on all digits: optimiser, rate and loss."""
ENDED = "2-2-3 gelu squared"
"""A reduced problem, trained by gradient descent and then by second-order steps to its critical point."""
SCALES = (3.0, 10.0, 30.0, 100.0, 300.0)
"""Distances 1/t from a limit at which finite networks are taken."""
DECADES = 2.0
"""Rescaled units get factors 10^u, u uniform between ± this."""
UNHEARD = 1e-9
"""Outgoing weights of a unit that is all but unheard, in units of the largest of the others."""
EXACT = 1e-12
"""Part of L(θ) that counts as no gap: what critical to the last digit leaves."""


def tasks(settings: Settings) -> list[Task]:
    """Critical points of each kind of network, then trainings, then trainings that go to the end."""
    first = settings["seed"]
    found = [
        {"seed": seed, "arm": "critical", "of": name}
        for name in list(CRITICAL)[: settings["families"]]
        for seed in range(first, first + settings["runs"])
    ]
    for arm, names in (("training", [*TRAINED][: settings["trainings"]]), ("ended", [ENDED])):
        found += [
            {"seed": seed, "arm": arm, "of": name}
            for name in names
            for seed in range(first, first + settings["training_runs"])
        ]
    return found


def run(settings: Settings, task: Task) -> Record:
    """One of the three."""
    arms = {"critical": critical, "training": training, "ended": ended}
    return {**task, **arms[task["arm"]](settings, task)}


# -- critical points ---------------------------------------------------------------------------------


def critical(settings: Settings, task: Task) -> Record:
    """Minima that a search reaches, saddles made of them exactly, and minima at infinity."""
    widths, activation, loss = CRITICAL[task["of"]]
    problem = reduced(widths, activation, loss, settings["samples"], task["seed"])
    search = sf.run_search(
        problem,
        starts=settings["starts"],
        seed=task["seed"],
        max_iterations=settings["iterations"],
        processes=1,
    )
    limits = [each.limit for each in search.runs if each.limit is not None and knows(each.limit)]
    if not search.points and not limits:
        statuses = ", ".join(
            f"{count} {status.name}" for status, count in search.counts.items() if count
        )
        return {"dropped": "no start reached a critical point", "statuses": statuses}
    points = [measured("minimum", point) for point in search.points]
    found: Record = {"points": points, "off": [], "limits": [], "unheard": []}
    for point in search.points[:1]:
        last = len(widths) - 3
        saddle = (sf.NullUnits(last, [0.5]) >> sf.Replicate(last, 0, [2.0, -1.0]))(point)
        points.append(measured("saddle", saddle.materialize()))
        found["off"] = [measured("off", moved(point, 0.01, task["seed"]))]
        found["unheard"] = [measured("unheard", all_but_unheard(point, last))]
    for limit in sorted(limits, key=lambda each: each.loss)[:1]:
        module = Limiting(limit)
        model = sf.gradient_basis_model(module, problem.X, problem.y, loss)
        points.append({"kind": "at infinity", **plain(model), "gradient": limit.gradient_norm})
        way = [{"t": t, **measured("finite", limit.approach(t))} for t in SCALES]
        found["limits"] = [{"L": limit.loss, "rank": model.rank, "way": way}]
    return found


def plain(model: sf.GradientBasisModel) -> Record:
    """What is kept of a model."""
    kept = ("loss", "gap", "noise", "error", "rank", "features")
    return {key: getattr(model, key) for key in kept}


def measured(kind: str, point: sf.Point) -> Record:
    """The model at a point, and its gradient's largest entry."""
    model = plain(sf.gradient_basis_model(point))
    return {"kind": kind, **model, "gradient": float(point.gradient_norm)}


def moved(point: sf.Point, part: float, seed: int) -> sf.Point:
    """A point nearby, ``part`` of its parameters' length away."""
    net = point.problem.net
    at = net.flatten(point.params)
    step = torch.randn(at.shape, generator=torch.Generator().manual_seed(seed), dtype=at.dtype)
    return sf.Point(point.problem, net.unflatten(at + part * at.norm() * step / step.norm()))


def all_but_unheard(point: sf.Point, layer: int) -> sf.Point:
    """The point with one more unit, of constant output, that is heard a billionth of what others are."""
    wide = sf.NullUnits(layer, [0.5])(point).materialize()
    params = {key: tensor.clone() for key, tensor in wide.params.items()}
    outgoing = params[f"{2 * layer + 2}.weight"]
    share = torch.linspace(1, 2, len(outgoing), dtype=outgoing.dtype)
    outgoing[:, -1] = UNHEARD * outgoing.abs().max() * share
    return sf.Point(wide.problem, params)


# -- training ----------------------------------------------------------------------------------------


def spread(iterations: int, decade: int) -> list[int]:
    """Iterations from 0 up, so many in a decade."""
    steps = np.geomspace(1, iterations, 1 + round(decade * np.log10(iterations)))
    return [0, *sorted({round(step) for step in steps})]


def training(settings: Settings, task: Task) -> Record:
    """A 61-16-10 ReLU network in training, with a twin whose units are rescaled."""
    optimiser, rate, loss = TRAINED[task["of"]]
    X, classes = whole(settings["images"], task["seed"])
    y = functional.one_hot(classes, 10).double() if loss == "squared" else classes
    module = network((61, settings["units"], 10), nn.ReLU, task["seed"])
    generator = torch.Generator().manual_seed(task["seed"])
    powers = 2 * torch.rand(settings["units"], generator=generator, dtype=torch.float64) - 1
    way = []
    at = spread(settings["training_iterations"], settings["decade"])
    for iteration in train(module, X, y, loss, optimiser, rate, at):
        seen = {
            "iteration": iteration,
            **plain(sf.gradient_basis_model(module, X, y, loss)),
            "gradient": gradient_of(module, X, y, loss),
        }
        if loss == "squared":
            twin = rescaled(module, 10 ** (DECADES * powers))
            model = sf.gradient_basis_model(twin, X, y, loss)
            seen["twin"] = {
                "gap": model.gap,
                "noise": model.noise,
                "gradient": gradient_of(twin, X, y, loss),
            }
        way.append(seen)
    return {"way": way}


def ended(settings: Settings, task: Task) -> Record:
    """Gradient descent, and second-order steps from where it ends to the critical point."""
    problem = reduced(*CRITICAL[task["of"]], settings["samples"], task["seed"])
    module = problem.net.to_module(problem.net.random_params(task["seed"]))
    at, way = spread(settings["ended_iterations"], settings["decade"]), []
    for iteration in train(module, problem.X, problem.y, "squared", "gradient descent", 0.3, at):
        params = {key: tensor.detach().clone() for key, tensor in module.state_dict().items()}
        way.append({"iteration": iteration, **_seen(sf.Point(problem, params))})
    steps = []
    for count in range(1, settings["steps"]):
        search = sf.run_search(problem, start=params, max_iterations=count, processes=1)
        here = search.runs[0]
        steps.append({"step": count, **_seen(sf.Point(problem, here.params))})
        if here.status is not sf.Status.MAX_ITERATIONS:
            break
    reached = here.status is sf.Status.CONVERGED
    found: Record = {"way": way, "steps": steps, "status": here.status.name}
    return (
        found
        if reached
        else {**found, "dropped": f"second-order steps ended as {here.status.name}"}
    )


def _seen(point: sf.Point) -> Record:
    length = float(torch.linalg.vector_norm(sf.gradient(point)))
    return {**plain(sf.gradient_basis_model(point)), "gradient": length}


# -- what it came to ---------------------------------------------------------------------------------


def equal(seen: Record) -> bool:
    """Whether L(θ) and the infimum are one number: up to ten noises and EXACT · L(θ)."""
    return bool(seen["gap"] <= 10 * seen["noise"] + EXACT * seen["loss"])


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Equality by kind of critical point; what training shows; what the gap does not bound."""
    kept = qualified(records)
    of = {
        arm: [each for each in kept if each["arm"] == arm]
        for arm in ("critical", "training", "ended")
    }
    points = [
        {**point, "squared": each["of"].endswith("squared")}
        for each in of["critical"]
        for point in each["points"]
    ]
    off = [point for each in of["critical"] for point in each["off"]]
    unheard = [point for each in of["critical"] for point in each["unheard"]]
    limits = [limit for each in of["critical"] for limit in each["limits"]]
    squared = [each for each in of["training"] if "cross" not in each["of"]]
    classes = [each for each in of["training"] if "cross" in each["of"]]
    pairs = [seen for each in squared for seen in each["way"]]
    twins = [abs(seen["twin"]["gap"] / seen["gap"] - 1) for seen in pairs]
    slopes = [slope(each) for each in of["ended"]]
    rows = [_row_of_equality(kind, points) for kind in ("minimum", "saddle", "at infinity")]
    rows += [
        _row_of_off(off),
        _row_of_unheard(unheard),
        _row_of_limits(limits),
        *(_row_of_training(name, of["training"]) for name in TRAINED),
        Row(
            "rescaled twins: gap of the one over the other's, less 1, and gradients' ratio",
            "—",
            f"≤ {max(twins, default=0.0):.0e}; {_ratios(pairs)}",
            "K19's basis does not change when a unit is rescaled, the gradient's length does",
        ),
        Row(
            "exponent p in gap ∝ ‖∇L‖^p towards a critical point",
            "—",
            ", ".join(f"{each:.2f}" for each in slopes) or "none",
            "2: near a nonsingular critical point the gap is a quadratic form in the gradient",
        ),
        counted(records),
    ]
    clear = sum(point["gap"] > 10 * point["noise"] for point in off)
    checks = [
        Check(
            "Theorem 1: L(θ) = inf L_θ(α) at every critical point, finite and at infinity",
            bool(points) and all(equal(point) for point in points),
            f"{sum(equal(point) for point in points)} of {len(points)}, "
            f"gaps up to {max((p['gap'] / p['loss'] for p in points), default=0.0):.0e} of L",
        ),
        Check(
            "it says something: the infimum is above 0 at every one, and lower than L nearby",
            all(p["loss"] - p["gap"] > 1e-3 for p in points) and clear == len(off) > 0,
            f"infima from {min((p['loss'] - p['gap'] for p in points), default=0.0):.2g}; "
            f"{clear} of {len(off)} points nearby have a gap above ten noises",
        ),
        Check(
            "in training the gap is there all the time, and less at the end than at the start",
            bool(pairs)
            and all(seen["gap"] > 10 * seen["noise"] for seen in pairs)
            and all(each["way"][-1]["gap"] < each["way"][0]["gap"] for each in squared),
            "; ".join(
                f"{w[0]['gap']:.2g} to {w[-1]['gap']:.2g}" for w in (e["way"] for e in squared)
            ),
        ),
        Check(
            "rescaling units changes gradients, not gaps",
            bool(twins) and max(twins) < 1e-6,
            f"gaps by {max(twins, default=0.0):.0e}, gradients by factors {_ratios(pairs)}",
        ),
        Check(
            "towards a critical point the gap falls with the square of the gradient",
            bool(slopes) and all(1.7 < each < 2.3 for each in slopes),
            ", ".join(f"{each:.2f}" for each in slopes) or "none",
        ),
        Check(
            "a small gradient does not bound the gap: a unit that is all but unheard",
            bool(unheard)
            and all(p["gap"] > 10 * p["noise"] and p["gradient"] < 1e-6 for p in unheard),
            f"gradients up to {max((p['gradient'] for p in unheard), default=0.0):.0e}, gaps from "
            f"{min((p['gap'] for p in unheard), default=0.0):.1e}",
        ),
        Check(
            "half of the searches or more reached a critical point",
            2 * len(of["critical"]) >= sum(each["arm"] == "critical" for each in records),
            f"{len(of['critical'])} of {sum(each['arm'] == 'critical' for each in records)}",
        ),
    ]
    if classes:
        checks.append(
            Check(
                "with cross-entropy and more features than terms the gap is L itself",
                all(
                    abs(seen["gap"] - seen["loss"]) <= 10 * seen["noise"]
                    for each in classes
                    for seen in each["way"]
                ),
                f"{len(classes)} trainings",
            )
        )
    return Outcome(rows, checks, CAPTION, _data(points, off, unheard, limits, of, slopes))


CAPTION = (
    "Left: loss, gap and gradient of a 61-16-10 ReLU network on 300 digits in training with Adam; the grey "
    "line is the gradient of the same function with rescaled units, whose gap is the same, and the dotted line "
    "is what rounding may change of the gap. Right: gap against gradient, in training and at critical points "
    "(gaps below their noise are drawn at the noise; crosses near 1e−13 are those of cross-entropy). Gaps fall "
    "with the square of the gradient down to rounding; triangles are points with a unit that is all but "
    "unheard, where the gradient is tiny and the gap is not."
)


def slope(record: Record) -> float:
    """The exponent of the gap in the gradient over the second-order steps, down to the gap's noise."""
    seen = (record["way"][-1], *record["steps"])
    near = [s for s in seen if s["gap"] > 100 * s["noise"] > 0]
    x, y = (np.log([s[key] for s in near]) for key in ("gradient", "gap"))
    return float(np.polyfit(x, y, 1)[0]) if len(near) > 1 else 0.0


def _ratios(pairs: Sequence[Record]) -> str:
    found = [seen["twin"]["gradient"] / seen["gradient"] for seen in pairs]
    return f"{min(found):.2g} to {max(found):.2g}" if found else "none"


def _row_of_equality(kind: str, points: Sequence[Record]) -> Row:
    mine = [point for point in points if point["kind"] == kind]
    names = {
        "minimum": "minima that the search reached",
        "saddle": "saddles: a minimum with a copied and a null unit",
        "at infinity": "minima at infinity, in their limiting networks",
    }
    if not mine:
        return Row(f"{names[kind]}: gap / L(θ)", "0", "none found")
    gap, noise, gradient = (
        max(point[key] / (1 if key == "gradient" else point["loss"]) for point in mine)
        for key in ("gap", "noise", "gradient")
    )
    squared = max((p["gap"] / p["loss"] for p in mine if p["squared"]), default=0.0)
    return Row(
        f"{names[kind]}: gap / L(θ), {len(mine)} points",
        "0",
        f"≤ {gap:.0e}",
        f"rounding may change up to {noise:.0e} of L; gradients up to {gradient:.0e}; with the squared loss "
        f"gaps up to {squared:.0e}",
    )


def _row_of_off(off: Sequence[Record]) -> Row:
    least = min((point["gap"] / point["loss"] for point in off), default=0.0)
    return Row(
        "one in a hundred of ‖θ‖ away: gap / L(θ)",
        "—",
        f"≥ {least:.1e}",
        f"{len(off)} points; control",
    )


def _row_of_unheard(unheard: Sequence[Record]) -> Row:
    gaps, gradients = ([point[key] for point in unheard] for key in ("gap", "gradient"))
    return Row(
        "a null unit heard by 1e-9: gap, where ‖∇L‖∞",
        "—",
        f"{min(gaps, default=0.0):.1e} to {max(gaps, default=0.0):.1e}, ≤ {max(gradients, default=0.0):.0e}",
        "0 where it is heard not at all: the features ∂f/∂u lose rank there, however short they were before",
    )


def _row_of_limits(limits: Sequence[Record]) -> Row:
    stay = [each for each in limits if stays(each)]
    gaps = [each["way"][-1]["gap"] for each in stay]
    above = max((each["way"][-1]["loss"] - each["L"] for each in stay), default=0.0)
    lost = sum(each["rank"] < each["way"][-1]["rank"] for each in limits)
    return Row(
        "towards a minimum at infinity: gaps that stay, of the same size 1/30 and 1/300 from it",
        "—",
        f"{len(stay)} of {len(limits)}, {min(gaps, default=0.0):.1e} to {max(gaps, default=0.0):.1e}",
        f"at L − L(limit) up to {above:.0e}: {lost} limits have fewer independent features than the networks "
        "that tend to them",
    )


def stays(limit: Record) -> bool:
    """Whether the gap tends to a number above 0 where the loss tends to the limit's."""
    near, far = (next(seen for seen in limit["way"] if seen["t"] == t) for t in (30.0, 300.0))
    return bool(near["gap"] > 1000 * near["noise"] and abs(far["gap"] / near["gap"] - 1) < 0.1)


def _row_of_training(name: str, trainings: Sequence[Record]) -> Row:
    mine = [each["way"] for each in trainings if each["of"] == name]
    if not mine:
        return Row(f"61-16-10, {name}: gap", "—", "not run")
    first, last = (float(np.median([way[k]["gap"] for way in mine])) for k in (0, -1))
    noise = max(seen["noise"] for way in mine for seen in way)
    loss = float(np.median([way[-1]["loss"] for way in mine]))
    return Row(
        f"61-16-10, {name}: gap after 0 and {mine[0][-1]['iteration']} iterations",
        "—",
        f"{first:.3g} and {last:.3g}",
        f"L at the end {loss:.3g}; rounding up to {noise:.0e}; medians over {len(mine)} trainings",
    )


def _rounded(values: Sequence[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]


def _data(
    points: Sequence[Record],
    off: Sequence[Record],
    unheard: Sequence[Record],
    limits: Sequence[Record],
    of: dict[str, list[Record]],
    slopes: Sequence[float],
) -> dict[str, Any]:
    kinds = ("minimum", "saddle", "at infinity")
    return {
        "equal": {
            kind: {
                "points": sum(p["kind"] == kind for p in points),
                "equal": sum(p["kind"] == kind and equal(p) for p in points),
                "gap_over_loss": max(
                    (p["gap"] / p["loss"] for p in points if p["kind"] == kind), default=0.0
                ),
                "noise_over_loss": max(
                    (p["noise"] / p["loss"] for p in points if p["kind"] == kind), default=0.0
                ),
            }
            for kind in kinds
        },
        "off_gaps": _rounded([p["gap"] for p in off]),
        "unheard_gaps": _rounded([p["gap"] for p in unheard]),
        "unheard_gradients": _rounded([p["gradient"] for p in unheard]),
        "limits": [
            {
                "rank": each["rank"],
                "ranks": [seen["rank"] for seen in each["way"]],
                "above": _rounded([seen["loss"] - each["L"] for seen in each["way"]]),
                "gaps": _rounded([seen["gap"] for seen in each["way"]]),
                "gradients": _rounded([seen["gradient"] for seen in each["way"]]),
            }
            for each in limits
        ],
        "trainings": [
            {
                "of": each["of"],
                "seed": each["seed"],
                **{
                    key: _rounded([seen[key] for seen in each["way"]])
                    for key in ("iteration", "loss", "gap", "noise", "gradient")
                },
            }
            for each in (*of["training"], *of["ended"])
        ],
        "slopes": _rounded(slopes),
    }


# -- the figure --------------------------------------------------------------------------------------


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """A training, and gap against gradient."""
    kept = qualified(records)
    left, right = figure.subplots(1, 2)
    _draw_training(left, next((each for each in kept if each["arm"] == "training"), None))
    _draw_gaps(right, kept)


def _draw_training(axes: Axes, record: Record | None) -> None:
    if record is None:
        return say_so(axes, "no training")
    way = record["way"][1:]
    x = [seen["iteration"] for seen in way]
    lines = {
        "loss L": [seen["loss"] for seen in way],
        "gap L − inf": [seen["gap"] for seen in way],
        "gradient ‖∇L‖": [seen["gradient"] for seen in way],
        "gradient, rescaled": [seen["twin"]["gradient"] for seen in way],
    }
    for k, (label, values) in enumerate(lines.items()):
        axes.plot(
            x, values, LINES[k], color=SHADES[k], marker=MARKERS[k], markersize=3, label=label
        )
    axes.plot(x, [seen["noise"] for seen in way], ":", color=SHADES[2], label="noise of the gap")
    logarithmic(axes)
    axes.set_xlabel("iterations of Adam")
    axes.set_ylabel("loss, gap, gradient")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(0, 0.35))
    return None


def _draw_gaps(axes: Axes, kept: Sequence[Record]) -> None:
    critical = [each for each in kept if each["arm"] == "critical"]
    groups = {
        "training": [
            s for e in kept if e["arm"] == "training" and "cross" not in e["of"] for s in e["way"]
        ],
        "to the end": [s for e in kept if e["arm"] == "ended" for s in (*e["way"], *e["steps"])],
        "all but unheard": [p for e in critical for p in e["unheard"]],
        "critical points": [p for e in critical for p in e["points"]],
    }
    marks = ("o", "s", "^", "x")
    for k, (label, seen) in enumerate(groups.items()):
        x = [max(each["gradient"], 1e-17) for each in seen]
        y = [max(each["gap"], each["noise"], 1e-34) for each in seen]
        fill = "none" if k < 2 else SHADES[k]
        axes.plot(x, y, marks[k], color=SHADES[k], markerfacecolor=fill, markersize=4, label=label)
    line = np.array([1e-14, 1.0])
    axes.plot(line, line**2, ":", color=SHADES[2], linewidth=1, label="‖∇L‖²")
    logarithmic(axes)
    axes.set_xlabel("gradient ‖∇L‖")
    axes.set_ylabel("gap L − inf")
    axes.legend(frameon=False, fontsize=7, loc="lower right")


EXPERIMENT = Experiment(
    "k19-gap",
    "K19 Thm 1",
    "the gradient basis model at critical points and in training",
    "At a critical point the loss is the global minimum of the linear model in the features ∂_k f(x; θ), "
    "whatever the network. K19 proves it and measures nothing; here L(θ) − inf_α L_θ(α) is measured on "
    "scikit-learn's digits: at minima that a search reaches (digits 3, 5 and 8 by 2 or 4 principal components, "
    "shallow and deep, squared loss and cross-entropy), at saddles made of these by embeddings, and at minima "
    "at infinity in their limiting networks; then in the training of a 61-16-10 ReLU network on 300 digits, as "
    "a distance from criticality beside the gradient's length, and of a small network down to its critical "
    "point.",
    {
        "seed": 0,
        "families": len(CRITICAL),
        "runs": 5,
        "samples": 150,
        "starts": 6,
        "iterations": 400,
        "trainings": len(TRAINED),
        "training_runs": 2,
        "units": 16,
        "images": 300,
        "decade": 4,
        "training_iterations": 10000,
        "ended_iterations": 10000,
        "steps": 200,
    },
    {
        "families": 3,
        "runs": 1,
        "starts": 2,
        "iterations": 400,
        "trainings": 1,
        "training_runs": 1,
        "units": 4,
        "images": 100,
        "decade": 2,
        "training_iterations": 100,
        "ended_iterations": 1000,
    },
    tasks,
    run,
    outcome,
    draw,
)
