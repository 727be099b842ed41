"""What was done to the columns of a table before a network saw them, so that it can be done to new rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from semiflat.records.codec import Codec
from semiflat.records.shown import Shown
from semiflat.records.study import Standardisation


@dataclass(frozen=True, kw_only=True)
class Preparation(Shown):
    """How rows of a table become inputs of a network, and what its outputs mean there.

    It stays with the problem, its points and their files, and :meth:`Point.predict` applies it to new rows.

    Attributes:
        columns: names of the columns that rows have, in order: the table's without the target, the sample
            weights and those dropped by name.
        levels: for each column of categories its levels in order. It becomes one input of 0 and 1 for each
            level but the first: with that one, too, they would sum to 1 as the bias does, and no minimum
            would be strict.
        dropped: names of the inputs left out, as they were constant.
        others: names of the table's other columns, which new rows may have, too.
        classes: names of the classes in order, or None for numbers.
        standardisation: None if nothing was standardised.

    >>> import semiflat as sf
    >>> how = sf.load_data("diabetes").preparation
    >>> how.columns == how.features, len(how.features), how.levels
    (True, 10, {})
    """

    columns: tuple[str, ...] = ()
    levels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    standardisation: Standardisation | None = None

    @property
    def encoded(self) -> tuple[str, ...]:
        """Names of the numbers that a row becomes, before the constant ones are left out."""
        names: list[str] = []
        for name in self.columns:
            levels = self.levels.get(name)
            names += [name] if levels is None else [f"{name}={level}" for level in levels[1:]]
        return tuple(names)

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        left_out = set(self.dropped)
        return tuple(name for name in self.encoded if name not in left_out)

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        plain: dict[str, Any] = Codec().to_plain(self)
        return plain

    @classmethod
    def from_json(cls, plain: Any) -> Preparation:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: for anything else, naming the place.
        """
        read: Preparation = Codec(lenient=True).from_plain(cls, plain)
        done = read.standardisation
        for name, count in (
            ("X_mean", done and len(done.X_mean)),
            ("X_scale", done and len(done.X_scale)),
        ):
            if count is not None and count != len(read.features):
                raise ValueError(f"{name} has {count} numbers for {len(read.features)} inputs")
        return read
