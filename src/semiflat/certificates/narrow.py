"""The proof that a point is next to exactly one critical point, with its inertia and its loss.

The steps are those of the checker (:mod:`semiflat.certificates.checker.verify`), in float64 with
rigorous bounds where these suffice and in balls where they do not. One matrix proves all: in coordinates
θ = c + Qu with QᵀH(c)Q ≈ S = diag(±1), how far QᵀH(X)Q is from S over the box tells existence, uniqueness
and inertia.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from semiflat.certificates.bounded import Array, upper
from semiflat.certificates.checker.arithmetic import arb, ctx
from semiflat.certificates.checker.balls import Network, NotDefinite
from semiflat.certificates.checker.gauge import need_dead
from semiflat.certificates.contraction import (
    CLAIMED,
    MOST_CLAIMED,
    BallContraction,
    FloatContraction,
    Found,
    widest,
)
from semiflat.certificates.enclosure import TooRough
from semiflat.certificates.families import symmetric_families
from semiflat.certificates.polish import (
    HOPELESS,
    Undecided,
    conditioned,
    float_above,
    float_below,
    polished,
)
from semiflat.points import Point

PRECISION = 128
BITS = 128, 256
"""Precisions of the balls where float64 bounds do not suffice."""


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


def prove_narrow(point: Point, net: Network) -> Narrow:
    """The proof for the critical point next to ``point``.

    Raises:
        Undecided: with the inequality that failed.
    """
    # What overflows is looked for where it matters.
    with ctx.workprec(PRECISION), np.errstate(all="ignore"):
        try:
            return _prove(point, net)
        except NotDefinite as error:
            raise Undecided(str(error)) from error


def _prove(point: Point, net: Network) -> Narrow:
    frozen = symmetric_families(net, point)
    start = polished(point, net, frozen)
    if start.condition > HOPELESS:
        raise Undecided(conditioned(start.condition))
    why = ""
    for bits in (0, *BITS):
        contraction = BallContraction(net, start, bits) if bits else FloatContraction(net, start)
        try:
            radius, found = widest(contraction)
        except TooRough as error:
            why = str(error)
            continue
        # Newton's steps may have woken a unit.
        need_dead(net, start.box(radius), frozen)
        method = f"balls of {bits} bits" if bits else "float64 bounds"
        return _claims(contraction, frozen, radius, found, method)
    raise Undecided(f"{why}; {conditioned(start.condition)}")


def _claims(
    contraction: FloatContraction | BallContraction,
    frozen: list[dict[str, Any]],
    radius: float,
    found: Found,
    method: str,
) -> Narrow:
    """The numbers of the certificate, each with room for the checker's own rounding."""
    net, start = contraction.net, contraction.start
    size = len(start.free)
    epsilon = CLAIMED if found.contraction < CLAIMED / 3 else MOST_CLAIMED
    if not found.slope + epsilon * radius < radius * (1 - 1e-9):
        raise Undecided(
            f"existence: ‖Qᵀ∇R‖∞ + ερ = {found.slope:.3g} + {epsilon:.3g} ρ is not below ρ = {radius:.3g}"
        )
    near = found.slope / (1 - epsilon) * (1 + 1e-9)
    spread = start.spread()[start.free]
    loss = contraction.loss(found, near)
    low, high = float_below(loss), float_above(loss)
    squares = float(upper(np.square(start.Q).sum(keepdims=True), 2 * size * size).sum())
    negative = int((start.signs < 0).sum())
    kind = "STRICT_SADDLE" if negative else "MINIMUM" if size < net.size else "STRICT_MINIMUM"
    proved = {
        "contraction": epsilon.hex(),
        "loss": [low.hex(), high.hex()],
        "location": (near * float(spread.max(initial=0.0)) * (1 + 1e-9)).hex(),
        "unique": (radius * (float(spread.min()) if size else 0.0) * (1 - 1e-9)).hex(),
        "eigenvalue_sizes": [
            ((1 - epsilon) / squares * (1 - 1e-9) if size else 0.0).hex(),
            (found.largest * 1.5).hex(),
        ],
        "inertia": [size - negative, net.size - size, negative],
        "exact": True,
        "kind": kind,
    }
    margins = {"contraction": found.contraction, "slope": found.slope, "condition": start.condition}
    centre = [start.theta, start.away]
    return Narrow(net, centre, start.Q, radius, frozen, proved, start.box(near), method, margins)
