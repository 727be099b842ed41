"""P21 §III-B: suboptimal minima made of narrow ones are lower, the less degenerate they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.dense import CLEAR, dense_hessian
from semiflat_experiments.experiment import Record, Settings, Task, counted
from semiflat_experiments.figure import MARKERS, SHADES, logarithmic, say_so
from semiflat_experiments.p21.replicated import MINIMA

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEACHER, SAMPLES = (2, 8, 1), 50
ARMS = {"no biases": False, "biases": True}


def tasks(settings: Settings) -> list[Task]:
    """The same inputs for networks without biases and with."""
    first = settings["seed"]
    return [
        {"seed": first + k, "arm": arm} for arm in ARMS for k in range(settings["data_sets"][arm])
    ]


def problem_of(seed: int, bias: bool) -> sf.Problem:
    """Fifty samples of a 2-8-1 sigmoid network, for a network of one unit."""
    generator = torch.Generator().manual_seed(seed)
    teacher = sf.MLP(TEACHER, "sigmoid", bias)
    X = torch.randn((SAMPLES, TEACHER[0]), generator=generator, dtype=torch.float64)
    weights = 3 * torch.randn(teacher.parameter_count, generator=generator, dtype=torch.float64)
    y = teacher.forward(teacher.unflatten(weights), X)
    student = sf.MLP([TEACHER[0], 1, 1], "sigmoid", bias)
    return sf.Problem(student, X, (y - y.mean()) / y.std(correction=0))


def run(settings: Settings, task: Task) -> Record:
    """The minima of every width, and which of them are minima of the widest network."""
    widest = settings["widest"]
    found = sf.hierarchy(
        problem_of(task["seed"], ARMS[task["arm"]]),
        widths=range(1, widest + 1),
        starts=settings["starts"],
        saddle_starts=0,
        seed=task["seed"],
        processes=1,
    )
    minima = [
        {"width": point.hidden[0], "loss": 2 * point.record.loss, **_wide(found, point, widest)}
        for point in found
        if point.kind.name in MINIMA and not point.record.at_infinity
    ]
    return {**task, "minima": minima}


def _wide(found: sf.Hierarchy, point: Any, widest: int) -> dict[str, Any]:
    """Which of its replications is a minimum of the widest network, if one is, and its lowest eigenvalue."""
    for edge in found.edges_of(point.name, "embeds"):
        if edge.hidden == (widest,) and edge.unit is not None and edge.verdict in MINIMA:
            step = sf.Replicate.simple(0, edge.unit, widest - point.hidden[0])[edge.how]
            wide = step(point)
            values = torch.linalg.eigvalsh(dense_hessian(sf.Point(wide.problem, wide.params)))
            return {"stays": edge.how, "lowest": float(values[0] / values[-1])}
    return {"stays": "itself" if point.hidden == (widest,) else ""}


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Least losses by how many units are copies."""
    widths = range(1, settings["widest"] + 1)
    table = {(arm, width): _of(records, arm, width) for arm in ARMS for width in widths}
    made = [each for r in records for each in r["minima"] if "lowest" in each]
    lowest = min((each["lowest"] for each in made), default=0.0)
    pairs = [pair for each in records for pair in _falls(each)]
    falls = sum(less < more for more, less in pairs)
    arms = {arm: _medians(table, arm, widths) for arm in ARMS}
    rows = [_row(arm, width, settings["widest"], table[arm, width]) for arm, width in table]
    checks = [
        Check(
            "one copy less, and the lowest of these minima is lower, in nine of ten pairs or more",
            10 * falls >= 9 * len(pairs) > 0,
            f"{falls} of {len(pairs)} pairs of widths that both have one, of one data set",
        ),
        Check(
            "without biases their median over the data sets falls from width to width",
            len(arms["no biases"]) > 1 and arms["no biases"] == sorted(arms["no biases"])[::-1],
            ", ".join(f"{each:.2g}" for each in arms["no biases"]),
        ),
        Check(
            "at none of them has the dense Hessian of the wide network a negative eigenvalue",
            bool(made) and lowest > -CLEAR,
            f"{len(made)} minima; lowest {lowest:.0e} of the largest",
        ),
    ]
    return Outcome([*rows, counted(records)], checks, CAPTION, _data(table))


CAPTION = (
    "Suboptimal minima of a network of five sigmoid units that are made of minima of narrower ones by copying "
    "a unit with a definite B, each dot one; lines join the lowest of each data set. To the right, where no "
    "units are copies, its own minima. The more copies, the higher the loss, as P21 expects."
)


