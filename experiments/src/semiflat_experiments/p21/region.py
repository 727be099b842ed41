"""P21 §V-B to V-D, Fig. 3: a non-attracting region of local minima, and the wide network's way to zero loss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.dense import dense_hessian
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.figure import say_so
from semiflat_experiments.p21.region_figure import draw_region
from semiflat_experiments.p21.replicated import (
    MINIMA,
    added,
    all_of,
    counted_signs,
    definite,
    replicated,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEACHER, STUDENT, SAMPLES = (2, 2, 4, 1), (2, 2, 2, 1), 50
LAST = 1
"""The last hidden layer, to which P21 adds units."""
COPIES = 12
"""Eleven units are added to the one that is there."""
ARMS = {"no biases": False, "biases": True}
ROUNDING = 1e-12


def tasks(settings: Settings) -> list[Task]:
    """The same data sets' inputs for networks without biases and with."""
    seeds = range(settings["seed"], settings["seed"] + settings["data_sets"])
    return [{"seed": seed, "arm": arm} for arm in ARMS for seed in seeds]


def problem_of(seed: int, bias: bool) -> sf.Problem:
    """Fifty samples of a 2-2-4-1 sigmoid network, for a 2-2-2-1 network."""
    generator = torch.Generator().manual_seed(seed)
    teacher, student = (sf.MLP(widths, "sigmoid", bias) for widths in (TEACHER, STUDENT))
    X = torch.randn((SAMPLES, 2), generator=generator, dtype=torch.float64)
    weights = 3 * torch.randn(teacher.parameter_count, generator=generator, dtype=torch.float64)
    y = teacher.forward(teacher.unflatten(weights), X)
    return sf.Problem(student, X, (y - y.mean()) / y.std())


def run(settings: Settings, task: Task) -> Record:
    """The minima of one data set, and the region over the one whose B is farthest from singular."""
    problem = problem_of(task["seed"], ARMS[task["arm"]])
    found = sf.run_search(problem, settings["starts"], seed=task["seed"], processes=1)
    minima = [point for point in found.points if sf.judge(point).kind.name in MINIMA]
    units = [unit for point in minima for unit in replicated(point)]
    record = {**task, "minima": len(minima), "units": counted_signs(units)}
    able = [unit for unit in units if unit.layer == LAST and unit.outcome == "inside"]
    if not able:
        return {
            **record,
            "dropped": "no minimum with a positive definite B in the last hidden layer",
        }
    best = max(able, key=lambda unit: unit.eigenvalues[0])
    region = sf.non_attracting_region(best.point, LAST, best.unit, copies=COPIES)
    return {
        **record,
        "loss": best.point.loss,
        "B": list(best.eigenvalues),
        **_region(region, settings, task["seed"]),
        "wide": [_to_zero(best.point, best.unit, width) for width in settings["wide"]],
    }


def _region(region: sf.NonAttractingRegion, settings: Settings, seed: int) -> dict[str, Any]:
    """P21's three pictures, and the way out."""
    check, problem, net = region.path.check, region.path.problem, region.path.problem.net
    minimum, saddle = (net.flatten(each.params) for each in (region.minimum, region.saddle))
    direction = region.saddle_verdict.descent_direction
    assert direction is not None  # a strict saddle has one
    shares = torch.linspace(0, 1, settings["grid"], dtype=torch.float64)
    between = torch.lerp(minimum, saddle, shares[:, None])
    down = net.flatten(direction)
    steps = torch.linspace(-1, 1, settings["grid"], dtype=torch.float64)
    fall = _losses(problem, saddle + steps[:, None] * (down / down.norm()))
    return {
        "kinds": [region.minimum_verdict.kind.name, region.saddle_verdict.kind.name],
        "edge": region.edge / region.path.breaks[1],
        "change": float((_losses(problem, between) - region.source.loss).abs().max()),
        "lowest": [_lowest(problem, vector) for vector in between],
        "fall": fall.tolist(),
        "random": _around(problem, minimum, settings, seed),
        "increase": check.largest_increase,
        "end": check.end,
    }


