"""Bounds that hold, against 200-bit arithmetic; and certificates that are true, against known truths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from flint import arb, arb_mat, arb_series, ctx
from mpmath import mp

import known
import semiflat as sf
from certificate_cases import (
    BITS,
    LOSSES,
    SIGMAS,
    Risk,
    ball,
    centre_of,
    contradictions,
    data,
    held_of,
    outside,
    places,
    random_reach,
    random_risk,
    saturated,
    truth,
    within,
)
from semiflat.activations import Sup, activation
from semiflat.certificates import bounded, enclosure
from semiflat.certificates.bounded import Bounded, joined, outer, row_sums
from semiflat.certificates.checker.balls import NotDefinite, hessian, risk_gradient, sweeps
from semiflat.certificates.checker.verify import verify
from semiflat.certificates.enclosure import TooRough, centre_parts, hessian_over
from semiflat.curvature.sweep import row_order

SUP = {name: activation(name).sup for name in SIGMAS}
each_sigma = pytest.mark.parametrize("sigma", SIGMAS)
Tally = tuple[int, int]
"""How many containments were tried, and how many of them did not hold."""


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    before, ctx.prec = ctx.prec, 128
    yield
    ctx.prec = before


def total(tallies: Iterator[Tally]) -> Tally:
    checked, wrong = zip(*tallies, strict=True)
    return sum(checked), sum(wrong)


# -- operations -------------------------------------------------------------------------------------


def numbers(rng: Random, *shape: int) -> np.ndarray:
    """Of all sizes, and some zeros; now and then such that products underflow."""
    spread = rng.choice([0, 3, 30, 150])

    def one() -> float:
        return rng.choice([0.0, 1.0, -1.0] + 12 * [rng.gauss(0, 1)]) * 10 ** rng.uniform(
            -spread, spread / 2
        )

    return np.array([one() for _ in range(int(np.prod(shape)))]).reshape(shape)


def balls(rng: Random, *shape: int) -> Bounded:
    """Midpoints of all sizes, with radii from none to far larger ones."""
    mid = numbers(rng, *shape)
    if rng.random() < 0.3:
        return Bounded.exact(mid)
    rad = np.abs(mid) * 10 ** rng.uniform(-20, 1) + rng.choice([0.0, 1e-12])
    return Bounded(mid, rad * np.array([rng.random() < 0.8 for _ in mid.flat]).reshape(shape))


def drawn(rng: Random, among: Bounded) -> np.ndarray:
    """Exact numbers, each in its ball: an end, the middle or any other."""

    def one(mid: float, rad: float) -> Fraction:
        part = rng.choice([Fraction(-1), Fraction(0), Fraction(1), Fraction(rng.uniform(-1, 1))])
        return Fraction(mid) + part * Fraction(rad)

    exact = [one(*each) for each in zip(among.mid.flat, among.rad.flat, strict=True)]
    return np.array(exact, dtype=object).reshape(among.shape)


def missed(exact: np.ndarray, among: Bounded) -> Tally:
    assert exact.shape == among.shape
    triples = zip(exact.flat, among.mid.flat, among.rad.flat, strict=True)
    return exact.size, sum(abs(e - Fraction(m)) > Fraction(r) for e, m, r in triples)


def sum_misses(rng: Random) -> Tally:
    A, B = balls(rng, 4, 3), balls(rng, 4, 1)
    a, b = drawn(rng, A), drawn(rng, B)
    return missed(a + b, A + B)


def product_misses(rng: Random) -> Tally:
    A, B = balls(rng, 3, 4), balls(rng, 3, 1)
    a, b = drawn(rng, A), drawn(rng, B)
    return missed(a * b, A * B)


def matrix_product_misses(rng: Random) -> Tally:
    terms = rng.choice([1, 2, 3, 7, 20])
    A, B = balls(rng, 3, terms), balls(rng, 4, terms)
    a, b = drawn(rng, A), drawn(rng, B)
    return missed(a @ b.T, A @ B.T)


def chain_misses(rng: Random) -> Tally:
    """Of operations on results of operations."""
    A, B, C = balls(rng, 2, 3), balls(rng, 3, 3), balls(rng, 2, 3)
    a, b, c = drawn(rng, A), drawn(rng, B), drawn(rng, C)
    return missed(((a @ b + c) * c) @ (b * b), ((A @ B + C) * C) @ (B * B))


def axis_sum_misses(rng: Random) -> Tally:
    A, axis = balls(rng, 5, 6), rng.choice([0, 1])
    return missed(drawn(rng, A).sum(axis), A.sum(axis))


def outer_misses(rng: Random) -> Tally:
    A, B = balls(rng, 2, 3), balls(rng, 3, 3)
    a, b = drawn(rng, A), drawn(rng, B)
    exact = np.array([x * y for x in a for y in b], dtype=object)
    return missed(exact, outer(A, B))


def moved_misses(rng: Random) -> Tally:
    """Of numbers that only change places."""
    A, B = balls(rng, 2, 3), balls(rng, 1, 3)
    a, b = drawn(rng, A), drawn(rng, B)
    exact = np.concatenate([a, b]).reshape(3, 3).transpose(1, 0)[1:]
    return missed(exact, joined([A, B], 0).reshape(3, 3).transpose(1, 0)[1:])


def row_sum_misses(rng: Random) -> Tally:
    A = balls(rng, 4, rng.choice([1, 3, 20]))
    exact = np.abs(drawn(rng, A)).sum(1)
    tops = row_sums(A)
    return len(tops), sum(e > Fraction(top) for e, top in zip(exact, tops, strict=True))


OPERATIONS: dict[str, tuple[Callable[[Random], Tally], int]] = {
    "sum": (sum_misses, 350),
    "product": (product_misses, 350),
    "matrix product": (matrix_product_misses, 400),
    "chain": (chain_misses, 400),
    "sum along an axis": (axis_sum_misses, 300),
    "outer product": (outer_misses, 200),
    "moved": (moved_misses, 100),
    "row sums": (row_sum_misses, 300),
}


def operations(names: Iterator[str] | dict[str, Any]) -> Tally:
    rng = Random(0)
    return total(OPERATIONS[n][0](rng) for n in names for _ in range(OPERATIONS[n][1]))


def test_exact_results_lie_in_the_balls_of_every_operation() -> None:
    checked, wrong = operations(OPERATIONS)
    assert wrong == 0
    assert checked >= 20_000


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "moved"])
def test_without_rounding_terms_every_operation_misses_exact_results(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "UNIT", 0.0)
    checked, wrong = operations([name])
    assert wrong > checked / 50


def test_long_sums_that_cancel_lie_in_their_balls() -> None:
    rng, tallies = Random(1), []
    for terms in (500, 1000):
        A, B = (Bounded.exact(np.array([[rng.gauss(0, 1)] * terms])) for _ in range(2))
        signs = Bounded.exact(np.array([[(-1.0) ** k * (1 + k * 2.0**-52) for k in range(terms)]]))
        for left, right in ((A, signs), (B * A, signs), (signs, signs)):
            a, b = drawn(rng, left), drawn(rng, right)
            tallies += [
                missed(a @ b.T, left @ right.T),
                missed((a * b).sum(1), (left * right).sum(1)),
            ]
    assert total(iter(tallies)) == (12, 0)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Bounded.exact(np.array([1e308])) + Bounded.exact(np.array([1e308])),
        lambda: Bounded.exact(np.array([1e200])) * Bounded.exact(np.array([-1e200])),
        lambda: Bounded.exact(np.array([[1e200]])) @ Bounded.exact(np.array([[1e200]])),
        lambda: Bounded.exact(np.array([[1.0, 1.0]])) @ Bounded.exact(np.full((2, 1), 1e308)),
        lambda: Bounded.exact(np.array([1e308, 1e308])).sum(0),
    ],
    ids=["sum", "product", "product in a matrix", "sum in a matrix product", "sum along an axis"],
)
def test_what_overflows_is_bounded_by_nothing(make: Callable[[], Bounded]) -> None:
    assert not np.isfinite(make().rad).any()


# -- the float64 Hessian over a box -----------------------------------------------------------------

RADII = 0.0, 1e-12, 1e-6, 1e-3


def hessian_tally(
    rng: Random, risk: Risk, theta: list[float], reach: list[float], parts: Any
) -> Tally:
    """Two columns at a point of the box; none where the sign at a kink may change."""
    try:
        H = hessian_over(risk.network, parts, np.array(theta), np.array(reach))
    except TooRough:
        return 0, 0
    columns = rng.sample(range(risk.size), min(2, risk.size))
    pairs = [(i, j) for j in columns for i in range(risk.size)]
    exact = risk.hessian(within(rng, theta, reach), pairs)
    mids, rads = ([float(values[at]) for at in pairs] for values in (H.mid, H.rad))
    return len(pairs), outside(exact, mids, rads)


def hessian_tallies(
    sigma: str, radii: tuple[float, ...] = RADII, repeats: int = 3
) -> Iterator[Tally]:
    """Of networks with 0–3 hidden layers and any loss; every third has a saturated unit."""
    rng = Random(sigma)
    for loss in LOSSES:
        for hidden in range(4):
            for repeat in range(repeats):
                risk, theta = random_risk(rng, sigma, loss, hidden)
                if hidden and repeat % 3 == 2:
                    theta = saturated(rng, risk, theta)
                try:
                    parts = centre_parts(risk.network, list(map(arb, theta)))[0]
                except NotDefinite:  # fed by a layer of dead units, and no bias
                    yield 0, 0
                    continue
                for radius in radii:
                    reach = random_reach(rng, radius, risk.size)
                    yield hessian_tally(rng, risk, theta, reach, parts)


def first_layer_tallies(sigma: str) -> Iterator[Tally]:
    """Of one hidden layer, in boxes of radius 1e-3 along which only its units move."""
    rng = Random(sigma)
    for repeat in range(60):
        risk, theta = random_risk(rng, sigma, LOSSES[repeat % 3], 1)
        moved = risk.network.place(1)
        reach = [1e-3 if k < moved else 0.0 for k in range(risk.size)]
        parts = centre_parts(risk.network, list(map(arb, theta)))[0]
        yield hessian_tally(rng, risk, theta, reach, parts)


@each_sigma
def test_every_hessian_of_a_box_lies_in_the_float64_bounds(sigma: str) -> None:
    tallies = [*hessian_tallies(sigma), *first_layer_tallies(sigma)]
    checked, wrong = total(iter(tallies))
    assert wrong == 0
    assert checked >= 4500
    assert sum(not tried for tried, _ in tallies) <= len(tallies) / 8


@pytest.mark.parametrize("sigma", ["tanh", "leaky_relu"])
def test_bounds_of_samples_in_parts_hold(sigma: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclosure, "CHUNK", 1)
    rng = Random(1)
    risk, theta = random_risk(rng, sigma, "squared", 2)
    risk = Risk(risk.net, 3 * risk.X, 3 * risk.y, risk.loss, risk.decay)
    parts = centre_parts(risk.network, list(map(arb, theta)))[0]
    assert len(parts) == len(risk.X)
    reach = [1e-6] * risk.size
    checked, wrong = total(hessian_tally(rng, risk, theta, reach, parts) for _ in range(10))
    assert wrong == 0
    assert checked > 0


@each_sigma
def test_without_rounding_terms_the_hessian_itself_is_missed(
    sigma: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "UNIT", 0.0)
    monkeypatch.setattr(enclosure, "UNIT", 0.0)
    checked, wrong = total(hessian_tallies(sigma, radii=(0.0,)))
    assert wrong > checked / 5


@pytest.mark.parametrize("sigma", [s for s in SIGMAS if SUP[s] != (0, 0)])
def test_without_bounds_of_the_next_derivative_hessians_of_a_box_are_missed(
    sigma: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = replace(activation(sigma), sup=Sup(0.0, 0.0))
    monkeypatch.setattr(enclosure, "activation", lambda _: straight)
    assert total(first_layer_tallies(sigma))[1] >= 10


def centre_tally(rng: Random, sigma: str, loss: str) -> Tally:
    """Of what float64 has of the centre, against the balls it comes from."""
    risk, theta = random_risk(rng, sigma, loss, 2)
    try:
        parts = list(sweeps(risk.network, list(map(arb, theta))))
    except NotDefinite:
        return 0, 0
    checked = wrong = 0
    for sweep in parts:
        centre = enclosure.centre_of(sweep)
        fed = [each.tolist() for each in sweep.fed]
        bend = [[b for row in square for b in row] for square in sweep.bend]
        M = len(sweep.bend[0])
        shown = [
            *zip(fed, centre.fed, strict=True),
            *zip(sweep.first, centre.first, strict=True),
            *zip(sweep.second, centre.second, strict=True),
            (sweep.delta[-1], centre.delta),
            (bend, centre.bend.reshape(M * M, -1)),
        ]
        for rows, among in shown:
            for v, row in enumerate(rows):
                for k, (mid, rad) in enumerate(map(ball, row)):
                    with mp.workprec(2 * BITS):
                        off = abs(mid - mp.mpf(float(among.mid[k, v]))) + rad
                        wrong += not off <= mp.mpf(float(among.rad[k, v]))
                        checked += 1
    return checked, wrong


def centre_tallies() -> Iterator[Tally]:
    rng = Random(2)
    return (centre_tally(rng, sigma, loss) for sigma in SIGMAS for loss in LOSSES)


def test_balls_of_the_centre_lie_in_their_float64_bounds() -> None:
    checked, wrong = total(centre_tallies())
    assert wrong == 0
    assert checked >= 1400


def test_without_rounding_terms_balls_of_the_centre_are_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(enclosure, "UNIT", 0.0)
    checked, wrong = total(centre_tallies())
    assert wrong > checked / 5


@pytest.mark.parametrize("sigma", ["relu", "leaky_relu"])
def test_no_bound_is_given_where_a_box_has_a_kink(sigma: str) -> None:
    risk = Risk(sf.MLP([1, 1, 1], sigma), [[1.0], [2.0]], [[0.0], [1.0]], "squared")
    theta = [1.0, -1.0 + 1e-4, 1.0, 0.0]
    parts = centre_parts(risk.network, list(map(arb, theta)))[0]
    for radius, kinked in ((4e-5, False), (6e-5, True)):
        reach, box = np.full(4, radius), [arb(t, radius) for t in theta]
        if kinked:
            with pytest.raises(TooRough, match="kink"):
                hessian_over(risk.network, parts, np.array(theta), reach)
            with pytest.raises(NotDefinite, match="kink"):
                hessian(risk.network, box)
        else:
            assert hessian_over(risk.network, parts, np.array(theta), reach).shape == (4, 4)
            assert hessian(risk.network, box).nrows() == 4


def test_slopes_below_the_smallest_float_are_not_lost_to_large_weights() -> None:
    """σ(−800) = 4e-348; with an outgoing weight of 1e100 the Hessian has entries of 1e-248."""
    risk = Risk(sf.MLP([1, 1, 1], "sigmoid"), [[1.0]], [[0.5]], "squared")
    theta = [-800.0, 0.0, 1e100, 0.0]
    parts = centre_parts(risk.network, list(map(arb, theta)))[0]
    H = hessian_over(risk.network, parts, np.array(theta), np.zeros(4))
    pairs = [(i, j) for i in range(4) for j in range(4)]
    exact = risk.hessian(theta, pairs)
    assert outside(exact, H.mid.flat, H.rad.flat) == 0


def test_moves_below_the_smallest_float_are_not_lost_to_large_weights() -> None:
    """A box of radius 1e-130 at an input of 1e-200 moves h by 1e-330, and what it feeds by 1e-130."""
    net = sf.MLP([1, 1, 1, 1], "sin", [False, True, False])
    risk = Risk(net, [[1e-200]], [[1e20]], "squared")
    theta, reach = [0.0, 1e200, 0.0, 1e-150], [1e-130, 0.0, 0.0, 0.0]
    parts = centre_parts(risk.network, list(map(arb, theta)))[0]
    H = hessian_over(risk.network, parts, np.array(theta), np.array(reach))
    pairs = [(i, j) for i in range(4) for j in range(4)]
    exact = risk.hessian(within(Random(1), theta, reach), pairs)
    assert outside(exact, H.mid.flat, H.rad.flat) == 0


# -- Arb --------------------------------------------------------------------------------------------


def ball_tally(rng: Random, risk: Risk, theta: list[float], radius: float) -> Tally:
    """Risk, gradient and two columns of the Hessian at a point of a box."""
    reach = random_reach(rng, radius, risk.size)
    box = [arb(t) + arb(0, r) for t, r in zip(theta, reach, strict=True)]
    try:
        value, gradient = risk_gradient(risk.network, box)
        H = hessian(risk.network, box)
    except NotDefinite:
        return 0, 0
    columns = rng.sample(range(risk.size), min(2, risk.size))
    pairs = [(i, j) for j in columns for i in range(risk.size)]
    at = within(rng, theta, reach)
    exact = [risk.value(at), *risk.gradient(at), *risk.hessian(at, pairs)]
    found = [value, *gradient, *(H[pair] for pair in pairs)]
    return len(exact), outside(exact, *zip(*map(ball, found), strict=True))


@each_sigma
def test_risks_gradients_and_hessians_of_a_box_lie_in_the_balls(sigma: str) -> None:
    rng, tallies = Random(sigma), []
    for loss in LOSSES:
        for hidden in range(4):
            for k, radius in enumerate(RADII):
                ctx.prec = (128, 53, 64)[k % 3]
                risk, theta = random_risk(rng, sigma, loss, hidden)
                theta = saturated(rng, risk, theta) if hidden and k == 1 else theta
                tallies.append(ball_tally(rng, risk, theta, radius))
    checked, wrong = total(iter(tallies))
    assert wrong == 0
    assert checked >= 1700
    assert sum(not tried for tried, _ in tallies) <= len(tallies) / 8


def widened(
    risk: Risk, theta: list[Any], layer: int, unit: int | None, shares: tuple[Any, ...]
) -> tuple[Risk, list[Any], list[list[int]], list[list[int]]]:
    """One more unit: ``unit`` twice with those shares of its outgoing weights, or a null unit.

    A null unit (``unit`` None) has incoming weights 0, and bias 1 where there is one. Also returns where the
    incoming and the outgoing weights of the two (of the one) stand.
    """
    net = risk.net
    widths = list(net.widths)
    widths[layer + 1] += 1
    wide = Risk(
        sf.MLP(widths, [a.name for a in net.activations], list(net.biases)),
        risk.X,
        risk.y,
        risk.loss,
    )
    own, other = risk.network, wide.network
    fan = own.fan_in(layer)
    new = net.widths[layer + 1]
    values: list[Any] = [None] * wide.size
    for m in range(own.depth):
        for row in range(net.widths[m + 1]):
            for j in range(own.fan_in(m)):
                shift = m == layer + 1 and j >= new  # the bias stands behind the new unit's column
                value = theta[own.place(m, row, j)]
                values[other.place(m, row, j + shift)] = value
    twice = [new] if unit is None else [unit, new]
    null = [0] * (fan - net.biases[layer]) + [1] * net.biases[layer]
    for j in range(fan):
        source = null[j] if unit is None else theta[own.place(layer, unit, j)]
        values[other.place(layer, new, j)] = source
    for i in range(net.widths[layer + 2]):
        weight = 0 if unit is None else theta[own.place(layer + 1, i, unit)]
        with mp.workprec(BITS):
            for share, each in zip(shares, twice, strict=True):
                values[other.place(layer + 1, i, each)] = share * weight
    incoming = [[other.place(layer, each, j) for j in range(fan)] for each in twice]
    outgoing = [
        [other.place(layer + 1, i, each) for i in range(net.widths[layer + 2])] for each in twice
    ]
    return wide, values, incoming, outgoing


def F_by_definition(risk: Risk, theta: list[Any], layer: int, unit: int | None) -> list[mp.mpf]:
    """``∂²R/∂ζ∂u`` of a copy of the unit (of a null unit) that nothing hears yet."""
    shares = (0,) if unit is None else (1, 0)
    wide, values, incoming, outgoing = widened(risk, theta, layer, unit, shares)
    return wide.hessian(values, [(i, j) for i in outgoing[-1] for j in incoming[-1]])


def G_by_definition(risk: Risk, theta: list[Any], layer: int, unit: int) -> list[mp.mpf]:
    """Of two halves: twice what ``∂²R/∂u₁∂u₁`` has more than ``∂²R/∂u₁∂u₂``."""
    half = mp.mpf(1) / 2
    wide, values, incoming, _ = widened(risk, theta, layer, unit, (half, half))
    one, two = incoming
    alone = wide.hessian(values, [(i, j) for i in one for j in one])
    across = wide.hessian(values, [(i, j) for i in one for j in two])
    with mp.workprec(BITS):
        return [2 * (a - b) for a, b in zip(alone, across, strict=True)]


NULL_SLOPES: dict[str, Callable[[], mp.mpf]] = {
    "tanh": lambda: 1 - mp.tanh(1) ** 2,
    "sin": lambda: mp.cos(1),
    "softplus": lambda: 1 / (1 + mp.exp(-1)),
    "identity": lambda: mp.one,
    "relu": lambda: mp.one,
    "leaky_relu": lambda: mp.one,
}
"""σ'(1)."""


