"""Widen a neural network exactly, and know what kind of point it is there.

The public names, in the order data flows: a network, a problem, points, their derivatives, critical
points, embeddings, verdicts, files. They are listed in ``__init__.pyi``, which type checkers read, and
nowhere else. Each is imported when it is first asked for.
"""

import ast
from importlib import import_module
from pathlib import Path as _Path  # Path is a public name of its own
from typing import Any

from semiflat._version import __version__

_ROOM_OF = {
    alias.name: node.module
    for node in ast.parse(_Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
    if alias.name != "__version__"
}
__all__ = [*_ROOM_OF, "__version__"]  # names, read from the list


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, so that it is asked for once.
    value = globals()[name] = getattr(import_module(_ROOM_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
