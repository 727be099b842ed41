"""Subspaces of outputs on the data that a convex loss is minimised over: f(θ) + {U c}."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from semiflat.evidence import EPS
from semiflat.induced.features import GradientFeatures, column_scales

DENSE_ENTRIES = 2**25
"""N·M × P entries up to which features are held and made orthonormal."""


class Span(ABC):
    """A linear map U from coefficients (k,) to outputs (N, M).

    Attributes:
        dimension: k.
    """

    dimension: int

    @abstractmethod
    def apply(self, coefficients: Tensor) -> Tensor:
        """``U c``, (N, M)."""

    @abstractmethod
    def adjoint(self, cotangent: Tensor) -> Tensor:
        """``Uᵀ g``, (k,)."""

    @abstractmethod
    def leverage(self, outputs: Tensor, coefficients: Tensor) -> float:
        """``‖Φ‖ ‖α‖`` for the features Φ, columns of length 1, that give ``outputs`` = Φα."""

    def matrix(self) -> Tensor | None:
        """U with orthonormal columns, (N, M, k), if it is small enough to be held."""
        return None


class DenseSpan(Span):
    """The column span of features that are held, by an orthonormal basis."""

    def __init__(self, features: GradientFeatures) -> None:
        basis, self.singular = orthonormal(features.matrix(), features.scales())
        self.dimension = basis.shape[1]
        self._basis, self._width = basis, features.width

    def apply(self, coefficients: Tensor) -> Tensor:
        return (self._basis @ coefficients).reshape(-1, self._width)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        return self._basis.mT @ cotangent.reshape(-1)

    def leverage(self, outputs: Tensor, coefficients: Tensor) -> float:
        return _leverage(self._basis, self.singular, outputs.reshape(-1, 1))

    def matrix(self) -> Tensor:
        return self._basis.reshape(-1, self._width, self.dimension)


class SharedSpan(Span):
    """All M outputs free in the span of the same columns (N, q): ``I_M ⊗`` an orthonormal basis."""

    def __init__(self, columns: Tensor, width: int) -> None:
        self.basis, self.singular = orthonormal(columns)
        self.dimension = self.basis.shape[1] * width
        self._width = width

    def apply(self, coefficients: Tensor) -> Tensor:
        return self.basis @ coefficients.reshape(-1, self._width)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        return (self.basis.mT @ cotangent).reshape(-1)

    def leverage(self, outputs: Tensor, coefficients: Tensor) -> float:
        return _leverage(self.basis, self.singular, outputs)

    def matrix(self) -> Tensor | None:
        samples, rank = self.basis.shape
        if samples * self._width**2 * rank > DENSE_ENTRIES:
            return None
        eye = torch.eye(self._width, dtype=self.basis.dtype)
        return torch.einsum("nr,mk->nmrk", self.basis, eye).flatten(2)


class FeatureSpan(Span):
    """The span of gradient features that are never held: products alone, columns of one size."""

    def __init__(self, features: GradientFeatures) -> None:
        self._features = features
        self.dimension = features.count
        self._scale = features.scales()

    def apply(self, coefficients: Tensor) -> Tensor:
        return self._features.apply(self._scale * coefficients)

    def adjoint(self, cotangent: Tensor) -> Tensor:
        return self._scale * self._features.adjoint(cotangent)

    def leverage(self, outputs: Tensor, coefficients: Tensor) -> float:
        # The start is the last layer's own share; ‖Φ‖ is at most the root of the number of columns.
        moved = math.sqrt(self.dimension) * float(torch.linalg.vector_norm(coefficients))
        return moved + float(torch.linalg.vector_norm(outputs))


def _leverage(basis: Tensor, singular: Tensor, outputs: Tensor) -> float:
    if not basis.shape[1]:
        return 0.0
    along = (basis.mT @ outputs) / singular[: basis.shape[1], None]
    return float(singular[0]) * float(torch.linalg.vector_norm(along))


def orthonormal(columns: Tensor, scales: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """An orthonormal basis of a column span, rank by SVD of columns of one size, and all singular values.

    ``scales`` brings columns to another size than 1, as :meth:`GradientFeatures.scales` has it.
    """
    if scales is None:
        scales = column_scales(torch.linalg.vector_norm(columns, dim=0))
    scaled = columns[:, scales > 0] * scales[scales > 0]
    # Of a tall matrix the triangle has the same singular values, and is small.
    turned, triangle = torch.linalg.qr(scaled)
    left, singular, _ = torch.linalg.svd(triangle, full_matrices=False)
    left = turned @ left
    largest = float(singular[0]) if len(singular) else 0.0
    return left[:, singular > max(columns.shape) * EPS * largest], singular
