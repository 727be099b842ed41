"""Depth by zero blocks: more layers where no wider one helps, and the same outputs before they are heard."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import semiflat as sf
from helpers import run
from semiflat.growth.depth import blocks_in, goes_on, places, with_blocks
from semiflat.growth.grow import _Work
from test_growth import MODELS, made
from test_growth import Stream as LinearStream


def at_its_best(model: nn.Module, X: Tensor, y: Tensor) -> None:
    """Least squares to the end."""
    optimizer = torch.optim.LBFGS(
        model.parameters(), max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe"
    )

    def closure() -> Any:
        optimizer.zero_grad()
        loss = F.mse_loss(model(X), y)
        loss.backward()
        return loss

    optimizer.step(closure)


def linear_case() -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    """A deep linear network at its best, and targets that are no linear function: no width helps."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    X = torch.randn(400, 3, dtype=torch.float64)
    y = X[:, :2].prod(1, keepdim=True)
    at_its_best(model, X, y)
    return model, [(X, y)]


@pytest.fixture
def no_wider(monkeypatch: pytest.MonkeyPatch) -> None:
    """No group offers anything."""
    search = _Work._offers

    def offers(work: Any, finder: Any, units: Any, left: Any, rest: Any, least: int = 1) -> Any:
        return search(work, finder, units, left, rest, least) if least > 1 else []

    monkeypatch.setattr(_Work, "_offers", offers)
    monkeypatch.setattr(_Work, "_splits", lambda *_: [])


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_where_no_width_helps_depth_does() -> None:
    model, data = linear_case()
    table = sf.where_to_grow(model, data, F.mse_loss, units=4)
    assert table["0"].predicted == 0
    wide = sf.grow(model, data, F.mse_loss, units=4)
    assert wide.plan == ()
    assert "depth=True" in wide.reason
    deep = sf.grow(model, data, F.mse_loss, units=4, depth=True)
    (step,) = deep.plan
    assert step.growth.way == "new block behind '0'"
    assert deep.blocks == ("0",)
    assert step.after < step.before - 0.03
    assert deep.loss_after < deep.loss_before - 0.03
    assert step.achieved == pytest.approx(step.growth.predicted, rel=1e-6) or (
        step.achieved > step.growth.predicted
    )


def test_once_there_is_a_nonlinear_layer_width_helps_again() -> None:
    model, data = linear_case()
    grown = sf.grow(model, data, F.mse_loss, parameters=40, depth=True)
    groups = [step.growth.group for step in grown.plan]
    assert groups[0] == "0.deeper.0"
    assert set(groups) > {"0.deeper.0"}
    assert all("deeper" not in name for name in grown.attributes)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*((name, "eval") for name in MODELS), ("channels through batch norm", "train")],
)
def test_blocks_that_are_not_heard_keep_the_outputs(name: str, mode: str, no_wider: None) -> None:
    model, X, y, _ = made(name, samples=80)
    y = (X.flatten(1)[:, :2].prod(1) > 0).long()
    model.train(mode == "train")
    before = copy.deepcopy(model.state_dict())
    grown = sf.grow(model, [(X, y)], F.cross_entropy, units=3, depth=True, step=False)
    assert grown.units == 3
    assert len(grown.blocks) == 1
    assert all(step.output_change <= 1e-12 for step in grown.plan)
    for training in (True, False):
        one, other = (
            each.train(training)(X).detach() for each in map(copy.deepcopy, (model, grown.model))
        )
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert before.keys() < grown.model.state_dict().keys()


@pytest.mark.parametrize("name", ["linear units", "channels through batch norm", "heads"])
def test_what_is_predicted_of_a_block_comes_and_its_parameters_are_counted(
    name: str, no_wider: None
) -> None:
    model, X, y, _ = made(name, samples=160)
    y = (X.flatten(1)[:, :2].prod(1) > 0).long()
    grown = sf.grow(model, [(X, y)], F.cross_entropy, units=2, rounds=1, depth=True)
    (step,) = grown.plan
    assert step.achieved == pytest.approx(step.growth.predicted, rel=1e-6)
    assert step.after < step.before
    assert count(grown.model) - count(model) == step.growth.parameters
    bound = step.growth.parameters - 1
    less = sf.grow(model, [(X, y)], F.cross_entropy, parameters=bound, step=False, depth=True)
    assert 0 < count(less.model) - count(model) <= bound


def test_the_hidden_units_of_a_block_are_units_as_others_are() -> None:
    """Of a residual stream of one block: the table, K and widening know them."""
    model, data = linear_case()
    deep = sf.grow(model, data, F.mse_loss, units=4, depth=True).model
    table = sf.where_to_grow(deep, data, F.mse_loss)
    assert {"0", "0.deeper.0"} <= set(table)
    assert table.curvature is not None
    assert len(table.curvature["0.deeper.0"].units) == 4
    for group in ("0", "0.deeper.0"):
        wide = sf.widen(deep, data[0][0], group, units=2)
        assert wide.output_change <= 1e-12
        torch.testing.assert_close(wide.model(data[0][0]), deep(data[0][0]), rtol=0, atol=1e-12)


