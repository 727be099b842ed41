"""Reduction: the narrow network is found, the function kept, and the way back leads back."""

from __future__ import annotations

import math
import random
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import semiflat as sf
from helpers import refused
from semiflat.activations import ACTIVATIONS
from semiflat.embeddings import embedding_from_json
from semiflat.symmetries.canonical import canonical, same_network

LAW = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=40,
    suppress_health_check=list(HealthCheck),
)
EPS = torch.finfo(torch.float64).eps


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([7, seed]).standard_normal(shape))


def point_with(net: sf.MLP, params: dict[str, Tensor], samples: int = 25) -> sf.Point:
    X, y = drawn(1, samples, net.inputs), drawn(2, samples, net.outputs)
    return sf.Point(sf.Problem(net, X, y), params)


def random_point(widths: list[int], activation: str, seed: int, bias: Any = True) -> sf.Point:
    """A random network none of whose relu units is plainly inactive for every input."""
    net = sf.MLP(widths, activation, bias)
    params = net.random_params(seed, scale=1.5)
    for layer in range(1, len(net.hidden)):  # layers fed with what is never below 0
        params[f"{2 * layer}.weight"][:, 0].abs_()
    return point_with(net, params)


def forward(point: sf.Point, X: Tensor) -> Tensor:
    return point.problem.net.forward(point.params, X)


def largest(point: sf.Point) -> float:
    return max(float(tensor.abs().max()) for tensor in point.params.values())


def check_reduction(given: sf.Point, small: sf.Reduction) -> None:
    """The function is the same everywhere, and the way back gives the parameters."""
    assert small.bound == 0.0
    X = 3 * drawn(3, 40, given.problem.net.inputs)
    before, after = forward(given, X), forward(small.point, X)
    scale = max(1.0, largest(given), float(before.abs().max()))
    assert float((before - after).abs().max()) <= 1e-12 * scale
    back = small.embedding(small.point)
    assert back.problem.net == given.problem.net
    for key, tensor in given.params.items():
        assert float((back.params[key] - tensor).abs().max()) <= 1e-12 * largest(given)


def embeddings_of(net: sf.MLP) -> dict[str, sf.Embedding]:
    """One or more of every class that fits the network."""
    top = len(net.hidden) - 1
    sources = [*range(net.hidden[0]), 0, 1]
    halves = [0.5 if unit in (0, 1) else 1 for unit in range(net.hidden[0])] + [0.5, 0.5]
    offsets = torch.zeros(len(sources), net.widths[2], dtype=torch.float64)
    offsets[0] = drawn(4, net.widths[2])
    offsets[-2] = -offsets[0]
    doubled = [net.inputs, *(2 * width + 1 for width in net.hidden), net.outputs]
    found: dict[str, sf.Embedding] = {
        "replicate": sf.Replicate(0, 1, [0.3, -0.1, 0.8]),
        "replicate both": sf.Replicate(top, 0, ["1/3", "2/3"]) >> sf.Replicate(0, 1, [2, -1, 0]),
        "split": sf.Split(0, sources, halves),
        "split freely": sf.Split(0, sources, halves, None, offsets)
        >> sf.Replicate(top, 0, [3, -2]),
        "null": sf.NullUnits(top, [0.4, 0, -2]) >> sf.Replicate(0, 0, [0.5, 0.5]),
        "constant": sf.ConstantUnits(0, [0.4, -0.7], drawn(5, 2, net.widths[2])),
        "unheard": sf.InactivePropagation(top, drawn(6, 2, net.fan_in(top))),
        "compatible": sf.Compatible.random(net, doubled, seed=0),
        "global split": sf.GlobalSplit(["1/2", "1/3", "1/6"]) >> sf.Replicate(0, 0, [3, -2]),
        "three-fold split": sf.GlobalSplit(),
        "global null": sf.GlobalNull(0.5),
        "permute": sf.Permute(0, range(net.hidden[0])[::-1]) >> sf.Replicate(0, 0, [0.25, 0.75]),
    }
    activation = net.activations[0]
    if activation.name in {"tanh", "gelu", "silu", "sin", "relu", "identity"}:
        found["inactive"] = sf.InactiveUnits(0, 2, drawn(8, 2, net.widths[2]))
    if activation.homogeneous:
        found["scaled"] = sf.ScaledReplicate(0, 1, [0.5, 2, 3], [0.2, 0.3, 0.1])
        found["rescale"] = sf.Replicate(0, 1, [0.3, 0.7]) >> sf.Rescale(0, 1, 2.5)
    if activation.reflection is not None:
        found["reflect"] = sf.Replicate(0, 1, [0.3, 0.7]) >> sf.Reflect(0, 1) >> sf.Reflect(top, 0)
    return found


