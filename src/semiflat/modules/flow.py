"""Labels followed through the operations of a model: what each unit owns, and what ties units together."""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from semiflat.modules.capture import Captured
from semiflat.modules.ties import FIXED, UNIFORM, Ties, filled, pairs_of, slim


@dataclass(frozen=True)
class Weight:
    """A parameter or buffer, or a view of one.

    Attributes:
        name: in the model.
        whole: the tensor.
        view: it, moved: a view of the same storage.
        buffer: whether it is no parameter.
    """

    name: str
    whole: Tensor
    view: Tensor
    buffer: bool = False

    @property
    def untouched(self) -> bool:
        """Whether nothing was done to it."""
        return self.view is self.whole

    def places(self) -> Tensor:
        """Number of the element of ``whole`` that each element of the view is."""
        flat = torch.zeros((), dtype=torch.long)
        start = int(self.view.storage_offset() - self.whole.storage_offset())
        for axis, (size, stride) in enumerate(
            zip(self.view.shape, self.view.stride(), strict=True)
        ):
            steps = torch.arange(size) * stride
            flat = flat + steps.view([-1] + [1] * (self.view.ndim - 1 - axis))
        # Elements are counted in the whole tensor's own order, which need not be that of its storage.
        if self.whole.is_contiguous():
            return flat + start
        numbers = torch.arange(self.whole.numel()).view(self.whole.shape)
        storage = torch.zeros(int(_span(self.whole)), dtype=torch.long)
        storage.as_strided(self.whole.shape, self.whole.stride())[...] = numbers
        return storage[flat + start]


def _span(tensor: Tensor) -> int:
    return 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))


@dataclass(frozen=True)
class Use:
    """What owns the elements of a tensor at one place where it is used.

    Attributes:
        name: of the parameter or buffer.
        role: ``"writes"``: its elements make a unit; ``"adds"``: they are added to it, as a bias is;
            ``"between"``: they act on one unit alone in another way; ``"shifts"``: they are added to it by a
            norm; ``"statistics"``: nothing trains them; ``"reads"``: they take a unit linearly.
        labels: of its elements, in its shape.
        where: the operation, in words.
        module: that it is used in.
        axis: along which the units lie, where the operation says it.
        conv: whether a convolution uses it.
        lookup: whether rows are looked up in it.
        node: name of the operation in the graph; ``""`` for all that work element by element.
    """

    name: str
    role: str
    labels: Tensor
    where: str
    module: str = ""
    axis: int | None = None
    conv: bool = False
    lookup: bool = False
    node: str = ""


Value = Any
"""Labels (a tensor), a :class:`Weight`, a plain number, or a list of these."""
Rule = Callable[["Flow", fx.Node, list[Any], dict[str, Any]], Value]


