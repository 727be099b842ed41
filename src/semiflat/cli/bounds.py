"""A PAC-Bayes bound at a saved point: `bound`. What computes is imported when it is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from semiflat.cli.inputs import stored_point
from semiflat.cli.options import NO, Json, OptionalData, PointFile, Raw, Target, say
from semiflat.errors import InputError, unknown_name
from semiflat.threads import threads

if TYPE_CHECKING:
    from semiflat.bounds import BoundedLoss, PacBayesBound
    from semiflat.points import Point

STANDARDISED = (
    "the data's means and deviations, by which they were standardised, are taken as fixed beforehand, and "
    "they were not: for a bound without this, scale by known constants and give --raw to find"
)


@threads(1)
def bound(
    point: PointFile,
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help="zero_one or clipped; zero_one by default for classes."),
    ] = None,
    clip: Annotated[
        float | None,
        typer.Option(
            "--clip", metavar="C", help="Where --loss clipped cuts the loss: min(ℓ, C)/C."
        ),
    ] = None,
    delta: Annotated[
        float, typer.Option("--delta", help="Probability with which the bound may fail.")
    ] = 0.05,
    covariance: Annotated[
        str, typer.Option("--covariance", help="Of the posterior: stationary or inverse_hessian.")
    ] = "stationary",
    surplus: Annotated[
        int,
        typer.Option(
            "--surplus", metavar="E", help="Add so many inactive units to hidden layer 0."
        ),
    ] = 0,
    draws: Annotated[
        int, typer.Option("--draws", help="Networks drawn from the posterior.")
    ] = 2000,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the draws.")] = 0,
    as_json: Json = False,
) -> None:
    """Bound the true loss of random networks around a saved point. Exit code 1: the bound is vacuous.

    Example: semiflat find --data breast_cancer --hidden 1 --activation tanh --weight-decay 0.01 --out points;
    semiflat bound points/p0.safetensors
    """
    import semiflat as sf

    chosen = _loss(loss, clip)
    if surplus < 0:
        raise InputError(f"--surplus {surplus} must be a whole number from 0 up")
    loaded, source = stored_point(point, data, target, raw)
    if chosen is None and not loaded.problem.loss.classifies:
        raise InputError(
            f"a bound needs a loss between 0 and 1, and {loaded.problem.loss.name!r} has no upper end; give "
            "--loss clipped --clip C, with a C chosen before the data were seen"
        )
    wide = _with_surplus(loaded, surplus) if surplus else loaded
    found = sf.pac_bayes_bound(
        wide,
        chosen,
        delta,
        covariance=covariance,  # type: ignore[arg-type]  # an unknown one is an InputError
        draws=draws,
        seed=seed,
    )
    assumes = [*found.assumes, *([STANDARDISED] if source["standardise"] else [])]
    record = {"file": str(point), "widths": list(wide.problem.net.widths), **found.to_json()}
    say(as_json, {**record, "assumes": assumes}, _lines(found, assumes))
    if found.vacuous:
        raise typer.Exit(NO)


def _loss(name: str | None, clip: float | None) -> BoundedLoss | None:
    from semiflat.bounds import Clipped, ZeroOne

    if name not in (None, "zero_one", "clipped"):
        raise unknown_name("--loss", str(name), ("zero_one", "clipped"))
    if name == "clipped" and clip is None:
        raise InputError("--loss clipped needs --clip C, chosen before the data were seen")
    if name != "clipped" and clip is not None:
        raise InputError(f"--clip {clip:g} is for --loss clipped; give both, or leave --clip out")
    if clip is not None:
        return Clipped(clip)
    return ZeroOne() if name == "zero_one" else None


def _with_surplus(point: Point, count: int) -> Point:
    import semiflat as sf

    net = point.problem.net
    net.check_layer(0)
    if net.activations[0].smooth:
        return sf.InactiveUnits(0, count)(point)
    return sf.InactiveUnits.in_box(0, count, net.inputs)(point)


def _lines(found: PacBayesBound, assumes: list[str]) -> list[str]:
    """The bound in words, what it is made of, and what it rests on."""
    lines = [str(found)]
    lines += [f"{name}: {value:.6g}" for name, value in found.bounds.items()]
    lines.append(
        f"loss on the data: {found.empirical.mean:.6g} of the stochastic network, at most "
        f"{found.empirical.upper:.6g} ({found.empirical.draws} draws); {found.point_risk:.6g} at the point"
    )
    lines += [
        f"KL, {part.name} ({part.dimension} parameters): {part.spread:.6g} spread, {part.mean:.6g} mean"
        for part in found.parts
    ]
    shares = ", ".join(f"{share:.4g} {name}" for name, share in found.shares.items())
    lines.append(
        f"sigma {found.sigma:.4g} (of {found.sigmas}), tau {found.tau:.4g}; delta spent: {shares}"
    )
    return lines + [f"assumes: {each}" for each in assumes]
