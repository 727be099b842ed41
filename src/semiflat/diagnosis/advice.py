"""The one piece of advice that follows from a diagnosis."""

from __future__ import annotations

from typing import TYPE_CHECKING

from semiflat.diagnosis.polish import Goal
from semiflat.diagnosis.sentences import of_loss, percent
from semiflat.limits import AtInfinity
from semiflat.verdicts import Kind
from semiflat.verdicts.verdict import MINIMA

if TYPE_CHECKING:
    from semiflat.diagnosis.result import Diagnosis

LITTLE = 0.01
"""Part of the loss below which more training hardly pays."""
FITTED = 1e-3
"""Part of the loss above the least there is that is left by what nearly fits the data."""
GAIN = 1e-3
"""Part of the loss that a way out has to take off to be worth its unit."""
DECAY = (
    "add weight decay, such as weight_decay=1e-3, and train on: a minimum is then at finite weights"
)


def advice(found: Diagnosis) -> str:
    """What to do."""
    there, least = found.polished, found.point.problem.least_loss
    left = of_loss(found, found.point.loss - there.loss)
    # Beside a fit nearly as good as any, what kind of point it is hardly matters.
    fitted = least is not None and there.loss - least <= FITTED * (found.point.loss - least)
    if fitted and there.steps and found.point.problem.outputs_alone:
        return _fit(found, left)
    return {
        Goal.HERE: _critical,
        Goal.CRITICAL: _finite,
        Goal.FIT: _fit,
        Goal.INFINITY: _infinity,
        Goal.SEPARATION: _separated,
        Goal.GROWING: _growing,
        Goal.UNCONFIRMED: _unconfirmed,
        Goal.ON_ITS_WAY: _on_its_way,
        Goal.NOT_TRIED: _not_tried,
    }[there.goal](found, left)


def _critical(found: Diagnosis, left: float) -> str:
    if found.verdict.kind is Kind.STRICT_SADDLE:
        lowest = found.curvature
        if lowest is None or not lowest.drop:
            return "Leave this strict saddle along diagnosis.verdict.descent_direction."
        return (
            f"Leave this strict saddle: go {lowest.step:.2g} along diagnosis.curvature.direction, which takes "
            f"{percent(of_loss(found, lowest.drop))} off the loss, and train on from there."
        )
    problem = found.point.problem
    if problem.outputs_alone and problem.fits(found.point.loss):
        return f"Stop: no outputs are better than these, to rounding.{_narrower(found)}"
    return f"Training is done: this is a {found.verdict.kind.label}.{_wider(found)}"


def _finite(found: Diagnosis, left: float) -> str:
    verdict = found.polished.verdict
    assert verdict is not None
    if verdict.kind is Kind.STRICT_SADDLE:
        return (
            f"Train on past the strict saddle ahead, {percent(left)} of the loss below: from "
            "diagnosis.polished.point go along diagnosis.polished.verdict.descent_direction."
        )
    what = "critical point" if verdict.kind not in MINIMA else verdict.kind.label
    if left >= LITTLE:
        return (
            f"Train on, or take diagnosis.polished.point: {percent(left)} of the loss is still there before "
            f"the {what} that comes.{_wider(found)}"
        )
    return (
        f"More training of this network gains no more than {percent(left)} of the loss: a {what} is "
        f"{found.polished.outputs:.1g} away in outputs.{_wider(found)}"
    )


def _fit(found: Diagnosis, left: float) -> str:
    if not found.polished.steps:
        return f"Stop: no outputs are better than these, to rounding.{_narrower(found)}"
    can = "can" if found.polished.goal is Goal.FIT else "nearly can"
    return (
        f"Decide whether the targets are to be met one by one, noise included: this network {can}, and "
        f"training on takes {percent(left)} off the loss. If not, add weight decay, or take fewer units."
    )


def _infinity(found: Diagnosis, left: float) -> str:
    verdict = found.polished.verdict
    if verdict is None or verdict.kind not in MINIMA:
        return (
            f"Add weight decay: {percent(left)} of the loss goes while weights grow, and no minimum is "
            "known where they lead."
        )
    return (
        f"Do not wait for the weights to settle: {percent(left)} of the loss goes while they grow without end. "
        f"Take the limit itself, diagnosis.polished.point, or add weight decay.{_wider(found)}"
    )


def _growing(found: Diagnosis, left: float) -> str:
    return (
        f"Add weight decay: {percent(left)} of the loss goes while weights grow, and nothing shows that they "
        "settle."
    )


def _separated(found: Diagnosis, left: float) -> str:
    return f"Do not train to the end, as there is none: {DECAY}."


def _unconfirmed(found: Diagnosis, left: float) -> str:
    if left >= LITTLE and _kinked(found):
        return (
            f"Take diagnosis.polished.point, {percent(left)} of the loss lower, and train on from there with "
            "small steps: kinks of the activations may hide the way from steps of second order."
        )
    if left >= LITTLE:
        return (
            f"Train on, or take diagnosis.polished.point: {percent(left)} of the loss is gone there, and "
            "rounding hides what is left to gain."
        )
    return f"Stop here: steps of second order find no more than {percent(left)} of the loss to take off."


def _kinked(found: Diagnosis) -> bool:
    return not all(activation.smooth for activation in found.point.problem.net.activations)


def _on_its_way(found: Diagnosis, left: float) -> str:
    return (
        f"Train on, from diagnosis.polished.point if you like: {percent(left)} of the loss is gone there, "
        "and it still falls."
    )


def _not_tried(found: Diagnosis, left: float) -> str:
    if isinstance(found.point.problem, AtInfinity):
        return "Go on in a finite network near by: diagnose sf.Limit.of(point).approach(1e3)."
    lowest = found.curvature
    if lowest is not None and lowest.drop:
        return (
            f"Train on; {percent(of_loss(found, lowest.drop))} of the loss goes by one step of "
            f"{lowest.step:.2g} along diagnosis.curvature.direction."
        )
    return (
        "Train on as long as the loss falls; more cannot be told of a network of this kind or size."
    )


def _wider(found: Diagnosis) -> str:
    """What one unit more gains, to go on."""
    out = found.way_out
    if out is None or not out.escape.found or not out.drop:
        return ""
    before = found.polished.loss
    gain = (before - (before - out.drop if out.reached is None else out.reached)) / abs(before)
    if gain < GAIN:
        return ""
    one = out.escape.new_units == 1
    many = (
        "One unit more, by diagnosis.way_out, takes"
        if one
        else (f"{out.escape.new_units} units more, by diagnosis.way_out, take")
    )
    least = "at least " if out.reached is None else ""
    return f" {many} {least}{percent(gain)} off the loss there."


def _narrower(found: Diagnosis) -> str:
    """That fewer units would do, to go on."""
    hidden = found.point.problem.net.hidden
    for tolerance, widths, _ in found.widths:
        if widths != hidden:
            return (
                f" {sum(widths)} of {sum(hidden)} hidden units do: sf.reduce(point, {tolerance:g})."
            )
    return ""
