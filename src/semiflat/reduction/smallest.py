"""The smallest equivalent network."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from semiflat.errors import InputError, switch
from semiflat.limits import AtInfinity
from semiflat.points import Point, check_one
from semiflat.records.shown import Rows
from semiflat.reduction.at_infinity import reduced_at_infinity
from semiflat.reduction.exact import Done, reduced_exactly
from semiflat.reduction.nearly import Budget, reduced_within
from semiflat.reduction.record import Merge, Reduction
from semiflat.reduction.state import State
from semiflat.reduction.way_back import way_back

_REASONS = {
    "null": ("constant", "constant and unheard"),
    "constant": ("constant", "constant, which the bias above can be as well"),
    "zero": ("constant", "0 for every input"),
    "inactive": ("inactive", "0 for every input, being fed with less than 0"),
    "inactive on the data": (
        "inactive on the data",
        "0 on every sample, being fed with less than 0",
    ),
    "unheard": ("unheard", "nothing above listens"),
    "nearly constant": ("nearly constant", "hardly anything but a constant is heard of them"),
}

_DEPENDENT = ("dependent", "linear, and combinations of the other units do as well")


def reduce(point: Point, tolerance: float = 0.0, *, on_data: bool = False) -> Reduction:
    """The smallest equivalent network that the rules below find, and the way back from it.

    Exactly (``tolerance=0``) the function stays the same for every input, to rounding. From the
    bottom up, and over again until nothing changes, a hidden layer loses units that are

    - constant, with incoming weights 0: the constant goes to the bias above, where there is one;
    - inactive for every input: relu units fed with less than 0 whatever the layer below hands on;
    - unheard, with outgoing weights 0;
    - twins, of which one is kept: the same incoming weights, up to sign for odd activations and
      sigmoid (σ(−z) = 1 − σ(z); the constant needs a bias above), and up to a factor above 0 for
      positively homogeneous ones. Their outgoing weights may be any;
    - linear, with incoming weights that are a combination of those of other units of a linear layer, or
      outgoing ones: as many units are left as the product of both has rank.

    A point at infinity loses branches that are copies of another, and null units and gates, exactly.

    A layer keeps one unit at least, and the units that are left their order. Units that depend on
    each other in other ways are left alone.

    With a tolerance, units that are nearly constant, unheard or twins on the data are merged too, as
    long as no output on any sample changes by more. Nothing is fitted: the weights of merged units
    are averages and sums of those given, so a network whose units all differ stays as wide as it is.
    A layer of n units takes some n² numbers and steps then, and only about n log n without.

    Args:
        point: any parameters, critical or not; an embedded point's are built.
        tolerance: largest change of any output on any sample, relative to the largest deviation of
            the outputs from their mean over the data (to 1 where there is none). Units of a limiting
            network are merged only where that changes nothing.
        on_data: drop relu units, too, that are inactive on the data rather than for every input.

    Raises:
        InputError: for anything but one point, or a tolerance that is not a number from 0 up.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> wide = (sf.Replicate(0, 1, [0.25, 0.75]) >> sf.NullUnits(0, [0.5]))(point)
    >>> small = reduce(wide)
    >>> small.widths, small.bound, small.embedding
    ((2,), 0.0, Split(layer=0, sources=[0, 1, 1], shares=[1, 0.25, 0.75]) >> NullUnits(layer=0, biases=[0.5]))
    >>> back = small.embedding(small.point)
    >>> all(bool((back.params[key] == wide.params[key]).all()) for key in wide.params)
    True
    """
    switch("on_data", on_data)
    state = _state(point)
    _check_tolerance(tolerance)
    return _reduced(point, state, float(tolerance), on_data)


class Widths(list[tuple[float, tuple[int, ...], float]], Rows):
    """How wide a network is in effect: ``(tolerance, hidden widths, bound)`` for each tolerance.

    A list, and a table: ``widths.to_dataframe()``.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> wide = sf.Replicate.uniform(0, 0, 9)(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> widths = sf.widths_by_tolerance(wide, [0, 1e-6])
    >>> len(widths), widths[0], widths.to_json()["rows"][1]
    (2, (0.0, (2,), 0.0), {'tolerance': 1e-06, 'widths': [2], 'units': 2, 'bound': 0.0})
    """

    __repr__ = list.__repr__

    def _facts(self) -> dict[str, Any]:
        return {"tolerances": len(self)}

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"tolerance": tolerance, "widths": widths, "units": sum(widths), "bound": bound}
            for tolerance, widths, bound in self
        ]


def widths_by_tolerance(
    point: Point, tolerances: Sequence[float] = (0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
) -> Widths:
    """How wide a network is in effect, at several tolerances.

    A larger tolerance never counts more hidden units: what did for a smaller one does for it too.

    Args:
        point: see :func:`reduce`.
        tolerances: see :func:`reduce`, in any order.

    Raises:
        InputError: as :func:`reduce`.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> widths_by_tolerance(sf.Replicate.uniform(0, 0, 9)(point), [0, 1e-6])
    [(0.0, (2,), 0.0), (1e-06, (2,), 0.0)]
    """
    state = _state(point)
    if not isinstance(tolerances, Iterable) or getattr(tolerances, "ndim", 1) == 0:
        raise InputError(f"tolerances must be a list such as [0, 1e-3], not {tolerances!r}")
    for tolerance in tolerances:
        _check_tolerance(tolerance)
    found: dict[float, tuple[tuple[int, ...], float]] = {}
    best: tuple[tuple[int, ...], float] | None = None
    for tolerance in sorted({float(tolerance) for tolerance in tolerances}):
        small = _reduced(point, state, tolerance, False)
        if best is None or sum(small.widths) < sum(best[0]):
            best = small.widths, small.bound
        found[tolerance] = best
    return Widths((float(tolerance), *found[float(tolerance)]) for tolerance in tolerances)


def _reduced(point: Point, state: State, tolerance: float, on_data: bool) -> Reduction:
    if isinstance(point.problem, AtInfinity):
        return reduced_at_infinity(point)
    data = point.problem if on_data else None
    narrow, done = reduced_exactly(state, data)
    bound = 0.0
    if tolerance > 0:
        budget = Budget.of(point.problem, state, tolerance)
        narrow, more = reduced_within(narrow, budget, data)
        done += more
        if any(not each.plan.exact for each in more):
            bound = max(budget.change(narrow), sys.float_info.min)  # 0.0 means exact
    small = Point(point.problem.with_net(narrow.net), narrow.params)
    merges = tuple(merge for each in done for merge in _merges(each))
    return Reduction(small, way_back(done, narrow), bound, merges)


def _merges(done: Done) -> list[Merge]:
    plan, origins = done.plan, done.before.origins[done.plan.layer]
    given: list[Merge] = []
    for rule, units in plan.dropped.items():
        which = tuple(sorted(unit for each in units for unit in origins[each]))
        reason = _REASONS[rule] if done.back is None else _DEPENDENT
        given.append(Merge(plan.layer, which, *reason))
    for members in plan.members():
        if len(members) == 1:
            continue
        which = tuple(sorted(unit for each in members for unit in origins[each]))
        scales = plan.scale[members]
        up_to = "" if bool((scales == 1).all()) else " up to a factor"
        if bool((scales.abs() == 1).all()) and up_to:
            up_to = " up to sign"
        rule, nearly = ("twins", "") if plan.exact else ("nearly twins", "nearly ")
        text = f"{nearly}the same incoming weights{up_to}, so one unit does for all"
        given.append(Merge(plan.layer, which, rule, text))
    return given


def _state(point: Point) -> State:
    check_one(point, "reduce")
    return State.given(point.problem.net, point.params)


def _check_tolerance(tolerance: float) -> None:
    number: object = tolerance  # whatever was given
    fits = isinstance(number, int | float | np.number) and not isinstance(number, bool)
    if not fits or not math.isfinite(tolerance) or tolerance < 0:
        raise InputError(
            f"tolerance must be a finite number from 0 up, the change allowed relative to the spread "
            f"of the outputs, such as 1e-3; given is {tolerance!r}"
        )
