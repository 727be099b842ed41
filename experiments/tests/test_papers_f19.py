"""The experiments of Fukumizu et al. 2019, and the dense reference that all papers' censuses use."""

from __future__ import annotations

import copy
import dataclasses
import random
from itertools import combinations_with_replacement, product

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch.nn import functional

import semiflat as sf
from semiflat.activations import ACTIVATIONS
from semiflat_experiments.dense import dense_gradient, dense_hessian
from semiflat_experiments.experiment import qualified
from semiflat_experiments.f19 import decay, sussmann
from semiflat_experiments.f19.census import run as run_census
from semiflat_experiments.f19.claims import Blocks, Shares, claims
from semiflat_experiments.f19.embedded import consistent
from semiflat_experiments.f19.evidence import blocks_from_pair, evidence
from semiflat_experiments.f19.fits import noisy_points, tanh_fit
from semiflat_experiments.f19.problems import FAMILIES, FEW
from semiflat_experiments.f19.relu_fit import fits, smallest_fit
from semiflat_experiments.f19.relu_rates import DRAWS

# -- the dense reference ---------------------------------------------------------------------------

SUMS = {
    "squared": lambda f, y: functional.mse_loss(f, y, reduction="sum") / 2,
    "cross_entropy": lambda f, y: functional.cross_entropy(f, y, reduction="sum"),
    "logistic": lambda f, y: functional.binary_cross_entropy_with_logits(f, y, reduction="sum"),
}


def a_point(activation, loss, widths=(2, 3, 2, 2), bias=True, weight_decay=0.0):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(6, widths[0], generator=generator, dtype=torch.float64)
    y = torch.randn(6, widths[-1], generator=generator, dtype=torch.float64)
    if loss == "cross_entropy":
        y = torch.tensor([0, 1, 1, 0, 1, 0])
    elif loss == "logistic":
        y = torch.sigmoid(y)
    net = sf.MLP(widths, activation, bias)
    problem = sf.Problem(net, X, y, loss, weight_decay=weight_decay)
    return sf.Point(problem, net.random_params(0))


def assert_derivatives_are_those_of_torchs_modules(point):
    """Central differences of the ``nn.Sequential``'s risk and of its gradient by backpropagation."""
    problem = point.problem
    module = problem.net.to_module(point.params)
    parameters = list(module.parameters())
    vector = torch.cat([p.detach().reshape(-1) for p in parameters])

    def risk_and_gradient(at):
        with torch.no_grad():
            for p, piece in zip(parameters, at.split([p.numel() for p in parameters]), strict=True):
                p.copy_(piece.reshape(p.shape))
        f = module(problem.X)
        penalty = sum((p**2).sum() for p in parameters) * problem.weight_decay / 2
        risk = SUMS[problem.loss.name](f, problem.y) / len(f) + penalty
        parts = torch.autograd.grad(risk, parameters)
        return risk.detach(), torch.cat([part.reshape(-1) for part in parts])

    step = 1e-5
    moves = torch.eye(len(vector), dtype=torch.float64) * step
    ahead = [risk_and_gradient(vector + move) for move in moves]
    behind = [risk_and_gradient(vector - move) for move in moves]
    slopes, bends = (
        torch.stack([(a[k] - b[k]) / (2 * step) for a, b in zip(ahead, behind, strict=True)])
        for k in (0, 1)
    )
    torch.testing.assert_close(dense_gradient(point), slopes, rtol=0, atol=1e-9)
    torch.testing.assert_close(dense_hessian(point), bends, rtol=0, atol=1e-8)


@pytest.mark.parametrize("loss", SUMS)
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "leaky_relu(0.3)"])
def test_the_dense_reference_agrees_with_finite_differences(activation, loss):
    assert_derivatives_are_those_of_torchs_modules(a_point(activation, loss))


@pytest.mark.parametrize(
    ("widths", "bias"),
    [((2, 2), True), ((1, 3, 1), False), ((2, 2, 3, 2, 1), (True, False, True, False))],
)
def test_the_dense_reference_knows_every_depth_and_missing_biases(widths, bias):
    assert_derivatives_are_those_of_torchs_modules(
        a_point("tanh", "squared", widths, bias, weight_decay=0.3)
    )


