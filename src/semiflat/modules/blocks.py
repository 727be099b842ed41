"""New blocks of a residual stream, whose last layer is 0: more depth, and the same outputs."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import torch
from torch import nn

from semiflat.errors import InputError
from semiflat.modules.capture import Example, copied
from semiflat.modules.groups import UnitGroup, Units
from semiflat.modules.surgery import outputs_of


def is_stack(model: nn.Module, name: str) -> bool:
    """Whether a name is that of a list of modules of one class, which can be a stack of blocks."""
    found = dict(model.named_modules()).get(name)
    if not isinstance(found, nn.ModuleList | nn.Sequential) or not len(found):
        return False
    kind = type(found[-1])
    return all(type(each) is kind for each in found) and any(True for _ in found[-1].children())


def stack_of(model: nn.Module, name: str) -> UnitGroup:
    """A stack of blocks as a group: each block is a unit."""
    return UnitGroup(name, "block", len(list(model.get_submodule(name).children())), ())


def with_blocks(model: nn.Module, name: str, count: int, zero: list[str]) -> nn.Module:
    """A copy of a model with copies of a stack's last block behind it, in which some parameters are 0.

    Args:
        zero: names of parameters in the block.
    """
    deep = copied(model)
    stack = deep.get_submodule(name)
    assert isinstance(stack, nn.ModuleList | nn.Sequential)
    block = copy.deepcopy(stack[-1])
    with torch.no_grad():
        for each in zero:
            block.get_parameter(each).zero_()
    for _ in range(count):
        stack.append(copy.deepcopy(block))
    return deep


def silences(groups: Units, name: str, model: nn.Module) -> Iterator[list[str]]:
    """What may be 0 in a block so that it adds nothing to its stream: its last layers, or gains behind them."""
    block = f"{name}.{stack_of(model, name).size - 1}."
    last: dict[str, None] = {}
    gains: dict[str, None] = {}
    for group in groups.values():
        outside = any(not slot.name.startswith(block) for slot in group.slots)
        if group.kind != "residual stream" or not outside:
            continue
        norms = [where.split(" in ")[-1].strip("'") for _, where in group.norms]
        for slot in group.slots:
            if not slot.name.startswith(block):
                continue
            own = slot.name.removeprefix(block)
            if slot.role in ("writes", "adds"):
                last[own] = None
            elif (
                slot.role in ("between", "shifts")
                and slot.module not in norms
                and model.get_parameter(slot.name).ndim == 1
            ):
                gains[own] = None
    if not last:
        raise InputError(f"the blocks of {name!r} add nothing to a residual stream")
    yield list(last)
    if gains:
        yield list(gains)


def all_run(model: nn.Module, name: str, example: Example) -> bool:
    """Whether the last block of a stack runs on the example."""
    trial = copied(model)
    ran: list[bool] = []
    stack = trial.get_submodule(name)
    assert isinstance(stack, nn.ModuleList | nn.Sequential)
    stack[-1].register_forward_hook(lambda *_: ran.append(True))
    outputs_of(trial, example)
    return bool(ran)
