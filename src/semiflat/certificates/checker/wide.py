"""From a narrow critical point to the wide ones embedded from it, by theorem: part of the checker.

The inertia law (theory §3, from F19 eqs. 6–12): copies of unit u with p positive, q negative and z zero
shares add to the numbers of positive and negative eigenvalues

    (p − 1) n₊(K) + q n₋(K) + z rank F    and    (p − 1) n₋(K) + q n₊(K) + z rank F,

and a null unit with σ'(α) ≠ 0 adds rank F∅ to both. All are made of narrow quantities at the exact critical
point, which lies in the balls θ. Three facts hold at it exactly and are used as such, never read off small
numbers: Fᵀζ = ∂R/∂u = 0; with cross-entropy Fᵀ1 = 0 in the last layer, as softmax ignores shifts; and the
column of F∅ that belongs to the bias below is ∂R/∂b = 0. Where they leave no row of F, F = 0.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations
from typing import Any

from semiflat.certificates.checker.arithmetic import arb, arb_mat, quotient
from semiflat.certificates.checker.balls import ACTIVATIONS, Network, NotDefinite, sweeps
from semiflat.certificates.checker.exact import matrix, rational
from semiflat.certificates.checker.gauge import HOMOGENEOUS
from semiflat.certificates.checker.inertia import congruent_signs, rank_at_least

ODD = "tanh", "sin", "identity"
MOST = 10**8000
LAW = "inertia law (theory §3; F19 Thms 5, 10, 11; P21 Thms 5–6)"
FIRST_ORDER = "F19 §D, P21 Prop. 1(i): Fᵀζ = 0 at a critical point"


def embedded(
    net: Network, theta: list[arb], inertia: list[int], embedding: dict[str, Any]
) -> dict[str, Any]:
    """What is proved of the wide point: kind, inertia, theorem and its premises.

    Raises:
        NotDefinite: if the embedding is none that keeps critical points critical, or neither a way
            down nor a minimum is proved.
    """
    _need(not net.decayed, "weight decay: embeddings do not keep critical points critical")
    layers = [_runs(net, layer, runs) for layer, runs in enumerate(embedding["layers"])]
    _need(len(layers) == net.depth - 1, "it must say what each hidden layer holds")
    law = _Law(net, theta, inertia)
    copied = {
        (layer, unit): shares
        for layer, (copies, _) in enumerate(layers)
        for unit, shares in enumerate(copies)
        if sum(shares.values()) > 1
    }
    bases = {(each["layer"], each["unit"]): each["Q"] for each in embedding["bases"]}
    nulls = {layer: added for layer, (_, added) in enumerate(layers) if added}
    units, skips = blocks(net, theta, list(copied), list(nulls))
    for (layer, unit), shares in copied.items():
        alone = {at for at, _ in copied} == {layer}
        law.copy(layer, unit, shares, units[layer, unit], bases.get((layer, unit)), alone)
    for layer, added in nulls.items():
        law.null(layer, added, skips[layer])
    widths = [net.widths[0], *(_size(each) for each in layers), net.widths[-1]]
    return law.result(sum(widths[m + 1] * (widths[m] + net.biases[m]) for m in range(net.depth)))


class _Law:
    """Counts, added up unit by unit, with how each was proved."""

    def __init__(self, net: Network, theta: list[arb], inertia: list[int]) -> None:
        self.net, self.theta = net, theta
        self.positive, _, self.negative = inertia
        self.exact = True  # the counts, not only lower bounds
        self.flat = not self.negative  # every added zero is a direction of constant loss
        self.added = 0
        self.premises = [f"the narrow point has inertia {tuple(inertia)}: proved above"]

    def copy(
        self,
        layer: int,
        unit: int,
        shares: dict[Fraction, int],
        own: tuple[arb_mat, arb_mat],
        basis: Any,
        alone: bool,
    ) -> None:
        """Copies of one unit, whose F and G are its ``own``; ``alone``: no other layer has copies."""
        p = sum(count for share, count in shares.items() if share > 0)
        q = sum(count for share, count in shares.items() if share < 0)
        z = shares.get(Fraction(0), 0)
        who = f"unit {unit} of hidden layer {layer}"
        F, G = own
        dropped = dependent_rows(self.net, self.theta, layer, unit)
        M, D = F.nrows(), G.nrows()
        up, down, rank, sure, loose = 0, 0, 0, False, D
        if dropped is not None and len(dropped) == M:
            self.premises.append(
                f"F = 0 at {who}: {FIRST_ORDER}, and a minor of ζ is not 0: proved by balls"
            )
        linear = self.net.activations[layer] in HOMOGENEOUS
        if linear:
            self.premises.append(
                f"G = 0 at {who}: the signs of its pre-activations are proved by balls"
            )
        if dropped is not None:
            kept = [row for i, row in enumerate(F.tolist()) if i not in dropped]
            rank = rank_at_least(arb_mat(kept)) if kept else 0
            if linear:
                up = down = rank
                sure = rank == min(len(kept), D)
            elif basis is not None:
                K = _bordered(kept, G)
                up, down, sure = self._signs(K, basis, who)
                rank, loose = (rank if sure else 0), 0
                sure = sure and (not z or rank == len(kept))
        if not sure and not up and not linear and rank_at_least(F):
            up = down = rank = 1
            self.premises.append(f"F ≠ 0 at {who}: an entry is not 0, proved by balls")
        elif sure and rank:
            self.premises.append(f"rank F = {rank} at {who}: elimination in balls")
        self.positive += (p - 1) * up + q * down + z * rank
        self.negative += (p - 1) * down + q * up + z * rank
        self.added += p + q + z - 1
        self.exact &= sure
        constant = dropped is not None and len(dropped) == M and (not loose or (linear and alone))
        self.flat &= constant and (not z or linear)

    def null(self, layer: int, nulls: list[tuple[Fraction, int]], skip: arb_mat) -> None:
        """Null units of one layer, whose F∅ is ``skip``."""
        net, sigma = self.net, ACTIVATIONS[self.net.activations[layer]]
        _need(net.biases[layer + 1], "null units need a bias in the layer above")
        _need(
            net.biases[layer] or all(alpha == 0 for alpha, _ in nulls),
            "a null unit needs a bias in its own layer",
        )
        slopes = [(sigma(quotient(alpha))[1], count) for alpha, count in nulls]
        heard = sum(count for slope, count in slopes if abs(slope) > 0)
        silent = sum(count for slope, count in slopes if slope == 0)
        rows = [row[: net.widths[layer]] for row in skip.tolist()]  # the bias's column is 0
        last = layer == net.depth - 2 and net.shift_invariant
        rows = rows[: len(rows) - last]  # and so is the sum of the rows
        rank = rank_at_least(arb_mat(rows)) if rows else 0
        total = sum(count for _, count in slopes)
        self.positive += heard * rank
        self.negative += heard * rank
        self.added += total
        self.exact &= heard + silent == total and (
            not heard or rank == min(len(rows), len(rows[0]))
        )
        dead = net.activations[layer] == "relu" and all(alpha < 0 for alpha, _ in nulls)
        self.flat &= dead
        self.premises.append(
            f"F∅ of hidden layer {layer} has rank at least {rank}, and σ'(α) is not 0 for {heard} of "
            f"{total} null units: elimination in balls"
        )

    def result(self, parameters: int) -> dict[str, Any]:
        """The kind, where one is proved."""
        zero = parameters - self.positive - self.negative
        if self.negative:
            kind = "STRICT_SADDLE"
        else:
            _need(self.exact, "no negative eigenvalue is proved, nor that there is none")
            _need(
                self.flat, "no eigenvalue is negative, but not all zero ones are proved to be flat"
            )
            kind = "MINIMUM" if zero else "STRICT_MINIMUM"
            if self.added:
                self.premises.append(
                    "every added zero direction shares out outgoing weights, or is linear on the data: "
                    "the function is constant along it, and through the point runs a manifold of "
                    "critical points whose tangents are the whole kernel (Morse–Bott)"
                )
        counts = [self.positive, zero if self.exact else 0, self.negative]
        return {
            "kind": kind,
            "inertia": counts,
            "exact": self.exact,
            "parameters": parameters,
            "theorem": LAW,
            "premises": self.premises,
        }

    def _signs(self, K: arb_mat, basis: Any, who: str) -> tuple[int, int, bool]:
        size = K.nrows()
        _, signs, row_sum = congruent_signs(K, matrix(basis, size, size))
        if not row_sum < 1:
            return 0, 0, False
        counts = signs.count(1), signs.count(-1)
        self.premises.append(
            f"K at {who} has {counts[0]} positive and {counts[1]} negative eigenvalues: "
            "congruence and Gershgorin in balls"
        )
        return *counts, True


def _runs(
    net: Network, layer: int, runs: list[dict[str, Any]]
) -> tuple[list[dict[Fraction, int]], list[tuple[Fraction, int]]]:
    """For each narrow unit how many copies have which share; and the null units."""
    copies: list[dict[Fraction, int]] = [{} for _ in range(net.widths[layer + 1])]
    nulls = []
    for run in runs:
        count = run["count"]
        _need(type(count) is int and 0 < count < MOST, "a run must count its units")
        if "null" in run:
            nulls.append((rational(run["null"]), count))
            continue
        share, scale = rational(run["share"]), rational(run["scale"])
        name = net.activations[layer]
        mirrored = scale == -1 and (name in ODD or (name == "sigmoid" and net.biases[layer + 1]))
        _need(
            scale == 1 or mirrored or (scale > 0 and name in HOMOGENEOUS),
            f"a copy scaled by {scale} is none for {name}",
        )
        unit = run["source"]
        _need(type(unit) is int and 0 <= unit < len(copies), f"there is no unit {unit!r}")
        copies[unit][share] = copies[unit].get(share, 0) + count
    for unit, shares in enumerate(copies):
        who, total = f"the shares of unit {unit} of hidden layer {layer}", Fraction(0)
        for share, count in shares.items():
            total += share * count
            # Many long denominators would take hours to add up.
            _need(total.denominator < MOST, f"{who} have no common denominator that is short")
        _need(total == 1, f"{who} sum to {float(total):.6g}, not 1")
    return copies, nulls


def _size(layer: tuple[list[dict[Fraction, int]], list[tuple[Fraction, int]]]) -> int:
    copies, nulls = layer
    return sum(n for shares in copies for n in shares.values()) + sum(n for _, n in nulls)


Unit = tuple[int, int]


def blocks(
    net: Network, theta: list[arb], units: list[Unit], layers: list[int]
) -> tuple[dict[Unit, tuple[arb_mat, arb_mat]], dict[int, arb_mat]]:
    """F and G of units (layer, unit) and F∅ of hidden layers, in one pass over the samples."""
    found: dict[Unit, tuple[arb_mat, arb_mat]] = {}
    skips: dict[int, arb_mat] = {}
    for sweep in sweeps(net, theta) if units or layers else ():
        for at in units:
            F, G = sweep.unit(*at)
            found[at] = (found[at][0] + F, found[at][1] + G) if at in found else (F, G)
        for layer in layers:
            skip = sweep.skip(layer)
            skips[layer] = skips[layer] + skip if layer in skips else skip
    return found, skips


def bordered(net: Network, theta: list[arb], units: list[Unit]) -> dict[Unit, arb_mat]:
    """K of units without the rows of F that depend on others, where these are known."""
    found = {}
    for at, (F, G) in blocks(net, theta, units, [])[0].items():
        dropped = dependent_rows(net, theta, *at)
        if dropped is not None:
            kept = [row for i, row in enumerate(F.tolist()) if i not in dropped]
            found[at] = _bordered(kept, G)
    return found


def dependent_rows(net: Network, theta: list[arb], layer: int, unit: int) -> tuple[int, ...] | None:
    """Rows of F that Fᵀζ = 0 (and Fᵀ1 = 0) make dependent on the others, if a minor is not 0."""
    zeta = [row[unit] for row in net.layers(theta)[layer + 1].tolist()]
    if layer == net.depth - 2 and net.shift_invariant:
        pairs = combinations(range(len(zeta)), 2)
        return next(((i, j) for i, j in pairs if zeta[i] != zeta[j]), None)
    return next(((i,) for i, weight in enumerate(zeta) if weight != 0), None)


def _bordered(F: list[list[arb]], G: arb_mat) -> arb_mat:
    """``[[0, F], [Fᵀ, G]]``."""
    rows = [[arb(0)] * len(F) + row for row in F]
    return arb_mat(rows + [[f[i] for f in F] + row for i, row in enumerate(G.tolist())])


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise NotDefinite(f"embedding: {otherwise}")
