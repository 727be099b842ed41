"""Runs to infinity: the search goes on in the network they tend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from semiflat.evidence import Evidence
from semiflat.limits import (
    Form,
    Guess,
    Limit,
    LimitMLP,
    LimitProblem,
    RunsOff,
    balanced,
    recognise,
    settled,
    sharpened,
)
from semiflat.problem import Problem
from semiflat.search.driver import Options, Phase, driver_of
from semiflat.search.further import LOWER, go_further
from semiflat.search.methods import LevenbergMarquardt, TrustRegion
from semiflat.search.race import Race, Stage, advance
from semiflat.search.record import Finished
from semiflat.search.stop import Stop, not_critical

ROUNDS = 2
"""How often a stage looks for more units that run off once others have been taken to their limits."""
LARGEST = 1e9
"""Parameter size, for targets of size 1, beyond which there is nothing to be seen in a limiting network."""
ROUND: list[Stage] = [
    [
        Phase(TrustRegion(), 20),
        Phase(LevenbergMarquardt(), 250, until=1e-7),
        Phase(TrustRegion(), 40),
    ],
    Race(300),
]
"""How a limiting network is searched, in turn: where residuals are tiny long bent paths get furthest."""


@dataclass
class Reached:
    """Where the search in a limiting network ended.

    Attributes:
        guess: the limiting network, with parameters to go on from.
        stop: where and why the driver left it there.
        limit: the point as one that finite networks tend to.
        why_not: why it is no critical point, to go on a sentence; ``""`` if it is one.
        found: what was recognised, line by line.
        iterations: steps tried there, in all.
        refused: what was taken to run off from here, and led above the run.
    """

    guess: Guess
    stop: Stop
    limit: Limit
    why_not: str
    found: list[str]
    iterations: int
    refused: set[RunsOff] = field(default_factory=set)


@dataclass
class _Way:
    """A run on its way through limiting networks.

    Attributes:
        problem, end: its own, and where the run got.
        reached: the lowest limiting network so far.
        refused: what was taken to run off, and led above the run.
        steps: tried in limiting networks, those that were refused counted in.
    """

    problem: Problem
    end: Finished
    reached: Reached | None
    steps: int
    refused: set[RunsOff] = field(default_factory=set)

    @classmethod
    def on(cls, problem: Problem, end: Finished, there: Reached | None) -> _Way:
        """From where a stage before left the run; what it refused there is not tried again."""
        if there is None:
            return cls(problem, end, None, 0)
        return cls(problem, end, there, there.iterations, set(there.refused))

    def guess(self, again: bool) -> Guess | None:
        """Where to go on: with more units at infinity, or (``again``) with those that are there."""
        last = self.reached
        known = None if last is None else last.guess
        params = self.problem.net.unflatten(self.end.vector) if known is None else known.params
        found = recognise(self.problem, params, known, lambda unit: unit not in self.refused)
        if found is None and known is not None and again:
            return replace(known, found={})
        return found

    def take(self, guess: Guess, stop: Stop, options: Options) -> None:
        """Go on from where a search in ``guess`` ended, unless that is above the run."""
        last = self.reached
        self.steps += max(stop.iterations, 1)
        highest = self.end.loss if last is None else last.stop.risk
        if not stop.risk <= highest + LOWER * abs(highest):
            # The function is the run's only as far as the guess is right: what changed it most is wrong.
            if guess.found:
                self.refused.add(max(guess.found, key=self._rise))
            if last is not None:
                last.refused, last.iterations = set(self.refused), self.steps
            return
        problem, net, at = self.problem, guess.net, guess.net.unflatten(stop.vector)
        limit = Limit(problem, net, at, settled(problem, net, at, guess.far, guess.offsets))
        why_not = _why_not(guess, stop, limit, options)
        if why_not:  # to go on from
            at = balanced(problem, net, at, guess.offsets)
        found = [*([] if last is None else last.found), *guess.found.values()]
        guess = replace(guess, params=at)
        self.reached = Reached(guess, stop, limit, why_not, found, self.steps)

    def _rise(self, unit: RunsOff) -> float:
        """The loss where these units alone are taken to their limit."""
        known = None if self.reached is None else self.reached.guess
        params = self.problem.net.unflatten(self.end.vector) if known is None else known.params
        alone = recognise(self.problem, params, known, lambda other: other == unit)
        if alone is None:
            return float("-inf")
        batch = _batch([self.problem], [alone])
        return float(batch.risk({key: value[None] for key, value in alone.params.items()})[0])

    def open(self, options: Options) -> bool:
        """Whether there is anything to go on for: it is not there, and has steps left."""
        there = self.reached is not None and not self.reached.why_not
        return not there and self.steps < options.max_iterations


def _why_not(guess: Guess, stop: Stop, limit: Limit, options: Options) -> str:
    """Why a place in a limiting network is no critical point of it; ``""`` if it is one.

    The gradient is as small as was asked for, or as rounding lets it be and a judgement asks for.
    """
    if not (stop.small or (stop.stuck and stop.gradient_norm <= options.judged)):
        return "which is no critical point"
    if any(
        not torch.equal(one, other) for one, other in zip(limit.offsets, guess.offsets, strict=True)
    ):
        return "but a step's incoming weights no longer put it where it stands"
    why = not_critical(Evidence(limit.point, options.judged))
    return f"but {why}" if why else ""


def go_beyond(
    problems: Sequence[Problem],
    ends: Sequence[Finished],
    before: Sequence[Reached | None],
    options: Options,
    last: bool = False,
) -> list[Reached | None]:
    """For runs without a finite critical point so far, where the search in a limiting network leads.

    A limiting network whose search ends above the run is refused, and the next guess tried: of units that
    merge, say, another pair. In the last stage the search goes on, with ever more units at infinity, until
    it has tried as many steps there as a run may.

    Args:
        problems: one for each run.
        ends: where the runs are.
        before: where in a limiting network they were left last, None if in none.
        last: whether this is the last stage.

    Returns:
        For each run what was reached, None where no unit is seen to run off.
    """
    ways = [
        _Way.on(problem, end, there)
        for problem, end, there in zip(problems, ends, before, strict=True)
    ]
    going, attempt = ways, 0
    while going and (last or attempt < ROUNDS):
        members: list[tuple[_Way, Guess]] = []
        for way in going:
            again = (last or attempt == 0) and not (way.reached and way.reached.stop.done)
            guess = way.guess(again)
            if guess is not None:
                members.append((way, guess))
        for (way, guess), stop in zip(
            members, _search(members, options, attempt, last), strict=True
        ):
            way.take(guess, stop, options)
        going = [way for way, _ in members if way.open(options)]
        attempt += 1
    return [way.reached for way in ways]


def _batch(problems: list[Problem], guesses: list[Guess]) -> LimitProblem:
    offsets = [torch.stack(layer) for layer in zip(*(g.offsets for g in guesses), strict=True)]
    return LimitProblem(problems, [guess.net for guess in guesses], offsets)


def _search(
    members: list[tuple[_Way, Guess]], options: Options, attempt: int, last: bool
) -> list[Stop]:
    if not members:
        return []
    guesses = [guess for _, guess in members]
    batch = _batch([way.problem for way, _ in members], guesses)
    starts = torch.stack([guess.net.flatten(guess.params) for guess in guesses])
    driver = driver_of(batch, starts, replace(options, largest=LARGEST))
    rows = list(range(len(members)))
    advance(driver, ROUND[attempt % len(ROUND)], rows)

    def jump(row: int, vector: Tensor) -> Tensor | None:
        (way, guess), net = members[row], members[row][1].net
        params = sharpened(way.problem, net, net.unflatten(vector), guess.offsets)
        return None if params is None else net.flatten(params)

    go_further(driver, [row for row in rows if not driver.runs.settled[row]], jump, last)
    return [Stop.of(driver.runs, row, options) for row in rows]


def is_channel(net: LimitMLP) -> bool:
    """Whether units merge: with each other, or (linear) with the constant."""
    return any(form in (Form.GATE, Form.LINEAR) for row in net.forms for form in row)
