"""The page: the record, what is said about it, and the template."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from semiflat.records.study import EmbeddedRow, StudyRecord
from semiflat.report import (
    checks,
    classes,
    curves,
    each,
    made_of,
    numbers,
    overview,
    proofs,
    sentences,
    words,
)
from semiflat.report.effective import effective_widths
from semiflat.report.names import is_name, linker
from semiflat.report.traps import family_names, most_added, narrow_points

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

    from semiflat.report.figures import Figure

_CHARTS = ("vega", "vega-lite", "vega-embed")
"""The library that draws the chart, in the order in which its parts are loaded."""


def render(record: StudyRecord, figures: list[Figure]) -> str:
    """The page as HTML; all text of the record is escaped."""
    return environment().get_template("report.html.j2").render(_context(record, figures))


@cache
def environment() -> jinja2.Environment:
    """What templates are filled in with."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: numbers.NONE if value is None else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "loss": numbers.loss,
        "size": numbers.size,
        "times": numbers.times,
        "signs": numbers.signs,
        "widths": numbers.widths,
        "kind": words.kind_words,
        "counted": words.kinds_counted,
        "equal": checks.equal,
        "status": words.status_words,
        "proof": proofs.proof_of,
        "percent": classes.percent,
    }
    environment.tests["name"] = is_name
    environment.globals["count"] = numbers.count
    environment.globals["change"] = numbers.change
    return environment


def _template(name: str) -> str:
    return files("semiflat.report").joinpath(name).read_text("utf-8")


def _names(record: StudyRecord) -> Iterator[str]:
    """All points that have a section."""
    for rows in (record.points, record.embedded, record.nearest or (), record.escapes):
        yield from (row.name for row in rows)


@cache
def _chart_library() -> Markup:
    """The scripts that draw the chart, under their licences; as they are, but for references to maps."""
    from markupsafe import Markup

    parts = [f"/*!\n{_template('vendor/LICENSES.txt')}*/"]
    for name in _CHARTS:
        script = _template(f"vendor/{name}.min.js")
        parts.append(re.sub(r"^//# sourceMappingURL=.*$", "", script, flags=re.M).strip())
    text = "\n".join(parts)
    assert "</script" not in text.lower()
    return Markup(text)


def scripts(charts: dict[str, Any] | None) -> dict[str, Any]:
    """What a page with these charts runs."""
    from markupsafe import Markup

    return {
        "charts": charts,
        "chart_library": _chart_library() if charts else "",
        "page_script": Markup(_template("page.js")),
    }


def _context(record: StudyRecord, figures: list[Figure]) -> dict[str, Any]:
    narrow = narrow_points(record)
    marks = overview.marks(record)
    losses = {row.name: row.loss for row in record.points if row.loss is not None}
    return {
        "marks": marks,
        **scripts(_charts(marks, losses) if marks else None),
        "files": "points",
        "every": each.families(record),
        "linked": linker(_names(record)),
        "ends": {row.embedded: row for row in record.escapes},
        "losses": losses,
        "record": record,
        "data": record.data,
        "network": record.network,
        "settings": [pair for pair in vars(record.settings).items() if pair[1] is not None],
        "searches": record.searches(),
        "points": record.points,
        "title": sentences.title(record),
        "outcome": sentences.outcome(record),
        "why_nothing": sentences.why_nothing(record),
        "summary": sentences.summary(record, narrow),
        "search_note": sentences.search_note(record),
        "classes": classes.paragraphs(record),
        "wide_text": classes.wide_text(record),
        "nearest": record.nearest or [],
        "nearest_text": classes.nearest(record),
        "narrow": narrow,
        "families": family_names(record),
        "most_added": most_added(record),
        "effective": effective_widths(record),
        "unproved": {
            "points": proofs.others(record.points),
            "embedded": proofs.others(record.embedded),
        },
        "points_proved": proofs.points_sentence(record),
        "wide_proved": proofs.wide_sentence(record),
        "not_attempted": proofs.not_attempted(record),
        "by_law": record.embedded_at_infinity(False),
        "far": record.embedded_at_infinity(),
        "drawn": bool(record.anatomy),
        "checks": checks.check_sentences(record),
        "disagreements": checks.disagreements(record),
        "curves": curves.tables(record),
        "figures": [(f, base64.b64encode(f.png).decode()) for f in figures],
        "kinds": words.KINDS,
        "certainties": words.CERTAINTIES,
        "family_meanings": words.FAMILIES,
        "commands": commands(record),
    }


def _charts(marks: list[overview.Mark], losses: dict[str, float]) -> dict[str, Any]:
    """The charts as Vega-Lite takes them; the script gives the last two their data, from the tables."""
    return {
        "overview": overview.chart(marks, losses),
        "weights": made_of.WEIGHTS,
        "eigenvalues": made_of.EIGENVALUES,
    }


def commands(record: StudyRecord) -> Iterator[tuple[str, str]]:
    """Commands that take the study apart, each with what it does."""
    yield "Find the points again.", f"semiflat find {_find_options(record)} --out points"
    if record.points:
        point = f"points/{record.points[0].name}.safetensors"
        steps = filter(None, map(_step, record.embedded))
        widen = f"semiflat widen {point} {next(steps, 'replicate:0:0:1/2,1/2')}"
        what = "Place one in a wider network, as one of the rows above did."
        yield what, f"{widen} --out wide.safetensors"
        yield "Ask what kind of point it is there.", "semiflat judge wide.safetensors"
    if record.embedded:
        what = "Every point on this page lies in points/ under its name."
        yield what, f"semiflat judge points/{record.embedded[0].name}.safetensors"
    yield from proofs.commands(record)


def _find_options(record: StudyRecord) -> str:
    settings, source = record.settings, record.source
    options = {
        "--data": source.get("source") or record.data.name,
        "--target": source.get("target"),
        "--loss": source.get("loss"),
        "--hidden": ",".join(map(str, settings.hidden or ())) or None,
        "--activation": settings.activation,
        "--starts": settings.starts,
        "--max-iterations": settings.max_iterations,
        "--seed": settings.seed,
        "--weight-decay": settings.weight_decay if record.decay else None,
    }
    words = [f"{key} {shlex.quote(str(v))}" for key, v in options.items() if v is not None]
    standardised = source.get("standardise", record.data.standardisation is not None)
    words += [] if standardised else ["--raw"]
    words += ["--kind any"] if record.search_any else []
    return " ".join(words)


def _step(row: EmbeddedRow) -> str | None:
    """An embedding as ``semiflat widen`` takes it, if it is a single step."""
    if len(row.steps) != 1:
        return None
    step = row.steps[0]
    places = {"Replicate": ("replicate", "unit", "weights"), "NullUnits": ("null", None, "biases")}
    if step.get("type") not in places:
        return None
    name, unit, key = places[step["type"]]
    values = [str(value) for value, times in step.get(key) or [] for _ in range(times)]
    at = [name, step.get("layer"), *([step.get(unit)] if unit else []), ",".join(values)]
    return ":".join(map(str, at))
