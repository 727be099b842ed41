"""Names of points, and where on the page each is described."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

_NAME = re.compile(r"(?:[a-z]+\d+(?:-[a-z]+\d+)*|\d+(?:x\d+)*-i?\d+)")
"""A study's points, and those of a hierarchy, named by their widths."""
_IN_TEXT = re.compile(rf"(?<![\w-]){_NAME.pattern}(?![\w-])")


def is_name(text: str) -> bool:
    """Whether it can name a file and a place on the page.

    >>> is_name("p0-e12"), is_name("2x3-i1"), is_name("../p0"), is_name("points"), is_name("2")
    (True, True, False, False, False)
    """
    return _NAME.fullmatch(text) is not None


def linker(known: Iterable[str]) -> Callable[[str], Markup]:
    """A function that makes every known point's name in a text a link to its section.

    >>> linked = linker(["p0", "p0-e1"])
    >>> print(linked("p0 & p0-e1, p0-e2"))
    <a href="#p0">p0</a> &amp; <a href="#p0-e1">p0-e1</a>, p0-e2
    """
    from markupsafe import Markup, escape

    there = {name for name in known if is_name(name)}

    def linked(text: str) -> Markup:
        parts, end = [], 0
        for found in _IN_TEXT.finditer(text):
            if (name := found.group()) in there:
                parts += [
                    escape(text[end : found.start()]),
                    Markup(f'<a href="#{name}">{name}</a>'),
                ]
                end = found.end()
        return Markup("").join([*parts, escape(text[end:])])

    return linked
