"""Stages of training: plateaus from losses alone, the critical functions near them, and how they are left."""

from __future__ import annotations

import copy
import json
import pickle
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import semiflat as sf
from helpers import refused
from semiflat.nesting.leaving import near_points
from semiflat.nesting.plateaus import find_plateaus
from semiflat.nesting.stages import stages_of_folder

LOG = np.unique(np.geomspace(1, 1e5, 200).round()).astype(int).tolist()
EVEN = list(range(100, 100_001, 500))

# -- plateaus --------------------------------------------------------------------------------------

WITHOUT = {
    "power law": lambda t: t**-0.5,
    "slow power law": lambda t: t**-0.05,
    "fast power law": lambda t: t**-3.0,
    "exponential": lambda t: np.exp(-t / 1e3),
    "slow exponential": lambda t: np.exp(-t / 1e5),
    "at rest after an exponential": lambda t: np.exp(-t / 300) + 0.01,
    "at rest after a power law": lambda t: 1 / t + 0.01,
    "constant": lambda t: 1 + 0 * t,
    "rising": lambda t: 1 + t / 1e4,
    "slow before the first fall": lambda t: 1 / (1 + (t / 3e3) ** 3),
}


@pytest.mark.parametrize("steps", [LOG, EVEN], ids=["even in the logarithm", "even"])
@pytest.mark.parametrize("noise", [0, 0.003, 0.03], ids=lambda noise: f"noise {noise}")
@pytest.mark.parametrize("name", WITHOUT)
def test_there_is_no_plateau_without_a_fall_before_and_after(name, noise, steps):
    t = np.array(steps, float)
    rng = np.random.default_rng(0)
    for _ in range(10 if noise else 1):
        losses = WITHOUT[name](t) * np.exp(noise * rng.standard_normal(len(t)))
        assert find_plateaus(steps, losses) == []


def staircase(t, levels, falls):
    """The first level, and from each fall on, within a factor of two of steps, the next."""
    parts = [
        (above - below) / (1 + (t / fall) ** 4)
        for above, below, fall in zip(levels, levels[1:], falls, strict=False)
    ]
    return levels[-1] + sum(parts)


@pytest.mark.parametrize("noise", [0, 0.01, 0.03])
@pytest.mark.parametrize(
    ("levels", "falls"),
    [
        ([1, 0.1, 0.01], [30, 10_000]),
        ([1000, 100, 40], [10, 3_000]),
        ([1, 0.5, 1e-9], [30, 10_000]),
        ([1, 0.1, 0.01, 0.001], [5, 300, 20_000]),
    ],
)
def test_each_step_of_a_staircase_is_one_plateau_at_its_level(levels, falls, noise):
    t, rng = np.array(LOG, float), np.random.default_rng(0)
    for _ in range(10 if noise else 1):
        losses = staircase(t, levels, falls) * np.exp(noise * rng.standard_normal(len(t)))
        found = find_plateaus(LOG, losses)
        assert len(found) == len(levels) - 2
        between = zip(found, levels[1:-1], falls[:-1], falls[1:], strict=True)
        for plateau, level, fell, falls_next in between:
            assert losses[plateau.flattest] == pytest.approx(level, rel=0.05 + 3 * noise)
            assert fell < t[plateau.first] < t[plateau.flattest] < t[plateau.last] < falls_next


def test_units_of_the_loss_and_of_the_steps_do_not_matter():
    losses = staircase(np.array(LOG, float), [1, 0.1, 0.01], [30, 10_000])
    found = find_plateaus(LOG, losses)
    assert find_plateaus(LOG, 1e-9 * losses) == found
    assert find_plateaus([7 * step for step in LOG], losses) == found


def test_a_small_fall_shows_in_exact_losses_and_not_among_noise():
    t = np.array(LOG, float)
    losses = staircase(t, [1, 0.5, 0.47], [30, 10_000])
    assert len(find_plateaus(LOG, losses)) == 1
    noisy = losses * np.exp(0.05 * np.random.default_rng(0).standard_normal(len(t)))
    assert find_plateaus(LOG, noisy) == []


