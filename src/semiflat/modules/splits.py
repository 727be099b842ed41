"""A unit split in two, and the way down that this opens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from semiflat.errors import InputError
from semiflat.modules.batches import Batch, loss_of, moved
from semiflat.modules.capture import copied, same_random_state
from semiflat.modules.surgery import new_places
from semiflat.modules.widen import finite_numbers, widen
from semiflat.records.shown import Facts, Shown

if TYPE_CHECKING:
    from semiflat.modules.branches import Part
    from semiflat.modules.unit_signs import UnitCurvature

GRID = [10.0 ** (-k / 2) for k in range(13)]
"""Lengths of the steps that are tried, in parts of the length of the unit's own parameters."""


@dataclass(frozen=True)
class UnitSplit(Shown):
    """A model in which one unit became two, and a way down from it.

    Attributes:
        model: the wider model; its outputs are those of the given one.
        group, unit: what was split; the second copy is the last unit of the group.
        shares: of the two.
        direction: of unit length, in the parameters of the wider model, by name; the loss falls both ways.
            Parameters that do not move are left out.
        curvature: second derivative of the loss along it, from K.
        measured: the same, measured on the wider model.
        loss: of the model.
        step: length of the best step that was tried; negative for one against the direction.
        loss_after: after that step.

    >>> import torch, semiflat as sf
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    >>> data = [(torch.randn(20, 3), torch.randn(20, 1))]
    >>> found = sf.unit_curvature(model, data, torch.nn.functional.mse_loss).split("0", 2)
    >>> found.model[0].out_features, found.curvature < 0, found.loss_after < found.loss
    (6, True, True)
    """

    model: nn.Module = field(repr=False)
    group: str
    unit: int
    shares: tuple[float, float]
    direction: dict[str, Tensor] = field(repr=False)
    curvature: float
    measured: float
    loss: float
    step: float
    loss_after: float

    def _facts(self) -> Facts:
        return {
            "group": self.group,
            "unit": self.unit,
            "shares": self.shares,
            "curvature": self.curvature,
            "measured": self.measured,
            "loss": self.loss,
            "loss_after": self.loss_after,
            "step": self.step,
        }

    def moved(self, step: float | None = None) -> nn.Module:
        """The wider model a step along the direction, the best that was tried if none is given."""
        out = copied(self.model)
        with torch.no_grad():
            for name, along in self.direction.items():
                tensor = out.get_parameter(name)
                tensor.add_(along.to(tensor), alpha=self.step if step is None else step)
        return out


def split(
    found: UnitCurvature, group: str, unit: int, shares: tuple[float, float] | None
) -> UnitSplit:
    """See :meth:`UnitCurvature.split`."""
    known = found[group]
    known.way(unit, 1)  # checks the unit
    signs = known.units[unit]
    best = signs.best_shares
    if shares is not None:
        numbers = finite_numbers("shares", shares)
        if len(numbers) != 2:
            raise InputError(f"shares are of two copies, as (0.25, 0.75), not {shares!r:.60}")
        best = (numbers[0], numbers[1])
    if "kink" in signs.note or best is None:
        why = (
            signs.note
            if "kink" in signs.note
            else "no eigenvalue of its K is beyond its noise floor"
        )
        raise InputError(f"no way down by splitting unit {unit} of {group!r} is sure: {why}")
    product = best[0] * best[1]
    value = signs.lowest if product > 0 else signs.highest
    if not product or not value * product < -10 * signs.floor * abs(product):
        raise InputError(
            f"copies of unit {unit} of {group!r} with shares {best[0]:g} and {best[1]:g} open no way down that "
            f"is sure: the eigenvalue that decides is {value:.3g}, its floor {signs.floor:.1g}"
        )
    inputs = found._batches.first().inputs
    wide = widen(found._model, inputs, group, copies={unit: list(best)}).model
    reads, makes = known.way(unit, -1 if product > 0 else 1)
    direction = _direction(found, wide, group, unit, best, reads, makes)
    length = float(torch.stack([each.square().sum() for each in direction.values()]).sum().sqrt())
    direction = {name: each / length for name, each in direction.items()}
    trial = copied(wide).double()
    start = {name: tensor.detach().clone() for name, tensor in trial.named_parameters()}
    measured = _second(trial, found, direction)
    before = _loss(trial, found)
    own = float(
        torch.stack(
            [
                part.take(dict(found._model.named_parameters())[part.name].detach())[unit]
                .double()
                .square()
                .sum()
                for part in known._parts
            ]
        )
        .sum()
        .sqrt()
    )
    tried = []
    for part in GRID:
        for sign in (1.0, -1.0):
            step = sign * part * max(own, 1e-3)
            _put(trial, start, direction, step)
            tried.append((_loss(trial, found), step))
    after, step = min(tried)
    return UnitSplit(
        wide,
        group,
        unit,
        best,
        direction,
        value / product / length**2,
        measured,
        before,
        step,
        after,
    )


