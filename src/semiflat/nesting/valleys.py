"""Disconnectivity graphs: minima of one width, joined at the lowest saddles whose ways down lead to both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from semiflat.nesting.record import Edge, Widths, widths_name
from semiflat.records.shown import Facts, Shown
from semiflat.verdicts import Kind

if TYPE_CHECKING:
    from semiflat.nesting.result import Hierarchy

_Key = tuple[str, str, int | None, int | None]
MINIMA = (Kind.MINIMUM, Kind.STRICT_MINIMUM)


@dataclass(frozen=True)
class Pass(Shown):
    """A saddle at which valleys become one, seen from below.

    Attributes:
        saddle: its name; of an embedded point with its widths, ``"1-0@2"``.
        loss: there.
        sides: the valleys that it joins, as names of those that are one already below it.

    >>> import semiflat as sf
    >>> sf.Pass("2-1", 0.5, (("2-0",), ("2-i0",)))
    Pass(saddle='2-1', loss=0.5, sides=(('2-0',), ('2-i0',)))
    """

    saddle: str
    loss: float
    sides: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Disconnectivity(Shown):
    """The valleys of one width, and the passes between them (Becker and Karplus 1997).

    Attributes:
        hidden: widths of the level.
        valleys: loss of each: minima, points at infinity, wide copies of narrower ones, ``"1-0@2"``; lowest
            first.
        passes: lowest first.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> tree = sf.hierarchy(problem, widths=[1, 2], starts=8).disconnectivity(2)
    >>> [tuple(tree.valleys)[0] in side for side in tree.passes[0].sides].count(True) <= 1
    True
    """

    hidden: Widths
    valleys: dict[str, float]
    passes: tuple[Pass, ...]

    def _facts(self) -> Facts:
        return super()._facts() | {"alone": list(self.alone)}

    @property
    def alone(self) -> tuple[str, ...]:
        """Valleys that no known saddle joins to another."""
        joined = {name for each in self.passes for side in each.sides for name in side}
        return tuple(name for name in self.valleys if name not in joined)


def disconnectivity(hierarchy: Hierarchy, hidden: Widths) -> Disconnectivity:
    """See :meth:`semiflat.Hierarchy.disconnectivity`."""
    valleys = _valleys(hierarchy, hidden)
    saddles: dict[_Key, list[str]] = {}
    for edge in hierarchy.edges:
        # Without a side a descent began where the gradient is not zero: at no saddle.
        if edge.kind != "descends" or edge.hidden != hidden or edge.target is None or not edge.side:
            continue
        if hierarchy[edge.target].kind is not Kind.STRICT_SADDLE:
            valleys.setdefault(_end(edge), hierarchy[edge.target].record.loss)
        saddles.setdefault(_key(hierarchy, edge), []).append(_end(edge))
    for edge in hierarchy.edges:
        level = edge.kind == "embeds" and edge.hidden == hidden
        if level and _key(hierarchy, edge) in saddles and Kind(edge.verdict) in MINIMA:
            saddles[_key(hierarchy, edge)].append(_copy(edge.source, hidden))
    leads: dict[str, str] = {}

    def top(name: str) -> str:
        while name in leads:
            name = leads[name]
        return name

    below: dict[str, tuple[str, ...]] = {name: (name,) for name in valleys}
    passes = []
    by_loss = sorted(saddles.items(), key=lambda item: hierarchy[item[0][0]].record.loss)
    for (source, how, _, _), ends in by_loss:
        own = source if how == "own" else _copy(source, hidden)
        parts = list(dict.fromkeys(map(top, ends)))
        sides = tuple(below[part] for part in parts if part in below)
        if len(sides) > 1:
            passes.append(Pass(own, hierarchy[source].record.loss, sides))
        if how == "own":
            parts = list(dict.fromkeys([*parts, top(own)]))
        first, *others = parts
        for other in others:
            leads[other] = first
        together = tuple(name for part in parts for name in below.pop(part, ()))
        if together:
            below[first] = together
    ordered = dict(sorted(valleys.items(), key=lambda item: item[1]))
    return Disconnectivity(hidden, ordered, tuple(passes))


def _key(hierarchy: Hierarchy, edge: Edge) -> _Key:
    """Which connected set of one loss a saddle lies in, as far as is known.

    Copies of one unit with any shares that sum to 1 compute the same function: without weight decay those
    inside and outside [0, 1] lie on a line of constant loss.
    """
    copies = edge.how in ("inside", "outside") and hierarchy.problem.outputs_alone
    return edge.source, "copies" if copies else edge.how, edge.layer, edge.unit


def _valleys(hierarchy: Hierarchy, hidden: Widths) -> dict[str, float]:
    """Minima and points at infinity of a level, and narrower points with a wide copy that is a minimum."""
    found = {}
    for point in hierarchy.points:
        record = point.record
        ends_there = record.at_infinity and point.kind is not Kind.STRICT_SADDLE
        if point.hidden == hidden and (point.kind in MINIMA or ends_there):
            found[point.name] = record.loss
    for edge in hierarchy.edges:
        if edge.kind == "embeds" and edge.hidden == hidden and Kind(edge.verdict) in MINIMA:
            found[_copy(edge.source, hidden)] = hierarchy[edge.source].record.loss
    return found


def _end(edge: Edge) -> str:
    assert edge.target is not None
    return _copy(edge.target, edge.hidden) if edge.as_embedded else edge.target


def _copy(name: str, hidden: Widths) -> str:
    return f"{name}@{widths_name(hidden)}"
