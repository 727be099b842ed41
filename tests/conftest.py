"""What several test files share."""

from __future__ import annotations

import pytest
from hypothesis import settings

# The same examples every time; `make test-all` draws others, with --hypothesis-profile=other.
settings.register_profile("same", derandomize=True)
settings.register_profile("other")
settings.load_profile("same")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The quick run of an experiment, and its records in the order of the tasks; each is run once."""
    from semiflat.papers.records import Records
    from semiflat.papers.reproduce import reproduce

    done = {}

    def run(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            found = reproduce(name, out, True, 1)
            tasks = list(found.experiment.tasks(found.settings))
            records = Records(out / "records" / f"{name}.jsonl", found.settings).of(tasks)
            done[name] = found, records
        return done[name]

    return run
