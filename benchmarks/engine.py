"""Searches in the compiled engine and in torch, side by side: seconds, statuses, and whether they agree.

    python benchmarks/engine.py                  # everything
    python benchmarks/engine.py --cases cores

Figures go into ``benchmarks/results/engine.json``, case by case, and from there into ``engine.md``. Every case
runs its peers one after the other in each round, in one process tree.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import semiflat as sf
from common import RESULTS, Figures, Record, header
from search_cases import problems
from semiflat.curvature.engine import EngineName

ENGINES: tuple[EngineName, ...] = ("native", "torch")


def diabetes(activation: str, width: int) -> sf.Problem:
    """The diabetes data, standardised, and one hidden layer."""
    data = sf.load_data("diabetes")
    return sf.Problem(sf.MLP([10, width, 1], activation), data.X, data.y)


def timed(
    search: Callable[[], sf.SearchResult], rounds: int
) -> tuple[list[float], sf.SearchResult]:
    """The seconds of each round, and the last result."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        result = search()
        seconds.append(time.perf_counter() - begun)
    return seconds, result


def both(problem: sf.Problem, starts: int, rounds: int) -> Figures:
    """A search in both engines on one thread, and the runs that ended apart."""
    found: Figures = {}
    results: dict[str, sf.SearchResult] = {}
    for engine in ENGINES:
        seconds, results[engine] = timed(
            lambda engine=engine: sf.run_search(problem, starts, processes=1, engine=engine),  # type: ignore[misc]
            rounds,
        )
        counts = {str(status): n for status, n in results[engine].counts.items() if n}
        found |= {f"{engine}_seconds": seconds, f"{engine}_counts": counts}
        print(f"  {engine:8} {statistics.median(seconds):8.2f} s  {counts}", flush=True)
    pairs = list(zip(*(results[engine].runs for engine in ENGINES), strict=True))
    found["apart"] = sum(one.status != other.status for one, other in pairs)
    found["engine"] = results["native"].runs[0].record.engine
    return found


def cores(rounds: int) -> Figures:
    """32 starts with one thread and with two."""
    problem = diabetes("tanh", 3)
    found: Figures = {}
    for threads in (1, 2):
        seconds, _ = timed(
            lambda threads=threads: sf.run_search(  # type: ignore[misc]
                problem, 32, processes=threads, engine="native"
            ),
            rounds,
        )
        found[f"threads_{threads}_seconds"] = seconds
        print(f"  {threads} thread(s) {statistics.median(seconds):8.2f} s", flush=True)
    return found


def students(rounds: int) -> Figures:
    """Case a of search_cases.py: 2-2-1 on 1,000 samples, a data set each, 64 starts."""
    case = problems("a", 64)
    net = case.problems[0].net
    found: Figures = {}
    for engine in ENGINES:
        seconds, result = timed(
            lambda engine=engine: sf.run_search(  # type: ignore[misc]
                case.problems if len(case.problems) > 1 else case.problems[0],
                start=net.unflatten(case.starts),
                processes=1,
                engine=engine,
            ),
            rounds,
        )
        counts = {str(status): n for status, n in result.counts.items() if n}
        found |= {f"{engine}_seconds": seconds, f"{engine}_counts": counts}
        print(f"  {engine:8} {statistics.median(seconds):8.2f} s  {counts}", flush=True)
    return found


def study(rounds: int) -> Figures:
    """`semiflat study --data diabetes`, whole commands."""
    found: Figures = {}
    for engine in ENGINES:
        seconds = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                begun = time.perf_counter()
                subprocess.run(
                    [
                        sys.executable,
                        "-m",
                        "semiflat",
                        "study",
                        "--data",
                        "diabetes",
                        "--out",
                        f"{folder}/s",
                    ],
                    check=True,
                    capture_output=True,
                    env={**os.environ, "SEMIFLAT_ENGINE": engine},
                )
                seconds.append(time.perf_counter() - begun)
        found[f"{engine}_seconds"] = seconds
        print(f"  {engine:8} {statistics.median(seconds):8.2f} s", flush=True)
    return found


CASES: dict[str, Callable[[int], Figures]] = {
    "a, 64 starts": students,
    "diabetes 10-3-1 tanh, 64 starts": lambda rounds: both(diabetes("tanh", 3), 64, rounds),
    "diabetes 10-3-1 gelu, 64 starts": lambda rounds: both(diabetes("gelu", 3), 64, rounds),
    "diabetes 10-4-1 softplus, 32 starts": lambda rounds: both(diabetes("softplus", 4), 32, 1),
    "cores": cores,
    "study": study,
}


def page(cases: dict[str, Figures]) -> str:
    """The figures as a page."""
    lines = ["# The compiled engine", "", "Median seconds; how often torch took as long.", ""]
    lines += [
        "| case | compiled | torch | ratio | statuses, compiled | apart |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in cases.items():
        keys = [key for key in figures if key.endswith("_seconds")]
        one, other = (statistics.median(figures[key]) for key in keys)
        if name == "cores":
            lines.append(
                f"| 32 starts on two threads, on one | {other:.2f} | {one:.2f} | {one / other:.2f} | | |"
            )
            continue
        counts = ", ".join(
            f"{n} {status}" for status, n in figures.get("native_counts", {}).items()
        )
        cells = [
            f"{one:.2f}",
            f"{other:.2f}",
            f"{other / one:.2f}",
            counts,
            str(figures.get("apart", "")),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    machine = next(iter(cases.values()))["machine"]
    return "\n".join([*lines, "", f"{machine['cpu']}, {machine['date']}.", ""])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--out", type=Path, default=RESULTS / "engine.json")
    options = parser.parse_args()
    if unknown := [name for name in options.cases if name not in CASES]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(CASES)}")
    torch.set_num_threads(1)
    header("searches, compiled and in torch")
    record = Record(options.out, page, list(CASES))
    for name in options.cases:
        print(name)
        record.keep(name, CASES[name](options.rounds))


if __name__ == "__main__":
    main()
