"""Weight decay: in every derivative and verdict, and what it takes from embeddings.

The reference is automatic differentiation of the risk written out with its penalty; it shares no code
with what it checks.
"""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import semiflat as sf
from reference import LOSSES, Reference, cauchy, random_reference
from semiflat.curvature.gauss_newton import risk_gradient_gauss_newton
from semiflat.curvature.gradient import risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.curvature.operators import module_hessian_operator
from semiflat.curvature.parts import hessian_parts, second_difference
from semiflat.limits import Form, Limit, LimitMLP, LimitProblem
from semiflat.problem import ProblemBatch
from semiflat.search import block, run_search

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


def refused(text: str) -> Any:
    return pytest.raises(sf.InputError, match=re.escape(text))


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
    found = risk_gradient_gauss_newton(problem, params)
    for one, other in zip(found, (value, gradient, first_part + DECAY * identity), strict=True):
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


# -- the search and infinity ----------------------------------------------------------------------


def test_separated_data_have_a_finite_minimum(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = [[-2.0], [-1.0], [1.0], [2.0]], [0, 0, 1, 1]
    free = sf.Problem(sf.MLP([1, 1]), X, y, "logistic")
    assert {run.status for run in run_search(free, starts=3).runs} == {sf.Status.DIVERGED}
    asked: list[Any] = []
    monkeypatch.setattr(block, "go_beyond", lambda problems, *rest: asked.extend(problems) or [])
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


def test_limits_are_refused(minimum: sf.CriticalPoint) -> None:
    problem = minimum.problem
    net = LimitMLP(problem.net, [[Form.UNIT, Form.GATE]])
    with refused("use problem.with_weight_decay(0)"):
        Limit(problem, net, minimum.params)
    with refused("weight_decay=0.001 they cost infinitely much"):
        LimitProblem([problem], net, [torch.zeros(1, 2, 40).double()])
