"""Timing shared by the benchmarks: peers in turn, medians, ratios."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable

import torch


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


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:8.3f}ms"
