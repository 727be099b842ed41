"""The Hessian over a box of parameters in float64 with rigorous bounds: fast, where it suffices.

The centre's activations come from ball arithmetic, correct to the last bit but one. How far a unit's
pre-activation can move in the box follows layer by layer, and with it σ, σ' and σ'' by bounds of the next
derivative. All sums are then those of :mod:`semiflat.curvature.hessian`, on midpoints and radii.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from semiflat.activations import activation
from semiflat.certificates.bounded import TINY, UNIT, Array, Bounded, joined, outer, upper
from semiflat.certificates.checker.arithmetic import arb
from semiflat.certificates.checker.balls import Network, Sweep, risk_gradient, sweeps
from semiflat.losses import known_loss

CHUNK = 6_000_000  # float64 numbers of the largest arrays held for some samples


class TooRough(Exception):
    """Float64 does not suffice: the balls themselves have to be used."""


@dataclass(frozen=True)
class Centre:
    """What is known of the centre on some samples; arrays are (·, n).

    Attributes:
        fed: what each linear layer is fed with.
        pre: |z| of each hidden layer whose activation has a kink, at least.
        first, second: σ' and σ'' of each hidden layer.
        delta: ∂(ℓ/N)/∂f.
        bend: ∂²(ℓ/N)/∂f², (M, M, n).
        share: upper bounds of what each sample counts with, 1/N if all count alike, (n,).
    """

    fed: list[Bounded]
    pre: list[Array | None]
    first: list[Bounded]
    second: list[Bounded]
    delta: Bounded
    bend: Bounded
    share: Array


def centre_of(sweep: Sweep) -> Centre:
    """A sweep at the centre, as float64."""
    return Centre(
        [_rows(fed.entries(), sweep.n) for fed in sweep.fed],
        [
            None
            if activation(name).smooth
            else _least(_rows([z for row in rows for z in row], sweep.n))
            for rows, name in zip(sweep.pre, sweep.net.activations, strict=True)
        ],
        [_rows([s for row in rows for s in row], sweep.n) for rows in sweep.first],
        [_rows([s for row in rows for s in row], sweep.n) for rows in sweep.second],
        _rows([d for row in sweep.delta[-1] for d in row], sweep.n),
        _square(sweep),
        upper(as_bounded(sweep.shares).magnitude(), 1),
    )


def _least(values: Bounded) -> Array:
    """Lower bounds of |a|, and below 0 where there is none."""
    least: Array = (np.abs(values.mid) - values.rad) * (1 - 4 * UNIT)
    return least


def _square(sweep: Sweep) -> Bounded:
    flat = _rows([b for square in sweep.bend for row in square for b in row], sweep.n)
    M = len(sweep.bend[0])
    return flat.reshape(M, M, sweep.n)


def _rows(values: list[arb], samples: int) -> Bounded:
    """Balls listed sample by sample, as (·, n)."""
    flat = as_bounded(values)
    mid, rad = flat.mid.reshape(samples, -1), flat.rad.reshape(samples, -1)
    return Bounded(np.ascontiguousarray(mid.T), np.ascontiguousarray(rad.T))


def as_bounded(values: list[arb]) -> Bounded:
    """Balls as float64."""
    mid = np.array([float(v) for v in values])
    rad = 2 * UNIT * np.abs(mid)
    if min(map(arb.rel_accuracy_bits, values), default=60) < 60:  # a few balls around 0, say
        rad = rad + np.array([float(v.rad()) for v in values]) * (1 + 1e-9) + TINY
    # Below the normal numbers the conversion's error is no longer relative, and 0 may be what is left.
    for i in np.flatnonzero(np.abs(mid) < 1e-290):
        rad[i] += 0.0 if values[i].is_zero() else 1e-290
    return Bounded(mid, rad)


def samples_at_once(net: Network) -> int:
    """How many samples the arrays of one pass may hold."""
    moved = [sum(net.widths[1 : m + 2]) * net.widths[m + 1] for m in range(net.depth)]
    fans = [net.fan_in(m) for m in range(net.depth)]
    return max(1, CHUNK // (4 * sum(moved) + max(fans) ** 2 + 8 * sum(net.widths)))


def hessian_over(net: Network, centre: list[Centre], theta: Array, reach: Array) -> Bounded:
    """Every ∇²R in the box, in the order of θ.

    Args:
        centre: the centre on all samples, in parts.
        theta: the centre rounded to float64, (P,).
        reach: how far a parameter may be from ``theta``, (P,).

    Raises:
        TooRough: if the sign of a pre-activation at a kink may change in the box.
    """
    P = net.size
    weights = []
    for layer in range(net.depth):
        out, fan = net.widths[layer + 1], net.fan_in(layer)
        at = slice(net.place(layer), net.place(layer) + out * fan)
        weights.append(Bounded(theta[at].reshape(out, fan), reach[at].reshape(out, fan)))
    total = Bounded(np.diag(np.array(net.decays)), np.zeros((P, P)))
    for part in centre:
        total = total + _part(net, _moved_away(net, part, weights), weights)
    return total


def _moved_away(net: Network, c: Centre, weights: list[Bounded]) -> Centre:
    """The centre's quantities over the whole box."""
    fed, first, second = [c.fed[0]], [], []
    moves = np.zeros((net.widths[0], c.fed[0].shape[1]))
    for layer in range(net.depth):
        wide = weights[layer]
        own = net.widths[layer]
        terms = 2 * wide.shape[1] + 8
        # |ΔW| |h| + |W| |Δh|; the bias's 1 does not move.
        z = wide.rad @ c.fed[layer].magnitude() + wide[:, :own].magnitude() @ moves
        z = upper(z, terms) + TINY
        if layer == net.depth - 1:
            break
        name = net.activations[layer]
        sup, s1, s2 = activation(name).sup, c.first[layer], c.second[layer]
        least = c.pre[layer]
        if sup is None:
            raise TooRough(f"no bounds of the second and third derivative of {name} are known")
        if least is not None and not bool((least > z).all()):
            raise TooRough("the sign of a pre-activation may change in the box, where σ has a kink")
        moves = upper(s1.magnitude() * z + sup.second / 2 * z * z, 8) + TINY
        bend = upper(s2.magnitude() * z + sup.third / 2 * z * z, 8)
        first.append(Bounded(s1.mid, upper(s1.rad + bend, 2)))
        second.append(Bounded(s2.mid, upper(s2.rad + sup.third * z, 4)))
        above = c.fed[layer + 1]
        rad = above.rad.copy()
        rad[: len(z)] = upper(rad[: len(z)] + moves, 2)
        fed.append(Bounded(above.mid, rad))
    return Centre(fed, c.pre, first, second, *_loss_moved(net, c, z), c.share)


