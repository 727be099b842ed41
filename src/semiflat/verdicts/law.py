"""The arithmetic of the inertia law (theory §3, §9): what added units add to the signs of the Hessian."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple


class Shares(NamedTuple):
    """How many copies of a unit are read with a positive, a negative and no share."""

    positive: int
    negative: int
    zero: int

    @classmethod
    def of(cls, shares: Iterable[tuple[float | Fraction, int]]) -> Shares:
        """Of shares and how many copies have each.

        >>> Shares.of([(0.5, 3), (-0.5, 1), (0, 2)])
        Shares(positive=3, negative=1, zero=2)
        """
        counted = list(shares)
        return cls(
            sum(count for share, count in counted if share > 0),
            sum(count for share, count in counted if share < 0),
            sum(count for share, count in counted if share == 0),
        )

    @property
    def added(self) -> int:
        """How many units come in."""
        return sum(self) - 1


def added_by_copies(shares: Shares, positive: int, negative: int, rank: int) -> tuple[int, int]:
    """Positive and negative eigenvalues that the copies of a unit add, beyond those of the narrow Hessian.

    Bounds from below give bounds from below: nothing is subtracted.

    Args:
        shares: of the copies; they sum to 1.
        positive, negative: eigenvalues of the unit's K.
        rank: of its F.

    >>> added_by_copies(Shares(2, 1, 1), positive=3, negative=2, rank=1)
    (6, 6)
    """
    p, q, z = shares
    return (
        (p - 1) * positive + q * negative + z * rank,
        (p - 1) * negative + q * positive + z * rank,
    )
