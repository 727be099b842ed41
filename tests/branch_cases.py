"""Small models of every kind of parallel branch, and the inertia law of theory §9 tried on them.

The reference is plain automatic differentiation of the widened model, which knows nothing of units.
"""

from __future__ import annotations

import copy
import math
import random
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from reference import count, spectrum


class Channels(nn.Module):
    """Convolution, batch normalisation, activation, pooling, convolution."""

    def __init__(self, activation: type[nn.Module] = nn.Tanh) -> None:
        super().__init__()
        self.conv, self.bn, self.act = nn.Conv2d(1, 2, 2), nn.BatchNorm2d(2), activation()
        self.read, self.out = nn.Conv2d(2, 2, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.act(self.bn(self.conv(x))), 2)
        return self.out(torch.sigmoid(self.read(x)).flatten(1))


class Heads(nn.Module):
    """Attention and a sum with what entered, under layer normalisation; keys may be fewer than queries."""

    def __init__(self, heads: int = 2, groups: int = 2, size: int = 1, width: int = 2) -> None:
        super().__init__()
        self.heads, self.groups, self.size = heads, groups, size
        self.q = nn.Linear(width, heads * size, bias=False)
        self.k = nn.Linear(width, groups * size, bias=False)
        self.v = nn.Linear(width, groups * size, bias=False)
        self.o, self.norm = nn.Linear(heads * size, width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        batch, time, _ = x.shape
        q = self.q(x).view(batch, time, self.heads, self.size).transpose(1, 2)
        k = self.k(x).view(batch, time, self.groups, self.size).transpose(1, 2)
        v = self.v(x).view(batch, time, self.groups, self.size).transpose(1, 2)
        many = self.heads // self.groups
        k, v = k.repeat_interleave(many, 1), v.repeat_interleave(many, 1)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(self.size)).softmax(-1)
        return self.norm(x + self.o((weights @ v).transpose(1, 2).reshape(batch, time, -1)))


class Gated(nn.Module):
    """SwiGLU in a residual block before layer normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.down, self.norm = nn.Linear(3, 3, bias=False), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.down(F.silu(self.gate(x)) * self.up(x)))


class Residual(nn.Module):
    """Two hidden layers inside a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.out = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(x + self.c(F.gelu(self.b(torch.tanh(self.a(x)))))))


class Depthwise(nn.Module):
    """Pointwise, depthwise and pointwise convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.bn = nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)
        self.deep, self.project = nn.Conv2d(2, 2, 2, groups=2), nn.Conv2d(2, 2, 1)
        self.out = nn.Linear(2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.deep(F.silu(self.bn(self.expand(x)))))
        return self.out(torch.tanh(self.project(x)).mean((2, 3)))


class Recurrent(nn.Module):
    """Units with a memory of their own, read at every time by the same weights."""

    def __init__(self) -> None:
        super().__init__()
        self.feed, self.keep = nn.Linear(2, 3), nn.Parameter(torch.randn(3))
        self.read = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        state, total = torch.zeros_like(self.feed(x[:, 0])), []
        for time in range(x.shape[1]):
            state = torch.tanh(self.feed(x[:, time]) + self.keep * state)
            total.append(torch.tanh(self.read(state)))
        return torch.stack(total, 1).mean(1)


class Upwards(nn.Module):
    """A transposed convolution, read by another."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.ConvTranspose2d(1, 2, 2), nn.ConvTranspose2d(2, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.two(torch.tanh(self.one(x)))).mean((2, 3))


class Skips(nn.Module):
    """Units read by two layers, the second of which reads what the first makes of them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.tanh(self.a(x))
        return self.c(torch.cat([a, torch.tanh(self.b(a))], 1))


class Stream(nn.Module):
    """A residual stream: what reads its units is added to them again, by other weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.out = nn.Linear(2, 3), nn.Linear(3, 2)
        self.b, self.c = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(torch.tanh(x + self.c(torch.tanh(self.b(x)))))


def perceptron() -> nn.Module:
    """Three hidden layers' worth of units in two layers."""
    return nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2), nn.Sigmoid(), nn.Linear(2, 2))


@dataclass(frozen=True)
class Kind:
    """A kind of branch.

    Attributes:
        name: of it.
        make: the model.
        shape: of one input.
        classes: whether the loss is the cross-entropy.
        train: the mode.
    """

    name: str
    make: Any
    shape: tuple[int, ...]
    classes: bool = False
    train: bool = False


KINDS = (
    Kind("hidden units", perceptron, (2,)),
    Kind("channels, own statistics", Channels, (1, 5, 5), classes=True),
    Kind("channels, statistics of the batch", Channels, (1, 5, 5), train=True),
    Kind("heads", lambda: Heads(size=2, width=3), (3, 3)),
    Kind("grouped heads", lambda: Heads(heads=4, groups=2, width=3), (3, 3)),
    Kind("gated units", Gated, (2, 3)),
    Kind("units of a residual block", Residual, (2,)),
    Kind("depthwise channels", Depthwise, (1, 3, 3), train=True),
    Kind("recurrent units", Recurrent, (3, 2), classes=True),
    Kind("transposed convolution", Upwards, (1, 2, 2)),
    Kind("units read twice", Skips, (2,), classes=True),
    Kind("units of a residual stream", Stream, (2,)),
)


