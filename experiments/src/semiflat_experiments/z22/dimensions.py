"""Z22 §6: dimensions of embedded sets, irreversible signs, and ways down, against dense Hessians."""

from __future__ import annotations

import semiflat as sf
from semiflat_experiments.experiment import Experiment, Record, Settings, Task
from semiflat_experiments.z22.census import (
    SHAPES,
    as_printed,
    dimensions,
    kernel_lost,
    planted,
    signs,
    ways_down,
)
from semiflat_experiments.z22.dimensions_figure import draw
from semiflat_experiments.z22.dimensions_outcome import outcome


def tasks(settings: Settings) -> list[Task]:
    """So many points of each shape."""
    seeds = range(settings["seed"], settings["seed"] + settings["runs"])
    return [{"seed": seed, "shape": shape} for shape in settings["shapes"] for seed in seeds]


def run(settings: Settings, task: Task) -> Record:
    """A minimum, a critical point with larger errors, and a point that is not critical."""
    shape, seed = task["shape"], task["seed"]
    minimum = planted(shape, seed, True, settings["draws"])
    other = planted(shape, seed, False, 1)
    if minimum is None or other is None:
        return {**task, "dropped": f"no definite Hessian among {settings['draws']} draws"}
    net = minimum.problem.net
    anywhere = sf.Point(minimum.problem, net.random_params(seed))
    null = sf.NullUnits(0, [0.4])  # brings zeros with it
    points = {
        "minimum": minimum,
        "larger errors": other,
        "not critical": anywhere,
        "minimum and a null unit": null(minimum).materialize(),
        "not critical, and a null unit": null(anywhere).materialize(),
    }
    return {
        **task,
        "dimensions": dimensions(shape, minimum, seed),
        "signs": [
            {"at": name, **each}
            for name, point in points.items()
            for each in signs(shape, point, seed)
        ],
        "output_only": kernel_lost(anywhere, seed),
        "ways_down": ways_down(minimum),
        "as_printed": as_printed(anywhere) if net.outputs != net.hidden[-1] else None,
    }


EXPERIMENT = Experiment(
    "z22-dimensions",
    "Z22 §6, Thms 6.1, 6.2, 6.3",
    "dimensions of embedded sets, and how signs of Hessians change",
    "A critical point of a narrow network lies in a whole set of critical points of a wider one, by "
    "general compatible embeddings. Z22 estimates its dimension as K + Σ K_l K_(l−1), K_l being the units that "
    "layer l gains, proves that no embedding makes the numbers of positive, zero and negative eigenvalues "
    "smaller (Thm 6.2), and that minima with H⁽²⁾ ≠ 0 become strict saddles by three-fold global splitting "
    "(Thm 6.3). None of it is measured there. Here critical points are planted: at random parameters the "
    "targets' errors are drawn orthogonal to all derivatives of the outputs, and made small enough for a "
    "minimum. Dimensions are ranks of tangents from the paper's Conditions 1 and 2 by automatic "
    "differentiation, signs and curvatures those of dense Hessians.",
    {"seed": 0, "runs": 8, "shapes": list(SHAPES), "draws": 40},
    {"runs": 2, "shapes": ["1-2-1", "2-3-2 logistic", "2-2-2-1"]},
    tasks,
    run,
    outcome,
    draw,
)