def summed(parts: list[arb_mat]) -> list[Any]:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return [ball(entry) for entry in total.entries()]


def blocks_tally(rng: Random, risk: Risk, theta: list[float], radius: float) -> Tally:
    """F, G and F∅ of a random unit at a point of a box."""
    reach = random_reach(rng, radius, risk.size)
    box = [arb(t) + arb(0, r) for t, r in zip(theta, reach, strict=True)]
    layer = rng.randrange(len(risk.net.widths) - 2)
    unit = rng.randrange(risk.net.widths[layer + 1])
    try:
        parts = list(sweeps(risk.network, box, 2))
    except NotDefinite:
        return 0, 0
    at = within(rng, theta, reach)
    exact = [F_by_definition(risk, at, layer, unit), G_by_definition(risk, at, layer, unit)]
    pairs = [part.unit(layer, unit) for part in parts]
    found = [summed([F for F, _ in pairs]), summed([G for _, G in pairs])]
    sigma = risk.net.activations[layer].name
    if risk.net.biases[layer] and sigma in NULL_SLOPES:
        with mp.workprec(BITS):
            slope = NULL_SLOPES[sigma]()
            exact.append([f / slope for f in F_by_definition(risk, at, layer, None)])
        found.append(summed([part.skip(layer) for part in parts]))
    return sum(map(len, exact)), sum(
        outside(values, *zip(*entries, strict=True))
        for values, entries in zip(exact, found, strict=True)
    )


