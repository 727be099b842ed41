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
    points = sf.PointBatch(theirs, params), sf.PointBatch(ours, params)
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
        ("cross_entropy", 2, [[1.0], [0.0], [1.0]], "needs one class a sample, (3,), or 2 prob"),
        ("cross_entropy", 2, [[0.5, 0.5], [0.5, 0.4], [1, 0]], "y[1] = [0.5, 0.4] is no vector"),
        ("cross_entropy", 2, [[0.5, 0.5], [1.5, -0.5], [1, 0]], "y[1] = [1.5, -0.5] is no vector"),
        ("hinge2", 1, [0.0, 1.0, 1.0], "y holds 0; loss 'hinge2' needs the classes −1 and 1"),
        ("log_cosh", 2, [0.0, 1.0, 2.0], "y has shape (3,); loss 'log_cosh' with 3 samples"),
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


# -- the newer losses -----------------------------------------------------------------------------


def soft_cross_entropy(f: Tensor, y: Tensor) -> Tensor:
    return functional.cross_entropy(f, y, reduction="none")


NEWER: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "log_cosh": ("log_cosh", lambda f, y: torch.log(torch.cosh(f - y)).sum(-1)),
    "hinge2": ("hinge2", lambda f, y: (1 - y * f).clamp(min=0).pow(2).sum(-1)),
    "hinge3": ("hinge3", lambda f, y: (1 - y * f).clamp(min=0).pow(3).sum(-1)),
    "vectors": ("cross_entropy", soft_cross_entropy),
}


def newer(name: str, samples: int, seed: int = 0) -> tuple[Loss, Tensor]:
    loss, y = loss_named(NEWER[name][0]), normal(samples, 3, seed=seed)
    y = y.sign() if name.startswith("hinge") else y
    if name == "vectors":
        y = torch.softmax(2 * y, -1) * (y > -0.5)
        y[:, 0] += 0.2
        y = y / y.sum(-1, keepdim=True)
        assert bool((y == 0).any())
    return loss, loss.targets(y, samples, 3)


@pytest.mark.parametrize("name", NEWER)
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
def test_newer_losses_have_the_derivatives_of_automatic_differentiation(
    name: str, batch: tuple[int, ...]
) -> None:
    loss, y = newer(name, 6)
    f = 2 * normal(*batch, 6, 3, seed=1)
    value, first, second = loss.derivatives(f, y)
    assert torch.equal(loss.value(f, y), value)
    assert torch.equal(loss.first(f, y)[1], first)
    rows = f.reshape(-1, 6, 3)
    for k, row in enumerate(rows):
        for n in range(6):

            def one(at: Tensor, n: int = n) -> Tensor:
                return NEWER[name][1](at[None], y[n : n + 1])[0]

            for mine, theirs in (
                (value.reshape(-1, 6)[k, n], one(row[n])),
                (first.reshape(-1, 6, 3)[k, n], torch.func.grad(one)(row[n])),
                (second.reshape(-1, 6, 3, 3)[k, n], torch.func.hessian(one)(row[n])),
            ):
                torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", NEWER)
def test_newer_losses_are_convex_and_level_at_their_best_outputs(name: str) -> None:
    loss, y = newer(name, 40)
    second = loss.derivatives(4 * normal(40, 3, seed=3), y)[2]
    assert float(torch.linalg.eigvalsh(second).min()) > -1e-14
    assert float(loss.value(4 * normal(40, 3, seed=3), y).min()) >= 0.0
    best = loss.best_outputs(y, 3)
    if name == "vectors":  # some probabilities are 0: no finite outputs
        assert best is None
        y = y + 0.1
        y = y / y.sum(-1, keepdim=True)
        best = loss.best_outputs(y, 3)
    assert best is not None
    assert float(loss.first(best, y)[1].abs().max()) < 1e-15
    least = loss.value(best, y)
    for seed in range(20):
        assert bool((loss.value(best + normal(40, 3, seed=seed), y) >= least - 1e-15).all())


def test_log_cosh_keeps_its_digits() -> None:
    r = as_tensor([0.0, 1e-160, 1e-30, 1e-9, 1e-3, 0.5, 0.999, 1.0, 1.001, 3.0, 30.0, 800.0])
    with localcontext() as context:
        context.prec, context.Emin = 800, -(10**6)
        cosh = [(Decimal(x).exp() + (-Decimal(x)).exp()) / 2 for x in r.tolist()]
        expected = as_tensor([float(c.ln()) for c in cosh])
        bend = as_tensor([float(1 / (c * c)) for c in cosh])
    value, _, second = loss_named("log_cosh").derivatives(r[:, None], torch.zeros(len(r), 1))
    assert close(value, expected, 4e-15)
    assert close(second[:, 0, 0], bend, 4e-15)
    assert torch.equal(loss_named("log_cosh").value(-r[:, None], 0 * r[:, None]), value)


