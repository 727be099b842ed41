"""What is grown on: data that ships with Python or a package, or is drawn; models with room to grow.

In each task one more unit costs the same in every group that may grow, so equal units are equal parameters.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import torch
from torch import Tensor, nn

from semiflat.bundled import bundle


@dataclass(frozen=True)
class Split:
    """Data to train on and data held out."""

    X: Tensor
    y: Tensor
    X_held: Tensor
    y_held: Tensor


@dataclass(frozen=True)
class Task:
    """One thing to learn.

    Attributes:
        data: makes it, the same each time.
        model: makes a model with so many units in each group that may grow.
        loss: of outputs and targets, a mean over samples.
        width: units of each group at the start.
        units: how many are added, over all groups.
        groups: names of those that may grow, and the modules that make and read their units.
        before, after: epochs before growing and after it.
        batch, rate: samples of a batch, and the learning rate of Adam.
        searched: samples that any way may look at for growing.
        layer: what kind of layer grows.
    """

    data: Callable[[], Split]
    model: Callable[[int], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    width: int
    units: int
    groups: dict[str, tuple[str, str]]
    before: int
    after: int
    batch: int = 100
    rate: float = 3e-3
    searched: int = 6000
    layer: str = field(default="linear")

    @property
    def wide(self) -> int:
        """Units of each group when all are grown alike."""
        return self.width + self.units // len(self.groups)


def parted(X: np.ndarray, y: np.ndarray, train: int) -> Split:
    """Shuffled, cut, and each input standardised by the part that is trained on."""
    order = np.random.default_rng(0).permutation(len(y))
    X, y = X[order], y[order]
    scale = X[:train].std(0)
    X = (X - X[:train].mean(0)) / np.where(scale > 0, scale, 1.0)
    whole = torch.as_tensor(X).float()
    target = torch.as_tensor(y)
    target = target.long() if target.dtype == torch.int64 else target.float()
    return Split(whole[:train], target[:train], whole[train:], target[train:])


@cache
def digits() -> Split:
    """Images of 8 × 8 in [0, 1]."""
    data = bundle("digits")
    order = np.random.default_rng(0).permutation(len(data.y))
    X, y = torch.as_tensor(data.X[order]).float() / 16, torch.as_tensor(data.y[order]).long()
    return Split(X[:1200], y[:1200], X[1200:], y[1200:])


@cache
def diabetes() -> Split:
    """Targets standardised, too."""
    data = bundle("diabetes")
    y = (data.y - data.y.mean()) / data.y.std()
    return parted(data.X, y[:, None], 330)


@cache
def cancer() -> Split:
    """Breast cancer, Wisconsin."""
    data = bundle("breast_cancer")
    return parted(data.X, data.y, 400)


@cache
def teacher() -> Split:
    """What a teacher 20-10-10 with ReLU and Gaussian weights makes of Gaussian inputs.

    The grown student has two units less than the teacher, so that no loss comes to 0 and all can be told apart.

    Source: Evci et al. 2022 (GradMax), the sizes of its teacher.
    """
    draw = torch.Generator().manual_seed(0)
    V, W = (torch.randn(shape, generator=draw) for shape in ((10, 20), (10, 10)))
    X = torch.randn(2000, 20, generator=draw)
    y = torch.relu(X @ V.T / 20**0.5) @ W.T
    return Split(X[:1000], y[:1000], X[1000:], y[1000:])


@cache
def multisin() -> Split:
    """Inputs from N(0, 1) in 10 dimensions, ``y_d = Σ_i sin(i x_i + d)`` with i from 1 to 10, d from 0 to 2.

    Source: the documentation of gromo (Verbockhaven et al. 2024).
    """
    X = torch.randn(8000, 10, generator=torch.Generator().manual_seed(0))
    inner = X * torch.arange(1, 11)
    y = torch.stack([torch.sin(inner + d).sum(1) for d in range(3)], 1)
    return Split(X[:6000], y[:6000], X[6000:], y[6000:])


PLACES, LINES = 16, 3000


@cache
def text() -> tuple[Split, int]:
    """Lines of 16 characters of Python's help topics, the next character to be said; and how many there are."""
    whole = "\n".join(topics[name] for name in sorted(topics))
    known = {c: k for k, c in enumerate(sorted(set(whole)))}
    codes = torch.tensor([known[c] for c in whole])
    starts = torch.randperm(len(codes) // (PLACES + 1), generator=torch.Generator().manual_seed(0))
    at = starts[: 3 * LINES // 2, None] * (PLACES + 1) + torch.arange(PLACES + 1)
    lines = codes[at]
    X, y = lines[:, :-1], lines[:, 1:]
    return Split(X[:LINES], y[:LINES], X[LINES:], y[LINES:]), len(known)


@cache
def vowels() -> Split:
    """Two vowels spoken by nine men, 12 cepstra at 25 times; who spoke is to be said. It ships with aeon."""
    spec = importlib.util.find_spec("aeon")
    if spec is None or spec.origin is None:
        raise SystemExit("the spoken vowels come with aeon: pip install --no-deps aeon")
    folder = Path(spec.origin).parent / "datasets" / "data" / "JapaneseVowels"
    parts = []
    for part in ("TRAIN", "TEST"):
        lines = (folder / f"JapaneseVowels_eq_{part}.ts").read_text(encoding="utf-8").splitlines()
        rows = [line.split(":") for line in lines[lines.index("@data") + 1 :] if line]
        X = torch.tensor(
            [[[float(v) for v in line.split(",")] for line in row[:-1]] for row in rows]
        )
        y = torch.tensor([int(row[-1]) - 1 for row in rows])
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
        parts += [X[order], y[order]]  # they come man by man
    return Split(*parts)


def mlp(inputs: int, outputs: int, act: type[nn.Module]) -> Callable[[int], nn.Module]:
    """One hidden layer."""
    return lambda width: nn.Sequential(nn.Linear(inputs, width), act(), nn.Linear(width, outputs))


class Residual(nn.Module):
    """Two convolutions beside the identity; the channels between them can grow."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.first, self.norm = (
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )
        self.second, self.last = (
            nn.Conv2d(width, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        inner = nn.functional.silu(self.norm(self.first(x)))
        return nn.functional.silu(x + self.last(self.second(inner)))


def residual_cnn(width: int) -> nn.Module:
    """Images of 8 × 8, a stream of 8 channels."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.SiLU(),
        Residual(8, width),
        Residual(8, width),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def conv_in_time(width: int) -> nn.Module:
    """Two convolutions in time, of which the first can grow."""
    return nn.Sequential(
        nn.Conv1d(12, width, 5),
        nn.GELU(),
        nn.Conv1d(width, 12, 5),
        nn.GELU(),
        nn.AdaptiveAvgPool1d(2),
        nn.Flatten(),
        nn.Linear(24, 9),
    )


class Block(nn.Module):
    """Causal attention with two heads, and an MLP whose units can grow."""

    def __init__(self, stream: int, width: int) -> None:
        super().__init__()
        self.norm, self.qkv = nn.LayerNorm(stream), nn.Linear(stream, 3 * stream)
        self.out, self.second = nn.Linear(stream, stream), nn.LayerNorm(stream)
        self.up, self.down = nn.Linear(stream, width), nn.Linear(width, stream)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part.unflatten(-1, (2, -1)).transpose(1, 2)
            for part in self.qkv(self.norm(x)).chunk(3, -1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Gpt(nn.Module):
    """A small GPT of characters."""

    def __init__(self, width: int, stream: int = 24) -> None:
        super().__init__()
        words = text()[1]
        self.words, self.places = nn.Embedding(words, stream), nn.Embedding(PLACES, stream)
        self.first, self.second = Block(stream, width), Block(stream, width)
        self.norm, self.last = nn.LayerNorm(stream), nn.Linear(stream, words)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.words(x) + self.places.weight[: x.shape[1]]
        return self.last(self.norm(self.second(self.first(stream))))


def said(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy of every character, a mean over lines and places."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


class Gated(nn.Module):
    """An MLP of gated units, as SwiGLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = (
            nn.Linear(64, width),
            nn.Linear(64, width),
            nn.Linear(width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Attends(nn.Module):
    """Attention among the eight rows of an image; its heads, of size 4, can grow."""

    def __init__(self, heads: int, stream: int = 16) -> None:
        super().__init__()
        self.heads = heads
        self.rows, self.places = nn.Linear(8, stream), nn.Parameter(torch.randn(8, stream) / 4)
        self.qkv, self.out = nn.Linear(stream, 3 * heads * 4), nn.Linear(heads * 4, stream)
        self.last = nn.Linear(stream, 10)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.rows(x.unflatten(1, (8, 8))) + self.places
        parts = self.qkv(stream).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(*parts)
        stream = stream + self.out(mixed.transpose(1, 2).flatten(2))
        return self.last(nn.functional.gelu(stream).mean(1))


cross_entropy, mse_loss = nn.functional.cross_entropy, nn.functional.mse_loss
ONE = {"0": ("0", "2")}
TASKS: dict[str, Task] = {
    "digits MLP": Task(digits, mlp(64, 10, nn.GELU), cross_entropy, 6, 6, ONE, 60, 30),
    "digits CNN": Task(
        digits,
        residual_cnn,
        cross_entropy,
        3,
        6,
        {"4.first": ("4.first", "4.second"), "5.first": ("5.first", "5.second")},
        15,
        10,
        layer="convolution with batch norm",
    ),
    "teacher": Task(teacher, mlp(20, 10, nn.ReLU), mse_loss, 4, 4, ONE, 100, 100),
    "MultiSin": Task(multisin, mlp(10, 3, nn.SELU), mse_loss, 10, 10, ONE, 40, 40, batch=200),
    "GPT": Task(
        lambda: text()[0],
        Gpt,
        said,
        4,
        16,
        {"first.up": ("first.up", "first.down"), "second.up": ("second.up", "second.down")},
        8,
        6,
        batch=32,
        rate=5e-3,
        searched=300,
        layer="linear in a transformer",
    ),
    "diabetes": Task(diabetes, mlp(10, 1, nn.Tanh), mse_loss, 3, 3, ONE, 60, 60, batch=33),
    "breast cancer": Task(cancer, mlp(30, 2, nn.Tanh), cross_entropy, 2, 2, ONE, 20, 20, batch=40),
    "vowels": Task(
        vowels,
        conv_in_time,
        cross_entropy,
        4,
        4,
        {"0": ("0", "2")},
        30,
        20,
        batch=30,
        layer="convolution",
    ),
}

MORE: dict[str, Task] = {
    "gated units": Task(
        digits,
        Gated,
        cross_entropy,
        4,
        4,
        {"gate": ("gate", "down")},
        40,
        0,
        layer="gated unit",
    ),
    "heads": Task(
        digits, Attends, cross_entropy, 2, 2, {"qkv": ("qkv", "out")}, 30, 0, layer="head"
    ),
}
"""Further kinds of layers, for predictions alone."""
