"""What a point truly is: Newton in 320-bit arithmetic, then the signs of the Hessian's eigenvalues.

Nothing of semiflat is imported. :func:`adjudicate` polishes a point to about 1e-50, where it can be, and
counts the eigenvalues there. Where the Hessian has a kernel, or the loss a kink, a lower loss nearby is
looked for by sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from flint import arb, arb_mat

from mass_landscape import Array, Case, Landscape, balls, floats, mids

SETTLED = 1e-50  # a Newton step (in the parameters' units) that ends the polishing
FEELS = 1e-46  # of the largest curvature: along smaller ones a step would be noise
ZERO = 1e-70  # of it: 0, at a point this polished
DOUBTFUL = 1e-60  # curvatures between the two leave the truth open
SPLIT = 1e-9  # float64 tells curvatures apart from 0 down to this, of the largest at hand
NEAR = 1e-6  # a critical point this near (in the units) is what the point stands for
ON = 1e-40  # a pre-activation of a polished point that is smaller sits on the kink
BESIDE = 1e-7  # one that is smaller sits beside it
REACH = 1e-2  # one beyond this has nothing to do with it


@dataclass
class Truth:
    """What high precision says of a point.

    Attributes:
        kind: ``strict minimum``, ``strict saddle``, ``degenerate``, ``kink``, ``not critical`` or
            ``unclear``: of the critical point next to it.
        inertia: of the exact Hessian; None at a kink and where there is no critical point.
        distance: from the point to that critical point in the parameters' units; inf if there is none.
        exact: the critical point rounded to floats.
        beside: whether a kink is so near that floats may take the critical point to be on it.
        smallest: the nonzero eigenvalue nearest to 0, against the largest.
    """

    kind: str
    inertia: tuple[int, int, int] | None = None
    distance: float = math.inf
    exact: list[float] | None = None
    smallest: float | None = None
    why: str = ""
    beside: bool = False
    look: Callable[[], bool] = lambda: False
    look_across: Callable[[], bool] = lambda: False

    @cached_property
    def lower(self) -> bool:
        """Whether a lower loss is found nearby, of ``degenerate`` and ``kink``; takes a while."""
        return self.look()

    @cached_property
    def lower_across(self) -> bool:
        """Whether a lower loss is found nearby across a kink that is beside the point."""
        return self.beside and self.look_across()


@dataclass
class Polished:
    """A critical point in high precision, and its distance from where Newton began, in units."""

    landscape: Landscape
    params: Array
    distance: float


class Graded:
    """A symmetric matrix taken apart by size of its curvatures, with the Newton step in each part.

    Float64 tells the large curvatures of a matrix from the rest; high precision takes them out
    (a Schur complement), and the rest is a smaller matrix with large curvatures of its own. By Sylvester's
    law the signs add up, however far apart the sizes are.

    Attributes:
        curvatures: against the largest, with their signs, roughly; those below ``floor`` are left out.
        kernel: basis of what is left, (n, zeros).
        step: −H⁻¹g but for what is left, and for parts in which it would be longer than ``cap``.
        pull: the largest entry of the gradient that the step does nothing about, against the largest curvature.
    """

    def __init__(
        self, matrix: arb_mat, gradient: Array, cap: float = REACH, floor: float = FEELS
    ) -> None:
        n = matrix.nrows()
        self.curvatures: list[float] = []
        self.step = np.full(n, arb(0), dtype=object)
        self.pull, top = 0.0, None
        basis, slope = (
            arb_mat(n, n, [int(i == k) for i in range(n) for k in range(n)]),
            column(gradient),
        )
        while matrix.nrows():
            largest = max(abs(entry) for entry in matrix.entries())
            top = largest if top is None else top
            if not float(largest / (top if top else 1)) > floor:
                break
            values, vectors = np.linalg.eigh(dense(matrix * (1 / largest)))
            small = np.abs(values) <= SPLIT
            self.curvatures += [v * float(largest / top) for v in values[~small]]
            rest, zeros = vectors[:, small], int(small.sum())
            size = matrix.nrows()
            right = arb_mat(size + zeros, 1 + zeros)
            for i in range(size):
                right[i, 0] = -slope[i, 0]
            for k in range(zeros):
                right[size + k, 1 + k] = largest
            solved = bordered(matrix, rest, largest).solve(right, algorithm="approx").mid()
            move = (basis * block(solved, size, 0, 1)).mid()
            if max(abs(float(entry)) for entry in move.entries()) <= cap:
                self.step = self.step + np.array(move.entries(), dtype=object)
            else:
                held = vectors[:, ~small].T @ np.array([float(e / top) for e in slope.entries()])
                self.pull = max(self.pull, float(np.abs(held).max()))
            left = block(solved, size, 1, zeros)
            basis = (basis * left).mid()
            matrix = (left.transpose() * matrix * left).mid()
            slope = (left.transpose() * slope).mid()
        if top is not None and top != 0:
            self.pull = max([self.pull, *(abs(float(entry / top)) for entry in slope.entries())])
        self.kernel = (
            np.array(basis.entries(), dtype=object).reshape(n, -1)
            if basis.ncols()
            else np.empty((n, 0))
        )


def scaled(hessian: arb_mat, unit: Array) -> arb_mat:
    """The Hessian in the parameters' units."""
    n = len(unit)
    return arb_mat(
        n, n, [hessian[i, k] * unit[i] * unit[k] for i in range(n) for k in range(n)]
    ).mid()


