"""Level after level: random starts, descents from narrower saddles, and what all of them ended at."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semiflat.limits import AtInfinity, LimitMLP
from semiflat.nesting.functions import same
from semiflat.nesting.record import Edge, Level, PointRecord, Widths, name_of, widths_name
from semiflat.nesting.ways import Widening, ways_down, widenings
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.reduction import reduce
from semiflat.search import CriticalPoint, Status, Unseen, run_search
from semiflat.search.distinct import classes
from semiflat.search.record import LimitRecord
from semiflat.search.trivial import EQUAL
from semiflat.verdicts import Kind, Verdict, judge_all

MOST_DESCENTS = 512
"""Ways down that are followed at one level at most, the steepest of each point first."""
LIMITS_LEFT = 8
"""Points at infinity of a level, lowest first, whose saddles a level wider are left: each is a search."""
DESCENT_STEPS = 500
"""Steps of one descent, and of one start for points of any index."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, in words, how much of it is, and how much there is."""


@dataclass(frozen=True)
class Way:
    """A way down from a saddle: the edge that it will be, but for its end, and where to minimise from."""

    edge: Edge
    problem: Problem
    start: Tensor


@dataclass
class Member:
    """A critical point of a level while its level is built.

    Attributes:
        point: it, in the finite or in a limiting network.
        verdict: on it.
        found: how many random starts ended there.
        origin: see :class:`PointRecord`.
        runs: all runs that ended there, by identity.
        name: given when the level is done.
    """

    point: CriticalPoint
    found: int
    origin: str
    runs: set[int]
    outputs: Tensor
    function: int = -1
    new: bool = True
    trivial: str | None = None
    verdict: Verdict | None = None
    name: str = ""

    @property
    def limit(self) -> bool:
        """Whether it is a point of a limiting network."""
        return isinstance(self.point.problem, AtInfinity)

    @property
    def judged(self) -> Verdict:
        """Its verdict, once there is one."""
        assert self.verdict is not None
        return self.verdict


@dataclass
class Ended:
    """A run at a level: where it ended, and what it was.

    Attributes:
        run: where.
        origin: see :class:`PointRecord`.
        way: of a descent.
    """

    run: CriticalPoint
    origin: str
    way: Way | None = None


class Rung:
    """One level while it is built."""

    def __init__(self, hidden: Widths, problem: Problem) -> None:
        self.hidden, self.problem = hidden, problem
        self.ended: list[Ended] = []
        self.members: list[Member] = []
        self.narrower = 0
        self.left_out = 0
        self.followed = 0
        self.starts = (0, 0)
        self.counts: Counter[str] = Counter()
        self.unseen = Unseen.of([])