def test_the_dense_reference_says_what_it_does_not_know():
    def square(z):
        return z**2

    with pytest.raises(sf.InputError, match=r"no dense reference for activation .*square"):
        dense_hessian(a_point(square, "squared"))
    point = a_point("tanh", lambda f, y: ((f - y) ** 4).sum())
    with pytest.raises(sf.InputError, match="no dense reference for loss"):
        dense_gradient(point)


# -- what the experiments came to --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["f19-generalisation", "f19-census", "f19-relu-fits", "f19-sussmann", "f19-decay"],
)
def test_every_check_holds_and_every_task_has_its_record(ran, name):
    found, records = ran(name)
    assert [check.claim for check in found.outcome.checks if not check.holds] == []
    assert found.png.startswith(b"\x89PNG")
    tasks = found.experiment.tasks(found.settings)
    assert [
        {key: record[key] for key in task} for task, record in zip(tasks, records, strict=True)
    ] == tasks
    assert len(qualified(records)) + sum("dropped" in record for record in records) == len(tasks)
    assert found.outcome == found.experiment.outcome(found.settings, records)


def claims_that_fail(found, records):
    outcome = found.experiment.outcome(found.settings, records)
    return [check.claim for check in outcome.checks if not check.holds]


# -- Fig. 2 ----------------------------------------------------------------------------------------


def ratios(records, activation, choice):
    """Of the last width over the first, on each data set."""
    mine = [each for each in records if each["activation"] == activation]
    assert mine
    return [each["ratios"][choice][-1][0] / each["ratios"][choice][0][0] for each in mine]


def test_surplus_tanh_units_cost_and_surplus_relu_units_do_not(ran):
    found, records = ran("f19-generalisation")
    assert all(ratio > 1.2 for ratio in ratios(records, "tanh", "v from N(0, 1)"))
    assert all(abs(ratio - 1) < 1e-9 for ratio in ratios(records, "relu", "middle of B_K"))
    medians = {
        (c["activation"], c["choice"]): c["quartiles"] for c in found.outcome.data["choices"]
    }
    rising = [middle for _, middle, _ in medians["tanh", "v from N(0, 1)"]]
    assert rising == sorted(set(rising))
    assert all(record["squared_error"] < 1e-29 for record in records)


def test_records_that_show_the_reverse_do_not_pass(ran):
    found, records = ran("f19-generalisation")
    reversed_ = copy.deepcopy(records)
    for each in reversed_:
        for choice, pairs in each["ratios"].items():
            each["ratios"][choice] = [[2 - ratio, error] for ratio, error in pairs]
            if each["activation"] == "relu":
                each["ratios"][choice] = [[1.0 + k, error] for k, (_, error) in enumerate(pairs)]
    assert [claim.split(":")[0] for claim in claims_that_fail(found, reversed_)] == ["tanh", "ReLU"]
    lost = [{**each, "dropped": "lost"} for each in records[:1]] + records[1:]
    assert claims_that_fail(found, lost) == [
        "nine tasks of ten or more found a data set with an exact fit"
    ]
    row = found.experiment.outcome(found.settings, lost).rows[-1]
    assert (row.measured, row.why) == ("5 of 6", "1: lost")


def test_five_tanh_units_are_not_always_the_fewest_that_fit():
    """As they are in F19's Fig. 2: four fit the third data set of the experiment."""
    problem, _ = noisy_points("tanh", draw=2000)
    fewer = sf.Problem(sf.MLP([1, 4, 1], "tanh"), problem.X, problem.y)
    assert tanh_fit(fewer, starts=8, iterations=200) is not None


def test_a_smallest_fit_goes_through_all_points():
    found = 0
    for draw in range(60):
        problem, _ = noisy_points("relu", draw)
        x, y = problem.X[:, 0].numpy(), problem.y[:, 0].numpy()
        fit = smallest_fit(x, y)
        if fit is not None:
            found += 1
            hidden = np.maximum(np.outer(x, fit["0.weight"][:, 0]) + fit["0.bias"], 0)
            assert np.abs(hidden @ fit["2.weight"][0] + fit["2.bias"] - y).max() < 1e-11
            assert fit["0.weight"].shape == (5, 1)
    assert 3 < found < 20


