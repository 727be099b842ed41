"""The main job with its defaults on the bundled diabetes data, as a user starts it: whole process.

The aim is under 90 s on two cores. Run: python benchmarks/study.py [--rounds 3]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    spent = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as out:
            start = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "semiflat",
                "study",
                "--data",
                "diabetes",
                "--out",
                out,
            ]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            spent.append(time.perf_counter() - start)
    print(
        f"study, defaults, diabetes: median {statistics.median(spent):.1f} s "
        f"(min {min(spent):.1f}, max {max(spent):.1f}, {options.rounds} rounds); aim 90 s"
    )


if __name__ == "__main__":
    main()
