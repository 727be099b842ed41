"""Memory that is freed and wanted again a moment later."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

_TRIM, _MAP = -1, -3  # mallopt's names for what follows
_KEPT, _USUAL = 2**30, 2**27
_LARGEST = 2**25  # of a piece that is not given back by itself; more is not allowed


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside, freed memory stays with the process; on leaving, it goes back.

    A search allocates the same tensors at every step. By default the C library hands each large one
    back to the system at once, and the next is zeroed page by page: up to half of the time of a step
    on small networks. Does nothing where the C library is not glibc.
    """
    library = _glibc()
    if library is None:
        yield
        return
    library.mallopt(_TRIM, _KEPT)
    library.mallopt(_MAP, _LARGEST)
    try:
        yield
    finally:
        library.mallopt(_TRIM, _USUAL)
        library.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
