"""The experiments of Zhang et al. 2022: stages of training, dimensions of embedded sets, signs of Hessians."""

from __future__ import annotations

import copy

import pytest
import torch

import semiflat as sf
from semiflat_experiments import experiment
from semiflat_experiments.dense import dense_gradient, dense_hessian
from semiflat_experiments.records import key, open_records
from semiflat_experiments.reproduce import reproduce
from semiflat_experiments.z22 import planted as teachers
from semiflat_experiments.z22 import plateaus
from semiflat_experiments.z22.census import counts, planted
from semiflat_experiments.z22.second_part import as_written, below_output, second_part
from semiflat_experiments.z22.sets import WideSet
from semiflat_experiments.z22.stages_outcome import STAGNANT, at_width_1
from semiflat_experiments.z22.training import CHOSEN, curve, descend, drawn_units, plateau


def ran(name, folder):
    """An experiment, its quick settings and their records, with what was written to a folder."""
    result = reproduce(name, folder, True, 1)
    tasks = result.experiment.tasks(result.settings)
    with open_records(folder, name, result.settings) as records:
        found = [records.get(key(task)).record for task in tasks]
    assert result.outcome == result.experiment.outcome(result.settings, found)
    assert result.png.startswith(b"\x89PNG")
    assert len((folder / f"{name}.json").read_text()) < 60_000
    return result.experiment, result.settings, found


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return ran("z22-stages", tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def dimensions(tmp_path_factory):
    return ran("z22-dimensions", tmp_path_factory.mktemp("dimensions"))


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return ran("z22-plateaus", tmp_path_factory.mktemp("plateaus"))


def failing(run, records):
    chosen, settings, _ = run
    return [check.claim for check in chosen.outcome(settings, records).checks if not check.holds]


def measured(run, beginning):
    chosen, settings, records = run
    rows = chosen.outcome(settings, records).rows
    return next(row.measured for row in rows if row.what.startswith(beginning))


# -- stages of training ----------------------------------------------------------------------------


def test_every_check_of_the_stages_holds_and_the_runs_add_up(stages):
    _, settings, records = stages
    assert failing(stages, records) == []
    assert len(records) == 1 + settings["runs"] + settings["drawn"]
    dropped = [record for record in records if record.get("dropped")]
    kept = len(records) - len(dropped)
    assert measured(stages, "runs that qualified") == f"{kept} of {len(records)}"


def test_the_loss_stagnates_at_width_1_and_ends_near_width_3(stages):
    _, _, records = stages
    for record in (each for each in records if each["part"] == "chosen target"):
        on, end = record["plateau"], record["end"]
        assert record["lost"] < STAGNANT
        assert abs(on["risk"] / record["levels"]["1"] - 1) < STAGNANT
        assert on["distances"]["1"] < min(on["distances"]["2"], on["distances"]["3"]) / 3
        assert end["distances"]["3"] < min(end["distances"]["1"], end["distances"]["2"]) / 2
        assert end["distances"]["3"] < on["distances"]["3"] / 2
        assert record["steps"][0] < on["step"] < end["step"] == record["steps"][-1]


def test_the_plateau_is_found_without_being_told_what_to_look_for():
    h = sf.hierarchy(curve(CHOSEN, sf.MLP([1, 1, 1], "tanh")), [1], starts=8, seed=0, processes=1)
    training = descend(curve(CHOSEN, sf.MLP([1, 100, 1], "tanh")), 0, 0.005, 4000, 100)
    (found,) = sf.stages(h, training.points, steps=training.steps).plateaus
    best = min(h.critical_functions(), key=lambda function: function.loss)
    assert found.near
    assert found.function == best.number
    assert abs(found.loss / best.loss - 1) < STAGNANT
    # The experiment's own way, which is told below which loss to look.
    assert found.first < training.steps[plateau(training, 100.0)[0]] < found.last
    inside, _, null = found.points
    assert inside.inertia == (103, 99, 99)
    assert inside.telling
    assert not null.telling


def test_critical_functions_go_on_in_wider_networks_as_saddles_unless_they_fit_the_data(stages):
    _, settings, records = stages
    (tree,) = (each["functions"] for each in records if each["part"] == "tree")
    assert {node["width"] for node in tree} == {0, 1, 2, 3}
    for node in tree:
        widths = {each["width"] for each in node["embedded"]}
        assert widths == {max(node["width"], 1) + 1, settings["width"]}
        kinds = {each["kind"] for each in node["embedded"]}
        assert kinds == ({"minimum"} if node["width"] == 3 else {"strict saddle"})
    proved = [node for node in tree if node["width"] in (1, 2)]
    assert {node["certainty"] for node in proved} == {"PROVED"}
    assert {node["kind"] for node in proved} == {"strict minimum"}


def test_the_checks_of_the_stages_can_fail(stages):
    records = copy.deepcopy(stages[2])
    for record in records:
        if record["part"] == "chosen target":
            record["plateau"]["nearest_width"] = 2
    assert failing(stages, records) == [
        "the loss stagnates near the best fit of one unit, in three runs of four or more"
    ]
    records = copy.deepcopy(stages[2])
    for record in records:
        if record["part"] == "chosen target":
            record["end"] = record["plateau"]
        elif record["part"] == "tree":
            record["functions"][1]["embedded"][0]["gradient"] = 1e-3
            for each in record["functions"][1]["embedded"]:
                each["kind"] = "minimum"
    assert len(failing(stages, records)) == 3
    assert len(failing(stages, [record for record in records if record["part"] == "none"])) == 4


def test_gradient_descent_steps_down_the_dense_gradient():
    problem = curve(CHOSEN, sf.MLP([1, 4, 1], "tanh"))
    training = descend(problem, seed=0, rate=1e-3, steps=2, written=2)
    first, second = training.points
    assert training.steps == [1, 2]
    moved = problem.net.flatten(second.params) - problem.net.flatten(first.params)
    torch.testing.assert_close(moved, -1e-3 * dense_gradient(first), rtol=1e-12, atol=1e-15)
    assert training.risks == pytest.approx([float(first.loss), float(second.loss)], rel=1e-12)
    with pytest.raises(sf.InputError, match="not finite"):
        descend(problem, seed=0, rate=1e200, steps=20, written=3)


def test_with_small_outputs_the_first_plateau_is_at_the_best_linear_function():
    """Why the target is 50 times as large: units of equal small size are linear until their sum is large."""
    large = curve(CHOSEN, sf.MLP([1, 500, 1], "tanh"))
    problem = sf.Problem(large.net, large.X, large.y / 50)
    training = descend(problem, seed=0, rate=0.003, steps=4500, written=60)
    at, lost = plateau(training, training.risks[0] / 2)
    inputs = torch.cat([problem.X, torch.ones_like(problem.X)], dim=1)
    line = (inputs @ torch.linalg.lstsq(inputs, problem.y).solution)[:, 0]
    one = sf.Problem(sf.MLP([1, 1, 1], "tanh"), problem.X, problem.y)
    unit = one.net.forward(sf.find_critical_point(one, starts=4, seed=0).params, one.X)[:, 0]
    near, far = (
        float((training.outputs[at] - each).square().mean().sqrt() / problem.y.std(correction=0))
        for each in (line, unit)
    )
    assert lost < 1e-3
    assert near < 0.01 < 0.05 < far


def test_a_plateau_is_where_the_loss_changes_least_below_a_level():
    steps = [1, 2, 4, 8, 16, 32, 64]
    risks = [10.0, 10.0, 4.0, 3.9, 3.8, 1.0, 0.1]
    training = type("Training", (), {"steps": steps, "risks": risks})
    step, fall = plateau(training, 5.0)
    assert step == 3
    assert fall == pytest.approx(1 - 3.9 / 4)
    assert plateau(training, 0.01) == (6, 1.0)
    assert not at_width_1({"lost": 1.0, "plateau": {"nearest_width": 1, "nearest_is_best": True}})
    assert drawn_units(3) == drawn_units(3)
    assert drawn_units(3) != drawn_units(4)


# -- how common plateaus are ----------------------------------------------------------------------


def test_with_one_large_unit_a_run_stays_near_the_width_1_function_whatever_the_start(many):
    _, settings, records = many
    assert failing(many, records) == []
    (large,) = [each for each in records if each["targets"] == plateaus.LARGE]
    assert [run["power"] for run in large["runs"]] == settings["powers"]
    for run in large["runs"]:
        (found,) = run["plateaus"]
        assert found["place"] == "width 1"
        assert found["distances"][0] < 0.05 < run["plateaus"][0]["loss"] * 50
        kinds = {way["kind"] for way in found["ways"]}
        assert kinds == {"strict saddle"}
    assert large["functions"]["the constant"] == 1


def test_the_checks_of_the_plateaus_can_fail(many):
    records = copy.deepcopy(many[2])
    for record in records:
        record["fit"] = 1.0
        for run in record["runs"]:
            run["plateaus"] = []
    assert len(failing(many, records)) == 3
    assert len(failing(many, [])) == 3


@pytest.mark.parametrize("power", [0.5, 1.5])
def test_parameters_start_with_the_deviation_that_is_asked_for(power):
    problem = curve(CHOSEN, sf.MLP([1, 400, 1], "tanh"))
    start = descend(problem, seed=0, rate=1e-3, steps=1, written=1, power=power).points[0]
    assert float(problem.net.flatten(start.params).std()) == pytest.approx(400**-power, rel=0.1)


# -- dimensions, signs, ways down ------------------------------------------------------------------


def test_every_check_of_the_dimensions_holds_and_the_runs_add_up(dimensions):
    _, settings, records = dimensions
    assert failing(dimensions, records) == []
    assert len(records) == settings["runs"] * len(settings["shapes"])
    dropped = sum(bool(record.get("dropped")) for record in records)
    said = measured(dimensions, "runs that qualified")
    assert said == f"{len(records) - dropped} of {len(records)}"
    compared = [each for record in records for each in record["signs"]]
    unclear = sum(not (each["narrow"] and each["wide"]) for each in compared)
    assert measured(dimensions, "Hessians with an unclear") == str(unclear)
    assert len(compared) - unclear > 30


def test_ranks_are_the_estimate_and_no_count_falls(dimensions):
    _, _, records = dimensions
    for record in records:
        for each in record["dimensions"]:
            assert each["estimate"] == each["freedom"] == each["rank"] == each["library_rank"]
            assert each["apart"] < 1e-12
            assert each["gradient"] < 1e-12
            assert each["zeros"] is None or each["zeros"] >= each["estimate"]
        for each in record["signs"]:
            if each["narrow"] and each["wide"]:
                assert tuple(each["said"]) == tuple(each["wide"])
                assert all(w >= n for n, w in zip(each["narrow"], each["wide"], strict=True))
        assert record["ways_down"]["split_least"] < 0
        assert record["ways_down"]["down"]["least"] < 0


def test_a_kernel_may_be_lost_where_only_the_output_is_kept(dimensions):
    _, _, records = dimensions
    lost = [record["output_only"] for record in records]
    assert all(each["apart"] < 1e-12 for each in lost)
    assert any(each["wide"][1] < each["narrow"][1] for each in lost)


def test_the_checks_of_the_dimensions_can_fail(dimensions):
    def doctored(change):
        records = copy.deepcopy(dimensions[2])
        change(records[0])
        return failing(dimensions, records)

    assert len(doctored(lambda r: r["dimensions"][0].update(rank=0))) == 2  # nor is it flat
    assert len(doctored(lambda r: r["dimensions"][0].update(zeros=0))) == 1
    assert len(doctored(lambda r: r["signs"][0].update(wide=(0, 0, 0), said=(0, 0, 0)))) == 1
    assert len(doctored(lambda r: r["signs"][0].update(said=None))) == 1
    assert len(doctored(lambda r: r["ways_down"].update(lemma_apart=1e-3))) == 1
    assert len(doctored(lambda r: r["ways_down"].update(down=None))) == 1
    assert len(doctored(lambda r: r.update(as_printed=[0.0, 0.0]))) == 1
    records = [{**record, "output_only": {"narrow": (1, 1, 1), "wide": (2, 1, 2), "apart": 0.0}}
               for record in dimensions[2]]  # fmt: skip
    assert len(failing(dimensions, records)) == 1
    assert len(failing(dimensions, [{"dropped": "nothing"}])) == 9


@pytest.mark.parametrize("shape", ["2-2-2", "2-3-2 logistic", "2-2-2-1"])
def test_planted_points_are_critical_and_minima_definite(shape):
    minimum, other = planted(shape, 1, True, 40), planted(shape, 1, False, 1)
    for point in (minimum, other):
        assert float(dense_gradient(point).abs().max()) < 1e-12
    assert bool((torch.linalg.eigvalsh(dense_hessian(minimum)) > 0).all())
    assert planted(shape, 1, True, 0) is None


def test_eigenvalues_near_zero_are_not_counted():
    assert counts(torch.diag(torch.tensor([1.0, 1e-14, -1e-6], dtype=torch.float64))) == (1, 1, 1)
    assert counts(torch.diag(torch.tensor([1.0, 1e-11], dtype=torch.float64))) is None


def test_the_conditions_are_those_of_the_library_and_fail_beside_it():
    net = sf.MLP([2, 2, 2, 1], "tanh")
    problem = sf.Problem(net, torch.ones(3, 2), torch.ones(3, 1))
    point = sf.Point(problem, net.random_params(0))
    embedding = sf.Compatible.random(net, [2, 4, 4, 1], seed=1, index_map=[[0, 1, 1, None]] * 2)
    found = WideSet.of(embedding, point)
    wide = embedding(point)
    assert float(found.conditions(found.start).abs().max()) < 1e-12
    assert float(found.conditions(found.start + 1e-3).abs().max()) > 1e-4
    own = wide.problem.net.flatten(wide.params)
    torch.testing.assert_close(found.parameters(found.start), own, rtol=0, atol=1e-12)
    assert found.tangent_rank() == embedding.degrees_of_freedom(net) == 4 + 4


@pytest.mark.parametrize("loss", ["squared", "logistic"])
def test_the_second_part_is_the_hessian_less_what_the_slopes_give(loss):
    net = sf.MLP([2, 3, 2], "sigmoid")
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(7, 2, generator=generator, dtype=torch.float64)
    y = torch.rand(7, 2, generator=generator, dtype=torch.float64)
    point = sf.Point(sf.Problem(net, X, y, loss), net.random_params(0))
    f, J = net.forward(point.params, X), sf.jacobian(point)
    bend = torch.ones_like(f) if loss == "squared" else torch.sigmoid(f) * (1 - torch.sigmoid(f))
    first = torch.einsum("nip,ni,niq->pq", J, bend / 7, J)
    second = second_part(point)
    torch.testing.assert_close(second, dense_hessian(point) - first, rtol=0, atol=1e-14)
    few = below_output(point)
    torch.testing.assert_close(as_written(point, 3), second[:few, :few], rtol=0, atol=1e-14)
    assert float((as_written(point, 2) - second[:few, :few]).abs().max()) > 1e-6
    labels = torch.tensor([0, 1, 1, 0, 1, 0, 1])
    classes = sf.Point(sf.Problem(net, X, labels, "cross_entropy"), point.params)
    with pytest.raises(sf.InputError, match="no slope written out"):
        second_part(classes)


def test_wide_gradients_are_narrow_ones_times_a_matrix_so_kernels_are_carried_over():
    """What Z22's proof of Thm 6.2 needs for zeros: ∇R_wide(Aθ + c) = B ∇R_narrow(θ), so H_w A = B H_n."""
    net = sf.MLP([2, 2, 2, 1], "tanh")
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 1, generator=generator, dtype=torch.float64)
    embedding = sf.Compatible.random(net, [2, 4, 4, 1], seed=1, index_map=[[0, 1, 1, None]] * 2)
    A = torch.from_numpy(embedding.matrix(net).A.toarray())
    matrices = []
    for seed in (0, 1):
        point = sf.Point(sf.Problem(net, X, y), net.random_params(seed))
        wide, narrow = embedding(point).materialize(), dense_hessian(point)
        B = torch.linalg.solve(narrow, (dense_hessian(wide) @ A).T).T
        torch.testing.assert_close(
            dense_gradient(wide), B @ dense_gradient(point), rtol=0, atol=1e-9
        )
        matrices.append(B)
    torch.testing.assert_close(*matrices, rtol=0, atol=1e-8)


