"""Loss against width: points of networks of several widths in one picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from semiflat.errors import InputError, finite_number
from semiflat.points import EmbeddedPoint, Point
from semiflat.reduction.smallest import reduce

if TYPE_CHECKING:
    from semiflat.plots.widths import Placed


def plot_widths(points: Iterable[Point], *, tolerance: float | None = None, ax: Any = None) -> Any:
    """Draw the loss of points against the number of their hidden units.

    For points of networks of any widths on the same data: of searches (``[*narrow, *wide]``), embedded ones,
    and those that an :class:`Escape` or a :class:`Reduction` has as its ``point``. An embedded point is joined
    to its source, at the same height. To see: what another unit gains, and which points of the wide network
    are as low as those of a narrower one.

    Args:
        points: any, plain, critical, embedded or at infinity.
        tolerance: also reduce each with that tolerance (see :func:`reduce`), and draw what is left, joined
            to it: how wide it is in effect.
        ax: matplotlib axes to draw on; by default new ones.

    Returns:
        The axes.

    Raises:
        InputError: without matplotlib, for what is no list of points, for points of other data or another
            loss, and for a tolerance that is not a number from 0 up.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> ax = sf.plot_widths([point, sf.Replicate(0, 0, [0.5, 0.5])(point)])
    >>> ax.get_xlabel(), ax.get_ylabel()
    ('hidden units', 'loss')
    """
    from semiflat.plots.drawing import axes_for
    from semiflat.plots.widths import draw_widths

    given = list(points) if isinstance(points, Iterable) else []
    if not given or not all(isinstance(point, Point) for point in given):
        raise InputError(
            "plot_widths takes a list of points with at least one in it, such as [*search.points, wide]; "
            f"not {points!r:.60}"
        )
    _check_same(given)
    if tolerance is not None and finite_number("tolerance", tolerance) < 0:
        raise InputError(f"tolerance must be a number from 0 up, not {tolerance!r}")
    places = [_placed(point) for point in given]
    links = []
    for point, place in zip(list(given), list(places), strict=True):
        if isinstance(point, EmbeddedPoint):
            links.append((_placed(point.source), place))
        if tolerance is not None:
            small = _placed(reduce(point, tolerance).point, "reduced")
            if small.width < place.width:
                places.append(small)
                links.append((small, place))
    with axes_for(ax) as ax:
        draw_widths(ax, places, links)
        title = "Loss against width; dashed: an embedded point and its source"
        if tolerance is not None:
            title = f"Loss against width; dotted: what is left within a tolerance of {tolerance:g}"
        ax.set_title(title, loc="left")
    return ax


def _check_same(points: list[Point]) -> None:
    first = points[0].problem
    for point in points:
        if point.problem.data_hash != first.data_hash or point.problem.loss != first.loss:
            raise InputError(
                f"losses of other data, or another loss, do not compare: {point!r:.60} is not on the data and "
                f"loss of {points[0]!r:.60}; draw them on axes of their own"
            )


def _placed(point: Point, sort: str = "") -> Placed:
    from semiflat.plots.widths import Placed

    width = sum(point.problem.net.hidden)
    return Placed(width, float(point.loss), sort or _sort(point))


def _sort(point: Point) -> str:
    if isinstance(point, EmbeddedPoint):
        return "embedded"
    status = getattr(point, "status", None)
    if status is None:
        return "point"
    if hasattr(point.problem, "finite"):
        return "infinity"
    return "converged" if status == "CONVERGED" else "run"
