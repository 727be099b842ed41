"""How far what enters an operation is from where that has no second derivative."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Given = Mapping[str, Any]


def _at(*places: float) -> Callable[[Given], list[Tensor]]:
    return lambda given: [given["self"] - place for place in places]


def _at_bounds(*names: str) -> Callable[[Given], list[Tensor]]:
    return lambda given: [
        given["self"] - given[name] for name in names if given.get(name) is not None
    ]


def _at_edges(name: str) -> Callable[[Given], list[Tensor]]:
    return lambda given: [given["self"] - given[name], given["self"] + given[name]]


def _where_equal(given: Given) -> list[Tensor]:
    return [given["self"] - given["other"]]


def _off_by(name: str) -> Callable[[Given], list[Tensor]]:
    def found(given: Given) -> list[Tensor]:
        off = given["self"] - given["target"]
        return [off - given[name], off + given[name]]

    return found


def _at_whole(given: Given) -> list[Tensor]:
    x = given["self"] / given["other"] if "other" in given else given["self"]
    return [x - x.detach().round()]


def _at_halves(given: Given) -> list[Tensor]:
    x = given["self"] * 10.0 ** given.get("decimals", 0)
    return [x - x.detach().floor() - 0.5]


def _where_tied(given: Given) -> list[Tensor]:
    """Between the two that are the largest, or the smallest: of two tensors, or along axes of one."""
    x = given["self"]
    if "other" in given:
        return _where_equal(given)
    axes = given.get("dim")
    axes = list(range(x.ndim)) if axes is None or axes == [] else axes
    axes = [axes] if isinstance(axes, int) else list(axes)
    last = x.movedim(axes, list(range(-len(axes), 0))).flatten(x.ndim - len(axes)) if axes else x
    if not last.ndim or last.shape[-1] < 2:
        return []
    ordered = last.sort(-1).values
    low, high = ordered[..., 1] - ordered[..., 0], ordered[..., -1] - ordered[..., -2]
    return [low if given["name"].endswith("min") else high]


def _in_norm(given: Given) -> list[Tensor]:
    """Where entries tie in a largest norm, are 0 in a sum of sizes, or all are 0."""
    x, order, axes = given["self"], given["ord"], given["dim"]
    if abs(order) not in (2, math.inf):
        return [x]
    size = [torch.linalg.vector_norm(x, order, axes)]
    name = "amax" if order > 0 else "amin"
    return size if order == 2 else size + _where_tied({"name": name, "self": x.abs(), "dim": axes})


KINKS: dict[str, Callable[[Given], list[Tensor]]] = {
    **dict.fromkeys(
        (
            *("relu", "leaky_relu", "rrelu", "rrelu_with_noise", "prelu", "_prelu_kernel"),
            *("elu", "selu", "celu", "abs", "sign", "signbit", "heaviside"),
        ),
        _at(0.0),
    ),
    "relu6": _at(0.0, 6.0),
    "hardsigmoid": _at(-3.0, 3.0),
    "hardswish": _at(-3.0, 3.0),
    "hardtanh": _at_bounds("min_val", "max_val"),
    **dict.fromkeys(("clamp", "clamp_min", "clamp_max", "clip"), _at_bounds("min", "max")),
    "threshold": _at_bounds("threshold"),
    "softshrink": _at_edges("lambd"),
    "hardshrink": _at_edges("lambd"),
    **dict.fromkeys(("gt", "ge", "lt", "le", "eq", "ne", "fmax", "fmin"), _where_equal),
    **dict.fromkeys(("greater", "greater_equal", "less", "less_equal"), _where_equal),
    **dict.fromkeys(("maximum", "minimum"), _where_equal),
    **dict.fromkeys(("max", "min", "amax", "amin"), _where_tied),
    "linalg_vector_norm": _in_norm,
    "smooth_l1_loss": _off_by("beta"),
    "huber_loss": _off_by("delta"),
    "l1_loss": lambda given: [given["self"] - given["target"]],
    **dict.fromkeys(("floor", "ceil", "trunc", "frac"), _at_whole),
    **dict.fromkeys(("floor_divide", "remainder", "fmod"), _at_whole),
    "round": _at_halves,
}
"""By name of an operation: numbers that are 0 where it has no second derivative."""


def distances(target: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Numbers that are 0 where an operation has no second derivative, from what enters it.

    >>> [each.tolist() for each in distances(torch.ops.aten.relu6.default, [torch.tensor([1.0, 6.0])], {})]
    [[1.0, 6.0], [-5.0, 0.0]]
    >>> distances(torch.ops.aten.maximum.default, [torch.tensor(2.0), torch.tensor(2.0)], {})
    [tensor(0.)]
    """
    if not isinstance(target, torch._ops.OpOverload):
        return []
    name = target.overloadpacket.__name__.rstrip("_")
    found = KINKS.get(name)
    if found is None:
        return []
    given: dict[str, Any] = {"name": name}
    for place, each in enumerate(target._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(each.name, each.default_value)
        given[each.name] = value
    x = given["self"]
    if not isinstance(x, Tensor) or not x.is_floating_point() or not x.numel():
        return []
    return found(given)
