"""Eigenvalues with noise floors: what floating point can tell at a point, and what it cannot.

Each eigenvalue has a floor of its own, in two parts. *Noise*: the matrix is computed again at
parameters moved by a unit of rounding, several times; what that changes, and what the eigenvalue
solver may, hides smaller eigenvalues. *Shift*: the point is not the critical point itself but lies a
Newton step away from it; the matrix is computed a Newton step on, and what that changes is not known
either. Where the Hessian is nearly singular that step is long, the floor is high and the verdict is
UNDECIDED, as it should be. One floor for all would not do: rounding moves a large eigenvalue by far
more than a small one (Hessians here have condition numbers up to 1e10).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiflat.records.shown import Shown

EPS = torch.finfo(torch.float64).eps
# Where no critical point is near, the distance to it makes an eigenvalue count as zero only up to this
# part of the largest (it still makes the verdict UNDECIDED).
SHIFT_COUNTED = 1e-10
ENOUGH = 10.0
"""An eigenvalue counts as decided when it is this many floors away from zero."""

ROUNDINGS = 4
"""Roundings of the parameters that a matrix is computed at, each independent of the others.

What one of them changes is now and then a hundredth of what the next one does.
"""
LUCK = 128.0
"""Times what one rounding changes that another may; over n², times the most that n of them change.

Measured on 4,000 problems, where another rounding changed an eigenvalue by up to 176 times what the one
had, and by 26, 14 and 5 times the most that two, three and four had.
"""

PROBES = 16
"""Random directions that tell the size of what a neighbour changes in a large matrix."""
CLEAR = 10.0
"""An eigenvalue is followed to a neighbour unless it is this many times as large as what decides it."""
Times = Callable[[Tensor], Tensor]
"""A symmetric matrix as what it does to directions (k, P), one a row."""


@dataclass(frozen=True)
class Spectrum(Shown):
    """Eigenvalues, or singular values, in ascending order with what hides them.

    Attributes:
        values: ascending.
        vectors: columns in the same order; none for singular values.
        noise: what rounding may have changed, for each value.
        shift: what the distance to the exact critical point may have changed; 0 if there is none.
        scale: size of the matrix that a value is small or large against.
        whole: whether the values stand for those at the critical point: all that lie within their
            floor are then counted as zero.
        followed: which values have a floor of their own; None for all. Others are far from zero, and
            theirs is a bound for all of them.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> spectrum = sf.Replicate(0, 0, ["1/4", "3/4"])(point).evidence.spectrum
    >>> spectrum.count(), spectrum.doubtful
    ((5, 1, 1), 0)
    >>> value, floor = spectrum.clearest(-1)
    >>> value < -100 * floor
    True
    """

    values: Tensor
    vectors: Tensor
    noise: Tensor
    shift: Tensor
    scale: float
    whole: bool = False
    followed: Tensor | None = None

    @property
    def highest(self) -> float:
        """The highest floor that is a value's own."""
        own = self.floor if self.followed is None else self.floor[self.followed]
        return float(own.max()) if len(own) else 0.0

    @property
    def floor(self) -> Tensor:
        """What a verdict holds each value against."""
        return self.noise + self.shift

    @property
    def counting_floor(self) -> Tensor:
        """What a value must exceed in size to be counted as not zero."""
        if self.whole:
            return self.floor
        return self.noise + self.shift.clamp(max=SHIFT_COUNTED * self.scale)

    @property
    def zero(self) -> Tensor:
        """Which values are counted as zero."""
        return self.values.abs() <= self.counting_floor

    def count(self) -> tuple[int, int, int]:
        """(positive, zero, negative) at the counting floor."""
        zero = self.zero
        positive, negative = (int((sign * self.values[~zero] > 0).sum()) for sign in (1, -1))
        return positive, int(zero.sum()), negative

    @property
    def hidden(self) -> Tensor:
        """Which values lie within their whole floor."""
        return self.values.abs() <= self.floor

    @property
    def decided(self) -> Tensor:
        """Which values are ``ENOUGH`` floors away from zero."""
        return self.values.abs() > ENOUGH * self.floor

    @property
    def doubtful(self) -> int:
        """How many are neither hidden nor decided."""
        return int((~self.hidden & ~self.decided).sum())

    def tightest(self) -> tuple[float, float] | None:
        """(value, floor) of the value nearest to its floor among those not hidden."""
        seen = (~self.hidden).nonzero().flatten()
        if not len(seen):
            return None
        place = seen[(self.values[seen].abs() / self.floor[seen]).argmin()]
        return float(self.values[place]), float(self.floor[place])

    def clearest(self, sign: int, among: Tensor | None = None) -> tuple[float, float] | None:
        """(value, floor) of the largest decided value of that sign (0: of any), if there is one.

        Args:
            sign: -1, 0 or 1.
            among: which values are looked at; all if not given.
        """
        size = self.values.abs() if sign == 0 else sign * self.values
        decided = self.decided if among is None else self.decided & among
        size = torch.where(decided, size, torch.zeros_like(size))
        place = size.argmax()
        if float(size[place]) <= 0:
            return None
        return float(self.values[place]), float(self.floor[place])


def symmetric_spectrum(sites: list[Tensor], scale: float = 0.0) -> Spectrum:
    """The spectrum of a symmetric matrix given at the point and at its neighbours.

    These are at the distance of up to ``ROUNDINGS`` roundings and, behind as many, of a shift.
    ``scale`` is the size of what the matrix is a block of, where that is larger.
    """
    return symmetric_spectra([site[None] for site in sites], scale)[0]