def cases() -> list[Any]:
    """Every activation, one or two hidden layers, and the embeddings that fit."""
    found = []
    for activation in ACTIVATIONS:
        for widths in ([4, 3, 3], [4, 3, 3, 3]):
            names = embeddings_of(sf.MLP(widths, activation))
            found += [pytest.param(activation, widths, name) for name in names]
    return found


@pytest.mark.parametrize(("activation", "widths", "case"), cases())
def test_an_embedded_point_reduces_to_the_point(
    activation: str, widths: list[int], case: str
) -> None:
    point = random_point(widths, activation, seed=1)
    wide = embeddings_of(point.problem.net)[case](point)
    small = sf.reduce(wide)
    assert small.widths == point.problem.net.hidden
    assert same_network(point.problem.net, point.params, small.point.params, 1e-10)
    check_reduction(wide, small)
    assert embedding_from_json(small.embedding.to_json()) == small.embedding


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "silu", "relu"])
@pytest.mark.parametrize("seed", range(4))
def test_a_compatible_embedding_of_three_hidden_layers_is_undone(
    activation: str, seed: int
) -> None:
    """Copies in upper layers become equal only once the layers below are merged."""
    point = random_point([2, 3, 3, 2, 2], activation, seed)
    embedding = sf.Compatible.random(point.problem.net, [2, 7, 8, 6, 2], seed=seed)
    wide = embedding(point)
    small = sf.reduce(wide)
    assert small.widths == (3, 3, 2)
    assert same_network(point.problem.net, point.params, small.point.params, 1e-10)
    check_reduction(wide, small)


def random_step(net: sf.MLP, choose: random.Random) -> sf.Embedding:
    """Any single step that fits a network."""
    layer = choose.randrange(len(net.hidden))
    unit, width = choose.randrange(net.hidden[layer]), net.hidden[layer]
    shares = [Fraction(choose.randint(-300, 300), 100) for _ in range(choose.randint(1, 3))]
    shares.append(1 - sum(shares))
    rows = drawn(choose.randrange(10**6), 2, net.fan_in(layer))
    columns = drawn(choose.randrange(10**6), 2, net.widths[layer + 2])
    offsets = torch.zeros(width + 1, net.widths[layer + 2], dtype=torch.float64)
    offsets[unit] = columns[0] * 10 ** choose.uniform(-3, 3)
    offsets[-1] = -offsets[unit]
    sources, ones = [*range(width), unit], [1] * width
    halved = [Fraction(1, 3) if each == unit else 1 for each in range(width)] + [Fraction(2, 3)]
    order = list(range(width))
    choose.shuffle(order)
    steps: list[sf.Embedding] = [
        sf.Replicate(layer, unit, shares),
        sf.Split(layer, sources, halved, None, offsets),
        sf.InactivePropagation(layer, rows),
        sf.Permute(layer, order),
    ]
    activation = net.activations[layer]
    above = net.biases[layer + 1]
    if above:
        steps.append(sf.NullUnits(layer, [0.3, -2] if net.biases[layer] else [0]))
    if above and net.biases[layer]:
        steps.append(sf.ConstantUnits(layer, rows[:, 0], columns))
    if activation.homogeneous:
        steps += [sf.Rescale(layer, unit, 7.3), sf.Split(layer, sources, halved, [*ones, 3.3])]
    if activation.reflection == 0 or (activation.reflection is not None and above):
        steps.append(sf.Reflect(layer, unit))
    return choose.choice(steps)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu", "leaky_relu", "relu"])
@LAW
@given(st.integers(0, 10**6))
def test_any_composition_is_undone(activation: str, seed: int) -> None:
    """With or without biases in any of the layers."""
    choose = random.Random(seed)
    widths = [2, *(choose.randint(2, 4) for _ in range(choose.randint(1, 3))), choose.randint(1, 3)]
    bias = [choose.random() < 0.6 for _ in widths[1:]]
    point = random_point(widths, activation, seed, bias)
    embedding: sf.Embedding = sf.Composition([])
    for _ in range(choose.randint(1, 5)):
        embedding = embedding >> random_step(embedding.widen(point.problem.net), choose)
    wide = embedding(point)
    small = sf.reduce(wide)
    assert small.widths == point.problem.net.hidden
    assert same_network(point.problem.net, point.params, small.point.params, 1e-8)
    check_reduction(wide, small)
    assert sf.reduce(small.point).merges == ()


BENT = [activation for activation in ACTIVATIONS if activation != "identity"]
"""Of linear units no more are needed than the layers around them have."""


