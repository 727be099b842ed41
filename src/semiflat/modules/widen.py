"""Exact widening of any model: more units, and the same outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError, whole
from semiflat.modules.capture import Example, capture, copied
from semiflat.modules.flow import Flow
from semiflat.modules.groups import UnitGroup
from semiflat.modules.surgery import (
    EXACT,
    Change,
    change_of_outputs,
    edit,
    float64,
    in_float64,
    one_of,
    outputs_of,
    replay,
)
from semiflat.records.shown import Facts, Shown

DEFAULT_SHARE = Fraction(3, 8)
"""Of a unit that is split in two: not a half, since halves get the same gradients and never part again."""


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

        See :class:`semiflat.modules.carry.Carried`.

        Args:
            optimizer: of the model that was widened; it is not changed.
            schedulers: of that optimiser.

        Returns:
            The new optimiser; with schedulers, it and the list of the new ones.

        Raises:
            InputError: if the optimiser is of another model.
        """
        from semiflat.modules.carry import carried

        return carried(self._given, self.model, self._edits, optimizer, schedulers)


Copies = Mapping[int, int | Sequence[Any]]
"""For a unit: how many copies; or the share of each; or a pair (scale, share) for each."""


def widen(
    model: nn.Module,
    example: Example,
    group: str,
    *,
    units: int = 0,
    copies: Copies | None = None,
    incoming: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Widened:
    """Add units to a group of a model, so that its outputs stay.

    Nothing is promised that is not measured: the new model is replayed in float64 on the given inputs. The
    given model, its buffers and the random state stay as they are.

    Args:
        model: any ``nn.Module``.
        example: inputs as :func:`units` takes them; the outputs are compared on them.
        group: name of a group of :func:`units`.
        units: how many new units to add. What writes them is drawn at random at the size of the others,
            or given; nothing reads them at first. In a stream with layer norms before what reads it they are
            its mean, with RMS norms zero, and are read at random.
        copies: for a unit, how many copies shall stand in its place, or the share with which each is read;
            the shares add up to 1, and may be negative or 0. A pair (scale, share) is a copy whose incoming
            weights are scaled: for units that are homogeneous, as those of ReLU are; then Σ scale · share is 1.
        incoming: values for the new units, by name of a tensor that writes them: its new places, in its shape.
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
    from semiflat.modules.groups import units as groups_of

    whole("units", units, 0)
    groups = groups_of(model, example)
    chosen = groups[group]
    if chosen.refuses:
        raise InputError(f"the units of {group!r} cannot be changed: {chosen.refuses}")
    change = planned(chosen, units, copies or {}, incoming or {}, seed)
    limit, note = tolerance(model, example)
    double, given = float64(model), in_float64(example)
    seen: dict[str, float] = {}

    def exact(wide: nn.Module) -> bool:
        seen.clear()
        seen.update(replay(double, wide, given))
        return max(seen.values()) <= limit

    try:
        edited = edit(double, change, given, exact)
    except InputError:
        if seen and max(seen.values()) > limit:
            worst = max(seen, key=seen.__getitem__)
            raise InputError(
                f"widening {group!r} changes the outputs by {seen[worst]:.1e} of their size in {worst} mode, "
                f"so it is not exact{why_not(chosen)}"
            ) from None
        raise
    if "train" not in seen:
        note = "; ".join(filter(None, [note, "in train mode something is drawn at random"]))
    wide = edited.applied_to(model)
    own = change_of_outputs(*(outputs_of(copied(each).eval(), example) for each in (model, wide)))
    return Widened(wide, chosen, change.size, dict(seen), own, edited.named, note, model, [change])


def why_not(group: UnitGroup) -> str:
    """What is known of why an edit of a group may not be exact."""
    if group.norms:
        return (
            ": a norm over the units is read otherwise than before every layer (post-norm?); widen every unit "
            "by the same number of copies"
        )
    return ""


def tolerance(model: nn.Module, example: Example) -> tuple[float, str]:
    """Up to which change of its outputs in float64 a model is the same, and why if it is not rounding."""
    coarsest, where = lowest_precision(model, example)
    if coarsest is None:
        return EXACT, ""
    return 64 * torch.finfo(coarsest).eps, f"the model rounds to {coarsest} at {where}".replace(
        "torch.", ""
    )


def lowest_precision(model: nn.Module, example: Example) -> tuple[torch.dtype | None, str]:
    """The coarsest type that a float64 copy of the model casts to on its way, and where."""
    captured = capture(float64(model), in_float64(example))
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
    """Shares of so many copies: different, exact in binary, of sum 1.

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
        pairs = [
            (float(each[0]), float(each[1]))
            if isinstance(each, tuple | list)
            else (1.0, float(each))
            for each in given
        ]
    except (TypeError, ValueError, IndexError) as error:
        raise InputError(
            f"the copies of unit {unit} must be a number, shares or pairs (scale, share), not {given!r:.60}"
        ) from error
    total = sum(scale * share for scale, share in pairs)
    if not pairs or not abs(total - 1) <= 1e-12:
        raise InputError(f"the shares of unit {unit} add up to {total:.12g}, not to 1")
    return pairs


def planned(
    group: UnitGroup,
    units: int,
    copies: Copies,
    incoming: Mapping[str, Any],
    seed: int,
) -> Change:
    """The change that new units and copies make.

    Raises:
        InputError: if units, shares or values do not fit the group.
    """
    if not units and not copies:
        raise InputError(
            "nothing is to be added: give units, a number of new units, or copies of some"
        )
    for unit in copies:
        if not isinstance(unit, int) or not 0 <= unit < group.size:
            raise InputError(
                f"there is no unit {unit!r} in {group.name!r}; units are 0 … {group.size - 1}"
            )
    ways = {unit: shares_of(unit, given) for unit, given in copies.items()}
    # First the units as they were, then further copies in order, then new units.
    first = [(unit, *ways.get(unit, [(1.0, 1.0)])[0]) for unit in range(group.size)]
    more = [(unit, *pair) for unit, pairs in ways.items() for pair in pairs[1:]]
    made = [*first, *more]
    sources = [unit for unit, _, _ in made] + [-1] * units
    scales = [scale for _, scale, _ in made] + [0.0] * units
    shares = [share for _, _, share in made] + [0.0] * units
    ones = [1.0] * len(sources)
    copied_rows, read_rows = one_of(sources, ones), one_of(sources, shares)
    scaled_rows = one_of(sources, scales)
    values = {
        "writes": scaled_rows,
        "adds": scaled_rows,
        "between": copied_rows,
        "shifts": copied_rows,
        "statistics": copied_rows,
        "reads": read_rows,
    }
    gradients = {
        "writes": read_rows,
        "adds": read_rows,
        "between": read_rows,
        "shifts": read_rows,
        "statistics": copied_rows,
        "reads": scaled_rows,
    }
    new = list(range(len(made), len(sources)))
    change = Change(group, values, gradients, new)
    if new:
        _new_units(change, incoming, seed)
    return change


def _new_units(change: Change, incoming: Mapping[str, Any], seed: int) -> None:
    group = change.group
    generator = torch.Generator().manual_seed(seed)
    writers = {slot.name for slot in group.slots if slot.role != "reads"}
    for name in incoming:
        if name not in writers:
            raise InputError(
                f"incoming names {name!r}, which does not write {group.name!r}; {sorted(writers)} do"
            )
    whats = {what for what, _ in group.norms}
    kept = len(change.values["reads"]) - len(change.new)
    if whats:
        factor = kept / change.size
        change.rescale = factor**0.5, factor
        mean: Any = tuple((unit, 1 / group.size) for unit in range(group.size))
        row = mean if "layer norm" in whats else ()
        for role in ("writes", "adds"):
            change.values[role] = change.values[role][:kept] + [row] * len(change.new)
        change.values["between"] = change.values["between"][:kept] + [mean] * len(change.new)

    def fill(slot: Any, tensor: Tensor, shape: torch.Size) -> Tensor | None:
        if slot.name in incoming:
            given = torch.as_tensor(incoming[slot.name])
            if given.shape != shape:
                raise InputError(
                    f"incoming[{slot.name!r}] has shape {tuple(given.shape)}; expected {tuple(shape)}"
                )
            return given
        # What may be anything: what writes a unit that nothing reads, what reads one that is zero.
        if (slot.role == "reads") != bool(whats):
            return None
        return _typical(slot.role, tensor, shape, generator)

    change.fill = fill


def _typical(role: str, tensor: Tensor, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Values for new units as the others have them: weights drawn, gains and statistics their mean."""
    values = tensor.double()
    if role in ("between", "shifts", "statistics"):
        return values.mean().expand(shape)
    spread = float(values.std(correction=0)) if values.numel() > 1 else float(values.abs().max())
    return torch.randn(shape, generator=generator, dtype=torch.float64) * spread
