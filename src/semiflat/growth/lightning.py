"""Growing while Lightning trains: a callback; the only room that knows Lightning."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

from semiflat.errors import InputError
from semiflat.growth.schedule import GrowthSchedule

PACKAGES = ("lightning.pytorch", "pytorch_lightning")
"""Lightning under either of its names: a trainer of one takes no callback of the other."""


def lightning_callback() -> Any:
    """The class of callbacks, of the package that is loaded or else of one that is installed; None without."""
    for package in sorted(PACKAGES, key=lambda name: sys.modules.get(name) is None):
        try:
            return import_module(f"{package}.callbacks").Callback
        except ImportError:
            continue
    return None


Callback: Any = lightning_callback() or object
"""Without Lightning this room can be imported all the same."""


class GrowthCallback(Callback):  # type: ignore[misc]
    """Calls a :class:`semiflat.GrowthSchedule` at the end of each training epoch of a Lightning trainer.

    Where the schedule hands back another model, it takes the place of the old one in the LightningModule, and
    so do the optimisers and learning-rate schedulers over its parameters, with their state. All else of the
    trainer stays. An optimiser whose state is not known starts fresh, with the warning that ``carry`` gives.

    Args:
        schedule: with batches of its own to grow on and to hold out.
        module: name of the growing model in the LightningModule, as ``"net"``.

    Raises:
        InputError: without Lightning; when the fit starts, for a name that is not there, a strategy that wraps
            or distributes the model, an optimiser that holds parameters of the model and others, and parameters
            that are shared with what does not grow.

    Needs ``semiflat[lightning]``, or the package ``lightning``.
    """

    def __init__(self, schedule: GrowthSchedule, module: str) -> None:
        if Callback is object:
            raise InputError("GrowthCallback needs Lightning: pip install 'semiflat[lightning]'")
        if not isinstance(schedule, GrowthSchedule):
            raise InputError(
                f"schedule must be a GrowthSchedule, not {type(schedule).__name__}; make one with "
                "sf.GrowthSchedule(batches, loss, held_out=...)"
            )
        if not isinstance(module, str) or not module:
            raise InputError(
                "module must be the name of the growing model in the LightningModule, as 'net', not "
                f"{module!r:.60}"
            )
        self.schedule, self.module = schedule, module

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse what cannot be grown before anything is trained."""
        if trainer.world_size != 1 or trainer.strategy.model is not pl_module:
            raise InputError(
                f"GrowthCallback cannot replace a model that {type(trainer.strategy).__name__} distributes or "
                "wraps; train on one device, as with Trainer(devices=1), and without torch.compile"
            )
        self._owners(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """One call of the schedule."""
        change = self.schedule.step(pl_module.get_submodule(self.module))
        if change is None:
            return
        optimizers = list(trainer.strategy.optimizers)
        configs = trainer.strategy.lr_scheduler_configs
        for place in self._owners(trainer, pl_module):
            old = optimizers[place]
            mine = [config for config in configs if config.scheduler.optimizer is old]
            if not mine:
                optimizers[place] = change.carry(old)
                continue
            optimizers[place], new = change.carry(old, [config.scheduler for config in mine])
            for config, scheduler in zip(mine, new, strict=True):
                config.scheduler = scheduler
        parent, _, name = self.module.rpartition(".")
        setattr(pl_module.get_submodule(parent), name, change.model)
        trainer.strategy.optimizers = optimizers

    def state_dict(self) -> dict[str, Any]:
        """That of the schedule. A checkpoint loads into a model of the widths that it was saved with."""
        return self.schedule.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.schedule.load_state_dict(state_dict)

    def _owners(self, trainer: Any, pl_module: Any) -> list[int]:
        """Which optimisers hold the model's parameters.

        Raises:
            InputError: if it cannot be replaced.
        """
        try:
            model = pl_module.get_submodule(self.module)
        except AttributeError:
            names = ", ".join(name for name, _ in pl_module.named_children())
            raise InputError(
                f"the LightningModule has no module {self.module!r}; there are {names or 'none'}"
            ) from None
        own = {id(parameter) for parameter in model.parameters()}
        inside = f"{self.module}."
        for name, parameter in pl_module.named_parameters(remove_duplicate=False):
            if id(parameter) in own and not name.startswith(inside):
                raise InputError(
                    f"{name!r} is a parameter of {self.module!r}, too, and would stay as narrow as it is; give "
                    "GrowthCallback a module that holds both"
                )
        owners = []
        for place, optimizer in enumerate(trainer.strategy.optimizers):
            held = [id(each) for group in optimizer.param_groups for each in group["params"]]
            mine = sum(each in own for each in held)
            if 0 < mine < len(held):
                raise InputError(
                    f"optimiser {place}, {type(optimizer).__name__}, holds {mine} parameters of "
                    f"{self.module!r} and {len(held) - mine} others; give what grows an optimiser of its own, "
                    "or GrowthCallback a module that holds both"
                )
            if mine:
                owners.append(place)
        return owners
