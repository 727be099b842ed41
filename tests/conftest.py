"""What several test files share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from postgres import Server, server

# The same examples every time; `make test-all` draws others, with --hypothesis-profile=other.
settings.register_profile("same", derandomize=True)
settings.register_profile("other")
settings.load_profile("same")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server."""
    with server() as running:
        yield running
