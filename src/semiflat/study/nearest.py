"""With weight decay most widenings are not critical: where descent leads from there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from semiflat.points import EmbeddedPoint, Point
from semiflat.records.study import JudgedRow, NearestRow, read
from semiflat.reduction import reduce
from semiflat.search import run_search
from semiflat.search.gather import Progress
from semiflat.study.widenings import Trial
from semiflat.verdicts import judge_all

Start = tuple[str, Trial, EmbeddedPoint]
"""The narrow point's name, how it was widened, and the wide point."""


def descend(
    starts: Sequence[Start], max_iterations: int, tolerance: float, progress: Progress
) -> Iterator[tuple[NearestRow, Point]]:
    """Minimise from each wide point, those of one network as one batch; yields the ends in order.

    Args:
        starts: wide points that are not critical.
        max_iterations: steps of each.
        tolerance: at which effective widths are told.
        progress: of the runs.
    """
    groups: dict[object, list[Start]] = {}
    for start in starts:
        groups.setdefault(start[2].problem.net, []).append(start)
    number = 0
    for group in groups.values():
        problem = group[0][2].problem
        net = problem.net
        vectors = [net.flatten(wide.params) for _, _, wide in group]
        result = run_search(
            problem,
            start=net.unflatten(torch.stack(vectors)),
            max_iterations=max_iterations,
            progress=progress,
        )
        verdicts = judge_all(result.runs)
        for end, verdict in zip(result.runs, verdicts, strict=True):
            place = -1 - end.record.start
            source, trial, wide = group[place]
            name = f"n{number}"
            number += 1
            judged = verdict.to_json() | {"name": name, "gradient_norm": end.gradient_norm}
            row = NearestRow(
                **vars(read(JudgedRow, judged)),
                source=source,
                embedding=repr(trial.embedding),
                family=trial.family,
                added=trial.added,
                widths=net.widths,
                gradient_embedded=wide.gradient_norm,
                loss_before=wide.source.loss,
                loss_embedded=wide.loss,
                loss=end.loss,
                distance=float(torch.linalg.vector_norm(net.flatten(end.params) - vectors[place])),
                status=end.status,
                iterations=end.record.iterations,
                evidence=end.record.evidence,
                accuracy=end.accuracy,
                effective_hidden=reduce(end, tolerance).widths,
            )
            yield row, end
        if result.interrupted:
            raise KeyboardInterrupt
