"""P21 Thms 5 to 7 at critical points that are proved: the minima of narrow networks and their replications."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch

import semiflat as sf
from semiflat_experiments.experiment import Check, Experiment, Outcome, Record, Row, Settings, Task
from semiflat_experiments.figure import SHADES, say_so
from semiflat_experiments.p21.replicated import (
    MINIMA,
    Unit,
    added,
    all_of,
    counted_signs,
    definite,
    proved,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NETWORKS = ("1-1-1", "1-2-1", "2-3-1", "2-4-1", "2-2-2-1")
ARMS = {"no biases": False, "biases": True}
SAMPLES, NOISE = 30, 0.1
MANY = 100
"""Copies of one unit, for Thm 7's arbitrarily many."""
ENDS = ("at a proved minimum", "converged, not proved", "at infinity", "not ended")
INFINITE = (sf.Status.CHANNEL, sf.Status.SATURATED, sf.Status.DIVERGED)
OUTCOMES = {
    "inside": "minimum for λ in (0, 1)",
    "outside": "minimum for λ outside [0, 1]",
    "saddle": "strict saddle for every λ",
    "undecided": "not proved",
}
FORETOLD = {"positive": "inside", "negative": "outside", "indefinite": "saddle"}
"""By Thm 6, where D = 0."""


def tasks(settings: Settings) -> list[Task]:
    """So many data sets for each network, without biases and with."""
    seeds = range(settings["seed"], settings["seed"] + settings["data_sets"])
    kinds = [(network, arm) for network in NETWORKS for arm in ARMS]
    return [{"seed": seed, "network": name, "arm": arm} for name, arm in kinds for seed in seeds]


def problem_of(network: str, bias: bool, seed: int) -> sf.Problem:
    """Thirty samples of a sigmoid network with one more unit in each hidden layer, and some noise."""
    widths = [int(width) for width in network.split("-")]
    teacher = sf.MLP([widths[0], *(width + 1 for width in widths[1:-1]), 1], "sigmoid", bias)
    random = torch.Generator().manual_seed(seed)
    X, weights, noise = (
        torch.randn(shape, generator=random, dtype=torch.float64)
        for shape in ((SAMPLES, widths[0]), (teacher.parameter_count,), (SAMPLES, 1))
    )
    y = teacher.forward(teacher.unflatten(3 * weights), X)
    y = (y - y.mean()) / y.std() + NOISE * noise
    return sf.Problem(sf.MLP(widths, "sigmoid", bias), X, y)


def run(settings: Settings, task: Task) -> Record:
    """Search, prove what was found, and prove what the replications of the minima's units are."""
    problem = problem_of(task["network"], ARMS[task["arm"]], task["seed"])
    limit = settings["iterations"]
    found = sf.run_search(
        problem, settings["starts"], seed=task["seed"], max_iterations=limit, processes=1
    )
    kinds = [certificate.kind for certificate in sf.certify_all([*found.points])]
    minima = [point for point, kind in zip(found.points, kinds, strict=True) if kind in MINIMA]
    units = [unit for point in minima for unit in proved(point)]
    regions = [unit for unit in units if unit.outcome == "inside"]
    shares = [Fraction(1, MANY)] * MANY
    many = sf.certify_all([sf.Replicate(u.layer, u.unit, shares)(u.point) for u in regions])
    ends = Counter(_end(each.status) for each in found.runs)
    for kind, often in zip(kinds, found.frequencies, strict=True):
        ends[ENDS[kind not in MINIMA]] += often
    return {
        **task,
        "ends": {end: ends[end] for end in ENDS},
        "points": len(kinds),
        "minima": len(minima),
        "levels": [2 * point.loss for point in minima],
        "units": counted_signs(units),
        "D": _largest_by_layer(units, len(problem.net.hidden)),
        "many": [sum(each.kind in MINIMA for each in many), len(many)],
    }


def _end(status: sf.Status) -> str:
    """Of those that did not converge; the others are counted by what is proved of their points."""
    if status is sf.Status.CONVERGED:
        return "converged"
    return ENDS[2] if status in INFINITE else ENDS[3]


def _largest_by_layer(units: Sequence[Unit], layers: int) -> list[list[float]]:
    """The lowest and the highest of the units' max |D|, for each hidden layer."""
    of = [[unit.D for unit in units if unit.layer == layer] for layer in range(layers)]
    return [[min(each), max(each)] if each else [] for each in of]


