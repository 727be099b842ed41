"""Verdicts: what kind of point it is, from which evidence, and how sure that is."""

from semiflat.verdicts.dispatch import judge, judge_all
from semiflat.verdicts.escapes import Escape, escape
from semiflat.verdicts.verdict import (
    Certainty,
    FlatDirections,
    Inertia,
    Kind,
    Margin,
    Verdict,
)

__all__ = [
    "Certainty",
    "Escape",
    "FlatDirections",
    "Inertia",
    "Kind",
    "Margin",
    "Verdict",
    "escape",
    "judge",
    "judge_all",
]
