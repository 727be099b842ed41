"""Every embedding against its paper written out by hand, and against dense derivatives.

``reference`` builds each wide network from F19's Table 1 and eqs. 4, 9, 10, Z22's Defs. 4.3 and 5.2
and Exs. 5.1 and 5.2; nothing of semiflat is used there. Sizes are told by what sums are made of:
``reference.reach`` for outputs, ``Reference.gradient_terms`` for gradients.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import reference
import semiflat as sf
from helpers import point_of, problem_of, refused
from reference import KAPPA, KINKED, QUARTERS, Hand, Reference, critical_reference
from semiflat.embeddings import embedding_from_json
from test_embeddings import LAW

HOMOGENEOUS = ("relu", "leaky_relu", "identity")
ZERO_AT_ZERO = ("tanh", "gelu", "silu", "identity", "sin")
POSITIVE = st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])


@dataclass
class Step:
    """An embedding, and by hand what it does to parameters."""

    embedding: sf.Embedding
    by_hand: Hand

    def __repr__(self) -> str:
        return json.dumps(self.embedding.to_json())


Maker = Callable[[st.DrawFn, Reference], Step]
"""Draws an embedding for a network at its parameters; ``assume`` where none fits."""


def flat_wide(params: dict[str, Tensor]) -> Tensor:
    return reference.flat(params)


def vectors(draw: st.DrawFn, *shape: int) -> Tensor:
    """Gaussian numbers; from a seed, so that hypothesis does not make them all 0."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def some_layer(draw: st.DrawFn, ref: Reference) -> int:
    return draw(st.integers(0, len(ref.hidden) - 1))


def some_unit(draw: st.DrawFn, ref: Reference) -> tuple[int, int]:
    layer = some_layer(draw, ref)
    return layer, draw(st.integers(0, ref.hidden[layer] - 1))


def biased_layer(draw: st.DrawFn, ref: Reference, own: bool = True, above: bool = True) -> int:
    """A hidden layer with the biases asked for."""
    fit = [
        layer
        for layer in range(len(ref.hidden))
        if (ref.has_bias[layer] or not own) and (ref.has_bias[layer + 1] or not above)
    ]
    assume(fit)
    return draw(st.sampled_from(fit))


def fan_in(ref: Reference, layer: int) -> int:
    return ref.widths[layer] + ref.has_bias[layer]


# -- one maker a kind ------------------------------------------------------------------------------


def make_replicate(draw: st.DrawFn, ref: Reference) -> Step:
    layer, unit = some_unit(draw, ref)
    shares = draw(reference.shares())
    return Step(
        sf.Replicate(layer, unit, shares),
        lambda p: reference.replicated(p, layer, unit, shares),
    )


def make_offsets(draw: st.DrawFn, ref: Reference) -> Step:
    layer, unit = some_unit(draw, ref)
    shares = draw(reference.shares())
    d = vectors(draw, len(shares), ref.widths[layer + 2])
    d[-1] = -d[:-1].sum(0)
    return Step(
        sf.Replicate(layer, unit, shares, offsets=d.numpy()),
        lambda p: reference.replicated(p, layer, unit, shares, d),
    )


def make_scaled(draw: st.DrawFn, ref: Reference) -> Step:
    assume(ref.activation in HOMOGENEOUS)
    layer, unit = some_unit(draw, ref)
    beta = draw(st.lists(POSITIVE, min_size=1, max_size=3))
    free = [draw(QUARTERS) for _ in beta[1:]]
    known = sum(
        (Fraction(b) * Fraction(g) for b, g in zip(beta[1:], free, strict=True)), Fraction()
    )
    first = (1 - known) / Fraction(beta[0])
    gamma = [float(first), *free]
    given_gamma: list[Any] = [None if draw(st.booleans()) else first, *free]
    return Step(
        sf.ScaledReplicate(layer, unit, beta, given_gamma),
        lambda p: reference.scaled_replicated(p, layer, unit, beta, gamma),
    )


def make_inactive(draw: st.DrawFn, ref: Reference) -> Step:
    """Smooth: a zero of the activation, and any outgoing weights (F19 (II))."""
    assume(ref.activation in ZERO_AT_ZERO)
    layer = some_layer(draw, ref)
    turns = draw(st.integers(-2, 2)) if ref.activation == "sin" and ref.has_bias[layer] else 0
    bias = turns * math.pi
    count, above = draw(st.integers(1, 3)), ref.widths[layer + 2]
    alike = draw(st.booleans())
    v = vectors(draw, above) if alike else vectors(draw, count, above)
    rows = torch.zeros((count, fan_in(ref, layer)), dtype=torch.float64)
    if turns:
        rows[:, -1] = bias
    columns = v.expand(count, above)
    embedding = sf.InactiveUnits(
        layer, count if alike or draw(st.booleans()) else None, v.numpy(), bias if turns else None
    )
    return Step(embedding, lambda p: reference.added(p, layer, rows, columns))


def make_inactive_relu(draw: st.DrawFn, ref: Reference) -> Step:
    """relu with weights 0 and a bias below 0, inactive everywhere."""
    assume(ref.activation == "relu")
    layer = biased_layer(draw, ref, above=False)
    bias = draw(st.sampled_from([None, -0.5, -3.0]))
    v = vectors(draw, draw(st.integers(1, 2)), ref.widths[layer + 2])
    rows = torch.zeros((len(v), fan_in(ref, layer)), dtype=torch.float64)
    rows[:, -1] = -1.0 if bias is None else bias
    return Step(
        sf.InactiveUnits(layer, outgoing=v.numpy(), bias=bias),
        lambda p: reference.added(p, layer, rows, v),
    )


def inactive_rows(ref: Reference, layer: int, drawn: Tensor) -> Tensor:
    """Rows with u·x̃ ≤ −0.25 on the data: the weights as drawn, and the bias that it takes."""
    fed = ref.fed(layer)
    rows = torch.cat([drawn, drawn.new_zeros(len(drawn), 1)], 1)
    rows[:, -1] = -(fed @ rows.T).amax(0) - 0.25
    return rows


def make_inactive_on_data(draw: st.DrawFn, ref: Reference) -> Step:
    """relu inactive on the data only (F19 eq. 10)."""
    assume(ref.activation == "relu")
    layer = biased_layer(draw, ref, above=False)
    count = draw(st.integers(1, 2))
    rows = inactive_rows(ref, layer, vectors(draw, count, ref.widths[layer]))
    v = vectors(draw, count, ref.widths[layer + 2])
    return Step(
        sf.InactiveUnits(layer, outgoing=v.numpy(), incoming=rows.numpy()),
        lambda p: reference.added(p, layer, rows, v),
    )


def make_propagation(draw: st.DrawFn, ref: Reference) -> Step:
    layer = some_layer(draw, ref)
    rows = vectors(draw, draw(st.integers(1, 3)), fan_in(ref, layer))
    columns = torch.zeros((len(rows), ref.widths[layer + 2]), dtype=torch.float64)
    return Step(
        sf.InactivePropagation(layer, rows.numpy()),
        lambda p: reference.added(p, layer, rows, columns),
    )


def make_constant(draw: st.DrawFn, ref: Reference) -> Step:
    layer = biased_layer(draw, ref)
    biases = vectors(draw, draw(st.integers(1, 2)))
    v = vectors(draw, len(biases), ref.widths[layer + 2])
    return Step(
        sf.ConstantUnits(layer, biases.numpy(), v.numpy()),
        lambda p: reference.constant_added(p, layer, biases, v, ref.activation),
    )


def make_null(draw: st.DrawFn, ref: Reference) -> Step:
    layer = biased_layer(draw, ref, own=False)
    alphas = QUARTERS.filter(bool) if ref.activation in KINKED else QUARTERS
    assume(ref.has_bias[layer] or ref.activation not in KINKED)
    biases = draw(st.lists(alphas if ref.has_bias[layer] else st.just(0.0), min_size=1, max_size=3))
    rows = torch.zeros((len(biases), fan_in(ref, layer)), dtype=torch.float64)
    if ref.has_bias[layer]:
        rows[:, -1] = torch.tensor(biases, dtype=torch.float64)
    columns = torch.zeros((len(biases), ref.widths[layer + 2]), dtype=torch.float64)
    return Step(sf.NullUnits(layer, biases), lambda p: reference.added(p, layer, rows, columns))


def make_compatible(draw: st.DrawFn, ref: Reference) -> Step:
    """A random one, read out (what it satisfies is for test_compatible) and built by hand."""
    index_map: list[list[int | None]] = []
    for layer, width in enumerate(ref.hidden):
        # No null units of a relu: without α between copies they may sit on its kink.
        nulls = ref.has_bias[layer] and ref.has_bias[layer + 1]
        new = st.integers(-1 if nulls else 0, width - 1)
        extra = draw(st.lists(new, max_size=2))
        order = draw(st.permutations([*range(width), *extra]))
        index_map.append([None if s == -1 else s for s in order])
    widths = [ref.widths[0], *map(len, index_map), ref.widths[-1]]
    net = problem_of(ref).net
    made = sf.Compatible.random(net, widths, draw(st.integers(0, 2**16)), index_map)
    return Step(made, compatible_by_hand(made, index_map, ref.activation))


def compatible_by_hand(
    made: sf.Compatible, index_map: Sequence[Sequence[int | None]], activation: str
) -> Hand:
    alpha = [torch.from_numpy(a.copy()) for a in made.alpha]
    biases = [torch.from_numpy(b.copy()) for b in made.null_biases]
    return lambda p: reference.compatible(p, index_map, alpha, biases, activation)


def make_factorised(draw: st.DrawFn, ref: Reference) -> Step:
    """Compatible with α_ij = β_j, which stays a unit map."""
    layer, unit = some_unit(draw, ref)
    shares = draw(reference.shares())
    index_map: list[list[int | None]] = [list(range(width)) for width in ref.hidden]
    index_map[layer] += [unit] * (len(shares) - 1)
    beta = [[1.0] * width for width in ref.hidden]
    beta[layer][unit] = shares[0]
    beta[layer] += shares[1:]
    widths = [ref.widths[0], *map(len, index_map), ref.widths[-1]]
    return Step(
        sf.Compatible(widths, index_map, beta=beta),
        lambda p: reference.replicated(p, layer, unit, shares),
    )


def make_global_split(draw: st.DrawFn, ref: Reference) -> Step:
    assume(max(ref.hidden) <= 4)
    shares = draw(st.sampled_from([(1, 1, -1), (0.5, 0.5), (2.0, -1.5, 0.5)]))
    return Step(sf.GlobalSplit(shares), lambda p: reference.tripled(p, shares))


def make_global_null(draw: st.DrawFn, ref: Reference) -> Step:
    assume(all(ref.has_bias))
    alphas = QUARTERS.filter(bool)
    one = draw(st.none() | alphas)
    if one is not None:
        biases = [[one] * width for width in ref.hidden]
        return Step(sf.GlobalNull(one), lambda p: reference.with_nulls_everywhere(p, biases))
    each = [draw(st.lists(alphas, max_size=2)) for _ in ref.hidden]
    return Step(sf.GlobalNull(each), lambda p: reference.with_nulls_everywhere(p, each))


