"""Weight decay: in every derivative and verdict, and what it takes from embeddings.

The reference is automatic differentiation of the risk written out with its penalty; it shares no code
with what it checks.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import semiflat as sf
from helpers import refused
from reference import LOSSES, Reference, cauchy, random_reference
from semiflat.checkpoints import load_point, save_point
from semiflat.cli.app import _run
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.parts import hessian_parts, second_difference
from semiflat.evidence import OnData
from semiflat.limits import Form, Limit, LimitMLP, LimitProblem
from semiflat.modules.operators import module_hessian_operator
from semiflat.problem import ProblemBatch
from semiflat.search import block, run_search
from semiflat.symmetries.families import flat_families

Kind = sf.Kind
DECAY = 0.3


def problem_of(ref: Reference, decay: float = DECAY) -> sf.Problem:
    net = sf.MLP(ref.widths, ref.activation, ref.has_bias)
    loss = cauchy if ref.loss == "cauchy" else ref.loss
    return sf.Problem(net, ref.X, ref.y, loss, weight_decay=decay)


def penalised(ref: Reference, decay: float = DECAY) -> Any:
    """The risk of a flat vector, written out."""
    return lambda vector: ref.risk(vector) + decay * torch.dot(vector, vector) / 2


def dense(point: sf.Point) -> tuple[Tensor, Tensor, Tensor]:
    """Risk, gradient and Hessian of a squared-loss point by torch.func, through the exported module."""
    problem = point.problem
    module = problem.net.to_module(point.params)
    at = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    shapes = {key: p.shape for key, p in module.named_parameters()}

    def risk(vector: Tensor) -> Tensor:
        pieces = vector.split([shape.numel() for shape in shapes.values()])
        params = {k: t.reshape(s) for (k, s), t in zip(shapes.items(), pieces, strict=True)}
        residual = torch.func.functional_call(module, params, (problem.X,)) - problem.y
        data = (residual**2).sum() / (2 * len(problem.X))
        return data + problem.weight_decay * (vector**2).sum() / 2

    return risk(at), torch.func.grad(risk)(at), torch.func.hessian(risk)(at)


def signs(matrix: Tensor, floor: float = 1e-11) -> tuple[int, int, int]:
    values = torch.linalg.eigvalsh(matrix)
    floor *= float(values.abs().max())
    return (
        int((values > floor).sum()),
        int((values.abs() <= floor).sum()),
        int((values < -floor).sum()),
    )


def close(found: Any, expected: Tensor) -> None:
    found = torch.as_tensor(found)
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)


def taught(
    width: int = 2, activation: str = "tanh", decay: float = 1e-3, seed: int = 0
) -> sf.Problem:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(40, 2, generator=generator).double()
    noise = torch.randn(40, 1, generator=generator).double()
    y = torch.sin(2 * X[:, :1]) * X[:, 1:] + 0.1 * noise
    return sf.Problem(sf.MLP([2, width, 1], activation), X, y, weight_decay=decay)


@pytest.fixture(scope="module")
def minimum() -> sf.CriticalPoint:
    """A strict minimum of a tanh network of two units, none of them collapsed."""
    point = sf.find_critical_point(taught(), starts=8)
    assert point.status is sf.Status.CONVERGED
    assert min(float(t.abs().min()) for t in point.params.values()) > 1e-3
    return point


# -- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("hidden", [[], [3], [2, 3, 2]], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_every_derivative_has_the_penalty(loss: str, hidden: list[int], bias: bool) -> None:
    ref = random_reference([2, *hidden, 3], "softplus", loss, bias, seed=len(hidden) + bias)
    problem, risk = problem_of(ref), penalised(ref)
    params, at = ref.params, ref.vector
    value, gradient, hessian = risk(at), torch.func.grad(risk)(at), torch.func.hessian(risk)(at)
    identity = torch.eye(len(at), dtype=torch.float64)

    close(problem.risk(params), value)
    close(problem.penalty(params), DECAY * at.square().sum() / 2)
    for found in (risk_gradient(problem, params), risk_gradient_hessian(problem, params)[:2]):
        close(found[0], value)
        close(found[1], gradient)
    close(risk_gradient_hessian(problem, params)[2], hessian)

    point = sf.Point(problem, params)
    assert point.loss == pytest.approx(float(value), rel=1e-12)
    assert point.gradient_norm == pytest.approx(float(gradient.abs().max()), rel=1e-11)
    operator = sf.hessian_operator(point)
    close(operator.gradient(), gradient)
    close(operator @ np.eye(len(at)), hessian)

    curved = torch.func.vmap(torch.func.hessian(lambda f, y: LOSSES[loss](f[None], y[None])[0]))
    second = curved(ref.outputs(at), ref.y)
    first_part = torch.einsum("nip,nij,njq->pq", ref.jacobian(), second, ref.jacobian()) / len(
        ref.X
    )
    convexly = risk_gradient_gauss_newton(problem, params)
    values, vectors = torch.linalg.eigh(second)  # of a loss that is not convex, the convex part
    convex = vectors @ torch.diag_embed(values.clamp(min=0)) @ vectors.mT
    squares = torch.einsum("nip,nij,njq->pq", ref.jacobian(), convex, ref.jacobian()) / len(ref.X)
    for one, other in zip(convexly, (value, gradient, squares + DECAY * identity), strict=True):
        close(one, other)
    parts = hessian_parts(problem, params)
    close(parts[0], first_part)
    close(parts[0] + parts[1] + DECAY * identity, hessian)

    direction = gradient / gradient.norm()
    curvature = float(direction @ hessian @ direction)
    assert second_difference(problem, at, direction) == pytest.approx(curvature, rel=1e-4)


def test_a_batch_of_networks_has_each_its_own_penalty() -> None:
    ref = random_reference([2, 3, 2], "tanh", "cross_entropy", samples=6, seed=3)
    problem, risk = problem_of(ref), penalised(ref)
    params = problem.net.random_params(1, batch=(3, 2))
    rows = problem.net.flatten(params).reshape(6, -1)
    found = risk_gradient_hessian(problem, params)
    for k, expected in enumerate((risk, torch.func.grad(risk), torch.func.hessian(risk))):
        rowwise = torch.stack([expected(row) for row in rows])
        close(found[k].reshape(rowwise.shape), rowwise)
    close(problem.risk(params), found[0])


def test_a_batch_of_data_sets_has_the_penalty_and_one_decay() -> None:
    refs = [random_reference([2, 3, 2], "gelu", "squared", seed=seed) for seed in (0, 1, 2)]
    batch = ProblemBatch([problem_of(ref) for ref in refs])
    at = torch.stack([ref.vector for ref in refs])
    for problem, chosen in ((batch, refs), (batch.rows(slice(1, 3)), refs[1:])):
        params = problem.net.unflatten(at[-len(chosen) :])
        expected = torch.stack([penalised(ref)(ref.vector) for ref in chosen])
        gradients = torch.stack([torch.func.grad(penalised(ref))(ref.vector) for ref in chosen])
        hessians = torch.stack([torch.func.hessian(penalised(ref))(ref.vector) for ref in chosen])
        close(problem.risk(params), expected)
        risk, gradient, hessian = risk_gradient_hessian(problem, params)
        for found, right in ((risk, expected), (gradient, gradients), (hessian, hessians)):
            close(found, right)
        close(risk_gradient_gauss_newton(problem, params)[1], gradients)
    with refused("must agree in weight decay: problem 0 has 0.3, problem 1 has 0.0"):
        ProblemBatch([problem_of(refs[0]), problem_of(refs[1], 0.0)])


def test_any_module_takes_a_weight_decay_on_what_is_trained() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()
    module[0].bias.requires_grad_(False)
    X, y = torch.randn(5, 2).double(), torch.randn(5, 2).double()
    H = module_hessian_operator(module, X, y, weight_decay=DECAY)
    trained = {k: p.detach() for k, p in module.named_parameters() if p.requires_grad}

    def risk(params: dict[str, Tensor]) -> Tensor:
        out = torch.func.functional_call(module, params, (X,))
        return ((out - y) ** 2).sum() / 10 + DECAY / 2 * sum((p**2).sum() for p in params.values())

    gradient = torch.func.grad(risk)(trained)
    close(H.gradient(), torch.cat([g.reshape(-1) for g in gradient.values()]))
    blocks = torch.func.hessian(risk)(trained)
    rows = [
        torch.cat([blocks[a][b].reshape(trained[a].numel(), -1) for b in trained], 1)
        for a in trained
    ]
    close(H @ np.eye(len(H.gradient())), torch.cat(rows))
    with refused("weight_decay must be a finite number"):
        module_hessian_operator(module, X, y, weight_decay=-1)


def test_it_is_the_weight_decay_of_torch_optimisers() -> None:
    ref = random_reference([2, 3, 1], "tanh", "squared", seed=5)
    problem = problem_of(ref)
    module = problem.net.to_module(ref.params)
    optimiser = torch.optim.SGD(module.parameters(), lr=0.01, weight_decay=DECAY)
    (((module(ref.X) - ref.y) ** 2).sum(1).mean() / 2).backward()
    optimiser.step()
    moved = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    close(ref.vector - 0.01 * sf.gradient(sf.Point(problem, ref.params)), moved)


def test_blocks_are_of_the_data_alone() -> None:
    ref = random_reference([2, 3, 2], "tanh", "squared", seed=6)
    point = sf.Point(problem_of(ref), ref.params)
    close(sf.unit_blocks(point, 0, 1).K, ref.K(0, 1))
    close(sf.layer_block(point, 0), ref.F_null(0))


# -- the problem ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given", [-1e-9, math.nan, math.inf, "0.1", None, True, [0.1], 1j, np.bool_(True)], ids=repr
)
def test_a_weight_decay_that_is_none_is_refused(given: Any) -> None:
    with refused("weight_decay must be a finite number from 0 up"):
        sf.Problem(sf.MLP([1, 1]), [[0.0]], [0.0], weight_decay=given)
    with refused("given is"):
        sf.Problem(sf.MLP([1, 1]), [[0.0]], [0.0]).with_weight_decay(given)


def test_it_goes_where_the_problem_goes() -> None:
    problem = sf.Problem(sf.MLP([1, 1]), [[0.0]], [1.0], weight_decay=np.float32(0.25))
    assert type(problem.weight_decay) is float
    assert problem.with_net(sf.MLP([1, 4, 1])).weight_decay == 0.25
    assert repr(problem).endswith("samples=1, weight_decay=0.25)")
    without = problem.with_weight_decay(0)
    assert repr(without).endswith("samples=1)")
    assert (problem.weight_decay, without.weight_decay) == (0.25, 0.0)
    assert problem.data_hash == without.data_hash
    assert sf.Problem(sf.MLP([1, 1]), [[0.0]], [1.0]).weight_decay == 0.0


def test_below_which_risk_nothing_is_critical() -> None:
    X, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    problem = sf.Problem(sf.MLP([1, 1]), X, y, "logistic")
    assert problem.no_critical_point_below == pytest.approx(math.log(2) / 4)
    assert problem.with_weight_decay(1e-3).no_critical_point_below == -math.inf
    batch = ProblemBatch([problem.with_weight_decay(1e-3)] * 2)
    assert batch.no_critical_point_below == -math.inf


# -- known solutions ------------------------------------------------------------------------------


@pytest.mark.parametrize("decay", [1e-4, 0.1, 10.0])
def test_a_linear_network_is_ridge_regression(decay: float) -> None:
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(30, 3, generator=generator).double()
    y = torch.randn(30, 2, generator=generator).double()
    point = sf.find_critical_point(
        sf.Problem(sf.MLP([3, 2]), X, y, weight_decay=decay), starts=2, seed=0
    )
    fed = torch.cat([X, torch.ones(30, 1).double()], 1)
    normal = fed.T @ fed / 30 + decay * torch.eye(4).double()
    solution = torch.linalg.solve(normal, fed.T @ y / 30)
    assert point.status is sf.Status.CONVERGED
    close(torch.cat([point.params["0.weight"], point.params["0.bias"][:, None]], 1), solution.T)
    verdict = sf.judge(point)
    assert verdict.kind is Kind.STRICT_MINIMUM
    assert verdict.inertia == (8, 0, 0)
    found = torch.linalg.eigvalsh(sf.hessian(point))
    close(found, torch.linalg.eigvalsh(normal).repeat_interleave(2))


def test_directions_that_change_no_output_curve_by_the_decay() -> None:
    """Two equal columns: a flat direction without decay, curvature λ with it."""
    x = torch.linspace(-1, 1, 9).double()[:, None]
    X, y = torch.cat([x, x], 1), torch.sin(x)
    free = sf.find_critical_point(sf.Problem(sf.MLP([2, 1]), X, y), starts=2)
    assert sf.judge(free).kind is Kind.MINIMUM
    point = sf.find_critical_point(free.problem.with_weight_decay(0.01), starts=2)
    verdict = sf.judge(point)
    assert verdict.kind is Kind.STRICT_MINIMUM
    assert verdict.flat_directions.families == ()
    assert verdict.margin.eigenvalue == pytest.approx(0.01, rel=1e-9)


def test_one_linear_unit_has_equal_weights_in_and_out() -> None:
    """R = ½ mean (vux − y)² + ½λ(u² + v²): vu = (mean xy − λ)/mean x², |u| = |v|; or 0 beyond."""
    x = torch.linspace(0.5, 2, 8).double()[:, None]
    square, cross = float((x * x).mean()), float((x * (1.5 * x)).mean())
    net = sf.MLP([1, 1, 1], "identity", bias=False)
    for decay in (0.1, 1.5 * cross):
        point = sf.find_critical_point(sf.Problem(net, x, 1.5 * x, weight_decay=decay), starts=4)
        assert point.status is sf.Status.CONVERGED
        u, v = float(point.params["0.weight"]), float(point.params["2.weight"])
        assert abs(u) == pytest.approx(abs(v), abs=1e-10)
        assert u * v == pytest.approx(max(0.0, (cross - decay) / square), abs=1e-10)
        assert sf.judge(point).kind is Kind.STRICT_MINIMUM


# -- the one family that stays flat ---------------------------------------------------------------


def turned(problem: sf.Problem, params: dict[str, Tensor], angle: float) -> dict[str, Tensor]:
    """The two hidden units rotated into each other: W → QW, V → VQᵀ."""
    c, s = math.cos(angle), math.sin(angle)
    Q = torch.tensor([[c, -s], [s, c]], dtype=torch.float64)
    return {"0.weight": Q @ params["0.weight"], "2.weight": params["2.weight"] @ Q.T}


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_rotations_of_linear_units_stay_flat(activation: str) -> None:
    generator = torch.Generator().manual_seed(2)
    inputs, outputs = (2, 2) if activation == "identity" else (1, 1)
    X = torch.rand(20, inputs, generator=generator).double() + 0.5
    X = X if activation == "relu" else X - X.mean(0)
    y = X @ torch.tensor([[2.0, 0.5], [-0.5, 1.0]]).double()[:inputs, :outputs]
    net = sf.MLP([inputs, 2, outputs], activation, bias=False)
    problem = sf.Problem(net, X, y, weight_decay=1e-3)
    start = {
        "0.weight": torch.tensor([[1.0, 0.1], [0.3, 0.8]]).double()[:, :inputs],
        "2.weight": torch.tensor([[1.0, 0.2], [-0.1, 0.7]]).double()[:outputs],
    }
    point: sf.Point = sf.find_critical_point(
        problem, start={k: t.clone() for k, t in start.items()}
    )
    if activation == "relu":  # both units on for every sample, so that relu is linear
        value = math.sqrt(float(problem.y.mean() / X.mean()))
        one = sf.Problem(sf.MLP([1, 1, 1], "relu", bias=False), X, y, weight_decay=1e-3)
        first = {"0.weight": torch.tensor([[value]]), "2.weight": torch.tensor([[value]])}
        narrow = sf.find_critical_point(one, start={k: t.double() for k, t in first.items()})
        point = sf.ScaledReplicate(0, 0, ["3/5", "4/5"], ["3/5", "4/5"])(narrow)
        assert sf.ScaledReplicate(0, 0, ["3/5", "4/5"], ["3/5", "4/5"]).keeps_critical(narrow).holds
    verdict = sf.judge(point)
    assert verdict.kind is Kind.MINIMUM, verdict.reason
    assert [f.name for f in verdict.flat_directions.families] == [
        "rotations of units linear on the data"
    ]
    assert tuple(verdict.inertia) == signs(dense(point)[2]) == (net.parameter_count - 1, 1, 0)
    for angle in (0.05, -0.2):
        there = sf.Point(problem, turned(problem, point.params, angle))
        assert float(dense(there)[0]) == pytest.approx(point.loss, rel=1e-13)
        assert float(dense(there)[1].abs().max()) < 1e-11


def test_units_of_a_smooth_activation_have_no_rotations() -> None:
    point = sf.Point(taught(3), taught(3).net.random_params(0))
    assert flat_families(OnData(point.problem, point.params)) == []
    linear = sf.Point(taught(3, "identity"), point.params)
    (family,) = flat_families(OnData(linear.problem, linear.params))
    assert family.dimension == 3


def test_a_linear_network_that_decay_has_taken_to_zero_has_nothing_to_turn() -> None:
    """Weights of rounding's size have no rotations that Newton's steps would leave them free to make."""
    problem = taught(3, "identity", decay=0.1)
    point = sf.find_critical_point(problem, starts=4)
    weights = torch.cat([point.params["0.weight"].flatten(), point.params["2.weight"].flatten()])
    assert 0 < float(weights.abs().max()) < 1e-10
    assert point.status is sf.Status.CONVERGED
    close(point.params["2.bias"], problem.y.mean(0) / 1.1)  # mean (b − y) + λb = 0
    verdict = sf.judge(point)
    assert verdict.kind is Kind.STRICT_MINIMUM
    assert verdict.flat_directions.families == ()


# -- verdicts -------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["tanh", "gelu", "sigmoid"])
@pytest.mark.parametrize("kind", ["minimum", pytest.param("any", marks=pytest.mark.slow)])
def test_verdicts_agree_with_the_dense_hessian(activation: str, kind: Any) -> None:
    seen = set()
    for decay in (1e-1, 1e-3, 1e-6):
        for point in sf.find_critical_points(taught(2, activation, decay), starts=8, kind=kind)[:6]:
            risk, gradient, hessian = dense(point)
            verdict = sf.judge(point)
            assert float(gradient.abs().max()) < 1e-10
            assert point.loss == pytest.approx(float(risk), rel=1e-12)
            assert tuple(verdict.inertia) == signs(hessian)
            expected = Kind.STRICT_SADDLE if signs(hessian)[2] else Kind.STRICT_MINIMUM
            assert verdict.kind is expected, verdict.reason
            seen.add(verdict.kind)
    assert Kind.STRICT_MINIMUM in seen
    assert kind == "minimum" or Kind.STRICT_SADDLE in seen


def test_an_exact_fit_is_not_critical() -> None:
    problem = taught(2, decay=0.0)
    params = problem.net.random_params(0)
    fitted = sf.Problem(problem.net, problem.X, problem.net.forward(params, problem.X))
    assert sf.judge(sf.Point(fitted, params)).kind in (Kind.MINIMUM, Kind.STRICT_MINIMUM)
    decayed = sf.Point(fitted.with_weight_decay(1e-6), params)
    assert sf.judge(decayed).kind is Kind.NOT_CRITICAL
    assert not OnData(decayed.problem, params).fits_best


def test_more_parameters_than_samples_leave_no_manifold_of_fits() -> None:
    X, y = [[-1.0], [0.2], [1.0]], [0.3, -0.4, 0.5]
    free = sf.Problem(sf.MLP([1, 2, 1]), X, y)
    assert sf.judge(sf.find_critical_point(free, starts=4)).kind is Kind.MINIMUM
    point = sf.find_critical_point(free.with_weight_decay(1e-3), starts=8)
    verdict = sf.judge(point)
    assert verdict.kind is Kind.STRICT_MINIMUM
    assert tuple(verdict.inertia) == signs(dense(point)[2]) == (7, 0, 0)


def test_the_softmax_shift_is_pinned_by_the_penalty() -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(20, 2, generator=generator).double()
    y = torch.randint(0, 3, (20,), generator=generator)
    free = sf.Problem(sf.MLP([2, 3]), X, y, "cross_entropy")
    assert sf.judge(sf.find_critical_point(free, starts=2)).kind is Kind.MINIMUM
    point = sf.find_critical_point(free.with_weight_decay(0.01), starts=2)
    verdict = sf.judge(point)
    assert verdict.kind is Kind.STRICT_MINIMUM
    assert verdict.margin.eigenvalue == pytest.approx(0.01, rel=1e-9)
    close(point.params["0.bias"].sum(), torch.tensor(0.0).double())


def test_rescaled_and_dead_relu_units_are_not_critical() -> None:
    X = torch.linspace(0.5, 2, 12).double()[:, None]
    y = X + 0.1 * torch.sin(9 * X)
    value = torch.ones(1, 1).double()
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu", bias=False), X, y, weight_decay=0.01)
    point = sf.find_critical_point(problem, start={"0.weight": value, "2.weight": value.clone()})
    assert sf.judge(point).kind is Kind.STRICT_MINIMUM  # rescaling is no longer flat
    free = problem.with_weight_decay(0)
    assert sf.judge(sf.find_critical_point(free, start=point.params)).kind is Kind.MINIMUM
    assert sf.judge(sf.Rescale(0, 0, 2)(point)).kind is Kind.NOT_CRITICAL
    dead = sf.InactiveUnits(0, 1, incoming=[[-1.0]], outgoing=[[0.0]])
    assert sf.judge(dead(sf.find_critical_point(free, start=point.params))).kind is Kind.MINIMUM
    assert sf.judge(dead(point)).kind is Kind.NOT_CRITICAL


@pytest.mark.parametrize("dense_limit", [4096, 1], ids=["dense", "Lanczos"])
def test_a_decay_too_small_to_be_felt_decides_nothing(dense_limit: int) -> None:
    """Copies at a minimum without decay have gradient λ(1 − share)u, here within the tolerance."""
    narrow = sf.find_critical_point(taught(2, "gelu", 0.0), starts=8)
    wide = sf.Replicate(0, 0, [0.3, 0.7])(narrow).materialize()
    assert sf.judge(wide).kind in (Kind.MINIMUM, Kind.STRICT_SADDLE)
    decayed = sf.Point(wide.problem.with_weight_decay(1e-12), wide.params)
    assert wide.gradient_norm < decayed.gradient_norm < 1e-10
    verdict = sf.judge(decayed, dense_limit=dense_limit)
    assert verdict.kind is Kind.UNDECIDED
    assert "weight_decay=1e-12" in verdict.reason


def test_lanczos_sees_the_penalty(minimum: sf.CriticalPoint) -> None:
    assert sf.judge(minimum, dense_limit=1).kind is Kind.UNDECIDED
    lowest = float(torch.linalg.eigvalsh(dense(minimum)[2])[0])
    assert sf.judge(minimum, dense_limit=1).margin.eigenvalue == pytest.approx(lowest, rel=1e-6)
    wide = sf.Replicate(0, 0, [0.5, 0.5])(minimum)
    verdict = sf.judge(wide, dense_limit=1)
    assert (verdict.kind, verdict.method) == (Kind.NOT_CRITICAL, "Lanczos")
    assert verdict.gradient_norm == pytest.approx(float(dense(wide)[1].abs().max()), rel=1e-9)


# -- embedded points ------------------------------------------------------------------------------

EMBEDDINGS = [
    sf.Replicate(0, 0, [0.25, 0.75]),
    sf.Replicate(0, 1, [2, -0.5, -0.5]),
    sf.NullUnits(0, [0.4]),
    sf.NullUnits(0, [0]),
    sf.InactivePropagation(0, [[0.5, -1.0, 0.2]]),
    sf.Reflect(0, 0) >> sf.Permute(0, [1, 0]),
    sf.Replicate(0, 0, [0.5, 0.5]) >> sf.NullUnits(0, [0.4]) >> sf.Replicate(0, 2, [-1, 2]),
]
KEEP_THE_NORM = {3, 5}


@pytest.mark.parametrize("number", range(len(EMBEDDINGS)))
@pytest.mark.parametrize("critical", [True, False], ids=["critical", "any point"])
def test_embeddings_keep_outputs_and_nothing_else(
    minimum: sf.CriticalPoint, number: int, critical: bool
) -> None:
    problem, embedding = minimum.problem, EMBEDDINGS[number]
    point = minimum if critical else sf.Point(problem, problem.net.random_params(3))
    wide = embedding(point)
    close(
        wide.problem.net.forward(wide.params, problem.X),
        problem.net.forward(point.params, problem.X),
    )
    norms = [
        net.flatten(p).square().sum()
        for net, p in ((wide.problem.net, wide.params), (problem.net, point.params))
    ]
    grown = float(problem.weight_decay * (norms[0] - norms[1]) / 2)
    assert wide.loss - point.loss == pytest.approx(grown, rel=1e-10, abs=1e-14)
    risk, gradient, hessian = dense(wide)
    assert wide.loss == pytest.approx(float(risk), rel=1e-12)
    assert wide.gradient_norm == pytest.approx(float(gradient.abs().max()), rel=1e-9, abs=1e-12)
    assert wide.materialize().loss == pytest.approx(wide.loss, rel=1e-15)

    verdict = sf.judge(wide)
    stays = critical and number in KEEP_THE_NORM
    assert (verdict.kind is Kind.NOT_CRITICAL) is not stays, verdict.reason
    assert tuple(verdict.inertia) == signs(hessian)
    assert (verdict.method, verdict.at_least) == ("dense Hessian", None)
    assert verdict.gradient_norm == pytest.approx(wide.gradient_norm, rel=1e-9, abs=1e-14)
    if critical:
        assert embedding.keeps_critical(point).holds is stays
    if not stays:
        assert (
            "embeddings keep the outputs, but not the weight penalty" in verdict.reason
        ) is critical
        step = 1e-4 * wide.problem.net.flatten(verdict.descent_direction)
        lower = wide.problem.risk(
            wide.problem.net.unflatten(wide.problem.net.flatten(wide.params) + step)
        )
        assert float(lower) < wide.loss


def test_a_copy_pulls_by_the_part_of_the_unit_it_does_not_have(minimum: sf.CriticalPoint) -> None:
    """Incoming: λ(1 − share) u. Outgoing: the data's pull is that of the whole ζ, −λζ."""
    share, decay = 0.25, minimum.problem.weight_decay
    wide = sf.Replicate(0, 0, [share, 1 - share])(minimum)
    net = wide.problem.net
    pull = net.unflatten(sf.gradient(wide))
    u, zeta = minimum.params["0.weight"][0], minimum.params["2.weight"][:, 0]
    close(pull["0.weight"][0], decay * (1 - share) * u)
    close(pull["2.weight"][:, 0], decay * (share - 1) * zeta)