def _loss_moved(net: Network, c: Centre, move: Array) -> tuple[Bounded, Bounded]:
    loss = known_loss(net.loss)
    found = None if loss is None else loss.variation(c.bend.magnitude(), move, c.share)
    if found is None:
        raise TooRough(f"no bounds of the third derivative of loss {net.loss!r} are known")
    delta, bend = found
    terms = 2 * len(move) + 8
    return (
        Bounded(c.delta.mid, upper(c.delta.rad + delta, terms)),
        Bounded(c.bend.mid, upper(c.bend.rad + bend, terms)),
    )


def _part(net: Network, c: Centre, weights: list[Bounded]) -> Bounded:
    """The data's part of the Hessian on some samples."""
    samples, top = c.delta.shape[1], net.depth - 1
    moved: list[Bounded | None] = [None]  # ∂z_l/∂z_m of all m < l, (out, Σ out_m, n)
    hidden: list[Bounded | None] = [None]  # ∂h_{l-1}/∂z_m of all m < l − 1
    for layer in range(1, net.depth):
        W = weights[layer][:, : net.widths[layer]]
        s1 = c.first[layer - 1]
        direct = W[:, :, None] * s1[None]
        before = moved[layer - 1]
        if before is None:
            hidden.append(None)
            moved.append(direct)
            continue
        through = before * s1[:, None, :]
        hidden.append(through)
        past = (W @ through.reshape(len(through.mid), -1)).reshape(len(W.mid), -1, samples)
        moved.append(joined([past, direct], 1))
    delta, bent = [c.delta], [_top(c.bend, moved[top])]
    for layer in range(top - 1, -1, -1):
        W = weights[layer + 1][:, : net.widths[layer + 1]]
        s1, s2 = c.first[layer], c.second[layer]
        pulled = W.T @ delta[0]
        delta.insert(0, pulled * s1)
        width = net.widths[layer + 1]
        below = sum(net.widths[1 : layer + 1])
        lower = bent[0][:, : below + width]
        stack = (W.T @ lower.reshape(len(lower.mid), -1)).reshape(width, -1, samples)
        stack = stack * s1[:, None, :]
        bend = pulled * s2
        before = moved[layer]
        own = _diagonal(bend)
        extra = own if before is None else joined([before * bend[:, None, :], own], 1)
        bent.insert(0, stack + extra)
    return _assembled(net, c, delta, bent, hidden)


