"""What growth says at critical points: what escapes and the inertia law say, and no way down where none is."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from semiflat.growth.data import Data
from semiflat.modules.batches import Batches


def half_squared(outputs: Any, targets: Any) -> Tensor:
    """As the loss ``"squared"`` of a problem with one output."""
    return F.mse_loss(outputs, targets) / 2


@pytest.fixture
def all_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sample is searched and confirms: a critical point is one of all data, and of no part of them."""

    def of(_: Any, batches: Any, loss: Any, *__: Any) -> Data:
        given = Batches(batches)
        every = list(given)
        return Data(given, every, every, loss)

    monkeypatch.setattr(Data, "of", of)


# -- strict minima ---------------------------------------------------------------------------------


def wave() -> tuple[Tensor, Tensor]:
    X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    return X, torch.sin(3 * X) + 0.3 * X


def grid() -> tuple[Tensor, Tensor]:
    """XOR on nine points, with noise, so that no small network fits it."""
    X = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 2)
    noise = torch.randn(9, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return X, X.prod(1, keepdim=True) + 0.2 * noise


def iris() -> tuple[Tensor, Tensor]:
    data = sf.load_data("iris")
    X, y = torch.as_tensor(data.X).double()[::5, 2:], torch.as_tensor(data.y)[::5]
    return X, (y == 1).double()[:, None]


def minima() -> Iterator[tuple[str, sf.Point, Tensor, Tensor]]:
    for task, width in ((wave, 2), (wave, 3), (grid, 2), (iris, 2), (iris, 3)):
        X, y = task()
        for activation in ("tanh", "gelu"):
            net = sf.MLP([X.shape[1], width, 1], activation)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # all runs of some end at infinity
                found = sf.find_critical_points(sf.Problem(net, X, y), starts=20, seed=0)
            for point in list(found)[:1]:
                if sf.judge(point).kind is sf.Kind.STRICT_MINIMUM:
                    yield f"{task.__name__} {activation} {width}", point, X, y


@pytest.fixture(scope="module")
def proved() -> list[tuple[str, sf.Point, Tensor, Tensor]]:
    """Points proved to be strict minima, with two and with three hidden units."""
    pytest.importorskip("flint")
    found = [each for each in minima() if sf.certify(each[1]).kind == "STRICT_MINIMUM"]
    assert {name[-1] for name, *_ in found} == {"2", "3"}
    assert len(found) >= 5
    return found


def test_at_proved_strict_minima_the_table_agrees_with_escapes_and_the_inertia_law(
    proved: list[tuple[str, sf.Point, Tensor, Tensor]], all_data: None
) -> None:
    for name, point, X, y in proved:
        model = point.problem.net.to_module(point.params)
        table = sf.where_to_grow(model, [(X, y)], half_squared)
        assert table.loss == pytest.approx(float(point.loss), rel=1e-9)
        known, narrow = table.curvature, sf.judge(point).inertia
        assert known is not None
        assert narrow is not None
        for unit in range(len(known["0"].units)):
            for shares in ([0.25, 0.75], [1.5, -0.5]):
                law = known.law({"0": {unit: shares}}, narrow=narrow)
                wide = sf.judge(sf.Replicate(0, unit, shares)(point)).inertia
                assert (law.positive, law.zero, law.negative) == tuple(wide or ()), name
        law = known.law(nulls={"0": 1}, narrow=narrow)
        wide = sf.judge(sf.NullUnits(0, [0.0])(point)).inertia
        assert (law.positive, law.zero, law.negative) == tuple(wide or ()), name
        escape = sf.escape(point)
        assert escape.kind in ("replicated unit", "null unit"), name
        # There is a way down, by copies or by a null unit: so it is said, and it is offered.
        assert table.truly_bad is False, name
        assert table["0"].predicted > 0, name
        signs = [unit.positive + unit.negative for unit in known["0"].units]
        assert ("0" in table.splits) == (max(signs) > 0), name
        assert all(split.predicted > 0 for split in table.splits.values()), name
        assert table.advice.startswith("grow"), name
        grown = sf.grow(model, [(X, y)], half_squared, units=1)
        assert grown.loss_after < float(point.loss), name


def test_in_float32_no_strict_minimum_is_called_truly_bad(
    proved: list[tuple[str, sf.Point, Tensor, Tensor]], all_data: None
) -> None:
    for name, point, X, y in proved:
        model = point.problem.net.to_module(point.params).float()
        table = sf.where_to_grow(model, [(X.float(), y.float())], half_squared)
        assert table.truly_bad is not True, name
        assert table["0"].predicted > 0, name


# -- points without a way down ---------------------------------------------------------------------


def exact_fit(width: int, activation: type[nn.Module]) -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(width)
    model = nn.Sequential(nn.Linear(2, width), activation(), nn.Linear(width, 1)).double()
    X = torch.randn(12, 2, dtype=torch.float64)
    return model, X, model(X).detach()


def contradicting(width: int, activation: type[nn.Module]) -> tuple[Any, Tensor, Tensor]:
    """Each input twice, with targets above and below: the mean is the best that any function does."""
    model, X, y = exact_fit(width, activation)
    return model, X.repeat(2, 1), torch.cat([y + 1, y - 1])


def constant(width: int, activation: type[nn.Module]) -> tuple[Any, Tensor, Tensor]:
    """The same, with units that nothing reads."""
    model, X, _ = contradicting(width, activation)
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.zero_()
    return model, X, torch.cat([torch.ones(12, 1), -torch.ones(12, 1)]).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("case", [exact_fit, contradicting, constant])
def test_where_no_function_does_better_no_way_down_is_offered(
    case: Callable[..., tuple[Any, Tensor, Tensor]], dtype: torch.dtype, all_data: None
) -> None:
    for width, activation in ((2, nn.Tanh), (3, nn.GELU), (2, nn.Softplus)):
        model, X, y = case(width, activation)
        model, X, y = model.to(dtype), X.to(dtype), y.to(dtype)
        if case is exact_fit:
            y = model(X).detach()
        table = sf.where_to_grow(model, [(X, y)], half_squared)
        assert table.best is None
        assert all(split.predicted == 0 for split in table.splits.values())
        assert table.advice.startswith("nothing")
        assert table.truly_bad is (True if dtype is torch.float64 else None)
        if width == 2:
            for depth in (False, True):
                grown = sf.grow(model, [(X, y)], half_squared, units=2, depth=depth)
                assert grown.plan == ()
                assert grown.loss_after == grown.loss_before


def test_sums_that_cancel_have_no_rank() -> None:
    """F∅ of units that nothing reads is a sum of terms that cancel: what is left of them is rounding."""
    for seed in range(5):
        X = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        X, y = X.repeat(2, 1), torch.tensor([1.0, -1.0]).double().repeat_interleave(6)[:, None]
        model: Any = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
        with torch.no_grad():
            model[2].weight.zero_()
            model[2].bias.zero_()
        for unit in sf.unit_curvature(model, [(X, y)], half_squared)["0"].units:
            assert (unit.positive, unit.negative, unit.rank_F, unit.null_rank) == (0, 0, 0, 0)


def test_where_K_and_F_are_0_what_is_offered_is_first_order_and_comes(all_data: None) -> None:
    """At this point for XOR no copy and no null unit helps; a unit elsewhere does, and is no copy of any."""
    X = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 2)
    y = X.prod(1, keepdim=True)
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].weight.copy_(torch.tensor([[1.3, 0.0], [0.0, 0.7]]))
    table = sf.where_to_grow(model, [(X, y)], half_squared)
    assert table.truly_bad is True
    assert not table.splits
    assert table["0"].predicted > 0
    (step,) = sf.grow(model, [(X, y)], half_squared, units=1, rounds=1).plan
    assert step.achieved == pytest.approx(table["0"].predicted, rel=1e-9)
