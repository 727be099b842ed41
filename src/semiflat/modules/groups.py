"""The units of a model: which can be changed together, what writes and reads them, and what forbids it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.capture import Captured, Example, capture, not_plain
from semiflat.modules.flow import Flow, Use
from semiflat.modules.ties import FIXED, Mark, slim
from semiflat.records.shown import Facts, Rows, Shown

OWN_AXES = (nn.MultiheadAttention,)
"""Classes that tie the sizes of what they write to those of what they read."""


@dataclass(frozen=True)
class Slot(Shown):
    """Where the units of a group lie in one parameter or buffer.

    Attributes:
        name: of the tensor in the model.
        role: what the tensor does with a unit: ``"writes"`` it, ``"adds"`` to it as a bias does, stands
            ``"between"`` as a norm's gain does, ``"shifts"`` it as a norm's bias does, keeps
            ``"statistics"`` of it, or ``"reads"`` it linearly.
        axis: along which the units lie.
        positions: of each unit along that axis, (units, positions of a unit).
        conv: whether a convolution uses it.
        lookup: whether rows are looked up in it.
        use: number of the use among those of the flow.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> sf.units(model, torch.zeros(4, 3))["0"].slots[0]
    Slot(name='0.weight', role='writes', axis=0, positions=(5, 1))
    """

    name: str
    role: str
    axis: int
    positions: Tensor
    conv: bool = False
    lookup: bool = False
    use: int = field(default=-1, repr=False)

    @property
    def module(self) -> str:
        """The name of the module that holds the tensor."""
        return self.name.rpartition(".")[0]

    def _facts(self) -> Facts:
        return {
            "name": self.name,
            "role": self.role,
            "axis": self.axis,
            "positions": tuple(self.positions.shape),
        }


@dataclass(frozen=True)
class UnitGroup(Shown):
    """Units of a model that can be changed together: any of them can take the place of any other.

    Attributes:
        name: of the module that writes them first; with their places where it writes several groups.
        kind: ``"linear unit"``, ``"channel"``, ``"head"``, ``"gated unit"``, ``"residual stream"``,
            ``"block of channels"``, ``"embedding"``.
        size: how many units there are.
        slots: where they lie in parameters and buffers, in the order these are used.
        norms: norms over the units themselves: ``(what, where)``.
        passes: modules that normalise and the units pass through, and how many places each unit has there.
        refuses: why units can be neither added nor left out; ``""`` if they can.
        held: why a class alone forbids it, which keeps their number, though they are units like others; ``""``
            if none does, or something else forbids it, too.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> group = sf.units(model, torch.zeros(4, 3))["0"]
    >>> group.size, group.kind, group.writers, group.readers
    (5, 'linear unit', ('0.weight', '0.bias'), ('2.weight',))
    """

    name: str
    kind: str
    size: int
    slots: tuple[Slot, ...]
    norms: tuple[tuple[str, str], ...] = ()
    refuses: str = ""
    held: str = ""
    passes: tuple[tuple[str, int], ...] = field(default=(), repr=False)
    also: tuple[str, ...] = field(default=(), repr=False)

    @property
    def writers(self) -> tuple[str, ...]:
        """Parameters and buffers that make a unit, and those that act on it alone."""
        return tuple(dict.fromkeys(slot.name for slot in self.slots if slot.role != "reads"))

    @property
    def readers(self) -> tuple[str, ...]:
        """Parameters that take the units linearly."""
        return tuple(dict.fromkeys(slot.name for slot in self.slots if slot.role == "reads"))

    def of(self, *roles: str) -> list[Slot]:
        """The slots of some roles."""
        return [slot for slot in self.slots if slot.role in roles]

    def _facts(self) -> Facts:
        return {
            "name": self.name,
            "kind": self.kind,
            "size": self.size,
            "writers": self.writers,
            "readers": self.readers,
            "refuses": self.refuses,
        }


class Units(Rows, Mapping[str, UnitGroup]):
    """The groups of units of a model, by name, in the order they are written.

    Attributes:
        unreached: parameters that the model does not use on the example.
        random: operations that draw at random, in words.
        unknown: operations that no rule is known for and that a unit meets, and where.
        mode: ``"train"`` or ``"eval"``, of the model when it was looked at.
        guards: what was taken to hold of inputs: that they have the example's sizes, as a branch may depend on
            these, and what the model itself asserts. Of other inputs nothing is said.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> groups = sf.units(model, torch.zeros(4, 3))
    >>> list(groups), groups["2"].refuses
    (['0', '2'], 'it is an output of the model')
    """

    _flow: Flow

    def __init__(
        self,
        groups: list[UnitGroup],
        unreached: tuple[str, ...] = (),
        random: tuple[str, ...] = (),
        unknown: Mapping[str, str] = MappingProxyType({}),
        mode: str = "eval",
        guards: tuple[str, ...] = (),
    ) -> None:
        self._groups = {group.name: group for group in groups}
        self._also = {other: group.name for group in groups for other in group.also}
        self.unreached, self.random, self.mode = unreached, random, mode
        self.unknown, self.guards = dict(unknown), guards

    @classmethod
    def _of(cls, captured: Captured, flow: Flow, groups: list[UnitGroup]) -> Units:
        used = {use.name for use in flow.uses} | flow.shared
        same = {name: names for names in captured.owners.values() for name in names}
        used |= {other for name in used for other in same.get(name, ())}
        unreached = (name for name, _ in captured.model.named_parameters() if name not in used)
        mode = "train" if captured.model.training else "eval"
        random = tuple(flow.random)
        found = cls(groups, tuple(unreached), random, flow.unknown, mode, captured.guards)
        found._flow = flow
        return found

    def __getitem__(self, name: str) -> UnitGroup:
        """The group of that name, or that a module of that name writes, too."""
        if name in self._groups:
            return self._groups[name]
        if name in self._also:
            return self._groups[self._also[name]]
        near = [group.name for group in self.values() if name in group.writers]
        near += difflib.get_close_matches(str(name), [*self._groups, *self._also], 1, 0.4)
        meant = f"; did you mean {near[0]!r}?" if near else "."
        some = ", ".join(list(self._groups)[:8])
        more = ", …" if len(self._groups) > 8 else ""
        raise UnknownGroup(f"there is no group of units {name!r}{meant} There are {some}{more}")

    def __contains__(self, name: object) -> bool:
        return name in self._groups or name in self._also

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def _rows(self) -> list[Facts]:
        return [group._facts() for group in self.values()]

    def _facts(self) -> Facts:
        can = sum(not group.refuses for group in self.values())
        return {
            "groups": len(self),
            "that can be changed": can,
            "mode": self.mode,
            "guards": self.guards,
            "unreached": self.unreached,
            "random": self.random,
            "unknown": self.unknown,
        }


class UnknownGroup(InputError, KeyError):
    """There is no group of that name."""

    def __str__(self) -> str:
        return str(self.args[0])


def units(model: nn.Module, example: Example) -> Units:
    """The groups of units of a model, and what stands in the way of changing them.

    The model is run once on the example, by ``torch.export``, in the mode that it is in; it is not changed.
    What is found is so for inputs of the example's sizes: where the model takes another way for others, that is
    not seen. Parameters that it did not reach are named.
    Axes are followed by position from the weights that write them to those that read them. An operation that
    is not known, or a value that a unit is tied to, is named by the groups that it forbids to change.

    Args:
        model: any ``nn.Module``.
        example: inputs: a tensor, a tuple of them, or a dict of them by name; a small batch is enough.

    Raises:
        InputError: if the model fails on the example, or what it does depends on values.

    Source: theory §9.

    >>> import torch, semiflat as sf
    >>> conv = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
    ...     torch.nn.Linear(4 * 36, 2))
    >>> groups = sf.units(conv, torch.zeros(1, 1, 8, 8))
    >>> groups["0"].kind, groups["0"].size, [slot.positions.shape[1] for slot in groups["0"].of("reads")]
    ('channel', 4, [36])
    """
    captured = capture(model, example)
    flow = Flow(captured).run()
    return Units._of(captured, flow, Grouping(flow).groups())


@dataclass
class _Unit:
    """All that is tied together.

    Attributes:
        slots: by number of the use: axis, positions.
    """

    slots: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)


class Grouping:
    """Puts what is tied together into groups of units."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.units: dict[int, _Unit] = {}
        self.marks: dict[int, list[Mark]] = {}
        self.special = not_plain(flow.captured.model)

    def groups(self) -> list[UnitGroup]:
        """All groups, in the order in which their units are written."""
        self._tie_shared()
        for number, use in enumerate(self.flow.uses):
            self._lay(number, use)
        for mark in self.flow.ties.marks:
            for root in self.flow.ties.roots(mark.atoms).unique().tolist():
                self.marks.setdefault(root, []).append(mark)
        self.met = self.flow.ties.met()
        together: dict[Any, list[int]] = {}
        for root, unit in self.units.items():
            where = tuple(
                (use, axis, len(places)) for use, (axis, places) in sorted(unit.slots.items())
            )
            nodes = frozenset(mark.node for mark in self.marks.get(root, []))
            together.setdefault((where, nodes), []).append(root)
        groups = [self._group(roots) for roots in together.values()]
        groups.sort(key=lambda group: group[0])
        return _named([group for _, group in groups if group.slots])

    def _tie_shared(self) -> None:
        """Units that lie at one place of a tensor that is used more than once are tied."""
        ties = self.flow.ties
        lines: dict[tuple[str, int], Tensor] = {}
        whole: dict[tuple[str, str], Tensor] = {}
        for use in self.flow.uses:
            line = _axis_of(slim(use.labels), use)
            if line is None:  # several units along more than one axis
                ties.tie(whole.setdefault((use.name, use.role), use.labels), use.labels)
                continue
            axis, owners = line
            before = lines.setdefault((use.name, axis), owners)
            ties.tie(before, owners)
            mixed = (before == FIXED) & (owners >= 0) | (owners == FIXED) & (before >= 0)
            if bool(mixed.any()):
                why = f"{use.name!r} is used elsewhere for what no unit owns"
                found = torch.maximum(before, owners)[mixed]
                ties.mark("forbids", found, use.where, use.where, why)
                lines[use.name, axis] = torch.maximum(before, owners)

    def _lay(self, number: int, use: Use) -> None:
        """Find the axis along which the units of one use lie."""
        roots = self.flow.ties.roots(use.labels)
        thin = slim(roots)
        if not bool((thin >= 0).any()):
            return
        line = _axis_of(thin, use)
        if line is None:
            self.flow.ties.mark(
                "forbids",
                thin,
                use.where,
                "",
                f"elements of {use.name!r} along one axis belong to several units",
            )
            return
        axis, owners = line
        order = owners.argsort(stable=True)
        whose, counts = owners[order].unique_consecutive(return_counts=True)
        for root, places in zip(whose.tolist(), order.split(counts.tolist()), strict=True):
            if root >= 0:
                self.units.setdefault(root, _Unit()).slots[number] = axis, tuple(places.tolist())

    def _group(self, roots: list[int]) -> tuple[tuple[int, ...], UnitGroup]:
        uses = self.flow.uses
        first = self.units[roots[0]]
        order = sorted(first.slots)
        roots = sorted(roots, key=lambda root: self.units[root].slots[order[0]][1])
        slots = [
            Slot(
                uses[number].name,
                uses[number].role,
                first.slots[number][0],
                torch.tensor([self.units[root].slots[number][1] for root in roots]),
                uses[number].conv,
                uses[number].lookup,
                number,
            )
            for number in order
        ]
        units = torch.tensor(roots)
        marks = [
            mark
            for mark in self.marks.get(roots[0], [])
            if mark.lanes is None or not self.flow.ties.apart(mark.lanes, units)
        ]
        made = [number for number in order if uses[number].role == "writes"]
        made = made or [number for number in order if uses[number].role != "reads"] or order
        names = list(dict.fromkeys(self._module(uses[number]) for number in made))
        kind = _kind(slots, marks)
        held = self._held(slots) if len(roots) > 1 else []
        reasons = self._refuses(units, slots, marks, held)
        group = UnitGroup(
            name=names[0] or uses[made[0]].name,
            kind=kind,
            size=len(roots),
            slots=tuple(slots),
            norms=tuple(
                dict.fromkeys(
                    (mark.what, mark.where) for mark in marks if mark.what.endswith("norm")
                )
            ),
            refuses="; ".join([*reasons, *held]),
            held="" if reasons else "; ".join(held),
            passes=self._passes(roots[0]),
            also=tuple(names[1:]),
        )
        return (order[0], roots[0]), group

    def _module(self, use: Use) -> str:
        """The module that holds a tensor; of a shared one, that in which it is used here."""
        owners = self.flow.captured.owners.values()
        names = next((names for names in owners if use.name in names), (use.name,))
        holders = [name.rpartition(".")[0] for name in names]
        return use.module if use.module in holders else holders[0]

    def _passes(self, root: int) -> tuple[tuple[str, int], ...]:
        found: dict[str, int] = {}
        for module, labels in self.flow.passes:
            owners = self.flow.ties.roots(labels)
            alike = (owners == owners[:, :1]).all(1)  # else units lie along another axis
            count = int((alike & (owners[:, 0] == root)).sum())
            if count and bool(alike.all()):
                found[module] = count
        return tuple(found.items())

    def _different(self, roots: Tensor) -> str:
        """Where units meet constants that are not the same for all; "" for nowhere."""
        standing = self.flow.ties.standing
        atoms = torch.isin(standing, roots).nonzero().flatten()
        if not bool(self.met[atoms].any()):
            return ""
        met = {root: self.met[atoms[standing[atoms] == root]] for root in roots.tolist()}
        first = met[int(roots[0])]
        for each in met.values():
            if not torch.equal(each, first):
                both = torch.isin(standing, roots) & (self.met != 0)
                return self.flow.ties.met_at(both.nonzero().flatten())
        return ""

    def _refuses(
        self, roots: Tensor, slots: list[Slot], marks: list[Mark], held: list[str]
    ) -> list[str]:
        reasons = dict.fromkeys(
            f"{mark.why} ({mark.where})" if mark.where else mark.why
            for mark in marks
            if mark.what == "forbids"
        )
        special = self.special
        for slot in slots:
            if slot.module in special:
                reasons[f"{special[slot.module]} ({slot.module!r})"] = None
        where = self._different(roots)
        if where:
            reasons[f"a constant or an input treats the units differently ({where})"] = None
        if not any(slot.role == "reads" for slot in slots) and not (reasons or held):
            reasons["nothing reads it linearly"] = None
        if not any(slot.role != "reads" for slot in slots) and not (reasons or held):
            reasons["no weight makes it"] = None
        return list(reasons)

    def _held(self, slots: list[Slot]) -> list[str]:
        """What classes say that tie the number of units to other sizes."""
        model = self.flow.captured.model
        reasons: dict[str, None] = {}
        for slot in slots:
            holder = model.get_submodule(slot.module) if slot.module else model
            if isinstance(holder, OWN_AXES):
                kind = type(holder).__name__
                said = f"{kind} ties its heads times their size to the stream ({slot.module!r})"
                reasons[said] = None
        return list(reasons)


