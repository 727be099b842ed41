"""K19 Thm 2–4: degenerate saddles that no Hessian tells from minima are refuted, and minima never."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import semiflat as sf
from semiflat_experiments import Check, Experiment, Outcome, Row
from semiflat_experiments.dense import dense_gradient, dense_hessian
from semiflat_experiments.experiment import Record, Settings, Task, counted, qualified
from semiflat_experiments.figure import LINES, MARKERS, SHADES, logarithmic, power, say_so
from semiflat_experiments.k19.censuses import CRITICAL, LOCALLY_LINEAR, Residual, locally_linear
from semiflat_experiments.k19.points import (
    bias_only,
    flat_null_unit,
    linear_at_zero,
    minima,
    share_of_zero,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SADDLES: dict[str, Callable[[int], sf.Point | None]] = {
    "all weights 0": bias_only,
    "deep linear at 0": linear_at_zero,
    "copy with share 0": share_of_zero,
    "null unit of slope 0": flat_null_unit,
}
"""Critical points whose Hessian is positive semidefinite and singular, and which are no minima."""
MINIMA: dict[str, Callable[[int], Sequence[sf.Point]]] = {
    "proved minima": minima,
    "all weights 0, L = 0": lambda seed: [bias_only(seed, fitted=True)],
    "deep linear at 0, best": lambda seed: [linear_at_zero(seed, best=True)],
}
"""Controls: minima with a proof, and global minima whose Hessians are those of the saddles above."""
NONE = dict.fromkeys([*SADDLES, "proved minima"], "the search found no strict minimum")
"""Why there may be no point of a kind."""
ZERO = 1e-12
"""Part of the largest eigenvalue of a Hessian up to which one counts as 0."""
RESIDUAL = {"residual, minima": Residual.trained, "residual, any": Residual.any_critical}
NEAR = tuple(4.0**-k for k in range(6))
"""Parts of a refuting move at whose ends lower losses are looked for."""
MINIMUM_KINDS = (sf.Kind.MINIMUM, sf.Kind.STRICT_MINIMUM)


def tasks(settings: Settings) -> list[Task]:
    """Points of every kind, then the problems of both censuses."""
    first = settings["seed"]
    counts = {
        **dict.fromkeys((*SADDLES, *MINIMA), settings["points"]),
        "proved minima": settings["proved"],
        **dict.fromkeys(RESIDUAL, settings["residual"]),
        **dict.fromkeys([*LOCALLY_LINEAR][: settings["kinds"]], settings["linear"]),
    }
    return [
        {"seed": seed, "arm": arm}
        for arm, count in counts.items()
        for seed in range(first, first + count)
    ]


def run(settings: Settings, task: Task) -> Record:
    """What is said of one point, or of the critical points of one problem."""
    arm, seed = task["arm"], task["seed"]
    if arm in SADDLES:
        point = SADDLES[arm](seed)
        found = [] if point is None else [judged(point, seed)]
    elif arm in MINIMA:
        found = [judged(point, seed, proof=arm == "proved minima") for point in MINIMA[arm](seed)]
    elif arm in RESIDUAL:
        return {**task, **residual(arm, seed)}
    else:
        found = [linear_census(point) for point in locally_linear(arm, seed).points]
    if not found:
        return {**task, "dropped": NONE.get(arm, "the search found no critical point")}
    return {**task, "points": found}


# -- Theorem 2 ---------------------------------------------------------------------------------------


def judged(point: sf.Point, seed: int, proof: bool = False) -> Record:
    """The dense Hessian, the verdict, K19's two gaps and the refutation at a point."""
    verdict = sf.judge(point, proof=proof)
    plain = point.materialize() if isinstance(point, sf.EmbeddedPoint) else point
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(plain))
    largest = float(eigenvalues.abs().max())
    here = sf.gradient_basis_model(plain)
    moved = sf.perturbable_basis_model(plain, seed=seed)
    found = sf.refute_minimum(plain, seed=seed)
    return {
        "L": here.loss,
        "gradient": float(dense_gradient(plain).abs().max()),
        "lowest": float(eigenvalues[0]),
        "largest": largest,
        "zeros": int((eigenvalues.abs() <= ZERO * largest).sum()),
        "parameters": len(eigenvalues),
        "kind": verdict.kind.name,
        "certainty": verdict.certainty.name,
        "gap": here.gap,
        "noise": here.noise,
        "moved_gap": moved.gap,
        "moved_noise": moved.noise,
        "refuted": found.refuted,
        "by": found.by,
        "family": found.family,
        **(falls(plain, found) if found.refuted else {"falls": [], "proved": False}),
    }


