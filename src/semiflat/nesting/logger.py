"""Checkpoints kept while a network trains, in plain loops and in Lightning's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from semiflat.errors import InputError, positive, whole
from semiflat.files import path_of
from semiflat.nesting.run import Weights, read, write
from semiflat.networks import Params


class StageLogger:
    """Keeps a network's parameters at steps that are even in their logarithm, for :func:`semiflat.stages`.

    Call it after each step of the optimiser; before the first one with ``step=0``, to keep the start. It
    copies only what it keeps: some 24 checkpoints for each factor of ten.

    Args:
        factor: a checkpoint is kept when the step is at least this times the last one kept.
        folder: where checkpoints are written, too, as ``step-N.safetensors``; no file is replaced.

    Attributes:
        steps: of the checkpoints kept.
        weights: the checkpoints.

    Raises:
        InputError: for a factor below 1; when called, for what is no network, for a step before one that was
            seen, and if a file of that step is there.

    >>> import torch
    >>> import semiflat as sf
    >>> x = torch.linspace(-2, 2, 20)[:, None]
    >>> model = sf.MLP([1, 3, 1]).to_module(sf.MLP([1, 3, 1]).random_params(seed=0)).float()
    >>> optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> log = sf.StageLogger(factor=2)
    >>> for _ in range(100):
    ...     optimiser.zero_grad()
    ...     (model(x) - torch.sin(2 * x)).square().mean().backward()
    ...     _ = optimiser.step()
    ...     kept = log(model)
    >>> log.steps
    [1, 2, 4, 8, 16, 32, 64]
    >>> log
    StageLogger(checkpoints=7, steps=1..64)
    """

    def __init__(self, *, factor: float = 1.1, folder: str | Path | None = None) -> None:
        self._factor = positive("factor", factor)
        if self._factor < 1:
            raise InputError(f"factor must be at least 1, not {factor!r}; 1 keeps every step")
        self._folder = None if folder is None else path_of(folder)
        self.steps: list[int] = []
        self.weights: list[Weights] = []
        self._seen = 0

    def __call__(self, network: nn.Module | Params, step: int | None = None) -> bool:
        """Look at a network after a step; whether it is kept.

        Args:
            network: an ``nn.Sequential``, read as it computes in eval mode; another module, or parameters.
            step: its number; one more than the last call's by default.
        """
        number = self._seen + 1 if step is None else whole("step", step)
        if number < self._seen:
            raise InputError(
                f"step {number} comes after step {self._seen}; log another run with another StageLogger"
            )
        self._seen = number
        if self.steps and number < max(self.steps[-1] + 1, self.steps[-1] * self._factor):
            return False
        weights = read(network)
        if self._folder is not None:
            write(self._folder, number, weights)
        self.steps.append(number)
        self.weights.append(weights)
        return True

    @property
    def checkpoints(self) -> list[Params]:
        """The parameters kept, one for each of ``steps``."""
        return [dict(weights.params) for weights in self.weights]

    def callback(self, network: str = "") -> Any:
        """A callback for Lightning's ``Trainer(callbacks=[…])``, which logs here.

        Args:
            network: name of the network in the LightningModule, as ``"net"``; the module itself by default.

        Raises:
            InputError: if Lightning is not installed; while training, if the module has no such network.
        """
        return _callback(self, network)

    def __len__(self) -> int:
        """How many checkpoints are kept."""
        return len(self.steps)

    def __repr__(self) -> str:
        steps = f"{self.steps[0]}..{self.steps[-1]}" if self.steps else "none"
        return f"StageLogger(checkpoints={len(self)}, steps={steps})"


def _callback(logger: StageLogger, name: str) -> Any:
    def log(callback: Any, trainer: Any, module: Any, *rest: Any) -> None:
        if not trainer.is_global_zero:
            return
        try:
            network = module.get_submodule(name)
        except AttributeError:
            raise InputError(
                f"the LightningModule has no network {name!r}; it has "
                f"{', '.join(name for name, _ in module.named_children()) or 'none'}"
            ) from None
        logger(network, step=trainer.global_step)

    hooks = {"on_train_start": log, "on_train_batch_end": log}
    # Here, since it loads Lightning, which takes a second.
    from semiflat.growth.lightning import lightning_callback

    base = lightning_callback()
    if base is None:
        raise InputError(
            "a callback needs Lightning: pip install lightning; in a plain loop call the StageLogger itself"
        )
    return type("StageLoggerCallback", (base,), hooks)()
