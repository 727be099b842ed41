"""The limiting network: the widths of the finite one, but some units have run to infinity.

A run to infinity changes its function less and less: the function converges, the parameters do not. In
coordinates where they do, the unit's two linear layers keep their shapes and only what lies between
them, ``h = σ(z)``, changes (theory §5):

====== =============================================== ==========================================
form   finite units that tend to it                    what stands for σ
====== =============================================== ==========================================
gate   a copy of the plain unit before it, their       ``h = z σ'(z_base)``, z_base that unit's:
       outgoing weights → ±∞ and cancelling            the tangent of σ along the row
tail   bias → −∞, outgoing → ∞ (σ ~ e^z there)         ``h = e^z``
linear incoming → 0, outgoing → ∞                      ``h = z``
step   incoming → ∞                                    0 or 1 (−1 or 1), fixed for each sample
====== =============================================== ==========================================

m copies of one unit tend to the unit and m − 1 gates: Γ of rank m − 1. So every derivative of the
closed-form curvature is there, and the same search runs in it, limits of all kinds in one batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import cast

import torch
from torch import Tensor

from semiflat.activations import Activation, Cross
from semiflat.curvature.gradient import risk_gradient
from semiflat.errors import InputError
from semiflat.networks import MLP, Params, bias_key, weight_key
from semiflat.problem import Problem, ProblemBatch

FAR = 1e4
"""A pre-activation where every saturating activation is flat to the last bit."""


class Form(StrEnum):
    """What a unit of a limiting network is.

    >>> import semiflat as sf
    >>> [str(form) for form in sf.Form]
    ['unit', 'gate', 'tail', 'linear', 'step']
    """

    UNIT = "unit"
    GATE = "gate"
    TAIL = "tail"
    LINEAR = "linear"
    STEP = "step"


_CODE = {form: code for code, form in enumerate(Form)}
_GAUGE = {Form.UNIT: 0, Form.GATE: 1, Form.TAIL: 1, Form.LINEAR: 2, Form.STEP: 0}


class LimitMLP(MLP):
    """An :class:`MLP` some of whose units are limits.

    Args:
        net: the finite network.
        forms: for each hidden layer the form of each unit; gates stand right after their base, which
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
                before = row[unit - 1] if unit else None
                if form is Form.GATE and before not in (Form.UNIT, Form.GATE):
                    raise InputError(
                        f"unit {unit} of hidden layer {layer} is a gate, but the unit before it is "
                        "neither a plain unit nor a gate of one; put its base there"
                    )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LimitMLP) and super().__eq__(other) and self.forms == other.forms

    def __hash__(self) -> int:
        return hash((self.widths, self.activations, self.biases, self.forms))

    @property
    def finite(self) -> MLP:
        """The finite network this is a limit of."""
        return MLP(self.widths, self.activations, self.biases)

    def base(self, layer: int, unit: int) -> int:
        """The plain unit that a gate is a gate of."""
        row = self.forms[layer]
        return max(k for k in range(unit) if row[k] is Form.UNIT)

    @property
    def gauge(self) -> int:
        """Directions that change no function of any limiting network of these forms.

        k² for the k gates of one base (their rows against their outgoing weights), one for a tail
        (its bias against its outgoing weights), two for a linear unit (its scale, and its bias
        against the next). What a step's incoming weights may do depends on the data and is not
        counted.
        """
        total = 0
        for row in self.forms:
            gates = 0
            for form in row:
                gates = gates + 1 if form is Form.GATE else 0
                # The k-th gate adds k² − (k − 1)².
                total += 2 * gates - 1 if gates else _GAUGE[form]
        return total

    def respond(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        return Layer([self.forms[layer]])[0].respond(self.activations[layer], z)

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        h = inputs.mT
        for layer in range(self.depth):
            h = params[weight_key(layer)] @ h
            if self.biases[layer]:
                h = h + params[bias_key(layer)][..., None]
            if layer < len(self.activations):
                h = self.respond(layer, h)[0]
        return h.mT


class Layer:
    """The forms of one hidden layer's units, for each of a batch of networks.

    Args:
        rows: one for each network.
    """

    def __init__(self, rows: Sequence[Sequence[Form]]) -> None:
        self.codes = torch.tensor([[_CODE[form] for form in row] for row in rows])
        plain = torch.where(self.codes == 0, torch.arange(self.codes.shape[-1]), 0)
        self.base = plain.cummax(-1).values  # a gate's is the last plain unit before it

    def __getitem__(self, chosen: int | slice | Tensor) -> Layer:
        """The layer in one of the networks, or in some."""
        some = object.__new__(Layer)
        some.codes, some.base = self.codes[chosen], self.base[chosen]
        return some

    def respond(
        self, activation: Activation, z: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """As :meth:`MLP.respond`, for z of shape (*batch, width, n)."""
        h, first, second = activation.derivatives(z)
        cross = None
        gate, tail, linear = (
            (self.codes == _CODE[form])[..., None] for form in (Form.GATE, Form.TAIL, Form.LINEAR)
        )
        if gate.any():
            at = self.base[..., None].expand(z.shape)
            slope, bend = first.gather(-2, at), second.gather(-2, at)
            third = activation.third(z).gather(-2, at)
            mixed = torch.where(gate, bend, 0.0)
            cross = Cross(self.base, z * mixed, mixed, torch.where(gate, z * third, 0.0))
            h, first = torch.where(gate, z * slope, h), torch.where(gate, slope, first)
            second = torch.where(gate, 0.0, second)
        if tail.any():
            grown = torch.exp(torch.where(tail, z, 0.0))
            h, first, second = (torch.where(tail, grown, each) for each in (h, first, second))
        if linear.any():
            h = torch.where(linear, z, h)
            first, second = torch.where(linear, 1.0, first), torch.where(linear, 0.0, second)
        return h, first, second, cross


class LimitProblem(ProblemBatch):
    """A batch of limiting networks of one shape, each on its data, with what fixes their steps.

    Args:
        problems: one for each network.
        nets: likewise; their forms may differ.
        offsets: for each hidden layer (B, width, N), added to the pre-activations: 0, or
            ±:data:`FAR` where a step has its sample to one side.

    Raises:
        InputError: as a :class:`ProblemBatch`, and for problems with weight decay.
    """

    def __init__(
        self, problems: Sequence[Problem], nets: Sequence[LimitMLP], offsets: list[Tensor]
    ) -> None:
        super().__init__(problems)
        if self.decay:
            raise InputError(
                f"a limit has units at infinity, and with weight_decay={self.weight_decay!r} they cost "
                "infinitely much: no run goes there; use problem.with_weight_decay(0)"
            )
        self.layers = [
            Layer([net.forms[layer] for net in nets]) for layer in range(len(self.net.hidden))
        ]
        self.offsets = offsets

    def respond(
        self, layer: int, z: Tensor, samples: slice
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        moved = z + self.offsets[layer][..., samples]
        return self.layers[layer].respond(self.net.activations[layer], moved)

    def rows(self, chosen: slice | Tensor) -> LimitProblem:
        some = cast(LimitProblem, super().rows(chosen))
        some.layers = [layer[chosen] for layer in self.layers]
        some.offsets = [offset[chosen] for offset in self.offsets]
        return some

    def risk(self, params: Params) -> Tensor:
        return risk_gradient(self, params)[0]