@pytest.mark.parametrize("activation", BENT)
@pytest.mark.parametrize("widths", [[2, 12, 1], [3, 6, 5, 2]], ids=str)
def test_networks_whose_units_all_differ_are_left_alone(activation: str, widths: list[int]) -> None:
    point = random_point(widths, activation, seed=3)
    for tolerance in (0.0, 1e-9):
        small = sf.reduce(point, tolerance)
        assert small.widths == tuple(widths[1:-1])
        assert small.embedding == sf.Composition([])
        assert small.merges == ()
        assert small.bound == 0.0
        assert all(torch.equal(small.point.params[k], point.params[k]) for k in point.params)
    assert "none of which can be spared" in str(sf.reduce(point))


# -- the rules one by one -------------------------------------------------------------------------


def layer_point(
    activation: str, rows: list[list[float]], columns: list[list[float]], bias: Any = True
) -> sf.Point:
    """A network with one hidden layer, from its incoming rows (bias last) and outgoing columns."""
    incoming = torch.tensor(rows, dtype=torch.float64)
    outgoing = torch.tensor(columns, dtype=torch.float64)
    has_bias = [bias] * 2 if isinstance(bias, bool) else bias
    net = sf.MLP([incoming.shape[1] - has_bias[0], len(rows), outgoing.shape[1]], activation, bias)
    params = {"0.weight": incoming[:, : net.inputs], "2.weight": outgoing.mT}
    if has_bias[0]:
        params["0.bias"] = incoming[:, -1]
    if has_bias[1]:
        params["2.bias"] = torch.full((outgoing.shape[1],), 0.25).double()
    return point_with(net, {key: params[key].contiguous() for key in net.shapes})


def rules(small: sf.Reduction) -> list[tuple[str, tuple[int, ...]]]:
    return [(merge.rule, merge.units) for merge in small.merges]


def test_proportional_outgoing_weights_come_back_as_exact_shares_without_offsets() -> None:
    point = random_point([2, 2, 2], "tanh", seed=0)
    wide = sf.Replicate(0, 1, [0.3, 0.7])(point).materialize()
    (split,) = sf.reduce(wide).embedding.steps
    assert isinstance(split, sf.Split)
    assert split.offsets is None
    assert split.shares == (Fraction(1), Fraction("0.3"), Fraction("0.7"))
    thirds = sf.reduce(sf.Replicate.uniform(0, 1, 3)(point).materialize()).embedding.steps[0]
    assert isinstance(thirds, sf.Split)
    assert set(thirds.shares) == {1, Fraction(1, 3)}


def test_twins_with_any_outgoing_weights_have_offsets() -> None:
    point = layer_point("tanh", [[1.0, 2.0], [3.0, 1.0], [-1.0, -2.0]], [[1.0, 0], [1, 1], [0, 3]])
    small = sf.reduce(point)
    assert rules(small) == [("twins", (0, 2))]
    assert "up to sign" in str(small)
    assert torch.equal(small.point.params["2.weight"], torch.tensor([[1.0, 1], [-3, 1]]).double())
    (split,) = small.embedding.steps
    assert isinstance(split, sf.Split)
    assert split.offsets is not None
    assert not split.offsets[1].any()
    check_reduction(point, small)


@pytest.mark.parametrize(
    ("activation", "factor", "bias", "merged"),
    [
        ("tanh", -1.0, [True, False], True),
        ("sigmoid", -1.0, True, True),
        ("sigmoid", -1.0, [True, False], False),
        ("softplus", -1.0, True, False),
        ("tanh", 2.0, True, False),
        ("relu", 2.0, True, True),
        ("relu", -1.0, True, False),
        ("leaky_relu", 3.3, [True, False], True),
        ("leaky_relu", -3.3, True, False),
        ("identity", 2.0, True, True),
        ("identity", -0.7, True, True),
    ],
)
def test_which_multiples_of_a_row_are_twins(
    activation: str, factor: float, bias: Any, merged: bool
) -> None:
    row = [0.3, -1.1, 0.4]
    rows = [row, [1.0, 0.2, 0.9], [factor * entry for entry in row]]
    point = layer_point(activation, rows, [[1.0, 2], [-1, 1], [0.5, 3]], bias)
    small = sf.reduce(point)
    assert rules(small) == [("twins", (0, 2))] * merged
    check_reduction(point, small)


def test_copies_that_cancel_are_dropped_and_come_back() -> None:
    point = layer_point("gelu", [[1.0, 2.0], [3.0, 1.0], [1.0, 2.0]], [[5.0], [1.0], [-5.0]])
    small = sf.reduce(point)
    assert rules(small) == [("twins", (0, 2)), ("unheard", (0, 2))]
    assert small.widths == (1,)
    check_reduction(point, small)


