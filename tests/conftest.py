"""What several test files share."""

from __future__ import annotations

from hypothesis import settings

# The same examples every time; `make test-all` draws others, with --hypothesis-profile=other.
settings.register_profile("same", derandomize=True)
settings.register_profile("other")
settings.load_profile("same")
