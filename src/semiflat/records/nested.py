"""What the page of a hierarchy shows; see :meth:`semiflat.Hierarchy.page_record`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from semiflat.records.study import JudgedRow, Numbers


@dataclass(kw_only=True)
class NestedRow(JudgedRow):
    """See :class:`semiflat.PointRecord`; at infinity, the forms of its units in each layer."""

    hidden: Sequence[int] = ()
    loss: float | None = None
    at_infinity: Sequence[Sequence[str]] | None = None
    function: int | None = None
    new: bool = False
    trivial: str | None = None
    found: int = 0
    origin: str = ""
    evidence: str = ""

    @property
    def index(self) -> int | None:
        """Number of negative eigenvalues; None where it is not known."""
        return None if self.inertia is None else self.inertia[2]


@dataclass(frozen=True, kw_only=True)
class EdgeRow:
    """See :class:`semiflat.Edge`."""

    kind: str = ""
    source: str = ""
    target: str | None = None
    hidden: Sequence[int] = ()
    how: str = ""
    layer: int | None = None
    unit: int | None = None
    verdict: str = ""
    curvature: float | None = None
    side: int = 0
    loss: float | None = None
    status: str = ""
    as_embedded: bool = False
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class LevelRow:
    """See :class:`semiflat.Level`; ``points`` says how many were found, ``shown`` how many are on the page."""

    hidden: Sequence[int] = ()
    starts: Sequence[int] = (0, 0)
    descents: Sequence[int] = (0, 0)
    narrower: int = 0
    new_minima: int = 0
    new_saddles: int = 0
    new_at_infinity: int = 0
    unseen: float | None = None
    missing: float | None = None
    points: int = 0
    shown: int = 0


@dataclass(frozen=True, kw_only=True)
class TrapRow:
    """See :class:`semiflat.Trap`; ``kinds`` and ``stays`` go by the names of widths."""

    point: str = ""
    loss: float | None = None
    kinds: dict[str, dict[str, str]] = field(default_factory=dict)
    stays: Sequence[Sequence[int]] = ()
    lasting: bool = False


@dataclass(frozen=True, kw_only=True)
class PassRow:
    """See :class:`semiflat.Pass`."""

    saddle: str = ""
    loss: float | None = None
    sides: Sequence[Sequence[str]] = ()


@dataclass(frozen=True, kw_only=True)
class TreeRow:
    """See :class:`semiflat.Disconnectivity`; the lowest of ``total`` valleys."""

    hidden: Sequence[int] = ()
    total: int = 0
    valleys: dict[str, float] = field(default_factory=dict)
    passes: Sequence[PassRow] = ()


@dataclass(frozen=True, kw_only=True)
class FunctionRow:
    """A critical function: the points that compute it, and each of its outputs at the places of the record.

    With ``on_data`` at the inputs of the samples that are drawn: between them a step is not known.
    """

    number: int = 0
    loss: float | None = None
    points: Sequence[str] = ()
    values: Sequence[Numbers] = ()
    on_data: bool = False


@dataclass(frozen=True, kw_only=True)
class PlacesRecord:
    """Where functions are told.

    Attributes:
        kind: ``"line"`` and ``"map"`` for one and two inputs, on a grid; ``"samples"`` for others.
        at: the inputs, as many numbers as there are inputs; the target for ``"samples"``.
        data: samples that are drawn: inputs and targets.
        beside: whether targets can be drawn beside outputs; not where these are logarithms of odds.
        total: how many samples there are.
        what: what a value is: an ``"output"``; or a sample's ``"margin"``, its class's output minus the largest
            other.
        left_out: outputs that are not told.
    """

    kind: str = "samples"
    at: Sequence[Numbers] = ()
    data: Sequence[Numbers] = ()
    beside: bool = True
    total: int = 0
    what: str = "output"
    left_out: int = 0


@dataclass(frozen=True, kw_only=True)
class NestedRecord:
    """All that the page says.

    Attributes:
        problem: data, network and loss, in words.
        decay: whether there is weight decay, so that a wide copy has another loss.
        selection: which of the points these are; ``""`` for all.
        functions: those that are told, lowest loss first.
        least_width: the answer with its error; ``""`` where it cannot be told.
        proved: what is proved of the points, all of them; ``""`` where nothing was tried.
        files: the folder of the points' files as seen from the page; ``""`` for none.
        command: that made it, to be typed again; ``""`` if none did.
    """

    semiflat: str = ""
    problem: str = ""
    decay: bool = False
    selection: str = ""
    points: Sequence[NestedRow] = ()
    edges: Sequence[EdgeRow] = ()
    levels: Sequence[LevelRow] = ()
    traps: Sequence[TrapRow] = ()
    trees: Sequence[TreeRow] = ()
    functions: Sequence[FunctionRow] = ()
    places: PlacesRecord = field(default_factory=PlacesRecord)
    least_width: str = ""
    proved: str = ""
    files: str = ""
    command: str = ""
