"""Z22 Figs 4.3 and 4.4 for many targets: how often a run stays near what a narrower network does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

import semiflat as sf
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
from semiflat_experiments.figure import MARKERS, SHADES, logarithmic, say_so
from semiflat_experiments.z22.training import Training, Units, curve, descend, drawn_units

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NARROW = (1, 2, 3)
RANDOM, LARGE = "three units at random", "one large unit"
"""How targets are drawn."""
PLACES = ("the constant", "width 1", "width 2", "width 3", "at infinity", "none clearly")
"""What a plateau may be near: critical functions by the narrowest width that has them."""
SHADES_OF_PLACES = ("#222222", "#0072B2", "#56B4E9", "#009E73", "#D55E00", "#BBBBBB")
PASSED = 0.05
"""Distance from which on a run does not come by a function, in parts of the data's spread."""
FITTED = 1e-10
"""Loss of a fit, over that of the constant."""


def tasks(settings: Settings) -> list[Task]:
    """Targets of both sorts."""
    counts = {RANDOM: settings["runs"], LARGE: settings["large"]}
    return [
        {"seed": settings["seed"] + k, "targets": sort}
        for sort, count in counts.items()
        for k in range(count)
    ]


def large_unit(seed: int) -> Units:
    """A unit over the whole range and two smaller ones at its ends, as in the target of z22-stages.

    >>> [len(unit) for unit in large_unit(0)]
    [3, 3, 3]
    """
    rng = np.random.default_rng(seed)
    steepness, place = rng.uniform(1, 2), rng.uniform(-0.5, 0.5)
    ends = [(rng.uniform(0.3, 0.7), 3.0, side * rng.uniform(1.5, 2.5)) for side in (1, -1)]
    return [(1.0, float(steepness), float(place)), *ends]


def run(settings: Settings, task: Task) -> Record:
    """The narrow critical functions of one target, and a run from each size of the start."""
    units = (drawn_units if task["targets"] == RANDOM else large_unit)(task["seed"])
    narrow = curve(units, sf.MLP([1, 1, 1], "tanh"))
    h = sf.hierarchy(narrow, NARROW, starts=settings["starts"], seed=0, processes=1)
    wide = curve(units, sf.MLP([1, settings["width"], 1], "tanh"))
    runs = []
    for power in settings["powers"]:
        training = descend(
            wide, task["seed"], settings["rate"], settings["steps"], settings["written"], power
        )
        runs.append({"power": power, **_described(h, training, float(narrow.y.var(correction=0)))})
    places = [_place(h, function) for function in h.critical_functions()]
    best = min(h.points, key=lambda point: point.record.loss)
    return {
        **task,
        "functions": dict(Counter(places)),
        "fit": 2 * best.record.loss / float(narrow.y.var(correction=0)),
        "runs": runs,
    }


def _place(h: sf.Hierarchy, function: Any) -> str:
    """Which of ``PLACES`` a critical function is at."""
    record = h[function.points[0]].record
    if record.trivial is not None and record.trivial.startswith("constant"):
        return PLACES[0]
    return PLACES[4] if record.at_infinity else PLACES[function.hidden[0]]