def some_linear_program_is_feasible(x, y, bias):
    """Whether H units fit 2H points: every order of kinks and points, facing, and sign is tried.

    In each of them ``d relu(±(x − t))`` is linear in d and e = d t on either side of the kink.
    """
    units = len(x) // 2
    edges = np.concatenate([[-np.inf], np.sort(x), [np.inf]])
    kinds = list(product(range(len(edges) - 1), [1, -1], [1, -1]))  # gap, facing, sign of d
    for chosen in combinations_with_replacement(kinds, units):
        columns, bounds, rows = [], [], []
        for unit, (gap, facing, sign) in enumerate(chosen):
            low, high = edges[gap : gap + 2]
            on = (x >= high) if facing > 0 else (x <= low)
            columns += [facing * x * on, -facing * 1.0 * on]
            bounds += [(0, None) if sign > 0 else (None, 0), (None, None)]
            for edge, side in ((low, -1), (high, 1)):  # side · sign · (e − edge · d) ≤ 0
                if np.isfinite(edge):
                    row = np.zeros(2 * units + 1)
                    row[2 * unit : 2 * unit + 2] = side * sign * np.array([-edge, 1.0])
                    rows.append(row)
        A = np.column_stack([*columns, np.full(len(x), float(bias))])
        bounds.append((None, None))
        zero = np.zeros(2 * units + 1)
        if linprog(zero, np.array(rows), np.zeros(len(rows)), A, y, bounds).status == 0:
            return True
    return False


@pytest.mark.parametrize("bias", [True, False])
def test_whether_there_is_a_fit_is_what_linear_programs_say(bias):
    answers = []
    for seed in range(10):
        random = np.random.default_rng(seed)
        x, y = np.sort(random.uniform(-1, 1, 4)), random.standard_normal(4)
        offsets = [found.offsets(x[0], y[0]) for found in fits(x, y)]
        answers.append(bool(offsets) if bias else any(c.min() < 0 < c.max() for c in offsets))
        assert some_linear_program_is_feasible(x, y, bias) == answers[-1], seed
        assert (smallest_fit(x, y) is not None) == bool(offsets)
    assert 2 <= sum(answers) <= 8


def test_rates_of_fits_are_counts_of_data_sets(ran):
    found, records = ran("f19-relu-fits")
    assert [record["draw"] for record in records] == list(DRAWS)
    for record in records[:2]:
        points = [
            DRAWS[record["draw"]].points(np.random.default_rng([0, number, 19]))
            for number in range(found.settings["data_sets"])
        ]
        assert record["fitted"] == sum(smallest_fit(x, y) is not None for x, y in points)
        assert 0 < record["unbiased"] <= record["fitted"]
    assert sum(record["reached"] for record in records) == 0


def test_other_rates_of_fits_do_not_pass(ran):
    found, records = ran("f19-relu-fits")
    often = [{**record, "fitted": record["data_sets"]} for record in records]
    assert claims_that_fail(found, often) == [
        "whatever the draw, one data set in four at most, and one in forty at least, has a fit"
    ]
    reached = [{**record, "reached": 1} for record in records]
    assert claims_that_fail(found, reached) == [
        "fewer than one start of a hundred finds a fit that is there"
    ]
    more = [{**record, "unbiased": record["fitted"]} for record in records]
    assert claims_that_fail(found, more) == ["without an output bias fewer have one"]
    none = [
        {"seed": 0, "draw": name, "data_sets": 60, "fitted": 0, "unbiased": 0, "dropped": "no fit"}
        for name in DRAWS
    ]
    outcome = found.experiment.outcome(found.settings, none)
    assert not any(check.holds for check in outcome.checks)
    assert outcome.rows[-1].measured == "0 of 8"


# -- the census ------------------------------------------------------------------------------------


def embedded(records):
    return [each for record in records for each in record["embedded"]]


