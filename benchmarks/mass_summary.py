"""The page of the mass test, from its JSON lines."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

Line = dict[str, Any]
CRITICAL = "strict minimum", "strict saddle", "degenerate"
WORTH = "right", "weaker", "undecided", "missed", "afar", "unclear", "wrong"


def read(path: Path) -> tuple[list[Line], float]:
    """The records of finished items, and the seconds they took."""
    by_item: dict[tuple[int, int], list[Line]] = {}
    lines: list[Line] = []
    seconds = 0.0
    for text in path.read_text().splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        item = line["seed"], line["item"]
        if line["how"] == "end":
            lines += by_item.pop(item, [])
            seconds += line["seconds"]
        else:
            by_item.setdefault(item, []).append(line)
    return lines, seconds


def table(title: str, lines: Iterable[Line], by: Callable[[Line], Any]) -> list[str]:
    """Counts of each worth, a row for each value of ``by``."""
    rows: dict[str, Counter[str]] = {}
    for line in lines:
        key = by(line)
        if key is not None:
            rows.setdefault(str(key), Counter())[line["score"]] += 1
    text = [f"| {title} | verdicts | {' | '.join(WORTH)} |", "|---" * (len(WORTH) + 2) + "|"]
    for key in sorted(rows):
        counts = rows[key]
        text.append(f"| {key} | {counts.total()} | {' | '.join(str(counts[w]) for w in WORTH)} |")
    return [*text, ""]


def bare(reason: str) -> str:
    """A reason without its numbers."""
    reason = reason.split("; not proved")[0]
    return re.sub(r"-?\d[\d.]*(e[+-]?\d+)?", "#", reason)[:150]


def counted(title: str, counts: Counter[Any]) -> list[str]:
    """A table of counts, the largest first."""
    rows = [f"| {str(key).replace('|', '∣')} | {count} |" for key, count in counts.most_common()]
    return [f"| {title} | number |", "|---|---|", *rows, ""]


def write_summary(source: Path, page: Path) -> None:
    """Write the page."""
    everything, seconds = read(source)
    faults = [line for line in everything if line["score"] == "fault"]
    lines = [line for line in everything if line["score"] != "fault"]
    # A point is one plain or materialised record; the embedded one and the proof speak of the same point.
    points = [line for line in lines if line["how"] in ("plain", "materialised")]
    critical = sum(line["truth"] in CRITICAL for line in points)
    wrong = [line for line in lines if line["score"] == "wrong"]
    laws = Counter(line["law"] for line in lines if "law" in line)
    agree = Counter(line["agree"] for line in lines if line["how"] == "embedded")
    signs = Counter(line["signs"] for line in lines)
    text = [
        "# Verdicts on thousands of points, against high precision",
        "",
        "`python benchmarks/mass_verdicts.py` makes points in eight ways, judges each with semiflat (plain,",
        "embedded by the inertia law, materialised, some with a proof), and adjudicates it apart from",
        "semiflat: own derivatives in 320-bit arithmetic, Newton to 1e-50, signs of the exact Hessian's",
        "eigenvalues; where it has a kernel, or the loss a kink, a lower loss nearby is searched for.",
        "",
        "*Wrong*: high precision refutes the kind. *Weaker*: a strict minimum called a minimum. *Missed*: not",
        "critical, though a critical point is within 1e-13. *Afar*: the kind of a critical point between 1e-6",
        "and 1e-2 away. *Unclear*: high precision does not decide. Distances are in units of the parameters.",
        "",
        f"- {critical} critical points and {len(points) - critical} others;",
        f"  {len(lines)} verdicts, {seconds / 60:.0f} minutes of one core",
        f"- **wrong kinds: {len(wrong)}**",
        f"- embedded and materialised contradict each other: {agree['contradict']}",
        f"- rescaling turned one decided kind into another: {laws['broken']}",
        f"- inertias of decided points with a sign that is not there: {signs['wrong signs']}",
        f"- undecided: {sum(line['score'] == 'undecided' for line in lines)}; faults: {len(faults)}",
        "",
        "## By how the point was judged, and by arm",
        "",
        *table("judged", lines, lambda line: line["how"]),
        *table("arm", lines, lambda line: line["arm"]),
        "## By what the point is",
        "",
        *table("truth", lines, lambda line: line["truth"]),
        *table(
            "activation",
            lines,
            lambda line: line["activation"] if "+" not in line["activation"] else "mixed",
        ),
        *table("loss", lines, lambda line: line["loss"] + (", decay" if line["decay"] else "")),
        *table("hidden layers", lines, lambda line: line["hidden"]),
        *table("outputs", lines, lambda line: line["outputs"]),
        *table("data", lines, lambda line: "float32" if line["float32"] else "float64"),
        *table("embedding", lines, lambda line: line["tags"].get("embedding")),
        *table("size of X, 10 to the", lines, lambda line: line["tags"].get("X")),
        *table("size of y, 10 to the", lines, lambda line: line["tags"].get("y")),
        *table("outputs apart, 10 to the", lines, lambda line: line["tags"].get("uneven")),
        *table("moved by, 10 to the −", lines, lambda line: line["tags"].get("moved")),
        *table("status of the search", lines, lambda line: line["tags"].get("status")),
        "## The law of sizes",
        "",
        *counted("a rescaled point's kind", laws),
        "## Embedded and materialised",
        "",
        *counted("the two verdicts", agree),
        "## Inertias of decided points",
        "",
        *counted("beside the exact one", signs),
        "## Why undecided",
        "",
        *counted(
            "reason",
            Counter(bare(line["reason"]) for line in lines if line["score"] == "undecided"),
        ),
        "## Why undecided, at strict minima and strict saddles",
        "",
        *counted(
            "reason",
            Counter(
                (line["truth"], bare(line["reason"]))
                for line in lines
                if line["score"] == "undecided" and line["truth"] in CRITICAL[:2]
            ),
        ),
    ]
    if wrong:
        text += [
            "## Wrong",
            "",
            *counted("what", Counter((line["why"], bare(line["reason"])) for line in wrong)),
        ]
        text += [
            f"- item {line['item']} of seed {line['seed']} ({line['arm']}, {line['how']})"
            for line in wrong[:60]
        ]
    if faults:
        text += ["## Faults", "", *counted("error", Counter(line["why"] for line in faults))]
    page.write_text("\n".join(text).rstrip() + "\n")