@each_sigma
def test_F_and_G_of_units_lie_in_their_balls(sigma: str) -> None:
    """They are second derivatives of a network with one unit more (theory §1)."""
    rng = Random(sigma)
    tallies = []
    for loss in LOSSES:
        for hidden in (1, 2, 3):
            for radius in (0.0, 1e-12, 1e-3):
                risk, theta = random_risk(rng, sigma, loss, hidden, decay=False)
                tallies.append(blocks_tally(rng, risk, theta, radius))
    checked, wrong = total(iter(tallies))
    assert wrong == 0
    assert checked >= 250
    assert sum(not tried for tried, _ in tallies) <= len(tallies) / 5


def test_the_order_of_rows_is_that_of_the_sweep() -> None:
    for net in (sf.MLP([2, 3, 1, 2], "tanh", [True, False, True]), sf.MLP([3, 2])):
        assert places(net) == row_order(net).tolist()


# -- suprema of the next derivatives ----------------------------------------------------------------

CURVES: dict[str, Callable[[arb_series], arb_series]] = {
    "tanh": lambda z: 1 - 2 / ((2 * z).exp() + 1),
    "sigmoid": lambda z: 1 / (1 + (-z).exp()),
    "softplus": lambda z: (1 + z.exp()).log(),
    "gelu": lambda z: z * (-z / arb(2).sqrt()).erfc() / 2,
    "silu": lambda z: z / (1 + (-z).exp()),
    "sin": lambda z: z.sin(),
}

