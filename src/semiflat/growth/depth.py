"""Depth by zero blocks: behind what a module gives, x + V·φ(W·x + b) with V = 0 leaves the function as it was.

The hidden units of a block are units as all others are, so what they would take off the loss is found as it is
for these. A block is a child of the module that it stands behind, and a hook of that module runs it: the names
and classes of all that there was stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.batches import run
from semiflat.modules.capture import Example, check_model, copied, same_random_state, tensors_in
from semiflat.modules.groups import Units
from semiflat.modules.surgery import EXACT, float64, in_float64, replay

NAME = "deeper"
"""What a block is called in the module that it stands behind."""
KERNEL = 3
"""Places along each axis that a block of convolutions looks at."""
CONVS = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def deepen(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a model with the blocks that weights have beyond it, so that it can load them.

    Args:
        model: made as the one that was grown was made, but for its blocks; it is not changed.
        weights: a ``state_dict`` of the grown model. Names and shapes are read off it, and no values.

    Raises:
        InputError: if a block belongs to a module that the model does not have.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    >>> block = {"0.weight": torch.ones(4, 2), "0.bias": torch.ones(4), "2.weight": torch.zeros(2, 4)}
    >>> weights = model.state_dict() | {f"0.deeper.{name}": tensor for name, tensor in block.items()}
    >>> deep = sf.deepen(model, weights)
    >>> deep.load_state_dict(weights)
    <All keys matched successfully>
    >>> bool((deep(torch.ones(5, 3)) == model(torch.ones(5, 3))).all())
    True
    """
    found = copied(check_model(model))
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise InputError(
            f"weights is a {type(weights).__name__}; expected a state_dict: tensors by name"
        )
    modules, known = dict(found.named_modules()), found.state_dict().keys()
    for name, tensor in weights.items():
        path, _, rest = name.rpartition(f".{NAME}.")
        if (
            not path
            or rest != "0.weight"
            or name in known
            or f"{path}.{NAME}.2.weight" not in weights
        ):
            continue
        if path not in modules:
            raise InputError(
                f"the weights have a block behind {path!r}, and the model has no such module"
            )
        real = isinstance(tensor, Tensor) and tensor.is_floating_point()
        if not real or tensor.ndim not in (2, *CONVS):
            raise InputError(
                f"{name!r} is none of a block's weights: expected a tensor of real numbers, of 2 to 5 axes"
            )
        put_behind(modules[path], block_of(tuple(tensor.shape), tensor.dtype, tensor.device))
    return found


def block_of(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Sequential:
    """A block that adds 0, its hidden units drawn as torch draws them.

    Args:
        shape: of the weight that makes the hidden units: (units, features), and the kernel of a convolution.
    """
    units, features, *kernel = shape
    first: nn.Module
    last: Any
    if not kernel:
        first, last = nn.Linear(features, units), nn.Linear(units, features, bias=False)
    else:
        conv: Any = CONVS[len(shape)]
        first = conv(features, units, tuple(kernel), padding=tuple(k // 2 for k in kernel))
        last = conv(units, features, 1, bias=False)
    nn.init.zeros_(last.weight)
    return nn.Sequential(first, nn.GELU(), last).to(device, dtype)


def put_behind(module: nn.Module, block: nn.Module) -> None:
    """Let a module give what it gives and what a block makes of it, added up."""
    module.add_module(NAME, block)
    module.register_forward_hook(_with_block)


def _with_block(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    more: Tensor = module.get_submodule(NAME)(output)
    return output + more


def with_blocks(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A copy of a model with blocks behind the named modules, each with a first weight of such a shape."""
    deep = copied(model)
    like = next(p for p in deep.parameters() if p.is_floating_point())
    with same_random_state():
        torch.manual_seed(0)
        for path, shape in shapes.items():
            put_behind(deep.get_submodule(path), block_of(shape, like.dtype, like.device))
    return deep


def change(model: nn.Module, deep: nn.Module, example: Example) -> float:
    """By what blocks that add 0 change the outputs, in float64; infinite where the model fails with them."""
    try:
        return max(replay(float64(model), float64(deep), in_float64(example)).values())
    except Exception:  # it is anybody's code, and may go through the children of its modules
        return math.inf


def places(
    model: nn.Module, inputs: Example, units: int, frozen: bool
) -> dict[str, tuple[int, ...]]:
    """Modules behind which a block can stand, and the shape of its first weight.

    These are modules that run once and give one tensor of real numbers, which is not what the model gives; and
    the outputs stay with a block that adds 0. Where a convolution has as many channels as the tensor, the block
    has convolutions; else it acts along the last axis.

    Args:
        units: hidden ones of each block.
        frozen: whether it may stand where nothing before it is trained.
    """
    trial, given = copied(model), dict[str, list[Any]]()
    modules = dict(trial.named_modules())
    for path, module in modules.items():
        module.register_forward_hook(
            lambda _, __, out, path=path: given.setdefault(path, []).append(out)
        )
    with torch.enable_grad(), same_random_state():
        outputs = run(trial, inputs)
    convs = [each for each in modules.values() if isinstance(each, nn.modules.conv._ConvNd)]
    channels = {
        (each.weight.ndim, count)
        for each in convs
        for count in (each.in_channels, each.out_channels)
    }
    # A module that hands on what it is given, as dropout in eval mode, is no place of its own.
    known = {id(each) for each in tensors_in((outputs, inputs))}
    found = {}
    for path, outs in given.items():
        out = outs[0]
        if len(outs) != 1 or not isinstance(out, Tensor) or id(out) in known:
            continue
        known.add(id(out))
        module = modules[path]
        fits = out.ndim > 1 and out.is_floating_point() and (frozen or out.requires_grad)
        iterates = isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict)
        if not fits or iterates or hasattr(module, NAME) or in_block(path):
            continue
        if (out.ndim, out.shape[1]) in channels:
            found[path] = (units, out.shape[1], *[KERNEL] * (out.ndim - 2))
        else:
            found[path] = (units, out.shape[-1])
    if change(model, with_blocks(model, found), inputs) <= EXACT:
        return found
    return {
        path: shape
        for path, shape in found.items()
        if change(model, with_blocks(model, {path: shape}), inputs) <= EXACT
    }


def goes_on(groups: Units, path: str) -> bool:
    """Whether a layer reads what a block adds to; else it may be what the model gives, in another form."""
    last, first = f"{path}.{NAME}.2.weight", f"{path}.{NAME}.0.weight"
    streams = [each for each in groups.values() if any(s.name == last for s in each.of("writes"))]
    return any(name != first for each in streams for name in each.readers)


def blocks_in(model: nn.Module) -> tuple[str, ...]:
    """Modules behind which a block stands."""
    end = f".{NAME}"
    return tuple(path.removesuffix(end) for path, _ in model.named_modules() if path.endswith(end))


def in_block(name: str) -> bool:
    """Whether a module, a parameter or an attribute is one of a block."""
    return f".{NAME}." in f".{name}."
