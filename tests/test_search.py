"""The search: it reaches critical points to rounding, and is not fooled where there is none."""

import math

import pytest
import safetensors.torch
import torch

import semiflat as sf
from semiflat.problem import ProblemBatch
from semiflat.search.methods import bounded_newton
from semiflat.symmetries.canonical import same_network

Status = sf.Status


@pytest.fixture(scope="module")
def diabetes() -> sf.Dataset:
    return sf.load_data("diabetes")


def on(dataset: sf.Dataset, hidden: int, activation: str) -> sf.Problem:
    net = sf.MLP([dataset.X.shape[1], hidden, dataset.outputs], activation)
    return sf.Problem(net, dataset.X, dataset.y, dataset.loss)


def test_gelu_on_diabetes_reaches_finite_minima(diabetes):
    """Each to 1e-10, with a positive definite Hessian by an independent derivative."""
    problem = on(diabetes, 2, "gelu")
    result = sf.run_search(problem, starts=12, seed=0)
    assert result.counts[Status.CONVERGED] >= 8
    assert sum(result.counts.values()) == 12
    for point in result.points[:4]:
        assert point.gradient_norm <= 1e-10
        vector = problem.net.flatten(point.params)
        dense = torch.func.hessian(lambda v: problem.risk(problem.net.unflatten(v)))(vector)
        assert torch.linalg.eigvalsh(dense)[0] > 0
        assert float(vector.norm()) < 1000


def curve(activation: str) -> sf.Problem:
    """What four tanh units and noise make, for two units to fit."""
    generator = torch.Generator().manual_seed(2)
    X = torch.randn((40, 1), generator=generator).double()
    teacher = sf.MLP([1, 4, 1], "tanh")
    y = teacher.forward(teacher.random_params(2, scale=1.5), X)
    noise = torch.randn((40, 1), generator=generator).double()
    return sf.Problem(sf.MLP([1, 2, 1], activation), X, y + 0.1 * noise)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_runs_are_not_called_converged(diabetes, activation):
    """Tiny gradient, weights in the hundreds, singular Hessian: a minimum at infinity."""
    result = sf.run_search(on(diabetes, 3, activation), starts=8, seed=0)
    largest = [max(float(t.abs().max()) for t in run.params.values()) for run in result.runs]
    fooling = [
        run
        for run, size in zip(result.runs, largest, strict=True)
        if run.gradient_norm <= 1e-10 and size > 200
    ]
    assert fooling, "the trap this test is about did not occur"
    for run in fooling:
        assert run.status in (Status.SATURATED, Status.CHANNEL, Status.DIVERGED)
        assert run.limit is not None or "infinity" in run.record.evidence
    assert sum(run.limit is not None for run in fooling) >= len(fooling) - 1
    for point in result.points:
        assert sf.judge(point).kind in (sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM)


def test_separable_classes_have_no_finite_minimum():
    """Below log 2 / N every sample is right, and scaling the last layer up goes on lowering it."""
    dataset = sf.load_data("wine")
    result = sf.run_search(on(dataset, 2, "gelu"), starts=6, seed=0)
    assert result.points == []
    assert result.counts[Status.DIVERGED] == 6
    assert all("separated" in run.record.evidence for run in result.runs)


def test_a_search_that_finds_nothing_says_how_its_runs_ended_and_what_to_do():
    X, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    separable = sf.Problem(sf.MLP([1, 1]), X, y, "logistic")
    slow = curve("gelu")
    for problem, arguments, counts, fix in (
        (separable, {}, "3 DIVERGED", "separate the classes.*weight_decay=.*--weight-decay"),
        (slow, {"max_iterations": 2}, "3 MAX_ITERATIONS", "allow more"),
    ):
        with pytest.warns(UserWarning, match=f"no run of 3 .*{counts}.*{fix}") as caught:
            assert sf.find_critical_points(problem, starts=3, processes=1, **arguments) == []
        assert [warning.filename for warning in caught] == [__file__]
        assert "\n" not in str(caught[0].message)
        # One point says it itself.
        assert sf.find_critical_point(problem, starts=3, processes=1, **arguments).note
    decayed = sf.Problem(separable.net, X, y, "logistic", weight_decay=1e-3)
    assert sf.run_search(decayed, starts=3).why_none == ""
    assert sf.find_critical_points(decayed, starts=3)


