"""Files that are either whole or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from semiflat.errors import InputError
from semiflat.records.codec import Codec


def path_of(given: Any) -> Path:
    """``given`` as a path.

    Raises:
        InputError: if it is neither a str nor a path.
    """
    if not isinstance(given, str | os.PathLike):
        raise InputError(f"expected the path of a file, not a {type(given).__name__}")
    return Path(given)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part.

    Raises:
        InputError: if the folder or the disk does not allow it; nothing is left behind.
    """
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror or error}; choose a folder that can be "
            "written and has space"
        ) from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write records or plain data as JSON, whole or not at all."""
    write_whole(path, as_json(content))


def as_json(content: Any) -> bytes:
    """Records or plain data as JSON. Numbers that are not finite become null."""
    return (json.dumps(Codec().to_plain(content), indent=1) + "\n").encode()


def lock(file: IO[Any] | int, path: Path) -> None:
    """Keep other processes from locking an open file; the system lets go of it however this one ends.

    Raises:
        InputError: if another process has it, naming ``path``.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows, where two processes are not kept apart
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(
            f"another process is writing to {str(path)!r}; wait until it has ended, or "
            "give another folder"
        ) from error


@contextmanager
def sole_writer(path: Path) -> Iterator[None]:
    """Be the one process that holds the lock file ``path`` inside.

    Raises:
        InputError: if another does, or the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")  # whatever file that is, it keeps what it holds
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r}: {error.strerror or error}; choose a folder that can be written"
        ) from error
    with file:
        lock(file, path.parent)
        yield


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
