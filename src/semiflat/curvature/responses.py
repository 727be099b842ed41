"""What moves what between two layers, sample by sample: the factors that second derivatives are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.curvature.sweep import Sweep, pull_back


def responses(s: Sweep, bends: bool = True) -> tuple[list[Tensor], list[Tensor]]:
    """For each linear layer l, ``∂h_{l-1}/∂z_m`` (m < l − 1) and ``∂δ_l/∂z_m`` (m ≤ l).

    Shapes ``(*batch, ·, Σ_m out_m, n)``, the layers m one after the other along the third axis. What
    a layer's z does to itself is 1, and to its own h a diagonal: neither is stored.

    Args:
        bends: whether σ'' counts; without it the second is what Gauss–Newton takes of it.
    """
    empty = s.deltas[0][..., :, None, :][..., :0, :]
    moved, hidden = [empty], [empty]  # moved: ∂z_l/∂z_m for all m < l
    for layer, weight in enumerate(s.weights[1:]):
        through = moved[-1] * s.first[layer][..., None, :]
        direct = weight[..., None] * s.first[layer][..., None, :, :]
        cross = s.cross[layer]
        if cross is not None:
            through = through + cross.slope[..., None, :] * cross.seen(moved[-1], axis=-3)
            owed = weight[..., None] * cross.slope[..., None, :, :]
            direct.scatter_add_(-2, cross.places(owed, axis=-2), owed)
        hidden.append(through)
        moved.append(torch.cat([_times(weight, through), direct], dim=-2))
    assert s.loss_second is not None
    top = (s.loss_second[..., None, :] * moved[-1][..., None, :, :, :]).sum(-3)
    bent = [torch.cat([top, s.loss_second], dim=-2)]
    for layer in range(len(s.weights) - 2, -1, -1):
        below, width = moved[layer].shape[-2], moved[layer].shape[-3]
        through = _times(s.weights[layer + 1].mT, bent[-1][..., : below + width, :])
        through = pull_back(through, s.first[layer], s.cross[layer], axis=-3)
        bent.append(through)
        if not bends:
            continue
        bend = s.pulled[layer] * s.second[layer]
        through[..., :below, :].addcmul_(moved[layer], bend[..., None, :])
        through[..., below:, :].diagonal(dim1=-3, dim2=-2).add_(bend.mT)
        cross = s.cross[layer]
        if cross is not None:
            _add_cross(through, moved[layer], s.pulled[layer], cross)
    return hidden, bent[::-1]


def _add_cross(through: Tensor, moved: Tensor, pulled: Tensor, cross: Cross) -> None:
    """Add ``Σ_i pulled_i ∂²h_i/∂z_j∂z_k · ∂z_k/∂z_m`` for units i that another's z moves, in place.

    Each unit i has one other unit j = by[i]; the pairs (i, j), (j, i) and (j, j) have terms.
    """
    below = moved.shape[-2]
    lower, own = (
        through[..., :below, :],
        through[..., below:, :],
    )  # by z_m, and by the layer's own z
    mixed, twice = pulled * cross.mixed, pulled * cross.twice
    seen = cross.seen(moved, axis=-3)
    lower += mixed[..., None, :] * seen
    back = mixed[..., None, :] * moved + twice[..., None, :] * seen
    lower.scatter_add_(-3, cross.places(back, axis=-3), back)
    pair = mixed[..., :, None, :]
    index = cross.places(pair, axis=-3)
    own.scatter_add_(-2, index, pair)
    own.transpose(-3, -2).scatter_add_(-2, index, pair)
    square = twice.mT
    own.diagonal(dim1=-3, dim2=-2).scatter_add_(-1, cross.places(square, axis=-1), square)


def _times(weight: Tensor, stack: Tensor) -> Tensor:
    """``Σ_j weight[i, j] stack[j, a, ν]`` as one matrix product a network."""
    product: Tensor = (weight @ stack.flatten(-2)).unflatten(-1, stack.shape[-2:])
    return product
