"""The commands, and what they have in common: one clear line for bad input, never a traceback.

What computes is imported by the commands that compute, so that the others start at once.
"""

from __future__ import annotations

import gc
import io
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from semiflat._version import __version__
from semiflat.cli.bounds import bound
from semiflat.cli.classes import REMEDY, SeparatedSoFar, note, separation_row
from semiflat.cli.diagnose import diagnose
from semiflat.cli.hierarchy import hierarchy, stages_of_training
from semiflat.cli.inputs import DataOptions, parse_hidden, stored_point
from semiflat.cli.modules import (
    OptionalModel,
    Shape,
    Weights,
    batches_of,
    grow,
    shrink,
    units,
    widen_module,
)
from semiflat.cli.options import (
    BAD_INPUT,
    DONE,
    INTERRUPTED,
    NO,
    ActivationName,
    Data,
    Drop,
    DropMissing,
    Force,
    Hidden,
    Json,
    KindName,
    LossName,
    OneHot,
    OptionalData,
    PointFile,
    Raw,
    SampleWeight,
    Seed,
    Starts,
    Target,
    WeightDecayText,
    say,
    weight_decay_of,
)
from semiflat.cli.others import add_others
from semiflat.cli.paths import path
from semiflat.cli.points import check_points, counted_line, limits, point_line, save_points
from semiflat.cli.progress import say_cost, stages
from semiflat.cli.proofs import (
    certificate_lines,
    certificate_record,
    certify,
    proving,
    study_line,
    verify,
)
from semiflat.cli.steps import forms, parse_step
from semiflat.errors import InputError, Unfinished
from semiflat.files import sole_writer
from semiflat.outputs import Outputs
from semiflat.threads import threads

TABLE_LIMIT = 1000
"""Units of a layer up to which `reduce` tells the width at several tolerances."""

SHOWN = 20
"""Points, lowest first, that `find` gives a line each; what follows them is not to be lost among hundreds."""

FIRST = """\
semiflat: widen a neural network exactly, and know what kind of point it is there.

  semiflat study --data diabetes --out study       all of it for a small network, on one page
  semiflat find --data TABLE.csv --out points      critical points of a network on a table of yours
  semiflat judge points/p0.safetensors             what kind of point one is, and why

semiflat --help lists all commands, and semiflat COMMAND --help shows one with an example."""

app = typer.Typer(
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Widen a neural network exactly, and know what kind of point it is there.",
)


