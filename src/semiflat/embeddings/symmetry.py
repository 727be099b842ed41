"""A network's own symmetries as embeddings of the same width: they rename, rescale or mirror its units."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from typing import Any

import numpy as np

from semiflat.embeddings.affine import AffineMap, Entries, Floats, places
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.exact import Exact, fraction, show
from semiflat.embeddings.vectors import index, listed, numbers
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole
from semiflat.networks import MLP, bias_key, weight_key

CONDITION = 1e12
"""‖M‖ ‖M⁻¹‖ of a matrix beyond which its inverse, in float64, is not to be relied on."""


class Permute(Embedding):
    """Put the units of a hidden layer in another order: the new unit k is the old ``order[k]``.

    >>> Permute(layer=0, order=[2, 0, 1])
    Permute(layer=0, order=[2, 0, 1])
    """

    def __init__(self, layer: int, order: Iterable[int]) -> None:
        self.layer = index(layer)
        self.order = tuple(whole("each unit of order", unit) for unit in listed("order", order))
        if sorted(self.order) != list(range(len(self.order))):
            raise InputError(
                f"order {list(self.order)} is not a permutation; every unit from 0 to "
                f"{len(self.order) - 1} must stand in it once"
            )

    def extend(self, widening: Widening) -> Widening:
        """``widening`` in the new order; :class:`InputError` if the layer has another number of units."""
        net = widening.wide
        net.check_layer(self.layer)
        if len(self.order) != net.hidden[self.layer]:
            raise InputError(
                f"order has {len(self.order)} units, but hidden layer {self.layer} has "
                f"{net.hidden[self.layer]}"
            )
        return widening.with_units(widening.units.permuted(self.layer, self.order))

    def to_json(self) -> list[dict[str, Any]]:
        """One entry: layer and order."""
        return [{"type": "Permute", "layer": self.layer, "order": list(self.order)}]

    def __repr__(self) -> str:
        return f"Permute(layer={self.layer}, order={list(self.order)})"


class Rescale(Embedding):
    """Multiply a unit's incoming weights by ``factor`` > 0 and divide its outgoing ones by it.

    For positively homogeneous activations (relu, leaky_relu, identity).

    >>> Rescale(layer=0, unit=1, factor=2)
    Rescale(layer=0, unit=1, factor=2)
    """

    def __init__(self, layer: int, unit: int, factor: Exact) -> None:
        self.layer, self.unit, self.factor = index(layer), index(unit), fraction(factor, "factor")
        if self.factor <= 0:
            raise InputError(f"factor must be above 0, not {show(self.factor)}")

    def extend(self, widening: Widening) -> Widening:
        """``widening`` with the unit rescaled; :class:`InputError` if σ is not positively homogeneous."""
        net = widening.wide
        net.check_unit(self.layer, self.unit)
        if not net.activations[self.layer].homogeneous:
            raise InputError(
                f"rescaling needs a positively homogeneous activation (relu, leaky_relu, identity), "
                f"and hidden layer {self.layer} has {net.activations[self.layer].name}"
            )
        units = widening.units.replicated(self.layer, self.unit, [(Fraction(1), 1)], [self.factor])
        return widening.with_units(units)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; the factor is a fraction as text."""
        factor = str(self.factor)
        return [{"type": "Rescale", "layer": self.layer, "unit": self.unit, "factor": factor}]

    def __repr__(self) -> str:
        return f"Rescale(layer={self.layer}, unit={self.unit}, factor={show(self.factor)})"


