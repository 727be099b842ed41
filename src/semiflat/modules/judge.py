"""What kind of point a model is at, for its loss over given batches."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from semiflat.certificates.certificate import Certificate  # noqa: F401  # a type of Verdict's, looked up here
from semiflat.errors import InputError, finite_number, whole
from semiflat.modules.batches import Batches, LossFunction, check_asked
from semiflat.modules.families import ModuleFamily, Search
from semiflat.modules.flat import FlatModule
from semiflat.modules.groups import units
from semiflat.modules.measured import Dense, Measured
from semiflat.modules.risk import OnBatches, check_repeats
from semiflat.networks import Params
from semiflat.records.shown import Facts, Shown
from semiflat.verdicts.lanczos import RISK, lowest_ritz
from semiflat.verdicts.verdict import (
    NO_HESSIAN,
    Certainty,
    FlatDirections,
    Inertia,
    Kind,
    Margin,
    Verdict,
)

DENSE = 2000
"""Number of parameters up to which the dense Hessian is built."""
STEPS = 40
"""Lanczos steps above it."""
SIGNAL = 3.0
"""A gradient is beyond its noise between batches from so many standard errors: of noise alone its square is
that many squared times the expected one with probability 1/9 at most (Markov)."""


@dataclass(frozen=True)
class GradientPart(Shown):
    """The gradient of the parameters that one module holds.

    Attributes:
        module: its name.
        largest: the largest entry in size.
        norm: ``‖·‖₂``.
        share: of the square of the whole gradient's norm, from 0 to 1.
        noise: standard error of this part between batches, ``‖·‖₂``; None for one batch.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    >>> batches = [(torch.randn(8, 2), torch.randn(8, 1)) for _ in range(4)]
    >>> found = sf.judge_module(model, batches, torch.nn.functional.mse_loss)
    >>> [part.module for part in found.gradient], found.gradient[0].noise > 0
    (['0', '2'], True)
    """

    module: str
    largest: float
    norm: float
    share: float
    noise: float | None


@dataclass(frozen=True)
class EigenvalueRange(Shown):
    """Where an extreme eigenvalue of the Hessian lies.

    Attributes:
        below, above: bounds of it.
        sure: which of them a concrete direction or the whole Hessian gives, rounding counted in: ``"below"``,
            ``"above"`` or ``"both"``.
        risk: probability, in the random start of the search, with which the other one may fail; 0 for both.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 1))
    >>> batches = [(torch.randn(8, 2), torch.randn(8, 1))]
    >>> found = sf.judge_module(model, batches, torch.nn.functional.mse_loss)
    >>> found.lowest.sure, found.lowest.below <= found.lowest.above < found.highest.below
    ('both', True)
    """

    below: float
    above: float
    sure: str
    risk: float

    def __str__(self) -> str:
        if self.sure == "both":
            return f"between {self.below:.4g} and {self.above:.4g}"
        words = f"at least {self.below:.4g}", f"at most {self.above:.4g}"
        sure, likely = words if self.sure == "below" else words[::-1]
        if not math.isfinite(self.above - self.below):
            return f"{sure}; these were too few steps to bound it from the other side"
        return f"{sure}, and {likely} with probability 1 - {self.risk:g}"


@dataclass(frozen=True, kw_only=True)
class ModuleVerdict(Verdict):
    """What kind of point a model is at, for its loss over given batches.

    Attributes:
        loss: over the batches, weighted by their sizes.
        samples, batches: how many there are.
        mode: which mode the model was judged in, and whose statistics its batch norms take.
        held: parameters that need no gradient; they are held fixed.
        gradient: the gradient module by module.
        gradient_length: ``‖∇R‖₂``.
        gradient_noise: standard error of the gradient between batches, ``‖·‖₂``: how far another draw of as
            many batches would move it; None for one batch.
        lowest, highest: where the extreme eigenvalues of the Hessian lie; None where there is no Hessian.
        takes_off: what a step that was tried takes off the loss; 0 where none did beyond rounding.
        way_curvature: ``vᵀHv`` of the unit vector :attr:`way_down`; None if no curvature is surely negative.
        way_takes_off: by how much the loss falls along it.
        nearly_flat: moves that would leave the loss as it is but for a small number, with what they change.
        flat_directions: the flat families. Where no Hessian was built, their dimension is that of families
            which share no parameter: there may be more.
        not_looked: why flat directions were not looked for; ``""`` if they were.

    >>> import torch, semiflat as sf
    >>> torch.manual_seed(0)
    <torch...>
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> batches = [(torch.randn(8, 2), torch.randn(8, 1)) for _ in range(4)]
    >>> found = sf.judge_module(model, batches, torch.nn.functional.mse_loss)
    >>> found.kind.label, found.mode, found.takes_off > 0, found.gradient_noise > 0
    ('not critical', 'train mode', True, True)
    >>> sorted(found.step) == sorted(name for name, _ in model.named_parameters())
    True
    """

    loss: float
    samples: int
    batches: int
    mode: str
    held: tuple[str, ...]
    gradient: tuple[GradientPart, ...]
    gradient_length: float
    gradient_noise: float | None
    lowest: EigenvalueRange | None
    highest: EigenvalueRange | None
    takes_off: float = 0.0
    way_curvature: float | None = None
    way_takes_off: float = 0.0
    nearly_flat: tuple[str, ...] = ()
    not_looked: str = ""
    build_step: Callable[[], Params] | None = field(default=None, repr=False)
    build_way: Callable[[], Params] | None = field(default=None, repr=False)

    @property
    def beyond_noise(self) -> bool | None:
        """Whether the gradient is more than three of its standard errors; None for one batch."""
        if self.gradient_noise is None:
            return None
        return self.gradient_length > SIGNAL * self.gradient_noise

    @cached_property
    def step(self) -> Params | None:
        """A step that takes :attr:`takes_off` off the loss, by name of the parameters, or None."""
        return None if self.build_step is None else self.build_step()

    @cached_property
    def way_down(self) -> Params | None:
        """A unit direction of surely negative curvature along which the loss falls, by name, or None."""
        return None if self.build_way is None else self.build_way()

    def __getstate__(self) -> dict[str, Any]:
        kept = super().__getstate__()
        return {key: value for key, value in kept.items() if key not in ("step", "way_down")}

    def _facts(self) -> Facts:
        return super()._facts() | {
            "loss": self.loss,
            "samples": self.samples,
            "batches": self.batches,
            "mode": self.mode,
            "gradient_length": self.gradient_length,
            "gradient_noise": self.gradient_noise,
            "lowest": None if self.lowest is None else str(self.lowest),
            "highest": None if self.highest is None else str(self.highest),
            "takes_off": self.takes_off,
            "way_curvature": self.way_curvature,
            "way_takes_off": self.way_takes_off,
            "nearly_flat": self.nearly_flat,
            "held": self.held,
        }

    def to_json(self) -> dict[str, Any]:
        """Everything but the entries of directions, as plain data."""
        own: dict[str, Any] = Shown.to_json(self)
        return super().to_json() | own | {"gradient": [part.to_json() for part in self.gradient]}


def judge_module(
    model: nn.Module,
    batches: Any,
    loss: LossFunction,
    *,
    tolerance: float = 1e-10,
    dtype: torch.dtype | None = torch.float64,
    dense_limit: int = DENSE,
    steps: int = STEPS,
) -> ModuleVerdict:
    """What kind of point a model is at, for the loss over the given batches and nothing else.

    Nothing is said that was not measured. Up to ``dense_limit`` parameters the Hessian is built, with a noise
    floor for each eigenvalue. Above it a direction's curvature bounds an extreme eigenvalue from one side,
    surely but for the rounding that is measured; the other side is bounded with a probability alone (Kuczyński
    & Woźniakowski 1992, Thm 4.2), and nothing is counted. There the answers are NOT_CRITICAL, STRICT_SADDLE and
    UNDECIDED. A minimum is said as :func:`semiflat.judge` says it: no eigenvalue is negative, and each that is
    zero lies along a flat direction that was found, whose points are critical, too.

    The model is copied, and judged in the mode that it is in: in train mode batch norms take the statistics of
    each batch. Dropout that is on is refused.

    Args:
        model: any ``nn.Module``.
        batches: re-iterable pairs ``(inputs, targets)``; inputs a tensor, a tuple or a dict.
        loss: ``loss(outputs, targets)``, a mean over the batch.
        tolerance: how large an entry of the gradient may be at a critical point, in parts of what it would be
            if its terms did not cancel. What rounding may do to an entry is let pass in any case.
        dtype: to compute in; None for the model's own, with the floors that it deserves.
        dense_limit: number of parameters up to which the Hessian is built.
        steps: of Lanczos, above it.

    Raises:
        InputError: if the model or the loss fails on a batch, gives something else each time, or is not finite;
            if the loss is no mean; if batches cannot be gone through twice.

    Source: theory §3; :func:`semiflat.judge`.

    >>> import torch, semiflat as sf
    >>> model = torch.nn.Linear(1, 1).double()
    >>> with torch.no_grad():
    ...     _ = model.weight.fill_(0.25), model.bias.fill_(0.5)
    >>> X = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
    >>> verdict = sf.judge_module(model, [(X, X.square() / 4 + X / 4 + 1 / 3)], torch.nn.functional.mse_loss)
    >>> print(verdict.kind.label, tuple(verdict.inertia))
    strict minimum (2, 0, 0)
    """
    tolerance = finite_number("tolerance", tolerance)
    if tolerance < 0:
        raise InputError(f"tolerance must be a finite number from 0 up, not {tolerance!r}")
    dense_limit, steps = whole("dense_limit", dense_limit), whole("steps", steps, 2)
    check_asked(loss, dtype)
    with torch.inference_mode(False), torch.enable_grad():  # whatever the caller is in
        risk = OnBatches(FlatModule(model, dtype), Batches(batches), loss)
        check_repeats(risk)
        return _Judge(risk, tolerance, dense_limit, steps).verdict()


class _Judge:
    """Puts what was measured together."""

    def __init__(self, risk: OnBatches, tolerance: float, dense_limit: int, steps: int) -> None:
        self.risk, self.flat, self.steps = risk, risk.flat, steps
        self.size = len(risk.at)
        self.found = Measured(risk, tolerance)
        self.dense = Dense(self.found) if self.size <= dense_limit else None

    def verdict(self) -> ModuleVerdict:
        found = self.found
        families, nearly, not_looked = self._families()
        no_hessian = found.no_hessian(None if self.dense is None else self.dense.shifted)
        lowest = highest = way = curvature = inertia = flat = None
        explained = unexplained = 0
        kind, reason, margin = Kind.UNDECIDED, no_hessian, None
        direction: Tensor | None = None
        if self.dense is not None and not no_hessian:
            joined = self.dense.held_against(families)
            lowest, highest = (self._whole(place) for place in (0, -1))
            way, curvature = self.dense.way_down()
            inertia = Inertia(*self.dense.spectrum.count(), zeros_explained=joined.explained)
            explained, unexplained = joined.explained, joined.unexplained
            dimension = joined.dimension
            kind, reason, margin = self.dense.classify(families, joined)
        elif not no_hessian:
            kind, reason, margin, lowest, highest, way, curvature = self._by_products()
            dimension = _apart(self.flat, families)
        else:
            inertia, dimension = NO_HESSIAN, _apart(self.flat, families)
        step, takes_off = None, 0.0
        if not found.critical:
            step, takes_off = found.step_down()
            kind, reason = Kind.NOT_CRITICAL, self._steep(takes_off)
            direction = -found.gradient / torch.linalg.vector_norm(found.gradient)
            margin = None
        falls = 0.0
        if way is not None:
            way, falls = found.falls_along(way)
            if falls <= 0:
                way = curvature = None
        if kind is Kind.STRICT_SADDLE:
            direction = way
        if not_looked == "":
            flat = FlatDirections(tuple(families), dimension, explained, unexplained)
        along = (
            found.bend if kind is Kind.NOT_CRITICAL else None if direction is None else curvature
        )
        named = self.flat.named
        return ModuleVerdict(
            kind=kind,
            certainty=Certainty.MEASURED,
            reason=reason,
            inertia=inertia,
            flat_directions=flat,
            curvature=along,
            margin=margin,
            method="dense Hessian" if self.dense is not None else "Lanczos",
            gradient_norm=float(found.gradient.abs().max()),
            tolerance=float(found.allowed[found.worst]),
            build_direction=None if direction is None else partial(named, direction.clone()),
            loss=found.loss,
            samples=self.risk.batches.samples,
            batches=self.risk.batches.count,
            mode=mode_of(self.flat.module),
            held=self.flat.held,
            gradient=self._by_module(),
            gradient_length=float(torch.linalg.vector_norm(found.gradient)),
            gradient_noise=found.between,
            lowest=lowest,
            highest=highest,
            takes_off=takes_off,
            way_curvature=curvature,
            way_takes_off=falls,
            nearly_flat=nearly,
            not_looked=not_looked,
            build_step=None if step is None else partial(named, step),
            build_way=None if way is None else partial(named, way),
        )

    def _families(self) -> tuple[list[ModuleFamily], tuple[str, ...], str]:
        batch = self.risk.moved(self.risk.batches.first())
        example = batch.parts(max(1, batch.size // 4))[0].inputs
        try:
            groups = units(self.flat.module, example)
            search = Search(
                self.risk, groups, self.found.untouched, self.found.loss_noise, self.found.eps
            )
            families = search.families()
        except InputError as error:
            return [], (), str(error)
        nearly = tuple(f"{why} (the loss changes by {by:.1e})" for why, by in search.nearly)
        return families, nearly, ""

    def _whole(self, place: int) -> EigenvalueRange:
        assert self.dense is not None
        spectrum = self.dense.plain
        value, noise = float(spectrum.values[place]), float(spectrum.noise[place])
        return EigenvalueRange(value - noise, value + noise, "both", 0.0)

    def _by_products(
        self,
    ) -> tuple[
        Kind, str, Margin | None, EigenvalueRange, EigenvalueRange, Tensor | None, float | None
    ]:
        """Above the size to which the Hessian is built: what is sure, and what is likely."""
        found, at = self.found, self.risk.at
        ends = lowest_ritz(found.times, self.size, self.steps)
        low, high = ends.vector.to(at), ends.top.to(at)
        (down, floor), (up, noise) = found.curvature(low), found.curvature(high)
        lowest = EigenvalueRange(ends.bound(self.size) - floor, down + floor, "above", RISK)
        highest = EigenvalueRange(up - noise, ends.bound_above(self.size) + noise, "below", RISK)
        need = f"a dense Hessian of {self.size} parameters would need {8 * self.size**2 / 2**30:.1f} GiB"
        margin = Margin(down, floor)
        if not found.negative(down, floor):
            reason = (
                f"{need}, and {ends.steps} Lanczos steps found no direction of clearly negative curvature (the "
                f"lowest {down:.3g}, floor {floor:.1g}). The lowest eigenvalue is {lowest}; that is no "
                "certainty"
            )
            return Kind.UNDECIDED, reason, None, lowest, highest, None, None
        if not found.critical:
            return Kind.NOT_CRITICAL, "", None, lowest, highest, low, down
        moved = found.moved_by_a_step(low, down)
        if not found.negative(down, floor + moved):
            reason = (
                f"a direction has curvature {down:.3g}, but a Newton step changes it by {moved:.2g}: a "
                f"critical point near by may have none below zero ({need})"
            )
            return Kind.UNDECIDED, reason, margin, lowest, highest, low, down
        reason = (
            f"a direction has curvature {down:.3g} with noise floor {floor + moved:.1g}, and the lowest "
            f"eigenvalue is no higher (Lanczos; {need})"
        )
        return Kind.STRICT_SADDLE, reason, margin, lowest, highest, low, down

    def _steep(self, takes_off: float) -> str:
        found = self.found
        entry = found.worst
        reason = (
            f"the gradient's entry for {_entry(self.flat, entry)} is {float(found.gradient[entry]):.2g}, where "
            f"tolerance and rounding allow {float(found.allowed[entry]):.2g}"
        )
        if takes_off > 0:
            reason += f"; a step takes {takes_off:.2g} off the loss of {found.loss:.6g}"
        else:
            reason += "; what a step takes off the loss is less than rounding"
        if found.between is not None:
            length = float(torch.linalg.vector_norm(found.gradient))
            ratio = length / found.between if found.between else math.inf
            reason += f"; its length is {ratio:.2g} times its standard error between batches"
        return reason

    def _by_module(self) -> tuple[GradientPart, ...]:
        named = self.flat.named(self.found.gradient)
        errors = None if self.found.errors is None else self.flat.named(self.found.errors)
        parts: dict[str, list[str]] = {}
        for name in named:
            parts.setdefault(name.rpartition(".")[0], []).append(name)
        total = float(torch.linalg.vector_norm(self.found.gradient))
        rows = []
        for module, names in parts.items():
            own = torch.cat([named[name].reshape(-1) for name in names])
            norm = float(torch.linalg.vector_norm(own))
            noise = None
            if errors is not None:
                each = torch.cat([errors[name].reshape(-1) for name in names])
                noise = float(torch.linalg.vector_norm(each))
            share = (norm / total) ** 2 if total > 0 else 0.0
            rows.append(GradientPart(module, float(own.abs().max()), norm, share, noise))
        return tuple(rows)


def _apart(flat: FlatModule, families: list[ModuleFamily]) -> int:
    """Dimension of families that share no parameter, the largest first: there may be more directions."""
    taken, total = torch.zeros_like(flat.at, dtype=torch.bool), 0
    for family in sorted(families, key=lambda family: -family.dimension):
        moved = flat.flat(family.direction()) != 0
        if not bool((taken & moved).any()):
            taken, total = taken | moved, total + family.dimension
    return total


def _entry(flat: FlatModule, entry: int) -> str:
    for name, place in flat.places.items():
        if place.start <= entry < place.stop:
            index = torch.unravel_index(torch.tensor(entry - place.start), flat.shapes[name])
            return f"{name}{[int(each) for each in index]}" if index else name
    raise IndexError(entry)


def mode_of(model: nn.Module) -> str:
    """Which mode a model is in, in words, and whose statistics its batch norms take.

    >>> mode_of(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    'train mode: batch norms take the statistics of each batch (1 of 1)'
    """
    own = [module.training for module in model.modules() if not list(module.children())]
    words = "train mode" if all(own) else "mixed modes" if any(own) else "eval mode"
    norms = [
        module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if norms:
        batch = sum(module.training or module.running_mean is None for module in norms)
        which = (
            "take the statistics of each batch" if batch else "use the statistics that they keep"
        )
        count = batch or len(norms)
        words += f": batch norms {which} ({count} of {len(norms)})"
    return words
