"""What a diagnosis found, a sentence and its numbers for each thing that was looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from semiflat.diagnosis.polish import Goal
from semiflat.points import Point
from semiflat.verdicts import Kind, Verdict
from semiflat.verdicts.finding import what_next

if TYPE_CHECKING:
    from semiflat.diagnosis.result import Diagnosis


def percent(part: float) -> str:
    """A part of a whole in per cent, to two digits, and never 100 where a bit is left.

    >>> percent(0.031), percent(0.5), percent(0.99999), percent(1.0), percent(2e-7), percent(0.0)
    ('3.1 %', '50 %', 'more than 99.9 %', '100 %', '2e-05 %', '0 %')
    """
    if 0.999 < part < 1:
        return "more than 99.9 %"
    if part and abs(part) < 1e-4:
        return f"{100 * part:.1g} %"
    return (
        f"{100 * part:.{3 if part > 0.99 and part < 1 else 2}g} %"
        if part < 1
        else f"{100 * part:.0f} %"
    )


def of_loss(found: Diagnosis, drop: float) -> float:
    """What a drop is of the loss at the point."""
    return drop / abs(found.point.loss) if found.point.loss else 0.0


def sentences(found: Diagnosis) -> dict[str, str]:
    """A sentence for each section, by its name."""
    net, problem = found.point.problem.net, found.point.problem
    decay = f", weight decay {problem.weight_decay}" if problem.decay else ""
    told = {
        "point": f"widths {'-'.join(map(str, net.widths))}, {problem.samples} samples{decay}, loss "
        f"{found.point.loss:.6g}",
        "gradient": f"gradient: {_gradient(found)}",
        "curvature": f"curvature: {_curvature(found)}",
        "polishing": f"polishing leads {_polishing(found)}",
        "flat": f"flat: {_flat(found)}",
        "width": f"width: {_width(found)}",
        "one unit more": f"one unit more: {_one_more(found)}",
    }
    return {name: text for name, text in told.items() if not text.endswith(": ")}


def _gradient(found: Diagnosis) -> str:
    layers = found.gradient
    largest = max(layer.largest for layer in layers)
    worst = max(layers, key=lambda layer: layer.part)
    shares = ", ".join(f"layer {each.layer} has {percent(each.share)}" for each in layers)
    if not found.steep:
        why = _undecided(found)
        return f"its largest entry is {largest:.2g}, no more than tolerance and rounding allow{why}"
    return (
        f"its largest entry is {largest:.2g}; one in layer {worst.layer} is {percent(worst.part)} of what it "
        f"would be if its terms did not cancel; of ‖∇R‖² {shares}"
    )


def _undecided(found: Diagnosis) -> str:
    """Why the kind of the point itself is not known, to go on."""
    if found.verdict.kind is not Kind.UNDECIDED or found.no_hessian:
        return ""
    return f"; its kind is undecided: {reason_of(found.point, found.verdict)}"


def reason_of(point: Point, verdict: Verdict) -> str:
    """The reason of a verdict, without the advice to polish: that is what is done here."""
    return verdict.reason.removesuffix(f"; {what_next(point)}")


def _curvature(found: Diagnosis) -> str:
    if found.no_hessian:
        return found.no_hessian
    size, lowest = found.point.problem.net.parameter_count, found.curvature
    if lowest is None and found.dense:
        return f"no eigenvalue of the {size} is surely negative"
    if lowest is None:
        return f"Lanczos steps showed no surely negative eigenvalue among the {size}; that is no certainty"
    many = (
        f"{lowest.count} of the {size} eigenvalues"
        if lowest.whole
        else f"at least {lowest.count} of the {size} eigenvalues"
    )
    which = "the lowest is" if lowest.whole else "the lowest is no higher than"
    be = "is" if lowest.count == 1 else "are"
    text = f"{many} {be} surely negative; {which} {lowest.lowest:.3g} (noise {lowest.floor:.1g})"
    if not lowest.drop:
        return f"{text}; no step along it that was tried lowers the loss"
    return (
        f"{text}; a step of length {lowest.step:.2g} along it takes {lowest.drop:.3g} off the loss, "
        f"{percent(of_loss(found, lowest.drop))} of it"
    )


def _polishing(found: Diagnosis) -> str:
    there = found.polished
    text = there.goal.meaning
    if there.verdict is not None:
        verdict = there.verdict
        kind = f"a {verdict.kind.label} ({verdict.certainty.lower()})"
        if verdict.kind is Kind.UNDECIDED and there.point is not None:
            kind = f"of undecided kind ({reason_of(there.point, verdict)})"
        text += f", {kind}"
    if there.reason:
        text += f"; {there.reason}"
    if there.goal in (Goal.HERE, Goal.NOT_TRIED) or not there.steps:
        return text
    numbers = [f"loss {there.loss:.6g} after {there.steps} steps"]
    drop = found.point.loss - there.loss
    if drop > 0:
        numbers.append(f"{percent(of_loss(found, drop))} less")
    numbers.append(f"outputs {there.outputs:.2g} away (root mean square)")
    if there.parameters is not None:
        far = there.parameters
        by = f"{percent(far)} of" if far < 1 else f"{far:.3g} times"
        if math.isfinite(far):  # not where all parameters are 0 here
            numbers.append(f"parameters moved by {by} their length, modulo symmetries")
    return f"{text}; {', '.join(numbers)}"


def _flat(found: Diagnosis) -> str:
    flat = found.verdict.flat_directions
    if flat is None:
        return "directions of constant loss were not looked for, as no Hessian was built"
    verdict, more = found.polished.verdict, ""
    there = None if verdict is None else verdict.flat_directions
    if found.polished.goal is not Goal.HERE and there:
        more = f"; where polishing leads {there.dimension}"
    if not flat:
        return f"no direction is known along which the loss is constant{more}"
    reasons = "; ".join(dict.fromkeys(family.reason for family in flat))
    many = "1 direction" if flat.dimension == 1 else f"{flat.dimension} directions"
    return f"{many} along which the loss is constant: {reasons}{more}"


def _width(found: Diagnosis) -> str:
    if not found.point.problem.net.hidden:
        return ""
    if not found.widths:
        return "not told for layers of more than 1,000 units"
    hidden = found.point.problem.net.hidden
    full = _units(hidden)
    narrower = [
        (tolerance, widths, bound) for tolerance, widths, bound in found.widths if widths != hidden
    ]
    if not narrower:
        most = max(tolerance for tolerance, _, _ in found.widths)
        noun = "unit" if hidden == (1,) else "units"
        return (
            f"{full} hidden {noun}, and no fewer while outputs may change by up to {percent(most)} of their "
            "spread"
        )
    seen: dict[tuple[int, ...], str] = {}
    for tolerance, widths, bound in narrower:
        exact = (
            "exactly"
            if not bound
            else f"with outputs changed by {bound:.2g} at most ({percent(tolerance)})"
        )
        seen.setdefault(widths, f"{_units(widths)} {exact}")
    return f"{full} hidden units do the work of {', '.join(seen.values())}"


def _units(hidden: Sequence[int]) -> str:
    return "-".join(map(str, hidden)) or "no"


def _one_more(found: Diagnosis) -> str:
    out = found.way_out
    if out is None:
        return found.why_no_way_out
    if not out.escape.found:
        return out.escape.reason
    many = out.escape.new_units
    what = "it" if many == 1 else f"it ({many} units, no fewer)"
    text = (
        f"{out.escape.embedding!r} opens a way down with curvature {out.escape.curvature:.2g}; a step of "
        f"length {out.step:.2g} takes {out.drop:.3g} off the loss there"
    )
    if out.reached is None:
        return text
    return f"{text}, and polishing with {what} leads to loss {out.reached:.6g} ({out.status})"
