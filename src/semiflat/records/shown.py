"""How objects show themselves: one line, a small table in a notebook, plain data, a pandas frame.

One mechanism for all of them. A class says what its *facts* are, names and values; of a dataclass they are its
fields, if it says nothing else. One that is a list says its *rows*, too.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from fractions import Fraction
from typing import Any, Protocol, runtime_checkable

from semiflat.errors import InputError
from semiflat.records.codec import Codec

LINE = 120
"""Characters of the longest repr."""
PART, CELL = 64, 400
"""Characters of the longest value in a line, and in a cell of a table."""
MOST_ROWS = 30
"""Rows of a table in a notebook; a frame has them all."""

Facts = dict[str, Any]


@runtime_checkable
class _Array(Protocol):
    """A tensor or an array: what of it goes into a file or a line needs neither library."""

    shape: Any

    def tolist(self) -> Any: ...


class Shown:
    """What shows itself by its facts.

    >>> from dataclasses import dataclass
    >>> @dataclass(frozen=True)
    ... class Found(Shown):
    ...     name: str
    ...     losses: list[float]
    >>> found = Found("<p0>", [0.25, float("nan")])
    >>> found
    Found(name='<p0>', losses=[0.25, nan])
    >>> found.to_json()
    {'name': '<p0>', 'losses': [0.25, None]}
    >>> "&lt;p0&gt;" in found._repr_html_()
    True
    """

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        # A dataclass would make another one otherwise, on as many lines as its values have.
        if "__repr__" not in vars(cls):
            cls.__repr__ = cls.__repr__  # type: ignore[method-assign]

    def _facts(self) -> Facts:
        """Names and values, cheap to get."""
        me: Any = self
        if not is_dataclass(me):
            return {k: v for k, v in vars(me).items() if not k.startswith("_")}
        names = [each.name for each in fields(me) if each.repr and each.name[0] != "_"]
        own = {name: getattr(self, name) for name in names}
        return {k: v for k, v in own.items() if isinstance(v, Shown) or not callable(v)}

    def __repr__(self) -> str:
        return one_line_of(type(self).__name__, self._facts())

    def _repr_html_(self) -> str:
        rows = [
            f'<tr><th style="text-align:left">{_heading(name)}</th>'
            f'<td style="text-align:left">{escaped(_in_cell(value))}</td></tr>'
            for name, value in self._facts().items()
        ]
        return _table(type(self).__name__, "".join(rows))

    def to_json(self) -> Any:
        """As plain data that JSON can hold; numbers that are not finite become None."""
        return plain(self._facts())


class Rows(Shown):
    """What is a list of rows, too: a table with a line for each, and a pandas frame."""

    def _rows(self) -> list[Facts]:
        """A line for each: names of columns and values."""
        raise NotImplementedError

    def to_dataframe(self) -> Any:
        """A pandas frame with a row for each.

        Raises:
            InputError: without pandas.
        """
        return frame(self._rows())

    def to_json(self) -> Any:
        """As plain data that JSON can hold, the rows among them."""
        return plain(self._facts() | {"rows": self._rows()})

    def _repr_html_(self) -> str:
        return super()._repr_html_() + table_of(self._rows())


def to_dataframe(results: Iterable[Any]) -> Any:
    """A list of results of one sort as a pandas frame: a row for each.

    Columns are what the results show of themselves in a notebook, numbers as numbers.

    Args:
        results: points, verdicts, escapes, certificates, reductions, …; also what is such a list itself.

    Raises:
        InputError: without pandas, or for what is no list of results.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> point = sf.find_critical_point(problem, starts=8)
    >>> wide = [sf.Replicate(0, 0, [share, 1 - share])(point) for share in (0.25, 2.0)]
    >>> table = sf.to_dataframe(sf.judge_all(wide))
    >>> list(table["kind"])
    ['STRICT_SADDLE', 'STRICT_SADDLE']
    """
    if isinstance(results, Rows):
        return results.to_dataframe()
    given = list(results) if isinstance(results, Iterable) else [results]
    if not all(isinstance(result, Shown) for result in given):
        raise InputError(
            f"to_dataframe takes a list of results, such as points or verdicts, not {results!r:.60}"
        )
    return frame([row_of(result) for result in given])


def row_of(result: Shown) -> Facts:
    """What a result is in a table: its facts, those that are no numbers, texts or truths in a few words."""
    return {name: _cell(value) for name, value in result._facts().items()}


def _cell(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return brief(value, CELL)


def frame(rows: Sequence[Facts]) -> Any:
    """The rows as a pandas frame.

    Raises:
        InputError: without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("a data frame needs pandas: pip install 'semiflat[tables]'") from None
    return pandas.DataFrame([{k: _cell(v) for k, v in row.items()} for row in rows])