def symmetric_spectra(sites: list[Tensor], scale: float = 0.0) -> list[Spectrum]:
    """The same for each of a batch of matrices, (B, P, P) at each site."""
    values, vectors = torch.linalg.eigh((sites[0] + sites[0].mT) / 2)
    others = [torch.linalg.eigvalsh((site + site.mT) / 2) for site in sites[1:]]
    size = sites[0].shape[-1]
    return [
        _spectrum(values[k], vectors[k], [other[k] for other in others], size, scale)
        for k in range(len(values))
    ]


def with_shift(near: Spectrum, site: Tensor) -> Spectrum:
    """A symmetric matrix's spectrum that knows of roundings alone, and the matrix at a shift's distance."""
    change = (torch.linalg.eigvalsh((site + site.mT) / 2) - near.values).abs()
    return replace(near, shift=2 * _at_least_as_small(near.values, change))


def spectrum_by_products(matrix: Tensor, neighbours: Sequence[Times]) -> Spectrum:
    """The spectrum of a symmetric matrix whose neighbours at a rounding's distance are products."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    largest = float(values.abs().max())
    known = torch.full_like(values, EPS * len(values) * largest)
    near = Spectrum(values, vectors, known, torch.zeros_like(values), largest)
    luck = LUCK / len(neighbours) ** 2
    changes, own = zip(*(_followed(near, matrix, times, luck) for times in neighbours), strict=True)
    changed = _at_least_as_small(values, torch.stack(changes).amax(0))
    followed = torch.stack(own).all(0)
    return replace(near, noise=known + luck * changed, followed=followed)


def with_shift_by_products(near: Spectrum, matrix: Tensor, times: Times) -> Spectrum:
    """The spectrum of a matrix that knows of roundings alone, and the matrix at a shift's distance."""
    changes, own = _followed(near, matrix, times, 2.0)
    followed = own if near.followed is None else own & near.followed
    return replace(near, shift=2 * _at_least_as_small(near.values, changes), followed=followed)


def _followed(near: Spectrum, matrix: Tensor, times: Times, factor: float) -> tuple[Tensor, Tensor]:
    """By how much the eigenvalues of a matrix may differ from those of its neighbour, and which were followed.

    Weyl's bound ``‖E‖`` of the difference E, by its Frobenius norm, for which random signs z stand:
    the mean of ``‖E z‖²`` is ``‖E‖²_F``. Eigenvalues that ``factor`` times this may bring into doubt
    are followed: those of ``Vᵀ (H + E) V`` on their own vectors V, and what the rest R of ``E V`` may add
    across a gap η, ``2‖R‖² / (η + √(η² + 4‖R‖²))`` (C.-K. Li & R.-C. Li 2005).
    """
    values, sizes = near.values, near.values.abs()
    generator = torch.Generator().manual_seed(1)
    signs = torch.randint(0, 2, (PROBES, len(values)), generator=generator).to(values.dtype) * 2 - 1
    off = times(signs) - signs @ matrix
    largest = off.abs().max()  # entries of 1e-160 are no noise where the loss is 1e-310
    bound = (
        2 * float(largest * torch.linalg.vector_norm(off / largest.clamp(min=1e-320))) / PROBES**0.5
    )
    if not bound < torch.inf:
        return torch.full_like(values, torch.inf), torch.ones_like(values, dtype=torch.bool)
    changes = torch.full_like(values, bound)
    doubtful = sizes <= CLEAR * ENOUGH * (near.floor + factor * bound)
    if not bool(doubtful.any()):
        return changes, doubtful
    own, kept = near.vectors[:, doubtful], values[doubtful]
    off = times(own.mT).mT - own * kept
    block = own.mT @ off
    moved = torch.linalg.eigvalsh(torch.diag(kept) + (block + block.mT) / 2)
    changes[doubtful] = (moved - kept).abs()
    if not bool(doubtful.all()):
        rest = torch.linalg.matrix_norm(off - own @ block, ord=2).clamp(min=1e-320)
        gap = (sizes[~doubtful].min() - bound - kept.abs()).clamp(min=0) / rest
        changes[doubtful] += 2 * rest / (gap + (gap.square() + 4).sqrt())
    return changes, doubtful


def singular_spectrum(sites: list[Tensor], scale: float = 0.0) -> Spectrum:
    """The singular values (ascending) of a matrix given at the same places; vectors: none."""
    values, *others = (torch.linalg.svdvals(site).flip(0) for site in sites)
    return _spectrum(values, values.new_zeros((0, 0)), others, max(sites[0].shape), scale)


def _spectrum(
    values: Tensor, vectors: Tensor, others: list[Tensor], size: int, scale: float
) -> Spectrum:
    largest = float(values.abs().max())
    changes = torch.stack(others).sub(values).abs()
    rounded, shifted = changes[:ROUNDINGS].amax(0), changes[ROUNDINGS:]
    luck = LUCK / min(ROUNDINGS, len(changes)) ** 2
    # The sums behind a small block are rounded at the size of their terms, not of their result.
    noise = EPS * (size * largest + scale) + luck * _at_least_as_small(values, rounded)
    shift = torch.zeros_like(noise)
    if len(shifted):
        shift = 2 * _at_least_as_small(values, shifted[0])
    return Spectrum(values, vectors, noise, shift, max(scale, largest))


def _at_least_as_small(values: Tensor, changes: Tensor) -> Tensor:
    """For each value the largest change of any value that is as small, so that luck hides nothing."""
    order = values.abs().argsort()
    return torch.zeros_like(changes).scatter(0, order, changes[order].cummax(0).values)
