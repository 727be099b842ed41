"""Finite networks near a limiting one."""

from __future__ import annotations

import math

import torch

from semiflat.limits.network import Form, LimitMLP
from semiflat.networks import Params, bias_key, weight_key


def approach(
    net: LimitMLP,
    params: Params,
    far: Params,
    scale: float,
    only: tuple[int, int] | None = None,
    lean: float = 0.0,
) -> tuple[LimitMLP, Params]:
    """The network at distance 1/``scale`` from the limit: its units are finite again.

    A gate becomes a pair of units at ``w ± b/(2·scale)`` with outgoing ``c/2 ± scale·a``, so that the
    function differs by O(scale⁻²); several gates of one base become copies of it at ``w + b/scale``
    with outgoing ``scale·a``, which the base pays for: O(scale⁻¹); a tail is shifted down its
    activation by ``log scale``, a linear unit shrunk by ``scale``: O(scale⁻¹), or less; a step's
    incoming weights become ``row + scale·far``.

    Args:
        far: shaped as the parameters, the directions of the steps' incoming weights.
        scale: its sign only matters to linear units.
        only: the (layer, unit) of the one limit to make finite; all by default.
        lean: the pre-activation around which a linear unit is linear. The limit does not depend on
            it, nor on the sign of ``scale``; how it is approached does.

    Returns:
        The architecture with what is left of limits, and the parameters.
    """
    forms = [list(row) for row in net.forms]
    out = {key: tensor.clone() for key, tensor in params.items()}
    for layer, row in enumerate(net.forms):
        activation = net.activations[layer]
        W, V = out[weight_key(layer)], out[weight_key(layer + 1)]
        b, upper = out.get(bias_key(layer)), out.get(bias_key(layer + 1))
        incoming = [W] if b is None else [W, b]
        for unit, form in enumerate(row):
            if form is Form.UNIT or (only is not None and only != (layer, unit)):
                continue
            forms[layer][unit] = Form.UNIT
            if form is Form.STEP:
                for key in (weight_key(layer), bias_key(layer)):
                    if key in out:
                        out[key][unit] += abs(scale) * far[key][unit]
            elif form is Form.GATE:
                base = net.base(layer, unit)
                c, a = V[:, base].clone(), V[:, unit] * scale
                if _gates(row, base) == 1:  # a pair, symmetric about the base
                    for tensor in incoming:
                        middle, gap = tensor[base].clone(), tensor[unit] / scale
                        tensor[base], tensor[unit] = middle + gap / 2, middle - gap / 2
                    V[:, base], V[:, unit] = c / 2 + a, c / 2 - a
                else:
                    for tensor in incoming:
                        tensor[unit] = tensor[base] + tensor[unit] / scale
                    V[:, base], V[:, unit] = c - a, a
            elif form is Form.TAIL:
                assert b is not None
                V[:, unit] *= abs(scale)
                b[unit] -= math.log(abs(scale))
                assert activation.tail is not None
                level, size, rate = activation.tail
                V[:, unit] /= size
                for tensor in incoming:
                    tensor[unit] /= rate
                if level:
                    assert upper is not None
                    upper -= level * V[:, unit]
            else:
                assert upper is not None
                there = activation.derivatives(torch.tensor(lean, dtype=torch.float64))
                for tensor in incoming:
                    tensor[unit] /= scale
                incoming[-1][unit] += lean
                V[:, unit] *= scale / there[1]
                upper -= V[:, unit] * there[0]
    return LimitMLP(net.finite, forms), out


def _gates(row: tuple[Form, ...], base: int) -> int:
    after = row[base + 1 :]
    return next((k for k, form in enumerate(after) if form is not Form.GATE), len(after))
