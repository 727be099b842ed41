"""Embeddings that widen every hidden layer alike: three-fold splitting and two-fold null units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from semiflat.embeddings.base import Composition, Embedding
from semiflat.embeddings.compatible import Compatible
from semiflat.embeddings.compatible_conditions import Floats
from semiflat.embeddings.conditions import PointLike
from semiflat.embeddings.exact import Exact, fraction, show, total
from semiflat.embeddings.null_units import NullUnits
from semiflat.embeddings.vectors import listed
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError
from semiflat.networks import MLP


class GlobalSplit(Embedding):
    """Copies of the whole network side by side, which share the output (Z22 Ex. 5.1).

    Every hidden layer is as many times as wide as there are shares; nothing leads from one copy to
    another, and copy c has ``shares[c]`` of the output weights. Z22's three-fold splitting has shares
    (1, 1, −1).

    Args:
        shares: numbers that sum to 1.

    >>> GlobalSplit().on(MLP([1, 2, 2, 1])).wide.widths
    (1, 6, 6, 1)
    """

    def __init__(self, shares: Sequence[Exact] = (1, 1, -1)) -> None:
        self.shares = tuple(fraction(share, "share") for share in listed("shares", shares))
        if total((share, 1) for share in self.shares) != 1:
            raise InputError(f"shares {list(map(str, self.shares))} must sum to 1")

    def compatible(self, net: MLP) -> Compatible:
        """The same as a general compatible embedding of ``net``."""
        if not net.hidden:
            raise InputError(f"widths {list(net.widths)} have no hidden layer to split")
        folds = len(self.shares)
        shares: Floats = np.array([float(share) for share in self.shares])
        alpha: list[Floats] = []
        for layer in range(net.depth):
            block: Floats = np.ones((net.widths[layer + 1], net.widths[layer]))
            inner: Floats = np.eye(folds) if layer else np.ones((folds, 1))
            whole: Floats = np.kron(inner if layer < net.depth - 1 else shares, block).astype(float)
            alpha.append(whole)
        return Compatible(
            [net.inputs, *(folds * width for width in net.hidden), net.outputs],
            [list(range(width)) * folds for width in net.hidden],
            alpha,
            [np.repeat(shares, width) for width in net.hidden],
        )

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the copies of the network; :class:`InputError` without a hidden layer."""
        return self.compatible(widening.wide).extend(widening)

    def own_freedom(self, net: MLP) -> int:
        """As of the general compatible embedding that it is, ``K + Σ_l K_l K_{l−1}``."""
        return self.compatible(net).own_freedom(net)

    def own_dimension(self, net: MLP) -> int:
        """The same as :meth:`own_freedom`."""
        return self.own_freedom(net)

    def own_directions(self, point: PointLike) -> Tensor:
        """As of the general compatible embedding that it is; see :meth:`Compatible.own_directions`."""
        return self.compatible(point.problem.net).own_directions(point)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; shares are fractions as text."""
        return [{"type": "GlobalSplit", "shares": list(map(str, self.shares))}]

    def __repr__(self) -> str:
        return f"GlobalSplit(shares=[{', '.join(map(show, self.shares))}])"


class GlobalNull(Embedding):
    """Null units in every hidden layer (Z22 Ex. 5.2).

    Args:
        biases: for each hidden layer the biases of its null units; Z22's two-fold null embedding has
            as many as the layer has units. A single number stands for that many of it.

    >>> GlobalNull(0.5).on(MLP([1, 2, 3, 1])).wide.widths
    (1, 4, 6, 1)
    """

    def __init__(self, biases: Exact | Sequence[Iterable[Exact]]) -> None:
        self.biases: tuple[Any, ...]
        scalar = isinstance(biases, str) or getattr(biases, "ndim", 1) == 0
        if isinstance(biases, Iterable) and not scalar:
            given = list(biases)
            if not given:
                raise InputError(
                    "biases is empty; give one number, or a list for each hidden layer"
                )
            try:
                self.biases = tuple(tuple(fraction(b, "bias") for b in layer) for layer in given)
            except TypeError:
                raise InputError(
                    f"biases must be one number, or a list for each hidden layer, not {biases!r}"
                ) from None
        else:
            self.biases = (fraction(biases, "bias"),)

    def parts(self, net: MLP) -> list[NullUnits]:
        """The same, layer by layer."""
        if not net.hidden:
            raise InputError(f"widths {list(net.widths)} have no hidden layer to widen")
        if not isinstance(self.biases[0], tuple):
            return [
                NullUnits(layer, [self.biases[0]] * width) for layer, width in enumerate(net.hidden)
            ]
        if len(self.biases) != len(net.hidden):
            raise InputError(
                f"biases has {len(self.biases)} lists, but widths {list(net.widths)} have "
                f"{len(net.hidden)} hidden layer(s)"
            )
        return [NullUnits(layer, b) for layer, b in enumerate(self.biases) if b]

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the null units of each layer; errors as for :class:`NullUnits`."""
        for part in self.parts(widening.wide):
            widening = part.extend(widening)
        return widening

    def own_freedom(self, net: MLP) -> int:
        """The biases that may be chosen, over all layers."""
        return sum(part.own_freedom(net) for part in self.parts(net))

    def own_dimension(self, net: MLP) -> int:
        """The same as :meth:`own_freedom`."""
        return self.own_freedom(net)

    def own_directions(self, point: PointLike) -> Tensor:
        """The biases of all null units one by one, (K, P_wide)."""
        return Composition(self.parts(point.problem.net)).flat_directions(point)

    def to_json(self) -> list[dict[str, Any]]:
        """One entry; biases are fractions as text."""
        scalar = not isinstance(self.biases[0], tuple)
        biases = str(self.biases[0]) if scalar else [list(map(str, b)) for b in self.biases]
        return [{"type": "GlobalNull", "biases": biases}]

    def __repr__(self) -> str:
        if not isinstance(self.biases[0], tuple):
            return f"GlobalNull(biases={show(self.biases[0])})"
        layers = (f"[{', '.join(map(show, layer))}]" for layer in self.biases)
        return f"GlobalNull(biases=[{', '.join(layers)}])"
