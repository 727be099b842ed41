"""Losses of classes whose outputs are logarithms of odds: logistic and cross-entropy."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from semiflat.errors import InputError
from semiflat.losses.loss import (
    Loss,
    LossDerivatives,
    Margins,
    real_targets,
    separable_variation,
)

CERTAIN = 1000.0
"""A logit that is as good as infinite: its term and slope are exactly 0."""
ROUNDED = 4 * torch.finfo(torch.float64).eps
"""How far below 0 rounding may take a probability."""
SUMS = 1e-6
"""How far from 1 the probabilities of one sample may sum up; the loss takes them as they are."""


class Logistic(Loss):
    """``Σ_k log(1 + e^{f_k}) − y_k f_k`` for y in [0, 1]: F19's logistic loss of the logits f."""

    name = "logistic"
    compiled = "logistic"
    odds = True
    classifies = True
    codes = (0.0, 1.0)

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """``y`` as (N, M)."""
        y = real_targets(self.name, y, samples, outputs)
        if ((y < 0) | (y > 1)).any():
            raise InputError(
                f"y holds values from {float(y.min()):g} to {float(y.max()):g}; loss 'logistic' "
                "needs probabilities or classes between 0 and 1 (map −1 to 0)"
            )
        return y

    def in_words(self, outputs: int, standardised: bool) -> str:
        """With what a coin loses."""
        return (
            "The loss is the logistic loss in nats, averaged over the samples: calling both "
            f"classes equally likely gives {math.log(2):.4g}."
        )

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, (*batch, N)."""
        return (functional.softplus(f, 1, 40) - y * f).sum(-1)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """The loss and its first and second derivative in f."""
        p, q = torch.sigmoid(f), torch.sigmoid(-f)
        # (1−y)p − yq: p − y would lose its digits where p rounds to y.
        return self.value(f, y), (1 - y) * p - y * q, torch.diag_embed(p * q)

    def best_outputs(self, y: Tensor, outputs: int) -> Tensor | None:
        """The logits of probabilities between 0 and 1."""
        return torch.logit(y) if bool(((y > 0) & (y < 1)).all()) else None

    def separated_below(self, y: Tensor) -> float | None:
        """log 2, for classes."""
        return None if self.labels(y, y.shape[-1]) is None else math.log(2)

    def labels(self, y: Tensor, outputs: int) -> Tensor | None:
        """−1 and 1 for targets of 0 and 1."""
        return 2 * y - 1 if bool(((y == 0) | (y == 1)).all()) else None

    def best_constants(self, y: Tensor, outputs: int) -> Tensor | None:
        """The logit of the mean target."""
        return torch.logit(y.mean(0, keepdim=True), eps=1e-12)

    def margins(self, f: Tensor, y: Tensor) -> Margins | None:
        """``(2y − 1) f`` of targets 0 and 1; outputs with a target between must stay."""
        sign, counted = 2 * y - 1, (y == 0) | (y == 1)
        sizes = f * sign.reshape(*sign.shape, *[1] * (f.ndim - 2))
        return Margins(sizes, counted, f[~counted])

    def in_the_limit(self, f: Tensor, y: Tensor, vanishing: Tensor) -> Tensor:
        """Logits far out on their targets' side."""
        return torch.where(vanishing, CERTAIN * (2 * y - 1), f)

    def dual(self, slope: Tensor, y: Tensor, vanishing: Tensor) -> Tensor | None:
        """The entropies of probabilities ``slope + y``."""
        q = torch.where(vanishing, y, slope + y)
        inside = ((q >= -ROUNDED) & (q <= 1 + ROUNDED)).all(-1)
        return torch.where(inside, (_entropy(q) + _entropy(1 - q)).sum(-1), -torch.inf)

    def variation(
        self, bend: np.ndarray, move: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """By the largest |σ''|."""
        return separable_variation(0.0963, bend, move, share)


class CrossEntropy(Loss):
    """``Σ_k y_k (log Σ_j e^{f_j} − f_k)``: for a class y in 0..M−1, or a vector of probabilities.

    Vectors that are all one-hot are read as the classes they name.
    """

    name = "cross_entropy"
    compiled = "cross_entropy"
    shift_invariant = True
    odds = True
    classifies = True

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """Classes as (N,) int64, probabilities as (N, M)."""
        if outputs < 2:
            raise InputError(
                "loss 'cross_entropy' needs a network with one output a class, at least 2; for a "
                "single output use loss='logistic'"
            )
        if tuple(y.shape) == (samples, outputs):
            return self._vectors(y)
        if tuple(y.shape) != (samples,):
            raise InputError(
                f"y has shape {tuple(y.shape)}; loss 'cross_entropy' needs one class a sample, "
                f"({samples},), or {outputs} probabilities, ({samples}, {outputs})"
            )
        classes = y.to(torch.int64)
        wrong = (classes != y) | (classes < 0) | (classes >= outputs)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"y[{row}] = {y[row].item():g} is no class of a network with {outputs} outputs; "
                f"expected whole numbers from 0 to {outputs - 1}"
            )
        return classes

    def in_words(self, outputs: int, standardised: bool) -> str:
        """With what calling all classes equally likely loses."""
        return (
            "The loss is the cross entropy in nats, averaged over the samples: calling all "
            f"{outputs} classes equally likely gives {math.log(outputs):.4g}."
        )

    def _vectors(self, y: Tensor) -> Tensor:
        wrong = (y < 0).any(-1) | ((y.sum(-1) - 1).abs() > SUMS)
        if wrong.any():
            row = int(wrong.nonzero()[0, 0])
            raise InputError(
                f"y[{row}] = {y[row].tolist()} is no vector of probabilities; loss 'cross_entropy' needs "
                "numbers from 0 up that sum to 1, or one class a sample"
            )
        return y.argmax(-1) if bool((y.amax(-1) == 1).all() and ((y == 0) | (y == 1)).all()) else y

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """The loss of each sample, (*batch, N), to its last digits however small."""
        if y.is_floating_point():
            apart = f[..., None, :] - f[..., :, None]  # f_j − f_k as [k, j]
            others = apart.masked_fill(torch.eye(f.shape[-1], dtype=torch.bool), -torch.inf)
            terms = functional.softplus(torch.logsumexp(others, -1), 1, 40)
            return torch.where(y > 0, y * terms, torch.zeros_like(f)).sum(-1)
        # log(1 + Σ_{k≠y} e^{f_k − f_y}): keeps the digits of a loss far below 1.
        chosen = functional.one_hot(y, f.shape[-1]).bool()
        margin = f - f.gather(-1, y.expand(f.shape[:-1])[..., None])
        others = torch.logsumexp(margin.masked_fill(chosen, -torch.inf), dim=-1)
        return functional.softplus(others, 1, 40)

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and its first derivative in f."""
        p = torch.softmax(f, dim=-1)
        if y.is_floating_point():
            # p_k Σ_j y_j − y_k Σ_j p_j, whose terms j = k are the same.
            pairs = p[..., :, None] * y[..., None, :]
            return self.value(f, y), (pairs - pairs.mT).sum(-1)
        chosen = functional.one_hot(y, f.shape[-1]).to(f.dtype)
        # At the chosen class p − 1 = −(sum of the others), which keeps the digits of a good fit.
        others = p * (1 - chosen)
        return self.value(f, y), others - chosen * others.sum(-1, keepdim=True)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """The loss and its first and second derivative in f."""
        p = torch.softmax(f, dim=-1)
        # p(1 − p) = p Σ(others), so the diagonal comes from the off-diagonal entries.
        pairs = p[..., :, None] * p[..., None, :]
        pairs = pairs - torch.diag_embed(pairs.diagonal(dim1=-2, dim2=-1))
        second = torch.diag_embed(pairs.sum(-1)) - pairs
        if y.is_floating_point():
            second = second * y.sum(-1)[..., None, None]
        return *self.first(f, y), second

    def best_outputs(self, y: Tensor, outputs: int) -> Tensor | None:
        """The logarithms of probabilities above 0."""
        return y.log() if y.is_floating_point() and bool((y > 0).all()) else None

    def separated_below(self, y: Tensor) -> float | None:
        """log 2, for classes: then the derivative along all logits is E_p[f] − f_y < 0."""
        return None if y.is_floating_point() else math.log(2)

    def labels(self, y: Tensor, outputs: int) -> Tensor | None:
        """The classes, where there are some."""
        return None if y.is_floating_point() else y

    def best_constants(self, y: Tensor, outputs: int) -> Tensor | None:
        """The logarithms of the mean probabilities."""
        return self._probabilities(y, outputs).mean(0, keepdim=True).clamp(min=1e-12).log()

    def margins(self, f: Tensor, y: Tensor) -> Margins | None:
        """How far a class of probability 0 lies below those above 0, which must stay together."""
        y = self._probabilities(y, f.shape[1])
        counted, every = y == 0, torch.arange(len(y))
        leading = y.argmax(-1)
        sizes = f[every, leading][:, None] - f
        others = ~counted
        others[every, leading] = False
        return Margins(sizes, counted, sizes[others])

    def in_the_limit(self, f: Tensor, y: Tensor, vanishing: Tensor) -> Tensor:
        """Logits of −∞."""
        return f.masked_fill(vanishing, -torch.inf)

    def dual(self, slope: Tensor, y: Tensor, vanishing: Tensor) -> Tensor | None:
        """The entropies of probabilities ``slope + y``."""
        y = self._probabilities(y, slope.shape[1])
        q, size = torch.where(vanishing, 0.0, slope + y), y.sum(-1)
        inside = (q >= -ROUNDED).all(-1)
        return torch.where(inside, _entropy(q).sum(-1) + torch.xlogy(size, size), -torch.inf)

    def variation(
        self, bend: np.ndarray, move: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """By |∂p_k/∂f_j| ≤ 1/4, and probabilities that sum to no more than 1 + :data:`SUMS`."""
        slope = (move.sum(0) * (share * (1 + 2 * SUMS) / 4)) + 0.0 * move
        return slope, slope[:, None, :] + slope[None, :, :]

    def as_rows(self, y: Tensor, outputs: int) -> Tensor:
        """Probabilities; of a class 1 and 0."""
        return self._probabilities(y, outputs)

    def _probabilities(self, y: Tensor, outputs: int) -> Tensor:
        return y if y.is_floating_point() else functional.one_hot(y, outputs).double()


def _entropy(q: Tensor) -> Tensor:
    entropy: Tensor = -torch.special.xlogy(q.clamp(min=0), q.clamp(min=0))
    return entropy
