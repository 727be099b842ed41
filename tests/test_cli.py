"""The command line: the job taken apart, and one clear line for everything unusable."""

import json
import pickle
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import semiflat as sf
from helpers import refused_command, run
from semiflat.cli.app import _run, app
from semiflat.cli.steps import FORMS


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    """A small regression set: 30 samples, two inputs."""
    path = tmp_path_factory.mktemp("data") / "small.csv"
    generator = np.random.default_rng(0)
    X = generator.normal(size=(30, 2))
    y = np.tanh(X @ [1.0, -0.5]) + 0.1 * generator.normal(size=30)
    rows = [f"{a!r},{b!r},{c!r}" for a, b, c in zip(*map(list, (*X.T, y)), strict=True)]
    path.write_text(
        "first,second,result\n" + "\n".join(rows).replace("np.float64(", "").replace(")", "")
    )
    return path


@pytest.fixture(scope="module")
def found(data_file, tmp_path_factory):
    """A folder with the points that `find` saved."""
    out = tmp_path_factory.mktemp("found")
    code = _run(
        ["find", "--data", str(data_file), "--hidden", "1", "--starts", "6", "--out", str(out)]
    )
    assert code == 0
    assert (out / "p0.safetensors").is_file()
    return out


def test_the_job_can_be_taken_apart(capsys, found, tmp_path):
    wide = tmp_path / "wide.safetensors"
    code, out, _ = run(
        capsys,
        "widen",
        found / "p0.safetensors",
        "replicate:0:0:0.3,rest",
        "null:0:0.4",
        "--out",
        wide,
        "--json",
    )
    assert code == 0
    record = json.loads(out)
    assert record["widths"] == [2, 3, 1]
    code, out, _ = run(capsys, "judge", wide, "--json")
    assert code == 0
    verdict = json.loads(out)
    assert verdict["method"] == "inertia law"
    assert verdict["kind"] in {kind.value for kind in sf.Kind}
    assert sum(verdict["inertia"]) == 13
    assert abs(verdict["loss"] - record["loss"]) < 1e-15
    code, out, _ = run(capsys, "judge", found / "p0.safetensors")
    assert code == 0
    assert "strict minimum (measured)" in out


def test_find_says_no_when_nothing_is_found(capsys, tmp_path):
    code, out, _ = run(
        capsys, "find", "--data", "wine", "--hidden", "2", "--starts", "2", "--out", tmp_path
    )
    assert code == 1
    assert "0 distinct critical points" in out
    assert "2 DIVERGED" in out
    assert "separate the classes" in out
    assert "--weight-decay" in out


def test_find_says_at_once_that_classes_are_separable(capsys, tmp_path):
    """By the inputs before it starts; where they do not tell, as soon as a run does; once in any case."""
    linear, crossed = tmp_path / "linear.csv", tmp_path / "crossed.csv"
    corners = [(-1, -1), (-1, 1), (1, -1), (1, 1), (-2, 1), (2, -1)]
    for path, wanted in ((linear, lambda a, b: a > 0), (crossed, lambda a, b: a * b > 0)):
        rows = [f"{a}.0,{b}.0,{'yes' if wanted(a, b) else 'no'}" for a, b in corners]
        path.write_text("\n".join(["first,second,class", *rows, ""]))
    for path, how in ((linear, "a linear function of the inputs"), (crossed, "start ")):
        arguments = ["find", "--data", path, "--hidden", "2", "--activation", "tanh"]
        arguments += ["--starts", "4", "--processes", "1", "--json", "--out", tmp_path / path.stem]
        _, out, err = run(capsys, *arguments)
        assert err.count("separable classes: ") == 1
        assert f"separable classes: {how}" in err
        assert "--weight-decay 1e-3" in err
        told = json.loads(out)["separation"]
        assert told["found"].startswith("the run from start ")
        assert 0 < told["margin"] <= told["at_most"]
    arguments[-1] = tmp_path / "decayed"
    code, out, err = run(capsys, *arguments, "--weight-decay", "0.01")
    assert code == 0
    assert "separable" not in err
    record = json.loads(out)
    assert record["separation"] is None
    assert all(0 <= row["accuracy"] <= 1 for row in record["points"])


