"""What is proved: a mark beside each point, and sentences on all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from semiflat.records.study import JudgedRow, ProofRow, StudyRecord
from semiflat.report.numbers import NONE, count, listed
from semiflat.report.words import kind_words

_FILE = re.compile(r"certificates/[\w-]+\.json")
_NAME = re.compile(r"p\d+(-e\d+)?")


@dataclass(frozen=True)
class Proof:
    """How a row's kind is known.

    Attributes:
        text: ``"proved"`` or ``"measured"``; a proved kind other than the measured one is named.
        css: its class.
        file: of the certificate, from the page's folder; None if there is none.
        note: what the proof leaves open, or why there is none.
    """

    text: str
    css: str
    file: str | None
    note: str


def proof_of(row: JudgedRow) -> Proof:
    """The mark of a row."""
    proof = row.certificate or ProofRow()
    file = proof.file if proof.file and _FILE.fullmatch(proof.file) else None
    if proof.status == "invalid_input":
        file = None  # that of an earlier version holds nothing
    if not row.proved:
        note = f"no proof: {proof.reason}" if _in_vain(row) else ""
        return Proof("measured", "measured", file, note)
    text = "proved" if proof.kind == row.kind else f"proved: {kind_words(proof.kind or '').one}"
    return Proof(text, "proved", file, _inexact(proof))


def _inexact(proof: ProofRow) -> str:
    if proof.exact is not False:
        return ""
    positive, _, negative = proof.inertia or (NONE,) * 3
    return f"inertia not proved exactly: at least {positive} positive and {negative} negative"


def _in_vain(row: JudgedRow) -> bool:
    """Whether a proof was tried, and there is none."""
    proof = row.certificate
    return proof is not None and proof.status not in (None, "certified", "not attempted")


def not_attempted(record: StudyRecord) -> str:
    """Why no proofs were attempted, or nothing."""
    if record.proofs.status != "not attempted":
        return ""
    return f"Nothing on this page is proved: {record.proofs.reason}."


def points_sentence(record: StudyRecord) -> str:
    """How many critical points are proved to be there, and how many of them to be distinct."""
    points = record.points
    proved = sum(row.proved for row in points)
    if not any(row.certificate for row in points) or not_attempted(record):
        return ""
    if not proved:
        return "The kind of none of them is proved."
    least = least_distinct(record)
    start = "" if least is None else f"At least {count(least, 'distinct critical point')}, proved. "
    which = "It" if len(points) == 1 else f"{proved} of the {len(points)}"
    which = "All of them" if proved == len(points) > 1 else which
    return (
        f"{start}{which} {'has' if proved == 1 else 'have'} a certificate: next to the point as it is stored "
        "lies exactly one critical point of the exact loss on exactly these data, and its inertia is known "
        "for certain."
        + (f" Not all were tried: {record.proofs.reason}." if record.proofs.reason else "")
    )


def wide_sentence(record: StudyRecord) -> str:
    """How many wide points are proved, and how many of these not to the last zero eigenvalue."""
    wide = record.embedded
    proved = [row.certificate for row in wide if row.certificate and row.proved]
    if not any(row.certificate for row in wide) or not_attempted(record):
        return ""
    if not proved:
        return "The kind of none of them is proved."
    how = "by the inertia law from a certified narrow point"
    if record.decay:
        how = "each at the wide point itself"
    text = f"The kind of {_of_all(len(proved), len(wide))} is proved, {how}"
    inexact = sum(proof.exact is False for proof in proved)
    if inexact:
        text += f"; for {inexact} of them the numbers of eigenvalues are lower bounds"
    return f"{text}."


def summary(record: StudyRecord) -> str:
    """The proofs in one short sentence, for the top of the page."""
    wide, least = record.embedded, least_distinct(record)
    parts = []
    if least:
        parts.append(f"at least {count(least, 'distinct critical point')}")
    kinds = sum(row.proved for row in wide)
    if kinds:
        parts.append(f"the kind of {_of_all(kinds, len(wide))} wide points")
    return f"Proved in ball arithmetic: {listed(parts)}." if parts else ""


def least_distinct(record: StudyRecord) -> int | None:
    """So many critical points at least are proved to be distinct; None if that was not asked."""
    return None if record.distinct_proved is None else record.distinct_proved.at_least


def others(found: Sequence[JudgedRow]) -> list[tuple[str, str]]:
    """The rows that a proof was tried for in vain: (their names, why), those of one reason together."""
    names: dict[str, list[str]] = {}
    for row in found:
        if row.certificate and _in_vain(row):
            names.setdefault(row.certificate.reason, []).append(row.name)
    return [(", ".join(which), reason) for reason, which in names.items()]


def commands(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """Commands that check the certificates again, each with what it does."""
    proved = [row for row in (*record.points, *record.embedded) if row.proved]
    files = [proof.file for row in proved if (proof := proof_of(row)).file]
    if files:
        what = "Check a proof again; the checker believes no number that stands here."
        yield what, f"semiflat verify {files[-1]}"
    chosen = record.distinct_proved.chosen if record.distinct_proved else ()
    names = [name for name in chosen if _NAME.fullmatch(name)]
    if len(names) > 1:
        what = "Check, too, that these critical points are distinct."
        yield what, f"semiflat verify --distinct certificates/{{{','.join(names)}}}.json"


def _of_all(some: int, of: int) -> str:
    return f"all {of}" if some == of > 1 else f"{some} of the {of}"
