"""Where increasing bounded activations take their values, as distances to both ends, and the way back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor


@dataclass(frozen=True)
class Levels:
    """Activations as their distances to both ends of the image, so that saturated ones keep digits.

    Attributes:
        lower: ``a − c`` above 0, any shape.
        upper: ``d − a`` above 0, the same shape.

    >>> import torch
    >>> import semiflat as sf
    >>> image = sf.MLP([1, 1, 1], "tanh").activations[0].image
    >>> levels = image.levels(torch.tensor([-40.0, 0.0, 40.0], dtype=torch.float64))
    >>> levels.upper.tolist()                # tanh(40) itself rounds to 1
    [2.0, 1.0, 3.6...e-35]
    >>> [round(z, 9) for z in image.inverse(levels).tolist()]
    [-40.0, 0.0, 40.0]
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
    """The image (c, d) of an increasing bounded σ that is symmetric: ``σ(z) − c = d − σ(−z)``.

    Attributes:
        low, high: c and d.
        lower: ``σ(z) − c``, with all digits where it is small.
        inverse: ``σ⁻¹``: pre-activations that give these activations.
        rate: r where ``σ(z) = c + (d − c)/(1 + e^{−rz})``, else None.

    >>> import torch
    >>> import semiflat as sf
    >>> image = sf.MLP([1, 1, 1], "sigmoid").activations[0].image
    >>> image.low, image.high, image.zero_inside
    (0.0, 1.0, False)
    >>> z = torch.tensor([-3.0, 50.0], dtype=torch.float64)
    >>> torch.allclose(image.inverse(image.levels(z)), z)
    True
    """

    low: float
    high: float
    lower: Callable[[Tensor], Tensor]
    inverse: Callable[[Levels], Tensor]
    rate: float | None = None

    def levels(self, z: Tensor) -> Levels:
        """``σ(z)``."""
        return Levels(self.lower(z), self.lower(-z))

    def value(self, levels: Levels) -> Tensor:
        """The activations themselves."""
        return levels.lower + self.low

    @property
    def zero(self) -> Levels:
        """Where a = 0; on the boundary for a sigmoid."""
        ends = torch.tensor([-self.low, self.high], dtype=torch.float64)
        return Levels(ends[0], ends[1])

    @property
    def zero_inside(self) -> bool:
        """Whether 0 is inside the image and not on its boundary."""
        return self.low < 0 < self.high


def logistic(low: float, high: float, rate: float) -> Image:
    """That of tanh or sigmoid, whose σ⁻¹ is the logarithm of a quotient of distances (P21 Lemma 4)."""
    lower = partial(_logistic_lower, high - low, rate)
    return Image(low, high, lower, partial(_logistic_inverse, rate), rate)


def _logistic_lower(reach: float, rate: float, z: Tensor) -> Tensor:
    return reach * torch.sigmoid(rate * z)


def _logistic_inverse(rate: float, levels: Levels) -> Tensor:
    return torch.log(levels.lower / levels.upper) / rate


def _by_the_nearer_end(inverse: Callable[[Tensor], Tensor], levels: Levels) -> Tensor:
    """``σ⁻¹`` by symmetry, from that of distances to the lower end."""
    z = inverse(torch.minimum(levels.lower, levels.upper))
    return torch.where(levels.lower < levels.upper, z, -z)


def _atan_lower(z: Tensor) -> Tensor:
    return torch.atan2(torch.ones_like(z), -z)


def _atan_inverse(distance: Tensor) -> Tensor:
    return -1 / torch.tan(distance)


def _erf_lower(z: Tensor) -> Tensor:
    found: Tensor = torch.special.erfc(-z)
    return found


def _erf_inverse(distance: Tensor) -> Tensor:
    found: Tensor = torch.special.ndtri(distance / 2)
    return found / math.sqrt(2)


ATAN = Image(-math.pi / 2, math.pi / 2, _atan_lower, partial(_by_the_nearer_end, _atan_inverse))
ERF = Image(-1.0, 1.0, _erf_lower, partial(_by_the_nearer_end, _erf_inverse))
