"""Growth: what a new unit is said to take off the loss, and what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import semiflat as sf
from semiflat.growth.candidates import LocalModel, between, pursued, settled, stepped
from semiflat.growth.data import Data
from semiflat.growth.downstream import _root_times
from semiflat.growth.finder import Finder
from semiflat.modules.batches import Batches


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Attention(nn.Module):
    def __init__(self, width: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.last = nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Any:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, self.size).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        return self.last(torch.tanh(x + self.out(y)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2)
    )


def conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.BatchNorm2d(3),
        nn.GELU(),
        nn.Conv2d(3, 2, 3),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(2, 2),
    )


def conv_flat() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(3, 2)
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear units": (mlp, (3,), "0"),
    "linear units, deeper": (mlp, (3,), "2"),
    "gated units": (Gated, (3,), "gate"),
    "heads": (Attention, (3, 4), "qkv"),
    "channels through batch norm": (conv, (1, 4, 4), "0"),
    "channels": (conv, (1, 4, 4), "3"),
    "channels read flat": (conv_flat, (1, 4, 4), "0"),
}
LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "squared": lambda out, y: F.mse_loss(out, F.one_hot(y, 2).to(out)),
    "cross-entropy": F.cross_entropy,
}


def made(name: str, seed: int = 0, samples: int = 12) -> tuple[Any, Tensor, Tensor, str]:
    torch.manual_seed(seed)
    make, shape, group = MODELS[name]
    model = make().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.train()(torch.randn(40, *shape, dtype=torch.float64))
    X = torch.randn(samples, *shape, dtype=torch.float64)
    return model.eval(), X, (X.flatten(1).sum(1) > 0).long(), group


def searched(
    model: nn.Module, X: Tensor, y: Tensor, loss: Any, group: str, parts: int = 1
) -> LocalModel:
    pairs = [(X.chunk(parts)[k], y.chunk(parts)[k]) for k in range(parts)]
    batches = Batches(pairs)
    finder = Finder(
        model, Data(batches, list(batches), list(batches), loss), torch.float64, [group]
    )
    return LocalModel(group, finder._seen[0], damping=0.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", MODELS)
def test_the_local_model_is_the_loss_of_the_wider_model_to_second_order(
    name: str, loss: str
) -> None:
    """Against autodiff of the widened model: the slope, and the Gauss–Newton curvature in what reads."""
    model, X, y, group = made(name)
    local = searched(model, X, y, LOSSES[loss], group, parts=2)
    generator = torch.Generator().manual_seed(1)
    drawn = local.drawn(generator)
    count = local.group.size
    at = {
        part.name: torch.randn(drawn[part.name].shape, generator=generator, dtype=torch.float64)
        for part in local.branch.parts
        if part.reads
    }
    slots = local.group.slots
    incoming = {s.name: drawn[s.name] for s in slots if s.role != "reads"}
    given = {
        slot.name: incoming[slot.name].index_select(slot.axis, slot.positions.reshape(-1))
        for slot in slots
        if slot.role != "reads"
    }
    wide = sf.widen(model, X, group, units=count, incoming=given)
    groups = sf.units(wide.model, X)
    reading = {slot.name: slot for slot in groups[group].of("reads")}
    moves, point = {}, {**drawn, **local.deaf}
    for slot in local.group.of("reads"):
        new = reading[slot.name]
        move = torch.zeros_like(dict(wide.model.named_parameters())[slot.name])
        values = at[slot.name].index_select(slot.axis, slot.positions.reshape(-1))
        move.index_copy_(slot.axis, new.positions[count:].reshape(-1), values)
        moves[slot.name] = move.detach()
        whole = point[slot.name].clone()
        whole.index_copy_(slot.axis, slot.positions.reshape(-1), values)
        point[slot.name] = whole

    def outputs(t: Tensor) -> Any:
        moved = {
            n: p.detach() + t * moves[n] for n, p in wide.model.named_parameters() if n in moves
        }
        return torch.func.functional_call(wide.model, moved, (X,))

    zero = torch.zeros((), dtype=torch.float64)
    out, along, *_ = torch.func.jvp(outputs, (zero,), (torch.ones_like(zero),))
    of = LOSSES[loss]
    slope, curved = (
        torch.func.grad(lambda o: of(o, y))(out),
        torch.func.hessian(lambda o: of(o, y))(out),
    )
    first = (slope * along).sum()
    second = along.reshape(-1) @ curved.reshape(along.numel(), -1) @ along.reshape(-1)
    for t in (0.5, -2.0):
        scaled = {n: local.deaf[n] + t * (point[n] - local.deaf[n]) for n in local.deaf}
        found = local.value({**point, **scaled})
        assert found == pytest.approx(float((t * first + t * t * second / 2).detach()), rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_products_of_each_candidate_add_up_to_those_of_all(name: str) -> None:
    model, X, y, group = made(name)
    local = searched(model, X, y, F.cross_entropy, group)
    heard, rows, slopes = local.heard(local.drawn(torch.Generator().manual_seed(0)))
    total = slopes.sum() + 0.5 * rows.sum(0).square().sum()
    assert local.value(heard) == pytest.approx(float(total), rel=1e-9)


def test_the_root_of_the_curvature_is_exact_after_as_many_steps_as_it_has_rows() -> None:
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(5, 6, 4, generator=generator, dtype=torch.float64)
    H = A @ A.mT  # of rank 4
    v = torch.randn(5, 6, generator=generator, dtype=torch.float64)
    root = _root_times(lambda x: torch.einsum("sij,sj->si", H, x), v, 6)
    values, vectors = torch.linalg.eigh(H)
    roots = vectors * values.clamp(min=0).sqrt()[:, None] @ vectors.mT
    torch.testing.assert_close(root, torch.einsum("sij,sj->si", roots, v), rtol=1e-6, atol=1e-6)


def test_drawn_columns_give_the_curvature_in_the_mean() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 14)).double()
    X, y = torch.randn(6, 3, dtype=torch.float64), torch.randint(0, 14, (6,))
    data = Data.of(model, [(X, y)], F.cross_entropy, 100)
    every = list(data.batches)
    finder = Finder(model, Data(data.batches, every, every, data.loss), torch.float64)
    seen = [finder.seen(["0"], every, seed=seed)[0] for seed in range(150)]
    (node,) = seen[0].factors
    found = torch.stack([torch.einsum("kni,knj->nij", *[s.factors[node]] * 2) for s in seen])
    outputs = model(X).detach()
    exact = torch.stack(
        [
            torch.func.hessian(lambda o, k=k: F.cross_entropy(o[None], y[k : k + 1]))(outputs[k])
            / 6
            for k in range(6)
        ]
    )
    error = found.std(0) / len(seen) ** 0.5
    assert float(((found.mean(0) - exact).abs() / (error + 1e-9)).max()) < 5
    assert float(error.max()) < 0.1 * float(exact.abs().max())


def test_directions_are_chosen_by_what_they_lower() -> None:
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(8, 20, generator=generator, dtype=torch.float64)
    slopes = torch.randn(8, generator=generator, dtype=torch.float64)
    (first, _), *_ = pursued(rows, slopes, 1)
    gains = slopes.square() / (2 * rows.square().sum(1))
    assert first == int(gains.argmax())
    every = torch.tensor([t for _, t in sorted(pursued(rows, slopes, 8))], dtype=torch.float64)
    torch.testing.assert_close(rows @ rows.mT @ every, -slopes, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_growing_without_a_step_keeps_the_outputs(name: str) -> None:
    model, X, y, group = made(name, samples=64)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    grown = sf.grow(
        model, [(X, y)], F.cross_entropy, [group], units=2, step=False, dtype=torch.float64
    )
    assert grown.units == 2
    torch.testing.assert_close(grown.model(X), model(X), rtol=0, atol=1e-12)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert sf.units(grown.model, X)[group].size == sf.units(model, X)[group].size + 2


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_falls_on_the_confirming_batches_or_the_model_stays(name: str) -> None:
    model, X, y, group = made(name, samples=160)
    grown = sf.grow(model, [(X, y)], F.cross_entropy, [group], units=1, dtype=torch.float64)
    for step in grown.plan:
        assert step.after < step.before
        assert step.output_change <= 1e-12
    if not grown.plan:
        torch.testing.assert_close(grown.model(X), model(X), rtol=0, atol=0)
        assert "left out" in grown.reason or "train on" in grown.reason
    own = F.cross_entropy(grown.model(X), y).detach()
    assert grown.loss_after == pytest.approx(float(own), rel=1e-9)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_predicted_comes(name: str) -> None:
    """What is replayed of new units before they are built is what the built model does."""
    found = 0
    for seed in range(2):
        model, X, _, group = made(name, seed, samples=160)
        y = (X.flatten(1)[:, :2].prod(1) > 0).long()
        data = [(X, y)]
        predicted = sf.where_to_grow(model, data, F.cross_entropy, [group], curvature=False)[group]
        grown = sf.grow(model, data, F.cross_entropy, [group], units=1, rounds=1)
        assert len(grown.plan) == (predicted.predicted > 0)
        for step in grown.plan:
            assert step.achieved == pytest.approx(predicted.predicted, rel=1e-6)
            further = sf.grow(model, data, F.cross_entropy, [group], units=1, rounds=3)
            assert further.plan[0].achieved >= 0.999 * step.achieved
            found += 1
    assert found


def test_statistics_of_new_channels_are_those_of_the_data_and_the_outputs_stay() -> None:
    model, X, y, group = made("channels through batch norm", samples=40)
    local = searched(model, X, y, F.cross_entropy, group)
    point = dict(local.drawn(torch.Generator().manual_seed(0)))
    for part in local.branch.parts:
        if not part.reads:
            point[part.name] = point[part.name] * 1.7 + 0.1
    settled_point = settled(local.branch, local.batches, point, keep=True)
    own, other = (torch.func.functional_call(model, p, (X,)) for p in (point, settled_point))
    torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)
    z = F.conv2d(X, point["0.weight"], point["0.bias"], padding=1)
    torch.testing.assert_close(settled_point["1.running_mean"], z.mean((0, 2, 3)))
    torch.testing.assert_close(settled_point["1.running_var"], z.var((0, 2, 3), correction=0))
    assert not torch.allclose(point["1.running_mean"], settled_point["1.running_mean"])


def test_in_train_mode_what_is_predicted_comes_and_eval_mode_follows() -> None:
    """Batch statistics hold while growing; running ones of new channels are those of the data."""
    model, X, _, group = made("channels through batch norm", 1, samples=320)
    y = (X.flatten(1)[:, :2].prod(1) > 0).long()
    model.train()
    data = list(zip(X.split(40), y.split(40), strict=True))
    grown = sf.grow(model, data, F.cross_entropy, [group], units=2)
    for step in grown.plan:
        assert step.achieved == pytest.approx(step.growth.predicted, rel=1e-6)
    assert grown.plan
    with torch.no_grad():
        taught = [F.cross_entropy(m(X), y) for m in (model.train(), grown.model.train())]
        kept = [F.cross_entropy(m(X), y) for m in (model.eval(), grown.model.eval())]
    assert taught[1] < taught[0]
    assert kept[1] < kept[0]


def test_at_an_exact_fit_nothing_is_offered() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    X = torch.randn(80, 3, dtype=torch.float64)
    data = [(X, model(X).detach())]
    table = sf.where_to_grow(model, data, F.mse_loss)
    assert table["0"].predicted == 0
    assert table.best is None
    assert table.truly_bad is True
    grown = sf.grow(model, data, F.mse_loss, units=3)
    assert grown.plan == ()
    assert "train on" in grown.reason


def test_training_goes_on_with_the_optimiser_that_there_was() -> None:
    model, X, _, group = made("linear units", samples=240)
    y = (X[:, 0] * X[:, 1] > 0).long()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimizer.step()
    grown = sf.grow(model, [(X, y)], F.cross_entropy, [group], units=2)
    new = grown.carry(optimizer)
    worst = 0.0
    for _ in range(40):
        new.zero_grad()
        loss = F.cross_entropy(grown.model(X), y)
        loss.backward()
        new.step()
        worst = max(worst, float(loss.detach()))
    assert worst <= grown.loss_after * 1.05
    stranger = torch.optim.Adam(nn.Linear(2, 2).parameters())
    with pytest.raises(sf.InputError, match="not of the model"):
        grown.carry(stranger)


def test_parameters_bound_what_is_added_and_until_stops_it() -> None:
    model, X, _, _ = made("linear units", samples=240)
    y = (X[:, 0] * X[:, 1] > 0).long()
    count = sum(p.numel() for p in model.parameters())
    grown = sf.grow(model, [(X, y)], F.cross_entropy, parameters=20)
    after = sum(p.numel() for p in grown.model.parameters())
    assert count < after <= count + 20
    assert after - count == sum(step.growth.parameters for step in grown.plan)
    aim = 0.8 * grown.loss_before
    until = sf.grow(model, [(X, y)], F.cross_entropy, until=aim)
    assert until.plan[-1].after <= aim < until.plan[-1].before


def test_frozen_layers_grow_only_if_asked() -> None:
    model, X, y, _ = made("linear units", samples=80)
    model[0].requires_grad_(False)
    table = sf.where_to_grow(model, [(X, y)], F.cross_entropy, curvature=False)
    assert "frozen" in table.refused["0"]
    assert "2" in table
    asked = sf.grow(model, [(X, y)], F.cross_entropy, ["0"], units=1, frozen=True, step=False)
    assert asked.model[0].out_features == 5  # type: ignore[index]
    assert not asked.model[0].weight.requires_grad  # type: ignore[index]


def test_the_table_has_a_row_for_each_way_and_says_what_to_do() -> None:
    model, X, y, _ = made("linear units", samples=80)
    table = sf.where_to_grow(model, [(X, y)], F.cross_entropy, units=2)
    frame = table.to_dataframe()
    assert {"group", "way", "predicted", "lowest_K", "rank_F", "null_norm"} <= set(frame.columns)
    assert set(frame["group"]) == {"0", "2"}
    assert table["0"].parameters == 2 * (3 + 1 + 3)
    assert table["2"].parameters == 2 * (4 + 1 + 2)
    assert table["0"].flops == 2 * (3 + 3)
    assert "grow" in table.advice or "train on" in table.advice or "nothing" in table.advice


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "units=, parameters= or until="),
        ({"units": 0}, "units"),
        ({"units": 1, "groups": "0"}, r"as \['0'\]"),
        ({"units": 1, "groups": ["9"]}, "no group of units '9'"),
        ({"units": 1, "groups": ["4"]}, "output of the model"),
        ({"until": 0.1, "step": False}, "step=False"),
        ({"units": 1, "rounds": 0}, "rounds"),
        ({"units": 1, "dtype": torch.float16}, "dtype"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(asked: dict[str, Any], said: str) -> None:
    model, X, y, _ = made("linear units")
    with pytest.raises(sf.InputError, match=said) as caught:
        sf.grow(model, [(X, y)], F.cross_entropy, **asked)
    assert "\n" not in str(caught.value)


def test_data_that_cannot_be_used_are_refused_in_a_line() -> None:
    model, X, y, _ = made("linear units")
    for batches, loss, said in [
        ([(X, None)], F.cross_entropy, "no targets"),
        ([], F.cross_entropy, "no batches"),
        (iter([(X, y)]), F.cross_entropy, "gone through again"),
        ([(X, y)], lambda o, t: F.cross_entropy(o, t, reduction="sum"), "mean"),
    ]:
        with pytest.raises(sf.InputError, match=said):
            sf.where_to_grow(model, batches, loss)
    with pytest.raises(sf.InputError, match="nothing to grow"):
        sf.where_to_grow(nn.Tanh(), [(X, y)], F.cross_entropy)


@pytest.mark.parametrize("name", ["linear units", "channels", "gated units", "heads"])
def test_a_split_falls_as_its_curvature_says(name: str) -> None:
    """The loss replayed along the way of a split has the second derivative that K gives it, and no first."""
    model, X, y, group = made(name, samples=160)
    every_batch = Batches([(X, y)])
    every = list(every_batch)
    finder = Finder(model, Data(every_batch, every, every, F.cross_entropy), torch.float64, [group])
    known = sf.unit_curvature(model, [(X, y)], F.cross_entropy)
    asked: list[Any] = []

    def small(search: LocalModel, confirm: LocalModel, start: Any, end: Any) -> Any:
        asked.append((search, start, end))
        return stepped(search, confirm, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("semiflat.growth.finder.stepped", small)
        split = finder.split(known[group])
    assert split is not None
    search, start, end = asked[0]
    unit = known[group].units[int(split.way.split()[-1])]
    own = torch.cat([p.take(search.point[p.name])[unit.unit] for p in search.branch.parts])
    t = 1e-3
    here, there, back = (search.loss(between(start, end, s * t)) for s in (0.0, 1.0, -1.0))
    length = float(own.square().sum())
    assert (there + back - 2 * here) / t**2 == pytest.approx(unit.steepest * length, rel=1e-2)
    assert here == pytest.approx(float(F.cross_entropy(model(X), y).detach()), rel=1e-12)
    assert split.predicted >= 0


def test_units_and_parameters_bound_what_is_added_together() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, y = torch.randn(80, 3).double(), torch.randint(0, 2, (80,))
    grown = sf.grow(model, [(X, y)], F.cross_entropy, units=4, parameters=20, step=False)
    before, after = (sum(p.numel() for p in m.parameters()) for m in (model, grown.model))
    assert grown.units == 3
    assert after - before == 18


def test_a_loss_that_is_low_enough_adds_nothing() -> None:
    model, X, y, _ = made("linear units", samples=80)
    grown = sf.grow(model, [(X, y)], F.cross_entropy, until=100.0)
    assert grown.plan == ()
    assert "came down to" in grown.reason


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda o, y: (o.sum(1) - y).abs().mean(), "no curvature"),
        (lambda o, _: o.mean(), "no curvature"),
        (F.multi_margin_loss, "no second derivative"),
        (lambda o, y: F.cross_entropy(o, y).detach(), "cannot be differentiated"),
        (lambda o, y: (o.argmax(1) != y).double().mean(), "cannot be differentiated"),
    ],
)
def test_losses_that_do_not_say_how_far_to_go_are_refused_in_a_line(loss: Any, said: str) -> None:
    model, X, y, _ = made("linear units", samples=32)
    for ask in (sf.where_to_grow, lambda *given: sf.grow(*given, units=1)):
        with pytest.raises(sf.InputError, match=said) as caught:
            ask(model, [(X, y)], loss)
        assert "\n" not in str(caught.value)


def test_models_and_inputs_that_cannot_be_used_are_refused_in_a_line() -> None:
    model, X, y, _ = made("linear units", samples=32)
    batches = [(X, y)]
    given: list[tuple[Any, Any, Any, str]] = [
        (None, batches, None, "nn.Module"),
        (model, [(X[:, :2], y)], None, "the model fails on batch 0"),
        (model, batches, [], "list of names"),
        (model, batches, 0, "list of names"),
        (mlp().bfloat16(), [(X.bfloat16(), y)], None, "coarse"),
    ]
    for each, data, groups, said in given:
        with pytest.raises(sf.InputError, match=said) as caught:
            sf.grow(each, data, F.cross_entropy, groups, units=1)
        assert "\n" not in str(caught.value)
    wrongs: list[dict[str, Any]] = [{"rounds": 0}, {"samples": 0}, {"seed": -1}]
    for wrong in wrongs:
        with pytest.raises(sf.InputError, match=next(iter(wrong))):
            sf.GrowthSchedule(batches, F.cross_entropy, held_out=batches, **wrong)
    table = sf.where_to_grow(nn.Linear(3, 2).double(), batches, F.cross_entropy)
    assert table.advice.startswith("no group can grow")


def test_data_are_not_cut_to_single_samples() -> None:
    """Batch statistics of one sample do not exist."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)).double()
    X, y = torch.randn(9, 3).double(), torch.randint(0, 2, (9,))
    assert sf.grow(model, [(X, y)], F.cross_entropy, units=1, step=False).loss_before > 0


