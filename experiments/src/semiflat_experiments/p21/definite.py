"""P21 §V-E, Fig. 4: how often B is positive definite and how large D is in 2-4-6-4-1 networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.figure import say_so
from semiflat_experiments.p21.arms import differing, interval, units
from semiflat_experiments.p21.definite_figure import (
    COUNTS,
    EDGES,
    LAYERS,
    draw_D,
    draw_parts,
    histogram,
    positive,
    range_of,
)
from semiflat_experiments.p21.replicated import MINIMA, ROUNDING, counted_signs, replicated, sign
from semiflat_experiments.p21.training import NOISY, PUBLISHED, STUDENT, VARIANTS, draw_data, train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REACHED, INFINITE = ("CONVERGED",), ("CHANNEL", "SATURATED", "DIVERGED")


def tasks(settings: Settings) -> list[Task]:
    """P21's runs first, then those with one choice changed, then the library's search."""
    first = settings["seed"]
    trained = [
        {"seed": first + k, "arm": "BFGS", "variant": variant}
        for variant in VARIANTS
        for k in range(settings["runs"].get(variant, 0))
    ]
    seeds = range(first, first + settings["data_sets"])
    return [*trained, *({"seed": seed, "arm": "search", "variant": NOISY} for seed in seeds)]


def run(settings: Settings, task: Task) -> Record:
    """Train, and look at the blocks of all units where training ends."""
    problem, start = draw_data(task["variant"], task["seed"])
    if task["arm"] == "search":
        found = sf.run_search(problem, settings["starts"], seed=task["seed"], processes=1)
        return {**task, "ends": [_searched(end) for end in found.runs]}
    point, iterations, message = train(problem, start, task["variant"])
    if not np.isfinite(point.loss):
        return {**task, "dropped": "the loss is not finite where BFGS ends"}
    return {**task, "iterations": iterations, "message": message, **_measured(point)}


def _searched(end: sf.CriticalPoint) -> dict[str, Any]:
    """How a run of the search ended, and what the replications of its units are if at a minimum."""
    converged = end.status is sf.Status.CONVERGED
    kind = sf.judge(end).kind.name if converged else None
    return {
        "status": str(end.status),
        "kind": kind,
        "limit": end.limit.kind if end.limit is not None else None,
        "replicated": counted_signs(replicated(end)) if kind in MINIMA else [],
        **_measured(end),
    }


def _measured(point: sf.Point) -> dict[str, Any]:
    """How near a critical point it is, and the blocks of its units."""
    eigenvalues, vectors = torch.linalg.eigh(sf.hessian(point))
    noise = ROUNDING * eigenvalues.abs().max()
    kept = eigenvalues.abs() > noise
    step = vectors[:, kept] @ (vectors.T @ sf.gradient(point))[kept].div(eigenvalues[kept])
    return {
        "gradient": point.gradient_norm,
        "loss": 2 * point.loss / float(point.problem.y.var(correction=0)),
        "newton": float(step.abs().max()) if len(step) else 0.0,
        "largest": float(point.problem.net.flatten(point.params).abs().max()),
        "negative": int((eigenvalues < -noise).sum()),
        **_blocks(point),
    }


def _blocks(point: sf.Point) -> dict[str, Any]:
    """Signs of B with its bias row and without, and log10 of max |D|, for every unit of each layer."""
    found: dict[str, list[Any]] = {"with": [], "without": [], "D": []}
    for layer, width in enumerate(point.problem.net.hidden):
        units = [sf.unit_blocks(point, layer, unit) for unit in range(width)]
        fed = point.problem.net.widths[layer]
        found["with"].append("".join(sign(unit.G) for unit in units))
        found["without"].append("".join(sign(unit.G[:fed, :fed]) for unit in units))
        # P21's D is a sum over the samples, the library's F a mean.
        largest = [float(unit.F[:, :fed].abs().max()) * point.problem.samples for unit in units]
        found["D"].append([round(float(np.log10(max(each, 1e-300))), 2) for each in largest])
    return found


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Published beside ours, how far from critical points that is, and what is left at real ones."""
    trained = qualified([each for each in records if each["arm"] == "BFGS"])
    of = {name: [each for each in trained if each["variant"] == name] for name in settings["runs"]}
    ends = [end for each in records if each["arm"] == "search" for end in each["ends"]]
    reached = [end for end in ends if end["status"] in REACHED]
    infinite = [end for end in ends if end["status"] in INFINITE]
    minima = [end for end in reached if end["kind"] in MINIMA]
    mine = of[PUBLISHED]
    bare, full = (positive(mine, key) for key in ("without", "with"))
    far = sum(each["negative"] > 0 or each["newton"] > 1 for each in mine)
    wrong = sum(each["negative"] > 0 for each in mine)
    last = max((d for end in reached for d in end["D"][-1]), default=0.0)
    first = min((d for end in reached for row in end["D"][:-1] for d in row), default=0.0)
    rows = [
        *(_row_of_layer(layer, mine) for layer in LAYERS),
        _row_of_gradients(mine),
        Row(
            "runs that end at a Hessian with negative eigenvalues",
            "—",
            f"{wrong} of {len(mine)}",
            f"{_quantiles([each['negative'] for each in mine], 0)} of 75; a Newton step would move a "
            f"parameter by {_quantiles([each['newton'] for each in mine], 1)}",
        ),
        *(_row_of_D(layer, mine) for layer in LAYERS),
        *(_row_of_variant(name, of[name]) for name in of if name != PUBLISHED),
        *_rows_of_search(ends, reached, infinite),
    ]
    shares = [
        count / max(len(mine) * width, 1) for count, width in zip(bare, STUDENT[1:], strict=False)
    ]
    checks = [
        Check(
            "positive definite blocks get rarer with every layer, as published",
            bare[0] > 0 and shares[0] > shares[1] >= shares[2],
            ", ".join(f"{share:.2%}" for share in shares),
        ),
        Check(
            "in each layer fewer than independent signs would make, 2^-n",
            bool(mine) and all(share < 0.5**n for share, n in zip(shares, STUDENT, strict=False)),
            ", ".join(
                f"{share:.2%} < {0.5**n:.2%}" for share, n in zip(shares, STUDENT, strict=False)
            ),
        ),
        Check(
            "with the bias row of B half of them or more are not definite",
            2 * sum(full) <= sum(bare) > 0,
            f"{full} against {bare}",
        ),
        Check(
            "in the main setting BFGS ends at no critical point: negative eigenvalues or a Newton step above 1 "
            "in nine of ten runs",
            10 * far >= 9 * len(mine) > 0,
            f"{far} of {len(mine)}",
        ),
        Check(
            "at points really reached D is 0 in the last hidden layer alone",
            bool(reached) and last < -8 and first > last + 2,
            f"log10 max |D| at most {last} there, at least {first} before; {len(reached)} points",
        ),
        Check(
            "there replications are minima in the last hidden layer alone, as the sign of B says",
            bool(minima) and all(_as_theorem_6(end["replicated"]) for end in minima),
            _replicated_words(reached),
        ),
    ]
    data = _data(of, ends, reached)
    return Outcome([*rows, counted(records)], checks, CAPTION, data)


