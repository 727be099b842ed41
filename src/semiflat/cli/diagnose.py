"""`semiflat diagnose`: of a saved point, or of a module of yours with its weights."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import semiflat as sf
from semiflat.cli.inputs import DataOptions, stored_point
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
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PACKAGE.MODULE:FUNCTION",
            help="A function of yours without arguments that makes the nn.Sequential; its code is run.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", help="The module's state_dict, a .safetensors file; no pickle is read."
        ),
    ] = None,
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
        module = module_of(str(model), weights)
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


def module_of(path: str, weights: Path) -> Any:
    """The module that a function of the user's makes, with the weights of a .safetensors file.

    Raises:
        InputError: if there is no such function, it makes no module, or the file does not fit or is a pickle.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch import nn

    name, _, function = path.partition(":")
    if not name or not function.isidentifier():
        raise InputError(
            f"--model {path!r} is no PACKAGE.MODULE:FUNCTION; write mynets:make for def make() in mynets.py"
        )
    sys.path.insert(0, "")  # as with python -m, so that a file beside the user is found
    try:
        make = getattr(importlib.import_module(name), function)
        module = make()
    except ModuleNotFoundError as error:
        raise InputError(
            f"--model {path!r} fails: {error}; run the command in the folder where {name.split('.')[0]}.py or "
            "the package lies, or install it"
        ) from error
    except Exception as error:  # it is anybody's code
        raise InputError(f"--model {path!r} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")
    if not isinstance(module, nn.Module):
        raise InputError(
            f"--model {path!r} makes a {type(module).__name__}; expected an nn.Sequential"
        )
    if not weights.is_file():
        raise InputError(
            f"there is no file {str(weights)!r}; give a .safetensors file of a state_dict"
        )
    try:
        module.load_state_dict(load_file(weights))
    except SafetensorError as error:
        raise InputError(
            f"{str(weights)!r} is no .safetensors file; write one with safetensors.torch.save_file("
            "module.state_dict(), path). A pickle can run code when it is read, and is not read here"
        ) from error
    except RuntimeError as error:
        first = str(error).splitlines()
        raise InputError(
            f"{str(weights)!r} does not fit the module that --model {path} makes: "
            f"{' '.join(first[1:2]).strip().rstrip('.')}; give the weights of such a module"
        ) from error
    return module.eval()
