"""Residual networks ``f = W(x + R z(x; u))``: no local minimum lies above the linear model on (x, z)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.evidence import rounded_vectors
from semiflat.induced.basis import LossLike, check_convex
from semiflat.induced.features import moved_by_rounding
from semiflat.induced.linear_model import AgainstLinear, LinearMinimum, linear_minimum, spans
from semiflat.losses import loss_named
from semiflat.problem import finite

SPAN_ENTRIES = 2**25
"""Entries of the features at θ + εS′ up to which it is checked that they span the linear model."""


@dataclass(frozen=True)
class ResNetModel(AgainstLinear):
    """A residual network against the linear model on its input and its residual features (K19 Thm 3).

    Attributes:
        loss: L(θ).
        minimum: the linear model's infimum, its noise and bracket.
        rank: of W.
        directions: the moves S′ of R in the proof, each (d_x, d_z): ``a e_jᵀ`` with Wa = 0; none where W
            has full rank.
        outside: the largest part of a column of the linear model outside the features at θ + S′; None
            where they are too many to hold.
        refuted: whether θ is no local minimum: L(θ) lies above the infimum beyond doubt.
        reason: one sentence.

    >>> import semiflat as sf
    >>> x, z = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 2], [0, 1], [3, 0]])
    >>> model = sf.resnet_model(torch.zeros(1, 2), torch.zeros(2, 2), x, z, [0.0, 1.0, -1.0])
    >>> model.rank, model.refuted, model.loss > model.minimum.infimum
    (0, True, True)
    """

    loss: float
    minimum: LinearMinimum
    rank: int
    outside: float | None
    refuted: bool
    reason: str
    directions: Tensor = field(repr=False)


def resnet_model(
    W: Any,
    R: Any,
    x: Any,
    z: Any,
    y: Any,
    loss: LossLike = "squared",
    *,
    convex: bool = False,
) -> ResNetModel:
    """Whether ``f = W(x + R z)`` at these W and R can be a local minimum (K19 Thm 3).

    At a local minimum L(θ) is at most the infimum of ``α_w x + α_r z`` over all α: the residual network is
    never worse than a linear model on its input and the features it learned.

    Args:
        W: (d_y, d_x), the last layer.
        R: (d_x, d_z).
        x: (N, d_x), what the skip connection carries.
        z: (N, d_z), what the residual block gives at the point in question.
        y: targets, as for ``Problem``.
        loss: as for ``Problem``.
        convex: vouch for a loss given as a function.

    Raises:
        InputError: for shapes that do not fit, values that are not finite, a loss not known to be convex,
            or ``d_y > min(d_x, d_z)``, where the theorem does not hold.

    >>> x, z = torch.tensor([[1.0, 0], [0, 1], [1, 1]]), torch.tensor([[1.0, 2], [0, 1], [3, 0]])
    >>> found = resnet_model(torch.zeros(1, 2), torch.zeros(2, 2), x, z, [0.0, 1.0, -1.0])
    >>> found.rank, found.spanned, found.refuted, len(found.directions)
    (0, True, True, 2)
    """
    W, R, x, z = (_matrix(name, given) for name, given in zip("WRxz", (W, R, x, z), strict=True))
    (d_y, d_x), d_z = W.shape, R.shape[1]
    if R.shape[0] != d_x or x.shape[1] != d_x or z.shape != (len(x), d_z):
        raise InputError(
            f"W {tuple(W.shape)}, R {tuple(R.shape)}, x {tuple(x.shape)} and z {tuple(z.shape)} do not fit "
            "f = W(x + R z); expected (d_y, d_x), (d_x, d_z), (N, d_x) and (N, d_z)"
        )
    if d_y > min(d_x, d_z):
        raise InputError(
            f"{d_y} outputs are more than min(d_x, d_z) = {min(d_x, d_z)}, and K19 Thm 3 needs d_y ≤ "
            "min(d_x, d_z); take a wider residual block, or gradient_basis_gap, which needs no width"
        )
    chosen = loss_named(loss)
    check_convex(chosen, convex)
    targets = chosen.targets(finite("y", y), len(x), d_y)
    outputs = (x + z @ R.mT) @ W.mT
    columns = torch.cat([x, z], dim=1)
    nearby = (rounded_vectors(x) + rounded_vectors(z) @ R.mT) @ W.mT
    moved = moved_by_rounding(outputs, nearby, targets)
    minimum = linear_minimum(outputs, columns, chosen, targets, moved)
    _, sizes, right = torch.linalg.svd(W, full_matrices=True)
    rank = int((sizes > max(W.shape) * 2.0**-52 * sizes[0]).sum())
    directions = W.new_zeros((0, d_x, d_z))
    if rank < d_y:
        # The proof takes d_y·d_z of them; as q is free in q bᵀ, the d_z with b = e_j do.
        directions = right[rank][None, :, None] * torch.eye(d_z, dtype=W.dtype)[:, None, :]
    outside = None
    if len(x) * d_y * (d_y * d_x * (1 + len(directions)) + d_x * d_z) <= SPAN_ENTRIES:
        outside = spans(_features(W, R, x, z, directions), columns, d_y)
    loss_here = float(chosen.value(outputs, targets).mean())
    reason = (
        f"no local minimum: L(θ) lies {minimum.gap:.3g} above the linear model on x and z (noise "
        f"{minimum.noise:.1g}; K19 Thm 3)"
        if minimum.below
        else "not refuted: L(θ) is as low as the linear model on x and z, up to noise"
    )
    return ResNetModel(loss_here, minimum, rank, outside, minimum.below, reason, directions)


def _features(W: Tensor, R: Tensor, x: Tensor, z: Tensor, directions: Tensor) -> Tensor:
    """Derivatives by W at θ and, less those, at each θ + S′_j, and by R at θ: (N·M, K)."""
    eye = torch.eye(len(W), dtype=W.dtype)
    fed = [x + z @ R.mT, *(z @ move.mT for move in directions)]
    by_W = [torch.einsum("nd,mk->nmkd", each, eye).flatten(2) for each in fed]
    by_R = torch.einsum("md,nz->nmdz", W, z).flatten(2)
    return torch.cat([*by_W, by_R], dim=2).flatten(0, 1)


def _matrix(name: str, given: Any) -> Tensor:
    tensor = finite(name, given)
    if tensor.ndim != 2 or not tensor.numel():
        raise InputError(
            f"{name} must be a matrix; given is an array of shape {tuple(tensor.shape)}"
        )
    return tensor
