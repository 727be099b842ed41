"""The last two moves of P21 Thm 3, in activations and output weights: Lemma 5 and Lemma 6.

A state is what the last hidden layer's units are on the samples, and the output's weights and bias; the
output is ``z = b + Σ_j v_j a_j``. A stage maps s in [0, 1] to a state. How weights make these activations
is for others to say (Lemmas 3 and 4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.images import Image, Levels
from semiflat.paths.path import Claim

HALF = 0.5
"""Part of the image's reach that the activations keep to in the last move."""


@dataclass(frozen=True)
class State:
    """The last hidden layer on the samples and the output's weights; leading axes alike for all.

    Attributes:
        levels: activations (…, N, m).
        weights: v (…, m).
        bias: b (…,).
    """

    levels: Levels
    weights: Tensor
    bias: Tensor

    def outputs(self, image: Image) -> Tensor:
        """z (…, N)."""
        values = image.value(self.levels)
        found: Tensor = self.bias[..., None] + (values @ self.weights[..., None])[..., 0]
        return found


@dataclass(frozen=True)
class Stage:
    """A part of the path: ``at`` maps s (k,) to states with k ahead, and pickles."""

    name: str
    claim: Claim
    reason: str
    at: Callable[[Tensor], State]


def lemma_5(
    first: Levels, second: Levels, weights: tuple[Tensor, Tensor], t: Tensor
) -> tuple[Levels, Tensor, Tensor]:
    """r₁(t) and λ₁(t), λ₂(t) with λ₁r₁ + λ₂r₂ constant and λ₁(1) > 0 > λ₂(1) (P21 Lemma 5).

    Args:
        first, second: r₁ and r₂, (N,); r₂ stays.
        weights: λ₁ and λ₂, both above 0.
        t: (k,) in [0, 1].
    """
    one, two = weights
    total = one + two
    together = first.mix(second, two / total)  # λR = λ₁r₁ + λ₂r₂ with λ = λ₁ + λ₂
    beyond = first.mix(second, 2 * two / (one + 2 * two))
    early = (2 * t).clamp(max=1)[:, None]
    late = (2 * t - 1).clamp(min=0)[:, None]
    moved = first.mix(together, early).mix(beyond, late)
    early, late = early[:, 0], late[:, 0]
    down = (1 - early) * total + early * one
    up = (1 - late) * (one + 2 * two) + late * total
    at_first = t <= 0.5
    return (
        moved,
        torch.where(at_first, total * one / down, total * (one + 2 * two) / up),
        torch.where(at_first, (1 - early) * total * two / down, -two * total * late / up),
    )


def both_signs(state: State) -> list[Stage]:
    """Γ1: output weights of both signs at constant output, for two units or more; nothing if it is so."""
    v = state.weights
    if bool((v > 0).any()) and bool((v < 0).any()):
        return []
    order = v.abs().argsort(descending=True)
    i, j = int(order[0]), int(order[1])
    if v[j] != 0:
        return [_crossing(state, i, j)]
    return [_copying(state, i, j), _opposing(state, i, j)]


def _stage(at: Callable[[Tensor], State]) -> Stage:
    return Stage(
        "Γ1: output weights of both signs",
        Claim.CONSTANT,
        "the outputs stay as they are while two units trade places (P21 Lemma 5)",
        at,
    )


def _crossing(state: State, i: int, j: int) -> Stage:
    sign = torch.sign(state.weights[i])
    pair = state.weights[i].abs(), state.weights[j].abs()
    return _stage(partial(_cross, state, i, j, sign, pair))


def _cross(
    state: State, i: int, j: int, sign: Tensor, pair: tuple[Tensor, Tensor], s: Tensor
) -> State:
    moved, one, two = lemma_5(state.levels.unit(i), state.levels.unit(j), pair, s)
    weights = state.weights.repeat(len(s), 1)
    weights[:, i], weights[:, j] = sign * one, sign * two
    return State(state.levels.put(i, moved), weights, state.bias.expand(len(s)))


