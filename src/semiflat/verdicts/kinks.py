"""The verdict where the loss has a kink: by its one-sided slopes, as there is no Hessian.

Let samples ν sit on kinks of units of one hidden layer, ``t_ν = ∂z_ν/∂θ · s`` the change of their
pre-activations along s, and ``c_ν`` what the loss's slope gains per t from left to right of the kink. Then

    R'(θ; s) = g·s + Σ_ν c_ν max(t_ν, 0),

g the gradient to the left of all kinks: the slope on each of the pieces that meet here. A kink with c < 0
bends down, and moving its sample alone goes down on one side. If all bend up, the slope is nowhere negative
if and only if multipliers m_ν in [0, 1] exist with ``g + Σ m_ν c_ν ∂z_ν/∂θ = 0``. If they lie inside (0, 1)
the loss rises at first order along every s that moves one of the samples, and along all others it is smooth,
with the Hessian ``H + Σ c_ν (m_ν − [z_ν > 0]) ∇²z_ν``: where that is positive it is a local minimum of the
piecewise smooth loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from semiflat.curvature.gradient import flat_rows
from semiflat.evidence import ENOUGH, EPS, Evidence, symmetric_spectrum
from semiflat.symmetries.families import TangentFamily, flat_families, span
from semiflat.verdicts.finding import Finding
from semiflat.verdicts.verdict import Kind, Margin

FEW = 16
"""Samples on kinks up to which all pieces that meet there are asked."""
INSIDE = 1e-3
"""Distance from 0 and 1 that a multiplier must keep."""
KEPT_BY = {"positive scaling", "softmax shift", "constant inputs", "collinear inputs", "dead units"}
"""Flat families that move no pre-activation across 0."""
TRIED = 64
"""Directions of incoming weights that are looked at for a unit whose samples are too many to ask for all."""
LEADING = 4
"""How many of them, the steepest, are followed."""


def classify_kink(evidence: Evidence) -> Finding:
    """What can be said at a kink: the way down, a local minimum, or that it is undecided."""
    assert evidence.at_kink is not None
    if evidence.on_data.fit_is_attained and float(evidence.risk) == 0:
        return Finding(Kind.MINIMUM, None, "the loss is 0, and cannot be lower")
    undecided = Finding(Kind.UNDECIDED, None, evidence.no_hessian)
    layers = [layer for layer, near in enumerate(evidence.kinks) if bool(near.any())]
    found = None
    if len(layers) == 1 and int(evidence.kinks[layers[0]].sum()) <= FEW:
        found = _Kinks(evidence, layers[0]).finding()
    return found or _above(evidence, layers) or _down_a_unit(evidence, layers) or undecided


def _above(evidence: Evidence, layers: list[int]) -> Finding | None:
    """By the gradient of the layers above all kinks, of which the loss is smooth."""
    net = evidence.point.problem.net
    rows = [
        torch.zeros(net.widths[k + 1], net.fan_in(k), dtype=torch.float64) for k in range(net.depth)
    ]
    for above in rows[max(layers) + 1 :]:
        above += 1
    smooth = torch.cat([flat_rows(net, k, part) for k, part in enumerate(rows)])
    if not bool((smooth * evidence.gradient.abs() > evidence.allowed).any()):
        return None
    down = _way_down(evidence, [-smooth * evidence.unit.square() * evidence.gradient])
    if down is None:
        return None
    reason = (
        f"the loss falls with slope {down[1]:.2g} along parameters above the kinks of hidden layer(s) "
        f"{', '.join(map(str, layers))}"
    )
    return Finding(Kind.NOT_CRITICAL, None, reason, down[0])


class _Kinks:
    """Samples on kinks of units of one hidden layer.

    Attributes:
        places: (sample, unit) of each, (m, 2).
        moves: ``∂z_ν/∂θ``, (m, P).
        gains: c, (m,).
        left: g, (P,).
        on: whether the sample is to the right of its kink as stored, (m,).
    """

    def __init__(self, evidence: Evidence, layer: int) -> None:
        self.evidence, self.layer = evidence, layer
        data, net = evidence.on_data, evidence.point.problem.net
        self.places = evidence.kinks[layer].nonzero()
        samples, units = self.places.T
        slopes = net.activations[layer].slopes
        assert slopes is not None
        self.moves: Tensor = torch.func.jacrev(self._pre)(evidence.vector)
        pull = data.natural.pulls[layer][samples, units]
        share = data.problem.share(samples)
        self.gains = pull * (slopes[1] - slopes[0]) * share
        self.on = (data.pre[layer][samples, units] > 0).double()
        self.left = evidence.gradient - self.moves.mT @ (self.gains * self.on)

    def _pre(self, vector: Tensor) -> Tensor:
        problem = self.evidence.point.problem
        samples, units = self.places.T
        params = problem.net.unflatten(vector)
        fed = problem.net.fed(params, problem.X[samples], self.layer)
        return (fed * problem.net.layer(params, self.layer)[units]).sum(-1)

    def finding(self) -> Finding | None:
        evidence = self.evidence
        jumps = self.gains[:, None].abs() * self.moves.abs()
        clear = (jumps > evidence.allowed.clamp(min=1e-300)).any(-1)
        for nu in (clear & (self.gains < 0)).nonzero().flatten().tolist():
            alone = torch.linalg.pinv(self.moves * evidence.unit)[:, nu]
            down = _way_down(evidence, [evidence.unit * alone, -evidence.unit * alone])
            if down is not None:
                return self._falls(*down, f"{self._who(nu)} bends the loss down there")
        if not bool(clear.all()) or bool((self.gains <= 0).any()):
            return None
        from scipy.optimize import lsq_linear  # takes long to import, and few points need it

        columns = (evidence.unit * self.moves).mT * self.gains
        solved = lsq_linear(columns.numpy(), -(evidence.unit * self.left).numpy(), (0.0, 1.0))
        multipliers = torch.from_numpy(solved.x)
        residual = columns @ multipliers + evidence.unit * self.left
        if bool((residual.abs() > evidence.unit * evidence.allowed).any()):
            down = _way_down(evidence, [-evidence.unit * residual])
            return (
                None
                if down is None
                else self._falls(*down, "no piece that meets there is stationary")
            )
        inside = (multipliers > INSIDE) & (multipliers < 1 - INSIDE)
        return self._along(multipliers) if bool(inside.all()) else None

    def _who(self, nu: int) -> str:
        sample, unit = self.places[nu].tolist()
        return f"the kink of unit {unit} of hidden layer {self.layer} at sample {sample}"

    def _falls(self, direction: Tensor, slope: float, why: str) -> Finding:
        return Finding(
            Kind.NOT_CRITICAL,
            None,
            f"{len(self.places)} pre-activation(s) of hidden layer {self.layer} are at a kink, and the loss "
            f"falls on one side of it, with slope {slope:.2g}: {why}",
            direction,
        )

    def _along(self, multipliers: Tensor) -> Finding | None:
        """By the curvature along the directions that move no sample off its kink."""
        evidence, unit = self.evidence, self.evidence.unit
        weights = self.gains * (multipliers - self.on)
        bend = torch.zeros_like(evidence.hessian)
        if self.layer:
            bend = torch.func.jacrev(torch.func.jacrev(lambda v: weights @ self._pre(v)))(
                evidence.vector
            )
        _, sizes, right = torch.linalg.svd(self.moves * unit)
        rank = int((sizes > 1e-9 * sizes[0]).sum())
        basis = right[rank:].mT
        sites = [basis.mT @ evidence.in_units(H + bend) @ basis for H in evidence.derivatives[2]]
        spectrum = symmetric_spectrum(sites)
        here = "the samples on kinks held there"
        down = spectrum.clearest(-1)
        if down is not None:
            reason = (
                f"{here}, the Hessian has the eigenvalue {down[0]:.3g} (noise floor {down[1]:.2g})"
            )
            direction = unit * (basis @ spectrum.vectors[:, 0])
            direction = direction / torch.linalg.vector_norm(direction)
            curvature = float(direction @ (evidence.hessian + bend) @ direction)
            return Finding(Kind.STRICT_SADDLE, Margin(*down), reason, direction, curvature)
        if spectrum.doubtful:
            return None
        kept: list[TangentFamily] = [
            f for f in flat_families(evidence.on_data) if f.name in KEPT_BY
        ]
        flat = basis.mT @ span(kept, unit)
        hidden = int(spectrum.hidden.sum())
        rank = int((torch.linalg.svdvals(flat) > 1 - 1e-6).sum()) if flat.shape[1] else 0
        if rank != hidden:
            return None
        tightest = spectrum.tightest()
        return Finding(
            Kind.MINIMUM if hidden else Kind.STRICT_MINIMUM,
            None if tightest is None else Margin(*tightest),
            f"a local minimum of the piecewise smooth loss: it rises at first order along all that moves the "
            f"{len(self.places)} sample(s) on kinks of hidden layer {self.layer}, and {here}, the Hessian has "
            f"{len(spectrum.values) - hidden} positive eigenvalues"
            + (f" and {hidden} zero ones along flat directions" if hidden else ""),
        )


def _way_down(evidence: Evidence, directions: list[Tensor]) -> tuple[Tensor, float] | None:
    """One of the directions, of unit length, along which the loss was seen to fall, and its slope."""
    for direction in directions:
        direction = direction / torch.linalg.vector_norm(direction)
        falls = list(_falls_along(evidence, direction))
        if falls:
            size, fall = falls[0]
            return direction, -fall / size
    return None


def _falls_along(evidence: Evidence, direction: Tensor) -> Iterator[tuple[float, float]]:
    """(size, fall) of the steps along a direction, short ones first, that lower the loss beyond rounding.

    Up to the first that raises it: what lies behind a ridge is no way down from here.
    """
    problem, data = evidence.point.problem, evidence.on_data
    noise = problem.mean((data.loss_first.abs() * data.natural.output_noise).sum(-1))
    noise = ENOUGH * (noise + EPS * evidence.risk.abs())
    length = 1 / torch.linalg.vector_norm(direction / evidence.unit)
    sizes = length * torch.logspace(-9, 0, 19, dtype=torch.float64)
    risks = problem.risk(problem.net.unflatten(evidence.vector + sizes[:, None] * direction))
    for size, fall in zip(sizes.tolist(), (evidence.risk - risks).tolist(), strict=True):
        if not fall >= -float(noise):
            return
        if fall > float(noise):
            yield size, fall


def _down_a_unit(evidence: Evidence, layers: list[int]) -> Finding | None:
    """A way down that moves one unit off its kink, to a side that is tried.

    A unit whose incoming and outgoing weights are 0 has gradient 0, and the loss bends along
    ``(ω, a)``, a unit σ(ω·x̃) with outgoing weights a, by ``2 Σ_ν (δ_ν·a) σ(ω·x̃_ν)``: another number on
    each side.
    """
    data, net = evidence.on_data, evidence.point.problem.net
    generator = torch.Generator().manual_seed(0)
    best: tuple[float, Tensor, int, int] | None = None
    for layer in layers:
        fed, size = data.inputs[layer].values, data.natural.fed[layer]
        drawn = torch.randn((TRIED, fed.shape[1]), generator=generator, dtype=torch.float64)
        omegas = torch.cat([fed[:TRIED] / size**2, drawn / size])
        omegas = torch.cat([omegas, -omegas])
        z = fed @ omegas.mT
        said = net.activations[layer].derivatives(z)[0]
        heard = said.mT @ data.problem.weighed(data.natural.errors[layer + 1])
        steep = torch.linalg.vector_norm(heard, dim=1) / torch.linalg.vector_norm(omegas, dim=1)
        for place in steep.argsort(descending=True)[:LEADING].tolist():
            if not steep[place] > 0:
                continue
            for unit in evidence.kinks[layer].any(0).nonzero().flatten().tolist():
                rows = [torch.zeros_like(net.layer(data.params, k)) for k in range(net.depth)]
                rows[layer][unit] = omegas[place] / torch.linalg.vector_norm(omegas[place])
                rows[layer + 1][:, unit] = -heard[place] / torch.linalg.vector_norm(heard[place])
                flat = torch.cat([flat_rows(net, k, part) for k, part in enumerate(rows)]) / 2**0.5
                step, fall = next(_falls_along(evidence, flat), (1.0, 0.0))
                curvature = -2 * fall / step**2
                if curvature < (0.0 if best is None else best[0]):
                    best = (curvature, flat, layer, unit)
    if best is None:
        return None
    curvature, direction, layer, unit = best
    return Finding(
        Kind.UNDECIDED,
        None,
        f"unit {unit} of hidden layer {layer} is at its kink, where there is no Hessian; but this is no "
        f"local minimum: on one side the loss falls, by a second derivative of {curvature:.2g} along "
        "descent_direction",
        direction,
        curvature,
    )
