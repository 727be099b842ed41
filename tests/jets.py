"""The risk of a network and its derivatives to 60 digits, from arithmetic on numbers with a memory.

It imports nothing of semiflat and knows no formula of a network's gradient or Hessian. A forward pass
is made of sums, products, reciprocals, exp, log(1 + x), sin and erfc; each result remembers what it
was made from and its partial derivatives in that, to second order. One sweep back gives a gradient;
one sweep forth and one back, a column of the Hessian. All that mathematics can say of the network
otherwise (a sigmoid's slope, a softmax's Hessian) comes out of these.

Numbers have ``PRECISION`` bits, or ``mpmath.mp.prec`` if that is more. Functions are written so that
tails keep their digits too: an e^−500 in a loss or a slope is right to all bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from mpmath import mp

if TYPE_CHECKING:
    import semiflat as sf

PRECISION = 200
"""Bits of every number; 2^−200 is 6e−61."""

Real = Any
"""A float, an int, a Fraction or an mpf."""


# -- what is asked for ------------------------------------------------------------------------------


def risk(
    net: sf.MLP,
    params: Sequence[Real],
    X: Sequence[Sequence[Real]],
    y: Sequence[Any],
    loss: str,
    weight_decay: Real = 0,
) -> mp.mpf:
    """``mean ℓ(f(x), y) + ½ weight_decay ‖θ‖²``.

    Args:
        net: of its attributes, the widths, the activations' names and the biases are read.
        params: all parameters in the order of the state dict, weights row by row.
        X, y: one row and one target a sample; targets are numbers, rows of them, or classes.
        loss: ``"squared"``, ``"cross_entropy"`` or ``"logistic"``.
        weight_decay: of all parameters, biases included.
    """
    with _precise():
        return _Risk(net, params, X, y, loss, weight_decay).total.value


def gradient_entries(
    net: sf.MLP,
    params: Sequence[Real],
    X: Sequence[Sequence[Real]],
    y: Sequence[Any],
    loss: str,
    indices: Sequence[int],
    weight_decay: Real = 0,
) -> list[mp.mpf]:
    """``∂R/∂θ_i`` for each i of ``indices``; one sweep for any number of them."""
    with _precise():
        total = _Risk(net, params, X, y, loss, weight_decay).total
        slopes = total.tape.slopes(total.place)
        return [mp.mpf(slopes[_leaf(i, params)]) for i in indices]


def hessian_entries(
    net: sf.MLP,
    params: Sequence[Real],
    X: Sequence[Sequence[Real]],
    y: Sequence[Any],
    loss: str,
    pairs: Sequence[tuple[int, int]],
    weight_decay: Real = 0,
) -> list[mp.mpf]:
    """``∂²R/∂θ_i∂θ_j`` for each (i, j) of ``pairs``.

    Time goes with the number of columns that hold them. A pair's column is that of i or j, whichever
    is in more pairs, so one row of the Hessian costs no more than one column.
    """
    with _precise():
        total = _Risk(net, params, X, y, loss, weight_decay).total
        leaves = [(_leaf(i, params), _leaf(j, params)) for i, j in pairs]
        wanted = Counter(leaf for pair in leaves for leaf in set(pair))
        chosen = [(i, j) if wanted[j] >= wanted[i] else (j, i) for i, j in leaves]
        bends = total.tape.bends(total.place)
        columns = {j: total.tape.column(bends, j) for j in {j for _, j in chosen}}
        return [mp.mpf(columns[j][i]) for i, j in chosen]


def outputs(net: sf.MLP, params: Sequence[Real], X: Sequence[Sequence[Real]]) -> list[list[mp.mpf]]:
    """``f(x)`` of every sample."""
    with _precise():
        layers = _layers(net, _Tape(), params)
        return [[f.value for f in _forward(net, layers, x)] for x in X]


# -- numbers that remember --------------------------------------------------------------------------


class _Tape:
    """How every number was made, in the order of making: ``∂/∂i`` and ``∂²/∂i∂j`` in its parents."""

    def __init__(self) -> None:
        self.first: list[tuple[tuple[int, Real], ...]] = []
        self.second: list[tuple[tuple[int, int, Real], ...]] = []

    def number(
        self,
        value: mp.mpf,
        first: tuple[tuple[int, Real], ...] = (),
        second: tuple[tuple[int, int, Real], ...] = (),
    ) -> _Number:
        self.first.append(first)
        self.second.append(second)
        return _Number(self, len(self.first) - 1, value)

    def slopes(self, of: int) -> list[Real]:
        """``∂ of/∂k`` for every number k."""
        slopes: list[Real] = [0] * len(self.first)
        slopes[of] = mp.one
        for k in reversed(range(of + 1)):
            if slope := slopes[k]:
                for i, partial in self.first[k]:
                    slopes[i] += slope * partial
        return slopes

    def bends(self, of: int) -> list[list[tuple[int, int, Real]]]:
        """For every number k the second derivatives in its parents, times ``∂ of/∂k``."""
        return [
            [(i, j, slope * partial) for i, j, partial in second] if slope else []
            for slope, second in zip(self.slopes(of), self.second, strict=True)
        ]

    def column(self, bends: list[list[tuple[int, int, Real]]], leaf: int) -> list[Real]:
        """The derivative of all slopes along ``leaf``: row k holds ``∂² of/∂k ∂leaf`` for leaves k."""
        size = len(self.first)
        along: list[Real] = [0] * size  # ∂k/∂leaf
        along[leaf] = mp.one
        for k in range(leaf + 1, size):
            for i, partial in self.first[k]:
                if along[i]:
                    along[k] += partial * along[i]
        column: list[Real] = [0] * size
        for k in reversed(range(size)):
            if change := column[k]:
                for i, partial in self.first[k]:
                    column[i] += change * partial
            for i, j, bend in bends[k]:
                if along[j]:
                    column[i] += bend * along[j]
        return column


class _Number:
    """A number on a tape; with a plain mpf as the other operand that one is a constant."""

    __slots__ = ("place", "tape", "value")

    def __init__(self, tape: _Tape, place: int, value: mp.mpf) -> None:
        self.tape, self.place, self.value = tape, place, value

    def __add__(self, other: _Number | mp.mpf) -> _Number:
        if isinstance(other, _Number):
            return self.tape.number(self.value + other.value, ((self.place, 1), (other.place, 1)))
        return self.tape.number(self.value + other, ((self.place, 1),))

    def __sub__(self, other: _Number | mp.mpf) -> _Number:
        if isinstance(other, _Number):
            return self.tape.number(self.value - other.value, ((self.place, 1), (other.place, -1)))
        return self.tape.number(self.value - other, ((self.place, 1),))

    def __mul__(self, other: _Number | mp.mpf) -> _Number:
        if isinstance(other, _Number):
            i, j = self.place, other.place
            first = ((i, other.value), (j, self.value))
            return self.tape.number(self.value * other.value, first, ((i, j, 1), (j, i, 1)))
        return self.tape.number(self.value * other, ((self.place, other),))

    def __neg__(self) -> _Number:
        return self.tape.number(-self.value, ((self.place, -1),))

    def through(self, value: mp.mpf, first: mp.mpf, second: mp.mpf) -> _Number:
        """A function of this number alone, by its value and derivatives here."""
        i = self.place
        return self.tape.number(value, ((i, first),), ((i, i, second),))


def _reciprocal(z: _Number) -> _Number:
    r = 1 / z.value
    return z.through(r, -(r**2), 2 * r**3)


def _exp(z: _Number) -> _Number:
    e = mp.exp(z.value)
    return z.through(e, e, e)


def _log1p(z: _Number) -> _Number:
    r = 1 / (1 + z.value)
    return z.through(mp.log1p(z.value), r, -(r**2))


def _sin(z: _Number) -> _Number:
    sine = mp.sin(z.value)
    return z.through(sine, mp.cos(z.value), -sine)


def _erfc(z: _Number) -> _Number:
    first = -2 * mp.exp(-(z.value**2)) / mp.sqrt(mp.pi)
    return z.through(mp.erfc(z.value), first, -2 * z.value * first)


# -- activations and losses out of them -------------------------------------------------------------


def _tanh(z: _Number) -> _Number:
    return -(_reciprocal(_exp(z + z) + mp.one) * mp.mpf(2)) + mp.one


def _sigmoid(z: _Number) -> _Number:
    return _reciprocal(_exp(-z) + mp.one)


def _softplus(z: _Number) -> _Number:
    # Two ways to write one function; e^z stays at most 1, so that nothing cancels in derivatives.
    return z + _log1p(_exp(-z)) if z.value > 0 else _log1p(_exp(z))


def _gelu(z: _Number) -> _Number:
    return z * _erfc(z * -mp.sqrt(mp.mpf(1) / 2)) * mp.mpf(0.5)


def _kinked(left: Real) -> Callable[[_Number], _Number]:
    # At 0 the left slope, as torch has it.
    return lambda z: z if z.value > 0 else z * _exact(left)


def _activation(name: str) -> Callable[[_Number], _Number]:
    if name.startswith("leaky_relu("):
        return _kinked(float(name.removeprefix("leaky_relu(").removesuffix(")")))
    return {
        "tanh": _tanh,
        "sigmoid": _sigmoid,
        "softplus": _softplus,
        "sin": _sin,
        "gelu": _gelu,
        "silu": lambda z: z * _sigmoid(z),
        "identity": lambda z: z,
        "relu": _kinked(0),
        "leaky_relu": _kinked(0.01),
    }[name]


def _squared(f: list[_Number], y: Any) -> _Number:
    errors = [each - target for each, target in zip(f, _row(y), strict=True)]
    return _sum([error * error for error in errors]) * mp.mpf(0.5)


def _logistic(f: list[_Number], y: Any) -> _Number:
    # log(1 + e^f) − yf is y log(1 + e^−f) + (1 − y) log(1 + e^f), which is right for hard targets too.
    terms = []
    for each, target in zip(f, _row(y), strict=True):
        terms.append(_softplus(-each) * target + _softplus(each) * (1 - target))
    return _sum(terms)


def _cross_entropy(f: list[_Number], y: Any) -> _Number:
    # log Σ e^f = f_top + log(1 + Σ_(k ≠ top) e^(f_k − f_top)), for any choice of top.
    chosen = int(y)
    if chosen != y or not 0 <= chosen < len(f):
        raise ValueError(f"{y!r} is no class of {len(f)}")
    top = max(range(len(f)), key=lambda k: f[k].value)
    others = [_exp(each - f[top]) for k, each in enumerate(f) if k != top]
    excess = _log1p(_sum(others)) if others else f[top] * mp.zero
    return excess if top == chosen else f[top] - f[chosen] + excess


_LOSSES = {"squared": _squared, "cross_entropy": _cross_entropy, "logistic": _logistic}


# -- the network ------------------------------------------------------------------------------------

_Layer = tuple[list[list[_Number]], list[_Number] | None]


class _Risk:
    """The risk as a number that remembers the parameters, which are the first on its tape."""

    def __init__(
        self,
        net: sf.MLP,
        params: Sequence[Real],
        X: Sequence[Sequence[Real]],
        y: Sequence[Any],
        loss: str,
        weight_decay: Real,
    ) -> None:
        layers = _layers(net, _Tape(), params)
        losses = [
            _LOSSES[loss](_forward(net, layers, x), target) for x, target in zip(X, y, strict=True)
        ]
        self.total = _sum(losses) * (mp.one / len(losses))
        if weight_decay:
            squares = [
                entry * entry
                for weight, bias in layers
                for row in [*weight, bias or []]
                for entry in row
            ]
            self.total = self.total + _sum(squares) * (_exact(weight_decay) / 2)


def _layers(net: sf.MLP, tape: _Tape, params: Sequence[Real]) -> list[_Layer]:
    """Weight rows and biases of every linear layer."""
    fan_in = [net.widths[k] + bool(bias) for k, bias in enumerate(net.biases)]
    count = sum(wide * out for wide, out in zip(fan_in, net.widths[1:], strict=True))
    if len(params) != count:
        raise ValueError(f"{len(params)} parameters for a network with {count}")
    rest = iter([tape.number(_exact(param)) for param in params])
    layers: list[_Layer] = []
    for k, biased in enumerate(net.biases):
        weight = [[next(rest) for _ in range(net.widths[k])] for _ in range(net.widths[k + 1])]
        layers.append((weight, [next(rest) for _ in weight] if biased else None))
    return layers


def _forward(net: sf.MLP, layers: list[_Layer], x: Sequence[Real]) -> list[_Number]:
    h: list[Any] = [_exact(entry) for entry in x]
    for k, (weight, bias) in enumerate(layers):
        h = [_sum([w * entry for w, entry in zip(row, h, strict=True)]) for row in weight]
        if bias is not None:
            h = [z + b for z, b in zip(h, bias, strict=True)]
        if k < len(net.activations):
            sigma = _activation(net.activations[k].name)
            h = [sigma(z) for z in h]
    return h


def _sum(numbers: list[_Number]) -> _Number:
    total = numbers[0]
    for number in numbers[1:]:
        total = total + number
    return total


def _leaf(index: int, params: Sequence[Real]) -> int:
    if not 0 <= index < len(params):
        raise IndexError(f"no parameter {index} among {len(params)}")
    return int(index)


def _row(y: Any) -> list[mp.mpf]:
    return [_exact(target) for target in y] if isinstance(y, list | tuple) else [_exact(y)]


def _exact(number: Real) -> mp.mpf:
    """The number to all bits at hand: floats as they are, fractions by one division."""
    if isinstance(number, Fraction):
        return mp.mpf(number.numerator) / number.denominator
    if isinstance(number, mp.mpf):
        return number  # with all its bits, however many
    if isinstance(number, int):
        return mp.mpf(number)
    return mp.mpf(float(number))  # NumPy's and torch's scalars too


@contextmanager
def _precise() -> Iterator[None]:
    with mp.workprec(max(PRECISION, mp.prec)):
        yield
