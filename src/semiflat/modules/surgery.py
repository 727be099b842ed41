"""Edits of a model: tensors remade along the axes of a group of units, attributes that follow, the replay."""

from __future__ import annotations

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.capture import (
    Example,
    called_with,
    copied,
    same_random_state,
    second_derivatives,
    tensors_in,
)
from semiflat.modules.groups import Slot, UnitGroup

Row = tuple[tuple[int, float], ...]
"""What a new unit is made of: old units and coefficients; () for zeros."""
Rows = list[Row]

EXACT = 1e-12
"""Change of the outputs in float64, relative to their size, up to which an edit is exact."""
MOST_TRIALS = 64
"""Sets of attributes of a model's own classes that are tried."""


def one_of(sources: Sequence[int], factors: Sequence[float]) -> Rows:
    """Rows of one old unit each; a negative source stands for zeros."""
    return [
        ((source, float(factor)),) if source >= 0 else ()
        for source, factor in zip(sources, factors, strict=True)
    ]


@dataclass
class Change:
    """What becomes of the units of a group: rows for each role of a slot.

    Values and gradients change by rows of their own: a copy with share λ is written as its unit and read λ
    times, so the gradient of what writes it is λ times the unit's, and of what reads it the unit's.

    Attributes:
        group: the group.
        values: by role.
        gradients: by role; what optimisers keep follows them.
        new: places of new units that carry nothing on from an old one.
        fill: gives values of new units in a slot, in the shape of these places of the tensor; None for what
            the rows say.
        rescale: factor on gains of norms over the units, and on their eps.
        free: a role in which new units may have any values, as what reads a unit that is zero.
    """

    group: UnitGroup
    values: dict[str, Rows]
    gradients: dict[str, Rows]
    new: list[int] = field(default_factory=list)
    fill: Callable[[Slot, Tensor, torch.Size], Tensor | None] | None = None
    rescale: tuple[float, float] | None = None
    free: str = ""

    @property
    def size(self) -> int:
        """How many units there are afterwards."""
        return len(self.values["reads"])


