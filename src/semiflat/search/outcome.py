"""What a run that has ended is worth: a small gradient alone proves nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from semiflat.evidence import TILTED, Evidence, OnData
from semiflat.problem import Problem
from semiflat.search.beyond import LARGEST, Reached, is_channel
from semiflat.search.driver import CHECK, Options
from semiflat.search.further import LOWER
from semiflat.search.record import Finished, LimitRecord, Status
from semiflat.search.stop import Stop, not_critical
from semiflat.symmetries.families import flat_families
from semiflat.symmetries.flatness import held_against_kernel

# A parameter vector, or its largest entry, that lies this much (cosine) within the Hessian's
# unexplained kernel has got there by running along it.
ALONG_KERNEL = 0.5
# And it must have got somewhere: below this size a singular Hessian means a degenerate point.
RUN_OFF = 10.0
ALIKE = 2.0**-42
"""Part of their size by which the last step may have moved copies of one unit apart."""


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
    return finished(*_on_its_way(stop, options.largest * problem.target_size))


def _on_its_way(stop: Stop, too_large: float) -> tuple[Status, str]:
    """Why a run was left where its gradient is not small: status, and the numbers in words."""
    largest = float(stop.vector.abs().max())
    if stop.before is not None:
        size, risk = stop.before
        return (
            Status.DIVERGED,
            f"within {CHECK} steps, up to step {stop.iterations}, the largest parameter grew from "
            f"{size:.3g} to {largest:.3g} while the loss changed by a part of only "
            f"{abs(risk - stop.risk) / abs(risk):.1g}; gradient {stop.gradient_norm:.1e}",
        )
    if largest > too_large:
        return (
            Status.DIVERGED,
            f"the largest parameter passed {too_large:.0e} at gradient {stop.gradient_norm:.1e}",
        )
    if not stop.stuck:
        return (
            Status.MAX_ITERATIONS,
            f"gradient {stop.gradient_norm:.1e} after {stop.iterations} iterations, the last of which "
            f"was to lower the merit by {stop.promised:.1e}",
        )
    return (
        Status.STALLED,
        f"no step of more than rounding size lowers the merit, at gradient {stop.gradient_norm:.1e}: "
        f"the local model promises {stop.promised:.1e}, which rounding hides at loss {stop.risk:.3g}",
    )


def _unconfirmed(problem: Problem, largest: float, numbers: str) -> tuple[Status, str]:
    """What a small gradient that is not a critical point's is worth."""
    if largest > RUN_OFF and not problem.coercive:
        return (
            Status.DIVERGED,
            f"{numbers}; the largest parameter is {largest:.3g}: a minimum at infinity, not a critical point",
        )
    return (
        Status.STALLED,
        f"{numbers}: no critical point is confirmed, and rounding hides the way on",
    )


def beyond_outcome(problem: Problem, run: Finished, reached: Reached, options: Options) -> Finished:
    """What a run is worth whose units were seen to run off to infinity.

    CHANNEL or SATURATED asks for a critical point of the limiting network, no higher than the run
    itself got, whose steps stand where they were put. Otherwise the run's evidence says what was
    reached there, and first of all if it is lower than the run. Then the limit is kept, to go on
    from, and where it stopped for a reason that is the run's status.
    """
    net, limit, stop = reached.guess.net, reached.limit, reached.stop
    record = LimitRecord(
        tuple(tuple(map(str, row)) for row in net.forms),
        net.flatten(limit.params),
        net.flatten(limit.far),
    )
    numbers = (
        f"{'; '.join(reached.found)}; the limiting network has gradient {stop.gradient_norm:.1e}"
    )
    run = replace(run, iterations=run.iterations + reached.iterations)
    why_not = reached.why_not
    if not why_not and stop.risk > run.loss + LOWER * abs(run.loss):
        why_not = f"but its loss {stop.risk:.8g} lies above the run's {run.loss:.8g}"
    if not why_not:
        status = Status.CHANNEL if is_channel(net) else Status.SATURATED
        return replace(
            run,
            status=status,
            evidence=f"{numbers} at loss {stop.risk:.8g}, where the run had {run.loss:.8g}",
            limit=record,
        )
    if not limit.loss < run.loss - LOWER * abs(run.loss):
        return replace(run, evidence=f"{run.evidence}; {numbers}, {why_not}")
    below = (
        f"runs to infinity, where a limiting network has loss {limit.loss:.8g}, below this "
        f"{run.loss:.8g}, but no critical point was reached there"
    )
    if stop.small:
        largest = float(stop.vector.abs().max())
        status, there = _unconfirmed(problem, largest, f"{numbers}, {why_not}")
    else:
        status, there = _on_its_way(stop, LARGEST * problem.target_size)
        there = f"{there}; {numbers}, {why_not}"
    if status is Status.MAX_ITERATIONS:
        status, there = run.status, f"{run.evidence}; {numbers}, {why_not}"
    return replace(run, status=status, evidence=f"{below}; {there}", limit=record)


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
    why = not_critical(evidence)
    if why:
        return *_unconfirmed(problem, largest, f"{numbers}; {why}"), None
    tightest = spectrum.tightest()
    least = "none" if tightest is None else "{:.2g} with noise floor {:.1g}".format(*tightest)
    certain = f"{numbers}; the least certain eigenvalue{evidence.in_natural_units} is {least}"
    if not spectrum.doubtful and not bool(spectrum.hidden.any()):
        return Status.CONVERGED, f"{certain}; no flat direction", spectrum.count()
    alike = OnData(problem, evidence.point.params, ALIKE)
    flat = held_against_kernel(evidence.spectrum, evidence.unit, flat_families(alike))
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
