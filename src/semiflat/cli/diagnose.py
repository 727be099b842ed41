"""`semiflat diagnose`: of a saved point, or of a module of yours with its weights."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import semiflat as sf
from semiflat.cli.inputs import DataOptions, stored_point
from semiflat.cli.modules import OptionalModel, Weights, module_of
from semiflat.cli.options import (
    Force,
    Json,
    LossName,
    OptionalData,
    Raw,
    Target,
    WeightDecayText,
    say,
    weight_decay_of,
)
from semiflat.cli.progress import stages
from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.threads import threads

STAGES = 4
"""What a diagnosis tells that it begins."""


@threads(1)
def diagnose(
    point: Annotated[
        Path | None, typer.Argument(metavar="[POINT]", help="A .safetensors file of a point.")
    ] = None,
    model: OptionalModel = None,
    weights: Weights = None,
    data: OptionalData = None,
    target: Target = None,
    loss: LossName = None,
    raw: Raw = False,
    weight_decay: WeightDecayText = "0",
    tolerance: Annotated[float, typer.Option("--tolerance", help="As for semiflat judge.")] = 1e-10,
    figure: Annotated[
        Path | None, typer.Option("--figure", metavar="FILE.png", help="Draw it, too.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Say of a trained network what it is, what is near it, and what to do.

    Example: semiflat diagnose points/p0.safetensors

    Or of a module: semiflat diagnose --model mynets:make --weights net.safetensors --data iris
    """
    if (point is None) == (model is None):
        raise InputError(
            "give a .safetensors file of a point, or --model PACKAGE.MODULE:FUNCTION with --weights and --data"
        )
    inputs: dict[str, Any] = {}
    if point is not None:
        given = [
            name for name, value in (("--weights", weights), ("--loss", loss)) if value is not None
        ]
        if given or weight_decay != "0":
            raise InputError(
                f"{(given or ['--weight-decay'])[0]} goes with --model; a saved point has its own"
            )
        trained, source = stored_point(point, data, target, raw)
        inputs = {"the point": point, "the data": source["source"]}
    else:
        if weights is None or data is None:
            raise InputError("--model needs --weights FILE.safetensors and --data, too")
        dataset = DataOptions(data, target, loss, not raw).load()
        module: Any = module_of(
            str(model), weights
        )  # read layer by layer, if it is an nn.Sequential
        if dataset.standardisation is not None:  # the network may have seen other numbers
            print(
                f"note: {data!r} was standardised; if the module was trained on the numbers as they are in the "
                "file, give --raw",
                file=sys.stderr,
            )
        trained = sf.Point.from_module(
            module,
            dataset.X,
            dataset.y,
            loss=dataset.loss,
            weight_decay=weight_decay_of(weight_decay),
        )
        inputs = {"the weights": weights, "the data": data}
    outputs = Outputs("diagnose", force, inputs)
    if figure is not None and figure.suffix.lower() != ".png":
        raise InputError(
            f"--figure {str(figure)!r} would hold a PNG; give it a name that ends in .png"
        )
    if figure is not None:
        outputs.check(figure)
    with stages() as report:
        done = 0

        def tell(line: str) -> None:
            nonlocal done
            if line.startswith("the diagnosis will take"):
                print(line, file=sys.stderr)
                return
            report("diagnosis", done, STAGES, line)
            done += 1

        found = sf.diagnose(trained, tolerance, say=tell)
        report("diagnosis", STAGES, STAGES, "")
    if figure is not None:
        outputs.write({figure: drawn(found)})
    say(as_json, found.to_json(), [str(found)])


def drawn(found: sf.Diagnosis) -> bytes:
    """The figure as a PNG."""
    import io

    stream = io.BytesIO()
    found.plot().savefig(stream, format="png", dpi=160, metadata={"Software": None})
    return stream.getvalue()
