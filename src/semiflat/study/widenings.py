"""Which embeddings a study looks at, and what it records of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.curvature.parts import second_difference
from semiflat.embeddings import Embedding, NullGates, NullUnits, Replicate, ScaledReplicate
from semiflat.networks import MLP, bias_key
from semiflat.points import EmbeddedPoint, Point
from semiflat.problem import Problem
from semiflat.records.study import EmbeddedRow, JudgedRow, Signs, read
from semiflat.verdicts import Verdict
from semiflat.verdicts.decayed import inertia_with_decay

DENSE_CHECK = 400
"""Parameters of a wide network up to which its dense Hessian checks the inertia law."""


@dataclass(frozen=True)
class Trial:
    """One embedding of a study.

    Attributes:
        family: ``"replicate inside"`` (all shares between 0 and 1), ``"replicate outside"`` (one
            below 0), ``"null units"``, at infinity ``"null gates"``, and with weight decay ``"scaled copies"``.
        layer: hidden layer.
        unit: the replicated unit, or None.
        added: number of units added.
        embedding: the embedding.
    """

    family: str
    layer: int
    unit: int | None
    added: int
    embedding: Embedding


def widenings(net: MLP, wider: int, null_bias: float) -> Iterator[Trial]:
    """Every unit replicated, shares inside and outside [0, 1], and null units in every layer."""
    for added in range(1, wider + 1):
        for layer in range(len(net.hidden)):
            for unit in net.heads(layer):
                for how, copies in Replicate.simple(layer, unit, added).items():
                    yield Trial(f"replicate {how}", layer, unit, added, copies)
                if len(net.branch(layer, unit)) > 1:
                    yield Trial("null gates", layer, unit, added, NullGates(layer, unit, added))
            yield Trial("null units", layer, None, added, NullUnits(layer, [null_bias] * added))


def widenings_with_decay(problem: Problem, wider: int, null_bias: float) -> Iterator[Trial]:
    """What may keep critical points critical with weight decay, and beside it one copy of every unit.

    Null units have bias 0 where biases of their layer are decayed. Whether a trial keeps a point critical is
    asked at the point; scaled copies of positively homogeneous units do, null units where σ(α) = 0 or the bias
    above is not decayed, and copies with other shares where nothing of their unit is decayed.
    """
    net = problem.net
    decays = net.unflatten(problem.decays)
    for added in range(1, wider + 1):
        for layer, activation in enumerate(net.activations):
            for unit in range(net.hidden[layer]) if activation.homogeneous else ():
                balanced = ScaledReplicate.balanced(layer, unit, added + 1)
                yield Trial("scaled copies", layer, unit, added, balanced)
            pinned = not net.biases[layer] or bool(decays[bias_key(layer)].any())
            bias = 0.0 if pinned else null_bias
            if net.biases[layer + 1] and (
                activation.smooth or bias
            ):  # at a kink there is no gradient
                yield Trial("null units", layer, None, added, NullUnits(layer, [bias] * added))
    for trial in widenings(net, 1, null_bias):
        if trial.unit is not None:
            yield trial


def output_change(point: EmbeddedPoint, probes: int = 256) -> float:
    """Largest change of an output, relative to the largest: on the data and on random inputs.

    At infinity on the data alone, by which the steps are fixed.
    """
    generator = torch.Generator().manual_seed(0)
    X = point.problem.X
    random = torch.randn((probes, X.shape[1]), generator=generator, dtype=X.dtype) * 3

    def outputs(of: Point) -> Tensor:
        on_data = of.problem.outputs(of.params)
        if not of.problem.by_algebra:
            return on_data
        return torch.cat([on_data, of.problem.net.forward(of.params, random)])

    narrow, wide = outputs(point.source), outputs(point)
    return float((wide - narrow).abs().max() / narrow.abs().max().clamp(min=1.0))


def embedded_row(
    name: str, source: str, widening: Trial, point: EmbeddedPoint, verdict: Verdict
) -> EmbeddedRow:
    """The record of one embedding: what the law predicts beside what the wide network measures."""
    wide = point.materialize()
    direction, net = verdict.descent_direction, wide.problem.net
    judged = verdict.to_json() | {"name": name, "gradient_norm": wide.gradient_norm}
    dense = dense_inertia(wide)
    if wide.problem.decay and verdict.inertia is not None:
        # The verdict is the wide Hessian's own: the law stands beside it, where there is one.
        law = inertia_with_decay(point)
        positive, zero, negative = verdict.inertia
        dense = None if law is None else (positive, zero, negative)
        judged["inertia"] = list(verdict.inertia if law is None else law)
    return EmbeddedRow(
        **vars(read(JudgedRow, judged)),
        source=source,
        embedding=repr(widening.embedding),
        steps=widening.embedding.to_json(),
        family=widening.family,
        layer=widening.layer,
        unit=widening.unit,
        added=widening.added,
        widths=point.problem.net.widths,
        output_change=output_change(point),
        predicted_gradient_norm=point.gradient_norm,
        dense_inertia=dense,
        curvature_measured=None
        if direction is None
        else second_difference(wide.problem, net.flatten(wide.params), net.flatten(direction)),
    )


def dense_inertia(wide: Point) -> Signs | None:
    """Signs counted in the wide network's own Hessian: the check of the law, where it is small.

    None at infinity, too: there the verdict is that Hessian's, and a second count would check nothing.
    """
    if not wide.problem.by_algebra or wide.problem.net.parameter_count > DENSE_CHECK:
        return None
    return wide.evidence.spectrum.count()
