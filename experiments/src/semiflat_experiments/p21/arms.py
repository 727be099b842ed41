"""What so many runs of an arm of P21 §V-E can say of the published parts of definite blocks.

Blocks are counted as if they were independent. Those of one run are not, so the true intervals are wider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scipy.stats import binomtest, fisher_exact

from semiflat_experiments.p21.definite_figure import COUNTS
from semiflat_experiments.p21.training import PUBLISHED, STUDENT

CONFIDENCE = 0.95
DIFFERENT = 0.01
"""A published count and ours differ if Fisher's exact test gives less."""


def units(runs: int) -> list[int]:
    """Of each hidden layer in so many runs."""
    return [runs * width for width in STUDENT[1:4]]


def interval(count: int, total: int) -> tuple[float, float]:
    """The 95 % interval of Clopper and Pearson for a part; (0, 1) of none.

    >>> low, high = interval(0, 10)
    >>> round(low, 3), round(high, 3)          # so ten runs without one rule out no part below 0.3
    (0.0, 0.308)
    """
    if not total:
        return 0.0, 1.0
    found = binomtest(count, total).proportion_ci(CONFIDENCE, "exact")
    return float(found.low), float(found.high)


def chances(runs: int, without: Sequence[int]) -> list[float]:
    """For each hidden layer, how likely counts as far apart as ours and P21's are if parts are one."""
    return [
        float(fisher_exact([[ours, total - ours], [count, all_ - count]]).pvalue)
        for ours, total, (count, all_) in zip(without, units(runs), COUNTS, strict=True)
    ]


def differing(runs: int, without: Sequence[int]) -> str:
    """The hidden layers, from 1, in which an arm differs from P21's counts.

    >>> differing(10, [5, 0, 0]), differing(1000, [383, 7, 1])
    ('none', '1, 2')
    """
    found = [layer for layer, p in enumerate(chances(runs, without), 1) if p < DIFFERENT]
    return ", ".join(map(str, found)) or "none"


def table(variants: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The arms as lines of Markdown, from ``data["variants"]`` of a result."""
    lines = [
        "| arm | runs | layer 1 | layer 2 | layer 3 | layers that differ | with the bias row "
        "| ends with negative eigenvalues |",
        "|" + "---|" * 8,
    ]
    for name, arm in variants.items():
        runs, without = arm["runs"], arm["without"]
        cells = ["main" if name == PUBLISHED else name, str(runs)]
        for count, total in zip(without, units(runs), strict=True):
            low, high = interval(count, total)
            cells.append(
                f"{count} of {total} ({100 * count / total:.2f} %; {100 * low:.2f} to {100 * high:.2f})"
            )
        cells += [differing(runs, without), ", ".join(map(str, arm["with"]))]
        wrong = arm["negative eigenvalues"]
        low, high = interval(wrong, runs)
        cells.append(f"{wrong} of {runs} ({100 * low:.0f} to {100 * high:.0f} %)")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
