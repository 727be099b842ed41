"""The verdict on a replicated point at width 10, 1,000 and 1,000,000.

The inertia law costs what the narrow network costs, so the three should take the same time; the dense
Hessian is built where that is possible. Run: python benchmarks/judge.py
"""

from __future__ import annotations

import argparse

import torch

import semiflat as sf
from common import compare, header


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header("judge a replicated point: 10-3-1 gelu on diabetes, one unit replicated")
    data = sf.load_data("diabetes")
    problem = sf.Problem(sf.MLP([data.X.shape[1], 3, 1], "gelu"), data.X, data.y)
    point = sf.find_critical_point(problem, starts=4, seed=0)
    widths = (10, 1_000, 1_000_000)
    wide = {width: sf.Replicate.uniform(0, 0, width - 2)(point) for width in widths}
    for width, embedded in wide.items():
        verdict = sf.judge(embedded)
        parameters = embedded.problem.net.parameter_count
        print(
            f"width {width:>9,}: {parameters:>10,} parameters, {verdict.kind.label}, "
            f"inertia {tuple(verdict.inertia or ())}"
        )
    print()
    peers = {
        f"inertia law, width {width:,}": (lambda e=embedded: sf.judge(e))  # type: ignore[misc]
        for width, embedded in wide.items()
    }
    compare("judge", peers, options.rounds)
    dense = wide[10].materialize()
    thousand = sf.Replicate.uniform(0, 0, 98)(point).materialize()
    compare(
        "against the dense Hessian",
        {
            "inertia law, width 10": lambda: sf.judge(wide[10]),
            "dense Hessian, width 10": lambda: sf.judge(dense),
            "dense Hessian, width 100": lambda: sf.judge(thousand),
        },
        max(3, options.rounds // 5),
    )
    print("A dense Hessian at width 1,000 would be 12,001 square (1.1 GiB); at 1,000,000, 1 PiB.")


if __name__ == "__main__":
    main()