def test_a_point_keeps_what_its_search_knows_of_it(tmp_path):
    """In its note and repr, on one line; and in files, from which it is read as it was."""
    separable = sf.Problem(sf.MLP([1, 1]), [[-1.0], [1.0]], [0, 1], "logistic")
    running = sf.Problem(sf.MLP([1, 1, 1], "tanh"), [[-1.0], [0.5], [1.0]], [0.0, 0.0, 1.0])
    cases = {
        "DIVERGED: the data are separated": sf.run_search(separable, starts=1).runs,
        "its limit there has loss ": sf.run_search(running, starts=1).runs,
        "MAX_ITERATIONS: gradient": sf.run_search(curve("gelu"), starts=1, max_iterations=2).runs,
    }
    for known, (run,) in cases.items():
        assert known in run.note
        assert repr(run).count("\n") == run.note.count("\n") == 0
        assert f"status={run.status}: " in repr(run)
        sf.save_point(run, tmp_path / "p.safetensors")
        stored = sf.load_point(tmp_path / "p.safetensors")
        assert stored.point(run.problem.X, run.problem.y).note == run.note
        if run.problem.net.hidden:
            assert sf.Replicate(0, 0, [0.3, 0.7])(run).note == run.note
    found = sf.find_critical_point(curve("gelu"), starts=4)
    assert found.note == ""
    assert repr(found).endswith("status=CONVERGED)")


def test_a_note_is_a_line_of_text_whatever_a_file_says(tmp_path):
    problem = curve("gelu")
    params = problem.net.random_params(0)
    assert sf.Point(problem, params).note == ""
    hostile = sf.Point(problem, params, note="up\n\x1b[2J" + " and on" * 10**4)
    assert hostile.note.isprintable()
    assert len(hostile.note) <= 400
    path = tmp_path / "p.safetensors"
    sf.save_point(hostile, path)
    with safetensors.safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    note = metadata.pop("note")
    assert note == hostile.note
    safetensors.torch.save_file(tensors, path, metadata)  # as earlier versions wrote it
    assert sf.load_point(path).note == ""
    safetensors.torch.save_file(tensors, path, metadata | {"note": "\n\x1b" * 10**5})
    assert sf.load_point(path).note == ""


def test_degenerate_points_with_small_parameters_do_not_run_to_infinity():
    """kind="any" on iris ends at the constant predictor, where nothing is large."""
    result = sf.run_search(
        on(sf.load_data("iris"), 2, "gelu"), starts=8, kind="any", max_iterations=100
    )
    small = [
        run
        for run in result.runs
        if run.gradient_norm < 1e-10 and max(float(t.abs().max()) for t in run.params.values()) < 5
    ]
    assert small
    assert all(run.status is not Status.DIVERGED for run in small)


def test_noisy_classes_do_have_one():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn((60, 2), generator=generator).double()
    labels = torch.randint(0, 2, (60,), generator=generator)
    net = sf.MLP([2, 1, 2], "gelu")
    points = sf.find_critical_points(sf.Problem(net, X, labels, "cross_entropy"), starts=16, seed=0)
    assert points
    assert sf.judge(points[0]).kind is sf.Kind.MINIMUM  # the shift softmax ignores
    logistic = sf.Problem(sf.MLP([2, 1, 1], "gelu"), X, labels, "logistic")
    points = sf.find_critical_points(logistic, starts=16, seed=0)
    assert points
    assert sf.judge(points[0]).kind is sf.Kind.STRICT_MINIMUM


def test_kind_any_finds_saddles_too():
    problem = curve("tanh")
    points = sf.find_critical_points(problem, starts=60, seed=0, kind="any")
    kinds = {sf.judge(point).kind for point in points}
    assert sf.Kind.STRICT_SADDLE in kinds
    assert all(point.gradient_norm <= 1e-10 for point in points)


def test_points_are_distinct_modulo_symmetry():
    problem = curve("tanh")
    result = sf.run_search(problem, starts=40, seed=0)
    converged = [run for run in result.runs if run.status is Status.CONVERGED]
    assert len(converged) > len(result.points) >= 1
    losses = [point.loss for point in result.points]
    assert losses == sorted(losses)
    for k, one in enumerate(result.points):
        for other in result.points[k + 1 :]:
            assert not same_network(problem.net, one.params, other.params)
    for run in converged:
        assert any(abs(run.loss - loss) <= 1e-8 * abs(loss) for loss in losses)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu", "gelu"])
def test_same_network_sees_through_its_symmetries(activation):
    net = sf.MLP([2, 3, 4, 2], activation)
    params = net.random_params(0)
    twin = {key: tensor.clone() for key, tensor in params.items()}
    order = torch.tensor([2, 0, 1])
    twin["0.weight"], twin["0.bias"] = twin["0.weight"][order], twin["0.bias"][order]
    twin["2.weight"] = twin["2.weight"][:, order]
    if activation in ("tanh", "sigmoid"):
        c = 1.0 if activation == "sigmoid" else 0.0
        twin["4.bias"] = twin["4.bias"] + c * twin["4.weight"][:, 1]
        for key in ("2.weight", "2.bias"):
            twin[key][1] *= -1
        twin["4.weight"][:, 1] *= -1
    if activation == "relu":
        twin["2.weight"][3] *= 2.5
        twin["2.bias"][3] *= 2.5
        twin["4.weight"][:, 3] /= 2.5
    x = torch.randn((9, 2), generator=torch.Generator().manual_seed(0)).double()
    assert torch.allclose(net.forward(params, x), net.forward(twin, x), atol=1e-12)
    assert same_network(net, params, twin)
    other = {**twin, "4.bias": twin["4.bias"] + 0.01}
    assert not same_network(net, params, other)


