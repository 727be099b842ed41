"""The benchmarks run again, figure by figure beside what is recorded in ``benchmarks/results``.

    python benchmarks/compare.py                     # all that are recorded: about fifty minutes
    python benchmarks/compare.py paths induced       # these
    python benchmarks/compare.py paths --new build/bench      # measured already, into that folder

Seconds, memory and file sizes are better lower; what is certified, told apart or done is better higher. A
figure that is worse by more than ``--factor`` is marked, and so is a case that went missing; then the exit code
is 1. A record holds for its machine, which is printed beside this one: where they differ, so do the figures.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import RESULTS, Figures, cpu_model, read

LOWER = ("seconds", "bytes", "peak", "gibibytes")
HIGHER = ("certified", "distinct", "done", "limit_reached")
BELOW = 1e-3
"""Seconds that are not compared: the clock and the machine decide them."""


@dataclass(frozen=True)
class Ratio:
    """One figure: what is recorded and what is found now."""

    name: str
    recorded: float
    now: float
    higher_is_better: bool

    @property
    def worse_by(self) -> float:
        """How many times worse it is now; below 1 it is better."""
        better, worse = (
            (self.now, self.recorded) if self.higher_is_better else (self.recorded, self.now)
        )
        return worse / better if better else float("inf") if worse else 1.0


def figures(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in the figures of a case by their place; of rounds the median."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in ("machine", "aims"):
                yield from figures(each, f"{name}.{key}" if name else key)
    elif isinstance(value, list):
        if value and all(isinstance(each, int | float) for each in value):
            yield name, statistics.median(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield name, float(value)


def ratios(recorded: Figures, now: Figures) -> Iterator[Ratio]:
    """The figures of a case for which it is known which way is better, and that both have."""
    found = dict(figures(now))
    for name, value in figures(recorded):
        last = name.split(".")[-1].removesuffix("_rounds")
        lower = last in LOWER or last.startswith("seconds") or last.endswith(("_seconds", "_bytes"))
        if name not in found or not (lower or last in HIGHER):
            continue
        if lower and "seconds" in last and max(value, found[name]) < BELOW:
            continue
        yield Ratio(name, value, found[name], not lower)


def compared(recorded: dict[str, Figures], now: dict[str, Figures], factor: float) -> list[str]:
    """Prints every ratio; what is worse by more than ``factor``, or missing, in words."""
    worse = []
    for case, figures_of_case in recorded.items():
        if case not in now:
            worse.append(f"{case}: not measured")
            continue
        print(f"\n{case}")
        for ratio in ratios(figures_of_case, now[case]):
            bad = ratio.worse_by > factor
            print(
                f"{'!' if bad else ' '} {ratio.name:52} {ratio.recorded:12.5g} {ratio.now:12.5g} "
                f"  {ratio.now / ratio.recorded if ratio.recorded else float('nan'):6.2f}"
            )
            if bad:
                worse.append(f"{case}: {ratio.name} is worse by {ratio.worse_by:.2f}")
    return worse


def machines(cases: dict[str, Figures]) -> str:
    """The processors that the cases are of, and when."""
    found = [case["machine"] for case in cases.values()]
    return ", ".join(sorted({f"{each['cpu']} ({each['date']})" for each in found}))


def main() -> None:
    names = sorted(file.stem for file in RESULTS.glob("*.json"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"of {', '.join(names)}; all by default")
    parser.add_argument(
        "--factor", type=float, default=1.5, help="worse by more than this is marked"
    )
    parser.add_argument("--new", type=Path, help="folder of figures that are measured already")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(
            f"nothing is recorded of {', '.join(sorted(unknown))}; there are {', '.join(names)}"
        )
    folder = options.new or Path(__file__).parents[1] / "build" / "bench"
    worse = []
    for name in options.names or names:
        file = folder / f"{name}.json"
        if options.new is None:
            file.unlink(missing_ok=True)
            command = [sys.executable, "-m", name, "--out", str(file.resolve())]
            subprocess.run(command, check=True, cwd=Path(__file__).parent)
        recorded, now = read(RESULTS / f"{name}.json"), read(file)
        print(f"\n== {name}: recorded, now, now/recorded")
        worse += [f"{name}, {text}" for text in compared(recorded, now, options.factor)]
        print(f"\nrecorded on {machines(recorded)}; now on {cpu_model()}")
    if worse:
        print(
            f"\n{len(worse)} figure(s) worse by more than {options.factor:g}:", *worse, sep="\n  "
        )
    sys.exit(bool(worse))


if __name__ == "__main__":
    main()