TAILS: dict[str, Callable[[arb], tuple[arb, arb]]] = {
    "tanh": lambda z: (8 * (-2 * z).exp(), 16 * (-2 * z).exp()),
    "sigmoid": lambda z: ((-z).exp(), (-z).exp()),
    "softplus": lambda z: ((-z).exp(), (-z).exp()),
    "silu": lambda z: ((2 + z) * (-z).exp(), (3 + z) * (-z).exp()),
    "gelu": lambda z: (
        (z**2 + 2) * (-z * z / 2).exp(),
        (z**3 + 4 * z) * (-z * z / 2).exp(),
    ),
}
"""Bounds of |σ''| and |σ'''| at |z| that fall from 3 on.

With h = σ(z): tanh' = 1 − h² = 1/cosh² ≤ 4e^(−2|z|), tanh'' = −2hh', tanh''' = −2h'(1 − 3h²);
sigmoid' = h(1 − h) ≤ e^(−|z|), sigmoid'' = h'(1 − 2h), sigmoid''' = h'(1 − 6h'); softplus'' is sigmoid';
silu'' = 2h' + zh'', silu''' = 3h'' + zh''' with the sigmoid's h; gelu'' = φ(z)(2 − z²),
gelu''' = φ(z)(z³ − 4z).
"""

AT_0: dict[str, tuple[int, Fraction]] = {
    "tanh": (3, Fraction(-2)),
    "sigmoid": (3, Fraction(-1, 8)),
    "softplus": (2, Fraction(1, 4)),
    "silu": (2, Fraction(1, 2)),
}
"""Derivatives, even ones, that are largest at 0, where the formulas above give them exactly."""


def derivative(name: str, order: int, z: arb) -> arb:
    """``dᵏσ/dzᵏ``, of every number in the ball."""
    cap, ctx.cap = ctx.cap, order + 1
    try:
        coefficient = CURVES[name](arb_series([z, 1]))[order]
    finally:
        ctx.cap = cap
    return coefficient * arb(order).fac()


def everywhere(holds: Callable[[arb, arb], bool], low: float, high: float) -> bool:
    """Whether a statement holds on an interval, by bisection into middles and radii."""
    todo = [(Fraction(low), Fraction(high))]
    while todo:
        a, b = todo.pop()
        middle, half = (a + b) / 2, (b - a) / 2
        if half < Fraction(1, 2**14):
            return False
        try:
            proved = holds(arb(middle.numerator) / middle.denominator, arb(float(half)))
        except ValueError:  # a wide interval, with 0 in a denominator
            proved = False
        if not proved:
            todo += [(a, middle), (middle, b)]
    return True


def at_most(name: str, order: int, bound: float, low: float, high: float) -> bool:
    """Whether |σ⁽ᵏ⁾| ≤ bound on an interval, by the mean value theorem."""

    def holds(middle: arb, radius: arb) -> bool:
        slope = derivative(name, order + 1, middle + arb(0, radius))
        return abs(derivative(name, order, middle)) + abs(slope) * radius <= bound

    return everywhere(holds, low, high)


