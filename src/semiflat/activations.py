"""Activation functions with their first and second derivative and the symmetries they have.

Everything about an activation that other rooms need is stated here once: how it is differentiated,
whether it is smooth, odd, bounded or positively homogeneous, and which ``nn.Module`` it is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from semiflat.errors import InputError, unknown_name
from semiflat.images import ATAN, ERF, Image, logistic
from semiflat.records.shown import Shown

Derivatives = tuple[Tensor, Tensor, Tensor]
"""σ(z), σ'(z), σ''(z), each shaped like z."""


class Elementwise(nn.Module):
    """An ``nn.Module`` for an elementwise function that torch has no module for."""

    def __init__(self, function: Callable[[Tensor], Tensor], name: str) -> None:
        super().__init__()
        self.function = function
        self.name = name

    def forward(self, z: Tensor) -> Tensor:
        return self.function(z)

    def extra_repr(self) -> str:
        return self.name


@dataclass(frozen=True)
class Cross(Shown):
    """What the outputs of a layer's units owe to other units' pre-activations, each to one at most.

    Attributes:
        by: for each unit i the j whose z_j moves it too, (*batch, width); any j where none does.
        slope: ``∂h_i/∂z_j``, (*batch, width, n); 0 where none does, and so the next two.
        mixed: ``∂²h_i/∂z_i∂z_j``.
        twice: ``∂²h_i/∂z_j²``.

    >>> import torch
    >>> import semiflat as sf
    >>> net = sf.LimitMLP(sf.MLP([1, 2, 1], "tanh"), [["unit", "gate"]])
    >>> z = torch.tensor([[0.5], [2.0]], dtype=torch.float64)  # of both units, on one sample
    >>> h, slope, bend, cross = net.respond(0, z)
    >>> cross.by.tolist(), cross.seen(z).tolist()              # the gate's base is unit 0
    ([0, 0], [[0.5], [0.5]])
    >>> bool(h[1] == slope[0] * z[1]), bool(cross.slope[1] == bend[0] * z[1])
    (True, True)
    """

    by: Tensor
    slope: Tensor
    mixed: Tensor
    twice: Tensor

    def seen(self, stack: Tensor, axis: int = -2) -> Tensor:
        """For each unit i what ``stack`` holds for j; the units stand along ``axis``, from the end."""
        return stack.gather(axis, self.places(stack, axis))

    def places(self, stack: Tensor, axis: int) -> Tensor:
        """``by`` in the shape of ``stack``, the units along ``axis``: an index to gather or scatter."""
        *batch, width = self.by.shape
        between = stack.ndim - len(batch) + axis
        index = self.by.reshape(*batch, *[1] * between, width, *[1] * (-axis - 1))
        return index.expand(stack.shape)


FAR = 1e4
"""A pre-activation where an activation that bends is a kink to the last bit."""
_KNOWN: dict[str, Activation] = {}
"""The activations by their names; whoever makes one with a name that is free makes it known."""


class Sup(NamedTuple):
    """Upper bounds of |σ''| and of the third derivative on the whole line, and on either side of a kink.

    >>> import torch
    >>> import semiflat as sf
    >>> silu = sf.MLP([1, 1, 1], "silu").activations[0]
    >>> silu.sup
    Sup(second=0.5, third=0.31)
    >>> z = torch.linspace(-9, 9, 999, dtype=torch.float64)
    >>> bool(silu.derivatives(z)[2].abs().max() <= silu.sup.second)
    True
    """

    second: float
    third: float


class Tail(NamedTuple):
    """How an activation fades: ``σ(z) = level + size · e^{rate z} + …`` for z → −∞.

    >>> import math
    >>> import torch
    >>> import semiflat as sf
    >>> softplus = sf.MLP([1, 1, 1], "softplus").activations[0]
    >>> softplus.tail
    Tail(level=0.0, size=1.0, rate=1.0)
    >>> softplus.function(torch.tensor(-20.0, dtype=torch.float64)) / math.exp(-20)
    tensor(1.0000, dtype=torch.float64)
    """

    level: float
    size: float
    rate: float


