"""What a tester broke in the search: each with the smallest case."""

from dataclasses import replace

import pytest
import torch

import semiflat as sf
from semiflat.search.beyond import go_beyond
from semiflat.search.driver import Options
from semiflat.search.joined import _Paths
from semiflat.search.outcome import beyond_outcome
from semiflat.search.record import Finished

X = torch.linspace(-2, 2, 15).double()[:, None]
Y = torch.sin(2 * X)
CLASSES = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0, 1])


def test_a_gauge_direction_of_a_limit_is_no_way_down():
    """Eigenvalues of −1e-15 where the loss rises as t⁴: one limit had two verdicts."""
    problem = sf.Problem(sf.MLP([1, 2, 1], "sigmoid", bias=False), X, Y)
    limits = [run.limit for run in sf.run_search(problem, starts=8, processes=1).runs if run.limit]
    same = [limit for limit in limits if abs(limit.loss - 0.0639417477) < 1e-9]
    assert len(same) >= 4
    assert {limit.inertia for limit in same} == {(3, 1, 0)}
    assert {limit.kind for limit in same} == {"MINIMUM"}


def test_the_shift_softmax_ignores_makes_no_new_point():
    """Softmax regression is convex: there is one minimum."""
    problem = sf.Problem(sf.MLP([1, 2]), X, CLASSES, loss="cross_entropy")
    result = sf.run_search(problem, starts=8, processes=1)
    assert result.frequencies == [8]
    assert result.unseen.missing_mass == 0


def test_constant_predictors_of_centred_targets_are_one():
    problem = sf.Problem(sf.MLP([1, 2, 1], "gelu"), torch.ones_like(X), Y - Y.mean())
    assert sf.run_search(problem, starts=8, processes=1).frequencies == [8]


def test_a_kink_is_no_critical_point():
    """With decay θ = 0 has a zero gradient by convention, and ways down all round."""
    problem = sf.Problem(sf.MLP([1, 2, 1], "relu"), X, Y, weight_decay=1e-3)
    for run in sf.run_search(problem, starts=8, processes=1).runs:
        if run.status is sf.Status.CONVERGED:
            assert float(run.params["0.weight"].abs().max()) > 0
        elif run.gradient_norm < 1e-12:
            assert "kink" in run.record.evidence


@pytest.mark.parametrize("starts", [1, 4])
def test_a_loss_of_the_user_is_followed_to_infinity_too(starts):
    problem = sf.Problem(
        sf.MLP([1, 2, 1], "tanh"), X, Y, loss=lambda f, t: ((f - t) ** 2).sum() / 2
    )
    own = sf.run_search(problem, starts=starts, processes=1)
    named = sf.run_search(sf.Problem(problem.net, X, Y), starts=starts, processes=1)
    for one, other in zip(own.runs, named.runs, strict=True):
        assert one.status is other.status
        if one.limit is not None:
            assert one.limit.loss == pytest.approx(other.limit.loss, rel=1e-9)


@pytest.mark.slow
def test_a_limit_is_a_critical_point_by_the_evidence_that_a_finite_point_needs():
    """Near an exact fit gradients are small because the residuals are, and some are rounding."""
    problem = sf.Problem(sf.MLP([1, 2, 2, 2, 1], "tanh"), X, Y)
    result = sf.run_search(problem, starts=4, processes=1)
    limits = [run for run in result.runs if run.limit is not None]
    assert limits
    for run in limits:
        evidence = run.limit.point.evidence
        if run.status.at_infinity:
            assert bool((evidence.gradient.abs() <= evidence.allowed).all())
            assert evidence.near
    assert len(result.at_infinity) <= sum(run.status.at_infinity for run in limits)


def test_exact_fits_with_units_to_spare_are_found():
    """One sine fits; of two, loss 1e-33 used to be no critical point."""
    problem = sf.Problem(sf.MLP([1, 2, 1], "sin"), X, Y)
    result = sf.run_search(problem, starts=8, processes=1)
    fits = [run for run in result.runs if run.loss < 1e-28]
    assert fits
    assert all(run.status is sf.Status.CONVERGED for run in fits)


