"""Merging units that are nearly equal, within a budget for the change of the outputs on the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from semiflat.networks import weight_key
from semiflat.problem import Problem
from semiflat.reduction.exact import Done, fed_with, reduced_exactly
from semiflat.reduction.hierarchy import DROP, Hierarchy
from semiflat.reduction.state import Plan, State
from semiflat.reduction.way_back import shares_of
from semiflat.unit_surgery import may_reflect

_FEW, _TRIED = 256, 24
"""In a layer of few units, how many single merges are tried where the cheapest ones do not fit."""


@dataclass(frozen=True)
class Budget:
    """How far the outputs may go from the given ones, on the data.

    Attributes:
        data: the problem whose data they are measured on.
        outputs: the given network's, (N, M).
        allowed: the largest change of any of them.
        rounding: what rounding may make of each, so what a measured change is off by.
    """

    data: Problem
    outputs: Tensor
    allowed: float
    rounding: float

    @classmethod
    def of(cls, data: Problem, given: State, tolerance: float) -> Budget:
        """That of a tolerance relative to the outputs' largest deviation from their mean."""
        outputs = _outputs(data, given)
        spread = float((outputs - outputs.mean(0)).abs().max())
        fed = fed_with(data, given, given.net.depth - 1)
        terms = float((fed.abs() @ given.rows(given.net.depth - 1)[1].mT).max())
        return cls(data, outputs, tolerance * (spread or 1.0), given.precision * terms)

    def change(self, state: State) -> float:
        """The largest change of an output on the data, with an allowance for rounding."""
        change = float((_outputs(self.data, state) - self.outputs).abs().max())
        return change + self.rounding if change == change else float("inf")


def reduced_within(state: State, budget: Budget, data: Problem | None) -> tuple[State, list[Done]]:
    """Nearly equal units merged, layer after layer from the bottom, until nothing changes.

    Args:
        data: as for :func:`reduced_exactly`, whose rules are applied in between.
    """
    done: list[Done] = []
    changed = True
    while changed:
        changed = False
        for layer in range(len(state.net.hidden)):
            plan = _smallest(state, layer, budget)
            if plan is None:
                continue
            done.append(Done(state, plan))
            state, changed = plan.apply(state), True
        if changed:
            state, more = reduced_exactly(state, data)
            done += more
    return state, done


def _smallest(state: State, layer: int, budget: Budget) -> Plan | None:
    """The plan for a layer with the fewest units left that stays within the budget; None if none."""
    units = _Units.of(state, layer, budget)
    if units is None:
        return None
    hierarchy = Hierarchy(units.values.numpy(), units.heard.numpy(), units.reflect, units.above)
    first = hierarchy.first_steps(_TRIED) if units.count <= _FEW else []

    def fitting(labels: np.ndarray) -> tuple[Plan | None, float]:
        plan = units.plan(labels)
        change = budget.change(plan.apply(state))
        return plan if change <= budget.allowed else None, change

    best = _furthest(hierarchy, units.count, fitting, budget.allowed)
    if best is None:  # the cost that led the hierarchy is an estimate: ask the outputs themselves
        tried = (fitting(hierarchy.taken([step]))[0] for step in first)
        best = next((plan for plan in tried if plan is not None), None)
    return best


def _furthest(
    hierarchy: Hierarchy,
    count: int,
    fitting: Callable[[np.ndarray], tuple[Plan | None, float]],
    allowed: float,
) -> Plan | None:
    """The plan after as many steps as fit, by doubling and then bisection.

    More steps change the outputs more, though not always: it goes on until they change by far too
    much, and what it finds is a width that fits, nearly always the smallest of the hierarchy.
    """
    fits, fails, best = 0, 1, None
    while fails < count:
        plan, change = fitting(hierarchy.labels(fails))
        if plan is not None:
            fits, best = fails, plan
        elif change > 10 * allowed:
            break
        fails = 2 * fails
    fails = min(fails, count)
    while fails - fits > 1:
        middle = (fits + fails) // 2
        plan, _ = fitting(hierarchy.labels(middle))
        if plan is not None:
            fits, best = middle, plan
        else:
            fails = middle
    return best


