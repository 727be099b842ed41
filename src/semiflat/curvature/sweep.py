"""One forward and one backward pass, keeping what every derivative of the risk is made of.

Notation of theory §1, per sample ν and network: ``h̃_{l-1} = (h_{l-1}, 1)`` feeds linear layer l,
``z_l = W̃_l h̃_{l-1}``, ``h_l = σ(z_l)``, and ``δ_l = ∂(ℓ/N)/∂z_l``. Tensors are ``(*batch, …, n)`` for
a chunk of n samples: with the samples last, every elementwise step runs over long contiguous rows
and every sum over samples is one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.networks import MLP, Params, weight_key
from semiflat.problem import Problem

# What one pass may hold at a time. Small enough that a chunk's tensors stay near the caches, large
# enough that the work inside a chunk dwarfs the cost of starting it.
CHUNK_BYTES = 64 * 2**20
GROUP_BYTES = CHUNK_BYTES // 2


def chunks(samples: int, floats_per_sample: int, limit: int = CHUNK_BYTES) -> Iterator[slice]:
    """Slices that cover ``samples`` so that one holds at most ``limit`` bytes of float64.

    >>> list(chunks(10, 2**20, limit=32 * 2**20))
    [slice(0, 4, None), slice(4, 8, None), slice(8, 10, None)]
    """
    step = max(1, min(samples, limit // (8 * max(1, floats_per_sample))))
    for start in range(0, samples, step):
        yield slice(start, min(start + step, samples))


@dataclass
class Sweep:
    """The quantities of one forward and backward pass over some samples.

    Attributes:
        inputs: ``h̃_{l-1}`` for each linear layer l, ``(*batch, D_l, n)``; the first unbatched.
        weights: ``W_l`` without the bias, ``(*batch, out, in)``.
        first, second: ``σ'(z_l)`` and ``σ''(z_l)`` for each hidden layer, ``(*batch, width, n)``.
        cross: what units of each hidden layer owe to other units' pre-activations: None, but in a
            limit of networks.
        losses: ``ℓ/N``, ``(*batch, n)``.
        deltas: ``δ_l`` for each linear layer, ``(*batch, out, n)``.
        pulled: ``W_{l+1}ᵀ δ_{l+1}`` for each hidden layer: δ before σ' is applied.
        loss_second: ``∂²(ℓ/N)/∂f²``, ``(*batch, M, M, n)``, if it was asked for.
    """

    inputs: list[Tensor]
    weights: list[Tensor]
    first: list[Tensor]
    second: list[Tensor]
    cross: list[Cross | None]
    losses: Tensor
    deltas: list[Tensor]
    pulled: list[Tensor]
    loss_second: Tensor | None


def sweep(problem: Problem, params: Params, samples: slice, curved: bool = False) -> Sweep:
    """Forward and backward over ``samples``; with ``curved``, the loss's second derivative too."""
    net = problem.net
    weights = [params[weight_key(layer)] for layer in range(net.depth)]
    h = problem.X[..., samples, :].mT.contiguous()
    inputs, first, second, cross = [], [], [], []
    for layer in range(net.depth):
        fed, z = net.through(params, h, layer)
        inputs.append(fed)
        if layer < len(net.activations):
            h, slope, bend, others = problem.respond(layer, z, samples)
            first.append(slope)
            second.append(bend)
            cross.append(others)
    loss_second: Tensor | None = None
    targets = problem.targets(samples)
    if curved:
        losses, loss_first, loss_second = problem.loss.derivatives(z.mT, targets)
    else:
        losses, loss_first = problem.loss.first(z.mT, targets)
    # Scaling here, at the narrowest place, spares every sum below a division by N.
    share = problem.share(samples)
    by_output = share if isinstance(share, float) else share[..., None, :]
    delta = loss_first.mT.contiguous() * by_output
    if loss_second is not None:
        by_pair = by_output if isinstance(by_output, float) else by_output[..., None, :]
        loss_second = loss_second.movedim(-3, -1).contiguous() * by_pair
    deltas, pulled = [delta], []
    for layer in range(net.depth - 2, -1, -1):
        pull = weights[layer + 1].mT @ delta
        delta = pull_back(pull, first[layer], cross[layer])
        pulled.append(pull)
        deltas.append(delta)
    return Sweep(
        inputs,
        weights,
        first,
        second,
        cross,
        losses * share,
        deltas[::-1],
        pulled[::-1],
        loss_second,
    )


def pull_back(stack: Tensor, first: Tensor, cross: Cross | None, axis: int = -2) -> Tensor:
    """``Σ_i stack_i ∂h_i/∂z_j``: a derivative by h, taken by z. The units stand along ``axis``.

    ``first`` (*batch, width, n) is brought to the shape of ``stack`` where the units stand along −3.
    """
    wide = (..., slice(None), slice(None)) if axis == -2 else (..., None, slice(None))
    back = stack * first[wide]
    if cross is not None:
        owed = stack * cross.slope[wide]
        back.scatter_add_(axis, cross.places(owed, axis), owed)
    return back


def in_groups(
    problem: Problem,
    params: Params,
    floats: int,
    compute: Callable[..., tuple[Tensor, ...]],
    *more: Params,
) -> tuple[Tensor, ...]:
    """What ``compute`` makes of a batch (B, …) of networks, of as many at a time as the caches hold.

    How many does not depend on how many there are, so that a network's result does not either: the
    samples are summed up in the same parts, whatever else is in the batch.

    Args:
        floats: that ``compute`` holds for one sample of one network.
        more: what ``compute`` takes after the parameters, shaped like them.
    """
    batch = problem.net.check_params(params)
    at_once = max(1, GROUP_BYTES // (8 * floats * problem.samples))
    if len(batch) != 1 or batch[0] <= at_once:
        return compute(problem, params, *more)
    parts = []
    for first in range(0, batch[0], at_once):
        some = slice(first, first + at_once)
        own = ({key: t[some] for key, t in each.items()} for each in (params, *more))
        parts.append(compute(problem.rows(some), *own))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def outer(left: Tensor, right: Tensor) -> Tensor:
    """All products of a row of ``left`` with a row of ``right``, ``(*batch, p·q, n)``."""
    return (left[..., :, None, :] * right[..., None, :, :]).flatten(-3, -2)


def contract(left: Tensor, right: Tensor) -> Tensor:
    """``Σ_ν left[p, ν] right[q, ν]``, network by network.

    Where right is shared, one product for the whole batch would be a little faster, but what it gives
    a network depends, in the last bit, on how many others there are.
    """
    if right.ndim == 2 and left.ndim == 3:
        return torch.bmm(left, right.mT.expand(len(left), -1, -1))
    return left @ right.mT


def row_ranges(net: MLP) -> list[slice]:
    """Where the entries of ``[W_l, b_l]`` stand while the sums are taken, row after row."""
    ranges, start = [], 0
    for layer, out in enumerate(net.widths[1:]):
        ranges.append(slice(start, start + out * net.fan_in(layer)))
        start = ranges[-1].stop
    return ranges


@cache
def row_order(net: MLP) -> Tensor:
    """For each parameter in the flat order, its place in that of :func:`row_ranges`."""
    order = []
    for layer, span in enumerate(row_ranges(net)):
        places = torch.arange(span.start, span.stop).reshape(-1, net.fan_in(layer))
        weights = places[:, : net.widths[layer]]
        order += [weights.flatten(), places[:, net.widths[layer] :].flatten()]
    return torch.cat(order)
