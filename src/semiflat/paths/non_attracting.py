"""Non-attracting regions of local minima, and the way out of one (P21 Def. 1, Thm 6, §V)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from semiflat.embeddings import Replicate
from semiflat.errors import InputError, whole
from semiflat.paths.descent import along, check_dense, down
from semiflat.paths.path import Claim, Path, Piece, straight
from semiflat.points import EmbeddedPoint, Point, check_one
from semiflat.records.shown import Shown
from semiflat.verdicts import Kind, Verdict, judge, judge_all

Interval = tuple[float, float]
MINIMA = (Kind.MINIMUM, Kind.STRICT_MINIMUM)
INSIDE: tuple[Interval, ...] = ((0.0, 1.0),)
OUTSIDE: tuple[Interval, ...] = ((float("-inf"), 0.0), (1.0, float("inf")))


@dataclass(frozen=True)
class Replication(Shown):
    """Where on the line of shares (λ, 1 − λ) a replicated unit is a minimum.

    Attributes:
        layer, unit: the unit, in the narrow network.
        intervals: open intervals of λ on which the wide point is a local minimum: (0, 1), or
            (−∞, 0) and (1, ∞), or none.
        inside, outside: the verdicts at λ = 1/2 and λ = −1/2.
        reason: one sentence.

    >>> import torch, semiflat as sf
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> point = sf.find_critical_point(problem, starts=8, seed=0)
    >>> unit = sf.replications(point)[0]
    >>> unit.layer, unit.unit, unit.intervals
    (0, 0, ((0.0, 1.0),))
    >>> unit.inside.kind.label, unit.outside.kind.label
    ('minimum', 'strict saddle')
    """

    layer: int
    unit: int
    intervals: tuple[Interval, ...]
    inside: Verdict
    outside: Verdict
    reason: str


def replications(point: Point, tolerance: float = 1e-10) -> list[Replication]:
    """For each hidden unit of a minimum, the shares for which its replication is a minimum (P21 Thm 6).

    With F = 0, G ≻ 0 it is for λ in (0, 1), with G ≺ 0 outside [0, 1]; with F ≠ 0, or G indefinite,
    for no λ. The sign of a definite G does not change inside an interval, so one verdict decides each.

    Args:
        point: a local minimum.
        tolerance: as for ``judge``.

    Raises:
        InputError: if the point is no minimum, as far as ``judge`` can tell.

    >>> import torch, semiflat as sf
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> [row.intervals for row in replications(sf.find_critical_point(problem, starts=8, seed=0))]
    [((0.0, 1.0),)]
    """
    check_one(point, "replications")
    point.problem.check_finite("a non-attracting region")
    verdict = judge(point, tolerance)
    if verdict.kind not in MINIMA:
        raise InputError(
            f"a non-attracting region is made from a local minimum, and this point is "
            f"{verdict.kind.label}: {verdict.reason}"
        )
    net = point.problem.net
    units = [(layer, unit) for layer, width in enumerate(net.hidden) for unit in range(width)]
    shares = ([Fraction(1, 2), Fraction(1, 2)], [Fraction(-1, 2), Fraction(3, 2)])
    points = [Replicate(*where, pair)(point) for where in units for pair in shares]
    verdicts = judge_all(points, tolerance)
    return [_replication(*where, *verdicts[2 * k : 2 * k + 2]) for k, where in enumerate(units)]


def _replication(layer: int, unit: int, inside: Verdict, outside: Verdict) -> Replication:
    within, beyond = inside.kind in MINIMA, outside.kind in MINIMA
    intervals: tuple[Interval, ...] = ()
    if within and outside.kind is Kind.STRICT_SADDLE:
        intervals, reason = INSIDE, "F = 0 and G is positive definite"
    elif beyond and inside.kind is Kind.STRICT_SADDLE:
        intervals, reason = OUTSIDE, "F = 0 and G is negative definite"
    elif inside.kind is Kind.STRICT_SADDLE and outside.kind is Kind.STRICT_SADDLE:
        reason = "F ≠ 0 or G is indefinite: a strict saddle for every λ"
    else:
        undecided = inside if inside.kind is Kind.UNDECIDED else outside
        reason = f"undecided: {undecided.reason}"
    return Replication(layer, unit, intervals, inside, outside, reason)


@dataclass(frozen=True)
class NonAttractingRegion(Shown):
    """A region of local minima with a way out of it that never goes up (P21 Def. 1).

    Attributes:
        source: the narrow minimum.
        replication: of which unit, and for which shares of two copies it is a minimum.
        minimum: the wide point in the region that the path starts from.
        minimum_verdict: its verdict.
        saddle: the wide point beyond the edge; same function, same loss.
        saddle_verdict: its verdict, with the descent direction and the curvature along it.
        edge: t at which a share passes 0, where the minima end.
        path: constant loss from the minimum across the edge to the saddle, then down.

    >>> import torch, semiflat as sf
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> point = sf.find_critical_point(problem, starts=8, seed=0)
    >>> region = sf.non_attracting_region(point)
    >>> region.minimum_verdict.kind.label, region.saddle_verdict.kind.label
    ('minimum', 'strict saddle')
    >>> abs(region.minimum.loss - region.saddle.loss) < 1e-14, region.path.check.end < point.loss
    (True, True)
    """

    source: Point
    replication: Replication
    minimum: EmbeddedPoint
    minimum_verdict: Verdict
    saddle: EmbeddedPoint
    saddle_verdict: Verdict
    edge: float
    path: Path


def non_attracting_region(
    point: Point,
    layer: int | None = None,
    unit: int | None = None,
    *,
    copies: int = 2,
    tolerance: float = 1e-10,
) -> NonAttractingRegion:
    """The non-attracting region over a minimum, and a path out of it to a lower loss.

    The path starts in the region, at a replicated minimum; walks along the shares at constant loss, over
    the edge where one is 0, to a strict saddle; and leaves it along its descent direction, falling all the
    way.

    Args:
        point: a local minimum of the narrow network.
        layer: of the unit to replicate; with ``unit`` None, the first unit that has a region.
        unit: which it is.
        copies: how many copies of it; P21's experiment adds eleven units, ``copies=12``.
        tolerance: as for ``judge``.

    Raises:
        InputError: if the point is no minimum, no unit (or not this one) has a region (with the reason
            for each), or the wide network is too large for dense Hessians.

    >>> import torch, semiflat as sf
    >>> X = torch.linspace(-2, 2, 40, dtype=torch.float64)[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1, 1], "gelu"), X, torch.tanh(2 * X + 1) + 0.3 * X**2)
    >>> region = non_attracting_region(sf.find_critical_point(problem, starts=8, seed=0))
    >>> [piece.claim.value for piece in region.path.pieces]
    ['constant', 'decreasing', 'decreasing']
    >>> region.path.check.largest_increase < 1e-12, region.path.check.end < region.path.check.start
    (True, True)
    """
    copies = whole("copies", copies, 2)
    check_one(point, "non_attracting_region")
    point.problem.check_double("a path")
    if (layer is None) != (unit is None):
        raise InputError("give both layer and unit, or neither to take the first that has a region")
    if layer is not None and unit is not None:
        point.problem.net.check_unit(layer, unit)
    chosen = _chosen(replications(point, tolerance), layer, unit)
    stay, leave = _shares(chosen.intervals == INSIDE, copies)
    minimum = Replicate(chosen.layer, chosen.unit, stay)(point)
    saddle = Replicate(chosen.layer, chosen.unit, leave)(point)
    check_dense(saddle.problem)
    of_minimum, of_saddle = judge_all([minimum, saddle], tolerance)
    if of_minimum.kind not in MINIMA or of_saddle.kind is not Kind.STRICT_SADDLE:
        raise InputError(
            f"with {copies} copies of unit {chosen.unit} of hidden layer {chosen.layer} the region is "
            f"undecided: {of_minimum.reason}; {of_saddle.reason}"
        )
    path, edge = _way_out(minimum, saddle, of_saddle, float(stay[-1]), float(leave[-1]))
    return NonAttractingRegion(point, chosen, minimum, of_minimum, saddle, of_saddle, edge, path)


def _chosen(rows: Sequence[Replication], layer: int | None, unit: int | None) -> Replication:
    asked = [row for row in rows if layer is None or (row.layer, row.unit) == (layer, unit)]
    found = next((row for row in asked if row.intervals), None)
    if found is None:
        reasons = "; ".join(
            f"unit {row.unit} of hidden layer {row.layer}: {row.reason}" for row in asked
        )
        raise InputError(f"no replication of this minimum is a local minimum: {reasons}")
    return found


def _shares(inside: bool, copies: int) -> tuple[list[Fraction], list[Fraction]]:
    """Shares in the region and beyond its edge; the last one changes, the first pays for it."""
    if inside:
        each = Fraction(1, copies)
        stay = [each] * copies
        change = -2 * each if copies > 2 else Fraction(-1)
    else:
        rest = Fraction(-1, 2)
        stay = [1 - (copies - 1) * rest, *[rest] * (copies - 1)]
        change = Fraction(1)
    leave = [stay[0] - change, *stay[1:-1], stay[-1] + change]
    return stay, leave


def _way_out(
    minimum: EmbeddedPoint, saddle: EmbeddedPoint, verdict: Verdict, stay: float, leave: float
) -> tuple[Path, float]:
    problem, net = saddle.problem, saddle.problem.net
    start, at = net.flatten(minimum.params), net.flatten(saddle.params)
    direction = verdict.descent_direction
    assert direction is not None  # a strict saddle has one
    pieces = [
        Piece(
            "shares: along the replication",
            Claim.CONSTANT,
            "copies of one unit may share out its outgoing weights in any way (P21 Def. 1, Thm 6)",
            [straight(start, at)],
        )
    ]
    first = along(problem, at, net.flatten(direction))
    if first is not None:
        curves, _ = down(problem, first)
        pieces.append(
            Piece(
                "off the saddle",
                Claim.DECREASING,
                "negative curvature along the descent direction (P21 Lemma 1, the inertia law)",
                [straight(at, first)],
            )
        )
        if curves:
            pieces.append(Piece("down", Claim.DECREASING, "steps that fall all the way", curves))
    return Path(problem, pieces), stay / (stay - leave) / len(pieces)