def test_find_tells_index_how_often_and_what_is_trivial(capsys, data_file, tmp_path):
    arguments = ["find", "--data", data_file, "--hidden", "1", "--starts", "8", "--processes", "1"]
    arguments += ["--kind", "any", "--out", tmp_path]
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "(Chao1)" in out
    code, out, _ = run(capsys, *arguments, "--json")
    record = json.loads(out)
    assert sum(row["found"] for row in record["points"]) == record["counts"]["CONVERGED"] > 0
    assert all(row["index"] >= 0 for row in record["points"])
    names = {(row["trivial"] or "none").split()[0] for row in record["points"]}
    assert names <= {"none", "constant", "dead", "embedded"}
    assert record["unseen"]["missing_mass"] == pytest.approx(
        sum(row["found"] == 1 for row in record["points"]) / record["counts"]["CONVERGED"]
    )
    assert record["limits"] == []  # of any index: not looked for


def test_find_tells_of_the_critical_points_at_infinity(capsys, tmp_path):
    arguments = ["find", "--data", "diabetes", "--hidden", "2", "--activation", "tanh"]
    arguments += ["--starts", "4", "--processes", "1", "--out", tmp_path, "--json"]
    code, out, _ = run(capsys, *arguments)
    record = json.loads(out)
    assert code == (0 if record["points"] else 1)
    assert len(record["limits"]) == record["counts"]["SATURATED"] + record["counts"]["CHANNEL"] > 0
    for row in record["limits"]:
        assert row["gradient_norm"] <= 1e-12
        assert [len(forms) for forms in row["forms"]] == [2]


def test_starts_without_a_result_are_named_and_the_points_of_the_others_saved(
    capsys, data_file, tmp_path, monkeypatch
):
    from semiflat.jobs import JobsLost
    from semiflat.search import gather

    def lose_the_last(jobs, on_end, machines):
        spread(jobs[:-1], on_end, machines)
        raise JobsLost(jobs[-1:], "it was told to")

    spread = gather.spread
    monkeypatch.setattr(gather, "spread", lose_the_last)
    arguments = ["find", "--data", data_file, "--hidden", "1", "--starts", "70", "--out", tmp_path]
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert err.startswith("error: starts 64 to 69 of seed 0 have no result: it was told to")
    assert err.count("\n") == 1
    assert "from 64 starts" in out
    assert (tmp_path / "p0.safetensors").exists()
    monkeypatch.undo()
    code, out, _ = run(capsys, *arguments)
    assert code == 0
    assert "from 70 starts" in out
    assert "64 of them from" in out


def test_progress_counts_the_runs_of_each_status(capsys, data_file, tmp_path, monkeypatch):
    from contextlib import contextmanager

    told = []

    @contextmanager
    def stages():
        yield lambda *words: told.append(words)

    monkeypatch.setattr("semiflat.cli.app.stages", stages)
    arguments = ["find", "--data", data_file, "--hidden", "1", "--starts", "6", "--out", tmp_path]
    for _ in range(2):
        assert run(capsys, *arguments)[0] == 0
        assert told[-1][:3] == ("search", 6, 6)
        assert "CONVERGED" in told[-1][3]
        first = told[0]
        told.clear()
    assert first[1] == 6, "those that were kept are counted from the beginning"


def test_each_command_shows_an_example(capsys):
    for command in ("study", "find", "widen", "judge", "diagnose", "certify", "verify", "reduce"):
        code, out, _ = run(capsys, command, "--help")
        assert code == 0
        assert "Example: semiflat " + command in " ".join(out.split())
        assert "--json" in out


def test_a_tolerance_of_a_verdict_is_said_to_be_relative(capsys):
    _, out, _ = run(capsys, "judge", "--help")
    words = " ".join(out.replace("│", " ").split())
    assert "in parts of what it would be if its terms did not cancel" in words