def bent(before, along, after, long=20.0):
    """Steps and losses whose logarithm falls by such amounts while the steps double, the middle for so long."""
    steps = np.unique(np.geomspace(10, 1e6, 400).round()).astype(int)
    x = np.log2(steps / 10)
    first, second = 6.0, 6.0 + np.log2(long)
    y = -before * np.minimum(x, first) - along * np.clip(x - first, 0, second - first)
    return steps.tolist(), np.exp(y - after * np.maximum(x - second, 0))


@pytest.mark.parametrize(
    ("without", "within"),
    [
        ((2.0, 0.11, 2.0), (2.0, 0.09, 2.0)),  # a tenth while the steps double
        ((0.2, 0.055, 2.0), (0.2, 0.045, 2.0)),  # a quarter of the fall before
        ((2.0, 0.055, 0.2), (2.0, 0.045, 0.2)),  # and of the one after
        ((0.003, 0.0, 2.0), (0.004, 0.0, 2.0)),  # 2 % in all before: six doublings
        ((2.0, 0.0, 0.0028), (2.0, 0.0, 0.0035)),  # and after
        ((2.0, 0.0, 2.0, 2.4), (2.0, 0.0, 2.0, 3.6)),  # long enough, with a factor of two about it
    ],
)
def test_a_plateau_is_as_slow_and_as_long_as_is_said(without, within):
    assert find_plateaus(*bent(*without)) == []
    assert len(find_plateaus(*bent(*within))) == 1


# -- runs ------------------------------------------------------------------------------------------

X = torch.linspace(-2, 2, 41, dtype=torch.float64)[:, None]
Y = torch.tanh(3 * (X + 0.8)) + 0.6 * torch.tanh(4 * (X - 1))
PROBLEM = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, Y)
WIDE = sf.MLP([1, 6, 1], "tanh")


@pytest.fixture(scope="module")
def h():
    return sf.hierarchy(PROBLEM, [1, 2], starts=8, saddle_starts=0, seed=0, processes=1)


def descend(y, params, rate, steps, see):
    """Gradient descent on X and y for one hidden layer of tanh units; ``see`` is told each step."""
    w, b, v, c = params["0.weight"].T, params["0.bias"], params["2.weight"].T, params["2.bias"]
    for step in range(1, steps + 1):
        hidden = torch.tanh(X @ w + b)
        error = rate / len(X) * (hidden @ v + c - y)
        back = error @ v.T * (1 - hidden**2)
        w, b = w - X.T @ back, b - back.sum(0)
        v, c = v - hidden.T @ error, c - error.sum(0)
        see(step, {"0.weight": w.T, "0.bias": b, "2.weight": v.T, "2.bias": c})


@pytest.fixture(scope="module")
def run(h):
    """A run of six units past the best function of one: a logger with its checkpoints."""
    log = sf.StageLogger(factor=1.05)
    start = WIDE.random_params(seed=1, scale=0.3)
    log(start, 0)
    descend(Y, start, 0.3, 2500, lambda step, params: log(params, step))
    return log


@pytest.fixture(scope="module")
def stages(h, run):
    return sf.stages(h, run)


def test_a_run_that_stays_near_the_best_function_of_one_unit_is_seen_to(h, run, stages):
    (plateau,) = stages.plateaus
    function = h.critical_functions()[plateau.function]
    assert function.hidden == (1,)
    assert plateau.near
    assert plateau.loss == pytest.approx(function.loss, rel=0.05)
    assert plateau.first < plateau.step < plateau.last < plateau.left
    assert [row.step for row in stages] == run.steps
    assert stages.reason == plateau.reason == ""
    # It ends below all functions of one unit, and where it is near is one of two.
    assert h.critical_functions()[stages[-1].function].hidden == (2,)


def test_a_plateau_knows_what_its_function_is_in_the_trained_network(h, stages):
    (plateau,) = stages.plateaus
    assert [point.how for point in plateau.points] == ["inside", "outside", "null units"]
    point = h[plateau.points[0].point]
    copies = sf.judge(sf.Replicate.uniform(0, 0, copies=6)(point))
    assert plateau.points[0].kind is copies.kind is sf.Kind.STRICT_SADDLE
    assert plateau.points[0].inertia == tuple(copies.inertia)
    assert plateau.points[0].curvature == copies.curvature


