"""The main job: critical points of a small network, embedded, judged, proved and left where there is a way."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from semiflat._version import __version__
from semiflat.checkpoints import packed
from semiflat.data import Dataset
from semiflat.decay import WeightDecay
from semiflat.files import as_json
from semiflat.limits import LimitMLP
from semiflat.networks import MLP
from semiflat.outputs import Outputs
from semiflat.points import EmbeddedPoint, Point
from semiflat.problem import Problem
from semiflat.records.study import (
    DataRecord,
    End,
    JudgedRow,
    NetworkRecord,
    PointRow,
    RunsRecord,
    SettingsRecord,
    StudyRecord,
    read,
)
from semiflat.search import CriticalPoint, SearchResult, Status, run_search
from semiflat.search.gather import tally
from semiflat.search.record import Finished
from semiflat.study.anatomy import anatomy
from semiflat.study.classes import DECAY, as_option, decide, separation_record
from semiflat.study.curves import descent_curve, share_line, spectrum_curve
from semiflat.study.escapes import Descended, Saddle, follow
from semiflat.study.nearest import Start, descend
from semiflat.study.proofs import Proofs
from semiflat.study.settings import Settings
from semiflat.study.widenings import Trial, embedded_row, widenings, widenings_with_decay
from semiflat.verdicts import Certainty, Kind, Verdict, judge_all

Progress = Callable[[str, int, int, str], None]
"""Called with a stage's name, how many steps of it are done, how many there are, and in words what has
come of them."""

_ANY_STARTS = 24
_OWN_POINT = re.compile(r"p\d+(-e\d+)?|[nx]\d+")
_MOST_CURVES = 6
APART = 2.0
"""Seconds between two writings of the record within a stage."""


class Study:
    """One study: runs stage by stage and writes what it has after each.

    Args:
        dataset: from ``load_data``.
        settings: what to do.
        out: folder for ``study.json``, ``points/`` and ``certificates/``; None to write nothing.
        progress: see :data:`Progress`.
        source: how the data were loaded, stored with every point.
        outputs: what it may replace in ``out``; by default what a study wrote, unchanged since.
        tell: called with what is worth a line at once: that classes are separable, and what is done about it.
    """

    def __init__(
        self,
        dataset: Dataset,
        settings: Settings,
        out: Path | None = None,
        progress: Progress = lambda stage, done, total, so_far: None,
        source: dict[str, Any] | None = None,
        outputs: Outputs | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.settings, self.out, self.progress, self.tell = settings, out, progress, tell
        self.source = source or {"source": dataset.name}
        net = MLP([dataset.X.shape[1], *settings.hidden, dataset.outputs], settings.activation)
        self.problem = Problem(net, dataset)
        if settings.weight_decay is not None:
            WeightDecay.of(settings.weight_decay).check(net)
        self.outputs = outputs or Outputs("study")
        self.proofs = Proofs(out, settings.proofs, self.outputs)
        self._use = settings.resolved(self.problem)
        self.record = StudyRecord(
            semiflat=__version__,
            source=self.source,
            data=read(DataRecord, dataset.to_json()),
            network=NetworkRecord(
                widths=net.widths,
                activation=settings.activation,
                parameters=net.parameter_count,
            ),
            settings=SettingsRecord(**vars(settings) | self._settled() | {"weight_decay": None}),
            proofs=self.proofs.record(),
        )
        self._found: list[tuple[str, CriticalPoint]] = []
        self._points: list[tuple[str, CriticalPoint]] = []
        self._wide: dict[str, list[tuple[str, EmbeddedPoint]]] = {}
        self._saddles: list[Saddle] = []
        self._pinned: list[Start] = []
        self._written = 0.0

    def run(self) -> dict[str, Any]:
        """All stages; returns the record, which is also in ``out/study.json``.

        Raises:
            InputError: see :meth:`check`.
        """
        self.check()
        self._write()
        self._clear()
        self._decide()
        self._find()
        self._embed()
        self._descend()
        self._prove()
        self._leave()
        self.record.complete = True
        return self.finish_early()

    def check(self) -> None:
        """Refuse a folder that cannot be written, or with files in the way that no study wrote.

        Raises:
            InputError: naming the file and what to do.
        """
        if self.out is not None:
            self.outputs.check(self.out / "study.json", *self._earlier(), *self.proofs.earlier())

    def finish_early(self) -> dict[str, Any]:
        """Write what there is after an interruption; returns the record, marked incomplete."""
        self._write()
        return self.record.to_json()

    # -- stages -----------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Whether the classes are separable, and the weight decay."""
        s, plain = self.settings, self.problem
        self.progress("separable classes?", 0, 1, "")
        self.problem, told, self.record.decay = decide(plain, s.weight_decay, s.seed, self.tell)
        self.progress("separable classes?", 1, 1, "")
        self.record.separation = separation_record(told)
        self._use = s.resolved(self.problem)
        self.record.settings = replace(
            self.record.settings, **self._settled(), weight_decay=as_option(self.problem.decay)
        )

    def _settled(self) -> dict[str, Any]:
        use = self._use
        return {"starts": use.starts, "points": use.points, "max_iterations": use.max_iterations}

    def _find(self) -> None:
        starts = self._use.starts
        result = self._search("minimum", starts, "search")
        self.record.search = _search_record(result, "minimum", starts)
        if self.record.separation is None and (told := result.separation) is not None:
            self.record.separation = separation_record(told)
            self.tell(
                f"separable classes: {told}; --weight-decay {DECAY:g} makes every minimum finite"
            )
        points = result.with_infinity
        if not points and not result.interrupted:
            # No minimum at finite distance: there may still be saddles to embed.
            starts = min(starts, _ANY_STARTS)
            other = self._search("any", starts, "search, any index")
            self.record.search_any = _search_record(other, "any", starts)
            points, result = other.with_infinity, other
        points = sorted(points, key=lambda point: point.constant)  # the constant predictor last
        named = [(f"p{k}", point) for k, point in enumerate(points)]
        verdicts = judge_all([point for _, point in named])
        for (name, point), verdict in zip(named, verdicts, strict=True):
            self.record.points.append(_point_row(name, point, verdict))
        self._save(named)
        own = [(name, point) for name, point in named if not point.constant]
        self._found, self._points = named, (own or named)[: self._use.points]
        self._write()
        if result.interrupted:
            raise KeyboardInterrupt

    def _search(self, kind: Any, starts: int, stage: str) -> SearchResult:
        return run_search(
            self.problem,
            starts=starts,
            seed=self.settings.seed,
            kind=kind,
            max_iterations=self._use.max_iterations,
            progress=self._tally(stage, starts),
        )

    def _tally(self, stage: str, starts: int) -> Callable[[Sequence[Finished]], None]:
        report = tally(lambda done, so_far: self.progress(stage, done, starts, so_far))
        report([])
        return report

    def _embed(self) -> None:
        plan = {name: self._trials(point) for name, point in self._points}
        if self.problem.decay:
            for name, point in self._points:
                pairs = [
                    (trial, trial.embedding.keeps_critical(point).holds) for trial in plan[name]
                ]
                plan[name] = [trial for trial, holds in pairs if holds]
                self._pinned += [
                    (name, trial, trial.embedding(point))
                    for trial, holds in pairs
                    if not holds and trial.added == 1
                ]
        count = sum(map(len, plan.values()))
        for name, point in self._points:
            embedded = [widening.embedding(point) for widening in plan[name]]
            judged = zip(plan[name], embedded, judge_all(embedded), strict=True)
            for number, (widening, wide, verdict) in enumerate(judged):
                label = f"{name}-e{number}"
                row = embedded_row(label, name, widening, wide, verdict)
                self._wide.setdefault(name, []).append((label, wide))
                self.record.embedded.append(row)
                if verdict.kind is Kind.STRICT_SADDLE:
                    self._saddles.append(Saddle(row, wide, verdict))
                self.progress("embed and judge", len(self.record.embedded), count, "")
            self._save(self._wide.get(name, []))
            self._write_now_and_then()
        for name, point in self._points[:1]:
            self._draw_point(name, point)
        self._write()

    def _trials(self, point: Point) -> list[Trial]:
        s = self.settings
        if self.problem.decay:
            return list(widenings_with_decay(point.problem, s.wider, s.null_bias))
        return list(widenings(point.problem.net, s.wider, s.null_bias))

    def _descend(self) -> None:
        """With weight decay: the critical points nearest to the wide points that are none, going down."""
        if not self.problem.decay:
            return
        self.record.nearest = []
        chosen = self._pinned[: self._use.descents]
        report = self._tally("descend from the other wide points", len(chosen))
        tolerance = self.settings.effective_tolerance
        for row, end in descend(chosen, self._use.max_iterations, tolerance, report):
            self.record.nearest.append(row)
            self._save([(row.name, end)])
            self._write_now_and_then()
        self._write()

    def _prove(self) -> None:
        """Certificates of all points, beside the verdicts; what measuring left undecided, they decide."""
        rows: dict[str, JudgedRow] = {
            row.name: row for row in (*self.record.points, *self.record.embedded)
        }
        done, most = 0, self._use.proved
        for place, (name, point) in enumerate(self._found):
            family = [(name, point), *self._wide.get(name, [])]
            if most is None or place < most:
                proofs = self.proofs.prove(family)
            else:
                proofs = self.proofs.leave_out(len(family), most)
            for (label, _), proof in zip(family, proofs, strict=True):
                row = rows[label]
                row.certificate = proof
                if row.kind == Kind.UNDECIDED and proof.kind:
                    row.kind, row.certainty = proof.kind, Certainty.PROVED
                    row.reason = proof.reason
            done += len(family)
            self.progress("prove", done, len(rows), "")
        self.record.distinct_proved = self.proofs.distinct(self.record.points, self._use.told_apart)
        self.record.proofs = self.proofs.record()
        self._write()

    def _leave(self) -> None:
        report = self._tally("leave the saddles", len(self._saddles))
        escapes: list[Descended] = []
        for batch in follow(self._saddles, self.settings.escape_iterations, report):
            ends: list[tuple[str, Point]] = []
            for escape in batch:
                name = f"x{len(escapes)}"
                escapes.append(escape)
                row = escape.row(name, self.settings.effective_tolerance)
                self.record.escapes.append(row)
                ends.append((name, escape.end))
            self._save(ends, spectra=False)
            self._write_now_and_then()
        for escape in _steepest_escapes(escapes):
            self.record.curves.descent.append(descent_curve(escape))

    # -- records ----------------------------------------------------------------------------------

    def _draw_point(self, name: str, point: Point) -> None:
        layer = 0
        if (
            not point.problem.decay
        ):  # else the penalty changes along the line, and no point of it is critical
            for unit in point.problem.net.heads(layer):
                self.record.curves.share_line.append(share_line(name, point, layer, unit))
        rows, wide = self.record.by_source().get(name, []), dict(self._wide.get(name, []))
        for family in ("replicate inside", "replicate outside", "scaled copies", "null units"):
            row = next((r for r in rows if r.family == family), None)
            if row is not None:
                self.record.curves.spectrum.append(spectrum_curve(row, wide[row.name]))

    def _save(self, named: Sequence[tuple[str, Point]], spectra: bool = True) -> None:
        """Points into files, and into the record what is drawn of them; ends of runs are not judged."""
        self.record.anatomy |= {name: anatomy(point, spectra) for name, point in named}
        if self.out is not None:
            folder = self.out / "points"
            self.outputs.write(
                {
                    folder / f"{name}.safetensors": packed(point, self.source)
                    for name, point in named
                }
            )

    def _clear(self) -> None:
        """Remove points and proofs of an earlier study in the same folder; they are not this record's."""
        self.outputs.remove([*self._earlier(), *self.proofs.earlier()])

    def _earlier(self) -> list[Path]:
        """The files that are there under names of a study's points."""
        there = [] if self.out is None else (self.out / "points").glob("*.safetensors")
        return [path for path in there if _OWN_POINT.fullmatch(path.stem)]

    def _write(self) -> None:
        self._written = time.monotonic()
        if self.out is not None:
            self.outputs.write({self.out / "study.json": as_json(self.record.to_json())})

    def _write_now_and_then(self) -> None:
        """The record is written as a whole, and what a process that is killed loses is a few seconds' work."""
        if time.monotonic() - self._written > APART:
            self._write()


