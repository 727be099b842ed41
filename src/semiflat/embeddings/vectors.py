"""Small helpers for parameters that are mostly zero, and for numbers as they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiflat.errors import InputError, whole_number
from semiflat.networks import MLP, Params

SHAPES = (
    "one finite number",
    "finite numbers in 1 axis, a list of at least one",
    "finite numbers in 2 axes, rows such as [[1.0, 2.0]]",
)


def zeros(net: MLP, dtype: torch.dtype = torch.float64) -> Params:
    """Parameters that are all 0."""
    return {key: torch.zeros(shape, dtype=dtype) for key, shape in net.shapes.items()}


def rows_of(net: MLP, count: int) -> tuple[Tensor, Params]:
    """``count`` flat zero vectors, (count, P), and the parameter-shaped views to fill them by."""
    flat = torch.zeros((count, net.parameter_count), dtype=torch.float64)
    return flat, net.unflatten(flat)


def index(given: Any) -> int:
    """The number of a layer or unit as an int; one that a network does not have is refused once applied.

    Raises:
        InputError: if it is no whole number.
    """
    found = whole_number(given)
    if found is None:
        raise InputError(
            f"layers and units are named by whole numbers, counted from 0, not by {given!r:.60}"
        )
    return found


def listed(name: str, given: Any) -> list[Any]:
    """``given`` as a list.

    Raises:
        InputError: if it is a text, or cannot be gone through.
    """
    try:
        if isinstance(given, str):
            raise TypeError
        return list(given)
    except (TypeError, RuntimeError):  # the latter of tensors without values
        raise InputError(f"{name} must be a list, not {given!r}") from None


def number(name: str, given: Any) -> float:
    """``given`` as a finite float.

    Raises:
        InputError: if it is none.
    """
    return float(numbers(name, given, 0))


def numbers(name: str, given: Any, ndim: int) -> Tensor:
    """``given`` as a float64 tensor of its own.

    Raises:
        InputError: if it is not an array of finite numbers with that many axes.
    """
    try:
        plain = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
        if np.iscomplexobj(plain):  # which numpy would take the real part of
            raise TypeError("it is complex")
        array = np.asarray(plain, dtype=np.float64).copy()
    except (TypeError, ValueError, RuntimeError) as error:  # the last of tensors without values
        raise InputError(f"{name} is not an array of numbers: {error}") from None
    if array.ndim != ndim or 0 in array.shape or not np.isfinite(array).all():
        raise InputError(
            f"{name} must be {SHAPES[ndim]}; given is shape {array.shape}"
            + ("" if np.isfinite(array).all() else " with values that are not finite")
        )
    return torch.from_numpy(array)
