"""What units can be fed with and hand on, whatever the input: interval bounds layer by layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.networks import bias_key, weight_key
from semiflat.reduction.state import State


def largest_input(state: State, layer: int) -> Tensor:
    """An upper bound on each unit's pre-activation over all inputs, (n,); inf where there is none.

    >>> import semiflat as sf
    >>> net = sf.MLP([1, 1, 1, 1], ["sigmoid", "relu"])
    >>> params = net.unflatten(torch.tensor([1.0, 0.0, 2.0, -3.0, 1.0, 0.0]).double())
    >>> round(float(largest_input(State.given(net, params), 1)), 6)
    -1.0
    """
    low = torch.full((state.net.inputs,), -math.inf, dtype=torch.float64)
    high = -low
    for below in range(layer + 1):
        key = weight_key(below)
        weight = torch.where(state.is_zero(key), 0.0, state.params[key])
        offset: Tensor | float = 0.0
        if state.net.biases[below]:
            offset = state.params[bias_key(below)]
        least, most = _product(weight, low, high) + offset, _product(weight, high, low) + offset
        slack = state.precision * _product(state.sizes[key], *(2 * [low.abs().maximum(high.abs())]))
        if state.net.biases[below]:
            slack = slack + state.precision * state.sizes[bias_key(below)]
        # An unbounded slack belongs to weights that are 0; the bounds say inf where it matters.
        slack = torch.where(slack.isfinite(), slack, 0.0)
        least, most = least - slack, most + slack
        if below < layer:
            low, high = state.net.activations[below].between(least, most)
    return most


def _product(weight: Tensor, where_below: Tensor, where_above: Tensor) -> Tensor:
    """Σ_j of w_ij times one bound for w < 0 … the other for w > 0; 0 times an infinity is 0."""
    terms = torch.where(weight > 0, weight * where_below, weight * where_above)
    return torch.where(weight == 0, 0.0, terms).sum(1)
