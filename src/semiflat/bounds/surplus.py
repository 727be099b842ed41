"""The posterior of smooth inactive surplus units (F19 §5.2, §F.2.2), from narrow quantities alone.

With E surplus units of one incoming row w⁰, σ(w⁰) = 0, outgoing V (E × M) and
``C = Σ_ν B_ν ⊗ c² x̃x̃ᵀ`` (c = σ'(w⁰), B_ν the second derivative of the loss by the layer above, Gauss–Newton
part), the block of the wide Hessian that belongs to the incoming rows is

    S = (V ⊗ I) C (V ⊗ I)ᵀ                                                      (F19 eq. 42, at risk 0)

of rank at most rank V · D, so τ²S⁻¹ exists for E = rank V ≤ M alone. The stationary covariance takes the
mean of S over the posterior v ~ N(V, σ²I) of the outgoing weights instead,

    S̄ = S + σ² I_E ⊗ A,      A = Σ_m C_mm   (D × D),

which is what stationarity of a product of Gaussians asks for. All but rank V of the E units see A alone, so
KL and draws need eigenvalues of D × D and (rank V · D)-square matrices, however many units there are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from semiflat.bounds.blocks import (
    Covariance,
    PartKL,
    PosteriorScale,
    log_ratios,
    mean_kl,
    spread_kl,
)
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.embeddings.inactive import InactiveUnits
from semiflat.evidence import ENOUGH, EPS
from semiflat.points import Point
from semiflat.records.shown import Shown

Spectra = tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SmoothSurplus(Shown):
    """Surplus units of a smooth activation: v keeps the prior's spread, w is held by S or S̄.

    Attributes:
        outgoing: V, the posterior's mean of v, (E, M).
        incoming: w⁰ with the bias last, the mean of every unit's w, (D,).
        curvature: C, (M·D, M·D), unit by unit.
        decay: weight decay's λ, which is in every Hessian.
        covariance: which Σ.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), x, x, weight_decay=1e-3)
    >>> wide = sf.InactiveUnits(0, count=2)(sf.find_critical_point(problem, starts=4))
    >>> surplus = sf.pac_bayes_bound(wide, sf.Clipped(1.0), draws=200).posterior.family.surplus
    >>> surplus.count, tuple(surplus.outgoing.shape), tuple(surplus.average.shape)
    (2, (2, 1), (2, 2))
    """

    outgoing: Tensor
    incoming: Tensor
    curvature: Tensor
    decay: float
    covariance: Covariance

    @property
    def count(self) -> int:
        """E."""
        return len(self.outgoing)

    @property
    def normals(self) -> int:
        """Standard normal numbers that one draw is made of."""
        return self.outgoing.numel() + self.count * len(self.incoming)

    @cached_property
    def _basis(self) -> tuple[Tensor, Tensor]:
        """Q (E, r) and R (r, M) with V = QR and orthonormal columns in Q, r = rank V."""
        left, sizes, right = torch.linalg.svd(self.outgoing, full_matrices=False)
        rank = int((sizes > max(self.outgoing.shape) * EPS * sizes[0]).sum())
        return left[:, :rank], sizes[:rank, None] * right[:rank]

    @cached_property
    def _core(self) -> Tensor:
        """S on the range of V, (r·D, r·D)."""
        fan, above = len(self.incoming), self.outgoing.shape[1]
        blocks = self.curvature.reshape(above, fan, above, fan)
        reduced = self._basis[1]
        core = torch.einsum("am,midj,bd->aibj", reduced, blocks, reduced)
        size = len(reduced) * fan
        return core.reshape(size, size)

    @cached_property
    def average(self) -> Tensor:
        """A, (D, D): what each unit's own outgoing weight, at random, makes of its curvature."""
        fan, above = len(self.incoming), self.outgoing.shape[1]
        blocks = self.curvature.reshape(above, fan, above, fan)
        found: Tensor = torch.einsum("midm->id", blocks.transpose(2, 3))
        return (found + found.mT) / 2

    @cached_property
    def rank(self) -> int:
        """Rank of S, counted above rounding; ``E·D`` is what τ²S⁻¹ needs."""
        if not len(self._core):
            return 0
        values = torch.linalg.eigvalsh(self._core)
        return int((values > ENOUGH * len(values) * EPS * values[-1]).sum())

    @cached_property
    def _known(self) -> dict[float, Spectra]:
        # A grid asks for few σ, and for each of them with every τ.
        return {}

    def spectra(self, sigma: float) -> Spectra:
        """Eigenvalues and eigenvectors on the range of V, and of each unit beyond it."""
        if sigma not in self._known:
            own = self.average * (sigma**2 if self.covariance == "stationary" else 0.0)
            rank = self._basis[0].shape[1]
            core = self._core + torch.block_diag(*[own] * rank) if rank else self._core
            self._known[sigma] = self._spectrum(core), self._spectrum(own)
        return self._known[sigma]

    def _spectrum(self, matrix: Tensor) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
        return values.clamp(min=0) + self.decay, vectors

    def kl(self, scale: PosteriorScale) -> list[PartKL]:
        """Exact KL(Q‖P) of v and of w; P is N(0, σ²I) on both."""
        (core, _), (own, _) = self.spectra(scale.sigma)
        spread = spread_kl(log_ratios(core, scale, self.covariance))
        beyond = self.count - self._basis[0].shape[1]
        if beyond:
            spread += beyond * spread_kl(log_ratios(own, scale, self.covariance))
        return [
            PartKL("outgoing", self.outgoing.numel(), 0.0, mean_kl(self.outgoing, scale.sigma)),
            PartKL(
                "incoming",
                self.count * len(self.incoming),
                spread,
                self.count * mean_kl(self.incoming, scale.sigma),
            ),
        ]

    def place(self, normal: Tensor, scale: PosteriorScale) -> tuple[Tensor, Tensor]:
        """Standard normal vectors (B, normals) as incoming rows (B, E, D) and outgoing (B, E, M)."""
        fan, batch = len(self.incoming), len(normal)
        free, held = normal.split([self.outgoing.numel(), self.count * fan], dim=1)
        held = held.reshape(batch, self.count, fan)
        basis, (core, own) = self._basis[0], self.spectra(scale.sigma)
        inside = basis.mT @ held
        rows = torch.zeros_like(held)
        if basis.shape[1] < self.count:
            widths = torch.exp(log_ratios(own[0], scale, self.covariance) / 2)
            rows = ((held - basis @ inside) @ own[1]) * widths @ own[1].mT
        if len(core[0]):
            widths = torch.exp(log_ratios(core[0], scale, self.covariance) / 2)
            drawn = (inside.reshape(batch, -1) @ core[1] * widths) @ core[1].mT
            rows = rows + basis @ drawn.reshape(batch, -1, fan)
        columns = self.outgoing + scale.sigma * free.reshape(batch, *self.outgoing.shape)
        return self.incoming + scale.sigma * rows, columns


def surplus_curvature(source: Point, layer: int, row: Tensor) -> Tensor:
    """C: the curvature by the incoming rows of one surplus unit for each unit above, (M·D, M·D).

    They are the last rows of a network with those M units, each heard by one unit above with weight 1.
    """
    net = source.problem.net
    above, fan, old = net.widths[layer + 2], net.fan_in(layer), net.hidden[layer]
    one = InactiveUnits(layer, above, torch.eye(above), bias=_bias(row, net.biases[layer]))
    wide = one.widen(net)
    params = one.on(net).parameters(source.params)
    problem = source.problem.with_net(wide).with_weight_decay(0.0)
    matrix = risk_gradient_gauss_newton(problem, params)[2]
    numbers = wide.unflatten(torch.arange(wide.parameter_count))
    chosen = wide.layer(numbers, layer)[old:].reshape(above * fan)
    return matrix[chosen[:, None], chosen]


def _bias(row: Tensor, has_bias: bool) -> float | None:
    return float(row[-1]) if has_bias else None
