"""Where one more unit lowers the loss, and by how much: one table over all groups of a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from semiflat.errors import InputError, switch, whole, whole_seed
from semiflat.growth.data import Data, mean_of
from semiflat.growth.finder import Finder, Growth
from semiflat.growth.grow import few_of, uncurved, where_uncurved
from semiflat.modules.batches import LossFunction, check_asked
from semiflat.modules.capture import check_model, same_random_state
from semiflat.modules.unit_signs import UnitCurvature
from semiflat.modules.widen import widen
from semiflat.records.shown import Facts, Rows


class GrowthTable(Rows, Mapping[str, Growth]):
    """Where a model can grow: for each group its best new units, and what its own units still can do.

    Attributes:
        loss: on the confirming batches.
        splits: for each group the way down by splitting one unit, the steepest that is sure.
        trained: what a few steps of all the weights there are would take off, on the confirming batches.
        curvature: K of the units, or None if it was not asked for.
        refused: groups that cannot grow, and why.
        apart: whether other samples confirm than were searched.
        samples: how many were searched or confirm.
        entire: whether these are all samples that were given.
        fine: whether it was computed in float64.
        uncurved: what part of the slope of the loss is where it has no curvature.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> table = sf.where_to_grow(model, [(X, X[:, :2].prod(1, keepdim=True))], torch.nn.functional.mse_loss)
    >>> list(table), table.refused, table["0"].way
    (['0'], {'2': 'it is an output of the model'}, 'new units')
    """

    def __init__(
        self,
        new: Mapping[str, Growth],
        trained: float,
        splits: Mapping[str, Growth],
        curvature: UnitCurvature | None,
        refused: Mapping[str, str],
        loss: float,
        apart: bool,
        samples: int,
        entire: bool,
        fine: bool,
        uncurved: float,
    ) -> None:
        self._new, self.trained, self.splits = dict(new), trained, dict(splits)
        self.curvature, self.refused = curvature, dict(refused)
        self.loss, self.apart, self.samples = loss, apart, samples
        self.entire, self.fine = entire, fine
        self.uncurved = uncurved

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
        """The new units or the split predicted to take most off the loss; None if none take off anything."""
        every = (*self._new.values(), *self.splits.values())
        able = [each for each in every if each.predicted > 0]
        return max(able, key=lambda each: each.predicted, default=None)

    @property
    def advice(self) -> str:
        """One sentence: grow, train on, or neither."""
        return self._advice + where_uncurved(self.uncurved)

    @property
    def _advice(self) -> str:
        if not self._new:
            why = "; ".join(f"{name!r}: {why}" for name, why in self.refused.items())
            return f"no group can grow: {why or 'there is none'}"
        best = self.best
        if best is None and self.trained <= 0:
            return (
                "nothing is predicted to lower the loss on the confirming batches: neither new units nor "
                "splits nor the weights there are"
            )
        if best is None or self.trained > best.predicted:
            return (
                f"the way down is to train on: a few steps of the weights there are take off "
                f"{self.trained:.3g}, growing {0.0 if best is None else best.predicted:.3g}"
            )
        return (
            f"grow {best.group!r}: {best.way} ({best.units}), predicted to take off {best.predicted:.3g}; "
            f"a few steps of the weights there are {self.trained:.3g}"
        )

    @property
    def truly_bad(self) -> bool | None:
        """Whether no copy and no null unit curves the loss down anywhere: K = 0 and F∅ = 0 in every group.

        At a critical point that is no saddle, that is what a truly bad point needs (Z22 Thm 6.3). None where it
        is not known of every group, or by all samples; and never True in float32, which does not tell 0 from
        little.
        """
        if self.curvature is None or self.curvature.refused.keys() - self.refused.keys():
            return None
        units = [unit for group in self.curvature.values() for unit in group.units]
        if any(unit.positive or unit.negative or unit.null_rank for unit in units):
            return False
        known = (
            self.entire and self.fine and all(u.exact and u.null_rank is not None for u in units)
        )
        return True if units and known else None

    def _facts(self) -> Facts:
        return {
            "groups": len(self),
            "loss": self.loss,
            "apart": self.apart,
            "samples": self.samples,
            "best": None if self.best is None else self.best.group,
            "trained": self.trained,
            "advice": self.advice,
            "truly_bad": self.truly_bad,
            "refused": self.refused,
        }

    def _rows(self) -> list[Facts]:
        rows = []
        for name, new in self._new.items():
            for each in (new, self.splits.get(name)):
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


def _leave_out_what_cannot_be_widened(finder: Finder, asked: bool) -> None:
    """Ask :func:`widen` of each group what it will be asked when the group grows."""
    example = few_of(finder.model, finder.data, samples=2)
    for name in list(finder.names):
        try:
            widen(finder.model, example, finder.units[name], units=1)
        except InputError as error:
            if asked:
                raise
            finder.names.remove(name)
            finder.refused[name] = str(error)


def where_to_grow(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    groups: Sequence[str] | None = None,
    *,
    units: int = 1,
    curvature: bool = True,
    frozen: bool = False,
    samples: int | None = None,
    dtype: torch.dtype | None = None,
    seed: int = 0,
) -> GrowthTable:
    """Where new units lower the loss, and by how much, before they are trained.

    For each group so many new units are chosen from a pool and fitted, incoming and outgoing weights together,
    to the loss as a quadratic function of what reads them: its slope, and its Gauss–Newton curvature through
    the later layers. They are fitted on some of the samples, and what they take off is predicted on others,
    that they have not seen. Beside it stands what a few steps of all weights there are take off: where that is
    more, the way down is to train on.

    Args:
        model: any ``nn.Module``; it is not changed. The mode is that which it is in.
        batches: re-iterable pairs ``(inputs, targets)``. One sample of four confirms.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        groups: names of groups of :func:`units`; all that can grow if not given.
        units: how many new units, at most as many as a group has.
        curvature: whether K of every unit is computed, too: inertia, and splits. It is that of all samples, as
            a critical point is one of all data; of one searched batch, where more are given than are looked at.
        frozen: whether layers that are not trained may grow.
        samples: that are searched; if not given, at most 2000, and fewer where a pass is long.
        dtype: to compute in; None for the model's own.
        seed: of what is drawn.

    Raises:
        InputError: for a group that cannot grow, a loss that is no mean, or batches that cannot be gone
            through again.

    Source: theory §9.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    >>> X = torch.randn(400, 3)
    >>> table = sf.where_to_grow(model, [(X, X[:, :2].prod(1, keepdim=True))], torch.nn.functional.mse_loss)
    >>> table.best.predicted > 0, table.curvature["0"].units[0].rank_F
    (True, 1)
    """
    whole("units", units, 1)
    switch("curvature", curvature)
    switch("frozen", frozen)
    if samples is not None:
        whole("samples", samples, 1)
    whole_seed(seed)
    check_asked(loss, dtype)
    with same_random_state(), torch.inference_mode(False), torch.enable_grad():
        data = Data.of(check_model(model), batches, loss, samples, seed)
        finder = Finder(model, data, dtype, groups, frozen)
        _leave_out_what_cannot_be_widened(finder, asked=groups is not None)
        new = {name: finder.new_units(name, units, seed) for name in finder.names}
        trained = finder.trained()
        values = data.loss_at(finder.programs.model, None, data.confirming)
        known, splits = None, dict[str, Growth]()
        if curvature and finder.names:
            known = finder.curvature()
            splits = finder.splits(known)
        return GrowthTable(
            new,
            trained,
            splits,
            known,
            finder.refused,
            mean_of(values, data.confirming),
            data.apart,
            sum(batch.size for batch in data.seen),
            data.entire,
            finder.programs.dtype is torch.float64,
            uncurved(finder.programs.model, data) if finder.names else 0.0,
        )
