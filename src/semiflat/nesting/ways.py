"""The ways from a point to wider networks, and from a saddle down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from semiflat.embeddings import Composition, Embedding, NullGates, NullUnits, Replicate
from semiflat.evidence.slices import both_ways
from semiflat.networks import MLP, Params, weight_key
from semiflat.problem import Problem
from semiflat.unit_surgery import chosen


@dataclass(frozen=True)
class Widening:
    """An embedding into given widths.

    Attributes:
        how: see :class:`semiflat.nesting.record.Edge`.
        layer, unit: the replicated unit; None if none is.
        embedding: the embedding.
    """

    how: str
    layer: int | None
    unit: int | None
    embedding: Embedding


def widenings(net: MLP, hidden: tuple[int, ...], null_bias: float = 0.0) -> Iterator[Widening]:
    """Embeddings of a network into given widths, no smaller than its own.

    All added units of one layer are copies of one of its units, with even shares or one share outside
    [0, 1]; or null units. Other layers get null units. These need a bias above: a layer that has none is
    filled with even copies of its first unit.
    """
    added = [wide - own for wide, own in zip(hidden, net.hidden, strict=True)]
    if not any(added):
        return
    able = {layer: net.biases[layer + 1] for layer, count in enumerate(added) if count}
    filled: dict[int, Embedding] = {
        layer: NullUnits(layer, [null_bias] * added[layer])
        if able[layer]
        else Replicate.simple(layer, 0, added[layer])["inside"]
        for layer in able
    }
    for layer in filled:
        rest = [each for other, each in filled.items() if other != layer]
        count = added[layer]
        for unit in net.heads(layer):
            first: Embedding
            if len(net.branch(layer, unit)) > 1:  # a copy of it would have its gates, too
                first = NullGates(layer, unit, count)
                yield Widening("null gates", layer, unit, _together([first, *rest]))
                continue
            for how, first in Replicate.simple(layer, unit, count).items():
                yield Widening(how, layer, unit, _together([first, *rest]))
    if all(able.values()):
        yield Widening("null units", None, None, _together(list(filled.values())))


def _together(steps: list[Embedding]) -> Embedding:
    return steps[0] if len(steps) == 1 else Composition(steps)


def thinned(net: MLP, params: Params, hidden: tuple[int, ...]) -> Iterator[Params]:
    """Parameters for given widths, no larger than a network's own: in each layer units are left out.

    Each unit of a layer is left out once; with it, if more have to go, those that are heard least.
    """
    fewer = [own - kept for own, kept in zip(net.hidden, hidden, strict=True)]
    choices = [
        list(range(own)) if gone else [0] for own, gone in zip(net.hidden, fewer, strict=True)
    ]
    for first in product(*choices):
        found, of = params, net
        for layer, (unit, gone) in enumerate(zip(first, fewer, strict=True)):
            if gone:
                heard = found[weight_key(layer + 1)].norm(dim=0)
                heard[unit] = -1.0
                found = chosen(of, found, layer, sorted(heard.argsort()[gone:].tolist()))
                of = of.with_hidden(hidden[: layer + 1] + net.hidden[layer + 1 :])
        yield found


def ways_down(problem: Problem, at: Tensor, direction: Tensor) -> list[tuple[int, Tensor]]:
    """Where to minimise from on both sides of a strict saddle: (side, parameters (P,)).

    The lowest place within reach on each side; none on a side where rounding hides that the loss falls.

    Args:
        at: the saddle, (P,).
        direction: of negative curvature, of unit length, (P,).
    """
    steps, losses = both_ways(problem, at, direction)
    here, found = losses[len(steps) // 2], []
    for side in (1, -1):
        lowest = torch.where(side * steps > 0, losses, torch.inf).argmin()
        if losses[lowest] < here:
            found.append((side, at + steps[lowest] * direction))
    return found
