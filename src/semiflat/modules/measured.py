"""What is measured of a model's loss at its parameters, and how far it can be trusted."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.evidence import ENOUGH, TILTED, Spectrum, roundings, symmetric_spectrum
from semiflat.evidence.derivatives import ANOTHER_PLACE, FEW, LOUD, NEAR, newton_step
from semiflat.evidence.spectrum import (
    LUCK,
    ROUNDINGS,
    Times,
    spectrum_by_products,
    with_shift,
)
from semiflat.modules.families import ModuleFamily, scale_of
from semiflat.modules.risk import OnBatches, kink, watched
from semiflat.symmetries.flatness import Flatness, held_against_kernel
from semiflat.verdicts.lanczos import krylov
from semiflat.verdicts.verdict import Kind, Margin

PARTS = 32
"""Parts of the data whose gradients tell how large the whole would be if its terms did not cancel."""
TRIED = 10
"""Products that a step down may take, and how often it is halved twice."""
KEPT = 2**30
"""Bytes that what slopes are made of may hold, from product to product."""
GRADIENT = 4
"""Times what a loss holds on its way, that its gradient with a second derivative may."""
LENGTHS = (0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 1e-5)
"""Lengths, in parts of ‖θ‖, that a way down is gone."""


class Measured:
    """The loss of a model, its gradient and products with its Hessian, with what rounding may do to them.

    Args:
        risk: the loss.
        tolerance: how large an entry of the gradient may be, in parts of what it would be if its terms did not
            cancel.
    """

    def __init__(self, risk: OnBatches, tolerance: float) -> None:
        self.risk, self.at, self.tolerance = risk, risk.at, tolerance
        self.loss = float(risk.value())
        first = risk.moved(risk.batches.first())
        seen = watched(risk, risk.at, first)
        self.eps = seen.eps
        risk.keep = GRADIENT * seen.bytes * risk.batches.samples <= KEPT * first.size
        self.rounded = roundings(self.at.double(), self.eps).to(self.at)
        self._gradients()
        losses = [float(risk.value(at)) for at in self.rounded]
        self.loss_noise = ENOUGH * max(abs(each - self.loss) for each in losses)
        self.loss_noise += 1e3 * self.eps * abs(self.loss)

    def _gradients(self) -> None:
        """The gradient, its standard error between batches, and what no batch has one in."""
        risk = self.risk
        shares = [batch.size / risk.batches.samples for batch in risk.batches]
        total, squares, weighed, sizes = (torch.zeros_like(self.at) for _ in range(4))
        weights = 0.0
        self.untouched = torch.ones_like(self.at, dtype=torch.bool)
        for share, slope in zip(shares, risk.slopes(), strict=True):
            if not bool(torch.isfinite(slope).all()):
                raise InputError(
                    "the gradient of the loss is not finite on a batch; a square root or a norm of 0 on the "
                    "way?"
                )
            total, sizes = total + slope, sizes + slope.abs()
            squares, weighed = squares + slope.square(), weighed + share * slope
            weights += share**2
            self.untouched &= slope == 0
        self.gradient = total
        self.errors: Tensor | None = None
        self.between: float | None = None
        count = risk.batches.count
        if count > 1:
            # Σ w² (g_b − g)², of slopes w g_b: what the squares of the shares leave.
            spread = squares - 2 * total * weighed + weights * total.square()
            self.errors = (spread.clamp(min=0) * count / (count - 1)).sqrt()
            self.between = float(torch.linalg.vector_norm(self.errors))
        self.sizes = sizes

    @cached_property
    def largest(self) -> Tensor:
        """What each entry of the gradient would be if its terms did not cancel, (P,): by parts of the data."""
        total = torch.zeros_like(self.at)
        try:
            for term in self.risk.parts(PARTS):
                here = self.at.detach().requires_grad_()
                total = total + torch.autograd.grad(term(here), here)[0].abs()
        except (InputError, RuntimeError):  # such as batch norms, which do not take a sample alone
            return self.sizes
        return total

    @cached_property
    def noise(self) -> Tensor:
        """What rounding may do to each entry of the gradient, (P,)."""
        changes = torch.stack([self.risk.gradient(at) for at in self.rounded]) - self.gradient
        largest = changes.abs().amax(0)
        typical = [
            part.square().mean().sqrt().expand(part.numel())
            for part in self.risk.flat.named(largest).values()
        ]
        return LUCK / ROUNDINGS**2 * torch.maximum(largest, torch.cat(typical))

    @cached_property
    def allowed(self) -> Tensor:
        """What each entry of the gradient may be at a critical point, (P,)."""
        return self.tolerance * self.largest + ENOUGH * self.noise

    @cached_property
    def worst(self) -> int:
        """The entry of the gradient that is the largest beside what it may be."""
        tiny = torch.finfo(self.at.dtype).tiny
        return int((self.gradient.abs() / self.allowed.clamp(min=tiny)).argmax())

    @cached_property
    def critical(self) -> bool:
        """Whether every entry of the gradient is within tolerance or rounding."""
        return bool((self.gradient.abs() <= self.allowed).all())

    @cached_property
    def scale(self) -> Tensor:
        """What a change of each parameter is small against, (P,): its size and that of those beside it."""
        return scale_of(self.risk.flat, self.at)

    def no_hessian(self, shifted: Tensor | None) -> str:
        """Why the loss has no second derivative here, as far as can be told; ``""`` if it has one.

        Args:
            shifted: where a Newton step leads, (P,).
        """
        generator = torch.Generator().manual_seed(2)
        signs = torch.randint(0, 2, self.at.shape, generator=generator).to(self.at) * 2 - 1
        move = 2 * self.eps * signs * self.scale
        neighbours = [(self.at + move, NEAR), (self.at - move, NEAR)]
        return kink(self.risk, neighbours + ([] if shifted is None else [(shifted, NEAR)]))

    # -- curvature --------------------------------------------------------------------------------

    def times(self, vector: Tensor) -> Tensor:
        """``H v`` in float64."""
        return self.risk.product(vector.to(self.at)).double().cpu()

    def curvature(self, direction: Tensor) -> tuple[float, float]:
        """``vᵀHv / vᵀv`` and its floor: what rounding of the sums and of the parameters may do to it.

        It is no less than the lowest eigenvalue and no more than the highest.
        """
        v = direction.double()
        v = v / torch.linalg.vector_norm(v)
        turned = self.risk.product(v.to(self.at)).double()
        here = float(v @ turned)
        sums, largest, floor = self.eps * len(v) ** 0.5 * float(v.abs() @ turned.abs()), 0.0, 0.0
        for count, at in enumerate(self.rounded, 1):
            change = abs(float(v @ self.risk.product(v.to(self.at), at).double()) - here)
            largest = max(largest, change)
            floor = sums + LUCK / count**2 * largest
            if abs(here) > ENOUGH * floor:  # more would only make it lower
                break
        return here, floor

    def negative(self, curvature: float, floor: float) -> bool:
        """Whether a curvature is surely negative."""
        return curvature < -ENOUGH * floor

    # -- ways down --------------------------------------------------------------------------------

    @cached_property
    def _krylov(self) -> tuple[Tensor, Tensor]:
        """An orthonormal basis of ``g, Hg, …``, (k, P), and H in it, (k, k)."""
        steps = min(TRIED, len(self.at))
        for own, tri, _, _ in krylov(self.times, self.gradient.double().cpu(), steps):
            basis, matrix = own, tri
        return basis, matrix

    @property
    def bend(self) -> float:
        """The curvature along the gradient."""
        return float(self._krylov[1][0, 0])

    @cached_property
    def step(self) -> Tensor:
        """A Newton step in the space of ``g, Hg, …``, every curvature taken as positive, (P,)."""
        length = float(torch.linalg.vector_norm(self.gradient.double()))
        if not length:
            return torch.zeros_like(self.at)
        basis, matrix = self._krylov
        values, vectors = torch.linalg.eigh(matrix)
        values = values.abs().clamp(min=1e-12 * float(values.abs().max().clamp(min=1e-300)))
        step: Tensor = -length * (basis.mT @ (vectors @ (vectors[0] / values)))
        return step.to(self.at)

    def step_down(self) -> tuple[Tensor | None, float]:
        """A step that lowers the loss, and by how much; None where none does beyond rounding."""
        return self._tried([self.step * 0.25**k for k in range(TRIED)])

    def falls_along(self, way: Tensor) -> tuple[Tensor, float]:
        """The direction or its opposite, and by how much the loss falls along it; 0 if not beyond rounding."""
        way = way / torch.linalg.vector_norm(way)
        if float(way @ self.gradient) > 0:
            way = -way
        size = float(torch.linalg.vector_norm(self.at))
        return way, self._tried([length * size * way for length in LENGTHS])[1]

    def _tried(self, steps: list[Tensor]) -> tuple[Tensor | None, float]:
        best: tuple[Tensor | None, float] = None, 0.0
        for step in steps:
            try:
                falls = self.loss - float(self.risk.value(self.at + step))
            except InputError:  # a loss that is not finite
                continue
            if falls > max(best[1], self.loss_noise):
                best = step, falls
            elif best[0] is not None:
                break
        return best

    def moved_by_a_step(self, way: Tensor, curvature: float) -> float:
        """What a Newton step, with one along the way itself, changes of the curvature along it."""
        v = way / torch.linalg.vector_norm(way)
        along = abs(float(self.gradient @ v)) + float((v.square() @ self.noise.square()).sqrt())
        step = self.step + v * (along / abs(curvature))
        if float((step.abs() / self.scale).max()) > ANOTHER_PLACE:
            return math.inf
        there = self.at + step
        return 2 * abs(float(v @ self.risk.product(v, there)) - curvature)


class Dense:
    """The Hessian of a small model with noise floors, as :class:`semiflat.Evidence` has them for a network."""

    def __init__(self, found: Measured) -> None:
        self.found, self.at = found, found.at.double()
        self.gradient, self.noise = found.gradient.double(), found.noise.double()
        self.hessian = self._at(found.at)
        self.by_products = len(self.at) > FEW
        self._neighbours = [] if self.by_products else [self._at(at) for at in found.rounded]

    def _at(self, at: Tensor) -> Tensor:
        found = self.found.risk.hessian(at.to(self.found.at)).double()
        return (found + found.mT) / 2

    @cached_property
    def plain(self) -> Spectrum:
        """The eigenvalues of the Hessian as it is, with what rounding may do to them."""
        return self._near(torch.ones_like(self.at))

    def _near(self, unit: Tensor) -> Spectrum:
        if not self.by_products:
            sites = [self.hessian, *self._neighbours]
            return symmetric_spectrum([_scaled(site, unit) for site in sites])
        neighbours = [self._times(at, unit) for at in self.found.rounded]
        return spectrum_by_products(_scaled(self.hessian, unit), neighbours)

    def _times(self, at: Tensor, unit: Tensor) -> Times:
        risk = self.found.risk

        def times(directions: Tensor) -> Tensor:
            return unit * risk.product((unit * directions).to(self.found.at), at).double()

        return times

    @cached_property
    def _chosen(self) -> tuple[Tensor, Spectrum]:
        """Units of the parameters in which the fewest eigenvalues are lost, and the spectrum in them."""
        ones = torch.ones_like(self.at)
        if bool(self.plain.decided.all()):
            return ones, self.plain
        values, vectors = self.plain.values, self.plain.vectors
        curved = vectors.square() @ values.abs()
        unit = curved.clamp(min=1e-14 * float(curved.max())).clamp(min=1e-300).rsqrt()
        own = self._near(unit)
        more = int(own.decided.sum()) > int(self.plain.decided.sum())
        return (unit, own) if more else (ones, self.plain)

    @property
    def unit(self) -> Tensor:
        """What each parameter is measured in, (P,)."""
        return self._chosen[0]

    @cached_property
    def shifted(self) -> Tensor | None:
        """Where a Newton step leads, rounding in the gradient included; None if not critical."""
        if not self.found.critical:
            return None
        unit, near = self._chosen
        return (self.at + unit * newton_step(near, unit * self.gradient, unit * self.noise)).to(
            self.found.at
        )

    @cached_property
    def spectrum(self) -> Spectrum:
        """The eigenvalues with all that hides them: rounding, and the distance to the critical point."""
        unit, near = self._chosen
        if self.shifted is None:
            return near
        there = _scaled(self._at(self.shifted), unit)
        return replace(with_shift(near, there), whole=True)

    def held_against(self, families: list[ModuleFamily]) -> Flatness:
        """The flat families against the kernel."""
        tangents = [family._tangents() for family in families]
        return held_against_kernel(self.spectrum, self.unit, tangents)

    def way_down(self) -> tuple[Tensor | None, float | None]:
        """The direction of lowest curvature, if that is surely negative, and it."""
        spectrum = self._chosen[1]
        down = spectrum.clearest(-1)
        if down is None:
            return None, None
        place = int((spectrum.values == down[0]).nonzero()[0, 0])
        way = (self.unit * spectrum.vectors[:, place]).to(self.found.at)
        way = way / torch.linalg.vector_norm(way)
        curvature, floor = self.found.curvature(way)
        return (way, curvature) if self.found.negative(curvature, floor) else (None, None)

    def classify(
        self, families: list[ModuleFamily], flat: Flatness
    ) -> tuple[Kind, str, Margin | None]:
        """Kind, reason and margin at a critical point."""
        spectrum = self.spectrum
        measured = "" if bool((self.unit == 1).all()) else ", parameters in units of their own,"
        down = spectrum.clearest(-1, _more_than_flat(spectrum, flat))
        if down is not None:
            if not self._hidden_undo(flat, down[0]):
                reason = (
                    f"the Hessian{measured} has the eigenvalue {down[0]:.3g}, {abs(down[0]) / down[1]:.2g} "
                    "times its noise floor below zero"
                )
                return Kind.STRICT_SADDLE, reason, Margin(*down)
            reason = (
                f"the Hessian{measured} has the eigenvalue {down[0]:.3g}; but rounding hides other curvatures "
                "that no flat direction explains, and along them a critical point may be so far, if there is "
                "one, that it may have none below zero"
            )
            return Kind.UNDECIDED, reason, Margin(*down)
        tightest = spectrum.tightest()
        margin = None if tightest is None else Margin(*tightest)
        hidden = int(spectrum.hidden.sum())
        if spectrum.doubtful and tightest is not None:
            reason = (
                f"the eigenvalue {tightest[0]:.3g} is only {abs(tightest[0]) / tightest[1]:.2g} times its "
                f"noise floor {tightest[1]:.2g} away from zero; {ENOUGH:g} times is asked for"
            )
            return Kind.UNDECIDED, reason, margin
        positive = len(spectrum.values) - hidden
        if hidden == 0 and tightest is not None:
            reason = (
                f"all {positive} eigenvalues of the Hessian are positive; the least certain is "
                f"{tightest[0]:.3g}{measured or ','} {tightest[0] / tightest[1]:.2g} times its noise floor"
            )
            return Kind.STRICT_MINIMUM, reason, margin
        return self._degenerate(families, flat, hidden, positive, margin)

    def _degenerate(
        self,
        families: list[ModuleFamily],
        flat: Flatness,
        hidden: int,
        positive: int,
        margin: Margin | None,
    ) -> tuple[Kind, str, Margin | None]:
        """No eigenvalue is negative: is the kernel all flat directions, whose points are critical?"""
        floor, joint = self.spectrum.highest, flat.joint.shape[1]
        residue = 0.0
        if joint:
            along = _scaled(self.hessian, self.unit) @ flat.joint
            residue = float(torch.linalg.matrix_norm(along, ord=2))
        if joint == hidden and residue <= ENOUGH * floor:
            slope = self._steepest_on_moves(families)
            if slope > 1:
                reason = (
                    f"no eigenvalue is negative and the {hidden} zero ones are flat directions, but moves "
                    f"along them lead to points that are not critical ({slope:.2g} times what is allowed): "
                    "higher derivatives decide"
                )
                return Kind.UNDECIDED, reason, margin
            names = ", ".join(sorted({family.name for family in families if family.joint}))
            reason = (
                f"{positive} eigenvalues are positive and the {hidden} zero ones are directions along which "
                f"the loss is constant ({names})"
            )
            return Kind.MINIMUM, reason, margin
        if joint > hidden or residue > ENOUGH * floor:
            reason = (
                f"{hidden} eigenvalues are zero within their noise floors (up to {floor:.2g}), but {joint} "
                f"flat directions were found, with curvature up to {residue:.2g}: the numbers contradict each "
                "other, and the point is too badly conditioned to judge"
            )
            return Kind.UNDECIDED, reason, margin
        reason = (
            f"no eigenvalue is negative, but of {hidden} zero ones (within floors up to {floor:.2g}) "
            f"{hidden - joint} are not explained by "
            + ("a flat direction" if flat.unexplained else "flat directions that hold together")
            + ": higher derivatives decide, or the minimum lies at infinity"
        )
        return Kind.UNDECIDED, reason, margin

    def _steepest_on_moves(self, families: list[ModuleFamily]) -> float:
        """The largest entry of the gradient beside what it may be, on moves that hold at this point only."""
        found, flat, worst = self.found, self.found.risk.flat, 0.0
        loud = found.allowed + LOUD * found.largest
        for seed, size in enumerate((0.03, -0.3, 1.0)):
            named = flat.named(found.at)
            for family in (family for family in families if family.joint and family.affine):
                named = family.moved(named, size, seed)
            try:
                slope = found.risk.gradient(flat.flat(named)).abs()
            except InputError:  # a loss that is not finite
                return math.inf
            tiny = torch.finfo(slope.dtype).tiny
            worst = max(worst, float((slope / loud.clamp(min=tiny)).max()))
        return worst

    def _hidden_undo(self, flat: Flatness, value: float) -> bool:
        """Whether the way to a critical point along hidden curvatures may undo the curvature down.

        By the gradient, with what rounding may make of it, and the curvature, which is no less than what
        rounding may make of it: a long way leads to another place, and half of the curvature should stay.
        """
        spectrum, risk = self.spectrum, self.found.risk
        place = int((spectrum.values == value).nonzero()[0, 0])
        down = self.unit * spectrum.vectors[:, place]
        left = flat.beyond(spectrum.vectors[:, ~spectrum.decided])
        parts, sizes, _ = torch.linalg.svd(left, full_matrices=False)
        for way in parts[:, sizes > TILTED].mT:
            along = self.unit * way
            least = max(float(spectrum.noise.min()), 1e-300)
            slope = abs(float(along @ self.gradient))
            slope += float((along.square() @ self.noise.square()).sqrt())
            bend = max(abs(float(along @ self.hessian @ along)), least)
            length = slope / bend
            if length * float((along.abs() / self.found.scale).max()) > ANOTHER_PLACE:
                return True
            for sign in (1.0, -1.0):
                there = (self.at + sign * length * along).to(self.found.at)
                try:
                    moved = float(down @ risk.product(down.to(there), there).double())
                except InputError:  # a loss that is not finite
                    return True
                if not moved < 0.5 * value:
                    return True
        return False


def _more_than_flat(spectrum: Spectrum, flat: Flatness) -> Tensor:
    """Which eigenvalues lead beyond the flat directions: along these, distance alone makes curvature."""
    more: Tensor = torch.linalg.vector_norm(flat.beyond(spectrum.vectors), dim=0) > TILTED
    return more


def _scaled(hessian: Tensor, unit: Tensor) -> Tensor:
    return unit[:, None] * hessian * unit
