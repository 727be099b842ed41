"""Steps down the exact second-order model of the risk, by products with the Hessian alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.curvature.factors import LayerFactors
from semiflat.curvature.products import HessianProducts

LOOSE = 0.1
"""Part of the gradient that a step leaves of it in the model, at most; less where it is small."""
MOST = 1000
"""Products that a step may take."""


def newton_step(
    products: HessianProducts,
    factors: LayerFactors,
    gradient: Tensor,
    radius: float,
    most: int = MOST,
) -> tuple[Tensor, float, float]:
    """A step down the quadratic model from one place, by preconditioned conjugate gradients.

    Args:
        gradient: (P,).
        radius: of the step.
        most: products that it may take.

    Returns:
        The step (P,), what it promises, and its length, measured by the preconditioner.
    """
    move, left = torch.zeros_like(gradient), gradient.clone()
    eased = factors.divide(left)
    size = float(left @ eased)
    enough = min(LOOSE, size**0.5) ** 2 * size
    # ‖p‖², p·d and ‖d‖² of step and direction by the preconditioner follow from numbers at hand.
    way, length, along, straight = -eased, 0.0, 0.0, size
    for _ in range(most):
        if not size > max(enough, 1e-300):
            break
        turned = products.times(way.expand(*products.batch, -1)).flatten()
        bend = float(way @ turned)
        ahead = size / bend if bend > 0 else math.inf
        there = length + ahead * (2 * along + ahead * straight) if bend > 0 else math.inf
        if not there < radius**2:
            rest = max(along**2 + straight * (radius**2 - length), 0.0)
            ahead, length = (rest**0.5 - along) / straight, radius**2
            move, left = move + ahead * way, left + ahead * turned
            break
        move, left, length = move + ahead * way, left + ahead * turned, there
        eased = factors.divide(left)
        before, size = size, float(left @ eased)
        turn = size / before
        along = turn * (along + ahead * straight)
        straight = size + turn**2 * straight
        way = turn * way - eased
    return move, -float(move @ (gradient + left)) / 2, max(length, 0.0) ** 0.5
