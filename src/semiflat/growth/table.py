"""Where one more unit lowers the loss, and by how much: one table over all groups of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from semiflat.errors import InputError, whole, whole_seed
from semiflat.evidence.spectrum import ENOUGH
from semiflat.growth.candidates import (
    DAMPING,
    STEPS,
    LocalModel,
    Step,
    readers_of,
    settled,
    stepped,
)
from semiflat.growth.data import Data, error_of, mean_of
from semiflat.growth.downstream import Downstream, downstream
from semiflat.modules.batches import Batch, LossFunction, check_asked, check_mean, loss_on, moved
from semiflat.modules.branches import Branch, Point, Program, Programs, outputs_like
from semiflat.modules.groups import UnitGroup
from semiflat.modules.unit_curvature import unit_curvature
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature
from semiflat.records.shown import Facts, Rows, Shown

SAMPLES = 2000
"""Samples that are searched at most, and that confirm."""
REFIT, REFIT_SAMPLES = 10, 256
"""Steps of L-BFGS for all the units of a group, and samples for them: it is a yardstick, and large."""
FACTORS_BYTES = 2**29
"""Memory that what is seen of the searched batches may take; at least one batch is."""


@dataclass(frozen=True)
class Growth(Shown):
    """One way of growing a model by units of one group.

    Attributes:
        group, kind: of the units.
        way: ``"new units"``, fitted on the searched batches; ``"split unit 3"`` in two, along the eigenvector
            of its K; or ``"refit"``: the group's own units, fitted alike, which adds none.
        units: how many are added.
        parameters: that are added.
        flops: multiply–adds of their weights that are added for each sample.
        predicted: by what the loss falls on the confirming batches.
        error: standard error of that between batches; None for one batch.
        searched: the same on the batches on which they were fitted: too good by the fit.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> data = [(X, X.prod(1, keepdim=True))]
    >>> best = sf.where_to_grow(model, data, torch.nn.functional.mse_loss).best
    >>> best.group, best.parameters, best.predicted > 0
    ('0', 5, True)
    """

    group: str
    kind: str
    way: str
    units: int
    parameters: int
    flops: int
    predicted: float
    error: float | None
    searched: float
    _values: dict[str, Tensor] = field(repr=False, default_factory=dict)

    @property
    def per_parameter(self) -> float:
        """What is predicted, for each parameter that is added."""
        return self.predicted / max(self.parameters, 1)

    @property
    def per_flop(self) -> float:
        """What is predicted, for each multiply–add that is added."""
        return self.predicted / max(self.flops, 1)

    def _facts(self) -> Facts:
        return super()._facts() | {
            "per_parameter": self.per_parameter,
            "per_flop": self.per_flop,
        }


class GrowthTable(Rows, Mapping[str, Growth]):
    """Where a model can grow: for each group its best new units, and what its own units still can do.

    Attributes:
        loss: on the confirming batches.
        splits: for each group the way down by splitting one unit, the steepest that is sure.
        refits: for each group what its own units would take off, fitted as new ones are.
        curvature: K of the units, or None if it was not asked for.
        refused: groups that cannot grow, and why.
        apart: whether other samples confirm than were searched.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> table = sf.where_to_grow(model, [(X, X.prod(1, keepdim=True))], torch.nn.functional.mse_loss)
    >>> list(table), table.refused, table["0"].way
    (['0'], {'2': 'it is an output of the model'}, 'new units')
    """

    def __init__(
        self,
        new: Mapping[str, Growth],
        refits: Mapping[str, Growth],
        splits: Mapping[str, Growth],
        curvature: UnitCurvature | None,
        refused: Mapping[str, str],
        loss: float,
        apart: bool,
    ) -> None:
        self._new, self.refits, self.splits = dict(new), dict(refits), dict(splits)
        self.curvature, self.refused = curvature, dict(refused)
        self.loss, self.apart = loss, apart

    def __getitem__(self, name: str) -> Growth:
        """The best new units of a group."""
        if name in self._new:
            return self._new[name]
        why = self.refused.get(name, f"there is no such group; there are {', '.join(self._new)}")
        raise InputError(f"no growth of {name!r} is known: {why}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._new)

    def __len__(self) -> int:
        return len(self._new)

    @property
    def best(self) -> Growth | None:
        """The new units that are predicted to take most off the loss; None if none take off anything."""
        able = [each for each in self._new.values() if each.predicted > 0]
        return max(able, key=lambda each: each.predicted, default=None)

    @property
    def advice(self) -> str:
        """One sentence: grow, train on, or neither."""
        best, refit = self.best, max((r.predicted for r in self.refits.values()), default=0.0)
        if best is None and refit <= 0:
            return (
                "nothing is predicted to lower the loss on the confirming batches: neither new units nor the "
                "units there are"
            )
        if best is None or refit > best.predicted:
            return (
                f"the way down is to train on: the units of one group alone are predicted to take off "
                f"{refit:.3g}, new ones {0.0 if best is None else best.predicted:.3g}"
            )
        return (
            f"grow {best.group!r}: {best.units} new unit(s) are predicted to take off {best.predicted:.3g}, "
            f"the units of one group fitted alike {refit:.3g}"
        )

    @property
    def truly_bad(self) -> bool | None:
        """Whether no copy and no null unit curves the loss down anywhere: K = 0 and F∅ = 0 in every group.

        At a critical point that is no saddle, that is what a truly bad point needs (Z22 Thm 6.3). None where it
        is not known of every group.
        """
        if self.curvature is None or self.curvature.refused.keys() - self.refused.keys():
            return None
        units = [unit for group in self.curvature.values() for unit in group.units]
        if any(unit.positive or unit.negative or unit.null_rank for unit in units):
            return False
        known = all(unit.exact and unit.null_rank is not None for unit in units)
        return True if units and known else None

    def _facts(self) -> Facts:
        return {
            "groups": len(self),
            "loss": self.loss,
            "best": None if self.best is None else self.best.group,
            "advice": self.advice,
            "truly_bad": self.truly_bad,
            "refused": self.refused,
        }

    def _rows(self) -> list[Facts]:
        rows = []
        for name, new in self._new.items():
            for each in (new, self.splits.get(name), self.refits.get(name)):
                if each is not None:
                    rows.append(each._facts() | self._signs(name))
        return rows

    def _signs(self, name: str) -> Facts:
        units = (
            ()
            if self.curvature is None or name not in self.curvature
            else self.curvature[name].units
        )
        nulls = [unit.null_norm for unit in units if unit.null_norm is not None]
        return {
            "lowest_K": min((unit.lowest for unit in units), default=None),
            "rank_F": max((unit.rank_F for unit in units), default=None),
            "null_norm": max(nulls, default=None),
        }


class Finder:
    """Looks for new units of a model.

    Attributes:
        programs: the model's operations.
        names: groups that can grow.
        refused: those that cannot, and why.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Data,
        dtype: torch.dtype | None,
        groups: Sequence[str] | None = None,
        frozen: bool = False,
    ) -> None:
        first = next((p for p in model.parameters() if p.is_floating_point()), None)
        if first is None:
            raise InputError(
                "the model has no parameters of real numbers, so there is nothing to grow"
            )
        self.model, self.data = model, data
        self.programs = Programs(model, dtype or first.dtype)
        if frozen:
            self.programs.model.requires_grad_(True)
        whole_batch = data.batches.first()
        place = self.programs.dtype, self.programs.device
        inputs, targets = moved((whole_batch.inputs, whole_batch.targets), *place)
        like = outputs_like(self.programs.model, inputs)
        loss_on(like, data.loss, replace(whole_batch, targets=targets))
        check_mean(like, targets, whole_batch.size, data.loss)
        program, branches, _ = self.programs.of(data.searched[0].inputs)
        self.units = program.units
        if isinstance(groups, str):
            raise InputError(f"groups must be a list of names, as [{groups!r}]")
        asked = list(branches) if groups is None else [program.units[name].name for name in groups]
        self.names: list[str] = []
        self.refused: dict[str, str] = {}
        for name in asked:
            why = self._why_not(program, branches[name])
            if why:
                self.refused[name] = why
            else:
                self.names.append(name)
        if groups is not None and self.refused:
            name, why = next(iter(self.refused.items()))
            raise InputError(f"new units of {name!r} cannot be looked for: {why}")

    def _why_not(self, program: Program, branch: Branch | str) -> str:
        if isinstance(branch, str):
            return branch
        if branch.group.refuses:
            return branch.group.refuses
        named = dict(program.model.named_parameters())
        still = [
            n
            for n in (*branch.group.writers, *branch.group.readers)
            if n in named and not named[n].requires_grad
        ]
        if still:
            return f"{still[0]!r} is frozen; frozen layers grow if asked: frozen=True"
        found = readers_of(program, branch)
        return found if isinstance(found, str) else ""

    def seen(
        self,
        names: Sequence[str],
        batches: Sequence[Batch],
        seed: int = 0,
        added: Sequence[Mapping[fx.Node, Tensor]] = (),
    ) -> list[Downstream]:
        """Batches seen from the readers of some groups, as many as memory allows."""
        found = list[Downstream]()
        total = sum(batch.size for batch in batches)
        for number, batch in enumerate(batches):
            found.append(
                downstream(
                    self.programs,
                    batch,
                    self.data.loss,
                    names,
                    batch.size / total,
                    seed + number,
                    added[number] if added else {},
                )
            )
            if sum(each.bytes for each in found) * (1 + 1 / len(found)) > FACTORS_BYTES:
                break
        whole_part = sum(each.weight for each in found)
        for each in found:
            each.weight /= whole_part
        return found

    @cached_property
    def noise(self) -> float:
        """What rounding of the parameters may do to the loss on the confirming batches: no gain is less."""
        model, confirming = self.programs.model, self.data.confirming
        generator = torch.Generator().manual_seed(0)
        here = mean_of(self.data.loss_at(model, None, confirming), confirming)
        eps = torch.finfo(self.programs.dtype).eps
        most = 0.0
        for _ in range(2):
            rounded = {
                name: tensor.detach()
                * (1 + 2 * eps * (torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1))
                for name, tensor in model.named_parameters()
            }
            there = mean_of(self.data.loss_at(model, rounded, confirming), confirming)
            most = max(most, abs(there - here))
        return ENOUGH * most

    def cost(self, group: UnitGroup) -> tuple[int, int]:
        """Parameters of one more unit, and the multiply–adds of its weights for a sample."""
        program, branches, _ = self.programs.of(self.data.searched[0].inputs)
        branch = branches[group.name]
        assert isinstance(branch, Branch)
        entries = {part.name: part.take(program.point[part.name]).shape[1] for part in branch.parts}
        parameters = sum(part.take(program.point[part.name]).shape[1] for part in branch.parts)
        flops = 0
        for node in branch.nodes:
            for each in node.all_input_nodes:
                name = program._named.get(each.name, "")
                if name in entries and program.point[name].ndim > 1:
                    out, weight = node.meta.get("val"), program.point[name]
                    if isinstance(out, Tensor):
                        lines = max(weight.shape[0], 1)
                        places = out.numel() / self.data.searched[0].size / lines
                        flops += int(entries[name] * max(places, 1))
        return parameters, flops

    @cached_property
    def _seen(self) -> tuple[list[Downstream], list[Downstream]]:
        """The searched and the confirming batches, from the readers of all groups."""
        searched, confirming = self.data.searched, self.data.confirming
        return self.seen(self.names, searched), self.seen(self.names, confirming)

    def new_units(self, name: str, count: int, seed: int, rounds: int = 1) -> Growth:
        """The best new units of a group, at most as many as it has."""
        search, confirm = (LocalModel(name, seen) for seen in self._seen)
        count = min(count, search.group.size)
        start = search.chosen(count, seed)
        return self._descent(search, confirm, count, start, rounds, seed)

    def refit(self, name: str) -> Growth:
        """What the units that there are would take off, fitted in the same way."""
        point = self.programs.of(self.data.searched[0].inputs)[0].point
        search, confirm = (
            LocalModel(name, seen, point).first(REFIT_SAMPLES) for seen in self._seen
        )
        return self._descent(search, confirm, 0, search.reference, 1, 0)

    def split(self, known: GroupCurvature) -> Growth | None:
        """The split of one unit of a group for which K opens the steepest sure way down; None if none does.

        Two copies go where candidates go, and the unit itself is what changes count from.
        """
        name, places = known.group.name, range(2)
        ways = [unit for unit in known.units if unit.best_shares is not None]
        if not ways or known.group.size < 2:
            return None
        unit = min(ways, key=lambda each: each.steepest)
        shares, seen = unit.best_shares, self._seen
        assert shares is not None
        free = LocalModel(name, seen[0])
        reads, makes = known.way(unit.unit, -1 if shares[0] * shares[1] > 0 else 1)
        alone, start, end = ({**free.point, **free.deaf} for _ in range(3))
        for slot in free.group.slots:
            lines = free.point[slot.name].movedim(slot.axis, 0)[slot.positions[unit.unit]]
            for place in places:
                share = shares[place] if slot.role == "reads" else 1.0
                for point, factor in ((alone, 1.0 - place), (start, share), (end, share)):
                    tensor = point[slot.name].clone()
                    factor = factor if slot.role == "reads" else 1.0
                    tensor.movedim(slot.axis, 0)[slot.positions[place]] = (lines * factor).to(
                        tensor
                    )
                    point[slot.name] = tensor
        own = torch.cat([part.take(free.point[part.name])[unit.unit] for part in free.branch.parts])
        length = float(torch.linalg.vector_norm(own))
        rests = {True: reads * length, False: makes * length}
        for part in free.branch.parts:
            tensor = end[part.name].clone()
            lines = tensor.movedim(part.axis, 0)
            shape = lines[part.positions[0]].shape
            mine, rests[part.reads] = (
                rests[part.reads][: shape.numel()],
                rests[part.reads][shape.numel() :],
            )
            for place, sign in zip(places, (1.0, -1.0), strict=True):
                factor = sign if part.reads else sign / shares[place]
                lines[part.positions[place]] += (factor * mine.view(shape)).to(tensor)
            end[part.name] = tensor
        back = {n: 2 * start[n] - end[n] if end[n].is_floating_point() else end[n] for n in end}
        search, confirm = (LocalModel(name, each, alone) for each in seen)
        steps = [stepped(search, confirm, start, each) for each in (end, back)]
        step = min(steps, key=lambda each: each.searched)
        before = search.loss(start)
        return self._growth(f"split unit {unit.unit}", 1, search, confirm, step, before, places)

    def _descent(
        self,
        search: LocalModel,
        confirm: LocalModel,
        count: int,
        start: Point,
        rounds: int,
        seed: int,
    ) -> Growth:
        """Fit units and go as far as the loss falls, so many times, the loss made local again each time."""
        places = range(count or search.group.size)
        begun = confirm
        before = search.loss(search.reference)
        step: Step | None = None
        for number in range(rounds):
            if step is not None:
                search, confirm = self._around(search, confirm, step.point, seed + number)
            end = search.fitted(start, places, confirm, STEPS if count else REFIT)
            base = {**end, **search.deaf} if count and step is None else search.reference
            found = stepped(search, confirm, base, end)
            if step is not None and not found.part:
                break
            step, start = found, found.point
        assert step is not None
        way = "new units" if count else "refit"
        return self._growth(way, count, search, begun, step, before, places)

    def _growth(
        self,
        way: str,
        count: int,
        search: LocalModel,
        confirm: LocalModel,
        step: Step,
        before: float,
        places: range,
    ) -> Growth:
        """What is predicted of units in some places after a step."""
        point = settled(search.branch, search.batches, step.point, keep=True)
        there = confirm.losses(point)
        values = [batch.loss - loss for batch, loss in zip(confirm.batches, there, strict=True)]
        batches = self.data.confirming[: len(values)]
        predicted = mean_of(values, batches)
        parameters, flops = self.cost(search.group)
        return Growth(
            group=search.name,
            kind=search.group.kind,
            way=way,
            units=count,
            parameters=count * parameters,
            flops=count * flops,
            predicted=predicted if predicted > self.noise else 0.0,
            error=error_of(values, batches),
            searched=before - step.searched,
            _values={
                slot.name: point[slot.name].index_select(
                    slot.axis, slot.positions[: len(places)].reshape(-1)
                )
                for slot in search.group.slots
            },
        )

    def _around(
        self, search: LocalModel, confirm: LocalModel, point: Point, seed: int
    ) -> tuple[LocalModel, LocalModel]:
        """The local models around another point of the units."""
        found = []
        for local, batches in ((search, self.data.searched), (confirm, self.data.confirming)):
            with torch.no_grad():
                added = local.added(point)
            seen = self.seen([local.name], batches[: len(added)], seed, added)
            damping = DAMPING if local is search else local.damping
            found.append(LocalModel(local.name, seen, point, damping))
        return found[0], found[1]


