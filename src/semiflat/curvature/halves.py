"""Which sums a symmetric matrix of second derivatives is made of, and how it is spread out from them.

The block of ``W̃_l`` and itself is symmetric twice over: its entries ``Σ_ν B[i,a] h̃_j h̃_b`` stay as
they are when i and a are swapped, or j and b. Those with i ≤ a and j ≤ b are a quarter of it, and all
there are. Of two different layers the block is summed once, the upper one first, and mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from semiflat.curvature.sweep import contract, outer, row_ranges
from semiflat.networks import MLP

WIDE = 256
"""Parameters of a layer from which its own block is worth halving: choosing the pairs costs time, too."""
KEPT = 1000
"""Parameters up to which a table says where each entry stands, and is kept for the next time."""


@dataclass(frozen=True)
class Block:
    """Where the block of two linear layers stands among the sums.

    Attributes:
        layer, below: l and m ≤ l.
        outs, fans: the numbers of units of the two, and of what feeds them.
        start: of its sums.
    """

    layer: int
    below: int
    outs: tuple[int, int]
    fans: tuple[int, int]
    start: int

    @property
    def halved(self) -> bool:
        """Whether both symmetries are used."""
        return self.layer == self.below and self.outs[0] * self.fans[0] >= WIDE

    @property
    def inputs_first(self) -> bool:
        """Whether the two inputs are multiplied first, and not B with one.

        These products are the larger part of the memory traffic. Those of the data with themselves
        are shared by all networks; how many there are is not asked, so that it changes no result.
        """
        return self.layer == 0 or self.fans[0] <= self.outs[0] * self.outs[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the sums, as the product of a matrix (·, n) with a matrix (n, ·)."""
        (out, moved), (upper, lower) = self.outs, self.fans
        if self.halved:
            return _halves(out), _halves(upper)
        return (out * moved, upper * lower) if self.inputs_first else (out * moved * lower, upper)

    @property
    def span(self) -> slice:
        """The place of its sums among all."""
        rows, columns = self.shape
        return slice(self.start, self.start + rows * columns)

    def add(self, sums: Tensor, bent: Tensor, upper: Tensor, lower: Tensor) -> None:
        """Add ``Σ_ν B[i,a] h̃_{l-1,j} h̃_{m-1,b}``, each entry once, to its span of all sums, in place.

        Args:
            sums: ``(*batch, ·)``.
            bent: B, ``(*batch, out_l, out_m, n)``.
            upper, lower: ``h̃_{l-1}`` and ``h̃_{m-1}``, ``(*batch, ·, n)``.
        """
        if self.halved:
            left = torch.cat([bent[..., i, i:, :] for i in range(self.outs[0])], dim=-2)
            right = _squares(upper)
        elif self.inputs_first:
            left, right = bent.flatten(-3, -2), outer(upper, lower)
        else:
            left, right = outer(bent.flatten(-3, -2), lower), upper
        own = sums[..., self.span].unflatten(-1, self.shape)
        if own.ndim == 2:  # one network, perhaps a large one
            own.addmm_(left, right.mT)
        else:
            own += contract(left, right)

    def entries(self, sums: Tensor) -> Tensor:
        """A block that is not halved, as a view of all sums, ``(*batch, i, j, a, b)``."""
        fans = self.fans if self.inputs_first else self.fans[::-1]
        own: Tensor = sums[..., self.span].unflatten(-1, self.outs + fans)
        return own.transpose(-3, -2) if self.inputs_first else own.movedim(-1, -3)


def _halves(size: int) -> int:
    return size * (size + 1) // 2


def _squares(rows: Tensor) -> Tensor:
    """Products of each row with itself and those after it, ``(*batch, pairs, n)``."""
    *batch, size, n = rows.shape
    products, start = rows.new_empty((*batch, _halves(size), n)), 0
    for j in range(size):
        own = products[..., start : start + size - j, :]
        torch.mul(rows[..., j : j + 1, :], rows[..., j:, :], out=own)
        start += size - j
    return products


@lru_cache(maxsize=64)
def blocks(net: MLP) -> tuple[Block, ...]:
    """The blocks of all pairs of layers, one after the other."""
    found: list[Block] = []
    for layer in range(net.depth):
        for below in range(layer + 1):
            outs = net.widths[layer + 1], net.widths[below + 1]
            fans = net.fan_in(layer), net.fan_in(below)
            found.append(Block(layer, below, outs, fans, found[-1].span.stop if found else 0))
    return tuple(found)


def spread(net: MLP, sums: Tensor) -> Tensor:
    """The matrix in the flat order, ``(*batch, P, P)``, from the sums of all blocks."""
    if net.parameter_count > KEPT:
        return _spread(net, sums)
    return _gathered(sums, _table(net))


def _gathered(rows: Tensor, table: Tensor) -> Tensor:
    """``rows[…, table]``, of a table (p, q): faster than as an index."""
    found = rows.gather(-1, table.flatten().expand(*rows.shape[:-1], -1))
    entries: Tensor = found.unflatten(-1, table.shape)
    return entries


@lru_cache(maxsize=8)
def _table(net: MLP) -> Tensor:
    """Where among the sums each entry of the matrix stands, (P, P)."""
    return _spread(net, torch.arange(blocks(net)[-1].span.stop))


def _spread(net: MLP, sums: Tensor) -> Tensor:
    matrix = sums.new_empty((*sums.shape[:-1], net.parameter_count, net.parameter_count))
    groups = _groups(net)
    for block in blocks(net):
        for inputs, rows in groups[block.layer]:
            for others, columns in groups[block.below]:
                part = matrix[..., rows, columns].unflatten(-1, (block.outs[1], -1))
                part = part.unflatten(-3, (block.outs[0], -1))
                if block.halved:
                    _unfold(part, block, sums, inputs, others)
                    continue
                part.copy_(block.entries(sums)[..., inputs, :, others])
                if block.below < block.layer:
                    matrix[..., columns, rows] = matrix[..., rows, columns].mT
    return matrix


def _unfold(part: Tensor, block: Block, sums: Tensor, inputs: slice, others: slice) -> None:
    """Write the entries of a halved block with j and b among some inputs, ``(*batch, i, j, a, b)``.

    Unit by unit: what is moved about stays in the caches.
    """
    size = block.fans[0]
    low, high = torch.triu_indices(size, size)
    pairs = low.new_empty((size, size))
    pairs[low, high] = pairs[high, low] = torch.arange(len(low))
    chosen = pairs[inputs, others]
    own, start = sums[..., block.span].unflatten(-1, block.shape), 0
    for i in range(block.outs[0]):
        rows = own[..., start : start + block.outs[0] - i, :]
        start += rows.shape[-2]
        found = _gathered(rows, chosen)
        part[..., i, :, i:, :] = found.transpose(-3, -2)
        part[..., i:, :, i, :] = found


def _groups(net: MLP) -> list[list[tuple[slice, slice]]]:
    """For each layer its weights and its biases: which of its inputs, and their places when flat."""
    groups = []
    for layer, span in enumerate(row_ranges(net)):
        fed = net.widths[layer]
        middle = span.start + fed * net.widths[layer + 1]
        groups.append([(slice(0, fed), slice(span.start, middle))])
        if net.biases[layer]:
            groups[-1].append((slice(fed, None), slice(middle, span.stop)))
    return groups
