"""What the readers of a group get from each unit on batches of data: the unit's output, wherever it is made.

The captured operations are run in float64. At each operation that reads a group with a weight, the elements of
what enters are put in order by the labels of the units that own them. What is kept of all batches is small: the
mean of each element, and the triangular factor R of all the rest, so that ``‖X c‖ = ‖R c‖`` for any combination
c of the units, to rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from semiflat.errors import InputError
from semiflat.modules.batches import Batches, moved
from semiflat.modules.capture import called_with, same_random_state, second_derivatives
from semiflat.modules.flow import Flow, name_of
from semiflat.modules.groups import Slot, UnitGroup, Units, units
from semiflat.modules.ranges import Range, ranges
from semiflat.modules.ties import slim

NOT_APART = "what its units hand on cannot be told apart where they are read"


@dataclass
class Reader:
    """An operation that reads the units of a group with a weight.

    Attributes:
        slot: of that weight.
        node: the operation.
        source: what enters it.
        axes: of what enters, along which the units lie.
        columns: of each unit among the places along these axes, (units, k).
        bias: the placeholder of the operation's own bias, and its name; None if a constant has nowhere to go.
    """

    slot: Slot
    node: fx.Node
    source: fx.Node
    axes: tuple[int, ...]
    columns: Tensor
    bias: tuple[fx.Node, str] | None = None
    _call: Callable[[Tensor, Tensor], Tensor] | None = None
    _shape: torch.Size = field(default_factory=torch.Size)
    _length: int = 0

    def outputs(self, entering: Tensor) -> Tensor:
        """The units' outputs in a tensor that enters, (rows, units, k)."""
        rest = [axis for axis in range(entering.ndim) if axis not in self.axes]
        sizes = [entering.shape[axis] for axis in self.axes]
        places = torch.Size(sizes).numel()
        flat = entering.permute([*rest, *self.axes]).reshape(-1, places)
        return flat[:, self.columns]

    def watch(
        self, call: Callable[[Tensor, Tensor], Tensor], shape: torch.Size, length: int
    ) -> None:
        """Keep the operation as a function of what enters and the bias; see whether that takes up constants.

        It does where a constant makes the same difference wherever the bias is added: not at the border of a
        convolution that pads with zeros.
        """
        one = (self.slot.conv or name_of(self.node) == "linear") and 0 not in self.axes
        self._call, self._length = call, length
        self._shape = torch.Size([1, *shape[1:]]) if one else shape  # one sample says it
        drawn = torch.randn(self.columns.shape, generator=torch.Generator().manual_seed(0)).double()
        if self.of_constants(drawn) is None:
            self.bias = self._call = None

    def of_constants(self, constants: Tensor) -> Tensor | None:
        """What constants that units hand on, (units, k), add to the bias; None if it cannot take them up."""
        assert self._call is not None
        sizes = [self._shape[axis] if axis in self.axes else 1 for axis in range(len(self._shape))]
        flat = torch.zeros(torch.Size(sizes).numel(), dtype=torch.float64)
        flat[self.columns] = constants
        entering = flat.view(sizes).expand(self._shape)
        which = torch.arange(self._length, dtype=torch.float64)
        place = self._call(torch.zeros(self._shape, dtype=torch.float64), which)
        made = self._call(entering, torch.zeros(self._length, dtype=torch.float64))
        if place.shape != made.shape or not bool(torch.isin(place, which).all()):
            return None
        where, values = place.reshape(-1).long(), made.reshape(-1)
        low, high = (
            torch.zeros(self._length, dtype=torch.float64).scatter_reduce(
                0, where, values, way, include_self=False
            )
            for way in ("amin", "amax")
        )
        if bool((high - low > 1e-9 * values.abs().max()).any()):
            return None
        return (high + low) / 2


