"""A critical point of a limiting network: a minimum at infinity as a finite object."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.sweep import sweep
from semiflat.errors import InputError
from semiflat.evidence.derivatives import newton_step, roundings
from semiflat.evidence.spectrum import EPS, Spectrum, symmetric_spectrum, with_shift
from semiflat.limits.approach import approach
from semiflat.limits.network import SATURATED, AtInfinity, Form, LimitMLP, LimitProblem
from semiflat.networks import Params
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.records.shown import Shown
from semiflat.unit_surgery import with_rows

EDGE = 1e-9
"""Part of a step's largest pre-activation below which a sample is on its edge."""
ZERO = 1e-12
"""Part of the largest eigenvalue up to which one counts as zero."""
SCALES = (1e2, 1e3)
"""Where the rate of approach is measured."""
BACK = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
"""Where a finite network with a smaller loss is looked for."""


@dataclass(frozen=True)
class Rate(Shown):
    """How the loss of finite networks tends to the limit's along one of its limits.

    Attributes:
        layer, unit: which one.
        form: what it is in the limit.
        gap: ``R(scale) − R(limit)`` at the larger of :data:`SCALES`; the smallest among the ways
            there, if there are several.
        order: p in ``gap ~ scale^{−p}``, measured between the two scales.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.0])
    >>> net = sf.LimitMLP(problem.net, [["unit", "gate"]])
    >>> (rate,) = sf.Limit(problem, net, problem.net.random_params(seed=0)).rates
    >>> rate.layer, rate.unit, rate.form, round(rate.order, 3)  # like 1/scale²
    (0, 1, <Form.GATE: 'gate'>, 2.0)
    """

    layer: int
    unit: int
    form: Form
    gap: float
    order: float


