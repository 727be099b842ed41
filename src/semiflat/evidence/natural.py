"""What is large and what is small at a point, whatever units data, targets and weights are given in.

A gradient of 1e-10 may be the largest that the data can make, and one of 1e-3 may be rounding. So every
parameter gets a unit of its own: a change that curves the loss by about 1 at most. With ``a_z`` the root
of what the loss curves by along a pre-activation z,

    unit of W_l[i, j] = 1 / (a_{z_i} · rms h_j).

Rescaling an input feature, all targets and the last layer (squared loss), or a positively homogeneous
unit multiplies the units as it multiplies the parameters, so what is measured in them stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.curvature.gradient import flat_rows
from semiflat.curvature.sweep import pull_back
from semiflat.evidence.spectrum import EPS
from semiflat.records.shown import Shown

if TYPE_CHECKING:
    from semiflat.evidence.on_data import OnData

NEARLY = 1e-3
"""Part of an output's size that counts as its spread at least: constants have none."""
SILENT = 1e-8
"""Part of its slope that an activation counts with at least: a unit whose output is 0 on the data has a
unit of its own, too."""


@dataclass(frozen=True)
class Natural(Shown):
    """Sizes at a point.

    Attributes:
        unit: of each parameter, (P,).
        step: what each parameter's change is held against, (P,): what would change the outputs by as much
            as there is to fit; a unit that says nothing counts with what it would say if its pre-activation
            moved by 1.
        z_step: the same for what each linear layer feeds, (out,); no more than 1 below an activation that
            is not homogeneous.
        largest: what each entry of the gradient would be if its terms did not cancel, residuals being
            what they are, (P,).
        noise: what rounding may do to each entry of the gradient, (P,).
        residual: of each output, in the output's own units, (N, M): a Newton step in the outputs.
        output_noise: what rounding may do to the outputs, (N, M).
        z_noise: what rounding may do to the pre-activations of each hidden layer, (N, width).
        gain: ``a_z`` of what each linear layer feeds, (out,).
        fed: root mean square of what each linear layer is fed with, (D,).
        fed_noise: what rounding may do to what each linear layer is fed with, (N, D).
        error_noise: what it may do to ``∂ℓ/∂z`` of what each linear layer feeds, (N, out).
        deltas: ``mean |∂ℓ/∂z|`` of what each linear layer feeds, (out,).
        errors: ``∂ℓ/∂z`` of what each linear layer feeds, (N, out).
        pulls: ``∂ℓ/∂h`` of each hidden layer, (N, width).
        slopes: ``mean |∂ℓ/∂z_k · σ'(z_i)|`` for k above and i in each hidden layer, (above, width).

    >>> import torch
    >>> import semiflat as sf
    >>> net = sf.MLP([1, 1], bias=False)
    >>> for scale in (1.0, 1e6):                          # the input in another unit
    ...     problem = sf.Problem(net, [[0.0], [2.0 * scale]], [0.0, 1.0])
    ...     point = sf.Point(problem, {"0.weight": torch.ones(1, 1).double() / scale})
    ...     print(point.evidence.on_data.natural.unit)
    tensor([0.7071], dtype=torch.float64)
    tensor([7.0711e-07], dtype=torch.float64)
    """

    unit: Tensor
    step: Tensor
    z_step: list[Tensor]
    largest: Tensor
    noise: Tensor
    residual: Tensor
    output_noise: Tensor
    z_noise: list[Tensor]
    gain: list[Tensor]
    fed: list[Tensor]
    fed_noise: list[Tensor]
    error_noise: list[Tensor]
    deltas: list[Tensor]
    errors: list[Tensor]
    pulls: list[Tensor]
    slopes: list[Tensor]


