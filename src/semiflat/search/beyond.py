"""Runs to infinity: the search goes on in the network they tend to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from semiflat.limits import Form, Guess, LimitMLP, LimitProblem, recognise
from semiflat.problem import Problem
from semiflat.search.driver import Options, Phase, drive
from semiflat.search.methods import LevenbergMarquardt, TrustRegion

ROUNDS = 2
"""How often more units may turn out to run off once others have been taken to their limits."""
PHASES = [
    Phase(TrustRegion(), 20),
    Phase(LevenbergMarquardt(), 250, until=1e-7),
    Phase(TrustRegion(), 40),
]


@dataclass
class Reached:
    """Where the search in a limiting network ended.

    Attributes:
        guess: the limiting network, with the parameters reached.
        loss, gradient_norm: there.
        converged: whether it is a critical point of the limiting network.
        found: what was recognised, line by line.
        iterations: steps tried there.
    """

    guess: Guess
    loss: float
    gradient_norm: float
    converged: bool
    found: list[str]
    iterations: int


def go_beyond(
    problems: Sequence[Problem],
    vectors: Sequence[Tensor],
    before: Sequence[Reached | None],
    options: Options,
) -> list[Reached | None]:
    """For runs without a finite critical point so far, where the search in a limiting network leads.

    Args:
        problems: one for each run.
        vectors: where the runs are, (P,) each.
        before: where in a limiting network they were left last, None if in none.

    Returns:
        For each run what was reached, None where no unit is seen to run off.
    """
    reached = list(before)
    open_runs = list(range(len(problems)))
    for attempt in range(ROUNDS):
        members: list[tuple[int, Guess]] = []
        for k in open_runs:
            last = reached[k]
            known = None if last is None else last.guess
            params = problems[k].net.unflatten(vectors[k]) if known is None else known.params
            guess = recognise(problems[k], params, known)
            if guess is None and known is not None and attempt == 0:
                guess = replace(known, found=[])  # nothing new, but not at its end yet
            if guess is not None:
                members.append((k, guess))
        open_runs = []
        for k, now in _search(problems, members, options):
            last = reached[k]
            if last is not None:
                now.iterations += last.iterations
                now.found[:0] = last.found
            reached[k] = now
            if not now.converged:
                open_runs.append(k)
    return reached


def _search(
    problems: Sequence[Problem], members: list[tuple[int, Guess]], options: Options
) -> list[tuple[int, Reached]]:
    if not members:
        return []
    net = problems[0].net
    guesses = [guess for _, guess in members]
    offsets = [
        torch.stack([guess.offsets[layer] for guess in guesses]) for layer in range(len(net.hidden))
    ]
    batch = LimitProblem(
        [problems[k] for k, _ in members], [guess.net for guess in guesses], offsets
    )
    starts = torch.stack([net.flatten(guess.params) for guess in guesses])
    runs, _ = drive(batch, starts, replace(options, largest=1e9), PHASES)
    small = runs.small(torch.arange(len(members)), options.tolerance)
    return [
        (
            k,
            Reached(
                replace(guess, params=net.unflatten(runs.theta[row])),
                float(runs.risk[row]),
                float(runs.gradient[row].abs().max()),
                bool(small[row]),
                list(guess.found),
                int(runs.iterations[row]),
            ),
        )
        for row, (k, guess) in enumerate(members)
    ]


def is_channel(net: LimitMLP) -> bool:
    """Whether units merge: with each other, or (linear) with the constant."""
    return any(form in (Form.GATE, Form.LINEAR) for row in net.forms for form in row)
