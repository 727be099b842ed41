"""What is known of the curvature of units, and what the inertia law makes of it for wider models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError, whole
from semiflat.evidence.spectrum import ENOUGH
from semiflat.modules.batches import Batches, LossFunction
from semiflat.modules.branches import Part
from semiflat.modules.groups import UnitGroup
from semiflat.modules.splits import UnitSplit, split
from semiflat.modules.widen import Copies, shares_of
from semiflat.records.shown import Facts, Rows, Shown
from semiflat.verdicts.law import Shares, added_by_copies
from semiflat.verdicts.verdict import Kind


@dataclass(frozen=True)
class UnitSigns(Shown):
    """The signs of one unit's ``K = [[0, F], [Fᵀ, G]]``.

    Attributes:
        group: name of its group.
        unit: its number in it.
        parameters: of the unit: those that read it and those that make it.
        positive, negative: eigenvalues that are positive and negative beyond doubt.
        rank_F: singular values of F that are not 0 beyond doubt.
        exact: whether these are all that there are, the others being 0 within their noise floors; else they are
            bounds from below.
        lowest, highest: the extreme eigenvalues; where K was not built, numbers that they reach at least.
        floor: what rounding may have changed in them.
        null_norm, null_rank: norm and rank of F∅, the F of a unit that gives nothing and is otherwise as this
            one; None where it is not known.
        note: what should be known of it; ``""`` for nothing.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> unit = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)["0"].units[2]
    >>> unit.lowest < -1e9 * unit.floor, unit.best_shares
    (True, (0.375, 0.625))
    """

    group: str
    unit: int
    parameters: int
    positive: int
    negative: int
    rank_F: int
    exact: bool
    lowest: float
    highest: float
    floor: float
    null_norm: float | None
    null_rank: int | None
    note: str

    @property
    def best_shares(self) -> tuple[float, float] | None:
        """Shares of two copies that open a way down: inside (0, 1) or one outside; None if none surely does.

        Of the two signs the one is taken that curves the loss down by more.
        """
        return shares_for(self.lowest, self.highest, self.floor)

    @property
    def steepest(self) -> float:
        """The eigenvalue that those shares make negative, as they make it; 0 if there are none."""
        shares = self.best_shares
        if shares is None:
            return 0.0
        product = shares[0] * shares[1]
        return (self.lowest if product > 0 else self.highest) / product


INSIDE, OUTSIDE = (0.375, 0.625), (1.5, -0.5)
"""Shares of two copies for negative and for positive curvature; not halves, which never part again."""


def shares_for(lowest: float, highest: float, floor: float) -> tuple[float, float] | None:
    """Shares of two copies that open a way down, from the extreme eigenvalues of K.

    >>> shares_for(-1.0, 0.5, 1e-12), shares_for(-1.0, 2.0, 1e-12), shares_for(0.0, 0.0, 1e-12)
    ((0.375, 0.625), (1.5, -0.5), None)
    """
    down, up = lowest < -ENOUGH * floor, highest > ENOUGH * floor
    if down and (not up or -lowest >= highest):
        return INSIDE
    return OUTSIDE if up else None


@dataclass(frozen=True)
class GroupCurvature(Rows):
    """The curvature of the units of one group.

    Attributes:
        group: the units.
        units: what is known of each.
        exact: whether K was built.
        blocks: K of each unit, (units, n, n), the entries that read it first; None where it was not built.
        reading: how many entries of a unit read it.
        null: how a unit is made that gives nothing: as one that there is, but for this; ``""`` if none is
            known.
        why_no_null: why none is; else ``""``.
        silent: what makes such a unit out of the one with the largest F∅, by name: ``incoming`` of
            :func:`widen` for one new unit.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> group = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)["0"]
    >>> tuple(group.K(2).shape), {name: tuple(each.shape) for name, each in group.silent.items()}
    ((5, 5), {'0.weight': (1, 3), '0.bias': (1,)})
    """

    group: UnitGroup
    units: tuple[UnitSigns, ...]
    exact: bool
    blocks: Tensor | None = field(repr=False)
    reading: int
    null: str
    why_no_null: str
    silent: dict[str, Tensor] = field(repr=False)
    _parts: tuple[Part, ...] = field(repr=False)
    _ways: Tensor = field(repr=False)

    def K(self, unit: int) -> Tensor:
        """K of a unit, (n, n): first what reads it, part by part, then what makes it.

        Raises:
            InputError: where it was not built.
        """
        if self.blocks is None:
            raise InputError(
                f"K of {self.group.name!r} was not built, a unit has {self.units[0].parameters} parameters; "
                "raise dense_limit"
            )
        return self.blocks[_of(unit, self.group)]

    def way(self, unit: int, sign: int) -> tuple[Tensor, Tensor]:
        """The vector of the lowest (-1) or highest (1) eigenvalue: what of it reads the unit, what makes it."""
        vector = self._ways[_of(unit, self.group), 0 if sign < 0 else 1]
        return vector[: self.reading], vector[self.reading :]

    def _facts(self) -> Facts:
        return {
            "group": self.group.name,
            "kind": self.group.kind,
            "units": len(self.units),
            "parameters of a unit": self.units[0].parameters,
            "exact": self.exact,
            "null": self.null or self.why_no_null,
        }

    def _rows(self) -> list[Facts]:
        return [unit._facts() for unit in self.units]


def loudest(units: Sequence[UnitSigns]) -> UnitSigns:
    """The unit with the largest F∅."""
    return max(units, key=lambda unit: unit.null_norm or 0.0)


def _of(unit: Any, group: UnitGroup) -> int:
    if not isinstance(unit, int) or isinstance(unit, bool) or not 0 <= unit < group.size:
        raise InputError(
            f"there is no unit {unit!r} in {group.name!r}; units are 0 … {group.size - 1}"
        )
    return unit


@dataclass(frozen=True)
class WideSigns(Shown):
    """The signs of the Hessian of a widened model, from quantities of the narrow one.

    Attributes:
        positive, negative: eigenvalues that there are, or at least are.
        zero: the others; None where the counts are bounds.
        exact: whether the counts are exact.
        kind: what a critical point becomes: a strict saddle, or undecided.
        reason: one sentence.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> found = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)
    >>> found.law({"0": {2: [0.25, 0.75]}}).reason
    "at least 2 directions of negative curvature: 2 by unit 2 of '0' in 2 copies"
    """

    positive: int
    zero: int | None
    negative: int
    exact: bool
    kind: Kind
    reason: str


class UnitCurvature(Rows, Mapping[str, GroupCurvature]):
    """The curvature of the units of a model, by name of their group.

    Attributes:
        refused: groups whose units are no parallel branches, and why.
        loss: the mean over the batches; NaN where there was no group to look at.
        mode: of the model, ``"train"`` or ``"eval"``.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> found = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)
    >>> list(found), found.refused
    (['0'], {'2': 'it is an output of the model'})
    >>> found["0"].null, found["0"].units[0].null_rank
    ('0.weight is 0, biases are 0', 1)
    """

    def __init__(
        self,
        groups: Mapping[str, GroupCurvature],
        refused: Mapping[str, str],
        loss: float,
        mode: str,
        _model: nn.Module,
        _batches: Batches,
        _of: LossFunction,
    ) -> None:
        self._groups = dict(groups)
        self.refused, self.loss, self.mode = dict(refused), loss, mode
        self._model, self._batches, self._of = _model, _batches, _of

    def __getitem__(self, name: str) -> GroupCurvature:
        """The group of that name."""
        if name in self._groups:
            return self._groups[name]
        why = self.refused.get(name)
        if why is not None:
            raise InputError(f"{name!r} has no curvature of its own for each unit: {why}")
        known = ", ".join(list(self._groups)[:8])
        raise InputError(f"nothing is known of a group {name!r}; of these it is: {known}")

    def __contains__(self, name: object) -> bool:
        return name in self._groups

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def _facts(self) -> Facts:
        return {
            "groups": len(self),
            "loss": self.loss,
            "mode": self.mode,
            "refused": self.refused,
        }

    def _rows(self) -> list[Facts]:
        return [row for group in self.values() for row in group._rows()]

    def law(
        self,
        copies: Mapping[str, Copies] | None = None,
        nulls: Mapping[str, int] | None = None,
        narrow: Sequence[int] | None = None,
    ) -> WideSigns:
        """The signs of the Hessian of a model with copies and null units, from narrow quantities alone.

        ``n± = n±(narrow) + Σ_u [(p − 1) n±(K_u) + q n∓(K_u) + z rank F_u] + nulls · rank F∅`` for p copies with
        positive, q with negative and z with no share. It holds at any point. Null units are made as
        the group's ``silent`` says of the unit with the largest F∅.

        Args:
            copies: for each group and unit, its copies as :func:`widen` takes them.
            nulls: for each group, how many null units.
            narrow: positive, zero and negative eigenvalues of the narrow Hessian, of trained parameters;
                without it the counts are bounds.

        Raises:
            InputError: for a unit or group that is not known, or shares that do not sum to 1.

        Source: theory §3, §9.

        >>> import torch, semiflat as sf
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
        >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
        >>> found = sf.unit_curvature(model, data, torch.nn.functional.mse_loss)
        >>> wide = found.law({"0": {2: [1.5, -0.5]}}, nulls={"0": 1}, narrow=(20, 0, 6))
        >>> wide.positive, wide.zero, wide.negative, wide.exact
        (23, 3, 10, True)
        """
        for asked, of in ((copies, "units to copies"), (nulls, "a number")):
            if asked is not None and not isinstance(asked, Mapping):
                raise InputError(
                    f"copies and nulls map groups to {of}; expected a dict, not {asked!r:.60}"
                )
        copies, nulls = dict(copies or {}), dict(nulls or {})
        if narrow is not None:
            if not isinstance(narrow, Sequence) or len(narrow) != 3:
                raise InputError(
                    "narrow must be three counts, of positive, zero and negative eigenvalues, not "
                    f"{narrow!r:.60}"
                )
            narrow = [whole("narrow", each, 0) for each in narrow]
        positive, negative = (0, 0) if narrow is None else (narrow[0], narrow[2])
        exact, doors = narrow is not None, list[str]()
        sizes: dict[str, int] = {}
        for name, chosen in copies.items():
            group = self[name]
            if not isinstance(chosen, Mapping):
                raise InputError(
                    f"copies[{name!r}] must be a mapping from units to what becomes of each, as {{0: 2}}, not "
                    f"{chosen!r:.60}"
                )
            for unit, given in chosen.items():
                known = group.units[_of(unit, group.group)]
                pairs = shares_of(unit, given)
                shares = Shares.of((scale * share, 1) for scale, share in pairs)
                up, down = added_by_copies(shares, known.positive, known.negative, known.rank_F)
                positive, negative = positive + up, negative + down
                exact = exact and (known.exact or not shares.added)
                sizes[name] = sizes.get(name, 0) + shares.added
                if down:
                    doors.append(f"{down} by unit {unit} of {name!r} in {len(pairs)} copies")
        for name, count in nulls.items():
            group = self[name]
            whole(f"nulls[{name!r}]", count, 0)
            if not group.null:
                raise InputError(f"no null unit of {name!r} is known: {group.why_no_null}")
            rank = loudest(group.units).null_rank
            exact = exact and rank is not None
            positive, negative = positive + count * (rank or 0), negative + count * (rank or 0)
            sizes[name] = sizes.get(name, 0) + count
            if rank and count:
                doors.append(f"{count * rank} by {count} null unit(s) of {name!r}")
        zero = self._parameters(sizes) - positive - negative if exact else None
        least = "" if exact else "at least "
        if negative:
            kind, before = (
                Kind.STRICT_SADDLE,
                "" if narrow is None else f"{narrow[2]} of the narrow model",
            )
            why = ", ".join(filter(None, [before, *doors]))
            reason = f"{least}{negative} directions of negative curvature: {why}"
        else:
            kind = Kind.UNDECIDED
            reason = (
                "no direction of negative curvature comes in, and none is known of the narrow model"
                if (exact)
                else "what is known shows no direction of negative curvature"
            )
        return WideSigns(positive, zero, negative, exact, kind, reason)

    def _parameters(self, added: Mapping[str, int]) -> int:
        """Trained parameters of the model with more units."""
        total = 0
        for name, tensor in self._model.named_parameters():
            if not tensor.requires_grad:
                continue
            shape = list(tensor.shape)
            for group, count in added.items():
                for part in self[group]._parts:
                    if part.name == name:
                        shape[part.axis] += count * part.positions.shape[1]
            total += torch.Size(shape).numel()
        return total

    def split(self, group: str, unit: int, shares: tuple[float, float] | None = None) -> UnitSplit:
        """Split a unit in two, and go down the way that this opens, as far as it was tried.

        Args:
            group: its name.
            unit: which of its units.
            shares: of the two copies; those for which K opens the steeper way down if not given.

        Raises:
            InputError: if no way down is sure, or the unit cannot be split.
        """
        return split(self, group, unit, shares)
