"""Figures of the search benchmark: runs to medians and shares, and those to a page."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable

from common import Figures
from search_peers import Run

DONE = ("CONVERGED", "REACHED")
AT_INFINITY = ("CHANNEL", "SATURATED", "DIVERGED")
LIMIT_TOLERANCE = 1e-10


def spread(values: Iterable[float | None]) -> Figures | None:
    """Median, least and largest of the values that are there."""
    there = [value for value in values if value is not None]
    if not there:
        return None
    return {"median": statistics.median(there), "min": min(there), "max": max(there)}


def summary(runs: list[Run], seconds: float | None = None) -> Figures:
    """What the runs of one peer came to.

    Args:
        seconds: of all runs together, if they were not timed one by one.
    """
    total = sum(run.seconds for run in runs) if seconds is None else seconds
    done = [run for run in runs if run.status in DONE]
    counts = Counter(run.status for run in runs)
    alone = seconds is None and done
    return {
        "runs": len(runs),
        "seconds": total,
        "seconds_per_run": total / max(1, len(runs)),
        "done": len(done),
        "seconds_per_done": total / len(done) if done else None,
        "seconds_median_done": statistics.median(run.seconds for run in done) if alone else None,
        "gradient_norm": spread(run.gradient_norm for run in runs),
        "statuses": {
            status: {
                "count": count,
                "gradient_norm": spread(run.gradient_norm for run in runs if run.status == status),
                "loss": spread(run.loss for run in runs if run.status == status),
                "largest": spread(run.largest for run in runs if run.status == status),
                "limit_loss": spread(run.limit_loss for run in runs if run.status == status),
                "limit_gradient_norm": spread(
                    run.limit_gradient_norm for run in runs if run.status == status
                ),
            }
            for status, count in counts.most_common()
        },
    }


def at_infinity(runs: list[Run]) -> Figures:
    """How many of the runs to infinity have a critical point there, to :data:`LIMIT_TOLERANCE`."""
    away = [run for run in runs if run.status in AT_INFINITY]
    reached = [run for run in away if _limit_norm(run) <= LIMIT_TOLERANCE]
    share = len(reached) / len(away) if away else None
    return {"runs": len(away), "limit_reached": len(reached), "share": share}


def gains(runs: list[Run], peer: list[Run]) -> Figures:
    """The loss that the limits lie below where a peer's runs from the same starts stopped."""
    pairs = [
        (run.limit_loss, other.loss)
        for run, other in zip(runs, peer, strict=False)
        if run.limit_loss is not None and _limit_norm(run) <= LIMIT_TOLERANCE
    ]
    return {
        "pairs": len(pairs),
        "limit_lower": sum(limit < loss for limit, loss in pairs),
        "gain": spread(loss - limit for limit, loss in pairs),
        "relative_gain": spread((loss - limit) / loss for limit, loss in pairs),
    }


def against(figures: Figures, semiflat: Figures) -> Figures:
    """The same figures, with ratios to semiflat's."""
    both = figures["seconds_per_done"], semiflat["seconds_per_done"]
    ratio = None if None in both else both[0] / both[1]
    per_run = figures["seconds_per_run"] / semiflat["seconds_per_run"]
    return figures | {"ratio_per_done": ratio, "ratio_per_run": per_run}


def middle(rounds: list[Figures], semiflat: list[Figures] | None = None) -> Figures:
    """Medians over rounds that differ in time alone."""
    out = dict(rounds[0])
    if semiflat is not None:
        rounds = [against(*both) for both in zip(rounds, semiflat, strict=False)]
    for key in (
        "seconds",
        "seconds_per_run",
        "seconds_per_done",
        "seconds_median_done",
        "ratio_per_done",
        "ratio_per_run",
    ):
        values = [each[key] for each in rounds if each.get(key) is not None]
        out[key] = statistics.median(values) if values else None
        out[f"{key}_rounds"] = values
    return out