def test_rows_say_distance_and_loss_as_they_are(h, run, stages):
    params = run.checkpoints[40]
    outputs = WIDE.forward(params, X)
    row = stages[40]
    off = [float((outputs - f.outputs).square().mean().sqrt()) for f in h.critical_functions()]
    spread = max(float(Y.std(correction=0)), float(outputs.std(correction=0)))
    assert row.function == int(np.argmin(off))
    assert row.distance == pytest.approx(min(off) / spread)
    assert row.loss == pytest.approx(float((outputs - Y).square().mean()) / 2)


def test_a_run_straight_to_its_end_has_no_plateau(h):
    problem = sf.Problem(PROBLEM.net, X, torch.tanh(X))
    log = sf.StageLogger()
    descend(problem.y, WIDE.random_params(seed=0), 0.2, 300, lambda step, at: log(at, step))
    found = sf.stages(sf.hierarchy(problem, [1], starts=2, processes=1), log)
    assert (found.plateaus, found.reason) == ((), "")


def test_functions_are_told_whatever_the_width(h):
    point = h["2-0"]
    for copies in (2, 5, 400):
        wide = sf.Replicate.uniform(0, 1, copies)(point)
        (row,) = sf.stages(h, [wide.params])
        assert (row.function, row.distance < 1e-10) == (point.record.function, True)


def test_of_some_points_of_a_hierarchy_the_functions_keep_their_numbers(h, tmp_path):
    h.save(tmp_path / "h.db")
    some = sf.load_hierarchy(tmp_path / "h.db", X, Y, widths=[2])
    for row in sf.stages(some, [h["2-0"].params]):
        assert row.function == h["2-0"].record.function
        assert row.distance < 1e-12


def test_effective_widths_are_found_where_they_are_asked_for(h):
    wide = sf.Replicate(0, 0, [0.3, 0.7])(h["1-0"])
    assert [row.effective for row in sf.stages(h, [wide.params], tolerance=1e-6)] == [(1,)]
    assert [row.effective for row in sf.stages(h, [wide.params])] == [None]


# -- the way out -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def left():
    """A saddle of two units, and the change of outputs when gradient descent has left it from beside it."""
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, X.abs() - X)
    point = sf.find_critical_point(problem, starts=8, seed=0)
    saddle = sf.Replicate(0, 0, [0.5, 0.5])(point)
    net, generator = saddle.problem.net, torch.Generator().manual_seed(1)
    at = net.flatten(saddle.params)
    start = at + 1e-3 * torch.randn(len(at), generator=generator, dtype=torch.float64)
    ends = []
    descend(problem.y, net.unflatten(start), 0.8, 300, lambda step, params: ends.append(params))
    loss = float(saddle.problem.risk(ends[-1]))
    assert 0.9 * point.loss < loss < 0.999 * point.loss, "it is on its way down"
    return point, net.forward(ends[-1], X) - problem.outputs(point.params)


def test_gradient_descent_leaves_an_embedded_saddle_along_the_laws_descent(left):
    inside, outside, null = near_points("1-0", left[0], (2,), left[1])
    assert inside.cosine > 0.999
    assert inside.telling
    assert (outside.cosine, null.cosine) < (0.99, 0.9)
    assert not any(way.telling for way in (outside, null))


def test_what_the_narrow_units_do_themselves_does_not_count(left):
    point, change = left
    tangent = (sf.jacobian(point)[:, 0] @ torch.ones(4, dtype=torch.float64))[:, None]
    moved = change + 100 * change.norm() / tangent.norm() * tangent
    for one, two in zip(
        near_points("1-0", point, (2,), change), near_points("1-0", point, (2,), moved), strict=True
    ):
        assert one.cosine == pytest.approx(two.cosine, abs=1e-9)


