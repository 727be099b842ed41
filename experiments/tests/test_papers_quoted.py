"""Numbers that the README and the docs quote are those of the committed records.

What stands there is made here from ``docs/results`` and ``benchmarks/results``, and looked for in the text.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from semiflat_experiments.p21 import arms

ROOT = Path(__file__).parents[2]


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


# -- the other papers -----------------------------------------------------------------------------------


def test_what_is_said_of_f19_s_minima_is_what_the_census_carries():
    readme, page = text("README.md"), text("docs/papers-f19.md")
    points, found = evidence("f19-census", "contradicts").split(" embedded points; ")
    assert found == "none"
    minima = why("f19-census", "problems with a minimum").split()[0]
    with_one, problems = measured("f19-census", "problems with a minimum").split(" of ")
    without = int(problems) - int(with_one)
    unclear = int(why("f19-census", "dense evidence that does not suffice").split(":")[0])
    assert (
        f"{points} points embedded from {minima} minima of {problems} random problems ({without} gave none)"
        in readme
    )
    assert f"clear at {int(points) - unclear} of them" in readme
    assert f"embedded {minima} minima of {problems} random problems" in page
    assert f"{points} embedded points" in page
    assert f"at {unclear} points an eigenvalue is below" in page
    proved = measured("f19-census", "verdicts that are proved as well")
    assert proved.removesuffix(" minima and saddles") in page
    for row in result("f19-census")["data"]["cases"]:
        (count,) = row["kinds"].values() if len(row["kinds"]) == 1 else [None]
        if row["theorem"] == "F19 Thm 11" and row["says"] != "nothing":
            assert f"| {row['says']} | {count} of {count} |" in page
    for rate in ("one unit; noise 0.01", "N(0, 1); a unit that bends"):
        (row,) = [
            r for r in result("f19-relu-fits")["rows"] if rate in r["what"] and "x" in r["what"]
        ]
        assert row["measured"].split()[0] in page


def test_what_is_said_of_f19_s_figure_is_what_its_result_carries():
    readme, page = text("README.md"), text("docs/papers-f19.md")
    data = result("f19-generalisation")["data"]
    at = [data["widths"].index(5 + added) for added in (10, 25)]
    medians = []
    for choice in data["choices"]:
        found = [choice["quartiles"][k] for k in at]
        medians.append([f"{middle:.2f}" for _, middle, _ in found])
        cells = [f"{middle:.3f} ({low:.3f} to {high:.3f})" for low, middle, high in found]
        assert f"| {cells[0]} | {cells[1]} | {choice['rises']} of {choice['data_sets']} |" in page
    (a, b), (c, d), (e, f), _ = medians
    assert f"{a} times as large for v ~ N(0, 1), {c} times for v = 0, {e} times with ReLU" in readme
    assert f"with 25 {b}, {d} and {f} times" in readme
    fits = measured("f19-generalisation", "data sets with an exact relu fit")
    assert f"{fits} data sets have one" in page


def test_what_is_said_of_k19_and_z22_is_what_their_results_carry():
    page = text("docs/papers-k19.md")
    assert evidence("k19-gap", "Theorem 1").split(",")[0] in page
    assert (
        f"infima lie above 0 (from {evidence('k19-gap', 'it says something').split()[2][:-1]})"
        in page
    )
    assert evidence("k19-refutation", "Theorem 2 refutes") + " degenerate saddles refuted" in page
    assert evidence("k19-refutation", "no minimum is refuted").split(" refuted")[0] in page
    page = text("docs/papers-z22.md")
    assert (
        measured("z22-stages", "runs that stagnate at the width-1 function") + " runs; outputs"
        in page
    )
    functions = result("z22-stages")["data"]["functions"]
    count = sum(len(each["embedded"]) for each in functions)
    assert (
        f"{count} embedded points, gradients up to 4e-10 | at losses up to {functions[0]['loss']:.0f}"
        in page
    )
    first = result("z22-stages")["data"]["runs"][0]["near_width_1"]
    assert f"from step {first[0]} to step {first[1]}" in page
    assert evidence("z22-dimensions", "Thm 6.2: no count").split(",")[0] in page
    assert evidence("z22-dimensions", "Thm 6.3").split(";")[0] in page


def test_what_is_said_of_decay_noise_plateaus_and_xor_is_what_their_results_carry():
    page = text("docs/papers-f19.md")
    decays: dict[float, list[str]] = {}
    for row in result("f19-decay")["data"]["counts"]:
        cell = ", ".join(f"{row[kind]:.2f}" for kind in ("needed", "copies", "inactive"))
        decays.setdefault(row["decay"], []).append(cell)
    for decay, cells in decays.items():
        assert f"| {decay:g} | {' | '.join(cells)} |" in page
    largest = "ends with copies whose risk is below that with surplus weights of 0, decay 0.01"
    assert f"({measured('f19-decay', largest)}, tanh and softplus)" in page
    page = text("docs/papers-p21.md")
    escaped = measured("p21-escape", "noise 0.2 in every weight's gradient: runs that escape")
    assert re.search(rf"\| 0.2 in every weight's gradient \|[^|]*\|[^|]*\| {escaped} \|", page)
    few = [arm for each in result("p21-escape")["data"]["regions"] for arm in each["arms"]]
    few = [step > 0 for arm in few if arm["size"] == 1 for step in arm["crossed"]]
    assert f"{sum(few)} of {len(few)} runs with batches of one sample" in page
    page = text("docs/papers-m18.md")
    for kind in ("minima", "saddles of index 1"):
        for row in result("m18-xor")["rows"]:
            if row["what"].startswith(f"{kind}, "):
                assert f"| {row['measured']} |" in page
    page = text("docs/papers-z22.md")
    for row in result("z22-plateaus")["rows"]:
        if row["what"].startswith("runs with a plateau near"):
            assert f"| {row['measured']} |" in page


@pytest.mark.parametrize("paper", ["f19", "p21", "k19", "z22", "m18"])
def test_the_minutes_that_a_page_promises_are_those_that_were_needed(paper):
    """In the order of the names, or all together."""
    (command,) = re.findall(
        r"```\nsemiflat reproduce .*?```",
        (ROOT / f"docs/papers-{paper}.md").read_text("utf-8"),
        re.S,
    )[:1]
    names = re.findall(rf"{paper}-[a-z-]+", command)
    needed = [result(name)["seconds"] / 60 for name in names]
    (said,) = re.findall(r"# ([^;]*?) minutes", command)
    minutes = [int(number) for number in re.findall(r"\d+", said)]
    for promised, took in zip(minutes, [sum(needed)] if len(minutes) == 1 else needed, strict=True):
        assert abs(promised - took) < 1


# -- benchmarks -----------------------------------------------------------------------------------------


def table_rows(name: str, section: str = "") -> list[list[str]]:
    """Cells of all table lines of a benchmark's page, or of one section of it."""
    page = (ROOT / f"benchmarks/results/{name}.md").read_text("utf-8")
    if section:
        page = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]


