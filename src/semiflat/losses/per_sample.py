"""A loss given as a Python function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.losses.loss import Loss, LossDerivatives, LossFunction


def _second(function: LossFunction) -> LossFunction:
    # Reverse over reverse: for a few outputs as fast, and without torch's deprecated parts that
    # forward mode imports.
    second: LossFunction = torch.func.jacrev(torch.func.grad(function))
    return second


class PerSample(Loss):
    """A user's function of one sample's output ``(M,)`` and target, giving a number.

    A function that only takes a whole batch, ``(N, M)`` and N targets to N numbers, is accepted too.
    Derivatives are taken by ``torch.func``. Nothing is assumed of its convexity or lower bound.
    """

    convex = False
    lower_bound = None

    def __init__(self, function: LossFunction) -> None:
        self.function = function
        self.name = f"<callable {getattr(function, '__name__', type(function).__name__)}>"
        self._single: LossFunction = self._one
        self._target_axes = 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

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
                self._mapped(_second(attempt), probe[None], y[:1])
            except Exception as error:
                failures.append(f"{type(error).__name__}: {error}".splitlines()[0][:120])
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
        # Random numbers are let through: that the results differ is what the problem refuses.
        result: Tensor = torch.func.vmap(function, randomness="different")(flat, targets)
        return result.reshape(*f.shape[:-1], *result.shape[1:])

    def value(self, f: Tensor, y: Tensor) -> Tensor:
        return self._mapped(self._single, f, y)

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(f, y), self._mapped(torch.func.grad(self._single), f, y)

    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        return *self.first(f, y), self._mapped(_second(self._single), f, y)
