"""A search in a folder: what has ended is kept, whatever ends the process, and is not run again."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import semiflat as sf
from semiflat.cli.app import _run
from semiflat.outputs import Outputs
from semiflat.search.block import Settings
from semiflat.search.plain import from_plain, to_plain
from semiflat.search.record import Finished, LimitRecord, Status
from semiflat.search.store import FILE, KeptRun, open_store
from test_spread import problem, same

# In torch, where runs of one block hold together; of the compiled engine's see test_engine.py.
HOW = {"seed": 3, "max_iterations": 30, "processes": 1, "engine": "torch"}


def search(starts, out=None, **other):
    ran = []
    result = sf.run_search(problem(), starts, out=out, progress=ran.append, **{**HOW, **other})
    return result, sum(map(len, ran[1:]))  # the first call tells of what was read


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder with 130 starts: two whole blocks and a part of a third."""
    out = tmp_path_factory.mktemp("kept")
    assert search(130, out)[1] == 130
    return out


@pytest.fixture
def folder(kept, tmp_path):
    return Path(shutil.copytree(kept, tmp_path / "folder"))


def lines(folder):
    return (folder / FILE).read_bytes().split(b"\n")


def test_run_again_it_reads_all_and_runs_nothing(folder):
    before = (folder / FILE).read_bytes()
    again, ran = search(130, folder)
    assert (again.stored, ran) == (130, 0)
    assert (folder / FILE).read_bytes() == before
    same(search(130)[0], again)


def test_the_short_ways_in_keep_starts_too(tmp_path):
    one = problem("gelu").with_net(sf.MLP([1, 1, 1], "gelu"))
    points = sf.find_critical_points(one, starts=6, out=tmp_path, processes=1)
    before = (tmp_path / FILE).read_bytes()
    point = sf.find_critical_point(one, starts=6, out=tmp_path)
    assert point.loss == points[0].loss
    assert (tmp_path / FILE).read_bytes() == before


def test_limits_are_kept_too(tmp_path):
    data = sf.load_data("diabetes")
    steep = sf.Problem(sf.MLP([10, 2, 1], "tanh"), data.X, data.y)
    first, second = (sf.run_search(steep, starts=1, out=tmp_path) for _ in range(2))
    assert second.stored == 1
    assert first.runs[0].status is sf.Status.SATURATED
    same(first, second)
    assert second.runs[0].limit.loss == first.runs[0].limit.loss


@pytest.mark.parametrize("starts", [200, 100])
def test_another_number_of_starts_keeps_the_whole_blocks(folder, starts):
    """A block that would be cut differently is run again: rounding depends on what is in a batch."""
    again, ran = search(starts, folder)
    assert again.stored == min(starts, 130) // 64 * 64
    assert again.stored + ran == starts
    same(search(starts)[0], again)


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_torn_last_line_is_dropped_and_its_block_run_again(folder, cut):
    path = folder / FILE
    content = path.read_bytes()
    last = content[:-1].rfind(b"\n") + 1
    path.write_bytes(content[: last + cut] if cut > 0 else content[:-1])
    again, ran = search(130, folder)
    assert (again.stored, ran) == (128, 2)
    same(search(130)[0], again)
    assert sorted(lines(folder)) == sorted(content.split(b"\n"))


def test_a_header_that_was_never_finished_is_begun_again(tmp_path):
    (tmp_path / FILE).write_bytes(b'{"format": "semi')
    assert search(3, tmp_path)[1] == 3
    assert search(3, tmp_path)[0].stored == 3


def test_a_search_that_nothing_came_of_binds_to_nothing(tmp_path):
    with pytest.raises(sf.InputError, match="Dask"):
        search(3, tmp_path, processes=None, dask="nowhere")
    assert search(3, tmp_path, seed=4)[1] == 3
    assert search(3, tmp_path, seed=4)[0].stored == 3


