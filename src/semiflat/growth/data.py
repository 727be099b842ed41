"""Data to look for new units on, and other data to confirm them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from semiflat.modules.batches import MEAN, Batch, Batches, LossFunction, loss_of, moved, run
from semiflat.modules.branches import Point
from semiflat.modules.capture import copied, same_random_state
from semiflat.modules.surgery import gaps

CONFIRMS = 4
"""One sample of so many confirms, in as many batches at least; the others are searched."""
MOST, LEAST, PART, WORK = 2000, 64, 96, 2**26
"""Samples that are searched for a look: at most, at least; one of so many; or as many as take so many
operations of floating point in a pass forward. So it is shorter than an epoch of ten thousand samples."""
BATCH_BYTES = 2**25
"""What a pass may keep for its way back, if the batches that were given do not keep more."""


@dataclass
class Data:
    """Samples to search and samples to confirm.

    They are drawn from all batches, and put into few large ones: what is read of a batch is the same in any
    company, if the model takes each sample by itself. Where it does not, as with batch norms in train mode, or
    samples differ in shape, batches stay as they are, and whole ones are searched or confirm.

    Attributes:
        batches: as they were given.
        searched, confirming: samples; where there is only one, the same.
        loss: ``loss(outputs, targets)``, a mean.
        samples: that were to be searched.
        parts: into which a confirming batch is cut for the standard error.
    """

    batches: Batches
    searched: list[Batch]
    confirming: list[Batch]
    loss: LossFunction
    samples: int = 0
    parts: int = 1

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Any,
        loss: LossFunction,
        samples: int | None,
        seed: int = 0,
        effort: int = 1,
    ) -> Data:
        """Cut data in two, and take so many samples of it to search at most.

        Args:
            batches: what was cut before is taken as it is.
            samples: None for what is affordable.
            effort: how many times what a look affords.
        """
        if isinstance(batches, Data):
            return batches
        given = Batches(batches)
        order, first = torch.Generator().manual_seed(seed), given.first()
        work, kept = (each // first.size for each in _pass_of(model, loss, first))
        if samples is None:
            most = max(LEAST, given.samples // PART, WORK // max(work, 1))
            samples = effort * min(MOST, most)
        most = min(given.samples, samples + -(-samples // (CONFIRMS - 1)))
        drawn = torch.randperm(given.samples, generator=order)[:most]
        rest = drawn[: most // CONFIRMS]
        parts = (drawn[len(rest) :], rest if len(rest) else drawn)
        apart = _each_by_itself(model, given)
        searched, confirming = (_taken(given, part) if apart else None for part in parts)
        if searched is not None and confirming is not None:
            few = max(first.size, BATCH_BYTES // max(kept, 1))
            some, others = (each.parts(-(-each.size // few)) for each in (searched, confirming))
            return cls(given, some, others, loss, samples, -(-CONFIRMS // len(others)))
        every = list(given)
        if len(every) < 2 * CONFIRMS:
            every = [
                part for batch in every for part in batch.parts(min(2 * CONFIRMS, batch.size // 2))
            ]
        every = [every[k] for k in torch.randperm(len(every), generator=order).tolist()]
        some = [batch for k, batch in enumerate(every) if k % CONFIRMS != CONFIRMS - 1]
        others = every[CONFIRMS - 1 :: CONFIRMS] or every
        return cls(given, up_to(some, samples), up_to(others, samples), loss, samples)

    @property
    def apart(self) -> bool:
        """Whether other samples confirm than are searched."""
        return {id(batch) for batch in self.searched}.isdisjoint(id(b) for b in self.confirming)

    @property
    def seen(self) -> list[Batch]:
        """Batches that are searched or confirm, each once."""
        return list({id(batch): batch for batch in (*self.searched, *self.confirming)}.values())

    @property
    def entire(self) -> bool:
        """Whether these are all samples that were given."""
        return sum(batch.size for batch in self.seen) == self.batches.samples

    def loss_at(
        self, model: nn.Module, point: Point | None, batches: Sequence[Batch]
    ) -> list[float]:
        """The loss of each batch with other parameters and buffers; with the model's own if None."""
        found = []
        twin = copied(model)
        for batch in batches:
            here = placed(model, batch)
            held = {name: tensor.clone() for name, tensor in (point or {}).items()}

            def at(*args: Any, held: dict[str, Tensor] = held, **kwargs: Any) -> Any:
                return torch.func.functional_call(twin, held, args, kwargs)

            with torch.no_grad(), same_random_state():
                found.append(float(loss_of(at, self.loss, here)))
        return found


