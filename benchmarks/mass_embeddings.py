"""Random embeddings of every kind that fit a network, for the mass test."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np

import semiflat as sf

Draw = Callable[[np.random.Generator, sf.MLP], sf.Embedding]


def _place(rng: np.random.Generator, net: sf.MLP) -> tuple[int, int]:
    layer = int(rng.integers(len(net.hidden)))
    return layer, int(rng.integers(net.hidden[layer]))


def _shares(rng: np.random.Generator, count: int, low: int, high: int) -> list[Fraction]:
    """Shares that sum to 1, all but the last between low/10 and high/10."""
    some = [Fraction(int(rng.integers(low, high + 1)), 10) for _ in range(count - 1)]
    return [*some, 1 - sum(some)]


def _inside(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.Replicate(
        *_place(rng, net),
        [Fraction(k, 10) for k in ([3, 7], [5, 5], [2, 3, 5], [1, 9])[rng.integers(4)]],
    )


def _outside(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.Replicate(*_place(rng, net), _shares(rng, int(rng.integers(2, 4)), -20, -1))


def _any_shares(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.Replicate(*_place(rng, net), _shares(rng, int(rng.integers(2, 4)), -12, 12))


def _unheard(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.Replicate(*_place(rng, net), [0, 1] if rng.random() < 0.6 else [0, "1/4", "3/4"])


def _offsets(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, unit = _place(rng, net)
    row = rng.standard_normal(net.widths[layer + 2])
    return sf.Replicate(layer, unit, [0.5, 0.5], offsets=[row.tolist(), (-row).tolist()])


def _null_units(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, _ = _place(rng, net)
    biases = (
        [0.0]
        if rng.random() < 0.3
        else np.round(rng.standard_normal(int(rng.integers(1, 3))), 2).tolist()
    )
    return sf.NullUnits(layer, biases)


def _inactive(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, _ = _place(rng, net)
    outgoing = rng.standard_normal(net.widths[layer + 2]).tolist() if rng.random() < 0.4 else None
    return sf.InactiveUnits(layer, count=1, outgoing=outgoing)


def _constant(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, _ = _place(rng, net)
    outgoing = rng.standard_normal((1, net.widths[layer + 2])) * (rng.random() < 0.5)
    return sf.ConstantUnits(layer, rng.standard_normal(1).tolist(), outgoing.tolist())


def _propagation(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, _ = _place(rng, net)
    return sf.InactivePropagation(layer, rng.standard_normal((1, net.fan_in(layer))).tolist())


def _scaled(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.ScaledReplicate(
        *_place(rng, net),
        [2, Fraction(int(rng.integers(1, 20)), 10)],
        [Fraction(int(rng.integers(-9, 9)), 10), None],
    )


def _split(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, unit = _place(rng, net)
    sources = [*range(net.hidden[layer]), unit]
    first = _shares(rng, 2, -12, 12)
    shares: list[Fraction | int] = [1] * len(sources)
    shares[unit], shares[-1] = first
    return sf.Split(layer, sources, shares)


def _compatible(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    hidden = [width + int(rng.integers(0, 3)) for width in net.hidden]
    return sf.Compatible.random(
        net, [net.inputs, *hidden, net.outputs], seed=int(rng.integers(1 << 30))
    )


def _global_split(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.GlobalSplit([1, 1, -1] if rng.random() < 0.5 else _shares(rng, 2, -9, 9))


def _global_null(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    return sf.GlobalNull([np.round(rng.standard_normal(1), 1).tolist() for _ in net.hidden])


def _symmetry(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    layer, unit = _place(rng, net)
    if rng.random() < 0.5:
        return sf.Reflect(layer, unit)
    return sf.Rescale(layer, unit, Fraction(int(rng.integers(1, 30)), 10))


def _two(rng: np.random.Generator, net: sf.MLP) -> sf.Embedding:
    first = [_inside, _outside, _null_units, _inactive][rng.integers(4)]
    return first(rng, net) >> [_inside, _any_shares, _null_units][rng.integers(3)](rng, net)


DRAWS: dict[str, Draw] = {
    "Replicate, shares inside": _inside,
    "Replicate, shares outside": _outside,
    "Replicate, any shares": _any_shares,
    "Replicate, a share of 0": _unheard,
    "Replicate with offsets": _offsets,
    "NullUnits": _null_units,
    "InactiveUnits": _inactive,
    "ConstantUnits": _constant,
    "InactivePropagation": _propagation,
    "ScaledReplicate": _scaled,
    "Split": _split,
    "Compatible.random": _compatible,
    "GlobalSplit": _global_split,
    "GlobalNull": _global_null,
    "Reflect, Rescale": _symmetry,
    "two in a row": _two,
}


def embedded(
    rng: np.random.Generator, point: sf.Point, widest: int
) -> tuple[str, sf.EmbeddedPoint] | None:
    """The point in a wider network by an embedding drawn from all that it allows, and which it was."""
    if not point.problem.net.hidden:
        return None
    names = list(DRAWS)
    for name in rng.permutation(names)[:8]:
        try:
            wide = DRAWS[name](rng, point.problem.net)(point)
        except sf.InputError:
            continue
        if wide.problem.net.parameter_count <= widest:
            return str(name), wide
    return None
