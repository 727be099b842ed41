"""What is proved: a mark beside each point, and sentences on all of them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from semiflat.report.numbers import NONE, count, is_number, listed
from semiflat.report.traps import rows
from semiflat.report.words import kind_words

Row = dict[str, Any]

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


def is_proved(row: Row) -> bool:
    """Whether a row has a certificate."""
    return _of(row).get("status") == "certified"


def proof_of(row: Row) -> Proof:
    """The mark of a row."""
    proof = _of(row)
    file = proof.get("file")
    file = file if isinstance(file, str) and _FILE.fullmatch(file) else None
    reason = proof.get("reason") or ""
    if not is_proved(row):
        tried = proof.get("status") not in (None, "not attempted")
        return Proof("measured", "measured", file, f"no proof: {reason}" if tried else "")
    kind = proof.get("kind")
    text = "proved" if kind == row.get("kind") else f"proved: {kind_words(kind).one}"
    return Proof(text, "proved", file, _inexact(proof))


def _inexact(proof: Row) -> str:
    if proof.get("exact") is not False:
        return ""
    positive, _, negative = proof.get("inertia") or (NONE,) * 3
    return f"inertia not proved exactly: at least {positive} positive and {negative} negative"


def _of(row: Row) -> Row:
    proof = row.get("certificate")
    return proof if isinstance(proof, dict) else {}


def not_attempted(record: Row) -> str:
    """Why no proofs were attempted, or nothing."""
    proofs = record.get("proofs") or {}
    if proofs.get("status") != "not attempted":
        return ""
    return f"Nothing on this page is proved: {proofs.get('reason')}."


def points_sentence(record: Row) -> str:
    """How many critical points are proved to be there, and how many of them to be distinct."""
    points = rows(record, "points")
    proved = sum(map(is_proved, points))
    if not any(map(_of, points)) or not_attempted(record):
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
    )


def wide_sentence(record: Row) -> str:
    """How many wide points are proved, and how many of these not to the last zero eigenvalue."""
    wide = rows(record, "embedded")
    proved = [row for row in wide if is_proved(row)]
    if not any(map(_of, wide)) or not_attempted(record):
        return ""
    if not proved:
        return "The kind of none of them is proved."
    text = (
        f"The kind of {_of_all(len(proved), len(wide))} is proved, by the inertia law from "
        "a certified narrow point"
    )
    inexact = sum(_of(row).get("exact") is False for row in proved)
    if inexact:
        text += f"; for {inexact} of them the numbers of eigenvalues are lower bounds"
    return f"{text}."


def summary(record: Row) -> str:
    """The proofs in one short sentence, for the top of the page."""
    wide, least = rows(record, "embedded"), least_distinct(record)
    parts = []
    if least:
        parts.append(f"at least {count(least, 'distinct critical point')}")
    kinds = sum(map(is_proved, wide))
    if kinds:
        parts.append(f"the kind of {_of_all(kinds, len(wide))} wide points")
    return f"Proved in ball arithmetic: {listed(parts)}." if parts else ""


def least_distinct(record: Row) -> int | None:
    """So many critical points at least are proved to be distinct; None if that was not asked."""
    found = record.get("distinct_proved")
    least = found.get("at_least") if isinstance(found, dict) else None
    return int(least) if is_number(least) else None


def others(found: list[Row]) -> list[tuple[str, str]]:
    """The rows that a proof was tried for in vain: (their names, why), those of one reason together."""
    names: dict[str, list[str]] = {}
    for row in found:
        if _of(row) and not is_proved(row) and _of(row).get("status") != "not attempted":
            names.setdefault(str(_of(row).get("reason")), []).append(str(row.get("name")))
    return [(", ".join(which), reason) for reason, which in names.items()]


def commands(record: Row) -> list[tuple[str, str]]:
    """Commands that check the certificates again, each with what it does."""
    proved = [row for key in ("points", "embedded") for row in rows(record, key) if is_proved(row)]
    files = [proof.file for row in proved if (proof := proof_of(row)).file]
    shown = []
    if files:
        shown.append(
            (
                "Check a proof again; the checker believes no number that stands here.",
                f"semiflat verify {files[-1]}",
            )
        )
    chosen = (record.get("distinct_proved") or {}).get("chosen") or []
    names = [name for name in chosen if isinstance(name, str) and _NAME.fullmatch(name)]
    if len(names) > 1:
        shown.append(
            (
                "Check, too, that these critical points are distinct.",
                f"semiflat verify --distinct certificates/{{{','.join(names)}}}.json",
            )
        )
    return shown


def _of_all(some: int, of: int) -> str:
    return f"all {of}" if some == of > 1 else f"{some} of the {of}"
