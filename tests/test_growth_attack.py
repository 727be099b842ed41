"""Growing, handled as strangers handle it: loaders, frozen parts, layers that are 0, and what is no state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import semiflat as sf

torch.manual_seed(0)
X = torch.randn(400, 3)
PRODUCT = X[:, :1] * X[:, 1:2]
FEW = [(X[:40], PRODUCT[:40])]


def model(width: int = 3, act: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(3, width), act(), nn.Linear(width, 1))


def scheduled(batches: Any, net: nn.Module) -> sf.GrowthSchedule:
    schedule = sf.GrowthSchedule(batches, F.mse_loss, held_out=batches)
    schedule.step(net)
    schedule.step(net)
    return schedule


@pytest.mark.parametrize(
    "of",
    [
        lambda net, loader: sf.grow(net, loader, F.mse_loss, units=1, rounds=1),
        lambda net, loader: sf.where_to_grow(net, loader, F.mse_loss, curvature=False),
        lambda net, loader: scheduled(loader, net),
        lambda net, loader: sf.judge_module(net, loader, F.mse_loss),
        lambda net, loader: sf.unit_curvature(net, loader, F.mse_loss),
        lambda net, loader: sf.shrink(net, loader),
    ],
    ids=["grow", "where_to_grow", "GrowthSchedule", "judge_module", "unit_curvature", "shrink"],
)
def test_a_loader_that_draws_leaves_the_random_state(of: Callable[[Any, Any], Any]) -> None:
    net, loader = model(), DataLoader(TensorDataset(X[:40], PRODUCT[:40]), 20)
    here = torch.get_rng_state()
    of(net, loader)
    assert torch.equal(torch.get_rng_state(), here)


class Drawn:
    """Batches that are drawn when a pass begins."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return iter([(X[:40] + torch.randn(40, 3), PRODUCT[:40])])


@pytest.mark.parametrize(
    "batches",
    [
        Drawn(),
        DataLoader(TensorDataset(X[:40], PRODUCT[:40]), 20, shuffle=True),
        DataLoader(TensorDataset(X[:40], PRODUCT[:40]), 20, shuffle=True, num_workers=1),
    ],
    ids=["drawn as a pass begins", "shuffled", "shuffled, in a process of its own"],
)
def test_batches_that_differ_from_pass_to_pass_are_refused(batches: Any) -> None:
    here = torch.get_rng_state()
    with pytest.raises(sf.InputError, match="two passes over the batches differ"):
        sf.where_to_grow(model(), batches, F.mse_loss)
    assert torch.equal(torch.get_rng_state(), here)


def test_confirming_batches_of_other_sizes_are_cut_each_time_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("semiflat.growth.data.BATCH_BYTES", 1)
    data = list(zip(X[:14].split(2), PRODUCT[:14].split(2), strict=True))
    grown = sf.grow(model(), data, F.mse_loss, units=2)
    assert grown.plan
    assert grown.loss_after < grown.loss_before


def test_a_loss_may_take_a_gradient_itself() -> None:
    def smooth(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            at = outputs if outputs.requires_grad else outputs.detach().requires_grad_()
            torch.autograd.grad(F.mse_loss(at, targets), at, create_graph=True)
        return F.mse_loss(outputs, targets)

    table = sf.where_to_grow(model(), [(X, PRODUCT)], smooth)
    plain = sf.where_to_grow(model(), [(X, PRODUCT)], F.mse_loss)
    assert table["0"].predicted == plain["0"].predicted > 0


class Rows(nn.Module):
    """Gives a row for each position, as language models do; or a number beside."""

    def __init__(self, flat: bool) -> None:
        super().__init__()
        self.net, self.flat = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), flat

    def forward(self, x: torch.Tensor) -> Any:
        out = self.net(x)
        return out.flatten(0, 1) if self.flat else (out, out.square().mean())


def test_outputs_without_samples_first_are_refused_in_a_line() -> None:
    x, y = torch.randn(40, 5, 3), torch.randn(40, 5, 2)
    losses: list[Callable[[Any, Any], torch.Tensor]] = [
        lambda o, t: F.mse_loss(o, t.flatten(0, 1)),
        lambda o, t: F.mse_loss(o[0], t) + o[1],
    ]
    for flat, loss in zip((True, False), losses, strict=True):
        for of in (sf.where_to_grow, lambda *given: sf.grow(*given, units=1)):
            with pytest.raises(sf.InputError, match="expected the samples first"):
                of(Rows(flat), [(x, y)], loss)


