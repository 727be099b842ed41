"""New units for one group: chosen from a pool in a local model of the loss, and fitted together.

Candidates take the places of the group's own units in the operations that were recorded, so that nothing is
built or captured again. What they are read into is held against the quadratic model of
:mod:`semiflat.growth.downstream`, which is convex in what reads a unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from semiflat.growth.data import error_of, mean_of
from semiflat.growth.downstream import Downstream, over_places
from semiflat.modules.batches import Batch
from semiflat.modules.branches import Branch, Point, Program, called, grads
from semiflat.modules.flow import name_of
from semiflat.modules.groups import Slot

DAMPING = 0.1
"""Of the curvature taken place by place, beside the sums over places: what the drawn columns do not see."""
POOL, POOL_ROUNDS = 96, 16
"""Candidates that are drawn before the best are chosen, and in how many rounds at most."""
STEPS, BLOCK, PATIENCE = 60, 5, 4
"""Steps of L-BFGS for those that were chosen; after how many other data are asked, and how often in vain."""
PENALTY, HEARD = 3e-3, 1e-3
"""On incoming and on outgoing weights, beside what the units take off: they stay at the size of the others, so
that training goes on evenly in both."""
TINY = 1e-3
"""Of the size of weights as torch draws them: smaller ones are taken for 0."""
SMALL = 1e-3
"""Of the loss: what units that take off less are fitted against."""


@dataclass(frozen=True)
class Reader:
    """An operation that reads the units.

    Attributes:
        node: it.
        takes: what it takes them from.
        axis: of features in what it takes and in what it gives.
        slot: where they lie among the features that it takes.
    """

    node: fx.Node
    takes: fx.Node
    axis: int
    slot: Slot


def readers_of(program: Program, branch: Branch) -> list[Reader] | str:
    """The readers of a branch; or why new units cannot be looked for there."""
    found = []
    slots = {program._flow.uses[slot.use].node: slot for slot in branch.group.of("reads")}
    for node in branch.readers:
        name, slot = name_of(node), slots.get(node.name)
        place = {"linear": 0, "matmul": 0, "mm": 0, "addmm": 1}.get(name)
        conv = name.startswith("conv") and "transpose" not in name and "transposed" not in name
        if conv:
            place = 0
            weight, x = (node.args[k].meta["val"] for k in (1, 0))  # type: ignore[union-attr]
            conv = weight.shape[1] == x.shape[1 if x.ndim == weight.ndim else 0]
        if place is None or slot is None or not (conv or not name.startswith("conv")):
            return f"{node.name!r} reads its units, which is neither a linear layer nor a plain convolution"
        takes = node.args[place]
        assert isinstance(takes, fx.Node)
        found.append(Reader(node, takes, 1 if conv else -1, slot))
    return found if found else "nothing reads its units"


class LocalModel:
    """The loss around a point, in the weights of some units of one group alone.

    Args:
        name: of the group.
        batches: seen from what reads its units.
        reference: the point from which changes count, that at which the batches are seen; the model's own, its
            units unheard, if not given: then candidates can take their places.
        damping: see :data:`DAMPING`.
        only: places of the units that are run; all if not given. Only these may differ from the reference.

    Attributes:
        deaf: what reads the units, zero where it does.
    """

    def __init__(
        self,
        name: str,
        batches: Sequence[Downstream],
        reference: Point | None = None,
        damping: float = DAMPING,
        only: Sequence[int] | None = None,
    ) -> None:
        self.name, self.batches, self.damping = name, batches, damping
        self.only = None if only is None else list(only)
        self.branch = batches[0].branches[name]
        self.group, self.point = self.branch.group, batches[0].program.point
        self.readers = [self._readers(batch) for batch in batches]
        self.deaf: dict[str, Tensor] = {}
        for part in self.branch.parts:
            if part.reads:
                whole = self.deaf.get(part.name, self.point[part.name])
                self.deaf[part.name] = whole - part.put(part.take(whole), whole)
        self.reference = {**self.point, **self.deaf} if reference is None else dict(reference)
        self._before = dict[int, dict[fx.Node, Tensor]]()

    def before(self, number: int) -> dict[fx.Node, Tensor]:
        """What the readers give of a batch at the reference."""
        if number not in self._before:
            with torch.no_grad():
                self._before[number] = self._given(self.batches[number], self.reference)
        return self._before[number]

    def narrowed(self, places: Sequence[int], start: Point) -> LocalModel:
        """The same with the units of some places alone, if the operations run without the others.

        They do not where a view asks for the number of units. That they do, and give the same, is tried.
        """
        slots = self.group.slots
        if len(places) == self.group.size or len({slot.name for slot in slots}) < len(slots):
            return self
        trial, rest = dict(start), [k for k in range(self.group.size) if k not in places]
        for part in self.branch.parts:
            at = part.positions[rest].reshape(-1)
            still = self.reference[part.name].index_select(part.axis, at)
            trial[part.name] = (1.25 * trial[part.name]).index_copy(part.axis, at, still)
        try:
            thin = LocalModel(self.name, self.batches[:1], self.reference, self.damping, places)
            with torch.no_grad():
                own, same = (float(local.change(0, trial)[0]) for local in (thin, self))
        except (RuntimeError, IndexError):
            return self
        if abs(own - same) > 1e-4 * abs(same):
            return self
        return LocalModel(self.name, self.batches, self.reference, self.damping, places)

    def _readers(self, batch: Downstream) -> list[Reader]:
        found = readers_of(batch.program, batch.branches[self.name])
        assert not isinstance(found, str)
        return found

    def _given(self, batch: Downstream, point: Point) -> dict[fx.Node, Tensor]:
        """What the readers give."""
        branch = batch.branches[self.name]
        if self.only is not None:
            at = {
                slot.name: (slot.axis, slot.positions[self.only].reshape(-1))
                for slot in branch.group.slots
            }
            point = {**point, **{name: point[name].index_select(*at[name]) for name in at}}
        values = {**batch.held, **batch.program.start(point)}
        for node in branch.nodes:
            values[node] = called(node, values)
        return {node: values[node] for node in branch.readers}

    def change(self, number: int, point: Point) -> tuple[Tensor, Tensor]:
        """The loss of a batch at a point beyond that of the batch, to second order, and its slope alone."""
        batch = self.batches[number]
        slope = damp = torch.zeros((), dtype=batch.dtype)
        given = self._given(batch, point)
        products: Any = 0.0
        before = self.before(number)
        for reader in self.readers[number]:
            node = reader.node
            change = given[node] - before[node]
            slope = slope + (batch.deltas[node] * change).sum()
            placed = (batch.factors[node] * change).sum(reader.axis % change.ndim + 1)
            products = products + over_places(placed, batch.samples)
            damp = damp + placed.square().sum()
        curved = products.square().sum()
        return slope + 0.5 * (curved + self.damping * damp), slope

    def model(self, point: Point) -> Tensor:
        """The change of the loss over all batches, to second order."""
        parts = [self.change(k, point)[0] * batch.weight for k, batch in enumerate(self.batches)]
        return torch.stack(parts).sum()

    def value(self, point: Point) -> float:
        """The same, a number."""
        with torch.no_grad():
            return float(self.model(point))

    def on_the_way(self, point: Point) -> tuple[float, float, float]:
        """Which part of the way to a point is best, its value, and the slope, by what readers give there."""
        with torch.no_grad():
            both = [self.change(k, point) for k in range(len(self.batches))]
        value, slope = (self.mean([float(each[k]) for each in both]) for k in (0, 1))
        curved = value - slope
        if slope < 0 < curved:
            return -slope / (2 * curved), -(slope**2) / (4 * curved), slope
        return (1.0, value, slope) if value < 0 else (0.0, 0.0, slope)

    def added(self, point: Point) -> list[dict[fx.Node, Tensor]]:
        """What readers give more at a point than where the model is, for each batch."""
        found = []
        for number, batch in enumerate(self.batches):
            given = self._given(batch, point)
            more = {node: given[node] - self.before(number)[node] for node in given}
            found.append(
                {node: batch.added.get(node, 0.0) + change for node, change in more.items()}
            )
        return found

    def losses(self, point: Point) -> list[float]:
        """The loss itself of each part of the batches, with the units as they are at a point."""
        with torch.no_grad():
            both = zip(self.batches, self.added(point), strict=True)
            return [loss for batch, added in both for loss in batch.losses_with(self.name, added)]

    def loss(self, point: Point) -> float:
        """The same over all batches."""
        return mean_of(self.losses(point), self.parts)

    @property
    def parts(self) -> list[Batch]:
        """Into which the batches are cut."""
        return [part for batch in self.batches for part in batch.parts]

    @property
    def begun(self) -> list[float]:
        """The losses of the parts where the batches are seen."""
        return [loss for batch in self.batches for loss in batch.losses]

    def mean(self, values: Sequence[float] | None = None) -> float:
        """Over all batches of a value of each; if not given, of the loss at the reference."""
        values = [batch.loss for batch in self.batches] if values is None else values
        return sum(v * batch.weight for v, batch in zip(values, self.batches, strict=True))

    # -- candidates -------------------------------------------------------------------------------

    def size(self, weights: Tensor) -> float:
        """Of weights that make units. Where they are 0, they do not say: then as torch draws weights."""
        writes = self.group.of("writes")
        fan = max(
            (self.point[slot.name].movedim(slot.axis, 0)[0].numel() for slot in writes), default=1
        )
        drawn, found = (3 * fan) ** -0.5, root_mean_square(weights)
        return found if found > TINY * drawn else drawn

    def drawn(self, generator: torch.Generator) -> dict[str, Tensor]:
        """A point with candidates in all places, which nothing reads.

        What makes half of them is drawn, what makes the others is that of a unit there is, moved. What acts on
        them on the way is that of some unit.
        """
        out = {**self.point, **self.deaf}
        size = self.group.size
        order = torch.randint(0, size, (size,), generator=generator)
        for slot in self.group.slots:
            if slot.role == "reads":
                continue
            tensor = out[slot.name].clone()
            lines = tensor.movedim(slot.axis, 0)
            old = lines[slot.positions]
            fresh = old[order]
            if slot.role in ("writes", "adds"):
                noise = torch.randn(old.shape, generator=generator, dtype=torch.float64)
                noise = noise * self.size(old)
                odd = (torch.arange(size) % 2).view(-1, *[1] * (old.ndim - 1))
                fresh = odd * (fresh.double() - 0.5 * noise) + noise * (1 - 0.5 * odd)
            lines[slot.positions] = fresh.to(tensor)
            out[slot.name] = tensor
        return settled(self.branch, self.batches, out)

    def heard(self, point: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Candidates read along the steepest way down, and what each would do by itself.

        Returns:
            The point; the products with the factors, (units, all samples and factors); the slopes, (units,).
        """
        leaves = {name: point[name].clone().requires_grad_() for name in self.deaf}
        terms = [
            self.change(k, {**point, **leaves})[1] * batch.weight
            for k, batch in enumerate(self.batches)
        ]
        found = dict(zip(leaves, grads(sum(terms), tuple(leaves.values())), strict=True))
        out, slopes = dict(point), torch.zeros(self.group.size, dtype=self.batches[0].dtype)
        for part in self.branch.parts:
            if part.reads:
                steepest = part.take(found[part.name])
                slopes = slopes - steepest.square().sum(1)
                out[part.name] = out[part.name] - part.put(steepest, out[part.name])
        rows = [self._products(k, out) * batch.weight**0.5 for k, batch in enumerate(self.batches)]
        return out, torch.cat(rows, 1), slopes

    def _products(self, number: int, point: Point) -> Tensor:
        """Each unit's products with the factors: a reader is linear in what it takes, too."""
        batch = self.batches[number]
        branch, rows = batch.branches[self.name], torch.zeros(())
        by_node = {reader.node: reader for reader in self.readers[number]}
        values = {**batch.held, **batch.program.start(point)}
        for node in branch.nodes:
            reader = by_node.get(node)
            if reader is not None:
                leaf = values[reader.takes].detach().requires_grad_()
                with torch.enable_grad():
                    given = called(node, {**values, reader.takes: leaf})
                (back,) = torch.autograd.grad(
                    given, leaf, batch.factors[node], is_grads_batched=True
                )
                at, axis = reader.slot.positions, reader.axis % leaf.ndim
                own = (back * leaf.detach()).movedim(axis + 1, 0)[at.reshape(-1)]
                summed = over_places(own.flatten(0, 1), batch.samples)
                rows = rows + summed.view(*at.shape, -1).sum(1)
            with torch.no_grad():
                values[node] = called(node, values)
        return rows

    def chosen(self, count: int, seed: int) -> dict[str, Tensor]:
        """A point with the best candidates of a pool in the first places, chosen one after the other."""
        generator = torch.Generator().manual_seed(seed)
        rounds = min(-(-max(POOL, 2 * count) // self.group.size), POOL_ROUNDS)
        points, rows, slopes = zip(
            *(self.heard(self.drawn(generator)) for _ in range(rounds)), strict=True
        )
        best = pursued(torch.cat(rows), torch.cat(slopes), count, self.damping)
        out = {**points[0], **self.deaf}
        for place, (which, amplitude) in enumerate(best):
            source, unit = points[which // self.group.size], which % self.group.size
            for slot in self.group.slots:
                tensor = out[slot.name].clone()
                line = source[slot.name].movedim(slot.axis, 0)[slot.positions[unit]]
                factor = amplitude if slot.role == "reads" else 1
                tensor.movedim(slot.axis, 0)[slot.positions[place]] = (line * factor).to(tensor)
                out[slot.name] = tensor
        return out

    def fitted(
        self,
        start: Mapping[str, Tensor],
        places: Sequence[int],
        others: LocalModel | None = None,
    ) -> dict[str, Tensor]:
        """A point at which the weights of units in some places are fitted to the local model.

        Args:
            start: where they start; the other units stay as they are there.
            others: the local model on other data: of the points on the way that is taken which is best there.

        Source: theory §9; the Gauss–Newton step in what reads a unit, in one with what makes it.
        """
        places, parts = list(places), self.branch.parts
        judge = self if others is None else others
        firsts = [part.take(start[part.name])[places] for part in parts]
        counts, sizes, penalties = [first.numel() for first in firsts], [], []
        for part, entries in zip(parts, firsts, strict=True):
            own = part.take(self.point[part.name])
            size = max(root_mean_square(entries), 1e-6) if part.reads else self.size(own)
            usual = max(root_mean_square(own), self.group.size**-0.5) if part.reads else size
            sizes.append(size)
            penalties.append((HEARD if part.reads else PENALTY) / usual**2)
        first = torch.cat([entries.flatten() for entries in firsts])
        repeats = torch.tensor(counts, device=first.device)
        scale, penalty = (
            first.new_tensor(each).repeat_interleave(repeats) for each in (sizes, penalties)
        )
        move = torch.zeros_like(first).requires_grad_()

        def point(entries: Tensor) -> dict[str, Tensor]:
            out = dict(start)
            for part, fresh in zip(parts, entries.split(counts), strict=True):
                lines = out[part.name].movedim(part.axis, 0)
                at = part.positions[places].reshape(-1)
                put = lines.index_copy(0, at, fresh.reshape(len(at), *lines.shape[1:]))
                out[part.name] = put.movedim(0, part.axis)
            return out

        def here() -> dict[str, Tensor]:
            return point((first + scale * move).detach())

        unit = max(
            abs(self.value(here())),
            SMALL * sum(batch.weight * batch.loss for batch in self.batches),
            1e-30,
        )
        optimizer = torch.optim.LBFGS(
            [move], max_iter=BLOCK, history_size=20, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            entries = first + scale * move
            value = self.model(point(entries)) / unit + (penalty * entries.square()).sum()
            value.backward()
            return value

        best, low, worse = here(), judge.on_the_way(here())[1], 0
        for _ in range(STEPS // BLOCK):
            optimizer.step(closure)
            value = judge.on_the_way(here())[1]
            if value < low:
                best, low, worse = here(), value, 0
            elif (worse := worse + 1) == PATIENCE or not math.isfinite(value):
                break
        return best


def root_mean_square(values: Tensor) -> float:
    """The size of an entry."""
    return float(values.double().square().mean().sqrt())


def pursued(
    rows: Tensor, slopes: Tensor, count: int, damping: float = 0.0
) -> list[tuple[int, float]]:
    """Which directions lower ``slopesᵀt + ½ ‖rowsᵀt‖²`` most, one after the other, and all their t.

    >>> rows = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]])
    >>> [(which, round(t, 3)) for which, t in pursued(rows, torch.tensor([-1.0, -1.0, -0.9]), 2)]
    [(0, 1.0), (1, 0.25)]
    """
    gram = (rows @ rows.mT).double()
    slopes = slopes.double()
    own = gram.diagonal().clone()
    ridge = damping * own + 1e-9 * own.mean() + (own <= 0)  # what gives nothing is left at 0
    gram = gram + torch.diag(ridge)
    picked: list[int] = []
    t = torch.zeros(0, dtype=torch.float64)
    for _ in range(min(count, len(slopes))):
        left = slopes + gram[:, picked] @ t
        score = left.square() / gram.diagonal()
        score[own <= 0] = 0.0
        score[picked] = -1.0
        picked.append(int(score.argmax()))
        t = -torch.linalg.solve(gram[picked][:, picked], slopes[picked])
    return list(zip(picked, t.tolist(), strict=True))


# -- steps --------------------------------------------------------------------------------------------

SHORTEST, LONGEST, NEAR, TRIED = 0.2, 1.6, 0.2, 6
"""Of a step, what the next one is at least, and at most; how near it need not be tried; how many are tried."""
LIKEWISE = 0.3
"""What the loss has to fall on the confirming batches, but for a standard error, in parts of its fall on the
searched: less is a fit to these alone, which other data pay for."""


@dataclass(frozen=True)
class Step:
    """How far to go from one point to another.

    Attributes:
        part: of the way; 0 where no part lowers the loss on both parts of the data.
        point: there.
        searched: the loss there.
        confirmed: the loss of each part of the confirming batches there.
    """

    part: float
    point: dict[str, Tensor]
    searched: float
    confirmed: list[float]


def stepped(search: LocalModel, confirm: LocalModel, start: Point, end: Point) -> Step:
    """Go as far as the loss falls most on the searched batches, if on the confirming ones likewise.

    The first step is as long as the local model asks for, each further one goes to where the parabola through
    the start, its slope and the last step is lowest.

    Args:
        start: does what the reference does.
    """
    begun = Step(0.0, dict(start), search.mean(), confirm.begun)
    part, _, slope = search.on_the_way(end)
    part, best, sizes = min(part, LONGEST), begun, confirm.parts
    for _ in range(TRIED if slope < 0 else 0):
        point = between(start, end, part)
        searched = search.loss(point)
        if best.part and not searched < best.searched:
            break
        falls = begun.searched - searched
        confirmed = confirm.losses(point) if falls > 0 else begun.confirmed
        fallen = [old - new for old, new in zip(begun.confirmed, confirmed, strict=True)]
        gain, error = mean_of(fallen, sizes), error_of(fallen, sizes) or 0.0
        if gain > 0 and gain + error > LIKEWISE * falls:
            best = Step(part, point, searched, confirmed)
        bend = -falls - slope * part
        longer = -slope * part / (2 * bend) if bend > 0 else LONGEST
        if best.part != part:
            longer = min(longer, 0.5)
        elif abs(longer - 1) < NEAR:
            break
        part *= min(max(longer, SHORTEST), LONGEST)
    return best


def between(start: Point, end: Point, t: float) -> dict[str, Tensor]:
    """A point on the way from one to another; what is no real number is that of the end.

    >>> between({"a": torch.zeros(1)}, {"a": torch.ones(1)}, 0.25)
    {'a': tensor([0.2500])}
    """
    return {
        name: torch.lerp(start[name], end[name], t) if end[name].is_floating_point() else end[name]
        for name in end
    }


# -- statistics that norms keep ----------------------------------------------------------------------


def settled(
    branch: Branch, batches: Sequence[Downstream], point: dict[str, Tensor], keep: bool = False
) -> dict[str, Tensor]:
    """The point with what batch norms keep of the units set to what it is on the data.

    Args:
        keep: whether gains and biases of the norms change so that what is given stays in eval mode.
    """
    slots = {slot.name: slot for slot in branch.group.of("statistics")}
    if not slots:
        return point
    out = dict(point)
    owners = batches[0].program.captured.owners
    nodes = [batch.branches[name] for batch in batches for name in [branch.group.name]]
    values = [{**batch.held, **batch.program.start(point)} for batch in batches]
    total = sum(batch.weight for batch in batches)

    def held(node: fx.Node, place: int) -> str:
        arg = node.args[place] if len(node.args) > place else None
        return owners.get(arg.name, ("",))[0] if isinstance(arg, fx.Node) else ""

    with torch.no_grad():
        for place, node in enumerate(branch.nodes):
            mine = [each.nodes[place] for each in nodes]
            names = [held(node, k) for k in range(5)]
            if "batch_norm" in name_of(node) and names[3] in slots:
                mean: Any = 0.0
                square: Any = 0.0
                for batch, own, known in zip(batches, mine, values, strict=True):
                    x = known[own.args[0]].double()  # type: ignore[index]
                    axes = [axis for axis in range(x.ndim) if axis != 1]
                    mean = mean + batch.weight / total * x.mean(axes)
                    square = square + batch.weight / total * x.square().mean(axes)
                at = slots[names[3]].positions.reshape(-1)
                fresh = [mean[at], (square - mean.square()).clamp(min=0)[at]]
                if keep and not node.args[5]:  # in train mode it does not go by what it keeps
                    _refold(out, names, at, fresh, float(node.args[7]))  # type: ignore[arg-type]
                for name, each in zip(names[3:5], fresh, strict=True):
                    out[name] = out[name].index_copy(0, at, each.to(out[name]))
                values = [
                    {**known, **_places(batch.program, own, out)}
                    for batch, own, known in zip(batches, mine, values, strict=True)
                ]
            for own, known in zip(mine, values, strict=True):
                known[own] = called(own, known)
    return out


def _places(program: Program, node: fx.Node, point: Point) -> dict[fx.Node, Tensor]:
    """Values of the parameters and buffers that an operation takes."""
    owners = program.captured.owners
    return {
        each: point[owners[each.name][0]].clone()
        for each in node.all_input_nodes
        if each.op == "placeholder" and each.name in owners
    }


def _refold(
    out: dict[str, Tensor], names: list[str], at: Tensor, fresh: list[Tensor], eps: float
) -> None:
    """Change gain and bias of a norm so that it gives the same by other statistics."""
    gain, bias, means, variances = names[1:5]
    if not gain or not bias:
        return
    old_mean, old_variance = (out[name][at].double() for name in (means, variances))
    ratio = ((fresh[1] + eps) / (old_variance + eps)).sqrt()
    scale = out[gain][at].double() / (old_variance + eps).sqrt()
    shifted = out[bias][at].double() + scale * (fresh[0] - old_mean)
    out[bias] = out[bias].index_copy(0, at, shifted.to(out[bias]))
    out[gain] = out[gain].index_copy(0, at, (out[gain][at].double() * ratio).to(out[gain]))
