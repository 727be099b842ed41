"""What a run that has ended is worth: a small gradient alone proves nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiflat.evidence import TILTED, Evidence, OnData
from semiflat.limits import settled
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.search.beyond import Reached, is_channel
from semiflat.search.driver import CHECK, Options, Runs
from semiflat.search.record import Finished, LimitRecord, Status
from semiflat.symmetries.families import flat_families
from semiflat.symmetries.flatness import held_against_kernel

# A parameter vector, or its largest entry, that lies this much (cosine) within the Hessian's
# unexplained kernel has got there by running along it.
ALONG_KERNEL = 0.5
# And it must have got somewhere: below this size a singular Hessian means a degenerate point.
RUN_OFF = 10.0
ALIKE = 2.0**-42
"""Part of their size by which the last step may have moved copies of one unit apart."""
# At a limit the gradient must be this small a part of the residuals.
SMALL_BEYOND = 1e-6


@dataclass(frozen=True)
class Stop:
    """Where and why the driver left a run.

    Attributes:
        vector: parameters, (P,).
        risk, gradient_norm: there.
        iterations: steps tried.
        small: whether the gradient is as small as was asked for.
        stuck: whether no step of more than rounding size lowered the merit.
        promised: by how much the last step tried was to lower it.
        before: for a run that creeps to infinity, the largest parameter and the risk ``CHECK`` steps
            before its end.
    """

    vector: Tensor
    risk: float
    gradient_norm: float
    iterations: int
    small: bool
    stuck: bool
    promised: float
    before: tuple[float, float] | None

    @classmethod
    def of(cls, runs: Runs, row: int, options: Options) -> Stop:
        """Of one of the driver's runs."""
        size, risk = runs.last[row].tolist()
        return cls(
            runs.theta[row].clone(),
            float(runs.risk[row]),
            float(runs.gradient[row].abs().max()),
            int(runs.iterations[row]),
            bool(runs.small(torch.tensor([row]), options.tolerance)),
            bool(runs.stuck[row]),
            float(runs.promised[row]),
            (size, risk) if bool(runs.creeping[row]) else None,
        )

    def point(self, problem: Problem) -> Point:
        """The point that it is."""
        return Point(problem, problem.net.unflatten(self.vector))


def outcome(
    problem: Problem,
    number: int,
    stop: Stop,
    options: Options,
    evidence: Evidence | None = None,
) -> Finished:
    """What a run is worth that the driver left at ``stop``: status, and the evidence in words.

    Args:
        evidence: of the point, where the gradient is small and it is known already.
    """

    def finished(
        status: Status, words: str, inertia: tuple[int, int, int] | None = None
    ) -> Finished:
        return Finished(
            number,
            status,
            words,
            stop.iterations,
            stop.vector,
            stop.risk,
            stop.gradient_norm,
            inertia=inertia,
        )

    if not math.isfinite(stop.risk):
        return finished(Status.NON_FINITE, "the loss is not finite at the start")
    largest = float(stop.vector.abs().max())
    hopeless = problem.no_critical_point_below
    if stop.risk < hopeless:
        return finished(
            Status.DIVERGED,
            f"the loss {stop.risk:.2g} is below {hopeless:.2g}, where every sample is classified "
            "correctly and scaling the last layer up lowers it further: the data are separated, and "
            "the infimum 0 lies at infinity",
        )
    if stop.small:
        return finished(
            *_at_small_gradient(evidence or Evidence(stop.point(problem), options.judged))
        )
    if largest > options.largest * problem.target_size:
        return finished(
            Status.DIVERGED,
            f"the largest parameter passed {options.largest * problem.target_size:.0e} at gradient "
            f"{stop.gradient_norm:.1e}",
        )
    if stop.before is not None:
        size, risk = stop.before
        return finished(
            Status.DIVERGED,
            f"in {CHECK} steps, up to step {stop.iterations}, the largest parameter grew from "
            f"{size:.3g} to {largest:.3g} while the loss changed by a part of only "
            f"{abs(risk - stop.risk) / abs(risk):.1g}; gradient {stop.gradient_norm:.1e}",
        )
    if not stop.stuck:
        return finished(
            Status.MAX_ITERATIONS,
            f"gradient {stop.gradient_norm:.1e} after {stop.iterations} iterations, the last of which "
            f"was to lower the merit by {stop.promised:.1e}",
        )
    return finished(
        Status.STALLED,
        f"no step of more than rounding size lowers the merit, at gradient {stop.gradient_norm:.1e}: "
        f"the local model promises {stop.promised:.1e}, which rounding hides at loss {stop.risk:.3g}",
    )


