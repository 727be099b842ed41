"""Memory: how much is there, and that which is freed and wanted again a moment later."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from semiflat.errors import InputError

UNASKED = 2**28
"""Bytes that are taken without asking how many are there."""
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


def check_floats(what: str, count: int, instead: str, size: int = 8) -> None:
    """Raise :class:`InputError` if ``count`` numbers of ``size`` bytes are more than memory has room for.

    Args:
        what: the numbers, as in "the Jacobian of 10 samples".
        instead: what to do, a sentence's end.
    """
    asked = size * count
    if asked <= UNASKED:
        return
    free = available()
    if free is not None and asked > free:
        raise InputError(
            f"{what} would take {_gib(asked)} of memory, and {_gib(free)} are free; {instead}"
        )


def check_hessians(networks: int, parameters: int, size: int = 8) -> None:
    """Raise :class:`InputError` if the dense Hessians of some networks are more than memory has room for."""
    count = networks * parameters**2
    if size * count <= UNASKED:
        return
    fit = math.isqrt((available() or 0) // (size * networks))
    many = f"{networks} dense Hessians" if networks > 1 else "a dense Hessian"
    check_floats(
        f"{many} of {parameters} parameters",
        count,
        f"up to {fit} parameters would fit: take a narrower network{', fewer at once' * (networks > 1)}, or "
        "what needs no Hessian (hessian_operator(point), judge(point) with the usual dense_limit)",
        size,
    )


def available() -> int | None:
    """Bytes that can be had now without swapping, or None where the system does not say."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(1024 * int(line.split()[1]))
    except OSError:
        if "SC_PHYS_PAGES" in os.sysconf_names:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    with suppress(OSError, ValueError):  # a container's share
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return min(found, default=None)


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


@cache
def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None