def _top(bend: Bounded, moved: Bounded | None) -> Bounded:
    if moved is None:
        return bend
    parts = [bend[:, k, None, :] * moved[None, k] for k in range(bend.shape[1])]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return joined([total, bend], 1)


def _diagonal(values: Bounded) -> Bounded:
    """(w, n) as (w, w, n), 0 off the diagonal."""
    w, n = values.shape
    mid, rad = np.zeros((w, w, n)), np.zeros((w, w, n))
    mid[range(w), range(w)], rad[range(w), range(w)] = values.mid, values.rad
    return Bounded(mid, rad)


def _assembled(
    net: Network,
    c: Centre,
    delta: list[Bounded],
    bent: list[Bounded],
    hidden: list[Bounded | None],
) -> Bounded:
    P = net.size
    H = Bounded(np.zeros((P, P)), np.zeros((P, P)))
    for layer in range(net.depth):
        at = 0
        for below in range(layer + 1):
            among = slice(at, at + net.widths[below + 1])
            at = among.stop
            block = _curved(bent[layer][:, among], c.fed[layer], c.fed[below])
            if below < layer:
                block = _with_skip(net, c, delta[layer], block, layer, below, hidden, among)
            _place(net, H, block, layer, below)
    return H


def _curved(bent: Bounded, over: Bounded, under: Bounded) -> Bounded:
    """``Σ_ν B[i,a] h̃_{l-1,j} h̃_{m-1,b}`` as (i, j, a, b)."""
    out, moved, _ = bent.shape
    flat = bent.reshape(out * moved, -1)
    if len(over.mid) <= out * moved:
        block = flat @ outer(over, under).T
        return block.reshape(out, moved, len(over.mid), -1).transpose(0, 2, 1, 3)
    block = outer(flat, under) @ over.T
    return block.reshape(out, moved, len(under.mid), -1).transpose(0, 3, 1, 2)


def _with_skip(
    net: Network,
    c: Centre,
    delta: Bounded,
    block: Bounded,
    layer: int,
    below: int,
    hidden: list[Bounded | None],
    among: slice,
) -> Bounded:
    """Add ``Σ_ν δ_{l,i} S[j,a] h̃_{m-1,b}``; the bias's j does not move."""
    out, width, fed = net.widths[layer + 1], net.widths[layer], c.fed[below]
    mid, rad = block.mid.copy(), block.rad.copy()
    if below == layer - 1:  # S is diagonal
        skip = (outer(delta, c.first[below]) @ fed.T).reshape(out, width, -1)
        units = np.arange(width)
        old = Bounded(mid[:, units, units], rad[:, units, units])
        new = old + skip
        mid[:, units, units], rad[:, units, units] = new.mid, new.rad
    else:
        through = hidden[layer]
        assert through is not None
        S = through[:, among]
        skip = (outer(delta, S.reshape(-1, S.shape[-1])) @ fed.T).reshape(
            out, width, S.shape[1], -1
        )
        new = Bounded(mid[:, :width], rad[:, :width]) + skip
        mid[:, :width], rad[:, :width] = new.mid, new.rad
    return Bounded(mid, rad)


def _place(net: Network, H: Bounded, block: Bounded, layer: int, below: int) -> None:
    size = block.shape[0] * block.shape[1]
    rows = slice(net.place(layer), net.place(layer) + size)
    columns = slice(net.place(below), net.place(below) + block.shape[2] * block.shape[3])
    for into, values in ((H.mid, block.mid), (H.rad, block.rad)):
        into[rows, columns] = values.reshape(size, -1)
        into[columns, rows] = into[rows, columns].T


def centre_parts(net: Network, theta: list[arb]) -> tuple[list[Centre], arb, list[arb]]:
    """The centre on all samples in parts, and the risk and its gradient there (decay included)."""
    parts: list[Centre] = []

    def passes() -> Iterator[Sweep]:
        for sweep in sweeps(net, theta, samples_at_once(net)):
            parts.append(centre_of(sweep))
            yield sweep

    return parts, *risk_gradient(net, theta, passes())
