"""What every embedding can do, and how embeddings compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from semiflat.embeddings.unit_map import UnitMap
from semiflat.errors import InputError
from semiflat.networks import MLP, Params

Wide = TypeVar("Wide", covariant=True)


class Widenable(Protocol[Wide]):
    """A point that an embedding can be applied to."""

    def widened_by(self, embedding: Embedding) -> Wide:
        """The embedded point."""


class Embedding(ABC):
    """A map from the parameters of a network to those of a wider one that keeps its function.

    Apply it to a point (``embedding(point)``), compose it (``first >> then``), or use it on bare
    parameters (:meth:`apply`). Layers and units of a later step are those of the network the
    earlier steps have made; copies and null units stand at the end of their layer, so the numbers
    of the other units stay as they were.
    """

    @property
    @abstractmethod
    def steps(self) -> tuple[Embedding, ...]:
        """The one-step embeddings it is composed of, in order."""

    @abstractmethod
    def extend(self, net: MLP, unit_map: UnitMap) -> UnitMap:
        """``unit_map``, whose wide network is ``net``, followed by this embedding.

        Raises:
            InputError: if the embedding does not fit ``net``.
        """

    @abstractmethod
    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data, read back by :func:`semiflat.embeddings.embedding_from_json`."""

    @property
    @abstractmethod
    def preserves_criticality(self) -> bool:
        """Whether it maps every critical point to a critical point."""

    def unit_map(self, net: MLP) -> UnitMap:
        """What it makes of the units of ``net``."""
        return self.extend(net, UnitMap.identity(net))

    def widen(self, net: MLP) -> MLP:
        """The wide architecture."""
        return net.with_hidden(self.unit_map(net).hidden)

    def apply(self, net: MLP, params: Params) -> Params:
        """The wide parameters for those of ``net``, with any leading batch axes."""
        net.check_params(params)
        return self.unit_map(net).parameters(net, params)

    def __call__(self, point: Widenable[Wide]) -> Wide:
        if not hasattr(point, "widened_by"):
            raise InputError(
                f"an embedding takes a Point, not {type(point).__name__}; make one with "
                "Point(problem, params), or use apply(net, params) on bare parameters"
            )
        return point.widened_by(self)

    def __rshift__(self, then: Embedding) -> Embedding:
        if not isinstance(then, Embedding):
            return NotImplemented
        return Composition([*self.steps, *then.steps])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Embedding) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(str(self.to_json()))


class Composition(Embedding):
    """Embeddings one after the other (Z22 Def. 4.6). Made by ``first >> then``."""

    def __init__(self, steps: Sequence[Embedding]) -> None:
        self._steps = tuple(steps)

    @property
    def steps(self) -> tuple[Embedding, ...]:
        return self._steps

    def extend(self, net: MLP, unit_map: UnitMap) -> UnitMap:
        for step in self._steps:
            unit_map = step.extend(net.with_hidden(unit_map.hidden), unit_map)
        return unit_map

    @property
    def preserves_criticality(self) -> bool:
        return all(step.preserves_criticality for step in self._steps)

    def to_json(self) -> list[dict[str, Any]]:
        return [entry for step in self._steps for entry in step.to_json()]

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self._steps))
