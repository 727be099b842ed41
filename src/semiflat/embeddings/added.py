"""What the embeddings that add units with weights of their own have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.vectors import rows_of
from semiflat.embeddings.widening import AddedUnit
from semiflat.errors import InputError
from semiflat.networks import MLP, bias_key, weight_key


def nesting(given: Any) -> int:
    """How deeply lists are nested, or the axes of an array."""
    if hasattr(given, "ndim"):
        return int(given.ndim)
    return 1 + nesting(given[0]) if isinstance(given, list | tuple) and given else 0


def dies(activation: Activation) -> bool:
    """Whether the activation is 0 on a half-line, as relu is."""
    return activation.slopes is not None and activation.slopes[0] == 0


def how_many(count: int | None, incoming: Tensor | None, outgoing: Tensor | None) -> int:
    given = {} if count is None else {"count": count}
    if incoming is not None:
        given["rows of incoming weights"] = len(incoming)
    if outgoing is not None and outgoing.ndim == 2:
        given["rows of outgoing weights"] = len(outgoing)
    if not given:
        given["count"] = 1
    values = list(given.values())
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in values)
    if not whole or len(set(values)) > 1:
        raise InputError(
            "the number of added units must be one whole number of at least 1; given: "
            + ", ".join(f"{name} {value!r}" for name, value in given.items())
        )
    return values[0]


def fitting(rows: Tensor, size: int, name: str, letter: str) -> Tensor:
    if rows.shape[-1] != size:
        raise InputError(
            f"{name} weights have {rows.shape[-1]} entries each; expected {letter} = {size}"
            + (" (the bias last)" if letter == "D" else ", the width of the layer above")
        )
    return rows


def columns_of(outgoing: Tensor | None, count: int, above: int) -> Tensor:
    if outgoing is None:
        return torch.zeros((1, above), dtype=torch.float64)
    fitted = fitting(outgoing, above, "outgoing", "M")
    return fitted if fitted.ndim == 2 else fitted[None]


def grouped(rows: Tensor, columns: Tensor, count: int) -> list[AddedUnit]:
    """One unit for all if they are alike, else one for each."""
    if len(rows) == 1 and len(columns) == 1:
        return [AddedUnit(rows[0], columns[0], count=count)]
    return [
        AddedUnit(row, column)
        for row, column in zip(rows.expand(count, -1), columns.expand(count, -1), strict=True)
    ]


def unit_directions(
    net: MLP, wide: MLP, layer: int, count: int, rows: bool, columns: bool
) -> Tensor:
    """Unit vectors of the added units' incoming rows and outgoing columns, (k, P_wide)."""
    start, above, fan = net.hidden[layer], net.widths[layer + 2], wide.fan_in(layer)
    size = rows * fan + columns * above
    flat, parts = rows_of(wide, count * size)
    for k in range(count):
        at = k * size
        if rows:
            width = wide.widths[layer]
            parts[weight_key(layer)][at : at + width, start + k] = torch.eye(width).double()
            if wide.biases[layer]:
                parts[bias_key(layer)][at + width, start + k] = 1
            at += fan
        if columns:
            parts[weight_key(layer + 1)][at : at + above, :, start + k] = torch.eye(above).double()
    return flat


def shown(step: Embedding) -> str:
    """Its arguments as typed; arrays of more than eight numbers are left out."""
    (entry,) = step.to_json()
    parts = []
    for name, value in entry.items():
        if name == "type":
            continue
        long = isinstance(value, list) and torch.tensor(value).numel() > 8
        parts.append(f"{name}={'…' if long else value}")
    return f"{type(step).__name__}({', '.join(parts)})"