@dataclass(frozen=True)
class _Units:
    """The units of a layer as what they hand on, brought to one sign and size where σ allows.

    Unit j hands on ``s_j h_j`` (and a constant if it is mirrored), h_j the activation of the row
    ``u_j/s_j``, and is heard with weights ``s_j v_j``.

    Attributes:
        state, layer: where they are.
        scale: s_j > 0, (n,); 1 unless σ is positively homogeneous.
        values: h_j on the data, (N, n), less half the constant of a reflection.
        heard: s_j v_j, (n, M).
        reflect: whether −h_j counts as equal.
        above: whether there is a bias above, for a constant to go to.
    """

    state: State
    layer: int
    scale: Tensor
    values: Tensor
    heard: Tensor
    reflect: bool
    above: bool

    @property
    def count(self) -> int:
        return len(self.heard)

    @classmethod
    def of(cls, state: State, layer: int, budget: Budget) -> _Units | None:
        """The units of a layer; None where it has but one."""
        if state.net.hidden[layer] < 2:
            return None
        activation, above = state.net.activations[layer], state.net.biases[layer + 1]
        fed = fed_with(budget.data, state, layer)
        values = activation.function(fed @ state.rows(layer)[0].mT)
        reflect = may_reflect(state.net, layer)
        if reflect and activation.reflection:
            values = values - activation.reflection / 2
        scale = values.new_ones(values.shape[1])
        if activation.homogeneous:
            size = values.square().mean(0).sqrt()
            scale = torch.where(size > 0, size, 1.0)
        heard = (state.params[weight_key(layer + 1)] * scale).mT
        return cls(state, layer, scale, values / scale, heard, reflect, above)

    def plan(self, labels: np.ndarray) -> Plan:
        """Each cluster, named by its first unit, made one unit; those labelled −1 dropped."""
        spared = torch.from_numpy(labels == DROP)
        kept = (~spared).nonzero().flatten()
        names, inverse = np.unique(labels[kept.numpy()], return_inverse=True)
        sources = torch.from_numpy(inverse)
        scale = self.scale.clone()
        scale[kept] *= self._signs(kept, sources)
        scale[kept] /= scale[torch.from_numpy(names)][sources]  # the first unit stays as it is
        source = torch.full((self.count,), -1)
        source[kept] = sources
        rows, sizes = self._rows(kept, sources, scale[kept])
        constant = torch.zeros(self.count, dtype=torch.float64)
        if self.above:
            kappa = self.state.net.activations[self.layer].reflection or 0.0
            middle = kappa / 2 if self.reflect else 0.0
            constant[spared] = (self.values.mean(0) * self.scale + middle)[spared]
        scale[spared] = 1.0
        dropped = {"nearly constant": spared.nonzero().flatten().tolist()} if spared.any() else {}
        return Plan(self.layer, source, scale, rows, sizes, constant, dropped, exact=False)

    def _signs(self, kept: Tensor, sources: Tensor) -> Tensor:
        """For each unit the sign that turns it to where the loudest of its cluster points."""
        signs = torch.ones(len(kept), dtype=torch.float64)
        many = torch.bincount(sources)[sources] > 1
        if self.reflect and bool(many.any()):
            loudest = self._loudest(kept, sources)[sources[many]]
            along = (self.values[:, kept[many]] * self.values[:, loudest]).sum(0)
            signs[many] = torch.where(along < 0, -1.0, 1.0).to(torch.float64)
        return signs

    def _loudest(self, kept: Tensor, sources: Tensor) -> Tensor:
        weight = torch.linalg.vector_norm(self.heard[kept], dim=1)
        order = np.lexsort((weight.numpy(), sources.numpy()))
        ends = torch.bincount(sources).cumsum(0) - 1
        return kept[torch.from_numpy(order)[ends]]

    def _rows(self, kept: Tensor, sources: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """The mean row of each cluster, weighted by the units' shares of its outgoing weights.

        With them the outputs change to second order only in how far the rows are apart, if the
        outgoing weights are parallel. Where shares of both signs cancel, by their sizes.
        """
        count = int(sources.max()) + 1
        heard = self.state.params[weight_key(self.layer + 1)].mT[kept] * scale[:, None]
        total = heard.new_zeros(count, heard.shape[1]).index_add(0, sources, heard)
        shares = shares_of(heard, total, sources)
        size = torch.linalg.vector_norm(heard, dim=1)
        sizes = size.new_zeros(count).index_add(0, sources, size)
        counts = torch.bincount(sources).to(size.dtype)
        by_size = torch.where(
            sizes[sources] > 0, size / sizes[sources].clamp(min=1e-300), 1 / counts[sources]
        )
        spread = size.new_zeros(count).index_add(0, sources, shares.abs())
        shares = torch.where(spread[sources] > 3, by_size, shares)
        shares = shares / size.new_zeros(count).index_add(0, sources, shares)[sources]
        rows, row_sizes = self.state.rows(self.layer)
        factor = (shares / scale)[:, None]
        blank = rows.new_zeros(count, rows.shape[1])
        return (
            blank.index_add(0, sources, rows[kept] * factor),
            blank.index_add(0, sources, row_sizes[kept] * factor.abs()),
        )


def _outputs(data: Problem, state: State) -> Tensor:
    return state.net.forward(state.params, data.X.to(torch.float64))
