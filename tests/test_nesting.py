"""Hierarchies: what is said of points of several widths, held against dense Hessians and known landscapes."""

from __future__ import annotations

import itertools

import pytest
import torch

import semiflat as sf
from helpers import refused
from reference import Reference, count, spectrum
from semiflat.nesting.ways import widenings

X = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
BENT = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, X.abs() - X)


@pytest.fixture(scope="module")
def bent() -> sf.Hierarchy:
    return sf.hierarchy(BENT, widths=[1, 2, 3], starts=16, seed=0, processes=1)


def dense(point: sf.Point) -> Reference:
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    return Reference("tanh", params, point.problem.X, point.problem.y, "squared")


def test_every_point_is_critical_in_a_dense_reference(bent: sf.Hierarchy):
    finite = [point for point in bent if not point.record.at_infinity]
    assert len(finite) >= 4
    for point in finite:
        reference = dense(point)
        assert float(reference.gradient().abs().max()) < 1e-9, point
        assert reference.value() == pytest.approx(point.record.loss, rel=1e-12)


def test_the_kind_of_every_embedded_point_is_that_of_a_dense_hessian(bent: sf.Hierarchy):
    clear = unclear = 0
    for edge in bent.edges:
        if edge.kind != "embeds" or bent[edge.source].record.at_infinity:
            continue
        source = bent[edge.source]
        (widening,) = (
            each
            for each in widenings(source.problem.net, edge.hidden)
            if (each.how, each.layer, each.unit) == (edge.how, edge.layer, edge.unit)
        )
        reference = dense(sf.Point(source.problem, source.params))
        wide = dense(widening.embedding(source))
        assert torch.allclose(
            wide.outputs(wide.vector), reference.outputs(reference.vector), atol=1e-12
        )
        *signs, decided = count(spectrum(wide.hessian()))
        if not decided:
            unclear += 1
            continue
        clear += 1
        assert (tuple(signs) == edge.inertia) == (edge.verdict != "UNDECIDED"), edge
        assert (signs[2] > 0) == (edge.verdict == "STRICT_SADDLE"), edge
    assert clear > 10 * unclear, (clear, unclear)


def test_descents_end_below_their_saddles_at_points_of_their_level(bent: sf.Hierarchy):
    descents = [edge for edge in bent.edges if edge.kind == "descends"]
    assert len(descents) >= 10
    for edge in descents:
        assert edge.loss is not None
        assert edge.loss < bent[edge.source].record.loss
        if edge.target is not None and not edge.as_embedded:
            assert bent[edge.target].hidden == edge.hidden
            assert bent[edge.target].record.loss == pytest.approx(edge.loss, rel=1e-6)


def test_points_of_one_level_are_distinct_functions_and_no_narrower_one(bent: sf.Hierarchy):
    for level in bent.levels:
        there = bent.at(level.hidden)
        narrower = [point for point in bent if point.hidden < level.hidden]
        outputs = [point.problem.outputs(point.params) for point in (*there, *narrower)]
        for one, other in itertools.combinations(range(len(outputs)), 2):
            if one < len(there):
                assert float((outputs[one] - outputs[other]).abs().max()) > 1e-6


def test_what_a_descent_alone_finds_is_kept(bent: sf.Hierarchy):
    alone = [point for point in bent if point.record.origin == "descent"]
    assert alone
    for point in alone:
        assert point.record.found == 0
        assert any(edge.target == point.name for edge in bent.edges)


def test_counts_of_new_points_add_up(bent: sf.Hierarchy):
    for level in bent.levels:
        new = [point for point in bent.at(level.hidden) if point.record.new]
        finite = [point.kind for point in new if not point.record.at_infinity]
        assert level.new_at_infinity == len(new) - len(finite)
        assert level.new_saddles == finite.count(sf.Kind.STRICT_SADDLE)
        assert sum(level.counts.values()) == sum(level.starts)


def test_a_trap_lasts_where_some_widening_is_a_minimum_at_every_wider_level(bent: sf.Hierarchy):
    minima = (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)
    traps = bent.traps()
    assert {trap.point for trap in traps} == {
        p.name for p in bent if p.kind in minima and p.hidden != (3,)
    }
    for trap in traps:
        wider = [level.hidden for level in bent.levels if level.hidden > bent[trap.point].hidden]
        assert list(trap.kinds) == wider
        there = [any(k in minima for k in trap.kinds[hidden].values()) for hidden in wider]
        assert trap.stays == tuple(h for h, stays in zip(wider, there, strict=True) if stays)
        assert trap.lasting == all(there)


@pytest.fixture(scope="module")
def linear() -> tuple[sf.Hierarchy, list[float]]:
    """A linear network, and the critical values of its loss (Baldi & Hornik 1989)."""
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(24, 3, generator=generator).double()
    inputs -= inputs.mean(0)
    targets = inputs @ torch.randn(3, 2, generator=generator).double()
    targets = targets + 0.3 * torch.randn(24, 2, generator=generator).double()
    targets -= targets.mean(0)
    fitted = inputs @ torch.linalg.lstsq(inputs, targets).solution
    explained = torch.linalg.eigvalsh(fitted.T @ fitted / 24).tolist()
    total = float(targets.square().sum() / 24)
    values = [
        (total - sum(chosen)) / 2
        for rank in range(3)
        for chosen in itertools.combinations(explained, rank)
    ]
    problem = sf.Problem(sf.MLP([3, 1, 2], "identity"), inputs, targets)
    found = sf.hierarchy(problem, widths=[1, 2], starts=8, saddle_starts=40, seed=1, processes=1)
    return found, sorted(values)


