"""Flat families of any model: moves that are proposed by its units, held against its loss on the batches."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.modules.flat import FlatModule
from semiflat.modules.groups import UnitGroup, Units
from semiflat.modules.moves import Move, everywhere, on_data, pieces_of
from semiflat.modules.risk import OnBatches
from semiflat.networks import Params
from semiflat.symmetries.families import FlatFamily, TangentFamily

STEP = 0.5
"""Size of the coefficients that a move is tried with."""
NEARLY = 1e-3
"""Part of what a move's halves do to the loss up to which it holds but for a small number."""


@dataclass(frozen=True)
class ModuleFamily(FlatFamily):
    """Directions along which the loss of a model is constant on the batches, and how far that was measured.

    Attributes:
        change: the largest change of the loss along moves of this family, and of those tried with it.
        allowed: what rounding may do to it.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> batches = [(torch.randn(8, 2), torch.randn(8, 1))]
    >>> found = sf.judge_module(model, batches, torch.nn.functional.mse_loss)
    >>> family = found.flat_directions[0]
    >>> family.name, family.change <= family.allowed < 1e-10, sorted(family.direction())
    ('scaling', True, ['0.bias', '0.weight', '2.bias', '2.weight'])
    """

    change: float = 0.0
    allowed: float = 0.0
    _move: Move = field(kw_only=True, repr=False)
    _flat: FlatModule = field(kw_only=True, repr=False)

    def direction(self, seed: int = 0) -> Params:
        """A direction of the family drawn at random, of unit length, by name of the parameters."""
        at = self._flat.at
        named = self._flat.named(at)
        moved = self._move(named, _drawn(self._move, at, seed), linear=True)
        along = self._flat.flat(moved) - at
        size = torch.linalg.vector_norm(along)
        return self._flat.named(along / size.clamp(min=torch.finfo(at.dtype).tiny))

    def moved(self, params: Params, size: float = STEP, seed: int = 0) -> Params:
        """Parameters by name after a move along the family drawn at random.

        Args:
            params: all that are trained, as the model was judged at.
            size: of the coefficients.
            seed: of the draw.
        """
        return self._move(params, size * _drawn(self._move, self._flat.at, seed))

    def _tangents(self) -> TangentFamily:
        """All directions of the family, one for each coefficient."""
        at, move = self._flat.at, self._move
        kept = torch.ones(move.shape).to(at) if move.mask is None else move.mask.to(at)
        places = kept.expand(move.shape).reshape(-1).nonzero().flatten()

        def flat(some: Tensor) -> Tensor:
            whole = some.new_zeros(kept.numel()).index_copy(0, places, some)
            return self._flat.flat(move(self._flat.named(at), whole.view(move.shape), linear=True))

        rows: Tensor = torch.func.jacfwd(flat)(at.new_zeros(len(places))).mT.double()
        sizes = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
        rows = rows[sizes[:, 0] > 0] / sizes[sizes[:, 0] > 0]
        return TangentFamily(
            self.name, self.reason, self.dimension, self.joint, self.affine, tangents=rows
        )


