"""Z22's Conditions 1 and 2: checked, solved and drawn from, block by block.

Between the copies of narrow unit k above and those of s below, the multipliers form a block B. The
forward condition says that its rows sum to 1, the backward one that its columns, weighted with the β of
the rows, sum to the β of the column. Blocks do not share equations, so each is solved on its own: one
solution is ``B_ij = β_j``, and what can be added is ``P_β X P_1`` with any X, P_v projecting off v.
A null unit's row of a block sums to 0, a null unit's column β-weighted to 0, and between null units
everything is free. So there is no linear system to solve, and drawing takes one pass over α.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from semiflat.errors import InputError

NULL = -1
"""The source of a null unit."""

ROUNDING = 1e-11
"""How far sums of multipliers may be off, relative to the largest term."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Groups:
    """The wide units of a layer by narrow source: ``index`` (m',), and how many sources there are."""

    index: NDArray[np.int64]
    size: int

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """How many copies each narrow unit has."""
        return np.bincount(self.index[self.index != NULL], minlength=self.size)

    @cached_property
    def copies(self) -> NDArray[np.bool_]:
        """Which wide units copy a narrow one."""
        found: NDArray[np.bool_] = self.index != NULL
        return found

    @cached_property
    def members(self) -> Floats:
        """1 where wide unit i copies narrow unit s, (m', size)."""
        found = np.zeros((len(self.index), self.size))
        found[self.copies, self.index[self.copies]] = 1
        return found


def outer(groups: list[Groups], inputs: int, outputs: int) -> list[Groups]:
    """The groups of all layers, the input's and the output's units being themselves."""
    ends = [Groups(np.arange(width), width) for width in (inputs, outputs)]
    return [ends[0], *groups, ends[1]]


def default_multipliers(
    groups: list[Groups], beta: list[Floats], widths: tuple[int, ...]
) -> list[Floats]:
    """``α_ij = β_j`` between copies, 0 at null units."""
    layers = outer(groups, widths[0], widths[-1])
    weights = [np.ones(widths[0]), *beta]
    return [
        np.outer(1.0 * layers[layer + 1].copies, layers[layer].copies * weights[layer])
        for layer in range(len(widths) - 1)
    ]


def backward_weights(groups: list[Groups], alpha: list[Floats]) -> list[Floats]:
    """The β that follow from α by the backward condition, top down."""
    beta: list[Floats] = []
    layers = outer(groups, alpha[0].shape[1], alpha[-1].shape[0])
    above = np.ones(alpha[-1].shape[0])
    for layer in range(len(groups), 0, -1):
        sums = layers[layer + 1].members.T @ (above[:, None] * alpha[layer])
        above = np.where(layers[layer].copies, sums.mean(0), 0.0)
        beta.insert(0, above)
    return beta


def check_shares(groups: list[Groups], beta: list[Floats]) -> None:
    """Raise :class:`InputError` unless the β of the copies of each unit sum to 1."""
    for layer, (group, shares) in enumerate(zip(groups, beta, strict=True)):
        sums = group.members.T @ shares
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > ROUNDING * max(1.0, float(np.abs(shares).max())):
            raise InputError(
                f"backward weights of hidden layer {layer}: those of the copies of narrow unit {worst} "
                f"sum to {sums[worst]:.12g}, not 1 (residual {sums[worst] - 1:.3g})"
            )


def check_conditions(groups: list[Groups], alpha: list[Floats], beta: list[Floats]) -> None:
    """Raise :class:`InputError` naming the worst violated equation of Z22 Condition 1, if any."""
    layers = outer(groups, alpha[0].shape[1], alpha[-1].shape[0])
    weights = [np.ones(alpha[0].shape[1]), *beta, np.ones(alpha[-1].shape[0])]
    for layer, matrix in enumerate(alpha):
        above, below = layers[layer + 1], layers[layer]
        size = max(1.0, float(np.abs(matrix).max()))
        forward = matrix @ below.members - above.copies[:, None]
        i, s = np.unravel_index(int(np.abs(forward).argmax()), forward.shape)
        if abs(forward[i, s]) > ROUNDING * size * below.counts.max():
            target = int(above.copies[i])
            raise InputError(
                f"forward condition violated in linear layer {layer}: the multipliers into unit {i} "
                f"from the copies of narrow unit {s} sum to {forward[i, s] + target:.12g}, not {target} "
                f"(residual {forward[i, s]:.3g})"
            )
        if layer == 0:
            continue  # the input has no error, so nothing is asked of it
        weighted = weights[layer + 1][:, None] * matrix
        target_row = np.where(below.copies, weights[layer], 0.0)
        backward = above.members.T @ weighted - target_row
        k, j = np.unravel_index(int(np.abs(backward).argmax()), backward.shape)
        limit = max(1.0, float(np.abs(weighted).max())) * above.counts.max()
        if abs(backward[k, j]) > ROUNDING * limit:
            raise InputError(
                f"backward condition violated in linear layer {layer}: the β-weighted multipliers from "
                f"unit {j} to the copies of narrow unit {k} sum to "
                f"{backward[k, j] + target_row[j]:.12g}, not {target_row[j]:.12g} "
                f"(residual {backward[k, j]:.3g})"
            )


def random_multipliers(
    groups: list[Groups],
    beta: list[Floats],
    widths: tuple[int, ...],
    generator: np.random.Generator,
    scale: float,
) -> list[Floats]:
    """A solution of Condition 1 with Gaussian entries in all directions it leaves free."""
    found = default_multipliers(groups, beta, widths)
    for layer, matrix in enumerate(found):
        drawn = scale * generator.standard_normal(matrix.shape)
        matrix += free_part(drawn, *_sides(groups, beta, widths, layer))
    return found


def free_part(drawn: Floats, above: Groups, weights: Floats, below: Groups, top: bool) -> Floats:
    """The part of ``drawn`` that changes neither forward nor backward sums.

    Args:
        weights: β of the units above.
        top: whether the units below have an error at all (the input has none).
    """
    sums = drawn @ below.members
    free = drawn - (sums / np.maximum(below.counts, 1)) @ below.members.T
    if not top:
        return free
    squares = above.members.T @ weights**2
    backward = above.members.T @ (weights[:, None] * free)
    # A unit whose copies all have β = 0 cannot be: they sum to 1.
    result: Floats = free - weights[:, None] * (above.members @ (backward / squares[:, None]))
    return result


def _sides(
    groups: list[Groups], beta: list[Floats], widths: tuple[int, ...], layer: int
) -> tuple[Groups, Floats, Groups, bool]:
    layers = outer(groups, widths[0], widths[-1])
    weights = [np.ones(widths[0]), *beta, np.ones(widths[-1])]
    return layers[layer + 1], weights[layer + 1], layers[layer], layer > 0
