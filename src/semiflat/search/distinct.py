"""Which of the critical points that runs ended at are one and the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from semiflat.search.record import CriticalPoint
from semiflat.symmetries.canonical import same_network

SAME_LOSS = 1e-8
"""Relative difference up to which two losses may belong to one critical point."""
SAME_OUTPUT = 1e-5
"""Difference of two functions on the data, in parts of their spread, up to which they are one. Where
the Hessian is singular a point is located to the root of what its gradient is, or worse."""


def classes(points: Sequence[CriticalPoint]) -> list[list[CriticalPoint]]:
    """The points grouped by what they are, in the order of each group's first.

    Two isolated points are one if they are one network modulo the activations' symmetries. Where the
    Hessian is singular, critical points come in sets, of which every run finds another point: two are
    one if they have the same inertia and the same function on the data (Z22's *critical function*).

    Args:
        points: of one problem, in ascending order of their losses.
    """
    groups: list[list[CriticalPoint]] = []
    for point in points:
        for group in reversed(groups):
            if not _near(group[0].loss, point.loss):
                groups.append([point])
                break
            if _same(group[0], point):
                group.append(point)
                break
        else:
            groups.append([point])
    return groups


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_LOSS * max(abs(other), 1e-12)


def _same(one: CriticalPoint, other: CriticalPoint) -> bool:
    net, inertia = other.problem.net, other.record.inertia
    if same_network(net, one.params, other.params):
        return True
    if inertia is None or inertia[1] == 0 or inertia != one.record.inertia:
        return False
    first, second = (net.forward(each.params, each.problem.X) for each in (one, other))
    if other.problem.loss.shift_invariant:
        first, second = (f - f.mean(-1, keepdim=True) for f in (first, second))
    spread = float(torch.maximum(first.std(0, correction=0).max(), first.abs().max() * 1e-3))
    if other.problem.loss.name == "squared":  # constants lie as near as the targets are wide
        spread = max(spread, float(other.problem.y.std(0, correction=0).max()))
    return float((first - second).abs().max()) <= SAME_OUTPUT * spread
