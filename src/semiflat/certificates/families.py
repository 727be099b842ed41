"""Which parameters to hold fixed, because a symmetry of the risk moves them."""

from __future__ import annotations

from typing import Any

import torch

from semiflat.certificates.checker.balls import Network
from semiflat.evidence import OnData
from semiflat.points import Point

HeldFamily = dict[str, Any]


def symmetric_families(net: Network, point: Point) -> list[HeldFamily]:
    """The families of theory §3 that are known in advance, as a certificate lists them.

    With weight decay, which breaks the others, the shift of the output's biases that are not decayed.
    """
    shift = net.shift_invariant
    if net.decayed:
        free = shift and net.biases[-1] and not net.layer_decays[-1][1]
        return [{"family": "softmax bias shift"}] if free else []
    data = OnData(point.problem, point.params)
    families: list[HeldFamily] = []
    if shift:
        families.append({"family": "softmax shift"})
    columns = list(zip(*net.X, strict=True))
    constant = [j for j, column in enumerate(columns) if len(set(column)) == 1]
    constant = [j for j in constant if net.biases[0] or columns[j][0] == 0]
    families += [{"family": "constant input", "input": j} for j in constant]
    held: list[HeldFamily] = []
    for layer, activation in enumerate(point.problem.net.activations):
        if not activation.homogeneous:
            continue
        silent = data.dead[layer].tolist()
        below = data.dead[layer - 1] if layer else torch.zeros(net.widths[0], dtype=torch.bool)
        weights = point.problem.net.layer(point.params, layer)[:, : net.widths[layer]].abs()
        weights = weights.masked_fill(below, 0.0)
        if not layer:
            weights[:, constant] = 0.0
        for unit in range(net.widths[layer + 1]):
            at = {"layer": layer, "unit": unit}
            if silent[unit]:
                families.append({"family": "dead unit", **at})
            elif float(weights[unit].max()) > 0:
                held.append({"family": "scaling", **at, "input": int(weights[unit].argmax())})
    return families + held