CAPTION = (
    "Left: part of the blocks B that are positive definite, without the bias row as P21 counts and with it, "
    "over BFGS runs as in P21 §V-E; dotted, what independent signs would make. Right: largest entries of D of "
    "all units, as P21 Fig. 4. Where BFGS ends (lines) they tell no layer from another; at critical points of "
    "noisy targets that a search reached (bands from lowest to highest), the last layer's are 0 to rounding "
    "and the others' are not."
)


def _quantiles(values: Sequence[float], digits: int) -> str:
    low, middle, high = np.quantile(values, [0.1, 0.5, 0.9]) if len(values) else (0.0, 0.0, 0.0)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _row_of_layer(layer: int, mine: Sequence[Record]) -> Row:
    count, total = COUNTS[layer]
    bare, full, rounded = (
        positive(mine, *key)[layer] for key in (("without",), ("with",), ("without", "p"))
    )
    total_here = units(len(mine))[layer]
    low, high = interval(bare, total_here)
    return Row(
        f"positive definite B, hidden layer {layer + 1}",
        f"{count} of {total} ({count / total:.2%})",
        f"{bare} of {total_here} ({bare / max(total_here, 1):.2%})",
        f"95 % interval {low:.2%} to {high:.2%}; with the bias row {full}; negative definite "
        f"{positive(mine, 'without', '-m')[layer]}; by rounding alone {rounded}; independent signs would make "
        f"{0.5 ** STUDENT[layer]:.2%}",
    )


def _row_of_gradients(mine: Sequence[Record]) -> Row:
    logs = np.log10([max(each["gradient"], 1e-300) for each in mine] or [1.0])
    low, middle, high = np.quantile(logs, [0.1, 0.5, 0.9])
    messages = Counter(each["message"] for each in mine)
    return Row(
        "‖∇R‖∞ where BFGS ends, log10",
        "—",
        f"{middle:.1f} ({low:.1f} to {high:.1f}), at most {logs.max():.1f}",
        "median and deciles, of R; P21's sum is 1000 R. "
        + "; ".join(f"{count}: {message}" for message, count in messages.most_common()),
    )


def _row_of_D(layer: int, mine: Sequence[Record]) -> Row:
    values = [d for each in mine for d in each["D"][layer]]
    return Row(
        f"log10 max |D|, hidden layer {layer + 1}",
        "Fig. 4, no numbers",
        _quantiles(values, 1),
        "median and deciles" + ("; 0 in theory" if layer == LAYERS[-1] else ""),
    )


def _row_of_variant(name: str, mine: Sequence[Record]) -> Row:
    bare, full = (positive(mine, key) for key in ("without", "with"))
    ends = [interval(*each) for each in zip(bare, units(len(mine)), strict=True)]
    negative = sum(each["negative"] > 0 for each in mine)
    logs = np.log10([max(each["gradient"], 1e-300) for each in mine] or [1.0])
    return Row(
        f"positive definite B, {name}",
        "—",
        ", ".join(f"{n} of {total}" for n, total in zip(bare, units(len(mine)), strict=True)),
        f"95 % intervals {', '.join(f'{low:.2%} to {high:.2%}' for low, high in ends)} (as if blocks were "
        f"independent); layers that differ from P21's counts: {differing(len(mine), bare)}; with the bias row "
        f"{', '.join(map(str, full))}; negative eigenvalues at {negative} of {len(mine)} ends; median log10 "
        f"‖∇R‖∞ {np.median(logs):.1f}",
    )


