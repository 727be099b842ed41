"""An embedded point taken apart for its verdict: a core that is measured, and what algebra adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch

from semiflat.embeddings.directions import WideDirection
from semiflat.embeddings.unit_map import UnitMap
from semiflat.embeddings.unit_runs import Copies
from semiflat.embeddings.vectors import zeros
from semiflat.evidence import EPS, OnData
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.points import EmbeddedPoint, Point
from semiflat.unit_surgery import chosen


@dataclass(frozen=True)
class Layout:
    """What the inertia law needs to know of an embedded point.

    Attributes:
        core: the point whose derivatives are measured: the narrow point, with added units that are no
            copies and not dead.
        units: the wide units, but for the dead ones, over the core's.
        wide: the whole wide architecture.
        source: the narrow point.
        alive: for each hidden layer the places of the units that are not dead; empty if none is.
    """

    core: Point
    units: UnitMap
    wide: MLP
    source: Point
    alive: tuple[torch.Tensor, ...]

    @property
    def plain(self) -> bool:
        """Whether the core is the narrow point itself."""
        return self.core is self.source

    @property
    def name(self) -> str:
        """What reasons call the core."""
        return "narrow point" if self.plain else "core (the narrow network and its added units)"

    @property
    def dead(self) -> tuple[int, ...]:
        """For each hidden layer how many added units are inactive on every sample, and stay so nearby.

        Their rows and columns of the Hessian are 0 (F19 Prop. 7, eq. 12). Empty if there are none.
        """
        pairs = zip(self.wide.hidden, self.alive, strict=False)
        return tuple(width - len(places) for width, places in pairs)

    @cached_property
    def net(self) -> MLP:
        """The wide architecture without the dead units."""
        return self.core.problem.net.with_hidden(self.units.hidden)

    def padded(self, direction: WideDirection) -> WideDirection:
        """A direction of the wide network without the dead units, as one with them."""
        if not any(self.dead):
            return direction
        return WideDirection(
            direction.curvature, partial(_padded, self.wide, self.alive, direction.build)
        )


def _padded(wide: MLP, alive: tuple[torch.Tensor, ...], build: Callable[[], Params]) -> Params:
    params, out = build(), zeros(wide)
    for layer in range(wide.depth):
        rows: torch.Tensor | slice = slice(None)
        if layer < wide.depth - 1:
            rows = alive[layer]
        block = params[weight_key(layer)]
        whole = block.new_zeros((*block.shape[:-1], wide.widths[layer]))
        whole[:, alive[layer - 1] if layer else slice(None)] = block
        out[weight_key(layer)][rows] = whole
        if wide.biases[layer]:
            out[bias_key(layer)][rows] = params[bias_key(layer)]
    return out


def layout(point: EmbeddedPoint) -> Layout:
    """The point taken apart; dead added units are left out of the core."""
    source, core, units = point.source, point.core, point.unit_map
    dead = _dead_units(source, core)
    alive = (
        tuple(_alive(units, layer, gone) for layer, gone in enumerate(dead)) if any(dead) else ()
    )
    for layer, gone in enumerate(dead):
        if gone:
            units = units.without(layer, gone)
    if any(dead):
        core = _without(source, core, dead)
    return Layout(core, units, point.problem.net, source, alive)


def _dead_units(source: Point, core: Point) -> list[set[int]]:
    """Core units beyond the narrow ones that are dead on the data; the narrow ones stay in any case."""
    if core is source:
        return [set() for _ in source.problem.net.hidden]
    data, found = OnData(core.problem, core.params), []
    for layer, z in enumerate(data.pre):
        # What is within rounding of the kink stays in the core, where it is found to be.
        clear = (z < -4 * EPS * data.sizes[layer]).all(0) & data.dead[layer]
        narrow = source.problem.net.hidden[layer]
        found.append({unit for unit in clear.nonzero().flatten().tolist() if unit >= narrow})
    return found


def _alive(units: UnitMap, layer: int, gone: set[int]) -> torch.Tensor:
    """Places of the wide units that copy none of the units that are gone."""
    runs = units.layers[layer]
    kept = torch.tensor([not (isinstance(run, Copies) and run.source in gone) for run in runs])
    lengths = torch.tensor([run.count for run in runs])
    return kept.repeat_interleave(lengths).nonzero().flatten()


def _without(source: Point, core: Point, dead: list[set[int]]) -> Point:
    """The core without its dead units: the narrow point itself if nothing else was added."""
    net = core.problem.net
    kept = [
        torch.tensor([unit for unit in range(width) if unit not in gone])
        for width, gone in zip(net.hidden, dead, strict=True)
    ]
    params = core.params
    for layer, units in enumerate(kept):
        params = chosen(net, params, layer, units)
    same = all(
        params[key].shape == tensor.shape and torch.equal(params[key], tensor)
        for key, tensor in source.params.items()
    )
    if same:
        return source
    return Point(core.problem.with_net(net.with_hidden([len(each) for each in kept])), params)
