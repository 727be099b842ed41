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


def _drawn(risk: OnBatches, batch: Batch, seed: int) -> Any:
    with torch.no_grad(), same_random_state():
        torch.manual_seed(seed)
        loss_of(partial(risk.flat, risk.at), risk.loss, batch)  # says which batch it fails on
        torch.manual_seed(seed)
        return run(partial(risk.flat, risk.at), batch.inputs)


# -- what is seen on the way -----------------------------------------------------------------------

aten = torch.ops.aten
KINKS: dict[Any, tuple[float, ...]] = {
    aten.relu: (0.0,),
    aten.leaky_relu: (0.0,),
    aten.elu: (0.0,),
    aten.abs: (0.0,),
    aten.sign: (0.0,),
    aten._prelu_kernel: (0.0,),
    aten.hardswish: (-3.0, 3.0),
    aten.hardsigmoid: (-3.0, 3.0),
}
"""Where operations have a kink, or their slope has one."""
BOUNDED = (aten.hardtanh, aten.clamp, aten.clamp_min, aten.clamp_max, aten.threshold)
"""Those that have it at bounds that they are given."""


class Watch(TorchDispatchMode):
    """Notes, of all that runs under it, the coarsest type of numbers and what goes into operations with a kink.

    Attributes:
        eps: unit of rounding of that type.
        bytes: what all that was made holds.
        seen: for each operation with a kink what it is given and its kinks, or a maximum's places.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's own
        self.eps, self.bytes = torch.finfo(dtype).eps, 0
        self.seen: list[tuple[str, Tensor, tuple[float, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.bytes += sum(leaf.nbytes for leaf in _real(out))
        given, made = (_precisions(each) for each in ((args, kwargs), out))
        if given and made and max(made) > min(given):  # what is computed is rounded on its way
            self.eps = max(self.eps, *made)
        packet = func.overloadpacket
        name = packet.__name__.rstrip("_")
        plain = getattr(aten, name, packet)
        if plain in KINKS:
            self.seen.append((name, args[0].detach().clone(), KINKS[plain]))
        elif plain in BOUNDED:
            bounds = [
                each
                for each in (*args[1:3], *(kwargs or {}).values())
                if isinstance(each, int | float)
            ]
            bounds = bounds[:1] if plain is aten.threshold else bounds
            self.seen.append((name, args[0].detach().clone(), tuple(map(float, bounds))))
        elif isinstance(out, tuple) and "max_pool" in name:
            self.seen.append((name, out[1].clone(), ()))
        return out


def _real(value: Any) -> list[Tensor]:
    leaves = torch.utils._pytree.tree_leaves(value)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


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
            for (name, z, kinks), (_, other, _) in zip(
                here, watched(risk, at, data).seen, strict=True
            ):
                if not kinks:
                    near = z != other
                else:
                    moves = times * (other - z).abs()
                    near = torch.stack([(z - kink).abs() < moves for kink in kinks]).any(0)
                    near |= torch.stack([(z == kink) & (moves > 0) for kink in kinks]).any(0)
                if bool(near.any()):
                    count = int(near.sum())
                    return (
                        "the loss is not differentiable here: as far as rounding and a Newton step can tell, "
                        f"{count} of {near.numel()} values that {name!r} is given on batch {batch.number} are "
                        "at its kink"
                    )
    return ""
