"""What a search says of each point it found, and how many it has not: index, trivial, frequencies, unseen."""

import pytest
import torch

import known
import semiflat as sf
from reference import Reference
from test_known_points import (
    LINEAR,
    ONE_UNIT,
    Status,
    in_box,
    incoming,
    is_constant,
    linear_cases,
    linear_problem,
    nearest,
    one_unit_cases,
    one_unit_problem,
    place,
    same_network,
    teacher,
)

# -- index and trivial ------------------------------------------------------------------------------


@linear_cases
def test_the_index_in_linear_networks_is_that_of_the_theory(case):
    problem = linear_problem(case)
    result = sf.run_search(problem, starts=20, seed=0, kind="any", processes=1)
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    assert converged
    for run in converged:
        assert run.index == nearest(case, run.loss).negative
        assert isinstance(run.index, int)


def test_points_of_every_index_of_a_linear_network_are_told_apart():
    """At |S| = p: index 0, 1 and 2, each from a start near it."""
    case = LINEAR["3-2-3"]
    problem = linear_problem(case)
    for point in case.critical():
        if len(point.subset) == case.hidden:
            start = case.point(point.subset, seed=0)
            (run,) = sf.run_search(problem, start=start, kind="any").runs
            assert run.status is Status.CONVERGED
            assert run.index == point.negative


@one_unit_cases
def test_the_index_with_one_unit_is_that_of_the_fitted_risk(case):
    points = case.critical
    problem = one_unit_problem(case)
    stacked = torch.stack([problem.net.flatten(case.params(u)) for u in points])
    start = problem.net.unflatten(stacked)
    result = sf.run_search(problem, start=start, kind="any", max_iterations=200, processes=1)
    assert [run.index for run in result.runs] == [case.index(u) for u in points]
    assert [run.trivial for run in result.runs] == [None] * len(points)


def test_the_index_is_that_of_the_dense_hessian_where_the_run_ended():
    """Constant predictors of saturated units too, whose curvature is near 1e-11."""
    case = ONE_UNIT["sigmoid"]
    problem = one_unit_problem(case)
    result = sf.run_search(problem, starts=40, seed=0, kind="any", max_iterations=200, processes=1)
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    assert {run.index for run in converged} >= {0, 1}
    for run in converged:
        # Of eigenvalues near rounding, either count may be right.
        reference = Reference("sigmoid", run.params, problem.X, problem.y, "squared")
        values = torch.linalg.eigvalsh(torch.func.hessian(reference.risk)(reference.vector))
        clear, seen = (int((values < -floor * values[-1]).sum()) for floor in (1e-10, 0.0))
        assert clear <= run.index <= seen


@pytest.mark.parametrize("name", ["gelu 8", "gelu 8 near-degenerate", "gelu 12"])
def test_constant_predictors_of_one_unit_have_an_index_of_at_most_one(name):
    """With v = 0 the unit's block is [[0, F], [Fᵀ, 0]], F = (mean rσ'x, mean rσ'): rank F negative ones."""
    case = ONE_UNIT[name]
    result = sf.run_search(
        one_unit_problem(case), starts=40, seed=0, kind="any", max_iterations=250, processes=1
    )
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    constant = [run for run in converged if is_constant(case, run)]
    assert constant
    assert [run for run in constant if run.index > 1] == []


@one_unit_cases
def test_constant_predictors_are_called_trivial_and_no_others_are(case):
    result = sf.run_search(
        one_unit_problem(case), starts=40, seed=0, kind="any", max_iterations=200, processes=1
    )
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    # A tanh unit is constant to rounding where it is saturated, and that is no critical point.
    assert any(is_constant(case, run) for run in converged) or case.activation == "tanh"
    for run in converged:
        if is_constant(case, run):
            assert run.trivial is not None
            assert run.trivial.startswith("constant")
        elif in_box(incoming(case, run)):
            assert run.trivial is None


@pytest.mark.parametrize("share", [0.4, -0.5])
def test_a_split_minimum_is_called_embedded(share):
    """Two copies of a unit with shares λ and 1 − λ are critical for every λ."""
    case = ONE_UNIT["gelu 12"]
    narrow = sf.Point(one_unit_problem(case), case.params(case.critical[0]))
    wide = sf.Replicate(0, 0, [share, 1 - share])(narrow)
    (run,) = sf.run_search(wide.problem, start=wide.params, kind="any").runs
    assert run.loss == pytest.approx(narrow.loss, abs=1e-12)
    assert run.status is Status.CONVERGED, run.record.evidence
    assert run.trivial is not None
    assert run.trivial.startswith("embedded")


