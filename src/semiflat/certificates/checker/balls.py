"""The exact risk of a network and its derivatives in ball arithmetic: one half of the checker.

Nothing here is floating point: every number is a ball ``m ± r`` of FLINT's Arb that contains the real
number it stands for, whatever the network's parameters within *their* balls. Only the standard
library and python-flint are needed. Parameters are one matrix ``[W_l, b_l]`` a layer, and θ lists their
rows layer after layer. Notation of theory §1; the Hessian is

    ∇²R = Σ_ν [ Σ_kk' ℓ''_kk' ∇f_k ∇f_k'ᵀ + Σ_u (∂ℓ/∂h_u) σ''(z_u) ∇z_u ∇z_uᵀ ] + mixed + mixedᵀ,

u over the hidden units, ``mixed[W_{l+1}[i,u], :] = Σ_ν δ_{l+1,i} σ'(z_u) ∇z_u``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

from semiflat.certificates.checker.arithmetic import arb, arb_mat, quotient

Jet = tuple[arb, arb, arb]
LossJet = Callable[[list[arb], list[float]], tuple[arb, list[arb], list[list[arb]]]]
Layers = list[arb_mat]
CHUNK = 1_000_000  # balls of the larger lists that are held for some samples


class NotDefinite(Exception):
    """A comparison of balls that came out neither true nor false, or false."""


def _sigmoid(z: arb) -> Jet:
    h, co = 1 / (1 + (-z).exp()), 1 / (1 + z.exp())
    return h, h * co, h * co * (co - h)


def _tanh(z: arb) -> Jet:
    h, c = z.tanh(), z.cosh()
    first = 1 / (c * c)
    return h, first, -2 * h * first


def _softplus(z: arb) -> Jet:
    return z.exp().log1p(), *_sigmoid(z)[:2]


def _gelu(z: arb) -> Jet:
    cumulative = (-z / arb(2).sqrt()).erfc() / 2
    density = (-z * z / 2).exp() / (2 * arb.pi()).sqrt()
    return z * cumulative, cumulative + z * density, density * (2 - z * z)


def _silu(z: arb) -> Jet:
    h, first, second = _sigmoid(z)
    return z * h, h + z * first, 2 * first + z * second


def _sin(z: arb) -> Jet:
    s, c = z.sin_cos()
    return s, c, -s


def _piecewise(left: float) -> Callable[[arb], Jet]:
    def jet(z: arb) -> Jet:
        if z > 0:
            return z, arb(1), arb(0)
        if z < 0:
            return left * z, arb(left), arb(0)
        raise NotDefinite(
            f"the sign of a pre-activation, {z.str(3)}, is not proved, and σ has a kink at 0"
        )

    return jet


ACTIVATIONS: dict[str, Callable[[arb], Jet]] = {
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "softplus": _softplus,
    "gelu": _gelu,
    "silu": _silu,
    "sin": _sin,
    "identity": lambda z: (z, arb(1), arb(0)),
    "relu": _piecewise(0.0),
    "leaky_relu": _piecewise(0.01),
}
"""σ(z), σ'(z), σ''(z)."""


def _squared(f: arb, y: float) -> Jet:
    return (f - y) * (f - y) / 2, f - y, arb(1)


def _logistic(f: arb, y: float) -> Jet:
    value, first, second = _softplus(f)
    return value - y * f, first - y, second


def _cross_entropy(f: list[arb], y: list[float]) -> tuple[arb, list[arb], list[list[arb]]]:
    """For a class, ``y = [class]``, or a probability for each output."""
    if len(y) == 1:
        y = [float(k == y[0]) for k in range(len(f))]
    total = [sum(((b - a).exp() for b in f), arb(0)) for a in f]
    p, size = [1 / each for each in total], sum(map(arb, y), arb(0))
    value = sum((a * each.log() for a, each in zip(y, total, strict=True) if a), arb(0))
    first = [size * a - b for a, b in zip(p, y, strict=True)]
    second = [[size * p[k] * (int(j == k) - p[j]) for j in range(len(f))] for k in range(len(f))]
    return value, first, second


def _separable(of_output: Callable[[arb, float], Jet]) -> LossJet:
    """A loss that is a sum over the outputs."""

    def loss(f: list[arb], y: list[float]) -> tuple[arb, list[arb], list[list[arb]]]:
        jets = [of_output(a, b) for a, b in zip(f, y, strict=True)]
        second = [[jets[k][2] if j == k else arb(0) for j in range(len(f))] for k in range(len(f))]
        return sum((jet[0] for jet in jets), arb(0)), [jet[1] for jet in jets], second

    return loss


