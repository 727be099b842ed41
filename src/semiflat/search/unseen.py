"""How many critical points a search has not seen: estimates, from how often it saw the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from semiflat.records.shown import Shown


@dataclass(frozen=True)
class Unseen(Shown):
    """Estimates of what a search has not found, from how often it found what it did.

    They take the runs for independent draws and are no bounds: a basin that no start reaches does not
    show in them.

    Attributes:
        runs: n, number of runs that converged, at points of which it is known how often each was found.
        seen: number of distinct points among them.
        singletons, doubletons: how many of these were found once, and twice.

    >>> Unseen(runs=100, seen=12, singletons=4, doubletons=2).chao1
    4.0
    """

    runs: int
    seen: int
    singletons: int
    doubletons: int

    @classmethod
    def of(cls, frequencies: Sequence[int]) -> Unseen:
        """From how often each point was found.

        >>> Unseen.of([5, 2, 1, 1]).chao1, Unseen.of([5, 2, 1, 1]).missing_mass
        (2.0, 0.2222222222222222)
        """
        how_many = Counter(frequencies)
        return cls(sum(frequencies), len(frequencies), how_many[1], how_many[2])

    @property
    def chao1(self) -> float:
        """Estimated number of points still unseen: f₁²/2f₂, or f₁(f₁ − 1)/2 without doubletons.

        A lower estimate (Chao 1984): rarer points than those found once are not counted fully.
        """
        if self.doubletons:
            return self.singletons**2 / (2 * self.doubletons)
        return self.singletons * (self.singletons - 1) / 2

    @property
    def missing_mass(self) -> float:
        """Estimated probability that a run that converges ends at an unseen point: f₁/n (Good 1953)."""
        return self.singletons / self.runs if self.runs else float("nan")

    def __str__(self) -> str:
        if not self.runs:
            return "of no point it is known how often it was found: nothing can be said of what is unseen"
        return (
            f"estimated unseen: at least about {self.chao1:.3g} (Chao1); chance that the next converged "
            f"run finds one: {100 * self.missing_mass:.3g} % (Good–Turing)"
        )
