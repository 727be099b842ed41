"""Batches of data for a model: passes that are equal, weighted by size, and a loss that is a mean."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.modules.capture import (
    Example,
    called_with,
    same_random_state,
    second_derivatives,
    tensors_in,
)

LossFunction = Callable[[Any, Any], Tensor]
"""``loss(outputs, targets)``: a mean over the samples of a batch."""
MEAN = 1e-4
"""Relative difference up to which a loss of a batch is the mean over its parts: float32 sums round."""


@dataclass(frozen=True)
class Batch:
    """Inputs and targets of some samples.

    Attributes:
        inputs: a tensor, a tuple or a dict.
        targets: whatever the loss takes.
        size: number of samples.
        number: of the batch, from 0.
    """

    inputs: Example
    targets: Any
    size: int
    number: int = 0

    def few(self, most: int) -> Batch:
        """The first samples, at most so many; the batch itself where it cannot be cut."""
        return self if self.size <= most else self.taken(slice(0, most)) or self

    def parts(self, most: int) -> list[Batch]:
        """The batch cut into at most so many parts; itself alone where it cannot be cut."""
        most = min(most, self.size)
        if most < 2:
            return [self]
        bounds = [self.size * place // most for place in range(most + 1)]
        cut = [self.taken(slice(*ends)) for ends in itertools.pairwise(bounds)]
        return [part for part in cut if part is not None] or [self]

    def taken(self, which: Tensor | slice) -> Batch | None:
        """Some of its samples; None where it cannot be cut, as tensors do not have them first."""
        leaves = _leaves((self.inputs, self.targets))
        if any(not leaf.ndim or len(leaf) != self.size for leaf in leaves):
            return None
        inputs, targets = torch.utils._pytree.tree_map(
            lambda leaf: leaf[which] if isinstance(leaf, Tensor) else leaf,
            (self.inputs, self.targets),
        )
        size = len(which) if isinstance(which, Tensor) else which.stop - which.start
        return Batch(inputs, targets, size, self.number)


class Batches:
    """Batches that can be gone through as often as needed, and are the same each time.

    Args:
        given: re-iterable: a list, a ``DataLoader`` that does not shuffle, a dataset of batches, …

    Attributes:
        samples: in all batches.
        count: of batches.

    Raises:
        InputError: if there are none, they can be gone through only once, an item is no pair of inputs and
            targets, or two passes differ.

    >>> batches = Batches([(torch.zeros(3, 2), torch.zeros(3)), (torch.ones(2, 2), torch.ones(2))])
    >>> batches.samples, batches.count
    (5, 2)
    """

    def __init__(self, given: Any) -> None:
        self.given: Iterable[Any]
        self.samples: int
        self.count: int
        if isinstance(given, Batches):
            self.given, self.samples, self.count = given.given, given.samples, given.count
            return
        if isinstance(given, Iterator) or not isinstance(given, Iterable):
            raise InputError(
                f"batches must be something that can be gone through again, as a list or a DataLoader, not "
                f"{type(given).__name__}"
            )
        self.given = given
        with same_random_state():  # which goes on from pass to pass, so that what is drawn differs
            sizes, first = self._pass()
            _, second = self._pass()
        if not sizes:
            raise InputError("there are no batches; expected at least one pair (inputs, targets)")
        if first != second:
            raise InputError(
                "two passes over the batches differ (shuffled, or augmented at random?); give the same "
                "batches in the same order each time, for instance list(loader)"
            )
        self.samples, self.count = sum(sizes), len(sizes)

    def _pass(self) -> tuple[list[int], str]:
        digest, sizes = hashlib.blake2b(digest_size=16), []
        for batch in self._read(iter(self.given)):
            sizes.append(batch.size)
            for tensor in _leaves((batch.inputs, batch.targets)):
                digest.update(str((tensor.shape, tensor.dtype)).encode())
                digest.update(
                    tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                )
        return sizes, digest.hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        with same_random_state():  # a DataLoader draws a seed for its workers here
            items = iter(self.given)
        return self._read(items)

    @staticmethod
    def _read(items: Iterator[Any]) -> Iterator[Batch]:
        for number, item in enumerate(items):
            if not isinstance(item, tuple | list) or len(item) != 2:
                many = f" of {len(item)}" if isinstance(item, tuple | list) else ""
                raise InputError(
                    f"batch {number} is a {type(item).__name__}{many}; expected a pair (inputs, targets)"
                )
            inputs, targets = item
            tensors = _leaves(called_with(inputs))
            if not tensors or not tensors[0].ndim or not len(tensors[0]):
                raise InputError(
                    f"batch {number} has no inputs: expected tensors with the samples first"
                )
            yield Batch(inputs, targets, len(tensors[0]), number)

    def first(self) -> Batch:
        """The first batch."""
        return next(iter(self))

    def mean(self, of: Callable[[Batch], Any]) -> Any:
        """The mean over samples of what is a mean over each batch: a tensor or a number."""
        total: Any = None
        for batch in self:
            part = of(batch) * (batch.size / self.samples)
            total = part if total is None else total + part
        return total


def _leaves(value: Any) -> list[Tensor]:
    leaves: list[Tensor] = [
        leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)
    ]
    return leaves


def moved(value: Any, dtype: torch.dtype | None, device: torch.device | str) -> Any:
    """Tensors inside a value on a device; the floating-point ones of them with another dtype."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.is_floating_point() else None)

    return torch.utils._pytree.tree_map(move, value)


