"""Hierarchies in stores: what is kept is not run again, and what is read is what was written."""

from __future__ import annotations

import math
import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch

import semiflat as sf
from helpers import refused
from semiflat.search.record import LimitRecord

X = [[k / 5] for k in range(-8, 9)]
Y = [math.exp(2 * x[0]) / 10 + 0.3 * math.cos(4 * x[0]) for x in X]
HOW = {"starts": 2, "saddle_starts": 1, "seed": 0, "processes": 1}


def problem(**changes):
    return sf.Problem(**{"net": sf.MLP([1, 1, 1], "tanh"), "X": X, "y": Y, **changes})


def plain(record):
    """A record as what can be compared: tensors by type, shape and bytes."""
    if isinstance(record, torch.Tensor):
        return record.dtype, tuple(record.shape), record.numpy().tobytes()
    if isinstance(record, tuple | list):
        return [plain(each) for each in record]
    if hasattr(record, "__dataclass_fields__"):
        return [plain(getattr(record, each.name)) for each in fields(record)]
    return repr(record)  # tells 1.0 from 1, and −0.0 from 0.0


def same(one, two):
    """To the last bit."""
    assert plain([point.record for point in one]) == plain([point.record for point in two])
    assert plain(one.edges) == plain(two.edges)
    assert plain(one.levels) == plain(two.levels)
    for a, b in zip(one, two, strict=True):
        assert (a.loss, a.kind, a.hidden) == (b.loss, b.kind, b.hidden)


def rows(file, table="semiflat_values"):
    connection = sqlite3.connect(file)
    try:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    finally:
        connection.close()


@pytest.fixture(scope="module")
def fresh():
    """A hierarchy that nothing was kept of."""
    h = sf.hierarchy(problem(), [1, 2], **HOW)
    kinds = {edge.kind for edge in h.edges}
    assert kinds == {"embeds", "descends", "limits"}, "all that there can be is there"
    assert any(point.record.at_infinity for point in h)
    return h


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A store of the first level alone."""
    file = tmp_path_factory.mktemp("narrow") / "h.db"
    sf.hierarchy(problem(), [1], **HOW, store=file)
    return file


@pytest.fixture(scope="module")
def kept(narrow):
    """The same store with another level added."""
    file = Path(shutil.copy(narrow, narrow.with_name("wider.db")))
    sf.hierarchy(problem(), [1, 2], **HOW, store=file)
    return file


@pytest.fixture
def store(kept, tmp_path):
    return Path(shutil.copy(kept, tmp_path / "h.db"))


@pytest.fixture
def nothing_is_run(monkeypatch):
    def run_block(*given):
        raise AssertionError("a start is run")

    monkeypatch.setattr("semiflat.search.gather.run_block", run_block)


# -- over processes ---------------------------------------------------------------------------------


def test_two_processes_make_the_same(fresh):
    same(fresh, sf.hierarchy(problem(), [1, 2], **{**HOW, "processes": 2}))


def test_every_point_is_judged_once_at_every_width(fresh, monkeypatch):
    judged = []

    def judge_all(points):
        judged.extend(points)
        return sf.judge_all(points)

    monkeypatch.setattr("semiflat.nesting.judging.judge_all", judge_all)
    same(fresh, sf.hierarchy(problem(), [1, 2], **HOW))
    assert len(judged) == len(fresh) + sum(edge.kind == "embeds" for edge in fresh.edges)


# -- kept while it is made --------------------------------------------------------------------------


def test_a_level_that_is_added_makes_what_would_have_come_at_once(fresh, narrow, kept):
    same(fresh, sf.load_hierarchy(kept, X, Y))
    assert rows(narrow) < rows(kept)


def test_started_again_it_runs_nothing_and_is_equal(fresh, store, nothing_is_run):
    before = rows(store), rows(store, "semiflat_runs")
    same(fresh, sf.hierarchy(problem(), [1, 2], **HOW, store=store))
    assert (rows(store), rows(store, "semiflat_runs")) == before
    with pytest.raises(AssertionError, match="a start is run"):
        sf.hierarchy(problem(), [1, 2], **{**HOW, "seed": 1}, store=store)


def test_killed_in_the_middle_it_goes_on(fresh, tmp_path):
    file = tmp_path / "h.db"
    script = f"""
        import semiflat as sf
        problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), {X!r}, {Y!r})
        sf.hierarchy(problem, [1, 2], **{HOW!r}, store={str(file)!r})
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    try:
        end = time.monotonic() + 120
        while not file.exists() or not reached(file, 20):
            assert process.poll() is None
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()
    before = rows(file)
    with refused("holds no hierarchy yet; the call that makes it goes on from what it holds"):
        sf.load_hierarchy(file, X, Y)
    same(fresh, sf.hierarchy(problem(), [1, 2], **HOW, store=file))
    assert rows(file) > before >= 20


