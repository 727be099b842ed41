"""Unit replication: copies of a unit that share its outgoing weights."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from semiflat.embeddings.base import Embedding
from semiflat.embeddings.exact import Exact, Run, runs, show, show_runs, total
from semiflat.embeddings.unit_map import UnitMap
from semiflat.errors import InputError
from semiflat.networks import MLP


class Replicate(Embedding):
    """Replace a hidden unit by copies with outgoing weights ``λ_j ζ``, Σλ_j = 1.

    Every λ is allowed: negative, zero, above 1. The first copy keeps the unit's place, the others
    stand at the end of the layer. Maps critical points to critical points (F19 (I), Thm 2; P21 γ_λ;
    Z22 Def. 4.4, splitting).

    Args:
        layer: hidden layer, from 0.
        unit: unit in it, from 0.
        weights: the λ_j. A float stands for the decimal it prints as, so 0.3 and 0.7 sum to 1; a
            ``Fraction`` or a text ``"1/3"`` stands for itself; one ``None`` is filled in so that the
            sum is 1.

    Raises:
        InputError: if the sum is not exactly 1, or a weight is not a finite number.

    >>> Replicate(layer=0, unit=2, weights=[0.3, 0.7])
    Replicate(layer=0, unit=2, weights=[0.3, 0.7])
    >>> Replicate(layer=0, unit=2, weights=["1/3", -1, None])
    Replicate(layer=0, unit=2, weights=[1/3, -1, 5/3])
    >>> Replicate(layer=0, unit=2, weights=[0.3, 0.6])
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: weights [0.3, 0.6] sum to 0.9, 0.1 short of 1; ...
    """

    def __init__(self, layer: int, unit: int, weights: Iterable[Exact | None]) -> None:
        try:
            given = list(weights)
        except TypeError:
            raise InputError(
                f"weights must be a list of numbers such as [0.3, 0.7], not {weights!r}; for equal "
                "shares use Replicate.uniform(layer, unit, copies)"
            ) from None
        self._set(layer, unit, _complete(given))

    @classmethod
    def uniform(cls, layer: int, unit: int, copies: int) -> Replicate:
        """``copies`` copies with λ = 1/copies each, stored as one run however many they are.

        >>> Replicate.uniform(layer=0, unit=0, copies=10**6)
        Replicate(layer=0, unit=0, weights=[1e-06 × 1000000])
        """
        if not isinstance(copies, int) or isinstance(copies, bool) or copies < 1:
            raise InputError(f"copies must be a whole number of at least 1, not {copies!r}")
        return cls._of_runs(layer, unit, [(Fraction(1, copies), copies)])

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
        self.layer, self.unit, self.weight_runs = layer, unit, tuple(weights)

    @property
    def weights(self) -> list[Fraction]:
        """The λ_j one by one."""
        return [weight for weight, count in self.weight_runs for _ in range(count)]

    @property
    def steps(self) -> tuple[Embedding, ...]:
        return (self,)

    @property
    def preserves_criticality(self) -> bool:
        return True

    def extend(self, net: MLP, unit_map: UnitMap) -> UnitMap:
        net.check_unit(self.layer, self.unit)
        return unit_map.replicated(self.layer, self.unit, self.weight_runs)

    def to_json(self) -> list[dict[str, Any]]:
        weights = [[str(weight), count] for weight, count in self.weight_runs]
        return [{"type": "Replicate", "layer": self.layer, "unit": self.unit, "weights": weights}]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Replicate:
        """The inverse of :meth:`to_json`, for one step."""
        weights = [(Fraction(weight), int(count)) for weight, count in entry["weights"]]
        return cls._of_runs(int(entry["layer"]), int(entry["unit"]), weights)

    def __repr__(self) -> str:
        shown = show_runs(self.weight_runs)
        return f"Replicate(layer={self.layer}, unit={self.unit}, weights={shown})"


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
    return [*before, (1 - total(before) - total(after), 1), *after]
