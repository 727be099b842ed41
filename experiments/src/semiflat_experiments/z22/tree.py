"""Z22 Fig. 4.4(c): the critical functions of narrow networks, and what they are in wider ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import semiflat as sf
from semiflat_experiments.z22.training import Units, curve

SAME = 1e-6
"""Outputs that differ by less than this part of their spread are one critical function."""


ROUNDING = 1e-20
"""Risks below it are those of exact fits, up to the rounding of the data."""


@dataclass(frozen=True)
class CriticalFunction:
    """A critical function, at the narrowest width that a search found it at.

    Attributes:
        width: that width; 0 for the constant.
        point: a critical point with it; of width 1 for the constant.
        outputs: on the data, (N,).
    """

    width: int
    point: sf.Point
    outputs: Tensor

    def distance(self, outputs: Tensor) -> Tensor:
        """Root mean square of the difference over that of the data about their mean; one each row."""
        spread = self.point.problem.y.std(correction=0)
        return (outputs - self.outputs).square().mean(-1).sqrt() / spread


def critical_functions(
    units: Units, widths: Sequence[int], starts: int, saddles: int
) -> list[CriticalFunction]:
    """The constant, and what searches for minima, and for points of any index, find at each width.

    Points with the outputs of a narrower width's are that one, embedded, and left out; so are, of points
    with the same outputs, all but one. Limits at infinity are no critical points.

    Args:
        starts, saddles: starts of the searches for minima and for points of any index, at each width.

    Returns:
        By width, and there by loss.
    """
    found = [_constant(units)]
    for width in widths:
        problem = curve(units, sf.MLP([1, width, 1], "tanh"))
        points = list(sf.find_critical_points(problem, starts=starts, seed=0, processes=1))
        if saddles:
            points += sf.find_critical_points(
                problem, starts=saddles, seed=0, kind="any", processes=1
            )
        for point in sorted(points, key=lambda point: float(point.loss)):
            outputs = problem.net.forward(point.params, problem.X)[:, 0]
            if all(float(known.distance(outputs)) > SAME for known in found):
                found.append(CriticalFunction(width, point, outputs))
    return found


def _constant(units: Units) -> CriticalFunction:
    """The mean of the data: a null unit and the output's bias."""
    problem = curve(units, sf.MLP([1, 1, 1], "tanh"))
    params = problem.net.unflatten(torch.zeros(problem.net.parameter_count, dtype=torch.float64))
    params["2.bias"] = problem.y.mean(0)
    point = sf.Point(problem, params)
    return CriticalFunction(0, point, problem.net.forward(point.params, problem.X)[:, 0])


def best(functions: Sequence[CriticalFunction], width: int) -> CriticalFunction | None:
    """That of least loss among those of a width, None if there are none."""
    mine = [each for each in functions if each.width == width]
    return min(mine, key=lambda each: float(each.point.loss), default=None)


def nearest(functions: Sequence[CriticalFunction], outputs: Tensor) -> int:
    """The place of the nearest function."""
    return int(torch.stack([each.distance(outputs) for each in functions]).argmin())


def embedded(function: CriticalFunction, wide: int) -> list[dict[str, Any]]:
    """What the function's point is one unit wider, and in a network of ``wide`` units.

    Every unit is split with shares (1/2, 1/2) and (2, −1), and a null unit is added; at ``wide`` units the
    shares are all equal, or all equal but for one of −1, and all added units are null ones.
    """
    point, width = function.point, function.point.problem.net.widths[1]
    steps: list[tuple[str, sf.Embedding]] = []
    if function.width == 0:
        steps += [("null unit", sf.NullUnits(0, [0] * count)) for count in (1, wide - 1)]
        return [_judged(name, point, step) for name, step in steps]
    copies = wide - width + 1
    uneven = ["-1", *[f"2/{copies - 1}"] * (copies - 1)]
    for unit in range(width):
        steps += [
            ("split inside", sf.Replicate(0, unit, ["1/2", "1/2"])),
            ("split outside", sf.Replicate(0, unit, [2, -1])),
            ("split inside", sf.Replicate.uniform(0, unit, copies)),
            ("split outside", sf.Replicate(0, unit, uneven)),
        ]
    steps += [("null unit", sf.NullUnits(0, [0] * count)) for count in (1, wide - width)]
    return [_judged(name, point, step) for name, step in steps]


def _judged(name: str, point: sf.Point, step: sf.Embedding) -> dict[str, Any]:
    placed = step(point)
    verdict = _verdict(placed)
    inertia = None if verdict.inertia is None else list(verdict.inertia)
    return {
        "how": name,
        "width": placed.problem.net.widths[1],
        "kind": verdict.kind.label,
        "certainty": verdict.certainty.value,
        "inertia": inertia,
        "gradient": float(placed.materialize().gradient_norm),
    }


def _verdict(point: sf.Point) -> sf.Verdict:
    # A proof is about the data as they are stored: three units miss them by their rounding, and a proof
    # would be one about that.
    return sf.judge(point, proof=float(point.loss) > ROUNDING)


def described(function: CriticalFunction, wide: int) -> dict[str, Any]:
    """A critical function as plain values: loss, verdict at its own width, verdicts when embedded."""
    own = _verdict(function.point)
    return {
        "width": function.width,
        "loss": float(function.point.loss),
        "kind": own.kind.label,
        "certainty": own.certainty.value,
        "embedded": embedded(function, wide),
    }
