"""Verdicts that carry a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from semiflat.certificates.certificate import Certificate
from semiflat.certificates.certify import certify_all, certify_descent, certify_not_critical
from semiflat.points import Point
from semiflat.verdicts.verdict import Certainty, Inertia, Kind, Verdict

RADII = 1e-3, 1e-6, 1e-9
"""Boxes in which to prove that there is no critical point, the widest that works being taken."""
STEPS = 1e-2, 1e-4, 1e-6
"""Steps along the way down by which to prove that the loss falls."""
REFUTABLE = 4096
"""Parameters up to which that is tried: it takes the wide network as it is, not its narrow source."""


def with_proofs(points: Sequence[Point], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, proved where they can be; where they cannot, as measured, with what failed.

    A point that is not proved to be next to a critical one is asked whether there is none near it: that
    proved, nothing else is left standing. Of a point with a way down it is proved that the loss falls.
    """
    critical = [v.kind is not Kind.NOT_CRITICAL for v in verdicts]
    found = iter(certify_all([p for p, holds in zip(points, critical, strict=True) if holds]))
    return [
        _proved(point, verdict, next(found) if holds else None)
        for point, verdict, holds in zip(points, verdicts, critical, strict=True)
    ]


def _proved(point: Point, verdict: Verdict, certificate: Certificate | None) -> Verdict:
    if certificate is not None and certificate.certified:
        return _certified(verdict, certificate)
    if point.problem.net.parameter_count <= REFUTABLE:
        # With radius 0 it is said of the stored parameters alone: next to them there may be one.
        for radius in (*RADII, 0.0)[: len(RADII) + (certificate is None)]:
            refuted = certify_not_critical(point, radius)
            if refuted.certified:
                return _certified(verdict, refuted)
        verdict = replace(verdict, descent=_fall(point, verdict))
    if certificate is None:
        return replace(verdict, certificate=verdict.descent)
    reason = f"{verdict.reason}; not proved: {certificate.reason}"
    if verdict.descent is not None:
        least = float.fromhex(verdict.descent.proved["drop_at_least"])
        reason += f"; proved: the loss falls along descent_direction, by {least:.2g} or more"
    return replace(verdict, reason=reason, certificate=certificate)


def _fall(point: Point, verdict: Verdict) -> Certificate | None:
    """The proof that the loss falls along the way down, if there is one."""
    direction = verdict.descent_direction
    for step in STEPS if direction is not None else ():
        assert direction is not None
        certificate = certify_descent(point, direction, step)
        if certificate.certified:
            return certificate
    return None


def _certified(verdict: Verdict, certificate: Certificate) -> Verdict:
    kind = Kind(certificate.kind or Kind.UNDECIDED)
    inertia, at_least = verdict.inertia, verdict.at_least
    if certificate.inertia is not None:
        inertia = Inertia(*certificate.inertia)
    elif "inertia" in certificate.proved:
        at_least = Inertia(*certificate.proved["inertia"])
    same = kind is verdict.kind
    return replace(
        verdict,
        kind=kind,
        certainty=Certainty.PROVED,
        inertia=inertia,
        at_least=at_least,
        curvature=verdict.curvature if same else None,
        reason=certificate.reason,
        method=f"certificate: {certificate.theorem or 'ball arithmetic'}",
        build_direction=verdict.build_direction if same else None,
        certificate=certificate,
    )
