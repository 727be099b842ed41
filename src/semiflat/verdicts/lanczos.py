"""The verdict on a point too large for its dense Hessian: Lanczos, as far as it goes.

Lanczos shows a negative eigenvalue where there is one; it cannot show that there is none, nor count
zeros. So the answers here are NOT_CRITICAL, STRICT_SADDLE and UNDECIDED.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from semiflat.curvature.operators import HessianOperator
from semiflat.evidence import (
    ENOUGH,
    EPS,
    OnData,
    allowed_gradient,
    kinks,
    no_hessian,
    settles_penalty,
)
from semiflat.points import Point, hessian_operator
from semiflat.verdicts.finding import steep_reason, unsettled
from semiflat.verdicts.verdict import Certainty, Kind, Margin, Verdict


@dataclass(frozen=True)
class Extreme:
    """The lowest Ritz pair: an eigenvalue lies within ``residual`` of ``value``."""

    value: float
    vector: Tensor
    residual: float
    norm: float
    steps: int


def lowest_ritz(operator: HessianOperator, steps: int = 120, seed: int = 0) -> Extreme:
    """The lowest Ritz pair after at most ``steps`` products, fully reorthogonalised.

    Stops early once the lowest value is resolved to a thousandth of its size.
    """
    size = operator.shape[0]
    steps = min(steps, size)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    basis = [start / torch.linalg.vector_norm(start)]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(steps):
        product = operator.product(basis[-1])
        diagonal.append(float(product @ basis[-1]))
        stack = torch.stack(basis)
        for _ in range(2):  # twice is enough: the first pass leaves rounding times the norm
            product = product - stack.mT @ (stack @ product)
        beta = float(torch.linalg.vector_norm(product))
        tri = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
        if beside:
            off = torch.tensor(beside, dtype=torch.float64)
            tri = tri + torch.diag(off, 1) + torch.diag(off, -1)
        values, vectors = torch.linalg.eigh(tri)
        norm = float(values.abs().max())
        residual = beta * abs(float(vectors[-1, 0]))
        done = residual <= 1e-3 * abs(float(values[0])) and float(values[0]) < -1e-8 * norm
        if done or beta <= EPS * max(norm, 1e-300) or step == steps - 1:
            return Extreme(
                float(values[0]), stack.mT @ vectors[:, 0], residual, norm, len(diagonal)
            )
        basis.append(product / beta)
        beside.append(beta)
    raise AssertionError("unreachable: the last step returns")


def judge_large(point: Point, relative_tolerance: float) -> Verdict:
    """The verdict on a plain point whose dense Hessian is too large to build."""
    net = point.problem.net
    operator = hessian_operator(point)
    gradient = operator.gradient()
    gradient_norm = float(gradient.abs().max())
    data = OnData(point.problem, point.params)
    allowed = allowed_gradient(data, relative_tolerance)
    worst = int((gradient.abs() / allowed.clamp(min=1e-300)).argmax())
    tolerance = float(allowed[worst])
    rough = no_hessian(data, kinks(data))
    size = net.parameter_count
    need = f"a dense Hessian of {size} parameters would need {8 * size**2 / 2**30:.1f} GiB"
    direction: Tensor | None = None
    curvature: float | None = None
    margin: Margin | None = None
    if rough:
        kind, reason = Kind.UNDECIDED, rough
    elif bool((gradient.abs() > allowed).any()):
        kind = Kind.NOT_CRITICAL
        reason = steep_reason(point, worst, float(gradient[worst]), tolerance)
        direction = -gradient / torch.linalg.vector_norm(gradient)
        curvature = float(direction @ operator.product(direction))
    elif not settles_penalty(data, gradient):
        kind, reason = Kind.UNDECIDED, unsettled(point, gradient_norm)
    else:
        low = lowest_ritz(operator)
        floor = EPS * size**0.5 * low.norm * low.steps + low.residual
        margin = Margin(low.value, floor)
        if low.value < -ENOUGH * floor:
            kind, direction, curvature = Kind.STRICT_SADDLE, low.vector, low.value
            reason = (
                f"Lanczos found the eigenvalue {low.value:.3g} ± {low.residual:.1g} in {low.steps} "
                f"steps ({need})"
            )
        else:
            kind = Kind.UNDECIDED
            reason = (
                f"{need}, and {low.steps} Lanczos steps found no eigenvalue clearly below zero (the "
                f"lowest {low.value:.3g} ± {low.residual:.1g}); that there is none they cannot show. "
                "Raise dense_limit if the memory is there"
            )
    return Verdict(
        kind=kind,
        certainty=Certainty.MEASURED,
        inertia=None,
        flat_directions=None,
        curvature=curvature,
        margin=margin,
        reason=reason,
        method="Lanczos",
        gradient_norm=gradient_norm,
        tolerance=tolerance,
        build_direction=None if direction is None else partial(net.unflatten, direction.clone()),
    )
