"""The hierarchy of the bundled diabetes data as a user starts it: time, and memory of all its processes.

Widths 1 to 5, 200 starts each, over two processes. The aim is 15 minutes and 3 GiB. Memory is the largest sum
of what the processes hold (their RSS, read twice a second): what they share is counted in each. The load says
how busy the machine was otherwise; two processes alone make it 2.
Run: python benchmarks/hierarchy.py (five minutes on a quiet machine)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from common import RESULTS, Figures, Record, header

WIDTHS, STARTS, PROCESSES = "1..5", 200, 2
AIMS = {"seconds": 900, "gibibytes": 3}
EVERY = 0.5
"""Seconds between two looks at the memory."""


def measured(widths: str, starts: int) -> Figures:
    """The command run to its end."""
    with tempfile.TemporaryDirectory() as folder:
        given = {
            "--data": "diabetes",
            "--widths": widths,
            "--starts": starts,
            "--processes": PROCESSES,
            "--out": folder,
        }
        words = [str(word) for option in given.items() for word in option]
        begun = time.perf_counter()
        command = [sys.executable, "-m", "semiflat", "hierarchy", *words, "--json"]
        with (Path(folder) / "told.json").open("w+") as told:
            process = psutil.Popen(command, stdout=told)
            most, processor = 0, dict[int, float]()
            while process.poll() is None:
                held = 0
                for each in [process, *process.children(recursive=True)]:
                    try:
                        held += each.memory_info().rss
                        processor[each.pid] = sum(each.cpu_times()[:2])
                    except psutil.NoSuchProcess:
                        continue
                most = max(most, held)
                time.sleep(EVERY)
            seconds = time.perf_counter() - begun
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, command)
            told.seek(0)
            found = json.load(told)
        return {
            "widths": widths,
            "starts": starts,
            "processes": PROCESSES,
            "aims": AIMS,
            "seconds": seconds,
            "processor_seconds": sum(processor.values()),
            "gibibytes": most / 2**30,
            "points": found["points"],
            "edges": len(found["edges"]),
            "store_bytes": (Path(folder) / "hierarchy.db").stat().st_size,
            "page_bytes": (Path(folder) / "hierarchy.html").stat().st_size,
        }


def page(cases: dict[str, Figures]) -> str:
    """The figures in Markdown."""
    lines = [
        "# Hierarchies",
        "",
        "By `benchmarks/hierarchy.py`, the whole command with its page and picture. The aim for diabetes,",
        "widths 1..5 and 200 starts on two cores is 15 minutes and 3 GiB.",
        "",
        "| data, widths, starts | points | edges | seconds | seconds of processors | GiB | store, MiB "
        "| page, MiB | load before, after | machine |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        on = case["machine"]
        lines.append(
            f"| {name} | {case['points']:,} | {case['edges']:,} | {case['seconds']:.0f} | "
            f"{case['processor_seconds']:.0f} | {case['gibibytes']:.2f} | {case['store_bytes'] / 2**20:.0f} | "
            f"{case['page_bytes'] / 2**20:.1f} | {on['load_before']:.1f}, {on['load_after']:.1f} | "
            f"{on['date']}, {on['cpu']}, {on['cores']} cores |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--widths", default=WIDTHS)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--out", type=Path, default=RESULTS / "hierarchy.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    header("Hierarchies")
    record = Record(options.out, page)
    figures = measured(options.widths, options.starts)
    record.keep(f"diabetes, {options.widths}, {options.starts}", figures)
    print(record.cases)


if __name__ == "__main__":
    main()
