"""The gap of a 64-64-10 network on all scikit-learn digits: time, peak memory, and a dense peer beside it.

As a point and as a module; squared and cross-entropy loss; at random parameters and after 300 steps of Adam.
The peer holds the Jacobian of torch.func: SciPy's lstsq (gelsy) for the squared loss, its L-BFGS on the
coefficients for cross-entropy. Each case runs in a process of its own, whose peak resident memory is its
own. Run: python benchmarks/induced.py
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.linalg import lstsq
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from torch import Tensor, nn

import semiflat as sf
from common import RESULTS, Figures, Record, header

WIDTHS = [64, 64, 10]
SECONDS, GIBIBYTES = 60, 8
LOSSES = ("squared", "cross_entropy")
FORMS = ("point", "module")
STEPS = (0, 300)
PEER_SAMPLES = {"squared": (300, 1797), "cross_entropy": (300,)}
CASES = [f"{form} {loss} {steps} 1797" for loss in LOSSES for steps in STEPS for form in FORMS] + [
    f"{who} {loss} {steps} {samples}"
    for loss in LOSSES
    for samples in PEER_SAMPLES[loss]
    for steps in STEPS
    for who in (("peer",) if samples == 1797 else ("point", "peer"))
]


def digits(loss: str, samples: int) -> tuple[Tensor, Tensor]:
    """Pixels from 0 to 1; classes, or one-hot for the squared loss."""
    given = load_digits()
    X = torch.tensor(given.data[:samples] / 16, dtype=torch.float64)
    y = torch.tensor(given.target[:samples])
    return X, y if loss == "cross_entropy" else nn.functional.one_hot(y, 10).double()


def module(loss: str, X: Tensor, y: Tensor, steps: int) -> nn.Module:
    """A tanh network, trained for some steps of Adam on all samples at once."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10)).double()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        f = net(X)
        risk = (
            nn.functional.cross_entropy(f, y)
            if loss != "squared"
            else (f - y).square().sum(1).mean() / 2
        )
        risk.backward()
        optimizer.step()
    return net


def peer(net: nn.Module, X: Tensor, y: Tensor, loss: str) -> tuple[float, float]:
    """(L(θ), the infimum) from a dense Jacobian."""
    params = dict(net.named_parameters())
    f = net(X).detach()

    def one(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(net, parameters, x[None])[0]

    found = torch.func.vmap(torch.func.jacrev(one), in_dims=(None, 0))(params, X)
    J = torch.cat([found[key].detach().reshape(f.numel(), -1) for key in params], 1)
    if loss == "squared":
        target = y.reshape(-1, 1)
        # Not torch.linalg.lstsq, whose gelsy says rank 0 where a column of J is 0, as of a pixel never lit.
        found, *_ = lstsq(J.numpy(), target.numpy(), lapack_driver="gelsy")
        alpha = torch.from_numpy(found)
        return tuple(
            float(rest.square().sum()) / 2 / len(X)
            for rest in (f.reshape(-1, 1) - target, J @ alpha - target)
        )

    def value(alpha: np.ndarray) -> tuple[float, np.ndarray]:
        outputs = (J @ torch.from_numpy(alpha)).reshape(f.shape).requires_grad_()
        risk = nn.functional.cross_entropy(outputs, y)
        (slope,) = torch.autograd.grad(risk, outputs)
        return risk.item(), (J.mT @ slope.reshape(-1)).numpy()

    options = {"maxiter": 5000, "maxfun": 10000, "ftol": 1e-15, "gtol": 1e-10}
    best = minimize(value, np.zeros(J.shape[1]), jac=True, method="L-BFGS-B", options=options)
    return float(nn.functional.cross_entropy(f, y)), best.fun


def run(case: str, threads: int) -> Figures:
    """One case, in this process."""
    torch.set_num_threads(threads)
    who, loss, steps, samples = case.split()
    X, y = digits(loss, int(samples))
    net = module(loss, X, y, int(steps))
    problem = sf.Problem(sf.MLP(WIDTHS, "tanh"), X, y, loss)
    start = time.perf_counter()
    row: Figures = {
        "who": who,
        "loss": loss,
        "steps": int(steps),
        "samples": int(samples),
    }
    if who == "peer":
        value, infimum = peer(net, X, y, loss)
        row |= {"value": value, "infimum": infimum, "gap": value - infimum}
    else:
        params = {key: tensor.detach() for key, tensor in net.state_dict().items()}
        given = (sf.Point(problem, params),) if who == "point" else (net, X, y, loss)
        model = sf.gradient_basis_model(*given)
        row |= {"value": model.loss, "infimum": model.infimum, "gap": model.gap}
        row |= {
            "noise": model.noise,
            "error": model.error,
            "rank": model.rank,
            "method": model.method,
        }
    row["seconds"] = time.perf_counter() - start
    row["gibibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return row


def alone(case: str, threads: int) -> Figures:
    """One case in a process of its own."""
    command = [sys.executable, __file__, "--case", case, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def table(rows: list[Figures]) -> str:
    """The results as Markdown."""
    lines = [
        "| loss | samples | steps | by | seconds | peak RSS, GiB | L(θ) | gap | may lie lower by |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "" if row["who"] == "peer" else f"{row['error']:.0e}"
        lines.append(
            f"| {row['loss']} | {row['samples']} | {row['steps']} | {row['who']} | {row['seconds']:.1f} | "
            f"{row['gibibytes']:.2f} | {row['value']:.6g} | {row['gap']:.8g} | {error} |"
        )
    return "\n".join(lines)


def page(cases: dict[str, Figures]) -> str:
    """The figures in Markdown."""
    rows = list(cases.values())
    where = rows[0]["machine"]
    intro = (
        "# Gradient basis gap\n\nBy `benchmarks/induced.py`, "
        f"{where['cpu']}, {where['torch_threads']} threads; a 64-64-10 tanh network (4810 parameters) on "
        "scikit-learn's digits, at random parameters or after steps of Adam. The peer holds a dense Jacobian: "
        "SciPy's `lstsq` (gelsy) for the squared loss, its L-BFGS for cross-entropy. Each case in its own "
        "process; seconds without its start.\n\n"
    )
    ours = [row for row in rows if row["who"] != "peer"]
    slowest, largest = (max(row[key] for row in ours) for key in ("seconds", "gibibytes"))
    verdict = (
        f"Slowest {slowest:.1f} s (limit {SECONDS}), largest {largest:.2f} GiB (limit {GIBIBYTES}): "
        + ("within." if slowest <= SECONDS and largest <= GIBIBYTES else "NOT within.")
    )
    return f"{intro}{table(rows)}\n\n{verdict}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS / "induced.json")
    parser.add_argument("--case", help="run this one case, and print it as JSON")
    parser.add_argument("--only", default="", help="run the cases that contain this text")
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(run(arguments.case, arguments.threads)))
        return
    torch.set_num_threads(arguments.threads)
    header("Gradient basis gap")
    record = Record(arguments.out, page, CASES)
    for case in CASES:
        if arguments.only in case:
            found = alone(case, arguments.threads)
            print(table([found]).splitlines()[-1], flush=True)
            record.keep(case, found)
    print("\n" + page(record.cases).splitlines()[-1])


if __name__ == "__main__":
    main()
