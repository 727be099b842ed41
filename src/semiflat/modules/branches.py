"""Units as parallel branches: the operations between what makes the units of a group and what reads them.

Of a group the *surrogate* ``s(u, v) = Σ ⟨δ, reader⟩`` is run again and again, by the recorded operations alone:
δ is what the loss changes by with what each reader gives, and whatever enters from elsewhere is held fixed
(theory §9). That a group is such a branch is read off the labels, and tried on numbers: the surrogate has the
derivatives of the model itself, and the units do not couple in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from semiflat.errors import InputError
from semiflat.modules.batches import moved
from semiflat.modules.capture import (
    Captured,
    Example,
    called_with,
    capture,
    copied,
    same_random_state,
    second_derivatives,
)
from semiflat.modules.flow import Flow, name_of
from semiflat.modules.groups import Grouping, Slot, UnitGroup, Units
from semiflat.modules.kinks import distances
from semiflat.modules.ties import FIXED, UNIFORM

Point = Mapping[str, Tensor]
"""Values of parameters and buffers by name."""
FEW = 16
"""Samples on which what is said of a program is tried."""
LIKE = 1e-6
"""Relative difference up to which two ways of computing a derivative agree; what couples differs by more."""


@dataclass(frozen=True)
class Part:
    """Where the entries of each unit lie in one parameter.

    Attributes:
        name: of the parameter.
        axis: along which the units lie.
        positions: of each unit along it, (units, k).
        reads: whether it takes the units linearly.
    """

    name: str
    axis: int
    positions: Tensor
    reads: bool

    @property
    def slot(self) -> Slot:
        """The same as a slot."""
        return Slot(self.name, "reads" if self.reads else "writes", self.axis, self.positions)

    def count(self, like: Tensor) -> int:
        """How many entries of a unit there are."""
        return self.positions.shape[1] * like.numel() // max(like.shape[self.axis], 1)

    def take(self, tensor: Tensor) -> Tensor:
        """The entries of each unit, (units, n)."""
        return tensor.movedim(self.axis, 0)[self.positions.to(tensor.device)].flatten(1)

    def put(self, entries: Tensor, like: Tensor) -> Tensor:
        """A tensor that is zero but for these entries of the units."""
        out = torch.zeros_like(like)
        lines = out.movedim(self.axis, 0)
        shape = (*self.positions.shape, *lines.shape[1:])
        lines[self.positions.to(like.device)] = entries.reshape(shape)
        return out


@dataclass(frozen=True)
class Line:
    """An operation that takes what the units share times the entries of a part, each unit's its own.

    Attributes:
        node: the operation.
        weight: what the part enters it by.
        other: what it multiplies: for what reads, what the units give; else what enters from elsewhere.
        axis: along which the units lie: in ``other`` for what reads them, else in what the operation gives.
    """

    node: fx.Node
    weight: fx.Node
    other: fx.Node
    axis: int


@dataclass(frozen=True)
class Branch:
    """The operations of one group of units.

    Attributes:
        group: the units.
        parts: the trained entries of each unit: what reads it first, then what makes it and acts on it.
        nodes: operations to run again, in order.
        readers: those of them that read the units.
        lines: for each part the operation that alone takes it, which is replaced by a cheaper one where not all
            directions are looked at; None if there is none.
        bases: where not all directions are looked at, for each part orthonormal columns, (n, m): the same for
            all units, whose entries are then coordinates in them.
    """

    group: UnitGroup
    parts: tuple[Part, ...]
    nodes: tuple[fx.Node, ...]
    readers: tuple[fx.Node, ...]
    lines: tuple[Line | None, ...] = ()
    bases: tuple[Tensor, ...] = ()

    @property
    def outside(self) -> set[fx.Node]:
        """What enters from elsewhere."""
        own = set(self.nodes)
        return {each for node in self.nodes for each in node.all_input_nodes if each not in own}

    def sizes(self, like: Point) -> list[int]:
        """Entries, or coordinates, of a unit in each part."""
        if self.bases:
            return [basis.shape[1] for basis in self.bases]
        return [part.count(like[part.name]) for part in self.parts]

    def counts(self, like: Point) -> tuple[int, int]:
        """How many entries, or coordinates, read a unit, and how many make it."""
        counts = [0, 0]
        for part, size in zip(self.parts, self.sizes(like), strict=True):
            counts[not part.reads] += size
        return counts[0], counts[1]

    def take(self, tensors: Point) -> Tensor:
        """The entries, or coordinates, of each unit in all parts, (units, n)."""
        taken = [part.take(tensors[part.name]) for part in self.parts]
        return self.coordinates(torch.cat(taken, 1))

    def coordinates(self, entries: Tensor) -> Tensor:
        """The coordinates (…, m) that entries (…, n) have; the entries where all are looked at."""
        if not self.bases:
            return entries
        split = zip(
            entries.split([len(basis) for basis in self.bases], -1), self.bases, strict=True
        )
        return torch.cat([mine @ basis.to(mine) for mine, basis in split], -1)

    def entries(self, vectors: Tensor) -> Tensor:
        """The entries that coordinates (…, m) stand for, (…, n)."""
        if not self.bases:
            return vectors
        sizes = [basis.shape[1] for basis in self.bases]
        split = zip(vectors.split(sizes, -1), self.bases, strict=True)
        return torch.cat([mine @ basis.to(mine).mT for mine, basis in split], -1)

    def moved(self, vectors: Sequence[Tensor], point: Point) -> dict[str, Tensor]:
        """The parameters of a point, moved by these entries or coordinates, but for parts that are hoisted."""
        out = {part.name: point[part.name] for part in self.parts}
        for number, (part, mine) in enumerate(zip(self.parts, vectors, strict=True)):
            if not self._line(number):
                if self.bases:
                    mine = mine @ self.bases[number].to(mine).mT
                out[part.name] = out[part.name] + part.put(mine, point[part.name])
        return out

    def _line(self, number: int) -> Line | None:
        return self.lines[number] if self.bases else None

    def replaced(self, vectors: Sequence[Tensor]) -> dict[fx.Node, Hoisted]:
        """For each operation that is replaced, by what."""
        numbers: dict[fx.Node, list[int]] = {}
        for number in range(len(self.parts)):
            line = self._line(number)
            if line is not None:
                numbers.setdefault(line.node, []).append(number)
        return {node: Hoisted(self, tuple(mine), vectors) for node, mine in numbers.items()}


class Hoisted:
    """An operation on what the units share, run once for each direction and not for each unit.

    Args:
        branch: that it is an operation of.
        numbers: of the parts that enter it.
        vectors: coordinates of each unit in the directions of each part, (units, m).
    """

    def __init__(self, branch: Branch, numbers: tuple[int, ...], vectors: Sequence[Tensor]) -> None:
        self.numbers = numbers
        lines = [line for number in numbers if (line := branch.lines[number]) is not None]
        self._lines = lines
        self._parts = [branch.parts[number] for number in numbers]
        self._bases = [branch.bases[number].to(vectors[number]) for number in numbers]
        self._vectors = torch.cat([vectors[number] for number in numbers], 1)
        self.node, self.other, self.axis = lines[0].node, lines[0].other, lines[0].axis
        self.reads, self._positions = self._parts[0].reads, self._parts[0].positions
        self.size = self._vectors.shape[1]

    def given(self, values: Mapping[fx.Node, Any]) -> Tensor:
        """What the operation gives, which is made of units."""
        still = called(self.node, values)
        few = called(self.node, {**values, **self._few(values)})
        self.directions = _folded(few.detach(), self.axis)
        lines = _folded(still, self.axis)
        along = self._combined(self.directions)
        self.made: Tensor = lines.index_add(1, self._places(still), along)
        return self.made.view(still.shape)

    def heard(self, values: Mapping[fx.Node, Any], delta: Tensor) -> Tensor:
        """``⟨δ, reader⟩``, but for what does not depend on the units."""
        units: Tensor = values[self.other]
        still = self._by_units(values, delta, units.detach())
        shape = list(units.shape)
        shape[self.axis] = self.size * self._positions.shape[1]
        few = self._by_units({**values, **self._few(values)}, delta, units.new_zeros(shape))
        along = self._combined(_folded(few, self.axis))
        lines = _folded(units, self.axis).index_select(1, self._places(units))
        return (still * units).sum() + (along * lines).sum()

    def gram(self, weights: Tensor) -> Tensor:
        """``Σ w x xᵀ`` of each unit over all places, for weights in the shape of what is made."""
        units = len(self._vectors)
        weights = weights.index_select(1, self._places(weights))
        weights = weights.view(len(weights), units, -1).transpose(0, 1).reshape(units, -1)
        lines = self.directions.reshape(len(self.directions), self.size, -1)
        lines = lines.transpose(0, 1).reshape(self.size, -1)
        return torch.stack([(weights * line) @ lines.mT for line in lines], 1)

    def _by_units(self, values: Mapping[fx.Node, Any], delta: Tensor, units: Tensor) -> Tensor:
        units = units.requires_grad_()
        with torch.enable_grad():
            out = called(self.node, {**values, self.other: units})
        return torch.autograd.grad(out, units, delta)[0]

    def _few(self, values: Mapping[fx.Node, Any]) -> dict[fx.Node, Tensor]:
        """The weights with a unit for each direction; a bias that is not among the parts is 0."""
        found: dict[fx.Node, Tensor] = {}
        start, places = 0, self.size * self._positions.shape[1]
        for line, part, basis in zip(self._lines, self._parts, self._bases, strict=True):
            lines = values[line.weight].movedim(part.axis, 0)
            few = basis.new_zeros((self.size, len(basis)))
            few[start : start + basis.shape[1]] = basis.mT
            few = few.reshape(places, *lines.shape[1:]).movedim(0, part.axis)
            found[line.weight] = few.contiguous()
            start += basis.shape[1]
        for node in self.node.all_input_nodes:
            if node not in found and node is not self.other and not self.reads:
                found[node] = self._vectors.new_zeros(places)
        return found

    def _combined(self, few: Tensor) -> Tensor:
        """Of lines (b, m · k, a), one for each direction, those of the units, (b, units · k, a)."""
        before, _, after = few.shape
        directions = few.reshape(before, self.size, -1)
        if directions.shape[2] == 1:
            return (directions[:, :, 0] @ self._vectors.mT)[:, :, None]
        return (self._vectors @ directions).reshape(before, -1, after)

    def _places(self, like: Tensor) -> Tensor:
        return self._positions.reshape(-1).to(like.device)


def _folded(tensor: Tensor, axis: int) -> Tensor:
    """A tensor as (what lies before an axis, the axis, what lies behind)."""
    before = torch.Size(tensor.shape[:axis]).numel()
    return tensor.reshape(before, tensor.shape[axis], -1)


class Program:
    """A model in one dtype on inputs of given shapes, run operation by operation.

    Attributes:
        model: a copy of the model.
        captured: its operations.
        units: its groups.
        branches: for each group its branch, or why its units are none.
        samples: number of them in the inputs that it was made for.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self.model = model
        self.captured: Captured = capture(model, example)
        flow = Flow(self.captured).run()
        self.units = Units._of(self.captured, flow, Grouping(flow).groups())
        self._flow = flow
        self._trainable = dict(model.named_parameters()).keys()
        self._order = {node: place for place, node in enumerate(self.captured.graph.nodes)}
        self.samples = next(len(x) for x in pytree.tree_leaves(example) if isinstance(x, Tensor))
        self.branches = {name: self._branch(group) for name, group in self.units.items()}

    @cached_property
    def _named(self) -> dict[str, str]:
        """For each placeholder of a parameter or buffer the name that the tensor is called by."""
        return {node: names[0] for node, names in self.captured.owners.items()}

    @cached_property
    def _weights(self) -> set[fx.Node]:
        """Nodes that parameters and constants alone enter."""
        found: set[fx.Node] = set()
        for node in self.captured.graph.nodes:
            held = node.op == "placeholder" and node.name in self.captured.constants
            inputs = node.all_input_nodes
            if held or (node.op == "call_function" and inputs and found.issuperset(inputs)):
                found.add(node)
        return found

    # -- what the graph says ----------------------------------------------------------------------

    def _branch(self, group: UnitGroup) -> Branch | str:
        if group.refuses and not group.held:
            return group.refuses
        if group.norms:
            what, where = group.norms[0]
            return f"a {what} takes the units together ({where}), so they are no parallel branches"
        made = {slot.name for slot in group.slots if slot.role != "reads"}
        both = sorted(made & set(group.readers))
        if both:
            return f"{both[0]!r} both makes the units and reads them, so they are not read linearly"
        own = {
            node for node in self._order if self._named.get(node.name) in made | set(group.readers)
        }
        nodes, readers = self._region(group, own)
        parts = self._parts(group)
        if not parts:
            return "none of its parameters is trained"
        lines = [self._line(part, nodes, readers) for part in parts]
        wide = {line.node for line in lines if line and line.weight.meta["val"].ndim > 1}
        kept = tuple(line if line and line.node in wide else None for line in lines)
        return Branch(group, parts, tuple(nodes), tuple(readers), kept)

    def _line(self, part: Part, nodes: list[fx.Node], readers: list[fx.Node]) -> Line | None:
        """The operation that alone takes a part, times what all units share; whether it does is tried later."""
        leaves = {node for node in self._order if self._named.get(node.name) == part.name}
        users = [node for node in nodes if not leaves.isdisjoint(node.all_input_nodes)]
        if len(leaves) != 1 or len(users) != 1:
            return None
        (node,), (weight,) = users, leaves
        others = [x for x in node.all_input_nodes if x is not weight and x not in self._weights]
        if len(others) != 1 or (node in readers, others[0] in nodes) != (part.reads, part.reads):
            return None
        signal = others[0] if part.reads else node
        axes = self._flow.axes.get(signal.name, [])
        like = weight.meta["val"]
        if len(axes) != 1 or signal.meta["val"].shape[axes[0]] != like.shape[part.axis]:
            return None
        return Line(node, weight, others[0], axes[0])

    @cached_property
    def _roots(self) -> dict[fx.Node, set[int]]:
        """What stands for the atoms in what each operation gives."""
        ties, carried = self._flow.ties, self._flow.carried
        return {
            node: set(ties.roots(carried[node.name]).tolist())
            for node in self._order
            if node.name in carried
        }

    def _carriers(self, group: UnitGroup) -> set[fx.Node]:
        """The operations in whose results units of a group are."""
        slot = group.slots[0]
        wanted: set[int] = set()
        for use in self._flow.uses:
            if (use.name, use.role) == (slot.name, slot.role):
                places = use.labels.movedim(slot.axis, 0)[slot.positions.reshape(-1)]
                wanted |= set(self._flow.ties.roots(places).unique().tolist())
        wanted -= {FIXED, UNIFORM}
        return {node for node, roots in self._roots.items() if not roots.isdisjoint(wanted)}

    def _region(self, group: UnitGroup, own: set[fx.Node]) -> tuple[list[fx.Node], list[fx.Node]]:
        """The operations from the group's own weights to its readers, and the readers among them."""
        carriers = self._carriers(group)
        reading = {
            use.node for use in self._flow.uses if use.role == "reads" and use.name in group.readers
        }
        moved_nodes, nodes, readers = set(own), list[fx.Node](), list[fx.Node]()
        for node in self._order:
            inputs = node.all_input_nodes
            if node.op != "call_function" or moved_nodes.isdisjoint(inputs):
                continue
            if node.name in reading and not carriers.isdisjoint(inputs):
                nodes.append(node)
                readers.append(node)
            elif node in self._weights or node in carriers:
                nodes.append(node)
                moved_nodes.add(node)
        return nodes, readers

    def _parts(self, group: UnitGroup) -> tuple[Part, ...]:
        trained = {name for name, tensor in self.model.named_parameters() if tensor.requires_grad}
        found: dict[tuple[str, int], Part] = {}
        for slot in sorted(group.slots, key=lambda slot: slot.role != "reads"):
            if slot.name not in trained:
                continue
            key = slot.name, slot.axis
            places = slot.positions
            if key in found:
                both = torch.cat([found[key].positions, places], 1)
                places = torch.stack([row.unique() for row in both])
            found[key] = Part(*key, places, slot.role == "reads")
        return tuple(found.values())

    # -- running ----------------------------------------------------------------------------------

    @cached_property
    def eps(self) -> float:
        """Of the coarsest type that what is computed is rounded to on its way."""
        found = 0.0
        for node in self._order:
            value = node.meta.get("val")
            if isinstance(value, Tensor) and value.is_floating_point():
                inputs = [each.meta.get("val") for each in node.all_input_nodes]
                given = node.op == "placeholder" and node.name in self._named
                cast = any(isinstance(x, Tensor) and x.is_floating_point() for x in inputs)
                if given or cast:
                    found = max(found, torch.finfo(value.dtype).eps)
        return found

    @property
    def like(self) -> float:
        """Relative difference up to which two ways of computing a derivative agree."""
        return max(LIKE, 1e4 * self.eps)

    @property
    def point(self) -> dict[str, Tensor]:
        """Parameters and buffers as they are."""
        named = (*self.model.named_parameters(), *self.model.named_buffers())
        return {name: tensor.detach() for name, tensor in named}

    def start(self, point: Point, inputs: Example | None = None) -> dict[fx.Node, Any]:
        """Values of the placeholders; buffers are copies, since batch normalisation changes its own."""
        leaves = [] if inputs is None else pytree.tree_leaves(called_with(inputs))
        given = dict(zip(self.captured.inputs, leaves, strict=False))
        values: dict[fx.Node, Any] = {}
        for node in self._order:
            if node.op != "placeholder":
                continue
            name = self._named.get(node.name)
            if name is not None:
                values[node] = point[name] if name in self._trainable else point[name].clone()
            elif node.name in self.captured.constants:
                values[node] = self.captured.constants[node.name].clone()
            elif inputs is not None:
                values[node] = given.get(node.name)
        return values

    def forward(
        self,
        point: Point,
        inputs: Example,
        branches: Iterable[Branch],
        added: Mapping[fx.Node, Tensor] = MappingProxyType({}),
    ) -> tuple[list[Any], dict[fx.Node, Any], dict[fx.Node, Tensor], Tensor]:
        """Run everything.

        Args:
            added: to what readers give.

        Returns:
            What the model gives, in a list; what enters the branches; for each reader the tensor that is
            added to what it gives, zeros if none is given; and a sum that changes with whatever is at a kink.
        """
        keep = {node for branch in branches for node in branch.outside}
        readers = {node for branch in branches for node in branch.readers}
        last = {each: node for node in self._order for each in node.all_input_nodes}
        values, probes = self.start(point, inputs), dict[fx.Node, Tensor]()
        kinks = torch.zeros((), dtype=torch.float64)
        held: dict[fx.Node, Any] = {node: values[node] for node in keep if node in values}
        outputs: list[Any] = []
        for node in self._order:
            if node.op == "output":
                outputs = list(fx.node.map_arg(node.args[0], values.__getitem__))
            elif node.op == "call_function":
                kinks = kinks + at_kinks(node, values)
                values[node] = called(node, values)
                if node in readers:
                    start = added.get(node)
                    start = torch.zeros_like(values[node]) if start is None else start.clone()
                    probes[node] = start.requires_grad_()
                    values[node] = values[node] + probes[node]
                if node in keep:
                    held[node] = detached(values[node])
            elif node.op == "get_attr":
                raise InputError(
                    f"the model runs {node.target!r}, a graph of its own, which cannot be run again here"
                )
            for each in {each for each in node.all_input_nodes if last[each] is node}:
                values.pop(each, None)
        return outputs, held, probes, kinks

    def fewer(self, inputs: Example, most: int) -> Example:
        """The first samples, at most so many, where the operations do with them what the model does; else all.

        Operations in which the number of samples is written down do not.
        """
        leaves, spec = pytree.tree_flatten(inputs)
        sizes = {len(x) if x.ndim else 0 for x in leaves if isinstance(x, Tensor)}
        if len(sizes) != 1 or max(sizes) <= most:
            return inputs
        cut = [leaf[:most] if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        few: Example = pytree.tree_unflatten(cut, spec)
        return few if self.does(few) else inputs

    def does(self, inputs: Example) -> bool:
        """Whether the operations do with inputs of another number of samples what the model does."""
        try:
            with torch.no_grad():
                outputs, *_ = self.forward(self.point, inputs, ())
                self.packed(outputs, outputs_like(self.model, inputs))
        except (InputError, RuntimeError, IndexError, KeyError):
            return False
        return True

    def packed(self, outputs: list[Any], like: Any, moved: bool = False) -> Any:
        """What the operations give, packed as the model packs it.

        Args:
            like: what the model itself gives for the same inputs.
            moved: whether it was run at another point, so that values differ.

        Raises:
            InputError: if it is not the same.
        """
        leaves, spec = pytree.tree_flatten(like)
        found = outputs[len(outputs) - len(leaves) :]
        same = len(found) == len(leaves)
        for one, other in zip(found, leaves, strict=False):
            if isinstance(other, Tensor):
                same = same and isinstance(one, Tensor) and one.shape == other.shape
                if same and not moved and other.is_floating_point() and other.numel():
                    if not bool(torch.isfinite(other).all()):
                        raise InputError(
                            "the model gives numbers that are not finite; look at the batches, and at its "
                            "parameters and buffers"
                        )
                    gap = float((one - other).detach().abs().max())
                    eps = torch.finfo(other.dtype).eps
                    same = gap <= 1e5 * eps * float(other.detach().abs().max()) or gap == 0
        if not same:
            raise InputError(
                "the operations that torch.export recorded give other outputs than the model; what it does "
                "depends on more than the shapes of its inputs"
            )
        return pytree.tree_unflatten(found, spec)


def called(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    """What an operation gives; one that works in place is given a copy."""
    args = list(fx.node.map_arg(node.args, values.__getitem__))
    kwargs = dict(fx.node.map_arg(node.kwargs, values.__getitem__))
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable and args and isinstance(args[0], Tensor):
        args[0] = args[0].clone()
    # Only attention has kernels to choose from; the choice takes longer than most operations do.
    chosen = second_derivatives() if "attention" in name_of(node) else nullcontext()
    with chosen:
        return node.target(*args, **kwargs)  # type: ignore[operator]


def detached(value: Any) -> Any:
    """A value without its history."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, value)


# -- kinks -----------------------------------------------------------------------------------------


def at_kinks(node: fx.Node, values: Mapping[fx.Node, Any]) -> Tensor:
    """A sum, with weights drawn at random, over what enters an operation where it has no second derivative.

    Its derivative says what moves such places; they do not matter where nothing does.
    """
    entering = fx.node.map_arg((list(node.args), node.kwargs), values.__getitem__)
    far = [
        each for each in distances(node.target, *entering) if each.requires_grad and each.numel()
    ]
    if not far:
        return torch.zeros((), dtype=torch.float64)
    largest = max(
        float(leaf.detach().abs().max())
        for leaf in pytree.tree_leaves(entering)
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and leaf.numel()
    )
    every = torch.cat([each.reshape(-1) for each in far])
    chosen = every[every.detach().abs() <= 8 * torch.finfo(every.dtype).eps * largest]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(len(chosen), generator=generator, dtype=torch.float64) + 2
    return (chosen.cpu().double() * weights).sum()


# -- the surrogate ---------------------------------------------------------------------------------


class Local:
    """The surrogate of a branch on one batch, at one point, with its derivatives.

    Args:
        point: values of parameters and buffers.
        held: what enters the branch.
        deltas: for each reader what the loss changes by with what it gives.

    Attributes:
        gradient: of the surrogate, (units, n): by entries, or by coordinates in the branch's directions.
        kinks: which units move something that is at a kink, (units,).
    """

    def __init__(
        self,
        program: Program,
        branch: Branch,
        point: Point,
        held: Mapping[fx.Node, Any],
        deltas: Mapping[fx.Node, Tensor],
    ) -> None:
        self.program, self.branch, self.point = program, branch, point
        self.held, self.deltas = held, deltas
        start = {part.name: point[part.name] for part in branch.parts}
        like = torch.zeros_like(branch.take(start))
        self._sizes = branch.sizes(point)
        self._vectors = [each.clone().requires_grad_() for each in like.split(self._sizes, 1)]
        kinks = torch.zeros((), dtype=torch.float64)
        s: Any = 0.0
        with torch.enable_grad():
            changed = branch.moved(self._vectors, point)
            values = {**held, **program.start({**point, **changed}, None)}
            replaced = branch.replaced(self._vectors)
            for node in branch.nodes:
                by = replaced.get(node)
                if by is not None and by.reads:
                    s = s + by.heard(values, deltas[node])
                    continue
                kinks = kinks + at_kinks(node, values)
                values[node] = called(node, values) if by is None else by.given(values)
                if node in deltas and node in branch.readers:
                    s = s + (deltas[node] * values[node]).sum()
            self._written = [by for by in replaced.values() if not by.reads]
            leaves = (*self._vectors, *(by.made for by in self._written))
            first = grads(s, leaves, create_graph=True)
            self._by_made = first[len(self._vectors) :]
            moves = grads(kinks, tuple(self._vectors), retain_graph=True)
        self._first = first[: len(self._vectors)]
        self.gradient = torch.cat(self._first, 1).detach()
        self.kinks = (torch.cat(moves, 1) != 0).any(1).cpu()

    def of(self, branch: Branch) -> Local:
        """The same of a branch with other directions."""
        return Local(self.program, branch, self.point, self.held, self.deltas)

    def times(self, vectors: Tensor) -> Tensor:
        """Each unit's K times its own vector, (units, n): one Hessian–vector product of the surrogate."""
        along = [
            (first * mine).sum()
            for first, mine in zip(self._first, vectors.split(self._sizes, 1), strict=True)
            if first.requires_grad and bool(mine.any())
        ]
        if not along:
            return torch.zeros_like(vectors)
        leaves = tuple(self._vectors)
        return torch.cat(grads(torch.stack(along).sum(), leaves, retain_graph=True), 1)

    def closed(self) -> tuple[tuple[int, ...], Tensor] | None:
        """Numbers of parts whose second derivatives are sums over places, and these, (units, m, m), if any are.

        So it is where the surrogate's second derivatives by what a replaced operation gives are those at one
        place alone: then their product with any vector follows from that with ones.
        """
        generator = torch.Generator().manual_seed(2)
        both = zip(self._written, self._by_made, strict=True)
        for by, first in sorted(both, key=lambda each: -each[0].size):
            signs = (torch.randint(0, 2, first.shape, generator=generator) * 2 - 1).to(first)
            (weights,) = grads(first.sum(), (by.made,), retain_graph=True)
            (product,) = grads((first * signs).sum(), (by.made,), retain_graph=True)
            apart = float((product - weights * signs).abs().max())
            if apart <= self.program.like * float(weights.abs().max()):
                return by.numbers, by.gram(weights)
        return None


def grads(
    of: Any, wrt: tuple[Tensor, ...], retain_graph: bool | None = None, create_graph: bool = False
) -> list[Tensor]:
    """Derivatives; zeros where there are none."""
    if not isinstance(of, Tensor) or not of.requires_grad:
        return [torch.zeros_like(each) for each in wrt]
    found = torch.autograd.grad(
        of, wrt, retain_graph=retain_graph, create_graph=create_graph, allow_unused=True
    )
    return [
        torch.zeros_like(each) if grad is None else grad
        for each, grad in zip(wrt, found, strict=True)
    ]


# -- numbers that could refute the analysis --------------------------------------------------------


def tried(program: Program, inputs: Example) -> dict[str, Branch | str]:
    """The branches of a program that stand a trial on numbers; why not, for the others.

    The derivatives of the outputs, summed with weights drawn at random, by what is the units' own have to be
    those of the surrogate with the same weights; and the product of the surrogate's Hessian with a vector has
    to be longer for each unit as its part is, and 0 for readers where the vector is 0 for all but readers.
    """
    inputs = program.fewer(inputs, FEW)
    branches = {name: each for name, each in program.branches.items() if isinstance(each, Branch)}
    found = dict(program.branches)
    trained = {n: t for n, t in program.model.named_parameters() if t.requires_grad}
    if not branches or not trained:
        return found
    point = program.point
    whole = {**point, **{name: point[name].clone().requires_grad_() for name in trained}}
    twin = copied(program.model)
    own = outputs_with_history(twin, inputs)
    outputs, held, probes, _ = program.forward(whole, inputs, branches.values())
    packed = pytree.tree_leaves(program.packed(outputs, own))
    generator = torch.Generator().manual_seed(0)
    sums: list[Any] = [0.0, 0.0]
    for one, other in zip(packed, pytree.tree_leaves(own), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point():
            weights = torch.randn(one.shape, generator=generator).to(one)
            sums = [sums[0] + (one * weights).sum(), sums[1] + (other * weights).sum()]
    every = grads(sums[0], (*(whole[name] for name in trained), *probes.values()))
    mine = dict(zip(trained, every[: len(trained)], strict=True))
    deltas = dict(zip(probes, every[len(trained) :], strict=True))
    theirs = dict(twin.named_parameters())
    models = dict(
        zip(trained, grads(sums[1], tuple(theirs[name] for name in trained)), strict=True)
    )
    for name, branch in branches.items():
        local = Local(program, branch, point, held, deltas)
        why = _refuted(branch, local, branch.take(mine), branch.take(models), program.like)
        if why:
            found[name] = why
        elif any(branch.lines) and not _replaceable(local):
            found[name] = replace(branch, lines=(None,) * len(branch.parts))
    return found


def _refuted(branch: Branch, local: Local, graph: Tensor, model: Tensor, like: float) -> str:
    scale = float(torch.stack([graph.abs().max(), local.gradient.abs().max()]).max())
    if float((graph - model).abs().max()) > like * scale:
        return "the model has other derivatives than the recorded operations: it stops some of them on the way"
    if float((local.gradient - graph).abs().max()) > like * scale:
        return "the units act on the outputs by other ways than by what reads them"
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(local.gradient.shape, generator=generator).to(local.gradient)
    reads = branch.counts(local.point)[0]
    only = torch.zeros_like(vectors)
    only[:, :reads] = vectors[:, :reads]
    product = local.times(vectors)
    scale = float(product.abs().max())
    bent = local.times(only)[:, :reads].abs()
    if reads and float(bent.max()) > like * scale:
        return "what is said to read the units is not linear in its weights"
    # Lengths that differ between any two units: where these act on one another, the products do not follow.
    lengths = torch.linspace(-1.0, 1.0, branch.group.size)
    lengths = lengths[torch.randperm(len(lengths), generator=generator), None].to(vectors)
    apart = (local.times(lengths * vectors) - lengths * product).abs()
    if float(apart.max()) > like * scale:
        return "the units act on one another before they are read"
    return ""


def _replaceable(local: Local) -> bool:
    """Whether a product in some directions stays the same where operations are replaced."""
    generator = torch.Generator().manual_seed(2)
    bases = []
    for size in local.branch.sizes(local.point):
        drawn = torch.randn((size, min(size, 2)), generator=generator, dtype=torch.float64)
        bases.append(torch.linalg.qr(drawn)[0])
    some = replace(local.branch, bases=tuple(bases))
    vectors = torch.randn((some.group.size, sum(some.sizes(local.point))), generator=generator)
    vectors = vectors.to(local.gradient)
    product = some.coordinates(local.times(some.entries(vectors)))
    try:
        apart = float((local.of(some).times(vectors) - product).abs().max())
    except RuntimeError:  # an operation that cannot be run with another number of units
        return False
    return apart <= local.program.like * float(product.abs().max())


def outputs_with_history(model: nn.Module, inputs: Example) -> Any:
    """What a model gives; its buffers may change, the random state stays."""
    args, kwargs = called_with(inputs)
    with same_random_state(), second_derivatives():
        return model(*args, **kwargs)


def outputs_like(model: nn.Module, inputs: Example) -> Any:
    """What a model gives, by a copy of it."""
    with torch.no_grad():
        return outputs_with_history(copied(model), inputs)


class Programs:
    """The programs of a model, for each set of shapes of its inputs.

    Args:
        model: it is copied.
        dtype: in which everything is computed.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = copied(model).to(dtype)
        self.dtype = dtype
        first = next(self.model.parameters(), None)
        self.device: torch.device | str = "cpu" if first is None else first.device
        self._known: dict[Any, tuple[Program, dict[str, Branch | str]]] = {}

    def of(self, inputs: Example) -> tuple[Program, dict[str, Branch | str], Example]:
        """The program for inputs, its branches or why there are none, and the inputs in its dtype.

        One for another number of samples will do, where it does with these what the model does.
        """
        inputs = moved(inputs, self.dtype, self.device)
        leaves, spec = pytree.tree_flatten(inputs)
        kind = (
            str(spec),
            *((tuple(x.shape[1:]), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves),
        )
        key = (kind, *(x.shape[:1] for x in leaves if isinstance(x, Tensor)))
        if key not in self._known:
            for (other, *_), (program, branches) in self._known.items():
                if other == kind and program.does(inputs):
                    self._known[key] = program, branches
                    break
        if key not in self._known:
            program = Program(self.model, inputs)
            if program.units.random:
                where = ", ".join(program.units.random[:3])
                raise InputError(
                    f"the model draws at random ({where}), so its loss has no curvature of its own; put it "
                    "into eval mode, or set the probability to 0"
                )
            self._known[key] = program, tried(program, inputs)
        return *self._known[key], inputs
