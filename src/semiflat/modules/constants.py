"""Constant units: new units whose incoming weights are 0, and whose constant the biases behind them take up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.capture import Example, copied
from semiflat.modules.groups import Slot, UnitGroup, units
from semiflat.modules.ranges import ranges
from semiflat.modules.signals import readers_of
from semiflat.modules.surgery import EXACT, new_places, outputs_of


def check_constants(model: nn.Module, group: UnitGroup) -> None:
    """Check that units of a group can be constant, and be taken up.

    Raises:
        InputError: if they have no bias, or something reads them that has none.
    """
    if not group.of("adds") or group.norms:
        why = "a norm is over them" if group.norms else "they have no bias"
        raise InputError(f"the units of {group.name!r} cannot be constant: {why}")
    for slot in group.of("reads"):
        reader = model.get_submodule(slot.module)
        plain = isinstance(reader, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)
        if not plain or reader.bias is None or slot.axis != 1:
            raise InputError(
                f"{slot.module!r} reads the units of {group.name!r} and has no bias to take up a constant"
            )
        if not isinstance(reader, nn.Linear) and any(
            each != 0 for each in getattr(reader, "_reversed_padding_repeated_twice", ())
        ):
            raise InputError(
                f"{slot.module!r} pads what it reads, so a constant is none at the edges; no bias takes it up"
            )


def check_settled(wide: nn.Module, group: UnitGroup, new: list[int], example: Example) -> None:
    """Check that new units take one value alone, whatever the inputs are.

    Raises:
        InputError: if that is not known.
    """
    groups = units(copied(wide).eval(), example)
    readers = readers_of(groups, groups[group.name])
    for reader in readers:
        ends = ranges(groups._flow, [reader.source])[reader.source]
        low, high = (reader.outputs(end)[:, new] for end in ends)
        if not bool((low == high).all()):
            raise InputError(
                f"new units of {group.name!r} are constant on the example, but need not be on other inputs, "
                f"which what lies between them and {reader.slot.module!r} may depend on"
            )


def taken_up(
    wide: nn.Module, group: UnitGroup, size: int, new: list[int], example: Example, seed: int
) -> dict[str, Tensor]:
    """Weights at random that read new constant units, and biases that take them up, by name.

    Args:
        wide: the wide model in float64, in which nothing reads the new units; it is not changed.
        size: how many units it has.
        new: which of them are constant.

    Raises:
        InputError: if they are not constant on the example, or not the same in train and eval mode.
    """
    generator = torch.Generator().manual_seed(seed + 1)
    found: dict[str, Tensor] = {}
    for slot in group.of("reads"):
        weight = wide.get_parameter(slot.name).detach()
        longer = slot.positions.shape[1] * (size - group.size)
        places = new_places(slot, weight.shape[slot.axis] - longer, size, new).reshape(-1)
        values = _values(wide, slot, places, example)
        old = found.get(slot.name, weight).clone()
        shape = old.index_select(slot.axis, places).shape
        draw = torch.randn(shape, generator=generator, dtype=torch.float64) * weight.std()
        old.index_copy_(slot.axis, places, draw.to(old))
        bias = f"{slot.module}.bias"
        before = found.get(bias, wide.get_parameter(bias).detach())
        heard = draw.flatten(2).sum(2) if draw.ndim > 2 else draw
        found |= {slot.name: old, bias: before - (heard.to(values) @ values).to(before)}
    return found


def _values(wide: nn.Module, slot: Slot, places: Tensor, example: Example) -> Tensor:
    """What a reader gets from some places, which has to be the same everywhere."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1 - (inputs[0].ndim == slot_ndim - 1)
        got = inputs[0].detach().index_select(axis, places).movedim(axis, 0)
        seen.append(got.reshape(len(places), -1))

    slot_ndim = wide.get_parameter(slot.name).ndim
    for mode in (True, False):
        trial = copied(wide).train(mode)
        trial.get_submodule(slot.module).register_forward_pre_hook(keep)
        outputs_of(trial, example)
    if not seen:
        raise InputError(
            f"{slot.name!r} reads the units, but {slot.module!r} is not called with them: its bias takes up no "
            "constant"
        )
    every = torch.cat(seen, 1)
    first = every[:, 0]
    if float((every - first[:, None]).abs().max()) > EXACT * max(1.0, float(first.abs().max())):
        raise InputError(
            f"what {slot.module!r} reads of the new units is not one constant, in train and eval mode alike; "
            "no bias takes it up"
        )
    return first
