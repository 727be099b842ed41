"""One answer for any point: what it is, what is near it, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Callable

from semiflat.costs import Cost, dense_cost, product_seconds
from semiflat.curvature.products import KEPT_BYTES
from semiflat.diagnosis.curvature import krylov_steps, of_evidence, of_products
from semiflat.diagnosis.gradient import by_layer
from semiflat.diagnosis.polish import Goal, Polished, polish, polish_cost
from semiflat.diagnosis.result import Diagnosis
from semiflat.diagnosis.way_out import MOST_UNITS, WayOut, way_out
from semiflat.errors import finite_number, whole
from semiflat.evidence import OnData, Unbuilt
from semiflat.points import EmbeddedPoint, Point
from semiflat.reduction import widths_by_tolerance
from semiflat.verdicts import judge
from semiflat.verdicts.dispatch import check_point
from semiflat.verdicts.verdict import MINIMA

DENSE = 1000
"""Parameters up to which dense Hessians are built: a minute or so in all."""
TOLERANCES = (0.0, 1e-3, 1e-2, 1e-1)
"""Changes of the outputs, in parts of their spread, that widths are told for."""
MOST_MERGED = 1000
"""Units of a layer up to which widths are told: merging takes seconds for thousands."""


def diagnose(
    point: Point,
    tolerance: float = 1e-10,
    *,
    dense_limit: int = DENSE,
    say: Callable[[str], None] | None = None,
) -> Diagnosis:
    """What a network is that somebody trained: any point, critical or not.

    In this order: the gradient, layer by layer; the curvatures that are surely negative, and what a step
    along the lowest takes off the loss; where polishing leads by the steps of :func:`run_search`, how far
    that is, and the verdict there; the directions along which the loss is constant; how wide the network
    is in effect; and what one unit more would take off. Each is a sentence and numbers, and one piece of
    advice follows from them.

    It takes a bounded number of steps. Up to ``dense_limit`` parameters Hessians are built; beyond, there
    are products with them alone: eigenvalues are then counted as far as Lanczos steps show them, and no
    way out is looked for. Limiting networks are looked for up to 500 parameters. What is not done is said.

    Args:
        point: any point: of :meth:`Point.from_module`, :meth:`Point.from_sklearn` or a file, embedded, or of
            a limiting network.
        tolerance: as for :func:`judge`.
        dense_limit: number of parameters up to which Hessians are built.
        say: is told, in a line each, what it will take, where that is much, and what is done next. By
            default what it will take is logged, as a warning of the logger ``semiflat``.

    Raises:
        InputError: for anything but one point of a float64 problem, or numbers that make no sense.

    >>> import torch
    >>> import semiflat as sf
    >>> module = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1))
    >>> X = torch.linspace(-1, 1, 20)[:, None]
    >>> y = torch.sin(2 * X)
    >>> with torch.no_grad():
    ...     for parameter in module.parameters():
    ...         _ = parameter.fill_(0.5)
    >>> found = sf.diagnose(sf.Point.from_module(module, X, y))
    >>> found.verdict.kind, found.polished.goal, found.polished.verdict.kind
    (<Kind.NOT_CRITICAL: 'NOT_CRITICAL'>, <Goal.CRITICAL: 'CRITICAL'>, <Kind.STRICT_MINIMUM: 'STRICT_MINIMUM'>)
    >>> found.polished.loss < found.point.loss / 10
    True
    >>> print(found.advice)
    Train on, or take diagnosis.polished.point: 99.8 % of the loss is still there before the ...
    """
    check_point(point, "diagnose")
    tolerance = finite_number("tolerance", tolerance)
    dense_limit = whole("dense_limit", dense_limit)
    cost = diagnose_cost(point, dense_limit)
    if cost.words:
        line = f"the diagnosis will take up to {cost.words}"
        (say or logging.getLogger("semiflat").warning)(line)
    tell = say or (lambda line: None)
    tell("gradient and curvature")
    verdict = judge(point, tolerance, dense_limit=dense_limit)
    # Embedded points are judged from their source; the rest looks at the network as it is.
    here = point.materialize() if isinstance(point, EmbeddedPoint) else point
    problem, net = here.problem, here.problem.net
    data = OnData(problem, here.params)
    dense = net.parameter_count <= dense_limit
    if dense:
        evidence = here.evidence.at(tolerance)
        no_hessian, gradient_within = evidence.no_hessian, evidence.critical
        curvature = None if no_hessian else of_evidence(here, evidence)
    else:
        unbuilt = Unbuilt(here, tolerance)
        no_hessian, gradient_within = unbuilt.no_hessian, unbuilt.within
        curvature = None if no_hessian else of_products(here, unbuilt)
    tell("where polishing leads")
    polished = polish(here, verdict, tolerance, dense_limit)
    tell("effective width")
    widths = (
        widths_by_tolerance(here, TOLERANCES) if max(net.hidden, default=0) <= MOST_MERGED else []
    )
    tell("the way out with one unit more")
    out, why_none = _way_out(polished, tolerance, dense_limit)
    return Diagnosis(
        point=here,
        verdict=verdict,
        gradient=by_layer(here, data),
        steep=not gradient_within,
        curvature=curvature,
        no_hessian=no_hessian,
        dense=dense,
        polished=polished,
        widths=tuple(widths),
        way_out=out,
        why_no_way_out=why_none,
    )


def _way_out(polished: Polished, tolerance: float, dense: int) -> tuple[WayOut | None, str]:
    """The way out, or why none was looked for."""
    there, verdict = polished.point, polished.verdict
    if polished.goal is Goal.FIT or there is None or verdict is None:
        return None, ""
    problem, net = there.problem, there.problem.net
    if problem.outputs_alone and problem.fits(there.loss):
        return None, ""
    if verdict.kind not in MINIMA or not net.hidden:
        return None, ""
    if net.parameter_count > dense or sum(net.hidden) > MOST_UNITS:
        return None, f"not looked for above {dense} parameters or {MOST_UNITS} hidden units"
    return way_out(there, tolerance, dense), ""


def diagnose_cost(point: Point, dense_limit: int = DENSE) -> Cost:
    """What a diagnosis will take at most: a forecast, and most of them take much less."""
    problem, net = point.problem, point.problem.net
    size, samples = net.parameter_count, problem.samples
    polishing = polish_cost(problem, dense_limit)
    if size <= dense_limit:
        one = dense_cost(size, samples)
        # The evidence here, there and of the search, in up to three units each.
        return Cost(polishing.seconds + 9 * one.seconds, max(polishing.bytes, one.bytes))
    steps = krylov_steps(size, samples)
    seconds = 6 * steps * product_seconds(size, samples)
    return Cost(polishing.seconds + seconds, max(polishing.bytes, 8 * size * steps + KEPT_BYTES))
