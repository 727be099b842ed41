"""Hinge losses, of which a power makes the derivative continuous (K19 Assumption 1)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.losses.loss import Loss, LossDerivatives, real_targets, separable_variation


class _Hinge(Loss):
    """``Σ_k max(0, 1 − y_k f_k)^p`` for y of −1 and 1, an output each (K19 Assumption 1)."""

    power: int
    classifies = True
    codes = (-1.0, 1.0)
    attains = True  # convex and piecewise polynomial

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """``y`` as (N, M) of −1 and 1."""
        y = real_targets(self.name, y, samples, outputs)
        if (y.abs() != 1).any():
            wrong = y[y.abs() != 1][0]
            raise InputError(
                f"y holds {float(wrong):g}; loss {self.name!r} needs the classes −1 and 1 (map 0 to −1)"
            )
        return y

    def _short(self, f: Tensor, y: Tensor) -> Tensor:
        return (1 - y * f).clamp(min=0)

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, (*batch, N)."""
        return self._short(f, y).pow(self.power).sum(-1)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """The loss and its first and second derivative in f; at the margin the side beyond counts."""
        p, short = self.power, self._short(f, y)
        second = p * (p - 1) * short.pow(p - 2) * (short > 0)
        return (
            short.pow(p).sum(-1),
            -p * y * short.pow(p - 1),
            torch.diag_embed(second),
        )

    def inside_flat(self, f: Tensor, y: Tensor) -> Tensor | None:
        """How far each margin is beyond 1."""
        return y * f - 1

    def labels(self, y: Tensor, outputs: int) -> Tensor | None:
        """The targets themselves."""
        return y


class Hinge2(_Hinge):
    """``Σ_k max(0, 1 − y_k f_k)²`` for y of −1 and 1.

    Its second derivative jumps at the margin ``y f = 1``: where a sample is there, there is no Hessian.
    """

    name = "hinge2"
    compiled = "hinge2"
    power = 2
    smooth = False


class Hinge3(_Hinge):
    """``Σ_k max(0, 1 − y_k f_k)³`` for y of −1 and 1: twice continuously differentiable."""

    name = "hinge3"
    compiled = "hinge3"
    power = 3

    def variation(
        self, bend: np.ndarray, move: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """By its third derivative, which is at most 6."""
        return separable_variation(6.0, bend, move, share)
