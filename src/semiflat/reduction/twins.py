"""Which rows of a matrix are equal, or multiples of each other, to rounding."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]


def twins(
    rows: Floats, sizes: Floats, precision: float, reflect: bool, homogeneous: bool
) -> tuple[Whole, Floats]:
    """Groups of rows that are multiples of one another.

    Rows are sorted by a random projection, in which equal rows are neighbours, and compared entry by
    entry only within what rounding may have moved them: n log n steps, not n².

    Args:
        rows: (n, D).
        sizes: (n, D), what the rounding error of each entry scales with.
        precision: the relative error that counts as none.
        reflect: whether −1 is a multiple.
        homogeneous: whether every number above 0 is one.

    Returns:
        For each row the first row of its group, (n,), and the factor from that one to it, (n,).

    >>> rows = np.array([[1.0, 2.0], [3.0, 1.0], [-1.0, -2.0]])
    >>> [found.tolist() for found in twins(rows, abs(rows), 1e-14, reflect=True, homogeneous=False)]
    [[0, 1, 0], [1.0, 1.0, -1.0]]
    """
    leader, scale = np.arange(len(rows)), np.ones(len(rows))
    for group in _neighbours(rows, sizes, precision, reflect, homogeneous):
        left = np.sort(group)
        while len(left) > 1:
            first, rest = left[0], left[1:]
            factor = _factors(rows[rest], rows[first], reflect, homogeneous)
            apart = np.abs(rows[rest] - factor[:, None] * rows[first])
            allowed = sizes[rest] + np.abs(factor)[:, None] * sizes[first]
            equal = (apart <= precision * allowed).all(1)
            leader[rest[equal]], scale[rest[equal]] = first, factor[equal]
            left = rest[~equal]
    return leader, scale


def _neighbours(
    rows: Floats, sizes: Floats, precision: float, reflect: bool, homogeneous: bool
) -> list[Whole]:
    """The sets of at least two rows whose projections may be equal."""
    if len(rows) < 2:
        return []
    lengths = np.linalg.norm(rows, axis=1) if homogeneous else np.ones(len(rows))
    lengths[lengths == 0] = 1.0
    probe = np.random.default_rng(0).standard_normal(rows.shape[1])
    key = rows @ probe / lengths
    if reflect:
        key = np.abs(key)
    # Twice over: a length is rounded as well as the entries.
    slack = 2 * precision * (sizes @ np.abs(probe)) / lengths
    order = np.argsort(key - slack, kind="stable")
    reach = np.maximum.accumulate((key + slack)[order])
    starts = np.flatnonzero((key - slack)[order][1:] > reach[:-1]) + 1
    edges = np.concatenate([[0], starts, [len(rows)]])
    return [order[a:b] for a, b in pairwise(edges) if b - a > 1]


def _factors(rows: Floats, first: Floats, reflect: bool, homogeneous: bool) -> Floats:
    """The allowed multiple of ``first`` that is nearest to each row."""
    along: Any = rows @ first
    if not homogeneous:
        return np.where((along < 0) & reflect, -1.0, 1.0)
    square = first @ first
    if square == 0:
        return np.ones(len(rows))
    factor = along / square
    if not reflect:
        factor = np.abs(factor)  # an opposite row is then told apart by its entries
    # Fifteen digits are as many as the least squares has, and keep a factor of 3 one of 3.
    return np.array([float(f"{value:.15g}") if value else 1.0 for value in factor.tolist()])
