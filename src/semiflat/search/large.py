"""Networks whose dense Hessians are too large: the one place where a search chooses what it builds.

Such a search walks by products with the Hessian alone, and says of where it ends what can be said without
eigenvalues: how large the gradient is, and how far a Newton step would go.
"""

from __future__ import annotations

from semiflat.costs import Cost, dense_cost, product_seconds
from semiflat.curvature.products import KEPT_BYTES
from semiflat.evidence import Unbuilt
from semiflat.memory import available
from semiflat.networks import MLP
from semiflat.problem import Problem
from semiflat.search.methods import Method, NewtonCG
from semiflat.search.record import Finished, Status
from semiflat.search.stop import Stop

ROOM = 2**30
"""Bytes that the dense matrices of a block of starts may take together; less where less is free."""
MATRICES = 8
"""Matrices of P × P that a run holds at most: its model with eigenvectors, and what solvers take."""
BLOCK = 64
"""Starts in a block: enough for the batch to pay, few enough that its slowest run is not waited for
by many. It does not depend on the machine, so that the same starts are always run together."""
STEPS, PRODUCTS = 100, 4000
"""What a start takes, more or less: steps with a dense Hessian, or products without."""


def room() -> int:
    """Bytes for dense matrices."""
    free = available()
    return ROOM if free is None else min(ROOM, free)


def dense(net: MLP) -> bool:
    """Whether a search builds Hessians of this network: up to 4,096 parameters, if memory is free."""
    return 8 * MATRICES * net.parameter_count**2 <= room()


def block(net: MLP, given: Method | None = None) -> int:
    """How many starts are run together: as many as fit, up to :data:`BLOCK`."""
    if isinstance(given, NewtonCG) or (given is None and not dense(net)):
        return BLOCK
    return max(1, min(BLOCK, room() // (8 * MATRICES * net.parameter_count**2)))


def forecast(problem: Problem, starts: int) -> Cost:
    """What a search for minima will take."""
    net, samples = problem.net, problem.samples
    if dense(net):
        one = dense_cost(net.parameter_count, samples)
        together = min(starts, block(net)) * MATRICES * 8 * net.parameter_count**2
        return Cost(starts * STEPS * one.seconds, together)
    seconds = PRODUCTS * product_seconds(net.parameter_count, samples)
    return Cost(starts * seconds, KEPT_BYTES)


def without(net: MLP) -> str:
    """Says that no Hessian was built, and why."""
    return (
        f"matrix-free, without the dense Hessians of {net.parameter_count} parameters: eigenvalues were not "
        "counted"
    )


def large_outcome(number: int, stop: Stop, problem: Problem, tolerance: float) -> Finished:
    """What a run is worth that the driver left at a small gradient, where no Hessian is built."""
    found = Unbuilt(stop.point(problem), tolerance)

    def finished(status: Status, words: str) -> Finished:
        said = f"gradient {stop.gradient_norm:.1e}; {words}; {without(problem.net)}"
        return Finished(
            number, status, said, stop.iterations, stop.vector, stop.risk, stop.gradient_norm
        )

    if found.no_hessian:
        return finished(Status.STALLED, f"{found.no_hessian}; a way down need not show")
    if not found.critical:
        why = "an entry of it is large beside its terms: it is small only because they are"
        return finished(Status.STALLED, why)
    if found.near:
        return finished(Status.CONVERGED, f"a Newton step goes {found.distance:.1g} natural units")
    return finished(
        Status.STALLED,
        f"a Newton step goes {found.distance:.2g} natural units: no critical point is confirmed, and the "
        "minimum may lie at infinity, where a matrix-free search does not look",
    )
