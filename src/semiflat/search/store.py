"""The runs of a search in a folder: what has ended is kept, and is not run again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from semiflat._version import __version__
from semiflat.jobs import Contents, JobStore, LinesStore
from semiflat.problem import Problem, check_names
from semiflat.search.block import Settings
from semiflat.search.methods import METHODS
from semiflat.search.plain import from_plain, to_plain
from semiflat.search.record import Finished

FORMAT = "semiflat-search-1"
FILE = "starts.jsonl"


def header(
    problems: Sequence[Problem], settings: Settings, start_scale: float, starts: int
) -> dict[str, Any]:
    """What a start's result depends on, as plain data.

    Args:
        starts: of each problem. Where there is one problem, more may be asked for later; with
            several, the number of a start depends on it.

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
        "seed": settings.seed,
        "tolerance": settings.tolerance,
        "max_iterations": settings.max_iterations,
        "start_scale": start_scale,
        **own,
        **several,
    }


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
    folder: str | Path,
    problems: Sequence[Problem],
    settings: Settings,
    start_scale: float,
    starts: int,
) -> JobStore[KeptRun]:
    """The runs in a folder, each named by its block and the number of its start.

    Args:
        folder: made if it does not exist.
        problems, settings, start_scale, starts: see :func:`header`.

    Raises:
        InputError: if the folder cannot be used, holds another search or damaged lines, or another
            process writes to it.
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
        header(problems, settings, start_scale, starts),
        "give another folder, or the settings of the first search",
        lambda kept: (kept.block, kept.run.start),
        lambda kept: {"block": list(kept.block), **to_plain(kept.run)},
        value,
    )
    return LinesStore(Path(folder) / FILE, contents)
