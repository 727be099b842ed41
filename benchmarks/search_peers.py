"""One runner for each peer: one start in, one :class:`Run` out.

Every peer gets semiflat's closed-form derivatives of one network, and is stopped at the first point it
evaluates where ``‖∇R‖∞`` is within the tolerance: the least time it could have taken to get there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import least_squares, minimize
from torch import Tensor

import semiflat as sf
from semiflat.curvature.engine import EngineName, using
from semiflat.curvature.gradient import output_jacobian, risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian

TOLERANCE = 1e-12
Array = np.ndarray


@dataclass(frozen=True)
class Run:
    """How one run of any peer ended.

    Attributes:
        status: a semiflat status; for the others REACHED (``‖∇R‖∞`` within the tolerance), TIME
            (cut off), or how the method says it stopped.
        seconds: of this run; for a batch its share of the whole.
        gradient_norm, loss, largest: ``‖∇R‖∞``, ``R`` and the largest parameter at the end.
        limit_loss, limit_gradient_norm: of the critical point at infinity, where there is one.
    """

    status: str
    seconds: float
    gradient_norm: float
    loss: float
    largest: float
    limit_loss: float | None = None
    limit_gradient_norm: float | None = None


class _Stop(Exception):
    """Raised from inside a peer to end its run."""


class Derivatives:
    """``R``, ``∇R`` and ``∇²R`` of one network, for peers that go by NumPy vectors."""

    def __init__(
        self, problem: sf.Problem, tolerance: float = TOLERANCE, seconds: float = np.inf
    ) -> None:
        self.problem, self.net = problem, problem.net
        self.tolerance, self.deadline = tolerance, time.perf_counter() + seconds
        self.status = ""
        self.lowest, self.kept = np.inf, None  # a run that is cut off has got this far

    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        risk, gradient = risk_gradient(self.problem, self.net.unflatten(torch.from_numpy(x)))
        value, slope = float(risk), gradient.numpy()
        self.watch(x, value, slope)
        return value, slope

    def hessian(self, x: Array) -> Array:
        params = self.net.unflatten(torch.from_numpy(x))
        return risk_gradient_hessian(self.problem, params)[2].numpy()

    def residuals(self, x: Array) -> Array:
        """``r`` with ``½‖r‖² = R``."""
        outputs = self.net.forward(self.net.unflatten(torch.from_numpy(x)), self.problem.X)
        return (outputs - self.problem.y).flatten().numpy() / np.sqrt(self.problem.samples)

    def jacobian(self, x: Array) -> Array:
        """``∂r/∂θ``."""
        jacobian = output_jacobian(self.problem, self.net.unflatten(torch.from_numpy(x)))
        rows = jacobian.flatten(0, 1).numpy() / np.sqrt(self.problem.samples)
        residuals = self.residuals(x)  # a small part of the Jacobian's cost
        self.watch(x, residuals @ residuals / 2, residuals @ rows)
        return rows

    def watch(self, x: Array, value: float, slope: Array) -> None:
        """Keep the lowest point; stop where the run is done or out of time."""
        reached = np.abs(slope).max() <= self.tolerance
        if value < self.lowest or reached:
            self.lowest, self.kept = value, x.copy()
        if reached:
            self.status = "REACHED"
            raise _Stop
        if time.perf_counter() > self.deadline:
            self.status = "TIME"
            raise _Stop


Runner = Callable[[Derivatives, Array], tuple[Array, str]]


def bfgs(d: Derivatives, start: Array) -> tuple[Array, str]:
    """SciPy BFGS."""
    options = {"gtol": d.tolerance, "maxiter": 10_000}
    end = minimize(d.value_and_gradient, start, jac=True, method="BFGS", options=options)
    return end.x, {0: "STOPPED", 1: "MAX_ITERATIONS", 2: "PRECISION"}.get(end.status, "NAN")


def trust_exact(d: Derivatives, start: Array) -> tuple[Array, str]:
    """SciPy's trust region with the exact Hessian and a nearly exact subproblem."""
    options = {"gtol": d.tolerance, "maxiter": 2000}
    end = minimize(
        d.value_and_gradient, start, jac=True, hess=d.hessian, method="trust-exact", options=options
    )
    names = {0: "STOPPED", 1: "MAX_ITERATIONS", 2: "PRECISION", 3: "FACTORISATION"}
    return end.x, names.get(end.status, str(end.status))