def test_linear_networks_have_the_critical_values_of_baldi_and_hornik_and_no_others(
    linear: tuple[sf.Hierarchy, list[float]],
):
    h, values = linear
    for point in h:
        assert min(abs(point.record.loss - value) for value in values) < 1e-12, point
    there = {value: [p for p in h if abs(p.record.loss - value) < 1e-12] for value in values}
    assert all(there.values()), {value: len(points) for value, points in there.items()}


def test_linear_networks_have_the_inertias_of_baldi_and_hornik(
    linear: tuple[sf.Hierarchy, list[float]],
):
    """At full rank r = width the index is the number of left-out directions that would do better."""
    h, _ = linear
    first = {point.record.loss: point.record.index for point in h.at(1) if not point.record.trivial}
    assert sorted(index for index in first.values() if index is not None) == [0, 1]
    assert first[min(first)] == 0
    assert [point.record.index for point in h.at(2)][:1] == [0]


def test_several_layers_and_the_way_between_them():
    problem = sf.Problem(sf.MLP([1, 1, 1, 1], "tanh"), X, torch.sin(2 * X))
    h = sf.hierarchy(problem, widths=[[1, 1], [2, 1]], starts=8, saddle_starts=0, processes=1)
    assert {point.hidden for point in h} <= {(1, 1), (2, 1)}
    assert {edge.layer for edge in h.edges if edge.how == "inside"} == {0}
    assert h.at([2, 1])


def teacher(activation: str, inputs: int, width: int, seed: int, noise: float) -> sf.Problem:
    """Data of a random network, standardised."""
    generator = torch.Generator().manual_seed(1000 * seed + 97 * width + inputs)
    data = torch.rand(60, inputs, generator=generator).double() * 4 - 2
    net = sf.MLP([inputs, width, 1], activation)
    params = {
        key: 2 * torch.randn(shape, generator=generator).double()
        for key, shape in net.shapes.items()
    }
    y = net.forward(params, data)
    y = (y - y.mean()) / y.std(correction=0)
    y = y + noise * torch.randn(y.shape, generator=generator).double()
    return sf.Problem(sf.MLP([inputs, 1, 1], activation), data, y)


@pytest.mark.parametrize(("activation", "inputs", "width"), [("gelu", 1, 1), ("tanh", 2, 2)])
def test_the_least_width_is_the_teachers(activation: str, inputs: int, width: int):
    problem = teacher(activation, inputs, width, seed=1, noise=0.0)
    h = sf.hierarchy(problem, widths=range(1, width + 2), starts=12, saddle_starts=0, processes=1)
    answer = h.least_width(1e-10)
    assert answer.hidden == (width,), str(answer)
    assert answer.loss < 1e-20


def test_held_out_loss_and_the_error_of_not_having_found_all_are_said(bent: sf.Hierarchy):
    answer = bent.least_width(1e-2, X=X + 0.05, y=(X + 0.05).abs() - X - 0.05)
    assert answer.hidden == (1,)
    assert set(answer.held_out) <= {(1,), (2,), (3,)}
    assert answer.held_out[(1,)] < 2 * answer.loss + 1e-3
    assert set(bent.least_width(1e-3).unseen) == {(1,)}
    assert "Good–Turing" in str(bent.least_width(1e-3))


def test_a_graph_holds_every_point_and_edge(bent: sf.Hierarchy):
    graph = bent.to_networkx()
    assert {point.name for point in bent} <= set(graph)
    between = [edge for edge in bent.edges if edge.source and edge.target is not None]
    assert graph.number_of_edges() == len(between)
    frame = bent.to_dataframe()
    assert list(frame["name"]) == [point.name for point in bent]


@pytest.mark.parametrize(
    ("widths", "text"),
    [
        ([2, 1], "widths must grow from level to level, and [1] comes after [2]"),
        ([1, 1], "widths must grow"),
        ([], "widths must be a list such as [1, 2, 3], not []"),
        (3, "widths must be a list such as [1, 2, 3], not 3"),
        ([[1, 2]], "widths [1, 2] do not fit a network with 1 hidden layer(s); give a number"),
        ([0, 1], "a width must be"),
        (["two"], "widths 'two' do not fit"),
    ],
)
def test_widths_that_make_no_levels(widths: object, text: str):
    with refused(text):
        sf.hierarchy(BENT, widths)  # type: ignore[arg-type]


def test_names_and_levels_that_are_not_there(bent: sf.Hierarchy):
    with refused("there is no point '9-0'; names are 1-0"):
        bent["9-0"]
    with refused("there is no level of widths [7]; there are [[1], [2], [3]]"):
        bent.at(7)
    with refused("a hierarchy is of a Problem, not of a str"):
        sf.hierarchy("diabetes", [1])  # type: ignore[arg-type]
