"""The limiting network: the widths of the finite one, but some units have run to infinity.

A run to infinity changes its function less and less: the function converges, the parameters do not. In
coordinates where they do, the unit's two linear layers keep their shapes and only what lies between
them, ``h = σ(z)``, changes (theory §5):

====== =============================================== ==========================================
form   finite units that tend to it                    what stands for σ
====== =============================================== ==========================================
gate   a copy of the unit before it, the two outgoing  ``h = z σ'(z_base)``, z_base the unit
       weights → ±∞ and cancelling                     before: the tangent of σ along the row
tail   bias → −∞, outgoing → ∞ (σ ~ e^z there)         ``h = e^z``
linear incoming → 0, outgoing → ∞                      ``h = z``
step   incoming → ∞                                    0 or 1 (−1 or 1), fixed for each sample
====== =============================================== ==========================================

So every derivative of the closed-form curvature is there, and the same search runs in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.errors import InputError
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.problem import Problem, ProblemBatch

FAR = 1e4
"""A pre-activation where every saturating activation is flat to the last bit."""


class Form(StrEnum):
    """What a unit of a limiting network is; see the module."""

    UNIT = "unit"
    GATE = "gate"
    TAIL = "tail"
    LINEAR = "linear"
    STEP = "step"


class LimitMLP(MLP):
    """An :class:`MLP` some of whose units are limits.

    Args:
        net: the finite network.
        forms: for each hidden layer the form of each unit; a gate stands right after its base, which
            is a plain unit.

    Raises:
        InputError: if the forms do not fit the widths, or a gate has no base.
    """

    forms: tuple[tuple[Form, ...], ...]

    def __init__(self, net: MLP, forms: Sequence[Sequence[Form]]) -> None:
        super().__init__(net.widths, net.activations, net.biases)
        object.__setattr__(self, "forms", tuple(tuple(layer) for layer in forms))
        if tuple(map(len, self.forms)) != net.hidden:
            raise InputError(
                f"forms for {[len(layer) for layer in self.forms]} units do not fit hidden widths "
                f"{list(net.hidden)}; give one for each hidden unit"
            )
        for layer, row in enumerate(self.forms):
            for unit, form in enumerate(row):
                if form is Form.GATE and (unit == 0 or row[unit - 1] is not Form.UNIT):
                    raise InputError(
                        f"unit {unit} of hidden layer {layer} is a gate, but the unit before it is "
                        "not a plain unit; put its base there"
                    )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitMLP) and super().__eq__(other) and self.forms == other.forms

    def __hash__(self) -> int:
        return hash((self.widths, self.activations, self.biases, self.forms))

    @property
    def finite(self) -> MLP:
        """The finite network this is a limit of."""
        return MLP(self.widths, self.activations, self.biases)

    @property
    def gauge(self) -> int:
        """Directions that change no function of any limiting network of these forms.

        One for a gate (its row against its outgoing weights) and a tail (its bias against its
        outgoing weights), two for a linear unit (its scale, and its bias against the next). What a
        step's incoming weights may do depends on the data and is not counted.
        """
        total = 0
        for row in self.forms:
            for form in row:
                total += {
                    Form.UNIT: 0,
                    Form.GATE: 1,
                    Form.TAIL: 1,
                    Form.LINEAR: 2,
                    Form.STEP: 0,
                }[form]
        return total

    def respond(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Cross]]:
        activation, row = self.activations[layer], self.forms[layer]
        h, first, second = activation.derivatives(z)
        if all(form in (Form.UNIT, Form.STEP) for form in row):
            return h, first, second, []
        cross = []
        h, first, second = h.clone(), first.clone(), second.clone()
        for unit, form in enumerate(row):
            at = (..., unit, slice(None))
            if form is Form.TAIL:
                h[at] = first[at] = second[at] = torch.exp(z[at])
            elif form is Form.LINEAR:
                h[at], first[at], second[at] = z[at], 1.0, 0.0
            elif form is Form.GATE:
                base = (..., unit - 1, slice(None))
                slope, bend, third = first[base], second[base], activation.third(z[base])
                cross.append(Cross(unit, unit - 1, z[at] * bend, bend.clone(), z[at] * third))
                h[at], first[at], second[at] = z[at] * slope, slope, 0.0
        return h, first, second, cross

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        return self._forward(params, inputs, None)

    def _forward(self, params: Params, inputs: Tensor, problem: LimitProblem | None) -> Tensor:
        h = inputs.mT
        for layer in range(self.depth):
            h = params[weight_key(layer)] @ h
            if self.biases[layer]:
                h = h + params[bias_key(layer)][..., None]
            if layer < len(self.activations):
                if problem is not None:
                    h = h + problem.offset(layer, slice(None))
                h = self.respond(layer, h)[0]
        return h.mT


class LimitProblem(ProblemBatch):
    """A batch of limiting networks, each on its data, with what fixes their steps.

    Attributes:
        offsets: for each hidden layer (B, width, N), added to the pre-activations: 0, or
            ±:data:`FAR` where a step has its sample to one side.

    Raises:
        InputError: as a :class:`ProblemBatch`, and for problems with weight decay.
    """

    def __init__(self, problems: Sequence[Problem], net: LimitMLP, offsets: list[Tensor]) -> None:
        super().__init__(problems)
        if self.weight_decay:
            raise InputError(
                f"a limit has units at infinity, and with weight_decay={self.weight_decay!r} they cost "
                "infinitely much: no run goes there; use problem.with_weight_decay(0)"
            )
        self.net = net
        self.offsets = offsets

    def offset(self, layer: int, samples: slice) -> Tensor:
        return self.offsets[layer][..., samples]

    def rows(self, chosen: slice | Tensor) -> LimitProblem:
        some = object.__new__(LimitProblem)
        some.__dict__ = self.__dict__ | {
            "X": self.X[chosen],
            "y": self.y[chosen],
            "offsets": [offset[chosen] for offset in self.offsets],
        }
        return some

    def risk(self, params: Params) -> Tensor:
        assert isinstance(self.net, LimitMLP)
        return self.loss.value(self.net._forward(params, self.X, self), self.y).mean(-1)