def test_a_change_within_reach_of_the_narrow_units_is_compared_with_nothing(left):
    tangent = sf.jacobian(left[0])[:, 0, :1]
    for near in near_points("1-0", left[0], (2,), tangent):
        assert (near.kind, near.cosine, near.telling) == (sf.Kind.STRICT_SADDLE, None, False)
        assert near.reason == "the narrow units alone can change the outputs so"


def test_networks_too_large_to_compare_in_are_judged_all_the_same(left):
    for near in near_points("1-0", left[0], (100_000,), left[1]):
        assert (near.kind, near.cosine) == (sf.Kind.STRICT_SADDLE, None)
        assert near.reason == "ways down are compared in networks of up to 200000 parameters"


def test_a_way_is_telling_only_if_it_is_most_of_the_change_and_no_chance(left):
    near = near_points("1-0", left[0], (2,), left[1])[0]
    assert replace(near, cosine=0.71, chance=0.05).telling
    assert not replace(near, cosine=0.70, chance=0.0).telling
    assert not replace(near, cosine=-0.9, chance=0.0).telling
    assert not replace(near, cosine=0.99, chance=0.06).telling


def test_points_at_infinity_and_minima_are_judged_and_compared_where_there_is_a_way_down(h):
    change = torch.sin(5 * X)
    (own,) = near_points("2-0", h["2-0"], (2,), change)
    assert (own.how, own.kind, own.cosine) == ("own", sf.Kind.STRICT_MINIMUM, None)
    at_infinity = next(point for point in h if point.record.at_infinity)
    kinds = {near.how: near for near in near_points("at", at_infinity, (6,), change)}
    assert kinds["null units"].kind is sf.Kind.STRICT_SADDLE
    assert kinds["null units"].cosine is not None


def test_with_several_outputs_whose_differences_alone_count_shifts_do_not():
    rng = torch.Generator().manual_seed(0)
    inputs = torch.randn(30, 2, generator=rng, dtype=torch.float64)
    classes = (inputs[:, 0] > 0).long() + (inputs[:, 1] > 0.5).long()
    problem = sf.Problem(
        sf.MLP([2, 1, 3], "tanh"), inputs, classes, "cross_entropy", weight_decay=1e-2
    )
    small = sf.hierarchy(problem, [1], starts=4, processes=1)
    lowest = small.points[0]
    wide = sf.NullUnits(0, [0.0, 0.0])(lowest).params
    wide["2.bias"] = wide["2.bias"] + 5.0
    (row,) = sf.stages(small, [wide])
    assert row.distance < 1e-10
    assert row.loss == pytest.approx(small.critical_functions()[row.function].loss, rel=1e-10)
    change = torch.randn(30, 3, generator=rng, dtype=torch.float64)
    kinds = {near.how: near.kind for near in near_points("1-0", lowest, (3,), change)}
    assert kinds["inside"] is sf.Kind.NOT_CRITICAL, "the penalty moves copies"


# -- what near is ----------------------------------------------------------------------------------


def test_near_is_close_and_closer_than_to_any_other(stages):
    (plateau,) = stages.plateaus
    assert replace(plateau, distance=0.05, second_distance=0.1).near
    assert not replace(plateau, distance=0.051, second_distance=0.5).near
    assert not replace(plateau, distance=0.05, second_distance=0.099).near
    assert replace(plateau, distance=0.01, second=None, second_distance=None).near


def test_a_plateau_near_nothing_says_so_and_has_no_points(h, run):
    other = sf.Problem(PROBLEM.net, X, Y + torch.sin(9 * X))  # none of its functions is near
    found = sf.stages(sf.hierarchy(other, [1], starts=4, processes=1), run)
    (plateau,) = found.plateaus
    assert not plateau.points
    assert plateau.reason.startswith("no critical function")
    assert "not clearly near" in str(plateau)


def test_why_no_plateaus_were_looked_for_is_said(h, run):
    assert "plateaus need 5 checkpoints" in sf.stages(h, run.checkpoints[:3]).reason
    other = copy.copy(h)
    other.problem = sf.Problem(PROBLEM.net, X, Y, lambda f, y: ((f - y) ** 2).sum() - 1)
    found = sf.stages(other, run.checkpoints[:5])
    assert (found.plateaus, "infimum is not known" in found.reason) == ((), True)


