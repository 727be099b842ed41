"""Columns of a table: what their cells are, and one message for all that cannot be used."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np

from semiflat.errors import InputError, unknown_name

MOST_LEVELS = 100
"""Categories with more levels than this are no categories, but names or numbers of rows."""
MOST_MIXED = 20
"""Whole numbers beside text, as in 1, 2, 3+, are levels up to this many; else the text is a mistake."""
MOST_NAMED = 40
"""Columns that one message names, of each kind."""

NOTHING = {"", "nan", "+nan", "-nan"}
MISSING = NOTHING | {"na", "n/a", "#n/a", "<na>", "null"}
"""Cells, in small letters, that hold no value."""
NO_NUMBER = MISSING | {"none", "?", "-", "."}
"""The same in a column of numbers: in one of text these may be levels."""

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")  # 18 digits fit in int64
_DATE = re.compile(
    r"(\d{4}([-/.])\d{1,2}\2\d{1,2}|\d{1,2}([-/.])\d{1,2}\3\d{2,4})([T ].*)?"
    r"|\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?"
)
_FOREIGN = re.compile(
    r"[+-]?[€$£]? ?(\d*,\d+([eE][+-]?\d+)?|\d{1,3}([.,'’ \u00a0\u202f]\d{3})+([.,]\d+)?|\d+([.,]\d+)?)"
    r" ?[%€$£]?"
)


class Cells(Enum):
    """What the cells of a column are that are not missing."""

    WHOLE = "whole numbers"
    NUMBER = "numbers"
    BOOL = "true and false"
    TEXT = "text"
    MIXED = "numbers and text"
    FOREIGN = "numbers written otherwise"
    DATE = "dates"

    @property
    def numeric(self) -> bool:
        """Whether they are numbers as they stand."""
        return self in (Cells.WHOLE, Cells.NUMBER, Cells.BOOL)


@dataclass(frozen=True)
class Column:
    """A column as it was read.

    Attributes:
        name: its name.
        kind: what its cells are.
        values: (N,) float64; NaN where a cell is no number.
        missing: (N,) of bool.
        cells: as text; None where the source holds numbers.
    """

    name: str
    kind: Cells
    values: np.ndarray
    missing: np.ndarray
    cells: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def constant(self) -> bool:
        """Whether all its cells are the same, and one is there."""
        if self.missing.any():
            return False
        if self.cells is not None and not self.kind.numeric:
            return len(set(self.cells)) == 1
        return bool((self.values == self.values[:1]).all()) and len(self) > 0

    @property
    def levels(self) -> tuple[str, ...]:
        """The different cells, in order."""
        assert self.cells is not None
        gone = zip(self.cells, self.missing, strict=True)
        return tuple(sorted({cell for cell, missing in gone if not missing}))

    def rows(self, kept: np.ndarray) -> Column:
        """The same of some rows, (N,) of bool."""
        cells = None
        if self.cells is not None:
            cells = tuple(cell for cell, keep in zip(self.cells, kept, strict=True) if keep)
        changed = {"values": self.values[kept], "missing": self.missing[kept], "cells": cells}
        return replace(self, **changed)

    def cell(self, row: int) -> str:
        """A cell as text for people."""
        text = f"{self.values[row]:g}" if self.cells is None else self.cells[row]
        return repr(text if len(text) <= 40 else text[:37] + "...")


@dataclass(frozen=True)
class Sheet:
    """A table as it was read.

    Attributes:
        source: what people call it, quoted in messages.
        columns: N rows each.
        place: of a row in the source, for people: "line 7".
        y: the targets, where the source keeps them apart from the columns; else None.
        labels: names of the classes 0..C−1, where the source has some.
    """

    source: str
    columns: tuple[Column, ...]
    place: Callable[[int], str]
    y: np.ndarray | None = None
    labels: tuple[str, ...] | None = None

    @property
    def names(self) -> list[str]:
        """Of the columns."""
        return [column.name for column in self.columns]

    def column(self, name: str, what: str) -> Column:
        """One column.

        Raises:
            InputError: if there is none, with the nearest name.
        """
        if name not in self.names:
            raise unknown_name(f"{what} in {self.source}:", name, self.names)
        return self.columns[self.names.index(name)]


def number(cell: str) -> float:
    """The number in a cell, NaN if there is none; ``1_000`` is a number in Python only.

    >>> number("2e3"), number("1_000")
    (2000.0, nan)
    """
    try:
        return float("nan") if "_" in cell else float(cell)
    except ValueError:
        return float("nan")


def column_of_text(name: str, cells: Sequence[str], category: bool = False) -> Column:
    """A column whose cells came as text, and what they are.

    Args:
        name: its name.
        cells: without spaces at their ends.
        category: whether they are levels, whatever they look like.

    >>> [column_of_text("a", cells.split()).kind.value for cells in ("1 2", "1.5 NA", "red 2", "x none")]
    ['whole numbers', 'numbers', 'numbers and text', 'text']
    >>> column_of_text("a", ["2,5", "3"]).kind.value, column_of_text("a", ["2024-05-01"]).kind.value
    ('numbers written otherwise', 'dates')
    """
    values = np.array([number(cell) for cell in cells], dtype=np.float64)
    small = [cell.lower() for cell in cells]
    gone = np.array([cell in NO_NUMBER for cell in small], dtype=bool)
    odd = [small[row] for row in np.flatnonzero(np.isnan(values) & ~gone)]
    found = not np.isnan(values).all()
    if category or (odd and not found and not set(odd) <= {"true", "false"}):
        gone = np.array([cell in MISSING for cell in small], dtype=bool)
        kind = Cells.TEXT
        if not category and all(map(_DATE.fullmatch, odd)):
            kind = Cells.DATE
        elif not category and all(map(_FOREIGN.fullmatch, odd)):
            kind = Cells.FOREIGN
    elif not odd:
        there = (cell for cell, missing in zip(cells, gone, strict=True) if not missing)
        kind = Cells.WHOLE if all(map(_WHOLE.fullmatch, there)) else Cells.NUMBER
    elif not found:
        kind = Cells.BOOL
        values = np.array([{"true": 1.0, "false": 0.0}.get(c, np.nan) for c in small])
    else:
        kind = Cells.FOREIGN if all(map(_FOREIGN.fullmatch, odd)) else Cells.MIXED
    return Column(name, kind, values, gone, tuple(cells))


def column_of_numbers(name: str, values: np.ndarray, kind: Cells = Cells.NUMBER) -> Column:
    """A column whose cells are numbers; NaN is a missing one.

    >>> column_of_numbers("a", np.array([1.0, np.nan])).missing.tolist()
    [False, True]
    """
    values = np.ascontiguousarray(values, dtype=np.float64)
    return Column(name, kind, values, np.isnan(values))


# -- what can be used -----------------------------------------------------------------------------


@dataclass
class _Faults:
    """Columns that cannot be used, by what is wrong with them."""

    named: dict[str, list[str]] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    drop: dict[str, None] = field(default_factory=dict)  # in order, each once

    def add(self, what: str, column: Column, shown: str, flag: str | None = None) -> None:
        self.named.setdefault(what, []).append(f"{column.name!r} ({shown})")
        if flag is None:
            self.drop[column.name] = None
        else:
            self.flags.add(flag)


_TEXT = "text (--one-hot, or --drop)"
_LONG = f"more than {MOST_LEVELS} different texts (--drop)"
_MIXED = "numbers and text (correct the text, or --drop)"
_MIXED_LEVELS = "numbers and text (correct the text, --one-hot if they are levels, or --drop)"
_FOREIGN_NUMBERS = "numbers written otherwise (write them with a decimal point alone, or --drop)"
_DATES = "dates (--drop, or put a number in their place)"
_INFINITE = "infinite values (correct them, or --drop)"
_EMPTY = "no value at all (--drop)"
_LACKING = "missing values (--drop-missing, or --drop)"


def check_usable(
    sheet: Sheet,
    columns: Sequence[Column],
    one_hot: bool,
    weights: Column | None = None,
    kept: np.ndarray | None = None,
) -> None:
    """Refuse columns that cannot be inputs, all in one message, with what to do for each.

    Args:
        sheet: where they are from.
        columns: those that are to be inputs.
        one_hot: whether text is taken as categories.
        weights: the column of sample weights, if there is one.
        kept: which rows of the table are looked at, (N,) of bool; all if None.

    Raises:
        InputError: naming every column that cannot be used.
    """
    faults = _Faults()
    if kept is not None and not kept.all():
        rows, place = np.flatnonzero(kept), sheet.place
        sheet = replace(sheet, place=lambda row: place(int(rows[row])))
        columns = [column.rows(kept) for column in columns]
        weights = weights and weights.rows(kept)
    for column in columns:
        _find_faults(sheet, column, one_hot, faults)
    if weights is not None and weights.missing.any():
        faults.add(_LACKING, weights, _lacking(sheet, weights), "--drop-missing")
    if not faults.named:
        return
    count = len({text.rpartition(" (")[0] for texts in faults.named.values() for text in texts})
    parts = [f"{what}: {listed(texts, MOST_NAMED)}" for what, texts in faults.named.items()]
    constant = [column.name for column in columns if column.constant]
    if constant:
        parts.append(f"constant and left out anyway: {listed(constant, MOST_NAMED)}")
    raise InputError(
        f"{sheet.source} has {count} column(s) that cannot be used as they are: "
        f"{'; '.join(parts)}. {_remedy(faults)}"
    )


def _find_faults(sheet: Sheet, column: Column, one_hot: bool, faults: _Faults) -> None:
    if len(column) and column.missing.all():
        faults.add(_EMPTY, column, f"{len(column)} rows")
        return
    if column.constant and not np.isinf(column.values).any():
        return
    if column.missing.any():
        faults.add(_LACKING, column, _lacking(sheet, column), "--drop-missing")
    infinite = np.isinf(column.values)
    strange = np.isnan(column.values) & ~column.missing
    if column.kind.numeric:
        if infinite.any():
            faults.add(_INFINITE, column, _first(sheet, column, infinite))
    elif column.kind is Cells.DATE:
        faults.add(_DATES, column, _first(sheet, column, ~column.missing))
    elif column.kind is Cells.FOREIGN:
        faults.add(_FOREIGN_NUMBERS, column, _first(sheet, column, strange))
    elif not may_be_levels(column):
        faults.add(_MIXED, column, _first(sheet, column, strange))
    elif column.kind is Cells.MIXED and not one_hot:
        faults.add(_MIXED_LEVELS, column, _first(sheet, column, strange))
    elif (count := len(column.levels)) > MOST_LEVELS:
        faults.add(_LONG, column, f"{count}, as {_first(sheet, column, ~column.missing)}")
    elif not one_hot:
        faults.add(_TEXT, column, _first(sheet, column, ~column.missing), "--one-hot")


def may_be_levels(column: Column) -> bool:
    """Whether text may be levels of a category: not where it stands among many numbers."""
    if column.kind is not Cells.MIXED:
        return column.kind is Cells.TEXT
    finite = column.values[np.isfinite(column.values)]
    return bool((finite == np.rint(finite)).all()) and len(column.levels) <= MOST_MIXED


def _first(sheet: Sheet, column: Column, rows: np.ndarray) -> str:
    row = int(np.flatnonzero(rows)[0])
    return f"{sheet.place(row)}: {column.cell(row)}"


def _lacking(sheet: Sheet, column: Column) -> str:
    return f"{int(column.missing.sum())} of {len(column)}, first {sheet.place(int(column.missing.argmax()))}"


def _remedy(faults: _Faults) -> str:
    """What to type for all of them at once."""
    names = list(faults.drop)
    typed = sorted(faults.flags) + [f"--drop {_quoted(name)}" for name in names[:MOST_NAMED]]
    called = [f"{flag[2:].replace('-', '_')}=True" for flag in sorted(faults.flags)]
    called += [f"drop={names[:MOST_NAMED]!r}"] if names else []
    return f"All at once: {' '.join(typed)} (in Python {', '.join(called)})"


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.=+-]+", name) else f"'{name}'"


def listed(names: Sequence[str], most: int = 8) -> str:
    """At most so many names, and how many more there are.

    >>> listed(["a", "b"]), listed("abcdefghij")
    ('a, b', 'a, b, c, d, e, f, g, h and 2 more')
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


