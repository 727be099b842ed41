"""The proof that a point is next to exactly one critical point, with its inertia and its loss.

The steps are those of the checker (:mod:`semiflat.certificates.checker.verify`), in float64 with
rigorous bounds where these suffice and in balls where they do not. One matrix proves all: in coordinates
θ = c + Qu with QᵀH(c)Q ≈ S = diag(±1), how far QᵀH(X)Q is from S over the box tells existence, uniqueness
and inertia.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from semiflat.certificates.bounded import Array, Bounded, row_sums, upper
from semiflat.certificates.checker.arithmetic import arb, arb_mat, ctx
from semiflat.certificates.checker.balls import Network, NotDefinite, hessian, risk_gradient
from semiflat.certificates.checker.gauge import frozen_places
from semiflat.certificates.checker.inertia import congruent_signs
from semiflat.certificates.checker.verify import part
from semiflat.certificates.enclosure import Centre, TooRough, centre_parts, hessian_over
from semiflat.certificates.families import symmetric_families
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.sweep import row_order
from semiflat.points import Point

PRECISION = 128
SINGULAR = 1e13
HOPELESS = 1e15
"""Condition numbers, parameters brought to one size, from which a Hessian counts as singular for float64,
and from which no Q in float64 can tell otherwise."""
STEPS = 12
"""Newton steps that the centre may take."""
AIM = 0.08
"""What the contraction of the box should be near."""
MOST = 0.3
SLACK = 6.0
MOST_CLAIMED = 0.9
"""How much larger a contraction the certificate claims, and the largest: the checker's balls grow in
other ways than float64's bounds, for silu in a deep network up to three times as much."""


class Undecided(Exception):
    """No proof: which inequality failed, and by how much."""


@dataclass
class Narrow:
    """A proof, as the certificate will hold it.

    Attributes:
        centre: θ as a sum of float64 vectors, in the order of rows [W, b].
        Q: (free, free).
        radius: ρ.
        frozen: families whose parameters are held.
        proved: the numbers claimed.
        box: balls around the exact critical point.
        method, margins: notes.
    """

    net: Network
    centre: list[Array]
    Q: Array
    radius: float
    frozen: list[dict[str, Any]]
    proved: dict[str, Any]
    box: list[arb]
    method: str
    margins: dict[str, float]


@dataclass
class _At:
    """The final centre: its terms, balls of their sums, the risk, and ‖Qᵀ∇R‖∞ there."""

    terms: list[Array]
    balls: list[arb]
    risk: arb
    slope: float


@dataclass
class _Start:
    theta: Array
    free: list[int]
    parts: list[Centre] | None
    risk: arb
    gradient: Array
    Q: Array
    signs: Array
    condition: float


def prove_narrow(point: Point, net: Network) -> Narrow:
    """The proof for the critical point next to ``point``.

    Raises:
        Undecided: with the inequality that failed.
    """
    before, ctx.prec = ctx.prec, PRECISION
    try:
        return _prove(point, net)
    except NotDefinite as error:
        raise Undecided(str(error)) from error
    finally:
        ctx.prec = before


def _prove(point: Point, net: Network) -> Narrow:
    frozen = symmetric_families(net, point)
    start = _polished(point, net, frozen)
    if start.condition > HOPELESS:
        raise Undecided(_conditioned(start.condition))
    away = np.zeros(net.size)
    away[start.free] = -start.Q @ (start.signs * (start.Q.T @ start.gradient))
    centre = _at(net, start, away)
    attempts: list[tuple[str, Any]] = [("float64 bounds", _FloatContraction(net, start, away))]
    attempts += [
        (f"balls of {bits} bits", _BallContraction(net, start, away, bits)) for bits in (128, 256)
    ]
    least = 2 * centre.slope / (1 - MOST_CLAIMED)
    why = ""
    for method, contraction in attempts:
        try:
            radius, found = _widest(contraction, max(least, 1e-8), least)
        except TooRough as error:
            why = str(error)
            continue
        return _claims(net, start, centre, frozen, radius, found, method)
    raise Undecided(f"{why}; {_conditioned(start.condition)}")


def _conditioned(condition: float) -> str:
    if condition > SINGULAR:
        return (
            f"the Hessian is singular to rounding (condition number {condition:.1e}): a flat direction or a "
            "degenerate critical point; judge() tells which flat directions there are, reduce() removes "
            "units that are not needed"
        )
    return f"the Hessian's condition number, parameters brought to one size, is {condition:.1e}"