def test_verdicts_are_what_the_theorems_say(ran):
    _, records = ran("f19-census")
    kinds = {"minimum": {"MINIMUM", "STRICT_MINIMUM"}, "saddle": {"STRICT_SADDLE"}}
    spoken = [
        (theorem, case, says, each["kind"])
        for each in embedded(records)
        for theorem, case, says in each["claims"]
        if says in kinds
    ]
    assert len({theorem for theorem, *_ in spoken}) == 5
    assert len({case for _, case, *_ in spoken}) >= 9
    assert all(kind in kinds[says] for *_, says, kind in spoken)
    assert all(each["against"] == [] for each in embedded(records))
    replicated = [each for each in embedded(records) if each["unit"] is not None]
    assert all(each["kind"] != "NOT_CRITICAL" for each in replicated)  # F19 Thm 2


def test_problems_and_points_of_the_census_add_up(ran):
    found, records = ran("f19-census")
    points, searched = (
        embedded(records),
        [each for record in records for each in record["searched"]],
    )
    assert len(searched) == len(records) * found.settings["problems"]
    assert all(bool(each["kept"]) != ("dropped" in each) for each in searched)
    assert all(sum(each["runs"].values()) == found.settings["starts"] for each in searched)
    assert sum(each["embedded"] for each in found.outcome.data["families"]) == len(points)
    stationary = [each for each in found.outcome.data["cases"] if "§B" in each["theorem"]]
    inactive = sum(each["embedding"] == "inactive units" for each in points)
    listed = sum(sum(each["kinds"].values()) for each in stationary)
    relu = sum(
        each["embedding"] == "inactive units" and "Thm 9" in each["claims"][0][0] for each in points
    )
    assert inactive > relu > 0
    assert listed == len(points) - relu
    assert sum(found.outcome.data["undecided"].values()) == sum(
        each["kind"] == "UNDECIDED" for each in points
    )


def test_the_census_can_fail(ran):
    found, records = ran("f19-census")

    def fails(change):
        doctored = copy.deepcopy(records)
        change(doctored)
        return [claim.split(" ")[0] for claim in claims_that_fail(found, doctored)]

    def saddle(doctored):
        return next(each for each in embedded(doctored) if each["kind"] == "STRICT_SADDLE")

    def contradict(doctored):
        saddle(doctored)["against"].append("different inertia")

    def faint(doctored):
        for each in embedded(doctored):
            each["open"].append("a way down too faint for float64")

    def undecided(doctored):
        for each in embedded(doctored):
            each["kind"] = "UNDECIDED"

    def kept(doctored):
        return [each["kept"] for record in doctored for each in record["searched"] if each["kept"]]

    def wrong_blocks(doctored):
        kept(doctored)[0][0]["lemma_4"] = 1e-3

    def silent(doctored):
        for each in embedded(doctored):
            each["claims"] = [claim for claim in each["claims"] if claim[0] != "F19 Thm 10"]

    def lose(doctored):
        kept(doctored)[0].clear()
        next(record for record in doctored if record["embedded"])["embedded"].clear()

    assert fails(lambda doctored: None) == []
    assert fails(contradict) == ["no"]
    assert fails(faint) == ["the"]
    assert "undecided" in fails(undecided)
    assert fails(wrong_blocks) == ["F"]
    assert fails(silent) == ["every"]
    assert fails(lose) == ["every"]


@pytest.fixture(scope="module")
def minimum():
    """A strict minimum with one unit that has G ≻ 0."""
    X = torch.linspace(-2, 2, 24, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.cos(2 * X) + 0.5 * X)
    return sf.find_critical_point(problem, starts=24, seed=0)


