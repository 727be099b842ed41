"""K19's experiments, and the slips in its text that docs/papers-k19.md names."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn import functional

import semiflat as sf
from semiflat.limits import Form, Limit, LimitMLP
from semiflat_experiments import experiment
from semiflat_experiments.experiment import qualified
from semiflat_experiments.k19.censuses import CRITICAL, RESIDUAL, Residual
from semiflat_experiments.k19.digits import (
    Limiting,
    knows,
    mean_loss,
    network,
    reduced,
    rescaled,
    train,
    whole,
)
from semiflat_experiments.k19.gap import all_but_unheard, equal
from semiflat_experiments.k19.points import (
    EVEN,
    LINEAR,
    bias_only,
    flat_null_unit,
    linear_at_zero,
    minima,
    share_of_zero,
)
from semiflat_experiments.k19.refutation import (
    MINIMA,
    SADDLES,
    contradicts,
    degenerate,
    power_of_fall,
)


def failed(name, settings, records):
    """The claims that do not hold of these records."""
    return [
        each.claim for each in experiment(name).outcome(settings, records).checks if not each.holds
    ]


@pytest.mark.parametrize("name", ["k19-gap", "k19-refutation"])
def test_every_check_of_a_quick_run_holds_and_no_run_is_lost(name, ran):
    found, records = ran(name)
    assert [check.claim for check in found.outcome.checks if not check.holds] == []
    assert len(records) == len(experiment(name).tasks(found.settings))
    kept = len(qualified(records))
    assert found.outcome.rows[-1].measured == f"{kept} of {len(records)}"
    assert all(record["dropped"] for record in records if "dropped" in record)
    assert len(json.dumps(found.outcome.data, allow_nan=False)) < 60_000
    assert found.png[:4] == b"\x89PNG"


@pytest.mark.parametrize("name", ["k19-gap", "k19-refutation"])
def test_nothing_run_fails_the_checks_and_draws(name):
    from semiflat_experiments.figure import render

    settings = experiment(name).settings(True)
    dropped = [{**task, "dropped": "no luck"} for task in experiment(name).tasks(settings)]
    assert len(failed(name, settings, dropped)) >= 4
    assert render(experiment(name), settings, dropped)[:4] == b"\x89PNG"


# -- k19-gap -----------------------------------------------------------------------------------------


def test_theorem_1_in_the_records(ran):
    found, records = ran("k19-gap")
    critical = [each for each in qualified(records) if each["arm"] == "critical"]
    points = [point for each in critical for point in each["points"]]
    assert {"minimum", "saddle"} <= {point["kind"] for point in points}
    for point in points:
        assert point["gap"] <= 10 * point["noise"] + 1e-12 * point["loss"]
        assert point["loss"] - point["gap"] > 1e-3
    for each in critical:
        assert all(point["gap"] > 1e-3 * point["loss"] for point in each["off"])
        assert all(point["gap"] > 10 * point["noise"] for point in each["unheard"])
    assert found.outcome.data["equal"]["minimum"]["points"] == sum(
        point["kind"] == "minimum" for point in points
    )


def test_the_gap_in_training(ran):
    _, records = ran("k19-gap")
    (training,) = [each for each in records if each["arm"] == "training"]
    way = training["way"]
    assert [seen["iteration"] for seen in way] == [0, 1, 3, 10, 32, 100]
    assert way[-1]["gap"] < way[0]["gap"]
    for seen in way:
        assert seen["noise"] < 1e-10 < seen["gap"] <= seen["loss"]
        assert seen["twin"]["gap"] == pytest.approx(seen["gap"], rel=1e-9)
        assert seen["twin"]["gradient"] > 2 * seen["gradient"]
    (ended,) = [each for each in records if each["arm"] == "ended"]
    assert equal(ended["steps"][-1])
    assert not equal(ended["way"][-1])


def test_the_checks_of_the_gap_can_fail(ran):
    found, records = ran("k19-gap")

    def spoilt(change):
        copied = copy.deepcopy(records)
        change(copied)
        return failed("k19-gap", found.settings, copied)

    def gap_at_a_minimum(copied):
        copied[0]["points"][0]["gap"] = 1e-6

    def training_to_no_avail(copied):
        copied[3]["way"][-1]["gap"] = 2 * copied[3]["way"][0]["gap"]

    def twin_with_another_gap(copied):
        copied[3]["way"][0]["twin"]["gap"] *= 1.01

    def linear_in_the_gradient(copied):
        for seen in (*copied[4]["way"], *copied[4]["steps"]):
            seen["gap"], seen["noise"] = seen["gradient"], 0.0001 * seen["gradient"]

    def unheard_and_critical(copied):
        copied[0]["unheard"][0]["gap"] = 0.0

    for change, claim in (
        (gap_at_a_minimum, "Theorem 1"),
        (training_to_no_avail, "in training"),
        (twin_with_another_gap, "rescaling units"),
        (linear_in_the_gradient, "towards a critical point"),
        (unheard_and_critical, "a small gradient"),
    ):
        assert any(each.startswith(claim) for each in spoilt(change)), claim


def test_reduced_digits_are_whitened_and_differ_by_seed():
    one, other = (reduced((4, 2, 3), "tanh", "squared", 500, seed) for seed in (0, 1))
    assert one.y.sum(1).eq(1).all()
    torch.testing.assert_close(one.X.std(0), torch.ones(4).double(), rtol=0, atol=0.1)
    assert not torch.equal(one.X, other.X)
    assert reduced((2, 2, 3), "gelu", "cross_entropy", 50, 0).y.max() == 2


def test_training_and_rescaling_are_what_they_say():
    X, classes = whole(40, 0)
    y = functional.one_hot(classes, 10).double()
    module = network((61, 5, 10), nn.ReLU, 0)
    before = [parameter.detach().clone() for parameter in module.parameters()]
    loss = mean_loss(module, X, y, "squared")
    mean = functional.mse_loss(module(X), y)
    assert loss.item() == pytest.approx(5 * mean.item())
    gradients = torch.autograd.grad(loss, list(module.parameters()))
    seen = list(train(module, X, y, "squared", "gradient descent", 0.1, [0, 1]))
    assert seen == [0, 1]
    twin = rescaled(module, torch.tensor([1, 10, 0.1, 2, 5.0]).double())
    torch.testing.assert_close(twin(X), module(X))
    ours, theirs = twin[0].get_parameter("weight"), module[0].get_parameter("weight")
    assert (ours - theirs).detach().abs().max() > 0.1
    fresh = network((61, 5, 10), nn.ReLU, 0)
    next(iterator := train(fresh, X, y, "squared", "gradient descent", 0.1, [0, 1]))
    next(iterator)
    for parameter, old, slope in zip(fresh.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.detach(), old - 0.1 * slope)


@pytest.mark.parametrize("activation", ["tanh", "gelu"])
def test_a_limiting_network_is_written_out_as_the_library_has_it(activation):
    X = torch.randn((30, 2), generator=torch.Generator().manual_seed(0)).double()
    problem = sf.Problem(sf.MLP([2, 4, 2, 1], activation), X, X[:, 0] * X[:, 1])
    forms = [[Form.UNIT, Form.GATE, Form.UNIT, Form.LINEAR], [Form.UNIT, Form.UNIT]]
    limit = Limit(problem, LimitMLP(problem.net, forms), problem.net.random_params(0))
    module = Limiting(limit)
    assert knows(limit)
    assert float(mean_loss(module, X, problem.y, "squared").detach()) == pytest.approx(limit.loss)
    parts = torch.autograd.grad(
        mean_loss(module, X, problem.y, "squared"), list(module.parameters())
    )
    slope = torch.cat([part.reshape(-1) for part in parts])
    torch.testing.assert_close(slope, limit.gradient, rtol=1e-9, atol=1e-12)


def test_the_gap_is_no_continuous_function_of_the_parameters():
    X = torch.linspace(-2, 2, 30).double()[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 2], "gelu"), X, torch.cat([X**2, torch.sin(2 * X)], 1))
    minimum = sf.find_critical_point(problem, starts=8, seed=0)
    never = sf.NullUnits(0, [0.5])(minimum).materialize()
    nearly = all_but_unheard(minimum, 0)
    assert sf.gradient_basis_gap(never) < 1e-20
    model = sf.gradient_basis_model(nearly)
    assert nearly.gradient_norm < 1e-7
    assert model.gap > 1e-4 > 1000 * model.noise


def test_along_a_channel_the_gap_ends_above_zero_and_in_the_limit_it_is_zero():
    problem = reduced((2, 2, 3), "gelu", "cross_entropy", 150, 2)
    runs = sf.run_search(problem, starts=8, seed=0, processes=1).runs
    limit = next(run.limit for run in runs if run.limit is not None)
    assert knows(limit)
    here = sf.gradient_basis_model(Limiting(limit), problem.X, problem.y, "cross_entropy")
    assert here.gap <= 10 * here.noise < 1e-11
    far = [limit.approach(t) for t in (30.0, 100.0, 300.0)]
    models = [sf.gradient_basis_model(point) for point in far]
    assert far[-1].loss - limit.loss < 1e-6
    assert far[-1].gradient_norm < far[0].gradient_norm / 5
    assert all(model.rank == here.rank + 1 for model in models)
    assert models[-1].gap == pytest.approx(models[0].gap, rel=0.1)
    assert models[0].gap > 1000 * models[0].noise


# -- k19-refutation ----------------------------------------------------------------------------------


def test_theorem_2_in_the_records(ran):
    _, records = ran("k19-refutation")
    of = {each["arm"]: each["points"] for each in records}
    for arm in SADDLES:
        for point in of[arm]:
            assert point["kind"] == "UNDECIDED"
            assert abs(point["lowest"]) <= 1e-12 * point["largest"]
            assert point["gap"] <= 10 * point["noise"] < 1e-10
            assert point["refuted"]
            assert point["moved_gap"] > 10 * point["moved_noise"]
            assert len(point["falls"]) > 1
            assert power_of_fall(point) > 2.5
    for arm in MINIMA:
        for point in of[arm]:
            assert not point["refuted"]
            assert point["moved_gap"] <= 10 * point["moved_noise"] + 1e-12 * point["L"]
    assert all(point["certainty"] == "PROVED" for point in of["proved minima"])


def test_theorems_3_and_4_in_the_records(ran):
    _, records = ran("k19-refutation")
    census = [
        (e["arm"], p) for e in records if e["arm"] not in {*SADDLES, *MINIMA} for p in e["points"]
    ]
    assert {point["minimum"] for _, point in census} == {True, False}
    for arm, point in census:
        assert not contradicts(arm, point)
        assert point["refuted"] == (point["gap"] > 10 * point["noise"])
        assert point["refuted"] != point["minimum"]


def test_the_checks_of_refutation_can_fail(ran):
    found, records = ran("k19-refutation")
    place = {each["arm"]: k for k, each in enumerate(records)}

    def spoilt(arm, **changes):
        copied = copy.deepcopy(records)
        copied[place[arm]]["points"][0].update(changes)
        return failed("k19-refutation", found.settings, copied)

    for arm, changes, claim in (
        ("all weights 0", {"lowest": -1e-3}, "the saddles are degenerate"),
        ("deep linear at 0", {"refuted": False}, "Theorem 2 refutes"),
        ("copy with share 0", {"falls": []}, "a lower loss"),
        ("copy with share 0", {"proved": False}, "a lower loss"),
        ("deep linear at 0, best", {"refuted": True}, "no minimum is refuted"),
        ("proved minima", {"certainty": "MEASURED"}, "the controls"),
        ("all weights 0, L = 0", {"moved_gap": 1e-3}, "neither of K19's gaps"),
        ("residual, minima", {"refuted": True}, "Theorems 3 and 4"),
        ("residual, minima", {"gap": 1e-3}, "Theorems 3 and 4"),
        ("residual, any", {"spanned": False}, "Theorems 3 and 4"),
    ):
        assert any(each.startswith(claim) for each in spoilt(arm, **changes)), (arm, changes)


@pytest.mark.parametrize("seed", range(0, len(EVEN), 5))
def test_weights_of_zero_are_degenerate_and_fitted_ones_global(seed):
    from semiflat_experiments.k19.refutation import judged

    found = judged(bias_only(seed), seed)
    assert degenerate(found)
    assert found["refuted"]
    assert bias_only(seed, fitted=True).loss < 1e-30


@pytest.mark.parametrize("seed", range(len(LINEAR)))
def test_zero_is_the_best_linear_map_where_it_is_said_to_be(seed):
    best, other = linear_at_zero(seed, best=True), linear_at_zero(seed)
    for point in (best, other):
        assert sf.hessian(point).abs().max() == 0
        X, y = point.problem.X, point.problem.y
        left = y - X @ torch.linalg.lstsq(X, y).solution
        lowest = float(left.square().sum()) / 2 / len(X)
        assert (point.loss - lowest < 1e-14) == (point is best)


def test_saddles_and_minima_of_a_narrow_network_share_its_loss():
    for make in (share_of_zero, flat_null_unit):
        point = make(1)
        assert point.problem.net.widths == (1, 2, 1)
        assert point.gradient_norm < 1e-12
    assert all(point.gradient_norm < 1e-12 for point in minima(1))


def test_no_gap_at_a_minimum_whose_hessian_spans_ten_digits_and_one_at_a_saddle_made_of_such():
    narrow = minima(27)[0]
    eigenvalues = torch.linalg.eigvalsh(sf.hessian(narrow))
    assert 0 < eigenvalues[0] < 1e-10 * eigenvalues[-1]
    found = sf.perturbable_basis_model(narrow, seed=27)
    assert found.gap <= found.noise < 1e-20
    for make in (share_of_zero, flat_null_unit):
        found = sf.perturbable_basis_model(make(16), seed=16)
        assert found.gap > 1e-3 > 1e4 * found.noise


@pytest.mark.parametrize("seed", range(len(RESIDUAL)))
def test_a_residual_network_and_its_linear_model(seed):
    problem = Residual(seed)
    vector, z = problem.trained()
    of = problem.parts(vector, "WR")
    found = sf.resnet_model(of["W"], of["R"], problem.x, z, problem.y)
    assert float(problem.risk(vector, z)) == pytest.approx(found.loss, abs=1e-14)
    assert problem.gradient(vector, z) < CRITICAL
    columns = torch.cat([problem.x, z], 1)
    left = problem.y - columns @ torch.linalg.lstsq(columns, problem.y, driver="gelsd").solution
    assert found.loss == pytest.approx(float(left.square().sum()) / 2 / len(left), rel=1e-9)


# -- K19's examples and slips ------------------------------------------------------------------------


def test_example_1_every_critical_point_of_a_linear_model_is_global():
    X = torch.randn((20, 3), generator=torch.Generator().manual_seed(0)).double()
    problem = sf.Problem(sf.MLP([3, 2], bias=False), X, torch.cat([X[:, :1] ** 2, X[:, 1:2]], 1))
    left = problem.y - X @ torch.linalg.lstsq(X, problem.y).solution
    lowest = float(left.square().sum()) / 2 / 20
    for seed in range(3):
        model = sf.gradient_basis_model(sf.Point(problem, problem.net.random_params(seed)))
        assert model.infimum == pytest.approx(lowest, rel=1e-12)


def example_2(diagonal):
    """Example 2's hidden layers by its footnote, for six samples on the circle: (features, module)."""
    angles = torch.arange(6).double()
    X = torch.stack([angles.cos(), angles.sin()], 1)
    between = (X @ X.T - 2 * torch.eye(6).double()).max()
    delta = 1 - float(between)
    module = nn.Sequential(
        nn.Linear(2, 6),
        nn.ReLU(),
        nn.Linear(6, 6, bias=False),
        nn.ReLU(),
        nn.Linear(6, 1, bias=False),
    ).double()
    module[0].weight.data, module[0].bias.data = X.clone(), torch.full((6,), delta / 2 - 1).double()
    module[2].weight.data = diagonal * torch.eye(6).double()
    return X, module


