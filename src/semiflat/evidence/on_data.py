"""What the units of a network do on the data: dead, constant, duplicate, unheard, linear."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.evidence.natural import Natural, sizes_at
from semiflat.evidence.spectrum import EPS
from semiflat.networks import MLP, Params, weight_key
from semiflat.problem import Problem
from semiflat.records.shown import Shown

UNDERFLOW = 1e-200
"""A loss that is 0 beside anything."""
BETWEEN = 1e-10
"""Part of what targets of one input differ by, within which outputs count as the best between them."""


@dataclass(frozen=True)
class Fed:
    """What a linear layer is fed with on the data: ``values`` (N, D), the bias's 1 included."""

    values: Tensor

    @cached_property
    def null_space(self) -> Tensor:
        """Directions (q, D) with ``values @ direction = 0`` up to rounding."""
        # Columns are brought to one size first: a feature that is merely small is not a zero one.
        sizes = torch.linalg.vector_norm(self.values, dim=0)
        scale = torch.where(sizes > 0, sizes, 1.0)
        # Through R of a QR decomposition: the samples' side of the SVD is not needed.
        triangle = torch.linalg.qr(self.values / scale, mode="r").R
        _, singular, right = torch.linalg.svd(triangle, full_matrices=True)
        limit = max(self.values.shape) * EPS * (singular[0] if len(singular) else 0.0)
        rank = int((singular > limit).sum())
        null: Tensor = right[rank:] / scale
        return null

    @property
    def rank(self) -> int:
        """Rank of ``values``."""
        return self.values.shape[1] - len(self.null_space)


