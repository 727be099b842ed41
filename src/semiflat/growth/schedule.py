"""Growing while training: when new units are worth more than training on, and which width is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from semiflat.errors import InputError, finite_number, whole, whole_seed
from semiflat.growth.data import Data, error_of, mean_of
from semiflat.growth.grow import ROUNDS, Grown, grow
from semiflat.growth.table import where_to_grow
from semiflat.modules.batches import Batch, Batches, LossFunction, check_asked
from semiflat.modules.shrink import Shrunk, shrink
from semiflat.records.shown import Facts, Rows, Shown


@dataclass(frozen=True)
class Visit(Shown):
    """The model at one call of :meth:`GrowthSchedule.step`, before it was changed.

    Attributes:
        parameters: of the model.
        loss, error: held-out loss, and its standard error between batches; None for one batch.
        event: ``"grown"``, ``"shrunk"`` or ``""``.
        predicted: what new units were predicted to take off; None where they were not looked for.

    >>> Visit(27, 0.5, 0.01, "", None)
    Visit(parameters=27, loss=0.5, error=0.01, event='', predicted=None)
    """

    parameters: int
    loss: float
    error: float | None
    event: str
    predicted: float | None


class GrowthSchedule(Rows):
    """Grows a model in the middle of its training, and tells when it is wide enough.

    At each call of :meth:`step`, for instance after each epoch, what new units are predicted to take off the
    loss, for each parameter they add, is held against what training took off since the last call, for each
    parameter there is. Where growing gives more, the model grows.

    Args:
        batches: to grow on, re-iterable pairs ``(inputs, targets)``.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        held_out: other batches; their loss says which width is enough.
        units: how many units are added at a time.
        groups: names of groups that may grow; all that can if not given.
        limit: parameters that the model may have at most.
        patience: calls without a new lowest held-out loss after which it stops to grow.
        tolerance: if given, units are left out at the end as :func:`semiflat.shrink` does within it.
        rounds: of :func:`semiflat.grow`.
        samples: that are searched; if not given, at most 2000, and as many as take about an epoch at most.
        seed: of what is drawn.

    Attributes:
        curve: what was seen at each call.
        done: whether it has stopped to grow.

    Raises:
        InputError: for arguments that cannot be.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> X = torch.randn(300, 2)
    >>> y = X[:, :2].prod(1, keepdim=True)
    >>> loss = torch.nn.functional.mse_loss
    >>> schedule = sf.GrowthSchedule([(X[:200], y[:200])], loss, held_out=[(X[200:], y[200:])], limit=12)
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Tanh(), torch.nn.Linear(1, 1))
    >>> optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    >>> for epoch in range(9):
    ...     optimizer.zero_grad()
    ...     loss(model(X[:200]), y[:200]).backward()
    ...     optimizer.step()
    ...     if change := schedule.step(model):
    ...         model, optimizer = change.model, change.carry(optimizer)
    >>> model[0].out_features, schedule.done
    (2, True)
    """

    def __init__(
        self,
        batches: Any,
        loss: LossFunction,
        *,
        held_out: Any,
        units: int = 1,
        groups: Sequence[str] | None = None,
        limit: int | None = None,
        patience: int = 5,
        tolerance: float | None = None,
        rounds: int = ROUNDS,
        samples: int | None = None,
        seed: int = 0,
    ) -> None:
        check_asked(loss, None)
        self.units, self.patience = whole("units", units, 1), whole("patience", patience, 1)
        self.limit = None if limit is None else whole("limit", limit, 1)
        self.tolerance = None if tolerance is None else finite_number("tolerance", tolerance)
        if self.tolerance is not None and self.tolerance < 0:
            raise InputError(f"tolerance must be 0 or more, not {tolerance!r}")
        self.rounds, self.samples = whole("rounds", rounds, 1), samples
        if samples is not None:
            whole("samples", samples, 1)
        self.groups, self.seed = groups, whole_seed(seed)
        self._batches, self._loss = Batches(batches), loss
        self._held_out = Data(Batches(held_out), [], [], loss)
        self.curve: list[Visit] = []
        self.done = self._shrunk = False

    def step(self, model: nn.Module) -> Grown | Shrunk | None:
        """Look at the model, and grow it if that is worth more than training on.

        Args:
            model: as it is now; it is not changed.

        Returns:
            The grown model, or at the end the one that was shrunk, with its ``carry``; None for neither.
        """
        batches: list[Batch] = list(self._held_out.batches)
        losses = self._held_out.loss_at(model, None, batches)
        loss, error = mean_of(losses, batches), error_of(losses, batches)
        size = sum(p.numel() for p in model.parameters() if p.requires_grad)
        change: Grown | Shrunk | None = None
        predicted, event = None, ""
        if not self.done:
            change, predicted = self._growth(model, size, loss)
            event = "" if change is None else "grown"
        self.curve.append(Visit(size, loss, error, event, predicted))
        if not self.done and self._waited():
            self.done = True
        if self.done and change is None and self.tolerance is not None and not self._shrunk:
            self._shrunk = True
            small = shrink(model, self._batches, self.tolerance)
            if small.removed:
                self.curve[-1] = Visit(size, loss, error, "shrunk", predicted)
                return small
        return change

    def _growth(
        self, model: nn.Module, size: int, loss: float
    ) -> tuple[Grown | None, float | None]:
        if not self.curve:
            return None, None  # what training takes off is not known yet
        table = where_to_grow(
            model,
            self._batches,
            self._loss,
            self.groups,
            units=self.units,
            curvature=False,
            samples=self.samples,
            seed=self.seed + len(self.curve),
        )
        best = table.best
        if best is None:
            return None, 0.0
        if self.limit is not None and size + best.parameters > self.limit:
            self.done = True
            return None, best.predicted
        trained = (self.curve[-1].loss - loss) / size
        if best.per_parameter <= max(trained, 0.0):
            return None, best.predicted
        grown = grow(
            model,
            self._batches,
            self._loss,
            [best.group],
            units=best.units,
            rounds=self.rounds,
            samples=self.samples,
            seed=self.seed + len(self.curve),
        )
        return (grown if grown.plan else None), best.predicted

    def _waited(self) -> bool:
        """Whether the lowest held-out loss was seen so many calls ago."""
        lowest = min(range(len(self.curve)), key=lambda k: self.curve[k].loss)
        return len(self.curve) - 1 - lowest >= self.patience

    @property
    def enough(self) -> Visit | None:
        """The smallest model whose held-out loss is within a standard error of the lowest; None before any."""
        if not self.curve:
            return None
        lowest = min(self.curve, key=lambda each: each.loss)
        bar = lowest.loss + (lowest.error or 0.0)
        near = [each for each in self.curve if each.loss <= bar]
        return min(near, key=lambda each: (each.parameters, each.loss))

    def _facts(self) -> Facts:
        enough = self.enough
        return {
            "calls": len(self.curve),
            "done": self.done,
            "parameters": self.curve[-1].parameters if self.curve else None,
            "enough": None if enough is None else enough.parameters,
        }

    def _rows(self) -> list[Facts]:
        return [{"call": k, **each._facts()} for k, each in enumerate(self.curve)]
