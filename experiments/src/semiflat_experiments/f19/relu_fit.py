"""Exact fits of points on a line by a narrow ReLU network: whether there is one, and the smallest.

A ReLU network with one input, one output and an output bias is a piecewise linear function. Each of
its H units makes a kink ``t_i`` where the slope jumps by ``d_i``; it faces right, ``d relu(x − t)``, or
left, ``d relu(t − x)``. With the slopes ``s_0 … s_H`` of the pieces ``d_i = s_i − s_{i−1}``, and the
left-facing units alone make the slope on the far left: ``s_0 + Σ_left d_i = 0``.

In general position a piece holds at most two points. So 2H points on H + 1 pieces leave two pieces
with one point, or one with none; a piece with two points has their slope. A kink lies in the gap
between two neighbouring points if the slope across the gap is strictly between the slopes of its two
pieces, and two kinks share a gap if it is strictly between the extremes of their three slopes. All
is linear in what is free, with one equation for each choice of sides: the solutions are segments.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Sides = NDArray[np.bool_]
Interval = tuple[float, float]

_EVERY = (-math.inf, math.inf)
_PLACES = (np.arange(25) + 0.5) / 25
"""Where a segment of solutions is looked at for the smallest."""


class Kinks(NamedTuple):
    """Piecewise linear functions: where they bend, the slopes between, and which units face left.

    ``at`` is (n, H), ascending, ``slopes`` (n, H + 1), ``left`` (H,).
    """

    at: Array
    slopes: Array
    left: Sides

    def jumps(self) -> Array:
        """Of the slope at each kink, (n, H)."""
        return np.diff(self.slopes, axis=1)

    def offsets(self, x: float, y: float) -> Array:
        """The output bias with which each function is y at x, (n,)."""
        away = np.where(self.left, self.at - x, x - self.at)
        found: Array = y - (self.jumps() * np.maximum(away, 0)).sum(1)
        return found

    def sizes(self, offsets: Array) -> Array:
        """``‖θ‖²`` for the scales of the units that make it smallest, ``2 Σ |d| √(1 + t²) + c²``."""
        found: Array = 2 * (np.abs(self.jumps()) * np.hypot(1, self.at)).sum(1) + offsets**2
        return found


def smallest_fit(x: Array, y: Array) -> dict[str, Array] | None:
    """Parameters of ``MLP([1, H, 1], "relu")`` that fit 2H points, of smallest norm; None if none do.

    Whether there are any is decided exactly; the smallest is taken of 25 on each segment of solutions.

    Args:
        x, y: 2H numbers each, in general position: no three points on a line, no x twice.

    >>> x = np.array([0.0, 1, 2, 3])
    >>> fit = smallest_fit(x, np.array([0.0, 1, 3, 2]))
    >>> hidden = np.maximum(x[:, None] * fit["0.weight"][:, 0] + fit["0.bias"], 0)
    >>> np.abs(hidden @ fit["2.weight"][0] + fit["2.bias"] - [0, 1, 3, 2]).max() < 1e-14
    np.True_
    """
    order = np.argsort(x)
    x, y = x[order], y[order]
    best, least = None, math.inf
    for found in fits(x, y):
        offsets = found.offsets(float(x[0]), float(y[0]))
        sizes = found.sizes(offsets)
        k = int(sizes.argmin())
        if sizes[k] < least:
            best, least = _parameters(found, offsets, k), sizes[k]
    return best


def _parameters(found: Kinks, offsets: Array, k: int) -> dict[str, Array]:
    at, jumps = found.at[k], found.jumps()[k]
    size = np.sqrt(np.abs(jumps) / np.hypot(1, at))
    weight = np.where(found.left, -size, size)
    return {
        "0.weight": weight[:, None],
        "0.bias": -weight * at,
        "2.weight": (jumps / size)[None],
        "2.bias": offsets[k : k + 1],
    }


def fits(x: Array, y: Array) -> Iterator[Kinks]:
    """Every segment of solutions, 25 of each; ``x`` ascending."""
    units = len(x) // 2
    sides = [np.array(each) for each in product([False, True], repeat=units)]
    for sizes in product([1, 2], repeat=units + 1):
        if sum(sizes) == len(x):
            yield from _with_two_single_points(x, y, np.array(sizes), sides)
    for empty in range(units + 1):
        yield from _with_an_empty_piece(x, y, empty, sides)


def _equation(left: Sides) -> Array:
    """c with ``c·s = s_0 + Σ_left d_i``, which is 0."""
    found: Array = np.append(1.0, left) - np.append(left, 0.0)
    return found


def _between(gaps: Array, behind: Array, ahead: Array) -> bool:
    """Whether each gap's slope is strictly between those of its pieces; nan stands for any."""
    return not ((behind - gaps) * (ahead - gaps) >= 0).any()


def _meetings(x: Array, y: Array, here: NDArray[np.int_], slopes: Array) -> Array:
    """Where pieces meet: the left goes through the last point before the gap, the right through the next."""
    behind = y[here] - slopes[..., :-1] * x[here]
    ahead = y[here + 1] - slopes[..., 1:] * x[here + 1]
    at: Array = (behind - ahead) / np.diff(slopes)
    return at


