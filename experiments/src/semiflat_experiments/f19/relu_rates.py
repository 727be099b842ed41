"""F19 §5.2: how often ten points can be fitted exactly by five ReLU units, by how they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.f19.fits import EXACT, POINTS, UNITS, squared_error
from semiflat_experiments.f19.relu_fit import fits
from semiflat_experiments.figure import SHADES, say_so

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]


class Draw(NamedTuple):
    """What F19 leaves open: where the inputs are from, and what the targets are but for the noise."""

    inputs: str
    teacher: str
    noise: float

    def points(self, random: np.random.Generator) -> tuple[Array, Array]:
        """Ten inputs, ascending, and their targets.

        >>> x, y = Draw("evenly spaced", "none", 0.1).points(np.random.default_rng(0))
        >>> len(x), float(x[0]), float(x[-1])
        (10, -1.0, 1.0)
        """
        x = {
            "uniform in [−1, 1]": lambda: random.uniform(-1, 1, POINTS),
            "N(0, 1)": lambda: random.standard_normal(POINTS),
            "evenly spaced": lambda: np.linspace(-1, 1, POINTS),
        }[self.inputs]()
        x = np.sort(x)
        w, b, v, c = random.standard_normal(4)
        while self.teacher == "a unit that bends" and not x[0] < -b / w < x[-1]:
            w, b = random.standard_normal(2)
        f = 0 * x if self.teacher == "none" else v * np.maximum(w * x + b, 0) + c
        return x, f + self.noise * random.standard_normal(POINTS)


DRAWS = {
    f"x {inputs}; {teacher}; noise {noise:g}": Draw(inputs, teacher, noise)
    for inputs, teacher, noise in (
        ("uniform in [−1, 1]", "one unit", 0.1),
        ("uniform in [−1, 1]", "a unit that bends", 0.1),
        ("uniform in [−1, 1]", "one unit", 0.01),
        ("uniform in [−1, 1]", "one unit", 1.0),
        ("uniform in [−1, 1]", "none", 0.1),
        ("N(0, 1)", "one unit", 0.1),
        ("N(0, 1)", "a unit that bends", 0.1),
        ("evenly spaced", "one unit", 0.1),
    )
}


def tasks(settings: Settings) -> list[Task]:
    """A way to draw the data each."""
    return [{"seed": settings["seed"], "draw": name} for name in DRAWS]


def run(settings: Settings, task: Task) -> Record:
    """Decide for many data sets, and search some of those that have a fit."""
    fitted = unbiased = sets = starts = reached = 0
    nearest = float("inf")
    for number in range(settings["data_sets"]):
        random = np.random.default_rng([task["seed"], number, 19])
        x, y = DRAWS[task["draw"]].points(random)
        offsets = [found.offsets(float(x[0]), float(y[0])) for found in fits(x, y)]
        fitted += bool(offsets)
        # Along a segment of solutions the output bias is linear.
        unbiased += any(each.min() < 0 < each.max() for each in offsets)
        if offsets and sets < settings["searched"]:
            problem = sf.Problem(
                sf.MLP([1, UNITS, 1], "relu"), torch.from_numpy(x)[:, None], torch.from_numpy(y)
            )
            search = sf.run_search(
                problem, settings["starts"], max_iterations=settings["iterations"], processes=1
            )
            errors = [squared_error(point) for point in search.runs]
            sets, starts = sets + 1, starts + len(errors)
            reached += sum(error < EXACT for error in errors)
            nearest = min(nearest, *errors)
    record = {**task, "data_sets": settings["data_sets"], "fitted": fitted, "unbiased": unbiased}
    if not sets:
        return {**record, "dropped": f"no fit in {settings['data_sets']} data sets"}
    return {**record, "sets": sets, "starts": starts, "reached": reached, "nearest": nearest}


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.1f} % ({part} of {whole})"


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Rates by draw, and what a search makes of it."""
    kept = qualified(records)
    rates = [record["fitted"] / record["data_sets"] for record in records]
    sets, starts, reached = (
        sum(each[key] for each in kept) for key in ("sets", "starts", "reached")
    )
    rows = [
        Row(
            record["draw"],
            "—",
            _percent(record["fitted"], record["data_sets"]),
            f"without an output bias at least {_percent(record['unbiased'], record['data_sets'])}",
        )
        for record in records
    ]
    nearest = min((record["nearest"] for record in kept), default=float("nan"))
    rows.append(
        Row(
            "starts of a search that end at a fit, where there is one",
            "—",
            _percent(reached, starts),
            f"{sets} data sets with a fit; the least squared error reached is {nearest:.0e}",
        )
    )
    checks = [
        Check(
            "whatever the draw, one data set in four at most, and one in forty at least, has a fit",
            bool(rates) and all(1 / 40 < rate < 1 / 4 for rate in rates),
            f"{100 * min(rates, default=0):.1f} % to {100 * max(rates, default=0):.1f} %",
        ),
        Check(
            "without an output bias fewer have one",
            bool(kept)
            and sum(record["unbiased"] for record in kept)
            < sum(record["fitted"] for record in kept),
            _percent(
                sum(record["unbiased"] for record in kept),
                sum(record["data_sets"] for record in kept),
            ),
        ),
        Check(
            "fewer than one start of a hundred finds a fit that is there",
            starts > 0 and 100 * reached < starts,
            _percent(reached, starts),
        ),
    ]
    data = {"draws": [{k: v for k, v in record.items() if k != "nearest"} for record in records]}
    return Outcome([*rows, counted(records)], checks, CAPTION, data)


CAPTION = (
    "Data sets of ten points that five ReLU units fit exactly, decided exactly, by how they are drawn; inputs, "
    "target and deviation of the noise. Without an output bias there are fewer."
)


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Bars of rates."""
    axes = figure.subplots()
    if not records:
        return say_so(axes, "no data")
    places = np.arange(len(records))
    for shift, key, shade, label in (
        (-0.2, "fitted", SHADES[0], "with an output bias, as Fig. 2"),
        (0.2, "unbiased", SHADES[3], "without, as eq. (5)"),
    ):
        rates = [100 * record[key] / record["data_sets"] for record in records]
        axes.barh(places + shift, rates, height=0.38, color=shade, label=label)
    axes.set_yticks(places, [record["draw"] for record in records], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("data sets with an exact fit, %")
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return None


EXPERIMENT = Experiment(
    "f19-relu-fits",
    "F19 §5.2",
    "how often five ReLU units fit ten points",
    "F19's Fig. 2 begins with ten points that five ReLU units fit to a squared error below 1e-29. It does not "
    "say how the points are drawn, nor how many draws had no such fit. Here it is decided, for many data "
    "sets of each kind, whether there is one, with an output bias as in the experiment and without as in F19's "
    "eq. (5); and where there is one, the random starts are counted from which a search ends below 1e-29.",
    {"seed": 0, "data_sets": 1000, "searched": 5, "starts": 64, "iterations": 200},
    {"data_sets": 60, "searched": 1, "starts": 16, "iterations": 60},
    tasks,
    run,
    outcome,
    draw,
)
