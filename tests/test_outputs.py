"""What a command may replace and delete: what it wrote itself, unchanged since, and nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import semiflat as sf
import semiflat.study.run  # before anything is patched that it imports
from helpers import refused_command
from semiflat import outputs as module
from semiflat.checkpoints import holds, packed
from semiflat.cli.app import _run
from semiflat.outputs import RECORD, Outputs
from semiflat.search.store import FILE


def refuses(message, *arguments, **settings):
    with pytest.raises(sf.InputError, match=message) as error:
        Outputs("widen", **settings).check(*arguments)
    assert "\n" not in str(error.value)


def write(path: Path, content: bytes, **settings):
    Outputs("widen", **settings).write({path: content})


def test_a_command_replaces_what_it_wrote(tmp_path):
    path = tmp_path / "new" / "w"
    for content in (b"one", b"two", b"three", b"three", b"one"):
        write(path, content)
        assert path.read_bytes() == content


@pytest.mark.parametrize("later", [b"mine", b""])
def test_a_command_replaces_nothing_else(tmp_path, later):
    path = tmp_path / "w"
    path.write_bytes(later)
    with pytest.raises(sf.InputError, match=r"w' is in the way: semiflat widen did not .* --force"):
        write(path, b"one")
    assert path.read_bytes() == later
    write(path, b"one", force=True)
    write(path, b"two")
    assert path.read_bytes() == b"two", "with force it has become its own"


def test_a_file_that_was_changed_since_is_no_longer_its_own(tmp_path):
    path = tmp_path / "w"
    for content in (b"one", b"two"):
        write(path, content)
    for changed in (b"two, and a note", b"one"):
        path.write_bytes(changed)
        refuses("it was changed since", path)
        assert path.read_bytes() == changed
    path.write_bytes(b"two")
    Outputs("widen").check(path)


def test_a_file_of_another_command_is_not_its_own(tmp_path):
    path = tmp_path / "p0"
    Outputs("find").write({path: b"one"})
    refuses("semiflat widen did not write it", path)
    Outputs("widen").remove([path])
    assert path.exists()
    Outputs("find").remove([path])
    assert not path.exists()


def test_what_is_there_already_is_never_in_the_way(tmp_path):
    path = tmp_path / "w"
    path.write_bytes(b"one")
    write(path, b"one")
    assert not (tmp_path / RECORD).exists()
    refuses("is in the way", path)  # and has not become its own


def test_none_is_written_where_one_is_in_the_way(tmp_path):
    (tmp_path / "b").write_bytes(b"mine")
    with pytest.raises(sf.InputError, match="b' is in the way"):
        Outputs("find").write({tmp_path / name: b"new" for name in "abc"})
    assert {path.name for path in tmp_path.iterdir()} == {"b"}


@pytest.mark.parametrize("link", [lambda a, b: b.symlink_to(a), lambda a, b: b.hardlink_to(a)])
@pytest.mark.parametrize("force", [False, True])
def test_what_a_command_reads_is_never_replaced(tmp_path, link, force):
    point, alias = tmp_path / "p", tmp_path / "alias"
    write(point, b"point")
    link(point, alias)
    reads = {"the point": point}
    for path in (point, alias, tmp_path / "." / "p"):
        refuses("is the point itself; name another file", path, force=force, reads=reads)


def test_two_files_cannot_go_to_one_name(tmp_path):
    refuses("cannot both go to", tmp_path / "w", tmp_path / "." / "w", force=True)


def test_what_is_no_file_is_never_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe")
    for force in (False, True):
        refuses("it is a folder", tmp_path / "folder", force=force)
        refuses("not a file", tmp_path / "dangling", force=force)
        refuses("not a file", tmp_path / "pipe", force=force)
        refuses("not a file", Path(os.devnull), force=force)
        refuses("file' is not a folder", tmp_path / "file" / "w", force=force)
        refuses("file' is not a folder", tmp_path / "file" / "new" / "w", force=force)
        refuses("where the files written here are recorded", tmp_path / RECORD, force=force)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_a_folder_that_is_read_only_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)  # also for root
    refuses("is read-only", tmp_path / "w")
    refuses("is read-only", tmp_path / "new" / "w")


def test_a_link_is_replaced_and_not_what_it_leads_to(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    write(target, b"one")
    link.symlink_to(target)
    refuses("is in the way", link)
    write(link, b"two", force=True)
    assert (target.read_bytes(), link.read_bytes()) == (b"one", b"two")


def test_a_folder_by_a_link_is_the_same_folder(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link" / "w", b"one")
    write(tmp_path / "real" / "w", b"two")
    assert (tmp_path / "link" / "w").read_bytes() == b"two"


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"files": {}}', '{"format": "semiflat-written-1", "files": {"w": 1}}'],
)
def test_a_damaged_record_vouches_for_nothing(tmp_path, damage):
    path = tmp_path / "w"
    write(path, b"one")
    (tmp_path / RECORD).write_text(damage)
    with pytest.raises(sf.InputError, match=r"is no record of the files written here; .* --force"):
        write(path, b"two")
    assert (path.read_bytes(), (tmp_path / RECORD).read_text()) == (b"one", damage)
    write(path, b"two", force=True)
    write(path, b"three")


@pytest.mark.parametrize("steps", range(6))
def test_whenever_a_process_dies_it_is_known_whose_the_files_are(tmp_path, monkeypatch, steps):
    """One own file is replaced, one is new, one is somebody else's and replaced by force."""
    own, new, other = (tmp_path / name for name in ("own", "new", "other"))
    write(own, b"old")
    other.write_bytes(b"mine")
    done, left = [], steps

    def dies(function):
        def step(path, content):
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            function(path, content)
            done.append(path)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", dies(module.write_json))
        patch.setattr(module, "write_whole", dies(module.write_whole))
        try:
            Outputs("widen", force=True).write({own: b"1", new: b"2", other: b"3"})
        except KeyboardInterrupt:
            assert steps < 5
    assert len(done) == min(steps, 5)
    assert Outputs("widen").own(own)
    assert Outputs("widen").own(new) == (new in done) == new.exists()
    assert Outputs("widen").own(other) == (other in done)
    assert (other.read_bytes() == b"mine") == (other not in done)
    Outputs("widen", force=other not in done).write({own: b"1", new: b"2", other: b"3"})
    assert all(Outputs("widen").own(path) for path in (own, new, other))


