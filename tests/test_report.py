"""The page and its figures, from records made by hand: whole, partial, empty and hostile."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from semiflat import InputError
from semiflat.outputs import RECORD
from semiflat.records.study import StudyRecord, read
from semiflat.report import write_report
from semiflat.report.numbers import change
from semiflat.report.traps import narrow_points
from semiflat.report.words import KINDS, STATUSES
from semiflat.search import Status
from semiflat.study import Settings
from semiflat.verdicts import Kind

Record = dict[str, Any]
PNG = b"\x89PNG\r\n\x1a\n"


def point(name: str, loss: float | None, kind: str = "STRICT_MINIMUM", **more: Any) -> Record:
    return {
        "name": name,
        "loss": loss,
        "status": "CONVERGED",
        "start": 5,
        "iterations": 47,
        "largest_parameter": 9.79,
        "evidence": "gradient 1e-16",
        "kind": kind,
        "certainty": "MEASURED",
        "inertia": [3, 0, 0],
        "reason": "all eigenvalues are positive",
        "gradient_norm": 1.5e-16,
        "curvature": None,
        "margin": {"eigenvalue": 6e-6, "floor": 2e-12},
        "flat_directions": {"families": [], "dimension": 0},
        **more,
    }


def embedded(name: str, source: str, added: int, family: str, kind: str, **more: Any) -> Record:
    return {
        "name": name,
        "source": source,
        "embedding": f"Replicate(layer=0, unit=0, weights=[{name}])",
        "steps": [{"type": "Replicate", "layer": 0, "unit": 0, "weights": [["1/2", 2]]}],
        "family": family,
        "layer": 0,
        "unit": 0,
        "added": added,
        "widths": [1, 1 + added, 1],
        "output_change": 3.5e-16,
        "kind": kind,
        "certainty": "MEASURED",
        "inertia": [4, 1, 1],
        "dense_inertia": [4, 1, 1],
        "reason": f"reason of {name}",
        "gradient_norm": 7.5e-16,
        "curvature": -0.4321,
        "curvature_measured": -0.4323,
        "margin": {"eigenvalue": -1.0, "floor": 1e-15},
        "flat_directions": {"families": [{"name": "replicated unit", "dimension": 1}]},
        **more,
    }


def escape(saddle: str, before: float, after: float | None, status: str = "CONVERGED") -> Record:
    return {"embedded": saddle, "loss_before": before, "loss_after": after, "status": status}


def search_record(kind: str = "minimum", **counts: int) -> Record:
    return {
        "kind": kind,
        "starts": sum(counts.values()),
        "interrupted": False,
        "counts": {str(s): counts.get(str(s), 0) for s in Status},
        "meanings": {str(s): s.meaning for s in Status},
        "lowest": [
            {"status": status, "loss": 0.25, "evidence": f"evidence of {status}"}
            for status, runs in counts.items()
            if runs
        ],
    }


def bare() -> Record:
    """What a study writes before its search has ended."""
    return {
        "semiflat": "9.8.7",
        "complete": False,
        "data": {
            "name": "toy",
            "samples": 30,
            "inputs": 2,
            "outputs": 1,
            "loss": "squared",
            "loss_in_words": "The loss is half the squared error: predicting the mean every time gives 0.5.",
            "features": ["height", "weight"],
            "classes": None,
            "dropped": ["constant one"],
            "standardisation": {
                "X_mean": [1.5, 2.5],
                "X_scale": [0.25, 0.75],
                "y_mean": [10.5],
                "y_scale": [4.5],
            },
        },
        "network": {"widths": [2, 1, 1], "activation": "gelu", "parameters": 5},
        "settings": asdict(Settings(hidden=(1,), starts=12)) | {"max_iterations": 500},
        "search": {},
        "points": [],
        "embedded": [],
        "escapes": [],
        "curves": {"descent": [], "spectrum": [], "share_line": []},
    }


def full() -> Record:
    """Two minima: the first stops being a trap with one unit, the second does not."""
    return bare() | {
        "complete": True,
        "search": search_record(CONVERGED=9, DIVERGED=3),
        "points": [point("p0", 0.3125), point("p1", 0.4375)],
        "embedded": [
            embedded("p0-e0", "p0", 1, "replicate inside", "MINIMUM", inertia=[5, 1, 0]),
            embedded("p0-e1", "p0", 1, "replicate outside", "STRICT_SADDLE"),
            embedded("p0-e2", "p0", 2, "replicate outside", "STRICT_SADDLE", dense_inertia=None),
            embedded("p1-e0", "p1", 1, "replicate inside", "UNDECIDED", curvature=None),
        ],
        "escapes": [
            escape("p0-e1", 0.3125, 0.28125),
            escape("p0-e2", 0.3125, 0.15625, "MAX_ITERATIONS"),
        ],
    }


def drawn() -> Record:
    """The same with a curve of each sort."""
    steps = [t / 10 for t in range(-10, 11)]
    shares = [k / 4 for k in range(-4, 9)]
    record = full()
    record["curves"] = {
        "descent": [
            {
                "embedded": "p0-e1",
                "embedding": "Replicate(…)",
                "curvature": -0.5,
                "step": steps,
                "loss": [0.3125 - 0.25 * t**2 + 0.2 * t**4 for t in steps],
                "loss_before": 0.3125,
                "loss_after": 0.28125,
            }
        ],
        "spectrum": [
            {
                "embedded": "p0-e1",
                "source": "p0",
                "embedding": "Replicate(…)",
                "family": "replicate outside",
                "narrow": [0.001, 0.1, 1.0],
                "wide": [-0.01, 1e-18, 0.001, 0.01, 0.1, 1.0],
            }
        ],
        "share_line": [
            {
                "source": "p0",
                "layer": 0,
                "unit": 0,
                "share": shares,
                "loss": [0.3125 + (k % 2) * 5.6e-17 for k in range(len(shares))],
                "lowest": [-abs(s * (1 - s)) for s in shares],
                "kind": ["MINIMUM" if 0 < s < 1 else "STRICT_SADDLE" for s in shares],
            }
        ],
    }
    return record


class Page(HTMLParser):
    """The page's text, and what it would load."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.loads: list[str] = []
        self.tags: list[str] = []
        self.places: list[str] = []
        self.policy = ""
        self.feed(source)
        text = " ".join(" ".join(self.parts).split())
        self.text = re.sub(r" ([],.:;)])", r"\1", text).replace("[ ", "[")  # beside a link

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "srcset")]
        self.places += [value or "" for key, value in attrs if key == "id"]
        if ("http-equiv", "Content-Security-Policy") in attrs:
            self.policy = dict(attrs)["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] not in ("style", "script"):
            self.parts.append(data)


def page_of(record: Record, out: Path) -> Page:
    """The written page, after the checks that hold for every page."""
    before = copy.deepcopy(record)
    source = write_report(record, out)[0].read_text("utf-8")
    assert record == before, "the record was changed"
    page = Page(source)
    local = re.compile(r"data:image/png;base64,.*|#.*|certificates/[\w-]+\.json")
    assert all(local.fullmatch(load) for load in page.loads)
    assert not {"link", "iframe", "object", "embed"} & set(page.tags)
    own = re.sub(r"<script>/\*!.*?</script>", "", source, flags=re.S)  # less the chart library
    assert not re.search(r"https?:|@import|url\(", own)
    assert page.policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    )
    links = {load[1:] for load in page.loads if load.startswith("#")}
    assert links <= set(page.places), "a link leads nowhere"
    assert len(page.places) == len(set(page.places)), "two places have one name"
    assert source.startswith("<!DOCTYPE html>")
    return page


