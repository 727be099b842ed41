"""M18: minima and saddles of networks for XOR, by width and weight decay; narrow points in wider networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import semiflat as sf
from semiflat_experiments.dense import dense_gradient
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

X = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
Y = [0.0, 1.0, 1.0, 0.0]
MINIMA = ("MINIMUM", "STRICT_MINIMUM")
CRITICAL = 1e-9
"""Size of a gradient that counts as 0."""
MOST = 40
"""Losses kept for the figure, at each width."""


def tasks(settings: Settings) -> list[Task]:
    """One for each loss and weight decay."""
    return [
        {"seed": settings["seed"], "loss": loss, "decay": decay}
        for loss in settings["losses"]
        for decay in settings["decays"]
    ]


def run(settings: Settings, task: Task) -> Record:
    """The hierarchy of one loss and decay."""
    problem = sf.Problem(sf.MLP([2, 1, 1], "tanh"), X, Y, task["loss"], weight_decay=task["decay"])
    starts = settings["starts"]
    h = sf.hierarchy(
        problem, settings["widths"], starts, seed=task["seed"], saddle_starts=starts, processes=1
    )
    return {**task, "levels": [_level(h, level) for level in h.levels]}


def _level(h: sf.Hierarchy, level: Any) -> dict[str, Any]:
    """What is new at a width, and what narrower points are there with units of weights 0 added."""
    own = [
        point for point in h.at(level.hidden) if point.record.new and not point.record.at_infinity
    ]
    embedded = [
        edge
        for edge in h.edges
        if edge.kind == "embeds" and edge.hidden == level.hidden and edge.how == "null units"
    ]
    new = Counter(_kind(point.record.kind, point.record.inertia) for point in own)
    old = Counter(_kind(edge.verdict, edge.inertia) for edge in embedded)
    return {
        "width": level.hidden[0],
        "new": dict(new),
        "narrower": dict(old),
        "gradient": max(
            (_slope(h[edge.source], level.hidden[0]) for edge in embedded), default=0.0
        ),
        "ended_narrower": level.narrower,
        "runs": sum(level.starts),
        "missing": level.missing,
        "losses": [
            [point.record.loss, _kind(point.record.kind, point.record.inertia)]
            for point in own[:MOST]
        ],
    }


def _kind(kind: str, inertia: Any) -> str:
    """``"minima"``, ``"index 1"``, ``"higher index"``, or ``"undecided"``."""
    if kind in MINIMA:
        return "minima"
    if kind != "STRICT_SADDLE" or inertia is None:
        return "undecided"
    return "index 1" if inertia[2] == 1 else "higher index"


def _slope(point: sf.Point, width: int) -> float:
    """The largest entry of the dense gradient where units with weights of 0 are added."""
    added = width - point.problem.net.hidden[0]
    wide = sf.NullUnits(0, [0.0] * added)(point).materialize()
    return float(dense_gradient(wide).abs().max())


def total(level: dict[str, Any], kind: str) -> int:
    """How many points of a kind a width has: new ones, and narrower ones with units added."""
    return int(level["new"].get(kind, 0) + level["narrower"].get(kind, 0))


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Counts by loss, decay and width."""
    kept = qualified(records)
    rows = [row for record in kept for row in _rows_of(record)]
    levels = [level for record in kept for level in record["levels"]]
    slopes = max((level["gradient"] for level in levels), default=1.0)
    places = sum(sum(level["narrower"].values()) for level in levels)
    rows += [
        Row(
            "narrow points with units of weights 0 that are critical in wider networks",
            "all",
            f"{places} of {places}" if slopes < CRITICAL else "not all",
            f"dense gradients up to {slopes:.0e}",
        ),
        Row(
            "runs in wider networks that end at a narrow point",
            "—",
            f"{sum(level['ended_narrower'] for level in levels)}",
            f"told by sf.reduce; of {sum(level['runs'] for level in levels)} random starts, and descents",
        ),
        counted(records),
    ]
    first = settings["losses"][0]
    mine = {record["decay"]: record["levels"] for record in kept if record["loss"] == first}
    least, most = min(settings["decays"]), max(settings["decays"])
    few = [total(level, "minima") for level in mine.get(least, [])]
    saddles = [
        total(level, "index 1") + total(level, "higher index") for level in mine.get(least, [])
    ]
    many = [total(level, "minima") for level in mine.get(most, [])]
    checks = [
        Check(
            f"there are more minima the wider the network, {first} loss and decay {least:g}",
            len(few) > 1 and few[-1] > few[0],
            _listed(few),
        ),
        Check(
            "and more saddles",
            len(saddles) > 1 and saddles[-1] > saddles[0],
            _listed(saddles),
        ),
        Check(
            f"there are fewer minima with a decay of {most:g}, at the largest width",
            bool(few) and bool(many) and many[-1] < few[-1],
            f"{_listed(many[-1:])} against {_listed(few[-1:])}",
        ),
        Check(
            "narrow points are critical in wider networks where added units have weights of 0",
            slopes < CRITICAL and places > 0,
            f"{places} places, gradients up to {slopes:.0e}",
        ),
    ]
    return Outcome(rows, checks, CAPTION, {"levels": [_kept(record) for record in kept]})


