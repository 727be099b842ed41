"""Activations of class A of P21: increasing, analytic, bounded, with 0 in the closed image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.errors import InputError


@dataclass(frozen=True)
class Levels:
    """Activations as their distances to both ends of the image, so that saturated ones keep digits.

    Attributes:
        lower: ``a − c`` above 0, any shape.
        upper: ``d − a`` above 0, the same shape.
    """

    lower: Tensor
    upper: Tensor

    def mix(self, other: Levels, part: Tensor | float) -> Levels:
        """``(1 − part) a + part a'``, part in [0, 1]."""
        keep = 1 - part
        return Levels(
            keep * self.lower + part * other.lower, keep * self.upper + part * other.upper
        )

    def plus(self, step: Tensor) -> Levels:
        """``a + step``, which the caller knows to stay inside."""
        return Levels(self.lower + step, self.upper - step)

    def unit(self, index: int) -> Levels:
        """Those of one unit, the last axis."""
        return Levels(self.lower[..., index], self.upper[..., index])

    def put(self, index: int, other: Levels) -> Levels:
        """With one unit's replaced; leading axes of ``other`` may be more."""
        shape = (*other.lower.shape, self.lower.shape[-1])
        lower, upper = self.lower.expand(shape).clone(), self.upper.expand(shape).clone()
        lower[..., index], upper[..., index] = other.lower, other.upper
        return Levels(lower, upper)


@dataclass(frozen=True)
class Image:
    """The image (c, d) of an activation of class A, ``σ(z) = c + (d − c)/(1 + e^{−rate z})``.

    Both tanh (c = −1, d = 1, rate 2) and sigmoid (c = 0, d = 1, rate 1) are of that form, and for it
    σ⁻¹ is the logarithm of a quotient of distances (P21 Lemma 4).
    """

    low: float
    high: float
    rate: float

    def levels(self, z: Tensor) -> Levels:
        """``σ(z)``."""
        reach = self.high - self.low
        return Levels(reach * torch.sigmoid(self.rate * z), reach * torch.sigmoid(-self.rate * z))

    def inverse(self, levels: Levels) -> Tensor:
        """``σ⁻¹``: pre-activations that give these activations."""
        return torch.log(levels.lower / levels.upper) / self.rate

    def value(self, levels: Levels) -> Tensor:
        """The activations themselves."""
        return levels.lower + self.low

    @property
    def zero(self) -> Levels:
        """Where a = 0; on the boundary for a sigmoid."""
        return Levels(torch.tensor(-self.low).double(), torch.tensor(self.high).double())

    @property
    def zero_inside(self) -> bool:
        """Whether 0 is inside the image and not on its boundary."""
        return self.low < 0 < self.high


_CLASS_A = {"tanh": Image(-1.0, 1.0, 2.0), "sigmoid": Image(0.0, 1.0, 1.0)}


def image_of(activation: Activation) -> Image:
    """The image of an activation of class A.

    Raises:
        InputError: if the activation is not known to be in class A.

    >>> from semiflat.activations import activation
    >>> image_of(activation("sigmoid")).zero_inside
    False
    """
    if activation.name not in _CLASS_A:
        raise InputError(
            f"activation {activation.name!r} is not of class A (analytic, increasing, bounded, 0 in "
            f"the closed image), which P21 Thm 3 needs; use one of {', '.join(sorted(_CLASS_A))}"
        )
    return _CLASS_A[activation.name]
