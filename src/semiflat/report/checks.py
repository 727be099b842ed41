"""Section 6: how the law's predictions stand beside what the wide networks measure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from semiflat.report.numbers import count, finite, is_number, listed, signs, size
from semiflat.report.proofs import is_proved
from semiflat.report.traps import rows
from semiflat.report.words import kinds_counted

Row = dict[str, Any]


@dataclass(frozen=True)
class Group:
    """The wide points made of one narrow point.

    Attributes:
        source: name of the narrow point.
        rows: the wide points.
        kinds: (kind, "3 strict saddles") for each kind among them.
        check: in how many the law's inertia equals the dense one, in words.
        proved: of how many the kind is proved.
    """

    source: str
    rows: list[Row]
    kinds: list[tuple[str, str]]
    check: str
    proved: int


def agrees(row: Row) -> bool | None:
    """Whether law and dense count say the same; None where one of them is missing."""
    law, dense = row.get("inertia"), row.get("dense_inertia")
    return None if law is None or dense is None else list(law) == list(dense)


def groups(record: Row) -> list[Group]:
    """The wide points by narrow point."""
    by_source: dict[str, list[Row]] = {}
    for row in rows(record, "embedded"):
        by_source.setdefault(str(row.get("source")), []).append(row)
    return [
        Group(
            source,
            wide,
            kinds_counted([row.get("kind") for row in wide]),
            _equal(wide),
            sum(map(is_proved, wide)),
        )
        for source, wide in by_source.items()
    ]


def _equal(wide: list[Row]) -> str:
    checked = [agrees(row) for row in wide if agrees(row) is not None]
    return f"law = measured in {sum(map(bool, checked))} of {len(checked)}" if checked else ""


def check_sentence(record: Row) -> str:
    """How many rows agree, the largest output change, gradient and error of a curvature."""
    wide = rows(record, "embedded")
    checked = [agrees(row) for row in wide if agrees(row) is not None]
    text = (
        f"In {sum(map(bool, checked))} of {count(len(checked), 'row')} the signs that the law "
        "predicts from the narrow network are those counted in the wide network’s own Hessian"
    )
    if not checked:
        text = "No wide Hessian was small enough to be built as a check of the law"
    elif len(checked) < len(wide):
        text += f" ({len(wide) - len(checked)} more were too large for that check)"
    changes = finite([row.get("output_change") for row in wide])
    gradients = finite([row.get("gradient_norm") for row in wide])
    parts = []
    if changes:
        parts.append(
            f"the largest change of an output is {size(max(changes))} of the outputs’ size"
        )
    if gradients:
        parts.append(f"the largest gradient norm is {size(max(gradients))}")
    errors = curvature_errors(wide)
    if errors:
        parts.append(
            "curvatures predicted and measured by finite differences differ by at most "
            f"{_share(max(errors))} of their size"
        )
    return f"{text}; {listed(parts)}." if parts else f"{text}."


def _share(value: float) -> str:
    return size(value) if value < 0.01 else f"{100 * value:.3g} %"


def curvature_errors(wide: list[Row]) -> list[float]:
    """Relative difference of every curvature that is both predicted and measured."""
    pairs = [(row.get("curvature"), row.get("curvature_measured")) for row in wide]
    return [
        abs(measured - predicted) / abs(predicted)
        for predicted, measured in pairs
        if is_number(predicted) and is_number(measured) and predicted
    ]


def disagreements(record: Row) -> list[str]:
    """One sentence for each row where law and dense count differ: is a sign contradicted?"""
    return [_disagreement(row) for row in rows(record, "embedded") if agrees(row) is False]


def _disagreement(row: Row) -> str:
    law, dense = row["inertia"], row["dense_inertia"]
    text = (
        f"{row.get('name')}, {row.get('embedding')}: the law says {signs(law)}, the dense count "
        f"{signs(dense)}"
    )
    if dense[0] <= law[0] and dense[2] <= law[2]:
        more = dense[1] - law[1]
        return (
            f"{text}. The dense count cannot tell {count(more, 'more eigenvalue')} from zero; it "
            "contradicts no sign."
        )
    if law[0] <= dense[0] and law[2] <= dense[2]:
        more = law[1] - dense[1]
        return (
            f"{text}. The law takes {count(more, 'more eigenvalue')} for zero than the dense count."
        )
    return f"{text}. They contradict each other in a sign: do not rely on this row."
