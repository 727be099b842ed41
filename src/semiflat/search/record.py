"""What a search returns: points with the record of the run that found them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

from torch import Tensor

from semiflat.errors import InputError
from semiflat.limits import AtInfinity, Form, Limit, LimitMLP
from semiflat.networks import Params
from semiflat.points import Point, one_line
from semiflat.problem import Problem
from semiflat.records.shown import LINE, Rows, Shown
from semiflat.search.separation import Separation
from semiflat.search.trivial import CONSTANT, triviality
from semiflat.search.unseen import Unseen


class Status(StrEnum):
    """How a run ended; ``meaning`` says what that is and what to do.

    >>> Status("CONVERGED").name
    'CONVERGED'
    >>> print(Status.SATURATED.meaning)
    runs to infinity where units become steps, or constant but for their tails; ...
    """

    CONVERGED = "CONVERGED"
    CHANNEL = "CHANNEL"
    SATURATED = "SATURATED"
    DIVERGED = "DIVERGED"
    STALLED = "STALLED"
    MAX_ITERATIONS = "MAX_ITERATIONS"
    NON_FINITE = "NON_FINITE"

    @property
    def meaning(self) -> str:
        """One sentence."""
        return _MEANINGS[self]

    @property
    def at_infinity(self) -> bool:
        """Whether a run ended at a critical point of a limiting network, its ``limit``."""
        return self in (Status.CHANNEL, Status.SATURATED)


def _against_infinity(problem: Problem) -> str:
    """What keeps runs from infinity, to go on a sentence; ``""`` where every parameter is decayed."""
    if not problem.decay:
        return f"; {_DECAY} keeps runs from infinity"
    free = problem.net.unflatten(problem.decays == 0)
    names = [name for name, alone in free.items() if bool(alone.any())]
    for group, all_of_them in (("weight", "the weights"), ("bias", "the biases")):
        if names and all(name.endswith(f".{group}") for name in names):
            names = [all_of_them]
    return f"; a weight decay on {', '.join(names)}, too, keeps runs from infinity" if names else ""


def count_line(counts: Mapping[Status, int]) -> str:
    """How many ended in which status, in words.

    >>> count_line({Status.CHANNEL: 30, Status.CONVERGED: 90, Status.STALLED: 0})
    '90 CONVERGED, 30 CHANNEL'
    """
    return ", ".join(f"{counts[status]} {status}" for status in Status if counts.get(status))


SAME_AT_INFINITY = 1e-5
"""Part of their size by which outputs of two limits may differ and be one function."""
_DECAY = "a weight decay (weight_decay=1e-3; --weight-decay 1e-3 on the command line)"
_MEANINGS = {
    Status.CONVERGED: "reached a finite critical point; its evidence says whether it is isolated, flat for "
    "known reasons, or degenerate: one of a set of critical points, or singular for no known reason",
    Status.CHANNEL: "runs to infinity where units merge, or a unit turns linear; its `limit` is the "
    "critical point there",
    Status.SATURATED: "runs to infinity where units become steps, or constant but for their tails; its "
    "`limit` is the critical point there",
    Status.DIVERGED: "runs to infinity, by its evidence: the loss levels off while parameters grow; "
    "try another activation, or fewer units",
    Status.STALLED: "stopped moving where no critical point is confirmed: rounding hides the way down, "
    "or the gradient is small only because the residuals are",
    Status.MAX_ITERATIONS: "still on its way when the iterations ran out; allow more",
    Status.NON_FINITE: "the loss is not finite at the start; use smaller starting weights",
}


@dataclass(frozen=True)
class SearchRecord(Shown):
    """One run.

    Attributes:
        start: number of the random start, or −1 − k for the k-th of those that were given.
        seed: of the random starts.
        iterations: steps tried.
        status: how it ended.
        evidence: the numbers the status rests on, in words.
        limit: where it got in a limiting network: at a critical point there if ``status.at_infinity``. Else,
            if the run has one, it is no critical point, but lower than the run, and a place to go on from.
        inertia: positive, zero (within noise) and negative eigenvalues of the Hessian, for a run that
            converged; None where the network is too large for its Hessian.
        engine: what took the steps: ``"torch"``, or the compiled engine with its kernel and
            library of functions, which bits depend on.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> record = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8).record
    >>> record.seed, record.status, record.inertia
    (0, <Status.CONVERGED: 'CONVERGED'>, (4, 0, 0))
    """

    start: int
    seed: int | None
    iterations: int
    status: Status
    evidence: str
    limit: LimitRecord | None = None
    inertia: tuple[int, int, int] | None = None
    engine: str = "torch"


@dataclass(frozen=True)
class LimitRecord(Shown):
    """A point of a limiting network as plain numbers.

    Attributes:
        forms: for each hidden layer the form of each unit.
        vector: its parameters, flat, (P,).
        far: the directions of its steps' incoming weights, flat, (P,).

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[-2.0], [-1.0], [1.0], [2.0]], [-1.0, -1.0, 1.0, 1.0])
    >>> (run, *_) = (run for run in sf.run_search(problem, starts=8).runs if run.limit)
    >>> run.status, run.record.limit.forms
    (<Status.SATURATED: 'SATURATED'>, (('step',),))
    >>> run.record.limit.at(problem).loss == run.limit.loss
    True
    """

    forms: tuple[tuple[str, ...], ...]
    vector: Tensor
    far: Tensor

    def at(self, problem: Problem) -> Limit:
        """The limit itself."""
        net = LimitMLP(problem.net, [[Form(form) for form in row] for row in self.forms])
        return Limit(problem, net, net.unflatten(self.vector), net.unflatten(self.far))


@dataclass(frozen=True)
class Finished(Shown):
    """A run that has ended, as plain numbers: what is sent between processes and stored.

    Attributes:
        start: number of the start, which names the run.
        status: how it ended.
        evidence: the numbers the status rests on, in words.
        iterations: steps tried.
        vector: where it ended, flat, (P,).
        loss, gradient_norm: ``R`` and ``‖∇R‖∞`` there.
        limit: where it got in a limiting network, see :class:`SearchRecord`.
        inertia: positive, zero and negative eigenvalues of the Hessian, where it converged.
        engine: what took the steps, see :class:`SearchRecord`.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 1.5])
    >>> ended = []
    >>> result = sf.run_search(problem, starts=4, progress=ended.extend)
    >>> sorted((run.start, str(run.status)) for run in ended)
    [(0, 'CONVERGED'), (1, 'CONVERGED'), (2, 'CONVERGED'), (3, 'CONVERGED')]
    """

    start: int
    status: Status
    evidence: str
    iterations: int
    vector: Tensor
    loss: float
    gradient_norm: float
    limit: LimitRecord | None = None
    inertia: tuple[int, int, int] | None = None
    engine: str = "torch"

    @property
    def at_infinity(self) -> LimitRecord | None:
        """The critical point at infinity that it ended at, if it did."""
        return self.limit if self.status.at_infinity else None


class CriticalPoint(Point):
    """A point that a search ended at, with its record.

    It is a critical point if ``status`` is CONVERGED, and where a run ended otherwise.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.cos(3 * X))
    >>> point = sf.find_critical_point(problem, starts=4)
    >>> point.status, point.index, point.gradient_norm < 1e-12
    (<Status.CONVERGED: 'CONVERGED'>, 0, True)
    >>> print(point.status.meaning)
    reached a finite critical point; its evidence says whether it is isolated, ...
    """

    def __init__(self, problem: Problem, params: Params, record: SearchRecord) -> None:
        super().__init__(problem, params)
        self.record = record

    @property
    def status(self) -> Status:
        """How the run ended."""
        return self.record.status

    @property
    def index(self) -> int | None:
        """Number of negative eigenvalues of the Hessian beyond noise; None unless CONVERGED, or not built.

        0 for a minimum, or a degenerate point; ``semiflat.judge`` tells which.
        """
        return None if self.record.inertia is None else self.record.inertia[2]

    @property
    def signs(self) -> str:
        """In a word what its curvatures are, as the search measured them.

        ``"positive"`` if all are, ``"flat"`` if some are zero and none is negative, ``"negative"`` if one is,
        ``"infinity"`` for a point of a limiting network, ``"unknown"`` if no Hessian was built.
        """
        if isinstance(self.problem, AtInfinity):
            return "infinity"
        if self.record.inertia is None:
            return "unknown"
        _, zero, negative = self.record.inertia
        return "negative" if negative else "flat" if zero else "positive"

    @cached_property
    def trivial(self) -> str | None:
        """Why the point says little about its network, None if it does not.

        ``"constant …"``: one output for all samples. ``"dead …"``: units that are 0 or constant on
        the data, or not listened to. ``"embedded …"``: a narrower network computes the same, and the
        point is that one's, embedded. What is equal to a part of 1e-6 counts as equal.
        """
        return triviality(self)

    @property
    def constant(self) -> bool:
        """Whether it is a constant predictor: every sample gets the same output."""
        return (self.trivial or "").startswith(CONSTANT)

    @property
    def separated(self) -> bool:
        """Whether the loss is so low that no finite parameters of that loss, or less, are critical."""
        return bool(self.loss < self.problem.no_critical_point_below)

    @property
    def note(self) -> str:
        """Why the search left it where it is no critical point, in one line; ``""`` if it converged."""
        if self.status is Status.CONVERGED:
            return ""
        return one_line(f"a search left it as {self.status}: {self._why}")

    @property
    def _why(self) -> str:
        if self.separated:
            return (
                "the data are separated: below loss "
                f"{self.problem.no_critical_point_below:.2g} no finite parameters are critical, and the "
                "infimum 0 lies at infinity"
            )
        if isinstance(self.problem, AtInfinity):
            return f"it runs to infinity, and this is its limit there, {self.limit!r}"
        if self.limit is not None and self.status.at_infinity:
            return f"it runs to infinity, and its limit there has loss {self.limit.loss:.10g}"
        return self.record.evidence

    @cached_property
    def limit(self) -> Limit | None:
        """Where a run to infinity got in the limiting network, for one that has got there.

        A critical point if ``status.at_infinity``; otherwise the lowest place that was reached, below the run:
        to look for one from ``limit.approach(1e3)``, say.
        """
        if self.record.limit is None:
            return None
        problem = self.problem
        return self.record.limit.at(problem.finite if isinstance(problem, AtInfinity) else problem)

    def _facts(self) -> dict[str, Any]:
        own = {"status": self.status, "index": self.index, "start": self.record.start}
        return super()._facts() | own | {"iterations": self.record.iterations}

    def __repr__(self) -> str:
        line = (
            f"CriticalPoint(widths={list(self.problem.net.widths)}, loss={self.loss!r}, "
            f"gradient_norm={self.gradient_norm:.1e}, status={self.status}"
        )
        if self.status is Status.CONVERGED:
            return f"{line})"
        return f"{line}: {one_line(self._why, max(8, LINE - len(line) - 3))})"


@dataclass(frozen=True)
class SearchResult(Rows):
    """All runs of a search.

    Attributes:
        points: the distinct critical points, lowest loss first. Degenerate ones come in sets: of all runs
            that end on one connected set of critical points, as far as paths on it were found, this is
            the one of fewest zero eigenvalues.
        runs: where every run ended, in the order of the starts; those that were not finite at the
            start have no point and are counted in ``non_finite`` alone.
        non_finite: number of starts where the loss was not finite.
        interrupted: whether it was stopped before all runs had ended.
        stored: number of starts that were read from a store, not run.
        frequencies: for each of ``points`` how many runs ended there, or on its set.
        unresolved: degenerate points that compute the function of one of ``points`` and were not shown to
            be connected with it. They may be of one set or of several, so they are not among ``points``.
        unseen: estimates of how many critical points no run ended at; of all problems, if there are
            several. Points beside unresolved ones are left out: how often each was found is not known.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.cos(3 * X))
    >>> found = sf.run_search(problem, starts=16)
    >>> len(found.runs), len(found.points) == len(found.frequencies)
    (16, True)
    >>> sum(found.counts.values()), len(found.unresolved)
    (16, 0)
    """

    points: list[CriticalPoint]
    runs: list[CriticalPoint]
    non_finite: int = 0
    interrupted: bool = False
    stored: int = 0
    frequencies: list[int] = field(default_factory=list)
    unresolved: list[CriticalPoint] = field(default_factory=list)
    unseen: Unseen = field(default_factory=lambda: Unseen.of([]))

    def __len__(self) -> int:
        """How many distinct critical points there are."""
        return len(self.points)

    def __getitem__(self, place: int) -> CriticalPoint:
        """One of ``points``, lowest loss first."""
        return self.points[place]

    def __iter__(self) -> Iterator[CriticalPoint]:
        """``points``, lowest loss first."""
        return iter(self.points)

    def _facts(self) -> dict[str, Any]:
        return {
            "points": len(self.points),
            "runs": sum(self.counts.values()),
            "ended": count_line(self.counts),
            "lowest": float(self.points[0].loss) if self.points else None,
            "at_infinity": len(self.at_infinity),
            "unresolved": len(self.unresolved),
            "interrupted": self.interrupted,
            "stored": self.stored,
            "unseen": str(self.unseen),
        }

    def _rows(self) -> list[dict[str, Any]]:
        often = {id(p): n for p, n in zip(self.points, self.frequencies, strict=False)}
        return [
            {
                "loss": float(point.loss),
                "gradient_norm": point.gradient_norm,
                "signs": point.signs,
                "index": point.index,
                "status": str(point.status),
                "found": often.get(id(point)),
                "start": point.record.start,
                "iterations": point.record.iterations,
            }
            for point in self.with_infinity
        ]

    @cached_property
    def at_infinity(self) -> list[CriticalPoint]:
        """The distinct critical points at infinity: one for each function on the data, lowest loss first.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 1.5])
        >>> sf.run_search(problem, starts=4).at_infinity
        []
        """
        found: list[tuple[CriticalPoint, Tensor]] = []
        for run in self.runs:
            if run.limit is None or not run.status.at_infinity:
                continue
            there = run.limit.point
            f = there.problem.outputs(there.params)
            alike = SAME_AT_INFINITY * f.abs().max()
            if all(f.shape != g.shape or bool((f - g).abs().max() > alike) for _, g in found):
                found.append((CriticalPoint(there.problem, there.params, run.record), f))
        return sorted((point for point, _ in found), key=lambda point: float(point.loss))

    @property
    def with_infinity(self) -> list[CriticalPoint]:
        """``points`` and those at infinity, lowest loss first, whatever their kind."""
        return sorted([*self.points, *self.at_infinity], key=lambda point: float(point.loss))

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the distinct points by their loss: what each is by its curvatures, and how often it was found.

        Lowest loss first; ×3 says that three runs ended there. Full circles have positive curvatures alone,
        triangles a negative one, open circles some that are zero and none that is negative; open diamonds are
        critical points at infinity. The signs are those that the search measured; :func:`semiflat.judge` says
        what kind of point it is. To see: how many low minima there are, and whether the search found each
        often enough to have seen them all.

        Args:
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib, or if no point was found.
        """
        from semiflat.plots.drawing import array, axes_for
        from semiflat.plots.found import draw_found

        points = self.with_infinity
        if not points:
            raise InputError(f"there is nothing to draw: {self.why_none}")
        often = {id(p): n for p, n in zip(self.points, self.frequencies, strict=False)}
        with axes_for(ax, 6.4, 3.7) as ax:
            draw_found(
                ax,
                array([float(point.loss) for point in points]),
                [point.signs for point in points],
                [often.get(id(point)) for point in points],
            )
            ended = sum(self.counts.values())
            ax.set_title(
                f"{len(points)} distinct critical points from {ended} starts\n({count_line(self.counts)})",
                loc="left",
            )
        return ax

    @property
    def constants(self) -> list[CriticalPoint]:
        """Those of ``points`` at which every sample gets the same output: there for any data.

        >>> import semiflat as sf
        >>> line = sf.Problem(sf.MLP([1, 1, 1]), [[-1.0], [0.0], [1.0]], [1.0, -2.0, 1.0])
        >>> found = sf.run_search(line, starts=16, kind="any")
        >>> len(found.constants) >= 1, all(point.constant for point in found.constants)
        (True, True)
        """
        return [point for point in self.points if point.constant]

    @cached_property
    def separation(self) -> Separation | None:
        """Where classes are told apart, and the direction in which the loss falls for ever; None if not seen.

        At the lowest of the runs that tell them apart; if none does, by a linear function of the inputs.

        >>> import semiflat as sf
        >>> line = sf.Problem(sf.MLP([1, 1]), [[-1.0], [1.0]], [0.0, 1.0], loss="logistic")
        >>> told = sf.run_search(line, starts=2).separation
        >>> told.direction["0.weight"].item(), round(told.margin, 9)
        (1.0, 1.0)
        """
        for run in sorted(self.runs, key=lambda run: float(run.loss)):
            told = Separation.at(
                run, f"the run from start {run.record.start} tells the classes apart"
            )
            if told is not None:
                return told
        problems = {id(run.problem): run.problem for run in self.runs}
        return Separation.of_inputs(*problems.values()) if len(problems) == 1 else None

    @property
    def why_unresolved(self) -> str:
        """What ``unresolved`` points are, in one line; ``""`` if there are none."""
        if not self.unresolved:
            return ""
        return (
            f"{len(self.unresolved)} more runs ended at degenerate points that compute the same as one of the "
            "critical points and were not shown to be connected with it; estimates leave them out"
        )

    @property
    def why_none(self) -> str:
        """Why there are no ``points``, and what to do, in one line; ``""`` if there are some.

        >>> import semiflat as sf
        >>> line = sf.Problem(sf.MLP([1, 1]), [[-1.0], [1.0]], [0.0, 1.0], loss="logistic")
        >>> sf.run_search(line, starts=2).why_none  # doctest: +ELLIPSIS
        'no run of 2 ended at a critical point (2 DIVERGED): they separate the classes, ...'
        """
        if self.points:
            return ""
        if not self.runs:
            return "no run had ended when the search was stopped; let it run longer"
        counts = self.counts
        most = max(counts, key=counts.__getitem__)
        separating = sum(run.separated for run in self.runs)
        if 2 * separating >= sum(counts.values()) > 0:
            why = (
                "they separate the classes, and the loss falls towards infinity without end; give the "
                f"problem {_DECAY}"
            )
        else:
            why = f"{most} means: {most.meaning}"
            if most.at_infinity or most is Status.DIVERGED:
                why += _against_infinity(self.runs[0].problem)
        runs = sum(counts.values())
        return f"no run of {runs} ended at a critical point ({count_line(counts)}): {why}"

    @property
    def counts(self) -> dict[Status, int]:
        """How many runs ended in each status."""
        counter = Counter(run.status for run in self.runs)
        counter[Status.NON_FINITE] += self.non_finite
        return {status: counter[status] for status in Status}
