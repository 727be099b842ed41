"""Inactive units: units that are 0, everywhere or on the data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.embeddings.added import (
    columns_of,
    dies,
    fitting,
    grouped,
    how_many,
    nesting,
    shown,
    unit_directions,
)
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.conditions import Condition, PointLike
from semiflat.embeddings.vectors import index, number, numbers
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole, whole_seed
from semiflat.networks import MLP


class InactiveUnits(Embedding):
    """Add hidden units that are 0, with any outgoing weights (F19 (II), Table 1; (II)_R, eq. 10).

    For smooth activations the incoming weights are 0 and the bias is a zero w⁰ of the activation
    (tanh, gelu, silu, identity: 0; sin: multiples of π), so the function is kept everywhere. A
    critical point stays one if the outgoing weights v are 0 as well (F19 eq. 28), or where
    ``F∅ᵀ v = 0``.

    For relu the units are inactive on the data, ``u·x̃ < 0`` on every sample: by default with weights
    0 and bias −1, or with ``incoming`` given, which is checked on the data once it is applied to a
    point. Critical points stay critical, and minima minima (F19 Prop. 7, Thm 9).

    Args:
        layer: hidden layer, from 0.
        count: how many units are added; None to take it from ``incoming`` or ``outgoing``.
        outgoing: outgoing weights v: (M,) for all of them alike, or (count, M); None for 0.
        bias: the bias w⁰ of a smooth activation, or the bias below 0 for relu.
        incoming: relu only: rows u with the bias last, (count, D).

    Raises:
        InputError: once applied, if the activation has no such point (sigmoid, softplus; leaky_relu,
            whose zero is a kink), the bias is none, or a unit is active on a sample.

    >>> InactiveUnits(layer=0, count=2, outgoing=[1.0])
    InactiveUnits(layer=0, count=2, outgoing=[1.0])
    """

    def __init__(
        self,
        layer: int,
        count: int | None = None,
        outgoing: Any = None,
        bias: float | None = None,
        incoming: Any = None,
    ) -> None:
        self.layer, self.bias = index(layer), None if bias is None else number("bias", bias)
        if incoming is not None and bias is not None:
            raise InputError("give either incoming rows, whose last entry is the bias, or a bias")
        self.incoming = None if incoming is None else numbers("incoming", incoming, 2)
        flat = outgoing is not None and nesting(outgoing) < 2
        self.outgoing = (
            None if outgoing is None else numbers("outgoing", outgoing, 1 if flat else 2)
        )
        self.count = how_many(count, self.incoming, self.outgoing)

    @classmethod
    def in_box(
        cls,
        layer: int,
        count: int,
        inputs: int,
        size: float = 2.0,
        radius: float = 1.0,
        outgoing: Any = None,
        seed: int | None = None,
    ) -> InactiveUnits:
        """Inactive relu units drawn from the box B_K of F19 Prop. 7.

        With ``‖h‖ ≤ radius`` for everything the layer is fed with, every unit with weights of norm at
        most K and a bias between −3K·radius and −K·radius is inactive (or on the edge, at the corner).

        Args:
            inputs: number of units below, without the bias.
            size: K, above 0.
            radius: the norm that the data are known to stay within.
            seed: None for the middle of the box: weights 0 and bias −2K·radius.

        >>> InactiveUnits.in_box(0, count=1, inputs=2).incoming.tolist()
        [[0.0, 0.0, -4.0]]
        """
        count, inputs = whole("count", count, 1), whole("inputs", inputs, 1)
        size, radius = number("size", size), number("radius", radius)
        if not size > 0 or not radius > 0:
            raise InputError(f"size and radius must be above 0, not {size:g} and {radius:g}")
        rows = torch.zeros((count, inputs + 1), dtype=torch.float64)
        rows[:, -1] = -2 * size * radius
        if seed is not None:
            generator = torch.Generator().manual_seed(whole_seed(seed))
            drawn = torch.randn((count, inputs), generator=generator, dtype=torch.float64)
            spread = torch.rand((count, 2), generator=generator, dtype=torch.float64)
            lengths = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
            rows[:, :-1] = drawn / lengths * size * spread[:, :1] ** (1 / inputs)
            rows[:, -1] = -size * radius * (1 + 2 * spread[:, 1])
        return cls(layer, count, outgoing, incoming=rows)

    @property
    def preserves_output(self) -> bool | Condition:
        """``True``, or with ``incoming`` rows: where no added unit is active on any sample."""
        if self.incoming is None:
            return True
        return Condition("u_j·x̃ < 0 for every added unit and sample", self._largest_input)

    @property
    def preserves_criticality(self) -> bool | Condition:
        """``True`` for relu and without outgoing weights; else where ``F∅ᵀ v = 0`` for each v."""
        if self.outgoing is None or not self.outgoing.any():
            return True
        if self.incoming is not None:
            return True  # only relu takes these
        return self.critical_where("F∅ᵀ v = 0 for every v, unless the activation is relu")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the added units.

        Raises:
            InputError: if the activation has no zero to put them at, or the rows do not fit.
        """
        net = widening.wide
        net.check_layer(self.layer)
        activation = net.activations[self.layer]
        relu = dies(activation)
        if self.incoming is not None:
            if not relu:
                raise InputError(
                    f"incoming rows are for relu; {activation.name} is 0 only at a point: leave them "
                    "out, or use InactivePropagation(layer, incoming) for units nothing listens to"
                )
            rows = fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        else:
            rows = self._zero_row(net, activation)
        columns = columns_of(self.outgoing, self.count, net.widths[self.layer + 2])
        return widening.with_added(self.layer, grouped(rows, columns, self.count))

    def _zero_row(self, net: MLP, activation: Activation) -> Tensor:
        bias = self.bias if self.bias is not None else (-1.0 if dies(activation) else 0.0)
        value, slope, _ = (
            float(t) for t in activation.derivatives(torch.tensor(bias, dtype=torch.float64))
        )
        has_bias = net.biases[self.layer]
        # σ(w⁰) = 0 up to the rounding of w⁰ itself, such as sin(π) = 1.2e-16.
        # A value that underflows, as gelu's at −1000, is no zero: there the slope is 0, too.
        rounding = 4 * torch.finfo(torch.float64).eps * abs(slope * bias)
        zero = abs(value) <= rounding and (bias == 0 or slope != 0 or dies(activation))
        if not zero or (not activation.smooth and bias >= 0) or (bias and not has_bias):
            why = (
                f"linear layer {self.layer} has no bias"
                if bias and not has_bias
                else f"{activation.name} is {value:.4g} at the bias {bias:g}"
                if not zero
                else f"{activation.name} has a kink at {bias:g}"
            )
            raise InputError(
                f"inactive units need a bias at which the activation of hidden layer {self.layer} is 0 "
                f"and smooth, and {why}. Instead use NullUnits(layer, biases), "
                "InactivePropagation(layer, incoming), ConstantUnits(layer, biases, outgoing), which "
                "moves the constant to the bias above, or Replicate(layer, unit, weights)"
            )
        row = torch.zeros(net.fan_in(self.layer), dtype=torch.float64)
        if has_bias:
            row[-1] = bias
        return row[None]

    def _largest_input(self, point: PointLike) -> tuple[float, float]:
        assert self.incoming is not None
        net = point.problem.net
        fed = net.fed(point.params, point.problem.X, self.layer)
        rows = fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        return float((fed @ rows.mT).max()), -1e-12 * float(rows.abs().max())

    def verify(self, point: PointLike) -> None:
        """Raise :class:`InputError`, which names unit and sample, if an added unit is active on the data."""
        if self.incoming is None:
            return
        z = point.problem.net.fed(point.params, point.problem.X, self.layer) @ self.incoming.mT
        if not (z < 0).all():
            *_, sample, unit = np.unravel_index(int(z.argmax()), z.shape)
            raise InputError(
                f"added unit {unit} is active: u·x̃ = {float(z.max()):.4g} on sample {sample}, and "
                "inactive units need u·x̃ < 0 on every sample; lower its bias by more than that"
            )

    def own_dimension(self, net: MLP) -> int:
        """count·M, the outgoing weights; for relu count·(M + D), the incoming ones too."""
        above = net.widths[self.layer + 2]
        inside = net.fan_in(self.layer) if dies(net.activations[self.layer]) else 0
        return self.count * (above + inside)

    def own_freedom(self, net: MLP) -> int:
        """count·(M + D) for relu, where all of it keeps critical points critical; else 0."""
        return self.own_dimension(net) if dies(net.activations[self.layer]) else 0

    def own_directions(self, point: PointLike) -> Tensor:
        """The weights of the added units one by one: outgoing, and for relu incoming."""
        net = point.problem.net
        rows = dies(net.activations[self.layer])
        return unit_directions(
            net, self.on(net).wide, self.layer, self.count, rows=rows, columns=True
        )

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; weights are lists of floats."""
        entry: dict[str, Any] = {"type": "InactiveUnits", "layer": self.layer, "count": self.count}
        if self.bias is not None:
            entry["bias"] = self.bias
        for name in ("outgoing", "incoming"):
            value = getattr(self, name)
            if value is not None:
                entry[name] = value.tolist()
        return [entry]

    def __repr__(self) -> str:
        return shown(self)
