"""The search on problems whose critical points are known (tests/known.py): it finds them and no others."""

from itertools import pairwise

import pytest
import torch

import known
import semiflat as sf
from reference import Reference
from semiflat.symmetries.canonical import same_network

Status, Kind = sf.Status, sf.Kind

# -- linear networks: every critical point in closed form -------------------------------------------

LINEAR = {
    "3-2-3": known.linear(3, 2, bias=False),
    "3-1-3": known.linear(3, 1, bias=False),
    "3-2-3 with biases": known.linear(3, 2, bias=True),
    "2-2-2 whitened": known.linear(2, 2, bias=False, whitened=True),
    "2-3-2": known.linear(2, 3, bias=False),
    "3-1-3 with biases, whitened": known.linear(3, 1, bias=True, whitened=True),
}
linear_cases = pytest.mark.parametrize("case", LINEAR.values(), ids=LINEAR)


def linear_problem(case: known.Linear) -> sf.Problem:
    size = case.X.shape[1]
    return sf.Problem(sf.MLP([size, case.hidden, size], "identity", case.bias), case.X, case.y)


def nearest(case: known.Linear, loss: float) -> known.LinearCritical:
    """The critical points with that loss to 1e-9; no two have the same."""
    critical = case.critical()
    losses = [point.loss for point in critical]
    assert min(b - a for a, b in pairwise(losses)) > 1e-3
    point = min(critical, key=lambda point: abs(point.loss - loss))
    assert abs(point.loss - loss) <= 1e-9
    return point


def inertia_at(
    problem: sf.Problem, params: dict[str, torch.Tensor], floor: float = 1e-9
) -> tuple[int, int, int]:
    reference = Reference(problem.net.activations[0].name, params, problem.X, problem.y, "squared")
    return known.hessian_inertia(reference.risk, reference.vector, floor)


@linear_cases
def test_linear_networks_have_the_critical_points_of_the_theory(case):
    """Built from the eigenvectors of every S and a random mixing; loss and inertia by autograd."""
    critical = case.critical()
    losses = [point.loss for point in critical]
    assert [point.negative for point in critical if point.loss == min(losses)] == [0]
    for seed, point in enumerate(critical):
        params = case.point(point.subset, seed)
        reference = Reference("identity", params, case.X, case.y, "squared")
        assert reference.gradient().abs().max() < 1e-12
        assert abs(reference.value() - point.loss) < 1e-12
        inertia = known.hessian_inertia(reference.risk, reference.vector)
        assert inertia == (point.positive, point.zero, point.negative)


@linear_cases
def test_verdicts_on_linear_networks_are_those_of_the_theory(case):
    """No local minima but the global ones: all other critical points are strict saddles."""
    problem = linear_problem(case)
    for seed, point in enumerate(case.critical()):
        verdict = sf.judge(sf.Point(problem, case.point(point.subset, seed)))
        assert verdict.inertia == (point.positive, point.zero, point.negative)
        assert verdict.kind is (Kind.STRICT_SADDLE if point.negative else Kind.MINIMUM)


@linear_cases
def test_descent_in_linear_networks_ends_at_the_global_minimum(case):
    lowest = case.critical()[0]
    result = sf.run_search(linear_problem(case), starts=20, seed=0, processes=1)
    for run in result.runs:
        assert run.status is Status.CONVERGED, run.record.evidence
        assert abs(run.loss - lowest.loss) <= 1e-9
        assert sf.judge(run).kind is Kind.MINIMUM
        assert sf.judge(run).inertia == (lowest.positive, lowest.zero, 0)


@linear_cases
def test_search_of_any_kind_in_linear_networks_ends_at_known_points_of_known_index(case):
    problem = linear_problem(case)
    result = sf.run_search(problem, starts=60, seed=0, kind="any", processes=1)
    indices = set()
    for run in result.runs:
        assert run.gradient_norm <= 1e-12 * max(1, run.loss) ** 0.5
        point = nearest(case, run.loss)
        assert inertia_at(problem, run.params) == (point.positive, point.zero, point.negative)
        indices.add(point.negative)
    assert max(indices) > 0
    assert len(indices) >= 2


@linear_cases
def test_saddles_of_linear_networks_whose_zeros_are_their_orbit_are_converged_at(case):
    """The kernel is the tangent space of GL(p)'s orbit, at S of every size: nothing is unexplained."""
    result = sf.run_search(linear_problem(case), starts=20, seed=0, kind="any", processes=1)
    ends = [
        (nearest(case, run.loss).subset, run.status, run.record.evidence) for run in result.runs
    ]
    assert [end for end in ends if end[1] is not Status.CONVERGED] == []