# -- tensors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How the units lie along an axis: segments in which they follow one another, and what lies between.

    Attributes:
        length: of the axis.
        segments: first place of the first unit, and places of each unit, for each segment.
    """

    length: int
    segments: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, slot: Slot, length: int) -> Layout:
        """The layout of a slot.

        Raises:
            InputError: if the units do not follow one another.
        """
        places = slot.positions
        units, each = places.shape
        segments, at = [], 0
        while at < each:
            size = 1
            while at + size < each and bool((places[:, at + size] == places[:, at] + size).all()):
                size += 1
            steps = places[1:, at] - places[:-1, at]
            if units > 1 and bool((steps == 1).all()):
                size = 1  # first one place of every unit, then the next
            elif units > 1 and not bool((steps == size).all()):
                raise InputError(
                    f"the units of {slot.name!r} do not follow one another along axis {slot.axis}; this order "
                    "cannot be edited"
                )
            segments.append((int(places[0, at]), size))
            at += size
        return cls(length, tuple(sorted(segments)))


def remade(tensor: Tensor, slot: Slot, rows: Rows) -> Tensor:
    """A tensor with new units along a slot's axis; what belongs to no unit stays.

    Args:
        rows: what each new unit is made of.
    """
    moved = tensor.movedim(slot.axis, 0)
    layout = Layout.of(slot, len(moved))
    units = len(slot.positions)
    parts, at = [], 0
    for start, size in layout.segments:
        parts.append(moved[at:start])
        segment = moved[start : start + units * size].reshape(units, size, *moved.shape[1:])
        parts.append(_combined(segment, rows).reshape(-1, *moved.shape[1:]))
        at = start + units * size
    parts.append(moved[at:])
    return torch.cat(parts).movedim(0, slot.axis).contiguous()


def _combined(segment: Tensor, rows: Rows) -> Tensor:
    firsts = torch.tensor([row[0][0] if row else 0 for row in rows], dtype=torch.long)
    factors = torch.tensor([row[0][1] if row else 0.0 for row in rows], dtype=torch.float64)
    out = segment[firsts.to(segment.device)]
    if not bool((factors == 1).all()):
        scale = factors.to(segment).view(-1, *[1] * (segment.ndim - 1))
        out = (
            torch.where(scale == 0, torch.zeros_like(out), out * scale)
            if out.is_floating_point()
            else out
        )
    for place, row in enumerate(rows):
        if len(row) > 1:
            wide = segment[[source for source, _ in row]].double()
            weights = torch.tensor([factor for _, factor in row], dtype=torch.float64)
            out[place] = torch.tensordot(weights.to(wide), wide, 1).to(out)
    return out


def new_places(slot: Slot, length: int, size: int, units: Sequence[int]) -> Tensor:
    """Where units lie along the axis after an edit to a group of another size, (units, positions)."""
    layout = Layout.of(slot, length)
    columns, shift = [], 0
    for start, each in layout.segments:
        first = start + shift + torch.tensor(list(units))[:, None] * each
        columns.append(first + torch.arange(each))
        shift += (size - len(slot.positions)) * each
    return torch.cat(columns, 1)


# -- the model -------------------------------------------------------------------------------------


@dataclass
class Edited:
    """A model after an edit.

    Attributes:
        model: it.
        tensors: values of the tensors that were changed, by name.
        attributes: attributes of modules that were changed, by module and name.
    """

    model: nn.Module
    tensors: dict[str, Tensor]
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)

    def applied_to(self, model: nn.Module) -> nn.Module:
        """A copy of a model, of whatever dtype, with the same edit."""
        out = copied(model)
        for name, values in self.tensors.items():
            set_tensor(out, name, values)
        for (path, name), value in self.attributes.items():
            setattr(out.get_submodule(path), name, value)
        return out

    @property
    def named(self) -> dict[str, Any]:
        """The attributes, by dotted name."""
        return {
            f"{path}.{name}".lstrip("."): value for (path, name), value in self.attributes.items()
        }


def holder(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a tensor, and what it calls it."""
    module, _, own = name.rpartition(".")
    return model.get_submodule(module), own


def names_of(model: nn.Module) -> dict[int, list[str]]:
    """All names of each tensor, by its identity."""
    found: dict[int, list[str]] = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        found.setdefault(id(tensor), []).append(name)
    return found


def set_tensor(model: nn.Module, name: str, values: Tensor) -> None:
    """Put other values under all names of a tensor; a parameter stays one, and trained or frozen as it was."""
    module, own = holder(model, name)
    old = getattr(module, own)
    names = names_of(model)[id(old)]
    fresh = values.to(old.dtype)
    if isinstance(old, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=old.requires_grad)
    for each in names:
        there, called = holder(model, each)
        if isinstance(fresh, nn.Parameter):
            there._parameters[called] = fresh
        else:
            there._buffers[called] = fresh


def changed_tensors(model: nn.Module, change: Change) -> dict[str, Tensor]:
    """The tensors of a group after a change, by name."""
    found: dict[str, Tensor] = {}
    done: set[tuple[str, int]] = set()
    named = dict((*model.named_parameters(), *model.named_buffers()))
    with torch.no_grad():
        for slot in change.group.slots:
            others = {
                s.role for s in change.group.slots if (s.name, s.axis) == (slot.name, slot.axis)
            }
            if (slot.name, slot.axis) in done:
                continue
            done.add((slot.name, slot.axis))
            values = [change.values[role] for role in sorted(others)]
            bound = sorted(others - {change.free})
            if bound and change.free in others:
                # A tensor that both makes and reads the units has new ones as the role says that is not free.
                kept = change.size - len(change.new)
                new = change.values[bound[0]][kept:]
                values = [[*rows[:kept], *new] for rows in values]
            if any(each != values[0] for each in values[1:]):
                raise InputError(
                    f"{slot.name!r} both makes and reads the units of {change.group.name!r}, which asks for "
                    "other values of it"
                )
            tensor = found.get(slot.name, named[slot.name].detach())
            remake = remade(tensor, slot, values[0])
            if (
                change.new
                and change.fill is not None
                and (len(others) == 1 or "reads" not in others)
            ):
                places = new_places(slot, tensor.shape[slot.axis], change.size, change.new).reshape(
                    -1
                )
                places = places.to(remake.device)
                fresh = change.fill(slot, tensor, remake.index_select(slot.axis, places).shape)
                if fresh is not None:
                    remake.index_copy_(slot.axis, places, fresh.to(remake))
            found[slot.name] = remake
    return found


