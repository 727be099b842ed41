"""Exact widening of any model: more units, and the same outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError, whole, whole_seed
from semiflat.memory import check_floats
from semiflat.modules.blocks import all_run, is_stack, silences, stack_of, with_blocks
from semiflat.modules.capture import Captured, Example, capture, copied
from semiflat.modules.constants import check_constants, check_settled, taken_up
from semiflat.modules.flow import Flow
from semiflat.modules.groups import Slot, UnitGroup, Units
from semiflat.modules.groups import units as groups_of
from semiflat.modules.laws import SIGN, law
from semiflat.modules.signals import readers_of
from semiflat.modules.surgery import (
    EXACT,
    Change,
    Row,
    Rows,
    change_of_outputs,
    check_comparable,
    edit,
    float64,
    in_float64,
    one_of,
    outputs_of,
    replay,
    set_tensor,
    shaken,
)
from semiflat.records.shown import Facts, Shown

ROUNDINGS = 16
"""A wide model rounds in other places than a narrow one: by so many times what last places of weights do."""
UNSURE = 1e-8
"""A change of the outputs that is never taken for rounding of float64."""


@dataclass
class Widened(Shown):
    """A model with more units, and how far its outputs are from the given model's.

    Attributes:
        model: a new module of the same classes.
        group: the group that was widened, as it was before.
        size: how many units it has now.
        changes: the largest change of an output in float64 on the given inputs, relative to the outputs' size,
            in ``"train"`` and ``"eval"`` mode. Train mode is left out where something is drawn at random in it:
            there the outputs are equal in distribution at most.
        rounding: the same in the model's own dtype, in eval mode.
        attributes: attributes of modules that were changed.
        note: what should be known of it; ``""`` for nothing.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> wide = sf.widen(model, torch.randn(4, 3), "0", units=2)
    >>> wide.size, wide.attributes, sorted(wide.changes)
    (7, {'0.out_features': 7, '2.in_features': 7}, ['eval', 'train'])
    """

    model: nn.Module = field(repr=False)
    group: UnitGroup
    size: int
    changes: dict[str, float]
    rounding: float
    attributes: dict[str, Any]
    note: str
    _given: nn.Module = field(repr=False, default_factory=nn.Module)
    _edits: list[Change] = field(repr=False, default_factory=list)

    @property
    def output_change(self) -> float:
        """The largest of the changes."""
        return max(self.changes.values())

    def _facts(self) -> Facts:
        return {
            "group": self.group.name,
            "size": self.size,
            "output_change": self.output_change,
            "changes": self.changes,
            "rounding": self.rounding,
            "attributes": self.attributes,
            "note": self.note,
        }

    def carry(self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Any] = ()) -> Any:
        """A new optimiser for the new model, with the state that the given one has for the old model.

        Averages of gradients and of their squares follow the gradients, for SGD, Adam, AdamW, RMSprop and
        Adagrad; of other classes the state starts fresh. Options, groups of parameters and steps counted stay.
        What is not exact is said in one warning.

        Args:
            optimizer: of the model that was widened; it is not changed.
            schedulers: of that optimiser; they are not changed.

        Returns:
            The new optimiser; with schedulers, it and the list of the new ones.

        Raises:
            InputError: if the optimiser is of another model, or a scheduler of another optimiser.

        >>> import torch, semiflat as sf
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        >>> model(torch.ones(4, 3)).mean().backward()
        >>> optimizer.step()
        >>> wide = sf.widen(model, torch.ones(4, 3), "0", copies={0: [0.25, 0.75]})
        >>> new = wide.carry(optimizer)
        >>> before, after = (each.state_dict()["state"][1]["momentum_buffer"] for each in (optimizer, new))
        >>> [round(float(value), 6) for value in after / before[0]][::2]
        [0.25, 0.75]
        """
        from semiflat.modules.carry import carried

        return carried(self._given, self.model, self._edits, optimizer, schedulers)


Copies = Mapping[int, int | Sequence[Any]]
"""For a unit: how many copies; or the share of each; or a pair (scale, share) for each."""


def widen(
    model: nn.Module,
    example: Example,
    group: str | UnitGroup,
    *,
    units: int = 0,
    copies: Copies | None = None,
    incoming: Mapping[str, Any] | None = None,
    constants: Sequence[float] = (),
    seed: int = 0,
) -> Widened:
    """Add units to a group of a model, so that its outputs stay.

    Nothing is promised that is not measured: the new model is replayed in float64 on the given inputs. The
    given model, its buffers and the random state stay as they are.

    Args:
        model: any ``nn.Module``.
        example: inputs as :func:`units` takes them; the outputs are compared on them.
        group: of :func:`units`, or its name; or the name of a list of residual blocks of one class, to which
            as many new blocks are added as ``units`` says: copies of the last one with their last layers 0.
        units: how many new units to add. What writes them is drawn at random at the size of the others,
            or given; nothing reads them at first. In a stream with layer norms before what reads it they are
            its mean, with RMS norms zero, and are read at random.
        copies: for a unit, how many copies shall stand in its place, or the share with which each is read;
            the shares add up to 1, and may be negative or 0. A pair (scale, share) is a copy whose incoming
            weights are scaled: for units that are homogeneous, as those of ReLU are; then Σ scale · share is 1.
        incoming: values for the new units, by name of a tensor that writes them: its new places, in its shape.
        constants: biases of more new units, whose other incoming weights are 0: each gives a constant, is read
            at random, and is taken up by the biases of what reads it.
        seed: of what is drawn.

    Raises:
        InputError: if there is no such group, it cannot be changed, or what comes out is not the same.

    Source: theory §9; F19 §2.2.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> wide = sf.widen(model, torch.randn(4, 3), "0", units=2, copies={3: [0.25, 0.75]})
    >>> wide.model[0], wide.output_change < 1e-15
    (Linear(in_features=3, out_features=8, bias=True), True)
    """
    whole("units", units, 0)
    whole_seed(seed)
    if incoming is not None and not isinstance(incoming, Mapping):
        raise InputError(f"incoming must be a mapping from tensors to values, not {incoming!r:.60}")
    if isinstance(group, UnitGroup):
        chosen = group
        _check_of(model, chosen)
    else:
        found = groups_of(model, example)
        if group not in found and is_stack(model, group):
            more = bool(copies or incoming or constants)
            return _deepened(model, example, found, group, units, more)
        chosen = found[group]
    if chosen.refuses:
        raise InputError(f"the units of {chosen.name!r} cannot be changed: {chosen.refuses}")
    biases = finite_numbers("constants", constants)
    _check_room(model, chosen, units + len(biases), copies)
    if biases:
        check_constants(model, chosen)
    change = planned(chosen, units, copies or {}, incoming or {}, seed, biases)
    double, given = float64(model), in_float64(example)
    seen: dict[str, float] = {}
    limits, note = dict[str, float](), ""

    def exact(wide: nn.Module) -> bool:
        nonlocal limits, note
        seen.clear()
        seen.update(replay(double, wide, given))
        if beyond() and not limits:
            limits, note = tolerance(double, given)
        return not beyond()

    def beyond() -> bool:
        return any(seen[mode] > limits.get(mode, EXACT) for mode in seen)

    try:
        try:
            edited = edit(double, change, exact)
        except InputError:
            if not (change.free and change.new and seen):
                raise
            # A layer may read the units as they are before the norm, too: then none may hear the new ones.
            change.fill = unheard(change.fill)
            edited = edit(double, change, exact)
    except InputError:
        if beyond():
            check_comparable(outputs_of(copied(double).eval(), given))
            worst = max(seen, key=lambda mode: seen[mode] / limits.get(mode, EXACT))
            raise InputError(
                f"widening {chosen.name!r} changes the outputs by {seen[worst]:.1e} of their size in {worst} "
                f"mode, so it is not exact{why_not(chosen)}"
            ) from None
        raise
    if biases:
        steady = change.new[len(change.new) - len(biases) :]
        taken = taken_up(edited.model, chosen, change.size, steady, given, seed)
        for name, values in taken.items():
            set_tensor(edited.model, name, values)
        edited.tensors |= taken
        seen = replay(double, edited.model, given)
        if beyond():
            raise InputError(
                f"constant units of {chosen.name!r} change the outputs by {max(seen.values()):.1e} of their "
                "size: they are not constant everywhere"
            )
        check_settled(edited.model, chosen, steady, given)
    check_scales(model, example, change)
    if "train" not in seen:
        note = "; ".join(filter(None, [note, "in train mode something is drawn at random"]))
    wide = edited.applied_to(model)
    kept = dict((*wide.named_parameters(), *wide.named_buffers()))
    for name, tensor in edited.tensors.items():
        if bool(torch.isfinite(tensor).all()) and not bool(torch.isfinite(kept[name]).all()):
            raise InputError(
                f"{name!r} would hold numbers too large for {kept[name].dtype}; give smaller ones"
            )
    own = change_of_outputs(*(outputs_of(copied(each).eval(), example) for each in (model, wide)))
    return Widened(wide, chosen, change.size, dict(seen), own, edited.named, note, model, [change])


def check_scales(model: nn.Module, example: Example, change: Change) -> None:
    """Check that units whose incoming weights are scaled are scaled themselves, whatever the inputs are.

    Under norms over them that is not asked: what a norm gives is not scaled.

    Raises:
        InputError: if that is not known.
    """
    group = change.group
    scales = {factor for row in change.values["writes"] for _, factor in row}
    if scales == {1.0} or group.norms:
        return
    groups = groups_of(model, example)
    names = {slot.name for slot in group.of("writes", "adds")}
    how = law(groups._flow, names, [each.source for each in readers_of(groups, groups[group.name])])
    positive = how is not None and how.degree == 1 and how.positive
    turns = how is not None and how.degree == 1 and how.opposite == SIGN
    for scale in scales:
        if (scale not in (1.0, -1.0) and not positive) or (scale < 0 and not turns):
            raise InputError(
                f"units of {group.name!r} scaled by {scale:g} are exact on the example, but need not be on "
                "other inputs: what lies between them and their readers is not known to be homogeneous"
            )


def _check_of(model: nn.Module, group: UnitGroup) -> None:
    """Check that a group is one of a model.

    Raises:
        InputError: if the model has other tensors.
    """
    shapes = {
        name: each.shape for name, each in (*model.named_parameters(), *model.named_buffers())
    }
    for slot in group.slots:
        shape = shapes.get(slot.name, ())
        if slot.axis >= len(shape) or int(slot.positions.max()) >= shape[slot.axis]:
            raise InputError(
                f"the group {group.name!r} is of another model: here is no {slot.name!r} with such places; "
                "give its name, or ask units for the groups of this model"
            )


def _check_room(model: nn.Module, group: UnitGroup, more: int, copies: Any) -> None:
    """Check that there is memory for as many more units.

    Raises:
        InputError: if not.
    """
    if isinstance(copies, Mapping):
        more += sum(each for each in copies.values() if isinstance(each, int))
    named = dict((*model.named_parameters(), *model.named_buffers()))
    each = sum(
        named[slot.name].numel() // named[slot.name].shape[slot.axis] * slot.positions.shape[1]
        for slot in group.slots
    )
    # Copies of the model in float64, and what becomes of each unit as Python keeps it.
    check_floats(f"{more} more units of {group.name!r}", more * (4 * each + 200), "give fewer")


def _deepened(
    model: nn.Module, example: Example, groups: Units, name: str, count: int, more: bool
) -> Widened:
    if not count or more:
        raise InputError(
            f"{name!r} is a list of blocks: give units, a number of new ones, and no more"
        )
    stack = stack_of(model, name)
    last = list(model.get_submodule(name).children())[-1]
    each = sum(tensor.numel() for tensor in last.state_dict().values())
    check_floats(f"{count} more blocks of {name!r}", 4 * count * each, "give fewer")
    double, given = float64(model), in_float64(example)
    seen: dict[str, float] = {}
    for zero in silences(groups, name, model):
        deep = with_blocks(double, name, count, zero)
        try:
            runs = all_run(deep, name, given)
            seen = replay(double, deep, given)
        except Exception as error:  # whatever the model's own code raises
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"with one more block in {name!r} the model does not run ({line:.200}): its last block "
                "may change sizes, or its code count the blocks"
            ) from error
        if not runs:
            raise InputError(
                f"the model does not run a new block of {name!r}: its code counts the blocks"
            )
        if max(seen.values()) <= EXACT:
            note = "" if "train" in seen else "in train mode something is drawn at random"
            wide = with_blocks(model, name, count, zero)
            own = change_of_outputs(
                *(outputs_of(copied(each).eval(), example) for each in (model, wide))
            )
            return Widened(wide, stack, stack.size + count, seen, own, {}, note, model, [])
    raise InputError(
        f"new blocks in {name!r} change the outputs by {max(seen.values()):.1e} of their size, even with "
        "last layers of 0: what a block gives is not its input and a sum (post-norm?)"
    )


def why_not(group: UnitGroup) -> str:
    """What is known of why an edit of a group may not be exact."""
    if not group.norms:
        return (
            ": it depends on their number, or on a size that its code does not keep as an attribute"
        )
    norms = [where.split(" in ")[-1].strip("'") for _, where in group.norms]
    others = [slot.name for slot in group.of("between") if slot.module not in norms]
    why = (
        f"{others[0]!r} acts on them one by one before a norm over all of them"
        if others
        else "what a norm over them gives is added to, and normalised again (post-norm)"
    )
    return f": {why}; give every unit the same number of copies"


def tolerance(model: nn.Module, example: Example) -> tuple[dict[str, float], str]:
    """Up to which change of its outputs, by mode, a float64 model is the same; why, if that is more than usual.

    What a model computes may hang on the last places of its weights: a batch norm over two images that
    hardly differ divides by what is left of them. How far they move its outputs is measured, each mode apart:
    what is uncertain in one says nothing of the other.
    """
    limit, note = tolerance_of(capture(model, example))
    if note:
        return dict.fromkeys(("train", "eval"), limit), note
    own = replay(model, shaken(model), example)
    limits = dict.fromkeys(("train", "eval"), EXACT)
    for mode, moves in own.items():
        if EXACT < ROUNDINGS * moves < math.inf:
            limits[mode] = min(ROUNDINGS * moves, UNSURE)
    mode = max(own, key=own.__getitem__)
    if limits[mode] == EXACT:
        return limits, ""
    return limits, (
        f"the model rounds: in {mode} mode the last places of its weights change the outputs by "
        f"{own[mode]:.0e} of their size"
    )


def tolerance_of(captured: Captured) -> tuple[float, str]:
    """The same of one that was captured."""
    coarsest, where = lowest_precision(captured)
    if coarsest is None:
        return EXACT, ""
    return 64 * torch.finfo(coarsest).eps, f"the model rounds to {coarsest} at {where}".replace(
        "torch.", ""
    )


def lowest_precision(captured: Captured) -> tuple[torch.dtype | None, str]:
    """The coarsest type that a float64 model casts to on its way, and where."""
    found: tuple[torch.dtype | None, str] = None, ""
    for node in captured.graph.nodes:
        value = node.meta.get("val")
        if (
            node.op != "call_function"
            or not isinstance(value, Tensor)
            or not value.is_floating_point()
        ):
            continue
        coarser = torch.finfo(value.dtype).eps > torch.finfo(found[0] or torch.float64).eps
        if coarser and any(
            isinstance(each.meta.get("val"), Tensor) and each.meta["val"].dtype == torch.float64
            for each in node.all_input_nodes
        ):
            found = value.dtype, Flow(captured).where(node)
    return found


def default_shares(count: int) -> list[Fraction]:
    """Shares of so many copies: exact in binary, of sum 1, and different: equal ones would never part again.

    >>> [str(share) for share in default_shares(2)], [str(share) for share in default_shares(3)]
    (['3/8', '5/8'], ['3/16', '5/16', '1/2'])
    """
    if count == 1:
        return [Fraction(1)]
    whole_one = 2 ** ((count - 1).bit_length() + 2)
    parts = [whole_one // count + 2 * k - (count - 1) for k in range(count)]
    parts[-1] += whole_one - sum(parts)
    return [Fraction(part, whole_one) for part in parts]


def shares_of(unit: int, given: Any) -> list[tuple[float, float]]:
    """Scale and share of each copy of a unit.

    Raises:
        InputError: if they do not make up the unit.
    """
    if isinstance(given, int) and not isinstance(given, bool):
        if given < 1:
            raise InputError(f"unit {unit} would have {given} copies; expected at least 1")
        return [(1.0, float(share)) for share in default_shares(given)]
    try:
        pairs = []
        for each in given:
            scale, share = each if isinstance(each, tuple | list) else (1.0, each)
            pairs.append((float(scale), float(share)))
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the copies of unit {unit} must be a number, shares or pairs (scale, share), not {given!r:.60}"
        ) from error
    total = sum(scale * share for scale, share in pairs)
    if not pairs or not abs(total - 1) <= 1e-12:
        raise InputError(f"the shares of unit {unit} add up to {total:.12g}, not to 1")
    return pairs


def finite_numbers(name: str, given: Any) -> list[float]:
    """Numbers as a list.

    Raises:
        InputError: if they are none, or not finite.
    """
    try:
        numbers = [float(each) for each in given]
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be numbers, as [0.5, -1.0], not {given!r:.60}") from error
    if not all(math.isfinite(each) for each in numbers):
        raise InputError(f"{name} must be finite, not {given!r:.60}")
    return numbers


def planned(
    group: UnitGroup,
    units: int,
    copies: Copies,
    incoming: Mapping[str, Any],
    seed: int,
    constants: Sequence[float] = (),
) -> Change:
    """The change that new units and copies make.

    Raises:
        InputError: if units, shares or values do not fit the group.
    """
    units += len(constants)
    if not units and not copies:
        raise InputError(
            "nothing is to be added: give units, a number of new units, or copies of some"
        )
    if not isinstance(copies, Mapping):
        raise InputError(
            f"copies must be a mapping from units to what becomes of each, as {{0: 2}}, not {copies!r:.60}"
        )
    for unit in copies:
        if isinstance(unit, bool) or not isinstance(unit, int) or not 0 <= unit < group.size:
            raise InputError(
                f"there is no unit {unit!r} in {group.name!r}; units are 0 … {group.size - 1}"
            )
    ways = {unit: shares_of(unit, given) for unit, given in copies.items()}
    if group.kind == "head" and any(scale != 1 for pairs in ways.values() for scale, _ in pairs):
        raise InputError(
            f"{group.name!r} are heads, and copies of heads cannot be scaled: what one gives is no multiple of "
            "its weights; give shares alone"
        )
    # First the units as they were, then further copies in order, then new units.
    first = [(unit, *ways.get(unit, [(1.0, 1.0)])[0]) for unit in range(group.size)]
    more = [(unit, *pair) for unit, pairs in ways.items() for pair in pairs[1:]]
    made = [*first, *more]
    sources = [unit for unit, _, _ in made] + [-1] * units
    scales = [scale for _, scale, _ in made]
    shares = [share for _, _, share in made]
    squared = _enter_squared(group, ways)
    if squared:
        scales = shares = [share**0.5 for share in shares]
    read_rows = one_of(sources, [*shares, *[0.0] * units])
    scaled_rows = one_of(sources, [*scales, *[0.0] * units])
    copied_rows = one_of(sources, [1.0] * len(sources))
    passed_rows = one_of(
        sources, [*(a * b for a, b in zip(scales, shares, strict=True)), *[0.0] * units]
    )
    values = {
        "writes": scaled_rows,
        "adds": scaled_rows,
        "between": copied_rows,
        "shifts": scaled_rows if squared else copied_rows,
        "statistics": copied_rows,
        "reads": read_rows,
    }
    gradients = {
        "writes": read_rows,
        "adds": read_rows,
        "between": passed_rows,
        "shifts": read_rows,
        "statistics": copied_rows,
        "reads": scaled_rows,
    }
    new = list(range(len(made), len(sources)))
    change = Change(group, values, gradients, new)
    if group.norms and (squared or units):
        whole_multiple = 1 if squared else len(made) / group.size
        factor = whole_multiple * group.size / len(sources)
        change.rescale = factor**0.5, factor
    if new:
        _new_units(change, incoming, seed, constants)
    elif incoming:
        raise InputError("incoming gives values of new units; give their number, too: units=")
    return change


def _enter_squared(group: UnitGroup, ways: Mapping[int, list[tuple[float, float]]]) -> bool:
    """Whether copies get the root of their share on both sides, since their squares are what has to add up.

    So it is under RMS norms, and where one tensor both makes and reads the units.

    Raises:
        InputError: if the shares do not allow it.
    """
    if not ways:
        return False
    whats = {what for what, _ in group.norms}
    pairs = [ways.get(unit, [(1.0, 1.0)]) for unit in range(group.size)]
    alike = len({len(each) for each in pairs}) == 1
    both = sorted(name for name, _ in _places(group, "writes") & _places(group, "reads"))
    if "layer norm" in whats and not alike:
        where = next(where for what, where in group.norms if what == "layer norm")
        raise InputError(
            f"a layer norm is over the units of {group.name!r} ({where}): give every unit the same number of "
            f"copies, as copies={{unit: 2 for unit in range({group.size})}}"
        )
    if not both and (not whats or alike):
        return False
    why = f"{both[0]!r} both makes and reads" if both else "an RMS norm is over"
    flat = [pair for each in pairs for pair in each]
    if any(scale != 1 or share < 0 for scale, share in flat):
        raise InputError(
            f"{why} the units of {group.name!r}, which enter squared: give shares of 0 and more, and no scales"
        )
    if "layer norm" in whats and len({share for _, share in flat}) > 1:
        raise InputError(
            f"{why} the units of {group.name!r}, and a layer norm is over them: give each the same equal "
            f"shares, as copies={{unit: [0.5, 0.5] for unit in range({group.size})}}"
        )
    return True


def _places(group: UnitGroup, role: str) -> set[tuple[str, int]]:
    return {(slot.name, slot.axis) for slot in group.of(role)}


Fill = Callable[[Slot, Tensor, torch.Size], Tensor | None]


def unheard(fill: Fill | None) -> Fill:
    """Values of new units as before, but for what reads them, which is zero."""

    def but_reads(slot: Slot, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        return fill(slot, tensor, shape) if fill is not None and slot.role != "reads" else None

    return but_reads


def _mean(rows: Rows) -> Row:
    """What the mean of some units is made of."""
    total: dict[int, float] = {}
    for row in rows:
        for unit, factor in row:
            total[unit] = total.get(unit, 0.0) + factor / len(rows)
    return tuple(total.items())


def _new_units(
    change: Change, incoming: Mapping[str, Any], seed: int, constants: Sequence[float] = ()
) -> None:
    group = change.group
    generator = torch.Generator().manual_seed(seed)
    writers = {slot.name for slot in group.slots if slot.role != "reads"}
    reading = _places(group, "reads")
    tied = {s.name for s in group.slots if s.role != "reads" and (s.name, s.axis) in reading}
    for name in incoming:
        if name in tied:
            raise InputError(
                f"incoming names {name!r}, which both makes and reads the units of {group.name!r}: nothing may "
                "hear new ones, so it is 0 there; leave it out"
            )
        if name not in writers:
            raise InputError(
                f"incoming names {name!r}, which does not write {group.name!r}; {sorted(writers)} do"
            )
    whats = {what for what, _ in group.norms}
    change.free = "reads" if whats else ""
    if whats:
        kept = change.size - len(change.new)
        for role in ("writes", "adds", "between"):
            rows = change.values[role][:kept]
            mean = _mean(rows) if "layer norm" in whats or role == "between" else ()
            change.values[role] = rows + [mean] * len(change.new)

    def fill(slot: Slot, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        if slot.name in incoming and slot.role != "reads":
            try:
                given = torch.as_tensor(incoming[slot.name])
            except (TypeError, ValueError, RuntimeError) as error:
                raise InputError(
                    f"incoming[{slot.name!r}] must be numbers of the shape {tuple(shape)}, not "
                    f"{incoming[slot.name]!r:.60}"
                ) from error
            if given.shape != shape:
                raise InputError(
                    f"incoming[{slot.name!r}] has shape {tuple(given.shape)}; expected {tuple(shape)}"
                )
            if not bool(torch.isfinite(given).all()):
                raise InputError(f"incoming[{slot.name!r}] is not finite")
            return given
        # What may be anything: what writes a unit that nothing reads, what reads one that is zero.
        if (slot.role == "reads") != bool(whats):
            return None
        return _typical(slot.role, tensor, shape, generator)

    def steady(slot: Slot, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        values = fill(slot, tensor, shape)
        if values is None or slot.role not in ("writes", "adds"):
            return values
        # The places of a unit lie together, unit after unit, as new_places has them.
        laid = values.double().movedim(slot.axis, 0)
        by_unit = laid.reshape(len(change.new), -1).clone()
        own = torch.tensor(constants, dtype=torch.float64)
        by_unit[-len(own) :] = own[:, None] if slot.role == "adds" else 0
        return by_unit.reshape(laid.shape).movedim(0, slot.axis)

    change.fill = steady if constants else fill


def _typical(role: str, tensor: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Values for new units as the others have them: weights drawn, gains and statistics their mean."""
    values = tensor.double()
    if role in ("between", "shifts", "statistics"):
        return values.mean().expand(shape)
    spread = float(values.std(correction=0)) if values.numel() > 1 else float(values.abs().max())
    return torch.randn(shape, generator=generator, dtype=torch.float64) * spread
