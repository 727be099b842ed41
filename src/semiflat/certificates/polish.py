"""The centre of a proof: Newton steps with gradients in ball arithmetic, to the limits of float64."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from semiflat.certificates.bounded import Array, Bounded, upper
from semiflat.certificates.checker.arithmetic import arb, arb_mat
from semiflat.certificates.checker.balls import Network, risk_gradient
from semiflat.certificates.checker.gauge import frozen_places
from semiflat.certificates.enclosure import Centre, as_bounded, centre_parts
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.sweep import row_order
from semiflat.points import Point

SINGULAR = 1e13
HOPELESS = 1e15
"""Condition numbers, parameters brought to one size, from which a Hessian counts as singular for float64,
and from which no Q in float64 can tell otherwise."""
EVENINGS = 5
STEPS = 12
"""Newton steps that the centre may take."""


class Undecided(Exception):
    """No proof: which inequality failed, and by how much."""


@dataclass
class Start:
    """A float64 point that Newton's method cannot improve on, and the coordinates of the proof.

    Attributes:
        theta: θ₀, in the order of rows [W, b], (P,).
        away: one more Newton step d, too short for float64 to add to θ₀; the centre is c = θ₀ + d.
        free: places of the parameters that are not held.
        parts: its activations on the data, with bounds.
        risk, gradient: at θ₀; the latter of the free parameters.
        Q, signs: ``QᵀHQ ≈ diag(signs)`` of the free parameters' Hessian H.
        condition: of H, parameters brought to one size.
    """

    theta: Array
    away: Array
    free: list[int]
    parts: list[Centre]
    risk: arb
    gradient: Bounded
    Q: Array
    signs: Array
    condition: float

    def centre(self) -> list[arb]:
        """Balls around c."""
        pairs = zip(self.theta.tolist(), self.away.tolist(), strict=True)
        return [arb(a) + arb(b) for a, b in pairs]

    def basis(self) -> arb_mat:
        """Q as balls of radius 0."""
        size = len(self.free)
        return arb_mat(size, size, [arb(q) for q in self.Q.ravel().tolist()])

    def spread(self) -> Array:
        """``Σ_j |Q_ij|``, how far a parameter moves for u in the unit cube, 0 if it is held."""
        spread = np.zeros(len(self.theta))
        spread[self.free] = upper(np.abs(self.Q).sum(1), 2 * len(self.free) + 4)
        return spread

    def box(self, radius: float) -> list[arb]:
        """Balls that hold all c + Qu with ‖u‖∞ ≤ radius."""
        pairs = zip(self.centre(), self.spread().tolist(), strict=True)
        return [c + arb(0, (arb(radius) * s).abs_upper()) for c, s in pairs]


def polished(point: Point, net: Network, frozen: list[dict[str, Any]]) -> Start:
    """The point after Newton steps with gradients in balls, until float64 can do no more."""
    order = row_order(point.problem.net)
    rows = _inverse(order)
    theta = in_rows(point)
    balls = [arb(v) for v in theta.tolist()]
    held = set(frozen_places(net, frozen, balls))
    free = [i for i in range(net.size) if i not in held]
    last = math.inf
    for _ in range(STEPS):
        balls = [arb(v) for v in theta.tolist()]
        parts, risk, gradient = centre_parts(net, balls)
        slopes = as_bounded([gradient[i] for i in free])
        flat = slopes.mid
        params = point.problem.net.unflatten(torch.from_numpy(theta)[order])
        H = risk_gradient_hessian(point.problem, params)[2][rows][:, rows].numpy()
        Q, signs, condition = _congruence(H[np.ix_(free, free)])
        step = Q @ (signs * (Q.T @ flat))
        away = np.zeros(net.size)
        away[free] = -step
        size = float(np.abs(step).max(initial=0.0))
        scale = 1 + float(np.abs(theta).max())
        if not math.isfinite(size) or size > 1e-2 * scale or size > 0.5 * last:
            if size <= 1e-10 * scale:
                return Start(theta, away, free, parts, risk, slopes, Q, signs, condition)
            raise Undecided(_not_converged(flat, size, condition))
        if size <= 1e-9 * scale:
            return Start(theta, away, free, parts, risk, slopes, Q, signs, condition)
        theta[free] -= step
        last = size
    raise Undecided(_not_converged(flat, size, condition))


def slope_at_centre(net: Network, start: Start) -> tuple[arb, float]:
    """R(c) and an upper bound of ‖Qᵀ∇R(c)‖∞ in balls."""
    risk, gradient = risk_gradient(net, start.centre())
    column = arb_mat(len(start.free), 1, [gradient[i] for i in start.free])
    slopes = (start.basis().transpose() * column).entries()
    return risk, max((float_above(abs(entry)) for entry in slopes), default=0.0)


def in_rows(point: Point) -> Array:
    """A point's parameters in the order of rows [W, b], as a certificate has them."""
    net = point.problem.net
    flat = net.flatten(point.params)[_inverse(row_order(net))]
    return flat.to(torch.float64).numpy().copy()


def _inverse(order: torch.Tensor) -> torch.Tensor:
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    return inverse


def _not_converged(gradient: Array, step: float, condition: float) -> str:
    largest = float(np.abs(gradient).max(initial=0.0))
    advice = conditioned(condition)
    if condition <= SINGULAR:
        advice += "; polish the point with find_critical_point(start=…) first"
    return (
        f"Newton's method finds no critical point next to this point: the gradient's largest entry is "
        f"{largest:.2g} and a step is {step:.2g} long; {advice}"
    )


def _congruence(H: Array) -> tuple[Array, Array, float]:
    """Q with QᵀHQ ≈ diag(±1), the signs, and the condition number of H."""
    if not len(H):
        return np.zeros((0, 0)), np.zeros(0), 1.0
    if not np.isfinite(H).all():
        raise Undecided("the Hessian overflows float64: bring data and parameters to ordinary size")
    scale = _evening(H)
    values, vectors = np.linalg.eigh(H * scale[:, None] * scale)
    sizes = np.maximum(np.abs(values), 1e-300)
    condition = float(sizes.max() / sizes.min())
    Q: Array = scale[:, None] * vectors / np.sqrt(sizes)
    return Q, np.where(values > 0, 1.0, -1.0), condition


def _evening(H: Array) -> Array:
    """Scales e for which the rows of e H e are about 1 at most: parameters may differ in size by much."""
    scale = np.ones(len(H))
    for _ in range(EVENINGS):
        rows = (np.abs(H) * scale[:, None] * scale).max(1)
        scale = scale / np.sqrt(np.where((rows > 1e-200) & np.isfinite(rows), rows, 1.0))
    return scale


def conditioned(condition: float) -> str:
    if condition > SINGULAR:
        return (
            f"the Hessian is singular to rounding (condition number {condition:.1e}): a flat direction or a "
            "degenerate critical point; judge() tells which flat directions there are, reduce() removes "
            "units that are not needed"
        )
    return f"the Hessian's condition number, parameters brought to one size, is {condition:.1e}"


def float_above(value: arb) -> float:
    top = value.upper()
    return math.nextafter(math.nextafter(float(top), math.inf), math.inf)


def float_below(value: arb) -> float:
    return -float_above(-value)
