"""Networks whose dense Hessians are large or too large: time, memory, and the gradient reached.

    python benchmarks/large.py                        # everything, about 20 minutes on one core
    python benchmarks/large.py --cases digits,judge
    python benchmarks/large.py --quick                # a smoke test; writes nothing

Cases: ``digits``, 64-64-10 on scikit-learn's digits (1,797 samples), one start to a gradient of 1e-10;
``wide``, 784-32-10 on 10,000 digits scaled up to 28 × 28 and shifted, to 1e-8; ``starts``, four starts of
64-64-10; ``judge``, verdicts on 64-32-10 (dense) and 64-64-10 (matrix-free). All are cross-entropy with weight
decay 1e-3, tanh. Each case runs in a process of its own, so that its peak memory is its own.

Figures go into ``benchmarks/results/large.json``, case by case, and from there into ``large.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

import semiflat as sf
from common import RESULTS, Figures, Record
from semiflat.search.large import forecast
from semiflat.verdicts.dispatch import judge_cost

CASES = ["digits", "wide", "starts", "judge"]
DECAY = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few samples and units")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measured(options.one, options.quick)))
        return
    out = options.out or (None if options.quick else RESULTS / "large.json")
    record = Record(out, page, CASES)
    for name in options.cases.split(","):
        if name not in CASES:
            parser.error(f"no case {name}; there are {', '.join(CASES)}")
        call = [sys.executable, __file__, "--one", name, "--threads", str(options.threads)]
        done = subprocess.run(
            call + ["--quick"] * options.quick, stdout=subprocess.PIPE, text=True, check=True
        )
        figures = json.loads(done.stdout)
        print(*lines(name, figures), sep="\n")
        record.keep(name, figures)


def measured(name: str, quick: bool) -> Figures:
    """A case's rows."""
    if name == "judge":
        rows = []
        for hidden in (4, 8) if quick else (32, 64):
            problem = digits(hidden, 200 if quick else 1797)
            run = sf.run_search(problem, 1, tolerance=1e-10, processes=1, method="newton_cg").runs[
                0
            ]
            words, begun = judge_cost(run).words, time.perf_counter()
            verdict = sf.judge(sf.Point(problem, run.params))
            seconds = time.perf_counter() - begun
            rows.append(row(problem, seconds, words, f"{verdict.kind}: {verdict.reason}", run))
        return {"rows": rows}
    starts, tolerance = (4 if name == "starts" else 1), (1e-8 if name == "wide" else 1e-10)
    problem = shifted(200 if quick else 10_000, 4 if quick else 32) if name == "wide" else None
    problem = problem or digits(8 if quick else 64, 200 if quick else 1797)
    words, begun = forecast(problem, starts).words, time.perf_counter()
    method = "newton_cg" if quick else None  # what is chosen at full size by itself
    found = sf.run_search(problem, starts, tolerance=tolerance, processes=1, method=method)
    seconds = time.perf_counter() - begun
    return {
        "rows": [
            row(problem, seconds, words, f"{run.status}: {run.record.evidence}", run)
            for run in found.runs
        ]
    }


def row(
    problem: sf.Problem, seconds: float, forecasted: str, said: str, run: sf.CriticalPoint
) -> Figures:
    return {
        "network": "-".join(map(str, problem.net.widths)),
        "parameters": problem.net.parameter_count,
        "samples": problem.samples,
        "seconds": seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "forecast": forecasted,
        "loss": run.loss,
        "gradient": run.gradient_norm,
        "steps": run.record.iterations,
        "said": said,
    }


def digits(hidden: int, samples: int) -> sf.Problem:
    """scikit-learn's digits, pixels from 0 to 1."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    net = sf.MLP([64, hidden, 10], "tanh")
    return sf.Problem(net, X[:samples] / 16, y[:samples], "cross_entropy", weight_decay=DECAY)


def shifted(samples: int, hidden: int) -> sf.Problem:
    """Digits scaled up to 28 × 28, drawn with repeats, each moved by up to 3 pixels either way; seed 0."""
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, len(X), (samples,), generator=generator)
    moves = torch.randint(-3, 4, (samples, 2), generator=generator).tolist()
    images = torch.as_tensor(X).double().reshape(-1, 1, 8, 8) / 16
    large = torch.nn.functional.interpolate(images, (22, 22), mode="bilinear")[:, 0]
    padded = torch.nn.functional.pad(large, (3, 3, 3, 3))[drawn]
    rows = [torch.roll(image, move, (0, 1)) for image, move in zip(padded, moves, strict=True)]
    net = sf.MLP([784, hidden, 10], "tanh")
    targets = torch.as_tensor(y)[drawn]
    return sf.Problem(
        net, torch.stack(rows).flatten(1), targets, "cross_entropy", weight_decay=DECAY
    )


def lines(name: str, figures: Figures) -> list[str]:
    return [
        f"{name}: {each['network']} ({each['parameters']:,} parameters, {each['samples']:,} samples)  "
        f"{each['seconds']:.1f} s  {each['peak_gib']:.2f} GiB  gradient {each['gradient']:.1e}  "
        f"{each['steps']} steps  {each['said']}"
        for each in figures["rows"]
    ]


def page(cases: Figures) -> str:
    text = [
        "# Large networks",
        "",
        "Made by `benchmarks/large.py`, in one process; seconds of several starts are of all together.",
    ]
    for name, figures in cases.items():
        on = figures["machine"]
        text += [
            "",
            f"## {name}",
            "",
            f"{on['date']}, {on['cpu']}, {on['torch_threads']} thread(s), torch {on['torch']}, load "
            f"{on['load_before']:.1f} before and {on['load_after']:.1f} after.",
            "",
            "| network | parameters | samples | seconds | peak GiB | gradient | steps | forecast |",
            "|---|---|---|---|---|---|---|---|",
            *(
                f"| {each['network']} | {each['parameters']:,} | {each['samples']:,} | "
                f"{each['seconds']:.1f} | {each['peak_gib']:.2f} | {each['gradient']:.1e} | "
                f"{each['steps']} | {each['forecast'] or 'not much'} |"
                for each in figures["rows"]
            ),
            "",
            *(f"- {each['said']}" for each in figures["rows"]),
        ]
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
