"""What is public is documented, each name by an example, each method by a sentence; so is each type in it."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any, get_args, get_origin, get_overloads, get_type_hints

import pytest

import semiflat

NAMES = [name for name in semiflat.__all__ if not name.startswith("__")]


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_has_an_example_that_shows_something(name: str) -> None:
    text = getattr(semiflat, name).__doc__ or ""
    examples = doctest.DocTestParser().get_examples(text)
    assert any(example.want for example in examples), f"{name} has no example with output"


def functions(kind: type) -> Iterator[tuple[str, Any]]:
    """Methods and properties that a class defines itself."""
    for name, member in vars(kind).items():
        # Of a property, a cached one, and a class or static method: the function in it.
        inner = getattr(member, "fget", None) or getattr(member, "__wrapped__", None)
        found = inner or getattr(member, "func", member)
        if inspect.isfunction(found):
            yield name, found


def methods(kind: type) -> Iterator[tuple[str, Any]]:
    """The public ones."""
    yield from ((name, found) for name, found in functions(kind) if not name.startswith("_"))


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


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(semiflat.__path__, "semiflat."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def at(place: Any, path: Iterable[str]) -> bool:
    """Whether this attribute of an attribute is there, or is declared."""
    for name in path:
        if name in getattr(place, "__annotations__", {}):
            return True
        if not hasattr(place, name):
            return False
        place = getattr(place, name)
    return True


def is_known(name: str, module: ModuleType) -> bool:
    """Whether a name in a docstring is a full one, one of the module or its classes, or a public one."""
    first, *rest = name.split(".")
    if first == "semiflat":
        return at(semiflat, rest)
    kinds = [each for each in vars(module).values() if inspect.isclass(each)]
    return any(at(place, [first, *rest]) for place in (module, semiflat, *kinds))


def test_what_docstrings_point_at_is_there() -> None:
    pointed = [
        (module, name)
        for module in modules()
        for name in re.findall(
            r":(?:class|func|meth|attr|mod):`[~]?([\w.]+)`", inspect.getsource(module)
        )
    ]
    assert len(pointed) > 100, "they were looked for"
    assert not [(module.__name__, name) for module, name in pointed if not is_known(name, module)]
    assert not is_known("semiflat.study.escapes.Escape", semiflat), "it has another name now"


def ours(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "semiflat"


def classes(hint: Any) -> set[type]:
    """The classes that a type is made of."""
    inside = (
        hint if isinstance(hint, list) else get_args(hint)
    )  # a Callable has a list of arguments
    found = {each for each in (hint, get_origin(hint)) if inspect.isclass(each)}
    return found.union(*map(classes, inside))


def in_signatures(public: Any) -> set[type]:
    """The classes in a function's signature, or in a class's attributes and methods, inherited ones too."""
    parts = [public]
    for kind in filter(ours, public.__mro__) if inspect.isclass(public) else ():
        for name, function in functions(kind):
            if name.startswith("__") or not name.startswith("_"):
                parts += [function, *get_overloads(function)]
    hints = [hint for part in parts for hint in get_type_hints(part).items()]
    return set().union(*(classes(hint) for name, hint in hints if not name.startswith("_")))


def unlisted(names: Iterable[str]) -> set[str]:
    """Classes of the library in the signatures of these public names that are not among the names."""
    public = {getattr(semiflat, name) for name in names}
    found = set().union(*map(in_signatures, public))
    return {kind.__name__ for kind in found - public if ours(kind)}


def test_every_type_in_a_public_signature_is_public() -> None:
    assert not unlisted(NAMES)


@pytest.mark.parametrize(
    "name",
    [
        "BoundedLoss",  # a function's argument
        "Finished",  # an argument of a function that is given to a function
        "Condition",  # a property's value
        "Evidence",  # a cached property's value
        "Claim",  # an attribute
        "Merge",  # within an attribute
        "Checked",  # a method's value
        "Widenable",  # a special method's argument
    ],
)
def test_a_type_that_is_not_listed_is_missed(name: str) -> None:
    assert unlisted([each for each in NAMES if each != name]) == {name}


def test_types_are_looked_for_wherever_they_may_stand() -> None:
    from collections.abc import Callable, Sequence

    given = dict[str, Sequence[int] | None] | Callable[[list[float]], tuple[bytes, ...]]
    inside = {dict, str, Sequence, int, type(None), Callable, list, float, tuple, bytes}
    assert inside <= classes(given)