def falls(point: sf.Point, found: sf.Refutation) -> Record:
    """Lower losses ever nearer to the point: along the refuting move, then down the gradient there."""
    problem, net = point.problem, point.problem.net
    at, seen = net.flatten(point.params), []
    proved = False
    for part in NEAR:
        move = torch.zeros_like(at)
        if found.direction is not None:
            move = part * found.size * net.flatten(found.direction)
        down = -dense_gradient(sf.Point(problem, net.unflatten(at + move)))
        down = down / down.norm()
        reach = part * max(found.size, 1.0)
        steps = reach * torch.logspace(-8, 0, 65, dtype=torch.float64)[:, None] * down + move
        risks = problem.risk(net.unflatten(at + steps))
        best = int(risks.argmin())
        fall = float(point.loss - risks[best])
        if fall <= 64 * 2.0**-52 * abs(point.loss):
            break
        seen.append([float(steps[best].norm()), fall])
        if not proved:
            proof = sf.certify_descent(point, net.unflatten(steps[best]), 1.0)
            proved = proof.status == "certified"
    return {"falls": seen, "proved": proved}


def degenerate(point: Record) -> bool:
    """Critical, positive semidefinite up to rounding, singular, and undecided."""
    return bool(
        point["gradient"] <= 1e-12
        and point["lowest"] >= -ZERO * point["largest"]
        and point["zeros"] > 0
        and point["kind"] == "UNDECIDED"
    )


# -- Theorems 3 and 4 --------------------------------------------------------------------------------


def residual(arm: str, seed: int) -> Record:
    """A residual network's critical point by W and R against the linear model on x and z."""
    problem = Residual(seed)
    vector, z = RESIDUAL[arm](problem)
    gradient = problem.gradient(vector, z)
    if gradient > CRITICAL:
        return {"dropped": "no critical point reached", "gradient": gradient}
    of, eigenvalues = problem.parts(vector, "WR"), problem.spectrum(vector, z)
    model = sf.resnet_model(of["W"], of["R"], problem.x, z, problem.y, problem.loss)
    # Shamir's bound: the linear model on the input alone, as a residual network whose block says nothing.
    silent = torch.zeros_like(z)
    plain = sf.resnet_model(of["W"], of["R"], problem.x, silent, problem.y, problem.loss)
    found = {
        "L": model.loss,
        "gap": model.gap,
        "noise": model.minimum.noise,
        "refuted": model.refuted,
        "spanned": model.spanned,
        "rank": model.rank,
        "outputs": problem.sizes[0],
        "saddle": bool(eigenvalues[0] < -1e-9 * eigenvalues.abs().max()),
        "minimum": bool(eigenvalues[0] >= -ZERO * eigenvalues.abs().max()),
        "input_alone": plain.minimum.infimum,
    }
    return {"points": [found]}


def linear_census(point: sf.Point) -> Record:
    """A point of a network with linear units against the linear model on its layers."""
    model, verdict = sf.locally_linear_model(point), sf.judge(point)
    eigenvalues = torch.linalg.eigvalsh(dense_hessian(point))
    return {
        "L": model.loss,
        "gap": model.gap,
        "noise": model.minimum.noise,
        "refuted": model.refuted,
        "spanned": model.spanned,
        "depth": model.depth,
        "kind": verdict.kind.name,
        "saddle": bool(eigenvalues[0] < -1e-9 * eigenvalues.abs().max()),
        "minimum": verdict.kind in MINIMUM_KINDS,
    }


def contradicts(arm: str, point: Record) -> bool:
    """A minimum that the theorem refutes, or a saddle at the value it gives to minima alone, or no span.

    In a residual network with a given z, and in a linear network, the linear model's infimum is the global
    minimum, so that a saddle must lie above it.
    """
    alone = arm in RESIDUAL or arm.startswith("linear")
    return bool(
        (point["minimum"] and point["refuted"])
        or (alone and point["saddle"] and not point["refuted"])
        or point["spanned"] is False
    )


# -- what it came to ---------------------------------------------------------------------------------