CAPTION = (
    "Left: minima (filled) and saddles of index 1 (open) of XOR networks by width, for several weight "
    "decays, logistic loss; narrower points with units of weights 0 are counted in. Right: losses of the "
    "critical points with the least decay, each at the width where it first occurs; a line goes on through "
    "all wider networks, where the point is critical, too."
)


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values)) or "none"


def _rows_of(record: Record) -> list[Row]:
    levels = record["levels"]
    about = f"{record['loss']}, decay {record['decay']:g}"
    minima, first, higher = (
        [total(level, kind) for level in levels] for kind in ("minima", "index 1", "higher index")
    )
    new = [level["new"].get("minima", 0) for level in levels]
    unclear = sum(total(level, "undecided") for level in levels)
    missing = max((level["missing"] or 0.0 for level in levels), default=0.0)
    widths = f"widths {levels[0]['width']} to {levels[-1]['width']}"
    return [
        Row(
            f"minima, {about}",
            "more with width, fewer with decay",
            _listed(minima),
            f"{widths}; new ones {_listed(new)}; the chance that one more start finds a new point is "
            f"{missing:.0%} at most",
        ),
        Row(
            f"saddles of index 1, {about}",
            "more with width",
            _listed(first),
            f"{widths}; of higher index {_listed(higher)}; undecided {unclear}",
        ),
    ]


def _kept(record: Record) -> dict[str, Any]:
    levels = [
        {key: level[key] for key in ("width", "new", "narrower", "ended_narrower")}
        for level in record["levels"]
    ]
    return {"loss": record["loss"], "decay": record["decay"], "levels": levels}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Counts by width, and losses by width."""
    first = settings["losses"][0]
    mine = [record for record in qualified(records) if record["loss"] == first]
    left, right = figure.subplots(1, 2)
    if not mine:
        say_so(left, "nothing was found")
        return say_so(right, "nothing was found")
    for number, record in enumerate(mine):
        widths = [level["width"] for level in record["levels"]]
        style: Any = {"color": SHADES[number % 4], "linestyle": LINES[number % 4]}
        marker = MARKERS[number % 4]
        minima, saddles = (
            [total(level, kind) for level in record["levels"]] for kind in ("minima", "index 1")
        )
        left.plot(
            widths, minima, marker=marker, markersize=5, label=f"decay {record['decay']:g}", **style
        )
        left.plot(widths, saddles, marker=marker, markersize=5, markerfacecolor="none", **style)
    left.set_xticks(widths)
    left.set_xlabel("hidden units")
    left.set_ylabel("critical points found")
    left.locator_params(axis="y", integer=True)
    left.legend(frameon=False, fontsize=8)
    _draw_losses(right, min(mine, key=lambda record: float(record["decay"])))
    return None


def _draw_losses(axes: Axes, record: Record) -> None:
    last = record["levels"][-1]["width"]
    styles: dict[str, Any] = {
        "minima": {"marker": "o", "color": SHADES[0]},
        "index 1": {"marker": "s", "color": SHADES[1], "markerfacecolor": "none"},
        "higher index": {"marker": "^", "color": SHADES[3], "markerfacecolor": "none"},
    }
    seen: set[str] = set()
    for level in record["levels"]:
        for loss, kind in level["losses"]:
            if kind in styles:
                axes.plot(
                    [level["width"], last], [loss, loss], color=SHADES[3], linewidth=0.4, zorder=0
                )
                label = None if kind in seen else kind
                axes.plot(
                    level["width"],
                    loss,
                    linestyle="none",
                    markersize=5,
                    label=label,
                    **styles[kind],
                )
                seen.add(kind)
    axes.set_xticks([level["width"] for level in record["levels"]])
    logarithmic(axes, "y")
    axes.set_xlabel("hidden units")
    axes.set_ylabel(f"loss with its penalty, decay {record['decay']:g}")
    axes.legend(frameon=False, fontsize=8)


EXPERIMENT = Experiment(
    "m18-xor",
    "M18 (arXiv 1804.02411)",
    "minima and saddles of XOR networks by width and weight decay",
    "Mehta, Zhao, Bernal and Wales count minima and saddles of networks for XOR. They report that both, and "
    "the ratio of saddles to minima, grow fast with the number of hidden nodes, that regularisation leaves "
    "fewer minima, and that stationary points of narrow networks are stationary in wider ones where all "
    "weights of the added nodes are 0. Only these statements of the abstract were at hand, neither counts "
    "nor the loss and the scaling of the decay. Here networks with tanh units and one output have the "
    "logistic loss on the four points and a decay of all parameters; critical points are "
    "found by sf.hierarchy, and counted modulo symmetries.",
    {
        "seed": 0,
        "losses": ["logistic"],
        "decays": [1e-4, 1e-3, 1e-2, 1e-1],
        "widths": [1, 2, 3, 4],
        "starts": 24,
    },
    {"losses": ["logistic"], "decays": [1e-4, 1e-1], "widths": [1, 2], "starts": 24},
    tasks,
    run,
    outcome,
    draw,
)