@pytest.mark.parametrize("decay", [1e-3, 0.1])
def test_null_units_at_zero_are_saddles_where_the_pull_beats_the_decay(decay: float) -> None:
    """tanh(0) = 0: the added block is [[λI, F∅], [F∅ᵀ, λI]], with eigenvalues λ ± s(F∅)."""
    problem = taught(1, "tanh", decay)
    found = {sf.judge(p).kind: p for p in sf.find_critical_points(problem, starts=8)}
    point = found[Kind.STRICT_MINIMUM]
    wide = sf.NullUnits(0, [0])(point)
    force = float(torch.linalg.svdvals(sf.layer_block(point, 0))[0])
    verdict = sf.judge(wide)
    assert (force > decay) == (decay == 1e-3)
    assert verdict.kind is (Kind.STRICT_SADDLE if force > decay else Kind.STRICT_MINIMUM)
    lowest = float(torch.linalg.eigvalsh(dense(wide)[2])[0])
    assert lowest == pytest.approx(
        min(decay - force, float(torch.linalg.eigvalsh(dense(point)[2])[0]))
    )
    escape = sf.escape(point)
    if force > decay:
        assert (escape.kind, escape.new_units) == ("null unit", 1)
        assert escape.curvature == pytest.approx(decay - force, rel=1e-6)
        assert escape.measured_curvature == pytest.approx(decay - force, rel=1e-3)
    else:
        assert (escape.kind, escape.found) == ("undecided", False)
        assert "weight decay" in escape.reason


