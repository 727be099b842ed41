"""Growing: new units where they lower the loss most, added exactly, then moved along the way that was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from semiflat.errors import InputError, finite_number, switch, whole, whole_seed
from semiflat.growth import depth as blocks
from semiflat.growth.data import Data, mean_of, placed
from semiflat.growth.finder import Finder, Growth
from semiflat.modules.batches import LossFunction, check_asked, run
from semiflat.modules.branches import grads
from semiflat.modules.capture import Example, check_model, copied, same_random_state
from semiflat.modules.surgery import Change, new_places
from semiflat.modules.widen import widen
from semiflat.records.shown import Facts, Rows

ROUNDS = 4
"""How often the loss is made local again after a step."""
SHARES = 2
"""Into so many parts the units are cut, where several groups can take them."""
EFFORT = 8
"""How many times the samples of a look are searched to grow, if not given: growing is rare."""
EXAMPLE = 8
"""Samples on which an embedding is replayed."""
UNCURVED = 0.01
"""Part of the slope without curvature of which nothing is said."""
BLOCK, PROBED = 4, 8
"""Hidden units of a new block at least, and of those in which its candidates are tried."""


@dataclass(frozen=True)
class GrowthStep(Rows):
    """Units that were added to one group.

    Attributes:
        growth: what was predicted of them.
        before, after: the loss on the confirming batches.
        output_change: of the embedding, as :func:`semiflat.widen` measures it.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> data = [(X, X[:, :2].prod(1, keepdim=True))]
    >>> step = sf.grow(model, data, torch.nn.functional.mse_loss, units=1).plan[0]
    >>> step.growth.group, step.after < step.before, step.output_change
    ('0', True, 0.0)
    """

    growth: Growth
    before: float
    after: float
    output_change: float

    @property
    def achieved(self) -> float:
        """By what the loss fell on the confirming batches."""
        return self.before - self.after

    def _facts(self) -> Facts:
        return {
            "group": self.growth.group,
            "way": self.growth.way,
            "units": self.growth.units,
            "parameters": self.growth.parameters,
            "predicted": self.growth.predicted,
            "achieved": self.achieved,
            "before": self.before,
            "after": self.after,
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
        attributes: attributes of modules of the given model that were changed.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> data = [(X, X[:, :2].prod(1, keepdim=True))]
    >>> grown = sf.grow(model, data, torch.nn.functional.mse_loss, units=3)
    >>> grown.model[0], grown.loss_after < grown.loss_before
    (Linear(in_features=3, out_features=5, bias=True), True)
    """

    model: nn.Module = field(repr=False)
    plan: tuple[GrowthStep, ...]
    loss_before: float
    loss_after: float
    reason: str
    attributes: dict[str, Any]
    _given: nn.Module = field(repr=False, default_factory=nn.Module)
    _edits: list[Change] = field(repr=False, default_factory=list)

    @property
    def units(self) -> int:
        """How many were added."""
        return sum(step.growth.units for step in self.plan)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Modules behind which a block stands: :func:`semiflat.deepen` puts them in a model made anew."""
        return blocks.blocks_in(self.model)

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
            "attributes": self.attributes,
            "blocks": self.blocks,
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
    depth: bool = False,
    frozen: bool = False,
    samples: int | None = None,
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
        depth: whether, where no new unit of any group helps, blocks of new units are tried behind the model's
            modules: x + V·φ(W·x + b), which adds nothing at first. The new model then has modules that the
            given one has not; :func:`semiflat.deepen` puts them in one that is made anew.
        frozen: whether layers that are not trained may grow, and blocks stand where nothing before is trained.
        samples: that are searched; if not given, eight times as many as :func:`where_to_grow` takes.
        dtype: to compute in; None for the model's own.
        seed: of what is drawn.

    Raises:
        InputError: if neither units, parameters nor until is given; for a group that cannot grow, a loss that
            is no mean, or batches that cannot be gone through again.

    Source: theory §9.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> data = [(X, X[:, :2].prod(1, keepdim=True))]
    >>> same = sf.grow(model, data, torch.nn.functional.mse_loss, units=2, step=False)
    >>> bool((same.model(X) == model(X)).all()), same.plan[0].growth.predicted > 0
    (True, True)
    """
    if units is None and parameters is None and until is None:
        raise InputError("say how far to grow: units=, parameters= or until= a loss")
    for name, value in (("units", units), ("parameters", parameters)):
        if value is not None:
            whole(name, value, 1)
    for name, given in (("step", step), ("depth", depth), ("frozen", frozen)):
        switch(name, given)
    if until is not None:
        until = finite_number("until", until)
        if not step:
            raise InputError(
                "until= is a loss to come down to, and step=False keeps it; give units="
            )
    whole("rounds", rounds, 1)
    if samples is not None:
        whole("samples", samples, 1)
    whole_seed(seed)
    check_asked(loss, dtype)
    with same_random_state(), torch.inference_mode(False), torch.enable_grad():
        data = Data.of(check_model(model), batches, loss, samples, seed, EFFORT)
        work = _Work(model, data, groups, step, rounds, depth, frozen, dtype, seed)
        return work.grown(units, parameters, until)