TORCHS_OWN = frozenset(vars(nn.Module()))
"""Attributes that every module has."""

NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def known_attributes(module: nn.Module, tensors: dict[str, Tensor]) -> dict[str, Any] | None:
    """What a module of torch's own calls its sizes, read off its tensors; None for other classes."""
    if isinstance(module, NORMS):
        return {}  # these may have no tensors: see _normalised
    weight = tensors.get("weight")
    if weight is None:
        return None
    if isinstance(module, nn.Linear):
        return {"out_features": weight.shape[0], "in_features": weight.shape[1]}
    if isinstance(module, nn.modules.conv._ConvNd):
        first, second = ("in", "out") if module.transposed else ("out", "in")
        groups = module.groups
        if groups > 1:
            old = module.out_channels if not module.transposed else module.in_channels
            groups = weight.shape[0] * groups // old
        return {
            f"{first}_channels": weight.shape[0],
            f"{second}_channels": weight.shape[1] * groups,
            "groups": groups,
        }
    if isinstance(module, nn.Embedding):
        return {"num_embeddings": weight.shape[0], "embedding_dim": weight.shape[1]}
    if isinstance(module, nn.PReLU):
        return {"num_parameters": len(weight)}
    return None


def _normalised(module: nn.Module, more: int) -> dict[str, Any]:
    """Sizes of a norm that gets more places."""
    if isinstance(module, nn.GroupNorm):
        channels = module.num_channels + more
        groups = module.num_groups * channels // module.num_channels
        return {"num_channels": channels, "num_groups": groups}
    if isinstance(module, nn.LayerNorm | nn.RMSNorm):
        *others, last = module.normalized_shape
        return {"normalized_shape": (*others, last + more)}
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return {"num_features": module.num_features + more}
    return {}


def _own_tensors(module: nn.Module) -> dict[str, Tensor]:
    every = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in every.items() if tensor is not None}


def edit(model: nn.Module, change: Change, accept: Callable[[nn.Module], bool]) -> Edited:
    """A copy of a model in which a group's units are changed.

    Attributes of torch's classes follow their tensors. Whole numbers that other classes keep are tried where
    they are a size that has changed, as few as do, until the copy is accepted, which may fail to run.

    Raises:
        InputError: if no such copy runs.
    """
    wide = copied(model)
    tensors = changed_tensors(model, change)
    for name, values in tensors.items():
        set_tensor(wide, name, values)
    touched = {name.rpartition(".")[0] for name in tensors}
    set_to: dict[tuple[str, str], Any] = {}
    for path in sorted(touched):
        module = wide.get_submodule(path)
        known = known_attributes(module, _own_tensors(module))
        for name, value in (known or {}).items():
            if getattr(module, name) != value:
                set_to[path, name] = value
    for path, places in change.group.passes:
        after = _normalised(wide.get_submodule(path), (change.size - change.group.size) * places)
        set_to |= {(path, name): value for name, value in after.items()}
    for (path, name), value in set_to.items():
        setattr(wide.get_submodule(path), name, value)
    if change.rescale is not None:
        set_to |= _rescale(wide, change, tensors)
    first: Exception | None = None
    for trial in _trials(model, change, touched):
        for (path, name), value in trial.items():
            setattr(wide.get_submodule(path), name, value)
        try:
            if accept(wide):
                return Edited(wide, tensors, set_to | trial)
        except Exception as error:  # whatever the model's own code raises for sizes that do not fit
            first = first or error
        for path, name in trial:
            old = getattr(model.get_submodule(path), name)
            setattr(wide.get_submodule(path), name, copy.deepcopy(old))
    line = str(first).splitlines()[0] if first and str(first) else "other sizes come out"
    raise InputError(
        f"with {change.size} units of {change.group.name!r} the model does not run ({line:.200}): its code "
        "takes their number from somewhere else; let it read sizes off the tensors (as -1 in a view), or keep "
        "them as attributes of the module"
    )


