"""Verdicts and escapes for every embedding, against dense automatic differentiation."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import Tensor

import semiflat as sf
from reference import Reference, count, critical_reference, random_reference, spectrum
from semiflat.verdicts import escapes as escape_room
from semiflat.verdicts.escapes import SHARES, copied

ODD = {"tanh", "sin", "identity"}
ZERO = {"tanh", "sin", "gelu", "silu", "identity"}
HOMOGENEOUS = {"relu", "leaky_relu", "identity"}


def point_of(ref: Reference) -> sf.Point:
    net = sf.MLP(ref.widths, ref.activation, ref.has_bias)
    return sf.Point(sf.Problem(net, ref.X, ref.y, ref.loss), ref.params)


def at(point: sf.Point, like: Reference) -> Reference:
    return replace(like, params={key: tensor.clone() for key, tensor in point.params.items()})


def random_step(net: sf.MLP, rng: random.Random, depth: int) -> sf.Embedding:
    """One embedding of any kind that fits the network."""
    name = net.activations[0].name
    layer = rng.randrange(len(net.hidden))
    unit = rng.randrange(net.hidden[layer])
    above, fan = net.widths[layer + 2], net.fan_in(layer)
    generator = torch.Generator().manual_seed(rng.randrange(10**6))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shares = rng.choice([["1/2", "1/2"], [2, -1], [0.3, 0.7], [1.5, 0.5, -1], [0.25] * 4, [0, 1]])
    order = rng.sample(range(net.hidden[layer]), net.hidden[layer])
    offset = normal(1, above)
    kinds: list[sf.Embedding] = [
        sf.Replicate(layer, unit, shares),
        sf.Replicate(layer, unit, [0.4, 0.6], offsets=torch.cat([offset, -offset])),
        sf.NullUnits(layer, [0.5] * rng.randint(1, 2)),
        sf.InactivePropagation(layer, normal(rng.randint(1, 2), fan)),
        sf.ConstantUnits(layer, normal(2), normal(2, above)),
        sf.Permute(layer, order),
        sf.Split(
            layer,
            [*range(net.hidden[layer]), unit],
            [Fraction(1, 4) if k == unit else Fraction(1) for k in range(net.hidden[layer])]
            + [Fraction(3, 4)],
        ),
    ]
    if name in ZERO:
        kinds.append(sf.InactiveUnits(layer, 2, outgoing=normal(above)))
        kinds.append(sf.InactiveUnits(layer, 2))
    if name in HOMOGENEOUS:
        kinds.append(sf.ScaledReplicate(layer, unit, [2, 0.5], [rng.choice([0.25, -1]), None]))
        kinds.append(sf.Rescale(layer, unit, 3))
    if name == "relu":
        kinds.append(sf.InactiveUnits(layer, rng.randint(1, 3), outgoing=normal(above)))
    if name in ODD | {"sigmoid"}:
        kinds.append(sf.Reflect(layer, unit))
    if depth == 0 and sum(net.hidden) < 6:
        wider = [net.inputs, *(width + 1 for width in net.hidden), net.outputs]
        kinds.append(sf.Compatible.random(net, wider, seed=rng.randrange(10**6)))
        kinds.append(sf.GlobalSplit(rng.choice([(1, 1, -1), ("1/2", "1/2")])))
        kinds.append(sf.GlobalNull(0.3))
    return rng.choice(kinds)


def random_embedding(net: sf.MLP, rng: random.Random) -> sf.Embedding:
    whole: sf.Embedding = sf.Composition([])
    for depth in range(rng.randint(1, 3)):
        whole = whole >> random_step(whole.widen(net), rng, depth)
    return whole


def random_narrow(rng: random.Random, seed: int) -> Reference:
    name = rng.choice(["tanh", "sigmoid", "softplus", "gelu", "silu", "sin", "relu", "identity"])
    widths = rng.choice([[2, 2, 1], [2, 3, 2], [1, 2, 2, 1], [2, 2, 2, 2]])
    if rng.random() < 0.4:
        return random_reference(widths, name, "squared", True, 8, seed)
    return critical_reference(widths, name, size=rng.choice([0.05, 0.5, 3.0]), seed=seed)


def test_inertia_and_direction_agree_with_the_dense_hessian_for_every_embedding() -> None:
    rng = random.Random(5)
    unclear = 0
    kinds: Counter[sf.Kind] = Counter()
    methods: Counter[str] = Counter()
    for seed in range(160):
        ref = random_narrow(rng, seed)
        narrow = point_of(ref)
        embedding = random_embedding(narrow.problem.net, rng)
        wide = embedding(narrow)
        verdict = sf.judge(wide)
        dense = at(wide, ref)
        hessian = dense.hessian()
        values = spectrum(hessian)
        positive, zero, negative, clear = count(values)
        # At a critical point, what the distance to the exact one may explain counts as zero.
        small = values.abs() / values.abs().max()
        clear = clear and not bool(((small > 4e-13) & (small < 1e-9)).any())
        label = f"{seed} {ref.activation} {ref.widths} {embedding} {verdict.method}"
        assert wide.gradient_norm == pytest.approx(
            float(dense.gradient().abs().max()), rel=1e-9, abs=1e-12
        ), label
        kinds[verdict.kind] += 1
        methods[verdict.method.split(" of ")[0]] += 1
        if verdict.descent_direction is not None:
            direction = wide.problem.net.flatten(verdict.descent_direction)
            assert float(direction.norm()) == pytest.approx(1, abs=1e-9), label
            along = float(direction @ hessian @ direction)
            size = float(hessian.abs().max())
            assert verdict.curvature == pytest.approx(along, rel=1e-7, abs=1e-10 * size), label
        if not clear:
            unclear += 1
            continue
        assert verdict.inertia == (positive, zero, negative), label
        if verdict.at_least is not None:
            assert all(a >= b for a, b in zip(verdict.inertia, verdict.at_least, strict=True)), (
                label
            )
        if verdict.kind in (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM):
            assert negative == 0, label
            assert (zero == 0) or verdict.kind is sf.Kind.MINIMUM, label
        if verdict.kind is sf.Kind.STRICT_SADDLE:
            assert negative > 0, label
    assert unclear <= 28
    assert min(kinds[kind] for kind in (sf.Kind.NOT_CRITICAL, sf.Kind.STRICT_SADDLE)) >= 20, kinds
    assert kinds[sf.Kind.MINIMUM] >= 5, kinds
    assert {"inertia law", "inertia law over a core", "dense Hessian"} <= set(methods), methods


# -- exact fits: the zero-error forms -------------------------------------------------------------


def exact_fit(activation: str, seed: int = 0) -> Reference:
    """A network that fits every sample: its own outputs are the targets."""
    ref = random_reference([2, 2, 2], activation, "squared", True, 20, seed)
    return replace(ref, y=ref.outputs(ref.vector))


def surplus_block(wide: sf.Point, ref: Reference, added: range) -> tuple[Tensor, Tensor, Tensor]:
    """The dense Hessian's blocks (v, v), (v, w), (w, w) of the added units of hidden layer 0."""
    net = wide.problem.net
    numbers = net.unflatten(torch.arange(net.parameter_count))
    v = torch.cat([numbers["2.weight"][:, j] for j in added])
    w = torch.cat([torch.cat([numbers["0.weight"][j], numbers["0.bias"][j, None]]) for j in added])
    hessian = at(wide, ref).hessian()
    return hessian[v][:, v], hessian[v][:, w], hessian[w][:, w]