def signed(name: str, order: int, sign: int, low: float, high: float) -> bool:
    """Whether σ⁽ᵏ⁾ has that sign on an interval."""
    return everywhere(
        lambda middle, radius: sign * derivative(name, order, middle + arb(0, radius)) > 0,
        low,
        high,
    )


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("order", [2, 3])
def test_suprema_of_derivatives_are_proved_up_to_40(name: str, order: int) -> None:
    bound, near = SUP[name][order - 2], 0.0
    if name == "sin":
        assert bound == 1  # |sin| and |cos| on the whole line
        return
    if AT_0.get(name, (0, 0))[0] == order:
        near, value = 1 / 16, AT_0[name][1]
        sign = 1 if value > 0 else -1
        assert Fraction(bound) == abs(value)
        # Of one sign around 0, and bent towards it: as it is even, it is largest in 0.
        assert derivative(name, order, arb(0)).contains(arb(value.numerator) / value.denominator)
        assert signed(name, order, sign, -near, near)
        assert signed(name, order + 2, -sign, -near, near)
    assert at_most(name, order, bound, -40, -near)
    assert at_most(name, order, bound, near, 40)
    assert not at_most(name, order, bound * 0.95, -40, 40)


@pytest.mark.parametrize("name", TAILS)
def test_suprema_of_derivatives_are_proved_beyond_40(name: str) -> None:
    for order, tail in zip((2, 3), TAILS[name](arb(40)), strict=True):
        assert tail < SUP[name][order - 2]
    rng = Random(0)
    ctx.prec = 400
    for _ in range(200):
        z = arb(rng.uniform(3, 100))
        for sign in (-1, 1):
            for order, tail in zip((2, 3), TAILS[name](z), strict=True):
                assert abs(derivative(name, order, sign * z)) <= tail


def test_every_activation_has_suprema() -> None:
    assert {name for name in SUP if SUP[name] == (0, 0)} == {"identity", "relu", "leaky_relu"}
    assert {name for name in SUP if SUP[name] != (0, 0)} == set(CURVES)


# -- known truths -----------------------------------------------------------------------------------


def certified(point: sf.Point) -> sf.Certificate:
    certificate = sf.certify(point)
    assert certificate.certified, certificate.reason
    return certificate


def centre_in_digits(certificate: sf.Certificate) -> list[mp.mpf]:
    with mp.workprec(BITS):
        return [mp.mpf(c.numerator) / c.denominator for c in centre_of(certificate)]


def solved(A: list[list[Fraction]], b: list[Fraction]) -> list[Fraction]:
    """``A⁻¹b`` by Gauß–Jordan elimination."""
    rows = [[*row, last] for row, last in zip(A, b, strict=True)]
    for k in range(len(rows)):
        pivot = next(i for i in range(k, len(rows)) if rows[i][k])
        rows[k], rows[pivot] = rows[pivot], rows[k]
        rows[k] = [v / rows[k][k] for v in rows[k]]
        for i in range(len(rows)):
            if i != k:
                rows[i] = [v - rows[i][k] * w for v, w in zip(rows[i], rows[k], strict=True)]
    return [row[-1] for row in rows]


def near(net: sf.MLP, exact: list[Any], offset: float) -> dict[str, torch.Tensor]:
    """Parameters of a point in rows, rounded and moved a little."""
    flat = [float(exact[place]) for place in places(net)]
    moves = offset * data(1, len(flat), 7)[0]
    return net.unflatten(torch.tensor(flat, dtype=torch.float64) + moves)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("decay", [0.0, 0.25])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1), (3, 2)])
def test_linear_regression_is_certified_at_its_rational_solution(
    shape: tuple[int, int], decay: float, bias: bool
) -> None:
    inputs, outputs = shape
    X, y = data(7, inputs, 1), data(7, outputs, 2)
    problem = sf.Problem(sf.MLP([inputs, outputs], bias=bias), X, y, weight_decay=decay)
    rows = [[*map(Fraction, row)] + [Fraction(1)] * bias for row in X.tolist()]
    targets = [[*map(Fraction, row)] for row in y.tolist()]
    N, D, penalty = len(rows), len(rows[0]), Fraction(decay)
    A = [
        [sum(x[i] * x[j] for x in rows) / N + penalty * (i == j) for j in range(D)]
        for i in range(D)
    ]
    exact: list[Fraction] = []
    for k in range(outputs):
        b = [sum(x[i] * t[k] for x, t in zip(rows, targets, strict=True)) / N for i in range(D)]
        exact += solved(A, b)
    theta = [exact[k * D : (k + 1) * D] for k in range(outputs)]
    loss = penalty / 2 * sum(v * v for v in exact)
    for x, t in zip(rows, targets, strict=True):
        outs = [sum((a * b for a, b in zip(row, x, strict=True)), Fraction(0)) for row in theta]
        squares = sum(((f - each) ** 2 for f, each in zip(outs, t, strict=True)), Fraction(0))
        loss += squares / (2 * N)
    for offset in (0.0, 1e-6):
        certificate = certified(sf.Point(problem, near(problem.net, exact, offset)))
        moved = [abs(a - b) for a, b in zip(centre_of(certificate), exact, strict=True)]
        assert max(moved) <= Fraction(certificate.location) <= Fraction(certificate.unique)
        low, high = map(Fraction, certificate.loss)
        assert low <= loss <= high
        assert certificate.inertia == (len(exact), 0, 0)
        assert certificate.kind == "STRICT_MINIMUM"


def zeros(net: sf.MLP) -> dict[str, torch.Tensor]:
    return {key: 0 * tensor for key, tensor in net.random_params(0).items()}


def bottleneck(
    inputs: torch.Tensor, targets: torch.Tensor, k: int, scale: mp.mpf
) -> tuple[list[mp.mpf], mp.mpf]:
    """θ = [W₁; W₂] of a d-1-M linear network at its k-th singular vector, and the risk there.

    The eigenvectors u of ``Σyx Σxx⁻¹ Σxy`` give ``W₂ = su, W₁ = uᵀΣyxΣxx⁻¹/s`` for any s. With 0 they are all
    critical points, and k is the index (Baldi & Hornik 1989; known.Linear).
    """
    X, y = mp.matrix(inputs.tolist()), mp.matrix(targets.tolist())
    sxx, syx, syy = X.T * X / X.rows, y.T * X / X.rows, y.T * y / X.rows
    ols = syx * sxx**-1
    values, vectors = mp.eigsy(ols * syx.T)
    place = len(values) - 1 - k  # eigsy's rise
    u = vectors[:, place]
    loss = (sum(syy[i, i] for i in range(syy.rows)) - values[place]) / 2
    return [*(u.T * ols / scale), *(scale * each for each in u)], loss


