"""The hierarchy of a problem's critical points, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from semiflat.certificates.certificate import Certificate, other_data
from semiflat.certificates.checker.arithmetic import need_arithmetic
from semiflat.errors import InputError, positive, whole
from semiflat.files import path_of, write_whole
from semiflat.induced import gradient_basis_model
from semiflat.jobs import is_database
from semiflat.nesting import proofs
from semiflat.nesting.functions import distances
from semiflat.nesting.proofs import Proved
from semiflat.nesting.record import Edge, Level, PointRecord, Widths, widths_name
from semiflat.nesting.valleys import MINIMA, Disconnectivity, disconnectivity
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.records.shown import Facts, Rows, Shown
from semiflat.verdicts import Kind


class HierarchyPoint(Point):
    """A critical point of a hierarchy: a point as any other, with its place there.

    Attributes:
        certificate: the proof of what it is, or why there is none; None until that is tried, see
            :meth:`Hierarchy.certify`.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> lowest = sf.hierarchy(problem, widths=[1], starts=8).points[0]
    >>> lowest.name, lowest.kind.label, lowest.record.found
    ('1-0', 'strict minimum', 9)
    """

    def __init__(
        self, problem: Problem, record: PointRecord, certificate: Certificate | None = None
    ) -> None:
        self.record, self.certificate = record, certificate
        if record.limit is None:
            super().__init__(problem, problem.net.unflatten(record.vector))
        else:
            there = record.limit.at(problem).point
            super().__init__(there.problem, there.params)

    @property
    def name(self) -> str:
        """Its widths and its place there, lowest loss first."""
        return self.record.name

    @property
    def kind(self) -> Kind:
        """What kind of point it is, of its own width."""
        return Kind(self.record.kind)

    @property
    def hidden(self) -> Widths:
        """Widths of the hidden layers."""
        return self.record.hidden

    def __repr__(self) -> str:
        where = " at infinity" if self.record.at_infinity else ""
        return (
            f"HierarchyPoint({self.name!r}, {self.kind.label}{where}, loss={self.record.loss:.10g})"
        )


@dataclass(frozen=True)
class CriticalFunction(Shown):
    """What critical points of one or several widths compute on the data.

    Attributes:
        number: of the function; 0, 1, … in the order found.
        outputs: on the data, (N, M).
        points: names of the points that compute it, narrowest first.
        hidden: the narrowest widths at which it was found.
        loss: without the penalty of weight decay.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> first = sf.hierarchy(problem, widths=[1], starts=8).critical_functions()[0]
    >>> first.points, tuple(first.outputs.shape)
    (('1-0',), (41, 1))
    """

    number: int
    outputs: Tensor
    points: tuple[str, ...]
    hidden: Widths
    loss: float

    def __repr__(self) -> str:
        widths = "-".join(map(str, self.hidden))
        return f"CriticalFunction({self.number}, width {widths}, loss={self.loss:.10g})"


@dataclass(frozen=True)
class Trap(Shown):
    """What a minimum is at its own width and at wider ones.

    Attributes:
        point: name of the minimum.
        loss: there.
        kinds: for each wider level, what the point is there, by how it was widened.
        stays: widths at which it is still a minimum, however few of its widenings are.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> trap = sf.hierarchy(problem, widths=[1, 2], starts=8).traps()[0]
    >>> trap.point, trap.stays, trap.kinds[(2,)]["outside 0.0"].label
    ('1-0', (), 'strict saddle')
    """

    point: str
    loss: float
    kinds: dict[Widths, dict[str, Kind]]
    stays: tuple[Widths, ...]

    def _facts(self) -> Facts:
        kinds = {widths_name(widths): there for widths, there in self.kinds.items()}
        return super()._facts() | {"kinds": kinds, "lasting": self.lasting}

    @property
    def lasting(self) -> bool:
        """Whether it stays a minimum at every wider level."""
        return len(self.stays) == len(self.kinds)


@dataclass(frozen=True)
class LeastWidth(Shown):
    """The narrowest widths that do as well as the best known.

    Attributes:
        hidden: they.
        loss: the best there, of a critical point or of a run that ended at none.
        best: the best loss known at any level.
        allowed: the loss up to which a width does as well.
        held_out: loss of the best of each level on the data held out, if there were some.
        unseen: for each narrower level, the estimated chance that one more start would have found a point
            not seen; None where nothing is known of it.
        reason: the answer with its error, in one sentence.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1, 2], starts=4, saddle_starts=0, processes=1)
    >>> answer = h.least_width(1e-2)
    >>> answer.hidden, answer.loss <= answer.allowed, answer.unseen
    ((1,), True, {})
    """

    hidden: Widths
    loss: float
    best: float
    allowed: float
    held_out: dict[Widths, float]
    unseen: dict[Widths, float | None]
    reason: str

    def _facts(self) -> Facts:
        named = {name: getattr(self, name) for name in ("held_out", "unseen")}
        plain = {k: {widths_name(w): v for w, v in each.items()} for k, each in named.items()}
        return super()._facts() | plain

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class Induced(Shown):
    """The gradient basis model at the best point of a level (K19 §3.2).

    Attributes:
        point: its name.
        hidden: widths of the level.
        parameters: of the network.
        loss: of the data there.
        infimum: of the model, whose features are the network's derivatives there.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> (row,) = sf.hierarchy(problem, widths=[1], starts=8).induced()
    >>> row.parameters, 0 <= row.loss - row.infimum < 1e-12       # critical, so no better than the model
    (4, True)
    """

    point: str
    hidden: Widths
    parameters: int
    loss: float
    infimum: float


class Hierarchy(Rows):
    """Critical points of several widths, and how they nest.

    Attributes:
        problem: data and loss; its network's hidden widths are those of the first level.
        points: critical points, level by level, lowest loss first; those at infinity behind the others.
        edges: between them, see :class:`semiflat.nesting.record.Edge`.
        levels: what was done at each width.
        selection: which of the points these are, in words; ``""`` for all, see :func:`semiflat.load_hierarchy`.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1, 2], starts=8)
    >>> h
    Hierarchy(widths=[[1], [2]], points=..., functions=..., edges=...)
    >>> h["1-0"].loss == min(point.loss for point in h.at(1))
    True
    """

    def __init__(
        self,
        problem: Problem,
        records: Sequence[PointRecord],
        edges: Sequence[Edge],
        levels: Sequence[Level],
        *,
        certificates: Sequence[Certificate | None] | None = None,
        selection: str = "",
    ) -> None:
        self.problem, self.selection = problem, selection
        self.edges, self.levels = list(edges), list(levels)
        problems = {
            level.hidden: problem.with_net(problem.net.with_hidden(level.hidden))
            for level in levels
        }
        self.points = [
            HierarchyPoint(problems[record.hidden], record, certificate)
            for record, certificate in zip(
                records, certificates or [None] * len(records), strict=True
            )
        ]
        self._named = {point.name: point for point in self.points}

    # -- its parts --------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> HierarchyPoint:
        """The point of that name."""
        if name not in self._named:
            raise InputError(
                f"there is no point {name!r}; names are {', '.join(list(self._named)[:6])}, …"
            )
        return self._named[name]

    def __iter__(self) -> Iterator[HierarchyPoint]:
        """The points."""
        return iter(self.points)

    def __len__(self) -> int:
        """How many points there are."""
        return len(self.points)

    def at(self, hidden: int | Sequence[int]) -> list[HierarchyPoint]:
        """The points of one level, lowest loss first whatever their kind."""
        widths = (hidden,) if isinstance(hidden, int) else tuple(hidden)
        if widths not in [level.hidden for level in self.levels]:
            raise InputError(
                f"there is no level of widths {list(widths)}; there are "
                f"{[list(level.hidden) for level in self.levels]}"
            )
        return sorted(
            (point for point in self.points if point.hidden == widths),
            key=lambda point: point.record.loss,
        )

    def edges_of(self, name: str, kind: str | None = None) -> list[Edge]:
        """The edges that leave a point, of one kind or of all."""
        self[name]
        return [edge for edge in self._leaving.get(name, []) if kind in (None, edge.kind)]

    @cached_property
    def _leaving(self) -> dict[str, list[Edge]]:
        """The edges by their sources."""
        found: dict[str, list[Edge]] = {}
        for edge in self.edges:
            found.setdefault(edge.source, []).append(edge)
        return found

    # -- what it answers --------------------------------------------------------------------------

    @cached_property
    def _functions(self) -> list[CriticalFunction]:
        found: dict[int, list[HierarchyPoint]] = {}
        for point in self.points:
            found.setdefault(point.record.function, []).append(point)
        functions = []
        for number, (first, *others) in sorted(found.items()):
            outputs = first.problem.outputs(first.params)
            loss = first.record.loss - float(first.problem.penalty(first.params))
            names = tuple(point.name for point in (first, *others))
            functions.append(CriticalFunction(number, outputs, names, first.hidden, loss))
        return functions

    def critical_functions(self) -> list[CriticalFunction]:
        """What the points compute on the data, each function once, in the order found."""
        return list(self._functions)

    def distances(self, outputs: Tensor) -> Tensor:
        """How far a function lies from each critical function on the data, (K,).

        Args:
            outputs: on the data, (N, M).

        The root mean square of the difference, in parts of the targets' spread (of 1, where outputs are
        logarithms of odds).
        """
        expected = (self.problem.samples, self.problem.net.outputs)
        if tuple(outputs.shape) != expected:
            raise InputError(
                f"outputs have shape {tuple(outputs.shape)}; expected {expected}, a row for each sample"
            )
        return distances(self.problem, outputs, [each.outputs for each in self._functions])

    def traps(self) -> list[Trap]:
        """Every minimum below the widest level, and which of them stay minima in wider networks.

        In the order of the points. The kinds are those of the embedded points by the inertia law.
        """
        found = []
        for point in self.points:
            edges = self.edges_of(point.name, "embeds")
            if point.kind not in MINIMA or not edges:
                continue
            kinds: dict[Widths, dict[str, Kind]] = {}
            for edge in edges:
                unit = "" if edge.unit is None else f" {edge.layer}.{edge.unit}"
                kinds.setdefault(edge.hidden, {})[edge.how + unit] = Kind(edge.verdict)
            stays = tuple(
                widths
                for widths, there in kinds.items()
                if any(kind in MINIMA for kind in there.values())
            )
            found.append(Trap(point.name, point.record.loss, kinds, stays))
        return found

    def disconnectivity(self, hidden: int | Sequence[int]) -> Disconnectivity:
        """The minima of one level, joined at the lowest saddles whose ways down lead to both.

        Valleys are the minima of the level, points at infinity that are no saddles, and narrower points that
        are minima there when they are widened: all wide copies of one count as one valley. A saddle joins what
        its ways down end at. A point with one unit replicated is one saddle for all shares, inside [0, 1] and
        outside: without weight decay the loss is constant on the line of shares that sum to 1. So where it is
        a minimum inside and a saddle outside, the way out of that minimum is level.

        A way down is a line search and a minimiser's run. It may step over a ridge; so what is joined has not
        been proved to be joined below the saddle's loss. A lower saddle may have been missed.

        Raises:
            InputError: if there is no such level.
        """
        self.at(hidden)
        return disconnectivity(self, (hidden,) if isinstance(hidden, int) else tuple(hidden))

    def induced(self) -> list[Induced]:
        """What each level's best point is held against: the infimum of its gradient basis model (K19).

        At a critical point of a network that is linear in its last layer the two are equal (K19 Thm 1): so
        widths side by side show what each architecture's model can do where its best training ends, the
        effect of the model's design. Points at infinity are left out.
        """
        rows = []
        for level in self.levels:
            own = [point for point in self.at(level.hidden) if not point.record.at_infinity]
            if own:
                model = gradient_basis_model(own[0])
                rows.append(
                    Induced(
                        own[0].name,
                        level.hidden,
                        own[0].problem.net.parameter_count,
                        model.loss,
                        model.infimum,
                    )
                )
        return rows

    def least_width(self, tolerance: float = 1e-3, *, X: Any = None, y: Any = None) -> LeastWidth:
        """The narrowest level that does as well as the best known, up to a tolerance.

        What a level does is the loss of its best critical point, or of a run that got lower without ending at
        one: where the lowest losses are reached far out, or along a valley too flat to follow to its end, the
        run is a network of that width all the same.

        Args:
            tolerance: in parts of the loss of the best constant: of half the targets' variance, for the squared
                loss.
            X: data held out; the best critical point of each level is evaluated there, too.
            y: its targets.

        A search may have missed a better point at a narrower width; the answer says with what chance one
        more start would have found one it had not seen.

        Raises:
            InputError: if no level has a minimum, or only some of the points were loaded.
        """
        tolerance = positive("tolerance", tolerance)
        if self.selection:
            raise InputError(
                f"the least width cannot be told from some of the points ({self.selection}); load all of them"
            )
        best = {level.hidden: self._best(level.hidden) for level in self.levels}
        losses = {hidden: self._reached(hidden, point) for hidden, point in best.items()}
        lowest = min(losses.values(), default=math.inf)
        if lowest == math.inf:
            raise InputError("no level has a minimum; search with more starts")
        allowed = lowest + tolerance * self._scale
        hidden, loss = next((each, loss) for each, loss in losses.items() if loss <= allowed)
        held_out: dict[Widths, float] = {}
        if X is not None:
            for widths, each in best.items():
                if each is None or each.record.at_infinity:
                    continue
                other = Problem(each.problem.net, X, y, self.problem.loss)
                held_out[widths] = float(other.risk(each.params))
        missing = {level.hidden: level.missing for level in self.levels}
        before = [each for each in best if each != hidden][: list(best).index(hidden)]
        unseen = {each: missing[each] for each in before}
        words = "no narrower level was searched"
        if before:
            chances = ", ".join(
                "unknown" if unseen[each] is None else f"{100 * (unseen[each] or 0):.3g} %"
                for each in before
            )
            words = (
                "narrower levels may have a better point not seen: the chance that one more start finds a new "
                f"one is {chances} (Good–Turing)"
            )
        return LeastWidth(
            hidden,
            loss,
            lowest,
            allowed,
            held_out,
            unseen,
            f"width {'-'.join(map(str, hidden))}: its best loss {loss:.6g} is no more than "
            f"{tolerance:g} × {self._scale:.3g} (the loss of the best constant) above the best known, "
            f"{lowest:.6g}; {words}",
        )

    @cached_property
    def _scale(self) -> float:
        """What losses are parts of: that of the best constant outputs."""
        problem = self.problem
        constant = [
            point for point in self.points if (point.record.trivial or "").startswith("constant")
        ]
        if constant:
            return constant[0].record.loss
        return float(problem.spread(problem.y.double()).square().sum()) / 2

    def _reached(self, hidden: Widths, best: HierarchyPoint | None) -> float:
        """The lowest loss known of a level, narrower ones embedded there counted in."""
        runs = [
            level.lowest
            for level in self.levels
            if level.lowest is not None and _within(level.hidden, hidden)
        ]
        return min([*runs, math.inf if best is None else best.record.loss])

    def _best(self, hidden: Widths) -> HierarchyPoint | None:
        """The lowest point of a level, narrower ones embedded there counted in."""
        own = [point for point in self.points if _within(point.hidden, hidden)]
        return min(own, key=lambda point: point.record.loss, default=None)

    # -- proofs -----------------------------------------------------------------------------------

    def certify(self, *, seconds: float | None = None, progress: bool = False) -> Proved:
        """Prove what the points are, and which of them are distinct; each gets its ``certificate``.

        The lowest of each level come first. Points that have a certificate keep it, so that a call that ran out
        of time can be made again. :meth:`save` keeps the certificates, :meth:`save_certificates` writes them
        as files. Points at infinity have no proofs; flat and degenerate ones stay undecided, mostly.

        Args:
            seconds: no proof is begun after so many; None for all points.
            progress: True shows a bar, in a terminal or a notebook.

        Raises:
            InputError: without python-flint.
        """
        need_arithmetic()
        seconds = None if seconds is None else positive("seconds", seconds)
        proofs.prove(list(self._by_level.values()), seconds, progress)
        return self.proved

    @property
    def proved(self) -> Proved:
        """What is proved so far."""
        return proofs.proved(self._by_level)

    def save_certificates(self, folder: str | Path) -> list[Path]:
        """Write the certificates as files under the points' names, and one of their data beside them.

        ``semiflat verify`` and :func:`semiflat.verify` prove them again, and with ``--distinct`` that the
        points are distinct. Files of these names are replaced.

        Returns:
            The certificates' files.

        Raises:
            InputError: if they cannot be written, or the folder holds the data of other certificates.
        """
        folder = path_of(folder)
        content = proofs.files(self.points, folder)
        data = folder / proofs.DATA
        if data in content and data.exists() and data.read_bytes() != content[data]:
            raise other_data(data)
        for file, own in content.items():
            write_whole(file, own)
        return [file for file in content if file != data]

    @property
    def _by_level(self) -> dict[Widths, list[HierarchyPoint]]:
        return {level.hidden: self.at(level.hidden) for level in self.levels}

    # -- other forms ------------------------------------------------------------------------------

    def save(self, store: str | Path) -> None:
        """Write it to a database, in the place of what that holds of a hierarchy of the same problem.

        :func:`semiflat.load_hierarchy` reads it.

        Args:
            store: a file ending in ``.db`` or ``.sqlite``, or a URL, ``postgresql://user@host/database``.

        Raises:
            InputError: if the store cannot be used or holds another problem's hierarchy; for some of the
                points alone.
        """
        from semiflat.nesting.store import write

        if self.selection:
            raise InputError(
                f"these are some of a hierarchy's points ({self.selection}); load all of them to save them"
            )
        records = [point.record for point in self.points]
        certificates = [point.certificate for point in self.points]
        write(check_store(store), self.problem, records, self.edges, self.levels, certificates)

    def _facts(self) -> Facts:
        facts: Facts = {
            "widths": [list(level.hidden) for level in self.levels],
            "points": len(self.points),
            "functions": len(self._functions),
            "edges": len(self.edges),
        }
        return facts | ({"selection": self.selection} if self.selection else {})

    def _rows(self) -> list[Facts]:
        hide = ("vector", "limit")
        return [
            {key: value for key, value in vars(point.record).items() if key not in hide}
            | {"at_infinity": point.record.at_infinity, "index": point.record.index}
            | _proof(point.certificate)
            for point in self.points
        ]

    def to_json(self) -> Any:
        """As plain data: points, edges and levels."""
        return super().to_json() | {
            "edges": [edge.to_json() for edge in self.edges],
            "levels": [level.to_json() for level in self.levels],
        }

    def page_record(
        self,
        *,
        tolerance: float = 1e-3,
        lowest: int | None = None,
        files: str = "",
        certificates: bool = False,
        command: str = "",
    ) -> dict[str, Any]:
        """All that its page shows, as plain data: :func:`semiflat.report.write_hierarchy_page` writes the page.

        Args:
            tolerance: of :meth:`least_width`.
            lowest: so many points of each level at most, lowest loss first; by default 300, or as many as
                fit into a page of 3 MB.
            files: the folder in which points lie under their names, as ``.safetensors``, seen from the page.
            certificates: whether they lie in a folder of that name beside the page, see
                :meth:`save_certificates`.
            command: that makes the hierarchy, as it is typed.
        """
        from semiflat.nesting.page import page_record

        if lowest is not None:
            whole("lowest", lowest, 1)
        return page_record(
            self, positive("tolerance", tolerance), lowest, files, certificates, command
        )

    def plot(self, *, ax: Any = None) -> Any:
        """Draw the levels as columns, with a mark for each point at its loss.

        Marks tell kinds, and are larger where more random starts ended. A horizontal line leads from a point
        to the columns in which it is embedded: same function, same loss; its end is open where no widening
        that was tried is known to be a minimum. Thin lines fall from saddles to what they descend to. To see:
        which minima are left behind one unit wider, and where the ways down lead.

        Args:
            ax: matplotlib axes to draw on; by default new ones.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib, or where there is no point.
        """
        from semiflat.nesting.picture import draw

        if not self.points:
            raise InputError(
                "there is nothing to draw: no point was found; search with more starts"
            )
        return draw(self, ax)

    def to_networkx(self) -> Any:
        """A ``networkx.MultiDiGraph`` with a node for each point and each embedded point, and the edges.

        Nodes carry ``loss``, ``kind``, ``hidden``, ``function``; edges all of their fields.
        """
        import networkx

        graph = networkx.MultiDiGraph()
        for point in self.points:
            record = point.record
            graph.add_node(
                point.name,
                loss=record.loss,
                kind=record.kind,
                hidden=record.hidden,
                function=record.function,
                embedded=False,
            )
        for edge in self.edges:
            if edge.kind == "embeds" and edge.target is not None:
                function = self[edge.source].record.function
                graph.add_node(
                    edge.target,
                    loss=edge.loss,
                    hidden=edge.hidden,
                    function=function,
                    embedded=True,
                )
            if edge.target is not None and edge.source:
                graph.add_edge(edge.source, edge.target, **vars(edge))
        return graph


def _proof(certificate: Certificate | None) -> Facts:
    """What a table says of a proof."""
    if certificate is None:
        return {"proof": None, "proved_kind": None}
    return {"proof": certificate.status, "proved_kind": certificate.kind}


def check_store(store: Any) -> str | Path:
    """``store`` if it is a database.

    Raises:
        InputError: if it is none.
    """
    if not isinstance(store, str | Path) or not is_database(store):
        raise InputError(
            f"store must be a file ending in .db or .sqlite, or the URL of a database, not {store!r:.80}"
        )
    return store


def _within(narrow: Widths, wide: Widths) -> bool:
    """Whether networks of some widths can be embedded in those of others."""
    return all(a <= b for a, b in zip(narrow, wide, strict=True))
