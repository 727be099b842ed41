"""Linear models on given columns, and whether gradient features span them: what K19 Thms 3 and 4 end in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semiflat.evidence import EPS
from semiflat.induced.convex import minimise, slope_noise
from semiflat.induced.spans import SharedSpan, orthonormal
from semiflat.losses import Loss
from semiflat.records.shown import Shown

REFUTES = 10.0
"""How many noises L(θ) must lie above the linear model's infimum to refute a local minimum."""
SPANNED = 1e-6
"""Part of a column that may lie outside a span which holds it: differences of features lose digits."""


@dataclass(frozen=True)
class LinearMinimum(Shown):
    """The infimum of a loss over all linear maps of some columns.

    Attributes:
        infimum: as found.
        gap: L(θ) − infimum.
        noise: what rounding may have changed of the gap.
        error: how far below ``infimum`` the true one may lie.
        attained: whether some map reaches it; None where that could not be told.

    >>> import semiflat as sf
    >>> X, y = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [1.0, 2.0, 0.0]
    >>> problem = sf.Problem(sf.MLP([2, 2, 1], "identity"), X, y)
    >>> minimum = sf.locally_linear_model(sf.Point(problem, problem.net.random_params(seed=0))).minimum
    >>> minimum.below, minimum.gap > 100 * minimum.noise, minimum.attained
    (True, True, True)
    """

    infimum: float
    gap: float
    noise: float
    error: float
    attained: bool | None

    @property
    def below(self) -> bool:
        """Whether L(θ) lies above the infimum beyond doubt."""
        return self.gap > REFUTES * self.noise


class AgainstLinear(Shown):
    """A network held against a linear model: what such models have in common."""

    minimum: LinearMinimum
    outside: float | None

    def to_json(self) -> dict[str, Any]:
        """Everything but the directions, as plain data."""
        plain = {k: v for k, v in vars(self).items() if k != "directions"}
        return plain | {"minimum": vars(self.minimum)}

    @property
    def gap(self) -> float:
        """L(θ) less the linear model's infimum."""
        return self.minimum.gap

    @property
    def spanned(self) -> bool | None:
        """Whether the perturbed features span the linear model, as the proof says."""
        return None if self.outside is None else self.outside <= SPANNED


def linear_minimum(
    outputs: Tensor, columns: Tensor, loss: Loss, targets: Tensor, moved: float
) -> LinearMinimum:
    """The infimum over ``α ↦ columns αᵀ``, at outputs (N, M) which are one of these already.

    ``moved`` is how far rounding may have moved outputs and targets, ‖δ‖ over all N·M.
    """
    value = float(loss.value(outputs, targets).mean())
    span = SharedSpan(columns, outputs.shape[1])
    noise = 16 * EPS * abs(value)
    if loss.quadratic:
        residual = outputs - targets
        along = span.basis.mT @ residual
        gap = min(value, 0.5 * float(along.square().sum()) / len(outputs))
        smallest = span.singular[: span.basis.shape[1]]
        least = float(smallest[-1] / smallest[0]) if len(smallest) else 1.0
        # To first order, with the worst angle that rounding may turn the columns by.
        turn = EPS * max(columns.shape) / max(least, EPS)
        noise += turn * (gap * value) ** 0.5 + turn**2 * value
        inside = float(torch.linalg.vector_norm(along))
        noise += 0.5 / len(outputs) * moved * (2 * inside + moved)
        return LinearMinimum(value - gap, gap, noise, noise, True)
    found = minimise(outputs, span, loss, targets)
    infimum = min(value, found.value)
    noise += found.noise + slope_noise(loss, outputs, targets, moved)
    error = max(0.0, infimum - found.lower) + (noise if infimum else 0.0)
    return LinearMinimum(infimum, value - infimum, noise, error, found.attained)


def spans(features: Tensor, columns: Tensor, width: int) -> float:
    """The largest part of a column of ``I_M ⊗ columns`` outside the span of features (N·M, K).

    0 up to rounding where the features span every linear map of the columns.
    """
    basis, _ = orthonormal(features)
    scaled = columns / torch.linalg.vector_norm(columns, dim=0).clamp(min=1e-300)
    eye = torch.eye(width, dtype=columns.dtype)
    wanted = torch.einsum("nq,mk->nmqk", scaled, eye).reshape(len(columns) * width, -1)
    outside = wanted - basis @ (basis.mT @ wanted)
    sizes = torch.linalg.vector_norm(outside, dim=0)
    return float(sizes.max()) if len(sizes) else 0.0