def run(model: Callable[..., Any], inputs: Example) -> Any:
    """What a model gives for a batch's inputs; twice differentiable."""
    args, kwargs = called_with(inputs)
    with second_derivatives():
        return model(*args, **kwargs)


def loss_of(model: Callable[..., Any], loss: LossFunction, batch: Batch) -> Tensor:
    """The loss of a batch, a number that can be differentiated.

    Raises:
        InputError: if the model or the loss fails, or gives anything else.
    """
    try:
        outputs = run(model, batch.inputs)
    except Exception as error:
        raise InputError(
            f"the model fails on batch {batch.number}, of {batch.size} samples ({_line(error)}); expected "
            "inputs as it takes them: a tensor, a tuple of its arguments, or a dict of them by name"
        ) from error
    return loss_on(outputs, loss, batch)


def loss_on(outputs: Any, loss: LossFunction, batch: Batch) -> Tensor:
    """The loss of what a model gives for a batch, a number.

    Raises:
        InputError: if the loss fails, or gives anything else.
    """
    try:
        value = loss(outputs, batch.targets)
    except Exception as error:
        shapes = [tuple(tensor.shape) for tensor in tensors_in(outputs)]
        missing = ", and the batch has no targets" if batch.targets is None else ""
        raise InputError(
            f"the loss fails on the model's outputs for batch {batch.number}, of shapes {shapes} "
            f"({_line(error)}){missing}; expected loss(outputs, targets)"
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"the loss gives {shape}; expected one number, the mean over the batch")
    if not value.is_floating_point():
        raise InputError(f"the loss is of type {value.dtype}; expected a real number")
    if not math.isfinite(float(value.detach())):
        raise InputError(
            f"the loss is {float(value.detach())} on batch {batch.number}; expected a finite number: check the "
            "batch, and the model's parameters"
        )
    return value.reshape(())


def _line(error: Exception) -> str:
    text = str(error).strip()
    return f"{text.splitlines()[0] if text else type(error).__name__:.200}"


def check_asked(loss: Any, dtype: Any) -> None:
    """Check a loss and a type to compute in.

    Raises:
        InputError: if the loss is no function, or the type none that is known.
    """
    if not callable(loss):
        raise InputError(f"loss must be a function loss(outputs, targets), not {loss!r:.60}")
    if dtype not in (None, torch.float64, torch.float32):
        raise InputError(f"dtype must be torch.float64, torch.float32 or None, not {dtype!r:.40}")


def check_mean(outputs: Any, targets: Any, size: int, loss: LossFunction) -> None:
    """Check that the loss of a batch is the mean over its parts, where outputs and targets can be cut in two.

    Raises:
        InputError: if it is not.
    """
    parts = _leaves((outputs, targets))
    if size < 2 or any(not leaf.ndim or len(leaf) != size for leaf in parts):
        return
    half = (size + 1) // 2
    with torch.no_grad():
        whole = float(loss(outputs, targets))
        cut = [
            torch.utils._pytree.tree_map(
                lambda leaf, where=where: leaf[where] if isinstance(leaf, Tensor) else leaf,
                (outputs, targets),
            )
            for where in (slice(0, half), slice(half, None))
        ]
        one, two = (float(loss(*each)) for each in cut)
    mean = (half * one + (size - half) * two) / size
    if abs(whole - mean) > MEAN * max(abs(whole), abs(one), abs(two), 1e-30):
        raise InputError(
            f"the loss of {size} samples is {whole:.6g}, and the mean over its two halves {mean:.6g}; expected "
            "a loss that is a mean over the batch, in which all samples count alike (reduction='mean', no "
            "class weights); where some count less, as by weight= or ignore_index=, divide their sum by the "
            "number of all: cross_entropy(outputs, targets, …, reduction='sum') / len(targets)"
        )
