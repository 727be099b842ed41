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

ROUNDS = 3
"""How often more units may turn out to run off once others have been taken to their limits."""
PHASES = [Phase(LevenbergMarquardt(), 250), Phase(TrustRegion(), 120)]


@dataclass
class Reached:
    """Where the search in a limiting network ended.

    Attributes:
        guess: the limiting network, with the parameters reached.
        loss, gradient_norm: there.
        found: what was recognised, line by line.
    """

    guess: Guess
    loss: float
    gradient_norm: float
    found: list[str]


def go_beyond(
    problems: Sequence[Problem], vectors: Sequence[Tensor], options: Options
) -> list[Reached | None]:
    """For runs that ended without a finite critical point, the critical point at infinity.

    Args:
        problems: one for each run.
        vectors: where the runs ended, (P,) each.

    Returns:
        For each run what was reached, None where no unit is seen to run off.
    """
    reached: list[Reached | None] = [None] * len(problems)
    open_runs = list(range(len(problems)))
    for _ in range(ROUNDS):
        members: list[tuple[int, Guess]] = []
        for k in open_runs:
            before = reached[k]
            known = None if before is None else before.guess
            params = problems[k].net.unflatten(vectors[k]) if known is None else known.params
            guess = recognise(problems[k], params, known)
            if guess is not None:
                members.append((k, guess))
        open_runs = []
        for k, now in _search(problems, members, options):
            before = reached[k]
            if before is not None:
                now.found[:0] = before.found
            reached[k] = now
            if not now.gradient_norm <= options.allowed(now.loss):
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
    return [
        (
            k,
            Reached(
                replace(guess, params=net.unflatten(runs.theta[row])),
                float(runs.risk[row]),
                float(runs.gradient[row].abs().max()),
                list(guess.found),
            ),
        )
        for row, (k, guess) in enumerate(members)
    ]


def is_channel(net: LimitMLP) -> bool:
    """Whether units merge: with each other, or (linear) with the constant."""
    return any(form in (Form.GATE, Form.LINEAR) for row in net.forms for form in row)