def bordered(matrix: arb_mat, kernel: Array, size: arb) -> arb_mat:
    """[[H, sK], [sKᵀ, 0]], s the size of H: what it solves for moves across the kernel K alone, or along it."""
    n, z = kernel.shape
    full = arb_mat(n + z, n + z)
    for i in range(n):
        for k in range(n):
            full[i, k] = matrix[i, k]
        for k in range(z):
            full[i, n + k] = full[n + k, i] = arb(float(kernel[i, k])) * size
    return full


def block(matrix: arb_mat, rows: int, start: int, count: int) -> arb_mat:
    """The first rows of some columns."""
    return arb_mat(rows, count, [matrix[i, start + k] for i in range(rows) for k in range(count)])


def column(entries: Any) -> arb_mat:
    """A vector as a matrix of one column."""
    return arb_mat(len(entries), 1, list(entries))


def dense(matrix: arb_mat) -> Array:
    """As symmetric float64."""
    n = matrix.nrows()
    entries = np.array([float(entry) for entry in matrix.entries()]).reshape(n, n)
    return (entries + entries.T) / 2


def units_of(case: Case) -> Array:
    """The parameters' units as balls."""
    return balls(case.unit)


def polish(case: Case) -> Polished | str:
    """Newton within the piece of the case's point; or why there is nothing: ``"leaves"`` or ``"slow"``.

    Rounding lends curvature to directions that are flat at the critical point, and a step along them could be
    of any length. So parts with long steps are held still at first; where that gives no critical point, they
    are let go.
    """
    ends = set()
    for cap in (1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, REACH):
        found = _newton(case, cap)
        if not isinstance(found, str):
            return found
        ends.add(found)
    return "slow" if "slow" in ends else "leaves"


def _newton(case: Case, cap: float) -> Polished | str:
    landscape, unit = Landscape(case), units_of(case)
    params = balls(case.params)
    landscape.fix_pattern(params)
    for k in range(12):
        graded = graded_at(landscape, params, unit, cap)
        params = mids(params + unit * graded.step)
        length = max(abs(float(entry)) for entry in graded.step)
        distance = _distance(case, params)
        if not distance <= REACH:
            return "leaves"
        if length < SETTLED:
            return Polished(landscape, params, distance) if graded.pull < SETTLED else "leaves"
        if k >= 6 and length > 1e-15:
            return "slow"
    return "slow"


def graded_at(
    landscape: Landscape, params: Array, unit: Array, cap: float = REACH, floor: float = FEELS
) -> Graded:
    """The Hessian and the gradient in units, taken apart."""
    gradient, hessian = landscape.derivatives(params)
    assert hessian is not None
    return Graded(scaled(hessian, unit), gradient * unit, cap, floor)


def _distance(case: Case, params: Array) -> float:
    unit = np.array(case.unit)
    moved = np.abs(floats(params - balls(case.params))) / unit
    return float((moved / np.maximum(1.0, np.abs(floats(params)) / unit)).max(initial=0.0))


def adjudicate(case: Case, seed: int = 0) -> Truth:
    """The truth on a case's point; a lower loss nearby is looked for when it is asked for."""
    start = Landscape(case)
    origin = balls(case.params)
    start.fix_pattern(origin)
    if any(margin == 0 for margin in start.kinks(origin)):
        return _kink(case, origin, seed, "a pre-activation is exactly 0")
    found = polish(case)
    if isinstance(found, str):
        return Truth("not critical" if found == "leaves" else "unclear", why=f"Newton: {found}")
    margin = min(found.landscape.kinks(found.params), default=math.inf)
    if margin <= ON:
        return _kink(case, origin, seed, "the Newton step crosses a kink")
    graded = graded_at(found.landscape, found.params, units_of(case), floor=ZERO)
    exact = [float(p) for p in found.params]
    positive, negative = (
        sum(bool(sign * c > DOUBTFUL) for c in graded.curvatures) for sign in (1, -1)
    )
    zero = len(exact) - positive - negative
    smallest = min((abs(c) for c in graded.curvatures if abs(c) > DOUBTFUL), default=None)
    truth = Truth("strict saddle", (positive, zero, negative), found.distance, exact, smallest)
    truth.beside = margin < BESIDE
    truth.look_across = lambda: lower_at_kink(case, origin, seed)
    doubtful = any(abs(c) <= DOUBTFUL for c in graded.curvatures)
    if negative == 0 and doubtful:
        return Truth("unclear", None, found.distance, exact, why="a curvature between 0 and not 0")
    if negative == 0:
        truth.kind = "degenerate" if zero else "strict minimum"
        truth.look = lambda: zero > 0 and lower_across_kernel(found, case, seed)
    return truth


