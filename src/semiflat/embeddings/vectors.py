"""Small helpers for parameters that are mostly zero, and for numbers as they are given."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.networks import MLP, Params


def zeros(net: MLP, dtype: torch.dtype = torch.float64) -> Params:
    """Parameters that are all 0."""
    return {key: torch.zeros(shape, dtype=dtype) for key, shape in net.shapes.items()}


def rows_of(net: MLP, count: int) -> tuple[Tensor, Params]:
    """``count`` flat zero vectors, (count, P), and the parameter-shaped views to fill them by."""
    flat = torch.zeros((count, net.parameter_count), dtype=torch.float64)
    return flat, net.unflatten(flat)


def numbers(name: str, given: Any, ndim: int) -> Tensor:
    """``given`` as a float64 tensor of its own.

    Raises:
        InputError: if it is not an array of finite numbers with that many axes.
    """
    try:
        plain = given.detach().cpu().numpy() if isinstance(given, Tensor) else given
        array = np.asarray(plain, dtype=np.float64).copy()
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} is not an array of numbers: {error}") from None
    if array.ndim != ndim or not np.isfinite(array).all():
        raise InputError(
            f"{name} must be finite numbers in {ndim} axes; given is shape {array.shape}"
            + ("" if np.isfinite(array).all() else " with values that are not finite")
        )
    return torch.from_numpy(array)
