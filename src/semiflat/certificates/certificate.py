"""A certificate as a record, and its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from semiflat.certificates.checker.words import FORMAT
from semiflat.errors import InputError
from semiflat.files import write_whole
from semiflat.records.shown import Shown

_DATA = ("X", "y", "weights")
CERTIFIED, UNDECIDED, INVALID = "certified", "undecided", "invalid_input"


@dataclass(frozen=True)
class Certificate(Shown):
    """What was proved, with all a checker needs to prove it again; or why nothing was.

    Attributes:
        status: ``"certified"``, ``"undecided"`` or ``"invalid_input"``.
        reason: the claim in words, or which inequality failed and by how much.
        head: the file's small entries as plain data.
        body: makes the large ones, which take longer to write down than to prove.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> proof = sf.certify(sf.find_critical_point(problem, starts=1))
    >>> proof.status, proof.kind, proof.inertia
    ('certified', 'STRICT_MINIMUM', (2, 0, 0))
    >>> low, high = proof.loss
    >>> low <= high < 0.02
    True
    """

    status: str
    reason: str
    head: dict[str, Any] = field(repr=False)
    body: Callable[[], dict[str, Any]] = field(repr=False, default=dict)

    def _facts(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "kind": self.kind,
            "inertia": self.inertia,
            "loss": self.loss,
            "location": self.location,
            "unique": self.unique,
            "theorem": self.theorem,
            "reason": self.reason,
        }

    @cached_property
    def document(self) -> dict[str, Any]:
        """The file as plain data, see docs/certificates.md."""
        return self.head | self.body()

    @property
    def without_data(self) -> dict[str, Any]:
        """The same but for X, y and the samples' weights, of which the hash is there."""
        document = self.document
        if "problem" not in document:
            return dict(document)
        problem = document["problem"]
        data = {key: value for key, value in problem["data"].items() if key not in _DATA}
        return {**document, "problem": {**problem, "data": data}}

    @property
    def certified(self) -> bool:
        """Whether something was proved."""
        return self.status == CERTIFIED

    @property
    def proved(self) -> dict[str, Any]:
        """The numbers that are proved; floats are hexadecimal. Empty if nothing is."""
        proved: dict[str, Any] = self.head.get("proved", {})
        return proved

    @property
    def kind(self) -> str | None:
        """A :class:`Kind`'s value, ``"DESCENT"`` for a proved descent, or None if nothing is proved."""
        return self.proved.get("kind")

    @property
    def inertia(self) -> tuple[int, int, int] | None:
        """(positive, zero, negative) eigenvalues, if they are proved exactly."""
        return tuple(self.proved["inertia"]) if self.proved.get("exact") else None

    @property
    def loss(self) -> tuple[float, float] | None:
        """An interval that holds the exact loss at the exact critical point."""
        ends = self.proved.get("loss")
        return None if ends is None else (float.fromhex(ends[0]), float.fromhex(ends[1]))

    @property
    def location(self) -> float | None:
        """How far any parameter of the exact critical point may be from the centre."""
        return self._number("location")

    @property
    def unique(self) -> float | None:
        """Within which distance of the centre, in every parameter, there is no other."""
        return self._number("unique")

    @property
    def theorem(self) -> str | None:
        """The theorem that carries an embedded point's verdict."""
        return self.proved.get("theorem")

    @property
    def premises(self) -> list[str]:
        """Its premises, each with how it was proved."""
        return list(self.proved.get("premises", []))

    def save(self, path: str | Path, data: str | Path | None = None) -> None:
        """Write the file; one of that name is replaced.

        Args:
            path: of the certificate.
            data: a file beside it to which X and y go instead, for certificates that share them.

        Raises:
            InputError: if it cannot be written, or the file beside it holds other data.
        """
        for file, content in self.files(path, data).items():
            if file == Path(path) or not file.exists():
                write_whole(file, content)
            elif file.read_bytes() != content:
                raise other_data(file)

    def files(self, path: str | Path, data: str | Path | None = None) -> dict[Path, bytes]:
        """What :meth:`save` writes: the data, if they have a file of their own, then the certificate."""
        document, path, files = self.document, Path(path), {}
        if data is not None and "X" in document.get("problem", {}).get("data", {}):
            stored = document["problem"]["data"]
            values = {key: stored[key] for key in _DATA if key in stored}
            beside = path.parent / Path(data).name
            if beside == path:
                raise InputError(
                    f"certificate and data cannot both go to {str(path)!r}; give the data another name"
                )
            files[beside] = (json.dumps(values) + "\n").encode()
            document = self.without_data
            document["problem"]["data"]["file"] = beside.name
        return files | {path: (json.dumps(document, ensure_ascii=False) + "\n").encode()}

    def _number(self, key: str) -> float | None:
        text = self.proved.get(key)
        return None if text is None else float.fromhex(text)

    def __bool__(self) -> bool:
        raise TypeError("a Certificate is neither true nor false; compare its status or kind")

    def __str__(self) -> str:
        return f"{self.status}: {self.reason}"


def other_data(file: Path) -> InputError:
    """The refusal to replace the data that other certificates may name."""
    return InputError(
        f"{str(file)!r} is there already and holds other data; choose another name for the data file"
    )


def nothing(status: str, reason: str) -> Certificate:
    """A certificate of nothing."""
    return Certificate(status, reason, {"format": FORMAT, "status": status, "reason": reason})
