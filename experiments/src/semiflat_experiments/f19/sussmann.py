"""Sussmann 1992 by F19 Table 1: surplus units that are planted in tanh networks are all found again."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments import Check, Outcome, Row
from semiflat_experiments.experiment import Experiment, Record, Settings, Task, counted
from semiflat_experiments.figure import SHADES, say_so

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Layers = list[tuple[Tensor, Tensor]]
"""Weights (out, in) and biases (out,) of every linear layer."""
TOLD = 1e-10
"""Of the largest parameter: networks nearer than that are one."""
MOST = 8
"""Surplus units planted in one network at most."""


def tasks(settings: Settings) -> list[Task]:
    """So many networks of each depth for every seed."""
    seeds = range(settings["seed"], settings["seed"] + settings["runs"])
    return [{"seed": seed, "depth": depth} for seed, depth in product(seeds, settings["depths"])]


def run(settings: Settings, task: Task) -> Record:
    """Plant surplus units in networks, reduce these, and count what comes back."""
    cases = [
        _case(random.Random(f"{task['seed']} {task['depth']} {k}"), task["depth"])
        for k in range(settings["networks"])
    ]
    return {**task, "cases": cases}


def _case(chance: random.Random, depth: int) -> Record:
    widths = [chance.randint(1, 3) for _ in range(depth + 2)]
    generator = torch.Generator().manual_seed(chance.randrange(2**32))

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:  # no weight so small that it hardly matters
        size = 0.3 + torch.rand(shape, generator=generator, dtype=torch.float64)
        return size * normal(*shape).sign()

    planted = [(uniform(out, fed), uniform(out)) for fed, out in pairwise(widths)]
    wide, kinds = planted, list[str]()
    for _ in range(chance.randint(0, MOST)):
        kinds.append(chance.choice(list(PLANTS)))
        wide = PLANTS[kinds[-1]](wide, chance.randrange(depth), chance, normal)
        wide = _shuffled(wide, chance)
    X = 2 * normal(50, widths[0])
    given, narrow = (_point(each, X) for each in (wide, planted))
    small = sf.reduce(given)
    largest = max(float(tensor.abs().max()) for tensor in given.params.values())
    return {
        "planted": kinds,
        "left": sum(small.widths) - sum(widths[1:-1]),
        "same": small.widths == tuple(widths[1:-1])
        and _apart(small.point, narrow) < TOLD * largest,
        "function": _change(given, small.point) / largest,
        "back": _difference(small.embedding(small.point), given) / largest,
    }


# -- planting: F19 Table 1, and Sussmann's three conditions -------------------------------------------


def _copy(wide: Layers, layer: int, chance: random.Random, normal: Callable[..., Tensor]) -> Layers:
    """(I): a unit with the incoming weights of another, and any part of its outgoing ones."""
    (rows, biases), (above, constant) = wide[layer : layer + 2]
    unit = chance.randrange(len(rows))
    part = normal(len(above))
    rest = above.clone()
    rest[:, unit] -= part
    return _with(wide, layer, (rows[unit], biases[unit]), part, (rest, constant))


def _opposite(
    wide: Layers, layer: int, chance: random.Random, normal: Callable[..., Tensor]
) -> Layers:
    """The same, turned round: tanh is odd."""
    (rows, biases), (above, constant) = wide[layer : layer + 2]
    unit = chance.randrange(len(rows))
    part = normal(len(above))
    rest = above.clone()
    rest[:, unit] += part
    return _with(wide, layer, (-rows[unit], -biases[unit]), part, (rest, constant))


def _inactive(
    wide: Layers, layer: int, chance: random.Random, normal: Callable[..., Tensor]
) -> Layers:
    """(II): a unit that is 0 for every input, with any outgoing weights."""
    (rows, _), above = wide[layer : layer + 2]
    nothing = rows.new_zeros(rows.shape[1])
    return _with(wide, layer, (nothing, rows.new_zeros(())), normal(len(above[0])), above)


def _constant(
    wide: Layers, layer: int, chance: random.Random, normal: Callable[..., Tensor]
) -> Layers:
    """(II) with any constant, taken off the biases above."""
    (rows, _), (above, constant) = wide[layer : layer + 2]
    bias, heard = normal(1)[0], normal(len(above))
    less = constant - heard * torch.tanh(bias)
    return _with(wide, layer, (rows.new_zeros(rows.shape[1]), bias), heard, (above, less))


def _unheard(
    wide: Layers, layer: int, chance: random.Random, normal: Callable[..., Tensor]
) -> Layers:
    """(III): a unit with any incoming weights, and outgoing weights 0."""
    (rows, _), above = wide[layer : layer + 2]
    row = normal(rows.shape[1] + 1)
    return _with(wide, layer, (row[:-1], row[-1]), above[0].new_zeros(len(above[0])), above)


PLANTS = {
    "copy": _copy,
    "opposite copy": _opposite,
    "inactive": _inactive,
    "constant": _constant,
    "inactive propagation": _unheard,
}


def _with(
    wide: Layers,
    layer: int,
    unit: tuple[Tensor, Tensor],
    heard: Tensor,
    above: tuple[Tensor, Tensor],
) -> Layers:
    """One more unit of a hidden layer, and the layer above as it is without what it hears of it."""
    rows, biases = wide[layer]
    found = list(wide)
    found[layer] = torch.cat([rows, unit[0][None]]), torch.cat([biases, unit[1][None]])
    found[layer + 1] = torch.cat([above[0], heard[:, None]], 1), above[1]
    return found


def _shuffled(wide: Layers, chance: random.Random) -> Layers:
    """The same network with the units of every hidden layer in another order, some turned round."""
    found = list(wide)
    for layer in range(len(wide) - 1):
        (rows, biases), (above, constant) = found[layer : layer + 2]
        order = chance.sample(range(len(rows)), len(rows))
        sign = torch.tensor([chance.choice((1.0, -1.0)) for _ in order], dtype=torch.float64)
        found[layer] = rows[order] * sign[:, None], biases[order] * sign
        found[layer + 1] = above[:, order] * sign, constant
    return found


# -- comparing ----------------------------------------------------------------------------------------


def _point(layers: Layers, X: Tensor) -> sf.Point:
    widths = [layers[0][0].shape[1], *(len(biases) for _, biases in layers)]
    params: dict[str, Tensor] = {}
    for k, (rows, biases) in enumerate(layers):
        params |= {f"{2 * k}.weight": rows.contiguous(), f"{2 * k}.bias": biases}
    problem = sf.Problem(sf.MLP(widths, "tanh"), X, torch.zeros(len(X), widths[-1]))
    return sf.Point(problem, params)


def _change(one: sf.Point, other: sf.Point) -> float:
    X = one.problem.X
    first, second = (each.problem.net.forward(each.params, X) for each in (one, other))
    return float((first - second).abs().max())


def _difference(one: sf.Point, other: sf.Point) -> float:
    return max(float((one.params[key] - other.params[key]).abs().max()) for key in other.params)


def _apart(one: sf.Point, other: sf.Point) -> float:
    """How far apart two networks are, their units in order and turned so that they fit; layer by layer."""
    params, wanted = dict(one.params), other.params
    worst = 0.0
    for layer in range(len(one.problem.net.hidden)):
        rows, above = f"{2 * layer}.weight", f"{2 * layer + 2}.weight"
        bias = f"{2 * layer}.bias"
        mine = torch.cat([params[rows], params[bias][:, None]], 1)
        theirs = torch.cat([wanted[rows], wanted[bias][:, None]], 1)
        plus, minus = ((s * mine - theirs[:, None]).abs().amax(2) for s in (1, -1))
        near, order = torch.minimum(plus, minus).min(1)
        if len(set(order.tolist())) < len(order):
            return float("inf")
        worst = max(worst, float(near.max()))
        places = torch.arange(len(order))
        sign = torch.where(plus[places, order] <= minus[places, order], 1.0, -1.0).double()
        params[above] = params[above][:, order] * sign
    last = f"{2 * len(one.problem.net.hidden)}"
    ends = (f"{last}.weight", f"{last}.bias")
    return max(worst, *(float((params[key] - wanted[key]).abs().max()) for key in ends))


# -- what they say --------------------------------------------------------------------------------------


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """How many of the planted units are found, and that nothing else is."""
    of = {
        depth: [case for each in records if each["depth"] == depth for case in each["cases"]]
        for depth in settings["depths"]
    }
    cases = [case for mine in of.values() for case in mine]
    surplus = [case for case in cases if case["planted"]]
    bare = [case for case in cases if not case["planted"]]
    exact = max((max(case["function"], case["back"]) for case in cases), default=1.0)
    rows = [
        *(_row_of_depth(depth, mine) for depth, mine in of.items()),
        *(_row_of_kind(kind, cases) for kind in PLANTS),
        Row(
            "networks without surplus units that are left as they are",
            "all",
            f"{sum(case['same'] for case in bare)} of {len(bare)}",
        ),
        Row(
            "change of the outputs, and of the parameters on the way back",
            "0",
            f"{exact:.0e}",
            "the largest, of the largest parameter",
        ),
    ]
    checks = [
        Check(
            "every network comes back as it was before units were planted, up to order and signs",
            len(surplus) > 0 and all(case["same"] for case in surplus),
            f"{sum(case['same'] for case in surplus)} of {len(surplus)}",
        ),
        Check(
            "no unit is spared that was not planted",
            bool(cases)
            and min(case["left"] for case in cases) >= 0
            and all(c["same"] for c in bare),
            f"{sum(case['left'] < 0 for case in cases)} of {len(cases)} networks have fewer",
        ),
        Check(
            "the function is kept, and the way back gives the wide network",
            bool(cases) and exact < TOLD,
            f"{exact:.0e} of the largest parameter at most",
        ),
    ]
    return Outcome([*rows, counted(records)], checks, CAPTION, _data(of))


CAPTION = (
    "Hidden units of tanh networks before and after reduction, less those of the network in which surplus "
    "units were planted; bars count networks. Every planted unit is found, and no other."
)


def _row_of_depth(depth: int, mine: Sequence[dict[str, Any]]) -> Row:
    surplus = [case for case in mine if case["planted"]]
    units = sum(len(case["planted"]) for case in surplus)
    left = sum(case["left"] for case in surplus)
    words = "one hidden layer" if depth == 1 else f"{depth} hidden layers"
    return Row(
        f"planted units found again, {words}",
        "all (Sussmann 1992)" if depth == 1 else "—",
        f"{units - left} of {units}",
        f"{sum(case['same'] for case in surplus)} of {len(surplus)} networks, up to {MOST} units in each",
    )


def _row_of_kind(kind: str, cases: Sequence[dict[str, Any]]) -> Row:
    mine = [case for case in cases if kind in case["planted"]]
    return Row(
        f"networks with a planted unit that is {NAMES[kind]}",
        "—",
        f"{sum(case['same'] for case in mine)} of {len(mine)}",
        f"{sum(case['planted'].count(kind) for case in mine)} units",
    )


NAMES = {
    "copy": "a copy (I)",
    "opposite copy": "a copy turned round (I)",
    "inactive": "inactive (II)",
    "constant": "constant (II)",
    "inactive propagation": "not listened to (III)",
}


def _data(of: dict[int, list[dict[str, Any]]]) -> dict[str, Any]:
    return {
        "surplus": {
            str(depth): {
                when: {str(units): count for units, count in sorted(counts.items())}
                for when, counts in _counts(mine).items()
            }
            for depth, mine in of.items()
        }
    }


def _counts(mine: Sequence[dict[str, Any]]) -> dict[str, Counter[int]]:
    """How many networks have how many surplus units, before and after."""
    return {
        "before": Counter(len(case["planted"]) for case in mine),
        "after": Counter(int(case["left"]) for case in mine),
    }


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Surplus units before and after, one panel a depth."""
    panels = figure.subplots(1, len(settings["depths"]), squeeze=False)[0]
    for axes, depth in zip(panels, settings["depths"], strict=True):
        mine = [case for each in records if each["depth"] == depth for case in each["cases"]]
        if not mine:
            say_so(axes, "no network")
            continue
        for k, (when, counts) in enumerate(_counts(mine).items()):
            places = [units + 0.4 * k - 0.2 for units in counts]
            axes.bar(places, list(counts.values()), width=0.4, color=SHADES[k], label=when)
        axes.set_xlabel("surplus hidden units")
        axes.set_title("one hidden layer" if depth == 1 else f"{depth} hidden layers", fontsize=9)
        axes.legend(frameon=False, fontsize=8)
    panels[0].set_ylabel("networks")


EXPERIMENT = Experiment(
    "f19-sussmann",
    "F19 Table 1; Sussmann 1992",
    "planted surplus units are found again",
    "F19 §2 says, after Sussmann, that three methods cover all embeddings of networks with one hidden layer of "
    "tanh: unit replication (up to sign), inactive units and inactive propagation. So a network that none of "
    "them made is the smallest, and undoing them finds it. Random tanh networks with one and two hidden layers "
    "of one to three units get up to eight surplus units of these kinds, one after another in any layer, with "
    "units put in another order and turned round in between, all written out from the paper; then they are "
    "reduced.",
    {"seed": 0, "runs": 4, "depths": [1, 2], "networks": 100},
    {"runs": 1, "networks": 40},
    tasks,
    run,
    outcome,
    draw,
)
