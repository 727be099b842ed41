"""Random problems of every kind that F19's and P21's theorems on replicated minima are about."""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import torch

import semiflat as sf

SAMPLES = {"squared": 40, "logistic": 40, "cross_entropy": 150}
_APART = 10**8
"""Between the seeds of teachers and of data, so that these do not come from the same numbers."""


class Family(NamedTuple):
    """A network and a loss; ``bias`` says whether the hidden layers have biases."""

    widths: tuple[int, ...]
    activation: str
    loss: str
    bias: bool

    @property
    def shape(self) -> str:
        """``2-2-1``."""
        return "-".join(map(str, self.widths))

    def __str__(self) -> str:
        bias = "with" if self.bias else "without"
        return f"{self.activation} {self.shape} {self.loss} {bias} hidden biases"


def _families() -> list[Family]:
    one = product([(1, 2, 1)], ["tanh", "sigmoid", "softplus", "gelu", "silu", "sin"], ["squared"])
    classes = product([(2, 2, 1)], ["tanh", "gelu"], ["logistic"])
    many = product([(2, 2, 2)], ["tanh", "softplus", "gelu", "sin"], ["squared"])
    more = product([(2, 2, 3)], ["tanh", "gelu", "relu"], ["cross_entropy"])
    relu = product([(2, 2, 2), (2, 3, 1), (2, 2, 2, 1)], ["relu"], ["squared"])
    deep = product(
        [(2, 2, 2, 1), (2, 2, 1, 1)], ["tanh", "sigmoid", "softplus", "gelu"], ["squared"]
    )
    kinds = [*one, *classes, *many, *more, *relu, *deep]
    return [Family(*kind, bias) for kind in kinds for bias in (True, False)]


FAMILIES = {str(family): family for family in _families()}

FEW = (
    "tanh 1-2-1 squared without hidden biases",
    "gelu 1-2-1 squared with hidden biases",
    "gelu 2-2-1 logistic without hidden biases",
    "tanh 2-2-2 squared without hidden biases",
    "gelu 2-2-2 squared with hidden biases",
    "relu 2-2-2 squared with hidden biases",
    "relu 2-3-1 squared with hidden biases",
    "sigmoid 2-2-1-1 squared without hidden biases",
    "gelu 2-2-2-1 squared without hidden biases",
)
"""Families in which every theorem speaks."""


def drawn(family: Family, seed: int) -> sf.Problem:
    """Gaussian inputs of deviation 2; targets of a network with one hidden layer, wider by a unit, with noise.

    Half of the classes are drawn without regard to the inputs, so that none can be told from the others
    without error and minima are finite.

    >>> problem = drawn(FAMILIES["tanh 1-2-1 squared with hidden biases"], seed=0)
    >>> problem.samples, problem.net.widths
    (40, (1, 2, 1))
    """
    inputs, units, outputs = family.widths[0], family.widths[1] + 1, family.widths[-1]
    generator = torch.Generator().manual_seed(_APART + seed)
    normal = torch.randn(SAMPLES[family.loss], inputs, generator=generator, dtype=torch.float64)
    X = 2 * normal
    teacher = sf.MLP([inputs, units, outputs], family.activation)
    f = 3 * teacher.forward(teacher.random_params(seed), X)
    y = f + 0.3 * torch.randn(f.shape, generator=generator, dtype=torch.float64)
    if family.loss == "cross_entropy":
        probabilities = (f.softmax(1) + 1 / outputs) / 2
        y = torch.multinomial(probabilities, 1, generator=generator)[:, 0]
    elif family.loss == "logistic":
        y = torch.sigmoid(y)
    biases = [family.bias] * (len(family.widths) - 2) + [True]
    return sf.Problem(sf.MLP(family.widths, family.activation, biases), X, y, family.loss)
