"""Units as parallel branches: the operations between what makes the units of a group and what reads them.

Of a group the *surrogate* ``s(u, v) = Σ ⟨δ, reader⟩`` is run again and again, by the recorded operations alone:
δ is what the loss changes by with what each reader gives, and whatever enters from elsewhere is held fixed
(theory §9). That a group is such a branch is read off the labels, and tried on numbers: the surrogate has the
derivatives of the model itself, and the units do not couple in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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
from semiflat.modules.ties import FIXED, UNIFORM

Point = Mapping[str, Tensor]
"""Values of parameters and buffers by name."""
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
class Branch:
    """The operations of one group of units.

    Attributes:
        group: the units.
        parts: the trained entries of each unit: what reads it first, then what makes it and acts on it.
        nodes: operations to run again, in order.
        readers: those of them that read the units.
    """

    group: UnitGroup
    parts: tuple[Part, ...]
    nodes: tuple[fx.Node, ...]
    readers: tuple[fx.Node, ...]

    @property
    def outside(self) -> set[fx.Node]:
        """What enters from elsewhere."""
        own = set(self.nodes)
        return {each for node in self.nodes for each in node.all_input_nodes if each not in own}

    def take(self, tensors: Point) -> Tensor:
        """The entries of each unit in all parts, (units, n)."""
        return torch.cat([part.take(tensors[part.name]) for part in self.parts], 1)

    def put(self, entries: Tensor, like: Point) -> dict[str, Tensor]:
        """Tensors, zero but for these entries, (units, n), of the units."""
        out = {part.name: torch.zeros_like(like[part.name]) for part in self.parts}
        sizes = [part.take(like[part.name]).shape[1] for part in self.parts]
        for part, mine in zip(self.parts, entries.split(sizes, 1), strict=True):
            out[part.name] = out[part.name] + part.put(mine, like[part.name])
        return out

    def counts(self, like: Point) -> tuple[int, int]:
        """How many entries read a unit, and how many make it."""
        counts = [0, 0]
        for part in self.parts:
            counts[not part.reads] += part.take(like[part.name]).shape[1]
        return counts[0], counts[1]


class Program:
    """A model in one dtype on inputs of given shapes, run operation by operation.

    Attributes:
        model: a copy of the model.
        captured: its operations.
        units: its groups.
        branches: for each group its branch, or why its units are none.
    """

    def __init__(self, model: nn.Module, example: Example) -> None:
        self.model = model
        self.captured: Captured = capture(model, example)
        flow = Flow(self.captured).run()
        self.units = Units._of(self.captured, flow, Grouping(flow).groups())
        self._flow = flow
        self._trainable = dict(model.named_parameters()).keys()
        self._order = {node: place for place, node in enumerate(self.captured.graph.nodes)}
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
        return Branch(group, parts, tuple(nodes), tuple(readers))

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
                kinks = kinks + at_kinks(node, values, kinks)
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
    with second_derivatives():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def detached(value: Any) -> Any:
    """A value without its history."""
    return pytree.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, value)


# -- kinks -----------------------------------------------------------------------------------------


def _limits(args: list[Any], low: float | None, high: float | None) -> list[float]:
    given = (
        [*args[1:3], low, high][:2]
        if len(args) > 2
        else [*args[1:2], high][:2]
        if len(args) > 1
        else [low, high]
    )
    return [float(each) for each in given if isinstance(each, int | float)]


KINKS: dict[str, Callable[[list[Any]], list[float]]] = {
    **dict.fromkeys(
        ("relu", "leaky_relu", "prelu", "abs", "elu", "selu", "celu"), lambda args: [0.0]
    ),
    "relu6": lambda args: [0.0, 6.0],
    "hardtanh": lambda args: _limits(args, -1.0, 1.0),
    "clamp": lambda args: _limits(args, None, None),
    "clamp_min": lambda args: _limits(args, None, None),
    "hardsigmoid": lambda args: [-3.0, 3.0],
    "hardswish": lambda args: [-3.0, 3.0],
    "threshold": lambda args: [float(args[1])],
    "softshrink": lambda args: [-float(args[1]), float(args[1])] if len(args) > 1 else [-0.5, 0.5],
    "hardshrink": lambda args: [-float(args[1]), float(args[1])] if len(args) > 1 else [-0.5, 0.5],
}
"""Where operations have no second derivative."""


def at_kinks(node: fx.Node, values: Mapping[fx.Node, Any], like: Tensor) -> Tensor:
    """A sum, with weights drawn at random, over what enters an operation where it has no second derivative.

    Its derivative says what moves such places; they do not matter where nothing does.
    """
    places = KINKS.get(name_of(node))
    zero = torch.zeros((), dtype=torch.float64)
    if places is None:
        return zero
    args = list(fx.node.map_arg(node.args, values.__getitem__))
    x = args[0]
    if (
        not isinstance(x, Tensor)
        or not x.requires_grad
        or not x.is_floating_point()
        or not x.numel()
    ):
        return zero
    near = 8 * torch.finfo(x.dtype).eps * x.detach().abs().max()
    at = torch.stack(
        [(x.detach() - place).abs() <= near for place in places(args)] or [x.detach() != x.detach()]
    ).any(0)
    if not bool(at.any()):
        return zero
    chosen = x[at]
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
        gradient: of the surrogate, (units, n).
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
        self.branch, self.point = branch, point
        names = [part.name for part in branch.parts]
        self._leaves = {name: point[name].clone().requires_grad_() for name in names}
        start = program.start({**point, **self._leaves}, None)
        values = {**held, **start}
        kinks = torch.zeros((), dtype=torch.float64)
        s: Any = 0.0
        self.outputs: dict[fx.Node, Tensor] = {}
        with torch.enable_grad():
            for node in branch.nodes:
                kinks = kinks + at_kinks(node, values, kinks)
                values[node] = called(node, values)
                if node in deltas and node in branch.readers:
                    self.outputs[node] = values[node].detach()
                    s = s + (deltas[node] * values[node]).sum()
            every = tuple(self._leaves.values())
            self._first = grads(s, every, create_graph=True)
        self.gradient = branch.take(self._by_name([each.detach() for each in self._first]))
        moves = grads(kinks, every, retain_graph=True) if kinks.requires_grad else None
        self.kinks = torch.zeros(branch.group.size, dtype=torch.bool)
        if moves is not None:
            self.kinks = (branch.take(self._by_name(moves)) != 0).any(1).cpu()

    def _by_name(self, tensors: Iterable[Tensor]) -> dict[str, Tensor]:
        return dict(zip(self._leaves, tensors, strict=True))

    def times(self, vectors: Tensor) -> Tensor:
        """Each unit's K times its own vector, (units, n): one Hessian–vector product of the surrogate."""
        along = self.branch.put(vectors, self._leaves)
        inner = [
            (first * along[name]).sum()
            for name, first in zip(self._leaves, self._first, strict=True)
            if first.requires_grad
        ]
        leaves = tuple(self._leaves.values())
        if not inner:
            return torch.zeros_like(vectors)
        second = grads(torch.stack(inner).sum(), leaves, retain_graph=True)
        return self.branch.take(self._by_name(second))


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
    those of the surrogate with the same weights; and the product of the surrogate's Hessian with a vector that
    is 0 for some units has to be 0 for them, and 0 for readers where it is 0 for all but readers.
    """
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
    scale = float(local.times(vectors).abs().max())
    bent = local.times(only)[:, :reads].abs()
    if reads and float(bent.max()) > like * scale:
        return "what is said to read the units is not linear in its weights"
    numbers = torch.arange(branch.group.size)
    for bit in range((branch.group.size - 1).bit_length()):  # any two units differ in some bit
        still = (numbers >> bit) & 1 == 1
        others = local.times(vectors * ~still[:, None].to(vectors.device))[still].abs()
        if float(others.max()) > like * scale:
            return "the units act on one another before they are read"
    return ""


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
    """The programs of a model, one for each set of shapes of its inputs.

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
        """The program for inputs, its branches or why there are none, and the inputs in its dtype."""
        inputs = moved(inputs, self.dtype, self.device)
        leaves, spec = pytree.tree_flatten(inputs)
        key = (
            str(spec),
            *((tuple(x.shape), x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves),
        )
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