# -- forms -----------------------------------------------------------------------------------------


def test_results_are_plain_data_tables_and_copies(stages):
    plain = json.loads(json.dumps(stages.to_json()))
    assert len(plain["checkpoints"]) == len(stages)
    assert plain["plateaus"][0]["points"][0]["kind"] == "STRICT_SADDLE"
    assert plain["functions"][0].keys() == {"number", "points", "hidden", "loss"}
    again = pickle.loads(pickle.dumps(stages))
    assert again.to_json() == copy.deepcopy(stages).to_json() == stages.to_json()
    pytest.importorskip("pandas")
    table = stages.to_dataframe()
    on = table[table.plateau == 0].step
    assert (on.min(), on.max()) == (stages.plateaus[0].first, stages.plateaus[0].last)
    kept, last = len(stages), stages[-1].step
    words = f"Stages(checkpoints={kept}, steps=[0, {last}], widths=[6], plateaus=1)"
    assert repr(stages) == words


def test_the_picture_has_the_plateau_and_the_functions_in_greys(h, stages):
    from matplotlib.colors import to_rgb

    ax = stages.plot()
    (shade,) = ax.patches
    assert shade.get_x() == stages.plateaus[0].first
    *levels, curve = ax.lines
    assert {float(line.get_ydata()[0]) for line in levels} <= {
        function.loss for function in h.critical_functions()
    }
    assert [line.get_linestyle() for line in levels] == ["--", "--"], (
        "on the plateau and at the end"
    )
    passed = replace(stages, plateaus=()).plot()
    assert sorted(line.get_linestyle() for line in passed.lines) == ["-", "--", ":"]
    assert len(curve.get_xdata()) == len(stages) - 1, "all but step 0"
    colours = [shade.get_facecolor()[:3], *(to_rgb(line.get_color()) for line in ax.lines)]
    assert all(len(set(colour)) == 1 for colour in colours)
    assert "1-0" in [text.get_text() for text in ax.texts]
    assert stages.plot(ax) is ax
    assert "matplotlib.pyplot" not in sys.modules or ax.figure.canvas.manager is None


@pytest.mark.parametrize(("module", "method"), [("matplotlib", "plot"), ("pandas", "to_dataframe")])
def test_what_is_not_installed_is_said_in_one_line(stages, monkeypatch, module, method):
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, module, None)
    with refused(f"needs {module}: pip install"):
        getattr(stages, method)()


# -- checkpoints -----------------------------------------------------------------------------------


def test_checkpoints_of_every_kind_are_read_alike(h, run, stages):
    some = run.checkpoints[::30]
    steps = run.steps[::30]
    modules = [WIDE.to_module(params) for params in some]
    named = [
        {key.replace("0.", "fc.").replace("2.", "out."): t for key, t in p.items()} for p in some
    ]
    points = [sf.Point(PROBLEM.with_net(WIDE), params) for params in some]
    expected = [row for row in stages if row.step in steps]
    for given in (some, named, modules, points):
        assert list(sf.stages(h, given, steps=steps)) == expected