def least_squares_trf(d: Derivatives, start: Array) -> tuple[Array, str]:
    """SciPy least_squares, trust region reflective: Gauss–Newton with the exact Jacobian."""
    end = least_squares(
        d.residuals,
        start,
        jac=d.jacobian,
        method="trf",
        ftol=None,
        xtol=float(np.finfo(float).eps),
        gtol=d.tolerance,
        max_nfev=2000,
    )
    return end.x, {0: "MAX_ITERATIONS", 3: "PRECISION"}.get(end.status, "STOPPED")


def torch_lbfgs(d: Derivatives, start: Array) -> tuple[Array, str]:
    """torch.optim.LBFGS with its strong Wolfe line search, the gradient put into ``.grad``."""
    x = torch.from_numpy(start.copy()).requires_grad_()
    optimiser = torch.optim.LBFGS(
        [x],
        max_iter=10_000,
        max_eval=20_000,
        tolerance_grad=d.tolerance,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        value, slope = d.value_and_gradient(x.detach().numpy())
        x.grad = torch.from_numpy(slope)
        return torch.tensor(value, dtype=torch.float64)

    optimiser.step(closure)
    spent = optimiser.state[x]["n_iter"] >= 10_000 or optimiser.state[x]["func_evals"] >= 20_000
    return x.detach().numpy(), "MAX_ITERATIONS" if spent else "PRECISION"


PEERS: dict[str, Runner] = {
    "SciPy trust-exact": trust_exact,
    "SciPy BFGS": bfgs,
    "SciPy least_squares": least_squares_trf,
    "torch LBFGS": torch_lbfgs,
}


def run_peer(
    runner: Runner,
    problem: sf.Problem,
    start: Tensor,
    seconds: float = np.inf,
    tolerance: float = TOLERANCE,
    engine: EngineName = "torch",
) -> Run:
    """One run of a peer, cut off after ``seconds``, on the derivatives of an engine."""
    derivatives = Derivatives(problem, tolerance, seconds)
    begun = time.perf_counter()
    try:
        with np.errstate(all="ignore"), using(engine):
            x, status = runner(derivatives, start.numpy().copy())
    except _Stop:
        x, status = derivatives.kept, derivatives.status
    except (ValueError, np.linalg.LinAlgError) as error:
        x, status = derivatives.kept, type(error).__name__
    spent = time.perf_counter() - begun
    return ended(problem, start.numpy() if x is None else x, status, spent, tolerance)


def ended(
    problem: sf.Problem, x: Array, status: str, seconds: float, tolerance: float = TOLERANCE
) -> Run:
    """The record of a run that ended at x, whatever it thinks of itself."""
    risk, gradient = risk_gradient(problem, problem.net.unflatten(torch.from_numpy(x)))
    size = float(gradient.abs().max())
    if size <= tolerance:
        status = "REACHED"
    return Run(status, seconds, size, float(risk), float(np.abs(x).max()))


def run_semiflat(
    problems: list[sf.Problem], starts: Tensor, processes: int
) -> tuple[list[Run], float]:
    """All starts in one search; the runs and the seconds they took together."""
    net = problems[0].net
    given = problems[0] if len(problems) == 1 else problems
    begun = time.perf_counter()
    result = sf.run_search(given, start=net.unflatten(starts), processes=processes)
    spent = time.perf_counter() - begun
    assert not result.non_finite, "starts and runs no longer stand side by side"
    runs = []
    for run in result.runs:
        limit = run.limit
        runs.append(
            Run(
                str(run.status),
                spent / len(starts),
                run.gradient_norm,
                run.loss,
                max(float(tensor.abs().max()) for tensor in run.params.values()),
                None if limit is None else limit.loss,
                None if limit is None else limit.gradient_norm,
            )
        )
    return runs, spent


def check_derivatives(problem: sf.Problem, start: Tensor) -> float:
    """Largest relative difference of what the peers are given to automatic differentiation."""

    def risk(vector: Tensor) -> Tensor:
        return problem.risk(problem.net.unflatten(vector))

    def relative(ours: Array | float, theirs: Tensor) -> float:
        expected = theirs.numpy()
        return float(np.abs(ours - expected).max() / np.abs(expected).max())

    d = Derivatives(problem, tolerance=0.0)
    x = start.numpy()
    value, slope = d.value_and_gradient(x)
    differences = [
        relative(value, risk(start)),
        relative(slope, torch.func.grad(risk)(start)),
        relative(d.hessian(x), torch.func.hessian(risk)(start)),
    ]
    if problem.loss.name == "squared":
        residuals, rows = d.residuals(x), d.jacobian(x)
        differences += [
            relative(residuals @ residuals / 2, risk(start)),
            relative(residuals @ rows, torch.func.grad(risk)(start)),
        ]
    worst = max(differences)
    assert worst < 1e-9, f"the peers' derivatives are off by {worst:.1e}"
    return worst