def test_constant_units_go_to_the_bias_above_if_there_is_one() -> None:
    rows, columns = [[0.0, 0.7], [1.0, 0.0], [0.0, -0.2]], [[2.0], [1.0], [3.0]]
    small = sf.reduce(layer_point("sigmoid", rows, columns))
    assert rules(small) == [("constant", (0, 2))]
    constant = 0.25 + 2 / (1 + math.exp(-0.7)) + 3 / (1 + math.exp(0.2))
    assert float(small.point.params["2.bias"]) == pytest.approx(constant, rel=1e-15)
    check_reduction(layer_point("sigmoid", rows, columns), small)
    assert not sf.reduce(layer_point("sigmoid", rows, columns, [True, False])).merges
    # tanh(0) = 0 needs no bias above.
    rows = [[0.0, 0.0], [1.0, 0.5]]
    small = sf.reduce(layer_point("tanh", rows, columns[:2], [True, False]))
    assert rules(small) == [("constant", (0,))]
    check_reduction(layer_point("tanh", rows, columns[:2], [True, False]), small)


def test_a_layer_keeps_one_unit() -> None:
    for point in (
        layer_point("tanh", [[0.0, 0.5], [0.0, 0.7]], [[1.0], [2.0]]),
        layer_point("tanh", [[1.0, 0.5], [2.0, 0.7]], [[0.0], [0.0]]),
        layer_point("relu", [[0.0, -0.5], [0.0, -0.7]], [[1.0], [2.0]]),
    ):
        small = sf.reduce(point)
        assert small.widths == (1,)
        check_reduction(point, small)
        assert sf.reduce(small.point).merges == ()


def dying_point() -> sf.Point:
    """Unit 0 of the upper layer is fed with less than 0 always, unit 1 on the data."""
    net = sf.MLP([1, 2, 3, 1], "relu")
    params = net.random_params(0)
    params["0.weight"] = torch.tensor([[1.0], [-1.0]]).double()
    params["0.bias"] = torch.tensor([0.1, 0.2]).double()
    params["2.weight"] = torch.tensor([[-1.0, -2.0], [1.0, 1.0], [1.0, -1.0]]).double()
    params["2.bias"] = torch.tensor([-0.1, -50.0, 0.3]).double()
    return point_with(net, params)


BIASES = st.tuples(st.booleans(), st.booleans())


@LAW
@given(st.integers(0, 10**6), BIASES, st.integers(1, 4), st.integers(1, 5), st.integers(1, 4))
def test_a_linear_layer_is_left_as_many_units_as_the_product_around_it_has_rank(
    seed: int, biases: tuple[bool, bool], inputs: int, width: int, outputs: int
) -> None:
    """With weights of any rank; a constant goes to the bias above, if there is one."""
    choose, net = random.Random(seed), sf.MLP([inputs, width, outputs], "identity", list(biases))
    generator = torch.Generator().manual_seed(seed)

    def low(rows: int, columns: int) -> Tensor:
        rank = choose.randint(0, min(rows, columns))
        factors = [
            torch.randn(shape, generator=generator).double()
            for shape in ((rows, rank), (rank, columns))
        ]
        return factors[0] @ factors[1]

    fed = low(width, inputs + biases[0])
    params = net.random_params(seed) | {
        "0.weight": fed[:, :inputs].contiguous(),
        "2.weight": low(outputs, width),
    }
    if biases[0]:
        params["0.bias"] = fed[:, -1].contiguous()
    point = point_with(net, params)
    small = sf.reduce(point)
    heard = fed[:, :inputs] if biases == (True, True) else fed
    product = params["2.weight"] @ heard
    values = torch.linalg.svdvals(product)
    rank = int((values > 1e-10 * max(1.0, float(values.max()))).sum())
    assert small.widths == (max(rank, 1),)
    assert all(merge.rule != "dependent" or width > rank for merge in small.merges)
    check_reduction(point, small)


def test_linear_layers_of_deep_networks_are_narrowed_together() -> None:
    """To the rank of the whole product, where every layer is linear."""
    net = sf.MLP([4, 5, 6, 5, 2], "identity")
    point = point_with(net, net.random_params(0))
    small = sf.reduce(point)
    assert small.widths == (2, 2, 2)
    assert {merge.rule for merge in small.merges} == {"dependent"}
    check_reduction(point, small)


def test_linear_units_between_others_are_narrowed_and_the_others_left() -> None:
    net = sf.MLP([2, 3, 6, 4, 1], ["tanh", "identity", "tanh"])
    point = point_with(net, net.random_params(0))
    small = sf.reduce(point)
    assert small.widths == (3, 3, 4)
    check_reduction(point, small)