def test_training_goes_on_with_the_optimiser_that_there_was(no_wider: None) -> None:
    """State and groups stay; what is new joins the group of the layer before it, weights with weights.

    It has no state, so that its first steps are no longer than the rate of that group.
    """
    model, X, y, _ = made("linear units", samples=160)
    y = (X[:, 0] * X[:, 1] > 0).long()
    data = [(X, y)]
    named = dict(model.named_parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for n, p in named.items() if n.endswith("weight")], "lr": 0.01},
        {"params": [p for n, p in named.items() if n.endswith("bias")], "lr": 0.02},
    ]
    optimizer = torch.optim.Adam(groups)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(X), y).backward()
        optimizer.step()
    grown = sf.grow(model, data, F.cross_entropy, units=4, depth=True)
    (path,) = grown.blocks
    block = {f"{path}.deeper.{each}" for each in ("0.weight", "0.bias", "2.weight")}
    new = grown.carry(optimizer)
    after = dict(grown.model.named_parameters())
    mine = [
        {n for n, p in after.items() if any(p is q for q in g["params"])} for g in new.param_groups
    ]
    assert set.union(*mine) == named.keys() | block
    assert all(name.endswith("weight") for name in mine[0])
    assert all(name.endswith("bias") for name in mine[1])
    for name, parameter in named.items():
        old, kept = optimizer.state[parameter], new.state[after[name]]
        torch.testing.assert_close(kept["exp_avg"], old["exp_avg"])
    start = {name: parameter.detach().clone() for name, parameter in after.items()}
    new.zero_grad()
    F.cross_entropy(grown.model(X), y).backward()
    new.step()
    rates = {
        name: group["lr"]
        for group, names in zip(new.param_groups, mine, strict=True)
        for name in names
    }
    steps = {n: float((p - start[n]).detach().abs().max()) / rates[n] for n, p in after.items()}
    assert (
        0.5 < max(steps[n] for n in block) <= 1.001
    )  # Adam's without state are as long as the rate
    with pytest.raises(sf.InputError, match="not of the model"):
        grown.carry(torch.optim.Adam(nn.Linear(2, 2).parameters()))


def test_new_parameters_are_trained_where_those_before_them_are_not() -> None:
    model, data = linear_case()
    grown = sf.grow(model, data, F.mse_loss, units=4, depth=True)
    last = torch.optim.SGD(model[1].parameters(), lr=0.1)  # type: ignore[index]
    held = {id(p) for group in grown.carry(last).param_groups for p in group["params"]}
    names = {name for name, p in grown.model.named_parameters() if id(p) in held}
    assert names == {"1.weight", "1.bias"} | {
        f"0.deeper.{each}" for each in ("0.weight", "0.bias", "2.weight")
    }


def test_a_model_made_anew_takes_the_weights() -> None:
    for name in ("linear units", "channels"):
        model, X, *_ = made(name)
        shapes = places(model, X, 3, frozen=False)
        deep = with_blocks(model, shapes)
        with torch.no_grad():
            for parameter in deep.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        again = sf.deepen(model, deep.state_dict())
        again.load_state_dict(deep.state_dict())
        assert blocks_in(again) == blocks_in(deep) == tuple(shapes)
        torch.testing.assert_close(again(X), deep(X), rtol=0, atol=0)
        assert blocks_in(sf.deepen(again, deep.state_dict())) == blocks_in(deep)
    with pytest.raises(sf.InputError, match="no such module"):
        sf.deepen(nn.Sequential(nn.Linear(3, 2)), deep.state_dict())


class Odd(nn.Module):
    """One layer that runs twice, one that is the output in another form, one that runs its children."""

    class Runs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            for child in self.children():
                x = torch.tanh(child(x))
            return x

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.runs = nn.Linear(3, 4), nn.Linear(4, 4), Odd.Runs()
        self.pass_on, self.last = nn.Identity(), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        x = self.pass_on(self.runs(torch.tanh(self.twice(torch.tanh(self.twice(self.first(x)))))))
        return self.last(x).reshape(-1, 2)


def test_blocks_stand_where_a_tensor_goes_on_and_nowhere_else() -> None:
    torch.manual_seed(0)
    model, X = Odd().double(), torch.randn(8, 3, dtype=torch.float64)
    found = places(model, X, 2, frozen=False)
    assert set(found) == {"first", "runs.inner", "last"}
    groups = sf.units(with_blocks(model, found), X)
    assert [path for path in found if goes_on(groups, path)] == ["first", "runs.inner"]
    stream = LinearStream().double()
    X = torch.randn(8, 4, dtype=torch.float64)
    assert set(places(stream, X, 2, frozen=False)) == {"a", "b1", "b2"}
    stream.requires_grad_(False)
    assert places(stream, X, 2, frozen=False) == {}
    assert set(places(stream, X, 2, frozen=True)) == {"a", "b1", "b2"}


def test_where_neither_width_nor_depth_helps_the_model_stays() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    X = torch.randn(80, 3, dtype=torch.float64)
    grown = sf.grow(model, [(X, model(X).detach())], F.mse_loss, units=3, depth=True)
    assert grown.plan == () == grown.blocks
    assert "nor does a block" in grown.reason
    assert grown.loss_after == grown.loss_before


NETS = """
import torch
from torch import nn
def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.3)
    return model
def batches():
    torch.manual_seed(1)
    X = torch.randn(400, 3)
    return [(X, (X[:, :1] ** 2 + X[:, 1:2] ** 2))]
def loss():
    return nn.functional.mse_loss
"""


def test_the_command_line_takes_the_weights_it_wrote(
    capsys: pytest.CaptureFixture[str],
    own_folder: Path,
    no_wider: None,
) -> None:
    (own_folder / "mynets.py").write_text(NETS)
    asked = ("--model", "mynets:make", "--data", "mynets:batches")
    code, out, err = run(
        capsys,
        "grow",
        *asked,
        "--loss",
        "mynets:loss",
        "--units",
        "4",
        "--depth",
        "--out",
        "deep.safetensors",
    )
    assert code == 0, err
    assert "semiflat.deepen(module, weights) puts in the blocks behind '0'" in out
    assert "0.deeper.0.weight" in load_file("deep.safetensors")
    code, out, _ = run(capsys, "units", *asked, "--weights", "deep.safetensors")
    assert code == 0
    assert "0.deeper.0" in out