def test_what_makes_no_sense_is_refused_in_one_line():
    problem = sf.Problem(sf.MLP([1, 2, 1]), X, Y)
    single = sf.Problem(sf.MLP([1, 2, 1]), X, Y, dtype=torch.float32)
    for call, message in (
        (lambda: sf.run_search(single, 4), "needs float64"),
        (lambda: sf.run_search(None), "at least one"),
        (lambda: sf.run_search(problem, start=[1, 2]), "start must be a dict"),
        (lambda: sf.run_search(problem, starts=True), "starts must be"),
        (lambda: sf.run_search(problem, tolerance="1e-3"), "tolerance must be"),
        (lambda: sf.run_search(problem, 1, thread_count=0), "thread_count must be"),
        (lambda: sf.saddle_lines(3), "takes a run"),
    ):
        with pytest.raises(sf.InputError, match=message):
            call()
    learned = {k: v.requires_grad_() for k, v in problem.net.random_params(0).items()}
    assert len(sf.run_search(problem, start=learned, processes=1).runs) == 1


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), "a", None])
def test_a_scale_that_is_none_is_refused(scale):
    data = sf.load_data("diabetes")
    problem = sf.Problem(sf.MLP([10, 2, 1], "tanh"), data.X, data.y)
    limit = next(r.limit for r in sf.run_search(problem, 2, processes=1).runs if r.limit)
    with pytest.raises(sf.InputError, match="scale must be a positive number"):
        limit.approach(scale)


@pytest.mark.parametrize("lower", [True, False])
def test_a_run_above_a_limit_that_was_not_reached_says_first_that_it_is(lower):
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.5], [1.0]], [0.0, 0.0, 1.0])
    run = sf.run_search(problem, starts=1).runs[0]
    vector = problem.net.flatten(run.params)
    options = Options()
    left = Finished(0, sf.Status.MAX_ITERATIONS, "still going", 9, vector, run.loss, 1e-3)
    (reached,) = go_beyond([problem], [left], [None], options)
    assert reached is not None
    risk = reached.stop.risk
    reached.stop = replace(reached.stop, gradient_norm=1e-5, small=False, stuck=False)
    reached.why_not = "which is no critical point"
    left = replace(left, loss=risk + (1e-3 if lower else -1e-3))
    end = beyond_outcome(problem, left, reached, options)
    assert end.status is sf.Status.MAX_ITERATIONS
    words = f"runs to infinity, where a limiting network has loss {risk:.8g}, below this"
    assert end.evidence.startswith(words) is lower
    assert "still going" in end.evidence
    assert (end.limit is not None) is lower  # to go on from
    assert end.at_infinity is None


# -- connected sets of critical points --------------------------------------------------------------


@pytest.mark.parametrize(("loss", "activation"), [("logistic", "sigmoid"), ("squared", "tanh")])
def test_points_of_one_connected_set_are_one_point(loss, activation):
    """The plateau of XOR: pieces with other inertias, glued together where units do nothing."""
    corners = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    problem = sf.Problem(sf.MLP([2, 2, 1], activation), corners, [0.0, 1.0, 1.0, 0.0], loss=loss)
    result = sf.run_search(problem, starts=32, kind="any", max_iterations=300, processes=1)
    flat = [run for run in result.runs if run.status is sf.Status.CONVERGED and run.loss > 0.1]
    assert len({run.record.inertia for run in flat}) > 1
    (plateau,) = [point for point in result.points if point.loss > 0.1]
    assert result.frequencies[result.points.index(plateau)] == len(flat)
    zeros = [run.record.inertia[1] for run in flat]
    assert plateau.record.inertia[1] == min(zeros)  # on a piece, not where pieces meet
    assert all(run.loss < 0.1 for run in result.unresolved)
    assert plateau.trivial is not None
    assert plateau.trivial.startswith("constant")


