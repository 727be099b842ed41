"""Lifting to width 10⁶ against copying the arrays it returns; random general compatible embeddings.

Run: python benchmarks/embeddings.py
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

import semiflat as sf
from common import compare, header

MILLION = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header("embeddings: lift a direction of 10-3-1 to width 10⁶")
    net = sf.MLP([10, 3, 1], "tanh")
    kinds: dict[str, sf.Embedding] = {
        "replicated unit": sf.Replicate.uniform(0, 1, MILLION),
        "null units": sf.NullUnits(0, [0.5] * MILLION),
        "inactive units": sf.InactiveUnits(0, MILLION, outgoing=[0.5]),
        "two alternating shares": sf.Replicate(0, 1, [3, *([-1, 1] * (MILLION // 2)), -2]),
    }
    for name, embedding in kinds.items():
        widening = embedding.on(net)
        narrow = net.random_params(0)
        flat = net.flatten(narrow)
        wide, wide_flat = widening.lift(narrow), widening.lift(flat)
        peers: dict[str, Callable[[], object]] = {
            "allocate and copy the arrays": lambda w=wide: {k: t.clone() for k, t in w.items()},
            "lift, by name": lambda w=widening, v=narrow: w.lift(v),
            "lift, flat": lambda w=widening, v=flat: w.lift(v),
            "parameters": lambda w=widening, v=narrow: w.parameters(v),
            "restrict": lambda w=widening, v=wide_flat: w.restrict(v),
        }
        compare(f"{name}: {widening.wide.parameter_count:,} parameters", peers, options.rounds)
    header("general compatible embedding, 10-200-200-200-1 into 10-400-400-400-1 (aim: under 10 s)")
    narrow_net, widths = sf.MLP([10, 200, 200, 200, 1]), [10, 400, 400, 400, 1]
    drawn = sf.Compatible.random(narrow_net, widths, seed=0)
    params = narrow_net.random_params(0)
    compare(
        "Compatible",
        {
            "random": lambda: sf.Compatible.random(narrow_net, widths, seed=0),
            "matrix": drawn.matrix,
            "apply": lambda: drawn.apply(narrow_net, params),
        },
        options.rounds,
    )


if __name__ == "__main__":
    main()
