"""What proving and checking a critical point cost, and how many points of a study are proved.

Four networks, each at a nondegenerate minimum that a search finds (again in every run, about a minute in
all): targets of a teacher of the same architecture, noise, and a small weight decay, so that nothing runs
to infinity. Proving and checking are timed in processes of their own, one thread each, so that the peak of
memory is that of the one job; the checker's loads neither torch nor NumPy. It needs Linux's /proc.

    python benchmarks/certificates.py                # everything, about six minutes
    python benchmarks/certificates.py --quick        # a smoke test; writes nothing
    python benchmarks/certificates.py --cases 37-deep,diabetes

Figures go into ``benchmarks/results/certificates.json``, case by case, and from there into ``certificates.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from threadpoolctl import threadpool_limits

import semiflat as sf
from common import RESULTS, Figures, Record

THREADS = {f"{kind}_NUM_THREADS": "1" for kind in ("OMP", "OPENBLAS", "MKL")}

MEMORY = """
import json, sys, time
def memory():
    # Not getrusage: what it says of a process begins with the peak of the one that started it.
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return {key: 1024 * int(lines[name].split()[0]) for key, name in (("peak", "VmHWM"), ("now", "VmRSS"))}
"""

PROVE = """
import numpy, torch
torch.set_num_threads(1)
import semiflat as sf
data, rounds, out = numpy.load(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
point = sf.load_point(sys.argv[1]).point(data["X"], data["y"])
before, seconds = memory()["now"], []
for _ in range(rounds + 1):
    begun = time.perf_counter()
    certificate = sf.certify(point)
    seconds.append(time.perf_counter() - begun)
peak, begun = memory()["peak"], time.perf_counter()
if certificate.certified:
    certificate.save(out)
writing = time.perf_counter() - begun
notes = certificate.document.get("notes", {})
print(json.dumps({
    "first": seconds[0], "writing": writing, "seconds": seconds[1:], "peak": peak, "before": before,
    "status": certificate.status, "reason": certificate.reason, "kind": certificate.kind,
    "location": certificate.location, "unique": certificate.unique, "method": notes.get("method"),
    "contraction": notes.get("found", {}).get("contraction"), "versions": notes,
}))
"""

CHECK = """
from semiflat.certificates.checker.verify import verify
rounds = int(sys.argv[2])
before, seconds = memory()["now"], []
for _ in range(rounds):
    begun = time.perf_counter()
    said = verify(sys.argv[1])
    seconds.append(time.perf_counter() - begun)
peak = memory()["peak"]
assert not {"torch", "numpy"} & sys.modules.keys()
print(json.dumps({
    "seconds": seconds, "peak": peak, "before": before, "status": said.status, "reason": said.reason,
}))
"""


@dataclass(frozen=True)
class Case:
    """A network, its data, and what proving and checking ought to cost.

    Attributes:
        prove, check: seconds aimed at, or None.
        rounds: how often each is timed.
    """

    widths: tuple[int, ...]
    samples: int
    prove: float
    check: float | None
    rounds: tuple[int, int]
    decay: float = 1e-3

    @property
    def title(self) -> str:
        """How the point was made, in words."""
        return (
            f"{'-'.join(map(str, self.widths))} tanh, squared loss, weight decay {self.decay:g}, "
            f"{self.samples} samples"
        )

    def problem(self, seed: int) -> sf.Problem:
        """Inputs N(0, 1); a teacher of the same architecture with weights N(0, 1), standardised; noise 0.1."""
        generator = np.random.default_rng([seed, *self.widths])
        X = torch.from_numpy(generator.standard_normal((self.samples, self.widths[0])))
        net = sf.MLP(self.widths, "tanh")
        teacher = torch.from_numpy(generator.standard_normal(net.parameter_count))
        y = net.forward(net.unflatten(teacher), X)
        y = (y - y.mean()) / y.std(correction=0)
        y = y + 0.1 * torch.from_numpy(generator.standard_normal((self.samples, 1)))
        return sf.Problem(net, X, y, weight_decay=self.decay)


CASES = {
    "37-deep": Case((2, 4, 4, 1), 100, 0.010, 0.3, (31, 31)),
    "37-shallow": Case((10, 3, 1), 100, 0.010, 0.3, (31, 31)),
    "369": Case((4, 16, 16, 1), 1000, 0.65, 10.0, (9, 5)),
    "1001": Case((8, 100, 1), 1000, 4.3, None, (5, 3)),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join([*CASES, "diabetes"]))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="small cases, few rounds")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    options = parser.parse_args()
    out = options.out or (None if options.quick else RESULTS / "certificates.json")
    asked = options.cases.split(",")
    if unknown := [name for name in asked if name not in (*CASES, "diabetes")]:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join([*CASES, 'diabetes'])}")
    if options.quick:
        asked = [name for name in asked if name not in ("369", "1001")]
    torch.set_num_threads(1)
    record = Record(out, page, (*CASES, "diabetes"))
    with threadpool_limits(1):
        for name in asked:
            record.keep(name, study(options) if name == "diabetes" else timed(CASES[name], options))
    if not out:
        print("\n" + page(record.cases))


def timed(case: Case, options: argparse.Namespace) -> Figures:
    """Find the point, prove it, check the proof."""
    problem = case.problem(options.seed)
    print(f"\n{case.title}", flush=True)
    begun = time.perf_counter()
    result = sf.run_search(problem, starts=1, seed=options.seed, processes=1)
    point, searching = result.runs[0], time.perf_counter() - begun
    print(
        f"  found in {searching:.1f} s: {point.status}, ‖∇R‖∞ {point.gradient_norm:.1e}", flush=True
    )
    prove_rounds, check_rounds = (3, 3) if options.quick else case.rounds
    with tempfile.TemporaryDirectory() as folder:
        stored, file = Path(folder) / "point.safetensors", Path(folder) / "certificate.json"
        data = Path(folder) / "data.npz"
        sf.save_point(point, stored)
        np.savez(data, X=problem.X.numpy(), y=problem.y.numpy())
        proved = _worker(PROVE, stored, data, prove_rounds, file)
        print(f"  {_told('prove', proved, case.prove)}; {proved['method']}", flush=True)
        checked, size = None, None
        if proved["status"] == "certified":
            checked, size = _worker(CHECK, file, check_rounds), file.stat().st_size
            print(f"  {_told('check', checked, case.check)}; {size / 1e6:.2f} MB", flush=True)
        else:
            print(f"  {proved['reason']}", flush=True)
    return {
        "title": case.title,
        "parameters": problem.net.parameter_count,
        "samples": case.samples,
        "seed": options.seed,
        "aims": {"prove": case.prove, "check": case.check},
        "search": {"seconds": searching, "status": str(point.status), "norm": point.gradient_norm},
        "prove": proved,
        "check": checked,
        "file_bytes": size,
    }


def study(options: argparse.Namespace) -> Figures:
    """How many of the points that a study with its defaults finds are proved, and why others are not."""
    starts = 16 if options.quick else 64
    data = sf.load_data("diabetes")
    problem = sf.Problem(sf.MLP([10, 3, 1], "gelu"), data.X, data.y)
    result = sf.run_search(
        problem, starts=starts, seed=options.seed, max_iterations=500, processes=1
    )
    seconds, found = [], []
    for point in result.points:
        begun = time.perf_counter()
        found.append(sf.certify(point))
        seconds.append(time.perf_counter() - begun)
    proved = [certificate for certificate in found if certificate.certified]
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / f"{k}.json" for k in range(len(proved))]
        for certificate, file in zip(proved, files, strict=True):
            certificate.save(file, data=Path(folder) / "data.json")
        begun = time.perf_counter()
        distinct = sf.verify_distinct(files)
        checking = time.perf_counter() - begun
    figures = {
        "title": f"diabetes, 10-3-1 gelu, 442 samples, {starts} starts, as `make study` finds them",
        "seed": options.seed,
        "counts": {str(status): n for status, n in result.counts.items() if n},
        "points": len(found),
        "certified": len(proved),
        "kinds": dict(Counter(certificate.kind for certificate in proved)),
        "undecided": [certificate.reason for certificate in found if not certificate.certified],
        "seconds": seconds,
        "distinct": distinct.at_least,
        "distinct_seconds": checking,
    }
    print(f"\n{figures['title']}\n  " + "\n  ".join(_study_words(figures)), flush=True)
    return figures


def _worker(code: str, *arguments: object) -> Figures:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | THREADS,
    )
    if done.returncode:
        raise SystemExit(f"a worker failed:\n{done.stderr}")
    figures: Figures = json.loads(done.stdout)
    return figures


def _told(what: str, figures: Figures, aim: float | None) -> str:
    spent = figures["seconds"]
    return (
        f"{what}: {figures['status']}, median {_time(statistics.median(spent))} (min {_time(min(spent))}, "
        f"max {_time(max(spent))}, {len(spent)} runs; aim {_time(aim)}), peak {_memory(figures['peak'])}"
    )


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.3g} ms" if seconds < 0.1 else f"{seconds:.3g} s"


def _memory(size: int) -> str:
    return f"{size / 2**20:.0f} MiB"


def page(cases: Figures) -> str:
    """The figures in Markdown."""
    lines = [
        "# What certificates cost",
        "",
        "Made by `python benchmarks/certificates.py` from `certificates.json` beside it; do not edit.",
        "",
        "Each network is at a minimum found from one start: inputs N(0, 1), targets of a teacher of the same "
        "architecture with weights N(0, 1), standardised, and noise of deviation 0.1. *Prove* is one call of "
        "`certify`, *check* one of `verify` with the reading of the file, both on one thread; medians, in "
        "brackets the shortest and longest. *Peak* is the most memory of the whole process, in brackets what "
        "it held before: Python, torch, NumPy and the data for proving, Python and python-flint for checking. "
        "The *contraction* is the largest row sum of |QᵀH(X)Q − S| that was found; below 1 is what is needed, "
        "and the box is made about as wide as it is near a hundredth.",
        "",
    ]
    rows = [of for of in cases.values() if "prove" in of]
    if rows:
        lines += [
            "| network | parameters × samples | prove | aim | check | aim | contraction | peak, prove | "
            "peak, check | file | verdict |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        lines += [_row(of) for of in rows] + [""]
        lines += [_search_words(of) for of in rows] + [""]
    if "diabetes" in cases:
        of = cases["diabetes"]
        lines += [f"## {of['title']}", "", *(f"- {words}" for words in _study_words(of)), ""]
    lines += [_machine(name, of["machine"]) for name, of in cases.items()]
    return "\n".join(lines) + "\n"


def _row(of: Figures) -> str:
    proved, checked = of["prove"], of["check"]
    cells = [
        of["title"].split(" ")[0],
        f"{of['parameters']} × {of['samples']}",
        _spread(proved),
        _time(of["aims"]["prove"]),
        "–" if checked is None else _spread(checked),
        _time(of["aims"]["check"]),
        "–" if proved["contraction"] is None else f"{proved['contraction']:.2g}",
        f"{_memory(proved['peak'])} ({_memory(proved['before'])})",
        "–" if checked is None else f"{_memory(checked['peak'])} ({_memory(checked['before'])})",
        "–" if of["file_bytes"] is None else f"{of['file_bytes'] / 1e6:.2f} MB",
        (proved["kind"] or proved["status"]).lower().replace("_", " ")
        + ("" if checked is None or checked["status"] == "certified" else f", {checked['status']}"),
    ]
    return "| " + " | ".join(cells) + " |"


def _spread(figures: Figures) -> str:
    spent = figures["seconds"]
    return f"{_time(statistics.median(spent))} ({_time(min(spent))} – {_time(max(spent))})"


def _search_words(of: Figures) -> str:
    found, proved = of["search"], of["prove"]
    if proved["status"] != "certified":
        return f"- {of['title']}: {proved['status']}: {proved['reason']}"
    return (
        f"- {of['title']}: the search took {_time(found['seconds'])} ({found['status']}, ‖∇R‖∞ "
        f"{found['norm']:.1e}); by {proved['method']} the critical point is within {proved['location']:.1e} of "
        f"the centre, the only one within {proved['unique']:.1e}; the first proof in a process takes "
        f"{_time(proved['first'])}, writing the file {_time(proved['writing'])}; "
        f"{len(proved['seconds'])} proofs, {len(of['check']['seconds'])} checks"
    )


def _study_words(of: Figures) -> list[str]:
    ends = ", ".join(f"{n} {status}" for status, n in of["counts"].items())
    kinds = ", ".join(f"{n} {kind.lower().replace('_', ' ')}" for kind, n in of["kinds"].items())
    return [
        f"runs: {ends}; {of['points']} distinct points",
        f"certified: {of['certified']} of {of['points']} "
        f"({100 * of['certified'] / max(1, of['points']):.0f} %): {kinds or 'none'}; "
        f"{_time(statistics.median(of['seconds']))} a point in the median",
        f"proved distinct modulo symmetries: {of['distinct']} of {of['certified']}, checked in "
        f"{_time(of['distinct_seconds'])}",
        *(f"undecided: {reason}" for reason in of["undecided"]),
    ]


def _machine(name: str, found: Figures) -> str:
    return (
        f"*{name}: {found['date']}; {found['cpu']}, {found['cores']} cores, load "
        f"{found['load_before']:.1f} before and {found['load_after']:.1f} after; Python "
        f"{found['python']}, torch {found['torch']}, NumPy {found['numpy']}, BLAS threads "
        f"{found['blas_threads']}; {found['seconds']:.0f} s.*\n"
    )


if __name__ == "__main__":
    main()
