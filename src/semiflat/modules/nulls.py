"""Null units of any model: units that give nothing, whatever reads them.

A new unit is made as one that there is, but for one of the weights that make it, or its gain, which is 0, and
for what is added to it. Whether it then gives nothing, or a constant that a bias of its reader takes up, is
tried.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from semiflat.modules.branches import Branch, Point, Program, called
from semiflat.modules.flow import name_of
from semiflat.modules.groups import Slot
from semiflat.modules.surgery import Layout

FILLS = (0.0, 1.0)
"""What is put in place of biases: 0, or where an activation has a kink there, 1."""


@dataclass(frozen=True)
class Silence:
    """A way of making the units of a branch give nothing.

    Attributes:
        what: in words.
        slot: the tensor that is set to 0, or a part of it.
        places: which places of each unit along its axis, (units, k).
        fill: what biases are set to.
    """

    what: str
    slot: Slot
    places: Tensor
    fill: float

    def of(self, branch: Branch, program: Program, point: Point) -> dict[str, Tensor]:
        """The point with the units silent."""
        out = dict(point)

        def put(slot: Slot, places: Tensor, value: float) -> None:
            tensor = out[slot.name].clone()
            tensor.movedim(slot.axis, 0)[places.reshape(-1).to(tensor.device)] = value
            out[slot.name] = tensor

        for slot in branch.group.slots:
            if slot.role in ("adds", "shifts"):
                put(slot, slot.positions, self.fill)
            if slot.role == "statistics" and slot.name in running_means(program):
                put(slot, slot.positions, 0.0)
        put(self.slot, self.places, 0.0)
        return out


def running_means(program: Program) -> set[str]:
    """Names of the means that batch normalisation keeps."""
    owners = program.captured.owners
    found: set[str] = set()
    for node in program.captured.graph.nodes:
        if "batch_norm" in node.name and len(node.args) > 3 and isinstance(node.args[3], fx.Node):
            found.update(owners.get(node.args[3].name, ())[:1])
    return found


def silences(branch: Branch, point: Point) -> Iterator[Silence]:
    """The ways to be tried, those without biases first."""
    for fill in FILLS:
        for slot in branch.group.of("writes", "between"):
            units = len(slot.positions)
            segments = Layout.of(slot, point[slot.name].shape[slot.axis]).segments
            for number, (start, size) in enumerate(segments):
                inside = (slot.positions >= start) & (slot.positions < start + units * size)
                places = slot.positions[inside].view(units, -1)
                which = f", part {number}" if len(segments) > 1 else ""
                what = f"{slot.name}{which} is 0, biases are {fill:g}"
                yield Silence(what, slot, places, fill)


def gives_nothing(
    program: Program, branch: Branch, point: Point, held: Mapping[fx.Node, Any], trained: set[str]
) -> bool:
    """Whether the units add nothing to what readers give but what a bias takes up, whatever reads them."""
    generator = torch.Generator().manual_seed(2)
    reading = [part for part in branch.parts if part.reads]
    if not reading:
        return False
    deaf, loud = dict(point), dict(point)
    for part in reading:
        entries = part.take(point[part.name])
        drawn = torch.randn(entries.shape, generator=generator).to(entries)
        rest = deaf[part.name] - part.put(part.take(deaf[part.name]), point[part.name])
        deaf[part.name] = rest
        loud[part.name] = rest + part.put(drawn, point[part.name])
    without, given = (reader_outputs(program, branch, each, held) for each in (deaf, loud))
    for node in branch.readers:
        added = given[node] - without[node]
        size = max(float(given[node].abs().max()), 1e-300)
        if float(added.abs().max()) <= 64 * program.eps * size:
            continue
        axis = _bias_axis(program, node, added, trained)
        if axis is None:
            return False
        lines = added.movedim(axis, 0).flatten(1)
        if float((lines - lines[:, :1]).abs().max()) > 64 * program.eps * size:
            return False
    return True


def reader_outputs(
    program: Program, branch: Branch, point: Point, held: Mapping[fx.Node, Any]
) -> dict[fx.Node, Tensor]:
    """What the readers of a branch give."""
    values = {**held, **program.start(point)}
    with torch.no_grad():
        for node in branch.nodes:
            values[node] = called(node, values)
    return {node: values[node] for node in branch.readers}


def _bias_axis(program: Program, node: fx.Node, out: Tensor, trained: set[str]) -> int | None:
    """The axis of what a reader gives along which a trained bias of its own lies; None if there is none."""
    name = name_of(node)
    bias = node.args[0] if name == "addmm" else node.args[2] if len(node.args) > 2 else None
    owner = program.captured.owners.get(bias.name, ("",))[0] if isinstance(bias, fx.Node) else ""
    if owner not in trained:
        return None
    if name in ("linear", "addmm"):
        return out.ndim - 1
    if name.startswith("conv"):
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        return 1 if out.ndim == weight.meta["val"].ndim else 0
    return None
