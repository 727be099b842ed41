"""Curvature of the units of any model: K of every unit of a group by products that serve all of them at once.

The units of a group do not couple in the surrogate ``s(u, v) = Σ ⟨δ, reader⟩`` (theory §9). So one
Hessian–vector product of s with a vector that has a part for every unit gives K of each unit times its part.
Up to a stated number of parameters of a unit all K are built, from one product for each parameter that makes a
unit; beyond, K is built in some directions alone, which tells sure signs of extreme eigenvalues, and no more.
"""

from __future__ import annotations

import itertools
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
from semiflat.modules.branches import (
    Branch,
    Local,
    Point,
    Program,
    Programs,
    grads,
    outputs_like,
)
from semiflat.modules.nulls import Silence, gives_nothing, silences
from semiflat.modules.unit_signs import GroupCurvature, UnitCurvature, UnitSigns, loudest

NEIGHBOURS = 2
"""Roundings of the parameters at which everything is computed again."""
DENSE, DIRECTIONS = 256, 16
"""Parameters of a unit up to which its K is built, and of how many directions of each parameter beyond."""
SHOWN, PASSES = 32, 2
"""Samples, and products with K on them, that its directions are taken from."""


def unit_curvature(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    groups: Sequence[str] | None = None,
    *,
    dense_limit: int = DENSE,
    directions: int = DIRECTIONS,
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
        directions: of each parameter of a unit that is larger, in which K is built.
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
    whole("directions", directions, 1)
    return curvature_by(
        Programs(model, dtype), model, batches, loss, groups, dense_limit, directions
    )


def curvature_by(
    programs: Programs,
    model: nn.Module,
    batches: Batches,
    loss: LossFunction,
    groups: Sequence[str] | None,
    dense_limit: int = DENSE,
    directions: int = DIRECTIONS,
) -> UnitCurvature:
    """The same, by programs of the model that may be known from elsewhere."""
    work = _Work(programs, batches, loss)
    built = _Built(work, work.start(groups, dense_limit, directions))
    found = built.groups()
    mode = "train" if model.training else "eval"
    return UnitCurvature(found, work.refused, built.loss, mode, model, batches, loss)


@dataclass(frozen=True)
class _Pass:
    """A batch that went through the model at one point.

    Attributes:
        weight: the part of all samples that are in it.
        site: number of the point.
        point: parameters and buffers.
        branches: by group.
        held, deltas: what enters the branches, and what the loss changes by with what readers give.
        loss: of the batch.
        kinked: groups for which what readers give goes into a kink.
    """

    weight: float
    site: int
    point: Point
    program: Program
    branches: dict[str, Branch]
    held: Mapping[fx.Node, Any]
    deltas: Mapping[fx.Node, Tensor]
    loss: float
    kinked: frozenset[str]

    def local(self, branch: Branch, point: Point | None = None) -> Local:
        """The surrogate of a branch."""
        return Local(
            self.program, branch, self.point if point is None else point, self.held, self.deltas
        )


class _Work:
    """Passes over the batches."""

    def __init__(self, programs: Programs, batches: Batches, loss: LossFunction) -> None:
        self.programs, self.batches, self.loss = programs, batches, loss
        self.refused: dict[str, str] = {}
        self.eps = torch.finfo(programs.dtype).eps

    def start(
        self, groups: Sequence[str] | None, dense_limit: int, directions: int
    ) -> dict[str, Branch]:
        """The branches that are asked for, on the first batch; of large units some directions."""
        batch = self.batches.first()
        program, branches, _ = self.programs.of(batch.inputs)
        self.eps = max(self.eps, program.eps)
        if groups is not None and isinstance(groups, str):
            raise InputError(f"groups must be a list of names, as [{groups!r}]")
        names = list(branches) if groups is None else [program.units[name].name for name in groups]
        self.chosen: dict[str, Branch] = {}
        for name in names:
            branch = branches[name]
            if isinstance(branch, Branch):
                self.chosen[name] = branch
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
        large = [name for name, each in self.chosen.items() if self.size(each) > dense_limit]
        if large:
            inputs = moved(batch.inputs, self.programs.dtype, self.programs.device)
            few = batch if program.fewer(inputs, SHOWN) is inputs else batch.few(SHOWN)
            (seen,) = self.of(few, program, {n: self.chosen[n] for n in large}, [self.point])
            for name in large:
                self.chosen[name] = in_directions(seen.local(self.chosen[name]), directions)
        return self.chosen

    def size(self, branch: Branch) -> int:
        """Parameters of a unit."""
        return sum(part.count(self.point[part.name]) for part in branch.parts)

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

    def passes(self) -> Iterator[_Pass]:
        """Each batch at each of the sites."""
        sites = self.sites
        for batch in self.batches:
            program, all_branches, _ = self.programs.of(batch.inputs)
            branches = {}
            for name, chosen in self.chosen.items():
                branch = all_branches.get(name, "it is not there for inputs of this shape")
                if isinstance(branch, str):
                    raise InputError(f"{name!r} cannot be judged on all batches: {branch}")
                branches[name] = replace(branch, bases=chosen.bases)
            yield from self.of(batch, program, branches, sites)

    def of(
        self, batch: Batch, program: Program, branches: dict[str, Branch], points: Sequence[Point]
    ) -> Iterator[_Pass]:
        """A batch at some points."""
        inputs = moved(batch.inputs, self.programs.dtype, self.programs.device)
        like = outputs_like(program.model, inputs)
        targets = moved(batch.targets, self.programs.dtype, self.programs.device)
        if batch.number == 0:
            loss_on(like, self.loss, replace(batch, targets=targets))  # says why if it fails
            check_mean(like, targets, batch.size, self.loss)
        for site, point in enumerate(points):
            outputs, held, probes, kinks = program.forward(point, inputs, branches.values())
            packed = program.packed(outputs, like, moved=point is not self.point)
            value = loss_on(packed, self.loss, replace(batch, targets=targets))
            every = tuple(probes.values())
            deltas = dict(
                zip(probes, grads(value, every, retain_graph=kinks.requires_grad), strict=True)
            )
            if site:
                deltas = self._rounded(deltas, site)
            moves = dict(zip(probes, grads(kinks, every), strict=True))
            kinked = frozenset(
                name
                for name, branch in branches.items()
                if any(bool((moves[node] != 0).any()) for node in branch.readers)
            )
            weight = float(batch.size / self.batches.samples)
            loss = float(value.detach())
            yield _Pass(weight, site, point, program, branches, held, deltas, loss, kinked)

    def _rounded(self, deltas: Mapping[fx.Node, Tensor], site: int) -> dict[fx.Node, Tensor]:
        """What the loss changes by, moved by a unit of rounding: it shows in sums whose terms cancel."""
        generator = torch.Generator().manual_seed(site)
        return {
            node: each * (1 + 2 * self.eps * (2 * drawn.to(each) - 1))
            for node, each in deltas.items()
            for drawn in [torch.randint(0, 2, each.shape, generator=generator)]
        }


@dataclass
class _Null:
    """What is being found out of the null units of a group."""

    why: str = "no way of making its units silent was found"
    way: Silence | None = None
    F: list[Tensor] = field(default_factory=list)


class _Built:
    """All K of some groups: in all directions at every site, or in some and, at the neighbours, one product."""

    def __init__(self, work: _Work, branches: Mapping[str, Branch]) -> None:
        self.work, self.branches = work, dict(branches)
        self.K = {name: [torch.zeros(())] * (1 + NEIGHBOURS) for name in branches}
        self.kinks = {name: torch.zeros((), dtype=torch.bool) for name in branches}
        self.nulls = {name: _Null() for name in branches}
        self.loss = 0.0 if branches else math.nan
        generator = torch.Generator().manual_seed(1)
        self.signs: dict[str, Tensor] = {}
        for name, branch in branches.items():
            if branch.bases:
                shape = (branch.group.size, sum(branch.sizes(work.point)))
                self.signs[name] = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
                self.nulls[name].why = "its units are too large for dense K; raise dense_limit"
        for number, seen in enumerate(work.passes() if branches else ()):
            self._add(seen, number < 1 + NEIGHBOURS)

    def _add(self, seen: _Pass, first: bool) -> None:
        if seen.site == 0:
            self.loss += seen.weight * seen.loss
        for name, branch in seen.branches.items():
            if name in seen.kinked:
                self.work.refused[name] = "what its readers give goes into a kink of an activation"
            local = seen.local(branch)
            if name in self.signs and seen.site:
                found = local.times(self.signs[name].to(local.gradient)).cpu().double()
            else:
                found = built(local)
            self.K[name][seen.site] = self.K[name][seen.site] + seen.weight * found
            self.kinks[name] = self.kinks[name] | local.kinks
            if name not in self.signs:
                self._null(self.nulls[name], seen, branch, first)

    def _null(self, null: _Null, seen: _Pass, branch: Branch, first: bool) -> None:
        if first and seen.site == 0:
            self._choose(null, seen, branch)
        if null.way is None:
            return
        silent = null.way.of(branch, seen.program, seen.point)
        if seen.site == 0 and not self._nothing(seen, branch, silent):
            null.way, null.why = None, "a unit that gives nothing on one batch does on another"
            return
        F = seen.weight * skipping(seen.local(branch, silent))
        if first:
            null.F.append(F)
        else:
            null.F[seen.site] = null.F[seen.site] + F

    def _nothing(self, seen: _Pass, branch: Branch, silent: Point) -> bool:
        return gives_nothing(seen.program, branch, silent, seen.held, self.work.trained)

    def _choose(self, null: _Null, seen: _Pass, branch: Branch) -> None:
        best = -1.0
        for way in silences(branch, seen.point):
            if null.way is not None and way.fill != null.way.fill:
                return
            silent = way.of(branch, seen.program, seen.point)
            if not self._nothing(seen, branch, silent):
                continue
            local = seen.local(branch, silent)
            if bool(local.kinks.any()):
                null.why = "units that give nothing stand at a kink of their activation"
                continue
            size = float(torch.linalg.vector_norm(skipping(local)))
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
        null, exact = self.nulls[name], not branch.bases
        signs, ways = self._whole(name, branch) if exact else self._bounds(name, branch)
        return GroupCurvature(
            group=branch.group,
            units=tuple(signs),
            exact=exact,
            blocks=self.K[name][0] if exact else None,
            reading=replace(branch, bases=()).counts(self.work.point)[0],
            null="" if null.way is None else null.way.what,
            why_no_null=null.why if null.way is None else "",
            silent=self._silent(branch, null, signs),
            _parts=branch.parts,
            _ways=ways,
        )

    def _whole(self, name: str, branch: Branch) -> tuple[list[UnitSigns], Tensor]:
        """The signs of each unit, and its extreme eigenvectors, (units, 2, n)."""
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
            signs.append(_signs(name, unit, K, F, skip, bool(self.kinks[name][unit])))
            ways.append(K.vectors[:, [0, -1]].mT)
        return signs, torch.stack(ways)

    def _bounds(self, name: str, branch: Branch) -> tuple[list[UnitSigns], Tensor]:
        """The same from K in some directions."""
        (K, *others), signs = self.K[name], self.signs[name]
        size, reads = self.work.size(branch), branch.counts(self.work.point)[0]
        values, vectors = torch.linalg.eigh(K)
        heard = torch.linalg.svdvals(K[:, :reads, reads:])
        here = (K @ signs[:, :, None])[:, :, 0]
        changes = torch.stack([torch.linalg.vector_norm(each - here, dim=1) for each in others])
        known = self.work.eps * size * values.abs().amax(1)
        floor = known + LUCK / NEIGHBOURS**2 * 3 * changes.amax(0)
        bar = ENOUGH * floor[:, None]
        ranks = (heard > bar).sum(1).tolist()
        positive, negative = ((sign * values > bar).sum(1).tolist() for sign in (1, -1))
        found = []
        for unit, rank in enumerate(ranks):
            kink = bool(self.kinks[name][unit])
            found.append(
                UnitSigns(
                    group=name,
                    unit=unit,
                    parameters=size,
                    positive=0 if kink else max(positive[unit], rank),
                    negative=0 if kink else max(negative[unit], rank),
                    rank_F=0 if kink else rank,
                    exact=False,
                    lowest=float(values[unit, 0]),
                    highest=float(values[unit, -1]),
                    floor=float(floor[unit]),
                    null_norm=None,
                    null_rank=None,
                    note=AT_KINK
                    if kink
                    else f"counts and extremes are bounds, from {len(K[0])} of its directions",
                )
            )
        return found, branch.entries(vectors[:, :, [0, -1]].mT)

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


AT_KINK = "it stands at a kink of its activation on the data, where K does not exist"


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
        note = AT_KINK
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
    """K of all units, (units, n, n): what is a sum over places so, the rest from a product for each entry."""
    reads, _ = local.branch.counts(local.point)
    sizes = local.branch.sizes(local.point)
    starts = [0, *itertools.accumulate(sizes)]
    units, size = local.gradient.shape
    K = torch.zeros((units, size, size), dtype=torch.float64)
    places: list[int] = []
    closed = local.closed()
    if closed is not None:
        numbers, block = closed
        places = [place for n in numbers for place in range(starts[n], starts[n + 1])]
        K[:, torch.tensor(places)[:, None], places] = block.cpu().double()
    # Where entries that make a unit are known, those that read it need first derivatives alone.
    for entry in range(0 if places else reads, size):
        if entry not in places:
            column = local.times(one_each(local, entry)).cpu().double()
            K[:, :, entry] = column
            K[:, entry] = column
    # What reads a unit enters linearly: that block is 0, and tried to be.
    K[:, :reads, :reads] = 0.0
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


def in_directions(local: Local, most: int) -> Branch:
    """A branch of which some directions alone are looked at, ``most`` for each part: those that K shows.

    Products of ``K_u``, ``K_u²``, … with a vector drawn at random lie where ``K_u`` is large. What they have
    in common is taken for all units.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(local.gradient.shape, generator=generator, dtype=torch.float64)
    rows: list[Tensor] = []
    while len(rows) < PASSES or len(rows) * len(vectors) < 2 * most:
        vectors = local.times(vectors.to(local.gradient)).cpu().double()
        vectors = vectors / torch.linalg.vector_norm(vectors, dim=1, keepdim=True).clamp(min=1e-300)
        rows.append(vectors)
    sizes = local.branch.sizes(local.point)
    bases = tuple(_main(mine, most, generator) for mine in torch.cat(rows).split(sizes, 1))
    return replace(local.branch, bases=bases)


def _main(rows: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns along which rows are largest, (n, most); all directions if there are no more."""
    size = rows.shape[1]
    if size <= most:
        return torch.eye(size, dtype=torch.float64)
    mixed = torch.randn((2 * most, len(rows)), generator=generator, dtype=torch.float64) @ rows
    main: Tensor = torch.linalg.svd(mixed, full_matrices=False)[2]
    return main[:most].mT
