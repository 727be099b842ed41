"""A model with new units that nothing reads yet, and hands to make them into what a method wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import semiflat as sf
from growth.tasks import Split, Task


@dataclass
class Start:
    """A trained model, and what it is grown on."""

    task: Task
    model: nn.Module
    optimizer: torch.optim.Optimizer
    data: Split
    seed: int

    @property
    def X(self) -> Tensor:
        return self.data.X[: self.task.searched]

    @property
    def y(self) -> Tensor:
        return self.data.y[: self.task.searched]

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """As they are trained on."""
        size = self.task.batch
        return list(zip(self.data.X.split(size), self.data.y.split(size), strict=True))

    def evenly(self) -> dict[str, int]:
        """The units for each group where they are shared alike."""
        return dict.fromkeys(self.task.groups, self.task.units // len(self.task.groups))


class Wide:
    """A wider model with the same outputs, in eval mode; its new units are the last of each group.

    Args:
        added: new units of each group.
        carry: whether it is the model in the end, so that the optimiser's state is carried to it.
    """

    def __init__(self, start: Start, added: dict[str, int], carry: bool = True) -> None:
        self.start, self.task = start, start.task
        self.model, self.optimizer = start.model, start.optimizer
        self.added = {name: count for name, count in added.items() if count}
        for name, count in self.added.items():
            wide = sf.widen(self.model, start.X[:8], name, units=count, seed=start.seed)
            if carry:
                self.optimizer = wide.carry(self.optimizer)
            self.model = wide.model
        self.model.eval()
        groups = sf.units(self.model, start.X[:8])
        self.slots = {name: groups[name].slots for name in self.added}
        self.tensors = dict(self.model.named_parameters()) | dict(self.model.named_buffers())

    def old(self, name: str) -> int:
        """How many units there were."""
        return len(self.slots[name][0].positions) - self.added[name]

    def lines(self, name: str, *roles: str) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
        """Tensors of some roles, and for each a view of one with a line for every unit first."""
        return [
            (slot.name, lambda tensor, axis=slot.axis: tensor.movedim(axis, 0))
            for slot in self.slots[name]
            if slot.role in roles
        ]

    def rows(self, name: str, *roles: str) -> Tensor:
        """What tensors of some roles hold of every unit, (units, entries)."""
        lines = [view(self.tensors[key].detach()) for key, view in self.lines(name, *roles)]
        return torch.cat([each.reshape(len(each), -1) for each in lines], 1)

    def put(self, name: str, places: Sequence[int], values: Tensor, *roles: str) -> None:
        """Set the same of some units."""
        at = 0
        for key, view in self.lines(name, *roles):
            lines = view(self.tensors[key].data)
            width = lines[0].numel()
            part = values[:, at : at + width].reshape(-1, *lines.shape[1:])
            lines[list(places)] = part.to(lines)
            at += width

    def loss(self, X: Tensor | None = None, y: Tensor | None = None) -> float:
        """On what is searched, in eval mode."""
        X, y = (self.start.X, self.start.y) if X is None or y is None else (X, y)
        with torch.no_grad():
            return float(self.task.loss(self.model(X), y))

    @property
    def rectified(self) -> bool:
        """Whether units at 0 are cut off."""
        return any(isinstance(module, nn.ReLU) for module in self.model.modules())

    def clear(self, name: str) -> None:
        """Norms of new units give what they take."""
        for key, view in self.lines(name, "between", "shifts", "statistics"):
            value = 0.0 if "mean" in key or "bias" in key else 1.0
            view(self.tensors[key].data)[self.old(name) :] = value

    def settle(self) -> None:
        """What batch norms keep of new units is set to what it is on what is searched."""
        for name in self.added:
            for key, _ in self.lines(name, "statistics"):
                module = self.model.get_submodule(key.rpartition(".")[0])
                seen: list[Tensor] = []
                hook = module.register_forward_pre_hook(lambda _, given, s=seen: s.append(given[0]))
                with torch.no_grad():
                    self.model(self.start.X)
                hook.remove()
                axes = [axis for axis in range(seen[0].ndim) if axis != 1]
                value = seen[0].mean(axes) if "mean" in key else seen[0].var(axes)
                self.tensors[key][self.old(name) :] = value[self.old(name) :]

    def searched(self, move: Callable[[float], None], sizes: Sequence[float]) -> float:
        """The size of a move with the lowest loss on what is searched; the model is left there."""
        found = []
        for size in sizes:
            move(size)
            found.append((self.loss(), size))
        best = min(found)[1]
        move(best)
        return best

    # -- what methods look at ---------------------------------------------------------------------

    def seen(self, name: str) -> Seen:
        """What new units of a group are read off from, on what is searched."""
        first, second = (self.model.get_submodule(each) for each in self.task.groups[name])
        held: dict[str, Tensor] = {}
        hooks = [
            first.register_forward_hook(lambda _, x, out: held.update(x=x[0].detach())),
            second.register_forward_hook(lambda _, x, out: held.update(h=x[0].detach(), z=out)),
        ]
        value = self.task.loss(self.model(self.start.X), self.start.y)
        (slope,) = torch.autograd.grad(value, held["z"])
        for hook in hooks:
            hook.remove()
        x, h = patches(first, held["x"]), patches(second, held["h"])
        assert isinstance(second, nn.Linear | nn.Conv1d | nn.Conv2d)
        if isinstance(second, nn.Linear):
            return Seen(x, h, slope.flatten(0, -2), x[:, :, None])
        image = held["h"][:, :1].expand(-1, x.shape[1], *held["h"].shape[2:])
        image = x.view(len(image), -1, x.shape[1]).transpose(1, 2).reshape(image.shape)
        far = patches(second, image)[:, : x.shape[1] * second.weight[0, 0].numel()]
        return Seen(x, h, slope.movedim(1, -1).flatten(0, -2), far.unflatten(1, (x.shape[1], -1)))


@dataclass
class Seen:
    """A group, seen from what makes its units and from what reads them.

    Attributes:
        x: what the maker takes, (places, entries that make a unit).
        h: what the reader takes, (places, its entries).
        slope: of the loss in what the reader gives, (places, outputs).
        far: what the maker takes, wherever the reader looks: (places, entries that make a unit, taps).
    """

    x: Tensor
    h: Tensor
    slope: Tensor
    far: Tensor

    def mixed(self, slope: Tensor) -> Tensor:
        """How the incoming slope of a unit at 0 depends on what reads it, but for the activation's slope there.

        Args:
            slope: of the loss in what the reader gives, or what stands for it.

        Returns:
            (entries that make a unit, entries that read it).
        """
        return torch.einsum("po,pit->iot", slope, self.far).flatten(1)


def patches(module: nn.Module, x: Tensor) -> Tensor:
    """What a linear layer or a convolution takes, (all places, entries); last a 1 for its bias."""
    if isinstance(module, nn.Linear):
        rows = x.flatten(0, -2)
    else:
        assert isinstance(module, nn.Conv1d | nn.Conv2d)
        size, pad = module.kernel_size, module.padding
        assert not isinstance(pad, str)
        if x.ndim == 3:  # one dimension is two of which one is 1
            x, size, pad = x[:, :, None], (1, *size), (0, *pad)
        rows = nn.functional.unfold(x, size, padding=pad).transpose(1, 2).flatten(0, 1)
    if module.bias is None:
        return rows
    return torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