@dataclass
class Flow:
    """Goes through a model's operations once.

    Attributes:
        captured: the model.
        ties: what its atoms are tied to.
        uses: in the order of the operations.
        random: operations that draw at random, in words.
        unknown: operations without a rule that a unit meets, by name.
        read: for each operation that reads units with a weight, the labels of what else enters it, by node.
        shared: parameters that act on several units alike, as the gain of a norm within each head does.
        passes: modules that normalise, and the labels of their places.
        carried: for each operation the atoms in what it gives.
        axes: for each operation that gives one tensor the axes along which its labels are not expanded.
    """

    captured: Captured
    ties: Ties = field(default_factory=Ties)
    uses: list[Use] = field(default_factory=list)
    random: list[str] = field(default_factory=list)
    unknown: dict[str, str] = field(default_factory=dict)
    read: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    shared: set[str] = field(default_factory=set)
    passes: list[tuple[str, Tensor]] = field(default_factory=list)
    carried: dict[str, Tensor] = field(default_factory=dict)
    axes: dict[str, list[int]] = field(default_factory=dict)
    _later: list[tuple[Weight, Tensor, Tensor, fx.Node]] = field(default_factory=list)
    _values: dict[fx.Node, Value] = field(default_factory=dict)
    _atoms: dict[str, Tensor] = field(default_factory=dict)
    _real: dict[fx.Node, Any] = field(default_factory=dict)
    _roles: dict[str, str] = field(default_factory=dict)

    def run(self) -> Flow:
        """All operations, in their order."""
        from semiflat.modules.rules import rule_of

        # Values are let go once nothing takes them any more.
        last = {user: node for node in self.captured.graph.nodes for user in node.all_input_nodes}
        done: dict[fx.Node, list[fx.Node]] = {}
        for user, node in last.items():
            done.setdefault(node, []).append(user)
        for node in self.captured.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._placeholder(node)
            elif node.op == "output":
                for value in _leaves(fx.node.map_arg(node.args, self._values.__getitem__)):
                    if isinstance(value, Tensor):
                        self.forbid(node, value, "it is an output of the model")
            elif node.op == "call_function":
                args = list(fx.node.map_arg(node.args, self._values.__getitem__))
                kwargs = dict(fx.node.map_arg(node.kwargs, self._values.__getitem__))
                self._values[node] = rule_of(node)(self, node, args, kwargs)
                given = self._values[node]
                self.carried[node.name] = _atoms_in(given)
                if isinstance(given, Tensor):
                    thin = slim(given)
                    self.axes[node.name] = [a for a, size in enumerate(thin.shape) if size > 1]
                self._in_place(node, args)
            else:
                self._values[node] = filled(FIXED, ())
            for user in done.get(node, []):
                if user.op == "call_function":
                    self._values.pop(user, None)
        self._settle()
        for name, atoms in self._atoms.items():
            if name in self.shared:
                continue
            tensor = self.captured.tensors[name]
            role = self._roles.get(name, "adds")
            self.uses.append(Use(name, role, atoms.view(tensor.shape), "elementwise"))
        return self

    def _placeholder(self, node: fx.Node) -> Value:
        captured = self.captured
        if node.name in captured.owners:
            name = captured.owners[node.name][0]
            tensor = captured.tensors[name]
            whole = tensor.detach()
            return Weight(name, whole, whole, buffer=not isinstance(tensor, nn.Parameter))
        value = node.meta.get("val")
        if isinstance(value, Tensor):
            return filled(FIXED, value.shape)
        return captured.inputs.get(node.name)

    # -- what rules use ---------------------------------------------------------------------------

    def where(self, node: fx.Node) -> str:
        """An operation and the module that it belongs to, in words."""
        path = self.module(node)
        return f"{name_of(node)} in {path!r}" if path else name_of(node)

    def module(self, node: fx.Node) -> str:
        """The name of the module that an operation belongs to."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        return str(stack[-1][0]) if stack else ""

    def shape(self, node: fx.Node) -> torch.Size:
        """The shape of what an operation gives."""
        value = node.meta["val"]
        size: torch.Size = value.shape
        return size

    def use(
        self,
        weight: Weight,
        role: str,
        labels: Tensor,
        node: fx.Node,
        axis: int | None = None,
        **more: bool,
    ) -> None:
        """Record who owns a weight's elements; the labels, and the axis, are those of its view."""
        if not weight.untouched:
            order = _permutation(weight)
            if order is not None:
                labels = labels.permute(order)
                axis = None if axis is None else order.index(axis)
            else:
                axis = None
                places = weight.places().reshape(-1)
                whole = torch.full((weight.whole.numel(),), UNIFORM)
                whole[places] = labels.reshape(-1)
                labels = whole.view(weight.whole.shape)
        if role == "reads":
            entering = {each.name: self._values.get(each) for each in node.all_input_nodes}
            self.read[node.name] = {
                name: value for name, value in entering.items() if isinstance(value, Tensor)
            }
        where, module = self.where(node), self.module(node)
        self.uses.append(
            Use(weight.name, role, labels, where, module, axis, node=node.name, **more)
        )

    def labels(self, value: Value, statistics: bool = False) -> Tensor:
        """The labels of a value: those of a weight are atoms of its elements.

        A buffer's elements are constants, but for the statistics that a norm keeps of each unit.
        """
        if isinstance(value, Weight):
            if value.buffer and not statistics:
                return filled(FIXED, value.view.shape)
            if value.name not in self._atoms:
                self._atoms[value.name] = self.ties.fresh(value.whole.numel())
                if statistics and value.buffer:
                    self._roles[value.name] = "statistics"
            atoms = self._atoms[value.name]
            if value.untouched:
                return atoms.view(value.whole.shape)
            return atoms[value.places()]
        if isinstance(value, Tensor):
            return value
        return filled(UNIFORM, ())

    def acts(self, weight: Value, role: str = "between") -> None:
        """Record that a weight does something else to its unit than to be added to it before all."""
        if isinstance(weight, Weight) and not weight.buffer:
            self._roles.setdefault(weight.name, role)

    def join(self, node: fx.Node, values: list[Value], what: str = "") -> Tensor:
        """Combine values element by element: units that meet are tied."""
        operands = [self.labels(value) for value in values]
        if what != "joined":
            # A weight that is only ever added is one that makes the unit, as a bias does.
            for value in values:
                self.acts(value)
        owned = [bool((slim(labels) >= 0).any()) for labels in operands]
        weights = [isinstance(value, Weight) and not value.buffer for value in values]
        out = filled(UNIFORM, ())
        for labels, yes in zip(operands, weights, strict=True):
            if not yes:
                thin = slim(labels)
                apart = self.ties.tie(out, thin)
                out = torch.maximum(*torch.broadcast_tensors(out, thin))
                if what and len(apart) and not any(weights):
                    self.ties.mark(what, apart, self.where(node), node.name)
        for value, labels, yes in zip(values, operands, weights, strict=True):
            if yes:
                # Whether it is one unit's or acts on several alike is known when all ties are.
                thin = slim(labels)
                self._later.append((value, out, thin, node))
                wide, own = torch.broadcast_tensors(out, thin)
                out = torch.where(wide >= 0, wide, own)
        if any(owned):
            for place, (labels, yes) in enumerate(zip(operands, owned, strict=True)):
                if not yes and bool((slim(labels) == FIXED).any()):
                    self.ties.meets(out, labels.shape, salt(node, place), self.where(node))
        return out.expand(self.shape(node))

    def mix(self, node: fx.Node, value: Value, axes: tuple[int, ...], why: str = "") -> Tensor:
        """Tie all that lies along some axes, which an operation mixes; with those axes cut to one place."""
        labels = self.labels(value)
        axes = tuple(axis % max(labels.ndim, 1) for axis in axes)
        thin = slim(labels)
        lanes = lanes_of(thin, axes)
        if why and bool((lanes != lanes[:, :1]).any()):
            self.ties.mark("forbids", thin, self.where(node), node.name, why, lanes)
        return self.ties.along(labels, axes)

    def _in_place(self, node: fx.Node, args: list[Value]) -> None:
        """What is changed through a view changes what the view is of, which labels do not show."""
        schema = getattr(node.target, "_schema", None)
        if schema is None or not schema.is_mutable or not args:
            return
        from semiflat.modules.rules import is_view

        at = node.args[0]
        while isinstance(at, fx.Node) and at.op == "call_function" and is_view(at):
            base = at.all_input_nodes[0]
            later = [user for user in base.users if user is not at and node < user]
            if later and isinstance(self._values.get(base), Tensor | Weight):
                why = "a part of it is changed in place"
                self.forbid(node, self.labels(self._values[base]), why)
            at = base

    def _settle(self) -> None:
        """Tie weights that act on units element by element to these, unless they act on several units alike."""
        left, tied = self._later, set[str]()
        while True:
            alike, apart, singly = [], [], []
            for each in left:
                weight, units, own, _ = each
                pairs = pairs_of(own, units)
                pairs = torch.stack([pairs[:, 0], self.ties.roots(pairs[:, 1])], 1).unique(dim=0)
                elements, roots = (len(pairs[:, axis].unique()) for axis in (0, 1))
                if len(pairs) == elements:  # every element acts on one unit
                    singly.append(each)
                elif len(pairs) == elements * roots:
                    alike.append(each)
                else:
                    apart.append(each)
            now = singly or apart[:1]
            if not now:
                break
            for weight, units, own, _ in now:
                tied.add(weight.name)
                self.ties.tie(own, units)
            left = [each for each in left if not any(each is other for other in now)]
        for weight, units, own, node in alike:
            if weight.name in tied:
                why = f"{weight.name!r} acts on several units alike, and on single ones elsewhere"
                self.forbid(node, torch.cat([units.reshape(-1), own.reshape(-1)]), why)
            else:
                self.shared.add(weight.name)

    def normalised(self, node: fx.Node, labels: Tensor, axis: int) -> None:
        """Record whose places a norm's module has along an axis, (places, the rest)."""
        thin = slim(labels).movedim(axis, 0)
        thin = thin.reshape(len(thin), -1)
        self.passes.append((self.module(node), thin.expand(labels.shape[axis], -1)))

    def forbid(self, node: fx.Node, labels: Tensor, why: str) -> None:
        """Say why the units among some labels cannot be changed."""
        where = "" if node.op == "output" else self.where(node)
        self.ties.mark("forbids", labels, where, node.name, why)

    def real(self, node: fx.Node) -> Any:
        """The value of a node that no unit enters, computed when it is asked for."""
        if node not in self._real:
            captured = self.captured
            if node.op == "placeholder":
                if node.name in captured.owners:
                    self._real[node] = captured.tensors[captured.owners[node.name][0]].detach()
                elif node.name in captured.constants:
                    self._real[node] = captured.constants[node.name]
                else:
                    self._real[node] = captured.inputs[node.name]
            else:
                args = fx.node.map_arg(node.args, self.real)
                kwargs = fx.node.map_arg(node.kwargs, self.real)
                self._real[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        return self._real[node]


def lanes_of(thin: Tensor, axes: tuple[int, ...]) -> Tensor:
    """What an operation along some axes takes together, (lanes, places)."""
    order = [axis for axis in range(thin.ndim) if axis not in axes]
    places = torch.Size([thin.shape[axis] for axis in axes]).numel()
    return thin.permute(*order, *axes).reshape(-1, places)


def salt(node: fx.Node, place: int = 0) -> int:
    """A number for an operation and one of its operands."""
    return zlib.crc32(f"{node.name}/{place}".encode()) % 9973


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, tuple | list):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def _atoms_in(value: Any) -> Tensor:
    """The atoms in what an operation gives, each once."""
    parts = [slim(leaf).reshape(-1).unique() for leaf in _leaves(value) if isinstance(leaf, Tensor)]
    atoms = torch.cat(parts).unique() if parts else torch.empty(0, dtype=torch.long)
    return atoms[atoms >= 0]


def _permutation(weight: Weight) -> list[int] | None:
    """Which axis of the view each axis of the whole tensor is; None if the view has other axes."""
    view, whole = weight.view, weight.whole
    if sorted(view.shape) != sorted(whole.shape) or view.storage_offset() != whole.storage_offset():
        return None
    order: list[int] = []
    for size, stride in zip(whole.shape, whole.stride(), strict=True):
        found = [
            axis
            for axis in range(view.ndim)
            if view.shape[axis] == size and view.stride(axis) == stride and axis not in order
        ]
        if not found:
            return None
        order.append(found[0])
    return order


def name_of(node: fx.Node) -> str:
    """The name of an operation, without its overload and the mark of working in place."""
    if node.target is operator.getitem:
        return "getitem"
    packet = getattr(node.target, "overloadpacket", None)
    if packet is None:
        return str(getattr(node.target, "__name__", node.target))
    name: str = packet.__name__
    return name.rstrip("_") if not name.startswith("_") else "_" + name[1:].rstrip("_")
