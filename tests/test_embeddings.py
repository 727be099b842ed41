"""Replication and null units: the function, criticality, order, exactness and laziness."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
import semiflat as sf
from helpers import embedding_of, point_of, refused
from reference import ACTIVATIONS, Case, random_reference
from semiflat.embeddings import embedding_from_json

LAW = settings(
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=60,
    suppress_health_check=list(HealthCheck),
)


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 0.0) -> bool:
    return list(found) == list(expected) and all(
        found[key].shape == expected[key].shape
        and torch.allclose(found[key], expected[key], rtol=tolerance, atol=tolerance)
        for key in found
    )


@pytest.fixture
def narrow() -> sf.Point:
    return point_of(random_reference([2, 3, 2, 2], "tanh", "squared", seed=1))


# -- the function, and what the steps do to the parameters ----------------------------------------


@LAW
@given(reference.cases())
def test_the_wide_parameters_are_those_of_the_steps_done_by_hand(case: Case) -> None:
    """Also: first copies in place, the others at the end; later steps see the wider network."""
    wide = embedding_of(case.steps)(point_of(case.narrow))
    expected = reference.widened(case.narrow.params, case.steps)
    assert same(wide.params, expected, 1e-15)
    assert wide.problem.net.widths == tuple(case.narrow.widened(case.steps).widths)
    assert wide.problem.net.biases == tuple(case.narrow.has_bias)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(LAW, max_examples=12)
@given(st.data(), st.integers(0, 1000))
def test_the_output_stays_the_same_on_any_input(
    activation: str, data: st.DataObject, seed: int
) -> None:
    case = data.draw(reference.cases(activation))
    net = sf.MLP(case.narrow.widths, case.narrow.activation, case.narrow.has_bias)
    embedding = embedding_of(case.steps)
    generator = torch.Generator().manual_seed(seed)
    inputs = 3 * torch.randn(20, net.inputs, generator=generator, dtype=torch.float64)
    before = net.forward(case.narrow.params, inputs)
    wide = embedding.widen(net)
    after = wide.forward(embedding.apply(net, case.narrow.params), inputs)
    # Shares up to 2 in size, and products of them, make intermediate sums larger than the result.
    size = 1 + sum(float(t.abs().max()) for t in case.narrow.params.values())
    assert float((after - before).abs().max()) <= 1e-12 * max(size, float(before.abs().max()))


def test_the_output_stays_the_same_to_1e_12_of_its_size() -> None:
    net = sf.MLP([3, 4, 4, 2], "tanh")
    params = net.random_params(seed=0)
    inputs = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    embedding = (
        sf.Replicate(0, 1, [0.3, 0.7])
        >> sf.Replicate(1, 3, [-0.1, "1/3", None])
        >> sf.NullUnits(1, [0.25, -4])
        >> sf.Replicate(0, 4, [2, 0, -1])
    )
    before = net.forward(params, inputs)
    after = embedding.widen(net).forward(embedding.apply(net, params), inputs)
    assert float(((after - before).abs() / before.abs().max()).max()) <= 1e-12


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(LAW, max_examples=12)
@given(st.data())
def test_the_gradient_s_size_and_with_it_criticality_are_transported(
    activation: str, data: st.DataObject
) -> None:
    """EmbeddedPoint says it by algebra; measured on the wide network it is the same."""
    case = data.draw(reference.cases(activation))
    wide = embedding_of(case.steps)(point_of(case.narrow))
    measured = case.narrow.widened(case.steps)
    expected = float(measured.gradient().abs().max())
    assert wide.gradient_norm == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert wide.materialize().gradient_norm == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert wide.loss == pytest.approx(measured.value(), rel=1e-12, abs=1e-15)
    assert wide.materialize().loss == pytest.approx(measured.value(), rel=1e-12, abs=1e-15)


def test_critical_points_go_to_critical_points() -> None:
    checked = 0
    for activation in ACTIVATIONS:
        for seed in range(2):
            ref = reference.critical_reference([2, 2, 2, 2], activation, "squared", seed=seed)
            assert float(ref.gradient().abs().max()) < 1e-14
            embedding = (
                sf.Replicate(0, 0, [3, -2])
                >> sf.NullUnits(0, [0.75, -0.5])
                >> sf.Replicate(1, 1, [0.5, 0, 0.5])
                >> sf.NullUnits(1, [-1])
            )
            assert embedding.preserves_criticality
            wide = embedding(point_of(ref))
            assert wide.gradient_norm < 1e-13
            assert wide.materialize().gradient_norm < 1e-13
            checked += 1
    assert checked == 18


@settings(LAW, max_examples=40)
@given(reference.cases())
def test_the_map_is_affine_injective_and_carries_the_hessian(case: Case) -> None:
    """θ_w = Aθ_n + c with A of full column rank, AᵀH_wA = H_n and Aᵀg_w = g_n at any θ."""
    ref = case.narrow
    net = sf.MLP(ref.widths, ref.activation, ref.has_bias)
    embedding = embedding_of(case.steps)
    size = net.parameter_count
    wide_net = embedding.widen(net)

    def image(vectors: Tensor) -> Tensor:
        return wide_net.flatten(embedding.apply(net, net.unflatten(vectors)))

    c = image(torch.zeros(size, dtype=torch.float64))
    A = (image(torch.eye(size, dtype=torch.float64)) - c).T
    assert torch.allclose(image(ref.vector), A @ ref.vector + c, rtol=1e-13, atol=1e-13)
    assert float(torch.linalg.svdvals(A)[-1]) > 1e-3
    wide = ref.widened(case.steps)
    H = ref.hessian()
    back = A.T @ wide.hessian() @ A
    largest = float(A.abs().max()) ** 2 * max(1.0, float(wide.hessian().abs().max()))
    assert float((back - H).abs().max()) <= 1e-12 * largest
    assert float((A.T @ wide.gradient() - ref.gradient()).abs().max()) <= 1e-12 * largest
    # The linear part that verdicts use is A.
    direction = torch.linspace(-1, 1, size, dtype=torch.float64)
    unit_map = embedding.unit_map(net)
    tangent = wide_net.flatten(unit_map.tangent(net, net.unflatten(direction)))
    assert torch.allclose(tangent, A @ direction, rtol=1e-13, atol=1e-13)


# -- order of units, composition ------------------------------------------------------------------


def test_the_first_copy_keeps_the_place_and_the_others_stand_at_the_end(narrow: sf.Point) -> None:
    wide = sf.Replicate(0, 1, [0.25, 0.5, 0.25])(narrow).params
    before = narrow.params
    rows = [0, 1, 2, 1, 1]
    assert torch.equal(wide["0.weight"], before["0.weight"][rows])
    assert torch.equal(wide["0.bias"], before["0.bias"][rows])
    shares = torch.tensor([1, 0.25, 1, 0.5, 0.25], dtype=torch.float64)
    assert torch.equal(wide["2.weight"], before["2.weight"][:, rows] * shares)
    for key in ("2.bias", "4.weight", "4.bias"):
        assert torch.equal(wide[key], before[key])


def test_null_units_stand_at_the_end_with_nothing_but_a_bias(narrow: sf.Point) -> None:
    wide = sf.NullUnits(1, [0.4, "-1/4"])(narrow).params
    assert wide["2.weight"].shape == (4, 3)
    assert torch.equal(wide["2.weight"][:2], narrow.params["2.weight"])
    assert not wide["2.weight"][2:].any()
    assert wide["2.bias"][2:].tolist() == [0.4, -0.25]
    assert torch.equal(wide["4.weight"][:, :2], narrow.params["4.weight"])
    assert not wide["4.weight"][:, 2:].any()
    assert torch.equal(wide["4.bias"], narrow.params["4.bias"])


def test_layers_and_units_of_a_later_step_are_those_of_the_network_made_so_far(
    narrow: sf.Point,
) -> None:
    first, then = sf.Replicate(0, 0, [0.5, 0.5]), sf.Replicate(0, 3, [0.25, 0.75])
    with refused("unit 3 does not exist in hidden layer 0"):
        then(narrow)
    composed = (first >> then)(narrow)
    assert torch.equal(
        composed.params["2.weight"][:, [0, 3, 4]],
        narrow.params["2.weight"][:, [0]] * torch.tensor([0.5, 0.125, 0.375]).double(),
    )
    stepwise = then(first(narrow))
    assert same(stepwise.params, composed.params)
    assert stepwise.embedding == composed.embedding
    assert stepwise.source is composed.source is narrow


def test_copies_of_null_units_are_null_units(narrow: sf.Point) -> None:
    wide = (sf.NullUnits(0, [0.4]) >> sf.Replicate(0, 3, [2, -1, 0]))(narrow).params
    assert wide["0.bias"][3:].tolist() == [0.4, 0.4, 0.4]
    assert not wide["0.weight"][3:].any()
    assert not wide["2.weight"][:, 3:].any()


def test_composition_is_associative_and_flat(narrow: sf.Point) -> None:
    a, b, c = sf.Replicate(0, 0, [0.5, 0.5]), sf.NullUnits(1, [1]), sf.Replicate(1, 2, [1, 0])
    left, right = (a >> b) >> c, a >> (b >> c)
    assert left == right
    assert hash(left) == hash(right)
    assert [type(step) for step in left.steps] == [sf.Replicate, sf.NullUnits, sf.Replicate]
    assert left.preserves_criticality
    assert left != a >> c
    assert left.widen(narrow.problem.net).widths == (2, 4, 4, 2)
    with pytest.raises(TypeError):
        a >> 3  # type: ignore[operator]


def test_replicating_once_with_share_1_changes_nothing(narrow: sf.Point) -> None:
    wide = sf.Replicate(0, 1, [1])(narrow)
    assert wide.problem.net == narrow.problem.net
    assert same(wide.params, narrow.params)
    assert sf.judge(wide).inertia == sf.judge(narrow).inertia


def test_source_and_embedding_of_an_embedded_point_build_it_anew(narrow: sf.Point) -> None:
    wide = (sf.Replicate(0, 2, [0.3, 0.7]) >> sf.NullUnits(0, [0.4]))(narrow)
    assert wide.source is narrow
    assert same(wide.embedding(wide.source).params, wide.params)
    plain = wide.materialize()
    assert type(plain) is sf.Point
    assert same(plain.params, wide.params)
    assert plain.problem.net == wide.problem.net
    assert plain.problem.data_hash == narrow.problem.data_hash


# -- exact weights --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "exact"),
    [
        ([0.3, 0.7], ["3/10", "7/10"]),
        ([0.1, 0.1, 0.1, 0.7], ["1/10", "1/10", "1/10", "7/10"]),
        ([0.1, 0.2, 0.7], ["1/10", "1/5", "7/10"]),
        (["1/3", "1/3", "1/3"], ["1/3"] * 3),
        ([Fraction(1, 7), Fraction(6, 7)], ["1/7", "6/7"]),
        ([Decimal("0.05"), Decimal("0.95")], ["1/20", "19/20"]),
        ([2, -1], ["2", "-1"]),
        ([1, 0], ["1", "0"]),
        ([1e-20, None], ["1e-20", "99999999999999999999e-20"]),
        (["1/3", -1, None], ["1/3", "-1", "5/3"]),
        ([None, 0.25], ["3/4", "1/4"]),
        ([0.5, None, 0.5], ["1/2", "0", "1/2"]),
        ([None], ["1"]),
        (np.array([0.3, 0.7]), ["3/10", "7/10"]),
        (np.array([0.3, 0.7], dtype=np.float32), ["3/10", "7/10"]),
        (torch.tensor([0.25, 0.75]), ["1/4", "3/4"]),
        ((w for w in (0.5, 0.5)), ["1/2", "1/2"]),
    ],
)
def test_weights_stand_for_the_numbers_they_are_written_as(weights: Any, exact: list[str]) -> None:
    embedding = sf.Replicate(0, 0, weights)
    assert embedding.weights == [Fraction(each) for each in exact]
    assert sum(embedding.weights) == 1


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1 / 3] * 3, "short of 1"),
        ([0.3, 0.6], "weights [0.3, 0.6] sum to 0.9, 0.1 short of 1"),
        ([0.5, 0.75], "weights [0.5, 0.75] sum to 1.25, 0.25 above 1"),
        (["1/3", "1/2"], "sum to 5/6, 1/6 short of 1"),
        ([], "weights is empty"),
        ([None, None, 0.5], "holds 2 None"),
        ([0.5, float("nan")], "nan is not a finite number"),
        ([0.5, float("inf")], "inf is not a finite number"),
        ([0.5, "half"], "'half' is not a finite number"),
        ([0.5, "1/0"], "'1/0' is not a finite number"),
        ([True, 0], "True is not a finite number"),
        (3, "weights must be a list of numbers"),
    ],
)
def test_weights_that_do_not_sum_to_1_are_refused(weights: Any, message: str) -> None:
    with refused(message):
        sf.Replicate(0, 0, weights)


def test_the_difference_that_thirds_in_floating_point_leave_is_told_exactly() -> None:
    with refused("sum to 9999999999999999/10000000000000000, 1e-16 short of 1"):
        sf.Replicate(0, 0, [1 / 3] * 3)


def test_a_typed_product_of_floats_is_refused_where_its_decimal_does_not_fit() -> None:
    """0.1 * 3 is 0.30000000000000004 before anyone can ask what was meant."""
    with refused("above 1"):
        sf.Replicate(0, 0, [0.1 * 3, 0.7])
    assert sum(sf.Replicate(0, 0, [0.1 * 3, None]).weights) == 1


def test_uniform_is_equal_shares() -> None:
    assert sf.Replicate.uniform(0, 1, 3) == sf.Replicate(0, 1, ["1/3"] * 3)
    for copies in (0, -1, 2.0, True, "2"):
        with refused("copies must be a whole number of at least 1"):
            sf.Replicate.uniform(0, 0, copies)  # type: ignore[arg-type]


# -- what cannot be done --------------------------------------------------------------------------


@pytest.mark.parametrize("unit", [3, -1])
def test_replicating_a_unit_that_does_not_exist_is_refused(narrow: sf.Point, unit: Any) -> None:
    with refused(f"unit {unit!r} does not exist in hidden layer 0, which has 3 unit(s)"):
        sf.Replicate(0, unit, [0.5, 0.5])(narrow)


@pytest.mark.parametrize("layer", [2, -1])
def test_widening_a_layer_that_does_not_exist_is_refused(narrow: sf.Point, layer: Any) -> None:
    for embedding in (sf.Replicate(layer, 0, [0.5, 0.5]), sf.NullUnits(layer, [1])):
        with refused(f"hidden layer {layer!r} does not exist"):
            embedding(narrow)
        with refused("does not exist"):
            embedding.apply(narrow.problem.net, narrow.params)


@pytest.mark.parametrize("given", [1.0, None, "a", True])
def test_null_gates_are_refused_at_once_where_no_layer_or_unit_is_named(given: Any) -> None:
    for make in (lambda: sf.NullGates(given, 0), lambda: sf.NullGates(0, given)):
        with refused(f"whole numbers, counted from 0, not by {given!r}"):
            make()


def test_null_units_need_a_bias_above() -> None:
    net = sf.MLP([2, 3, 2, 1], "tanh", bias=[True, False, True])
    with refused("need a bias in linear layer 1 above it"):
        sf.NullUnits(0, [0.4]).widen(net)
    assert sf.NullUnits(1, [0]).widen(net).widths == (2, 3, 3, 1)


def test_null_units_without_a_bias_of_their_own_have_bias_0() -> None:
    net = sf.MLP([2, 3, 1], "sigmoid", bias=[False, True])
    with refused("linear layer 0 has no bias, so a null unit's bias can only be 0"):
        sf.NullUnits(0, [0.4]).widen(net)
    ref = random_reference([2, 3, 1], "sigmoid", "squared", [False, True])
    wide = sf.NullUnits(0, [0, 0])(point_of(ref))
    assert list(wide.params) == ["0.weight", "2.weight", "2.bias"]
    assert wide.problem.net.hidden == (5,)


@pytest.mark.parametrize("biases", [[], 0.4, None, ["x"], [float("nan")], [True]])
def test_biases_that_are_no_list_of_numbers_are_refused(biases: Any) -> None:
    with pytest.raises(sf.InputError, match="bias"):
        sf.NullUnits(0, biases)


def test_an_embedding_takes_a_point_or_bare_parameters_that_fit(narrow: sf.Point) -> None:
    embedding = sf.Replicate(0, 0, [0.5, 0.5])
    with refused("an embedding takes a Point, not dict"):
        embedding(narrow.params)  # type: ignore[arg-type]
    with refused("'0.weight' has shape (3, 2), expected (3, 1)"):
        embedding.apply(sf.MLP([1, 3, 2, 2]), narrow.params)


# -- files ----------------------------------------------------------------------------------------


@settings(LAW, max_examples=40)
@given(reference.cases(depth=3, width=3))
def test_embeddings_survive_json(case: Case) -> None:
    embedding = embedding_of(case.steps)
    text = json.dumps(embedding.to_json(), allow_nan=False)
    back = embedding_from_json(json.loads(text))
    assert back == embedding
    assert hash(back) == hash(embedding)
    net = sf.MLP(case.narrow.widths, case.narrow.activation, case.narrow.has_bias)
    assert same(back.apply(net, case.narrow.params), embedding.apply(net, case.narrow.params))


def test_json_keeps_weights_exact_and_runs_short() -> None:
    embedding = sf.Replicate(0, 0, ["1/3", "2/3"]) >> sf.Replicate.uniform(1, 0, 10**6)
    text = json.dumps(embedding.to_json())
    assert len(text) < 400
    back = embedding_from_json(json.loads(text))
    assert back.steps[0].weights == [Fraction(1, 3), Fraction(2, 3)]  # type: ignore[attr-defined]
    assert back == embedding


def test_an_unknown_kind_of_embedding_in_a_file_is_refused() -> None:
    with refused("unknown embedding 'Replicat'; did you mean 'Replicate'?"):
        embedding_from_json([{"type": "Replicat"}])


def test_representations_make_the_embedding_anew() -> None:
    for embedding in (
        sf.Replicate(0, 2, [0.3, 0.7]),
        sf.NullUnits(1, [0.4, -2]),
        sf.Replicate(0, 2, [2, -1]) >> sf.NullUnits(layer=0, biases=[0.5]),
    ):
        names = {"Replicate": sf.Replicate, "NullUnits": sf.NullUnits}
        assert eval(repr(embedding), names) == embedding


# -- batches and laziness -------------------------------------------------------------------------


@settings(LAW, max_examples=25)
@given(reference.cases(depth=3, width=3))
def test_a_batch_of_parameters_is_widened_one_by_one(case: Case) -> None:
    net = sf.MLP(case.narrow.widths, case.narrow.activation, case.narrow.has_bias)
    embedding = embedding_of(case.steps)
    many = net.random_params(seed=0, batch=(2, 3))
    together = embedding.apply(net, many)
    assert embedding.widen(net).check_params(together) == (2, 3)
    for i in range(2):
        for j in range(3):
            one = embedding.apply(net, {key: t[i, j] for key, t in many.items()})
            assert same({key: t[i, j] for key, t in together.items()}, one)


def test_a_batch_of_points_is_embedded_as_parameters_or_one_by_one(narrow: sf.Point) -> None:
    net = narrow.problem.net
    many = sf.PointBatch(narrow.problem, net.random_params(seed=0, batch=(4,)))
    embedding = sf.Replicate(0, 1, [2, -1]) >> sf.NullUnits(1, [0.5])
    each = [embedding(point) for point in many]
    wide = sf.PointBatch(each[0].problem, embedding.apply(net, many.params))
    norms = sf.gradient(wide).abs().amax(-1)
    for k, one in enumerate(each):
        assert float(norms[k]) == pytest.approx(one.gradient_norm, rel=1e-12)
        assert float(wide.loss[k]) == pytest.approx(one.loss, rel=1e-12)
        assert same(wide[k].params, one.params)
    with refused(
        "takes a Point, not PointBatch; make one with Point(problem, params), or use apply"
    ):
        embedding(many)
    with refused("a condition is checked at one point, such as a Point, not at a PointBatch"):
        sf.InactivePropagation(0, [[1.0, 0.0, 0.0]]).preserves_criticality.check(many)


MILLION = 10**6


@pytest.mark.parametrize(
    "embedding",
    [
        sf.Replicate.uniform(0, 0, MILLION),
        sf.NullUnits(0, [0.25] * MILLION),
        sf.Replicate.uniform(0, 0, MILLION) >> sf.Replicate(0, MILLION - 1, [2, -1]),
        sf.Replicate.uniform(1, 1, MILLION) >> sf.NullUnits(0, [0.5] * MILLION),
    ],
    ids=["replicate", "null", "replicate a copy", "both layers"],
)
def test_a_point_of_width_a_million_is_judged_without_being_built(
    narrow: sf.Point, embedding: sf.Embedding
) -> None:
    wide = embedding(narrow)
    net = wide.problem.net
    verdict = sf.judge(wide)
    assert verdict.inertia is not None
    assert sum(verdict.inertia) == net.parameter_count
    assert max(net.hidden) >= MILLION
    assert wide.gradient_norm > 0
    assert wide.loss == narrow.loss
    assert verdict.kind is sf.Kind.NOT_CRITICAL
    assert "widths" in repr(wide)
    assert "_params" not in wide.__dict__
    # The same embedding with 3 instead of a million: the law is linear in the number of copies.
    if embedding == sf.Replicate.uniform(0, 0, MILLION):
        small = [sf.judge(sf.Replicate.uniform(0, 0, n)(narrow)).inertia for n in (2, 3)]
        for at in (0, 2):
            slope = small[1][at] - small[0][at]
            assert verdict.inertia[at] == small[1][at] + (MILLION - 3) * slope


def test_parameters_are_built_once_and_when_asked_for(narrow: sf.Point) -> None:
    wide = sf.Replicate(0, 0, [0.5, 0.5])(narrow)
    assert "_params" not in wide.__dict__
    params = wide.params
    assert "_params" in wide.__dict__
    assert wide.params is params


def test_a_saddle_of_width_a_million_has_its_curvature_without_being_built() -> None:
    """Two of a million copies move as two of two do, at a cost in length alone."""
    for seed in range(4):
        ref = reference.critical_reference([2, 1, 2], "tanh", "squared", True, 0.02, seed)
        source = point_of(ref)
        wide = sf.Replicate.uniform(0, 0, MILLION)(source)
        verdict = sf.judge(wide)
        assert verdict.kind is sf.Kind.STRICT_SADDLE
        assert verdict.curvature is not None
        assert verdict.curvature < 0
        assert "_params" not in wide.__dict__