def gain_words(gained: Figures) -> str:
    if not gained["pairs"]:
        return "no limit to compare"
    return (
        f"{gained['limit_lower']} of {gained['pairs']} limits are lower, by "
        f"{number(gained['gain']['median'])} in the median ({number(gained['gain']['min'])} to "
        f"{number(gained['gain']['max'])}), a part of {number(gained['relative_gain']['median'])}"
    )


def infinity_words(away: Figures) -> str:
    if not away["runs"]:
        return "no run went to infinity"
    return (
        f"{away['limit_reached']} of {away['runs']} runs at infinity have a limit with ‖∇R‖∞ ≤ 1e-10 "
        f"({away['share']:.1%})"
    )


def _limit_norm(run: Run) -> float:
    return float("inf") if run.limit_gradient_norm is None else run.limit_gradient_norm


def page(cases: Figures) -> str:
    """The figures in Markdown."""
    lines = [
        "# The search against its peers",
        "",
        "Made by `python benchmarks/search.py` from `search.json` beside it; do not edit.",
        "",
        "*Done* is CONVERGED for semiflat, and for a peer a point with ‖∇R‖∞ ≤ 1e-12, whatever kind of "
        "point that is: its run is timed to the first such point it evaluates. *s/done* is all the time "
        "spent over the runs that are done. Peers get the same closed-form derivatives, one network at "
        "a time, on one thread.",
    ]
    for name, case in cases.items():
        lines += ["", f"## {name}", ""]
        if "unavailable" in case:
            lines += [f"Not measured: {case['unavailable']}."]
            continue
        lines += [f"{case['title']}.", "", case["protocol"], ""]
        for title, figures in case["tables"].items():
            lines += [f"**{title}**", "", *_peers(figures), "", *_statuses(figures), ""]
        lines += [f"- {note}" for note in case["notes"]]
        lines += ["", _machine(case["machine"])]
    return "\n".join(lines) + "\n"


def _machine(machine: Figures) -> str:
    return (
        f"*{machine['date']}; {machine['cpu']}, {machine['cores']} cores, load "
        f"{machine['load_before']:.1f} before and {machine['load_after']:.1f} after; Python "
        f"{machine['python']}, torch {machine['torch']}, NumPy {machine['numpy']}, SciPy "
        f"{machine['scipy']}; {machine['torch_threads']} torch thread, BLAS threads "
        f"{machine['blas_threads']}; {machine['seconds']:.0f} s.*"
    )


def _peers(figures: dict[str, Figures]) -> list[str]:
    rows = [
        "| | runs | done | s/run | s/done | median s of done | s/run, times semiflat | "
        "s/done, times semiflat | ‖∇R‖∞ median | best |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of in figures.items():
        norm = of["gradient_norm"] or {}
        cells = [
            name,
            str(of["runs"]),
            str(of["done"]),
            *(number(of[key]) for key in ("seconds_per_run", "seconds_per_done")),
            number(of["seconds_median_done"]),
            number(of.get("ratio_per_run")),
            number(of.get("ratio_per_done")),
            number(norm.get("median")),
            number(norm.get("min")),
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return rows


def _statuses(figures: dict[str, Figures]) -> list[str]:
    rows = [
        "| | status | runs | ‖∇R‖∞ median | max | loss median | largest parameter, median | "
        "limit's loss | limit's ‖∇R‖∞ median | max |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of in figures.items():
        for status, s in of["statuses"].items():
            limit = s["limit_gradient_norm"] or {}
            cells = [
                name,
                status,
                str(s["count"]),
                number(s["gradient_norm"]["median"]),
                number(s["gradient_norm"]["max"]),
                number(s["loss"]["median"]),
                number(s["largest"]["median"]),
                number((s["limit_loss"] or {}).get("median")),
                number(limit.get("median")),
                number(limit.get("max")),
            ]
            rows.append("| " + " | ".join(cells) + " |")
    return rows


def number(value: float | None) -> str:
    """Three digits, or a dash."""
    return "–" if value is None else f"{value:.3g}"
