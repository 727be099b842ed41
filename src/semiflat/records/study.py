"""What ``study.json`` holds; None or empty where a study has not come to it, or was of an earlier version."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from semiflat.records.codec import LATER, Codec
from semiflat.records.shown import Shown

Signs = tuple[int, int, int]
"""Numbers of positive, zero and negative eigenvalues."""
Numbers = Sequence[float | None]
Record = TypeVar("Record")


@dataclass(frozen=True)
class Standardisation(Shown):
    """What was subtracted from each column and what it was divided by then.

    Attributes:
        X_mean, X_scale: mean and population deviation of each kept column of X.
        y_mean, y_scale: likewise of each output, or None for classes.

    >>> import semiflat as sf
    >>> data = sf.load_data("diabetes")
    >>> done = data.standardisation
    >>> [round(number, 2) for number in (*done.y_mean, *done.y_scale)]
    [152.13, 77.01]
    >>> round(float(data.y[0] * done.y_scale[0] + done.y_mean[0]), 9)  # as it was in the table
    151.0
    """

    X_mean: tuple[float, ...] = ()
    X_scale: tuple[float, ...] = ()
    y_mean: tuple[float, ...] | None = None
    y_scale: tuple[float, ...] | None = None

    def to_json(self) -> dict[str, list[float] | None]:
        """The four as plain data."""
        plain: dict[str, list[float] | None] = Codec().to_plain(self)
        return plain


@dataclass(frozen=True, kw_only=True)
class DataRecord:
    """See :class:`semiflat.Dataset`."""

    name: str | None = None
    samples: int | None = None
    inputs: int | None = None
    outputs: int | None = None
    loss: str | None = None
    loss_in_words: str = ""
    features: Sequence[str] = ()
    classes: Sequence[str] | None = None
    dropped: Sequence[str] = ()
    standardisation: Standardisation | None = None

    def columns(self) -> list[tuple[str, float | None, float | None]]:
        """Name, mean and deviation of every column that was standardised."""
        if (done := self.standardisation) is None:
            return []
        targets = zip(done.y_mean or (), done.y_scale or (), strict=False)
        return [
            *zip(self.features, done.X_mean, done.X_scale, strict=False),
            *(("target", mean, scale) for mean, scale in targets),
        ]


@dataclass(frozen=True, kw_only=True)
class NetworkRecord:
    """The narrow network."""

    widths: Sequence[int] = ()
    activation: str | None = None
    parameters: int | None = None


@dataclass(frozen=True, kw_only=True)
class SettingsRecord:
    """See :class:`semiflat.study.Settings`; None is what an earlier version had no setting for.

    The weight decay is the one that was used, as ``--weight-decay`` takes it.
    """

    hidden: Sequence[int] | None = None
    activation: str | None = None
    starts: int | None = None
    wider: int | None = None
    points: int | None = None
    seed: int | None = None
    max_iterations: int | None = None
    escape_iterations: int | None = None
    null_bias: float | None = None
    effective_tolerance: float | None = None
    proofs: bool | None = None
    weight_decay: str | None = None


@dataclass(frozen=True, kw_only=True)
class End:
    """Of the runs that ended with one status, the one at the lowest loss."""

    status: str = ""
    loss: float | None = None
    gradient_norm: float | None = None
    start: int | None = None
    iterations: int | None = None
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class RunsRecord:
    """How the runs ended: how many with each status, what these mean, and why points may be one."""

    kind: str | None = None
    starts: int = 0
    interrupted: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    unresolved: str = ""
    meanings: dict[str, str] = field(default_factory=dict)
    lowest: Sequence[End] = ()

    def ended(self, *statuses: str) -> int:
        """How many runs ended with one of these."""
        return sum(count for status, count in self.counts.items() if status in statuses)

    def meaning(self, status: str) -> str:
        """What a status means, for people: without the quotes of names in code."""
        return self.meanings.get(status, "").replace("`", "")

    def lowest_of(self, status: str) -> End:
        """The lowest of the runs that ended so."""
        return next((end for end in self.lowest if end.status == status), End(status=status))


@dataclass(frozen=True, kw_only=True)
class ProofRow:
    """The proof of one point: its file from the study's folder; its inertia, at least that if not exact.

    Without a file where none could be made, as at infinity.
    """

    status: str | None = None
    reason: str = ""
    file: str | None = None
    kind: str | None = None
    inertia: Signs | None = None
    exact: bool | None = None


@dataclass(frozen=True)
class Margin(Shown):
    """What a verdict rests on; NaN is what a record does not hold.

    Attributes:
        eigenvalue: the deciding eigenvalue: the one nearest to changing the verdict.
        floor: the noise floor it is held against: how far rounding, and the distance to the exact
            critical point, may have moved it.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> margin = sf.judge(point).margin
    >>> margin.eigenvalue > 0, margin.ratio > 1000
    (True, True)
    """

    eigenvalue: float = math.nan
    floor: float = math.nan

    @property
    def ratio(self) -> float:
        """``|eigenvalue| / floor``."""
        return abs(self.eigenvalue) / self.floor if self.floor > 0 else float("inf")


@dataclass(frozen=True, kw_only=True)
class FlatFamily:
    """See :class:`semiflat.symmetries.families.FlatFamily`."""

    name: str = ""
    dimension: int = 0
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class FlatDirections:
    """See :class:`semiflat.verdicts.verdict.FlatDirections`."""

    families: Sequence[FlatFamily] = ()
    dimension: int | None = None
    zeros_explained: int | None = None
    zeros_unexplained: int | None = None


@dataclass(kw_only=True)
class JudgedRow:
    """A point with its verdict (see :class:`semiflat.Verdict`) and, once it was tried, its proof."""

    name: str = ""
    kind: str = ""
    certainty: str | None = None
    inertia: Signs | None = None
    zeros_within_noise: int | None = None
    at_least: Signs | None = None
    reason: str = ""
    method: str | None = None
    gradient_norm: float | None = None
    tolerance: float | None = None
    curvature: float | None = None
    margin: Margin | None = None
    flat_directions: FlatDirections | None = None
    certificate: ProofRow | None = field(default=None, metadata=LATER)

    @property
    def proved(self) -> bool:
        """Whether it has a certificate."""
        return self.certificate is not None and self.certificate.status == "certified"


@dataclass(kw_only=True)
class PointRow(JudgedRow):
    """A critical point of the narrow network; at infinity, the forms of its units in each layer."""

    loss: float | None = None
    status: str | None = None
    at_infinity: Sequence[Sequence[str]] | None = None
    trivial: str | None = None
    start: int | None = None
    iterations: int | None = None
    largest_parameter: float | None = None
    evidence: str = ""
    accuracy: float | None = field(default=None, metadata=LATER)
    penalty: float | None = field(default=None, metadata=LATER)

    @property
    def constant(self) -> bool:
        """Whether it is the constant predictor, which is there for any data and is not counted."""
        return (self.trivial or "").startswith("constant predictor")


@dataclass(kw_only=True)
class EmbeddedRow(JudgedRow):
    """A wide point: what the law predicts beside what the wide network measures.

    With weight decay the kind is that of the wide Hessian, and ``inertia`` what the law says of its signs;
    where no law does it is that Hessian's own, and no other stands beside it. At infinity the law is not used:
    there the inertia is the wide Hessian's own, too.
    """

    source: str = ""
    embedding: str = ""
    steps: Sequence[dict[str, Any]] = ()
    family: str = ""
    layer: int | None = None
    unit: int | None = None
    added: int = 0
    widths: Sequence[int] = ()
    output_change: float | None = None
    predicted_gradient_norm: float | None = None
    dense_inertia: Signs | None = None
    curvature_measured: float | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether law and dense count say the same; None where one of them is missing."""
        if self.inertia is None or self.dense_inertia is None:
            return None
        return self.inertia == self.dense_inertia


