"""A plain point's derivatives, at the point and at its neighbours that tell how far to trust them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from semiflat.curvature.blocks import LayerBlocks, UnitBlocks, layer_blocks
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.products import hessian_products
from semiflat.evidence.natural import SILENT
from semiflat.evidence.on_data import OnData
from semiflat.evidence.spectrum import (
    ENOUGH,
    EPS,
    ROUNDINGS,
    Spectrum,
    Times,
    singular_spectrum,
    spectrum_by_products,
    symmetric_spectrum,
    with_shift,
    with_shift_by_products,
)
from semiflat.memory import check_hessians
from semiflat.problem import Located, Problem
from semiflat.records.shown import Shown

LOUD = 1e-5
"""Part of the residuals that a gradient off the manifold of critical points reaches at least."""
SETTLED = 1e-3
"""Part of the penalty's own gradient that the whole gradient may have where the two parts balance."""
HELD = 1e-3
"""Part of an output's spread by which a Newton step may change it at a critical point."""
SHORT = 1e-3
"""A move this long, in natural units, changes outputs to first order."""
ANOTHER_PLACE = 1e-2
"""A Newton step of more natural units leads to another place."""
CLOSE = 1e3
"""Times the tolerance that a Newton step may go, in natural units, from a point that counts as critical."""
TILTED = 0.5
"""Part of a direction beyond the flat ones that makes it one of its own; rounding tilts it by a tenth."""
FEW = 300
"""Parameters up to which Hessians are computed at a point's neighbours, too; beyond, their products."""
PER_HESSIAN = 12
"""A Hessian costs as much as products with about one direction for so many parameters."""
NEAR = 10.0
"""A kink is near if it lies within so many Newton steps, rounding in the gradient counted in."""


@dataclass(frozen=True)
class UnitEvidence(Shown):
    """F and K of a hidden unit, in the units of weights in which rounding hides the least.

    Attributes:
        K: eigenvalues of K.
        F: singular values of F.
        units: of outgoing and incoming weights that F is measured in, (M,) and (D,).
        own: natural ones of this unit, in which no entry of K is larger than about 1.
        own_K, own_F: measured in these.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> unit = point.evidence.unit_evidence(layer=0, unit=0)
    >>> unit.K.count(), unit.F.count()             # at a critical point Fᵀζ = 0, so F = 0 for one output
    ((1, 1, 1), (0, 1, 0))
    """

    K: Spectrum
    F: Spectrum
    units: tuple[Tensor, Tensor]
    own: tuple[Tensor, Tensor]
    own_K: Spectrum
    own_F: Spectrum