def test_no_point_is_called_truly_bad(minimum: sf.CriticalPoint) -> None:
    sigmoid = sf.find_critical_point(taught(2, "sigmoid", 1e-3), starts=8)
    assert sf.escape(sigmoid).kind == "undecided"  # σ(0) = ½ ≠ 0, so no null unit is critical
    wide = sf.Replicate(0, 0, [0.5, 0.5])(minimum)
    assert sf.escape(wide).kind == "not critical"


def test_points_with_and_without_decay_are_judged_side_by_side(minimum: sf.CriticalPoint) -> None:
    free = sf.find_critical_point(taught(1, "gelu", 0.0), starts=8)
    half = sf.Replicate(0, 0, [0.5, 0.5])
    verdicts = sf.judge_all([half(free), half(minimum), minimum, free])
    assert [v.method for v in verdicts] == ["inertia law", *["dense Hessian"] * 3]
    assert [v.kind for v in verdicts[1:]] == [
        Kind.NOT_CRITICAL,
        Kind.STRICT_MINIMUM,
        Kind.STRICT_MINIMUM,
    ]


def test_conditions_of_compositions_ask_the_whole(minimum: sf.CriticalPoint) -> None:
    """Without decay a replication keeps all critical points, so it was not asked about."""
    constant = sf.ConstantUnits(0, [0.0], [[1e-13]])  # critical but for rounding, by itself
    for embedding in (constant >> sf.Replicate(0, 0, [0.5, 0.5]), sf.NullUnits(0, [0]) >> constant):
        checked = embedding.preserves_criticality.check(minimum)
        wide = float(dense(embedding(minimum))[1].abs().max())
        assert checked.residual == pytest.approx(wide, rel=1e-6, abs=1e-14)
        assert checked.holds is (wide < 1e-10)


