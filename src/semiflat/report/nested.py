"""The page of a hierarchy: the record, what is said about it, and the template."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semiflat.records.nested import EdgeRow, FunctionRow, NestedRecord, NestedRow, TrapRow, TreeRow
from semiflat.report import nested_charts as charts
from semiflat.report import words
from semiflat.report.each import Section, facts_of, neighbours, verdict_of
from semiflat.report.made_of import MadeOf
from semiflat.report.names import linker
from semiflat.report.nested_charts import fate, legend, widths
from semiflat.report.numbers import count, listed, loss
from semiflat.report.page import environment, scripts
from semiflat.report.proofs import proof_of

GALLERY = 12
"""Functions that are drawn side by side, lowest loss first; each is drawn at its points, too."""

WIDENINGS = {
    "inside": "one unit is copied; all copies share its outgoing weights evenly.",
    "outside": "one unit is copied; one copy takes 3⁄2 of its outgoing weights, the others −1⁄2 together.",
    "null units": "new units with zero incoming and zero outgoing weights.",
    "null gates": "at infinity: new units in the place of a gate, that nothing listens to.",
}


@dataclass(frozen=True)
class Nested:
    """What the page says of one point, beside its section.

    Attributes:
        section: see :class:`semiflat.report.each.Section`.
        what: its kind and index, as in the chart.
        wider: for each wider level, what it is there, in words.
        down: edges of ways down that begin there.
        up: where ways down that end there begin, in words.
        towards: how many random starts of which widths ran to infinity there.
        function: what it computes; None where that is not on the page.
        others: names of other points that compute it.
    """

    section: Section
    what: str
    wider: dict[str, str]
    down: list[EdgeRow]
    up: list[str]
    towards: list[str]
    function: FunctionRow | None
    others: list[str]

    @property
    def row(self) -> NestedRow:
        """Its record."""
        assert isinstance(self.section.row, NestedRow)
        return self.section.row


def render(record: NestedRecord) -> str:
    """The page as HTML; all text of the record is escaped."""
    return environment().get_template("nested.html.j2").render(_context(record))


def _context(record: NestedRecord) -> dict[str, Any]:
    every = list(_every(record))
    points = {each.row.name: each.row for each in every}
    chart = charts.levels_chart(record, {each.row.name: each.wider for each in every})
    trees = [
        (f"tree-{widths(tree.hidden)}", tree, charts.tree_chart(tree, points), list(_valleys(tree)))
        for tree in record.trees
    ]
    drawn = {key: spec for key, _, spec, _ in trees if spec is not None}
    if chart is not None:
        drawn |= {"overview": chart, "functions": charts.function_charts(record.places)}
    return {
        **scripts(drawn or None),
        "record": record,
        "title": f"Critical points of {count(len(record.levels), 'width')}, nested",
        "findings": list(_findings(record)),
        "every": every,
        "levels": record.levels,
        "traps": [(trap, stays(trap)) for trap in record.traps],
        "wider_levels": [widths(level.hidden) for level in record.levels[1:]],
        "trees": trees,
        "functions": record.functions,
        "gallery": record.functions[:GALLERY],
        "files": record.files,
        "linked": linker(points),
        "name_of": widths,
        "legend": legend,
        "kinds": words.KINDS,
        "widenings": WIDENINGS,
        "told": _told(record),
        "way": _way,
    }


# -- findings ---------------------------------------------------------------------------------------


def _findings(record: NestedRecord) -> Iterator[str]:
    if not record.points:
        yield "No critical point was found. More starts may find some."
        return
    yield f"Least width that does as well as the best known: {record.least_width}."
    total = sum(level.points for level in record.levels)
    kinds = [text for _, text in words.kinds_counted([p.kind for p in record.points])]
    at_infinity = sum(point.at_infinity is not None for point in record.points)
    far = f"; {at_infinity} of them at infinity" if at_infinity else ""
    shown = "" if total == len(record.points) else f" The {len(record.points)} on this page are:"
    yield (
        f"{count(total, 'critical point')} at width{'s' if len(record.levels) > 1 else ''} "
        f"{listed([widths(level.hidden) for level in record.levels])}"
        f"{'.' + shown if shown else ':'} {listed(kinds)}{far}."
    )
    new = [
        f"width {widths(level.hidden)}: {count(level.new_minima, 'minimum', 'minima')}, "
        f"{count(level.new_saddles, 'saddle')}, {level.new_at_infinity} at infinity"
        + (f" (unseen: about {level.unseen:.2g} or more)" if level.unseen else "")
        for level in record.levels
    ]
    yield f"New functions, which no narrower width has, by width. {'; '.join(new).capitalize()}."
    yield from _traps(record)
    if record.proved:
        yield f"{record.proved[0].upper()}{record.proved[1:]}."


def _traps(record: NestedRecord) -> Iterator[str]:
    if not record.traps:
        return
    lasting = [trap.point for trap in record.traps if trap.lasting]
    left = [
        trap.point
        for trap in record.traps
        if any(fate(there.values()) == "left" for there in trap.kinds.values())
    ]
    unsure = [trap.point for trap in record.traps if trap.point not in (*lasting, *left)]
    stay, stop = (
        f"{word}{'s' if len(of) < 2 else ''}" for word, of in (("stay", lasting), ("stop", left))
    )
    parts = [
        f"{len(lasting) or 'none'} {stay} one at every wider level{_some(lasting)}",
        f"{len(left) or 'none'} {stop} being one at some{_some(left)}",
    ]
    if unsure:
        parts.append(f"of {len(unsure)} it is undecided{_some(unsure)}")
    yield f"Of {count(len(record.traps), 'minimum', 'minima')} below the widest level, {listed(parts)}."


def stays(trap: TrapRow) -> str:
    """Where a minimum is still one, in words.

    >>> stays(TrapRow(kinds={"2": {"inside 0.0": "STRICT_SADDLE"}, "3": {"inside 0.0": "UNDECIDED"}}))
    'not at 2; not known at 3'
    """
    fates = {level: fate(there.values()) for level, there in trap.kinds.items()}
    if trap.lasting:
        return "at every wider one"
    named = {"stays": "at", "left": "not at", "open": "not known at"}
    return "; ".join(
        f"{words} {', '.join(levels)}"
        for end, words in named.items()
        if (levels := [level for level, own in fates.items() if own == end])
    )


def _some(names: Sequence[str], most: int = 6) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})"


# -- points -----------------------------------------------------------------------------------------


def _every(record: NestedRecord) -> Iterator[Nested]:
    names = [point.name for point in record.points]
    functions = {each.number: each for each in record.functions}
    embeds: dict[str, list[EdgeRow]] = {}
    down: dict[str, list[EdgeRow]] = {}
    up: dict[str, list[str]] = {}
    limits: dict[str, list[str]] = {}
    for edge in record.edges:
        if edge.kind == "embeds":
            embeds.setdefault(edge.source, []).append(edge)
        elif edge.kind == "descends":
            down.setdefault(edge.source, []).append(edge)
            how = "" if edge.how == "own" else f", {_way(edge)}"
            begun = f"from {edge.source}{how} (width {widths(edge.hidden)})"
            up.setdefault(edge.target or "", []).append(begun)
        elif edge.target is not None:
            of = f"{count(edge.times, 'random start')} of width {widths(edge.hidden)}"
            limits.setdefault(edge.target, []).append(of)
    computed: dict[int | None, list[str]] = {}
    for point in record.points:
        computed.setdefault(point.function, []).append(point.name)
    for k, point in enumerate(record.points):
        others = [name for name in computed[point.function] if name != point.name]
        towards = limits.get(point.name, [])
        before, after = neighbours(names, k)
        commands = []
        if record.files:
            file = f"{record.files}/{point.name}.safetensors"
            commands.append(("Open it, and judge it again:", f"semiflat judge {file}"))
        if proof := proof_of(point).file:
            commands.append(("Check its proof:", f"semiflat verify {proof}"))
        section = Section(
            point.name, point, point.loss, point.hidden, list(_what(point, others, towards)),
            verdict_of(point), facts_of(point), MadeOf(), commands, before=before, after=after,
        )  # fmt: skip
        yield Nested(
            section,
            legend(point),
            _wider(embeds.get(point.name, [])),
            down.get(point.name, []),
            list(dict.fromkeys(up.get(point.name, []))),
            towards,
            functions.get(point.function) if point.function is not None else None,
            others,
        )


def _what(point: NestedRow, others: Sequence[str], towards: Sequence[str]) -> Iterator[str]:
    where = " at infinity" if point.at_infinity is not None else ""
    found = (
        f"{count(point.found, 'random start')} ended there"
        if point.found
        else f"no random start ended there; first reached by a {point.origin}"
    )
    yield (
        f"A critical point{where} of the network with {widths(point.hidden)} hidden units, at loss "
        f"{loss(point.loss)}; {found}."
    )
    if point.at_infinity:
        forms = "; ".join(", ".join(layer) for layer in point.at_infinity)
        yield f"Its units stand there as: {forms}."
    if towards:
        yield f"Ran to infinity there: {listed(towards)}."
    if point.trivial:
        yield f"Note: {point.trivial}."
    new = ", which no narrower width has" if point.new else ""
    also = f"; {listed(others)} compute{'s' if len(others) == 1 else ''} it, too" if others else ""
    yield f"It computes critical function f{point.function}{new}{also}."


def _wider(edges: Sequence[EdgeRow]) -> dict[str, str]:
    """By wider level: which widenings make it what.

    >>> _wider([EdgeRow(hidden=[2], how="inside", layer=0, unit=0, verdict="MINIMUM")])
    {'2': 'minimum (unit 0.0 inside)'}
    """
    ways: dict[str, dict[str, list[str]]] = {}
    for edge in edges:
        at = ways.setdefault(widths(edge.hidden), {})
        at.setdefault(edge.verdict, []).append(_way(edge))
    return {
        level: "; ".join(
            f"{words.kind_words(kind).one} ({', '.join(there[kind])})"
            for kind, _ in words.kinds_counted(list(there))
        )
        for level, there in ways.items()
    }


def _way(edge: EdgeRow) -> str:
    """How a point was widened, in a few words."""
    if edge.unit is None:
        return edge.how
    return f"unit {edge.layer}.{edge.unit} {edge.how}"


# -- trees and functions ----------------------------------------------------------------------------


def _valleys(tree: TreeRow) -> Iterator[tuple[str, float, str, float | None, str]]:
    """Each valley, its loss, the lowest saddle that joins it, that one's loss, and what with."""
    for name, low in tree.valleys.items():
        first = next((p for p in tree.passes if any(name in side for side in p.sides)), None)
        if first is None:
            yield name, low, "", None, ""
            continue
        others = [other for side in first.sides if name not in side for other in side]
        yield name, low, first.saddle, first.loss, ", ".join(others)


def _told(record: NestedRecord) -> str:
    """Where functions are told, in a sentence."""
    places = record.places
    if places.kind == "line":
        beside = "; small circles are the targets" if places.beside else ""
        text = f"The line is the output over the input{beside}."
    elif places.kind == "map":
        text = "A square for each place, light where the output is large; dots are samples."
    elif places.what == "margin":
        text = "Each mark is a sample: its class across, its class’s output minus the largest other upwards."
    else:
        beside = "; on the line the two are equal" if places.beside else ""
        text = f"Each mark is a sample: its target across, the output upwards{beside}."
    if places.kind == "line" and any(each.on_data for each in record.functions):
        text += " Crosses: a function with a step at infinity, which is known at the samples alone."
    drawn = len(places.data or places.at)
    if drawn < places.total:
        text += f" {drawn} of {places.total} samples are drawn."
    if places.left_out:
        text += f" {count(places.left_out, 'further output')} of each function left out."
    known = {point.function for point in record.points}
    if len(record.functions) < len(known):
        text += f" The {len(record.functions)} lowest of {len(known)} functions are told."
    return text
