"""Counts over the records of the census: kinds by case, signs of G, reasons, zeros."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import semiflat as sf
from semiflat_experiments.experiment import Record
from semiflat_experiments.f19.claims import SILENT
from semiflat_experiments.f19.embedded import MINIMA, SECTION_B
from semiflat_experiments.f19.problems import FAMILIES

KINDS = {
    "minimum": [str(kind) for kind in MINIMA],
    "saddle": [str(sf.Kind.STRICT_SADDLE)],
    "undecided": [str(sf.Kind.UNDECIDED)],
    "not critical": [str(sf.Kind.NOT_CRITICAL)],
}
THEOREMS = ("F19 Thm 5", "F19 Thm 9", "F19 Thm 10", "F19 Thm 11", "P21 Thm 6", SECTION_B)
"""In the order of the table."""
SIGNS = {"G ≻ 0": "+", "G ≺ 0": "-", "G indefinite": "±", "singular or tiny": ".0?"}


def embedded_points(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """All of them, each with its family."""
    for record in records:
        for each in record["embedded"]:
            yield {**each, "family": record["family"]}


def case_counts(records: Sequence[Record]) -> dict[tuple[str, str, str], Counter[str]]:
    """For each theorem, case and claim, how many embedded points are of each kind."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    for point in embedded_points(records):
        for theorem, case, says in point["claims"]:
            kind = next(name for name, kinds in KINDS.items() if point["kind"] in kinds)
            found.setdefault((theorem, case, says), Counter())[kind] += 1

    def place(case: tuple[str, str, str]) -> tuple[int, bool, str]:
        return THEOREMS.index(case[0]), case[2] == SILENT, case[1]

    return {case: found[case] for case in sorted(found, key=place)}


def reasons(points: Sequence[dict[str, Any]]) -> Counter[str]:
    """Why verdicts are undecided, without the numbers in the reasons."""
    found: Counter[str] = Counter()
    for point in points:
        if point["kind"] == sf.Kind.UNDECIDED:
            reason = re.sub(r"^unit \d+ of hidden layer \d+, in \d+ copies: ", "", point["reason"])
            found[re.sub(r"[1-9]\d*(\.\d+)?(e[+-]?\d+)?", "n", reason)] += 1
    return found


def added_zeros(records: Sequence[Record]) -> list[int]:
    """Zero eigenvalues that two units inactive both ways add, for every minimum and layer."""
    found = []
    for record in records:
        for each in record["embedded"]:
            if each["embedding"] == "inactive units, v = 0" and each["inertia"]:
                narrow = record["searched"][each["problem"]]["kept"][each["minimum"]]["inertia"]
                found.append(each["inertia"][1] - narrow[1])
    return found


def unit_signs(records: Sequence[Record]) -> dict[str, Counter[str]]:
    """Signs of G over the units of all minima, by activation."""
    found: dict[str, Counter[str]] = {}
    for point in embedded_points(records):
        if point["embedding"] == "two inside":
            activation = FAMILIES[point["family"]].activation
            sign = next(name for name, signs in SIGNS.items() if point["blocks"][0] in signs)
            found.setdefault(activation, Counter())[sign] += 1
    return found