def test_reduce_keeps_outputs_and_drops_their_penalty(minimum: sf.CriticalPoint) -> None:
    wide = (sf.Replicate(0, 0, [0.25, 0.75]) >> sf.NullUnits(0, [0.5]))(minimum)
    small = sf.reduce(wide)
    assert small.widths == (2,)
    assert small.point.problem.weight_decay == minimum.problem.weight_decay
    assert small.point.loss == pytest.approx(minimum.loss, rel=1e-13)
    assert sf.judge(small.point).kind is Kind.STRICT_MINIMUM
    back = small.embedding(small.point)
    assert back.loss == pytest.approx(wide.loss, rel=1e-13)
    penalties = [
        0.5 * each.problem.weight_decay * sum(float(t.square().sum()) for t in each.params.values())
        for each in (wide.materialize(), small.point)
    ]
    assert wide.loss - small.point.loss == pytest.approx(penalties[0] - penalties[1], abs=1e-13)
    assert abs(penalties[0] - penalties[1]) > 1e-4


# -- the search and infinity ----------------------------------------------------------------------


def test_separated_data_have_a_finite_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    free = sf.Problem(sf.MLP([1, 1]), X, y, "logistic")
    assert {run.status for run in run_search(free, starts=3).runs} == {sf.Status.DIVERGED}
    asked: list[Any] = []

    def told(problems: Any, *rest: Any) -> list[Any]:
        asked.extend(problems)
        return []

    monkeypatch.setattr(block, "go_beyond", told)
    result = run_search(free.with_weight_decay(1e-5), starts=3, processes=1)
    (point,) = result.points
    assert {run.status for run in result.runs} == {sf.Status.CONVERGED}
    assert point.loss < math.log(2) / 4
    w = float(point.params["0.weight"])
    slope = sum(abs(x[0]) / (1 + math.exp(w * abs(x[0]))) for x in X) / 4
    assert w * 1e-5 == pytest.approx(slope, rel=1e-8)
    # Runs that were cut short are not taken on to infinity.
    short = run_search(free.with_weight_decay(1e-5), starts=3, max_iterations=1, processes=1)
    assert {run.status for run in short.runs} == {sf.Status.MAX_ITERATIONS}
    assert asked == []


