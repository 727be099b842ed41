"""What the record's names mean: kinds of points, ways a run ends, families of embeddings, losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semiflat.records.study import FlatDirections
from semiflat.report.numbers import count


@dataclass(frozen=True)
class KindWords:
    """A kind of point: how it is written, in one and in many, its mark, and what it means."""

    one: str
    many: str
    mark: str
    css: str
    meaning: str


KINDS = {
    "STRICT_MINIMUM": KindWords(
        "strict minimum",
        "strict minima",
        "●",
        "strict-minimum",
        "the gradient is zero and every direction leads up.",
    ),
    "MINIMUM": KindWords(
        "minimum",
        "minima",
        "◐",
        "minimum",
        "the gradient is zero and no direction leads down; along some the loss is exactly constant, "
        "and it is known why. Descent that arrives here stays: a trap.",
    ),
    "STRICT_SADDLE": KindWords(
        "strict saddle",
        "strict saddles",
        "▼",
        "strict-saddle",
        "the gradient is zero, but the curvature is negative in at least one direction: the loss "
        "falls both ways along it, so there is a way down.",
    ),
    "UNDECIDED": KindWords(
        "undecided",
        "undecided",
        "?",
        "undecided",
        "the second derivatives and the precision of the numbers do not settle it; the reason is "
        "given beside it. Never to be read as “minimum”.",
    ),
    "NOT_CRITICAL": KindWords(
        "not critical",
        "not critical",
        "→",
        "not-critical",
        "the gradient is not zero: no critical point at all.",
    ),
}

MINIMA = ("STRICT_MINIMUM", "MINIMUM")

CERTAINTIES = {
    "MEASURED": "found in floating point, and the margin says by how much: the deciding eigenvalue "
    "over its noise floor, which is how far rounding may have moved it.",
    "PROVED": "holds for certain, by a theorem or in ball arithmetic, which keeps bounds on every rounding, "
    "of the exact critical point next to the one stored. The word leads to the certificate, which "
    "semiflat verify checks from scratch.",
}

FAMILIES = {
    "replicate inside": "one unit is copied; the copies keep its incoming weights and share out "
    "its outgoing weights in parts λ that are all between 0 and 1, such as ½ and ½.",
    "replicate outside": "the same, but with a part below 0, such as 3⁄2 and −1⁄2. The function "
    "is still exactly the same; the curvature is not.",
    "scaled copies": "a positively homogeneous unit (relu) is copied; incoming and outgoing weights of each "
    "copy are multiplied by the same β, with squares that sum to 1. Neither the function nor the penalty "
    "changes.",
    "null units": "new units with zero incoming and zero outgoing weights and a chosen bias: they "
    "compute a constant that nothing listens to.",
}

STATUSES = {
    "CONVERGED": "reached a critical point",
    "CHANNEL": "ran to infinity where units merge",
    "SATURATED": "ran to infinity where units become steps or constant",
    "DIVERGED": "ran to infinity",
    "STALLED": "stalled",
    "MAX_ITERATIONS": "ran out of iterations",
    "NON_FINITE": "had no finite loss at the start",
}

STATUS_MARKS = {
    "CONVERGED": "",
    "CHANNEL": "∞",
    "SATURATED": "∞",
    "DIVERGED": "∞",
    "STALLED": "·",
    "MAX_ITERATIONS": "↓",
}


def kind_words(kind: str) -> KindWords:
    """The words for a kind, also for one this version does not know."""
    text = kind.lower().replace("_", " ") or "not judged"
    return KINDS.get(kind, KindWords(text, text, "", "undecided", ""))


def kinds_counted(kinds: Sequence[str]) -> list[tuple[str, str]]:
    """Every kind that occurs, in the order of :data:`KINDS`, as (kind, "3 strict saddles")."""
    known = [*KINDS, *dict.fromkeys(kind for kind in kinds if kind not in KINDS)]
    return [
        (kind, count(kinds.count(kind), kind_words(kind).one, kind_words(kind).many))
        for kind in known
        if kind in kinds
    ]


def overlap(flat: FlatDirections) -> str:
    """What is said of flat families that share directions; nothing where they do not.

    >>> from semiflat.records.study import FlatFamily
    >>> overlap(FlatDirections(families=[FlatFamily(dimension=6), FlatFamily(dimension=3)], dimension=7))
    ': together 7, as some directions belong to two of them'
    """
    if flat.dimension is None or not flat.families:
        return ""
    if sum(family.dimension for family in flat.families) <= flat.dimension:
        return ""
    return f": together {flat.dimension}, as some directions belong to two of them"


def status_words(status: str) -> str:
    """How a run ended, in words that follow "a run".

    >>> status_words("DIVERGED"), status_words("OTHER_END")
    ('ran to infinity', 'other end')
    """
    return STATUSES.get(status, status.lower().replace("_", " "))
