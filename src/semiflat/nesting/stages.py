"""Which critical functions a training run passes, where it stays, and how it leaves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from semiflat.errors import InputError, positive
from semiflat.nesting.leaving import NearPoint, near_points
from semiflat.nesting.logger import StageLogger
from semiflat.nesting.plateaus import ENOUGH, Stretch, find_plateaus
from semiflat.nesting.record import Widths, widths_name
from semiflat.nesting.result import CriticalFunction, Hierarchy
from semiflat.nesting.run import checked_steps, placed, read_folder
from semiflat.networks import Params
from semiflat.points import Point
from semiflat.problem import FIT, Problem
from semiflat.records.codec import Codec
from semiflat.records.shown import Facts, Rows, Shown
from semiflat.reduction import reduce

NEAR = 0.05
"""Distance from which on a plateau is near no critical function, in parts of the targets' spread."""
CLEARLY = 0.5
"""The nearest function is to be this much nearer than the next one."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Shown):
    """A network on its way.

    Attributes:
        step: of the run.
        loss: on the hierarchy's data, without the penalty of weight decay.
        function: number of the nearest critical function.
        distance: from its outputs on the data, see :meth:`Hierarchy.distances`.
        effective: hidden widths of the smallest network with nearly the same outputs, by
            :func:`semiflat.reduce`; None where it was not asked for.

    >>> import semiflat as sf
    >>> sf.Checkpoint(step=100, loss=0.25, function=1, distance=0.02)
    Checkpoint(step=100, loss=0.25, function=1, distance=0.02, effective=None)
    """

    step: int
    loss: float
    function: int
    distance: float
    effective: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Plateau(Shown):
    """A stretch of a run along which the loss hardly falls, between faster falls.

    Attributes:
        first, last: steps of its first checkpoint and of its last one.
        step: of its checkpoint that comes nearest to a critical function.
        loss: there.
        function, distance: that function, and how far it is.
        second, second_distance: the next nearest; None if only one function is known.
        left: step of the first checkpoint after it.
        points: if it lies near the function: what a narrow point with that function is in the trained network.
        reason: why there are none; else ``""``.

    >>> import semiflat as sf
    >>> plateau = sf.Plateau(
    ...     first=50, last=5560, step=1202, loss=22.21, function=0, distance=0.0067, second=4,
    ...     second_distance=0.036, left=5885)
    >>> print(plateau)
    steps 50 to 5560, loss 22.21: near critical function 0 (distance 0.0067; the next one, 4, at 0.036)
    """

    first: int
    last: int
    step: int
    loss: float
    function: int
    distance: float
    second: int | None
    second_distance: float | None
    left: int
    points: tuple[NearPoint, ...] = ()
    reason: str = ""

    @property
    def near(self) -> bool:
        """Whether it lies near the function: within 0.05 of the spread, and half as far as any other."""
        clear = self.second_distance is None or self.distance <= CLEARLY * self.second_distance
        return self.distance <= NEAR and clear

    def __str__(self) -> str:
        near = "near" if self.near else "not clearly near"
        second = ""
        if self.second is not None:
            second = f"; the next one, {self.second}, at {self.second_distance:.2g}"
        return (
            f"steps {self.first} to {self.last}, loss {self.loss:.4g}: {near} critical function "
            f"{self.function} (distance {self.distance:.2g}{second})"
        )


@dataclass(frozen=True, eq=False)
class Stages(Rows):
    """A training run beside the critical functions of a hierarchy; iterable, a row for each checkpoint.

    Attributes:
        checkpoints: in the order of steps.
        plateaus: in the same order.
        functions: the critical functions, by number.
        hidden: widths of the trained network's hidden layers.
        reason: why no plateaus were looked for; else ``""``.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=8)
    >>> wide = sf.MLP([1, 4, 1], "tanh")
    >>> run = [wide.random_params(seed=0, scale=size) for size in (0.1, 1.0)]
    >>> sf.stages(h, run, steps=[10, 20])
    Stages(checkpoints=2, steps=[10, 20], widths=[4], plateaus=0)
    """

    checkpoints: tuple[Checkpoint, ...]
    plateaus: tuple[Plateau, ...]
    functions: tuple[CriticalFunction, ...]
    hidden: Widths
    reason: str = ""

    def __iter__(self) -> Iterator[Checkpoint]:
        """The checkpoints."""
        return iter(self.checkpoints)

    def __len__(self) -> int:
        """How many checkpoints there are."""
        return len(self.checkpoints)

    def __getitem__(self, place: int) -> Checkpoint:
        """The checkpoint at a place, counted from 0."""
        return self.checkpoints[place]

    def to_json(self) -> dict[str, Any]:
        """All of it but the functions' outputs, as plain data."""
        plain: dict[str, Any] = Codec().to_plain(
            {
                "hidden": self.hidden,
                "checkpoints": self.checkpoints,
                "plateaus": self.plateaus,
                "functions": [_described(function) for function in self.functions],
                "reason": self.reason,
            }
        )
        return plain

    def _facts(self) -> Facts:
        first, last = self.checkpoints[0].step, self.checkpoints[-1].step
        return {
            "checkpoints": len(self),
            "steps": [first, last],
            "widths": list(self.hidden),
            "plateaus": len(self.plateaus),
        }

    def _rows(self) -> list[Facts]:
        return [vars(each) | {"plateau": self._plateau_of(each.step)} for each in self.checkpoints]

    def _plateau_of(self, step: int) -> int | None:
        for number, plateau in enumerate(self.plateaus):
            if plateau.first <= step <= plateau.last:
                return number
        return None

    def plot(self, ax: Any = None) -> Any:
        """The loss against the steps, both logarithmic: plateaus shaded, critical functions as lines.

        Dashed and named are those nearest somewhere on a plateau, or at the end; the others dotted.

        Args:
            ax: matplotlib's axes to draw on; by default those of a new figure, ``ax.figure``.

        Returns:
            The axes.

        Raises:
            InputError: without matplotlib.
        """
        from semiflat.nesting.draw_stages import draw

        return draw(self, ax)