def test_evidence_speaks_against_false_verdicts(minimum):
    inside, outside = (sf.Replicate(0, 0, [w, None])(minimum) for w in (0.3, 1.5))
    stays, falls = sf.judge(inside), sf.judge(outside)
    assert (stays.kind, falls.kind) == (sf.Kind.MINIMUM, sf.Kind.STRICT_SADDLE)
    for wide, verdict in ((inside, stays), (outside, falls)):
        seen = evidence(wide, verdict, 0)
        assert (seen["against"], seen["open"]) == ([], [])
    called_minimum = dataclasses.replace(falls, kind=sf.Kind.MINIMUM)
    assert evidence(outside, called_minimum, 0)["against"] == ["a negative eigenvalue"]
    edge = sf.Replicate(0, 0, [1, 0])(minimum)
    assert sf.judge(edge).kind is sf.Kind.UNDECIDED
    called_minimum = dataclasses.replace(sf.judge(edge), kind=sf.Kind.MINIMUM)
    assert evidence(edge, called_minimum, 0)["against"] == ["a lower neighbour"]
    miscounted = dataclasses.replace(stays, inertia=sf.Inertia(5, 2, 0))
    assert evidence(inside, miscounted, 0)["against"] == ["different inertia"]
    uphill = dataclasses.replace(stays, kind=sf.Kind.STRICT_SADDLE)
    assert evidence(inside, uphill, 0)["against"] == ["does not fall"]
    overrated = dataclasses.replace(falls, curvature=2 * falls.curvature)
    assert evidence(outside, overrated, 0)["against"] == ["does not fall"]
    moving = sf.InactiveUnits(0, outgoing=[[0.8]])(minimum)
    called_critical = dataclasses.replace(sf.judge(moving), kind=sf.Kind.UNDECIDED)
    assert evidence(moving, called_critical, 0)["against"][0].startswith("a gradient of")


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "sin"])
def test_lemma_4_holds_at_any_point(activation, layer):
    point = a_point(activation, "cross_entropy")
    known = sf.unit_blocks(point, layer, 1)
    width = point.problem.net.hidden[layer]
    pair = sf.Replicate(layer, 1, [-0.6, 1.6])(point)
    F, G = blocks_from_pair(pair, layer, (1, width), (-0.6, 1.6))
    assert float(G.abs().max()) > 1e-4
    torch.testing.assert_close(F, known.F, rtol=0, atol=1e-14)
    torch.testing.assert_close(G, known.G, rtol=0, atol=1e-14)


def test_signs_are_told_from_rounding():
    def signs(*eigenvalues, F=0.0):
        G = torch.diag(torch.tensor(eigenvalues, dtype=torch.float64))
        return tuple(Blocks.of(torch.tensor([[F]], dtype=torch.float64), G, 2.0))

    assert signs(1, 2) == ("+", "0")
    assert signs(-1, -2, F=1e-9) == ("-", "?")
    assert signs(-1, 2, 1e-9, F=1e-3) == ("±", "≠")
    assert [signs(*each)[0] for each in [(0, 1e-12), (1, 1e-12), (1, 1e-9)]] == ["0", ".", "?"]


@pytest.mark.parametrize(
    ("widths", "activation", "G", "F", "shares", "says"),
    [
        ((1, 2, 2), "tanh", "+", "≠", (2, 0, 0), ["saddle"]),
        ((1, 2, 2), "tanh", "+", "0", (2, 0, 0), ["nothing"]),
        ((1, 2, 2), "tanh", "±", "?", (3, 0, 0), ["saddle"]),
        ((1, 2, 2), "tanh", "±", "≠", (1, 0, 1), ["nothing"]),
        ((1, 2, 2), "tanh", ".", "≠", (2, 0, 0), ["nothing"]),
        ((1, 2, 1), "tanh", "+", "0", (3, 0, 0), ["minimum"]),
        ((1, 2, 1), "tanh", "+", "0", (2, 0, 0), ["minimum", "minimum"]),
        ((1, 2, 1), "tanh", "+", "0", (2, 1, 0), ["saddle"]),
        ((1, 2, 1), "tanh", "-", "0", (1, 2, 0), ["minimum"]),
        ((1, 2, 1), "tanh", "-", "0", (1, 1, 0), ["minimum", "minimum"]),
        ((1, 2, 1), "tanh", "-", "0", (2, 1, 0), ["saddle"]),
        ((1, 2, 1), "tanh", "±", "0", (1, 0, 1), ["nothing", "nothing"]),
        ((1, 2, 1), "relu", "0", "0", (2, 0, 0), ["nothing"]),
        ((1, 2, 2), "relu", "0", "≠", (1, 1, 0), ["saddle"]),
        ((1, 2, 2, 1), "tanh", "+", "≠", (2, 0, 0), ["saddle"]),
        ((1, 2, 2, 1), "tanh", "+", "≠", (1, 1, 0), ["nothing"]),
        ((1, 2, 2, 1), "tanh", "-", "0", (1, 1, 0), ["minimum"]),
        ((1, 2, 2, 1), "tanh", "-", "0", (1, 2, 0), []),
        ((1, 2, 2, 2), "tanh", "-", "0", (1, 1, 0), []),
    ],
)  # fmt: skip
def test_claims_are_the_theorems(widths, activation, G, F, shares, says):
    net = sf.MLP(widths, activation)
    found = claims(net, "squared", 0, True, Blocks(G, F), Shares(*shares))
    assert [claim.says for claim in found] == says
    if found and found[0].theorem == "F19 Thm 11":
        flat = claims(net, "squared", 0, False, Blocks(G, F), Shares(*shares))
        assert flat[0].says == "nothing"


