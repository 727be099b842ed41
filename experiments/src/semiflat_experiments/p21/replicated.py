"""What P21 Thm 6 is about: the units of a minimum, the signs of their B, and what their replications are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

import semiflat as sf

MINIMA = ("STRICT_MINIMUM", "MINIMUM")
"""Names of the kinds of verdicts and certificates that say so."""
DEFINITE = ("positive", "negative")
ROUNDING = 1e-12
"""A part of the largest eigenvalue below which another one's sign may be rounding."""
PAIRS = tuple((Fraction(a, 2), 1 - Fraction(a, 2)) for a in (1, -1))
"""Shares of two copies for a λ in (0, 1) and for one outside [0, 1]: nothing changes but at 0 and 1."""


@dataclass(frozen=True)
class Unit:
    """A hidden unit of a minimum.

    Attributes:
        point: the minimum.
        layer, unit: where.
        eigenvalues: of B, its bias row included where the unit has a bias; ascending.
        D: the largest entry of D by size, a sum over the samples as P21's.
        outcome: ``inside`` if two copies with shares λ and 1 − λ are a minimum for λ in (0, 1),
            ``outside`` if outside [0, 1], ``saddle`` if for no λ, else ``undecided``.
    """

    point: sf.Point
    layer: int
    unit: int
    eigenvalues: tuple[float, ...]
    D: float
    outcome: str

    @property
    def sign(self) -> str:
        """Of B: ``positive``, ``negative`` or ``indefinite``."""
        return NAMES[sign_of(self.eigenvalues)]


def replicated(point: sf.Point) -> list[Unit]:
    """All hidden units of a minimum, of which :func:`semiflat.replications` says what their copies are.

    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> [(unit.sign, unit.outcome) for unit in replicated(sf.find_critical_point(problem, starts=8))]
    [('positive', 'inside')]
    """
    return [
        _unit(point, row.layer, row.unit, row.inside.kind.name, row.outside.kind.name)
        for row in sf.replications(point)
    ]


def proved(point: sf.Point) -> list[Unit]:
    """The same, of which certificates prove what their copies are; else they are undecided."""
    hidden = enumerate(point.problem.net.hidden)
    where = [(layer, unit) for layer, width in hidden for unit in range(width)]
    wide: list[sf.Point] = [
        sf.Replicate(*each, list(pair))(point) for each in where for pair in PAIRS
    ]
    kinds = [certificate.kind for certificate in sf.certify_all(wide)]
    return [_unit(point, *each, *kinds[2 * k : 2 * k + 2]) for k, each in enumerate(where)]


def _unit(point: sf.Point, layer: int, unit: int, inside: str | None, outside: str | None) -> Unit:
    blocks = sf.unit_blocks(point, layer, unit)
    eigenvalues = tuple(torch.linalg.eigvalsh(blocks.G).tolist())
    D = float(blocks.F.abs().max()) * point.problem.samples
    return Unit(point, layer, unit, eigenvalues, D, outcome_of(inside, outside))


def outcome_of(inside: str | None, outside: str | None) -> str:
    """What the kinds at a λ in (0, 1) and at one outside say.

    >>> outcome_of("MINIMUM", "STRICT_SADDLE"), outcome_of("MINIMUM", None)
    ('inside', 'undecided')
    """
    saddles = [kind == "STRICT_SADDLE" for kind in (inside, outside)]
    if inside in MINIMA and saddles[1]:
        return "inside"
    if outside in MINIMA and saddles[0]:
        return "outside"
    return "saddle" if all(saddles) else "undecided"


def counted_signs(units: Sequence[Unit]) -> list[dict[str, int]]:
    """For each hidden layer, how many units have which sign of B, which outcome, and which of both."""
    layers = 1 + max((unit.layer for unit in units), default=-1)
    counts: list[Counter[str]] = [Counter() for _ in range(layers)]
    for unit in units:
        counts[unit.layer].update((unit.sign, unit.outcome, f"{unit.sign} {unit.outcome}"))
    return [dict(sorted(each.items())) for each in counts]


def added(records: Sequence[Sequence[dict[str, int]]], layers: int) -> list[Counter[str]]:
    """Such counts of several records together, (layers,)."""
    total: list[Counter[str]] = [Counter() for _ in range(layers)]
    for record in records:
        for layer, counts in enumerate(record):
            total[layer].update(counts)
    return total


def all_of(counts: Counter[str]) -> int:
    """How many units were counted."""
    return sum(counts[key] for key in (*DEFINITE, "indefinite"))


def definite(counts: Counter[str]) -> int:
    """How many of them have a definite B."""
    return sum(counts[key] for key in DEFINITE)


NAMES = {"+": "positive", "-": "negative", "p": "indefinite", "m": "indefinite", ".": "indefinite"}
"""What may be definite by rounding alone is not called definite."""


def sign(B: Tensor) -> str:
    """``+`` or ``-`` for a definite matrix, ``p`` or ``m`` for one that may be so by rounding, else ``.``.

    >>> [sign(torch.diag(torch.tensor([1.0, x], dtype=torch.float64))) for x in (1, 1e-14, 0, -1)]
    ['+', 'p', '.', '.']
    """
    return sign_of(torch.linalg.eigvalsh(B).tolist())


def sign_of(eigenvalues: Sequence[float]) -> str:
    """The same of ascending eigenvalues."""
    low, high = eigenvalues[0], eigenvalues[-1]
    if low > 0:
        return "+" if low > ROUNDING * high else "p"
    if high < 0:
        return "-" if high < ROUNDING * low else "m"
    return "."
