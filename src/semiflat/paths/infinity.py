"""Local minima at infinity: constructed, checked, and left by another way (P21 Thm 1, Lemma 7)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from semiflat.activations import Activation
from semiflat.errors import InputError, whole, whole_seed
from semiflat.images import Image
from semiflat.networks import Params, bias_key, weight_key
from semiflat.paths.descent import along, check_dense, down
from semiflat.paths.path import Claim, Path, Piece, straight
from semiflat.points import Point
from semiflat.problem import Problem
from semiflat.records.shown import Shown

AT_THE_END = 40.0
"""A bias at which a sigmoid is 1 to the last bit of float64."""
RISES = 1e-12
"""Part of the loss that is taken for a rise and not for rounding."""
RADII = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4, 1e-4)
"""Neighbourhoods of infinity, from large to small, that are tried."""


def lemma_7(targets: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """u^< and u^> (n,) with ``Σ d_α exp(−u·a_α)`` below and above 0, where ``Σ d_α = 0`` (P21 Lemma 7).

    Args:
        targets: d (N,).
        features: a (N, n).

    Raises:
        InputError: if ``Σ d_α a_α`` is 0 to rounding, where the lemma says nothing.

    >>> d = torch.tensor([1.0, -2.0, 1.0]).double(); a = torch.tensor([[0.0], [1.0], [3.0]]).double()
    >>> low, high = lemma_7(d, a)
    >>> bool((d * (-a @ low).exp()).sum() < 0 < (d * (-a @ high).exp()).sum())
    True
    """
    slope = targets @ features  # −∂/∂u at u = 0
    size = (targets.abs() @ features.abs()).amax()
    if not float(slope.abs().max()) > 1e-12 * float(size):
        raise InputError(
            "Σ (c − y) h is 0 for every unit h below the last hidden layer (targets that are constant, or "
            "not related to these units to first order); P21 Thm 1 asks for another value: use other "
            "targets or another seed"
        )
    direction = slope / torch.linalg.vector_norm(slope)
    along_it = features @ direction
    scale = 1 / (along_it - along_it.mean()).abs().max()

    def total(t: Tensor) -> Tensor:
        # Σd = 0, so expm1 of the distance to the mean has the sign without its cancellation.
        return (targets * torch.expm1(-t[:, None] * (along_it - along_it.mean()))).sum(1)

    steps = scale * torch.logspace(0, -12, 49, dtype=torch.float64)
    low = steps[int((total(steps) < 0).long().argmax())]
    high = steps[int((total(-steps) > 0).long().argmax())]
    return low * direction, -high * direction


@dataclass(frozen=True)
class NearInfinity(Shown):
    """What was measured in a neighbourhood of the minimum at infinity.

    Attributes:
        radius: of the largest neighbourhood tried in which every network had a larger loss: each
            p_i in (0, radius], every other parameter within the radius; 0 if there was none.
        tried: networks in it.
        smallest: the smallest ``(R − R_∞)/Σ p_i`` among them.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> far = sf.minimum_at_infinity(sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), X, X + X**2))
    >>> near = far.check(tries=500)
    >>> near.tried, near.radius > 0, near.smallest > 0
    (500, True, True)
    """

    radius: float
    tried: int
    smallest: float


@dataclass(frozen=True)
class MinimumAtInfinity(Shown):
    """A local minimum at infinity: every last hidden bias → ∞, and the output a constant (P21 Thm 1).

    Attributes:
        problem: network, data and loss.
        params: where the ray starts: there, the last hidden pre-activations have mean 0.
        constant: c, the mean of the targets: the function in the limit.
        loss: the risk in the limit, ``½ mean (c − y)²``.
        slopes: (m,) ∂R/∂p_i at p = 0, with ``p_i = exp(−rate·s)`` at s along the ray: all above 0.

    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> far = sf.minimum_at_infinity(sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), X, X + X**2))
    >>> round(far.constant, 6) == round(float((X + X**2).mean()), 6), tuple(far.slopes.shape)
    (True, (3,))
    >>> far.ray(10).loss > far.loss
    True
    """

    problem: Problem
    params: Params
    constant: float
    loss: float
    slopes: Tensor

    def ray(self, s: float) -> Point:
        """The finite network with all last hidden biases larger by ``s``; ``s → ∞`` is the minimum."""
        key = bias_key(len(self.problem.net.hidden) - 1)
        return Point(self.problem, self.params | {key: self.params[key] + float(s)})

    def check(self, tries: int = 2000, seed: int = 0) -> NearInfinity:
        """Compare the loss at random networks near infinity with the limit's."""
        tries, seed = whole("tries", tries, 1), whole_seed(seed)
        net, rate = self.problem.net, self._rate
        layer = len(net.hidden) - 1
        generator = torch.Generator().manual_seed(seed)
        flat = net.flatten(self.params)
        for radius in RADII:
            around = torch.rand((tries, len(flat)), generator=generator, dtype=torch.float64)
            params = net.unflatten(flat + radius * (2 * around - 1))
            p = radius * torch.rand(
                (tries, net.hidden[layer]), generator=generator, dtype=torch.float64
            ).clamp(min=1e-3)
            params[bias_key(layer)] = self.params[bias_key(layer)] - torch.log(p) / rate
            higher = (self.problem.risk(params) - self.loss) / p.sum(1)
            if bool((higher > 0).all()):
                return NearInfinity(radius, tries, float(higher.min()))
        return NearInfinity(0.0, tries, float("nan"))

    @cached_property
    def path(self) -> Path:
        """From the far end of the ray another way down: output weights trade signs, biases come back.

        In the limit the first piece leaves the function as it is. At the bias the path starts with it
        does so to e^{−40}, which float64 does not see; the loss falls along the others.
        """
        check_dense(self.problem)
        net = self.problem.net
        layer = len(net.hidden) - 1
        start = self.ray(AT_THE_END / self._rate).params
        # Weights of the other sign, with the same sum: now the loss falls as the biases come back.
        v = start[weight_key(layer + 1)][0]
        turned = start | {weight_key(layer + 1): (2 * v.mean() - v)[None]}
        flat, end = net.flatten(start), net.flatten(turned)
        pieces = [
            Piece(
                "trade signs: output weights at infinity",
                Claim.CONSTANT,
                "fully active units only count by the sum of their output weights (P21 Thm 1)",
                [straight(flat, end)],
            )
        ]
        back = torch.zeros_like(flat)
        units = net.unflatten(back)[bias_key(layer)]
        units += torch.where(self._falling(turned), -1.0, 0.0)
        landing = self._lowest(end, back)
        if landing is not None:
            pieces.append(
                Piece(
                    "back: biases, from infinity",
                    Claim.DECREASING,
                    "the slope in p_i is negative for weights of this sign",
                    [straight(end, landing)],
                )
            )
            curves, _ = down(self.problem, landing)
            if curves:
                pieces.append(
                    Piece("down", Claim.DECREASING, "steps that fall all the way", curves)
                )
        return Path(self.problem, pieces)

    @property
    def _rate(self) -> float:
        return _logistic(self.problem.net.activations[-1])[1]

    def _falling(self, params: Params) -> Tensor:
        return _slopes(self.problem, params, self.constant) < 0

    def _lowest(self, start: Tensor, back: Tensor) -> Tensor | None:
        """Where the first valley along ``start + s back`` is, falling all the way from rounding on."""
        s = torch.linspace(0, 2 * AT_THE_END, 801, dtype=torch.float64)
        losses = self.problem.risk(self.problem.net.unflatten(start + s[:, None] * back))
        # Where the biases set out from, 40 to 36 away, nothing but rounding tells losses apart.
        rounding = float(losses[:41].max() - losses[:41].min())
        rises = losses - torch.cummin(losses, 0).values
        rising = (rises > max(RISES * self.loss, 4 * rounding)).long()
        # Two short of a rise, so that the valley's floor is not stepped over.
        last = max(int(rising.argmax()) - 2, 0) if bool(rising.any()) else len(s) - 1
        lower = bool(losses[last] < self.loss * (1 - 1e-12))
        return start + s[last] * back if lower else along(self.problem, start, back)


