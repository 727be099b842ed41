"""`hierarchy`: critical points of several widths, nested; `stages`: which of them a training run is near."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semiflat.cli.inputs import DataOptions, stored_point
from semiflat.cli.options import (
    NO,
    ActivationName,
    Data,
    Drop,
    DropMissing,
    Force,
    Json,
    LossName,
    OneHot,
    OptionalData,
    Raw,
    SampleWeight,
    Seed,
    Target,
    WeightDecayText,
    say,
    weight_decay_of,
)
from semiflat.errors import InputError, positive
from semiflat.outputs import Outputs
from semiflat.threads import threads

if TYPE_CHECKING:
    import semiflat as sf

SHOWN = 6
"""Points of a level, lowest first, that are printed."""
_OWN = re.compile(r"(\d+)(x\d+)*-i?\d+\.safetensors")


@threads(1)
def hierarchy(
    data: Data,
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the store, page, picture and points.")
    ],
    widths: Annotated[
        str,
        typer.Option(
            "--widths", help="Levels: 1..4, or 1,2,4; with several hidden layers 1x1,2x1."
        ),
    ] = "1..3",
    target: Target = None,
    loss: LossName = None,
    raw: Raw = False,
    drop: Drop = None,
    drop_missing: DropMissing = False,
    one_hot: OneHot = False,
    sample_weight: SampleWeight = None,
    activation: ActivationName = "tanh",
    starts: Annotated[
        int, typer.Option("--starts", help="Random starts for minima, at each width.")
    ] = 64,
    saddle_starts: Annotated[
        int | None,
        typer.Option(
            "--saddle-starts",
            help="Random starts for points of any index; a quarter of --starts by default.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", help="Of the least width, in parts of the loss of the best constant."
        ),
    ] = 1e-3,
    certify: Annotated[
        float | None,
        typer.Option(
            "--certify",
            metavar="SECONDS",
            help="Prove what the points are, the lowest of each width first; begin no proof after so long.",
        ),
    ] = None,
    processes: Annotated[
        int | None,
        typer.Option(
            "--processes", help="Over how many processes to spread; all cores by default."
        ),
    ] = None,
    dask: Annotated[
        str | None,
        typer.Option("--dask", help="Address of a Dask scheduler to use instead: tcp://host:8786."),
    ] = None,
    seed: Seed = 0,
    weight_decay: WeightDecayText = "0",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find critical points at several widths: what each is in wider networks, where the ways down lead.

    All that is run is kept in the folder; run again after a break, or with more starts or widths, it goes on
    where it was. Exit code 1: no critical point was found.

    Example: semiflat hierarchy --data diabetes --widths 1..2 --starts 16 --out nested
    """
    from semiflat.checkpoints import packed
    from semiflat.nesting import hierarchy as build
    from semiflat.nesting import proofs
    from semiflat.networks import MLP
    from semiflat.plots.look import png
    from semiflat.problem import Problem
    from semiflat.report import hierarchy_page

    levels = parse_widths(widths)
    options = DataOptions(
        data, target, loss, not raw, tuple(drop or ()), drop_missing, one_hot, sample_weight
    )
    dataset = options.load()
    net = MLP([dataset.X.shape[1], *levels[0], dataset.outputs], activation)
    problem = Problem(net, dataset, weight_decay=weight_decay_of(weight_decay))
    outputs = Outputs("hierarchy", force, {"the data": data})
    page, picture = out / "hierarchy.html", out / "hierarchy.png"
    outputs.check(page, picture, *_points(out), *_certificates(out))
    if certify is not None:
        from semiflat.certificates.checker.arithmetic import need_arithmetic

        need_arithmetic()
        positive("--certify", certify)
    positive("--tolerance", tolerance)
    found = build(
        problem,
        levels,
        starts,
        saddle_starts=saddle_starts,
        seed=seed,
        processes=processes,
        dask=dask,
        store=out / "hierarchy.db",
        progress=True,
    )
    if certify is not None:
        found.certify(seconds=certify, progress=True)
        found.save(out / "hierarchy.db")
    if not len(found):
        say(as_json, found.to_json(), ["no critical point was found; search with more --starts"])
        raise typer.Exit(NO)
    files = {
        out / "points" / f"{point.name}.safetensors": packed(point, options.to_json())
        for point in found
    }
    files |= proofs.files(found.points, out / proofs.FOLDER)
    outputs.remove([path for path in (*_points(out), *_certificates(out)) if path not in files])
    outputs.write(files)
    outputs.write({picture: png(found.plot().figure)})
    command = {
        "--data": data,
        "--target": target,
        "--loss": loss,
        "--sample-weight": sample_weight,
        "--widths": widths,
        "--activation": activation,
        "--starts": starts,
        "--saddle-starts": saddle_starts,
        "--seed": seed,
        "--weight-decay": weight_decay,
        "--tolerance": tolerance,
        "--certify": certify,
        "--out": out.name,
    }
    flags = {"--raw": raw, "--drop-missing": drop_missing, "--one-hot": one_hot}
    record = found.page_record(
        tolerance=tolerance,
        files="points",
        certificates=True,
        command=_typed(command, flags, drop or ()),
    )
    outputs.write({page: hierarchy_page(record)})
    answer = found.least_width(tolerance)
    say(
        as_json,
        found.to_json() | {"least_width": answer.to_json(), "proved": found.proved.to_json()},
        [
            *_level_lines(found),
            str(answer),
            *_trap_lines(found),
            *_proof_lines(found, out),
            f"the page: {page}",
            f"the picture: {picture}",
            f"next: semiflat judge {shlex.quote(str(out / 'points' / found.points[0].name))}.safetensors",
        ],
    )