def test_units_dead_on_the_data_are_called_dead():
    x, y = known.wave(12, 1)
    net = sf.MLP([1, 2, 1], "relu")
    start = {
        "0.weight": torch.tensor([[1.0], [1.0]]).double(),
        "0.bias": torch.tensor([0.3, -100.0]).double(),
        "2.weight": torch.tensor([[1.0, 1.0]]).double(),
        "2.bias": torch.zeros(1).double(),
    }
    (run,) = sf.run_search(sf.Problem(net, x[:, None], y), start=start).runs
    assert (run.params["0.weight"][1] * x + run.params["0.bias"][1] < 0).all()
    assert run.status is Status.CONVERGED, run.record.evidence
    assert run.trivial is not None
    assert run.trivial.startswith("dead")


def test_minima_of_a_teachers_width_are_not_trivial():
    problem, _ = teacher(0)
    result = sf.run_search(problem, starts=8, seed=0, processes=1)
    assert result.points
    assert result.points[0].loss < 1e-20
    assert [point.trivial for point in result.points] == [None] * len(result.points)


# -- frequencies and unseen -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gelu 8", "gelu 12", "tanh"])
def test_frequencies_count_the_runs_that_ended_at_each_point(name):
    case = ONE_UNIT[name]
    problem = one_unit_problem(case)
    result = sf.run_search(problem, starts=64, seed=0, processes=1)
    assert len(result.frequencies) == len(result.points)
    assert sum(result.frequencies) == result.counts[Status.CONVERGED]
    assert min(result.frequencies) >= 1
    for k, point in enumerate(result.points):
        for other in result.points[k + 1 :]:
            assert not same_network(problem.net, point.params, other.params)
    # Counted again from the runs themselves, by where they are.
    points = case.critical
    ends = [place(points, incoming(case, r)) for r in result.runs if r.status is Status.CONVERGED]
    for point, frequency in zip(result.points, result.frequencies, strict=True):
        if in_box(incoming(case, point)):
            assert ends.count(place(points, incoming(case, point))) == frequency


def search_with(frequencies: list[int]) -> sf.SearchResult:
    """A search that ends at the minima of "gelu 12" so many times each."""
    case = ONE_UNIT["gelu 12"]
    problem = one_unit_problem(case)
    minima = [u for u in case.critical if case.index(u) == 0]
    assert len(frequencies) <= len(minima) == 4
    starts = [
        problem.net.flatten(case.params(u))
        for u, times in zip(minima, frequencies, strict=False)
        for _ in range(times)
    ]
    result = sf.run_search(problem, start=problem.net.unflatten(torch.stack(starts)), processes=1)
    assert result.counts[Status.CONVERGED] == sum(frequencies)
    assert list(result.frequencies) == frequencies
    return result


@pytest.mark.parametrize(
    ("frequencies", "singletons", "doubletons", "chao1", "missing_mass"),
    [
        ([1, 1, 2, 3], 2, 1, 2.0, 2 / 7),
        ([2, 1, 2, 3], 1, 2, 0.25, 1 / 8),
        ([1, 1, 1, 2], 3, 1, 4.5, 3 / 5),
        ([3, 1, 1, 1], 3, 0, 3.0, 1 / 2),  # no doubletons: f₁(f₁ − 1)/2
        ([1], 1, 0, 0.0, 1.0),
        ([3, 4, 5, 6], 0, 0, 0.0, 0.0),
        ([2, 2], 0, 2, 0.0, 0.0),
    ],
)
def test_chao_and_good_turing(frequencies, singletons, doubletons, chao1, missing_mass):
    """Chao (1984): f₁²/2f₂ points unseen. Good (1953): a new run finds one with probability f₁/n."""
    unseen = search_with(frequencies).unseen
    assert (unseen.singletons, unseen.doubletons) == (singletons, doubletons)
    assert unseen.chao1 == pytest.approx(chao1, abs=1e-12)
    assert unseen.missing_mass == pytest.approx(missing_mass, abs=1e-12)


def test_a_search_that_found_nothing_counts_nothing():
    problem = one_unit_problem(ONE_UNIT["gelu 12"])
    result = sf.run_search(problem, starts=4, max_iterations=1, processes=1)
    assert result.points == []
    assert list(result.frequencies) == []
    assert (result.unseen.singletons, result.unseen.doubletons) == (0, 0)
    assert result.unseen.chao1 == 0
