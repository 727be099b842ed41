"""Checkpoints of a training run, read as parameters of a network of any width for one problem."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from semiflat.checkpoints import POINT_FORMAT, load_point, read_tensors
from semiflat.errors import InputError, whole
from semiflat.files import path_of, write_whole
from semiflat.networks import MLP, Params
from semiflat.points import Point
from semiflat.problem import Problem

FORMAT = "semiflat-checkpoint-1"


@dataclass(frozen=True)
class Weights:
    """A checkpoint that has been read.

    Attributes:
        params: the parameters, under any keys.
        net: the network, where the checkpoint said which it is.
    """

    params: Params
    net: MLP | None = None


def read(given: Any) -> Weights:
    """Parameters of their own, and the network if it is known.

    An ``nn.Sequential`` is read as it computes in eval mode. Of another module the ``state_dict`` is taken.

    Raises:
        InputError: for anything else, and for an ``nn.Sequential`` that is no MLP.
    """
    if isinstance(given, Weights):
        return given
    if isinstance(given, nn.Sequential):
        module = copy.deepcopy(given).eval() if given.training else given
        net, params = MLP.from_module(module)
        return Weights(params, net)
    state = given.state_dict() if isinstance(given, nn.Module) else given
    if not isinstance(state, Mapping) or not all(isinstance(t, Tensor) for t in state.values()):
        raise InputError(
            "a checkpoint is a dict of parameters, a state_dict, an nn.Sequential or a Point, not a "
            f"{type(given).__name__}"
        )
    return Weights({key: tensor.detach().cpu().clone() for key, tensor in state.items()})


def placed(problem: Problem, given: Any) -> Point:
    """A checkpoint as a point of the problem, with the checkpoint's hidden widths.

    Raises:
        InputError: if it has other inputs, outputs, depth, activations or biases than the problem's network,
            or is a :class:`Point` of another problem.
    """
    if isinstance(given, Point):
        given.problem.check_finite("a checkpoint")
        if given.problem.data_hash != problem.data_hash:
            raise InputError(
                f"it is a point on other data ({given.problem.samples} samples) than the hierarchy's "
                f"({problem.samples}); give points of the same problem"
            )
        if given.problem.loss != problem.loss:
            raise InputError(
                f"it is a point of the loss {given.problem.loss.name}, and the hierarchy's is "
                f"{problem.loss.name}; give points of the same problem"
            )
        given = Weights(given.params, given.problem.net)
    weights = read(given)
    widths = list(weights.net.widths) if weights.net else _widths(weights.params)
    own = problem.net
    if (widths[0], widths[-1], len(widths)) != (own.inputs, own.outputs, len(own.widths)):
        raise InputError(
            f"its widths are {widths}, and the hierarchy's networks have {own.inputs} input(s), "
            f"{len(own.hidden)} hidden layer(s) and {own.outputs} output(s); only hidden widths may differ"
        )
    net = own.with_hidden(widths[1:-1])
    if weights.net is not None and weights.net != net:
        raise InputError(
            f"it has activations {[a.name for a in weights.net.activations]} and biases "
            f"{list(weights.net.biases)}, and the hierarchy's networks {[a.name for a in net.activations]} and "
            f"{list(net.biases)}; they have to be the same"
        )
    return Point(problem.with_net(net), weights.params)


def _widths(params: Params) -> list[int]:
    """The widths of the layers whose weights these are, in their order."""
    weights = [tuple(tensor.shape) for tensor in params.values() if tensor.ndim == 2]
    if not weights:
        raise InputError("it holds no weights of linear layers, (out, in) each")
    widths = [weights[0][1], *(shape[0] for shape in weights)]
    if [shape[1] for shape in weights] != widths[:-1]:
        raise InputError(
            f"its weights have shapes {weights}, which are no layers one after the other; name them in the "
            "order of the layers"
        )
    return widths


# -- folders --------------------------------------------------------------------------------------


def write(folder: Path, step: int, weights: Weights) -> Path:
    """Write a checkpoint as a file of its own; none is replaced.

    Raises:
        InputError: if there is a file of that step, or the folder cannot be written.
    """
    path = folder / f"step-{step}.safetensors"
    if path.exists():
        raise InputError(f"{str(path)!r} is there already; log another run to another folder")
    metadata = {"format": FORMAT, "step": str(step)}
    net = weights.net
    if net is not None:
        activations = [activation.name for activation in net.activations]
        shape = {"widths": net.widths, "activations": activations, "biases": net.biases}
        metadata["network"] = json.dumps(shape)
    tensors = {key: tensor.contiguous() for key, tensor in weights.params.items()}
    write_whole(path, save(tensors, metadata))
    return path


def read_folder(problem: Problem, folder: str | Path) -> tuple[list[int], list[Weights | Point]]:
    """The checkpoints in a folder and their steps, in order: its ``.safetensors`` files.

    The step is the last number in a file's name. Files may be a :class:`semiflat.StageLogger`'s, points, or
    any ``state_dict``.

    Raises:
        InputError: if there are none, two are of one step, or one has no number or cannot be read.
    """
    folder = path_of(folder)
    files: dict[int, Path] = {}
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else ():
        numbers = re.findall(r"\d+", path.stem)
        if not numbers:
            raise InputError(
                f"{str(path)!r} has no number in its name; name checkpoints by their steps, as "
                "step-100.safetensors"
            )
        step = int(numbers[-1])
        if step in files:
            raise InputError(
                f"{files[step].name!r} and {path.name!r} in {str(folder)!r} are both of step {step}"
            )
        files[step] = path
    if not files:
        raise InputError(f"there are no .safetensors files in {str(folder)!r}")
    steps = sorted(files)
    return steps, [_read_file(problem, files[step]) for step in steps]


def _read_file(problem: Problem, path: Path) -> Weights | Point:
    metadata, tensors = read_tensors(path)
    if metadata.get("format") == POINT_FORMAT:
        return load_point(path).point(problem.X, problem.y, problem.sample_weight)
    if "network" not in metadata:
        return Weights(tensors)
    try:
        shape = json.loads(metadata["network"])
        net = MLP(shape["widths"], shape["activations"], shape["biases"])
    except (KeyError, TypeError, ValueError) as error:  # an InputError is a ValueError
        raise InputError(f"{str(path)!r} is damaged: {error}") from error
    return Weights(tensors, net)


def checked_steps(steps: Sequence[int] | None, count: int) -> list[int]:
    """Numbers of the steps, one for each checkpoint: 1, 2, … if none are given.

    Raises:
        InputError: if they are not as many, no whole numbers, or not in order.
    """
    if steps is None:
        return list(range(1, count + 1))
    try:
        numbers = [whole("a step", step) for step in steps]
    except TypeError:
        raise InputError(f"steps must be a list of whole numbers, not {steps!r:.60}") from None
    if len(numbers) != count:
        raise InputError(
            f"{len(numbers)} steps were given for {count} checkpoints; give one for each"
        )
    for one, two in pairwise(numbers):
        if one >= two:
            raise InputError(f"steps must grow, and {two} follows {one}; give them in order")
    return numbers
