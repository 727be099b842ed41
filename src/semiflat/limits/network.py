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
from itertools import takewhile
from typing import Any, cast

import torch
from torch import Tensor, nn

from semiflat.activations import Activation, Cross
from semiflat.curvature.gradient import risk_gradient
from semiflat.errors import InputError
from semiflat.networks import MLP, Params
from semiflat.problem import PARTS, Problem, ProblemBatch

SATURATED = 1e4
"""A pre-activation where every saturating activation is flat to the last bit."""
AT_A_PRICE = "units at infinity cost infinitely much, and no run goes there"


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

    >>> import semiflat as sf
    >>> net = sf.LimitMLP(sf.MLP([1, 3, 1]), [["unit", "gate", "unit"]])
    >>> net.branch(0, 0), net.heads(0), net.finite.widths
    ([0, 1], [0, 2], (1, 3, 1))
    >>> sf.LimitMLP(sf.MLP([1, 1, 1]), [["gate"]])
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: unit 0 of hidden layer 0 is a gate, but the unit before it is neither ...
    """

    forms: tuple[tuple[Form, ...], ...]

    def __init__(self, net: MLP, forms: Sequence[Sequence[Form | str]]) -> None:
        super().__init__(net.widths, net.activations, net.biases)
        object.__setattr__(self, "forms", tuple(tuple(map(Form, layer)) for layer in forms))
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

    def _facts(self) -> dict[str, Any]:
        return super()._facts() | {"forms": self.forms}

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

    def head(self, layer: int, unit: int) -> int:
        """The first unit of the branch that a unit is in: a gate's base, or the unit itself."""
        return self.base(layer, unit) if self.forms[layer][unit] is Form.GATE else unit

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

    def with_hidden(self, hidden: Sequence[int]) -> LimitMLP:
        """The same network with plain units at the ends of its hidden layers.

        Raises:
            InputError: for fewer units than there are: which of them went would not be known.
        """
        if len(hidden) != len(self.forms) or any(
            width < len(row) for width, row in zip(hidden, self.forms, strict=False)
        ):
            raise InputError(
                f"hidden widths {list(hidden)} are below the {list(self.hidden)} of a limiting network; say "
                "which units it has: LimitMLP(net, forms)"
            )
        forms = [
            [*row, *[Form.UNIT] * (width - len(row))]
            for width, row in zip(hidden, self.forms, strict=True)
        ]
        return LimitMLP(self.finite.with_hidden(hidden), forms)

    def of_units(self, layers: Sequence[Sequence[Any]]) -> LimitMLP:
        """The wide limiting network whose units are copies of these, null units and null gates."""
        forms = [
            [form for run in runs for form in [_form_of(run, row)] * run.count]
            for runs, row in zip(layers, self.forms, strict=True)
        ]
        return LimitMLP(self.finite.with_hidden([len(row) for row in forms]), forms)

    def plain_units(self, layer: int) -> Tensor:
        """Which units hand on σ of their own pre-activation."""
        return torch.tensor([form is Form.UNIT for form in self.forms[layer]], dtype=torch.bool)

    def heads(self, layer: int) -> list[int]:
        """The units of a hidden layer that can be copied: all but gates, which go with their bases."""
        return [unit for unit, form in enumerate(self.forms[layer]) if form is not Form.GATE]

    def branch(self, layer: int, unit: int) -> list[int]:
        """A unit and its gates, which stand right after it: what is copied together.

        A branch of k gates stands for 1 + k units of a finite network, and so does each copy of it.

        Raises:
            InputError: for a gate, which is part of its base's branch.
        """
        self.check_unit(layer, unit)
        row = self.forms[layer]
        if row[unit] is Form.GATE:
            raise InputError(
                f"unit {unit} of hidden layer {layer} is a gate of unit {self.base(layer, unit)}; name that "
                "unit, whose branch it belongs to"
            )
        gates = takewhile(lambda k: row[k] is Form.GATE, range(unit + 1, len(row)))
        return [unit, *gates]

    def respond(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """As :meth:`MLP.respond`; a gate's output moves with its base's pre-activation, too."""
        return Layer([self.forms[layer]])[0].respond(self.activations[layer], z)

    def activity(self, layer: int, z: Tensor) -> Tensor:
        """``h`` of a hidden layer alone, for z of shape (*batch, N, width).

        Raises:
            InputError: where a unit is a step: its outputs are fixed for the samples of a problem.
        """
        if Form.STEP in self.forms[layer]:
            raise InputError(
                f"hidden layer {layer} has a step, whose outputs are known for the samples of its problem "
                "alone; use problem.outputs(params)"
            )
        return self.respond(layer, z.mT)[0].mT

    def to_module(self, params: Params | None = None) -> nn.Sequential:
        """Refused: units at infinity are no layers of torch's."""
        raise InputError(
            "a limiting network is no nn.Sequential; a finite network near it is one: "
            "limit.approach(1e3).problem.net.to_module(limit.approach(1e3).params)"
        )


def _form_of(run: Any, forms: Sequence[Form]) -> Form:
    source: int | None = getattr(run, "source", None)
    if source is None:
        return Form.GATE if run.gate else Form.UNIT
    return forms[source]


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


def _unit_by_unit(
    layers: Sequence[Layer], offsets: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    codes, base = (
        torch.cat([getattr(each, name) for each in layers], -1) for name in ("codes", "base")
    )
    return codes, base, torch.cat(list(offsets), -2)


class AtInfinity(Problem):
    """The problem of one limiting network, of which a :class:`Point` may be made as of any other.

    Args:
        problem: the finite network's.
        net: the limiting network.
        offsets: for each hidden layer (width, N), see :class:`LimitProblem`.
        far: shaped as the parameters; what the steps' incoming weights tend to, times infinity.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.0])
    >>> net = sf.LimitMLP(problem.net, [["unit", "gate"]])
    >>> there = sf.Limit(problem, net, problem.net.random_params(seed=0)).point.problem
    >>> type(there).__name__, there.finite.net == problem.net, there.by_algebra
    ('AtInfinity', True, False)
    """

    net: LimitMLP

    def __init__(self, problem: Problem, net: LimitMLP, offsets: list[Tensor], far: Params) -> None:
        problem.check_outputs_alone(AT_A_PRICE)
        self.__dict__ = {name: problem.__dict__[name] for name in PARTS} | {"net": net}
        self.offsets, self.far = offsets, far

    @property
    def finite(self) -> Problem:
        """The problem of the finite networks that tend to this one."""
        made = object.__new__(Problem)
        made.__dict__ = {name: self.__dict__[name] for name in PARTS} | {"net": self.net.finite}
        return made

    def _with(self, **changes: Any) -> AtInfinity:
        found = cast(AtInfinity, super()._with(**changes))
        found.offsets, found.far = self.offsets, self.far
        found.check_outputs_alone(AT_A_PRICE)
        return found

    def with_net(self, net: MLP) -> AtInfinity:
        """The same for another limiting network, without steps, or of the same units."""
        steps = any(bool(offset.any()) for offset in self.offsets)
        if not isinstance(net, LimitMLP) or (steps and net.forms != self.net.forms):
            raise InputError(
                f"a problem at infinity needs a limiting network, not {type(net).__name__}; embed the point, "
                "which tells what becomes of each unit"
            )
        found = cast(AtInfinity, super().with_net(net))
        if not steps:
            found.offsets = [
                offset.new_zeros(width, offset.shape[1])
                for offset, width in zip(self.offsets, net.hidden, strict=True)
            ]
            found.far = {key: torch.zeros(shape).double() for key, shape in net.shapes.items()}
        return found

    def widened(self, widening: Any) -> AtInfinity:
        """The problem of a wider limiting network: copies of a step have its samples on the same sides."""
        if widening.core is not None:
            raise InputError(
                "a limiting network is widened by Replicate, NullUnits and NullGates alone: other units "
                "have no place beside units at infinity"
            )
        layers = widening.units.layers
        sources = [
            torch.tensor([getattr(run, "source", -1) for run in runs for _ in range(run.count)])
            for runs in layers
        ]
        found = self._with(net=widening.wide)
        found.offsets = [
            torch.where((source >= 0)[:, None], offset[source.clamp(min=0)], 0.0)
            for offset, source in zip(self.offsets, sources, strict=True)
        ]
        found.far = widening.lift(self.far)
        return found

    def on_samples(self, chosen: Tensor) -> AtInfinity:
        """The samples chosen alone."""
        found = cast(AtInfinity, super().on_samples(chosen))
        found.offsets = [offset[:, chosen] for offset in self.offsets]
        return found

    def respond(
        self, layer: int, z: Tensor, samples: slice
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """What a hidden layer makes of its pre-activations on some samples."""
        return self.net.respond(layer, z + self.offsets[layer][:, samples])

    @property
    def units_at_infinity(self) -> tuple[Tensor, Tensor, Tensor]:
        """See :attr:`Problem.units_at_infinity`."""
        return _unit_by_unit([Layer([row]) for row in self.net.forms], self.offsets)

    def activate(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """The same on all samples, for z of shape (N, width)."""
        h, slope, bend, cross = self.respond(layer, z.mT, slice(None))
        return h.mT.contiguous(), slope.mT.contiguous(), bend.mT.contiguous(), cross

    def outputs(self, params: Params, samples: slice = slice(None)) -> Tensor:
        """``f(x_ν)`` on some samples, (*batch, n, M)."""
        z = self.net.through(params, self.X[samples].mT, 0)[1]
        for layer in range(self.net.depth - 1):
            h = self.respond(layer, z, samples)[0]
            z = self.net.through(params, h, layer + 1)[1]
        return z.mT

    def check_finite(self, what: str) -> None:
        """Refused; see :meth:`Problem.check_finite`."""
        raise InputError(
            f"{what} is of finite networks, and this one has units at infinity; take one near it, such as "
            "Limit.of(point).approach(1e3)"
        )

    @property
    def by_algebra(self) -> bool:
        """No: the laws are of plain units; what is embedded here is judged by its own derivatives."""
        return False


class LimitProblem(ProblemBatch):
    """A batch of limiting networks of one shape, each on its data, with what fixes their steps.

    Args:
        problems: one for each network.
        nets: likewise; their forms may differ.
        offsets: for each hidden layer (B, width, N), added to the pre-activations: 0, or
            ±:data:`SATURATED` where a step has its sample to one side.

    Raises:
        InputError: as a :class:`ProblemBatch`, and for problems with weight decay.
    """

    def __init__(
        self, problems: Sequence[Problem], nets: Sequence[LimitMLP], offsets: list[Tensor]
    ) -> None:
        super().__init__(problems)
        self.check_outputs_alone(AT_A_PRICE)
        self.layers = [
            Layer([net.forms[layer] for net in nets]) for layer in range(len(self.net.hidden))
        ]
        self.offsets = offsets

    def respond(
        self, layer: int, z: Tensor, samples: slice
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        moved = z + self.offsets[layer][..., samples]
        return self.layers[layer].respond(self.net.activations[layer], moved)

    @property
    def units_at_infinity(self) -> tuple[Tensor, Tensor, Tensor]:
        return _unit_by_unit(self.layers, self.offsets)

    def rows(self, chosen: slice | Tensor) -> LimitProblem:
        some = cast(LimitProblem, super().rows(chosen))
        some.layers = [layer[chosen] for layer in self.layers]
        some.offsets = [offset[chosen] for offset in self.offsets]
        return some

    def risk(self, params: Params) -> Tensor:
        return risk_gradient(self, params)[0]