def outputs_of(model: nn.Module, example: Example, seed: int = 0) -> list[Tensor]:
    """What a model gives for an example, without a trace of it having run.

    The model's buffers may change: give a copy.
    """
    args, kwargs = called_with(example)
    with torch.no_grad(), same_random_state(), second_derivatives():
        torch.manual_seed(seed)
        return tensors_in(model(*copy.deepcopy(args), **copy.deepcopy(kwargs)))


def _trials(
    model: nn.Module, change: Change, touched: set[str]
) -> Iterator[dict[tuple[str, str], Any]]:
    """Sets of attributes to try: none, then one, two, …; with numbers of heads first, then without.

    An attribute is set in all modules of a class in which it has the same value, so that the sets are few.
    """
    sizes, held = _changed_sizes(model, change)
    found: dict[Any, dict[tuple[str, str], Any]] = {}
    heads: dict[tuple[str, str], Any] = {}
    shapes = [path for path, each in model.named_modules() if isinstance(each, nn.Unflatten)]
    for path in [*_around(touched), *shapes]:
        module = model.get_submodule(path)
        if known_attributes(module, _own_tensors(module)) is not None:
            continue
        for name, value in vars(module).items():
            if name in TORCHS_OWN:
                continue
            after = _after(value, held.get(path, sizes))
            if after is None:
                continue
            if change.group.kind == "head" and _counts_heads(name, value, change.group.size):
                heads[path, name] = after
            else:
                key = type(module), name, str(value), str(after)
                found.setdefault(key, {})[path, name] = after
    count = 0
    for size in range(len(found) + 1):
        for some in itertools.combinations(found, size):
            chosen = {place: value for key in some for place, value in found[key].items()}
            yield heads | chosen
            if heads:
                yield chosen
            count += 1
            if count > MOST_TRIALS:
                return


def _counts_heads(name: str, value: Any, size: int) -> bool:
    """Whether an attribute says how many heads there are, or how many places they have, but not one's size."""
    if "head" not in name.lower():
        return False
    of_one = re.search("dim|size|width", name.lower()) is not None
    return bool(value != size if of_one else value == size)


def _around(touched: set[str]) -> list[str]:
    """The modules that hold changed tensors and those around them, inmost first."""
    paths = {""}
    for path in touched:
        parts = path.split(".") if path else []
        paths |= {".".join(parts[:count]) for count in range(1, len(parts) + 1)}
    return sorted(paths, key=lambda path: (-path.count("."), path == "", path))


def _changed_sizes(
    model: nn.Module, change: Change
) -> tuple[dict[int, int], dict[str, dict[int, int]]]:
    """Old sizes and what they become: of the group, its parts and axes; and of each module's axes."""
    old, new = change.group.size, change.size
    sizes, held = {old: new}, dict[str, dict[int, int]]()
    for slot in change.group.slots:
        module, own = holder(model, slot.name)
        length = getattr(module, own).shape[slot.axis]
        for _, each in Layout.of(slot, length).segments:
            sizes.setdefault(old * each, new * each)
        after = length + (new - old) * slot.positions.shape[1]
        sizes.setdefault(length, after)
        held.setdefault(slot.module, {})[length] = after
    return sizes, held


def _after(value: Any, sizes: dict[int, int]) -> Any:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return sizes.get(value)
    if isinstance(value, tuple | list) and value and all(type(each) is int for each in value):
        after = [sizes.get(each, each) for each in value]
        return type(value)(after) if after != list(value) else None
    return None


