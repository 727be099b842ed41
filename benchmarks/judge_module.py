"""``judge_module`` on models of 10⁶ parameters: time, memory and what is said, beside power iteration.

    python benchmarks/judge_module.py --threads 2     # everything, some minutes
    python benchmarks/judge_module.py --cases gpt
    python benchmarks/judge_module.py --quick         # a smoke test; writes nothing
    python benchmarks/judge_module.py --peer FOLDER   # PyHessian from a folder of its own (pip install
    --target)

Cases: ``cnn``, three convolutions with batch norm, in eval mode, on 256 of scikit-learn's digits; ``gpt``, four
blocks of width 128 on 16 sequences of 32 letters. Weights are random, seed 0, float64. Each runs in a process
of its own, so that its peak memory is its own:

- ``semiflat``: all that ``judge_module`` says;
- ``power``: the eigenvalue largest in size by power iteration on Hessian–vector products, up to a change of
  1e-3 or 100 products, as PyHessian's ``eigenvalues`` does it: a number without an error bound;
- ``pyhessian``: PyHessian itself, where it is given.

Figures go into ``benchmarks/results/judge_module.json``, case by case, and from there into ``judge_module.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import semiflat as sf
from common import RESULTS, Figures, Record
from semiflat.modules.flat import Derivatives

CASES = ["cnn", "gpt"]
Data = list[tuple[Tensor, Tensor]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small models")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    parser.add_argument("--peer", type=Path, help="folder that holds PyHessian")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        print(json.dumps(measured(*options.one.split(":"), options.quick, options.peer)))
        return
    out = options.out or (None if options.quick else RESULTS / "judge_module.json")
    record = Record(out, page, CASES)
    peers = ["semiflat", "power"] + ["pyhessian"] * (options.peer is not None)
    for name in options.cases.split(","):
        if name not in CASES:
            parser.error(f"no case {name}; there are {', '.join(CASES)}")
        rows = []
        for peer in peers:
            call = [sys.executable, __file__, "--one", f"{name}:{peer}"]
            call += ["--threads", str(options.threads)] + ["--quick"] * options.quick
            call += ["--peer", str(options.peer)] if options.peer else []
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
            rows.append(json.loads(done.stdout))
        print(*lines(name, rows), sep="\n")
        record.keep(name, {"rows": rows})


def measured(name: str, peer: str, quick: bool, folder: Path | None) -> Figures:
    """What one of the peers finds, and at what cost."""
    torch.manual_seed(0)
    model, data = cnn(quick) if name == "cnn" else gpt(quick)
    model = model.double().eval()
    loss = tokens if name == "gpt" else nn.functional.cross_entropy
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    count = counted()
    begun, spent = time.perf_counter(), time.process_time()
    if peer == "semiflat":
        found = sf.judge_module(model, data, loss)
        assert found.lowest is not None
        assert found.highest is not None
        flat = found.flat_directions
        assert flat is not None
        said = (
            f"lowest eigenvalue {found.lowest}; highest {found.highest}; {len(flat)} flat families of "
            f"{flat.dimension} dimensions; {found.reason}; the way down takes {found.way_takes_off:.2g} off"
        )
    elif peer == "power":
        said = power(model, data, loss)
    else:
        sys.path.append(str(folder))
        from pyhessian import hessian

        with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
            values, _ = hessian(model, loss, dataloader=data, cuda=False).eigenvalues()
        said = f"eigenvalue {values[0]:.4g}"
    return {
        "peer": peer,
        "parameters": sum(p.numel() for p in model.parameters()),
        "samples": sum(len(x) for x, _ in data),
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - spent,
        "counts": dict(count),
        "start_gib": before,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "said": said,
    }


def counted() -> Counter[str]:
    """Counts losses, gradients and products with the Hessian, over all of the data, from now on."""
    counts: Counter[str] = Counter()

    def counting(name: str) -> None:
        whole = getattr(Derivatives, name)

        def each(self: Derivatives, *args: Any) -> Tensor:
            counts[f"{name}s"] += 1
            return whole(self, *args)

        setattr(Derivatives, name, each)

    for name in ("value", "gradient", "product"):
        counting(name)
    return counts


def power(model: nn.Module, data: Data, loss: Any) -> str:
    """The eigenvalue that is the largest in size."""
    params = list(model.parameters())
    samples = sum(len(x) for x, _ in data)
    way = [torch.randint_like(p, 2) * 2 - 1 for p in params]
    value, products = None, 0
    for _ in range(100):
        length = sum(float(each.square().sum()) for each in way) ** 0.5
        way = [each / length for each in way]
        turned = [torch.zeros_like(p) for p in params]
        for x, y in data:
            with nn.attention.sdpa_kernel(nn.attention.SDPBackend.MATH):
                slopes = torch.autograd.grad(loss(model(x), y), params, create_graph=True)
                parts = torch.autograd.grad(slopes, params, way)
            turned = [a + len(x) / samples * b for a, b in zip(turned, parts, strict=True)]
        products += 1
        last, value = value, sum(float((a * b).sum()) for a, b in zip(way, turned, strict=True))
        way = turned
        if last is not None and abs(value - last) / (abs(value) + 1e-6) < 1e-3:
            break
    return f"eigenvalue {value:.4g} after {products} products"


def tokens(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each letter."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def cnn(quick: bool) -> tuple[nn.Module, Data]:
    from sklearn.datasets import load_digits

    a, b, c = (2, 3, 4) if quick else (100, 210, 420)
    X, y = load_digits(return_X_y=True)
    count = 32 if quick else 256
    images = torch.as_tensor(X[:count]).double().reshape(-1, 1, 8, 8) / 16
    labels = torch.as_tensor(y[:count])
    layers: list[nn.Module] = []
    for before, after, stride in ((1, a, 1), (a, b, 2), (b, c, 2)):
        conv = nn.Conv2d(before, after, 3, stride, 1)
        layers += [conv, nn.BatchNorm2d(after), nn.ReLU()]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 10))
    return model, list(zip(images.split(count // 4), labels.split(count // 4), strict=True))


class Block(nn.Module):
    """A block of a transformer that reads letters from left to right."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(self.first(x)).chunk(3, -1)
        heads = [each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in parts]
        made = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(made.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Gpt(nn.Module):
    """A small language model."""

    def __init__(self, letters: int, length: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(letters, width)
        self.places = nn.Parameter(torch.randn(length, width) / width**0.5)
        self.blocks = nn.Sequential(*(Block(width, 2 if width < 8 else 4) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.embed(ids) + self.places)))


def gpt(quick: bool) -> tuple[nn.Module, Data]:
    letters, length, width, depth = (7, 4, 4, 1) if quick else (256, 32, 128, 4)
    model = Gpt(letters, length, width, depth)
    ids = torch.randint(letters, (16, length + 1))
    return model, [(part[:, :-1], part[:, 1:]) for part in ids.split(8)]


def lines(name: str, rows: list[Figures]) -> list[str]:
    return [
        f"{name}, {each['peer']}: {each['parameters']:,} parameters, {each['samples']:,} samples  "
        f"{each['seconds']:.1f} s, {each['processor_seconds']:.1f} s of processors, "
        f"{each['counts']}, peak {each['peak_gib']:.2f} GiB ({each['start_gib']:.2f} before)  "
        f"{each['said']}"
        for each in rows
    ]


def page(cases: dict[str, Figures]) -> str:
    """The figures as a page."""
    text = [
        "# judge_module on models of 10⁶ parameters",
        "",
        "Made by `benchmarks/judge_module.py`; memory is the process's peak, with torch loaded. Where others "
        "load the machine, the seconds of all processors together say more than those of the clock.",
        "",
        "| case | by | parameters | samples | s | s of processors | GiB | says |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in cases.items():
        text += [
            f"| {name} | {row['peer']} | {row['parameters']:,} | {row['samples']:,} | {row['seconds']:.1f} | "
            f"{row['processor_seconds']:.1f} | "
            f"{row['peak_gib']:.2f} | {row['said']} |"
            for row in figures["rows"]
        ]
    for name, figures in cases.items():
        at, counts = figures["machine"], figures["rows"][0]["counts"]
        text += [
            "",
            f"{name}: {at['date']}, {at['cpu']}, torch {at['torch']}, {at['torch_threads']} thread(s).",
        ]
        text[-1] += (
            f" judge_module took {', '.join(f'{each} {what}' for what, each in counts.items())}."
        )
        text[-1] += (
            f" Load {at['load_before']:.1f} before and {at['load_after']:.1f} after, of {at['cores']} cores."
        )
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    main()
