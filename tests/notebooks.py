"""Running the notebooks of examples/: they are stored with what they showed, anew by ``make examples``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

import nbformat
from nbclient import NotebookClient
from traitlets.config import Config

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))


def executed(path: Path) -> Any:
    """The notebook as it is after every cell was run in a kernel of its own."""
    notebook = nbformat.read(path, as_version=4)
    # Through files, not ports: several may run at once, and nobody else can talk to them.
    config = Config({"KernelManager": {"transport": "ipc"}})
    # In torch with one thread, whose last bits, and so where a training ends and what lies below a saddle, do not
    # depend on the compiled engine, the number of cores, or the environment of the tests.
    with mock.patch.dict(os.environ, {"SEMIFLAT_ENGINE": "torch", "OMP_NUM_THREADS": "1"}):
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
    """For each cell of code what it printed; a picture stands for itself."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [[_shown(output) for output in cell.outputs] for cell in cells]


def _shown(output: Any) -> str:
    if output.output_type == "stream":
        return f"{output.name}: {output.text}"
    return "a picture" if "image/png" in output.data else str(output.data["text/plain"])


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(executed(each), each)
        print(each.name)
