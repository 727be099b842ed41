"""What growth says at critical points: what escapes and the inertia law say, and no way down where none is."""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from semiflat.growth.data import CONFIRMS, Data, error_of, mean_of
from semiflat.growth.downstream import over_places
from semiflat.growth.finder import Finder, Growth
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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_no_gain_is_less_than_what_rounding_does_to_the_loss(dtype: torch.dtype) -> None:
    """Of the loss itself, and of parameters whose products cancel."""
    model, X, y = (each.to(dtype) for each in exact_fit(2, nn.Tanh))
    eps = torch.finfo(dtype).eps
    plain = Finder(model, Data.of(model, [(X, y + 1)], half_squared, 12), None).noise
    assert eps * 0.5 <= plain <= 1e3 * eps
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = model[0].weight[0], model[0].bias[0]
        model[2].weight.copy_(torch.tensor([[1e3, -1e3]]))
    cancel = Finder(model, Data.of(model, [(X, y + 1)], half_squared, 12), None).noise
    assert cancel >= 1e2 * eps
    assert cancel > 10 * plain
    model, X, y = (each.to(dtype) for each in constant(2, nn.Tanh))  # rounding changes no output
    assert Finder(model, Data.of(model, [(X, y)], half_squared, 24), None).noise >= eps * 0.5


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


# -- what cannot be asked for, or only in part --------------------------------------------------------


def small() -> tuple[Any, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X = torch.randn(80, 3, dtype=torch.float64)
    return model, X, torch.stack([X[:, 0] * X[:, 1], X[:, 2]], 1)


def absolute_beside_squared(outputs: Any, targets: Any) -> Tensor:
    gaps = outputs - targets
    return (gaps[:, 0].abs() + gaps[:, 1].square()).mean()


def absolute_for_some(outputs: Any, targets: Any) -> Tensor:
    gaps = outputs - targets
    return torch.where(targets > 0, gaps.abs(), gaps.square()).mean()


def squared_hinge(outputs: Any, targets: Any) -> Tensor:
    return F.relu(1 - outputs * targets.sign()).square().mean()


@pytest.mark.parametrize(
    ("loss", "scale", "partly"),
    [
        (absolute_beside_squared, 1.0, True),
        (absolute_for_some, 1.0, True),
        (F.smooth_l1_loss, 5.0, True),
        (squared_hinge, 1.0, False),
        (F.mse_loss, 1.0, False),
    ],
)
def test_a_loss_without_curvature_in_places_is_told_and_what_is_predicted_comes(
    loss: Any, scale: float, partly: bool
) -> None:
    model, X, y = small()
    data = [(X, scale * y)]
    table = sf.where_to_grow(model, data, loss)
    assert (table.uncurved > 0.01) == partly
    assert ("no curvature" in table.advice) == partly
    grown = sf.grow(model, data, loss, units=1, rounds=1)
    for step in grown.plan:
        assert step.achieved == pytest.approx(step.growth.predicted, rel=1e-6)
    if not grown.plan:
        assert ("no curvature" in grown.reason) == partly


class FixedWidth(nn.Module):
    """It has the number of its units in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.first(x)).reshape(len(x), 2, 2).flatten(1)
        return self.last(torch.tanh(self.second(h)))


def test_what_widen_refuses_the_table_refuses() -> None:
    _, X, y = small()
    model = FixedWidth().double()
    table = sf.where_to_grow(model, [(X, y)], F.mse_loss)
    assert set(table) == {"second"}
    for name in table.refused:
        with pytest.raises(sf.InputError):
            sf.widen(model, X[:8], name, units=1)
    for name in table:
        sf.widen(model, X[:8], name, units=1)
    with pytest.raises(sf.InputError, match="first"):
        sf.where_to_grow(model, [(X, y)], F.mse_loss, ["first"])


class ByValue(nn.Module):
    """What it does depends on the values of its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        h = torch.tanh(self.first(x))
        return self.last(h if float(h.detach().sum()) > 0 else -h)


def refusals() -> Iterator[tuple[str, Any, Any, Any, dict[str, Any], str]]:
    model, X, y = small()
    yield (
        "twice",
        model,
        [(X, y)],
        F.mse_loss,
        {"groups": ["0", "0"]},
        "names the units of '0' twice",
    )
    yield "by value", ByValue().double(), [(X, y)], F.mse_loss, {}, "depends on the values"
    yield "no pairs", model, [X], F.mse_loss, {}, "expected a pair"
    yield "no targets", model, [(X, None)], F.mse_loss, {}, "no targets"
    added_up = lambda o, t: F.mse_loss(o, t, reduction="sum")  # noqa: E731
    yield "a sum", model, [(X, y)], added_up, {}, "mean over the batch"
    coarse = [(X.bfloat16(), y.bfloat16())]
    yield "coarse", small()[0].bfloat16(), coarse, F.mse_loss, {}, "too coarse"
    normed = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    alone = [(X[k : k + 1], y[k : k + 1]) for k in range(9)]
    yield "single samples in a norm", normed, alone, F.mse_loss, {}, "the model fails on batch 0"
    broken = small()[0]
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    yield "not finite", broken, [(X, y)], F.mse_loss, {}, "finite"
    yield "inputs not finite", model, [(X / 0, y)], F.mse_loss, {}, "finite"
    deep = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    deep[0].requires_grad_(False)
    yield "no switch", model, [(X, y)], F.mse_loss, {"frozen": "no"}, "frozen must be True or False"
    yield "frozen", deep, [(X, y)], F.mse_loss, {"groups": ["0"]}, "frozen=True"


@pytest.mark.parametrize("case", list(refusals()), ids=lambda case: case[0])
def test_what_cannot_be_is_refused_in_a_line_and_nothing_changes(
    case: tuple[str, Any, Any, Any, dict[str, Any], str],
) -> None:
    _, model, data, loss, asked, said = case
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for ask in (
        sf.where_to_grow,
        lambda *given, **more: sf.grow(*given, units=1, depth=True, **more),
    ):
        with pytest.raises(sf.InputError, match=said) as caught:
            ask(model, data, loss, **asked)
        assert "\n" not in str(caught.value)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("given", [{"weight": torch.tensor([1.0, 5.0, 0.2])}, {"ignore_index": 2}])
def test_samples_that_count_less_are_taken_as_the_refusal_says(given: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3))
    X, y = torch.randn(200, 4), torch.arange(200) // 67

    def by_their_weights(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, **given)

    def by_their_number(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, **given, reduction="sum") / len(targets)

    with pytest.raises(sf.InputError, match=r"reduction='sum'\) / len\(targets\)"):
        sf.where_to_grow(model, [(X, y)], by_their_weights)
    best = sf.where_to_grow(model, [(X, y)], by_their_number).best
    assert best is not None
    assert best.predicted > 0


