"""Inactive units, inactive propagation and constant units: added units that the output does not notice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.embeddings.base import (
    Condition,
    Embedding,
    PointLike,
    critical_where,
)
from semiflat.embeddings.vectors import numbers, rows_of
from semiflat.embeddings.widening import AddedUnit, Widening
from semiflat.errors import InputError
from semiflat.networks import MLP, bias_key, weight_key


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
        self.layer, self.bias = layer, None if bias is None else float(bias)
        if incoming is not None and bias is not None:
            raise InputError("give either incoming rows, whose last entry is the bias, or a bias")
        self.incoming = None if incoming is None else numbers("incoming", incoming, 2)
        flat = outgoing is not None and numbers_ndim(outgoing) < 2
        self.outgoing = (
            None if outgoing is None else numbers("outgoing", outgoing, 1 if flat else 2)
        )
        self.count = _count(count, self.incoming, self.outgoing)

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
        if not size > 0 or not radius > 0:
            raise InputError(f"size and radius must be above 0, not {size!r} and {radius!r}")
        rows = torch.zeros((count, inputs + 1), dtype=torch.float64)
        rows[:, -1] = -2 * size * radius
        if seed is not None:
            generator = torch.Generator().manual_seed(seed)
            drawn = torch.randn((count, inputs), generator=generator, dtype=torch.float64)
            spread = torch.rand((count, 2), generator=generator, dtype=torch.float64)
            lengths = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
            rows[:, :-1] = drawn / lengths * size * spread[:, :1] ** (1 / inputs)
            rows[:, -1] = -size * radius * (1 + 2 * spread[:, 1])
        return cls(layer, count, outgoing, incoming=rows)

    @property
    def preserves_output(self) -> bool | Condition:
        if self.incoming is None:
            return True
        return Condition("u_j·x̃ < 0 for every added unit and sample", self._largest_input)

    @property
    def preserves_criticality(self) -> bool | Condition:
        if self.outgoing is None or not self.outgoing.any():
            return True
        if self.incoming is not None:
            return True  # only relu takes these
        return critical_where("F∅ᵀ v = 0 for every v, unless the activation is relu", self)

    def extend(self, widening: Widening) -> Widening:
        net = widening.wide
        net.check_layer(self.layer)
        activation = net.activations[self.layer]
        relu = _dies(activation)
        if self.incoming is not None:
            if not relu:
                raise InputError(
                    f"incoming rows are for relu; {activation.name} is 0 only at a point: leave them "
                    "out, or use InactivePropagation(layer, incoming) for units nothing listens to"
                )
            rows = _fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        else:
            rows = self._zero_row(net, activation)
        columns = _columns(self.outgoing, self.count, net.widths[self.layer + 2])
        return widening.with_added(self.layer, _grouped(rows, columns, self.count))

    def _zero_row(self, net: MLP, activation: Activation) -> Tensor:
        bias = self.bias if self.bias is not None else (-1.0 if _dies(activation) else 0.0)
        value, _, _ = (
            float(t) for t in activation.derivatives(torch.tensor(bias, dtype=torch.float64))
        )
        has_bias = net.biases[self.layer]
        # σ(w⁰) = 0 up to the rounding of w⁰ itself, such as sin(π) = 1.2e-16.
        zero = abs(value) <= 4 * torch.finfo(torch.float64).eps * max(1.0, abs(bias))
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
        fed = _fed(point, self.layer)
        rows = _fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        return float((fed @ rows.mT).max()), -1e-12 * float(rows.abs().max())

    def verify(self, point: PointLike) -> None:
        if self.incoming is None:
            return
        z = _fed(point, self.layer) @ self.incoming.mT
        if not (z < 0).all():
            sample, unit = divmod(int(z.argmax()), z.shape[1])
            raise InputError(
                f"added unit {unit} is active: u·x̃ = {float(z[sample, unit]):.4g} on sample {sample}, "
                "and inactive units need u·x̃ < 0 on every sample; lower its bias by more than that"
            )

    def own_dimension(self, net: MLP) -> int:
        above = net.widths[self.layer + 2]
        inside = net.fan_in(self.layer) if _dies(net.activations[self.layer]) else 0
        return self.count * (above + inside)

    def own_freedom(self, net: MLP) -> int:
        return self.own_dimension(net) if _dies(net.activations[self.layer]) else 0

    def own_directions(self, point: PointLike) -> Tensor:
        net = point.problem.net
        rows = _dies(net.activations[self.layer])
        return _axes(net, self.on(net).wide, self.layer, self.count, rows=rows, columns=True)

    def to_json(self) -> list[dict[str, Any]]:
        entry: dict[str, Any] = {"type": "InactiveUnits", "layer": self.layer, "count": self.count}
        if self.bias is not None:
            entry["bias"] = self.bias
        for name in ("outgoing", "incoming"):
            value = getattr(self, name)
            if value is not None:
                entry[name] = value.tolist()
        return [entry]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> InactiveUnits:
        """The inverse of :meth:`to_json`, for one step."""
        return cls(**{key: value for key, value in entry.items() if key != "type"})

    def __repr__(self) -> str:
        return _shown(self)


class InactivePropagation(Embedding):
    """Add hidden units with any incoming weights that nothing listens to (F19 (III), Table 1).

    Their outgoing weights are 0. A critical point stays one where ``Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0``
    for every added unit, for example where every sample is fitted exactly (F19 §B).

    Args:
        layer: hidden layer, from 0.
        incoming: rows u_j with the bias last, (count, D).

    >>> InactivePropagation(layer=0, incoming=[[1.0, -2.0, 0.5]])
    InactivePropagation(layer=0, incoming=[[1.0, -2.0, 0.5]])
    """

    def __init__(self, layer: int, incoming: Any) -> None:
        self.layer = layer
        self.incoming = numbers("incoming", incoming, 2)
        self.count = _count(None, self.incoming, None)

    @property
    def preserves_criticality(self) -> Condition:
        return critical_where("Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0 for every added unit", self)

    def extend(self, widening: Widening) -> Widening:
        net = widening.wide
        net.check_layer(self.layer)
        rows = _fitting(self.incoming, net.fan_in(self.layer), "incoming", "D")
        columns = _columns(None, self.count, net.widths[self.layer + 2])
        return widening.with_added(self.layer, _grouped(rows, columns, self.count))

    def own_dimension(self, net: MLP) -> int:
        return self.count * net.fan_in(self.layer)

    def own_directions(self, point: PointLike) -> Tensor:
        net = point.problem.net
        return _axes(net, self.on(net).wide, self.layer, self.count, rows=True, columns=False)

    def to_json(self) -> list[dict[str, Any]]:
        incoming = self.incoming.tolist()
        return [{"type": "InactivePropagation", "layer": self.layer, "incoming": incoming}]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> InactivePropagation:
        """The inverse of :meth:`to_json`, for one step."""
        return cls(entry["layer"], entry["incoming"])

    def __repr__(self) -> str:
        return _shown(self)


class ConstantUnits(Embedding):
    """Add hidden units with incoming weights 0, whose constant the bias above takes back.

    Unit j hands on σ(α_j) whatever the input; with outgoing weights v_j the bias above becomes
    ``b − Σ_j σ(α_j) v_j``. For activations without a zero this stands in for inactive units. A
    critical point stays one where ``σ'(α_j) F∅ᵀ v_j = 0`` (cf. Z22 Cond. 2, F19 §B).

    Args:
        layer: hidden layer, from 0.
        biases: the α_j.
        outgoing: the v_j, (count, M).

    Raises:
        InputError: once applied, if the layer or the one above it has no bias.

    >>> ConstantUnits(layer=0, biases=[0.5], outgoing=[[1.0]])
    ConstantUnits(layer=0, biases=[0.5], outgoing=[[1.0]])
    """

    def __init__(self, layer: int, biases: Any, outgoing: Any) -> None:
        self.layer = layer
        self.biases = numbers("biases", biases, 1)
        self.outgoing = numbers("outgoing", outgoing, 2)
        self.count = len(self.biases)
        if self.count == 0 or len(self.outgoing) != self.count:
            raise InputError(
                f"{self.count} biases and {len(self.outgoing)} rows of outgoing weights were given; "
                "give one of each for every added unit, at least one"
            )

    @property
    def preserves_criticality(self) -> bool | Condition:
        if not self.outgoing.any():
            return True
        return critical_where("σ'(α_j) F∅ᵀ v_j = 0 for every added unit", self)

    def extend(self, widening: Widening) -> Widening:
        net = widening.wide
        net.check_layer(self.layer)
        for layer in (self.layer, self.layer + 1):
            if not net.biases[layer]:
                raise InputError(
                    f"constant units in hidden layer {self.layer} need biases in linear layers "
                    f"{self.layer} and {self.layer + 1}, and layer {layer} has none; use Replicate, "
                    "or a network with biases"
                )
        columns = _columns(self.outgoing, self.count, net.widths[self.layer + 2])
        values = net.activations[self.layer].function(self.biases)
        rows = torch.zeros((self.count, net.fan_in(self.layer)), dtype=torch.float64)
        rows[:, -1] = self.biases
        added = [
            AddedUnit(row, column, float(value))
            for row, column, value in zip(rows, columns, values, strict=True)
        ]
        return widening.with_added(self.layer, added)

    def own_dimension(self, net: MLP) -> int:
        return self.count * (1 + net.widths[self.layer + 2])

    def own_freedom(self, net: MLP) -> int:
        return 0 if self.outgoing.any() else self.count

    def own_directions(self, point: PointLike) -> Tensor:
        """Outgoing weights, and biases, each against the bias above."""
        net = point.problem.net
        wide, above = self.on(net).wide, net.widths[self.layer + 2]
        values, slopes, _ = net.activations[self.layer].derivatives(self.biases)
        rows, parts = rows_of(wide, self.own_dimension(net))
        column, lost = parts[weight_key(self.layer + 1)], parts[bias_key(self.layer + 1)]
        start = net.hidden[self.layer]
        for k in range(self.count):
            at = k * (above + 1)
            unit_vectors = torch.eye(above, dtype=torch.float64)
            column[at : at + above, :, start + k] = unit_vectors
            lost[at : at + above] = -values[k] * unit_vectors
            parts[bias_key(self.layer)][at + above, start + k] = 1
            lost[at + above] = -slopes[k] * self.outgoing[k]
        return rows

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "type": "ConstantUnits",
                "layer": self.layer,
                "biases": self.biases.tolist(),
                "outgoing": self.outgoing.tolist(),
            }
        ]

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> ConstantUnits:
        """The inverse of :meth:`to_json`, for one step."""
        return cls(entry["layer"], entry["biases"], entry["outgoing"])

    def __repr__(self) -> str:
        return _shown(self)


def numbers_ndim(given: Any) -> int:
    """How deeply lists are nested, or the axes of an array."""
    if hasattr(given, "ndim"):
        return int(given.ndim)
    return 1 + numbers_ndim(given[0]) if isinstance(given, list | tuple) and given else 0


def _dies(activation: Activation) -> bool:
    """Whether the activation is 0 on a half-line, as relu is."""
    return activation.slopes is not None and activation.slopes[0] == 0


def _count(count: int | None, incoming: Tensor | None, outgoing: Tensor | None) -> int:
    given = {} if count is None else {"count": count}
    if incoming is not None:
        given["rows of incoming weights"] = len(incoming)
    if outgoing is not None and outgoing.ndim == 2:
        given["rows of outgoing weights"] = len(outgoing)
    if not given:
        given["count"] = 1
    values = list(given.values())
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in values)
    if not whole or len(set(values)) > 1:
        raise InputError(
            "the number of added units must be one whole number of at least 1; given: "
            + ", ".join(f"{name} {value!r}" for name, value in given.items())
        )
    return values[0]


def _fitting(rows: Tensor, size: int, name: str, letter: str) -> Tensor:
    if rows.shape[-1] != size:
        raise InputError(
            f"{name} weights have {rows.shape[-1]} entries each; expected {letter} = {size}"
            + (" (the bias last)" if letter == "D" else ", the width of the layer above")
        )
    return rows


def _columns(outgoing: Tensor | None, count: int, above: int) -> Tensor:
    if outgoing is None:
        return torch.zeros((1, above), dtype=torch.float64)
    fitted = _fitting(outgoing, above, "outgoing", "M")
    return fitted if fitted.ndim == 2 else fitted[None]


def _grouped(rows: Tensor, columns: Tensor, count: int) -> list[AddedUnit]:
    """One unit for all if they are alike, else one for each."""
    if len(rows) == 1 and len(columns) == 1:
        return [AddedUnit(rows[0], columns[0], count=count)]
    return [
        AddedUnit(row, column)
        for row, column in zip(rows.expand(count, -1), columns.expand(count, -1), strict=True)
    ]


def _axes(net: MLP, wide: MLP, layer: int, count: int, rows: bool, columns: bool) -> Tensor:
    """Unit vectors of the added units' incoming rows and outgoing columns, (k, P_wide)."""
    start, above, fan = net.hidden[layer], net.widths[layer + 2], wide.fan_in(layer)
    size = rows * fan + columns * above
    flat, parts = rows_of(wide, count * size)
    for k in range(count):
        at = k * size
        if rows:
            width = wide.widths[layer]
            parts[weight_key(layer)][at : at + width, start + k] = torch.eye(width).double()
            if wide.biases[layer]:
                parts[bias_key(layer)][at + width, start + k] = 1
            at += fan
        if columns:
            parts[weight_key(layer + 1)][at : at + above, :, start + k] = torch.eye(above).double()
    return flat


def _fed(point: PointLike, layer: int) -> Tensor:
    """``x̃`` of a hidden layer on the data, (N, D)."""
    net, h = point.problem.net, point.problem.X
    for below in range(layer):
        z = h @ point.params[weight_key(below)].mT
        if net.biases[below]:
            z = z + point.params[bias_key(below)]
        h = net.activations[below].function(z)
    return torch.cat([h, h.new_ones(len(h), 1)], dim=1) if net.biases[layer] else h


def _shown(step: Embedding) -> str:
    """Its arguments as typed; arrays of more than eight numbers are left out."""
    (entry,) = step.to_json()
    parts = []
    for name, value in entry.items():
        if name == "type":
            continue
        long = isinstance(value, list) and torch.tensor(value).numel() > 8
        parts.append(f"{name}={'…' if long else value}")
    return f"{type(step).__name__}({', '.join(parts)})"
