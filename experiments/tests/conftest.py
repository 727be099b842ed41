"""What the tests of several papers share."""

from __future__ import annotations

import pytest

from semiflat_experiments.records import key, open_records
from semiflat_experiments.reproduce import reproduce


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The quick run of an experiment, and its records in the order of the tasks; each is run once."""
    done = {}

    def run(name):
        if name not in done:
            out = tmp_path_factory.mktemp(name)
            found = reproduce(name, out, True, 1)
            tasks = list(found.experiment.tasks(found.settings))
            with open_records(out, name, found.settings) as kept:
                done[name] = found, [kept.get(key(task)).record for task in tasks]
        return done[name]

    return run
