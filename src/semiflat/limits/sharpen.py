"""Units whose incoming weights grow without end: the same network further on its way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from semiflat.limits.network import Form, LimitMLP
from semiflat.networks import Params, weight_key
from semiflat.problem import Problem
from semiflat.unit_surgery import with_rows

EDGE = 4.0
"""Size of a pre-activation up to which a sample is on the edge of a unit that grows sharp."""
FEW = 0.1
"""Part of the samples that may be there, for the unit to count as sharp."""
FURTHER = 3.0
"""Factor by which the incoming weights grow."""


def sharpened(
    problem: Problem, net: LimitMLP, params: Params, offsets: Sequence[Tensor]
) -> Params | None:
    """The network whose sharp units are sharper by :data:`FURTHER`, or None if there is no sharp unit.

    A unit with incoming weights ``s·a + b``, a at right angles to what is fed by the samples on its edge,
    tends to a step as s → ∞, or, where σ(z) ~ z far out and the outgoing weights shrink as 1/s, to a kink. The
    samples on its edge, fewer than its weights, go on seeing ``b``: the loss of the network that is best at
    s nears its limit as 1/s, and the minimum at 3s lies near the minimum at s with a thrice as long.
    Newton's steps alone would take the way in parts that what is on the edge allows.

    Args:
        offsets: see :class:`semiflat.limits.network.LimitProblem`.
    """
    out, h, any_sharp = {key: tensor.clone() for key, tensor in params.items()}, problem.X.mT, False
    for layer, row in enumerate(net.forms):
        activation = net.activations[layer]
        fed, z = net.through(params, h, layer)
        h = net.respond(layer, z + offsets[layer])[0]
        if not (activation.saturates or activation.bends):
            continue
        for unit, form in enumerate(row):
            if form is not Form.UNIT or len(net.branch(layer, unit)) > 1:
                continue
            there = z[unit]
            near = there.abs() < EDGE
            if not (
                float(there.min()) < -EDGE
                and float(there.max()) > EDGE
                and int(near.sum()) <= FEW * len(there)
            ):
                continue
            edge = [k for k in there.abs().argsort()[: net.fan_in(layer) - 1].tolist() if near[k]]
            weights = net.layer(params, layer)[unit]
            if edge:
                basis, sizes, _ = torch.linalg.svd(fed[:, edge], full_matrices=False)
                basis = basis[:, sizes > 1e-12 * sizes[0]]
                away = weights - basis @ (basis.mT @ weights)
            else:
                away = weights
            out = with_rows(net, out, layer, unit, weights + (FURTHER - 1) * away)
            if activation.bends:
                key = weight_key(layer + 1)
                out[key] = out[key].clone()
                out[key][:, unit] /= FURTHER
            any_sharp = True
    return out if any_sharp else None