class Rise(NamedTuple):
    """Where an activation grows: from ``start`` on; before, it lies between ``least`` and ``σ(start)``.

    >>> import torch
    >>> import semiflat as sf
    >>> gelu = sf.MLP([1, 1, 1], "gelu").activations[0]
    >>> gelu.rise
    Rise(start=0.0, least=-0.17)
    >>> gelu.between(torch.tensor([-2.0]), torch.tensor([1.0]))  # on that interval
    (tensor([-0.1700]), tensor([0.8413]))
    """

    start: float
    least: float


@dataclass(frozen=True)
class Activation(Shown):
    """One elementwise activation σ; two of one name and function are equal.

    Attributes:
        name: its name in checkpoints, or ``"<callable …>"`` for a user's function.
        function: σ.
        derivatives: z -> (σ, σ', σ''), sharing what the three have in common.
        module: makes the equivalent ``nn.Module``.
        slopes: (left, right) of the kink at 0 if σ is linear on either side of it, else None.
        odd: σ(−z) = −σ(z).
        reflection: c with σ(−z) = c − σ(z), or None (sigmoid: 1; an odd function: 0).
        third_derivative: σ''' where it is known in closed form.
        analytic: whether σ is known to be analytic, on either side of its kink if it has one; of a user's
            function nothing is known, unless it is ``torch.atan`` or ``torch.erf``.
        image: where σ takes its values, if it is increasing and bounded; else None.
        range: the least and the largest value of σ where it does not rise for ever; else None.
        rise: where it grows; None if nothing is known.
        tail: how it fades to the left, if exponentially; else None.
        sup: bounds of |σ''| and of the third derivative for proofs; None if none are known.
        module_error: how far the ``nn.Module`` that counts as this one may be off.
        compiled: what the compiled engine calls it; None if it does not know it.

    >>> tanh = activation("tanh")
    >>> tanh.odd, tanh.homogeneous, tanh.tail
    (True, False, Tail(level=-1.0, size=2.0, rate=2.0))
    """

    name: str
    function: Callable[[Tensor], Tensor]
    derivatives: Callable[[Tensor], Derivatives] = field(compare=False)
    module: Callable[[], nn.Module] = field(compare=False)
    slopes: tuple[float, float] | None = None
    reflection: float | None = None
    third_derivative: Callable[[Tensor], Tensor] | None = field(default=None, compare=False)
    analytic: bool = True
    image: Image | None = None
    range: tuple[float, float] | None = None
    rise: Rise | None = None
    tail: Tail | None = None
    sup: Sup | None = None
    module_error: float = 0.0
    compiled: str | None = None

    def __post_init__(self) -> None:
        if not self.name.startswith("<"):
            _KNOWN.setdefault(self.name, self)

    @classmethod
    def define(cls, name: str, function: Callable[[Tensor], Tensor], **known: Any) -> Activation:
        """An activation of your own, which is known by its name from now on.

        Args:
            name: as networks and files are to have it.
            function: σ, elementwise; its derivatives are taken by automatic differentiation.
            known: what is known of it, by the attributes' names; ``derivatives`` and ``module``, too.

        Raises:
            InputError: if the name is one of the library's, or the function is not elementwise.

        >>> swoosh = Activation.define("swoosh", lambda z: z * torch.tanh(z))
        >>> import semiflat as sf
        >>> sf.MLP([1, 2, 1], "swoosh").activations
        (Activation(swoosh),)
        """
        if not isinstance(name, str) or not name or name.startswith("<"):
            raise InputError(f"an activation's name is a word to write into files, not {name!r}")
        if _of_the_library(name):
            raise InputError(
                f"semiflat has an activation {name!r} already; give yours another name"
            )
        unknown = known.keys() - {each.name for each in fields(cls)}
        if unknown:
            raise unknown_name(
                "attribute of an activation", min(unknown), [f.name for f in fields(cls)]
            )
        _KNOWN[name] = _differentiable(name, function, **known)
        return _KNOWN[name]

    @property
    def known(self) -> bool:
        """Whether its name stands for it: in files, and for the checker of certificates."""
        return known_activation(self.name) == self

    @property
    def linear(self) -> bool:
        """Whether σ(z) = z."""
        return self.slopes == (1.0, 1.0)

    @property
    def saturates(self) -> bool:
        """Whether it nears both ends of its image exponentially: far out it is a step."""
        return self.image is not None and self.image.rate is not None

    @property
    def bends(self) -> bool:
        """Whether it is smooth and nears 0 to the left and z to the right: far out it is a kink."""
        far = torch.tensor([-FAR, FAR], dtype=torch.float64)
        return self.smooth and bool(
            (self.function(far) - far.clamp(min=0)).abs().max() <= 1e-12 * FAR
        )

    def between(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of σ(z) for low ≤ z ≤ high.

        >>> low, high = activation("sin").between(torch.tensor([-9.0]), torch.tensor([0.0]))
        >>> float(low), float(high)
        (-1.0, 1.0)
        """
        if self.rise is None:
            ends = (-math.inf, math.inf) if self.range is None else self.range
            return torch.full_like(low, ends[0]), torch.full_like(high, ends[1])
        start, least = self.rise
        below = torch.full_like(low, least)
        return torch.where(low >= start, self.function(low), below), self.function(
            high.clamp(min=start)
        )

    @property
    def odd(self) -> bool:
        """Whether σ(−z) = −σ(z)."""
        return self.reflection == 0.0

    @property
    def homogeneous(self) -> bool:
        """Whether σ(βz) = βσ(z) for β > 0. True for the piecewise linear ones, which kink at 0."""
        return self.slopes is not None

    @property
    def smooth(self) -> bool:
        """Whether σ is twice differentiable everywhere."""
        return self.slopes is None or self.slopes[0] == self.slopes[1]

    def third(self, z: Tensor) -> Tensor:
        """σ'''(z), shaped like z; by differentiating σ'' where no closed form is known."""
        if self.third_derivative is not None:
            return self.third_derivative(z)
        with torch.enable_grad():
            at = z.detach().requires_grad_()
            bend = self.derivatives(at)[2]
            if not bend.requires_grad:
                return torch.zeros_like(z)
            return torch.autograd.grad(bend.sum(), at)[0]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By name where it is the library's, so that a copy from another process is the same object.
        if _of_the_library(self.name) and known_activation(self.name) is self:
            return activation, (self.name,)
        return super().__reduce_ex__(protocol)

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def __repr__(self) -> str:
        return f"Activation({self.name})"


EVERYWHERE = Rise(-math.inf, -math.inf)
STRAIGHT = Sup(0.0, 0.0)


def _tanh(z: Tensor) -> Derivatives:
    h = torch.tanh(z)
    # 1 − h² loses every digit once |h| rounds to 1, and a saturated unit would look dead; this form
    # keeps σ' accurate down to e^{−2|z|}.
    first = torch.cosh(z).reciprocal().square()
    return h, first, -2 * h * first


def _sigmoid(z: Tensor) -> Derivatives:
    h = torch.sigmoid(z)
    first = h * torch.sigmoid(-z)  # not h(1 − h), which loses a saturated unit's digits
    return h, first, first * (1 - 2 * h)


def _tanh_third(z: Tensor) -> Tensor:
    h, first, _ = _tanh(z)
    return first * (4 * h.square() - 2 * first)


def _sigmoid_third(z: Tensor) -> Tensor:
    h, first, second = _sigmoid(z)
    return second * (1 - 2 * h) - 2 * first.square()


def _softplus_third(z: Tensor) -> Tensor:
    return _sigmoid(z)[2]


def _softplus_function(z: Tensor) -> Tensor:
    # Above 40 the linear branch equals log(1 + e^z) to the last bit of float64; torch's default of
    # 20 is off by 2e-9 there.
    return functional.softplus(z, beta=1, threshold=40)


def _softplus(z: Tensor) -> Derivatives:
    first = torch.sigmoid(z)
    return _softplus_function(z), first, first * torch.sigmoid(-z)


def _gelu(z: Tensor) -> Derivatives:
    cumulative = torch.erfc(z * -math.sqrt(0.5)) / 2
    density = torch.exp(z.square() / -2) / math.sqrt(2 * math.pi)
    return z * cumulative, cumulative + z * density, density * (2 - z.square())


def _silu(z: Tensor) -> Derivatives:
    s, t = torch.sigmoid(z), torch.sigmoid(-z)
    return z * s, s * (1 + z * t), s * t * (2 + z * (t - s))


def _sin(z: Tensor) -> Derivatives:
    h = torch.sin(z)
    return h, torch.cos(z), -h


def _piecewise(left: float, right: float) -> Callable[[Tensor], Derivatives]:
    def derivatives(z: Tensor) -> Derivatives:
        # torch's own convention at the kink: the left slope.
        first = torch.where(z > 0, z.new_tensor(right), z.new_tensor(left))
        return first * z, first, torch.zeros_like(z)

    return derivatives


def leaky_relu(negative_slope: float = 0.01) -> Activation:
    """The leaky ReLU with a given slope left of 0.

    >>> leaky_relu(0.2).slopes
    (0.2, 1.0)
    """
    return _leaky_relu(float(negative_slope))


@cache
def _leaky_relu(negative_slope: float) -> Activation:
    name = "leaky_relu" if negative_slope == 0.01 else f"leaky_relu({negative_slope!r})"
    return Activation(
        name,
        lambda z: functional.leaky_relu(z, negative_slope),
        _piecewise(negative_slope, 1.0),
        lambda: nn.LeakyReLU(negative_slope),
        slopes=(negative_slope, 1.0),
        rise=EVERYWHERE if negative_slope >= 0 else None,
        sup=STRAIGHT,
        compiled="piecewise",
    )


BUILT_IN = (
    Activation(
        "tanh",
        torch.tanh,
        _tanh,
        nn.Tanh,
        reflection=0.0,
        third_derivative=_tanh_third,
        image=logistic(-1.0, 1.0, 2.0),
        rise=EVERYWHERE,
        tail=Tail(-1.0, 2.0, 2.0),
        sup=Sup(0.77, 2.0),
        compiled="tanh",
    ),
    Activation(
        "sigmoid",
        torch.sigmoid,
        _sigmoid,
        nn.Sigmoid,
        reflection=1.0,
        third_derivative=_sigmoid_third,
        image=logistic(0.0, 1.0, 1.0),
        rise=EVERYWHERE,
        tail=Tail(0.0, 1.0, 1.0),
        sup=Sup(0.0963, 0.125),
        compiled="sigmoid",
    ),
    Activation(
        "softplus",
        _softplus_function,
        _softplus,
        lambda: nn.Softplus(1, 40),
        third_derivative=_softplus_third,
        rise=EVERYWHERE,
        tail=Tail(0.0, 1.0, 1.0),
        sup=Sup(0.25, 0.0963),
        module_error=3e-9,  # torch's own default cuts it off at 20
        compiled="softplus",
    ),
    # Their minima are −0.16997… and −0.27846…
    Activation(
        "gelu",
        functional.gelu,
        _gelu,
        nn.GELU,
        rise=Rise(0.0, -0.17),
        sup=Sup(0.798, 0.8),
        compiled="gelu",
    ),
    Activation(
        "silu",
        functional.silu,
        _silu,
        nn.SiLU,
        rise=Rise(0.0, -0.2785),
        sup=Sup(0.5, 0.31),
        compiled="silu",
    ),
    Activation(
        "sin",
        torch.sin,
        _sin,
        lambda: Elementwise(torch.sin, "sin"),
        reflection=0.0,
        range=(-1.0, 1.0),
        sup=Sup(1.0, 1.0),
        compiled="sin",
    ),
    Activation(
        "relu",
        torch.relu,
        _piecewise(0.0, 1.0),
        nn.ReLU,
        slopes=(0.0, 1.0),
        rise=EVERYWHERE,
        sup=STRAIGHT,
        compiled="piecewise",
    ),
    leaky_relu(0.01),
    Activation(
        "identity",
        lambda z: z,
        _piecewise(1.0, 1.0),
        nn.Identity,
        slopes=(1.0, 1.0),
        reflection=0.0,
        rise=EVERYWHERE,
        sup=STRAIGHT,
        compiled="piecewise",
    ),
)

ACTIVATIONS: tuple[str, ...] = tuple(each.name for each in BUILT_IN)
"""The names of the activations that come with the library."""

_CLASS_A = (
    (torch.atan, ATAN),
    (torch.arctan, ATAN),
    (torch.erf, ERF),
    (torch.special.erf, ERF),
)
"""Functions without a name here of which it is known that they are odd, analytic and bounded."""


def _from_callable(function: Callable[[Tensor], Tensor]) -> Activation:
    name = f"<callable {getattr(function, '__name__', type(function).__name__)}>"
    image = next((known for each, known in _CLASS_A if each is function), None)
    if image is None:
        return _differentiable(name, function, analytic=False)
    return _differentiable(name, function, reflection=0.0, image=image, rise=EVERYWHERE)


def _differentiable(name: str, function: Callable[[Tensor], Tensor], **known: Any) -> Activation:
    """An activation whose derivatives are taken by automatic differentiation."""
    probe = torch.linspace(-1.5, 2.0, 7, dtype=torch.float64)
    try:
        whole = function(probe)
        single = torch.stack([function(z) for z in probe])
    except Exception as error:
        raise InputError(
            f"activation {name} failed on a float64 tensor: {error}; expected an elementwise "
            "function of one tensor"
        ) from error
    if whole.shape != probe.shape or not torch.allclose(whole, single, rtol=1e-12, atol=1e-300):
        raise InputError(
            f"activation {name} is not elementwise: applied to 7 numbers at once and one by one "
            "it gives different results; expected f(z)[i] to depend on z[i] alone"
        )
    made: dict[str, Any] = {
        "derivatives": partial(_differentiated, function),
        "module": partial(Elementwise, function, name),
        "third_derivative": partial(_third, function),
    }
    return Activation(name, function, **made | known)


def _differentiated(function: Callable[[Tensor], Tensor], z: Tensor) -> Derivatives:
    h, first, second = _derived(function, z, 2)
    return h, first, second


def _third(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    return _derived(function, z, 3)[3]


def _derived(function: Callable[[Tensor], Tensor], z: Tensor, times: int) -> list[Tensor]:
    with torch.enable_grad():
        at = z.detach().requires_grad_()
        found = [function(at)]
        for left in reversed(range(times)):
            slope = None  # of a function that is constant by now
            if found[-1].requires_grad:
                (slope,) = torch.autograd.grad(
                    found[-1].sum(), at, create_graph=left > 0, allow_unused=True
                )
            found.append(torch.zeros_like(z) if slope is None else slope)
    return [each.detach() for each in found]


def _of_the_library(name: str) -> bool:
    return name in ACTIVATIONS or name.startswith("leaky_relu(")


def known_activation(name: str) -> Activation | None:
    """The activation of that name, or None."""
    if name.startswith("leaky_relu(") and name.endswith(")"):
        try:
            slope = float(name[len("leaky_relu(") : -1])
        except ValueError:
            slope = math.nan
        return leaky_relu(slope) if math.isfinite(slope) else None
    return _KNOWN.get(name)


def activation(given: str | Activation | Callable[[Tensor], Tensor]) -> Activation:
    """The activation of that name, or one made from an elementwise function.

    A function's derivatives are taken by automatic differentiation and it is treated as smooth.

    Raises:
        InputError: for an unknown name, or a function that is not elementwise.

    >>> activation("tanh").odd
    True
    >>> h, first, second = activation(lambda z: z**3).derivatives(torch.tensor([2.0]))
    >>> float(first), float(second)
    (12.0, 12.0)
    """
    if isinstance(given, Activation):
        return given
    if isinstance(given, str):
        known = known_activation(given)
        if known is None:
            raise unknown_name("activation", given, _KNOWN)
        return known
    if callable(given):
        return _from_callable(given)
    raise InputError(
        f"activation must be a name or an elementwise function, not {given!r}. "
        f"Known names: {', '.join(_KNOWN)}"
    )


def activation_of_module(module: nn.Module) -> Activation | None:
    """The activation that an ``nn.Module`` computes, or None if it is not one of those known."""
    match module:
        case nn.Tanh():
            return _KNOWN["tanh"]
        case nn.Sigmoid():
            return _KNOWN["sigmoid"]
        case nn.Softplus() if module.beta == 1 and module.threshold >= 20:
            return _KNOWN["softplus"]
        case nn.GELU() if module.approximate == "none":
            return _KNOWN["gelu"]
        case nn.SiLU():
            return _KNOWN["silu"]
        case nn.ReLU():
            return _KNOWN["relu"]
        case nn.LeakyReLU():
            return leaky_relu(module.negative_slope)
        case nn.Identity():
            return _KNOWN["identity"]
        case Elementwise():
            return activation(module.name if module.name in _KNOWN else module.function)
        case _:
            return None
