"""Where a dense Hessian is dear, or too much: products in closed form, and what rests on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from helpers import point_of
from reference import ACTIVATIONS, LOSSES, random_reference
from semiflat import costs
from semiflat.curvature import products
from semiflat.curvature.factors import LayerFactors
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.newton_steps import newton_step
from semiflat.curvature.products import HessianProducts, hessian_products
from semiflat.evidence import Unbuilt, derivatives
from semiflat.evidence.spectrum import spectrum_by_products, symmetric_spectrum
from semiflat.search import large
from semiflat.verdicts.lanczos import lowest_ritz


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# -- products -------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_products_equal_those_of_automatic_differentiation(
    activation: str, loss: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hidden, bias, kept in (([4], True, True), ([3, 4], False, False), ([3, 2, 3], True, True)):
        monkeypatch.setattr(products, "KEPT_BYTES", 2**30 if kept else 0)
        outputs = 1 if loss == "logistic" else 3
        ref = random_reference([2, *hidden, outputs], activation, loss, bias, 6, seed=len(hidden))
        point = point_of(ref)
        H, directions = ref.hessian(), normal(5, len(ref.gradient()))
        size = float(H.abs().max())
        found = hessian_products(point.problem, point.params, directions)
        assert float((found - directions @ H).abs().max()) <= 1e-12 * max(size, 1.0)
        one = sf.hessian_operator(point).product(directions[0])
        assert float((one - directions[0] @ H).abs().max()) <= 1e-12 * max(size, 1.0)


def test_products_of_a_batch_with_decay_and_weights_are_each_network_s_own() -> None:
    X, y = normal(7, 3), normal(7, 2, seed=1)
    problem = sf.Problem(
        sf.MLP([3, 4, 2], "gelu"), X, y, weight_decay=0.3, sample_weight=torch.arange(1.0, 8.0)
    )
    params = problem.net.random_params(0, (3,))
    H = risk_gradient_hessian(problem, params)[2]
    directions = normal(3, problem.net.parameter_count, seed=2)
    found = hessian_products(problem, params, directions)
    assert torch.allclose(found, (H @ directions[..., None])[..., 0], rtol=0, atol=1e-12)


# -- floors from products -------------------------------------------------------------------------


@pytest.mark.parametrize("zeros", [0, 5])
@pytest.mark.parametrize("size", [1e-13, 1e-9, 1e-4])
def test_floors_from_products_cover_what_a_neighbour_changes(size: float, zeros: int) -> None:
    """And those of eigenvalues in doubt are hardly higher than floors from the neighbours' own spectra."""
    count = 40
    turn = torch.linalg.qr(normal(count, count))[0]
    values = torch.logspace(-12, 1, count).double() * torch.where(normal(count) < 0, -1.0, 1.0)
    values[:zeros] = 0.0
    H = (turn * values) @ turn.mT
    off = [size * normal(count, count, seed=k + 1) / count for k in range(4)]
    neighbours = [H + (E + E.mT) / 2 for E in off]
    found = spectrum_by_products(H, [partial(torch.matmul, other=N) for N in neighbours])
    plain = symmetric_spectrum([H, *neighbours])
    for N in neighbours:
        assert bool(((torch.linalg.eigvalsh(N) - found.values).abs() <= found.noise).all())
    assert torch.equal(found.decided, plain.decided)
    doubtful = ~plain.decided
    assert bool((found.noise >= 0.9 * plain.noise)[doubtful].all())
    assert bool((found.noise <= 30 * plain.noise)[doubtful].all())


def test_products_that_are_no_numbers_hide_everything() -> None:
    found = spectrum_by_products(torch.eye(3).double(), [lambda v: v * torch.nan] * 4)
    assert bool(found.hidden.all())


def judged(point: sf.Point, monkeypatch: pytest.MonkeyPatch) -> tuple[sf.Verdict, dict[str, int]]:
    """The verdict, and how many Hessians and eigendecompositions of full size it took."""
    counts = {"Hessians": 0, "eigh": 0}
    size = point.problem.net.parameter_count

    def counted(name: str, compute: Callable[..., Any], batch: Callable[..., int]) -> Any:
        def call(*given: Any) -> Any:
            counts[name] += batch(*given)
            return compute(*given)

        return call

    def matrices(matrix: Tensor) -> int:
        return len(matrix.reshape(-1, size, size)) if matrix.shape[-1] == size else 0

    with monkeypatch.context() as patch:
        several = counted(
            "Hessians",
            derivatives.risk_gradient_hessian,
            lambda problem, params: len(problem.net.flatten(params).reshape(-1, size)),
        )
        patch.setattr(derivatives, "risk_gradient_hessian", several)
        for solver in ("eigh", "eigvalsh"):
            patch.setattr(
                torch.linalg, solver, counted("eigh", getattr(torch.linalg, solver), matrices)
            )
        return sf.judge(sf.Point(point.problem, point.params)), counts


