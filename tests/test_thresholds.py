"""The thresholds that verdicts, statuses and counts rest on: what moving one of them would break."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import known
import semiflat as sf
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.evidence import (
    EPS,
    Evidence,
    OnData,
    roundings,
    settles_penalty,
    symmetric_spectrum,
)
from semiflat.reduction.twins import twins
from semiflat.search.methods import LevenbergMarquardt
from semiflat.symmetries.flatness import flatness, held_against_kernel
from semiflat.verdicts.plain import counts, judge_plain

ACTIVATIONS = ["tanh", "sin", "gelu", "sigmoid", "softplus", "silu", "relu"]


def drawn(seed: int) -> sf.Point:
    """Two hidden layers at parameters so large that what rounding does differs much by eigenvalue."""
    generator = torch.Generator().manual_seed(seed)
    kinds = [ACTIVATIONS[seed % 7], ACTIVATIONS[seed // 7 % 7]]
    net = sf.MLP([2, 3, 3, 1], kinds)
    X = 5 * torch.randn((20, 2), generator=generator).double()
    problem = sf.Problem(net, X, torch.randn((20, 1), generator=generator).double())
    return sf.Point(problem, net.random_params(seed, scale=[1.0, 3.0, 6.0][seed % 3]))


def rounded_otherwise(vector: Tensor, seed: int) -> Tensor:
    signs = torch.randint(0, 2, (3, *vector.shape), generator=torch.Generator().manual_seed(seed))
    return vector * (1 + 2 * EPS * (2 * signs.double() - 1))


def test_another_rounding_of_the_parameters_moves_no_eigenvalue_by_more_than_its_floor() -> None:
    """Nor are floors higher than it takes: at half the points one is no 30 times what a rounding does."""
    ratios = []
    for seed in range(70):
        point = drawn(seed)
        net = point.problem.net
        theta = net.flatten(point.params)
        vectors = torch.cat([theta[None], roundings(theta), rounded_otherwise(theta, seed)])
        hessians = risk_gradient_hessian(point.problem, net.unflatten(vectors))[2]
        spectrum = symmetric_spectrum(list(hessians[:-3]))
        change = (torch.linalg.eigvalsh(hessians[-3:]) - spectrum.values).abs().amax(0)
        ratios.append(float((spectrum.floor / change.clamp(min=1e-300)).min()))
    assert min(ratios) > 1
    assert sorted(ratios)[35] < 30


def test_how_far_the_critical_point_is_leaves_the_inertia_at_the_point_as_it_is() -> None:
    """A long Newton step hides what the critical point's inertia is, and the verdict says undecided."""
    undecided = near = 0
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        X = torch.randn((12, 2), generator=generator).double()
        if seed % 2:  # inputs that are nearly one make eigenvalues far below the largest
            X[:, 1] = X[:, 0] + 5e-4 * X[:, 1]
        net = sf.MLP([2, 1 + seed % 2, 1], ACTIVATIONS[seed % 6])
        problem = sf.Problem(net, X, torch.randn((12, 1), generator=generator).double())
        point = sf.Point(problem, net.random_params(seed))
        values = torch.linalg.eigvalsh(sf.hessian(point))
        smallest = float(values.abs().min() / values.abs().max())
        if smallest < 2e-10:
            continue
        verdict = sf.judge(point, tolerance=10.0)
        assert verdict.inertia == (int((values > 0).sum()), 0, int((values < 0).sum()))
        undecided += verdict.kind is sf.Kind.UNDECIDED
        near += smallest < 1e-8
    assert undecided >= 3
    assert near >= 3