def _copying(state: State, i: int, j: int) -> Stage:
    """Unit j, which nobody listens to, becomes a copy of unit i."""
    return _stage(partial(_turn, state, j, state.levels.unit(i)))


def _turn(state: State, unit: int, goal: Levels, s: Tensor) -> State:
    """A unit's activations go straight to others, its weight stays."""
    moved = state.levels.unit(unit).mix(goal, s[:, None])
    levels = state.levels.put(unit, moved)
    return State(levels, state.weights.expand(len(s), -1), state.bias.expand(len(s)))


def _opposing(state: State, i: int, j: int) -> Stage:
    """Unit i and its copy j take weights that cancel."""
    before = _copying(state, i, j).at(torch.ones(1, dtype=torch.float64))
    levels = Levels(before.levels.lower[0], before.levels.upper[0])
    size = torch.where(state.weights[i] == 0, 1.0, state.weights[i])
    ends = state.weights.clone()
    ends[i], ends[j] = state.weights[i] + size, -size
    return _stage(partial(_weigh, State(levels, state.weights, state.bias), ends))


def _weigh(state: State, ends: Tensor, s: Tensor) -> State:
    """The output weights go straight to others, the activations stay."""
    shape = (len(s), *state.levels.lower.shape)
    return State(
        Levels(state.levels.lower.expand(shape), state.levels.upper.expand(shape)),
        state.weights + s[:, None] * (ends - state.weights),
        state.bias.expand(len(s)),
    )


def alone(state: State, image: Image, targets: Tensor, with_bias: bool) -> list[Stage]:
    """The whole way for one unit whose image has 0 on its boundary, where Lemma 5 has no second unit.

    The output bias moves out of the way until every output and target is b + v a with one a in the image.

    Raises:
        InputError: without an output bias, when outputs keep one sign.
    """
    if not with_bias:
        raise InputError(
            "the last hidden layer has one unit and the output no bias, so outputs keep one sign; P21 "
            "Lemma 5 needs two units: widen the last hidden layer to at least 2"
        )
    z, v = state.outputs(image), state.weights[0]
    sign = torch.where(v < 0, -1.0, 1.0).to(v)
    everything = sign * torch.cat([z, targets, state.bias[None]])
    room = (everything.max() - everything.min()).clamp(min=1.0)
    end = sign * (everything.min() - room)
    top = sign * torch.maximum((everything - sign * end).max() / HALF, v.abs())
    goal = (z - end) / top
    fade = partial(_turn, state, 0, Levels(goal, 1 - goal))
    name, reason = (
        "Γ1: room for one unit",
        "the output bias moves, and the unit's weight and activation take it back",
    )
    if v == 0:
        quiet = Stage("Γ1: a unit falls silent", Claim.CONSTANT, "nobody listens to it", fade)
        weigh = partial(_weigh_alone, fade, state.bias, top, end)
        room_made = [quiet, Stage(name, Claim.CONSTANT, reason, weigh)]
    else:
        make_room = partial(_make_room, state, z, top, end)
        room_made = [Stage(name, Claim.CONSTANT, reason, make_room)]
    return [*room_made, _arrival(partial(_arrive_alone, z, targets, top, end))]


def _make_room(state: State, z: Tensor, top: Tensor, end: Tensor, s: Tensor) -> State:
    part, v, here = s[:, None], state.weights[0], state.levels.unit(0)
    weight = (1 - part) * v + part * top
    low = (1 - part) * v * here.lower + part * (z - end)
    high = (1 - part) * v * here.upper + part * (top - (z - end))
    levels = Levels((low / weight)[..., None], (high / weight)[..., None])
    return State(levels, weight, torch.lerp(state.bias, end, s))


def _weigh_alone(
    fade: Callable[[Tensor], State], bias: Tensor, top: Tensor, end: Tensor, s: Tensor
) -> State:
    silent = fade(torch.ones_like(s)).levels
    return State(silent, s[:, None] * top, torch.lerp(bias, end, s))