def few_of(model: nn.Module, data: Data, samples: int = EXAMPLE) -> Example:
    """Few samples on which a change of a model is replayed, as it takes them."""
    return placed(model, data.searched[0].few(samples)).inputs


def uncurved(model: nn.Module, data: Data) -> float:
    """What part of the loss's slope in what the model gives is where it has no curvature, on one batch."""
    batch = placed(model, data.searched[0])
    with torch.no_grad(), same_random_state():
        leaves, spec = pytree.tree_flatten(run(copied(model), batch.inputs))
    free = [x.requires_grad_() for x in leaves if isinstance(x, Tensor) and x.is_floating_point()]
    value = data.loss(pytree.tree_unflatten(leaves, spec), batch.targets)
    slopes = grads(value, tuple(free), create_graph=True)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(x.shape, generator=generator).to(x) for x in free]
    along = sum((slope * way).sum() for slope, way in zip(slopes, drawn, strict=True))
    curved = grads(along, tuple(free))
    every = torch.cat([slope.detach().flatten() for slope in slopes])
    flat = torch.cat([(each == 0).flatten() for each in curved])
    total = float(every.square().sum())
    return float(every[flat].square().sum()) / total if total else 0.0


def where_uncurved(part: float) -> str:
    """A remark on that; ``""`` where there is nothing to say."""
    if part < UNCURVED:
        return ""
    return (
        f"; {part:.0%} of the slope of the loss is where it has no curvature, as an absolute error has none: "
        "steps may go too far there, and be left out"
    )


