"""A plain point's derivatives, at the point and at the two neighbours that tell how far to trust them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from semiflat.curvature.blocks import LayerBlocks, layer_blocks
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.evidence.on_data import OnData
from semiflat.evidence.spectrum import EPS, Spectrum, symmetric_spectra, symmetric_spectrum
from semiflat.points import Point
from semiflat.problem import Problem

LOUD = 1e-5
"""Part of the residuals that a gradient off the manifold of critical points reaches at least."""


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
        self.rounded = rounded_vectors(self.vector)
        risk, gradient, hessian = self._derivatives(torch.stack([self.vector, self.rounded]))
        self.risk = risk[0]
        self.gradient, self._rounded_gradient = gradient
        self.hessian, self._rounded_hessian = hessian

    def _derivatives(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem = self.point.problem
        return risk_gradient_hessian(problem, problem.net.unflatten(vector))

    @cached_property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞``."""
        return float(self.gradient.abs().max())

    @cached_property
    def tolerance(self) -> float:
        """What ``‖∇R‖∞`` may be at a critical point: relative to √R, as gradients are, if R > 1."""
        return self.relative_tolerance * math.sqrt(max(1.0, float(self.risk.abs())))

    @property
    def critical(self) -> bool:
        """Whether the gradient is within tolerance."""
        return self.gradient_norm <= self.tolerance

    @property
    def still(self) -> float:
        """What the gradient may be at other points of a manifold of critical points through this one.

        Rounding, or what it is here, but no more than a small part of what residuals of this size
        could make of it: where they are near rounding themselves, nothing counts as still.
        """
        data = self.on_data
        rounding = 100 * max(self.gradient_norm, data.gradient_noise)
        return min(rounding, LOUD * data.loudness)

    @cached_property
    def shifted(self) -> Tensor | None:
        """Where a Newton step leads, rounding in the gradient included; None if not critical."""
        if not self.critical:
            return None
        spectrum = symmetric_spectrum([self.hessian, self._rounded_hessian])
        return newton_step_on(
            self.vector, float(self.risk), self.gradient, self._rounded_gradient, spectrum
        )

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


def critical_spectra(problem: Problem, vectors: Tensor, evened: bool = False) -> list[Spectrum]:
    """The spectra that :class:`Evidence` has of critical points, of a batch (B, P) of them at once.

    Args:
        evened: of ``D H D`` with the D that makes its diagonal ±1. Its inertia is that of H
            (Sylvester), and where parameters differ in size by much it shows eigenvalues that
            rounding hides beside the largest of H.
    """

    def derivatives(sites: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return risk_gradient_hessian(problem, problem.net.unflatten(sites))

    risk, gradient, hessian = derivatives(vectors)
    _, rounded_gradient, rounded_hessian = derivatives(rounded_vectors(vectors))
    near = symmetric_spectra([hessian, rounded_hessian])
    shifted = [
        newton_step_on(vectors[k], float(risk[k]), gradient[k], rounded_gradient[k], spectrum)
        for k, spectrum in enumerate(near)
    ]
    sites = [hessian, rounded_hessian, derivatives(torch.stack(shifted))[2]]
    if evened:
        scale = hessian.diagonal(dim1=-2, dim2=-1).abs().clamp(min=1e-300).rsqrt()
        sites = [site * scale[:, :, None] * scale[:, None, :] for site in sites]
    return symmetric_spectra(sites)


def rounded_vectors(vectors: Tensor) -> Tensor:
    """Parameters (…, P) moved by a unit of rounding, the same way each time."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, vectors.shape[-1:], generator=generator).double() * 2 - 1
    return vectors * (1 + 2 * EPS * signs)


def newton_step_on(
    vector: Tensor, risk: float, gradient: Tensor, rounded_gradient: Tensor, spectrum: Spectrum
) -> Tensor:
    """Where a Newton step leads, what rounding does to the gradient included, (P,)."""
    seen = ~spectrum.hidden
    if not seen.any():
        return vector
    values, vectors = spectrum.values[seen], spectrum.vectors[:, seen]
    step = vectors @ (vectors.mT @ gradient / values)
    weakest = int(values.abs().argmin())
    # How far rounding in the gradient may have moved the point where it is weakest held. Only
    # the part along that direction counts: a unit of rounding in the parameters moves the
    # stiff part of the gradient by far more than its evaluation does.
    along = vectors[:, weakest] @ (gradient - rounded_gradient)
    rounding = along.abs() + EPS * max(1.0, abs(risk))
    noise = vectors[:, weakest] * (rounding / values[weakest].abs())
    there: Tensor = vector - step + noise
    return there
