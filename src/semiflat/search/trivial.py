"""Critical points that are there for a reason that has little to do with their network."""

from __future__ import annotations

from semiflat.evidence import OnData
from semiflat.limits import AtInfinity
from semiflat.points import Point
from semiflat.reduction import reduce

EQUAL = 1e-5
"""Where the Hessian is singular a gradient of 1e-12 leaves a point some multiple of its root away: seen are
outputs that differ by 1.2e-6."""


CONSTANT = "constant predictor"
"""How the reason begins of a point whose outputs are the same for every sample."""


def triviality(point: Point) -> str | None:
    """Why a critical point is a trivial one, None if it is not; see :attr:`CriticalPoint.trivial`."""
    problem = point.problem
    if isinstance(problem, AtInfinity):
        return None
    data = OnData(problem, point.params)
    outputs = data.outputs
    best = problem.best_outputs
    size = 1.0 if problem.loss.odds else 1e-300 if best is None else float(best.abs().max())
    size = max(size, float(outputs.abs().max()))
    if float((outputs - outputs.mean(0)).abs().max()) <= EQUAL * size:
        return f"{CONSTANT}: the same output for every sample"
    for layer, (dead, constant, unheard) in enumerate(
        zip(data.dead, data.constant, data.unheard, strict=True)
    ):
        idle = (dead | constant | unheard).nonzero().flatten().tolist()
        if idle:
            return (
                f"dead units {idle} of hidden layer {layer}: 0 or constant on the data, or unheard"
            )
    small = reduce(point, EQUAL)
    if small.widths != problem.net.hidden:
        return (
            f"embedded narrower point: a network of hidden widths {list(small.widths)} computes the "
            "same"
        )
    return None
