"""Training goes on after a widening: the optimiser's state carried against fresh; and what a widening costs.

Networks are trained on the digits, one layer is given twice the units, and they are trained on for 40 steps on
the same batches: with the state carried, with a fresh optimiser, and, beside them, not widened at all. The
worst loss of the 40 steps is divided by that before, and each loss by that of the network not widened. Then
``widen`` and ``carry`` are timed, and copying the weights of the wide model into another one.
Run: python benchmarks/carry.py
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import semiflat as sf
from common import RESULTS, Figures, Record, header
from semiflat.bundled import bundle

SEEDS, STEPS, BATCH, TRAINED_ON = 5, 40, 64, 1300


class Head(nn.Module):
    """Causal attention with heads of 32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (-1, 32)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.out(mixed.transpose(1, 2).flatten(2))


class Gpt(nn.Module):
    """A small GPT of its own."""

    def __init__(self, width: int, blocks: int, words: int = 256) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), nn.Embedding(64, width)
        self.heads = nn.ModuleList(Head(width) for _ in range(blocks))
        self.mlps = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width),
                nn.Linear(width, 4 * width),
                nn.GELU(),
                nn.Linear(4 * width, width),
            )
            for _ in range(blocks)
        )
        self.last = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.words(x) + self.places(torch.arange(x.shape[1], device=x.device))
        for heads, mlp in zip(self.heads, self.mlps, strict=True):
            stream = heads(stream)
            stream = stream + mlp(stream)
        return self.last(stream)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), nn.GELU(), nn.Linear(16, 10))


