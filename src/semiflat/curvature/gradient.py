"""Risk, gradient and per-sample Jacobian in closed form."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from semiflat.curvature.engine import on_engine
from semiflat.curvature.penalty import add_penalty
from semiflat.curvature.sweep import Sweep, chunks, contract, in_groups, pull_back, sweep
from semiflat.memory import check_floats
from semiflat.networks import MLP, Params
from semiflat.problem import Problem


def risk_gradient(problem: Problem, params: Params) -> tuple[Tensor, Tensor]:
    """``R`` and ``∇R`` of each network in the batch, ``(*batch,)`` and ``(*batch, P)``."""
    found = on_engine(problem, params, "risk_gradient")
    found = found or in_groups(problem, params, 8 * sum(problem.net.widths), _risk_gradient)
    risk, gradient = found
    return risk, gradient


def _risk_gradient(problem: Problem, params: Params) -> tuple[Tensor, Tensor]:
    net = problem.net
    batch = net.check_params(params)
    risk = torch.zeros(batch, dtype=problem.dtype)
    parts = [
        torch.zeros((*batch, out, net.fan_in(layer)), dtype=problem.dtype)
        for layer, out in enumerate(net.widths[1:])
    ]
    for part in chunks(problem.samples, 8 * sum(net.widths) * math.prod(batch)):
        s = sweep(problem, params, part)
        risk += s.losses.sum(-1)
        for layer in range(net.depth):
            parts[layer] += contract(s.deltas[layer], s.inputs[layer])
    gradient = torch.cat([flat_rows(net, layer, rows) for layer, rows in enumerate(parts)], -1)
    add_penalty(problem, params, risk, gradient)
    return risk, gradient


def output_jacobian(problem: Problem, params: Params, samples: slice = slice(None)) -> Tensor:
    """``∂f_k(x_ν)/∂θ``, shape ``(*batch, n, M, P)``, for the problem's inputs in ``samples``."""
    batch = problem.net.check_params(params)
    rows = math.prod(batch) * len(range(*samples.indices(problem.samples))) * problem.net.outputs
    check_floats(
        f"the Jacobian of {rows} outputs in {problem.net.parameter_count} parameters",
        rows * problem.net.parameter_count,
        "take fewer samples or a narrower network",
        problem.dtype.itemsize,
    )
    return jacobian_of(problem.net, sweep(problem, params, samples))


def jacobian_of(net: MLP, s: Sweep) -> Tensor:
    """``∂f_k(x_ν)/∂θ`` of a sweep's samples, shape ``(*batch, n, M, P)``."""
    back = torch.eye(net.outputs, dtype=s.losses.dtype)[..., None]  # ∂f/∂z_l, from the top down
    back = back.expand(*s.losses.shape[:-1], net.outputs, net.outputs, s.losses.shape[-1])
    parts = []
    for layer in range(net.depth - 1, -1, -1):
        rows = back[..., None, :] * s.inputs[layer][..., None, None, :, :]
        parts.append(flat_rows(net, layer, rows.movedim(-1, -4)))
        if layer:
            back = s.weights[layer].mT[..., None, :, :] @ back
            first, cross = s.first[layer - 1], s.cross[layer - 1]
            back = pull_back(back.transpose(-3, -2), first, cross, axis=-3).transpose(-3, -2)
    return torch.cat(parts[::-1], dim=-1)


def flat_rows(net: MLP, layer: int, rows: Tensor) -> Tensor:
    """``(…, out, D)`` in the shape of ``[W_l, b_l]`` to the flat order, ``(…, out·D)``."""
    if not net.biases[layer]:
        return rows.flatten(-2)
    return torch.cat([rows[..., :-1].flatten(-2), rows[..., -1]], dim=-1)


def in_layer(net: MLP, layer: int, rows: Tensor) -> Tensor:
    """A direction of ``[W_l, b_l]`` alone, (…, out, D), as one of all parameters, (…, P)."""
    sizes = [net.widths[k + 1] * net.fan_in(k) for k in range(net.depth)]
    around = sum(sizes[:layer]), sum(sizes[layer + 1 :])
    return torch.nn.functional.pad(flat_rows(net, layer, rows), around)