def test_what_contradicts_a_claim():
    kinds = list(sf.Kind)
    room = {
        says: [kind for kind in kinds if consistent(says, kind)]
        for says in ("minimum", "saddle", "critical", "nothing", "not critical in general")
    }
    assert room["minimum"] == [sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM, sf.Kind.UNDECIDED]
    assert room["saddle"] == [sf.Kind.STRICT_SADDLE, sf.Kind.UNDECIDED]
    assert set(kinds) - set(room["critical"]) == {sf.Kind.NOT_CRITICAL}
    assert room["nothing"] == room["not critical in general"] == kinds


def test_a_family_without_minima_is_dropped_with_the_reason():
    settings = {"problems": 2, "starts": 1, "iterations": 1, "minima": 1}
    record = run_census(settings, {"seed": 0, "family": FEW[0]})
    assert record["dropped"] == "no minimum in any of 2 problems"
    assert all(each["dropped"] == "no minimum: 1 MAX_ITERATIONS" for each in record["searched"])
    assert set(FEW) <= set(FAMILIES)


# -- slips ------------------------------------------------------------------------------------------


def test_at_zero_training_error_F_and_G_are_0_and_copies_add_zeros():
    problem, _ = noisy_points("tanh", 0)
    fit = tanh_fit(problem, 8, 200)
    wide = sf.Replicate(0, 2, [1.4, -0.4])(fit)
    verdict = sf.judge(wide)
    assert verdict.kind is sf.Kind.MINIMUM
    values = torch.linalg.eigvalsh(dense_hessian(wide))
    assert int((values > 1e-9 * values.max()).sum()) == verdict.inertia.positive == 10
    F, G = blocks_from_pair(wide, 0, (2, 5), (1.4, -0.4))
    assert float(max(F.abs().max(), G.abs().max())) < 1e-13


def test_the_coordinates_of_theorem_10_do_not_reach_a_copy_with_share_0():
    # Eq. (6) for λ = (1, 0) and A = (0, 1), which meets (A1) and (A2): v = Λ[1, Aᵀ](a, ξ).
    L, A = np.diag([1.0, 0.0]), np.array([[0.0, 1.0]])
    assert (A @ L @ A.T).tolist() == [[0.0]]
    assert np.linalg.matrix_rank(L @ np.vstack([np.ones(2), A]).T) == 1


