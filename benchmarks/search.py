"""The search against its peers on the cases of ``search_cases.py``: time, where runs end, how well.

Peers are SciPy's BFGS, trust-exact and least_squares, torch's LBFGS, and topsearch (in an environment
of its own, see ``search_topsearch.py``). All run in one process tree, one after the other.

    python benchmarks/search.py                      # everything, about 40 minutes on two cores
    python benchmarks/search.py --quick              # a smoke test; writes nothing
    python benchmarks/search.py --cases a,cn --count 200

Figures go into ``benchmarks/results/search.json``, case by case, and from there into ``search.md``.
Cases: a, b (small students), c, cn (a thousand deep networks, without and with noise), d (diabetes, digits).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from common import RESULTS, Figures, Record
from search_cases import ACTIVATIONS
from search_figures import (
    against,
    at_infinity,
    gain_words,
    gains,
    infinity_words,
    middle,
    number,
    page,
    summary,
)
from search_parts import begin, call_times, landscape, peer_runs, skip, skipped, tell, topsearch
from search_peers import PEERS, Run, run_semiflat


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default="a,b,c,cn,d")
    parser.add_argument("--count", type=int, default=1000, help="networks of c and of cn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="every case at its smallest")
    parser.add_argument("--topsearch-python", default=sys.executable, help="where topsearch is")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS / "search.json")
    measures = {"a": student, "b": rosenbrock, "c": deep, "cn": deep, "d": real}
    asked = options.cases.split(",")
    if unknown := [name for name in asked if name not in measures]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(measures)}")
    torch.set_num_threads(1)
    record = Record(out, page)
    with threadpool_limits(1):
        for name in asked:
            for title, measured in measures[name](name, options).items():
                record.keep(title, measured)
    print(f"\n{len(skipped)} peer(s) or case(s) skipped" + "".join(f"\n  {s}" for s in skipped))


def student(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    """Case a: time per converged run, every peer from the same starts in every round."""
    count, rounds = (8, 1) if options.quick else (256, 3)
    case, watch = begin(name, count, options)
    semi: list[Figures] = []
    others: dict[str, list[Figures]] = {peer: [] for peer in PEERS}
    run_semiflat(case.problems, case.starts[:2], 1)
    for _ in range(rounds):
        runs, seconds = run_semiflat(case.problems, case.starts, 1)
        semi.append(tell("semiflat", summary(runs, seconds)))
        for peer in PEERS:
            others[peer].append(tell(peer, summary(peer_runs(peer, case, count, 5.0))))
    table = {"semiflat": middle(semi)}
    for peer, figures in others.items():
        table[peer] = middle(figures, semi)
    notes = [
        f"{peer}: {number(table[peer].get('ratio_per_done'))} times semiflat's seconds per run that is "
        f"done, {number(table[peer].get('ratio_per_run'))} times per run of any end"
        for peer in PEERS
    ]
    own, calls = landscape(case), call_times(case)
    notes += [f"one call: {key} {1e3 * value:.3g} ms a network" for key, value in calls.items()]
    notes.append(
        f"critical points of any kind by semiflat, from the same starts: {own['distinct']} distinct in "
        f"{own['seconds']:.1f} s; runs " + ", ".join(f"{k} {n}" for k, n in own["counts"].items())
    )
    extra: Figures = {"calls": calls, "landscape": own}
    foreign = topsearch(name, count, options)
    if foreign is not None:
        runs = [Run(**run) for run in foreign.pop("runs")]
        table["topsearch minimiser"] = middle([tell("topsearch", summary(runs))], semi)
        extra["topsearch"] = foreign
        there = foreign["landscape"]
        notes.append(
            f"topsearch's exploration: {there['minima']['distinct']} distinct minima and "
            f"{there['transition_states']['distinct']} distinct transition states in "
            f"{there['seconds']:.1f} s, ‖∇R‖∞ median {number(there['minima']['gradient_norm_median'])}; "
            f"NumPy {foreign['versions']['numpy']}"
        )
    protocol = (
        f"{count} starts of deviation 1/√fan_in, the same for all, {rounds} round(s), medians of rounds "
        "and of ratios within a round. semiflat takes all starts as one search in one process; peers "
        "one after the other, at most 5 s each."
    )
    return {"a": watch(protocol, {"same starts": table}, notes, **extra)}


def rosenbrock(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    """Case b: how 10 and 50 starts end, and where."""
    counts = (2,) if options.quick else (10, 50)
    case, watch = begin(name, counts[-1], options)
    cap = 0.5 if options.quick else 5.0
    peers = {
        peer: peer_runs(peer, case, counts[-1], cap) for peer in ("SciPy trust-exact", "SciPy BFGS")
    }
    tables, notes, listed = {}, [], {}
    for count in counts:
        runs, seconds = run_semiflat(case.problems, case.starts[:count], 1)
        table = {"semiflat": tell("semiflat", summary(runs, seconds))}
        for peer, found in peers.items():
            table[peer] = against(tell(peer, summary(found[:count])), table["semiflat"])
            notes.append(f"{count} starts, limits against {peer}: {gain_words(gains(runs, found))}")
        tables[f"{count} starts"] = table
        listed[str(count)] = {
            "semiflat": [asdict(run) for run in runs],
            **{peer: [asdict(run) for run in found[:count]] for peer, found in peers.items()},
        }
        notes.append(f"{count} starts: {infinity_words(at_infinity(runs))}")
    protocol = f"Starts of deviation 1/√fan_in; one process; peers at most {cap:g} s a run."
    return {"b": watch(protocol, tables, notes, runs=listed)}


def deep(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    """Cases c and cn: many networks, each on its own data, over two processes."""
    count = min(4, options.count) if options.quick else options.count
    subset = min(count, 2 if options.quick else 50)
    case, watch = begin(name, count, options)
    processes = 2 if count > 64 else 1  # a block of 64 starts is not divided
    runs, wall = run_semiflat(case.problems, case.starts, processes)
    table = {"semiflat": tell("semiflat", summary(runs, processes * wall))}
    cap = processes * wall / count
    away = at_infinity(runs)
    notes = [
        f"{wall:.0f} s wall time for {count} networks on {processes} process(es)",
        infinity_words(away),
    ]
    gained = {}
    for peer in ("SciPy BFGS", "SciPy trust-exact"):
        found = peer_runs(peer, case, subset, cap)
        table[peer] = against(tell(peer, summary(found)), table["semiflat"])
        gained[peer] = gains(runs, found)
        lower = [run.loss < other.loss for run, other in zip(runs, found, strict=False)]
        notes.append(f"limits against {peer}: {gain_words(gained[peer])}")
        notes.append(f"{sum(lower)} of {len(lower)} semiflat runs end lower than {peer}'s")
    protocol = (
        f"{count} networks, each with its own data and one start. semiflat on {processes} "
        f"process(es), each one's seconds counted; peers on the first {subset} networks, "
        f"cut off after semiflat's time per run, {cap:.2f} s."
    )
    extra = {"wall_seconds": wall, "at_infinity": away, "gains": gained}
    return {name: watch(protocol, {"all": table}, notes, **extra)}


def real(name: str, options: argparse.Namespace) -> dict[str, Figures]:
    """Case d: data that was measured, several activations; and classes with weight decay."""
    count, few, cap = (2, 1, 0.5) if options.quick else (32, 8, 2.0)
    peers: tuple[str, ...] = ("SciPy trust-exact", "SciPy BFGS")
    measured = {
        f"d {activation}": real_case(f"diabetes-{activation}", count, few, cap, peers, options)
        for activation in ACTIVATIONS
    }
    count, few, cap = (2, 1, 1.0) if options.quick else (16, 4, 20.0)
    try:
        digits = real_case("digits", count, few, cap, (*peers, "torch LBFGS"), options)
    except NotImplementedError as error:
        digits = {"unavailable": str(error)}
        skip(f"digits: {error}")
    return measured | {"d digits": digits}


def real_case(
    name: str,
    count: int,
    few: int,
    cap: float,
    peers: tuple[str, ...],
    options: argparse.Namespace,
) -> Figures:
    case, watch = begin(name, count, options)
    runs, seconds = run_semiflat(case.problems, case.starts, 1)
    table = {"semiflat": tell("semiflat", summary(runs, seconds))}
    for peer in peers:
        found = summary(peer_runs(peer, case, few, cap))
        table[peer] = against(tell(peer, found), table["semiflat"])
    protocol = (
        f"{count} starts of deviation 1/√fan_in; one process; peers from the first {few}, at most "
        f"{cap:g} s a run."
    )
    return watch(protocol, {"all": table}, [infinity_words(at_infinity(runs))])


if __name__ == "__main__":
    main()
