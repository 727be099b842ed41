"""``E_Q L̂``: the mean bounded loss of random networks on the data, by draws that are paid for."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.bounds.blocks import PosteriorScale
from semiflat.bounds.bounded import BoundedLoss
from semiflat.bounds.inequalities import kl_inverse
from semiflat.bounds.posterior import PosteriorFamily, normals
from semiflat.curvature.sweep import GROUP_BYTES, chunks
from semiflat.networks import MLP, Params
from semiflat.problem import Problem
from semiflat.records.shown import Shown


@dataclass(frozen=True)
class Estimate(Shown):
    """A Monte Carlo estimate of ``E_Q L̂``.

    Attributes:
        mean: over the draws.
        upper: exceeded by E_Q L̂ with probability at most ``delta`` over the draws.
        delta: what ``upper`` costs.
        draws: how many there were.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, (x > 0.1).double(), "logistic", weight_decay=1e-3)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=1), draws=200)
    >>> found = bound.empirical
    >>> found.draws, round(found.delta, 4), found.mean < found.upper <= bound.value
    (200, 0.005, True)
    """

    mean: float
    upper: float
    delta: float
    draws: int


def bounded_risks(
    problem: Problem, net: MLP, params: Params, loss: BoundedLoss, every: int = 1
) -> Tensor:
    """``L̂`` of each network of a batch (B,), in chunks of bounded memory.

    Args:
        every: take one sample in so many, where a rough value will do.
    """
    problem = problem.with_net(net)
    (batch,) = net.check_params(params)
    total = torch.zeros(batch, dtype=torch.float64)
    samples = len(range(0, problem.samples, every))
    for block in chunks(samples, batch * 2 * sum(net.widths), GROUP_BYTES):
        part = slice(block.start * every, block.stop * every, every)
        outputs = net.forward(params, problem.X[part])
        total += loss.value(problem, outputs, part).sum(-1)
    # Rounding must not take the mean of losses in [0, 1] out of it.
    return (total / samples).clamp(max=1.0)


def draw_risks(
    problem: Problem,
    family: PosteriorFamily,
    scale: PosteriorScale,
    loss: BoundedLoss,
    count: int,
    seed: int,
    stream: int,
    every: int = 1,
) -> Tensor:
    """``L̂`` of ``count`` draws from Q, (count,); ``every`` as for :func:`bounded_risks`."""
    net = family.narrow if family.silent else family.net
    # At least what one network on all samples takes, so that samples are cut only where they must be.
    floats = (
        family.normals + net.parameter_count + 2 * (problem.samples // every + 1) * sum(net.widths)
    )
    at_once = max(1, GROUP_BYTES // (8 * floats))
    found = []
    for first in range(0, count, at_once):
        size = min(at_once, count - first)
        drawn = normals(size, family.normals, seed, stream, first)
        chosen, params = family.on_data(drawn, scale)
        found.append(bounded_risks(problem, chosen, params, loss, every))
    return torch.cat(found)


def estimate(risks: Tensor, delta: float) -> Estimate:
    """What independent draws tell of their mean: kl(mean ‖ E_Q L̂) ≤ ln(1/δ)/m (Chernoff, Hoeffding).

    >>> found = estimate(torch.zeros(1000), delta=0.05)
    >>> found.mean, round(found.upper, 5)
    (0.0, 0.00299)
    """
    # Summed without rounding, so that the mean is the mean.
    mean = min(1.0, math.fsum(risks.tolist()) / len(risks))
    upper = kl_inverse(mean, math.log(1 / delta) / len(risks))
    return Estimate(mean, upper, delta, len(risks))
