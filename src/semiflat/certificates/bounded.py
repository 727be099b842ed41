"""Arrays of float64 with rigorous error bounds: midpoint and radius (Rump's arithmetic).

``Bounded(mid, rad)`` stands for every array that differs from ``mid`` by at most ``rad``, entry by entry.
Each operation rounds to nearest, as IEEE 754 asks for and NumPy does, and adds to the radius what that may
have changed: half a unit in the last place for each sum and product, γ_k |A||B| for a sum of k products
in any order, with or without fused multiply-add (Higham, *Accuracy and Stability*, §3.1). Radii are
rounded too, and grown by as much as that may have taken from them. Overflow leaves an infinity or a NaN
in the radius, which no later comparison accepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
UNIT = 2.0**-53
"""Largest relative error of one rounded operation."""
TINY = 1e-300  # more than underflow can take from a product, or from a sum of 10⁸ of them


@dataclass(frozen=True)
class Bounded:
    """Arrays within ``rad`` of ``mid``, entry by entry."""

    mid: Array
    rad: Array

    @classmethod
    def exact(cls, values: Array) -> Bounded:
        """The array itself."""
        return cls(values, np.zeros_like(values))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the arrays."""
        return self.mid.shape

    def magnitude(self) -> Array:
        """``max |a|``, up to rounding that the caller's own growth covers."""
        return np.abs(self.mid) + self.rad

    def __add__(self, other: Bounded) -> Bounded:
        mid = self.mid + other.mid
        return Bounded(mid, upper(self.rad + other.rad + UNIT * np.abs(mid), 4))

    def __mul__(self, other: Bounded) -> Bounded:
        mid = self.mid * other.mid
        rad = np.abs(self.mid) * other.rad + self.rad * other.magnitude() + UNIT * np.abs(mid)
        return Bounded(mid, upper(rad, 8) + TINY)

    def __matmul__(self, other: Bounded) -> Bounded:
        terms = self.shape[-1]
        gamma = 1.01 * (terms + 2) * UNIT
        mid = self.mid @ other.mid
        rad = np.abs(self.mid) @ (other.rad + gamma * np.abs(other.mid))
        if self.rad.any():
            rad = rad + self.rad @ other.magnitude()
        return Bounded(mid, _unbounded(mid, upper(rad, 2 * terms + 8) + TINY))

    def __getitem__(self, index: Any) -> Bounded:
        return Bounded(self.mid[index], self.rad[index])

    def reshape(self, *shape: int) -> Bounded:
        """The same numbers in another shape."""
        return Bounded(self.mid.reshape(*shape), self.rad.reshape(*shape))

    def transpose(self, *axes: int) -> Bounded:
        """The same numbers with other axes."""
        return Bounded(self.mid.transpose(*axes), self.rad.transpose(*axes))

    @property
    def T(self) -> Bounded:
        """The transposed matrices."""
        return Bounded(self.mid.T, self.rad.T)

    def sum(self, axis: int) -> Bounded:
        """Along one axis."""
        terms = self.shape[axis]
        rad = (self.rad + (terms + 2) * UNIT * np.abs(self.mid)).sum(axis)
        mid = self.mid.sum(axis)
        return Bounded(mid, _unbounded(mid, upper(rad, terms + 4)))


def joined(parts: list[Bounded], axis: int) -> Bounded:
    """One after the other along an axis."""
    return Bounded(
        np.concatenate([part.mid for part in parts], axis),
        np.concatenate([part.rad for part in parts], axis),
    )


def outer(left: Bounded, right: Bounded) -> Bounded:
    """All products of a row of (p, n) with a row of (q, n), as (p·q, n)."""
    product = left[:, None, :] * right[None, :, :]
    return product.reshape(-1, product.shape[-1])


def row_sums(matrix: Bounded) -> Array:
    """Upper bounds of the row sums of |a|."""
    rows: Array = upper(matrix.magnitude().sum(-1), 2 * matrix.shape[-1] + 4)
    return rows


def _unbounded(mid: Array, rad: Array) -> Array:
    # A sum may overflow though what its rounding could change does not.
    bounds: Array = np.where(np.isfinite(mid), rad, np.inf)
    return bounds


def upper(values: Array, operations: int) -> Array:
    """Non-negative numbers after that many rounded operations, made upper bounds."""
    grown: Array = values * (1 + 2 * operations * UNIT)
    return grown
