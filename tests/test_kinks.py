"""At a kink there is no Hessian: a verdict rests on one-sided slopes there, or says that it does not know."""

from __future__ import annotations

import pytest
import torch

import semiflat as sf

MINIMA = (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)


def falls(point: sf.Point, verdict: sf.Verdict) -> bool:
    """Whether the loss falls along the way down, at some short step."""
    problem = point.problem
    for size in torch.logspace(-8, -2, 13, dtype=torch.float64):
        there = {k: t + size * verdict.descent_direction[k] for k, t in point.params.items()}
        if float(problem.risk(there)) < point.loss - 1e-15:
            return True
    return False


@pytest.mark.parametrize("pull", [0.2, 1.0])
@pytest.mark.parametrize("tiny", [0.0, 1e-13, 1e-12, 1e-11])
def test_a_critical_point_across_a_kink_is_none(pull: float, tiny: float) -> None:
    N, k = 400, 197
    torch.manual_seed(0)
    X = torch.linspace(-2, 2, N, dtype=torch.float64)[:, None]
    b = -float(X[k, 0]) + tiny
    z = X[:, 0] + b
    others = torch.arange(N) != k
    act = (z > 0) & others
    h = torch.where(act, z, 0 * z)
    J = torch.stack([act * X[:, 0], act * 1.0, h, torch.ones(N).double()], 1)
    r = 0.05 * torch.randn(N).double()
    r[k] = pull
    r = r - others * (torch.linalg.pinv((J * others[:, None]).T) @ (J.T @ r))
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), X, (h + r)[:, None])
    values = {"0.weight": [[1.0]], "0.bias": [b - 2 * tiny], "2.weight": [[1.0]], "2.bias": [0.0]}
    point = sf.Point(problem, {k: torch.tensor(v, dtype=torch.float64) for k, v in values.items()})
    verdict = sf.judge(point)
    assert verdict.kind is sf.Kind.NOT_CRITICAL
    assert falls(point, verdict)
    assert tiny > 1e-12 or sum(verdict.inertia) == 0  # at a kink there is nothing to count


@pytest.mark.parametrize("size", [0.0, 1e-17, 1e-14, 1e-11, 1e-9])
@pytest.mark.parametrize("ratio", [1.0, 0.3])
def test_a_unit_that_decay_has_taken_to_its_kink_is_no_minimum(size: float, ratio: float) -> None:
    X = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[2.0], [-2.2], [0.1], [0.1]], dtype=torch.float64)
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu", [False, True]), X, y, weight_decay=0.2)
    t = torch.tensor
    params = {
        "0.weight": t([[size]], dtype=torch.float64),
        "2.weight": t([[ratio * size]], dtype=torch.float64),
        "2.bias": t([float(y.mean()) / 1.2], dtype=torch.float64),
    }
    point = sf.Point(problem, params)
    verdict = sf.judge(point)
    assert verdict.kind not in MINIMA
    if size < 1e-9:
        assert sum(verdict.inertia) == 0
        assert falls(point, verdict)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu"])
@pytest.mark.parametrize("kind", ["minimum", "any"])
def test_no_search_converges_where_the_loss_falls_on_the_other_side_of_a_kink(
    activation: str, kind: str
) -> None:
    X = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]], dtype=torch.float64)
    y = torch.tensor([[2.0], [-2.2], [0.1], [0.1]], dtype=torch.float64)
    net = sf.MLP([1, 1, 1], activation, [False, True])
    problem = sf.Problem(net, X, y, weight_decay=0.2)
    result = sf.run_search(problem, starts=24, seed=0, kind=kind, processes=1)
    minima = [r for r in result.runs if r.status is sf.Status.CONVERGED and r.index == 0]
    assert minima
    for run in minima:
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randn((4000, net.parameter_count), generator=generator, dtype=torch.float64)
        sizes = torch.logspace(-4, -1, 4000, dtype=torch.float64)[:, None]
        near = net.flatten(run.params) + drawn / drawn.norm(dim=1, keepdim=True) * sizes
        assert not bool((problem.risk(net.unflatten(near)) < run.loss - 1e-9).any())


def test_a_minimum_on_a_kink_is_known_as_one() -> None:
    """δ is such that 0 lies between the slopes of the two pieces that meet at the second sample."""
    X = torch.tensor([[-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
    net = sf.MLP([1, 1, 1], "relu")
    delta = torch.tensor([-0.1, 0.2, -0.2, 0.1], dtype=torch.float64)
    problem = sf.Problem(net, X, torch.relu(X[:, 0]) - delta)
    vector = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    verdict = sf.judge(sf.Point(problem, net.unflatten(vector)))
    assert verdict.kind is sf.Kind.MINIMUM
    assert "local minimum of the piecewise smooth loss" in verdict.reason
    drawn = torch.randn((20000, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near = vector + drawn * torch.logspace(-7, -2, 20000, dtype=torch.float64)[:, None]
    risk = problem.risk(net.unflatten(vector))
    assert bool((problem.risk(net.unflatten(near)) >= risk - 1e-16).all())
    # The same kink bent down is none, and neither is one where the slopes do not enclose 0.
    for other in ([0.1, -0.2, 0.2, -0.1], [0.2, -0.1, -0.2, 0.1]):
        problem = sf.Problem(net, X, torch.relu(X[:, 0]) - torch.tensor(other, dtype=torch.float64))
        point = sf.Point(problem, net.unflatten(vector))
        verdict = sf.judge(point)
        assert verdict.kind is sf.Kind.NOT_CRITICAL
        assert falls(point, verdict)


@pytest.mark.parametrize("off", [0.0, 1e-3])
def test_a_loss_of_0_is_a_minimum_on_kinks_too(off: float) -> None:
    X = torch.tensor([[-1.0], [0.0], [1.0], [2.0]]).double()
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), X, X.relu() + off * X)
    one, zero = torch.ones(1, 1).double(), torch.zeros(1).double()
    params = {"0.weight": one, "0.bias": zero, "2.weight": one, "2.bias": zero}
    assert (sf.judge(sf.Point(problem, params)).kind is sf.Kind.MINIMUM) is (off == 0)
