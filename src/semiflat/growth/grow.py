"""Growing: new units where they lower the loss most, added exactly, then moved along the way that was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from semiflat.errors import InputError, finite_number, whole, whole_seed
from semiflat.growth.candidates import DAMPING, LocalModel, settled
from semiflat.growth.data import Data, mean_of
from semiflat.growth.table import PARTS, SAMPLES, Finder, Growth, between
from semiflat.modules.batches import LossFunction, check_asked
from semiflat.modules.branches import Point
from semiflat.modules.capture import copied
from semiflat.modules.surgery import Change
from semiflat.modules.widen import widen
from semiflat.records.shown import Facts, Rows

ROUNDS = 4
"""How often the loss is made local again after a step."""
STEPS = 20
"""Steps of L-BFGS in each."""
SHARES = 4
"""Into so many parts the units are cut, where several groups can take them."""
LEAST, MOST = 1e-4, 10.0
"""Bounds of the damping, which grows after a step that was cut short and falls after a full one."""
EXAMPLE = 8
"""Samples on which an embedding is replayed."""


@dataclass(frozen=True)
class GrowthStep(Rows):
    """Units that were added to one group.

    Attributes:
        growth: what was predicted of them.
        before, embedded, after: the loss on the confirming batches: of the model before, of the wider one
            whose outputs are the same, and after the steps.
        rounds: steps that were taken; 0 if none lowered the loss there.
        output_change: of the embedding, as :func:`semiflat.widen` measures it.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> data = [(X, X.prod(1, keepdim=True))]
    >>> step = sf.grow(model, data, torch.nn.functional.mse_loss, units=1).plan[0]
    >>> step.growth.group, step.after < step.before, step.output_change
    ('0', True, 0.0)
    """

    growth: Growth
    before: float
    embedded: float
    after: float
    rounds: int
    output_change: float

    @property
    def achieved(self) -> float:
        """By what the loss fell on the confirming batches."""
        return self.before - self.after

    def _facts(self) -> Facts:
        return {
            "group": self.growth.group,
            "units": self.growth.units,
            "parameters": self.growth.parameters,
            "predicted": self.growth.predicted,
            "achieved": self.achieved,
            "before": self.before,
            "after": self.after,
            "rounds": self.rounds,
            "output_change": self.output_change,
        }

    def _rows(self) -> list[Facts]:
        return [self._facts()]


@dataclass
class Grown(Rows):
    """A grown model.

    Attributes:
        model: a new module of the same classes; the given one itself, copied, if no growth helps.
        plan: what was added, in order.
        loss_before, loss_after: over all given batches.
        reason: why it stopped where it did.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> data = [(X, X.prod(1, keepdim=True))]
    >>> grown = sf.grow(model, data, torch.nn.functional.mse_loss, units=3)
    >>> grown.model[0], grown.loss_after < grown.loss_before
    (Linear(in_features=3, out_features=5, bias=True), True)
    """

    model: nn.Module = field(repr=False)
    plan: tuple[GrowthStep, ...]
    loss_before: float
    loss_after: float
    reason: str
    _given: nn.Module = field(repr=False, default_factory=nn.Module)
    _edits: list[Change] = field(repr=False, default_factory=list)

    @property
    def units(self) -> int:
        """How many were added."""
        return sum(step.growth.units for step in self.plan)

    def carry(self, optimizer: torch.optim.Optimizer, schedulers: Sequence[Any] = ()) -> Any:
        """A new optimiser for the new model, with the state of the given one: see :meth:`Widened.carry`.

        Raises:
            InputError: if the optimiser is of another model, or a scheduler of another optimiser.
        """
        from semiflat.modules.carry import carried

        return carried(self._given, self.model, self._edits, optimizer, schedulers)

    def _facts(self) -> Facts:
        return {
            "units": self.units,
            "groups": tuple(dict.fromkeys(step.growth.group for step in self.plan)),
            "loss_before": self.loss_before,
            "loss_after": self.loss_after,
            "reason": self.reason,
        }

    def _rows(self) -> list[Facts]:
        return [step._facts() for step in self.plan]


def grow(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    groups: Sequence[str] | None = None,
    *,
    units: int | None = None,
    parameters: int | None = None,
    until: float | None = None,
    step: bool = True,
    rounds: int = ROUNDS,
    frozen: bool = False,
    samples: int = SAMPLES,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> Grown:
    """Add units where they are predicted to lower the loss most, and take the steps that lower it.

    First the model is widened exactly. Then the new units, chosen from a pool, are fitted to the loss as a
    quadratic function of what reads them, a step is taken as far as the loss falls on the searched batches,
    the loss is made local again there, and so on: as long as it falls on the confirming batches, too.

    Args:
        model: any ``nn.Module``; it is not changed.
        batches: re-iterable pairs ``(inputs, targets)``. One of four confirms; fewer than eight are cut.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        groups: names of groups that may grow; all that can if not given.
        units: how many to add, over all groups; groups are chosen by what is predicted.
        parameters: how many to add at most; groups are chosen by what is predicted for each parameter.
        until: loss on the confirming batches at which it stops.
        step: whether steps are taken; else the outputs stay, and the new units are made but not read.
        rounds: how many steps at most, for the units that are added together.
        frozen: whether layers that are not trained may grow.
        samples: that are searched at most, and that confirm.
        dtype: to compute in; None for the model's own.
        seed: of what is drawn.

    Raises:
        InputError: if neither units, parameters nor until is given; for a group that cannot grow, a loss that
            is no mean, or batches that cannot be gone through again.

    Source: theory §9.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> data = [(X, X.prod(1, keepdim=True))]
    >>> same = sf.grow(model, data, torch.nn.functional.mse_loss, units=2, step=False)
    >>> bool((same.model(X) == model(X)).all()), same.plan[0].growth.predicted > 0
    (True, True)
    """
    if units is None and parameters is None and until is None:
        raise InputError("say how far to grow: units=, parameters= or until= a loss")
    for name, value in (("units", units), ("parameters", parameters)):
        if value is not None:
            whole(name, value, 1)
    if until is not None:
        until = finite_number("until", until)
        if not step:
            raise InputError(
                "until= is a loss to come down to, and step=False keeps it; give units="
            )
    whole("rounds", rounds, 1)
    whole("samples", samples, 1)
    whole_seed(seed)
    check_asked(loss, dtype)
    with torch.inference_mode(False), torch.enable_grad():
        work = _Work(
            model, Data.of(batches, loss, samples), groups, step, rounds, frozen, dtype, seed
        )
        return work.grown(units, parameters, until)


class _Work:
    """Adds units, one group after the other."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        groups: Sequence[str] | None,
        step: bool,
        rounds: int,
        frozen: bool,
        dtype: torch.dtype | None,
        seed: int,
    ) -> None:
        self.given, self.model, self.data = model, copied(model), data
        self.groups, self.step, self.rounds = groups, step, rounds
        self.frozen, self.dtype, self.seed = frozen, dtype, seed
        self.plan: list[GrowthStep] = []
        self.edits: list[Change] = []

    def finder(self) -> Finder:
        """Of the model as it is by now."""
        return Finder(self.model, self.data, self.dtype, self.groups, self.frozen)

    def grown(self, units: int | None, parameters: int | None, until: float | None) -> Grown:
        """Grow as far as is asked."""
        finder = self.finder()
        before = self._over_all()
        reason = "nothing in the model can grow"
        while finder.names:
            left = None if units is None else units - sum(s.growth.units for s in self.plan)
            rest = (
                None
                if parameters is None
                else parameters - sum(s.growth.parameters for s in self.plan)
            )
            if left == 0:
                reason = f"{units} unit(s) were asked for"
                break
            chunk = self._chunk(finder, units, left)
            offers = self._offers(finder, chunk, rest)
            if not offers:
                reason = f"no unit of any group fits into the {rest} parameter(s) that are left"
                break
            offer = max(offers, key=lambda o: o.per_parameter if parameters else o.predicted)
            if offer.predicted <= 0:
                reason = (
                    "no new unit is predicted to lower the loss on the confirming batches; the way down, if "
                    "there is one, is to train on"
                )
                break
            taken = self._add(offer)
            if self.step and taken.after >= taken.before:
                reason = (
                    f"new units of {offer.group!r} were predicted to take {offer.predicted:.3g} off the loss, "
                    "and no step with them lowered it on the confirming batches; they were left out"
                )
                break
            finder = self.finder()
            if until is not None and taken.after <= until:
                reason = f"the loss on the confirming batches came down to {taken.after:.6g}"
                break
        return Grown(
            self.model,
            tuple(self.plan),
            before,
            self._over_all(),
            reason,
            self.given,
            self.edits,
        )

    def _over_all(self) -> float:
        every = list(self.data.batches)
        return mean_of(self.data.loss_at(self.model, None, every), every)

    def _chunk(self, finder: Finder, units: int | None, left: int | None) -> int:
        """How many units are added together."""
        if units is None or left is None:
            return 1
        return left if len(finder.names) == 1 else min(left, -(-units // SHARES))

    def _offers(self, finder: Finder, chunk: int, rest: int | None) -> list[Growth]:
        found = []
        for name in finder.names:
            one, _ = finder.cost(finder.units[name])
            if rest is None or one <= rest:
                found.append(finder.new_units(name, chunk, self.seed + len(self.plan)))
        return found

    def _add(self, offer: Growth) -> GrowthStep:
        """Widen by what is offered, and take the steps."""
        batch = self.data.searched[0]
        example = batch.parts(max(1, batch.size // EXAMPLE))[0].inputs
        wide = widen(self.model, example, offer.group, units=offer.units, seed=self.seed)
        finder = Finder(wide.model, self.data, self.dtype, [offer.group], self.frozen)
        confirming = self.data.confirming
        places = range(wide.size - offer.units, wide.size)
        descent = _Descent(finder, offer.group, places, self.seed)
        before = mean_of(self.data.loss_at(finder.programs.model, None, confirming), confirming)
        point, after, taken = descent.run(self.rounds, self.step)
        done = GrowthStep(offer, before, before, after, taken, wide.output_change)
        if taken or not self.step:
            names = {slot.name for slot in wide.group.slots}
            with torch.no_grad():
                for name, tensor in (*wide.model.named_parameters(), *wide.model.named_buffers()):
                    if name in names:
                        tensor.copy_(point[name])
            self.model = wide.model
            self.plan.append(done)
            self.edits += wide._edits
        return done


class _Descent:
    """Steps of new units down the loss, the others held."""

    def __init__(self, finder: Finder, name: str, places: range, seed: int) -> None:
        self.finder, self.data, self.name = finder, finder.data, name
        self.places, self.seed = places, seed
        self.damping = DAMPING

    def _losses(self, point: Point) -> tuple[float, float]:
        return tuple(  # type: ignore[return-value]
            mean_of(self.data.loss_at(self.finder.programs.model, point, part), part)
            for part in (self.data.searched, self.data.confirming)
        )

    def run(self, rounds: int, step: bool) -> tuple[dict[str, Any], float, int]:
        """Take steps while they lower the loss on both parts of the data.

        Returns:
            The point, its loss on the confirming batches, and the number of steps.
        """
        program, _, _ = self.finder.programs.of(self.data.searched[0].inputs)
        point: dict[str, Any] = dict(program.point)
        here = self._losses(point)
        taken = 0
        for number in range(rounds):
            seen = [
                self.finder.seen([self.name], part, point, self.seed + number)
                for part in (self.data.searched, self.data.confirming)
            ]
            if number == 0:
                pool = LocalModel(self.name, seen[0], candidates=True, damping=self.damping)
                start = self._placed(pool, point)
            else:
                start = point
            local = LocalModel(self.name, seen[0], candidates=False, damping=self.damping)
            others = LocalModel(self.name, seen[1], candidates=False, damping=0.0)
            end = local.fitted(start, self.places, others, STEPS)
            base = point
            if number == 0:
                base = {**end, **{n: point[n] for n in local.deaf}}
                if not step:
                    return settled(local.branch, seen[0], base, keep=True), here[1], 0
            tried = [(self._losses(between(base, end, t)), t) for t in reversed(PARTS[1:])]
            good = [each for each in tried if each[0][0] < here[0] and each[0][1] < here[1]]
            if not good:
                break
            there, t = min(good, key=lambda each: each[0][0])
            point, here, taken = between(base, end, t), there, taken + 1
            factor = 3.0 if t < 0.5 else 1 / 3 if t >= 1 else 1.0
            self.damping = min(max(self.damping * factor, LEAST), MOST)
        if taken:
            final = settled(local.branch, seen[0], point, keep=True)
            if self._losses(final)[1] <= here[1] * (1 + 1e-6):
                point = final
        return point, here[1], taken

    def _placed(self, pool: LocalModel, point: Point) -> dict[str, Any]:
        """The point with the best of the pool where the new units are."""
        chosen = pool.chosen(len(self.places), self.seed)
        out = dict(point)
        for slot in pool.group.slots:
            tensor = out[slot.name].clone()
            lines, source = (each.movedim(slot.axis, 0) for each in (tensor, chosen[slot.name]))
            lines[slot.positions[list(self.places)]] = source[slot.positions[: len(self.places)]]
            out[slot.name] = tensor
        return out
