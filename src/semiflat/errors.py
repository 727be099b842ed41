"""What is raised for bad input, and for work that could not all be done."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Unusable input: the message says what was given, what was expected and what to do.

    A ``ValueError``, so that callers who know nothing of semiflat still catch it. The command line
    turns it into one line and exit code 2.
    """


class Unfinished(RuntimeError):
    """Work that could not all be done: the message says what has no result, and why.

    Known here, so that the command line can catch it without the room that raises it.
    """


def unknown_name(what: str, given: str, known: Iterable[str]) -> InputError:
    """An :class:`InputError` for a name that does not exist, with the nearest known one.

    >>> str(unknown_name("activation", "tahn", ["relu", "tanh"]))
    "unknown activation 'tahn'; did you mean 'tanh'? Known: relu, tanh"
    """
    names = sorted(known)
    near = difflib.get_close_matches(str(given), names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"unknown {what} {given!r}{hint} Known: {', '.join(names)}")
