"""The verdict on a plain point, from its own dense Hessian."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from semiflat.certificates.in_balls import without_balls
from semiflat.evidence import ENOUGH, TILTED, Evidence, Spectrum
from semiflat.points import EmbeddedPoint
from semiflat.symmetries.families import span
from semiflat.symmetries.flatness import Flatness, steepest_on_moves
from semiflat.verdicts.finding import Finding, steep_reason, unsettled, what_next
from semiflat.verdicts.kinks import classify_kink
from semiflat.verdicts.verdict import (
    NO_HESSIAN,
    Certainty,
    FlatDirections,
    Inertia,
    Kind,
    Margin,
    Verdict,
)

ELSEWHERE = 0.5
"""So many natural units away no curvature tells what is here, however large."""
BEST_FIT = (
    "the outputs are the best there are for every input, to rounding: the loss cannot be lower"
)


def judge_plain(evidence: Evidence, flat: Flatness) -> Verdict:
    """The verdict on a plain point whose dense Hessian fits in memory."""
    found = classify(evidence, flat)
    net = evidence.point.problem.net
    direction, curvature = found.direction, found.curvature
    if found.kind is Kind.NOT_CRITICAL and direction is None:
        direction = -evidence.gradient / torch.linalg.vector_norm(evidence.gradient)
        curvature = float(direction @ evidence.hessian @ direction)
    return Verdict(
        kind=found.kind,
        certainty=Certainty.MEASURED,
        inertia=inertia_of(evidence, flat),
        flat_directions=FlatDirections(
            tuple(flat.families),
            flat.dimension,
            0 if evidence.no_hessian else flat.explained,
            0 if evidence.no_hessian else flat.unexplained,
        ),
        curvature=curvature,
        margin=found.margin,
        reason=found.reason,
        method="dense Hessian",
        gradient_norm=evidence.gradient_norm,
        tolerance=evidence.tolerance,
        build_direction=None if direction is None else partial(net.unflatten, direction.clone()),
    )


def inertia_of(evidence: Evidence, flat: Flatness) -> Inertia:
    """The signs of a point's Hessian; none at a kink, where there is none."""
    if evidence.no_hessian:
        return NO_HESSIAN
    return Inertia(*evidence.spectrum.count(), zeros_explained=flat.explained)


def not_critical(evidence: Evidence) -> Finding | None:
    """The finding on a point that is no critical point, or not differentiable, else None."""
    if evidence.at_kink is not None:
        return classify_kink(evidence)
    if not evidence.critical:
        entry = evidence.worst
        why = " (embeddings keep the outputs, but not the weight penalty)"
        reason = steep_reason(
            evidence.point,
            entry,
            float(evidence.gradient[entry]),
            evidence.tolerance,
            why if _lost_by_embedding(evidence) else "",
        )
        return Finding(Kind.NOT_CRITICAL, None, reason)
    if not evidence.settles_penalty:
        return Finding(Kind.UNDECIDED, None, unsettled(evidence.point, evidence.gradient_norm))
    if evidence.no_hessian:
        return Finding(Kind.UNDECIDED, None, evidence.no_hessian)
    if evidence.near:
        return None
    return Finding(
        Kind.UNDECIDED,
        None,
        f"{evidence.how_far}: no critical point is known to be near; {what_next(evidence.point)}",
    )


def _lost_by_embedding(evidence: Evidence) -> bool:
    """Whether it is an embedded point whose source is critical: only weight decay can tell them apart."""
    point = evidence.point
    return (
        bool(point.problem.decay)
        and isinstance(point, EmbeddedPoint)
        and point.source.evidence.at(evidence.relative_tolerance).critical
    )


def classify(evidence: Evidence, flat: Flatness) -> Finding:
    """Kind, margin and reason of a plain point."""
    early = not_critical(evidence)
    if early is not None:
        return early
    spectrum = evidence.spectrum
    down = spectrum.clearest(-1, _more_than_flat(evidence, flat))
    if down is not None and counts(evidence, flat):
        return Finding(
            Kind.STRICT_SADDLE,
            Margin(*down),
            f"the Hessian{evidence.in_natural_units} has the eigenvalue {down[0]:.3g}, {_times(*down)} its "
            "noise floor below zero",
            *evidence.direction(spectrum.vectors[:, (spectrum.values == down[0]).nonzero()[0, 0]]),
        )
    tightest = spectrum.tightest()
    margin = None if tightest is None else Margin(*tightest)
    hidden = int(spectrum.hidden.sum())
    if flat.has("exact fits"):
        return Finding(
            Kind.MINIMUM, margin, f"{BEST_FIT}, and networks with such outputs form a manifold"
        )
    if evidence.on_data.fit_is_attained and hidden:
        return Finding(Kind.MINIMUM, margin, BEST_FIT)
    if down is not None:
        return too_faint(evidence, flat, f"the Hessian{evidence.in_natural_units}", *down)
    if spectrum.doubtful and tightest is not None:
        return Finding(
            Kind.UNDECIDED,
            margin,
            f"the eigenvalue {tightest[0]:.3g} is only {_times(*tightest)} its noise floor "
            f"{tightest[1]:.2g} away from zero; {ENOUGH:g} times is asked for{_provable(evidence)}",
        )
    positive = len(spectrum.values) - hidden
    if hidden == 0 and tightest is not None:
        return Finding(
            Kind.STRICT_MINIMUM,
            margin,
            f"all {positive} eigenvalues of the Hessian are positive; the least certain is "
            f"{tightest[0]:.3g}{evidence.in_natural_units or ','} {_times(*tightest)} its noise floor",
        )
    return _degenerate(evidence, flat, hidden, positive, margin)


