"""What a point is made of: its weights and its eigenvalues, as numbers and as the charts that draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from semiflat.records.study import Anatomy, DataRecord, Numbers, Signs
from semiflat.report.numbers import size

_Matrix = Sequence[Sequence[float | None]]

WEIGHTS: dict[str, Any] = {
    "width": {"step": 17},
    "height": {"step": 17},
    "background": None,
    "padding": 2,
    "config": {
        "font": "system-ui, sans-serif",
        "view": {"stroke": "var(--line)"},
        "axis": {"domain": False, "ticks": False, "title": None},
        "header": {"title": None, "labelFontWeight": 600},
    },
    "mark": {"type": "square", "opacity": 1, "filled": True, "strokeWidth": 1.2},
    "encoding": {
        "column": {
            "field": "block",
            "type": "nominal",
            "sort": ["from", "bias", "to"],
            "spacing": 12,
        },
        "x": {
            "field": "column",
            "type": "nominal",
            "sort": None,
            "axis": {"orient": "top", "labelAngle": -60, "labelLimit": 110},
        },
        "y": {"field": "unit", "type": "nominal", "sort": None},
        # An area for each weight; the largest of a block nearly fills its cell.
        "size": {
            "field": "part",
            "type": "quantitative",
            "scale": {"domain": [0, 1], "range": [0, 190]},
            "legend": None,
        },
        "fill": {
            "condition": {"test": "datum.value < 0", "value": "var(--paper)"},
            "value": "var(--minimum)",
        },
        "stroke": {
            "condition": {"test": "datum.value < 0", "value": "var(--saddle)"},
            "value": "var(--minimum)",
        },
        "tooltip": [
            {"field": "unit", "title": "unit"},
            {"field": "label", "title": "weight"},
            {"field": "text", "title": "value"},
        ],
    },
    "resolve": {"scale": {"x": "independent"}},
}
"""Hinton's diagram: a square for each weight, filled where it is positive, hollow where it is negative."""

EIGENVALUES: dict[str, Any] = {
    "width": 560,
    "height": {"step": 30},
    "background": None,
    "padding": 4,
    "config": {"font": "system-ui, sans-serif", "view": {"stroke": None}},
    "mark": {"type": "point", "size": 60, "strokeWidth": 1.4, "opacity": 1},
    "encoding": {
        "x": {
            "field": "value",
            "type": "quantitative",
            "title": "eigenvalue of the Hessian",
            "scale": {"type": "symlog", "constant": 1e-6, "nice": False, "padding": 12},
            # Told as powers of ten; the script sets which.
            "axis": {
                "grid": True,
                "gridOpacity": 0.5,
                "domain": False,
                "labelExpr": "datum.value == 0 ? '0' : replace(format(datum.value, '.0e'), '+', '')",
            },
        },
        "y": {"field": "name", "type": "nominal", "sort": None, "title": None,
              "axis": {"domain": False, "ticks": False, "grid": False}},
        "shape": {
            "field": "sign",
            "type": "nominal",
            "scale": {
                "domain": ["negative", "zero", "positive"],
                "range": ["triangle-down", "circle", "M0,-1V1"],
            },
            "legend": None,
        },
        "fill": {
            "condition": {"test": "datum.sign == 'negative'", "value": "var(--saddle)"},
            "value": "var(--paper)",
        },
        "stroke": {
            "field": "sign",
            "type": "nominal",
            "scale": {
                "domain": ["negative", "zero", "positive"],
                "range": ["var(--saddle)", "var(--ink)", "var(--minimum)"],
            },
            "legend": None,
        },
        "tooltip": [
            {"field": "name", "title": "point"},
            {"field": "sign", "title": "sign"},
            {"field": "text", "title": "eigenvalue"},
        ],
    },
}  # fmt: skip
"""The eigenvalues on a line that is logarithmic to both sides of zero."""