def at(problem: sf.Problem, starts: list[sf.networks.Params]) -> sf.SearchResult:
    stacked = {key: torch.stack([start[key] for start in starts]) for key in starts[0]}
    return sf.run_search(problem, start=stacked, kind="any", processes=1)


def test_points_of_one_function_on_two_sets_are_not_joined():
    """v·gelu(w) = 1 has a branch with w > 0 and one with w < 0, and nothing between."""
    problem = sf.Problem(sf.MLP([1, 1, 1], "gelu", bias=False), [[1.0]], [1.0])
    gelu = torch.nn.functional.gelu
    weights = torch.tensor([0.8, 1.5, 3.0, -0.4, -1.5]).double()[:, None, None]
    result = at(problem, [{"0.weight": w, "2.weight": 1 / gelu(w)} for w in weights])
    assert result.counts[sf.Status.CONVERGED] == 5
    assert result.frequencies == [3]
    assert float(result.points[0].params["0.weight"]) > 0
    assert sorted(float(run.params["0.weight"]) for run in result.unresolved) == pytest.approx(
        [-1.5, -0.4]
    )
    assert result.why_unresolved.startswith("2 more runs ended at degenerate points")
    assert result.unseen.runs == 0  # how often each of the two was found is not known


def family(name: str) -> tuple[sf.Problem, list[sf.networks.Params]]:
    """Three members of a set of critical points, far apart."""
    bent = torch.tanh(1.5 * X - 0.4) + 0.1 * Y
    smooth = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, bent), starts=4)
    kinked = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "relu"), X, bent), starts=8)
    points: list[sf.Point]
    if name == "shares of copies":
        points = [sf.Replicate(0, 0, [s, 1 - s])(smooth) for s in (0.3, -0.5, 2.0)]
    elif name == "mirrored copies":
        points = [
            (sf.Replicate(0, 0, [0.3, 0.7]) >> sf.Reflect(0, 1))(smooth),
            sf.Replicate(0, 0, [1.5, -0.5])(smooth),
            (sf.Reflect(0, 0) >> sf.Replicate(0, 0, [0.6, 0.4]))(smooth),
        ]
    elif name == "null units":
        points = [sf.NullUnits(0, [bias])(smooth) for bias in (0.0, 0.7, -0.4)]
    elif name == "dead units":
        points = [sf.NullUnits(0, [-1.0])(kinked).materialize() for _ in range(3)]
        for point, weight in zip(points, (0.1, -0.3, 0.4), strict=True):
            point.params["0.weight"][-1] = weight
            point.params["2.weight"][:, -1] = 5 * weight
    else:
        assert name == "positive scales"
        points = [sf.Rescale(0, 0, scale)(kinked) for scale in (0.25, 1, 8)]
    return points[0].problem, [point.params for point in points]


@pytest.mark.parametrize(
    "name",
    ["shares of copies", "mirrored copies", "null units", "dead units", "positive scales"],
)
def test_members_of_a_flat_family_are_one_point(name):
    problem, starts = family(name)
    result = at(problem, starts)
    assert result.counts[sf.Status.CONVERGED] == 3, [run.record.evidence for run in result.runs]
    assert result.frequencies == [3]
    assert result.unresolved == []
    assert result.why_unresolved == ""
    assert result.unseen.runs == 3


def test_a_leg_off_the_critical_set_is_not_taken():
    """Idle is what a unit is, not what it looks like: a small outgoing weight may be needed."""
    small = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, Y + 1e-3 * torch.tanh(5 * X - 1))
    found = sf.find_critical_point(small, starts=8, processes=1)
    paths = _Paths(small, 100 * found.gradient_norm)
    vector = small.net.flatten(found.params)[None]
    assert torch.equal(paths.settle(vector), vector)
    near = vector + 1e-2
    assert paths.go(vector, near)[1].tolist() == [False]