def test_example_2_and_its_slip_the_second_layers_diagonal_must_be_positive():
    # K19's footnote 1 asks for W_jj ≠ 0 in the layers from the second up; with ReLU a negative one is silent.
    for diagonal, rank in ((1.0, 6), (-1.0, 0)):
        X, module = example_2(diagonal)
        assert torch.linalg.matrix_rank(module[:4](X)) == rank
        y = torch.randn((6, 1), generator=torch.Generator().manual_seed(1)).double()
        model = sf.gradient_basis_model(module, X, y)
        assert (model.infimum <= model.error + 1e-15) == (rank == 6)


class Skip(nn.Module):
    """``W₂ h₁ + W₃ h₂``: K19's Example 3."""

    def __init__(self) -> None:
        super().__init__()
        self.u1, self.u2 = nn.Linear(2, 3), nn.Linear(3, 3)
        self.w2, self.w3 = nn.Linear(3, 1, bias=False), nn.Linear(3, 1, bias=False)

    def forward(self, x):
        h1 = torch.tanh(self.u1(x))
        return self.w2(h1) + self.w3(torch.tanh(self.u2(h1)))


def test_slip_in_example_3_the_last_layer_alone_does_not_give_the_outputs():
    torch.manual_seed(0)
    module = Skip().double()
    X = torch.randn((10, 2)).double()
    f = module(X).detach()
    h1 = torch.tanh(module.u1(X)).detach()
    last = module.w3(torch.tanh(module.u2(h1))).detach()  # (∂f/∂vec W⁽ᴴ⁺¹⁾) vec W⁽ᴴ⁺¹⁾
    assert float((f - last).abs().max()) > 0.1 * float(f.abs().max())
    torch.testing.assert_close(f, last + module.w2(h1).detach())  # all skip connections' do
    y = torch.randn((10, 1)).double()
    model = sf.gradient_basis_model(module, X, y)
    both = torch.cat([h1, torch.tanh(module.u2(h1))], 1).detach()
    left = y - both @ torch.linalg.lstsq(both, y).solution
    assert model.infimum <= float(left.square().sum()) / 20 + 1e-12


