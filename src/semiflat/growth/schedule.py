"""Growing while training: when new units are worth more than training on, and which width is enough."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from semiflat.errors import InputError, finite_number, whole, whole_seed
from semiflat.growth.data import Data, error_of, mean_of
from semiflat.growth.finder import Growth
from semiflat.growth.grow import EFFORT, EXAMPLE, ROUNDS, Grown, grow
from semiflat.growth.table import where_to_grow
from semiflat.modules.batches import Batch, Batches, LossFunction, check_asked, moved
from semiflat.modules.capture import check_model, copied, same_random_state
from semiflat.modules.groups import units as units_of
from semiflat.modules.shrink import Shrunk, shrink
from semiflat.records.shown import Facts, Rows, Shown

PARTS = 8
"""Fewer held-out batches are cut into so many parts each, as errors are those between batches."""
BAR = 24
"""Characters of the longest bar in a printed curve."""


@dataclass(frozen=True)
class Visit(Shown):
    """A model at one call of :meth:`GrowthSchedule.step`: as it was given, or as it was handed back.

    Attributes:
        call: number of the call, from 0.
        event: ``"trained"`` for the model that was given; ``"grown"`` or ``"shrunk"`` for the one handed back.
        widths: units of each group that can be changed.
        parameters: that are trained.
        loss: on the held-out batches.
        losses: that of each batch.
        confirming: the loss on those batches to grow on that confirm new units.
        by_training: what came off ``confirming`` since the call before, for each parameter; None where that is
            not known.
        by_growing: what the best new units were predicted to take off it, for each parameter they add; None
            where none were looked for.
        bound: of a shrunk model, and of what it is trained into: the largest change of an output when units
            were left out, as :func:`semiflat.shrink` measures it.

    >>> Visit(0, "trained", {"0": 4}, 27, 0.5, (0.4, 0.6), 0.45)
    Visit(call=0, event='trained', widths={0: 4}, parameters=27, loss=0.5, losses=(0.4, 0.6), ...)
    """

    call: int
    event: str
    widths: dict[str, int]
    parameters: int
    loss: float
    losses: tuple[float, ...]
    confirming: float
    by_training: float | None = None
    by_growing: float | None = None
    bound: float | None = None

    def same_shape(self, other: Visit) -> bool:
        """Whether another model has the same widths."""
        return (self.widths, self.parameters) == (other.widths, other.parameters)


class GrowthSchedule(Rows):
    """Grows a model in the middle of its training, and tells when it is wide enough.

    At each call of :meth:`step`, for instance after each epoch, what new units are predicted to take off the
    loss, for each parameter they add, is held against what training took off since the last call, for each
    parameter there is. The group with the best new units grows where they give more than training.

    Both gains are of the same samples: those batches to grow on that confirm. Training has seen these samples
    and new units have not been fitted to them, so the comparison leans to training on. Held-out batches have
    no part in it: they say which width is enough, and when to stop. The model is looked at in eval mode, and
    given back in the mode that it was in.

    Args:
        batches: to grow on, re-iterable pairs ``(inputs, targets)``.
        loss: ``loss(outputs, targets)``, a mean over the samples of a batch.
        held_out: other batches; their loss says which width is enough.
        units: how many units are added at a time.
        groups: names of groups that may grow; all that can if not given.
        limit: parameters that the model may have at most.
        patience: calls without a new lowest held-out loss after which it stops to grow.
        tolerance: if given, units are left out when patience has run out, as :func:`semiflat.shrink` does
            within it.
        rounds: of :func:`semiflat.grow`.
        samples: that are searched; if not given, eight times as many as :func:`where_to_grow` takes.
        seed: of what is drawn.

    Attributes:
        curve: a :class:`Visit` for each model that was given, and for each that was handed back.
        done: whether it has stopped to grow.
        refused: groups that were to grow and could not, and why.

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
    >>> model[0].out_features, schedule.done, schedule.enough.widths
    (2, True, {'0': 2})
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
        with same_random_state():  # a dataset may draw
            self._batches, every = Batches(batches), list(Batches(held_out))
        self._loss = loss
        self._data: Data | None = None
        few = len(every) < PARTS
        self._held_out = [p for batch in every for p in batch.parts(PARTS if few else 1)]
        self.curve: list[Visit] = []
        self.refused: dict[str, str] = {}
        self.done = self._ended = False

    def step(self, model: nn.Module) -> Grown | Shrunk | None:
        """Look at the model, and grow it if that is worth more than training on.

        Args:
            model: as it is now; it is not changed.

        Returns:
            The grown model, or when patience has run out the one that was shrunk, with its ``carry``; None for
            neither. Go on with it: the one given stays as narrow as it is.

        Raises:
            InputError: for a model that cannot be looked at, or whose loss is not finite. Nothing is recorded
                then.
        """
        with same_random_state(), torch.inference_mode(False), torch.enable_grad():
            twin = copied(check_model(model)).eval()
            if self._data is None:  # the same samples at all calls
                self._data = Data.of(
                    twin, self._batches, self._loss, self.samples, self.seed, EFFORT
                )
            now = self._since_last(self._visit(twin, "trained"))
            ended = self._waited([*self.curve, now])
            done = self.done or ended
            change: Grown | Shrunk | None = None
            if not done and now.by_training is not None:
                offers = self._offers(twin, now)
                able = [offer for offer in offers or () if offer.predicted > 0]
                done = offers is None
                now = replace(now, by_growing=able[0].per_parameter if able else 0.0)
                change = self._grown(twin, now, able)
            elif ended and not self._ended and self.tolerance is not None:
                small = shrink(twin, self._batches, self.tolerance)
                change = small if small.removed else None
            seen = [now]
            if change is not None:
                seen.append(self._handed(change, model, now.call))
        self.curve, self.samples = [*self.curve, *seen], self._data.samples
        self.done, self._ended = done, self._ended or ended
        return change

    def _visit(self, twin: nn.Module, event: str, bound: float | None = None) -> Visit:
        """A model in eval mode, measured."""
        like = next((p for p in twin.parameters() if p.is_floating_point()), None)
        if like is None:
            raise InputError(
                "the model has no parameters of real numbers, so there is nothing to grow"
            )
        losses = self._losses(twin, self._held_out)
        assert self._data is not None
        known, confirming = self._data.confirming, self._losses(twin, self._data.confirming)
        example = moved(self._held_out[0].few(EXAMPLE).inputs, like.dtype, like.device)
        groups = units_of(twin, example)
        for name in self.groups or ():
            groups[
                name
            ]  # one that is not there is refused at the first call, not when it is to grow
        return Visit(
            call=self.curve[-1].call + 1 if self.curve else 0,
            event=event,
            widths={name: each.size for name, each in groups.items() if not each.refuses},
            parameters=sum(p.numel() for p in twin.parameters() if p.requires_grad),
            loss=mean_of(losses, self._held_out),
            losses=tuple(losses),
            confirming=mean_of(confirming, known),
            bound=bound,
        )

    def _losses(self, twin: nn.Module, batches: list[Batch]) -> list[float]:
        assert self._data is not None
        return self._data.loss_at(twin, None, batches)

    def _since_last(self, now: Visit) -> Visit:
        """The visit with what training took off since the last call, if a model of its shape was there.

        What growing took off is none of it: it counts from the model that was handed back.
        """
        last = [each for each in self.curve if each.call == now.call - 1]
        begun = next((each for each in last if each.same_shape(now)), None)
        if begun is None:
            return now
        if begun is not last[-1]:
            warnings.warn(
                f"the model {last[-1].event} at call {last[-1].call} was not taken up: the one given has the "
                "widths from before; go on with change.model and change.carry(optimizer)",
                stacklevel=3,
            )
        gain = (begun.confirming - now.confirming) / max(now.parameters, 1)
        return replace(now, by_training=gain, bound=begun.bound)

    def _offers(self, twin: nn.Module, now: Visit) -> list[Growth] | None:
        """New units that fit below the limit, the best for each parameter first; None if no group has any."""
        assert self._data is not None
        table = where_to_grow(
            twin,
            self._data,
            self._loss,
            self.groups,
            units=self.units,
            curvature=False,
            seed=self.seed + now.call,
        )
        fit = [
            each
            for each in table.values()
            if each.group not in self.refused
            and (self.limit is None or now.parameters + each.parameters <= self.limit)
        ]
        return sorted(fit, key=lambda each: -each.per_parameter) or None

    def _grown(self, twin: nn.Module, now: Visit, offers: Sequence[Growth]) -> Grown | None:
        """The model grown by the first that comes true of the offers that are worth more than training on."""
        for offer in offers:
            if offer.per_parameter <= max(now.by_training or 0.0, 0.0):
                return None
            try:
                grown = grow(
                    twin,
                    self._data,
                    self._loss,
                    [offer.group],
                    units=offer.units,
                    rounds=self.rounds,
                    seed=self.seed + now.call,
                )
            except InputError as error:
                if self.groups is not None:
                    raise
                self.refused[offer.group] = str(error)
                continue
            if grown.plan:
                return grown
        return None

    def _handed(self, change: Grown | Shrunk, model: nn.Module, call: int) -> Visit:
        """The visit of a new model, which is put into the modes of the given one."""
        bound = change.bound if isinstance(change, Shrunk) else None
        visit = self._visit(change.model, "grown" if bound is None else "shrunk", bound)
        modes = {name: module.training for name, module in model.named_modules()}
        for name, module in change.model.named_modules():
            module.training = modes.get(name, model.training)
        change._given = model  # whose optimiser it is
        return visit

    def _waited(self, curve: Sequence[Visit]) -> bool:
        """Whether the lowest held-out loss was seen so many calls ago."""
        lowest = min(curve, key=lambda each: each.loss)
        return curve[-1].call - lowest.call >= self.patience

    @property
    def by_width(self) -> list[Visit]:
        """For each shape that the model had, the visit with the lowest held-out loss, the smallest first."""
        best: list[Visit] = []
        for each in sorted(self.curve, key=lambda visit: (visit.parameters, visit.loss)):
            if not any(each.same_shape(other) for other in best):
                best.append(each)
        return best

    @property
    def enough(self) -> Visit | None:
        """The smallest model whose held-out loss is as low as any, up to a standard error; None before any.

        Its ``widths`` say how wide each layer should be. The error is that of the difference between the two
        models, batch by batch: how hard a batch is for both has no part in it.
        """
        return next((each for each in self.by_width if self._above(each)[0] <= 0), None)

    def _above(self, visit: Visit) -> tuple[float, float]:
        """By how much its held-out loss is above the lowest beyond a standard error of that, and the error."""
        lowest = min(self.curve, key=lambda each: each.loss)
        differences = [a - b for a, b in zip(visit.losses, lowest.losses, strict=True)]
        error = error_of(differences, self._held_out) or 0.0
        return visit.loss - lowest.loss - error, error

    def state_dict(self) -> dict[str, Any]:
        """What it has seen and decided, as plain data, for a checkpoint of the training."""
        return {
            "curve": [asdict(each) for each in self.curve],
            "refused": dict(self.refused),
            "done": self.done,
            "ended": self._ended,
            "samples": self.samples,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; arguments are those that it was made with.

        Raises:
            InputError: for what is no state of a schedule; nothing is changed then.
        """
        try:
            rows = [Visit(**each) for each in state["curve"]]
            curve = [
                replace(
                    each,
                    call=int(each.call),
                    widths=dict(each.widths),
                    parameters=int(each.parameters),
                    loss=float(each.loss),
                    losses=tuple(map(float, each.losses)),
                    confirming=float(each.confirming),
                )
                for each in rows
            ]
            refused, done, ended = dict(state["refused"]), state["done"], state["ended"]
            samples = state["samples"]
            if samples is not None:
                whole("samples", samples, 1)
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"state is no state of a GrowthSchedule ({type(error).__name__}: {error}); expected what "
                "state_dict() gave"
            ) from error
        count = len(self._held_out)
        if any(len(each.losses) != count for each in curve):
            raise InputError(
                f"the state is not of {count} held-out batches, as those that were given; expected what it "
                "was made with"
            )
        self.curve, self.refused, self.done, self._ended = curve, refused, bool(done), bool(ended)
        self.samples, self._data = samples, None

    def __str__(self) -> str:
        """The curve: a line for each width, its lowest held-out loss, and which is enough."""
        enough = self.enough
        if enough is None:
            return "no model was seen yet"
        rows = self.by_width
        low, high = min(each.loss for each in rows), max(each.loss for each in rows)
        head = f"{'held-out loss':<{BAR + 9}}  {'above the lowest':<19}"
        lines = [f"parameters  {head}  units"]
        for each in rows:
            bar = "█" * (1 + round((BAR - 1) * (each.loss - low) / ((high - low) or 1.0)))
            above = (
                f"{each.loss - low:.2g} ± {self._above(each)[1]:.1g}" if each.loss > low else "-"
            )
            said = ", ".join(f"{name}: {count}" for name, count in each.widths.items())
            if each.bound is not None:
                said += (
                    f"  (shrunk: no output changed by more than {each.bound:.2g} of the largest)"
                )
            mark = "  <- enough" if each is enough else ""
            loss = f"{each.loss:<8.4g} {bar:<{BAR}}"
            lines.append(f"{each.parameters:>10}  {loss}  {above:<19}  {said}{mark}")
        return "\n".join(lines)

    def _facts(self) -> Facts:
        enough = self.enough
        return {
            "calls": self.curve[-1].call + 1 if self.curve else 0,
            "done": self.done,
            "enough": None if enough is None else enough.widths,
            "parameters": None if enough is None else enough.parameters,
            "loss": None if enough is None else enough.loss,
            "bound": None if enough is None else enough.bound,
            "refused": self.refused,
        }

    def _rows(self) -> list[Facts]:
        return [each._facts() for each in self.curve]