def _typed(options: dict[str, Any], flags: dict[str, bool], drop: Sequence[str]) -> str:
    """The command as it is typed, without what was left at None."""
    words = ["semiflat", "hierarchy"]
    for name, value in (*options.items(), *(("--drop", column) for column in drop)):
        words += [] if value is None else [name, str(value)]
    return shlex.join([*words, *(name for name, given in flags.items() if given)])


def parse_widths(text: str) -> list[tuple[int, ...]]:
    """Levels from what is typed.

    >>> parse_widths("1..3"), parse_widths("1,2,4"), parse_widths("1x1,2x1")
    ([(1,), (2,), (3,)], [(1,), (2,), (4,)], [(1, 1), (2, 1)])
    """
    found: list[tuple[int, ...]]
    try:
        if ".." in text:
            first, last = map(int, text.split(".."))
            found = [(width,) for width in range(first, last + 1)]
        else:
            found = [tuple(map(int, part.split("x"))) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or any(width < 1 for row in found for width in row):
        raise InputError(
            f"--widths {text!r} are no widths; write 1..4, or 1,2,4, or 1x1,2x1 for two hidden layers"
        )
    return found


def _points(out: Path) -> list[Path]:
    """The files that are there under names of a hierarchy's points."""
    return [p for p in (out / "points").glob("*.safetensors") if _OWN.fullmatch(p.name)]


def _certificates(out: Path) -> list[Path]:
    """The files that are there under names of the certificates of a hierarchy's points."""
    folder = out / "certificates"
    there = [p for p in folder.glob("*.json") if _OWN.fullmatch(f"{p.stem}.safetensors")]
    return [*there, *folder.glob("data.json")]


def _level_lines(found: sf.Hierarchy) -> list[str]:
    lines = []
    for level in found.levels:
        own = found.at(level.hidden)
        widths = "-".join(map(str, level.hidden))
        lines.append(
            f"width {widths}: {len(own)} critical points; new: {level.new_minima} minima, "
            f"{level.new_saddles} saddles, {level.new_at_infinity} at infinity; {level.descents[0]} ways down "
            f"followed" + (f", {level.descents[1]} left out" if level.descents[1] else "")
        )
        lines += [_point_line(point) for point in own[:SHOWN]]
        if len(own) > SHOWN:
            lines.append(f"  … and {len(own) - SHOWN} more")
    return lines


def _point_line(point: sf.HierarchyPoint) -> str:
    record = point.record
    where = " at infinity" if record.at_infinity else ""
    how = f"{record.found} random start(s)" if record.found else record.origin
    trivial = f"  {record.trivial}" if record.trivial else ""
    return f"  {record.name}  loss {record.loss:.10g}  {point.kind.label}{where}  by {how}{trivial}"


def _trap_lines(found: sf.Hierarchy) -> list[str]:
    traps = found.traps()
    if not traps:
        return []
    lasting = [trap.point for trap in traps if trap.lasting]
    words = f": {', '.join(lasting)}" if lasting else ""
    line = f"{len(lasting)} of {len(traps)} minima below the widest level stay minima at every wider one{words}"
    unknown = [trap.point for trap in traps if not trap.lasting and not _left(trap)]
    return [
        line,
        *([f"not known, as a widening is undecided: {', '.join(unknown)}"] if unknown else []),
    ]


def _proof_lines(found: sf.Hierarchy, out: Path) -> list[str]:
    proved = found.proved
    if not proved.certified:
        return [str(proved)] if proved.tried else []
    file = out / "certificates" / f"{proved.certified[0]}.json"
    return [str(proved), f"to check a proof: semiflat verify {shlex.quote(str(file))}"]


def _left(trap: sf.Trap) -> bool:
    """Whether a minimum is none, beyond doubt, at some wider level."""
    return any(
        all(kind not in ("MINIMUM", "STRICT_MINIMUM", "UNDECIDED") for kind in there.values())
        for there in trap.kinds.values()
    )


@threads(1)
def stages_of_training(
    checkpoints: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINTS",
            help="Folder of .safetensors files whose names end in the numbers of their steps.",
        ),
    ],
    nested: Annotated[
        Path, typer.Option("--hierarchy", help="Folder that semiflat hierarchy wrote.")
    ],
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE", help="Draw the run, as a .png.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say which critical functions of narrow networks a training run passes, and where it stays.

    Exit code 1: it stays nowhere.

    Example: semiflat stages checkpoints --hierarchy nested --figure stages.png
    """
    from semiflat.nesting import load_hierarchy
    from semiflat.nesting.stages import stages_of_folder
    from semiflat.plots.look import png

    outputs = Outputs("stages", force, {"the checkpoints": checkpoints, "the hierarchy": nested})
    if figure is not None:
        if figure.suffix.lower() != ".png":
            raise InputError(
                f"--figure {str(figure)!r} would hold a PNG; give it a name that ends in .png"
            )
        outputs.check(figure)
    first = next(iter(sorted(_points(nested))), None)
    if first is None:
        raise InputError(
            f"there is no hierarchy in {str(nested)!r}; make one with semiflat hierarchy --out"
        )
    point, source = stored_point(first, data, target, raw)
    found = load_hierarchy(
        nested / "hierarchy.db",
        point.problem.X,
        point.problem.y,
        sample_weight=point.problem.sample_weight,
    )
    told = stages_of_folder(found, checkpoints)
    lines = [repr(told), *filter(None, [told.reason]), *map(str, told.plateaus)]
    lines.append(str(told[len(told) - 1]))
    if figure is not None:
        outputs.write({figure: png(told.plot().figure)})
        lines.append(f"figure: {figure}")
    say(as_json, told.to_json() | {"data": source}, lines)
    if not told.plateaus:
        raise typer.Exit(NO)
