"""How far QᵀH(X)Q is from diag(±1) over a box, and the widest box on which that is little."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from semiflat.certificates.bounded import Bounded, row_sums, upper
from semiflat.certificates.checker.arithmetic import arb, ctx
from semiflat.certificates.checker.balls import Network, NotDefinite, hessian
from semiflat.certificates.checker.inertia import congruent_signs
from semiflat.certificates.checker.verify import part
from semiflat.certificates.enclosure import TooRough, hessian_over
from semiflat.certificates.polish import Start, float_above, slope_at_centre

AIM = 0.01
"""What the contraction of the box should be near. The checker's balls grow with the box, too, in other
ways and by more: 23 times as much has been seen. What rounding adds here they do not have."""
MOST = 0.3
CLAIMED = 0.5
MOST_CLAIMED = 0.9
"""Contractions that a certificate claims: usually, and where rounding makes up most of what was found."""
MANY = 200
"""Parameters from which a pass in balls is quicker than one more enclosure of the Hessian."""


@dataclass
class Found:
    """At some ρ: the contraction ε, ‖Qᵀ∇R(c)‖∞, sums of |QᵀHQ|, and the largest row sum of |H|."""

    contraction: float
    slope: float
    total: float
    largest: float

    @property
    def works(self) -> bool:
        """Whether ε leaves room for the checker's own."""
        return self.contraction < MOST


class FloatContraction:
    """How far QᵀH(X)Q is from S, by float64 bounds.

    The gradient at c = θ₀ + d follows from that at θ₀, which is known from balls, by the mean value theorem:
    ``Qᵀ∇R(c) ∈ Qᵀ∇R(θ₀) + QᵀH(X)d``, as the box holds θ₀ too. That spares a pass in balls.
    """

    tries = 5

    def __init__(self, net: Network, start: Start) -> None:
        self.net, self.start = net, start
        self.spread = start.spread()
        moved = float(np.abs(start.Q.T @ start.gradient.mid).max(initial=0.0))
        self.least = 1e-6 * moved

    def at(self, radius: float) -> Found:
        start, free = self.start, self.start.free
        reach = upper(np.abs(start.away) + radius * self.spread, 4)
        H = hessian_over(self.net, start.parts, start.theta, reach)
        H = Bounded(H.mid[np.ix_(free, free)], H.rad[np.ix_(free, free)])
        Q = Bounded.exact(start.Q)
        half = Q.T @ H
        step = Bounded.exact(start.away[free, None])
        slope = Q.T @ start.gradient.reshape(-1, 1) + half @ step
        B = half @ Q
        off = B + Bounded.exact(-np.diag(start.signs))
        sums = row_sums(off)
        found = Found(
            float(sums.max(initial=0.0)),
            float(row_sums(slope).max(initial=0.0)),
            float(upper(row_sums(B).sum(keepdims=True), len(sums) + 4)[0]),
            float(row_sums(H).max(initial=0.0)),
        )
        return _usable(found, "float64")

    def sharpest(self) -> float:
        """A sharper bound of ‖Qᵀ∇R(c)‖∞, such as of a box that holds no more than θ₀ and c."""
        if len(self.start.free) < MANY:
            return self.at(0.0).slope
        return slope_at_centre(self.net, self.start)[1]

    def loss(self, found: Found, near: float) -> arb:
        """A ball around the risk at the critical point, and at c."""
        reach = np.abs(self.start.away) + near * self.spread
        squares = float(upper(np.square(reach).sum(keepdims=True), len(reach) + 8)[0])
        # R(θ₀) − R(θ*) = ½ ΔᵀHΔ, as the gradient is 0 at θ*; once more for c.
        return self.start.risk + arb(0, 1.01 * found.largest * squares)


class BallContraction:
    """The same in balls."""

    tries = 3

    def __init__(self, net: Network, start: Start, bits: int) -> None:
        self.net, self.start, self.bits = net, start, bits
        self.risk, self.slope = slope_at_centre(net, start)
        self.least = 20 * self.slope

    def at(self, radius: float) -> Found:
        with ctx.workprec(self.bits):
            return self._at(radius)

    def _at(self, radius: float) -> Found:
        start = self.start
        try:
            H = part(hessian(self.net, start.box(radius)), start.free)
        except NotDefinite as error:
            raise TooRough(str(error)) from error
        B, signs, row_sum = congruent_signs(H, start.basis())
        total = sum((abs(entry) for entry in B.entries()), arb(0))
        rows = [sum((abs(entry) for entry in row), arb(0)).upper() for row in H.tolist()]
        start.signs[:] = signs
        found = Found(
            float_above(row_sum),
            self.slope,
            float_above(total),
            float_above(max(rows, default=arb(0))),
        )
        return _usable(found, f"{self.bits}-bit balls")

    def sharpest(self) -> float:
        """‖Qᵀ∇R(c)‖∞."""
        return self.slope

    def loss(self, found: Found, near: float) -> arb:
        """A ball around the risk at the critical point, and at c."""
        return self.risk + arb(0, (arb(near) * arb(near) * found.total).abs_upper())


def _usable(found: Found, how: str) -> Found:
    if not all(map(math.isfinite, (found.contraction, found.slope, found.total, found.largest))):
        raise TooRough(f"bounds in {how} overflow")
    return found


def _first(parameters: int) -> float:
    """The first ρ to try: about what networks of that size were seen to allow; it only costs time."""
    shrunk: float = min(1.0, (37 / max(1, parameters)) ** 3.4)
    return max(2e-14, 1e-10 * shrunk)


def widest(contraction: FloatContraction | BallContraction) -> tuple[float, Found]:
    """A wide box on which ε is little, and what was found there.

    Raises:
        TooRough: if there is none.
    """
    radius, why = _first(len(contraction.start.free)), ""
    best: tuple[float, Found] | None = None
    shrunk = False
    for _ in range(contraction.tries):
        try:
            found = contraction.at(radius)
        except TooRough as error:  # a kink, say
            found, why = None, str(error)
        narrow = found is not None and radius * (1 - MOST_CLAIMED) < 2 * found.slope
        if found is not None and found.works and not narrow:
            if found.contraction > 3 * AIM and not shrunk:
                radius, shrunk = radius * AIM / found.contraction, True
                continue
            best = radius, found
            if shrunk or found.contraction > AIM / 10 or radius > 1e6:
                break
            radius *= min(1e8, AIM / max(found.contraction, 1e-12))
            continue
        if best is not None:
            break
        before = radius
        if found is None:
            radius = contraction.least
        elif not found.works:
            why = f"inertia: the row sums of |QᵀHQ − S| reach {found.contraction:.3g}, not below {MOST:g}"
            # What the box adds grows with it; what rounding adds does not.
            radius = max(contraction.least, radius * AIM / (2 * found.contraction))
        else:
            why = (
                f"existence: ‖Qᵀ∇R‖∞ = {found.slope:.3g} is too large for a box of ρ = {radius:.3g}"
            )
            radius = 4 * found.slope / (1 - MOST_CLAIMED)
        if not 0 < radius != before:
            break
    if best is None:
        raise TooRough(why)
    radius, found = best
    return radius, replace(found, slope=min(found.slope, contraction.sharpest()))