# -- the centre -----------------------------------------------------------------------------------


def _polished(point: Point, net: Network, frozen: list[dict[str, Any]]) -> _Start:
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
        flat = np.array([float(g) for g in gradient])[free]
        params = point.problem.net.unflatten(torch.from_numpy(theta)[order])
        H = risk_gradient_hessian(point.problem, params)[2][rows][:, rows].numpy()
        Q, signs, condition = _congruence(H[np.ix_(free, free)])
        step = Q @ (signs * (Q.T @ flat))
        size = float(np.abs(step).max(initial=0.0))
        scale = 1 + float(np.abs(theta).max())
        if not math.isfinite(size) or size > 1e-2 * scale or size > 0.5 * last:
            if size <= 1e-10 * scale:
                return _Start(theta, free, parts, risk, flat, Q, signs, condition)
            raise Undecided(_not_converged(flat, size, condition))
        if size <= 1e-9 * scale:
            return _Start(theta, free, parts, risk, flat, Q, signs, condition)
        theta[free] -= step
        last = size
    raise Undecided(_not_converged(flat, size, condition))


def _at(net: Network, start: _Start, away: Array) -> _At:
    balls = [arb(a) + arb(b) for a, b in zip(start.theta.tolist(), away.tolist(), strict=True)]
    risk, gradient = risk_gradient(net, balls)
    size = len(start.free)
    Q = arb_mat(size, size, [arb(q) for q in start.Q.ravel().tolist()])
    slopes = (Q.transpose() * arb_mat(size, 1, [gradient[i] for i in start.free])).entries()
    slope = max((_float_above(abs(entry)) for entry in slopes), default=0.0)
    return _At([start.theta, away], balls, risk, slope)


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
    advice = _conditioned(condition)
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
    size = np.abs(np.diagonal(H))
    floor = max(float(size.max()), 1e-300) * 1e-30
    scale = 1 / np.sqrt(np.maximum(size, floor))  # evened: parameters may differ in size by much
    values, vectors = np.linalg.eigh(H * scale[:, None] * scale)
    sizes = np.maximum(np.abs(values), 1e-300)
    condition = float(sizes.max() / sizes.min())
    Q: Array = scale[:, None] * vectors / np.sqrt(sizes)
    return Q, np.where(values > 0, 1.0, -1.0), condition


# -- the box --------------------------------------------------------------------------------------


@dataclass
class _Found:
    """At some ρ: the contraction, sums of |QᵀHQ|, and the largest row sum of |H|."""

    contraction: float
    total: float
    largest: float


class _FloatContraction:
    """How far QᵀH(X)Q is from S, by float64 bounds."""

    tries = 5

    def __init__(self, net: Network, start: _Start, away: Array) -> None:
        self.net, self.start, self.away = net, start, away
        self.spread = upper(np.abs(start.Q).sum(1), 2 * len(start.Q) + 4)

    def at(self, radius: float) -> _Found:
        start, free = self.start, self.start.free
        assert start.parts is not None
        reach = np.abs(self.away)
        reach[free] = upper(reach[free] + radius * self.spread, 4)
        H = hessian_over(self.net, start.parts, start.theta, reach)
        H = Bounded(H.mid[np.ix_(free, free)], H.rad[np.ix_(free, free)])
        Q = Bounded.exact(start.Q)
        B = Q.T @ H @ Q
        off = B + Bounded.exact(-np.diag(start.signs))
        sums = row_sums(off)
        found = _Found(
            float(sums.max(initial=0.0)),
            float(upper(row_sums(B).sum(keepdims=True), len(sums) + 4)[0]),
            float(row_sums(H).max(initial=0.0)),
        )
        return _usable(found, "float64")


