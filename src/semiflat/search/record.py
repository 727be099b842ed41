"""What a search returns: points with the record of the run that found them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

from torch import Tensor

from semiflat.networks import Params
from semiflat.points import Point
from semiflat.problem import Problem


class Status(StrEnum):
    """How a run ended; ``meaning`` says what that is and what to do."""

    CONVERGED = "CONVERGED"
    DIVERGED = "DIVERGED"
    STALLED = "STALLED"
    MAX_ITERATIONS = "MAX_ITERATIONS"
    NON_FINITE = "NON_FINITE"

    @property
    def meaning(self) -> str:
        """One sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    Status.CONVERGED: "reached a finite critical point, isolated but for explained flat directions",
    Status.DIVERGED: "runs to infinity, by its evidence: the loss levels off while parameters grow; "
    "try another activation, or fewer units",
    Status.STALLED: "stopped moving where no critical point is confirmed: the Hessian is singular "
    "without a known reason, or rounding hides the way down",
    Status.MAX_ITERATIONS: "still on its way when the iterations ran out; allow more",
    Status.NON_FINITE: "the loss is not finite at the start; use smaller starting weights",
}


@dataclass(frozen=True)
class SearchRecord:
    """One run.

    Attributes:
        start: number of the random start, or −1 for one that was given.
        seed: of the random starts.
        iterations: steps tried.
        status: how it ended.
        evidence: the numbers the status rests on, in words.
    """

    start: int
    seed: int | None
    iterations: int
    status: Status
    evidence: str


@dataclass(frozen=True)
class Finished:
    """A run that has ended, as plain numbers: what is sent between processes and stored.

    Attributes:
        start: number of the start, which names the run.
        status: how it ended.
        evidence: the numbers the status rests on, in words.
        iterations: steps tried.
        vector: where it ended, flat, (P,).
        loss, gradient_norm: ``R`` and ``‖∇R‖∞`` there.
    """

    start: int
    status: Status
    evidence: str
    iterations: int
    vector: Tensor
    loss: float
    gradient_norm: float


class CriticalPoint(Point):
    """A point that a search ended at, with its record.

    It is a critical point if ``status`` is CONVERGED, and where a run ended otherwise.
    """

    def __init__(self, problem: Problem, params: Params, record: SearchRecord) -> None:
        super().__init__(problem, params)
        self.record = record

    @property
    def status(self) -> Status:
        """How the run ended."""
        return self.record.status

    def __repr__(self) -> str:
        return (
            f"CriticalPoint(widths={list(self.problem.net.widths)}, loss={self.loss!r}, "
            f"gradient_norm={self.gradient_norm:.1e}, status={self.status})"
        )


@dataclass(frozen=True)
class SearchResult:
    """All runs of a search.

    Attributes:
        points: the distinct critical points, lowest loss first.
        runs: where every run ended, in the order of the starts; those that were not finite at the
            start have no point and are counted in ``non_finite`` alone.
        non_finite: number of starts where the loss was not finite.
        interrupted: whether it was stopped before all runs had ended.
    """

    points: list[CriticalPoint]
    runs: list[CriticalPoint]
    non_finite: int = 0
    interrupted: bool = False

    @property
    def counts(self) -> dict[Status, int]:
        """How many runs ended in each status."""
        counter = Counter(run.status for run in self.runs)
        counter[Status.NON_FINITE] += self.non_finite
        return {status: counter[status] for status in Status}
