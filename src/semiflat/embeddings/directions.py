"""Directions at a wide point that the narrow network does not have, and their curvature.

Move copy j of a unit by ``Δw_j = a_j w`` and ``Δv_j = c_j v`` with ``Σλ_j a_j = 0`` and ``Σc_j = 0``. The
function does not change to first order, and the risk's second derivative along the move is
``2(Σ c_j a_j) vᵀFw + (Σ λ_j a_j²) wᵀGw`` (F19 Lemma 4). A null unit, moved by v, w and by ``−σ(α)v`` in
the bias above, gives ``2σ'(α) vᵀF∅w``. So the steepest such direction is a small eigenproblem, whatever
the width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from semiflat.embeddings.unit_map import UnitMap
from semiflat.embeddings.unit_runs import Copies, Nulls
from semiflat.embeddings.vectors import zeros
from semiflat.networks import MLP, Params, bias_key, weight_key

Segments = list[tuple[int, int, float]]
"""(start, count, value): a vector over the copies of a unit, zero elsewhere."""


@dataclass(frozen=True)
class WideDirection:
    """A direction at a wide point: its curvature now, its entries when asked for.

    Attributes:
        curvature: second derivative of the risk along it, at unit length.
        build: makes the params-shaped direction of unit length; it pickles, and is small.
    """

    curvature: float
    build: Callable[[], Params]


def lifted(unit_map: UnitMap, net: MLP, narrow: Tensor, curvature: float) -> WideDirection:
    """A direction of the narrow network, of unit length with that curvature, at the wide point."""
    parts = net.unflatten(narrow.clone())  # not the whole matrix it is a column of
    if unit_map.scaled:
        length = _length(unit_map.tangent(net, parts))
        return WideDirection(
            curvature / length**2, partial(_build_lifted, unit_map, net, parts, length)
        )
    above, below = _multiplicities(unit_map, net)
    squared = 0.0  # ‖A v‖², from how often and with which shares each entry is repeated
    for layer in range(net.depth):
        weight = parts[weight_key(layer)].square() * above[layer][:, None] * below[layer]
        squared += float(weight.sum())
        if net.biases[layer]:
            squared += float((parts[bias_key(layer)].square() * above[layer]).sum())

    return WideDirection(
        curvature / squared, partial(_build_lifted, unit_map, net, parts, squared**0.5)
    )


def steepest_copy(
    unit_map: UnitMap,
    net: MLP,
    layer: int,
    unit: int,
    F: Tensor,
    G: Tensor,
    units: tuple[Tensor, Tensor],
) -> WideDirection | None:
    """A direction of negative curvature among moves of one replicated unit, if any.

    It is the one of most negative curvature where no copy is scaled or mirrored; where rounding hides
    that one beside a large G, one that is seen in the weights' natural units.

    Args:
        units: of outgoing and incoming weights, (M,) and (D,).
    """
    if unit_map.scaled:
        plain = steepest_copy(unit_map.unscaled(), net, layer, unit, F, G, units)
        return None if plain is None else _rescaled(unit_map, net, plain)
    best: tuple[float, Tensor, Segments, Segments] | None = None
    above, below = _norms(unit_map, net, layer)
    for moves in _copy_moves(unit_map, layer, unit):
        a, c, mixed, bent = moves
        scale_v = (sum(n * x * x for _, n, x in c) * above).sqrt()
        scale_w = (sum(n * x * x for _, n, x in a) * below).sqrt()
        corner = torch.zeros((len(F), len(F)), dtype=F.dtype)
        form = torch.cat(
            [
                torch.cat([corner, mixed * F], dim=1),
                torch.cat([mixed * F.mT, bent * G], dim=1),
            ]
        )
        scale = torch.cat([scale_v, scale_w])
        for measure, sure in ((1 / scale, 1e-10), (torch.cat(units), 0.0)):
            values, vectors = torch.linalg.eigh(form * measure[:, None] * measure)
            lowest = float(values[0])
            if lowest >= -sure * float(values.abs().max()):
                continue
            solution = measure * vectors[:, 0]
            length = float(torch.linalg.vector_norm(scale * solution))
            if best is None or lowest / length**2 < best[0]:
                best = (lowest / length**2, solution / length, a, c)
    if best is None:
        return None
    curvature, solution, a, c = best
    v, w = solution[: len(F)], solution[len(F) :]
    return WideDirection(curvature, partial(_build_copies, unit_map, net, layer, unit, a, c, v, w))


def steepest_null(unit_map: UnitMap, net: MLP, layer: int, F_null: Tensor) -> WideDirection | None:
    """A direction of negative curvature among moves of one null unit, if any; as for a copy."""
    if unit_map.scaled:
        plain = steepest_null(unit_map.unscaled(), net, layer, F_null)
        return None if plain is None else _rescaled(unit_map, net, plain)
    above, below = _norms(unit_map, net, layer)
    best: tuple[float, Tensor, Tensor, int, float] | None = None
    start = 0
    for run in unit_map.layers[layer]:
        if isinstance(run, Nulls):
            alpha = torch.tensor(float(run.bias), dtype=F_null.dtype)
            value, slope, _ = (float(t) for t in net.activations[layer].derivatives(alpha))
            scale_v, scale_w = ((1 + value**2) * above).sqrt(), below.sqrt()
            u, s, vh = torch.linalg.svd(slope * F_null / scale_v[:, None] / scale_w)
            if s[0] > 0 and (best is None or -float(s[0]) < best[0]):
                v, w = -u[:, 0] / scale_v / 2**0.5, vh[0] / scale_w / 2**0.5
                best = (-float(s[0]), v, w, start, value)
        start += run.count
    if best is None:
        return None
    curvature, v, w, place, value = best
    return WideDirection(curvature, partial(_build_null, unit_map, net, layer, place, value, v, w))


def _rescaled(unit_map: UnitMap, net: MLP, plain: WideDirection) -> WideDirection:
    """A direction at the copies without scales, as one at those with them."""
    length = _length(unit_map.rescaled(net, plain.build()))
    return WideDirection(
        plain.curvature / length**2, partial(_build_rescaled, unit_map, net, plain.build, length)
    )


def _length(params: Params) -> float:
    return float(sum(float(t.square().sum()) for t in params.values()) ** 0.5)


def _build_lifted(unit_map: UnitMap, net: MLP, narrow: Params, length: float) -> Params:
    return {k: t / length for k, t in unit_map.tangent(net, narrow).items()}


def _build_rescaled(
    unit_map: UnitMap, net: MLP, plain: Callable[[], Params], length: float
) -> Params:
    return {k: t / length for k, t in unit_map.rescaled(net, plain()).items()}


def _copy_moves(
    unit_map: UnitMap, layer: int, unit: int
) -> list[tuple[Segments, Segments, float, float]]:
    """(a, c, Σca, Σλa²) for the kinds of move that the signs of the λ allow."""
    segments: Segments = []
    start = 0
    for share, count in unit_map.shares(layer, unit):
        segments.append((start, count, float(share)))
        start += count
    if start < 2:
        return []
    single = [(at + k, 1, weight) for at, count, weight in segments for k in range(min(count, 2))]
    moves = []
    positive = sorted((s for s in single if s[2] > 0), key=lambda s: -s[2])
    if len(positive) >= 2:
        # Only two copies move; the largest shares need the smallest moves.
        a: Segments = [
            (positive[0][0], 1, 1 / positive[0][2]),
            (positive[1][0], 1, -1 / positive[1][2]),
        ]
        moves.append(_balanced(a, [positive[0], positive[1]]))
    negative = sorted((s for s in single if s[2] < 0), key=lambda s: s[2])
    if negative:
        # One negative copy against all positive ones: Σλa² = −|λ|(1 − |λ|/Σ₊) < 0 always.
        at, _, weight = negative[0]
        plus = [s for s in segments if s[2] > 0]
        together = sum(n * x for _, n, x in plus)
        a = [(at, 1, 1.0)] + [(s, n, -weight / together) for s, n, _ in plus]
        moves.append(_balanced(a, [(at, 1, weight), *plus]))
    zero = [s for s in single if s[2] == 0]
    if zero:
        other = next(s for s in single if s[0] != zero[0][0])
        moves.append(
            ([(zero[0][0], 1, 1.0)], [(zero[0][0], 1, 1.0), (other[0], 1, -1.0)], 1.0, 0.0)
        )
    return moves


def _balanced(a: Segments, shares: Segments) -> tuple[Segments, Segments, float, float]:
    """With ``c_j = λ_j a_j``, both sums of the second derivative are Σλa²."""
    c = [(at, n, x * weight) for (at, n, x), (_, _, weight) in zip(a, shares, strict=True)]
    bent = sum(n * x * y for (_, n, x), (_, _, y) in zip(a, c, strict=True))
    return a, c, bent, bent


def _build_copies(
    unit_map: UnitMap,
    net: MLP,
    layer: int,
    unit: int,
    a: Segments,
    c: Segments,
    v: Tensor,
    w: Tensor,
) -> Params:
    wide = net.with_hidden(unit_map.hidden)
    places = _places(unit_map, layer, unit)
    rows = zeros(wide, v.dtype)
    row, column = _lift_row(unit_map, layer, w), _lift_column(unit_map, net, layer, v)
    weight, bias = weight_key(layer), bias_key(layer)
    for at, count, value in a:
        chosen = places[at : at + count]
        rows[weight][chosen] += value * row[: wide.widths[layer]]
        if net.biases[layer]:
            rows[bias][chosen] += value * w[-1]
    for at, count, value in c:
        rows[weight_key(layer + 1)][:, places[at : at + count]] += value * column[:, None]
    return rows


def _build_null(
    unit_map: UnitMap, net: MLP, layer: int, place: int, value: float, v: Tensor, w: Tensor
) -> Params:
    wide = net.with_hidden(unit_map.hidden)
    rows = zeros(wide, v.dtype)
    row, column = _lift_row(unit_map, layer, w), _lift_column(unit_map, net, layer, v)
    rows[weight_key(layer)][place] += row[: wide.widths[layer]]
    if net.biases[layer]:
        rows[bias_key(layer)][place] += w[-1]
    rows[weight_key(layer + 1)][:, place] += column
    rows[bias_key(layer + 1)] -= value * column
    return rows


def _places(unit_map: UnitMap, layer: int, unit: int) -> Tensor:
    """Where the copies of a unit stand in the wide layer, in order."""
    start, parts = 0, []
    for run in unit_map.layers[layer]:
        if isinstance(run, Copies) and run.source == unit:
            parts.append(torch.arange(start, start + run.count))
        start += run.count
    return torch.cat(parts)


def _lift_row(unit_map: UnitMap, layer: int, w: Tensor) -> Tensor:
    """Incoming weights w of a narrow unit as those of a wide one: shared out over the copies below."""
    if layer == 0:
        return w
    parts = [
        (w[run.source] * float(run.weight) if isinstance(run, Copies) else w.new_zeros(())).expand(
            run.count
        )
        for run in unit_map.layers[layer - 1]
    ]
    return torch.cat(parts)


def _lift_column(unit_map: UnitMap, net: MLP, layer: int, v: Tensor) -> Tensor:
    """Outgoing weights v of a narrow unit as those of a wide one: the same to every copy above."""
    if layer + 1 == len(net.hidden):
        return v
    parts = [
        (v[run.source] if isinstance(run, Copies) else v.new_zeros(())).expand(run.count)
        for run in unit_map.layers[layer + 1]
    ]
    return torch.cat(parts)


def _norms(unit_map: UnitMap, net: MLP, layer: int) -> tuple[Tensor, Tensor]:
    """Squared lengths that unit entries of v (M) and w (D) have at the wide point."""
    above, below = _multiplicities(unit_map, net)
    incoming = below[layer]
    if net.biases[layer]:
        incoming = torch.cat([incoming, incoming.new_ones(1)])
    return above[layer + 1], incoming


def _multiplicities(unit_map: UnitMap, net: MLP) -> tuple[list[Tensor], list[Tensor]]:
    """For each linear layer: how many copies each output has, and Σλ² of each input's copies."""
    counts = [torch.ones(net.inputs, dtype=torch.float64)]
    squares = [torch.ones(net.inputs, dtype=torch.float64)]
    for layer, width in enumerate(net.hidden):
        shares = [unit_map.shares(layer, unit) for unit in range(width)]
        copies = [float(sum(n for _, n in s)) for s in shares]
        counts.append(torch.tensor(copies, dtype=torch.float64))
        together = [sum(n * float(w) ** 2 for w, n in s) for s in shares]
        squares.append(torch.tensor(together, dtype=torch.float64))
    counts.append(torch.ones(net.outputs, dtype=torch.float64))
    return counts[1:], squares
