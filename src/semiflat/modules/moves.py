"""Moves of a model's parameters that may leave its loss as it is: what units are made of, and what acts on it.

A move is a curve through the parameters for every value of its coefficients; at 0 it stays where it is. Moves
are proposed from the groups of units of :func:`semiflat.units` alone; whether the loss stays is asked
elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations, permutations

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.groups import Slot, UnitGroup
from semiflat.modules.surgery import Layout

Named = dict[str, Tensor]
How = Callable[[Tensor, Tensor, bool, Named], Tensor]
"""What becomes of the entries of units, (units, k, …), by coefficients; to first order, if that is asked for.
The last are all parameters, as far as they were moved before."""
SAME = 1e-9
"""Relative difference up to which units are written alike: copies differ by rounding or by far more."""
GATHERED = {"writes": 0, "adds": 0, "between": 1, "shifts": 1, "reads": 2}


@dataclass(frozen=True)
class Part:
    """Where the units of a group lie in one parameter.

    Attributes:
        name: of the parameter.
        axis: along which they lie.
        places: of each unit, (units, k).
        role: as of a :class:`Slot`.
    """

    name: str
    axis: int
    places: Tensor
    role: str

    def entries(self, shapes: Mapping[str, torch.Size]) -> tuple[int, ...]:
        """The shape of a unit's entries, (k, …)."""
        rest = [size for axis, size in enumerate(shapes[self.name]) if axis != self.axis]
        return self.places.shape[1], *rest

    def of(self, named: Named) -> Tensor:
        """The entries of the units, (units, k, …)."""
        return named[self.name].movedim(self.axis, 0)[self.places]

    def put(self, named: Named, rows: Tensor) -> Named:
        """The parameters with other entries of the units."""
        moved = named[self.name].movedim(self.axis, 0)
        moved = moved.index_copy(0, self.places.reshape(-1), rows.flatten(0, 1))
        return named | {self.name: moved.movedim(0, self.axis)}


@dataclass(frozen=True)
class Piece:
    """What one layer does with the units: weights and biases that write them, a norm's gain and shift, columns.

    Attributes:
        module: name of the layer.
        stage: 0 for what writes them, 1 for what lies between, 2 for what reads them.
        parts: where.
    """

    module: str
    stage: int
    parts: tuple[Part, ...]

    @property
    def each(self) -> int:
        """Places of a unit."""
        return self.parts[0].places.shape[1]


def pieces_of(group: UnitGroup, trained: Iterable[str]) -> list[Piece]:
    """The pieces of a group all of whose parameters are trained."""
    trained = set(trained)
    found: dict[tuple[str, int, int], list[Part]] = {}
    held: set[tuple[str, int]] = set()
    for slot in group.slots:
        stage = GATHERED.get(slot.role)
        if stage is None:
            continue
        if slot.name not in trained:
            held.add((slot.module, stage))
            continue
        for number, places in enumerate(_segments(slot)):
            part = Part(slot.name, slot.axis, places, slot.role)
            found.setdefault((slot.module, stage, number), []).append(part)
    return [
        Piece(module, stage, tuple(parts))
        for (module, stage, _), parts in found.items()
        if (module, stage) not in held and len({part.places.shape[1] for part in parts}) == 1
    ]


def _segments(slot: Slot) -> Iterator[Tensor]:
    """The places of the units in each stretch that holds all of them."""
    try:
        layout = Layout.of(slot, int(slot.positions.max()) + 1)
    except InputError:
        yield slot.positions
        return
    units = len(slot.positions)
    for start, size in layout.segments:
        yield start + torch.arange(units * size).view(units, size)


@dataclass(frozen=True)
class Act:
    """What a move does to one part; ``undoes`` is whether that is the inverse of a change of basis."""

    part: Part
    how: How
    undoes: bool = False


