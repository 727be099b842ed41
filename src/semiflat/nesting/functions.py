"""Critical functions: what critical points of any width compute on the data, and when two are one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semiflat.problem import Problem

SAME = 1e-5
"""Distance up to which two functions are one. Where the Hessian is singular a point is located to the root
of what its gradient is, or worse."""


def told_apart(problem: Problem, outputs: Tensor) -> Tensor:
    """Outputs without what the loss does not see: a shift of all, where it sees differences alone."""
    if problem.loss.shift_invariant:
        return outputs - outputs.mean(-1, keepdim=True)
    return outputs


def size_of(problem: Problem, outputs: Tensor) -> float:
    """What differences between functions are parts of: the targets' spread, or the outputs' where larger.

    Where outputs are logarithms of odds, 1 takes the place of the targets' spread.
    """
    spread = 1.0 if problem.loss.odds else float(problem.spread(problem.y.double()).max())
    own = told_apart(problem, outputs)
    if not spread:  # all targets are equal, and what is left of outputs beside them is rounding
        spread = float(problem.y.double().abs().max()) or 1.0
    return max(spread, float(own.std(0, correction=0).max()))


def distances(problem: Problem, outputs: Tensor, others: Sequence[Tensor]) -> Tensor:
    """How far a function lies from others on the data: (K,), in parts of :func:`size_of`.

    The root mean square of the difference over samples and outputs; weights of samples count.

    Args:
        outputs: (N, M).
        others: each (N, M).
    """
    if not others:
        return torch.zeros(0, dtype=torch.float64)
    apart = told_apart(problem, outputs - torch.stack(list(others)))
    squares = problem.mean(apart.square().mean(-1).mT)
    return squares.sqrt() / size_of(problem, outputs)


def same(problem: Problem, outputs: Tensor, others: Sequence[Tensor]) -> int | None:
    """Which of some functions this one is: the nearest, if it is within ``SAME``."""
    apart = distances(problem, outputs, others)
    if not len(apart):
        return None
    place = int(apart.argmin())
    return place if float(apart[place]) <= SAME else None
