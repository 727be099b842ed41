"""Per-sample losses ℓ(f, y) with their first and second derivative in the network's output f."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from semiflat.errors import InputError, unknown_name

LossDerivatives = tuple[Tensor, Tensor, Tensor]
"""ℓ, ∂ℓ/∂f and ∂²ℓ/∂f², of shapes ``(*batch, N)``, ``(*batch, N, M)`` and ``(*batch, N, M, M)``."""


class Loss(ABC):
    """A loss of one sample, applied to outputs ``(*batch, N, M)`` and N targets.

    Attributes:
        name: its name in checkpoints.
        convex: whether ℓ is convex in f.
        lower_bound: a value that ℓ never goes below, or None if none is known.
        shift_invariant: whether adding one number to all outputs leaves ℓ as it is.
    """

    name: str
    convex: bool = True
    lower_bound: float | None = 0.0
    shift_invariant: bool = False

    @abstractmethod
    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """``y`` in the shape and dtype the loss wants, or :class:`InputError`."""

    @abstractmethod
    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ for each sample, shape ``(*batch, N)``."""

    @abstractmethod
    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """ℓ and its first and second derivative in f."""

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ and its first derivative alone, where the second would cost more."""
        value, first, _ = self.derivatives(f, y)
        return value, first

    def target_spread(self, y: Tensor) -> Tensor | None:
        """What each output is measured in, (*batch, M), if that is the targets' units, else None."""
        return None

    def no_critical_point_below(self, y: Tensor) -> float:
        """A risk below which no finite parameters are critical, if the last layer is linear.

        The lower bound unless the loss knows better; −∞ where there is none.
        """
        return -math.inf if self.lower_bound is None else self.lower_bound

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By name where it has one, so that a copy from another process is the same object.
        if _KNOWN.get(self.name) is self:
            return loss_named, (self.name,)
        return super().__reduce_ex__(protocol)

    def __repr__(self) -> str:
        return f"Loss({self.name})"


def _separated_below(samples: int) -> float:
    # Below log 2 in all, every sample is on the right side of its decision, and then the loss falls
    # as the last layer is scaled up: its derivative along it is E_p[f] − f_y < 0 for each sample.
    return math.log(2) / samples


def _real_targets(name: str, y: Tensor, samples: int, outputs: int) -> Tensor:
    if y.ndim == 1 and outputs == 1:
        y = y[:, None]
    if tuple(y.shape) != (samples, outputs):
        raise InputError(
            f"y has shape {tuple(y.shape)}; loss {name!r} with {samples} samples and {outputs} "
            f"output(s) needs ({samples}, {outputs})"
            + (f" or ({samples},)" if outputs == 1 else "")
            + ("; for classes say loss='cross_entropy'" if _classes(y, outputs) else "")
        )
    return y


def _classes(y: Tensor, outputs: int) -> bool:
    """Whether targets look like the classes 0..M−1 of a network with M outputs, one a sample."""
    whole = bool(((y == y.round()) & (y >= 0) & (y < outputs)).all())
    return whole and outputs > 1 and y.numel() == len(y)


class Squared(Loss):
    """``½‖f − y‖²``."""

    name = "squared"

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        return _real_targets(self.name, y, samples, outputs)

    def target_spread(self, y: Tensor) -> Tensor:
        spread, size = y.std(-2, correction=0), y.abs().amax(-2)
        # Targets that are all the same have the size they have, and those that are 0 none: then 1 is as good.
        spread = torch.where(spread > 1e-9 * size, spread, size)
        return torch.where(spread > 0, spread, torch.ones_like(spread))

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return (f - y).square().sum(-1) / 2

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        residual = f - y
        eye = torch.eye(f.shape[-1], dtype=f.dtype, device=f.device)
        return residual.square().sum(-1) / 2, residual, eye.expand(*f.shape, f.shape[-1])


class Logistic(Loss):
    """``Σ_k log(1 + e^{f_k}) − y_k f_k`` for y in [0, 1]: F19's logistic loss of the logits f."""

    name = "logistic"

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        y = _real_targets(self.name, y, samples, outputs)
        if ((y < 0) | (y > 1)).any():
            raise InputError(
                f"y holds values from {float(y.min()):g} to {float(y.max()):g}; loss 'logistic' "
                "needs probabilities or classes between 0 and 1 (map −1 to 0)"
            )
        return y

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return (functional.softplus(f, 1, 40) - y * f).sum(-1)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        p, q = torch.sigmoid(f), torch.sigmoid(-f)
        # (1−y)p − yq: p − y would lose its digits where p rounds to y.
        return self.value(f, y), (1 - y) * p - y * q, torch.diag_embed(p * q)

    def no_critical_point_below(self, y: Tensor) -> float:
        hard = bool(((y == 0) | (y == 1)).all())
        return _separated_below(len(y)) if hard else 0.0


