"""The page in a real browser: what is pressed, typed and pointed at does what the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from semiflat.report import write_report
from test_report import certified, embedded, escape, point


def record() -> dict[str, Any]:
    """Three critical points, five wide ones, ways down with names, and what the points are made of."""
    study = certified()
    study["points"].append(point("p10", 0.375, "UNDECIDED", reason="a test says so"))
    study["embedded"].append(embedded("p1-e1", "p1", 2, "null units", "MINIMUM"))
    study["escapes"] = [
        escape("p0-e1", 0.3125, 0.28125) | {"name": "x0", "source": "p0", "widths": [1, 2, 1]},
        escape("p0-e2", 0.3125, 0.15625, "MAX_ITERATIONS")
        | {"name": "x1", "source": "p0", "widths": [1, 3, 1]},
    ]
    narrow = {
        "parameters": {
            "0.weight": [[0.5, -2.0]],
            "0.bias": [[0.25]],
            "2.weight": [[-1.5]],
            "2.bias": [[0.125]],
        },
        "eigenvalues": [0.001, 0.1, 1.0],
    }
    wide = {
        "parameters": {
            "0.weight": [[0.5, -2.0], [0.5, -2.0]],
            "0.bias": [[0.25], [0.25]],
            "2.weight": [[-2.25, 0.75]],
            "2.bias": [[0.125]],
        },
        "eigenvalues": [-0.01, 1e-18, 0.001, 0.01, 0.1, 1.0],
    }
    end = {"parameters": wide["parameters"], "eigenvalues": []}
    return study | {"anatomy": {"p0": narrow, "p0-e1": wide, "x0": end}}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = write_report(record(), tmp_path_factory.mktemp("study"))[0]
    return path.as_uri()


def names(page: Page, section: str) -> list[str]:
    """The points in the first table of a section whose rows are shown, from above."""
    table = page.locator(f"#{section} table.sorted").first
    return [text.split()[0] for text in table.locator("tbody:visible th").all_inner_texts()]


def test_a_mark_tells_what_it_is_and_leads_to_its_section(page: Page):
    mark = page.locator('#chart path[aria-label^="p0-e1,"]')
    assert mark.get_attribute("aria-label") == "p0-e1, strict saddle, loss 0.312500"
    assert not page.locator("#p0-e1").is_visible()
    mark.hover()
    said = page.locator("#vg-tooltip-element")
    expect(said).to_contain_text("p0, replicate outside")
    expect(said).to_contain_text("strict saddle")
    mark.click()
    expect(page.locator("#p0-e1")).to_be_in_viewport()
    expect(page.locator("#p0-e1")).to_be_focused()
    assert page.url.endswith("#p0-e1")


def test_every_point_and_way_down_is_on_the_chart(page: Page):
    marks = page.locator("#chart .role-mark.points_marks path, #chart g.points_marks path")
    study = record()
    assert marks.count() == sum(len(study[rows]) for rows in ("points", "embedded", "escapes"))
    labels = [mark.get_attribute("aria-label") or "" for mark in marks.all()]
    assert "x1, way down that ran out of iterations, loss 0.156250" in labels
    drawn_as = {(mark.get_attribute("d"), mark.get_attribute("fill")) for mark in marks.all()}
    assert len(drawn_as) == 6, "kinds are told apart without colour, by shape or by being hollow"


def test_the_chart_is_a_table_too_whose_names_lead_on_by_keyboard(page: Page):
    page.get_by_text("The chart as a table: 10 points").click()
    link = page.locator("#overview table").get_by_role("link", name="x1", exact=True).first
    link.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#x1")).to_be_in_viewport()
    assert "from loss 0.312500 to 0.156250 (−50 %)" in page.locator("#x1").inner_text()


def test_a_table_is_sorted_by_number_and_missing_ones_come_last(page: Page):
    assert names(page, "points") == ["p0", "p1", "p10"]
    table = page.locator("#points table.sorted")
    head = table.get_by_role("columnheader", name=re.compile("^loss"))
    head.get_by_role("button").click()
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert names(page, "points") == ["p1", "p10", "p0"]
    assert page.locator("#points [role=status]").inner_text() == (
        "3 of 3 rows, sorted by loss, descending"
    )
    deciding = table.get_by_role("columnheader", name=re.compile("^deciding"))
    deciding.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert deciding.get_attribute("aria-sort") == "ascending"
    assert head.get_attribute("aria-sort") is None
    assert names(page, "points")[-1] == "p10", "an undecided point has no deciding eigenvalue"
    table.get_by_role("columnheader", name="point").get_by_role("button").click()
    assert names(page, "points") == ["p0", "p1", "p10"], "as people count"
    # What belongs to a row goes with it.
    assert "Undecided: a test says so" in table.locator("tbody").last.inner_text()


def test_a_table_is_filtered_by_words_and_by_choice(page: Page):
    tools = page.locator("#wide .tools").first
    assert names(page, "wide") == ["p0-e0", "p0-e1", "p0-e2", "p1-e0", "p1-e1"]
    tools.get_by_label("Filter").fill("OUTSIDE saddle")
    assert names(page, "wide") == ["p0-e1", "p0-e2"]
    expect(tools.get_by_role("status")).to_have_text("2 of 5 rows")
    tools.get_by_label("Units added").select_option("2")
    assert names(page, "wide") == ["p0-e2"]
    tools.get_by_label("Filter").fill("")
    assert names(page, "wide") == ["p0-e2", "p1-e1"]
    tools.get_by_label("Made of").select_option("p0")
    tools.get_by_label("Kind").select_option("minimum")
    expect(tools.get_by_role("status")).to_have_text("0 of 5 rows")


def test_a_link_opens_what_it_leads_to_also_a_second_time(page: Page):
    link = page.locator("#wide table").get_by_role("link", name="p0-e1", exact=True)
    section = page.locator("#p0-e1")
    for _ in range(2):
        link.click()
        expect(section).to_be_in_viewport()
        section.locator("xpath=ancestor::details[1]/summary").click()
        assert not section.is_visible()


def test_weights_and_eigenvalues_are_drawn_from_their_numbers(page: Page):
    page.locator("#wide table").get_by_role("link", name="p0-e1", exact=True).click()
    section = page.locator("#p0-e1")
    weights = section.locator(".picture.weights").first
    squares = weights.locator("svg g.mark-symbol path")
    expect(squares).to_have_count(2 * (2 + 1 + 1))
    hollow = [square for square in squares.all() if "paper" in (square.get_attribute("fill") or "")]
    assert len(hollow) == 3, "the negative ones: −2 twice and −2.25"
    lines = section.locator(".picture.eigenvalues svg g.mark-symbol path")
    expect(lines).to_have_count(3 + 6)
    labels = [line.get_attribute("aria-label") or "" for line in lines.all()]
    assert sum("negative" in label for label in labels) == 1
    assert sum("zero" in label for label in labels) == 1
    page.locator("#x0").scroll_into_view_if_needed()
    expect(page.locator("#x0 .picture.weights svg")).to_have_count(1)


@pytest.mark.parametrize("highest", [0.375, 300.0])
def test_a_study_that_found_points_alone_is_drawn_without_complaint(
    browser: Browser, tmp_path: Path, highest: float
):
    study = record() | {"embedded": [], "escapes": []}
    study["points"][-1]["loss"] = highest
    opened = browser.new_page()
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.goto(write_report(study, tmp_path)[0].as_uri())
    expect(opened.locator("#chart path[aria-label]")).to_have_count(3)
    opened.close()
    assert said == []


def test_without_scripts_all_is_there_to_be_read(browser: Browser, address: str):
    opened = browser.new_page(java_script_enabled=False)
    opened.goto(address)
    assert opened.locator("#points table tbody tr").first.is_visible()
    assert opened.get_by_text("The chart needs JavaScript").is_visible()
    summary = opened.locator("#each details.family > summary").first
    summary.click()
    assert opened.locator("#p0").is_visible()
    assert "every direction leads up" in opened.locator("#p0").inner_text()
    opened.close()


def test_an_address_opens_its_point_and_nothing_is_wider_than_the_window(
    browser: Browser, address: str
):
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.goto(f"{address}#p0-e1")
    expect(opened.locator("#p0-e1")).to_be_in_viewport()
    opened.wait_for_selector("#p0-e1 .picture.weights svg")
    for width in (1280, 420):
        opened.set_viewport_size({"width": width, "height": 900})
        assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()
