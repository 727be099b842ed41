"""Proving and checking: `certify`, `verify`, and a certificate in words.

Nothing here imports what computes before a command runs, and `verify` never does: it needs the standard
library and python-flint alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semiflat.cli.inputs import stored_point
from semiflat.cli.options import (
    BAD_INPUT,
    DONE,
    NO,
    Force,
    Json,
    OptionalData,
    PointFile,
    Raw,
    Target,
    say,
)
from semiflat.cli.progress import stages
from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.threads import threads

if TYPE_CHECKING:
    from semiflat.certificates.certificate import Certificate
    from semiflat.points import Point


@threads(1)
def certify(
    point: PointFile,
    out: Annotated[Path, typer.Option("--out", help="The .json file of the certificate.")],
    data: OptionalData = None,
    target: Target = None,
    raw: Raw = False,
    data_file: Annotated[
        str | None,
        typer.Option(
            "--data-file",
            metavar="NAME",
            help="Put X and y in a file of that name beside it, for certificates that share them.",
        ),
    ] = None,
    not_critical: Annotated[
        float | None,
        typer.Option(
            "--not-critical",
            metavar="RADIUS",
            help="Prove instead that no critical point lies within RADIUS, entry by entry.",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Prove what kind of critical point lies next to a saved point. Exit code 1: undecided.

    Example: semiflat certify points/p0.safetensors --out p0.json
    """
    import semiflat as sf

    beside = None if data_file is None else _beside(out, data_file, point)
    loaded, source = stored_point(point, data, target, raw)
    outputs = Outputs("certify", force, {"the point": point, "the data": source["source"]})
    outputs.check(out)
    if beside is not None and beside.exists() and not force:
        _check_data(beside, loaded)
    elif beside is not None:
        outputs.check(out, beside)
    with proving():
        if not_critical is None:
            certificate = sf.certify(loaded)
        else:
            certificate = sf.certify_not_critical(loaded, not_critical)
    outputs.write(certificate.files(out, data_file))
    if certificate.status == "invalid_input":
        raise InputError(certificate.reason)
    say(
        as_json,
        {"file": str(out), **certificate_record(certificate)},
        [str(certificate), *certificate_lines(certificate)],
    )
    if not certificate.certified:
        raise typer.Exit(NO)


def verify(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Certificates.")],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="FILE",
            help="The file with the data of certificates that hold only their hash; by default the "
            "one that they name, beside them.",
        ),
    ] = None,
    distinct: Annotated[
        bool,
        typer.Option("--distinct", help="Prove, too, that all are distinct modulo symmetries."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Check certificates from scratch. Exit code 1: one is not certified; 2: one is no certificate.

    Example: semiflat verify p0.json p1.json --distinct
    """
    import semiflat as sf
    from semiflat.certificates.checker.arithmetic import need_arithmetic

    need_arithmetic()  # says so here, once for all files, where python-flint is not installed
    with stages() as progress:
        results = []
        for done, path in enumerate(files):
            progress("verify", done, len(files), path.name)
            results.append(sf.verify(path, data))
        progress("verify", len(files), len(files), "")
        apart = sf.verify_distinct(files, data) if distinct else None
    rows = [{"file": str(f), **asdict(result)} for f, result in zip(files, results, strict=True)]
    lines = [f"{path}: {result}" for path, result in zip(files, results, strict=True)]
    if apart is not None:
        lines.append(apart.reason if apart.ok else f"not all distinct: {apart.reason}")
    say(as_json, {"files": rows, "distinct": None if apart is None else asdict(apart)}, lines)
    code = max(_EXIT[result.status] for result in results)
    if apart is not None and not apart.ok:
        code = max(code, NO)
    if code:
        raise typer.Exit(code)


_EXIT = {"certified": DONE, "not certified": NO, "invalid file": BAD_INPUT}


@contextmanager
def proving(shown: bool = True) -> Iterator[None]:
    """A bar with the time it takes while one point is proved."""
    if not shown:
        yield
        return
    with stages() as progress:
        progress("prove", 0, 1, "")
        yield
        progress("prove", 1, 1, "")


def _beside(out: Path, name: str, point: Path) -> Path:
    if name in ("", "..") or Path(name).name != name:
        raise InputError(
            f"--data-file {name!r} must be a file's name without a folder: it lies beside --out"
        )
    if (out.parent / name).resolve() in (out.resolve(), point.resolve()):
        raise InputError(f"--data-file {name!r} is the certificate or the point; name another")
    return out.parent / name


def _check_data(file: Path, point: Point) -> None:
    """Refuse a data file that holds other data, which other certificates may name."""
    from semiflat.certificates.certificate import other_data
    from semiflat.certificates.checker.verify import DAMAGED, data_in, hash_of

    try:
        X, y, weights = data_in(json.loads(file.read_bytes()))
        found = hash_of(X, y, point.problem.y.ndim == 1, weights)
    except DAMAGED:
        found = ""
    if found != point.problem.data_hash:
        raise other_data(file)


def certificate_record(certificate: Certificate) -> dict[str, Any]:
    """What a certificate says, as plain data."""
    return {
        "status": certificate.status,
        "reason": certificate.reason,
        "kind": certificate.kind,
        "inertia": certificate.proved.get("inertia"),
        "exact": certificate.proved.get("exact"),
        "loss": certificate.loss,
        "location": certificate.location,
        "unique": certificate.unique,
        "theorem": certificate.theorem,
        "premises": certificate.premises,
    }


def certificate_lines(certificate: Certificate) -> list[str]:
    """What is proved, in words below the claim; numbers in full, as a rounded one may be false."""
    lines = []
    if "inertia" in certificate.proved:
        positive, zero, negative = certificate.proved["inertia"]
        lines.append(
            f"inertia: {positive} positive, {zero} zero, {negative} negative"
            if certificate.proved["exact"]
            else f"inertia: at least {positive} positive and {negative} negative, zeros not counted"
        )
    if certificate.loss is not None:
        lines.append("loss: in [{!r}, {!r}]".format(*certificate.loss))
    if certificate.location is not None:
        lines.append(
            f"location: within {certificate.location!r} of the centre, no other within "
            f"{certificate.unique!r}"
        )
    if certificate.theorem is not None:
        lines.append(f"theorem: {certificate.theorem}")
    return lines + [f"premise: {premise}" for premise in certificate.premises]


def study_line(record: dict[str, Any]) -> str:
    """How many points of a study are proved, and how many of them are distinct."""
    if record["proofs"]["status"] != "attempted":
        return f"proved: nothing ({record['proofs']['reason']})"
    counts = [
        f"{sum(row['certificate']['status'] == 'certified' for row in rows)} of {len(rows)} {what}"
        for rows, what in (
            (record["points"], "critical points"),
            (record["embedded"], "embedded points"),
        )
    ]
    least = (record["distinct_proved"] or {}).get("at_least")
    return f"proved: {', '.join(counts)}" + (
        "" if least is None else f"; at least {least} distinct"
    )