class CrossEntropy(Loss):
    """``log Σ_k e^{f_k} − f_y`` for a class y in 0..M−1."""

    name = "cross_entropy"
    shift_invariant = True

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        if tuple(y.shape) != (samples,):
            raise InputError(
                f"y has shape {tuple(y.shape)}; loss 'cross_entropy' needs one class a sample, "
                f"({samples},)"
            )
        if outputs < 2:
            raise InputError(
                "loss 'cross_entropy' needs a network with one output a class, at least 2; for a "
                "single output use loss='logistic'"
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

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        # log(1 + Σ_{k≠y} e^{f_k − f_y}): keeps the digits of a loss far below 1.
        chosen = functional.one_hot(y, f.shape[-1]).bool()
        margin = f - f.gather(-1, y.expand(f.shape[:-1])[..., None])
        others = torch.logsumexp(margin.masked_fill(chosen, -torch.inf), dim=-1)
        return functional.softplus(others, 1, 40)

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        chosen = functional.one_hot(y, f.shape[-1]).to(f.dtype)
        # At the chosen class p − 1 = −(sum of the others), which keeps the digits of a good fit.
        others = torch.softmax(f, dim=-1) * (1 - chosen)
        return self.value(f, y), others - chosen * others.sum(-1, keepdim=True)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        p = torch.softmax(f, dim=-1)
        # p(1 − p) = p Σ(others), so the diagonal comes from the off-diagonal entries.
        pairs = p[..., :, None] * p[..., None, :]
        pairs = pairs - torch.diag_embed(pairs.diagonal(dim1=-2, dim2=-1))
        return *self.first(f, y), torch.diag_embed(pairs.sum(-1)) - pairs

    def no_critical_point_below(self, y: Tensor) -> float:
        return _separated_below(len(y))


def _second(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    # Reverse over reverse: for a few outputs as fast, and without torch's deprecated parts that
    # forward mode imports.
    second: Callable[[Tensor, Tensor], Tensor] = torch.func.jacrev(torch.func.grad(function))
    return second


class PerSample(Loss):
    """A user's function of one sample's output ``(M,)`` and target, giving a number.

    A function that only takes a whole batch, ``(N, M)`` and N targets to N numbers, is accepted too.
    Derivatives are taken by ``torch.func``. Nothing is assumed of its convexity or lower bound.
    """

    convex = False
    lower_bound = None

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.function = function
        self.name = f"<callable {getattr(function, '__name__', type(function).__name__)}>"
        self._single: Callable[[Tensor, Tensor], Tensor] = self._one
        self._target_axes = 0

    def _one(self, f: Tensor, y: Tensor) -> Tensor:
        return self.function(f, y).reshape(())

    def _one_of_batch(self, f: Tensor, y: Tensor) -> Tensor:
        return self.function(f[None], y[None]).reshape(())

    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        if y.ndim == 0 or y.shape[0] != samples:
            raise InputError(f"y has shape {tuple(y.shape)}, but X has {samples} samples")
        self._target_axes = y.ndim - 1
        probe = torch.zeros(outputs, dtype=torch.get_default_dtype()).to(
            y.dtype if y.is_floating_point() else torch.float64
        )
        failures = []
        for attempt in (self._one, self._one_of_batch):
            try:
                _second(attempt)(probe, y[0])
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}".splitlines()[0])
            else:
                self._single = attempt
                return y
        raise InputError(
            f"loss {self.name} failed on one sample's output of shape ({outputs},) and target of "
            f"shape {tuple(y[0].shape)} ({failures[0]}), and on a batch of one ({failures[1]}); "
            "expected a differentiable function of (output, target) that gives one number a sample"
        )

    def _mapped(self, function: Callable[..., Any], f: Tensor, y: Tensor) -> Tensor:
        flat = f.reshape(-1, f.shape[-1])
        # One data set for all networks of a batch, or one for each.
        shared = y.ndim == 1 + self._target_axes
        each = y.expand(*f.shape[:-2], *y.shape) if shared else y
        targets = each.reshape(-1, *each.shape[each.ndim - self._target_axes :])
        result: Tensor = torch.func.vmap(function)(flat, targets)
        return result.reshape(*f.shape[:-1], *result.shape[1:])

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return self._mapped(self._single, f, y)

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(f, y), self._mapped(torch.func.grad(self._single), f, y)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        return *self.first(f, y), self._mapped(_second(self._single), f, y)


_KNOWN: dict[str, Loss] = {loss.name: loss for loss in (Squared(), CrossEntropy(), Logistic())}

LOSSES: tuple[str, ...] = tuple(_KNOWN)
"""The names that :func:`loss_named` knows."""


def loss_named(given: str | Loss | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss of that name, or one made from a function of one sample.

    >>> loss_named("squared")
    Loss(squared)
    >>> loss_named("sqared")
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: unknown loss 'sqared'; did you mean 'squared'? Known: ...
    """
    if isinstance(given, Loss):
        return given
    if isinstance(given, str):
        if given not in _KNOWN:
            raise unknown_name("loss", given, _KNOWN)
        return _KNOWN[given]
    if callable(given):
        return PerSample(given)
    raise InputError(
        f"loss must be a name or a function of (output, target), not {given!r}. "
        f"Known names: {', '.join(_KNOWN)}"
    )
