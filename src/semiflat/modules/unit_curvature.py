"""Curvature of the units of any model: K of every unit of a group by products that serve all of them at once.

The units of a group do not couple in the surrogate ``s(u, v) = Σ ⟨δ, reader⟩`` (theory §9). So one
Hessian–vector product of s with a vector that has a part for every unit gives K of each unit times its part.
Up to a stated number of parameters of a unit all K are built, from one product for each parameter that makes a
unit; beyond, a few products tell sure signs of extreme eigenvalues, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from semiflat.errors import InputError, whole
from semiflat.evidence.spectrum import (
    ENOUGH,
    EPS,
    LUCK,
    Spectrum,
    singular_spectrum,
    symmetric_spectrum,
)
from semiflat.modules.batches import (
    Batch,
    Batches,
    LossFunction,
    check_asked,
    check_mean,
    loss_on,
    moved,
)
from semiflat.modules.branches import Branch, Local, Point, Program, Programs, grads, outputs_like
from semiflat.modules.nulls import Silence, gives_nothing, silences
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature, UnitSigns, loudest

NEIGHBOURS = 2
"""Roundings of the parameters at which everything is computed again."""
DENSE, STEPS = 256, 24
"""Parameters of a unit up to which its K is built, and Lanczos steps beyond."""


def unit_curvature(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    groups: Sequence[str] | None = None,
    *,
    dense_limit: int = DENSE,
    steps: int = STEPS,
    dtype: torch.dtype = torch.float64,
) -> UnitCurvature:
    """The curvature K of every unit: what decides what copies of it do to the loss.

    ``K = ∇²s`` is that of the surrogate ``s(v, u) = Σ ⟨δ, reader⟩`` in the weights v that read a unit and those
    u that make it. In it δ, the derivative of the loss by what the readers give, is held fixed; so
    ``K = [[0, F], [Fᵀ, G]]``. Trained parameters alone count. The mode is that which the model is in: in train
    mode batch normalisation takes the statistics of each batch, and the loss is the mean over these batches.
    Every number is computed at two roundings of the parameters, too, which gives its noise floor.

    Args:
        model: any ``nn.Module``; it is not changed.
        batches: re-iterable pairs ``(inputs, targets)``, inputs a tensor, a tuple or a dict.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        groups: names of groups of :func:`units`; all whose units are parallel branches if not given.
        dense_limit: parameters of a unit up to which K is built, which gives its inertia; beyond, sure signs.
        steps: of Lanczos, for units that are larger.
        dtype: in which it is computed; floors are those that it deserves.

    Raises:
        InputError: for a group whose units are no parallel branches, a model that draws at random, a loss that
            is no mean, or batches that cannot be gone through again.

    Source: theory §9; F19 Lemma 4.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> found = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)
    >>> unit = found["0"].units[2]
    >>> unit.exact, unit.positive, unit.negative, unit.rank_F, unit.parameters
    (True, 3, 2, 1, 5)
    >>> found.law({"0": {2: [0.5, 0.5]}}).negative              # beyond those of the narrow model
    2
    """
    check_asked(loss, dtype)
    batches = Batches(batches)
    whole("dense_limit", dense_limit, 0)
    whole("steps", steps, 1)
    work = _Work(Programs(model, dtype), batches, loss)
    first = work.start(groups)
    dense = {name for name, branch in first.items() if work.size(branch) <= dense_limit}
    ways: list[_Dense | _Large] = []
    if dense:
        ways.append(_Dense(work, {name: first[name] for name in first if name in dense}))
    if len(dense) < len(first):
        large = {name: branch for name, branch in first.items() if name not in dense}
        ways.append(_Large(work, large, steps))
    found = {name: group for way in ways for name, group in way.groups().items()}
    return UnitCurvature(
        {name: found[name] for name in first if name in found},
        work.refused,
        work.loss_found,
        "train" if model.training else "eval",
        model,
        batches,
        loss,
    )


class _Work:
    """Passes over the batches that the ways of computing share."""

    def __init__(self, programs: Programs, batches: Batches, loss: LossFunction) -> None:
        self.programs, self.batches, self.loss = programs, batches, loss
        self.refused: dict[str, str] = {}
        self.loss_found, self.value = math.nan, 0.0
        self.eps = torch.finfo(programs.dtype).eps

    def start(self, groups: Sequence[str] | None) -> dict[str, Branch]:
        """The branches that are asked for, on the first batch."""
        batch = self.batches.first()
        program, branches, _ = self.programs.of(batch.inputs)
        self.eps = max(self.eps, program.eps)
        if groups is not None and isinstance(groups, str):
            raise InputError(f"groups must be a list of names, as [{groups!r}]")
        names = list(branches) if groups is None else [program.units[name].name for name in groups]
        chosen: dict[str, Branch] = {}
        for name in names:
            branch = branches[name]
            if isinstance(branch, Branch):
                chosen[name] = branch
            elif groups is None:
                self.refused[name] = branch
            else:
                raise InputError(
                    f"{name!r} has no curvature of its own for each unit: {branch}; leave it out"
                )
        self.point = program.point
        self.trained = {
            name for name, tensor in program.model.named_parameters() if tensor.requires_grad
        }
        return chosen

    def size(self, branch: Branch) -> int:
        """Parameters of a unit."""
        return sum(branch.counts(self.point))

    @property
    def sites(self) -> list[dict[str, Tensor]]:
        """The point, and the point moved by a unit of rounding in several ways."""
        generator = torch.Generator().manual_seed(0)
        sites = [self.point]
        for _ in range(NEIGHBOURS):
            moved_point = dict(self.point)
            for name in sorted(self.point):
                tensor = self.point[name]
                if tensor.is_floating_point():
                    signs = torch.randint(0, 2, tensor.shape, generator=generator) * 2 - 1
                    factor = 1 + 2 * self.eps * signs.double().to(tensor.device)
                    moved_point[name] = (tensor * factor).to(tensor.dtype)
            sites.append(moved_point)
        return sites

    def passes(
        self, names: Sequence[str], points: Sequence[Point]
    ) -> Iterator[tuple[Batch, int, Program, dict[str, Branch], Mapping[fx.Node, Any], Any, Any]]:
        """For each batch and each point what enters the branches, their δ and what is at a kink."""
        checked = False
        for batch in self.batches:
            program, all_branches, inputs = self.programs.of(batch.inputs)
            branches = {}
            for name in names:
                branch = all_branches.get(name, "it is not there for inputs of this shape")
                if isinstance(branch, str):
                    raise InputError(f"{name!r} cannot be judged on all batches: {branch}")
                branches[name] = branch
            like = outputs_like(program.model, inputs)
            targets = moved(batch.targets, self.programs.dtype, self.programs.device)
            if not checked:
                check_mean(like, targets, batch.size, self.loss)
                checked = True
            for number, point in enumerate(points):
                outputs, held, probes, kinks = program.forward(point, inputs, branches.values())
                packed = program.packed(outputs, like, moved=point is not self.point)
                value = loss_on(packed, self.loss, replace(batch, targets=targets))
                every = tuple(probes.values())
                deltas = dict(
                    zip(probes, grads(value, every, retain_graph=kinks.requires_grad), strict=True)
                )
                moves = dict(zip(probes, grads(kinks, every), strict=True))
                if number == 0:
                    self.value = float(value.detach())
                yield batch, number, program, branches, held, deltas, moves

    def weight(self, batch: Batch) -> float:
        """The part of all samples that are in a batch."""
        return float(batch.size / self.batches.samples)


@dataclass
class _Null:
    """What is being found out of the null units of a group."""

    why: str = "no way of making its units silent was found"
    way: Silence | None = None
    F: list[Tensor] = field(default_factory=list)


class _Dense:
    """All K of some groups, built."""

    def __init__(self, work: _Work, branches: Mapping[str, Branch]) -> None:
        self.work, self.branches = work, dict(branches)
        self.K: dict[str, list[Tensor]] = {}
        self.kinks: dict[str, Tensor] = {}
        self.nulls = {name: _Null() for name in branches}
        self._build()

    def _build(self) -> None:
        work = self.work
        sites = work.sites
        total = 0.0
        for number, (batch, site, program, branches, held, deltas, moves) in enumerate(
            work.passes(list(self.branches), sites)
        ):
            weight, point = work.weight(batch), sites[site]
            if site == 0:
                total += weight * work.value
            first = number < len(sites)
            for name, branch in branches.items():
                if any(bool((moves[node] != 0).any()) for node in branch.readers):
                    self.work.refused[name] = (
                        "what its readers give goes into a kink of an activation"
                    )
                local = Local(program, branch, point, held, deltas)
                blocks = self.K.setdefault(name, [])
                if first:
                    blocks.append(torch.zeros((), dtype=torch.float64))
                    self.kinks.setdefault(name, local.kinks)
                blocks[site] = blocks[site] + weight * built(local)
                self.kinks[name] = self.kinks[name] | local.kinks
                self._null(name, program, branch, point, held, deltas, site, first, weight)
        work.loss_found = total

    def _null(
        self,
        name: str,
        program: Program,
        branch: Branch,
        point: Point,
        held: Mapping[fx.Node, Any],
        deltas: Mapping[fx.Node, Tensor],
        site: int,
        first: bool,
        weight: float,
    ) -> None:
        null = self.nulls[name]
        if first and site == 0:
            self._choose(null, program, branch, point, held, deltas)
        if null.way is None:
            return
        silent = null.way.of(branch, program, point)
        if site == 0 and not gives_nothing(program, branch, silent, held, self.work.trained):
            null.way, null.why = None, "a unit that gives nothing on one batch does on another"
            return
        F = weight * skipping(Local(program, branch, silent, held, deltas))
        if first:
            null.F.append(F)
        else:
            null.F[site] = null.F[site] + F

    def _choose(
        self,
        null: _Null,
        program: Program,
        branch: Branch,
        point: Point,
        held: Mapping[fx.Node, Any],
        deltas: Mapping[fx.Node, Tensor],
    ) -> None:
        best = -1.0
        for way in silences(branch, point):
            if null.way is not None and way.fill != null.way.fill:
                return
            silent = way.of(branch, program, point)
            if not gives_nothing(program, branch, silent, held, self.work.trained):
                continue
            local = Local(program, branch, silent, held, deltas)
            if bool(local.kinks.any()):
                null.why = "units that give nothing stand at a kink of their activation"
                continue
            size = float(skipping(local).abs().max())
            if size > best:
                best, null.way = size, way

    def groups(self) -> dict[str, GroupCurvature]:
        """What was found, by group."""
        return {
            name: self._group(name, branch)
            for name, branch in self.branches.items()
            if name not in self.work.refused
        }

    def _group(self, name: str, branch: Branch) -> GroupCurvature:
        reads = branch.counts(self.work.point)[0]
        sites, null = self.K[name], self.nulls[name]
        signs, ways = [], []
        for unit in range(branch.group.size):
            K = _spectrum(symmetric_spectrum, [site[unit] for site in sites], self.work.eps)
            F = _spectrum(
                singular_spectrum, [site[unit, :reads, reads:] for site in sites], self.work.eps
            )
            skip = (
                _spectrum(singular_spectrum, [site[unit] for site in null.F], self.work.eps)
                if null.way is not None
                else None
            )
            kink = bool(self.kinks[name][unit])
            signs.append(_signs(name, unit, K, F, skip, kink))
            ways.append(K.vectors[:, [0, -1]].mT)
        return GroupCurvature(
            group=branch.group,
            units=tuple(signs),
            exact=True,
            blocks=sites[0],
            reading=reads,
            null="" if null.way is None else null.way.what,
            why_no_null=null.why if null.way is None else "",
            silent=self._silent(branch, null, signs),
            _parts=branch.parts,
            _ways=torch.stack(ways),
        )

    def _silent(self, branch: Branch, null: _Null, signs: Sequence[UnitSigns]) -> dict[str, Tensor]:
        """What makes the unit with the largest F∅ when it gives nothing."""
        if null.way is None:
            return {}
        program, _, _ = self.work.programs.of(self.work.batches.first().inputs)
        point = null.way.of(branch, program, self.work.point)
        unit = loudest(signs).unit
        return {
            slot.name: point[slot.name].index_select(slot.axis, slot.positions[unit])
            for slot in branch.group.slots
            if slot.role != "reads"
        }


def _spectrum(of: Callable[..., Spectrum], sites: list[Tensor], eps: float) -> Spectrum:
    """A spectrum with its floor; values that are rounded more coarsely than float64 have that much more."""
    if not sites[0].numel():
        none = torch.zeros(0, dtype=torch.float64)
        return Spectrum(none, none[None], none, none, 0.0)
    size = float(torch.linalg.matrix_norm(sites[0])) * max(sites[0].shape)
    return of(sites, (eps / EPS - 1) * size)


def _signs(
    name: str, unit: int, K: Spectrum, F: Spectrum, skip: Spectrum | None, kink: bool
) -> UnitSigns:
    positive, negative = (int((K.decided & (sign * K.values > 0)).sum()) for sign in (1, -1))
    exact = not kink and not K.doubtful and not F.doubtful
    note = ""
    if kink:
        note = "it stands at a kink of its activation on the data, where K does not exist"
    elif not exact:
        note = f"{K.doubtful + F.doubtful} value(s) too near to the noise floor to tell the sign"
    empty = not len(K.values)
    return UnitSigns(
        group=name,
        unit=unit,
        parameters=len(K.values),
        positive=0 if kink else positive,
        negative=0 if kink else negative,
        rank_F=0 if kink else int(F.decided.sum()),
        exact=exact,
        lowest=0.0 if empty else float(K.values[0]),
        highest=0.0 if empty else float(K.values[-1]),
        floor=0.0 if empty else float(K.floor[[0, -1]].max()),
        null_norm=_top(skip),
        null_rank=None if skip is None or skip.doubtful else int(skip.decided.sum()),
        note=note,
    )


def _top(skip: Spectrum | None) -> float | None:
    if skip is None:
        return None
    return float(skip.values[-1]) if len(skip.values) else 0.0


def built(local: Local) -> Tensor:
    """K of all units, (units, n, n), from one product for each entry that makes a unit."""
    reads, makes = local.branch.counts(local.point)
    units, size = local.gradient.shape
    K = torch.zeros((units, size, size), dtype=torch.float64)
    for entry in range(reads, reads + makes):
        K[:, :, entry] = local.times(one_each(local, entry)).cpu().double()
    # What reads a unit enters linearly: that block is 0, and tried to be.
    K[:, reads:, :reads] = K[:, :reads, reads:].mT
    return K


def skipping(local: Local) -> Tensor:
    """F of all units, (units, reading, making), by the fewer products."""
    reads, makes = local.branch.counts(local.point)
    F = torch.zeros((len(local.gradient), reads, makes), dtype=torch.float64)
    if reads < makes:
        for entry in range(reads):
            F[:, entry] = local.times(one_each(local, entry))[:, reads:].cpu().double()
    else:
        for entry in range(makes):
            F[:, :, entry] = local.times(one_each(local, reads + entry))[:, :reads].cpu().double()
    return F


def one_each(local: Local, entry: int) -> Tensor:
    """The same entry 1 for every unit, all others 0."""
    vectors = torch.zeros_like(local.gradient)
    vectors[:, entry] = 1.0
    return vectors


# -- larger units ----------------------------------------------------------------------------------


class _Krylov:
    """Lanczos on K of every unit of a group, fully reorthogonalised."""

    def __init__(self, units: int, size: int, steps: int) -> None:
        self.steps = min(steps, size)
        generator = torch.Generator().manual_seed(0)
        start = torch.randn((units, size), generator=generator, dtype=torch.float64)
        self.basis: list[Tensor] = [start / torch.linalg.vector_norm(start, dim=1, keepdim=True)]
        self.tri = torch.zeros((units, self.steps, self.steps), dtype=torch.float64)
        self.products: list[Tensor] = []

    @property
    def vectors(self) -> Tensor:
        """What to multiply next, (units, n)."""
        return self.basis[-1]

    def advance(self, product: Tensor) -> None:
        """Take the products, and make the next vectors."""
        step = len(self.products)
        self.products.append(product)
        self.tri[:, step, step] = (product * self.basis[-1]).sum(1)
        basis = torch.stack(self.basis, 1)
        for _ in range(2):
            product = product - torch.einsum(
                "uk,ukn->un", torch.einsum("ukn,un->uk", basis, product), basis
            )
        beta = torch.linalg.vector_norm(product, dim=1)
        size = self.tri.abs().flatten(1).amax(1).clamp(min=1e-300)
        beta = torch.where(beta > 64 * EPS * size, beta, torch.zeros_like(beta))
        if step + 1 < self.steps:
            self.tri[:, step, step + 1] = self.tri[:, step + 1, step] = beta
        safe = torch.where(beta > 0, beta, torch.ones_like(beta))
        following = product / safe[:, None]
        self.basis.append(torch.where(beta[:, None] > 0, following, torch.zeros_like(following)))


class _Large:
    """Sure signs of K of units too large to build it."""

    def __init__(self, work: _Work, branches: Mapping[str, Branch], steps: int) -> None:
        self.work, self.branches, self.kinks = work, dict(branches), dict[str, Tensor]()
        self._kept: list[Any] = []
        self.krylov = {
            name: _Krylov(branch.group.size, work.size(branch), steps)
            for name, branch in branches.items()
        }
        for step in range(steps):
            asked = {name: each.vectors for name, each in self.krylov.items() if step < each.steps}
            for name, product in self._products(asked, work.point).items():
                self.krylov[name].advance(product)
        signs = {}
        generator = torch.Generator().manual_seed(1)
        for name, branch in branches.items():
            shape = (branch.group.size, work.size(branch))
            signs[name] = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
        here = self._products(signs, work.point)
        self._kept = []
        moved_by = {name: torch.zeros(len(each)) for name, each in signs.items()}
        for site in work.sites[1:]:
            there = self._products(signs, site, keep=False)
            for name, each in there.items():
                change = torch.linalg.vector_norm(each - here[name], dim=1)
                moved_by[name] = torch.maximum(moved_by[name].double(), change)
        self.moved_by = moved_by

    def _products(
        self, asked: Mapping[str, Tensor], point: Point, keep: bool = True
    ) -> dict[str, Tensor]:
        """K of every unit times its vector, in one pass over the batches; of one batch it stays in memory."""
        work, single = self.work, self.work.batches.count == 1 and keep
        if single and self._kept:
            weight, locals_ = self._kept[0]
            return {name: weight * _times(locals_[name], each) for name, each in asked.items()}
        found: dict[str, Tensor] = {}
        total = 0.0
        for batch, _, program, branches, held, deltas, moves in work.passes(list(asked), [point]):
            weight = work.weight(batch)
            total += weight * work.value
            locals_ = {}
            for name, branch in branches.items():
                if any(bool((moves[node] != 0).any()) for node in branch.readers):
                    self.work.refused[name] = (
                        "what its readers give goes into a kink of an activation"
                    )
                local = Local(program, branch, point, held, deltas)
                self.kinks[name] = self.kinks.get(name, local.kinks) | local.kinks
                product = weight * _times(local, asked[name])
                found[name] = found[name] + product if name in found else product
                if single:
                    locals_[name] = local
            if single:
                self._kept = [(weight, locals_)]
        if keep:
            work.loss_found = total
        return found

    def groups(self) -> dict[str, GroupCurvature]:
        """What was found, by group."""
        return {
            name: self._group(name, branch)
            for name, branch in self.branches.items()
            if name not in self.work.refused
        }

    def _group(self, name: str, branch: Branch) -> GroupCurvature:
        krylov, work = self.krylov[name], self.work
        size, (reads, _) = work.size(branch), branch.counts(work.point)
        values, inner = torch.linalg.eigh(krylov.tri)
        basis = torch.stack(krylov.basis[: krylov.steps], 1)
        ways = torch.einsum("uke,ukn->uen", inner[:, :, [0, -1]], basis)
        ways = ways / torch.linalg.vector_norm(ways, dim=2, keepdim=True).clamp(min=1e-300)
        heard = torch.stack(krylov.products, 1)[:, :, :reads]
        largest = values.abs().amax(1)
        floor = work.eps * size * largest + LUCK / NEIGHBOURS**2 * 3 * self.moved_by[name]
        signs = []
        for unit in range(branch.group.size):
            kink, bar = bool(self.kinks[name][unit]), ENOUGH * float(floor[unit])
            rank = int((torch.linalg.svdvals(heard[unit]) > bar).sum())
            positive, negative = (int((sign * values[unit] > bar).sum()) for sign in (1, -1))
            signs.append(
                UnitSigns(
                    group=name,
                    unit=unit,
                    parameters=size,
                    positive=0 if kink else max(positive, rank),
                    negative=0 if kink else max(negative, rank),
                    rank_F=0 if kink else rank,
                    exact=False,
                    lowest=float(values[unit, 0]),
                    highest=float(values[unit, -1]),
                    floor=float(floor[unit]),
                    null_norm=None,
                    null_rank=None,
                    note="it stands at a kink of its activation on the data, where K does not exist"
                    if kink
                    else f"counts and extremes are bounds, after {krylov.steps} Lanczos steps",
                )
            )
        return GroupCurvature(
            group=branch.group,
            units=tuple(signs),
            exact=False,
            blocks=None,
            reading=reads,
            null="",
            why_no_null="its units are too large for dense K; raise dense_limit",
            silent={},
            _parts=branch.parts,
            _ways=ways,
        )


def _times(local: Local, vectors: Tensor) -> Tensor:
    product: Tensor = local.times(vectors.to(local.gradient)).cpu().double()
    return product
