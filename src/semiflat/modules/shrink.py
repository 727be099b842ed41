"""Shrinking of any model: fewer units, and the same outputs, or nearly the same on given batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError, finite_number
from semiflat.modules.batches import Batches, moved
from semiflat.modules.capture import check_model, copied
from semiflat.modules.groups import UnitGroup, Units
from semiflat.modules.signals import Look, look
from semiflat.modules.spare import ANY_INPUT, ON_DATA, WITHIN, Rules, Spared
from semiflat.modules.surgery import (
    EXACT,
    Change,
    Edited,
    edit,
    float64,
    one_of,
    outputs_of,
    same_tensors,
    set_tensor,
)
from semiflat.records.shown import Facts, Rows, Shown
from semiflat.reduction.state import GIVEN, ROUNDING

_REASONS = {
    "unheard": "nothing reads it",
    "dead": "it is 0",
    "constant": "it is constant",
    "duplicate": "it is another unit again",
    "opposite": "it is the opposite of another unit",
    "proportional": "it is a multiple of another unit",
    "dependent": "it is a combination of other units",
    "nearly dependent": "it is nearly a combination of other units",
    "nearly constant": "it is nearly constant",
}


@dataclass(frozen=True)
class SparedUnit(Shown):
    """A unit that was left out, and why.

    Attributes:
        group: its name in the given model.
        unit: its place in the group there.
        rule: ``"unheard"``, ``"dead"``, ``"constant"``, ``"duplicate"``, ``"opposite"``, ``"proportional"``,
            ``"dependent"``, ``"nearly dependent"`` or ``"nearly constant"``; some up to a constant, which
            biases take up.
        holds: ``"any input"``, ``"these batches"`` to rounding, or ``"the tolerance"``.
        by: the units that took its place when it went, in the given model; the three that count most.
        reason: a sentence.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> wide = sf.widen(model, torch.randn(4, 3), "0", copies={3: [0.25, 0.75]}).model
    >>> print(sf.shrink(wide, torch.randn(20, 3)).removed[0])
    unit 5 of '0': for any input, it is another unit again (3)
    """

    group: str
    unit: int
    rule: str
    holds: str
    by: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        return f"unit {self.unit} of {self.group!r}: {self.reason}"


@dataclass
class Shrunk(Rows):
    """A model with fewer units, what was left out, and how far its outputs are from the given model's.

    Attributes:
        model: a new module of the same classes.
        removed: a :class:`SparedUnit` for each unit left out, in the order they went.
        widths: for each group that can be changed, units before and after.
        bound: the largest change of an output on the given batches, in float64 and in the model's mode,
            relative to the largest output. It says nothing of other inputs; units removed for any input
            change none, but for rounding.
        changes: the same in ``"train"`` and ``"eval"`` mode; train mode is left out where it draws at random.
        mode: ``"train"`` or ``"eval"``: that of the model, in which its units were looked at.
        tolerance: as given.
        refused: groups that cannot be changed, and why.
        attributes: attributes of modules that were changed.

    A list of what was removed, too: ``to_dataframe()``.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> wide = sf.widen(model, torch.randn(4, 3), "0", units=2).model
    >>> small = sf.shrink(wide, torch.randn(20, 3))
    >>> small.widths, len(small.removed), small.bound < 1e-12
    ({'0': (7, 5)}, 2, True)
    """

    model: nn.Module = field(repr=False)
    removed: list[SparedUnit]
    widths: dict[str, tuple[int, int]]
    bound: float
    changes: dict[str, float]
    mode: str
    tolerance: float
    refused: dict[str, str]
    attributes: dict[str, Any]
    _given: nn.Module = field(repr=False, default_factory=nn.Module)
    _edits: list[Change] = field(repr=False, default_factory=list)

    def _facts(self) -> Facts:
        return {
            "removed": len(self.removed),
            "bound": self.bound,
            "widths": {name: after for name, (_, after) in self.widths.items()},
            "mode": self.mode,
            "changes": self.changes,
            "tolerance": self.tolerance,
            "refused": self.refused,
            "attributes": self.attributes,
        }

    def _rows(self) -> list[Facts]:
        return [each._facts() for each in self.removed]

    def carry(self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Any] = ()) -> Any:
        """A new optimiser for the new model, with the state that the given one has of the units that are left.

        Of units that were copies of one another the first moments add up, as their gradients do.

        Args:
            optimizer: of the model that was shrunk; it is not changed.
            schedulers: of that optimiser.

        Returns:
            The new optimiser; with schedulers, it and the list of the new ones.

        Raises:
            InputError: if the optimiser is of another model.
        """
        from semiflat.modules.carry import carried

        return carried(self._given, self.model, self._edits, optimizer, schedulers)


class ShrunkWidths(Rows):
    """How wide the groups of a model are in effect, by tolerance.

    Attributes:
        results: a :class:`Shrunk` for each tolerance, from the smallest up.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> table = sf.shrink_widths(model, torch.randn(100, 3), tolerances=[0, 0.1, 0.3])
    >>> [(row["tolerance"], row["0"]) for row in table.to_json()["rows"]]
    [(0.0, 5), (0.1, 4), (0.3, 2)]
    """

    def __init__(self, results: list[Shrunk]) -> None:
        self.results = results

    def _facts(self) -> Facts:
        return {"tolerances": len(self.results)}

    def _rows(self) -> list[Facts]:
        return [
            {
                "tolerance": each.tolerance,
                "units": sum(w for _, w in each.widths.values()),
                "bound": each.bound,
            }
            | {name: after for name, (_, after) in each.widths.items()}
            for each in self.results
        ]


def shrink(
    model: nn.Module,
    batches: Any,
    tolerance: float = 0.0,
    *,
    groups: Iterable[str] | None = None,
    on_data: bool = True,
) -> Shrunk:
    """Leave out the units of a model that make no difference, group after group, until nothing changes.

    First units that make none *for any input*: nothing reads them; no weight writes them, so that they are
    constant, which their readers' biases take up; they have the same weights as another unit, or multiples of
    them where what lies between is odd or positively homogeneous. Then units that make none *on the given
    batches*, to rounding: dead, constant, multiples of another, combinations of others. Then, with a
    tolerance, those that make least, as long as no output on the batches changes by more; the others take over
    what they handed on, by least squares. A group keeps one unit at least.

    Every step is replayed in float64 on all batches, in the mode that the model is in. The given model, its
    buffers and the random state stay as they are.

    Args:
        model: any ``nn.Module``.
        batches: re-iterable pairs ``(inputs, targets)``; targets are not used and may be None. Or inputs
            alone: a tensor, or a dict by name.
        tolerance: largest change of an output on the batches, relative to the largest output.
        groups: names of the groups to shrink; all that can be changed, if not given.
        on_data: whether to leave out units for what they do on the batches, too; needed for a tolerance.

    Raises:
        InputError: if a group does not exist or cannot be changed, batches or tolerance do not fit, or the
            model draws at random in the mode that it is in.

    Source: theory §9; F19 §2.2. Of a perceptron, ``on_data=False`` leaves the units that :func:`reduce` does.

    >>> import torch, semiflat as sf
    >>> conv = torch.nn.Sequential(
    ...     torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.Flatten(),
    ...     torch.nn.Linear(4 * 36, 2)).eval()
    >>> wide = sf.widen(conv, torch.randn(2, 1, 8, 8), "0", copies={0: 2, 1: 3}).model
    >>> small = sf.shrink(wide, [(torch.randn(16, 1, 8, 8), None)])
    >>> small.model[0], small.model[1].num_features, small.bound < 1e-12
    (Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1)), 4, True)
    """
    allowed = _tolerance(tolerance)
    if not isinstance(on_data, bool):
        raise InputError(f"on_data must be True or False, not {on_data!r:.60}")
    if allowed and not on_data:
        raise InputError(
            "a tolerance is of the outputs on the batches; give on_data=True, or tolerance=0"
        )
    work = _Work.on(model, batches, groups)
    work.go(allowed, on_data)
    return work.result(allowed)


def shrink_widths(
    model: nn.Module,
    batches: Any,
    tolerances: Sequence[float] = (0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1),
    *,
    groups: Iterable[str] | None = None,
) -> ShrunkWidths:
    """How wide the groups of a model are in effect, at several tolerances.

    Each starts from what the one before has left, so a larger tolerance never counts more units.

    Args:
        model: as :func:`shrink` takes it.
        batches: likewise.
        tolerances: likewise, several in any order.
        groups: likewise.

    Raises:
        InputError: as :func:`shrink`.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> wide = sf.widen(model, torch.randn(4, 3), "0", units=4).model
    >>> sf.shrink_widths(wide, torch.randn(100, 3), [0]).results[0].widths
    {'0': (9, 5)}
    """
    if not isinstance(tolerances, Iterable) or getattr(tolerances, "ndim", 1) == 0:
        raise InputError(f"tolerances must be a list such as [0, 1e-3], not {tolerances!r:.60}")
    allowed = sorted({_tolerance(each) for each in tolerances})
    work = _Work.on(model, batches, groups)
    found = []
    for each in allowed:
        work.go(each, True)
        found.append(work.result(each))
    return ShrunkWidths(found)


def _tolerance(given: Any) -> float:
    number = finite_number("tolerance", given)
    if number < 0:
        raise InputError(
            f"tolerance must be 0 or more, a part of the largest output, not {given!r}"
        )
    return number


def _batches(given: Any) -> Batches:
    return Batches([(given, None)] if isinstance(given, Tensor | Mapping) else given)


@dataclass
class _Step:
    """A model on its way: the float64 model, the changes so far, and what was left out."""

    model: nn.Module
    edits: list[Change] = field(default_factory=list)
    attributes: dict[tuple[str, str], Any] = field(default_factory=dict)
    removed: list[SparedUnit] = field(default_factory=list)
    origins: list[list[int]] = field(default_factory=list)


@dataclass
class _Work:
    """Shrinking of one model.

    Attributes:
        given: the model.
        double: it in float64, in its mode.
        batches: that outputs are compared on.
        example: the first of them.
        groups: of the given model; those of later ones are the same in the same order.
        chosen: numbers of the groups to shrink.
        precision: relative rounding error of weights as they are given.
        limit: the relative change of outputs that counts as none.
        now: how far it has come.
        refused: groups that cannot be changed, and why.
    """

    given: nn.Module
    double: nn.Module
    batches: Batches
    example: Any
    groups: Units
    chosen: list[int]
    precision: float
    limit: float
    now: _Step
    refused: dict[str, str]

    @classmethod
    def on(cls, model: nn.Module, given: Any, names: Iterable[str] | None) -> _Work:
        """At its beginning.

        Raises:
            InputError: if model, batches or names do not fit.
        """
        from semiflat.modules.groups import units
        from semiflat.modules.widen import tolerance_of

        check_model(model)
        batches = _batches(given)
        first = batches.first().inputs
        double, example = float64(model).cpu(), moved(first, torch.float64, "cpu")
        groups = units(double, example)
        limit, _ = tolerance_of(groups._flow.captured)
        if groups.random:
            raise InputError(
                f"the model draws at random in {groups.mode} mode ({groups.random[0]}), so its units have no "
                "outputs to compare; call model.eval() first"
            )
        places = list(groups)
        if isinstance(names, str):
            names = [names]
        for name in names or ():
            if groups[name].refuses:
                raise InputError(f"the units of {name!r} cannot be changed: {groups[name].refuses}")
        wanted = places if names is None else [groups[name].name for name in names]
        refused = {name: group.refuses for name, group in groups.items() if group.refuses}
        chosen = [places.index(name) for name in wanted if name not in refused]
        types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
        coarsest = max((torch.finfo(each).eps for each in types), default=0.0)
        # Weights of a half-precision type are exact in float64, where all is compared: copies are equal there.
        coarsest = min(coarsest, torch.finfo(torch.float32).eps)
        limit = max(limit, EXACT, ROUNDING * coarsest)
        origins = [list(range(group.size)) for group in groups.values()]
        precision = max(GIVEN * coarsest, ROUNDING * torch.finfo(torch.float64).eps)
        now = _Step(double, origins=origins)
        return cls(model, double, batches, example, groups, chosen, precision, limit, now, refused)

    # -- the loop ---------------------------------------------------------------------------------

    def go(self, allowed: float, on_data: bool) -> None:
        """Apply the rules until none leaves out a unit: those for any input first."""
        while True:
            known = self.groups if self.now.model is self.double else None
            seen = look(self.now.model, self.batches, known)
            if list(map(_what, seen.groups.values())) != list(map(_what, self.groups.values())):
                return  # the groups are no longer the given model's
            if self._sure(seen, ANY_INPUT) or (on_data and self._sure(seen, ON_DATA)):
                continue
            if not allowed > self.limit or not self._nearly(seen, allowed):
                return

    def _alone(self, seen: Look, touched: set[tuple[str, int]]) -> Iterable[tuple[int, UnitGroup]]:
        """The chosen groups whose places are as they were when the units were looked at."""
        every = list(seen.groups.values())
        for number in self.chosen:
            group = every[number]
            if group.name not in seen.outputs or group.size < 2:
                if group.name in seen.unread:
                    self.refused.setdefault(self._name(number), seen.unread[group.name])
                continue
            own = {(slot.name, slot.axis) for slot in group.slots}
            read = {slot.name for slot in group.of("reads")}
            if not own & touched and not read & {name for name, _ in touched}:
                yield number, group

    def _name(self, number: int) -> str:
        return list(self.groups)[number]

    def _sure(self, seen: Look, holds: str) -> bool:
        """Leave out what makes no difference; whether there was any."""
        touched: set[tuple[str, int]] = set()
        for number, group in self._alone(seen, touched):
            rules = Rules(group, _tensors(self.now.model), seen, self._precision(holds))
            spared = rules.for_any_input() if holds == ANY_INPUT else rules.on_data()
            step = self._most(number, group, rules, spared, holds)
            if step is not None:
                self.now = step
                touched |= {(slot.name, slot.axis) for slot in group.slots}
        return bool(touched)

    def _precision(self, holds: str) -> float:
        # Outputs are sums of many terms; weights are as they were given, or sums of a few of these.
        return self.precision if holds == ANY_INPUT else self.limit

    def _most(
        self, number: int, group: UnitGroup, rules: Rules, spared: list[Spared], holds: str
    ) -> _Step | None:
        """The model without as many of these units, from the first, as the replay allows."""
        whole = self._without(number, group, rules, spared, holds, self.fits(self.limit))
        if whole is not None or group.norms:
            return whole
        return _longest(
            len(spared) - 1,
            lambda count: self._without(
                number, group, rules, spared[:count], holds, self.fits(self.limit)
            ),
        )

    def fits(self, allowed: float) -> Callable[[nn.Module], bool]:
        """Whether a model's outputs are no further from the given one's."""
        return lambda model: self.change(model) <= allowed

    # -- within a tolerance -----------------------------------------------------------------------

    def _nearly(self, seen: Look, allowed: float) -> bool:
        """Leave out what makes least difference, of all groups at once, then of each; whether there was any."""
        every: dict[int, tuple[UnitGroup, Rules, list[tuple[Spared, float]]]] = {}
        touched: set[tuple[str, int]] = set()
        for number, group in self._alone(seen, touched):
            rules = Rules(group, _tensors(self.now.model), seen, self._precision(WITHIN))
            steps = rules.nearly()
            if steps:
                every[number] = group, rules, steps
                touched |= {(slot.name, slot.axis) for slot in group.slots}
        costs = sorted({cost for _, _, steps in every.values() for _, cost in steps})

        def counts(rank: int) -> dict[int, int]:
            most = costs[rank - 1]
            return {
                number: sum(cost <= most for _, cost in steps)
                for number, (_, _, steps) in every.items()
            }

        def made(some: dict[int, int]) -> _Step | None:
            step: _Step | None = self.now
            for number, count in some.items():
                group, rules, steps = every[number]
                if count and step is not None:
                    spared = [each for each, _ in steps[:count]]
                    step = self._without(
                        number, group, rules, spared, WITHIN, lambda model: True, step
                    )
            return step if step is not None and self.change(step.model) <= allowed else None

        rank = _furthest(len(costs), lambda rank: made(counts(rank)) is not None)
        some = counts(rank) if rank else dict.fromkeys(every, 0)
        for number, (_, _, steps) in every.items():
            more = _furthest(
                len(steps) - some[number],
                lambda count, number=number: (
                    made(some | {number: some[number] + count}) is not None
                ),  # type: ignore[misc]
            )
            some[number] += more
        step = made(some) if any(some.values()) else None
        if step is None:
            return False
        self.now = step
        return True

    # -- one edit ---------------------------------------------------------------------------------

    def _without(
        self,
        number: int,
        group: UnitGroup,
        rules: Rules,
        spared: list[Spared],
        holds: str,
        accept: Callable[[nn.Module], bool],
        start: _Step | None = None,
    ) -> _Step | None:
        """The model without some units of a group; None if it is not accepted."""
        start = start or self.now
        if not spared:
            return None
        gone = [each.unit for each in spared]
        kept = [unit for unit in range(group.size) if unit not in set(gone)]
        times = _taken_over(rules, spared, kept)
        plain = one_of(kept, [1.0] * len(kept))
        reads = [
            ((unit, 1.0), *((out, factor) for out, factor in zip(gone, row, strict=True) if factor))
            for unit, row in zip(kept, times.tolist(), strict=True)
        ]
        # What writes copies of one unit has parts of the gradient that it has alone; of others' state
        # nothing is known, so it stays what the units that are left have.
        alike = [each.rule == "duplicate" and holds == ANY_INPUT for each in spared]
        parts = [
            ((unit, 1.0), *((gone[j], 1.0) for j, yes in enumerate(alike) if yes and row[j]))
            for unit, row in zip(kept, times.tolist(), strict=True)
        ]
        change = Change(group, _by_role(plain, reads), _by_role(parts, plain))
        change.gradients["statistics"] = plain
        if spared[0].squared:
            change.values |= rules.by_squares(spared, kept, times)
        if group.norms and (spared[0].squared or not any(each.by for each in spared)):
            factor = group.size / len(kept)
            change.rescale = factor**0.5, factor
        base = self._with_constants(start.model, group, rules, spared, kept, times)
        if base is None:
            return None
        try:
            edited: Edited = edit(base, change, self.example, accept)
        except InputError as error:
            self.refused.setdefault(self._name(number), str(error)) if holds == ANY_INPUT else None
            return None
        units = start.origins[number]
        origins = [
            [units[unit] for unit in kept] if place == number else each
            for place, each in enumerate(start.origins)
        ]
        removed = [
            _record(self._name(number), each, units, kept, times[:, place], holds)
            for place, each in enumerate(spared)
        ]
        return _Step(
            edited.model,
            [*start.edits, change],
            start.attributes | edited.attributes,
            [*start.removed, *removed],
            origins,
        )

    def _with_constants(
        self,
        model: nn.Module,
        group: UnitGroup,
        rules: Rules,
        spared: list[Spared],
        kept: list[int],
        times: Tensor,
    ) -> nn.Module | None:
        """The model with biases that take up the constants of the units left out; None if they cannot."""
        if not any(each.constant for each in spared):
            return model
        gone = [each.unit for each in spared]
        base = copied(model)
        for reader, mean in zip(rules.outputs.readers, rules.outputs.means, strict=True):
            if reader.bias is None:
                continue
            constants = torch.zeros_like(mean)
            left = mean[gone] - times.mT @ mean[kept]
            left[[not each.constant for each in spared]] = 0.0
            constants[gone] = left
            added = reader.of_constants(constants)
            if added is None:
                return None
            name = reader.bias[1]
            old = _tensors(base)[name]
            set_tensor(base, name, old + added.to(old))
        return base

    # -- outputs ----------------------------------------------------------------------------------

    def change(self, model: nn.Module, mode: bool | None = None) -> float:
        """The largest change of an output on all batches, relative to the largest; each output by itself.

        Args:
            mode: whether in train mode; None for the model's own. NaN where something is drawn at random.
        """
        sizes: dict[int, float] = {}
        gaps: dict[int, float] = {}
        # Copies run: norms in training mode change their statistics.
        given, fewer = copied(self.double), copied(model)
        if mode is not None:
            given.train(mode)
            fewer.train(mode)
        for batch in self.batches:
            inputs = moved(batch.inputs, torch.float64, "cpu")
            before = outputs_of(given, inputs)
            if mode and not same_tensors(before, outputs_of(given, inputs, seed=1)):
                return math.nan
            after = outputs_of(fewer, inputs)
            for place, (one, other) in enumerate(zip(before, after, strict=True)):
                if one.shape != other.shape:
                    return math.inf
                if not one.numel():
                    continue
                if not one.is_floating_point():
                    gaps[place] = max(
                        gaps.get(place, 0.0), 0.0 if torch.equal(one, other) else math.inf
                    )
                    continue
                # What is not finite has to stay what it is: masks of −∞, for one.
                gap = torch.where(one == other, 0.0, (one - other).abs())
                finite = one[torch.isfinite(one)].abs()
                sizes[place] = max(
                    sizes.get(place, 0.0), float(finite.max()) if len(finite) else 0.0
                )
                largest = float(gap.max())
                gaps[place] = max(
                    gaps.get(place, 0.0), math.inf if math.isnan(largest) else largest
                )
        return max((gap / (sizes.get(place) or 1.0) for place, gap in gaps.items()), default=0.0)

    def result(self, tolerance: float) -> Shrunk:
        """What has come of it."""
        now = self.now
        out = copied(self.given)
        before, after = _tensors(self.double), _tensors(now.model)
        for name, values in after.items():
            if values.shape != before[name].shape or not torch.equal(values, before[name]):
                device = _tensors(self.given)[name].device
                set_tensor(out, name, values.to(device))
        for (path, name), value in now.attributes.items():
            setattr(out.get_submodule(path), name, value)
        changes = {"train": self.change(now.model, True), "eval": self.change(now.model, False)}
        changes = {mode: value for mode, value in changes.items() if not math.isnan(value)}
        widths = {
            name: (group.size, len(now.origins[number]))
            for number, (name, group) in enumerate(self.groups.items())
            if number in self.chosen
        }
        return Shrunk(
            out,
            now.removed,
            widths,
            self.change(now.model),
            changes,
            self.groups.mode,
            tolerance,
            dict(self.refused),
            Edited(out, {}, now.attributes).named,
            self.given,
            now.edits,
        )


def _what(group: UnitGroup) -> tuple[Any, ...]:
    """What a group is, whatever its size."""
    return tuple((slot.name, slot.role, slot.axis) for slot in group.slots)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


def _by_role(plain: Any, reads: Any) -> dict[str, Any]:
    roles = ("writes", "adds", "between", "shifts", "statistics")
    return {**dict.fromkeys(roles, plain), "reads": reads}


def _taken_over(rules: Rules, spared: list[Spared], kept: list[int]) -> Tensor:
    """How many times each kept unit stands in for each that is left out, (kept, spared)."""
    times = torch.zeros(len(kept), len(spared), dtype=torch.float64)
    if spared[0].fitted:
        factor, sizes = rules.outputs.factor, rules.outputs.sizes
        scale = torch.where(sizes[kept] > 0, sizes[kept], 1.0)
        wanted = factor[:, [each.unit for each in spared]]
        best: Tensor = torch.linalg.lstsq(factor[:, kept] / scale, wanted, driver="gelsd").solution
        return best / scale[:, None]
    place = {unit: number for number, unit in enumerate(kept)}
    for number, each in enumerate(spared):
        for unit, factor_of in each.by.items():
            times[place[unit], number] = factor_of
    return times


def _record(
    name: str, spared: Spared, units: list[int], kept: list[int], times: Tensor, holds: str
) -> SparedUnit:
    most = times.abs().argsort(descending=True, stable=True)[:3].tolist()
    by = tuple(units[kept[place]] for place in most if float(times[place]))
    where = {
        ANY_INPUT: "for any input",
        ON_DATA: "on these batches",
        WITHIN: "within the tolerance",
    }
    others = f" ({', '.join(map(str, by))})" if by else ""
    reason = f"{where[holds]}, {_REASONS[spared.rule]}{others}"
    return SparedUnit(name, units[spared.unit], spared.rule, holds, by, reason)


def _furthest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that was seen to fit: by doubling, then bisection."""
    good, bad = 0, 1
    while bad <= most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def _longest(most: int, made: Callable[[int], _Step | None]) -> _Step | None:
    """What is made of the largest number that fits."""
    count = _furthest(most, lambda count: made(count) is not None)
    return made(count) if count else None