def _described(h: sf.Hierarchy, training: Training, variance: float) -> Record:
    """The plateaus of a run, found from its losses, and how close it comes to the best of each width."""
    found = sf.stages(h, training.points, steps=training.steps)
    functions = {function.number: function for function in h.critical_functions()}
    apart = np.stack([h.distances(outputs[:, None]).numpy() for outputs in training.outputs])
    closest = {}
    for number, name in enumerate(PLACES[1:4], start=1):
        mine = [k for k, each in enumerate(functions.values()) if _place(h, each) == name]
        if mine:
            best = min(mine, key=lambda k: list(functions.values())[k].loss)
            closest[str(number)] = float(apart[:, best].min())
    return {
        "end": 2 * training.risks[-1] / variance,
        "closest": closest,
        "plateaus": [
            {
                "steps": [each.first, each.last],
                "loss": 2 * each.loss / variance,
                "place": _place(h, functions[each.function]) if each.near else PLACES[5],
                "nearest": _place(h, functions[each.function]),
                "distances": [each.distance, each.second_distance],
                "reason": each.reason,
                "ways": [
                    {
                        "how": point.how,
                        "kind": point.kind.label,
                        "cosine": point.cosine,
                        "chance": point.chance,
                        "telling": point.telling,
                    }
                    for point in each.points
                ],
            }
            for each in found.plateaus
        ],
    }


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Counts of runs and plateaus, by how targets are drawn and by the size of the start."""
    kept = qualified(records)
    runs = {sort: _runs_of(kept, sort) for sort in (RANDOM, LARGE)}
    near = [each for each in _plateaus([*runs[RANDOM], *runs[LARGE]]) if _is_near(each)]
    judged = [each for each in near if each["ways"]]
    compared = [each for each in judged if _best(each) is not None]
    saddles = [
        each for each in judged if any(way["kind"] == "strict saddle" for way in each["ways"])
    ]
    told = [each for each in compared if any(way["telling"] for way in each["ways"])]
    fits = [record["fit"] for record in kept]
    fitted = sum(fit < FITTED for fit in fits)
    rare, common = ([_near(run) for run in runs[sort]] for sort in (RANDOM, LARGE))
    rows = [
        *(_row_of_functions(place, kept) for place in PLACES[:5]),
        *(
            row
            for sort in (RANDOM, LARGE)
            for power in settings["powers"]
            for row in _rows_of(sort, power, runs[sort])
        ),
        Row(
            "plateaus near a function that is a strict saddle in the wide network",
            "the saddle",
            f"{len(saddles)} of {len(judged)}",
            f"by the inertia law, for one widening or more; {len(near) - len(judged)} not judged",
        ),
        Row(
            "plateaus left along the law's descent",
            "—",
            f"{len(told)} of {len(compared)}",
            "half of the change of outputs or more lies along it, and by chance in 5 % of cases at "
            f"most; of {len(judged) - len(compared)} nothing could be compared",
        ),
        Row(
            "cosine of the change with the law's descent",
            "—",
            _quartiles([_best(each) for each in compared]),
            "median and quartiles of the best widening of each",
        ),
        counted(records),
    ]
    checks = [
        Check(
            "three units fit the data of nine targets of ten or more",
            10 * fitted >= 9 * len(kept) > 0,
            f"{fitted} of {len(kept)}; worst {max(fits, default=1.0):.1e} of the constant's loss",
        ),
        Check(
            "every narrower function that a plateau is near is a strict saddle in the wide network",
            len(saddles) == len(judged) > 0,
            f"{len(saddles)} of {len(judged)}",
        ),
        Check(
            "plateaus near narrower functions are rarer for random targets than with one large unit",
            sum(rare) * len(common) < sum(common) * len(rare),
            f"{sum(rare)} of {len(rare)} runs against {sum(common)} of {len(common)}",
        ),
    ]
    return Outcome(rows, checks, CAPTION, {"targets": [_kept(record) for record in kept]})


CAPTION = (
    "Left and middle: runs from three sizes of the start, by what the first plateau that was found in the "
    "losses is near, for two sorts of targets. Right: each plateau near a narrower critical function: the "
    "cosine between the change of outputs on leaving it and that along the law's descent, and how often a "
    "random direction comes as close. Above the horizontal line half of the change is along the descent; "
    "left of the vertical one that is no chance."
)


def _plateaus(runs: Sequence[Record]) -> list[dict[str, Any]]:
    return [plateau for run in runs for plateau in run["plateaus"]]


def _runs_of(kept: Sequence[Record], sort: str) -> list[Record]:
    """The runs on one sort of targets."""
    return [run for record in kept if record["targets"] == sort for run in record["runs"]]


def _is_near(plateau: dict[str, Any]) -> bool:
    """Whether a plateau is near a narrower critical function."""
    return bool(plateau["place"] != PLACES[5])


def _near(run: Record) -> bool:
    """Whether a plateau of the run is."""
    return any(map(_is_near, run["plateaus"]))


def _best(plateau: dict[str, Any]) -> float | None:
    """The largest cosine of a plateau's ways down; None where there is none."""
    cosines = [way["cosine"] for way in plateau["ways"] if way["cosine"] is not None]
    return max(cosines, default=None)


