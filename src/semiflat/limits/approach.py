"""Finite networks near a limiting one."""

from __future__ import annotations

import math

import torch

from semiflat.limits.network import Form, LimitMLP
from semiflat.networks import Params, bias_key, weight_key
from semiflat.unit_surgery import with_layer


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
        scale: its sign only matters to linear units, and to several gates of one base.
        only: the (layer, unit) of the one limit to make finite, of gates their base's, which come back
            together; all by default.
        lean: the pre-activation around which a linear unit is linear. The limit does not depend on
            it, nor on the sign of ``scale``; how it is approached does.

    Returns:
        The architecture with what is left of limits, and the parameters.
    """
    forms = [list(row) for row in net.forms]
    out = {key: tensor.clone() for key, tensor in params.items()}
    for layer, row in enumerate(net.forms):
        activation = net.activations[layer]
        rows, away = net.layer(out, layer), net.layer(far, layer)
        V, upper = out[weight_key(layer + 1)], out.get(bias_key(layer + 1))
        for unit, form in enumerate(row):
            if form is Form.UNIT or only not in (None, (layer, net.head(layer, unit))):
                continue
            forms[layer][unit] = Form.UNIT
            if form is Form.STEP:
                rows[unit] += abs(scale) * away[unit]
            elif form is Form.GATE:
                base = net.base(layer, unit)
                c, a = V[:, base].clone(), V[:, unit] * scale
                if len(net.branch(layer, base)) == 2:  # a pair, symmetric about the base
                    middle, gap = rows[base].clone(), rows[unit] / scale
                    rows[base], rows[unit] = middle + gap / 2, middle - gap / 2
                    V[:, base], V[:, unit] = c / 2 + a, c / 2 - a
                else:
                    rows[unit] = rows[base] + rows[unit] / scale
                    V[:, base], V[:, unit] = c - a, a
            elif form is Form.TAIL:
                assert net.biases[layer]
                V[:, unit] *= abs(scale)
                rows[unit, -1] -= math.log(abs(scale))
                assert activation.tail is not None
                level, size, rate = activation.tail
                V[:, unit] /= size
                rows[unit] /= rate
                if level:
                    assert upper is not None
                    upper -= level * V[:, unit]
            else:
                assert upper is not None
                there = activation.derivatives(torch.tensor(lean, dtype=torch.float64))
                rows[unit] /= scale
                rows[unit, -1] += lean
                V[:, unit] *= scale / there[1]
                upper -= V[:, unit] * there[0]
        out = with_layer(net, out, layer, rows)
    return LimitMLP(net.finite, forms), out
