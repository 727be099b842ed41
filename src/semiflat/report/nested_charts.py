"""The charts of a hierarchy: loss against width, what saddles join at each width, and critical functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semiflat.records.nested import EdgeRow, NestedRecord, NestedRow, PlacesRecord, TreeRow
from semiflat.report.charts import (
    CONFIG,
    POINT,
    Look,
    by_family,
    encoded,
    family,
    frame,
    lines,
    loss_axis,
)
from semiflat.report.numbers import loss
from semiflat.report.words import MINIMA, kind_words

LOOKS: dict[str, Look] = {
    "strict minimum": ("circle", "var(--minimum)", "var(--minimum)"),
    "minimum": ("circle", "var(--paper)", "var(--minimum)"),
    "minimum at infinity": ("diamond", "var(--minimum)", "var(--minimum)"),
    "strict saddle, index 1": ("triangle-down", "var(--saddle)", "var(--saddle)"),
    "strict saddle, index 2": ("triangle-down", "var(--paper)", "var(--saddle)"),
    "strict saddle, higher index": ("triangle-up", "var(--paper)", "var(--saddle)"),
    "strict saddle": ("triangle-left", "var(--saddle)", "var(--saddle)"),
    "strict saddle at infinity": ("triangle-right", "var(--paper)", "var(--saddle)"),
    "undecided at infinity": ("diamond", "var(--paper)", "var(--ink)"),
    "undecided": ("cross", "var(--paper)", "var(--ink)"),
    "wide copy of a narrower point": ("square", "var(--paper)", "var(--soft)"),
}
"""By kind and index; no two have the same shape and the same fill."""
COPY = "wide copy of a narrower point"
ENDS = {"stays": "M0,-1V1", "open": "cross", "left": "circle"}
"""Ends of a level line: a widening is a minimum there; none is known to be, but some are undecided; none is."""

_GATE, _SPREAD = -0.44, 0.7
"""Where level lines end, left of a column's points; and how much of a column's room the points take."""
_LEAST = 1e-15
"""Of the largest loss: what is less is an exact fit, and drawn there."""
_FEW = 24
"""Valleys that have their names written below them."""
_HIDDEN = "!shown || indexof(shown, datum.name) >= 0"


def widths(hidden: Sequence[int]) -> str:
    """Widths of hidden layers, as in names of points."""
    return "x".join(map(str, hidden))


def legend(point: NestedRow) -> str:
    """The key of a point's look."""
    at_infinity = point.at_infinity is not None
    if point.kind in MINIMA:
        return "minimum at infinity" if at_infinity else kind_words(point.kind).one
    if kind_words(point.kind).one != "strict saddle":
        return "undecided at infinity" if at_infinity else "undecided"
    if at_infinity:
        return "strict saddle at infinity"
    named = {None: "", 1: ", index 1", 2: ", index 2"}
    return f"strict saddle{named.get(point.index, ', higher index')}"


def fate(kinds: Iterable[str]) -> str:
    """What becomes of a minimum in wider networks, by the kinds of its widenings: a key of :data:`ENDS`.

    >>> fate(["STRICT_SADDLE", "MINIMUM"]), fate(["STRICT_SADDLE", "UNDECIDED"]), fate(["STRICT_SADDLE"])
    ('stays', 'open', 'left')
    """
    kinds = list(kinds)
    if any(kind in MINIMA for kind in kinds):
        return "stays"
    known = ("STRICT_SADDLE", "NOT_CRITICAL")
    return "left" if all(kind in known for kind in kinds) else "open"


@dataclass(frozen=True)
class Height:
    """Losses as they are drawn: on a logarithmic axis an exact fit stands at the bottom."""

    floor: float

    @classmethod
    def of(cls, losses: Iterable[float]) -> Height:
        """Of all losses of a chart."""
        every = list(losses)
        highest = max(every, default=1.0)
        if highest <= 0 or min(every) > _LEAST * highest:
            return cls(-float("inf"))
        above = [value for value in every if value > _LEAST * highest]
        return cls(max(_LEAST * highest, min(above) / 10))

    def __call__(self, value: float) -> float:
        return max(value, self.floor)


