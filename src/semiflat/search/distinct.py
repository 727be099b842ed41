"""Which of the critical points that runs ended at are one and the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from semiflat.search.joined import joined
from semiflat.search.record import CriticalPoint
from semiflat.symmetries.canonical import same_network

SAME_LOSS = 1e-8
"""Relative difference up to which two losses may belong to one critical point."""
SAME_OUTPUT = 1e-5
"""Difference of two functions on the data, in parts of their spread, up to which they are one. Where
the Hessian is singular a point is located to the root of what its gradient is, or worse."""


@dataclass
class Found:
    """Runs that ended at one critical point, or at one function.

    Attributes:
        runs: that ended at one point, the lowest first, or on one connected set of critical points, the
            one of fewest zero eigenvalues first: where pieces of a set meet, less can be said.
        apart: whose points are degenerate, compute the same function, and were not shown to be
            connected with those.
    """

    runs: list[CriticalPoint]
    apart: list[CriticalPoint] = field(default_factory=list)


def classes(points: Sequence[CriticalPoint]) -> list[Found]:
    """The points grouped by what they are, in the order of each group's first.

    Two isolated points are one if they are one network modulo the activations' symmetries. Where the
    Hessian is singular critical points come in sets, of which every run finds another point. Those
    with one function on the data (Z22's *critical function*) are one as far as paths of critical points
    between them are found, whatever their inertias: these differ where pieces of a set meet.

    Args:
        points: of one problem, in ascending order of their losses.
    """
    groups: list[list[CriticalPoint]] = []
    for point in points:
        for group in reversed(groups):
            if not _near(group[0].loss, point.loss):
                groups.append([point])
                break
            if _same_function(group[0], point) or same_network(
                point.problem.net, group[0].params, point.params
            ):
                group.append(point)
                break
        else:
            groups.append([point])
    return [_split(group) for group in groups]


def _split(group: list[CriticalPoint]) -> Found:
    # At infinity one function is one point: no paths are known there.
    known = group[0].problem.by_algebra and all(_singular(point) for point in group)
    if len(group) == 1 or not known:
        return Found(group)
    together = joined(group)
    found = Found([])
    for point, one in zip(group, together, strict=True):
        (found.runs if one else found.apart).append(point)
    found.runs.sort(key=_zeros)
    return found


def _singular(point: CriticalPoint) -> bool:
    return _zeros(point) > 0


def _zeros(point: CriticalPoint) -> int:
    return 0 if point.record.inertia is None else point.record.inertia[1]


def _near(one: float, other: float) -> bool:
    return abs(one - other) <= SAME_LOSS * max(abs(other), 1e-12)


def _same_function(one: CriticalPoint, other: CriticalPoint) -> bool:
    """Whether two points with singular Hessians have the same outputs on the data."""
    if not (_singular(one) and _singular(other)):
        return False
    problem = other.problem
    first, second = (problem.outputs(each.params) for each in (one, other))
    if problem.loss.shift_invariant:
        first, second = (f - f.mean(-1, keepdim=True) for f in (first, second))
    # Constants lie as near as the targets are wide; where these are classes outputs are logarithms of odds.
    width = 1.0 if problem.loss.odds else float(problem.spread(problem.y.double()).max())
    spread = max(width, float(first.std(0, correction=0).max()), float(first.abs().max() * 1e-3))
    return float((first - second).abs().max()) <= SAME_OUTPUT * spread
