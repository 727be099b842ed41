"""The page of a hierarchy: what it says is the record's, and in a browser it can be explored, offline."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, Page, expect

import semiflat as sf
from helpers import refused, refused_command, run
from semiflat.report import hierarchy_page, write_hierarchy_page

X = torch.linspace(-2, 2, 21, dtype=torch.float64)[:, None]
BENT = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, X.abs() - X)
LARGEST = 3_000_000
"""Bytes of a page."""


@pytest.fixture(scope="module")
def bent() -> sf.Hierarchy:
    return sf.hierarchy(BENT, widths=[1, 2, 3], starts=4, seed=0, processes=1)


@pytest.fixture(scope="module")
def record(bent: sf.Hierarchy) -> dict[str, Any]:
    return bent.page_record(files="points", command="semiflat hierarchy --data bent.csv")


@pytest.fixture(scope="module")
def address(record: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_hierarchy_page(record, tmp_path_factory.mktemp("h") / "hierarchy.html").as_uri()


def marks(page: Page) -> list[str]:
    """The points that the chart shows."""
    shown = page.locator("#chart g.points_marks path")
    return [(mark.get_attribute("aria-label") or "").split(",")[0] for mark in shown.all()]


# -- what is computed -------------------------------------------------------------------------------


def planted(descents: list[tuple[str, str, str, float]], losses: dict[str, float]) -> sf.Hierarchy:
    """One level of width 2 with these points, and descents between them."""
    first = torch.zeros(7, dtype=torch.float64)
    records = [
        sf.PointRecord(
            name=name, hidden=(2,), vector=first, limit=None, loss=loss, gradient_norm=0.0,
            kind="STRICT_SADDLE" if name in {d[0] for d in descents} else "STRICT_MINIMUM",
            certainty="MEASURED", reason="", inertia=(7, 0, 0), function=k, new=True, trivial=None,
            found=1, origin="random start", evidence="",
        )
        for k, (name, loss) in enumerate(losses.items())
    ]  # fmt: skip
    edges = [
        sf.Edge(
            kind="descends", source=source, target=target, hidden=(2,), how=how, side=1, loss=loss
        )
        for source, target, how, loss in descents
    ]
    level = sf.Level(
        hidden=(2,), starts=(1, 0), counts={}, descents=(0, 0), narrower=0, new_minima=0,
        new_saddles=0, new_at_infinity=0, unseen=0.0, missing=None,
    )  # fmt: skip
    return sf.Hierarchy(BENT, records, edges, [level])


def test_minima_are_joined_at_the_lowest_saddle_that_leads_to_both():
    losses = {"2-0": 0.0, "2-1": 1.0, "2-2": 2.0, "2-3": 3.0, "2-4": 4.0, "2-5": 5.0, "2-6": 6.0}
    ways = [
        ("2-6", "2-0"), ("2-6", "2-1"),  # known to be one already at 4
        ("2-4", "2-0"), ("2-4", "2-1"),
        ("2-5", "2-4"), ("2-5", "2-2"),  # by way of a saddle
    ]  # fmt: skip
    tree = planted([(a, b, "own", losses[b]) for a, b in ways], losses).disconnectivity(2)
    assert tree.valleys == {name: losses[name] for name in ("2-0", "2-1", "2-2", "2-3")}
    assert tree.passes == (
        sf.Pass("2-4", 4.0, (("2-0",), ("2-1",))),
        sf.Pass("2-5", 5.0, (("2-0", "2-1"), ("2-2",))),
    )
    assert tree.alone == ("2-3",)


def test_shares_inside_and_outside_are_one_saddle_and_units_are_not(bent: sf.Hierarchy):
    tree = bent.disconnectivity(2)
    assert [each.saddle for each in tree.passes] == ["1-0@2"]
    edges = [edge for edge in bent.edges if edge.kind == "descends" and edge.hidden == (2,)]
    ends = {edge.target for edge in edges if edge.source == "1-0"}
    assert {name for side in tree.passes[0].sides for name in side} == ends
    assert len(ends) > 1
    moved = [
        replace(edge, unit=k) if edge.source == "1-0" and edge.kind == "descends" else edge
        for k, edge in enumerate(bent.edges)
    ]
    records = [point.record for point in bent]
    apart = sf.Hierarchy(bent.problem, records, moved, bent.levels).disconnectivity(2)
    assert "1-0@2" not in [each.saddle for each in apart.passes]


def test_no_pass_lies_below_its_valleys_and_none_is_joined_twice(bent: sf.Hierarchy):
    for level in bent.levels:
        tree = bent.disconnectivity(level.hidden)
        above = 0.0
        for each in tree.passes:
            assert above <= each.loss
            above = each.loss
            names = [name for side in each.sides for name in side]
            assert len(names) == len(set(names))
            assert all(tree.valleys[name] <= each.loss for name in names)
        joins = sum(len(each.sides) - 1 for each in tree.passes)
        assert joins <= len(tree.valleys) - 1


def test_functions_are_told_as_the_networks_compute_them(
    bent: sf.Hierarchy, record: dict[str, Any]
):
    at = torch.tensor(record["places"]["at"], dtype=torch.float64)
    assert float(at.min()) < -2
    assert float(at.max()) > 2
    for function in record["functions"]:
        point = bent[function["points"][0]]
        assert function["loss"] == pytest.approx(point.record.loss)
        if function["on_data"]:
            expected = point.problem.outputs(point.params)
        elif point.record.at_infinity:
            continue
        else:
            weight, bias, out, last = point.params.values()
            expected = torch.tanh(at @ weight.T + bias) @ out.T + last
        told = torch.tensor(function["values"], dtype=torch.float64).T
        assert torch.allclose(told, expected.detach().double(), rtol=1e-3)
    assert sum(function["on_data"] for function in record["functions"]) <= 2


def later(name: str, k: int) -> str:
    """A point's name, or an embedded point's, 100 k places further up its level."""
    own, at, widths = name.partition("@")
    return re.sub(r"(\d+)$", lambda found: str(int(found[1]) + 100 * k), own) + at + widths


def test_a_large_hierarchy_is_a_selection_that_is_said_and_fits(bent: sf.Hierarchy):
    records, edges = [], []
    for k in range(45):
        for point in bent:
            old = point.record
            records.append(
                replace(
                    old,
                    name=later(old.name, k),
                    loss=old.loss + k,
                    function=old.function + 100 * k,
                )
            )
        edges += [
            replace(
                edge, source=later(edge.source, k), target=edge.target and later(edge.target, k)
            )
            for edge in bent.edges
        ]
    large = sf.Hierarchy(bent.problem, records, edges, bent.levels)
    told = large.page_record()
    assert 200 < len(told["points"]) < len(large)
    page = hierarchy_page(told)
    assert f" lowest of each width: {len(told['points'])} of {len(large)} points" in page.decode()
    assert len(page) <= LARGEST
    few = hierarchy_page(large.page_record(lowest=2)).decode()
    assert f"the 2 lowest of each width: 6 of {len(large)} points" in few


@pytest.mark.parametrize(
    "problem",
    [
        sf.Problem(sf.MLP([2, 1, 1], "tanh"), torch.randn(9, 2).double(), torch.ones(9)),
        sf.Problem(sf.MLP([3, 1, 2], "tanh"), torch.randn(9, 3).double(), torch.ones(9, 2)),
        sf.Problem(
            sf.MLP([3, 1, 3], "tanh"), torch.randn(9, 3).double(), torch.arange(9) % 3,
            loss="cross_entropy", weight_decay=0.01,
        ),
    ],
    ids=["two inputs", "two outputs", "classes"],
)  # fmt: skip
def test_other_data_are_drawn_without_complaint(
    problem: sf.Problem,
    browser: Browser,
    tmp_path: Path,
):
    net = problem.net
    records = [
        replace(
            planted([], {"1-0": 0.5})["1-0"].record,
            hidden=(1,),
            vector=torch.linspace(-1, 1, net.parameter_count, dtype=torch.float64),
        )
    ]
    level = replace(planted([], {"1-0": 0.5}).levels[0], hidden=(1,))
    found = sf.Hierarchy(problem, records, [], [level])
    opened = browser.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(write_hierarchy_page(found.page_record(), tmp_path / "h.html").as_uri())
    opened.locator("#functions").scroll_into_view_if_needed()
    drawn = opened.locator("#functions .gallery svg g.mark-symbol path")
    expect(drawn.first).to_be_attached()
    places = found.page_record()["places"]
    outputs = len(found.page_record()["functions"][0]["values"])
    dots = len(places["data"]) if places["kind"] == "map" else 0
    expect(drawn).to_have_count(outputs * len(places["at"]) + dots)
    opened.close()
    assert said == []


def test_a_level_without_points_is_said_to_have_none():
    empty = sf.Hierarchy(BENT, [], [], planted([], {}).levels)
    text = hierarchy_page(empty.page_record()).decode()
    assert "No critical point was found." in text
    assert "No minimum is known at this width." in text
    assert "There is no point to draw." in text


def test_what_is_no_record_and_files_of_others_are_refused(record: dict[str, Any], tmp_path: Path):
    with refused("not the record of a hierarchy's page: "):
        hierarchy_page({"points": 3})
    with refused("not the record of a hierarchy's page: "):
        hierarchy_page("page")  # type: ignore[arg-type]
    own = tmp_path / "hierarchy.html"
    own.write_text("mine")
    with refused("is in the way"):
        write_hierarchy_page(record, own)
    assert own.read_text() == "mine"


def test_the_command_writes_it_and_replaces_only_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    data, out = tmp_path / "bent.csv", tmp_path / "nested"
    data.write_text("x,y\n" + "".join(f"{x},{abs(x) - x}\n" for x in X[:, 0].tolist()))
    options = [
        "hierarchy",
        "--data",
        data,
        "--raw",
        "--widths",
        "1..1",
        "--starts",
        4,
        "--out",
        out,
    ]
    out.mkdir()
    page = out / "hierarchy.html"
    page.write_text("mine")
    assert "is in the way" in refused_command(capsys, *options)
    assert page.read_text() == "mine"
    page.unlink()
    for _ in range(2):  # the second time it is its own
        code, said, _ = run(capsys, *options, "--processes", 1)
        assert code == 0
        assert f"the page: {page}" in said
    text = page.read_text("utf-8")
    assert "semiflat hierarchy --data" in text
    assert "--widths 1..1" in text
    for file in re.findall(r"points/[\w-]+\.safetensors", text):
        assert (out / file).is_file()


# -- what it says -----------------------------------------------------------------------------------


def test_the_page_says_first_what_was_found(bent: sf.Hierarchy, record: dict[str, Any]):
    text = hierarchy_page(record).decode()
    summary = text[text.index('class="summary"') : text.index("<nav")]
    assert bent.least_width(1e-3).reason in summary
    for level in bent.levels:
        new = f"idth {level.hidden[0]}: {level.new_minima} minim"
        assert new in summary
    assert (
        summary.index("Least width")
        < summary.index("New functions")
        < summary.index("minima below")
    )


def test_text_of_the_record_is_escaped(record: dict[str, Any]):
    points = [record["points"][0] | {"reason": "<script>no</script>"}, *record["points"][1:]]
    assert "<script>no" not in hierarchy_page(record | {"points": points}).decode()


@pytest.mark.parametrize(
    ("kinds", "says"),
    [
        (["STRICT_SADDLE", "MINIMUM"], "at 2"),
        (["STRICT_SADDLE", "UNDECIDED"], "not known at 2"),
        (["STRICT_SADDLE", "NOT_CRITICAL"], "not at 2"),
    ],
)
def test_an_undecided_widening_is_never_said_to_free_a_minimum(
    record: dict[str, Any], kinds: list[str], says: str
):
    there = {str(k): kind for k, kind in enumerate(kinds)}
    trap = {"point": "1-0", "loss": 0.5, "kinds": {"2": there}, "stays": [], "lasting": False}
    text = hierarchy_page(record | {"traps": [trap]}).decode()
    assert f"<td>{says}</td>" in text


# -- in a browser -----------------------------------------------------------------------------------


def test_a_mark_tells_what_it_is_and_leads_to_its_section(page: Page, bent: sf.Hierarchy):
    assert sorted(marks(page)) == sorted(point.name for point in bent)
    mark = page.locator('#chart path[aria-label^="2-0,"]')
    mark.hover()
    said = page.locator("#vg-tooltip-element")
    expect(said).to_contain_text("strict minimum")
    expect(said).to_contain_text(f"function{bent['2-0'].record.function}")
    section = page.locator('[id="2-0"]')
    assert not section.is_visible()
    mark.click()
    expect(section).to_be_in_viewport()
    expect(section).to_be_focused()
    expect(section.locator(".picture.function svg")).to_have_count(1)
    assert "semiflat judge points/2-0.safetensors" in section.inner_text()


def test_a_filter_hides_points_in_the_chart_and_in_the_table(page: Page, bent: sf.Hierarchy):
    tools = page.locator("#chart-tools")
    lines = page.locator("#chart g.mark-rule line")
    every = lines.count()
    tools.get_by_label("Width").select_option("2")
    expect(tools.get_by_role("status")).to_have_text(f"{len(bent.at(2))} of {len(bent)} rows")
    expect(page.locator("#chart g.points_marks path")).to_have_count(len(bent.at(2)))
    assert sorted(marks(page)) == sorted(point.name for point in bent.at(2))
    assert 0 < lines.count() < every
    tools.get_by_label("Kind").select_option("minimum at infinity")
    far = [point.name for point in bent.at(2) if point.record.at_infinity]
    expect(page.locator("#chart g.points_marks path")).to_have_count(len(far))
    for label in ("Width", "Kind"):
        tools.get_by_label(label).select_option("")
    expect(page.locator("#chart g.points_marks path")).to_have_count(len(bent))


def test_links_lead_along_edges_both_ways(page: Page, bent: sf.Hierarchy):
    (edge, *_) = (e for e in bent.edges_of("1-0", "descends") if e.target is not None)
    page.locator("#traps").get_by_role("link", name="1-0", exact=True).click()
    page.locator('[id="1-0"]').get_by_role("link", name=edge.target, exact=True).first.click()
    there = page.locator(f'[id="{edge.target}"]')
    expect(there).to_be_in_viewport()
    there.get_by_role("link", name="1-0", exact=True).first.click()
    expect(page.locator('[id="1-0"]')).to_be_in_viewport()


def test_each_width_has_its_graph_with_all_valleys(page: Page, record: dict[str, Any]):
    for tree in record["trees"]:
        if len(tree["valleys"]) < 2:
            continue
        width = tree["hidden"][0]
        chart = page.locator(f'[data-chart="tree-{width}"]')
        labels = [
            p.get_attribute("aria-label") for p in chart.locator("path[aria-label*=loss]").all()
        ]
        assert {str(label).split(",")[0] for label in labels} == set(tree["valleys"])


def test_nothing_is_wider_than_the_window_and_kinds_differ_without_colour(page: Page):
    page.locator("#functions").scroll_into_view_if_needed()
    page.wait_for_selector("#functions svg")
    looks: dict[tuple[str, bool], set[str]] = {}
    for mark in page.locator("#chart g.points_marks path").all():
        kind = (mark.get_attribute("aria-label") or "").rsplit(", loss")[0].split(", ", 1)[1]
        shape = re.sub(r"[-\d.]+", "", mark.get_attribute("d") or "")
        looks.setdefault((shape, "paper" in (mark.get_attribute("fill") or "")), set()).add(kind)
    assert all(len(kinds) == 1 for kinds in looks.values())
    for width in (1280, 420):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_scripts_all_is_there_to_be_read(browser: Browser, address: str):
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(address)
    assert opened.get_by_text("The chart needs JavaScript").is_visible()
    opened.get_by_text("The chart as a table").click()
    assert opened.locator("#overview tbody tr").first.is_visible()
    opened.close()
