"""What the curvature of all channels of a convolutional network costs, beside an epoch of its training.

A network of a million parameters on the digits that scikit-learn bundles, 16 × 16 pixels. Its units are too
large for dense K, so sure signs of their extreme eigenvalues are asked for, on one batch of the digits. One
thread; an epoch is trained before and after each, and the faster one counts. Seconds of the processor say more
than those of the clock where the machine is busy. What a process does once (imports) is done before.

    python benchmarks/unit_curvature.py              # about two minutes
    python benchmarks/unit_curvature.py --quick      # a smoke test; writes nothing

Figures go into ``benchmarks/results/unit_curvature.json``, and from there into ``unit_curvature.md``.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import semiflat as sf
from common import RESULTS, Figures, Record

SAMPLES, DIRECTIONS = 128, 16


def network(widths: tuple[int, ...]) -> nn.Sequential:
    """Convolutions with batch normalisation, halved twice, and a linear layer."""
    layers: list[nn.Module] = []
    before = 1
    for place, width in enumerate(widths):
        layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU()]
        if place < 3:
            layers.append(nn.MaxPool2d(2))
        before = width
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * 4, 10))


def digits() -> tuple[Tensor, Tensor]:
    """Images (N, 1, 16, 16) and their classes."""
    given = load_digits()
    images = torch.tensor(given.images, dtype=torch.float32)[:, None] / 16
    return F.interpolate(images, scale_factor=2, mode="bilinear"), torch.tensor(given.target)


def now() -> tuple[float, float]:
    """Seconds of the processor, and of the clock."""
    return time.process_time(), time.perf_counter()


def since(begun: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both that have gone by."""
    processor, clock = now()
    return processor - begun[0], clock - begun[1]


def epoch(model: nn.Module, images: Tensor, classes: Tensor) -> tuple[float, float]:
    """Seconds of both for an epoch of Adam in batches of 64."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    begun = now()
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), classes[batch]).backward()
        optimizer.step()
    return since(begun)


def page(cases: Figures) -> str:
    """A line for each type of numbers."""
    lines = [
        "# Curvature of all channels of a network of a million parameters",
        "",
        f"K of every channel at once in {DIRECTIONS} directions of each parameter, on {SAMPLES} digits.",
        "An epoch of training is all 1,797 of them in float32 (`unit_curvature.py`); seconds of the processor,",
        "and in brackets of the clock. *Down*: channels of which it is sure that splitting them opens a way",
        "down. *Load*: of the machine, which has two cores.",
        "",
        "| computed in | parameters | channels | seconds | an epoch | times an epoch | down | load |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        taken, clock = case["seconds_taken"], case["clock_taken"]
        spent, by_clock = case["epoch"], case["epoch_clock"]
        lines.append(
            f"| {name} | {case['parameters']:,} | {case['channels']} | {taken:.1f} ({clock:.1f}) | "
            f"{spent:.1f} ({by_clock:.1f}) | {taken / spent:.1f} ({clock / by_clock:.1f}) | "
            f"{case['down']} | {case['load']:.1f} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Train for two epochs, and ask for the curvature."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    options = parser.parse_args()
    quick = options.quick
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, classes = digits()
    widths = (4, 6, 8) if quick else (64, 128, 256, 256)
    model = network(widths)
    if quick:
        images, classes = images[:64], classes[:64]
    out = options.out or (None if quick else RESULTS / "unit_curvature.json")
    record = Record(out, page)
    for _ in range(2):
        epoch(model, images, classes)
    model.eval()
    few = [(images[:8], classes[:8])]
    sf.unit_curvature(network((2, 2, 2)).eval(), few, F.cross_entropy)  # imports
    data = [(images[:SAMPLES], classes[:SAMPLES])]
    for dtype in (torch.float32, torch.float64):
        other = network(widths)
        before = epoch(other, images, classes)
        begun = now()
        found = sf.unit_curvature(model, data, F.cross_entropy, directions=DIRECTIONS, dtype=dtype)
        taken, clock = since(begun)
        both = zip(before, epoch(other, images, classes), strict=True)
        spent, by_clock = (min(each) for each in both)
        units = [unit for group in found.values() for unit in group.units]
        name = str(dtype).removeprefix("torch.")
        record.keep(
            name,
            {
                "parameters": sum(each.numel() for each in model.parameters()),
                "channels": len(units),
                "seconds_taken": taken,
                "clock_taken": clock,
                "epoch": spent,
                "epoch_clock": by_clock,
                "load": os.getloadavg()[0],
                "down": sum(unit.best_shares is not None for unit in units),
            },
        )
        print(f"{name}: {len(units)} channels in {taken:.1f} s, an epoch {spent:.1f} s")


if __name__ == "__main__":
    main()