def levels_chart(
    record: NestedRecord, embedded: Mapping[str, Mapping[str, str]]
) -> dict[str, Any] | None:
    """Widths across, loss upwards; None without a point.

    Args:
        embedded: for each point and each wider level, what it is there, in words.
    """
    points = [point for point in record.points if point.loss is not None]
    if not points:
        return None
    height = Height.of(point.loss for point in points if point.loss is not None)
    columns = {widths(level.hidden): k for k, level in enumerate(record.levels)}
    at = _places(points, columns)
    known = {point.name: point for point in points}
    most = max(1, *(point.found for point in points))
    marks = []
    for point in points:
        what = legend(point)
        found = f"{point.found} random starts" if point.found else point.origin
        marks.append(
            {
                "name": point.name,
                "kind": what,
                "x": at[point.name],
                "loss": height(point.loss or 0.0),
                "text": loss(point.loss),
                "size": round(30 + 230 * (point.found / most) ** 0.5),
                "found": found,
                "signs": " / ".join(map(str, point.inertia or ())) or "–",
                "function": str(point.function),
                "about": f"{point.name}, {what}, loss {loss(point.loss)}",
            }
        )
    ends, level_lines = _embeddings(record, known, at, columns, embedded, height)
    falls = list(_falls(record.edges, known, at, columns, height))
    looks = {kind: look for kind, look in LOOKS.items() if any(m["kind"] == kind for m in marks)}
    x = {
        "field": "x",
        "type": "quantitative",
        "title": "hidden units",
        "scale": {"domain": [-0.5, len(columns) - 0.5], "nice": False},
        "axis": {
            "values": list(columns.values()),
            "labelExpr": f"{list(columns)!r}[datum.value]",
            "grid": False,
            "domain": False,
            "tickSize": 0,
        },
    }
    y = loss_axis([mark["loss"] for mark in marks])
    y["scale"] |= {"domain": _domain(y["scale"], [mark["loss"] for mark in marks])}
    end_marks = [
        {
            "data": {"values": own},
            "transform": [{"filter": _HIDDEN}],
            "name": f"ends_{end}",
            "mark": POINT
            | {"size": 26, "shape": shape, "fill": "var(--paper)", "stroke": "var(--ink)"},
            "encoding": {
                "opacity": by_family(1, 0.12),
                "description": {"field": "about"},
                "tooltip": [
                    {"field": "name", "title": "title"},
                    {"field": "there", "title": "embedded"},
                    {"field": "text", "title": "loss"},
                ],
            },
        }
        for end, shape in ENDS.items()
        if (own := [each for each in ends if each["end"] == end])
    ]
    mark_layer = {
        "data": {"values": marks},
        "transform": [{"filter": _HIDDEN}],
        "name": "points",
        "params": [family("name")],
        "mark": POINT,
        "encoding": {
            "opacity": by_family(1, 0.2),
            "description": {"field": "about"},
            "size": {"field": "size", "type": "quantitative", "scale": None},
            "shape": encoded(looks, 0),
            "fill": encoded(looks, 1),
            "stroke": encoded(looks, 2),
            "tooltip": [
                {"field": "name", "title": "title"},
                {"field": "kind", "title": "kind"},
                {"field": "text", "title": "loss"},
                {"field": "signs", "title": "inertia"},
                {"field": "found", "title": "reached by"},
                {"field": "function", "title": "function"},
            ],
        },
    }
    both = f"({_HIDDEN}) && (!shown || indexof(shown, datum.end) >= 0)"
    return frame(x, y, 460) | {
        "params": [{"name": "shown", "value": None}],
        "layer": [
            *([_filtered(lines(level_lines, "var(--line-strong)", 0.55), _HIDDEN)] if level_lines else []),
            *([_filtered(lines(falls, "var(--left)", 0.4), both)] if falls else []),
            *end_marks,
            mark_layer,
        ],
    }  # fmt: skip


def _filtered(layer: dict[str, Any], test: str) -> dict[str, Any]:
    return layer | {"transform": [{"filter": test}]}


