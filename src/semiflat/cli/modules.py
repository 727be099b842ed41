"""`units`, `shrink` and `widen --model`: of a module of the user's with its weights."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import semiflat as sf
from semiflat.cli.options import LOSSES, NO, Force, Json, Raw, Target, say
from semiflat.errors import InputError
from semiflat.outputs import Outputs
from semiflat.threads import threads

if TYPE_CHECKING:
    from torch import nn

Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="A function of yours without arguments that makes the nn.Module; its code is run.",
    ),
]
OptionalModel = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FUNCTION",
        help="Instead of a point: a function of yours without arguments that makes an nn.Module. Its code "
        "is run.",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights", help="The module's state_dict, a .safetensors file; no pickle is read."
    ),
]
Batches = Annotated[
    str,
    typer.Option(
        "--data",
        help="A table or data set as elsewhere, its rows as inputs; or PACKAGE.MODULE:FUNCTION, a function of "
        "yours that makes a list of pairs (inputs, targets).",
    ),
]
Shape = Annotated[
    str | None,
    typer.Option("--shape", help="Shape of one input, if it is no row of a table: 1x8x8."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The .safetensors file to write, if any.")]
MOST_LINES = 20
"""Units whose reasons are printed."""
BATCH = 256
"""Rows of a table in one batch."""


def called(option: str, path: str) -> Any:
    """What a function of the user's gives, named as PACKAGE.MODULE:FUNCTION.

    Raises:
        InputError: if there is no such function, or it fails.
    """
    name, _, function = path.partition(":")
    if not name or not function.isidentifier():
        raise InputError(
            f"{option} {path!r} is no PACKAGE.MODULE:FUNCTION; write mynets:make for def make() in mynets.py"
        )
    sys.path.insert(0, "")  # as with python -m, so that a file beside the user is found
    try:
        module = importlib.import_module(name)
        if not hasattr(module, function):
            where = getattr(module, "__file__", None) or module
            raise AttributeError(f"there is no {function} in {where}")
        return getattr(module, function)()
    except ModuleNotFoundError as error:
        raise InputError(
            f"{option} {path!r} fails: {error}; run the command in the folder where "
            f"{(error.name or name).split('.')[0]}.py or the package lies, or install it"
        ) from error
    except Exception as error:  # it is anybody's code
        raise InputError(f"{option} {path!r} fails: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove("")


def module_of(path: str, weights: Path | None) -> nn.Module:
    """The module that a function of the user's makes, in eval mode, with the weights of a .safetensors file.

    Raises:
        InputError: if there is no such function, it makes no module, or the file does not fit or is a pickle.
    """
    from torch import nn

    module = called("--model", path)
    if not isinstance(module, nn.Module):
        raise InputError(f"--model {path!r} makes a {type(module).__name__}; expected an nn.Module")
    if weights is not None:
        module = _loaded(module, path, weights)
    return module.eval()


def _loaded(module: nn.Module, path: str, weights: Path) -> nn.Module:
    from safetensors import SafetensorError
    from safetensors.torch import load_file, load_model

    if not weights.is_file():
        raise InputError(
            f"there is no file {str(weights)!r}; give a .safetensors file of a state_dict"
        )
    try:
        module = sf.deepen(module, load_file(weights))
        load_model(module, weights)
        return module
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


def batches_of(
    data: str, target: str | None, shape: str | None, raw: bool
) -> list[tuple[Any, Any]]:
    """Pairs of inputs and targets: of a function of the user's, or the rows of a table in batches.

    Raises:
        InputError: if the data cannot be read, or a row has another size than the shape.
    """
    if ":" in data:
        made = called("--data", data)
        pairs = list(made) if isinstance(made, list | tuple) else []
        if not pairs or not all(
            isinstance(pair, tuple | list) and len(pair) == 2 for pair in pairs
        ):
            raise InputError(
                f"--data {data!r} makes a {type(made).__name__}; expected a list of pairs (inputs, targets)"
            )
        return [(pair[0], pair[1]) for pair in pairs]
    import torch

    # A module has an input for each column, whether it varies here or not.
    dataset = sf.load_data(data, target, standardise=not raw, keep_constant=True)
    X, y = torch.as_tensor(dataset.X).float(), torch.as_tensor(dataset.y)
    if shape is not None:
        sizes = _sizes(shape)
        if math.prod(sizes) != X.shape[1]:
            raise InputError(
                f"--shape {shape} has {math.prod(sizes)} numbers, and a row of {data!r} has {X.shape[1]}"
            )
        X = X.view(-1, *sizes)
    y = y.float() if y.is_floating_point() else y
    return list(zip(X.split(BATCH), y.split(BATCH), strict=True))


def _sizes(shape: str) -> list[int]:
    try:
        sizes = [int(part) for part in shape.split("x")]
    except ValueError:
        sizes = [0]
    if any(size < 1 for size in sizes):
        raise InputError(f"--shape {shape!r} is no shape; write 1x8x8 for images of one channel")
    return sizes


def few(batches: list[tuple[Any, Any]]) -> Any:
    """The inputs of a few samples, as an example."""
    import torch

    def cut(leaf: Any) -> Any:
        return leaf[:4] if isinstance(leaf, torch.Tensor) and leaf.ndim else leaf

    return torch.utils._pytree.tree_map(cut, batches[0][0])


def packed(module: nn.Module) -> bytes:
    """A module's state_dict as a .safetensors file holds it, each shared tensor once."""
    from safetensors.torch import save

    seen: set[tuple[int, int]] = set()
    tensors = {}
    for name, tensor in module.state_dict().items():
        key = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() and key in seen:
            continue
        seen.add(key)
        tensors[name] = tensor.contiguous().clone()
    return save(tensors)


