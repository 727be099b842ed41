"""What a narrow point says of any of its critical embeddings, however wide (Z22 Thm 6.2)."""

from __future__ import annotations

from functools import partial

import torch

from semiflat.embeddings.widening import Widening
from semiflat.evidence import Evidence
from semiflat.networks import Params
from semiflat.points import EmbeddedPoint, Point
from semiflat.verdicts.plain import not_critical
from semiflat.verdicts.verdict import Certainty, Kind, Margin, Verdict


def judge_irreversibly(point: Point, evidence: Evidence) -> Verdict | None:
    """A strict saddle stays one under an embedding that keeps points critical; else None.

    ``AᵀH_wA`` is the narrow Hessian, so a narrow direction of negative curvature, lifted, is a wide
    one. ``evidence`` is the source's.
    """
    assert isinstance(point, EmbeddedPoint)
    down = evidence.spectrum.clearest(-1)
    if down is None or not_critical(evidence) or point.embedding.preserves_criticality is not True:
        return None
    net = evidence.point.problem.net
    along, curvature = evidence.direction(evidence.spectrum.vectors[:, 0])
    narrow = net.unflatten(along)
    direction = point.widening.lift(narrow)
    squares = torch.stack([tensor.square().sum() for tensor in direction.values()])
    length = float(squares.sum().sqrt())
    return Verdict(
        kind=Kind.STRICT_SADDLE,
        certainty=Certainty.MEASURED,
        inertia=None,
        flat_directions=None,
        curvature=curvature / length**2,
        margin=Margin(*down),
        reason=f"the narrow Hessian has the eigenvalue {down[0]:.3g}, and no critical embedding loses it",
        method="irreversibility",
        gradient_norm=evidence.gradient_norm,
        tolerance=evidence.tolerance,
        build_direction=partial(_lifted, point.widening, narrow, length),
    )


def _lifted(widening: Widening, narrow: Params, length: float) -> Params:
    return {key: t / length for key, t in widening.lift(narrow).items()}
