"""Between which numbers the values in a model lie, whatever its inputs are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from semiflat.modules.flow import Flow, name_of
from semiflat.modules.laws import LINEAR_NAMES, WITH_ADDEND, is_function_of_one, numbers

ROUNDED = 1e-13
"""Relative to the terms of a sum: more than rounding makes of it."""
Range = tuple[Tensor, Tensor]
_INCREASING = LINEAR_NAMES - {"neg"}


def ranges(flow: Flow, wanted: Iterable[fx.Node]) -> dict[fx.Node, Range]:
    """Bounds from below and above of the values of some nodes, in their shapes; infinite where none are known.

    Inputs may be any numbers, parameters and buffers are what they are. Linear layers and convolutions, sums,
    monotone functions, pooling and movement are followed; what anything else gives may be any number.
    """
    found: dict[fx.Node, Range] = {}
    with torch.no_grad():
        for node in flow.captured.graph.nodes:
            if node.op == "placeholder":
                found[node] = _given(flow, node)
            elif node.op == "call_function":
                found[node] = _after(node, found)
                schema = getattr(node.target, "_schema", None)
                if schema is not None and schema.is_mutable and isinstance(node.args[0], fx.Node):
                    found[node.args[0]] = found[node]
    return {node: found[node] for node in wanted}


def _given(flow: Flow, node: fx.Node) -> Range:
    captured = flow.captured
    if node.name in captured.owners:
        value = captured.tensors[captured.owners[node.name][0]].detach()
    elif node.name in captured.constants:
        value = captured.constants[node.name]
    else:
        return _any(node)
    return value, value


def _any(node: fx.Node) -> Range:
    value = node.meta.get("val")
    shape = value.shape if isinstance(value, Tensor) else torch.Size([])
    far = torch.full((), float("inf"), dtype=torch.float64)
    return (-far).expand(shape), far.expand(shape)


def _after(node: fx.Node, found: dict[fx.Node, Range]) -> Range:
    try:
        low, high = _followed(node, found)
    except Exception:  # an operation that does not take infinite or real numbers
        return _any(node)
    value = node.meta.get("val")
    # Whole numbers and truth values hide how far the ends are apart: infinity becomes any number there.
    fits = isinstance(value, Tensor) and low.shape == value.shape and value.is_floating_point()
    if not fits or bool((torch.isnan(low) | torch.isnan(high)).any()):
        return _any(node)
    return low, high


def _followed(node: fx.Node, found: dict[fx.Node, Range]) -> Range:
    name, operands = name_of(node), node.all_input_nodes
    open_ones = [each for each in operands if found[each][0] is not found[each][1]]
    drawn = torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ())
    if drawn and name not in LINEAR_NAMES:
        return _any(node)
    if not open_ones:
        value = _run(node, {each: found[each][0] for each in operands})
        return (value, value) if isinstance(value, Tensor) else _any(node)
    one = open_ones[0]
    alone = len(open_ones) == 1
    ends = tuple({each: found[each][place] for each in operands} for place in (0, 1))
    if name in WITH_ADDEND or name in ("matmul", "mm", "bmm"):
        return _linear(node, one, found) if alone else _any(node)
    if name in ("cat", "stack", "add") and not node.kwargs:
        return _run(node, ends[0]), _run(node, ends[1])
    if not alone:
        return _any(node)
    low, high = (_run(node, each) for each in ends)
    if name in _INCREASING or "avg_pool" in name or "max_pool" in name:
        return low, high
    if name == "batch_norm" and not node.args[5]:
        return torch.minimum(low, high), torch.maximum(low, high)
    if is_function_of_one(node):
        steps = _run(node, {one: torch.cat([-numbers().flip(0), numbers()])}).diff()
        if bool((steps >= 0).all()):
            return low, high
        if bool((steps <= 0).all()):
            return high, low
        far, known = _any(node), found[one][0] == found[one][1]
        return torch.where(known, low, far[0]), torch.where(known, high, far[1])
    return _any(node)


def _run(node: fx.Node, values: dict[fx.Node, Tensor]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda each: values[each].clone())
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _linear(node: fx.Node, one: fx.Node, found: dict[fx.Node, Range]) -> Range:
    """A linear operation in one range: each weight takes the end that its sign asks for."""
    place = WITH_ADDEND.get(name_of(node))
    addend: Any = None
    if place is not None:
        addend = node.args[place] if place < len(node.args) else node.kwargs.get("bias")
    (weight,) = [each for each in node.all_input_nodes if each not in (one, addend)]
    if addend is one:
        return _any(node)
    values = found[weight][0]

    def of(entering: Tensor, weights: Tensor, added: bool = False) -> Tensor:
        given = {one: entering, weight: weights}
        if isinstance(addend, fx.Node):
            own = found[addend][0]
            given[addend] = own if added else torch.zeros_like(own)
        made: Tensor = _run(node, given)
        return made

    low, high = (torch.where(torch.isfinite(end), end, 0.0) for end in found[one])
    centre, reach = (low + high) / 2, (high - low) / 2
    middle = of(centre, values, True)
    apart = of(reach + 2 * ROUNDED * (centre.abs() + reach), values.abs())
    # Where every term is 0 nothing is rounded: what comes out is the bias.
    apart = torch.where(apart == 0, 0.0, apart + ROUNDED * middle.abs())
    made = [middle - apart, middle + apart]
    far = [torch.isinf(end).to(end.dtype) for end in found[one]]
    up, down = values.clamp(min=0), values.clamp(max=0)
    for below, above, side in ((0, 1, -1), (1, 0, 1)):
        reaching = [
            of(far[end], each.abs()) > 0
            for end, each in ((below, up), (above, down))
            if bool(far[end].any())
        ]
        for each in reaching:
            made[below] = torch.where(each, side * float("inf"), made[below])
    return made[0], made[1]