def test_a_given_start_is_polished():
    problem = curve("gelu")
    found = sf.find_critical_points(problem, starts=20, seed=0)[0]
    rough = {key: tensor.float() for key, tensor in found.params.items()}  # lost half its digits
    polished = sf.find_critical_point(problem, start=rough)
    assert polished.status is Status.CONVERGED
    assert abs(polished.loss - found.loss) < 1e-12
    assert polished.gradient_norm <= 1e-10 < sf.Point(problem, rough).gradient_norm


def test_the_same_seed_gives_the_same_points_and_start_k_does_not_depend_on_their_number():
    problem = curve("gelu")
    one = sf.run_search(problem, starts=6, seed=5)
    two = sf.run_search(problem, starts=6, seed=5)
    assert [p.loss for p in one.points] == [p.loss for p in two.points]
    few, many = (problem.net.random_params(5, (n,)) for n in (3, 9))
    assert all(torch.equal(few[key], many[key][:3]) for key in few)


def test_a_run_out_of_iterations_says_so():
    problem = curve("gelu")
    result = sf.run_search(problem, starts=5, max_iterations=2)
    assert result.counts[Status.MAX_ITERATIONS] == 5
    assert result.points == []
    assert sf.find_critical_point(problem, starts=5, max_iterations=2).status is (
        Status.MAX_ITERATIONS
    )


def test_starts_that_are_not_finite_are_counted():
    problem = sf.Problem(sf.MLP([1, 1, 1], lambda z: torch.exp(z**2 * 50)), [[5.0]], [1.0])
    result = sf.run_search(problem, starts=4)
    assert result.counts[Status.NON_FINITE] == 4 - len(result.runs)
    assert result.counts[Status.NON_FINITE] >= 1


def test_unusable_arguments_are_refused():
    problem = sf.Problem(sf.MLP([1, 1, 1]), [[5.0]], [1.0])
    for arguments, message in (
        ({"kind": "minimun"}, "did you mean 'minimum'"),
        ({"starts": 0}, "starts must be"),
        ({"seed": -1}, "seed must be"),
        ({"max_iterations": 0}, "max_iterations must be"),
        ({"tolerance": 0.0}, "tolerance must be positive"),
    ):
        with pytest.raises(sf.InputError, match=message):
            sf.run_search(problem, **arguments)


def test_bounded_newton_solves_the_trust_region_problem():
    """Against a fine search over the multiplier, indefinite and hard cases included."""
    generator = torch.Generator().manual_seed(0)
    for case in range(200):
        size = 1 + case % 5
        values = torch.randn(size, generator=generator).double().sort().values
        slope = torch.randn(size, generator=generator).double()
        if case % 7 == 0:
            slope[0] = 0.0  # the hard case
        radius = torch.rand(1, generator=generator).double() + 0.05
        found = bounded_newton(values[None], slope[None], radius)[0]
        assert found.norm() <= 1.02 * radius
        model = float(slope @ found + (values * found.square()).sum() / 2)
        tries = torch.randn((4000, size), generator=generator).double()
        tries = radius * tries / tries.norm(dim=1, keepdim=True)
        tries = torch.cat([tries, tries * torch.rand((4000, 1), generator=generator).double()])
        best = float((tries @ slope + (values * tries.square()).sum(1) / 2).min())
        assert model <= best + 0.03 * abs(best) + 1e-12


def test_a_batch_counts_samples_and_not_data_sets():
    """Below log 2 in all, separated classes have no finite critical point."""
    X, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    problem = sf.Problem(sf.MLP([1, 1]), X, y, "logistic")
    assert problem.no_critical_point_below == pytest.approx(math.log(2) / 4)
    batch = ProblemBatch([problem, problem])
    assert batch.no_critical_point_below == pytest.approx(math.log(2) / 4)


def test_data_sets_searched_together_end_as_they_do_apart():
    """Losses below log 2 over the number of data *sets* are no reason to stop."""
    X = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
    problems = []
    for wrong in ([14, 15], [13, 16]):  # so that no line separates the classes
        y = (X > 0).double()
        y[wrong] = 1 - y[wrong]
        problems.append(sf.Problem(sf.MLP([1, 1]), X, y, "logistic"))
    together = sf.run_search(problems, starts=1)
    for run in together.runs:
        assert run.status is Status.CONVERGED
        assert run.loss < math.log(2) / 2


def test_the_loss_of_a_user_may_be_below_zero():
    problem = sf.Problem(
        sf.MLP([1, 1]), [[-1.0], [2.0]], [0.0, 0.0], lambda f, y: f[0].square() - 5
    )
    found = sf.find_critical_point(problem, starts=2)
    assert found.status is Status.CONVERGED
    assert found.loss == pytest.approx(-5)
