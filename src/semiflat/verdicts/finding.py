"""What is found out about a point, and the sentences for it, before they become a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from semiflat.problem import Located
from semiflat.verdicts.verdict import Kind, Margin


@dataclass(frozen=True)
class Finding:
    """Kind, margin and reason, before they become a verdict.

    Attributes:
        direction: the way down, (P,), where the kind does not tell which it is; and the curvature along it.
    """

    kind: Kind
    margin: Margin | None
    reason: str
    direction: Tensor | None = None
    curvature: float | None = None


def steep_reason(point: Located, entry: int, slope: float, allowed: float, why: str = "") -> str:
    """Why a point is not critical, by the entry of its gradient that is worst."""
    return (
        f"the gradient's entry for {name_of(point, entry)} is {slope:.2g}, where tolerance and rounding "
        f"allow {allowed:.2g}{why}; {what_next(point)}"
    )


def what_next(point: Located) -> str:
    """What to do with a point that is not critical; what its search knows, if it has been in one."""
    return point.note or "polish the point with find_critical_point(start=…) first"


def name_of(point: Located, entry: int) -> str:
    """A parameter by its place in the flat order: ``"0.weight[2, 1]"``.

    >>> from semiflat.networks import MLP
    >>> from semiflat.points import Point
    >>> from semiflat.problem import Problem
    >>> problem = Problem(MLP([1, 2, 1]), [[0.0]], [0.0])
    >>> name_of(Point(problem, problem.net.random_params(0)), 3)
    '0.bias[1]'
    """
    for key, shape in point.problem.net.shapes.items():
        size = math.prod(shape)
        if entry < size:
            place = (entry,) if len(shape) == 1 else divmod(entry, shape[1])
            return f"{key}[{', '.join(map(str, place))}]"
        entry -= size
    raise IndexError(entry)


def unsettled(point: Located, gradient_norm: float) -> str:
    """Why a gradient within tolerance says nothing where weight decay is that small."""
    return (
        f"the gradient's largest entry, {gradient_norm:.2g}, is within the tolerance, but not small "
        f"against what weight_decay={point.problem.decay} does by itself, so whether the "
        "penalty is balanced is not known: polish the point, or use a larger or no decay"
    )
