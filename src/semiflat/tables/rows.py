"""New rows of a table, made inputs of a network as those that it was made on."""

from __future__ import annotations

from typing import Any

import numpy as np

from semiflat.errors import InputError
from semiflat.records.preparation import Preparation
from semiflat.tables.columns import (
    Column,
    Sheet,
    check_usable,
    column_of_numbers,
    column_of_text,
    encoded,
    listed,
)
from semiflat.tables.frames import FRAME, is_frame, sheet_of_frame


def inputs_of(how: Preparation, rows: Any) -> np.ndarray:
    """Inputs of the network, (n, d) float64, from rows in the units of the table.

    Args:
        how: what was done to the table's columns.
        rows: a data frame with these columns by name, in any order, or an array of them in their order.

    Raises:
        InputError: for other columns, levels that the table did not have, or values that are no numbers.
    """
    sheet = sheet_of_frame(rows) if is_frame(rows) else _sheet_of_array(how, rows)
    names = set(sheet.names)
    lacking = [name for name in how.columns if name not in names]
    strange = [name for name in sheet.names if name not in {*how.columns, *how.others}]
    if lacking or strange:
        wrong = [f"lacks {listed(lacking)}"] if lacking else []
        wrong += [f"has {listed(strange)}, which the data did not have"] if strange else []
        raise InputError(
            f"{sheet.source} {' and '.join(wrong)}; give the columns that the point was made on: "
            f"{listed(how.columns, 40)}"
        )
    columns = [sheet.columns[sheet.names.index(name)] for name in how.columns]
    columns = [_as_text(column) if column.name in how.levels else column for column in columns]
    for column in columns:
        if (
            len(how.levels.get(column.name, ())) > 1
        ):  # what was constant is left out, whatever it is
            _check_levels(sheet, column, how.levels[column.name])
    _check_numbers(sheet, [column for column in columns if column.name not in how.levels])
    table = dict(zip(how.encoded, encoded(columns, how.levels), strict=True))
    X = np.column_stack([table[name] for name in how.features])
    done = how.standardisation
    if done is not None:
        with np.errstate(over="ignore"):
            X = (X - np.array(done.X_mean)) / np.array(done.X_scale)
    return np.ascontiguousarray(X)


def _sheet_of_array(how: Preparation, rows: Any) -> Sheet:
    rows = rows.detach() if hasattr(rows, "detach") else rows
    rows = rows.toarray() if hasattr(rows, "toarray") else rows
    given = np.asarray(rows, dtype=object if how.levels else None)
    if given.ndim != 2 or given.shape[1] != len(how.columns):
        hint = "; for one row give [row]" if given.shape == (len(how.columns),) else ""
        raise InputError(
            f"the rows have shape {given.shape}; expected (n, {len(how.columns)}), the columns "
            f"{listed(how.columns, 40)}{hint}"
        )
    if not len(given):
        raise InputError("there are no rows; give at least one")
    columns = []
    for name, cells in zip(how.columns, given.T, strict=True):
        if name in how.levels:
            texts = ["" if cell is None or cell != cell else str(cell).strip() for cell in cells]
            columns.append(column_of_text(name, texts, category=True))
            continue
        try:
            columns.append(column_of_numbers(name, cells.astype(np.float64)))
        except (TypeError, ValueError):
            columns.append(column_of_text(name, [str(cell).strip() for cell in cells]))
    return Sheet("the rows", tuple(columns), lambda row: f"row {row}")


def _as_text(column: Column) -> Column:
    """With cells as text: a level such as 1 may be a number in a frame."""
    if column.cells is not None:
        return column
    return column_of_text(column.name, [f"{value:g}" for value in column.values], category=True)


def _check_levels(sheet: Sheet, column: Column, levels: tuple[str, ...]) -> None:
    for row, text in enumerate(column.cells or ()):
        if text not in levels:
            raise InputError(
                f"{sheet.source}, {sheet.place(row)}: column {column.name!r} holds {column.cell(row)}, which "
                f"is none of the levels that the data had: {listed(levels, 40)}; "
                "leave the row out, or correct it"
            )


def _check_numbers(sheet: Sheet, columns: list[Column]) -> None:
    for column in columns:
        wrong = ~np.isfinite(column.values)
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{sheet.source}, {sheet.place(row)}: column {column.name!r} holds {column.cell(row)}, and a "
                "finite number is needed; remove the row, or impute it"
            )


def frame_as_inputs(frame: Any) -> tuple[np.ndarray, tuple[str, ...]]:
    """A data frame of numbers as an array, (N, d) float64, and the names of its columns.

    Raises:
        InputError: naming every column that cannot be an input.
    """
    sheet = sheet_of_frame(frame)
    try:
        check_usable(sheet, sheet.columns, one_hot=False)
        constant = next((c.name for c in sheet.columns if not c.kind.numeric), None)
        if constant is not None:
            raise InputError(
                f"column {constant!r} of {FRAME} is no number, and the same in every row"
            )
    except InputError as error:
        raise InputError(
            f"{error}. These are options of load_data(frame, target=...), and Problem(net, data) takes what "
            "it gives"
        ) from error
    return np.column_stack([column.values for column in sheet.columns]), tuple(sheet.names)
