"""The flat families of a point against the kernel of its Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.evidence import Evidence
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.symmetries.families import TangentFamily, flat_families, span


@dataclass(frozen=True)
class Flatness:
    """The flat families of a plain point against the kernel of its Hessian.

    Attributes:
        families: all of them.
        joint: an orthonormal basis of the directions that hold together, (P, t).
        dimension: dimension of all families together.
        explained: how many zero eigenvalues' directions lie in the families.
        unexplained: how many do not.
    """

    families: list[TangentFamily]
    joint: Tensor
    dimension: int
    explained: int
    unexplained: int

    def has(self, name: str) -> bool:
        """Whether a family of that name is there."""
        return any(family.name == name for family in self.families)


def steepest_on_moves(problem: Problem, params: Params, families: list[TangentFamily]) -> float:
    """The largest gradient entry found on random moves along the joint affine families, together.

    The loss is constant there; only if the gradient vanishes too is it a manifold of critical points.
    The gradient is analytic in the move, so a few random moves of finite size tell.
    """
    moves = [f.tangents for f in families if f.joint and f.affine]
    if not moves:
        return 0.0
    net = problem.net
    at = net.flatten(params)
    generator = torch.Generator().manual_seed(0)
    tangents = torch.cat(moves)
    tangents = tangents / torch.linalg.vector_norm(tangents, dim=1, keepdim=True)
    mix = torch.randn((4, len(tangents)), generator=generator, dtype=torch.float64)
    sizes = torch.tensor([0.3, -0.3, 1.0, -1.0], dtype=torch.float64)[:, None]
    reached = at + sizes * (mix @ tangents)
    return float(risk_gradient(problem, net.unflatten(reached))[1].abs().max())


def flatness(evidence: Evidence) -> Flatness:
    """Flat families of a point, and which of its zero eigenvalues they explain."""
    size = len(evidence.vector)
    families = flat_families(evidence.on_data)
    joint = span([family for family in families if family.joint], size)
    everything = span(families, size)
    spectrum = evidence.spectrum
    kernel = spectrum.vectors[:, spectrum.zero]
    # Cosines of the angles between kernel and families: 1 where a zero is explained. The kernel's
    # vectors are known to about floor/gap, far better than the 1e-3 asked for.
    cosines = torch.linalg.svdvals(everything.mT @ kernel) if kernel.shape[1] else torch.zeros(0)
    explained = int((cosines > 1 - 1e-6).sum())
    return Flatness(families, joint, everything.shape[1], explained, kernel.shape[1] - explained)