# -- planted teachers --------------------------------------------------------------------------------

TEACHER = {"seed": 1, "width": 1, "activation": "gelu", "inputs": 1, "noise": 0.0}


@pytest.mark.slow
def test_every_check_of_planted_teachers_holds(tmp_path):
    run = ran("z22-planted", tmp_path)
    assert failing(run, run[2]) == []


def test_noise_is_all_that_differs_and_what_is_held_out_has_none():
    (exact, X, y), (noisy, same, also) = (
        teachers.planted({**TEACHER, "noise": noise}) for noise in (0.0, 0.1)
    )
    assert torch.equal(X, same)
    assert torch.equal(y, also)
    assert torch.equal(exact.X, noisy.X)
    assert float(exact.y.mean().abs()) < 1e-14
    assert float(exact.y.var(correction=0)) == pytest.approx(1)
    assert float((noisy.y - exact.y).std()) == pytest.approx(0.1, rel=0.3)


def test_a_teacher_is_found_and_a_record_that_says_otherwise_is_seen():
    chosen = experiment("z22-planted")
    settings = {**chosen.settings(True), "starts": 4, "noise": [0.0, 0.1], "widths": [1]}
    records = [teachers.run(settings, {**TEACHER, "noise": noise}) for noise in (0.0, 0.1)]
    assert [each["answer"] for each in records] == [1, 1]
    assert records[0]["losses"][0] < 1e-20
    assert records[0]["embedded"]["equal"] > 0 == records[0]["embedded"]["different"]
    run = chosen, settings, records
    assert failing(run, records) == []
    bad = copy.deepcopy(records)
    for each in bad:
        each["answer"] = 2
        each["embedded"]["different"] = 1
    assert len(failing(run, bad)) == 3
    bad[1] |= {"answer": 1, "losses": [0.5, 0.01]}
    assert any("fits to the noise" in claim for claim in failing(run, bad))


def test_a_teacher_that_a_narrower_network_fits_is_left_out():
    chosen = experiment("z22-planted")
    settings = {**chosen.settings(True), "fair": 2.0}
    assert "a narrower network" in teachers.run(settings, TEACHER)["dropped"]
