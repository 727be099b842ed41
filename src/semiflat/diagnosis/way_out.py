"""What one unit more would take off the loss, where training has come to an end."""

from __future__ import annotations

from dataclasses import dataclass

from semiflat.diagnosis.curvature import down
from semiflat.diagnosis.polish import steps_from
from semiflat.limits import AtInfinity
from semiflat.points import EmbeddedPoint, Point
from semiflat.records.shown import Shown
from semiflat.search import Status
from semiflat.verdicts import Escape, escape

MOST_UNITS = 64
"""Hidden units up to which each is tried for a way out."""


@dataclass(frozen=True)
class WayOut(Shown):
    """The way out of a minimum that more units open.

    Attributes:
        escape: the widening, and the strict saddle that the minimum becomes; it says why if there is none.
        step: the length of the best step along its direction that was tried.
        drop: what this step takes off the loss.
        reached: the loss where polishing led from there, in the wider network; None where it was not tried.
        status: how it ended there.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> out = sf.diagnose(point).way_out
    >>> out.escape.new_units, out.drop > 0, out.reached < point.loss - out.drop
    (1, True, True)
    """

    escape: Escape
    step: float
    drop: float
    reached: float | None
    status: Status | None


def way_out(point: Point, tolerance: float, dense: int) -> WayOut:
    """The way out of a minimum, finite or at infinity, and what it takes off."""
    found = escape(point, tolerance)
    if found.point is None or found.direction is None:
        return WayOut(found, 0.0, 0.0, None, None)
    wide = found.point.materialize() if isinstance(found.point, EmbeddedPoint) else found.point
    problem, net = wide.problem, wide.problem.net
    way, step, drop = down(wide, net.flatten(found.direction))
    if isinstance(problem, AtInfinity) or not drop:
        return WayOut(found, step, drop, None, None)
    left = net.unflatten(net.flatten(wide.params) + step * way)
    run = steps_from(problem, left, dense)
    if run is None or not run.loss <= wide.loss - drop:
        return WayOut(found, step, drop, None, None)
    return WayOut(found, step, drop, run.loss, run.status)