def degenerate_with_an_unheard_unit(
    seed: int, pull: float | None = None, part: float = 1.0
) -> sf.Point:
    """A critical point with one zero eigenvalue that no symmetry explains, tilted by an unheard unit.

    Args:
        seed: of all that is drawn.
        pull: how much of the residuals acts through the unheard unit, in parts of them; if not given, what
            is drawn.
        part: of the size at which the eigenvalue is zero.

    The residuals δ are such that ∇R = 0 whatever their size; the size is that at which the first unit's
    Hessian ``J Jᵀ + s S`` becomes singular. With F ≠ 0 at the unheard second unit, the kernel's vector
    moves that unit, too.
    """
    x = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    net = sf.MLP([1, 2, 1], "tanh")
    params = net.random_params(seed, scale=1.5)
    params["2.weight"][0, 1] = 0
    h = torch.tanh(x @ params["0.weight"].mT + params["0.bias"])
    slope = (1 - h**2)[:, :1]
    v = params["2.weight"][0, 0]
    jacobian = torch.cat([v * slope * x, v * slope, h[:, :1], torch.ones_like(x)], 1)
    basis = torch.linalg.qr(torch.cat([jacobian, h[:, 1:]], 1)).Q
    draw = torch.randn((20, 1), generator=torch.Generator().manual_seed(seed)).double()
    if pull is not None:
        felt = (1 - h**2)[:, 1:]
        unheard = torch.linalg.qr(torch.cat([basis, felt, felt * x], 1)).Q[:, -2:]
        basis = torch.cat([basis, unheard], 1)
    for _ in range(2):
        draw = draw - basis @ (basis.mT @ draw)
    if pull is not None:
        draw = draw + pull * torch.linalg.vector_norm(draw) * unheard.sum(1, keepdim=True)
    bent = v * (-2 * h[:, :1] * slope) * draw
    fed = torch.cat([x, torch.ones_like(x)], 1)
    curved = torch.zeros(4, 4).double()
    curved[:2, :2] = fed.mT @ (bent * fed)
    root = torch.linalg.inv(torch.linalg.cholesky(jacobian.mT @ jacobian))
    size = -part / torch.linalg.eigvalsh(root @ curved @ root.mT)[0]
    return sf.Point(sf.Problem(net, x, net.forward(params, x) - size * draw), params)


def test_a_way_down_counts_if_it_is_steeper_than_what_hides_the_critical_point_is_far() -> None:
    """In natural units: so far along an eigenvalue that rounding hides, and so much below zero."""
    below, above, alone = [], [], []
    for seed in (0, 2, 4, 9):
        for part in (1.0, 0.5):
            for pull in torch.logspace(-4, 0, 33).tolist():
                point = degenerate_with_an_unheard_unit(seed, pull, part)
                verdict, evidence = sf.judge(point), Evidence(point, 1e-10)
                assert verdict.inertia.negative
                hessian, sizes = sf.hessian(point), evidence.on_data.natural
                own = sizes.unit[:, None] * hessian * sizes.unit
                values, vectors = torch.linalg.eigh(own)
                steep = -float(values[0])
                kernel = vectors[:, values.abs() < 1e-12]
                kernel[[1, 3]] = 0  # the incoming weights of the unheard unit: flat directions
                if not kernel.numel() or torch.linalg.matrix_norm(kernel, ord=2) < 0.5:
                    assert verdict.kind is sf.Kind.STRICT_SADDLE
                    alone.append(steep)
                    continue
                way = torch.linalg.svd(kernel, full_matrices=False)[0][:, 0]
                noise = float((way * sizes.unit * sizes.noise).norm())
                slope = abs(float(way @ (sizes.unit * sf.gradient(point)))) + noise
                hidden = max(
                    abs(float(way @ own @ way)), float(evidence.natural_spectrum.noise.min())
                )
                far = float((way * sizes.unit / sizes.step).abs().max()) * slope / hidden
                (below if verdict.kind is sf.Kind.UNDECIDED else above).append(steep / far)
    assert 0.3 < max(below) < 1.2
    assert 0.8 < min(above) < 3
    assert min(alone) < 1e-7


def test_beside_a_minimum_of_a_linear_network_nothing_leads_down() -> None:
    """Along its flat directions the distance to it makes curvature, of either sign."""
    x = torch.linspace(-2, 2, 15, dtype=torch.float64)[:, None]
    y = (x[:, 0] + 1.5 * torch.sin(5 * x[:, 0]) > 0).double()
    line = sf.find_critical_point(sf.Problem(sf.MLP([1, 1]), x, y, loss="logistic"))
    slope, shift = float(line.params["0.weight"]), float(line.params["0.bias"])
    net = sf.MLP([1, 2, 2, 1], "identity")
    problem = sf.Problem(net, x, y, loss="logistic")
    for seed in range(60):
        params = net.random_params(seed)
        ends = torch.tensor([[0.0], [1.0]]).double()
        params["4.bias"] = torch.zeros(1).double()
        one, two = net.forward(params, ends)[:, 0]
        params["4.weight"] = params["4.weight"] * slope / (two - one)
        params["4.bias"] = (shift - net.forward(params, ends)[:1, 0]).double()
        draw = torch.randn(
            net.parameter_count, generator=torch.Generator().manual_seed(seed)
        ).double()
        moved = net.flatten(params) + 3e-11 * 10 ** (seed % 3) * draw
        verdict = sf.judge(sf.Point(problem, net.unflatten(moved)))
        assert verdict.kind is not sf.Kind.STRICT_SADDLE, (seed, verdict)


