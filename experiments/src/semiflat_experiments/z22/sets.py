"""Z22 §6.1: the set of wide points over one narrow point, from Conditions 1 and 2 by automatic differentiation.

Conditions and parameters are written out here from the paper, and share nothing with
:class:`semiflat.Compatible` but the numbers of one embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import semiflat as sf

RANK = 1e-9
"""Singular values below this part of the largest are 0."""


def rank(matrix: Tensor) -> int:
    """Numerical rank.

    >>> rank(torch.tensor([[1.0, 2.0], [2.0, 4.0]], dtype=torch.float64))
    1
    """
    sizes = torch.linalg.svdvals(matrix)
    return int((sizes > RANK * sizes.max()).sum()) if sizes.numel() else 0


@dataclass(frozen=True)
class WideSet:
    """All wide points with one index map, near one of them.

    Attributes:
        point: the narrow one.
        copies: for each layer, input and output included, a 1 where a wide unit (row) copies a narrow one.
        shapes: of the multipliers, of the backward weights, of the effective biases of null units.
        start: these variables of the given embedding, flat.
    """

    point: sf.Point
    copies: Sequence[Tensor]
    shapes: Sequence[tuple[int, ...]]
    start: Tensor

    @classmethod
    def of(cls, embedding: sf.Compatible, point: sf.Point) -> WideSet:
        """That of an embedding."""
        net = point.problem.net
        maps = [range(net.inputs), *embedding.index_map, range(net.outputs)]
        copies = []
        for index, size in zip(maps, net.widths, strict=True):
            rows = [[float(source == unit) for unit in range(size)] for source in index]
            copies.append(torch.tensor(rows, dtype=torch.float64))
        given = [*embedding.alpha, *embedding.beta, *embedding.null_biases]
        tensors = [torch.as_tensor(each, dtype=torch.float64) for each in given]
        shapes = [tuple(each.shape) for each in tensors]
        return cls(point, copies, shapes, torch.cat([each.reshape(-1) for each in tensors]))

    def conditions(self, variables: Tensor) -> Tensor:
        """What Condition 1 sets to 0, and the weights β of null units, which it does not have."""
        alpha, beta, _ = self._split(variables)
        ones = [torch.ones(len(c), dtype=torch.float64) for c in (self.copies[0], self.copies[-1])]
        weights = [ones[0], *beta, ones[1]]
        found = []
        for layer, multipliers in enumerate(alpha):
            below, above = self.copies[layer], self.copies[layer + 1]
            found.append(multipliers @ below - above.sum(1, keepdim=True))
            found.append(above.T @ (weights[layer + 1][:, None] * multipliers) - weights[layer])
        found += [
            vector * (1 - copies.sum(1))
            for vector, copies in zip(beta, self.copies[1:-1], strict=True)
        ]
        return torch.cat([each.reshape(-1) for each in found])

    def parameters(self, variables: Tensor) -> Tensor:
        """The wide parameters, flat: Def. 5.2 with Condition 2."""
        alpha, _, biases = self._split(variables)
        net, params = self.point.problem.net, self.point.params
        found, handed_on = [], torch.zeros(net.inputs, dtype=torch.float64)
        for layer, multipliers in enumerate(alpha):
            below, above = self.copies[layer], self.copies[layer + 1]
            both = above.sum(1, keepdim=True) * below.sum(1)
            weights = above @ params[f"{2 * layer}.weight"] @ below.T + (1 - both)
            effective = above @ params[f"{2 * layer}.bias"]
            null = 1 - above.sum(1)
            if layer < len(biases):
                own = torch.diag(null)[:, null.bool()] @ biases[layer]
                effective = effective + own
            found += [(multipliers * weights).reshape(-1), effective - multipliers @ handed_on]
            if layer < len(biases):
                handed_on = null * net.activations[layer].function(own)
        return torch.cat(found)

    def tangent_rank(self) -> int:
        """Dimension of the set: rank of the parameters' derivative on the kernel of the conditions'."""
        equations = torch.func.jacrev(self.conditions)(self.start)
        _, sizes, right = torch.linalg.svd(equations)
        kernel = right[int((sizes > RANK * sizes[0]).sum()) :]
        return rank(torch.func.jacrev(self.parameters)(self.start) @ kernel.T)

    def _split(self, variables: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        sizes = [int(torch.tensor(shape).prod()) for shape in self.shapes]
        pieces = [
            piece.reshape(shape)
            for piece, shape in zip(variables.split(sizes), self.shapes, strict=True)
        ]
        depth = len(self.copies) - 1
        return pieces[:depth], pieces[depth : 2 * depth - 1], pieces[2 * depth - 1 :]


def span(embedding: sf.Compatible, point: sf.Point, seed: int) -> int:
    """Dimension of the affine space that points of the set span, from ones drawn at random.

    It is the set's own dimension if the set is flat, and more if it is curved.
    """
    net, few = point.problem.net, embedding.degrees_of_freedom(point.problem.net)
    count = 2 * few + 8
    drawn = []
    for number in range(count):
        other = sf.Compatible.random(
            net, embedding.widths, seed=count * seed + number, index_map=embedding.index_map
        )
        wide = other(point)
        drawn.append(wide.problem.net.flatten(wide.params))
    points = torch.stack(drawn)
    return rank(points - points.mean(0))