def outcome(settings: Settings, records: Sequence[Record]) -> Outcome:
    """Refuted and not, in every arm."""
    of = {arm: _points(records, [arm]) for arm in _arms(settings)}
    saddles, controls = _points(records, SADDLES), _points(records, MINIMA)
    proved = of["proved minima"]
    kept = [point for point in saddles if degenerate(point)]
    refuted = [point for point in kept if point["refuted"]]
    census = [(arm, point) for arm in (*RESIDUAL, *LOCALLY_LINEAR) for point in of.get(arm, [])]
    against = [arm for arm, point in census if contradicts(arm, point)]
    low = [point for _, point in census if point["minimum"]]
    high = [point for _, point in census if point["saddle"]]
    rows = [_row_of_points(arm, of[arm]) for arm in (*SADDLES, *MINIMA)]
    rows += [
        _row_of_gaps(kept, controls),
        _row_of_falls(refuted),
        _row_of_powers(of),
        _row_of_census("residual networks (Thm 3)", [(a, p) for a, p in census if a in RESIDUAL]),
        _row_of_census(
            "locally linear networks (Thm 4)", [(a, p) for a, p in census if a not in RESIDUAL]
        ),
        _row_of_shamir(of["residual, minima"]),
        counted(records),
    ]
    lowest = min((p["lowest"] / p["largest"] for p in kept if p["largest"]), default=0.0)
    equal = [point for point in low if point["gap"] <= 10 * point["noise"]]
    checks = [
        Check(
            "the saddles are degenerate: dense Hessians are positive semidefinite and singular, no verdict",
            len(kept) == len(saddles) > 0,
            f"{len(kept)} of {len(saddles)}; lowest eigenvalues from {lowest:.0e} of the largest",
        ),
        Check(
            "Theorem 2 refutes all of them",
            len(refuted) == len(kept) > 0,
            f"{len(refuted)} of {len(kept)}",
        ),
        Check(
            "a lower loss is there, and proved, near each",
            bool(refuted) and all(point["falls"] and point["proved"] for point in refuted),
            f"{sum(bool(p['falls']) for p in refuted)} seen and {sum(p['proved'] for p in refuted)} proved "
            f"of {len(refuted)}",
        ),
        Check(
            "no minimum is refuted, proved or degenerate",
            bool(controls) and not any(point["refuted"] for point in controls),
            f"{sum(point['refuted'] for point in controls)} of {len(controls)} refuted",
        ),
        Check(
            "the controls are what they are called: proved, or degenerate at a known global minimum",
            bool(proved)
            and all(p["certainty"] == "PROVED" and "MINIMUM" in p["kind"] for p in proved)
            and all(degenerate(p) for arm in list(MINIMA)[1:] for p in of[arm] if p["L"] > 0),
            f"{sum(p['certainty'] == 'PROVED' for p in proved)} of {len(proved)} proved",
        ),
        Check(
            "neither of K19's gaps is above noise at a minimum",
            bool(controls)
            and all(p[a] <= 10 * p[b] + ZERO * p["L"] for p in controls for a, b in _GAPS),
            f"gaps up to {max((p[a] for p in controls for a, _ in _GAPS), default=0.0):.0e} at {len(controls)}",
        ),
        Check(
            "Theorems 3 and 4: no contradiction, and equality at every minimum",
            bool(low) and bool(high) and not against and len(equal) == len(low),
            f"{len(against)} contradictions in {len(census)} points; equal at {len(equal)} of {len(low)} "
            f"minima; {sum(p['refuted'] for p in high)} of {len(high)} strict saddles refuted",
        ),
        Check(
            "half of the tasks of every arm or more qualified",
            all(2 * len(qualified(mine)) >= len(mine) for mine in _by_arm(settings, records)),
            "; ".join(f"{len(qualified(mine))}/{len(mine)}" for mine in _by_arm(settings, records)),
        ),
    ]
    return Outcome(rows, checks, CAPTION, _data(of, kept, refuted))


CAPTION = (
    "Left: gap of the perturbable gradient basis at degenerate saddles and at minima, each point's at "
    "its noise where it is below that. The gradient basis at the points themselves has no gap at any "
    "of them, and the Hessians of the first two columns have as many zero eigenvalues, and as few "
    "negative ones, as those of the last two. Right: how far the loss falls below that of the saddle "
    "against the distance from it, for one saddle of each kind, down to where rounding hides it: with "
    "the third power of the distance for the linear network, the fourth for the others."
)
_GAPS = (("gap", "noise"), ("moved_gap", "moved_noise"))


def _arms(settings: Settings) -> list[str]:
    return [*dict.fromkeys(task["arm"] for task in tasks(settings))]


