"""Verdicts on thousands of points against what high precision says of them.

Every point is built or searched for (mass_cases.py), judged by semiflat as it is, embedded in a wider network
and as the plain point there, some with a proof; and adjudicated apart from semiflat (mass_truth.py). A
wrong kind is one that high precision refutes. Each item depends on the seed and its number alone, and is
written as it ends: the same command goes on where it was stopped.

Run: python benchmarks/mass_verdicts.py --count 2400     (16 minutes of one core)
     python benchmarks/mass_verdicts.py --only kinks --count 400 --out /tmp/kinks.jsonl
     python benchmarks/mass_verdicts.py --show 123       what was judged in item 123, and why
     python benchmarks/mass_verdicts.py --summary        the page, from what is there
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import semiflat as sf
from mass_cases import ARMS, SCHEDULE
from mass_embeddings import embedded
from mass_landscape import Case
from mass_points import WIDEST, Made, case_of, network, point_of, units
from mass_summary import write_summary
from mass_truth import NEAR, Truth, adjudicate, falls_along

RESULTS = Path(__file__).parent / "results"
MINIMA = "MINIMUM", "STRICT_MINIMUM"
DECIDED = (*MINIMA, "STRICT_SADDLE")
ROUNDING = 1e-13  # a critical point this near is the same point, up to rounding
PROOFS = 0.12  # the share of points that are judged with a proof too


def score(verdict: sf.Verdict, truth: Truth, case: Case) -> tuple[str, str]:
    """What the verdict is worth, and why.

    ``wrong``: high precision refutes it. ``right``. ``weaker``: a strict minimum called a minimum.
    ``undecided``. ``missed``: NOT_CRITICAL, where a critical point is as near as rounding allows.
    ``afar``: the kind of a critical point further away than 1e-6. ``unclear``: the truth is not known.
    """
    kind = verdict.kind.value
    if kind == "UNDECIDED":
        return "undecided", ""
    found = _score(kind, truth)
    if kind == "STRICT_SADDLE" and (truth.kind == "kink" or truth.beside) and found[0] == "wrong":
        # A way down that the verdict gives is right where it leads down, found by sampling or not.
        way = verdict.descent_direction
        if way is not None and falls_along(case, network(case).flatten(way).tolist()):
            return "right", ""
    if found[0] in ("wrong", "missed") and kind not in MINIMA and truth.lower_across:
        return "right", ""
    return found


def _score(kind: str, truth: Truth) -> tuple[str, str]:
    if truth.kind == "unclear":
        return "unclear", truth.why
    if truth.kind == "kink":
        return _score_at_kink(kind, truth)
    if kind == "NOT_CRITICAL":
        return ("missed", "") if truth.distance <= ROUNDING else ("right", "")
    if truth.kind == "not critical":
        return "wrong", f"{kind} where there is no critical point"
    if truth.kind == "strict saddle":
        found = (
            ("right", "") if kind == "STRICT_SADDLE" else ("wrong", f"{kind} at a strict saddle")
        )
    elif kind == "STRICT_SADDLE":
        found = "wrong", f"STRICT_SADDLE without a negative eigenvalue ({truth.kind})"
    elif truth.kind == "strict minimum":
        found = ("right" if kind == "STRICT_MINIMUM" else "weaker"), ""
    elif kind == "STRICT_MINIMUM":
        found = "wrong", "STRICT_MINIMUM where an eigenvalue is 0"
    elif truth.lower:
        found = "wrong", "MINIMUM with a lower loss nearby"
    else:
        found = "right", ""
    return ("afar", "") if truth.distance > NEAR and found[0] != "wrong" else found


def _score_at_kink(kind: str, truth: Truth) -> tuple[str, str]:
    if kind in MINIMA and truth.lower:
        return "wrong", f"{kind} at a kink with a lower loss nearby"
    if kind == "STRICT_SADDLE" and not truth.lower:
        return "wrong", "STRICT_SADDLE at a kink and no lower loss nearby"
    return (
        ("right", "") if kind in MINIMA or truth.lower else ("unclear", "no lower loss at a kink")
    )


def signs(verdict: sf.Verdict, truth: Truth) -> str:
    """How the stated inertia compares with the exact one."""
    if verdict.inertia is None or truth.inertia is None or verdict.kind.value not in DECIDED:
        return "not compared"
    stated, exact = tuple(verdict.inertia), truth.inertia
    if sum(stated) != sum(exact):  # at a kink: no Hessian
        return "not compared"
    if stated == exact:
        return "equal"
    if stated[0] <= exact[0] and stated[2] <= exact[2]:
        return "zeros too many"
    return "wrong signs"


def record(how: str, verdict: sf.Verdict, truth: Truth, made: Made, case: Case) -> dict[str, Any]:
    """One line of the results."""
    worth, why = score(verdict, truth, case)
    line: dict[str, Any] = {
        "how": how,
        "score": worth,
        "why": why,
        "kind": verdict.kind.value,
        "certainty": verdict.certainty.value,
        "inertia": None if verdict.inertia is None else list(verdict.inertia),
        "reason": verdict.reason,
        "truth": truth.kind,
        "exact": truth.inertia,
        "signs": signs(verdict, truth),
        "distance": truth.distance if truth.distance < np.inf else None,
        "smallest": truth.smallest,
        "activation": "+".join(dict.fromkeys(case.activations)) or "linear",
        "hidden": len(case.activations),
        "outputs": case.widths[-1],
        "parameters": len(case.params),
        "loss": case.loss,
        "decay": case.decay > 0,
        "float32": made.single,
        "tags": made.tags,
    }
    if worth in ("wrong", "missed", "afar") or line["signs"] == "wrong signs":
        line["case"] = asdict(case)
    return line


def judged(rng: np.random.Generator, made: Made) -> Iterator[dict[str, Any]]:
    """The records of one point: as it is, its twin's, with a proof, and embedded."""
    point = point_of(made.case, made.single)
    verdict, truth = sf.judge(point), adjudicate(made.case)
    line = record("plain", verdict, truth, made, made.case)
    if made.twin is not None:
        line["law"] = _law(verdict, sf.judge(point_of(made.twin)), truth)
        if line["law"] == "broken":
            line["case"] = asdict(made.case)
    yield line
    proof = rng.random() < PROOFS
    if proof:
        yield record("proof", sf.judge(point, proof=True), truth, made, made.case)
    drawn = embedded(rng, point, WIDEST) if made.sizes is not None else None
    if drawn is None:
        return
    name, wide = drawn
    tags = {**made.tags, "embedding": name}
    net = wide.problem.net
    unit = units(list(net.widths), list(net.biases), *(made.sizes or ()))
    flat = wide.materialize()
    case = case_of(flat, made.case, unit)
    wider = Made(case, made.single, tags=tags)
    narrow, truth = truth, adjudicate(case)
    kept = wide.embedding.preserves_criticality is True and narrow.distance <= NEAR
    if kept and truth.kind == "not critical":
        # Newton does not come to the embedded critical point where copies' weights are tiny.
        truth = Truth(
            "unclear", why="Newton leaves, but the narrow critical point embedded is near"
        )
    lazy, plain = sf.judge(wide), sf.judge(flat)
    one, two = (
        record(how, v, truth, wider, case)
        for how, v in (("embedded", lazy), ("materialised", plain))
    )
    one["agree"] = two["agree"] = _agree(lazy, plain)
    for line in (one, two):
        if line["agree"] == "contradict":
            line["case"] = asdict(case)
    yield one
    yield two
    if proof:
        yield record("proof", sf.judge(wide, proof=True), truth, wider, case)