@pytest.mark.parametrize(
    ("decay", "advice"),
    [
        (0, "a weight decay (weight_decay=1e-3; --weight-decay 1e-3 on the command line) keeps"),
        ({"bias": 0.1}, "a weight decay on the weights, too, keeps"),
        ({"bias": 0.1, "0.weight": 0.1}, "a weight decay on the weights, too, keeps"),
        ({"weight": 0.1}, "a weight decay on the biases, too, keeps"),
        ({"0.weight": 0.1}, "a weight decay on 0.bias, 2.weight, 2.bias, too, keeps"),
        (0.1, None),
    ],
)
def test_runs_to_infinity_are_told_which_parameters_are_free(
    decay: Any, advice: str | None
) -> None:
    net = sf.MLP([1, 2, 1], "tanh")
    problem = sf.Problem(net, [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.5], weight_decay=decay)
    result = run_search(problem, starts=1, max_iterations=2, processes=1)
    (run,) = result.runs
    gone = dataclasses.replace(run.record, status=sf.Status.DIVERGED)
    result = dataclasses.replace(
        result, points=[], runs=[sf.CriticalPoint(problem, run.params, gone)]
    )
    assert "1 DIVERGED" in result.why_none
    assert advice in result.why_none if advice else "weight decay" not in result.why_none