def test_files_are_named_and_figures_are_png(tmp_path: Path):
    paths = write_report(drawn(), tmp_path / "not" / "there")
    names = [path.relative_to(tmp_path / "not" / "there").as_posix() for path in paths]
    figures = [f"figures/{name}.png" for name in ("descent", "spectrum", "share_line")]
    assert names == ["report.html", *figures]
    assert all(path.read_bytes().startswith(PNG) for path in paths[1:])
    source = paths[0].read_text("utf-8")
    inside = [base64.b64decode(code) for code in re.findall(r"base64,([^\"]+)", source)]
    assert inside == [path.read_bytes() for path in paths[1:]]
    assert sorted(p.name for p in (tmp_path / "not" / "there").iterdir()) == [
        RECORD,
        "figures",
        "report.html",
    ]


def test_the_same_record_gives_the_same_bytes(tmp_path: Path):
    first, second = write_report(drawn(), tmp_path / "a"), write_report(drawn(), tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_summary_counts_and_joins(tmp_path: Path):
    text = page_of(full(), tmp_path).text
    assert "toy: 2-1-1 gelu, 30 samples, squared loss" in text
    assert "Of 12 runs from random starts, 9 reached a finite critical point: 2 distinct" in text
    assert "in 4 ways: 2 strict saddles, 1 minimum and 1 undecided." in text
    assert "With ONE unit added, 1 of the 2 narrow minima stopped being traps" in text
    assert "with one unit added is 0.281250, from p0 at 0.312500 (−10 %)" in text
    assert "with up to 2 added it is 0.156250, from p0 at 0.312500 (−50 %)" in text
    assert "constant predictor" not in text
    assert "as some directions belong to two" not in text
    assert "not complete" not in text


def test_an_end_is_held_against_the_point_that_it_was_reached_from(tmp_path: Path):
    record = full()
    record["escapes"] += [escape("p1-e0", 0.4375, 0.25)]
    text = page_of(record, tmp_path).text
    assert "with one unit added is 0.250000, from p1 at 0.437500 (−43 %)" in text
    assert "That is not below" not in text
    record["escapes"] = [escape("p1-e0", 0.4375, 0.375)]
    text = page_of(record, tmp_path / "other").text
    assert "with one unit added is 0.375000, from p1 at 0.437500 (−14 %)" in text
    assert "That is not below the lowest point found, p0 at 0.312500." in text


def test_no_fall_is_rounded_to_all_of_the_loss():
    changes = [change(1.0, rest) for rest in (0.011, 0.0099, 0.005, 0.0014, 1.1e-4, 9e-5, 1e-300)]
    assert changes == [
        "−99 %", "−99.01 %", "−99.50 %", "−99.86 %", "−99.989 %", "over −99.99 %", "over −99.99 %"
    ]  # fmt: skip
    assert change(1.0, 0.0) == "−100 %"
    assert [change(1.0, more) for more in (1.996, 2.0, 9.9, 10.0, 3e9)] == [
        "+100 %", "+100 %", "+890 %", "10 times", "3e9 times"
    ]  # fmt: skip
    every = [change(1.0, 10.0**-k) + change(1.0, 10.0**k) for k in range(-12, 13)]
    assert not [text for text in every if re.search(r"e\+|−1e|−100", text)]


@pytest.mark.parametrize(
    ("trivial", "words"),
    [
        (
            [None, "constant predictor: the same"],
            "9 reached a finite critical point: 1 distinct, the lowest at loss 0.312500, and the constant "
            "predictor, which gives every sample the same output and is not counted.",
        ),
        (
            ["constant predictor: the same"] * 2,
            "9 reached a finite critical point: the constant predictor (2 points) alone, which is there for "
            "any data.",
        ),
        (["dead units [0] of hidden", None], "1 of the 2 has units that do nothing on the data."),
        (["embedded narrower point"] * 2, "Both are narrower networks’ points, embedded."),
    ],
)
def test_trivial_points_are_called_so(tmp_path: Path, trivial, words):
    record = full()
    for row, why in zip(record["points"], trivial, strict=True):
        row["trivial"] = why
    text = page_of(record, tmp_path).text
    assert words in text
    assert all(why in text.split("2 Critical points")[-1] for why in trivial if why)


def decayed() -> Record:
    """A study of separable classes, which took weight decay by itself."""
    record = full()
    record["data"] |= {"loss": "cross_entropy", "classes": ["a", "b"]}
    record["settings"] |= {"weight_decay": "0.001"}
    record["separation"] = {
        "found": "the run from start 5 tells the classes apart",
        "margin": 0.125,
        "at_most": 0.125,
        "falls": [[10.0, 0.25], [100.0, 1e-6]],
    }
    record["decay"] = {"words": "0.001", "chosen": True, "why": "reasons", "everywhere": True}
    record["points"] = [
        point("p0", 0.3125, accuracy=0.98, penalty=0.0625),
        point("p1", 0.4375, accuracy=1.0, penalty=0.0625),
    ]
    for row in record["embedded"]:
        row["family"] = "null units"
    record["nearest"] = [
        point("n0", 0.25, source="p0", embedding="Replicate(…)", family="replicate inside", added=1,
              loss_before=0.3125, loss_embedded=0.34, gradient_embedded=1e-3, distance=0.75,
              widths=[2, 2, 1], accuracy=0.99),
        point("n1", 0.4375, source="p1", embedding="Replicate(…)", family="replicate outside", added=1,
              loss_before=0.4375, loss_embedded=0.5, gradient_embedded=1e-3, distance=1.5,
              widths=[2, 2, 1], accuracy=0.99),
    ]  # fmt: skip
    return record


def test_a_study_with_weight_decay_says_why_and_what_it_found(tmp_path: Path):
    text = page_of(decayed(), tmp_path).text
    for words in (
        "These classes can be told apart without error, so without weight decay the loss falls for ever",
        "This study adds weight decay λ = 0.001; every loss here includes the penalty.",
        "the run from start 5 tells the classes apart",
        "every margin grows by at least 0.125 for each unit of length",
        "0.250000 at length 10 and 1.00000e-06 at length 100",
        "It was not asked for: reasons. With it every minimum is finite.",
        "At the lowest point the penalty is 20 % of the loss.",
        "The lowest, p0, gives 98 % of the samples their class; all of them from 98 % to 100 %",
        "without changing what the network computes or the penalty, in 4 ways",
        "From 2 wide points that the penalty moves, with one unit added, descent ended at 2 strict minima, "
        "0.75 to 1.5 away; 1 of them below their narrow point, the lowest at 0.250000, from p0 at 0.312500 "
        "(−20 %).",
        "The kind of each is that of its own Hessian",
        "2 descents from wide points that are not critical",
        "--seed 0 --weight-decay 0.001",
    ):
        assert words in text, words
    assert "Its kind is predicted from the narrow network alone" not in text
    record = decayed()
    record["nearest"][0]["kind"] = "NOT_CRITICAL"
    text = page_of(record, tmp_path / "other").text
    assert "ended at 1 strict minimum, and 1 time where it is not at a critical point yet" in text


def test_descents_from_wide_points_have_sections_and_marks(tmp_path: Path):
    page = page_of(decayed(), tmp_path)
    assert {"n0", "n1"} <= set(page.places)
    for words in (
        "p0 placed in a 2-2-1 network, Replicate(…), computes the same function but is not critical",
        "there the loss is 0.340000 and the gradient norm 1.0e-3.",
        "Descent from there ended here, at loss 0.250000; that of p0 is 0.312500 (−20 %).",
        "right on the data 98 %",
        "semiflat judge points/n1.safetensors --data toy",
    ):
        assert words in page.text, words
    source = (tmp_path / "report.html").read_text("utf-8")
    found = re.search(r'id="charts">(.*?)</script>', source, re.S)
    points = json.loads(found[1])["overview"]["layer"][-1]["data"]["values"]
    assert {each["name"]: each["loss"] for each in points}["n0"] == 0.25


def test_a_decay_that_was_asked_for_is_not_explained_away(tmp_path: Path):
    record = decayed()
    record["decay"] = {"words": "0.5", "chosen": False, "why": "", "everywhere": False}
    del record["separation"]
    text = page_of(record, tmp_path).text
    assert (
        "The study was asked for weight decay λ = 0.5; every loss here includes the penalty."
        in text
    )
    assert "told apart without error" not in text
    assert "every minimum is finite" not in text
    assert "It was not asked for" not in text


def test_separable_classes_without_decay_are_limits_and_saddles(tmp_path: Path):
    record = full()
    record["separation"] = decayed()["separation"]
    text = page_of(record, tmp_path).text
    assert (
        "This study has none: what it finds are limits at infinity, saddles, and minima that are not"
        in text
    )
    assert "every loss here includes the penalty" not in text


def test_a_point_whose_wide_points_are_all_minima_stays_a_trap(tmp_path: Path):
    record = full()
    for row in record["embedded"]:
        row["kind"] = "STRICT_MINIMUM"
    record["escapes"] = []
    text = page_of(record, tmp_path).text
    assert "not followed" not in text
    assert text.count("still, as far as seen") == 2


def test_what_was_not_shown_to_be_connected_is_said(tmp_path: Path):
    record = drawn()
    record["search"]["unresolved"] = "7 more runs ended at degenerate points"
    assert "7 more runs ended at degenerate points." in " ".join(page_of(record, tmp_path).parts)


def test_flat_families_that_share_directions_say_so(tmp_path: Path):
    record = full()
    families = [
        {"name": "softmax shift", "dimension": 3},
        {"name": "replicated unit", "dimension": 6},
    ]
    record["embedded"][0]["flat_directions"] = {"families": families, "dimension": 7}
    record["embedded"][1]["flat_directions"] = {"families": families, "dimension": 9}
    text = page_of(record, tmp_path).text
    assert text.count("softmax shift (3), replicated unit (6)") == 2
    assert text.count("replicated unit (6): together 7, as some directions belong to two") == 1


@pytest.mark.parametrize("kind", ["STRICT_SADDLE", "MINIMUM"])
def test_the_title_of_a_figure_is_true_of_its_data(tmp_path: Path, kind):
    record = drawn()
    text = page_of(record, tmp_path).text
    assert "Same function, different kind" in text
    assert "some of them are minima and others strict saddles." in text
    curve = record["curves"]["share_line"][0]
    curve["kind"] = [kind for _ in curve["kind"]]
    text = page_of(record, tmp_path / "same").text
    assert "different kind" not in text
    many = {"STRICT_SADDLE": "strict saddles", "MINIMUM": "minima"}[kind]
    assert f"Same function, same kind: {many}" in text
    assert f"every λ drawn gives {many}." in text


def test_sections_hold_the_records_numbers(tmp_path: Path):
    text = page_of(full(), tmp_path).text
    for part in (
        "predicting the mean every time gives 0.5",
        "height, weight",
        "constant one (constant",
        "evidence of DIVERGED",
        str(Status.DIVERGED.meaning),
        "Lower than the lowest critical point, 0.312500, went a run that ran to infinity",
        "1.5e-16",  # gradient norm
        "3e6",  # margin over its floor
        "reason of p0-e2",
        "flat along replicated unit (1)",
        "-0.4321",
        "-0.4323",
        "differ by at most 4.6e-4 of their size",
        "In 2 of 3 rows",
        "(1 more were too large for that check)",
        "the largest change of an output is 3.5e-16",
        "the largest gradient norm is 7.5e-16",
        "p0-e0, Replicate(layer=0, unit=0, weights=[p0-e0]): the law says 5 / 1 / 0",
        "contradict each other in a sign",
        "9.8.7",
        "semiflat find --data toy --hidden 1 --activation gelu --starts 12 --max-iterations 500",
        "semiflat widen points/p0.safetensors replicate:0:0:1/2,1/2 --out wide.safetensors",
    ):
        assert part in text, part
    assert (
        text.index("2 Critical points")
        < text.index("7 Data")
        < text.index("10 How to take it apart")
    )


def proof(name: str | None, **more: Any) -> Record:
    """The certificate of a row; without a name one that failed."""
    return {
        "status": "certified" if name else "undecided",
        "reason": "a claim" if name else "the row sums reach 0.7",
        "file": f"certificates/{name}.json" if name else None,
        "kind": "STRICT_MINIMUM" if name else None,
        "inertia": [3, 0, 0] if name else None,
        "exact": True if name else None,
        **more,
    }


def certified() -> Record:
    """Both points are proved, and two of the four wide ones; one of these not to the last zero."""
    record = full()
    for row in record["points"]:
        row["certificate"] = proof(row["name"])
    first, second, third, last = record["embedded"]
    first["certificate"] = proof("p0-e0", kind="MINIMUM")
    second["certificate"] = proof(
        "p0-e1", kind="STRICT_SADDLE", exact=False, inertia=[3, 0, 1], reason="a claim"
    )
    third["certificate"] = proof(None, file="certificates/p0-e2.json")
    last["certificate"] = proof(None)
    distinct = {"at_least": 2, "of": 2, "chosen": ["p0", "p1"], "reason": "…"}
    return record | {"proofs": {"status": "attempted", "reason": None}, "distinct_proved": distinct}


def test_what_is_proved_is_marked_linked_and_counted(tmp_path: Path):
    page = page_of(certified(), tmp_path)
    assert (
        "Proved in ball arithmetic: at least 2 distinct critical points and the kind of 2 of the 4 wide"
        in (page.text)
    )
    assert (
        "At least 2 distinct critical points, proved. All of them have a certificate" in page.text
    )
    assert "The kind of 2 of the 4 is proved, by the inertia law" in page.text
    assert "for 1 of them the numbers of eigenvalues are lower bounds" in page.text
    assert "Inertia not proved exactly: at least 3 positive and 1 negative" in page.text
    assert "p0-e2, p1-e0 the row sums reach 0.7" in page.text
    assert "No proof: the row sums reach 0.7" in page.text
    files = [load for load in page.loads if load.startswith("certificates/")]
    # Each once in its table and once in its section.
    assert files[:5] == [f"certificates/{n}.json" for n in ("p0", "p1", "p0-e0", "p0-e1", "p0-e2")]
    assert sorted(files) == sorted(files[:5] * 2)
    marks = re.findall(r'class="proof (\w+)"[^>]*>([^<]+)<', (tmp_path / "report.html").read_text())
    assert marks == [("proved", "proved")] * 4 + [("measured", "measured")] * 2
    assert "semiflat verify certificates/p0-e1.json" in page.text
    assert "semiflat verify --distinct certificates/{p0,p1}.json" in page.text


def test_a_proof_that_contradicts_the_measurement_is_seen(tmp_path: Path):
    record = certified()
    record["points"][0]["certificate"]["kind"] = "STRICT_SADDLE"
    assert "● strict minimum proved: strict saddle" in page_of(record, tmp_path).text


def test_points_that_are_not_proved_are_listed_with_their_reason(tmp_path: Path):
    record = certified()
    record["points"][1]["certificate"] = proof(None)
    record["distinct_proved"] = {"at_least": 1, "of": 1, "chosen": ["p0"], "reason": "…"}
    text = page_of(record, tmp_path).text
    assert "At least 1 distinct critical point, proved. 1 of the 2 has a certificate" in text
    assert "not proved why p1 the row sums reach 0.7" in text
    assert "--distinct" not in text
    for row in [*record["points"], *record["embedded"]]:
        row["certificate"] = proof(None)
    record["distinct_proved"] = {"at_least": 0, "of": 0, "chosen": [], "reason": "none"}
    text = page_of(record, tmp_path).text
    assert "The kind of none of them is proved." in text
    assert "Proved in ball arithmetic" not in text
    assert "semiflat verify" not in text.replace("which semiflat verify checks", "")


@pytest.mark.parametrize("count", [4, 5])
def test_many_reasons_are_folded(count: int, tmp_path: Path):
    record = certified()
    record["points"] = [
        point(f"p{k}", 0.25 + k / 64, certificate=proof(None, reason=f"reason {k}"))
        for k in range(count)
    ]
    page = page_of(record, tmp_path)
    assert ("Why the other points are not proved" in page.text) == (count > 4)
    assert all(f"p{k} reason {k}" in page.text for k in range(count))


def test_without_proofs_all_is_measured_and_says_why(tmp_path: Path):
    why = "proofs need python-flint: pip install 'semiflat[certify]'"
    record = certified()
    for row in [*record["points"], *record["embedded"]]:
        row["certificate"] = {"status": "not attempted", "reason": why, "file": None}
    record |= {"proofs": {"status": "not attempted", "reason": why}, "distinct_proved": None}
    text = page_of(record, tmp_path).text
    assert f"Nothing on this page is proved: {why}." in text
    assert text.count(why) == 1
    source = (tmp_path / "report.html").read_text()
    assert source.count('class="proof measured"') == 6
    assert 'class="proof proved"' not in source


def test_a_record_of_a_time_before_proofs_is_measured(tmp_path: Path):
    text = page_of(full(), tmp_path).text
    assert "strict minimum measured" in text
    assert "is proved" not in text.replace("proved holds", "")


@pytest.mark.parametrize(
    "file",
    ["javascript:alert(1)", "../p0.json", "certificates/../x.json", "certificates/a b.json"],
)
def test_only_a_file_of_the_folder_is_linked(file: Any, tmp_path: Path):
    record = certified()
    record["points"][0]["certificate"]["file"] = file
    record["distinct_proved"]["chosen"] = ["p0; rm x", "p1"]
    page = page_of(record, tmp_path)
    assert "certificates/p0.json" not in page.loads
    assert str(file) not in page.loads
    assert "rm x" not in page.text


def test_certificates_of_which_little_is_known(tmp_path: Path):
    record = certified()
    record["points"][0]["certificate"] = None
    record["points"][1]["certificate"] = {"status": "certified", "exact": False}
    record["embedded"][0]["certificate"] = {}
    record |= {"proofs": None, "distinct_proved": {"at_least": None, "chosen": None}}
    text = page_of(record, tmp_path).text
    assert "1 of the 2 has a certificate" in text
    assert "distinct critical point" not in text


def at_infinity() -> Record:
    """The first of the two points lies at infinity, where neither the law nor a proof is to be had."""
    record = certified()
    record["points"][0] |= {"at_infinity": [["unit", "step"]], "status": "SATURATED"}
    for row in (record["points"][0], *record["embedded"][:3]):
        why = "units at infinity cannot be evaluated in balls"
        row["certificate"] = proof(None, status="invalid_input", reason=why)
    return record


def test_rows_at_infinity_are_no_check_of_the_law(tmp_path: Path):
    record = at_infinity()
    for row in record["embedded"][:2]:
        row |= {"dense_inertia": row["inertia"], "output_change": 0.75}  # as earlier versions wrote
    text = page_of(record, tmp_path).text
    assert "If it is finite, its kind is predicted from the narrow network alone" in text
    law, far = text.split("Points at infinity (3 rows) are no check of the law: ")
    assert "In 1 of 1 row the signs that the law predicts" in law
    assert "the largest change of an output is 3.5e-16 of" in law
    assert far.startswith("the signs there are those of the wide limiting network’s own Hessian; ")
    assert "the largest change of an output is 0.75 of" in far
    assert text.count("law = measured") == 1
    assert text.count("inertia of its Hessian + / 0 / −") == text.count("inertia by law + / 0") == 1
    record["embedded"] = record["embedded"][:3]
    text = page_of(record, tmp_path).text
    assert "inertia by law" not in text
    assert "is predicted from" not in text
    assert "the law predicts" not in text
    assert "small enough to be built as a check" not in text


def test_what_cannot_be_proved_says_so_without_a_link(tmp_path: Path):
    record = at_infinity()
    record["points"][0]["certificate"]["file"] = "certificates/p0.json"  # as earlier versions wrote
    page = page_of(record, tmp_path)
    assert "certificates/p0.json" not in page.loads
    assert "not proved why p0 units at infinity cannot be evaluated in balls" in page.text
    assert "No proof: units at infinity cannot be evaluated in balls" in page.text


def test_an_undecided_point_shows_its_reason_and_no_margin(tmp_path: Path):
    record = full()
    record["points"][0] |= {"kind": "UNDECIDED", "reason": "a step would rather let go of a sample"}
    text = page_of(record, tmp_path).text
    assert text.count("Undecided: a step would rather let go of a sample") == 1
    assert text.count("6.0e-6 3e6") == 1  # the other point's
    first = text[text.index("p0 0.312500 ? undecided") : text.index("Undecided: a step")]
    assert first.endswith("1.5e-16 – – 9.79 47 ")
    record["points"][0]["reason"] = ""
    assert "Undecided: the reason is not recorded" in page_of(record, tmp_path).text


def test_no_trap_is_said_of_the_points_that_were_embedded_alone(tmp_path: Path):
    record = full()
    record["points"][0]["kind"] = "UNDECIDED"
    record["embedded"] = record["embedded"][:3]
    text = page_of(record, tmp_path).text
    assert "None of the narrow points that were embedded is known to be a minimum" in text
    assert "no known minimum" in text  # an undecided one may be one


def test_how_runs_ended_is_told_without_names_of_code(tmp_path: Path):
    record = at_infinity()
    record["search"] = search_record(CONVERGED=1, CHANNEL=2, SATURATED=3)
    text = page_of(record, tmp_path).text
    assert "Only runs that reached a critical point, of the network or at infinity, count" in text
    assert text.count("its limit is the critical point there") == 2


def test_a_dense_count_that_sees_more_zeros_contradicts_no_sign(tmp_path: Path):
    record = full()
    record["embedded"] = [
        embedded("p0-e0", "p0", 1, "null units", "STRICT_SADDLE", dense_inertia=[3, 3, 0])
    ]
    text = page_of(record, tmp_path).text
    assert "cannot tell 2 more eigenvalues from zero; it contradicts no sign" in text


def test_narrow_points_join_escapes_by_name():
    first, second = narrow_points(read(StudyRecord, full()))
    assert (first.freed, second.freed) == (True, False)
    assert [reached and reached.loss for reached in first.best] == [0.28125, 0.15625]
    assert second.best == [None, None]
    assert [f.kinds for f in first.families] == [
        [("MINIMUM", "1 minimum")],
        [("STRICT_SADDLE", "1 strict saddle")],
    ]


def test_an_escape_that_does_not_go_lower_frees_nothing():
    record = full()
    record["escapes"] = [escape("p0-e1", 0.3125, 0.3125), escape("p0-e2", 0.3125, 0.1)]
    assert narrow_points(read(StudyRecord, record))[0].freed is False


def test_all_points_stand_in_one_table_to_be_sorted(tmp_path: Path):
    record = full()
    record["points"] = [point(f"p{k}", 0.25 + k / 64) for k in range(14)]
    record["embedded"] = record["escapes"] = []
    source = write_report(record, tmp_path)[0].read_text("utf-8")
    section = source[source.index('<section id="points"') : source.index('<section id="traps"')]
    assert section.count('<table class="sorted filtered">') == 1
    names = re.findall(r'<th scope="row"><a href="#(p\d+)">', section)
    assert names == [f"p{k}" for k in range(14)]
    assert re.findall(r'data-v="(0\.\d+)">', section)[:2] == ["0.25", "0.265625"]


def test_each_point_has_a_section_that_says_what_it_is(tmp_path: Path):
    record = certified()
    record["source"] = {"source": "my data.csv", "target": "price", "standardise": False}
    record["escapes"][0] |= {"name": "x0", "effective_hidden": [1], "widths": [1, 2, 1]}
    record["embedded"][2]["steps"] = [
        {"type": "NullUnits", "layer": 0, "biases": [["1/2", 1], ["-1/2", 1]]}
    ]
    page = page_of(record, tmp_path)
    names = [row["name"] for row in (*record["points"], *record["embedded"])]
    assert {*names, "x0"} <= set(page.places)
    assert {f"#{name}" for name in (*names, "x0")} <= set(page.loads)
    text = page.text[page.text.index("6 Point by point A section") : page.text.index("7 Data The")]
    for part in (
        "A critical point of the 2-1-1 network, at loss 0.312500.",
        "Run 5 of the search ended here, after 47 steps.",
        "Placed in wider networks, in 3 ways, it becomes: 1 minimum and 2 strict saddles.",
        "p0 placed in a 1-2-1 network: unit 0 of hidden layer 0 becomes 2 copies with the shares 1/2 and 1/2.",
        "2 null units with bias 1/2 and −1/2 added to hidden layer 0. It computes the same function",
        "Strict saddle: the gradient is zero, but the curvature is negative",
        "Why: reason of p0-e1.",
        "from loss 0.312500 to 0.281250 (−10 %).",
        "Units it really uses: 1 of 2.",
        "semiflat judge points/x0.safetensors --data 'my data.csv' --target price --raw",
        "semiflat verify certificates/p0-e0.json",
        "There are no pictures of weights",
    ):
        assert part in text, part


def test_a_layer_that_is_no_layer_is_not_drawn(tmp_path: Path):
    for parameters in (
        {"0.weight": [[1.0, 2.0]], "2.weight": [[1.0, 2.0]]},
        {"first.weight": [[1.0, 2.0]], "last.weight": [[1.0]]},
        {"0.weight": [], "2.weight": []},
        {},
    ):
        record = full()
        record["anatomy"] = {"p0": {"parameters": parameters, "eigenvalues": [None, 1.0]}}
        assert "hidden layer 0 from" not in page_of(record, tmp_path).text
    record["anatomy"]["p0"]["parameters"] = {"0.weight": [[None, 2.0]], "2.weight": [[1.0]]}
    assert "from to height weight output unit 0 – 2 1" in page_of(record, tmp_path).text


def test_the_chart_shows_each_point_at_its_loss_and_width(tmp_path: Path):
    record = full()
    record["escapes"][1] |= {"name": "x1", "source": "p0", "widths": [2, 3, 1]}
    source = write_report(record, tmp_path)[0].read_text("utf-8")
    found = re.search(r'id="charts">(.*?)</script>', source, re.S)
    *_, falls, points = json.loads(found[1])["overview"]["layer"]
    at = {each["name"]: each for each in points["data"]["values"]}
    assert {name: each["loss"] for name, each in at.items()} == {
        "p0": 0.3125, "p1": 0.4375, "p0-e0": 0.3125, "p0-e1": 0.3125, "p0-e2": 0.3125, "p1-e0": 0.4375,
        "x1": 0.15625,
    }  # fmt: skip
    assert [round(each["x"]) for each in at.values()] == [1, 1, 2, 2, 3, 2, 3]
    assert at["x1"]["x"] == at["p0-e2"]["x"], "a way down leads straight down"
    assert falls["data"]["values"] == [
        {
            "x": at["x1"]["x"],
            "x0": at["p0-e2"]["x"],
            "loss": 0.15625,
            "loss0": 0.3125,
            "source": "p0",
        }
    ]
    assert len({each["x"] for name, each in at.items() if name != "x1"}) == 6, "none hides another"


def test_an_interrupted_study_says_so(tmp_path: Path):
    page = page_of(bare(), tmp_path)
    assert "This study is not complete." in page.text
    assert "there is nothing to report yet" in page.text
    assert "No finite critical point was found" not in page.text
    assert "img" not in page.tags


def test_points_without_embeddings_yet(tmp_path: Path):
    record = full() | {"complete": False, "embedded": [], "escapes": [], "curves": {}}
    text = page_of(record, tmp_path).text
    assert "This study is not complete." in text
    assert "None of them was embedded" in text


def test_saddles_whose_ways_were_not_followed(tmp_path: Path):
    text = page_of(full() | {"complete": False, "escapes": []}, tmp_path).text
    assert "ways down from the saddles have not been followed" in text
    assert "stopped being" not in text


@pytest.mark.parametrize("second", [None, search_record("any", DIVERGED=4)])
def test_no_point_means_no_minimum_on_the_page(second: Record | None, tmp_path: Path):
    record = bare() | {"complete": True, "search": search_record(DIVERGED=11, MAX_ITERATIONS=1)}
    if second:
        record["search_any"] = second
    paths = write_report(record, tmp_path)
    text = page_of(record, tmp_path).text
    assert [path.name for path in paths] == ["report.html"]
    assert "No finite critical point was found, so nothing on this page is called a minimum" in text
    assert "would be false" in text
    assert f"11 of 12 runs ended as “{Status.DIVERGED.meaning}”" in text
    assert "evidence of DIVERGED" in text
    assert ("Looking for critical points of any kind" in text) == bool(second)


def test_saddles_looked_for_instead(tmp_path: Path):
    record = full()
    record["search"] = search_record(DIVERGED=12)
    record["search_any"] = search_record("any", CONVERGED=5, STALLED=3)
    record["points"] = [point(name, 0.5, "STRICT_SADDLE") for name in ("p0", "p1")]
    text = page_of(record, tmp_path).text
    assert "Of 12 runs from random starts, none reached a minimum at finite distance" in text
    assert "of 8 further runs" in text
    assert "5 reached a finite critical point: 2 distinct" in text
    assert "None of the narrow points that were embedded is known to be a minimum" in text
    assert "--kind any" in text


def test_everything_from_the_record_is_escaped(tmp_path: Path):
    bad = "<script>alert('x')</script>$&\""
    record = drawn()
    record["data"] |= {"name": bad, "features": [bad, bad], "classes": [bad], "dropped": [bad]}
    record["points"][0]["name"] = record["embedded"][0]["source"] = bad
    record["embedded"][0] |= {"embedding": bad, "reason": bad, "family": bad, "kind": bad}
    record["search"]["lowest"][0]["evidence"] = bad
    record["settings"]["activation"] = bad
    for curves in record["curves"].values():
        curves[0] |= {"embedded": bad, "embedding": bad, "family": bad}
    page = page_of(record, tmp_path)
    source = write_report(record, tmp_path)[0].read_text("utf-8")
    assert source.count("<script") == source.count("</script") == 3
    assert "<script>alert" not in source
    assert page.text.count(bad) >= 10


def test_effective_widths_are_counted_by_wide_architecture(tmp_path: Path):
    record = full()
    ends = [([2, 3, 1], [3]), ([2, 2, 1], [1]), ([2, 3, 1], [1]), ([2, 3, 1], [1])]
    record["escapes"] = [
        escape("p0-e1", 0.3125, 0.25) | {"widths": widths, "effective_hidden": effective}
        for widths, effective in ends
    ] + [escape("p0-e2", 0.3125, 0.125)]  # of an older study: no effective width
    text = page_of(record, tmp_path).text
    assert "no output on the data changes by more than 0.01" in text
    table = text[text.index("effective hidden units (runs)") :]
    assert table.index("2 1 1 (1)") < table.index("3 3 1 (2), 3 (1)")
    assert "Effective width after training" not in page_of(full(), tmp_path).text


def test_numbers_that_are_missing_are_dashes(tmp_path: Path):
    record = drawn()
    nothing = dict.fromkeys(
        ("loss", "kind", "inertia", "gradient_norm", "margin", "largest_parameter", "iterations")
    )
    record["points"][1] |= nothing
    record["embedded"][3] |= dict.fromkeys(
        ("kind", "inertia", "dense_inertia", "output_change", "gradient_norm", "flat_directions")
    )
    record["points"][0]["margin"] = {"eigenvalue": 1.0, "floor": None}
    record["escapes"].append(escape("p1-e0", 0.4375, None, "NON_FINITE"))
    record["search"]["lowest"][0]["loss"] = None
    record["curves"]["descent"][0]["loss"][:5] = [None] * 5
    record["curves"]["descent"].append({"step": [0.0, 1.0], "loss": [None, None]})
    record["curves"]["spectrum"][0]["wide"][0] = None
    record["curves"]["share_line"][0] |= {"loss": [None] * 13, "kind": ["MINIMUM"]}
    page = page_of(record, tmp_path)
    assert "–" in page.text
    assert "None" not in page.text.replace("None of", "")
    assert "nan" not in page.text.split()
    assert page.tags.count("img") == 3


def test_a_record_that_has_been_through_json_with_infinities(tmp_path: Path):
    record = full()
    record["points"][0]["gradient_norm"] = float("inf")
    record["points"][1]["loss"] = float("nan")
    text = page_of(json.loads(json.dumps(record)), tmp_path).text
    assert "inf" not in text.split()
    assert "nan" not in text.split()


@pytest.mark.parametrize(
    "change",
    [
        {"points": []},
        {"embedded": []},
        {"escapes": []},
        {"curves": {}},
        {"search": {}},
        {"settings": {}},
        {"network": {}},
        {"data": {}},
    ],
)
def test_any_part_may_be_missing(change: Record, tmp_path: Path):
    assert "take it apart" in page_of(full() | change, tmp_path).text


@pytest.mark.parametrize("count", [2, 7])
def test_any_number_of_curves_is_drawn(count: int, tmp_path: Path):
    record = drawn()
    record["curves"] = {key: curves * count for key, curves in record["curves"].items()}
    assert len(write_report(record, tmp_path)) == 4


def test_curves_at_a_loss_of_zero_and_without_a_fall(tmp_path: Path):
    record = drawn()
    record["curves"]["share_line"][0]["loss"] = [0.0] * 13
    record["curves"]["descent"][0] |= {"step": [-1.0, 0.0, 1.0], "loss": [1.0, 0.3125, 1.0]}
    record["curves"]["spectrum"][0] |= {"narrow": [0.0, 0.0], "wide": [0.0, 0.0, 0.0]}
    assert len(write_report(record, tmp_path)) == 4


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        write_report(full(), tmp_path / "file")


@pytest.mark.parametrize("record", [{}, [], {"data": {}, "network": 3}, {"points": []}])
def test_what_is_no_record_is_an_input_error(record: Any, tmp_path: Path):
    with pytest.raises(InputError, match=r"not the record of a study: .*'settings'.*study\.json"):
        write_report(record, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("points", 0, "certificate"), "yes", "points[0].certificate: 'yes' is no ProofRow"),
        (("points", 0, "certificate", "file"), 3, "points[0].certificate.file: '3' is no str"),
        (("distinct_proved", "chosen"), ["p0", 3], "distinct_proved.chosen[1]: '3' is no str"),
        (("embedded", 1, "inertia"), [4, 1], "embedded[1].inertia: '[4, 1]' is no tuple"),
        (
            ("points", 0, "margin", "floor"),
            10**400,
            f"points[0].margin.floor: '1{'0' * 39}' is no float",
        ),
        (("points", 1, "loss"), True, "points[1].loss: 'True' is no float"),
        (("curves", "share_line", 0, "unit"), "x", "curves.share_line[0].unit: 'x' is no int"),
        (("search", "counts", "STALLED"), "x", "search.counts['STALLED']: 'x' is no int"),
        (("network",), 3, "network: '3' is no NetworkRecord"),
    ],
)
def test_damage_is_named_by_its_place(place: Any, value: Any, message: str, tmp_path: Path):
    record = drawn() | {key: certified()[key] for key in ("points", "embedded", "distinct_proved")}
    part: Any = record
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    with pytest.raises(InputError) as error:
        write_report(record, tmp_path)
    assert f"not the record of a study: {message}; give" in str(error.value)
    assert not list(tmp_path.iterdir())


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path):
    record = drawn() | {"colour": "red"}
    record["points"][0] |= {"colour": "red"}
    record["curves"]["spectrum"][0] |= {"colour": "red"}
    assert page_of(record, tmp_path).text == page_of(drawn(), tmp_path / "other").text


@pytest.mark.parametrize("module", ["jinja2", "matplotlib"])
def test_a_missing_extra_is_an_input_error(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'semiflat\[report\]'"):
        write_report(full(), tmp_path)


def test_every_kind_and_status_has_words(tmp_path: Path):
    assert set(KINDS) == set(map(str, Kind))
    assert set(STATUSES) == set(map(str, Status))
    text = page_of(full(), tmp_path).text
    assert all(html.unescape(words.meaning) in text for words in KINDS.values())
    assert len({words.mark for words in KINDS.values()}) == len(KINDS)
