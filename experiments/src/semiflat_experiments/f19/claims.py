"""What F19's and P21's theorems say of an embedded minimum, from the signs of its unit's blocks.

Each theorem is written out as it stands. Where it says nothing, the case is named all the same, so
that every embedded point within a theorem's reach is counted once under it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

import semiflat as sf

MINIMUM, SADDLE, SILENT = "minimum", "saddle", "nothing"
CRITICAL, NOT_IN_GENERAL = "critical", "not critical in general"

ZERO, CLEAR = 1e-10, 1e-8
"""Of the narrow Hessian's largest eigenvalue: a block below the first is 0, above the second it is not."""


class Blocks(NamedTuple):
    """Signs of a unit's blocks (F19 Lemma 4; P21 calls them B and D).

    Attributes:
        G: ``"+"`` or ``"-"`` for a definite matrix, ``"±"`` with eigenvalues of both signs, ``"0"`` for
            a zero one, ``"."`` for another singular one, ``"?"`` if an eigenvalue is too small to tell.
        F: ``"0"``, ``"≠"`` for another, ``"?"`` if it is too small to tell.
    """

    G: str
    F: str

    @classmethod
    def of(cls, F: torch.Tensor, G: torch.Tensor, scale: float) -> Blocks:
        """Of a unit's F and G, told from 0 by ``scale``.

        >>> Blocks.of(torch.zeros(1, 2), torch.diag(torch.tensor([1.0, 2.0])), 1.0)
        Blocks(G='+', F='0')
        """
        size = float(F.abs().max()) / scale
        known = "0" if size < ZERO else "≠" if size > CLEAR else "?"
        return cls(_signs((torch.linalg.eigvalsh(G) / scale).tolist()), known)


def _signs(eigenvalues: list[float]) -> str:
    above, below = (any(s * each > CLEAR for each in eigenvalues) for s in (1, -1))
    if above and below:
        return "±"
    if any(ZERO <= abs(each) <= CLEAR for each in eigenvalues):
        return "?"
    if any(abs(each) < ZERO for each in eigenvalues):
        return "." if above or below else "0"
    return "+" if above else "-"


class Shares(NamedTuple):
    """How many shares λ of a replicated unit are positive, negative and zero."""

    positive: int
    negative: int
    zero: int

    @property
    def copies(self) -> int:
        """All of them."""
        return sum(self)


class Claim(NamedTuple):
    """What a theorem says; ``says`` is ``"nothing"`` where its premises are not met."""

    theorem: str
    case: str
    says: str


def claims(
    net: sf.MLP, loss: str, layer: int, strict: bool, blocks: Blocks, shares: Shares
) -> list[Claim]:
    """What the theorems whose networks these are say of a minimum with a replicated unit.

    Args:
        net: the narrow network.
        loss: its name.
        layer: of the unit.
        strict: whether the narrow Hessian is positive definite.
        blocks, shares: of the unit.

    >>> net = sf.MLP([1, 2, 1])
    >>> for claim in claims(net, "logistic", 0, True, Blocks("+", "0"), Shares(2, 0, 0)):
    ...     print(*claim, sep=": ")
    F19 Thm 11: (1a) G ≻ 0, all λ > 0: minimum
    """
    relu = not net.activations[layer].smooth
    shallow, one = len(net.hidden) == 1, net.outputs == 1
    found = []
    if relu and shallow:
        found.append(_theorem_10(blocks, shares))
    elif shallow and one:
        found.append(_theorem_11(strict, blocks, shares))
    elif shallow:
        found.append(_theorem_5(blocks, shares))
    if not relu and one and loss == "squared" and shares.copies == 2:
        found.append(_p21_theorem_6(blocks, shares))
    return found


def _theorem_5(blocks: Blocks, shares: Shares) -> Claim:
    if shares.zero:
        return Claim("F19 Thm 5", "some λ = 0", SILENT)
    if blocks.G == "±":
        return Claim("F19 Thm 5", "(ii) G indefinite", SADDLE)
    if blocks.G in "+-" and blocks.F == "≠":
        return Claim("F19 Thm 5", "(i) G definite, F ≠ 0", SADDLE)
    if blocks.G in "+-" and blocks.F == "0":
        return Claim("F19 Thm 5", "G definite, F = 0", SILENT)
    return Claim("F19 Thm 5", "G singular, or too small", SILENT)


def _theorem_10(blocks: Blocks, shares: Shares) -> Claim:
    if blocks.F == "≠":
        zero = ", some γ = 0" if shares.zero else ""
        return Claim("F19 Thm 10", f"F ≠ 0{zero}", SADDLE)
    return Claim("F19 Thm 10", "F = 0, or too small", SILENT)


def _theorem_11(strict: bool, blocks: Blocks, shares: Shares) -> Claim:
    def case(name: str, says: str) -> Claim:
        return Claim("F19 Thm 11", name, says)

    if not strict or blocks.G not in ("+", "-", "±"):
        return case("G or ∇² singular, or too small", SILENT)
    if blocks.G == "+" and shares.negative:
        return case("(1b) G ≻ 0, some λ < 0", SADDLE)
    if blocks.G == "-" and shares.positive > 1:
        return case("(2b) G ≺ 0, two λ > 0", SADDLE)
    if shares.zero:
        return case("some λ = 0", SILENT)
    if blocks.G == "+":
        return case("(1a) G ≻ 0, all λ > 0", MINIMUM)
    if blocks.G == "-":
        return case("(2a) G ≺ 0, one λ > 0", MINIMUM)
    return case("(3) G indefinite", SADDLE)


def _p21_theorem_6(blocks: Blocks, shares: Shares) -> Claim:
    inside = shares == Shares(2, 0, 0)
    outside = shares == Shares(1, 1, 0)
    if (blocks.G == "+" and inside) or (blocks.G == "-" and outside):
        region = "B ≻ 0, 0 < λ < 1" if inside else "B ≺ 0, λ < 0 or > 1"
        if blocks.F == "0":
            return Claim("P21 Thm 6", f"{region}, D = 0", MINIMUM)
        if blocks.F == "≠":
            return Claim("P21 Thm 6", f"{region}, D ≠ 0", SADDLE)
    return Claim("P21 Thm 6", "B otherwise, or λ in {0, 1}", SILENT)