def _rescale(
    wide: nn.Module, change: Change, tensors: dict[str, Tensor]
) -> dict[tuple[str, str], Any]:
    """Gains and eps of the norms over the units, so that what they give the old units stays."""
    assert change.rescale is not None
    gain, eps = change.rescale
    set_to: dict[tuple[str, str], Any] = {}
    for path, name in norm_gains(change.group, wide):
        module = wide.get_submodule(path)
        full = f"{path}.{name}".lstrip(".")
        tensors[full] = getattr(module, name).detach() * gain
        set_tensor(wide, full, tensors[full])
        (called,) = eps_of(module, path)
        before = getattr(module, called)
        if before is None:
            before = torch.finfo(getattr(module, name).dtype).eps
        set_to[path, called] = before * eps
        setattr(module, called, before * eps)
    return set_to


def norm_gains(group: UnitGroup, model: nn.Module) -> list[tuple[str, str]]:
    """Modules that normalise over the units, and the names of their gains.

    Raises:
        InputError: if a norm has no gain that could be rescaled.
    """
    found = []
    for _, where in group.norms:
        path = where.split(" in ")[-1].strip("'") if " in " in where else ""
        module = model.get_submodule(path)
        own = [slot.name for slot in group.of("between") if slot.module == path]
        if len(own) != 1:
            raise InputError(
                f"the norm {path!r} has no gain that could be rescaled for more units of {group.name!r}; "
                "widen every unit by the same number of copies"
            )
        eps_of(module, path)
        found.append((path, own[0].rpartition(".")[2]))
    return found


def eps_of(module: nn.Module, path: str) -> list[str]:
    """The name of the only attribute of a norm that is its eps.

    Raises:
        InputError: if there is not one.
    """
    names = [name for name in vars(module) if "eps" in name.lower()]
    if len(names) != 1:
        raise InputError(
            f"the norm {path!r} has {len(names)} attributes that could be its eps; one is needed"
        )
    return names


# -- the replay ------------------------------------------------------------------------------------


def float64(model: nn.Module) -> nn.Module:
    """A copy of a model in float64."""
    return copied(model).to(torch.float64)


def in_float64(example: Any) -> Any:
    """An example with its floating-point tensors in float64."""
    if isinstance(example, Tensor):
        example = example.detach()
        return example.to(torch.float64) if example.is_floating_point() else example
    if isinstance(example, tuple | list):
        return type(example)([in_float64(each) for each in example])
    if isinstance(example, dict):
        return {key: in_float64(each) for key, each in example.items()}
    return example


