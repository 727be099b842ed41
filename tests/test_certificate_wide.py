"""Proofs of wide points: against measurement, dense Hessians, the checker, and what theory §3 says."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from reference import Reference, critical_reference
from semiflat.verdicts.proved import with_proofs

Signs = tuple[int, int, int]
Case = tuple[str, sf.Point, sf.Verdict, sf.Verdict]
MIRRORED = {"tanh", "sin", "sigmoid"}
FIRST_ORDER = "F19 §D, P21 Prop. 1(i)"

# -- narrow critical points -------------------------------------------------------------------------


def noisy(widths: Sequence[int], activation: str, seed: int, loss: str = "squared") -> sf.Problem:
    """What a random network of these widths says, with noise in targets or labels."""
    generator = torch.Generator().manual_seed(seed)
    samples = 40 if loss == "cross_entropy" else 30
    X = torch.randn(samples, widths[0], generator=generator, dtype=torch.float64)
    net = sf.MLP(widths, activation)
    teacher = net.to_module().double()
    whole = torch.randn(net.parameter_count, generator=generator, dtype=torch.float64)
    parts = (1.5 * whole).split([p.numel() for p in teacher.parameters()])
    for parameter, part in zip(teacher.parameters(), parts, strict=True):
        parameter.data = part.reshape(parameter.shape)
    with torch.no_grad():
        outputs = teacher(X)
    if loss == "cross_entropy":
        chances = 0.7 * outputs.softmax(1) + 0.3 / widths[-1]
        return sf.Problem(net, X, torch.multinomial(chances, 1, generator=generator)[:, 0], loss)
    noise = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)
    return sf.Problem(net, X, outputs + 0.3 * noise, loss)


SEARCHES = [
    ((2, 2, 1), "tanh", 1, "squared", "minimum"),
    ((2, 2, 1), "sigmoid", 3, "squared", "minimum"),
    ((2, 2, 1), "gelu", 0, "squared", "minimum"),
    ((2, 2, 1), "sin", 0, "squared", "minimum"),
    ((2, 2, 1), "relu", 0, "squared", "minimum"),
    ((2, 3, 1), "sin", 2, "squared", "minimum"),
    ((2, 3, 1), "relu", 1, "squared", "minimum"),
    ((3, 2, 2), "tanh", 2, "squared", "minimum"),
    ((3, 2, 2), "sigmoid", 1, "squared", "any"),
    ((3, 2, 2), "sin", 3, "squared", "minimum"),
    ((3, 2, 2), "relu", 0, "squared", "any"),
    ((2, 1, 2), "tanh", 3, "cross_entropy", "minimum"),
    ((2, 1, 2), "sin", 0, "cross_entropy", "minimum"),
    ((2, 1, 2), "gelu", 3, "cross_entropy", "minimum"),
    ((2, 1, 2), "relu", 3, "cross_entropy", "minimum"),
    ((2, 2, 2), "gelu", 1, "cross_entropy", "any"),
    ((2, 2, 3), "gelu", 0, "cross_entropy", "minimum"),
    ((2, 2, 3), "relu", 0, "cross_entropy", "any"),
    ((1, 1, 2, 2), "gelu", 2, "cross_entropy", "minimum"),
    ((1, 1, 2, 2), "relu", 0, "cross_entropy", "minimum"),
    ((2, 1, 2, 2), "sin", 0, "cross_entropy", "minimum"),
]

MADE = [
    (widths, activation, loss, bias, size)
    for widths, bias in (
        ([2, 2, 1], True),
        ([2, 3, 1, 1], True),
        ([1, 2, 2, 1], True),
        ([2, 2, 2], True),
        ([1, 1, 1], [False, True]),
        ([1, 1, 1, 1], [False, False, True]),
    )
    for activation in ("tanh", "sigmoid", "gelu", "sin", "softplus")
    for loss, size in (("squared", 0.05), ("logistic", 0.5))
]


def made(
    widths: Sequence[int],
    activation: str,
    loss: str = "squared",
    bias: bool | Sequence[bool] = True,
    size: float = 0.05,
    seed: int = 0,
) -> sf.Point:
    """A critical point made one by the targets, and polished."""
    given = critical_reference(widths, activation, loss, bias, size, seed)
    problem = sf.Problem(sf.MLP(widths, activation, bias), given.X, given.y, loss)
    return sf.find_critical_point(problem, start=given.params, kind="any", processes=1)


@cache
def narrow_points() -> list[tuple[str, sf.Point]]:
    """Certified critical points; what is not certified is left out, and counted."""
    named: list[tuple[str, sf.Point]] = []
    for widths, activation, seed, loss, kind in SEARCHES:
        problem = noisy(widths, activation, seed, loss)
        # In torch: with which last bits a search ends is its own affair.
        points = sf.run_search(
            problem, starts=4, kind=kind, max_iterations=80, processes=1, engine="torch"
        ).points  # one of the searches finds none
        named += [(f"{activation} {widths} {loss} {seed}", point) for point in points]
    for layers, activation, loss, bias, size in MADE:
        point = made(layers, activation, loss, bias, size)
        named.append((f"{activation} {layers} {loss} made", point))
    certificates = sf.certify_all([point for _, point in named])
    kept = [each for each, c in zip(named, certificates, strict=True) if c.certified]
    assert len(named) - len(kept) <= 12
    return kept


# -- wide points ------------------------------------------------------------------------------------

SHARES: list[list[str | float]] = [
    ["1/2", "1/2"],
    ["1/5"] * 5,
    [2, -1],
    [1.5, 0.5, -1],
    [2, "-1/2", "-1/2"],
    [1, 0],
    [0.5, 0.5, 0],
    [3, -1, -1, 0],
]


def widenings(net: sf.MLP, rng: random.Random) -> Iterator[sf.Embedding]:
    """Every pattern of signs, mirrored and scaled copies, null units, and several of them at once."""
    name = net.activations[0].name
    for layer, width in enumerate(net.hidden):
        unit = rng.randrange(width)
        half = sf.Replicate(layer, unit, ["1/2", "1/2"])
        for shares in rng.sample(SHARES, 4) if len(net.hidden) > 1 else SHARES:
            yield sf.Replicate(layer, unit, shares)
        if name in MIRRORED and (name != "sigmoid" or net.biases[layer + 1]):
            yield sf.Reflect(layer, unit) >> sf.Replicate(layer, unit, ["1/3", "2/3"])
            yield sf.Replicate(layer, unit, [2, -1]) >> sf.Reflect(layer, unit)
        if name == "relu":
            yield sf.ScaledReplicate(layer, unit, [2, 0.5], [0.25, None])
            yield sf.ScaledReplicate(layer, unit, [2, 0.5, 3], [1, -1, None])
            yield sf.NullUnits(layer, [-1, -2])
        if net.biases[layer] and net.biases[layer + 1]:
            yield sf.NullUnits(layer, [0.5])
            yield half >> sf.Replicate(layer, width, [3, -2]) >> sf.NullUnits(layer, [-0.5, 2])
        elif net.biases[layer + 1]:
            yield sf.NullUnits(layer, [0])
        if width > 1:
            yield sf.Replicate(layer, 0, ["1/2", "1/2"]) >> sf.Replicate(layer, 1, ["1/4", "3/4"])
    if len(net.hidden) > 1:
        both = sf.Replicate(0, 0, ["1/2", "1/2"]) >> sf.Replicate(1, 0, ["1/3", "2/3"])
        yield both
        yield sf.Replicate(0, 0, [2, -1]) >> sf.Replicate(1, 0, [-2, 3])
        yield sf.Permute(0, list(range(net.hidden[0]))[::-1]) >> both
        yield both >> sf.NullUnits(1, [0.5 if net.biases[1] else 0])


@cache
def cases() -> list[Case]:
    """Wide points with the verdict proved, as far as it could be, and the one measured."""
    rng = random.Random(0)
    points = [
        (f"{label} {embedding}", embedding(point))
        for label, point in narrow_points()
        for embedding in widenings(point.problem.net, rng)
    ]
    wide = [point for _, point in points]
    measured = sf.judge_all(wide)
    proved = with_proofs(
        wide, measured
    )  # as judge_all(…, proof=True) does, without measuring again
    verdicts = zip(proved, measured, strict=True)
    return [(*each, *both) for each, both in zip(points, verdicts, strict=True)]


def proved_cases() -> list[Case]:
    return [case for case in cases() if case[2].certainty is sf.Certainty.PROVED]


def reference_of(point: sf.Point) -> Reference:
    name, problem = point.problem.net.activations[0].name, point.problem
    return Reference(name, dict(point.params), problem.X, problem.y, problem.loss.name)


def dense_inertia(point: sf.Point) -> tuple[Signs, bool]:
    """Of the Hessian by automatic differentiation; and whether zeros are clear of the others."""
    values = torch.linalg.eigvalsh(reference_of(point).hessian())
    sizes = values.abs() / values.abs().max()
    large = sizes > 1e-10
    clear = not bool(((sizes > 1e-12) & (sizes < 1e-8)).any())
    signs = ((values > 0) & large, ~large, (values < 0) & large)
    return (int(signs[0].sum()), int(signs[1].sum()), int(signs[2].sum())), clear


def test_proofs_never_contradict_measurement() -> None:
    kinds: Counter[str] = Counter()
    open_ones = 0
    for label, _, proved, measured in proved_cases():
        kinds[proved.kind] += 1
        open_ones += measured.kind is sf.Kind.UNDECIDED
        assert measured.certainty is sf.Certainty.MEASURED
        assert proved.kind in (measured.kind, *_anything_where(measured)), label
    assert open_ones >= 10
    assert kinds[sf.Kind.MINIMUM] >= 40, kinds
    assert kinds[sf.Kind.STRICT_SADDLE] >= 300, kinds
    assert set(kinds) == {sf.Kind.MINIMUM, sf.Kind.STRICT_SADDLE}


def _anything_where(measured: sf.Verdict) -> list[sf.Kind]:
    return list(sf.Kind) if measured.kind is sf.Kind.UNDECIDED else []


def test_what_is_not_proved_is_measured_as_without_a_proof() -> None:
    left = Counter[str]()
    for label, _, proved, measured in cases():
        if proved.certainty is sf.Certainty.PROVED:
            continue
        assert proved.certificate is not None
        assert proved.certificate.status == "undecided", label
        assert proved.certificate.reason in proved.reason, label
        assert proved.reason.startswith(measured.reason), label
        assert (proved.kind, proved.inertia) == (measured.kind, measured.inertia), label
        left[measured.kind] += 1
    # A zero share leaves third derivatives to decide; so does G that is indefinite by nothing.
    assert left.total() <= len(cases()) / 4, left
    assert left[sf.Kind.NOT_CRITICAL] == 0


def test_proved_inertia_is_that_of_the_dense_hessian() -> None:
    rng = random.Random(1)
    counts: Counter[str] = Counter()
    for label, point, verdict, _ in rng.sample(proved_cases(), 350):
        certificate = verdict.certificate
        assert certificate is not None
        (positive, zero, negative), clear = dense_inertia(point)
        if not clear:
            counts["unclear"] += 1
            continue
        if certificate.inertia is not None:
            counts["exact"] += 1
            assert certificate.inertia == verdict.inertia, label
            assert certificate.inertia == (positive, zero, negative), label
        else:
            counts["bounds"] += 1
            assert verdict.at_least is not None
            assert verdict.at_least == tuple(certificate.proved["inertia"]), label
            assert verdict.at_least.positive <= positive, label
            assert 0 < verdict.at_least.negative <= negative, label
        assert (negative > 0) is (verdict.kind is sf.Kind.STRICT_SADDLE), label
    assert counts["exact"] >= 200, counts
    assert counts["bounds"] >= 1, counts
    assert counts["unclear"] <= 100, counts


def test_every_proved_file_is_certified(tmp_path: Path) -> None:
    rng = random.Random(2)
    path = tmp_path / "wide.json"
    for label, _, verdict, _ in rng.sample(proved_cases(), 350):
        assert verdict.certificate is not None
        verdict.certificate.save(path)
        result = sf.verify(path)
        assert result.ok, f"{label}: {result}"
        assert result.reason == verdict.reason


def test_around_proved_minima_nothing_is_lower() -> None:
    generator = torch.Generator().manual_seed(0)
    tried = 0
    for label, point, verdict, _ in proved_cases():
        if verdict.kind is not sf.Kind.MINIMUM:
            continue
        tried += 1
        here = reference_of(point)
        lowest = here.value()
        risk = torch.func.vmap(here.risk)
        steps = torch.randn(100, len(here.vector), generator=generator, dtype=torch.float64)
        for size in (1e-2, 1e-3, 1e-5):
            around = risk(here.vector + size * steps / steps.norm(dim=1, keepdim=True))
            slack = 1e-15 * max(1.0, lowest) * len(here.vector)
            if point.problem.net.activations[0].name == "relu" and size > 1e-3:
                continue  # beyond the kinks
            assert around.min() >= lowest - slack, label
    assert tried >= 40


# -- F = 0 ------------------------------------------------------------------------------------------


def test_F_is_taken_for_0_only_where_it_has_no_free_row() -> None:
    taken = free = 0
    for label, point, verdict, _ in proved_cases():
        assert isinstance(point, sf.EmbeddedPoint)
        assert verdict.certificate is not None
        net = point.source.problem.net
        softmax = point.problem.loss.name == "cross_entropy"
        premises = verdict.certificate.premises
        for layer, width in enumerate(net.hidden):
            last = layer == len(net.hidden) - 1
            dependent = 2 if softmax and last else 1
            for unit in range(width):
                copied = sum(count for _, count in point.unit_map.shares(layer, unit)) > 1
                said = f"F = 0 at unit {unit} of hidden layer {layer}: {FIRST_ORDER}"
                has = any(premise.startswith(said) for premise in premises)
                assert has is (copied and net.widths[layer + 2] == dependent), label
                taken += has
                free += copied and not has
    assert taken >= 100
    assert free >= 50


def critical(net: sf.MLP, params: dict[str, Tensor], size: float, seed: int = 0) -> sf.Point:
    """The parameters at a critical point of squared loss: targets off by residuals that Jᵀ annuls."""
    generator = torch.Generator().manual_seed(seed)
    samples = 2 * net.parameter_count
    X = torch.randn(samples, net.inputs, generator=generator, dtype=torch.float64)
    zero = torch.zeros(samples, net.outputs, dtype=torch.float64)
    outputs, jacobian = zero, sf.jacobian(sf.Point(sf.Problem(net, X, zero), params))
    module = net.to_module().double()
    module.load_state_dict(params)
    with torch.no_grad():
        outputs = module(X)
    residual = torch.randn(zero.numel(), generator=generator, dtype=torch.float64)
    basis, _ = torch.linalg.qr(jacobian.reshape(zero.numel(), -1))
    for _ in range(3):
        residual = residual - basis @ (basis.mT @ residual)
    residual = size * residual / residual.abs().max()
    return sf.Point(sf.Problem(net, X, outputs - residual.reshape(zero.shape)), params)


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_F_that_is_merely_small_is_not_taken_for_0(size: float) -> None:
    net = sf.MLP([2, 2, 2], "tanh")
    point = critical(net, _params(net), size)
    assert 0 < sf.unit_blocks(point, 0, 0).F.abs().max() < 10 * size
    _never_a_minimum(point, size)


@pytest.mark.parametrize("outgoing", [1e-3, 1e-6, 1e-9])
def test_F_of_a_unit_that_is_hardly_heard_is_not_taken_for_0(outgoing: float) -> None:
    net = sf.MLP([2, 2, 2], "tanh")
    params = _params(net)
    params["2.weight"][:, 0] *= outgoing
    point = critical(net, params, 1e-6)
    assert sf.unit_blocks(point, 0, 0).F.abs().max() > 0
    _never_a_minimum(point, 1e-6)


def _params(net: sf.MLP) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    flat = torch.randn(net.parameter_count, generator=generator, dtype=torch.float64)
    return dict(net.unflatten(flat))


def _never_a_minimum(point: sf.Point, size: float) -> None:
    narrow = sf.certify(point)
    for shares in (["1/2", "1/2"], ["1/4"] * 4, [2, -1]):
        verdict = sf.judge(sf.Replicate(0, 0, shares)(point), proof=True)
        assert verdict.certificate is not None
        assert not any("F = 0" in premise for premise in verdict.certificate.premises)
        assert verdict.kind is not sf.Kind.MINIMUM
        if narrow.certified and size >= 1e-6:
            assert verdict.certainty is sf.Certainty.PROVED
        if verdict.certainty is sf.Certainty.PROVED:
            assert verdict.kind is sf.Kind.STRICT_SADDLE


def test_F_of_a_unit_that_is_not_heard_at_all_is_not_taken_for_0() -> None:
    """One output, ζ = 0: Fᵀζ = 0 says nothing of F."""
    x = torch.linspace(-1.5, 2, 9, dtype=torch.float64)
    net = sf.MLP([1, 1, 1], "tanh", bias=[False, True])
    held = torch.stack([torch.ones(9, dtype=torch.float64), torch.tanh(0.7 * x)], 1)
    basis, _ = torch.linalg.qr(held)
    residual = torch.sin(3 * x)
    for _ in range(3):
        residual = residual - basis @ (basis.mT @ residual)
    params = {"0.weight": [[0.7]], "2.weight": [[0.0]], "2.bias": [0.25]}
    tensors = {key: torch.tensor(value, dtype=torch.float64) for key, value in params.items()}
    point = sf.Point(sf.Problem(net, x[:, None], 0.25 - residual), tensors)
    assert point.gradient_norm < 1e-15
    assert sf.unit_blocks(point, 0, 0).F.abs().max() > 1e-3
    assert sf.certify(point).inertia == (2, 0, 1)
    verdict = sf.judge(sf.Replicate(0, 0, ["1/2", "1/2"])(point), proof=True)
    assert verdict.kind is sf.Kind.STRICT_SADDLE
    assert verdict.certificate is not None
    assert verdict.certainty is sf.Certainty.PROVED
    assert not any("F = 0" in premise for premise in verdict.certificate.premises)


# -- minima of smooth activations -------------------------------------------------------------------


def strict_minimum(
    activation: str, sign: int, widths: Sequence[int], bias: bool | Sequence[bool]
) -> tuple[sf.Point, int]:
    """A strict minimum, and a unit of hidden layer 0 whose G has that definite sign."""
    for seed in range(60):
        point = made(widths, activation, bias=bias, size=0.02, seed=seed)
        if float(torch.linalg.eigvalsh(sf.hessian(point))[0]) < 1e-5:
            continue
        for unit in range(widths[1]):
            values = sign * torch.linalg.eigvalsh(sf.unit_blocks(point, 0, unit).G)
            if float(values.min()) > 1e-4 * float(values.abs().max()):
                return point, unit
    raise AssertionError(f"no strict minimum of {activation} with G of sign {sign}")


DEFINITE = [
    *((name, [1, 1, 1], [False, True]) for name in ("tanh", "sigmoid", "gelu", "sin", "silu")),
    ("tanh", [2, 2, 1], [False, True]),
    ("gelu", [2, 2, 1], [False, True]),
    ("gelu", [1, 1, 1], True),
    ("tanh", [2, 2, 1, 1], [False, True, True]),
]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("activation", "widths", "bias"), DEFINITE)
def test_definite_G_makes_the_minima_of_F19_theorem_11(
    activation: str, widths: list[int], bias: bool | list[bool], sign: int, tmp_path: Path
) -> None:
    """G ≻ 0: all shares positive. G ≺ 0: exactly one, none 0. All else is a saddle, or open at a 0."""
    point, unit = strict_minimum(activation, sign, widths, bias)
    assert sf.certify(point).kind == "STRICT_MINIMUM"
    patterns: list[list[Any]] = [*SHARES, [1.25, "-1/8", "-1/8"], ["1/3"] * 3]
    verdicts = sf.judge_all(
        [sf.Replicate(0, unit, shares)(point) for shares in patterns], proof=True
    )
    D = int(sf.unit_blocks(point, 0, unit).G.shape[0])
    for shares, verdict in zip(patterns, verdicts, strict=True):
        p = sum(Fraction(share) > 0 for share in shares)
        q = sum(Fraction(share) < 0 for share in shares)
        negative = D * (q if sign > 0 else p - 1)
        assert verdict.certificate is not None
        if negative:
            assert verdict.kind is sf.Kind.STRICT_SADDLE, shares
        elif p + q < len(shares):
            assert verdict.certainty is sf.Certainty.MEASURED, shares
            assert verdict.certificate.status == "undecided", shares
            assert verdict.kind is not sf.Kind.STRICT_SADDLE, shares
            continue
        else:
            assert verdict.kind is sf.Kind.MINIMUM, shares
            assert any("Morse–Bott" in premise for premise in verdict.certificate.premises)
        assert verdict.certainty is sf.Certainty.PROVED, shares
        assert any(FIRST_ORDER in premise for premise in verdict.certificate.premises)
        if verdict.certificate.inertia is not None:
            assert verdict.certificate.inertia[2] == negative, shares
        verdict.certificate.save(tmp_path / "definite.json")
        assert sf.verify(tmp_path / "definite.json").ok


def test_minima_in_two_layers_at_once() -> None:
    """G of both definite, whatever their signs: shares on the right side of 0 in each layer."""
    found = 0
    for seed in range(12):
        point = made([1, 1, 1, 1], "tanh", bias=[False, False, True], size=0.02, seed=seed)
        if sf.certify(point).kind != "STRICT_MINIMUM":
            continue
        signs = [float(sf.unit_blocks(point, layer, 0).G) > 0 for layer in (0, 1)]
        shares = [["1/4"] * 4 if sign else [2, "-1/2", "-1/2"] for sign in signs]
        wrong = [[2, "-1/2", "-1/2"] if sign else ["1/4"] * 4 for sign in signs]
        both = sf.Replicate(0, 0, shares[0]) >> sf.Replicate(1, 0, shares[1])
        one = sf.Replicate(0, 0, shares[0]) >> sf.Replicate(1, 0, wrong[1])
        kinds = [sf.judge(each(point), proof=True) for each in (both, one)]
        assert [v.certainty for v in kinds] == [sf.Certainty.PROVED] * 2
        assert [v.kind for v in kinds] == [sf.Kind.MINIMUM, sf.Kind.STRICT_SADDLE]
        found += 1
    assert found >= 3


# -- null units -------------------------------------------------------------------------------------


def test_null_units_whose_slope_only_rounds_to_0_are_heard() -> None:
    """sin, α = π/2 to 53 bits: cos α is 6e-17, not 0, and the inertia is that of any other α."""
    heard = 0
    for label, point in narrow_points():
        if not label.startswith("sin") or not point.problem.net.biases[0]:
            continue
        near = sf.judge(sf.NullUnits(0, [math.pi / 2, -math.pi / 2])(point), proof=True)
        clear = sf.NullUnits(0, [1.5, -1.5])(point)
        assert near.certainty is sf.Certainty.PROVED, label
        assert near.certificate is not None
        other = sf.judge(clear, proof=True).certificate
        assert other is not None
        assert near.certificate.inertia == other.inertia
        inertia, sure = dense_inertia(clear)
        if sure and other.inertia is not None:
            assert other.inertia == inertia, label
            heard += 1
    assert heard >= 3


def test_null_units_at_a_kink_are_undecided_and_dead_ones_keep_a_minimum() -> None:
    point = next(p for label, p in narrow_points() if label.startswith("relu (2, 2, 1)"))
    at_kink = sf.judge(sf.NullUnits(0, [0])(point), proof=True)
    assert at_kink.certainty is sf.Certainty.MEASURED
    assert at_kink.certificate is not None
    assert "kink" in at_kink.certificate.reason
    dead = sf.judge(sf.NullUnits(0, [-1, "-1/1000000"])(point), proof=True)
    assert (dead.kind, dead.certainty) == (sf.Kind.MINIMUM, sf.Certainty.PROVED)
    heard = sf.judge(sf.NullUnits(0, [-1, 1])(point), proof=True)
    assert (heard.kind, heard.certainty) == (sf.Kind.STRICT_SADDLE, sf.Certainty.PROVED)


def test_proofs_do_not_ask_how_many_copies_there_are() -> None:
    point, unit = strict_minimum("tanh", 1, [1, 1, 1], [False, True])
    verdict = sf.judge(sf.Replicate.uniform(0, unit, 10**6)(point), proof=True)
    assert (verdict.kind, verdict.certainty) == (sf.Kind.MINIMUM, sf.Certainty.PROVED)
    assert verdict.inertia is not None
    assert sum(verdict.inertia) == 2 * 10**6 + 1
    assert verdict.inertia.zero == 10**6 - 1


# -- what is not proved -----------------------------------------------------------------------------


TWICE = sf.Replicate(0, 0, ["1/2", "1/2"])
OWN = torch.tensor([[0.3, -0.2, 0.5]], dtype=torch.float64)


@cache
def tanh_minimum() -> sf.Point:
    return next(p for label, p in narrow_points() if label.startswith("tanh (2, 2, 1)"))


@cache
def decayed_minimum() -> sf.Point:
    problem = tanh_minimum().problem.with_weight_decay(0.05)
    return sf.find_critical_point(problem, starts=4, processes=1)


def exact_fit() -> sf.Point:
    """The loss is 0."""
    given = critical_reference([2, 2, 1], "tanh", size=0.05, seed=0)
    net = sf.MLP([2, 2, 1], "tanh")
    return sf.Point(sf.Problem(net, given.X, given.outputs(given.vector)), given.params)


OPEN: dict[str, tuple[Callable[[], sf.Point], str]] = {
    "inactive units": (lambda: sf.InactiveUnits(0, 2)(tanh_minimum()), "weights of their own"),
    "inactive propagation": (
        lambda: sf.InactivePropagation(0, OWN)(exact_fit()),
        "weights of their own",
    ),
    "offsets": (
        lambda: sf.Replicate(0, 0, [0.5, 0.5], offsets=[[0.25], [-0.25]])(tanh_minimum()),
        "weights of their own",
    ),
    "compatible": (
        lambda: sf.Compatible.random(tanh_minimum().problem.net, [2, 3, 1], seed=0)(tanh_minimum()),
        "",
    ),
    "degenerate narrow point": (lambda: TWICE(TWICE(tanh_minimum()).materialize()), "singular"),
    "degenerate point": (lambda: TWICE(tanh_minimum()).materialize(), "singular"),
}


@pytest.mark.parametrize("name", OPEN)
def test_where_no_proof_is_known_the_verdict_is_measured_and_says_why(name: str) -> None:
    make, why = OPEN[name]
    point = make()
    verdict, measured = sf.judge(point, proof=True), sf.judge(point)
    assert measured.kind is not sf.Kind.NOT_CRITICAL
    assert (verdict.kind, verdict.inertia) == (measured.kind, measured.inertia)
    assert verdict.certainty is sf.Certainty.MEASURED
    assert verdict.certificate is not None
    assert verdict.certificate.status == "undecided"
    assert why in verdict.certificate.reason
    assert verdict.reason.startswith(measured.reason)
    assert verdict.certificate.reason in verdict.reason
    assert "\n" not in verdict.reason
    assert (measured.certificate, verdict.at_least) == (None, measured.at_least)


def test_with_weight_decay_a_wide_point_is_proved_as_the_plain_point_it_is() -> None:
    """Copies do not keep criticality then, an order of the units does; no theorem is used."""
    wide = sf.judge(TWICE(decayed_minimum()), proof=True)
    assert (wide.kind, wide.certainty) == (sf.Kind.NOT_CRITICAL, sf.Certainty.PROVED)
    turned = sf.judge(sf.Permute(0, [1, 0])(decayed_minimum()), proof=True)
    assert (turned.kind, turned.certainty) == (sf.Kind.STRICT_MINIMUM, sf.Certainty.PROVED)
    assert turned.certificate is not None
    assert turned.certificate.theorem is None
    # y is centred, and mean xy = (1, 0): at θ = 0 the Hessian has the eigenvalues decay ± 1 and decay.
    X, y = [[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]], [1.0, -1.0, 1.0, -1.0]
    net = sf.MLP([2, 2, 1], "tanh")
    zero = net.unflatten(torch.zeros(net.parameter_count, dtype=torch.float64))
    nothing = sf.judge(TWICE(sf.Point(sf.Problem(net, X, y, weight_decay=1.0), zero)), proof=True)
    assert nothing.kind is not sf.Kind.NOT_CRITICAL
    assert nothing.certainty is sf.Certainty.MEASURED
    assert nothing.certificate is not None
    assert nothing.certificate.status == "undecided"
    assert nothing.certificate.reason in nothing.reason


def test_other_embeddings_that_leave_a_critical_point_are_proved_to(tmp_path: Path) -> None:
    moved = [
        sf.InactivePropagation(0, OWN)(tanh_minimum()),
        sf.ConstantUnits(0, torch.tensor([0.4]), torch.tensor([[0.7]]))(tanh_minimum()),
    ]
    for point in moved:
        verdict = sf.judge(point, proof=True)
        assert (verdict.kind, verdict.certainty) == (sf.Kind.NOT_CRITICAL, sf.Certainty.PROVED)
        assert verdict.certificate is not None
        verdict.certificate.save(tmp_path / "moved.json")
        assert sf.verify(tmp_path / "moved.json").ok


# -- not critical, and ways down --------------------------------------------------------------------


def test_random_points_are_proved_not_to_be_critical(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    radii: Counter[float] = Counter()
    for seed in range(24):
        widths = [[2, 2, 1], [2, 3, 1, 1], [3, 2, 2]][seed % 3]
        name = ["tanh", "sigmoid", "gelu", "sin", "relu", "leaky_relu"][seed % 6]
        loss = "cross_entropy" if widths[-1] == 2 and seed % 2 else "squared"
        problem = noisy(widths, name, seed, loss)
        point = sf.Point(problem, problem.net.random_params(seed))
        wide = sf.Replicate(0, 1, [2, -1])(point)
        for each in (point, wide):
            verdict = sf.judge(each, proof=True)
            assert verdict.kind is sf.Kind.NOT_CRITICAL
            assert verdict.certainty is sf.Certainty.PROVED
            certificate = verdict.certificate
            assert certificate is not None
            certificate.save(tmp_path / "slope.json")
            assert sf.verify(tmp_path / "slope.json").ok
            radius = float.fromhex(certificate.document["radius"])
            least = float.fromhex(certificate.proved["gradient_at_least"])
            radii[radius] += 1
            flat = each.problem.net.flatten(each.params)
            for _ in range(5):
                sign = torch.randint(0, 2, flat.shape, generator=generator) * 2 - 1
                corner = sf.Point(each.problem, each.problem.net.unflatten(flat + radius * sign))
                assert corner.gradient_norm >= least
    assert radii[1e-3] >= 10, radii


def saddles() -> list[tuple[str, sf.Point, sf.Verdict]]:
    """Strict saddles, narrow and wide, one of each label."""
    narrow = [(label, point) for label, point in narrow_points() if "made" in label]
    verdicts = sf.judge_all([point for _, point in narrow])
    plain = [(*each, v) for each, v in zip(narrow, verdicts, strict=True)]
    wide = [(label, point, verdict) for label, point, verdict, _ in proved_cases()[::25]]
    return [each for each in plain + wide if each[2].kind is sf.Kind.STRICT_SADDLE]


def test_the_way_down_from_a_strict_saddle_is_certified(tmp_path: Path) -> None:
    down = up = 0
    for label, point, verdict in saddles():
        direction = verdict.descent_direction
        if direction is None:  # the proof knows a saddle that was not measured as one
            continue
        assert verdict.curvature is not None
        net, curvature = point.problem.net, -verdict.curvature
        if curvature < 1e-6:
            continue
        step = 1e-3 * min(1.0, curvature)
        for sign in (1, -1):
            certificate = sf.certify_descent(point, direction, sign * step)
            assert certificate.certified, f"{label}: {certificate}"
            assert certificate.kind == "DESCENT"
            drop = float.fromhex(certificate.proved["drop_at_least"])
            assert drop == pytest.approx(curvature * step**2 / 2, rel=0.5), label
        certificate.save(tmp_path / "descent.json")
        assert sf.verify(tmp_path / "descent.json").ok
        down += 1
        values, vectors = torch.linalg.eigh(sf.hessian(point))
        if values[-1] > 1e-3:
            steepest = net.unflatten(vectors[:, -1])
            upwards = sf.certify_descent(point, steepest, 1e-4)
            assert upwards.status == "undecided", label
            assert "is not proved to be above 0" in upwards.reason
            up += 1
    assert down >= 30
    assert up >= 30


def test_no_way_leads_down_from_a_proved_minimum() -> None:
    generator = torch.Generator().manual_seed(1)
    tried = 0
    for label, point, verdict, _ in proved_cases():
        if verdict.kind is not sf.Kind.MINIMUM or tried >= 40:
            continue
        net = point.problem.net
        direction = torch.randn(net.parameter_count, generator=generator, dtype=torch.float64)
        for step in (1e-3, -1e-3):
            certificate = sf.certify_descent(point, net.unflatten(direction), step)
            assert certificate.status == "undecided", label
        tried += 1
    assert tried == 40
