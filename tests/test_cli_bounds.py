"""`semiflat bound` and what it prints and refuses."""

import json

import numpy as np
import pytest

import semiflat as sf
from helpers import run


def noisy_line(n=600):
    """Points of the unit disk; the class is the side of a line, flipped with probability 0.05."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(n, 2))
    X *= np.sqrt(generator.random((n, 1))) / np.linalg.norm(X, axis=1, keepdims=True)
    y = (X[:, 0] + 0.3 > X[:, 1]) ^ (generator.random(n) < 0.05)
    return X, y.astype(int)


def saved(folder, problem, params):
    """A file of a point, with its data beside it."""
    y = problem.y.numpy() if problem.y.ndim == 1 else problem.y[:, 0].numpy()
    y = y.astype(int) if problem.loss.name == "logistic" else y
    np.savez(folder / "d.npz", X=problem.X.numpy(), y=y)
    source = {"source": str(folder / "d.npz"), "target": None, "standardise": False}
    sf.save_point(sf.Point(problem, params), folder / "p.safetensors", source)
    return folder / "p.safetensors"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Files of a tanh and a relu network at minima of the logistic loss."""
    X, y = noisy_line()
    found = {}
    for activation in ("tanh", "relu"):
        problem = sf.Problem(sf.MLP([2, 2, 1], activation), X, y, "logistic", weight_decay=1e-3)
        point = sf.find_critical_point(problem, starts=4, seed=1)
        found[activation] = saved(tmp_path_factory.mktemp(activation), problem, point.params)
    return found


def regression(folder, noise=0.0):
    """Random parameters that fit their own outputs: loss 0, or not, with noise."""
    generator = np.random.default_rng(3)
    X, net = generator.normal(size=(40, 2)), sf.MLP([2, 2, 1], "tanh")
    params = net.random_params(2)
    y = net.forward(params, sf.Problem(net, X, np.zeros(40)).X).numpy()
    problem = sf.Problem(net, X, y + noise * generator.normal(size=y.shape))
    return saved(folder, problem, params)


def test_bound_prints_the_bound_what_it_is_made_of_and_what_it_rests_on(capsys, trained):
    code, out, err = run(capsys, "bound", trained["tanh"], "--draws", "200")
    assert (code, err) == (0, "")
    assert out.startswith(
        "non-vacuous: the true zero-one loss of the stochastic network is at most"
    )
    for start in (
        "McAllester: ",
        "KL, network (9 parameters): ",
        "sigma ",
        "assumes: widths 2-2-1",
    ):
        assert f"\n{start}" in out
    assert "standardised" not in out


def test_bound_in_json_is_the_library_s(capsys, trained):
    code, out, _ = run(
        capsys, "bound", trained["tanh"], "--json", "--draws", "200", "--delta", "0.1"
    )
    record = json.loads(out)
    point = sf.load_point(trained["tanh"]).point(*noisy_line())
    bound = sf.pac_bayes_bound(point, delta=0.1, draws=200)
    assert code == 0
    assert record["value"] == bound.value
    assert (record["widths"], record["delta"]) == ([2, 2, 1], 0.1)
    assert record["assumes"] == list(bound.assumes)


def test_surplus_units_cost_nothing_where_they_are_relu(capsys, trained):
    values = {}
    for activation in ("relu", "tanh"):
        for count in ("0", "5"):
            arguments = [
                "bound",
                trained[activation],
                "--surplus",
                count,
                "--draws",
                "200",
                "--json",
            ]
            values[activation, count] = json.loads(run(capsys, *arguments)[1])
    assert values["relu", "0"]["value"] == values["relu", "5"]["value"]
    assert values["tanh", "0"]["value"] < values["tanh", "5"]["value"]
    assert values["relu", "5"]["widths"] == [2, 7, 1]
    assert any("2 + 5 in hidden layer 0" in each for each in values["relu", "5"]["assumes"])


def test_bound_exits_1_where_it_is_vacuous_and_says_so(capsys, trained):
    arguments = ["--loss", "clipped", "--clip", "0.01", "--draws", "50"]
    code, out, err = run(capsys, "bound", trained["tanh"], *arguments)
    assert (code, err) == (1, "")
    assert out.startswith("vacuous: ")
    assert "it says nothing" in out


