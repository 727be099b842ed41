"""Numbers that the README and the docs quote are those of the committed records.

What stands there is made here from ``docs/results`` and ``benchmarks/results``, and looked for in the text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from semiflat.papers.p21 import arms

ROOT = Path(__file__).parents[1]


def text(name: str) -> str:
    """A page in one line, so that line breaks do not matter."""
    return re.sub(r"\s+", " ", (ROOT / name).read_text(encoding="utf-8"))


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / f"docs/results/{name}.json").read_text("utf-8"))
    return found


def measured(name: str, what: str) -> str:
    """The number in the row of a committed result."""
    (row,) = [row for row in result(name)["rows"] if row["what"] == what]
    return str(row["measured"])


def why(name: str, what: str) -> str:
    (row,) = [row for row in result(name)["rows"] if row["what"] == what]
    return str(row["why"])


def evidence(name: str, claim: str) -> str:
    (check,) = [each for each in result(name)["checks"] if claim in each["claim"]]
    return str(check["evidence"])


# -- P21 ------------------------------------------------------------------------------------------------


def of_p21() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = result("p21-definite")["data"]["variants"]
    return found


def test_the_arms_of_p21_V_E_are_the_records_with_their_intervals():
    lines = (ROOT / "docs/papers-p21.md").read_text("utf-8").splitlines()
    table = arms.table(of_p21())
    start = lines.index(table[0])
    assert lines[start : start + len(table)] == table


def test_what_is_said_of_p21_V_E_is_what_its_arms_carry():
    variants, page = of_p21(), text("docs/papers-p21.md")
    large = [arm for arm in variants.values() if arm["runs"] == 1000]
    assert len(large) == 3
    for arm in large:
        assert arm["without"][1] < 33
    most = max(arms.chances(arm["runs"], arm["without"])[1] for arm in large)
    assert f"(p ≤ {most:.1e})" in page
    small = {name: arm for name, arm in variants.items() if arm["runs"] < 1000}
    differ = {name: arms.differing(arm["runs"], arm["without"]) for name, arm in small.items()}
    assert {name: layers for name, layers in differ.items() if layers != "none"} == {
        "no biases": "1"
    }
    others = [arm["runs"] for name, arm in small.items() if name != "no biases"]
    assert f"The other five, of {min(others)} to {max(others)} runs, differ in no layer" in page
    assert len(others) == 5
    unseen = (1 - 33 / 6000) ** (10 * 6)
    assert f"0.55 % in the second layer with a probability of {100 * unseen:.0f} %" in page
    main, readme = variants["as published"], text("README.md")
    negative = {name: (arm["negative eigenvalues"], arm["runs"]) for name, arm in variants.items()}
    every = [name for name, (count, runs) in negative.items() if count == runs]
    assert len(every) == 5
    assert "at every end of five other arms" in page
    for quoted in (page, readme):
        assert f"{negative['as published'][0]} of 1000" in quoted
        for name in ("tanh", "teacher's weights × 3", "noisy targets"):
            count, runs = negative[name]
            assert f"{count} of {runs}" in quoted or f"none of {runs}" in quoted
    counts = ", ".join(
        f"{n} of {t}" for n, t in zip(main["without"], arms.units(1000), strict=True)
    )
    assert f"(ours: {counts}; published 547, 33, 6)" in readme
    assert f"{sum(main['with'])} of {sum(main['without'])} blocks are left" in readme


def test_an_interval_of_few_runs_is_wide():
    """Clopper and Pearson's: with k of n the tails beyond each end are 2.5 %."""
    from scipy.stats import binom

    for count, total in ((0, 60), (3, 180), (383, 4000), (10, 10)):
        low, high = arms.interval(count, total)
        if count:
            assert binom.sf(count - 1, total, low) == pytest.approx(0.025)
        if count < total:
            assert binom.cdf(count, total, high) == pytest.approx(0.025)
    assert arms.interval(0, 0) == (0.0, 1.0)