def test_batches_of_one_sample_are_batches() -> None:
    model, X, y = small()
    alone = [(X[k : k + 1], y[k : k + 1]) for k in range(20)]
    assert sf.where_to_grow(model, alone, F.mse_loss)["0"].searched > 0
    assert sf.grow(model, alone[:1], F.mse_loss, units=1).units == 1


def test_one_batch_confirms_and_its_parts_say_how_the_loss_varies() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    X = torch.randn(90, 3, dtype=torch.float64)
    data = Data.of(model, [(X, X.prod(1, keepdim=True))], F.mse_loss, None)
    (batch,) = data.confirming
    parts = batch.parts(CONFIRMS)
    finder = Finder(model, data, None)
    growth = finder.new_units("0", 2, 0)
    assert growth._step is not None
    # The point holds the new units in the places of the first two: what they add is a difference.
    twins = []
    for values in (growth._step.point, finder._locals("0")[1].reference):
        twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
        twin.load_state_dict({name: values[name] for name in twin.state_dict()})
        twins.append(twin)
    wide, deaf = twins
    falls = []
    with torch.no_grad():
        for part in parts:
            now, more = model(part.inputs), wide(part.inputs) - deaf(part.inputs)
            both = (F.mse_loss(given, part.targets).item() for given in (now, now + more))
            falls.append(next(both) - next(both))
    assert growth.predicted == pytest.approx(mean_of(falls, parts), rel=1e-9)
    assert growth.error == pytest.approx(error_of(falls, parts), rel=1e-9)


@pytest.mark.parametrize("lie", ["first", "with positions", "second", "alone"])
def test_sums_over_places_are_of_each_sample_whichever_way_samples_lie(lie: str) -> None:
    values = torch.arange(2 * 5 * 3, dtype=torch.float64).view(2, 5, 3)  # of 5 samples, 3 positions
    laid = {
        "first": values,
        "with positions": values.flatten(1),
        "second": values.transpose(1, 2),
        "alone": values[:, :, 0],
    }[lie]
    expected = values[:, :, 0] if lie == "alone" else values.sum(2)
    assert torch.equal(over_places(laid, 5), expected)
    assert over_places(values.transpose(1, 2), 7).tolist() == [[105.0], [330.0]]  # not known


def test_the_losses_of_all_data_and_of_a_model_are_computed_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is not asked for any more is not looked for: no search after the last step."""
    made: list[Any] = []

    class Counted(Finder):
        def __init__(self, *given: Any, **more: Any) -> None:
            made.append(given)
            super().__init__(*given, **more)

    monkeypatch.setattr(sys.modules["semiflat.growth.grow"], "Finder", Counted)
    model, X, y = small()
    assert sf.grow(model, [(X, y)], F.mse_loss, ["0"], units=2).units == 2
    assert len(made) == 1
    made.clear()
    assert not sf.grow(model, [(X, y)], F.mse_loss, until=1e9).plan
    assert len(made) == 1


def test_where_no_new_unit_helps_units_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two equal units at a critical point: a split goes down at second order, and comes as predicted."""
    torch.manual_seed(0)
    X = torch.randn(200, 2, dtype=torch.float64)
    y = X[:, :1].tanh() - 0.5 * (2 * X[:, 1:]).tanh()
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    with torch.no_grad():
        for tensor, axis in ((model[0].weight, 0), (model[0].bias, 0), (model[2].weight, 1)):
            assert isinstance(tensor, Tensor)
            tensor.index_copy_(axis, torch.tensor([1]), tensor.narrow(axis, 0, 1).clone())
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), y)
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    found = Finder.new_units

    def none(self: Finder, name: str, count: int, seed: int) -> Growth:
        return dataclasses.replace(found(self, name, count, seed), predicted=0.0)

    monkeypatch.setattr(Finder, "new_units", none)
    grown = sf.grow(model, [(X, y)], F.mse_loss, units=2)
    assert [row["way"] for row in grown._rows()] == ["split unit 0", "split unit 0"]
    for step in grown.plan:
        assert step.achieved > 0
        assert step.achieved == pytest.approx(step.growth.predicted, rel=1e-9)
    added = sum(p.numel() for p in grown.model.parameters()) - sum(
        p.numel() for p in model.parameters()
    )
    assert added == sum(step.growth.parameters for step in grown.plan) == 8
    same = sf.grow(model, [(X, y)], F.mse_loss, units=1, step=False)
    assert same.units == 1
    torch.testing.assert_close(same.model(X), model(X), rtol=0, atol=1e-12)
