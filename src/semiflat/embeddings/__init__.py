"""Exact widenings: maps from a network's parameters to a wider one's that keep its function."""

from __future__ import annotations

from typing import Any

from semiflat.embeddings.base import KINDS, Composition, Embedding
from semiflat.embeddings.compatible import Compatible
from semiflat.embeddings.conditions import Condition
from semiflat.embeddings.constant_units import ConstantUnits
from semiflat.embeddings.everywhere import GlobalNull, GlobalSplit
from semiflat.embeddings.inactive import InactiveUnits
from semiflat.embeddings.null_gates import NullGates
from semiflat.embeddings.null_units import NullUnits
from semiflat.embeddings.propagation import InactivePropagation
from semiflat.embeddings.replicate import Replicate
from semiflat.embeddings.scaled import ScaledReplicate
from semiflat.embeddings.split import Split
from semiflat.embeddings.symmetry import Mix, Permute, Reflect, Rescale
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
    "Mix",
    "NullGates",
    "NullUnits",
    "Permute",
    "Reflect",
    "Replicate",
    "Rescale",
    "ScaledReplicate",
    "Split",
    "embedding_from_json",
]


def embedding_from_json(entries: list[dict[str, Any]]) -> Embedding:
    """The embedding that :meth:`Embedding.to_json` wrote down.

    No code is imported: a class of your own is known if it is defined in the running process.

    Raises:
        InputError: for an unknown type, or an entry from which none can be made.

    >>> first = Replicate(0, 0, [0.5, 0.5]) >> NullUnits(0, [1])
    >>> embedding_from_json(first.to_json()) == first
    True
    """
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InputError(f"an embedding is a list of steps, each a dict, not {entries!r:.60}")
    steps = [_step(entry) for entry in entries]
    return steps[0] if len(steps) == 1 else Composition(steps)


def _step(entry: dict[str, Any]) -> Embedding:
    name = entry.get("type")
    known = KINDS.keys() - {Composition.__name__}
    if not isinstance(name, str) or name not in known:
        raise InputError(
            f"{unknown_name('embedding', f'{name!s:.60}', known)}; a class of your own is known once it is "
            "defined"
        )
    try:
        return KINDS[name].from_json(entry)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise InputError(
            f"the entry of a {name} is damaged ({type(error).__name__}: {error}); write it with to_json()"
        ) from None
