"""Whether two networks are one modulo the symmetries of their activations."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from semiflat.networks import MLP, Params, bias_key, weight_key


def normalized(net: MLP, params: Params) -> Params:
    """The same function with the incoming weights of positively homogeneous units at length 1."""
    out = {key: tensor.clone() for key, tensor in params.items()}
    for layer, activation in enumerate(net.activations):
        if activation.homogeneous:
            size = torch.linalg.vector_norm(net.layer(out, layer), dim=-1)
            size = torch.where(size > 0, size, 1.0)
            out[weight_key(layer)] /= size[:, None]
            if net.biases[layer]:
                out[bias_key(layer)] /= size
            out[weight_key(layer + 1)] *= size
    return out


def aligned(net: MLP, params: Params, like: Params) -> Params:
    """The same function with units permuted, and reflected where σ allows, to resemble ``like``."""
    out = {key: tensor.clone() for key, tensor in params.items()}
    for layer, activation in enumerate(net.activations):
        constant = activation.reflection
        may_reflect = constant == 0 or (constant is not None and net.biases[layer + 1])
        here, there = _descriptions(net, out, layer), _descriptions(net, like, layer)
        straight = torch.cdist(there, here)
        mirrored = torch.cdist(there, -here) if may_reflect else straight + 1
        _, order = linear_sum_assignment(torch.minimum(straight, mirrored).numpy())
        places = torch.from_numpy(np.asarray(order))
        rows = torch.arange(len(places))
        reflect = mirrored[rows, places] < straight[rows, places]
        _permute(net, out, layer, places)
        if constant is not None:
            _reflect(net, out, layer, reflect, constant)
    return out


def same_network(net: MLP, one: Params, other: Params, tolerance: float = 1e-4) -> bool:
    """Whether two parameter sets agree modulo permutation, reflection and positive scaling.

    Args:
        tolerance: largest difference of a parameter, relative to the largest one, at least 1.

    >>> net = MLP([1, 2, 1], "tanh")
    >>> params = net.random_params(0)
    >>> swapped = {"0.weight": -params["0.weight"].flip(0), "0.bias": -params["0.bias"].flip(0),
    ...            "2.weight": -params["2.weight"].flip(1), "2.bias": params["2.bias"]}
    >>> same_network(net, params, swapped)
    True
    """
    one, other = normalized(net, one), normalized(net, other)
    near = aligned(net, other, one)
    scale = max(1.0, *(float(tensor.abs().max()) for tensor in one.values()))
    return all(bool((one[k] - near[k]).abs().max() <= tolerance * scale) for k in one)


def _descriptions(net: MLP, params: Params, layer: int) -> Tensor:
    """What tells a layer's units apart, odd under reflection: incoming and, at the top, outgoing."""
    rows = net.layer(params, layer)
    if layer + 1 == len(net.hidden):
        rows = torch.cat([rows, params[weight_key(layer + 1)].mT], dim=1)
    return rows


def _permute(net: MLP, params: Params, layer: int, order: Tensor) -> None:
    params[weight_key(layer)] = params[weight_key(layer)][order]
    if net.biases[layer]:
        params[bias_key(layer)] = params[bias_key(layer)][order]
    params[weight_key(layer + 1)] = params[weight_key(layer + 1)][:, order]


def _reflect(net: MLP, params: Params, layer: int, which: Tensor, constant: float) -> None:
    """σ(z) = c − σ(−z): turn the chosen units round and pay c to the bias above."""
    sign = torch.where(which, -1.0, 1.0).to(torch.float64)
    above = weight_key(layer + 1)
    if constant:
        params[bias_key(layer + 1)] = params[bias_key(layer + 1)] + constant * params[above][
            :, which
        ].sum(1)
    params[weight_key(layer)] = params[weight_key(layer)] * sign[:, None]
    if net.biases[layer]:
        params[bias_key(layer)] = params[bias_key(layer)] * sign
    params[above] = params[above] * sign