@dataclass(frozen=True)
class Layer:
    """A hidden layer as a table: what its units listen to, their biases, and who listens to them.

    Attributes:
        number: from 0.
        blocks: names of groups of columns, each with the names of its columns.
        rows: each unit with its weights, in four digits.
    """

    number: int
    blocks: list[tuple[str, list[str]]]
    rows: list[tuple[str, list[str]]]


@dataclass(frozen=True)
class Eigenvalues:
    """The eigenvalues of one point's Hessian: their numbers, and how many are + / 0 / − by the verdict."""

    name: str
    values: list[str]
    signs: Signs


@dataclass(frozen=True)
class MadeOf:
    """What is drawn of one point; its eigenvalues stand below those of the point it was made of."""

    layers: list[Layer] = field(default_factory=list)
    output_bias: str = ""
    eigenvalues: list[Eigenvalues] = field(default_factory=list)


_NOISE = 1e-11
"""Of the largest eigenvalue: below it a value without a counted sign is taken for zero."""


def eigenvalues(name: str, values: Numbers, inertia: Signs | None) -> Eigenvalues:
    """As they are drawn; where no count is known, or it does not fit, their signs are told by their size.

    >>> eigenvalues("p0", [-1e-17, 0.25, 2.0], None).signs
    (2, 1, 0)
    """
    known = sorted(value for value in values if value is not None)
    if inertia is None or sum(inertia) != len(known):
        floor = _NOISE * max(map(abs, known), default=0.0)
        above, below = sum(v > floor for v in known), sum(v < -floor for v in known)
        inertia = above, len(known) - above - below, below
    return Eigenvalues(name, [size(value, 3) for value in known], inertia)


def layers(
    anatomy: Anatomy, data: DataRecord, forms: Sequence[Sequence[str]] | None = None
) -> list[Layer]:
    """One table for each hidden layer; none where the record has no parameters.

    Args:
        anatomy: of the point.
        data: for the names of inputs and classes.
        forms: of units at infinity, by layer.
    """
    linear = _linear(anatomy)
    last = len(linear) - 2
    found = []
    for number, ((weight, bias), (above, _)) in enumerate(pairwise(linear)):
        if not weight or any(len(row) != len(weight) for row in above):
            return []  # of an unknown sort of network
        inputs = len(weight[0])
        into = list(data.features) if number == 0 else []
        out = list(data.classes or ()) if number == last else []
        blocks = [
            (
                "from",
                into
                if len(into) == inputs
                else _numbered("input" if not number else "unit", inputs),
            ),
            *([("bias", ["bias"])] if bias else []),
            ("to", out if len(out) == len(above) else _receivers(number == last, len(above))),
        ]
        kinds = list(forms[number]) if forms and number < len(forms) else []
        rows = []
        for k, row in enumerate(weight):
            own = [*row, *(bias[k] if bias else ()), *(each[k] for each in above)]
            form = kinds[k] if k < len(kinds) else "unit"
            rows.append(
                (f"unit {k}" + (f", {form}" if form != "unit" else ""), [size(v, 4) for v in own])
            )
        found.append(Layer(number, blocks, rows))
    return found


def output_bias(anatomy: Anatomy) -> str:
    """The last layer's bias in four digits, or nothing."""
    linear = _linear(anatomy)
    bias = linear[-1][1] if linear else None
    return ", ".join(size(v, 4) for row in bias for v in row) if bias else ""


def _linear(anatomy: Anatomy) -> list[tuple[_Matrix, _Matrix | None]]:
    """Weight and bias of every linear layer, first to last."""
    found = anatomy.parameters
    keys = [key.removesuffix(".weight") for key in found if key.endswith(".weight")]
    if not all(key.isdecimal() for key in keys):
        return []
    return [(found[f"{k}.weight"], found.get(f"{k}.bias")) for k in sorted(keys, key=int)]


def _numbered(what: str, count: int) -> list[str]:
    return [f"{what} {k}" for k in range(count)]


def _receivers(last: bool, count: int) -> list[str]:
    return ["output"] if last and count == 1 else _numbered("output" if last else "unit", count)