def _around(problem: sf.Problem, minimum: Tensor, settings: Settings, seed: int) -> dict[str, Any]:
    """Losses along random directions of length 1, and the lowest over all of them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (settings["directions"], 1, len(minimum))
    directions = torch.randn(shape, generator=generator, dtype=torch.float64)
    steps = torch.linspace(-1, 1, settings["grid"], dtype=torch.float64)
    moved = minimum + steps[:, None] * directions / directions.norm(dim=2, keepdim=True)
    losses = _losses(problem, moved.reshape(-1, len(minimum))).reshape(shape[0], -1)
    return {"some": losses[: settings["shown"]].tolist(), "lowest": losses.amin(0).tolist()}


def _losses(problem: sf.Problem, vectors: Tensor) -> Tensor:
    return problem.risk(problem.net.unflatten(vectors))


def _lowest(problem: sf.Problem, vector: Tensor) -> float:
    """The lowest eigenvalue of the wide Hessian, by automatic differentiation."""
    point = sf.Point(problem, problem.net.unflatten(vector))
    return float(torch.linalg.eigvalsh(dense_hessian(point))[0])


def _to_zero(narrow: sf.Point, unit: int, width: int) -> dict[str, Any]:
    """The path of Thm 3 from the replicated minimum of a 2-2-M-1 network."""
    copies = width - STUDENT[2] + 1
    minimum = sf.Replicate(LAST, unit, [Fraction(1, copies)] * copies)(narrow)
    record: dict[str, Any] = {"width": width, "kind": sf.judge(minimum).kind.name}
    try:
        path = sf.path_to_zero_loss(minimum)
    except sf.InputError as error:
        return {**record, "refused": str(error)}
    check = path.check
    return {
        **record,
        "pieces": [piece.name for piece in path.pieces],
        "condition": path.condition,
        "perturbation": path.perturbation,
        "increase": check.largest_increase,
        "end": check.end / check.start,
    }


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """What the regions are like, the way to zero loss, and how rare a definite B is with biases."""
    kept = [each for each in qualified(records) if each["arm"] == "no biases"]
    of = {arm: added([each["units"] for each in records if each["arm"] == arm], 2) for arm in ARMS}
    first = of["no biases"][0]
    inside = [_before(each, settings["grid"]) for each in kept]
    beyond = [each["lowest"][-1] for each in kept]
    rises = [min(each["random"]["lowest"]) / each["loss"] - 1 for each in kept]
    increase = max((each["increase"] for each in kept), default=1.0)
    change = max((each["change"] / each["loss"] for each in kept), default=1.0)
    ends = sorted(each["end"] / each["loss"] for each in kept)
    kinds = Counter(tuple(each["kinds"]) for each in kept)
    agreed = kinds[("MINIMUM", "STRICT_SADDLE")]
    paths = [path for each in kept for path in each["wide"]]
    arrived = [path for path in paths if "end" in path]
    worst = [max((path[key] for path in arrived), default=1.0) for key in ("increase", "end")]
    rows = [
        Row(
            "data sets with a region over a unit of the last hidden layer",
            "one shown",
            f"{len(kept)} of {settings['data_sets']}",
            "networks without biases: P21 §V counts their B as 2 × 2",
        ),
        *(_row_of_units(arm, layer, of[arm]) for arm in ARMS for layer in range(2)),
        Row(
            "loss in the region, median (variance of the targets 1)",
            "suboptimal",
            f"{_median([2 * each['loss'] for each in kept]):.2g}",
            "0 is reached by a 2-2-4-1 network",
        ),
        Row(
            "change of the loss on the way to the saddle, of it", "none", f"{change:.0e}", "largest"
        ),
        Row(
            "lowest eigenvalue in the region and at the saddle",
            "≥ 0 and < 0",
            f"≥ {min(inside, default=0.0):.0e} and ≤ {max(beyond, default=0.0):.0e}",
            "of the dense Hessian; 0 is the flat set's",
        ),
        Row(
            "loss at the end of the way out, of that in the region",
            "lower",
            f"{_median(ends):.2g} ({', '.join(f'{end:.2g}' for end in (ends[:1] + ends[-1:]))})",
            f"median, lowest and highest; it rises by {increase:.0e} at most",
        ),
        *(_row_of_width(width, paths) for width in settings["wide"]),
    ]
    checks = [
        Check(
            "every region begins at a minimum and ends, at the same loss, at a strict saddle",
            bool(kept) and agreed == len(kept) and change < ROUNDING,
            f"{agreed} of {len(kept)}; loss to {change:.0e}",
        ),
        Check(
            "the dense Hessian has no negative eigenvalue in the region, and one beyond its edge",
            bool(kept) and min(inside) > -ROUNDING and max(beyond) < -ROUNDING,
            f"at least {min(inside, default=0.0):.0e} and at most {max(beyond, default=0.0):.0e}",
        ),
        Check(
            "no random direction leads below the minimum within a length of 1",
            bool(kept) and min(rises) > -ROUNDING,
            f"least rise {min(rises, default=0.0):.0e} of the loss, {settings['directions']} directions each",
        ),
        Check(
            "the way out never rises and ends lower",
            bool(kept) and increase < ROUNDING and ends[-1] < 1,
            f"rise {increase:.0e}, end {ends[-1] if ends else 1:.3g} of the loss at most",
        ),
        Check(
            "wide networks of 50 units or more have a path to zero loss from half of these minima or more",
            2 * len(arrived) >= len(paths) > 0 and worst[0] < 1e-9 and worst[1] < ROUNDING,
            f"{len(arrived)} of {len(paths)} paths; rise {worst[0]:.0e}, end {worst[1]:.0e} of the loss",
        ),
        Check(
            "in the first hidden layer no definite B makes a minimum: D ≠ 0 there",
            definite(first) > 0 and first["saddle"] == all_of(first),
            f"{definite(first)} definite of {all_of(first)}; {first['saddle']} strict saddles for every λ",
        ),
        Check(
            "with biases fewer units have a definite B",
            _share(of["biases"]) < _share(of["no biases"]),
            f"{_share(of['biases']):.1%} against {_share(of['no biases']):.1%}",
        ),
    ]
    return Outcome([*rows, counted(records)], checks, CAPTION, _data(of, kept))


CAPTION = (
    "A region of local minima of a 2-2-13-1 network, as P21 Fig. 3. (a) From the minimum the loss rises "
    "along random directions (above); the lowest over all of them never falls below the minimum's (below). "
    "(b) On the way to the saddle the loss stays, and the Hessian's lowest eigenvalue turns negative where "
    "a share of the replicated unit passes 0 (dotted). (c) At the saddle the loss falls both ways along the "
    "descent direction."
)


def _share(layers: Sequence[Counter[str]]) -> float:
    return sum(map(definite, layers)) / max(sum(map(all_of, layers)), 1)


def _before(record: Record, grid: int) -> float:
    """The lowest eigenvalue up to the edge, where a share is still positive."""
    return float(min(record["lowest"][: int(record["edge"] * (grid - 1))]))


def _median(values: Sequence[float]) -> float:
    return float(torch.tensor(values, dtype=torch.float64).median()) if len(values) else 0.0


def _row_of_units(arm: str, layer: int, layers: Sequence[Counter[str]]) -> Row:
    counts = layers[layer]
    total, kept = all_of(counts), counts["inside"] + counts["outside"]
    return Row(
        f"definite B, {arm}, hidden layer {layer + 1}",
        "—",
        f"{counts['positive']} positive, {counts['negative']} negative of {total}",
        f"replications that are minima: {kept}; strict saddles for every λ: {counts['saddle']}; "
        f"undecided: {counts['undecided']}",
    )


def _row_of_width(width: int, paths: Sequence[dict[str, Any]]) -> Row:
    mine = [path for path in paths if path["width"] == width]
    done = [path for path in mine if "end" in path]
    worst = [
        max((path[key] for path in done), default=0.0) for key in ("increase", "end", "condition")
    ]
    return Row(
        f"paths to zero loss from the minimum, M = {width}",
        "exist",
        f"{len(done)} of {len(mine)}",
        f"rise {worst[0]:.0e}, end {worst[1]:.0e} of the loss, condition numbers up to {worst[2]:.0e}; the "
        f"others are refused: float64 does not carry the path there",
    )


def _data(of: dict[str, list[Counter[str]]], kept: Sequence[Record]) -> dict[str, Any]:
    keys = ("seed", "minima", "loss", "B", "kinds", "edge", "change", "increase", "end", "wide")
    shown = _shown(kept)
    return {
        "units": {arm: [dict(sorted(counts.items())) for counts in of[arm]] for arm in ARMS},
        "regions": [{key: each[key] for key in keys} for each in kept],
        "shown": {key: shown[key] for key in ("seed", "lowest", "fall")} if shown else {},
    }


def _shown(kept: Sequence[Record]) -> Record | None:
    return max(kept, key=lambda each: each["B"][0], default=None)


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """P21's three pictures of one of the regions."""
    record = _shown([each for each in qualified(records) if each["arm"] == "no biases"])
    if record is None:
        return say_so(figure.add_subplot(), "no region was found")
    return draw_region(figure, record)


EXPERIMENT = Experiment(
    "p21-region",
    "P21 §V-B to V-D, Fig. 3",
    "a non-attracting region of local minima, and the way to zero loss in wide networks",
    "Fifty samples of a 2-2-4-1 sigmoid network are fitted by a 2-2-2-1 network. At a minimum with a unit of "
    "the last hidden layer whose B is positive definite, eleven copies of that unit are added (2-2-13-1): a "
    "region of local minima, with a path of constant loss to a saddle, from where the loss falls. With M ≥ 50 "
    "units the network is wide, and a path of non-increasing loss leads to zero. P21 leaves open how the "
    "data are drawn: here inputs are N(0, 1), the wide network's weights N(0, 9), and targets standardised. "
    "P21 §V counts B without a bias row: networks without biases are taken, and with biases beside them.",
    {
        "seed": 0,
        "data_sets": 20,
        "starts": 16,
        "wide": [50, 60],
        "directions": 200,
        "shown": 12,
        "grid": 41,
    },
    {"seed": 5, "data_sets": 2, "starts": 8, "wide": [60], "grid": 21},
    tasks,
    run,
    outcome,
    draw,
)