def gaps(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[tuple[float, float]]:
    """The largest difference of each output, infinite where they are no match, and its size: of the first."""
    if len(one) != len(other):
        return [(math.inf, 0.0)]
    found = []
    for a, b in zip(one, other, strict=True):
        if a.shape != b.shape:
            found.append((math.inf, 0.0))
            continue
        if not a.numel() or not a.is_floating_point():
            found.append((0.0 if torch.equal(a, b) else math.inf, 0.0))
            continue
        alike, known = (a == b) | (a.isnan() & b.isnan()), torch.isfinite(a)
        if not bool(known.any()) or not bool(torch.isfinite((a - b)[~alike]).all()):
            found.append((math.inf, 0.0))  # nothing is compared, or not all that differs is finite
            continue
        gap = torch.where(alike, 0.0, a - b).abs().max()
        found.append((float(gap), float(a[known].abs().max())))
    return found


def change_of_outputs(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """The largest difference of two lists of outputs, relative to the size of the first."""
    return max((gap / (size or 1.0) for gap, size in gaps(one, other)), default=0.0)


def replay(model: nn.Module, wide: nn.Module, example: Example) -> dict[str, float]:
    """The change of the outputs in train and eval mode; train is left out where something is drawn at random.

    On the example, on one beside it, and on half of it: what an example of zeros, or so many samples, do not
    show must not pass.

    Args:
        model, wide: float64, as are the inputs; they are not changed.
    """
    found = {}
    for mode in ("train", "eval"):
        train = mode == "train"
        one = outputs_of(copied(model).train(train), example)
        if train and not same_tensors(one, outputs_of(copied(model).train(train), example, seed=1)):
            continue
        found[mode] = change_of_outputs(one, outputs_of(copied(wide).train(train), example))
        for other in (_beside(example), _half(example)):
            if other is None:
                continue
            try:
                one = outputs_of(copied(model).train(train), other)
            except Exception:  # it is anybody's code, and may take none but certain inputs
                continue
            if all(bool(torch.isfinite(each).all()) for each in one if each.is_floating_point()):
                beside = change_of_outputs(one, outputs_of(copied(wide).train(train), other))
                found[mode] = max(found[mode], beside)
    return found


def _half(example: Example) -> Example | None:
    """The first half of an example's samples, whose number a branch may depend on; None where none is known."""
    leaves = [leaf for leaf in torch.utils._pytree.tree_leaves(example) if isinstance(leaf, Tensor)]
    sizes = {leaf.shape[:1] for leaf in leaves}
    if len(sizes) != 1 or not min(sizes) or min(sizes)[0] < 2:
        return None
    half: Example = torch.utils._pytree.tree_map(
        lambda leaf: leaf[: len(leaf) // 2] if isinstance(leaf, Tensor) else leaf, example
    )
    return half


def _beside(example: Example) -> Example | None:
    """The example with its real numbers moved at random, and others drawn again.

    The samples are moved by about their own size and up to a thousand times as far: on these few numbers a
    function may be linear, or 0, that is not on others.

    Whole numbers are drawn from those between the least and the largest there, 0 and 1 among them: they
    may be places, or a mask. None if there is nothing to move.
    """
    chance = torch.Generator().manual_seed(0)
    moved = False

    def move(leaf: Any) -> Any:
        nonlocal moved
        if not isinstance(leaf, Tensor) or not leaf.numel() or leaf.is_complex():
            return leaf
        moved = True
        if leaf.dtype == torch.bool:
            return torch.randint(0, 2, leaf.shape, generator=chance).to(leaf)
        if not leaf.is_floating_point():
            least, most = min(0, int(leaf.min())), max(1, int(leaf.max()))
            return torch.randint(least, most + 1, leaf.shape, generator=chance).to(leaf)
        step = torch.randn(leaf.shape, generator=chance, dtype=torch.float64).to(leaf)
        far = 10 ** (3 * torch.arange(1, len(leaf) + 1).to(leaf) / len(leaf)) if leaf.ndim else 1.0
        far = far.view(-1, *[1] * (leaf.ndim - 1)) if isinstance(far, Tensor) else far
        return leaf + step * far * (float(leaf.abs().mean()) or 1.0)

    other: Example = torch.utils._pytree.tree_map(move, example)
    return other if moved else None


def shaken(model: nn.Module) -> nn.Module:
    """A copy of a float64 model with each of its weights moved by about its last place."""
    other, chance = copied(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for each in filter(Tensor.is_floating_point, other.parameters()):
            ways = 2.0 * torch.randint(0, 2, each.shape, generator=chance) - 1
            each.mul_(1 + torch.finfo(torch.float64).eps * ways.to(each))
    return other


def same_tensors(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    """Whether two lists of outputs are equal to the last bit, numbers that are none at the same places too."""
    return all(
        a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())
        for a, b in zip(one, other, strict=True)
    )


def check_comparable(outputs: Sequence[Tensor]) -> None:
    """Check that there is something in a model's outputs that others can be held against.

    Raises:
        InputError: if none of their numbers is finite.
    """
    known = [torch.isfinite(each) for each in outputs if each.is_floating_point() and each.numel()]
    if known and not any(bool(each.any()) for each in known):
        raise InputError(
            "no output of the model is finite on the given inputs, so nothing can be compared: look at the "
            "inputs, and at the model's parameters and buffers"
        )
