"""Files of tables, read into columns, with errors that say where they are wrong."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from semiflat.errors import InputError
from semiflat.tables.columns import (
    Sheet,
    column_of_numbers,
    column_of_text,
    listed,
    number,
)
from semiflat.tables.frames import sheet_of_parquet

SUFFIXES = (".csv", ".tsv", ".npz", ".parquet")
"""How the name of a file that can be read ends, in small or capital letters."""


def read_file(source: str) -> Sheet:
    """The columns of a file, whose kind its name tells.

    Raises:
        InputError: if the file cannot be read, or holds no table.
    """
    try:
        content = Path(source).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"file {source!r} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise InputError(
            f"{source!r} is a directory; give a file that ends in {', '.join(SUFFIXES)}"
        ) from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"file {source!r} cannot be read ({why}); check the path") from error
    if not content.strip():
        raise InputError(f"file {source!r} is empty; expected inputs and targets")
    match source.lower().rpartition(".")[2]:
        case "npz":
            return _read_npz(source, content)
        case "parquet":
            return sheet_of_parquet(source, content)
        case "tsv":
            return _read_csv(source, content, "\t")
        case _:
            return _read_csv(source, content)


# -- csv ------------------------------------------------------------------------------------------


def _read_csv(source: str, content: bytes, delimiter: str | None = None) -> Sheet:
    try:
        decoded = content.decode("utf-8-sig")  # Excel starts its UTF-8 files with a mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {source!r} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8"
        ) from error
    if "\0" in decoded:
        raise InputError(f"file {source!r} holds binary data, not text; save it as CSV in UTF-8")
    rows = _rows(source, decoded, delimiter or _delimiter(decoded))
    header = [" ".join(name.split()) for name in next(rows, (1, []))[1]]
    if not header:
        raise InputError(f"file {source!r} is empty; expected a header and rows")
    _check_header(source, header)
    lines, cells = [], []
    for line, row in rows:
        if len(row) != len(header):
            raise InputError(
                f"{source!r}, line {line}: {len(row)} cell(s), but the header has {len(header)} "
                "columns; give every row one cell a column"
            )
        lines.append(line)
        cells.append(row)
    if not cells:
        raise InputError(f"file {source!r} has a header but no rows; expected a sample a row")
    columns = zip(header, zip(*cells, strict=True), strict=True)
    return Sheet(
        repr(source),
        tuple(column_of_text(name, own) for name, own in columns),
        lambda row: f"line {lines[row]}",
    )


def _delimiter(text: str) -> str:
    # The one that cuts the header into most columns; csv.Sniffer guesses from letters as well.
    def columns(delimiter: str) -> int:
        try:
            lines = io.StringIO(text.lstrip("\r\n"), newline="")
            return len(next(csv.reader(lines, delimiter=delimiter)))
        except (csv.Error, StopIteration):
            return 0

    return max(",;\t", key=columns)


def _rows(source: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, each with the line it starts on, counted from 1."""
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True
    )
    start = 1
    try:
        for row in reader:
            if len(row) > 1 or "".join(row).strip():
                yield start, [cell.strip() for cell in row]
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{source!r}, line {start}: not a row of a CSV file ({error}); check its quotes"
        ) from error


def _check_header(source: str, header: list[str]) -> None:
    if any(header) and not any(np.isnan(number(cell)) for cell in header if cell):
        raise InputError(
            f"the first row of {source!r} holds numbers only, {listed(header)!r}; expected a "
            "header: put a row with a name for each column on top"
        )
    if len(header) < 2:
        raise InputError(
            f"file {source!r} has the single column {_short(header[0])}; expected at least one "
            "input and the target, separated by commas, semicolons or tabs"
        )
    for place, name in enumerate(header):
        if not name:
            raise InputError(
                f"column {place + 1} of {source!r} has no name in the header; name it, or delete "
                "it (pandas writes none of its own with to_csv(..., index=False))"
            )
        if name in header[:place]:
            raise InputError(
                f"columns {header.index(name) + 1} and {place + 1} of {source!r} are both named "
                f"{name!r}; give every column a name of its own"
            )


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


# -- npz ------------------------------------------------------------------------------------------


def _read_npz(source: str, content: bytes) -> Sheet:
    if not content.startswith(b"PK"):
        raise InputError(
            f"file {source!r} is no .npz archive; write one with numpy.savez(path, X=X, y=y)"
        )
    X, y = _npz_arrays(source, content)
    if X.dtype.kind not in "biuf":
        raise InputError(
            f"X in {source!r} has dtype {X.dtype}; expected real numbers: encode text as numbers"
        )
    if X.ndim != 2:
        how = "X.reshape(-1, 1) for one column" if X.ndim == 1 else "X.reshape(N, -1)"
        raise InputError(
            f"X in {source!r} has shape {X.shape}; expected (N, d), a row a sample: "
            f"reshape it with {how}"
        )
    if y.dtype.kind not in "Ubiuf":
        raise InputError(
            f"y in {source!r} has dtype {y.dtype}; expected real numbers, bool or text "
            "(bytes become text with y.astype(str))"
        )
    if y.ndim not in (1, 2) or y.shape[1:] == (0,):
        raise InputError(f"y in {source!r} has shape {y.shape}; expected (N,) or (N, M)")
    if len(X) != len(y):
        raise InputError(
            f"X in {source!r} has {len(X)} samples, but y has {len(y)}; give one target a sample"
        )
    if y.shape[1:] == (1,):
        y = y[:, 0]
    with np.errstate(over="ignore"):  # what float64 cannot hold becomes inf, and is refused
        X = np.ascontiguousarray(X, dtype=np.float64)
        y = y.astype(np.float64) if y.dtype.kind == "f" else y
    columns = (column_of_numbers(f"x{k}", X[:, k]) for k in range(X.shape[1]))
    return Sheet(repr(source), tuple(columns), lambda row: f"row {row}", y)


def _npz_arrays(source: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            for key in ("X", "y"):
                if key not in archive.files:
                    raise InputError(
                        f"file {source!r} has no array {key!r}; expected the arrays X and y, found "
                        f"{listed(archive.files) or 'none'}"
                    )
                arrays.append(archive[key])
                if not isinstance(arrays[-1], np.ndarray):
                    raise ValueError(f"{key} is no array")
    except InputError:
        raise
    except (ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error):
            raise InputError(
                f"array {'Xy'[len(arrays)]} in {source!r} holds Python objects, which are not "
                "loaded because a pickle can run code; save it as numbers or text, as in "
                "y.astype(str)"
            ) from error
        why = str(error).partition("\n")[0]
        raise InputError(
            f"file {source!r} is damaged ({why}); write it anew with numpy.savez(path, X=X, y=y)"
        ) from error
    return arrays[0], arrays[1]