def _widest(ranges: Sequence[list[float]]) -> list[float]:
    """From the lowest to the highest of all of them."""
    ends = [end for each in ranges for end in each]
    return [min(ends), max(ends)] if ends else []


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """How searches end, the signs of B at proved minima, and Thm 6 on each of their units."""
    groups = {(name, arm): _Group(records, name, arm) for name in NETWORKS for arm in ARMS}
    last = [group.units[-1] for group in groups.values()]
    earlier = [counts for group in groups.values() for counts in group.units[:-1]]
    kept = sum(counts[f"{sign} {end}"] for counts in last for sign, end in FORETOLD.items())
    units = sum(map(all_of, last))
    open_ = sum(counts["undecided"] for counts in last)
    early = sum(map(all_of, earlier))
    saddles = sum(counts["saddle"] for counts in earlier)
    share = {arm: _share([g for key, g in groups.items() if key[1] == arm]) for arm in ARMS}
    points, minima, starts = (
        sum(getattr(group, key) for group in groups.values())
        for key in ("points", "minima", "starts")
    )
    known = (
        [group.D[-1] for group in groups.values()],
        [D for group in groups.values() for D in group.D[:-1]],
    )
    largest = _largest(known[0])
    smallest = min((D[0] for D in known[1] if D), default=0.0)
    many = [sum(record["many"][k] for record in records) for k in (0, 1)]
    rows = [
        *(_row_of_ends(key, group) for key, group in groups.items()),
        *(
            _row_of_layer(key, layer, group.units[layer])
            for key, group in groups.items()
            for layer in range(len(group.units))
        ),
        Row(
            f"minima with {MANY} copies, equal shares",
            "Thm 7: minima",
            f"{many[0]} of {many[1]}",
            "proved; one of each unit that is a minimum for λ in (0, 1)",
        ),
        Row(
            "largest max |D| of units in last hidden layers",
            "0 (Prop. 1)",
            f"{largest:.0e}",
            "a sum over the samples, measured; certificates take it for 0 by Prop. 1",
        ),
        Row(
            "smallest and largest max |D| of units before them",
            "unlikely 0",
            f"{smallest:.0e} and {_largest(known[1]):.0e}",
            "D is 0 there too where the units that are fed are mirror images, σ(z) and σ(−z)",
        ),
        Row("searches accounted for", "—", f"{starts} of {len(records) * settings['starts']}"),
    ]
    checks = [
        Check(
            "every search is accounted for, and nine of ten points that converged are proved to be minima",
            starts == len(records) * settings["starts"] and 10 * minima >= 9 * points > 0,
            f"{starts} searches; {minima} of {points} points",
        ),
        Check(
            "last hidden layer (D = 0): positive definite, minimum for λ in (0, 1); negative definite, "
            "outside [0, 1]; indefinite, for no λ (Thm 6)",
            kept + open_ == units > 0 and 10 * open_ <= units,
            f"{kept} of {units} units proved so, {open_} not decided",
        ),
        Check(
            "hidden layers before it: no replication is a minimum, whatever B is",
            saddles + sum(counts["undecided"] for counts in earlier) == early > 0
            and 10 * saddles >= 9 * early,
            f"{saddles} of {early} are saddles for every λ, the others undecided; B definite at "
            f"{sum(map(definite, earlier))} of them",
        ),
        Check(
            "a bias makes definite blocks rarer",
            share["biases"] < share["no biases"],
            f"{share['biases']:.1%} of the units with biases, {share['no biases']:.1%} without",
        ),
        Check(
            "a unit with a region keeps it with many copies (Thm 7)",
            0 < many[1] == many[0],
            f"{many[0]} of {many[1]}",
        ),
    ]
    data = {"networks": [{"network": n, "arm": a, **g.data()} for (n, a), g in groups.items()]}
    return Outcome(rows, checks, CAPTION, data)


CAPTION = (
    "Left: how searches end in narrow sigmoid networks; a minimum counts once a certificate proves it. "
    "Right: what two copies of a unit of these minima are, proved as well, for every unit; layers from the "
    "input. Minima come from the last hidden layer of networks without biases alone."
)


