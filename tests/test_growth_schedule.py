"""Growing while training: what is compared, what stops it, and which width is enough."""

from __future__ import annotations

import io
import warnings
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from semiflat.growth import schedule as room
from semiflat.growth.schedule import Visit

torch.manual_seed(0)
X = torch.randn(480, 6, dtype=torch.float64)
Y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).long()
PARTS = list(zip(X.split(40), Y.split(40), strict=True))
TRAIN, HELD_OUT = PARTS[:8], PARTS[8:]


def net(seed: int = 0, first: int = 2, second: int = 2) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Linear(6, first), nn.Tanh(), nn.Dropout(0.1)),
        *(nn.Linear(first, second), nn.GELU(), nn.Linear(second, 2)),
    ).double()


def schedule(**options: Any) -> sf.GrowthSchedule:
    return sf.GrowthSchedule(
        TRAIN, F.cross_entropy, **{"held_out": HELD_OUT, "rounds": 1, **options}
    )


def trained(model: nn.Module, optimizer: Any, epochs: int = 1) -> None:
    for _ in range(epochs):
        for inputs, targets in TRAIN:
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()


def adam(model: nn.Module) -> Any:
    return torch.optim.Adam(model.parameters(), lr=0.005)


def mean_loss(model: nn.Module, batches: Any) -> float:
    with torch.no_grad():
        return float(torch.stack([F.cross_entropy(model(x), y) for x, y in batches]).mean())


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> list[sf.GrowthTable]:
    """The tables that a schedule goes by."""
    seen: list[sf.GrowthTable] = []
    look = room.where_to_grow

    def kept(*args: Any, **options: Any) -> sf.GrowthTable:
        seen.append(look(*args, **options))
        return seen[-1]

    monkeypatch.setattr(room, "where_to_grow", kept)
    return seen


def grown_at_once(schedule: sf.GrowthSchedule, model: nn.Module) -> Any:
    """What comes of a second call, for which training has taken off nothing."""
    assert schedule.step(model) is None
    return schedule.step(model)


@pytest.fixture
def dear_and_cheap(monkeypatch: pytest.MonkeyPatch) -> tuple[nn.Module, Any]:
    """A model and data; of its groups "0" is said to take off twice what "2" does, at five times the cost."""
    torch.manual_seed(3)
    inputs = torch.randn(320, 16, dtype=torch.float64)
    targets = inputs[:, :1] * inputs[:, 1:2] + torch.sin(2 * inputs[:, 2:3])
    model = nn.Sequential(
        *(nn.Linear(16, 2), nn.Tanh(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1))
    ).double()
    look = room.where_to_grow

    def said(*args: Any, **options: Any) -> dict[str, sf.Growth]:
        table = look(*args, **options)
        return {name: replace(table[name], predicted=to) for name, to in [("0", 0.8), ("2", 0.4)]}

    monkeypatch.setattr(room, "where_to_grow", said)
    return model, list(zip(inputs.split(40), targets.split(40), strict=True))


@pytest.mark.parametrize(
    ("room_for", "group"), [(None, "2"), (19, "2"), (4, "2"), (3, None)], ids=str
)
def test_what_grows_is_the_best_for_each_parameter_of_all_that_fit(
    dear_and_cheap: tuple[nn.Module, Any], room_for: int | None, group: str | None
) -> None:
    model, data = dear_and_cheap
    size = sum(p.numel() for p in model.parameters())
    limit = None if room_for is None else size + room_for
    found = sf.GrowthSchedule(data, F.mse_loss, held_out=data, rounds=1, limit=limit)
    change = grown_at_once(found, model)
    groups = [step.growth.group for step in change.plan] if change else []
    assert groups == ([group] if group else [])
    assert found.done is (group is None)
    assert found.curve[1].by_growing == (0.4 / 4 if group else 0)