def plain(value: Any) -> Any:
    """A value, or facts of them, as plain data."""
    return _PLAIN.to_plain(value)


_PLAIN: Codec = Codec(
    {
        Shown: (lambda shown: shown.to_json(), str),
        Fraction: (str, Fraction),
        _Array: (lambda array: _PLAIN.to_plain(array.tolist()), list),
        type(lambda: None): (lambda function: function.__name__, str),
    }
)


def one_line_of(name: str, facts: Mapping[str, Any], most: int = LINE) -> str:
    """``name(fact=value, …)``, cut off where it would be too long.

    >>> one_line_of("Found", {"loss": 0.5, "note": "far too much to say", "more": 1}, 30)
    'Found(loss=0.5, …)'
    """
    line = f"{name}("
    for number, (key, value) in enumerate(facts.items()):
        part = f"{', ' if number else ''}{key}={brief(value)}"
        if len(line) + len(part) > most - len(", …)"):
            return f"{line}{', ' if number else ''}…)"
        line += part
    return f"{line})"


def brief(value: Any, most: int = PART) -> str:
    """A value in a few characters on one line.

    >>> brief(0.1234567890123), brief("two\\nlines"), brief([1, 2]), brief({"a": 1}), brief(list(range(99)))
    ('0.123457', "'two lines'", '[1, 2]', '{a: 1}', '[99 of int]')
    """
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int | Fraction):
        return str(value) if len(str(value)) <= most else f"{float(value):.6g}"
    if isinstance(value, str):
        return repr(_shorter(value, most - 2))
    if isinstance(value, _Array):
        return f"<{' × '.join(map(str, value.shape))}>"
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key}: {brief(item, most)}" for key, item in list(value.items())[:9])
        text = f"{{{inside}}}" if len(value) < 10 else ""
        return text if 0 < len(text) <= most else f"{{{len(value)} entries}}"
    if isinstance(value, list | tuple):
        inside = ", ".join(brief(item, most) for item in value[:24])
        text = f"[{inside}]" if isinstance(value, list) else f"({inside}{',' * (len(value) == 1)})"
        if len(value) < 25 and len(text) <= most:
            return text
        return f"[{len(value)} of {type(value[0]).__name__}]"
    if not isinstance(value, Shown) and callable(value):
        return str(getattr(value, "__name__", type(value).__name__))
    text = _shorter(repr(value), 10_000)
    return text if len(text) <= most else f"{type(value).__name__}(…)"


def _shorter(text: str, most: int) -> str:
    """On one line, without what cannot be printed."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if len(clean) <= most else textwrap.shorten(clean, most, placeholder="…")


def escaped(text: str) -> str:
    """For HTML, whatever it holds."""
    return html.escape(text, quote=True)


def table_of(rows: Sequence[Facts]) -> str:
    """Rows as an HTML table, the first ones where there are many."""
    if not rows:
        return ""
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{_heading(name)}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{escaped(_in_cell(row.get(name)))}</td>" for name in names) + "</tr>"
        for row in rows[:MOST_ROWS]
    )
    more = len(rows) - MOST_ROWS
    rest = f'<tr><td colspan="{len(names)}">… and {more} more</td></tr>' if more > 0 else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}{rest}</tbody></table>"


def _heading(name: str) -> str:
    return escaped(name.replace("_", " "))


def _in_cell(value: Any) -> str:
    if value is None:
        return "–"
    return _shorter(value, CELL) if isinstance(value, str) else brief(value, CELL)


def _table(caption: str, rows: str) -> str:
    style = "text-align:left;font-weight:bold"
    return (
        f'<table><caption style="{style}">{escaped(caption)}</caption><tbody>{rows}</tbody></table>'
    )