def _law(verdict: sf.Verdict, twin: sf.Verdict, truth: Truth) -> str:
    kinds = verdict.kind.value, twin.kind.value
    if kinds[0] == kinds[1]:
        return "holds"
    if "UNDECIDED" in kinds or "NOT_CRITICAL" in kinds:
        return f"{kinds[1]} becomes {kinds[0]}"
    return "broken"


def _agree(lazy: sf.Verdict, plain: sf.Verdict) -> str:
    kinds = {lazy.kind.value, plain.kind.value}
    if len(kinds) == 1 or kinds == set(MINIMA):
        return "agree"
    return "one undecided" if kinds - set(DECIDED) else "contradict"


def run_item(seed: int, number: int, arm: str) -> list[dict[str, Any]]:
    """All records of an item; a fault of the library is one too."""
    rng = np.random.default_rng([seed, number])
    lines: list[dict[str, Any]] = []
    try:
        for made in ARMS[arm](rng):
            lines += judged(rng, made)
    except Exception as error:
        lines.append(
            {"how": "fault", "score": "fault", "why": f"{type(error).__name__}: {error}"[:300]}
        )
    return [{"seed": seed, "item": number, "arm": arm, **line} for line in lines]


def arm_of(number: int, only: str | None) -> str:
    """The arm an item belongs to."""
    return only or SCHEDULE[number % len(SCHEDULE)]


def finished(path: Path) -> set[tuple[int, int]]:
    """The items that are in the file already; a last line that was cut off is not."""
    if not path.exists():
        return set()
    done = set()
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry.get("how") == "end":
            done.add((entry["seed"], entry["item"]))
    return done


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--count", type=int, default=2400, help="number of items, of one to six points each"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=sorted(ARMS), help="one arm alone")
    parser.add_argument(
        "--part", default="0/1", help="k/n: every n-th item from k on, for n processes"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "mass_verdicts.jsonl")
    parser.add_argument("--page", type=Path, default=RESULTS / "mass_verdicts.md")
    parser.add_argument("--show", type=int, help="run one item and print it")
    parser.add_argument("--summary", action="store_true", help="only write the page")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.show is not None:
        for line in run_item(options.seed, options.show, arm_of(options.show, options.only)):
            print(json.dumps(line))
        return
    if not options.summary:
        run(options)
    write_summary(options.out, options.page)
    print(options.page.read_text())


def run(options: argparse.Namespace) -> None:
    """The items that are not in the file yet."""
    part, parts = map(int, options.part.split("/"))
    done = finished(options.out)
    with options.out.open("a") as file:
        for number in range(part, options.count, parts):
            if (options.seed, number) in done:
                continue
            start = time.process_time()
            lines = run_item(options.seed, number, arm_of(number, options.only))
            end = {
                "how": "end",
                "seed": options.seed,
                "item": number,
                "seconds": time.process_time() - start,
            }
            file.write("".join(json.dumps(line) + "\n" for line in [*lines, end]))
            file.flush()
            for line in lines:
                if line["score"] in ("wrong", "fault") or line.get("law") == "broken":
                    print(number, line["arm"], line["how"], line["score"], line["why"], flush=True)


if __name__ == "__main__":
    main()