def _degenerate(
    evidence: Evidence, flat: Flatness, hidden: int, positive: int, margin: Margin | None
) -> Finding:
    """A positive semidefinite Hessian with a kernel: is the kernel all flat directions?"""
    spectrum = evidence.spectrum
    floor = spectrum.highest
    joint = flat.joint.shape[1]
    residue = evidence.curvature_along(flat.joint)
    if residue > ENOUGH * floor:  # tangents may be known better in natural units
        natural = evidence.on_data.natural.unit
        own = span([family for family in flat.families if family.joint], natural)
        residue = min(residue, evidence.curvature_along(own, natural))
    slope = steepest_on_moves(evidence.point.problem, evidence.point.params, flat.families)
    if joint == hidden and not evidence.still(slope):
        return Finding(
            Kind.UNDECIDED,
            _least_known(spectrum, flat),
            f"no eigenvalue is negative and the {hidden} zero ones are flat directions, but moves along "
            f"them lead to points that are not critical (gradient {slope:.2g} of what it could be): higher "
            "derivatives decide",
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
            _least_known(spectrum, flat),
            f"{hidden} eigenvalues are zero within their noise floors (up to {floor:.2g}), but {joint} "
            f"flat directions were found, with curvature up to {residue:.2g}: the numbers contradict "
            f"each other, and the point is too badly conditioned to judge{_provable(evidence)}",
        )
    return Finding(
        Kind.UNDECIDED,
        _least_known(spectrum, flat),
        f"no eigenvalue is negative, but of {hidden} zero ones (within floors up to {floor:.2g}) "
        f"{hidden - joint} are not explained by a flat direction: higher derivatives decide, or the "
        f"minimum lies at infinity{_uncentred(evidence)}{_provable(evidence)}",
    )


def counts(evidence: Evidence, flat: Flatness, size: float | None = None) -> bool:
    """Whether curvature is that of a critical point near by.

    Args:
        evidence: of a plain point.
        flat: its flat families.
        size: of the curvature, in natural units; that of the steepest way down if not given.

    Where an eigenvalue may be zero and no flat direction says why, rounding hides how far the critical
    point is along it, if there is one; and so much of the curvature may be made by that distance.
    """
    if bool(evidence.spectrum.decided.all()):
        return True
    steepest = -float(evidence.natural_spectrum.values[0]) if size is None else size
    return _farthest(evidence, flat) <= min(steepest, ELSEWHERE)


def _farthest(evidence: Evidence, flat: Flatness) -> float:
    return evidence.farthest(span(flat.families, evidence.on_data.natural.unit))


def too_faint(
    evidence: Evidence, flat: Flatness, what: str, eigenvalue: float, floor: float
) -> Finding:
    """The finding where a way down was measured that does not count."""
    return Finding(
        Kind.UNDECIDED,
        Margin(eigenvalue, floor),
        f"{what} has the eigenvalue {eigenvalue:.3g}; but rounding hides other curvatures that no flat "
        f"direction explains, and along them a critical point may be {_farthest(evidence, flat):.2g} natural "
        f"units away, or none: so far that it may have none below zero{_provable(evidence)}",
    )


def _more_than_flat(evidence: Evidence, flat: Flatness) -> Tensor:
    """Which eigenvalues are no curvature that the distance makes along flat directions, where there is none.

    They lead beyond the flat directions, or are larger than what is measured along these alone.
    """
    spectrum, joint = evidence.spectrum, flat.joint
    more: Tensor = torch.linalg.vector_norm(flat.beyond(spectrum.vectors), dim=0) > TILTED
    if joint.shape[1]:
        along = joint.mT @ evidence.in_units(evidence.hessian) @ joint
        more = more | (spectrum.values.abs() > ENOUGH * torch.linalg.matrix_norm(along, ord=2))
    return more


def _least_known(spectrum: Spectrum, flat: Flatness) -> Margin:
    """The eigenvalue that is hidden by the most, beyond known flat directions where there is one."""
    open_part = torch.linalg.vector_norm(flat.beyond(spectrum.vectors), dim=0)
    unknown = spectrum.hidden & (open_part > TILTED)
    among = (unknown if bool(unknown.any()) else spectrum.hidden).nonzero().flatten()
    place = among[spectrum.floor[among].argmax()]
    return Margin(float(spectrum.values[place]), float(spectrum.floor[place]))


def _uncentred(evidence: Evidence) -> str:
    """Says so where inputs lie far from 0 beside their spread: units hardly bend there."""
    X = evidence.point.problem.X
    spread = X.std(0, correction=0)
    if not bool((X.mean(0).abs() > 5 * spread)[spread > 0].any()):
        return ""
    return (
        "; inputs lie far from 0 beside their spread, and units hardly bend there: standardise them"
    )


def _provable(evidence: Evidence) -> str:
    """Says where a proof may decide what floating point cannot."""
    unknown = without_balls(evidence.point.problem)
    return "" if unknown else "; judge(…, proof=True), with more digits, may decide"


def _times(eigenvalue: float, floor: float) -> str:
    ratio = abs(eigenvalue) / floor if floor else float("inf")
    return f"{ratio:.2g} times" if ratio < 1e4 else f"{ratio:.0e} times"
