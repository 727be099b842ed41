"""The flat families of a point against the kernel of its Hessian."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.evidence import Evidence
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
