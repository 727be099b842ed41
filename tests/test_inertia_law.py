"""The inertia law of theory §3 against dense counts of the wide Hessian, at any parameters."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
import semiflat as sf
from reference import ACTIVATIONS, LOSSES, Case, Reference, Step, count, random_reference, spectrum

PER_ACTIVATION = 50
ENOUGH_CLEAR = 200
ORDER = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def problem_of(ref: Reference) -> sf.Problem:
    net = sf.MLP(ref.widths, ref.activation, ref.has_bias)
    loss = reference.cauchy if ref.loss == "cauchy" else ref.loss
    return sf.Problem(net, ref.X, ref.y, loss)


def point_of(ref: Reference) -> sf.Point:
    return sf.Point(problem_of(ref), ref.params)


def embedding_of(steps: list[Step]) -> sf.Embedding:
    made = [
        sf.Replicate(step[1], step[2], step[3])
        if step[0] == "replicate"
        else sf.NullUnits(step[1], step[2])
        for step in steps
    ]
    whole = made[0]
    for each in made[1:]:
        whole = whole >> each
    return whole


def at(point: sf.Point, like: Reference) -> Reference:
    """The reference of a semiflat point with the data and loss of ``like``."""
    return Reference(like.activation, point.params, like.X, like.y, like.loss)


# -- the law itself -------------------------------------------------------------------------------


def unclear(case: Case, wide: Tensor) -> str:
    """Why dense counts cannot tell zeros from small eigenvalues in this case; empty if they can.

    Looked at are the wide spectrum, the narrow one, and those of the blocks that the steps bring in,
    each by its own size and by that of the wide spectrum, which they are a part of.
    """
    scale = float(wide.abs().max())
    if not count(wide)[3]:
        return "wide spectrum"
    narrow = spectrum(case.narrow.hessian())
    if not (count(narrow)[3] and count(narrow, scale)[3]):
        return "narrow spectrum"
    for step in case.steps:
        layer, ref = step[1], case.narrow
        if step[0] == "null":
            blocks = [torch.linalg.svdvals(ref.F_null(layer))]
        else:  # a later step's unit may be a copy of any
            units = range(ref.hidden[layer])
            blocks = [spectrum(ref.K(layer, unit)) for unit in units]
            blocks += [torch.linalg.svdvals(ref.F(layer, unit)) for unit in units]
        if not all(count(block)[3] and count(block, scale)[3] for block in blocks):
            return "blocks"
    return ""


def test_inertia_law_predicts_dense_counts() -> None:
    tally: Counter[str] = Counter()

    def law(case: Case) -> None:
        ref = case.narrow
        wide = embedding_of(case.steps)(point_of(ref))
        predicted = sf.judge(wide).inertia
        assert predicted is not None
        assert sum(predicted) == wide.problem.net.parameter_count
        dense = spectrum(ref.widened(case.steps).hessian())
        assert len(dense) == sum(predicted)
        why = unclear(case, dense)
        tally["cases"] += 1
        if why:
            tally[f"unclear: {why}"] += 1
            return
        positive, zero, negative, _ = count(dense)
        assert tuple(predicted) == (positive, zero, negative)
        tally["clear"] += 1
        before = count(spectrum(ref.hessian()))
        # Z22 Thm 6.2, between two dense counts: an embedding loses no direction of any sign.
        assert positive >= before[0]
        assert zero >= before[1]
        assert negative >= before[2]
        tally[ref.activation] += 1
        tally[ref.loss] += 1
        tally[f"depth {len(ref.hidden)}"] += 1
        tally[f"steps {len(case.steps)}"] += 1
        tally[case.twist] += 1
        tally[f"biases {'all' if all(ref.has_bias) else 'some or none'}"] += 1
        for step in case.steps:
            tally[step[0]] += 1
            if step[0] == "replicate":
                tally["negative share"] += min(step[3]) < 0
                tally["zero share"] += 0.0 in step[3]

    for number, activation in enumerate(ACTIVATIONS):
        cases = reference.cases(activation)
        many = settings(ORDER, max_examples=PER_ACTIVATION, derandomize=False)
        seed(number)(many(given(cases)(law)))()

    told_apart = {key: n for key, n in tally.items() if key.startswith("unclear")}
    print(f"\n{tally['clear']} clear of {tally['cases']} cases, no contradiction; {told_apart}")
    print(dict(tally))
    assert tally["cases"] >= 300
    assert tally["clear"] >= ENOUGH_CLEAR
    assert tally["clear"] + sum(told_apart.values()) == tally["cases"]
    seen = [*ACTIVATIONS, *LOSSES, *(f"depth {n}" for n in range(1, 5)), *reference.TWISTS]
    seen += ["steps 2", "steps 3", "replicate", "null", "negative share", "zero share"]
    seen += ["biases all", "biases some or none"]
    assert {key: tally[key] for key in seen if tally[key] < 10} == {}