@dataclass(kw_only=True)
class NearestRow(JudgedRow):
    """With weight decay: the critical point that descent reaches from an embedded point that is none.

    ``inertia``, ``kind`` and the rest are those of the end, ``distance`` that of parameters from the embedded
    point, whose loss is ``loss_embedded`` and whose gradient's largest entry is ``gradient_embedded``.
    """

    source: str = ""
    embedding: str = ""
    family: str = ""
    added: int = 0
    widths: Sequence[int] = ()
    gradient_embedded: float | None = None
    loss_before: float | None = None
    loss_embedded: float | None = None
    loss: float | None = None
    distance: float | None = None
    status: str = ""
    iterations: int | None = None
    evidence: str = ""
    accuracy: float | None = None
    effective_hidden: Sequence[int] | None = None


@dataclass(frozen=True, kw_only=True)
class SeparationRecord:
    """See :class:`semiflat.Separation`; ``falls`` are pairs of a last layer's length and the loss there."""

    found: str = ""
    margin: float | None = None
    at_most: float | None = None
    falls: Sequence[Sequence[float | None]] = ()


@dataclass(frozen=True, kw_only=True)
class DecayRecord:
    """A study's weight decay: in words, whether the study chose it by itself, and why."""

    words: str = ""
    chosen: bool = False
    why: str = ""
    everywhere: bool = False


@dataclass(frozen=True, kw_only=True)
class EscapeRow:
    """Where the way down from a strict saddle led; see :class:`semiflat.study.escapes.Descended`."""

    name: str = ""
    source: str = ""
    embedded: str = ""
    embedding: str = ""
    family: str = ""
    added: int = 0
    widths: Sequence[int] = ()
    effective_hidden: Sequence[int] | None = None
    curvature: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None
    step: float | None = None
    status: str = ""
    gradient_norm: float | None = None
    iterations: int | None = None
    evidence: str = ""


