"""Small models of every kind that people train, with random weights: what units are found in and widened on."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import nn


class SkipMLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.inner = nn.Linear(6, 5)
        self.back = nn.Linear(5, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        h = torch.tanh(self.first(x))
        h = h + self.back(torch.sin(self.inner(h)))
        return self.last(h)


def vgg():
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(6 * 4, 5), nn.ReLU(), nn.Linear(5, 3)),
    )


class Basic(nn.Module):
    def __init__(self, inputs, outputs, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.down = None
        if stride != 1 or inputs != outputs:
            self.down = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        h = F.relu(self.bn1(self.conv1(x)))
        h = self.bn2(self.conv2(h))
        return F.relu(h + (x if self.down is None else self.down(x)))


class Bottleneck(nn.Module):
    def __init__(self, inputs, inner, groups=1):
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(inputs, inner, 1), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, inner, 3, 1, 1, groups=groups), nn.BatchNorm2d(inner), nn.ReLU()),
            *(nn.Conv2d(inner, inputs, 1), nn.BatchNorm2d(inputs)),
        )

    def forward(self, x):
        return F.relu(x + self.layers(x))


def classifier(stem, *layers, features, classes=3):
    return nn.Sequential(
        stem, *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)
    )


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels, inner):
        super().__init__()
        self.down = nn.Conv2d(channels, inner, 1)
        self.up = nn.Conv2d(inner, channels, 1)

    def forward(self, x):
        s = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.up(F.silu(self.down(s))))


class Inverted(nn.Module):
    """An inverted residual, as in MobileNet."""

    def __init__(self, channels, inner, excite=0):
        super().__init__()
        self.expand = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()
        )
        self.depth = nn.Sequential(
            nn.Conv2d(inner, inner, 3, 1, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.Hardswish(),
        )
        self.excite = Squeeze(inner, excite) if excite else nn.Identity()
        self.project = nn.Sequential(
            nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )

    def forward(self, x):
        return x + self.project(self.excite(self.depth(self.expand(x))))


class ConvNeXt(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.depth = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up = nn.Linear(channels, 2 * channels)
        self.down = nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.full((channels,), 0.3))

    def forward(self, x):
        h = self.norm(self.depth(x).permute(0, 2, 3, 1))
        h = self.gamma * self.down(F.gelu(self.up(h)))
        return x + h.permute(0, 3, 1, 2)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(1, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 6, 3, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, 2)
        self.back = nn.Conv2d(4 + 5, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        a = F.relu(self.one(x))
        b = F.relu(self.two(F.max_pool2d(a, 2)))
        return self.out(F.relu(self.back(torch.cat([a, self.up(b)], 1))))


class Attention(nn.Module):
    """Heads as people write them: the stream's width is read off the input where ``free`` is false."""

    def __init__(self, width, heads, free=True, plain=False):
        super().__init__()
        self.h, self.free, self.plain = heads, free, plain
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x):
        batch, time, width = x.shape
        q, k, v = self.qkv(x).chunk(3, -1)
        size = -1 if self.free else width // self.h
        q, k, v = (each.view(batch, time, self.h, size).transpose(1, 2) for each in (q, k, v))
        if self.plain:
            scores = (q @ k.transpose(-2, -1) / 3).softmax(-1)
            mixed = scores @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(mixed.transpose(1, 2).reshape(batch, time, -1 if self.free else width))


class Block(nn.Module):
    def __init__(self, width, heads, post=False, **more):
        super().__init__()
        self.attention = Attention(width, heads, **more)
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.post = post

    def forward(self, x):
        if self.post:
            x = self.one(x + self.attention(x))
            return self.two(x + self.down(F.gelu(self.up(x))))
        x = x + self.attention(self.one(x))
        return x + self.down(F.gelu(self.up(self.two(x))))


