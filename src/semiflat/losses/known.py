"""Losses by name."""

from __future__ import annotations

import inspect
from functools import cache

from semiflat.errors import InputError, unknown_name
from semiflat.losses.classes import CrossEntropy, Logistic
from semiflat.losses.hinge import Hinge2, Hinge3
from semiflat.losses.loss import KINDS, Loss, LossFunction
from semiflat.losses.per_sample import PerSample
from semiflat.losses.residual import LogCosh, Squared

LOSSES: tuple[str, ...] = tuple(
    kind.name for kind in (Squared, CrossEntropy, Logistic, LogCosh, Hinge2, Hinge3)
)
"""The names of the losses that come with the library."""


@cache
def _made(kind: type[Loss]) -> Loss | None:
    required = inspect.Parameter.empty
    parameters = inspect.signature(kind).parameters.values()
    if any(
        p.default is required and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        for p in parameters
    ):
        return None
    return kind()


def known_loss(name: str) -> Loss | None:
    """The loss that a name stands for: the library's, or one of a class of yours made without arguments."""
    kind = KINDS.get(name)
    return None if kind is None else _made(kind)


def loss_named(given: str | Loss | LossFunction) -> Loss:
    """The loss of that name, or one made from a function of one sample.

    >>> loss_named("squared")
    Loss(squared)
    >>> loss_named("sqared")
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: unknown loss 'sqared'; did you mean 'squared'? Known: ...
    """
    if isinstance(given, Loss):
        return given
    if isinstance(given, str):
        known = known_loss(given)
        if known is None:
            if given in KINDS:
                raise InputError(
                    f"loss {given!r} is made with arguments; give one of it: {KINDS[given].__name__}(...)"
                )
            raise unknown_name("loss", given, KINDS)
        return known
    if callable(given):
        return PerSample(given)
    raise InputError(
        f"loss must be a name or a function of (output, target), not {given!r}. "
        f"Known names: {', '.join(KINDS)}"
    )
