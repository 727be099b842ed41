"""The risk of a small network and its derivatives in 320-bit arithmetic, apart from semiflat.

Nothing of semiflat is imported. A :class:`Case` is a network, data, a loss and parameters as plain
numbers, and a :class:`Landscape` its risk. python-flint does the arithmetic; its error balls are not
relied on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import flint
import numpy as np
from flint import arb, arb_mat

flint.ctx.prec = 320

Array = np.ndarray[Any, Any]

_HALF, _ONE = arb(1) / 2, arb(1)


def _tanh(z: arb) -> tuple[arb, arb, arb]:
    h = z.tanh()
    slope = 1 - h * h
    return h, slope, -2 * h * slope


def _sigmoid(z: arb) -> tuple[arb, arb, arb]:
    p = 1 / (1 + (-z).exp())
    slope = p * (1 - p)
    return p, slope, slope * (1 - 2 * p)


def _softplus(z: arb) -> tuple[arb, arb, arb]:
    p, slope, _ = _sigmoid(z)
    return z.exp().log1p(), p, slope


def _silu(z: arb) -> tuple[arb, arb, arb]:
    p, first, second = _sigmoid(z)
    return z * p, p + z * first, 2 * first + z * second


def _gelu(z: arb) -> tuple[arb, arb, arb]:
    below = (-z * _HALF.sqrt()).erfc() / 2
    density = (-z * z / 2).exp() / (2 * arb.pi()).sqrt()
    return z * below, below + z * density, density * (2 - z * z)


def _sin(z: arb) -> tuple[arb, arb, arb]:
    h = z.sin()
    return h, z.cos(), -h


def _bump(z: arb) -> tuple[arb, arb, arb]:
    e = (-z * z / 2).exp()
    return z * e, (1 - z * z) * e, z * (z * z - 3) * e


def _arctan(z: arb) -> tuple[arb, arb, arb]:
    slope = 1 / (1 + z * z)
    return z.atan(), slope, -2 * z * slope * slope


SMOOTH: dict[str, Callable[[arb], tuple[arb, arb, arb]]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "silu": _silu,
    "gelu": _gelu,
    "sin": _sin,
    "bump": _bump,
    "arctan": _arctan,
}
SLOPES = {"relu": (0.0, 1.0), "leaky_relu": (0.01, 1.0), "identity": (1.0, 1.0)}
KINKED = ("relu", "leaky_relu")

Sample = tuple[arb, list[arb], list[list[arb]]]
"""ℓ, its gradient and its Hessian in the outputs."""


def _diagonal(entries: list[arb]) -> list[list[arb]]:
    return [[e if i == k else arb(0) for k in range(len(entries))] for i, e in enumerate(entries)]


def _squared(f: list[arb], y: list[arb]) -> Sample:
    r = [a - b for a, b in zip(f, y, strict=True)]
    return sum((a * a for a in r), arb(0)) / 2, r, _diagonal([_ONE] * len(r))


def _logistic(f: list[arb], y: list[arb]) -> Sample:
    parts = [_softplus(a) for a in f]
    value = sum((p[0] - b * a for p, a, b in zip(parts, f, y, strict=True)), arb(0))
    return (
        value,
        [p[1] - b for p, b in zip(parts, y, strict=True)],
        _diagonal([p[2] for p in parts]),
    )


def _soft_cross_entropy(f: list[arb], y: list[arb]) -> Sample:
    powers = [a.exp() for a in f]
    total = sum(powers, arb(0))
    p = [a / total for a in powers]
    value = total.log() - sum((a * b for a, b in zip(f, y, strict=True)), arb(0))
    bend = [[(a if i == k else 0) - a * b for k, b in enumerate(p)] for i, a in enumerate(p)]
    return value, [a - b for a, b in zip(p, y, strict=True)], bend


def _cauchy(f: list[arb], y: list[arb]) -> Sample:
    r = [a - b for a, b in zip(f, y, strict=True)]
    square = sum((a * a for a in r), arb(0))
    w = 1 / (1 + square)
    bend = [
        [(2 * w if i == k else 0) - 4 * a * b * w * w for k, b in enumerate(r)]
        for i, a in enumerate(r)
    ]
    return square.log1p(), [2 * a * w for a in r], bend


def _huber(f: list[arb], y: list[arb]) -> Sample:
    r = [a - b for a, b in zip(f, y, strict=True)]
    roots = [(1 + a * a).sqrt() for a in r]
    value = sum((root - 1 for root in roots), arb(0))
    slopes = [a / root for a, root in zip(r, roots, strict=True)]
    return value, slopes, _diagonal([1 / root**3 for root in roots])


LOSSES: dict[str, Callable[[list[arb], list[arb]], Sample]] = {
    "squared": _squared,
    "logistic": _logistic,
    "cross_entropy": _soft_cross_entropy,  # a class stands there as its one-hot target
    "soft_cross_entropy": _soft_cross_entropy,
    "cauchy": _cauchy,
    "huber": _huber,
}


@dataclass
class Case:
    """A point of a risk landscape in plain numbers, enough to run it again.

    Attributes:
        params: one number a parameter, layer by layer, weights row by row and then the bias.
        unit: the natural size of a change of each parameter, to which distances are relative.
    """

    widths: list[int]
    activations: list[str]
    biases: list[bool]
    loss: str
    X: list[list[float]]
    y: list[Any]
    decay: float
    params: list[float]
    unit: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.unit = self.unit or [1.0] * len(self.params)

    def moved(self, params: list[float]) -> Case:
        """The same landscape at other parameters."""
        return Case(**{**asdict(self), "params": params})


class Landscape:
    """The risk of a case and its derivatives, one piece of it where the activation has kinks."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.X = balls(case.X)
        self.y = [[arb(v) for v in row] for row in _target_rows(case)]
        self.pattern: list[Array] | None = None
        self.size = len(case.params)
        self.decay = arb(case.decay)

    @cached_property
    def layout(self) -> list[tuple[Array, Array | None]]:
        """Where each layer's weights and biases stand among the parameters."""
        places, at = [], 0
        widths = self.case.widths
        for below, above, bias in zip(widths, widths[1:], self.case.biases, strict=False):
            weights = np.arange(at, at + below * above).reshape(above, below)
            at += below * above
            places.append((weights, np.arange(at, at + above) if bias else None))
            at += above if bias else 0
        return places

    def pre_activations(self, params: Array) -> list[Array]:
        """z of each hidden layer, (N, width), and the outputs."""
        h, found = self.X, []
        for layer, (weights, bias) in enumerate(self.layout):
            z = h @ params[weights].T
            z = z + params[bias] if bias is not None else z
            found.append(z)
            if layer < len(self.case.activations):
                h = self._respond(layer, z)[0]
        return found

    def fix_pattern(self, params: Array) -> None:
        """From now on the piece in which ``params`` lies (0 counts to the left)."""
        self.pattern = None
        self.pattern = [
            np.array([[bool(v > 0) for v in row] for row in z])
            for z in self.pre_activations(params)[:-1]
        ]

    def kinks(self, params: Array) -> list[float]:
        """How far into its piece each pre-activation of a kinked unit is, negative beyond.

        Pre-activations that no parameter moves are left out.
        """
        assert self.pattern is not None
        margins = []
        for layer, (z, row) in enumerate(
            zip(self.pre_activations(params), self.rows(params)[0], strict=True)
        ):
            if layer < len(self.case.activations) and self.case.activations[layer] in KINKED:
                for n, i in np.ndindex(*z.shape):
                    if any(not e.is_zero() for e in row[n, i]):
                        inside = z[n, i] if self.pattern[layer][n, i] else -z[n, i]
                        margins.append(float(inside))
        return margins

    def _respond(self, layer: int, z: Array) -> tuple[Array, Array, Array]:
        name = self.case.activations[layer]
        h, first, second = (np.empty(z.shape, dtype=object) for _ in range(3))
        for at in np.ndindex(*z.shape):
            if name in SLOPES:
                right = self.pattern[layer][at] if self.pattern is not None else bool(z[at] > 0)
                slope = arb(SLOPES[name][1 if right else 0])
                h[at], first[at], second[at] = slope * z[at], slope, arb(0)
            else:
                h[at], first[at], second[at] = SMOOTH[name](z[at])
        return h, first, second

    def rows(self, params: Array) -> tuple[list[Array], list[tuple[Array, Array, Array]]]:
        """∂z/∂θ of each layer, (N, width, P), and what it responds."""
        h, moves = self.X, None
        gradients, responses = [], []
        for layer, (weights, bias) in enumerate(self.layout):
            z = h @ params[weights].T
            z = z + params[bias] if bias is not None else z
            samples, above = z.shape
            row = np.full((samples, above, self.size), arb(0), dtype=object)
            if moves is not None:
                row = row + np.einsum("ij,njp->nip", params[weights], moves)
            for i in range(above):
                row[:, i, weights[i]] = row[:, i, weights[i]] + h
                if bias is not None:
                    row[:, i, bias[i]] = row[:, i, bias[i]] + 1
            gradients.append(row)
            if layer < len(self.case.activations):
                response = self._respond(layer, z)
                responses.append(response)
                h, moves = response[0], response[1][:, :, None] * row
            else:
                responses.append((z, z, z))
        return gradients, responses

    def risk(self, params: Array) -> arb:
        """R, decay included."""
        outputs = self.pre_activations(params)[-1]
        losses = [
            LOSSES[self.case.loss](list(f), y)[0] for f, y in zip(outputs, self.y, strict=True)
        ]
        total = sum(losses, arb(0)) / len(losses)
        return total + self.decay / 2 * sum((p * p for p in params), arb(0))

    def derivatives(self, params: Array, second: bool = True) -> tuple[Array, arb_mat | None]:
        """∇R and ∇²R: gradients forward, the loss's slopes backward, and outer products of the two."""
        gradients, responses = self.rows(params)
        samples = len(self.y)
        parts = [
            LOSSES[self.case.loss](list(f), y)
            for f, y in zip(responses[-1][0], self.y, strict=True)
        ]
        pull = np.array([part[1] for part in parts], dtype=object) / samples
        gradient = np.einsum("nm,nmp->p", pull, gradients[-1]) + self.decay * params
        if not second:
            return gradient, None
        left, right = [], []
        for n, (_, _, bend) in enumerate(parts):
            for k, row in enumerate(bend):
                left.append(gradients[-1][n, k])
                right.append(
                    sum(((b / samples) * gradients[-1][n, m] for m, b in enumerate(row)), arb(0))
                )
        crossed = np.full((self.size, self.size), arb(0), dtype=object)
        for layer in reversed(range(len(self.case.activations))):
            weights = self.layout[layer + 1][0]
            _, slope, bent = responses[layer]
            # A weight above times what moves the unit below it: the bilinear part.
            moved = slope[:, :, None] * gradients[layer]
            crossed[weights] = crossed[weights] + np.einsum("ni,njp->ijp", pull, moved)
            pull = pull @ params[weights]
            weight = pull * bent
            for n, i in np.ndindex(*weight.shape):
                if not weight[n, i].is_zero():
                    left.append(gradients[layer][n, i])
                    right.append(weight[n, i] * gradients[layer][n, i])
            pull = pull * slope
        outer = matrix(np.array(left, dtype=object)).transpose() * matrix(
            np.array(right, dtype=object)
        )
        hessian = outer + matrix(crossed + crossed.T + np.diag([self.decay] * self.size))
        return gradient, hessian.mid()


def _target_rows(case: Case) -> list[list[float]]:
    if case.loss == "cross_entropy":
        return [[float(k == int(v)) for k in range(case.widths[-1])] for v in case.y]
    return case.y


def balls(rows: Any) -> Array:
    given = np.asarray(rows, dtype=float)
    found = np.empty(given.shape, dtype=object)
    for at in np.ndindex(*given.shape):
        found[at] = arb(float(given[at]))
    return found


def matrix(rows: Array) -> arb_mat:
    return arb_mat(rows.shape[0], rows.shape[1], list(rows.ravel()))


def floats(values: Any) -> Array:
    return np.array([float(v) for v in values])


def mids(values: Any) -> Array:
    return np.array([v.mid() for v in values], dtype=object)
