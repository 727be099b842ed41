"""Networks modulo the symmetries of their activations: one representative, and whether two are one."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from semiflat.errors import InputError
from semiflat.networks import MLP, Params, weight_key
from semiflat.points import Point, check_one
from semiflat.unit_surgery import chosen, may_reflect, reflected, with_layer

_EQUAL = 1e-9
"""Relative difference up to which two numbers count as equal when units are turned and sorted.

Networks that are one modulo symmetry agree to rounding, about 1e-15, so that is far enough above; two
unrelated weights as near as that are too rare to matter.
"""


def canonical_form(point: Point) -> Point:
    """The same function with hidden units in a standard order, sign and scale.

    Points that differ only by the symmetries of their network have the same canonical form, to
    rounding: order of the units of a layer; sign of a unit for odd activations (tanh, sin, identity),
    and for sigmoid where the layer above has a bias; positive scale for homogeneous ones (relu,
    leaky_relu, identity). See :func:`canonical`. With weight decay the scale, and the sign of a sigmoid
    unit, are no symmetries of the risk: the function is kept, the penalty is not.

    Args:
        point: a single point; an embedded one's parameters are built.

    Raises:
        InputError: for anything else.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 3, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(0))
    >>> turned = (sf.Reflect(0, 1) >> sf.Permute(0, [2, 0, 1]))(point)
    >>> one, other = canonical_form(point).params, canonical_form(turned).params
    >>> all(torch.allclose(one[key], other[key], rtol=1e-14, atol=1e-14) for key in one)
    True
    """
    check_one(point, "canonical_form")
    point.problem.check_finite("a canonical form")
    return Point(point.problem, canonical(point.problem.net, point.params))


def canonical(net: MLP, params: Params) -> Params:
    """One representative of all parameters that are the same modulo the activations' symmetries.

    Layer after layer from the bottom: incoming rows (bias included) of homogeneous units are brought
    to length 1; a unit that may be turned round is turned so that the first of its largest incoming
    weights is positive; and units are sorted by their incoming rows, the first differing entry
    deciding, in the last hidden layer then by their outgoing weights. Units with equal incoming rows
    below another hidden layer keep the order they have: :func:`semiflat.reduce` first where there may
    be any.

    Raises:
        InputError: for the parameters of a batch of networks.
    """
    if net.check_params(params):
        raise InputError("canonical takes the parameters of one network, not of a batch")
    for layer, activation in enumerate(net.activations):
        if activation.homogeneous:
            params = _to_unit_length(net, params, layer)
        if may_reflect(net, layer):
            turn = _first_largest(net.layer(params, layer)) < 0
            params = reflected(net, params, layer, turn)
        features = _descriptions(net, params, layer).to(torch.float64)
        params = chosen(net, params, layer, torch.from_numpy(_sorted_rows(features.numpy())))
    return params


def _first_largest(rows: Tensor) -> Tensor:
    """The first entry of each row that is as large as any, but for rounding."""
    sizes = rows.abs()
    near = sizes >= (1 - _EQUAL) * sizes.amax(1, keepdim=True)
    return rows.gather(1, near.int().argmax(1, keepdim=True))[:, 0]


def _sorted_rows(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """The order of the rows by their first entries that differ by more than rounding.

    >>> _sorted_rows(np.array([[1.0, 5.0], [1.0 + 1e-15, 2.0], [0.0, 9.0]])).tolist()
    [2, 1, 0]
    """
    rank = np.zeros(len(rows), dtype=np.int64)
    for column in rows.T:
        if len(rows) == rank.max() + 1:
            break
        order = np.lexsort((column, rank))
        slack = _EQUAL * max(1e-300, float(np.abs(column).max()))
        differ = (np.diff(column[order]) > slack) | (np.diff(rank[order]) > 0)
        rank[order] = np.concatenate([[0], np.cumsum(differ)])
    return np.argsort(rank, kind="stable")


def normalized(net: MLP, params: Params) -> Params:
    """The same function with the incoming weights of positively homogeneous units at length 1."""
    for layer, activation in enumerate(net.activations):
        if activation.homogeneous:
            params = _to_unit_length(net, params, layer)
    return params


def aligned(net: MLP, params: Params, like: Params) -> Params:
    """The same function with units permuted, and reflected where σ allows, to resemble ``like``."""
    for layer in range(len(net.hidden)):
        turnable = may_reflect(net, layer)
        here, there = _descriptions(net, params, layer), _descriptions(net, like, layer)
        straight = torch.cdist(there, here)
        mirrored = torch.cdist(there, -here) if turnable else straight + 1
        _, order = linear_sum_assignment(torch.minimum(straight, mirrored).numpy())
        places = torch.from_numpy(np.asarray(order))
        rows = torch.arange(len(places))
        params = chosen(net, params, layer, places)
        if turnable:
            turn = mirrored[rows, places] < straight[rows, places]
            params = reflected(net, params, layer, turn)
    return params


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


def _to_unit_length(net: MLP, params: Params, layer: int) -> Params:
    rows, above = net.layer(params, layer), weight_key(layer + 1)
    size = torch.linalg.vector_norm(rows, dim=-1)
    size = torch.where(size > 0, size, 1.0)
    return with_layer(net, params, layer, rows / size[:, None]) | {above: params[above] * size}