def make_permute(draw: st.DrawFn, ref: Reference) -> Step:
    layer = some_layer(draw, ref)
    order = draw(st.permutations(range(ref.hidden[layer])))
    return Step(sf.Permute(layer, order), lambda p: reference.permuted(p, layer, order))


def make_rescale(draw: st.DrawFn, ref: Reference) -> Step:
    assume(ref.activation in HOMOGENEOUS)
    layer, unit = some_unit(draw, ref)
    factor = draw(POSITIVE)
    return Step(
        sf.Rescale(layer, unit, factor),
        lambda p: reference.scaled_replicated(p, layer, unit, [factor], [1 / factor]),
    )


def make_reflect(draw: st.DrawFn, ref: Reference) -> Step:
    assume(ref.activation in KAPPA)
    layer = biased_layer(draw, ref, own=False, above=bool(KAPPA[ref.activation]))
    unit = draw(st.integers(0, ref.hidden[layer] - 1))
    width = ref.hidden[layer]
    scales = [-1.0 if k == unit else 1.0 for k in range(width)]
    return Step(
        sf.Reflect(layer, unit),
        lambda p: reference.split(p, layer, range(width), [1.0] * width, scales, ref.activation),
    )


def make_mix(draw: st.DrawFn, ref: Reference) -> Step:
    assume(ref.activation == "identity")
    layer = some_layer(draw, ref)
    width = ref.hidden[layer]
    lower = vectors(draw, width, width).tril(-1) + torch.eye(width, dtype=torch.float64)
    matrix = lower @ (vectors(draw, width, width).triu(1) + 2 * torch.eye(width).double())
    return Step(sf.Mix(layer, matrix.numpy()), lambda p: reference.mixed(p, layer, matrix.tolist()))


def make_split(draw: st.DrawFn, ref: Reference) -> Step:
    layer = some_layer(draw, ref)
    width, activation = ref.hidden[layer], ref.activation
    extra = draw(st.lists(st.integers(0, width - 1), max_size=3))
    sources = draw(st.permutations([*range(width), *extra]))
    shares = [draw(QUARTERS) for _ in sources]
    for unit in range(width):
        places = [j for j, source in enumerate(sources) if source == unit]
        shares[places[0]] = 1 - sum(shares[j] for j in places[1:])
    allowed = [1.0]
    allowed += [0.5, 2.0] if activation in HOMOGENEOUS else []
    if activation in KAPPA and (not KAPPA[activation] or ref.has_bias[layer + 1]):
        allowed += [-1.0]
    scales = [draw(st.sampled_from(allowed)) for _ in sources]
    offsets = None
    if draw(st.booleans()):
        offsets = vectors(draw, len(sources), ref.widths[layer + 2])
        for unit in range(width):
            places = [j for j, source in enumerate(sources) if source == unit]
            rest = sum((scales[j] * offsets[j] for j in places[1:]), torch.zeros_like(offsets[0]))
            offsets[places[0]] = -rest / scales[places[0]]
    return Step(
        sf.Split(layer, sources, shares, scales, None if offsets is None else offsets.numpy()),
        lambda p: reference.split(p, layer, sources, shares, scales, activation, offsets),
    )


def make_mirrored(draw: st.DrawFn, ref: Reference) -> Step:
    """A split of sigmoid units some of which are mirrored, with offsets: κ is 1."""
    layer = biased_layer(draw, ref, own=False)
    width = ref.hidden[layer]
    sources = [*range(width), 0, 0]
    shares = [0.5, *[1.0] * (width - 1), 1.5, -1.0]
    scales = [draw(st.sampled_from([1.0, -1.0])) for _ in range(width)] + [-1.0, 1.0]
    offsets = torch.zeros((width + 2, ref.widths[layer + 2]), dtype=torch.float64)
    offsets[-2:] = vectors(draw, 2, ref.widths[layer + 2])
    offsets[0] = -(scales[-2] * offsets[-2] + scales[-1] * offsets[-1]) / scales[0]
    return Step(
        sf.Split(layer, sources, shares, scales, offsets.numpy()),
        lambda p: reference.split(p, layer, sources, shares, scales, "sigmoid", offsets),
    )


MAKERS: dict[str, Maker] = {
    "Replicate": make_replicate,
    "Replicate with offsets": make_offsets,
    "ScaledReplicate": make_scaled,
    "InactiveUnits": make_inactive,
    "InactiveUnits relu": make_inactive_relu,
    "InactiveUnits relu on data": make_inactive_on_data,
    "InactivePropagation": make_propagation,
    "ConstantUnits": make_constant,
    "NullUnits": make_null,
    "Compatible": make_compatible,
    "Compatible factorised": make_factorised,
    "GlobalSplit": make_global_split,
    "GlobalNull": make_global_null,
    "Permute": make_permute,
    "Rescale": make_rescale,
    "Reflect": make_reflect,
    "Mix": make_mix,
    "Split": make_split,
    "Split sigmoid": make_mirrored,
    "Split relu": make_split,
}
FITTING: dict[str, Sequence[str]] = {
    "ScaledReplicate": HOMOGENEOUS,
    "Rescale": HOMOGENEOUS,
    "Mix": ["identity"],
    "InactiveUnits": ZERO_AT_ZERO,
    "InactiveUnits relu": ["relu"],
    "InactiveUnits relu on data": ["relu"],
    "Reflect": list(KAPPA),
    "Split sigmoid": ["sigmoid"],
    "Split relu": ["relu"],
}
KINDS = tuple(MAKERS)
COMPOSITION = "composition"


@dataclass
class Case:
    """A network at random parameters, an embedding of it, and the wide network by hand."""

    narrow: Reference
    steps: list[Step]

    @property
    def embedding(self) -> sf.Embedding:
        whole = self.steps[0].embedding
        for step in self.steps[1:]:
            whole = whole >> step.embedding
        return whole

    def by_hand(self, params: dict[str, Tensor]) -> dict[str, Tensor]:
        for step in self.steps:
            params = step.by_hand(params)
        return params

    @property
    def wide(self) -> Reference:
        return replace(self.narrow, params=self.by_hand(self.narrow.params))

    @property
    def net(self) -> sf.MLP:
        return problem_of(self.narrow).net

    @property
    def point(self) -> sf.Point:
        return point_of(self.narrow)

    @property
    def matrix(self) -> tuple[Tensor, Tensor]:
        return reference.matrix_of(self.by_hand, self.narrow.params)

    def __repr__(self) -> str:
        n = self.narrow
        return f"{n.widths} {n.activation} {n.loss} bias={n.has_bias} N={len(n.X)} {self.steps}"


