"""What is raised for bad input, and for work that could not all be done."""

from __future__ import annotations

import difflib
import operator
import re
import sys
from collections.abc import Iterable
from numbers import Real
from typing import Any

LARGEST_SEED = 2**63 - 1
"""That torch's and NumPy's generators both take."""


ALSO_CALLED = {
    "swish": "silu",
    "logistic": "sigmoid",
    "expit": "sigmoid",
    "linear": "identity",
    "none": "identity",
    "sine": "sin",
    "lrelu": "leaky_relu",
    "mse": "squared",
    "mseloss": "squared",
    "l2": "squared",
    "leastsquares": "squared",
    "squarederror": "squared",
    "ce": "cross_entropy",
    "nll": "cross_entropy",
    "softmax": "cross_entropy",
    "logloss": "cross_entropy",
    "categoricalcrossentropy": "cross_entropy",
    "bce": "logistic",
    "bcewithlogits": "logistic",
    "binarycrossentropy": "logistic",
    "sigmoid": "logistic",
    "mnist": "digits",
    "cancer": "breast_cancer",
}
"""Names that others use, lower case and without spaces, and what they are called here."""
OTHERS = {"elu", "selu", "celu", "hardtanh", "atan", "arctan"}
"""Names of what is not here, and is not what is spelt nearly so."""
REMARKS = {"digits": ", images of 8 × 8"}


class InputError(ValueError):
    """Unusable input: the message says what was given, what was expected and what to do.

    A ``ValueError``, so that callers who know nothing of semiflat still catch it. The command line
    turns it into one line and exit code 2.

    >>> import semiflat as sf
    >>> try:
    ...     sf.MLP([2, 3, 1], activation="tahn")
    ... except sf.InputError as error:
    ...     print(error)
    unknown activation 'tahn'; did you mean 'tanh'? Known: gelu, identity, ...
    """

    def __init__(self, message: str) -> None:
        # One line, whatever was given: a tensor or a module prints itself on many.
        super().__init__(re.sub(r"\s*\n\s*", " ", message))


class Unfinished(RuntimeError):
    """Work that could not all be done: the message says what has no result, and why.

    Known here, so that the command line can catch it without the room that raises it.

    >>> str(Unfinished("start 3 has no result: its process was lost"))
    'start 3 has no result: its process was lost'
    """


LARGEST = 2**62
"""What a whole number may be at most, where nothing else bounds it: more than anything counts."""


def whole(name: str, given: Any, least: int = 0, most: int = LARGEST) -> int:
    """``given`` as an int.

    Raises:
        InputError: if it is not a whole number (a bool or 1.0 is none), below ``least`` or above ``most``.
    """
    number = whole_number(given)
    if number is None or number < least:
        raise InputError(f"{name} must be a whole number of at least {least}, not {given!r:.60}")
    if number > most:
        raise InputError(f"{name} must be at most {most}, not {given!r:.60}")
    return number


def whole_number(given: Any) -> int | None:
    """``given`` as an int; None if it is no whole number (a bool or 1.0 is none)."""
    if isinstance(given, bool):
        return None
    try:
        return operator.index(given)
    except Exception:  # whatever a foreign type makes of it
        return None


def whole_seed(given: Any) -> int:
    """``given`` as a seed.

    Raises:
        InputError: if it is not a whole number from 0 to ``LARGEST_SEED``.
    """
    return whole("seed", given, 0, LARGEST_SEED)


def switch(name: str, given: Any) -> bool:
    """``given``, if it is True or False: ``"no"`` would count as True.

    Raises:
        InputError: if it is neither.
    """
    if not isinstance(given, bool):
        raise InputError(f"{name} must be True or False, not {given!r:.60}")
    return given


def positive(name: str, given: Any) -> float:
    """``given`` as a float.

    Raises:
        InputError: if it is not a number above 0, or not finite.
    """
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 < given <= sys.float_info.max:
        raise InputError(f"{name} must be positive and finite, not {given!r}")
    return float(given)


def finite_number(name: str, given: Any) -> float:
    """``given`` as a float.

    Raises:
        InputError: if it is no finite number.
    """
    number = isinstance(given, Real) and not isinstance(given, bool)
    if not number or not abs(given) <= sys.float_info.max:
        raise InputError(f"{name} must be a finite number, not {given!r}")
    return float(given)


def unknown_name(what: str, given: str, known: Iterable[str]) -> InputError:
    """An :class:`InputError` for a name that does not exist, with the nearest known one.

    >>> str(unknown_name("activation", "tahn", ["relu", "tanh"]))
    "unknown activation 'tahn'; did you mean 'tanh'? Known: relu, tanh"
    >>> str(unknown_name("activation", "swish", ["silu", "tanh"]))
    "unknown activation 'swish'; did you mean 'silu'? Known: silu, tanh"
    """
    names = sorted(known)
    word = re.sub(r"[\s_-]", "", str(given)).lower()
    near = [name for name in ALSO_CALLED.get(word, "").split() if name in names]
    if word not in OTHERS:
        for text in (str(given), str(given).lower()):
            near += difflib.get_close_matches(text, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}{REMARKS.get(near[0], '')}?" if near else "."
    return InputError(f"unknown {what} {given!r}{hint} Known: {', '.join(names)}")