def test_a_nondegenerate_saddle_is_converged_at():
    """½mean(w₂w₁x − y)² at 0: eigenvalues ± mean xy, and no zero."""
    problem = sf.Problem(sf.MLP([1, 1, 1], "identity", bias=False), [[1.0], [-1.0]], [1.0, -0.5])
    start = {"0.weight": torch.tensor([[0.2]]), "2.weight": torch.tensor([[-0.1]])}
    (run,) = sf.run_search(problem, start=start, kind="any").runs
    assert problem.net.flatten(run.params).abs().max() < 1e-9
    assert inertia_at(problem, run.params) == (1, 0, 1)
    assert run.status is Status.CONVERGED, run.record.evidence


# -- one unit: every critical point in a box, on a grid ---------------------------------------------

ONE_UNIT = known.one_units()
one_unit_cases = pytest.mark.parametrize("case", ONE_UNIT.values(), ids=ONE_UNIT)


def one_unit_problem(case: known.OneUnit) -> sf.Problem:
    return sf.Problem(sf.MLP([1, 1, 1], case.activation), case.x[:, None], case.y)


def incoming(case: known.OneUnit, run: sf.CriticalPoint) -> torch.Tensor:
    """(w, b) of a run; w > 0 where its sign is a symmetry."""
    u = torch.cat([run.params["0.weight"][0], run.params["0.bias"]])
    return -u if len(case.halves()) == 1 and u[0] < 0 else u


def place(points: list[torch.Tensor], u: torch.Tensor) -> int | None:
    """Which of the points it is."""
    near = [k for k, point in enumerate(points) if (point - u).abs().max() < 1e-6]
    return near[0] if near else None


def is_constant(case: known.OneUnit, run: sf.CriticalPoint) -> bool:
    """Whether the output is the mean target, which is critical along curves of (w, b)."""
    outputs = run.problem.net.forward(run.params, run.problem.X)
    return bool((outputs - case.y.mean()).abs().max() < 1e-6)


def in_box(u: torch.Tensor) -> bool:
    return float(u[0].abs()) >= known.STRIP and float(u.abs().max()) <= known.BOX


@one_unit_cases
def test_the_grid_has_all_critical_points_of_one_unit(case):
    """Poincaré–Hopf: the signs of the zeros of g add up to the turns of g round the box."""
    for left, right in case.halves():
        inside = [u for u in case.critical if left <= u[0] <= right]
        signs = [torch.linalg.det(torch.func.jacfwd(case.field)(u)).sign() for u in inside]
        assert abs(case.turns((left, right)) - float(sum(signs))) < 1e-6
    for u in case.critical:
        params = case.params(u)
        reference = Reference(case.activation, params, case.x[:, None], case.y[:, None], "squared")
        assert reference.gradient().abs().max() < 1e-11
        inertia = known.hessian_inertia(reference.risk, reference.vector, 1e-10)
        assert inertia == (4 - case.index(u), 0, case.index(u))


@one_unit_cases
def test_descent_finds_every_minimum_of_one_unit_and_nothing_else(case):
    """In the box and away from its strip where the unit turns linear."""
    points = case.critical
    minima = {k for k, u in enumerate(points) if case.index(u) == 0}
    result = sf.run_search(one_unit_problem(case), starts=128, seed=0, processes=1)
    found = set()
    for run in result.runs:
        u = incoming(case, run)
        if run.status is Status.CONVERGED and in_box(u):
            k = place(points, u)
            assert k in minima, f"a minimum at {u.tolist()} of loss {run.loss}"
            assert abs(run.loss - float(case.risk(points[k]))) <= 1e-12
            found.add(k)
    assert found == minima


@one_unit_cases
def test_search_of_any_kind_with_one_unit_converges_at_known_points(case):
    points = case.critical
    result = sf.run_search(
        one_unit_problem(case), starts=48, seed=0, kind="any", max_iterations=200, processes=1
    )
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    assert converged
    for run in converged:
        if is_constant(case, run):
            assert abs(run.loss - known.constant(case.y)) <= 1e-9
        elif in_box(incoming(case, run)):
            assert place(points, incoming(case, run)) is not None


def test_search_of_any_kind_finds_the_saddle_of_one_sigmoid_unit():
    case = ONE_UNIT["sigmoid"]
    points = case.critical
    result = sf.run_search(
        one_unit_problem(case), starts=40, seed=0, kind="any", max_iterations=200, processes=1
    )
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    found = {place(points, incoming(case, run)) for run in converged} - {None}
    assert {case.index(points[k]) for k in found} == {0, 1}