class Told(nn.Module):
    """Tells of each sample whether its output is above 0, and counts beside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.net(x)
        return out, out > 0, torch.arange(5)


def test_what_is_no_number_among_the_outputs_is_let_be() -> None:
    data = list(zip(X.split([3, 2, len(X) - 5]), PRODUCT.split([3, 2, len(X) - 5]), strict=True))
    best = sf.where_to_grow(Told(), data, lambda o, t: F.mse_loss(o[0], t)).best
    assert best is not None


@pytest.mark.parametrize("frozen", range(3))
def test_layers_of_which_some_are_frozen_have_a_table(frozen: int) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)
    ).double()
    net[2 * frozen].requires_grad_(False)
    data = [(X[:40].double(), PRODUCT[:40].double())]
    table = sf.where_to_grow(net, data, F.mse_loss, samples=30)
    assert list(table) == [["2"], [], ["0"]][frozen]


def test_units_whose_makers_are_frozen_have_no_mixed_curvature() -> None:
    net = model().double()
    net[0].requires_grad_(False)
    data = [(X[:40].double(), PRODUCT[:40].double())]
    for unit in sf.unit_curvature(net, data, F.mse_loss)["0"].units:
        assert (unit.parameters, unit.rank_F) == (1, 0)


def test_a_schedule_of_a_model_that_is_not_trained_ends() -> None:
    schedule = scheduled(FEW, model().requires_grad_(False))
    assert schedule.done
    assert schedule.curve[-1].by_training == 0


@pytest.mark.parametrize("zero", [("0.bias",), ("0.weight", "0.bias")], ids=" ".join)
def test_new_units_do_not_depend_on_the_size_of_weights_that_are_zero(
    zero: tuple[str, ...],
) -> None:
    losses = []
    for erased in ((), zero):
        net = model(act=nn.GELU)
        with torch.no_grad():
            net.get_parameter("2.weight").zero_()  # so that all start from one function
            for name in erased:
                net.get_parameter(name).zero_()
        grown = sf.grow(net, [(X, PRODUCT)], F.mse_loss, units=3, rounds=1)
        losses.append((grown.loss_before, grown.loss_after))
    assert losses[0][0] == pytest.approx(losses[1][0])
    falls = [before - after for before, after in losses]
    assert falls[1] > 0.7 * falls[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"samples": "many"},
        {"samples": -1},
        {"loss": "low"},
        {"call": "first"},
        {"widths": None},
        {"losses": ["low"] * 8},
    ],
    ids=str,
)
def test_what_is_no_state_is_refused_and_nothing_is_changed(wrong: dict[str, Any]) -> None:
    schedule = scheduled(FEW, model())
    state = schedule.state_dict()
    bad = (
        state | wrong
        if "samples" in wrong
        else state | {"curve": [state["curve"][0] | wrong, *state["curve"][1:]]}
    )
    with pytest.raises(sf.InputError):
        schedule.load_state_dict(bad)
    assert schedule.state_dict() == state


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (None, "expected a state_dict"),
        ("net.safetensors", "expected a state_dict"),
        (model(), "expected a state_dict"),
        ({0: torch.ones(2)}, "expected a state_dict"),
        (
            {"0.deeper.0.weight": torch.ones(4, 3).long(), "0.deeper.2.weight": torch.ones(3, 4)},
            "of real numbers",
        ),
    ],
    ids=["none", "path", "module", "numbers", "whole numbers"],
)
def test_what_is_no_state_dict_has_no_blocks(weights: Any, said: str) -> None:
    with pytest.raises(sf.InputError, match=said):
        sf.deepen(model(), weights)


def test_what_cannot_grow_says_why() -> None:
    net = model().requires_grad_(False)
    grown = sf.grow(net, FEW, F.mse_loss, units=1)
    assert not grown.plan
    assert "none of its parameters is trained" in grown.reason


def test_logits_are_asked_for_where_log_softmax_hides_the_curvature() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2), nn.LogSoftmax(1))
    labels = torch.zeros(40, dtype=torch.long)
    with pytest.raises(sf.InputError, match="cross_entropy of what a model gives before"):
        sf.grow(net, [(X[:40], labels)], F.nll_loss, units=1)
