"""What comes of jobs, kept by name: the interface of whatever keeps it."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from semiflat.errors import InputError

Value = TypeVar("Value")
DATABASES = (".db", ".sqlite")
"""How the names of files end that are databases."""


def is_database(place: str | os.PathLike[str]) -> bool:
    """Whether a place is a database, a file or a URL; else it is a folder.

    >>> is_database("runs.db"), is_database("postgresql://host/runs"), is_database("runs")
    (True, True, False)
    """
    text = os.fspath(place)
    return "://" in text or text.lower().endswith(DATABASES)


def check_header(
    place: str, what: str, found: dict[str, Any], own: dict[str, Any], advice: str
) -> None:
    """Refuse the header of another run, found at ``place``.

    Args:
        what: the run in words: ``"a search"``.
        advice: what to do, in words.

    Raises:
        InputError: with the first thing that differs.
    """
    there, now = dict(_entries(found)), dict(_entries(json.loads(json.dumps(own))))
    for name in [*now, *(there.keys() - now.keys())]:
        if there.get(name) != now.get(name):
            raise InputError(
                f"{place!r} holds {what} with {name} {_short(there.get(name))}, this one "
                f"has {_short(now.get(name))}; {advice}"
            )


@dataclass(frozen=True)
class Contents(Generic[Value]):
    """What a store keeps, and of which run.

    Attributes:
        what: the run in words: ``"a search"``.
        header: all that its values depend on, as plain data. A store keeps values of one header.
        advice: what to do where a store holds another run's, in words.
        key: names a value.
        plain: a value as a dict that JSON can hold.
        value: the value again, equal to the last bit; a ValueError for a dict that is none.
    """

    what: str
    header: dict[str, Any]
    advice: str
    key: Callable[[Value], Hashable]
    plain: Callable[[Value], dict[str, Any]]
    value: Callable[[dict[str, Any]], Value]

    def check(self, place: str | Path, header: dict[str, Any]) -> None:
        """Refuse the header of another run, found at ``place``.

        Raises:
            InputError: with the first thing that differs.
        """
        form, own = header.get("format"), self.header.get("format")
        if form != own:
            raise InputError(
                f"{str(place)!r} is of format {form!r}, this version writes {own!r}; give another place"
            )
        check_header(str(place), self.what, header, self.header, self.advice)


class JobStore(ABC, Generic[Value]):
    """Keeps what comes of jobs, so that a process that goes on later need not run them again.

    What a backend has to do is what ``tests/job_store_contract.py`` holds. There are
    :class:`semiflat.jobs.lines.LinesStore`, a file that one process writes at a time, and
    :class:`semiflat.jobs.database.DatabaseStore`, which many may.
    """

    @abstractmethod
    def put(self, values: Sequence[Value]) -> None:
        """Keep values; they outlive this process on return. What has a name already stays as it was.

        Raises:
            InputError: if they cannot be written.
        """

    @abstractmethod
    def get(self, key: Hashable) -> Value | None:
        """The value of that name, None if there is none."""

    @abstractmethod
    def keys(self) -> Collection[Hashable]:
        """The names of all values, in the order they were put."""

    @abstractmethod
    def close(self) -> None:
        """Let others write; closed twice, it stays closed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _entries(header: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a header says, thing by thing."""
    for name, value in header.items():
        if isinstance(value, dict):
            yield from ((f"{name} {inner}", each) for inner, each in value.items())
        else:
            yield name, value


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}…"