@pytest.mark.parametrize(
    ("line", "damage", "message"),
    [
        (1, b"{]", "line 1: it is no JSON; give another folder, or delete the file"),
        (1, b"[]", "line 1: it holds no record"),
        (1, b'{"format": "semiflat-search-9"}', "format 'semiflat-search-9'"),
        (5, b"", "line 5: it is no JSON; delete that line"),
        (5, b"{}", "line 5"),
        (5, b'{"block": [0, 64], "start": "x"}', "line 5"),
    ],
)
def test_damaged_lines_are_named(folder, line, damage, message):
    content = lines(folder)
    content[line - 1] = damage
    (folder / FILE).write_bytes(b"\n".join(content))
    with pytest.raises(sf.InputError) as error:
        search(130, folder)
    assert message in str(error.value)
    assert FILE in str(error.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("vector", {"dtype": "float64", "shape": [1], "values": [1.0]}, "7 parameters"),
        ("vector", {"dtype": "float64", "shape": [9], "values": [1.0]}, "no tensor"),
        ("vector", [1.0], "no tensor"),
        ("vector", {"dtype": "Tensor", "shape": [0], "values": []}, "no dtype"),
        ("status", "FINE", "FINE"),
        ("iterations", 1.5, "is no int"),
        ("loss", "1.5", "is no float"),
        ("limit", 7, "is no LimitRecord"),
        ("colour", "red", "no field 'colour'"),
    ],
)
def test_values_that_are_none_are_damage(folder, key, value, message):
    content = lines(folder)
    content[6] = json.dumps(json.loads(content[6]) | {key: value}).encode()
    (folder / FILE).write_bytes(b"\n".join(content))
    with pytest.raises(sf.InputError, match="line 7") as error:
        search(130, folder)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"seed": 4}, "seed 3, this one has 4; give another folder"),
        ({"tolerance": 1e-11}, "tolerance 1e-12, this one has 1e-11"),
        ({"max_iterations": 31}, "max_iterations 30, this one has 31"),
        ({"kind": "any"}, 'kind "minimum", this one has "any"'),
        ({"start_scale": 2.0}, "start_scale 1.0, this one has 2.0"),
    ],
)
def test_another_search_is_refused(folder, other, message):
    before = (folder / FILE).read_bytes()
    with pytest.raises(sf.InputError) as error:
        search(130, folder, **other)
    assert message in str(error.value)
    assert (folder / FILE).read_bytes() == before


def test_another_problem_is_refused(folder):
    one = problem()
    decayed = problem().with_weight_decay(0.1)
    for other, message in (
        (problem("gelu"), 'activations ["tanh"], this one has ["gelu"]'),
        (one.with_net(sf.MLP([1, 3, 1], "tanh")), r"widths [1, 2, 1], this one has [1, 3, 1]"),
        (sf.Problem(one.net, one.X, -one.y), "data (SHA-256)"),
        (sf.Problem(one.net, one.X, one.y.abs().clamp(max=1), "logistic"), 'loss "squared"'),
        (decayed, "weight decay 0.0, this one has 0.1"),
    ):
        with pytest.raises(sf.InputError) as error:
            sf.run_search(other, starts=130, out=folder, **HOW)
        assert message in str(error.value)


def test_several_problems_in_one_folder(tmp_path):
    problems = [problem(), sf.Problem(problem().net, problem().X, -problem().y)]
    for stored in (0, 10):
        result = sf.run_search(problems, starts=5, out=tmp_path, **HOW)
        assert result.stored == stored
        assert [run.problem for run in result.runs] == [problems[0]] * 5 + [problems[1]] * 5
    with pytest.raises(sf.InputError, match="starts of each problem 5, this one has 6"):
        sf.run_search(problems, starts=6, out=tmp_path, **HOW)


def test_what_cannot_go_on_is_refused(tmp_path):
    with pytest.raises(sf.InputError, match="give a seed and no start"):
        sf.run_search(problem(), starts=1, seed=None, out=tmp_path / "a")
    with pytest.raises(sf.InputError, match="give a seed and no start"):
        sf.run_search(problem(), start=problem().net.random_params(0), out=tmp_path / "a")
    own = problem(lambda z: z.sin())
    with pytest.raises(sf.InputError, match="is a Python function"):
        sf.run_search(own, starts=1, out=tmp_path / "a")
    (tmp_path / "file").write_text("in the way")
    for where in ("file", "file/below"):
        with pytest.raises(sf.InputError, match="cannot write"):
            search(1, tmp_path / where)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_two_at_once_are_refused(folder):
    settings = Settings("minimum", HOW["seed"], 1e-12, HOW["max_iterations"])
    with (
        open_store(folder, [problem()], settings, 1.0, 130),
        pytest.raises(sf.InputError, match="another process is writing to"),
    ):
        search(130, folder)
    assert search(130, folder)[0].stored == 130


