"""Records as plain data and back, exactly: what JSON can hold, read by the types of the fields."""

from __future__ import annotations

import math
import types
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

LATER = {"later": True}
"""Metadata of a field that is not written as long as it is None."""


@dataclass(frozen=True)
class Codec:
    """How dataclasses, and what they are made of, become lists, dicts, text and numbers, and come back.

    Python writes the shortest text that reads back as the same float, so that numbers keep all digits.
    JSON has none that are not finite: they become null.

    Attributes:
        leaves: for types that it does not know, or that have another form here: how a value is written,
            and how it is read, which raises ValueError if it is no such value.
        lenient: also read what other versions wrote: fields that are not known are passed over,
            null takes a field's default as a missing one always does, and {} is no record.

    >>> from semiflat.records.study import Distinct
    >>> Codec().to_plain(Distinct(at_least=2, chosen=("p0", "p1")))
    {'at_least': 2, 'of': None, 'chosen': ['p0', 'p1'], 'reason': ''}
    >>> Codec(lenient=True).from_plain(Distinct, {"at_least": 2, "chosen": None, "colour": "red"})
    Distinct(at_least=2, of=None, chosen=(), reason='')
    >>> Codec().from_plain(Distinct, {"chosen": ["p0", 3]})
    Traceback (most recent call last):
    ValueError: chosen[1]: '3' is no str
    """

    leaves: Mapping[type, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = field(
        default_factory=dict
    )
    lenient: bool = False

    def to_plain(self, value: Any) -> Any:
        """``value`` as plain data; TypeError if it cannot be stored."""
        if value is None or type(value) in (str, int, bool):  # most are: it is soon said
            return value
        if isinstance(value, Enum):
            return value.value
        for kind, (write, _) in self.leaves.items():
            if isinstance(value, kind):
                return write(value)
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, int | str):
            return value
        if is_dataclass(value):
            own = ((each, getattr(value, each.name)) for each in fields(value))
            return {
                each.name: self.to_plain(item)
                for each, item in own
                if not (item is None and each.metadata.get("later"))
            }
        if isinstance(value, Mapping):
            return {str(key): self.to_plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.to_plain(item) for item in value]
        raise TypeError(f"a {type(value).__name__} cannot be stored")

    def from_plain(self, kind: Any, plain: Any, place: str = "") -> Any:
        """The value of type ``kind`` that :meth:`to_plain` made ``plain`` from.

        Fields that a stored dataclass lacks take their defaults.

        Raises:
            ValueError: if it is no such value, or has fields that are not known, with its ``place``.
        """
        if kind is Any or (kind in (int, str, bool) and type(plain) is kind):
            return plain
        origin, inner = get_origin(kind), get_args(kind)
        if origin in (Union, types.UnionType):
            if type(None) in inner and (plain is None or (self.lenient and plain == {})):
                return None
            (kind,) = [one for one in inner if one is not type(None)]
            return self.from_plain(kind, plain, place)
        where = f"{place}: " if place else ""
        if kind in self.leaves:
            try:
                return self.leaves[kind][1](plain)
            except ValueError as error:
                raise ValueError(f"{where}{error}") from error
        if kind is float and isinstance(plain, float | int) and not isinstance(plain, bool):
            with suppress(OverflowError):  # a whole number beyond all floats
                number = float(plain)
                return None if self.lenient and not math.isfinite(number) else number
        if isinstance(kind, type) and issubclass(kind, Enum):
            return kind(plain)
        if isinstance(plain, list | tuple) and origin in (tuple, list, Sequence):
            alike = origin is not tuple or inner[-1] is ...
            own = [inner[0]] * len(plain) if alike else inner
            if len(own) == len(plain):
                pairs = enumerate(zip(own, plain, strict=True))
                items = [self.from_plain(one, item, f"{place}[{k}]") for k, (one, item) in pairs]
                return items if origin is list else tuple(items)
        if origin is dict and isinstance(plain, dict):
            return {
                key: self.from_plain(inner[1], item, f"{place}[{key!r}]")
                for key, item in plain.items()
            }
        if is_dataclass(kind) and isinstance(plain, dict):
            return self._record(kind, plain, place)
        raise ValueError(f"{where}{str(plain)[:40]!r} is no {getattr(kind, '__name__', kind)}")

    def _record(self, kind: Any, plain: dict[str, Any], place: str) -> Any:
        hints, known, needed = _parts(kind)
        what = f"{place}: a {kind.__name__}" if place else f"a {kind.__name__}"
        if missing := [name for name in needed if name not in plain]:
            raise ValueError(f"{what} without {', '.join(map(repr, missing))}")
        if self.lenient:
            plain = {
                k: v for k, v in plain.items() if k in needed or (k in known and v is not None)
            }
        if strange := plain.keys() - known:
            raise ValueError(f"{what} has no field {min(strange)!r}")
        at = f"{place}." if place else ""
        own = {name: self.from_plain(hints[name], plain[name], at + name) for name in plain}
        return kind(**own)


@cache
def _parts(kind: type) -> tuple[dict[str, Any], set[str], list[str]]:
    """The types of a dataclass's fields, their names, and those that have no default.

    Kept, since a store may hold a hundred thousand records.
    """
    known = fields(kind)
    needed = [f.name for f in known if f.default is f.default_factory is MISSING]
    return get_type_hints(kind), {f.name for f in known}, needed