def _log_cosh(f: arb, y: float) -> Jet:
    c = (f - y).cosh()
    return c.log(), (f - y).tanh(), 1 / (c * c)


def _hinge(power: int) -> Callable[[arb, float], Jet]:
    def jet(f: arb, y: float) -> Jet:
        short = 1 - y * f
        if short < 0:
            return arb(0), arb(0), arb(0)
        if not short > 0:
            if power == 2:
                raise NotDefinite(
                    f"the sign of 1 − y f, {short.str(3)}, is not proved, and ℓ'' jumps at 0"
                )
            short = arb.union(arb(0), arb(short.abs_upper()))
        low = short if power == 3 else arb(1)
        return short * short * low, -power * y * short * low, power * (power - 1) * low

    return jet


LOSSES: dict[str, LossJet] = {
    "squared": _separable(_squared),
    "logistic": _separable(_logistic),
    "cross_entropy": _cross_entropy,
    "log_cosh": _separable(_log_cosh),
    "hinge2": _separable(_hinge(2)),
    "hinge3": _separable(_hinge(3)),
}
"""ℓ of one sample with its first and second derivative in the output."""
SHIFT_INVARIANT = ("cross_entropy",)
"""Losses that ignore what is added to all outputs."""


@dataclass(frozen=True)
class Network:
    """Architecture, loss, weight decay and data: all that the risk is made of, exactly.

    ``decay`` is one λ, or a pair a linear layer, of its weights and of its biases; ``weights`` what each
    sample counts with, None where all count alike.
    """

    widths: list[int]
    activations: list[str]
    biases: list[bool]
    loss: str
    decay: float | list[tuple[float, float]]
    X: list[list[float]]
    y: list[list[float]]
    weights: list[float] | None = None

    @property
    def classes(self) -> bool:
        """Whether targets are classes, and not a number an output."""
        return self.shift_invariant and len(self.y[0]) == 1

    @property
    def shift_invariant(self) -> bool:
        """Whether the loss ignores what is added to all outputs."""
        return self.loss in SHIFT_INVARIANT

    @property
    def layer_decays(self) -> list[tuple[float, float]]:
        """λ of the weights and of the biases of each linear layer."""
        given = self.decay
        return given if isinstance(given, list) else [(given, given)] * self.depth

    @property
    def decayed(self) -> bool:
        """Whether any parameter is."""
        return any(self.decays)

    @cached_property
    def decays(self) -> list[float]:
        """λ of each parameter, in the order of θ."""
        pairs = self.layer_decays
        return [
            decay
            for layer, (weight, bias) in enumerate(pairs)
            for _ in range(self.widths[layer + 1])
            for decay in [weight] * self.widths[layer] + [bias] * self.biases[layer]
        ]

    @cached_property
    def _total(self) -> Fraction:
        return sum(map(Fraction, self.weights or ()), Fraction(0))

    def share(self, sample: int) -> arb:
        """What a sample's loss counts with in the risk."""
        if self.weights is None:
            return arb(1) / len(self.X)
        return quotient(Fraction(self.weights[sample]) / self._total)

    @property
    def depth(self) -> int:
        """Number of linear layers."""
        return len(self.biases)

    def fan_in(self, layer: int) -> int:
        """Size of what linear layer ``layer`` is fed with, the bias's 1 included."""
        return self.widths[layer] + self.biases[layer]

    def place(self, layer: int, row: int = 0, column: int = 0) -> int:
        """Where ``[W_l, b_l][row, column]`` stands in θ."""
        return self.starts[layer] + row * self.fan_in(layer) + column

    @cached_property
    def starts(self) -> list[int]:
        """Where each layer starts in θ, and how long θ is."""
        sizes = (self.widths[m + 1] * self.fan_in(m) for m in range(self.depth))
        return [0, *accumulate(sizes)]

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.starts[-1]

    def layers(self, theta: list[arb]) -> Layers:
        """θ as matrices ``[W_l, b_l]``."""
        shapes = [(self.widths[m + 1], self.fan_in(m)) for m in range(self.depth)]
        return [
            arb_mat(out, fan, theta[at : at + out * fan])
            for (out, fan), at in zip(shapes, self.starts, strict=False)
        ]