def test_a_module_is_read_as_it_computes_in_eval_mode_and_stays_in_its_own(h):
    module = nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Dropout(0.5), nn.Linear(6, 1)).double()
    log = sf.StageLogger()
    log(module)
    assert module.training
    params = {"0.weight": module[0].weight, "0.bias": module[0].bias}
    params |= {"2.weight": module[3].weight, "2.bias": module[3].bias}
    assert list(sf.stages(h, log)) == list(sf.stages(h, [params]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "there are no checkpoints"),
        (sf.StageLogger(), "there are no checkpoints"),
        ({"0.weight": X}, "must be a list, or a StageLogger, not a dict"),
        ([3], "checkpoint 0 (step 1): a checkpoint is a dict of parameters"),
        ([{}], "it holds no weights of linear layers"),
        ([sf.MLP([2, 6, 1]).random_params(0)], "its widths are [2, 6, 1]"),
        ([sf.MLP([1, 6, 2]).random_params(0)], "only hidden widths may differ"),
        ([sf.MLP([1, 6, 6, 1]).random_params(0)], "1 hidden layer(s)"),
        ([sf.MLP([1, 6, 1], bias=False).random_params(0)], "missing keys ['0.bias', '2.bias']"),
        ([sf.MLP([1, 6, 1], "gelu").to_module()], "it has activations ['gelu']"),
        ([{"a.weight": torch.zeros(6, 1), "b.weight": torch.zeros(1, 5)}], "no layers one after"),
        (
            [sf.MLP([1, 6, 1]).random_params(0), sf.MLP([1, 5, 1]).random_params(0)],
            "checkpoint 1 (step 2) has hidden widths [5], and the first one [6]",
        ),
        ([{k: t * torch.inf for k, t in WIDE.random_params(0).items()}], "not finite"),
        (
            [sf.Point(sf.Problem(WIDE, X[1:], Y[1:]), WIDE.random_params(0))],
            "other data (40 samples) than the hierarchy's (41)",
        ),
        (
            [sf.Point(sf.Problem(WIDE, X, Y, "log_cosh"), WIDE.random_params(0))],
            "it is a point of the loss log_cosh",
        ),
    ],
)
def test_what_is_no_checkpoint_of_the_problem_is_refused(h, given, said):
    with refused(said):
        sf.stages(h, given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": [1]}, "1 steps were given for 2 checkpoints"),
        ({"steps": [5, 5]}, "steps must grow, and 5 follows 5"),
        ({"steps": [-1, 5]}, "a step must be a whole number of at least 0, not -1"),
        ({"steps": 3}, "steps must be a list of whole numbers, not 3"),
        ({"tolerance": 0}, "tolerance must be positive"),
    ],
)
def test_options_that_make_no_sense_are_refused(h, options, said):
    with refused(said):
        sf.stages(h, [WIDE.random_params(0), WIDE.random_params(1)], **options)


def test_what_is_no_hierarchy_is_refused(run):
    for given in (sf.stages, stages_of_folder):
        with refused("expected a hierarchy, of sf.hierarchy(…), not a Problem"):
            given(PROBLEM, run.checkpoints)


def test_a_logger_knows_its_steps(h, run):
    with refused("a StageLogger knows its steps"):
        sf.stages(h, run, steps=run.steps)


# -- the logger ------------------------------------------------------------------------------------


def test_a_logger_keeps_steps_even_in_their_logarithm_and_copies():
    module, log = WIDE.to_module(WIDE.random_params(0)), sf.StageLogger(factor=2)
    kept = [log(module, 0), *(log(module) for _ in range(20))]
    assert log.steps == [0, 1, 2, 4, 8, 16]
    assert [k for k, yes in enumerate(kept) if yes] == log.steps
    before = log.checkpoints[-1]["0.weight"].clone()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(log.checkpoints[-1]["0.weight"], before)
    assert (len(log), repr(log)) == (6, "StageLogger(checkpoints=6, steps=0..16)")


def test_a_logger_is_of_one_run(tmp_path):
    log = sf.StageLogger()
    log(WIDE.random_params(0), 10)
    assert not log(WIDE.random_params(0), 10), "seen before"
    with refused("step 9 comes after step 10"):
        log(WIDE.random_params(0), 9)
    with refused("factor must be at least 1"):
        sf.StageLogger(factor=0.5)
    with refused("a checkpoint is a dict"):
        sf.StageLogger()(3)


