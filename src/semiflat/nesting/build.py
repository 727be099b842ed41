"""Level after level: random starts, descents from narrower saddles, and what all of them ended at."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from semiflat.jobs import Machines
from semiflat.limits import AtInfinity, LimitMLP
from semiflat.nesting.functions import same
from semiflat.nesting.judging import Judged, Nested, nested
from semiflat.nesting.record import Edge, Level, PointRecord, Widths, name_of, widths_name
from semiflat.nesting.ways import Widening, thinned, ways_down, widenings
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.reduction import reduce
from semiflat.search import CriticalPoint, SearchResult, Status, Unseen, run_search
from semiflat.search.distinct import classes
from semiflat.search.record import LimitRecord
from semiflat.search.trivial import EQUAL
from semiflat.verdicts import Kind, Verdict

MOST_DESCENTS = 512
"""Ways down that are followed at one level at most, the steepest of each point first."""
LIMITS_LEFT = 8
"""Points at infinity of a level, lowest first, whose saddles a level wider are left: each is a search."""
THINNED = 4
"""Points of a level, lowest first, that are tried one level narrower, with units left out."""
WAYS_THINNED = 32
"""Choices of units to leave out of one point."""
DESCENT_STEPS = 500
"""Steps of one descent, and of one start for points of any index."""

Progress = Callable[[str, int, int], None]
"""Called with what is done, in words, how much of it is, and how much there is."""


@dataclass(frozen=True)
class Way:
    """A way down from a saddle: whose it is, the edge that it will be, and where to minimise from."""

    source: Member
    edge: Edge
    problem: Problem
    start: Tensor


@dataclass(eq=False)
class Ended:
    """A run at a level, or several that ended at one point.

    Attributes:
        run: where it ended.
        origin: see :class:`PointRecord`.
        times: how many runs ended there.
        way: of a descent.
    """

    run: CriticalPoint
    origin: str
    times: int = 1
    way: Way | None = None


ORIGINS = ("random start", "constant", "descent", "wider point")
"""What may lead to a point first, in the order of what is said of one that several led to."""


@dataclass(eq=False)
class Member:
    """A critical point of a level while its level is built.

    Attributes:
        point: it, in the finite or in a limiting network.
        outputs: on the data, (N, M).
        ended: what ended there.
        function: number of its critical function.
        new: whether no narrower level has that function.
        trivial: see :attr:`semiflat.CriticalPoint.trivial`.
        nested: what it is at its own width and at wider ones.
        name: given when all levels are done.
    """

    point: CriticalPoint
    outputs: Tensor
    ended: list[Ended]
    function: int = -1
    new: bool = True
    trivial: str | None = None
    nested: Nested | None = None
    name: str = ""

    @property
    def limit(self) -> bool:
        """Whether it is a point of a limiting network."""
        return isinstance(self.point.problem, AtInfinity)

    @property
    def found(self) -> int:
        """How many random starts ended there."""
        return sum(each.times for each in self.ended if each.origin == ORIGINS[0])

    @property
    def origin(self) -> str:
        """What led there first."""
        return min((each.origin for each in self.ended), key=ORIGINS.index)

    @property
    def judged(self) -> Nested:
        """What it is, once that is known."""
        assert self.nested is not None
        return self.nested

    @property
    def verdict(self) -> Verdict:
        """On it at its own width."""
        return self.judged.own.verdict


class Rung:
    """One level while it is built.

    Attributes:
        members: its critical points.
        elsewhere: what ended at none of them: and the narrower point whose wide copy it ended at, if it did.
        lowest: the lowest loss that a run reached in the finite network.
    """

    def __init__(self, hidden: Widths, problem: Problem) -> None:
        self.hidden, self.problem = hidden, problem
        self.members: list[Member] = []
        self.elsewhere: list[tuple[Ended, Member | None]] = []
        self.left_out = 0
        self.followed = 0
        self.starts = (0, 0)
        self.counts: Counter[str] = Counter()
        self.unseen = Unseen.of([])
        self.lowest = math.inf


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
        self.machines = Machines.asked(search["processes"], search["dask"])
        self.rungs = [
            Rung(hidden, problem.with_net(problem.net.with_hidden(hidden))) for hidden in widths
        ]
        self.functions: list[Tensor] = []
        self.least: list[int] = []  # the level of each function
        self.edges: list[Edge] = []
        self.same_as: dict[Member, Member] = {}

    def run(self) -> None:
        """All levels."""
        for level, rung in enumerate(self.rungs):
            self._random_starts(level)
            if not level:
                self._constant(rung)
            if level:
                self._follow(level, self._embedded_saddles(level))
            self._follow(level, self._own_saddles(level))
            if level:
                self._thin(level)
            self._name(rung)
        for level in range(len(self.rungs)):
            self._name(self.rungs[level])  # points that wider levels found came later
            self._embed(level)
            self._limits(level)

    # -- runs -------------------------------------------------------------------------------------

    def _random_starts(self, level: int) -> None:
        rung = self.rungs[level]
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
            if kind == "minimum":
                rung.unseen = found.unseen
            self._settle(level, _random_ends(rung.problem, found))

    def _constant(self, rung: Rung) -> None:
        """The constant predictor, of the narrowest level: wider ones have it as one that is embedded."""
        zeros = torch.zeros(rung.problem.net.parameter_count, dtype=torch.float64)
        start = rung.problem.net.unflatten(zeros)
        found = self._polished(rung, start)
        self._settle(0, [Ended(run, "constant") for run in found])

    def _polished(self, rung: Rung, start: Params) -> list[CriticalPoint]:
        """The run to a critical point of any index from given parameters."""
        return run_search(rung.problem, start=start, kind="any", processes=1, out=self.store).runs

    def _follow(self, level: int, ways: list[Way]) -> None:
        """Minimise from each way's start, and put the ends in their places."""
        rung = self.rungs[level]
        kept = ways[:MOST_DESCENTS]
        rung.left_out += len(ways) - len(kept)
        rung.followed += len(kept)
        together: dict[int, list[Way]] = defaultdict(list)
        for way in kept:
            together[id(way.problem)].append(way)
        done, ends = 0, list[Ended]()
        for some in together.values():
            problem = some[0].problem
            ended = run_search(
                problem,
                start=problem.net.unflatten(torch.stack([way.start for way in some])),
                max_iterations=DESCENT_STEPS,
                out=self.store,
                **self.search,
            )
            if ended.interrupted:
                raise KeyboardInterrupt
            ends += [Ended(run, "descent", 1, some[-1 - run.record.start]) for run in ended.runs]
            done += len(some)
            self.progress(f"{widths_name(rung.hidden)} units, descents", done, len(kept))
        self._settle(level, ends)

    def _thin(self, level: int) -> None:
        """Minimise one level narrower from the lowest points here with units left out.

        What few random starts find there may be near what is found more easily here.
        """
        rung, below = self.rungs[level], self.rungs[level - 1]
        finite = sorted(
            (each for each in rung.members if not each.limit),
            key=lambda each: float(each.point.loss),
        )
        starts = [
            below.problem.net.flatten(fewer)
            for member in finite[:THINNED]
            for fewer in islice(
                thinned(rung.problem.net, member.point.params, below.hidden), WAYS_THINNED
            )
        ]
        if not starts:
            return
        found = run_search(
            below.problem,
            start=below.problem.net.unflatten(torch.stack(starts)),
            max_iterations=self.max_iterations,
            out=self.store,
            **self.search,
        )
        if found.interrupted:
            raise KeyboardInterrupt
        self.progress(f"{widths_name(below.hidden)} units, from wider", len(starts), len(starts))
        self._settle(level - 1, [Ended(run, "wider point") for run in found.runs])

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
            for edge, widening, judged in _widened(member, rung.hidden):
                kind = judged.verdict.kind
                moved = kind is Kind.NOT_CRITICAL and not rung.problem.outputs_alone
                if kind is not Kind.STRICT_SADDLE and not moved:
                    continue
                wide = widening.embedding(member.point)
                at = wide.problem.net.flatten(wide.params)
                if moved:  # by weight decay: the way down is the gradient's
                    ways.append(Way(member, _descending(edge, 0), rung.problem, at))
                else:
                    problem = wide.problem if member.limit else rung.problem
                    ways += _ways(member, edge, problem, at, judged)
            by_point.append(sorted(ways, key=lambda way: way.edge.curvature or 0.0))
        return _in_turn(by_point)

    def _own_saddles(self, level: int) -> list[Way]:
        rung = self.rungs[level]
        by_point = []
        for member in rung.members:
            if member.verdict.kind is not Kind.STRICT_SADDLE or member.limit:
                continue
            edge = Edge(
                kind="descends",
                source="",
                target=None,
                hidden=rung.hidden,
                how="own",
                curvature=member.verdict.curvature,
            )
            at = rung.problem.net.flatten(member.point.params)
            by_point.append(_ways(member, edge, rung.problem, at, member.judged.own))
        return _in_turn(by_point)

    # -- what runs ended at -----------------------------------------------------------------------

    def _settle(self, level: int, ended: Sequence[Ended]) -> None:
        """Put what has ended in its place: with a member of the level, as a new one, or elsewhere."""
        rung = self.rungs[level]
        finite_runs = [each.run for each in ended if not isinstance(each.run.problem, AtInfinity)]
        losses = [loss for run in finite_runs if math.isfinite(loss := float(run.loss))]
        rung.lowest = min([rung.lowest, *losses])
        of_run = {id(each.run): each for each in ended}
        known = {id(member.point): member for member in rung.members}
        finite = [member.point for member in rung.members if not member.limit]
        finite += [each.run for each in ended if _is_finite(each.run)]
        members: list[Member] = []
        for group in classes(sorted(finite, key=lambda run: run.loss)):
            points = group.runs + group.apart
            old = [known[id(point)] for point in points if id(point) in known]
            new = [of_run[id(point)] for point in points if id(point) in of_run]
            member = self._joined(old, new, points[0])
            narrower = None if old else self._narrower(level, member)
            if narrower is None:
                members.append(member)
            else:
                rung.elsewhere += [(each, narrower) for each in new]
        members += [member for member in rung.members if member.limit]
        for each in ended:
            there = _limit_point(each.run)
            if there is not None:
                self._at_infinity(members, each, there)
            elif not _is_finite(each.run):
                rung.elsewhere.append((each, None))
        for member in members:
            self._place(level, member)
        self._judge(level, [member for member in members if member.nested is None])
        rung.members = members

    def _judge(self, level: int, members: list[Member]) -> None:
        """Say what members of a level are, at their own width and at all wider ones."""
        wider = [rung.hidden for rung in self.rungs[level + 1 :]]
        words = f"{widths_name(self.rungs[level].hidden)} units, judged"
        tell = partial(self.progress, words)
        found = nested([member.point for member in members], wider, self.machines, tell)
        for member, each in zip(members, found, strict=True):
            member.nested = each

    def _joined(self, old: list[Member], new: list[Ended], point: CriticalPoint) -> Member:
        """The member that known ones and what has ended make together."""
        if not old:
            return Member(point, point.problem.outputs(point.params), new)
        kept, *others = old  # others: a run has shown that they are one
        for other in others:
            kept.ended += other.ended
            self.same_as[other] = kept
        kept.ended += new
        return kept

    def _at_infinity(self, members: list[Member], ended: Ended, there: CriticalPoint) -> None:
        """A point of a limiting network: one for each function."""
        limits = [member for member in members if member.limit]
        outputs = there.problem.outputs(there.params)
        place = same(self.problem, outputs, [member.outputs for member in limits])
        if place is None:
            members.append(Member(there, outputs, [ended]))
        else:
            limits[place].ended.append(ended)

    def _narrower(self, level: int, member: Member) -> Member | None:
        """The narrower point that this one is a wide copy of; one that was not known goes to its level."""
        member.trivial = member.point.trivial
        if member.trivial is None or not level:
            return None
        found = self._below(level, member.outputs)
        if found is not None:
            return found
        small = reduce(member.point, EQUAL).point
        for lower in range(level):
            rung = self.rungs[lower]
            if rung.hidden == small.problem.net.hidden:
                found_there = self._polished(rung, small.params)
                self._settle(lower, [Ended(run, "wider point") for run in found_there])
                return self._below(level, member.outputs)
        return None

    def _below(self, level: int, outputs: Tensor) -> Member | None:
        """The member of a narrower level that computes a function."""
        members = [member for rung in self.rungs[:level] for member in rung.members]
        place = same(self.problem, outputs, [member.outputs for member in members])
        return None if place is None else members[place]

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
        for wider in self.rungs[level + 1 :]:
            for member in rung.members:
                target = f"{member.name}@{widths_name(wider.hidden)}"
                self.edges += [
                    replace(edge, source=member.name, target=target)
                    for edge, _, _ in _widened(member, wider.hidden)
                ]
        here = [(each, member) for member in rung.members for each in member.ended]
        for ended, at in [*here, *rung.elsewhere]:
            if ended.way is not None:
                self.edges.append(self._descent(ended, ended.way, at, at not in rung.members))

    def _descent(self, ended: Ended, way: Way, target: Member | None, embedded: bool) -> Edge:
        there = _limit_point(ended.run)
        if target is not None:
            target = self._kept(target)
        return replace(
            way.edge,
            source=self._kept(way.source).name,
            target=None if target is None else target.name,
            loss=float(ended.run.loss if there is None else there.loss),
            status=str(ended.run.status),
            as_embedded=target is not None and embedded,
        )

    def _kept(self, member: Member) -> Member:
        """The member that stands for one that a later run showed to be the same."""
        while member in self.same_as:
            member = self.same_as[member]
        return member

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
        kinds = [member.verdict.kind for member in finite]
        mass = rung.unseen.missing_mass
        return Level(
            hidden=rung.hidden,
            starts=rung.starts,
            counts=dict(rung.counts),
            descents=(rung.followed, rung.left_out),
            narrower=sum(each.times for each, below in rung.elsewhere if below is not None),
            new_minima=sum(kind in (Kind.MINIMUM, Kind.STRICT_MINIMUM) for kind in kinds),
            new_saddles=sum(kind is Kind.STRICT_SADDLE for kind in kinds),
            new_at_infinity=len(new) - len(finite),
            unseen=rung.unseen.chao1,
            missing=None if math.isnan(mass) else mass,
            lowest=rung.lowest if math.isfinite(rung.lowest) else None,
        )