def where_to_grow(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    groups: Sequence[str] | None = None,
    *,
    units: int = 1,
    curvature: bool = True,
    frozen: bool = False,
    samples: int = SAMPLES,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> GrowthTable:
    """Where new units lower the loss, and by how much, before they are trained.

    For each group so many new units are chosen from a pool and fitted, incoming and outgoing weights together,
    to the loss as a quadratic function of what reads them: its slope, and its Gauss–Newton curvature through
    the later layers. They are fitted on some of the batches, and what they take off is predicted on others,
    that they have not seen. Beside it stands what the group's own units would take off, fitted alike: where
    that is more, the way down is to train on.

    Args:
        model: any ``nn.Module``; it is not changed. The mode is that which it is in.
        batches: re-iterable pairs ``(inputs, targets)``. One of four confirms; fewer than four are cut.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        groups: names of groups of :func:`units`; all that can grow if not given.
        units: how many new units, at most as many as a group has.
        curvature: whether K of every unit is computed on the searched batches, too: inertia, and splits.
        frozen: whether layers that are not trained may grow.
        samples: that are searched at most, and that confirm.
        dtype: to compute in; None for the model's own.
        seed: of what is drawn.

    Raises:
        InputError: for a group that cannot grow, a loss that is no mean, or batches that cannot be gone
            through again.

    Source: theory §9.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(200, 3)
    >>> table = sf.where_to_grow(model, [(X, X.prod(1, keepdim=True))], torch.nn.functional.mse_loss)
    >>> table.best.predicted > 0, table.curvature["0"].units[0].rank_F
    (True, 1)
    """
    whole("units", units, 1)
    whole("samples", samples, 1)
    whole_seed(seed)
    check_asked(loss, dtype)
    with torch.inference_mode(False), torch.enable_grad():
        data = Data.of(batches, loss, samples)
        finder = Finder(model, data, dtype, groups, frozen)
        new = {name: finder.new_units(name, units, seed) for name in finder.names}
        refits = {name: finder.refit(name) for name in finder.names}
        values = data.loss_at(finder.programs.model, None, data.confirming)
        known, splits = None, dict[str, Growth]()
        if curvature and finder.names:
            pairs = [(batch.inputs, batch.targets) for batch in data.searched]
            known = unit_curvature(model, pairs, loss, dtype=dtype or torch.float64)
            found = {name: finder.split(known[name]) for name in finder.names if name in known}
            splits = {name: each for name, each in found.items() if each is not None}
        return GrowthTable(
            new,
            refits,
            splits,
            known,
            finder.refused,
            mean_of(values, data.confirming),
            data.apart,
        )
