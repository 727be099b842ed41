"""A stand-in for a Hessian too large to build, from the layers' blocks of the Gauss–Newton matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.products import HessianProducts
from semiflat.curvature.sweep import pull_back
from semiflat.networks import MLP

SOFTEST = 1e-4
"""Part of the mean curvature of a layer that its parameters are taken to have at least."""


@dataclass(frozen=True)
class LayerFactors:
    """For each layer's ``[W, b]`` a Kronecker product ``G ⊗ A + μ``, positive definite, for one network.

    With ``C = Jᵀ ∂²(ℓ/N)/∂f² J`` at the layer's z, sample by sample, ``G = Σ_ν C_ν`` and
    ``A = Σ_ν tr(C_ν) h̃ h̃ᵀ / Σ_ν tr(C_ν)``: Martens & Grosse 2015, with samples weighed by their curvature.

    Attributes:
        parts: for each layer, one after the other, the eigenvectors of G (out, out) and of A (D, D), and
            the eigenvalues of the product (out, D).
    """

    net: MLP
    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, products: HessianProducts) -> LayerFactors:
        """Of the one network whose products these are."""
        problem, net = products.problem, products.problem.net
        outers = [torch.zeros((out, out), dtype=problem.dtype) for out in net.widths[1:]]
        inners = [torch.zeros((net.fan_in(k),) * 2, dtype=problem.dtype) for k in range(net.depth)]
        for s in products.sweeps():
            assert s.loss_second is not None
            *batch, outputs, _, samples = s.loss_second.shape
            second = s.loss_second.reshape(outputs, outputs, samples)
            back = torch.eye(outputs, dtype=second.dtype)[..., None]  # ∂f/∂z, (*batch, out, M, n)
            back = back.expand(*batch, -1, -1, samples)
            for layer in range(net.depth - 1, -1, -1):
                moved = back.reshape(back.shape[-3:])
                weights = moved.new_zeros(samples)
                for output in range(outputs):  # all at once would take M times the memory
                    curved = (second[:, output] * moved).sum(1)
                    outers[layer] += moved[:, output] @ curved.mT
                    weights += (moved[:, output] * curved).sum(0)
                fed = s.inputs[layer].reshape(-1, samples)
                inners[layer] += (fed * weights.clamp(min=0)) @ fed.mT
                if layer:
                    back = (s.weights[layer].mT @ back.flatten(-2)).unflatten(-1, back.shape[-2:])
                    back = pull_back(back, s.first[layer - 1], s.cross[layer - 1], axis=-3)
        decays = net.unflatten(problem.decays.to(problem.dtype))
        parts: list[Tensor] = []
        for layer, (outer, inner) in enumerate(zip(outers, inners, strict=True)):
            g, left = _eigen(outer)
            a, right = _eigen(inner / outer.trace().clamp(min=1e-300))
            curvature = g[:, None] * a
            least = SOFTEST * curvature.mean() + net.layer(decays, layer).mean()
            parts += [left, right, curvature + least.clamp(min=1e-12)]
        return cls(net, tuple(parts))

    def divide(self, vector: Tensor, power: float = 1.0) -> Tensor:
        """``M^{-power} v`` for a v of shape (P,)."""
        rows = self.net.unflatten(vector)
        found = []
        for layer in range(self.net.depth):
            left, right, sizes = self.parts[3 * layer : 3 * layer + 3]
            turned = left.mT @ self.net.layer(rows, layer) @ right / sizes**power
            found.append(flat_rows(self.net, layer, left @ turned @ right.mT))
        return torch.cat(found)


def _eigen(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Of a matrix that overflowed those of 0: it stands in for nothing, and its step will be refused."""
    clean = matrix if bool(torch.isfinite(matrix).all()) else torch.zeros_like(matrix)
    values, vectors = torch.linalg.eigh((clean + clean.mT) / 2)
    return values.clamp(min=0), vectors
