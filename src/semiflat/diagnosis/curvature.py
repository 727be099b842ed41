"""Curvatures that are surely negative, and what a step along the lowest takes off the loss."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from semiflat.curvature.products import hessian_products
from semiflat.evidence import ENOUGH, Evidence, Spectrum, Unbuilt, roundings, symmetric_spectrum
from semiflat.networks import Params
from semiflat.points import Point, gradient
from semiflat.records.shown import Shown
from semiflat.verdicts.lanczos import lowest_ritz

KRYLOV = 150
"""Lanczos steps in which negative curvature is looked for where no Hessian is built."""
ROOM = 2**29
"""Bytes that these steps may take; there are fewer of them where they would take more."""
WORK, FEWEST = 2e12, 20
"""Floating-point operations that they may take, and how many there are at least, as far as there is room."""
LENGTHS = (-6.0, 2.0, 65)
"""Powers of ten, and how many, of the steps that are tried along a direction, in lengths of the parameters."""


@dataclass(frozen=True)
class NegativeCurvature(Shown):
    """The negative curvature at a point that is beyond its noise.

    Attributes:
        count: eigenvalues of the Hessian that are surely negative: at least so many are.
        whole: whether all eigenvalues were looked at (a dense Hessian); else they are those that Lanczos
            steps showed, and there may be more.
        lowest: the curvature ``vᵀ∇²R v`` along ``direction``; the lowest eigenvalue is no higher, and with a
            dense Hessian it is that, unless small parameters hide it.
        floor: the noise of ``lowest``; :data:`~semiflat.evidence.ENOUGH` times this is asked for.
        direction: of unit length, params-shaped, turned so that the loss does not rise along it at first.
        step: the length of the best step along it that was tried.
        drop: what this step takes off the loss; 0 if none that was tried lowers it.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> found = sf.diagnose(sf.Replicate(0, 0, ["1/4", "3/4"])(point)).curvature
    >>> found.count, found.lowest < -100 * found.floor, found.drop > 0
    (1, True, True)
    """

    count: int
    whole: bool
    lowest: float
    floor: float
    direction: Params = field(repr=False)
    step: float
    drop: float


def of_evidence(point: Point, evidence: Evidence) -> NegativeCurvature | None:
    """By a dense Hessian; None if no eigenvalue is surely negative."""
    spectrum = evidence.spectrum
    count = _surely(spectrum)
    if not count:
        return None
    plain = evidence.plain_spectrum
    if float(plain.values[0]) < -ENOUGH * float(plain.floor[0]):
        way, low, floor = plain.vectors[:, 0], float(plain.values[0]), float(plain.floor[0])
    else:
        way, low = evidence.direction(spectrum.vectors[:, 0])
        floor = float(spectrum.floor[0] / spectrum.values[0].abs()) * abs(low)
    way, step, drop = down(point, way)
    return NegativeCurvature(count, True, low, floor, point.problem.net.unflatten(way), step, drop)


def of_products(point: Point, found: Unbuilt) -> NegativeCurvature | None:
    """By Lanczos steps, whose Ritz values lie no lower than as many eigenvalues (Cauchy's interlacing)."""
    problem, net = point.problem, point.problem.net
    vector = net.flatten(point.params)
    ritz = lowest_ritz(
        found.products.times, len(vector), krylov_steps(len(vector), problem.samples)
    )
    basis = torch.linalg.qr(ritz.negative)[0]
    if not basis.shape[1]:
        return None

    def within(site: Tensor) -> Tensor:
        turned: Tensor = hessian_products(problem, net.unflatten(site), basis.mT.contiguous())
        inside: Tensor = basis.mT @ turned.mT
        return inside

    size = max(abs(ritz.value), abs(ritz.highest))
    spectrum = symmetric_spectrum([within(site) for site in (vector, *roundings(vector))], size)
    count = _surely(spectrum)
    if not count:
        return None
    way, step, drop = down(point, basis @ spectrum.vectors[:, 0])
    low, floor = float(spectrum.values[0]), float(spectrum.floor[0])
    return NegativeCurvature(count, False, low, floor, net.unflatten(way), step, drop)


def krylov_steps(parameters: int, samples: int) -> int:
    """How many Lanczos steps there is room for, and time."""
    # Each is a product, and each of their negative directions is multiplied at five places more.
    times = int(WORK // (6 * 16 * parameters * samples))
    return max(2, min(KRYLOV, ROOM // (8 * parameters), max(FEWEST, times)))


def _surely(spectrum: Spectrum) -> int:
    return int((spectrum.values < -ENOUGH * spectrum.floor).sum())


def down(point: Point, direction: Tensor) -> tuple[Tensor, float, float]:
    """The direction (P,) with its better sign, the best step along it that is tried, and its drop.

    It goes to the side to which the gradient does not rise; at a critical point that side may be either.
    """
    problem, net = point.problem, point.problem.net
    vector = net.flatten(point.params)
    slope = float(gradient(point) @ direction)
    size = float(torch.linalg.vector_norm(vector))
    lengths = torch.logspace(*LENGTHS, dtype=torch.float64) * (size if size > 0 else 1.0)

    def best(way: Tensor) -> tuple[float, float]:
        risks = [
            float(problem.risk(net.unflatten(vector + length * way))) for length in lengths.tolist()
        ]
        fall = point.loss - torch.tensor(risks, dtype=torch.float64).nan_to_num(nan=torch.inf)
        place = int(fall.argmax())
        return (float(lengths[place]), float(fall[place])) if fall[place] > 0 else (0.0, 0.0)

    way = -direction if slope > 0 else direction
    step, drop = best(way)
    # Where rounding has as much to say as the slope, either side may be meant.
    other_step, other = best(-way) if not slope or not drop else (0.0, 0.0)
    return (-way, other_step, other) if other > drop else (way, step, drop)