def test_inactive_units_at_an_exact_fit_have_the_form_42() -> None:
    ref = exact_fit("tanh")
    outgoing = torch.tensor([[0.5, -1.0], [2.0, 0.3]], dtype=torch.float64)
    wide = sf.InactiveUnits(0, outgoing=outgoing)(point_of(ref))
    vv, vw, ww = surplus_block(wide, ref, range(2, 4))
    fed = torch.cat([ref.X, torch.ones(20, 1, dtype=torch.float64)], 1)
    moments = fed.mT @ fed / 20  # tanh'(0) = 1, ℓ'' = 1
    S1 = torch.kron(outgoing @ outgoing.mT, moments)
    assert torch.allclose(ww, S1, atol=1e-12)
    assert vv.abs().max() < 1e-14
    assert vw.abs().max() < 1e-14
    verdict = sf.judge(wide)
    assert verdict.kind is sf.Kind.MINIMUM
    assert verdict.inertia == count(spectrum(at(wide, ref).hessian()))[:3]


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_inactive_propagation_at_an_exact_fit_has_the_forms_43_and_44(activation: str) -> None:
    ref = exact_fit(activation, seed=3)
    incoming = torch.tensor([[1.0, -0.5, 0.3], [0.2, 2.0, -0.1]], dtype=torch.float64)
    wide = sf.InactivePropagation(0, incoming)(point_of(ref))
    vv, vw, ww = surplus_block(wide, ref, range(2, 4))
    fed = torch.cat([ref.X, torch.ones(20, 1, dtype=torch.float64)], 1)
    h = (torch.tanh if activation == "tanh" else torch.relu)(fed @ incoming.mT)
    S2 = torch.kron(h.mT @ h / 20, torch.eye(2, dtype=torch.float64))
    assert torch.allclose(vv, S2, atol=1e-12)
    assert vw.abs().max() < 1e-14
    assert ww.abs().max() < 1e-14
    assert sf.judge(wide).kind is sf.Kind.MINIMUM