def _axis_of(thin: Tensor, use: Use) -> tuple[int, Tensor] | None:
    """The axis whose places each belong to one unit, and whose: the unit of each place along it."""
    shape = use.labels.shape
    if use.axis is not None:
        candidates = [use.axis]
    else:
        candidates = [axis for axis, size in enumerate(thin.shape) if size > 1] or list(
            range(len(shape))
        )
    best: tuple[int, Tensor] | None = None
    for axis in candidates:
        lines = thin.movedim(axis, 0).reshape(thin.shape[axis], -1)
        highest = lines.amax(1)
        if bool(((lines != highest[:, None]) & (lines >= 0)).any()):
            continue
        owners = highest.expand(shape[axis]) if len(highest) == 1 else highest
        if best is None or len(owners.unique()) > len(best[1].unique()):
            best = axis, owners
    return best


def _kind(slots: list[Slot], marks: list[Mark]) -> str:
    whats = {mark.what for mark in marks}
    makes = [slot for slot in slots if slot.role == "writes"]
    if "attends" in whats:
        return "head"
    if "layer norm" in whats or "rms norm" in whats or "joined" in whats:
        return "residual stream"
    if "block" in whats:
        return "block of channels"
    if makes and all(slot.lookup for slot in makes):
        return "embedding"
    if any(slot.conv for slot in makes):
        return "channel"
    return "gated unit" if "gated" in whats else "linear unit"


def _named(groups: list[UnitGroup]) -> list[UnitGroup]:
    """Groups with names of their own: several of one writer carry the places of their units."""
    from dataclasses import replace

    count: dict[str, int] = {}
    for group in groups:
        count[group.name] = count.get(group.name, 0) + 1
    named = []
    for group in groups:
        if count[group.name] > 1:
            first = group.slots[0].positions
            name = f"{group.name}[{int(first.min())}:{int(first.max()) + 1}]"
            group = replace(group, name=name)
        named.append(group)
    taken: dict[str, int] = {}
    unique = []
    for group in named:
        taken[group.name] = taken.get(group.name, 0) + 1
        again = taken[group.name]
        unique.append(replace(group, name=f"{group.name}#{again}") if again > 1 else group)
    return unique
