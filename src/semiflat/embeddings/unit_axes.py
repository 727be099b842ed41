"""A layer's runs as tensors, and the arithmetic of spreading arrays over them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from semiflat.embeddings.exact import as_float
from semiflat.embeddings.unit_runs import Copies, LayerMap, Nulls
from semiflat.networks import MLP, Params


@dataclass(frozen=True)
class Axis:
    """A layer's runs as tensors, one entry a run; ``source`` is −1 for null units."""

    source: Tensor
    share: Tensor
    scale: Tensor
    alpha: Tensor
    constants: Tensor
    counts: list[int]

    @classmethod
    def of(cls, runs: LayerMap, net: MLP, layer: int, dtype: torch.dtype) -> Axis:
        kappa = net.activations[layer].reflection or 0.0
        copies = [run if isinstance(run, Copies) else None for run in runs]
        alpha = torch.tensor(
            [as_float(run.bias, "bias") if isinstance(run, Nulls) else 0.0 for run in runs],
            dtype=dtype,
        )
        source = torch.tensor([-1 if run is None else run.source for run in copies])
        mirrored = torch.tensor([run is not None and run.scale < 0 for run in copies])
        return cls(
            source,
            torch.tensor(
                [0.0 if run is None else as_float(run.weight) for run in copies], dtype=dtype
            ),
            torch.tensor(
                [1.0 if run is None else as_float(run.scale, "scale") for run in copies],
                dtype=dtype,
            ),
            alpha,
            # What a unit hands on besides a multiple of its source.
            torch.where(
                source < 0,
                net.activations[layer].function(alpha),
                torch.where(mirrored, kappa, 0.0).to(dtype),
            ),
            [run.count for run in runs],
        )

    @cached_property
    def index(self) -> Tensor:
        """The source of each run, 0 for null units, whose factors are 0."""
        return self.source.clamp(min=0)

    @cached_property
    def plain(self) -> bool:
        """Whether all factors of incoming weights are 1."""
        return bool((self.tangent_rows() == 1).all())

    def tangent_rows(self) -> Tensor:
        """Factors of the incoming weights."""
        return torch.where(self.source < 0, 0.0, self.scale)

    def shares_out(self) -> Tensor:
        """Factors of the outgoing weights, and so of the error that reaches the units."""
        return self.share / self.scale

    def shift(self, width: int) -> Tensor:
        """What the outgoing weights of each source add to the bias above, (width,)."""
        total = self.constants.new_zeros(width)
        counts = torch.tensor(self.counts, dtype=self.share.dtype)
        values = torch.where(self.source < 0, 0.0, self.shares_out() * self.constants * counts)
        return total.index_add(0, self.index, values)

    def tangent_columns(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Weights out of the layer and the bias above, as the wide network has them."""
        if bias is not None and bool(self.constants.any()):
            bias = bias - weight @ self.shift(weight.shape[-1])
        return weight.index_select(-1, self.index) * self.shares_out(), bias

    def gradient_columns(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Gradients of the weights out of the layer: what they are fed with is scaled and shifted."""
        out = weight.index_select(-1, self.index) * self.tangent_rows()
        if bias is not None and bool(self.constants.any()):
            out = out + bias[..., None] * self.constants
        return out, bias

    def collect(self, wide: Tensor, dim: int, factor: Tensor, width: int) -> Tensor:
        """The sum over the copies of each source, each times its factor."""
        counts = torch.tensor(self.counts)
        index = self.index.repeat_interleave(counts)
        factor = factor.repeat_interleave(counts)
        shape = list(wide.shape)
        shape[dim] = width
        terms = wide * (factor[:, None] if dim == -2 else factor)
        return wide.new_zeros(shape).index_add_(wide.ndim + dim, index, terms)


@dataclass(frozen=True)
class Factors:
    """A layer's units one by one, as NumPy arrays."""

    source: np.ndarray
    incoming: np.ndarray
    outgoing: np.ndarray
    constants: np.ndarray
    alpha: np.ndarray

    @classmethod
    def of(cls, axis: Axis) -> Factors:
        constants = torch.where(axis.source < 0, 0.0, axis.constants)
        values = (
            axis.index,
            axis.tangent_rows(),
            axis.shares_out(),
            constants,
            axis.alpha,
        )
        return cls(*(np.repeat(value.numpy(), axis.counts) for value in values))

    @classmethod
    def outside(cls, width: int) -> Factors:
        one, zero = np.ones(width), np.zeros(width)
        return cls(np.arange(width), one, one, zero, zero)


def select(
    tensor: Tensor, dim: int, index: Tensor, factor: Tensor | None, out: Tensor | None
) -> Tensor:
    """``tensor`` at ``index`` along ``dim``, times ``factor``; written to ``out`` if that fits."""
    shape = list(tensor.shape)
    shape[dim] = len(index)
    if out is not None and list(out.shape) == shape and not tensor.requires_grad:
        picked = torch.index_select(tensor, dim, index, out=out)
    else:
        picked = tensor.index_select(dim, index)
    if factor is None:
        return picked
    shaped = factor[:, None] if dim == -2 else factor
    return picked * shaped if picked.requires_grad else picked.mul_(shaped)


def repeat(compact: Tensor, dim: int, counts: list[int], out: Tensor | None = None) -> Tensor:
    """Each entry along ``dim`` as often as its run is long, in one pass of writing."""
    total = sum(counts)
    if total == len(counts):
        return compact
    shape = list(compact.shape)
    shape[dim] = total
    out = compact.new_empty(shape) if out is None else out
    if total < 4 * len(counts):
        index = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        out.copy_(compact.index_select(dim, index))
        return out
    start = 0
    for k, count in enumerate(counts):
        out.narrow(dim, start, count).copy_(compact.narrow(dim, k, 1))
        start += count
    return out


def own(tensor: Tensor, given: Params, out: Tensor | None) -> Tensor:
    """The tensor in ``out``, or one that shares no memory with what was given."""
    if out is not None:
        return tensor if tensor is out else out.copy_(tensor)
    return tensor.clone() if any(tensor is other for other in given.values()) else tensor
