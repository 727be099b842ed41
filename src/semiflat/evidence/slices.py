"""The loss on straight lines and planes through a point, as many places at a time as memory has room for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from semiflat.curvature.sweep import chunks
from semiflat.networks import Params
from semiflat.problem import Problem

STEPS = torch.logspace(-4, 1.5, 45, dtype=torch.float64)
"""How far along a direction the loss is looked at first."""


def risks(
    problem: Problem,
    at: Callable[[slice], Tensor],
    count: int,
    function: Callable[[Params], Tensor] | None = None,
) -> Tensor:
    """The risk at many places, (count,): ``at`` builds the flat parameters (k, P) of a part of them.

    Args:
        function: what to compute instead of the risk, (count, …).
    """
    net, function = problem.net, function or problem.risk
    size = net.parameter_count + problem.samples * max(net.widths)
    parts = [function(net.unflatten(at(part))) for part in chunks(count, 2 * size)]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=problem.dtype)


def on_line(problem: Problem, start: Tensor, direction: Tensor, t: Tensor) -> Tensor:
    """The risk at ``start + t direction`` for each t (k,)."""
    return risks(problem, lambda part: start + t[part, None] * direction, len(t))


def on_plane(
    problem: Problem, start: Tensor, one: Tensor, two: Tensor, s: Tensor, t: Tensor
) -> Tensor:
    """The risk at ``start + s one + t two`` for each s (k,) and t (m,), as (m, k)."""
    ss, ts = s.repeat(len(t)), t.repeat_interleave(len(s))
    found = risks(
        problem, lambda part: start + ss[part, None] * one + ts[part, None] * two, len(ss)
    )
    return found.reshape(len(t), len(s))


def both_ways(problem: Problem, start: Tensor, direction: Tensor) -> tuple[Tensor, Tensor]:
    """Steps from small to large in both senses of a direction of unit length, and the loss at each.

    A loss that is not finite is given as infinite.
    """
    steps = torch.cat([-STEPS.flip(0), torch.zeros(1, dtype=torch.float64), STEPS])
    losses = on_line(problem, start, direction, steps.to(start.dtype))
    return steps, torch.where(torch.isfinite(losses), losses, torch.inf)


def seen_within(steps: Tensor, losses: Tensor) -> float:
    """How far to look along a line so that its shape is seen, from what :func:`both_ways` gives.

    Half as far again as the lowest loss, if it is clearly lower than at the point; else as far as the loss
    takes to double, or to rise by a twentieth of what it rises by within a unit of length.
    """
    middle = len(steps) // 2
    here = float(losses[middle])
    finite = losses[torch.isfinite(losses)]
    rise = float((losses[(steps.abs() <= 1) & torch.isfinite(losses)] - here).max())
    fall = here - float(finite.min())
    if fall > 1e-3 * rise and fall > 1e-12 * abs(here):
        return 1.5 * abs(float(steps[losses.argmin()]))
    enough = losses - here > max(abs(here), 0.05 * rise, 1e-300)
    return float(steps[enough].abs().min()) if bool(enough.any()) else float(steps[-1])
