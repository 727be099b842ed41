"""Where polishing leads: the search's own steps from a point on, as many as a budget has room for."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

from semiflat.costs import Cost, dense_cost, product_seconds
from semiflat.curvature.products import KEPT_BYTES
from semiflat.diagnosis.curvature import down
from semiflat.evidence import OnData
from semiflat.limits import AtInfinity, Form, LimitMLP
from semiflat.points import Point, gradient
from semiflat.problem import Problem
from semiflat.records.shown import Shown
from semiflat.search import CriticalPoint, Status, run_search
from semiflat.search.methods import NewtonCG
from semiflat.search.trivial import triviality
from semiflat.symmetries.canonical import aligned, normalized
from semiflat.verdicts import Kind, Verdict, judge
from semiflat.verdicts.verdict import MINIMA

WORK = 5e11
"""Floating-point operations in dense Hessians that polishing may take: up to a minute of a core."""
STEPS, FEWEST = 1500, 40
"""Steps with dense Hessians at most, and at least, whatever they cost."""
SMALL = 500
"""Parameters up to which steps take dense Hessians: beyond, products get further in the same time."""
PRODUCTS, TRIES = 150, 60
"""Products that a step without Hessians may take, and steps."""
MOST_WORK = 1e13
"""Floating-point operations in products beyond which a point is not polished."""
MOST_COMPARED = 1000
"""Hidden units up to which it is asked whether a narrower network does the same."""
SEEN = 1e-9
"""Part of the loss that a step down the gradient takes off to be told of."""
AT_KINK = 1e-6
"""Part of the size of its terms below which a pre-activation is as good as 0."""
CRITICAL = (*MINIMA, Kind.STRICT_SADDLE)


class Goal(StrEnum):
    """Where polishing leads; ``meaning`` says what that is.

    >>> import semiflat as sf
    >>> [str(goal) for goal in sf.Goal]
    ['HERE', 'CRITICAL', 'FIT', 'INFINITY', 'SEPARATION', 'GROWING', 'UNCONFIRMED', 'ON_ITS_WAY', 'NOT_TRIED']
    >>> sf.Goal.FIT.meaning
    'to outputs that are the best there are, to rounding: no loss is lower'
    """

    HERE = "HERE"
    CRITICAL = "CRITICAL"
    FIT = "FIT"
    INFINITY = "INFINITY"
    SEPARATION = "SEPARATION"
    GROWING = "GROWING"
    UNCONFIRMED = "UNCONFIRMED"
    ON_ITS_WAY = "ON_ITS_WAY"
    NOT_TRIED = "NOT_TRIED"

    @property
    def meaning(self) -> str:
        """What it is, to go on after "polishing leads"."""
        return _MEANINGS[self]


_MEANINGS = {
    Goal.HERE: "nowhere else: the point is critical already",
    Goal.CRITICAL: "to a finite critical point",
    Goal.FIT: "to outputs that are the best there are, to rounding: no loss is lower",
    Goal.INFINITY: "to a critical point at infinity: the outputs converge there, and the parameters grow",
    Goal.SEPARATION: "to infinity, as the classes are separated: the loss tends to its infimum there",
    Goal.GROWING: "to ever larger parameters, and no critical point at infinity is confirmed",
    Goal.UNCONFIRMED: "to where steps of second order end, and no critical point is confirmed",
    Goal.ON_ITS_WAY: "on: it had not settled when its steps were used up",
    Goal.NOT_TRIED: "nowhere yet: it was not tried",
}


@dataclass(frozen=True)
class Polished(Shown):
    """Where polishing leads from a point, and how far that is.

    Attributes:
        goal: what it leads to.
        point: where it got: a finite point, or one of the limiting network; None where it was not tried.
        verdict: on that point; None where none was asked for, as it is not known to be critical.
        loss: there.
        parameters: how far the parameters moved, modulo the symmetries of the network: ``‖θ′ − θ‖`` over
            ``‖θ‖``; None at infinity.
        outputs: root mean square of what the outputs changed by, in the units of the outputs.
        steps: that were tried.
        reason: the numbers that ``goal`` rests on, in words.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y)
    >>> near = {key: value + 0.01 for key, value in sf.find_critical_point(problem, starts=8).params.items()}
    >>> there = sf.diagnose(sf.Point(problem, near)).polished
    >>> there.goal, there.verdict.kind.label, round(there.parameters, 3)
    (<Goal.CRITICAL: 'CRITICAL'>, 'strict minimum', 0.012)
    """

    goal: Goal
    point: Point | None
    verdict: Verdict | None
    loss: float
    parameters: float | None
    outputs: float
    steps: int
    reason: str


class Bounded(NewtonCG):
    """The steps of large networks with few products each, told of without a Hessian."""

    most = PRODUCTS
    builds = False


def polish(point: Point, verdict: Verdict, tolerance: float, dense: int) -> Polished:
    """Polish a plain point that was judged so.

    Args:
        dense: number of parameters up to which Hessians are built.
    """
    problem = point.problem

    def stays(goal: Goal, reason: str) -> Polished:
        there = None if goal is Goal.NOT_TRIED else point
        own = verdict if goal is Goal.HERE else None
        return Polished(goal, there, own, point.loss, 0.0, 0.0, 0, reason)

    if verdict.kind in CRITICAL:
        few = sum(problem.net.hidden) <= MOST_COMPARED
        return stays(Goal.HERE, (triviality(point) if few else None) or "")
    outputs = problem.outputs(point.params)
    margin = separation(problem, outputs)
    if margin is not None:
        return stays(Goal.SEPARATION, separated_words(problem, outputs, margin))
    if OnData(problem, point.params).fits_best:
        return stays(Goal.FIT, "as it is")
    if isinstance(problem, AtInfinity):
        why = "its units are at infinity, and a search starts in a finite network"
        return stays(Goal.NOT_TRIED, why)
    if _by_products(problem, dense) and _work(problem) > MOST_WORK:
        why = f"{TRIES} steps without Hessians would take {_cost(problem).words}"
        return stays(Goal.NOT_TRIED, why)
    run = steps_from(problem, point.params, dense)
    if run is None:
        return stays(Goal.NOT_TRIED, "the loss is not finite here")
    return _reached(point, run, tolerance, dense)


def steps_from(problem: Problem, params: dict[str, Tensor], dense: int) -> CriticalPoint | None:
    """Where the search's steps lead from given parameters, within the budget; None if nowhere."""
    large = _by_products(problem, dense)
    result = run_search(
        problem,
        start=params,
        method=Bounded() if large else None,
        max_iterations=TRIES if large else dense_steps(problem),
        processes=1,
    )
    return result.runs[0] if result.runs else None


