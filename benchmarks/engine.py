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
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

import semiflat as sf
from common import RESULTS, Figures, Record, header
from search_cases import problems
from search_peers import run_peer, run_semiflat, trust_exact
from semiflat.curvature.engine import EngineName, using

ENGINES: tuple[EngineName, ...] = ("native", "torch")
PEERS: dict[str, EngineName] = {"trust-exact": "torch", "trust-exact, compiled": "native"}
"""SciPy's trust-exact, on the derivatives of which engine."""


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
    """Case a of search_cases.py: 2-2-1 on 1,000 samples, a data set each; and SciPy's trust-exact on it."""
    case = problems("a", 64)
    run_semiflat(case.problems, case.starts[:2], 1)
    found: Figures = {f"{name}_seconds": [] for name in (*ENGINES, *PEERS)}
    for _ in range(rounds):
        for engine in ENGINES:
            with using(engine):
                runs, seconds = run_semiflat(case.problems, case.starts, 1)
            found[f"{engine}_seconds"].append(seconds)
            found[f"{engine}_counts"] = dict(Counter(run.status for run in runs))
        for name, engine in PEERS.items():
            ended = [run_peer(trust_exact, *pair, engine=engine) for pair in case.pairs()]
            found[f"{name}_seconds"].append(sum(run.seconds for run in ended))
            found[f"{name}_counts"] = dict(Counter(run.status for run in ended))
    for name in (*ENGINES, *PEERS):
        print(f"  {name:22} {statistics.median(found[f'{name}_seconds']):8.2f} s", flush=True)
    return found


def deep(name: str) -> Figures:
    """Case c or cn of search_cases.py: 2-4-6-4-1, the first 200 networks, over all cores."""
    case = problems(name, 200)
    with using("native"):
        runs, seconds = run_semiflat(case.problems, case.starts, os.cpu_count() or 1)
    counts = dict(Counter(run.status for run in runs))
    print(f"  native {seconds:8.1f} s  {counts}", flush=True)
    critical = [run for run in runs if run.status in ("CHANNEL", "SATURATED")]
    worst = max(
        (run.limit_gradient_norm for run in critical if run.limit_gradient_norm is not None),
        default=None,
    )
    return {
        "native_seconds": [seconds],
        "native_counts": counts,
        "worst_gradient_of_a_limit": worst,
    }


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
    "c, 200 networks": lambda rounds: deep("c"),
    "c′, 200 networks": lambda rounds: deep("cn"),
    "cores": cores,
    "study": study,
}


def page(cases: dict[str, Figures]) -> str:
    """The figures as a page."""
    lines = [
        "# The compiled engine",
        "",
        "Median seconds of whole searches; of `cores`, with 1 and 2 threads.",
        "",
    ]
    lines += ["| case | seconds | statuses, compiled | ended apart |", "|---|---|---|---|"]
    for name, figures in cases.items():
        seconds = {
            key.removesuffix("_seconds"): statistics.median(each)
            for key, each in figures.items()
            if key.endswith("_seconds")
        }
        first = next(iter(seconds.values()))
        times = "; ".join(
            f"{who} {each:.3g} ({each / first:.2g}×)" for who, each in seconds.items()
        )
        counts = ", ".join(
            f"{n} {status}" for status, n in figures.get("native_counts", {}).items()
        )
        lines.append(f"| {name} | {times} | {counts} | {figures.get('apart', '')} |")
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
