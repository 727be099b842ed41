"""The part of a residual inside the span of the gradient features, without holding them all.

What is kept is the smaller side of the features Φ (N·M × P): samples are folded into the triangle R of
``Φ = QR`` and into Qᵀr, or, where there are fewer outputs than features, features into that of Φᵀ. The
rank is then read off the singular values of R. Columns are brought to one size first, so that a feature
which is merely small, such as that of a rescaled unit, is not taken for a zero one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.evidence import EPS
from semiflat.induced.features import GradientFeatures

SMALLER_SIDE = 16384
"""Largest min(N·M, P) that is folded: R then holds 2 GiB."""
NEAR_CUT = 100.0
"""Singular values this many cuts from zero or nearer count, but may be rounding."""


@dataclass(frozen=True)
class Projection:
    """A residual r in the singular directions of the features.

    Attributes:
        singular: singular values of the scaled features, descending; (k,).
        components: ``uᵢᵀr``, (k,).
        outside: ``‖r‖²`` outside the span of all k directions.
        cut: singular values up to here count as zero.
        floor: singular values up to here are rounding of zeros.
        largest: of the scaled features.
    """

    singular: Tensor
    components: Tensor
    outside: float
    cut: float
    floor: float
    largest: float

    @property
    def kept(self) -> Tensor:
        """Which directions count."""
        return self.singular > self.cut

    @property
    def rank(self) -> int:
        """Number of directions that count."""
        return int(self.kept.sum())

    @property
    def inside(self) -> float:
        """``‖r‖²`` inside the span."""
        return float(self.components[self.kept].square().sum())

    @property
    def dropped(self) -> float:
        """``‖r‖²`` along the directions that were counted as zero."""
        return float(self.components[~self.kept].square().sum())

    @property
    def doubtful(self) -> float:
        """The part of ``dropped`` along directions too large to be rounding of zeros."""
        apart = ~self.kept & (self.singular > self.floor)
        return float(self.components[apart].square().sum())

    @property
    def noise(self) -> float:
        """What rounding of the features may change of ``inside``.

        To first order the projector P of a matrix moved by E changes ``‖Pr‖²`` by
        ``2 rᵀ(1−P)E Φ⁺r``; directions near the cut may be rounding as a whole.
        """
        kept = self.kept
        rounding = 4 * EPS * self.largest
        rest = (self.outside + self.dropped) ** 0.5
        leverage = float((self.components[kept] / self.singular[kept]).square().sum()) ** 0.5
        near = kept & (self.singular <= NEAR_CUT * self.cut)
        doubtful = float(self.components[near].square().sum())
        second = (rounding * leverage) ** 2
        total = self.inside + self.outside + self.dropped
        return float(2 * rest * rounding * leverage + second + doubtful + 8 * EPS * EPS * total)


def project(features: GradientFeatures, residual: Tensor) -> Projection:
    """A residual (N, M) in the singular directions of the features.

    Raises:
        InputError: if both sides of the features are too large.
    """
    rows = features.samples * features.width
    if min(rows, features.count) > SMALLER_SIDE:
        raise InputError(
            f"{rows} outputs on the data and {features.count} features are too many to project on: the "
            f"smaller number must be at most {SMALLER_SIDE}; take fewer samples or a smaller network"
        )
    if rows <= features.count:
        return _by_features(features, residual.reshape(-1))
    return _by_samples(features, residual)


def _by_features(features: GradientFeatures, residual: Tensor) -> Projection:
    """Fold the features: Φ = R'ᵀQᵀ has the left singular vectors of R'ᵀ, (N·M × N·M)."""
    rows = len(residual)
    triangle = torch.zeros((0, rows), dtype=torch.float64)
    for block in _column_blocks(features, rows):
        triangle = torch.linalg.qr(torch.cat([triangle, block.mT]), mode="r").R
    left, singular, _ = torch.linalg.svd(triangle.mT, full_matrices=False)
    components = left.mT @ residual
    outside = float((residual - left @ components).square().sum())
    return _projection(singular, components, outside, rows, features.count)


def _column_blocks(features: GradientFeatures, rows: int) -> Iterator[Tensor]:
    """Φ a few columns at a time; made again for each block, which costs little beside folding it."""
    wide = max(2 * rows, 2**27 // max(1, rows))
    scales = features.scales()
    for start in range(0, features.count, wide):
        columns = slice(start, min(start + wide, features.count))
        parts = [features.rows(part)[..., columns] * scales[columns] for part in features.parts()]
        yield torch.cat(parts).reshape(rows, -1)


def _by_samples(features: GradientFeatures, residual: Tensor) -> Projection:
    """Fold the samples, the residual as one more column; a linear last layer is taken out first."""
    last = features.last_layer()
    if last is None:
        count, remove = features.count, None
        basis = None
    else:
        fed, taken = last
        count = features.count - taken
        basis, at_last = _basis(fed)
        along = basis.mT @ residual  # (r, M)
        residual = residual - basis @ along
        remove = _remover(features, basis, count)
    triangle = torch.zeros((0, count + 1), dtype=torch.float64)
    scales = features.scales()[:count]
    held: list[Tensor] = []
    waiting = 0
    for part in features.parts():
        rows = features.rows(part)[..., :count]
        if remove is not None:
            rows = remove(part, rows)
        rows = torch.cat([rows, residual[part][..., None]], dim=-1).flatten(0, 1)
        held.append(rows)
        waiting += len(rows)
        if waiting >= 2 * count:
            triangle, held, waiting = _fold(triangle, held), [], 0
    triangle = _fold(triangle, held) if held else triangle
    R, c = triangle[:count, :count] * scales, triangle[:count, count]
    outside = float(triangle[count:, count].square().sum())
    left, singular, _ = torch.linalg.svd(R, full_matrices=False)
    components = left.mT @ c
    outside += float((c - left @ components).square().sum())
    if last is not None:
        # Orthogonal to the rest, so that its singular values and directions are some of the whole's.
        each = at_last.repeat_interleave(features.width)
        singular = torch.cat([singular, each])
        components = torch.cat([components, along.reshape(-1)])
    return _projection(
        singular, components, outside, features.samples * features.width, features.count
    )


def _basis(fed: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal basis (N, r) of what a layer is fed with, and the scaled singular values."""
    sizes = torch.linalg.vector_norm(fed, dim=0)
    left, singular, _ = torch.linalg.svd(
        fed / torch.where(sizes > 0, sizes, 1.0), full_matrices=False
    )
    kept = singular > max(fed.shape) * EPS * singular[0]
    return left[:, kept], singular[kept]


def _remover(
    features: GradientFeatures, basis: Tensor, count: int
) -> Callable[[slice, Tensor], Tensor]:
    """What takes the span of ``I_M ⊗ basis`` out of the other features."""
    along = torch.zeros((basis.shape[1], features.width * count), dtype=torch.float64)
    for part in features.parts():
        along += basis[part].mT @ features.rows(part)[..., :count].flatten(1)

    def remove(part: slice, rows: Tensor) -> Tensor:
        return rows - (basis[part] @ along).reshape(rows.shape)

    return remove


def _fold(triangle: Tensor, rows: list[Tensor]) -> Tensor:
    found: Tensor = torch.linalg.qr(torch.cat([triangle, *rows]), mode="r").R
    return found


def _projection(
    singular: Tensor, components: Tensor, outside: float, rows: int, count: int
) -> Projection:
    largest = float(singular.max()) if len(singular) else 0.0
    cut = max(rows, count) * EPS * largest
    floor = max(rows, count) ** 0.5 * EPS * largest
    order = singular.argsort(descending=True)
    return Projection(singular[order], components[order], outside, cut, floor, largest)
