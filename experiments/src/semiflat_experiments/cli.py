"""`reproduce`: the published experiments, ours beside theirs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from semiflat.cli import NO, Json, say, stages
from semiflat.outputs import Outputs


def reproduce(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|all]...", help="Experiments; without a name they are listed."
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small settings: minutes for all together.")
    ] = False,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for records, figures and the page.")
    ] = Path("reproduction"),
    processes: Annotated[
        int | None, typer.Option("--processes", help="Of this machine; all cores by default.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Start afresh, and replace files that are in the way, whoever wrote them.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rerun published experiments and put our figures beside theirs. Exit code 1: a check does not hold.

    Stopped or killed, the same command goes on from where it was.

    Example: semiflat reproduce k19-gap --quick --out reproduction
    """
    from semiflat_experiments import NAMES, experiment
    from semiflat_experiments.figure import check_installed
    from semiflat_experiments.page import PAGE, lines, write_page
    from semiflat_experiments.reproduce import reproduce as run

    if not names:
        _list(as_json)
        return
    check_installed("jinja2")
    given = dict.fromkeys(names)
    named = [experiment(name).name for name in given if name != "all"]
    chosen = NAMES if "all" in given else named
    Outputs("reproduce", force).check(out / PAGE)
    found = []
    with stages() as report:

        def tell(stage: str, done: int, total: int) -> None:
            report(stage, done, total, "")

        for each in chosen:
            found.append(run(each, out, quick, processes, force, tell))
            page = write_page(out, force)
    records = [result.to_json() for result in found]
    words = [*lines(records), "", f"page: {page}"]
    say(as_json, {"page": str(page), "experiments": records}, words)
    if not all(result.outcome.holds for result in found):
        raise typer.Exit(NO)


def _list(as_json: bool) -> None:
    """What there is to reproduce, and how long it takes."""
    from semiflat_experiments import NAMES, experiment, minutes

    found = [experiment(name) for name in NAMES]
    rows = [
        {
            "name": e.name,
            "source": e.source,
            "title": e.title,
            "hours": round(minutes(e.name) / 60, 2),
        }
        for e in found
    ]
    lines = [f"{e.name:20}{_time(minutes(e.name)):>9}  {e.source}: {e.title}" for e in found]
    whole = _time(sum(map(minutes, NAMES)))
    lines.append(f"{'all':20}{whole:>9}  on one core; with --quick minutes together")
    say(as_json, {"experiments": rows}, lines)


def _time(total: int) -> str:
    return f"{total / 60:.1f} h" if total >= 60 else f"{total} min"
