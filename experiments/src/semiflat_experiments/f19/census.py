"""F19 Thms 5, 9, 10, 11 and P21 Thm 6: how often each case occurs, and whether the verdicts agree."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, Task, qualified
from semiflat_experiments.f19.claims import MINIMUM, SADDLE
from semiflat_experiments.f19.counts import (
    KINDS,
    SIGNS,
    THEOREMS,
    added_zeros,
    case_counts,
    embedded_points,
    reasons,
    unit_signs,
)
from semiflat_experiments.f19.embedded import MINIMA, SECTION_B, lemma_4, recorded
from semiflat_experiments.f19.problems import FAMILIES, FEW, drawn
from semiflat_experiments.figure import SHADES, say_so

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILLS = ((SHADES[0], ""), (SHADES[1], "////"), (SHADES[3], "...."), ("#FFFFFF", ""))
"""Colour and hatching of the parts of a bar."""


def tasks(settings: Settings) -> list[Task]:
    """A family of problems each."""
    names = FAMILIES if settings["families"] == "all" else FEW
    return [{"seed": settings["seed"], "family": name} for name in names]


def run(settings: Settings, task: Task) -> Record:
    """Search some problems of a family, embed the lowest minima of each, and judge what comes of it."""
    seeds = range(task["seed"], task["seed"] + settings["problems"])
    problems = [drawn(FAMILIES[task["family"]], seed) for seed in seeds]
    found = sf.run_search(
        problems,
        settings["starts"],
        seed=task["seed"],
        max_iterations=settings["iterations"],
        processes=1,
    )
    searched, embedded = [], []
    for number, problem in enumerate(problems):
        own = [point for point in found.points if point.problem is problem]
        verdicts = sf.judge_all(own)
        minima = [(p, v) for p, v in zip(own, verdicts, strict=True) if v.kind in MINIMA]
        runs = Counter(str(each.status) for each in found.runs if each.problem is problem)
        others = Counter(str(v.kind) for v in verdicts if v.kind not in MINIMA)
        kept: list[dict[str, Any]] = []
        known: dict[str, Any] = {"runs": dict(runs), "minima": len(minima), "others": dict(others)}
        for point, verdict in minima[: settings["minima"]]:
            place = {"problem": number, "minimum": len(kept)}
            strict = verdict.kind is sf.Kind.STRICT_MINIMUM
            assert verdict.inertia is not None
            kept.append({"inertia": list(verdict.inertia), "lemma_4": lemma_4(point)})
            embedded += [{**place, **each} for each in recorded(point, strict, seeds[number])]
        if not minima:
            ended = ", ".join(f"{count} {status}" for status, count in sorted(runs.items()))
            critical = ", ".join(
                f"{count} {kind.lower()}" for kind, count in sorted(others.items())
            )
            known["dropped"] = f"no minimum: {critical or ended}"
        searched.append({**known, "kept": kept})
    record = {**task, "searched": searched, "embedded": embedded}
    if not embedded:
        record["dropped"] = f"no minimum in any of {len(problems)} problems"
    return record


# -- what all records say --------------------------------------------------------------------------


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Counts, case by case, and everything that speaks against a verdict."""
    counts, points = case_counts(records), list(embedded_points(records))
    searched = [each for record in records for each in record["searched"]]
    rows = [
        Row(f"{theorem}: {case}", says, _spread(kinds))
        for (theorem, case, says), kinds in counts.items()
    ]
    rows += [_row_of_zeros(records), _row_of_proofs(points), _row_of_undecided(points)]
    rows += [_row_of_open(points), _row_of_searches(searched)]
    return Outcome(rows, _checks(counts, points, searched), CAPTION, _data(records, counts, points))


CAPTION = (
    "Left: what minima become, case by case of the theorems, with the number of embedded points and, after "
    "the arrow, what the theorem says; where it says nothing, the verdict does. Right: the signs of G (P21's "
    "B), on which most cases depend, over all units of all minima, by activation. A ReLU unit's G is 0."
)