@pytest.mark.parametrize("off", [1e-9, 1e-12])
def test_linear_units_that_nearly_depend_on_each_other_are_kept(off: float) -> None:
    rows = [[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [5.0, 5.0, off]]
    point = layer_point("identity", rows, [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]], bias=False)
    assert sf.reduce(point).widths == (3,)
    scaled = [[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [5 * off, 5 * off, off * off]]
    columns = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1 / off]]
    assert sf.reduce(layer_point("identity", scaled, columns, bias=False)).widths == (3,)
    inputs = [[1.0, 2.0, 0.0], [3.0, 1.0, 0.0], [5.0, 5.0, off]]
    inputs = [[a, b, c / off] for a, b, c in inputs]
    assert sf.reduce(layer_point("identity", inputs, columns, bias=False)).widths == (3,)


def test_units_inactive_on_the_data_go_only_if_asked_for() -> None:
    point = dying_point()
    small = sf.reduce(point)
    assert rules(small) == [("inactive", (0,))]
    check_reduction(point, small)
    smaller = sf.reduce(point, on_data=True)
    assert rules(smaller) == [("inactive", (0,)), ("inactive on the data", (1,))]
    back = smaller.embedding(smaller.point)
    assert all(torch.allclose(back.params[k], point.params[k], 1e-14, 1e-14) for k in back.params)
    X = point.problem.X
    assert torch.allclose(forward(point, X), forward(smaller.point, X), rtol=0, atol=1e-14)
    far = torch.tensor([[200.0]]).double()
    assert float((forward(point, far) - forward(smaller.point, far)).abs()) > 1


@pytest.mark.parametrize("below", ["tanh", "sin"])
def test_what_the_layer_below_cannot_hand_on_counts(below: str) -> None:
    """2 sigmoid − 3 < 0 always; −2 tanh − 1.5 is not, −2 tanh − 2.5 is."""
    net = sf.MLP([1, 1, 2, 1], ["sigmoid", "relu"])
    values = [1.0, 0.0, 2.0, 1.0, -3.0, 0.5, 1.0, 1.0, 0.0]
    params = net.unflatten(torch.tensor(values).double())
    assert rules(sf.reduce(point_with(net, params))) == [("inactive", (0,))]
    odd = sf.MLP([1, 1, 2, 1], [below, "relu"])
    params["2.weight"][0], params["2.bias"][0] = -2.0, -1.5
    assert not sf.reduce(point_with(odd, params)).merges
    params["2.bias"][0] = -2.5
    assert rules(sf.reduce(point_with(odd, params))) == [("inactive", (0,))]


def test_what_is_dropped_above_is_no_longer_listened_to() -> None:
    net = sf.MLP([2, 3, 2, 1])
    params = net.random_params(0)
    params["2.weight"][0, 1] = 0.0  # only upper unit 1 listens to lower unit 1
    params["4.weight"][0, 1] = 0.0
    small = sf.reduce(point_with(net, params))
    assert small.widths == (2, 1)
    check_reduction(point_with(net, params), small)


def test_the_verdict_on_a_wide_network_is_that_of_the_way_back() -> None:
    point = random_point([2, 2, 1], "tanh", seed=0)
    wide = (sf.Replicate(0, 1, [0.3, 0.9, -0.2]) >> sf.NullUnits(0, [0.3]))(point).materialize()
    small = sf.reduce(wide)
    assert sf.judge(small.embedding(small.point)).inertia == sf.judge(wide).inertia


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "gelu"])
@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_large_shares_that_nearly_cancel_do_not_pile_up_rounding(
    activation: str, size: float
) -> None:
    point = random_point([2, 3, 3, 2], activation, seed=3)
    large = [size, 1 - size]
    wide = (sf.Replicate(0, 1, large) >> sf.Replicate(1, 0, large) >> sf.Replicate(0, 0, large))(
        point
    )
    small = sf.reduce(wide)
    assert small.widths == (3, 3)
    check_reduction(wide, small)


def test_float32_is_reduced_to_its_own_precision() -> None:
    net = sf.MLP([2, 3, 2])
    problem = sf.Problem(net, drawn(1, 9, 2), drawn(2, 9, 2), dtype=torch.float32)
    point = sf.Point(problem, net.random_params(0))
    wide = sf.Replicate(0, 0, [0.3, 0.7])(point).materialize()
    small = sf.reduce(wide)
    assert small.widths == (3,)
    assert small.point.params["0.weight"].dtype == torch.float32
    back = small.embedding(small.point).params
    assert all(torch.allclose(back[key], wide.params[key], 1e-6, 1e-6) for key in back)


