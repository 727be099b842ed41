"""The loop that takes a batch of networks to critical points, one method's steps at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.engine import Compiled, compiled
from semiflat.curvature.gradient import flat_rows, risk_gradient
from semiflat.problem import Problem
from semiflat.search.methods import LEAST, Local, Method, Step, check_step

EPS = torch.finfo(torch.float64).eps
CHECK = 100
"""Steps between two looks at whether a run creeps to infinity."""
GROWTH, GAIN = 1.2, 1e-5
"""Between two looks a creeping run's largest parameter grows by this factor at least, and its loss
falls by this part at most."""
RELATIVE = 1e-6
"""A gradient is small for good only if it is this small a part of √R, both in the data's units."""
POLISH = 12
"""Newton steps spent below the tolerance on going down to the rounding floor."""


@dataclass(frozen=True)
class Options:
    """When to stop.

    Attributes:
        tolerance: the largest entry of a critical point's gradient, in the data's units, relative to the
            root of the risk if that exceeds 1.
        max_iterations: steps tried by one run.
        largest: parameter size, for targets of size 1, beyond which a run has gone to infinity.
    """

    tolerance: float = 1e-10
    max_iterations: int = 1000
    largest: float = 1e5

    @property
    def judged(self) -> float:
        """The tolerance of what is said of a run's end: no less than that of a judgement."""
        return max(self.tolerance, 1e-10)


def data_units(problem: Problem) -> tuple[Tensor, Tensor]:
    """What gradients and risks are measured in, by the sizes of inputs and targets: (*batch, P), (*batch,).

    For data and targets of size 1, and larger, all are 1. An entry that a feature of size s feeds is as
    large as s.
    """
    net, X = problem.net, problem.X
    features = X.square().mean(-2).sqrt()
    features = torch.where(features > 0, features, torch.ones_like(features))
    spread = problem.loss.target_spread(problem.y, net.outputs)
    if spread is None:
        spread = X.new_ones(*X.shape[:-2], net.outputs)
    scale = spread.square().amax(-1)
    parts = []
    for layer in range(net.depth):
        last = layer == net.depth - 1
        own = spread if last else scale[..., None].expand(*scale.shape, net.widths[layer + 1])
        rows = own[..., :, None].repeat(*[1] * own.ndim, net.fan_in(layer))
        if layer == 0:
            rows[..., : net.inputs] *= features[..., None, :]
        parts.append(flat_rows(net, layer, rows))
    return torch.cat(parts, dim=-1).clamp(max=1.0), scale.clamp(max=1.0)


