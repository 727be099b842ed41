"""The numbers behind a study's figures."""

from __future__ import annotations

import torch

from semiflat.embeddings import Replicate
from semiflat.evidence.slices import on_line
from semiflat.pictures import along_shares
from semiflat.points import EmbeddedPoint, Point, hessian
from semiflat.records.study import Descent, EmbeddedRow, ShareLine, Spectrum
from semiflat.study.escapes import Descended
from semiflat.verdicts import judge_all


def descent_curve(escape: Descended) -> Descent:
    """The loss along a descent direction, on a scale where its fall is seen, and its parabola."""
    saddle = escape.saddle
    problem, net = saddle.point.problem, saddle.point.problem.net
    steps, losses = escape.line
    reach = 1.5 * abs(float(steps[losses.argmin()]))
    t = torch.linspace(-reach, reach, 161, dtype=torch.float64)
    direction = saddle.verdict.descent_direction
    assert direction is not None
    losses = on_line(problem, net.flatten(saddle.point.params), net.flatten(direction), t)
    return Descent(
        embedded=saddle.row.name,
        source=saddle.row.source,
        embedding=saddle.row.embedding,
        curvature=saddle.row.curvature,
        step=t.tolist(),
        loss=losses.tolist(),
        loss_before=saddle.point.loss,
        loss_after=escape.end.loss,
    )


def spectrum_curve(row: EmbeddedRow, point: EmbeddedPoint) -> Spectrum:
    """The eigenvalues of the narrow and of the wide Hessian, each from its own dense Hessian."""
    return Spectrum(
        embedded=row.name,
        source=row.source,
        embedding=row.embedding,
        narrow=torch.linalg.eigvalsh(hessian(point.source)).tolist(),
        wide=torch.linalg.eigvalsh(hessian(point.materialize())).tolist(),
        family=row.family,
    )


def share_line(name: str, point: Point, layer: int, unit: int) -> ShareLine:
    """Along the line of shares (λ, 1 − λ): the loss, the lowest eigenvalue and the verdict."""
    shares, losses, lowest = along_shares(point.problem, point.params, layer, unit)
    points = [Replicate(layer, unit, [share, 1 - share])(point) for share in shares]
    return ShareLine(
        source=name,
        layer=layer,
        unit=unit,
        widths=[point.problem.net.widths, points[0].problem.net.widths],
        share=[float(share) for share in shares],
        loss=losses.tolist(),
        lowest=lowest.tolist(),
        kind=[verdict.kind for verdict in judge_all(points)],
    )
