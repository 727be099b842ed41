"""One way of growing, and the search for it: new units, splits and refits of one group of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from semiflat.errors import InputError
from semiflat.evidence.spectrum import ENOUGH
from semiflat.growth.candidates import (
    DAMPING,
    LocalModel,
    Step,
    between,
    readers_of,
    settled,
    stepped,
)
from semiflat.growth.data import Data, error_of, mean_of, placed, up_to
from semiflat.growth.downstream import Downstream, downstream
from semiflat.modules.batches import Batch, Batches, check_mean, moved, run
from semiflat.modules.branches import Branch, Point, Program, Programs, outputs_like
from semiflat.modules.capture import check_model, copied, same_random_state
from semiflat.modules.groups import UnitGroup
from semiflat.modules.splits import move_apart
from semiflat.modules.unit_curvature import curvature_by
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature
from semiflat.records.shown import Facts, Shown

TRAIN_STEPS, TRAIN_SAMPLES = 4, 64
"""Steps of L-BFGS for all weights, and samples for them: a yardstick for what training on would bring."""
POOL_SAMPLES = 1000
"""Samples on which candidates are chosen from a pool."""
LENGTHS = (1.0, 0.03, 0.001)
"""Of the way of a split, in the length of the unit: K is of the smallest steps, and may not hold for long."""
FACTORS_BYTES = 2**29
"""Memory that what is seen of the searched batches may take; at least one batch is."""


@dataclass(frozen=True)
class Growth(Shown):
    """One way of growing a model by units of one group.

    Attributes:
        group, kind: of the units.
        way: ``"new units"``, fitted on the searched batches; ``"split unit 3"`` in two, along the
            eigenvector of its K; or ``"new block behind '1'"``, the units of a new layer.
        units: how many are added.
        parameters: that are added.
        flops: multiply–adds of their weights that are added for each sample.
        predicted: by what the loss falls on the confirming batches.
        error: standard error of that, between the parts they are cut into; None for one.
        searched: the same on the batches on which they were fitted: too good by the fit.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> data = [(X, X[:, :2].prod(1, keepdim=True))]
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
    _step: Step | None = field(repr=False, default=None)
    _copies: dict[int, list[float]] = field(repr=False, default_factory=dict)

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
        first = next((p for p in check_model(model).parameters() if p.is_floating_point()), None)
        if first is None:
            raise InputError(
                "the model has no parameters of real numbers, so there is nothing to grow"
            )
        if dtype is None and first.dtype not in (torch.float32, torch.float64):
            raise InputError(
                f"the model is of {first.dtype}, too coarse to tell what a unit takes off; give dtype="
                "torch.float32, or model.float()"
            )
        self.model, self.data = model, data
        self.programs = Programs(model, dtype or first.dtype)
        if frozen:
            self.programs.model.requires_grad_(True)
        whole_batch = data.batches.first()
        data.loss_at(self.programs.model, None, [whole_batch])
        place = self.programs.dtype, self.programs.device
        inputs, targets = moved((whole_batch.inputs, whole_batch.targets), *place)
        like = outputs_like(self.programs.model, inputs)
        check_mean(like, targets, whole_batch.size, data.loss)
        program, branches, _ = self.programs.of(data.searched[0].inputs)
        self.units = program.units
        listed = isinstance(groups, Sequence) and not isinstance(groups, str)
        if groups is not None and not (listed and groups):
            example = str(groups or next(iter(branches)))
            raise InputError(f"groups must be a list of names, as [{example!r}]")
        asked = list(branches) if groups is None else [program.units[name].name for name in groups]
        twice = next((name for name in asked if asked.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"groups names the units of {twice!r} twice; name each group once")
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
        parts: int = 1,
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
                    parts,
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
        """What rounding may do to the loss on the confirming batches: no gain is less."""
        model, confirming = self.programs.model, self.data.confirming
        generator = torch.Generator().manual_seed(0)
        here = mean_of(self.data.loss_at(model, None, confirming), confirming)
        eps = torch.finfo(self.programs.dtype).eps
        most = eps * abs(here)
        for _ in range(2):
            rounded = {
                name: tensor.detach() * (1 + 2 * eps * (2 * drawn.to(tensor) - 1))
                for name, tensor in model.named_parameters()
                for drawn in [torch.randint(0, 2, tensor.shape, generator=generator)]
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
        flops, samples = 0, program.samples
        for node in branch.nodes:
            for each in node.all_input_nodes:
                name = program._named.get(each.name, "")
                if name in entries and program.point[name].ndim > 1:
                    out, weight = node.meta.get("val"), program.point[name]
                    if isinstance(out, Tensor):
                        lines = max(weight.shape[0], 1)
                        places = out.numel() / samples / lines
                        flops += int(entries[name] * max(places, 1))
        return parameters, flops

    @cached_property
    def _seen(self) -> tuple[list[Downstream], list[Downstream]]:
        """The searched and the confirming batches, from the readers of all groups."""
        searched = self.seen(self.names, self.data.searched)
        slopes = [x for batch in searched for x in batch.deltas.values()]
        factors = [x for batch in searched for x in batch.factors.values()]
        if any(bool(x.any()) for x in slopes) and not any(bool(x.any()) for x in factors):
            raise InputError(
                "the loss has a slope and no curvature in what the model gives, as an absolute error or a "
                "hinge, so it does not say how far to go: give one with a second derivative, as smooth_l1_loss"
                ", or cross_entropy of what a model gives before log_softmax"
            )
        return searched, self.seen(self.names, self.data.confirming, parts=self.data.parts)

    @cached_property
    def _few(self) -> list[Downstream]:
        """Some of the searched samples, on which candidates are drawn and chosen."""
        batch = self.data.searched[0]
        few = batch.few(POOL_SAMPLES)
        return self._seen[0][:1] if few is batch else self.seen(self.names, [few])

    def _locals(self, name: str) -> tuple[LocalModel, LocalModel]:
        """The loss of the searched and of the confirming batches around the model, in units of one group."""
        searched, confirming = self._seen
        return LocalModel(name, searched), LocalModel(name, confirming)

    def new_units(self, name: str, count: int, seed: int) -> Growth:
        """The best new units of a group, at most as many as it has."""
        search, confirm = self._locals(name)
        count = min(count, search.group.size)
        start = LocalModel(name, self._few).chosen(count, seed)
        search, confirm = (each.narrowed(range(count), start) for each in (search, confirm))
        end = search.fitted(start, range(count), confirm)
        step = stepped(search, confirm, {**end, **search.deaf}, end)
        return self._growth("new units", count, search, confirm, step)

    def further(self, offer: Growth, rounds: int, seed: int) -> Growth:
        """New units after further steps, each from a new local model; so many with the one they have taken."""
        places, step = range(offer.units), offer._step
        assert step is not None
        search, confirm = begun = [
            each.narrowed(places, step.point) for each in self._locals(offer.group)
        ]
        for number in range(1, rounds):
            search, confirm = self._around(search, confirm, step.point, seed + number)
            end = search.fitted(step.point, places, confirm)
            found = stepped(search, confirm, search.reference, end)
            if not found.part:
                break
            step = found
        return self._growth("new units", offer.units, begun[0], begun[1], step)

    def trained(self) -> float:
        """What a few steps of all the weights there are take off the loss on the confirming batches.

        Source: Nocedal & Wright, Numerical Optimization, ch. 7: L-BFGS.
        """
        twin, confirming = copied(self.programs.model), self.data.confirming
        weights = [p for p in twin.parameters() if p.requires_grad]
        if not weights:
            return 0.0
        batches = [placed(twin, batch) for batch in up_to(self.data.searched, TRAIN_SAMPLES)]
        total = sum(batch.size for batch in batches)
        optimizer = torch.optim.LBFGS(weights, max_iter=TRAIN_STEPS, line_search_fn="strong_wolfe")

        def closure() -> float:
            optimizer.zero_grad()
            value = 0.0
            for batch in batches:
                loss = self.data.loss(run(twin, batch.inputs), batch.targets) * (batch.size / total)
                loss.backward()
                value += float(loss.detach())
            return value

        before = mean_of(self.data.loss_at(twin, None, confirming), confirming)
        with same_random_state():
            optimizer.step(closure)
        if not all(bool(torch.isfinite(weight).all()) for weight in weights):
            return 0.0
        gain = before - mean_of(self.data.loss_at(twin, None, confirming), confirming)
        return gain if gain > self.noise else 0.0

    def curvature(self) -> UnitCurvature:
        """K of the units, of all samples; or of one searched batch, where there are more than are looked at."""
        seen = self.data.seen if self.data.entire else self.data.searched[:1]
        pairs = Batches([(batch.inputs, batch.targets) for batch in seen])
        return curvature_by(self.programs, self.model, pairs, self.data.loss, None)

    def splits(self, known: UnitCurvature) -> dict[str, Growth]:
        """For each group the best split, where K opens a sure way down."""
        found = {name: self.split(known[name]) for name in self.names if name in known}
        return {name: each for name, each in found.items() if each is not None}

    def split(self, known: GroupCurvature) -> Growth | None:
        """The split of one unit of a group for which K opens the steepest sure way down; None if none does.

        Two copies go where candidates go, and the unit itself is what changes count from.
        """
        name = known.group.name
        ways = [unit for unit in known.units if unit.best_shares is not None]
        if not ways or known.group.size < 2:
            return None
        unit = min(ways, key=lambda each: each.steepest)
        shares, seen = unit.best_shares, self._seen
        assert shares is not None
        alone, start, end = copies(LocalModel(name, seen[0]), known, unit.unit, shares)
        search, confirm = (LocalModel(name, each, alone).narrowed(range(2), end) for each in seen)
        for part in LENGTHS:
            both = [between(start, end, sign * part) for sign in (1.0, -1.0)]
            way = min(both, key=lambda point: search.on_the_way(point)[1])
            step = stepped(search, confirm, start, way)
            if step.part:
                break
        return self._growth(
            f"split unit {unit.unit}", 1, search, confirm, step, {unit.unit: list(shares)}
        )

    def _growth(
        self,
        way: str,
        count: int,
        search: LocalModel,
        confirm: LocalModel,
        step: Step,
        copies: dict[int, list[float]] | None = None,
    ) -> Growth:
        """What is predicted of units in some places after a step from what these batches were first seen at."""
        point = settled(search.branch, search.batches, step.point, keep=True)
        there = step.confirmed if point is step.point else confirm.losses(point)
        values = [old - new for old, new in zip(confirm.begun, there, strict=True)]
        predicted = mean_of(values, confirm.parts)
        parameters, flops = self.cost(search.group)
        return Growth(
            group=search.name,
            kind=search.group.kind,
            way=way,
            units=count,
            parameters=count * parameters,
            flops=count * flops,
            predicted=predicted if predicted > self.noise else 0.0,
            error=error_of(values, confirm.parts),
            searched=search.mean() - step.searched,
            _step=step,
            _copies=copies or {},
            _values={
                slot.name: point[slot.name].index_select(
                    slot.axis, slot.positions[: count + len(copies or {})].reshape(-1)
                )
                for slot in search.group.slots
            },
        )

    def _around(
        self, search: LocalModel, confirm: LocalModel, point: Point, seed: int
    ) -> tuple[LocalModel, LocalModel]:
        """The local models around another point of the units."""
        found = []
        for local, batches, parts in (
            (search, self.data.searched, 1),
            (confirm, self.data.confirming, self.data.parts),
        ):
            with torch.no_grad():
                added = local.added(point)
            seen = self.seen([local.name], batches[: len(added)], seed, added, parts)
            damping = DAMPING if local is search else local.damping
            found.append(LocalModel(local.name, seen, point, damping, local.only))
        return found[0], found[1]


def copies(
    local: LocalModel, known: GroupCurvature, unit: int, shares: tuple[float, float]
) -> tuple[Point, Point, Point]:
    """One unit in the place of the first candidate; two copies of it in those of two; these moved apart.

    They move against each other along the eigenvector of K that the shares call for, as far as the unit's own
    parameters are long.

    Source: theory §9.
    """
    reads, makes = known.way(unit, -1 if shares[0] * shares[1] > 0 else 1)
    alone, start, end = ({**local.point, **local.deaf} for _ in range(3))
    for slot in local.group.slots:
        line = local.point[slot.name].movedim(slot.axis, 0)[slot.positions[unit]]
        heard = slot.role == "reads"
        for place, share in enumerate(shares):
            for point, factor in ((alone, 1.0 - place), (start, share), (end, share)):
                tensor = point[slot.name].clone()
                lines = tensor.movedim(slot.axis, 0)
                lines[slot.positions[place]] = (line * (factor if heard else 1.0)).to(tensor)
                point[slot.name] = tensor
    own = torch.cat([part.take(local.point[part.name])[unit] for part in local.branch.parts])
    length = float(torch.linalg.vector_norm(own))
    end |= {part.name: end[part.name].clone() for part in local.branch.parts}
    move_apart(
        end, local.branch.parts, lambda p: p.positions[:2], shares, reads * length, makes * length
    )
    return alone, start, end