@dataclass
class Outputs:
    """What is kept of a group's outputs on all batches.

    Attributes:
        readers: of the first batch.
        rows: how many rows the factor is of.
        means: for each reader, (units, k); zeros where a constant has nowhere to go.
        factor: R, (≤ units, units): of the outputs less these means, all readers and batches below one another.
        squares: of all outputs of each unit, means and all, (units,).
    """

    readers: list[Reader]
    rows: int
    means: list[Tensor]
    factor: Tensor
    squares: Tensor
    _counts: list[int]

    @classmethod
    def none(cls, readers: list[Reader]) -> Outputs:
        """Of no batch yet."""
        size = len(readers[0].columns)
        means = [torch.zeros(each.columns.shape, dtype=torch.float64) for each in readers]
        empty = torch.zeros(0, size, dtype=torch.float64)
        return cls(readers, 0, means, empty, torch.zeros(size).double(), [0] * len(readers))

    @property
    def sizes(self) -> Tensor:
        """The norm of each unit's outputs, (units,)."""
        return self.squares.sqrt()

    def add(self, number: int, outputs: Tensor) -> None:
        """Take in what a reader gets from one batch, (rows, units, k)."""
        self.squares += outputs.square().sum((0, 2))
        parts = [self.factor]
        count, before = len(outputs), self._counts[number]
        if self.readers[number].bias is not None:
            mean = outputs.mean(0)
            outputs = outputs - mean
            apart = mean - self.means[number]
            if before:
                parts.append(apart.mT * (before * count / (before + count)) ** 0.5)
            self.means[number] = self.means[number] + apart * (count / (before + count))
        self._counts[number] = before + count
        rows = outputs.transpose(1, 2).reshape(-1, outputs.shape[1])
        self.rows += len(rows)
        self.factor = torch.linalg.qr(torch.cat([*parts, rows]), mode="r").R


@dataclass
class Look:
    """The groups of a model, and what their units hand on.

    Attributes:
        groups: of the model.
        outputs: by name of the group; of groups that can be changed alone.
        unread: groups whose outputs cannot be told apart, and why.
    """

    groups: Units
    outputs: dict[str, Outputs]
    unread: dict[str, str]

    @functools.cached_property
    def ranges(self) -> dict[fx.Node, Range]:
        """Between which numbers lies what any reader gets, whatever the inputs are."""
        readers = [reader for each in self.outputs.values() for reader in each.readers]
        return ranges(self.groups._flow, [reader.source for reader in readers])


def look(model: nn.Module, batches: Batches, first: Units | None = None) -> Look:
    """Run a float64 model on all batches and keep what the readers of each group get; the model stays as it is.

    The outputs are those of the mode that the model is in.

    Args:
        first: its groups on the first batch, where they are known.
    """
    found: Look | None = None
    known: dict[Any, tuple[Units, dict[str, list[Reader]]]] = {}
    for batch in batches:
        inputs = moved(batch.inputs, torch.float64, "cpu")
        leaves = torch.utils._pytree.tree_leaves(called_with(inputs))
        shapes = tuple(getattr(leaf, "shape", leaf) for leaf in leaves)
        if shapes not in known:
            groups = units(model, inputs) if first is None or known else first
            known[shapes] = (
                groups,
                {
                    name: readers
                    for name, group in groups.items()
                    if not group.refuses and (readers := readers_of(groups, group))
                },
            )
        groups, reading = known[shapes]
        if found is not None and _kinds(groups) != _kinds(found.groups):
            raise InputError(
                f"on batch {batch.number}, of other sizes than the first, the model takes another way, where "
                "its units are others; give batches of one kind"
            )
        if found is None:
            unread = {
                name: NOT_APART
                for name, group in groups.items()
                if not group.refuses and name not in reading
            }
            found = Look(groups, {n: Outputs.none(each) for n, each in reading.items()}, unread)
        _Run(groups, reading, found.outputs, leaves).go()
    assert found is not None
    return found


def places(group: UnitGroup) -> tuple[Any, ...]:
    """Where the units of a group lie, however many there are."""
    return tuple((slot.name, slot.role, slot.axis) for slot in group.slots)


def _kinds(groups: Units) -> list[Any]:
    return [(group.size, group.refuses, places(group)) for group in groups.values()]