def _rows_of_search(
    ends: Sequence[dict[str, Any]],
    reached: Sequence[dict[str, Any]],
    infinite: Sequence[dict[str, Any]],
) -> list[Row]:
    limits = sum(end["limit"] is not None for end in infinite)
    statuses = Counter(end["status"] for end in ends)
    kinds = Counter(end["kind"] for end in reached)
    words = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    rows = [
        Row(
            "searches on noisy targets that reach a critical point",
            "—",
            f"{len(reached)} of {len(ends)}, at infinity {limits}",
            f"{words}; finite ones: {', '.join(f'{n} {kind}' for kind, n in kinds.most_common())}",
        )
    ]
    at_limits = [end for end in infinite if end["limit"] is not None]
    for where, some in (("at them", reached), ("on the way to infinity", at_limits)):
        bare, full = (positive(some, key) for key in ("without", "with"))
        rows.append(
            Row(
                f"positive definite B {where}",
                "—",
                ", ".join(f"{n} of {all_}" for n, all_ in zip(bare, units(len(some)), strict=True)),
                f"with the bias row {', '.join(map(str, full))}"
                + (f"; replications: {_replicated_words(some)}" if some is reached else ""),
            )
        )
    return rows


def _as_theorem_6(layers: Sequence[dict[str, int]]) -> bool:
    """Whether units are minima in the last hidden layer alone, and there as the sign of their B says."""
    minima = [{key for key in counts if key.endswith((" inside", " outside"))} for counts in layers]
    return (
        bool(layers)
        and not any(minima[:-1])
        and minima[-1] <= {"positive inside", "negative outside"}
    )


def _replicated_words(ends: Sequence[dict[str, Any]]) -> str:
    total: Counter[str] = Counter()
    for end in ends:
        for counts in end["replicated"]:
            total.update(counts)
    names = {"saddle": "strict saddles for every λ", "inside": "minima for λ in (0, 1)"}
    names |= {"outside": "minima for λ outside [0, 1]", "undecided": "undecided"}
    return ", ".join(f"{total[key]} {words}" for key, words in names.items())


def _data(
    of: dict[str, list[Record]], ends: Sequence[dict[str, Any]], reached: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "variants": {
            name: {
                "runs": len(mine),
                "without": positive(mine, "without"),
                "with": positive(mine, "with"),
                "negative eigenvalues": sum(each["negative"] > 0 for each in mine),
                "D": [histogram(mine, layer) for layer in LAYERS],
            }
            for name, mine in of.items()
        },
        "edges": EDGES.tolist(),
        "search": {
            "statuses": dict(sorted(Counter(end["status"] for end in ends).items())),
            "without": positive(reached, "without"),
            "with": positive(reached, "with"),
            "D": [range_of(reached, layer) for layer in LAYERS],
        },
    }


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Parts that are positive definite, and the sizes of D."""
    left, right = figure.subplots(1, 2)
    trained = [each for each in qualified(records) if each["arm"] == "BFGS"]
    mine = [each for each in trained if each["variant"] == PUBLISHED]
    if not mine:
        return say_so(left, "no run qualified")
    ends = [end for each in records if each["arm"] == "search" for end in each["ends"]]
    draw_parts(left, mine)
    draw_D(right, mine, [end for end in ends if end["status"] in REACHED])
    return None


EXPERIMENT = Experiment(
    "p21-definite",
    "P21 §V-E, Fig. 4",
    "how often B is positive definite, and how large D is",
    "Five hundred samples of a 2-8-12-8-1 sigmoid network are fitted by a 2-4-6-4-1 network with SciPy's "
    "BFGS, a thousand times. Where it ends, the blocks B of all units are counted that are positive definite, "
    "which Theorem 6 asks for, and the largest entries of D are shown, which have to be 0. P21 leaves open "
    "how data and start are drawn (here N(0, 1), exact gradients); variants change one choice each. On targets "
    "with noise the library's search, which stops at critical points alone, is run beside it.",
    {
        "seed": 0,
        "runs": {
            PUBLISHED: 1000,
            "no biases": 60,
            "mean of squares": 1000,
            "inputs in [0, 1]": 1000,
            "teacher's weights × 3": 10,
            "start by fan-in": 10,
            "tanh": 10,
            NOISY: 30,
            "gradient by differences": 4,
        },
        "data_sets": 30,
        "starts": 4,
    },
    {
        # A data set of which a search of two starts reaches a critical point, also if rounded otherwise.
        "seed": 17,
        "runs": {PUBLISHED: 12, "no biases": 1, "mean of squares": 4, "inputs in [0, 1]": 4},
        "data_sets": 1,
        "starts": 2,
    },
    tasks,
    run,
    outcome,
    draw,
)
