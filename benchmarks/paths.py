"""The path of P21 Thm 3 at N = 50, 100 and 200 samples: time, conditioning, largest increase of the loss.

The wide layer has exactly N units, the hardest case. Beside it, at the same point, the paper's own recipe:
an ε-perturbation, and then the inverse of what that leaves. Run: python benchmarks/paths.py
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from pathlib import Path

import torch

import semiflat as sf
from common import RESULTS, Figures, Record, header
from semiflat.paths.wide_layer import WideLayer

SIZES = (50, 100, 200)
SEEDS = range(3)


def problem(samples: int, inputs: int, activation: str, seed: int) -> sf.Problem:
    """Noisy targets of Gaussian inputs, N units in the first of two hidden layers."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn((samples, inputs), generator=generator).double()
    noise = torch.randn((samples, 1), generator=generator).double()
    net = sf.MLP([inputs, samples, 3, 1], activation)
    return sf.Problem(net, X, torch.sin(2 * X.sum(1, keepdim=True)) + 0.3 * noise)


def perturbed_condition(point: sf.Point, epsilon: float = 1e-3) -> float:
    """The condition number that P21's ε-perturbation leaves."""
    net = point.problem.net
    generator = torch.Generator().manual_seed(0)
    moved = {
        key: tensor + epsilon * torch.randn(tensor.shape, generator=generator).double()
        for key, tensor in point.params.items()
    }
    return WideLayer(net, point.problem.X, 0).condition(moved)


def run(samples: int, inputs: int, activation: str) -> Figures:
    """Medians and worst cases over the seeds."""
    rows = []
    for seed in SEEDS:
        p = problem(samples, inputs, activation, seed)
        point = sf.Point(p, p.net.random_params(seed))
        start = time.perf_counter()
        path = sf.path_to_zero_loss(point)
        rows.append(
            {
                "seconds": time.perf_counter() - start,
                "before": path.condition_before,
                "perturbed": perturbed_condition(point),
                "after": path.condition,
                "moved": path.exchanged,
                "increase": max(path.check.largest_increase, path.check.largest_change),
                "end": path.check.end / path.check.start,
            }
        )

    def median(name: str) -> float:
        return statistics.median(row[name] for row in rows)

    def finite(value: float) -> float | None:
        return value if value < float("inf") else None

    return {
        "widths": [inputs, samples, 3, 1],
        "activation": activation,
        "seconds": median("seconds"),
        "condition_before": finite(median("before")),
        "condition_perturbed": finite(median("perturbed")),
        "condition": max(row["after"] for row in rows),
        "units_moved": median("moved"),
        "largest_increase": max(row["increase"] for row in rows),
        "end_over_start": max(row["end"] for row in rows),
    }


def table(rows: list[Figures]) -> str:
    """The results as Markdown."""

    def number(value: object) -> str:
        return "singular" if value is None else f"{value:.1e}"

    lines = [
        "| network | seconds | condition at first | after P21's ε = 1e-3 | after Γ0 (worst) | units moved | "
        "largest increase (worst) | loss at the end / at the start |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = "-".join(map(str, row["widths"])) + f" {row['activation']}"
        lines.append(
            f"| {name} | {row['seconds']:.2f} | {number(row['condition_before'])} | "
            f"{number(row['condition_perturbed'])} | {number(row['condition'])} | "
            f"{row['units_moved']:.0f} | {number(row['largest_increase'])} | "
            f"{number(row['end_over_start'])} |"
        )
    return "\n".join(lines)


def page(cases: dict[str, Figures]) -> str:
    """The figures in Markdown."""
    where = next(iter(cases.values()))["machine"]
    return (
        "# Paths to zero loss\n\nBy `benchmarks/paths.py`, "
        f"{where['cpu']}, {where['torch_threads']} thread(s); exactly N units in the wide layer; medians of "
        "three data sets, or the worst of them where it says so. The loss is measured along the whole path, "
        f"at adaptive resolution, relative to that at the start.\n\n{table(list(cases.values()))}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "paths.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    header("Paths to zero loss")
    asked = list(itertools.product((2, 10), ("tanh", "sigmoid"), SIZES))
    record = Record(arguments.out, page, [f"{d}-{n}-3-1 {act}" for d, act, n in asked])
    for inputs, activation, samples in asked:
        found = run(samples, inputs, activation)
        print(table([found]).splitlines()[-1], flush=True)
        record.keep(f"{inputs}-{samples}-3-1 {activation}", found)


if __name__ == "__main__":
    main()