def readers_of(groups: Units, group: UnitGroup) -> list[Reader]:
    """All operations that read a group; none if what the units hand on cannot be told apart at one of them."""
    flow = groups._flow
    nodes = {node.name: node for node in flow.captured.graph.nodes}
    found = []
    for slot in group.of("reads"):
        use = flow.uses[slot.use]
        lines = slim(flow.ties.roots(use.labels)).movedim(slot.axis, 0)
        owners = lines.reshape(len(lines), -1).amax(1).expand(use.labels.shape[slot.axis])
        roots = owners[slot.positions[:, 0]]
        for name, labels in flow.read[use.node].items():
            thin = _cut(flow.ties.roots(labels))
            columns = _columns(thin.reshape(-1), roots)
            if columns is not None:
                axes = tuple(axis for axis, size in enumerate(thin.shape) if size > 1)
                node = nodes[use.node]
                bias = _bias(flow, node)
                found.append(Reader(slot, node, nodes[name], axes, columns, bias))
                break
        else:
            return []
    return found


def _cut(roots: Tensor) -> Tensor:
    """Roots with every axis cut to one place along which the unit is the same, but for what no unit owns."""
    thin = slim(roots)
    for axis in range(thin.ndim):
        highest = thin.amax(axis, keepdim=True)
        if not bool(((thin != highest) & (thin >= 0)).any()):
            thin = highest
    return thin


def _columns(owners: Tensor, roots: Tensor) -> Tensor | None:
    """Where each unit lies among places with these owners, (units, k); None if not all as often."""
    order, numbers = roots.sort()
    at = torch.searchsorted(order, owners).clamp(max=len(order) - 1)
    mine = (order[at] == owners).nonzero().flatten()
    unit = numbers[at[mine]]
    counts = torch.bincount(unit, minlength=len(roots))
    if not len(mine) or not bool((counts == counts[0]).all()):
        return None
    return mine[unit.argsort(stable=True)].view(len(roots), -1)


def _bias(flow: Flow, node: fx.Node) -> tuple[fx.Node, str] | None:
    """The parameter that an operation adds by itself and that is used nowhere else."""
    for each in node.all_input_nodes:
        names = flow.captured.owners.get(each.name) if each.op == "placeholder" else None
        if names and flow.captured.tensors[names[0]].ndim == 1 and list(each.users) == [node]:
            return each, names[0]
    return None


class _Run(fx.Interpreter):
    """The captured operations on the inputs of one batch."""

    def __init__(
        self,
        groups: Units,
        readers: dict[str, list[Reader]],
        outputs: dict[str, Outputs],
        leaves: list[Any],
    ) -> None:
        captured = groups._flow.captured
        module = captured.graph.owning_module
        assert module is not None
        super().__init__(module)
        self.captured, self.leaves, self.outputs = captured, iter(leaves), outputs
        self.at: dict[fx.Node, list[tuple[str, int, Reader]]] = {}
        for name, each in readers.items():
            for number, reader in enumerate(each):
                self.at.setdefault(reader.node, []).append((name, number, reader))

    def go(self) -> None:
        """Run, and hand on what is read."""
        with torch.no_grad(), same_random_state(), second_derivatives():
            self.run(*self._values())

    def _values(self) -> Iterator[Any]:
        captured = self.captured
        for node in captured.graph.nodes:
            if node.op != "placeholder":
                continue
            if node.name in captured.owners:
                # Norms in training mode change their statistics in place.
                yield captured.tensors[captured.owners[node.name][0]].detach().clone()
            elif node.name in captured.constants:
                yield captured.constants[node.name].clone()
            else:
                yield next(self.leaves)

    def run_node(self, n: fx.Node) -> Any:
        """One operation; where it reads a group, what enters is kept."""
        for name, number, reader in self.at.get(n, []):
            entering = self.env[reader.source]
            if reader.bias is not None and reader._call is None:
                length = len(self.env[reader.bias[0]])
                reader.watch(self._as_function(n, reader), entering.shape, length)
            self.outputs[name].add(number, reader.outputs(entering))
        return super().run_node(n)

    def _as_function(self, node: fx.Node, reader: Reader) -> Callable[[Tensor, Tensor], Tensor]:
        assert reader.bias is not None
        held = {each: self.env[each] for each in node.all_input_nodes if each is not reader.source}

        def call(entering: Tensor, bias: Tensor) -> Tensor:
            values = {**held, reader.source: entering, reader.bias[0]: bias}  # type: ignore[index]
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                made: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
            return made

        return call