def test_near_a_replicated_relu_unit_the_differences_do_not_matter():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    net = sf.MLP([2, 3, 2], "relu")
    point = sf.Point(sf.Problem(net, X, torch.zeros(20, 2)), net.random_params(0))
    wide = sf.ScaledReplicate(0, 1, [2, 0.5], [0.25, None])(point)  # γβ = 0.5, 0.5
    params = {key: value.clone() for key, value in wide.params.items()}
    eta = 1e-6 * torch.randn(3, generator=generator, dtype=torch.float64)
    for place, beta, alpha in ((1, 2.0, 1.0), (3, 0.5, -1.0)):  # Σ α γβ = 0
        params["0.weight"][place] += beta * alpha * eta[:2]
        params["0.bias"][place] += beta * alpha * eta[2]
    moved = wide.problem.net.forward(params, X)
    torch.testing.assert_close(moved, net.forward(point.params, X), rtol=0, atol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_units_inactive_both_ways_add_flat_directions(bias):
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    y = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    net = sf.MLP([2, 2, 2], "tanh", [bias, True])
    point = sf.find_critical_point(sf.Problem(net, X, y), starts=16, seed=0)
    wide = sf.InactiveUnits(0, 1)(point)
    rank = int(torch.linalg.matrix_rank(sf.layer_block(point, 0), atol=1e-9))
    added = sf.judge(wide).inertia.zero - sf.judge(point).inertia.zero
    assert added == 2 + net.fan_in(0) - 2 * rank
    assert added == (1 if bias else 0)


# -- surplus units that are planted ------------------------------------------------------------------


def test_records_of_units_that_were_not_found_are_seen_to_contradict_sussmann(ran):
    found, records = ran("f19-sussmann")
    experiment, settings = found.experiment, found.settings
    assert {kind for each in records for case in each["cases"] for kind in case["planted"]} == set(
        sussmann.PLANTS
    )
    bad = copy.deepcopy(records)
    surplus, bare = (
        next(case for each in bad for case in each["cases"] if bool(case["planted"]) is planted)
        for planted in (True, False)
    )
    surplus |= {"same": False, "left": 1, "back": 1e-3}
    bare |= {"same": False, "left": -1}
    checks = experiment.outcome(settings, bad).checks
    assert not any(check.holds for check in checks)
    assert not any(check.holds for check in experiment.outcome(settings, []).checks)


@pytest.mark.parametrize("kind", sussmann.PLANTS)
@pytest.mark.parametrize("depth", [1, 2])
def test_a_planted_unit_changes_no_output_and_another_network_is_not_the_same(kind, depth):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    layers = [(normal(2, 2), normal(2)) for _ in range(depth + 1)]
    X, chance = normal(30, 2), random.Random(0)
    wide = sussmann._shuffled(sussmann.PLANTS[kind](layers, depth - 1, chance, normal), chance)
    given, narrow = sussmann._point(wide, X), sussmann._point(layers, X)
    assert len(wide[depth - 1][1]) == 3
    modules = [
        given.problem.net.to_module(given.params),
        narrow.problem.net.to_module(narrow.params),
    ]
    one, other = (module(X) for module in modules)
    torch.testing.assert_close(one, other, rtol=0, atol=1e-13)
    assert sussmann._apart(sf.reduce(given).point, narrow) < 1e-13
    moved = [(rows + 1e-3, biases) for rows, biases in layers]
    assert sussmann._apart(sussmann._point(moved, X), narrow) > 1e-4


# -- §5.3: decay -----------------------------------------------------------------------------------


def test_decay_makes_copies_of_surplus_tanh_units(ran):
    found, records = ran("f19-decay")
    width = found.settings["width"]
    for record in records:
        for end in record["ends"]:
            assert end["needed"] + end["copies"] + end["inactive"] == width
    (most,) = [r for r in records if (r["activation"], r["decay"]) == ("tanh", 1e-2)]
    assert all(end["copies"] > end["inactive"] for end in most["ends"])
    compared = [end for end in most["ends"] if "alone" in end]
    assert compared
    assert all(end["risk"] < end["alone"] for end in compared)


def test_the_checks_of_the_decay_can_fail(ran):
    found, records = ran("f19-decay")
    bad = copy.deepcopy(records)
    for record in bad:
        for end in record["ends"]:
            end |= {"needed": 2, "copies": 1, "inactive": 5}
            end |= {"alone": 0.0} if "alone" in end else {}
    assert len(claims_that_fail(found, bad)) == 3
    assert len(claims_that_fail(found, [])) == 3


def test_a_faint_copy_counts_as_inactive():
    problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.0], [1.0], [2.0]], [0.0, 1.0, 0.5, -1.0])
    point = sf.Point(problem, problem.net.random_params(seed=0))
    for shares, expected in (([0.5, 0.5], (1, 0)), ([0.99, 0.01], (0, 1))):
        found = decay.counts(sf.Replicate(0, 0, shares)(point))
        assert (found["needed"], found["copies"], found["inactive"]) == (2, *expected)