def reached(file, count):
    try:
        return rows(file) >= count
    except sqlite3.OperationalError:  # its tables are still being made
        return False


def test_a_store_that_goes_away_half_way_goes_on_when_it_is_back(narrow, tmp_path):
    file, moved = tmp_path / "h.db", tmp_path / "moved.db"

    def move(words, done, total):
        if "any index" in words and not moved.exists():
            file.rename(moved)

    with refused("was removed or replaced while it was in use; put it back"):
        sf.hierarchy(problem(), [1], **HOW, store=file, progress=move)
    assert not file.exists()
    moved.rename(file)
    before = rows(file)
    assert before >= HOW["starts"]
    same(sf.load_hierarchy(narrow, X, Y), sf.hierarchy(problem(), [1], **HOW, store=file))


def test_a_server_that_stops_half_way_goes_on_when_it_is_back(narrow, postgres):
    place, stopped = postgres.place(), []

    def stop(words, done, total):
        if "any index" in words and not stopped:
            stopped.append(words)
            postgres.stop()

    try:
        with refused("what was written stays, and the same call goes on from there") as error:
            sf.hierarchy(problem(), [1], **HOW, store=place, progress=stop)
    finally:
        postgres.start()
    assert "\n" not in str(error.value)
    with refused("holds no hierarchy yet; the call that makes it goes on from what it holds"):
        sf.load_hierarchy(place, X, Y)
    same(sf.load_hierarchy(narrow, X, Y), sf.hierarchy(problem(), [1], **HOW, store=place))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"widths": [2, 1]}, "widths must grow from level to level, and [1] comes after [2]"),
        ({"widths": [1, 1]}, "widths must grow from level to level, and [1] comes after [1]"),
        ({"processes": 1, "dask": "tcp://h:1"}, "processes=1 is for this machine alone"),
        ({"processes": 0}, "processes must be a whole number of at least 1"),
        ({"progress": 1}, "progress must be True, False or a function of what is done"),
        ({"starts": 0}, "starts must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_before_there_is_a_store(given, message, tmp_path):
    with refused(message):
        sf.hierarchy(problem(), **{"widths": [1], **given}, store=tmp_path / "h.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"y": [2 * y for y in Y]}, 'data (SHA-256) "'),
        ({"X": [[2 * x[0]] for x in X]}, 'data (SHA-256) "'),
        ({"sample_weight": [1.0 + (x[0] > 0) for x in X]}, 'data (SHA-256) "'),
        ({"net": sf.MLP([1, 1, 1], "gelu")}, 'activations ["tanh"], this one has ["gelu"]'),
        ({"net": sf.MLP([1, 1, 1, 1], "tanh")}, "hidden layers 1, this one has 2"),
        ({"net": sf.MLP([1, 1, 1], "tanh", [False, True])}, "biases [true, true], this one has"),
        ({"weight_decay": 0.1}, "weight decay 0.0, this one has 0.1"),
        ({"loss": "logistic", "y": [float(y > 0) for y in Y]}, 'loss "squared", this one has "log'),
    ],
)
def test_another_problem_is_refused_before_anything_is_run(store, other, message, nothing_is_run):
    before = store.read_bytes()
    changed = problem(**other)
    with refused("holds a hierarchy with ") as error:
        sf.hierarchy(changed, [[1] * len(changed.net.hidden)], **HOW, store=store)
    assert message in str(error.value)
    assert str(error.value).endswith("give another store, or the same problem")
    assert store.read_bytes() == before


@pytest.mark.parametrize("place", ["h", "h.txt", 5, "folder/"])
def test_what_is_no_database_is_refused(place, fresh):
    for act in (
        lambda: sf.hierarchy(problem(), [1], **HOW, store=place),
        lambda: fresh.save(place),
        lambda: sf.load_hierarchy(place, X, Y),
    ):
        with refused("store must be a file ending in .db or .sqlite, or the URL of a database"):
            act()


def test_functions_without_a_name_cannot_be_kept(tmp_path):
    own = problem(net=sf.MLP([1, 1, 1], lambda z: z.sin()))
    with refused("is a Python function, and no store can tell whether it is the same one"):
        sf.hierarchy(own, [1], **HOW, store=tmp_path / "h.db")


# -- saved and loaded -------------------------------------------------------------------------------


