"""How starts are stored: tensors with type and shape, numbers that are not finite as text.

>>> to_plain(torch.tensor([0.1, math.inf], dtype=torch.float64))
{'dtype': 'float64', 'shape': [2], 'values': [0.1, 'inf']}
>>> from_plain(tuple[float, ...], [0.5, "nan"])
(0.5, nan)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from semiflat.records.codec import Codec


def _written(value: Tensor) -> dict[str, Any]:
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": list(value.shape),
        "values": to_plain(value.detach().flatten().tolist()),
    }


def _tensor(plain: Any) -> Tensor:
    if isinstance(plain, Tensor):  # a database keeps it as bytes
        return plain
    if not isinstance(plain, dict) or plain.keys() != {"dtype", "shape", "values"}:
        raise ValueError(f"{str(plain)[:40]!r} is no tensor")
    dtype = getattr(torch, str(plain["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{plain['dtype']!r} is no dtype")
    values = [float(item) if isinstance(item, str) else item for item in plain["values"]]
    try:
        return torch.tensor(values, dtype=dtype).reshape(plain["shape"])
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"values that make no tensor: {error}") from error


def _text_unless_finite(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)


def _number(plain: Any) -> Any:
    return float(plain) if plain in ("nan", "inf", "-inf") else Codec().from_plain(float, plain)


_CODEC = Codec({Tensor: (_written, _tensor), float: (_text_unless_finite, _number)})
to_plain, from_plain = _CODEC.to_plain, _CODEC.from_plain