def recorded(folder: Path) -> dict:
    return json.loads((folder / RECORD).read_text())["files"]


def test_two_processes_in_one_folder_lose_nothing_of_the_record(tmp_path):
    code = (
        "import sys; from pathlib import Path; from semiflat.outputs import Outputs\n"
        "for k in range(40): Outputs('widen').write({Path(sys.argv[1]) / f'{sys.argv[2]}{k}': b'x'})"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path), name]) for name in "ab"]
    assert [process.wait() for process in both] == [0, 0]
    assert recorded(tmp_path).keys() == {f"{name}{k}" for name in "ab" for k in range(40)}


# -- the commands -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "small.npz"
    X = np.random.default_rng(0).normal(size=(30, 2))
    np.savez(path, X=X, y=np.tanh(X @ [1.0, -0.5]) + 0.1 * np.sin(7 * X[:, 0]))
    return path


def find(data_file, out, *more, starts=4, activation="tanh"):
    return [
        *("find", "--data", str(data_file), "--hidden", "1", "--activation", activation),
        *("--starts", str(starts), "--processes", "1", "--out", str(out), *more),
    ]


@pytest.fixture(scope="module")
def found(data_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("found")
    assert _run(find(data_file, out)) == 0
    return out


def commands(point, data_file, file, folder=None):
    """Every command that writes a file of a given name or in a folder, so that it writes ``file``."""
    folder = folder or file.parent
    return {
        "widen": ["widen", point, "replicate:0:0:0.5,0.5", "--out", file],
        "reduce": ["reduce", point, "--out", file],
        "certify": ["certify", point, "--out", file],
        "judge": ["judge", point, "--certificate", file],
        "path": ["path", point, "--kind", "zero", "--widen", "--out", file],
        "path --figure": ["path", point, "--kind", "zero", "--widen", "--figure", file],
        "find": find(data_file, folder),
        "study": ["study", "--data", data_file, "--hidden", "1", "--starts", "2", "--wider", "1",
                  "--out", folder],
    }  # fmt: skip


WRITES = {
    "find": ["p0.safetensors", "p3.safetensors"],
    "study": ["study.json", "report.html", "figures/spectrum.png", "points/p0.safetensors",
              "points/p0-e3.safetensors", "certificates/p0.json", "certificates/data.json"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (command, name)
        for command in commands(Path(), Path(), Path())
        for name in WRITES.get(command, ["file"])
    ],
)
def test_every_command_refuses_before_it_computes(
    capsys, monkeypatch, found, data_file, tmp_path, command, name
):
    def computed(*arguments, **settings):
        raise AssertionError("something was computed")

    for place in (
        "semiflat.search.run_search",
        "semiflat.study.run.run_search",
        "semiflat.reduction.reduce",
        "semiflat.verdicts.judge",
        "semiflat.embeddings.Composition.__call__",
        "semiflat.certify",
        "semiflat.cli.paths._zero",
    ):
        monkeypatch.setattr(place, computed)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    content = '{"settings": 0}'
    file.write_text(content)
    arguments = commands(found / "p0.safetensors", data_file, file, tmp_path)[command]
    for _ in range(2):
        err = refused_command(capsys, *arguments)
        assert str(file) in err
        assert "--force" in err
    assert file.read_text() == content
    others = {path for path in tmp_path.rglob("*") if path.is_file()} - {file}
    assert not others


@pytest.mark.parametrize("command", ["widen", "reduce", "certify", "judge", "path"])
def test_a_command_writes_again_but_not_over_what_was_changed(
    capsys, found, data_file, tmp_path, command
):
    file = tmp_path / "file"
    arguments = list(map(str, commands(found / "p0.safetensors", data_file, file)[command]))
    assert _run(arguments) == 0
    assert recorded(tmp_path)["file"]["command"] == command
    if command == "widen":
        arguments[2] = "replicate:0:0:0.25,0.75"
    first = file.read_bytes()
    assert _run(arguments) == 0
    assert (file.read_bytes() != first) == (command == "widen")
    assert {path.name for path in tmp_path.iterdir()} == {"file", RECORD}
    file.write_bytes(first + b" ")
    assert "changed since" in refused_command(capsys, *arguments)
    assert _run([*arguments, "--force"]) == 0
    assert file.read_bytes() != first + b" "


@pytest.mark.parametrize("command", ["widen", "reduce", "certify", "judge", "path"])
def test_no_command_writes_over_its_point_or_data(capsys, found, data_file, command, tmp_path):
    point, link = tmp_path / "p", tmp_path / "link"
    point.write_bytes((found / "p0.safetensors").read_bytes())
    link.symlink_to(point)
    before = point.read_bytes(), data_file.read_bytes()
    for force in ([], ["--force"]):
        for given, file in ((point, point), (link, point), (point, link)):
            arguments = commands(given, data_file, file)[command]
            assert "is the point itself" in refused_command(capsys, *arguments, *force)
        arguments = commands(point, data_file, data_file)[command]
        assert "is the data itself" in refused_command(capsys, *arguments, *force)
    assert (point.read_bytes(), data_file.read_bytes()) == before


def test_find_deletes_no_points_that_it_did_not_write(capsys, found, data_file, tmp_path):
    keep = tmp_path / "keep"
    keep.mkdir()
    kept = {name: (found / "p0.safetensors").read_bytes() for name in ("p0", "p1", "p7")}
    for name, content in kept.items():
        (keep / f"{name}.safetensors").write_bytes(content)
    err = refused_command(capsys, *find(data_file, keep, activation="sin"))
    assert "keep/p0.safetensors" in err or "keep/p1.safetensors" in err
    assert {path.stem: path.read_bytes() for path in keep.iterdir()} == kept
    assert _run(find(data_file, keep, "--force", activation="sin", starts=2)) == 0
    assert (keep / "p0.safetensors").read_bytes() != kept["p0"]
    assert (keep / "p7.safetensors").read_bytes() == kept["p7"], "not in the way"


def test_find_goes_on_in_a_folder_of_an_older_version(capsys, data_file, tmp_path):
    out = tmp_path / "old"
    assert _run(find(data_file, out)) == 0
    (out / RECORD).unlink()  # older versions kept no record, and metadata in any order
    path = out / "p0.safetensors"
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(reversed(header["__metadata__"].items()))
    turned = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    path.write_bytes(content[:8] + turned + content[8 + size :])
    assert path.read_bytes() != content
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert _run(find(data_file, out)) == 0
    assert "4 of them from" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "p0.safetensors" in refused_command(capsys, *find(data_file, out, starts=80)), "at once"
    assert (out / FILE).read_bytes() == before[FILE]
    path.write_bytes(content + b" ")
    assert "p0.safetensors" in refused_command(capsys, *find(data_file, out))
    assert _run(find(data_file, out, "--force")) == 0
    assert path.read_bytes() == content


def test_the_same_point_is_the_same_bytes(found):
    stored = sf.load_point(found / "p0.safetensors")
    data = sf.load_data(stored.data["source"])
    point = stored.point(data.X, data.y)
    assert len({packed(point, stored.data) for _ in range(5)}) == 1
    assert (found / "p0.safetensors").read_bytes() == packed(point, stored.data)
    assert not holds(found / "p0.safetensors", packed(point))
    assert not holds(found / FILE, b"{}")


def test_a_study_is_run_again_in_its_folder_and_leaves_other_files(
    capsys, data_file, tmp_path, monkeypatch
):
    arguments = ["study", "--data", str(data_file), "--hidden", "1", "--activation", "tanh"]
    arguments += ["--starts", "2", "--wider", "1", "--points", "1", "--out", str(tmp_path)]
    assert _run(arguments) == 0
    (tmp_path / "points" / "mine.safetensors").write_text("mine")
    first = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert _run([*arguments, "--no-proofs"]) == 0
    gone = first - {path for path in tmp_path.rglob("*") if path.is_file()}
    assert gone, "the proofs of the first"
    assert {path.parent.name for path in gone} == {"certificates"}
    page = tmp_path / "report.html"
    page.write_text(page.read_text() + "<!-- a note -->")
    assert "report.html" in refused_command(capsys, *arguments)
    assert page.read_text().endswith("<!-- a note -->")
    capsys.readouterr()
    with module_lock(tmp_path):
        assert "another process is writing" in refused_command(capsys, *arguments, "--force")


def module_lock(folder: Path):
    from semiflat.files import sole_writer

    return sole_writer(folder / ".study.lock")


def test_a_lock_file_keeps_what_it_holds(tmp_path):
    (tmp_path / ".study.lock").write_text("mine")
    with module_lock(tmp_path):
        pass
    assert (tmp_path / ".study.lock").read_text() == "mine"


def test_a_file_of_somebody_else_is_no_search_that_was_cut_off(capsys, data_file, tmp_path):
    (tmp_path / FILE).write_text("my notes, in one line")
    assert "damaged in line 1" in refused_command(capsys, *find(data_file, tmp_path))
    assert (tmp_path / FILE).read_text() == "my notes, in one line"


def test_shared_data_are_not_replaced_by_others(capsys, found, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("semiflat.certify", None)  # refused before it is called
    point, shared = found / "p0.safetensors", tmp_path / "data.json"
    arguments = ["certify", point, "--out", tmp_path / "c.json", "--data-file", "data.json"]
    for content in ("notes", "{}", '{"X": [["0x1p+0"]], "y": [["0x1p+0"]]}'):
        Outputs("certify", force=True).write({shared: content.encode()})
        assert "holds other data" in refused_command(capsys, *arguments), "even its own"
        assert shared.read_text() == content