def _quartiles(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "—"
    low, middle, high = np.quantile(known, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def _row_of_functions(place: str, kept: Sequence[Record]) -> Row:
    counts = [record["functions"].get(place, 0) for record in kept]
    total = f"{np.median(counts):g} ({min(counts)} to {max(counts)})" if counts else "—"
    where = "with three units or fewer" if place in (PLACES[0], PLACES[4]) else "first found there"
    return Row(f"critical functions, {place}", "a sketch", total, f"median and range; {where}")


def _rows_of(sort: str, power: float, runs: Sequence[Record]) -> list[Row]:
    mine = [run for run in runs if run["power"] == power]
    start = f"{sort}, start m^−{power:g}"
    some = [run for run in mine if run["plateaus"]]
    places = Counter(each["place"] for each in _plateaus(mine))
    named = ", ".join(f"{place}: {places[place]}" for place in PLACES if places[place])
    passed = [run["closest"].get("1", 1.0) < PASSED for run in mine]
    return [
        Row(
            f"runs with a plateau near a narrower critical function, {start}",
            "the run shown",
            f"{sum(map(_near, mine))} of {len(mine)}",
            f"{len(some)} have a plateau; what plateaus are near: {named or 'there are none'}",
        ),
        Row(
            f"runs that come by the best function of width 1, {start}",
            "—",
            f"{sum(passed)} of {len(mine)}",
            f"within {PASSED:.0%} of the data's spread, plateau or not",
        ),
        Row(
            f"loss at the end over the constant's, {start}",
            "interpolates",
            f"{np.median([run['end'] for run in mine]):.1e}" if mine else "—",
            "median",
        ),
    ]


def _kept(record: Record) -> dict[str, Any]:
    """What of a target is kept: the functions' counts, and where plateaus are."""
    runs = [
        {
            "power": run["power"],
            "end": float(f"{run['end']:.3g}"),
            "plateaus": [
                {
                    "steps": each["steps"],
                    "loss": float(f"{each['loss']:.3g}"),
                    "place": each["place"],
                    "nearest": each["nearest"],
                    "distance": float(f"{each['distances'][0]:.2g}"),
                    "cosine": None if (best := _best(each)) is None else float(f"{best:.3g}"),
                }
                for each in run["plateaus"]
            ],
        }
        for run in record["runs"]
    ]
    about = {"seed": record["seed"], "targets": record["targets"]}
    return {**about, "functions": record["functions"], "runs": runs}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Counts by the size of the start, and how plateaus were left."""
    kept = qualified(records)
    first, second, right = figure.subplots(1, 3, width_ratios=(1, 1, 1.3))
    second.sharey(first)
    for axes, sort in ((first, RANDOM), (second, LARGE)):
        _draw_counts(axes, sort, settings["powers"], _runs_of(kept, sort))
    first.set_ylabel("part of the runs")
    _draw_leaving(right, settings["powers"], [run for record in kept for run in record["runs"]])


def _first(run: Record) -> str:
    """What the first plateau near a critical function is near, else whether there is one at all."""
    places = [each["place"] for each in run["plateaus"]]
    return next((place for place in places if place != PLACES[5]), PLACES[5] if places else "")


def _draw_counts(axes: Axes, sort: str, powers: Sequence[float], runs: Sequence[Record]) -> None:
    shown = (*PLACES, "")
    of = [[_first(run) for run in runs if run["power"] == power] for power in powers]
    shares = np.array([[each.count(p) / max(len(each), 1) for p in shown] for each in of])
    bottom = np.zeros(len(powers))
    for place, shade, heights in zip(shown, (*SHADES_OF_PLACES, "white"), shares.T, strict=True):
        if heights.any():
            axes.bar(range(len(powers)), heights, bottom=bottom, color=shade, edgecolor=SHADES[3],
                     linewidth=0.5, label=place or "no plateau")  # fmt: skip
        bottom += heights
    axes.set_xticks(range(len(powers)), [f"{power:g}" for power in powers])
    axes.set_xlabel("start: m to the power −")
    axes.set_ylim(0, 1.55)
    axes.set_yticks([0, 0.5, 1])
    axes.set_title(sort, fontsize=9)
    axes.legend(frameon=False, fontsize=7, loc="upper left")


def _draw_leaving(axes: Axes, powers: Sequence[float], runs: Sequence[Record]) -> None:
    for number, power in enumerate(powers):
        compared = [
            [way for way in each["ways"] if way["cosine"] is not None]
            for each in _plateaus([run for run in runs if run["power"] == power])
        ]
        # One that says something where there is one.
        ways = [
            max(each, key=lambda way: (way["telling"], way["cosine"])) for each in compared if each
        ]
        chances = [max(way["chance"], 0.002) for way in ways]  # a logarithmic axis has no 0
        axes.plot(chances, [way["cosine"] for way in ways], MARKERS[number], markersize=5,
                  color=SHADES[number], label=f"{power:g}", alpha=0.8)  # fmt: skip
    if not any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        return say_so(axes, "no plateau near\na narrower function")
    axes.axhline(0.5**0.5, color=SHADES[3], linewidth=0.8, linestyle=":")
    axes.axvline(0.05, color=SHADES[3], linewidth=0.8, linestyle=":")
    logarithmic(axes, "x")
    axes.set_xlim(1.5e-3, 1.3)
    axes.set_ylim(0, 1.05)
    axes.set_xlabel("random directions as close")
    axes.set_ylabel("cosine with the law's descent")
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", title="start, m to −", title_fontsize=8
    )
    return None


EXPERIMENT = Experiment(
    "z22-plateaus",
    "Z22 Figs 4.3, 4.4",
    "how often training stays near a narrower network's critical function",
    "Z22 Fig. 4.3 shows one run of a tanh network of width 500 on fifty points that stays near the best fit "
    "of one unit. Here the targets are twenty sums of three tanh units drawn at random, and three in which "
    "one unit does most of the work; all parameters start with deviation m^−1.5, m^−1 or m^−0.5. The "
    "critical functions of one, two and three units are found by sf.hierarchy, those at infinity among them; "
    "plateaus are found by sf.stages from the losses alone. Near each, the change of outputs on leaving it "
    "is compared with the descent that the inertia law gives at the embedded point.",
    {
        "seed": 0,
        "runs": 20,
        "large": 3,
        "width": 500,
        "powers": [1.5, 1.0, 0.5],
        "rate": 0.003,
        "steps": 20000,
        "written": 200,
        "starts": 24,
    },
    {
        "runs": 1,
        "large": 1,
        "width": 100,
        "powers": [1.5, 0.5],
        "rate": 0.005,
        "steps": 6000,
        "written": 100,
        "starts": 8,
    },
    tasks,
    run,
    outcome,
    draw,
)