def sizes_at(data: OnData) -> Natural:
    """The sizes at a point, from its activations and slopes on the data: one pass up, one down."""
    problem, net = data.problem, data.net
    fed_noise, z_noise, output_noise = _rounding_of_activations(data)
    first, second = data.loss_first, data.loss_second
    gain = _positive(problem.mean(second.diagonal(dim1=-2, dim2=-1).abs()).sqrt())
    residual = first / gain.square()
    loud = problem.rms(first)  # what ∂ℓ/∂z would be without cancellation
    spread = problem.spread(data.outputs)
    spread = torch.maximum(spread, NEARLY * data.outputs.abs().amax(0))
    size_of_fit = torch.linalg.vector_norm(torch.maximum(loud / gain, gain * spread))
    fit = float((loud / gain).square().sum())
    delta = first
    noise = (second.abs() @ output_noise[..., None])[..., 0] + EPS * first.abs()
    decays = net.unflatten(problem.decays.to(first.dtype))
    rows: list[tuple[Tensor, ...]] = []
    z_steps: list[Tensor] = []
    gains: list[Tensor] = []
    feds: list[Tensor] = []
    error_noise: list[Tensor] = []
    deltas: list[Tensor] = []
    errors: list[Tensor] = []
    pulls: list[Tensor] = []
    slopes: list[Tensor] = []
    for layer in range(net.depth - 1, -1, -1):
        fed = data.inputs[layer].values
        silent = _silent(data, layer, delta, fit)
        size = _positive(_sizes(data, layer, SILENT, silent))
        speech = _sizes(data, layer, 1.0, silent)
        gains, feds = [gain, *gains], [size, *feds]
        deltas, errors = [problem.mean(delta.abs()), *deltas], [delta, *errors]
        error_noise = [noise, *error_noise]
        # Weight decay curves the loss along every parameter that has one.
        decay = net.layer(decays, layer)
        unit = ((gain[:, None] * size).square() + decay).rsqrt()
        summed = problem.weighed(noise).square().mT @ fed.square()
        part = problem.weighed(delta).square()
        summed = summed + part.mT @ (fed_noise[layer] + EPS * fed.abs()).square()
        step = ((gain[:, None] * _positive(speech)).square() + decay).rsqrt()
        step, z_step = step * size_of_fit, size_of_fit / gain
        if layer < net.depth - 1 and not net.activations[layer].homogeneous:
            # A pre-activation moved by 1 is another place.
            step, z_step = torch.minimum(step, 1 / size), z_step.clamp(max=1.0)
        z_steps = [z_step, *z_steps]
        rows.append((unit, step, loud[:, None] * speech, summed.sqrt()))
        if layer == 0:
            break
        weight = net.layer(data.params, layer)[:, : net.widths[layer]]
        slope, bend = data.slopes[layer - 1], data.bends[layer - 1]
        pull, terms = delta @ weight, delta.abs() @ weight.abs()
        pulls = [pull, *pulls]
        slopes = [problem.weighed(delta.abs()).mT @ slope.abs(), *slopes]
        coupled = slopes[0] * unit[:, : pull.shape[1]]
        cross = data.cross[layer - 1]
        reach = (weight * problem.rms(slope)).square()
        bent = problem.mean(terms * bend.abs())
        if cross is not None:  # what a unit does through those that lean on it
            sizes = [problem.rms(part.mT) for part in (cross.slope, cross.mixed, cross.twice)]
            reach = reach.index_add(1, cross.by, (weight * sizes[0]).square())
            loudness = problem.rms(terms)
            bent = bent + loudness * sizes[1]
            bent = bent.index_add(0, cross.by, loudness * (sizes[1] + sizes[2]))
        coupling = gain[:, None].square() * reach + coupled.square()
        # Outgoing weights may be near to 0 where they belong: they count as at least a Newton step.
        steps = loud / gain.square()
        nearby = slopes[0] * steps[:, None] / _positive(speech[: pull.shape[1]])
        loud = (reach * loud[:, None].square() + nearby.square()).sum(0).sqrt()
        gain = _positive((coupling.sum(0) + bent).sqrt())
        blur = noise @ weight.abs() + EPS * terms
        noise = _pulled(blur, slope.abs(), cross, sizes=True)
        noise = noise + (bend * pull).abs() * z_noise[layer - 1]
        delta = _pulled(pull, slope, cross)
    unit, step, largest, blur = (
        torch.cat([flat_rows(net, layer, part[k]) for layer, part in enumerate(rows[::-1])], -1)
        for k in range(4)
    )
    own = problem.decays * net.flatten(data.params).abs()
    largest, blur = largest + own, blur + EPS * own
    return Natural(
        unit,
        step,
        z_steps,
        largest,
        blur,
        residual,
        output_noise,
        z_noise,
        gains,
        feds,
        fed_noise,
        error_noise,
        deltas,
        errors,
        pulls,
        slopes,
    )


def _rounding_of_activations(data: OnData) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """To first order, what rounding may do to what each layer is fed with, to z, and to the outputs."""
    net = data.net
    noise = torch.zeros_like(data.inputs[0].values)
    fed, z_noise = [noise], []
    for layer in range(net.depth):
        rows = net.layer(data.params, layer).abs()
        noise = (noise + EPS * data.inputs[layer].values.abs()) @ rows.mT
        if layer == net.depth - 1:
            break
        z_noise.append(noise)
        h = data.inputs[layer + 1].values
        cross = data.cross[layer]
        moved = data.slopes[layer].abs() * noise
        if cross is not None:
            moved = moved + cross.slope.abs().mT * noise[:, cross.by]
        noise = moved
        if net.biases[layer + 1]:
            noise = torch.cat([noise, noise.new_zeros(len(noise), 1)], dim=1)
        noise = noise + EPS * h.abs()
        fed.append(noise)
    return fed, z_noise, noise + EPS * data.outputs.abs()


def _pulled(stack: Tensor, slope: Tensor, cross: Cross | None, sizes: bool = False) -> Tensor:
    """``Σ_i stack_i ∂h_i/∂z_j``, (N, width), or the sum of the terms' sizes."""
    if cross is None:
        return stack * slope
    if sizes:
        cross = replace(cross, slope=cross.slope.abs())
    return pull_back(stack.mT.contiguous(), slope.mT.contiguous(), cross).mT.contiguous()


def _sizes(data: OnData, layer: int, z: float, silent: Tensor) -> Tensor:
    """Root mean square of what a linear layer is fed with, (D,).

    Args:
        z: a pre-activation, whose effect counts as well in units whose size is not a matter of scaling:
            a unit that says nothing has a size, too.
        silent: homogeneous units for which it counts, (width,).
    """
    mean = data.problem.mean
    squares = mean(data.inputs[layer].values.square())
    if layer:
        counts = z * silent if data.net.activations[layer - 1].homogeneous else z
        squares[: data.net.widths[layer]] += counts**2 * mean(data.slopes[layer - 1].square())
    return squares.sqrt()


def _silent(data: OnData, layer: int, delta: Tensor, fit: float) -> Tensor:
    """Units below linear layer ``layer`` that say nothing, beside what there is to fit, as 0 or 1."""
    if not layer:
        return torch.zeros(0, dtype=torch.float64)
    width = data.net.widths[layer]
    said = data.problem.rms(data.inputs[layer].values[:, :width])
    heard = data.problem.rms(delta) @ data.net.layer(data.params, layer)[:, :width].abs()
    return (heard * said <= SILENT * fit).double()


def _positive(sizes: Tensor) -> Tensor:
    """1 in place of 0: what is not there at all has no size to be measured by."""
    return torch.where(sizes > 0, sizes, torch.ones_like(sizes))
