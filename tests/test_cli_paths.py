"""`semiflat path` and what it prints, writes and refuses."""

import json

import numpy as np
import pytest

import semiflat as sf
from helpers import run


def saved(folder, activation, widths, loss="squared", seed=0):
    """A file of random parameters on a small data set, which lies beside it."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(8, widths[0]))
    y = np.sin(2 * X[:, 0])
    np.savez(folder / "d.npz", X=X, y=y)
    problem = sf.Problem(sf.MLP(widths, activation), X, y, loss)
    point = sf.Point(problem, problem.net.random_params(seed))
    source = {"source": str(folder / "d.npz"), "target": None, "standardise": False}
    sf.save_point(point, folder / "p.safetensors", source)
    return folder / "p.safetensors"


def test_path_to_zero_prints_pieces_and_writes_figure_and_end(capsys, tmp_path):
    point = saved(tmp_path, "sigmoid", [2, 8, 2, 1])
    figure, end = tmp_path / "f.png", tmp_path / "end.safetensors"
    code, out, err = run(capsys, "path", point, "--figure", figure, "--out", end)
    assert (code, err) == (0, "")
    assert "decreasing" in out
    assert "the loss rises by at most" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run(capsys, "judge", end, "--json")
    assert code == 0
    assert json.loads(out)["loss"] < 1e-20


def test_path_widens_on_request_and_says_what_is_missing_otherwise(capsys, tmp_path):
    point = saved(tmp_path, "tanh", [2, 2, 1])
    code, out, err = run(capsys, "path", point)
    assert (code, out) == (2, "")
    assert "hidden layer 0 has 2 unit(s), 6 too few" in err
    code, out, _ = run(capsys, "path", point, "--widen", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["widths"] == [2, 8, 1]
    assert record["condition_before"] is None  # copies of one unit: singular
    assert record["largest_increase"] < 1e-9
    assert record["end"] < 1e-20


def test_path_out_of_a_region_or_why_there_is_none(capsys, tmp_path):
    x = np.linspace(-2, 2, 40)[:, None]
    y = np.tanh(2 * x + 1) - 0.8 * np.tanh(1.5 * x - 1) + 0.3 * x**2
    np.savez(tmp_path / "d.npz", X=x, y=y[:, 0])
    arguments = ["find", "--data", tmp_path / "d.npz", "--hidden", "1", "--starts", "8"]
    assert run(capsys, *arguments, "--out", tmp_path / "gelu")[0] == 0
    point = tmp_path / "gelu" / "p0.safetensors"
    code, out, _ = run(capsys, "path", point, "--kind", "region", "--copies", "3", "--json")
    record = json.loads(out)
    assert code == 0
    assert record["replications"][0]["intervals"] == [[0.0, 1.0]]
    assert record["end"] < record["start"]
    tanh = [*arguments, "--activation", "tanh", "--out", tmp_path / "tanh"]
    if run(capsys, *tanh)[0] == 0:
        code, out, _ = run(capsys, "path", tmp_path / "tanh" / "p0.safetensors", "--kind", "region")
        assert code == 1
        assert "no replication of this minimum is a local minimum" in out


def test_path_to_a_minimum_at_infinity_and_away(capsys, tmp_path):
    point = saved(tmp_path, "tanh", [2, 3, 1])
    code, out, _ = run(capsys, "path", point, "--kind", "infinity", "--json")
    record = json.loads(out)
    assert code == 0
    assert min(record["slopes"]) > 0
    assert record["radius"] > 0
    assert record["end"] < record["start"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "zeros"], "unknown kind of path 'zeros'; did you mean 'zero'?"),
        (["--kind", "region", "--unit", "1"], "--unit '1' is not of the form LAYER:UNIT"),
        (["--kind", "region", "--widen"], "--widen belongs to --kind zero"),
        (["--unit", "0:0"], "--unit belongs to --kind region"),
        (["--kind", "region"], "made from a local minimum, and this point is not critical"),
    ],
)
def test_unusable_paths_are_one_line(capsys, tmp_path, arguments, message):
    code, out, err = run(capsys, "path", saved(tmp_path, "tanh", [2, 8, 1]), *arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
