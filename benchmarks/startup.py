"""How long a command takes on a small point, beside importing torch alone.

A new process each time, the peers in turn in every round: the median of the time on the clock, and of that of
the processor, which what else runs on the machine changes less. Written to ``results/startup.json``, with a
page of it. Run: python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import RESULTS, Figures, Record, header

AIM = 0.4
"""Seconds that judging a small point may take beyond importing torch."""
PEERS = {
    "import torch": ["-c", "import torch"],
    "semiflat --version": ["-m", "semiflat", "--version"],
    "semiflat judge, diabetes": ["-m", "semiflat", "judge", "diabetes/p0.safetensors"],
    "semiflat judge, a .csv": ["-m", "semiflat", "judge", "table/p0.safetensors"],
}


def run(arguments: list[str], folder: str) -> tuple[float, float]:
    """Seconds on the clock and of the processor that a new process takes."""
    before, start = os.times(), time.perf_counter()
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, capture_output=True)
    spent, after = time.perf_counter() - start, os.times()
    own = after.children_user + after.children_system
    return spent, own - before.children_user - before.children_system


def prepare(folder: str) -> None:
    """Two small points: of a bundled data set, and of a table."""
    rows = [
        f"{k % 7},{k % 5},{(k % 7) * 0.5 - (k % 5) ** 2 * 0.1 + (k % 3) * 0.2}" for k in range(60)
    ]
    Path(folder, "table.csv").write_text("\n".join(["a,b,y", *rows]) + "\n", encoding="utf-8")
    for data, out in (("diabetes", "diabetes"), ("table.csv", "table")):
        find = ["find", "--data", data, "--hidden", "1", "--starts", "4", "--out", out]
        run(["-m", "semiflat", *find, "--processes", "1"], folder)


def measured(rounds: int) -> Figures:
    """Medians of each peer, and what a judge takes beyond torch, as medians of the differences in a round."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in PEERS}
    with tempfile.TemporaryDirectory() as folder:
        prepare(folder)
        for number in range(rounds + 1):
            for name, arguments in PEERS.items():
                times = run(arguments, folder)
                if number:  # the first reads the files from the disk
                    spent[name].append(times)
    figures: Figures = {"rounds": rounds, "aims": {"beyond_torch_seconds": AIM}}
    for name, times in spent.items():
        beyond = [
            tuple(a - b for a, b in zip(own, torch, strict=True))
            for own, torch in zip(times, spent["import torch"], strict=True)
        ]
        figures[name] = {
            "clock_seconds": statistics.median(clock for clock, _ in times),
            "processor_seconds": statistics.median(cpu for _, cpu in times),
            "beyond_torch_clock": statistics.median(clock for clock, _ in beyond),
            "beyond_torch_processor": statistics.median(cpu for _, cpu in beyond),
        }
    return figures


def page(cases: dict[str, Figures]) -> str:
    """The figures as a page."""
    figures = cases["commands"]
    lines = [
        "# What a command takes from its start",
        "",
        "Seconds of a new process, and what is beyond `import torch` in the same round.",
        "",
        "| process | clock | processor | beyond torch, clock | beyond torch, processor |",
        "|---|---|---|---|---|",
    ]
    for name in PEERS:
        row = figures[name]
        beyond = (
            ("–", "–")
            if name == "import torch"
            else (f"{row['beyond_torch_clock']:+.2f}", f"{row['beyond_torch_processor']:+.2f}")
        )
        lines.append(
            f"| `{name}` | {row['clock_seconds']:.2f} | {row['processor_seconds']:.2f} | "
            f"{' | '.join(beyond)} |"
        )
    found = figures["machine"]
    lines += [
        "",
        f"Medians of {figures['rounds']} rounds; the aim is {AIM:g} s beyond torch for `judge`.",
        "",
        f"{found['cpu']}, {found['cores']} cores, {found['date']}; load {found['load_before']:.1f} before and "
        f"{found['load_after']:.1f} after.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "startup.json")
    options = parser.parse_args()
    header("a command from its start, beside importing torch")
    record = Record(options.out, page)
    record.keep("commands", measured(options.rounds))
    print(page(record.cases))


if __name__ == "__main__":
    main()