class _Work:
    """Adds units, one group after the other."""

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        groups: Sequence[str] | None,
        step: bool,
        rounds: int,
        depth: bool,
        frozen: bool,
        dtype: torch.dtype | None,
        seed: int,
    ) -> None:
        self.given, self.model, self.data = model, copied(check_model(model)), data
        self.groups, self.step, self.rounds, self.depth = groups, step, rounds, depth
        self.frozen, self.dtype, self.seed = frozen, dtype, seed
        self.plan: list[GrowthStep] = []
        self.edits: list[Change] = []
        self.attributes: dict[str, Any] = {}
        self.narrow: dict[str, str] = {}  # groups that cannot be widened, and why
        self.finder = self._found_in(self.model)  # checks all that was given
        self.here = self._confirmed(self.model)

    def grown(self, units: int | None, parameters: int | None, until: float | None) -> Grown:
        """Grow as far as is asked."""
        before = after = self._over_all()
        reason = ""
        while not reason:
            reason = self._enough(units, until) or self._further(units, parameters)
        if self.plan:
            after = self._over_all()
        return Grown(
            self.model,
            tuple(self.plan),
            before,
            after,
            reason,
            self.attributes,
            self.given,
            self.edits,
        )

    def _over_all(self) -> float:
        every = list(self.data.batches)
        return mean_of(self.data.loss_at(self.model, None, every), every)

    def _found_in(self, model: nn.Module) -> Finder:
        return Finder(model, self.data, self.dtype, self.groups, self.frozen)

    def _confirmed(self, model: nn.Module) -> float:
        return mean_of(self.data.loss_at(model, None, self.data.confirming), self.data.confirming)

    def _enough(self, units: int | None, until: float | None) -> str:
        """Why what was asked for is there; ``""`` if it is not."""
        if until is not None and self.here <= until:
            return f"the loss on the confirming batches came down to {self.here:.6g}"
        if units is not None and not units - sum(s.growth.units for s in self.plan):
            return f"{units} unit(s) were asked for"
        return ""

    def _further(self, units: int | None, parameters: int | None) -> str:
        """Add the units that are predicted to help most; why there are none, or ``""``."""
        if self.finder.model is not self.model:
            self.finder = self._found_in(self.model)
        finder = self.finder
        left = None if units is None else units - sum(s.growth.units for s in self.plan)
        rest = None
        if parameters is not None:
            rest = parameters - sum(s.growth.parameters for s in self.plan)
        offers = self._offers(finder, units, left, rest)
        if self._first_that_helps(finder, offers, self._widened):
            return ""
        if self._first_that_helps(finder, self._splits(finder, rest), self._widened):
            return ""
        refused = "; ".join(f"{name!r}: {why}" for name, why in finder.refused.items())
        why = f"nothing in the model can grow: {refused or 'there is no group'}"
        if finder.names:
            part = uncurved(finder.programs.model, self.data)
            why = self._why_none(offers, rest) + where_uncurved(part)
        if not self.depth:
            return f"{why}; blocks of new units between the layers are tried if asked: depth=True"
        deep = self._with_blocks()
        found = self._offers(deep, units, left, rest, BLOCK)
        if self._first_that_helps(deep, found, self._deepened):
            return ""
        return f"{why}; nor does a block of new units behind any of {len(deep.names)} module(s)"

    def _with_blocks(self) -> Finder:
        """Of the model with blocks wherever one can stand: their hidden units are what can grow."""
        example = few_of(self.model, self.data)
        shapes = blocks.places(self.model, example, PROBED, self.frozen)
        deep = blocks.with_blocks(self.model, shapes)
        finder = Finder(deep, self.data, self.dtype)
        finder.names = [
            f"{path}.{blocks.NAME}.0"
            for path in shapes
            if f"{path}.{blocks.NAME}.0" in finder.names and blocks.goes_on(finder.units, path)
        ]
        return finder

    def _offers(
        self, finder: Finder, units: int | None, left: int | None, rest: int | None, least: int = 1
    ) -> list[Growth]:
        """What each group offers, the best first.

        Args:
            least: so many units together, where so many are left.
        """
        chunk = 1
        if units is not None and left is not None:  # each of several groups takes a share
            chunk = left if len(finder.names) == 1 else min(left, -(-units // SHARES))
        chunk = max(chunk, least if left is None else min(least, left))
        found = []
        for name in finder.names:
            if name in self.narrow:
                continue
            one, _ = finder.cost(finder.units[name])
            if rest is None or one <= rest:
                count = chunk if rest is None else min(chunk, rest // one)
                found.append(finder.new_units(name, count, self._seed))
        return sorted(found, key=lambda o: -(o.predicted if rest is None else o.per_parameter))

    def _splits(self, finder: Finder, rest: int | None) -> list[Growth]:
        """The best split of each group, the best first."""
        found = finder.splits(finder.curvature()).values() if finder.names else ()
        able = [
            each
            for each in found
            if each.group not in self.narrow and (rest is None or each.parameters <= rest)
        ]
        return sorted(able, key=lambda each: -each.predicted)

    @property
    def _seed(self) -> int:
        return self.seed + len(self.plan)

    def _first_that_helps(
        self, finder: Finder, offers: Sequence[Growth], build: Callable[[Finder, Growth], _Built]
    ) -> bool:
        for offer in offers:
            if offer.predicted <= 0:
                break
            try:
                for growth in self._ways(finder, offer):
                    if self._taken(build(finder, growth)):
                        return True
            except InputError as error:
                if self.groups is not None and not blocks.in_block(offer.group):
                    raise
                self.narrow[offer.group] = str(error)
        return False

    def _taken(self, built: _Built) -> bool:
        """Go on with a model that was built, if the loss is lower there."""
        after = self._confirmed(built.model)
        if self.step and not after < self.here:
            return False
        self.plan.append(GrowthStep(built.growth, self.here, after, built.output_change))
        self.model, self.here = built.model, after
        self.edits += built.edits
        self.attributes |= built.attributes
        return True

    def _why_none(self, offers: Sequence[Growth], rest: int | None) -> str:
        if self.narrow:
            name, why = next(iter(self.narrow.items()))
            return f"new units of {name!r} cannot be added, and no others help: {why}"
        if not offers:
            return f"no unit of any group fits into the {rest} parameter(s) that are left"
        best = offers[0]
        if best.predicted > 0:
            return (
                f"new units of {best.group!r} were predicted to take {best.predicted:.3g} off the loss, and no "
                "step with new units of any group lowered it on the confirming batches; they were left out"
            )
        return (
            "no new unit and no split is predicted to lower the loss on the confirming batches; the way down, "
            "if there is one, is to train on"
        )

    def _ways(self, finder: Finder, offer: Growth) -> Iterator[Growth]:
        """What is offered, after all its steps; then after the first, as further ones may bring nothing."""
        if self.step and self.rounds > 1 and not offer._copies:
            yield finder.further(offer, self.rounds, self._seed)
        yield offer

    def _widened(self, finder: Finder, best: Growth) -> _Built:
        """Widen by units as they were fitted."""
        name = best.group
        group = finder.units[name]
        places = [*best._copies, *range(group.size, group.size + best.units)]
        incoming: dict[str, Tensor] = {}
        if not best._copies:
            heard = {slot.name for slot in group.of("reads")}
            incoming = {key: each for key, each in best._values.items() if key not in heard}
        wide = widen(
            self.model,
            few_of(self.model, self.data),
            group,
            units=0 if best._copies else best.units,
            copies=best._copies,
            incoming=incoming,
        )
        if self.step:
            before, after = (
                dict((*each.named_parameters(), *each.named_buffers()))
                for each in (self.model, wide.model)
            )
            for slot in group.slots:
                length = before[slot.name].shape[slot.axis]
                at = new_places(slot, length, wide.size, places).reshape(-1)
                with torch.no_grad():
                    tensor = after[slot.name]
                    tensor.index_copy_(slot.axis, at, best._values[slot.name].to(tensor))
        own = {key: v for key, v in wide.attributes.items() if not blocks.in_block(key)}
        return _Built(best, wide.model, wide.output_change, wide._edits, own)

    def _deepened(self, _: Finder, best: Growth) -> _Built:
        """Put in a block of units as they were fitted."""
        path = best.group.rpartition(f".{blocks.NAME}.")[0]
        first, last = (f"{path}.{blocks.NAME}.{k}.weight" for k in (0, 2))
        deep = blocks.with_blocks(self.model, {path: tuple(best._values[first].shape)})
        with torch.no_grad():
            for key, values in best._values.items():
                if key != last:
                    deep.get_parameter(key).copy_(values)
            change = blocks.change(self.model, deep, few_of(self.model, self.data))
            if self.step:
                deep.get_parameter(last).copy_(best._values[last])
        growth = replace(best, way=f"new block behind {path!r}")
        return _Built(growth, deep, change, [], {})


@dataclass
class _Built:
    """A model with units that may be taken.

    Attributes:
        output_change: before they are heard.
        edits, attributes: what was changed of the model before.
    """

    growth: Growth
    model: nn.Module
    output_change: float
    edits: list[Change]
    attributes: dict[str, Any]