def test_a_folder_holds_the_run_and_no_file_of_it_is_replaced(h, tmp_path):
    def training(seed):
        log = sf.StageLogger(factor=3, folder=tmp_path)
        for step in range(1, 31):
            log(WIDE.to_module(WIDE.random_params(seed + step)), step)
        return log

    log = training(0)
    names = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert names.keys() == {f"step-{step}.safetensors" for step in (1, 3, 9, 27)}
    assert stages_of_folder(h, tmp_path).to_json() == sf.stages(h, log).to_json()
    with refused("step-1.safetensors' is there already"):
        training(5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == names


def test_files_of_others_and_points_are_read_by_the_numbers_in_their_names(h, tmp_path):
    runs = [WIDE.random_params(seed) for seed in range(3)]
    save_file(runs[0], tmp_path / "epoch2-step-9.safetensors")
    sf.save_point(sf.Point(PROBLEM.with_net(WIDE), runs[1]), tmp_path / "p100.safetensors")
    save_file(runs[2], tmp_path / "1000.safetensors")
    found = stages_of_folder(h, tmp_path)
    assert found.to_json() == sf.stages(h, runs, steps=[9, 100, 1000]).to_json()


def _point_on_other_data(folder: Path) -> None:
    problem = sf.Problem(WIDE, X[1:], Y[1:])
    sf.save_point(sf.Point(problem, WIDE.random_params(0)), folder / "1.safetensors")


def _other_activation(folder: Path) -> None:
    sf.StageLogger(folder=folder)(sf.MLP([1, 6, 1], "gelu").to_module())


def _pickle(folder: Path) -> None:
    torch.save(WIDE.random_params(0), folder / "1.safetensors")


def _no_number(folder: Path) -> None:
    save_file(WIDE.random_params(0), folder / "last.safetensors")


def _twice(folder: Path) -> None:
    save_file(WIDE.random_params(0), folder / "a-1.safetensors")
    save_file(WIDE.random_params(0), folder / "b-1.safetensors")


def _damaged(folder: Path) -> None:
    metadata = {"format": "semiflat-checkpoint-1", "network": '{"widths": 3}'}
    save_file(WIDE.random_params(0), folder / "1.safetensors", metadata)


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (lambda folder: None, "there are no .safetensors files in"),
        (_point_on_other_data, "are not those that"),
        (_other_activation, "it has activations ['gelu']"),
        (_pickle, "is a pickle or a torch checkpoint"),
        (_no_number, "has no number in its name"),
        (_twice, "are both of step 1"),
        (_damaged, "is damaged"),
    ],
)
def test_folders_that_hold_no_run_are_refused(h, tmp_path, fill, said):
    fill(tmp_path)
    with refused(said):
        stages_of_folder(h, tmp_path)


# -- Lightning -------------------------------------------------------------------------------------


class Model(nn.Module):
    """What a LightningModule is to the callback."""

    def __init__(self) -> None:
        super().__init__()
        self.net = WIDE.to_module(WIDE.random_params(0))


def fitted(callback, module, batches=5, rank_zero=True):
    """What a Trainer calls, in its order."""
    trainer = types.SimpleNamespace(global_step=0, is_global_zero=rank_zero)
    callback.on_train_start(trainer, module)
    for batch in range(batches):
        trainer.global_step += batch % 2  # gradients of two batches are gathered
        callback.on_train_batch_end(trainer, module, None, None, batch)


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_logs_each_step_of_the_optimiser_once(h, monkeypatch, package):
    class Callback:
        """Lightning's."""

    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    here = f"{package}.callbacks"
    for name in {package.split(".")[0], package, here}:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[here].Callback = Callback  # type: ignore[attr-defined]
    log = sf.StageLogger()
    callback = log.callback("net")
    assert isinstance(callback, Callback)
    fitted(callback, Model())
    assert log.steps == [0, 1, 2]
    assert len(sf.stages(h, log)) == 3
    whole = sf.StageLogger()
    fitted(whole.callback(), Model())
    assert list(sf.stages(h, whole)) == list(sf.stages(h, log))
    other = sf.StageLogger()
    fitted(other.callback(), Model(), rank_zero=False)
    assert other.steps == []
    with refused("the LightningModule has no network 'model'; it has net"):
        fitted(sf.StageLogger().callback("model"), Model())


def test_without_lightning_one_line_says_so(monkeypatch):
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        for module in (
            name,
            f"{name}.callbacks",
        ):  # what was imported before is not asked of its package
            monkeypatch.setitem(sys.modules, module, None)
    with refused("a callback needs Lightning: pip install lightning"):
        sf.StageLogger().callback()
