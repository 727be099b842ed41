"""What a run that has ended is worth: a small gradient alone proves nothing."""

from __future__ import annotations

from dataclasses import replace

import torch

from semiflat.evidence import Evidence
from semiflat.limits import settled
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.search.beyond import Reached, is_channel
from semiflat.search.driver import CHECK, Options
from semiflat.search.record import Finished, LimitRecord, Status
from semiflat.symmetries.flatness import flatness

# A parameter vector, or its largest entry, that lies this much (cosine) within the Hessian's
# unexplained kernel has got there by running along it.
ALONG_KERNEL = 0.5
# And it must have got somewhere: below this size a singular Hessian means a degenerate point.
FAR = 20.0


def outcome(
    point: Point,
    iterations: int,
    creeping: tuple[float, float] | None,
    stuck: bool,
    options: Options,
) -> tuple[Status, str]:
    """Status of a run that ended at ``point``, and the evidence in words.

    Args:
        creeping: for a run that was stopped because it creeps to infinity, the largest parameter
            and the risk ``CHECK`` steps before its end.
        stuck: whether it ended because no step of more than rounding size lowered the merit.
    """
    largest = max(float(tensor.abs().max()) for tensor in point.params.values())
    problem = point.problem
    hopeless = problem.no_critical_point_below
    if point.loss < hopeless:
        return (
            Status.DIVERGED,
            f"the loss {point.loss:.2g} is below {hopeless:.2g}, where every sample is classified "
            "correctly and scaling the last layer up lowers it further: the data are separated, and "
            "the infimum 0 lies at infinity",
        )
    if point.gradient_norm <= options.tolerance * max(1.0, abs(point.loss)) ** 0.5:
        return _at_small_gradient(point, largest, options)
    if largest > options.largest * problem.target_size:
        return (
            Status.DIVERGED,
            f"the largest parameter passed {options.largest * problem.target_size:.0e} at gradient "
            f"{point.gradient_norm:.1e}",
        )
    if creeping is not None:
        return (
            Status.DIVERGED,
            f"in {CHECK} steps, up to step {iterations}, the largest parameter grew from "
            f"{creeping[0]:.3g} to {largest:.3g} while the loss changed by a part of only "
            f"{abs(creeping[1] - point.loss) / abs(creeping[1]):.1g}; gradient {point.gradient_norm:.1e}",
        )
    if iterations >= options.max_iterations or not stuck:
        return (
            Status.MAX_ITERATIONS,
            f"gradient {point.gradient_norm:.1e} after {iterations} iterations",
        )
    return (
        Status.STALLED,
        f"no step of more than rounding size lowers the merit, at gradient {point.gradient_norm:.1e}",
    )


def beyond_outcome(problem: Problem, run: Finished, reached: Reached, options: Options) -> Finished:
    """What a run is worth whose units were seen to run off to infinity.

    CHANNEL or SATURATED asks for a critical point of the limiting network, no higher than the run
    itself got, whose steps stand where they were put.
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
    why_not = None
    if not reached.gradient_norm <= options.allowed(reached.loss):
        why_not = "which is no critical point"
    elif not stand:
        why_not = "but a step's incoming weights no longer put it where it stands"
    elif reached.loss > run.loss + 1e-9 * abs(run.loss):
        why_not = f"but its loss {reached.loss:.8g} lies above the run's {run.loss:.8g}"
    if why_not:
        return replace(run, evidence=f"{run.evidence}; {numbers}, {why_not}")
    status = Status.CHANNEL if is_channel(guess.net) else Status.SATURATED
    return replace(
        run,
        status=status,
        evidence=f"{numbers} at loss {reached.loss:.8g}, where the run had {run.loss:.8g}",
        limit=record,
    )


def _at_small_gradient(point: Point, largest: float, options: Options) -> tuple[Status, str]:
    evidence = Evidence(point, options.tolerance)
    flat = flatness(evidence)
    spectrum = evidence.spectrum
    explained = flat.joint.shape[1]
    tightest = spectrum.tightest()
    if not spectrum.doubtful and int(spectrum.hidden.sum()) == explained:
        least = "none" if tightest is None else "{:.2g} with noise floor {:.1g}".format(*tightest)
        return (
            Status.CONVERGED,
            f"gradient {point.gradient_norm:.1e}; the least certain eigenvalue is {least}; "
            f"{explained} flat direction(s), each explained",
        )
    unclear = spectrum.vectors[:, ~spectrum.decided]
    unclear = unclear - flat.joint @ (flat.joint.mT @ unclear)
    left, sizes, _ = torch.linalg.svd(unclear, full_matrices=False)
    kernel = left[:, sizes > 0.5]
    vector = evidence.vector
    along = kernel.mT @ (vector / torch.linalg.vector_norm(vector))
    biggest = kernel[int(vector.abs().argmax())]
    cosine = max(float(torch.linalg.vector_norm(part)) for part in (along, biggest))
    numbers = (
        f"gradient {point.gradient_norm:.1e}, but the Hessian has {kernel.shape[1]} direction(s) within "
        f"noise (floors up to {float(spectrum.floor.max()):.1g}) that no known flatness explains; largest "
        f"parameter {largest:.3g}"
    )
    if not kernel.shape[1]:
        return (
            Status.STALLED,
            f"gradient {point.gradient_norm:.1e}, but {explained} flat directions were found where the "
            f"Hessian shows {int(spectrum.hidden.sum())}: too badly conditioned to tell",
        )
    if cosine > ALONG_KERNEL and largest > FAR and not point.problem.weight_decay:
        return (
            Status.DIVERGED,
            f"{numbers}; the largest parameters lie along those directions (cosine {cosine:.2f}): a "
            "minimum at infinity, not a critical point",
        )
    return Status.STALLED, f"{numbers}; cosine {cosine:.2f}"