def _by_arm(settings: Settings, records: Sequence[Record]) -> list[list[Record]]:
    return [[each for each in records if each["arm"] == arm] for arm in _arms(settings)]


def _points(records: Sequence[Record], arms: Any) -> list[Record]:
    return [point for each in qualified(records) if each["arm"] in arms for point in each["points"]]


def _row_of_points(arm: str, points: Sequence[Record]) -> Row:
    undecided = sum(point["kind"] == "UNDECIDED" for point in points)
    refuted = sum(point["refuted"] for point in points)
    zeros = sum(point["zeros"] for point in points)
    parameters = sum(point["parameters"] for point in points)
    proved = sum(point["certainty"] == "PROVED" for point in points)
    why = f"judge leaves {undecided} undecided; {zeros} of {parameters} eigenvalues are 0"
    return Row(
        f"{arm}: refuted",
        "all" if arm in SADDLES else "none",
        f"{refuted} of {len(points)}",
        f"{proved} are proved minima" if arm == "proved minima" else why,
    )


def _row_of_gaps(saddles: Sequence[Record], controls: Sequence[Record]) -> Row:
    clear = [p["moved_gap"] for p in saddles if p["moved_gap"] > 10 * p["moved_noise"]]
    lower = max((p["gap"] for p in saddles), default=0.0)
    return Row(
        "saddles whose perturbable basis has a gap above ten noises",
        "all",
        f"{len(clear)} of {len(saddles)}, from {min(clear, default=0.0):.0e}",
        f"at the points themselves up to {lower:.0e}; at minima up to "
        f"{max((p['moved_gap'] for p in controls), default=0.0):.0e}",
    )


def _row_of_falls(refuted: Sequence[Record]) -> Row:
    nearest = [point["falls"][-1][0] for point in refuted if point["falls"]]
    return Row(
        "distance of the nearest lower loss that float64 shows",
        "any",
        f"{min(nearest, default=0.0):.1g} to {max(nearest, default=0.0):.1g}",
        "Lemma 3 gives one at every distance; rounding hides nearer ones",
    )


def _row_of_powers(of: dict[str, list[Record]]) -> Row:
    found = {arm: [power_of_fall(p) for p in of[arm] if len(p["falls"]) > 1] for arm in SADDLES}
    medians = [f"{arm} {np.median(each):.1f}" for arm, each in found.items() if each]
    return Row(
        "power of the distance with which the loss falls",
        "—",
        "; ".join(medians) or "none",
        "medians; a Hessian shows a fall with the second power alone",
    )


def power_of_fall(point: Record) -> float:
    """p in fall ∝ distance^p, between the two nearest lower losses."""
    (far, much), (near, little) = point["falls"][-2:]
    return float(np.log(much / little) / np.log(far / near))


def _row_of_census(what: str, census: Sequence[tuple[str, Record]]) -> Row:
    low = [point for _, point in census if point["minimum"]]
    high = [point for _, point in census if point["saddle"]]
    against = sum(contradicts(arm, point) for arm, point in census)
    largest = max((p["gap"] / p["L"] for p in low), default=0.0)
    return Row(
        f"{what}: L(θ) over the linear model's infimum, less 1, at minima",
        "≤ 0",
        f"≤ {largest:.0e} at {len(low)} minima",
        f"{sum(p['refuted'] for p in high)} of {len(high)} strict saddles lie above; {against} "
        f"contradictions in {len(census)} points",
    )


def _row_of_shamir(points: Sequence[Record]) -> Row:
    ratios = [p["L"] / p["input_alone"] for p in points if p["minimum"]]
    low, middle, high = np.quantile(ratios, [0, 0.5, 1]) if ratios else (1.0, 1.0, 1.0)
    return Row(
        "residual networks: L(θ) over the infimum on the input alone (K19 Prop. 1)",
        "≤ 1",
        f"{middle:.2f} ({low:.2f} to {high:.2f})",
        f"median and range of {len(ratios)} minima; the rest is what the block learned",
    )