def test_the_version(capsys):
    assert run(capsys, "--version")[:2] == (0, sf.__version__ + "\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["find", "--data", "diabets", "--out", "x"], "did you mean 'diabetes'"),
        (["find", "--data", "none.csv", "--out", "x"], "none.csv"),
        (["find", "--data", "iris"], "--out"),
        (["find", "--data", "iris", "--hidden", "0", "--out", "x"], "--hidden '0'"),
        (["find", "--data", "iris", "--activation", "tahn", "--out", "x"], "did you mean 'tanh'"),
        (["find", "--data", "iris", "--loss", "sqared", "--out", "x"], "did you mean 'squared'"),
        (["find", "--data", "iris", "--starts", "0", "--out", "x"], "starts must be"),
        (["find", "--data", "iris", "--seed", "-1", "--out", "x"], "seed must be"),
        (["find", "--data", "iris", "--hidden", "1000000000000", "--out", "x"], "memory"),
        (["find", "--data", "iris", "--activation", "leaky_relu(nan)", "--out", "x"], "activation"),
        (["find", "--data", "iris", "--starts", "many", "--out", "x"], "--starts"),
        (["find", "--data", "iris", "--kind", "minima", "--out", "x"], "did you mean 'minimum'"),
        (["find", "--data", "iris", "--processes", "0", "--out", "x"], "processes must be"),
        (["find", "--data", "iris", "--tolerance", "0", "--out", "x"], "tolerance must be"),
        (["find", "--data", "iris", "--dask", "a", "--processes", "2", "--out", "x"], "give one"),
        (["study", "--data", "iris", "--wider", "0", "--out", "x"], "wider must be"),
        (["study", "--data", "iris", "--hidden", "3,x", "--out", "x"], "--hidden '3,x'"),
        (["stduy", "--data", "iris", "--out", "x"], "stduy"),
        (["judge", "none.safetensors"], "there is no file"),
        (["certify", "none.safetensors", "--out", "x"], "there is no file"),
        (["certify", "none.safetensors"], "--out"),
        (["verify"], "FILE"),
    ],
)
def test_unusable_input_is_one_clear_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused_command(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["replicate:0:7:0.5,0.5"], "unit 7 does not exist"),
        (["replicate:3:0:0.5,0.5"], "hidden layer 3 does not exist"),
        (["replicate:0:0:0.5,0.6"], "0.1 above 1"),
        (["replicate:0:0:0.5,abc"], "'abc' is not a finite number"),
        (["replicate:0:0:inf,0"], "not a finite number"),
        (["replicate:0:0"], "not of the form"),
        (["replicate:0:0:"], "not of the form"),
        (["null:0:"], "not of the form"),
        (["nul:0:1"], "did you mean 'null'"),
        (["scaled:0:0:2,0.5:0.25,rest"], "positively homogeneous"),
        (["scaled:0:0:-1:1"], "must be above 0"),
        (["scaled:0:0:rest:1"], "'rest' cannot stand"),
        (["inactive:0"], "not of the form"),
        (["inactive:0:x"], "not of the form inactive:LAYER:COUNT[:v,v,…]"),
        (["inactive:0:2:1,2,3"], "expected M = 1"),
        (["propagation:0:1,2"], "expected D = 3"),
        (["propagation:0:1,2;3"], "not an array of numbers"),
        (["constant:0:1:1;2"], "give one of each"),
        (["compatible:0"], "whole number of at least 1"),
        (["compatible:2,2"], "as many layers"),
        (["split-all:1,1"], "must sum to 1"),
        (["null-all"], "not of the form"),
        (["permute:0:1,2"], "not a permutation"),
        (["rescale:0:0:2"], "positively homogeneous"),
        (["reflect:0:4"], "unit 4 does not exist"),
    ],
)
def test_unusable_steps(capsys, found, tmp_path, steps, message):
    target = tmp_path / "w.safetensors"
    err = refused_command(capsys, "widen", found / "p0.safetensors", *steps, "--out", target)
    assert message in err
    assert not target.exists()


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_step_works(capsys, tmp_path, name):
    """Each example of the help, on a network it fits."""
    activation = "relu" if name in ("scaled", "rescale") else "tanh"
    hidden = [3, 3] if name == "compatible" else [3]
    net = sf.MLP([2, *hidden, 1], activation)
    X = np.random.default_rng(0).normal(size=(20, 2))
    np.savez(tmp_path / "d.npz", X=X, y=X[:, 0])
    problem = sf.Problem(net, X, X[:, 0])
    sf.save_point(
        sf.Point(problem, net.random_params(0)),
        tmp_path / "p.safetensors",
        {"source": str(tmp_path / "d.npz"), "standardise": False},
    )
    wide = tmp_path / "wide.safetensors"
    step = FORMS[name].example
    code, out, err = run(capsys, "widen", tmp_path / "p.safetensors", step, "--out", wide, "--json")
    assert code == 0, err
    record = json.loads(out)
    assert record["loss"] == pytest.approx(float(problem.risk(net.random_params(0))), rel=1e-12)
    code, out, _ = run(capsys, "judge", wide, "--json")
    assert code == 0
    assert sum(json.loads(out)["inertia"]) == sf.MLP(record["widths"]).parameter_count