def stages(
    h: Hierarchy,
    checkpoints: Sequence[Params | nn.Module | Point] | StageLogger,
    *,
    steps: Sequence[int] | None = None,
    tolerance: float | None = None,
) -> Stages:
    """Which critical functions of a hierarchy a training run passes, and where it stays (Z22 Fig. 4.3).

    The trained network may have any hidden widths: what is compared are outputs on the data. Plateaus are
    found from the losses alone. Let d be the fall of ln loss while the steps double. On a plateau d is below
    0.1, and below a quarter of the steepest fall before it and of the steepest one after it, for a factor of
    1.5 of steps at least. So there is none before the first fall nor after the last one, and none on an
    exponential or a power law.

    Where a plateau comes clearly near a critical function, a point with that function is embedded in the
    trained network in every simple way (a unit replicated with shares inside or outside [0, 1], null units)
    and judged by the inertia law. For strict saddles the change of outputs from the nearest checkpoint on
    the plateau to the first one after it is compared with the change along the law's descent: a cosine, in
    what is orthogonal to everything that the saddle's own rising directions can do to the outputs. These follow
    the descent, and are most of the change. Smooth functions of one input are alike, so beside the cosine
    stands the share of random directions that come as close.

    Args:
        h: of the same data, loss and activations.
        checkpoints: parameters, ``state_dict``s, ``nn.Sequential``s or points, in the order of training; or a
            :class:`StageLogger`, which knows their steps.
        steps: the number of each checkpoint's step, growing; 1, 2, … by default. Step 0, the start, is in no
            plateau.
        tolerance: find effective widths, too, by :func:`semiflat.reduce`, whose outputs may be off by so much.
            Takes about a second for each checkpoint of some hundred units.

    Raises:
        InputError: for no checkpoints; for one that has another number of inputs, outputs or layers,
            other activations, other widths than the first, values that are not finite, or is a point on
            other data; for steps that are not as many or do not grow.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=8)
    >>> wide = sf.Replicate.uniform(0, 0, copies=3)(h["1-0"])
    >>> for row in sf.stages(h, [sf.MLP([1, 3, 1]).random_params(seed=0), wide.params]):
    ...     print(row.function, row.distance < 1e-12)
    1 False
    0 True
    """
    if not isinstance(h, Hierarchy):
        raise InputError(f"expected a hierarchy, of sf.hierarchy(…), not a {type(h).__name__}")
    kept: Any = checkpoints
    if isinstance(checkpoints, StageLogger):
        if steps is not None:
            raise InputError("a StageLogger knows its steps; leave out steps")
        kept, steps = checkpoints.weights, checkpoints.steps
    if not isinstance(kept, list | tuple):
        raise InputError(
            f"checkpoints must be a list, or a StageLogger, not a {type(kept).__name__}"
        )
    if not kept:
        raise InputError("there are no checkpoints; give at least one")
    return _stages(h, kept, checked_steps(steps, len(kept)), tolerance)


