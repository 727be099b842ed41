"""The posterior of inactive surplus ReLU units: on a box where they are 0 on the data (F19 §5.2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.bounds.blocks import PartKL, PosteriorScale, mean_kl
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class BoxSurplus(Shown):
    """Surplus ReLU units: v keeps the prior's spread, w is uniform on B_K in prior and posterior.

    ``B_K = {‖w‖ ≤ K, −3K ≤ bias ≤ −K}`` (F19 §4.1, whose bias has the other sign). Where the layer is
    fed with ‖x‖ ≤ 1 the units are 0 (F19 Prop. 7).

    Attributes:
        outgoing: the posterior's mean of v, (E, M).
        inputs: number of units below, without the bias.
        size: K.

    >>> import torch
    >>> import semiflat as sf
    >>> box = sf.BoxSurplus(outgoing=torch.zeros(4, 1), inputs=2, size=1.5)  # four units, two inputs
    >>> normal = torch.linspace(-3, 3, 100 * box.normals).reshape(100, -1)
    >>> rows, columns = box.place(normal, sf.PosteriorScale(sigma=1.0, tau=1.0))
    >>> tuple(rows.shape), tuple(columns.shape)
    ((100, 4, 3), (100, 4, 1))
    >>> bool((rows[..., :2].norm(dim=-1) <= 1.5).all()), bool((rows[..., 2] <= -1.5).all())
    (True, True)
    """

    outgoing: Tensor
    inputs: int
    size: float

    @property
    def count(self) -> int:
        """E."""
        return len(self.outgoing)

    @property
    def normals(self) -> int:
        """Standard normal numbers that one draw is made of: a direction, two uniforms, and v."""
        return self.outgoing.numel() + self.count * (self.inputs + 2)

    def kl(self, scale: PosteriorScale) -> list[PartKL]:
        """Exact KL(Q‖P) of v and of w; P is N(0, σ²I) on v and uniform on the box on w."""
        return [
            PartKL("outgoing", self.outgoing.numel(), 0.0, mean_kl(self.outgoing, scale.sigma)),
            PartKL("incoming", self.count * (self.inputs + 1), 0.0, 0.0),
        ]

    def place(self, normal: Tensor, scale: PosteriorScale) -> tuple[Tensor, Tensor]:
        """Standard normal vectors (B, normals) as incoming rows (B, E, D) and outgoing (B, E, M)."""
        batch = len(normal)
        free, rest = normal.split([self.outgoing.numel(), self.count * (self.inputs + 2)], dim=1)
        rest = rest.reshape(batch, self.count, self.inputs + 2)
        direction, uniform = rest[..., :-2], torch.special.ndtr(rest[..., -2:])
        lengths = torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
        weights = direction / lengths * uniform[..., :1] ** (1 / self.inputs) * self.size
        biases = -self.size * (1 + 2 * uniform[..., 1:])
        columns = self.outgoing + scale.sigma * free.reshape(batch, *self.outgoing.shape)
        return torch.cat([weights, biases], dim=-1), columns
