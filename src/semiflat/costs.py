"""What a computation will take, said before it starts where that is much."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import torch

DENSE_LIMIT = 4096
"""Parameters up to which a dense Hessian (128 MiB) and its eigenvectors are taken."""
LONG = 60.0
"""Seconds from which it is said how long something will take."""
LARGE = 2**30
"""Bytes from which it is said how much memory it will take."""


@dataclass(frozen=True)
class Cost:
    """Seconds of one process, and bytes at a time: a forecast, right to a factor of two or three.

    >>> Cost(5.0, 10**6).words
    ''
    >>> Cost(200.0, 3 * 2**30).words
    'about 3 min in one process and 3.0 GiB of memory'
    """

    seconds: float
    bytes: int

    @property
    def words(self) -> str:
        """In words; empty where it is not much."""
        if self.seconds < LONG and self.bytes < LARGE:
            return ""
        long = (
            f"{self.seconds / 3600:.1f} h"
            if self.seconds > 5400
            else f"{self.seconds / 60:.0f} min"
        )
        if self.seconds < LONG:
            long = f"{max(self.seconds, 1):.0f} s"
        return f"about {long} in one process and {self.bytes / 2**30:.1f} GiB of memory"


def dense_cost(parameters: int, samples: int) -> Cost:
    """Of one Hessian with its eigenvectors."""
    work = 9 * parameters**3 + 4.5 * samples * parameters**2
    return Cost(work / speed(), 6 * 8 * parameters**2)


def product_seconds(parameters: int, samples: int) -> float:
    """Of one product with a Hessian that is not built."""
    return 16 * parameters * samples / speed()


@cache
def speed() -> float:
    """Floating-point operations a second, in matrix products on the threads there are now."""
    square = torch.ones((384, 384), dtype=torch.float64)
    square @ square
    begun = time.perf_counter()
    for _ in range(3):
        square @ square
    return float(6 * 384**3 / max(time.perf_counter() - begun, 1e-9))