@one_unit_cases
def test_search_of_any_kind_stays_at_every_critical_point_it_starts_near(case):
    """Minima, saddles and points of index 2 alike: with one unit v and c are always minimised over."""
    points = case.critical
    problem = one_unit_problem(case)
    generator = torch.Generator().manual_seed(0)
    starts = [
        problem.net.flatten(case.params(u))
        + 1e-4 * torch.randn(4, generator=generator, dtype=torch.float64)
        for u in points
    ]
    start = problem.net.unflatten(torch.stack(starts))
    result = sf.run_search(problem, start=start, kind="any", max_iterations=200, processes=1)
    for k, (u, run) in enumerate(zip(points, result.runs, strict=True)):
        assert run.status is Status.CONVERGED, (u.tolist(), case.index(u), run.record.evidence)
        assert place(points, incoming(case, run)) == k
        assert sf.judge(run).inertia == (4 - case.index(u), 0, case.index(u))


# -- a teacher, and more parameters than samples ----------------------------------------------------


def teacher(seed: int) -> tuple[sf.Problem, dict[str, torch.Tensor]]:
    """What two tanh units make, without noise, for two to fit; and the two."""
    generator = torch.Generator().manual_seed(seed)
    net = sf.MLP([2, 2, 1], "tanh")
    X = torch.randn((60, 2), generator=generator, dtype=torch.float64)
    params = net.random_params(seed, scale=1.5)
    return sf.Problem(net, X, net.forward(params, X)), params