@dataclass(frozen=True)
class Move:
    """A family of moves.

    Attributes:
        name, reason: as of a :class:`FlatFamily`.
        shape: of the coefficients; the units come first where ``by_unit``.
        acts: what is done, in this order.
        by_unit: whether coefficients of different units can be taken one without the other.
        affine: whether they are straight lines.
        mask: coefficients that are 0 are 0 in it.
        within: how large coefficients may be for the loss to stay; None for any size.
        nearly: why it would hold but for a small number, where there is such a reason.
        dimension: number of independent directions.
        pair: what it is about: a move about what a larger one was found for is not tried.
        bases: whether the coefficients of a unit are a matrix, another basis.
    """

    name: str
    reason: str
    shape: tuple[int, ...]
    acts: tuple[Act, ...]
    by_unit: bool = True
    affine: bool = False
    mask: Tensor | None = None
    within: float | None = None
    nearly: str = ""
    dimension: int = 0
    pair: tuple[Piece | Part, ...] = field(default=(), repr=False)
    bases: bool = False

    def __call__(self, named: Named, coefficients: Tensor, linear: bool = False) -> Named:
        """The parameters moved; to first order in the coefficients, if that is asked for."""
        if self.mask is not None:
            coefficients = coefficients * self.mask
        for act in self.acts:
            named = act.part.put(named, act.how(act.part.of(named), coefficients, linear, named))
        return named


# -- what is done to the entries of units ----------------------------------------------------------


def scaled(sign: int) -> How:
    """Each unit times ``e^c``, or divided by it."""
    return partial(_scaled, sign=sign)


def _scaled(rows: Tensor, c: Tensor, linear: bool, named: Named, sign: int) -> Tensor:
    factor = 1 + sign * c if linear else (sign * c).exp()
    return rows * factor.view(-1, *[1] * (rows.ndim - 1))


def turned(sign: int) -> How:
    """The places of each unit times ``e^A``, or ``e^{−Aᵀ}``; more places are more vectors."""
    return partial(_turned, sign=sign)


def _turned(rows: Tensor, c: Tensor, linear: bool, named: Named, sign: int) -> Tensor:
    by = sign * (c if sign > 0 else c.mT)
    by = torch.eye(c.shape[-1]).to(c) + by if linear else torch.linalg.matrix_exp(by)
    units, size = len(rows), c.shape[-1]
    cut = rows.reshape(units, -1, size, *rows.shape[2:])
    return torch.einsum("uij,urj...->uri...", by, cut).reshape(rows.shape)


def added(rows: Tensor, c: Tensor, linear: bool, named: Named) -> Tensor:
    """Each entry plus its own coefficient, or all units plus the same."""
    return rows + c


def _shared(rows: Tensor, c: Tensor, linear: bool, named: Named, by: Tensor) -> Tensor:
    """Each unit plus its part of the same."""
    return rows + by.view(-1, *[1] * c.ndim) * c


def _exchanged(
    rows: Tensor,
    c: Tensor,
    linear: bool,
    named: Named,
    pair: tuple[int, int],
    readers: tuple[Part, ...],
) -> Tensor:
    """One unit plus what is read of the other times the same, and the other less: the sum of products stays."""
    read = torch.cat([part.of(named)[list(pair)].flatten(1) for part in readers], 1)
    along = read[0] / torch.linalg.vector_norm(read[0]).clamp(min=torch.finfo(rows.dtype).tiny)
    by = rows.new_zeros(len(rows)).index_copy(
        0, torch.tensor(pair[::-1]), torch.stack([-(read[0] @ along), read[1] @ along])
    )
    return rows + by.view(-1, *[1] * c.ndim) * c


def _taken_off(
    rows: Tensor, c: Tensor, linear: bool, named: Named, gain: Part, by: Tensor, scale: bool
) -> Tensor:
    """A norm's shift less what was added before the norm, or what scaling before it does to its mean."""
    before = (c if linear else 1 - (-c).exp())[:, None] if scale else c
    return rows - gain.of(named) * by[:, None] * before


def _read_off(rows: Tensor, c: Tensor, linear: bool, named: Named, by: Part) -> Tensor:
    """A reader's bias less what it reads of what was added to units that are passed on as they are."""
    read = by.of(named).unsqueeze(-1).flatten(3).sum(3)  # a kernel is read as a whole
    alike = c if c.shape[1] == read.shape[1] else c.expand(-1, read.shape[1])
    return rows - torch.einsum("uk,ukm->m", alike, read)


# -- what is proposed ------------------------------------------------------------------------------