class Sweep:
    """Forward and backward over some samples. Lists hold one row of balls for each sample.

    ``fed[l]`` is what linear layer l is fed with, ``pre``, ``first`` and ``second`` are z, σ' and σ'' of the
    hidden layers, ``delta[l] = ∂(ℓ/N)/∂z_l``, ``pulled[l] = ∂(ℓ/N)/∂h_l``, ``bend`` is ℓ''/N. Samples that
    have weights count with w_ν / Σw in place of 1/N: ``shares``.
    """

    def __init__(self, net: Network, theta: Layers, samples: range) -> None:
        self.net, self.theta, self.n = net, theta, len(samples)
        rows = [[arb(v) for v in net.X[v]] for v in samples]
        self.fed: list[arb_mat] = []
        self.pre: list[list[list[arb]]] = []
        self.first: list[list[list[arb]]] = []
        self.second: list[list[list[arb]]] = []
        for layer in range(net.depth):
            if net.biases[layer]:
                rows = [[*row, arb(1)] for row in rows]
            self.fed.append(arb_mat(rows))
            z = (self.fed[layer] * theta[layer].transpose()).tolist()
            if layer < net.depth - 1:
                jet = ACTIVATIONS[net.activations[layer]]
                self.pre.append(z)
                jets = [[jet(each) for each in row] for row in z]
                rows = [[each[0] for each in row] for row in jets]
                self.first.append([[each[1] for each in row] for row in jets])
                self.second.append([[each[2] for each in row] for row in jets])
        self.outputs = z
        loss, self.shares = LOSSES[net.loss], [net.share(v) for v in samples]
        ends = [loss(row, net.y[v]) for row, v in zip(z, samples, strict=True)]
        each = list(zip(ends, self.shares, strict=True))
        self.risk = sum((end[0] * share for end, share in each), arb(0))
        self.bend = [[[b * share for b in row] for row in end[2]] for end, share in each]
        self.delta: list[list[list[arb]]] = [[[d * share for d in end[1]] for end, share in each]]
        self.pulled: list[list[list[arb]]] = []
        for layer in range(net.depth - 1, 0, -1):
            weights = arb_mat([row[: net.widths[layer]] for row in theta[layer].tolist()])
            self.pulled.insert(0, (arb_mat(self.delta[0]) * weights).tolist())
            pairs = zip(self.pulled[0], self.first[layer - 1], strict=True)
            back = [[p * s for p, s in zip(*pair, strict=True)] for pair in pairs]
            self.delta.insert(0, back)

    def gradient(self) -> list[arb]:
        """∇ of the risk on these samples, in the order of θ."""
        pairs = zip(self.delta, self.fed, strict=True)
        return [g for delta, fed in pairs for g in (arb_mat(delta).transpose() * fed).entries()]

    def skip(self, layer: int) -> arb_mat:
        """``F∅ = Σ_ν δ_{l+1} x̃ᵀ`` of a hidden layer."""
        return arb_mat(self.delta[layer + 1]).transpose() * self.fed[layer]

    def unit(self, layer: int, unit: int) -> tuple[arb_mat, arb_mat]:
        """F and G of a hidden unit (theory §1)."""
        return self._mixed(layer, unit, self.fed[layer]), self._bent(layer, unit, self.fed[layer])

    def _mixed(self, layer: int, unit: int, slopes: arb_mat) -> arb_mat:
        pairs = zip(self.delta[layer + 1], self.first[layer], strict=True)
        return arb_mat([[d * s[unit] for d in row] for row, s in pairs]).transpose() * slopes

    def _bent(self, layer: int, unit: int, slopes: arb_mat) -> arb_mat:
        pairs = zip(self.pulled[layer], self.second[layer], strict=True)
        return slopes.transpose() * _weighted([p[unit] * s[unit] for p, s in pairs], slopes)

    def add_hessian(self, H: list[list[arb]]) -> None:
        """Add ∇² of the risk on these samples to H."""
        net, top = self.net, self.net.depth - 1
        for layer, moved in enumerate(self._moved()):
            slopes = [self._slopes(layer, moved, k) for k in range(net.widths[layer + 1])]
            for k, (places, G) in enumerate(slopes):
                if layer < top:
                    _add(H, places, places, self._bent(layer, k, G))
                    mixed = self._mixed(layer, k, G)
                    above = [net.place(layer + 1, i, k) for i in range(net.widths[layer + 2])]
                    _add(H, above, places, mixed)
                    _add(H, places, above, mixed.transpose())
                    continue
                for other in range(k + 1):
                    there, right = slopes[other]
                    bent = _weighted([b[k][other] for b in self.bend], right)
                    block = G.transpose() * bent
                    _add(H, places, there, block)
                    if other < k:
                        _add(H, there, places, block.transpose())

    def _moved(self) -> Iterator[list[list[list[list[arb]]]]]:
        """For each linear layer l, ``∂z_l[k]/∂z_m[a]`` as ``[m][a][sample][k]`` for the layers m < l."""
        moved: list[list[list[list[arb]]]] = []
        for layer in range(self.net.depth):
            if layer:
                columns = self.theta[layer].transpose().tolist()[: self.net.widths[layer]]
                first, weights = self.first[layer - 1], arb_mat(columns)
                moved = [[(_scaled(first, t) * weights).tolist() for t in each] for each in moved]
                moved.append(
                    [
                        [[w * s[a] for w in column] for s in first]
                        for a, column in enumerate(columns)
                    ]
                )
            yield moved

    def _slopes(
        self, layer: int, moved: list[list[list[list[arb]]]], unit: int
    ) -> tuple[list[int], arb_mat]:
        """∇z of a unit on each sample, (n × c), and the places in θ of its c entries."""
        net, own = self.net, self.fed[layer].tolist()
        places = [
            *range(net.place(layer)),
            *(net.place(layer, unit, j) for j in range(len(own[0]))),
        ]
        if not layer:
            return places, self.fed[0]
        fed = [self.fed[m].tolist() for m in range(layer)]
        rows = []
        for v in range(self.n):
            row: list[arb] = []
            for x, each in zip(fed, moved, strict=True):
                for by_unit in each:
                    t = by_unit[v][unit]
                    row += [t * entry for entry in x[v]]
            rows.append(row + own[v])
        return places, arb_mat(rows)


