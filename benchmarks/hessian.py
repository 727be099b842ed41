"""The full Hessian in closed form against automatic differentiation, per network.

2-4-6-4-1 sigmoid, 500 samples, float64: one network, and a batch of 64. Peers run in this process,
one after the other in every round; medians and ratios are printed. Run: python benchmarks/hessian.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import semiflat as sf
from common import compare, header
from semiflat.curvature.hessian import risk_gradient_hessian


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header("full Hessian, 2-4-6-4-1 sigmoid, 500 samples")
    torch.manual_seed(0)
    net = sf.MLP([2, 4, 6, 4, 1], "sigmoid")
    X = torch.randn(500, 2, dtype=torch.float64)
    problem = sf.Problem(net, X, torch.randn(500, dtype=torch.float64))
    one = net.random_params(0)
    many = net.random_params(0, (64,))
    vectors = net.flatten(many)

    def risk(vector: Tensor) -> Tensor:
        return problem.risk(net.unflatten(vector))

    by_func = torch.func.hessian(risk)
    worst = max(
        float((risk_gradient_hessian(problem, net.unflatten(v))[2] - by_func(v)).abs().max())
        for v in vectors[:3]
    )
    print(f"largest difference to torch.func.hessian: {worst:.1e}\n")
    compare(
        "one network",
        {
            "semiflat": lambda: risk_gradient_hessian(problem, one),
            "torch.func.hessian": lambda: by_func(vectors[0]),
            "torch.autograd.functional.hessian": lambda: torch.autograd.functional.hessian(
                risk, vectors[0], vectorize=True
            ),
        },
        options.rounds,
    )
    compare(
        "batch of 64, per network",
        {
            "semiflat": lambda: risk_gradient_hessian(problem, many),
            "torch.func.vmap of hessian, in 8s": lambda: torch.func.vmap(by_func, chunk_size=8)(
                vectors
            ),
            "torch.func.hessian, one by one": lambda: [by_func(v) for v in vectors],
            "torch.autograd.functional.hessian": lambda: [
                torch.autograd.functional.hessian(risk, v, vectorize=True) for v in vectors
            ],
        },
        max(3, options.rounds // 5),
        each=64,
    )


if __name__ == "__main__":
    main()
