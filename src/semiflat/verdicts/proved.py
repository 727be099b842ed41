"""Verdicts that carry a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from semiflat.certificates.certificate import Certificate
from semiflat.certificates.certify import certify_all, certify_not_critical
from semiflat.points import Point
from semiflat.verdicts.verdict import Certainty, Inertia, Kind, Verdict

RADII = 1e-3, 1e-6, 1e-9, 0.0
"""Boxes in which to prove that there is no critical point, the widest that works being taken."""


def with_proofs(points: Sequence[Point], verdicts: Sequence[Verdict]) -> list[Verdict]:
    """The verdicts, proved where they can be; where they cannot, as measured, with what failed."""
    critical = [v.kind is not Kind.NOT_CRITICAL for v in verdicts]
    found = iter(certify_all([p for p, holds in zip(points, critical, strict=True) if holds]))
    return [
        _proved(verdict, next(found) if holds else _refuted(point))
        for point, verdict, holds in zip(points, verdicts, critical, strict=True)
    ]


def _refuted(point: Point) -> Certificate:
    for radius in RADII:
        certificate = certify_not_critical(point, radius)
        if certificate.certified:
            break
    return certificate


def _proved(verdict: Verdict, certificate: Certificate) -> Verdict:
    if not certificate.certified:
        reason = f"{verdict.reason}; not proved: {certificate.reason}"
        return replace(verdict, reason=reason, certificate=certificate)
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