def _spread(kinds: Counter[str]) -> str:
    parts = ", ".join(f"{kinds[name]} {name}" for name in KINDS if kinds[name])
    return f"{kinds.total()}: {parts}"


def _listed(counts: Counter[str]) -> str:
    return "; ".join(f"{count}: {reason}" for reason, count in counts.most_common()) or "none"


def _row_of_zeros(records: Sequence[Record]) -> Row:
    zeros = added_zeros(records)
    return Row(
        "F19 §B: zero eigenvalues added by eq. (28)",
        "no flat direction in general",
        f"some at {sum(each > 0 for each in zeros)} of {len(zeros)} points",
        "two units with nothing in and nothing out: F∅ has M rows and D columns, and each unit adds "
        "M + D − 2 rank F∅ zeros",
    )


def _row_of_proofs(points: Sequence[dict[str, Any]]) -> Row:
    decided = [each for each in points if each["kind"] in KINDS["minimum"] + KINDS["saddle"]]
    proved = sum(each["proved"] is not None for each in decided)
    return Row(
        "verdicts that are proved as well",
        "—",
        f"{proved} of {len(decided)} minima and saddles",
        "by certificates: the exact critical point next to the one found",
    )


def _row_of_undecided(points: Sequence[dict[str, Any]]) -> Row:
    found = reasons(points)
    lower = sum(each["lower"] for each in points if each["kind"] in KINDS["undecided"])
    return Row(
        "undecided verdicts",
        "—",
        f"{found.total()} of {len(points)}",
        f"{_listed(found)}. {lower} of them have a lower network next to them, so they are no minima",
    )


def _row_of_open(points: Sequence[dict[str, Any]]) -> Row:
    found = Counter(word for each in points for word in each["open"])
    return Row("dense evidence that does not suffice", "—", str(found.total()), _listed(found))


def _row_of_searches(searched: Sequence[dict[str, Any]]) -> Row:
    dropped = Counter(
        re.sub(r"\d+ ", "", each["dropped"]) for each in searched if "dropped" in each
    )
    return Row(
        "problems with a minimum",
        "—",
        f"{len(searched) - dropped.total()} of {len(searched)}",
        f"{sum(len(each['kept']) for each in searched)} minima embedded, of "
        f"{sum(each['minima'] for each in searched)} found; none in {_listed(dropped)}",
    )


def _checks(
    counts: dict[tuple[str, str, str], Counter[str]],
    points: Sequence[dict[str, Any]],
    searched: Sequence[dict[str, Any]],
) -> list[Check]:
    against = Counter(f"{each['family']}: {word}" for each in points for word in each["against"])
    spoken = {key: kinds for key, kinds in counts.items() if key[2] in (SADDLE, MINIMUM)}
    undecided = sum(kinds["undecided"] for kinds in spoken.values())
    saddles = [each for each in points if each["kind"] in KINDS["saddle"]]
    faint = sum("a way down too faint for float64" in each["open"] for each in saddles)
    blocks = [each["lemma_4"] for one in searched for each in one["kept"]]
    silent = [key for key in spoken if not spoken[key].total()]
    theorems = {key[0] for key in spoken}
    kept = sum(bool(each["kept"]) for each in searched)
    dropped = sum("dropped" in each for each in searched)
    return [
        Check(
            "no verdict contradicts a theorem, a proof, the dense Hessian or gradient, the way down or a "
            "neighbour",
            bool(points) and not against,
            f"{len(points)} embedded points; {_listed(against)}",
        ),
        Check(
            "undecided is nothing that a theorem decides",
            bool(points) and not undecided,
            f"{undecided} of {sum(kinds.total() for kinds in spoken.values())} points and claims",
        ),
        Check(
            "the loss was seen to fall along the way down from nine saddles of ten or more",
            bool(saddles) and 10 * faint <= len(saddles),
            f"{len(saddles) - faint} of {len(saddles)}; the others' fall is below rounding",
        ),
        Check(
            "F and G are those in the dense Hessian of two copies (F19 Lemma 4)",
            bool(blocks) and max(blocks) < 1e-8,
            f"off by up to {max(blocks, default=0.0):.1e} of ‖∇²R‖∞, at {len(blocks)} minima",
        ),
        Check(
            "every theorem speaks",
            theorems == set(THEOREMS) - {SECTION_B} and not silent,
            f"{len(spoken)} cases of {len(theorems)} theorems",
        ),
        Check(
            "every second problem has a minimum, and every problem is accounted for",
            2 * kept >= len(searched) and kept + dropped == len(searched),
            f"{kept} with, {dropped} without, of {len(searched)}",
        ),
    ]