def everywhere(
    model: nn.Module, group: UnitGroup, pieces: list[Piece], trained: Mapping[str, torch.Size]
) -> Iterator[Move]:
    """Moves that may leave the loss as it is at every point near by.

    Args:
        model: in the mode that it is in.
        group: of units.
        pieces: of it.
        trained: shapes of the parameters that are trained.
    """
    units, name = group.size, group.name
    writers, norms, readers = ([each for each in pieces if each.stage == k] for k in range(3))
    whole = [
        {slot.module for slot in group.slots if GATHERED.get(slot.role) == k} for k in (0, 1, 2)
    ]
    all_read = bool(readers) and {piece.module for piece in readers} == whole[2]
    all_written = bool(writers) and {piece.module for piece in writers} == whole[0]

    def acts(some: Iterable[Piece], how: How) -> tuple[Act, ...]:
        return tuple(Act(part, how) for piece in some for part in piece.parts)

    sources = [[piece] for piece in writers] if len(writers) > 1 else []
    sources += [writers] if all_written else []
    sources += [[piece] for piece in norms]
    sets = [readers] if all_read else []
    if len(norms) > 1:  # each norm has readers of its own, which stand together
        around: dict[str, list[Piece]] = {}
        for piece in readers:
            around.setdefault(piece.module.rpartition(".")[0], []).append(piece)
        sets += [[piece] for piece in readers] + [some for some in around.values() if len(some) > 1]
    for into in sets:
        for some in sources if into is readers else [[piece] for piece in norms]:
            yield Move(
                "scaling",
                f"units of {name!r} pass a positive factor on: {_names(some)} may be multiplied by it, and "
                f"{_names(into)} divided",
                (units,),
                acts(some, scaled(1)) + acts(into, scaled(-1)),
                pair=(*some, *into) if len(some) == 1 else (),
            )
    for one, other in combinations(writers, 2):
        yield Move(
            "scaling",
            f"what {_names([one, other])} make of units of {name!r} is multiplied: one may be scaled up, and "
            "the other down",
            (units,),
            acts([one], scaled(1)) + acts([other], scaled(-1)),
            pair=(one, other),
        )
    if all_read and all_written and not whole[1]:
        yield from _mixed(name, writers, readers)
    if group.kind == "head":
        yield from _turns(group, writers, readers if all_read else [])
    normed = bool(group.norms) or any(_by_batch(model, piece) for piece in norms)
    for piece in writers:
        for part in (part for part in piece.parts if part.role == "adds"):
            yield Move(
                "bias without effect",
                f"what {part.name!r} adds to units of {name!r} is taken off again",
                (units, *part.entries(trained)),
                (Act(part, added),),
                affine=True,
                pair=(part,),
            )
        if normed:
            yield Move(
                "scale before a norm",
                f"units of {name!r} are divided by their size after {_names([piece])}, which may be "
                "multiplied by any positive number",
                (units,),
                acts([piece], scaled(1)),
                nearly="but for the norm's eps",
            )
        for part in piece.parts:
            yield Move(
                "common shift",
                f"the same added to all units of {name!r} makes no difference: {part.name!r} may be shifted",
                part.entries(trained),
                (Act(part, added),),
                by_unit=False,
                affine=True,
                pair=(part,),
            )
    yield from _folded(model, group, writers, norms)
    for into in sets:
        makers = [*writers, *norms] if into is readers else norms
        yield from _passed_on(group, makers, into, trained)


def _passed_on(
    group: UnitGroup, makers: list[Piece], readers: list[Piece], trained: Mapping[str, torch.Size]
) -> Iterator[Move]:
    """What is added to units that are passed on as they are, added where they are read instead."""
    biases = {f"{reader.module}.bias".lstrip(".") for reader in readers}
    if not biases <= set(trained) or any(len(reader.parts) > 1 for reader in readers):
        return
    for part in (part for each in makers for part in each.parts if part.role in ("adds", "shifts")):
        if len(part.entries(trained)) > 1:
            continue
        if part.places.shape[1] > 1 and any(
            reader.each != part.places.shape[1] for reader in readers
        ):
            continue
        acts = [Act(part, added)]
        for reader in readers:
            bias = f"{reader.module}.bias".lstrip(".")
            whole = Part(bias, 0, torch.arange(trained[bias].numel())[None], "adds")
            acts.append(Act(whole, partial(_read_off, by=reader.parts[0])))
        yield Move(
            "bias passed on",
            f"units of {group.name!r} pass on what {part.name!r} adds to them, which {_names(readers)} may add "
            "instead",
            (group.size, part.places.shape[1]),
            tuple(acts),
            within=1e-3,
        )


