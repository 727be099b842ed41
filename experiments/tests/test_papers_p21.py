"""P21's experiments, and the slips in its text that docs/papers-p21.md names."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

import semiflat as sf
from semiflat_experiments.dense import dense_gradient, dense_hessian
from semiflat_experiments.descent import gradients
from semiflat_experiments.experiment import qualified
from semiflat_experiments.p21 import definite, escape, narrow, region
from semiflat_experiments.p21.replicated import outcome_of, proved, replicated, sign
from semiflat_experiments.p21.training import PUBLISHED, VARIANTS, draw_data, loss_of, train


def failed(experiment, settings, records):
    """The claims that do not hold of these records."""
    checks = experiment.outcome(settings, records).checks
    return [check.claim for check in checks if not check.holds]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("p21-definite", marks=pytest.mark.slow),
        "p21-region",
        "p21-escape",
        pytest.param("p21-narrow", marks=pytest.mark.slow),
        pytest.param("p21-degeneracy", marks=pytest.mark.slow),
    ],
)
def test_every_check_holds_every_task_is_counted_and_the_outcome_is_small(ran, name):
    found, records = ran(name)
    assert [check.claim for check in found.outcome.checks if not check.holds] == []
    assert len(records) == len(found.experiment.tasks(found.settings))
    kept = qualified(records)
    assert len(kept) + sum(bool(each.get("dropped")) for each in records) == len(records)
    assert len(json.dumps(found.to_json())) < 60_000
    assert found.png[:4] == b"\x89PNG"


# -- §V-E: definite blocks ---------------------------------------------------------------------------


def positive(records, key, layer):
    return sum(each[key][layer].count("+") for each in records)


@pytest.mark.slow
def test_definite_blocks_are_rare_and_no_run_of_bfgs_ends_at_a_critical_point(ran):
    _, records = ran("p21-definite")
    mine = [r for r in records if r.get("variant") == PUBLISHED]
    assert 0 < positive(mine, "without", 0) < 0.25 * 4 * len(mine)
    assert positive(mine, "without", 1) + positive(mine, "without", 2) < positive(
        mine, "without", 0
    )
    assert sum(each["negative"] > 0 for each in mine) == len(mine)
    assert all(each["gradient"] < 1e-7 for each in mine)  # though the gradient is small


@pytest.mark.slow
def test_at_a_critical_point_that_is_reached_D_is_0_in_the_last_hidden_layer_alone(ran):
    _, records = ran("p21-definite")
    ends = [end for each in records if each["arm"] == "search" for end in each["ends"]]
    reached = [end for end in ends if end["status"] == "CONVERGED"]
    assert reached
    for end in reached:
        assert end["gradient"] < 1e-12
        assert max(end["D"][2]) < -10
        assert min(min(row) for row in end["D"][:2]) > -6
        counts = end["replicated"]
        assert [each.get("saddle", 0) for each in counts] == [4, 6, 4]


@pytest.mark.slow
def test_doctored_records_are_seen_to_contradict_p21_V_E(ran):
    found, records = ran("p21-definite")
    experiment, settings = found.experiment, found.settings
    assert failed(experiment, settings, records) == []
    bad = copy.deepcopy(records)
    for each in bad:
        if each.get("variant") == PUBLISHED:
            each["without"] = ["....", "++++++", "++++"]
            each["negative"], each["newton"] = 0, 1e-9
        for end in each.get("ends", []):
            if end["status"] == "CONVERGED":
                end["D"][2] = [-3.0] * 4
                end["replicated"][0] = {"positive inside": 1}
    assert len(failed(experiment, settings, bad)) == 5
    assert len(failed(experiment, settings, [])) >= 5


def test_a_run_that_is_not_finite_is_dropped_with_its_reason(monkeypatch):
    problem, _ = draw_data(PUBLISHED, 0)
    params = {key: torch.full_like(v, 1e200) for key, v in problem.net.random_params(0).items()}
    ended = sf.Point(problem, params)
    monkeypatch.setattr(definite, "train", lambda *_: (ended, 1, "lost"))
    record = definite.run({}, {"seed": 0, "arm": "BFGS", "variant": PUBLISHED})
    assert "not finite" in record["dropped"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_trained_loss_and_its_gradient_are_those_of_the_network(variant):
    problem, start = draw_data(variant, 3)
    value, slope = loss_of(problem, variant)(start)
    point = sf.Point(problem, problem.net.unflatten(torch.from_numpy(start)))
    scale = 2.0 if VARIANTS[variant].get("loss") == "mean" else 2.0 * problem.samples
    assert value == pytest.approx(scale * point.loss)
    torch.testing.assert_close(torch.from_numpy(slope), scale * dense_gradient(point))


def test_the_data_of_a_variant_differ_in_what_it_says_and_in_nothing_else():
    plain, start = draw_data(PUBLISHED, 5)
    noisy, same = draw_data("noisy targets", 5)
    assert torch.equal(plain.X, noisy.X)
    assert np.array_equal(start, same)
    share = float((noisy.y - plain.y).std() / plain.y.std())
    assert share == pytest.approx(0.3, rel=0.1)
    point, iterations, _ = train(plain, start, "mean of squares")
    assert iterations > 10
    assert point.loss < sf.Point(plain, plain.net.unflatten(torch.from_numpy(start))).loss


# -- §V-B to V-D: a region -----------------------------------------------------------------------------


def test_regions_are_found_without_biases_and_not_with_them(ran):
    _, records = ran("p21-region")
    kept = qualified(records)
    assert kept
    assert {each["arm"] for each in kept} == {"no biases"}
    for each in kept:
        assert min(each["B"]) > 0
        edge = int(each["edge"] * (len(each["lowest"]) - 1))
        assert min(each["lowest"][:edge]) > -1e-13
        assert each["lowest"][-1] < -1e-9
        assert each["change"] < 1e-12 * each["loss"]
        assert each["end"] < each["loss"]
        assert (
            min(each["fall"]) < each["fall"][len(each["fall"]) // 2] == pytest.approx(each["loss"])
        )
        assert min(each["random"]["lowest"]) > each["loss"] * (1 - 1e-12)
    ended = [path["end"] for each in kept for path in each["wide"] if "end" in path]
    assert ended
    assert max(ended) < 1e-20
    refused = [path["refused"] for each in kept for path in each["wide"] if "refused" in path]
    assert all("condition number" in reason for reason in refused)


def test_doctored_records_are_seen_to_contradict_p21_V_D(ran):
    found, records = ran("p21-region")
    bad = copy.deepcopy(records)
    for each in qualified(bad):
        each["kinds"][1] = "MINIMUM"
        each["lowest"][-1] = 0.0
        each["random"]["lowest"][3] = 0.5 * each["loss"]
        each["end"] = 2 * each["loss"]
        each["wide"] = [{"width": 60, "refused": "condition number"}]
    for each in bad:
        for counts in each["units"]:
            counts["positive"] = 10 if each["arm"] == "biases" else 0
            counts["negative"] = 0
    assert len(failed(found.experiment, found.settings, bad)) == 7
    dropped = [{**each, "dropped": "no luck"} for each in records]
    assert len(failed(found.experiment, found.settings, dropped)) == 5


# -- §III-B: escape --------------------------------------------------------------------------------


def test_noise_in_every_weight_leaves_a_region_and_noise_of_batches_does_not(ran):
    _, records = ran("p21-escape")
    for record in qualified(records):
        arms = {(arm["noise"], arm["size"]): arm for arm in record["arms"]}
        quiet, noisy, batch = (
            arms[key] for key in (("weights", 0), ("weights", 0.3), ("samples", 1))
        )
        assert set(quiet["crossed"]) == set(batch["crossed"]) == {-1}
        assert min(noisy["crossed"]) > 0
        assert max(quiet["apart"], batch["apart"]) < 0.01 < noisy["apart"]


@pytest.mark.parametrize("activation", escape.ACTIVATIONS)
def test_on_every_batch_the_gradients_of_copies_are_one_up_to_their_shares(activation):
    """Why noise of batches does not move copies apart: they have one incoming weight."""
    problem = escape.problem_of(activation, 0)
    point = sf.Point(problem, problem.net.random_params(seed=1))
    shares = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    wide = sf.Replicate(0, 0, shares.tolist())(point).materialize()
    net = wide.problem.net
    share = torch.rand(
        1, escape.SAMPLES, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    slope = net.unflatten(gradients(wide.problem, net.flatten(wide.params)[None], share=share)[0])
    incoming, outgoing = slope["0.weight"][:, 0], slope["2.weight"][0]
    torch.testing.assert_close(incoming / shares, (incoming / shares)[:1].expand(3))
    torch.testing.assert_close(outgoing, outgoing[:1].expand(3))


def test_doctored_records_are_seen_to_contradict_p21_III_B(ran):
    found, records = ran("p21-escape")
    bad = copy.deepcopy(records)
    for record in bad:
        for arm in record["arms"]:
            turned = arm["noise"] == "samples" or not arm["size"]
            arm["crossed"] = [10 if turned else -1] * len(arm["crossed"])
    assert len(failed(found.experiment, found.settings, bad)) == 4
    assert len(failed(found.experiment, found.settings, [])) == 4


def test_data_sets_without_a_region_are_dropped_with_the_reason():
    settings = escape.EXPERIMENT.settings(True)
    reasons = {
        escape.run(settings, {"seed": seed, "activation": "tanh", "copies": 2}).get("dropped")
        for seed in (0, 4)
    }
    assert None not in reasons


def test_the_eigenvalues_of_B_are_those_of_the_wide_hessian_along_unequal_copies():
    """P21 Lemma 1, the block αβB, with λ = β/(α + β): differentiated densely."""
    problem = region.problem_of(3, True)
    point = sf.Point(problem, problem.net.random_params(seed=2))
    unit, (alpha, beta) = 1, (2.0, 3.0)
    wide = sf.Replicate(1, unit, [0.6, 0.4])(point)
    hessian, net = dense_hessian(wide), wide.problem.net
    first, second = rows_of_copies(net, wide)
    moves = alpha * first - beta * second
    B = sf.unit_blocks(point, 1, unit).G
    torch.testing.assert_close(moves @ hessian @ moves.T, alpha * beta * B, rtol=0, atol=1e-12)


def rows_of_copies(net, wide, layer=1):
    """Unit vectors of the incoming weights and bias of the two copies, (D, P) each."""
    key = f"{2 * layer}.weight"
    rows = wide.params[key]
    same = [(a, b) for a in range(len(rows)) for b in range(a) if torch.equal(rows[a], rows[b])]
    ((second, first),) = same
    found = []
    for unit in (first, second):
        vectors = []
        for k in range(rows.shape[1] + 1):
            zero = {name: torch.zeros_like(value) for name, value in wide.params.items()}
            if k < rows.shape[1]:
                zero[key][unit, k] = 1
            else:
                zero[f"{2 * layer}.bias"][unit] = 1
            vectors.append(net.flatten(zero))
        found.append(torch.stack(vectors))
    return found


# -- Theorem 6 at proved minima --------------------------------------------------------------------------


@pytest.mark.slow
def test_theorem_6_foretells_every_unit_of_every_proved_minimum(ran):
    found, records = ran("p21-narrow")
    assert sum(each["minima"] for each in records) > 10
    for each in records:
        assert sum(each["ends"].values()) == found.settings["starts"]
        *early, last = each["units"] or [{}]
        for counts in early:
            assert set(counts) <= {
                "positive", "negative", "indefinite", "saddle", "positive saddle", "negative saddle",
                "indefinite saddle",
            }  # fmt: skip
        allowed = {"positive inside", "negative outside", "indefinite saddle"}
        assert {key for key in last if " " in key} <= allowed
        if each["D"][-1:] not in ([], [[]]):
            assert each["D"][-1][1] < 1e-9
        for low_high in each["D"][:-1]:
            assert not low_high or low_high[0] > 1e-6
        if each["arm"] == "biases":
            assert last.get("positive", 0) + last.get("negative", 0) == 0
        assert each["many"][0] == each["many"][1]
    assert sum(each["many"][1] for each in records) > 0


@pytest.mark.slow
def test_doctored_records_are_seen_to_contradict_theorem_6(ran):
    found, records = ran("p21-narrow")
    bad = copy.deepcopy(records)
    for each in bad:
        each["ends"]["not ended"] += 1
        each["many"][0] = 0
        for layer, counts in enumerate(each["units"]):
            counts["indefinite inside"] = counts.pop("indefinite saddle", 0)
            counts["positive"] = counts.get("positive", 0) + 50 * (each["arm"] == "biases")
            counts["saddle"] = 0 if layer + 1 < len(each["units"]) else counts.get("saddle", 0)
    assert len(failed(found.experiment, found.settings, bad)) == 5


def test_measured_and_proved_replications_agree_and_a_missing_proof_is_undecided():
    problem = narrow.problem_of("2-3-1", False, 0)
    point = sf.find_critical_point(problem, starts=8, seed=0)
    measured, certain = replicated(point), proved(point)
    assert [unit.outcome for unit in measured] == [unit.outcome for unit in certain]
    assert outcome_of(None, "STRICT_SADDLE") == "undecided"
    assert outcome_of("STRICT_SADDLE", "MINIMUM") == "outside"
    assert sign(-torch.eye(2, dtype=torch.float64)) == "-"
    assert sign(torch.diag(torch.tensor([-1.0, -1e-14], dtype=torch.float64))) == "m"


MIRRORED = [-3.6305, 7.7983, 0.8958, 1.9878, -31.5324, -2.3276, 31.5324, 2.3276, 4.2981, -0.7033]


def test_D_is_0_before_the_last_hidden_layer_where_the_units_fed_are_mirror_images():
    """Prop. 1(ii) with derivatives that are proportional, not equal: σ'(z) = σ'(−z)."""
    problem = narrow.problem_of("2-2-2-1", False, 4)
    near = problem.net.unflatten(torch.tensor(MIRRORED, dtype=torch.float64))
    F = sf.unit_blocks(sf.Point(problem, near), 0, 1).F
    v = near["4.weight"][0]
    torch.testing.assert_close(F[0] / v[0], F[1] / v[1])
    assert float(F.abs().max()) > 1e-7  # not critical yet
    point = sf.find_critical_point(problem, start=near)
    assert sf.judge(point).kind is sf.Kind.STRICT_MINIMUM
    assert max(unit.D for unit in replicated(point) if unit.layer == 0) < 1e-12
    assert [unit.outcome for unit in replicated(point) if unit.layer == 0] == ["saddle"] * 2
    assert [unit.outcome for unit in proved(point) if unit.layer == 0] == ["undecided"] * 2


def test_D_is_0_at_an_exact_fit():
    """Prop. 1(iii): no error reaches any layer."""
    net = sf.MLP([2, 2, 3, 1], "sigmoid")
    params = net.random_params(seed=0)
    X = torch.randn((8, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    point = sf.Point(sf.Problem(net, X, net.forward(params, X)), params)
    assert all(float(sf.unit_blocks(point, 0, unit).F.abs().max()) < 1e-15 for unit in range(2))


# -- slips -----------------------------------------------------------------------------------------------


def last_layer(activation, units, samples, seed=0):
    """Activations (samples, units), output weights, and targets, at random."""
    generator = torch.Generator().manual_seed(seed)
    a, w, y = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        for shape in ((samples, units), (units,), (samples,))
    )
    return getattr(torch, activation)(a), w, y


def test_lemma_6_divides_by_the_samples_and_stops_short_and_its_loss_is_a_square():
    a, w, y = last_layer("tanh", 3, 12)
    z = a @ w
    loss = (z - y).square().sum()
    printed = a + (y - z)[:, None] / (w * 12)
    assert float((printed @ w - y).square().sum() / loss) == pytest.approx(0.5625)
    for t in (0.0, 0.5, 1.0):
        right = a + t * (y - z)[:, None] / (w * 3)
        assert float((right @ w - y).square().sum() / loss) == pytest.approx((1 - t) ** 2)


def test_lemma_6_divides_by_weights_that_are_0_as_they_are_in_J_plus():
    a, w, y = last_layer("sigmoid", 4, 6)
    w[1] = 0.0
    z, plus = a @ w, w >= 0  # P21's J₊
    part = torch.where(y - z >= 0, y - z, torch.zeros_like(y))
    printed = a[:, plus] + part[:, None] / (w[plus] * plus.sum())
    assert not bool(torch.isfinite(printed).all())
    strict = w > 0
    assert bool(torch.isfinite(a[:, strict] + part[:, None] / (w[strict] * strict.sum())).all())


def test_theorem_3_fails_for_one_unit_on_top_without_a_bias_which_lemma_5_leaves_out():
    X = torch.linspace(-1, 1, 6, dtype=torch.float64)[:, None]
    y = torch.tensor([1.0, -1.0] * 3, dtype=torch.float64)
    problem = sf.Problem(sf.MLP([1, 8, 1, 1], "sigmoid", (True, True, False)), X, y)
    point = sf.Point(problem, problem.net.random_params(seed=0))
    with pytest.raises(sf.InputError, match="one sign"):
        sf.path_to_zero_loss(point)
    # Outputs of one sign can do no better than fit the three targets of that sign: R ≥ 3/12.
    assert all(
        run.loss >= 0.25 - 1e-9 for run in sf.run_search(problem, 8, seed=0, processes=1).runs
    )


def test_theorem_3_needs_no_epsilon_where_all_units_are_equal():
    X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 12, 3, 1], "tanh"), X, torch.sin(4 * X))
    params = problem.net.random_params(seed=0)
    params["0.weight"][:], params["0.bias"][:] = 0.5, 0.1  # the activation vectors have rank 1
    path = sf.path_to_zero_loss(sf.Point(problem, params))
    assert path.perturbation == 0
    assert all(torch.equal(path(0.0)[key], value) for key, value in params.items())
    assert path.condition_before > 1e15
    assert path.check.largest_increase < 1e-10
    assert path.check.end < 1e-20


def test_lemma_1_is_right_of_directions_and_wrong_of_the_coordinates_it_names():
    """One output: D is a row, and v and w̄ are left to the last block of the printed matrix."""
    problem = region.problem_of(1, False)
    point = sf.Point(problem, problem.net.random_params(seed=1))
    unit, (alpha, beta) = 0, (2.0, 3.0)
    wide = sf.Replicate(1, unit, [beta / 5, alpha / 5])(point)
    hessian, net = dense_hessian(wide), wide.problem.net
    flat = net.unflatten(torch.arange(net.parameter_count, dtype=torch.float64))
    rows = flat["2.weight"].long()
    columns = flat["4.weight"].long()[0]
    copies = [k for k in range(3) if torch.equal(wide.params["2.weight"][k],
                                                 point.params["2.weight"][unit])]  # fmt: skip
    assert len(copies) == 2
    identity = torch.eye(net.parameter_count, dtype=torch.float64)
    (u1, u2), (v1, v2) = identity[rows[copies]], identity[columns[copies]]
    used = {*rows[copies].flatten().tolist(), *columns[copies].tolist()}
    rest = identity[[k for k in range(net.parameter_count) if k not in used]]
    basis = torch.cat([u1 + u2, (v1 + v2)[None], rest, alpha * u1 - beta * u2, (v1 - v2)[None]])
    blocks = sf.unit_blocks(point, 1, unit)
    small = dense_hessian(point)
    at = problem.net.unflatten(torch.arange(problem.net.parameter_count, dtype=torch.float64))
    u, v = at["2.weight"].long()[unit], at["4.weight"].long()[0, unit]
    as_directions = basis @ hessian @ basis.T
    inverse = torch.linalg.inv(basis)
    as_coordinates = inverse.T @ hessian @ inverse
    n, last = len(u), len(basis) - 1
    mu = slice(last - n, last)
    printed_uu, printed_vv = small[u][:, u], 4 * small[v, v]
    torch.testing.assert_close(as_directions[:n, :n], printed_uu, rtol=0, atol=1e-12)
    torch.testing.assert_close(as_directions[n, n], printed_vv, rtol=0, atol=1e-12)
    torch.testing.assert_close(as_directions[mu, mu], alpha * beta * blocks.G, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        as_directions[n, mu], (alpha - beta) * blocks.F[0], rtol=0, atol=1e-12
    )
    torch.testing.assert_close(
        as_directions[last, mu], (alpha + beta) * blocks.F[0], rtol=0, atol=1e-12
    )
    assert float((as_coordinates[n, n] - printed_vv).abs() / printed_vv.abs()) > 0.5


def test_the_two_losses_of_p21_differ_by_a_factor_that_D_and_B_follow():
    """(2) and (1) are half the derivatives of Σ(f − y)², and those of ½Σ(f − y)²."""
    problem, start = draw_data(PUBLISHED, 1)
    point = sf.Point(problem, problem.net.unflatten(torch.from_numpy(start)))
    _, slope = loss_of(problem, PUBLISHED)(start)
    gradient = problem.net.unflatten(torch.from_numpy(slope))
    unit = 2
    D = sf.unit_blocks(point, 2, unit).F[0] * problem.samples
    weight = point.params["6.weight"][0, unit]
    torch.testing.assert_close(2 * weight * D[:-1], gradient["4.weight"][unit])