def minimum_at_infinity(problem: Problem, seed: int = 0) -> MinimumAtInfinity:
    """A local minimum at infinity for a data set and a network (P21 Thm 1, for sigmoid and tanh).

    Layers below the last hidden one are random. With d = c − y and h what the last hidden layer is fed
    with, the units' incoming weights are u^< or u^> of Lemma 7, so that ``S_i = Σ d exp(−rate u_i·h)`` has
    both signs among them, and each output weight has the sign against its S_i, together 0 where the output
    has a bias, which then is c, and c where it has none. Then the risk rises from its limit in every
    ``p_i = exp(−rate b_i)``, by ``slopes``, b_i counted from where the unit's pre-activations have mean 0. The
    minimum is suboptimal whenever a constant is not the best the network can do.

    Args:
        problem: squared loss, one output, no weight decay; sigmoid or tanh in the last hidden layer, with
            biases, and at least two units in each hidden layer.
        seed: of the lower layers.

    Raises:
        InputError: for other problems, and where Lemma 7 does not apply.

    >>> import semiflat as sf
    >>> X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    >>> found = minimum_at_infinity(sf.Problem(sf.MLP([1, 3, 1], "sigmoid"), X, X + X**2))
    >>> bool((found.slopes > 0).all()), found.check().radius > 0
    (True, True)
    >>> [f"{found.ray(s).loss - found.loss:.0e}" for s in (5, 10, 15)]
    ['2e-02', '1e-04', '9e-07']
    >>> found.path.check.end < 0.1 * found.loss
    True
    """
    _check(problem)
    seed = whole_seed(seed)
    net = problem.net
    image, rate = _logistic(net.activations[-1])
    layer = len(net.hidden) - 1
    params = net.random_params(seed)
    constant = float(problem.y.mean())
    away = constant - problem.y[:, 0]
    fed = net.fed(params, problem.X, layer)[:, : net.widths[layer]]
    low, high = lemma_7(away, rate * fed)
    rows = torch.stack([low if unit % 2 else high for unit in range(net.hidden[layer])])
    params[weight_key(layer)] = rows
    params[bias_key(layer)] = -(fed @ rows.mT).mean(0)
    goal = constant / image.high
    if net.biases[-1]:
        params[bias_key(layer + 1)] = torch.full((1,), constant, dtype=torch.float64)
        goal = 0.0
    sums = _sums(problem, params, constant)
    up, down_ = sums < 0, sums > 0
    size = float(away.abs().max())
    weights = size * torch.where(up, 1.0, -1.0).double()
    if goal >= 0:
        weights[up] = (goal + size * int(down_.sum())) / int(up.sum())
    else:
        weights[down_] = (goal - size * int(up.sum())) / int(down_.sum())
    params[weight_key(layer + 1)] = weights[None]
    loss = float(away.square().mean() / 2)
    return MinimumAtInfinity(problem, params, constant, loss, _slopes(problem, params, constant))