@dataclass
class Runs:
    """A batch of runs: where they are and how they got there. All tensors have the runs first.

    ``units`` are what gradient and risk are measured in. ``below`` counts steps taken below the
    tolerance; ``settled`` says that it is below and no step down is left, ``stuck`` says that no step of
    more than rounding size lowered the merit, and ``promised`` by how much the last step tried was to
    lower it; ``looked`` is the largest parameter and the risk at the last look, ``last`` those at the
    look before, and ``creeping`` what the two tell.
    """

    theta: Tensor
    risk: Tensor
    gradient: Tensor
    units: tuple[Tensor, Tensor]
    iterations: Tensor
    below: Tensor
    settled: Tensor
    stuck: Tensor
    promised: Tensor
    creeping: Tensor
    looked: Tensor
    last: Tensor

    def sizes(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """``‖∇R‖∞`` and √|R| of some runs, in the data's units (:func:`data_units`)."""
        units, scale = (unit[index] for unit in self.units)
        return (self.gradient[index].abs() / units).amax(-1), (
            self.risk[index].abs() / scale
        ).sqrt()

    def small(self, index: Tensor, tolerance: float) -> Tensor:
        """Which of some runs have a gradient as small as ``tolerance`` asks for."""
        size, root = self.sizes(index)
        return size <= tolerance * root.clamp(min=1.0)


@dataclass(frozen=True)
class Phase:
    """A method, and when the next phase takes over.

    Attributes:
        method: whose steps are tried.
        steps: how many at most.
        until: ‖∇R‖∞ over √R, both in the data's units, from which the run is near: gradients are as large
            as residuals.
    """

    method: Method
    steps: int
    until: float = 0.0


def drive(
    problem: Problem, starts: Tensor, options: Options, phases: Sequence[Phase]
) -> tuple[Runs, bool]:
    """Run every start (B, P) until it has converged, cannot move, or has used up its iterations.

    Returns:
        The runs, and whether Ctrl-C stopped them early.
    """
    driver = driver_of(problem, starts, options)
    try:
        driver.go(phases, torch.arange(len(starts)))
    except KeyboardInterrupt:
        return driver.runs, True
    return driver.runs, False


class Driver:
    """Takes a batch of runs onwards, by one phase after the other.

    Args:
        problem: for each of the starts, or for all.
        starts: parameters, (B, P).
        options: when to stop.

    Attributes:
        runs: where they are, at any time.
        engine: what takes the steps, see :func:`semiflat.curvature.engine.engine_of`.
    """

    engine = "torch"

    def __init__(self, problem: Problem, starts: Tensor, options: Options) -> None:
        self.problem, self.options = problem, options
        self.hopeless = problem.no_critical_point_below
        count = len(starts)
        risk, gradient = risk_gradient(problem, problem.net.unflatten(starts))
        units, scale = data_units(problem)
        zeros = torch.zeros(count, dtype=torch.int64)
        no = torch.zeros(count, dtype=torch.bool)
        self.runs = Runs(
            starts.clone(),
            risk,
            gradient,
            (units.expand_as(gradient), scale.expand_as(risk)),
            zeros.clone(),
            zeros.clone(),
            no.clone(),
            no.clone(),
            torch.full((count,), torch.nan, dtype=torch.float64),
            no.clone(),
            torch.stack([starts.abs().amax(-1), risk], -1),
            torch.stack([starts.abs().amax(-1), risk], -1),
        )
        self.lengths = torch.ones(count, dtype=torch.float64)  # of the last step taken
        self.limit = zeros

    def go(self, phases: Sequence[Phase], among: Tensor) -> None:
        """Take the runs numbered ``among`` through the phases.

        A run that ends in one phase starts the next one where it is; the last phase's word counts.
        """
        for phase in phases:
            self._enter(phase, among)
            while len(self.active):
                self._advance()

    def move(self, run: int, theta: Tensor) -> None:
        """Go on with a run at other parameters, (P,)."""
        problem = self.problem.rows(torch.tensor([run]))
        risk, gradient = risk_gradient(problem, problem.net.unflatten(theta[None]))
        self.runs.theta[run], self.runs.risk[run] = theta, risk[0]
        self.runs.gradient[run], self.lengths[run] = gradient[0], 1.0
        self.runs.settled[run] = False

    def _enter(self, phase: Phase, among: Tensor) -> None:
        """Let a phase's method take over every run that is worth it."""
        runs, self.method, self.until = self.runs, phase.method, phase.until
        self.limit = (runs.iterations + phase.steps).clamp(max=self.options.max_iterations)
        runs.below[among] = 0
        runs.stuck[among] = runs.creeping[among] = False
        going = torch.isfinite(runs.risk) & torch.isfinite(runs.gradient).all(-1) & ~self._beyond()
        going &= (runs.iterations < self.limit) & ~runs.settled
        self.active = among[going[among]]
        if not len(self.active):
            return
        self.local = self._model(self.active)
        self.scale = self.method.scale(
            self.local, runs.gradient[self.active], self.lengths[self.active]
        )

    def left(self, run: int) -> bool:
        """Whether a run has left the part of the parameter space where there is anything to find."""
        return bool(self._beyond()[run])

    def _beyond(self) -> Tensor:
        """Runs that have left the part of the parameter space where there is anything to find."""
        largest = self.options.largest * self.problem.target_size
        return (self.runs.theta.abs().amax(-1) > largest) | (self.runs.risk < self.hopeless)

    def _model(self, index: Tensor) -> Local:
        return self.method.local(self.problem.rows(index), self.runs.theta[index])

    def _advance(self) -> None:
        """One step of every active run."""
        runs, index = self.runs, self.active
        theta, risk, gradient = runs.theta[index], runs.risk[index], runs.gradient[index]
        problem = self.problem.rows(index)
        step = self.method.step(problem, theta, gradient, self.local, self.scale)
        check_step(self.method, step, theta)
        trial = theta + step.move
        new_risk, new_gradient = risk_gradient(problem, problem.net.unflatten(trial))
        ratio, accepted = self._compare(risk, gradient, step, new_risk, new_gradient, index)
        self.scale = self.method.adapt(self.scale, ratio, step.length)
        runs.iterations[index] += 1
        self._accept(accepted, trial, new_risk, new_gradient, step.length)
        small = runs.small(index, self.options.tolerance)
        runs.below[index] += small
        self._look(index)
        size, moved = (torch.linalg.vector_norm(each, dim=-1) for each in (trial, step.move))
        still = moved <= 4 * EPS * size
        runs.stuck[index] = still & ~accepted
        runs.promised[index] = step.promised
        self._retire(small & ~accepted)

    def _compare(
        self,
        risk: Tensor,
        gradient: Tensor,
        step: Step,
        new_risk: Tensor,
        new_gradient: Tensor,
        index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """How much of its promise each step kept, and whether it is taken."""
        finite = torch.isfinite(new_risk) & torch.isfinite(new_gradient).all(-1)
        size, new_size = (torch.linalg.vector_norm(g, dim=-1) for g in (gradient, new_gradient))
        merit = self.method.merit(risk, gradient)
        if step.gradient is None:
            new_merit = self.method.merit(new_risk, new_gradient)
            ratio = (merit - new_merit) / step.promised.clamp(min=1e-300)
        else:  # the model is held to its gradient, not to a merit
            off = torch.linalg.vector_norm(new_gradient - step.gradient, dim=-1)
            change = torch.linalg.vector_norm(gradient - step.gradient, dim=-1)
            ratio = 1 - off / change.clamp(min=1e-300)
        # Below the rounding of the merit its decrease says nothing; the gradient still does.
        rounding = EPS * merit.abs()
        if self.method.follows_loss:
            rounding = rounding.clamp(min=self.problem.value_noise)
        blind = step.promised <= 64 * rounding
        ratio = torch.where(blind, torch.where(new_size < size, 0.5, 0.0).to(ratio.dtype), ratio)
        # Once below the tolerance, only a clear gain is worth another step.
        polishing = self.runs.below[index] > 0
        gains = ~polishing | (new_size < 0.7 * size)
        if step.gradient is None:
            gains |= step.promised > 1e-6 * merit.abs()
        ratio = torch.where(finite, ratio, torch.zeros_like(ratio))
        return ratio, finite & (ratio > LEAST) & gains

    def _accept(
        self, accepted: Tensor, trial: Tensor, risk: Tensor, gradient: Tensor, length: Tensor
    ) -> None:
        moved = self.active[accepted]
        if not len(moved):
            return
        self.runs.theta[moved] = trial[accepted]
        self.runs.risk[moved] = risk[accepted]
        self.runs.gradient[moved] = gradient[accepted]
        self.lengths[moved] = length[accepted]
        for kept, new in zip(self.local, self._model(moved), strict=True):
            kept[accepted] = new

    def _look(self, index: Tensor) -> None:
        now = index[self.runs.iterations[index] % CHECK == 0]
        if len(now):
            sizes, risk = self.runs.theta[now].abs().amax(-1), self.runs.risk[now]
            before = self.runs.looked[now]
            gain = (before[:, 1] - risk) / before[:, 1].abs().clamp(min=1e-300)
            # Where all is decayed nothing is at infinity: a slow run is on its way.
            creeping = (sizes > GROWTH * before[:, 0]) & (gain.abs() < GAIN)
            self.runs.creeping[now] = creeping & (not self.problem.coercive)
            self.runs.last[now] = before
            self.runs.looked[now] = torch.stack([sizes, risk], -1)

    def _retire(self, settled: Tensor) -> None:
        runs, index = self.runs, self.active
        # A saddle is no place to stop for who looks for a minimum.
        downhill = self.method.follows_loss & self.method.downhill(self.local)
        settled = (settled | (runs.below[index] >= POLISH)) & ~downhill
        # Without the exact Hessian a saddle would settle, too; and a gradient that is small because
        # the residuals are is worth another method's try.
        size, root = runs.sizes(index)
        runs.settled[index] = settled & self.method.exact & (size <= RELATIVE * root)
        ended = (
            settled
            | runs.stuck[index]
            | runs.creeping[index]
            | (runs.iterations[index] >= self.limit[index])
            | (size < self.until * root)
            | self._beyond()[index]
        )
        if ended.any():
            keep = ~ended
            self.active, self.scale = index[keep], self.scale[keep]
            self.local = tuple(part[keep] for part in self.local)


IN_PLACE = (
    *("theta", "risk", "gradient", "iterations", "below", "settled"),
    *("stuck", "promised", "creeping", "looked", "last"),
)
"""What the compiled engine changes of the runs."""


class CompiledDriver(Driver):
    """The same, one run at a time in the compiled engine, as far as that knows the phases' methods.

    A run depends on its own start alone, to the last bit, on machines that have the same kernel and library
    of functions.
    """

    def __init__(
        self, problem: Problem, starts: Tensor, options: Options, networks: Compiled
    ) -> None:
        super().__init__(problem, starts, options)
        self.networks, self.engine = networks, networks.name

    def go(self, phases: Sequence[Phase], among: Tensor) -> None:
        known = [(phase.method.compiled, phase.steps, phase.until) for phase in phases]
        names = [(name, steps, until) for name, steps, until in known if name is not None]
        if not names or len(names) < len(phases) or not len(among):
            super().go(phases, among)
            return
        runs, options, problem = self.runs, self.options, self.problem
        self.networks.drive(
            among,
            names,
            tolerance=options.tolerance,
            max_iterations=options.max_iterations,
            largest=options.largest * problem.target_size,
            hopeless=self.hopeless,
            value_noise=problem.value_noise,
            coercive=problem.coercive,
            units=runs.units[0].contiguous(),
            scale=runs.units[1].contiguous(),
            **{name: getattr(runs, name) for name in IN_PLACE},
            length=self.lengths,
        )


def driver_of(problem: Problem, starts: Tensor, options: Options) -> Driver:
    """The driver for these starts (B, P): compiled, where the engine covers the problem."""
    networks = compiled(problem, len(starts))
    if networks is None:
        return Driver(problem, starts, options)
    return CompiledDriver(problem, starts, options, networks)