def _arrive_alone(z: Tensor, targets: Tensor, top: Tensor, end: Tensor, s: Tensor) -> State:
    low = (torch.lerp(z, targets, s[:, None]) - end) / top
    levels = Levels(low[..., None], 1 - low[..., None])
    return State(levels, top.expand(len(s), 1), end.expand(len(s)))


def _arrival(at: Callable[[Tensor], State]) -> Stage:
    return Stage(
        "Γ3: to the targets",
        Claim.DECREASING,
        "the outputs go straight to the targets, and the loss is (1 − s)² of what it was (P21 Lemma 6)",
        at,
    )


def lemma_6(state: State, image: Image, targets: Tensor) -> list[Stage]:
    """Γ2 and Γ3: smaller activations, larger weights, then straight to the targets (P21 Lemma 6).

    With 0 inside the image each unit takes its part of y − z in proportion to its weight; with 0 on the
    boundary units of positive weight take the positive entries and those of negative weight the negative
    ones. The paper shares equally, which a weight near 0 makes needlessly large; and where 0 is inside it
    divides by N, the number of samples, where it takes the number of units to arrive at y.
    """
    step = _steps(state, image, targets - state.outputs(image))
    reach = (image.value(state.levels).abs() + step.abs()).max()
    factor = torch.clamp(HALF * image.high / reach, max=1.0)
    shrink = partial(_shrink, state, image.zero, factor)
    end = shrink(torch.ones(1, dtype=torch.float64))
    levels = Levels(end.levels.lower[0], end.levels.upper[0])
    arrive = partial(_arrive, State(levels, end.weights[0], state.bias), factor * step)
    stages = []
    if factor < 1:
        stages.append(
            Stage(
                "Γ2: smaller activations, larger output weights",
                Claim.CONSTANT,
                "activations shrink as their output weights grow (P21 Lemma 6)",
                shrink,
            )
        )
    return [
        *stages,
        _arrival(arrive),
    ]


def _shrink(state: State, zero: Levels, factor: Tensor, s: Tensor) -> State:
    part = factor ** s[:, None, None]
    levels = Levels(
        part * state.levels.lower + (1 - part) * zero.lower,
        part * state.levels.upper + (1 - part) * zero.upper,
    )
    return State(levels, state.weights / part[:, 0], state.bias.expand(len(s)))


def _arrive(state: State, step: Tensor, s: Tensor) -> State:
    moved = state.levels.plus(s[:, None, None] * step)
    return State(moved, state.weights.expand(len(s), -1), state.bias.expand(len(s)))


def _steps(state: State, image: Image, missing: Tensor) -> Tensor:
    """Changes of the activations (N, m) with Σ_j v_j step_j = missing."""
    v = state.weights
    if image.zero_inside:
        return missing[:, None] * (v / v.square().sum())
    up, down = v.clamp(min=0), (-v).clamp(min=0)
    rise, fall = missing.clamp(min=0)[:, None], (-missing).clamp(min=0)[:, None]
    # Both are above 0: a sigmoid's activations, which shrink towards 0, may only grow.
    grow = rise / up.sum() * (v > 0) if bool((v > 0).any()) else 0 * rise * v
    if bool((v < 0).any()):
        grow = grow + fall / down.sum() * (v < 0)
    return grow


def listened_to(state: State, image: Image) -> list[Stage]:
    """For 0 inside the image and no output weight at all: unit 0 falls silent, then is listened to."""
    if bool((state.weights != 0).any()):
        return []
    silent = Levels(
        image.zero.lower.expand(state.levels.lower.shape[:-1]),
        image.zero.upper.expand(state.levels.upper.shape[:-1]),
    )
    fade = partial(_turn, state, 0, silent)
    ends = torch.zeros_like(state.weights)
    ends[0] = 1.0
    quiet = State(state.levels.put(0, silent), state.weights, state.bias)
    weigh = partial(_weigh, quiet, ends)
    reason = "a unit that is 0 on every sample may have any output weight"
    return [
        Stage("Γ1: a unit falls silent", Claim.CONSTANT, "nobody listens to it", fade),
        Stage("Γ1: it is given a weight", Claim.CONSTANT, reason, weigh),
    ]