@dataclass
class Drawn:
    """A model at a random point, with data."""

    model: nn.Module
    data: list[tuple[Tensor, Tensor]]
    loss: Any
    found: sf.UnitCurvature = field(init=False)

    def __post_init__(self) -> None:
        self.found = sf.unit_curvature(self.model, self.data, self.loss)


def drawn(kind: Kind, seed: int) -> Drawn:
    """A model of a kind at a random point, on two batches of random data."""
    torch.manual_seed(seed)
    model = kind.make().double().train(kind.train)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            tensor.copy_(torch.randn_like(tensor) * (0.8 if tensor.ndim > 1 else 0.4))
            if name.endswith(("norm.weight", "bn.weight")):
                tensor.abs_().add_(0.5)
        for name, tensor in model.named_buffers():
            if name.endswith("running_mean"):
                tensor.normal_()
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
    data = []
    for samples in (5, 5):
        x = torch.randn(samples, *kind.shape, dtype=torch.float64)
        shape = [len(x), *copy.deepcopy(model)(x).shape[1:]]
        y = torch.randint(0, shape[1], (samples,)) if kind.classes else torch.randn(shape).double()
        data.append((x, y))
    return Drawn(model, data, F.cross_entropy if kind.classes else F.mse_loss)


def hessian(model: nn.Module, data: list[tuple[Tensor, Tensor]], loss: Any) -> Tensor:
    """The Hessian of the mean loss by plain automatic differentiation, (P, P)."""
    samples = sum(len(x) for x, _ in data)
    total: Any = 0.0
    for x, y in data:
        twin = copy.deepcopy(model)
        own = [each for each in twin.parameters() if each.requires_grad]
        first = torch.autograd.grad(
            loss(twin(x), y), own, create_graph=True, materialize_grads=True
        )
        flat = torch.cat([each.reshape(-1) for each in first])
        rows = []
        for entry in flat:
            row = torch.autograd.grad(entry, own, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([each.reshape(-1) for each in row]))
        total = total + torch.stack(rows) * (len(x) / samples)
    whole: Tensor = total
    return whole


@dataclass(frozen=True)
class Change:
    """Copies and null units, by group."""

    copies: dict[str, dict[int, list[float]]]
    nulls: dict[str, int]

    @property
    def branches(self) -> int:
        """How many are copied or new."""
        return sum(map(len, self.copies.values())) + sum(self.nulls.values())

    def made(self, case: Drawn) -> nn.Module:
        """The widened model."""
        model, inputs = case.model, case.data[0][0]
        # What makes a null unit is as wide as the narrow layer below: so from the top down, and before copies.
        for name in reversed(list(case.found)):
            if name in self.nulls:
                silent = case.found[name].silent
                model = sf.widen(model, inputs, name, units=1, incoming=silent).model
        for name, copies in self.copies.items():
            model = sf.widen(model, inputs, name, copies=copies).model
        return model


SHARES = (
    [0.25, 0.75],
    [0.3, 0.3, 0.4],
    [1.5, -0.5],
    [2.0, -0.5, -0.5],
    [0.375, 0.625, 0.0],
    [1.0, 0.0],
    [1.25, 0.25, -0.5],
)


def change(case: Drawn, seed: int) -> Change:
    """A random change: copies of a unit or two, in one group or two, and now and then a null unit."""
    rng = random.Random(f"{seed} {list(case.found)}")
    names = list(case.found)
    chosen = rng.sample(names, min(len(names), rng.choice((1, 1, 2))))
    copies: dict[str, dict[int, list[float]]] = {}
    nulls: dict[str, int] = {}
    for name in chosen:
        units = range(len(case.found[name].units))
        if case.found[name].null and rng.random() < 0.35:
            nulls[name] = 1
        if name not in nulls or rng.random() < 0.3:
            some = rng.sample(units, rng.choice((1, 1, min(2, len(units)))))
            copies[name] = {unit: rng.choice(SHARES) for unit in some}
    return Change(copies, nulls)


def verdict(case: Drawn, change: Change) -> tuple[str, str]:
    """``"holds"``, ``"wrong"`` or ``"unclear"``, and what of it."""
    narrow = count(spectrum(hessian(case.model, case.data, case.loss)))
    wide = count(spectrum(hessian(change.made(case), case.data, case.loss)))
    said = case.found.law(change.copies, change.nulls, narrow[:3])
    what = f"{change}: narrow {narrow}, wide {wide}, said {said.positive, said.zero, said.negative}"
    if not (narrow[3] and wide[3]):
        return "unclear", f"the dense spectrum: {what}"
    if not said.exact:
        bounds = said.positive <= wide[0] and said.negative <= wide[2]
        return "unclear" if bounds else "wrong", f"K: {what}"
    same = (said.positive, said.zero, said.negative) == wide[:3]
    return "holds" if same else "wrong", what
