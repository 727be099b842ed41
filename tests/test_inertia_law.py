"""The inertia law of theory §3 against dense counts of the wide Hessian, at any parameters."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
import semiflat as sf
from helpers import embedding_of, point_of
from reference import (
    ACTIVATIONS,
    LOSSES,
    Case,
    Reference,
    Step,
    count,
    critical_reference,
    random_reference,
    spectrum,
)
from semiflat.evidence import Evidence

PER_ACTIVATION = 34
ENOUGH_CLEAR = 200
ORDER = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


def at(point: sf.Point, like: Reference) -> Reference:
    """The reference of a semiflat point with the data and loss of ``like``."""
    return Reference(like.activation, point.params, like.X, like.y, like.loss)


# -- the law itself -------------------------------------------------------------------------------


def unclear(case: Case, narrow: Tensor, wide: Tensor) -> str:
    """Why dense counts cannot tell zeros from small eigenvalues in this case; empty if they can.

    Looked at are the wide spectrum, the narrow one, and those of the blocks that the steps bring
    in, each by its own size and by that of the wide spectrum, which they are a part of.
    """
    scale = float(wide.abs().max())
    if not count(wide)[3]:
        return "wide spectrum"
    if not (count(narrow)[3] and count(narrow, scale)[3]):
        return "narrow spectrum"
    ref = case.narrow
    blocks = []
    for layer, unit in ref.replicated_units(case.steps):
        K = ref.K(layer, unit)
        above = ref.widths[layer + 2]
        blocks += [spectrum(K), torch.linalg.svdvals(K[:above, above:])]
    for layer in {step[1] for step in case.steps if step[0] == "null"}:
        blocks.append(torch.linalg.svdvals(ref.F_null(layer)))
    if not all(count(block)[3] and count(block, scale)[3] for block in blocks):
        return "blocks"
    return ""


def test_inertia_law_predicts_dense_counts() -> None:
    tally: Counter[str] = Counter()

    def law(case: Case) -> None:
        ref = case.narrow
        wide = embedding_of(case.steps)(point_of(ref))
        verdict = sf.judge(wide)
        predicted, flat = verdict.inertia, verdict.flat_directions
        assert predicted is not None
        assert flat is not None
        assert min(flat.zeros_explained, flat.zeros_unexplained) >= 0
        assert flat.zeros_explained + flat.zeros_unexplained == predicted.zero
        assert sum(predicted) == wide.problem.net.parameter_count
        dense = spectrum(ref.widened(case.steps).hessian())
        assert len(dense) == sum(predicted)
        before = spectrum(ref.hessian())
        why = unclear(case, before, dense)
        tally["cases"] += 1
        if why:
            tally[f"unclear: {why}"] += 1
            return
        positive, zero, negative, _ = count(dense)
        assert tuple(predicted) == (positive, zero, negative)
        tally["clear"] += 1
        # Z22 Thm 6.2, between two dense counts: an embedding loses no direction of any sign.
        assert all(
            n >= m for n, m in zip((positive, zero, negative), count(before)[:3], strict=True)
        )
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


# -- rounding -------------------------------------------------------------------------------------


def exact_relu_F(ref: Reference, layer: int) -> list[list[list[Fraction]]]:
    """F of each unit of a hidden ReLU layer under the squared loss, in rational arithmetic."""
    weights = [
        [[Fraction(entry) for entry in row] for row in ref.params[f"{2 * k}.weight"].tolist()]
        for k in range(len(ref.widths) - 1)
    ]
    units, above, fan = ref.widths[layer + 1], ref.widths[layer + 2], ref.widths[layer]
    F = [[[Fraction(0)] * fan for _ in range(above)] for _ in range(units)]
    for x, y in zip(ref.X.tolist(), ref.y.tolist(), strict=True):
        h = [[Fraction(entry) for entry in x]]
        slopes = []
        for W in weights:
            z = [sum((w * v for w, v in zip(row, h[-1], strict=True)), Fraction(0)) for row in W]
            slopes.append([int(entry > 0) for entry in z])
            h.append([max(entry, Fraction(0)) for entry in z])
        delta = [entry - Fraction(target) for entry, target in zip(z, y, strict=True)]
        for k in range(len(weights) - 1, layer + 1, -1):
            pulled = [
                sum((row[i] * d for row, d in zip(weights[k], delta, strict=True)), Fraction(0))
                for i in range(ref.widths[k])
            ]
            delta = [p * s for p, s in zip(pulled, slopes[k - 1], strict=True)]
        for r in range(units):
            for i, j in product(range(above), range(fan)):
                F[r][i][j] += delta[i] * slopes[layer][r] * h[layer][j]
    return F


def exact_rank(matrix: list[list[Fraction]]) -> int:
    rows, rank = [list(row) for row in matrix], 0
    for column in range(len(rows[0])):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        for r in range(rank + 1, len(rows)):
            factor = rows[r][column] / rows[rank][column]
            rows[r] = [a - factor * b for a, b in zip(rows[r], rows[rank], strict=True)]
        rank += 1
    return rank


def test_rounding_in_F_is_not_counted_as_curvature() -> None:
    """A ReLU unit adds (copies − 1) rank F to both counts, with F's rank known exactly.

    In deep narrow nets F often lacks rank for structural reasons, and all that floating point shows
    of the missing part is rounding.
    """
    tally: Counter[str] = Counter()
    wrong = []
    for number in range(10):
        ref = random_reference([2, 2, 3, 4, 3, 1], "relu", "squared", False, 12, seed=number)
        narrow = sf.judge(point_of(ref)).inertia
        assert narrow is not None
        for layer in (1, 2):
            exact = exact_relu_F(ref, layer)
            for unit, F in enumerate(exact):
                rank = exact_rank(F)
                sizes = torch.linalg.svdvals(torch.tensor([[float(x) for x in row] for row in F]))
                if rank and float(sizes[rank - 1]) < 1e-5 * float(sizes[0]):
                    tally["small but not zero"] += 1
                    continue
                tally["deficient" if rank < min(len(F), len(F[0])) else "full"] += 1
                wide = sf.judge(sf.Replicate(layer, unit, [0.5, 0.75, -0.25])(point_of(ref)))
                added = [n - m for n, m in zip(wide.inertia, narrow, strict=True)]
                size = 2 * (len(F) + len(F[0]))
                if added != [2 * rank, size - 4 * rank, 2 * rank]:
                    wrong.append((number, layer, unit, rank, added))
    print(f"\n{dict(tally)}, wrong: {len(wrong)}")
    assert tally["deficient"] >= 50
    assert wrong == []


def test_noise_floor_rests_on_parameters_that_are_really_moved_by_a_rounding() -> None:
    ref = random_reference([2, 3, 1], "tanh", "squared")
    evidence = Evidence(point_of(ref), 1e-10)
    moved = ((evidence.rounded - evidence.vector) / evidence.vector).abs()
    assert float(moved.min()) > 0
    assert float(moved.max()) < 1e-14


# -- the spectrum of equal shares -----------------------------------------------------------------


@settings(ORDER, max_examples=25)
@given(reference.cases(depth=2, width=3), st.data())
def test_equal_shares_repeat_the_spectrum_of_F_and_G_over_m(
    case: Case, data: st.DataObject
) -> None:
    """Each eigenvalue of [[0, F], [Fᵀ, G/m]] stands m − 1 times in the wide spectrum."""
    ref = case.narrow
    layer = data.draw(st.integers(0, len(ref.hidden) - 1))
    unit = data.draw(st.integers(0, ref.hidden[layer] - 1))
    copies = data.draw(st.integers(2, 4))
    wide = sf.Replicate.uniform(layer, unit, copies)(point_of(ref))
    left = spectrum(at(wide, ref).hessian()).tolist()
    inner = ref.K(layer, unit)
    above = ref.widths[layer + 2]
    inner[above:, above:] /= copies
    tolerance = 1e-12 * max(map(abs, left))
    for eigenvalue in spectrum(inner).tolist():
        for _ in range(copies - 1):
            nearest = min(left, key=lambda other: abs(other - eigenvalue))
            assert abs(nearest - eigenvalue) <= tolerance
            left.remove(nearest)
    # The rest is an eigenproblem of the narrow size with the narrow Hessian's signs.
    rest, narrow = torch.tensor(left), spectrum(ref.hessian())
    assert len(rest) == len(narrow)
    before, after = count(narrow), count(rest, max(map(abs, left)))
    if before[3] and after[3]:
        assert after[:3] == before[:3]


# -- verdicts and directions at critical points ---------------------------------------------------

STEPS: list[list[Step]] = [
    [("replicate", 0, 0, [0.5, 0.5])],
    [("replicate", 0, 0, [0.25, 0.25, 0.5])],
    [("replicate", 0, 0, [1.5, -0.5])],
    [("replicate", 0, 0, [1.0, 0.0])],
    [("null", 0, [0.75])],
    [("replicate", 0, 0, [2.0, -1.0]), ("null", 0, [-0.5, 0.25])],
]
DEEP_STEPS: list[list[Step]] = [
    [("replicate", 1, 0, [0.75, 0.25])],
    [("replicate", 0, 1, [0.5, 0.5]), ("replicate", 1, 1, [1.25, 0.5, -0.75])],
    [("null", 1, [0.5]), ("replicate", 0, 0, [0.0, 1.0])],
    [("null", 0, [0.5]), ("null", 1, [-0.25])],
]


def curvature_along(ref: Reference, direction: dict[str, Tensor]) -> float:
    d = torch.cat([direction[key].reshape(-1) for key in ref.shapes])
    return float(d @ ref.hessian() @ d / (d @ d))


def falls_along(ref: Reference, direction: dict[str, Tensor]) -> bool:
    """Whether the loss falls, the mean of both ways, at some step length."""
    d = torch.cat([direction[key].reshape(-1) for key in ref.shapes])
    falls = [
        ref.value() - float(ref.risk(ref.vector + t * d) + ref.risk(ref.vector - t * d)) / 2
        for t in (0.1, 0.01, 1e-3)
    ]
    return max(falls) > 1e-15


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_verdicts_and_their_directions_agree_with_the_dense_hessian(
    activation: str, loss: str
) -> None:
    tally: Counter[str] = Counter()
    for number, (widths, steps) in enumerate(
        [([2, 1, 2], STEPS), ([1, 2, 1], STEPS), ([1, 2, 2, 2], STEPS[::3] + DEEP_STEPS)]
    ):
        for size in [0.2] if number == 1 else [0.02]:
            ref = critical_reference(widths, activation, loss, True, size, seed=number)
            assert float(ref.gradient().abs().max()) < 1e-14
            narrow = point_of(ref)
            points = [(narrow, ref)]
            points += [(embedding_of(s)(narrow), ref.widened(s)) for s in steps]
            for point, wide in points:
                verdict = sf.judge(point)
                tally[verdict.kind] += 1
                dense = wide.hessian()
                eigenvalues = spectrum(dense)
                least, most = float(eigenvalues[0]), float(eigenvalues.abs().max())
                assert verdict.kind is not sf.Kind.NOT_CRITICAL
                if verdict.kind is sf.Kind.STRICT_SADDLE:
                    assert least < -1e-12 * most
                    assert verdict.descent_direction is not None
                    assert verdict.curvature is not None
                    measured = curvature_along(wide, verdict.descent_direction)
                    assert verdict.curvature == pytest.approx(measured, rel=1e-8, abs=1e-14 * most)
                    assert least - 1e-12 * most <= verdict.curvature < 0
                    flat = torch.cat([t.reshape(-1) for t in verdict.descent_direction.values()])
                    assert float(torch.linalg.vector_norm(flat)) == pytest.approx(1, abs=1e-12)
                    if verdict.curvature < -1e-5 * most:  # else rounding hides the fall
                        assert falls_along(wide, verdict.descent_direction)
                        tally["falls"] += 1
                elif verdict.kind in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM):
                    assert least > -1e-12 * most
                    assert verdict.inertia is not None
                    assert verdict.inertia.negative == 0
                    assert verdict.descent_direction is None
                    strict = verdict.kind is sf.Kind.STRICT_MINIMUM
                    assert strict == (verdict.inertia.zero == 0)
                    assert not strict or least > 0
    print(f"\n{activation} {loss}: {dict(tally)}")
    assert tally[sf.Kind.STRICT_SADDLE] >= 4
    assert tally["falls"] >= 4


def test_the_direction_away_from_a_point_that_is_not_critical_is_the_narrow_gradient_s() -> None:
    for number, steps in enumerate(STEPS + DEEP_STEPS):
        ref = random_reference([2, 2, 3, 2], "tanh", "cauchy", seed=number)
        wide = ref.widened(steps)
        verdict = sf.judge(embedding_of(steps)(point_of(ref)))
        assert verdict.kind is sf.Kind.NOT_CRITICAL
        direction = verdict.descent_direction
        assert direction is not None
        assert verdict.curvature == pytest.approx(curvature_along(wide, direction), rel=1e-8)
        d = torch.cat([direction[key].reshape(-1) for key in wide.shapes])
        assert float(torch.linalg.vector_norm(d)) == pytest.approx(1, abs=1e-12)
        assert float(wide.gradient() @ d) < 0
        # d stretches the narrow gradient; along it the two losses fall as one.
        slope = float(ref.gradient() @ ref.gradient())
        lifted = torch.cat([t.flatten() for t in widened_tangent(ref, steps).values()])
        assert torch.allclose(d, -lifted / torch.linalg.vector_norm(lifted), atol=1e-12)
        assert float(wide.gradient() @ lifted) == pytest.approx(slope, rel=1e-10)


def widened_tangent(ref: Reference, steps: list[Step]) -> dict[str, Tensor]:
    """The narrow gradient as a direction at the wide point: the embedding is affine."""
    step = ref.gradient()
    pieces = step.split([shape.numel() for shape in ref.shapes.values()])
    moved = {
        key: ref.params[key] + piece.reshape(shape)
        for (key, shape), piece in zip(ref.shapes.items(), pieces, strict=True)
    }
    here, there = reference.widened(ref.params, steps), reference.widened(moved, steps)
    return {key: there[key] - here[key] for key in here}


@pytest.mark.parametrize("activation", ["tanh", "softplus", "relu", "leaky_relu"])
def test_nonzero_F_makes_every_replication_of_a_strict_minimum_a_strict_saddle(
    activation: str,
) -> None:
    """F19 Thm 5(i), Thm 10 and P21 Thm 6 without what they assume of G (theory §3, §8)."""
    minima = 0
    for number in range(8):
        ref = critical_reference([2, 1, 2], activation, "squared", True, 0.02, seed=number)
        F = ref.F(0, 0)
        narrow = point_of(ref)
        # A scaling of a homogeneous unit is free, so its minimum is not strict.
        kinds = (sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM)
        if sf.judge(narrow).kind not in kinds or float(F.abs().max()) < 1e-6:
            continue
        minima += 1
        for shares in ([0.5, 0.5], [0.125, 0.875], [3, -2], [1, 0], [0, 0, 1], ["1/3"] * 3):
            verdict = sf.judge(sf.Replicate(0, 0, shares)(narrow))
            assert verdict.kind is sf.Kind.STRICT_SADDLE, (number, shares, verdict)
    assert minima >= 4


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus", "gelu", "silu", "sin"])
def test_one_output_minima_split_by_the_signs_of_G_and_of_the_shares(activation: str) -> None:
    """F = 0 exactly; then all depends on G and on how many shares are positive (P21 Thm 6)."""
    tally: Counter[str] = Counter()
    wrong = []
    for number in range(24):
        # One input and no bias below: G is a number, and definite.
        ref = critical_reference([1, 2, 1], activation, "squared", [False, True], 0.1, seed=number)
        narrow = point_of(ref)
        if sf.judge(narrow).kind is not sf.Kind.STRICT_MINIMUM:
            tally["not a minimum"] += 1
            continue
        assert float(sf.unit_blocks(narrow, 0, 0).F.abs().max()) < 1e-13
        G = float(ref.G(0, 0))
        if abs(G) < 1e-8:
            tally["G too small"] += 1
            continue
        up = G > 0
        tally["G > 0" if up else "G < 0"] += 1
        for shares, minimum in [
            ([0.5, 0.5], up),
            ([0.25, 0.5, 0.25], up),
            ([2, -1], not up),
            ([3, -1, -1], not up),
            ([1, 1, -1], False),
        ]:
            verdict = sf.judge(sf.Replicate(0, 0, shares)(narrow))
            expected = sf.Kind.MINIMUM if minimum else sf.Kind.STRICT_SADDLE
            if verdict.kind is not expected:
                wrong.append((number, shares, G, verdict.kind))
        edge = sf.judge(sf.Replicate(0, 0, [1, 0])(narrow))
        if edge.kind is not sf.Kind.UNDECIDED:
            wrong.append((number, [1, 0], G, edge.kind))
    print(f"\n{activation}: {dict(tally)}")
    assert wrong == []
    assert min(tally["G > 0"], tally["G < 0"]) >= 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_share_of_zero_adds_only_zeros_where_one_output_makes_F_zero(activation: str) -> None:
    """Fᵀζ = ∂R/∂u = 0 with a number ζ ≠ 0: F = 0 exactly, whatever rounding leaves of it."""
    wrong = []
    for number in range(10):
        ref = critical_reference([1, 2, 1], activation, "squared", True, 0.1, seed=number)
        narrow = point_of(ref)
        before = sf.judge(narrow).inertia
        after = sf.judge(sf.Replicate(0, 1, [0, 1, 0])(narrow)).inertia
        assert before is not None
        if after != (before.positive, before.zero + 6, before.negative):
            wrong.append((number, before, after))
    assert wrong == []


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "identity"])
@pytest.mark.parametrize("polished", [True, False])
def test_piecewise_linear_one_output_minima_stay_minima_with_no_negative_eigenvalue(
    activation: str, polished: bool
) -> None:
    """F = 0 and G = 0 exactly; what is computed of F is rounding, or the gradient that is left."""
    minima, wrong = 0, []
    for number in range(8):
        ref = critical_reference([1, 2, 1], activation, "squared", True, 0.1, seed=number)
        if not polished:  # as a search leaves it: some 1e-11 short of the critical point
            noise = random_reference(ref.widths, activation, "squared", seed=number + 100).params
            ref.params = {key: t + 1e-11 * noise[key] for key, t in ref.params.items()}
        narrow = point_of(ref)
        before = sf.judge(narrow)
        if before.kind not in (sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM):
            continue
        minima += 1
        assert before.inertia is not None
        for shares in ([0.5, 0.5], [2, -1], [0.75, -0.5, 0.75]):
            after = sf.judge(sf.Replicate(0, 0, shares)(narrow))
            assert after.inertia is not None
            found = (after.inertia.positive, after.inertia.negative)
            if after.kind is not sf.Kind.MINIMUM or found != (before.inertia.positive, 0):
                wrong.append((number, shares, after.kind, before.inertia, after.inertia))
    assert minima >= 5
    assert wrong == []


def test_null_units_open_a_way_down_exactly_where_F_null_is_not_zero() -> None:
    tally: Counter[str] = Counter()
    for number in range(6):
        for widths in ([1, 2, 2], [2, 2, 1], [1, 2, 2, 1]):
            ref = critical_reference(widths, "tanh", "squared", True, 0.02, seed=number)
            narrow = point_of(ref)
            if sf.judge(narrow).kind is not sf.Kind.STRICT_MINIMUM:
                tally["not a minimum"] += 1
                continue
            for layer in range(len(ref.hidden)):
                rank = sum(count(torch.linalg.svdvals(ref.F_null(layer)), 1.0)[:1])
                before, after = sf.judge(narrow), sf.judge(sf.NullUnits(layer, [0.4, -1])(narrow))
                assert before.inertia is not None
                assert after.inertia is not None
                assert after.inertia.positive == before.inertia.positive + 2 * rank
                assert after.inertia.negative == 2 * rank
                expected = sf.Kind.STRICT_SADDLE if rank else sf.Kind.UNDECIDED
                assert after.kind is expected, (number, widths, after)
                tally[f"rank {rank}"] += 1
    print(f"\n{dict(tally)}")
    assert tally["rank 1"] >= 8


def test_a_null_unit_opens_no_way_down_where_the_inputs_already_lead_to_the_layer_above() -> None:
    """F∅ = 0 where weights past the layer would have no gradient: a linear hidden layer."""
    checked = 0
    for number in range(6):
        ref = critical_reference([2, 2, 2], "identity", "squared", True, 0.02, seed=number)
        assert float(ref.F_null(0).abs().max()) < 1e-12
        after = sf.judge(sf.NullUnits(0, [0.5])(point_of(ref)))
        before = sf.judge(point_of(ref))
        assert before.inertia is not None
        assert after.inertia is not None
        assert (after.inertia.positive, after.inertia.negative) == (
            before.inertia.positive,
            before.inertia.negative,
        )
        checked += 1
    assert checked == 6


def test_a_verdict_is_neither_true_nor_false() -> None:
    verdict = sf.judge(point_of(random_reference([1, 2, 1], "tanh", "squared")))
    with pytest.raises(TypeError, match="compare its kind"):
        bool(verdict)
