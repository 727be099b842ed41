"""What is proved of a hierarchy's points: it holds in the checker, it is kept, and the rest is said."""

from __future__ import annotations

import re
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import semiflat as sf
from helpers import refused, refused_command, run
from semiflat.nesting import proofs
from semiflat.report import hierarchy_page
from test_hierarchy import HOW, problem

X = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
BENT = problem()


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of a hierarchy of which nothing is proved."""
    file = tmp_path_factory.mktemp("kept") / "h.db"
    sf.hierarchy(BENT, [1, 2], **HOW, store=file)
    return file


@pytest.fixture
def store(kept: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(kept, tmp_path / "h.db"))


@pytest.fixture
def bent(kept: Path) -> sf.Hierarchy:
    h = sf.load_hierarchy(kept, BENT.X, BENT.y)
    assert not h.proved.tried
    return h


def test_what_is_proved_holds_in_the_checker(bent: sf.Hierarchy, tmp_path: Path) -> None:
    proved = bent.certify()
    files = bent.save_certificates(tmp_path)
    assert {file.stem for file in files} == set(proved.certified)
    assert len(files) > 1
    for file in files:
        point = bent[file.stem]
        answer = sf.verify(file)
        assert answer.ok, answer
        assert point.certificate is not None
        assert point.certificate.kind == point.kind
        assert point.certificate.inertia == point.record.inertia
        low, high = point.certificate.loss or (1, 0)
        assert low <= point.loss <= high or abs(point.loss - low) < 1e-14
    for names in proved.distinct.values():
        again = sf.verify_distinct([tmp_path / f"{name}.json" for name in names])
        assert (again.ok, again.at_least) == (True, len(names))
    assert sum(map(len, proved.distinct.values())) == len(files), "all are distinct here"


def test_what_is_not_proved_is_counted_and_said(bent: sf.Hierarchy) -> None:
    proved = bent.certify()
    far = [point for point in bent if point.record.at_infinity]
    assert far
    flat = [p.name for p in bent if not p.record.at_infinity and p.name not in proved.certified]
    assert flat == list(proved.undecided) != []
    assert list(proved.refused.values()) == [len(far)]
    assert "units at infinity cannot be evaluated in balls" in str(proved)
    assert f"undecided: {', '.join(flat)}" in str(proved)
    assert proved.not_tried == 0
    assert "not tried" not in str(proved)
    table = bent.to_dataframe().set_index("name")
    assert set(table.loc[flat, "proof"]) == {"undecided"}
    assert (
        table.loc[list(proved.certified), "proved_kind"]
        == table.loc[list(proved.certified), "kind"]
    ).all()
    own = problem(net=sf.MLP([1, 1, 1], lambda z: z.tanh()))
    h = sf.hierarchy(own, [1], **HOW)
    assert not h.certify().certified
    assert sum(h.proved.refused.values()) == len(h)


def placed(point: sf.Point, params: dict[str, torch.Tensor]) -> sf.HierarchyPoint:
    """Another place of the same problem as a hierarchy's point, certified."""
    record = sf.PointRecord(
        name=str(id(params)), hidden=point.problem.net.hidden, vector=point.problem.net.flatten(params),
        limit=None, loss=point.loss, gradient_norm=0.0, kind="STRICT_MINIMUM", certainty="MEASURED",
        reason="", inertia=None, function=0, new=True, trivial=None, found=1, origin="", evidence="",
    )  # fmt: skip
    made = sf.HierarchyPoint(point.problem, record, sf.certify(sf.Point(point.problem, params)))
    assert made.certificate is not None
    assert made.certificate.certified
    return made


def test_distinct_are_points_of_one_loss_whose_outputs_differ_and_never_copies() -> None:
    even = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, torch.cos(2 * X))
    point = sf.find_critical_point(even, starts=6, processes=1)
    turned = sf.Reflect(0, 0)(point).params
    mirrored = point.params | {"0.weight": -point.params["0.weight"]}  # f(−x), of the same loss
    one, copy, other = (placed(point, params) for params in (point.params, turned, mirrored))
    assert other.certificate is not None
    assert one.certificate is not None
    assert other.certificate.loss == pytest.approx(one.certificate.loss, rel=1e-14)
    assert proofs.distinct([one, copy]) == [one.name]
    assert proofs.distinct([one, other, copy]) == [one.name, other.name]


def test_a_kind_proved_to_be_another_is_said(bent: sf.Hierarchy) -> None:
    records = [
        replace(p.record, kind="UNDECIDED" if p.name == "1-0" else p.record.kind) for p in bent
    ]
    h = sf.Hierarchy(BENT, records, bent.edges, bent.levels)
    assert h.certify().otherwise == ("1-0",)
    assert "proved to be of another kind: 1-0" in str(h.proved)
    assert "roved to be of another kind: " in shown(h)


def shown(h: sf.Hierarchy, **how: Any) -> str:
    """Its page."""
    return hierarchy_page(h.page_record(**how)).decode()


