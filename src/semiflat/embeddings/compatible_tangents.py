"""The set of wide points of a general compatible embedding, to first order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from semiflat.embeddings.compatible_conditions import NULL, Floats, Groups, outer
from semiflat.errors import InputError
from semiflat.networks import MLP, Params, bias_key, weight_key

LARGEST = 4000
"""Multipliers and backward weights up to which tangents are found (a few seconds)."""


def tangents(
    groups: list[Groups],
    alpha: list[Floats],
    beta: list[Floats],
    null_biases: list[Floats],
    net: MLP,
    params: Params,
) -> Tensor:
    """Tangents of the set of wide points as α, β and null biases vary, (k, P_wide), spanning.

    The equations of Condition 1 are differentiated, and their kernel is mapped to the parameters.
    """
    widths = (net.inputs, *(len(g.index) for g in groups), net.outputs)
    layers = outer(groups, net.inputs, net.outputs)
    wide = net.with_hidden(widths[1:-1])
    starts = np.cumsum([0, *(a.size for a in alpha), *(len(b) for b in beta)])
    if starts[-1] > LARGEST:
        raise InputError(
            f"the tangents are found by dense algebra over {starts[-1]} multipliers and backward weights, "
            f"and {LARGEST} is the most that is tried; degrees_of_freedom() gives the formula"
        )
    equations: list[Floats] = []
    weights = [np.ones(net.inputs), *beta, np.ones(net.outputs)]
    for layer, matrix in enumerate(alpha):
        above, below = layers[layer + 1], layers[layer]
        numbers = starts[layer] + np.arange(matrix.size).reshape(matrix.shape)
        for i in range(matrix.shape[0]):
            for s in range(below.size):
                row = np.zeros(starts[-1])
                row[numbers[i, below.index == s]] = 1
                equations.append(row)
        for j in range(matrix.shape[1]) if layer else ():
            for k in range(above.size):
                row = np.zeros(starts[-1])
                chosen = above.index == k
                row[numbers[chosen, j]] = weights[layer + 1][chosen]
                if layer < len(groups):  # β above varies too
                    row[starts[len(alpha) + layer] + chosen.nonzero()[0]] += matrix[chosen, j]
                if below.copies[j]:
                    row[starts[len(alpha) + layer - 1] + j] -= 1
                equations.append(row)
    for layer, group in enumerate(groups):
        for place in (~group.copies).nonzero()[0]:  # null units have no β
            row = np.zeros(starts[-1])
            row[starts[len(alpha) + layer] + place] = 1
            equations.append(row)
    system = torch.from_numpy(np.array(equations))
    _, sizes, right = torch.linalg.svd(system, full_matrices=True)
    kernel = right[int((sizes > 1e-10 * sizes[0]).sum()) :]
    flat = torch.zeros((len(kernel), wide.parameter_count), dtype=torch.float64)
    parts = wide.unflatten(flat)
    for layer, matrix in enumerate(alpha):
        rows, columns = layers[layer + 1].index, layers[layer].index
        narrow = params[weight_key(layer)].double().numpy()
        value = np.where(
            np.outer(rows != NULL, columns != NULL),
            narrow[rows.clip(min=0)[:, None], columns.clip(min=0)],
            1.0,
        )
        change = kernel[:, starts[layer] : starts[layer + 1]].reshape(-1, *matrix.shape)
        parts[weight_key(layer)].copy_(change * torch.from_numpy(value))
        if net.biases[layer] and layer > 0:
            constant = _constants(net, groups, null_biases, layer - 1)
            parts[bias_key(layer)].sub_(change @ constant)
    found = [flat]
    for layer, group in enumerate(groups):
        if not net.biases[layer]:
            continue
        _, slope, _ = net.activations[layer].derivatives(torch.from_numpy(null_biases[layer]))
        for place, tilt in zip((~group.copies).nonzero()[0], slope.tolist(), strict=True):
            tangent = torch.zeros((1, wide.parameter_count), dtype=torch.float64)
            moved = wide.unflatten(tangent)
            moved[bias_key(layer)][0, place] = 1
            outgoing = torch.from_numpy(alpha[layer + 1][:, place].copy())
            moved[bias_key(layer + 1)][0] -= tilt * outgoing
            found.append(tangent)
    return torch.cat(found)


def _constants(net: MLP, groups: list[Groups], null_biases: list[Floats], layer: int) -> Tensor:
    """What the null units of a hidden layer hand on, 0 at copies."""
    found = torch.zeros(len(groups[layer].index), dtype=torch.float64)
    values = net.activations[layer].function(torch.from_numpy(null_biases[layer]))
    found[torch.from_numpy(~groups[layer].copies)] = values
    return found