# -- targets --------------------------------------------------------------------------------------


def target_missing(column: Column, labels: bool) -> np.ndarray:
    """Which targets are missing, (N,) of bool: among labels only an empty cell and nan are."""
    if column.cells is None or (column.kind.numeric and not labels):
        return column.missing
    return np.array([cell.lower() in NOTHING for cell in column.cells], dtype=bool)


def target_values(sheet: Sheet, column: Column, labels: bool, kept: np.ndarray) -> np.ndarray:
    """The targets of some rows: text, bool, integers or finite numbers, (n,).

    Args:
        sheet: where the column is from.
        column: the target's.
        labels: whether targets that mix numbers and text are meant, as labels.
        kept: which rows, (N,) of bool.

    Raises:
        InputError: for a target that is missing, infinite or of no use, with its place.
    """
    missing = target_missing(column, labels) & kept
    if missing.any():
        row, hint = int(missing.argmax()), ""
        if column.cells is not None and column.cells[row].lower() not in NOTHING:
            hint = "; if it is a label, say --loss cross_entropy (loss='cross_entropy')"
        raise InputError(
            f"the target {column.name!r} of {sheet.source} is missing in {int(missing.sum())} of "
            f"{int(kept.sum())} rows, first in {sheet.place(row)} ({column.cell(row)}); impute it, or leave "
            f"such rows out with --drop-missing (drop_missing=True){hint}"
        )
    wrong, advice = np.isinf(column.values), "correct it, or remove the row"
    if column.kind is Cells.FOREIGN or (column.kind is Cells.MIXED and not labels):
        wrong |= np.isnan(column.values)
        advice = "if targets are labels, say --loss cross_entropy (loss='cross_entropy')"
        if column.kind is Cells.FOREIGN:
            advice = "write numbers with a decimal point alone"
    elif column.kind is Cells.DATE and not labels:
        wrong |= True
        advice = "dates are nothing to learn: choose another column with --target"
    if (wrong & kept).any():
        row = int((wrong & kept).argmax())
        raise InputError(
            f"{sheet.source}, {sheet.place(row)}: the target {column.name!r} is {column.cell(row)}, expected "
            f"a finite number, or a class as text; {advice}"
        )
    own = column.rows(kept)
    cells, values = own.cells, own.values
    if column.kind is Cells.WHOLE and not own.missing.any():
        if cells is None:
            return values.astype(np.int64)
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    if cells is None:
        return values.astype(bool) if column.kind is Cells.BOOL else values
    if column.kind is Cells.NUMBER and not own.missing.any():
        return values
    return np.array(cells)


# -- as numbers -----------------------------------------------------------------------------------


def encoded(columns: Iterable[Column], levels: Mapping[str, tuple[str, ...]]) -> list[np.ndarray]:
    """What rows become as numbers: categories one number of 0 and 1 for each level but the first.

    >>> colours = column_of_text("colour", ["red", "blue", "red"])
    >>> [column.tolist() for column in encoded([colours], {"colour": ("blue", "red")})]
    [[1.0, 0.0, 1.0]]
    """
    found: list[np.ndarray] = []
    for column in columns:
        if column.name not in levels:
            found.append(column.values)
            continue
        cells = np.array(column.cells)
        found += [(cells == level).astype(np.float64) for level in levels[column.name][1:]]
    return found