def lower_across_kernel(found: Polished, case: Case, seed: int, tries: int = 2) -> bool:
    """Whether a step into the kernel, corrected across it by Newton, comes to a lower loss.

    Lower at three radii in a row, the smallest 1e-5: otherwise it may be another valley.
    """
    unit = units_of(case)
    gradient, hessian = found.landscape.derivatives(found.params)
    assert hessian is not None
    matrix = scaled(hessian, unit)
    rough = Graded(matrix, gradient * unit, floor=ZERO).kernel
    kernel = np.linalg.qr(np.array([floats(row) for row in rough]))[0]
    size = max(abs(entry) for entry in matrix.entries())
    size = size if size != 0 else arb(1)
    border = bordered(matrix, kernel, size)
    n = border.nrows()
    one = arb_mat(n, n, [int(i == k) for i in range(n) for k in range(n)])
    inverse = border.solve(one, algorithm="approx").mid()  # inv would ask for an enclosure
    level = found.landscape.risk(found.params).mid()
    draw = np.random.default_rng(seed)
    for _ in range(tries):
        drawn = draw.standard_normal(kernel.shape[1])
        drawn /= np.linalg.norm(drawn)
        for towards in (drawn, -drawn):
            if all(
                _falls(found, inverse, kernel, towards, r, unit, level, size)
                for r in (1e-3, 1e-4, 1e-5)
            ):
                return True
    return False


def _falls(
    found: Polished,
    inverse: arb_mat,
    kernel: Array,
    towards: Array,
    radius: float,
    unit: Array,
    level: arb,
    curvature: arb,
) -> bool:
    """Whether the loss is lower near ``radius`` along one direction of the kernel, or downhill from it."""
    n, zeros = kernel.shape
    for _ in range(2):
        params = mids(
            found.params + unit * np.array([arb(v) for v in (kernel @ towards * radius).tolist()])
        )
        pull = towards
        for _ in range(3):
            gradient, _ = found.landscape.derivatives(params, second=False)
            solved = inverse * column([*(-gradient * unit), *[0] * zeros])
            entries = np.array(solved.entries(), dtype=object)
            params = mids(params + unit * entries[:n])
            pull = floats(entries[n:])  # minus the gradient along the kernel
        if any(margin <= 0 for margin in found.landscape.kinks(params)):
            return False
        if float((found.landscape.risk(params) - level) / curvature) < -1e-60:
            return True
        steepness = float(np.linalg.norm(pull))
        if steepness == 0.0:
            return False
        turned = towards + pull / steepness  # half way downhill, on the sphere
        towards = turned / max(float(np.linalg.norm(turned)), 1e-12)
    return False


def _kink(case: Case, origin: Array, seed: int, why: str) -> Truth:
    return Truth("kink", distance=0.0, why=why, look=lambda: lower_at_kink(case, origin, seed))


def lower_at_kink(case: Case, origin: Array, seed: int, tries: int = 40) -> bool:
    """Whether a lower loss is found near a kink at three radii, well beyond what rounding moves.

    Each try is a direction, the piece that lies there, and that piece's own ways down from the point: its
    lowest curvature and its gradient; and so on from where the first of them points.
    """
    landscape, unit = Landscape(case), units_of(case)
    level = landscape.risk(origin).mid()
    draw = np.random.default_rng(seed)
    for _ in range(tries):
        towards = draw.standard_normal(len(unit))
        for _ in range(2):
            towards = towards / np.linalg.norm(towards)
            landscape.fix_pattern(_moved(origin, unit, towards, 1e-5))
            gradient, hessian = landscape.derivatives(origin)
            assert hessian is not None
            slope, bend = floats(gradient * unit), dense(scaled(hessian, unit))
            lowest = np.linalg.eigh(bend)[1][:, 0]
            lowest = lowest if lowest @ towards >= 0 else -lowest
            ways = [lowest, -lowest, *([-slope] if slope.any() else [])]
            landscape.pattern = None  # the loss as it is, whatever the piece
            for way in (towards, *ways):
                radii = (1e-3, 1e-4, 1e-5)
                if all(_lower(landscape, _moved(origin, unit, way, r), level, r) for r in radii):
                    return True
            towards = ways[0]
    return False


def falls_along(case: Case, direction: list[float]) -> bool:
    """Whether the loss is lower along a direction, or its opposite, at three radii."""
    landscape, unit = Landscape(case), units_of(case)
    origin = balls(case.params)
    level = landscape.risk(origin).mid()
    way = np.array(direction) / np.array(case.unit)
    return any(
        all(
            _lower(landscape, _moved(origin, unit, s * way, r), level, r)
            for r in (1e-3, 1e-4, 1e-5)
        )
        for s in (1, -1)
    )


def _moved(origin: Array, unit: Array, towards: Array, radius: float) -> Array:
    step = towards / np.linalg.norm(towards) * radius
    return mids(origin + unit * np.array([arb(v) for v in step.tolist()], dtype=object))


def _lower(landscape: Landscape, params: Array, level: arb, radius: float) -> bool:
    # A point that is critical only up to rounding may itself fall by about this.
    allowance = 1e-11 * radius * max(abs(float(level)), 1e-300)
    return float(landscape.risk(params) - level) < -allowance