class Limit(Shown):
    """A point of a limiting network that finite networks tend to.

    Args:
        problem: the finite network's problem.
        net: the limiting architecture.
        params: its parameters, shaped as the finite network's.
        far: shaped likewise, what the steps' incoming weights tend to, times infinity; only needed
            where there are steps.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.0])
    >>> net = sf.LimitMLP(problem.net, [[sf.Form.UNIT, sf.Form.GATE]])
    >>> limit = sf.Limit(problem, net, problem.net.random_params(0))
    >>> abs(limit.approach(1e4).loss - limit.loss) < 1e-6
    True
    """

    def __init__(
        self, problem: Problem, net: LimitMLP, params: Params, far: Params | None = None
    ) -> None:
        self.problem, self.net, self.params = problem, net, params
        self.far = far or {key: torch.zeros_like(tensor) for key, tensor in params.items()}
        self.offsets, self.gauge = _steps_on(problem, net, params, self.far)
        self._batch = LimitProblem([problem], [net], [offset[None] for offset in self.offsets])
        self._vector = net.flatten(params)
        risk, gradient, hessian = self._derivatives(self._vector)
        self.loss, self.gradient, self.hessian = float(risk), gradient, hessian

    @classmethod
    def of(cls, point: Point) -> Limit:
        """The limit that a point of a limiting network is.

        Raises:
            InputError: for a point of a finite network, or what is no point.
        """
        problem = getattr(point, "problem", None)
        if not isinstance(problem, AtInfinity):
            raise InputError(
                f"Limit.of takes a point of a limiting network, such as run.limit.point, not {point!r:.60}"
            )
        return cls(problem.finite, problem.net, point.params, problem.far)

    @cached_property
    def point(self) -> Point:
        """The point of the limiting network: to judge, reduce, escape from, embed and save as any other.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.0])
        >>> net = sf.LimitMLP(problem.net, [["unit", "gate"]])
        >>> limit = sf.Limit(problem, net, problem.net.random_params(0))
        >>> sf.Replicate(0, 0, [0.5, 0.5])(limit.point).problem.net.forms
        ((<Form.UNIT: 'unit'>, <Form.GATE: 'gate'>, <Form.UNIT: 'unit'>, <Form.GATE: 'gate'>),)
        """
        problem = AtInfinity(self.problem, self.net, self.offsets, self.far)
        return Point(problem, self.params, f"a point at infinity: {self!r}")

    def _derivatives(self, vector: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        risk, gradient, hessian = risk_gradient_hessian(
            self._batch, self.net.unflatten(vector[None])
        )
        return risk[0], gradient[0], hessian[0]

    @property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞`` in the parameters of the limiting network."""
        return float(self.gradient.abs().max())

    @property
    def critical(self) -> bool:
        """Whether it is a critical point of the limiting network: a small gradient, a short Newton step."""
        return self.point.evidence.near

    @cached_property
    def spectrum(self) -> Spectrum:
        """Eigenvalues of the Hessian in the parameters of the limiting network, with their noise."""
        rounded = [self._derivatives(vector)[2] for vector in roundings(self._vector)]
        near = symmetric_spectrum([self.hessian, *rounded])
        noise = torch.full_like(self.gradient, EPS * max(1.0, abs(self.loss)))
        there = self._vector + newton_step(near, self.gradient, noise)
        return with_shift(near, self._derivatives(there)[2])

    @property
    def inertia(self) -> tuple[int, int, int]:
        """Positive, zero and negative eigenvalues; what is within noise counts as zero."""
        values = self.spectrum.values
        # A gradient of rounding size along a gauge leaves an eigenvalue of its own size there.
        seen = ~self.spectrum.hidden & (values.abs() > ZERO * values.abs().max())
        negative, positive = (int((seen & (sign * values > 0)).sum()) for sign in (-1, 1))
        return positive, len(values) - positive - negative, negative

    @cached_property
    def rates(self) -> list[Rate]:
        """For each limit, the others staying limits, how finite networks approach it.

        All gates of one unit come back together, and have one rate, at the first of them.
        """
        rates = []
        for layer, row in enumerate(self.net.forms):
            for unit, form in enumerate(row):
                further = form is Form.GATE and row[unit - 1] is Form.GATE
                if form in (Form.UNIT, Form.STEP) or further:
                    continue
                gaps = min(
                    (
                        [
                            self._gap(sign * s, (layer, self.net.head(layer, unit)), lean)
                            for s in SCALES
                        ]
                        for sign, lean in _ways(form)
                    ),
                    key=lambda both: both[-1],
                )
                order = float("nan")
                if gaps[0] and gaps[1] and gaps[0] / gaps[1] > 0:
                    order = float(
                        torch.log(torch.tensor(gaps[0] / gaps[1])).double()
                        / torch.log(torch.tensor(SCALES[1] / SCALES[0]))
                    )
                rates.append(Rate(layer, unit, form, gaps[-1], order))
        return rates

    def _gap(self, scale: float, only: tuple[int, int], lean: float) -> float:
        net, params = approach(self.net, self.params, self.far, scale, only, lean)
        batch = LimitProblem([self.problem], [net], [offset[None] for offset in self.offsets])
        batched = {key: tensor[None] for key, tensor in params.items()}
        return float(batch.risk(batched)[0]) - self.loss

    @property
    def kind(self) -> str:
        """What the point is in the closure of the finite networks, as far as it was measured.

        ``"MINIMUM"``: the Hessian of the limiting network is positive semidefinite, its zeros are
        the directions known to change nothing, every finite network next to it that was tried has a
        larger loss, and a step that lets go of any sample raises the loss. ``"SADDLE"``: a negative
        eigenvalue, or a smaller loss in a finite network near by. ``"UNDECIDED"`` otherwise: where it
        is no critical point, and in particular where some sample would rather be let go by a step, since
        whether it can be the first to be let go depends on how the others lie.
        """
        if not self.critical:
            return "UNDECIDED"
        _, zero, negative = self.inertia
        if negative or any(rate.gap < -self.noise for rate in self.rates):
            return "SADDLE"
        return "MINIMUM" if zero == self.gauge and self.held else "UNDECIDED"

    @property
    def held(self) -> bool:
        """Whether the loss rises, beyond rounding, wherever a limit becomes finite or a step lets go.

        Never where a unit has several gates. Finite networks then differ from the limit at first order in
        1/scale, by ``½ Σ_i ω_iᵀB(v_i)ω_i`` over the gates (rows ω, outgoing weights v, B(v) the sum over
        the samples of ``(δ·v) σ''(z) x̃x̃ᵀ``); its sign turns with the scale's, and its size with the
        factors of Γ, which the limit does not see. It is 0 for all of them only if ``ω_aᵀB(v_m)ω_b``,
        symmetric in a and b, is 0 for all gates a, b and m; then higher orders decide, which are not
        looked at.
        """
        single = all(
            len(self.net.branch(layer, unit)) <= 2
            for layer in range(len(self.net.hidden))
            for unit in self.net.heads(layer)
        )
        return single and all(rate.gap > self.noise for rate in self.rates) and self._steps_hold

    @property
    def _steps_hold(self) -> bool:
        """Whether the loss rises when a step's output on any one sample turns back from its end."""
        s = sweep(self._batch, self.net.unflatten(self._vector[None]), slice(None))
        for layer, offset in enumerate(self.offsets):
            away = offset.sign()
            if bool(((away != 0) & (away * s.pulled[layer][0] >= 0)).any()):
                return False
        return True

    @property
    def noise(self) -> float:
        """Rounding in a difference of two losses."""
        return 100 * EPS * max(abs(self.loss), 1e-300)

    def approach(self, scale: float) -> Point:
        """A finite network near the limit: its loss tends to the limit's as ``scale`` grows.

        Rounding grows with ``scale`` as the truncation falls; about 1e5 is closest for a gate.

        Raises:
            InputError: if ``scale`` is not a positive number.
        """
        if (
            isinstance(scale, bool)
            or not isinstance(scale, int | float)
            or not 0 < scale < math.inf
        ):
            raise InputError(f"scale must be a positive number such as 1e3, not {scale!r}")
        params = approach(self.net, self.params, self.far, scale)[1]
        return Point(self.problem, params)

    def way_down(self) -> Params | None:
        """Parameters of a finite network near by with a smaller loss, None if none was met.

        The lowest of those that make finite again the limits which :attr:`rates` say should be.
        """
        if not any(rate.gap < -self.noise for rate in self.rates):
            return None
        best, lowest = None, self.loss - self.noise
        linear = any(form is Form.LINEAR for row in self.net.forms for form in row)
        for scale in BACK:
            for sign, lean in _ways(Form.LINEAR if linear else Form.GATE):
                params = approach(self.net, self.params, self.far, sign * scale, None, lean)[1]
                loss = float(self.problem.risk(params))
                if loss < lowest:
                    best, lowest = params, loss
        return best

    def _facts(self) -> dict[str, Any]:
        return {
            "forms": self.net.forms,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
        }

    def __repr__(self) -> str:
        forms = [[str(form) for form in row] for row in self.net.forms]
        return f"Limit(forms={forms}, loss={self.loss!r}, gradient_norm={self.gradient_norm:.1e})"


def settled(
    problem: Problem, net: LimitMLP, params: Params, far: Params, offsets: list[Tensor]
) -> Params:
    """``far`` without what it does to the samples on the steps' edges.

    Layers below may have moved since ``far`` was taken; the edge stays where its samples are.

    Args:
        offsets: for each hidden layer (width, N), 0 for the samples on the edge of a step.
    """
    h = problem.X.mT
    for layer, row in enumerate(net.forms):
        fed, z = net.through(params, h, layer)
        for unit, form in enumerate(row):
            edge = offsets[layer][unit] == 0
            if form is Form.STEP and bool(edge.any()):
                on = torch.linalg.qr(fed[:, edge])[0]
                moved = net.layer(far, layer)[unit]
                moved = moved - on @ (on.mT @ moved)
                far = with_rows(net, far, layer, unit, moved)
        h = net.respond(layer, z + offsets[layer])[0]
    return far


def _steps_on(
    problem: Problem, net: LimitMLP, params: Params, far: Params
) -> tuple[list[Tensor], int]:
    """To which side each step has each sample, and the directions that change no output.

    Returns:
        For each hidden layer (width, N): ±SATURATED, or 0 on the edge. And the gauge of the forms with
        that of the steps' incoming weights, which only the samples on the edge notice.
    """
    offsets, gauge, h = [], net.gauge, problem.X.mT
    for layer, row in enumerate(net.forms):
        fed, z = net.through(params, h, layer)
        away = net.layer(far, layer) @ fed
        away = torch.where(away.abs() > EDGE * away.abs().amax(-1, keepdim=True), away.sign(), 0.0)
        steps = torch.tensor([form is Form.STEP for form in row])
        offsets.append(SATURATED * away * steps[:, None])
        for unit in steps.nonzero().flatten().tolist():
            edge = fed[:, away[unit] == 0]
            rank = int(torch.linalg.matrix_rank(edge)) if edge.shape[1] else 0
            gauge += net.fan_in(layer) - rank
        h = net.respond(layer, z + offsets[-1])[0]
    return offsets, gauge


def _ways(form: Form) -> list[tuple[int, float]]:
    """(sign, lean) of the ways to a limit: the limit is the same whichever it is, the way is not."""
    if form in (Form.TAIL, Form.STEP):  # these come from one side
        return [(1, 0.0)]
    return [
        (sign, lean)
        for sign in (1, -1)
        for lean in ((0.0, 0.5, -0.5) if form is Form.LINEAR else (0.0,))
    ]
