"""Units of linear layers that are combinations of the others, made silent by another basis."""

from __future__ import annotations

import scipy  # which imports its parts where they are first used
import torch
from torch import Tensor

from semiflat.networks import bias_key, weight_key
from semiflat.reduction.state import State

LARGEST_SHARE = 1e4
"""Of a unit in what another one is made of; rounding errors grow by as much on the way back."""


def silenced(state: State, layer: int) -> tuple[State, Tensor] | None:
    """A linear layer in a basis in which the units to spare hand on a constant or are not listened to.

    Incoming weights that are combinations of those of other units become 0; where there are none, outgoing
    ones. Each unit to spare is mixed with those that are kept, so what mixes them is 1 but for one block, and
    its inverse is exact.

    Returns:
        The network in that basis, and the matrix that mixes its units back; None if the layer is
        not linear or all its units are needed.
    """
    net = state.net
    if not net.activations[layer].linear:
        return None
    (rows, sizes), above = state.rows(layer), weight_key(layer + 1)
    # A constant goes to the bias above.
    fed = net.widths[layer] + (net.biases[layer] and not net.biases[layer + 1])
    found = _dependent(rows[:, :fed], sizes[:, :fed], state.precision)
    mix = torch.eye(len(rows), dtype=torch.float64)
    if found is not None:
        kept, spared, shares = found
        mix[spared[:, None], kept] = -shares
        key = weight_key(layer)
    else:
        found = _dependent(state.params[above].mT, state.sizes[above].mT, state.precision)
        if found is None:
            return None
        kept, spared, shares = found
        mix[kept[:, None], spared] = shares.mT
        key = above
    back = 2 * torch.eye(len(rows), dtype=torch.float64) - mix
    if float(shares.abs().max()) > LARGEST_SHARE:
        return (
            None  # a unit that hardly counts would carry the others, and the way back would be lost
        )
    mixed = state.mixed(layer, mix, back)
    # What is left of them is rounding.
    if key == above:
        mixed.params[above][:, spared] = 0.0
    else:
        mixed.params[key][spared] = 0.0
        if fed > net.widths[layer]:
            mixed.params[bias_key(layer)][spared] = 0.0
    return mixed, back


def _dependent(
    vectors: Tensor, sizes: Tensor, precision: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Which vectors are combinations of which others, to rounding, and with what shares.

    Args:
        vectors: (n, D); those that are 0 are passed over.
        sizes: what the rounding error of each entry scales with, (n, D).

    Returns:
        The vectors that the others are made of, (k,), these others, (m,), and their shares, (m, k); None if
        there are no such others.
    """
    alive = (vectors.abs() > precision * sizes).any(1).nonzero().flatten()
    if len(alive) < 2:
        return None
    some, large = vectors[alive], sizes[alive]
    # Neither a unit's scale nor an input's says how much it matters.
    wide = large.amax(1, keepdim=True)
    long = (large / wide).amax(0).clamp(min=1e-300)
    even = (some / wide / long).numpy()
    _, R, order = scipy.linalg.qr(even.T, mode="economic", pivoting=True)
    allowed = len(alive) * precision
    rank = int((abs(R.diagonal()) > allowed * abs(R[0, 0])).sum())
    if rank == len(alive):
        return None
    shares = torch.from_numpy(scipy.linalg.solve_triangular(R[:rank, :rank], R[:rank, rank:]).T)
    kept, spared = (torch.from_numpy(part).long() for part in (order[:rank], order[rank:]))
    shares = shares * wide[spared] / wide[kept].mT
    apart = (some[spared] - shares @ some[kept]).abs()
    if not bool((apart <= allowed * (large[spared] + shares.abs() @ large[kept])).all()):
        return None
    return alive[kept], alive[spared], shares