def test_slip_differentiable_points_next_to_others():
    # K19 §3.1: for ReLU networks Ω = Ω̃. f = v relu(w x) is differentiable at v = w = 0, and not at (v, 0).
    def f(v, w):
        return v * max(w, 0.0)

    for size in (1e-2, 1e-4, 1e-6):
        for a, b in ((1, 1), (1, -1), (-0.3, 0.8)):
            assert abs(f(size * a, size * b)) / size <= 2 * size  # the derivative at 0 is 0
        v, h = size, size * 1e-3
        right, left = (f(v, h) - f(v, 0)) / h, (f(v, 0) - f(v, -h)) / h
        assert right == pytest.approx(size)
        assert left == 0


def test_slip_in_theorem_2_the_empty_set_gives_no_outputs():
    # The proof's last step takes S = ∅, whose model is 0 everywhere; with S = {0} it is f.
    point = bias_only(0)
    silent = float(point.problem.loss.value(0 * point.problem.y, point.problem.y).mean())
    assert silent > point.loss + 1e-3
    here = sf.perturbable_basis_model(point, [])
    assert here.loss == point.loss
    assert here.infimum == pytest.approx(point.loss, abs=1e-14)


def test_theorem_3_needs_no_more_outputs_than_inputs_and_nothing_of_the_block():
    # d_y = 2 ≤ d_x = 3, d_z = 1: the proof's features span the linear model at W of any rank.
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, z, R = draw(20, 3), draw(20, 1), draw(3, 1)
    for rank in (0, 1, 2):
        W = draw(2, rank) @ draw(rank, 3)
        null = torch.linalg.svd(W, full_matrices=True).Vh[-1:].T
        moved = [R] if rank == 2 else [R, R + null]
        eye = torch.eye(2).double()
        by_W = [torch.einsum("nd,mk->nmkd", x + z @ r.T, eye).flatten(2) for r in moved]
        by_R = torch.einsum("md,nz->nmdz", W, z).flatten(2)
        basis = torch.cat([*by_W, by_R], 2).flatten(0, 1)
        whole_model = torch.kron(torch.cat([x, z], 1), eye)
        fitted = basis @ torch.linalg.lstsq(basis, whole_model, driver="gelsd").solution
        torch.testing.assert_close(fitted, whole_model, rtol=0, atol=1e-8)


def test_theorem_3_fails_with_more_outputs_than_inputs():
    # W (x + r z) with one input and two outputs has rank 1, and y = (x, z) has rank 2.
    left = torch.linalg.qr(
        torch.randn((20, 2), generator=torch.Generator().manual_seed(0)).double()
    ).Q
    x, z = left[:, :1], left[:, 1:]
    y = left * torch.tensor([1.0, 0.5]).double()

    def risk(vector):
        W, r = vector[:2], vector[2]
        return ((x + r * z) @ W[None] - y).square().sum() / 2 / 20

    minimum = torch.tensor([1.0, 0.0, 0.0]).double()  # the best map of rank 1
    assert float(torch.func.grad(risk)(minimum).abs().max()) < 1e-16
    hessian = torch.func.jacrev(torch.func.grad(risk))(minimum)
    assert float(torch.linalg.eigvalsh(hessian)[0]) > 1e-3
    assert float(risk(minimum)) == pytest.approx(0.25 / 40)  # the linear model on (x, z) has 0
    with pytest.raises(sf.InputError, match="needs d_y ≤"):
        sf.resnet_model(minimum[:2, None], minimum[2:, None], x, z, y)