def _by_products(problem: Problem, dense: int) -> bool:
    return problem.net.parameter_count > min(dense, SMALL)


def dense_steps(problem: Problem) -> int:
    """How many steps with dense Hessians the budget has room for."""
    size = problem.net.parameter_count
    one = 9 * size**3 + 4.5 * problem.samples * size**2
    return int(min(STEPS, max(FEWEST, WORK // one)))


def polish_cost(problem: Problem, dense: int) -> Cost:
    """What polishing will take at most, more or less; nothing where it is not tried."""
    if not _by_products(problem, dense):
        one = dense_cost(problem.net.parameter_count, problem.samples)
        return Cost(dense_steps(problem) * one.seconds, one.bytes)
    return Cost(0.0, 0) if _work(problem) > MOST_WORK else _cost(problem)


def _cost(problem: Problem) -> Cost:
    one = product_seconds(problem.net.parameter_count, problem.samples)
    return Cost(TRIES * PRODUCTS * one, KEPT_BYTES)


def _work(problem: Problem) -> float:
    return 16.0 * problem.net.parameter_count * problem.samples * TRIES * PRODUCTS


def _reached(point: Point, run: CriticalPoint, tolerance: float, dense: int) -> Polished:
    problem, net = point.problem, point.problem.net
    there: Point = run
    outputs = problem.outputs(run.params)
    margin = separation(problem, outputs)
    if margin is not None:
        goal, reason = Goal.SEPARATION, separated_words(problem, outputs, margin)
    elif problem.outputs_alone and problem.fits(run.loss):
        goal, reason = Goal.FIT, f"gradient {run.gradient_norm:.1e}"
    elif run.status is Status.CONVERGED:
        goal, reason = Goal.CRITICAL, "; ".join(filter(None, (run.trivial, run.record.evidence)))
    elif run.status.at_infinity and run.limit is not None:
        goal, there = Goal.INFINITY, run.limit.point
        reason = forms_words(there)
    elif run.status is Status.DIVERGED:
        goal, reason = Goal.GROWING, run.record.evidence
    elif run.status is Status.STALLED:
        goal, reason = Goal.UNCONFIRMED, run.record.evidence
        fall = down(run, -gradient(run))[2]
        if fall > SEEN * abs(run.loss):
            reason += f"; a step down the gradient still takes {fall:.2g} off the loss"
        near = near_kinks(run)
        if near:
            reason += (
                f"; {near} pre-activation(s) are as good as at a kink, and there is no Hessian"
            )
    else:
        goal, reason = Goal.ON_ITS_WAY, f"gradient {run.gradient_norm:.1e}"
    verdict = None
    confirmed = goal is Goal.CRITICAL or (goal is Goal.INFINITY and there is not run)
    if confirmed or (goal is Goal.FIT and net.parameter_count <= dense):
        verdict = judge(there, tolerance, dense_limit=dense)
    moved = None
    if goal not in (Goal.INFINITY, Goal.SEPARATION):
        moved = apart(problem, point.params, run.params)
    change = _centred(problem, there.problem.outputs(there.params) - problem.outputs(point.params))
    size = float(problem.mean(change.square().mean(-1)).sqrt())
    steps = run.record.iterations
    return Polished(goal, there, verdict, there.loss, moved, size, steps, reason)


def near_kinks(point: Point) -> int:
    """How many samples' pre-activations are as good as at a kink."""
    data = OnData(point.problem, point.params)
    return sum(
        int((z.abs() <= AT_KINK * size).sum())
        for z, size, activation in zip(data.pre, data.sizes, data.net.activations, strict=True)
        if not activation.smooth
    )


def apart(problem: Problem, one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The distance of two networks modulo symmetries, in parts of the first one's length."""
    net = problem.net
    if problem.outputs_alone:  # scales are symmetries, unless weights are penalised
        one, other = normalized(net, one), normalized(net, other)
    here, size = net.flatten(one), float(torch.linalg.vector_norm(net.flatten(one)))
    # The best match of units layer by layer need not be the best of all, and may be no match at all.
    ways = [net.flatten(other), net.flatten(aligned(net, other, one))]
    nearest = min(float(torch.linalg.vector_norm(way - here)) for way in ways)
    return nearest / size if size > 0 else math.inf


def _centred(problem: Problem, outputs: Tensor) -> Tensor:
    """Outputs without what the loss does not see of them."""
    return outputs - outputs.mean(-1, keepdim=True) if problem.loss.shift_invariant else outputs


def separation(problem: Problem, outputs: Tensor) -> float | None:
    """The least margin of outputs (N, M) that separate all classes, for a loss that then falls for ever.

    None where they do not, where a penalty holds the weights, or the loss has no such margins.
    """
    margins = problem.loss.margins(outputs, problem.y) if problem.outputs_alone else None
    if margins is None or len(margins.ties) or not bool(margins.counted.any()):
        return None
    least = float(margins.sizes[margins.counted].min())
    noise = 1e-12 * float(outputs.abs().max())
    return least if least > noise else None


def separated_words(problem: Problem, outputs: Tensor, margin: float) -> str:
    """What is known where outputs (N, M) separate the classes."""
    now, twice = (
        float(problem.mean(problem.loss.value(factor * outputs, problem.y))) for factor in (1, 2)
    )
    return (
        f"all {problem.samples} samples are on the right side there, by a margin of {margin:.3g} at least, and "
        f"multiplying the last layer by 2 lowers the loss from {now:.3g} to {twice:.3g}, by more still further"
    )


_FORMS = {
    Form.GATE: "merge with another unit",
    Form.TAIL: "become exponential tails",
    Form.LINEAR: "turn linear",
    Form.STEP: "become steps",
}


def forms_words(point: Point) -> str:
    """Which units of a limiting network are at infinity, and as what."""
    net = point.problem.net
    assert isinstance(net, LimitMLP)
    counts = Counter(form for row in net.forms for form in row)
    return ", ".join(
        f"{counts[form]} unit(s) {words}" for form, words in _FORMS.items() if counts[form]
    )
