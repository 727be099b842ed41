"""General compatible embeddings against Z22 Def. 5.2 and its Conditions 1 and 2, coded anew here."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
import semiflat as sf
from helpers import point_of, problem_of, refused
from reference import KINKED, IndexMap, Reference
from semiflat.embeddings import embedding_from_json
from semiflat.embeddings.widening import Widening
from test_embeddings import LAW

Lists = list[list[float]]


def net_of(ref: Reference) -> sf.MLP:
    return problem_of(ref).net


# -- Conditions 1 and 2, entry by entry ----------------------------------------------------------------


def residuals(
    inputs: int, outputs: int, index_map: IndexMap, alpha: Sequence[Any], beta: Sequence[Any]
) -> tuple[float, float, float]:
    """Largest residual of the forward, the backward and the β-sum equations, relative to terms."""
    maps: list[list[int | None]] = [[*range(inputs)], *map(list, index_map), [*range(outputs)]]
    weights = [[1.0] * inputs, *[list(map(float, b)) for b in beta], [1.0] * outputs]
    forward = backward = total = 0.0
    for layer in range(len(maps) - 1):
        above, below = maps[layer + 1], maps[layer]
        matrix = np.asarray(alpha[layer])
        assert matrix.shape == (len(above), len(below))
        for i, target in enumerate(above):
            for s in {t for t in below if t is not None}:
                terms = [matrix[i, j] for j, t in enumerate(below) if t == s]
                size = max(1.0, *map(abs, terms))
                forward = max(forward, abs(sum(terms) - (target is not None)) / size)
        if layer == 0:
            continue  # the input layer has no error to carry back
        for j, source in enumerate(below):
            for k in {t for t in above if t is not None}:
                terms = [
                    weights[layer + 1][i] * matrix[i, j] for i, t in enumerate(above) if t == k
                ]
                expected = weights[layer][j] if source is not None else 0.0
                size = max(1.0, *map(abs, terms))
                backward = max(backward, abs(sum(terms) - expected) / size)
    for sources, shares in zip(maps[1:-1], weights[1:-1], strict=True):
        for s in {t for t in sources if t is not None}:
            terms = [b for b, t in zip(shares, sources, strict=True) if t == s]
            total = max(total, abs(sum(terms) - 1) / max(1.0, *map(abs, terms)))
    return forward, backward, total


@st.composite
def maps_for(draw: st.DrawFn, ref: Reference, most: int = 3) -> list[list[int | None]]:
    """Total index maps: every unit once, more copies and null units, in any order."""
    found: list[list[int | None]] = []
    for layer, width in enumerate(ref.hidden):
        nulls = ref.has_bias[layer] and ref.has_bias[layer + 1]
        new = st.integers(-1 if nulls else 0, width - 1)
        order = draw(st.permutations([*range(width), *draw(st.lists(new, max_size=most))]))
        found.append([None if s == -1 else s for s in order])
    return found


@st.composite
def networks(draw: st.DrawFn, layers: int = 3) -> Reference:
    seed = draw(st.integers(0, 2**16))
    activation = reference.ACTIVATIONS[seed % len(reference.ACTIVATIONS)]
    loss = list(reference.LOSSES)[seed // 16 % len(reference.LOSSES)]
    depth = draw(st.integers(1, layers))
    hidden = draw(st.lists(st.integers(1, 3), min_size=depth, max_size=depth))
    outputs = draw(st.integers(2 if loss == "cross_entropy" else 1, 3))
    widths = [draw(st.integers(1, 3)), *hidden, outputs]
    mixed = st.lists(st.booleans(), min_size=depth + 1, max_size=depth + 1)
    has_bias = [True] * (depth + 1) if seed % 3 else draw(mixed)
    return reference.random_reference(widths, activation, loss, has_bias, 6, seed)


def wide_widths(ref: Reference, index_map: IndexMap) -> list[int]:
    return [ref.widths[0], *map(len, index_map), ref.widths[-1]]


def random_of(ref: Reference, index_map: IndexMap, seed: int, scale: float = 1.0) -> sf.Compatible:
    return sf.Compatible.random(net_of(ref), wide_widths(ref, index_map), seed, index_map, scale)


def by_hand(ref: Reference, made: sf.Compatible, index_map: IndexMap) -> Reference:
    alpha = [torch.from_numpy(a.copy()) for a in made.alpha]
    biases = [torch.from_numpy(b.copy()) for b in made.null_biases]
    params = reference.compatible(ref.params, index_map, alpha, biases, ref.activation)
    return replace(ref, params=params)


@settings(LAW, max_examples=35)
@given(st.data(), st.integers(0, 2**16), st.sampled_from([0.1, 1.0, 5.0]))
def test_random_ones_satisfy_the_conditions_and_are_what_definition_5_2_says(
    data: st.DataObject, seed: int, scale: float
) -> None:
    ref = data.draw(networks())
    index_map = data.draw(maps_for(ref))
    made = random_of(ref, index_map, seed, scale)
    assert made.index_map == index_map
    assert made.widths == tuple(wide_widths(ref, index_map))
    found = residuals(ref.widths[0], ref.widths[-1], index_map, made.alpha, made.beta)
    assert max(found) <= 1e-12
    wide = by_hand(ref, made, index_map)
    point = made(point_of(ref))
    size = max(float(t.abs().max()) for t in wide.params.values())
    for key, expected in wide.params.items():
        assert float((point.params[key] - expected).abs().max()) <= 1e-13 * size, key
    inputs = torch.cat([ref.X, 3 * ref.X])
    limit = 1e-12 * reference.reach(wide.params, inputs)
    assert float((wide.at(inputs) - ref.at(inputs)).abs().max()) <= limit
    # Lemma 5.1: activities are copies, null units' constants; errors are β times the narrow ones.
    for layer, sources in enumerate(index_map):
        narrow_h, wide_h = ref.activity(layer), wide.activity(layer)
        narrow_e, wide_e = ref.error(layer), wide.error(layer)
        nulls = iter(made.null_biases[layer].tolist())
        room = 1e-11 * size ** (layer + 1) * max(1.0, reference.reach(wide.params, ref.X))
        for place, source in enumerate(sources):
            if source is None:
                constant = reference.MODULES[ref.activation]()(
                    torch.tensor(next(nulls), dtype=torch.float64)
                )
                assert float((wide_h[:, place] - constant).abs().max()) <= room
                assert float(wide_e[:, place].abs().max()) <= room
            else:
                assert float((wide_h[:, place] - narrow_h[:, source]).abs().max()) <= room
                if ref.activation in KINKED and ref.nearest_kink() < 1e-9:
                    continue
                share = float(made.beta[layer][place])
                off = (wide_e[:, place] - share * narrow_e[:, source]).abs().max()
                assert float(off) <= room
        assert next(nulls, None) is None


@settings(LAW, max_examples=20)
@given(st.data(), st.integers(0, 2**16))
def test_given_again_as_lists_they_are_accepted(data: st.DataObject, seed: int) -> None:
    ref = data.draw(networks())
    index_map = data.draw(maps_for(ref))
    made = random_of(ref, index_map, seed)
    alpha: list[Lists] = [a.tolist() for a in made.alpha]
    biases = [b.tolist() for b in made.null_biases]
    beta: list[list[Any]] = [
        [None if s is None else share for s, share in zip(sources, shares, strict=True)]
        for sources, shares in zip(index_map, [b.tolist() for b in made.beta], strict=True)
    ]
    widths = wide_widths(ref, index_map)
    minus = [[-1 if s is None else s for s in sources] for sources in index_map]
    with_beta = sf.Compatible(widths, index_map, alpha, beta, biases)
    without = sf.Compatible(widths, minus, alpha, None, biases)
    assert with_beta == made
    for given_again in (with_beta, without):
        assert torch.equal(
            reference.flat(given_again.apply(net_of(ref), ref.params)),
            reference.flat(made.apply(net_of(ref), ref.params)),
        )
    for found, expected in zip(without.beta, made.beta, strict=True):
        assert np.abs(found - expected).max() <= 1e-11 * max(1.0, np.abs(expected).max()) * max(
            1.0, *(np.abs(a).max() ** 2 for a in made.alpha)
        )
    back = embedding_from_json(json.loads(json.dumps(made.to_json(), allow_nan=False)))
    assert back == made


def test_random_is_the_same_for_the_same_seed_and_another_for_another() -> None:
    net = sf.MLP([2, 3, 2, 1])
    first = sf.Compatible.random(net, [2, 6, 5, 1], seed=3)
    assert first == sf.Compatible.random(net, [2, 6, 5, 1], seed=3)
    others = [sf.Compatible.random(net, [2, 6, 5, 1], seed=seed) for seed in range(4, 24)]
    assert all(first != other for other in others)
    assert first != sf.Compatible.random(net, [2, 6, 5, 1])
    maps = {str(other.index_map) for other in others}
    assert len(maps) > 10
    assert any("None" in each for each in maps)
    small = sf.Compatible.random(net, [2, 6, 5, 1], seed=3, scale=1e-3, index_map=first.index_map)
    spread = [float(np.ptp(each.alpha[1])) for each in (small, first)]
    assert spread[0] < 0.01 * spread[1] + 1


@pytest.mark.parametrize(
    "bias", [False, [True, False, True], [False, True, True], [True, True, False]]
)
def test_random_ones_fit_the_network_they_are_drawn_for(bias: Any) -> None:
    """Where a missing bias rules null units out, none may be drawn."""
    net = sf.MLP([2, 2, 2, 1], "tanh", bias)
    params = net.random_params(0)
    X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(4, 2)
    for seed in range(10):
        made = sf.Compatible.random(net, [2, 6, 6, 1], seed=seed)
        wide = made.widen(net)
        after = wide.forward(made.apply(net, params), X)
        assert float((after - net.forward(params, X)).abs().max()) < 1e-9


# -- violated conditions -------------------------------------------------------------------------------


@settings(LAW, max_examples=30)
@given(st.data(), st.integers(0, 2**16), st.sampled_from([1e-6, 0.5, -3.0]))
def test_any_entry_that_breaks_a_condition_is_found(
    data: st.DataObject, seed: int, change: float
) -> None:
    """One multiplier or β changed: refused exactly where the equations here say so."""
    ref = data.draw(networks())
    index_map = data.draw(maps_for(ref))
    made = random_of(ref, index_map, seed)
    alpha, beta = [a.copy() for a in made.alpha], [b.copy() for b in made.beta]
    layer = data.draw(st.integers(0, len(alpha) - 1))
    if data.draw(st.booleans()) and layer < len(beta):
        place = data.draw(st.integers(0, len(beta[layer]) - 1))
        beta[layer][place] += change
    else:
        i = data.draw(st.integers(0, alpha[layer].shape[0] - 1))
        j = data.draw(st.integers(0, alpha[layer].shape[1] - 1))
        alpha[layer][i, j] += change
    inputs, outputs = ref.widths[0], ref.widths[-1]
    effective = [
        [0.0 if s is None else b for s, b in zip(m, shares, strict=True)]
        for m, shares in zip(index_map, beta, strict=True)
    ]
    broken = max(residuals(inputs, outputs, index_map, alpha, effective)) > 1e-9
    widths = wide_widths(ref, index_map)
    if broken:
        with pytest.raises(sf.InputError, match="residual"):
            sf.Compatible(widths, index_map, alpha, beta, made.null_biases)
    else:
        sf.Compatible(widths, index_map, alpha, beta, made.null_biases)


def plain() -> tuple[list[int], list[list[int | None]], list[Any], list[Any]]:
    """2 → 3 and 2 → 4 units with one null unit in the second layer."""
    index_map: list[list[int | None]] = [[0, 1, 1], [0, 1, 0, None]]
    beta = [[1.0, 0.25, 0.75], [0.5, 1.0, 0.5, 0.0]]
    alpha = [
        np.ones((3, 2)),
        np.array([[1, 0.25, 0.75], [1, 0.25, 0.75], [1, 0.25, 0.75], [0, 0, 0.0]]),
        np.array([[0.5, 1, 0.5, 0.0]]),
    ]
    return [2, 3, 4, 1], index_map, alpha, beta


def changed(array: Any, place: tuple[int, ...], by: float) -> Any:
    array = np.array(array, dtype=float)
    array[place] += by
    return array


def test_the_unchanged_example_is_accepted() -> None:
    made = sf.Compatible(*plain())
    assert residuals(2, 1, made.index_map, made.alpha, made.beta) == (0, 0, 0)


INTO = "forward condition violated in linear layer {}: the multipliers into unit {} from the copies of "
OUT_OF = "backward condition violated in linear layer {}: the β-weighted multipliers from unit {} to the "


@pytest.mark.parametrize(
    ("layer", "place", "by", "message"),
    [
        (0, (1, 0), 0.5, INTO.format(0, 1) + "narrow unit 0 sum to 1.5, not 1 (residual 0.5)"),
        (1, (2, 1), -1, INTO.format(1, 2) + "narrow unit 1 sum to 0, not 1 (residual -1)"),
        (1, (3, 0), 2, INTO.format(1, 3) + "narrow unit 0 sum to 2, not 0 (residual 2)"),
        (
            2,
            (0, 1),
            0.125,
            INTO.format(2, 0) + "narrow unit 1 sum to 1.125, not 1 (residual 0.125)",
        ),
        (
            2,
            (0, 3),
            1,
            OUT_OF.format(2, 3) + "copies of narrow unit 0 sum to 1, not 0 (residual 1)",
        ),
    ],
)
def test_a_violated_condition_is_named_with_layer_unit_and_residual(
    layer: int, place: tuple[int, int], by: float, message: str
) -> None:
    widths, index_map, alpha, beta = plain()
    alpha[layer] = changed(alpha[layer], place, by)
    with refused(message):
        sf.Compatible(widths, index_map, alpha, beta)


def test_a_violated_backward_condition_between_copies_is_named() -> None:
    widths, index_map, alpha, beta = plain()
    alpha[1] = changed(changed(alpha[1], (0, 1), 0.5), (0, 2), -0.5)  # forward sums stay
    with refused(
        "backward condition violated in linear layer 1: the β-weighted multipliers from unit 1 to "
        "the copies of narrow unit 0 sum to 0.5, not 0.25 (residual 0.25)"
    ):
        sf.Compatible(widths, index_map, alpha, beta)
    with refused("backward condition violated in linear layer 1"):
        sf.Compatible(widths, index_map, alpha)


def test_backward_weights_that_do_not_sum_to_1_are_named() -> None:
    widths, index_map, alpha, beta = plain()
    beta[0][2] = 0.5
    with refused(
        "backward weights of hidden layer 0: those of the copies of narrow unit 1 sum to 0.75, not 1 "
        "(residual -0.25)"
    ):
        sf.Compatible(widths, index_map, alpha, beta)
    with refused("backward weights of hidden layer 0"):
        sf.Compatible(widths, index_map, beta=beta)


def test_whatever_stands_at_null_units_in_beta_does_not_matter() -> None:
    widths, index_map, alpha, beta = plain()
    for value in (0.0, None, 17.5, -1e9):
        beta[1][3] = value
        assert sf.Compatible(widths, index_map, alpha, beta) == sf.Compatible(*plain())


# -- bad input -----------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "not total": ("is not total: no wide unit copies narrow unit 1", [[2, 3, 1], [[0, 2, 2]]], {}),
    "all null": ("is not total: no wide unit copies narrow unit 0", [[2, 2, 1], [[None, -1]]], {}),
    "a list short": (
        "index_map has 1 lists, but widths [2, 3, 3, 1] have 2",
        [[2, 3, 3, 1], [[0, 1, 2]]],
        {},
    ),
    "a list too many": ("index_map has 2 lists", [[2, 3, 1], [[0, 1, 2], [0]]], {}),
    "entries short": ("has 2 entries; the wide layer has 3 units", [[2, 3, 1], [[0, 1]]], {}),
    "entries too many": ("has 4 entries", [[2, 3, 1], [[0, 1, 0, 1]]], {}),
    "negative": ("unit 1 has source -2", [[2, 3, 1], [[0, -2, 1]]], {}),
    "fraction": ("index map of hidden layer 0", [[2, 3, 1], [[0, 1.5, 1]]], {}),
    "whole float": ("index map of hidden layer 0", [[2, 3, 1], [[0, 1.0, 1]]], {}),
    "bool": ("index map of hidden layer 0", [[2, 2, 1], [[False, True]]], {}),
    "text": ("index map of hidden layer 0", [[2, 3, 1], [["a", "b", "c"]]], {}),
    "nan": ("index map of hidden layer 0", [[2, 3, 1], [[0, 1, float("nan")]]], {}),
    "beyond int64": ("index map of hidden layer 0", [[2, 3, 1], [[0, 1, 2**70]]], {}),
    "a million": ("unit 2 has source 1000000", [[2, 3, 1], [[0, 1, 10**6]]], {}),
    "nested": ("index map of hidden layer 0", [[2, 3, 1], [[[0], [1], [1]]]], {}),
    "ragged": ("index map of hidden layer 0", [[2, 3, 1], [[0, [1], 1]]], {}),
    "no lists": ("index", [[2, 3, 1], None], {}),
    "a number for a list": ("index", [[2, 3, 1], [3]], {}),
    "widths": ("cannot make a network", [[2, 0, 1], [[]]], {}),
    "widths no list": ("cannot make a network", [3, [[0]]], {}),
    "alpha a matrix short": (
        "alpha has 1 matrices, but there are 2",
        [[2, 2, 1], [[0, 1]], [np.ones((2, 2))]],
        {},
    ),
    "alpha shape": (
        "alpha[1] has shape (2, 1); linear layer 1",
        [[2, 2, 1], [[0, 1]], [np.ones((2, 2)), np.ones((2, 1))]],
        {},
    ),
    "alpha nan": ("alpha[0] must be finite", [[1, 1, 1], [[0]], [[[float("nan")]], [[1]]]], {}),
    "alpha text": ("alpha[0] is not an array of numbers", [[1, 1, 1], [[0]], [[["x"]], [[1]]]], {}),
    "alpha no list": ("alpha", [[1, 1, 1], [[0]], 3], {}),
    "beta length": (
        "beta[0] has 3 entries; the wide layer has 2",
        [[2, 2, 1], [[0, 1]]],
        {"beta": [[1, 1, 1]]},
    ),
    "beta a list short": ("beta has 0 lists", [[2, 2, 1], [[0, 1]]], {"beta": []}),
    "beta inf": ("beta[0] must be finite", [[2, 2, 1], [[0, 1]]], {"beta": [[float("inf"), 1]]}),
    "beta a number": ("beta", [[1, 1, 1], [[0]]], {"beta": [1.0]}),
    "beta no list": ("beta", [[1, 1, 1], [[0]]], {"beta": 1.0}),
    "null biases length": (
        "null_biases[0] has 2 entries, but the index map has 1 null",
        [[2, 2, 1], [[0, None]]],
        {"null_biases": [[1, 2]]},
    ),
    "null biases nan": (
        "null_biases[0] must be finite",
        [[2, 2, 1], [[0, None]]],
        {"null_biases": [[float("nan")]]},
    ),
    "null biases a list short": (
        "null_biases has 0 lists",
        [[2, 2, 1], [[0, None]]],
        {"null_biases": []},
    ),
    "null biases no list": ("null_biases", [[2, 2, 1], [[0, None]]], {"null_biases": 3}),
}


@pytest.mark.parametrize("name", list(BAD))
def test_arguments_that_make_no_sense_are_refused(name: str) -> None:
    message, arguments, more = BAD[name]
    with refused(message):
        sf.Compatible(*arguments, **more)


def test_numpy_integers_are_sources() -> None:
    plain_ints = sf.Compatible([2, 3, 1], [[0, 1, 1]])
    assert sf.Compatible([2, 3, 1], [np.array([0, 1, 1])]) == plain_ints
    assert sf.Compatible(np.array([2, 3, 1]), np.array([[0, 1, 1]])) == plain_ints  # type: ignore[arg-type]
    assert sf.Compatible([2, 3, 1], [torch.tensor([0, 1, 1]).tolist()]) == plain_ints


def test_networks_that_do_not_fit_are_refused() -> None:
    net = sf.MLP([2, 3, 1])
    for message, use in (
        (
            "hidden layer 0 would shrink from 3 to 2 units",
            lambda: sf.Compatible([2, 2, 1], [[0, 1]]).matrix(net),
        ),
        (
            "covers narrow units 0 to 1, but the network has 3",
            lambda: sf.Compatible([2, 4, 1], [[0, 1, 1, 0]]).matrix(net),
        ),
        (
            "do not fit a network of widths [2, 3, 1]",
            lambda: sf.Compatible([1, 3, 1], [[0, 1, 2]]).matrix(net),
        ),
        (
            "do not fit a network of widths [2, 3, 1]",
            lambda: sf.Compatible([2, 3, 2], [[0, 1, 2]]).matrix(net),
        ),
        (
            "do not fit a network of widths [2, 3, 1]",
            lambda: sf.Compatible([2, 3, 3, 1], [[0, 1, 2], [0, 1, 2]]).matrix(net),
        ),
        (
            "hidden layer 0 would shrink from 3 to 2 units",
            lambda: sf.Compatible.random(net, [2, 2, 1]),
        ),
        ("do not fit a network", lambda: sf.Compatible.random(net, [2, 3, 3, 1])),
        ("seed", lambda: sf.Compatible.random(net, [2, 4, 1], seed=-1)),
        ("seed", lambda: sf.Compatible.random(net, [2, 4, 1], seed="a")),  # type: ignore[arg-type]
        ("scale", lambda: sf.Compatible.random(net, [2, 4, 1], scale="a")),  # type: ignore[arg-type]
        (
            "covers narrow units 0 to 1",
            lambda: sf.Compatible.random(net, [2, 4, 1], 0, [[0, 1, 1, 0]]),
        ),
        (
            "need a bias in linear layer 1",
            lambda: sf.Compatible([2, 4, 1], [[0, 1, 2, None]]).matrix(
                sf.MLP([2, 3, 1], bias=False)
            ),
        ),
        (
            "can only be 0; given: [0.5]",
            lambda: sf.Compatible([2, 4, 1], [[0, 1, 2, None]], null_biases=[[0.5]]).matrix(
                sf.MLP([2, 3, 1], bias=[False, True])
            ),
        ),
    ):
        with refused(message):
            use()


# -- dimensions ----------------------------------------------------------------------------------------


def own_dimension(ref: Reference, made: sf.Compatible, index_map: IndexMap) -> int:
    """Dimension of the set of wide points at this one, by automatic differentiation.

    The unknowns are all α, β and b*; the equations Conditions 1 and the sums, as functions; their
    kernel, pushed on by the derivative of the wide parameters as Def. 5.2 writes them.
    """
    inputs, outputs = ref.widths[0], ref.widths[-1]
    maps: list[list[int | None]] = [[*range(inputs)], *map(list, index_map), [*range(outputs)]]
    pieces = [
        *[torch.from_numpy(a.copy()) for a in made.alpha],
        *[torch.from_numpy(b.copy()) for b in made.beta],
        *[torch.from_numpy(b.copy()) for b in made.null_biases],
    ]
    depth = len(made.alpha)

    def split(vector: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        parts = [
            part.reshape(piece.shape)
            for part, piece in zip(vector.split([p.numel() for p in pieces]), pieces, strict=True)
        ]
        return parts[:depth], parts[depth : 2 * depth - 1], parts[2 * depth - 1 :]

    def equations(vector: Tensor) -> Tensor:
        alpha, beta, _ = split(vector)
        one = torch.ones((), dtype=torch.float64)
        weights = [[one] * inputs, *[list(b) for b in beta], [one] * outputs]
        found = []
        for layer in range(depth):
            above, below = maps[layer + 1], maps[layer]
            for i, target in enumerate(above):
                for s in sorted({t for t in below if t is not None}):
                    total = sum(alpha[layer][i, j] for j, t in enumerate(below) if t == s)
                    found.append(total - (1.0 if target is not None else 0.0))
            for j, source in enumerate(below) if layer else ():
                for k in sorted({t for t in above if t is not None}):
                    total = sum(
                        weights[layer + 1][i] * alpha[layer][i, j]
                        for i, t in enumerate(above)
                        if t == k
                    )
                    found.append(total - (weights[layer][j] if source is not None else 0 * one))
        for layer, sources in enumerate(index_map):
            found += [beta[layer][i] for i, s in enumerate(sources) if s is None]
        return torch.stack([torch.as_tensor(each) for each in found])

    def wide(vector: Tensor) -> Tensor:
        alpha, _, biases = split(vector)
        return reference.flat(
            reference.compatible(ref.params, index_map, alpha, biases, ref.activation)
        )

    at = torch.cat([piece.reshape(-1) for piece in pieces])
    assert float(equations(at).abs().max()) < 1e-10
    J = torch.func.jacfwd(equations)(at)
    _, sizes, right = torch.linalg.svd(J)
    kernel = right[int((sizes > 1e-10 * sizes[0]).sum()) :]
    pushed = torch.func.jacfwd(wide)(at) @ kernel.T
    return int(torch.linalg.matrix_rank(pushed, rtol=1e-9)) if kernel.numel() else 0


@settings(LAW, max_examples=15)
@given(st.data(), st.integers(0, 2**16))
def test_degrees_of_freedom_are_the_dimension_of_the_set(data: st.DataObject, seed: int) -> None:
    """K + Σ K_l K_{l−1} (Z22 §6.1) = tangent_rank = the dimension computed here, at generic points."""
    ref = data.draw(networks())
    assume(all(ref.has_bias))
    index_map = data.draw(maps_for(ref, most=2))
    made = random_of(ref, index_map, seed)
    added = [0, *(len(m) - n for m, n in zip(index_map, ref.hidden, strict=True)), 0]
    K = sum(added)
    formula = K + sum(a * b for a, b in pairwise(added))
    net = net_of(ref)
    assert made.degrees_of_freedom(net) == made.dimension(net) == formula
    assert made.tangent_rank(point_of(ref)) == formula
    assert own_dimension(ref, made, index_map) == formula


def test_degrees_of_freedom_in_a_deep_case_with_surplus_in_adjacent_layers() -> None:
    ref = reference.random_reference([2, 2, 2, 2, 2], "tanh", "squared", seed=5)
    index_map: list[list[int | None]] = [[0, 1, 1, None], [1, 0, None, 0, 1], [0, None, 1]]
    made = random_of(ref, index_map, 1)
    assert own_dimension(ref, made, index_map) == (2 + 3 + 1) + (2 * 3 + 3 * 1) == 15
    assert made.tangent_rank(point_of(ref)) == made.degrees_of_freedom(net_of(ref)) == 15
    # Every tangent leaves the outputs, as is known of the set as a whole.
    directions = made.flat_directions(point_of(ref))
    J = by_hand(ref, made, index_map).jacobian()
    assert float((J @ directions.T).abs().max()) <= 1e-11 * float(J.abs().max())


def test_the_dimension_is_less_where_narrow_weights_are_0() -> None:
    ref = reference.random_reference([2, 2, 1], "tanh", "squared", seed=5)
    params = dict(ref.params) | {"2.weight": torch.zeros(1, 2, dtype=torch.float64)}
    flat_ref = replace(ref, params=params)
    index_map: list[list[int | None]] = [[0, 1, 1, 0]]
    made = random_of(ref, index_map, 0)
    assert made.tangent_rank(point_of(ref)) == made.degrees_of_freedom(net_of(ref)) == 2
    assert made.tangent_rank(point_of(flat_ref)) == 0
    assert own_dimension(flat_ref, made, index_map) == 0


def test_null_units_of_a_layer_without_a_bias_have_no_freedom_of_their_own() -> None:
    """b* of a null unit is free only where the layer has a bias to put it in."""
    ref = reference.random_reference([2, 2, 1], "tanh", "squared", [False, True], seed=5)
    index_map: list[list[int | None]] = [[0, 1, None, 1]]
    made = sf.Compatible([2, 4, 1], index_map)
    null = sf.NullUnits(0, [0]) >> sf.Replicate(0, 1, [0.5, 0.5])
    net = net_of(ref)
    assert null.degrees_of_freedom(net) == 1
    assert made.tangent_rank(point_of(ref)) == 1
    assert made.degrees_of_freedom(net) == 1


@settings(LAW, max_examples=15)
@given(st.data(), st.integers(0, 2**16))
def test_one_layer_s_set_contains_the_finite_steps_of_its_null_biases(
    data: st.DataObject, seed: int
) -> None:
    """b* may be anything: the function stays, exactly as Def. 5.2 compensates it."""
    ref = data.draw(networks(layers=2))
    assume(all(ref.has_bias))
    index_map = data.draw(maps_for(ref))
    assume(any(s is None for m in index_map for s in m))
    made = random_of(ref, index_map, seed)
    moved = [b + 3.0 for b in made.null_biases]
    other = sf.Compatible(made.widths, index_map, made.alpha, made.beta, moved)
    wide = by_hand(ref, other, index_map)
    limit = 1e-12 * reference.reach(wide.params, ref.X)
    assert float((wide.at(ref.X) - ref.at(ref.X)).abs().max()) <= limit
    found = other.apply(net_of(ref), ref.params)
    assert float((reference.flat(found) - wide.vector).abs().max()) <= limit


# -- special cases -------------------------------------------------------------------------------------


def core_of(embedding: sf.Embedding, net: sf.MLP) -> Any:
    widening = embedding.on(net)
    assert isinstance(widening, Widening)
    return widening.core


@settings(LAW, max_examples=30)
@given(st.data())
def test_a_factorised_one_is_a_composition_of_replications_and_null_units(
    data: st.DataObject,
) -> None:
    """α_ij = β_j: the same parameters up to the order of units, and it stays a map of units."""
    ref = data.draw(networks())
    index_map = data.draw(maps_for(ref))
    beta, biases = [], []
    steps: list[sf.Embedding] = []
    orders = []
    for layer, (sources, width) in enumerate(zip(index_map, ref.hidden, strict=True)):
        shares = [float(data.draw(reference.QUARTERS)) for _ in sources]
        for unit in range(width):
            places = [j for j, s in enumerate(sources) if s == unit]
            shares[places[0]] = 1 - sum(shares[j] for j in places[1:])
        values = [float(data.draw(reference.QUARTERS)) for s in sources if s is None]
        beta.append(shares)
        biases.append(values)
        # By steps: copies in place, then the others unit by unit, then null units.
        order = [next(j for j, s in enumerate(sources) if s == unit) for unit in range(width)]
        for unit in range(width):
            places = [j for j, s in enumerate(sources) if s == unit]
            steps.append(sf.Replicate(layer, unit, [shares[j] for j in places]))
            order += places[1:]
        if values:
            steps.append(sf.NullUnits(layer, values))
            order += [j for j, s in enumerate(sources) if s is None]
        orders.append(order)
    made = sf.Compatible(wide_widths(ref, index_map), index_map, None, beta, biases)
    net = net_of(ref)
    composed = steps[0]
    for step in steps[1:]:
        composed = composed >> step
    found, expected = made.apply(net, ref.params), composed.apply(net, ref.params)
    for layer, order in enumerate(orders):
        found = reference.permuted(found, layer, order)
    for key, tensor in expected.items():
        assert torch.allclose(found[key], tensor, rtol=1e-14, atol=1e-15), key
    assert core_of(made, net) is None
    assert core_of(composed, net) is None
    assert made.unit_map(net).hidden == composed.unit_map(net).hidden
    forced = random_of(ref, index_map, 0)
    free = any(a.size and np.abs(a).max() > 1e-6 for a in (forced.alpha[0] - made.alpha[0],))
    if free:
        assert core_of(forced, net) is not None
    # The default β are equal ones.
    default = sf.Compatible(wide_widths(ref, index_map), index_map)
    for group, sources in zip(default.beta, index_map, strict=True):
        for share, source in zip(group.tolist(), sources, strict=True):
            assert share == (0 if source is None else 1 / list(sources).count(source))


def test_general_ones_replace_a_factorised_start_and_back() -> None:
    """A general one after copies, and copies after a general one, are the product of matrices."""
    net = sf.MLP([2, 2, 2, 1])
    copies = sf.Replicate(0, 0, [2, -1])
    middle = copies.widen(net)
    general = sf.Compatible.random(middle, [2, 5, 4, 1], seed=0)
    last = sf.NullUnits(1, [0.5]) >> sf.Replicate(0, 4, [0.5, 0.5])
    whole = copies >> general >> last
    wide = general.widen(middle)
    A = last.matrix(wide).A @ general.matrix(middle).A @ copies.matrix(net).A
    assert abs(whole.matrix(net).A - A).max() < 1e-13
    point = sf.Point(sf.Problem(net, [[0.0, 1.0], [1.0, 2.0]], [0.0, 1.0]), net.random_params(0))
    assert whole(point).materialize().loss == pytest.approx(point.loss, rel=1e-12)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("hidden", [[2], [2, 3], [1, 3, 2]])
def test_global_splitting_is_example_5_1(activation: str, hidden: list[int]) -> None:
    widths = [2, *hidden, 2]
    ref = reference.random_reference(widths, activation, "squared", seed=2)
    net, L = net_of(ref), len(widths) - 1
    made = sf.GlobalSplit()
    found = made.apply(net, ref.params)
    for layer in range(L):
        W, b = ref.params[f"{2 * layer}.weight"], ref.params[f"{2 * layer}.bias"]
        zero = torch.zeros_like(W)
        if layer == 0:
            expected, shift = torch.cat([W, W, W]), torch.cat([b, b, b])
        elif layer < L - 1:
            rows = [[W, zero, zero], [zero, W, zero], [zero, zero, W]]
            expected = torch.cat([torch.cat(row, 1) for row in rows])
            shift = torch.cat([b, b, b])
        else:
            expected, shift = torch.cat([W, W, -W], 1), b
        assert torch.equal(found[f"{2 * layer}.weight"], expected)
        assert torch.equal(found[f"{2 * layer}.bias"], shift)
    # Remark 5.3: index map, α and β.
    general = made.compatible(net)
    assert general.index_map == [list(range(width)) * 3 for width in hidden]
    for layer, matrix in enumerate(general.alpha):
        m, below = widths[layer + 1], widths[layer]
        ones, zeros = np.ones((m, below)), np.zeros((m, below))
        if layer == 0:
            alpha = np.vstack([ones] * 3)
        elif layer < L - 1:
            alpha = np.block([[ones, zeros, zeros], [zeros, ones, zeros], [zeros, zeros, ones]])
        else:
            alpha = np.hstack([ones, ones, -ones])
        assert np.array_equal(matrix, alpha)
    for beta, width in zip(general.beta, hidden, strict=True):
        assert beta.tolist() == [1.0] * (2 * width) + [-1.0] * width
    assert max(residuals(2, 2, general.index_map, general.alpha, general.beta)) == 0
    K = 2 * sum(hidden)
    freedom = K + sum(4 * a * b for a, b in pairwise(hidden))
    assert made.degrees_of_freedom(net) == freedom
    assert made.preserves_criticality is True


@pytest.mark.parametrize("hidden", [[2], [2, 3], [1, 3, 2]])
def test_global_null_is_example_5_2(hidden: list[int]) -> None:
    widths = [2, *hidden, 2]
    ref = reference.random_reference(widths, "sigmoid", "squared", seed=2)
    net, L = net_of(ref), len(widths) - 1
    generator = np.random.default_rng(0)
    biases = [generator.integers(-8, 8, width) / 4 for width in hidden]
    made = sf.GlobalNull([b.tolist() for b in biases])
    found = made.apply(net, ref.params)
    for layer in range(L):
        W, b = ref.params[f"{2 * layer}.weight"], ref.params[f"{2 * layer}.bias"]
        zero = torch.zeros_like(W)
        if layer == 0:
            expected = torch.cat([W, zero])
        elif layer < L - 1:
            expected = torch.cat([torch.cat([W, zero], 1), torch.cat([zero, zero], 1)])
        else:
            expected = torch.cat([W, zero], 1)
        shift = b if layer == L - 1 else torch.cat([b, torch.from_numpy(biases[layer])])
        assert torch.equal(found[f"{2 * layer}.weight"], expected)
        assert torch.equal(found[f"{2 * layer}.bias"], shift)
    assert core_of(made, net) is None
    general = sf.Compatible(
        [2, *(2 * width for width in hidden), 2],
        [[*range(width), *[None] * width] for width in hidden],
        null_biases=biases,
    )
    same = general.apply(net, ref.params)
    assert all(torch.equal(found[key], tensor) for key, tensor in same.items())
    one = sf.GlobalNull(0.25)
    assert one == sf.GlobalNull("1/4")
    assert one.widen(net).widths == general.widths
    assert one.degrees_of_freedom(net) == made.degrees_of_freedom(net) == sum(hidden)


# -- size ----------------------------------------------------------------------------------------------


def test_hundreds_of_units_are_drawn_checked_and_applied() -> None:
    """[10, 200, 200, 200, 1] to [10, 400, 400, 400, 1], which a linear system would not allow."""
    net = sf.MLP([10, 200, 200, 200, 1])
    began = time.process_time()
    made = sf.Compatible.random(net, [10, 400, 400, 400, 1], seed=0, scale=0.1)
    params = net.random_params(0)
    wide = made.apply(net, params)
    assert time.process_time() - began < 20
    found = residuals_fast(made)
    assert max(found) < 1e-10
    inputs = torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    before, after = net.forward(params, inputs), made.widen(net).forward(wide, inputs)
    assert float((after - before).abs().max()) <= 1e-12 * reference.reach(wide, inputs)
    assert float((after - before).abs().max()) <= 1e-8
    assert re.fullmatch(r"Compatible\(widths=\[10, 400, 400, 400, 1\], index_map=…\)", repr(made))


def residuals_fast(made: sf.Compatible) -> tuple[float, float]:
    """:func:`residuals` by membership matrices, for many units."""
    sizes = [made.widths[0], *(200 for _ in made.index_map), made.widths[-1]]
    maps: list[Any] = [range(sizes[0]), *made.index_map, range(sizes[-1])]
    member = [
        np.array([[float(t == s) for s in range(size)] for t in sources])
        for sources, size in zip(maps, sizes, strict=True)
    ]
    beta = [np.ones(sizes[0]), *made.beta, np.ones(sizes[-1])]
    forward = backward = 0.0
    for layer, alpha in enumerate(made.alpha):
        effective = member[layer + 1].sum(1)
        forward = max(forward, np.abs(alpha @ member[layer] - effective[:, None]).max())
        if layer:
            carried = (beta[layer + 1][:, None] * alpha).T @ member[layer + 1]
            expected = (beta[layer] * member[layer].sum(1))[:, None]
            backward = max(backward, np.abs(carried - expected).max())
    return float(forward), float(backward)