def _steepest_escapes(escapes: list[Descended]) -> list[Descended]:
    """The escapes to draw: for each narrow point the one that falls furthest, a few in all."""
    best: dict[str, Descended] = {}
    for escape in escapes:
        other = best.get(escape.saddle.row.source)
        if other is None or escape.end.loss < other.end.loss:
            best[escape.saddle.row.source] = escape
    return list(best.values())[:_MOST_CURVES]


def _search_record(result: SearchResult, kind: str, starts: int) -> RunsRecord:
    ended: dict[Status, CriticalPoint] = {}
    for run in sorted(result.runs, key=lambda run: run.loss):
        ended.setdefault(run.status, run)
    return RunsRecord(
        kind=kind,
        starts=starts,
        interrupted=result.interrupted,
        counts={str(status): count for status, count in result.counts.items()},
        unresolved=result.why_unresolved,
        meanings={str(status): status.meaning for status in Status},
        lowest=[
            End(
                status=status,
                loss=run.loss,
                gradient_norm=run.gradient_norm,
                start=run.record.start,
                iterations=run.record.iterations,
                evidence=run.record.evidence,
            )
            for status, run in ended.items()
        ],
    )


def _point_row(name: str, point: CriticalPoint, verdict: Verdict) -> PointRow:
    net = point.problem.net
    judged = verdict.to_json() | {"name": name, "gradient_norm": point.gradient_norm}
    return PointRow(
        **vars(read(JudgedRow, judged)),
        loss=point.loss,
        status=point.status,
        at_infinity=net.forms if isinstance(net, LimitMLP) else None,
        trivial=point.trivial,
        start=point.record.start,
        iterations=point.record.iterations,
        largest_parameter=max(float(t.abs().max()) for t in point.params.values()),
        evidence=point.record.evidence,
        accuracy=point.accuracy,
        penalty=float(point.problem.penalty(point.params)) if point.problem.decay else None,
    )
