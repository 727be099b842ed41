"""From states of the last hidden layer to parameters (P21 Lemmas 3 and 4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.images import Image, Levels
from semiflat.networks import Params, bias_key, weight_key
from semiflat.paths.lemmas import Stage, State
from semiflat.paths.path import Curve
from semiflat.paths.wide_layer import WideLayer


class Steering:
    """The last hidden layer, steered through the well-conditioned layer below it.

    Args:
        wide: the wide layer, the second-last hidden one.
        params: where to start; its wide layer's columns span R^N.
        image: that of the last hidden layer's activation.
    """

    def __init__(self, wide: WideLayer, params: Params, image: Image) -> None:
        self.wide, self.image, self.params = wide, image, params
        self.columns = wide.columns(params)
        self.inverse = torch.linalg.pinv(self.columns)

    def state(self) -> State:
        """The state at the parameters so far."""
        net = self.wide.net
        top = net.layer(self.params, net.depth - 1)[0]
        width = net.widths[-2]
        bias = top[width] if net.biases[-1] else top.new_zeros(())
        return State(self.image.levels(self.wide.reached(self.params)), top[:width], bias)

    def run(self, stage: Stage) -> Curve:
        """The curve of parameters that makes a stage; the next one starts at its end."""
        curve = self._curve(stage)
        self.params = self.wide.net.unflatten(curve(torch.ones(1, dtype=torch.float64))[0])
        return curve

    def _curve(self, stage: Stage) -> Curve:
        base = self.params
        # As the stage itself has it, so that the curve starts at the base to the last bit.
        first = stage.at(torch.zeros(1, dtype=torch.float64))
        start = self.image.inverse(first.levels)
        return _Steered(
            self.wide, self.image, self.columns, self.inverse, base, stage, first, start
        )


@dataclass(frozen=True)
class _Steered:
    """The curve of parameters that makes a stage, from its first state and pre-activations on."""

    wide: WideLayer
    image: Image
    columns: Tensor
    inverse: Tensor
    base: Params
    stage: Stage
    first: State
    start: Tensor

    def __call__(self, s: Tensor) -> Tensor:
        net, base, state = self.wide.net, self.base, self.stage.at(s)
        change = self._rows(self.image.inverse(state.levels) - self.start)
        params = {key: p.expand(len(s), *p.shape) for key, p in base.items()}
        params = self.wide.with_outgoing(params, net.layer(base, self.wide.layer + 1) + change)
        top = state.weights - self.first.weights + base[weight_key(net.depth - 1)][0]
        params[weight_key(net.depth - 1)] = top[:, None, :]
        if net.biases[-1]:
            bias = state.bias - self.first.bias + base[bias_key(net.depth - 1)]
            params[bias_key(net.depth - 1)] = bias[:, None]
        return net.flatten(params)

    def _rows(self, change: Tensor) -> Tensor:
        """Rows (k, m, n + 1) that change the pre-activations by ``change`` (k, N, m)."""
        found = self.inverse @ change
        # Once more on what is left: then the error is that of the sums, whatever the conditioning.
        found = found + self.inverse @ (change - self.columns @ found)
        rows: Tensor = found.mT
        return rows


def silenced(levels: Levels) -> bool:
    """Whether a unit is so far out that its distance to an end of the image has underflowed."""
    return bool((levels.lower <= 0).any() or (levels.upper <= 0).any())