@dataclass(frozen=True, kw_only=True)
class ProofsRecord:
    """Whether proofs were attempted; if not, why."""

    status: str | None = None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Distinct:
    """At least so many of the certified narrow points are proved to be distinct: the chosen ones."""

    at_least: int | None = None
    of: int | None = None
    chosen: Sequence[str] = ()
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Descent:
    """The loss along the direction of descent from a wide point."""

    embedded: str = ""
    source: str = ""
    embedding: str = ""
    curvature: float | None = None
    step: Numbers = ()
    loss: Numbers = ()
    loss_before: float | None = None
    loss_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """The eigenvalues of the narrow and of the wide Hessian."""

    embedded: str = ""
    source: str = ""
    embedding: str = ""
    narrow: Numbers = ()
    wide: Numbers = ()
    family: str = ""


@dataclass(frozen=True, kw_only=True)
class ShareLine:
    """Along the line of shares (λ, 1 − λ) of one unit: the loss, the lowest eigenvalue and the kind."""

    source: str = ""
    layer: int | None = None
    unit: int | None = None
    widths: Sequence[Sequence[int]] = ()
    share: Numbers = ()
    loss: Numbers = ()
    lowest: Numbers = ()
    kind: Sequence[str] = ()


@dataclass(kw_only=True)
class Curves:
    """The numbers behind the figures."""

    descent: list[Descent] = field(default_factory=list)
    spectrum: list[Spectrum] = field(default_factory=list)
    share_line: list[ShareLine] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """What a point is made of, in five digits, for pictures; its file holds every digit.

    Attributes:
        parameters: by key of the ``state_dict``, row by row; a bias is rows of one.
        eigenvalues: of its Hessian, ascending; empty where they were not computed.
    """

    parameters: dict[str, Sequence[Sequence[float | None]]] = field(default_factory=dict)
    eigenvalues: Numbers = ()


@dataclass(kw_only=True)
class StudyRecord:
    """All of a study, as far as it has come."""

    semiflat: str | None = None
    complete: bool = False
    source: dict[str, Any] = field(default_factory=dict)
    data: DataRecord
    network: NetworkRecord
    settings: SettingsRecord
    separation: SeparationRecord | None = field(default=None, metadata=LATER)
    decay: DecayRecord | None = field(default=None, metadata=LATER)
    search: RunsRecord | None = None
    search_any: RunsRecord | None = field(default=None, metadata=LATER)
    points: list[PointRow] = field(default_factory=list)
    embedded: list[EmbeddedRow] = field(default_factory=list)
    nearest: list[NearestRow] | None = field(default=None, metadata=LATER)
    escapes: list[EscapeRow] = field(default_factory=list)
    proofs: ProofsRecord = field(default_factory=ProofsRecord)
    distinct_proved: Distinct | None = None
    curves: Curves = field(default_factory=Curves)
    anatomy: dict[str, Anatomy] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for row in self.embedded_at_infinity():
            row.dense_inertia = None  # an earlier version counted the same Hessian twice

    def embedded_at_infinity(self, there: bool = True) -> list[EmbeddedRow]:
        """The wide points of narrow ones at infinity; with False those of finite ones."""
        far = {row.name for row in self.points if row.at_infinity}
        return [row for row in self.embedded if (row.source in far) is there]

    def counted(self) -> list[PointRow]:
        """The critical points without the constant predictor, lowest loss first."""
        return [row for row in self.points if not row.constant]

    def searches(self) -> list[RunsRecord]:
        """The searches that have ended: for minima, and if that found none for any critical point."""
        return [search for search in (self.search, self.search_any) if search is not None]

    def by_source(self) -> dict[str, list[EmbeddedRow]]:
        """The wide points by the narrow point they were made of."""
        found: dict[str, list[EmbeddedRow]] = {}
        for row in self.embedded:
            found.setdefault(row.source, []).append(row)
        return found

    def to_json(self) -> dict[str, Any]:
        """As plain data; before the search has ended, its record is empty."""
        plain: dict[str, Any] = Codec().to_plain(self)
        return plain | {"search": plain["search"] or {}}


def read(kind: type[Record], plain: Any) -> Record:
    """A record of that type, or a part of one, from plain data, whatever version wrote it.

    Raises:
        ValueError: if something in it is of another type, naming the place.

    >>> read(PointRow, {"name": "p0", "inertia": [3, 0, 0], "loss": float("nan")}).loss is None
    True
    >>> read(PointRow, {"name": "p0", "certificate": "yes"})
    Traceback (most recent call last):
    ValueError: certificate: 'yes' is no ProofRow
    """
    record: Record = Codec(lenient=True).from_plain(kind, plain)
    return record