def _common(one: Interval, other: Interval) -> Interval:
    return max(one[0], other[0]), min(one[1], other[1])


def _samples(foot: Array, along: Array, box: list[Interval]) -> Array | None:
    """Points ``foot + τ·along`` inside a box, spread over the whole of the segment there, (25, k)."""
    span = _EVERY
    for base, step, (low, high) in zip(foot, along, box, strict=True):
        if low >= high or (step == 0 and not low < base < high):
            return None
        if step:
            ends = sorted(((low - base) / step, (high - base) / step))
            span = _common(span, (ends[0], ends[1]))
    if not span[0] < span[1]:
        return None
    return foot + _spread(*span)[:, None] * along


def _spread(low: float, high: float) -> Array:
    if math.isinf(high):
        return low + max(1.0, abs(low)) * _PLACES / (1 - _PLACES)
    return -_spread(-high, math.inf) if math.isinf(low) else low + (high - low) * _PLACES


# -- two pieces with one point ---------------------------------------------------------------------


def _with_two_single_points(
    x: Array, y: Array, sizes: NDArray[np.int_], sides: list[Sides]
) -> Iterator[Kinks]:
    secants, last = np.diff(y) / np.diff(x), np.cumsum(sizes) - 1
    slopes, gaps = np.where(sizes == 2, secants[last - 1], np.nan), secants[last[:-1]]
    if not _between(gaps, slopes[:-1], slopes[1:]):
        return
    free = np.flatnonzero(sizes == 1)
    first, second = (int(piece) for piece in free)
    for box, left in product(_boxes(slopes, gaps, first, second), sides):
        equation = _equation(left)
        normal, rest = equation[free], -np.nansum(equation * slopes)
        if not normal.any():
            continue  # an equation for the data alone, which in general position do not solve it
        foot, along = rest * normal / (normal @ normal), np.array([-normal[1], normal[0]])
        pairs = _samples(foot, along, box)
        if pairs is not None:
            whole = np.tile(slopes, (len(pairs), 1))
            whole[:, free] = pairs
            yield Kinks(_meetings(x, y, last[:-1], whole), whole, left)


def _boxes(slopes: Array, gaps: Array, first: int, second: int) -> list[list[Interval]]:
    """The pairs of free slopes that put every kink into its gap."""
    one, other = _across(slopes, gaps, first), _across(slopes, gaps, second)
    if second > first + 1:
        return [[one, other]]
    under, over = (-math.inf, gaps[first]), (gaps[first], math.inf)
    return [
        [_common(one, under), _common(other, over)],
        [_common(one, over), _common(other, under)],
    ]


def _across(slopes: Array, gaps: Array, piece: int) -> Interval:
    """The slopes of a piece that are beyond each gap's from its neighbour's, where that is known."""
    found = _EVERY
    for gap, neighbour in ((piece - 1, piece - 1), (piece, piece + 1)):
        if 0 <= gap < len(gaps) and not math.isnan(slopes[neighbour]):
            over = slopes[neighbour] < gaps[gap]
            found = _common(found, (gaps[gap], math.inf) if over else (-math.inf, gaps[gap]))
    return found


# -- a piece with no point -------------------------------------------------------------------------


def _with_an_empty_piece(x: Array, y: Array, empty: int, sides: list[Sides]) -> Iterator[Kinks]:
    secants, gap = np.diff(y) / np.diff(x), empty - 1
    known, gaps = secants[::2], secants[1::2]
    others = np.delete(np.arange(len(gaps)), gap if 0 <= gap < len(gaps) else [])
    if not _between(gaps[others], known[others], known[others + 1]):
        return
    fixed = _meetings(x, y, 2 * np.arange(len(gaps)) + 1, known)[others]
    for left in sides:
        equation = _equation(left)
        if not equation[empty]:
            continue  # as above
        slope = -(equation @ np.insert(known, empty, 0.0)) / equation[empty]
        slopes = np.insert(known, empty, slope)
        if 0 <= gap < len(gaps):
            added = _two_kinks(x[2 * gap + 1 :], y[2 * gap + 1 :], slopes[gap : gap + 3])
        else:
            end, way = (x[0], -1.0) if gap < 0 else (x[-1], 1.0)
            away = _samples(np.zeros(1), np.ones(1), [(0.0, math.inf)])
            added = None if away is None else end + way * away
        if added is not None:
            at = np.sort(np.hstack([np.tile(fixed, (len(added), 1)), added]), axis=1)
            yield Kinks(at, np.tile(slopes, (len(at), 1)), left)


def _two_kinks(x: Array, y: Array, slopes: Array) -> Array | None:
    """Pairs of places between the first two points where three given slopes meet, (25, 2)."""
    width, height = x[1] - x[0], y[1] - y[0]
    behind, middle, ahead = slopes
    # Lengths (a, τ, w − a − τ) of the three pieces, with behind·a + middle·τ + ahead·(w − a − τ) = height.
    foot = (height - ahead * width) / (behind - ahead)
    step = (ahead - middle) / (behind - ahead)
    lengths = _samples(
        np.array([foot, 0.0, width - foot]),
        np.array([step, 1.0, -1.0 - step]),
        [(0.0, width)] * 3,
    )
    return None if lengths is None else x[0] + np.cumsum(lengths, axis=1)[:, :2]