def _sums(problem: Problem, params: Params, constant: float) -> Tensor:
    """``S_i = Σ_ν (c − y_ν) exp(−rate z_νi)``, (m,), with z the pre-activations less their mean."""
    net = problem.net
    _, rate = _logistic(net.activations[-1])
    layer = len(net.hidden) - 1
    fed = net.fed(params, problem.X, layer)[:, : net.widths[layer]]
    z = fed @ params[weight_key(layer)].mT
    # Σ (c − y) = 0: less the sum over the mean, which is 0, the rest keeps its digits.
    relative = torch.expm1(-rate * (z - z.mean(0)))
    found: Tensor = ((constant - problem.y[:, 0])[:, None] * relative).sum(0)
    return found


def _slopes(problem: Problem, params: Params, constant: float) -> Tensor:
    """∂R/∂p_i at p = 0: ``−v_i (d − c) S_i / N`` with (c, d) the image."""
    v = params[weight_key(len(problem.net.hidden))][0]
    image, _ = _logistic(problem.net.activations[-1])
    reach = image.high - image.low
    return -reach * v * _sums(problem, params, constant) / problem.samples


def _check(problem: Problem) -> None:
    if not isinstance(problem, Problem):
        raise InputError(f"minimum_at_infinity takes a Problem, not a {type(problem).__name__}")
    net = problem.net
    problem.check_double("a path")
    problem.check_plain("a path")
    if not problem.loss.quadratic:
        raise InputError(
            "P21 Thm 1 is about the squared loss without weight decay, and this problem has "
            f"{problem.loss.name!r}; make the problem with loss='squared'"
        )
    problem.check_outputs_alone("nothing lies at infinity, and P21 Thm 1 says nothing")
    if net.outputs != 1:
        raise InputError(
            f"P21 Thm 1 is about one output, and this network has {net.outputs}; take one at a time"
        )
    if not net.hidden or min(net.hidden) < 2:
        raise InputError(
            f"P21 Thm 1 needs a hidden layer, and at least two units in each; hidden widths are "
            f"{list(net.hidden)}"
        )
    if not net.biases[len(net.hidden) - 1]:
        raise InputError(
            "P21 Thm 1 sends the last hidden layer's biases to infinity, and it has none; use bias=True"
        )
    _logistic(net.activations[-1])


def _logistic(activation: Activation) -> tuple[Image, float]:
    """Its image, and the rate at which it nears the ends."""
    image = activation.image
    if image is None or image.rate is None:
        raise InputError(
            f"P21 Thm 1 is about sigmoid units in the last hidden layer, which tanh units are up to scale, "
            f"and not about {activation.name!r}; use sigmoid or tanh"
        )
    return image, image.rate