def test_what_is_measured_of_the_search_is_what_the_benchmark_carries():
    readme = text("README.md")
    by = {
        row[0]: row
        for row in reversed(table_rows("search", "a"))
        if len(row) == 10 and row[1].isdigit()
    }
    ms = {name: 1000 * float(row[3]) for name, row in by.items()}
    peer = ms["SciPy trust-exact"]
    times = float(by["SciPy trust-exact"][6])
    assert (
        f"{ms['semiflat']:.1f} ms a run, SciPy's trust-exact {peer:.0f} ms ({times:.1f} times), BFGS"
        f" {ms['SciPy BFGS']:.0f} ms a run, of which one in eight" in readme
    )
    assert int(by["SciPy BFGS"][1]) == 8 * int(by["SciPy BFGS"][2])
    ends = {
        row[1]: int(row[2])
        for row in table_rows("search", "cn")
        if row[0] == "semiflat" and row[1][0].isupper()
    }
    page = text("benchmarks/results/search.md")
    away = ends["CHANNEL"] + ends["SATURATED"] + ends["DIVERGED"]
    (reached,) = re.findall(rf"(\d+) of {away} runs at infinity have a limit", page)
    assert (
        f"{ends['CONVERGED']} converged, {reached} reached the critical point at infinity (of {away} that run "
        f"there), {ends['MAX_ITERATIONS']} ran out of iterations" in readme
    )
    lower = page.split(" ## cn ")[1]
    (better,) = re.findall(r"(\d+ of 50) semiflat runs end lower than SciPy BFGS", lower)[:1]
    ((limits, part),) = re.findall(
        r"SciPy BFGS: \d+ of (\d+) limits are lower, [^)]*\), a part of (\S+)", lower
    )[:1]
    assert better.replace("of", "of the first") + " end below where BFGS" in readme
    assert f"the {limits} limits among them by {100 * float(part):.0f} % of the loss" in readme
    none = {
        row[1]: row[2]
        for row in table_rows("search", "c")
        if row[0] == "semiflat" and row[1][0].isupper()
    }
    assert f"Without noise {none['CONVERGED']} of 256 converged" in readme


