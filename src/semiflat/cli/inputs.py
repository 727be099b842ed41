"""From what is typed to what the library takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import semiflat as sf
from semiflat.errors import InputError
from semiflat.records.codec import Codec


@dataclass(frozen=True)
class DataOptions:
    """How data are loaded; travels with every saved point."""

    source: str
    target: str | None = None
    loss: str | None = None
    standardise: bool = True
    drop: tuple[str, ...] = ()
    drop_missing: bool = False
    one_hot: bool = False
    sample_weight: str | None = None

    @classmethod
    def of(cls, stored: dict[str, Any], **given: Any) -> DataOptions:
        """How the data of a stored point were loaded, but for what is given.

        Raises:
            InputError: if the record is damaged.
        """
        known = {field.name for field in fields(cls)}
        try:
            read: DataOptions = Codec(lenient=True).from_plain(
                cls, {key: value for key, value in {**stored, **given}.items() if key in known}
            )
        except ValueError as error:
            raise InputError(
                f"how the data of the point were loaded is damaged: {error}"
            ) from error
        return read

    def load(self) -> sf.Dataset:
        """The data."""
        how = {
            name: value for name, value in vars(self).items() if name not in ("source", "target")
        }
        return sf.load_data(self.source, self.target, **how)

    def to_json(self) -> dict[str, Any]:
        """As plain data, the inverse of ``DataOptions(**data)``."""
        return dict(vars(self)) | {"drop": list(self.drop)}


def stored_point(
    path: Path, data: str | None, target: str | None, raw: bool
) -> tuple[sf.Point, dict[str, Any]]:
    """A saved point on its data, and how the data were loaded.

    Raises:
        InputError: if the file or the data cannot be used, or do not belong together.
    """
    stored = sf.load_point(path)
    given: dict[str, Any] = {"loss": stored.loss}
    if data is not None:  # elsewhere now, and else to be loaded as it was
        given |= {"source": data}
        given |= {} if target is None else {"target": target}
        given |= {"standardise": False} if raw else {}
    elif not stored.data.get("source"):
        raise InputError(f"{str(path)!r} does not say which data it was made on; give --data")
    options = DataOptions.of(stored.data, **given)
    if data is None and Path(options.source).suffix and not Path(options.source).exists():
        raise InputError(
            f"the data that {str(path)!r} was made on, {options.source!r}, are not there, seen from this "
            "folder; say where they are now with --data"
        )
    return stored.point(options.load()), options.to_json()


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
