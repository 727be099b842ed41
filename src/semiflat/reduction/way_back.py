"""The embedding that leads back from a reduced network, built from the last reduced layer to the first.

It is built along the network that it makes: the shares of a layer's copies are those of the weights
that the steps so far give, so rounding does not pile up from one layer to the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

import torch
from torch import Tensor

from semiflat.embeddings import (
    Composition,
    ConstantUnits,
    Embedding,
    InactivePropagation,
    InactiveUnits,
    Mix,
    NullUnits,
    Permute,
    Split,
)
from semiflat.embeddings.widening import Widening
from semiflat.networks import Params, bias_key, weight_key
from semiflat.reduction.exact import Done
from semiflat.reduction.state import State


def way_back(done: Sequence[Done], narrow: State) -> Composition:
    """The steps from the narrow network to the one that ``done`` began with."""
    if not done:
        return Composition([])
    largest = max(float(t.abs().max()) for t in done[0].before.params.values())
    # Up to the first layer that was reduced with a tolerance the way leads elsewhere than it came.
    lossy = list(accumulate((not each.plan.exact for each in reversed(done)), max))
    widening = Widening.identity(narrow.net)
    steps: list[Embedding] = []
    for each, elsewhere in zip(reversed(done), lossy, strict=True):
        now = widening.parameters(narrow.params)
        for step in _LayerBack(each, now, elsewhere, largest).steps():
            widening = step.extend(widening)
            steps.append(step)
    return Composition(steps)


@dataclass(frozen=True)
class _LayerBack:
    """One layer's way back.

    Attributes:
        done: what was done to it.
        now: the parameters that the way back has led to so far.
        lossy: whether those are others than what the layer was reduced to.
        largest: the largest given parameter, to which what comes back is exact.
    """

    done: Done
    now: Params
    lossy: bool
    largest: float

    def steps(self) -> list[Embedding]:
        plan = self.done.plan
        places = [*plan.kept.tolist(), *(u for units in plan.dropped.values() for u in units)]
        order = torch.tensor(places).argsort().tolist()
        steps = self._split() + [self._added(*each) for each in plan.dropped.items()]
        if order != sorted(order):
            steps.append(Permute(plan.layer, order))
        if self.done.back is not None:
            steps.append(Mix(plan.layer, self.done.back))
        return steps

    def _added(self, rule: str, units: list[int]) -> Embedding:
        before, layer = self.done.before, self.done.plan.layer
        rows, columns = before.rows(layer)[0][units], self._columns()[units]
        if rule == "null":
            has_bias = before.net.biases[layer]
            biases = (
                before.params[bias_key(layer)][units].tolist() if has_bias else [0] * len(units)
            )
            return NullUnits(layer, biases)
        if rule == "constant":
            return ConstantUnits(layer, before.params[bias_key(layer)][units], columns)
        if rule == "zero":
            return InactiveUnits(layer, len(units), columns)
        # Where the layers below have changed, a unit that was inactive on the data need not be.
        if rule.startswith("inactive") and not self.lossy:
            return InactiveUnits(layer, outgoing=columns, incoming=rows)
        return InactivePropagation(layer, rows)

    def _columns(self) -> Tensor:
        return self.done.before.params[weight_key(self.done.plan.layer + 1)].mT

    def _split(self) -> list[Embedding]:
        plan = self.done.plan
        kept = plan.kept
        sources, scales = plan.source[kept], plan.scale[kept]
        if len(kept) == len(plan.rows) and bool((scales == 1).all()):
            return []
        shares, offsets = self._shares(sources, self._columns()[kept], scales)
        exact = [Fraction(f"{scale:.15g}") for scale in scales.tolist()]
        mixed = any(s < 0 for s in exact) and any(abs(s) != 1 for s in exact)
        if not mixed:
            return [Split(plan.layer, sources.tolist(), shares, exact, offsets)]
        # A unit both scaled and turned round (identity) is so in two steps.
        signs = [1 if scale > 0 else -1 for scale in exact]
        if offsets is not None:
            offsets = offsets * torch.tensor(signs, dtype=torch.float64)[:, None]
        sizes = [abs(scale) for scale in exact]
        return [
            Split(plan.layer, sources.tolist(), shares, sizes, offsets),
            Split(plan.layer, range(len(signs)), [1] * len(signs), signs),
        ]

    def _shares(
        self, sources: Tensor, columns: Tensor, scales: Tensor
    ) -> tuple[list[Fraction], Tensor | None]:
        """The λ of the copies, and what their outgoing weights are besides, if anything."""
        plan, before = self.done.plan, self.done.before
        heard = columns * scales[:, None]
        total = _sums(heard, sources, len(plan.rows))
        if not self.lossy:
            total = self.now[weight_key(plan.layer + 1)].mT
        weights = shares_of(heard, total, sources)
        shares = exact_shares(weights, sources)
        if not plan.exact:
            return shares, None
        factor = torch.tensor([float(share) for share in shares], dtype=torch.float64)
        besides = (heard - factor[:, None] * total[sources]) / scales[:, None]
        sizes = before.sizes[weight_key(plan.layer + 1)].mT[plan.kept]
        off = (besides.abs() > before.precision * sizes.clamp(min=self.largest)).any(1)
        if not bool(off.any()):
            return shares, None
        free = torch.zeros(len(total), dtype=torch.bool)
        free[sources[off]] = True
        besides = besides * free[sources][:, None]
        # What rounding leaves of their sum is shared out, so that the function is kept to the digit.
        left = _sums(besides * scales[:, None], sources, len(total))
        counts = torch.bincount(sources, minlength=len(total))
        return shares, besides - (left / counts[:, None])[sources] / scales[:, None]


def shares_of(heard: Tensor, total: Tensor, sources: Tensor) -> Tensor:
    """λ_j = ⟨s_j v_j, ζ⟩/⟨ζ, ζ⟩, the least squares for ``s_j v_j = λ_j ζ``; equal ones where ζ = 0.

    Args:
        heard: s_j v_j, (n, M).
        total: ζ of each source, (k, M).
        sources: (n,).
    """
    counts = torch.bincount(sources, minlength=len(total)).to(heard.dtype)
    square = total.square().sum(1)
    size = _sums(heard.square().sum(1, keepdim=True), sources, len(total))[:, 0]
    none = square <= 1e-24 * size  # copies that cancel have no ζ to have a share of
    along = (heard * total[sources]).sum(1) / torch.where(none, 1.0, square)[sources]
    return torch.where(none[sources], 1 / counts[sources], along)


def exact_shares(weights: Tensor, sources: Tensor) -> list[Fraction]:
    """The shares as fractions with sum exactly 1 over the copies of each source.

    Equal ones as 1/n, others to fifteen digits, the last copy taking what is left.

    >>> exact_shares(torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64), torch.tensor([0, 0, 1]))
    [Fraction(3, 10), Fraction(7, 10), Fraction(1, 1)]
    """
    places: dict[int, list[int]] = {}
    for place, source in enumerate(sources.tolist()):
        places.setdefault(source, []).append(place)
    values = weights.tolist()
    shares = [Fraction(1)] * len(values)
    for copies in places.values():
        count = len(copies)
        if all(abs(values[copy] * count - 1) <= 1e-14 for copy in copies):
            for copy in copies:
                shares[copy] = Fraction(1, count)
            continue
        # The largest takes what is left: the others' zeros stay zeros.
        *others, last = sorted(copies, key=lambda copy: abs(values[copy]))
        for copy in others:
            shares[copy] = Fraction(f"{values[copy]:.15g}")
        shares[last] = 1 - sum((shares[copy] for copy in others), Fraction(0))
    return shares


def _sums(values: Tensor, sources: Tensor, count: int) -> Tensor:
    return values.new_zeros(count, values.shape[1]).index_add(0, sources, values)
