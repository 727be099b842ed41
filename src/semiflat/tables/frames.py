"""Data frames of pandas, and .parquet files, which become one. pandas is imported for the latter alone."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np

from semiflat.errors import InputError
from semiflat.tables.columns import Cells, Column, Sheet, column_of_numbers, column_of_text

FRAME = "the data frame"


def is_frame(given: Any) -> bool:
    """Whether something is a pandas DataFrame; pandas need not be installed to ask.

    >>> is_frame([[1.0]])
    False
    """
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(given, getattr(pandas, "DataFrame", ()))


def sheet_of_frame(frame: Any, source: str = FRAME) -> Sheet:
    """The columns of a data frame, whose index is no column.

    Raises:
        InputError: without rows or columns, or for two columns of one name.
    """
    names = [str(name) for name in frame.columns]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(
                f"columns {names.index(name) + 1} and {place + 1} of {source} are both named {name!r}; "
                "give every column a name of its own"
            )
    if not names or not len(frame):
        raise InputError(
            f"{source} has {len(frame)} rows and {len(names)} columns; expected samples"
        )
    columns = tuple(_column(name, frame.iloc[:, place]) for place, name in enumerate(names))
    index = frame.index
    plain = type(index).__name__ == "RangeIndex" and (index.start, index.step) == (0, 1)

    def place_of(row: int) -> str:
        return f"row {row}" if plain else f"row {row}, index {index[row]}"

    return Sheet(source, columns, place_of)


def _column(name: str, series: Any) -> Column:
    missing = series.isna().to_numpy(dtype=bool)
    dtype = series.dtype
    kind = getattr(dtype, "kind", "O")
    if kind in "biuf" and kind:
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        if kind == "b":
            return column_of_numbers(name, values, Cells.BOOL)
        there = values[~missing]
        # pandas makes whole numbers with a missing one floats.
        whole = kind in "iu" or (missing.any() and bool((there == np.rint(there)).all()))
        return column_of_numbers(name, values, Cells.WHOLE if whole else Cells.NUMBER)
    cells = ["" if gone else str(cell).strip() for cell, gone in zip(series, missing, strict=True)]
    column = column_of_text(name, cells, category=hasattr(series, "cat"))
    if kind in "mM" or type(dtype).__name__ == "PeriodDtype":
        return Column(name, Cells.DATE, np.full(len(cells), np.nan), missing, tuple(cells))
    return column


def sheet_of_parquet(source: str, content: bytes) -> Sheet:
    """The columns of a .parquet file.

    Raises:
        InputError: without pandas and pyarrow, or if it is damaged.
    """
    try:
        import pandas
        import pyarrow  # noqa: F401  # which pandas reads the file with
    except ImportError as error:
        raise InputError(
            f"file {source!r} needs pandas and pyarrow, which are not installed; run pip install "
            "'semiflat[tables]', or save it as .csv"
        ) from error
    try:
        frame = pandas.read_parquet(io.BytesIO(content))
    except Exception as error:  # of pyarrow's many kinds
        why = " ".join(str(error).split())[:100]
        raise InputError(
            f"file {source!r} is no .parquet file or damaged ({why}); write it anew with "
            "frame.to_parquet(path)"
        ) from error
    return sheet_of_frame(frame, repr(source))
