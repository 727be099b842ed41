"""What the hierarchies of planted teachers say: table, checks and data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from semiflat_experiments import Check, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, counted, qualified

SAMPLES, HELD_OUT = 60, 1000


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """How often the teacher's width is found, and that noise does not make it wider."""
    kept = qualified(records)
    exact = [each for each in kept if each["noise"] == 0]
    noisy = [each for each in kept if each["noise"] > 0]
    right = [each for each in exact if _off(each) == 0]
    wider = [each for each in noisy if _off(each) > 0]
    compared: Counter[str] = Counter()
    for each in kept:
        compared.update(each["embedded"])
    rows = [
        *(_row_of_width(width, exact) for width in settings["widths"]),
        *(_row_of_activation(name, exact) for name in settings["activations"]),
        *(_row_of_noise(noise, noisy) for noise in settings["noise"] if noise > 0),
        *(_row_of_surplus(noise, noisy) for noise in settings["noise"] if noise > 0),
        *(_row_of_held_out(noise, noisy) for noise in settings["noise"] if noise > 0),
        Row(
            "embedded points whose signs are those of a dense Hessian",
            "—",
            f"{compared['equal']} of {compared.total()}",
            f"{compared['different']} differ; at {compared['unclear']} the dense Hessian's are not clear",
        ),
    ]
    checks = [
        Check(
            "without noise the teacher's width is found in 19 of 20 cases or more",
            20 * len(right) >= 19 * len(exact) > 0,
            f"{len(right)} of {len(exact)}",
        ),
        Check(
            "with noise the answer is never wider than the teacher",
            bool(noisy) and not wider,
            f"{len(wider)} of {len(noisy)} are wider",
        ),
        Check(
            "an answer narrower than the teacher fits to the noise's share of the targets",
            all(_allowed(each) for each in noisy),
            f"{sum(_off(each) < 0 for each in noisy)} of {len(noisy)} are narrower",
        ),
        Check(
            "no embedded point has other signs than a dense Hessian",
            compared["equal"] > 0 == compared["different"],
            f"{compared['equal']} equal, {compared['different']} different, {compared['unclear']} not clear",
        ),
    ]
    return Outcome([*rows, counted(records)], checks, CAPTION, _data(kept))


CAPTION = (
    "Left: the least width found, less the teacher's, by the noise in the targets. Right: what the best "
    "network found at each width leaves of the targets' variance, each line a teacher; widths are counted from "
    "the teacher's. Without noise the loss falls to rounding there; with noise it stays at the "
    "noise's share (dotted), and hardly falls beyond."
)


def _off(record: Record) -> int:
    """How many units wider than the teacher the answer is."""
    return int(record["answer"] - record["width"])


def _allowed(record: Record) -> bool:
    share: float = record["noise"] ** 2
    losses: list[float] = record["losses"]
    # The tolerance is a part of the targets' variance, noise and all: at most 2.
    return bool(losses[record["answer"] - 1] <= losses[-1] + 2 * share)


def _row_of_width(width: int, exact: Sequence[Record]) -> Row:
    mine = [each for each in exact if each["width"] == width]
    return _row_of_found(f"teachers of width {width}, no noise: width found", mine)


def _row_of_activation(name: str, exact: Sequence[Record]) -> Row:
    mine = [each for each in exact if each["activation"] == name]
    return _row_of_found(f"{name} teachers, no noise: width found", mine)


def _row_of_found(what: str, mine: Sequence[Record]) -> Row:
    right = sum(_off(each) == 0 for each in mine)
    least = max((each["losses"][each["width"] - 1] for each in mine), default=0.0)
    return Row(
        what,
        "—",
        f"{right} of {len(mine)}",
        f"the best there leaves {least:.0e} of the variance at most; in "
        f"{sum(not each['critical'] for each in mine)} it is a run that ended at no critical point",
    )


def _row_of_noise(noise: float, noisy: Sequence[Record]) -> Row:
    mine = [each for each in noisy if each["noise"] == noise]
    offs = Counter(np.sign([_off(each) for each in mine]).tolist())
    return Row(
        f"noise of {noise:.0%}: width found",
        "—",
        f"{offs[0]} of {len(mine)}",
        f"{offs[-1]} narrower, {offs[1]} wider",
    )


def _row_of_surplus(noise: float, noisy: Sequence[Record]) -> Row:
    """What one unit more than the teacher has takes of the noise, as so many parameters of a linear model."""
    mine = [each for each in noisy if each["noise"] == noise]
    each_unit = [
        (each["losses"][-2] - each["losses"][-1]) * SAMPLES / noise**2 / (each["inputs"] + 2)
        for each in mine
    ]
    return Row(
        f"noise of {noise:.0%}: what a unit too many fits of it, as if each of its parameters were one of a "
        "linear model",
        "—",
        _range(each_unit, ".2f"),
        "fall of the loss from the teacher's width to the next, over the noise's variance × the unit's "
        "parameters / samples; median and range",
    )


def _row_of_held_out(noise: float, noisy: Sequence[Record]) -> Row:
    mine = [each for each in noisy if each["noise"] == noise]
    answered = [
        each["held_out"][str(each["answer"])] / noise**2
        for each in mine
        if str(each["answer"]) in each["held_out"]
    ]
    pairs = [
        (each["held_out"][str(each["width"])], each["held_out"][str(each["width"] + 1)])
        for each in mine
        if {str(each["width"]), str(each["width"] + 1)} <= set(each["held_out"])
    ]
    return Row(
        f"noise of {noise:.0%}: loss on {HELD_OUT} inputs held out, over the noise's variance",
        "—",
        _range(answered, ".2f"),
        f"of the width found, against the teacher without noise; one unit too many does worse in "
        f"{sum(wide > own for own, wide in pairs)} of {len(pairs)}",
    )


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "none"
    low, middle, high = (float(f(values)) for f in (np.min, np.median, np.max))
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def _data(kept: Sequence[Record]) -> dict[str, Any]:
    keys = ("seed", "activation", "inputs", "width", "noise", "answer", "gap", "losses")
    return {"cases": [{key: rounded(each[key]) for key in keys} for each in kept]}


def rounded(value: Any) -> Any:
    """Numbers to three digits, so that what is kept stays small."""
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value
