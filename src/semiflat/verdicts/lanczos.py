"""The verdict on a point too large for its dense Hessian: Lanczos, as far as it goes.

A direction of negative curvature is sure: the lowest eigenvalue is no higher. That there is none Lanczos
shows with a probability alone, and it counts no zeros. So the answers here are NOT_CRITICAL,
STRICT_SADDLE and UNDECIDED.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from semiflat.evidence import ENOUGH, EPS, Unbuilt
from semiflat.evidence.derivatives import CLOSE
from semiflat.points import Point
from semiflat.verdicts.finding import steep_reason, unsettled, what_next
from semiflat.verdicts.plain import BEST_FIT, ELSEWHERE
from semiflat.verdicts.verdict import Certainty, Kind, Margin, Verdict

STEPS, SCALED = 120, 1000
"""Lanczos steps on the Hessian, and in units of what stands in for it."""
RISK = 1e-6
"""Probability with which a bound from below may fail."""


@dataclass(frozen=True)
class Extreme:
    """The lowest Ritz pair: an eigenvalue lies within ``residual`` of ``value``.

    ``highest`` is the highest Ritz value, that of ``top``, and ``steps`` how many products there were;
    ``ended`` says that the space they span leads nowhere else: more would tell no more. ``negative`` holds the
    Ritz vectors of negative value, (P, k): as many eigenvalues lie below zero, but for rounding.
    """

    value: float
    vector: Tensor
    residual: float
    highest: float
    steps: int
    ended: bool
    negative: Tensor
    top: Tensor

    def bound(self, size: int) -> float:
        """What no eigenvalue lies below, but with probability :data:`RISK` in the random start.

        After k steps the highest Ritz value of a positive semidefinite matrix of order n lies below its
        highest eigenvalue by more than a part ε of it with probability at most ``1.648 √n e^{−√ε (2k−1)}``
        (Kuczyński & Woźniakowski 1992, Thm 4.2): here both ends, each shifted to be the highest.
        """
        return self.value - self.residual if self.ended else self.value - self._beyond(size)

    def bound_above(self, size: int) -> float:
        """What no eigenvalue lies above, but with the probability with which :meth:`bound` may fail, too."""
        return self.highest + self.residual if self.ended else self.highest + self._beyond(size)

    def _beyond(self, size: int) -> float:
        root = math.log(1.648 * size**0.5 * 2 / RISK) / (2 * self.steps - 1)
        part = root**2
        if part >= 0.25:
            return math.inf
        return part / (1 - 2 * part) * (self.highest - self.value)


def lowest_ritz(
    times: Callable[[Tensor], Tensor],
    size: int,
    steps: int = STEPS,
    seed: int = 0,
    early: bool = False,
) -> Extreme:
    """The lowest Ritz pair of a symmetric matrix after at most ``steps`` products, fully reorthogonalised.

    Args:
        times: the matrix, as what it does to a vector (P,).
        early: stop once the lowest value is negative and resolved to a thousandth of its size.
    """
    steps = min(steps, size)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn(size, generator=generator, dtype=torch.float64)
    for own, tri, beta, ended in krylov(times, start, steps):
        step = len(own) - 1
        last = ended or step == steps - 1
        if last or (early and step % 8 == 7):
            values, vectors = torch.linalg.eigh(tri)
            low, norm = float(values[0]), float(values.abs().max())
            residual = beta * abs(float(vectors[-1, 0]))
            if last or (low < -1e-8 * norm and residual <= 1e-3 * abs(low)):
                way, negative = own.mT @ vectors[:, 0], own.mT @ vectors[:, values < 0]
                top, highest = own.mT @ vectors[:, -1], float(values[-1])
                return Extreme(low, way, residual, highest, step + 1, ended, negative, top)
    raise AssertionError("unreachable: the last step returns")


def krylov(
    times: Callable[[Tensor], Tensor], start: Tensor, steps: int
) -> Iterator[tuple[Tensor, Tensor, float, bool]]:
    """An orthonormal basis of ``start, H start, …``, fully reorthogonalised, as it grows by Lanczos steps.

    Args:
        times: the matrix, as what it does to a vector (P,).
        start: (P,).
        steps: at most.

    Yields:
        After each product the basis (k, P), the matrix in it (k, k), the length of what leads on, and
        whether that is rounding, so that this is the last.
    """
    size = len(start)
    basis = torch.empty((steps, size), dtype=torch.float64)
    basis[0] = start / torch.linalg.vector_norm(start)
    tri = torch.zeros((steps, steps), dtype=torch.float64)
    for step in range(steps):
        product = times(basis[step])
        tri[step, step] = product @ basis[step]
        own = basis[: step + 1]
        for _ in range(2):  # twice is enough: the first pass leaves rounding times the norm
            product = product - own.mT @ (own @ product)
        beta = float(torch.linalg.vector_norm(product))
        ended = step == size - 1 or beta <= EPS * float(tri.abs().max().clamp(min=1e-300))
        yield own, tri[: step + 1, : step + 1], beta, ended
        if ended or step == steps - 1:
            return
        basis[step + 1] = product / beta
        tri[step, step + 1] = tri[step + 1, step] = beta


def judge_large(point: Point, relative_tolerance: float) -> Verdict:
    """The verdict on a plain point whose dense Hessian is too large to build."""
    found = Unbuilt(point, relative_tolerance)
    kind, reason, direction, margin = _classify(found)
    curvature = None
    if direction is not None:
        direction = direction / torch.linalg.vector_norm(direction)
        curvature = float(direction @ found.products.times(direction))
    net = point.problem.net
    return Verdict(
        kind=kind,
        certainty=Certainty.MEASURED,
        inertia=None,
        flat_directions=None,
        curvature=curvature,
        margin=margin,
        reason=reason,
        method="Lanczos",
        gradient_norm=found.gradient_norm,
        tolerance=float(found.allowed[found.worst]),
        build_direction=None if direction is None else partial(net.unflatten, direction.clone()),
    )


def _classify(found: Unbuilt) -> tuple[Kind, str, Tensor | None, Margin | None]:
    """Kind, reason, a way down and the margin."""
    point, gradient = found.point, found.gradient
    if found.no_hessian:
        return Kind.UNDECIDED, found.no_hessian, None, None
    if not found.critical:
        entry = found.worst
        reason = steep_reason(point, entry, float(gradient[entry]), float(found.allowed[entry]))
        return Kind.NOT_CRITICAL, reason, -gradient, None
    if not found.settles_penalty:
        return Kind.UNDECIDED, unsettled(point, found.gradient_norm), None, None
    if not found.near:
        reason = (
            f"a Newton step goes {found.distance:.2g} natural units: no critical point is known to be near; "
            f"{what_next(point)}"
        )
        return Kind.UNDECIDED, reason, None, None
    if found.data.fit_is_attained:
        return Kind.MINIMUM, BEST_FIT, None, None
    size = len(gradient)
    need = f"a dense Hessian of {size} parameters would need {8 * size**2 / 2**30:.1f} GiB"
    plain = lowest_ritz(found.products.times, size, early=True)
    way, low, floor = plain.vector, *found.curvature(plain.vector)
    scaled = None
    if low >= -ENOUGH * floor:  # in these units small eigenvalues are not lost beside large ones
        scaled = lowest_ritz(found.scaled, size, SCALED)
        other = found.factors.divide(scaled.vector, 0.5)
        other = other / torch.linalg.vector_norm(other)
        its = found.curvature(other)
        if its[0] < -ENOUGH * its[1]:
            way, low, floor = other, *its
    margin = Margin(low, floor)
    if low < -ENOUGH * floor:
        far = found.farthest(way, low)
        # So much of the curvature may be made by that distance, see plain.counts; and a gradient that is
        # not small by itself is that of a critical point only where every step to it is short.
        steep = -low / float((way / found.data.natural.unit).square().sum())
        longest = math.inf if found.within else CLOSE * found.relative_tolerance
        if far > min(steep, ELSEWHERE, longest):
            reason = (
                f"a direction has curvature {low:.3g} with noise floor {floor:.1g}, but along it a critical "
                f"point may be {far:.2g} natural units away, or none: so far that it may have none below zero "
                f"({need})"
            )
            return Kind.UNDECIDED, reason, None, margin
        reason = (
            f"a direction has curvature {low:.3g} with noise floor {floor:.1g}, and the lowest eigenvalue "
            f"is no higher (Lanczos; {need})"
        )
        return Kind.STRICT_SADDLE, reason, way, margin
    assert scaled is not None
    least = scaled.bound(size)
    sure = "" if least <= ENOUGH * EPS * size * scaled.highest else ", so that all are positive"
    reason = (
        f"{need}, and {plain.steps} Lanczos steps found no direction of clearly negative curvature (the "
        f"lowest {low:.3g}, floor {floor:.1g}). By {scaled.steps} more, with probability 1 - {RISK:g} in "
        f"their random start, no eigenvalue in units of the layers' Gauss–Newton blocks is below {least:.2g}"
        f"{sure}; that is no certainty. Raise dense_limit if the memory is there"
    )
    return Kind.UNDECIDED, reason, None, margin
