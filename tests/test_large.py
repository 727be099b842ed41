"""Where a dense Hessian is dear, or too much: products in closed form, and what rests on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from helpers import point_of
from reference import ACTIVATIONS, LOSSES, random_reference
from semiflat.curvature import products
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.products import hessian_products
from semiflat.evidence import derivatives
from semiflat.evidence.spectrum import spectrum_by_products, symmetric_spectrum


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
    found = spectrum_by_products(H, [lambda v, N=N: v @ N for N in neighbours])
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
