"""Gaussian blocks of a posterior and their KL divergence from the prior N(μ₀, σ²I).

A block's covariance shares eigenvectors with a Hessian, so all about it is a function of eigenvalues h:

    stationary        Σ = (H/τ² + I/σ²)⁻¹     Σ/σ² has eigenvalues 1 / (1 + h σ²/τ²)
    inverse_hessian   Σ = τ² H⁻¹               Σ/σ² has eigenvalues τ² / (h σ²)

With ρ = Σ/σ², ``KL = ½ Σ_i (ρ_i − 1 − ln ρ_i) + ‖μ − μ₀‖² / 2σ²``: exact, and a sum of terms ≥ 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from semiflat.records.shown import Shown

Covariance = Literal["stationary", "inverse_hessian"]


class PosteriorScale(NamedTuple):
    """σ of the prior and τ of the posterior.

    Attributes:
        sigma: σ, above 0.
        tau: τ, above 0.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> point = sf.find_critical_point(problem, starts=1)
    >>> bound = sf.pac_bayes_bound(point, sigmas=[4.0], taus=[0.5], draws=200)
    >>> bound.posterior.scale
    PosteriorScale(sigma=4.0, tau=0.5)
    """

    sigma: float
    tau: float


def log_ratios(values: Tensor, scale: PosteriorScale, covariance: Covariance) -> Tensor:
    """``ln ρ`` for Hessian eigenvalues h: of the posterior's variance over the prior's.

    >>> log_ratios(torch.tensor([0.0, 3.0]), PosteriorScale(1.0, 1.0), "stationary").exp()
    tensor([1.0000, 0.2500])
    """
    stretched = values * (scale.sigma / scale.tau) ** 2
    return -torch.log1p(stretched) if covariance == "stationary" else -torch.log(stretched)


def spread_kl(ratios: Tensor) -> float:
    """``½ Σ (ρ − 1 − ln ρ)`` from ``ln ρ``: what a covariance costs.

    >>> spread_kl(torch.zeros(3))
    0.0
    """
    # e^x − 1 − x, by its series where the difference would lose its digits.
    series = ratios.square() * (0.5 + ratios * (1 / 6 + ratios / 24))
    terms = torch.where(ratios.abs() < 1e-3, series, torch.expm1(ratios) - ratios)
    return float(terms.sum()) / 2


@dataclass(frozen=True)
class PartKL(Shown):
    """KL of one block of parameters.

    Attributes:
        name: ``"network"``, ``"outgoing"`` (surplus v) or ``"incoming"`` (surplus w).
        dimension: its number of parameters.
        spread: what the covariance costs, in nats.
        mean: ``‖μ − μ₀‖² / 2σ²``.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=1), draws=200)
    >>> [(part.name, part.dimension) for part in bound.parts]
    [('network', 2)]
    >>> bound.kl == sum(part.total for part in bound.parts)
    True
    """

    name: str
    dimension: int
    spread: float
    mean: float

    @property
    def total(self) -> float:
        """Their sum, in nats."""
        return self.spread + self.mean


@dataclass(frozen=True)
class GaussianBlock(Shown):
    """``Q = N(μ, Σ)`` against ``P = N(μ₀, σ²I)`` on one block, for any σ and τ.

    Attributes:
        name: as in :class:`PartKL`.
        mean, prior_mean: μ and μ₀, (P,).
        values: eigenvalues h of the Hessian, (P,).
        vectors: its eigenvectors, columns, (P, P).
        covariance: which Σ.

    >>> import torch
    >>> import semiflat as sf
    >>> values, zero = torch.tensor([0.0, 99.0]), torch.zeros(2)  # one direction is flat
    >>> block = sf.GaussianBlock("network", zero, zero, values, torch.eye(2), "stationary")
    >>> one = sf.PosteriorScale(sigma=1.0, tau=1.0)
    >>> block.place(torch.ones(1, 2), one)
    tensor([[1.0000, 0.1000]])
    >>> round(block.kl(one).total, 4)                             # which costs nothing
    1.8076
    """

    name: str
    mean: Tensor
    prior_mean: Tensor
    values: Tensor
    vectors: Tensor
    covariance: Covariance

    def kl(self, scale: PosteriorScale) -> PartKL:
        """Exact KL(Q‖P)."""
        ratios = log_ratios(self.values, scale, self.covariance)
        return PartKL(
            self.name,
            len(self.mean),
            spread_kl(ratios),
            mean_kl(self.mean - self.prior_mean, scale.sigma),
        )

    def place(self, normal: Tensor, scale: PosteriorScale) -> Tensor:
        """Standard normal vectors (B, P) as draws from Q."""
        widths = scale.sigma * torch.exp(log_ratios(self.values, scale, self.covariance) / 2)
        return self.mean + (normal * widths) @ self.vectors.mT


def mean_kl(difference: Tensor, sigma: float) -> float:
    """``‖μ − μ₀‖² / 2σ²``, ∞ where that is too large a number."""
    length = float(torch.linalg.vector_norm(difference)) / sigma
    return length * length / 2