@app.command()
@threads(1)
def study(
    data: Data,
    out: Annotated[Path, typer.Option("--out", help="Folder for the page, records and points.")],
    target: Target = None,
    loss: LossName = None,
    raw: Raw = False,
    drop: Drop = None,
    drop_missing: DropMissing = False,
    one_hot: OneHot = False,
    sample_weight: SampleWeight = None,
    hidden: Hidden = "3",
    activation: ActivationName = "gelu",
    starts: Annotated[
        int | None,
        typer.Option(
            "--starts",
            help="Random starts of the search; by default 64, or 24 where steps take long.",
        ),
    ] = None,
    wider: Annotated[int, typer.Option("--wider", help="Largest number of added units.")] = 3,
    points: Annotated[
        int | None,
        typer.Option(
            "--points",
            help="How many critical points, lowest first, to embed; by default 8, or 4 where steps take long.",
        ),
    ] = None,
    max_iterations: Annotated[
        int | None,
        typer.Option(
            "--max-iterations",
            help="Steps of one run; by default 500, or 150 above 100 parameters.",
        ),
    ] = None,
    seed: Seed = 0,
    no_proofs: Annotated[
        bool, typer.Option("--no-proofs", help="Measure only; prove nothing in ball arithmetic.")
    ] = False,
    weight_decay: Annotated[
        str | None,
        typer.Option(
            "--weight-decay",
            help="λ of the penalty ½ λ ‖θ‖², or weight=1e-3,bias=0; by default 0, or 1e-3 where classes "
            "are separable.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find critical points, embed them in wider networks, judge, prove, leave the saddles, report.

    Example: semiflat study --data diabetes --out study
    """
    from semiflat.report import report_files, write_report
    from semiflat.study import Settings, Study

    settings = Settings(
        hidden=parse_hidden(hidden),
        activation=activation,
        starts=starts,
        wider=wider,
        points=points,
        seed=seed,
        max_iterations=max_iterations,
        proofs=not no_proofs,
        weight_decay=None if weight_decay is None else weight_decay_of(weight_decay),
    )
    options = DataOptions(
        data, target, loss, not raw, tuple(drop or ()), drop_missing, one_hot, sample_weight
    )
    with stages() as progress:
        outputs = Outputs("study", force, {"the data": data})
        job = Study(options.load(), settings, out, progress, options.to_json(), outputs, note)
        outputs.check(*report_files(out))
        job.check()
        with sole_writer(out / ".study.lock"):
            try:
                record = job.run()
            except KeyboardInterrupt:
                write_report(job.finish_early(), out, force)
                raise
            write_report(record, out, force)
    counts = record["search"]["counts"]
    kinds = [row["kind"] for row in record["embedded"]]
    near = [record["nearest"]] if record.get("nearest") else []
    say(
        as_json,
        record,
        [
            f"runs: {', '.join(f'{n} {status}' for status, n in counts.items() if n)}",
            counted_line(record["points"]),
            *filter(None, [record["search"]["unresolved"]]),
            f"embedded points: {len(kinds)}"
            + "".join(f", {kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
            *(f"descents: {len(rows)} from wide points that are not critical" for rows in near),
            study_line(record),
            f"escapes: {len(record['escapes'])}",
            f"the page: {out / 'report.html'}",
            *(
                f"next: open it in a browser, or semiflat diagnose {shlex.quote(str(file))}"
                for file in (
                    out / "points" / f"{row['name']}.safetensors" for row in record["points"][:1]
                )
            ),
        ],
    )


def _shown(database: str) -> str:
    from semiflat.jobs.database import shown

    return shown(database)


@app.command()
@threads(1)
def find(
    data: Data,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            help="Folder for starts and points; or a database for the starts alone: FILE.db or .sqlite, or "
            "postgresql://user@host/name.",
        ),
    ],
    target: Target = None,
    loss: LossName = None,
    raw: Raw = False,
    drop: Drop = None,
    drop_missing: DropMissing = False,
    one_hot: OneHot = False,
    sample_weight: SampleWeight = None,
    hidden: Hidden = "3",
    activation: ActivationName = "gelu",
    starts: Starts = 64,
    kind: KindName = "minimum",
    max_iterations: Annotated[
        int, typer.Option("--max-iterations", help="Steps of one run.")
    ] = 1500,
    tolerance: Annotated[
        float, typer.Option("--tolerance", help="Largest gradient entry of a critical point.")
    ] = 1e-12,
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
    """Find critical points of a network on data and save them. Exit code 1: none was found.

    Finished starts are kept in the folder, or in a database, to which many may write at once; run again
    after a break, or with more --starts, it goes on where it was.

    Example: semiflat find --data diabetes --hidden 3 --starts 16 --out points
    """
    from semiflat.jobs import is_database
    from semiflat.networks import MLP
    from semiflat.problem import Problem
    from semiflat.search import LostStarts, Separation, run_search
    from semiflat.search.gather import tally
    from semiflat.search.large import forecast
    from semiflat.search.record import count_line

    options = DataOptions(
        data, target, loss, not raw, tuple(drop or ()), drop_missing, one_hot, sample_weight
    )
    dataset = options.load()
    net = MLP([dataset.X.shape[1], *parse_hidden(hidden), dataset.outputs], activation)
    decay = weight_decay_of(weight_decay)
    problem = Problem(net, dataset, weight_decay=decay)
    outputs = Outputs("find", force, {"the data": data})
    folder, place = (None, _shown(out)) if is_database(out) else (Path(out), out)
    if folder is not None:
        check_points(outputs, folder, starts)
    say_cost(forecast(problem, starts))
    told = Separation.of_inputs(problem)
    if told is not None:
        note(f"separable classes: {told}; {REMEDY}")
    lost, so_far = None, SeparatedSoFar(problem, told is not None)
    with stages() as report:
        try:
            result = run_search(
                problem,
                starts,
                seed=seed,
                kind=kind,  # type: ignore[arg-type]  # an unknown kind is an InputError
                tolerance=tolerance,
                max_iterations=max_iterations,
                progress=so_far.then(
                    tally(lambda done, text: report("search", done, starts, text))
                ),
                processes=processes,
                dask=dask,
                out=out,
            )
        except LostStarts as error:
            if error.result is None:
                raise
            lost, result = error, error.result
    rows = save_points(result, folder, options.to_json(), outputs)
    ended = sum(result.counts.values())
    kept = f", {result.stored} of them from {place} as they were" if result.stored else ""
    lines = []
    if ended:
        lines.append(
            f"{counted_line(rows)} from {ended} starts ({count_line(result.counts)}){kept}"
        )
    lines += [point_line(row) for row in rows[:SHOWN]]
    if len(rows) > SHOWN:
        lines.append(f"and {len(rows) - SHOWN} more, with higher losses; --json lists all")
    if folder is None:
        lines.append(
            f"the starts are kept in {place}; with a folder as --out points go to files, too"
        )
    lines.append(str(result.unseen) if rows else result.why_none)
    if result.separation is not None:
        lines.append(f"separable classes: {result.separation}; {REMEDY}")
    if result.unresolved:
        lines.append(result.why_unresolved)
    beyond = limits(result)
    if beyond:
        lines.append(
            f"{len(beyond)} runs end at critical points at infinity, the lowest at loss "
            f"{beyond[0]['loss']:.10g} ({beyond[0]['status']}, start {beyond[0]['start']})"
        )
    record = {
        "points": rows,
        "counts": {str(status): count for status, count in result.counts.items()},
        "stored": result.stored,
        "unresolved": len(result.unresolved),
        "unseen": {"chao1": result.unseen.chao1, "missing_mass": result.unseen.missing_mass}
        if rows
        else None,
        "limits": beyond,
        "separation": separation_row(result.separation),
    }
    if rows:
        lines.append(f"next: semiflat judge {shlex.quote(rows[0]['file'])}")
    say(as_json, record, lines)
    if lost is not None:
        raise lost
    if result.interrupted:
        print(
            f"{ended} of {starts} starts are kept in {place}; the same command goes on from there",
            file=sys.stderr,
        )
        raise KeyboardInterrupt
    if not rows:
        raise typer.Exit(NO)


@app.command()
@threads(1)
def widen(
    out: Annotated[Path, typer.Option("--out", help="The .safetensors file to write.")],
    point: Annotated[
        Path | None, typer.Argument(metavar="[POINT]", help="A .safetensors file of a point.")
    ] = None,
    steps: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[STEP...]",
            help=f"Embeddings, in order; one λ or γ may be 'rest'. Forms: {forms()}.",
        ),
    ] = None,
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    model: OptionalModel = None,
    weights: Weights = None,
    shape: Shape = None,
    group: Annotated[
        str | None, typer.Option("--group", help="With --model: a group of semiflat units.")
    ] = None,
    units: Annotated[int, typer.Option("--units", help="With --model: new units to add.")] = 0,
    copies: Annotated[
        list[str] | None,
        typer.Option(
            "--copies",
            metavar="UNIT:SHARE,SHARE",
            help="With --model: copies of a unit, by their shares, or UNIT:COUNT; again for each further unit.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="With --model: of new units' weights.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Add units to a saved point, or to a module of yours, without changing its function.

    Example: semiflat widen points/p0.safetensors replicate:0:2:0.3,0.7 null:0:0.4 --out
    wide.safetensors

    Or of a module: semiflat widen --model mynets:make --weights net.safetensors --data digits
    --group fc1 --units 8 --out wide.safetensors
    """
    if (point is None) == (model is None):
        raise InputError(
            "give a .safetensors file of a point and steps, or --model PACKAGE.MODULE:FUNCTION with --data and "
            "--group"
        )
    if model is not None:
        if data is None or group is None:
            raise InputError(
                "--model needs --data and --group, too; semiflat units names the groups"
            )
        widen_module(
            model,
            weights,
            batches_of(data, target, shape, raw),
            group=group,
            units=units,
            copies=copies or [],
            seed=seed,
            out=out,
            outputs=Outputs("widen", force, {"the weights": weights} if weights else {}),
            as_json=as_json,
        )
        return
    assert point is not None
    if not steps:
        raise InputError(f"say what to add: one of {forms()}")
    if weights or shape or group or units or copies:
        raise InputError(
            "--weights, --shape, --group, --units and --copies go with --model; a saved point takes steps"
        )
    from semiflat.checkpoints import packed
    from semiflat.embeddings import Composition, Embedding

    narrow, source = stored_point(point, data, target, raw)
    outputs = Outputs("widen", force, {"the point": point, "the data": source["source"]})
    outputs.check(out)
    net = narrow.problem.net
    embedding: Embedding = Composition([])
    for step in steps:
        embedding = embedding >> parse_step(step, embedding.widen(net))
    wide = embedding(narrow)
    outputs.write({out: packed(wide, source)})
    record = {
        "file": str(out),
        "embedding": repr(wide.embedding),
        "widths": list(wide.problem.net.widths),
        "loss": wide.loss,
        "gradient_norm": wide.gradient_norm,
    }
    say(
        as_json,
        record,
        [f"{out}  widths {record['widths']}  {record['embedding']}  loss {wide.loss:.10g}"],
    )


@app.command()
@threads(1)
def judge(
    point: PointFile,
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            help="Largest gradient entry of a critical point, in parts of what it would be if its terms "
            "did not cancel.",
        ),
    ] = 1e-10,
    proof: Annotated[
        bool, typer.Option("--proof", help="Prove it in ball arithmetic, where that can be done.")
    ] = False,
    certificate: Annotated[
        Path | None,
        typer.Option(
            "--certificate", metavar="FILE", help="Write the proof, too (implies --proof)."
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say what kind of point a saved point is, and why.

    Example: semiflat judge points/p0.safetensors
    """
    from semiflat.verdicts import judge as judge_point
    from semiflat.verdicts.dispatch import judge_cost

    loaded, source = stored_point(point, data, target, raw)
    outputs = Outputs("judge", force, {"the point": point, "the data": source["source"]})
    if certificate is not None:
        outputs.check(certificate)
    proof |= certificate is not None
    say_cost(judge_cost(loaded))
    with proving(shown=proof):
        verdict = judge_point(loaded, tolerance, proof=proof)
    if certificate is not None and verdict.certificate is not None:
        outputs.write(verdict.certificate.files(certificate))
    lines = [str(verdict)]
    if verdict.inertia is not None:
        lines.append(f"inertia: {verdict.inertia}")
    if verdict.flat_directions is not None:
        flat = verdict.flat_directions
        lines += [f"flat, {f.dimension} directions: {f.reason}" for f in flat.families]
        lines.append(
            f"zero eigenvalues: {flat.zeros_explained} explained, {flat.zeros_unexplained} not"
        )
    if verdict.curvature is not None:
        lines.append(f"curvature along the descent direction: {verdict.curvature:.6g}")
    if verdict.certificate is not None and verdict.certificate.certified:
        lines += ["proof:", *(f"  {line}" for line in certificate_lines(verdict.certificate))]
    record = {
        "file": str(point),
        "widths": list(loaded.problem.net.widths),
        "loss": loaded.loss,
        **verdict.to_json(),
    }
    if verdict.certificate is not None:
        record["certificate"] = certificate_record(verdict.certificate)
    say(as_json, record, lines)


app.command()(diagnose)
app.command()(units)
app.command()(shrink)
app.command()(grow)
app.command()(certify)
app.command()(verify)
app.command()(path)
app.command()(bound)
app.command()(hierarchy)
app.command("stages")(stages_of_training)


@app.command()
@threads(1)
def reduce(
    point: PointFile,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            help="Largest change of an output on the data, relative to their spread; 0: none.",
        ),
    ] = 0.0,
    on_data: Annotated[
        bool, typer.Option("--on-data", help="Drop units that are inactive on the data, too.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", help="The .safetensors file to write the result to.")
    ] = None,
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Find the smallest network that computes the same, or nearly the same, function.

    Example: semiflat reduce wide.safetensors --tolerance 0.01 --out small.safetensors
    """
    from semiflat.checkpoints import packed
    from semiflat.reduction import reduce as reduce_point
    from semiflat.reduction import widths_by_tolerance

    wide, source = stored_point(point, data, target, raw)
    outputs = Outputs("reduce", force, {"the point": point, "the data": source["source"]})
    if out is not None:
        outputs.check(out)
    small = reduce_point(wide, tolerance, on_data=on_data)
    if out is not None:
        outputs.write({out: packed(small.point, source)})
    # Merging nearly equal units takes seconds for thousands of them, at each tolerance.
    table = widths_by_tolerance(wide) if max(small.widths, default=0) <= TABLE_LIMIT else []
    record = {
        "file": None if out is None else str(out),
        "hidden": list(wide.problem.net.hidden),
        "reduced": list(small.widths),
        "bound": small.bound,
        "loss": small.point.loss,
        "merges": [asdict(merge) for merge in small.merges],
        "effective_widths": [
            {"tolerance": t, "hidden": list(widths), "bound": bound} for t, widths, bound in table
        ],
    }
    lines = [f"hidden widths {record['hidden']} -> {record['reduced']}", str(small)]
    lines += [f"  at tolerance {t:g}: {list(widths)}" for t, widths, _ in table]
    if not table:
        lines.append(f"  (widths at other tolerances are left out above {TABLE_LIMIT} units)")
    say(as_json, record, lines)


add_others(app)


@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
    elif context.invoked_subcommand is None:
        print(FIRST)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 the answer is "no", 2 unusable input, 130 Ctrl-C."""
    gc.set_threshold(50_000)  # the many objects of an import are not worth looking through
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every sign
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = lambda message, *rest: print(f"warning: {message}", file=sys.stderr)
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _run(arguments: list[str]) -> int:
    try:
        code = app(arguments, prog_name="semiflat", standalone_mode=False)
    except (InputError, Unfinished) as error:
        return _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except MemoryError:
        return _refuse("not enough memory for a network or data of this size; make them smaller")
    except OSError as error:
        return _refuse(f"cannot write the result: {error.strerror or error}")
    except Exception as error:
        if isinstance(error, RuntimeError) and "allocate" in str(error):
            return _refuse("not enough memory for a network of this size; make it smaller")
        # Typer's errors about the command line itself; their class differs between its versions.
        if not hasattr(error, "format_message"):
            raise
        text = error.format_message()
        command = getattr(getattr(error, "ctx", None), "command_path", None) or "semiflat"
        return _refuse(f"{text.rstrip('.')}; see {command} --help") if text else BAD_INPUT
    if code == INTERRUPTED:
        print("interrupted; files already written are whole", file=sys.stderr)
    return code if isinstance(code, int) else DONE


def _refuse(text: str) -> int:
    print(f"error: {' '.join(text.split())}", file=sys.stderr)
    return BAD_INPUT