def test_what_an_interrupted_write_leaves_behind_is_overwritten(folder, monkeypatch):
    """Also within one process, where the next write follows."""
    settings = Settings("minimum", HOW["seed"], 1e-12, HOW["max_iterations"])
    before = (folder / FILE).read_bytes()
    one = Finished(7, Status.STALLED, "", 1, torch.zeros(7, dtype=torch.float64), math.nan, 1.0)
    with open_store(folder, [problem()], settings, 1.0, 130) as store:

        def tear(file):
            raise KeyboardInterrupt

        monkeypatch.setattr(os, "fsync", tear)
        with pytest.raises(KeyboardInterrupt):
            store.put([KeptRun((7, 2), one)])
        monkeypatch.undo()
        store.put([KeptRun((7, 2), one)])
        store.put([KeptRun((7, 2), one)])
    assert (folder / FILE).read_bytes().startswith(before)
    assert len(lines(folder)) == len(before.split(b"\n")) + 1
    with open_store(folder, [problem()], settings, 1.0, 130) as store:
        assert store.get(((7, 2), 7)).run.status is one.status
        assert store.get(((7, 2), 8)) is None


def test_records_come_back_exactly():
    limit = LimitRecord((("unit", "step"), ()), torch.rand(3).double(), torch.zeros(0))
    record = Finished(
        3,
        Status.CHANNEL,
        "ℓ “x”",
        7,
        torch.tensor([0.1, math.inf, -0.0, 5e-324]),
        math.nan,
        0.1,
        limit,
    )
    text = json.dumps(to_plain(record), allow_nan=False)
    back = from_plain(Finished, json.loads(text))
    assert json.dumps(to_plain(back)) == text
    assert torch.equal(back.limit.vector, limit.vector)
    assert back.limit.far.shape == (0,)
    assert back.status is Status.CHANNEL
    assert back.vector.dtype == record.vector.dtype
    assert math.copysign(1, back.vector[2]) == -1
    old = {key: value for key, value in json.loads(text).items() if key != "limit"}
    assert from_plain(Finished, old).limit is None


def command(out, starts, *more):
    data = out.parent / "curve.csv"
    if not data.exists():
        data.write_text(
            "x,y\n" + "".join(f"{x / 9},{(x / 9) ** 3 - x / 9}\n" for x in range(-9, 10))
        )
    return [
        *("find", "--data", str(data), "--hidden", "1", "--activation", "tanh"),
        *("--starts", str(starts), "--max-iterations", "30", "--out", str(out), *more),
    ]


