"""Section 6: how the law's predictions stand beside what the wide networks measure."""

from __future__ import annotations

from semiflat.records.study import EmbeddedRow, Signs, StudyRecord
from semiflat.report.numbers import count, listed, signs, size


def equal(wide: list[EmbeddedRow]) -> str:
    """In how many of them the law's inertia equals the dense one; nothing where none was counted."""
    checked = [row.agrees for row in wide if row.agrees is not None]
    return f"law = measured in {sum(map(bool, checked))} of {len(checked)}" if checked else ""


def check_sentences(record: StudyRecord) -> list[str]:
    """How many rows agree, the largest output change, gradient and error of a curvature.

    Apart from these the same of rows at infinity, which are not judged by the law.
    """
    law, far = record.embedded_at_infinity(False), record.embedded_at_infinity()
    found = [f"{_law(law)}{_measured(law, 'curvatures predicted and')}."] if law else []
    if far:
        found.append(
            f"Points at infinity ({count(len(far), 'row')}) are no check of the law: the signs there are "
            f"those of the wide limiting network’s own Hessian{_measured(far, 'its curvatures and those')}."
        )
    return found


def _law(wide: list[EmbeddedRow]) -> str:
    checked = [row.agrees for row in wide if row.agrees is not None]
    if not checked:
        return "No wide Hessian was small enough to be built as a check of the law"
    text = (
        f"In {sum(map(bool, checked))} of {count(len(checked), 'row')} the signs that the law "
        "predicts from the narrow network are those counted in the wide network’s own Hessian"
    )
    if len(checked) < len(wide):
        text += f" ({len(wide) - len(checked)} more were too large for that check)"
    return text


def _measured(wide: list[EmbeddedRow], curvatures: str) -> str:
    changes = [row.output_change for row in wide if row.output_change is not None]
    gradients = [row.gradient_norm for row in wide if row.gradient_norm is not None]
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
            f"{curvatures} measured by finite differences differ by at most "
            f"{_share(max(errors))} of their size"
        )
    return f"; {listed(parts)}" if parts else ""


def _share(value: float) -> str:
    return size(value) if value < 0.01 else f"{100 * value:.3g} %"


def curvature_errors(wide: list[EmbeddedRow]) -> list[float]:
    """Relative difference of every curvature that is both predicted and measured."""
    return [
        abs(row.curvature_measured - row.curvature) / abs(row.curvature)
        for row in wide
        if row.curvature and row.curvature_measured is not None
    ]


def disagreements(record: StudyRecord) -> list[str]:
    """One sentence for each row where law and dense count differ: is a sign contradicted?"""
    return [
        _disagreement(row, row.inertia, row.dense_inertia)
        for row in record.embedded
        if row.inertia and row.dense_inertia and not row.agrees
    ]


def _disagreement(row: EmbeddedRow, law: Signs, dense: Signs) -> str:
    text = f"{row.name}, {row.embedding}: the law says {signs(law)}, the dense count {signs(dense)}"
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