def _domain(scale: Mapping[str, Any], values: Sequence[float]) -> list[float]:
    """Of all points, so that it stays as it is when some are hidden."""
    low, high = min(values), max(values)
    if "type" in scale:
        return [low / 1.3, high * 1.3]
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    return [low - margin, high + margin]


def _places(points: Sequence[NestedRow], columns: Mapping[str, int]) -> dict[str, float]:
    """Where across its column each point stands: lowest first."""
    places = {}
    for name, column in columns.items():
        own = [point.name for point in points if widths(point.hidden) == name]
        for k, point in enumerate(own):
            places[point] = round(column + 0.05 + _SPREAD * ((k + 0.5) / len(own) - 0.5), 4)
    return places


def _embeddings(
    record: NestedRecord,
    known: Mapping[str, NestedRow],
    at: Mapping[str, float],
    columns: Mapping[str, int],
    embedded: Mapping[str, Mapping[str, str]],
    height: Height,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The ends of level lines, and these."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for edge in record.edges:
        if edge.kind == "embeds":
            kinds.setdefault((edge.source, widths(edge.hidden)), []).append(edge.verdict)
    ends, level_lines = [], []
    for name, there in embedded.items():
        if name not in known:
            continue
        own = height(known[name].loss or 0.0)
        gates = {level: columns[level] + _GATE for level in there if level in columns}
        for level, gate in gates.items():
            says = f"width {level}: {there[level]}"
            ends.append(
                {
                    "name": name,
                    "x": gate,
                    "loss": own,
                    "end": fate(kinds[name, level]),
                    "there": says,
                    "text": loss(known[name].loss),
                    "about": f"{name} in {says}",
                }
            )
        if gates:
            last = max(gates.values())
            level_lines.append({"name": name, "x0": at[name], "x": last, "loss0": own, "loss": own})
    return ends, level_lines


def _falls(
    edges: Sequence[EdgeRow],
    known: Mapping[str, NestedRow],
    at: Mapping[str, float],
    columns: Mapping[str, int],
    height: Height,
) -> Iterable[dict[str, Any]]:
    """Descents between points that are drawn; several between the same two are one line."""
    drawn = set()
    for edge in edges:
        ends = (edge.source, edge.target, edge.how == "own", edge.as_embedded, widths(edge.hidden))
        fits = edge.kind == "descends" and edge.source in known and edge.target in known
        if not fits or ends in drawn or edge.target is None:
            continue
        drawn.add(ends)
        gate = columns[widths(edge.hidden)] + _GATE
        yield {
            "name": edge.source,
            "end": edge.target,
            "x0": at[edge.source] if edge.how == "own" else gate,
            "x": gate if edge.as_embedded else at[edge.target],
            "loss0": height(known[edge.source].loss or 0.0),
            "loss": height(known[edge.target].loss or 0.0),
        }


# -- what saddles join ------------------------------------------------------------------------------


def tree_chart(tree: TreeRow, points: Mapping[str, NestedRow]) -> dict[str, Any] | None:
    """A disconnectivity graph: each valley a line upwards, joined where a saddle joins it; None without two."""
    if len(tree.valleys) < 2:
        return None
    every = [*tree.valleys.values(), *(each.loss for each in tree.passes if each.loss is not None)]
    height = Height.of(every)
    lowest, highest = min(map(height, every)), max(map(height, every))
    y = loss_axis([lowest, highest])
    log = "type" in y["scale"]
    top = (
        highest * (highest / lowest) ** 0.08 * 1.05
        if log
        else highest + 0.1 * ((highest - lowest) or 1.0)
    )
    y["scale"] |= {"domain": [_domain(y["scale"], [lowest, highest])[0], top]}
    order = _ordered(tree)
    places = {name: float(k) for k, name in enumerate(order)}
    bars, stems = [], []
    open_stems = {name: (places[name], height(low)) for name, low in tree.valleys.items()}
    group = {name: name for name in tree.valleys}  # who stands for its part of the tree
    for each in tree.passes:
        heads = list(dict.fromkeys(group[side[0]] for side in each.sides))
        at = height(each.loss or 0.0)
        for head in heads:
            x, low = open_stems.pop(head)
            stems.append({"x0": x, "x": x, "loss0": low, "loss": at, "name": head})
            places[head] = x
        middle = sum(places[head] for head in heads) / len(heads)
        ends = [places[head] for head in heads]
        bars.append(
            {
                "x0": min(ends), "x": max(ends), "loss0": at, "loss": at,
                "name": each.saddle, "text": loss(each.loss),
            }
        )  # fmt: skip
        for name in (name for side in each.sides for name in side):
            group[name] = heads[0]
        open_stems[heads[0]] = middle, at
    joined = {name for each in tree.passes for side in each.sides for name in side}
    roots = [
        {"x0": x, "x": x, "loss0": low, "loss": top, "name": head}
        for head, (x, low) in open_stems.items()
    ]
    valleys = []
    for name, low in tree.valleys.items():
        kind = COPY if "@" in name or name not in points else legend(points[name])
        alone = "" if name in joined else "; no known saddle joins it to another"
        valleys.append(
            {
                "name": name.partition("@")[0],
                "label": name,
                "x": float(order.index(name)),
                "loss": height(low),
                "text": loss(low),
                "kind": kind,
                "about": f"{name}, {kind}, loss {loss(low)}{alone}",
            }
        )
    looks = {kind: look for kind, look in LOOKS.items() if any(v["kind"] == kind for v in valleys)}
    across = {
        "field": "x",
        "type": "quantitative",
        "title": None,
        "scale": {"domain": [-0.7, len(order) - 0.3], "nice": False},
        "axis": None,
    }
    dashed = {"mark": {"type": "rule", "stroke": "var(--line-strong)", "strokeDash": [3, 3]}}
    layers = [
        _plain(lines(stems, "var(--ink)", 1)),
        _plain(lines(roots, "var(--line-strong)", 1) | dashed),
        _plain(lines(bars, "var(--saddle)", 1), 2.5, "saddle"),
        {
            "data": {"values": valleys},
            "name": "points",
            "mark": POINT | {"size": 60},
            "encoding": {
                "description": {"field": "about"},
                "shape": encoded(looks, 0),
                "fill": encoded(looks, 1),
                "stroke": encoded(looks, 2),
                "tooltip": [
                    {"field": "label", "title": "title"},
                    {"field": "kind", "title": "kind"},
                    {"field": "text", "title": "loss"},
                ],
            },
        },
    ]
    if len(order) <= _FEW:
        names = {
            "data": {"values": valleys},
            "mark": {"type": "text", "angle": 0, "dy": 13, "fontSize": 10},
            "encoding": {"text": {"field": "label"}},
        }
        layers.append(names)
    return frame(across, y, 260) | {"layer": [layer for layer in layers if layer["data"]["values"]]}


def _plain(layer: dict[str, Any], width: float = 1.2, title: str = "") -> dict[str, Any]:
    """Lines that do not fade; with a title they tell their name and loss."""
    encoding = {key: value for key, value in layer["encoding"].items() if key != "opacity"}
    if title:
        tip = [
            {"field": "name", "title": "title"},
            {"field": "text", "title": f"loss of the {title}"},
        ]
        encoding["tooltip"] = tip
    return layer | {"mark": layer["mark"] | {"strokeWidth": width}, "encoding": encoding}


def _ordered(tree: TreeRow) -> list[str]:
    """The valleys from left to right, so that no lines cross: what is joined stands together."""
    parts = {name: [name] for name in tree.valleys}
    for each in tree.passes:
        own = list({id(parts[side[0]]): parts[side[0]] for side in each.sides}.values())
        together = [name for part in own for name in part]
        for name in together:
            parts[name] = together
    seen: dict[str, None] = {}
    for name in tree.valleys:
        seen |= dict.fromkeys(parts[name])
    return list(seen)


# -- functions --------------------------------------------------------------------------------------


def function_charts(places: PlacesRecord) -> dict[str, Any]:
    """How functions are drawn, and where: the script has their values from the table.

    ``at`` and ``data_at`` are what each value of a function belongs to, on the grid and at the samples;
    ``on_data`` draws a function that is known at these alone.
    """
    draw = {"line": _line, "map": _map}.get(places.kind, _scatter)
    on_data = draw(places) | ({"layer": _marks(places)} if places.kind == "line" else {})
    names = {"line": ["x"], "map": ["x", "y"]}.get(places.kind, ["target"])
    return {
        "spec": draw(places),
        "on_data": on_data,
        "at": [_named(names, row) for row in places.at],
        "data_at": [_named(names, row) for row in places.data],
        "targets": places.kind == "samples",
    }


def _named(
    names: Sequence[str], row: Sequence[float | None]
) -> dict[str, float | None] | list[Any]:
    return list(row) if names == ["target"] else dict(zip(names, row, strict=False))


_SMALL: dict[str, Any] = {
    "width": 200,
    "height": 150,
    "background": None,
    "padding": 2,
    "config": CONFIG,
}
_QUIET: dict[str, Any] = {"gridOpacity": 0.4, "domain": False, "ticks": False, "tickCount": 4}


def _axis(field: str, title: str) -> dict[str, Any]:
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"zero": False, "nice": False},
        "axis": _QUIET,
    }


