"""Losses of the residual f − y: the squared loss, and log-cosh, which grows like its absolute value."""

from __future__ import annotations

import math
from abc import abstractmethod

import numpy as np
import torch
from torch import Tensor

from semiflat.losses.loss import Loss, LossDerivatives, real_targets, separable_variation


class ResidualLoss(Loss):
    """``Σ_k ρ(f_k − y_k)`` for a convex ρ ≥ 0 that is 0 at 0 alone and grows for ever.

    A subclass has a name and :meth:`rho`.

    Attributes:
        third: the largest |ρ'''|, for proofs; None if it is not known.

    >>> class Quartic(ResidualLoss):
    ...     name = "quartic"
    ...     def rho(self, r):
    ...         return r**4 / 4 + r**2 / 2, r**3 + r, 3 * r**2 + 1
    >>> Quartic().value(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor([0.7500])
    """

    attains = True
    third: float | None = None

    @abstractmethod
    def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ρ, ρ' and ρ'' of residuals, each shaped like ``r``."""

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """``y`` as (N, M)."""
        return real_targets(self.name, y, samples, outputs)

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """``Σ_k ρ(f_k − y_k)``, (*batch, N)."""
        return self.rho(f - y)[0].sum(-1)

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its first derivative in f."""
        value, first, _ = self.rho(f - y)
        return value.sum(-1), first

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """The loss and its first and second derivative in f."""
        value, first, second = self.rho(f - y)
        return value.sum(-1), first, torch.diag_embed(second)

    def variation(
        self, bend: np.ndarray, move: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """By the largest |ρ'''|."""
        if self.third is None:
            return None
        return separable_variation(self.third, bend, move, share)


class Squared(ResidualLoss):
    """``½‖f − y‖²``."""

    name = "squared"
    compiled = "squared"
    quadratic = True
    third = 0.0

    def in_words(self, outputs: int, standardised: bool) -> str:
        """With what the best constant loses, where that is known."""
        text = "The loss is half the squared error, averaged over the samples"
        if not standardised:
            return f"{text}."
        return (
            f"{text}, in standard deviations of the target: predicting the mean every time gives "
            f"{0.5 * outputs:g}."
        )

    def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """½r², r and 1."""
        return r.square() / 2, r, torch.ones_like(r)

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """``½‖f − y‖²``, (*batch, N)."""
        return (f - y).square().sum(-1) / 2

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the residual."""
        return self.value(f, y), f - y

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """The loss, the residual and the identity."""
        eye = torch.eye(f.shape[-1], dtype=f.dtype, device=f.device)
        return *self.first(f, y), eye.expand(*f.shape, f.shape[-1])

    def value_noise(self, y: Tensor, outputs: int) -> float:
        """0: a square keeps its digits however small it is."""
        return 0.0


class LogCosh(ResidualLoss):
    """``Σ_k log cosh(f_k − y_k)``: half the square of small residuals, the size of large ones."""

    name = "log_cosh"
    compiled = "log_cosh"
    third = 0.77  # of 2 tanh (1 − tanh²): 4 / (3√3)

    def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """log cosh r, tanh r and 1 − tanh² r, each to its last digits."""
        size = r.abs()
        # ½ log(1 + sinh² r) for small r, whose square would be lost beside log 2.
        small = torch.log1p(torch.sinh(size.clamp(max=1.0)).square()) / 2
        large = size + torch.log1p(torch.exp(-2 * size)) - math.log(2)
        value = torch.where(size < 1, small, large)
        return value, torch.tanh(r), torch.cosh(r).reciprocal().square()