def bottleneck_problem(inputs: int, outputs: int) -> sf.Problem:
    net = sf.MLP([inputs, 1, outputs], "identity", bias=False)
    return sf.Problem(net, data(9, inputs, 3), data(9, outputs, 4))


@pytest.mark.parametrize("shape", [(3, 3), (2, 2), (1, 1), (3, 2), (2, 3)])
def test_one_linear_unit_is_certified_at_every_singular_vector(shape: tuple[int, int]) -> None:
    """A minimum and saddles of all indices, each on a curve of scalings."""
    problem = bottleneck_problem(*shape)
    for k in range(min(shape)):
        with mp.workprec(BITS):
            scale = mp.mpf(3) / 2
            exact, loss = bottleneck(problem.X, problem.y, k, scale)
            certificate = certified(sf.Point(problem, near(problem.net, exact, 1e-7)))
            centre = centre_in_digits(certificate)
            (place,) = held_of(Risk.of(problem), certificate)
            # Of the curve, the point whose parameter held has the value that it is held at.
            outer = place >= problem.net.widths[0]
            ratio = centre[place] / exact[place] if outer else exact[place] / centre[place]
            exact, _ = bottleneck(problem.X, problem.y, k, scale * ratio)
            assert abs(exact[place] - centre[place]) < mp.mpf(10) ** -50
            moved = max(abs(a - b) for a, b in zip(centre, exact, strict=True))
            assert moved <= mp.mpf(certificate.location) + mp.mpf(10) ** -50
            low, high = certificate.loss
            assert low <= loss <= high
        assert certificate.inertia == (sum(shape) - 1 - k, 1, k)
        assert certificate.kind == ("STRICT_SADDLE" if k else "MINIMUM")


@pytest.mark.parametrize("size", [1, 2, 3])
def test_one_linear_unit_is_certified_at_0(size: int) -> None:
    """∇²R = ((0, B), (Bᵀ, 0)) with B = −Σxy: no diagonal, and as many eigenvalues of either sign."""
    problem = bottleneck_problem(size, size)
    certificate = certified(sf.Point(problem, zeros(problem.net)))
    assert certificate.inertia == (size, 0, size)
    low, high = map(Fraction, certificate.loss)
    assert low <= sum(Fraction(v) ** 2 for row in problem.y.tolist() for v in row) / 18 <= high


@pytest.mark.parametrize("shape", [(3, 2), (1, 2)])
def test_one_linear_unit_with_more_inputs_or_outputs_is_degenerate_at_0(
    shape: tuple[int, int],
) -> None:
    problem = bottleneck_problem(*shape)
    assert sf.certify(sf.Point(problem, zeros(problem.net))).status == "undecided"


ONE_UNIT = known.one_units()


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "gelu 8 near-degenerate", "gelu 12"])
def test_one_unit_is_certified_at_every_critical_point_of_the_grid(name: str) -> None:
    case = ONE_UNIT[name]
    problem = sf.Problem(sf.MLP([1, 1, 1], case.activation), case.x[:, None], case.y)
    found, exact = [], []
    for u in case.critical:
        certificate = certified(sf.Point(problem, case.params(u)))
        index = case.index(u)
        assert certificate.inertia == (4 - index, 0, index)
        true = truth(Risk.of(problem), certificate)
        assert contradictions(certificate, true) == []
        found.append(certificate)
        exact.append(true.theta)
    assert len({certificate.inertia for certificate in found}) >= 2
    for k, certificate in enumerate(found):  # nobody else is where a point is the only one
        centre = centre_in_digits(certificate)
        for other in exact[:k] + exact[k + 1 :]:
            distance = max(abs(a - b) for a, b in zip(centre, other, strict=True))
            assert distance > certificate.unique


def test_a_saddle_with_a_unit_that_does_nothing_is_certified() -> None:
    """A null unit w = ζ = 0 of a layer without biases adds ((0, a), (a, 0)), a ≠ 0, to the Hessian."""
    X, y = curve()
    net = sf.MLP([1, 1, 1], "tanh", [False, True])
    point = sf.find_critical_point(sf.Problem(net, X, y), starts=2)
    assert certified(point).inertia == (3, 0, 0)
    wide = sf.Problem(sf.MLP([1, 2, 1], "tanh", [False, True]), X, y)
    none = torch.zeros(1, 1, dtype=torch.float64)
    params = {
        "0.weight": torch.cat([point.params["0.weight"], none]),
        "2.weight": torch.cat([point.params["2.weight"], none], 1),
        "2.bias": point.params["2.bias"],
    }
    certificate = certified(sf.Point(wide, params))
    true = truth(Risk.of(wide), certificate)
    assert true.sizes[1] < 1e4 * true.sizes[0]
    assert contradictions(certificate, true) == []
    assert certificate.inertia == (4, 0, 1)


# -- many problems, against dense Hessians to 60 digits ---------------------------------------------


def curve() -> tuple[torch.Tensor, torch.Tensor]:
    X = data(12, 1, 0)
    return X, torch.tanh(1.3 * X + 0.4) + 0.3 * data(12, 1, 3)


def test_false_certificates_are_seen_to_be_false() -> None:
    """By the means that the tests below trust."""
    X, y = curve()
    certificate = certified(sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1]), X, y), starts=2))
    risk = Risk(sf.MLP([1, 1, 1]), X.tolist(), y.tolist(), "squared")
    assert contradictions(certificate, truth(risk, certificate)) == []
    low, high = certificate.loss
    sizes = [float.fromhex(v) for v in certificate.proved["eigenvalue_sizes"]]
    for false in (
        {"location": (1e-70).hex()},
        {"loss": [high.hex(), (2 * high).hex()]},
        {"loss": [(0.0).hex(), low.hex()]},
        {"inertia": [3, 0, 1], "kind": "STRICT_SADDLE"},
        {"inertia": [3, 1, 0], "kind": "MINIMUM"},
        {"kind": "STRICT_SADDLE"},
        {"eigenvalue_sizes": [v.hex() for v in (sizes[1], sizes[1])]},
        {"eigenvalue_sizes": [v.hex() for v in (sizes[0], sizes[0])]},
    ):
        document = certificate.document | {"proved": certificate.proved | false}
        other = sf.Certificate(certificate.status, certificate.reason, document)
        assert len(contradictions(other, truth(risk, other))) >= 1, false
    held = [{"family": "scaling", "layer": 0, "unit": 0, "input": 0}]
    moved = [[float(c + Fraction(1, 1000)).hex() for c in centre_of(certificate)]]
    document = certificate.document | {"centre": moved, "frozen": held}
    other = sf.Certificate(certificate.status, certificate.reason, document)
    said = contradictions(other, truth(risk, other))
    assert any(each.startswith("a critical point") for each in said)


