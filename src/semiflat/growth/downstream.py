"""What the loss makes of a change of what units are read into: its slope, and factors of its curvature.

Of a batch the loss is, to second order in the change Δ of what the readers of some units give,
``⟨δ, Δ⟩ + ½ Σ_n Σ_k ⟨b_nk, Δ_n⟩²``: δ is the gradient there, and ``b_nk = J_nᵀ S_n e_k`` are columns of the
Gauss–Newton matrix ``JᵀHJ = Σ_k b_k b_kᵀ`` of sample n, where ``SSᵀ = H`` is the curvature of the loss in what
the model gives. All groups of units share the backward passes that this takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from semiflat.errors import InputError
from semiflat.growth.data import mean_of
from semiflat.modules.batches import Batch, LossFunction, loss_on, moved
from semiflat.modules.branches import Branch, Program, Programs, detached, grads, outputs_like

EXACT_FACTORS = 10
"""Outputs of a sample up to which columns of its curvature are taken along its eigenvectors."""
KEPT = 0.99
"""Of the curvature, what the columns hold that are kept: a trained classifier hesitates between few."""
DRAWN = 6
"""Random combinations of columns that are taken beyond."""
STEPS = 8
"""Lanczos steps for the square root of the curvature in the outputs; so few stay orthogonal."""


@dataclass
class Downstream:
    """One batch, seen from what the readers of some branches give.

    Attributes:
        weight: part of all samples that are in it.
        batch: it, in the type that is computed in.
        parts: into which it is cut, to say how the loss varies between samples.
        of: the loss of outputs and targets.
        losses: of the parts.
        held: what enters the branches.
        deltas: for each reader what the loss changes by with what it gives.
        factors: for each reader the columns b, (K, …); each sample's curvature is their sum over K.
        added: to what the readers give.
        like: what the model gives, for how it is packed.
    """

    program: Program
    branches: dict[str, Branch]
    weight: float
    batch: Batch
    parts: list[Batch]
    of: LossFunction
    losses: list[float]
    held: Mapping[fx.Node, Any]
    deltas: Mapping[fx.Node, Tensor]
    factors: Mapping[fx.Node, Tensor]
    added: Mapping[fx.Node, Tensor]
    like: Any

    @property
    def samples(self) -> int:
        """How many there are."""
        return self.batch.size

    @property
    def loss(self) -> float:
        """Of the batch."""
        return mean_of(self.losses, self.parts)

    def losses_with(self, name: str, added: Mapping[fx.Node, Tensor]) -> list[float]:
        """The losses of the parts when this is added to what the readers of a branch give."""
        with torch.no_grad():
            run = self.program.forward(
                self.program.point, self.batch.inputs, [self.branches[name]], added
            )
            packed = self.program.packed(run[0], self.like, moved=True)
            apart = replace(self.batch, inputs=packed).parts(len(self.parts))
            # Not finite where a step goes too far.
            return [float(self.of(part.inputs, part.targets)) for part in apart]

    @property
    def bytes(self) -> int:
        """Memory that slopes and factors take."""
        every = (*self.deltas.values(), *self.factors.values())
        return sum(each.numel() * each.element_size() for each in every)

    @property
    def dtype(self) -> torch.dtype:
        """In which all is computed."""
        return next(iter(self.deltas.values())).dtype


def downstream(
    programs: Programs,
    batch: Batch,
    loss: LossFunction,
    names: Iterable[str],
    weight: float,
    seed: int,
    added: Mapping[fx.Node, Tensor] = MappingProxyType({}),
    parts: int = 1,
) -> Downstream:
    """See one batch from the readers of the named branches.

    Args:
        weight: part of all samples that are in it.
        seed: of the columns that are drawn.
        added: to what the readers give: the loss is seen as it is then.
        parts: into so many the batch is cut for its losses.
    """
    program, found, inputs = programs.of(batch.inputs)
    point = program.point
    branches = {name: each for name in names if isinstance(each := found[name], Branch)}
    targets = moved(batch.targets, programs.dtype, programs.device)
    data = replace(batch, inputs=inputs, targets=targets)
    outputs, held, probes, _ = program.forward(point, inputs, branches.values(), added)
    like = outputs_like(program.model, inputs)
    packed = program.packed(outputs, like, moved=True)
    leaves, spec = pytree.tree_flatten(packed)
    real = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.requires_grad]
    free = list(leaves)
    for k in real:
        free[k] = leaves[k].detach().requires_grad_()
    own = [free[k] for k in real]
    here = loss_on(pytree.tree_unflatten(free, spec), loss, data)
    if not here.requires_grad:
        raise InputError(
            "the loss cannot be differentiated in what the model gives (it counts, or is detached); give one "
            "that can, as cross_entropy"
        )
    if any(not x.ndim or len(x) != batch.size for x in own):
        raise InputError(
            f"the model gives tensors of shapes {[tuple(x.shape) for x in own]} for {batch.size} samples; "
            "expected the samples first: flatten outputs in the loss, and add up what has no samples there, too"
        )
    slopes = torch.autograd.grad(here, own, create_graph=True, allow_unused=True)
    slopes = tuple(
        torch.zeros_like(x) if s is None else s for s, x in zip(slopes, own, strict=True)
    )
    every = tuple(probes.values())
    given = [leaves[k] for k in real]

    def back(along: list[Tensor]) -> dict[fx.Node, Tensor]:
        total = sum((one * a).sum() for one, a in zip(given, along, strict=True))
        return dict(zip(probes, grads(total, every, retain_graph=True), strict=True))

    deltas = back([slope.detach() for slope in slopes])
    columns = [back(column) for column in _columns(slopes, own, batch.size, seed)]
    factors = {node: torch.stack([column[node] for column in columns]) for node in probes}
    losses = [float(here.detach())]
    if len(cut := data.parts(parts)) > 1:
        alone = replace(data, inputs=detached(packed)).parts(parts)
        losses = [float(loss_on(part.inputs, loss, part).detach()) for part in alone]
    return Downstream(
        program, branches, weight, data, cut, loss, losses, held, deltas, factors, added, like
    )


def _columns(
    slopes: tuple[Tensor, ...], own: list[Tensor], samples: int, seed: int
) -> list[list[Tensor]]:
    """``S e_k`` of every sample, packed as the outputs; or ``S ε_k / √K`` of random signs ε."""
    sizes = [x[0].numel() for x in own]
    total = sum(sizes)
    curved = any(slope.requires_grad for slope in slopes)

    def times(vectors: Tensor) -> Tensor:
        if not curved:
            return torch.zeros_like(vectors)
        parts = [
            part.reshape(x.shape) for part, x in zip(vectors.split(sizes, 1), own, strict=True)
        ]
        inner = sum((s * p).sum() for s, p in zip(slopes, parts, strict=True) if s.requires_grad)
        try:
            second = grads(inner, tuple(own), retain_graph=True)
        except RuntimeError as error:
            raise InputError(
                f"the loss has no second derivative ({str(error).splitlines()[0]:.200}); give one that has, as "
                "smooth_l1_loss or cross_entropy"
            ) from error
        return torch.cat([each.reshape(samples, -1) for each in second], 1)

    if total <= EXACT_FACTORS:
        eye = torch.eye(total, dtype=own[0].dtype, device=own[0].device)
        curvature = torch.stack([times(line.expand(samples, -1)) for line in eye], 2)
        values, vectors = torch.linalg.eigh((curvature + curvature.mT) / 2)
        held = values.clamp(min=0).sum(0).flip(0).cumsum(0)
        most = int((held < KEPT * held[-1]).sum()) + 1
        columns = list((vectors * values.clamp(min=0).sqrt()[:, None]).unbind(2))[-most:]
    else:
        generator = torch.Generator().manual_seed(seed)
        columns = []
        for _ in range(DRAWN):
            signs = torch.randint(0, 2, (samples, total), generator=generator) * 2 - 1
            columns.append(_root_times(times, signs.to(own[0]) / DRAWN**0.5, min(total, STEPS)))
    return [
        [part.reshape(x.shape) for part, x in zip(column.split(sizes, 1), own, strict=True)]
        for column in columns
    ]


def _root_times(times: Any, start: Tensor, steps: int) -> Tensor:
    """``H^½ v`` of every sample's own H by Lanczos, (samples, n); negative curvature counts as none.

    Source: the Krylov approximation of a function of a matrix, exact after as many steps as H has eigenvalues.
    """
    length = torch.linalg.vector_norm(start, dim=1, keepdim=True)
    basis = [start / length.clamp(min=1e-30)]
    tri = torch.zeros((len(start), steps, steps), dtype=start.dtype, device=start.device)
    eps = torch.finfo(start.dtype).eps
    for step in range(steps):
        product = times(basis[-1])
        tri[:, step, step] = (product * basis[-1]).sum(1)
        product = product - tri[:, step, step, None] * basis[-1]
        if step:
            product = product - tri[:, step - 1, step, None] * basis[-2]
        beta = torch.linalg.vector_norm(product, dim=1)
        beta = torch.where(beta > 64 * eps * tri.abs().flatten(1).amax(1), beta, 0 * beta)
        if step + 1 < steps:
            tri[:, step, step + 1] = tri[:, step + 1, step] = beta
            basis.append(product / torch.where(beta > 0, beta, torch.ones_like(beta))[:, None])
            basis[-1] = torch.where(beta[:, None] > 0, basis[-1], 0 * basis[-1])
    values, vectors = torch.linalg.eigh(tri)
    root = torch.einsum("sij,sj,sj->si", vectors, values.clamp(min=0).sqrt(), vectors[:, 0])
    combined: Tensor = torch.stack(basis, 1).mul_(root[:, :, None]).sum(1)
    combined *= length
    return combined


def over_places(values: Tensor, samples: int) -> Tensor:
    """Sums over all that belongs to a sample, (k, samples), of k tensors of a reader's values without features.

    Samples lie along the first axis, with positions or without, or the second; else all is summed, (k, 1).
    """
    first, *others = values.shape[1:]
    if first % samples and others and others[0] == samples:  # positions first
        values = values.transpose(1, 2)
    elif first % samples and others:
        samples = 1
    return values.reshape(len(values), samples, -1).sum(2)
