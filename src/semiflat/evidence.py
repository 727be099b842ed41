"""Eigenvalues with noise floors: what floating point can tell at a point, and what it cannot.

A floor has two parts. *Noise*: the matrix is computed again at parameters moved by a unit of rounding;
what that changes, and what the eigenvalue solver may, hides smaller eigenvalues. *Shift*: the point is
not the critical point itself but lies a Newton step away from it; the matrix is computed a Newton step
on, and what that changes is not known either. Where the Hessian is nearly singular that step is long,
its floor is high and the verdict is UNDECIDED, as it should be.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from semiflat.curvature.blocks import LayerBlocks, layer_blocks
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.points import Point
from semiflat.symmetries.on_data import OnData

EPS = torch.finfo(torch.float64).eps
ENOUGH = 10.0
"""An eigenvalue counts as decided when it is this many floors away from zero."""

# Beyond this part of the largest eigenvalue, the distance to the exact critical point no longer
# makes an eigenvalue count as zero (it still makes the verdict UNDECIDED).
SHIFT_COUNTED = 1e-10


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues, or singular values, in ascending order with what hides them.

    Attributes:
        values: ascending.
        vectors: columns in the same order.
        noise: what rounding may have changed.
        shift: what the distance to the exact critical point may have changed; 0 if there is none.
        scale: size of the matrix that an eigenvalue is small or large against.
    """

    values: Tensor
    vectors: Tensor
    noise: float
    shift: float
    scale: float

    @property
    def floor(self) -> float:
        """What a verdict holds the eigenvalues against."""
        return self.noise + self.shift

    @property
    def counting_floor(self) -> float:
        """What an eigenvalue must exceed in size to be counted as not zero."""
        return self.noise + min(self.shift, SHIFT_COUNTED * self.scale)

    def count(self) -> tuple[int, int, int]:
        """(positive, zero, negative) at the counting floor."""
        floor = self.counting_floor
        positive, negative = int((self.values > floor).sum()), int((self.values < -floor).sum())
        return positive, len(self.values) - positive - negative, negative

    def decided(self) -> tuple[int, int, int, int]:
        """(positive, hidden, negative, doubtful) by the whole floor, doubtful within ``ENOUGH``."""
        floor, clear = self.floor, ENOUGH * self.floor
        positive, negative = int((self.values > clear).sum()), int((self.values < -clear).sum())
        hidden = int((self.values.abs() <= floor).sum())
        return positive, hidden, negative, len(self.values) - positive - hidden - negative


def symmetric_spectrum(sites: list[Tensor]) -> Spectrum:
    """The spectrum of a symmetric matrix given at the point, at a rounding's and a shift's distance."""
    matrix = (sites[0] + sites[0].mT) / 2
    values, vectors = torch.linalg.eigh(matrix)
    return _spectrum(values, vectors, sites)


def singular_spectrum(sites: list[Tensor], scale: float = 0.0) -> Spectrum:
    """The singular values (ascending) of a matrix given at the same places; vectors: none.

    ``scale`` is the size of what the matrix is a block of, where that is larger.
    """
    values = torch.linalg.svdvals(sites[0]).flip(0)
    return _spectrum(values, values.new_zeros((0, 0)), sites, scale)


def _spectrum(
    values: Tensor, vectors: Tensor, sites: list[Tensor], scale: float = 0.0
) -> Spectrum:
    away = [float(torch.linalg.matrix_norm(site - sites[0])) for site in sites[1:]]
    largest = float(values.abs().max())
    noise = EPS * max(sites[0].shape) * largest + 4 * away[0]
    shift = 2 * away[1] if len(away) > 1 else 0.0
    return Spectrum(values, vectors, noise, shift, max(scale, largest))


@dataclass
class Evidence:
    """A plain point's derivatives with their noise, computed when first asked for.

    Attributes:
        point: the point.
        relative_tolerance: how large ``‖∇R‖∞`` may be at a critical point, for a risk up to 1.
    """

    point: Point
    relative_tolerance: float
    _blocks: dict[int, list[LayerBlocks]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vector = self.point.problem.net.flatten(self.point.params)
        self.risk, self.gradient, self.hessian = self._derivatives(self.vector)
        generator = torch.Generator().manual_seed(0)
        signs = torch.randint(0, 2, self.vector.shape, generator=generator) * 2 - 1
        self.rounded = self.vector * (1 + 2 * EPS * signs)
        _, self._rounded_gradient, self._rounded_hessian = self._derivatives(self.rounded)

    def _derivatives(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem = self.point.problem
        return risk_gradient_hessian(problem, problem.net.unflatten(vector))

    @cached_property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞``."""
        return float(self.gradient.abs().max())

    @cached_property
    def tolerance(self) -> float:
        """What ``‖∇R‖∞`` may be at a critical point: relative to the risk where that exceeds 1."""
        return self.relative_tolerance * max(1.0, float(self.risk.abs()))

    @property
    def critical(self) -> bool:
        """Whether the gradient is within tolerance."""
        return self.gradient_norm <= self.tolerance

    @cached_property
    def shifted(self) -> Tensor | None:
        """Where a Newton step leads, rounding in the gradient included; None if not critical."""
        if not self.critical:
            return None
        spectrum = symmetric_spectrum([self.hessian, self._rounded_hessian])
        seen = spectrum.values.abs() > spectrum.noise
        if not seen.any():
            return self.vector
        values, vectors = spectrum.values[seen], spectrum.vectors[:, seen]
        step = vectors @ (vectors.mT @ self.gradient / values)
        weakest = int(values.abs().argmin())
        rounding = torch.linalg.vector_norm(self.gradient - self._rounded_gradient)
        return self.vector - step + vectors[:, weakest] * (rounding / values[weakest].abs())

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian."""
        sites = [self.hessian, self._rounded_hessian]
        if self.shifted is not None:
            sites.append(self._derivatives(self.shifted)[2])
        return symmetric_spectrum(sites)

    @cached_property
    def on_data(self) -> OnData:
        """What the point's units do on the data."""
        return OnData(self.point.problem, self.point.params)

    def layer(self, layer: int) -> list[LayerBlocks]:
        """The unit blocks of a hidden layer at the point and at its one or two neighbours."""
        if layer not in self._blocks:
            problem = self.point.problem
            sites = [self.vector, self.rounded]
            if self.shifted is not None:
                sites.append(self.shifted)
            self._blocks[layer] = [
                layer_blocks(problem, problem.net.unflatten(site), layer) for site in sites
            ]
        return self._blocks[layer]
