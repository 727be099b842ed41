"""Weight decay and embeddings: which keep criticality, and what the inertia law says there.

The reference shares no code with the library's derivatives: the risk and the penalty are written out here, and
their derivatives are autograd's.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

import semiflat as sf
from semiflat.verdicts.decayed import inertia_with_decay

SIGMA = {
    "relu": torch.relu,
    "leaky_relu": lambda z: torch.nn.functional.leaky_relu(z, 0.01),
    "tanh": torch.tanh,
    "gelu": torch.nn.functional.gelu,
    "sigmoid": torch.sigmoid,
}
DECAYS = [
    0.3,
    0.02,
    {"weight": 0.05, "bias": 0.0},
    {"0.weight": 0.1, "2.weight": 0.03, "bias": 0.01},
]


def problem_of(activation: str, hidden: list[int], decay: Any, loss: str) -> sf.Problem:
    draws = torch.Generator().manual_seed(3)
    X = torch.randn(20, 2, generator=draws, dtype=torch.float64)
    y: Tensor = torch.randint(0, 3, (20,), generator=draws)
    if loss == "squared":
        y = torch.randn(20, 3, generator=draws, dtype=torch.float64)
    return sf.Problem(sf.MLP([2, *hidden, 3], activation), X, y, loss, weight_decay=decay)


def penalised_risk(problem: sf.Problem, flat: Tensor) -> Tensor:
    params = problem.net.unflatten(flat)
    decay = problem.weight_decay
    sigma = SIGMA[problem.net.activations[0].name]
    h, penalty = problem.X, flat.new_zeros(())
    for key, tensor in params.items():
        groups = decay if isinstance(decay, dict) else {"weight": decay, "bias": decay}
        own = groups.get(key, groups.get(key.split(".")[1], 0.0))
        penalty = penalty + own / 2 * tensor.square().sum()
    last = problem.net.depth - 1
    for layer in range(problem.net.depth):
        h = h @ params[f"{2 * layer}.weight"].T + params[f"{2 * layer}.bias"]
        h = h if layer == last else sigma(h)
    if problem.y.is_floating_point():
        return (h - problem.y).square().sum(1).mean() / 2 + penalty
    return torch.nn.functional.cross_entropy(h, problem.y) + penalty


def dense(point: Any) -> tuple[Tensor, Tensor]:
    flat = point.problem.net.flatten(point.params)
    risk = lambda at: penalised_risk(point.problem, at)  # noqa: E731
    return (
        torch.autograd.functional.jacobian(risk, flat),
        torch.autograd.functional.hessian(risk, flat),
    )


def signs(matrix: Tensor) -> tuple[int, int, int]:
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    noise = 1e-10 * float(values.abs().max())
    positive, negative = int((values > noise).sum()), int((values < -noise).sum())
    return positive, len(values) - positive - negative, negative


@pytest.mark.parametrize("decay", DECAYS, ids=str)
@pytest.mark.parametrize(("loss", "hidden"), [("squared", [3]), ("cross_entropy", [3, 2])])
def test_the_law_holds_at_any_point(decay: Any, loss: str, hidden: list[int]):
    for activation in ("relu", "leaky_relu", "tanh", "gelu", "sigmoid"):
        problem = problem_of(activation, hidden, decay, loss)
        point = sf.Point(problem, problem.net.random_params(1))
        for layer in range(len(hidden)):
            for wide in widened(point, activation, layer):
                law = inertia_with_decay(wide)
                free = isinstance(decay, dict) and not decay.get("bias")
                if activation == "sigmoid" and not free:
                    assert law is None  # σ(0) = ½ hands on to a bias that is decayed
                else:
                    assert tuple(law) == signs(dense(wide)[1]), (activation, wide.embedding)


def widened(point: sf.Point, activation: str, layer: int) -> list[Any]:
    if activation in ("relu", "leaky_relu"):
        return [sf.ScaledReplicate.balanced(layer, 1, copies)(point) for copies in (2, 4)]
    return [sf.NullUnits(layer, [0, 0])(point)]


def critical(
    activation: str, decay: Any, loss: str = "cross_entropy", starts: int = 4
) -> sf.CriticalPoint:
    problem = problem_of(activation, [2], decay, loss)
    point = sf.find_critical_point(problem, starts=starts, max_iterations=300)
    assert point.status is sf.Status.CONVERGED
    assert float(dense(point)[0].abs().max()) < 1e-11
    return point


@pytest.mark.parametrize(
    ("activation", "decay", "loss"),
    [
        ("relu", 0.02, "cross_entropy"),
        ("leaky_relu", 0.02, "squared"),
        ("relu", {"weight": 0.03}, "cross_entropy"),
        ("leaky_relu", {"0.weight": 0.01, "2.weight": 0.05}, "cross_entropy"),
    ],
)
def test_copies_stay_critical_with_decay_where_both_sides_shrink_alike(
    activation: str, decay: Any, loss: str
):
    point = critical(activation, decay, loss, starts=12)
    unit = int(point.params["0.weight"].abs().amax(1).argmax())  # decay may take the other to 0
    assert float(point.params["0.weight"][unit].abs().max()) > 0.1
    for copies in (2, 3, 5):
        balanced = sf.ScaledReplicate.balanced(0, unit, copies)
        wide = balanced(point)
        assert wide.loss == pytest.approx(point.loss, rel=1e-14)
        gradient, hessian = dense(wide)
        assert float(gradient.abs().max()) < 1e-11
        assert balanced.keeps_critical(point).holds
        verdict = sf.judge(wide)
        assert verdict.kind is not sf.Kind.NOT_CRITICAL
        # Copies turn into each other: (ζ, u) is in the kernel of K + D, which the law counts.
        assert tuple(inertia_with_decay(wide)) == signs(hessian)
        assert signs(hessian)[1] >= copies - 1
    for other in (
        sf.ScaledReplicate(0, unit, [1, 1], ["1/2", "1/2"]),
        sf.ScaledReplicate(0, unit, ["1/2", "1/2"], [1, 1]),
        sf.ScaledReplicate(0, unit, ["3/5", "4/5"], ["4/5", "13/20"]),
        sf.Replicate(0, unit, ["3/2", "-1/2"]),
    ):
        assert float(dense(other(point))[0].abs().max()) > 1e-5
        assert not other.keeps_critical(point).holds
        assert inertia_with_decay(other(point)) is None


def test_shares_are_squares_and_sum_to_exactly_one():
    for copies in range(1, 12):
        made = sf.ScaledReplicate.balanced(0, 0, copies)
        assert made.incoming == made.outgoing
        assert len(made.incoming) == copies
        assert sum(beta**2 for beta in made.incoming) == Fraction(1)


@pytest.mark.parametrize(
    ("activation", "decay", "bias", "kept"),
    [
        ("tanh", 0.02, 0, True),
        ("tanh", 0.02, 0.5, False),
        ("tanh", {"weight": 0.02}, 0.5, True),
        ("sigmoid", 0.02, 0, False),
        ("sigmoid", {"weight": 0.02}, 0.5, True),
        ("sigmoid", {"weight": 0.02, "0.bias": 0.01}, 0.5, False),
        ("sigmoid", {"weight": 0.02, "0.bias": 0.01}, 0, True),
        ("gelu", {"weight": 0.02, "2.bias": 0.01}, 0.5, False),
        ("gelu", {"weight": 0.02, "2.bias": 0.01}, 0, True),
        ("relu", {"weight": 0.02}, 0.5, True),
    ],
)
def test_null_units_stay_critical_where_they_hand_on_nothing_that_is_decayed(
    activation: str, decay: Any, bias: float, kept: bool
):
    """σ(α) = 0 or the bias above free; and α = 0 or their own bias free."""
    point = critical(activation, decay)
    null = sf.NullUnits(0, [bias])
    gradient, hessian = dense(null(point))
    assert (float(gradient.abs().max()) < 1e-11) is kept
    assert null.keeps_critical(point).holds is kept
    if kept:
        assert tuple(inertia_with_decay(null(point))) == signs(hessian)


def test_a_unit_that_is_not_decayed_may_be_copied_with_any_shares():
    X = torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]
    y = torch.sin(2 * X + 0.5) + 0.2 * X**3
    cases = ({"2.bias": 1e-3}, True), ({"2.weight": 1e-3}, False), ({"0.bias": 1e-3}, False)
    for decay, free in cases:
        problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y, weight_decay=decay)
        point = sf.find_critical_point(problem, starts=8)
        assert point.status is sf.Status.CONVERGED
        for shares in (["1/2", "1/2"], ["3/2", "-1/2"]):
            copied = sf.Replicate(0, 0, shares)
            assert copied.keeps_critical(point).holds is free
            assert (
                sf.Point(copied(point).problem, copied(point).params).gradient_norm < 1e-10
            ) is free


def test_one_output_and_one_decay_leave_a_minimum_a_minimum_when_relu_units_are_copied():
    """F is one row with Fᵀζ = −λu and |u| = |ζ|: its singular value is λ, none of K + D below 0."""
    draws = torch.Generator().manual_seed(0)
    X = torch.randn(30, 2, generator=draws, dtype=torch.float64)
    y = 0.7 * X[:, :1] + 0.5 + 0.3 * X[:, 1:] ** 2
    problem = sf.Problem(sf.MLP([2, 2, 1], "relu"), X, y, weight_decay=0.01)
    point = sf.find_critical_point(problem, starts=8, max_iterations=300)
    assert sf.judge(point).kind is sf.Kind.STRICT_MINIMUM
    for unit in range(2):
        wide = sf.ScaledReplicate.balanced(0, unit, 3)(point)
        assert sf.judge(wide).kind is sf.Kind.MINIMUM
        law = inertia_with_decay(wide)
        assert (law.zero, law.negative) == (2, 0)


def test_the_law_is_silent_on_what_it_does_not_cover():
    point = critical("tanh", 0.02)
    assert (
        inertia_with_decay((sf.NullUnits(0, [0]) >> sf.Replicate(0, 0, [0.5, 0.5]))(point)) is None
    )
    assert inertia_with_decay(sf.Replicate(0, 0, [0.5, 0.5])(point)) is None
    assert inertia_with_decay(sf.InactivePropagation(0, [[1.0, 0.0, 0.0]])(point)) is None