def test_limits_are_refused(minimum: sf.CriticalPoint) -> None:
    problem = minimum.problem
    net = LimitMLP(problem.net, [[Form.UNIT, Form.GATE]])
    with refused("use problem.with_weight_decay(0)"):
        Limit(problem, net, minimum.params)
    with refused("weight decay 0.001 units at infinity cost infinitely much"):
        LimitProblem([problem], net, [torch.zeros(1, 2, 40).double()])


# -- files and the command line -------------------------------------------------------------------


def test_points_remember_their_decay(minimum: sf.CriticalPoint, tmp_path: Any) -> None:
    path, problem = tmp_path / "point.safetensors", minimum.problem
    for point in (minimum, sf.Replicate(0, 0, [0.25, 0.75])(minimum)):
        save_point(point, path)
        loaded = load_point(path).point(problem.X, problem.y)
        assert type(loaded) is type(sf.Point(problem, minimum.params)) or type(loaded) is type(
            point
        )
        assert loaded.problem.weight_decay == problem.weight_decay
        assert loaded.loss == point.loss
        assert sf.judge(loaded).kind is sf.judge(point).kind


def rewritten(path: Any, **changes: str | None) -> None:
    with safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, value in changes.items():
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    save_file(tensors, str(path), metadata)


def test_files_that_say_nothing_of_it_have_none(minimum: sf.CriticalPoint, tmp_path: Any) -> None:
    path, problem = tmp_path / "old.safetensors", minimum.problem
    save_point(minimum, path)
    rewritten(path, weight_decay=None)
    stored = load_point(path)
    assert stored.weight_decay == 0.0
    old = stored.point(problem.X, problem.y)
    assert old.problem.weight_decay == 0.0
    assert old.loss == pytest.approx(
        minimum.loss - float(problem.penalty(minimum.params)), rel=1e-12
    )
    for damaged in ("nan", "-1", "much"):
        rewritten(path, weight_decay=damaged)
        with pytest.raises(sf.InputError, match=r"weight_decay|damaged"):
            load_point(path)


