"""The inertia law for parallel branches, on many random models of every kind, against dense wide Hessians.

Each case is a small model at a random point, widened by ``sf.widen``: copies of units with shares of any sign
and 0, in one group or two, and null units. The law's counts, from narrow quantities, are held against those of
the widened model's Hessian by plain automatic differentiation.

    python benchmarks/mass_branches.py                 # 600 cases, some 1,000 branches: ten minutes of one core
    python benchmarks/mass_branches.py --cases 22      # fewer; writes nothing

It goes on where it was. Figures go into ``benchmarks/results/mass_branches.json``, and from there into
``mass_branches.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch

from common import RESULTS, Figures, Record

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from branch_cases import KINDS, change, drawn, verdict

ALL = 600


def page(cases: Figures) -> str:
    """A line for each kind of branch."""
    lines = [
        "# The inertia law for parallel branches",
        "",
        "Random models at random points, widened by copies with shares of any sign and 0, in one group or two,",
        "and by null units. The law's counts, against the dense Hessian of the widened model",
        "(`mass_branches.py`). Unclear: the dense spectrum, or K, has a value too near to rounding to tell its",
        "sign.",
        "",
        "| kind | branches | cases | hold | unclear | wrong |",
        "|---|---|---|---|---|---|",
    ]
    total: Counter[str] = Counter()
    for name, case in cases.items():
        found = Counter({**case["found"], "branches": case["branches"]})
        total += found
        lines.append(_line(name, found))
    return "\n".join([*lines, _line("**all**", total), ""])


def _line(name: str, found: Counter[str]) -> str:
    said = [found[each] for each in ("holds", "unclear", "wrong")]
    parts = [found["branches"], sum(said), *said]
    return f"| {name} | {' | '.join(map(str, parts))} |"


def main() -> None:
    """Judge the cases that are not judged yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=ALL)
    parser.add_argument("--out", type=Path, help="JSON file; fewer cases write none otherwise")
    options = parser.parse_args()
    asked = options.cases
    torch.set_num_threads(1)
    out = options.out or (RESULTS / "mass_branches.json" if asked >= ALL else None)
    record = Record(out, page)
    for place, kind in enumerate(KINDS):
        seeds = range(place, asked, len(KINDS))
        before = record.cases.get(kind.name, {"found": {}, "wrong": [], "branches": 0})
        found, wrong = Counter(before["found"]), list(before["wrong"])
        branches = before["branches"]
        for number, seed in enumerate(seeds):
            if number < sum(found.values()):
                continue
            case = drawn(kind, seed)
            made = change(case, seed)
            said, what = verdict(case, made)
            branches += made.branches
            found[said] += 1
            if said == "wrong":
                wrong.append(f"seed {seed}: {what}")
            if number % 10 == 9 or number == len(seeds) - 1:
                figures = {"found": dict(found), "wrong": wrong, "branches": branches}
                record.keep(kind.name, figures)
                print(kind.name, dict(found), *wrong, flush=True)


if __name__ == "__main__":
    main()
