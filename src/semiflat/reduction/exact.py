"""The rules by which a unit can be spared without changing the function."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.networks import bias_key, weight_key
from semiflat.problem import Problem
from semiflat.reduction.linear import silenced
from semiflat.reduction.ranges import largest_input
from semiflat.reduction.state import Plan, State
from semiflat.reduction.twins import twins
from semiflat.unit_surgery import may_reflect


@dataclass(frozen=True)
class Done:
    """One layer reduced: the network before, and what was done to it.

    Attributes:
        back: for linear units that were mixed first, the matrix that mixes them back; ``before`` is the network
            in between.
    """

    before: State
    plan: Plan
    back: Tensor | None = None


def reduced_exactly(state: State, data: Problem | None) -> tuple[State, list[Done]]:
    """The rules applied to layer after layer from the bottom, until none applies.

    Args:
        data: the data on which a relu unit may be inactive; None to ask that of every input.
    """
    done: list[Done] = []
    changed = True
    while changed:
        changed = False
        for layer in range(len(state.net.hidden)):
            step = _step(state, layer, data)
            if step is not None:
                done.append(step)
                state, changed = step.plan.apply(step.before), True
    return state, done


def _step(state: State, layer: int, data: Problem | None) -> Done | None:
    """What the rules make of one layer, in another basis if it is linear; None if they leave it as it is."""
    plan = layer_plan(state, layer, data)
    if plan is not None:
        return Done(state, plan)
    found = silenced(state, layer)
    if found is None:
        return None
    mixed, back = found
    plan = layer_plan(mixed, layer, data)
    return None if plan is None else Done(mixed, plan, back)


def layer_plan(state: State, layer: int, data: Problem | None) -> Plan | None:
    """What the rules make of one layer; None if they leave it as it is."""
    rows, sizes = state.rows(layer)
    dropped, constant = _silent(state, layer, data)
    gone = torch.tensor(sorted(unit for units in dropped.values() for unit in units))
    if len(gone) == len(rows):  # a layer keeps one unit
        gone = gone[1:]
        others = {rule: [unit for unit in units if unit] for rule, units in dropped.items()}
        dropped = {rule: units for rule, units in others.items() if units}
        constant[0] = 0.0
    alive = torch.ones(len(rows), dtype=torch.bool)
    alive[gone.long()] = False
    left = alive.nonzero().flatten()
    activation = state.net.activations[layer]
    found, factors = twins(
        rows[left].numpy(),
        sizes[left].numpy(),
        state.precision,
        reflect=may_reflect(state.net, layer),
        homogeneous=activation.homogeneous,
    )
    leader = torch.arange(len(rows))
    leader[left] = left[torch.from_numpy(found)]
    scale = torch.ones(len(rows), dtype=torch.float64)
    scale[left] = torch.from_numpy(factors)
    unheard = _unheard(state, layer, leader, alive)
    if bool(unheard.any()):
        dropped["unheard"] = unheard.nonzero().flatten().tolist()
        alive &= ~unheard
    first, inverse = torch.unique(leader[alive], return_inverse=True)
    if len(first) == len(rows):
        return None
    source = torch.full((len(rows),), -1)
    source[alive] = inverse
    scale[~alive] = 1.0
    return Plan(layer, source, scale, rows[first], sizes[first], constant, dropped)


def _unheard(state: State, layer: int, leader: Tensor, alive: Tensor) -> Tensor:
    """Units without outgoing weights whose twins have none either; not all of the layer."""
    heard = ~state.is_zero(weight_key(layer + 1)).all(0) & alive
    anyone = torch.zeros(len(leader), dtype=torch.bool)
    anyone[leader[heard]] = True
    if not bool(anyone.any()):
        anyone[leader[alive.nonzero()[0]]] = True
    return alive & ~anyone[leader]


def _silent(state: State, layer: int, data: Problem | None) -> tuple[dict[str, list[int]], Tensor]:
    """The units that hand on a constant, by the way they come back, and those constants."""
    net, activation = state.net, state.net.activations[layer]
    flat = state.is_zero(weight_key(layer)).all(1)
    unheard = state.is_zero(weight_key(layer + 1)).all(0)
    bias = state.params[weight_key(layer)].new_zeros(len(flat))
    at_zero = torch.ones_like(flat)
    if net.biases[layer]:
        bias, at_zero = state.params[bias_key(layer)], state.is_zero(bias_key(layer))
    never = torch.zeros_like(flat)
    inactive, on_data = never, never
    if activation.slopes is not None and activation.slopes[0] == 0:
        inactive = largest_input(state, layer) < 0
        if data is not None:
            on_data = _inactive_on(data, state, layer) & ~inactive
    above = net.biases[layer + 1]
    zero = activation.smooth and float(activation.function(bias.new_zeros(()))) == 0.0
    null = flat & unheard & above
    inactive, on_data = inactive & ~null, on_data & ~null
    rest = flat & ~null & ~inactive & ~on_data
    folded = rest if above and net.biases[layer] else never
    cases = {
        "null": null,
        "inactive": inactive,
        "inactive on the data": on_data,
        "constant": folded,
        "zero": rest & ~folded & at_zero & zero,
    }
    constant = torch.where(folded, activation.function(bias), 0.0)
    return {rule: _places(which) for rule, which in cases.items() if bool(which.any())}, constant


def _inactive_on(data: Problem, state: State, layer: int) -> Tensor:
    """Units fed with less than 0 on every sample, by more than rounding."""
    rows, sizes = state.rows(layer)
    h = fed_with(data, state, layer)
    return (h @ rows.mT < -state.precision * (h.abs() @ sizes.mT)).all(0)


def fed_with(data: Problem, state: State, layer: int) -> Tensor:
    """``x̃`` of a linear layer on the data, (N, D)."""
    return state.net.fed(state.params, data.X.to(torch.float64), layer)


def _places(which: Tensor) -> list[int]:
    found: list[int] = which.nonzero().flatten().tolist()
    return found