@pytest.fixture(params=["file", "server"])
def place(request, tmp_path):
    """Where nothing is yet."""
    return (
        tmp_path / "h.db"
        if request.param == "file"
        else request.getfixturevalue("postgres").place()
    )


def made_up(count=40, seed=0):
    """A hierarchy of three levels that no search found, with edges of all kinds and odd numbers."""
    draw = torch.Generator().manual_seed(seed)
    kinds = [str(kind) for kind in sf.Kind]
    points, edges = [], []
    for level in (1, 2, 3):
        size = 3 * level + 1
        for k in range(count):
            far = k % 7 == 6
            vector = torch.randn(size, generator=draw, dtype=torch.float64)
            limit = LimitRecord((("unit",) * level,), vector, torch.zeros_like(vector))
            points.append(
                sf.PointRecord(
                    name=f"{level}-{'i' if far else ''}{k}",
                    hidden=(level,),
                    vector=vector,
                    limit=limit if far else None,
                    loss=float(torch.rand((), generator=draw, dtype=torch.float64)),
                    gradient_norm=[0.0, 5e-324, math.inf][k % 3],
                    kind=kinds[k % 5],
                    certainty="MEASURED",
                    reason="“quoted”, ℓ\n\t\\",
                    inertia=None if k % 4 == 0 else (size - k % 3, 0, k % 3),
                    function=len(points),
                    new=k % 2 == 0,
                    trivial=None if k % 2 else "constant predictor",
                    found=k,
                    origin="random start",
                    evidence="",
                )
            )
    names = [point.name for point in points]
    for k, point in enumerate(points):
        end = names[(7 * k + 3) % len(names)]
        edges += [
            sf.Edge(
                kind="embeds", source=point.name, target=f"{point.name}@4", hidden=(4,), layer=0
            ),
            sf.Edge(kind="descends", source=point.name, target=end, hidden=(3,), side=-1, loss=0.1),
            sf.Edge(kind="descends", source=point.name, target=None, hidden=(3,), curvature=-0.0),
            sf.Edge(kind="limits", source="", target=point.name, hidden=(3,), times=3),
        ]
    levels = [
        sf.Level(
            hidden=(level,),
            starts=(1, 2),
            counts={"CONVERGED": 3},
            descents=(1, 2),
            narrower=0,
            new_minima=1,
            new_saddles=2,
            new_at_infinity=3,
            unseen=math.inf,
            missing=None,
        )
        for level in (1, 2, 3)
    ]
    return sf.Hierarchy(problem(), points, edges, levels)


def test_what_is_saved_is_loaded_to_the_last_bit(fresh, place):
    for h in (fresh, made_up(), fresh):  # each in the place of the one before
        h.save(place)
        loaded = sf.load_hierarchy(place, X, Y)
        same(h, loaded)
        assert loaded.selection == ""
        assert loaded.problem.data_hash == h.problem.data_hash
        assert repr(loaded) == repr(h)
    assert str(loaded.least_width(1e-2)) == str(fresh.least_width(1e-2))
    loaded.save(place)
    same(fresh, sf.load_hierarchy(place, X, Y))


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"widths": [1, [3]]}, "widths 1, 3: 80 of 120 points"),
        ({"kinds": ["STRICT_SADDLE", "MINIMUM"]}, "kinds STRICT_SADDLE, MINIMUM: 48 of 120 points"),
        ({"lowest": 5}, "the 5 lowest of each width: 15 of 120 points"),
        (
            {"widths": [2], "kinds": ["UNDECIDED"], "lowest": 3},
            "the 3 lowest of each width; kinds UNDECIDED; widths 2: 3 of 120 points",
        ),
        ({"widths": []}, "widths : 0 of 120 points"),
        ({"lowest": 1000}, "the 1000 lowest of each width: 120 of 120 points"),
    ],
)
def test_a_selection_is_what_it_says(place, given, says):
    whole = made_up()
    whole.save(place)
    some = sf.load_hierarchy(place, X, Y, **given)
    widths = [tuple([w] if isinstance(w, int) else w) for w in given.get("widths", [1, 2, 3])]
    kinds = given.get("kinds", [str(kind) for kind in sf.Kind])
    expected = [
        point
        for level in ((1,), (2,), (3,))
        if level in widths
        for point in sorted(
            (p for p in whole if p.hidden == level and p.record.kind in kinds),
            key=lambda p: p.record.loss,
        )[: given.get("lowest")]
    ]
    names = {point.name for point in expected}
    assert [point.name for point in some] == [p.name for p in whole if p.name in names]
    assert plain([p.record for p in some]) == plain([p.record for p in whole if p.name in names])
    there = [
        edge
        for edge in whole.edges
        if (edge.source in names or not edge.source)
        and (edge.target is None or edge.target.split("@")[0] in names)
    ]
    assert plain(some.edges) == plain(there)
    assert plain(some.levels) == plain(whole.levels)
    assert some.selection == says
    assert says == some.selection
    assert says in some._repr_html_()
    assert len(some.to_dataframe()) == len(names)
    for act in (some.least_width, lambda: some.save(place)):
        with refused(f"({says}); load all of them"):
            act()