def _of(records: Sequence[Record], arm: str, width: int) -> dict[str, Any]:
    """What all data sets have at a width: numbers of minima, and the lowest of those that stay minima."""
    mine = [each["minima"] for each in records if each["arm"] == arm]
    here = [[each for each in minima if each["width"] == width] for minima in mine]
    staying = [[each for each in minima if each["stays"]] for minima in here]
    return {
        "data sets": len(mine),
        "minima": sum(map(len, here)),
        "staying": dict(Counter(each["stays"] for minima in staying for each in minima)),
        "lowest": _lowest(staying),
        "lowest of all": _lowest(here),
    }


def _lowest(data_sets: Sequence[Sequence[dict[str, Any]]]) -> list[float]:
    """Of each data set that has some."""
    return [min(each["loss"] for each in minima) for minima in data_sets if minima]


def _falls(record: Record) -> list[tuple[float, float]]:
    """The lowest that stay minima, of a width and of the next one that has some."""
    lowest: dict[int, float] = {}
    for each in record["minima"]:
        if each["stays"]:
            width = each["width"]
            lowest[width] = min(lowest.get(width, each["loss"]), each["loss"])
    ordered = [lowest[width] for width in sorted(lowest)]
    return list(pairwise(ordered))


def _medians(
    table: dict[tuple[str, int], dict[str, Any]], arm: str, widths: Sequence[int]
) -> list[float]:
    return [
        float(np.median(table[arm, width]["lowest"]))
        for width in widths
        if table[arm, width]["lowest"]
    ]


def _row(arm: str, width: int, widest: int, of: dict[str, Any]) -> Row:
    lowest, copies = of["lowest"], widest - width
    staying = ", ".join(f"{count} {how}" for how, count in sorted(of["staying"].items()))
    minima = f"{of['minima']} minima of width {width}, their lowest {_range(of['lowest of all'])}"
    return Row(
        f"{arm}, {f'{copies} of {widest} units copies' if copies else 'no copies'}: lowest minimum, of the "
        "targets' variance",
        "less with fewer copies",
        _range(lowest),
        f"median and range over {len(lowest)} of {of['data sets']} data sets; {minima}"
        + (f"; minima when copied: {staying or 'none'}" if copies else ""),
    )


def _range(values: Sequence[float]) -> str:
    if not values:
        return "none"
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:.2g} ({low:.2g} to {high:.2g})"


def _data(table: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {arm: {} for arm in ARMS}
    for (arm, width), of in table.items():
        short = {
            key: [float(f"{each:.3g}") for each in of[key]] for key in ("lowest", "lowest of all")
        }
        found[arm][str(width)] = {**of, **short}
    return found


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Losses against copies, one panel an arm."""
    panels = figure.subplots(1, len(ARMS), sharey=True)
    for axes, arm in zip(panels, ARMS, strict=True):
        _draw(axes, settings["widest"], [each for each in records if each["arm"] == arm])
        axes.set_title(arm, fontsize=9)
    panels[0].set_ylabel("loss / variance of the targets")


def _draw(axes: Axes, widest: int, mine: Sequence[Record]) -> None:
    staying = [[each for each in record["minima"] if each["stays"]] for record in mine]
    if not any(staying):
        return say_so(axes, "no minimum has a definite B")
    for k, own in enumerate((False, True)):
        some = [each for minima in staying for each in minima if own is (each["stays"] == "itself")]
        places = [widest - each["width"] for each in some]
        style: Any = {"marker": MARKERS[k], "color": SHADES[k], "linestyle": "none"}
        axes.plot(places, [each["loss"] for each in some], markersize=3, alpha=0.5, **style)
    for minima in staying:
        widths = sorted({each["width"] for each in minima})
        lowest = [min(each["loss"] for each in minima if each["width"] == w) for w in widths]
        places = [widest - width for width in widths]
        axes.plot(places, lowest, color=SHADES[3], linewidth=0.7, zorder=0)
    logarithmic(axes, "y")
    axes.set_xlim(widest - 0.5, -0.5)
    axes.set_xlabel("units that are copies")
    return None


EXPERIMENT = Experiment(
    "p21-degeneracy",
    "P21 §III-B",
    "suboptimal minima are lower the less degenerate they are",
    "P21 makes suboptimal minima of wide networks by copying a unit of a narrow minimum whose B is definite, "
    "and gives an intuitive argument that the less degenerate such a minimum is, the lower its loss. Fifty "
    "samples of a 2-8-1 sigmoid network are fitted by sigmoid networks of one to five units; a hierarchy has "
    "their minima, and tells by the inertia law which of them are minima of the network of five units when a "
    "unit is copied. Inputs are N(0, 1), the teacher's weights N(0, 9), targets standardised.",
    {"seed": 0, "data_sets": {"no biases": 12, "biases": 3}, "widest": 5, "starts": 24},
    {"seed": 1, "data_sets": {"no biases": 2, "biases": 1}, "widest": 4, "starts": 8},
    tasks,
    run,
    outcome,
    draw,
)