@threads(1)
def units(
    model: Model,
    data: Batches,
    weights: Weights = None,
    target: Target = None,
    shape: Shape = None,
    raw: Raw = False,
    as_json: Json = False,
) -> None:
    """Name the groups of units of a module of yours: what can be widened and shrunk, and what forbids it.

    Exit code 1: there is no group that can be changed.

    Example: semiflat units --model mynets:make --data digits --shape 1x8x8
    """
    groups = sf.units(module_of(model, weights), few(batches_of(data, target, shape, raw)))
    lines = [
        f"{'group':<32} {'kind':<18} {'units':>6}  reads and writes, or why it cannot be changed"
    ]
    for group in groups.values():
        made_of = f"{len(group.writers)} tensors make it, {len(group.readers)} read it"
        lines.append(
            f"{group.name:<32} {group.kind:<18} {group.size:>6}  {group.refuses or made_of}"
        )
    if groups.guards:
        lines.append(f"for inputs as the example's alone: {'; '.join(groups.guards)}")
    if groups.unreached:
        lines.append(f"not used on this example: {', '.join(groups.unreached)}")
    say(as_json, groups.to_json(), lines)
    if all(group.refuses for group in groups.values()):
        raise typer.Exit(NO)


def copies_of(texts: list[str]) -> dict[int, Any]:
    """``3:0.3,0.7`` as ``{3: [0.3, 0.7]}``, ``3:2`` as ``{3: 2}``.

    >>> copies_of(["3:0.3,0.7", "1:2"])
    {3: [0.3, 0.7], 1: 2}
    """
    found: dict[int, Any] = {}
    for text in texts:
        unit, _, shares = text.partition(":")
        try:
            found[int(unit)] = (
                [float(share) for share in shares.split(",")] if "," in shares else int(shares)
            )
        except ValueError:
            raise InputError(
                f"--copies {text!r} is not of the form UNIT:SHARE,SHARE,… or UNIT:COUNT, as in 3:0.3,0.7"
            ) from None
    return found


def widen_module(
    model: str,
    weights: Path | None,
    batches: list[tuple[Any, Any]],
    *,
    group: str,
    units: int,
    copies: list[str],
    seed: int,
    out: Path,
    outputs: Outputs,
    as_json: bool,
) -> None:
    """`semiflat widen --model …`."""
    outputs.check(out)
    wide = sf.widen(
        module_of(model, weights),
        few(batches),
        group,
        units=units,
        copies=copies_of(copies),
        seed=seed,
    )
    outputs.write({out: packed(wide.model)})
    changed = ", ".join(f"{name} = {value}" for name, value in wide.attributes.items())
    lines = [
        f"{out}: {wide.group.kind}s of {group!r}, now {wide.size}; the outputs change by "
        f"{wide.output_change:.1e} of their size in float64, {wide.rounding:.1e} in the module's own numbers",
        f"make the module with {changed}" if changed else "",
        f"note: {wide.note}" if wide.note else "",
    ]
    say(as_json, {"file": str(out), **wide.to_json()}, [line for line in lines if line])


def _written(out: Path, outputs: Outputs, changed: sf.Shrunk | sf.Grown) -> str:
    """Write the weights of a changed module, and say how to make one that they fit."""
    outputs.write({out: packed(changed.model)})
    sizes = ", ".join(f"{name} = {value}" for name, value in changed.attributes.items())
    from semiflat.growth.depth import blocks_in

    blocks = ", ".join(map(repr, blocks_in(changed.model)))
    how = [f"make the module with {sizes}"] if sizes else []
    how += (
        [f"semiflat.deepen(module, weights) puts in the blocks behind {blocks}"] if blocks else []
    )
    return f"{out}: {'; '.join(how)}"