def _by_batch(model: nn.Module, piece: Piece) -> bool:
    """Whether a layer normalises by what it is given."""
    norm = model.get_submodule(piece.module)
    batch = isinstance(norm, nn.modules.batchnorm._NormBase)
    return batch and (norm.training or norm.running_mean is None)


def _turns(group: UnitGroup, writers: list[Piece], readers: list[Piece]) -> Iterator[Move]:
    """Bases of what a head compares, and of what it passes on."""
    every = list(enumerate([*writers, *readers]))
    for (first, one), (second, other) in permutations(every, 2):
        size = one.each
        again = other.stage == 0 and other.each == size and first > second
        if one.stage or size < 2 or other.each % size or again:
            continue
        reads = (
            f"what heads of {group.name!r} pass on from {_names([one])} to {_names([other])}"
            if other.stage
            else f"what heads of {group.name!r} compare, made by {_names([one, other])},"
        )
        yield Move(
            "attention bases",
            f"{reads} has no basis of its own: any invertible matrix a head, and its inverse",
            (group.size, size, size),
            tuple(Act(part, turned(1)) for part in one.parts)
            + tuple(Act(part, turned(-1), True) for part in other.parts),
            pair=(one, other),
            bases=True,
        )


def _mixed(name: str, writers: list[Piece], readers: list[Piece]) -> Iterator[Move]:
    """Bases of units that are passed on as they are: as if they were the places of one head."""
    size = len(writers[0].parts[0].places)
    if size < 2 or any(piece.each > 1 for piece in writers):
        return

    def acts(pieces: list[Piece], sign: int) -> tuple[Act, ...]:
        return tuple(
            Act(replace(part, places=part.places.mT.reshape(1, -1)), turned(sign), sign < 0)
            for piece in pieces
            for part in piece.parts
        )

    yield Move(
        "mixing",
        f"units of {name!r} are passed on as they are: {_names(writers)} may make any invertible mixture of "
        f"them, and {_names(readers)} undo it",
        (1, size, size),
        acts(writers, 1) + acts(readers, -1),
        pair=(*writers, *readers),
        bases=True,
    )


def _folded(
    model: nn.Module, group: UnitGroup, writers: list[Piece], norms: list[Piece]
) -> Iterator[Move]:
    """Scale and shift before a norm that keeps its statistics, which its own gain and shift undo."""
    for piece in norms:
        norm = model.get_submodule(piece.module)
        parts = {part.role: part for part in piece.parts}
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or _by_batch(model, piece):
            continue
        if (
            norm.running_mean is None
            or norm.running_var is None
            or set(parts) != {"between", "shifts"}
        ):
            continue
        gain, shift = parts["between"], parts["shifts"]
        at = gain.places[:, 0].to(norm.running_var.device)
        spread = (norm.running_var[at] + norm.eps).sqrt()
        mean = norm.running_mean[at] / spread

        before = tuple(Act(part, scaled(1)) for each in writers for part in each.parts)
        yield Move(
            "scaling",
            f"{_names([piece])} uses statistics that it keeps: units of {group.name!r} may be multiplied "
            "before it, and its gain divided, its shift following",
            (group.size,),
            (
                *before,
                Act(shift, partial(_taken_off, gain=gain, by=mean, scale=True)),
                Act(gain, scaled(-1)),
            ),
        )

        for part in (part for each in writers for part in each.parts if part.role == "adds"):
            if part.places.shape[1] > 1:
                continue
            yield Move(
                "shift",
                f"what {part.name!r} adds to units of {group.name!r} may be added by {_names([piece])} instead",
                (group.size, 1),
                (
                    Act(part, added),
                    Act(shift, partial(_taken_off, gain=gain, by=1 / spread, scale=False)),
                ),
                affine=True,
            )