class Reflect(Embedding):
    """Turn a unit round: incoming and outgoing weights change sign.

    For activations with ``σ(−z) = κ − σ(z)``: the odd ones (tanh, sin, identity; κ = 0) and sigmoid
    (κ = 1), where κ times the old outgoing weights goes to the bias above.

    >>> Reflect(layer=0, unit=1)
    Reflect(layer=0, unit=1)
    """

    def __init__(self, layer: int, unit: int) -> None:
        self.layer, self.unit = index(layer), index(unit)

    def extend(self, widening: Widening) -> Widening:
        """``widening`` with the unit turned round.

        Raises:
            InputError: if σ has no such symmetry, or its constant has no bias above to go to.
        """
        net = widening.wide
        net.check_unit(self.layer, self.unit)
        activation = net.activations[self.layer]
        if activation.reflection is None:
            raise InputError(
                f"a unit can be turned round where σ(−z) = κ − σ(z) (tanh, sin, identity, sigmoid), and "
                f"hidden layer {self.layer} has {activation.name}"
            )
        if activation.reflection and not net.biases[self.layer + 1]:
            raise InputError(
                f"turning a {activation.name} unit round moves a constant to the bias above, and "
                f"linear layer {self.layer + 1} has none"
            )
        units = widening.units.replicated(self.layer, self.unit, [(Fraction(1), 1)], [Fraction(-1)])
        return widening.with_units(units)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry: layer and unit."""
        return [{"type": "Reflect", "layer": self.layer, "unit": self.unit}]

    def __repr__(self) -> str:
        return f"Reflect(layer={self.layer}, unit={self.unit})"


class Mix(Embedding):
    """Make each unit of a linear layer a combination of its units: ``W → M W`` and ``V → V M⁻¹``.

    For layers whose activation is the identity, of which any basis does. W are their incoming weights, biases
    too, and V their outgoing ones.

    Args:
        layer: hidden layer, from 0.
        matrix: M, (n, n); row k says of which units the new unit k is made.

    Raises:
        InputError: if M is not square or has no inverse; once applied, if the layer is not linear or has
            another number of units.

    >>> import torch
    >>> net = MLP([1, 2, 1], "identity", bias=False)
    >>> params = {"0.weight": [[1], [2]], "2.weight": [[3, 4]]}
    >>> params = {key: torch.tensor(rows, dtype=torch.float64) for key, rows in params.items()}
    >>> mixed = Mix(layer=0, matrix=[[1, 0], [-2, 1]]).apply(net, params)
    >>> mixed["0.weight"].tolist(), mixed["2.weight"].tolist()
    ([[1.0], [0.0]], [[11.0, 4.0]])
    """

    def __init__(self, layer: int, matrix: Any) -> None:
        self.layer, self.of_units = index(layer), numbers("matrix", matrix, 2)
        rows, columns = self.of_units.shape
        if rows != columns:
            raise InputError(f"matrix must be square, not {rows} × {columns}")
        self._inverse = self._inverted(self.of_units.numpy())

    @staticmethod
    def _inverted(matrix: Floats) -> Floats:
        inverse = np.full_like(matrix, np.inf)
        with suppress(np.linalg.LinAlgError):
            inverse[:] = np.linalg.inv(matrix)
        condition = np.linalg.norm(matrix, 1) * np.linalg.norm(inverse, 1)
        if not condition < CONDITION:
            raise InputError(
                f"matrix has no inverse to rely on: its condition number is {condition:.3g}, and less than "
                f"{CONDITION:g} is expected"
            )
        return inverse

    def extend(self, widening: Widening) -> Widening:
        """``widening`` with the units mixed; :class:`InputError` if the layer does not fit."""
        net = widening.wide
        net.check_layer(self.layer)
        if not net.activations[self.layer].linear:
            raise InputError(
                f"units can be mixed where the activation is the identity, and hidden layer {self.layer} "
                f"has {net.activations[self.layer].name}"
            )
        if len(self.of_units) != net.hidden[self.layer]:
            raise InputError(
                f"matrix mixes {len(self.of_units)} units, but hidden layer {self.layer} has "
                f"{net.hidden[self.layer]}"
            )
        return widening.followed_by(self._affine(net))

    def _affine(self, net: MLP) -> AffineMap:
        entries, at = Entries(net, net), places(net)
        own, above = (weight_key(self.layer), bias_key(self.layer)), weight_key(self.layer + 1)
        for key, numbers_of in at.items():
            if key in own:
                matrix, units = self.of_units.numpy(), numbers_of.reshape(len(self.of_units), -1)
            elif key == above:
                matrix, units = self._inverse.T, numbers_of.T
            else:
                entries.add(numbers_of, numbers_of, np.ones(1))
                continue
            new, old = matrix.nonzero()
            entries.add(units[new], units[old], matrix[new, old][:, None])
        return entries.build()

    def to_json(self) -> list[dict[str, Any]]:
        """One entry: layer and matrix."""
        return [{"type": "Mix", "layer": self.layer, "matrix": self.of_units.tolist()}]

    def __repr__(self) -> str:
        return f"Mix(layer={self.layer}, matrix={self.of_units.tolist()})"
