"""What a method is, and the step within a radius that all of them take."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from semiflat.networks import Params
from semiflat.problem import Problem

Eigen = tuple[Tensor, Tensor]
"""Eigenvalues (B, P) and eigenvectors (B, P, P) of a batch of Hessians."""


class Method(Protocol):
    """A step within a trust radius, and the merit it is to lower.

    Attributes:
        exact: whether its matrix is the Hessian, so that its lowest eigenvalue tells a saddle.
        follows_loss: whether a way down is a reason to go on.
    """

    exact: bool
    follows_loss: bool

    def model(self, problem: Problem, params: Params) -> tuple[Tensor, Tensor, Tensor]:
        """Risk (B,), gradient (B, P) and the matrix (B, P, P) of the local model."""

    def merit(self, risk: Tensor, gradient: Tensor) -> Tensor:
        """What a step is to lower, (B,)."""

    def step(self, gradient: Tensor, eigen: Eigen, radius: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (B, P) of length ≤ radius (B,), and the decrease of the merit they promise (B,)."""


def rotate(matrix: Tensor, vector: Tensor) -> Tensor:
    """Matrices (B, P, P) times vectors (B, P)."""
    return (matrix @ vector[..., None]).squeeze(-1)


def bounded_newton(values: Tensor, slope: Tensor, radius: Tensor) -> Tensor:
    """The minimiser of ``slope·p + ½ Σ values p²`` with ``‖p‖ ≤ radius``, row by row.

    Args:
        values: curvatures in ascending order, (B, P).
        slope: (B, P).
        radius: (B,).
    """
    lowest = values[:, 0]
    scale = values.abs().amax(-1).clamp(min=1e-300)
    # μ ≥ low makes every values + μ positive; the step shrinks from there on as μ grows.
    low = (-lowest).clamp(min=0) + 1e-15 * scale
    high = low + torch.linalg.vector_norm(slope, dim=-1) / radius + 1e-15 * scale

    free = (lowest > 1e-14 * scale) & (
        torch.linalg.vector_norm(slope / values.clamp(min=1e-300), dim=-1) <= radius
    )
    # Newton's method on 1/radius = 1/‖p(μ)‖, nearly linear in μ, kept inside the bracket. A hundredth
    # of the radius is near enough.
    mu = torch.where(free, torch.zeros_like(low), low)
    for _ in range(60):
        shifted = values + mu[:, None]
        squares = (slope / shifted).square()
        length = squares.sum(-1).sqrt()
        off = (length - radius) / radius
        open_rows = ~free & (off.abs() > 0.01) & (high - low > 1e-14 * scale)
        if not open_rows.any():
            break
        low, high = torch.where(off > 0, mu, low), torch.where(off > 0, high, mu)
        guess = mu + off * squares.sum(-1) / (squares / shifted).sum(-1).clamp(min=1e-300)
        middle = torch.where(low > 0.1 * high, (low + high) / 2, (low * high).sqrt())
        inside = (guess > low) & (guess < high)
        mu = torch.where(open_rows, torch.where(inside, guess, middle), mu)
    found = -slope / (values + mu[:, None])
    # Rounding in the last bits of μ must not lead out of the radius.
    length = torch.linalg.vector_norm(found, dim=-1)
    found = (
        found
        * torch.where(free, 1.0, (1.01 * radius / length.clamp(min=1e-300)).clamp(max=1.0))[:, None]
    )
    # The hard case: no slope along the lowest, negative curvature. Go that way to the boundary.
    short = (lowest < 0) & (torch.linalg.vector_norm(found, dim=-1) < 0.98 * radius)
    rest = (radius.square() - found[:, 1:].square().sum(-1)).clamp(min=0).sqrt()
    towards = torch.where(found[:, 0] < 0, -rest, rest)
    found[:, 0] = torch.where(short, towards, found[:, 0])
    return found
