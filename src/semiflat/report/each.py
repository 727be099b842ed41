"""Point by point: what each is, its verdict in words, what it is made of, and the command that opens it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from semiflat.records.study import (
    Anatomy,
    EmbeddedRow,
    EscapeRow,
    JudgedRow,
    NearestRow,
    PointRow,
    StudyRecord,
)
from semiflat.report import numbers, proofs, words
from semiflat.report.classes import percent
from semiflat.report.made_of import MadeOf, eigenvalues, layers, output_bias
from semiflat.report.names import is_name
from semiflat.report.numbers import count, listed, loss, size


@dataclass(frozen=True)
class Section:
    """What the page says of one point.

    Attributes:
        name: of the point, its file and its place on the page.
        row: its record; an escape for the end of a way down.
        loss: its own; that of its source for a wide point.
        widths: of its network.
        what: sentences on what it is.
        verdict: sentences on its kind and why; none at the end of a way down.
        facts: names and numbers.
        made_of: what is drawn.
        commands: that open it, each with what it does.
        end: of the way down that was followed from it.
        before, after: names of its neighbours.
    """

    name: str
    row: JudgedRow | EscapeRow
    loss: float | None
    widths: Sequence[int]
    what: list[str]
    verdict: list[str]
    facts: list[tuple[str, str]]
    made_of: MadeOf
    commands: list[tuple[str, str]]
    end: Section | None = None
    before: str | None = None
    after: str | None = None


@dataclass(frozen=True)
class Family:
    """A narrow point, the wide points that were made of it, and those reached from others with weight decay."""

    narrow: Section
    wide: list[Section]
    nearest: list[Section]
    at_infinity: bool

    @property
    def rows(self) -> list[Any]:
        """The records of the wide points."""
        return [section.row for section in self.wide]


def families(record: StudyRecord) -> list[Family]:
    """Every narrow point, lowest loss first, and what it became."""
    points = {row.name: row for row in record.points}
    wide = record.by_source()
    ends = {escape.embedded: escape for escape in record.escapes}
    every = [*points, *(name for name in wide if name not in points)]
    found = []
    for k, name in enumerate(every):
        point = points.get(name, PointRow(name=name))
        rows = wide.get(name, [])
        before, after = neighbours(every, k)
        found.append(
            Family(
                _narrow(record, point, rows, before, after),
                [_wide(record, point, rows, n, ends.get(row.name)) for n, row in enumerate(rows)],
                [_nearest(record, row) for row in record.nearest or () if row.source == name],
                bool(point.at_infinity),
            )
        )
    return found


def neighbours(names: Sequence[str], at: int) -> tuple[str | None, str | None]:
    """What stands before a name and after it."""
    before = names[at - 1] if at else None
    return before, names[at + 1] if at + 1 < len(names) else None


def _narrow(
    record: StudyRecord,
    row: PointRow,
    wide: list[EmbeddedRow],
    before: str | None,
    after: str | None,
) -> Section:
    shape = record.network.widths
    place = "at infinity " if row.at_infinity else ""
    what = [
        f"A critical point {place}of the {numbers.widths(shape)} network, at loss {loss(row.loss)}."
    ]
    if row.at_infinity:
        forms = "; ".join(", ".join(layer) for layer in row.at_infinity)
        what.append(f"Its units stand there as: {forms}.")
    if row.trivial:
        what.append(f"Note: {row.trivial}.")
    if row.start is not None and row.iterations is not None:
        what.append(
            f"Run {row.start} of the search ended here, after {count(row.iterations, 'step')}."
        )
    if wide:
        kinds = listed([text for _, text in words.kinds_counted([each.kind for each in wide])])
        what.append(f"Placed in wider networks, in {count(len(wide), 'way')}, it becomes: {kinds}.")
    facts = facts_of(row)
    if row.largest_parameter is not None:
        facts.append(("largest parameter", size(row.largest_parameter, 3)))
    facts += [("right on the data", percent(row.accuracy))] if row.accuracy is not None else []
    facts += [("penalty in the loss", size(row.penalty, 3))] if row.penalty is not None else []
    made_of = _made_of(record, row.name, [(row.name, row.inertia)], row.at_infinity)
    return Section(
        row.name, row, row.loss, shape, what, verdict_of(row), facts, made_of,
        _commands(record, row.name, row), before=before, after=after,
    )  # fmt: skip


def _wide(
    record: StudyRecord,
    point: PointRow,
    rows: list[EmbeddedRow],
    at: int,
    escape: EscapeRow | None,
) -> Section:
    row = rows[at]
    before, after = neighbours([each.name for each in rows], at)
    what = [
        f"{row.source} placed in a {numbers.widths(row.widths)} network: {_embedding(row)}. It computes the "
        f"same function, so its loss is that of {row.source}, {loss(point.loss)}."
    ]
    facts = facts_of(row)
    law = "curvature of its Hessian" if point.at_infinity else "curvature by law"
    facts += [
        ("inertia measured", numbers.signs(row.dense_inertia)),
        (law, size(row.curvature, 4)),
        ("curvature measured", size(row.curvature_measured, 4)),
        ("largest change of an output", size(row.output_change)),
    ]
    judged = [(row.source, point.inertia), (row.name, row.inertia)]
    return Section(
        row.name, row, point.loss, row.widths, what, verdict_of(row),
        [(name, text) for name, text in facts if text != numbers.NONE],
        _made_of(record, row.name, judged), _commands(record, row.name, row),
        _end(record, escape) if escape else None, before, after,
    )  # fmt: skip


def _nearest(record: StudyRecord, row: NearestRow) -> Section:
    shape = numbers.widths(row.widths)
    what = [
        f"{row.source} placed in a {shape} network, {row.embedding}, computes the same function but is not "
        f"critical with weight decay: there the loss is {loss(row.loss_embedded)} and the gradient norm "
        f"{size(row.gradient_embedded)}.",
        f"Descent from there ended here, at loss {loss(row.loss)}; that of {row.source} is "
        f"{loss(row.loss_before)} ({numbers.change(row.loss_before, row.loss)}).",
        f"The run {words.status_words(row.status)}{f': {row.evidence}' if row.evidence else ''}.",
    ]
    facts = [*facts_of(row), ("distance in parameters", size(row.distance))]
    if row.effective_hidden is not None:
        facts.append(("units it really uses", numbers.widths(row.effective_hidden)))
    made_of = _made_of(record, row.name, [(row.name, row.inertia)])
    return Section(
        row.name, row, row.loss, row.widths, what, verdict_of(row), facts, made_of,
        _commands(record, row.name, row),
    )  # fmt: skip


def _embedding(row: EmbeddedRow) -> str:
    """What was added, for the two sorts of steps that most embeddings are."""
    if len(row.steps) == 1:
        step = row.steps[0]
        layer = f"hidden layer {step.get('layer')}"
        shares = _runs(step.get("weights"))
        biases = _runs(step.get("biases"))
        if step.get("type") == "Replicate" and shares:
            copies = count(len(shares), "copy", "copies")
            return f"unit {step.get('unit')} of {layer} becomes {copies} with the shares {listed(shares)}"
        if step.get("type") == "NullUnits" and biases:
            units = count(len(biases), "null unit")
            return f"{units} with bias {listed(list(dict.fromkeys(biases)))} added to {layer}"
    return row.embedding or "embedded"


def _runs(value: Any) -> list[str]:
    """Values written as (value, how often) pairs, one by one, as numbers are spoken."""
    if not isinstance(value, list) or not all(isinstance(v, list) and len(v) == 2 for v in value):
        return []
    return [
        str(v).replace("-", "−")
        for v, times in value
        if isinstance(times, int)
        for _ in range(times)
    ]


def _end(record: StudyRecord, escape: EscapeRow) -> Section:
    fall = numbers.change(escape.loss_before, escape.loss_after)
    what = [
        f"The way down from {escape.embedded} was followed along its direction of descent, and then minimised: "
        f"from loss {loss(escape.loss_before)} to {loss(escape.loss_after)} ({fall})."
    ]
    steps = "" if escape.iterations is None else f" after {count(escape.iterations, 'step')}"
    if escape.status:
        evidence = f": {escape.evidence}" if escape.evidence else ""
        what.append(f"The run {words.status_words(escape.status)}{steps}{evidence}.")
    if escape.effective_hidden is not None:
        what.append(
            f"Units it really uses: {numbers.widths(escape.effective_hidden)} of "
            f"{numbers.widths(escape.widths[1:-1])}."
        )
    if escape.name:
        what.append("The study did not judge this point; the command below does.")
    return Section(
        escape.name, escape, escape.loss_after, escape.widths, what, [], [],
        _made_of(record, escape.name, []), _commands(record, escape.name, None),
    )  # fmt: skip


def verdict_of(row: JudgedRow) -> list[str]:
    """What kind of point it is and why, in sentences."""
    kind = words.kind_words(row.kind)
    found = [
        f"{kind.one.capitalize()}: {kind.meaning}" if kind.meaning else f"{kind.one.capitalize()}."
    ]
    if row.reason:
        found.append(f"Why: {row.reason}.")
    note = proofs.proof_of(row).note
    if note:
        found.append(f"{note[0].upper()}{note[1:]}.")
    if row.proved and row.certificate and row.certificate.reason:
        by_law = "by the inertia law, from the certificate of the narrow point"
        found.append(
            f"Proved: {by_law if isinstance(row, EmbeddedRow) else row.certificate.reason}."
        )
    flat = row.flat_directions
    if flat and flat.families:
        named = ", ".join(f"{each.name} ({each.dimension})" for each in flat.families)
        reasons = "; ".join(each.reason for each in flat.families if each.reason)
        why = f": {reasons}" if reasons else ""
        found.append(f"It is flat along {named}{words.overlap(flat)}{why}.")
    return found


def facts_of(row: JudgedRow) -> list[tuple[str, str]]:
    """The numbers that the verdict rests on, those that are known."""
    margin = None if row.kind == "UNDECIDED" else row.margin
    facts = [
        ("inertia (+ / 0 / −)", numbers.signs(row.inertia)),
        ("gradient norm", size(row.gradient_norm)),
        ("deciding eigenvalue", size(margin.eigenvalue if margin else None, 3)),
        ("times its noise floor", numbers.times(margin.ratio if margin else None)),
        ("judged by", row.method or numbers.NONE),
    ]
    return [(name, text) for name, text in facts if text not in (numbers.NONE, "inf")]


def _made_of(
    record: StudyRecord,
    name: str,
    judged: list[tuple[str, Any]],
    forms: Sequence[Sequence[str]] | None = None,
) -> MadeOf:
    anatomy = record.anatomy
    own = anatomy.get(name, Anatomy())
    rows = [(of, anatomy[of].eigenvalues, inertia) for of, inertia in judged if of in anatomy]
    drawn = [eigenvalues(*row) for row in rows if row[1]] if own.eigenvalues else []
    return MadeOf(layers(own, record.data, forms), output_bias(own), drawn)


def _commands(record: StudyRecord, name: str, row: JudgedRow | None) -> list[tuple[str, str]]:
    return list(_each_command(record, name, row)) if is_name(name) else []


def _each_command(
    record: StudyRecord, name: str, row: JudgedRow | None
) -> Iterator[tuple[str, str]]:
    data = data_options(record)
    yield "Open it, and judge it again:", f"semiflat judge points/{name}.safetensors {data}"
    file = proofs.proof_of(row).file if row is not None and row.proved else None
    if file:
        yield "Check its proof:", f"semiflat verify {file}"


def data_options(record: StudyRecord) -> str:
    """The options by which a command loads the data as this study did."""
    source = record.source
    words = ["--data", source.get("source") or record.data.name or "FILE"]
    if source.get("target"):
        words += ["--target", source["target"]]
    if not source.get("standardise", record.data.standardisation is not None):
        words.append("--raw")
    return shlex.join(map(str, words))