@st.composite
def networks(
    draw: st.DrawFn, kinds: Sequence[str], loss: str | None = None, samples: int | None = None
) -> Reference:
    """1 to 3 hidden layers of up to 3 units, up to 3 outputs, biases or not, random parameters."""
    seed = draw(st.integers(0, 2**16))
    fit = [
        a
        for a in reference.ACTIVATIONS
        if all(a in FITTING.get(kind, reference.ACTIVATIONS) for kind in kinds)
    ]
    activation = fit[seed % len(fit)]
    losses = list(reference.LOSSES) if loss is None else [loss]
    loss = losses[seed // 64 % len(losses)]
    layers = 1 + seed // 7 % 3
    hidden = draw(st.lists(st.integers(1, 3), min_size=layers, max_size=layers))
    outputs = draw(st.integers(2 if loss == "cross_entropy" else 1, 3))
    widths = [draw(st.integers(1, 2)), *hidden, outputs]
    mixed = st.lists(st.booleans(), min_size=layers + 1, max_size=layers + 1)
    has_bias = [True] * (layers + 1) if seed % 2 else draw(mixed)
    if samples is None:
        samples = draw(st.integers(2, 9))
    return reference.random_reference(widths, activation, loss, has_bias, samples, seed)


@st.composite
def cases(draw: st.DrawFn, kind: str, loss: str | None = None) -> Case:
    """One step of a kind, or a composition of two or three of any."""
    kinds = [kind] if kind != COMPOSITION else []
    narrow = draw(networks(kinds, loss))
    if kind != COMPOSITION:
        return Case(narrow, [MAKERS[kind](draw, narrow)])
    steps: list[Step] = []
    ref = narrow
    fit = [k for k in KINDS if narrow.activation in FITTING.get(k, reference.ACTIVATIONS)]
    for _ in range(draw(st.integers(2, 3))):
        step = MAKERS[draw(st.sampled_from(fit))](draw, ref)
        steps.append(step)
        ref = replace(ref, params=step.by_hand(ref.params))
        assume(sum(ref.hidden) <= 16)
    return Case(narrow, steps)


every_kind = pytest.mark.parametrize("kind", [*KINDS, COMPOSITION])
FEW = settings(LAW, max_examples=8)


def only_on_data(case: Case) -> bool:
    return any('"incoming"' in repr(step) and "InactiveUnits" in repr(step) for step in case.steps)


def exact(found: Tensor, expected: Tensor, scale: float, limit: float = 1e-13) -> bool:
    if found.shape != expected.shape:
        return False
    return not found.numel() or float((found - expected).abs().max()) <= limit * max(scale, 1e-300)


# -- 1, 2: the function and the parameters -----------------------------------------------------------


@every_kind
@FEW
@given(st.data())
def test_wide_parameters_are_those_written_by_hand_and_keep_the_function(
    kind: str, data: st.DataObject
) -> None:
    """Parameters to 1e-13 of the largest; outputs to 1e-12 of the largest product of weights.

    That product is ``reach``: absolute weights multiplied along every path and summed.
    """
    case = data.draw(cases(kind))
    net, narrow, wide = case.net, case.narrow, case.wide
    found = case.embedding.apply(net, narrow.params)
    assert list(found) == reference.ordered(wide.params)
    size = max(float(t.abs().max()) for t in wide.params.values())
    for key, expected in wide.params.items():
        assert exact(found[key], expected, size), key
    point = case.embedding(case.point)
    assert list(point.params) == list(found)
    for key, expected in wide.params.items():
        assert exact(point.params[key], expected, size), key
    assert point.problem.net.widths == tuple(wide.widths) == case.embedding.widen(net).widths
    assert list(point.problem.net.biases) == wide.has_bias == narrow.has_bias

    inputs = narrow.X if only_on_data(case) else 3 * vectors(data.draw, 20, narrow.widths[0])
    limit = 1e-12 * reference.reach(wide.params, inputs)
    assert exact(wide.at(inputs), narrow.at(inputs), limit, 1.0)
    after = point.problem.net.forward(found, inputs)
    assert exact(after, narrow.at(inputs), limit, 1.0)
    assert point.loss == pytest.approx(wide.value(), rel=1e-10, abs=limit)
    assert point.materialize().loss == pytest.approx(wide.value(), rel=1e-10, abs=limit)


def features(ref: Reference, layer: int, inputs: Tensor) -> Tensor:
    """What a hidden layer's units compute, and the constant: (inputs, width + 1)."""
    at = replace(ref, X=inputs, y=ref.y[:1].expand(len(inputs), *ref.y.shape[1:]))
    return torch.cat([at.activity(layer), inputs.new_ones(len(inputs), 1)], 1)


def outside(columns: Tensor, span: Tensor) -> float:
    """The largest entry of the columns that no combination of ``span`` makes."""
    basis, sizes, _ = torch.linalg.svd(span, full_matrices=False)
    basis = basis[:, sizes > 1e-12 * sizes[0]]
    return float((columns - basis @ (basis.T @ columns)).abs().max())


@pytest.mark.parametrize("kind", [k for k in (*KINDS, COMPOSITION) if k != "InactivePropagation"])
@FEW
@given(st.data())
def test_every_layer_spans_the_functions_that_it_spanned_with_the_constant(
    kind: str, data: st.DataObject
) -> None:
    """Z22 Def. 4.2 (ii), on inputs that are not the data, unless units are inactive on these alone."""
    case = data.draw(cases(kind))
    assume(not any(isinstance(step.embedding, sf.InactivePropagation) for step in case.steps))
    narrow = case.narrow
    wide = replace(narrow, params=case.embedding.apply(case.net, narrow.params))
    inputs = narrow.X if only_on_data(case) else 3 * vectors(data.draw, 20, narrow.widths[0])
    limit = 1e-10 * max(1.0, reference.reach(wide.params, inputs))
    for layer in range(len(narrow.hidden)):
        before, after = (features(ref, layer, inputs) for ref in (narrow, wide))
        assert outside(after, before) <= limit
        assert outside(before, after) <= limit


def test_units_that_nobody_listens_to_add_to_what_a_layer_spans() -> None:
    """So F19's inactive propagation is no critical embedding of Z22's Def. 4.2."""
    narrow = reference.random_reference([2, 3, 1], "tanh", "squared", samples=9, seed=0)
    embedding = sf.InactivePropagation(0, [[1.0, -0.5, 0.3]])
    wide = replace(narrow, params=embedding.apply(problem_of(narrow).net, narrow.params))
    before, after = (features(ref, 0, narrow.X) for ref in (narrow, wide))
    assert outside(before, after) < 1e-12
    assert outside(after, before) > 1e-3


def test_the_size_that_outputs_are_measured_by_is_no_more_than_some_times_the_outputs() -> None:
    """So that the limit above is one: 1e-12 of it is below 1e-10 of typical outputs."""
    ratios = []
    for seed in range(30):
        ref = reference.random_reference([2, 3, 3, 2], "tanh", "squared", seed=seed)
        ratios.append(reference.reach(ref.params, ref.X) / float(ref.at(ref.X).abs().max()))
    assert sorted(ratios)[15] < 30


def same_but_for_order(outputs: Tensor, expected: Tensor) -> None:
    """Sums of more terms may be added up in another order, be the new ones 0."""
    torch.testing.assert_close(outputs, expected, rtol=1e-14, atol=1e-14)


def test_units_inactive_on_the_data_are_active_elsewhere() -> None:
    ref = reference.random_reference([2, 3, 2], "relu", "squared", samples=6, seed=3)
    weights = torch.tensor([[1.0, 0.0], [-0.5, 2.0]], dtype=torch.float64)
    rows = inactive_rows(ref, 0, weights)
    embedding = sf.InactiveUnits(0, outgoing=[[1.0, 2.0], [0.5, 0.0]], incoming=rows.tolist())
    point = point_of(ref)
    wide = embedding(point)
    net = wide.problem.net
    same_but_for_order(net.forward(wide.params, ref.X), ref.at(ref.X))
    for row in rows:
        away = 10 * row[None, :2] * (1 + row[2].abs()) / row[:2].square().sum()
        assert float((net.forward(wide.params, away) - ref.at(away)).abs().max()) > 1
    condition = embedding.preserves_output
    assert isinstance(condition, sf.Condition)
    assert condition.check(point).holds
    moved = replace(ref, X=torch.cat([ref.X, away]), y=torch.cat([ref.y, ref.y[:1]]))
    checked = condition.check(point_of(moved))
    assert not checked.holds
    largest = float((torch.cat([away, away.new_ones(1, 1)], 1) @ rows.T).max())
    assert checked.residual == pytest.approx(largest, rel=1e-12)
    with refused("added unit 1 is active"):
        embedding(point_of(moved))


# -- 3: the affine map -------------------------------------------------------------------------------


@every_kind
@FEW
@given(st.data())
def test_matrix_lift_and_restrict_are_the_map_written_by_hand(
    kind: str, data: st.DataObject
) -> None:
    case = data.draw(cases(kind))
    net, embedding = case.net, case.embedding
    A, c = case.matrix
    size = max(1.0, float(A.abs().max()))
    found = embedding.matrix(net)
    assert found.shape == found.A.shape == tuple(A.shape)
    assert found.A.format == "csr"
    dense = torch.from_numpy(found.A.toarray())
    assert exact(dense, A, size)
    assert exact(torch.from_numpy(found.c), c, max(1.0, float(c.abs().max())))
    theta = flat_wide(case.narrow.params)
    wide = flat_wide(case.wide.params)
    terms = float((A.abs() @ theta.abs() + c.abs()).max())
    assert exact(torch.from_numpy(found.A @ theta.numpy() + found.c), wide, terms)
    # Injective: full column rank. Entries are sums of shares and scales, so no σ is merely small.
    assert int(torch.linalg.matrix_rank(dense, rtol=1e-9)) == net.parameter_count
    # lift = A v, restrict = Aᵀ g; flat and as dicts, one and many.
    wide_net = embedding.widen(net)
    v, g = vectors(data.draw, 2, 3, A.shape[1]), vectors(data.draw, 2, 3, A.shape[0])
    lifted, back = v @ A.T, g @ A
    assert exact(embedding.lift(v, net), lifted, 10 * size * A.shape[1])
    assert exact(embedding.restrict(g, net), back, 10 * size * A.shape[0])
    assert exact(embedding.lift(v[0, 1], net), lifted[0, 1], 10 * size * A.shape[1])
    assert exact(embedding.restrict(g[1, 2], net), back[1, 2], 10 * size * A.shape[0])
    as_dict = embedding.lift(net.unflatten(v), net)
    assert wide_net.check_params(as_dict) == (2, 3)
    assert exact(wide_net.flatten(as_dict), lifted, 10 * size * A.shape[1])
    as_dict = embedding.restrict(wide_net.unflatten(g), net)
    assert net.check_params(as_dict) == (2, 3)
    assert exact(net.flatten(as_dict), back, 10 * size * A.shape[0])
    # A batch of parameters is widened one by one.
    many = embedding.apply(net, net.unflatten(v))
    assert exact(wide_net.flatten(many), lifted + c, 10 * size * A.shape[1])
    # And what AffineMap itself offers is the same map.
    assert exact(wide_net.flatten(found.parameters(case.narrow.params)), wide, terms)
    assert exact(
        found.wide.flatten(found.tangent(net.unflatten(v[0, 0]))), lifted[0, 0], 100 * size
    )
    narrow_dict = found.adjoint(wide_net.unflatten(g[0, 0]))
    assert exact(net.flatten(narrow_dict), back[0, 0], 100 * size)


@every_kind
@settings(LAW, max_examples=6)
@given(st.data())
def test_gradient_and_hessian_are_carried_at_any_point(kind: str, data: st.DataObject) -> None:
    """Aᵀ∇R_w = ∇R_n and AᵀH_wA = H_n, dense and by autograd; EmbeddedPoint's own gradient too."""
    case = data.draw(cases(kind))
    narrow, wide = case.narrow, case.wide
    A, _ = case.matrix
    H, g = wide.hessian(), wide.gradient()
    sizes = A.abs().T @ H.abs() @ A.abs()
    assert exact(A.T @ H @ A, narrow.hessian(), max(1.0, float(sizes.max())), 1e-12)
    terms = max(1.0, float((A.abs().T @ wide.gradient_terms()).max()))
    assert exact(A.T @ g, narrow.gradient(), terms, 1e-13)
    own = case.embedding.restrict(g, case.net)
    assert exact(own, narrow.gradient(), terms, 1e-13)
    point = case.embedding(case.point)
    largest = float(wide.gradient_terms().max())
    assert point.gradient_norm == pytest.approx(float(g.abs().max()), abs=1e-13 * largest)
    assert exact(sf.gradient(point), g, largest)


@settings(LAW, max_examples=25)
@given(cases(COMPOSITION))
def test_compositions_are_products_of_matrices_and_associative(case: Case) -> None:
    net = case.net
    embeddings = [step.embedding for step in case.steps]
    A = np.eye(net.parameter_count)
    c = np.zeros(net.parameter_count)
    at = net
    for embedding in embeddings:
        step = embedding.matrix(at)
        A, c = step.A @ A, step.A @ c + step.c
        at = embedding.widen(at)
    whole = case.embedding.matrix(net)
    size = max(1.0, float(np.abs(A).max()), float(np.abs(c).max()))
    assert np.abs(whole.A.toarray() - A).max() <= 1e-13 * size
    assert np.abs(whole.c - c).max() <= 1e-13 * size
    first, *others = embeddings
    tail = others[-1]
    for embedding in reversed(others[:-1]):
        tail = embedding >> tail
    right = first >> tail
    assert right == case.embedding
    assert hash(right) == hash(case.embedding)
    assert right.matrix(net).A.shape == whole.A.shape
    assert np.array_equal(right.matrix(net).A.toarray(), whole.A.toarray())
    stepwise: sf.Point = case.point
    for embedding in embeddings:
        stepwise = embedding(stepwise)
    assert exact(flat_wide(stepwise.params), flat_wide(case.wide.params), size * 100)
    assert isinstance(stepwise, sf.EmbeddedPoint)
    assert stepwise.source.problem.net == net
    assert stepwise.embedding == case.embedding


@every_kind
@settings(LAW, max_examples=6)
@given(st.data())
def test_json_and_representation(kind: str, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    embedding, net = case.embedding, case.net
    text = json.dumps(embedding.to_json(), allow_nan=False)
    back = embedding_from_json(json.loads(text))
    assert back == embedding
    assert hash(back) == hash(embedding)
    assert type(back) is type(embedding)
    assert repr(back) == repr(embedding)
    assert np.array_equal(back.matrix(net).A.toarray(), embedding.matrix(net).A.toarray())
    assert np.array_equal(back.matrix(net).c, embedding.matrix(net).c)
    shown = repr(embedding)
    for step in embedding.steps:
        assert type(step).__name__ + "(" in shown
        assert "layer=" in shown or type(step).__name__ in (
            "Compatible",
            "GlobalSplit",
            "GlobalNull",
        )
    assert len(shown) < 400 * len(embedding.steps)
    assert "tensor" not in shown
    whole = "…" not in shown and "/" not in shown and "Compatible" not in shown
    if whole:  # Compatible does not show α; thirds and long arrays are shortened
        assert eval(shown, {name: getattr(sf, name) for name in sf.__all__}) == embedding


@every_kind
@settings(LAW, max_examples=5)
@given(st.data())
def test_nothing_that_was_given_changes_or_is_shared(kind: str, data: st.DataObject) -> None:
    case = data.draw(cases(kind))
    point, net = case.point, case.net
    before = {key: tensor.clone() for key, tensor in point.params.items()}
    given_params = {key: tensor.clone() for key, tensor in case.narrow.params.items()}
    wide = case.embedding(point)
    flat = case.embedding.apply(net, given_params)
    _ = wide.params, wide.loss, wide.gradient_norm, case.embedding.flat_directions(point)
    _ = case.embedding.matrix(net)
    for tensor in (*flat.values(), *wide.params.values()):
        tensor.mul_(0).sub_(7)
    for key, tensor in before.items():
        assert torch.equal(point.params[key], tensor), key
        assert torch.equal(given_params[key], tensor), key
    again = case.embedding.apply(net, given_params)
    assert exact(flat_wide(again), flat_wide(case.wide.params), 1e3)


def test_later_changes_to_arrays_that_were_given_do_nothing() -> None:
    net = sf.MLP([2, 2, 2], "tanh")
    d = np.array([[1.0, -2.0], [-1.0, 2.0]])
    rows, v, alpha = (
        np.ones((1, 3)),
        np.ones((1, 2)),
        [np.ones((3, 2)), np.array([[1, 0.5, 0.5]] * 2)],
    )
    split = np.array([[1.0, 1.0], [-1.0, -1.0], [0.0, 0.0]])
    embeddings = [
        sf.Replicate(0, 0, [0.5, 0.5], offsets=d),
        sf.InactivePropagation(0, rows.tolist()),
        sf.InactiveUnits(0, outgoing=v),
        sf.ConstantUnits(0, v[0, :1], v),
        sf.Compatible([2, 3, 2], [[0, 1, 1]], alpha),
        sf.Split(0, [0, 0, 1], ["1/2", "1/2", 1], offsets=split),
    ]
    before = [flat_wide(each.apply(net, net.random_params(0))) for each in embeddings]
    for array in (d, rows, v, *alpha, split):
        array[:] = 9.0
    for embedding, expected in zip(embeddings, before, strict=True):
        assert torch.equal(flat_wide(embedding.apply(net, net.random_params(0))), expected)


# -- 4: criticality ----------------------------------------------------------------------------------


def wide_gradient(case: Case) -> tuple[float, float]:
    """``‖∇R_w‖∞`` by autograd, and how much larger than the narrow one's its terms are."""
    wide, narrow = case.wide, case.narrow
    amplification = float(wide.gradient_terms().max() / narrow.gradient_terms().max())
    return float(wide.gradient().abs().max()), max(1.0, amplification)


CRITICAL: dict[tuple[Any, ...], Reference] = {}


def critical(widths: Sequence[int], activation: str, seed: int) -> Reference:
    """A critical point that no symmetry made, kept: targets are chosen to make it one."""
    key = (*widths, activation, seed)
    if key not in CRITICAL:
        CRITICAL[key] = critical_reference(widths, activation, "squared", seed=seed)
        assert float(CRITICAL[key].gradient().abs().max()) < 1e-13
    return CRITICAL[key]


@every_kind
@settings(LAW, max_examples=8)
@given(st.data())
def test_at_critical_points_criticality_is_as_promised(kind: str, data: st.DataObject) -> None:
    """True: the wide gradient is 0. A condition: ``check`` says what the wide gradient is."""
    activations = FITTING.get(kind, reference.ACTIVATIONS)
    activation = data.draw(st.sampled_from(list(activations)))
    widths = data.draw(st.sampled_from([[1, 2, 1], [2, 2, 2], [1, 2, 2, 2]]))
    narrow = critical(widths, activation, data.draw(st.integers(0, 2)))
    if kind == COMPOSITION:
        ref, steps = narrow, []
        fit = [k for k in KINDS if activation in FITTING.get(k, reference.ACTIVATIONS)]
        for _ in range(2):
            steps.append(MAKERS[data.draw(st.sampled_from(fit))](data.draw, ref))
            ref = replace(ref, params=steps[-1].by_hand(ref.params))
        case = Case(narrow, steps)
    else:
        case = Case(narrow, [MAKERS[kind](data.draw, narrow)])
    size, amplification = wide_gradient(case)
    answer = case.embedding.preserves_criticality
    if answer is True:
        assert size <= 1e-12 * amplification
    else:
        assert isinstance(answer, sf.Condition)
        with pytest.raises(TypeError, match="this holds on a condition"):
            bool(answer)
        # A gradient of 1e-10 counts as 0; hardly one is drawn that is neither 0 nor clearly above.
        assume(size <= 1e-12 * amplification or size > 2e-10)
        checked = answer.check(case.point)
        assert checked.holds == (size <= 1e-12 * amplification)
        assert checked.holds == (checked.residual <= checked.limit)
        if kind != COMPOSITION:  # there it is the worst step's
            assert checked.residual == pytest.approx(size, rel=1e-9, abs=1e-11)
        assert checked.text == answer.text
    assert case.embedding(case.point).gradient_norm == pytest.approx(
        size, rel=1e-9, abs=1e-12 * amplification
    )


@dataclass
class Found:
    """A point that the search converged to, as a reference network too."""

    point: sf.CriticalPoint
    ref: Reference


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    """Converged minima: residuals left and several outputs, residuals and one, and an exact fit."""
    generator = torch.Generator().manual_seed(5)
    X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    noise = 0.3 * torch.randn((12, 2), generator=generator, dtype=torch.float64)
    two = torch.cat([torch.sin(2 * X), torch.cos(X)], 1) + noise
    problems = {
        "tanh": sf.Problem(sf.MLP([1, 2, 2], "tanh"), X, two),
        "one output": sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, two[:, :1]),
        "gelu": sf.Problem(sf.MLP([1, 1, 2], "gelu"), X, two),
        "sigmoid": sf.Problem(sf.MLP([1, 1, 2], "sigmoid"), X, torch.cat([X.tanh(), X], 1) + noise),
        "sin": sf.Problem(sf.MLP([1, 1, 2], "sin"), X, two),
        "exact fit": sf.Problem(sf.MLP([1, 1, 2], "tanh"), X, torch.tanh(X) @ X.new_ones(1, 2)),
    }
    points = {}
    for name, problem in problems.items():
        point = sf.find_critical_point(problem, starts=32, seed=0, max_iterations=200)
        assert point.status is sf.Status.CONVERGED, name
        assert point.gradient_norm <= 1e-10
        activation = problem.net.activations[0].name
        points[name] = Found(
            point, Reference(activation, point.params, problem.X, problem.y, "squared")
        )
    assert points["exact fit"].point.loss < 1e-18
    return points


def agree(embedding: sf.Embedding, by_hand: Hand, at: Found, expected: bool) -> None:
    """The condition holds exactly if the dense wide gradient is 0, and that is as expected."""
    size, amplification = wide_gradient(Case(at.ref, [Step(embedding, by_hand)]))
    if expected:
        assert size <= 1e-9 * amplification
    else:
        assert size >= 1e-4
    answer = embedding.preserves_criticality
    assert isinstance(answer, sf.Condition)
    checked = answer.check(at.point)
    assert checked.holds is expected
    assert checked.residual == pytest.approx(size, rel=1e-6, abs=1e-10)
    assert (embedding(at.point).gradient_norm <= 1e-9 * amplification) is expected


def test_embeddings_of_searched_minima_that_promise_it_are_critical(
    found: dict[str, Found],
) -> None:
    for at in found.values():
        width = at.point.problem.net.hidden[0]
        net = at.point.problem.net
        promised: list[Step] = [
            Step(
                sf.Replicate(0, 0, [2, "-1/2", None]),
                lambda p: reference.replicated(p, 0, 0, [2.0, -0.5, -0.5]),
            ),
            Step(
                sf.NullUnits(0, [0.75]),
                lambda p: reference.with_nulls_everywhere(p, [[0.75]]),
            ),
            Step(sf.GlobalSplit(), lambda p: reference.tripled(p)),
        ]
        index_map: list[list[int | None]] = [[*range(width), 0, None, 0]]
        for seed in range(3):
            made = sf.Compatible.random(net, [1, width + 3, net.outputs], seed, index_map)
            by_hand = compatible_by_hand(made, index_map, at.ref.activation)
            promised.append(Step(made, by_hand))
        for step in promised:
            assert step.embedding.preserves_criticality is True
            size, amplification = wide_gradient(Case(at.ref, [step]))
            assert size <= 1e-9 * amplification


def test_inactive_propagation_is_critical_at_an_exact_fit_only(found: dict[str, Found]) -> None:
    rows = torch.tensor([[0.7, -0.4], [1.5, 2.0]], dtype=torch.float64)
    columns = torch.zeros((2, 2), dtype=torch.float64)
    embedding = sf.InactivePropagation(0, rows.tolist())
    for name in ("exact fit", "tanh", "gelu", "sin"):
        agree(
            embedding,
            lambda p: reference.added(p, 0, rows, columns),
            found[name],
            expected=name == "exact fit",
        )


def test_inactive_propagation_of_the_unit_s_own_row_is_critical(found: dict[str, Found]) -> None:
    """Σ_ν δ σ(u·x̃) = 0 for the narrow units' own rows: a replication with share 0."""
    at = found["tanh"]
    rows = torch.cat([at.ref.params["0.weight"], at.ref.params["0.bias"][:, None]], 1)[1:]
    agree(
        sf.InactivePropagation(0, rows.tolist()),
        lambda p: reference.added(p, 0, rows, torch.zeros((1, 2), dtype=torch.float64)),
        at,
        expected=True,
    )


@pytest.mark.parametrize("name", ["tanh", "gelu", "sin"])
def test_smooth_inactive_units_are_critical_where_F_null_transposed_v_is_0(
    name: str, found: dict[str, Found]
) -> None:
    """F∅ has a zero bias column, so with one input it has rank 1 and a v orthogonal to it exists."""
    at = found[name]
    F = at.ref.F_null(0)
    assert float(F[:, -1].abs().max()) < 1e-9
    assert float(F[:, 0].norm()) > 1e-3
    along = F[:, 0] / F[:, 0].norm()
    across = torch.stack([-along[1], along[0]])
    bias = math.pi if name == "sin" else 0.0
    rows = torch.tensor([[0.0, bias]], dtype=torch.float64)
    for v, holds in ((across, True), (along, False), (along + across, False)):
        agree(
            sf.InactiveUnits(0, outgoing=v.tolist(), bias=bias),
            lambda p, v=v: reference.added(p, 0, rows, v[None]),  # type: ignore[misc]
            at,
            expected=holds,
        )
    assert sf.InactiveUnits(0).preserves_criticality is True
    assert sf.InactiveUnits(0, outgoing=[0.0, 0.0]).preserves_criticality is True
    zero = Step(
        sf.InactiveUnits(0, outgoing=[0.0, 0.0], bias=bias),
        lambda p: reference.added(p, 0, rows, torch.zeros((1, 2), dtype=torch.float64)),
    )
    size, amplification = wide_gradient(Case(at.ref, [zero]))
    assert size <= 1e-9 * amplification  # F19 eq. (28)


def test_constant_units_are_critical_where_F_null_transposed_v_is_0(
    found: dict[str, Found],
) -> None:
    at = found["sigmoid"]
    F = at.ref.F_null(0)
    along = F[:, 0] / F[:, 0].norm()
    across = torch.stack([-along[1], along[0]])
    alpha = torch.tensor([0.4], dtype=torch.float64)
    for v, holds in ((across, True), (along, False)):
        agree(
            sf.ConstantUnits(0, alpha.tolist(), [v.tolist()]),
            lambda p, v=v: reference.constant_added(p, 0, alpha, v[None], "sigmoid"),  # type: ignore[misc]
            at,
            expected=holds,
        )
    assert sf.ConstantUnits(0, [0.4], [[0.0, 0.0]]).preserves_criticality is True


def test_constant_units_at_a_bias_where_the_slope_is_0_are_critical(
    found: dict[str, Found],
) -> None:
    at = found["sin"]
    alpha = torch.tensor([math.pi / 2], dtype=torch.float64)
    v = at.ref.F_null(0)[:, :1].mT.contiguous()
    agree(
        sf.ConstantUnits(0, alpha.tolist(), v.tolist()),
        lambda p: reference.constant_added(p, 0, alpha, v, "sin"),
        at,
        expected=True,
    )


def test_free_outgoing_weights_are_critical_where_F_transposed_d_is_0(
    found: dict[str, Found],
) -> None:
    """Fᵀζ = 0 at any critical point, so d along ζ is fine, and across it is not where F ≠ 0."""
    at = found["tanh"]
    zeta = at.ref.params["2.weight"][:, 0]
    F = at.ref.F(0, 0)
    assert float((F.T @ zeta).abs().max()) < 1e-9
    across = torch.stack([-zeta[1], zeta[0]])
    assert float((F.T @ across).abs().max()) > 1e-3
    for d, holds in ((zeta, True), (across, False)):
        offsets = torch.stack([d, -2 * d, d])
        agree(
            sf.Replicate(0, 0, [0.5, 0.25, 0.25], offsets=offsets.tolist()),
            lambda p, o=offsets: reference.replicated(p, 0, 0, [0.5, 0.25, 0.25], o),  # type: ignore[misc]
            at,
            expected=holds,
        )
        agree(
            sf.Split(0, [0, 1, 0], [0.5, 1, 0.5], [1, 1, -1], torch.stack([d, 0 * d, d]).tolist()),
            lambda p, d=d: reference.split(  # type: ignore[misc]
                p, 0, [0, 1, 0], [0.5, 1, 0.5], [1, 1, -1], "tanh", torch.stack([d, 0 * d, d])
            ),
            at,
            expected=holds,
        )
    no_offset = sf.Replicate(0, 0, [0.5, 0.5], offsets=[[0, 0], [0, 0]])
    assert no_offset.preserves_criticality is True


def test_with_one_output_free_outgoing_weights_are_always_critical(
    found: dict[str, Found],
) -> None:
    """M = 1 and ζ ≠ 0 make F = 0 exactly (F19 §D)."""
    at = found["one output"]
    for unit in range(2):
        assert float(at.ref.F(0, unit).abs().max()) < 1e-9
        for size in (0.5, -3.0):
            offsets = torch.tensor([[size], [-size]], dtype=torch.float64)
            agree(
                sf.Replicate(0, unit, [0.5, 0.5], offsets=offsets.tolist()),
                lambda p, o=offsets, u=unit: reference.replicated(p, 0, u, [0.5, 0.5], o),  # type: ignore[misc]
                at,
                expected=True,
            )


def test_a_condition_says_no_where_the_point_is_not_critical_and_it_is_violated() -> None:
    """The residual is what the text says is 0, not smallness next to the narrow gradient."""
    ref = reference.random_reference([1, 2, 2], "tanh", "squared", seed=4)
    assert float(ref.gradient().abs().max()) > 1e-2
    rows = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    embedding = sf.InactivePropagation(0, rows.tolist())
    wide = replace(
        ref, params=reference.added(ref.params, 0, rows, torch.zeros((1, 2), dtype=torch.float64))
    )
    error = wide.gradient()
    assert float(error.abs().max()) > 1e-2
    fed = ref.fed(0)
    delta = ref._around(0)[2]
    assert float((delta.T @ torch.tanh(fed @ rows.T)).abs().max()) > 1e-2
    assert not embedding.preserves_criticality.check(point_of(ref)).holds


def test_a_composition_s_conditions_hold_together(found: dict[str, Found]) -> None:
    at = found["tanh"]
    F = at.ref.F_null(0)
    along = F[:, 0] / F[:, 0].norm()
    across = torch.stack([-along[1], along[0]])
    bad = sf.InactiveUnits(0, outgoing=along.tolist())
    good = sf.InactiveUnits(0, outgoing=across.tolist())
    plain = sf.Replicate(0, 1, [0.25, 0.75])
    for whole, holds in (
        (good >> plain, True),
        (plain >> good, True),
        (good >> good, True),
        (bad >> good, False),
        (good >> bad, False),
        (plain >> bad >> plain, False),
    ):
        answer = whole.preserves_criticality
        assert isinstance(answer, sf.Condition)
        assert answer.check(at.point).holds is holds
        assert (whole(at.point).gradient_norm < 1e-8) is holds
    assert (plain >> plain).preserves_criticality is True


# -- 5: irreversibility ------------------------------------------------------------------------------


@settings(LAW, max_examples=1)
@given(st.data())
def test_signs_of_the_hessian_never_get_fewer(data: st.DataObject) -> None:
    """Z22 Thm 6.2 at random points: each count of the wide inertia is at least the narrow one.

    n₊ and n₋ for every embedding; n₀ where critical points always go to critical points. Spectra
    with an eigenvalue too near the floor are left out, and are few.
    """
    del data
    clear, unclear = Counter[str](), Counter[str]()

    @settings(LAW, max_examples=6)
    @given(st.data())
    def check(kind: str, data: st.DataObject) -> None:
        case = data.draw(cases(kind))
        before = reference.count(reference.spectrum(case.narrow.hessian()))
        after = reference.count(reference.spectrum(case.wide.hessian()))
        if not (before[3] and after[3]):
            unclear[kind] += 1
            return
        clear[kind] += 1
        assert after[0] >= before[0], (before, after)
        assert after[2] >= before[2], (before, after)
        if case.embedding.preserves_criticality is True:
            assert after[1] >= before[1], (before, after)

    for kind in [*KINDS, COMPOSITION]:
        check(kind)
    assert all(clear[kind] >= 4 for kind in [*KINDS, COMPOSITION]), clear
    assert sum(unclear.values()) <= 0.1 * sum(clear.values()), unclear


def test_signs_of_the_hessian_never_get_fewer_at_critical_points(
    found: dict[str, Found],
) -> None:
    checked = 0
    for at in found.values():
        net = at.point.problem.net
        width = net.hidden[0]
        before = reference.count(reference.spectrum(at.ref.hessian()), None)
        steps = [
            Step(
                sf.Replicate(0, 0, [1.5, -0.5]),
                lambda p: reference.replicated(p, 0, 0, [1.5, -0.5]),
            ),
            Step(sf.NullUnits(0, [0.5]), lambda p: reference.with_nulls_everywhere(p, [[0.5]])),
            Step(sf.GlobalSplit(), lambda p: reference.tripled(p)),
        ]
        for seed in range(2):
            index_map: list[list[int | None]] = [[*range(width), None, 0]]
            made = sf.Compatible.random(net, [1, width + 2, net.outputs], seed, index_map)
            steps.append(Step(made, compatible_by_hand(made, index_map, at.ref.activation)))
        for step in steps:
            wide = Case(at.ref, [step]).wide
            values = reference.spectrum(wide.hessian())
            # The search stops at a gradient of 1e-10, so zeros are zeros to about that only.
            floor = 1e-8 * float(values.abs().max())
            if bool(((values.abs() > floor / 30) & (values.abs() < 30 * floor)).any()):
                continue
            narrow = reference.spectrum(at.ref.hessian())
            assert before[3]
            for sign in (1, -1):
                assert int((sign * values > floor).sum()) >= int((sign * narrow > floor).sum())
            assert int((values.abs() <= floor).sum()) >= int((narrow.abs() <= floor).sum())
            checked += 1
    assert checked >= 25


# -- 6: dimensions and flat directions ---------------------------------------------------------------


@every_kind
@settings(LAW, max_examples=6)
@given(st.data())
def test_flat_directions_span_the_dimension_and_leave_the_outputs(
    kind: str, data: st.DataObject
) -> None:
    """To first order, by the dense Jacobian of the wide network; and they are independent."""
    case = data.draw(cases(kind))
    wide = case.wide
    directions = case.embedding.flat_directions(case.point)
    assert directions.shape[1] == len(wide.vector)
    dimension = case.embedding.dimension(case.net)
    assert case.embedding.degrees_of_freedom(case.net) >= 0
    if len(directions):
        lengths = directions.norm(dim=1)
        assert float(lengths.min()) > 0
        directions = directions / lengths[:, None]
        J = wide.jacobian()
        sizes = J.abs() @ directions.abs().T
        moved = (J @ directions.T).abs()
        assert float(moved.max()) <= 1e-12 * max(1.0, float(sizes.max()))
        rank = int(torch.linalg.matrix_rank(directions, rtol=1e-9))
    else:
        rank = 0
    assert rank == dimension


def embedded(ref: Reference, embedding: sf.Embedding) -> tuple[Reference, Tensor]:
    point = point_of(ref)
    wide = embedding(point)
    return replace(ref, params=wide.params), embedding.flat_directions(point)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@pytest.mark.parametrize("layer", [0, 1])
def test_along_affine_sets_the_function_does_not_change_at_any_distance(
    activation: str, layer: int
) -> None:
    ref = reference.random_reference([2, 2, 3, 2], activation, "squared", seed=7)
    D, M = fan_in(ref, layer), ref.widths[layer + 2]
    rows = torch.linspace(-1, 1, 2 * D, dtype=torch.float64).reshape(2, D)
    affine: list[tuple[sf.Embedding, int]] = [
        (sf.Replicate(layer, 1, [0.25, -1, None]), 2 * M),
        (sf.Replicate(layer, 0, [0.5, 0.5], offsets=[[1.0] * M, [-1.0] * M]), M),
        (sf.InactivePropagation(layer, rows.tolist()), 2 * D),
        (sf.NullUnits(layer, [0.5, -1.5]), 2),
        (
            sf.Split(
                layer,
                [0, 1, *range(2, ref.hidden[layer]), 0],
                [2, *[1] * (ref.hidden[layer] - 1), -1],
            ),
            M,
        ),
    ]
    if activation == "tanh":
        affine.append((sf.InactiveUnits(layer, 2, [1.0] * M), 2 * M))
    for embedding, dimension in affine:
        wide, directions = embedded(ref, embedding)
        assert embedding.dimension(point_of(ref).problem.net) == dimension == len(directions)
        inputs = 2 * torch.randn(
            30, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        generator = torch.Generator().manual_seed(2)
        for size in (0.1, 10.0, 1000.0):
            mix = torch.randn(len(directions), generator=generator, dtype=torch.float64)
            moved = wide.vector + size * mix @ directions
            assert float((moved - wide.vector).abs().max()) > 0.1 * size
            params = reference.unflat(moved, wide.params)
            there = replace(wide, params=params)
            limit = 1e-12 * reference.reach(params, inputs)
            assert exact(there.at(inputs), ref.at(inputs), limit, 1.0)


def test_dimensions_are_those_of_F19() -> None:
    """(H − H₀)·M, ·M, ·D, and (M + D) for relu-inactive units (Table 1, Prop. 7, Thm 9)."""
    for hidden, layer in (((3,), 0), ((3, 2), 0), ((2, 4), 1), ((2, 3, 4), 1)):
        for bias in (True, False):
            for outputs in (1, 3):
                net = sf.MLP([2, *hidden, outputs], "tanh", bias)
                relu = sf.MLP([2, *hidden, outputs], "relu", bias)
                M, D = net.widths[layer + 2], net.widths[layer] + bias
                for extra in (1, 2, 5):
                    repl = sf.Replicate.uniform(layer, 0, extra + 1)
                    assert repl.dimension(net) == extra * M
                    assert repl.degrees_of_freedom(net) == extra
                    assert sf.InactiveUnits(layer, extra).dimension(net) == extra * M
                    rows = np.ones((extra, D))
                    assert sf.InactivePropagation(layer, rows).dimension(net) == extra * D
                    if bias:
                        dead = sf.InactiveUnits(layer, extra)
                        assert dead.dimension(relu) == extra * (M + D)
                        in_box = sf.InactiveUnits.in_box(layer, extra, net.widths[layer])
                        assert in_box.dimension(relu) == extra * (M + D)
                        assert sf.NullUnits(layer, [0.5] * extra).dimension(net) == extra
                    copies = extra + 1
                    scaled = sf.ScaledReplicate(layer, 0, [1] * copies, [None, *[0] * extra])
                    # β_j > 0 free, and v_j with Σ β_j v_j = ζ.
                    assert scaled.dimension(relu) == copies + extra * M
    net = sf.MLP([2, 3, 1])
    for same in (sf.Permute(0, [2, 1, 0]), sf.Reflect(0, 0)):
        assert same.dimension(net) == same.degrees_of_freedom(net) == 0


def test_the_same_set_has_the_same_dimension_in_one_step_or_two() -> None:
    """Splitting a unit into two and one of them into two is splitting it into three."""
    net = sf.MLP([2, 2, 3], "relu")
    one = sf.Replicate(0, 0, [0.5, 0.25, 0.25])
    two = sf.Replicate(0, 0, [0.5, 0.5]) >> sf.Replicate(0, 2, [0.5, 0.5])
    assert one.dimension(net) == two.dimension(net) == 6
    scaled = sf.ScaledReplicate(0, 0, [1, 2, 1], [None, 0.125, 0.25])
    twice = sf.ScaledReplicate(0, 0, [1, 2], [0.5, 0.25]) >> sf.ScaledReplicate(
        0, 2, [1, 0.5], [0.5, 1]
    )
    params = net.random_params(0)
    ref = reference.random_reference([2, 2, 3], "relu", "squared", seed=2)
    point = point_of(ref)
    for embedding in (scaled, twice):
        J = replace(ref, params=embedding(point).params).jacobian()
        directions = embedding.flat_directions(point)
        assert float((J @ directions.T).abs().max()) < 1e-12
        assert int(torch.linalg.matrix_rank(directions, rtol=1e-9)) == 9
    assert embedding.apply(net, params)["0.weight"].shape == (4, 2)
    assert scaled.dimension(net) == 9
    assert twice.dimension(net) == 10  # steps add up, and the scale of unit 2 is moved by both


# -- F19 Props. 7 and 8 ------------------------------------------------------------------------------


@settings(LAW, max_examples=30)
@given(st.integers(0, 2**16), st.integers(1, 3), st.sampled_from([1.5, 2.0, 5.0]))
@example(0, 1, 2.0)
def test_prop_7_members_of_the_box_leave_the_outputs(seed: int, inputs: int, K: float) -> None:
    """‖x‖ ≤ 1, weights of norm ≤ K and a bias between −3K and −K: any such units, any v."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    ref = reference.random_reference([inputs, 2, 2], "relu", "squared", samples=8, seed=seed)
    X = ref.X / ref.X.norm(dim=1).max()
    ref = replace(ref, X=X)
    point = point_of(ref)
    weights = normal(4, inputs)
    weights = (
        weights
        / weights.norm(dim=1, keepdim=True)
        * K
        * torch.rand(4, 1, generator=generator).double()
    )
    biases = -K * (1 + 2 * torch.rand(4, 1, generator=generator).double()) - 1e-9
    own = torch.cat([weights, biases], 1)
    v = 10 * normal(4, 2)
    wide = sf.InactiveUnits(0, outgoing=v.tolist(), incoming=own.tolist())(point)
    same_but_for_order(wide.problem.net.forward(wide.params, X), ref.at(X))
    assert (X @ own[:, :-1].mT + own[:, -1] < 0).all()

    drawn = sf.InactiveUnits.in_box(0, 4, inputs, size=K, seed=seed, outgoing=v.tolist())
    rows = drawn.incoming
    assert rows is not None
    assert rows.shape == (4, inputs + 1)
    assert float(rows[:, :-1].norm(dim=1).max()) <= K * (1 + 1e-12)
    assert float(rows[:, -1].min()) >= -3 * K
    assert float(rows[:, -1].max()) <= -K
    assert len({tuple(row) for row in rows.tolist()}) == 4
    point_in_box = drawn(point)
    net = point_in_box.problem.net
    same_but_for_order(net.forward(point_in_box.params, X), ref.at(X))
    # Moving within the box and along any v changes nothing: M + D directions a unit.
    moved = {key: tensor.clone() for key, tensor in point_in_box.params.items()}
    moved["0.weight"][2:] = weights
    moved["0.bias"][2:] = biases[:, 0]
    moved["2.weight"][:, 2:] = v.T + 100
    same_but_for_order(net.forward(moved, X), ref.at(X))
    assert drawn.preserves_criticality is True
    assert sf.InactiveUnits.in_box(0, 4, inputs, size=K, seed=seed, outgoing=v.tolist()) == drawn
    middle = sf.InactiveUnits.in_box(0, 1, inputs, size=K, radius=2.0).incoming
    assert middle is not None
    assert middle.tolist() == [[0.0] * inputs + [-4 * K]]


@settings(LAW, max_examples=30)
@given(st.integers(0, 2**16), st.sampled_from(["relu", "leaky_relu"]))
def test_prop_8_eta_directions_of_a_replicated_relu_unit_change_nothing(
    seed: int, activation: str
) -> None:
    """w_j = β_j(u + a_j η) with Σ γ_jβ_j a_j = 0, as long as no sign of u·x̃ changes."""
    ref = reference.random_reference([2, 2, 2, 2], activation, "squared", samples=6, seed=seed)
    layer = seed % 2
    beta, gamma = [0.5, 2.0, 1.0], [1.0, 0.5, -0.5]
    embedding = sf.ScaledReplicate(layer, 0, beta, gamma)
    wide = embedding(point_of(ref))
    fed = ref.fed(layer)
    row = torch.cat([ref.params[f"{2 * layer}.weight"][0], ref.params[f"{2 * layer}.bias"][:1]])
    z = fed @ row
    assume(float(z.abs().min()) > 1e-6)
    generator = torch.Generator().manual_seed(seed)
    shares = torch.tensor(beta, dtype=torch.float64) * torch.tensor(gamma, dtype=torch.float64)
    a = torch.randn(3, generator=generator, dtype=torch.float64)
    a = a - shares * (a @ shares) / (shares @ shares)
    eta = torch.randn(len(row), generator=generator, dtype=torch.float64)
    wrong = a + shares  # Σ γ_jβ_j a_j = Σ (γ_jβ_j)² here
    reached = float((fed @ eta).abs().max()) * max(float(a.abs().max()), float(wrong.abs().max()))
    step = 0.9 * float(z.abs().min()) / reached
    places = [0, 2, 3]

    def outputs(size: float, a: Tensor) -> Tensor:
        moved = {key: tensor.clone() for key, tensor in wide.params.items()}
        for j, place in enumerate(places):
            change = beta[j] * float(a[j]) * size * eta
            moved[f"{2 * layer}.weight"][place] += change[:-1]
            moved[f"{2 * layer}.bias"][place] += change[-1]
        return replace(ref, params=moved).at(ref.X)

    limit = 1e-12 * max(1.0, reference.reach(wide.params, ref.X))
    assert exact(outputs(step, a), ref.at(ref.X), limit, 1.0)
    assert exact(outputs(-step, a), ref.at(ref.X), limit, 1.0)
    # That is no accident of a small step: without Σ γβa = 0 the same step changes the outputs.
    if layer == 1:
        slopes = torch.where(z > 0, z.new_tensor(1.0), 0.0 if activation == "relu" else 0.01)
        change = step * float(shares @ shares) * slopes * (fed @ eta)
        expected = ref.at(ref.X) + change[:, None] * ref.params["4.weight"][:, 0]
        assert exact(outputs(step, wrong), expected, limit, 1.0)
        assert float(change.abs().max()) > 1e3 * limit or not bool((z > 0).any())


@pytest.mark.parametrize(
    "form",
    [
        torch.Tensor.tolist,
        torch.Tensor.numpy,
        torch.Tensor.clone,
        lambda t: t.float(),
        lambda t: t.clone().requires_grad_(),
        lambda t: t.numpy().astype(np.float32),
        lambda t: [tuple(row) for row in t.tolist()],
    ],
    ids=[
        "lists",
        "array",
        "tensor",
        "float32 tensor",
        "tensor with a gradient",
        "float32",
        "tuples",
    ],
)
def test_arrays_may_be_lists_arrays_and_tensors(form: Callable[[Tensor], Any]) -> None:
    net = sf.MLP([2, 2, 2], "tanh")
    d = torch.tensor([[1.0, -2.0], [-1.0, 2.0]], dtype=torch.float64)
    u = torch.tensor([[1.0, -2.0, 0.5]], dtype=torch.float64)
    alpha = [torch.ones(3, 2).double(), torch.tensor([[1.0, 0.25, 0.75]] * 2).double()]
    plain = [a.tolist() for a in alpha]
    for given_in, as_lists in (
        (sf.Replicate(0, 0, [0.5, 0.5], form(d)), sf.Replicate(0, 0, [0.5, 0.5], d.tolist())),
        (sf.InactiveUnits(0, outgoing=form(d)), sf.InactiveUnits(0, outgoing=d.tolist())),
        (sf.InactivePropagation(0, form(u)), sf.InactivePropagation(0, u.tolist())),
        (sf.ConstantUnits(0, [0.5, 1], form(d)), sf.ConstantUnits(0, [0.5, 1], d.tolist())),
        (
            sf.Compatible([2, 3, 2], [[0, 1, 1]], [form(a) for a in alpha]),
            sf.Compatible([2, 3, 2], [[0, 1, 1]], plain),
        ),
        (
            sf.Split(0, [0, 0, 1], [1, 0, 1], None, form(torch.cat([d, 0 * d[:1]]))),
            sf.Split(0, [0, 0, 1], [1, 0, 1], None, [*d.tolist(), [0.0, 0.0]]),
        ),
    ):
        assert given_in == as_lists
        assert torch.equal(
            flat_wide(given_in.apply(net, net.random_params(0))),
            flat_wide(as_lists.apply(net, net.random_params(0))),
        )


# -- bad input ---------------------------------------------------------------------------------------


@pytest.fixture
def tanh() -> sf.Point:
    return point_of(reference.random_reference([2, 3, 2, 2], "tanh", "squared", seed=1))


@pytest.fixture
def relu() -> sf.Point:
    return point_of(reference.random_reference([2, 3, 2, 2], "relu", "squared", seed=1))


def makers(layer: Any = 0, unit: Any = 0) -> dict[str, Any]:
    """What makes one of each kind that names a layer, for networks of widths 2, 3, 2, 2."""
    return {
        "Replicate": lambda: sf.Replicate(layer, unit, [0.5, 0.5]),
        "Replicate with offsets": lambda: sf.Replicate(layer, unit, [0.5, 0.5], [[1, 1], [-1, -1]]),
        "ScaledReplicate": lambda: sf.ScaledReplicate(layer, unit, [2], [0.5]),
        "InactiveUnits": lambda: sf.InactiveUnits(layer, outgoing=[1, 1]),
        "InactiveUnits on data": lambda: sf.InactiveUnits(layer, incoming=[[0, 0, -1]]),
        "InactivePropagation": lambda: sf.InactivePropagation(layer, [[0, 0, -1]]),
        "ConstantUnits": lambda: sf.ConstantUnits(layer, [1], [[1, 1]]),
        "NullUnits": lambda: sf.NullUnits(layer, [1]),
        "Permute": lambda: sf.Permute(layer, [2, 0, 1]),
        "Rescale": lambda: sf.Rescale(layer, unit, 2),
        "Reflect": lambda: sf.Reflect(layer, unit),
        "Mix": lambda: sf.Mix(layer, [[1, 0, 0], [2, 1, 0], [0, 0, 1]]),
        "Split": lambda: sf.Split(layer, [0, 1, 2, 0], [0.5, 1, 1, 0.5]),
    }


def of(layer: Any = 0, unit: Any = 0) -> dict[str, sf.Embedding]:
    """One of each kind that names a layer."""
    return {kind: make() for kind, make in makers(layer, unit).items()}


@pytest.mark.parametrize("kind", list(of()))
@pytest.mark.parametrize("layer", [2, 5, -1])
def test_a_layer_that_does_not_exist_is_refused(kind: str, layer: Any, relu: sf.Point) -> None:
    embedding = of(layer)[kind]
    net = relu.problem.net
    for use in (
        lambda: embedding.matrix(net),
        lambda: embedding.apply(net, relu.params),
        lambda: embedding(relu),
    ):
        with refused(f"hidden layer {layer!r} does not exist"):
            use()


@pytest.mark.parametrize("kind", list(of()))
@pytest.mark.parametrize("given", [0.0, None, "0", True])
def test_what_names_no_layer_or_unit_is_refused_at_once(kind: str, given: Any) -> None:
    with refused(f"whole numbers, counted from 0, not by {given!r}"):
        makers(layer=given)[kind]()
    if "Replicate" in kind or kind in ("Rescale", "Reflect"):
        with refused(f"whole numbers, counted from 0, not by {given!r}"):
            makers(unit=given)[kind]()


@pytest.mark.parametrize("unit", [3, -1])
def test_a_unit_that_does_not_exist_is_refused(unit: Any, tanh: sf.Point, relu: sf.Point) -> None:
    for kind in ("Replicate", "Replicate with offsets", "ScaledReplicate", "Rescale", "Reflect"):
        point = tanh if kind == "Reflect" else relu
        with refused(f"unit {unit!r} does not exist in hidden layer 0"):
            of(0, unit)[kind](point)


def test_matrix_without_a_network_says_what_to_do(tanh: sf.Point) -> None:
    made: list[sf.Embedding] = [*of().values(), sf.GlobalSplit(), sf.GlobalNull(1)]
    made += [sf.Compatible([2, 3, 2, 2], [[0, 1, 2], [0, 1]]), sf.Composition([])]
    made += [of()["Replicate"] >> of()["NullUnits"]]
    for embedding in made:
        for use in (
            embedding.matrix,
            lambda e=embedding: e.lift(torch.zeros(3)),  # type: ignore[misc]
            lambda e=embedding: e.restrict(torch.zeros(3)),  # type: ignore[misc]
            embedding.dimension,
            embedding.degrees_of_freedom,
        ):
            with refused("say which one, as in matrix(net), lift(vector, net)"):
                use()
    net = tanh.problem.net
    known = sf.Compatible.random(net, [2, 4, 2, 2], seed=0)
    assert known.matrix().shape == (28, 23)
    with refused("was made for widths [2, 3, 2, 2], not for [2, 3, 2, 1]"):
        known.matrix(sf.MLP([2, 3, 2, 1]))


WRONG: list[tuple[str, Callable[[], Any]]] = [
    # β and γ
    ("incoming scale 1 is 0", lambda: sf.ScaledReplicate(0, 0, [1, 0], [1, 0])),
    ("incoming scale 0 is -1", lambda: sf.ScaledReplicate(0, 0, [-1], [-1])),
    ("is 0.75, not 1", lambda: sf.ScaledReplicate(0, 0, [1, 2], [0.25, 0.25])),
    ("is 1.5, not 1", lambda: sf.ScaledReplicate(0, 0, [1.5], [1])),
    ("incoming has 2 numbers and outgoing 1", lambda: sf.ScaledReplicate(0, 0, [1, 2], [1])),
    ("incoming has 0 numbers", lambda: sf.ScaledReplicate(0, 0, [], [])),
    ("holds 2 None", lambda: sf.ScaledReplicate(0, 0, [1, 2], [None, None])),
    ("nan is not a finite number", lambda: sf.ScaledReplicate(0, 0, [float("nan")], [1])),
    ("inf is not a finite number", lambda: sf.ScaledReplicate(0, 0, [1], [float("inf")])),
    ("None is not a finite number", lambda: sf.ScaledReplicate(0, 0, [None], [1])),
    ("must be lists of numbers", lambda: sf.ScaledReplicate(0, 0, None, [1])),
    # shares
    ("sum to 0.75, 0.25 short of 1", lambda: sf.Replicate(0, 0, [0.5, 0.25])),
    ("shares ['1', '1'] must sum to 1", lambda: sf.GlobalSplit([1, 1])),
    ("must sum to 1", lambda: sf.GlobalSplit([])),
    ("share nan is not a finite number", lambda: sf.GlobalSplit([float("nan")])),
    ("shares", lambda: sf.GlobalSplit(3)),
    ("copies of unit 1 sum to 0.5, not 1", lambda: sf.Split(0, [0, 1], [1, 0.5])),
    ("must cover every unit from 0; they are [0, 2]", lambda: sf.Split(0, [0, 2], [1, 1])),
    ("whole number of at least 0, not -1", lambda: sf.Split(0, [-1, 0], [1, 1])),
    ("2 sources, 1 shares", lambda: sf.Split(0, [0, 0], [1])),
    ("0 sources", lambda: sf.Split(0, [], [])),
    ("source", lambda: sf.Split(0, [0, 0.9], ["1/2", "1/2"])),
    ("source", lambda: sf.Split(0, ["a"], [1])),
    ("source", lambda: sf.Split(0, None, [1])),
    ("share", lambda: sf.Split(0, [0], None)),
    ("scale", lambda: sf.Split(0, [0], [1], [float("nan")])),
    # offsets
    ("must sum to 0 over the copies", lambda: sf.Replicate(0, 0, [0.5, 0.5], [[1, 0], [0, 0]])),
    ("expected (2, M), a row for each", lambda: sf.Replicate(0, 0, [0.5, 0.5], [[1], [0], [-1]])),
    ("offsets must be finite", lambda: sf.Replicate(0, 0, [1], [[float("nan")]])),
    ("offsets must be finite numbers in 2", lambda: sf.Replicate(0, 0, [0.5, 0.5], [1, -1])),
    ("offsets is not an array", lambda: sf.Replicate(0, 0, [0.5, 0.5], "ab")),
    ("offsets", lambda: sf.Replicate(0, 0, [0.5, 0.5], np.zeros((2, 0)))),
    ("unit 0, times their scales, must sum to 0", lambda: sf.Split(0, [0], [1], None, [[1.0]])),
    (
        "unit 0, times their scales, must sum to 0",
        lambda: sf.Split(0, [0, 0], [0.5, 0.5], [1, -1], [[1.0], [-1.0]]),
    ),
    ("offsets have 1 rows", lambda: sf.Split(0, [0, 0], [0.5, 0.5], None, [[0.0]])),
    # units with weights of their own
    ("incoming must be finite numbers in 2", lambda: sf.InactivePropagation(0, [1.0, 2.0])),
    ("incoming must be finite", lambda: sf.InactivePropagation(0, [[float("inf")]])),
    ("incoming is not an array", lambda: sf.InactivePropagation(0, [[1], [1, 2]])),
    ("given is shape (0, 3)", lambda: sf.InactivePropagation(0, np.zeros((0, 3)))),
    ("one whole number of at least 1", lambda: sf.InactiveUnits(0, 0)),
    ("one whole number of at least 1", lambda: sf.InactiveUnits(0, 1.5)),  # type: ignore[arg-type]
    ("one whole number of at least 1", lambda: sf.InactiveUnits(0, True)),
    ("count 3, rows of outgoing weights 2", lambda: sf.InactiveUnits(0, 3, [[1], [2]])),
    ("either incoming rows", lambda: sf.InactiveUnits(0, bias=-1, incoming=[[0, -1]])),
    ("outgoing must be finite", lambda: sf.InactiveUnits(0, outgoing=[float("nan")])),
    ("bias", lambda: sf.InactiveUnits(0, bias="low")),  # type: ignore[arg-type]
    ("bias", lambda: sf.InactiveUnits(0, bias=[0.0])),  # type: ignore[arg-type]
    ("size and radius must be above 0", lambda: sf.InactiveUnits.in_box(0, 1, 2, size=0)),
    ("size and radius must be above 0", lambda: sf.InactiveUnits.in_box(0, 1, 2, radius=-1)),
    ("size", lambda: sf.InactiveUnits.in_box(0, 1, 2, size="a")),  # type: ignore[arg-type]
    ("at least 1", lambda: sf.InactiveUnits.in_box(0, 0, 2)),
    ("-1", lambda: sf.InactiveUnits.in_box(0, -1, 2)),
    ("1.5", lambda: sf.InactiveUnits.in_box(0, 1.5, 2)),  # type: ignore[arg-type]
    ("inputs", lambda: sf.InactiveUnits.in_box(0, 1, -3)),
    ("inputs", lambda: sf.InactiveUnits.in_box(0, 1, 0, seed=0)),
    ("2 biases and 1 rows of outgoing", lambda: sf.ConstantUnits(0, [1, 2], [[1]])),
    ("biases must be finite", lambda: sf.ConstantUnits(0, [float("nan")], [[1]])),
    ("given is shape (0,)", lambda: sf.ConstantUnits(0, [], np.zeros((0, 1)))),
    ("bias nan is not a finite number", lambda: sf.NullUnits(0, [float("nan")])),
    ("biases must be a list", lambda: sf.NullUnits(0, [])),
    ("bias inf is not a finite number", lambda: sf.GlobalNull(float("inf"))),
    ("bias None is not a finite number", lambda: sf.GlobalNull(None)),  # type: ignore[arg-type]
    ("one number, or a list for each hidden layer", lambda: sf.GlobalNull([0.5])),  # type: ignore[list-item]
    # symmetries
    ("not a permutation", lambda: sf.Permute(0, [0, 0, 1])),
    ("not a permutation", lambda: sf.Permute(0, [1, 2])),
    ("order", lambda: sf.Permute(0, [0, 1.7])),  # type: ignore[list-item]
    ("order", lambda: sf.Permute(0, ["a"])),  # type: ignore[list-item]
    ("order", lambda: sf.Permute(0, None)),  # type: ignore[arg-type]
    ("factor must be above 0, not 0", lambda: sf.Rescale(0, 0, 0)),
    ("factor must be above 0, not -2", lambda: sf.Rescale(0, 0, -2)),
    ("nan is not a finite number", lambda: sf.Rescale(0, 0, float("nan"))),
    ("factor [1] is not a finite number", lambda: sf.Rescale(0, 0, [1])),  # type: ignore[arg-type]
    ("matrix must be square, not 1 × 2", lambda: sf.Mix(0, [[1, 2]])),
    ("matrix has no inverse to rely on", lambda: sf.Mix(0, [[1, 2], [2, 4]])),
    ("matrix is not an array of numbers", lambda: sf.Mix(0, "rows")),
]


@pytest.mark.parametrize("place", range(len(WRONG)), ids=lambda k: f"{k}: {WRONG[k][0]}")
def test_arguments_that_make_no_sense_are_refused(place: int) -> None:
    message, use = WRONG[place]
    with refused(message):
        use()


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("offsets have 3 entries each", lambda: sf.Replicate(0, 0, [0.5, 0.5], np.zeros((2, 3)))),
        (
            "offsets have 3 entries each",
            lambda: sf.Split(0, [0, 1, 2], [1, 1, 1], None, np.zeros((3, 3))),
        ),
        (
            "outgoing weights have 3 entries each; expected M = 2",
            lambda: sf.InactiveUnits(0, outgoing=[1, 1, 1]),
        ),
        (
            "incoming weights have 2 entries each; expected D = 3",
            lambda: sf.InactivePropagation(0, [[1, 1]]),
        ),
        ("incoming rows are for relu", lambda: sf.InactiveUnits(0, incoming=[[0, 0, -1]])),
        ("incoming rows are for relu", lambda: sf.InactiveUnits(0, incoming=[[0, 0, 1]])),
        ("outgoing weights have 1 entries each", lambda: sf.ConstantUnits(0, [1], [[1]])),
        ("order has 2 units, but hidden layer 0 has 3", lambda: sf.Permute(0, [1, 0])),
        (
            "the sources cover units 0 to 1, but hidden layer 0 has 3",
            lambda: sf.Split(0, [0, 1], [1, 1]),
        ),
        ("biases has 1 lists", lambda: sf.GlobalNull([[1]])),
        ("biases is empty", lambda: sf.GlobalNull([])),
        ("needs a positively homogeneous activation", lambda: sf.ScaledReplicate(0, 0, [2], [0.5])),
        ("needs a positively homogeneous activation", lambda: sf.Rescale(0, 0, 2)),
        ("units can be mixed where the activation is the identity", lambda: sf.Mix(0, np.eye(3))),
        ("scale 2 does not fit tanh", lambda: sf.Split(0, [0, 1, 2], [1, 1, 1], [2, 1, 1])),
        ("scale 0 does not fit tanh", lambda: sf.Split(0, [0, 1, 2], [1, 1, 1], [1, 0, 1])),
        ("tanh is 0.4621 at the bias 0.5", lambda: sf.InactiveUnits(0, bias=0.5)),
        ("tanh is 1 at the bias", lambda: sf.InactiveUnits(0, bias=1e17)),
        ("bias", lambda: sf.InactiveUnits(0, bias=math.inf)),
    ],
)
def test_what_does_not_fit_a_tanh_network_is_refused_and_changes_nothing(
    message: str, make: Callable[[], sf.Embedding], tanh: sf.Point
) -> None:
    before = {key: tensor.clone() for key, tensor in tanh.params.items()}
    with refused(message):
        make()(tanh)
    with refused(message):
        make().matrix(tanh.problem.net)
    assert all(torch.equal(tanh.params[key], tensor) for key, tensor in before.items())


@pytest.mark.parametrize(
    ("activation", "why"),
    [
        ("sigmoid", "sigmoid is 0.5 at the bias 0"),
        ("softplus", "softplus is 0.6931 at the bias 0"),
        ("leaky_relu", "leaky_relu has a kink at 0"),
    ],
)
def test_inactive_units_name_the_alternatives(activation: str, why: str) -> None:
    net = sf.MLP([2, 3, 1], activation)
    with pytest.raises(sf.InputError) as refusal:
        sf.InactiveUnits(0, outgoing=[1.0]).matrix(net)
    for text in (why, "NullUnits(", "InactivePropagation(", "ConstantUnits(", "Replicate("):
        assert text in str(refusal.value)


def test_an_active_relu_unit_is_named_with_sample_and_value(relu: sf.Point) -> None:
    X = relu.problem.X
    rows = torch.tensor([[0.0, 0.0, -1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)
    sample = int(X[:, 0].argmax())
    value = float(X[sample, 0])
    assert value > 0
    with refused(f"added unit 1 is active: u·x̃ = {value:.4g} on sample {sample}"):
        sf.InactiveUnits(0, incoming=rows.tolist())(relu)
    edge = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64)
    with refused("added unit 0 is active: u·x̃ = 0 on sample 0"):
        sf.InactiveUnits(0, incoming=edge.tolist())(relu)
    for bias in (0.0, 1.0):
        with refused("relu"):
            sf.InactiveUnits(0, bias=bias)(relu)


def test_an_inactive_relu_unit_with_rows_that_do_not_fit_is_refused(relu: sf.Point) -> None:
    with refused("incoming weights have 2 entries each; expected D = 3"):
        sf.InactiveUnits(0, incoming=[[0, -1]]).matrix(relu.problem.net)
    with refused("incoming weights have 2 entries each; expected D = 3"):
        sf.InactiveUnits(0, incoming=[[0, -1]])(relu)


def test_inactive_relu_units_are_checked_in_every_layer(relu: sf.Point) -> None:
    net = relu.problem.net
    for layer in (0, 1):
        rows = torch.zeros((1, net.fan_in(layer)), dtype=torch.float64)
        rows[0, -1] = -1.0
        wide = sf.InactiveUnits(layer, incoming=rows.tolist())(relu)
        assert wide.problem.net.hidden[layer] == net.hidden[layer] + 1
        with refused("added unit 0 is active: u·x̃ = 1"):
            sf.InactiveUnits(layer, incoming=(-rows).tolist())(relu)


def test_networks_without_the_bias_it_takes_are_refused() -> None:
    none = sf.MLP([2, 3, 1], "sigmoid", bias=False)
    above_only = sf.MLP([2, 3, 1], "sin", bias=[False, True])
    for message, embedding, net in (
        ("layer 0 has none", sf.ConstantUnits(0, [1], [[1]]), above_only),
        (
            "layer 1 has none",
            sf.ConstantUnits(0, [1], [[1]]),
            sf.MLP([2, 3, 1], bias=[True, False]),
        ),
        ("need a bias in linear layer 1 above it", sf.NullUnits(0, [0]), none),
        ("can only be 0; given: [1]", sf.NullUnits(0, [1]), above_only),
        ("need a bias in linear layer 1 above it", sf.GlobalNull(0), none),
        ("linear layer 1 has none", sf.Reflect(0, 0), none),
        ("needs a bias in linear layer 1", sf.Split(0, [0, 1, 2], [1] * 3, [1, -1, 1]), none),
        ("linear layer 0 has no bias", sf.InactiveUnits(0, bias=math.pi), above_only),
        ("linear layer 0 has no bias", sf.InactiveUnits(0), sf.MLP([2, 3, 1], "relu", bias=False)),
    ):
        with refused(message):
            embedding.matrix(net)
    for activation in ("gelu", "softplus", "relu"):
        with refused("σ(−z) = κ − σ(z)"):
            sf.Reflect(0, 0).matrix(sf.MLP([2, 3, 1], activation))


def test_null_units_everywhere_may_be_nowhere(tanh: sf.Point) -> None:
    nowhere = sf.GlobalNull([[], []])
    assert nowhere.widen(tanh.problem.net) == tanh.problem.net
    assert nowhere.dimension(tanh.problem.net) == 0
    assert nowhere.flat_directions(tanh).shape == (0, tanh.problem.net.parameter_count)
    assert "GlobalNull" in repr(nowhere)


def test_vectors_and_networks_of_the_wrong_kind_are_refused(tanh: sf.Point) -> None:
    embedding, net = sf.Replicate(0, 0, [0.5, 0.5]), tanh.problem.net
    with refused("a vector of shape (3,) does not fit"):
        embedding.lift(torch.zeros(3), net)
    with refused("a vector of shape (25,) does not fit"):
        embedding.restrict(torch.zeros(25), net)
    with refused("missing keys"):
        embedding.lift({}, net)
    with refused("an embedding takes a Point, not dict"):
        embedding(tanh.params)  # type: ignore[arg-type]
