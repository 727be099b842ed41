"""Escapes: the embedding that makes a critical point a strict saddle, with the fewest new units.

One unit is enough wherever some K_u or F∅ is not 0 (theory §4). Otherwise Z22 Lemmas 6.1–6.2 copy the
network: with copies that share the output as c₁ + c₂ = 1, moving them by x₁v and x₂v with
c₁x₁ + c₂x₂ = 0 leaves the function to first order, and the loss curves by (c₁x₁² + c₂x₂²) vᵀH⁽²⁾v, where
the bracket takes either sign. So two copies do what the lemmas do with three, and only units that v
needs have to be copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from semiflat.costs import DENSE_LIMIT
from semiflat.curvature.parts import hessian_parts, second_difference
from semiflat.embeddings import Compatible, Composition, Embedding, NullGates, NullUnits, Replicate
from semiflat.errors import InputError
from semiflat.evidence import (
    ENOUGH,
    LOUD,
    Evidence,
    Spectrum,
    symmetric_spectrum,
)
from semiflat.networks import MLP, Params
from semiflat.points import EmbeddedPoint, Point
from semiflat.records.shown import Shown
from semiflat.verdicts.dispatch import check_point, judge, judge_all
from semiflat.verdicts.verdict import Kind, Verdict

SHARES: tuple[Sequence[Fraction], ...] = (
    (Fraction(1, 2), Fraction(1, 2)),
    (Fraction(2), Fraction(-1)),
)
"""Shares of two copies: for negative curvature of K or H⁽²⁾, and for positive one."""

_PINNED = (
    "no unit that was tried makes it a strict saddle when added; with weight decay most widenings do not "
    "keep it critical, so a wider network has to be searched by itself"
)
_AT_INFINITY = (
    "no unit, branch or gate that was tried makes it a strict saddle when added; of copies that share the "
    "output (Z22 Thm 6.3) nothing is known at infinity"
)


@dataclass(frozen=True)
class Escape(Shown):
    """How a critical point becomes a strict saddle, or why it may never.

    Attributes:
        kind: ``"none needed"``, ``"replicated unit"``, ``"null unit"``, ``"null gate"``, ``"copied units"``,
            ``"none"``, ``"undecided"`` or ``"not critical"``.
        new_units: how many hidden units are added.
        embedding: what adds them; None where there is none.
        point: the strict saddle: the embedded point, or the point itself where none is needed.
        verdict: its verdict, with inertia, margin and reason.
        direction: the way down at ``point``, params-shaped, of unit length; both ways go down.
        curvature: second derivative of the risk along it.
        measured_curvature: the same from finite differences of the risk.
        reason: one sentence.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> out = sf.escape(sf.find_critical_point(problem, starts=8, seed=0))
    >>> out.embedding, out.point.problem.net.widths, out.verdict.kind.label
    (NullUnits(layer=0, biases=[0]), (1, 2, 1), 'strict saddle')
    >>> down = {key: value + 0.01 * out.direction[key] for key, value in out.point.params.items()}
    >>> sf.Point(out.point.problem, down).loss < out.point.loss
    True
    """

    kind: str
    new_units: int
    embedding: Embedding | None
    point: Point | None
    verdict: Verdict
    reason: str
    curvature: float | None = None
    measured_curvature: float | None = None
    direction: Params | None = field(default=None, repr=False)

    @property
    def found(self) -> bool:
        """Whether there is a strict saddle to leave by."""
        return self.direction is not None

    def to_json(self) -> dict[str, Any]:
        """Everything but points and entries of directions, as plain data."""
        return {
            "kind": self.kind,
            "new_units": self.new_units,
            "embedding": None if self.embedding is None else self.embedding.to_json(),
            "curvature": self.curvature,
            "measured_curvature": self.measured_curvature,
            "reason": self.reason,
            "verdict": self.verdict.to_json(),
        }


def escape(point: Point, tolerance: float = 1e-10) -> Escape:
    """The widening that opens a way down from a critical point, with the fewest new units.

    In this order: none if it is a strict saddle already; one copy of a unit with K ≠ 0, or one null
    unit in a layer with F∅ ≠ 0, whichever falls most steeply; copies of units that share the output,
    where H⁽²⁾ ≠ 0 (Z22 Thm 6.3), as few as leaving them out one by one allows. If H⁽²⁾ is 0 to its
    noise floor, the necessary condition for a "truly bad" point (Z22 Def. 6.2) holds.

    With weight decay added units keep few points critical: null units with bias 0 where σ(0) = 0 do,
    and where F∅ is larger than the decay one is a way down. Those are looked for, and where there is
    none it is undecided; the other embeddings, and with them "truly bad", have no meaning there.

    Args:
        point: one critical point, plain or embedded, small enough for a dense Hessian.
        tolerance: as for :func:`judge`.

    Raises:
        InputError: for a :class:`PointBatch`, or a network too large for dense derivatives.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> found = sf.escape(sf.find_critical_point(problem, starts=8, seed=0))
    >>> found.kind, found.new_units, found.curvature < 0
    ('null unit', 1, True)
    """
    check_point(point, "escape")
    if point.problem.net.parameter_count > DENSE_LIMIT:
        raise InputError(
            f"an escape is looked for with dense derivatives, up to {DENSE_LIMIT} parameters, and this "
            f"network has {point.problem.net.parameter_count}; judge(point) needs less"
        )
    if isinstance(point, EmbeddedPoint):
        point = point.materialize()
    verdict = judge(point, tolerance)
    if verdict.kind is Kind.NOT_CRITICAL:
        return Escape("not critical", 0, None, None, verdict, verdict.reason)
    if verdict.kind is Kind.STRICT_SADDLE:
        return _down("none needed", 0, None, point, verdict)
    evidence = point.evidence.at(tolerance)
    if evidence.no_hessian:
        return Escape("undecided", 0, None, None, verdict, verdict.reason)
    found = _one_unit(point, evidence, tolerance)
    if found is None and not point.problem.by_algebra:
        why = _AT_INFINITY if point.problem.outputs_alone else _PINNED
        return Escape("undecided", 0, None, None, verdict, why)
    return found or _copied_units(point, evidence, verdict, tolerance)


def _down(
    kind: str, new_units: int, embedding: Embedding | None, point: Point, verdict: Verdict
) -> Escape:
    direction = verdict.descent_direction
    assert direction is not None
    net = point.problem.net
    measured = second_difference(point.problem, net.flatten(point.params), net.flatten(direction))
    return Escape(
        kind,
        new_units,
        embedding,
        point,
        verdict,
        verdict.reason,
        verdict.curvature,
        measured,
        direction,
    )


def _one_unit(point: Point, evidence: Evidence, tolerance: float) -> Escape | None:
    net = point.problem.net
    candidates: list[tuple[str, Embedding]] = []
    for layer, width in enumerate(net.hidden):
        plain = bool(net.plain_units(layer).all())
        for unit in range(width) if plain else ():
            spectrum = evidence.unit_evidence(layer, unit).K
            for sign, shares in zip((-1, 1), SHARES, strict=True):
                if spectrum.clearest(sign) is not None:
                    candidates.append(("replicated unit", Replicate(layer, unit, shares)))
        for unit in net.plain_units(layer).nonzero().flatten().tolist() if not plain else ():
            # A branch's K is in the wide point's Hessian: it is tried.
            candidates += [("replicated unit", Replicate(layer, unit, each)) for each in SHARES]
            if len(net.branch(layer, unit)) > 1:
                candidates.append(("null gate", NullGates(layer, unit)))
        if net.biases[layer] and net.biases[layer + 1]:
            bias = 0 if net.activations[layer].smooth else 1  # σ' ≠ 0, away from a kink
            candidates.append(("null unit", NullUnits(layer, [bias])))
    wide = [embedding(point) for _, embedding in candidates]
    best: Escape | None = None
    for (kind, embedding), there, verdict in zip(
        candidates, wide, judge_all(wide, tolerance), strict=True
    ):
        if verdict.kind is not Kind.STRICT_SADDLE or verdict.curvature is None:
            continue
        if best is None or verdict.curvature < (best.curvature or 0.0):
            new = sum(there.problem.net.hidden) - sum(net.hidden)
            best = _down(kind, new, embedding, there, verdict)
    return best


def _copied_units(point: Point, evidence: Evidence, verdict: Verdict, tolerance: float) -> Escape:
    spectrum = _curved_spectrum(evidence)
    clear = [spectrum.clearest(sign) for sign in (-1, 1)]
    if clear == [None, None]:
        largest = float(spectrum.values.abs().max())
        floor = float(spectrum.floor.max())
        data = evidence.on_data
        loud = float((data.natural.noise / data.natural.largest.clamp(min=1e-300)).max()) <= LOUD
        audible = data.fits_best or loud
        if not audible or not all(map(_is_zero, [spectrum, *_skipping(evidence)])):
            reason = (
                f"H⁽²⁾ (eigenvalues up to {largest:.2g}, floors up to {floor:.2g}) or some F∅ is not 0 to "
                "rounding, and too close to what the distance to the exact critical point may change to "
                "tell it from 0"
            )
            return Escape("undecided", 0, None, None, verdict, reason)
        reason = (
            f"H⁽²⁾ is 0 within its noise floor (eigenvalues up to {largest:.2g}, floor {floor:.2g}), and "
            "with it every K and F∅: the necessary condition for a truly bad point holds (Z22 Thm 6.3)"
        )
        return Escape("none", 0, None, None, verdict, reason)
    for down, shares in zip(clear, SHARES, strict=True):
        if down is None:
            continue
        found = _fewest_copies(point, shares, tolerance)
        if found is not None:
            return found
    reason = (
        "H⁽²⁾ is not 0, so copying the network makes it a strict saddle (Z22 Thm 6.3), but the wide "
        "point's numbers do not show it beyond doubt"
    )
    return Escape("undecided", 0, None, None, verdict, reason)


def _curved_spectrum(evidence: Evidence) -> Spectrum:
    problem, net = evidence.point.problem, evidence.point.problem.net
    parts = [hessian_parts(problem, net.unflatten(site)) for site in evidence.sites]
    scale = max(
        float(torch.linalg.matrix_norm(evidence.in_units(first), ord=2)) for first, _ in parts
    )
    second = [evidence.in_units(second) for _, second in parts]
    return symmetric_spectrum(second, max(scale, evidence.spectrum.scale))


def _skipping(evidence: Evidence) -> list[Spectrum]:
    """The singular values of every F∅ that null units can act through."""
    net = evidence.point.problem.net
    return [
        evidence.skipping(layer)[0]
        for layer in range(len(net.hidden))
        if net.biases[layer] and net.biases[layer + 1]
    ]


def _is_zero(spectrum: Spectrum) -> bool:
    """Whether rounding alone explains every value; what is hidden by a floor may still be there."""
    return bool((spectrum.values.abs() <= ENOUGH * spectrum.noise).all())


def _fewest_copies(point: Point, shares: Sequence[Fraction], tolerance: float) -> Escape | None:
    """Copies of all units, then of fewer and fewer as long as the point stays a strict saddle."""
    net = point.problem.net
    chosen = [set(range(width)) for width in net.hidden]
    best = _try(point, chosen, shares, tolerance)
    if best is None:
        return None
    for layer, width in enumerate(net.hidden):
        for unit in range(width):
            fewer = [units - {unit} if k == layer else units for k, units in enumerate(chosen)]
            found = _try(point, fewer, shares, tolerance) if any(fewer) else None
            if found is not None:
                best, chosen = found, fewer
    return best


def _try(
    point: Point, chosen: list[set[int]], shares: Sequence[Fraction], tolerance: float
) -> Escape | None:
    embedding = copied(point.problem.net, chosen, shares)
    wide = embedding(point)
    verdict = judge(wide, tolerance)
    if verdict.kind is not Kind.STRICT_SADDLE:
        return None
    return _down("copied units", sum(map(len, chosen)), embedding, wide, verdict)


def copied(net: MLP, chosen: Sequence[set[int]], shares: Sequence[Fraction]) -> Embedding:
    """Some units copied once; copies feed copies and originals originals, all others take both.

    A unit that is not copied takes the share c₁ of an original and c₂ of its copy, which are also
    their backward weights; it is a general compatible embedding for any choice of units.
    """
    if not any(chosen):
        return Composition([])
    weights = np.array([float(share) for share in shares])
    ends = [range(net.inputs), *(sorted(units) for units in chosen), range(net.outputs)]
    index, branch, many = [], [], []
    for layer, width in enumerate(net.widths):
        copies = list(ends[layer]) if 0 < layer < len(net.widths) - 1 else []
        index.append(np.array([*range(width), *copies]))
        branch.append(np.array([0] * width + [1] * len(copies)))
        many.append(np.isin(index[-1], copies))
    alpha = []
    for layer in range(net.depth):
        own = branch[layer + 1][:, None] == branch[layer]
        shared = np.where(many[layer + 1][:, None], own, weights[branch[layer]])
        alpha.append(np.where(many[layer], shared, 1.0))
    hidden = range(1, len(net.widths) - 1)
    return Compatible(
        [len(units) for units in index],
        [index[layer].tolist() for layer in hidden],
        alpha,
        [np.where(many[layer], weights[branch[layer]], 1.0) for layer in hidden],
    )
