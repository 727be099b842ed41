"""General compatible embeddings: an index map, multipliers and backward weights (Z22 Def. 5.2)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiflat.embeddings.affine import AffineMap, Entries, places
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.compatible_conditions import (
    NULL,
    backward_weights,
    check_conditions,
    check_shares,
    default_multipliers,
    outer,
    random_multipliers,
)
from semiflat.embeddings.compatible_inputs import (
    check_fits,
    equal_shares,
    random_shares,
    read_groups,
    read_matrices,
    read_null_biases,
    read_vectors,
)
from semiflat.embeddings.compatible_tangents import tangents
from semiflat.embeddings.conditions import PointLike
from semiflat.embeddings.unit_map import UnitMap
from semiflat.embeddings.unit_runs import Copies, Nulls
from semiflat.embeddings.vectors import number
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole_seed
from semiflat.networks import MLP, bias_key, weight_key

MOST_DRAWN = 10**8
"""Parameters of a random wide network: each is a float64 number or several while it is drawn."""

ROUNDING = 1e-12
"""Part of the largest weight, or of the longest tangent, below which a tangent is what rounding left of 0."""


class Compatible(Embedding):
    """The general compatible embedding of Z22 Def. 5.2, which contains all splitting and null ones.

    Wide unit i of a layer copies narrow unit ``I(i)``, or is a null unit. Its weight from wide unit j
    below is ``α_ij W[I(i), I(j)]`` (``α_ij`` itself if either is null). The α satisfy Z22 Condition 1
    with backward weights β: for every i and narrow unit s below, ``Σ_{j∈I⁻¹(s)} α_ij`` is 1 for a copy
    and 0 for a null unit; for every j and narrow unit k, ``Σ_{i∈I⁻¹(k)} β_i α_ij`` is β_j for a copy
    and 0 for a null unit. Then the wide function is the narrow one, the error at a copy is β times the
    narrow one, and critical points stay critical (Z22 Thm 5.1).

    Args:
        widths: all widths of the wide network, input and output included.
        index_map: for each hidden layer the narrow unit that each wide unit copies, ``None`` or −1
            for a null unit; every narrow unit must have a copy.
        alpha: for each linear layer the multipliers, (out, in); None for ``α_ij = β_j`` between
            copies and 0 at null units, which is a composition of replications and null units.
        beta: for each hidden layer the backward weights, whatever stands at null units; None for
            those that follow from ``alpha``, or equal ones without it.
        null_biases: for each hidden layer the effective biases b* of its null units, in order
            (Z22 Cond. 2); None for 0.
        net: the narrow network, if it is known already.

    Raises:
        InputError: if the index map is not total or does not fit, or a condition is violated, with
            the equation, its layer, unit and residual.

    >>> Compatible([2, 3, 1], index_map=[[0, 1, 1]], beta=[[1.0, 0.25, 0.75]])
    Compatible(widths=[2, 3, 1], index_map=[[0, 1, 1]])
    >>> Compatible([2, 3, 1], index_map=[[0, 1, 1]], alpha=[np.ones((3, 2)), [[1.0, 0.5, 0.4]]])
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: forward condition violated in linear layer 1: the multipliers ...
    """

    def __init__(
        self,
        widths: Sequence[int],
        index_map: Sequence[Sequence[int | None]],
        alpha: Sequence[Any] | None = None,
        beta: Sequence[Any] | None = None,
        null_biases: Sequence[Any] | None = None,
        net: MLP | None = None,
    ) -> None:
        self.widths = MLP(widths).widths
        self.groups = read_groups(self.widths, index_map)
        self.net = net
        given = None if alpha is None else read_matrices(alpha, self.widths)
        backward = None if beta is None else read_vectors("beta", beta, self.groups)
        if backward is not None:
            check_shares(self.groups, backward)
        if given is None:
            backward = backward or [equal_shares(group) for group in self.groups]
            given = default_multipliers(self.groups, backward, self.widths)
        elif backward is None:
            backward = backward_weights(self.groups, given)
        check_conditions(self.groups, given, backward)
        self.alpha, self.beta = given, backward
        self.null_biases = read_null_biases(null_biases, self.groups)

    @classmethod
    def random(
        cls,
        net: MLP,
        widths: Sequence[int],
        seed: int | None = None,
        index_map: Sequence[Sequence[int | None]] | None = None,
        scale: float = 1.0,
    ) -> Compatible:
        """A random general compatible embedding of ``net`` into a network of the given widths.

        Draws the index map if none is given, then β (Gaussian with the right sums), then α uniformly
        over the directions that the conditions leave free, then the null biases.

        Args:
            widths: all widths of the wide network, each at least the narrow one.
            scale: standard deviation of everything drawn.

        >>> net = MLP([2, 2, 1])
        >>> Compatible.random(net, widths=[2, 6, 1], seed=0).on().wide.widths
        (2, 6, 1)
        """
        if not isinstance(net, MLP):
            raise InputError(f"net must be an MLP, not {type(net).__name__}")
        generator = np.random.default_rng(None if seed is None else whole_seed(seed))
        scale = number("scale", scale)
        whole_net = MLP(widths)
        if whole_net.parameter_count > MOST_DRAWN:
            raise InputError(
                f"widths {list(whole_net.widths)} make {whole_net.parameter_count} parameters, which are all "
                f"drawn; give widths that make at most {MOST_DRAWN}"
            )
        wide = whole_net.widths
        check_fits(net, wide)
        if index_map is None:
            index_map = [
                [
                    *range(narrow),
                    # Null units need a bias above them.
                    *generator.integers(
                        NULL if net.biases[layer + 1] else 0, narrow, size=width - narrow
                    ).tolist(),
                ]
                for layer, (narrow, width) in enumerate(zip(net.hidden, wide[1:-1], strict=True))
            ]
        groups = read_groups(wide, index_map)
        beta = [random_shares(group, generator, scale) for group in groups]
        alpha = random_multipliers(groups, beta, wide, generator, scale)
        biases = [
            scale * generator.standard_normal(int((group.index == NULL).sum())) * net.biases[layer]
            for layer, group in enumerate(groups)
        ]
        drawn = cls(wide, index_map, alpha, beta, biases, net)
        drawn._check(net)
        return drawn

    @property
    def index_map(self) -> list[list[int | None]]:
        """For each hidden layer the source of each wide unit, ``None`` for null units."""
        return [[None if s == NULL else s for s in g.index.tolist()] for g in self.groups]

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by the embedding: as copies where α factorises, else as an affine map.

        Raises:
            InputError: if it was made for other widths.
        """
        net = widening.wide
        self._check(net)
        factorised = self._as_copies(widening)
        if factorised is not None:
            return factorised
        return widening.followed_by(self._affine(net))

    def _check(self, net: MLP) -> None:
        check_fits(net, self.widths)
        for layer, group in enumerate(self.groups):
            if group.size != net.hidden[layer]:
                raise InputError(
                    f"index map of hidden layer {layer} covers narrow units 0 to {group.size - 1}, but "
                    f"the network has {net.hidden[layer]} there"
                )
            nulls = bool((group.index == NULL).any())
            if nulls and not net.biases[layer + 1]:
                raise InputError(
                    f"null units in hidden layer {layer} need a bias in linear layer {layer + 1} above "
                    "it, which this network does not have; map every wide unit to a narrow one"
                )
            if nulls and not net.biases[layer] and self.null_biases[layer].any():
                raise InputError(
                    f"linear layer {layer} has no bias, so the effective biases of its null units can "
                    f"only be 0; given: {self.null_biases[layer].tolist()}"
                )

    def _as_copies(self, widening: Widening) -> Widening | None:
        """The same as replications and null units, which stay lazy, if α factorises."""
        default = default_multipliers(self.groups, self.beta, self.widths)
        same = all(np.array_equal(a, b) for a, b in zip(self.alpha, default, strict=True))
        whole = all(widening.units.trivial(layer) for layer in range(len(self.groups)))
        if not same or not whole:
            return None
        layers = []
        for group, beta, biases in zip(self.groups, self.beta, self.null_biases, strict=True):
            left = iter(biases.tolist())
            layers.append(
                tuple(
                    Nulls(Fraction(next(left)))
                    if source == NULL
                    else Copies(source, Fraction(share))
                    for source, share in zip(group.index.tolist(), beta.tolist(), strict=True)
                )
            )
        return widening.with_units(UnitMap(tuple(layers)))

    def _affine(self, net: MLP) -> AffineMap:
        wide = net.with_hidden(self.widths[1:-1])
        entries = Entries(net, wide)
        here, there = places(net), places(wide)
        layers = outer(self.groups, net.inputs, net.outputs)
        constant = np.zeros(net.inputs)  # what null units below hand on, 0 at copies
        for layer in range(net.depth):
            above, below, alpha = layers[layer + 1], layers[layer], self.alpha[layer]
            rows, columns = above.index, below.index
            both = np.outer(above.copies, below.copies)
            weights, numbers_there = here[weight_key(layer)], there[weight_key(layer)]
            taken = weights[rows.clip(min=0)[:, None], columns.clip(min=0)]
            entries.add(numbers_there, taken, alpha * both)
            entries.c[numbers_there] = alpha * ~both
            # Bias: null units below are made up for, and null units have their effective bias.
            effective = np.zeros(len(rows))
            if layer < len(self.groups):
                effective[rows == NULL] = self.null_biases[layer]
            if net.biases[layer]:
                numbers_there = there[bias_key(layer)]
                chosen = here[bias_key(layer)][rows.clip(min=0)]
                entries.add(numbers_there, chosen, (rows != NULL).astype(float))
                entries.c[numbers_there] = effective - alpha @ constant
            if layer < len(self.groups):
                values = net.activations[layer].function(torch.from_numpy(effective)).numpy()
                constant = np.where(rows == NULL, values, 0.0)
        return entries.build()

    def own_freedom(self, net: MLP) -> int:
        """``K + Σ_l K_l K_{l−1}`` with K_l the units added to layer l and K their sum (Z22 §6.1)."""
        added = [0, *(len(g.index) - g.size for g in self.groups), 0]
        # Null units in layers without a bias have no bias to choose.
        own = zip(self.null_biases, net.biases, strict=False)
        fixed = sum(len(biases) for biases, has_bias in own if not has_bias)
        return sum(added) - fixed + sum(a * b for a, b in itertools.pairwise(added))

    def own_dimension(self, net: MLP) -> int:
        """The same as :meth:`own_freedom`: critical points stay critical on all of the set."""
        return self.own_freedom(net)

    def own_directions(self, point: PointLike) -> Tensor:
        """The tangents by α, β and null biases, an orthonormal basis, (k, P_wide); small widths only."""
        net = point.problem.net
        self._check(net)
        vectors = tangents(self.groups, self.alpha, self.beta, self.null_biases, net, point.params)
        _, sizes, right = torch.linalg.svd(vectors, full_matrices=False)
        largest = max(float(tensor.abs().max()) for tensor in point.params.values())
        rank = int((sizes > ROUNDING * max([largest, *sizes[:1].tolist()])).sum())
        basis: Tensor = right[:rank]
        return basis

    def tangent_rank(self, point: PointLike) -> int:
        """Dimension of the set of wide points at this one, by the rank of the tangent map.

        At generic points it is :meth:`degrees_of_freedom`; it is less where narrow weights are 0.
        """
        return len(self.own_directions(point))

    def to_json(self) -> list[dict[str, Any]]:
        """One entry: widths, index map, α, β and null biases."""
        return [
            {
                "type": "Compatible",
                "widths": list(self.widths),
                "index_map": self.index_map,
                "alpha": [a.tolist() for a in self.alpha],
                "beta": [b.tolist() for b in self.beta],
                "null_biases": [b.tolist() for b in self.null_biases],
            }
        ]

    def __repr__(self) -> str:
        shown = self.index_map if sum(self.widths) <= 24 else "…"
        return f"Compatible(widths={list(self.widths)}, index_map={shown})"
