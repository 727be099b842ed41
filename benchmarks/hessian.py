"""The full Hessian in closed form against automatic differentiation and against its matrix products.

Batches of 64 small sigmoid networks, and one of 64-64-10 on as many samples as the digits. Peers run in
this process, one after the other in every round; medians and ratios are printed, and kept case by case in
``results/hessian.json`` with a page of them beside it. Run: python benchmarks/hessian.py

Two floors: the arithmetic alone, one matrix product (dgemm) for each pair of layers, of ready factors, to as
many sums over the samples as the block has entries that differ; and half of one product P × N × P, what a
Gauss–Newton matrix of one output takes by its symmetry.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

import semiflat as sf
from common import RESULTS, Figures, Record, compare, header
from semiflat.curvature.engine import EngineName, engine_of, using
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.hessian import risk_gradient_hessian

CASES = {
    "2-2-1": ([2, 2, 1], 1000, 64),
    "10-3-1": ([10, 3, 1], 442, 64),
    "2-4-6-4-1": ([2, 4, 6, 4, 1], 500, 64),
    "64-64-10": ([64, 64, 10], 1797, 1),
}
"""Widths, samples and networks."""
WORDS = {
    "hessian_seconds": "semiflat, torch",
    "gauss_newton_seconds": "semiflat, torch, Gauss–Newton",
    "engine_seconds": "semiflat, compiled",
    "engine_gauss_newton_seconds": "semiflat, compiled, Gauss–Newton",
    "dgemm_seconds": "dgemm of what differs",
    "square_seconds": "half of dgemm P × N × P",
    "func_seconds": "torch.func.hessian, vmap",
}
"""The peers, as the record and the screen have them."""


def products(widths: list[int], samples: int, networks: int) -> Callable[[], object]:
    """One matrix product for each pair of layers, as large as the entries that differ are many."""
    factors, layers = [], list(pairwise(widths))
    for layer, (fed, out) in enumerate(layers):
        for below, (lower, moved) in enumerate(layers[: layer + 1]):
            rows, columns = out * moved, (fed + 1) * (lower + 1)
            if below == layer:
                rows, columns = out * (out + 1) // 2, (fed + 1) * (fed + 2) // 2
            left = torch.randn(networks, rows, samples, dtype=torch.float64)
            factors.append((left, torch.randn(networks, columns, samples, dtype=torch.float64)))
    return lambda: [left @ right.mT for left, right in factors]


def measured(name: str, rounds: int) -> Figures:
    """Median seconds a network of each peer in one case, and the largest relative difference."""
    widths, samples, networks = CASES[name]
    torch.manual_seed(0)
    net = sf.MLP(widths, "sigmoid")
    X = torch.randn(samples, widths[0], dtype=torch.float64)
    classes = widths[-1] > 1
    y = torch.arange(samples) % widths[-1] if classes else torch.randn(samples).double()
    problem = sf.Problem(net, X, y, loss="cross_entropy" if classes else "squared")
    params = net.random_params(0, (networks,) if networks > 1 else ())
    vectors = net.flatten(params).reshape(networks, -1)

    def risk(vector: Tensor) -> Tensor:
        return problem.risk(net.unflatten(vector))

    way = torch.randn(net.parameter_count, dtype=torch.float64)
    found = risk_gradient_hessian(problem, net.unflatten(vectors[0]))[2] @ way
    true = torch.func.jvp(torch.func.grad(risk), (vectors[0],), (way,))[1]
    figures: Figures = {"difference": float((found - true).abs().max() / true.abs().max())}
    print(f"a product with it differs from torch.func's by {figures['difference']:.1e}, relatively")
    wide = torch.randn(networks, net.parameter_count, samples, dtype=torch.float64)

    def by(engine: EngineName, compute: Callable[..., object]) -> Callable[[], object]:
        def run() -> object:
            with using(engine):
                return compute(problem, params)

        return run

    peers: dict[str, Callable[[], object]] = {
        "hessian_seconds": by("torch", risk_gradient_hessian),
        "gauss_newton_seconds": by("torch", risk_gradient_gauss_newton),
        "dgemm_seconds": products(widths, samples, networks),
        "square_seconds": lambda: [each @ each.mT for each in wide],
    }
    if networks > 1:  # of 64-64-10 it takes more memory than most machines have
        by_func = torch.func.vmap(torch.func.hessian(risk), chunk_size=8)
        peers["func_seconds"] = lambda: by_func(vectors)
    with using("auto"):
        figures["engine"] = engine_of(problem)
    if figures["engine"] != "torch":
        peers["engine_seconds"] = by("native", risk_gradient_hessian)
        peers["engine_gauss_newton_seconds"] = by("native", risk_gradient_gauss_newton)
    title = f"{name}, {samples} samples, {networks} at once, per network"
    named = {WORDS[key]: run for key, run in peers.items()}
    medians = compare(title, named, rounds, each=networks)
    medians[WORDS["square_seconds"]] /= 2
    return figures | {key: medians[WORDS[key]] for key in peers}


def page(cases: dict[str, Figures]) -> str:
    """The figures as a page."""
    lines = ["# The full Hessian", "", "Median microseconds a network, one thread, and ratios.", ""]
    columns = [*WORDS.values(), "faster / dgemm of what differs", "half of dgemm / faster"]
    columns.append("torch.func / faster")
    lines += [f"| network | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for name, figures in cases.items():
        of = {key: figures.get(key) for key in WORDS}
        cells = ["–" if each is None else f"{1e6 * each:.4g}" for each in of.values()]
        ours = of["engine_seconds"] or of["hessian_seconds"]
        cells.append(f"{ours / of['dgemm_seconds']:.2f}")
        cells.append(f"{of['square_seconds'] / ours:.0%}")
        func = of["func_seconds"]
        cells.append("–" if func is None else f"{func / ours:.1f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    machine = next(iter(cases.values()))["machine"]
    lines += ["", f"{machine['cpu']}, {machine['torch_threads']} thread(s), {machine['date']}; "]
    lines[-1] += f"engine {next(iter(cases.values())).get('engine')}."
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=RESULTS / "hessian.json")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    header("full Hessian, sigmoid")
    record = Record(options.out, page, list(CASES))
    for name in options.cases:
        record.keep(name, measured(name, options.rounds))


if __name__ == "__main__":
    main()
