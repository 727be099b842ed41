"""What the commands have in common: options, exit codes, how a result is printed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from semiflat.errors import InputError

DONE, NO, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# The names that options take stand here once more, for --help, which imports nothing that knows them.
DATA_SETS = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
ACTIVATIONS = (
    "gelu",
    "identity",
    "leaky_relu",
    "relu",
    "sigmoid",
    "silu",
    "sin",
    "softplus",
    "tanh",
)
LOSSES = ("squared", "cross_entropy", "logistic", "log_cosh", "hinge2", "hinge3")
KINDS = ("minimum", "any")


def completing(names: Sequence[str]) -> Callable[[str], list[str]]:
    """What a shell is told of a word that begins one of the names."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


Data = Annotated[
    str,
    typer.Option(
        "--data",
        help="A .csv, .tsv, .parquet or .npz file, or a set that scikit-learn has: "
        f"{', '.join(DATA_SETS)}.",
    ),
]
OptionalData = Annotated[
    str | None,
    typer.Option("--data", help="The data; by default those the point was made on."),
]
Target = Annotated[
    str | None, typer.Option("--target", help="Target column of a table; the last by default.")
]
LossName = Annotated[
    str | None,
    typer.Option(
        "--loss",
        help=f"{', '.join(LOSSES)}; by default the one that fits the target.",
        autocompletion=completing(LOSSES),
    ),
]
Raw = Annotated[bool, typer.Option("--raw", help="Do not standardise.")]
Drop = Annotated[
    list[str] | None,
    typer.Option(
        "--drop", metavar="COLUMN", help="Leave a column out; again for each further one."
    ),
]
DropMissing = Annotated[
    bool, typer.Option("--drop-missing", help="Leave out rows with missing values.")
]
OneHot = Annotated[
    bool,
    typer.Option(
        "--one-hot",
        help="Take columns of text as categories: one input for each level but the first.",
    ),
]
SampleWeight = Annotated[
    str | None,
    typer.Option(
        "--sample-weight", metavar="COLUMN", help="Column that says what each sample counts with."
    ),
]
Hidden = Annotated[str, typer.Option("--hidden", help="Hidden widths: 3, or 4,6 for two layers.")]
ActivationName = Annotated[
    str,
    typer.Option(
        "--activation",
        help=f"Of the network: {', '.join(ACTIVATIONS)}.",
        autocompletion=completing(ACTIVATIONS),
    ),
]
KindName = Annotated[
    str,
    typer.Option(
        "--kind",
        help="minimum, or any critical point.",
        autocompletion=completing(KINDS),
    ),
]
Starts = Annotated[int, typer.Option("--starts", help="Random starts of the search.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the random starts.")]
WeightDecayText = Annotated[
    str,
    typer.Option(
        "--weight-decay",
        help="λ of the penalty ½ λ ‖θ‖² on all parameters, or weight=1e-3,bias=0.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[
    bool,
    typer.Option(
        "--force", help="Replace files that are in the way, whoever wrote or changed them."
    ),
]
PointFile = Annotated[Path, typer.Argument(metavar="POINT", help="A .safetensors file of a point.")]


def weight_decay_of(text: str) -> float | dict[str, float]:
    """``1e-3`` or ``weight=1e-3,bias=0`` as :class:`~semiflat.Problem` takes it.

    >>> weight_decay_of("0.1"), weight_decay_of("weight=0.1,bias=0")
    (0.1, {'weight': 0.1, 'bias': 0.0})
    """
    try:
        if "=" not in text:
            return float(text)
        pairs = [
            (name.strip(), float(value))
            for name, value in (part.split("=") for part in text.split(","))
        ]
    except ValueError:
        raise InputError(
            f"--weight-decay {text!r} is neither a number, as 1e-3, nor one for each group, as "
            "weight=1e-3,bias=0"
        ) from None
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"--weight-decay {text!r} gives {name!r} more than once; give it one number"
            )
    return dict(pairs)


def say(as_json: bool, record: Any, lines: Sequence[str]) -> None:
    """Print a result: as JSON, or in words."""
    print(json.dumps(record, indent=1) if as_json else "\n".join(lines), flush=True)
