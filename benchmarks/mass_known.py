"""The adjudicator of the mass test on points whose kind is known by algebra."""

from __future__ import annotations

import math

from mass_landscape import Case
from mass_truth import adjudicate

GRID = [[-1 + 2 * k / 19] for k in range(20)]


def line(w: float, size: float, slope: float, unit: float) -> Case:
    """y = slope·x fitted by a line, x of a given size, at slope w; the one critical point is w = slope."""
    X = [[size * x] for (x,) in GRID]
    y = [[slope * x] for (x,) in X]
    return Case(
        [1, 1], [], [True], "squared", X, y, 0.0, [w, 0.0], [unit, max(slope * size, 1e-300)]
    )


def unit_at_zero(w: float, v: float) -> Case:
    """A relu unit that decay has brought to 0; the other sign of its weight opens a way down."""
    decay, y = 0.2, [[2.0], [-2.2], [0.1], [0.1]]
    level = sum(v for (v,) in y) / 4 / (1 + decay)
    X = [[-2.0], [-1.0], [1.0], [2.0]]
    return Case([1, 1, 1], ["relu"], [False, True], "squared", X, y, decay, [w, v, level])


STEP = [[-1.5], [-0.5], [0.5], [1.5]]
SIGNS = [[math.copysign(1.0, x)] for (x,) in STEP]

KNOWN: list[tuple[str, Case, set[str], bool | None]] = [
    (
        "a line at w = 0, far from its minimum w = 10, x ~ 1e-6",
        line(0.0, 1e-6, 10.0, 10.0),
        {"not critical"},
        None,
    ),
    ("the same at w = 10", line(10.0, 1e-6, 10.0, 10.0), {"strict minimum"}, None),
    ("y ~ 1e-11, at w = 0", line(0.0, 1.0, 1e-11, 1e-11), {"not critical"}, None),
    ("y ~ 1e-11, at w = 1e-11", line(1e-11, 1.0, 1e-11, 1e-11), {"strict minimum"}, None),
    (
        "a step by tanh, w = 40: the minimum is at infinity",
        Case([1, 1, 1], ["tanh"], [True, True], "squared", STEP, SIGNS, 0.0, [40.0, 0.0, 1.0, 0.0]),
        {"not critical"},
        None,
    ),
    (
        "a line by tanh, w = 2^-28, v = 2^28: the same",
        Case(
            [1, 1, 1],
            ["tanh"],
            [True, True],
            "squared",
            STEP,
            STEP,
            0.0,
            [2.0**-28, 0, 2.0**28, 0],
            [2.0**-28, 2.0**-28, 2.0**28, 1],
        ),
        {"not critical"},
        None,
    ),
    ("a relu unit at 0", unit_at_zero(0.0, 0.0), {"kink"}, True),
    (
        "a relu unit at 1e-9: the exact point is 0, on the kink",
        unit_at_zero(1e-9, 1e-9),
        {"kink"},
        True,
    ),
    ("a relu unit at 1e-13", unit_at_zero(1e-13, 3e-14), {"kink"}, True),
    (
        "a tanh unit at 0, y even: F is 0, the loss flat or higher",
        Case(
            [1, 1, 1],
            ["tanh"],
            [True, True],
            "squared",
            STEP,
            [[1.0], [0.0], [0.0], [1.0]],
            0.0,
            [0, 0, 0, 0.5],
        ),
        {"degenerate"},
        True,  # of fourth order: a tanh unit with a bias bends like y
    ),
    (
        "a tanh unit at 0, y odd: F is not 0",
        Case([1, 1, 1], ["tanh"], [True, True], "squared", STEP, SIGNS, 0.0, [0.0, 0.0, 0.0, 0.0]),
        {"strict saddle"},
        None,
    ),
    (
        "two identity layers at their fit: flat, a minimum",
        Case(
            [1, 1, 1], ["identity"], [True, True], "squared", STEP, SIGNS, 0.0, [0.8, 0.0, 1.0, 0.0]
        ),
        {"degenerate"},
        False,
    ),
]


def check() -> bool:
    """Print truth and adjudication of each known point; whether all agree."""
    good = True
    for name, case, kinds, lower in KNOWN:
        truth = adjudicate(case)
        agrees = truth.kind in kinds and (lower is None or truth.lower == lower)
        good &= agrees
        found = f"{truth.kind}, lower {truth.lower}" if lower is not None else truth.kind
        print("ok   " if agrees else "WRONG", name, "|", found, truth.inertia or "", truth.why)
    return good


if __name__ == "__main__":
    raise SystemExit(0 if check() else 1)
