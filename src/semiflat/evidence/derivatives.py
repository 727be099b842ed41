"""A plain point's derivatives, at the point and at the two neighbours that tell how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from semiflat.curvature.blocks import LayerBlocks, UnitBlocks, layer_blocks
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.evidence.on_data import OnData
from semiflat.evidence.spectrum import (
    ENOUGH,
    EPS,
    Spectrum,
    singular_spectrum,
    symmetric_spectrum,
)
from semiflat.points import Point
from semiflat.problem import Problem

LOUD = 1e-5
"""Part of the residuals that a gradient off the manifold of critical points reaches at least."""
SETTLED = 1e-3
"""Part of the penalty's own gradient that the whole gradient may have where the two parts balance."""
HELD = 1e-3
"""Part of an output's residuals, or of its spread, by which a Newton step may change it at a critical point."""
NEAR = 10.0
"""A kink is near if it lies within so many Newton steps, rounding in the gradient counted in."""


@dataclass
class Evidence:
    """A plain point's derivatives with their noise, computed when first asked for.

    Spectra are measured in the point's natural units (:mod:`semiflat.evidence.natural`), ``D H D`` with
    the unit of each parameter on D's diagonal. By Sylvester's law the inertia is that of H; and no
    eigenvalue is lost beside a larger one only because parameters differ in size.

    Attributes:
        point: the point.
        relative_tolerance: how large an entry of the gradient may be at a critical point, in parts of
            what it would be if its terms did not cancel.
    """

    point: Point
    relative_tolerance: float
    _blocks: dict[int, list[LayerBlocks]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.vector = self.point.problem.net.flatten(self.point.params)
        self.rounded = rounded_vectors(self.vector)

    @classmethod
    def of_batch(
        cls, shared: Problem, points: Sequence[Point], relative_tolerance: float
    ) -> list[Evidence]:
        """The evidence of several points, with what costs most computed for all at once.

        Args:
            shared: their problem, or the batch of their problems, one a point.
        """
        found = [cls(point, relative_tolerance) for point in points]

        def derivatives(sites: list[Tensor]) -> Sequence[Tensor]:
            return risk_gradient_hessian(shared, shared.net.unflatten(torch.stack(sites)))

        here = derivatives([each.vector for each in found])
        rounded = derivatives([each.rounded for each in found])
        for k, each in enumerate(found):
            each.derivatives = tuple(
                torch.stack([a[k], b[k]]) for a, b in zip(here, rounded, strict=True)
            )
        shifted = [each.shifted for each in found]
        sites = [each.vector if at is None else at for each, at in zip(found, shifted, strict=True)]
        hessians = derivatives(sites)[2]
        for k, each in enumerate(found):
            each.shifted_hessian = hessians[k]
        return found

    @cached_property
    def derivatives(self) -> tuple[Tensor, ...]:
        """Risk, gradient and Hessian at the point and a unit of rounding away, stacked."""
        return self._derivatives(torch.stack([self.vector, self.rounded]))

    def _derivatives(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem = self.point.problem
        return risk_gradient_hessian(problem, problem.net.unflatten(vector))

    @property
    def risk(self) -> Tensor:
        """``R``."""
        return self.derivatives[0][0]

    @property
    def gradient(self) -> Tensor:
        """``∇R``, (P,)."""
        return self.derivatives[1][0]

    @property
    def hessian(self) -> Tensor:
        """``∇²R``, (P, P)."""
        return self.derivatives[2][0]

    @cached_property
    def on_data(self) -> OnData:
        """What the point's units do on the data."""
        return OnData(self.point.problem, self.point.params)

    @property
    def unit(self) -> Tensor:
        """The natural unit of each parameter, (P,)."""
        return self.on_data.natural.unit

    # -- is it critical? --------------------------------------------------------------------------

    @cached_property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞``."""
        return float(self.gradient.abs().max())

    @cached_property
    def allowed(self) -> Tensor:
        """What each entry of the gradient may be at a critical point, (P,)."""
        return allowed_gradient(self.on_data, self.relative_tolerance)

    @cached_property
    def worst(self) -> int:
        """Which entry of the gradient is the largest beside what it may be."""
        return int((self.gradient.abs() / self.allowed.clamp(min=1e-300)).argmax())

    @property
    def tolerance(self) -> float:
        """What the entry of the gradient that is worst in this respect may be."""
        return float(self.allowed[self.worst])

    @cached_property
    def critical(self) -> bool:
        """Whether every entry of the gradient is within tolerance or rounding."""
        return bool((self.gradient.abs() <= self.allowed).all())

    @property
    def settles_penalty(self) -> bool:
        """Whether a gradient this small tells, too, that the penalty of weight decay is balanced."""
        return settles_penalty(self.on_data, self.gradient)

    @cached_property
    def changed_outputs(self) -> tuple[int, float] | None:
        """The output that a Newton step changes by much, and by which part of its residuals or spread.

        None where it changes none: only then is a critical point near.
        """
        if self.shifted is None:
            return None
        data, problem = self.on_data, self.point.problem
        step = problem.net.forward(problem.net.unflatten(self.shifted), problem.X) - data.outputs
        residual = data.natural.residual
        rough = residual.square().mean(0).sqrt()
        spread = torch.maximum(data.outputs.std(0, correction=0), residual.std(0, correction=0))
        size = torch.minimum(rough, spread) + 1e-6 * rough
        noise = ENOUGH * data.natural.output_noise.square().mean(0).sqrt()
        moved = step.square().mean(0).sqrt()
        # What is not a number has left every bound.
        part = torch.nan_to_num((moved - noise) / size.clamp(min=1e-300), nan=torch.inf)
        place = int(part.argmax())
        return (place, float(part[place])) if float(part[place]) > HELD else None

    def still(self, slope: float) -> bool:
        """Whether a gradient elsewhere on a manifold of critical points through this one is small.

        Args:
            slope: its largest entry, in parts of what it would be if its terms did not cancel.

        Rounding, or what it is here, but no more than a small part of what residuals of this size
        could make of it: where they are near rounding themselves, nothing counts as still.
        """
        sizes = self.on_data.natural
        here = torch.maximum(self.gradient.abs(), sizes.noise) / sizes.largest.clamp(min=1e-300)
        return slope <= min(100 * float(here.max()), LOUD)

    # -- spectra ----------------------------------------------------------------------------------

    @cached_property
    def shifted(self) -> Tensor | None:
        """Where a Newton step leads, rounding in the gradient included; None if not critical."""
        if not self.critical:
            return None
        spectrum = symmetric_spectrum(self._sites())
        step = newton_step(
            spectrum, self.unit * self.gradient, self.unit * self.on_data.natural.noise
        )
        return self.vector + self.unit * step

    @cached_property
    def shifted_hessian(self) -> Tensor:
        """The Hessian there; at the point itself if it is not critical."""
        return self.hessian if self.shifted is None else self._derivatives(self.shifted)[2]

    def _sites(self) -> list[Tensor]:
        return [self.in_units(site) for site in self.derivatives[2]]

    def in_units(self, hessian: Tensor) -> Tensor:
        """A Hessian (P, P) in the point's natural units; 0 where it is not finite: nothing is known."""
        scaled = self.unit[:, None] * hessian * self.unit
        return scaled if bool(torch.isfinite(scaled).all()) else torch.zeros_like(scaled)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian in natural units, with eigenvectors in these."""
        sites = self._sites()
        if self.shifted is not None:
            sites.append(self.in_units(self.shifted_hessian))
        return symmetric_spectrum(sites)

    @cached_property
    def plain_spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian as it is."""
        sites = [*self.derivatives[2]]
        if self.shifted is not None:
            sites.append(self.shifted_hessian)
        return symmetric_spectrum(sites)

    def direction(self, vector: Tensor) -> tuple[Tensor, float]:
        """A direction in natural units as one of the parameters, of unit length, and its curvature."""
        along = self.unit * vector
        along = along / torch.linalg.vector_norm(along)
        return along, float(along @ self.hessian @ along)

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

    def unit_blocks(self, layer: int, unit: int) -> list[UnitBlocks]:
        """F, G and K of a hidden unit at the same places, in units of its own."""
        out, into = self.unit_units(layer, unit)
        return [
            UnitBlocks(out[:, None] * b.F[unit] * into, into[:, None] * b.G[unit] * into)
            for b in self.layer(layer)
        ]

    def unit_units(self, layer: int, unit: int) -> tuple[Tensor, Tensor]:
        """Natural units of a hidden unit's outgoing and incoming weights, (M,) and (D,).

        Each entry of F and G is at most about 1 in them, whatever the size of the output that it
        belongs to: K has nothing else in the rows of the outgoing weights.
        """
        sizes = self.on_data.natural
        gain, terms = sizes.gain[layer][unit], sizes.slopes[layer][:, unit]
        out = torch.where(terms > 0, gain / terms.clamp(min=1e-300), 1 / sizes.gain[layer + 1])
        return out, 1 / (gain * sizes.fed[layer])

    def unit_spectra(self, layer: int, unit: int) -> tuple[Spectrum, Spectrum]:
        """Eigenvalues of K and singular values of F of a hidden unit, in units of its own."""
        blocks = self.unit_blocks(layer, unit)
        return symmetric_spectrum([b.K for b in blocks], 1.0), singular_spectrum(
            [b.F for b in blocks], 1.0
        )

    def skipping_spectrum(self, layer: int) -> Spectrum:
        """Singular values of a layer's F∅, each entry in parts of its terms."""
        sizes = self.on_data.natural
        terms = sizes.deltas[layer + 1][:, None] * sizes.fed[layer]
        return singular_spectrum(
            [b.F_null / terms.clamp(min=1e-300) for b in self.layer(layer)], 1.0
        )

    # -- kinks ------------------------------------------------------------------------------------

    @cached_property
    def kinks(self) -> list[Tensor]:
        """For each hidden layer which samples' pre-activations are at a kink, (N, width).

        As far as rounding can tell, and the distance to the exact critical point.
        """
        return kinks(self.on_data, self.shifted)

    @property
    def at_kink(self) -> tuple[int, int, int] | None:
        """(layer, unit, number of samples) of a unit at its kink, None if there is none."""
        return first_kink(self.kinks)


def allowed_gradient(data: OnData, relative_tolerance: float) -> Tensor:
    """What each entry of the gradient may be at a critical point: its tolerance, or rounding, (P,)."""
    return relative_tolerance * data.natural.largest + ENOUGH * data.natural.noise


def settles_penalty(data: OnData, gradient: Tensor) -> bool:
    """Whether a gradient this small tells, too, that the penalty of weight decay is balanced.

    Where the penalty's own gradient is within a tolerance, so is that of points which it is still
    to move a long way, such as copies of a unit. What rounding does to the gradient is let pass.
    """
    if not data.problem.weight_decay:
        return True
    largest = max(float(tensor.abs().max()) for tensor in data.params.values())
    own = data.problem.weight_decay * largest
    return bool((gradient.abs() <= (ENOUGH * data.natural.noise).clamp(min=SETTLED * own)).all())


def kinks(data: OnData, shifted: Tensor | None = None) -> list[Tensor]:
    """For each hidden layer which samples' pre-activations are at a kink, (N, width).

    Args:
        shifted: where a Newton step leads, (P,); a kink within ``NEAR`` such steps is near.
    """
    problem, net = data.problem, data.net
    there = None
    if shifted is not None and not all(activation.smooth for activation in net.activations):
        there = OnData(problem, net.unflatten(shifted))
    found = []
    for layer, activation in enumerate(net.activations):
        z = data.pre[layer]
        if activation.smooth:
            found.append(torch.zeros_like(z, dtype=torch.bool))
            continue
        margin = 4 * data.natural.z_noise[layer]
        if problem.weight_decay:  # it ties a unit's size to that of the others
            margin = margin.clamp(min=4 * EPS * float(data.sizes[layer].max()))
        if there is not None:
            margin = margin + NEAR * (there.pre[layer] - z).abs()
        found.append(z.abs() <= margin)
    return found


def first_kink(found: list[Tensor]) -> tuple[int, int, int] | None:
    """(layer, unit, number of samples) of a unit at its kink, None if there is none."""
    for layer, near in enumerate(found):
        for unit in near.any(0).nonzero().flatten().tolist():
            return layer, unit, int(near[:, unit].sum())
    return None


def rounded_vectors(vectors: Tensor) -> Tensor:
    """Parameters (…, P) moved by a unit of rounding, the same way each time."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, vectors.shape[-1:], generator=generator).double() * 2 - 1
    return vectors * (1 + 2 * EPS * signs)


def newton_step(spectrum: Spectrum, gradient: Tensor, noise: Tensor) -> Tensor:
    """A Newton step, and on top of it what rounding may do to it, (P,): all in the spectrum's units.

    Args:
        gradient, noise: with what rounding may do to each entry, (P,).
    """
    seen = ~spectrum.hidden
    values, vectors = spectrum.values[seen], spectrum.vectors[:, seen]
    step = vectors.mT @ gradient / values
    # The signs are any: each direction is moved as far as rounding may have moved the point along it.
    blur = (vectors.square().mT @ noise.square()).sqrt() / values.abs()
    there: Tensor = vectors @ -(step + torch.where(step > 0, blur, -blur))
    return there
