"""Proofs of a study's points, in files beside its record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from semiflat.certificates.certificate import INVALID, Certificate
from semiflat.certificates.certify import certify_all
from semiflat.certificates.checker.arithmetic import need_arithmetic
from semiflat.certificates.checker.distinct import verify_distinct
from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.points import Point
from semiflat.records.study import Distinct, PointRow, ProofRow, ProofsRecord, read

ATTEMPTED, NOT_ATTEMPTED = "attempted", "not attempted"
FOLDER, DATA = "certificates", "data.json"

_OWN = re.compile(r"p\d+(-e\d+)?|data")


class Proofs:
    """The certificates of a study, each written as it is made.

    Args:
        out: folder of the study; None to write no files.
        wanted: False to prove nothing.
        outputs: what may be replaced in it.

    Attributes:
        refusal: why nothing is proved, or None.
        limited: why not all points are tried, or None.
    """

    def __init__(self, out: Path | None, wanted: bool, outputs: Outputs) -> None:
        self.outputs = outputs
        self.folder = None if out is None else out / FOLDER
        self.refusal = _missing() if wanted else "switched off with --no-proofs"
        self.limited: str | None = None

    def record(self) -> ProofsRecord:
        """Whether proofs are attempted, and if not, why."""
        status = ATTEMPTED if self.refusal is None else NOT_ATTEMPTED
        return ProofsRecord(status=status, reason=self.refusal or self.limited)

    def leave_out(self, rows: int, proved: int) -> list[ProofRow]:
        """For points that are not tried, because there are many and a proof takes long; the record says so."""
        reason = self.refusal or (
            f"a proof takes about a second here, so the {proved} lowest points and what is embedded from them "
            "are proved; semiflat certify proves any other"
        )
        self.limited = reason
        return [ProofRow(status=NOT_ATTEMPTED, reason=reason) for _ in range(rows)]

    def earlier(self) -> list[Path]:
        """The files that are there under names of a study's certificates and their data."""
        there = [] if self.folder is None else self.folder.glob("*.json")
        return [path for path in there if _OWN.fullmatch(path.stem)]

    def prove(self, named: Sequence[tuple[str, Point]]) -> list[ProofRow]:
        """Prove points; what those embedded from one source share is proved once."""
        if self.refusal is not None:
            return [ProofRow(status=NOT_ATTEMPTED, reason=self.refusal) for _ in named]
        found = certify_all([point for _, point in named])
        contents: dict[Path, bytes] = {}
        rows = [
            self._row(name, certificate, contents)
            for (name, _), certificate in zip(named, found, strict=True)
        ]
        self.outputs.write(contents)
        return rows

    def distinct(self, rows: Sequence[PointRow], most: int) -> Distinct | None:
        """How many narrow points are proved to be distinct, from their files by the checker; None without.

        Of the first ``most`` that are proved alone: each is proved again for it, in balls.
        """
        if self.refusal is not None or self.folder is None:
            return None
        names = [row.name for row in rows if row.proved]
        if not names:
            return Distinct(at_least=0, of=0, reason="no critical point is certified")
        some = names[:most]
        left = ""
        if len(some) < len(names):
            left = "the checker would take long over all of them; semiflat verify --distinct does"
            if len(some) < 2:
                return Distinct(of=0, reason=left)
        found = verify_distinct([self.folder / f"{name}.json" for name in some])
        return Distinct(
            at_least=found.at_least,
            of=len(some),
            chosen=[some[place] for place in found.chosen],
            reason="; ".join(filter(None, [found.reason, left])),
        )

    def _row(self, name: str, certificate: Certificate, contents: dict[Path, bytes]) -> ProofRow:
        file = None
        if self.folder is not None and certificate.status != INVALID:  # that file would be empty
            file = f"{name}.json"
            contents |= certificate.files(self.folder / file, DATA)
            file = f"{FOLDER}/{file}"
        own = {"status": certificate.status, "reason": certificate.reason, "file": file}
        return read(ProofRow, {**certificate.proved, **own})


def _missing() -> str | None:
    """What is said where python-flint is not installed."""
    try:
        need_arithmetic()
    except InputError as error:
        return str(error)
    return None
