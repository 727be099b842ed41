"""Hierarchies: what is said of points of several widths, held against dense Hessians and known landscapes."""

from __future__ import annotations

import itertools

import pytest
import torch

import semiflat as sf
from helpers import refused
from reference import Reference, count, spectrum
from semiflat.nesting.ways import thinned, widenings

X = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
BENT = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, X.abs() - X)


@pytest.fixture(scope="module")
def bent() -> sf.Hierarchy:
    return sf.hierarchy(BENT, widths=[1, 2, 3], starts=16, seed=0, processes=1)


def dense(point: sf.Point, activation: str = "tanh") -> Reference:
    params = {key: tensor.clone() for key, tensor in point.params.items()}
    return Reference(activation, params, point.problem.X, point.problem.y, "squared")


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


def linear_problem(
    seed: int, inputs: int, outputs: int, layers: int = 1
) -> tuple[sf.Problem, list[float], dict[tuple[int, ...], float]]:
    """A linear network of one unit a layer, and what Baldi & Hornik 1989 say of its loss.

    Critical functions are projections of the best linear fit on some of its principal directions: the variance
    that each of these explains, ascending, and the critical value of every set of them.
    """
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(24, inputs, generator=generator).double()
    X -= X.mean(0)
    y = X @ torch.randn(inputs, outputs, generator=generator).double()
    y = y + 0.3 * torch.randn(24, outputs, generator=generator).double()
    y -= y.mean(0)
    fitted = X @ torch.linalg.lstsq(X, y).solution
    rank = min(inputs, outputs)
    explained = torch.linalg.eigvalsh(fitted.T @ fitted / 24)[-rank:].tolist()
    total = float(y.square().sum() / 24)
    values = {
        chosen: (total - sum(explained[k] for k in chosen)) / 2
        for size in range(rank + 1)
        for chosen in itertools.combinations(range(rank), size)
    }
    net = sf.MLP([inputs, *[1] * layers, outputs], "identity")
    return sf.Problem(net, X, y), explained, values


def of_value(point: sf.Point, values: dict[tuple[int, ...], float]) -> tuple[int, ...]:
    """The directions that a critical function projects on, told by its loss."""
    chosen = min(values, key=lambda each: abs(values[each] - point.loss))
    assert abs(values[chosen] - point.loss) < 1e-12, (point, values)
    return chosen


SLOW = pytest.mark.slow
LINEAR = [(3, 3, 2), (2, 2, 3), pytest.param((1, 4, 3), marks=SLOW)]
LINEAR += [pytest.param((seed, 5, 2), marks=SLOW) for seed in (6, 7)]


@pytest.mark.parametrize("case", LINEAR, ids=str)
def test_each_critical_function_of_a_linear_network_is_found_once_at_the_width_of_its_rank(
    case: tuple[int, int, int],
):
    """All critical values of Baldi and Hornik, no others, and at full rank their inertias.

    Moving a direction for one left out lowers the loss if that explains more: the index counts these pairs. The
    zeros are changes of basis of the hidden layer, and its biases.
    """
    problem, explained, values = linear_problem(*case)
    widths = range(1, len(explained) + 1)
    h = sf.hierarchy(problem, widths, starts=8, saddle_starts=40, seed=1, processes=1)
    found = [(point.hidden[0], of_value(point, values)) for point in h]
    assert sorted(found) == sorted((max(len(chosen), 1), chosen) for chosen in values)
    for point in h:
        chosen, width = of_value(point, values), point.hidden[0]
        if len(chosen) != width:
            assert chosen == ()
            continue
        left = [k for k in range(len(explained)) if k not in chosen]
        index = sum(explained[other] > explained[own] for own in chosen for other in left)
        zeros, total = width * width + width, point.problem.net.parameter_count
        assert point.record.inertia == (total - zeros - index, zeros, index), point
        *signs, clear = count(spectrum(dense(point, "identity").hessian()))
        assert tuple(signs) == point.record.inertia or not clear, point


@pytest.mark.parametrize(
    "layers", [2, pytest.param(3, marks=SLOW)], ids=lambda layers: f"{layers} hidden layers"
)
def test_deep_linear_networks_have_the_same_critical_values(layers: int):
    """Inertias differ along one function there; ranks and values do not."""
    problem, explained, values = linear_problem(5, 2, 2, layers)
    widths = [[width] * layers for width in range(1, len(explained) + 1)]
    h = sf.hierarchy(problem, widths, starts=8, saddle_starts=24, seed=1, processes=1)
    found = [(point.hidden[0], of_value(point, values)) for point in h]
    assert sorted(found) == sorted((max(len(chosen), 1), chosen) for chosen in values)