def stages_of_folder(h: Hierarchy, folder: str | Path, *, tolerance: float | None = None) -> Stages:
    """The same for the ``.safetensors`` files in a folder, whose names end in the numbers of their steps.

    Raises:
        InputError: as :func:`stages`, and if there are no files, or one has no number or cannot be read.
    """
    if not isinstance(h, Hierarchy):
        raise InputError(f"expected a hierarchy, of sf.hierarchy(…), not a {type(h).__name__}")
    steps, kept = read_folder(h.problem, folder)
    return _stages(h, kept, steps, tolerance)


def _stages(
    h: Hierarchy,
    kept: Sequence[Any],
    numbers: list[int],
    tolerance: float | None,
) -> Stages:
    if tolerance is not None:
        tolerance = positive("tolerance", tolerance)
    functions = h.critical_functions()
    if not functions:
        raise InputError("the hierarchy has no critical functions; search with more starts")

    rows: list[Checkpoint] = []
    outputs: list[Tensor] = []
    hidden: Widths = ()
    for place, (step, given) in enumerate(zip(numbers, kept, strict=True)):
        try:
            point = placed(h.problem, given)
        except InputError as error:
            raise InputError(f"checkpoint {place} (step {step}): {error}") from error
        net = point.problem.net
        if rows and net.hidden != hidden:
            raise InputError(
                f"checkpoint {place} (step {step}) has hidden widths {list(net.hidden)}, and the first "
                f"one {list(hidden)}; give checkpoints of one network"
            )
        hidden = net.hidden
        outputs.append(point.problem.outputs(point.params))
        apart = h.distances(outputs[-1])
        nearest = int(apart.argmin())
        rows.append(
            Checkpoint(
                step=step,
                loss=_data_loss(h.problem, outputs[-1]),
                function=functions[nearest].number,
                distance=float(apart[nearest]),
                effective=None if tolerance is None else reduce(point, tolerance).widths,
            )
        )
    start = 0 if numbers[0] else 1  # step 0 has no logarithm
    losses, reason = _above_infimum(h.problem, [row.loss for row in rows[start:]])
    stretches = [] if reason else find_plateaus(numbers[start:], losses)
    found = [_plateau(h, rows[start:], outputs[start:], hidden, each) for each in stretches]
    return Stages(tuple(rows), tuple(found), tuple(functions), hidden, reason)


def _data_loss(problem: Problem, outputs: Tensor) -> float:
    return float(problem.mean(problem.loss.value(outputs, problem.y)))


def _above_infimum(problem: Problem, losses: list[float]) -> tuple[list[float], str]:
    """Losses less the least that there can be, no smaller than their rounding; and why none are left."""
    least = problem.least_loss or 0.0
    noise = max(FIT * problem.target_size**2, 4 * problem.value_noise)
    above = [loss - least for loss in losses]
    if len(above) < ENOUGH:
        return [], f"plateaus need {ENOUGH} checkpoints after step 0, and there are {len(above)}"
    if problem.least_loss is None and min(above) <= 0:
        return [], (
            "plateaus were not looked for: the loss has values of 0 or below, and its infimum is not known"
        )
    return [max(loss, noise) for loss in above], ""


def _plateau(
    h: Hierarchy,
    rows: Sequence[Checkpoint],
    outputs: Sequence[Tensor],
    hidden: Widths,
    stretch: Stretch,
) -> Plateau:
    after = stretch.last + 1  # the loss falls after a plateau
    nearest = min(range(stretch.first, after), key=lambda place: rows[place].distance)
    row = rows[nearest]
    functions = h.critical_functions()
    apart = h.distances(outputs[nearest])
    second = int(apart.argsort()[1]) if len(apart) > 1 else None
    plateau = Plateau(
        first=rows[stretch.first].step,
        last=rows[stretch.last].step,
        step=row.step,
        loss=row.loss,
        function=row.function,
        distance=row.distance,
        second=None if second is None else functions[second].number,
        second_distance=None if second is None else float(apart[second]),
        left=rows[after].step,
    )
    fits = [
        h[name]
        for name in functions[int(apart.argmin())].points
        if all(a <= b for a, b in zip(h[name].problem.net.hidden, hidden, strict=True))
    ]
    if not plateau.near:
        reason = "no critical function of the hierarchy is clearly the one it is near"
        return replace(plateau, reason=reason)
    if not fits:
        reason = f"points with that function are wider than {widths_name(hidden)}"
        return replace(plateau, reason=reason)
    change = outputs[after] - outputs[nearest]
    return replace(plateau, points=tuple(near_points(fits[0].name, fits[0], hidden, change)))


def _described(function: CriticalFunction) -> dict[str, Any]:
    return {
        "number": function.number,
        "points": function.points,
        "hidden": function.hidden,
        "loss": function.loss,
    }