def test_one_hot_vectors_are_the_classes_they_name() -> None:
    loss, y = loss_and_targets("cross_entropy", 9, 3)
    vectors = functional.one_hot(y, 3).double()
    assert torch.equal(loss.targets(vectors, 9, 3), y)
    # Read as vectors all the same, they give the same to rounding.
    f = normal(9, 3, seed=2)
    for one, other in zip(loss.derivatives(f, vectors), loss.derivatives(f, y), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-15)


def test_a_vector_of_two_probabilities_is_the_logistic_loss_of_their_difference() -> None:
    f, p = normal(7, 2), torch.sigmoid(normal(7, 1, seed=1))
    soft = loss_named("cross_entropy").value(f, torch.cat([1 - p, p], -1))
    assert torch.allclose(soft, loss_named("logistic").value(f[:, 1:] - f[:, :1], p), rtol=1e-13)


@pytest.mark.parametrize("name", ["squared", "log_cosh", "logistic", "cross_entropy", "hinge3"])
def test_what_a_proof_takes_for_the_variation_of_derivatives_is_no_less(name: str) -> None:
    loss = loss_named(name)
    if name in NEWER:
        _, y = newer(name, 30)
    else:
        _, y = loss_and_targets(name, 30, 3)
    f, move = 2 * normal(30, 3, seed=4), 0.3 * torch.rand(30, 3, dtype=torch.float64)
    _, first, second = loss.derivatives(f, y)
    share = torch.full((30,), 1 / 30, dtype=torch.float64)
    bend = second.abs().permute(1, 2, 0) / 30
    found = loss.variation(bend.numpy(), move.T.numpy(), share.numpy())
    assert found is not None
    worst = [0.0, 0.0]
    for seed in range(200):
        there = f + move * (
            2 * torch.rand(30, 3, generator=torch.Generator().manual_seed(seed)) - 1
        )
        changed = loss.derivatives(there, y)
        parts = (changed[1] - first).abs().T / 30, (changed[2] - second).abs().permute(1, 2, 0) / 30
        for k, (part, bound) in enumerate(zip(parts, found, strict=True)):
            over = part - torch.from_numpy(bound)
            assert float(over.max()) <= 1e-15
            near = torch.from_numpy(bound) > 0
            if bool(near.any()):
                worst[k] = max(worst[k], float((part[near] / torch.from_numpy(bound)[near]).max()))
    assert worst[0] > 0.2, "the bound says something"


def test_a_loss_once_defined_is_known_by_its_name_and_travels(tmp_path: Any) -> None:
    class Quartic(sf.ResidualLoss):
        name = "quartic_of_a_test"

        def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return r**4 / 4 + r**2 / 2, r**3 + r, 3 * r**2 + 1

    problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0], Quartic.name)
    assert type(problem.loss) is Quartic
    point = sf.find_critical_point(problem, starts=4)
    sf.save_point(point, tmp_path / "p.safetensors")
    again = sf.load_point(tmp_path / "p.safetensors").point(problem.X, problem.y)
    assert again.problem.loss is problem.loss
    assert again.loss == point.loss


def test_losses_of_one_class_are_one_if_they_hold_the_same() -> None:
    class Scaled(sf.ResidualLoss):
        name = "scaled_of_a_test"

        def __init__(self, by: Tensor | None = None) -> None:
            self.by = torch.ones(2) if by is None else by

        def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.by * r**2 / 2, self.by * r, self.by + 0 * r

    assert Scaled() == Scaled() == loss_named("scaled_of_a_test")
    assert Scaled() != Scaled(torch.tensor([1.0, 2.0]))
    assert Scaled().known
    assert not Scaled(torch.tensor([1.0, 2.0])).known
    assert loss_named("squared") != Scaled()
    assert loss_named(cauchy) != loss_named(cauchy)


def test_a_loss_with_the_name_of_the_library_s_is_not_taken_for_it(tmp_path: Any) -> None:
    class Doubled(sf.ResidualLoss):
        name = "squared"

        def rho(self, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return r**2, 2 * r, 2 + 0 * r

    assert type(loss_named("squared")) is not Doubled
    problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 3.0], Doubled())
    point = sf.Point(problem, problem.net.random_params(0))
    with refused("squared is not the one of that name, and cannot be stored in a file"):
        sf.save_point(point, tmp_path / "p.safetensors")
    assert "loss 'squared' cannot be evaluated in balls" in sf.certify(point).reason