def test_a_dear_group_is_left_out_below_the_limit_and_a_cheap_one_grows(
    dear_and_cheap: tuple[nn.Module, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, data = dear_and_cheap
    size = sum(p.numel() for p in model.parameters())
    said = room.where_to_grow

    def dear_first(*args: Any, **options: Any) -> dict[str, sf.Growth]:
        table = said(*args, **options)
        return {**table, "0": replace(table["0"], predicted=8.0)}

    monkeypatch.setattr(room, "where_to_grow", dear_first)
    for room_for, group in [(19, "0"), (18, "2")]:
        found = sf.GrowthSchedule(data, F.mse_loss, held_out=data, rounds=1, limit=size + room_for)
        change = grown_at_once(found, model)
        assert [step.growth.group for step in change.plan] == [group]


def test_what_growing_took_off_is_not_counted_as_training() -> None:
    """The model that was handed back, called with again at once: training has done nothing."""
    model = net()
    trained(model, adam(model), 5)
    found = schedule()
    change = grown_at_once(found, model)
    found.step(change.model)
    assert [each.event for each in found.curve[:4]] == ["trained", "trained", "grown", "trained"]
    assert found.curve[2].confirming < found.curve[1].confirming
    assert found.curve[1].by_training == found.curve[3].by_training == 0


def test_training_and_growing_are_held_against_each_other_on_the_same_samples(
    tables: list[sf.GrowthTable],
) -> None:
    model = net()
    optimizer, found = adam(model), schedule()
    found.step(model)
    trained(model, optimizer, 3)
    found.step(model)
    assert found._data is not None
    confirming = [(each.inputs, each.targets) for each in found._data.confirming]
    first, second = found.curve[:2]
    model.eval()
    assert second.confirming == pytest.approx(mean_loss(model, confirming), rel=1e-12)
    assert tables[0].loss == pytest.approx(second.confirming, rel=1e-12)
    size = sum(p.numel() for p in model.parameters())
    assert second.by_training == (first.confirming - second.confirming) / size
    assert second.loss == pytest.approx(mean_loss(model, HELD_OUT), rel=1e-12)


@pytest.fixture(scope="module")
def run() -> tuple[sf.GrowthSchedule, Any]:
    """A schedule after some epochs, and the model then."""
    model, found = net(), schedule()
    trained(model, optimizer := adam(model), 4)
    for _ in range(5):
        trained(model, optimizer)
        if change := found.step(model):
            model, optimizer = change.model, change.carry(optimizer)
    return found, model


def test_it_grows_where_growing_gives_more_than_training_and_nowhere_else(run: Any) -> None:
    found, _ = run
    worth = {
        each.call: each.by_growing > max(each.by_training, 0)
        for each in found.curve
        if each.by_growing is not None
    }
    grown = {each.call for each in found.curve if each.event == "grown"}
    assert grown
    assert grown <= {call for call, more in worth.items() if more}
    assert found.curve[0].by_training is found.curve[0].by_growing is None


def test_a_grown_model_that_is_not_taken_up_is_told_and_counts_as_it_is() -> None:
    model = net()
    trained(model, adam(model), 5)
    found = schedule()
    assert grown_at_once(found, model) is not None
    with pytest.warns(UserWarning, match=r"not taken up.*change\.carry") as told:
        found.step(model)
    assert told[0].filename == __file__
    last = next(each for each in reversed(found.curve) if each.event == "trained")
    assert last.by_training == 0, "from the loss of this model, not of the grown one"
    other = net(first=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.step(other) is None
    assert found.curve[-1].by_training is None, "nothing is known of its training"


@pytest.mark.parametrize("call", [0, 1])
def test_a_loss_that_is_not_finite_is_one_line_and_nothing_is_recorded(call: int) -> None:
    model, found = net(), schedule()
    for _ in range(call):
        found.step(model)
    before = found.state_dict()
    broken = net()
    with torch.no_grad():
        broken[0].weight[0, 0] = torch.nan
    with pytest.raises(sf.InputError, match=r"loss is nan.*the model's parameters") as caught:
        found.step(broken)
    assert "\n" not in str(caught.value)
    assert found.state_dict() == before
    with pytest.raises(sf.InputError, match="nothing to grow"):
        found.step(nn.Tanh())
    assert found.state_dict() == before


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_model_comes_back_in_its_modes_and_can_be_trained(mode: Any) -> None:
    model = net()
    trained(model, optimizer := adam(model), 5)
    model[1].eval()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = schedule()
    with mode():
        change = grown_at_once(found, model)
    modes = [[each.training for each in m.modules()] for m in (model, change.model)]
    assert modes[0] == modes[1] == [True, True, False, True, True, True, True]
    assert all(torch.equal(kept[name], each) for name, each in model.state_dict().items())
    before = mean_loss(change.model, TRAIN)
    trained(change.model, change.carry(optimizer), 5)
    assert mean_loss(change.model, TRAIN) < before


class FixedHeads(nn.Module):
    """Attention that has its number of heads in its code, and units behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(4, 12), nn.Linear(4, 4)
        self.up, self.down = nn.Linear(4, 2), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.stack([x[:, :4], x[:, 2:]], 1)
        q, k, v = self.qkv(x).view(len(x), 2, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(x), 2, 4)
        return self.down(torch.tanh(self.up((x + self.out(y)).mean(1))))  # type: ignore[no-any-return]


def test_a_group_that_cannot_be_widened_is_left_to_the_others() -> None:
    torch.manual_seed(0)
    model = FixedHeads().double()
    trained(model, adam(model), 3)
    found = schedule()
    found.step(model)
    change = None
    for _ in range(2):
        change = change or found.step(model)
    assert {step.growth.group for step in change.plan} == {"up"}
    assert set(found.refused) <= {"qkv"}


def test_widths_are_those_of_the_model_and_enough_is_the_smallest_that_is_near(
    run: tuple[sf.GrowthSchedule, Any],
) -> None:
    found, model = run
    assert found.curve[-1].widths == {"0": model[0].out_features, "3": model[3].out_features}
    lowest = min(found.curve, key=lambda each: each.loss)

    def near(each: Visit) -> bool:  # all held-out batches are as large
        difference = torch.tensor(each.losses) - torch.tensor(lowest.losses)
        return float(difference.mean()) <= float(difference.std()) / len(difference) ** 0.5

    assert found.enough.parameters == min(each.parameters for each in found.curve if near(each))
    shapes = {tuple(each.widths.values()) for each in found.curve}
    assert len(found.by_width) == len(shapes) > 1
    text = str(found)
    assert len(text.splitlines()) == 1 + len(shapes)
    assert text.count("<- enough") == 1
    (line,) = (line for line in text.splitlines() if "<- enough" in line)
    assert f"0: {found.enough.widths['0']}, 3: {found.enough.widths['3']}" in line
    assert f"{found.enough.loss:.4g}" in line
    assert "\n" not in repr(found)
    assert found.to_json()["enough"] == found.enough.widths
    assert len(found.to_dataframe()) == len(found.curve)
    assert str(schedule()) == "no model was seen yet"


def test_a_width_is_enough_if_what_it_is_above_the_lowest_is_within_the_error_of_just_that() -> (
    None
):
    """Batches differ far more from one another than models do on them: that says nothing of the models."""
    found = schedule(held_out=[(X[:4], Y[:4])])
    hard = torch.tensor([0.1, 2.0, 0.4, 1.1])
    above = {2: [0.05, 0.06, 0.05, 0.06], 3: [0.03, -0.03, 0.04, -0.03], 4: [0.0] * 4}
    found.curve = []
    for units, more in above.items():
        for late in (0.5, 0.0):
            losses = hard + torch.tensor(more) + late
            visit = Visit(0, "trained", {"0": units}, 10 * units, float(losses.mean()), (), 0.0)
            found.curve.append(replace(visit, losses=tuple(losses.tolist())))
    assert [each.widths["0"] for each in found.by_width] == [2, 3, 4]
    assert all(each.loss < 1 for each in found.by_width), "the lowest of each width"
    assert found.enough.widths == {"0": 3}


def test_units_that_are_redundant_go_when_patience_has_run_out_with_their_bound() -> None:
    model = net(first=4)
    trained(model, optimizer := adam(model), 5)
    with torch.no_grad():  # two units nearly alike
        model[0].weight[1] = model[0].weight[0] + 1e-3
        model[0].bias[1] = model[0].bias[0]
    found = schedule(patience=2, tolerance=0.01, limit=1)
    changes = [found.step(model) for _ in range(3)]
    assert changes[:2] == [None, None]
    small = changes[2]
    assert isinstance(small, sf.Shrunk)
    assert found.done
    last = found.curve[-1]
    assert (last.event, last.bound) == ("shrunk", small.bound)
    given = torch.cat([model.eval()(x).detach() for x, _ in TRAIN])
    left = torch.cat([small.model.eval()(x).detach() for x, _ in TRAIN])
    there = float((given - left).abs().max() / given.abs().max())
    assert 0 < last.bound <= 0.01
    assert there == pytest.approx(last.bound, rel=1e-6)
    trained(small.model, small.carry(optimizer))
    assert found.step(small.model) is None
    assert found.curve[-1].bound == small.bound
    assert found.enough.parameters == sum(p.numel() for p in small.model.parameters())
    assert found.enough.bound == found.to_json()["bound"] == small.bound
    assert f"no output changed by more than {small.bound:.2g}" in str(found)


def test_no_more_growth_once_patience_has_run_out(tables: list[sf.GrowthTable]) -> None:
    model = net()
    trained(model, adam(model), 5)
    found = schedule(patience=1)
    assert grown_at_once(found, model) is None
    assert found.done
    assert not tables


def test_a_schedule_goes_on_from_a_checkpoint_as_if_it_had_not_stopped() -> None:
    model = net()
    trained(model, optimizer := adam(model), 3)
    one = schedule()
    one.step(model)
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other = schedule()
    other.load_state_dict(torch.load(file, weights_only=True))
    trained(model, optimizer)
    changes = [each.step(model) for each in (one, other)]
    assert one.curve == other.curve
    assert len(one.curve) == 3
    first, second = (change.model.state_dict() for change in changes)
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = one.state_dict()
    for wrong in ({}, {**before, "curve": [{"call": 0}]}, None):
        with pytest.raises(sf.InputError, match="no state of a GrowthSchedule"):
            one.load_state_dict(wrong)  # type: ignore[arg-type]
    assert one.state_dict() == before
    elsewhere = schedule(held_out=PARTS)
    with pytest.raises(sf.InputError, match="is not of 12 held-out batches"):
        elsewhere.load_state_dict(before)
    assert elsewhere.curve == []


def test_names_of_groups_that_are_not_there_are_refused_at_the_first_call() -> None:
    found = schedule(groups=["9"])
    with pytest.raises(sf.InputError, match="'9'"):
        found.step(net())
    assert found.curve == []