def test_wide_layers_take_no_time_to_speak_of() -> None:
    """Ten units copied 4096 times; all pairs compared one by one would take minutes."""
    narrow = random_point([10, 10, 1], "tanh", seed=0)
    sources = np.random.default_rng(0).integers(10, size=4096).tolist()
    sources[:10] = range(10)
    shares = drawn(11, 4096)
    params = {
        "0.weight": narrow.params["0.weight"][sources],
        "0.bias": narrow.params["0.bias"][sources],
        "2.weight": shares[None],
        "2.bias": narrow.params["2.bias"],
    }
    wide = point_with(sf.MLP([10, 4096, 1]), params)
    small = sf.reduce(wide)
    assert small.widths == (10,)
    check_reduction(wide, small)


# -- with a tolerance -----------------------------------------------------------------------------


def spread(point: sf.Point) -> float:
    outputs = forward(point, point.problem.X)
    return float((outputs - outputs.mean(0)).abs().max())


def nearly(activation: str, widths: list[int], size: float, seed: int) -> sf.Point:
    """Replicated units, in every layer, all of whose parameters have then been moved a little."""
    narrow = random_point(widths, activation, seed)
    embedding: sf.Embedding = sf.Composition([])
    for layer, width in enumerate(narrow.problem.net.hidden):
        for unit in range(width):
            embedding = embedding >> sf.Replicate(layer, unit, [0.3, 0.2, 0.5])
    wide = embedding(narrow)
    net = wide.problem.net
    flat = net.flatten(wide.params)
    return sf.Point(wide.problem, net.unflatten(flat + size * drawn(seed, len(flat))))


@pytest.mark.parametrize("activation", BENT)
@pytest.mark.parametrize("widths", [[2, 3, 1], [2, 3, 2, 2]], ids=str)
def test_nearly_equal_units_are_merged_within_the_bound(activation: str, widths: list[int]) -> None:
    point = nearly(activation, widths, 1e-5, seed=2)
    assert sf.reduce(point).widths == point.problem.net.hidden
    small = sf.reduce(point, tolerance=1e-3)
    assert sum(small.widths) <= sum(widths[1:-1])
    X = point.problem.X
    change = float((forward(point, X) - forward(small.point, X)).abs().max())
    assert change <= small.bound <= 1e-3 * spread(point)
    assert small.bound <= change + 1e-12
    # The way back has the given widths and computes what the narrow network does, on any input.
    back = small.embedding(small.point)
    assert back.problem.net == point.problem.net
    far = 2 * drawn(9, 30, widths[0])
    assert torch.allclose(forward(back, far), forward(small.point, far), rtol=1e-11, atol=1e-11)
    assert "change by at most" in str(small)


def test_a_tolerance_takes_units_back_that_are_hardly_heard_or_hardly_vary() -> None:
    rows = [[1.0, 0.3], [1e-7, 0.8], [-2.0, 1.0], [0.7, -2.0]]
    point = layer_point("softplus", rows, [[1.0], [1.5], [1e-8], [-1.0]])
    small = sf.reduce(point, 1e-5)
    assert rules(small) == [("nearly constant", (1, 2))]
    assert small.widths == (2,)
    assert 0 < small.bound <= 1e-5 * spread(point)


def test_opposite_outgoing_weights_do_not_throw_the_mean_row_far_off() -> None:
    """Shares 1/0.3 and −0.7/0.3 of what is left would put the merged row beyond both."""
    rows = [[1.0, 0.3], [1.05, 0.3], [-0.4, 2.0]]
    small = sf.reduce(layer_point("tanh", rows, [[1.0], [-0.7], [3.0]]), 0.2)
    assert rules(small) == [("nearly twins", (0, 1))]
    mean = (1 + 0.7 * 1.05) / 1.7
    assert float(small.point.params["0.weight"][0]) == pytest.approx(mean, rel=1e-12)


