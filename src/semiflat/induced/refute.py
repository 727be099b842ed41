"""Refuting "local minimum" where the Hessian cannot: by what moves that keep the outputs uncover.

If θ is a local minimum, so is every θ + tv near it with the same loss, and its gradient vanishes (K19
Lemma 3). Along a straight line of constant outputs with analytic activations the gradient is analytic in t:
where it is not 0 at one t, it is not 0 at all but finitely many, hence arbitrarily near θ, and θ is no local
minimum. Units with a kink must not cross it on the way.

Negative curvature at θ + tv refutes nothing unless it is there at t = 0: moving a share λ of a duplicate
past 0 turns a minimum into a saddle, at a distance that may be smaller than what a Hessian resolves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.errors import positive, whole, whole_seed
from semiflat.evidence import (
    ENOUGH,
    EPS,
    OnData,
    allowed_gradient,
    first_kink,
    kinks,
    rounded_vectors,
)
from semiflat.induced.basis import check_modelled, model_on
from semiflat.induced.features import NetworkFeatures
from semiflat.induced.moves import Move, draw_moves, families, not_analytic
from semiflat.networks import Params
from semiflat.points import Point, gradient
from semiflat.records.shown import Shown

DENSE_LIMIT = 2048
"""Parameters up to which Hessians are taken."""
SIZES = (1.0, 0.25)
"""Parts of a drawn move at which the gradient is taken."""


@dataclass(frozen=True)
class Sighting(Shown):
    """What was seen at one distance along a move.

    Attributes:
        size: distance from θ.
        value: largest entry of the gradient, or the lowest eigenvalue of the Hessian.
        floor: what it is held against: rounding, and the distance to the exact critical point.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> mean = torch.tensor([0, 0, 0, 0, 0, 0, 2 / 3], dtype=torch.float64)
    >>> answer = sf.refute_minimum(sf.Point(problem, problem.net.unflatten(mean)))
    >>> [seen.size > 0 and seen.value > 100 * seen.floor for seen in answer.seen]  # at two distances
    [True, True]
    """

    size: float
    value: float
    floor: float


@dataclass(frozen=True)
class Refutation(Shown):
    """Whether a point was shown not to be a local minimum, and how. Not refuted never means it is one.

    Attributes:
        refuted: whether it was.
        by: ``"gradient"``, ``"curvature"``, or ``"nothing"``.
        family: the kind of move; ``""`` where it shows at the point itself.
        direction: unit vector v, params-shaped, along which the outputs stay; None where none was needed.
        size: ε of ``θ + εv``, 0 at the point itself.
        seen: gradients along the move, or the eigenvalue at the point, with their floors.
        descent: the way down from ``θ + εv``, params-shaped, of unit length; None if not refuted.
        fall: how far the loss was measured to fall below L(θ) on that way; 0 if less than rounding.
        gap: gradient basis gap at ``θ + εv``, if the loss is convex and the point small enough.
        point: ``θ + εv`` itself.
        tried: how many moves of each family were tried.
        reason: one sentence.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> mean = torch.tensor([0, 0, 0, 0, 0, 0, 2 / 3], dtype=torch.float64)
    >>> answer = sf.refute_minimum(sf.Point(problem, problem.net.unflatten(mean)))
    >>> answer.refuted, answer.by, answer.family
    (True, 'gradient', 'units of hidden layer 0 that nothing hears')
    >>> answer.fall > 0, answer.descent["0.weight"].shape
    (True, torch.Size([2, 1]))
    """

    refuted: bool
    by: str
    reason: str
    family: str = ""
    direction: Params | None = field(default=None, repr=False)
    size: float = 0.0
    seen: tuple[Sighting, ...] = ()
    descent: Params | None = field(default=None, repr=False)
    fall: float = 0.0
    gap: float | None = None
    point: Point | None = field(default=None, repr=False)
    tried: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        raise TypeError(
            "a Refutation is not true or false by itself: ask .refuted, and mind that a point which is "
            "not refuted need not be a minimum"
        )

    def to_json(self) -> dict[str, Any]:
        """Everything but points and directions, as plain data."""
        plain = {k: v for k, v in vars(self).items() if k not in ("direction", "descent", "point")}
        return plain | {"seen": [vars(sighting) for sighting in self.seen]}


def refute_minimum(
    point: Point, *, seed: int = 0, draws: int = 4, tolerance: float = 1e-10
) -> Refutation:
    """Look for a proof by measurement that a critical point is no local minimum (K19 Thm 2, Lemma 3).

    Straight moves that keep the outputs on the data are drawn at random from every family that is known
    (:mod:`semiflat.induced.moves`); a gradient that is clearly not 0 after one of them refutes, and so does
    a negative eigenvalue of the Hessian at the point itself. It decides points that
    :func:`semiflat.judge` leaves undecided, where the Hessian is positive semidefinite and singular.

    Args:
        point: one point, plain or embedded, without weight decay.
        seed: of the draws.
        draws: moves of each family, each in both directions.
        tolerance: as for :func:`semiflat.judge`.

    Raises:
        InputError: for a :class:`PointBatch`, or a problem with weight decay, which no such move keeps.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> bias_only = torch.tensor([0, 0, 0, 0, 0, 0, 2 / 3], dtype=torch.float64)
    >>> flat = sf.Point(problem, problem.net.unflatten(bias_only))
    >>> sf.judge(flat).kind
    <Kind.UNDECIDED: 'UNDECIDED'>
    >>> found = sf.refute_minimum(flat)
    >>> found.refuted, found.by, found.family, found.fall > 0
    (True, 'gradient', 'units of hidden layer 0 that nothing hears', True)
    """
    check_modelled(point)
    point.problem.check_outputs_alone(
        "moves that keep the outputs change the risk, so K19 Lemma 3 says nothing; judge(point) takes the sum"
    )
    draws, seed, tolerance = (
        whole("draws", draws, 1),
        whole_seed(seed),
        positive("tolerance", tolerance),
    )
    site = _Site(Point(point.problem, point.params), tolerance)
    kink = first_kink(kinks(site.data, site.shifted))
    if kink is not None:
        layer, unit, samples = kink
        return Refutation(
            False,
            "nothing",
            f"unit {unit} of hidden layer {layer} is at its kink on {samples} sample(s): K19 Thm 2 speaks of "
            "points that are differentiable nearby",
        )
    here = site.at_the_point()
    if here is not None:
        return here
    unknown = not_analytic(point.problem.net)
    if unknown is not None:
        return Refutation(False, "nothing", f"not refuted: {unknown}")
    tried: dict[str, int] = {}
    moves = 0
    for move in draw_moves(site.data, seed, draws, tried):
        moves += 1
        found = site.by_gradient(move, tried)
        if found is not None:
            return found
    return Refutation(False, "nothing", _unrefuted(site, moves), tried=tried)


def _unrefuted(site: _Site, moves: int) -> str:
    if not families(site.data):
        return (
            "not refuted, because no straight move is known that keeps the outputs: every layer is fed "
            "with independent columns and every unit is heard. That does not make it a minimum"
        )
    return (
        f"not refuted: the gradient stays within noise along {moves} moves that keep the outputs. That does "
        "not make it a minimum"
    )


class _Site:
    """A point, and the two neighbours that tell what its derivatives are worth."""

    def __init__(self, point: Point, tolerance: float) -> None:
        self.point, self.problem, self.net = point, point.problem, point.problem.net
        self.data = OnData(point.problem, point.params)
        self.dense = self.net.parameter_count <= DENSE_LIMIT
        self.at = self.net.flatten(point.params)
        self.rounded = rounded_vectors(self.at)
        self.shifted: Tensor | None = None
        self.lowest: tuple[float, float] | None = None
        if self.dense:
            evidence = point.evidence.at(tolerance)
            self.shifted = evidence.shifted
            self.lowest = evidence.spectrum.clearest(-1)
        self.gradient = gradient(point)
        self.allowed = allowed_gradient(self.data, tolerance)
        self.gradient_norm = float(self.gradient.abs().max())

    def sites(self, step: Tensor) -> Tensor:
        """θ, a unit of rounding away and a Newton step on, each moved by ``step``."""
        known = [self.at, self.rounded]
        known += [] if self.shifted is None else [self.shifted]
        return torch.stack(known) + step

    def at_the_point(self) -> Refutation | None:
        """A gradient or a negative eigenvalue at θ itself."""
        still = torch.zeros_like(self.at)
        worst = int((self.gradient.abs() / self.allowed.clamp(min=1e-300)).argmax())
        slope, noise = float(self.gradient[worst].abs()), float(self.allowed[worst])
        if slope > noise:
            seen = Sighting(0.0, slope, noise)
            reason = (
                f"not a critical point: an entry of the gradient is {slope:.2g}, where tolerance and rounding "
                f"allow {noise:.2g}"
            )
            found = self._found("gradient", Move("", still), [seen], {}, reason)
            if found.fall > 0:
                return found
            return Refutation(
                False,
                "nothing",
                f"not refuted: an entry of the gradient is {slope:.2g}, where tolerance and rounding allow "
                f"{noise:.2g}, but the loss was not seen to fall: a critical point may be next to it. Polish "
                "it, by find_critical_point(problem, start=point.params), and ask again",
            )
        if self.lowest is not None:
            seen = Sighting(0.0, *self.lowest)
            reason = (
                f"a strict saddle: the Hessian has the eigenvalue {seen.value:.2g}, its floor is "
                f"{seen.floor:.2g}"
            )
            return self._found("curvature", Move("", still), [seen], {}, reason)
        return None

    def by_gradient(self, move: Move, tried: dict[str, int]) -> Refutation | None:
        """K19 Lemma 3: a gradient along the move."""
        seen = [self._gradient(part * move.step) for part in SIZES]
        if not any(sighting.value > ENOUGH * sighting.floor for sighting in seen):
            return None
        clearest = max(range(len(seen)), key=lambda k: seen[k].value / max(seen[k].floor, 1e-300))
        moved = Move(move.family, SIZES[clearest] * move.step)
        best = seen[clearest]
        reason = (
            f"no local minimum: moving along {move.family} by {best.size:.2g} keeps the outputs, and the "
            f"gradient's largest entry there is {best.value:.2g} (floor {best.floor:.2g}), so it is not 0 "
            "arbitrarily near the point (K19 Lemma 3)"
        )
        return self._found("gradient", moved, seen, tried, reason)

    def _gradient(self, step: Tensor) -> Sighting:
        here, *others = risk_gradient(self.problem, self.net.unflatten(self.sites(step)))[1]
        floor = 4 * float((here - others[0]).abs().max()) + ENOUGH * self.gradient_norm
        floor += sum(2 * float((here - other).abs().max()) for other in others[1:])
        there = OnData(self.problem, self.net.unflatten(self.at + step))
        floor += float(torch.maximum(there.natural.noise, self.data.natural.noise).max())
        if self.shifted is None:
            floor *= ENOUGH  # how far the critical point is, is not known
        length = float(torch.linalg.vector_norm(step))
        return Sighting(length, float(here.abs().max()), floor)

    def _found(
        self,
        by: str,
        move: Move,
        seen: list[Sighting],
        tried: dict[str, int],
        reason: str,
    ) -> Refutation:
        there = self.at + move.step
        descent = self._descent(there, by)
        length = float(torch.linalg.vector_norm(move.step))
        params = self.net.unflatten(there)
        return Refutation(
            True,
            by,
            reason,
            move.family,
            self.net.unflatten(move.step / length) if length else None,
            length,
            tuple(seen),
            self.net.unflatten(descent),
            self._fall(there, descent),
            self._gap(params),
            Point(self.problem, params),
            tried,
        )

    def _descent(self, there: Tensor, by: str) -> Tensor:
        _, gradient = risk_gradient(self.problem, self.net.unflatten(there))
        down = -gradient
        if by == "curvature":
            hessian = risk_gradient_hessian(self.problem, self.net.unflatten(there))[2]
            down = torch.linalg.eigh((hessian + hessian.mT) / 2)[1][:, 0]
            down = down if float(down @ gradient) <= 0 else -down
        unit: Tensor = down / torch.linalg.vector_norm(down)
        return unit

    def _fall(self, there: Tensor, descent: Tensor) -> float:
        lengths = torch.logspace(-7, 1, 60, dtype=torch.float64)
        risks = self.problem.risk(self.net.unflatten(there + lengths[:, None] * descent))
        loss = float(self.point.loss)
        fall = loss - float(risks[torch.isfinite(risks)].min())
        return fall if fall > 64 * EPS * abs(loss) else 0.0

    def _gap(self, params: Params) -> float | None:
        entries = self.problem.samples * self.net.outputs * self.net.parameter_count
        if not self.problem.loss.convex or entries > 2**22:
            return None
        return model_on(NetworkFeatures(self.problem, params)).gap
