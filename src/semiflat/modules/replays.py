"""What a model gives on batches of data, kept, so that other models can be held against it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.memory import UNASKED
from semiflat.modules.batches import Batch, Batches, moved
from semiflat.modules.capture import copied
from semiflat.modules.surgery import (
    EXACT,
    change_of_outputs,
    check_comparable,
    gaps,
    outputs_of,
    same_tensors,
)


class Replay:
    """What a model gives on batches in one mode, to hold other models against.

    Args:
        train: whether in train mode; None for the model's own.

    Attributes:
        random: whether it draws at random in that mode.
    """

    def __init__(self, model: nn.Module, batches: Batches, train: bool | None = None) -> None:
        self.given, self.batches, self.train = model, batches, train
        self.random = False
        self._kept: list[list[Tensor]] | None = []
        self._sizes: list[float] = []
        self._last: tuple[nn.Module, float] = model, 0.0
        room = UNASKED
        for inputs, outputs in self._run(model):
            if not self._sizes:
                check_comparable(outputs)
                again = outputs_of(self._ready(model), inputs, seed=1)
                self.random = not same_tensors(outputs, again)
            sizes = [size for _, size in gaps(outputs, outputs)]
            self._sizes = [max(pair) for pair in zip_longest(self._sizes, sizes, fillvalue=0.0)]
            room -= sum(each.numel() * each.element_size() for each in outputs)
            if self._kept is not None:
                self._kept = [*self._kept, outputs] if room > 0 else None

    def _ready(self, model: nn.Module) -> nn.Module:
        # Copies run: norms in training mode change their statistics.
        return copied(model) if self.train is None else copied(model).train(self.train)

    def _run(self, model: nn.Module) -> Iterator[tuple[Any, list[Tensor]]]:
        runs = self._ready(model)
        for batch in self.batches:
            inputs = moved(batch.inputs, torch.float64, "cpu")
            yield inputs, outputs_of(runs, inputs)

    @functools.cached_property
    def _few(self) -> tuple[Any, list[Tensor]]:
        """A few samples and what is given for them; the first batch where they see one another."""
        inputs, outputs = next(self._run(self.given))
        first = self.batches.first()
        few = Batch(inputs, None, first.size).parts(first.size // 2)[0]
        try:
            alone = outputs_of(self._ready(self.given), few.inputs)
            within = [each[: few.size] for each in outputs]
            if change_of_outputs(within, alone) <= EXACT:
                return few.inputs, alone
        except Exception:  # it is anybody's code, and may take none but so many samples
            pass
        return inputs, outputs

    def on_few(self, model: nn.Module) -> float:
        """The largest change on a few samples."""
        inputs, outputs = self._few
        return self._relative(outputs, outputs_of(self._ready(model), inputs))

    def change(self, model: nn.Module, allowed: float = math.inf) -> float:
        """The largest change of an output on all batches, or on some if it is more than what is allowed.

        It is relative to the largest, each output by itself.
        """
        if model is self._last[0]:
            return self._last[1]
        worst = 0.0
        given = self._kept or (outputs for _, outputs in self._run(self.given))
        for outputs, (_, others) in zip(given, self._run(model), strict=True):
            worst = max(worst, self._relative(outputs, others))
            if worst > allowed:
                return worst
        self._last = model, worst
        return worst

    def _relative(self, outputs: list[Tensor], others: list[Tensor]) -> float:
        found = zip(gaps(outputs, others), self._sizes, strict=False)
        return max((gap / (size or 1.0) for (gap, _), size in found), default=0.0)
