"""What every case of the search benchmark goes through: clock, machine, peers, printed lines."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import semiflat as sf
from common import Figures, machine
from search_cases import Case, problems
from search_figures import number
from search_peers import PEERS, Run, check_derivatives, run_peer
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian

skipped: list[str] = []
"""Peers and cases that could not be run, and why."""


def begin(
    name: str, count: int, options: argparse.Namespace
) -> tuple[Case, Callable[..., Figures]]:
    """Make a case, check the derivatives the peers will be given, and start its clock."""
    case = problems(name, count, options.seed)
    worst = check_derivatives(*case.pairs(1)[0])
    load, begun = os.getloadavg()[0], time.perf_counter()
    print(f"\n{name}: {case.title}\n  derivatives against autograd: {worst:.0e}", flush=True)

    def finish(protocol: str, tables: Figures, notes: list[str], **extra: Any) -> Figures:
        for note in notes:
            print(f"  {note}")
        times = {"load_before": load, "seconds": time.perf_counter() - begun}
        made = {"title": case.title, "protocol": protocol, "seed": options.seed, "tables": tables}
        return made | {"notes": notes, "machine": machine() | times} | extra

    return case, finish


def peer_runs(peer: str, case: Case, count: int, cap: float) -> list[Run]:
    """The first ``count`` starts, one after the other."""
    return [run_peer(PEERS[peer], problem, start, cap) for problem, start in case.pairs(count)]


def tell(peer: str, figures: Figures) -> Figures:
    """Print one line; hand the figures on."""
    ends = ", ".join(f"{status} {s['count']}" for status, s in figures["statuses"].items())
    norm = figures["gradient_norm"] or {"median": None}
    print(
        f"  {peer:22} {figures['seconds_per_run']:8.4f} s/run, {number(figures['seconds_per_done']):>8} "
        f"s/done, ‖∇R‖∞ {number(norm['median']):>8}; {ends}",
        flush=True,
    )
    return figures


def landscape(case: Case) -> Figures:
    """Critical points of any kind by semiflat, from the same starts."""
    problem = case.problems[0]
    begun = time.perf_counter()
    start = problem.net.unflatten(case.starts)
    result = sf.run_search(problem, start=start, kind="any", processes=1)
    return {
        "seconds": time.perf_counter() - begun,
        "counts": {str(status): n for status, n in result.counts.items() if n},
        "distinct": len(result.points),
        "losses": [point.loss for point in result.points],
        "gradient_norms": [point.gradient_norm for point in result.points],
    }


def call_times(case: Case) -> dict[str, float]:
    """Median seconds a network of the derivatives themselves: one network, and a batch of 64."""
    problem, out = case.problems[0], {}
    for words, rows in {"one by one": case.starts[0], "64 at once": case.starts[:64]}.items():
        params, networks = problem.net.unflatten(rows), rows.numel() // rows.shape[-1]
        for what, call in {
            "gradient": risk_gradient,
            "Gauss–Newton": risk_gradient_gauss_newton,
            "Hessian": risk_gradient_hessian,
        }.items():
            times = []
            for _ in range(20):
                begun = time.perf_counter()
                call(problem, params)
                times.append((time.perf_counter() - begun) / networks)
            out[f"{what}, {words}"] = statistics.median(times)
    return out


def topsearch(name: str, count: int, options: argparse.Namespace) -> Figures | None:
    """topsearch's own runs and landscape, or None where it is not installed."""
    command = [
        options.topsearch_python,
        "-W",
        "ignore",
        str(Path(__file__).with_name("search_topsearch.py")),
    ]
    command += ["--case", name, "--count", str(min(count, 64)), "--seed", str(options.seed)]
    if options.quick:
        command += ["--steps", "3", "--explore-seconds", "5"]
    threads = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL")}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        why = (
            "not installed"
            if done.returncode == 3
            else (done.stderr.strip() or "no output").splitlines()[-1]
        )
        skip(f"topsearch: {why}")
        return None
    figures: Figures = json.loads(done.stdout)
    return figures


def skip(what: str) -> None:
    skipped.append(what)
    print(f"  skipped: {what}", flush=True)
