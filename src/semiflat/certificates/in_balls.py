"""What of a problem the checker can evaluate in balls."""

from __future__ import annotations

from collections.abc import Collection

from semiflat.certificates.checker.balls import ACTIVATIONS, LOSSES
from semiflat.problem import Problem


def without_balls(problem: Problem) -> str:
    """What cannot be evaluated in balls, and what can; empty if all of it can.

    The checker knows functions by their names. One of yours that has the name of another is not that one.
    """
    net = problem.net
    if not all(bool(net.plain_units(layer).all()) for layer in range(len(net.hidden))):
        return "units at infinity cannot be evaluated in balls: what is said of them is measured"
    for each in net.activations:
        if not (each.known and each.name in ACTIVATIONS):
            return _refusal("activation", each.name, ACTIVATIONS)
    if not (problem.loss.known and problem.loss.name in LOSSES):
        return _refusal("loss", problem.loss.name, LOSSES)
    return ""


def _refusal(what: str, name: str, known: Collection[str]) -> str:
    return (
        f"{what} {name!r} cannot be evaluated in balls; known: {', '.join(known)}. Another one needs its "
        "function and two derivatives in semiflat.certificates.checker.balls"
    )