def _data(
    of: dict[str, list[Record]], kept: Sequence[Record], refuted: Sequence[Record]
) -> dict[str, Any]:
    points = {
        arm: {
            "points": len(found),
            "refuted": sum(point["refuted"] for point in found),
            "undecided": sum(point["kind"] == "UNDECIDED" for point in found),
            **{
                key: [float(f"{p[key]:.3g}") for p in found] for key in ("moved_gap", "moved_noise")
            },
        }
        for arm, found in of.items()
        if arm in SADDLES or arm in MINIMA
    }
    censuses = {
        arm: {
            "points": len(found),
            "minima": sum(point["minimum"] for point in found),
            "saddles": sum(point["saddle"] for point in found),
            "refuted": sum(point["refuted"] for point in found),
            "contradictions": sum(contradicts(arm, point) for point in found),
            "largest_gap_at_minima": max((p["gap"] for p in found if p["minimum"]), default=0.0),
        }
        for arm, found in of.items()
        if arm not in points
    }
    return {
        "points": points,
        "censuses": censuses,
        "degenerate": len(kept),
        "refuted": len(refuted),
        "families": sorted({point["family"] for point in refuted}),
    }


# -- the figure --------------------------------------------------------------------------------------

_SHORT = {
    "all weights 0": "weights 0",
    "deep linear at 0": "linear 0",
    "copy with share 0": "share 0",
    "null unit of slope 0": "slope 0",
    "proved minima": "proved",
    "all weights 0, L = 0": "L = 0",
    "deep linear at 0, best": "linear, best",
}


def draw(figure: Figure, settings: Settings, records: Sequence[Record]) -> None:
    """Gaps by arm, and falls by distance."""
    left, right = figure.subplots(1, 2)
    _draw_gaps(left, records)
    _draw_falls(right, records)


def _draw_gaps(axes: Axes, records: Sequence[Record]) -> None:
    for k, arm in enumerate((*SADDLES, *MINIMA)):
        points = _points(records, [arm])
        x = [k + 0.5 * (j + 0.5) / len(points) - 0.25 for j in range(len(points))]
        y = [max(point["moved_gap"], point["moved_noise"], 1e-34) for point in points]
        kind = int(arm in MINIMA)
        axes.plot(x, y, MARKERS[kind], color=SHADES[kind], markersize=3.5)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: power(value))
    axes.set_xticks(
        range(len(_SHORT)), list(_SHORT.values()), rotation=35, ha="right", fontsize=7.5
    )
    axes.axvline(len(SADDLES) - 0.5, color=SHADES[3], linewidth=0.8)
    axes.text(1.5, 1.02, "saddles", ha="center", transform=axes.get_xaxis_transform(), fontsize=8)
    axes.text(5, 1.02, "minima", ha="center", transform=axes.get_xaxis_transform(), fontsize=8)
    axes.set_ylabel("gap of the perturbable basis")


def _draw_falls(axes: Axes, records: Sequence[Record]) -> None:
    drawn = False
    for k, arm in enumerate(SADDLES):
        points = [point for point in _points(records, [arm]) if len(point["falls"]) > 1]
        if points:
            most = max(points, key=lambda point: len(point["falls"]))
            distances, fall = zip(*most["falls"], strict=True)
            axes.plot(
                distances,
                fall,
                LINES[k],
                color=SHADES[k],
                marker=MARKERS[k],
                markersize=4,
                label=arm,
            )
            drawn = True
    if not drawn:
        return say_so(axes, "no lower loss was seen")
    logarithmic(axes)
    axes.set_xlabel("distance from the saddle")
    axes.set_ylabel("fall of the loss below the saddle's")
    axes.legend(frameon=False, fontsize=7.5)
    return None


EXPERIMENT = Experiment(
    "k19-refutation",
    "K19 Thm 2–4",
    "degenerate saddles refuted, minima not",
    "At a local minimum the loss is the global minimum of the model in the features of every θ + εv "
    "with the same outputs (Theorem 2), and the gradient vanishes at all of them (Lemma 3). So a "
    "gradient there refutes a minimum, also where the Hessian is positive semidefinite and singular. "
    "Saddles of four such kinds are built and refuted, and each refutation is held against lower "
    "losses nearby, one of them proved; controls are minima with a proof, and global minima whose "
    "Hessians are those of the saddles. Theorems 3 and 4 say that residual networks and networks with "
    "locally linear units are no worse at a minimum than linear models on their input and on what they "
    "learned: a census of critical points of random problems looks for a contradiction.",
    {
        "seed": 0,
        "points": 24,
        "proved": 60,
        "residual": 30,
        "linear": 10,
        "kinds": len(LOCALLY_LINEAR),
    },
    {"seed": 1, "points": 1, "proved": 1, "residual": 1, "linear": 1, "kinds": 1},
    tasks,
    run,
    outcome,
    draw,
)
