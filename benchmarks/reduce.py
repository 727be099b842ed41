"""Reducing a layer of 4096 units: copies of ten, units that all differ, and nearly equal units.

Equal rows are found by sorting a random projection, so the exact rules take n log n steps; comparing
all pairs one by one is beside them. Run: python benchmarks/reduce.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch

import semiflat as sf
from common import compare, header

WIDTH, INPUTS, SAMPLES = 4096, 10, 442


def wide_point(kind: str) -> sf.Point:
    """10-4096-1 tanh: ``copies`` of ten units with any outgoing weights, those ``moved`` a little,
    or ``distinct`` ones."""
    generator = np.random.default_rng(0)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.from_numpy(generator.standard_normal(shape))

    net = sf.MLP([INPUTS, WIDTH, 1])
    problem = sf.Problem(net, drawn(SAMPLES, INPUTS), drawn(SAMPLES, 1))
    params = net.random_params(seed=0)
    if kind != "distinct":
        sources = generator.integers(10, size=WIDTH)
        params["0.weight"] = params["0.weight"][sources]
        params["0.bias"] = params["0.bias"][sources]
        params["2.weight"] = drawn(1, WIDTH).abs() / WIDTH
    if kind == "moved":
        params["0.weight"] = params["0.weight"] + 1e-3 * drawn(WIDTH, INPUTS)
    return sf.Point(problem, params)


def all_pairs(point: sf.Point) -> int:
    """The number of distinct rows, every row compared with every other."""
    rows = point.problem.net.layer(point.params, 0)
    limit = 1e-13 * rows.abs().max()
    first = [
        int(
            torch.minimum((rows - row).abs().amax(1), (rows + row).abs().amax(1))
            .le(limit)
            .int()
            .argmax()
        )
        for row in rows
    ]
    return len(set(first))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header(f"reduce a tanh layer of {WIDTH} units, {INPUTS} inputs, 1 output, {SAMPLES} samples")
    points = {kind: wide_point(kind) for kind in ("copies", "distinct", "moved")}
    copies, distinct, moved = points.values()
    small = sf.reduce(copies)
    for kind, point in points.items():
        for tolerance in (0.0, 1e-2):
            found = sf.reduce(point, tolerance)
            print(
                f"{kind:8} tolerance {tolerance:<5g}: {found.widths[0]:4} units, bound {found.bound:.2g}"
            )
    print()
    compare(
        "exact, the way back included",
        {
            "ten units copied": lambda: sf.reduce(copies),
            "all units distinct": lambda: sf.reduce(distinct),
            "rows alone, all pairs": lambda: all_pairs(copies),
            "going back: embedding(point).params": lambda: small.embedding(small.point).params,
        },
        options.rounds,
    )
    compare(
        "within a tolerance of 1e-2",
        {
            "ten units copied": lambda: sf.reduce(copies, 1e-2),
            "ten units copied and moved": lambda: sf.reduce(moved, 1e-2),
            "all units distinct": lambda: sf.reduce(distinct, 1e-2),
        },
        max(2, options.rounds // 2),
    )


if __name__ == "__main__":
    main()