def test_a_verdict_on_some_hundred_parameters_takes_one_hessian_and_one_eigendecomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = normal(60, 20), (normal(60, seed=1) > 0).long()
    problem = sf.Problem(sf.MLP([20, 14, 2], "tanh"), X, y, "cross_entropy", weight_decay=1e-2)
    point = sf.find_critical_point(problem, start=problem.net.random_params(0, scale=0.5))
    assert problem.net.parameter_count == 324
    verdict, counts = judged(point, monkeypatch)
    assert counts == {"Hessians": 1, "eigh": 1}
    monkeypatch.setattr(derivatives, "FEW", 10**9)
    whole, counts = judged(point, monkeypatch)
    assert counts["eigh"] > 4
    assert (verdict.kind, verdict.inertia) == (whole.kind, whole.inertia)
    assert verdict.kind in (sf.Kind.STRICT_MINIMUM, sf.Kind.STRICT_SADDLE)


def test_verdicts_by_products_are_those_by_hessians(monkeypatch: pytest.MonkeyPatch) -> None:
    X = normal(30, 1)
    problem = sf.Problem(sf.MLP([1, 2, 1], "gelu"), X, torch.tanh(2 * X) + 0.2 * normal(30, 1))
    narrow = sf.find_critical_point(problem, starts=4)
    wide = [
        embedding(narrow) for embedding in (sf.Replicate.uniform(0, 0, 3), sf.NullUnits(0, [0.3]))
    ]
    for point in (narrow, *(each.materialize() for each in wide)):
        found = []
        for few in (0, 10**9):
            monkeypatch.setattr(derivatives, "FEW", few)
            found.append(sf.judge(sf.Point(point.problem, point.params)))
        one, other = found
        assert (one.kind, one.inertia) == (other.kind, other.inertia)
        assert one.kind not in (sf.Kind.NOT_CRITICAL, sf.Kind.UNDECIDED)


# -- searches that build no Hessian ---------------------------------------------------------------


