"""Plateaus of a training run, told from its losses alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Curve = NDArray[np.float64]

FACTOR = 2.0
"""The fall of the loss is taken over this factor of steps."""
MOST = 0.1
"""What the loss falls by on a plateau, in its logarithm, while the steps grow by ``FACTOR``."""
PART = 0.25
"""The same, in parts of the steepest fall before and of the steepest one after."""
LEAST = 0.02
"""Falls before and after a plateau below this, in logarithms, are not looked at."""
NOISE = 4.0
"""Nor are they below this many times the scatter of the losses."""
ENOUGH = 5
"""Checkpoints without which nothing is looked for."""
LONG = 1.5
"""A plateau's last step is at least this many times its first one."""


@dataclass(frozen=True)
class Stretch:
    """A plateau, by places of the curve.

    Attributes:
        first, last: where it begins and ends.
        flattest: where the loss falls least.
    """

    first: int
    last: int
    flattest: int


def find_plateaus(steps: Sequence[int], losses: Sequence[float]) -> list[Stretch]:
    """Stretches along which the loss falls slowly, between faster falls before and after.

    With ``d`` the fall of ln loss while the steps double, a checkpoint is flat if ``|d|`` is below 0.1, and
    below a quarter of the largest d before it and of the largest d after it. A plateau is a maximal run of
    flat checkpoints whose last step is at least 1.5 times its first. Two runs at one level are one plateau.
    The loss before a plateau, and after it, is by 2 % or more above or below its level. The curve is
    smoothed by running medians of five, which leave falling curves as they are; what it scatters about
    them is noise, and falls count by what they are above that.

    So a power law has none, where d is constant, and an exponential has none, as its d grows. Nor has what
    comes to rest, as nothing follows; nor the time before the first fall.

    Args:
        steps: from 1 up, in order, (K,).
        losses: above their infimum, and positive, (K,).

    >>> steps = [round(1.3 ** k) for k in range(10, 40)]
    >>> losses = [1 / (1 + (t / 30) ** 4) + 0.1 / (1 + (t / 9000) ** 4) for t in steps]
    >>> (plateau,) = find_plateaus(steps, losses)
    >>> steps[plateau.first], steps[plateau.last], round(losses[plateau.flattest], 3)
    (146, 3406, 0.1)
    >>> find_plateaus(steps, [t ** -0.7 for t in steps])
    []
    """
    x, raw = np.log(np.asarray(steps, float)), np.log(np.asarray(losses, float))
    if len(x) < ENOUGH:
        return []
    y = _smooth(raw)
    noise = NOISE * float(np.quantile(np.abs(raw - y), 0.9))
    half = np.log(FACTOR) / 2
    fall = np.interp(x - half, x, y) - np.interp(x + half, x, y)
    before = np.concatenate([[-np.inf], np.maximum.accumulate(fall)[:-1]])
    after = np.concatenate([np.maximum.accumulate(fall[::-1])[::-1][1:], [-np.inf]])
    flat = np.abs(fall) < np.minimum(MOST, PART * (np.minimum(before, after) - noise))
    least = max(LEAST, noise)
    return [
        each
        for each in _together(_runs(flat, fall), y, fall, least)
        if x[each.last] - x[each.first] >= np.log(LONG)
        and y[: each.first + 1].max() - y[each.flattest] >= least
        and y[each.flattest] - y[each.last :].min() >= least
    ]


def _smooth(curve: Curve) -> Curve:
    """Running medians of five, of three beside the ends; nothing changes where the curve is monotone."""
    smooth = curve.copy()
    for reach in (1, 2):
        windows = np.lib.stride_tricks.sliding_window_view(curve, 2 * reach + 1)
        smooth[reach : len(curve) - reach] = np.median(windows, axis=1)
    return smooth


def _runs(flat: NDArray[np.bool_], fall: Curve) -> list[Stretch]:
    """Maximal runs of flat places."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
    return [
        Stretch(int(first), int(end) - 1, _flattest(fall, int(first), int(end) - 1))
        for first, end in zip(edges[::2], edges[1::2], strict=True)
    ]


def _flattest(fall: Curve, first: int, last: int) -> int:
    return first + int(np.abs(fall[first : last + 1]).argmin())


def _together(runs: list[Stretch], y: Curve, fall: Curve, least: float) -> list[Stretch]:
    """Runs between which the loss does not leave its level are one."""
    joined: list[Stretch] = []
    for run in runs:
        if joined and y[joined[-1].last] - y[run.first] <= least:
            before = joined.pop()
            flattest = min(before.flattest, run.flattest, key=lambda place: abs(fall[place]))
            run = Stretch(before.first, run.last, flattest)
        joined.append(run)
    return joined