def test_reduce_leads_back_to_the_narrow_network(capsys, found, tmp_path):
    wide, small = tmp_path / "wide.safetensors", tmp_path / "small.safetensors"
    steps = ["replicate:0:0:0.3,rest", "null:0:0.4", "permute:0:2,0,1"]
    assert run(capsys, "widen", found / "p0.safetensors", *steps, "--out", wide)[0] == 0
    code, out, _ = run(capsys, "reduce", wide, "--out", small, "--json")
    assert code == 0
    record = json.loads(out)
    assert (record["hidden"], record["reduced"], record["bound"]) == ([3], [1], 0.0)
    assert record["effective_widths"][0]["hidden"] == [1]
    assert {merge["rule"] for merge in record["merges"]} == {"twins", "constant"}
    code, out, _ = run(capsys, "judge", small, "--json")
    assert code == 0
    assert json.loads(out)["widths"] == [2, 1, 1]
    code, out, _ = run(capsys, "reduce", found / "p0.safetensors")
    assert code == 0
    assert "[1] -> [1]" in out


@pytest.mark.parametrize("tolerance", ["-1", "nan", "inf", "x"])
def test_reduce_refuses_a_tolerance_that_is_none(capsys, found, tolerance):
    err = refused_command(capsys, "reduce", found / "p0.safetensors", "--tolerance", tolerance)
    assert "tolerance" in err


@pytest.fixture(scope="module")
def proved(found, tmp_path_factory):
    """A folder with the certificates of a point and of a wider one, and their data once."""
    out = tmp_path_factory.mktemp("proved")
    point, wide = found / "p0.safetensors", out / "wide.safetensors"
    assert _run(["widen", str(point), "replicate:0:0:1.5,rest", "--out", str(wide)]) == 0
    for source, name in ((point, "p0"), (wide, "wide")):
        file = str(out / f"{name}.json")
        assert _run(["certify", str(source), "--out", file, "--data-file", "data.json"]) == 0
    return out


def test_what_is_certified_is_verified(capsys, found, proved, tmp_path):
    out = tmp_path / "alone.json"
    code, text, _ = run(capsys, "certify", found / "p0.safetensors", "--out", out)
    assert code == 0
    first, *rest = text.splitlines()
    assert first.startswith("certified: within ")
    assert [line.split(":")[0] for line in rest] == ["inertia", "loss", "location"]
    assert rest[0] == "inertia: 5 positive, 0 zero, 0 negative"
    assert json.loads(out.read_text())["problem"]["data"].keys() == {"sha256", "X", "y"}
    code, text, _ = run(capsys, "verify", out, proved / "p0.json", proved / "wide.json")
    assert code == 0
    assert [line.split(": ")[:2] for line in text.splitlines()] == [
        [str(path), "certified"] for path in (out, proved / "p0.json", proved / "wide.json")
    ]


def test_a_wide_certificate_names_its_theorem_and_premises(capsys, proved, tmp_path):
    code, text, _ = run(
        capsys, "certify", proved / "wide.safetensors", "--out", tmp_path / "w.json"
    )
    assert code == 0
    assert "theorem: inertia law" in text
    assert text.count("premise: ") >= 2
    code, text, _ = run(
        capsys, "certify", proved / "wide.safetensors", "--out", tmp_path / "w.json", "--json"
    )
    record = json.loads(text)
    assert (code, record["status"], record["kind"]) == (0, "certified", "STRICT_SADDLE")
    assert record["exact"] is True
    assert sum(record["inertia"]) == 9
    low, high = record["loss"]
    assert low <= high <= low + 1e-14
    assert 0 <= record["location"] < record["unique"]


def test_the_data_of_certificates_may_be_shared(capsys, proved, tmp_path):
    for name in ("p0", "wide"):
        stored = json.loads((proved / f"{name}.json").read_text())["problem"]["data"]
        assert stored.keys() == {"sha256", "file"}
        assert stored["file"] == "data.json"
    moved = tmp_path / "moved.json"
    moved.write_bytes((proved / "p0.json").read_bytes())
    code, text, _ = run(capsys, "verify", moved)
    assert code == 2
    assert "invalid file" in text
    code, text, _ = run(capsys, "verify", moved, "--data", proved / "data.json", "--json")
    assert code == 0
    rows = json.loads(text)["files"]
    assert [(row["file"], row["ok"], row["status"]) for row in rows] == [
        (str(moved), True, "certified")
    ]


