"""A search in a folder: what has ended is kept, and is not run again.

``starts.jsonl`` is JSON Lines. The first line says which search it is, every other one holds a start
that has ended. Lines are only ever added, so that a process that is killed loses at most the line it
was writing, and that one is recognised and overwritten.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from semiflat._version import __version__
from semiflat.errors import InputError
from semiflat.files import lock
from semiflat.problem import Problem, check_names
from semiflat.search.block import Settings
from semiflat.search.plain import from_plain, to_plain
from semiflat.search.record import Finished

FORMAT = "semiflat-search-1"
FILE = "starts.jsonl"
_BEGINNING = f'{{"format": "{FORMAT}"'.encode()


def header(
    problems: Sequence[Problem], settings: Settings, start_scale: float, starts: int
) -> dict[str, Any]:
    """What a start's result depends on, as plain data.

    Args:
        starts: of each problem. Where there is one problem, more may be asked for later; with
            several, the number of a start depends on it.

    Raises:
        InputError: if the activation or loss is a Python function, of which a file can say nothing.
    """
    net, loss = problems[0].net, problems[0].loss
    activations = [activation.name for activation in net.activations]
    check_names(
        problems[0],
        "a folder cannot tell whether it is the same one when the search goes on; leave out away",
    )
    several = {"starts of each problem": starts} if len(problems) > 1 else {}
    return {
        "format": FORMAT,
        "semiflat": __version__,
        "widths": list(net.widths),
        "activations": activations,
        "biases": list(net.biases),
        "loss": loss.name,
        "dtype": str(problems[0].dtype).removeprefix("torch."),
        "weight decay": problems[0].weight_decay,
        "data (SHA-256)": [problem.data_hash for problem in problems],
        "kind": settings.kind,
        "seed": settings.seed,
        "tolerance": settings.tolerance,
        "max_iterations": settings.max_iterations,
        "start_scale": start_scale,
        **several,
    }


class Store:
    """The folder of a search, held by this process alone until it is closed.

    Args:
        folder: made if it does not exist.
        problems, settings, start_scale, starts: see :func:`header`.

    Raises:
        InputError: if the folder cannot be used, holds another search or damaged lines, or another
            process writes to it.
    """

    def __init__(
        self,
        folder: str | Path,
        problems: Sequence[Problem],
        settings: Settings,
        start_scale: float,
        starts: int,
    ) -> None:
        self.path = Path(folder) / FILE
        head = header(problems, settings, start_scale, starts)
        self._parameters = problems[0].net.parameter_count
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise self._cannot_write(error) from error
        try:
            lock(self._file, self.path)
            self._done: dict[tuple[int, int], dict[int, Finished]] = {}
            content = self.path.read_bytes()
            # A last line without its end was being written when the process was killed.
            lines = content.split(b"\n")[:-1]
            self._end = sum(len(line) + 1 for line in lines)
            if not lines and content[: len(_BEGINNING)] != _BEGINNING[: len(content)]:
                raise self._damaged(1, "it is not the beginning of a search")
            if len(lines) == 1 and self._head(lines[0]):
                self._end = 0  # nothing has come of that search yet, so another may be begun
            if self._end:
                self._read(lines, head)
            else:
                self._append([head])
        except BaseException:
            self.close()
            raise

    def done(self, numbers: Sequence[int]) -> list[Finished] | None:
        """The results of a block of starts, if all of it is here.

        A block is run as a batch, and rounding depends on what is in it. So only the same starts
        together count, and a block that is here in part is run again.
        """
        block = self._done.get(_key(numbers), {})
        return [block[n] for n in numbers] if all(n in block for n in numbers) else None

    def add(self, numbers: Sequence[int], finished: Sequence[Finished]) -> None:
        """Keep results of starts of the block ``numbers``; they are on the disk on return.

        Raises:
            InputError: if the disk does not take them.
        """
        block = self._done.setdefault(_key(numbers), {})
        new = [end for end in finished if end.start not in block]
        if new:
            self._append([{"block": _key(numbers), **to_plain(end)} for end in new])
            block.update({end.start: end for end in new})

    def close(self) -> None:
        """Let others write to the folder."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _head(self, line: bytes) -> dict[str, Any]:
        stored = self._line(1, line)
        if stored.get("format") != FORMAT:
            raise InputError(
                f"{str(self.path)!r} is of format {stored.get('format')!r}, this version writes "
                f"{FORMAT!r}; give another folder"
            )
        return stored

    def _read(self, lines: list[bytes], head: dict[str, Any]) -> None:
        stored = self._head(lines[0])
        for name in [*head, *(stored.keys() - head.keys())]:
            if stored.get(name) != head.get(name):
                raise InputError(
                    f"{str(self.path.parent)!r} holds a search with {name} "
                    f"{_short(stored.get(name))}, this one has {_short(head.get(name))}; give "
                    "another folder, or the settings of the first search"
                )
        for number, line in enumerate(lines[1:], start=2):
            plain = self._line(number, line)
            try:
                first, count = from_plain(tuple[int, int], plain.pop("block", None))
                finished = from_plain(Finished, plain)
                if tuple(finished.vector.shape) != (self._parameters,):
                    raise ValueError(f"it does not hold {self._parameters} parameters")
            except ValueError as error:
                raise self._damaged(number, str(error)) from error
            self._done.setdefault((first, count), {})[finished.start] = finished

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
            else "delete that line to run its block of starts again"
        )
        return InputError(f"{str(self.path)!r} is damaged in line {number}: {why}; {what}")

    def _append(self, records: Sequence[Any]) -> None:
        content = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records).encode()
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


def _key(numbers: Sequence[int]) -> tuple[int, int]:
    return numbers[0], len(numbers)


def _short(value: Any) -> str:
    text = "none" if value is None else json.dumps(value)
    return text if len(text) <= 90 else f"{text[:87]}…"
