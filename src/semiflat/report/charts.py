"""What charts of points at their losses have in common, as Vega-Lite takes it; colours are the page's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Look = tuple[str, str, str]
"""Shape, fill and edge of a mark."""

CONFIG: dict[str, Any] = {
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "legend": {"symbolSize": 70},
}
POINT: dict[str, Any] = {
    "type": "point",
    "strokeWidth": 1.2,
    "cursor": "pointer",
    "filled": False,
    "opacity": 1,
}
RANGE = 50
"""Times the least loss that the largest is where the axis is logarithmic."""


def frame(x: dict[str, Any], y: dict[str, Any], height: int = 420) -> dict[str, Any]:
    """All of a chart but its layers."""
    return {
        "width": "container",
        "height": height,
        "background": None,
        "padding": {"left": 4, "right": 14, "top": 6, "bottom": 4},
        "config": CONFIG,
        "encoding": {"x": x, "y": y},
    }


def loss_axis(values: Sequence[float]) -> dict[str, Any]:
    """Loss upwards, on a logarithmic axis where it must be."""
    return {
        "field": "loss",
        "type": "quantitative",
        "title": "loss",
        "scale": scale(values),
        "axis": {"gridOpacity": 0.6, "domain": False, "ticks": False, "labelPadding": 6},
    }


def scale(values: Sequence[float]) -> dict[str, Any]:
    """Logarithmic for positive values that differ much.

    >>> scale([1.0, 100.0]), scale([0.0, 100.0])
    ({'type': 'log'}, {'zero': False})
    """
    lowest, highest = min(values), max(values)
    return {"type": "log"} if lowest > 0 and highest > RANGE * lowest else {"zero": False}


def lines(values: list[dict[str, Any]], colour: str, opacity: float) -> dict[str, Any]:
    """From (x0, loss0) to (x, loss)."""
    return {
        "data": {"values": values},
        "mark": {"type": "rule", "stroke": colour},
        "encoding": {
            "x": {"field": "x0"},
            "x2": {"field": "x"},
            "y": {"field": "loss0"},
            "y2": {"field": "loss"},
            "opacity": by_family(opacity, opacity / 7),
        },
    }


def family(field: str) -> dict[str, Any]:
    """A selection: what a mark that is pointed at has in this field."""
    select = {"type": "point", "on": "pointerover", "clear": "pointerout", "fields": [field]}
    return {"name": "family", "select": select}


def by_family(full: float, faint: float) -> dict[str, Any]:
    """Faint while a mark of another family is pointed at."""
    return {"condition": {"param": "family", "value": full, "empty": True}, "value": faint}


def encoded(looks: Mapping[str, Look], part: int) -> dict[str, Any]:
    """A part of each kind's look; the kinds are the legend's words."""
    return {
        "field": "kind",
        "type": "nominal",
        "title": None,
        "scale": {"domain": list(looks), "range": [look[part] for look in looks.values()]},
        "legend": {"orient": "top", "columns": {"signal": "width < 600 ? 1 : 0"}, "labelLimit": 0},
    }
