"""Reading a .csv or .npz file into inputs and targets, with errors that say where it is wrong."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from semiflat.errors import InputError, unknown_name

SUFFIXES = (".csv", ".npz")
"""How the name of a file that can be read ends, in small or capital letters."""

_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")


@dataclass(frozen=True)
class Table:
    """What was read: finite inputs ``(N, d)`` in float64, and N targets in the dtype they came in.

    Targets are text, bool, integer or finite floating point, ``(N,)`` or ``(N, M)`` with M > 1.
    ``labels`` names the classes 0..C−1 where the source has names for them.
    """

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    labels: tuple[str, ...] | None = None


def read_file(source: str, target: str | None = None, labels: bool = False) -> Table:
    """Inputs and targets of a .csv or .npz file.

    Args:
        source: the path.
        target: the target's column in a .csv; the last one if None.
        labels: whether a .csv's target that mixes numbers and text is meant, as labels.

    Raises:
        InputError: if the file cannot be read, or holds anything but a table of finite numbers.
    """
    try:
        content = Path(source).read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"file {source!r} does not exist; check the path") from error
    except IsADirectoryError as error:
        raise InputError(f"{source!r} is a directory; give a .csv or .npz file") from error
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InputError(f"file {source!r} cannot be read ({why}); check the path") from error
    if not content.strip():
        raise InputError(f"file {source!r} is empty; expected inputs and targets")
    if source.lower().endswith(".csv"):
        return _read_csv(source, content, target, labels)
    if target is not None:
        raise InputError(
            f"target {target!r} was given with {source!r}, but only a .csv has columns to choose "
            "from; a .npz has its targets in the array y, so leave target out"
        )
    return _read_npz(source, content)


def listed(names: Sequence[str]) -> str:
    """At most eight names, and how many more there are.

    >>> listed(["a", "b"]), listed("abcdefghij")
    ('a, b', 'a, b, c, d, e, f, g, h and 2 more')
    """
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


# -- csv ------------------------------------------------------------------------------------------


def _read_csv(source: str, content: bytes, target: str | None, labels: bool) -> Table:
    try:
        decoded = content.decode("utf-8-sig")  # Excel starts its UTF-8 files with a mark
    except UnicodeDecodeError as error:
        raise InputError(
            f"file {source!r} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8"
        ) from error
    if "\0" in decoded:
        raise InputError(f"file {source!r} holds binary data, not text; save it as CSV in UTF-8")
    rows = _rows(source, decoded, _delimiter(decoded))
    header = [" ".join(name.split()) for name in next(rows, (1, []))[1]]
    if not header:
        raise InputError(f"file {source!r} is empty; expected a header and rows")
    _check_header(source, header)
    if target is not None and target not in header:
        raise unknown_name(f"target column in {source!r}:", target, header)
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

    place = len(header) - 1 if target is None else header.index(target)
    inputs = [column for column in range(len(header)) if column != place]
    X = np.array([[_number(row[column]) for column in inputs] for row in cells])
    if not np.isfinite(X).all():
        row, column = np.argwhere(~np.isfinite(X))[0]
        name = header[inputs[column]]
        raise _bad_cell(source, lines[row], name, cells[row][inputs[column]])
    y = _csv_target(source, header[place], lines, [row[place] for row in cells], labels)
    return Table(X, y, tuple(header[column] for column in inputs))


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
    if any(header) and not any(np.isnan(_number(cell)) for cell in header if cell):
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


def _csv_target(
    source: str, name: str, lines: list[int], cells: list[str], labels: bool
) -> np.ndarray:
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", cell) for cell in cells):  # 18 digits fit in int64
        return np.array([int(cell) for cell in cells], dtype=np.int64)
    values = np.array([_number(cell) for cell in cells])
    if np.isfinite(values).all():
        return values
    mixed = bool(np.isfinite(values).any()) and not labels
    for line, cell, value in zip(lines, cells, values, strict=True):
        if not cell or cell.lstrip("+-").lower() == "nan" or np.isinf(value):
            advice = "impute it, or remove the row"
            raise _bad_cell(source, line, name, cell, advice, expected="a target")
        if _DECIMAL_COMMA.fullmatch(cell) or (mixed and np.isnan(value)):
            advice = "correct it, or if targets are labels, pass loss='cross_entropy'"
            raise _bad_cell(source, line, name, cell, advice)
    return np.array(cells)


def _number(cell: str) -> float:
    """The number in a cell, NaN if there is none; ``1_000`` is a number in Python only."""
    try:
        return float("nan") if "_" in cell else float(cell)
    except ValueError:
        return float("nan")


def _short(cell: str) -> str:
    return repr(cell if len(cell) <= 40 else cell[:37] + "...")


def _bad_cell(
    source: str,
    line: int,
    name: str,
    cell: str,
    advice: str = "impute it, encode text as numbers, or remove the row or column",
    expected: str = "a finite number",
) -> InputError:
    if _DECIMAL_COMMA.fullmatch(cell):
        advice = "write decimals with a point"
    found = _short(cell) if cell else "an empty cell ('')"
    return InputError(
        f"{source!r}, line {line}, column {name!r}: found {found}, expected {expected}; {advice}"
    )


# -- npz ------------------------------------------------------------------------------------------


def _read_npz(source: str, content: bytes) -> Table:
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
    _check_finite(source, "X", X)
    if y.dtype.kind == "f":
        _check_finite(source, "y", y)
    return Table(X, y, tuple(f"x{column}" for column in range(X.shape[1])))


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


def _check_finite(source: str, name: str, array: np.ndarray) -> None:
    wrong = ~np.isfinite(array)
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        place = f"row {where[0]}" + (f", column {where[1]}" if len(where) > 1 else "")
        raise InputError(
            f"{name} in {source!r} holds {array[where]} at {place} (counted from 0), one of "
            f"{int(wrong.sum())} value(s) that are not finite; remove or impute them"
        )