class FixedHeads(Attention):
    """Attention that has its number of heads in its code."""

    def forward(self, x: Tensor) -> Any:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, 2, 2).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, -1)
        return self.last(F.gelu(self.out(y)).mean(1))


def test_a_group_that_cannot_be_widened_does_not_keep_others_from_growing() -> None:
    torch.manual_seed(1)
    model = FixedHeads().double()
    X = torch.randn(64, 3, 4, dtype=torch.float64)
    data = [(X, (X[:, 0, 0] * X[:, 1, 1] > 0).long())]
    grown = sf.grow(model, data, F.cross_entropy, units=4, step=False)
    assert {step.growth.group for step in grown.plan} <= {"out"}
    assert grown.units == 4 or "'qkv' cannot be added" in grown.reason
    with pytest.raises(sf.InputError, match="takes their number from somewhere else"):
        sf.grow(model, data, F.cross_entropy, ["qkv"], units=1, step=False)


class Stream(nn.Module):
    """What reads the first layer's units adds to them."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 5)
        self.b1, self.b2 = nn.Linear(5, 6), nn.Linear(6, 5)
        self.c = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.a(x)
        return self.c(h + self.b2(torch.tanh(self.b1(h))))


def test_a_first_step_that_lowers_the_loss_is_not_lost_to_further_ones() -> None:
    """In a residual stream what further steps were to bring may not come."""
    torch.manual_seed(2)
    model = Stream()
    X, _ = torch.randn(160, 4), torch.randint(0, 3, (160,))
    y = (X[:, 0] * X[:, 1] > 0).long()
    data = [(X.double(), y)]
    one, four = (
        sf.grow(model.double(), data, F.cross_entropy, ["a"], units=2, rounds=rounds)
        for rounds in (1, 4)
    )
    assert one.plan
    assert four.plan


def test_curvature_and_truly_bad_are_of_all_data() -> None:
    """Of a critical point of all data: part of them may be fitted exactly, and have no curvature."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    X = torch.randn(80, 3, dtype=torch.float64)
    batches = [
        (x, model(x).detach() + (k % 4 == 3) * x.prod(1)[:, None])
        for k, x in enumerate(X.split(10))
    ]
    table = sf.where_to_grow(model, batches, F.mse_loss)
    assert table.truly_bad is False
    known = sf.unit_curvature(model, batches, F.mse_loss)
    assert table.curvature is not None
    for mine, whole in zip(table.curvature["0"].units, known["0"].units, strict=True):
        assert (mine.positive, mine.negative, mine.null_rank) == (
            whole.positive,
            whole.negative,
            whole.null_rank,
        )
        assert mine.lowest == pytest.approx(whole.lowest, rel=1e-9)
    part = sf.where_to_grow(model, batches[:3] * 4, F.mse_loss, samples=20)
    assert part.truly_bad is None