def test_distinct_points_are_counted(capsys, proved, tmp_path):
    code, text, _ = run(capsys, "verify", proved / "p0.json", "--distinct")
    assert code == 0
    assert text.splitlines()[-1].startswith("at least 1 of 1 critical points are distinct")
    twice = [proved / "p0.json"] * 2
    code, text, _ = run(capsys, "verify", *twice, "--distinct")
    assert code == 1
    assert text.splitlines()[-1].startswith("not all distinct: at least 1 of 2")
    code, text, _ = run(capsys, "verify", *twice, "--distinct", "--json")
    assert code == 1
    distinct = json.loads(text)["distinct"]
    assert (distinct["at_least"], distinct["chosen"], distinct["ok"]) == (1, [0], False)


def test_a_certificate_that_was_changed_is_not_verified(capsys, proved, tmp_path):
    document = json.loads((proved / "p0.json").read_text())
    data = ["--data", proved / "data.json"]
    document["proved"]["loss"] = [(0.0).hex(), (1e-3).hex()]
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(document))
    code, text, _ = run(capsys, "verify", changed, *data)
    assert code == 1
    assert text.startswith(f"{changed}: not certified: loss")
    changed.write_text(json.dumps(document)[:-100])
    code, text, _ = run(capsys, "verify", proved / "p0.json", changed, *data)
    assert code == 2
    assert "certified: within" in text
    assert f"{changed}: invalid file: " in text


@pytest.fixture
def anywhere(data_file, tmp_path):
    """Makes files of points that are not critical."""

    def save(activation: str = "tanh") -> str:
        dataset = sf.load_data(str(data_file))
        net = sf.MLP([2, 2, 1], activation)
        problem = sf.Problem(net, dataset.X, dataset.y, dataset.loss)
        path = tmp_path / "anywhere.safetensors"
        sf.save_point(
            sf.Point(problem, net.random_params(0)),
            path,
            {"source": str(data_file), "target": None},
        )
        return str(path)

    return save


def test_an_undecided_certificate_is_written_and_told(capsys, anywhere, tmp_path):
    out = tmp_path / "c.json"
    code, text, _ = run(capsys, "certify", anywhere(), "--out", out, "--data-file", "d.json")
    assert code == 1
    assert text.startswith("undecided: Newton's method")
    assert text.count("\n") == 1
    assert json.loads(out.read_text())["status"] == "undecided"
    assert not (tmp_path / "d.json").exists()
    code, text, _ = run(capsys, "verify", out)
    assert code == 1
    assert "not certified: the file itself says undecided" in text


def test_that_no_critical_point_is_near_can_be_certified(capsys, anywhere, tmp_path):
    arguments = ["certify", anywhere(), "--out", tmp_path / "c.json", "--not-critical"]
    code, text, _ = run(capsys, *arguments, "1e-3")
    assert code == 0
    assert text.startswith("certified: no parameters within 0.001 of the centre are a critical")
    assert run(capsys, "verify", tmp_path / "c.json")[0] == 0
    code, text, _ = run(capsys, *arguments, "50")
    assert code == 1
    assert text.startswith("undecided: ")
    for radius in ("-1", "nan", "inf"):
        assert "radius must be" in refused_command(capsys, *arguments, radius)


def test_what_balls_cannot_evaluate_is_unusable_input(capsys, anywhere, tmp_path):
    point = anywhere("leaky_relu(0.3)")
    out = tmp_path / "c.json"
    assert "leaky_relu(0.3)" in refused_command(capsys, "certify", point, "--out", out)
    assert json.loads(out.read_text())["status"] == "invalid_input"


