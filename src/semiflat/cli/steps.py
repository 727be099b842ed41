"""Embeddings as they are typed: ``name:part:part…``, one table row for each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import semiflat as sf
from semiflat.errors import InputError, unknown_name


@dataclass(frozen=True)
class Form:
    """How one kind of embedding is typed.

    Attributes:
        parts: names of the parts after the name; those in brackets may be left out.
        example: one that works.
        make: the parts and the network so far -> the embedding.
    """

    parts: str
    example: str
    make: Callable[[list[str], sf.MLP], sf.Embedding]

    def shown(self, name: str) -> str:
        """``name:PART:PART``."""
        return f"{name}:{self.parts}" if self.parts else name


def _numbers(text: str) -> list[str | None]:
    return [None if word == "rest" else word for word in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(word) for word in text.split(",")]


def _rows(text: str) -> list[list[float]]:
    return [_floats(row) for row in text.split(";")]


def _known(text: str) -> list[str]:
    values = _numbers(text)
    if None in values:
        raise InputError(f"'rest' cannot stand in {text!r}; give every number")
    return [value for value in values if value is not None]


FORMS: dict[str, Form] = {
    "replicate": Form(
        "LAYER:UNIT:λ,λ,…",
        "replicate:0:2:0.3,rest",
        lambda p, net: sf.Replicate(int(p[0]), int(p[1]), _numbers(p[2])),
    ),
    "scaled": Form(
        "LAYER:UNIT:β,β,…:γ,γ,…",
        "scaled:0:1:2,0.5:0.25,rest",
        lambda p, net: sf.ScaledReplicate(int(p[0]), int(p[1]), _known(p[2]), _numbers(p[3])),
    ),
    "null": Form("LAYER:α,α,…", "null:0:0.4", lambda p, net: sf.NullUnits(int(p[0]), _known(p[1]))),
    "inactive": Form(
        "LAYER:COUNT[:v,v,…]",
        "inactive:0:2:0.5",
        lambda p, net: sf.InactiveUnits(
            int(p[0]), int(p[1]), _floats(p[2]) if len(p) > 2 else None
        ),
    ),
    "propagation": Form(
        "LAYER:u,u,…;u,u,…",
        "propagation:0:1,-2,0.5",
        lambda p, net: sf.InactivePropagation(int(p[0]), _rows(p[1])),
    ),
    "constant": Form(
        "LAYER:α,α,…:v,v,…;v,v,…",
        "constant:0:0.5:1",
        lambda p, net: sf.ConstantUnits(int(p[0]), _floats(p[1]), _rows(p[2])),
    ),
    "compatible": Form(
        "WIDTH,WIDTH,…[:SEED]",
        "compatible:6,4:0",
        lambda p, net: sf.Compatible.random(
            net,
            [net.inputs, *(int(width) for width in p[0].split(",")), net.outputs],
            seed=int(p[1]) if len(p) > 1 else 0,
        ),
    ),
    "split-all": Form(
        "[λ,λ,…]",
        "split-all:1,1,-1",
        lambda p, net: sf.GlobalSplit(_known(p[0]) if p else (1, 1, -1)),
    ),
    "null-all": Form("α", "null-all:0.4", lambda p, net: sf.GlobalNull(p[0])),
    "permute": Form(
        "LAYER:UNIT,UNIT,…",
        "permute:0:2,0,1",
        lambda p, net: sf.Permute(int(p[0]), [int(unit) for unit in p[1].split(",")]),
    ),
    "rescale": Form(
        "LAYER:UNIT:β", "rescale:0:1:2", lambda p, net: sf.Rescale(int(p[0]), int(p[1]), p[2])
    ),
    "reflect": Form("LAYER:UNIT", "reflect:0:1", lambda p, net: sf.Reflect(int(p[0]), int(p[1]))),
}


def parse_step(text: str, net: sf.MLP) -> sf.Embedding:
    """One embedding as it is typed, for the network it is applied to.

    Raises:
        InputError: for an unknown name, or parts that do not fit, with the form and an example.

    >>> parse_step("replicate:0:2:0.3,rest", sf.MLP([2, 3, 1]))
    Replicate(layer=0, unit=2, weights=[0.3, 0.7])
    """
    name, *parts = text.split(":")
    if name not in FORMS:
        raise unknown_name("embedding", name, FORMS)
    form = FORMS[name]
    most = 0 if not form.parts else form.parts.count(":") + 1
    least = most - form.parts.count("[")
    try:
        if not least <= len(parts) <= most or "" in parts:
            raise ValueError
        return form.make(parts, net)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{text!r:.80} is not of the form {form.shown(name)}, as in {form.example}"
        ) from None


def forms() -> str:
    """All forms, for the help text."""
    return ", ".join(form.shown(name) for name, form in FORMS.items())
