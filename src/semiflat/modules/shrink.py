"""Shrinking of any model: fewer units, and the same outputs, or nearly the same on given batches."""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError, finite_number, switch
from semiflat.modules.batches import Batches, moved
from semiflat.modules.capture import check_model, copied
from semiflat.modules.groups import UnitGroup, Units
from semiflat.modules.replays import Replay
from semiflat.modules.signals import Look, look, places
from semiflat.modules.spare import ANY_INPUT, ON_DATA, WITHIN, Rules, Spared
from semiflat.modules.surgery import (
    EXACT,
    Change,
    Edited,
    edit,
    float64,
    one_of,
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
    switch("on_data", on_data)
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
class _Plan:
    """Units of a group that may go, in this order.

    Attributes:
        number: of the group.
        group: it, as it is now.
        rules: for it.
        spared: the units.
        costs: of each step, which takes some more of them, 0 where they make no difference.
        counts: how many units have gone after each step.
    """

    number: int
    group: UnitGroup
    rules: Rules
    spared: list[Spared]
    costs: list[float]
    counts: list[int]

    @classmethod
    def of(cls, number: int, rules: Rules, holds: str) -> _Plan:
        """By the rules of one kind."""
        steps = rules.steps(holds)
        counts = list(range(1, len(steps) + 1))
        if rules.group.norms:  # through these some alone may be no step
            counts = counts[-1:]
        spared, costs = [each for each, _ in steps], [steps[count - 1][1] for count in counts]
        return cls(number, rules.group, rules, spared, costs, counts)


@dataclass
class _Work:
    """Shrinking of one model.

    Attributes:
        given: the model.
        double: it in float64, in its mode.
        batches: that outputs are compared on.
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
    groups: Units
    chosen: list[int]
    precision: float
    limit: float
    now: _Step
    refused: dict[str, str]
    _replays: dict[bool | None, Replay] = field(default_factory=dict)

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
        order = list(groups)
        if isinstance(names, str):
            names = [names]
        if names is not None and not isinstance(names, Iterable):
            raise InputError(f"groups must be names of groups, as ['fc1'], not {names!r:.60}")
        names = None if names is None else list(names)
        for name in names or ():
            if groups[name].refuses:
                raise InputError(f"the units of {name!r} cannot be changed: {groups[name].refuses}")
        wanted = order if names is None else [groups[name].name for name in names]
        refused = {name: group.refuses for name, group in groups.items() if group.refuses}
        chosen = [order.index(name) for name in wanted if name not in refused]
        types = {tensor.dtype for tensor in model.parameters() if tensor.is_floating_point()}
        coarsest = max((torch.finfo(each).eps for each in types), default=0.0)
        # Weights of a half-precision type are exact in float64, where all is compared: copies are equal there.
        coarsest = min(coarsest, torch.finfo(torch.float32).eps)
        limit = max(limit, EXACT, ROUNDING * coarsest)
        origins = [list(range(group.size)) for group in groups.values()]
        precision = max(GIVEN * coarsest, ROUNDING * torch.finfo(torch.float64).eps)
        now = _Step(double, origins=origins)
        return cls(model, double, batches, groups, chosen, precision, limit, now, refused)

    # -- the loop ---------------------------------------------------------------------------------

    def go(self, allowed: float, on_data: bool) -> None:
        """Apply the rules until none leaves out a unit: those for any input first."""
        kinds = [(ANY_INPUT, self.limit), *[(ON_DATA, self.limit)] * on_data]
        kinds += [(WITHIN, allowed)] * (allowed > self.limit)
        some = True
        while some:
            known = self.groups if self.now.model is self.double else None
            seen = look(self.now.model, self.batches, known)
            if list(map(places, seen.groups.values())) != list(map(places, self.groups.values())):
                return  # the groups are no longer the given model's
            some = any(self._spare(seen, holds, most) for holds, most in kinds)

    def _plans(self, seen: Look, holds: str, given_up: set[int]) -> list[_Plan]:
        """What can be spared by the rules of one kind, of chosen groups that do not touch one another."""
        every, found = list(seen.groups.values()), []
        # Outputs are sums of many terms; weights are as they were given, or sums of a few of these.
        precision = self.precision if holds == ANY_INPUT else self.limit
        touched: set[tuple[str, int]] = set()
        for number in self.chosen:
            group = every[number]
            if group.name in seen.unread:
                self.refused.setdefault(self._name(number), seen.unread[group.name])
            if group.name not in seen.outputs or group.size < 2 or number in given_up:
                continue
            own = {(slot.name, slot.axis) for slot in group.slots}
            read = {slot.name for slot in group.of("reads")}
            if own & touched or read & {name for name, _ in touched}:
                continue
            rules = Rules(group, _tensors(self.now.model), seen, precision)
            plan = _Plan.of(number, rules, holds)
            if plan.spared:
                found.append(plan)
                touched |= own
        return found

    def _name(self, number: int) -> str:
        return list(self.groups)[number]

    def _spare(self, seen: Look, holds: str, allowed: float) -> bool:
        """Leave out what costs least, of all groups at once, then more of each; whether there was any."""
        given_up: set[int] = set()
        while plans := self._plans(seen, holds, given_up):
            search = _Search(self, plans, holds, allowed)
            if search.best is not None:
                self.now = search.best
                return True
            given_up |= {plan.number for plan in plans}
        return False

    # -- one edit ---------------------------------------------------------------------------------

    def without(
        self, plan: _Plan, count: int, start: _Step, holds: str, allowed: float
    ) -> _Step | None:
        """A model without the first units of a plan; None if on a few samples it is not accepted."""
        number, group, rules, spared = plan.number, plan.group, plan.rules, plan.spared[:count]
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
        runs = False

        def accept(model: nn.Module) -> bool:
            nonlocal runs
            change = self.replay().on_few(model)
            runs |= change < math.inf
            return change <= allowed

        try:
            edited = edit(base, change, accept)
        except InputError as error:
            if holds == ANY_INPUT and not runs:
                self.refused.setdefault(self._name(number), str(error))
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

    def replay(self, train: bool | None = None) -> Replay:
        """The given model on all batches in a mode, run once; None for its own."""
        if {each.training for each in self.double.modules()} == {train}:
            train = None
        if train not in self._replays:
            self._replays[train] = Replay(self.double, self.batches, train)
        return self._replays[train]

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
        modes = {"train": self.replay(True), "eval": self.replay(False)}
        changes = {
            mode: replay.change(now.model) for mode, replay in modes.items() if not replay.random
        }
        widths = {
            name: (group.size, len(now.origins[number]))
            for number, (name, group) in enumerate(self.groups.items())
            if number in self.chosen
        }
        return Shrunk(
            out,
            now.removed,
            widths,
            self.replay().change(now.model),
            changes,
            self.groups.mode,
            tolerance,
            dict(self.refused),
            Edited(out, {}, now.attributes).named,
            self.given,
            now.edits,
        )


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


class _Search:
    """The largest numbers of units that can go, of all groups at once by their cost, then of each.

    Attributes:
        best: the model without them; None if there are none.
    """

    def __init__(self, work: _Work, plans: list[_Plan], holds: str, allowed: float) -> None:
        self.work, self.plans, self.holds, self.allowed = work, plans, holds, allowed
        self.best: _Step | None = None
        levels = sorted({cost for plan in plans for cost in plan.costs})

        def level(rank: int) -> list[int]:
            return [bisect_right(plan.costs, levels[rank - 1]) for plan in plans]

        rank = _furthest(len(levels), lambda rank: self.fits(level(rank)))
        taken = level(rank) if rank else [0] * len(plans)
        for place, plan in enumerate(plans):
            left = len(plan.costs) - taken[place]
            taken[place] += _furthest(left, functools.partial(self._more, taken, place))

    def _more(self, taken: list[int], place: int, count: int) -> bool:
        return self.fits([*taken[:place], taken[place] + count, *taken[place + 1 :]])

    def fits(self, taken: list[int]) -> bool:
        """Whether so many steps of each plan can be taken."""
        step: _Step | None = self.work.now
        for plan, steps in zip(self.plans, taken, strict=True):
            if steps and step is not None:
                count = plan.counts[steps - 1]
                step = self.work.without(plan, count, step, self.holds, self.allowed)
        if step is None or self.work.replay().change(step.model, self.allowed) > self.allowed:
            return False
        self.best = step
        return True


def _furthest(most: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to ``most`` that was seen to fit: all, or by doubling, then bisection."""
    if most and fits(most):
        return most
    good, bad = 0, 1
    while bad < most and fits(bad):
        good, bad = bad, 2 * bad
    bad = min(bad, most)
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
