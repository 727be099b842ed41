"""Records as plain data and back, exactly: what JSON can hold, read by the types of the fields."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor


def to_plain(value: Any) -> Any:
    """A dataclass, and what it is made of, as lists, dicts, text and numbers.

    Numbers that are not finite become text, which every JSON reader takes; all others keep all their
    digits, since Python writes the shortest text that reads back as the same float.

    >>> to_plain(torch.tensor([0.1, math.inf], dtype=torch.float64))
    {'dtype': 'float64', 'shape': [2], 'values': [0.1, 'inf']}
    """
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Tensor):
        return {
            "dtype": str(value.dtype).removeprefix("torch."),
            "shape": list(value.shape),
            "values": to_plain(value.detach().flatten().tolist()),
        }
    if is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    raise TypeError(f"a {type(value).__name__} cannot be stored")


def from_plain(kind: Any, plain: Any) -> Any:
    """The value of type ``kind`` that :func:`to_plain` made ``plain`` from.

    Fields that a stored dataclass lacks take their defaults.

    Raises:
        ValueError: if it is no such value, or has fields that are not known.

    >>> from_plain(tuple[float, ...], [0.5, "nan"])
    (0.5, nan)
    """
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if plain is None and type(None) in inner:
            return None
        (kind,) = [one for one in inner if one is not type(None)]
        return from_plain(kind, plain)
    if kind is Tensor:
        return _tensor(plain)
    if kind is float and plain in ("nan", "inf", "-inf"):
        return float(plain)
    if kind is float and isinstance(plain, float | int) and not isinstance(plain, bool):
        return float(plain)
    if kind in (int, str, bool) and type(plain) is kind:
        return plain
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(plain)
    if origin is tuple and isinstance(plain, list):
        own = [inner[0]] * len(plain) if inner[-1:] == (...,) else inner
        return tuple(from_plain(one, item) for one, item in zip(own, plain, strict=True))
    if origin is list and isinstance(plain, list):
        return [from_plain(inner[0], item) for item in plain]
    if origin is dict and isinstance(plain, dict):
        return {key: from_plain(inner[1], item) for key, item in plain.items()}
    if is_dataclass(kind) and isinstance(plain, dict):
        return _record(kind, plain)
    raise ValueError(f"{str(plain)[:40]!r} is no {getattr(kind, '__name__', kind)}")


def _record(kind: Any, plain: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}
    if strange := plain.keys() - known.keys():
        raise ValueError(f"a {kind.__name__} has no field {min(strange)!r}")
    for name, field in known.items():
        if name not in plain and field.default is field.default_factory is MISSING:
            raise ValueError(f"a {kind.__name__} without {name!r}")
    return kind(**{name: from_plain(hints[name], item) for name, item in plain.items()})


def _tensor(plain: Any) -> Tensor:
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
