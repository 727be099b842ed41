"""Losses: derivatives, digits at extreme logits, users' functions, targets that do not fit."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

import semiflat as sf
from helpers import refused
from reference import LOSSES, cauchy
from semiflat.losses import Loss, loss_named

ALL = sorted(LOSSES)
TINY = 1e-300
"""Below it float64 has fewer digits."""


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def loss_and_targets(name: str, samples: int, outputs: int, seed: int = 0) -> tuple[Loss, Tensor]:
    """The loss and targets as it wants them."""
    loss = loss_named(cauchy if name == "cauchy" else name)
    if name == "cross_entropy":
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, outputs, (samples,), generator=generator).double()
    else:
        y = normal(samples, outputs, seed=seed)
        y = torch.sigmoid(y) if name == "logistic" else y
    return loss, loss.targets(y, samples, outputs)


# -- derivatives ----------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, database=None, max_examples=40)
@given(
    st.sampled_from(ALL),
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.integers(1, 3), max_size=2),
    st.integers(0, 1000),
)
def test_derivatives_are_those_of_automatic_differentiation(
    name: str, samples: int, outputs: int, batch: list[int], seed: int
) -> None:
    outputs += name == "cross_entropy"
    loss, y = loss_and_targets(name, samples, outputs, seed)
    f = 2 * normal(*batch, samples, outputs, seed=seed + 1)
    value, first, second = loss.derivatives(f, y)
    assert value.shape == (*batch, samples)
    assert first.shape == f.shape
    assert second.shape == (*f.shape, outputs)
    assert torch.allclose(loss.value(f, y), value, rtol=1e-14, atol=1e-15)
    rows = f.reshape(-1, samples, outputs)
    for k, row in enumerate(rows):
        for n in range(samples):

            def one(at: Tensor, n: int = n) -> Tensor:
                return LOSSES[name](at[None], y[n : n + 1])[0]

            expected = (one(row[n]), torch.func.grad(one)(row[n]), torch.func.hessian(one)(row[n]))
            found = (
                value.reshape(-1, samples)[k, n],
                first.reshape(-1, samples, outputs)[k, n],
                second.reshape(-1, samples, outputs, outputs)[k, n],
            )
            for mine, theirs in zip(found, expected, strict=True):
                assert torch.allclose(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_the_first_derivative_alone_is_that_of_all(name: str) -> None:
    loss, y = loss_and_targets(name, 5, 3)
    f = normal(2, 5, 3, seed=9)
    value, first, _ = loss.derivatives(f, y)
    alone = loss.first(f, y)
    assert torch.equal(alone[0], value)
    assert torch.allclose(alone[1], first, rtol=1e-14, atol=1e-15)


@pytest.mark.parametrize("name", ["squared", "cross_entropy", "logistic"])
def test_claims_of_convexity_bounds_and_shifts_hold(name: str) -> None:
    loss, y = loss_and_targets(name, 50, 3)
    f = 4 * normal(50, 3, seed=3)
    value, _, second = loss.derivatives(f, y)
    assert loss.convex
    assert float(torch.linalg.eigvalsh(second).min()) > -1e-15
    assert loss.lower_bound == 0.0
    assert float(value.min()) >= 0.0
    shifted = torch.allclose(loss.value(f + 1.5, y), value, rtol=1e-12)
    assert loss.shift_invariant == shifted


def test_nothing_is_claimed_of_a_user_s_loss() -> None:
    loss = loss_named(cauchy)
    assert not loss.convex
    assert loss.lower_bound is None
    assert not loss.shift_invariant


# -- extreme logits -------------------------------------------------------------------------------


def as_tensor(rows: list[Any]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def close(found: Tensor, exact: Tensor, relative: float = 1e-13) -> bool:
    """Equal to ``relative``; where the exact number underflows, equal to what is left of it."""
    return bool(((found - exact).abs() <= relative * exact.abs() + TINY).all())


LOGITS = [-800.0, -50.0, -40.5, -39.5, -1.0, -1e-9, 0.0, 1e-9, 1.0, 39.5, 40.5, 50.0, 800.0]


@pytest.mark.parametrize("y", [0.0, 1.0, 0.3])
def test_logistic_derivatives_keep_their_digits_at_extreme_logits(y: float) -> None:
    expected: list[list[float]] = []
    with localcontext() as context:
        context.prec, context.Emin = 800, -(10**6)
        target = Decimal(y)
        for logit in LOGITS:
            e = (-Decimal(logit)).exp()
            p, q = 1 / (1 + e), e / (1 + e)
            exactly = (1 + 1 / e).ln() - target * Decimal(logit)
            expected.append([float(exactly), float((1 - target) * p - target * q), float(p * q)])
    loss = loss_named("logistic")
    f = as_tensor(LOGITS)[:, None]
    targets = torch.full_like(f, y)
    value, first, second = loss.derivatives(f, targets)
    exact = as_tensor(expected)
    assert torch.allclose(value, exact[:, 0], rtol=1e-15, atol=1e-14)  # y·f costs that much at 50
    if y in (0.0, 1.0):
        assert close(first[:, 0], exact[:, 1])
    else:
        assert torch.allclose(first[:, 0], exact[:, 1], rtol=1e-14, atol=1e-15)
    assert close(second[:, 0, 0], exact[:, 2])
    assert torch.equal(loss.first(f, targets)[1], first)


CLASS_LOGITS = [
    [0.0, 50.0, -50.0],
    [0.0, 800.0, -800.0],
    [800.0, 800.0, 0.0],
    [-800.0, -800.0, -800.0],
    [1e-9, 0.0, -1e-9],
    [39.5, 0.0, -40.5],
    [40.5, 0.0, 0.0],
    [3.0, -2.0, 1.0],
]


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_cross_entropy_keeps_its_digits_at_extreme_logits(chosen: int) -> None:
    values, firsts, seconds = [], [], []
    with localcontext() as context:
        context.prec, context.Emin = 800, -(10**6)
        for row in CLASS_LOGITS:
            weights = [(Decimal(f) - Decimal(max(row))).exp() for f in row]
            p = [w / sum(weights) for w in weights]
            others = [sum(p) - each for each in p]
            values.append(float(-p[chosen].ln()))
            firsts.append([float(-others[k] if k == chosen else p[k]) for k in range(3)])
            seconds.append(
                [
                    [float(p[i] * others[i] if i == j else -p[i] * p[j]) for j in range(3)]
                    for i in range(3)
                ]
            )
    loss = loss_named("cross_entropy")
    f = as_tensor(CLASS_LOGITS)
    y = torch.full((len(f),), chosen)
    value, first, second = loss.derivatives(f, y)
    assert close(value, as_tensor(values))
    assert close(first, as_tensor(firsts))
    assert close(second, as_tensor(seconds))
    assert torch.equal(loss.value(f, y), value)
    assert close(loss.first(f, y)[1], first)


def test_a_loss_of_two_classes_is_the_logistic_loss_of_their_difference() -> None:
    f = as_tensor([[-a, a] for a in LOGITS])
    for chosen in (0, 1):
        y = torch.full((len(f),), chosen)
        one = loss_named("logistic").derivatives(f[:, 1:] - f[:, :1], y[:, None].double())
        two = loss_named("cross_entropy").derivatives(f, y)
        assert torch.allclose(one[0], two[0], rtol=1e-14, atol=1e-13)
        assert close(two[1][:, 1], one[1][:, 0])
        assert close(two[2][:, 1, 1], one[2][:, 0, 0])


@pytest.mark.parametrize("name", ["cross_entropy", "logistic"])
def test_automatic_derivatives_of_the_values_are_finite_at_extreme_logits(name: str) -> None:
    """What the matrix-free operators differentiate."""
    loss = loss_named(name)
    rows = as_tensor(CLASS_LOGITS)
    y = torch.ones(len(rows), dtype=torch.int64)
    targets = y if name == "cross_entropy" else y[:, None].double().expand(-1, 3)

    def total(f: Tensor) -> Tensor:
        return loss.value(f, targets).sum()

    _, first, second = loss.derivatives(rows, targets)
    assert torch.allclose(torch.func.grad(total)(rows), first, rtol=1e-12, atol=1e-14)
    direction = normal(*rows.shape)
    product = torch.func.jvp(torch.func.grad(total), (rows,), (direction,))[1]
    expected = (second @ direction[..., None])[..., 0]
    assert torch.allclose(product, expected, rtol=1e-12, atol=1e-14)


# -- users' functions -----------------------------------------------------------------------------


def batch_only_squared(f: Tensor, y: Tensor) -> Tensor:
    if f.ndim != 2:
        raise ValueError("a batch is needed")
    return (f - y).square().sum(1) / 2


def of_one_squared(f: Tensor, y: Tensor) -> Tensor:
    if f.ndim != 1:
        raise ValueError("one sample is needed")
    return (f - y).square().sum() / 2


def keeps_its_axis(f: Tensor, y: Tensor) -> Tensor:
    return (f - y).square().sum(-1, keepdim=True) / 2


@pytest.mark.parametrize("function", [batch_only_squared, of_one_squared, keeps_its_axis])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_user_s_squared_loss_gives_what_the_known_one_gives(
    function: Callable[[Tensor, Tensor], Tensor], outputs: int
) -> None:
    net = sf.MLP([2, 3, outputs])
    X, y = normal(6, 2), normal(6, outputs, seed=1)
    theirs, ours = sf.Problem(net, X, y, loss=function), sf.Problem(net, X, y)
    params = net.random_params(0, batch=(2,))
    assert torch.allclose(theirs.risk(params), ours.risk(params), rtol=1e-13)
    points = sf.Point(theirs, params), sf.Point(ours, params)
    for derivative in (sf.gradient, sf.hessian):
        mine, known = (derivative(point) for point in points)
        assert torch.allclose(mine, known, rtol=1e-11, atol=1e-13)


def test_a_user_s_loss_may_take_one_target_a_sample() -> None:
    net = sf.MLP([2, 3, 1])
    X, y = normal(6, 2), normal(6, seed=1)
    params = net.random_params(0)
    for function in (
        lambda f, t: (f[0] - t) ** 2 / 2,
        lambda f, t: (f[:, 0] - t) ** 2 / 2,
    ):
        problem = sf.Problem(net, X, y, loss=function)
        assert float(problem.risk(params)) == pytest.approx(
            float(sf.Problem(net, X, y).risk(params)), rel=1e-13
        )


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_a_user_s_loss_may_take_classes(dtype: torch.dtype) -> None:
    """Whole numbers given as such arrive as such; a loss that indexes with them cannot do else."""
    net = sf.MLP([2, 3, 3])
    X, y = normal(6, 2), torch.tensor([0, 2, 1, 1, 0, 2]).to(dtype)

    def by_name(f: Tensor, target: Tensor) -> Tensor:
        target = target.long() if dtype is torch.float64 else target
        return functional.cross_entropy(f, target)

    params = net.random_params(0)
    theirs = sf.Point(sf.Problem(net, X, y, loss=by_name), params)
    ours = sf.Point(sf.Problem(net, X, y, loss="cross_entropy"), params)
    assert theirs.loss == pytest.approx(ours.loss, rel=1e-13)
    assert torch.allclose(sf.gradient(theirs), sf.gradient(ours), rtol=1e-11, atol=1e-13)
    assert torch.allclose(sf.hessian(theirs), sf.hessian(ours), rtol=1e-11, atol=1e-13)


def test_a_user_s_loss_works_where_warnings_are_errors() -> None:
    """In a fresh process: the first use of forward mode imports a part of torch that warns."""
    program = (
        "import torch, semiflat as sf\n"
        "net = sf.MLP([1, 2, 1])\n"
        "problem = sf.Problem(net, [[0.0], [1.0]], [0.0, 1.0], loss=lambda f, y: (f - y) ** 4)\n"
        "point = sf.Point(problem, net.random_params(0))\n"
        "print(sf.hessian(point).shape, sf.hessian_operator(point).shape)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "(7, 7)" in done.stdout


def test_a_function_that_gives_several_numbers_a_sample_is_refused() -> None:
    with refused("expected a differentiable function of (output, target)"):
        sf.Problem(sf.MLP([1, 2, 2]), [[0.0], [1.0]], normal(2, 2), loss=lambda f, y: (f - y) ** 2)


def test_a_function_that_fails_is_refused_with_its_own_words() -> None:
    def broken(f: Tensor, y: Tensor) -> Tensor:
        raise RuntimeError("no such thing")

    with refused("RuntimeError: no such thing"):
        sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0], loss=broken)


def test_a_loss_that_changes_from_call_to_call_is_refused() -> None:
    calls = iter(range(10**6))

    def drifting(f: Tensor, y: Tensor) -> Tensor:
        return ((f - y) ** 2).sum() * (1 + next(calls))

    with refused("must give the same result for the same input"):
        sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0], loss=drifting)


# -- targets and names ----------------------------------------------------------------------------

X = [[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]]


@pytest.mark.parametrize(
    ("loss", "outputs", "y", "message"),
    [
        ("squared", 1, [0.0, 1.0], "y has 2 rows, but X has 3 samples"),
        ("squared", 2, [0.0, 1.0, 2.0], "y has shape (3,); loss 'squared' with 3 samples"),
        ("squared", 1, [[0.0, 1.0]] * 3, "needs (3, 1) or (3,)"),
        ("squared", 1, 3.0, "y has no rows"),
        ("squared", 1, [0.0, float("nan"), 1.0], "y holds nan at row 1"),
        ("squared", 2, [[0.0, 1.0], [0.0, 1.0], [0.0, float("inf")]], "inf at row 2, column 1"),
        ("squared", 1, ["a", "b", "c"], "y is not an array of numbers"),
        ("squared", 1, [1j, 0.0, 0.0], "y holds complex numbers"),
        ("logistic", 1, [-1.0, 1.0, 1.0], "y holds values from -1 to 1"),
        ("logistic", 1, [0.0, 2.0, 1.0], "y holds values from 0 to 2"),
        ("logistic", 2, [0.0, 1.0, 1.0], "y has shape (3,); loss 'logistic'"),
        ("cross_entropy", 2, [[1.0, 0.0]] * 3, "needs one class a sample, (3,)"),
        ("cross_entropy", 1, [0.0, 0.0, 0.0], "use loss='logistic'"),
        ("cross_entropy", 2, [0, 1, 2], "y[2] = 2 is no class of a network with 2 outputs"),
        ("cross_entropy", 2, [0, -1, 1], "y[1] = -1 is no class"),
        ("cross_entropy", 2, [0.5, 1, 1], "y[0] = 0.5 is no class"),
        (cauchy, 1, [0.0, 1.0], "y has 2 rows, but X has 3 samples"),
    ],
)
def test_targets_that_do_not_fit_are_refused(loss: Any, outputs: int, y: Any, message: str) -> None:
    with refused(message):
        sf.Problem(sf.MLP([2, 2, outputs]), X, y, loss=loss)


def test_targets_of_one_output_may_stand_in_a_row_or_a_column() -> None:
    net = sf.MLP([2, 2, 1])
    params = net.random_params(0)
    for loss in ("squared", "logistic"):
        row = sf.Problem(net, X, [0.0, 1.0, 1.0], loss=loss)
        column = sf.Problem(net, X, [[0.0], [1.0], [1.0]], loss=loss)
        assert float(row.risk(params)) == float(column.risk(params))


def test_an_unknown_loss_is_answered_with_the_nearest_one() -> None:
    with refused("unknown loss 'sqared'; did you mean 'squared'?"):
        loss_named("sqared")
    with refused("must be a name or a function"):
        loss_named(3)  # type: ignore[arg-type]