def smooth_problems() -> Iterator[sf.Problem]:
    """Every smooth activation with every loss, and a little weight decay: saddles and minima."""
    for k, sigma in enumerate(SIGMAS[:7]):
        for loss in LOSSES:
            widths = [[1, 2, 1], [2, 2, 1], [2, 1, 2]][(k + LOSSES.index(loss)) % 3]
            widths[-1] = 2 if loss == "cross_entropy" else widths[-1]
            X = data(10, widths[0], k)
            signal = torch.sin(2 * X.sum(1)) + 0.3 * data(1, 10, k + 100)[0]
            y = torch.stack([signal * (1 + j) + j * X[:, 0] for j in range(widths[-1])], 1)
            if loss == "cross_entropy":
                y = (signal > 0).long()
            elif loss == "logistic":
                y = (y > 0.3).double()
            yield sf.Problem(sf.MLP(widths, sigma), X, y, loss, weight_decay=0.02)


def kinked_problems() -> Iterator[sf.Problem]:
    """ReLU and leaky ReLU, what a network of the same kind makes, with noise; units die on the way."""
    for sigma in ("relu", "leaky_relu"):
        for loss in LOSSES:
            for k, widths in enumerate(([1, 2, 1], [2, 1, 1])):
                net = sf.MLP([*widths[:2], 2] if loss == "cross_entropy" else widths, sigma)
                X = data(20, widths[0], 2 * k)
                f = net.forward(net.random_params(2 * k + 3, scale=1.5), X)
                f = f + 0.3 * data(20, net.outputs, 50 + 2 * k)
                if loss == "cross_entropy":
                    y = f.argmax(1)
                    y[::5] = 1 - y[::5]
                else:
                    y = f if loss == "squared" else (f > 0.1).double()
                    y[::4] = y[::4] if loss == "squared" else 1 - y[::4]
                yield sf.Problem(net, X, y, loss)


def ends(problem: sf.Problem, starts: int, kind: str) -> list[sf.CriticalPoint]:
    return sf.run_search(
        problem, starts=starts, seed=1, kind=kind, max_iterations=120, processes=1
    ).runs


def ends_of_search() -> Iterator[sf.Point]:
    for problem in smooth_problems():
        yield from ends(problem, 2, "any")
    for problem in kinked_problems():
        yield from ends(problem, 4, "minimum")


def found_from(problem: sf.Problem, params: dict[str, torch.Tensor]) -> sf.Point:
    return sf.run_search(problem, start=params, kind="any", max_iterations=150, processes=1).runs[0]


def nearly_degenerate() -> Iterator[sf.Point]:
    """Eigenvalues that go to 0: with the decay, with the distance of two units, of two columns."""
    X, y = data(12, 1, 0), torch.sin(2 * data(12, 1, 0)) + 0.3 * data(12, 1, 3)
    for decay in (1e-2, 1e-4, 1e-6, 1e-8, 1e-10):
        problem = sf.Problem(sf.MLP([1, 3, 1]), X[:4], y[:4], weight_decay=decay)
        yield sf.run_search(problem, starts=1, seed=0, processes=1).runs[0]
    point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1]), X, y), starts=2)
    copies = sf.Replicate(0, 0, [0.5, 0.5])(point).materialize()
    for decay in (1e-1, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15):
        problem = sf.Problem(copies.problem.net, X, y, weight_decay=decay)
        yield sf.Point(problem, copies.params)
        yield found_from(problem, copies.params)
    net = sf.MLP([1, 2, 1])
    for apart in (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4):
        teacher = {
            "0.weight": torch.tensor([[1.0], [1.0 + apart]], dtype=torch.float64),
            "0.bias": torch.tensor([0.2, 0.2 - apart], dtype=torch.float64),
            "2.weight": torch.tensor([[1.0, 0.7]], dtype=torch.float64),
            "2.bias": torch.tensor([0.1], dtype=torch.float64),
        }
        noise = 1e-3 * apart**2 * data(12, 1, 5)
        problem = sf.Problem(net, X, net.forward(teacher, X) + noise)
        yield sf.Point(problem, teacher)
        yield found_from(problem, teacher)
    for apart in (1e-2, 1e-4, 1e-6, 1e-7, 1e-8, 1e-10):
        both = torch.cat([X, X + apart * data(12, 1, 9)], 1)
        inputs = torch.cat([both, torch.ones_like(X)], 1)
        weights = torch.linalg.lstsq(inputs, y).solution[:, 0]
        problem = sf.Problem(sf.MLP([2, 1]), both, y)
        yield sf.Point(problem, {"0.weight": weights[None, :2], "0.bias": weights[2:]})


def held_against_the_truth(points: Iterator[sf.Point], tmp_path: Any) -> tuple[list[Any], int]:
    """The inertias of all that were certified, none of them wrong, and how many were not."""
    inertias, undecided = [], 0
    for point in points:
        certificate = sf.certify(point)
        if not certificate.certified:
            assert certificate.status == "undecided"
            assert certificate.proved == {}
            undecided += 1
            continue
        true = truth(Risk.of(point.problem), certificate)
        assert contradictions(certificate, true) == [], (point.problem.net, point.problem.loss)
        certificate.save(tmp_path / "certificate.json")
        verification = verify(tmp_path / "certificate.json")
        assert verification.ok, verification.reason
        inertias.append(certificate.inertia)
    return inertias, undecided


@pytest.mark.slow
def test_no_certificate_of_what_searches_find_contradicts_the_dense_hessian(tmp_path: Any) -> None:
    inertias, undecided = held_against_the_truth(ends_of_search(), tmp_path)
    assert len(inertias) + undecided == 21 * 2 + 12 * 4
    assert len(inertias) >= 42
    assert {negative for _, _, negative in inertias} >= {0, 1, 2}
    assert sum(zero > 0 for _, zero, _ in inertias) >= 8


@pytest.mark.slow
def test_no_certificate_near_degenerate_points_contradicts_the_dense_hessian(tmp_path: Any) -> None:
    inertias, undecided = held_against_the_truth(nearly_degenerate(), tmp_path)
    assert len(inertias) >= 12
    assert len(inertias) + undecided == 5 + 12 + 14 + 6
    assert {negative for _, _, negative in inertias} == {0, 1}


def test_saddles_of_several_indices_are_certified_with_the_dense_eigenvalues() -> None:
    X = data(12, 2, 11)
    y = torch.sin(2 * X[:, 0]) * X[:, 1]
    problem = sf.Problem(sf.MLP([2, 2, 1]), X, y, weight_decay=0.01)
    points = sf.find_critical_points(problem, starts=8, kind="any", max_iterations=150, processes=1)
    indices = set()
    for point in points:
        certificate = certified(point)
        true = truth(Risk.of(problem), certificate)
        assert contradictions(certificate, true) == []
        dense = torch.linalg.eigvalsh(sf.hessian(point))
        negative = int((dense < 0).sum())
        assert certificate.inertia == (len(dense) - negative, 0, negative)
        indices.add(negative)
    assert len(indices) >= 2