@threads(1)
def shrink(
    model: Model,
    data: Batches,
    weights: Weights = None,
    target: Target = None,
    shape: Shape = None,
    raw: Raw = False,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Largest change of an output, in parts of the largest."),
    ] = 0.0,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Shrink this group alone; again for each further one."),
    ] = None,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Leave out the units of a module of yours that make no difference, or hardly any.

    Exit code 1: every unit is needed.

    Example: semiflat shrink --model mynets:make --weights net.safetensors --data digits --shape 1x8x8
    --tolerance 0.01 --out small.safetensors
    """
    outputs = Outputs("shrink", force, {"the weights": weights} if weights else {})
    if out is not None:
        outputs.check(out)
    module, batches = module_of(model, weights), batches_of(data, target, shape, raw)
    small = sf.shrink(module, batches, tolerance, groups=group or None)
    lines = [f"{'group':<32} {'units':>6} {'left':>6}"]
    lines += [f"{name:<32} {old:>6} {new:>6}" for name, (old, new) in small.widths.items()]
    lines += [
        f"{each.group} unit {each.unit}: {each.reason}" for each in small.removed[:MOST_LINES]
    ]
    if len(small.removed) > MOST_LINES:
        lines.append(f"… and {len(small.removed) - MOST_LINES} more; --json has them all")
    lines.append(
        f"on these data the outputs change by {small.bound:.1e} of their size, which says nothing of others"
    )
    if out is not None and small.removed:
        lines.append(_written(out, outputs, small))
    say(as_json, small.to_json(), lines)
    if not small.removed:
        raise typer.Exit(NO)


@threads(1)
def grow(
    model: Model,
    data: Batches,
    weights: Weights = None,
    target: Target = None,
    shape: Shape = None,
    raw: Raw = False,
    loss: Annotated[
        str,
        typer.Option(
            "--loss",
            help=f"{', '.join(LOSSES)}; or PACKAGE.MODULE:FUNCTION, which makes a function "
            "loss(outputs, targets), a mean over the batch.",
        ),
    ] = "cross_entropy",
    units: Annotated[int, typer.Option("--units", min=1, help="How many units to add.")] = 1,
    group: Annotated[
        list[str] | None,
        typer.Option("--group", help="Grow this group alone; again for each further one."),
    ] = None,
    step: Annotated[
        bool,
        typer.Option("--step/--no-step", help="Whether the loss may fall; else the outputs stay."),
    ] = True,
    depth: Annotated[
        bool,
        typer.Option("--depth", help="Where no new unit helps, add blocks between the layers."),
    ] = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of what is drawn.")] = 0,
    out: Out = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Add units to a module of yours where they lower its loss most, and say how much was predicted and came.

    Exit code 1: no new unit lowers the loss.

    Example: semiflat grow --model mynets:make --weights net.safetensors --data digits --shape 1x8x8 --units 4
    --out wide.safetensors
    """
    outputs = Outputs("grow", force, {"the weights": weights} if weights else {})
    if out is not None:
        outputs.check(out)
    module, batches = module_of(model, weights), batches_of(data, target, shape, raw)
    grown = sf.grow(
        module,
        batches,
        _loss_of(loss),
        group or None,
        units=units,
        step=step,
        depth=depth,
        seed=seed,
    )
    lines = [f"{'group':<32} {'units':>6} {'predicted':>11} {'came':>11}  way"]
    for done in grown.plan:
        new = done.growth
        lines.append(
            f"{new.group:<32} {new.units:>6} {new.predicted:>11.4g} {done.achieved:>11.4g}  {new.way}"
        )
    lines.append(
        f"the loss over all data: {grown.loss_before:.6g} before, {grown.loss_after:.6g} after; {grown.reason}"
    )
    if out is not None and grown.plan:
        lines.append(_written(out, outputs, grown))
    say(as_json, grown.to_json(), lines)
    if not grown.plan:
        raise typer.Exit(NO)


def _loss_of(name: str) -> Any:
    """A loss of the library's as the mean over a batch, or what a function of the user's makes."""
    if ":" in name:
        return called("--loss", name)
    from semiflat.losses import loss_named

    kind = loss_named(name)

    def mean(outputs: Any, y: Any) -> Any:
        f = outputs.flatten(1)
        return kind.value(f, kind.targets(y, len(f), f.shape[1])).mean()

    return mean
