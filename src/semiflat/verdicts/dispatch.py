"""The one question: what kind of point is this?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from semiflat.costs import DENSE_LIMIT, Cost, dense_cost, product_seconds, speed
from semiflat.curvature.products import KEPT_BYTES
from semiflat.errors import InputError, finite_number, switch, whole
from semiflat.evidence import Evidence
from semiflat.points import EmbeddedPoint, Point, check_one
from semiflat.progress import counted
from semiflat.symmetries.flatness import Flatness, flatness
from semiflat.verdicts.embedded import judge_embedded
from semiflat.verdicts.infinity import approached
from semiflat.verdicts.irreversible import judge_irreversibly
from semiflat.verdicts.lanczos import SCALED, STEPS, judge_large
from semiflat.verdicts.layout import Layout, layout
from semiflat.verdicts.plain import inertia_of, judge_plain
from semiflat.verdicts.proved import with_proofs
from semiflat.verdicts.verdict import Verdict


def judge(
    point: Point,
    tolerance: float = 1e-10,
    *,
    dense_limit: int = DENSE_LIMIT,
    proof: bool = False,
) -> Verdict:
    """What kind of point it is, on what evidence, and the way down if there is one.

    An embedded point is judged by the inertia law from its narrow source, at a cost that does not
    depend on the width (theory §3; F19 Thms 5, 9, 10, 11; P21 Thms 5–6). Where units were added that
    are no copies, the law holds over a core that has them; where that is too large, only what the
    narrow point implies is said (Z22 Thm 6.2). A plain point is judged from its dense Hessian, or by
    Lanczos where that is too large.

    With weight decay the laws do not hold: embeddings keep the outputs, but not the penalty. An
    embedded point is then judged as the plain point it is, and is rarely critical.

    Args:
        point: any point: plain, critical or embedded.
        tolerance: how large an entry of the gradient may be at a critical point, in parts of what it
            would be if its terms did not cancel: so that the units of data, targets and weights do not
            matter. What rounding may do to an entry is let pass in any case.
        dense_limit: number of parameters up to which the dense Hessian is built.
        proof: whether to prove the verdict in ball arithmetic (:func:`semiflat.certify`).

    Returns:
        A :class:`Verdict`. Its certainty is MEASURED, as floating point alone proves nothing; PROVED
        only with ``proof`` and where the proof succeeds, of the exact critical point next to this
        one. ``verdict.certificate`` then holds the proof, or what it failed on.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> sf.judge(sf.Point(problem, problem.net.random_params(0))).kind
    <Kind.NOT_CRITICAL: 'NOT_CRITICAL'>
    """
    return judge_all([point], tolerance, dense_limit=dense_limit, proof=proof)[0]


def judge_all(
    points: Sequence[Point],
    tolerance: float = 1e-10,
    *,
    dense_limit: int = DENSE_LIMIT,
    proof: bool = False,
    progress: bool = False,
) -> list[Verdict]:
    """The verdict on each point; what points embedded from one source share is computed once.

    Args and errors: as for :func:`judge`; with ``progress=True`` a bar counts the points, in a terminal or a
    notebook.

    >>> import semiflat as sf
    >>> import torch
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> point = sf.find_critical_point(problem, starts=8)
    >>> wide = [sf.Replicate(0, 0, [share, 1 - share])(point) for share in (0.25, 0.5, 2.0)]
    >>> [verdict.kind.label for verdict in sf.judge_all(wide)]
    ['minimum', 'minimum', 'strict saddle']
    """
    tolerance = finite_number("tolerance", tolerance)
    if tolerance < 0:
        raise InputError(f"tolerance must be a finite number from 0 up, not {tolerance!r}")
    dense_limit = whole("dense_limit", dense_limit)
    switch("proof", proof)
    if not isinstance(points, list | tuple):
        raise InputError("judge_all takes a list of points; use judge(point) for one")
    # By id: the evidence keeps its point, so no other can get its address.
    known: dict[int, tuple[Evidence, Flatness]] = {}

    def of(root: Point) -> tuple[Evidence, Flatness]:
        if id(root) not in known:
            evidence = root.evidence.at(tolerance)
            known[id(root)] = evidence, flatness(evidence)
        return known[id(root)]

    verdicts = []
    for point in counted(points, "judge", progress):
        check_point(point)
        parts = None
        if isinstance(point, EmbeddedPoint) and point.problem.by_algebra:
            parts = layout(point)
        root = point if parts is None else parts.core
        if parts is None and root.problem.net.parameter_count <= dense_limit:
            verdicts.append(approached(root, judge_plain(*of(root))))
        elif parts is None or parts.source.problem.net.parameter_count > dense_limit:
            verdicts.append(judge_large(Point(point.problem, point.params), tolerance))
        elif parts.plain:
            verdicts.append(judge_embedded(parts, of))
        else:
            verdicts.append(_judge_with_core(point, parts, of, tolerance, dense_limit))
    return with_proofs(points, verdicts) if proof else verdicts


def judge_cost(point: Point) -> Cost:
    """What the verdict on a plain point will take; an embedded one is judged from its narrow source."""
    root, net = point, point.problem.net
    if isinstance(point, EmbeddedPoint) and point.problem.by_algebra:
        root, net = point.source, point.source.problem.net
    size, samples = net.parameter_count, root.problem.samples
    if size <= DENSE_LIMIT:
        return dense_cost(size, samples)
    # Half of the products are for the Newton step; the others are kept and made orthogonal.
    seconds = 2 * (STEPS + SCALED) * product_seconds(size, samples)
    return Cost(seconds + 16 * size * SCALED**2 / speed(), 8 * size * SCALED + KEPT_BYTES)


def _judge_with_core(
    point: Point,
    parts: Layout,
    of: Callable[[Point], tuple[Evidence, Flatness]],
    tolerance: float,
    dense_limit: int,
) -> Verdict:
    """A point with added units that are no copies: exact over its core if that is small enough."""
    at_least = inertia_of(*of(parts.source))
    if parts.core.problem.net.parameter_count <= dense_limit:
        return replace(judge_embedded(parts, of), at_least=at_least)
    found = judge_irreversibly(point, of(parts.source)[0])
    if found is None:
        found = judge_large(Point(point.problem, point.params), tolerance)
    return replace(found, at_least=at_least)


def check_point(point: Point, what: str = "judge") -> None:
    """Raise :class:`InputError` for anything but one point."""
    check_one(point, what)
    root = point.source if isinstance(point, EmbeddedPoint) else point
    if root.problem.dtype != torch.float64:
        raise InputError(
            f"a verdict needs float64, the problem computes in {root.problem.dtype}; leave dtype away "
            "(data of any precision are taken)"
        )
    if not math.isfinite(root.loss):
        raise InputError(
            f"the loss at the point is {root.loss}, as its outputs are too large for float64; nothing can be "
            "said of it: scale the data, or start from smaller parameters"
        )
