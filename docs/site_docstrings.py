"""Docstrings as the site shows them: examples in blocks of code, references as links."""

from __future__ import annotations

import re
from typing import Any

import griffe

import semiflat

ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):`~?(?P<name>[\w.]+)`")


def marked_down(text: str) -> str:
    r"""A docstring as Markdown.

    >>> marked_down("One.\n\n>>> 1 + 1\n2").splitlines()
    ['One.', '', '```pycon', '>>> 1 + 1', '2', '```']
    >>> print(marked_down("See :func:`judge`, :meth:`Point.to`, :meth:`run`."))
    See [`judge`][semiflat.judge], [`Point.to`][semiflat.Point.to], `run`.
    """
    lines: list[str] = []
    inside = False
    for line in text.split("\n"):
        if not inside and line.lstrip().startswith(">>>"):
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [f"{indent}```pycon"]
        elif inside and not line.strip():
            inside = False
            lines += [f"{indent}```"]
        lines.append(line)
    if inside:
        lines.append(f"{indent}```")
    return ROLE.sub(_linked, "\n".join(lines))


def _linked(found: re.Match[str]) -> str:
    name = found["name"].removeprefix("semiflat.")
    public = name.split(".")[0] in semiflat.__all__
    return f"[`{name}`][semiflat.{name}]" if public else f"`{name}`"


class Docstrings(griffe.Extension):
    """Rewrites every docstring as it is read from the source."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = marked_down(obj.docstring.value)