def placed(model: nn.Module, batch: Batch) -> Batch:
    """The batch in the type of a model and on its device."""
    first = next((p for p in model.parameters() if p.is_floating_point()), None)
    if first is None:
        return batch
    inputs, targets = moved((batch.inputs, batch.targets), first.dtype, first.device)
    return replace(batch, inputs=inputs, targets=targets)


def up_to(batches: list[Batch], samples: int) -> list[Batch]:
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


# -- samples in other company ------------------------------------------------------------------------


def _joined(batches: Sequence[Batch]) -> Batch | None:
    """One batch of all samples; None where they cannot be put together."""
    flat = [pytree.tree_flatten((batch.inputs, batch.targets)) for batch in batches]
    columns = list(zip(*(leaves for leaves, _ in flat), strict=False))
    if any(spec != flat[0][1] for _, spec in flat):
        return None
    whole = []
    for column in columns:
        first = column[0]
        if not isinstance(first, Tensor):
            if any(other is not first and other != first for other in column):
                return None
            whole.append(first)
            continue
        alike = all(
            x.ndim
            and len(x) == batch.size
            and (x.shape[1:], x.dtype) == (first.shape[1:], first.dtype)
            for x, batch in zip(column, batches, strict=True)
        )
        if not alike:
            return None
        whole.append(torch.cat(column))
    inputs, targets = pytree.tree_unflatten(whole, flat[0][1])
    return Batch(inputs, targets, sum(batch.size for batch in batches))


def _taken(given: Batches, which: Tensor) -> Batch | None:
    """Samples by their numbers over all batches, in one batch; None where they cannot be put together."""
    found, start = list[Batch](), 0
    for batch in given:
        mine = which[(which >= start) & (which < start + batch.size)] - start
        start += batch.size
        if len(mine):
            some = batch.taken(mine)
            if some is None:
                return None
            found.append(some)
    return _joined(found)


def _each_by_itself(model: nn.Module, given: Batches) -> bool:
    """Whether the model gives for a sample the same in any company; tried on the first batches."""
    whole = _joined([batch for _, batch in zip(range(2), given, strict=False)])
    if whole is None:
        return False
    twin = copied(model)
    try:
        with torch.no_grad(), same_random_state():
            together, *apart = (
                pytree.tree_leaves(run(twin, placed(model, batch).inputs))
                for batch in (whole, *whole.parts(2))
            )
    except Exception:  # a model that fails on its own batches is told so where it runs on them
        return False
    for one, *parts in zip(together, *apart, strict=True):
        if not isinstance(one, Tensor):
            continue
        if not one.ndim or len(one) != whole.size:
            return False
        ((gap, size),) = gaps([one], [torch.cat(parts)])
        if gap > MEAN * size:
            return False
    return True


def _pass_of(model: nn.Module, loss: LossFunction, batch: Batch) -> tuple[int, int]:
    """Operations of floating point of a pass forward, and the bytes that it keeps for the way back."""
    twin = copied(model)
    own = {p.untyped_storage().data_ptr() for p in (*twin.parameters(), *twin.buffers())}
    kept = dict[int, int]()

    def noted(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in own:
            kept[place] = tensor.numel() * tensor.element_size()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(noted, lambda tensor: tensor)
    with hooks, same_random_state(), FlopCounterMode(display=False) as counter:
        loss_of(twin, loss, placed(twin, batch))
    return counter.get_total_flops(), sum(kept.values())