@pytest.mark.parametrize("seed", [0, 2])
def test_runs_without_loss_have_found_the_teacher(seed):
    problem, params = teacher(seed)
    result = sf.run_search(problem, starts=16, seed=0, processes=1)
    solved = [run for run in result.runs if run.loss < 1e-20]
    assert len(solved) >= 4
    for run in solved:
        assert run.status is Status.CONVERGED
        assert same_network(problem.net, params, run.params, tolerance=1e-8)
        assert sf.judge(run).kind is Kind.STRICT_MINIMUM
    assert sum(point.loss < 1e-20 for point in result.points) == 1


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_exact_fits_with_parameters_to_spare_are_flat_minima(activation):
    """N = 5 samples, 17 parameters: a manifold of dimension 12 of exact fits, never strict."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn((5, 2), generator=generator, dtype=torch.float64)
    y = torch.randn(5, generator=generator, dtype=torch.float64)
    problem = sf.Problem(sf.MLP([2, 4, 1], activation), X, y)
    result = sf.run_search(problem, starts=16, seed=0, processes=1)
    fits = [run for run in result.runs if run.loss < 1e-20]
    assert len(fits) >= 8
    for run in fits:
        verdict = sf.judge(run)
        assert verdict.kind in (Kind.MINIMUM, Kind.UNDECIDED)
        assert verdict.kind is Kind.MINIMUM or verdict.reason
        assert "flat direction" in run.record.evidence
        if run.status is Status.CONVERGED:
            assert verdict.inertia == (5, 12, 0)
            assert "12 flat direction" in run.record.evidence


# -- targets that are all equal ---------------------------------------------------------------------

FLAT = {
    "tanh": sf.MLP([2, 2, 1], "tanh"),
    "gelu": sf.MLP([2, 1, 1], "gelu"),
    "sigmoid": sf.MLP([2, 2, 1], "sigmoid"),
    "softplus": sf.MLP([1, 3, 2], "softplus"),
    "relu": sf.MLP([2, 2, 1], "relu"),
    "identity": sf.MLP([2, 2, 1], "identity"),
    "no hidden layer": sf.MLP([2, 1]),
}


def equal_targets(net: sf.MLP, value: float) -> sf.Problem:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn((12, net.inputs), generator=generator, dtype=torch.float64)
    return sf.Problem(net, X, torch.full((12, net.outputs), value, dtype=torch.float64))


# In the compiled engine one start of gelu's fits exactly far out, and is called a run to infinity.
@pytest.mark.parametrize(("engine", "far"), [("torch", 0), ("auto", 1)])
@pytest.mark.parametrize("value", [0.0, 3.0])
@pytest.mark.parametrize("net", FLAT.values(), ids=FLAT)
def test_equal_targets_are_fitted_by_the_constant(net, value, engine, far):
    """Loss 0 at finite parameters: a minimum, or undecided, and nothing that runs to infinity."""
    result = sf.run_search(equal_targets(net, value), starts=12, seed=0, processes=1, engine=engine)
    assert len(result.runs) == 12
    for run in result.runs:
        assert run.loss < 1e-20
        assert sf.judge(run).kind not in (Kind.STRICT_SADDLE, Kind.NOT_CRITICAL)
        assert run.record.evidence
    ends = [run.status for run in result.runs]
    assert ends.count(Status.DIVERGED) <= far
    assert set(ends) <= {Status.CONVERGED, Status.STALLED, Status.DIVERGED}


@pytest.mark.parametrize("net", FLAT.values(), ids=FLAT)
def test_equal_targets_are_no_trouble_to_a_search_of_any_kind(net):
    result = sf.run_search(
        equal_targets(net, 3.0), starts=6, seed=0, kind="any", max_iterations=100, processes=1
    )
    for run in result.runs:
        if run.status in (Status.CONVERGED, Status.STALLED) and run.gradient_norm <= 1e-12:
            assert run.loss < 1e-8
        assert run.status not in (Status.CHANNEL, Status.SATURATED, Status.DIVERGED)


# -- the same again ---------------------------------------------------------------------------------


def same_ends(one: list[sf.CriticalPoint], other: list[sf.CriticalPoint]) -> None:
    assert [run.status for run in one] == [run.status for run in other]
    assert [run.record.start for run in one] == [run.record.start for run in other]
    for a, b in zip(one, other, strict=True):
        assert abs(a.loss - b.loss) <= 1e-9, (a, b)


@pytest.mark.parametrize("kind", ["minimum", "any"])
def test_the_same_seed_gives_the_same_runs_to_the_bit(kind):
    problem = teacher(1)[0]
    one, two = (
        sf.run_search(problem, starts=10, seed=3, kind=kind, max_iterations=150).runs
        for _ in range(2)
    )
    same_ends(one, two)
    for a, b in zip(one, two, strict=True):
        assert all(torch.equal(a.params[key], b.params[key]) for key in a.params)
        assert a.record.evidence == b.record.evidence
    different = sf.run_search(problem, starts=10, seed=4, kind=kind, max_iterations=150).runs
    assert [run.loss for run in different] != [run.loss for run in one]


def rosenbrock() -> sf.Problem:
    """log-Rosenbrock, where most runs of 2-4-1 tanh end in channels."""
    generator = torch.Generator().manual_seed(0)
    X = torch.rand((200, 2), generator=generator).double() * 4 - 2
    y = torch.log(1 + (1 - X[:, 0]) ** 2 + 100 * (X[:, 1] - X[:, 0] ** 2) ** 2)
    return sf.Problem(sf.MLP([2, 4, 1], "tanh"), X, y)


REPEATED = {
    "one block and two": (lambda: one_unit_problem(ONE_UNIT["gelu 12"]), 40),
    "with runs to infinity": (lambda: one_unit_problem(ONE_UNIT["softplus"]), 20),
    "with channels and runs that diverge": (lambda: teacher(1)[0], 8),
}


@pytest.mark.parametrize(("build", "starts"), REPEATED.values(), ids=REPEATED)
def test_more_starts_leave_the_first_ones_as_they_were(build, starts):
    problem = build()
    few = sf.run_search(problem, starts=starts, seed=0, processes=1)
    many = sf.run_search(problem, starts=2 * starts, seed=0, processes=1)
    assert len({round(run.loss, 6) for run in few.runs}) > 1
    same_ends(few.runs, many.runs[:starts])


def test_the_number_of_processes_changes_nothing():
    """130 starts are three blocks."""
    problem = one_unit_problem(ONE_UNIT["gelu 12"])
    one, two = (sf.run_search(problem, starts=130, seed=1, processes=n) for n in (1, 2))
    same_ends(one.runs, two.runs)
    for a, b in zip(one.runs, two.runs, strict=True):
        assert all(torch.equal(a.params[key], b.params[key]) for key in a.params)
    assert [point.loss for point in one.points] == [point.loss for point in two.points]


def test_data_sets_of_different_size_are_not_searched_together():
    net = sf.MLP([2, 2, 1], "tanh")
    X, y = torch.zeros((7, 2)), torch.zeros(7)
    problems = [sf.Problem(net, X, y), sf.Problem(net, X[:5], y[:5])]
    with pytest.raises(sf.InputError, match=r"\(7, 2\).*problem 1 has \(5, 2\)"):
        sf.run_search(problems, starts=2)