def classes(hidden: int = 3, decay: float = 1e-2) -> sf.Problem:
    X = normal(50, 4)
    y = (X[:, 0] + 0.5 * normal(50, seed=1) > 0).long() + (X[:, 1] > 0.5).long()
    net = sf.MLP([4, hidden, 3], "tanh")
    return sf.Problem(net, X, y, "cross_entropy", weight_decay=decay)


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for dense Hessians of up to 10 parameters."""
    monkeypatch.setattr(large, "ROOM", 8 * large.MATRICES * 10**2)


def test_layer_factors_are_the_gauss_newton_blocks_of_one_sample() -> None:
    """With one sample the Kronecker product is exact, and so is what dividing by it gives."""
    net = sf.MLP([3, 4, 2], "gelu")
    problem = sf.Problem(net, normal(1, 3), normal(1, 2, seed=1), weight_decay=0.1)
    params = net.random_params(0)
    factors = LayerFactors.of(HessianProducts(problem, params))
    J = sf.jacobian(sf.Point(problem, params))[0]
    for layer, span in enumerate((slice(0, 16), slice(16, 26))):
        block = J[:, span].mT @ J[:, span]
        softest = 1e-4 * torch.linalg.eigvalsh(block).sum() / len(block) + 0.1
        M = block + softest * torch.eye(len(block)).double()
        v = torch.zeros(26).double()
        v[span] = normal(len(block), seed=layer)
        assert torch.allclose(factors.divide(v)[span], torch.linalg.solve(M, v[span]), atol=1e-9)
        twice = factors.divide(factors.divide(v, 0.5), 0.5)
        assert torch.allclose(twice, factors.divide(v), atol=1e-12)


def test_a_step_is_newton_s_at_a_minimum_and_leaves_a_saddle_along_negative_curvature() -> None:
    problem = classes()
    point = sf.find_critical_point(problem, starts=2)
    net = problem.net
    at = net.flatten(point.params) + 1e-4 * normal(net.parameter_count)
    params = net.unflatten(at)
    there = sf.Point(problem, params)
    products = HessianProducts(problem, params)
    factors, gradient = LayerFactors.of(products), sf.gradient(there)
    move, promised, length = newton_step(products, factors, gradient, radius=1e3)
    exact = torch.linalg.solve(sf.hessian(there), -gradient)
    assert float((move - exact).norm()) <= 0.1 * float(exact.norm())
    assert promised == pytest.approx(float(-gradient @ move - move @ sf.hessian(there) @ move / 2))
    short = newton_step(products, factors, gradient, radius=length / 10)
    assert short[2] == pytest.approx(length / 10)
    assert 0 < short[1] < promised
    zero = net.unflatten(torch.zeros_like(at) + 1e-3 * normal(len(at)))
    saddle = HessianProducts(problem, zero)
    assert float(torch.linalg.eigvalsh(sf.hessian(sf.Point(problem, zero)))[0]) < 0
    slope = 1e-6 * normal(len(at), seed=5)
    move, promised, length = newton_step(saddle, LayerFactors.of(saddle), slope, radius=0.5)
    assert length == pytest.approx(0.5)
    assert float(move @ saddle.times(move)) < 0 < promised


def test_newton_cg_goes_to_critical_points_as_the_trust_region_does() -> None:
    problem = classes()
    found = sf.run_search(problem, starts=4, method="newton_cg", processes=1)
    assert found.counts[sf.Status.CONVERGED] == 4
    assert max(run.gradient_norm for run in found.runs) <= 1e-12
    assert all(run.index == 0 for run in found.runs)
    usual = sf.find_critical_point(problem, starts=1, method="trust_region")
    near = {key: value + 1e-3 for key, value in usual.params.items()}
    polished = sf.find_critical_point(problem, start=near, method="newton_cg")
    assert polished.loss == pytest.approx(usual.loss, rel=1e-12)


def test_where_hessians_do_not_fit_the_search_goes_on_without_and_says_so(no_room: None) -> None:
    problem = classes()
    assert not large.dense(problem.net)
    run = sf.find_critical_point(problem, starts=2)
    assert run.status is sf.Status.CONVERGED
    assert run.index is None
    assert "matrix-free, without the dense Hessians of 27 parameters" in run.record.evidence
    assert "a Newton step goes" in run.record.evidence
    far = sf.run_search(classes(decay=0.0), starts=2, max_iterations=40, processes=1)
    assert far.counts[sf.Status.CONVERGED] == 0
    assert all("matrix-free" in run.record.evidence for run in far.runs)


def test_blocks_hold_as_many_starts_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert large.block(sf.MLP([1, 3, 1])) == 64
    digits = [sf.MLP([64, hidden, 10]) for hidden in (8, 16, 32, 54, 64)]
    assert [large.dense(net) for net in digits] == [True, True, True, True, False]
    assert [large.block(net) for net in digits] == [45, 11, 2, 1, 64]
    assert large.block(digits[4], sf.search.methods.TrustRegion()) == 1
    monkeypatch.setattr(large, "available", lambda: 2**20)
    assert not large.dense(digits[0])


def test_what_takes_long_or_much_memory_is_said() -> None:
    assert costs.Cost(1.0, 2**20).words == ""
    assert costs.Cost(3e4, 2**20).words.startswith("about 8.3 h")
    assert "2.0 GiB" in costs.Cost(1.0, 2**31).words
    X = torch.zeros((5000, 784)).double()
    wide = sf.Problem(sf.MLP([784, 32, 10]), X, torch.zeros(5000).long(), "cross_entropy")
    assert large.forecast(wide, 64).words
    assert not large.forecast(classes(), 64).words


# -- verdicts without a Hessian -------------------------------------------------------------------


def test_bounds_from_below_hold_and_are_said_with_their_probability() -> None:
    for seed in range(20):
        values = normal(300, seed=seed)
        values[0] = -4.0 - seed / 4
        turn = torch.linalg.qr(normal(300, 300, seed=seed))[0]
        H = (turn * values) @ turn.mT
        low = lowest_ritz(H.matmul, 300, steps=60, seed=seed)
        assert low.bound(300) <= float(values.min()) <= low.value + 1e-12
    verdict = sf.judge(sf.find_critical_point(classes(), starts=2), dense_limit=1)
    assert verdict.kind is sf.Kind.UNDECIDED
    assert "no eigenvalue in units of the layers' Gauss–Newton blocks is below" in verdict.reason
    assert "so that all are positive; that is no certainty" in verdict.reason


def test_the_curvature_of_a_direction_has_a_floor_and_a_newton_step_is_exact() -> None:
    problem = classes()
    point = sf.find_critical_point(problem, starts=2)
    near = problem.net.flatten(point.params) + 1e-6
    found = Unbuilt(sf.Point(problem, problem.net.unflatten(near)), 1e-3)
    H = sf.hessian(sf.Point(problem, problem.net.unflatten(near)))
    assert found.step is not None
    assert float((found.step + torch.linalg.solve(H, found.gradient)).norm()) < 1e-9
    v = torch.linalg.eigh(H)[1][:, 0]
    value, floor = found.curvature(v)
    here = float(torch.linalg.eigvalsh(sf.hessian(point))[0])
    assert abs(value - here) <= floor < 1e-4


def test_a_short_newton_step_makes_a_point_critical_whose_gradient_entry_has_small_terms() -> None:
    """A feature that is never there: its weights' gradient is the penalty's alone."""
    problem = classes()
    X = torch.cat([problem.X, torch.zeros(50, 1).double()], 1)
    wide = sf.Problem(sf.MLP([5, 3, 3], "tanh"), X, problem.y, "cross_entropy", weight_decay=1e-2)
    point = sf.find_critical_point(wide, starts=2)
    params = {key: value.clone() for key, value in point.params.items()}
    params["0.weight"][:, 4] = 1e-14
    at = sf.Point(wide, params)
    assert sf.judge(at).kind is sf.Kind.STRICT_MINIMUM
    assert sf.judge(at, dense_limit=1).kind is sf.Kind.UNDECIDED


def test_a_fold_just_past_is_no_saddle_for_lanczos_either():
    """One curvature slightly negative, the slope along it just past the fold: no critical point is left.

    The stiff directions' part of the gradient is a million times larger, and a Newton step found to a part of
    that left the soft one out.
    """
    net = sf.MLP([4, 6, 1], "gelu")
    size = net.parameter_count
    generator = torch.Generator().manual_seed(91)
    X = torch.randn(3 * size, 4, generator=generator, dtype=torch.float64)
    params = net.random_params(seed=91)
    vector, outputs = net.flatten(params), net.forward(params, X)

    def fitted(y):
        return sf.Problem(net, X, y)

    def hessian(y):
        return sf.hessian(sf.Point(fitted(y), params))

    jacobian = sf.jacobian(sf.Point(fitted(outputs), params)).reshape(-1, size)
    residual = torch.randn(3 * size, generator=generator, dtype=torch.float64)
    range_of = torch.linalg.qr(jacobian)[0]
    for _ in range(3):  # residuals for which the point is critical
        residual = residual - range_of @ (range_of.mT @ residual)
    residual = (residual / residual.norm() * (3 * size) ** 0.5)[:, None]
    flat = hessian(outputs)
    change = hessian(outputs + residual) - flat
    low, high = 0.0, 1e-12
    while torch.linalg.eigvalsh(flat + high * change)[0] > 0:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        positive = torch.linalg.eigvalsh(flat + middle * change)[0] > 0
        low, high = (middle, high) if positive else (low, middle)
    top = float(torch.linalg.eigvalsh(flat)[-1])
    soft = torch.linalg.eigh(flat + high * change)[1][:, 0]
    lowest = -1e-9 * top
    scale = high + lowest / float(soft @ change @ soft)

    def curvature(s):
        at = net.unflatten(vector + s * soft)
        return float(soft @ sf.hessian(sf.Point(fitted(outputs + scale * residual), at)) @ soft)

    bend = (curvature(1e-4) - curvature(-1e-4)) / 2e-4
    slope = 3 * lowest**2 / (2 * bend)
    newton = jacobian.mT @ jacobian / (3 * size)
    stiff = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(91))
    stiff = stiff / (newton @ stiff).abs().max() * 1e-10 * top
    along = float(soft @ newton @ soft)
    stiff = stiff - soft * float(soft @ newton @ stiff) / along - soft * slope / along
    problem = fitted(outputs + scale * residual + (jacobian @ stiff)[:, None])
    point = sf.Point(problem, params)
    assert sf.judge(point).kind is sf.Kind.NOT_CRITICAL
    assert sf.judge(point, dense_limit=2).kind in (sf.Kind.NOT_CRITICAL, sf.Kind.UNDECIDED)
