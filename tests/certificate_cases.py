"""Random networks in boxes, and what is true of a certified point to 60 digits.

Entries of gradients and Hessians come from tests/jets.py; a certificate is read as a stranger would:
hexadecimal numbers, exact sums of them, and the order of rows [W, b] written out here once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

import torch
from mpmath import mp

import jets
import semiflat as sf
from semiflat.certificates.checker.balls import Network

SIGMAS = "tanh", "sigmoid", "softplus", "gelu", "silu", "sin", "identity", "relu", "leaky_relu"
LOSSES = "squared", "cross_entropy", "logistic"
BITS = 200
EXACT = 2000  # bits that hold sums and products of a few float64 numbers of any size whole


# -- a risk, its parameters in rows -----------------------------------------------------------------


def places(net: sf.MLP) -> list[int]:
    """For each parameter of the state dict its place among the rows [W, b], layer after layer."""
    order, start = [], 0
    for layer, bias in enumerate(net.biases):
        fan, out = net.widths[layer] + bias, net.widths[layer + 1]
        rows = [[start + row * fan + j for j in range(fan)] for row in range(out)]
        order += [place for row in rows for place in row[: net.widths[layer]]]
        order += [row[-1] for row in rows if bias]
        start += fan * out
    return order


@dataclass(frozen=True)
class Risk:
    """A risk as tests/jets.py takes it, with parameters and indices in rows [W, b]."""

    net: sf.MLP
    X: list[list[float]]
    y: list[Any]
    loss: str
    decay: float = 0.0

    @classmethod
    def of(cls, problem: sf.Problem) -> Risk:
        """That of a problem."""
        X, y = problem.X.tolist(), problem.y.tolist()
        return cls(problem.net, X, y, problem.loss.name, problem.weight_decay)

    @property
    def network(self) -> Network:
        """The same for the checker."""
        names = [each.name for each in self.net.activations]
        targets = [list(map(float, y)) if isinstance(y, list) else [float(y)] for y in self.y]
        widths, biases = list(self.net.widths), list(self.net.biases)
        return Network(widths, names, biases, self.loss, self.decay, self.X, targets)

    @property
    def size(self) -> int:
        """Number of parameters."""
        return len(places(self.net))

    def value(self, theta: Sequence[Any]) -> mp.mpf:
        """R."""
        return jets.risk(self.net, self._flat(theta), self.X, self.y, self.loss, self.decay)

    def gradient(self, theta: Sequence[Any]) -> list[mp.mpf]:
        """∇R."""
        flat = self._flat(theta)
        at = [self._index[i] for i in range(len(flat))]
        return jets.gradient_entries(self.net, flat, self.X, self.y, self.loss, at, self.decay)

    def hessian(self, theta: Sequence[Any], pairs: Iterable[tuple[int, int]]) -> list[mp.mpf]:
        """Entries of ∇²R."""
        at = [(self._index[i], self._index[j]) for i, j in pairs]
        flat = self._flat(theta)
        return jets.hessian_entries(self.net, flat, self.X, self.y, self.loss, at, self.decay)

    def whole_hessian(self, theta: Sequence[Any], kept: Sequence[int]) -> mp.matrix:
        """∇²R in the parameters kept."""
        pairs = [(i, j) for j in kept for i in kept]
        entries = iter(self.hessian(theta, pairs))
        H = mp.matrix(len(kept))
        for j in range(len(kept)):
            for i in range(len(kept)):
                H[i, j] = next(entries)
        return H

    def _flat(self, theta: Sequence[Any]) -> list[Any]:
        return [theta[place] for place in places(self.net)]

    @property
    def _index(self) -> dict[int, int]:
        return {place: k for k, place in enumerate(places(self.net))}


# -- random ones ------------------------------------------------------------------------------------


def random_risk(
    rng: Random, sigma: str, loss: str, hidden: int, decay: bool = True
) -> tuple[Risk, list[float]]:
    """1–3 units a layer, biases or none layer by layer, and parameters of all sizes near 1."""
    widths = [rng.randint(1, 3) for _ in range(hidden + 2)]
    widths[-1] = max(widths[-1], 1 + (loss == "cross_entropy"))
    sigmas = [sigma if k == 0 or rng.random() < 0.6 else rng.choice(SIGMAS) for k in range(hidden)]
    biases = [rng.random() < 0.7 for _ in range(hidden + 1)]
    samples = rng.randint(1, 4)
    size = 10 ** rng.uniform(-1, 0.7)
    X = [[size * rng.gauss(0, 1) for _ in range(widths[0])] for _ in range(samples)]
    y: list[Any] = [rng.randrange(widths[-1]) for _ in range(samples)]
    if loss != "cross_entropy":
        soft = (lambda: rng.gauss(0, 1)) if loss == "squared" else rng.random
        y = [[soft() for _ in range(widths[-1])] for _ in range(samples)]
    penalty = rng.choice([0.0, 0.01 * rng.random()]) if decay else 0.0
    risk = Risk(sf.MLP(widths, sigmas, biases), X, y, loss, penalty)
    theta = [10 ** rng.uniform(-1, 0.5) * rng.gauss(0, 1) for _ in range(risk.size)]
    return risk, theta


def saturated(rng: Random, risk: Risk, theta: list[float]) -> list[float]:
    """One row of a hidden layer so large that its unit is in its tails, 0 to thousands of bits deep."""
    layer = rng.randrange(len(risk.net.widths) - 2)
    fan = risk.net.widths[layer] + risk.net.biases[layer]
    row = risk.network.place(layer, rng.randrange(risk.net.widths[layer + 1]))
    size = 10 ** rng.uniform(1, 3)
    return [t * size if row <= k < row + fan else t for k, t in enumerate(theta)]


def random_reach(rng: Random, radius: float, size: int) -> list[float]:
    """How far each parameter may go: all as far, or each its own part of that."""
    even = rng.random() < 0.5
    return [radius if even else radius * rng.choice([0.0, rng.random()]) for _ in range(size)]


def within(rng: Random, theta: Sequence[float], reach: Sequence[float]) -> list[mp.mpf]:
    """A point of the box: half the time one of its corners."""
    corner = rng.random() < 0.5
    with mp.workprec(EXACT):
        return [
            mp.mpf(t) + (rng.choice([-1, 1]) if corner else rng.uniform(-1, 1)) * mp.mpf(r)
            for t, r in zip(theta, reach, strict=True)
        ]


def outside(values: Iterable[Any], mids: Iterable[Any], rads: Iterable[Any]) -> int:
    """How many of the values are not in their balls; NaN is in none."""
    with mp.workprec(2 * BITS):
        triples = zip(values, mids, rads, strict=True)
        return sum(not abs(v - mp.mpf(m)) <= mp.mpf(r) for v, m, r in triples)


def ball(value: Any) -> tuple[mp.mpf, mp.mpf]:
    """Midpoint and radius of an arb, exactly."""
    with mp.workprec(EXACT):
        parts = (value.mid().man_exp(), value.rad().man_exp())
        mid, rad = (mp.ldexp(mp.mpf(int(man)), int(exponent)) for man, exponent in parts)
        return mid, rad


# -- certificates against the truth -----------------------------------------------------------------


def centre_of(certificate: sf.Certificate) -> list[Fraction]:
    """Exactly."""
    terms = [[Fraction(float.fromhex(v)) for v in term] for term in certificate.document["centre"]]
    return [sum(values, Fraction(0)) for values in zip(*terms, strict=True)]


def held_of(risk: Risk, certificate: sf.Certificate) -> set[int]:
    """Places of the parameters that the certificate holds against symmetries."""
    place, widths, top = risk.network.place, risk.net.widths, len(risk.net.biases) - 1
    fan = [risk.net.widths[k] + bias for k, bias in enumerate(risk.net.biases)]
    held: set[int] = set()
    for each in certificate.document["frozen"]:
        layer, unit = each.get("layer"), each.get("unit")
        match each["family"]:
            case "softmax shift":
                held |= {place(top, widths[-1] - 1, j) for j in range(fan[top])}
            case "constant input":
                held |= {place(0, k, each["input"]) for k in range(widths[1])}
            case "dead unit":
                held |= {place(layer, unit, j) for j in range(fan[layer])}
                held |= {place(layer + 1, i, unit) for i in range(widths[layer + 2])}
            case "scaling":
                held |= {place(layer, unit, each["input"])}
    return held


@dataclass(frozen=True)
class Truth:
    """Of the critical point that Newton's method finds from a certificate's centre, to 60 digits.

    Attributes:
        theta: in rows.
        moved: how far any parameter of it is from the centre.
        loss, slope: R, and the largest entry of ∇R, held parameters included.
        inertia: of the dense Hessian, zero being below 1e-35 of the largest.
        sizes: the smallest and largest |λ| of the Hessian in the parameters that are not held.
    """

    theta: list[mp.mpf]
    moved: mp.mpf
    loss: mp.mpf
    slope: mp.mpf
    inertia: tuple[int, int, int]
    sizes: tuple[mp.mpf, mp.mpf]


def truth(risk: Risk, certificate: sf.Certificate) -> Truth:
    """By Newton's method on all parameters that the certificate does not hold."""
    with mp.workprec(BITS):
        centre = [mp.mpf(c.numerator) / c.denominator for c in centre_of(certificate)]
        held = held_of(risk, certificate)
        free = [i for i in range(risk.size) if i not in held]
        theta = list(centre)
        for _ in range(4):
            gradient = risk.gradient(theta)
            step = mp.lu_solve(
                risk.whole_hessian(theta, free), mp.matrix([gradient[i] for i in free])
            )
            for i, change in zip(free, step, strict=True):
                theta[i] -= change
        moved = max((abs(a - b) for a, b in zip(theta, centre, strict=True)), default=mp.zero)
        slope = max(abs(g) for g in risk.gradient(theta))
        whole = mp.eigsy(risk.whole_hessian(theta, range(risk.size)), eigvals_only=True)
        part = mp.eigsy(risk.whole_hessian(theta, free), eigvals_only=True) if held else whole
        sizes = [abs(v) for v in part]
        floor = mp.mpf(10) ** -35 * max(abs(v) for v in whole)
        inertia = (sum(v > floor for v in whole), 0, sum(v < -floor for v in whole))
        inertia = (inertia[0], risk.size - sum(inertia), inertia[2])
        return Truth(theta, moved, risk.value(theta), slope, inertia, (min(sizes), max(sizes)))


def contradictions(certificate: sf.Certificate, true: Truth) -> list[str]:
    """What a certificate says and is not so."""
    with mp.workprec(BITS):
        low, high = map(mp.mpf, certificate.loss)
        sizes = [mp.mpf(float.fromhex(v)) for v in certificate.proved["eigenvalue_sizes"]]
        location = mp.mpf(certificate.location)
        scale = max(1, *map(abs, true.theta)) * max(1, true.sizes[1])
        said = {
            "a critical point": true.slope <= mp.mpf(10) ** -45 * scale,
            "location": true.moved <= location,
            "loss": low <= true.loss <= high,
            "inertia": certificate.inertia == true.inertia,
            "eigenvalues": sizes[0] <= true.sizes[0] and true.sizes[1] <= sizes[1],
            "kind": certificate.kind == _kind(true.inertia),
        }
    return [f"{what}: {true}" for what, holds in said.items() if not holds]


def _kind(inertia: tuple[int, int, int]) -> str:
    _, zero, negative = inertia
    return "STRICT_SADDLE" if negative else "MINIMUM" if zero else "STRICT_MINIMUM"


def data(samples: int, inputs: int, seed: int) -> torch.Tensor:
    """Normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((samples, inputs), generator=generator, dtype=torch.float64)