def test_a_unit_inactive_by_little_comes_back_though_the_layer_below_has_changed() -> None:
    """The way back may not bring it back to life: it comes back unheard."""
    net = sf.MLP([1, 3, 2, 1], "relu")
    params = net.random_params(0)
    params["0.weight"] = torch.tensor([[1.0], [1.001], [-1.0]]).double()
    params["0.bias"] = torch.tensor([0.2, 0.2, 0.3]).double()
    params["2.weight"] = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.7]]).double()
    params["4.weight"] = torch.tensor([[1.0, 1.0]]).double()
    point = point_with(net, params)
    fed = torch.relu(point.problem.X @ params["0.weight"].mT + params["0.bias"])
    for sign in (1.0, -1.0):
        dying = torch.tensor([sign, -sign, 0.0]).double()
        params["2.weight"][0] = dying
        params["2.bias"][0] = -float((fed @ dying).max()) - 1e-6
        point = point_with(net, params)
        small = sf.reduce(point, 2e-3, on_data=True)
        assert [rule for rule, _ in rules(small)][:2] == ["inactive on the data", "nearly twins"]
        back = small.embedding(small.point)
        assert back.problem.net == net
        X = 2 * drawn(9, 30, 1)
        assert torch.allclose(forward(back, X), forward(small.point, X), rtol=0, atol=1e-13)


def test_widths_by_tolerance_never_grow() -> None:
    for activation, widths in (("tanh", [2, 3, 2, 1]), ("relu", [2, 4, 1])):
        point = nearly(activation, widths, 1e-4, seed=5)
        found = sf.widths_by_tolerance(point, [0.1, 0, 1e-6, 1e-3, 1e-2])
        assert [tolerance for tolerance, _, _ in found] == [0.1, 0.0, 1e-6, 1e-3, 1e-2]
        ordered = sorted(found)
        units = [sum(hidden) for _, hidden, _ in ordered]
        assert units == sorted(units, reverse=True)
        assert units[0] == sum(point.problem.net.hidden)
        assert units[-1] <= sum(widths[1:-1])
        assert all(bound <= tolerance * spread(point) for tolerance, _, bound in found)


def descend(width: int, scale: float, seed: int, steps: int = 10_000) -> sf.Point:
    """Full-batch gradient descent with momentum on sin(1.5 x), from an initialisation of a size."""
    net = sf.MLP([1, width, 1])
    x = np.linspace(-2, 2, 40)
    y = np.sin(1.5 * x)
    start = net.random_params(seed, scale=scale)
    fed = np.stack([x, np.ones_like(x)], axis=1)
    theta = [
        np.stack([start["0.weight"][:, 0].numpy(), start["0.bias"].numpy()]),
        start["2.weight"][0].numpy().copy(),
        np.array(float(start["2.bias"])),
    ]
    speed = [np.zeros_like(part) for part in theta]
    for _ in range(steps):
        incoming, outgoing, shift = theta
        h = np.tanh(fed @ incoming)
        error = (h @ outgoing + shift - y) / len(x)
        slopes = [fed.T @ (error[:, None] * outgoing * (1 - h * h)), error @ h, error.sum()]
        speed = [0.9 * v - 0.05 * g for v, g in zip(speed, slopes, strict=True)]
        theta = [part + v for part, v in zip(theta, speed, strict=True)]
    params = {
        "0.weight": torch.from_numpy(theta[0][0][:, None].copy()),
        "0.bias": torch.from_numpy(theta[0][1].copy()),
        "2.weight": torch.from_numpy(theta[1][None].copy()),
        "2.bias": torch.from_numpy(np.atleast_1d(theta[2])),
    }
    return sf.Point(sf.Problem(net, x[:, None], y), params)


@pytest.mark.parametrize("seed", [0, 1])
def test_training_from_nearly_nothing_condenses_to_a_few_units(seed: int) -> None:
    """sin on [−2, 2] is about what two tanh units make, and a small start finds no more than that."""
    point = descend(30, scale=1e-4, seed=seed)
    assert point.loss < 1e-3
    assert sf.reduce(point).widths == (30,)  # no two units are equal
    assert sf.reduce(point, 1e-2).widths == (2,)
    assert sf.reduce(point, 1e-3).widths[0] <= 4


@pytest.mark.parametrize("seed", [0, 1])
def test_training_from_a_usual_start_does_not_condense(seed: int) -> None:
    point = descend(30, scale=1.0, seed=seed)
    assert point.loss < 1e-3
    assert sf.reduce(point, 1e-3).widths[0] >= 24


# -- canonical forms ------------------------------------------------------------------------------


