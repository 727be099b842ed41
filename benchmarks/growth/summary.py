"""The page of all runs: losses with intervals, ranks, wins, and how good the predictions are."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from scipy.stats import rankdata, spearmanr, t

from growth.tasks import Task

Figures = dict[str, Any]
GROWING = ("null units", "Net2Net", "GradMax", "TINY", "S2D", "S3D", "Firefly", "TINY by gromo")
OURS, NONE, SCRATCH = "sf.grow", "no growth", "wide from the start"
GROMO = "TINY by gromo"
MEASURES = {
    "train": "training loss, equal epochs",
    "held": "held-out loss, equal epochs",
    "train_time": "training loss, equal time",
    "held_time": "held-out loss, equal time",
}


def case_name(task: str, method: str) -> str:
    return f"{task}, {method}"


def prediction_name(task: str, state: str) -> str:
    return f"predictions, {task}, {state}"


def settings(task: Task) -> Figures:
    """What a run depends on."""
    return {
        "width": task.width,
        "units": task.units,
        "epochs": [task.before, task.after],
        "layer": task.layer,
    }


def interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """The mean, and half the width of its t interval; not a number for one value.

    >>> [round(each, 3) for each in interval([1.0, 2.0, 3.0])]
    [2.0, 2.484]
    """
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, float("nan")
    half = t.ppf((1 + level) / 2, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return mean, float(half)


def by_task(cases: Figures) -> dict[str, dict[str, list[Figures]]]:
    """Runs by task and way of growing, of the seeds that all ways of the task have."""
    found: dict[str, dict[str, dict[str, Figures]]] = {}
    for name, case in cases.items():
        if "runs" in case:
            task, method = name.split(", ", 1)
            found.setdefault(task, {})[method] = case["runs"]
    out = {}
    for task, ways in found.items():
        seeds = sorted(set.intersection(*(set(runs) for runs in ways.values())), key=int)
        if seeds and OURS in ways:
            out[task] = {way: [runs[seed] for seed in seeds] for way, runs in ways.items()}
    return out


def means(ways: dict[str, list[Figures]], measure: str) -> dict[str, float]:
    """The mean of a measure; infinite where a run left the real numbers."""
    return {
        way: statistics.fmean(
            float("inf") if run[measure] is None else run[measure] for run in runs
        )
        for way, runs in ways.items()
    }


def ranks(ways: dict[str, list[Figures]], measure: str) -> dict[str, float]:
    """Of the means, the lowest first."""
    found = means(ways, measure)
    return dict(zip(found, rankdata(list(found.values())).tolist(), strict=True))


def within_factor(pairs: Iterable[tuple[float, float]], factor: float = 2.0) -> float:
    """The share of pairs of which neither is more than so many times the other; nothing is as much as nothing.

    >>> within_factor([(1.0, 1.5), (1.0, 3.0)])
    0.5
    """
    found = [a == b or (min(a, b) > 0 and max(a, b) <= factor * min(a, b)) for a, b in pairs]
    return sum(found) / max(len(found), 1)


def _shown(values: Sequence[float | None]) -> str:
    real = [value for value in values if value is not None]
    if len(real) < len(values):
        return "not finite"
    mean, half = interval(real)
    return f"{mean:.4g} ± {half:.2g}" if half == half else f"{mean:.4g}"


def _tasks(found: dict[str, dict[str, list[Figures]]], cases: Figures) -> list[str]:
    lines = []
    for task, ways in found.items():
        case = cases[case_name(task, OURS)]
        seeds = len(ways[OURS])
        lines += [
            f"## {task}",
            "",
            f"{case['units']} units more in groups of {case['width']} ({case['layer']}), after "
            f"{case['epochs'][0]} epochs; then {case['epochs'][1]} more. {seeds} seeds.",
            "",
            "| | after growing | training | held out | rank | equal time: training | held out | rank "
            "| growing, s | epochs more | parameters |",
            "|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        by_epochs, by_time = ranks(ways, "train"), ranks(ways, "train_time")
        for way, runs in ways.items():
            cells = [
                _shown([run["grown"] for run in runs]),
                _shown([run["train"] for run in runs]),
                _shown([run["held"] for run in runs]),
                f"{by_epochs[way]:g}",
                _shown([run["train_time"] for run in runs]),
                _shown([run["held_time"] for run in runs]),
                f"{by_time[way]:g}",
                f"{statistics.median(run['growing_seconds'] for run in runs):.2f}",
                f"{statistics.median(run['more_epochs'] for run in runs):g}",
                f"{statistics.fmean(run['parameters'] for run in runs):g}",
            ]
            lines.append(f"| {way} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def verdicts(found: dict[str, dict[str, list[Figures]]]) -> dict[str, dict[str, bool | None]]:
    """By measure and task, whether the aims are met: lower than each way of growing; held out, no higher than
    the best of them; never above the wide one beyond its interval, which is ``"…, wide"``."""
    out: dict[str, dict[str, bool | None]] = {}
    for measure in MEASURES:
        for task, ways in found.items():
            mean = means(ways, measure)
            others = [mean[way] for way in GROWING if way in mean]
            out.setdefault(measure, {})[task] = mean[OURS] < min(others) if others else None
            if SCRATCH in ways:
                values = [run[measure] for run in ways[SCRATCH]]
                middle, half = interval(values)
                out.setdefault(f"{measure}, wide", {})[task] = mean[OURS] <= middle + (
                    half if half == half else 0.0
                )
    return out


def _aims(found: dict[str, dict[str, list[Figures]]]) -> list[str]:
    lines = [
        "## The aims",
        "",
        "The best of the others is the lowest mean among the ways of growing. A gap is the mean of sf.grow "
        "less theirs, seed by seed, with its interval: below 0 sf.grow is better.",
        "",
        "| measure | lower than all others | of tasks | not above the wide one beyond its interval |",
        "|---|---|---|---|",
    ]
    met = verdicts(found)
    for measure, title in MEASURES.items():
        won, kept = met.get(measure, {}), met.get(f"{measure}, wide", {})
        lines.append(
            f"| {title} | {sum(bool(v) for v in won.values())} | {len(won)} | "
            f"{sum(bool(v) for v in kept.values())} of {len(kept)} |"
        )
    lines += ["", "| task | measure | best of the others | gap |", "|---|---|---|---|"]
    for task, ways in found.items():
        for measure, title in MEASURES.items():
            mean = means(ways, measure)
            others = {way: mean[way] for way in GROWING if way in mean}
            if not others:
                continue
            best = min(others, key=others.__getitem__)
            gaps = [
                None if None in (a[measure], b[measure]) else a[measure] - b[measure]
                for a, b in zip(ways[OURS], ways[best], strict=True)
            ]
            lines.append(f"| {task} | {title} | {best} | {_shown(gaps)} |")
    return [*lines, ""]


def _gromo(found: dict[str, dict[str, list[Figures]]]) -> list[str]:
    """TINY twice: as it is written for this benchmark, and by the package of its authors."""
    both = {task: ways for task, ways in found.items() if GROMO in ways and "TINY" in ways}
    if not both:
        return []
    lines = [
        "## TINY, as written here and by gromo",
        "",
        "gromo, the package of TINY's authors, makes new units by itself where one hidden layer grows, with "
        "the options that it names for TINY. As written here, what reads the units takes its best step, too, "
        "and convolutions and several groups grow. Amplitudes are searched alike.",
        "",
        "| task | after growing: as written here | by gromo | training: as written here | by gromo |",
        "|---|---|---|---|---|",
    ]
    for task, ways in both.items():
        cells = [
            _shown([run[measure] for run in ways[way]])
            for measure in ("grown", "train")
            for way in ("TINY", GROMO)
        ]
        lines.append(f"| {task} | {' | '.join(cells)} |")
    return [*lines, ""]


def _rank(pairs: Sequence[tuple[float, float]]) -> float | None:
    if len(pairs) < 3 or len({a for a, _ in pairs}) < 2 or len({b for _, b in pairs}) < 2:
        return None
    return float(spearmanr([a for a, _ in pairs], [b for _, b in pairs])[0])


ACHIEVED = {
    "one_step": "one step, confirming",
    "one_step_all": "one step, all",
    "one_step_held": "one step, held out",
    "confirmed": "all steps, confirming",
    "all": "all steps, all",
    "held": "all steps, held out",
}


def _predicted(cases: Figures) -> list[str]:
    known = {name: case for name, case in cases.items() if "growths" in case}
    if not known:
        return []
    total = sum(len(case["growths"]) for case in known.values())
    lines = [
        "## Predictions",
        "",
        f"{total} growths. What `where_to_grow` predicts for the confirming samples, against what `grow` "
        "achieved there, over all that it was given, and on data held out from it; by one step, which is what "
        "is predicted, and by all its steps. By one step the confirming samples get what was predicted, unless "
        "growing is refused: so the other columns are the test. It is of new units; where none help, `grow` "
        "splits units, and what these take off counts as missed. Rank correlation (Spearman), and the share "
        "within a factor of 2; in the last lines the median correlation, and the share of all growths. The "
        "aims are 0.90 and 80%.",
        "",
        f"| task and state | growths | {' | '.join(ACHIEVED.values())} |",
        f"|---|---|{'---|' * len(ACHIEVED)}",
    ]
    correlations: dict[str, dict[str, list[float]]] = {}
    shares: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for name, case in known.items():
        cells = []
        for measure in ACHIEVED:
            pairs = [(each["predicted"], each[measure]) for each in case["growths"]]
            rank = _rank(pairs)
            for kind in (case["layer"], "all"):
                if rank is not None:
                    correlations.setdefault(kind, {}).setdefault(measure, []).append(rank)
                shares.setdefault(kind, {}).setdefault(measure, []).extend(pairs)
            cells.append(f"{'–' if rank is None else f'{rank:.2f}'}, {within_factor(pairs):.0%}")
        lines.append(
            f"| {name.removeprefix('predictions, ')} | {len(case['growths'])} | {' | '.join(cells)} |"
        )
    for kind in shares:
        cells = []
        for measure in ACHIEVED:
            found = correlations.get(kind, {}).get(measure, [])
            middle = f"median {statistics.median(found):.2f}" if found else "–"
            cells.append(f"{middle}, {within_factor(shares[kind][measure]):.0%}")
        lines.append(f"| **{kind}** | {len(shares[kind]['all'])} | {' | '.join(cells)} |")
    return [*lines, ""]


BY_GROUP = ("predicted", "one_step", "one_step_held", "confirmed", "held")


def by_group(cases: Figures) -> dict[tuple[str, str, str], dict[str, float]]:
    """By task, state and group, means over the growths there, as parts of the loss before.

    Of what was predicted, its ``error``, and what came; and how many ``growths`` these are.
    """
    found: dict[tuple[str, str, str], list[Figures]] = {}
    for name, case in cases.items():
        if "growths" in case:
            _, task, state = name.split(", ")
            for each in case["growths"]:
                found.setdefault((task, state, each["group"]), []).append(each)
    out = {}
    for place, growths in found.items():
        parts = {
            key: statistics.fmean((each[key] or 0.0) / each["loss"] for each in growths)
            for key in (*BY_GROUP, "error")
        }
        out[place] = parts | {"growths": len(growths)}
    return out


def _groups(cases: Figures) -> list[str]:
    found = by_group(cases)
    if not found:
        return []
    lines = [
        "## By group",
        "",
        "What was predicted for each group, and what came, in percent of the loss before; means over the "
        "growths, and of the standard errors that the table gives. *Confirming* are samples on which nothing "
        "was fitted, *held out* those that `grow` was not given.",
        "",
        "| task | state | group | growths | predicted | one step, confirming | one step, held out "
        "| all steps, confirming | all steps, held out |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (task, state, group), parts in found.items():
        first, *others = (f"{100 * parts[key]:.2g}" for key in BY_GROUP)
        first = f"{first} ± {100 * parts['error']:.1g}"
        cells = [task, state, f"`{group}`", f"{parts['growths']}", first, *others]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _unused(found: dict[str, dict[str, list[Figures]]]) -> list[str]:
    missing = {
        task: max(run["time_missing"] for runs in ways.values() for run in runs)
        for task, ways in found.items()
    }
    cut = [f"{task} ({seconds:.0f} s)" for task, seconds in missing.items() if seconds > 0]
    return [f"Cut short before their time was up: {', '.join(cut)}."] if cut else []


def page(cases: Figures) -> str:
    """The figures in Markdown."""
    machines = [case["machine"] for case in cases.values()]
    where, loads = machines[0], [each["load_after"] for each in machines]
    found = by_task(cases)
    lines = [
        "# Growing, against other ways of growing",
        "",
        f"By `benchmarks/growth/`, {where['cpu']}, {where['torch_threads']} thread(s), {where['cores']} cores "
        f"with a load of {min(loads):.0f} to {max(loads):.0f}.",
        "",
        "Every way grows the same trained models by the same number of units, carries the state of Adam, and "
        "trains on alike: for equal epochs; then all go on for as long as growing by sf.grow took longer than "
        "theirs, in process time. After training, before growing as well, the statistics of batch norms are "
        "set to those of all training data, once, in all alike. Losses in eval mode; means over seeds with "
        "95 % intervals (t). Ranks are of the mean training losses, no growth and the wide one included. The "
        "wide one has the final width from the start, and as many epochs in all. Units that sf.grow refuses "
        "to add, since no step with them lowers the loss, are added to its model as null units, so that "
        "parameters are equal. The splitting matrices of S2D and S3D are those of sf.unit_curvature, which "
        "computes more than they need; that is in their time.",
        *_unused(found),
        "",
        *(_aims(found) if found else []),
        *_tasks(found, cases),
        *_gromo(found),
        *_predicted(cases),
        *_groups(cases),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"
