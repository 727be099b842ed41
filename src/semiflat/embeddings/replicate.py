"""Unit replication: copies of a unit that share its outgoing weights."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import Condition, PointLike
from semiflat.embeddings.exact import Exact, Run, read_runs, runs, short, show, show_runs, total
from semiflat.embeddings.vectors import index, numbers, rows_of
from semiflat.embeddings.widening import Widening, with_offsets
from semiflat.errors import InputError, whole
from semiflat.networks import MLP, weight_key


class Replicate(Embedding):
    """Replace a hidden unit by copies with outgoing weights ``λ_j ζ``, Σλ_j = 1.

    Every λ is allowed: negative, zero, above 1. The first copy keeps the unit's place, the others
    stand at the end of the layer. Maps critical points to critical points (F19 (I), Thm 2; P21 γ_λ;
    Z22 Def. 4.4, splitting). With ``offsets`` the outgoing weights are free, ``λ_j ζ + d_j`` with
    Σd_j = 0 (F19 Π_repl, Table 1), and a critical point stays one where ``Fᵀ d_j = 0``.

    Args:
        layer: hidden layer, from 0.
        unit: unit in it, from 0.
        weights: the λ_j. A float stands for the decimal it prints as, so 0.3 and 0.7 sum to 1; a
            ``Fraction`` or a text ``"1/3"`` stands for itself; one ``None`` is filled in so that the
            sum is 1.
        offsets: the d_j, (copies, M) with M the width of the layer above; None for zeros. What
            rounding leaves of their sum is taken off the last one.

    Raises:
        InputError: if the sum is not exactly 1, a weight is not a finite number, or the offsets do
            not sum to 0 or have the wrong shape.

    >>> Replicate(layer=0, unit=2, weights=[0.3, 0.7])
    Replicate(layer=0, unit=2, weights=[0.3, 0.7])
    >>> Replicate(layer=0, unit=2, weights=["1/3", -1, None])
    Replicate(layer=0, unit=2, weights=[1/3, -1, 5/3])
    >>> Replicate(layer=0, unit=2, weights=[0.3, 0.6])
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: weights [0.3, 0.6] sum to 0.9, 0.1 short of 1; ...
    """

    offsets: Tensor | None

    def __init__(
        self, layer: int, unit: int, weights: Iterable[Exact | None], offsets: Any = None
    ) -> None:
        try:
            given = list(weights)
        except TypeError:
            raise InputError(
                f"weights must be a list of numbers such as [0.3, 0.7], not {weights!r}; for equal "
                "shares use Replicate.uniform(layer, unit, copies)"
            ) from None
        self._set(layer, unit, _complete(given))
        if offsets is not None:
            self.offsets = _balanced(offsets, self.copies)

    @classmethod
    def uniform(cls, layer: int, unit: int, copies: int) -> Replicate:
        """``copies`` copies with λ = 1/copies each, stored as one run however many they are.

        >>> Replicate.uniform(layer=0, unit=0, copies=10**6)
        Replicate(layer=0, unit=0, weights=[1e-06 × 1000000])
        """
        copies = whole("copies", copies, 1)
        return cls._of_runs(layer, unit, [(Fraction(1, copies), copies)])

    @classmethod
    def simple(cls, layer: int, unit: int, added: int) -> dict[str, Replicate]:
        """The two sorts of shares that the law tells apart, for ``added`` copies more: all in [0, 1], and not.

        >>> Replicate.simple(layer=0, unit=0, added=1)
        {'inside': Replicate(layer=0, unit=0, weights=[0.5, 0.5]), 'outside': Replicate(...[1.5, -0.5])}
        """
        added = whole("added", added, 1)
        outside = [(Fraction(3, 2), 1), (Fraction(-1, 2 * added), added)]
        return {
            "inside": cls.uniform(layer, unit, added + 1),
            "outside": cls._of_runs(layer, unit, outside),
        }

    @classmethod
    def _of_runs(cls, layer: int, unit: int, weights: list[Run]) -> Replicate:
        made = object.__new__(cls)
        made._set(layer, unit, weights)
        return made

    def _set(self, layer: int, unit: int, weights: list[Run]) -> None:
        difference = 1 - total(weights)
        if difference:
            side = "short of" if difference > 0 else "above"
            raise InputError(
                f"weights {show_runs(weights)} sum to {show(1 - difference)}, "
                f"{show(abs(difference))} {side} 1; give weights that sum to exactly 1 "
                "(Fractions or texts such as '1/3' are exact), or one None to be filled in"
            )
        self.layer, self.unit, self.weight_runs = index(layer), index(unit), tuple(weights)
        self.offsets = None

    @property
    def copies(self) -> int:
        """How many copies there are, the first included."""
        return sum(count for _, count in self.weight_runs)

    @property
    def weights(self) -> list[Fraction]:
        """The λ_j one by one."""
        return [weight for weight, count in self.weight_runs for _ in range(count)]

    @property
    def preserves_criticality(self) -> bool | Condition:
        """``True`` without offsets; with them, where ``Fᵀ d_j = 0`` for each of them."""
        if self.offsets is None or not self.offsets.any():
            return True
        return self.critical_where("Fᵀ d_j = 0 for every copy's offset d_j")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the copies; :class:`InputError` if the network has no such unit."""
        net = widening.wide
        net.check_unit(self.layer, self.unit)
        branch = net.branch(self.layer, self.unit)
        units = widening.units
        for unit in branch:
            units = units.replicated(self.layer, unit, self.weight_runs)
        if len(branch) > 1:  # each copy's gates right after it
            old, new = net.hidden[self.layer], range(self.copies - 1)
            moved = [old + k + j * (self.copies - 1) for k in new for j in range(len(branch))]
            units = units.permuted(self.layer, [*range(old), *moved])
        copied = widening.with_units(units)
        if self.offsets is None:
            return copied
        return with_offsets(copied, self.layer, self.places(net), self.offsets)

    def places(self, net: MLP) -> list[int]:
        """Where the copies stand in the wide layer, ``net`` being the network they are made in."""
        width = net.hidden[self.layer]
        return [self.unit, *range(width, width + self.copies - 1)]

    def own_dimension(self, net: MLP) -> int:
        """(copies − 1)·M: outgoing weights that keep their sum."""
        return (self.copies - 1) * net.widths[self.layer + 2]

    def own_freedom(self, net: MLP) -> int:
        """copies − 1: shares that sum to 1."""
        return self.copies - 1

    def own_directions(self, point: PointLike) -> Tensor:
        """Outgoing weights that move from the first copy to another, ((copies − 1)·M, P_wide)."""
        net = point.problem.net
        wide = net.with_hidden(self.on(net).units.hidden)
        first, *others = self.places(net)
        above = net.widths[self.layer + 2]
        rows, parts = rows_of(wide, len(others) * above)
        unit_vectors = torch.eye(above, dtype=torch.float64)
        column = parts[weight_key(self.layer + 1)]
        column[:, :, first] = -unit_vectors.repeat(len(others), 1)
        for k, place in enumerate(others):
            column[k * above : (k + 1) * above, :, place] = unit_vectors
        return rows

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; shares are fractions as text, in runs of ``[share, count]``."""
        weights = [[str(weight), count] for weight, count in self.weight_runs]
        offsets = {} if self.offsets is None else {"offsets": self.offsets.tolist()}
        entry = {"type": "Replicate", "layer": self.layer, "unit": self.unit, "weights": weights}
        return [entry | offsets]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Replicate:
        """The inverse of :meth:`to_json`, for one step."""
        made = cls._of_runs(entry["layer"], entry["unit"], read_runs(entry["weights"]))
        if "offsets" in entry:
            made.offsets = _balanced(entry["offsets"], made.copies)
        return made

    def __repr__(self) -> str:
        shown = show_runs(self.weight_runs)
        free = "" if self.offsets is None else ", offsets=…"
        return f"Replicate(layer={self.layer}, unit={self.unit}, weights={shown}{free})"


def _complete(given: list[Any]) -> list[Run]:
    if not given:
        raise InputError("weights is empty; give at least one weight, summing to 1")
    holes = sum(weight is None for weight in given)
    if holes == 0:
        return runs(given)
    if holes > 1:
        raise InputError(f"weights holds {holes} None; at most one can be filled in")
    place = next(i for i, weight in enumerate(given) if weight is None)
    before, after = runs(given[:place]), runs(given[place + 1 :])
    return [*before, (short(1 - total([*before, *after])), 1), *after]


def _balanced(offsets: Any, copies: int) -> Tensor:
    given = numbers("offsets", offsets, 2)
    if len(given) != copies:
        raise InputError(
            f"offsets have shape {tuple(given.shape)}; expected ({copies}, M), a row for each of the "
            f"{copies} copies"
        )
    rest = given.sum(0)
    if rest.abs().max() > 1e-12 * max(1.0, float(given.abs().max())) * copies:
        raise InputError(
            f"offsets must sum to 0 over the copies, so that the outgoing weights keep their sum; "
            f"they sum to {rest.tolist()}"
        )
    given[-1] = -given[:-1].sum(0)
    return given
