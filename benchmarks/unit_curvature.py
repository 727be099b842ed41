"""What the curvature of all channels of a convolutional network costs, beside an epoch of its training.

A network of a million parameters on the digits that scikit-learn bundles, 16 × 16 pixels. Its units are too
large for dense K, so sure signs of their extreme eigenvalues are asked for, on one batch of the digits. One
thread.

    python benchmarks/unit_curvature.py              # about ten minutes
    python benchmarks/unit_curvature.py --quick      # a smoke test; writes nothing

Figures go into ``benchmarks/results/unit_curvature.json``, and from there into ``unit_curvature.md``.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

import semiflat as sf
from common import RESULTS, Figures, Record

SAMPLES, STEPS = 128, 12


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


def epoch(model: nn.Module, images: Tensor, classes: Tensor) -> float:
    """Seconds of an epoch of Adam in batches of 64."""
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    begun = time.perf_counter()
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), classes[batch]).backward()
        optimizer.step()
    return time.perf_counter() - begun


def page(cases: Figures) -> str:
    """A line for each type of numbers."""
    lines = [
        "# Curvature of all channels of a network of a million parameters",
        "",
        f"{STEPS} Lanczos steps on K of every channel at once, on {SAMPLES} digits. An epoch of training is",
        "all 1,797 of them in float32 (`unit_curvature.py`). *Down*: channels of which it is sure that",
        "splitting them opens a way down.",
        "",
        "| computed in | parameters | channels | seconds | an epoch | times an epoch | down |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        lines.append(
            f"| {name} | {case['parameters']:,} | {case['channels']} | {case['seconds_taken']:.1f} | "
            f"{case['epoch']:.1f} | {case['seconds_taken'] / case['epoch']:.1f} | {case['down']} |"
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
    spent = min(epoch(model, images, classes) for _ in range(2))
    data = [(images[:SAMPLES], classes[:SAMPLES])]
    model.eval()
    for dtype in (torch.float32, torch.float64):
        begun = time.perf_counter()
        found = sf.unit_curvature(model, data, F.cross_entropy, steps=STEPS, dtype=dtype)
        taken = time.perf_counter() - begun
        units = [unit for group in found.values() for unit in group.units]
        name = str(dtype).removeprefix("torch.")
        record.keep(
            name,
            {
                "parameters": sum(each.numel() for each in model.parameters()),
                "channels": len(units),
                "seconds_taken": taken,
                "epoch": spent,
                "down": sum(unit.best_shares is not None for unit in units),
            },
        )
        print(f"{name}: {len(units)} channels in {taken:.1f} s, an epoch {spent:.1f} s")


if __name__ == "__main__":
    main()
