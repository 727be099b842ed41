"""How a critical function lies in a wider network, and along which of its ways down a run has left it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.evidence.slices import risks
from semiflat.nesting.functions import told_apart
from semiflat.nesting.ways import ways_down, widenings
from semiflat.points import Point, hessian, jacobian
from semiflat.problem import Problem
from semiflat.records.shown import Shown
from semiflat.verdicts import Kind, Verdict, judge, judge_all

DIRECTIONS = 200
"""Random directions that a way down is compared with."""
CHANCE = 0.05
"""Where more of them come as close to the run as the way down does, that says nothing."""
HALF = 0.5
"""Nor does it where less than this part of the change, in squares, is along the way down."""
LARGEST = 200_000
"""Parameters of the largest network whose ways down are compared: each takes some five hundred evaluations."""
RISES = 1e-10
"""Eigenvalues above this part of the largest one are those of directions in which the loss rises."""
NOTHING = 1e-7
"""Changes of outputs below this part of what they were before projecting are rounding."""

Compared = tuple[float | None, float | None, str]
"""Cosine and chance; or why there are none."""


@dataclass(frozen=True, kw_only=True)
class NearPoint(Shown):
    """What a critical point is in the trained network, by one way of widening it.

    Attributes:
        point: its name in the hierarchy.
        how: the units added, see :class:`semiflat.Edge`; ``"own"`` where the widths are the point's own.
        layer, unit: the replicated unit; None if none is.
        kind: of the embedded point, by the inertia law.
        inertia: of the embedded point; None where there is no Hessian to count in.
        curvature: along the law's descent; None unless the kind is a strict saddle.
        cosine: between the run's change of outputs and that along the law's descent; None where there is
            nothing to compare. See :func:`semiflat.stages`.
        chance: the share of random directions at the same point whose cosine is no smaller.
        reason: why a strict saddle has no cosine; else ``""``.

    >>> import semiflat as sf
    >>> near = sf.NearPoint(
    ...     point="1-0", how="inside", layer=0, unit=0, kind=sf.Kind.STRICT_SADDLE, inertia=(4, 2, 1),
    ...     curvature=-0.3, cosine=0.9, chance=0.01)
    >>> near.telling, str(near)
    (True, 'inside 0.0: strict saddle, left along it with cosine 0.90 (by chance 1 %)')
    """

    point: str
    how: str
    layer: int | None
    unit: int | None
    kind: Kind
    inertia: tuple[int, int, int] | None
    curvature: float | None
    cosine: float | None = None
    chance: float | None = None
    reason: str = ""

    @property
    def telling(self) -> bool:
        """Whether half of the change, in squares, is along this way, and by chance in 5 % of cases at most."""
        if self.cosine is None or self.chance is None:
            return False
        return self.cosine >= HALF**0.5 and self.chance <= CHANCE

    def __str__(self) -> str:
        unit = "" if self.unit is None else f" {self.layer}.{self.unit}"
        words = f"{self.how}{unit}: {self.kind.label}"
        if self.cosine is None or self.chance is None:
            return words
        return f"{words}, left along it with cosine {self.cosine:.2f} (by chance {100 * self.chance:.2g} %)"


def near_points(
    name: str, point: Point, hidden: tuple[int, ...], change: Tensor
) -> list[NearPoint]:
    """What a point is in a network of given hidden widths, and how a run's change compares with the ways down.

    Args:
        name: of the point.
        point: of a network no wider in any layer.
        hidden: of the trained network.
        change: of the outputs, on leaving, (N, M).
    """
    left = _Left(point, change)
    if point.problem.net.hidden == hidden:
        return [_near(name, "own", None, None, point, judge(point), left)]
    plan = list(widenings(point.problem.net, hidden))
    wide = [widening.embedding(point) for widening in plan]
    return [
        _near(name, each.how, each.layer, each.unit, there, verdict, left)
        for each, there, verdict in zip(plan, wide, judge_all(wide), strict=True)
    ]


def _near(
    name: str,
    how: str,
    layer: int | None,
    unit: int | None,
    point: Point,
    verdict: Verdict,
    left: _Left,
) -> NearPoint:
    signs, saddle = verdict.inertia, verdict.kind is Kind.STRICT_SADDLE
    cosine, chance, reason = left.compared(point, verdict) if saddle else (None, None, "")
    return NearPoint(
        point=name,
        how=how,
        layer=layer,
        unit=unit,
        kind=verdict.kind,
        inertia=None if signs is None else (signs[0], signs[1], signs[2]),
        curvature=verdict.curvature if saddle else None,
        cosine=cosine,
        chance=chance,
        reason=reason,
    )


class _Left:
    """The change of outputs on leaving a point, but for what the point's own rising directions do.

    Along these the run settles fast, wherever the slow directions take it: where a saddle's descent changes
    outputs to second order, they answer to second order, too. So changes are compared in what is orthogonal
    to their tangent space of outputs. Embedded points have the same tangent space.
    """

    def __init__(self, point: Point, change: Tensor) -> None:
        self.problem = point.problem
        self.basis: Tensor | None = None
        net = point.problem.net
        if net.parameter_count <= LARGEST // 50:  # a dense Hessian
            values, vectors = torch.linalg.eigh(hessian(point))
            rising = vectors[:, values > RISES * values.abs().max()]
            tangents = self._vectors((jacobian(point) @ rising).movedim(-1, 0))
            left, sizes, _ = torch.linalg.svd(tangents.mT, full_matrices=False)
            self.basis = left[:, sizes > RISES * sizes.max()] if len(sizes) else left
            self.change = self._beyond(change[None])[0]

    def _vectors(self, changes: Tensor) -> Tensor:
        """Changes of outputs, (B, N, M), as vectors (B, N·M) whose lengths are root mean squares."""
        seen = told_apart(self.problem, changes)
        share = torch.as_tensor(self.problem.share(), dtype=seen.dtype)
        return (seen * share.sqrt().reshape(-1, 1)).flatten(1)

    def _beyond(self, changes: Tensor) -> Tensor:
        """What is orthogonal to the basis, (B, N·M); nothing where that is rounding."""
        assert self.basis is not None
        vectors = self._vectors(changes)
        rest = vectors - vectors @ self.basis @ self.basis.mT
        rest = rest - rest @ self.basis @ self.basis.mT
        size = NOTHING * vectors.norm(dim=1, keepdim=True)
        return torch.where(rest.norm(dim=1, keepdim=True) > size, rest, 0.0)

    def compared(self, point: Point, verdict: Verdict) -> Compared:
        """The cosine with a saddle's descent, on the better of its sides, and the chance of one as large."""
        problem, net = point.problem, point.problem.net
        if self.basis is None:
            return None, None, "the narrow network is too large for a dense Hessian"
        if net.parameter_count > LARGEST:
            return None, None, f"ways down are compared in networks of up to {LARGEST} parameters"
        if not bool(self.change.any()):
            return None, None, "the narrow units alone can change the outputs so"
        assert verdict.descent_direction is not None  # a strict saddle has one
        at = net.flatten(point.params)
        ways = ways_down(problem, at, net.flatten(verdict.descent_direction))
        if not ways:
            return None, None, "rounding hides that the loss falls along the way down"
        places = torch.stack([place for _, place in ways])
        cosine = float(self._cosines(problem, at, places).max())
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(DIRECTIONS, len(at), generator=generator, dtype=at.dtype)
        drawn *= (places[0] - at).norm() / drawn.norm(dim=1, keepdim=True)
        sides = [self._cosines(problem, at, at + side * drawn) for side in (1, -1)]
        chance = float((torch.maximum(*sides) >= cosine).double().mean())
        return cosine, chance, ""

    def _cosines(self, problem: Problem, at: Tensor, places: Tensor) -> Tensor:
        """Between the run's change and those from a point to some places, (B, P)."""
        base = problem.outputs(problem.net.unflatten(at))
        beyond = self._beyond(
            risks(problem, lambda part: places[part], len(places), problem.outputs) - base
        )
        sizes = beyond.norm(dim=1) * self.change.norm()
        return torch.where(sizes > 0, beyond @ self.change / sizes.clamp(min=1e-300), 0.0)
