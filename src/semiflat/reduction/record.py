"""What a reduction found: the narrow point, the way back, and what was merged and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semiflat.embeddings.base import Embedding
from semiflat.points import Point
from semiflat.records.shown import Rows, Shown, row_of


@dataclass(frozen=True)
class Merge(Shown):
    """Units of the given network that became one unit, or none.

    Attributes:
        layer: hidden layer, from 0.
        units: the units of the given network, in order.
        rule: ``"twins"``, ``"constant"``, ``"inactive"``, ``"inactive on the data"``, ``"unheard"``,
            ``"dependent"``; with a tolerance also ``"nearly twins"`` and ``"nearly constant"``.
        reason: one sentence.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> (merge,) = sf.reduce(sf.Replicate(0, 0, [0.25, 0.75])(point)).merges
    >>> merge.layer, merge.units, merge.rule
    (0, (0, 2), 'twins')
    """

    layer: int
    units: tuple[int, ...]
    rule: str
    reason: str

    def __str__(self) -> str:
        return f"layer {self.layer}, {listed(self.units)}: {self.reason}"


@dataclass(frozen=True)
class Reduction(Rows):
    """A network with as few units as were found to do, and the embedding that leads back from it.

    Attributes:
        point: the narrow point, on the same data and loss; with weight decay its risk has the penalty
            on its own weights, so it differs from the given point's and need not be critical.
        embedding: leads from the narrow network back to one of the given widths. If the reduction is
            exact it gives back the given parameters (to rounding); else a wide network that computes
            what the narrow one does, so its outputs differ from the given one's by at most ``bound``.
        bound: 0.0 if the reduction is exact (with ``on_data``: on the data); else the largest change
            of any output on any sample of the data, in units of the output, with an allowance for
            rounding.
        merges: what was merged or dropped, in the order it was found.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> small = sf.reduce((sf.Replicate(0, 0, [2, -1]) >> sf.NullUnits(0, [0.5]))(point))
    >>> small.widths, small.bound, small.point.problem.net.widths
    ((2,), 0.0, (1, 2, 1))
    >>> small.embedding(small.point).problem.net.widths
    (1, 4, 1)
    """

    point: Point
    embedding: Embedding
    bound: float
    merges: tuple[Merge, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Widths of the narrow network's hidden layers."""
        return self.point.problem.net.hidden

    def _facts(self) -> dict[str, Any]:
        return {
            "widths": self.widths,
            "bound": self.bound,
            "merges": len(self.merges),
            "loss": self.point.loss,
            "embedding": repr(self.embedding),
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [row_of(merge) for merge in self.merges]

    def __str__(self) -> str:
        """
        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
        >>> point = sf.Point(problem, problem.net.random_params(0))
        >>> print(sf.reduce(sf.Replicate(0, 0, [0.25, 0.75])(point)))
        3 hidden units reduced to 2, exactly
          layer 0, units 0 and 2: the same incoming weights, so one unit does for all
        """
        left = f"{'-'.join(map(str, self.widths)) or 'no'} hidden unit{'s' * (self.widths != (1,))}"
        if not self.merges:
            return f"{left}, none of which can be spared"
        wide = self.embedding.widen(self.point.problem.net).hidden
        how = "exactly"
        if self.bound > 0:
            how = f"the outputs change by at most {self.bound:.3g} on the data"
        head = (
            f"{'-'.join(map(str, wide))} hidden units reduced to {'-'.join(map(str, self.widths))}"
        )
        return "\n  ".join([f"{head}, {how}", *map(str, self.merges)])


def listed(units: tuple[int, ...]) -> str:
    """The numbers of some units, the middle left out where they are many.

    >>> listed((3,)), listed((0, 2, 5)), listed(tuple(range(100)))
    ('unit 3', 'units 0, 2 and 5', 'units 0, 1, 2, 3, … and 99 (100 in all)')
    """
    if len(units) == 1:
        return f"unit {units[0]}"
    if len(units) > 8:
        first = ", ".join(map(str, units[:4]))
        return f"units {first}, … and {units[-1]} ({len(units)} in all)"
    return f"units {', '.join(map(str, units[:-1]))} and {units[-1]}"
