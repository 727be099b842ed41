"""The verdict on an embedded point, from narrow quantities alone: the inertia law (theory §3).

In coordinates fitted to the embedding the wide Hessian is block diagonal,

    H_wide ≅ H_narrow ⊕ (AΛAᵀ ⊗ K_u, each replicated unit u) ⊕ (σ'(α) [[0, F∅], [F∅ᵀ, 0]], each null unit),

and AΛAᵀ has p − 1 positive, q negative and z zero eigenvalues for shares λ with p positive, q negative
and z zero entries (a zero share contributes [[0, F], [Fᵀ, 0]]). So the signs of the wide Hessian's
eigenvalues cost what the narrow ones cost, at any width.

Scaled and mirrored copies are a linear change of the wide parameters that leaves the loss as it is, so
their Hessian is congruent to that of copies with the shares λ = γβ. Units inactive on the data add zero
rows and columns (F19 eq. 12). Units with weights of their own (inactive ones of smooth activations,
inactive propagation, F19 eqs. 42–43; general compatible maps) belong to a core network whose Hessian is
taken in full, and the law holds over that core.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from semiflat.embeddings import Composition, Embedding, Replicate
from semiflat.embeddings.directions import WideDirection, lifted
from semiflat.embeddings.unit_map import UnitMap
from semiflat.evidence import Evidence, OnData
from semiflat.points import EmbeddedPoint, Point
from semiflat.symmetries.families import flat_families
from semiflat.symmetries.flatness import Flatness, steepest_on_moves
from semiflat.verdicts.finding import Finding
from semiflat.verdicts.layout import Layout
from semiflat.verdicts.plain import BEST_FIT, classify, counts, not_critical, too_faint
from semiflat.verdicts.surplus import Surplus, added
from semiflat.verdicts.verdict import (
    MINIMA,
    NO_HESSIAN,
    Certainty,
    FlatDirections,
    Inertia,
    Kind,
    Margin,
    Verdict,
)

Known = Callable[[Point], tuple[Evidence, Flatness]]
"""Gives what is known of a plain point, computed once."""


def judge_embedded(point: Layout, of: Known) -> Verdict:
    """The verdict on an embedded point."""
    evidence, flat = of(point.core)
    surplus = added(point, evidence, flat)
    positive, _, negative = evidence.spectrum.count()
    positive += sum(part.positive for part in surplus)
    negative += sum(part.negative for part in surplus)
    zero = point.wide.parameter_count - positive - negative
    explained = flat.explained + sum(part.explained for part in surplus)
    found = _classify(point, evidence, flat, surplus, of)
    direction: WideDirection | None = None
    if found.kind is Kind.NOT_CRITICAL:
        direction = _down_the_gradient(point, evidence)
    elif found.kind is Kind.STRICT_SADDLE:
        direction = _steepest(point, evidence, surplus)
    if direction is not None:
        direction = point.padded(direction)
    return Verdict(
        kind=found.kind,
        certainty=Certainty.MEASURED,
        inertia=NO_HESSIAN
        if evidence.no_hessian
        else Inertia(positive, zero, negative, zeros_explained=explained),
        flat_directions=FlatDirections(
            (*flat.families, *(family for part in surplus for family in part.families)),
            flat.dimension + sum(f.dimension for part in surplus for f in part.families),
            0 if evidence.no_hessian else explained,
            0 if evidence.no_hessian else zero - explained,
        ),
        curvature=None if direction is None else direction.curvature,
        margin=found.margin,
        reason=found.reason,
        method=_method(point),
        gradient_norm=evidence.gradient_norm,
        tolerance=evidence.tolerance,
        build_direction=None if direction is None else direction.build,
    )


def _method(point: Layout) -> str:
    if point.plain:
        return "inertia law"
    if point.net == point.core.problem.net and point.units == UnitMap.identity(point.net):
        return "dense Hessian"
    return f"inertia law over a core of {point.core.problem.net.parameter_count} parameters"


def _classify(
    point: Layout, evidence: Evidence, flat: Flatness, surplus: list[Surplus], of: Known
) -> Finding:
    early = not_critical(evidence) or _null_kink(point)
    if early is not None:
        return early
    narrow = classify(evidence, flat)
    if narrow.kind is Kind.STRICT_SADDLE:
        return Finding(narrow.kind, narrow.margin, f"the {point.name} is one: {narrow.reason}")
    faint = None
    for part in surplus:
        for spectrum, sign, own in part.escapes:
            way_down, natural = spectrum.clearest(-sign), own.clearest(-sign)
            if way_down is None:
                continue
            if counts(evidence, flat, abs(natural[0]) if natural else 0.0):
                return Finding(
                    Kind.STRICT_SADDLE,
                    Margin(*way_down),
                    f"{part.what} has the deciding eigenvalue {way_down[0]:.3g}, against a noise floor "
                    f"of {way_down[1]:.2g}: the added units open a way down",
                )
            faint = too_faint(evidence, flat, part.what, *way_down)
    source = point.source is not point.core and classify(*of(point.source))
    lowest = next((f for f in (narrow, source) if f and f.kind in MINIMA), None)
    if evidence.on_data.fits_best and lowest is not None:
        return Finding(
            Kind.MINIMUM, lowest.margin, f"{BEST_FIT}, as at the narrow point: {lowest.reason}"
        )
    if faint is not None:
        return faint
    if narrow.kind is Kind.UNDECIDED:
        return Finding(narrow.kind, narrow.margin, f"the {point.name} is: {narrow.reason}")
    for part in surplus:
        if part.why_open:
            return Finding(
                Kind.UNDECIDED, narrow.margin, f"{part.what.rstrip(',')}: {part.why_open}"
            )
    slope = _steepest_on_copies(point)
    if not evidence.still(slope):
        return Finding(
            Kind.UNDECIDED,
            narrow.margin,
            "second derivatives show no way down, but moves along the flat directions lead to points "
            f"that are not critical (gradient {slope:.2g} of what it could be): higher derivatives decide",
        )
    margins = [m for m in [narrow.margin, *map(_margin, surplus)] if m is not None]
    tightest = min(margins, key=lambda m: m.ratio, default=None)
    if not any(part.size for part in surplus):
        return Finding(narrow.kind, narrow.margin, narrow.reason)
    return Finding(
        Kind.MINIMUM,
        tightest,
        f"the {point.name} is a {narrow.kind.label}, the added units curve the loss upwards or not "
        "at all, and where they do not the loss is constant",
    )


def _steepest_on_copies(point: Layout) -> float:
    """The largest gradient on the flat set of the copies, in all layers together.

    The set is the same for any shares, and more copies add nothing new to it: two are enough.
    """
    net = point.core.problem.net
    pairs: list[Embedding] = [
        Replicate(layer, unit, ["1/2", "1/2"])
        for layer, width in enumerate(net.hidden)
        for unit in range(width)
        if sum(count for _, count in point.units.shares(layer, unit)) > 1
    ]
    if not pairs:
        return 0.0
    doubled = EmbeddedPoint(point.core, Composition(pairs))
    data = OnData(doubled.problem, doubled.params)
    return steepest_on_moves(doubled.problem, doubled.params, flat_families(data))


def _margin(part: Surplus) -> Margin | None:
    tightest = [spectrum.tightest() for spectrum, *_ in part.escapes]
    margins = [Margin(*each) for each in tightest if each is not None]
    return min(margins, key=lambda m: m.ratio, default=None)


def _null_kink(point: Layout) -> Finding | None:
    net = point.core.problem.net
    for layer, activation in enumerate(net.activations):
        if not activation.smooth and any(run.bias == 0 for run in point.units.nulls(layer)):
            return Finding(
                Kind.UNDECIDED,
                None,
                f"the loss is not differentiable here: a null unit of hidden layer {layer} with "
                f"bias 0 sits at the kink of {activation.name}",
            )
    return None


def _steepest(point: Layout, evidence: Evidence, surplus: list[Surplus]) -> WideDirection | None:
    net = point.core.problem.net
    candidates = [part.steepest() for part in surplus]
    spectrum = evidence.spectrum
    if spectrum.clearest(-1) is not None:
        lowest, curvature = evidence.direction(spectrum.vectors[:, 0])
        candidates.append(lifted(point.units, net, lowest, curvature))
    usable = [candidate for candidate in candidates if candidate is not None]
    return min(usable, key=lambda c: c.curvature, default=None)


def _down_the_gradient(point: Layout, evidence: Evidence) -> WideDirection:
    """The narrow negative gradient, seen from the wide point."""
    net = point.core.problem.net
    step = -evidence.gradient / torch.linalg.vector_norm(evidence.gradient)
    return lifted(point.units, net, step, float(step @ evidence.hessian @ step))