def test_certify_writes_over_nothing_that_others_need(capsys, found, proved, anywhere, tmp_path):
    point = found / "p0.safetensors"
    before = point.read_bytes()
    assert "is the point itself" in refused_command(capsys, "certify", point, "--out", point)
    assert "is the point itself" in refused_command(capsys, "judge", point, "--certificate", point)
    out = found / "c.json"
    for name in ("p0.safetensors", "c.json"):
        err = refused_command(capsys, "certify", point, "--out", out, "--data-file", name)
        assert "is the certificate or the point" in err
    for name in ("a/b.json", "../b.json", "..", "", "."):
        err = refused_command(capsys, "certify", point, "--out", out, "--data-file", name)
        assert "without a folder" in err
    assert not out.exists()
    assert point.read_bytes() == before
    shared = tmp_path / "shared.json"
    shared.write_text('{"X": [], "y": []}')
    err = refused_command(
        capsys, "certify", point, "--out", tmp_path / "c.json", "--data-file", shared.name
    )
    assert "holds other data" in err
    assert shared.read_text() == '{"X": [], "y": []}'


def test_judge_with_a_proof(capsys, found, proved, anywhere, tmp_path):
    code, text, _ = run(capsys, "judge", found / "p0.safetensors", "--proof")
    assert code == 0
    assert text.startswith("strict minimum (proved): within ")
    assert "\n  location: within " in text
    file = tmp_path / "judged.json"
    code, text, _ = run(
        capsys, "judge", proved / "wide.safetensors", "--certificate", file, "--json"
    )
    assert code == 0
    record = json.loads(text)
    assert (record["certainty"], record["certificate"]["status"]) == ("PROVED", "certified")
    assert record["certificate"]["premises"]
    assert run(capsys, "verify", file)[0] == 0
    code, text, _ = run(capsys, "judge", found / "p0.safetensors", "--json")
    assert "certificate" not in json.loads(text)
    code, text, _ = run(capsys, "judge", anywhere(), "--proof")
    assert code == 0
    assert text.startswith("not critical (proved): no parameters within 0.001")