def _line(places: PlacesRecord) -> dict[str, Any]:
    """Outputs against the input, with the targets."""
    line = {
        "mark": {"type": "line", "stroke": "var(--minimum)", "strokeWidth": 2},
        "encoding": {"strokeDash": {"field": "output", "type": "nominal", "legend": None}},
    }
    return _SMALL | {
        "encoding": {"x": _axis("x", "input"), "y": _axis("value", places.what)},
        "layer": [*_dots(places), line],
    }


def _marks(places: PlacesRecord) -> list[dict[str, Any]]:
    """Outputs at the samples alone, in the place of a line."""
    mark = {"type": "point", "shape": "cross", "size": 26, "stroke": "var(--minimum)"}
    return [*_dots(places), {"mark": mark}]


def _dots(places: PlacesRecord) -> list[dict[str, Any]]:
    """The targets, where they are of the outputs' sort."""
    targets = [{"x": row[0], "value": value} for row in places.data for value in row[1:]]
    if not places.beside or not targets:
        return []
    mark = {"type": "point", "size": 14, "stroke": "var(--soft)", "filled": False}
    return [{"data": {"values": targets}, "mark": mark}]


def _map(places: PlacesRecord) -> dict[str, Any]:
    """A square for each place of the grid, light where the output is large; the samples as dots."""
    dots = {
        "data": {"values": [{"x": row[0], "y": row[1]} for row in places.data]},
        "mark": {
            "type": "point",
            "size": 7,
            "stroke": "white",
            "strokeWidth": 0.8,
            "filled": False,
        },
    }
    columns = max(1, round(len(places.at) ** 0.5))
    side = 150 / columns + 0.6
    return _SMALL | {
        "width": 150,
        "encoding": {"x": _axis("x", "input 0"), "y": _axis("y", "input 1")},
        "layer": [
            {
                "mark": {"type": "square", "size": side**2, "opacity": 1, "filled": True},
                "encoding": {
                    "fill": {
                        "field": "value",
                        "type": "quantitative",
                        "title": places.what,
                        "scale": {"scheme": "viridis"},
                        "legend": {"gradientLength": 120, "gradientThickness": 9},
                    }
                },
            },
            dots,
        ],
    }


def _scatter(places: PlacesRecord) -> dict[str, Any]:
    """Outputs against targets, with the line on which they are equal where they are of one sort."""
    ends = [value for row in places.at for value in row if value is not None] or [0.0]
    equal = {
        "data": {"values": [{"target": t, "value": t} for t in (min(ends), max(ends))]},
        "mark": {"type": "line", "stroke": "var(--line-strong)"},
    }
    x = _axis("target", "target")
    if places.what == "margin":
        x = x | {"title": "class", "axis": _QUIET | {"tickMinStep": 1, "format": "d"}}
    return _SMALL | {
        "encoding": {"x": x, "y": _axis("value", places.what)},
        "layer": [
            *([equal] if places.beside else []),
            {
                "mark": {"type": "point", "size": 16, "stroke": "var(--minimum)", "filled": False},
                "encoding": {
                    "shape": {"field": "output", "type": "nominal", "legend": None},
                },
            },
        ],
    }
