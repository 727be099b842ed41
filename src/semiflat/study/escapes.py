"""Following the way down from strict saddles, and minimising from where it leads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.evidence.slices import both_ways
from semiflat.points import EmbeddedPoint
from semiflat.records.study import EmbeddedRow, EscapeRow
from semiflat.reduction import reduce
from semiflat.search import CriticalPoint, run_search
from semiflat.search.gather import Progress
from semiflat.verdicts import Verdict


@dataclass(frozen=True)
class Saddle:
    """A strict saddle to leave: its record, the point and its verdict."""

    row: EmbeddedRow
    point: EmbeddedPoint
    verdict: Verdict


@dataclass(frozen=True)
class Descended:
    """Where the way down from a strict saddle led.

    Attributes:
        saddle: where it began.
        line: steps t along the direction, and the loss at each.
        end: the point that minimising from the lowest of them ended at.
    """

    saddle: Saddle
    line: tuple[Tensor, Tensor]
    end: CriticalPoint

    def row(self, name: str, tolerance: float) -> EscapeRow:
        """The record of the escape; the effective width is told at that tolerance."""
        wide = self.saddle.row
        return EscapeRow(
            name=name,
            source=wide.source,
            embedded=wide.name,
            embedding=wide.embedding,
            family=wide.family,
            added=wide.added,
            widths=wide.widths,
            effective_hidden=reduce(self.end, tolerance).widths,
            curvature=wide.curvature,
            loss_before=self.saddle.point.loss,
            loss_after=self.end.loss,
            step=float(self.line[0][self.line[1].argmin()]),
            status=self.end.status,
            gradient_norm=self.end.gradient_norm,
            iterations=self.end.record.iterations,
            evidence=self.end.record.evidence,
        )


def follow(
    saddles: list[Saddle], max_iterations: int, progress: Progress
) -> Iterator[list[Descended]]:
    """Leave every saddle along its descent direction, then minimise; one batch for each network.

    Yields the escapes of a batch; after Ctrl-C those of the batch as far as it came, and stops.
    """
    groups: dict[object, list[Saddle]] = {}
    for saddle in saddles:
        problem = saddle.point.problem
        # At infinity each has its own limiting network.
        groups.setdefault(problem.net if problem.by_algebra else saddle.row.name, []).append(saddle)
    for group in groups.values():
        net, problem = group[0].point.problem.net, group[0].point.problem
        lines = [_line(saddle) for saddle in group]
        starts = []
        for saddle, (steps, losses) in zip(group, lines, strict=True):
            direction = net.flatten(_direction(saddle))
            starts.append(net.flatten(saddle.point.params) + steps[losses.argmin()] * direction)
        result = run_search(
            problem,
            start=net.unflatten(torch.stack(starts)),
            max_iterations=max_iterations,
            progress=progress,
        )
        rows = [-1 - end.record.start for end in result.runs]
        yield [
            Descended(group[row], lines[row], end)
            for row, end in zip(rows, result.runs, strict=True)
        ]
        if result.interrupted:
            raise KeyboardInterrupt


def _direction(saddle: Saddle) -> dict[str, Tensor]:
    direction = saddle.verdict.descent_direction
    assert direction is not None  # a strict saddle has one
    return direction


def _line(saddle: Saddle) -> tuple[Tensor, Tensor]:
    """Steps both ways along the descent direction, and the loss at each."""
    problem = saddle.point.problem
    at = problem.net.flatten(saddle.point.params)
    return both_ways(problem, at, problem.net.flatten(_direction(saddle)))