class _Group:
    """What the records of one network, with or without biases, add up to."""

    def __init__(self, records: Sequence[Record], network: str, arm: str) -> None:
        mine = [each for each in records if (each["network"], each["arm"]) == (network, arm)]
        self.ends = {end: sum(each["ends"][end] for each in mine) for end in ENDS}
        self.starts = sum(self.ends.values())
        self.points = sum(each["points"] for each in mine)
        self.minima = sum(each["minima"] for each in mine)
        self.several = sum(len(each["levels"]) > 1 for each in mine)
        self.data_sets = len(mine)
        self.units = added([each["units"] for each in mine], network.count("-") - 1)
        self.D = [_widest([each["D"][layer] for each in mine]) for layer in range(len(self.units))]

    def data(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "ends": self.ends,
            "points": self.points,
            "minima": self.minima,
            "data_sets_with_several": self.several,
            "units": [dict(sorted(counts.items())) for counts in self.units],
            "D": self.D,
        }


def _largest(ranges: Sequence[list[float]]) -> float:
    return max((each[1] for each in ranges if each), default=0.0)


def _share(groups: Sequence[_Group]) -> float:
    counts = [each for group in groups for each in group.units]
    return sum(map(definite, counts)) / max(sum(map(all_of, counts)), 1)


def _row_of_ends(key: tuple[str, str], group: _Group) -> Row:
    others = ", ".join(f"{group.ends[end]} {end}" for end in ENDS[1:])
    return Row(
        f"searches of {key[0]}, {key[1]}, that end at a proved minimum",
        "—",
        f"{group.ends[ENDS[0]]} of {group.starts}",
        f"{others}; {group.minima} minima, several in {group.several} of {group.data_sets} data sets",
    )


def _row_of_layer(key: tuple[str, str], layer: int, counts: Counter[str]) -> Row:
    ends = ", ".join(f"{counts[end]} {words}" for end, words in OUTCOMES.items() if counts[end])
    return Row(
        f"definite B, {key[0]}, {key[1]}, hidden layer {layer + 1}",
        "—",
        f"{counts['positive']} positive, {counts['negative']} negative of {all_of(counts)}",
        f"replications: {ends or 'none'}",
    )


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Ends of searches, and outcomes of replications."""
    figure.set_size_inches(7.2, 4.0)
    groups = {(name, arm): _Group(records, name, arm) for name in NETWORKS for arm in ARMS}
    left, right = figure.subplots(1, 2)
    names = [f"{name}, {arm}" for name, arm in groups]
    _bars(left, names, [[group.ends[end] for end in ENDS] for group in groups.values()], ENDS)
    left.set_xlabel("part of all searches")
    layers = [
        (f"{name}, {arm}" + f", layer {layer + 1}" * (len(group.units) > 1), counts)
        for (name, arm), group in groups.items()
        for layer, counts in enumerate(group.units)
        if all_of(counts)
    ]
    if not layers:
        return say_so(right, "no minimum was proved")
    parts = [[counts[end] for end in OUTCOMES] for _, counts in layers]
    _bars(right, [name for name, _ in layers], parts, list(OUTCOMES.values()))
    right.set_xlabel("part of the minima's units")
    return None


def _bars(
    axes: Axes, names: Sequence[str], parts: Sequence[Sequence[int]], labels: Sequence[str]
) -> None:
    """A bar for each name, from top to bottom, divided into parts told apart by shade and hatch."""
    totals = [max(sum(each), 1) for each in parts]
    begun = [0.0] * len(names)
    styles = zip((SHADES[0], "#FFFFFF", SHADES[3], SHADES[2]), ("", "///", "", ""), strict=True)
    for k, ((colour, hatch), label) in enumerate(zip(styles, labels, strict=True)):
        widths = [each[k] / total for each, total in zip(parts, totals, strict=True)]
        axes.barh(
            names, widths, left=begun, color=colour, hatch=hatch, edgecolor=SHADES[2], label=label,
            linewidth=0.5,
        )  # fmt: skip
        begun = [b + w for b, w in zip(begun, widths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.tick_params(axis="y", labelsize=7)
    axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=2)


EXPERIMENT = Experiment(
    "p21-narrow",
    "P21 Thms 4 to 7, §V-B",
    "Theorem 6 at minima that are proved",
    "Thirty samples of a sigmoid network with one more unit in each hidden layer, with a little noise, are "
    "fitted by narrow networks, where finite minima abound. Every minimum the search finds is proved by ball "
    "arithmetic; so is what the replications of its units are, for a λ in (0, 1) and one outside [0, 1]. The "
    "outcome is held against the sign of B and the layer.",
    {"seed": 0, "data_sets": 10, "starts": 16, "iterations": 400},
    {"data_sets": 1, "starts": 8, "iterations": 200},
    tasks,
    run,
    outcome,
    draw,
)