def _scaled(rows: list[list[arb]], others: list[list[arb]]) -> arb_mat:
    pairs = zip(rows, others, strict=True)
    return arb_mat([[a * b for a, b in zip(*pair, strict=True)] for pair in pairs])


def _weighted(weights: list[arb], matrix: arb_mat) -> arb_mat:
    pairs = zip(weights, matrix.tolist(), strict=True)
    return arb_mat([[weight * entry for entry in row] for weight, row in pairs])


def _add(H: list[list[arb]], rows: list[int], columns: list[int], block: arb_mat) -> None:
    for i, row in zip(rows, block.tolist(), strict=True):
        into = H[i]
        for j, entry in zip(columns, row, strict=True):
            into[j] += entry


def sweeps(net: Network, theta: list[arb], at_most: int | None = None) -> Iterator[Sweep]:
    """Sweeps over all samples, so many at a time that memory stays bounded."""
    moved = sum(net.widths[m + 1] * sum(net.widths[1 : m + 1]) for m in range(net.depth))
    step = max(1, CHUNK // (net.size + moved + 8 * sum(net.widths)))
    step = min(step, at_most or step)
    layers = net.layers(theta)
    for start in range(0, len(net.X), step):
        yield Sweep(net, layers, range(start, min(start + step, len(net.X))))


def risk_gradient(
    net: Network, theta: list[arb], passes: Iterable[Sweep] | None = None
) -> tuple[arb, list[arb]]:
    """R and ∇R, weight decay included; ``passes`` are the sweeps over all samples, if there are any yet."""
    pairs = list(zip(net.decays, theta, strict=True))
    risk = sum((decay * (t * t) for decay, t in pairs), arb(0)) / 2
    gradient = [decay * t for decay, t in pairs]
    for sweep in sweeps(net, theta) if passes is None else passes:
        risk += sweep.risk
        gradient = [a + b for a, b in zip(gradient, sweep.gradient(), strict=True)]
    return risk, gradient


def hessian(net: Network, theta: list[arb]) -> arb_mat:
    """∇²R, weight decay included: an enclosure of every Hessian in the box θ."""
    P = net.size
    H = [[arb(net.decays[i] if i == j else 0) for j in range(P)] for i in range(P)]
    for sweep in sweeps(net, theta):
        sweep.add_hessian(H)
    return arb_mat(H)