def test_several_layers_and_the_way_between_them():
    problem = sf.Problem(sf.MLP([1, 1, 1, 1], "tanh"), X, torch.sin(2 * X))
    h = sf.hierarchy(problem, widths=[[1, 1], [2, 1]], starts=8, saddle_starts=0, processes=1)
    assert {point.hidden for point in h} <= {(1, 1), (2, 1)}
    assert {edge.layer for edge in h.edges if edge.how == "inside"} == {0}
    assert h.at([2, 1])


@pytest.mark.parametrize("biases", [[False, False], [True, False, True], [True, True, False]])
def test_layers_without_a_bias_above_are_widened_by_copies(biases: list[bool]):
    """Null units need one: what they hand on is a constant."""
    net = sf.MLP([1, *[1] * (len(biases) - 1), 1], "sigmoid", biases)
    wide = [2] * len(net.hidden)
    h = sf.hierarchy(
        sf.Problem(net, X, torch.sin(2 * X)),
        widths=[net.hidden, wide],
        starts=4,
        saddle_starts=0,
        processes=1,
    )
    edges = [edge for edge in h.edges if edge.kind == "embeds"]
    assert {edge.how for edge in edges} == {"inside", "outside"}
    finite = [point for point in h.at(net.hidden) if not point.record.at_infinity]
    assert finite
    for point in finite:
        for each in widenings(net, tuple(wide)):
            reference = dense(each.embedding(point), "sigmoid")
            assert reference.value() == pytest.approx(point.record.loss, rel=1e-12)
            assert float(reference.gradient().abs().max()) < 1e-9


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


def test_a_width_that_fits_only_far_out_is_told_by_its_runs():
    """A unit that hardly bends: towards it the loss falls along a valley in which weights grow without end."""
    y = torch.tanh(1e-3 * X + 1)
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, (y - y.mean()) / y.std(correction=0))
    h = sf.hierarchy(problem, widths=[1, 2], starts=3, saddle_starts=0, processes=1)
    assert min(point.record.loss for point in h.at(1)) > 1e-3
    answer = h.least_width(1e-9)
    assert answer.hidden == (1,), str(answer)
    assert answer.loss == h.levels[0].lowest < 1e-9


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


def test_leaving_units_out_keeps_the_others() -> None:
    net = sf.MLP([2, 4, 3, 1], "tanh")
    params = net.random_params(0)
    heard = params["2.weight"].norm(dim=0)
    found = list(thinned(net, params, (2, 3)))
    assert len(found) == 4
    for left_out, fewer in enumerate(found):
        others = [unit for unit in range(4) if unit != left_out]
        kept = sorted(sorted(others, key=lambda unit: -float(heard[unit]))[:2])
        torch.testing.assert_close(fewer["0.weight"], params["0.weight"][kept])
        torch.testing.assert_close(fewer["2.weight"], params["2.weight"][:, kept])
        torch.testing.assert_close(fewer["4.weight"], params["4.weight"])
    assert len(list(thinned(net, params, (3, 2)))) == 12


def test_what_starts_miss_at_one_width_is_found_from_the_next() -> None:
    # One of 64 random starts of one unit ends at the lowest minimum.
    chance = torch.Generator().manual_seed(15)
    X = torch.linspace(-2, 2, 25, dtype=torch.float64)[:, None]
    y = torch.exp(-8 * (X - 0.8) ** 2) + 0.4 * torch.sin(2 * X)
    y = y + 0.3 * torch.randn(X.shape, generator=chance, dtype=torch.float64)
    rare = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, y)
    alone, both = (
        sf.hierarchy(rare, widths=widths, starts=4, saddle_starts=0, processes=1)
        for widths in ([1], [1, 2])
    )
    lowest = both.at(1)[0]
    assert lowest.record.origin == "wider point"
    assert lowest.record.loss < alone.at(1)[0].record.loss - 1e-3


def test_outputs_of_another_shape_have_no_distance(bent: sf.Hierarchy) -> None:
    with refused("expected (21, 1), a row for each sample"):
        bent.distances(torch.zeros(21, dtype=torch.float64))


def test_where_all_targets_are_zero_rounding_makes_no_functions() -> None:
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, torch.zeros_like(X))
    h = sf.hierarchy(problem, widths=[1, 2], starts=4, saddle_starts=0, processes=1)
    assert len(h.critical_functions()) == 1