class _BallContraction:
    """The same in balls."""

    tries = 3

    def __init__(self, net: Network, start: _Start, away: Array, bits: int) -> None:
        self.net, self.start, self.away, self.bits = net, start, away, bits

    def at(self, radius: float) -> _Found:
        ctx.prec = self.bits
        start, free = self.start, self.start.free
        spread = np.zeros(self.net.size)
        spread[free] = upper(np.abs(start.Q).sum(1), 2 * len(free) + 4)
        pairs = zip(start.theta.tolist(), self.away.tolist(), spread.tolist(), strict=True)
        box = [arb(c) + arb(a) + arb(0, (arb(radius) * s).abs_upper()) for c, a, s in pairs]
        try:
            H = part(hessian(self.net, box), free)
        except NotDefinite as error:
            raise TooRough(str(error)) from error
        size = len(free)
        B, signs, row_sum = congruent_signs(
            H, arb_mat(size, size, [arb(q) for q in start.Q.ravel().tolist()])
        )
        total = sum((abs(entry) for entry in B.entries()), arb(0))
        rows = [sum((abs(entry) for entry in row), arb(0)).upper() for row in H.tolist()]
        start.signs[:] = signs
        found = _Found(
            _float_above(row_sum), _float_above(total), _float_above(max(rows, default=arb(0)))
        )
        return _usable(found, f"{self.bits}-bit balls")


def _usable(found: _Found, how: str) -> _Found:
    if not all(map(math.isfinite, (found.contraction, found.total, found.largest))):
        raise TooRough(f"bounds in {how} overflow")
    return found


def _widest(contraction: Any, guess: float, least: float) -> tuple[float, _Found]:
    """A wide box on which the contraction holds, and what was found there.

    Raises:
        TooRough: if there is none with a radius from ``least`` up.
    """
    radius, best, why = guess, None, ""
    for _ in range(contraction.tries):
        try:
            found = contraction.at(radius)
        except TooRough as error:  # a kink, say
            found, why = None, str(error)
        if found is not None and found.contraction < MOST:
            best = radius, found
            if found.contraction > AIM / 4 or radius > 1e6:
                break
            radius *= min(1e8, AIM / max(found.contraction, 1e-12))
            continue
        if best is not None:
            break
        if found is not None:
            why = f"inertia: the row sums of |QᵀHQ − S| reach {found.contraction:.3g}, not below {MOST:g}"
        if radius <= least:
            break
        # What the box adds grows with it; what rounding adds does not.
        radius = least if found is None else max(least, radius * AIM / (2 * found.contraction))
    if best is None:
        raise TooRough(why)
    return best


# -- what is claimed ------------------------------------------------------------------------------


def _claims(
    net: Network,
    start: _Start,
    centre: _At,
    frozen: list[dict[str, Any]],
    radius: float,
    found: _Found,
    method: str,
) -> Narrow:
    """The numbers of the certificate, each with room for the checker's own rounding."""
    size = len(start.free)
    epsilon = min(MOST_CLAIMED, SLACK * found.contraction + 1e-12)
    left, risk = centre.slope, centre.risk
    if not left + epsilon * radius < radius * (1 - 1e-9):
        raise Undecided(
            f"existence: ‖Qᵀ∇R‖∞ + ερ = {left:.3g} + {epsilon:.3g} ρ is not below ρ = {radius:.3g}"
        )
    near = left / (1 - epsilon) * (1 + 1e-9)
    spread = upper(np.abs(start.Q).sum(1), 2 * size + 4)
    room = arb(near) * arb(near) * found.total
    low, high = _float_below(risk - room), _float_above(risk + room)
    squares = float(upper(np.square(start.Q).sum(keepdims=True), 2 * size * size).sum())
    negative = int((start.signs < 0).sum())
    kind = "STRICT_SADDLE" if negative else "MINIMUM" if size < net.size else "STRICT_MINIMUM"
    proved = {
        "contraction": epsilon.hex(),
        "loss": [low.hex(), high.hex()],
        "location": (near * float(spread.max(initial=0.0)) * (1 + 1e-9)).hex(),
        "unique": (radius * (float(spread.min()) if size else 0.0) * (1 - 1e-9)).hex(),
        "eigenvalue_sizes": [
            ((1 - epsilon) / max(squares, 1e-300) * (1 - 1e-9)).hex(),
            (found.largest * 1.1).hex(),
        ],
        "inertia": [size - negative, net.size - size, negative],
        "exact": True,
        "kind": kind,
    }
    box = list(centre.balls)
    for i, reach in zip(start.free, spread.tolist(), strict=True):
        box[i] += arb(0, (arb(near) * reach).abs_upper())
    margins = {"contraction": found.contraction, "slope": left, "condition": start.condition}
    return Narrow(net, centre.terms, start.Q, radius, frozen, proved, box, method, margins)


def _float_above(value: arb) -> float:
    top = value.upper()
    return math.nextafter(math.nextafter(float(top), math.inf), math.inf)


def _float_below(value: arb) -> float:
    return -_float_above(-value)
