"""What a look at where to grow costs, beside an epoch of training.

The convolutional network of ``unit_curvature.py``, a million parameters, on the digits scikit-learn bundles
in 16 × 16 pixels: all 1,797 of them, and eight times as many, shifted by up to two pixels. After two epochs the
network is looked at once with the table's defaults and once without K of its units. One thread; an epoch is
trained before and after each look, and the faster one counts. What a process does once is done before.

    python benchmarks/where_to_grow.py              # about five minutes
    python benchmarks/where_to_grow.py --quick      # a smoke test; writes nothing

Figures go into ``benchmarks/results/where_to_grow.json``, and from there into ``where_to_grow.md``.
"""

from __future__ import annotations

import argparse
import os
import resource
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import semiflat as sf
from common import RESULTS, Figures, Record
from unit_curvature import digits, epoch, network, now, since

TIMES, BATCH = 8, 64


def shifted(images: Tensor, classes: Tensor, times: int) -> tuple[Tensor, Tensor]:
    """So many shifted copies of all images."""
    draw = torch.Generator().manual_seed(0)
    copies = [images]
    for _ in range(times - 1):
        places = torch.randint(-2, 3, (len(images), 2), generator=draw).tolist()
        moved = [torch.roll(x, place, (1, 2)) for x, place in zip(images, places, strict=True)]
        copies.append(torch.stack(moved))
    return torch.cat(copies), classes.repeat(times)


def page(cases: Figures) -> str:
    """A line for each case."""
    lines = [
        "# What a look at where to grow costs",
        "",
        "`sf.where_to_grow` with its defaults on a network of a million parameters, and without K of its units,"
        " beside an epoch of Adam in batches of 64 (`where_to_grow.py`). Seconds of the processor, and in"
        " brackets of the clock. *Memory*: by how many MiB the peak of the process rose in the look; it had"
        " trained before. *Load*: of the machine, which has two cores.",
        "",
        "| case | images | searched and confirming | seconds | an epoch | epochs | best | memory | load |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        lines.append(
            f"| {name} | {case['images']:,} | {case['samples']} | {case['seconds_taken']:.1f} "
            f"({case['clock_taken']:.1f}) | {case['epoch']:.1f} ({case['epoch_clock']:.1f}) | "
            f"{case['seconds_taken'] / case['epoch']:.2f} ({case['clock_taken'] / case['epoch_clock']:.2f}) | "
            f"{case['best']} | {case['memory']:.0f} | {case['load']:.1f} |"
        )
    return "\n".join([*lines, ""])


def peak() -> int:
    """KiB that the process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Look with and without K, on few images and on many."""
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
    if quick:
        images, classes = images[:64], classes[:64]
    out = options.out or (None if quick else RESULTS / "where_to_grow.json")
    record = Record(out, page)
    sf.where_to_grow(network((2, 2, 2)).eval(), [(images[:64], classes[:64])], F.cross_entropy)
    for times in (1,) if quick else (1, TIMES):
        X, y = shifted(images, classes, times)
        model = network(widths)
        for _ in range(2):
            epoch(model, images, classes)
        batches = list(zip(X.split(BATCH), y.split(BATCH), strict=True))
        for curvature in (True, False):
            other = network(widths)
            before = epoch(other, X, y)
            held, begun = peak(), now()
            table = sf.where_to_grow(model.eval(), batches, F.cross_entropy, curvature=curvature)
            taken, clock = since(begun)
            memory = (peak() - held) / 1024
            both = zip(before, epoch(other, X, y), strict=True)
            spent, by_clock = (min(each) for each in both)
            name = f"{len(X):,} images, {'all' if curvature else 'without K'}"
            best = table.best
            record.keep(
                name,
                {
                    "images": len(X),
                    "samples": table.samples,
                    "seconds_taken": taken,
                    "clock_taken": clock,
                    "epoch": spent,
                    "epoch_clock": by_clock,
                    "memory": memory,
                    "best": "none" if best is None else f"{best.group}: {best.way}",
                    "load": os.getloadavg()[0],
                },
            )
            print(f"{name}: {taken:.1f} s, an epoch {spent:.1f} s")


if __name__ == "__main__":
    main()
