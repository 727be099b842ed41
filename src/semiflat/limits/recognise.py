"""Which units of a network are on their way to infinity, and the limit they are on their way to.

Everything is measured by what units do on the data, so that no scale of the inputs matters. What is
recognised is a guess: that the limit has a critical point is shown by finding it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.limits.network import SATURATED, Form, LimitMLP
from semiflat.networks import Params, bias_key, weight_key
from semiflat.problem import Problem
from semiflat.unit_surgery import chosen, may_reflect, reflected, with_rows

NEAR = 0.35
"""Two units merge if their pre-activations differ by this part of their spread at most, ..."""
CANCEL = 0.25
"""... and their outgoing weights add up to this part of their lengths at most."""
CLEARLY = 0.3
"""Three units cancel together, and not two of them, if they do so this much better."""
LOUD = 10.0
"""Length of the outgoing weights from which a unit with a narrow range counts as running off."""
NARROW = 0.35
"""Spread of a pre-activation over which an activation is linear enough for a start."""
TAIL = -2.5
"""A pre-activation below which a sigmoid is exponential enough for a start."""
FLAT = 1e-6
"""A slope relative to the largest, below which a sample is to one side of a step."""


RunsOff = tuple[int, frozenset[int]]
"""Units that run off together: their hidden layer, and their places in it."""


@dataclass(frozen=True)
class Guess:
    """A limiting network near a finite one.

    Attributes:
        net: its architecture.
        params: parameters to start from.
        offsets: for each hidden layer (width, N), see :class:`semiflat.limits.network.LimitProblem`.
        far: shaped as the parameters; the steps' incoming weights tend to these times infinity.
        found: for what newly runs off, unit or units that merge, by their places in the network that was
            given: one line with the numbers.
    """

    net: LimitMLP
    params: Params
    offsets: list[Tensor]
    far: Params
    found: dict[RunsOff, str]


def recognise(
    problem: Problem,
    params: Params,
    known: Guess | None = None,
    allowed: Callable[[RunsOff], bool] = lambda unit: True,
) -> Guess | None:
    """The limit that the network ``params`` runs towards, or None if no unit runs off.

    Args:
        known: a limit found before, whose ``params`` these are; its forms are kept.
        allowed: what may be taken to run off.
    """
    work = _Work(problem, params, known, allowed)
    for layer in range(len(work.net.hidden)):
        work.layer(layer)
    return work.guess() if work.found else None


def balanced(problem: Problem, net: LimitMLP, params: Params, offsets: Sequence[Tensor]) -> Params:
    """The same function, each limit measured by what it does on the data.

    Along a gauge a search drifts, until a tail is as far up as its outgoing weights are small. Here
    gates have pre-activations of root mean square 1, those of tails reach up to 0, and those of linear
    units have mean 0 and deviation 1.
    """
    params, h = {key: tensor.clone() for key, tensor in params.items()}, problem.X.mT
    for layer, row in enumerate(net.forms):
        z = net.through(params, h, layer)[1]
        V, rows = params[weight_key(layer + 1)], net.layer(params, layer).clone()
        for unit, form in enumerate(row):
            middle, size = 0.0, 1.0
            if form is Form.GATE:
                size = float(z[unit].square().mean().sqrt())
            elif form is Form.LINEAR:
                middle, size = float(z[unit].mean()), float(z[unit].std(correction=0))
                params[bias_key(layer + 1)] += V[:, unit] * middle
            elif form is Form.TAIL:
                middle = float(z[unit].max())
                V[:, unit] *= math.exp(middle)
            if form is Form.UNIT or form is Form.STEP or not size > 0:
                continue
            V[:, unit] *= size
            if middle:
                rows[unit, -1] -= middle
            rows[unit] /= size
        params = with_rows(net, params, layer, list(range(len(row))), rows)
        h = net.respond(layer, net.through(params, h, layer)[1] + offsets[layer])[0]
    return params


class _Work:
    def __init__(
        self,
        problem: Problem,
        params: Params,
        known: Guess | None,
        allowed: Callable[[RunsOff], bool],
    ) -> None:
        self.problem, self.net, self.allowed = problem, problem.net, allowed
        self.params = {key: tensor.clone() for key, tensor in params.items()}
        self.forms = (
            [list(row) for row in known.net.forms]
            if known
            else [[Form.UNIT] * width for width in self.net.hidden]
        )
        self.offsets = (
            [offset.clone() for offset in known.offsets]
            if known
            else [torch.zeros((width, problem.samples)).double() for width in self.net.hidden]
        )
        self.far = {
            key: tensor.clone() if known else torch.zeros_like(tensor)
            for key, tensor in (known.far if known else params).items()
        }
        self.found: dict[RunsOff, str] = {}
        self._bases = {
            (layer, unit): LimitMLP(self.net, self.forms).base(layer, unit)
            for layer, row in enumerate(self.forms)
            for unit, form in enumerate(row)
            if form is Form.GATE
        }

    def _is_base(self, layer: int, unit: int) -> bool:
        return (layer, unit) in {(at, base) for (at, _), base in self._bases.items()}

    def layer(self, layer: int) -> None:
        net = LimitMLP(self.net, self.forms)
        fed, z = net.through(self.params, self.problem.X.mT, 0)
        for below in range(layer):
            h = net.respond(below, z + self.offsets[below])[0]
            fed, z = net.through(self.params, h, below + 1)
        free = [
            unit
            for unit, form in enumerate(self.forms[layer])
            if form is Form.UNIT and not self._is_base(layer, unit)
        ]
        if self.net.activations[layer].saturates:
            steps = [u for u, form in enumerate(self.forms[layer]) if form is Form.STEP]
            for unit in free + steps:
                self._step(layer, unit, z[unit], fed.mT)
            free = [unit for unit in free if self.forms[layer][unit] is Form.UNIT]
        pairs = sorted(self._pairs(layer, free, z))
        self._clusters(layer, free, z, pairs)
        for distance, cancelled, one, other, sign in pairs:
            if one in free and other in free:
                if sign < 0:
                    self._reflect(layer, other, z[other])
                self._gate(layer, one, other, z, distance, cancelled)
                free.remove(one)
                free.remove(other)
        for unit in free:
            self._lonely(layer, unit, z[unit])
        self._sort(layer)

    def _sort(self, layer: int) -> None:
        """Gates right after their bases, and equal forms side by side, for larger batches."""
        rank = {Form.UNIT: 1, Form.TAIL: 2, Form.LINEAR: 3, Form.STEP: 4}
        keys = []
        for unit, form in enumerate(self.forms[layer]):
            base = self._bases.get((layer, unit))
            paired = base is not None or self._is_base(layer, unit)
            anchor = unit if base is None else base
            keys.append((0 if paired else rank[form], anchor, base is not None))
        self._permute(layer, sorted(range(len(keys)), key=keys.__getitem__))

    def guess(self) -> Guess:
        """What has been put together."""
        net = LimitMLP(self.net, self.forms)
        return Guess(net, self.params, self.offsets, self.far, self.found)

    # -- what a unit is --------------------------------------------------------------------------

    def _may(self, layer: int, *units: int) -> bool:
        return self.allowed((layer, frozenset(units)))

    def _tell(self, layer: int, units: list[int], words: str) -> None:
        self.found[layer, frozenset(units)] = words

    def _step(self, layer: int, unit: int, z: Tensor, fed: Tensor) -> None:
        """Samples to one side of a unit stay there; those on its edge, few, keep what they see."""
        if not self._may(layer, unit):
            return
        before = self.offsets[layer][unit]
        slope = self.net.activations[layer].derivatives(z + before)[1].abs()
        beyond = slope <= FLAT
        edge = fed[~beyond]
        if (
            int(beyond.sum()) * 2 < len(z)
            or len(edge) >= fed.shape[1]
            or float(z.std(correction=0)) == 0
        ):
            return
        if bool((beyond == (before != 0)).all()):
            return  # a step already, and nothing new
        values, _, _, sizes = torch.linalg.lstsq(edge, z[~beyond][:, None], driver="gelsd")
        if len(edge) and float(sizes.min()) < 1e-9 * float(sizes.max()):
            return
        inner = values[:, 0] if len(edge) else torch.zeros_like(fed[0])
        row = self.net.layer(self.params, layer)[unit]
        away = self.net.layer(self.far, layer)[unit] + row - inner
        self.far = with_rows(self.net, self.far, layer, unit, away)
        self.params = with_rows(self.net, self.params, layer, unit, inner)
        self.offsets[layer][unit] = torch.where(beyond, SATURATED * (z + before).sign(), 0.0)
        self.forms[layer][unit] = Form.STEP
        self._tell(
            layer,
            [unit],
            f"unit {unit} of hidden layer {layer} is a step with {len(edge)} samples on its edge: "
            f"slope at most {float(slope[beyond].max()):.1g} on the others, incoming weights of length "
            f"{float(row.norm()):.3g}",
        )

    def _pairs(
        self, layer: int, free: list[int], z: Tensor
    ) -> list[tuple[float, float, int, int, int]]:
        V = self.params[weight_key(layer + 1)]
        found = []
        for k, one in enumerate(free):
            spread = float(z[one].std(correction=0))
            for other in free[k + 1 :]:
                if not self._may(layer, one, other):
                    continue
                for sign in (1, -1) if may_reflect(self.net, layer) else (1,):
                    both = max(spread, float(z[other].std(correction=0)), 1e-300)
                    distance = float((z[one] - sign * z[other]).square().mean().sqrt()) / both
                    lengths = float(V[:, one].norm() + V[:, other].norm())
                    left = float((V[:, one] + sign * V[:, other]).norm()) / max(lengths, 1e-300)
                    if distance < NEAR and left < CANCEL:
                        found.append((distance, left, one, other, sign))
        return found

    def _clusters(
        self,
        layer: int,
        free: list[int],
        z: Tensor,
        pairs: list[tuple[float, float, int, int, int]],
    ) -> None:
        """Three units and more that cancel far better than any two; m units make m − 1 gates.

        Γ has no more than as many independent rows as there are units above, so with one there is
        nothing that a pair does not do.
        """
        most = min(self.net.widths[layer + 2], self.net.fan_in(layer)) + 1
        V = self.params[weight_key(layer + 1)]
        for base in list(free):
            if base not in free or most < 3:
                continue
            near = []
            for other in free:
                for sign in (1, -1) if may_reflect(self.net, layer) else (1,):
                    both = max(float(z[each].std(correction=0)) for each in (base, other))
                    distance = float((z[base] - sign * z[other]).square().mean().sqrt())
                    if other != base and distance < NEAR * both:
                        near.append((distance / both, other, sign))
            members = sorted(near)[: most - 1]
            lengths = float(V[:, base].norm()) + sum(float(V[:, k].norm()) for _, k, _ in members)
            left = V[:, base] + sum((sign * V[:, k] for _, k, sign in members), torch.zeros(()))
            units = {base, *(k for _, k, _ in members)}
            if not self._may(layer, *units):
                continue
            best = min((p[1] for p in pairs if {p[2], p[3]} <= units), default=1.0)
            limit = min(CANCEL, CLEARLY * best) * lengths
            if len(members) < 2 or float(left.norm()) > limit:
                continue
            self._gates(layer, base, members, z, float(left.norm()) / lengths)
            for unit in units:
                free.remove(unit)

    def _gates(
        self,
        layer: int,
        base: int,
        members: list[tuple[float, int, int]],
        z: Tensor,
        cancelled: float,
    ) -> None:
        for _, unit, sign in members:
            if sign < 0:
                self._reflect(layer, unit, z[unit])
        V, rows = self.params[weight_key(layer + 1)], self.net.layer(self.params, layer)
        for _, unit, _ in members:
            size = float((z[unit] - z[base]).square().mean().sqrt()) or 1.0
            gap = (rows[unit] - rows[base]) / size
            self.params = with_rows(self.net, self.params, layer, unit, gap)
            V[:, base] = V[:, base] + V[:, unit]
            V[:, unit] *= size
            self.forms[layer][unit] = Form.GATE
            self._bases[layer, unit] = base
        units = sorted([base, *(unit for _, unit, _ in members)])
        self._tell(
            layer,
            units,
            f"units {units} of hidden layer {layer} merge: pre-activations apart by "
            f"{members[-1][0]:.2g} of their spread, outgoing weights that cancel together but for "
            f"{cancelled:.2g}",
        )

    def _gate(
        self, layer: int, one: int, other: int, z: Tensor, distance: float, cancelled: float
    ) -> None:
        V, rows = self.params[weight_key(layer + 1)], self.net.layer(self.params, layer)
        size = float((z[one] - z[other]).square().mean().sqrt())
        size = size if size > 0 else 1.0
        a = (V[:, one] - V[:, other]) / 2 * size
        lengths = float(V[:, one].norm()), float(V[:, other].norm())
        pair = torch.stack([(rows[one] + rows[other]) / 2, (rows[one] - rows[other]) / size])
        self.params = with_rows(self.net, self.params, layer, [one, other], pair)
        V[:, one] = V[:, one] + V[:, other]
        V[:, other] = a
        self.forms[layer][other] = Form.GATE
        self._bases[layer, other] = one
        self._tell(
            layer,
            [one, other],
            f"units {one} and {other} of hidden layer {layer} merge: pre-activations apart by "
            f"{distance:.2g} of their spread, outgoing weights of lengths {lengths[0]:.3g} and "
            f"{lengths[1]:.3g} that cancel but for {cancelled:.2g}",
        )

    def _lonely(self, layer: int, unit: int, z: Tensor) -> None:
        if not self._may(layer, unit):
            return
        V = self.params[weight_key(layer + 1)]
        loud, middle, spread = float(V[:, unit].norm()), float(z.mean()), float(z.std(correction=0))
        if loud < LOUD or not all(self.net.biases[layer : layer + 2]) or spread == 0:
            return
        if float((z - middle).abs().max()) < NARROW:
            h, slope = self.net.activations[layer].derivatives(torch.tensor(middle).double())[:2]
            row = self.net.layer(self.params, layer)[unit]
            self.params[bias_key(layer + 1)] += V[:, unit] * h
            V[:, unit] *= slope * spread
            row[-1] -= middle
            self.params = with_rows(self.net, self.params, layer, unit, row / spread)
            self.forms[layer][unit] = Form.LINEAR
            self._tell(
                layer,
                [unit],
                f"unit {unit} of hidden layer {layer} is linear: pre-activations within "
                f"{float((z - middle).abs().max()):.2g}, outgoing weights of length {loud:.3g}",
            )
            return
        tail = self.net.activations[layer].tail
        if tail is None:
            return
        if may_reflect(self.net, layer) and middle > 0:
            self._reflect(layer, unit, z)
        top = float(z.max())
        if top > TAIL:
            return
        V, row = self.params[weight_key(layer + 1)], self.net.layer(self.params, layer)[unit]
        self.params[bias_key(layer + 1)] += tail.level * V[:, unit]
        row *= tail.rate
        top *= tail.rate
        row[-1] -= top
        self.params = with_rows(self.net, self.params, layer, unit, row)
        V[:, unit] *= tail.size
        V[:, unit] *= float(torch.exp(torch.tensor(top)))
        self.forms[layer][unit] = Form.TAIL
        self._tell(
            layer,
            [unit],
            f"unit {unit} of hidden layer {layer} is in its tail: pre-activations below "
            f"{float(z.max()):.3g}, outgoing weights of length {loud:.3g}",
        )

    # -- moves that keep the function ------------------------------------------------------------

    def _reflect(self, layer: int, unit: int, z: Tensor) -> None:
        self.params, self.far = (
            reflected(self.net, each, layer, [unit]) for each in (self.params, self.far)
        )
        z *= -1

    def _permute(self, layer: int, order: list[int]) -> None:
        self.params, self.far = (
            chosen(self.net, each, layer, order) for each in (self.params, self.far)
        )
        self.offsets[layer] = self.offsets[layer][order]
        self.forms[layer] = [self.forms[layer][unit] for unit in order]
