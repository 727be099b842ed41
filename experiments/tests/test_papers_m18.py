"""The networks for XOR of Mehta, Zhao, Bernal and Wales 2018."""

from __future__ import annotations

import copy

import pytest

import semiflat as sf
from semiflat_experiments.m18 import xor


def failed(found, records):
    checks = found.experiment.outcome(found.settings, records).checks
    return [check.claim for check in checks if not check.holds]


def test_every_check_holds_and_every_count_is_of_points_and_places(ran):
    found, records = ran("m18-xor")
    assert failed(found, records) == []
    assert found.png.startswith(b"\x89PNG")
    for record in records:
        first, second = record["levels"]
        assert first["narrower"] == {}
        points = sum(first["new"].values())
        assert sum(second["narrower"].values()) == points, "each narrow point is there once"
        assert second["gradient"] < xor.CRITICAL
        of_both = sum(xor.total(second, kind) for kind in {*second["new"], *second["narrower"]})
        assert of_both == points + sum(second["new"].values())


def test_a_narrow_point_is_critical_where_units_of_weights_0_are_added_and_not_where_others_are():
    problem = sf.Problem(sf.MLP([2, 1, 1], "tanh"), xor.X, xor.Y, "logistic", weight_decay=1e-3)
    point = sf.find_critical_point(problem, starts=8, seed=0)
    assert xor._slope(point, 3) < xor.CRITICAL
    copied = sf.Replicate(0, 0, [0.5, 0.5])(point).materialize()
    assert copied.gradient_norm > 1e-4  # the penalty pulls at copies


@pytest.mark.parametrize(
    ("kind", "inertia", "named"),
    [
        ("STRICT_MINIMUM", (9, 0, 0), "minima"),
        ("STRICT_SADDLE", (8, 0, 1), "index 1"),
        ("STRICT_SADDLE", (7, 0, 2), "higher index"),
        ("STRICT_SADDLE", None, "undecided"),
        ("UNDECIDED", None, "undecided"),
    ],
)
def test_points_are_counted_by_kind_and_index(kind, inertia, named):
    assert xor._kind(kind, inertia) == named


def test_doctored_records_are_seen_to_contradict_m18(ran):
    found, records = ran("m18-xor")
    bad = copy.deepcopy(records)
    for record in bad:
        for level in record["levels"]:
            level["new"], level["narrower"], level["gradient"] = {"minima": 1}, {}, 1e-3
    assert len(failed(found, bad)) == 4
    assert len(failed(found, [])) == 4