class OnData(Shown):
    """A network's activations and slopes on the data of a problem, and what follows from them.

    Args:
        alike: part of a pre-activation's size by which those of two units that count as one may differ.

    Attributes:
        inputs: what each linear layer is fed with.
        pre: ``z_l`` of each hidden layer, (N, width).
        slopes, bends: ``σ'(z_l)`` and ``σ''(z_l)`` of each hidden layer, (N, width).
        cross: what units of each hidden layer owe to other units' pre-activations, samples last.
        outputs: ``f(x_ν)``, (N, M).

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "relu"), [[0.0], [1.0]], [0.0, 1.0])
    >>> params = problem.net.random_params(seed=0)
    >>> params["0.weight"][1], params["0.bias"][1] = -1.0, -0.5
    >>> on_data = sf.Point(problem, params).evidence.on_data
    >>> on_data.pre[0][:, 1].tolist(), on_data.dead[0].tolist()
    ([-0.5, -1.5], [False, True])
    """

    def _facts(self) -> dict[str, Any]:
        names = ("inputs", "pre", "slopes", "bends", "outputs")
        return {name: getattr(self, name) for name in names}

    def __init__(self, problem: Problem, params: Params, alike: float = 8 * EPS) -> None:
        self.problem, self.params, self.alike = problem, params, alike
        self.net: MLP = problem.net
        self.inputs: list[Fed] = []
        self.pre: list[Tensor] = []
        self.slopes: list[Tensor] = []
        self.bends: list[Tensor] = []
        self.cross: list[Cross | None] = []
        h = problem.X
        for layer in range(self.net.depth):
            if self.net.biases[layer]:
                h = torch.cat([h, h.new_ones(len(h), 1)], dim=1)
            self.inputs.append(Fed(h))
            z = h @ self.net.layer(params, layer).mT
            if layer < len(self.net.activations):
                self.pre.append(z)
                h, slope, bend, cross = problem.activate(layer, z)
                self.slopes.append(slope)
                self.bends.append(bend)
                self.cross.append(cross)
        self.outputs = z

    @cached_property
    def dead(self) -> list[Tensor]:
        """Units that are 0 on every sample, and stay so nearby: ReLU with z < 0 throughout."""
        return [
            (z < 0).all(0)
            & (activation.slopes is not None and activation.slopes[0] == 0)
            & self.net.plain_units(layer)
            for layer, (z, activation) in enumerate(
                zip(self.pre, self.net.activations, strict=True)
            )
        ]

    @cached_property
    def sizes(self) -> list[Tensor]:
        """``|W_l| |h̃_{l-1}|``, the largest a term of each unit's z gets: what its rounding scales with."""
        return [
            (self.inputs[layer].values.abs() @ self.net.layer(self.params, layer).abs().mT).amax(0)
            for layer in range(len(self.pre))
        ]

    @cached_property
    def constant(self) -> list[Tensor]:
        """Units fed with the same z on every sample, to rounding, the dead excepted.

        By z and not by σ(z): a unit saturated to a constant is not constant but on its way to
        infinity.
        """
        return [
            ((z - z[:1]).abs().amax(0) <= 8 * EPS * size) & ~dead & self.net.plain_units(layer)
            for layer, (z, size, dead) in enumerate(
                zip(self.pre, self.sizes, self.dead, strict=True)
            )
        ]

    @cached_property
    def unheard(self) -> list[Tensor]:
        """Units whose outgoing weights are 0 wherever something above listens (the dead excepted)."""
        found: list[Tensor] = []
        for layer in range(len(self.pre) - 1, -1, -1):
            outgoing = self.params[weight_key(layer + 1)]
            if layer == len(self.pre) - 1:
                if self.problem.loss.shift_invariant:
                    outgoing = outgoing - outgoing[:1]
                heard = torch.ones(len(outgoing), dtype=torch.bool)
            else:
                heard = ~(found[-1] | self.dead[layer + 1])
            alone = (outgoing[heard] == 0).all(0)
            # A unit is heard through those that lean on it, too.
            for unit in (alone & self.net.plain_units(layer)).nonzero().flatten().tolist():
                alone[unit] = alone[self.net.branch(layer, unit)].all()
            found.append(alone)
        return found[::-1]

    @cached_property
    def natural(self) -> Natural:
        """What is large and what is small here, in whatever units the data are."""
        return sizes_at(self)

    @cached_property
    def inside_flat(self) -> Tensor | None:
        """How deep each output lies where the loss does not change with it, (N, M); None if nowhere."""
        return self.problem.loss.inside_flat(self.outputs, self.problem.y)

    @cached_property
    def where_felt(self) -> OnData:
        """The same on the samples whose loss changes with the outputs: nothing else tells nearby."""
        if self.inside_flat is None:
            return self
        silent = (self.inside_flat > 4 * self.natural.output_noise).all(-1)
        if not bool(silent.any()):
            return self
        return OnData(self.problem.on_samples(~silent), self.params, self.alike)

    @cached_property
    def _loss_derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.problem.loss.derivatives(self.outputs, self.problem.y)

    @property
    def loss_first(self) -> Tensor:
        """``∂ℓ/∂f`` of each sample, (N, M)."""
        return self._loss_derivatives[1]

    @property
    def loss_second(self) -> Tensor:
        """``∂²ℓ/∂f²`` of each sample, (N, M, M)."""
        return self._loss_derivatives[2]

    @property
    def distinct(self) -> Tensor:
        """Which of the distinct inputs each sample has, (N,)."""
        return self.problem.distinct_inputs

    def per_input(self, values: Tensor) -> Tensor:
        """The mean of ``values`` (N, …) over the samples of each distinct input."""
        shape = (int(self.distinct.max()) + 1, *values.shape[1:])
        weighed = self.problem.weighed
        ones = weighed(values.new_ones(len(values), *[1] * (values.ndim - 1)))
        sums = torch.zeros(shape, dtype=values.dtype).index_add(0, self.distinct, weighed(values))
        zeros = ones.new_zeros(shape[0], *ones.shape[1:])
        return sums / zeros.index_add(0, self.distinct, ones)

    @cached_property
    def fits_best(self) -> bool:
        """Whether no outputs at all would do better on these inputs, as far as rounding can tell.

        The loss is convex and at its lowest on the targets of each distinct input: for the squared
        loss at their mean, for cross-entropy at their frequencies. Then the risk cannot be lower. Not
        so with weight decay, where such a fit is nothing special, not even critical: False.

        Rounding has two bounds, and both must hold. Outgoing weights that cancel make the terms of an
        output far larger than the output, and then residuals well above the target's rounding may be
        real. Where targets of one input differ, the outputs are there to a small part of the difference.
        """
        if not (self.problem.loss.convex and self.problem.outputs_alone):
            return False
        losses = self._loss_derivatives[0]
        unscaled = self.problem.loss.lower_bound == 0.0 and not bool(self.problem.y.any())
        if (
            unscaled and float(losses.max()) <= UNDERFLOW
        ):  # targets of 0 give no size to compare with
            return True
        bend = self.loss_second.diagonal(dim1=-2, dim2=-1)
        slope = self.per_input(self.loss_first)
        apart = (self.loss_first - slope[self.distinct]).abs().amax(0)
        apart = apart / self.problem.mean(bend).clamp(min=1e-300)
        size = self.outputs.abs().amax(0) + apart  # each output has a size of its own
        limits = EPS * torch.minimum(8 * torch.maximum(size, self._output_terms), 256 * size)
        limits = limits + BETWEEN * apart
        return bool((slope.abs() <= self.per_input(bend) * limits).all())

    @property
    def fit_is_attained(self) -> bool:
        """Whether outputs that are the best, to rounding, are those of no limit at infinity.

        Piecewise polynomial in its parameters: no unit is saturated, or on its way to a linear one.
        """
        return self.fits_best and all(each.homogeneous for each in self.net.activations)

    @cached_property
    def _output_terms(self) -> Tensor:
        last = self.net.layer(self.params, self.net.depth - 1)
        return (self.inputs[-1].values.abs() @ last.abs().mT).amax(0)

    def duplicate_directions(self, layer: int) -> Tensor:
        """Differences of units below linear layer ``layer`` that are fed with the same z, (q, D)."""
        z, size = self.pre[layer - 1], self.sizes[layer - 1]
        apart = self.dead[layer - 1] | self.constant[layer - 1] | ~self.net.plain_units(layer - 1)
        first: list[int] = []
        found = []
        for unit in (~apart).nonzero().flatten().tolist():
            for other in first:
                if (z[:, unit] - z[:, other]).abs().max() <= self.alike * size[unit]:
                    direction = torch.zeros(self.net.fan_in(layer), dtype=torch.float64)
                    direction[unit], direction[other] = 1, -1
                    found.append(direction)
                    break
            else:
                first.append(unit)
        return self._stack(found, layer)

    def constant_directions(self, layer: int) -> Tensor:
        """Constant columns that linear layer ``layer`` is fed with against its bias, (q, D)."""
        if not self.net.biases[layer]:
            return self._stack([], layer)
        width = self.net.widths[layer]
        values = self.inputs[layer].values[:, :width]
        constant = self.constant[layer - 1] if layer else (values == values[:1]).all(0)
        found = []
        for column in constant.nonzero().flatten().tolist():
            direction = torch.zeros(self.net.fan_in(layer), dtype=torch.float64)
            direction[column], direction[-1] = 1, -values[0, column]
            found.append(direction)
        return self._stack(found, layer)

    def same_pattern(self, layer: int) -> list[list[int]]:
        """Units of a piecewise linear layer grouped by their slopes on the samples."""
        slopes = self.slopes[layer]
        # A row of zeros parts no units, and without a sample there would be no row.
        rows = torch.cat([slopes, slopes.new_zeros(1, slopes.shape[1])])
        _, group = torch.unique(rows, dim=1, return_inverse=True)
        units: dict[int, list[int]] = {}
        for unit, key in enumerate(group.tolist()):
            units.setdefault(key, []).append(unit)
        return list(units.values())

    def one_slope(self, layer: int, unit: int) -> bool:
        """Whether a unit has the same slope on every sample, and not 0, as it has at a kink."""
        slopes = self.slopes[layer][:, unit].unique()
        return slopes.numel() == 1 and bool(slopes != 0)  # none where no sample counts

    def _stack(self, found: list[Tensor], layer: int) -> Tensor:
        empty = torch.zeros((0, self.net.fan_in(layer)), dtype=torch.float64)
        return torch.stack(found) if found else empty
