"""Prior and posterior of all parameters: distributions that can be drawn from, with their exact KL."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semiflat.bounds.blocks import GaussianBlock, PartKL, PosteriorScale
from semiflat.bounds.box import BoxSurplus
from semiflat.bounds.surplus import SmoothSurplus
from semiflat.errors import whole, whole_seed
from semiflat.networks import MLP, Params, weight_key
from semiflat.records.shown import Shown
from semiflat.unit_surgery import with_layer

Surplus = SmoothSurplus | BoxSurplus


@dataclass(frozen=True)
class PosteriorFamily(Shown):
    """What the posteriors at one point have in common: only σ and τ are still free.

    Attributes:
        net: the network that is bounded, surplus units included.
        narrow: the network without them.
        block: the Gaussian on the narrow network's parameters.
        surplus: the distribution of the surplus units, or None.
        layer: the hidden layer they are in.
        silent: whether they are 0 on the data for every draw, so that the data need not see them.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), x, x, weight_decay=1e-3)
    >>> wide = sf.InactiveUnits(0, count=2)(sf.find_critical_point(problem, starts=4))
    >>> family = sf.pac_bayes_bound(wide, sf.Clipped(1.0), draws=200).posterior.family
    >>> family.net.widths, family.narrow.widths, family.normals
    ((1, 3, 1), (1, 1, 1), 10)
    >>> [part.name for part in family.kl(sf.PosteriorScale(sigma=1.0, tau=0.1))]
    ['network', 'outgoing', 'incoming']
    """

    net: MLP
    narrow: MLP
    block: GaussianBlock
    surplus: Surplus | None = None
    layer: int = 0
    silent: bool = False

    @property
    def normals(self) -> int:
        """Standard normal numbers that one draw is made of."""
        return len(self.block.mean) + (0 if self.surplus is None else self.surplus.normals)

    def kl(self, scale: PosteriorScale) -> list[PartKL]:
        """Exact KL(Q‖P), block by block."""
        return [self.block.kl(scale)] + ([] if self.surplus is None else self.surplus.kl(scale))

    def place(self, normal: Tensor, scale: PosteriorScale) -> Params:
        """Standard normal vectors (B, normals) as draws from Q."""
        own = normal[:, : len(self.block.mean)]
        return self._with_surplus(self.block.place(own, scale), normal, scale)

    def _with_surplus(self, narrow: Tensor, normal: Tensor, scale: PosteriorScale) -> Params:
        params = self.narrow.unflatten(narrow)
        if self.surplus is None:
            return params
        rows, columns = self.surplus.place(normal[:, len(self.block.mean) :], scale)
        return assemble(self.narrow, params, rows, columns, self.layer)

    def on_data(self, normal: Tensor, scale: PosteriorScale) -> tuple[MLP, Params]:
        """The same draws as far as the data see them: without surplus units that are 0 there."""
        if not self.silent:
            return self.net, self.place(normal, scale)
        own = normal[:, : len(self.block.mean)]
        return self.narrow, self.narrow.unflatten(self.block.place(own, scale))


@dataclass(frozen=True)
class Posterior(Shown):
    """Q: the distribution of the stochastic network that a bound is about.

    Attributes:
        family: what is common to all σ and τ.
        scale: σ and τ.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=1), draws=200)
    >>> drawn = bound.posterior.sample(3, seed=1)
    >>> tuple(drawn["0.weight"].shape), bound.posterior.kl() == bound.kl
    ((3, 1, 1), True)
    """

    family: PosteriorFamily
    scale: PosteriorScale

    @property
    def prior(self) -> Prior:
        """P."""
        return Prior(self.family, self.scale.sigma)

    def parts(self) -> list[PartKL]:
        """KL(Q‖P), block by block."""
        return self.family.kl(self.scale)

    def kl(self) -> float:
        """KL(Q‖P) in nats, exact but for rounding."""
        return sum(part.total for part in self.parts())

    def sample(self, count: int, seed: int = 0) -> Params:
        """``count`` networks drawn from Q; draw k depends on ``seed`` and k alone."""
        return self.family.place(normals(count, self.family.normals, seed), self.scale)


@dataclass(frozen=True)
class Prior(Shown):
    """P: fixed before the data were seen.

    Attributes:
        family: that of the posterior; only μ₀ and, for ReLU surplus units, the box are taken from it.
        sigma: σ.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=1), draws=200)
    >>> prior = bound.posterior.prior
    >>> prior.sigma == bound.sigma, tuple(prior.sample(5)["0.bias"].shape)
    (True, (5, 1))
    """

    family: PosteriorFamily
    sigma: float

    def sample(self, count: int, seed: int = 0) -> Params:
        """``count`` networks drawn from P; draw k depends on ``seed`` and k alone."""
        family, surplus = self.family, self.family.surplus
        drawn = normals(count, family.normals, seed)
        size = len(family.block.mean)
        params = family.narrow.unflatten(family.block.prior_mean + self.sigma * drawn[:, :size])
        if surplus is None:
            return params
        rest = drawn[:, size:]
        if isinstance(surplus, BoxSurplus):
            rows, columns = surplus.place(rest, PosteriorScale(self.sigma, 1.0))
            columns = columns - surplus.outgoing
        else:
            outgoing, incoming = rest.split(
                [surplus.outgoing.numel(), rest.shape[1] - surplus.outgoing.numel()], dim=1
            )
            columns = self.sigma * outgoing.reshape(count, *surplus.outgoing.shape)
            rows = self.sigma * incoming.reshape(count, surplus.count, -1)
        return assemble(family.narrow, params, rows, columns, family.layer)


def assemble(net: MLP, narrow: Params, rows: Tensor, columns: Tensor, layer: int) -> Params:
    """Parameters (B, …) of the wide networks: narrow ones with surplus units at the layer's end."""
    above = torch.cat([narrow[weight_key(layer + 1)], columns.mT], dim=-1)
    whole = torch.cat([net.layer(narrow, layer), rows], dim=-2)
    return with_layer(net, narrow, layer, whole) | {weight_key(layer + 1): above}


def normals(count: int, size: int, seed: int, stream: int = 0, first: int = 0) -> Tensor:
    """Standard normal vectors (count, size); number ``first + k`` depends on its number alone.

    Raises:
        InputError: if count or seed is no whole number, or too small.
    """
    count, seed = whole("count", count, 1), whole_seed(seed)
    drawn = np.empty((count, size))
    for k in range(count):
        drawn[k] = np.random.default_rng([seed, stream, first + k]).standard_normal(size)
    return torch.from_numpy(drawn)
