"""A minimum of a limiting network: is it one among the finite networks that tend to it, too?"""

from __future__ import annotations

from dataclasses import replace

from semiflat.limits import AtInfinity, Form, Limit
from semiflat.points import EmbeddedPoint, Point
from semiflat.verdicts.verdict import MINIMA, Kind, Verdict


def approached(point: Point, verdict: Verdict) -> Verdict:
    """The verdict on a point of a limiting network, finite networks next to it counted in.

    Second derivatives are those of the limiting network. A saddle of it is one of the closure. A minimum is
    one if every finite network next to it that is tried has a larger loss, and so has every step that lets
    go of a sample; that is measured.
    """
    problem = point.problem
    if not isinstance(problem, AtInfinity):
        return verdict
    units = sum(form is not Form.UNIT for row in problem.net.forms for form in row)
    where = f"of the limiting network ({units} unit(s) at infinity{_copied(point)})"
    if verdict.kind not in MINIMA:
        return replace(verdict, reason=f"{verdict.reason}; all {where}")
    limit = Limit.of(point)
    lower = [rate for rate in limit.rates if rate.gap < -limit.noise]
    if lower:
        return replace(
            verdict,
            kind=Kind.UNDECIDED,
            reason=f"a {verdict.kind.label} {where}, but no local minimum: finite networks next to it have "
            f"less loss, by {-min(rate.gap for rate in lower):.2g} where unit {lower[0].unit} of hidden layer "
            f"{lower[0].layer} comes back",
        )
    if not limit.held:
        return replace(
            verdict,
            kind=Kind.UNDECIDED,
            reason=f"a {verdict.kind.label} {where}; but whether finite networks next to it have more loss, "
            "or a step would rather let go of a sample, is within rounding or beyond the order looked at",
        )
    return replace(
        verdict,
        reason=f"{verdict.reason}; all {where}, and every finite network next to it that was tried has more "
        "loss",
    )


def _copied(point: Point) -> str:
    """What the copies of branches stand for among finite units."""
    if not isinstance(point, EmbeddedPoint):
        return ""
    net = point.source.problem.net
    found = [
        f"; each copy of unit {unit} of hidden layer {layer} stands for {len(branch)} finite units"
        for layer in range(len(net.hidden))
        for unit in net.heads(layer)
        if len(branch := net.branch(layer, unit)) > 1
        and sum(count for _, count in point.unit_map.shares(layer, unit)) > 1
    ]
    return "".join(found)
