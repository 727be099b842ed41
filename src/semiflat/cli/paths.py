"""`path`: ways from a point along which the loss never rises."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semiflat.cli.inputs import stored_point
from semiflat.cli.options import NO, Force, Json, OptionalData, PointFile, Raw, Seed, Target, say
from semiflat.cli.progress import stages
from semiflat.errors import InputError, unknown_name
from semiflat.outputs import Outputs
from semiflat.threads import threads

if TYPE_CHECKING:
    import semiflat as sf

KINDS = ("zero", "region", "infinity")


@threads(1)
def path(
    point: PointFile,
    kind: Annotated[
        str,
        typer.Option(
            "--kind",
            help="zero: to zero loss (P21 Thm 3); region: out of a non-attracting region over this minimum "
            "(Thm 6); infinity: a minimum at infinity of this network, and away from it (Thm 1).",
        ),
    ] = "zero",
    widen: Annotated[
        bool,
        typer.Option(
            "--widen",
            help="zero: first copy a unit of the last hidden layer until it is as wide as there are "
            "samples; function and loss stay.",
        ),
    ] = False,
    unit: Annotated[
        str | None,
        typer.Option("--unit", metavar="LAYER:UNIT", help="region: which unit to replicate."),
    ] = None,
    copies: Annotated[int, typer.Option("--copies", help="region: how many copies of it.")] = 2,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="zero: largest rise of the loss, relative.")
    ] = 1e-9,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw the loss, as a .png.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Write the path's end, as a .safetensors."),
    ] = None,
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    seed: Seed = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Lead from a saved point to a lower loss without ever going up. Exit code 1: it leads nowhere lower.

    Example: semiflat path points/p0.safetensors --kind zero --widen --figure path.png
    """
    from semiflat.checkpoints import packed
    from semiflat.points import Point

    if kind not in KINDS:
        raise unknown_name("kind of path", kind, KINDS)
    for given, name, only in (
        (widen, "--widen", "zero"),
        (unit is not None, "--unit", "region"),
        (copies != 2, "--copies", "region"),
        (tolerance != 1e-9, "--tolerance", "zero"),
    ):
        if given and kind != only:
            raise InputError(
                f"{name} belongs to --kind {only}, and the kind is {kind}; leave it out"
            )
    loaded, source = stored_point(point, data, target, raw)
    outputs = Outputs("path", force, {"the point": point, "the data": source["source"]})
    outputs.check(*(file for file in (figure, out) if file is not None))
    with stages() as progress:
        progress("path", 0, 2, "walking")
        made, facts, lines = _KINDS[kind](loaded, widen, _unit(unit), copies, tolerance, seed)
        if made is not None:
            progress("path", 1, 2, "measuring")
            facts |= made.to_json()
            lines += _lines(made)
        progress("path", 2, 2, "")
    if made is None:
        say(as_json, {"file": str(point), "kind": kind, **facts}, lines)
        raise typer.Exit(NO)
    if figure is not None:
        outputs.write({figure: made.draw()})
        lines.append(f"figure: {figure}")
    if out is not None:
        outputs.write({out: packed(Point(made.problem, made(1.0)), source)})
        lines.append(f"its end: {out}")
    say(as_json, {"file": str(point), "kind": kind, **facts}, lines)
    if not made.check.end < made.check.start:
        raise typer.Exit(NO)


Made = tuple["sf.Path | None", dict[str, Any], list[str]]