def test_a_loss_that_is_not_0_is_bounded_and_a_point_that_is_not_critical_is_said(capsys, tmp_path):
    point = regression(tmp_path, noise=0.5)
    code, out, err = run(
        capsys, "bound", point, "--loss", "clipped", "--clip", "1", "--draws", "50"
    )
    assert code in (0, 1)
    assert err == ""
    assert "the point is not critical (gradient" in out


def test_standardised_data_are_said_to_be_taken_as_fixed(capsys, tmp_path):
    X, y = noisy_line()
    source = {"source": str(tmp_path / "d.npz"), "target": None, "standardise": True}
    np.savez(source["source"], X=X, y=y)
    data = sf.load_data(source["source"], loss="logistic")
    problem = sf.Problem(sf.MLP([2, 1, 1], "tanh"), data.X, data.y, "logistic", weight_decay=1e-2)
    sf.save_point(sf.find_critical_point(problem, starts=2), tmp_path / "p.safetensors", source)
    code, out, _ = run(capsys, "bound", tmp_path / "p.safetensors", "--draws", "50")
    assert code == 0
    assert "assumes: the data's means and deviations" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--loss", "clipped"], "needs --clip C, chosen before the data were seen"),
        (["--loss", "clipped", "--clip", "0"], "at=0.0; expected a finite number above 0"),
        (["--clip", "1"], "--clip 1 is for --loss clipped"),
        (["--loss", "zeroone"], "unknown --loss 'zeroone'; did you mean 'zero_one'?"),
        (["--surplus", "-1"], "--surplus -1 must be a whole number from 0 up"),
        (["--delta", "2"], "delta is 2.0; expected a probability"),
        (["--delta", "0"], "delta is 0.0; expected a probability"),
        (["--delta", "nan"], "delta is nan; expected a probability"),
        (["--draws", "0"], "draws must be a whole number of at least 1, not 0"),
        (["--seed", "-1"], "seed must be a whole number of at least 0, not -1"),
        (["--covariance", "flat"], "unknown covariance 'flat'"),
        (["--data", "breast_cancer"], "X has shape (569, 30); a network with 2 input(s)"),
    ],
)
def test_unusable_bounds_are_one_line(capsys, trained, options, message):
    code, out, err = run(capsys, "bound", trained["tanh"], *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_missing_file_is_one_line(capsys, tmp_path):
    code, out, err = run(capsys, "bound", tmp_path / "none.safetensors")
    assert (code, out) == (2, "")
    assert err.startswith("error: there is no file ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "'squared' has no upper end; give --loss clipped --clip C"),
        (
            ["--loss", "zero_one"],
            "ZeroOne needs classes, and loss 'squared' has targets that are none",
        ),
        (
            [
                "--loss",
                "clipped",
                "--clip",
                "1",
                "--covariance",
                "inverse_hessian",
                "--surplus",
                "2",
            ],
            "τ²S⁻¹ does not exist: S of 2 surplus units has rank 0 of 6",
        ),
    ],
)
def test_a_loss_or_a_posterior_that_does_not_exist_is_one_line(capsys, tmp_path, options, message):
    code, out, err = run(capsys, "bound", regression(tmp_path), *options)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_posterior_whose_hessian_is_singular_is_one_line(capsys, tmp_path):
    X, y = noisy_line(60)
    problem = sf.Problem(sf.MLP([2, 2, 1], "relu"), X, y, "logistic")
    params = problem.net.random_params(1)
    options = ["--covariance", "inverse_hessian", "--draws", "10"]
    code, out, err = run(capsys, "bound", saved(tmp_path, problem, params), *options)
    assert (code, out) == (2, "")
    assert "τ²H⁻¹ needs a positive definite Hessian" in err
    assert err.count("\n") == 1


def test_the_help_shows_a_runnable_example(capsys):
    code, out, _ = run(capsys, "bound", "--help")
    assert code == 0
    words = " ".join(out.split())
    assert "Example: semiflat find --data breast_cancer --hidden 1" in words
    assert "semiflat bound points/p0.safetensors" in words
