"""Where and why the driver left a run, in a finite network or in a limiting one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.evidence import Evidence
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.search.driver import Options, Runs


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

    @property
    def done(self) -> bool:
        """Whether more steps would change nothing to speak of: only more units at infinity can."""
        return self.small or self.stuck or self.before is not None

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


def not_critical(evidence: Evidence) -> str:
    """Why a small gradient is not that of a critical point; empty if it is."""
    if not evidence.critical:
        size = evidence.gradient.abs()[evidence.worst]
        part = float(size / evidence.on_data.natural.largest[evidence.worst].clamp(min=1e-300))
        return (
            f"an entry of it is {part:.1e} of what it would be if its terms did not cancel: it is small only "
            "because residuals, data or slopes are"
        )
    return "" if evidence.near else evidence.how_far