class Builder:
    """Builds the levels of a hierarchy; see :func:`semiflat.hierarchy`.

    Args:
        search: options of the searches of random starts.
        store: keeps what is run; None to keep nothing.

    Attributes:
        functions: outputs of each critical function on the data, (N, M), in the order found.
        rungs: the levels, narrowest first.
        edges: between them.
    """

    def __init__(
        self,
        problem: Problem,
        widths: Sequence[Widths],
        *,
        starts: int,
        saddle_starts: int,
        seed: int,
        max_iterations: int,
        search: dict[str, Any],
        store: str | Path | None,
        progress: Progress,
    ) -> None:
        self.problem, self.starts, self.saddle_starts = problem, starts, saddle_starts
        self.seed, self.max_iterations = seed, max_iterations
        self.search, self.store, self.progress = search, store, progress
        self.rungs = [
            Rung(hidden, problem.with_net(problem.net.with_hidden(hidden))) for hidden in widths
        ]
        self.functions: list[Tensor] = []
        self.least: list[int] = []  # the level of each function
        self.edges: list[Edge] = []
        self.same_as: dict[int, Member] = {}

    def run(self) -> None:
        """All levels."""
        for level, rung in enumerate(self.rungs):
            self._random_starts(rung)
            self._constant(level)
            self._settle(level)
            if level:
                self._follow(level, self._embedded_saddles(level))
            self._follow(level, self._own_saddles(level))
            self._name(rung)
        for level in range(len(self.rungs)):
            self._name(self.rungs[level])  # points that wider levels found came later
            self._embed(level)
            self._limits(level)

    # -- runs -------------------------------------------------------------------------------------

    def _random_starts(self, rung: Rung) -> None:
        rung.starts = self.starts, self.saddle_starts
        steps = {"minimum": self.max_iterations, "any": DESCENT_STEPS}
        for kind, count in zip(steps, rung.starts, strict=True):
            if not count:
                continue
            words = f"{widths_name(rung.hidden)} units, {'minima' if kind == 'minimum' else 'any index'}"
            done = 0

            def tell(finished: Sequence[Any], words: str = words, count: int = count) -> None:
                nonlocal done
                done += len(finished)
                self.progress(words, done, count)

            found = run_search(
                rung.problem,
                count,
                seed=self.seed,
                kind=kind,  # type: ignore[arg-type]
                max_iterations=steps[kind],
                progress=tell,
                out=self.store,
                **self.search,
            )
            if found.interrupted:
                raise KeyboardInterrupt
            rung.counts.update({str(status): n for status, n in found.counts.items() if n})
            rung.ended += [Ended(run, "random start") for run in found.runs]
            if kind == "minimum":
                rung.unseen = found.unseen

    def _constant(self, level: int) -> None:
        """The constant predictor, of the narrowest level: wider ones have it as one that is embedded."""
        if level:
            return
        problem = self.rungs[0].problem
        zeros = torch.zeros(problem.net.parameter_count, dtype=torch.float64)
        found = run_search(
            problem, start=problem.net.unflatten(zeros), kind="any", processes=1, out=self.store
        )
        self.rungs[0].ended += [Ended(run, "constant") for run in found.runs]

    def _follow(self, level: int, ways: list[Way]) -> None:
        """Minimise from each way's start, and put the ends in their places."""
        rung = self.rungs[level]
        kept = ways[:MOST_DESCENTS]
        rung.left_out += len(ways) - len(kept)
        rung.followed += len(kept)
        together: dict[int, list[Way]] = defaultdict(list)
        for way in kept:
            together[id(way.problem)].append(way)
        done = 0
        for some in together.values():
            problem = some[0].problem
            ended = run_search(
                problem,
                start=problem.net.unflatten(torch.stack([way.start for way in some])),
                max_iterations=DESCENT_STEPS,
                processes=self.search.get("processes"),
                out=self.store,
            )
            if ended.interrupted:
                raise KeyboardInterrupt
            rung.ended += [Ended(run, "descent", some[-1 - run.record.start]) for run in ended.runs]
            done += len(some)
            self.progress(f"{widths_name(rung.hidden)} units, descents", done, len(kept))
        if kept:
            self._settle(level)

    # -- saddles ----------------------------------------------------------------------------------

    def _embedded_saddles(self, level: int) -> list[Way]:
        """Ways down from the points one level narrower, embedded here; steepest of each point first."""
        rung, below = self.rungs[level], self.rungs[level - 1]
        limits = 0
        by_point: list[list[Way]] = []
        for member in sorted(below.members, key=lambda each: float(each.point.loss)):
            if member.limit:
                limits += 1
                if limits > LIMITS_LEFT:
                    continue
            ways: list[Way] = []
            for edge, wide, verdict in self._widened(member, below, rung.hidden):
                if verdict.kind is Kind.STRICT_SADDLE:
                    problem = wide.problem if member.limit else rung.problem
                    ways += _ways(edge, problem, wide, verdict)
                elif verdict.kind is Kind.NOT_CRITICAL and not rung.problem.outputs_alone:
                    # Weight decay moves it: the way down is the gradient's.
                    start = wide.problem.net.flatten(wide.params)
                    ways.append(Way(_descending(edge, 0), rung.problem, start))
            by_point.append(sorted(ways, key=lambda way: way.edge.curvature or 0.0))
        return _in_turn(by_point)

    def _own_saddles(self, level: int) -> list[Way]:
        rung = self.rungs[level]
        by_point = []
        for member in rung.members:
            if member.judged.kind is not Kind.STRICT_SADDLE or member.limit:
                continue
            edge = Edge(
                kind="descends",
                source=str(id(member)),
                target=None,
                hidden=rung.hidden,
                how="own",
                curvature=member.judged.curvature,
            )
            by_point.append(_ways(edge, rung.problem, member.point, member.judged))
        return _in_turn(by_point)

    def _widened(
        self, member: Member, below: Rung, hidden: Widths
    ) -> list[tuple[Edge, Point, Verdict]]:
        """A member's embeddings into given widths, judged, as edges whose source is the member's id."""
        plan = list(widenings(member.point.problem.net, hidden))
        wide = [widening.embedding(member.point) for widening in plan]
        verdicts = judge_all(wide)
        return [
            (_embedding(member, widening, hidden, verdict), there, verdict)
            for widening, there, verdict in zip(plan, wide, verdicts, strict=True)
        ]

    # -- what runs ended at -----------------------------------------------------------------------

    def _settle(self, level: int) -> None:
        """Members of a level, from all of its runs."""
        rung = self.rungs[level]
        ended = {id(each.run): each for each in rung.ended}
        runs = [each.run for each in rung.ended]
        finite = [
            run
            for run in runs
            if run.status is Status.CONVERGED and not isinstance(run.problem, AtInfinity)
        ]
        known = {run: member for member in rung.members for run in member.runs}
        members: list[Member] = []
        rung.narrower = 0
        for group in classes(sorted(finite, key=lambda run: run.loss)):
            member = self._member(rung, group.runs + group.apart, ended, known)
            if self._is_narrower(level, member):
                rung.narrower += len(member.runs)
            else:
                members.append(member)
        members += self._at_infinity(rung, runs, ended, known)
        for member in members:
            self._place(level, member)
        unjudged = [member for member in members if member.verdict is None]
        for member, verdict in zip(
            unjudged, judge_all([member.point for member in unjudged]), strict=True
        ):
            member.verdict = verdict
        rung.members = members

    def _member(
        self,
        rung: Rung,
        runs: Sequence[CriticalPoint],
        ended: dict[int, Ended],
        known: dict[int, Member],
        point: CriticalPoint | None = None,
    ) -> Member:
        """What some runs ended at; with its verdict, if that is known from before."""
        origins = [ended[id(run)].origin for run in runs]
        at = point or runs[0]
        ids = {id(run) for run in runs}
        before = list(
            {id(known[one]): known[one] for one in map(id, runs) if one in known}.values()
        )
        found = sum(origin == "random start" for origin in origins)
        origin = min(origins, key=("random start", "constant", "descent", "wider point").index)
        if before:
            kept, *others = before
            kept.found, kept.origin, kept.runs = found, origin, ids
            self.same_as |= {
                id(other): kept for other in others
            }  # a run has shown that they are one
            return kept
        return Member(at, found, origin, ids, at.problem.outputs(at.params))

    def _at_infinity(
        self,
        rung: Rung,
        runs: Sequence[CriticalPoint],
        ended: dict[int, Ended],
        known: dict[int, Member],
    ) -> list[Member]:
        """Points of limiting networks: one for each function."""
        found: list[tuple[CriticalPoint, Tensor, list[CriticalPoint]]] = []
        for run in runs:
            there = _limit_point(run)
            if there is None:
                continue
            outputs = there.problem.outputs(there.params)
            place = same(rung.problem, outputs, [each for _, each, _ in found])
            if place is None:
                found.append((there, outputs, [run]))
            else:
                found[place][2].append(run)
        return [self._member(rung, own, ended, known, there) for there, _, own in found]

    def _is_narrower(self, level: int, member: Member) -> bool:
        """Whether it is a narrower level's point, embedded; one that is not known there goes there."""
        member.trivial = member.point.trivial
        if member.trivial is None or not level:
            return False
        if same(self.problem, member.outputs, self._functions_below(level)) is not None:
            return True
        small = reduce(member.point, EQUAL).point
        for lower in range(level):
            rung = self.rungs[lower]
            if rung.hidden == small.problem.net.hidden:
                return self._found_below(lower, small)
        return False

    def _found_below(self, lower: int, small: Point) -> bool:
        """A narrower point that a wider level found first: settled there, if it is critical there."""
        rung = self.rungs[lower]
        polished = run_search(
            rung.problem, start=small.params, kind="any", processes=1, out=self.store
        ).runs
        if not polished or polished[0].status is not Status.CONVERGED:
            return False
        rung.ended.append(Ended(polished[0], "wider point"))
        self._settle(lower)
        outputs = small.problem.outputs(small.params)
        return same(self.problem, outputs, self._functions_below(lower + 1)) is not None

    def _functions_below(self, level: int) -> list[Tensor]:
        return [
            self.functions[member.function]
            for rung in self.rungs[:level]
            for member in rung.members
        ]

    def _place(self, level: int, member: Member) -> None:
        """Give a member its critical function."""
        place = same(self.problem, member.outputs, self.functions)
        if place is None:
            place = len(self.functions)
            self.functions.append(member.outputs)
            self.least.append(level)
        self.least[place] = min(self.least[place], level)
        member.function = place

    # -- names and edges --------------------------------------------------------------------------

    def _name(self, rung: Rung) -> None:
        level = self.rungs.index(rung)
        rung.members.sort(key=lambda member: float(member.point.loss))
        for limit in (False, True):
            own = [member for member in rung.members if member.limit is limit]
            for place, member in enumerate(own):
                member.name = name_of(rung.hidden, place, limit)
                member.new = self.least[member.function] == level

    def _embed(self, level: int) -> None:
        """What a level's points are at all wider ones, and where descents at this level ended."""
        rung = self.rungs[level]
        names = {str(id(member)): member.name for each in self.rungs for member in each.members}
        names |= {str(other): kept.name for other, kept in self.same_as.items()}
        for wider in self.rungs[level + 1 :]:
            if any(a > b for a, b in zip(rung.hidden, wider.hidden, strict=True)):
                continue
            for done, member in enumerate(rung.members):
                self.progress(
                    f"{widths_name(rung.hidden)} units in {widths_name(wider.hidden)}",
                    done + 1,
                    len(rung.members),
                )
                for edge, _, _ in self._widened(member, rung, wider.hidden):
                    target = f"{member.name}@{widths_name(wider.hidden)}"
                    self.edges.append(replace(edge, source=member.name, target=target))
        for each in rung.ended:
            if each.way is not None:
                self.edges.append(self._descent(level, each, names))

    def _descent(self, level: int, ended: Ended, names: dict[str, str]) -> Edge:
        assert ended.way is not None
        run, edge = ended.run, ended.way.edge
        member = next((m for m in self.rungs[level].members if id(run) in m.runs), None)
        target, embedded = None if member is None else member.name, False
        if member is None and run.status is Status.CONVERGED:
            outputs = run.problem.outputs(run.params)
            below = [m for rung in self.rungs[:level] for m in rung.members]
            place = same(self.problem, outputs, [m.outputs for m in below])
            if place is not None:
                target, embedded = below[place].name, True
        there = _limit_point(run)
        return replace(
            edge,
            source=names.get(edge.source, ""),
            target=target,
            loss=float(run.loss if there is None else there.loss),
            status=str(run.status),
            as_embedded=embedded,
        )

    def _limits(self, level: int) -> None:
        rung = self.rungs[level]
        for member in rung.members:
            if member.limit and member.found:
                self.edges.append(
                    Edge(
                        kind="limits",
                        source="",
                        target=member.name,
                        hidden=rung.hidden,
                        loss=float(member.point.loss),
                        times=member.found,
                    )
                )

    # -- records ----------------------------------------------------------------------------------

    def points(self) -> list[PointRecord]:
        """All members, level by level, lowest loss first."""
        return [_record(member, rung.hidden) for rung in self.rungs for member in rung.members]

    def levels(self) -> list[Level]:
        """What was done at each level."""
        return [self._level(rung) for rung in self.rungs]

    def _level(self, rung: Rung) -> Level:
        new = [member for member in rung.members if member.new]
        finite = [member for member in new if not member.limit]
        kinds = [member.judged.kind for member in finite]
        mass = rung.unseen.missing_mass
        return Level(
            hidden=rung.hidden,
            starts=rung.starts,
            counts=dict(rung.counts),
            descents=(rung.followed, rung.left_out),
            narrower=rung.narrower,
            new_minima=sum(kind in (Kind.MINIMUM, Kind.STRICT_MINIMUM) for kind in kinds),
            new_saddles=sum(kind is Kind.STRICT_SADDLE for kind in kinds),
            new_at_infinity=len(new) - len(finite),
            unseen=rung.unseen.chao1,
            missing=None if math.isnan(mass) else mass,
        )


