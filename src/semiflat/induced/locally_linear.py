"""Networks some of whose units are linear near θ: no local minimum lies above a linear model (K19 Thm 4)."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from semiflat.curvature.gradient import in_layer
from semiflat.errors import InputError
from semiflat.evidence import OnData, first_kink, kinks
from semiflat.induced.basis import check_convex, check_modelled
from semiflat.induced.features import NetworkFeatures
from semiflat.induced.linear_model import AgainstLinear, LinearMinimum, linear_minimum, spans
from semiflat.networks import Params, weight_key
from semiflat.points import Point

SPAN_ENTRIES = 2**25


@dataclass(frozen=True)
class LocallyLinearModel(AgainstLinear):
    """A network against the linear model on its layers from ``depth`` up (K19 Thm 4).

    Layers here are K19's: 0 is the input, l the l-th hidden layer, H the last.

    Attributes:
        loss: L(θ).
        linear: J^(l), the units of each hidden layer that are the identity near θ and feed, in the layer
            above, none but such units; units count from 0.
        depth: t; the model is linear in ``h^(t), …, h^(H)``, with a constant where there are biases.
        smallest: the smallest t for which |J^(l)| ≥ d_y for all l > t.
        minimum: the linear model's infimum, its noise and bracket.
        perturbed: number of points θ + εS′ of the proof whose features span the model.
        outside: the largest part of a column of the model outside those features; None if not checked.
        refuted: whether θ is no local minimum: L(θ) lies above the infimum beyond doubt.
        reason: one sentence.

    >>> import semiflat as sf
    >>> X, y = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [1.0, 2.0, 0.0]
    >>> problem = sf.Problem(sf.MLP([2, 2, 1], "identity"), X, y)
    >>> model = sf.locally_linear_model(sf.Point(problem, problem.net.random_params(0)))
    >>> model.linear, model.depth, model.smallest
    (((0, 1),), 0, 0)
    >>> model.loss > model.minimum.infimum
    True
    """

    loss: float
    linear: tuple[tuple[int, ...], ...]
    depth: int
    smallest: int
    minimum: LinearMinimum
    perturbed: int
    outside: float | None
    refuted: bool
    reason: str
    directions: tuple[Params, ...] = field(repr=False)


def locally_linear_model(
    point: Point, depth: int | None = None, *, convex: bool = False
) -> LocallyLinearModel:
    """Whether a point can be a local minimum, by the units that are linear near it (K19 Thm 4).

    In a deep linear network no narrower than its output, all units are, so that every local minimum
    reaches the linear model on the input, which is the global minimum.

    Args:
        point: one point, without weight decay.
        depth: t, from ``smallest`` up to the number of hidden layers; the smallest if not given.
        convex: vouch for a loss given as a function.

    Raises:
        InputError: for a :class:`PointBatch`, weight decay, a loss not known to be convex, or a depth for which
            the layers above have too few linear units.

    >>> import semiflat as sf
    >>> X, y = [[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [1.0, 2.0, 0.0]
    >>> problem = sf.Problem(sf.MLP([2, 2, 1], "identity"), X, y)
    >>> zero = sf.Point(problem, {k: 0 * t for k, t in problem.net.random_params(0).items()})
    >>> found = locally_linear_model(zero)
    >>> found.linear, found.depth, found.refuted
    (((0, 1),), 0, True)
    """
    check_modelled(point)
    problem, net = point.problem, point.problem.net
    check_convex(problem.loss, convex)
    problem.check_outputs_alone(
        "local minima are not those of the data's risk, of which K19 Thm 4 speaks"
    )
    data = OnData(problem, point.params)
    linear = linear_units(data)
    hidden = len(net.hidden)
    smallest = hidden
    while smallest > 0 and len(linear[smallest - 1]) >= net.outputs:
        smallest -= 1
    chosen = smallest if depth is None else depth
    if type(chosen) is not int or not smallest <= chosen <= hidden:
        raise InputError(
            f"depth {depth!r} is out of range: with {[len(units) for units in linear]} linear units and "
            f"{net.outputs} output(s), K19 Thm 4 holds from depth {smallest} to {hidden}"
        )
    columns = _columns(data, chosen)
    here = NetworkFeatures(problem, point.params)
    minimum = linear_minimum(data.outputs, columns, problem.loss, problem.y, here.moved)
    kink = first_kink(kinks(data))
    steps = _perturbations(data, linear, chosen)
    rows = problem.samples * net.outputs
    outside = None
    if rows * net.parameter_count * (1 + len(steps)) <= SPAN_ENTRIES:
        outside = spans(_features(point, steps), columns, net.outputs)
    refuted = minimum.below and kink is None
    return LocallyLinearModel(
        float(point.loss),
        tuple(tuple(units) for units in linear),
        chosen,
        smallest,
        minimum,
        1 + len(steps),
        outside,
        refuted,
        _reason(minimum, chosen, kink),
        tuple(net.unflatten(step) for step in steps),
    )


def _reason(minimum: LinearMinimum, depth: int, kink: tuple[int, int, int] | None) -> str:
    if not minimum.below:
        return "not refuted: L(θ) is as low as the linear model, up to noise"
    if kink is not None:
        layer, unit, samples = kink
        return (
            f"not refuted: unit {unit} of hidden layer {layer} is at its kink on {samples} sample(s), and K19 "
            "Thm 4 speaks of points that are differentiable nearby"
        )
    return (
        f"no local minimum: L(θ) lies {minimum.gap:.3g} above the linear model on layers {depth} and up "
        f"(noise {minimum.noise:.1g}; K19 Thm 4)"
    )


def linear_units(data: OnData) -> list[list[int]]:
    """The largest sets J^(l) for K19's conditions 1–3, from the top down: units of each hidden layer.

    A larger set above only allows a larger one below, so taking all one can at each layer is best.
    """
    net = data.net
    found: list[list[int]] = []
    for layer in range(len(net.hidden) - 1, -1, -1):
        slopes, z = net.activations[layer].slopes, data.pre[layer]
        if slopes is None:
            identity = torch.zeros(z.shape[1], dtype=torch.bool)
        elif slopes == (1.0, 1.0):
            identity = torch.ones(z.shape[1], dtype=torch.bool)
        else:
            identity = (z > 0).all(0)
        if found:
            others = torch.ones(net.hidden[layer + 1], dtype=torch.bool)
            others[found[-1]] = False
            identity &= (data.params[weight_key(layer + 1)][others] == 0).all(0)
        found.append(identity.nonzero().flatten().tolist())
    return found[::-1]


def _columns(data: OnData, depth: int) -> Tensor:
    """``h^(t), …, h^(H)`` side by side, and a 1 where a layer above has a bias."""
    net = data.net
    widths, biases = net.widths, net.biases
    parts = [data.inputs[k].values[:, : widths[k]] for k in range(depth, net.depth)]
    if any(biases[depth:]):
        parts.append(torch.ones((len(parts[0]), 1), dtype=parts[0].dtype))
    return torch.cat(parts, dim=1)


def _perturbations(data: OnData, linear: list[list[int]], depth: int) -> list[Tensor]:
    """S′ of K19's proof (§A.5): flat steps that keep the outputs and uncover ``h^(l)`` for l ≥ t.

    Where ``A^(H+1) ⋯ A^(l+2)`` loses rank, A^(l′) moves by ``a_{l′} a_{l′−1}ᵀ`` for l + 2 ≤ l′ ≤ l* − 2 and
    [W, b] of layer l + 1 by ``a_{l+1} e_kᵀ``, each on or off. A^(l) is the block of W^(l) between all of
    J^(l) and J^(l−1), not the d_y × d_y block of the paper: that one is wrong where J has more units.
    """
    net, steps = data.net, []
    top = net.depth  # K19's H + 1
    sets = [[], *linear, list(range(net.outputs))]
    weights = [data.params[weight_key(k)] for k in range(net.depth)]  # W^(k+1)
    above: list[Tensor] = [torch.eye(net.outputs, dtype=torch.float64)]  # A^(H+1) ⋯ A^(l), l down
    for level in range(top, depth + 1, -1):
        block = weights[level - 1][sets[level]][:, sets[level - 1]]
        above.append(above[-1] @ block)
    products = {top + 1 - k: each for k, each in enumerate(above)}  # by its lowest factor
    for level in range(depth, top - 1):
        if _rank(products[level + 2]) >= net.outputs:
            continue
        star = min(k for k in range(level + 3, top + 2) if _rank(products[k]) >= net.outputs)
        null = {k: _null_vector(products[k + 1]) for k in range(level + 1, star - 1)}
        chain = []
        for k in range(level + 2, star - 1):
            move = torch.zeros((net.widths[k], net.fan_in(k - 1)), dtype=torch.float64)
            move[torch.tensor(sets[k])[:, None], torch.tensor(sets[k - 1])] = torch.outer(
                null[k], null[k - 1]
            )
            chain.append(in_layer(net, k - 1, move))
        for entry in range(net.fan_in(level)):
            move = torch.zeros((net.widths[level + 1], net.fan_in(level)), dtype=torch.float64)
            move[sets[level + 1], entry] = null[level + 1]
            low = in_layer(net, level, move)
            for on in product((0.0, 1.0), repeat=len(chain)):
                fixed = sum((o * step for o, step in zip(on, chain, strict=True)), 0 * low)
                steps.append(low + fixed)
                if any(on) and entry == 0:
                    steps.append(fixed)
    size = _short_enough(data, steps)
    return [size * step for step in steps]


def _rank(matrix: Tensor) -> int:
    sizes = torch.linalg.svdvals(matrix)
    return int((sizes > 1e-10 * max(1.0, float(sizes[0]))).sum()) if len(sizes) else 0


def _null_vector(matrix: Tensor) -> Tensor:
    vector: Tensor = torch.linalg.svd(matrix, full_matrices=True).Vh[-1]
    return vector


def _short_enough(data: OnData, steps: list[Tensor]) -> float:
    """A size at which no kinked unit has gone more than half of its way to 0."""
    net, at = data.net, data.net.flatten(data.params)
    size = 1.0
    kinked = [k for k, activation in enumerate(net.activations) if not activation.smooth]
    for step in steps if kinked else []:
        for _ in range(40):
            there = OnData(data.problem, net.unflatten(at + size * step))
            if all(
                bool(((there.pre[k] - data.pre[k]).abs() <= data.pre[k].abs() / 2).all())
                for k in kinked
            ):
                break
            size /= 2
    return size


def _features(point: Point, steps: list[Tensor]) -> Tensor:
    problem, net = point.problem, point.problem.net
    at = net.flatten(point.params)
    here = NetworkFeatures(problem, point.params).matrix()
    moved = [NetworkFeatures(problem, net.unflatten(at + step)).matrix() - here for step in steps]
    return torch.cat([here, *moved], dim=1)
