"""The one question: what kind of point is this?"""

from __future__ import annotations

from collections.abc import Sequence

from semiflat.errors import InputError
from semiflat.evidence import Evidence
from semiflat.points import EmbeddedPoint, Point
from semiflat.symmetries.flatness import Flatness, flatness
from semiflat.verdicts.embedded import judge_embedded
from semiflat.verdicts.lanczos import judge_large
from semiflat.verdicts.plain import judge_plain
from semiflat.verdicts.verdict import Verdict

DENSE_LIMIT = 4096
"""Parameters up to which a dense Hessian (128 MiB) and its eigenvectors are taken."""


def judge(point: Point, tolerance: float = 1e-10, dense_limit: int = DENSE_LIMIT) -> Verdict:
    """What kind of point it is, on what evidence, and the way down if there is one.

    An embedded point is judged by the inertia law from its narrow source, at a cost that does not
    depend on the width (theory §3; F19 Thms 5, 10, 11; P21 Thms 5–6). A plain point is judged from
    its dense Hessian, or by Lanczos where that is too large.

    Args:
        point: any point: plain, critical or embedded; not a batch of points.
        tolerance: how large ``‖∇R‖∞`` may be at a critical point, relative to the root of the risk
            where that exceeds 1.
        dense_limit: number of parameters up to which the dense Hessian is built.

    Returns:
        A :class:`Verdict`. Its certainty is MEASURED: floating point alone proves nothing.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> sf.judge(sf.Point(problem, problem.net.random_params(0))).kind
    <Kind.NOT_CRITICAL: 'NOT_CRITICAL'>
    """
    return judge_all([point], tolerance, dense_limit)[0]


def judge_all(
    points: Sequence[Point], tolerance: float = 1e-10, dense_limit: int = DENSE_LIMIT
) -> list[Verdict]:
    """The verdict on each point; what points embedded from one source share is computed once.

    Args and errors: as for :func:`judge`.
    """
    known: dict[int, tuple[Evidence, Flatness]] = {}
    verdicts = []
    for point in points:
        if not isinstance(point, Point):
            raise InputError(f"judge takes a Point, not {type(point).__name__}")
        root = point.source if isinstance(point, EmbeddedPoint) else point
        if root.problem.net.check_params(root.params) != ():
            raise InputError(
                "judge takes one point at a time, and this Point holds a batch of them"
            )
        if root.problem.net.parameter_count > dense_limit:
            verdicts.append(judge_large(Point(point.problem, point.params), tolerance))
            continue
        if id(root) not in known:
            evidence = Evidence(root, tolerance)
            known[id(root)] = evidence, flatness(evidence)
        if isinstance(point, EmbeddedPoint):
            verdicts.append(judge_embedded(point, *known[id(root)]))
        else:
            verdicts.append(judge_plain(*known[id(root)]))
    return verdicts