# -- degenerate points ------------------------------------------------------------------------------


def one_unit(sigma: str = "tanh") -> sf.Point:
    return sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], sigma), *curve()), starts=4)


def two_linear_units() -> sf.Point:
    X, y = data(12, 2, 0), data(12, 2, 1)
    return sf.find_critical_point(sf.Problem(sf.MLP([2, 2, 2], "identity"), X, y), starts=2)


def exact_fit() -> sf.Point:
    X, y = curve()
    return sf.find_critical_point(sf.Problem(sf.MLP([1, 3, 1]), X[:5], y[:5]), starts=8)


def equal_columns() -> sf.Point:
    X, y = curve()
    problem = sf.Problem(sf.MLP([2, 1]), torch.cat([X, X], 1), y)
    return sf.find_critical_point(problem, starts=1)


def few_samples() -> sf.Point:
    X, y = data(2, 3, 0), data(2, 1, 1)
    return sf.find_critical_point(sf.Problem(sf.MLP([3, 1]), X, y), starts=1)


def dead_with_decay() -> sf.Point:
    """A ReLU unit that decay has brought to 0, on its kink."""
    X, y = curve()
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), X, y, weight_decay=0.1)
    return sf.Point(problem, zeros(problem.net) | {"2.bias": y.mean(0) / 1.1})


def targets_all_equal() -> sf.Point:
    X, y = curve()
    problem = sf.Problem(sf.MLP([1, 1, 1]), X, 0 * y + 2)
    params = zeros(problem.net) | {"0.weight": torch.ones(1, 1).double(), "2.bias": y[0] * 0 + 2}
    return sf.Point(problem, params)


DEGENERATE: dict[str, Callable[[], sf.Point]] = {
    "a unit twice": lambda: sf.Replicate(0, 0, [0.5, 0.5])(one_unit()).materialize(),
    "a unit twice, one share negative": lambda: sf.Replicate(0, 0, [-1, 2])(
        one_unit("gelu")
    ).materialize(),
    "a unit thrice": lambda: sf.Replicate(0, 0, [0.2, 0.3, 0.5])(one_unit("sin")).materialize(),
    "a copy that nothing hears": lambda: sf.Replicate(0, 0, [1, 0])(one_unit()).materialize(),
    "a null unit": lambda: sf.NullUnits(0, [0.3])(one_unit()).materialize(),
    "two null units": lambda: sf.NullUnits(0, [0.3, -1.0])(one_unit("sigmoid")).materialize(),
    "two linear units": two_linear_units,
    "more parameters than samples": exact_fit,
    "more inputs than samples": few_samples,
    "an input twice": equal_columns,
    "a unit at its kink": dead_with_decay,
    "a constant fit": targets_all_equal,
}


@pytest.mark.parametrize("make", DEGENERATE.values(), ids=DEGENERATE)
def test_degenerate_points_are_undecided(make: Callable[[], sf.Point]) -> None:
    certificate = sf.certify(make())
    assert certificate.status == "undecided"
    assert certificate.inertia is None
    assert certificate.proved == {}
    assert certificate.reason


def test_points_that_have_not_converged_are_undecided() -> None:
    for seed in range(5):
        for loss in LOSSES:
            risk, _ = random_risk(Random(seed), "tanh", loss, 2)
            problem = sf.Problem(risk.net, risk.X, risk.y, loss)
            assert sf.certify(sf.Point(problem, risk.net.random_params(seed))).status == "undecided"


def test_units_that_wake_up_on_the_way_are_not_held_as_dead(tmp_path: Any) -> None:
    """Newton's steps below move their inputs; awake, they make the point no critical one."""
    bias = [True, True, False]
    X = torch.linspace(-1.5, 1.5, 8, dtype=torch.float64)[:, None]
    y = 0.7 * torch.tanh(1.3 * X + 0.3) + 1 + 0.1 * data(8, 1, 10)
    net = sf.MLP([1, 1, 1, 1], ["tanh", "relu"], bias)
    start = {"0.weight": [[1.3]], "0.bias": [0.3], "2.weight": [[0.7]], "2.bias": [1.0]}
    start |= {"4.weight": [[1.0]]}
    params = {key: torch.tensor(value, dtype=torch.float64) for key, value in start.items()}
    params = sf.find_critical_point(sf.Problem(net, X, y), start=params).params
    one = torch.ones(1, 1, dtype=torch.float64)
    wide = sf.Problem(sf.MLP([1, 1, 2, 1], ["tanh", "relu"], bias), X, y)
    h = torch.tanh(X @ params["0.weight"].T + params["0.bias"]).max()

    def points() -> Iterator[sf.Point]:
        for part in (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6):
            moved = {
                "0.weight": params["0.weight"] * (1 - 3 * part),
                "0.bias": params["0.bias"] - 3 * part,
                "2.weight": torch.cat([params["2.weight"], one]),
                "2.bias": torch.cat([params["2.bias"], part / 10 - h.reshape(1)]),
                "4.weight": torch.cat([params["4.weight"], one / 2], 1),
            }
            yield sf.Point(wide, moved)

    held_against_the_truth(points(), tmp_path)


# -- overflow ---------------------------------------------------------------------------------------


@each_sigma
@pytest.mark.parametrize("loss", LOSSES)
def test_parameters_near_overflow_are_undecided(sigma: str, loss: str) -> None:
    X = data(5, 2, 0)
    y = torch.tensor([0, 1, 0, 1, 1]) if loss == "cross_entropy" else data(5, 2, 1).abs() / 4
    for widths in ([2, 2], [2, 2, 2], [2, 1, 2, 2]):
        problem = sf.Problem(sf.MLP(widths, sigma), X, y, loss)
        for scale in (1e100, 1e160, 1e200, 1e307):
            params = {k: v * scale for k, v in problem.net.random_params(0).items()}
            certificate = sf.certify(sf.Point(problem, params))
            assert certificate.status == "undecided"
            assert certificate.reason


@pytest.mark.parametrize("scale", [1e100, 1e200])
def test_statements_about_huge_numbers_are_finite_or_none(scale: float, tmp_path: Any) -> None:
    problem = sf.Problem(sf.MLP([1, 1, 1], "identity"), [[1.0], [2.0]], [0.0, 1.0])
    point = sf.Point(problem, {k: v * 0 + scale for k, v in zeros(problem.net).items()})
    down = {k: 0 * v - 1 for k, v in point.params.items()}
    for certificate in (
        sf.certify_not_critical(point),
        sf.certify_not_critical(point, radius=1e-3),
        sf.certify_descent(point, down, step=scale / 2),
    ):
        if certificate.certified:
            certificate.save(tmp_path / "certificate.json")
            assert verify(tmp_path / "certificate.json").ok
