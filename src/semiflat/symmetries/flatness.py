"""The flat families of a point against the kernel of its Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.gradient import risk_gradient
from semiflat.evidence import Evidence, OnData, Spectrum
from semiflat.networks import Params
from semiflat.problem import Problem
from semiflat.symmetries.families import TangentFamily, flat_families, span

_SIZES = (0.03, -0.1, 0.3, -0.3, 1.0, -1.0, 3.0, -3.0)


@dataclass(frozen=True)
class Flatness:
    """The flat families of a plain point against the kernel of its Hessian.

    Attributes:
        families: all of them.
        joint: an orthonormal basis of the directions that hold together, (P, t), in the units measured in.
        dimension: dimension of all families together.
        explained: how many zero eigenvalues' directions lie in the families.
        unexplained: how many do not.
    """

    families: list[TangentFamily]
    joint: Tensor
    dimension: int
    explained: int
    unexplained: int

    def beyond(self, vectors: Tensor) -> Tensor:
        """What of vectors (P, k), in the units measured in, lies beyond the joint flat directions."""
        return vectors - self.joint @ (self.joint.mT @ vectors)

    def has(self, name: str) -> bool:
        """Whether a family of that name is there."""
        return any(family.name == name for family in self.families)


def steepest_on_moves(problem: Problem, params: Params, families: list[TangentFamily]) -> float:
    """The largest gradient found on random moves along the joint affine families, together.

    Of all entries, each in parts of what it would be if its terms did not cancel. The loss is constant
    there; only if the gradient vanishes too is it a manifold of critical points.
    The gradient is analytic in the move, so a few random moves of finite size tell. A move is as long
    as what it does to pre-activations and outputs on the data, whatever the units of inputs and targets:
    moves that saturate a unit would see nothing.
    """
    moves = [f.tangents for f in families if f.joint and f.affine]
    if not moves:
        return 0.0
    net = problem.net
    at = net.flatten(params)
    generator = torch.Generator().manual_seed(0)
    tangents = _evened(problem, params, torch.cat(moves))
    mix = torch.randn((len(_SIZES), len(tangents)), generator=generator, dtype=torch.float64)
    sizes = torch.tensor(_SIZES, dtype=torch.float64)[:, None]
    reached = at + sizes * (mix @ tangents)
    gradients = risk_gradient(problem, net.unflatten(reached))[1].abs()
    largest = [OnData(problem, net.unflatten(one)).natural.largest for one in reached]
    return float((gradients / torch.stack(largest).clamp(min=1e-300)).max())


def _evened(problem: Problem, params: Params, tangents: Tensor) -> Tensor:
    """The same directions mixed so that each moves pre-activations by a natural step on average, or none.

    Those that move none have length 1 in the parameters' natural steps.
    """
    net, data = problem.net, OnData(problem, params)
    step = data.natural.step.clamp(min=1e-300)
    lengths = torch.linalg.vector_norm(tangents / step, dim=1, keepdim=True)
    tangents = tangents / torch.where(lengths > 0, lengths, 1.0)
    parts, steps = net.unflatten(tangents), net.unflatten(step)
    effect = torch.zeros((len(tangents), len(tangents)), dtype=torch.float64)
    most = 0.0  # what a direction of length 1 can do at most
    for layer, z_step in enumerate(data.natural.z_step):
        fed = data.inputs[layer].values
        moment = fed.mT @ fed / len(fed)
        rows, own = (net.layer(each, layer) / z_step[:, None] for each in (parts, steps))
        most = max(most, float((own.square() @ moment.diagonal()).max()))
        effect += torch.einsum("kod,de,joe->kj", rows, moment, rows)
    values, vectors = torch.linalg.eigh(effect)
    seen = values > 1e-14 * most  # below, what null spaces have left of 0
    mixed = vectors.mT @ tangents
    scale = torch.where(seen, values.clamp(min=1e-300).rsqrt(), 1.0)
    even: Tensor = mixed * scale[:, None]
    return even


def flatness(evidence: Evidence) -> Flatness:
    """Flat families of a point, and which of its zero eigenvalues they explain."""
    return held_against_kernel(evidence.spectrum, evidence.unit, flat_families(evidence.on_data))


def held_against_kernel(
    spectrum: Spectrum, unit: Tensor, families: list[TangentFamily]
) -> Flatness:
    """Families of a point, and which of its zero eigenvalues they explain.

    Args:
        spectrum: of the Hessian.
        unit: what each parameter is measured in there, (P,).
    """
    joint = span([family for family in families if family.joint], unit)
    everything = span(families, unit)
    kernel = spectrum.vectors[:, spectrum.zero]
    # Cosines of the angles between kernel and families: 1 where a zero is explained. The kernel's
    # vectors are known to about floor/gap, far better than the 1e-3 asked for.
    cosines = torch.linalg.svdvals(everything.mT @ kernel) if kernel.shape[1] else torch.zeros(0)
    explained = int((cosines > 1 - 1e-6).sum())
    return Flatness(families, joint, everything.shape[1], explained, kernel.shape[1] - explained)
