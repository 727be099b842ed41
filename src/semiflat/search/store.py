"""The runs of a search in a folder or a database: what has ended is kept, and is not run again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from semiflat._version import __version__
from semiflat.jobs import Contents, JobStore, LinesStore, is_database
from semiflat.limits import AtInfinity
from semiflat.problem import Problem, check_names
from semiflat.search.block import Settings
from semiflat.search.methods import METHODS
from semiflat.search.plain import from_plain, to_plain
from semiflat.search.record import Finished

FORMAT = "semiflat-search-1"
FILE = "starts.jsonl"


def header(
    problems: Sequence[Problem],
    settings: Settings,
    start_scale: float,
    starts: int,
    given: Tensor | None = None,
) -> dict[str, Any]:
    """What a start's result depends on, as plain data.

    Args:
        starts: of each problem. Where there is one problem, more may be asked for later; with
            several, the number of a start depends on it.
        given: the starts (B, P), where they are not random.

    Raises:
        InputError: if the activation or loss is a Python function, of which a file can say nothing.
    """
    net, loss = problems[0].net, problems[0].loss
    activations = [activation.name for activation in net.activations]
    check_names(
        problems[0],
        "a folder cannot tell whether it is the same one when the search goes on; give no folder (out)",
    )
    name = next((name for name, each in METHODS.items() if each is settings.method), None)
    own = {} if name is None else {"method": name}
    several = {"starts of each problem": starts} if len(problems) > 1 else {}
    begun: dict[str, Any] = {"seed": settings.seed, "start_scale": start_scale}
    if given is not None:
        begun = {"starts (SHA-256)": _digest(given)}
    beyond = {}
    if isinstance(problems[0], AtInfinity):
        limit = problems[0]
        beyond = {
            "forms": [[str(form) for form in row] for row in limit.net.forms],
            "far (SHA-256)": _digest(*limit.offsets, limit.net.flatten(limit.far)),
        }
    return {
        "format": FORMAT,
        "semiflat": __version__,
        "widths": list(net.widths),
        "activations": activations,
        "biases": list(net.biases),
        "loss": loss.name,
        "dtype": str(problems[0].dtype).removeprefix("torch."),
        "weight decay": problems[0].weight_decay,
        "data (SHA-256)": [problem.data_hash for problem in problems],
        "kind": settings.kind,
        "tolerance": settings.tolerance,
        "max_iterations": settings.max_iterations,
        **begun,
        **own,
        **several,
        **beyond,
    }


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.detach().to(torch.float64).contiguous().numpy().tobytes())
    return digest.hexdigest()


class KeptRun(NamedTuple):
    """A run as a store keeps it: that of its block alone, since rounding depends on what is in a batch.

    Attributes:
        block: number of its first start, and how many there are.
        run: how it ended.
    """

    block: tuple[int, int]
    run: Finished


def block_of(numbers: Sequence[int]) -> tuple[int, int]:
    """What names a block of starts, one after the other."""
    return numbers[0], len(numbers)


def open_store(
    place: str | os.PathLike[str],
    problems: Sequence[Problem],
    settings: Settings,
    start_scale: float,
    starts: int,
    given: Tensor | None = None,
) -> JobStore[KeptRun]:
    """The runs in a folder or a database, each named by its block and the number of its start.

    A folder holds one search, a database any number: each has the runs of its own header there.

    Args:
        place: a folder, made if it does not exist; or a database, see
            :func:`semiflat.jobs.store.is_database`.
        problems, settings, start_scale, starts, given: see :func:`header`.

    Raises:
        InputError: if the place cannot be used, or holds damaged lines; if a folder holds another search,
            or another process writes to it.
    """
    parameters = problems[0].net.parameter_count

    def value(plain: dict[str, Any]) -> KeptRun:
        block = from_plain(tuple[int, int], plain.pop("block", None))
        run = from_plain(Finished, plain)
        if tuple(run.vector.shape) != (parameters,):
            raise ValueError(f"it does not hold {parameters} parameters")
        return KeptRun(block, run)

    contents = Contents(
        "a search",
        header(problems, settings, start_scale, starts, given),
        "give another folder, or the settings of the first search",
        lambda kept: (kept.block, kept.run.start),
        lambda kept: {"block": list(kept.block), **to_plain(kept.run)},
        value,
    )
    if is_database(place):
        from semiflat.jobs.database import DatabaseStore

        return DatabaseStore(place, contents)
    return LinesStore(Path(place) / FILE, contents)