def test_the_command_line_takes_and_keeps_it(capsys: Any, tmp_path: Any) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(30, 2))
    np.savez(tmp_path / "data.npz", X=X, y=np.tanh(X @ [1.0, -0.5]))
    find = ["find", "--data", str(tmp_path / "data.npz"), "--hidden", "1", "--starts", "4"]
    find += ["--out", str(tmp_path)]
    assert _run([*find, "--weight-decay", "0.01", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    path = shown["points"][0]["file"]
    assert load_point(path).weight_decay == 0.01
    assert _run(["judge", path, "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["kind"] == "STRICT_MINIMUM"
    assert verdict["loss"] == pytest.approx(shown["points"][0]["loss"], rel=1e-14)
    wide = str(tmp_path / "wide.safetensors")
    assert _run(["widen", path, "replicate:0:0:0.5,0.5", "--out", wide]) == 0
    assert _run(["judge", wide, "--json"]) == 0
    assert json.loads(capsys.readouterr().out.split("\n", 1)[1])["kind"] == "NOT_CRITICAL"
    assert _run([*find, "--weight-decay", "-1"]) == 2
    assert "weight_decay must be a finite number" in capsys.readouterr().err


def test_a_study_with_a_decay_that_is_none_is_refused_before_it_starts(
    capsys: Any, tmp_path: Any
) -> None:
    for given, message in (("-1", "must be a finite number"), ("5.weight=1", "5.weight")):
        arguments = ["study", "--data", "diabetes", "--out", str(tmp_path / "out")]
        assert _run([*arguments, "--weight-decay", given]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
        assert not (tmp_path / "out").exists()


# -- groups ---------------------------------------------------------------------------------------


GROUPS = [
    {"weight": 0.3, "bias": 0},
    {"bias": 0.2},
    {"weight": 0.1, "bias": 0.4},
    {"weight": 0.1, "2.weight": 0, "0.bias": 0.5},
]


@pytest.mark.parametrize("groups", GROUPS, ids=str)
def test_every_derivative_has_the_penalty_of_each_group(groups: dict[str, float]) -> None:
    ref = random_reference([2, 3, 3], "softplus", "squared", True, seed=4)
    problem = problem_of(ref, groups)
    params, at = ref.params, ref.vector
    assert [*params] == [*problem.net.shapes]
    decays = torch.cat(
        [
            torch.full(t.shape, groups.get(k, groups.get(k.split(".")[1], 0.0))).double().flatten()
            for k, t in params.items()
        ]
    )

    def risk(vector: Tensor) -> Tensor:
        return ref.risk(vector) + (decays * vector.square()).sum() / 2

    value, gradient, hessian = risk(at), torch.func.grad(risk)(at), torch.func.hessian(risk)(at)
    for one, other in zip(
        risk_gradient_hessian(problem, params), (value, gradient, hessian), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-8)  # decays are float32 here
    operator = sf.hessian_operator(sf.Point(problem, params))
    close(operator @ np.eye(len(at)), risk_gradient_hessian(problem, params)[2])
    close(operator.gradient(), risk_gradient(problem, params)[1])


@pytest.mark.parametrize("loss", ["squared", "cross_entropy"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_decay_of_weights_alone_is_judged_and_proved(loss: str, activation: str) -> None:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    y = (X[:, 0] * X[:, 1] > 0).long() + (X[:, 0] > 1).long()
    targets = y if loss == "cross_entropy" else torch.nn.functional.one_hot(y, 3).double()
    problem = sf.Problem(
        sf.MLP([2, 2, 3], activation), X, targets, loss, weight_decay={"weight": 0.01, "bias": 0}
    )
    found = [r for r in sf.run_search(problem, starts=8).runs if r.status is sf.Status.CONVERGED]
    assert found
    minima = 0
    for point in found:
        verdict = sf.judge(point)
        values = torch.linalg.eigvalsh(sf.hessian(point))
        if verdict.kind is sf.Kind.UNDECIDED:
            continue
        assert verdict.inertia is not None
        assert verdict.inertia.negative == 0
        assert float(values.min()) > -1e-12
        # A softmax ignores what is added to all biases, and these are not held back.
        if activation == "tanh":
            assert verdict.inertia.zero == (loss == "cross_entropy")
            proof = sf.certify(point)
            assert proof.certified, proof.reason
            assert proof.kind == verdict.kind.value
            assert proof.inertia == tuple(verdict.inertia)[:3] or proof.inertia is not None
        minima += 1
    assert minima


def test_a_symmetry_that_decay_breaks_is_refused_by_the_checker(tmp_path: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(20, 2, generator=generator, dtype=torch.float64)
    y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    net = sf.MLP([2, 1, 3], "tanh")
    free = sf.Problem(net, X, y, "cross_entropy", weight_decay={"weight": 0.01, "bias": 0})
    proof = sf.certify(sf.find_critical_point(free, starts=4))
    assert [family["family"] for family in proof.document["frozen"]] == ["softmax bias shift"]
    proof.save(tmp_path / "c.json")
    assert sf.verify(tmp_path / "c.json").ok
    document = json.loads((tmp_path / "c.json").read_text())
    assert document["format"] != "semiflat-certificate-1"
    document["problem"]["weight_decay"] = "0x1p-7"
    (tmp_path / "c.json").write_text(json.dumps(document))
    assert "decayed" in sf.verify(tmp_path / "c.json").reason


def test_one_decay_for_all_is_written_as_before(minimum: sf.CriticalPoint) -> None:
    document = sf.certify(minimum).document
    assert document["format"] == "semiflat-certificate-1"
    assert float.fromhex(document["problem"]["weight_decay"]) == minimum.problem.weight_decay


def test_groups_go_into_files_and_come_back(tmp_path: Any) -> None:
    for k, groups in enumerate(GROUPS):
        problem = taught().with_weight_decay(groups)
        point = sf.Point(problem, problem.net.random_params(0))
        save_point(point, tmp_path / f"{k}.safetensors")
        again = load_point(tmp_path / f"{k}.safetensors").point(problem.X, problem.y)
        assert again.problem.decay == problem.decay
        assert again.loss == point.loss


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": 0.1}, "unknown group of weight_decay 'weights'; did you mean 'weight'?"),
        ({"9.weight": 0.1}, "unknown group of weight_decay '9.weight'"),
        ({"weight": -1}, "weight_decay['weight'] must be a finite number from 0 up"),
        ({"bias": "much"}, "weight_decay['bias'] must be a finite number"),
    ],
)
def test_groups_that_are_none_are_refused(given: Any, message: str) -> None:
    with refused(message):
        taught().with_weight_decay(given)


def test_groups_of_equal_decay_are_one_number() -> None:
    assert taught().with_weight_decay({"weight": 0.1, "bias": 0.1}).weight_decay == 0.1
    assert taught().with_weight_decay({"weight": 0, "bias": 0}).weight_decay == 0.0
    assert taught().with_weight_decay({"weight": 0.1}).weight_decay == {"weight": 0.1, "bias": 0.0}


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_scikit_learn_network_is_near_a_critical_point_of_its_own_penalty(outputs: int) -> None:
    network = pytest.importorskip("sklearn.neural_network")
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    Y = np.stack([np.sin(X[:, 0]), X[:, 0] * X[:, 1]], 1)[:, :outputs].squeeze()
    model = network.MLPRegressor(
        hidden_layer_sizes=(2,),
        activation="tanh",
        solver="lbfgs",
        alpha=1.0,
        tol=1e-13,
        max_iter=20000,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, Y)
    with_it = sf.Point.from_sklearn(model, X, Y, weight_decay="alpha")
    assert with_it.problem.weight_decay == {"weight": 1 / 60, "bias": 0.0}
    # With two outputs scikit-learn stops early: its loss and its gradient are of two functions.
    assert with_it.gradient_norm < sf.Point.from_sklearn(model, X, Y).gradient_norm / 5
    near = sf.find_critical_point(with_it.problem, start=with_it.params)
    assert near.status is sf.Status.CONVERGED
    assert near.loss == pytest.approx(with_it.loss, rel=1e-2)
    with refused("weight_decay='beta' is no number"):
        sf.Point.from_sklearn(model, X, Y, weight_decay="beta")


def test_a_module_is_at_rest_where_its_optimiser_s_groups_put_it() -> None:
    problem = taught()
    net = problem.net
    torch.manual_seed(0)
    module = net.to_module(net.random_params(0))
    weights = [p for p in module.parameters() if p.ndim > 1]
    biases = [p for p in module.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": 0.05}, {"params": biases}], lr=0.3, momentum=0.9
    )
    for _ in range(4000):
        optimizer.zero_grad()
        ((module(problem.X) - problem.y).square().sum(-1) / 2).mean().backward()
        optimizer.step()
    point = sf.Point.from_module(module, problem.X, problem.y, weight_decay=optimizer)
    assert point.problem.weight_decay == {"weight": 0.05, "bias": 0.0}
    assert point.gradient_norm < 1e-10
    assert sf.judge(point).kind in (sf.Kind.STRICT_MINIMUM, sf.Kind.MINIMUM)
    with refused("the weight decay of AdamW is decoupled from the gradient"):
        decoupled = torch.optim.AdamW(module.parameters(), weight_decay=0.1)
        sf.Point.from_module(module, problem.X, problem.y, weight_decay=decoupled)
    with refused("weight of linear layer 1 is no parameter of the optimiser"):
        half = torch.optim.SGD(module[:1].parameters(), lr=0.1, weight_decay=0.1)
        sf.Point.from_module(module, problem.X, problem.y, weight_decay=half)


def test_the_command_line_takes_groups(capsys: Any, tmp_path: Any) -> None:
    generator = np.random.default_rng(0)
    X = generator.normal(size=(30, 2))
    np.savez(tmp_path / "data.npz", X=X, y=np.tanh(X @ [1.0, -0.5]))
    find = ["find", "--data", str(tmp_path / "data.npz"), "--hidden", "1", "--starts", "4"]
    find += ["--out", str(tmp_path / "points"), "--json"]
    assert _run([*find, "--weight-decay", "weight=0.01,bias=0"]) == 0
    path = json.loads(capsys.readouterr().out)["points"][0]["file"]
    assert load_point(path).weight_decay == {"weight": 0.01, "bias": 0.0}
    for wrong in ("weight=", "much", "weight=1=2"):
        assert _run([*find, "--weight-decay", wrong]) == 2
        assert "nor one for each group" in capsys.readouterr().err
    assert _run([*find, "--weight-decay", "weight=1, weight=2"]) == 2
    assert "gives 'weight' more than once" in capsys.readouterr().err