def on_data(group: UnitGroup, pieces: list[Piece], silent: Tensor, named: Named) -> Iterator[Move]:
    """Moves that may leave the loss as it is at this point: of units that say nothing, or the same.

    Args:
        group: of units.
        pieces: of it.
        silent: which units no loss has a gradient for, of all that writes and reads them.
        named: the parameters.
    """
    readers = [part for piece in pieces if piece.stage == 2 for part in piece.parts]
    makers = [part for piece in pieces if piece.stage < 2 for part in piece.parts]
    modules = {slot.module for slot in group.slots if slot.role == "reads"}
    if not readers or {part.name.rpartition(".")[0] for part in readers} != modules:
        return
    mute = torch.stack([part.of(named).flatten(1).abs().amax(1) for part in readers]).amax(0) == 0
    for flagged, name, why, within in (
        (silent & ~mute, "dead units", "say nothing on these batches", 1e-3),
        (mute, "unheard units", "are read with weights 0", None),
    ):
        if not bool(flagged.any()):
            continue
        which = _listed(flagged)
        for some, called in ((readers, "read"), (makers, "written")):
            if name == "unheard units" and some is readers:
                continue
            for part in some:
                shape = tuple(part.of(named).shape)
                mask = flagged.view(-1, *[1] * (len(shape) - 1)).expand(shape)
                yield Move(
                    f"{name}: {'outgoing' if called == 'read' else 'incoming'}",
                    f"units {which} of {group.name!r} {why}, so {part.name!r}, by which they are {called}, may "
                    "be "
                    "anything" + (" near by" if called == "written" and within else ""),
                    shape,
                    (Act(part, added),),
                    affine=called == "read" or within is None,
                    mask=mask.to(named[part.name]),
                    within=within if called == "written" else None,
                    dimension=int(mask.sum()),
                )
    yield from _alike(group, readers, makers, named, silent | mute)


def _alike(
    group: UnitGroup, readers: list[Part], makers: list[Part], named: Named, left_out: Tensor
) -> Iterator[Move]:
    """What reads a unit passed on to another that is written alike, up to a factor."""
    if not makers:
        return
    written = [part for part in makers if part.role in ("writes", "adds")]
    rows = torch.cat([part.of(named).flatten(1) for part in written or makers], 1).detach()
    sizes = torch.linalg.vector_norm(rows, dim=1)
    unit = rows / sizes.clamp(min=torch.finfo(rows.dtype).tiny)[:, None]
    close = SAME * rows.shape[1] ** 0.5
    cosines = unit @ unit.mT
    taken = left_out | (sizes == 0)
    for first, other in (cosines.abs() > 1 - 1e-6).triu(1).nonzero().tolist():
        sign = 1.0 if float(cosines[first, other]) > 0 else -1.0
        apart = float((unit[first] - sign * unit[other]).abs().max())
        if apart <= close and not bool(taken[first] | taken[other]):
            taken[other] = True  # of several that are alike, each is held against the first
            factor = sign * float(sizes[other] / sizes[first])
            yield from _pair(group, (first, other), factor, close, readers, written, named)


def _pair(
    group: UnitGroup,
    pair: tuple[int, int],
    factor: float,
    close: float,
    readers: list[Part],
    written: list[Part],
    named: Named,
) -> Iterator[Move]:
    """What two units that are written alike, up to a factor, may pass on to each other."""
    first, other = pair
    exact = abs(factor - 1) <= close

    for part in readers:
        spread = torch.zeros(group.size).to(part.of(named))
        spread[first], spread[other] = 1.0 if exact else factor, -1.0
        shape = tuple(part.of(named).shape[1:])

        alike = "alike" if exact else f"alike, but for a factor {factor:.3g},"
        yield Move(
            "duplicate units",
            f"units {first} and {other} of {group.name!r} are written {alike} and may share what "
            f"{part.name!r} reads of them in any way",
            shape,
            (Act(part, partial(_shared, by=spread)),),
            by_unit=False,
            affine=True,
        )
    # What the other reads may have been shared out anew before.
    if factor > 0:
        for part in written:
            yield Move(
                "duplicate units: incoming",
                f"units {first} and {other} of {group.name!r} bend nowhere else than each other and act "
                f"through the sum of their products, so what {part.name!r} gives one may be taken off the "
                "other",
                tuple(part.of(named).shape[1:]),
                (
                    Act(
                        part,
                        partial(_exchanged, pair=(first, other), readers=tuple(readers)),
                    ),
                ),
                by_unit=False,
                affine=True,
                within=1e-3,
            )


def _listed(flagged: Tensor) -> str:
    places = flagged.nonzero().flatten().tolist()
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return ", ".join(map(str, places[:8])) + more


def _names(pieces: Iterable[Piece]) -> str:
    return " and ".join(dict.fromkeys(repr(piece.module) for piece in pieces))