def symmetry(net: sf.MLP, choose: random.Random) -> sf.Embedding:
    """A random composition of the network's own symmetries."""
    whole: sf.Embedding = sf.Composition([])
    for layer, activation in enumerate(net.activations):
        order = list(range(net.hidden[layer]))
        choose.shuffle(order)
        whole = whole >> sf.Permute(layer, order)
        for unit in order:
            above = net.biases[layer + 1]
            if activation.reflection == 0 or (activation.reflection is not None and above):
                whole = whole >> sf.Reflect(layer, unit) if choose.random() < 0.5 else whole
            if activation.homogeneous:
                whole = whole >> sf.Rescale(layer, unit, round(choose.uniform(0.1, 9), 3))
    return whole


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(LAW, max_examples=20)
@given(st.integers(0, 10**6))
def test_the_canonical_form_is_one_for_all_of_an_orbit(activation: str, seed: int) -> None:
    choose = random.Random(seed)
    widths = [3, *(choose.randint(2, 5) for _ in range(choose.randint(1, 3))), 2]
    bias = [choose.random() < 0.7 for _ in widths[1:]]
    net = sf.MLP(widths, activation, bias)
    point = point_with(net, net.random_params(seed))
    turned = symmetry(net, choose)(point)
    one, other = sf.canonical_form(point).params, sf.canonical_form(turned).params
    for key in one:
        assert torch.allclose(one[key], other[key], rtol=1e-11, atol=1e-11)
    X = drawn(seed, 20, 3)
    before = forward(point, X)
    size = 1 + float(before.abs().max())
    assert float((net.forward(one, X) - before).abs().max()) <= 1e-12 * size
    again = canonical(net, one)
    assert all(torch.allclose(again[key], one[key], rtol=1e-13, atol=1e-13) for key in one)
    assert same_network(net, point.params, turned.params, 1e-9)


def test_canonical_forms_differ_where_networks_do() -> None:
    net = sf.MLP([2, 3, 1])
    params = net.random_params(0)
    other = {key: tensor.clone() for key, tensor in params.items()}
    other["2.weight"][0, 0] += 1e-6
    one, two = canonical(net, params), canonical(net, other)
    assert any(float((one[key] - two[key]).abs().max()) > 1e-7 for key in one)


def test_ties_do_not_upset_the_canonical_form() -> None:
    """Entries that are equal but for rounding, in one unit and across units."""
    net = sf.MLP([2, 3, 1])
    rows = torch.tensor([[1.0, -1.0], [1.0, 1.0], [0.5, 1.0]]).double()
    params = net.random_params(0) | {"0.weight": rows, "0.bias": torch.zeros(3).double()}
    one = canonical(net, params)
    turned = sf.Reflect(0, 0) >> sf.Permute(0, [2, 0, 1])
    for seed in range(8):
        noisy = {key: t * (1 + 4 * EPS * drawn(seed, *t.shape)) for key, t in params.items()}
        two = canonical(net, turned.apply(net, noisy))
        assert all(torch.allclose(one[key], two[key], rtol=1e-13, atol=1e-13) for key in one)


# -- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [-1e-3, math.nan, math.inf, "1e-3", None, True])
def test_a_tolerance_is_a_number_from_0_up(tolerance: Any) -> None:
    point = random_point([2, 2, 1], "tanh", seed=0)
    with refused("tolerance must be a finite number from 0 up"):
        sf.reduce(point, tolerance)
    with refused("tolerance must be a finite number from 0 up"):
        sf.widths_by_tolerance(point, [0, tolerance])


def test_only_single_points_are_reduced() -> None:
    net = sf.MLP([2, 2, 1])
    problem = sf.Problem(net, drawn(1, 5, 2), drawn(2, 5, 1))
    batch = sf.PointBatch(problem, net.random_params(0, batch=(3,)))
    for function in (sf.reduce, sf.widths_by_tolerance):
        with refused("takes one point; this is a PointBatch of shape (3,)"):
            function(batch)
        with refused("takes a Point, not dict"):
            function(net.random_params(0))
    with refused("canonical_form takes one point; this is a PointBatch of shape (3,)"):
        sf.canonical_form(batch)
    with refused("takes a Point, not dict"):
        sf.canonical_form(net.random_params(0))  # type: ignore[arg-type]


def test_a_network_without_hidden_layers_stays_as_it_is() -> None:
    net = sf.MLP([2, 1])
    small = sf.reduce(point_with(net, net.random_params(0)), tolerance=0.1)
    assert small.widths == ()
    assert small.merges == ()
    assert "no hidden units" in str(small)


def test_linear_units_that_hardly_count_are_not_made_to_carry_the_others() -> None:
    net = sf.MLP([2, 2, 1], "identity")
    params = {
        "0.weight": torch.eye(2, dtype=torch.float64),
        "0.bias": torch.zeros(2, dtype=torch.float64),
        "2.weight": torch.tensor([[1e-6, 1.0]], dtype=torch.float64),
        "2.bias": torch.zeros(1, dtype=torch.float64),
    }
    data = torch.randn(9, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    point = sf.Point(sf.Problem(net, data, data[:, :1]), params)
    small = sf.reduce(point)
    assert torch.allclose(
        small.point.problem.outputs(small.point.params),
        point.problem.outputs(point.params),
        atol=1e-14,
    )
