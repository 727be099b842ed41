"""Directions in which a loss of classes falls for ever: whether an infimum is attained.

Along outputs v the terms of cross-entropy and of the logistic loss never rise if no margin shrinks:
``v_y − v_k ≥ 0`` for every sample and other class, ``(2y − 1) v ≥ 0`` for a logistic output with a target
of 0 or 1, ``v = 0`` for one with a target between. Terms whose margin can grow so vanish in the limit, and
the infimum is that of the others alone, which is attained (theory §6 with K19's "if it exists").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.optimize import linprog
from torch import Tensor

from semiflat.losses.loss import Loss

EPS = torch.finfo(torch.float64).eps
PROGRAM_ENTRIES = 400_000
"""Entries of a linear program that is solved to tell separable data."""


@dataclass(frozen=True)
class Vanishing:
    """Which terms of the loss vanish in the limit.

    Attributes:
        vanishing: (N, M), which terms; none where ``known`` is False.
        known: whether it could be told.
        direction: coefficients along which they vanish, (k,).
    """

    vanishing: Tensor
    known: bool
    direction: Tensor | None = None


def separated(loss: Loss, outputs: Tensor, targets: Tensor) -> bool:
    """Whether every term's margin is positive: scaling these outputs up then drives the loss to 0."""
    found = loss.margins(outputs, targets)
    if found is None or len(found.ties):
        return False
    return bool((found.sizes[found.counted] > 0).all())


def separation(loss: Loss, basis: Tensor, targets: Tensor) -> Vanishing:
    """The terms that vanish along some direction of an orthonormal ``basis`` (N, M, k), by one linear program.

    Directions add up, so ``max Σ s`` with margins ≥ s and 0 ≤ s ≤ 1 has s = 1 for every term whose margin
    can grow. The answer is checked: with the other margins made 0 by a projection, these must be positive.
    Where nothing is said of a loss's margins, nothing is known.
    """
    shape = basis.shape[:2]
    unknown = Vanishing(torch.zeros(shape, dtype=torch.bool), loss.attains)
    found = loss.margins(basis, targets)
    if found is None:
        return unknown
    counted, soft, growing = found.counted, found.ties, found.sizes[found.counted]
    count, k = growing.shape
    if count * k > PROGRAM_ENTRIES or count == 0 or k == 0:
        return Vanishing(unknown.vanishing, count == 0 or k == 0)
    # Outputs that move together, as a softmax ignores, leave margins of any size: made orthonormal again.
    left, sizes, right = torch.linalg.svd(torch.cat([growing, soft]), full_matrices=False)
    kept = sizes > max(count, k) * EPS
    back, k = right[kept].mT / sizes[kept], int(kept.sum())
    if k == 0:
        return Vanishing(unknown.vanishing, True)
    growing, soft = left[:count, kept], left[count:, kept]
    rows = sparse.hstack([sparse.csr_matrix(-growing.numpy()), sparse.eye(count)])
    still = sparse.hstack([sparse.csr_matrix(soft.numpy()), sparse.csr_matrix((len(soft), count))])
    solved = linprog(
        np.concatenate([np.zeros(k), -np.ones(count)]),
        A_ub=rows,
        b_ub=np.zeros(count),
        A_eq=still if len(soft) else None,
        b_eq=np.zeros(len(soft)) if len(soft) else None,
        bounds=[(None, None)] * k + [(0, 1)] * count,
        method="highs",
    )
    if solved.x is None:
        return unknown
    chosen = torch.from_numpy(solved.x[k:] > 0.5)
    direction = torch.from_numpy(solved.x[:k])
    if not chosen.any():
        return Vanishing(unknown.vanishing, bool((solved.x[k:] < 1e-6).all()))
    fixed = torch.cat([growing[~chosen], soft])
    if len(fixed):
        direction = direction - torch.linalg.pinv(fixed) @ (fixed @ direction)
    reached = growing @ direction
    if float(reached[chosen].min()) <= 1e-9 * float(reached.abs().max()):
        return unknown
    vanishing = unknown.vanishing.clone()
    vanishing[counted] = chosen
    return Vanishing(vanishing, True, back @ direction)