def test_from_half_a_natural_unit_on_no_way_down_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However steep it is: 0.5 is where outputs change by half of what there is to fit."""
    point = degenerate_with_an_unheard_unit(0, 0.1)
    evidence = Evidence(point, 1e-10)
    flat = flatness(evidence)
    assert not bool(evidence.spectrum.decided.all())
    for far, steep, expected in ((0.4, 3.0, True), (0.6, 3.0, False), (0.4, 0.3, False)):
        monkeypatch.setattr(Evidence, "farthest", lambda *_, far=far: far)
        assert counts(evidence, flat, steep) is expected


def test_a_penalty_is_balanced_where_little_of_its_own_gradient_is_left() -> None:
    """A thousandth part of it: more would be that of a point which it is still to move a long way."""
    plain = drawn(1).problem
    problem = sf.Problem(plain.net, plain.X, plain.y, weight_decay=1e-2)
    params = plain.net.random_params(3)
    data, theta = OnData(problem, params), plain.net.flatten(params)
    for part, balanced in ((1e-4, True), (5e-4, True), (3e-3, False), (3e-2, False)):
        assert (
            settles_penalty(data, part * 1e-2 * theta.abs().max() * torch.ones_like(theta))
            is balanced
        )


def test_a_zero_eigenvalue_is_explained_by_a_family_that_holds_its_direction_and_no_less() -> None:
    tilted = 0
    for seed in range(20):
        point = degenerate_with_an_unheard_unit(seed)
        verdict = sf.judge(point)
        if verdict.inertia.zero != 2:
            continue
        values, vectors = torch.linalg.eigh(sf.hessian(point))
        kernel = vectors[:, values.abs().argsort()[:2]]
        family = torch.zeros(7, 2).double()
        family[1, 0] = family[3, 1] = 1
        cosine = float(torch.linalg.svdvals(family.mT @ kernel)[-1])
        tilted += 0.5 < cosine < 1 - 1e-3
        assert verdict.flat_directions.zeros_explained == 1
        assert verdict.flat_directions.zeros_unexplained == 1
    assert tilted >= 3


@pytest.mark.parametrize("activation", ["identity", "tanh"])
@pytest.mark.parametrize("off", [0.0, 1e-13])
@pytest.mark.parametrize("slope", [1e-3, 0.1])
def test_whoever_looks_for_a_minimum_does_not_stay_at_a_strict_saddle(
    activation: str, off: float, slope: float
) -> None:
    """Though the way down is short: from w = v = 0 the loss falls up to wv = slope, and rises beyond."""
    x = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 1, 1], activation, bias=False), x, slope * x)
    start = {key: torch.full((1, 1), off).double() for key in ("0.weight", "2.weight")}
    run = sf.run_search(problem, start=start).runs[0]
    assert run.loss < 1e-6 * float(problem.risk(start))


def test_what_a_bent_step_leaves_of_small_residuals_falls_with_their_cube() -> None:
    """A straight Gauss–Newton step leaves what falls with their square; so does one bent wrongly."""
    generator = torch.Generator().manual_seed(0)
    method, net = LevenbergMarquardt(), sf.MLP([2, 3, 1], "tanh")
    x, wanted = (torch.randn((3, width), generator=generator).double() for width in (2, 1))
    params = net.random_params(0, (1,))
    theta, left = net.flatten(params), []
    for size in (4e-3, 2e-3):
        problem = sf.Problem(net, x, net.forward(params, x)[0] + size * wanted)
        gradient = risk_gradient(problem, params)[1]
        undamped = torch.tensor([[1e-14, 2.0]]).double()
        step = method.step(problem, theta, gradient, method.local(problem, theta), undamped)
        after = net.forward(net.unflatten(theta + step.move), x)[0]
        left.append(float(torch.linalg.vector_norm(after - problem.y)))
    assert left[0] / left[1] == pytest.approx(8, rel=0.05)


@pytest.mark.parametrize("size", [1.0, 1e4, 1e8])
def test_tangents_that_are_zero_but_for_rounding_have_rank_0_however_large_the_weights(
    size: float,
) -> None:
    problem = sf.Problem(
        sf.MLP([1, 1, 2, 1], ["sin", "sigmoid"]), [[-1.0], [0.2], [0.7]], [0.1, 0.5, -0.2]
    )
    params = problem.net.random_params(seed=1)
    params["2.weight"] *= size
    plain = sf.NullUnits(0, [1.0])(sf.Point(problem, params)).materialize()
    embedding = sf.Compatible.random(
        plain.problem.net, [1, 3, 2, 1], index_map=[[0, 1, 1], [0, 1]], seed=0
    )
    assert embedding.tangent_rank(plain) == 0


@pytest.mark.parametrize(("layer", "all_of_them"), [(1.0, 1.0), (1e-10, 1.0), (1.0, 1e-13)])
def test_tangents_that_are_small_but_not_zero_count(layer: float, all_of_them: float) -> None:
    problem = sf.Problem(sf.MLP([1, 2, 2, 1], "tanh"), [[-1.0], [0.2], [0.7]], [0.1, 0.5, -0.2])
    params = {key: all_of_them * value for key, value in problem.net.random_params(1).items()}
    params["2.weight"] *= layer
    embedding = sf.Compatible.random(
        problem.net, [1, 3, 3, 1], seed=0, index_map=[[0, 1, 1], [0, 1, 0]]
    )
    rank = embedding.tangent_rank(sf.Point(problem, params))
    assert rank == embedding.degrees_of_freedom(problem.net)


def test_a_flat_family_that_the_hessian_contradicts_makes_no_minimum() -> None:
    """The right number of directions is not enough: their curvature must be nothing but rounding."""
    case = known.linear(2, 2, bias=True)
    problem = sf.Problem(sf.MLP([2, 2, 2], "identity"), case.X, case.y)
    point = sf.Point(problem, case.point(case.critical()[0].subset, seed=0))
    evidence = Evidence(point, 1e-10)
    flat = flatness(evidence)
    assert judge_plain(evidence, flat).kind is sf.Kind.MINIMUM
    stiff = evidence.spectrum.vectors[:, -1:]
    family = next(family for family in flat.families if family.joint and not family.affine)
    for tilt in (1e-8, 1.0):
        tangents = evidence.unit * (flat.joint + tilt * stiff).mT
        wrong = held_against_kernel(
            evidence.spectrum, evidence.unit, [replace(family, tangents=tangents)]
        )
        assert wrong.joint.shape == flat.joint.shape
        verdict = judge_plain(evidence, wrong)
        assert verdict.kind is sf.Kind.UNDECIDED
        assert "contradict" in verdict.reason


def test_rows_of_zeros_are_twins_of_each_other_and_of_nothing_else() -> None:
    rows = np.array([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [2.0, 4.0], [1.0, 0.0]])
    leader, scale = twins(rows, abs(rows), 1e-14, reflect=False, homogeneous=True)
    assert leader.tolist() == [0, 1, 0, 1, 4]
    assert scale.tolist() == [1.0, 1.0, 1.0, 2.0, 1.0]


def test_two_rows_may_be_twins() -> None:
    rows = np.array([[1.0, 2.0], [1.0, 2.0]])
    leader, _ = twins(rows, abs(rows), 1e-14, reflect=False, homogeneous=False)
    assert leader.tolist() == [0, 0]


def test_how_far_a_newton_step_goes_is_known_and_a_long_one_leaves_the_point_undecided() -> None:
    """Up to a hundredth of a natural unit; a gradient that is allowed by the tolerance does not save it."""
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        X, y = (torch.randn((12, width), generator=generator).double() for width in (3, 1))
        problem = sf.Problem(
            sf.MLP([3, 1]), X @ torch.diag(torch.logspace(0, -seed, 3).double()), y
        )
        best = sf.find_critical_point(problem)
        there = problem.net.flatten(best.params)
        natural = Evidence(best, 1e-10).on_data.natural
        vectors = torch.linalg.eigh(natural.unit[:, None] * sf.hessian(best) * natural.unit)[1]
        for length in (3e-3, 8e-3, 1.2e-2, 3e-2):
            for vector in vectors.mT:
                parts = natural.unit * vector / natural.step
                moved = there + length * natural.unit * vector / parts.abs().max()
                point = sf.Point(problem, problem.net.unflatten(moved))
                assert Evidence(point, 10.0).distance == pytest.approx(length, rel=0.1)
                verdict = sf.judge(point, tolerance=10.0)
                assert verdict.kind is sf.Kind.UNDECIDED
                assert ("natural units or more" in verdict.reason) is (length > 1e-2)
                assert sf.judge(point).kind is sf.Kind.NOT_CRITICAL