class GPT(nn.Module):
    def __init__(self, width=8, heads=2, words=7, blocks=2, tied=False, **more):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.places = nn.Embedding(6, width)
        self.blocks = nn.ModuleList([Block(width, heads, **more) for _ in range(blocks)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids) + self.places(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class ViT(nn.Module):
    def __init__(self, width=8, heads=2):
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(torch.randn(1, 5, width))
        self.block = Block(width, heads, plain=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        h = self.patches(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.cls_token.expand(len(h), -1, -1), h], 1) + self.pos_embed
        return self.head(self.norm(self.block(h))[:, 0])


class RMS(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(width) + 0.5)
        self.eps = 1e-3

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps)


def turned(x):
    """Rotary places."""
    size = x.shape[-1]
    angles = torch.outer(torch.arange(x.shape[-2]), 10.0 ** -torch.arange(size // 2)).to(x.dtype)
    angles = torch.cat([angles, angles], -1)
    half = torch.cat([-x[..., size // 2 :], x[..., : size // 2]], -1)
    return x * angles.cos() + half * angles.sin()


class Llama(nn.Module):
    """RMS norm, rotary places, grouped heads, a gated layer, a tied embedding."""

    def __init__(self, width=8, heads=4, groups=2, size=4, words=7, tied=True, norm=RMS):
        super().__init__()
        self.words = nn.Embedding(words, width)
        self.size = size
        self.q = nn.Linear(width, heads * size, bias=False)
        self.k = nn.Linear(width, groups * size, bias=False)
        self.v = nn.Linear(width, groups * size, bias=False)
        self.o = nn.Linear(heads * size, width, bias=False)
        self.one, self.two, self.last = norm(width), norm(width), norm(width)
        self.gate = nn.Linear(width, 10, bias=False)
        self.up = nn.Linear(width, 10, bias=False)
        self.down = nn.Linear(10, width, bias=False)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids):
        x = self.words(ids)
        h = self.one(x)
        batch, time, _ = x.shape
        q, k, v = (
            layer(h).view(batch, time, -1, self.size).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        mixed = F.scaled_dot_product_attention(
            turned(q), turned(k), v, is_causal=True, enable_gqa=True
        )
        x = x + self.o(mixed.transpose(1, 2).flatten(2))
        h = self.two(x)
        x = x + self.down(F.silu(self.gate(h)) * self.up(h))
        return self.head(self.last(x))


class Twice(nn.Module):
    """One block applied more than once, as in ALBERT."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.block = Block(8, 2)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        h = self.first(x)
        for _ in range(3):
            h = self.block(h)
        return self.last(self.norm(h))


class PerHead(nn.Module):
    """Weights with an axis of their own for heads."""

    def __init__(self, width=6, heads=3, size=2):
        super().__init__()
        self.first = nn.Linear(4, width)
        for name in ("q", "k", "v"):
            setattr(self, name, nn.Parameter(torch.randn(heads, width, size)))
        self.o = nn.Parameter(torch.randn(heads, size, 2))

    def forward(self, x):
        x = torch.tanh(self.first(x))
        q, k, v = (torch.einsum("btd,hde->bhte", x, each) for each in (self.q, self.k, self.v))
        weights = torch.einsum("bhte,bhse->bhts", q, k).softmax(-1)
        return torch.einsum("bhte,hed->btd", weights @ v, self.o)


def group_norms():
    return classifier(
        *(nn.Conv2d(1, 8, 3), nn.GroupNorm(4, 8), nn.ReLU()),
        *(nn.Conv2d(8, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ReLU()),
        *(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6, affine=False), nn.ReLU()),
        *(nn.Conv2d(6, 5, 1), nn.InstanceNorm2d(5), nn.ReLU()),
        features=5,
    )


def decoder():
    return nn.Sequential(
        *(nn.Linear(3, 4 * 4), nn.ReLU(), nn.Unflatten(1, (4, 2, 2))),
        *(nn.ConvTranspose2d(4, 5, 4, 2, 1), nn.BatchNorm2d(5), nn.ReLU()),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(5, 4, 3, padding=1), nn.PReLU(4)),
        *(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.Tanh(), nn.Conv2d(4, 1, 1)),
    )


class Fours(nn.Module):
    """Batch, time, heads, their size and all channels are 4, so that no axis can be told by its size."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.q, self.k, self.v = (nn.Linear(4, 16) for _ in range(3))
        self.o = nn.Linear(16, 4)
        self.conv = nn.Conv1d(4, 4, 1)
        self.last = nn.Linear(4, 4)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        q, k, v = (layer(x).view(4, 4, -1, 4).transpose(1, 2) for layer in (self.q, self.k, self.v))
        h = self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = torch.tanh(self.conv(torch.tanh(h).transpose(1, 2))).transpose(1, 2)
        return self.last(h)


class Gated(nn.Module):
    """Gated linear units of one layer, parts of which are read apart."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(3, 12)
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.down = nn.Linear(6, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x):
        h = torch.tanh(self.down(F.glu(self.up(x), -1) * self.scale))
        return self.last(h)


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.cells = kind(4, 5, batch_first=True)
        self.last = nn.Linear(5, 2)

    def forward(self, x):
        return self.last(self.cells(torch.tanh(self.first(x)))[0])


class Mixer(nn.Module):
    """Layers along the tokens as well as along the channels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 6)
        self.up, self.down = nn.Linear(5, 7), nn.Linear(7, 5)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        h = self.first(x)
        h = h + self.down(F.gelu(self.up(h.transpose(1, 2)))).transpose(1, 2)
        return self.last(h)


class QKNorm(nn.Module):
    """Queries and keys are normalised within each head."""

    def __init__(self, width=6, size=4):
        super().__init__()
        self.first = nn.Linear(3, width)
        self.q, self.k, self.v = (nn.Linear(width, 3 * size) for _ in range(3))
        self.of_q, self.of_k = nn.LayerNorm(size), RMS(size)
        self.o = nn.Linear(3 * size, 2)
        self.size = size

    def forward(self, x):
        x = torch.tanh(self.first(x))
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2)
            for layer in (self.q, self.k, self.v)
        )
        h = F.scaled_dot_product_attention(self.of_q(q), self.of_k(k), v)
        return self.o(h.transpose(1, 2).flatten(2))


@dataclass(frozen=True)
class Animal:
    """A model of the zoo.

    Attributes:
        make: gives the model.
        example: gives its inputs.
        groups: kind and size of each group that can be changed, by name.
        refused: a part of the reason for each group that cannot; outputs are left out.
    """

    make: Callable
    example: Callable
    groups: dict[str, tuple[str, int]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def image(*sizes):
    return lambda: torch.randn(*sizes)


def words():
    return torch.randint(0, 7, (2, 5))


ZOO = {
    "skips": Animal(SkipMLP, image(4, 3)),
    "vgg": Animal(vgg, image(4, 1, 8, 8)),
    "basic": Animal(
        lambda: classifier(
            nn.Conv2d(1, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            Basic(4, 4),
            Basic(4, 6, 2),
            features=6,
        ),
        image(4, 1, 8, 8),
    ),
    "bottleneck": Animal(
        lambda: classifier(nn.Conv2d(1, 6, 3), Bottleneck(6, 3), Bottleneck(6, 2), features=6),
        image(4, 1, 7, 7),
    ),
    "grouped": Animal(
        lambda: classifier(nn.Conv2d(1, 6, 3), Bottleneck(6, 8, groups=4), features=6),
        image(4, 1, 7, 7),
    ),
    "mobile": Animal(
        lambda: classifier(nn.Conv2d(1, 4, 3), Inverted(4, 6), Inverted(4, 8, 3), features=4),
        image(4, 1, 7, 7),
    ),
    "convnext": Animal(
        lambda: classifier(nn.Conv2d(1, 4, 2, 2), ConvNeXt(4), ConvNeXt(4), features=4),
        image(2, 1, 8, 8),
    ),
    "unet": Animal(UNet, image(2, 1, 8, 8)),
    "gpt": Animal(GPT, words),
    "gpt tied": Animal(lambda: GPT(tied=True, blocks=1), words),
    "gpt fixed sizes": Animal(lambda: GPT(free=False, blocks=1), words),
    "post-norm": Animal(lambda: GPT(post=True, blocks=1), words),
    "vit": Animal(ViT, image(2, 1, 8, 8)),
    "encoder": Animal(
        lambda: nn.Sequential(
            nn.Linear(3, 8),
            nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True, norm_first=True),
            nn.Linear(8, 2),
        ),
        image(2, 5, 3),
    ),
    "llama": Animal(Llama, words),
    "llama untied": Animal(
        lambda: Llama(tied=False, norm=lambda n: nn.RMSNorm(n, eps=1e-3)), words
    ),
    "twice": Animal(Twice, image(2, 5, 3)),
    "per head": Animal(PerHead, image(2, 5, 4)),
    "group norms": Animal(group_norms, image(3, 1, 10, 10)),
    "decoder": Animal(decoder, image(4, 3)),
    "fours": Animal(Fours, image(4, 4, 4)),
    "gated": Animal(Gated, image(4, 3)),
    "qk norm": Animal(QKNorm, image(2, 5, 3)),
    "lstm": Animal(lambda: Recurrent(nn.LSTM), image(2, 5, 3)),
    "gru": Animal(lambda: Recurrent(nn.GRU), image(2, 5, 3)),
    "mixer": Animal(Mixer, image(2, 5, 3)),
}
