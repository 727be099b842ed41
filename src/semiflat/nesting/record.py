"""What a hierarchy is made of, as plain data: points, edges between them, and the levels they lie on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from semiflat.records.shown import Shown
from semiflat.search.record import LimitRecord

Signs = tuple[int, int, int]
"""Numbers of positive, zero and negative eigenvalues."""
Widths = tuple[int, ...]
"""Of the hidden layers."""


@dataclass(frozen=True, kw_only=True)
class PointRecord(Shown):
    """A critical point of one width, as it is stored.

    Attributes:
        name: its widths and its place there, lowest loss first: ``"2-0"``; at infinity ``"2-i0"``.
        hidden: widths of the hidden layers.
        vector: parameters, flat; at infinity those of the limiting network.
        limit: the limiting network, for a point at infinity; else None.
        loss, gradient_norm: ``R`` and ``‖∇R‖∞``.
        kind, certainty, reason, inertia: its verdict, see :class:`semiflat.Verdict`.
        function: number of the critical function that it computes.
        new: whether no narrower level has that function.
        trivial: why it says little about its network, see :attr:`semiflat.CriticalPoint.trivial`.
        found: how many random starts ended there.
        origin: ``"random start"``, ``"descent"``, ``"wider point"`` or ``"constant"``: what led there first.
        evidence: of the run, in words.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=4, saddle_starts=0, processes=1)
    >>> record = h["1-0"].record
    >>> record.hidden, record.index, record.at_infinity, record.new
    ((1,), 0, False, True)
    """

    name: str
    hidden: Widths
    vector: Tensor
    limit: LimitRecord | None
    loss: float
    gradient_norm: float
    kind: str
    certainty: str
    reason: str
    inertia: Signs | None
    function: int
    new: bool
    trivial: str | None
    found: int
    origin: str
    evidence: str

    @property
    def at_infinity(self) -> bool:
        """Whether it is a point of a limiting network."""
        return self.limit is not None

    @property
    def index(self) -> int | None:
        """Number of negative eigenvalues; None where there is no Hessian to count in."""
        return None if self.inertia is None else self.inertia[2]


@dataclass(frozen=True, kw_only=True)
class Edge(Shown):
    """How two points hang together.

    Attributes:
        kind: ``"embeds"``: the source, widened, computes the same. ``"descends"``: minimising from a saddle
            ends there. ``"limits"``: random starts of these widths ran to infinity there.
        source: name of a point; for ``"limits"`` ``""``.
        target: name of a point; of an embedded point its source and the widths, ``"1-0@2"``; None where a
            descent ended at no critical point.
        hidden: widths of the network that it happens in.
        how: the units added: ``"inside"`` and ``"outside"`` (a unit replicated with all shares between 0
            and 1, or one below 0), ``"null units"``, ``"null gates"``; ``"own"``: a saddle left as it is.
        layer, unit: the replicated unit; None if none is.
        verdict: kind of the embedded point.
        inertia: of the embedded point.
        curvature: along the way down; None if there is none.
        side: 1 or −1: which way along the direction a descent went.
        loss: at the end of a descent; of the embedded point; of the limit.
        status: how the descent's run ended.
        as_embedded: whether a descent ended at a wide copy of its target, a narrower point.
        times: how many runs did the same.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1, 2], starts=4, saddle_starts=0, processes=1)
    >>> edge = next(edge for edge in h.edges if edge.kind == "embeds" and edge.how == "inside")
    >>> edge.source, edge.target, edge.verdict, edge.inertia
    ('1-0', '1-0@2', 'STRICT_SADDLE', (5, 1, 1))
    """

    kind: str
    source: str
    target: str | None
    hidden: Widths
    how: str = ""
    layer: int | None = None
    unit: int | None = None
    verdict: str = ""
    inertia: Signs | None = None
    curvature: float | None = None
    side: int = 0
    loss: float | None = None
    status: str = ""
    as_embedded: bool = False
    times: int = 1


@dataclass(frozen=True, kw_only=True)
class Level(Shown):
    """What was done at one width, and what came of it.

    Attributes:
        hidden: widths of the hidden layers.
        starts: random starts for minima, and for points of any index.
        counts: of these runs, by how they ended.
        descents: how many ways down were followed, and how many were left out for want of room.
        narrower: how many runs ended at a narrower point, embedded.
        new_minima, new_saddles: points here whose function no narrower level has; minima at infinity are
            counted in ``new_at_infinity``.
        unseen: estimated number of critical points that no random start ended at (Chao 1984), at least.
        missing: estimated probability that one more converged start ends at one of them (Good 1953).
        lowest: the lowest loss that any run reached, whether it ended at a critical point or not; None where
            that was not kept.

    >>> import semiflat as sf
    >>> X = [[k / 10] for k in range(-20, 21)]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, [abs(x[0]) - x[0] for x in X])
    >>> h = sf.hierarchy(problem, widths=[1], starts=4, saddle_starts=0, processes=1)
    >>> (level,) = h.levels
    >>> level.hidden, level.new_minima, level.new_saddles        # the saddle is the constant predictor
    ((1,), 1, 1)
    """

    hidden: Widths
    starts: tuple[int, int]
    counts: dict[str, int]
    descents: tuple[int, int]
    narrower: int
    new_minima: int
    new_saddles: int
    new_at_infinity: int
    unseen: float
    missing: float | None
    lowest: float | None = None


def name_of(hidden: Widths, place: int, at_infinity: bool = False) -> str:
    """The name of a point.

    >>> name_of((2,), 0), name_of((2, 3), 1), name_of((2,), 4, at_infinity=True)
    ('2-0', '2x3-1', '2-i4')
    """
    return f"{widths_name(hidden)}-{'i' if at_infinity else ''}{place}"


def widths_name(hidden: Widths) -> str:
    """Widths in a name."""
    return "x".join(map(str, hidden))
