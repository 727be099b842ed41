"""What the benchmarks share: peers in turn, medians, ratios; figures kept with the machine they are of."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from threadpoolctl import threadpool_info

import semiflat as sf

Figures = dict[str, Any]
RESULTS = Path(__file__).parent / "results"


def header(title: str) -> None:
    """What is measured, and on what."""
    print(
        f"{title}\n{platform.machine()}, Python {platform.python_version()}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} thread(s)\n"
    )


def compare(
    title: str, peers: dict[str, Callable[[], object]], rounds: int, each: int = 1
) -> dict[str, float]:
    """Run the peers in turn, ``rounds`` times after one warm-up; print medians and ratios.

    Args:
        each: number of networks a call serves; times are divided by it.

    Returns:
        The median seconds of each peer. Ratios are medians of the ratios within a round.
    """
    for run in peers.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(rounds):
        for name, run in peers.items():
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) / each)
    first = next(iter(peers))
    print(f"{title} ({rounds} rounds)")
    print(f"  {'':40} {'median':>10} {'min':>10} {'max':>10}   times {first}")
    for name, spent in times.items():
        ratios = [a / b for a, b in zip(spent, times[first], strict=True)]
        print(
            f"  {name:40} {_ms(statistics.median(spent))} {_ms(min(spent))} {_ms(max(spent))}"
            f"   {statistics.median(ratios):8.2f}"
        )
    print()
    return {name: statistics.median(spent) for name, spent in times.items()}


class Record:
    """Figures case by case in a JSON file, each with its machine, and a page made of them beside it.

    Cases that are there already stay until they are measured again; without a file nothing is kept.

    Args:
        page: makes the page of all cases.
        order: of the cases; others come after, by name.
    """

    def __init__(
        self, file: Path | None, page: Callable[[Figures], str], order: Sequence[str] = ()
    ) -> None:
        self.file, self.page, self.order = file, page, list(order)
        self.cases: dict[str, Figures] = read(file) if file and file.exists() else {}
        self._start()

    def _start(self) -> None:
        self._load, self._begun = os.getloadavg()[0], time.perf_counter()

    def keep(self, name: str, figures: Figures) -> None:
        """Write down a case that was measured since the last one was, or says itself on what machine."""
        times = {"load_before": self._load, "seconds": time.perf_counter() - self._begun}
        self.cases[name] = clean({"machine": machine() | times} | figures)
        places = {each: k for k, each in enumerate(self.order)}
        names = sorted(self.cases, key=lambda each: (places.get(each, len(places)), each))
        self.cases = {each: self.cases[each] for each in names}
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"cases": self.cases}, indent=1, allow_nan=False) + "\n"
            self.file.write_text(text, encoding="utf-8")
            self.file.with_suffix(".md").write_text(self.page(self.cases), encoding="utf-8")
        self._start()


def read(file: Path) -> dict[str, Figures]:
    """The cases of a record."""
    found: dict[str, Figures] = json.loads(file.read_text(encoding="utf-8"))["cases"]
    return found


def clean(value: Any) -> Any:
    """The same figures with None for what is not finite: JSON has no word for it."""
    if isinstance(value, dict):
        return {key: clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [clean(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def machine() -> Figures:
    """What the figures were measured on, and when."""
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "semiflat": sf.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch_threads": torch.get_num_threads(),
        "blas_threads": max((pool["num_threads"] for pool in threadpool_info()), default=None),
        "load_after": os.getloadavg()[0],
    }


def cpu_model() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:8.3f}ms"
