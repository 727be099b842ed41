"""How much of a vector lies in the span of a matrix whose rank is read off its singular values.

Where rank leaves no doubt, a QR decomposition with column pivoting tells all that is needed, at a tenth of
the cost of singular vectors: the singular values beyond r are at most the norm of what is left after r
columns, and those up to r at least the smallest of the triangle of these columns. Where that leaves doubt,
and for small matrices, the SVD decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import linalg
from torch import Tensor

from semiflat.evidence import EPS

NEAR_CUT = 100.0
"""Singular values this many cuts from zero or nearer count, but may be rounding."""
SMALL = 512
"""Columns up to which singular vectors cost less than a second thought."""
STEPS = 40
"""Power steps: they tell a norm to a few percent."""


@dataclass(frozen=True)
class Projection:
    """A vector r against the column span of features Φ, brought to columns of length 1.

    Attributes:
        rank: number of singular directions that count.
        inside: ``‖r‖²`` along them.
        rest: ``‖r‖²`` elsewhere.
        doubtful: the part of ``rest`` along directions that do not count, but are too large to be rounding
            of zeros.
        noise: what rounding of the features may change of ``inside``.
        cut: singular values up to here count as zero.
    """

    rank: int
    inside: float
    rest: float
    doubtful: float
    noise: float
    cut: float


def split(matrix: Tensor, vector: Tensor, outside: float, rows: int, count: int) -> Projection:
    """A vector against the columns of ``matrix`` (k, n).

    Args:
        outside: ``‖r‖²`` that is in no column for certain.
        rows, count: the shape of Φ, which rounding grows with.
    """
    found = None
    if min(matrix.shape) > SMALL:
        found = _by_pivots(matrix, vector, outside, rows, count)
    return found or _by_svd(matrix, vector, outside, rows, count)


def _limits(largest: float, rows: int, count: int) -> tuple[float, float]:
    """(cut, floor): values up to the first count as zero, up to the second are rounding of zeros."""
    size = max(rows, count)
    return size * EPS * largest, size**0.5 * EPS * largest


def _noise(largest: float, inside: float, rest: float, leverage: float, near: float = 0.0) -> float:
    """To first order the projector P of a matrix moved by E changes ``‖Pr‖²`` by ``2 rᵀ(1−P)E Φ⁺r``.

    Directions near the cut (``near``) may be rounding as a whole.
    """
    rounding = 4 * EPS * largest
    second = (rounding * leverage) ** 2
    return (
        2 * math.sqrt(rest) * rounding * leverage + second + near + 8 * EPS * EPS * (inside + rest)
    )


def _by_svd(matrix: Tensor, vector: Tensor, outside: float, rows: int, count: int) -> Projection:
    left, singular, _ = torch.linalg.svd(matrix, full_matrices=False)
    components = left.mT @ vector
    outside += float((vector - left @ components).square().sum())
    largest = float(singular.max()) if len(singular) else 0.0
    cut, floor = _limits(largest, rows, count)
    squares, kept = components.square(), singular > cut
    inside, rest = float(squares[kept].sum()), outside + float(squares[~kept].sum())
    leverage = float((components[kept] / singular[kept]).square().sum()) ** 0.5
    near = float(squares[kept & (singular <= NEAR_CUT * cut)].sum())
    noise = _noise(largest, inside, rest, leverage, near)
    doubtful = float(squares[~kept & (singular > floor)].sum())
    return Projection(int(kept.sum()), inside, rest, doubtful, noise, cut)


def _by_pivots(
    matrix: Tensor, vector: Tensor, outside: float, rows: int, count: int
) -> Projection | None:
    """The same where no singular value lies between rounding of zeros and far above the cut; else None."""
    largest = _norm(matrix)
    cut, floor = _limits(largest, rows, count)
    turned, triangle, _ = linalg.qr_multiply(
        matrix.numpy(), vector.numpy(), mode="right", pivoting=True, overwrite_a=False
    )
    R, c = torch.from_numpy(triangle), torch.from_numpy(turned).reshape(-1)
    rank = int((R.diagonal().abs() > cut).sum())
    left, kept = R[rank:, rank:], R[:rank, :rank]
    beyond = float(torch.linalg.matrix_norm(left, 2)) if left.numel() else 0.0
    least = _least(kept) if rank else math.inf
    if beyond > floor or least <= 10 * NEAR_CUT * cut:
        return None
    squares = c.square()
    # What is left of the vector after all columns was in none of them.
    outside += max(0.0, float(vector.square().sum() - squares.sum()))
    inside, rest = float(squares[:rank].sum()), outside + float(squares[rank:].sum())
    solved = torch.linalg.solve_triangular(kept, c[:rank, None], upper=True)
    noise = _noise(largest, inside, rest, float(torch.linalg.vector_norm(solved)))
    return Projection(rank, inside, rest, 0.0, noise, cut)


def _norm(matrix: Tensor) -> float:
    """The largest singular value, by power steps."""
    vector = torch.randn(
        matrix.shape[1], generator=torch.Generator().manual_seed(0), dtype=matrix.dtype
    )
    size = 0.0
    for _ in range(STEPS):
        image = matrix @ (vector / torch.linalg.vector_norm(vector).clamp(min=1e-300))
        size, vector = float(torch.linalg.vector_norm(image)), matrix.mT @ image
    return size


def _least(triangle: Tensor) -> float:
    """The smallest singular value of an upper triangle, by inverse power steps."""
    vector = torch.randn(
        (len(triangle), 1), generator=torch.Generator().manual_seed(0), dtype=triangle.dtype
    )
    size = 1.0
    for _ in range(STEPS):
        vector = vector / torch.linalg.vector_norm(vector)
        image = torch.linalg.solve_triangular(triangle.mT, vector, upper=False)
        size = float(torch.linalg.vector_norm(image))
        vector = torch.linalg.solve_triangular(triangle, image, upper=True)
    return 1 / size