def cnn(first: int = 8, blocks: int = 2) -> nn.Module:
    """Convolutions with batch norm on images of 8 × 8; twice the channels in each."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, 8, 8))]
    into = 1
    for block in range(blocks):
        out = first * 2**block
        layers += [
            nn.Conv2d(into, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
        ]
        into = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * into, 10))


OPTIMISERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=3e-3),
    "SGD with momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.02, momentum=0.9),
}
MODELS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "MLP": (mlp, "0", 16),
    "CNN": (cnn, "4", 16),
}
WAYS: dict[str, Callable[[int], dict[str, Any]]] = {
    "copies": lambda size: {"copies": dict.fromkeys(range(size), 2)},
    "new units": lambda size: {"units": size},
}


def digits() -> tuple[Tensor, Tensor]:
    """Images in [0, 1] and their classes, shuffled."""
    data = bundle("digits")
    order = torch.randperm(len(data.y), generator=torch.Generator().manual_seed(0))[:TRAINED_ON]
    return torch.as_tensor(data.X).float()[order] / 16, torch.as_tensor(data.y).long()[order]


def loss_of(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """The mean loss of all, in eval mode."""
    model.eval()
    with torch.no_grad():
        value = nn.functional.cross_entropy(model(X), y).item()
    model.train()
    return value


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, X: Tensor, y: Tensor, steps: int, seed: int
) -> list[float]:
    """Train on batches drawn with the seed; the loss after each of the first steps."""
    draw = torch.Generator().manual_seed(seed)
    losses = []
    for step in range(steps):
        some = torch.randint(len(y), (BATCH,), generator=draw)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X[some]), y[some]).backward()
        optimizer.step()
        if step < STEPS:
            losses.append(loss_of(model, X, y))
    return losses


def jumps(name: str, optimiser: str, way: str, seeds: int, steps: int) -> Figures:
    """By seed, the worst loss of the next steps over that before, and over that of the network not widened."""
    X, y = digits()
    make, group, size = MODELS[name]
    before: dict[str, list[float]] = {"carried": [], "fresh": [], "not widened": []}
    beside: dict[str, list[float]] = {"carried": [], "fresh": []}
    for seed in range(seeds):
        torch.manual_seed(seed)
        model = make()
        optimizer = OPTIMISERS[optimiser](model.parameters())
        train(model, optimizer, X, y, steps, seed)
        start = loss_of(model, X, y)
        alone = copy.deepcopy(model)
        on = OPTIMISERS[optimiser](alone.parameters())
        on.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        losses = train(alone, on, X, y, STEPS, 100 + seed)
        before["not widened"].append(max(losses) / start)
        for each in beside:
            wide = sf.widen(model, X[:BATCH], group, seed=seed, **WAYS[way](size))
            carried = each == "carried"
            new = (
                wide.carry(optimizer) if carried else OPTIMISERS[optimiser](wide.model.parameters())
            )
            found = train(wide.model, new, X, y, STEPS, 100 + seed)
            before[each].append(max(found) / start)
            beside[each].append(max(a / b for a, b in zip(found, losses, strict=True)))
    return {
        "worst_over_before": before,
        "worst_over_not_widened": beside,
        "units": [size, 2 * size],
        "steps_before": steps,
    }


SIZES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str]] = {
    "CNN, 3 convolutions": (lambda: cnn(32, 3), lambda: torch.randn(4, 64), "4"),
    "CNN, 5 convolutions": (lambda: cnn(32, 5), lambda: torch.randn(4, 64), "7"),
    "CNN, 7 convolutions": (lambda: cnn(16, 7), lambda: torch.randn(4, 64), "13"),
    "GPT, 2 blocks": (lambda: Gpt(64, 2), lambda: torch.randint(256, (2, 16)), "mlps.0.1"),
    "GPT, 4 blocks": (lambda: Gpt(256, 4), lambda: torch.randint(256, (2, 16)), "mlps.0.1"),
    "GPT, 8 blocks": (lambda: Gpt(512, 8), lambda: torch.randint(256, (2, 16)), "mlps.0.1"),
}


def costs(name: str, rounds: int) -> Figures:
    """Seconds of a widening, of carrying Adam's state, and of copying the wide model's weights."""
    make, example, group = SIZES[name]
    torch.manual_seed(0)
    model, x = make(), example()
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().mean().backward()
    optimizer.step()
    times: dict[str, list[float]] = {"widen": [], "carry": [], "copy": []}
    for _ in range(rounds + 1):
        start = time.perf_counter()
        wide = sf.widen(model, x, group, units=8)
        widened = time.perf_counter()
        wide.carry(optimizer)
        carried = time.perf_counter()
        other = copy.deepcopy(wide.model)
        copying = time.perf_counter()
        other.load_state_dict(wide.model.state_dict())
        done = time.perf_counter()
        for key, spent in (
            ("widen", widened - start),
            ("carry", carried - widened),
            ("copy", done - copying),
        ):
            times[key].append(spent)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "output_change": wide.output_change,
        **{f"seconds_{key}": statistics.median(spent[1:]) for key, spent in times.items()},
    }


def page(cases: dict[str, Figures]) -> str:
    """The figures in Markdown."""
    machines = [case["machine"] for case in cases.values()]
    where, loads = machines[0], [each["load_after"] for each in machines]
    lines = [
        "# Training on after a widening",
        "",
        f"By `benchmarks/carry.py`, {where['cpu']}, {where['torch_threads']} thread(s), {where['cores']} "
        f"cores with a load of {min(loads):.0f} to {max(loads):.0f}.",
        "",
        "The digits, 1,300 of them; one layer is given twice the units after some steps of training. The worst "
        "loss of all of them over the next 40 steps, divided by that before; and the worst of each loss "
        "divided by that of the network not widened, on the same batches. Mean over the seeds, and the worst.",
        "",
        "| | | | over that before | | | over that not widened | |",
        "|---|---|---|---|---|---|---|---|",
        "| | optimiser | what is added | carried | fresh | not widened | carried | fresh |",
    ]
    for name, case in cases.items():
        if "worst_over_before" in case:
            cells = [
                f"{statistics.mean(seeds):.3f} ({max(seeds):.3f})"
                for over in ("worst_over_before", "worst_over_not_widened")
                for seeds in case[over].values()
            ]
            lines.append(f"| {' | '.join([*name.split(', '), *cells])} |")
    lines += [
        "",
        "Eight units are added to one layer. Copying is `load_state_dict` of the wide model's weights into "
        "another model of its shapes. Medians, in seconds.",
        "",
        "| | parameters | `widen` | `carry` of Adam | copying | change of the outputs |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        if "parameters" in case:
            lines.append(
                f"| {name} | {case['parameters']:,} | {case['seconds_widen']:.2f} | "
                f"{case['seconds_carry']:.4f} | {case['seconds_copy']:.4f} | {case['output_change']:.0e} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--before", type=int, default=630, help="steps before the widening")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "carry.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    header("Training on after a widening")
    runs = [(model, optimiser, way) for model in MODELS for optimiser in OPTIMISERS for way in WAYS]
    record = Record(arguments.out, page, [", ".join(run) for run in runs] + list(SIZES))
    for name in SIZES:
        record.keep(name, costs(name, arguments.rounds))
        print(name, record.cases[name], flush=True)
    for run in runs:
        name = ", ".join(run)
        record.keep(name, jumps(*run, arguments.seeds, arguments.before))
        print(name, record.cases[name], flush=True)


if __name__ == "__main__":
    main()