def _zero(
    point: sf.Point,
    widen: bool,
    unit: tuple[int, int] | None,
    copies: int,
    tolerance: float,
    seed: int,
) -> Made:
    import semiflat as sf

    if widen:
        last = len(point.problem.net.hidden) - 1
        if last < 0:
            raise InputError("--widen needs a hidden layer to widen, and this network has none")
        missing = point.problem.samples - point.problem.net.hidden[last]
        if missing > 0:
            point = sf.Replicate.uniform(last, 0, missing + 1)(point)
    found = sf.path_to_zero_loss(point, seed=seed, tolerance=tolerance)
    before = f"{found.condition_before:.1e}" if isfinite(found.condition_before) else "singular"
    lines = [
        f"widths {list(point.problem.net.widths)}, steered by hidden layer {found.layer}: condition number "
        f"{found.condition:.1e} (at first {before}), units moved {found.exchanged} time(s)"
    ]
    if found.perturbation:
        lines.append(
            f"the layers below were moved by {found.perturbation:.2e} before the path begins"
        )
    return found, {"widths": list(point.problem.net.widths)}, lines


def _region(
    point: sf.Point,
    widen: bool,
    unit: tuple[int, int] | None,
    copies: int,
    tolerance: float,
    seed: int,
) -> Made:
    import semiflat as sf

    rows = sf.replications(point)
    if unit is not None:
        point.problem.net.check_unit(*unit)
        rows = [row for row in rows if (row.layer, row.unit) == unit]
    facts: dict[str, Any] = {
        "replications": [
            {
                "layer": r.layer,
                "unit": r.unit,
                # None for an end at infinity, which JSON does not know.
                "intervals": [[e if isfinite(e) else None for e in i] for i in r.intervals],
                "reason": r.reason,
            }
            for r in rows
        ]
    }
    lines = [
        f"unit {r.unit} of hidden layer {r.layer}: a minimum for λ in "
        f"{' and '.join(map(str, r.intervals)) if r.intervals else 'no interval'} ({r.reason})"
        for r in rows
    ]
    chosen = next((row for row in rows if row.intervals), None)
    if chosen is None:
        return None, facts, [*lines, "no replication of this minimum is a local minimum"]
    region = sf.non_attracting_region(point, chosen.layer, chosen.unit, copies=copies)
    facts |= {"edge": region.edge, "curvature": region.saddle_verdict.curvature}
    lines.append(
        f"{copies} copies of unit {chosen.unit} of hidden layer {chosen.layer}: the minima end at t = "
        f"{region.edge:.4g}; curvature {region.saddle_verdict.curvature:.3g} on the way off the saddle"
    )
    return region.path, facts, lines


def _infinity(
    point: sf.Point,
    widen: bool,
    unit: tuple[int, int] | None,
    copies: int,
    tolerance: float,
    seed: int,
) -> Made:
    import semiflat as sf

    found = sf.minimum_at_infinity(point.problem, seed)
    near = found.check()
    facts = {
        "constant": found.constant,
        "limit_loss": found.loss,
        "slopes": found.slopes.tolist(),
        "radius": near.radius,
        "tried": near.tried,
    }
    lines = [
        f"a minimum at infinity: the constant {found.constant:.6g}, loss {found.loss:.10g}",
        f"all {near.tried} networks tried within {near.radius:g} of it have a larger loss"
        if near.radius
        else f"some of {near.tried} networks tried near it have no larger loss: not confirmed",
    ]
    return found.path, facts, lines


_KINDS = {"zero": _zero, "region": _region, "infinity": _infinity}


def _unit(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        layer, unit = (int(part) for part in text.split(":"))
    except ValueError:
        raise InputError(f"--unit {text!r} is not of the form LAYER:UNIT, as in 0:2") from None
    return layer, unit


def _lines(path: sf.Path) -> list[str]:
    losses = path.losses(list(path.breaks)).tolist()
    lines = [
        f"t {path.breaks[k]:.3f} to {path.breaks[k + 1]:.3f}  {piece.claim.value:10}  loss "
        f"{losses[k]:.10g} -> {losses[k + 1]:.10g}  {piece.name}"
        for k, piece in enumerate(path.pieces)
    ]
    found = path.check
    lines.append(
        f"the loss rises by at most {found.largest_increase:.1e} of that at the start ({found.evaluations} "
        "points measured)"
    )
    return lines