def _limit_point(run: CriticalPoint) -> CriticalPoint | None:
    """The critical point at infinity that a run ended at, as a point; None for others."""
    if isinstance(run.problem, AtInfinity):
        return run if run.status is Status.CONVERGED else None
    if run.limit is None or not run.status.at_infinity:
        return None
    there = run.limit.point
    return CriticalPoint(there.problem, there.params, run.record)


def _descending(edge: Edge, side: int) -> Edge:
    return replace(edge, kind="descends", side=side, loss=None)


def _ways(edge: Edge, problem: Problem, point: Point, verdict: Verdict) -> list[Way]:
    net = point.problem.net
    assert verdict.descent_direction is not None  # a strict saddle has one
    at, direction = net.flatten(point.params), net.flatten(verdict.descent_direction)
    return [
        Way(_descending(edge, side), problem, start)
        for side, start in ways_down(point.problem, at, direction)
    ]


def _in_turn(by_point: list[list[Way]]) -> list[Way]:
    """The first way of each point, then the second of each, and so on."""
    longest = max(map(len, by_point), default=0)
    return [ways[k] for k in range(longest) for ways in by_point if k < len(ways)]


def _embedding(member: Member, widening: Widening, hidden: Widths, verdict: Verdict) -> Edge:
    signs = verdict.inertia
    return Edge(
        kind="embeds",
        source=str(id(member)),
        target=None,
        hidden=hidden,
        how=widening.how,
        layer=widening.layer,
        unit=widening.unit,
        verdict=str(verdict.kind),
        inertia=None if signs is None else (signs[0], signs[1], signs[2]),
        curvature=verdict.curvature,
        loss=float(member.point.loss),
    )


def _record(member: Member, hidden: Widths) -> PointRecord:
    point, verdict, net = member.point, member.judged, member.point.problem.net
    limit = None
    if isinstance(point.problem, AtInfinity):
        assert isinstance(net, LimitMLP)
        forms = tuple(tuple(map(str, row)) for row in net.forms)
        limit = LimitRecord(forms, net.flatten(point.params), net.flatten(point.problem.far))
    signs = verdict.inertia
    return PointRecord(
        name=member.name,
        hidden=hidden,
        vector=net.flatten(point.params).clone(),
        limit=limit,
        loss=float(point.loss),
        gradient_norm=float(point.gradient_norm),
        kind=str(verdict.kind),
        certainty=str(verdict.certainty),
        reason=verdict.reason,
        inertia=None if signs is None else (signs[0], signs[1], signs[2]),
        function=member.function,
        new=member.new,
        trivial=member.trivial,
        found=member.found,
        origin=member.origin,
        evidence=point.record.evidence,
    )
