"""The part of a residual inside the span of the gradient features, without holding them all.

What is kept is the smaller side of the features Φ (N·M × P): samples are folded into the triangle R of
``Φ = QR`` and into Qᵀr, or, where there are fewer outputs than features, features into that of Φᵀ. The
rank is then read off R (:mod:`semiflat.induced.rank`). Columns are brought to one size first, so that a
feature which is merely small, such as that of a rescaled unit, is not taken for a zero one; those that are
0 on all samples are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.induced.features import GradientFeatures
from semiflat.induced.rank import Projection, split

SMALLER_SIDE = 16384
"""Largest min(N·M, P) that is folded: R then holds 2 GiB."""
FOLDED_ENTRIES = 2**27
"""Entries of Φ, some rows or columns of it, that are folded at a time: a GiB."""


def project(features: GradientFeatures, residual: Tensor) -> Projection:
    """A residual (N, M) against the span of the features.

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
    return split(triangle.mT, residual, 0.0, rows, features.count)


def _column_blocks(features: GradientFeatures, rows: int) -> Iterator[Tensor]:
    """Φ a few columns at a time; made again for each block, which costs little beside folding it."""
    wide = max(1, FOLDED_ENTRIES // max(1, rows))
    scales = features.scales()
    for start in range(0, features.count, wide):
        columns = slice(start, min(start + wide, features.count))
        parts = [features.rows(part)[..., columns] * scales[columns] for part in features.parts()]
        yield torch.cat(parts).reshape(rows, -1)


def _by_samples(features: GradientFeatures, residual: Tensor) -> Projection:
    """Fold the samples, the residual as one more column.

    Columns of a QR decomposition keep their own digits, so their sizes can be divided out at the end.
    """
    scales = features.scales()
    used = scales.nonzero().flatten()
    count = len(used)
    triangle = torch.zeros((0, count + 1), dtype=torch.float64)
    held: list[Tensor] = []
    waiting = 0
    for part in features.parts():
        rows = torch.cat([features.rows(part)[..., used], residual[part][..., None]], dim=-1)
        held.append(rows.flatten(0, 1))
        waiting += len(held[-1])
        if waiting >= max(2 * count, FOLDED_ENTRIES // (count + 1)):
            triangle, held, waiting = _fold(triangle, held), [], 0
    triangle = _fold(triangle, held) if held else triangle
    R, c = triangle[:count, :count] * scales[used], triangle[:count, count]
    outside = float(triangle[count:, count].square().sum())
    return split(R, c, outside, features.samples * features.width, features.count)


def _fold(triangle: Tensor, rows: list[Tensor]) -> Tensor:
    found: Tensor = torch.linalg.qr(torch.cat([triangle, *rows]), mode="r").R
    return found
