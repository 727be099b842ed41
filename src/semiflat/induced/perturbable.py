"""The perturbable gradient basis: features at θ and at every θ + εv with the same outputs (K19 §3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semiflat.errors import InputError, positive, whole, whole_seed
from semiflat.evidence import EPS, OnData
from semiflat.induced.basis import (
    GradientBasisModel,
    check_convex,
    check_modelled,
    model_on,
)
from semiflat.induced.features import GradientFeatures, NetworkFeatures
from semiflat.induced.moves import draw_moves, kept_step, not_analytic
from semiflat.networks import Params
from semiflat.points import Point
from semiflat.problem import finite

UNION_ENTRIES = 2**26
"""Entries N·M × P·(1 + |S|) of features that are held: half a GiB."""


class UnionFeatures(GradientFeatures):
    """The features at several points with the same outputs, side by side.

    Those of a moved point are taken less those of θ, which spans the same. They are brought to a size at
    which all columns are rounded alike, so that a difference which is mostly rounding stays too small to count.
    """

    def __init__(self, base: NetworkFeatures, moved: Sequence[NetworkFeatures]) -> None:
        self.outputs, self.targets, self.loss = base.outputs, base.targets, base.loss
        self.moved = base.moved
        here = base.matrix()
        columns, noises = [here], [EPS * _lengths(here)]
        for each in moved:
            there = each.matrix()
            again = each.rounded().matrix()
            columns.append(there - here)
            noise = 4 * EPS * (_lengths(here) + _lengths(there)) + 2 * _lengths(again - there)
            noises.append(torch.maximum(noise, EPS * _lengths(columns[-1])))
        kept = torch.cat(
            [_lengths(part) > noise for part, noise in zip(columns, noises, strict=True)]
        )
        self._columns = torch.cat(columns, dim=1)[:, kept]
        self._scales = EPS / torch.cat(noises)[kept]
        self.count = self._columns.shape[1]

    def scales(self) -> Tensor:
        return self._scales

    def matrix(self) -> Tensor:
        return self._columns

    def rows(self, part: slice) -> Tensor:
        return self._columns.reshape(self.samples, self.width, self.count)[part]

    def apply(self, alpha: Tensor) -> Tensor:
        return (self._columns @ alpha).reshape(self.outputs.shape)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        return self._columns.mT @ cotangent.reshape(-1)


def _lengths(columns: Tensor) -> Tensor:
    found: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return found


def perturbable_basis_model(
    point: Point,
    directions: Sequence[Params | Tensor] | None = None,
    *,
    size: float = 1.0,
    seed: int = 0,
    draws: int = 2,
    convex: bool = False,
) -> GradientBasisModel:
    """The model in the features of θ and of all θ + size·v, v from ``directions`` (K19 Thm 2).

    At a differentiable local minimum its infimum is L(θ), as that of the features at θ alone is at every
    critical point. A gap that is clearly positive where that of θ alone is 0 shows that θ is no local
    minimum, provided the outputs stay along the whole segment, which is checked here.

    Args:
        point: one point.
        directions: params-shaped or flat; each must keep the outputs on the data along the whole segment
            up to ``size``. Without them, some are drawn from every family that is known.
        size: ε.
        seed: of the directions that are drawn.
        draws: how many of each family, in both senses.
        convex: vouch for a loss given as a function.

    Raises:
        InputError: for a direction that changes the outputs, or crosses a kink; a loss not known to be
            convex; an activation not known to be analytic; features too many to hold.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> flat = sf.Point(problem, problem.net.unflatten(torch.tensor([0, 0, 0, 2 / 3]).double()))
    >>> sf.gradient_basis_gap(flat) < 1e-15 < 0.1 < perturbable_basis_model(flat).gap
    True
    """
    check_modelled(point)
    check_convex(point.problem.loss, convex)
    unknown = not_analytic(point.problem.net)
    if unknown is not None:
        raise InputError(f"K19 Thm 2 speaks of moves as small as one likes, and {unknown}")
    size, seed, draws = positive("size", size), whole_seed(seed), whole("draws", draws, 1)
    net = point.problem.net
    data = OnData(point.problem, point.params)
    at = net.flatten(point.params)
    if directions is None:
        steps = [move.step * size for move in draw_moves(data, seed, draws)]
    else:
        try:
            given = list(directions)
        except TypeError:
            raise InputError(f"directions must be a list of them, not {directions!r}") from None
        steps = [_checked(data, direction, size) for direction in given]
    rows = point.problem.samples * net.outputs
    if rows * net.parameter_count * (1 + len(steps)) > UNION_ENTRIES:
        raise InputError(
            f"the features at {1 + len(steps)} points, {rows} × {net.parameter_count} each, are more than "
            f"{UNION_ENTRIES} numbers; give fewer directions, or draws=1"
        )
    here = NetworkFeatures(point.problem, point.params)
    moved = [NetworkFeatures(point.problem, net.unflatten(at + step)) for step in steps]
    return model_on(UnionFeatures(here, moved))


def perturbable_basis_gap(
    point: Point,
    directions: Sequence[Params | Tensor] | None = None,
    *,
    size: float = 1.0,
    seed: int = 0,
    draws: int = 2,
    convex: bool = False,
) -> float:
    """``L(θ) − inf_α L̃_θ(α, ε, S)`` ≥ 0 (K19 Thm 2); as :func:`perturbable_basis_model` has it.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.0], [1.0]], [1.0, 0.0, 1.0])
    >>> flat = sf.Point(problem, problem.net.unflatten(torch.tensor([0, 0, 0, 2 / 3]).double()))
    >>> incoming = torch.tensor([2.0, 1.0, 0.0, 0.0]).double()      # of a unit that nothing hears
    >>> perturbable_basis_gap(flat, [incoming]) > 0.01
    True
    """
    return perturbable_basis_model(
        point, directions, size=size, seed=seed, draws=draws, convex=convex
    ).gap


def _checked(data: OnData, direction: Params | Tensor, size: float) -> Tensor:
    net = data.net
    if isinstance(direction, dict):
        net.check_params(direction)
        direction = net.flatten(direction)
    flat = finite("a direction", direction)
    if flat.shape != (net.parameter_count,):
        raise InputError(
            f"a direction has shape {tuple(flat.shape)}; expected ({net.parameter_count},), or a dict of "
            "the parameters' shapes"
        )
    kept = kept_step(data, size * flat) if flat.any() else size * flat
    if kept is None or not torch.equal(kept, size * flat):
        raise InputError(
            "a direction changes the outputs on the data, or takes a unit across its kink, before "
            f"size {size:g}; K19 Thm 2 needs θ + εv with the same outputs: project it, or take it smaller"
        )
    return kept