@dataclass
class Evidence(Shown):
    """A plain point's derivatives with their noise, computed when first asked for.

    Where rounding hides eigenvalues of the Hessian H, they are those of ``D H D``, with the natural unit of
    each parameter on D's diagonal (:mod:`semiflat.evidence.natural`). By Sylvester's law the inertia is
    that of H; and no eigenvalue is lost beside a larger one only because parameters differ in size.

    Attributes:
        point: the point.
        relative_tolerance: how large an entry of the gradient may be at a critical point, in parts of
            what it would be if its terms did not cancel.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> evidence = sf.find_critical_point(problem, starts=8).evidence
    >>> evidence.critical, evidence.gradient_norm < 1e-12, evidence.spectrum.count()
    (True, True, (4, 0, 0))
    >>> elsewhere = sf.Point(problem, problem.net.random_params(seed=0)).evidence
    >>> elsewhere.critical, elsewhere.gradient_norm > elsewhere.tolerance
    (False, True)
    """

    point: Located
    relative_tolerance: float = 1e-10
    _blocks: dict[int, list[LayerBlocks]] = field(default_factory=dict)
    _units: dict[tuple[int, int], UnitEvidence] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Asked here: whatever is done with the evidence, its Hessians are the largest that it takes.
        size = self.point.problem.net.parameter_count
        check_hessians(1 + ROUNDINGS, size)
        self.by_products = size > FEW
        self.vector = self.point.problem.net.flatten(self.point.params)
        self.rounded = roundings(self.vector)

    @classmethod
    def of_batch(
        cls, shared: Problem, points: Sequence[Located], relative_tolerance: float
    ) -> list[Evidence]:
        """The evidence of several points, with what costs most computed for all at once.

        Args:
            shared: their problem, or the batch of their problems, one a point.
        """
        found = [cls(point, relative_tolerance) for point in points]
        if found[0].by_products:  # a batch of these would save no time, and take the memory of all
            return found

        def derivatives(sites: list[Tensor]) -> Sequence[Tensor]:
            return risk_gradient_hessian(shared, shared.net.unflatten(torch.stack(sites)))

        here = derivatives([each.vector for each in found])
        rounded = [derivatives([each.rounded[r] for each in found]) for r in range(ROUNDINGS)]
        for k, each in enumerate(found):
            each.derivatives = tuple(
                torch.stack([site[k] for site in sites])
                for sites in zip(here, *rounded, strict=True)
            )
        shifted = [each.shifted for each in found]
        sites = [each.vector if at is None else at for each, at in zip(found, shifted, strict=True)]
        hessians = derivatives(sites)[2]
        for k, each in enumerate(found):
            each.shifted_hessian = hessians[k]
        return found

    def at(self, relative_tolerance: float) -> Evidence:
        """The same with another tolerance; what does not depend on it is not computed again."""
        if relative_tolerance == self.relative_tolerance:
            return self
        other = replace(self, relative_tolerance=relative_tolerance, _blocks={}, _units={})
        shared = (
            *("derivatives", "_here", "_neighbours"),
            *("on_data", "gradient_norm", "_plain", "_natural", "_measured"),
        )
        other.__dict__ |= {name: self.__dict__[name] for name in shared if name in self.__dict__}
        return other

    @cached_property
    def derivatives(self) -> tuple[Tensor, ...]:
        """Risk, gradient and Hessian at the point and a unit of rounding away from it, stacked."""
        return self._derivatives(torch.stack([self.vector, *self.rounded]))

    @cached_property
    def _neighbours(self) -> Tensor:
        """The Hessians a unit of rounding away, (R, P, P)."""
        return (
            self.derivatives[2][1:] if not self.by_products else self._derivatives(self.rounded)[2]
        )

    def _derivatives(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        problem = self.point.problem
        return risk_gradient_hessian(problem, problem.net.unflatten(vector))

    @cached_property
    def _here(self) -> tuple[Tensor, ...]:
        if self.by_products:
            return self._derivatives(self.vector)
        return tuple(part[0] for part in self.derivatives)

    @property
    def risk(self) -> Tensor:
        """``R``."""
        return self._here[0]

    @property
    def gradient(self) -> Tensor:
        """``∇R``, (P,)."""
        return self._here[1]

    @property
    def hessian(self) -> Tensor:
        """``∇²R``, (P, P)."""
        return self._here[2]

    @cached_property
    def on_data(self) -> OnData:
        """What the point's units do on the data."""
        return OnData(self.point.problem, self.point.params)

    @property
    def unit(self) -> Tensor:
        """What each parameter is measured in, (P,): 1, or its natural unit or step where that tells more."""
        return self._chosen[0]

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
        """Whether every entry of the gradient is within tolerance or rounding, or a Newton step is short.

        Outputs that are the best there are, to rounding, make any gradient rounding.
        """
        if self.on_data.fits_best or bool((self.gradient.abs() <= self.allowed).all()):
            return True
        return self.distance <= CLOSE * self.relative_tolerance

    @cached_property
    def near(self) -> bool:
        """Whether a critical point is near: a Newton step is short, and changes the outputs by little."""
        if not self.critical or self.on_data.fits_best:
            return self.critical
        return self.distance <= ANOTHER_PLACE and self.changed_outputs is None

    @property
    def how_far(self) -> str:
        """What a Newton step does where no critical point is near."""
        if self.changed_outputs is None or self.distance > ANOTHER_PLACE:
            return (
                f"a Newton step goes {self.distance:.2g} natural units or more (one of them changes the "
                "outputs by as much as there is to fit)"
            )
        output, part = self.changed_outputs
        return (
            f"a Newton step, with what rounding may do to it, changes output {output} by {part:.2g} of its "
            "spread"
        )

    @property
    def settles_penalty(self) -> bool:
        """Whether a gradient this small tells, too, that the penalty of weight decay is balanced."""
        return settles_penalty(self.on_data, self.gradient)

    @cached_property
    def changed_outputs(self) -> tuple[int, float] | None:
        """The output that a Newton step changes by much, and by which part of its spread.

        To first order. None where it changes none: only then is a critical point near.
        """
        data, problem = self.on_data, self.point.problem
        if self.shifted is None or data.fits_best:
            return None
        step = self.shifted - self.vector
        part = min(1.0, SHORT / float((step / data.natural.unit).abs().max().clamp(min=1e-300)))
        there = problem.outputs(problem.net.unflatten(self.vector + part * step))
        noise = ENOUGH * problem.rms(data.natural.output_noise)
        moved = (problem.rms(there - data.outputs) - noise) / part
        residual = data.natural.residual
        size = torch.maximum(problem.spread(data.outputs), problem.spread(residual))
        size = size + 1e-6 * problem.rms(residual)
        # What is not a number has left every bound.
        parts = torch.nan_to_num(moved / size.clamp(min=1e-300), nan=torch.inf)
        place = int(parts.argmax())
        return (place, float(parts[place])) if float(parts[place]) > HELD else None

    @cached_property
    def distance(self) -> float:
        """How far, in natural units, a Newton step goes at least.

        By what the gradient has along each eigenvector beyond rounding: along a flat direction it has
        nothing. Where rounding hides the curvature, it is at most its floor.
        """
        unit, near = self._measured
        along = near.vectors.mT @ (unit * self.gradient)
        noise = (near.vectors.square().mT @ (unit * self.on_data.natural.noise).square()).sqrt()
        curvature = torch.maximum(near.values.abs(), near.floor).clamp(min=1e-300)
        least = (along.abs() - ENOUGH * noise).clamp(min=0) * along.sign()
        least = least * near.values.sign() / curvature
        step = unit * (near.vectors @ least)
        return float((step / self.on_data.natural.step.clamp(min=1e-300)).abs().max())

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
        unit, near = self._measured
        step = newton_step(near, unit * self.gradient, unit * self.on_data.natural.noise)
        return self.vector + unit * step

    @property
    def sites(self) -> list[Tensor]:
        """Parameters (P,) at the point, at its roundings and, if it is critical, a Newton step on."""
        return [self.vector, *self.rounded, *([] if self.shifted is None else [self.shifted])]

    @cached_property
    def shifted_hessian(self) -> Tensor:
        """The Hessian there; at the point itself if it is not critical."""
        return self.hessian if self.shifted is None else self._derivatives(self.shifted)[2]

    @cached_property
    def _measured(self) -> tuple[Tensor, Spectrum]:
        """Units in which the fewest eigenvalues are lost in rounding, and the spectrum in them.

        The parameters' own units if natural ones do not tell more.
        """
        plain = torch.ones_like(self.vector), self._plain
        if bool(self._plain.decided.all()):
            return plain
        more = int(self._natural.decided.sum()) > int(self._plain.decided.sum())
        return (self.on_data.natural.unit, self._natural) if more else plain

    @cached_property
    def _plain(self) -> Spectrum:
        return self._near(torch.ones_like(self.vector))

    @cached_property
    def _natural(self) -> Spectrum:
        return self._near(self.on_data.natural.unit)

    def _near(self, unit: Tensor) -> Spectrum:
        if not self.by_products:
            return symmetric_spectrum([_scaled(site, unit) for site in self.derivatives[2]])
        neighbours = [self._times("_neighbours", unit, k) for k in range(ROUNDINGS)]
        return spectrum_by_products(_scaled(self.hessian, unit), neighbours)

    def _shifted(self, near: Spectrum, unit: Tensor) -> Spectrum:
        """The same spectrum that knows what is a Newton step on."""
        if self.shifted is None or not self.by_products:
            return with_shift(near, _scaled(self.shifted_hessian, unit))
        times = self._times("shifted_hessian", unit)
        return with_shift_by_products(near, _scaled(self.hessian, unit), times)

    def _times(
        self, of: Literal["_neighbours", "shifted_hessian"], unit: Tensor, k: int = 0
    ) -> Times:
        """Products with a Hessian elsewhere, in some units; it is built where they would cost more."""
        problem, net = self.point.problem, self.point.problem.net

        def times(directions: Tensor) -> Tensor:
            if of in self.__dict__ or PER_HESSIAN * len(directions) > net.parameter_count:
                hessian = self.shifted_hessian if of == "shifted_hessian" else self._neighbours[k]
                return directions @ _scaled(hessian, unit)
            site = self.shifted if of == "shifted_hessian" else self.rounded[k]
            assert site is not None
            return unit * hessian_products(problem, net.unflatten(site), unit * directions)

        return times

    @property
    def in_natural_units(self) -> str:
        """Says so where eigenvalues are not those of the Hessian as it is."""
        return "" if bool((self.unit == 1).all()) else ", parameters in natural units,"

    def in_units(self, hessian: Tensor) -> Tensor:
        """A Hessian (P, P) in the units measured in; 0 where it is not finite: nothing is known."""
        return _scaled(hessian, self.unit)

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian, and its eigenvectors, in :attr:`unit`."""
        return replace(self._chosen[1], whole=self.near)

    @cached_property
    def _chosen(self) -> tuple[Tensor, Spectrum]:
        """Units in which the fewest are lost in rounding and in the distance to the critical point."""
        unit, near = self._measured
        if self.shifted is None:
            return unit, near
        best = unit, self._shifted(near, unit)
        if self.near and not bool(best[1].decided.all()):
            natural = self.on_data.natural
            steps = self._shifted(self._near(natural.step), natural.step)
            for other, found in ((natural.unit, self.natural_spectrum), (natural.step, steps)):
                if int(found.decided.sum()) > int(best[1].decided.sum()):
                    best = other, found
        return best

    @cached_property
    def plain_spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian as it is."""
        if self.shifted is None:
            return self._plain
        return replace(self._shifted(self._plain, torch.ones_like(self.vector)), whole=self.near)

    def curvature_along(self, basis: Tensor, unit: Tensor | None = None) -> float:
        """``‖H B‖₂`` of an orthonormal basis B (P, k), both in the same units."""
        unit = self.unit if unit is None else unit
        if not basis.shape[1]:
            return 0.0
        return float(torch.linalg.matrix_norm(_scaled(self.hessian, unit) @ basis, ord=2))

    @cached_property
    def natural_spectrum(self) -> Spectrum:
        """Eigenvalues with all parameters in natural units, whatever tells more: none is far beyond 1."""
        if self.shifted is None:
            return self._natural
        return self._shifted(self._natural, self.on_data.natural.unit)

    def farthest(self, flat: Tensor) -> float:
        """How many natural units away a critical point may be where the way to it is hidden.

        Args:
            flat: an orthonormal basis (P, t), in natural units, of directions along which it does not matter.

        By the gradient, with what rounding may make of it, and the curvature, which is no less than what
        rounding may make of it. 0 where no curvature is hidden.
        """
        near, sizes = self.natural_spectrum, self.on_data.natural
        hidden = near.vectors[:, ~near.decided]
        left, parts, _ = torch.linalg.svd(hidden - flat @ (flat.mT @ hidden), full_matrices=False)
        ways = left[:, parts > TILTED]
        if not ways.shape[1]:
            return 0.0
        curvature, turned = torch.linalg.eigh(ways.mT @ _scaled(self.hessian, sizes.unit) @ ways)
        ways = ways @ turned
        curvature = curvature.abs().clamp(min=max(float(near.noise.min()), 1e-300))
        noise = (ways.square().mT @ (sizes.unit * sizes.noise).square()).sqrt()
        length = ((ways.mT @ (sizes.unit * self.gradient)).abs() + noise) / curvature
        step = (sizes.unit / sizes.step.clamp(min=1e-300))[:, None] * ways
        return float((step.abs() * length).max())

    def direction(self, vector: Tensor) -> tuple[Tensor, float]:
        """A direction in natural units as one of the parameters, of unit length, and its curvature."""
        along = self.unit * vector
        along = along / torch.linalg.vector_norm(along)
        return along, float(along @ self.hessian @ along)

    def layer(self, layer: int) -> list[LayerBlocks]:
        """The unit blocks of a hidden layer at the point and at its neighbours."""
        if layer not in self._blocks:
            problem = self.point.problem
            self._blocks[layer] = [
                layer_blocks(problem, problem.net.unflatten(site), layer) for site in self.sites
            ]
        return self._blocks[layer]

    def unit_evidence(self, layer: int, unit: int) -> UnitEvidence:
        """F and K of a hidden unit: their values with what hides them."""
        if (layer, unit) not in self._units:
            self._units[layer, unit] = self._unit_evidence(layer, unit)
        return self._units[layer, unit]

    def _unit_evidence(self, layer: int, unit: int) -> UnitEvidence:
        sizes, data = self.on_data.natural, self.on_data
        slope = data.slopes[layer][:, unit, None].abs()
        bend = data.bends[layer][:, unit, None].abs() * sizes.z_noise[layer][:, unit, None]
        error = sizes.errors[layer + 1].abs()
        blur = sizes.error_noise[layer + 1] * slope + error * bend
        noise = self._noise(layer, blur, error * slope)
        # Each entry of F and G is at most about 1 in the unit's own units, whatever the size of the output
        # that it belongs to: K has nothing else in the rows of the outgoing weights.
        gain, terms = sizes.gain[layer][unit], sizes.slopes[layer][:, unit]
        out = torch.where(terms > 0, gain / terms.clamp(min=1e-300), 1 / sizes.gain[layer + 1])
        into = 1 / (gain * sizes.fed[layer])

        def measured(out: Tensor, into: Tensor, size: float) -> tuple[Spectrum, Spectrum]:
            blocks = [
                UnitBlocks(out[:, None] * b.F[unit] * into, into[:, None] * b.G[unit] * into)
                for b in self.layer(layer)
            ]
            scale = size + _norm(out[:, None] * noise * into) / EPS
            K = symmetric_spectrum([b.K for b in blocks], scale)
            F = singular_spectrum([b.F for b in blocks], scale)
            return replace(K, whole=self.near), replace(F, whole=self.near)

        plain = measured(torch.ones_like(out), torch.ones_like(into), 0.0)
        own = measured(out, into, 1.0)
        better = [
            int(b.decided.sum()) > int(a.decided.sum()) for a, b in zip(plain, own, strict=True)
        ]
        K, F = (b if more else a for a, b, more in zip(plain, own, better, strict=True))
        units = (out, into) if better[1] else (torch.ones_like(out), torch.ones_like(into))
        return UnitEvidence(K, F, units, (out, into), *own)

    def skipping(self, layer: int) -> tuple[Spectrum, Spectrum]:
        """Singular values of a layer's F∅, or of each entry in parts of its terms where that tells more.

        And, second, in parts of its terms in any case.
        """
        sizes = self.on_data.natural
        noise = self._noise(layer, sizes.error_noise[layer + 1], sizes.errors[layer + 1].abs())
        terms = (sizes.deltas[layer + 1][:, None] * sizes.fed[layer]).clamp(min=1e-300)
        plain, own = (
            replace(
                singular_spectrum(
                    [b.F_null / by for b in self.layer(layer)], size + _norm(noise / by) / EPS
                ),
                whole=self.near,
            )
            for by, size in ((torch.ones_like(terms), 0.0), (terms, 1.0))
        )
        return (own if int(own.decided.sum()) > int(plain.decided.sum()) else plain), own

    def _noise(self, layer: int, blur: Tensor, size: Tensor) -> Tensor:
        """What rounding may do to ``mean size x̃ᵀ`` of a layer's x̃, (M, D), if it does ``blur`` to size."""
        fed, off = self.on_data.inputs[layer].values.abs(), self.on_data.natural.fed_noise[layer]
        weighed = self.point.problem.weighed
        return weighed(blur).mT @ fed + weighed(size).mT @ (off + EPS * fed)

    # -- kinks ------------------------------------------------------------------------------------

    @cached_property
    def kinks(self) -> list[Tensor]:
        """For each hidden layer which samples' pre-activations are at a kink, (N, width).

        As far as rounding can tell, and the distance to the exact critical point.
        """
        return kinks(self.on_data, self.shifted)

    @cached_property
    def no_hessian(self) -> str:
        """Why the risk has no second derivative here, as far as can be told; empty if it has one."""
        return no_hessian(self.on_data, self.kinks, self.shifted)

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
    decays = data.problem.decays
    largest = max(float(tensor.abs().max()) for tensor in data.params.values())
    own = decays * (SILENT * data.natural.unit).clamp(min=largest)
    settled = gradient.abs() <= torch.maximum(ENOUGH * data.natural.noise, SETTLED * own)
    return bool((settled | (decays == 0)).all())


def kinks(data: OnData, shifted: Tensor | None = None) -> list[Tensor]:
    """For each hidden layer which samples' pre-activations are at a kink, (N, width).

    Args:
        shifted: where a Newton step leads, (P,); a kink within ``NEAR`` such steps is near.
    """
    problem, net = data.problem, data.net
    there = None
    if shifted is not None and not all(activation.smooth for activation in net.activations):
        there = OnData(problem, net.unflatten(shifted))
    found: list[Tensor] = []
    moves = torch.ones(len(data.outputs), dtype=torch.bool)
    for layer, activation in enumerate(net.activations):
        z = data.pre[layer]
        # A sample that feeds nothing but units which are 0 nearby, too, is at no kink: its z stays 0.
        if layer:
            below = data.slopes[layer - 1] != 0
            moves = (below & moves[:, None]).any(-1) | found[-1].any(-1)
        moves = moves | (data.inputs[layer].values != 0).any(-1)
        if activation.smooth:
            found.append(torch.zeros_like(z, dtype=torch.bool))
            continue
        margin = 4 * data.natural.z_noise[layer]
        if not problem.outputs_alone:  # decay ties a unit's size to that of the others
            margin = margin.clamp(min=4 * EPS * float(data.sizes[layer].max()))
        if there is not None:
            margin = margin + NEAR * (there.pre[layer] - z).abs()
        found.append((z.abs() <= margin) & moves[:, None])
    return found


def no_hessian(data: OnData, near: list[Tensor], shifted: Tensor | None = None) -> str:
    """Why the risk has no second derivative at a point, as far as can be told; empty if it has one.

    Args:
        data: the point on its data.
        near: its kinks, see :func:`kinks`.
        shifted: where a Newton step leads, (P,).
    """
    kink = first_kink(near)
    if kink is not None:
        layer, unit, samples = kink
        many = f"on {samples} samples" if samples > 1 else "on a sample"
        return (
            f"the loss is not differentiable here: as far as rounding and a Newton step can tell, unit {unit} "
            f"of hidden layer {layer} has pre-activation 0 {many}, where its activation has a kink"
        )
    inside = data.inside_flat
    if data.problem.loss.smooth or inside is None:
        return ""
    margin = 4 * data.natural.output_noise
    if shifted is not None:
        there = data.problem.outputs(data.net.unflatten(shifted))
        margin = margin + NEAR * (there - data.outputs).abs()
    beside = inside.abs() <= margin
    if not bool(beside.any()):
        return ""
    sample, output = beside.nonzero()[0].tolist()
    return (
        "the loss has no second derivative here: as far as rounding and a Newton step can tell, output "
        f"{output} of sample {sample} is at its margin, where that of loss {data.problem.loss.name!r} jumps"
    )


def first_kink(found: list[Tensor]) -> tuple[int, int, int] | None:
    """(layer, unit, number of samples) of a unit at its kink, None if there is none."""
    for layer, near in enumerate(found):
        for unit in near.any(0).nonzero().flatten().tolist():
            return layer, unit, int(near[:, unit].sum())
    return None


def roundings(vectors: Tensor, eps: float = EPS) -> Tensor:
    """Parameters (…, P) moved by a unit of rounding in several ways, the same each time: (R, …, P)."""
    generator = torch.Generator().manual_seed(0)
    shape = (ROUNDINGS, *[1] * (vectors.dim() - 1), vectors.shape[-1])
    signs = torch.randint(0, 2, shape, generator=generator).double() * 2 - 1
    return vectors * (1 + 2 * eps * signs)


def rounded_vectors(vectors: Tensor) -> Tensor:
    """Parameters (…, P) moved by a unit of rounding, the same way each time."""
    return roundings(vectors)[0]


def _scaled(hessian: Tensor, unit: Tensor) -> Tensor:
    scaled = unit[:, None] * hessian * unit
    return scaled if bool(torch.isfinite(scaled).all()) else torch.zeros_like(scaled)


def _norm(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix)) if matrix.numel() else 0.0


def newton_step(spectrum: Spectrum, gradient: Tensor, noise: Tensor) -> Tensor:
    """A Newton step, and on top of it what rounding may do to it, (P,): all in the spectrum's units.

    Args:
        gradient, noise: with what rounding may do to each entry, (P,).
    """
    seen = spectrum.decided  # along the others there is no telling how far it is
    values, vectors = spectrum.values[seen], spectrum.vectors[:, seen]
    step = vectors.mT @ gradient / values
    # The signs are any: each direction is moved as far as rounding may have moved the point along it.
    blur = (vectors.square().mT @ noise.square()).sqrt() / values.abs()
    there: Tensor = vectors @ -(step + torch.where(step > 0, blur, -blur))
    return there