def _drawn(move: Move, at: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(move.shape, generator=generator, dtype=torch.float64) * 2 - 1
    return drawn.to(at) / (move.shape[-1] ** 0.5 if move.bases else 1.0)


def scale_of(flat: FlatModule, at: Tensor) -> Tensor:
    """What a change of each parameter is small against, (P,): its size and that of those beside it."""
    sizes = [part.abs().mean().expand(part.numel()) for part in flat.named(at).values()]
    tiny = torch.finfo(at.dtype).tiny
    return (at.abs() + torch.cat(sizes)).clamp(min=tiny)


@dataclass
class Search:
    """Looks for the flat families of a model at its parameters.

    Attributes:
        risk: its loss on the batches.
        units: its groups of units.
        untouched: parameters that no batch has a gradient in, (P,).
        noise: what rounding may do to the loss.
        eps: unit of rounding.
        nearly: moves that hold but for a small number, and the change of the loss.
    """

    risk: OnBatches
    units: Units
    untouched: Tensor
    noise: float
    eps: float
    nearly: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.flat, self.at = self.risk.flat, self.risk.at
        self.loss = float(self.risk.value())
        generator = torch.Generator().manual_seed(0)
        draw = torch.rand(self.at.shape, generator=generator, dtype=torch.float64) * 2 - 1
        self.near_by = self.at + self.eps**0.25 * draw.to(self.at) * scale_of(self.flat, self.at)
        self.slope = self.risk.gradient(self.near_by)
        self.loss_near_by = float(self.risk.value(self.near_by))

    def families(self) -> list[ModuleFamily]:
        """The families, each verified."""
        every: list[Move] = []
        here: list[Move] = []
        for group in self.units.values():
            pieces = pieces_of(group, self.flat.shapes)
            if pieces:
                every += everywhere(self.flat.module, group, pieces, self.flat.shapes)
                silent = self._silent(group)
                here += on_data(group, pieces, silent, self.flat.named(self.at))
        found: list[ModuleFamily] = []
        known: set[frozenset[int]] = set()
        every.sort(key=lambda move: not move.bases)
        while every:  # of those about the same one in each round, as long as none is found
            now: dict[frozenset[int], list[Move]] = {}
            later = []
            for move in every:
                pair = frozenset(map(id, move.pair))
                if pair and pair in now:
                    later.append(move)
                elif pair not in known and (screened := self._screened(move)) is not None:
                    now.setdefault(pair, []).append(screened)
            held = self._verified([move for moves in now.values() for move in moves], True)
            known |= {frozenset(map(id, family._move.pair)) for family in held} - {frozenset()}
            found, every = found + held, later
        return self._composed(found + self._verified(here, False))

    def _silent(self, group: UnitGroup) -> Tensor:
        """Units that no batch has a gradient for."""
        untouched = self.flat.named(self.untouched)
        silent = torch.ones(group.size, dtype=torch.bool)
        for slot in group.slots:
            if slot.name in untouched:
                moved = untouched[slot.name].movedim(slot.axis, 0)[slot.positions]
                silent &= moved.flatten(1).all(1).cpu()
        return silent

    def _screened(self, move: Move) -> Move | None:
        """The move of the units for which it changes nothing to first order, near by; None for none."""
        named, slope = self.flat.named(self.near_by), self.flat.named(self.slope)
        parts, terms = [], []
        for act in move.acts:
            c = torch.zeros(
                move.shape, dtype=self.at.dtype, device=self.at.device, requires_grad=True
            )
            rows, pull = act.part.of(named), act.part.of(slope)
            parts.append(torch.autograd.grad(act.how(rows, c, True, named), c, pull)[0])
            if len(move.acts) == 1 or move.nearly:  # what it would do if its terms did not cancel
                size = pull.abs() * (rows.abs() if move.nearly else 1.0)
                terms.append(size.flatten(1).sum(1) if move.by_unit else size.sum())
        total = torch.stack(parts).sum(0).abs()
        size = torch.stack(terms).sum(0) if terms else torch.stack(parts).abs().amax(0)
        if terms and move.by_unit:
            size = size.view(-1, *[1] * (total.ndim - 1))
        floor = 16 * self.eps * float(self.slope.abs().max())
        there = size > floor if not terms else size >= 0

        def small(part: float) -> Tensor:
            held = (total <= part * size + floor) & there
            if not move.by_unit:
                return held.all()
            return held.flatten(1).all(1) if held.ndim > 1 else held

        held, nearly = small(self.eps**0.5), small(NEARLY)
        if move.nearly and bool(nearly.any()) and not bool(held.any()):
            self._note_nearly(move, nearly)
        if not bool(held.any()):
            return None
        return self._counted(move, held)

    def _counted(self, move: Move, held: Tensor) -> Move:
        """The move restricted to some units, with its dimension."""
        if not move.by_unit:
            return replace(move, dimension=_product(move.shape))
        mask = held.view(-1, *[1] * (len(move.shape) - 1)).expand(move.shape).to(self.at)
        count = int(held.sum()) * _product(move.shape[1:])
        if move.bases:
            count = self._bases(move, held)
        return replace(move, mask=mask, dimension=count)

    def _bases(self, move: Move, held: Tensor) -> int:
        """``Σ d² − (d − rank W)(d − rank V)``: what no matrix A with ``A W = 0`` and ``Aᵀ V = 0`` does."""
        size, count = move.shape[-1], 0
        named = self.flat.named(self.at)
        ranks = []
        for undoes in (False, True):
            rows = [
                act.part.of(named).unflatten(1, (-1, size)).transpose(1, 2).flatten(2)
                for act in move.acts
                if act.undoes is undoes
            ]
            ranks.append(torch.linalg.matrix_rank(torch.cat(rows, 2).double()))
        for unit in held.nonzero().flatten().tolist():
            count += size**2 - (size - int(ranks[0][unit])) * (size - int(ranks[1][unit]))
        return count

    def _note_nearly(self, move: Move, held: Tensor) -> None:
        some = self._counted(move, held)
        change = self._change([some], self.at, self.loss, 1.0)
        self.nearly.append((f"{move.reason}, {move.nearly}", change))

    def _change(self, moves: list[Move], at: Tensor, loss: float, sign: float) -> float:
        """What moves do to the loss, one after the other, each drawn for itself."""
        start = named = self.flat.named(at)
        for seed, move in enumerate(moves, 1):
            coefficients = sign * (move.within or STEP) * _drawn(move, at, seed)
            if move.affine:  # of the parameter's own size
                own = torch.cat([act.part.of(start).reshape(-1) for act in move.acts])
                coefficients = coefficients * max(float(own.abs().mean()), 0.1)
            named = move(named, coefficients)
        try:
            return abs(float(self.risk.value(self.flat.flat(named))) - loss)
        except InputError:  # a loss that is not finite
            return float("inf")

    def _stays(self, moves: list[Move]) -> float:
        """What moves do to the loss at the most, on both sides."""
        return max(self._change(moves, self.at, self.loss, sign) for sign in (1.0, -1.0))

    def _verified(self, moves: list[Move], throughout: bool) -> list[ModuleFamily]:
        """The families of moves along which the loss stays: tried together, and in halves where it does not.

        Args:
            throughout: whether it should hold near by as well.
        """
        if not moves:
            return []
        change = self._stays(moves)
        stays, holds = change <= self.noise, False
        if stays:
            elsewhere = self._change(moves, self.near_by, self.loss_near_by, 1.0)
            holds = elsewhere <= 10 * max(self.noise, 64 * self.eps * abs(self.loss_near_by))
        if len(moves) > 1 and not (stays and holds):
            half = len(moves) // 2
            return [
                family
                for some in (moves[:half], moves[half:])
                for family in self._verified(some, throughout)
            ]
        if not stays or (throughout and not holds):
            return []
        return [
            ModuleFamily(
                move.name,
                move.reason,
                move.dimension or _product(move.shape),
                joint=holds or move.affine,
                affine=move.affine and not holds,
                change=change,
                allowed=self.noise,
                _move=move,
                _flat=self.flat,
            )
            for move in moves
        ]

    def _composed(self, families: list[ModuleFamily]) -> list[ModuleFamily]:
        """The families, straight ones joint only as far as the loss stays where all joint ones are moved along.

        What holds at every point near by composes with all the rest.
        """
        straight = [family for family in families if family.affine]
        if not straight or self._stays([family._move for family in straight]) <= self.noise:
            return families
        joint: list[Move] = []
        apart: list[ModuleFamily] = []
        for family in straight:
            if self._stays([*joint, family._move]) <= self.noise:
                joint.append(family._move)
            else:
                apart.append(family)
        return [
            replace(family, joint=False) if any(family is each for each in apart) else family
            for family in families
        ]


def _product(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())
