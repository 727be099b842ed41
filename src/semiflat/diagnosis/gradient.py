"""What a gradient is made of, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from semiflat.curvature.gradient import flat_rows
from semiflat.evidence import OnData
from semiflat.points import Point, gradient
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class LayerGradient(Shown):
    """The gradient of one linear layer's weights and biases.

    Attributes:
        layer: the linear layer, from 0.
        largest: its largest entry in size, ``‖∇_l R‖∞``.
        share: of ``‖∇R‖²``, from 0 to 1: all layers' sum up to 1, or to 0 where the gradient is 0.
        part: the largest entry in parts of what it would be if its terms did not cancel. It is the measure
            that :func:`semiflat.judge` holds against its tolerance, and the units of data and weights do
            not matter to it.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> found = sf.diagnose(sf.Point(problem, problem.net.random_params(0)))
    >>> [each.layer for each in found.gradient], round(sum(each.share for each in found.gradient), 12)
    ([0, 1], 1.0)
    """

    layer: int
    largest: float
    share: float
    part: float


def by_layer(point: Point, data: OnData) -> tuple[LayerGradient, ...]:
    """The gradient of each linear layer of a plain point."""
    net, slope = point.problem.net, gradient(point)
    parts = slope.abs() / data.natural.largest.clamp(min=1e-300)
    # Squares of what is 1e-170 would be 0.
    scaled = slope / slope.abs().max().clamp(min=1e-300)
    whole = float(scaled.square().sum())
    found = []
    for layer in range(net.depth):
        rows = [
            torch.full((net.widths[k + 1], net.fan_in(k)), k == layer, dtype=torch.bool)
            for k in range(net.depth)
        ]
        own = torch.cat([flat_rows(net, k, each) for k, each in enumerate(rows)])
        share = float(scaled[own].square().sum()) / whole if whole > 0 else 0.0
        largest, part = float(slope[own].abs().max()), float(parts[own].max())
        found.append(LayerGradient(layer, largest, share, part))
    return tuple(found)
