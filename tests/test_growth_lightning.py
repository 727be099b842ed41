"""Growing while Lightning trains: the same as in a loop of one's own, or refused in a line."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import semiflat as sf
from semiflat.growth.lightning import GrowthCallback

INSTALLED = importlib.util.find_spec("pytorch_lightning") is not None
lightning: Any = importlib.import_module("pytorch_lightning") if INSTALLED else None
# With warnings of its own, on torch's and on workers.
pytestmark = pytest.mark.filterwarnings("ignore")
needed = pytest.mark.skipif(not INSTALLED, reason="pytorch-lightning is not installed")

torch.manual_seed(0)
X = torch.randn(240, 4)
Y = (X[:, 0] * X[:, 1] + X[:, 2] > 0).long()
PARTS = list(zip(X.split(20), Y.split(20), strict=True))
TRAIN, HELD_OUT = PARTS[:8], PARTS[8:]
EPOCHS = 4


def net() -> Any:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 1), nn.Tanh(), nn.Linear(1, 2))


def optimisers(model: Any, parts: int) -> list[Any]:
    """One for all parameters, or one for each part of them, with schedulers of both kinds."""
    held = [list(model.parameters())[k::parts] for k in range(parts)]
    found = [torch.optim.Adam(each, lr=0.03) for each in held]
    return [
        (each, torch.optim.lr_scheduler.StepLR(each, 2, 0.5)) if k == 0 else (each, None)
        for k, each in enumerate(found)
    ]


def schedule() -> sf.GrowthSchedule:
    return sf.GrowthSchedule(TRAIN, F.cross_entropy, held_out=HELD_OUT, rounds=1, limit=23)


def module(parts: int = 1) -> Any:
    class Trained(lightning.LightningModule):
        """Steps by hand where there are two optimisers."""

        def __init__(self) -> None:
            super().__init__()
            self.held = nn.ModuleDict({"net": net()})
            self.automatic_optimization = parts == 1

        def training_step(self, batch: Any, _: int) -> Any:
            loss = F.cross_entropy(self.held["net"](batch[0]), batch[1])
            if parts > 1:
                for each in self.optimizers():
                    each.zero_grad()
                self.manual_backward(loss)
                for each in self.optimizers():
                    each.step()
            return loss

        def on_train_epoch_end(self) -> None:
            if parts > 1:
                self.lr_schedulers().step()

        def configure_optimizers(self) -> Any:
            pairs = optimisers(self.held["net"], parts)
            return [each for each, _ in pairs], [each for _, each in pairs if each]

    return Trained()


def trainer(*callbacks: Any, epochs: int = EPOCHS, **options: Any) -> Any:
    return lightning.Trainer(
        **{"accelerator": "cpu", "logger": False, "enable_checkpointing": False, **options},
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=epochs,
        callbacks=list(callbacks),
    )


def loader() -> Any:
    data = torch.utils.data.TensorDataset(
        torch.cat([x for x, _ in TRAIN]), torch.cat([y for _, y in TRAIN])
    )
    return torch.utils.data.DataLoader(data, batch_size=20)


def plain_loop(parts: int) -> tuple[Any, sf.GrowthSchedule]:
    model, found = net(), schedule()
    pairs = optimisers(model, parts)
    for _ in range(EPOCHS):
        for inputs, targets in TRAIN:
            for each, _ in pairs:
                each.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            for each, _ in pairs:
                each.step()
        if change := found.step(model):
            model, old = change.model, pairs
            pairs = []
            for each, scheduler in old:
                if scheduler is None:
                    pairs.append((change.carry(each), None))
                else:
                    new, (rate,) = change.carry(each, [scheduler])
                    pairs.append((new, rate))
        for _, scheduler in pairs:
            if scheduler is not None:
                scheduler.step()
    return model, found


@needed
@pytest.mark.parametrize("parts", [1, 2])
def test_lightning_trains_and_grows_as_a_loop_of_ones_own(parts: int) -> None:
    expected, loop = plain_loop(parts)
    assert any(each.event == "grown" for each in loop.curve[:-1])
    callback, lit = GrowthCallback(schedule(), "held.net"), module(parts)
    run = trainer(callback)
    run.fit(lit, loader())
    assert callback.schedule.curve == loop.curve
    ours, theirs = lit.held["net"].state_dict(), expected.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    held = {
        id(p) for each in run.optimizers for group in each.param_groups for p in group["params"]
    }
    assert held == {id(p) for p in lit.parameters()}
    assert all(config.scheduler.optimizer in run.optimizers for config in run.lr_scheduler_configs)


@needed
def test_a_checkpoint_goes_on_in_a_model_of_its_widths(tmp_path: Path) -> None:
    once = GrowthCallback(schedule(), "held.net"), module()
    trainer(once[0]).fit(once[1], loader())
    half = GrowthCallback(schedule(), "held.net"), module()
    run = trainer(half[0], epochs=EPOCHS - 1)
    run.fit(half[1], loader())
    run.save_checkpoint(tmp_path / "half.ckpt")
    rest = GrowthCallback(schedule(), "held.net"), module()
    made, widths = rest[1].held["net"], half[0].schedule.curve[-1].widths
    for name, units in widths.items():
        more = units - sf.units(made, X[:2])[name].size
        made = sf.widen(made, X[:2], name, units=more).model if more else made
    rest[1].held["net"] = made
    trainer(rest[0]).fit(rest[1], loader(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert rest[0].schedule.curve == once[0].schedule.curve
    first, second = (each[1].held["net"].state_dict() for each in (once, rest))
    assert all(torch.equal(first[name], second[name]) for name in first)


@needed
def test_what_cannot_be_replaced_is_refused_in_a_line_before_anything_is_trained() -> None:
    def with_others(lit: Any) -> None:
        lit.scale = nn.Linear(3, 1)
        lit.configure_optimizers = lambda: torch.optim.SGD(lit.parameters(), lr=0.1)

    def shared(lit: Any) -> None:
        lit.again = lit.held["net"][0]

    cases: list[tuple[Any, str, str]] = [
        (lambda lit: None, "net", "no module 'net'; there are held"),
        (with_others, "held.net", "holds 4 parameters of 'held.net' and 2 others"),
        (shared, "held.net", "'again.weight' is a parameter of 'held.net', too"),
    ]
    for change, name, said in cases:
        lit, found = module(), schedule()
        change(lit)
        before = {key: each.clone() for key, each in lit.state_dict().items()}
        with pytest.raises(sf.InputError, match=said) as caught:
            trainer(GrowthCallback(found, name)).fit(lit, loader())
        assert "\n" not in str(caught.value)
        assert found.curve == []
        assert all(torch.equal(before[key], each) for key, each in lit.state_dict().items())


@needed
@pytest.mark.parametrize("world", [1, 2])
def test_a_model_that_a_strategy_wraps_or_distributes_is_refused(world: int) -> None:
    lit = module()
    inside = SimpleNamespace(model=lit if world > 1 else nn.Sequential(lit))
    stub = SimpleNamespace(world_size=world, strategy=inside)
    with pytest.raises(sf.InputError, match=r"SimpleNamespace distributes or wraps.*devices=1"):
        GrowthCallback(schedule(), "held.net").on_fit_start(stub, lit)


@needed
def test_an_optimiser_whose_state_is_not_known_starts_fresh_with_a_warning() -> None:
    lit = module()
    lit.configure_optimizers = lambda: torch.optim.Adamax(lit.parameters(), lr=0.03)
    callback = GrowthCallback(schedule(), "held.net")
    with pytest.warns(UserWarning, match="what Adamax keeps is not known here, and starts fresh"):
        trainer(callback).fit(lit, loader())
    assert any(each.event == "grown" for each in callback.schedule.curve)


@needed
def test_arguments_that_cannot_be_are_refused() -> None:
    with pytest.raises(sf.InputError, match="must be a GrowthSchedule, not list"):
        GrowthCallback([], "net")  # type: ignore[arg-type]
    with pytest.raises(sf.InputError, match="as 'net', not ''"):
        GrowthCallback(schedule(), "")


def test_without_lightning_the_room_is_imported_and_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['pytorch_lightning'] = sys.modules['lightning'] = None\n"
        "import semiflat\nfrom semiflat.growth.lightning import GrowthCallback\n"
        "try: GrowthCallback(None, 'net')\n"
        "except semiflat.InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip() == "GrowthCallback needs Lightning: pip install 'semiflat[lightning]'"
    )
