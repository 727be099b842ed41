"""Scikit-learn's handwritten digits, as K19's gap is measured on them: reduced, trained, and at infinity."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

import semiflat as sf
from semiflat_experiments.dense import ACTIVATIONS

Array = NDArray[np.float64]
CLASSES = (3, 5, 8)
"""Digits that no few components tell apart, so that cross-entropy has minima."""


@cache
def _digits() -> tuple[Array, NDArray[np.int64]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # three pixels are constant, and left out
        data = sf.load_data("digits")
    return data.X, data.y


def reduced(
    widths: tuple[int, ...], activation: str, loss: str, samples: int, seed: int
) -> sf.Problem:
    """Some images of :data:`CLASSES` by as many principal components as the network has inputs.

    The targets of the squared loss are 1 for the class and 0 for others.

    >>> reduced((2, 2, 3), "tanh", "squared", 150, seed=0).y.shape
    torch.Size([150, 3])
    """
    images, labels = _digits()
    kept = np.isin(labels, CLASSES)
    centred = images[kept] - images[kept].mean(0)
    left, _, right = np.linalg.svd(centred, full_matrices=False)
    left = left * np.sign(right[:, :1].T)  # of a component, whose sign is free
    components = left[:, : widths[0]] * math.sqrt(len(left))  # of deviation 1
    chosen = np.random.default_rng([seed, 19]).permutation(len(left))[:samples]
    X = torch.from_numpy(components[chosen])
    classes = torch.from_numpy(np.searchsorted(CLASSES, labels[kept][chosen]))
    targets = classes if loss == "cross_entropy" else functional.one_hot(classes).double()
    return sf.Problem(sf.MLP(widths, activation), X, targets, loss)


def whole(samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of all ten digits, (N, 61) standardised pixels, and their classes."""
    images, labels = _digits()
    chosen = np.random.default_rng([seed, 61]).permutation(len(images))[:samples]
    return torch.from_numpy(images[chosen]), torch.from_numpy(labels[chosen])


# -- training ----------------------------------------------------------------------------------------


def network(widths: tuple[int, ...], activation: type[nn.Module], seed: int) -> nn.Sequential:
    """An ``nn.Sequential`` in float64 with PyTorch's own kind of start, from a seed of its own."""
    generator = torch.Generator().manual_seed(seed)
    layers: list[nn.Module] = []
    for fan_in, out in pairwise(widths):
        layer = nn.Linear(fan_in, out).double()
        for parameter in layer.parameters():
            draw = torch.rand(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data = (2 * draw - 1) / math.sqrt(fan_in)
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


def mean_loss(module: nn.Module, X: Tensor, y: Tensor, loss: str) -> Tensor:
    """½ mean ‖f − y‖², or mean cross-entropy."""
    f = module(X)
    if loss == "squared":
        half: Tensor = (f - y).square().sum() / 2 / len(f)
        return half
    return functional.cross_entropy(f, y)


def gradient_of(module: nn.Module, X: Tensor, y: Tensor, loss: str) -> float:
    """‖∇L‖₂."""
    parts = torch.autograd.grad(mean_loss(module, X, y, loss), list(module.parameters()))
    return float(torch.cat([part.reshape(-1) for part in parts]).norm())


def train(
    module: nn.Module, X: Tensor, y: Tensor, loss: str, optimiser: str, rate: float, at: list[int]
) -> Iterator[int]:
    """Full batches; the iteration each time the training is at one of ``at``."""
    make = {"gradient descent": torch.optim.SGD, "Adam": torch.optim.Adam}[optimiser]
    descent = make(module.parameters(), lr=rate)
    for iteration in range(max(at) + 1):
        if iteration in at:
            yield iteration
        descent.zero_grad()
        mean_loss(module, X, y, loss).backward()
        descent.step()


def rescaled(module: nn.Sequential, factors: Tensor) -> nn.Sequential:
    """The same function with the first layer's ReLU units times ``factors``, and what they feed over them."""
    twin = nn.Sequential(
        *(
            type(layer)()
            if not isinstance(layer, nn.Linear)
            else nn.Linear(layer.in_features, layer.out_features).double()
            for layer in module
        )
    )
    twin.load_state_dict(module.state_dict())
    first, second = twin[0], twin[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    first.weight.data *= factors[:, None]
    first.bias.data *= factors
    second.weight.data /= factors
    return twin


# -- limits ------------------------------------------------------------------------------------------

_DERIVATIVES: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": lambda z: 1 - torch.tanh(z) ** 2,
    "gelu": lambda z: (
        torch.erfc(-z / math.sqrt(2)) / 2 + z * torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    ),
}


class Limiting(nn.Module):
    """A limiting network written out, so that K19's theorem can be asked about a minimum at infinity.

    Args:
        limit: of units, gates, tails and linear units; steps are not of this kind.
    """

    def __init__(self, limit: sf.Limit) -> None:
        super().__init__()
        self.limit = limit
        self.name = limit.net.activations[0].name
        widths = limit.net.widths
        self.layers = nn.ModuleList(
            nn.Linear(fan_in, out).double() for fan_in, out in pairwise(widths)
        )
        self.load_state_dict(
            {
                f"layers.{int(key.split('.')[0]) // 2}.{key.split('.')[1]}": tensor
                for key, tensor in limit.params.items()
            }
        )

    def forward(self, X: Tensor) -> Tensor:
        h = X
        for layer, forms in enumerate(self.limit.net.forms):
            z = self.layers[layer](h)
            h = torch.stack([self._unit(layer, k, form, z) for k, form in enumerate(forms)], dim=-1)
        out: Tensor = self.layers[-1](h)
        return out

    def _unit(self, layer: int, unit: int, form: sf.Form, z: Tensor) -> Tensor:
        own = z[..., unit]
        if form is sf.Form.GATE:
            return own * _DERIVATIVES[self.name](z[..., self.limit.net.base(layer, unit)])
        if form is sf.Form.TAIL:
            return torch.exp(own)
        return own if form is sf.Form.LINEAR else ACTIVATIONS[self.name](own)


def knows(limit: sf.Limit) -> bool:
    """Whether :class:`Limiting` can write it out."""
    forms = {form for row in limit.net.forms for form in row}
    return sf.Form.STEP not in forms and limit.net.activations[0].name in _DERIVATIVES