def test_replication_at_an_exact_fit_has_the_forms_11_and_41() -> None:
    """F = 0 and G = 0 where every residual is 0: the copies add nothing but zeros."""
    ref = exact_fit("tanh")
    verdict = sf.judge(sf.Replicate(0, 1, ["1/2", "1/2"])(point_of(ref)))
    narrow = sf.judge(point_of(ref))
    assert verdict.kind is sf.Kind.MINIMUM
    assert verdict.inertia is not None
    assert narrow.inertia is not None
    assert verdict.inertia[0] == narrow.inertia[0]
    assert verdict.inertia[2] == 0


def test_relu_units_inactive_on_the_data_add_zeros_and_keep_the_kind() -> None:
    """F19 Prop. 7, eq. 12 and Thm 9: minimum to minimum, saddle to saddle, at any width."""
    kinds = Counter()
    for seed in range(24):
        size = 0.05 if seed % 2 else 30.0
        ref = critical_reference([2, 2, 2], "relu", size=size, seed=seed)
        if ref.nearest_kink() < 1e-3:
            continue
        narrow = point_of(ref)
        before, wide = sf.judge(narrow), sf.InactiveUnits(0, 10**5, outgoing=[2.0, -1.0])(narrow)
        after = sf.judge(wide)
        assert before.inertia is not None
        assert after.inertia is not None
        added = wide.problem.net.parameter_count - narrow.problem.net.parameter_count
        assert after.inertia == (before.inertia[0], before.inertia[1] + added, before.inertia[2])
        expected = before.kind
        if expected is sf.Kind.STRICT_MINIMUM:
            expected = sf.Kind.MINIMUM
        assert after.kind is expected, (seed, before, after)
        assert after.method == "inertia law"
        kinds[after.kind] += 1
    assert kinds[sf.Kind.MINIMUM] >= 3, kinds
    assert kinds[sf.Kind.STRICT_SADDLE] >= 3, kinds


def test_a_million_units_of_any_lazy_kind_are_judged_like_two() -> None:
    ref = critical_reference([2, 2, 1], "tanh", size=3.0, seed=1)
    narrow = point_of(ref)
    for make in (
        lambda n: sf.InactiveUnits(0, n),
        lambda n: sf.Reflect(0, 1) >> sf.Replicate.uniform(0, 1, n),
        lambda n: sf.NullUnits(0, [0.5] * n) >> sf.Replicate(0, 0, [2, -1]),
    ):
        small, large = make(3)(narrow), make(10**6)(narrow)
        few, many = sf.judge(small), sf.judge(large)
        assert few.kind is many.kind
        assert few.inertia is not None
        assert many.inertia is not None
        assert few.inertia == count(spectrum(at(small, ref).hessian()))[:3]
        assert many.inertia[2] >= few.inertia[2]
        assert sum(many.inertia) == large.problem.net.parameter_count


def test_a_strict_saddle_stays_one_where_the_wide_hessian_is_too_large() -> None:
    ref = critical_reference([2, 3, 2, 1], "tanh", size=5.0, seed=2)
    narrow = point_of(ref)
    embedding = sf.Compatible.random(narrow.problem.net, [2, 12, 12, 1], seed=1)
    exact = sf.judge(embedding(narrow))
    bound = sf.judge(embedding(narrow), dense_limit=60)
    assert exact.kind is bound.kind is sf.Kind.STRICT_SADDLE
    assert (exact.method, bound.method) == ("dense Hessian", "irreversibility")
    assert bound.inertia is None
    assert bound.at_least is not None
    assert exact.inertia is not None
    assert all(a >= b for a, b in zip(exact.inertia, bound.at_least, strict=True))
    assert bound.descent_direction is not None
    wide = embedding(narrow)
    direction = wide.problem.net.flatten(bound.descent_direction)
    along = float(direction @ at(wide, ref).hessian() @ direction)
    assert bound.curvature == pytest.approx(along, rel=1e-9)
    assert along < 0


def test_an_embedded_saddle_with_a_core_too_large_and_no_narrow_saddle_is_not_called_one() -> None:
    ref = critical_reference([2, 2, 1], "tanh", size=0.02, seed=4)
    narrow = point_of(ref)
    assert sf.judge(narrow).kind is sf.Kind.STRICT_MINIMUM
    incoming = torch.randn(30, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    verdict = sf.judge(sf.InactivePropagation(0, incoming)(narrow), dense_limit=50)
    assert verdict.kind is sf.Kind.NOT_CRITICAL
    assert verdict.inertia is None
    assert verdict.at_least == (9, 0, 0)


# -- escapes --------------------------------------------------------------------------------------


def dense_along(found: sf.Escape, ref: Reference) -> float:
    assert found.point is not None
    assert found.direction is not None
    direction = found.point.problem.net.flatten(found.direction)
    assert float(direction.norm()) == pytest.approx(1, abs=1e-9)
    return float(direction @ at(found.point, ref).hessian() @ direction)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "softplus", "relu"])