def test_verify_imports_nothing_but_the_checker(proved):
    code = (
        "import sys; from semiflat.cli.app import _run; "
        f"code = _run(['verify', {str(proved / 'p0.json')!r}, '--distinct']); "
        "print(code, sorted({'torch', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"


@pytest.mark.parametrize("command", ["certify", "verify", "judge"])
def test_without_python_flint_it_is_one_clear_line(command, found, proved, tmp_path):
    point, out = str(found / "p0.safetensors"), str(tmp_path / "c.json")
    arguments = {
        "certify": [point, "--out", out],
        "verify": [str(proved / "p0.json")],
        "judge": [point, "--proof"],
    }[command]
    code = (
        "import sys; sys.modules['flint'] = None; from semiflat.cli.app import main; "
        f"main({[command, *arguments]!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: proofs need python-flint: pip install 'semiflat[certify]'\n"


def test_a_pickle_is_never_loaded(capsys, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was loaded",))

    pickled, saved = tmp_path / "p.safetensors", tmp_path / "t.pt"
    pickled.write_bytes(pickle.dumps(Bomb()))
    torch.save({"0.weight": torch.ones(1)}, saved)
    for path in (pickled, saved):
        assert "pickle" in refused_command(capsys, "judge", path)


def test_damaged_and_foreign_files(capsys, found, tmp_path):
    whole = (found / "p0.safetensors").read_bytes()
    cut = tmp_path / "cut.safetensors"
    for size in (0, 3, 40, len(whole) - 5):
        cut.write_bytes(whole[:size])
        refused_command(capsys, "judge", cut)
    foreign = tmp_path / "foreign.safetensors"
    from safetensors.torch import save_file

    save_file({"0.weight": torch.ones(1)}, foreign)
    assert "holds no semiflat point" in refused_command(capsys, "judge", foreign)


def test_the_wrong_data_are_noticed(capsys, found, data_file):
    assert "are not those" in refused_command(
        capsys, "judge", found / "p0.safetensors", "--data", data_file, "--raw"
    )


def test_an_output_folder_that_cannot_be_made(capsys, data_file, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    for command in ("find", "study"):
        err = refused_command(
            capsys,
            command,
            "--data",
            data_file,
            "--hidden",
            "1",
            "--starts",
            "1",
            "--out",
            blocked / "out",
        )
        assert "cannot write" in err
    assert blocked.read_text() == "in the way"


def test_ctrl_c_says_so_in_one_line(capsys, monkeypatch, data_file, tmp_path):
    from semiflat.search import driver

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setenv("SEMIFLAT_ENGINE", "torch")  # for the compiled engine see test_engine.py
    monkeypatch.setattr(driver.Driver, "_advance", stop)
    arguments = ["study", "--data", data_file, "--hidden", "1", "--starts", "2", "--out", tmp_path]
    code, _, err = run(capsys, *arguments)
    assert code == 130
    assert err == "interrupted; files already written are whole\n"
    assert json.loads((tmp_path / "study.json").read_text())["complete"] is False
    assert "interrupted" in (tmp_path / "report.html").read_text()


def test_every_command_of_the_app_is_tested_here_or_in_a_file_of_its_own():
    named = (command.name or command.callback.__name__ for command in app.registered_commands)
    assert set(named) == {
        "study",
        "find",
        "widen",
        "judge",
        "diagnose",  # test_diagnose.py, too
        "certify",
        "verify",
        "reduce",
        "path",  # test_cli_paths.py
        "bound",  # test_cli_bounds.py
        "hierarchy",  # test_cli_hierarchy.py, both
        "stages",
        "units",  # test_cli_modules.py, both, and widen of a module
        "shrink",
        "grow",
        "reproduce",  # test_other_packages.py, and experiments/tests/test_papers.py
    }


def test_help_lists_the_names_that_options_take():
    from semiflat.activations import ACTIVATIONS
    from semiflat.cli import options
    from semiflat.data import BUNDLED
    from semiflat.losses import LOSSES

    assert options.DATA_SETS == BUNDLED
    assert set(options.ACTIVATIONS) == set(ACTIVATIONS)
    assert options.LOSSES == LOSSES


def test_without_a_command_it_says_what_to_do_first(capsys):
    code, out, err = run(capsys)
    assert (code, err) == (0, "")
    shown = [line for line in out.splitlines() if line.startswith("  semiflat ")]
    assert [line.split()[1] for line in shown] == ["study", "find", "judge"]
    assert "semiflat --help" in out
    _, out, _ = run(capsys, "--help")
    assert "Commands:" in out
    for line in shown:
        assert line.split()[1] in out
    assert "--install-completion" in out


def test_find_ends_with_the_next_command(capsys, data_file, tmp_path):
    folder = tmp_path / "my points"
    arguments = ["--hidden", "1", "--starts", "6", "--processes", "1", "--out", folder]
    _, out, _ = run(capsys, "find", "--data", data_file, *arguments)
    line = out.splitlines()[-1]
    assert line.startswith("next: semiflat judge ")
    assert run(capsys, *shlex.split(line)[2:])[0] == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("semiflat ju", {"judge"}),
        ("semiflat find --activation si", {"sigmoid", "silu", "sin"}),
        ("semiflat find --one", {"--one-hot"}),
        ("semiflat find --loss hin", {"hinge2", "hinge3"}),
    ],
)
def test_a_shell_completes_commands_options_and_names(capsys, monkeypatch, words, expected):
    monkeypatch.setenv("_SEMIFLAT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split()) - 1))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        _run([])
    assert set(capsys.readouterr().out.split()) == expected


def test_what_is_typed_wrongly_is_answered_with_the_help_of_that_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert refused_command(capsys, "find", "--hiden", 3).endswith("see semiflat find --help\n")
    assert refused_command(capsys, "find", "--data", "iris").endswith("see semiflat find --help\n")
    assert refused_command(capsys, "fnd").endswith("see semiflat --help\n")


def test_a_point_whose_data_are_not_there_asks_for_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f"{k},{k * k / 7}\n" for k in range(9))
    (tmp_path / "t.csv").write_text("a,b\n" + rows)
    data = sf.load_data(tmp_path / "t.csv")
    problem = sf.Problem(sf.MLP([1, 1]), data)
    file = tmp_path / "p.safetensors"
    sf.save_point(sf.Point(problem, problem.net.random_params(0)), file, {"source": "t.csv"})
    assert "where they are now with --data" in refused_command(capsys, "judge", file)
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "judge", file)[0] == 0


def test_of_many_points_find_gives_the_lowest_a_line_each_and_counts_the_rest(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semiflat.cli.app.SHOWN", 2)
    asked = ("find", "--data", "diabetes", "--hidden", 2, "--starts", 8, "--out", tmp_path / "f")
    _, out, _ = run(capsys, *asked)
    lines = [line for line in out.splitlines() if "gradient" in line]
    record = json.loads(run(capsys, *asked, "--json")[1])
    assert len(lines) == 2
    assert f"and {len(record['points']) - 2} more" in out
