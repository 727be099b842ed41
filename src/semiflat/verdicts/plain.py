"""The verdict on a plain point, from its own dense Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.evidence import ENOUGH, Evidence
from semiflat.points import EmbeddedPoint, Point
from semiflat.symmetries.flatness import Flatness, steepest_on_moves
from semiflat.verdicts.verdict import Certainty, FlatDirections, Inertia, Kind, Margin, Verdict


@dataclass(frozen=True)
class Finding:
    """Kind, margin and reason, before they become a verdict."""

    kind: Kind
    margin: Margin | None
    reason: str


def judge_plain(evidence: Evidence, flat: Flatness) -> Verdict:
    """The verdict on a plain point whose dense Hessian fits in memory."""
    found = classify(evidence, flat)
    spectrum = evidence.spectrum
    direction: Tensor | None = None
    curvature: float | None = None
    if found.kind is Kind.NOT_CRITICAL:
        direction = -evidence.gradient / torch.linalg.vector_norm(evidence.gradient)
        curvature = float(direction @ evidence.hessian @ direction)
    elif found.kind is Kind.STRICT_SADDLE:
        direction, curvature = spectrum.vectors[:, 0], float(spectrum.values[0])
    net = evidence.point.problem.net
    return Verdict(
        kind=found.kind,
        certainty=Certainty.MEASURED,
        inertia=Inertia(*spectrum.count()),
        flat_directions=FlatDirections(
            tuple(flat.families), flat.dimension, flat.explained, flat.unexplained
        ),
        curvature=curvature,
        margin=found.margin,
        reason=found.reason,
        method="dense Hessian",
        gradient_norm=evidence.gradient_norm,
        tolerance=evidence.tolerance,
        build_direction=None if direction is None else lambda: net.unflatten(direction.clone()),
    )


def not_critical(evidence: Evidence) -> Finding | None:
    """The finding on a point that is no critical point, or not differentiable, else None."""
    if not evidence.critical:
        why = ""
        if _lost_by_embedding(evidence):
            why = " (embeddings keep the outputs, but not the weight penalty)"
        return Finding(
            Kind.NOT_CRITICAL,
            None,
            f"the gradient's largest entry is {evidence.gradient_norm:.2g}, above the tolerance "
            f"{evidence.tolerance:.2g}{why}; polish the point with find_critical_point(start=…) first",
        )
    if not evidence.on_data.settles_penalty(evidence.gradient_norm):
        return Finding(Kind.UNDECIDED, None, unsettled(evidence.point, evidence.gradient_norm))
    kink = evidence.on_data.at_kink()
    if kink is not None:
        layer, unit, sample = kink
        return Finding(
            Kind.UNDECIDED,
            None,
            f"the loss is not differentiable here: unit {unit} of hidden layer {layer} has "
            f"pre-activation 0 on sample {sample}, where its activation has a kink",
        )
    return None


def _lost_by_embedding(evidence: Evidence) -> bool:
    """Whether it is an embedded point whose source is critical: only weight decay can tell them apart."""
    point = evidence.point
    return (
        point.problem.weight_decay > 0
        and isinstance(point, EmbeddedPoint)
        and bool(point.source.gradient_norm <= evidence.tolerance)
    )


def unsettled(point: Point, gradient_norm: float) -> str:
    """Why a gradient within tolerance says nothing where weight decay is that small."""
    return (
        f"the gradient's largest entry, {gradient_norm:.2g}, is within the tolerance, but not small "
        f"against what weight_decay={point.problem.weight_decay:.2g} does by itself, so whether the "
        "penalty is balanced is not known: polish the point, or use a larger or no decay"
    )


def classify(evidence: Evidence, flat: Flatness) -> Finding:
    """Kind, margin and reason of a plain point."""
    early = not_critical(evidence)
    if early is not None:
        return early
    spectrum = evidence.spectrum
    down = spectrum.clearest(-1)
    if down is not None:
        return Finding(
            Kind.STRICT_SADDLE,
            Margin(*down),
            f"the Hessian has the eigenvalue {down[0]:.3g}, {_times(*down)} its noise floor below zero",
        )
    tightest = spectrum.tightest()
    margin = None if tightest is None else Margin(*tightest)
    hidden = int(spectrum.hidden.sum())
    if _zero_loss(evidence):
        return Finding(
            Kind.MINIMUM if hidden or spectrum.doubtful else Kind.STRICT_MINIMUM,
            margin,
            "the loss is zero up to rounding, and it cannot be lower",
        )
    if spectrum.doubtful and tightest is not None:
        return Finding(
            Kind.UNDECIDED,
            margin,
            f"the eigenvalue {tightest[0]:.3g} is only {_times(*tightest)} its noise floor "
            f"{tightest[1]:.2g} away from zero; {ENOUGH:g} times is asked for",
        )
    positive = len(spectrum.values) - hidden
    if hidden == 0 and tightest is not None:
        return Finding(
            Kind.STRICT_MINIMUM,
            margin,
            f"all {positive} eigenvalues of the Hessian are positive; the least certain is "
            f"{tightest[0]:.3g}, {_times(*tightest)} its noise floor",
        )
    return _degenerate(evidence, flat, hidden, positive, margin)


def _degenerate(
    evidence: Evidence, flat: Flatness, hidden: int, positive: int, margin: Margin | None
) -> Finding:
    """A positive semidefinite Hessian with a kernel: is the kernel all flat directions?"""
    floor = float(evidence.spectrum.floor.max())
    joint = flat.joint.shape[1]
    residue = (
        float(torch.linalg.matrix_norm(evidence.hessian @ flat.joint, ord=2)) if joint else 0.0
    )
    slope = steepest_on_moves(evidence.point.problem, evidence.point.params, flat.families)
    if joint == hidden and slope > evidence.still:
        return Finding(
            Kind.UNDECIDED,
            margin,
            f"no eigenvalue is negative and the {hidden} zero ones are flat directions, but moves along "
            f"them lead to points that are not critical (gradient {slope:.2g}): higher derivatives decide",
        )
    if joint == hidden and residue <= ENOUGH * floor:
        names = ", ".join(sorted({family.name for family in flat.families if family.joint}))
        return Finding(
            Kind.MINIMUM,
            margin,
            f"{positive} eigenvalues are positive and the {hidden} zero ones are directions along "
            f"which the loss is constant ({names})",
        )
    if joint > hidden or residue > ENOUGH * floor:
        return Finding(
            Kind.UNDECIDED,
            margin,
            f"{hidden} eigenvalues are zero within their noise floors (up to {floor:.2g}), but {joint} "
            f"flat directions were found, with curvature up to {residue:.2g}: the numbers contradict "
            "each other, and the point is too badly conditioned to judge",
        )
    return Finding(
        Kind.UNDECIDED,
        margin,
        f"no eigenvalue is negative, but of {hidden} zero ones (within floors up to {floor:.2g}) "
        f"{hidden - joint} are not explained by a flat direction: higher derivatives decide, or the "
        "minimum lies at infinity",
    )


def _zero_loss(evidence: Evidence) -> bool:
    problem = evidence.point.problem
    return problem.loss.lower_bound == 0.0 and evidence.on_data.fits_exactly


def _times(eigenvalue: float, floor: float) -> str:
    ratio = abs(eigenvalue) / floor if floor else float("inf")
    return f"{ratio:.2g} times" if ratio < 1e4 else f"{ratio:.0e} times"