@pytest.mark.parametrize("widths", [[2, 2, 1], [2, 2, 2], [2, 2, 1, 2]])
def test_one_unit_opens_a_way_down_from_a_minimum(activation: str, widths: list[int]) -> None:
    kinds = Counter()
    for seed in range(12 if activation == "relu" else 4):  # relu's units are dead now and then
        ref = critical_reference(widths, activation, size=0.002, seed=seed)
        if sf.judge(point_of(ref)).kind not in (sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM):
            continue
        found = sf.escape(point_of(ref))
        kinds[found.kind] += 1
        assert found.found
        assert found.new_units == 1
        along = dense_along(found, ref)
        assert along < 0
        assert found.curvature == pytest.approx(along, rel=1e-7)
        assert found.measured_curvature == pytest.approx(along, rel=1e-3, abs=1e-7)
        assert found.point is not None
        assert sf.judge(found.point).kind is sf.Kind.STRICT_SADDLE
    assert sum(kinds.values()) >= 2, kinds
    if activation == "relu" and widths[-1] == 1 and len(widths) == 3:
        assert set(kinds) == {"null unit"}  # G = 0 and, with one output, F = 0


def test_a_strict_saddle_needs_no_new_unit() -> None:
    ref = critical_reference([2, 2, 1], "tanh", size=5.0, seed=0)
    found = sf.escape(point_of(ref))
    assert (found.kind, found.new_units, found.embedding) == ("none needed", 0, None)
    assert dense_along(found, ref) < 0


def test_a_point_that_is_not_critical_is_told_so() -> None:
    found = sf.escape(point_of(random_reference([2, 2, 1], "tanh", "squared")))
    assert found.kind == "not critical"
    assert not found.found
    assert "gradient" in found.reason


def test_at_an_exact_fit_the_necessary_condition_for_truly_bad_holds() -> None:
    """Every residual is 0, and with them F∅, all K and H⁽²⁾."""
    found = sf.escape(point_of(exact_fit("tanh")))
    assert found.kind == "none"
    assert "Thm 6.3" in found.reason
    assert not found.found


def test_where_no_single_unit_helps_copies_of_the_network_are_tried(monkeypatch) -> None:
    """Z22 Lemmas 6.1–6.2, and fewer copies than theirs: units are left out one by one."""
    monkeypatch.setattr(escape_room, "_one_unit", lambda *_: None)
    seen = Counter()
    for seed in range(6):
        ref = critical_reference([2, 2, 2, 1], "tanh", size=0.002, seed=seed)
        if sf.judge(point_of(ref)).kind is not sf.Kind.STRICT_MINIMUM:
            continue
        found = sf.escape(point_of(ref))
        seen[found.kind] += 1
        assert found.kind == "copied units"
        assert 1 <= found.new_units <= 4
        along = dense_along(found, ref)
        assert along < 0
        assert found.curvature == pytest.approx(along, rel=1e-7)
    assert seen["copied units"] >= 2


@pytest.mark.parametrize("shares", SHARES)
def test_any_choice_of_copied_units_is_a_critical_embedding(shares) -> None:
    """And moving the copies by x₁v and x₂v with c₁x₁ + c₂x₂ = 0 sees H⁽²⁾ alone."""
    ref = critical_reference([2, 2, 3, 2], "sigmoid", size=0.3, seed=1)
    narrow = point_of(ref)
    rng = random.Random(0)
    for _ in range(12):
        chosen = [{u for u in range(width) if rng.random() < 0.5} for width in ref.hidden]
        wide = copied(narrow.problem.net, chosen, shares)(narrow)
        dense = at(wide, ref)
        assert wide.problem.net.hidden == tuple(
            width + len(units) for width, units in zip(ref.hidden, chosen, strict=True)
        )
        assert torch.allclose(dense.outputs(dense.vector), ref.outputs(ref.vector), atol=1e-12)
        assert dense.gradient().abs().max() < 1e-10


def test_escape_takes_one_small_point(monkeypatch) -> None:
    ref = critical_reference([2, 2, 1], "tanh", size=0.05, seed=0)
    with pytest.raises(sf.InputError, match="takes a Point"):
        sf.escape(ref)  # type: ignore[arg-type]
    monkeypatch.setattr(escape_room, "DENSE_LIMIT", 4)
    with pytest.raises(sf.InputError, match="dense derivatives"):
        sf.escape(point_of(ref))