def test_time_that_is_over_leaves_the_rest_and_the_lowest_come_first(
    bent: sf.Hierarchy, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, order = [0.0], []

    def certify(point: sf.HierarchyPoint) -> Any:
        order.append(point.name)
        now[0] += 1
        return sf.certify(point)

    monkeypatch.setattr("semiflat.certificates.certify.certify", certify)
    monkeypatch.setattr("semiflat.nesting.proofs.time.monotonic", lambda: now[0])
    proved = bent.certify(seconds=2.5)
    lowest = [[point.name for point in bent.at(width)] for width in (1, 2)]
    assert order == [lowest[0][0], lowest[1][0], lowest[0][1]]
    assert proved.not_tried == len(bent) - 3
    assert f"{proved.not_tried} not tried" in str(proved)
    assert bent.certify().not_tried == 0
    assert len(order) == len(set(order)) == len(bent), "none is proved twice"


def documents(h: sf.Hierarchy) -> list[Any]:
    return [None if p.certificate is None else p.certificate.document for p in h]


def test_certificates_are_kept_with_the_points_whatever_their_names(
    store: Path, monkeypatch: pytest.MonkeyPatch, postgres: Any
) -> None:
    h = sf.load_hierarchy(store, BENT.X, BENT.y)
    h.certify()
    for place in (store, postgres.place()):
        h.save(place)
        loaded = sf.load_hierarchy(place, BENT.X, BENT.y)
        assert documents(loaded) == documents(h)
        assert loaded.proved == h.proved

    def none(point: sf.Point) -> None:
        raise AssertionError("a proof is made")

    monkeypatch.setattr("semiflat.certificates.certify.certify", none)
    again = sf.hierarchy(BENT, [1, 2], **HOW, store=store)
    again.certify()
    assert documents(again) == documents(h)
    some = sf.load_hierarchy(store, BENT.X, BENT.y, widths=[2], lowest=2)
    assert [p.certificate is not None for p in some] == [True, True]


def test_a_store_of_the_version_before_is_brought_up(store: Path) -> None:
    connection = sqlite3.connect(store)
    connection.execute("DROP TABLE semiflat_certificates")
    connection.execute("UPDATE semiflat_schema SET version = 1 WHERE part = 'hierarchy'")
    connection.commit()
    connection.close()
    h = sf.load_hierarchy(store, BENT.X, BENT.y)
    assert documents(h) == [None] * len(h)
    h.certify()
    h.save(store)
    assert documents(sf.load_hierarchy(store, BENT.X, BENT.y)) == documents(h)


def test_data_of_other_certificates_are_not_written_over(
    bent: sf.Hierarchy, tmp_path: Path
) -> None:
    (tmp_path / "data.json").write_text("{}")
    bent.certify()
    with refused("holds other data"):
        bent.save_certificates(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["data.json"]


@pytest.mark.parametrize("seconds", [0, -1, "5", float("nan")])
def test_seconds_that_make_no_sense_are_refused(bent: sf.Hierarchy, seconds: Any) -> None:
    with refused("seconds must be "):
        bent.certify(seconds=seconds)


def test_the_page_says_what_is_proved_and_how_to_check_it(bent: sf.Hierarchy) -> None:
    assert "semiflat verify" not in shown(bent, certificates=True)
    proved = bent.certify()
    page = shown(bent, certificates=True)
    assert "Proved in ball arithmetic" in page
    checks = re.findall(r"semiflat verify certificates/([\w-]+)\.json", page)
    assert sorted(checks) == sorted(proved.certified)
    assert "semiflat verify" not in shown(bent)
    for name in proved.undecided:
        certificate = bent[name].certificate
        assert certificate is not None
        assert certificate.reason.split("(")[0] in page


def test_the_command_proves_and_a_stranger_checks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table, out = tmp_path / "bent.csv", tmp_path / "out"
    table.write_text(
        "\n".join(["x,y", *(f"{k / 10},{abs(k / 10) - k / 10}" for k in range(-20, 21))])
    )
    command = [
        "hierarchy",
        "--data",
        table,
        "--widths",
        "1",
        "--starts",
        4,
        "--raw",
        "--processes",
        1,
    ]
    err = refused_command(capsys, *command, "--out", out, "--certify", "0")
    assert "--certify must be" in err
    assert not out.exists()
    code, told, _ = run(capsys, *command, "--out", out, "--certify", "60")
    assert code == 0
    assert "proved in ball arithmetic: what " in told
    (check,) = re.findall(r"to check a proof: semiflat (verify .*)", told)
    assert run(capsys, *check.split())[0] == 0
    written = sorted((out / "certificates").glob("[0-9]*.json"))
    assert run(capsys, "verify", "--distinct", *written)[0] == 0
    assert "--certify 60" in (out / "hierarchy.html").read_text()
    # What was proved stays, on the page, too, when nothing more is asked for; what is no more a point's goes.
    (out / "certificates" / "mine.txt").write_text("mine")
    shutil.copy(written[0], out / "certificates" / "7-7.json")
    code, told, _ = run(capsys, *command, "--out", out, "--force")
    assert code == 0
    assert "proved in ball arithmetic" in told
    assert set(written) <= set((out / "certificates").iterdir())
    assert (out / "certificates" / "7-7.json").exists(), "another wrote it"
    assert (out / "certificates" / "mine.txt").exists()