def begun(out, *more, **how):
    """The command in a process of its own, once some starts are kept."""
    process = subprocess.Popen(
        [sys.executable, "-m", "semiflat", *command(out, 64 * 400, *more)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # What is begun in the background may ignore SIGINT, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        end = time.monotonic() + 60
        while not (out / FILE).exists() or (out / FILE).read_bytes().count(b"\n") < 65:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.02)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process


def goes_on(out, fresh, capsys):
    """Run again, it runs the rest, and ends where an uninterrupted run does."""
    before = (out / FILE).read_bytes()
    before = before[: before.rfind(b"\n") + 1]
    starts = [json.loads(line)["start"] for line in before.splitlines()[1:]]
    assert len(set(starts)) == len(starts) < 64 * 400
    wanted = 64 * (len(starts) // 64 + 1)
    assert _run(command(out, wanted, "--json", "--processes", "1")) == 0
    continued = json.loads(capsys.readouterr().out)
    assert continued["stored"] >= len({s for s in starts if s < wanted}) // 64 * 64 >= 64
    content = (out / FILE).read_bytes()
    assert content.startswith(before)
    everything = [json.loads(line)["start"] for line in content.splitlines()[1:]]
    assert len(everything) == len(set(everything)), "a start that was kept was run again"
    assert set(everything) >= set(range(wanted))
    assert _run(command(fresh, wanted, "--json", "--processes", "1")) == 0
    assert json.loads(capsys.readouterr().out)["counts"] == continued["counts"]
    for path in fresh.glob("*.safetensors"):
        one, two = load_file(path), load_file(out / path.name)
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert len(list(fresh.iterdir())) == len(list(out.iterdir()))


def test_killed_in_the_middle_it_goes_on(tmp_path, capsys):
    out = tmp_path / "out"
    process = begun(out, "--processes", "1")
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    goes_on(out, tmp_path / "fresh", capsys)


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path, capsys):
    out = tmp_path / "out"
    process = begun(out, "--processes", "2")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does, to all processes
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "distinct critical point" in stdout
    assert "the same command goes on from there" in stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 2, stderr
    goes_on(out, tmp_path / "fresh", capsys)


def test_points_of_an_earlier_larger_result_are_removed(tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    Outputs("find").write({out / "p7.safetensors": b"", out / "p8.safetensors": b""})
    for name in ("p8.safetensors", "p9.safetensors", "pq.safetensors", "notes.txt"):
        (out / name).write_text("mine")
    assert _run(command(out, 8)) == 0
    names = {path.name for path in out.iterdir()}
    assert "p7.safetensors" not in names
    assert {"p0.safetensors", "pq.safetensors", "notes.txt", FILE} <= names
    assert {"p8.safetensors", "p9.safetensors"} <= names, "changed since, and of somebody else"
    assert _run(command(out, 8)) == 0
    assert "8 of them from" in capsys.readouterr().out


# -- in a database ----------------------------------------------------------------------------------


def test_a_database_has_room_for_many_searches(tmp_path):
    place = tmp_path / "a.db"
    for seed in (3, 4, 3):
        result, ran = search(2, place, seed=seed)
    assert (result.stored, ran) == (2, 0)
    same(search(2)[0], result)
    other = sf.Problem(problem().net, problem().X, -problem().y)
    assert sf.run_search(other, starts=2, out=place, **HOW).stored == 0


def test_given_starts_are_kept_in_a_database(tmp_path):
    place, one = tmp_path / "a.sqlite", problem()
    start = one.net.random_params(0, (5,))
    first, again = (sf.run_search(one, start=start, out=place, processes=1) for _ in range(2))
    assert (first.stored, again.stored) == (0, 5)
    for run, other in zip(first.runs, again.runs, strict=True):
        assert vars(run.record) == vars(other.record)
        assert all(torch.equal(run.params[key], other.params[key]) for key in run.params)
    start["0.bias"][4] += 1e-9
    assert sf.run_search(one, start=start, out=place, processes=1).stored == 0
    # They are no random starts, and say nothing of these.
    assert sf.run_search(one, starts=5, out=place, processes=1).stored == 0


def test_starts_in_limiting_networks_are_kept_apart(tmp_path):
    place, one = tmp_path / "a.db", problem()
    params = one.net.random_params(0)
    kept = []
    for form, far in (("unit", 0.0), ("step", 1.0), ("step", -1.0)):
        net = sf.LimitMLP(one.net, [["unit", form]])
        beyond = {key: far * torch.ones_like(value) for key, value in params.items()}
        there = sf.Limit(one, net, params, beyond).point
        for _ in range(2):
            how = {"start": there.params, "kind": "any", "processes": 1, "max_iterations": 20}
            kept.append(sf.run_search(there.problem, out=place, **how).stored)
    assert kept == [0, 1] * 3


def test_the_command_keeps_starts_in_a_database(tmp_path, capsys):
    out = tmp_path / "a.db"
    assert _run(command(out, 8)) == 0
    first = capsys.readouterr().out
    assert f"the starts are kept in {out}; with a folder as --out points go to files, too" in first
    assert _run(command(out, 8, "--json")) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["stored"] == 8
    assert [row["file"] for row in again["points"]] == [None] * len(again["points"])
    assert {path.name for path in tmp_path.iterdir()} == {"a.db", "curve.csv"}


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("{folder}/b.db", "Is a directory"),
        ("{folder}/c.sqlite", "is no SQLite database"),
        (
            "mysql://me:secret@host/runs",
            "no database 'mysql' is known; give a file ending in .db or",
        ),
        ("postgresql://me:secret@127.0.0.1:1/runs", "me:***@127.0.0.1:1/runs' cannot be used"),
    ],
)
def test_the_command_names_a_database_that_cannot_be_used(tmp_path, capsys, out, message):
    (tmp_path / "b.db").mkdir()
    (tmp_path / "c.sqlite").write_text("notes")
    arguments = command(tmp_path / "out", 8)
    arguments[arguments.index("--out") + 1] = out.format(folder=tmp_path)
    assert _run(arguments) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "secret" not in err
    assert err.count("\n") == 1
