"""Data to look for new units on, and other data to confirm them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.modules.batches import Batch, Batches, LossFunction, loss_of, moved
from semiflat.modules.branches import Point
from semiflat.modules.capture import copied, same_random_state

CONFIRMS = 4
"""One batch of so many confirms; the others are searched."""


@dataclass
class Data:
    """Batches to search and batches to confirm.

    Attributes:
        batches: all of them.
        searched, confirming: which; where the data cannot be cut, the same.
        loss: ``loss(outputs, targets)``, a mean.
    """

    batches: Batches
    searched: list[Batch]
    confirming: list[Batch]
    loss: LossFunction

    @classmethod
    def of(cls, batches: Any, loss: LossFunction, samples: int) -> Data:
        """Cut data in two, and take so many samples of it to search at most."""
        given = Batches(batches)
        every = list(given)
        if len(every) < 2 * CONFIRMS:
            every = [
                part for batch in every for part in batch.parts(min(2 * CONFIRMS, batch.size // 2))
            ]
        searched = [batch for k, batch in enumerate(every) if k % CONFIRMS != CONFIRMS - 1]
        confirming = [batch for k, batch in enumerate(every) if k % CONFIRMS == CONFIRMS - 1]
        return cls(given, _up_to(searched, samples), _up_to(confirming or every, samples), loss)

    @property
    def apart(self) -> bool:
        """Whether other samples confirm than are searched."""
        return {id(batch) for batch in self.searched}.isdisjoint(id(b) for b in self.confirming)

    @property
    def seen(self) -> list[Batch]:
        """Batches that are searched or confirm, each once."""
        return list({id(batch): batch for batch in (*self.searched, *self.confirming)}.values())

    def loss_at(
        self, model: nn.Module, point: Point | None, batches: Sequence[Batch]
    ) -> list[float]:
        """The loss of each batch with other parameters and buffers; with the model's own if None."""
        found = []
        twin = copied(model)
        first = next(p for p in model.parameters() if p.is_floating_point())
        for batch in batches:
            inputs, targets = moved((batch.inputs, batch.targets), first.dtype, first.device)
            here = replace(batch, inputs=inputs, targets=targets)
            held = {name: tensor.clone() for name, tensor in (point or {}).items()}

            def at(*args: Any, held: dict[str, Tensor] = held, **kwargs: Any) -> Any:
                return torch.func.functional_call(twin, held, args, kwargs)

            with torch.no_grad(), same_random_state():
                found.append(float(loss_of(at, self.loss, here)))
        return found


def _up_to(batches: list[Batch], samples: int) -> list[Batch]:
    """The first batches, up to so many samples; at least one."""
    kept, total = list[Batch](), 0
    for batch in batches:
        if kept and total + batch.size > samples:
            break
        kept.append(batch)
        total += batch.size
    return kept


def mean_of(values: Sequence[float], batches: Sequence[Batch]) -> float:
    """The mean over samples of what is a mean over each batch."""
    total = sum(batch.size for batch in batches)
    return sum(v * batch.size / total for v, batch in zip(values, batches, strict=True))


def error_of(values: Sequence[float], batches: Sequence[Batch]) -> float | None:
    """The standard error of that mean between batches; None for one batch."""
    if len(values) < 2:
        return None
    mean, total = mean_of(values, batches), sum(batch.size for batch in batches)
    squares = sum(
        ((v - mean) * batch.size / total) ** 2 for v, batch in zip(values, batches, strict=True)
    )
    return float((squares * len(values) / (len(values) - 1)) ** 0.5)
