"""A store in one file of JSON Lines.

The first line says which run it is, every other one holds a value. Lines are only ever added, so that a
process that is killed loses at most the line it was writing, and that one is recognised and overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.files import lock
from semiflat.jobs.store import Contents, JobStore, Value


class LinesStore(JobStore[Value]):
    """A file of values, held by this process alone until it is closed; see :class:`JobStore`.

    Args:
        path: of the file; made, and its folder, if it does not exist.
        contents: what it keeps, and of which run.
        anew: drop what it holds, whatever that is.

    Raises:
        InputError: if the file cannot be used, holds another run's values or damaged lines, or another
            process writes to it.
    """

    def __init__(self, path: Path, contents: Contents[Value], anew: bool = False) -> None:
        self.path, self.contents = path, contents
        self._values: dict[Hashable, Value] = {}
        self._end = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            lock(self._file, path)
            if anew:
                os.ftruncate(self._file, 0)
            self._read(path.read_bytes())
        except BaseException:
            self.close()
            raise

    def put(self, values: Sequence[Value]) -> None:
        new: dict[Hashable, Value] = {}
        for value in values:
            if (key := self.contents.key(value)) not in self._values:
                new.setdefault(key, value)
        if new:
            head = [] if self._end else [self.contents.header]
            self._append([*head, *map(self.contents.plain, new.values())])
            self._values |= new

    def get(self, key: Hashable) -> Value | None:
        return self._values.get(key)

    def keys(self) -> Collection[Hashable]:
        return self._values.keys()

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _read(self, content: bytes) -> None:
        # A last line without its end was being written when the process was killed.
        lines = content.split(b"\n")[:-1]
        if len(lines) < 2:  # nothing has come of that run yet, so another may be begun
            name, value = next(iter(self.contents.header.items()))
            beginning = json.dumps({name: value})[:-1].encode()
            if content[: len(beginning)] != beginning[: len(content)]:
                raise self._damaged(1, f"it is not the beginning of {self.contents.what}")
            return
        self.contents.check(self.path, self._line(1, lines[0]))
        for number, line in enumerate(lines[1:], start=2):
            plain = self._line(number, line)
            try:
                value = self.contents.value(plain)
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            self._values[self.contents.key(value)] = value
        self._end = sum(len(line) + 1 for line in lines)

    def _line(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            plain = json.loads(line)
        except ValueError as error:
            raise self._damaged(number, "it is no JSON") from error
        if not isinstance(plain, dict):
            raise self._damaged(number, "it holds no record")
        return plain

    def _damaged(self, number: int, why: str) -> InputError:
        what = (
            "give another folder, or delete the file to begin again"
            if number == 1
            else "delete that line to run again what it held"
        )
        return InputError(f"{str(self.path)!r} is damaged in line {number}: {why}; {what}")

    def _append(self, records: Sequence[dict[str, Any]]) -> None:
        content = "".join(json.dumps(record) + "\n" for record in records).encode()
        try:
            # What an interrupted write may have left behind goes first.
            os.ftruncate(self._file, self._end)
            os.lseek(self._file, self._end, os.SEEK_SET)
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(self._file, rest) :]
            os.fsync(self._file)
        except OSError as error:
            raise self._cannot_write(error) from error
        self._end += len(content)

    def _cannot_write(self, error: OSError) -> InputError:
        return InputError(
            f"cannot write {str(self.path)!r}: {error.strerror or error}; choose a folder that can "
            "be written and has space"
        )