def test_what_is_measured_of_proofs_paths_and_gaps_is_what_the_benchmarks_carry():
    readme = text("README.md")
    cells = {row[0]: row for row in table_rows("certificates") if " × " in row[1]}
    prove, check = ({k: row[c].split(" (")[0] for k, row in cells.items()} for c in (2, 4))

    def ms(found: dict[str, str]) -> str:
        both = sorted(round(float(found[k].split()[0])) for k in ("2-4-4-1", "10-3-1"))
        return f"{both[0]} to {both[1]} ms"

    assert f"proved in {ms(prove)}, checked from the file in {ms(check)}" in readme
    for name in ("4-16-16-1", "8-100-1"):
        digits = 2 if float(prove[name].split()[0]) < 1 else 1
        assert (
            f"{float(prove[name].split()[0]):.{digits}f} s and {float(check[name].split()[0]):.1f} s"
            in readme
        )
    flat = text("benchmarks/results/certificates.md")
    ((certified, points),) = re.findall(r"certified: (\d+) of (\d+)", flat)
    assert (
        f"Of the {points} distinct points that `make study` finds, {certified} are certified"
        in readme
    )
    two = [row for row in table_rows("paths") if row[0].startswith("2-")]
    spans = []
    for samples in ("2-50-", "2-100-", "2-200-"):
        took = sorted(float(row[1]) for row in two if row[0].startswith(samples))
        spans.append((took[0], took[-1]))
    (a, b), (c, d), (e, f) = spans
    assert f"{a:.1f} s, {c:.1f} to {d:.1f} s, {e:.0f} to {f:.0f} s" in readme
    assert round(a, 1) == round(b, 1)
    assert max(float(row[6]) for row in two) < 6e-15
    assert max(float(row[7]) for row in two) < 1e-27
    assert max(float(row[4]) for row in two) <= 1e4
    whole = [row for row in table_rows("induced") if row[0] == "squared" and row[1] == "1797"]
    ours = sorted(float(row[4]) for row in whole if row[3] != "peer")
    theirs = sorted(float(row[4]) for row in whole if row[3] == "peer")
    assert f"squared loss {ours[0]:.0f} to {ours[-1]:.0f} s" in readme
    assert f"on the dense Jacobian {theirs[0]:.0f} to {theirs[-1]:.0f} s" in readme
    assert len({(row[2], row[7]) for row in whole}) == 2  # the same gap for each, to eight digits


def test_what_is_said_of_verdicts_against_high_precision_is_what_the_mass_test_carries():
    page = text("benchmarks/results/mass_verdicts.md")
    found = re.search(r"(\d+) critical points and (\d+) others; (\d+) verdicts", page)
    undecided = re.search(r"undecided: (\d+); faults: 0", page)
    assert "**wrong kinds: 0**" in page
    assert found
    assert undecided
    points, others, verdicts = found.groups()
    said = text("README.md")
    assert f"{verdicts} verdicts on {points} critical points and {others} others" in said
    assert f"Undecided are {undecided[1]} of them" in said
    for kind, words in (
        ("strict minimum", "at strict minima"),
        ("strict saddle", "at strict saddles"),
        ("degenerate", "where the Hessian is degenerate"),
    ):
        row = re.search(rf"\| {kind} \| (\d+) \| \d+ \| \d+ \| (\d+) ", page)
        assert row
        assert f"{row[2]} of {row[1]} {words}" in said
