"""Exact widenings: maps from a network's parameters to a wider one's that keep its function."""

from __future__ import annotations

from typing import Any

from semiflat.embeddings.base import Composition, Embedding
from semiflat.embeddings.compatible import Compatible
from semiflat.embeddings.conditions import Condition
from semiflat.embeddings.constant_units import ConstantUnits
from semiflat.embeddings.everywhere import GlobalNull, GlobalSplit
from semiflat.embeddings.inactive import InactiveUnits
from semiflat.embeddings.null_units import NullUnits
from semiflat.embeddings.propagation import InactivePropagation
from semiflat.embeddings.replicate import Replicate
from semiflat.embeddings.scaled import ScaledReplicate
from semiflat.embeddings.split import Split
from semiflat.embeddings.symmetry import Permute, Reflect, Rescale
from semiflat.errors import InputError, unknown_name

__all__ = [
    "Compatible",
    "Composition",
    "Condition",
    "ConstantUnits",
    "Embedding",
    "GlobalNull",
    "GlobalSplit",
    "InactivePropagation",
    "InactiveUnits",
    "NullUnits",
    "Permute",
    "Reflect",
    "Replicate",
    "Rescale",
    "ScaledReplicate",
    "Split",
    "embedding_from_json",
]

_STEPS = {
    step.__name__: step.from_json
    for step in (
        Replicate,
        ScaledReplicate,
        Split,
        InactiveUnits,
        InactivePropagation,
        ConstantUnits,
        NullUnits,
        Compatible,
        GlobalSplit,
        GlobalNull,
        Permute,
        Rescale,
        Reflect,
    )
}


def embedding_from_json(entries: list[dict[str, Any]]) -> Embedding:
    """The embedding that :meth:`Embedding.to_json` wrote down.

    >>> first = Replicate(0, 0, [0.5, 0.5]) >> NullUnits(0, [1])
    >>> embedding_from_json(first.to_json()) == first
    True
    """
    steps: list[Embedding] = []
    for entry in entries:
        if not isinstance(entry, dict):
            raise InputError(f"an embedding is a list of steps, each a dict; one is {entry!r}")
        if entry.get("type") not in _STEPS:
            raise unknown_name("embedding", str(entry.get("type")), _STEPS)
        try:
            steps.append(_STEPS[entry["type"]](entry))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"the entry of a {entry['type']} is damaged ({type(error).__name__}: {error}); write it "
                "with to_json()"
            ) from None
    return steps[0] if len(steps) == 1 else Composition(steps)
