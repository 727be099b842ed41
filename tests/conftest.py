"""What several test files share."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from playwright.sync_api import Browser, Page, sync_playwright

from postgres import Server, server

# The same examples every time; `make test-all` draws others, with --hypothesis-profile=other.
settings.register_profile("same", derandomize=True)
settings.register_profile("other")
settings.load_profile("same")


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in. Its modules are forgotten afterwards, so that two tests may call theirs alike."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server."""
    with server() as running:
        yield running


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "SEMIFLAT_NO_BROWSER"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """An installed Chromium; not longer than a file's tests, since it keeps an event loop running."""
    if os.environ.get(NO_BROWSER) == "1":
        pytest.skip(f"{NO_BROWSER}=1 leaves the browser out")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.fail(
            f"no Chromium is installed: apt-get install chromium, or leave these tests out with {NO_BROWSER}=1"
        )
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The page, opened; it must have asked nothing of the network and complained of nothing when it is left."""
    opened = browser.new_page(viewport={"width": 1280, "height": 900})
    opened.set_default_timeout(5000)
    trouble: list[str] = []
    opened.on("console", lambda message: trouble.append(message.text))
    opened.on("pageerror", lambda error: trouble.append(str(error)))
    opened.on("request", lambda request: trouble.append(request.url))
    opened.goto(address)
    opened.wait_for_selector("#chart svg")
    yield opened
    opened.close()
    asked = [text for text in trouble if text.split("#")[0] != address]
    assert asked == []
