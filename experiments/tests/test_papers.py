"""Running published experiments: records that resume, seeds that are named, folders that are not overwritten.

The experiments themselves are in ``test_papers_*.py``, one file a paper.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import semiflat as sf
import semiflat_experiments as papers
from semiflat.cli.app import _run
from semiflat.errors import Unfinished
from semiflat.jobs import JobsLost, spread
from semiflat.outputs import RECORD
from semiflat_experiments.experiment import (
    Check,
    Experiment,
    Outcome,
    Row,
    counted,
    qualified,
    seeds,
)
from semiflat_experiments.page import lines, write_page
from semiflat_experiments.records import key, open_records
from semiflat_experiments.reproduce import reproduce

RUN: list[int] = []


def run(settings, task):
    RUN.append(task["seed"])
    if task["seed"] in settings.get("broken", []):
        raise ValueError("no luck")
    if task["seed"] % 4 == 3:
        return {"dropped": "seed is 3 modulo 4"}
    return {"square": task["seed"] ** 2}


def outcome(settings, records):
    kept = qualified(records)
    total = sum(record["square"] for record in kept)
    return Outcome(
        [Row("sum of squares", "14", f"{total}"), counted(records)],
        [Check("the sum grows", total >= settings.get("least", 0), f"{total}")],
        "Squares against seeds.",
        {"total": total},
    )


def draw(figure, settings, records):
    axes = figure.add_subplot()
    axes.plot([record.get("square", 0) for record in records])


TOY = Experiment(
    "toy", "T00 Fig. 1", "squares", "Squares are added.", {"seed": 0, "runs": 8}, {"runs": 4},
    seeds, run, outcome, draw,
)  # fmt: skip


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    """An experiment called toy, of this module."""
    RUN.clear()
    known = papers.experiment
    for module in ("semiflat_experiments", "semiflat_experiments.reproduce"):
        monkeypatch.setattr(f"{module}.experiment", lambda n: TOY if n == "toy" else known(n))
    monkeypatch.setattr("semiflat_experiments.page.NAMES", ("toy",))


def test_an_experiment_is_run_and_written(tmp_path):
    told = []
    found = reproduce("toy", tmp_path, True, 1, on_progress=lambda *what: told.append(what))
    assert RUN == [0, 1, 2, 3]
    assert told == [("toy", k, 4) for k in (1, 2, 3, 4)]
    assert found.outcome.data == {"total": 0 + 1 + 4}
    assert found.outcome.rows[1] == Row(
        "runs that qualified", "—", "3 of 4", "1: seed is 3 modulo 4"
    )
    stored = json.loads((tmp_path / "toy.json").read_text())
    assert (stored["settings"], stored["quick"]) == ({"seed": 0, "runs": 4}, True)
    assert stored["machine"]["cores"] >= 1
    assert (tmp_path / "toy.png").read_bytes() == found.png
    page = write_page(tmp_path).read_text()
    assert "T00 Fig. 1: squares" in page
    assert "1: seed is 3 modulo 4" in page
    assert any("sum of squares" in line and "14" in line for line in lines([stored]))


def test_an_interrupted_run_goes_on_and_a_line_cut_off_is_run_again(tmp_path):
    def stop(name, done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reproduce("toy", tmp_path, True, 1, on_progress=stop)
    file = tmp_path / "records" / "toy.jsonl"
    file.write_text(file.read_text()[:-9])
    RUN.clear()
    found = reproduce("toy", tmp_path, True, 1)
    assert RUN == [1, 2, 3]
    RUN.clear()
    again = reproduce("toy", tmp_path, True, 1)
    assert RUN == []
    assert again.outcome == found.outcome
    assert again.png == found.png


@pytest.mark.parametrize("damage", ['{"oops": 1}', "[]", "7", '{"task": {}, "record"'])
def test_a_damaged_record_is_named_and_without_its_line_run_again(tmp_path, damage):
    found = reproduce("toy", tmp_path, True, 1)
    file = tmp_path / "records" / "toy.jsonl"
    lines = file.read_text().split("\n")
    file.write_text("\n".join([*lines[:2], damage, *lines[3:]]))
    with pytest.raises(sf.InputError, match=r"toy.jsonl' is damaged in line 3: .*delete that line"):
        reproduce("toy", tmp_path, True, 1)
    file.write_text("\n".join([*lines[:2], *lines[3:]]))
    RUN.clear()
    assert reproduce("toy", tmp_path, True, 1).outcome == found.outcome
    assert RUN == [1]


def test_records_of_an_earlier_version_are_gone_on_with(tmp_path):
    """They held the same lines, of which the last may have been cut off."""
    (tmp_path / "records").mkdir()
    old = [
        '{"settings": {"seed": 0, "runs": 4}}',
        '{"task": {"seed": 2}, "record": {"square": 4}, "seconds": 0.25}',
        '{"task": {"seed": 3}, "record": {"dropped": "seed is 3 modulo 4"}, "seconds": 0.5}',
        '{"task": {"seed": 0}, "rec',
    ]
    (tmp_path / "records" / "toy.jsonl").write_text("\n".join(old))
    found = reproduce("toy", tmp_path, True, 1)
    assert RUN == [0, 1]
    assert found.outcome.data == {"total": 0 + 1 + 4}
    assert found.seconds >= 0.75


def test_a_damaged_result_of_another_experiment_is_not_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("semiflat_experiments.page.NAMES", ("toy", "broken", "bare"))
    reproduce("toy", tmp_path, True, 1)
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "bare.json").write_text((tmp_path / "toy.json").read_text())
    assert write_page(tmp_path).read_text().count("T00 Fig. 1: squares</h2>") == 1


def test_a_folder_has_one_writer_and_packages_are_looked_for_first(tmp_path, monkeypatch):
    other = open_records(tmp_path, "toy", TOY.settings(True))
    with other, pytest.raises(sf.InputError, match="another process is writing to"):
        reproduce("toy", tmp_path, True, 1)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(sf.InputError, match="need matplotlib: pip install"):
        reproduce("toy", tmp_path, True, 1)
    assert not RUN, "nothing was run"


def test_a_task_that_fails_names_its_seed_and_the_others_are_kept(tmp_path, monkeypatch):
    broken = {"seed": 0, "runs": 4, "broken": [2]}
    monkeypatch.setattr(Experiment, "settings", lambda self, quick: broken)
    with pytest.raises(Unfinished, match=r"toy failed at seed 2: ValueError: no luck; .* is kept"):
        reproduce("toy", tmp_path, True, 1)
    with open_records(tmp_path, "toy", broken) as records:
        assert list(records.keys()) == [key({"seed": 0}), key({"seed": 1})]


def test_a_folder_with_another_runs_results_is_kept_without_force(tmp_path):
    reproduce("toy", tmp_path, True, 1)
    with pytest.raises(
        sf.InputError, match=r"a run's results with settings runs 4, this one has 8; .*--force"
    ):
        reproduce("toy", tmp_path, False, 1)
    assert json.loads((tmp_path / "toy.json").read_text())["quick"]
    found = reproduce("toy", tmp_path, False, 1, force=True)
    assert found.outcome.data == {"total": 0 + 1 + 4 + 16 + 25 + 36}
    RUN.clear()
    assert reproduce("toy", tmp_path, False, 1, force=True).outcome == found.outcome
    assert list(range(8)) == RUN, "--force starts afresh"
    (tmp_path / "records" / "toy.jsonl").unlink()
    with pytest.raises(
        sf.InputError, match=r"toy.json' holds a run's results with settings runs 8, this one has 4"
    ):
        reproduce("toy", tmp_path, True, 1)
    assert list(range(8)) == RUN, "before anything is run"
    (tmp_path / "records" / "toy.jsonl").write_text("something else\n")
    with pytest.raises(
        sf.InputError, match=r"toy.jsonl' is damaged in line 1: it is not the beginning of a run's"
    ):
        reproduce("toy", tmp_path, False, 1)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(sf.InputError, match=f"Known: {sorted(papers.NAMES)[0]}"):
        papers.experiment("f20")
    ended = subprocess.run(
        [sys.executable, "-m", "semiflat", "reproduce", "f19-generalization", "--quick"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 2
    assert "did you mean 'f19-generalisation'?" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_command_prints_and_writes_and_fails_where_a_check_does(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        code = _run(["reproduce", "toy", "--out", str(tmp_path), "--processes", "1", *arguments])
        return code, capsys.readouterr().out

    code, out = run("--quick")
    assert code == 0
    assert "sum of squares" in out
    assert f"page: {tmp_path / 'reproduction.html'}" in out
    assert "T00 Fig. 1: squares" in (tmp_path / "reproduction.html").read_text()
    code, out = run("toy", "--quick")
    assert (code, RUN.count(0)) == (0, 1), "a name given twice is run once"
    code, out = run("--quick", "--json")
    assert code == 0
    assert json.loads(out)["experiments"][0]["data"] == {"total": 5}
    more = {"seed": 0, "runs": 4, "least": 99}
    monkeypatch.setattr(Experiment, "settings", lambda self, quick: more)
    code, out = run("--force")
    assert code == 1
    assert "DOES NOT HOLD: the sum grows (5)" in out


@pytest.mark.parametrize("name", ["toy.json", "toy.png", "reproduction.html"])
def test_the_command_refuses_before_it_computes(tmp_path, capsys, name):
    (tmp_path / name).write_text('{"settings": 0}')
    for _ in range(2):
        assert _run(["reproduce", "toy", "--quick", "--out", str(tmp_path)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n"), err[:7]) == ("", 1, "error: ")
        assert str(tmp_path / name) in err
        assert "--force" in err
    assert (tmp_path / name).read_text() == '{"settings": 0}'
    others = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / name}
    assert not RUN
    assert all(path.stat().st_size == 0 for path in others), "locks, and nothing else"


def test_without_a_name_the_experiments_are_listed_with_their_hours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert _run(["reproduce"]) == 0
    out = capsys.readouterr().out
    assert _run(["reproduce", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["experiments"]
    assert [row["name"] for row in rows] == list(papers.NAMES)
    for row, line in zip(rows, out.splitlines(), strict=False):
        assert line.split()[0] == row["name"]
        assert row["source"] in line
        results = Path(__file__).parents[2] / "docs" / "results" / f"{row['name']}.json"
        measured = json.loads(results.read_text())["seconds"] / 3600
        assert measured / 2 < row["hours"] < 2 * measured, "as measured in docs/results"
    assert out.splitlines()[-1].split()[0] == "all"
    assert not RUN
    assert list(tmp_path.iterdir()) == []


def test_all_that_reproduce_writes_is_known_and_what_was_changed_is_kept(tmp_path):
    reproduce("toy", tmp_path, True, 1)
    first = (tmp_path / "toy.json").read_bytes()
    reproduce("toy", tmp_path, True, 1)
    assert (tmp_path / "toy.json").read_bytes() == first, "it differs in its time alone"
    (tmp_path / RECORD).unlink()  # a folder of an older version, with all its records
    reproduce("toy", tmp_path, True, 1)
    for name in ("toy.json", "toy.png"):
        kept = (tmp_path / name).read_bytes()
        changed = kept.replace(b"T00", b"T99") if name == "toy.json" else b"mine"
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(sf.InputError, match=f"{name}' is in the way"):
            reproduce("toy", tmp_path, True, 1)
        assert (tmp_path / name).read_bytes() == changed
        (tmp_path / name).write_bytes(kept)
    (tmp_path / "records" / "toy.jsonl").unlink()
    RUN.clear()
    with pytest.raises(sf.InputError, match=r"toy.json' is in the way"):
        reproduce("toy", tmp_path, True, 1)
    assert not RUN, "refused before anything is run"


@pytest.mark.slow
def test_processes_and_one_process_make_the_same_records(tmp_path):
    name = papers.NAMES[-1]
    one = reproduce(name, tmp_path / "one", True, 1)
    two = reproduce(name, tmp_path / "two", True, 2)
    assert one.outcome == two.outcome
    assert one.png == two.png


@pytest.mark.parametrize("name", papers.NAMES)
def test_every_experiment_says_what_it_is(name):
    found = papers.experiment(name)
    assert found.name == name
    assert found.source.split()[0] in ("F19", "P21", "K19", "Z22", "M18")
    full, quick = found.settings(False), found.settings(True)
    assert set(quick) == set(full)
    assert len(found.tasks(quick)) <= len(found.tasks(full))
    tasks = [json.dumps(task, sort_keys=True) for task in found.tasks(full)]
    assert len(set(tasks)) == len(tasks)
    assert all("seed" in task for task in found.tasks(full))


def test_tasks_whose_processes_are_lost_are_named_and_the_others_are_kept(tmp_path, monkeypatch):
    def lose_the_last(jobs, on_end, machines):
        spread(jobs[:-1], on_end, machines)
        raise JobsLost(jobs[-1:], "it was told to")

    with monkeypatch.context() as here:
        here.setattr("semiflat_experiments.reproduce.spread", lose_the_last)
        with pytest.raises(Unfinished, match=r"toy failed at seed 3: it was told to; .* is kept"):
            reproduce("toy", tmp_path, True, 1)
    RUN.clear()
    assert reproduce("toy", tmp_path, True, 1).outcome.data == {"total": 0 + 1 + 4}
    assert RUN == [3]
