"""The main job: what it records agrees with itself, and what it writes can be read at any time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import semiflat as sf
from semiflat.outputs import RECORD, Outputs
from semiflat.records.study import StudyRecord, read
from semiflat.study import Settings, Study, proofs, run
from semiflat.study.widenings import widenings


@pytest.fixture(scope="module")
def diabetes() -> sf.Dataset:
    return sf.load_data("diabetes")


@pytest.fixture(scope="module")
def study(diabetes, tmp_path_factory) -> tuple[dict, Path]:
    """A small study of the bundled data: one unit, few starts."""
    out = tmp_path_factory.mktemp("study")
    settings = Settings(hidden=(1,), starts=6, wider=2, points=2, escape_iterations=200)
    stages = []
    record = Study(diabetes, settings, out, lambda *stage: stages.append(stage)).run()
    assert {stage for stage, *_ in stages} == {
        "separable classes?",
        "search",
        "embed and judge",
        "prove",
        "leave the saddles",
    }
    counted = [
        so_far for stage, done, total, so_far in stages if (stage, done) == ("search", total)
    ]
    counts = record["search"]["counts"].items()
    assert counted[-1] == ", ".join(f"{count} {status}" for status, count in counts if count)
    return record, out


def test_the_file_holds_the_record(study):
    record, out = study
    assert json.loads((out / "study.json").read_text()) == json.loads(json.dumps(record))
    assert read(StudyRecord, record).to_json() == record
    assert record["complete"] is True
    assert {"data", "network", "points", "embedded", "escapes"} <= record.keys()


def test_every_run_of_the_search_is_accounted_for(study):
    record, _ = study
    assert sum(record["search"]["counts"].values()) == 6
    assert record["search"]["unresolved"] == ""
    assert len(record["points"]) >= 1
    for row in record["points"]:
        assert row["status"] == "CONVERGED"
        assert row["gradient_norm"] <= 1e-10
        assert row["kind"] == "STRICT_MINIMUM"


def test_every_embedding_keeps_the_function_and_the_law_agrees_with_the_dense_hessian(study):
    record, _ = study
    embedded = min(2, len(record["points"]))
    assert len(record["embedded"]) == embedded * 2 * 3
    for row in record["embedded"]:
        assert row["output_change"] <= 1e-12
        assert row["gradient_norm"] <= 1e-9
        assert row["inertia"] == row["dense_inertia"], row["embedding"]
        assert sum(row["inertia"]) == 12 * row["widths"][1] + 1
        assert row["kind"] in {kind.value for kind in sf.Kind}
        if row["kind"] == "STRICT_SADDLE":
            assert row["curvature"] < 0
            assert row["curvature_measured"] == pytest.approx(row["curvature"], rel=1e-2, abs=1e-8)


def test_every_strict_saddle_is_left_and_the_loss_falls(study):
    record, _ = study
    saddles = {row["name"] for row in record["embedded"] if row["kind"] == "STRICT_SADDLE"}
    assert saddles
    assert {row["embedded"] for row in record["escapes"]} == saddles
    for row in record["escapes"]:
        assert row["loss_after"] < row["loss_before"]
        assert row["curvature"] < 0


def test_the_points_on_disk_are_those_of_the_record(study, diabetes):
    record, out = study
    for row in [*record["points"], *record["embedded"]]:
        stored = sf.load_point(out / "points" / f"{row['name']}.safetensors")
        point = stored.point(diabetes.X, diabetes.y)
        assert isinstance(point, sf.EmbeddedPoint) == ("source" in row)
        assert list(point.problem.net.widths) == row.get("widths", [10, 1, 1])
        assert sf.judge(point).kind == row["kind"]


def test_every_point_has_its_proof_beside_what_was_measured(study):
    record, out = study
    assert record["proofs"] == {"status": "attempted", "reason": None}
    rows = [*record["points"], *record["embedded"]]
    for row in rows:
        proof = row["certificate"]
        assert row["certainty"] == "MEASURED"
        assert proof["status"] == "certified", proof["reason"]
        assert proof["file"] == f"certificates/{row['name']}.json"
        assert proof["kind"] == row["kind"]
        assert proof["exact"] is True
        assert proof["inertia"] == row["inertia"]
        checked = sf.verify(out / proof["file"])
        assert checked.ok, checked.reason
        assert checked.reason == proof["reason"]
    names = {path.name for path in (out / "certificates").iterdir()} - {RECORD}
    assert names == {"data.json", *(f"{row['name']}.json" for row in rows)}
    distinct = record["distinct_proved"]
    assert distinct["at_least"] == distinct["of"] == len(record["points"])
    assert distinct["chosen"] == [row["name"] for row in record["points"]]


def test_every_point_is_recorded_with_what_it_is_made_of(study, diabetes):
    record, out = study
    rows = [*record["points"], *record["embedded"], *record["escapes"]]
    assert record["anatomy"].keys() == {row["name"] for row in rows}
    for row in rows:
        made_of = record["anatomy"][row["name"]]
        point = sf.load_point(out / "points" / f"{row['name']}.safetensors").point(
            diabetes.X, diabetes.y
        )
        assert made_of["parameters"].keys() == point.params.keys()
        for key, tensor in point.params.items():
            drawn = torch.tensor(made_of["parameters"][key]).reshape(tensor.shape)
            assert torch.allclose(drawn.double(), tensor, rtol=6e-5, atol=0), (row["name"], key)
        values = torch.tensor(made_of["eigenvalues"], dtype=torch.float64)
        if "inertia" not in row:
            assert len(values) == 0, "where a run ended nothing is judged"
            continue
        exact = torch.linalg.eigvalsh(sf.hessian(point))
        assert torch.allclose(values, exact, rtol=6e-5, atol=1e-12), row["name"]


def small(dataset: sf.Dataset, out: Path | None, **more) -> dict:
    settings = {"hidden": (1,), "starts": 4, "wider": 1, "points": 1, "escape_iterations": 20}
    return Study(dataset, Settings(**settings | more), out).run()


def test_proofs_of_an_earlier_study_are_removed_and_nothing_else(diabetes, tmp_path):
    folder, mine = tmp_path / "certificates", {"mine.json", "p7.txt"}
    earlier = ("p7.json", "p0-e99.json", "data.json")
    Outputs("study").write({folder / name: b"{}" for name in earlier})
    for name in mine:
        (folder / name).write_text("{}")
    record = small(diabetes, tmp_path, proofs=False)
    assert {path.name for path in folder.iterdir()} == mine | {RECORD}
    assert record["proofs"]["status"] == "not attempted"
    assert "--no-proofs" in record["proofs"]["reason"]
    assert record["distinct_proved"] is None
    for row in [*record["points"], *record["embedded"]]:
        assert row["certificate"]["status"] == "not attempted"
        assert row["certificate"]["file"] is None


def test_a_study_without_files_proves_all_the_same(diabetes):
    record = small(diabetes, None)
    for row in [*record["points"], *record["embedded"]]:
        assert (row["certificate"]["status"], row["certificate"]["file"]) == ("certified", None)
    assert record["distinct_proved"] is None


def test_what_is_not_proved_says_why_and_is_not_counted(diabetes, tmp_path, monkeypatch):
    """One wide point inexact; no narrow point certified."""
    from semiflat.certificates.certificate import Certificate, nothing

    def certify_all(points):
        found = [nothing("undecided", "for a test") for _ in points]
        if len(points) > 1:
            proved = {"kind": "STRICT_SADDLE", "inertia": [12, 0, 1], "exact": False}
            found[1] = Certificate("certified", "a claim", {"proved": proved})
        return found

    monkeypatch.setattr(proofs, "certify_all", certify_all)
    record = small(diabetes, tmp_path)
    first, *others = [row["certificate"] for row in record["embedded"]]
    assert (first["status"], first["exact"], first["inertia"]) == ("certified", False, [12, 0, 1])
    for proof in [*others, *(row["certificate"] for row in record["points"])]:
        assert (proof["status"], proof["reason"]) == ("undecided", "for a test")
        assert proof["kind"] is None
        assert json.loads((tmp_path / proof["file"]).read_text())["status"] == "undecided"
    assert record["distinct_proved"] == {
        "at_least": 0,
        "of": 0,
        "chosen": [],
        "reason": "no critical point is certified",
    }


def test_a_study_interrupted_while_it_proves_leaves_whole_files(diabetes, tmp_path, monkeypatch):
    made = []

    def stop_at_the_third(self, path, data):
        made.append(path)
        if len(made) == 3:
            raise KeyboardInterrupt
        return files(self, path, data)

    files = sf.Certificate.files
    monkeypatch.setattr(sf.Certificate, "files", stop_at_the_third)
    job = Study(diabetes, Settings(hidden=(1,), starts=4, wider=1, points=1), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    job.finish_early()
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["complete"] is False
    assert record["embedded"]
    assert record["distinct_proved"] is None
    for path in (tmp_path / "certificates").glob("p*.json"):
        assert sf.verify(path).ok
    assert {path.name for path in tmp_path.rglob(".*")} == {RECORD}


@pytest.mark.slow
def test_without_python_flint_a_study_measures(tmp_path):
    code = (
        "import sys; sys.modules['flint'] = None; from semiflat.cli.app import main; "
        "main(['study', '--data', 'diabetes', '--hidden', '1', '--starts', '2', '--wider', '1', "
        f"'--points', '1', '--out', {str(tmp_path)!r}])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "proved: nothing (proofs need python-flint: pip install" in done.stdout
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["complete"]
    assert record["points"][0]["kind"] == "STRICT_MINIMUM"
    for row in [*record["points"], *record["embedded"]]:
        assert row["certificate"]["status"] == "not attempted"
        assert "proofs need python-flint" in row["certificate"]["reason"]
    assert "proofs need python-flint" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "certificates").exists()


def test_the_figures_have_their_numbers(study):
    record, _ = study
    curves = record["curves"]
    assert curves["descent"]
    for curve in curves["descent"]:
        assert len(curve["step"]) == len(curve["loss"])
        assert min(curve["loss"]) < curve["loss_before"]
    for curve in curves["share_line"]:
        spread = max(curve["loss"]) - min(curve["loss"])
        assert spread <= 1e-12  # the function does not change along the line of shares
        at = dict(zip(curve["share"], curve["kind"], strict=True))
        assert at[0.3] == at[0.7]
    for curve in curves["spectrum"]:
        assert len(curve["narrow"]) < len(curve["wide"])


def test_an_interrupted_study_leaves_what_it_has(diabetes, tmp_path, monkeypatch):
    """Killed while it embeds: the points found are there, and every file is whole."""

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "embedded_row", stop)
    job = Study(diabetes, Settings(hidden=(1,), starts=4, wider=1, points=1), tmp_path)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    job.finish_early()
    record = json.loads((tmp_path / "study.json").read_text())
    assert record["complete"] is False
    assert record["points"]
    assert record["embedded"] == []
    for row in record["points"]:
        sf.load_point(tmp_path / "points" / f"{row['name']}.safetensors")
    assert {path.name for path in tmp_path.rglob(".*")} == {RECORD}


def test_separable_data_end_without_a_false_minimum(tmp_path):
    dataset = sf.load_data("wine")
    settings = Settings(
        hidden=(2,), starts=4, wider=1, points=1, max_iterations=100, weight_decay=0.0
    )
    record = Study(dataset, settings, tmp_path).run()
    assert record["separation"]["margin"] > 0
    assert "decay" not in record
    assert record["complete"]
    assert record["search"]["counts"]["CONVERGED"] == 0
    assert all(row["kind"] != "STRICT_MINIMUM" for row in record["points"])
    assert "search_any" in record


def test_classes_that_the_runs_tell_apart_are_called_separable_without_weight_decay(tmp_path):
    told: list[str] = []
    settings = Settings(
        hidden=(3,), starts=6, max_iterations=100, weight_decay=0, points=1, wider=1
    )
    record = Study(sf.load_data("iris"), settings, tmp_path, tell=told.append).run()
    assert record["separation"]["found"].startswith("the run from start ")
    assert [line.split(":")[0] for line in told] == ["separable classes"]
    assert "decay" not in record


def test_the_widenings_cover_units_shares_and_layers():
    net = sf.MLP([2, 3, 2, 1])
    plan = list(widenings(net, wider=2, null_bias=0.5))
    assert len(plan) == 2 * ((3 * 2 + 1) + (2 * 2 + 1))
    for widening in plan:
        wide = widening.embedding.widen(net)
        assert sum(wide.hidden) == 5 + widening.added
        if widening.unit is not None:
            assert isinstance(widening.embedding, sf.Replicate)
            shares = widening.embedding.weights
            assert sum(shares) == 1
            inside = all(0 <= share <= 1 for share in shares)
            assert inside == (widening.family == "replicate inside")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"wider": 0}, "wider"), ({"starts": -1}, "starts"), ({"activation": "rleu"}, "'relu'")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(sf.InputError, match=message):
        Settings(**settings)


def test_float32_models_come_in_and_go_out_in_their_own_dtype():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    net, params = sf.MLP.from_module(module)
    assert params["0.weight"].dtype is torch.float64
    out = net.to_module({key: tensor.float() for key, tensor in params.items()})
    x = torch.randn(5, 2)
    assert torch.equal(out(x), module(x))


@pytest.fixture(scope="module")
def classes(tmp_path_factory) -> tuple[dict, Path, list[str]]:
    """A small study of separable classes that was asked for no weight decay."""
    out, told = tmp_path_factory.mktemp("classes"), []
    settings = Settings(hidden=(2,), starts=4, wider=1, points=1, escape_iterations=100)
    record = Study(sf.load_data("wine"), settings, out, tell=told.append).run()
    return record, out, told


def test_separable_classes_get_a_weight_decay_and_are_told_why(classes):
    record, _, told = classes
    assert told[0].startswith("separable classes: a linear function of the inputs tells")
    assert told[1].startswith(
        "the study takes weight decay 0.001, since the classes can be told apart"
    )
    assert record["separation"]["margin"] > 0
    lengths, losses = zip(*record["separation"]["falls"], strict=True)
    assert lengths == (10, 100, 1000)
    assert list(losses) == sorted(losses, reverse=True)
    assert record["decay"]["chosen"] is record["decay"]["everywhere"] is True
    assert record["settings"]["weight_decay"] == "0.001"
    assert record["settings"]["max_iterations"] == 600
    assert read(StudyRecord, record).to_json() == record


def test_penalised_minima_are_judged_proved_embedded_and_left(classes):
    record, out, _ = classes
    assert record["search"]["counts"]["CONVERGED"] == 4
    data = sf.load_data("wine")
    for row in record["points"]:
        assert (row["kind"], row["certificate"]["status"]) == ("STRICT_MINIMUM", "certified")
        params = sf.load_point(out / "points" / f"{row['name']}.safetensors").params
        hidden = torch.nn.functional.gelu(
            torch.tensor(data.X) @ params["0.weight"].T + params["0.bias"]
        )
        outputs = hidden @ params["2.weight"].T + params["2.bias"]
        own = torch.nn.functional.cross_entropy(outputs, torch.tensor(data.y))
        penalty = 5e-4 * sum(float(part.square().sum()) for part in params.values())
        assert row["penalty"] == pytest.approx(penalty, rel=1e-12)
        assert row["loss"] == pytest.approx(float(own) + penalty, rel=1e-12)
        right = (outputs.argmax(1) == torch.tensor(data.y)).double().mean()
        assert row["accuracy"] == pytest.approx(float(right))
    assert {row["family"] for row in record["embedded"]} == {"null units"}
    for row in record["embedded"]:
        assert row["gradient_norm"] <= 1e-10
        assert row["inertia"] == row["dense_inertia"]
        assert row["certificate"]["status"] == "certified"
        assert row["certificate"]["inertia"] == row["inertia"]
    saddles = [row for row in record["embedded"] if row["kind"] == "STRICT_SADDLE"]
    assert len(record["escapes"]) == len(saddles)
    assert all(row["loss_after"] < row["loss_before"] for row in record["escapes"])


def test_from_the_other_widenings_the_nearest_critical_points_are_descended_to(classes):
    record, out, _ = classes
    assert len(record["nearest"]) == 4  # two units, shares inside and outside
    for row in record["nearest"]:
        assert row["gradient_embedded"] > 1e-6
        assert row["loss"] < row["loss_embedded"]
        assert row["distance"] > 0
        assert row["kind"] in {kind.value for kind in sf.Kind}
        assert row["status"] == "CONVERGED"
        stored = sf.load_point(out / "points" / f"{row['name']}.safetensors")
        assert tuple(stored.params["0.weight"].shape) == (3, 13)
    assert "nearest" not in read(StudyRecord, record | {"nearest": None}).to_json()


def test_a_weight_decay_that_is_asked_for_is_taken(tmp_path):
    settings = Settings(
        hidden=(1,), starts=2, wider=1, points=1, weight_decay={"weight": 0.01}, proofs=False
    )
    record = Study(sf.load_data("diabetes"), settings, tmp_path).run()
    assert record["decay"]["chosen"] is record["decay"]["everywhere"] is False
    assert record["settings"]["weight_decay"] == "weight=0.01,bias=0.0"
    assert "separation" not in record
    assert {row["family"] for row in record["embedded"]} <= {"null units"}


def test_large_studies_take_fewer_starts_points_and_proofs():
    net = sf.MLP([20, 20, 1])
    small = sf.Problem(sf.MLP([20, 1, 1]), torch.zeros(100, 20), torch.zeros(100, 1))
    large = sf.Problem(net, torch.zeros(100, 20), torch.zeros(100, 1))
    few, many = Settings().resolved(large), Settings().resolved(small)
    assert (few.starts, few.points, few.proved) == (24, 4, 8)
    assert (many.starts, many.points, many.proved) == (64, 8, None)
    assert few.told_apart < many.told_apart
    asked = Settings(starts=3, points=2, max_iterations=7).resolved(large)
    assert (asked.starts, asked.points, asked.max_iterations) == (3, 2, 7)


def test_points_beyond_the_proved_ones_say_so(diabetes, tmp_path, monkeypatch):
    monkeypatch.setattr("semiflat.study.settings.LONG", 1)
    monkeypatch.setattr("semiflat.study.settings.BALLS", 0)
    settings = Settings(hidden=(2,), starts=24, wider=1, points=1, escape_iterations=1)
    record = Study(diabetes, settings, tmp_path).run()
    statuses = [row["certificate"]["status"] for row in record["points"]]
    assert len(statuses) > 8
    assert "not attempted" not in statuses[:8]
    assert set(statuses[8:]) == {"not attempted"}
    assert "the 8 lowest points" in record["proofs"]["reason"]
    assert record["distinct_proved"]["at_least"] is None
    assert "semiflat verify --distinct" in record["distinct_proved"]["reason"]