def _direction(
    found: UnitCurvature,
    wide: nn.Module,
    group: str,
    unit: int,
    shares: tuple[float, float],
    reads: Tensor,
    makes: Tensor,
) -> dict[str, Tensor]:
    """The copies moved against each other, in the parameters of the wider model."""
    size = found[group].group.size
    narrow, after = dict(found._model.named_parameters()), dict(wide.named_parameters())
    along = {
        part.name: torch.zeros(after[part.name].shape, dtype=torch.float64)
        for part in found[group]._parts
    }

    def where(part: Part) -> Tensor:
        length = narrow[part.name].shape[part.axis]
        return new_places(part.slot, length, size + 1, [unit, size])

    move_apart(along, found[group]._parts, where, shares, reads, makes)
    return along


def move_apart(
    tensors: dict[str, Tensor],
    parts: Sequence[Part],
    where: Callable[[Part], Tensor],
    shares: tuple[float, float],
    reads: Tensor,
    makes: Tensor,
) -> None:
    """Move two copies of a unit against each other, in place: what makes them by u/λ, what reads them by v.

    Args:
        tensors: by name, those of the parts.
        where: the places of both copies in a part, (2, positions).
        reads, makes: v and u, part by part.
    """
    rests = {True: reads, False: makes}
    for part in parts:
        lines, places = tensors[part.name].movedim(part.axis, 0), where(part)
        shape = (places.shape[1], *lines.shape[1:])
        count = torch.Size(shape).numel()
        mine, rests[part.reads] = rests[part.reads][:count], rests[part.reads][count:]
        for place, share, sign in zip(places, shares, (1.0, -1.0), strict=True):
            factor = sign if part.reads else sign / share
            lines[place] += (factor * mine.view(shape)).to(lines)


def _put(model: nn.Module, start: Any, direction: dict[str, Tensor], step: float) -> None:
    with torch.no_grad():
        for name, along in direction.items():
            model.get_parameter(name).copy_(start[name] + step * along.to(start[name]))


def _each(found: UnitCurvature, model: nn.Module, batch: Batch) -> Tensor:
    device = next(model.parameters()).device
    inputs, targets = moved((batch.inputs, batch.targets), torch.float64, device)
    with same_random_state():
        return loss_of(copied(model), found._of, Batch(inputs, targets, batch.size))


def _loss(model: nn.Module, found: UnitCurvature) -> float:
    with torch.no_grad():
        return float(found._batches.mean(lambda batch: _each(found, model, batch)))


def _second(model: nn.Module, found: UnitCurvature, direction: dict[str, Tensor]) -> float:
    """The second derivative of the loss along a direction."""

    def of(batch: Batch) -> Tensor:
        device = next(model.parameters()).device
        inputs, targets = moved((batch.inputs, batch.targets), torch.float64, device)
        twin = copied(model)
        own = [twin.get_parameter(name) for name in direction]
        value = loss_of(twin, found._of, Batch(inputs, targets, batch.size))
        first = torch.autograd.grad(value, own, create_graph=True, allow_unused=True)
        along = list(direction.values())
        slope = sum((f * a.to(f)).sum() for f, a in zip(first, along, strict=True) if f is not None)
        if not isinstance(slope, Tensor) or not slope.requires_grad:
            return torch.zeros((), dtype=torch.float64)
        second = torch.autograd.grad(slope, own, allow_unused=True)
        total = sum(
            (s * a.to(s)).sum() for s, a in zip(second, along, strict=True) if s is not None
        )
        return torch.as_tensor(total).detach()

    return float(found._batches.mean(of))
