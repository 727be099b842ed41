"""From what is typed to what the library takes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import semiflat as sf
from semiflat.errors import InputError


@dataclass(frozen=True)
class DataOptions:
    """How data are loaded; travels with every saved point."""

    source: str
    target: str | None = None
    loss: str | None = None
    standardise: bool = True

    def load(self) -> sf.Dataset:
        """The data."""
        return sf.load_data(self.source, self.target, loss=self.loss, standardise=self.standardise)

    def to_json(self) -> dict[str, Any]:
        """As plain data, the inverse of ``DataOptions(**data)``."""
        return dict(vars(self))


def stored_point(
    path: Path, data: str | None, target: str | None, raw: bool
) -> tuple[sf.Point, dict[str, Any]]:
    """A saved point on its data, and how the data were loaded.

    Raises:
        InputError: if the file or the data cannot be used, or do not belong together.
    """
    stored = sf.load_point(path)
    if data is not None:
        options = DataOptions(data, target, stored.loss, not raw)
    elif stored.data.get("source"):
        known = {key: stored.data.get(key) for key in ("source", "target")}
        standardise = bool(stored.data.get("standardise", True))
        options = DataOptions(known["source"] or "", known["target"], stored.loss, standardise)
    else:
        raise InputError(f"{str(path)!r} does not say which data it was made on; give --data")
    dataset = options.load()
    return stored.point(dataset.X, dataset.y), options.to_json()


def parse_hidden(text: str) -> tuple[int, ...]:
    """Hidden widths from ``"3"`` or ``"4,6"``.

    >>> parse_hidden("4,6")
    (4, 6)
    """
    try:
        widths = tuple(int(part) for part in text.split(","))
    except ValueError:
        widths = (0,)
    if any(width < 1 for width in widths):
        raise InputError(
            f"--hidden {text!r} is not a list of widths of at least 1; write 3, or 4,6 for two layers"
        )
    return widths
