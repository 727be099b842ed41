"""Running the notebooks of examples/: they are stored with what they showed, anew by ``make examples``."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
TABLE = "table: "
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?")
NOISE = 1e-9
"""Below it all is zero but for rounding: gradients at critical points, distances of proofs, floors."""


def executed(path: Path) -> Any:
    """The notebook as it is after every cell was run in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    # In torch with one thread: the last bits, and so where a training ends and what lies below a saddle, do
    # not depend on the compiled engine, the number of cores, or the environment of the tests.
    alone = {"SEMIFLAT_ENGINE": "torch", "OMP_NUM_THREADS": "1"}
    # Through files, not ports, in a folder of its own: several may run at once, and nobody else talks to them.
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, alone):
        config = Config({"KernelManager": {"transport": "ipc", "ip": f"{folder}/kernel"}})
        NotebookClient(notebook, timeout=120, kernel_name="python3", config=config).execute()
    for cell in notebook.cells:
        cell.metadata.clear()  # times, which differ from run to run
        if cell.cell_type == "code":
            cell.outputs = _together(cell.outputs)
    notebook.metadata.pop("language_info", None)
    return notebook


def _together(outputs: list[Any]) -> list[Any]:
    """What is printed comes in pieces, and how many there are depends on the time it takes."""
    whole: list[Any] = []
    for output in outputs:
        stream = output.get("name")
        if stream and whole and whole[-1].get("name") == stream:
            whole[-1].text += output.text
        else:
            whole.append(output)
    return whole


def shown(notebook: Any) -> list[list[str]]:
    """For each cell of code what it printed, and its tables; a picture stands for itself."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[_shown(output) for output in cell.outputs] for cell in cells]


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        return f"{output.name}: {output.text}"
    if "image/png" in output.data:
        return "a picture"
    html = output.data.get("text/html")
    return str(output.data["text/plain"]) if html is None else f"{TABLE}{html}"


def alike(found: str, stored: str) -> bool:
    """Whether a notebook may show the one where it is stored with the other.

    What it prints is rounded, and the same to the letter. A table of an object has all of its digits, rounding
    noise among them: there the words are the same, and numbers agree to a tenth, or are all but zero, or
    that in the denominator.

    >>> alike("table: loss 0.2206, noise 2e-16", "table: loss 0.2207, noise 5e-17")
    True
    >>> alike("table: loss 0.22", "table: loss 0.26"), alike("0.2206", "0.2207")
    (False, False)
    """
    if found == stored or not found.startswith(TABLE):
        return found == stored
    pairs = zip(NUMBER.findall(found), NUMBER.findall(stored), strict=False)
    words = NUMBER.sub("#", found) == NUMBER.sub("#", stored)
    return words and all(_near(float(one), float(other)) for one, other in pairs)


def _near(one: float, other: float) -> bool:
    low, high = sorted([abs(one), abs(other)])
    return high < NOISE or low > 1 / NOISE or abs(one - other) <= 0.1 * high


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(executed(each), each)
        print(each.name)
