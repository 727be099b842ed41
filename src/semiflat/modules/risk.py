"""The loss of a model over batches, its derivatives, and what on the way to it can be seen."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from semiflat.errors import InputError
from semiflat.modules.batches import (
    Batch,
    Batches,
    LossFunction,
    check_mean,
    loss_of,
    loss_on,
    moved,
    run,
)
from semiflat.modules.capture import same_random_state
from semiflat.modules.flat import Derivatives, FlatModule, Term
from semiflat.modules.kinks import distances


class OnBatches(Derivatives):
    """The loss of a model over batches, weighted by their sizes.

    Attributes:
        flat: the model.
        batches: the data.
        loss: the loss.
    """

    def __init__(self, flat: FlatModule, batches: Batches, loss: LossFunction) -> None:
        self.flat, self.at, self.batches, self.loss = flat, flat.at, batches, loss

    def moved(self, batch: Batch) -> Batch:
        """A batch in the type and on the device of the parameters."""
        inputs, targets = moved((batch.inputs, batch.targets), self.at.dtype, self.at.device)
        return Batch(inputs, targets, batch.size, batch.number)

    def of(self, vector: Tensor, batch: Batch) -> Tensor:
        """The share of a batch in the loss."""
        share = batch.size / self.batches.samples
        return share * loss_of(partial(self.flat, vector), self.loss, batch)

    def terms(self) -> Iterator[Term]:
        for batch in self.batches:
            yield partial(self.of, batch=self.moved(batch))

    def parts(self, most: int) -> Iterator[Term]:
        """The loss in about so many parts, or a part a batch where batches cannot be cut."""
        for batch in self.batches:
            for part in self.moved(batch).parts(max(1, most // self.batches.count)):
                yield partial(self.of, batch=part)


def check_repeats(risk: OnBatches) -> None:
    """Check that the model gives the same twice, and that its loss is a mean over the batch.

    Raises:
        InputError: if it does not.
    """
    drops = [
        name
        for name, module in risk.flat.module.named_modules()
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.training and module.p > 0
    ]
    if drops:
        more = f" and {len(drops) - 1} more" if len(drops) > 1 else ""
        raise InputError(
            f"dropout is on in {drops[0]!r}{more}, so that no two passes are the same; call model.eval(), or "
            "set p = 0 to judge the model in train mode"
        )
    batch = risk.moved(risk.batches.first())
    once, twice = (_drawn(risk, batch, seed) for seed in (0, 1))
    if not torch.equal(*(loss_on(outputs, risk.loss, batch) for outputs in (once, twice))):
        raise InputError(
            "the model gives another loss for the same batch each time: something is drawn at random on the "
            "way; call model.eval(), or take it out"
        )
    check_mean(once, batch.targets, batch.size, risk.loss)
    if not risk.of(risk.at.detach().requires_grad_(), batch).requires_grad:
        raise InputError(
            "the loss has no derivative by the model's parameters: is it a constant, or detached from them?"
        )


def _drawn(risk: OnBatches, batch: Batch, seed: int) -> Any:
    with torch.no_grad(), same_random_state():
        torch.manual_seed(seed)
        loss_of(partial(risk.flat, risk.at), risk.loss, batch)  # says which batch it fails on
        torch.manual_seed(seed)
        return run(partial(risk.flat, risk.at), batch.inputs)


# -- what is seen on the way -----------------------------------------------------------------------

CHOICES = (torch.bool, torch.int32, torch.int64)
"""Types of what operations choose from numbers: places of the largest, an order, whether a number is larger."""


class Watch(TorchDispatchMode):
    """Notes, of all that runs under it, the coarsest type of numbers and what goes into operations with a kink.

    Attributes:
        eps: unit of rounding of that type.
        bytes: what all that was made holds.
        seen: by name of an operation, how far what enters it is from its kinks; or what it chooses, which
            changes at kinks alone.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.eps, self.bytes = torch.finfo(dtype).eps, 0
        self.seen: list[tuple[str, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.rstrip("_")
        far = distances(func, args, kwargs or {})  # before it is run: it may work in place
        self.seen += [(name, each) for each in far]
        out = func(*args, **(kwargs or {}))
        self.bytes += sum(leaf.nbytes for leaf in _real(out))
        given, made = (_precisions(each) for each in ((args, kwargs), out))
        if given and made and max(made) > min(given):  # what is computed is rounded on its way
            self.eps = max(self.eps, *made)
        if given and not far:
            self.seen += [(name, each.clone()) for each in _tensors(out) if each.dtype in CHOICES]
        return out


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _real(value: Any) -> list[Tensor]:
    return [leaf for leaf in _tensors(value) if leaf.is_floating_point()]


def _precisions(value: Any) -> list[float]:
    return [torch.finfo(leaf.dtype).eps for leaf in _real(value)]


def watched(risk: OnBatches, at: Tensor, batch: Batch) -> Watch:
    """What is seen on the way to the loss of a batch."""
    watch = Watch(at.dtype)
    with torch.no_grad(), watch:
        risk.of(at, batch)
    return watch


def kink(risk: OnBatches, neighbours: list[tuple[Tensor, float]]) -> str:
    """Why the loss has no second derivative here, as far as can be told; ``""`` if it has one.

    Args:
        neighbours: parameters near by, and how many times as far a kink is near.
    """
    for batch in risk.batches:
        data = risk.moved(batch)
        here = watched(risk, risk.at, data).seen
        for at, times in neighbours:
            for (name, z), (_, other) in zip(here, watched(risk, at, data).seen, strict=True):
                if not z.is_floating_point():
                    near = z != other
                else:
                    moves = times * (other - z).abs()
                    near = (z.abs() < moves) | ((z == 0) & (moves > 0))
                if bool(near.any()):
                    count = int(near.sum())
                    return (
                        "the loss is not differentiable here: as far as rounding and a Newton step can tell, "
                        f"{count} of {near.numel()} values that {name!r} is given on batch {batch.number} are "
                        "at its kink"
                    )
    return ""