# -- margins --------------------------------------------------------------------------------------


def at_margin(loss: str, beyond: float = 0.0) -> sf.Point:
    """One linear unit, four samples: two on either side, of which the outer ones lie at y f = 1 + beyond."""
    X = as_tensor([[-2.0], [-1.0], [1.0], [2.0]])
    problem = sf.Problem(sf.MLP([1, 1], bias=False), X, [-1.0, 1.0, 1.0, 1.0], loss)
    weight = torch.tensor([[0.5 * (1 + beyond)]], dtype=torch.float64)
    return sf.Point(problem, {"0.weight": weight})


def test_a_jump_of_the_second_derivative_is_heeded_as_a_kink_is() -> None:
    at_it = at_margin("hinge2")
    # The gradient is that of the one sample on the wrong side and its twin: not 0, whatever jumps.
    assert sf.judge(at_it).kind is sf.Kind.NOT_CRITICAL
    X = as_tensor([[1.0], [-1.0]])
    problem = sf.Problem(sf.MLP([1, 1], bias=False), X, [1.0, -1.0], "hinge2")
    corner = sf.Point(problem, {"0.weight": torch.ones(1, 1, dtype=torch.float64)})
    verdict = sf.judge(corner)
    assert verdict.kind is sf.Kind.UNDECIDED
    assert "output 0 of sample 0 is at its margin" in verdict.reason
    assert verdict.inertia is not None
    assert tuple(verdict.inertia)[:3] == (0, 0, 0) or verdict.inertia.positive == 0
    smooth = sf.judge(sf.Point(problem.with_net(problem.net), corner.params))
    assert smooth.kind is sf.Kind.UNDECIDED


def test_beyond_every_margin_the_loss_is_level_and_all_is_flat() -> None:
    X = as_tensor([[1.0], [-1.0], [3.0]])
    for loss in ("hinge2", "hinge3"):
        problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, [1.0, -1.0, 1.0], loss)
        params = problem.net.unflatten(as_tensor([2.0, 3.0, 0.0, 0.1, 2.0, 2.0, 0.0]))
        assert float(problem.risk(params)) == 0.0
        verdict = sf.judge(sf.Point(problem, params))
        assert verdict.kind is sf.Kind.MINIMUM, verdict.reason
        assert verdict.inertia is not None
        assert verdict.inertia.zeros_explained == 7
        assert [family.name for family in verdict.flat_directions] == ["nothing left to learn"]


@pytest.mark.parametrize("loss", ["hinge2", "hinge3"])
def test_minima_of_hinge_losses_agree_with_the_dense_hessian(loss: str) -> None:
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(24, 2, generator=generator, dtype=torch.float64)
    y = (X[:, 0] * X[:, 1] + 0.5 * torch.randn(24, generator=generator)).sign()
    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), X, y, loss, weight_decay=1e-3)
    found = [r for r in sf.run_search(problem, starts=12).runs if r.status is sf.Status.CONVERGED]
    assert found
    for point in found:

        def risk(vector: Tensor) -> Tensor:
            params = problem.net.unflatten(vector)
            margin = 1 - problem.y * problem.net.forward(params, problem.X)
            return margin.clamp(min=0).pow(int(loss[-1])).mean() + 5e-4 * (vector**2).sum()

        vector = problem.net.flatten(point.params)
        assert float(torch.func.grad(risk)(vector).abs().max()) < 1e-9
        values = torch.linalg.eigvalsh(torch.func.hessian(risk)(vector))
        verdict = sf.judge(point)
        assert verdict.kind is sf.Kind.STRICT_MINIMUM
        assert float(values.min()) > 0
        proof = sf.certify(point)
        assert proof.certified, proof.reason
        assert proof.kind == "STRICT_MINIMUM"


@pytest.mark.parametrize("name", NEWER)
def test_newer_losses_are_proved_about(name: str) -> None:
    y = newer(name, 20)[1]
    X = normal(20, 2, seed=8)
    problem = sf.Problem(sf.MLP([2, 1, 3], "tanh"), X, y, NEWER[name][0], weight_decay=0.01)
    for point in [
        r for r in sf.run_search(problem, starts=6).runs if r.record.status == "CONVERGED"
    ]:
        proof = sf.certify(point)
        assert proof.certified, proof.reason
        low, high = proof.loss or (1.0, 0.0)
        assert low <= point.loss <= high or abs(point.loss - low) < 1e-14
        verdict = sf.judge(point)
        assert verdict.kind.value == proof.kind
