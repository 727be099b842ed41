"""Files made to deceive: what a hostile reader of the checker came up with."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import semiflat as sf
from semiflat.certificates.checker.balls import NotDefinite
from semiflat.certificates.checker.gauge import frozen_places
from semiflat.certificates.checker.words import claim_in_words


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    X = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1))
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    return sf.certify(point).document


def verdict(folder: Path, text: str) -> sf.Verification:
    path = folder / "forged.json"
    path.write_text(text, encoding="utf-8")
    return sf.verify(path)


def forged(document: dict[str, Any], **changes: Any) -> str:
    changed = json.loads(json.dumps(document))
    changed["proved"].update(changes)
    return json.dumps(changed | {"claim": claim_in_words(changed)})


def test_two_weights_of_one_unit_are_not_held_against_one_scaling():
    from semiflat.certificates.checker.arithmetic import arb
    from semiflat.certificates.checker.balls import Network

    net = Network([2, 1, 1], ["relu"], [True, True], "squared", 0.0, [[1.0, 2.0]], [[1.0]])
    one = {"family": "scaling", "layer": 0, "unit": 0, "input": 0}
    assert frozen_places(net, [one], [arb(1)] * 5) == [0]
    with pytest.raises(NotDefinite, match="one scaling a unit"):
        frozen_places(net, [one, {**one, "input": 1}], [arb(1)] * 5)


@pytest.mark.parametrize(
    "changes",
    [{"x": None}, {"exact": 1}, {"inertia": [4.0, 0, 0]}, {"inertia": [4, False, False]}],
)
def test_what_is_proved_is_compared_as_it_is_written(document, tmp_path, changes):
    found = verdict(tmp_path, forged(document, **changes))
    assert (found.ok, found.status) == (False, "not certified"), found
    assert sf.verify_distinct([tmp_path / "forged.json"]).at_least == 0


def test_a_key_that_stands_twice_is_refused(document, tmp_path):
    text = json.dumps(document)
    twice = '{"proved": {"kind": "GLOBAL_MINIMUM"}, ' + text[1:]
    assert verdict(tmp_path, twice).status == "invalid file"
    assert verdict(tmp_path, text).ok


@pytest.mark.parametrize(
    ("status", "reason"),
    [("\ud800", "x"), ([1], "x"), ("undecided", {}), ("believe me", "x"), ("undecided", None)],
)
def test_a_status_is_one_of_those_there_are(tmp_path, status, reason):
    text = json.dumps({"format": "semiflat-certificate-1", "status": status, "reason": reason})
    assert verdict(tmp_path, text).status == "invalid file"


def test_a_file_cannot_print_a_verdict_of_its_own(tmp_path):
    reason = "x\n\x1b[2Kc.json: certified: the moon is cheese"
    text = json.dumps({"format": "semiflat-certificate-1", "status": "undecided", "reason": reason})
    found = verdict(tmp_path, text)
    assert found.status == "not certified"
    assert "\n" not in found.reason
    assert "\x1b" not in found.reason


def test_a_null_unit_needs_a_bias_in_its_layer(tmp_path):
    X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], "tanh", bias=[False, True]), X, torch.tanh(X) + X**2)
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    narrow = sf.certify(sf.Replicate(0, 0, ["1/2", "1/2"])(point)).document
    layers = json.loads(json.dumps(narrow["embedding"]["layers"]))
    layers[0].append({"null": "2/5", "count": 1})
    text = json.dumps(narrow | {"embedding": {**narrow["embedding"], "layers": layers}})
    assert "bias in its own layer" in verdict(tmp_path, text).reason


def test_depth_costs_little(tmp_path):
    net = sf.MLP([1] * 3001, "identity", bias=False)
    point = sf.Point(sf.Problem(net, [[1.0]], [2.0]), net.unflatten(torch.ones(3000).double()))
    sf.certify_not_critical(point).save(tmp_path / "deep.json")
    assert sf.verify(tmp_path / "deep.json").ok


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"unique": "-0x1p-3"}, "uniqueness"),
        ({"location": "-0x1p-60"}, "location"),
        ({"eigenvalue_sizes": ["-0x1p-3", "0x1p+30"]}, "eigenvalues"),
        ({"eigenvalue_sizes": ["0x0p+0", "-0x1p+0"]}, "eigenvalues"),
        ({"contraction": "-0x1p-3"}, "inertia"),
        ({"loss": ["0x1p+0", "0x0p+0"]}, "loss"),
    ],
)
def test_a_distance_and_a_size_are_not_below_0(document, tmp_path, changes, step):
    found = verdict(tmp_path, forged(document, **changes))
    assert (found.ok, found.status) == (False, "not certified"), found
    assert found.reason.startswith(step)
    for key in changes:
        for bad in ("nan", "inf", "0x1p+9999", 1.0, None):
            value = bad if not isinstance(changes[key], list) else [bad, bad]
            text = json.dumps(document)
            changed = json.loads(text)
            changed["proved"][key] = value
            assert verdict(tmp_path, json.dumps(changed)).status == "invalid file"


def test_where_no_parameter_is_free_no_distance_and_no_size_is_proved(tmp_path):
    """A dead unit with no bias above it: the risk does not depend on the parameters nearby."""
    X = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu", [True, False]), X, X)
    point = sf.Point(problem, problem.net.unflatten(torch.tensor([0.5, -2.0, 1.0]).double()))
    document = sf.certify(point).document
    assert (document["status"], document["proved"]["inertia"]) == ("certified", [0, 3, 0])
    assert verdict(tmp_path, json.dumps(document)).ok
    for changes in (
        {"unique": "0x1p+9"},
        {"unique": "-0x1p+0"},
        {"eigenvalue_sizes": ["0x1p+9", document["proved"]["eigenvalue_sizes"][1]]},
        {"eigenvalue_sizes": [document["proved"]["eigenvalue_sizes"][0], "-0x1p+0"]},
        {"location": "-0x1p+0"},
    ):
        assert verdict(tmp_path, forged(document, **changes)).status == "not certified", changes


def test_shares_that_would_take_hours_to_add_up_are_not_added_up(tmp_path):
    X = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1))
    point = sf.find_critical_point(problem, starts=8, seed=0, processes=1)
    wide = sf.certify(sf.Replicate(0, 0, ["3/2", "-1/2"])(point)).document
    runs = wide["embedding"]["layers"][0]
    for count in (True, 0, -1, 1.0, "1"):
        changed = json.loads(json.dumps(wide))
        changed["embedding"]["layers"][0][0]["count"] = count
        assert not verdict(tmp_path, json.dumps(changed)).ok
    one = {"source": 0, "scale": "1", "count": 1}
    long = [{**one, "share": f"1/{10**3900 + k}"} for k in range(1, 400, 2)]
    changed = json.loads(json.dumps(wide))
    changed["embedding"]["layers"][0] = [*long, *runs]
    found = verdict(tmp_path, json.dumps(changed))
    assert (found.status, "common denominator" in found.reason) == ("not certified", True), found
