"""What is public is documented: each name with an example that shows something, each method with a sentence."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from typing import Any

import pytest

import semiflat

NAMES = [name for name in semiflat.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_shows_something(name: str) -> None:
    text = getattr(semiflat, name).__doc__ or ""
    examples = doctest.DocTestParser().get_examples(text)
    assert any(example.want for example in examples), f"{name} has no example with output"


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that a class defines itself."""
    for name, member in vars(kind).items():
        # Of a property, a cached one, and a class or static method: the function in it.
        inner = getattr(member, "fget", None) or getattr(member, "__wrapped__", None)
        found = inner or getattr(member, "func", member)
        if not name.startswith("_") and inspect.isfunction(found):
            yield name, found


def test_every_public_method_is_documented() -> None:
    kinds = [kind for name in NAMES if inspect.isclass(kind := getattr(semiflat, name))]
    found = [(kind, *method) for kind in kinds for method in methods(kind)]
    assert len(found) > 100, "they were looked for"
    bare = [f"{kind.__name__}.{name}" for kind, name, each in found if not each.__doc__]
    assert not bare


def test_methods_of_all_kinds_are_looked_at() -> None:
    from functools import cached_property

    class Kind:
        def plain(self) -> None: ...
        @property
        def read(self) -> None: ...
        @cached_property
        def kept(self) -> None: ...
        @classmethod
        def made(cls) -> None: ...
        @staticmethod
        def free() -> None: ...
        def _own(self) -> None: ...

    assert [name for name, _ in methods(Kind)] == ["plain", "read", "kept", "made", "free"]
