"""What a command may replace and delete: what it wrote itself, unchanged since.

A name is no proof of that. So each folder has a record of what was written into it:
``.semiflat-written.json`` holds for each file the command and the SHA-256 of what it wrote. A file that is
not in it, or no longer has that digest, belongs to somebody else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from semiflat.errors import InputError
from semiflat.files import as_json, write_json, write_whole

__all__ = ["RECORD", "Outputs", "as_json"]

RECORD = ".semiflat-written.json"
FORMAT = "semiflat-written-1"

Written = dict[str, dict[str, Any]]
"""For each file's name the ``command`` and the ``sha256`` of what it wrote: one; two while it is replaced."""


class Outputs:
    """The files that one command writes.

    Args:
        command: its name.
        force: replace files that it did not write, too.
        reads: the files it reads, by what they are (``"the point"``); these are never replaced.
    """

    def __init__(
        self, command: str, force: bool = False, reads: Mapping[str, str | Path] | None = None
    ) -> None:
        self.command, self.force = command, force
        self._reads = {what: Path(path) for what, path in (reads or {}).items()}

    def check(self, *paths: Path) -> None:
        """Refuse names that cannot be written to; asked before anything long is computed.

        Raises:
            InputError: if one is a file that is read, is named twice, lies in no folder that can be
                written, or is there already and is not this command's own, unchanged.
        """
        names: set[Path] = set()
        for path in paths:
            for what, read in self._reads.items():
                if _same(path, read):
                    raise InputError(f"{str(path)!r} is {what} itself; name another file")
            resolved = path.resolve()
            if resolved in names:
                raise InputError(f"two files cannot both go to {str(path)!r}; name another for one")
            names.add(resolved)
            _check_place(path)
            if os.path.lexists(path) and not self.force and not self.own(path):
                raise InputError(
                    f"{str(path)!r} is in the way: semiflat {self.command} did not write it, or it was "
                    "changed since; name another, move it away, or give --force to replace it"
                )

    def check_folder(self, folder: Path) -> None:
        """Refuse a folder that cannot be made or written to."""
        _check_folder(folder, folder)

    def own(self, path: Path) -> bool:
        """Whether a file is there as this command wrote it."""
        return _own(path, self.command, self._record(path.parent))

    def write(self, files: Mapping[Path, bytes]) -> None:
        """Write files, each whole; those that hold just that already are left alone.

        Raises:
            InputError: see :meth:`check`; then none is written.
        """
        new = {path: content for path, content in files.items() if not _holds(path, content)}
        self.check(*new)
        for folder in dict.fromkeys(path.parent for path in new):
            self._write(folder, {p.name: c for p, c in new.items() if p.parent == folder})

    def remove(self, paths: Iterable[Path]) -> None:
        """Delete those of the files that are this command's own, unchanged; others stay."""
        paths = list(paths)
        for folder in dict.fromkeys(path.parent for path in paths):
            with _alone(folder):
                for path in paths:
                    if path.parent == folder and self.own(path):
                        path.unlink()

    def _write(self, folder: Path, contents: dict[str, bytes]) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot write {str(folder)!r}: {error.strerror or error}") from error
        with _alone(folder):
            known = self._record(folder)
            known = {name: entry for name, entry in known.items() if os.path.lexists(folder / name)}
            after = known | {name: self._entry(_digest(c)) for name, c in contents.items()}
            # First both what is there and what will be, so that whenever the process ends, it is known.
            own = [name for name in contents if _own(folder / name, self.command, known)]
            during = after | {
                name: self._entry(*after[name]["sha256"], _digest((folder / name).read_bytes()))
                for name in own
            }
            _keep(folder, during)
            for name, content in contents.items():
                write_whole(folder / name, content)
            if own:
                _keep(folder, after)

    def _entry(self, *digests: str) -> dict[str, Any]:
        return {"command": self.command, "sha256": list(digests)}

    def _record(self, folder: Path) -> Written:
        path = folder / RECORD
        try:
            record = json.loads(path.read_bytes())
            files: Written = record["files"]
            if record["format"] != FORMAT or not all(
                isinstance(e["command"], str) and isinstance(e["sha256"], list)
                for e in files.values()
            ):
                raise ValueError
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            if self.force:
                return {}
            raise InputError(
                f"{str(path)!r} is no record of the files written here; give another folder, or --force "
                "to begin a new one"
            ) from None
        return files


def _own(path: Path, command: str, record: Written) -> bool:
    entry = record.get(path.name)
    if entry is None or entry["command"] != command or path.is_symlink() or not path.is_file():
        return False
    return _digest(path.read_bytes()) in entry["sha256"]


def _keep(folder: Path, record: Written) -> None:
    write_json(folder / RECORD, {"format": FORMAT, "files": dict(sorted(record.items()))})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.is_file() and path.read_bytes() == content
    except OSError:
        return False


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)  # by links of either kind, too
    except OSError:
        return False


def _check_place(path: Path) -> None:
    if path.name == RECORD:
        raise InputError(
            f"{str(path)!r} is where the files written here are recorded; name another"
        )
    _check_folder(path.parent, path)
    if (
        os.path.lexists(path) and not path.is_file()
    ):  # nor a pipe or a device: these are not replaced
        why = "it is a folder" if path.is_dir() else "it is there and not a file"
        raise InputError(f"cannot write {str(path)!r}: {why}; name another")


def _check_folder(folder: Path, path: Path) -> None:
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    why = ""
    if not folder.is_dir():
        why = "is not a folder"
    elif not os.access(folder, os.W_OK | os.X_OK):
        why = "is read-only"
    if why:
        raise InputError(f"cannot write {str(path)!r}: {str(folder)!r} {why}; name another")


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process changes what is recorded of a folder."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # there is none, so there is nothing to change
        yield
        return
    try:
        with suppress(OSError):  # some network drives know no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
