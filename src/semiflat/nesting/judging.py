"""What points are at their own width and at wider ones: each judged once, over processes or a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from semiflat.jobs import Emit, Job, Machines, spread
from semiflat.nesting.record import Widths
from semiflat.nesting.ways import widenings
from semiflat.points import Point
from semiflat.verdicts import Kind, Verdict, judge_all


@dataclass(frozen=True)
class Judged:
    """A verdict without what makes it large: there are thousands, and they come from other processes.

    Attributes:
        verdict: without flat directions, and without a way to its direction.
        down: that direction, (P,); None if there is none.
    """

    verdict: Verdict
    down: Tensor | None

    @classmethod
    def of(cls, point: Point, verdict: Verdict) -> Judged:
        """Of a verdict on a point."""
        down = None
        if verdict.kind is Kind.STRICT_SADDLE and verdict.descent_direction is not None:
            down = point.problem.net.flatten(verdict.descent_direction)
        return cls(replace(verdict, flat_directions=None, build_direction=None), down)


@dataclass(frozen=True)
class Nested:
    """What a point is.

    Attributes:
        own: at its own width.
        wide: at each wider level what its widenings are, in the order of
            :func:`semiflat.nesting.ways.widenings`.
    """

    own: Judged
    wide: dict[Widths, list[Judged]]


def nested(
    points: Sequence[Point],
    wider: Sequence[Widths],
    machines: Machines,
    tell: Callable[[int, int], None],
) -> list[Nested]:
    """What some points are at their own width and at wider ones.

    Args:
        tell: called with how many are judged, and how many there are.
    """
    found: dict[int, Nested] = {}

    def on_end(job: Job, parts: Sequence[Nested]) -> None:
        (found[job.name],) = parts
        tell(len(found), len(points))

    jobs = [Job(k, partial(_judge, point, wider)) for k, point in enumerate(points)]
    spread(jobs, on_end, machines)
    return [found[k] for k in range(len(points))]


def _judge(point: Point, wider: Sequence[Widths], emit: Emit) -> None:
    def judged(points: list[Point]) -> list[Judged]:
        return list(map(Judged.of, points, judge_all(points)))

    net = point.problem.net
    wide = {
        hidden: judged([each.embedding(point) for each in widenings(net, hidden)])
        for hidden in wider
    }
    emit(Nested(judged([point])[0], wide))