def _random_ends(problem: Problem, found: SearchResult) -> list[Ended]:
    """What random starts ended at: each critical point once, with how often, and all other runs."""
    ends = [
        Ended(point, ORIGINS[0], times)
        for point, times in zip(found.points, found.frequencies, strict=True)
    ]
    outputs = [problem.outputs(point.params) for point in found.points]
    for point in found.unresolved:  # one function is one point here
        place = same(problem, problem.outputs(point.params), outputs)
        if place is None:
            ends.append(Ended(point, ORIGINS[0]))
        else:
            ends[place].times += 1
    return ends + [Ended(run, ORIGINS[0]) for run in found.runs if not _is_finite(run)]


def _is_finite(run: CriticalPoint) -> bool:
    """Whether a run ended at a critical point of the finite network."""
    return run.status is Status.CONVERGED and not isinstance(run.problem, AtInfinity)


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


def _ways(source: Member, edge: Edge, problem: Problem, at: Tensor, judged: Judged) -> list[Way]:
    assert judged.down is not None  # a strict saddle has a direction
    return [
        Way(source, _descending(edge, side), problem, start)
        for side, start in ways_down(problem, at, judged.down)
    ]


def _in_turn(by_point: list[list[Way]]) -> list[Way]:
    """The first way of each point, then the second of each, and so on."""
    longest = max(map(len, by_point), default=0)
    return [ways[k] for k in range(longest) for ways in by_point if k < len(ways)]


def _widened(member: Member, hidden: Widths) -> list[tuple[Edge, Widening, Judged]]:
    """A member's embeddings into given widths, and what they are, as edges that have no names yet."""
    plan = widenings(member.point.problem.net, hidden)
    return [
        (_embedding(member, widening, hidden, judged.verdict), widening, judged)
        for widening, judged in zip(plan, member.judged.wide[hidden], strict=True)
    ]


def _embedding(member: Member, widening: Widening, hidden: Widths, verdict: Verdict) -> Edge:
    signs = verdict.inertia
    return Edge(
        kind="embeds",
        source="",
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
    point, verdict, net = member.point, member.verdict, member.point.problem.net
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