def test_points_can_be_asked_for_in_sql(tmp_path):
    whole = made_up()
    whole.save(tmp_path / "h.db")
    connection = sqlite3.connect(tmp_path / "h.db")
    found = connection.execute(
        "SELECT name, loss, \"index\", function, found, at_infinity FROM semiflat_points WHERE hidden = '2' "
        "AND kind = 'STRICT_SADDLE' AND found > 4 ORDER BY place"
    ).fetchall()
    connection.close()
    assert found == [
        (p.name, r.loss, r.index, r.function, r.found, r.at_infinity)
        for p in whole
        if (r := p.record).hidden == (2,) and r.kind == "STRICT_SADDLE" and r.found > 4
    ]
    assert len(found) > 3


def test_a_hierarchy_is_replaced_as_a_whole_whoever_writes(place):
    """Two at once: afterwards it is one or the other."""
    both = [made_up(5), made_up(9, seed=1)]
    both[0].save(place)
    errors = []

    def write(h):
        try:
            for _ in range(4):
                h.save(place)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(h,)) for h in both]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert len(sf.load_hierarchy(place, X, Y)) in (15, 27)
    for thread in threads:
        thread.join()
    assert errors == []
    loaded = sf.load_hierarchy(place, X, Y)
    same(next(h for h in both if len(h) == len(loaded)), loaded)


def test_what_cannot_be_loaded_is_refused(store, tmp_path):
    with refused("there is no file"):
        sf.load_hierarchy(tmp_path / "none.db", X, Y)
    assert not (tmp_path / "none.db").exists()
    with refused("are not those that the hierarchy in"):
        sf.load_hierarchy(store, X, [2 * y for y in Y])
    with refused("there is no level of widths [7]; there are [[1], [2]]"):
        sf.load_hierarchy(store, X, Y, widths=[7])
    with refused("unknown kind of point 'STRICT_SADDEL'; did you mean 'STRICT_SADDLE'?"):
        sf.load_hierarchy(store, X, Y, kinds=["STRICT_SADDEL"])
    with refused("lowest must be a whole number of at least 1, not 0"):
        sf.load_hierarchy(store, X, Y, lowest=0)
    for wrong in ({"kinds": "MINIMUM"}, {"widths": 1}):
        with refused("kinds and widths are lists"):
            sf.load_hierarchy(store, X, Y, **wrong)
    sf.run_search(problem(), 1, max_iterations=3, out=tmp_path / "runs.db", processes=1)
    with refused("holds no hierarchy; give the one that it was saved to"):
        sf.load_hierarchy(tmp_path / "runs.db", X, Y)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE semiflat_points SET rest = '{'", "is damaged: "),
        ("UPDATE semiflat_points SET rest = '{}'", "is damaged: a PointRecord without"),
        ("UPDATE semiflat_points SET vector = x'00'", "is damaged: "),
        ("UPDATE semiflat_edges SET hidden = 'two'", "is damaged: "),
        ("UPDATE semiflat_hierarchy SET header = '{}'", "is damaged: "),
        ("UPDATE semiflat_schema SET version = 9", "was written by a newer semiflat: its "),
        ("DROP TABLE semiflat_edges", "no such table: semiflat_edges"),
        ("DELETE FROM semiflat_levels", "holds no hierarchy yet"),
    ],
)
def test_damage_and_newer_versions_are_named(store, statement, message):
    connection = sqlite3.connect(store)
    connection.execute(statement)
    connection.commit()
    connection.close()
    with refused(message) as error:
        sf.load_hierarchy(store, X, Y)
    assert "h.db" in str(error.value)


def test_a_hierarchy_of_another_problem_is_not_saved_over(store):
    h = made_up()
    other = sf.Hierarchy(
        problem(y=[2 * y for y in Y]), [replace(p.record) for p in h], h.edges, h.levels
    )
    before = sf.load_hierarchy(store, X, Y)
    with refused("holds a hierarchy with data (SHA-256)"):
        other.save(store)
    same(before, sf.load_hierarchy(store, X, Y))