def beyond_outcome(problem: Problem, run: Finished, reached: Reached, options: Options) -> Finished:
    """What a run is worth whose units were seen to run off to infinity.

    CHANNEL or SATURATED asks for a critical point of the limiting network, no higher than the run
    itself got, whose steps stand where they were put. Otherwise the run's evidence says what was
    reached there, and first of all if it is lower than the run.
    """
    guess, found = reached.guess, "; ".join(reached.found)
    far = settled(problem, guess.net, guess.params, guess.far, guess.offsets)
    record = LimitRecord(
        tuple(tuple(map(str, row)) for row in guess.net.forms),
        guess.net.flatten(guess.params),
        guess.net.flatten(far),
    )
    limit = record.at(problem)
    stand = all(
        torch.equal(one, other) for one, other in zip(limit.offsets, guess.offsets, strict=True)
    )
    numbers = f"{found}; the limiting network has gradient {reached.gradient_norm:.1e}"
    run = replace(run, iterations=run.iterations + reached.iterations)
    why_not = None
    if not reached.converged:
        why_not = "which is no critical point"
    elif problem.least_loss is not None and (
        reached.gradient_norm
        > SMALL_BEYOND * math.sqrt(max(reached.loss - problem.least_loss, 0.0))
    ):
        why_not = f"small only because the residuals are (loss {reached.loss:.2g})"
    elif not stand:
        why_not = "but a step's incoming weights no longer put it where it stands"
    elif reached.loss > run.loss + 1e-9 * abs(run.loss):
        why_not = f"but its loss {reached.loss:.8g} lies above the run's {run.loss:.8g}"
    if why_not:
        below = (
            f"runs to infinity, where a limiting network has loss {reached.loss:.8g}, below this "
            f"{run.loss:.8g}, but no critical point was reached there; "
            if reached.loss < run.loss - 1e-9 * abs(run.loss)
            else ""
        )
        return replace(run, evidence=f"{below}{run.evidence}; {numbers}, {why_not}")
    status = Status.CHANNEL if is_channel(guess.net) else Status.SATURATED
    return replace(
        run,
        status=status,
        evidence=f"{numbers} at loss {reached.loss:.8g}, where the run had {run.loss:.8g}",
        limit=record,
    )


def _at_small_gradient(evidence: Evidence) -> tuple[Status, str, tuple[int, int, int] | None]:
    problem, vector, spectrum = evidence.point.problem, evidence.vector, evidence.spectrum
    largest = float(vector.abs().max())
    numbers = f"gradient {evidence.gradient_norm:.1e}"
    if evidence.no_hessian:
        return (
            Status.STALLED,
            f"{numbers}, but {evidence.no_hessian}; a way down need not show",
            None,
        )
    why = _not_critical(evidence)
    if why and largest > RUN_OFF and not problem.coercive:
        return (
            Status.DIVERGED,
            f"{numbers}; {why}; the largest parameter is {largest:.3g}: a minimum at infinity, not a critical "
            "point",
            None,
        )
    if why:
        return (
            Status.STALLED,
            f"{numbers}; {why}: no critical point is confirmed, and rounding hides the way on",
            None,
        )
    tightest = spectrum.tightest()
    least = "none" if tightest is None else "{:.2g} with noise floor {:.1g}".format(*tightest)
    certain = f"{numbers}; the least certain eigenvalue{evidence.in_natural_units} is {least}"
    if not spectrum.doubtful and not bool(spectrum.hidden.any()):
        return Status.CONVERGED, f"{certain}; no flat direction", spectrum.count()
    alike = OnData(problem, evidence.point.params, ALIKE)
    flat = held_against_kernel(evidence, flat_families(alike))
    explained = flat.joint.shape[1]
    if not spectrum.doubtful and int(spectrum.hidden.sum()) == explained:
        return (
            Status.CONVERGED,
            f"{certain}; {explained} flat direction(s), each explained",
            spectrum.count(),
        )
    unclear = flat.beyond(spectrum.vectors[:, ~spectrum.decided])
    left, sizes, _ = torch.linalg.svd(unclear, full_matrices=False)
    kernel = torch.linalg.qr(evidence.unit[:, None] * left[:, sizes > TILTED])[0]
    along = kernel.mT @ (vector / torch.linalg.vector_norm(vector).clamp(min=1e-300))
    biggest = kernel[int(vector.abs().argmax())]
    cosine = max(float(torch.linalg.vector_norm(part)) for part in (along, biggest))
    numbers += (
        f"; degenerate: {kernel.shape[1]} direction(s) of the Hessian lie within noise (floors up to "
        f"{float(spectrum.floor.max()):.1g}) beside {explained} that known flatness explains; largest "
        f"parameter {largest:.3g}"
    )
    runs_off = largest > RUN_OFF and not problem.coercive and not evidence.on_data.fit_is_attained
    if cosine > ALONG_KERNEL and runs_off:
        return (
            Status.DIVERGED,
            f"{numbers}; the largest parameters lie along those directions (cosine {cosine:.2f}): a "
            "minimum at infinity, not a critical point",
            None,
        )
    counted = spectrum.values[~spectrum.hidden]
    positive, negative = int((counted > 0).sum()), int((counted < 0).sum())
    inertia = positive, len(spectrum.values) - positive - negative, negative
    return Status.CONVERGED, f"{numbers}; cosine {cosine:.2f}", inertia


def _not_critical(evidence: Evidence) -> str:
    """Why a small gradient is not that of a critical point; empty if it is."""
    if not evidence.critical:
        size = evidence.gradient.abs()[evidence.worst]
        part = float(size / evidence.on_data.natural.largest[evidence.worst].clamp(min=1e-300))
        return (
            f"an entry of it is {part:.1e} of what it would be if its terms did not cancel: it is small only "
            "because residuals, data or slopes are"
        )
    return "" if evidence.near else evidence.how_far
