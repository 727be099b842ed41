"""Classes in a study: whether they are separable, and the weight decay that it then takes."""

from __future__ import annotations

from collections.abc import Callable

from semiflat.decay import WeightDecay
from semiflat.problem import Problem
from semiflat.records.study import DecayRecord, SeparationRecord
from semiflat.search import Separation, Status, run_search

DECAY = 1e-3
"""λ of a study of separable classes that was asked for none: what the penalty takes is small beside what
classes lose (a weight of 1 costs 0.0005), and every curvature that the data leave at 0 is 0.001, far above
rounding."""
TRIED, STEPS = 8, 60
"""Runs without weight decay that are looked at first, and how many steps each takes."""
LENGTHS = (10.0, 100.0, 1000.0)
"""Lengths of the last layer at which the falling loss is told."""


def decide(
    problem: Problem, given: float | dict[str, float] | None, seed: int, tell: Callable[[str], None]
) -> tuple[Problem, Separation | None, DecayRecord | None]:
    """The problem with its weight decay, whether the classes are separable, and why it has that decay.

    Separable classes are looked for in two steps: a linear program on the inputs, which takes a second at
    most, and a few short runs. Without classes nothing is looked for. Where no decay was asked for, it is
    taken if the classes are told apart, or if no such run reached a finite critical point.

    Args:
        given: what was asked for; None if nothing was.
        tell: called with what is seen, in words, as soon as it is.
    """
    decay = WeightDecay.of(0.0 if given is None else given)
    classes = problem.loss.separated_below(problem.y) is not None
    told = Separation.of_inputs(problem) if classes else None
    why = ""
    if classes and told is None and given is None:
        result = run_search(problem, TRIED, seed=seed, max_iterations=STEPS)
        told = result.separation
        if told is None and not result.counts[Status.CONVERGED] and not result.interrupted:
            why = (
                f"of {TRIED} runs without it none was at a finite critical point after {STEPS} steps, and "
                "losses of classes often have none"
            )
    if told is not None:
        why = "the classes can be told apart without error, and without it no parameters have the lowest loss"
        tell(f"separable classes: {told}")
    chosen = given is None and bool(why)
    if chosen:
        decay = WeightDecay.of(DECAY)
        tell(f"the study takes weight decay {decay}, since {why}; --weight-decay 0 for none")
    if not decay:
        return problem, told, None
    penalised = problem.with_weight_decay(decay)
    record = DecayRecord(words=str(decay), chosen=chosen, why=why, everywhere=penalised.coercive)
    return penalised, told, record


def separation_record(told: Separation | None) -> SeparationRecord | None:
    """The record of a separation."""
    if told is None:
        return None
    falls = [[length, told.risk(length)] for length in LENGTHS]
    return SeparationRecord(found=told.found, margin=told.margin, at_most=told.at_most, falls=falls)


def as_option(decay: WeightDecay) -> str:
    """A weight decay as the command line takes it.

    >>> as_option(WeightDecay.of(1e-3)), as_option(WeightDecay.of({"weight": 0.01}))
    ('0.001', 'weight=0.01,bias=0.0')
    """
    plain = decay.plain
    if isinstance(plain, float):
        return repr(plain)
    return ",".join(f"{name}={value!r}" for name, value in plain.items())