def _data(
    records: Sequence[Record],
    counts: dict[tuple[str, str, str], Counter[str]],
    points: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    embedded = Counter(point["family"] for point in points)
    return {
        "cases": [
            {"theorem": theorem, "case": case, "says": says, "kinds": dict(kinds)}
            for (theorem, case, says), kinds in counts.items()
        ],
        "signs": {name: dict(signs) for name, signs in unit_signs(records).items()},
        "undecided": dict(reasons(points)),
        "added_zeros": dict(sorted(Counter(map(str, added_zeros(records))).items())),
        "families": [
            {
                "family": record["family"],
                "problems": len(record["searched"]),
                "with_minimum": sum(bool(each["kept"]) for each in record["searched"]),
                "minima": sum(len(each["kept"]) for each in record["searched"]),
                "embedded": embedded[record["family"]],
            }
            for record in records
        ],
    }


# -- the figure ------------------------------------------------------------------------------------


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Verdicts by case, and signs of G by activation."""
    figure.set_figheight(5.6)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    if not qualified(records):
        for axes in (left, right):
            say_so(axes, "no minimum")
        return
    counts = case_counts(records)
    cases = {
        f"{theorem}: {case} → {says} (n = {kinds.total()})": kinds
        for (theorem, case, says), kinds in counts.items()
        if theorem != SECTION_B
    }
    _bars(left, cases, list(KINDS), "share of embedded points")
    signs = {f"{name} (n = {each.total()})": each for name, each in unit_signs(records).items()}
    _bars(right, signs, list(SIGNS), "share of units")


def _bars(axes: Axes, counts: dict[str, Counter[str]], parts: list[str], label: str) -> None:
    """Horizontal bars of shares, one below the other, in the order given."""
    places = range(len(counts))
    start = [0.0] * len(counts)
    for part, (fill, hatch) in zip(parts, FILLS, strict=True):
        if not any(each[part] for each in counts.values()):
            continue
        width = [each[part] / each.total() for each in counts.values()]
        style: dict[str, Any] = {"color": fill, "hatch": hatch, "edgecolor": SHADES[2]}
        axes.barh(places, width, left=start, height=0.6, linewidth=0.6, label=part, **style)
        start = [a + b for a, b in zip(start, width, strict=True)]
    axes.set_yticks(list(places), list(counts), fontsize=6.5)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.01)
    axes.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
    axes.set_xlabel(label)
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="lower right", bbox_to_anchor=(1.02, 1.0))


EXPERIMENT = Experiment(
    "f19-census",
    "F19 Thms 5, 9, 10, 11; P21 Thm 6",
    "what becomes of embedded minima, case by case",
    "Narrow networks of seven activations, three losses, one and several outputs, one and two hidden layers, "
    "with and without hidden biases are searched on random data. Their minima are embedded by unit "
    "replication with shares of every pattern of signs, by inactive units and by inactive propagation. Each "
    "embedded point is sorted by what F19 Thms 2, 5, 9, 10, 11 and P21 Thm 6 say of it, judged by the inertia "
    "law from narrow quantities, and held against the wide network's Hessian by automatic differentiation, a "
    "walk along the way down, random neighbours and a proof where there is one. No contradiction is what is "
    "to be seen; undecided is counted apart. Targets are those of a network wider by a unit, with noise.",
    {
        "seed": 0,
        "families": "all",
        "problems": 5,
        "starts": 8,
        "iterations": 200,
        "minima": 2,
    },
    {"families": "few", "problems": 2, "starts": 4, "iterations": 100, "minima": 1},
    tasks,
    run,
    outcome,
    draw,
)
