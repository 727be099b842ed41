"""What every embedding can do, and how embeddings compose."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar, overload

import torch
from torch import Tensor

from semiflat.embeddings.affine import AffineMap
from semiflat.embeddings.conditions import Checked, Condition, PointLike, check_point_like
from semiflat.embeddings.unit_map import UnitMap
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError
from semiflat.networks import MLP, Params
from semiflat.records.shown import Shown

Wide = TypeVar("Wide", covariant=True)


class Widenable(Protocol[Wide]):
    """A point that an embedding can be applied to.

    >>> import semiflat as sf
    >>> class Pair:
    ...     def __init__(self, *points):
    ...         self.points = points
    ...     def widened_by(self, embedding):
    ...         return Pair(*(embedding(point) for point in self.points))
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> both = Pair(*(sf.Point(problem, problem.net.random_params(seed)) for seed in (0, 1)))
    >>> [point.problem.net.widths for point in sf.Replicate(0, 0, [0.5, 0.5])(both).points]
    [(1, 3, 1), (1, 3, 1)]
    """

    def widened_by(self, embedding: Embedding) -> Wide:
        """The embedded point."""


KINDS: dict[str, type[Embedding]] = {}
"""Every class of embeddings that is defined, by its name."""


def _of_the_library(kind: type[Embedding]) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


class Embedding(Shown, ABC):
    """A map from the parameters of a network to those of a wider one that keeps its function.

    It is affine, ``θ_wide = A θ + c``. Apply it to a point (``embedding(point)``), compose it
    (``first >> then``), or use it on bare parameters (:meth:`apply`). Layers and units of a later
    step are those of the network the earlier steps have made; copies and added units stand at the
    end of their layer, so the numbers of the other units stay as they were.

    What it says of criticality and of flat directions is said of the data's part of the risk. With
    weight decay outputs are kept as ever, but the penalty ½λ‖θ‖² and its gradient are not:
    :meth:`keeps_critical` asks the wide network itself.

    Attributes:
        net: the narrow network, where the embedding is of one network only; else None.

    >>> import semiflat as sf
    >>> embedding = sf.Replicate(0, 1, ["1/4", "3/4"]) >> sf.NullUnits(0, [0.5])
    >>> net = sf.MLP([1, 2, 1])
    >>> embedding.widen(net).widths, embedding.matrix(net).A.shape
    ((1, 4, 1), (13, 7))
    >>> embedding.preserves_output, embedding.preserves_criticality
    (True, True)
    >>> embedding.dimension(net), embedding.degrees_of_freedom(net)
    (2, 2)
    """

    net: MLP | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        known = KINDS.get(cls.__name__)
        if known is not None and _of_the_library(known) and not _of_the_library(cls):
            raise InputError(
                f"semiflat has an embedding {cls.__name__!r} already, and files know embeddings by the names "
                "of their classes; give the class another name"
            )
        KINDS[cls.__name__] = cls

    def _facts(self) -> dict[str, Any]:
        own = (
            type(self).__repr__ is not Shown.__repr__
        )  # code that makes it, of those that have some
        return {"embedding": repr(self)} if own else super()._facts()

    @property
    def steps(self) -> tuple[Embedding, ...]:
        """The embeddings it is composed of, in order."""
        return (self,)

    @abstractmethod
    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by this embedding.

        Raises:
            InputError: if the embedding does not fit the wide network so far.
        """

    @abstractmethod
    def to_json(self) -> list[dict[str, Any]]:
        """The steps as plain data, read back by :func:`semiflat.embeddings.embedding_from_json`.

        Each is a dict with the name of its class as ``"type"``, and what :meth:`from_json` takes.
        """

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Embedding:
        """The inverse of :meth:`to_json`, for one step: by default the entries are what the class takes."""
        return cls(**{key: value for key, value in entry.items() if key != "type"})

    @property
    def preserves_output(self) -> bool | Condition:
        """Whether the wide network computes the same function, or on what condition on the data."""
        return True

    @property
    def preserves_criticality(self) -> bool | Condition:
        """Whether critical points go to critical points, or on what condition on point and data.

        ``True`` is a theorem on risks without weight decay; see :meth:`keeps_critical`.
        """
        return True

    def keeps_critical(self, point: PointLike) -> Checked:
        """Whether this point, taken to be critical, stays so: by the wide point's gradient.

        It is the answer with weight decay, where no embedding keeps all critical points: a copy with
        share λ of a unit with incoming weights u gets the gradient (1 − λ) · weight_decay · u.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
        >>> half = sf.Replicate(0, 0, ["1/2", "1/2"])
        >>> half.keeps_critical(sf.find_critical_point(problem, starts=4)).holds
        True
        >>> decayed = sf.find_critical_point(problem.with_weight_decay(0.01), starts=4)
        >>> half.preserves_criticality, half.keeps_critical(decayed).holds
        (True, False)
        """
        return self.critical_where("the wide point's gradient is 0").check(point)

    def dimension(self, net: MLP | None = None) -> int:
        """Dimension of the set of wide points of its kind over one narrow point (F19 Table 1).

        The set on which the function is kept, such as all outgoing weights of the copies with the
        sum they have, (copies − 1)·M. Those of a composition's steps add up; where two steps move the
        same thing, as when a copy is scaled twice, :meth:`flat_directions` has a smaller rank.
        """
        return sum(self._over_steps(net, lambda step, at: step.own_dimension(at)))

    def degrees_of_freedom(self, net: MLP | None = None) -> int:
        """Free parameters of its kind of embedding, critical points going to critical points.

        Such as the shares of a replication, copies − 1 (Z22 §6.1: K for K-step compositions).
        """
        return sum(self._over_steps(net, lambda step, at: step.own_freedom(at)))

    def own_dimension(self, net: MLP) -> int:
        """:meth:`dimension` of a single step, on the network it is applied to."""
        return 0

    def own_freedom(self, net: MLP) -> int:
        """:meth:`degrees_of_freedom` of a single step, on the network it is applied to."""
        return 0

    def own_directions(self, point: PointLike) -> Tensor:
        """:meth:`flat_directions` of a single step at the point it is applied to, (k, P_wide)."""
        wide = self.on(point.problem.net).wide
        return torch.zeros((0, wide.parameter_count), dtype=torch.float64)

    def flat_directions(self, point: PointLike) -> Tensor:
        """Tangents at the embedded point of the set that :meth:`dimension` counts, (k, P_wide).

        Along them the wide network's outputs on the data do not change to first order; along those
        of an affine set, such as free outgoing weights, not at all.
        """
        check_point_like(point, "flat directions are those at")
        found = [torch.zeros((0, point.problem.net.parameter_count), dtype=torch.float64)]
        for step in self.steps:
            net = point.problem.net
            found = [step.lift(vectors, net) for vectors in found]
            found.append(step.own_directions(point))
            point = point.widened_by(step)
        return torch.cat(found)

    def unit_map(self, net: MLP) -> UnitMap:
        """The wide network's units as copies of the core's (theory §2)."""
        return self.on(net).units

    def on(self, net: MLP | None = None) -> Widening:
        """The embedding applied to one network: matrix, lift and restrict without asking again."""
        return self.extend(Widening.identity(self._narrow(net)))

    def widen(self, net: MLP) -> MLP:
        """The wide architecture."""
        return self.on(net).wide

    def apply(self, net: MLP, params: Params) -> Params:
        """The wide parameters ``Aθ + c`` for those of ``net``, with any leading batch axes."""
        net.check_params(params)
        return self.on(net).parameters(params)

    def matrix(self, net: MLP | None = None) -> AffineMap:
        """``A`` (sparse) and ``c`` of the affine map.

        Args:
            net: the narrow network; not needed where the embedding knows it.
        """
        return self.on(net).matrix()

    @overload
    def lift(self, vector: Tensor, net: MLP | None = None) -> Tensor: ...
    @overload
    def lift(self, vector: Params, net: MLP | None = None) -> Params: ...
    def lift(self, vector: Tensor | Params, net: MLP | None = None) -> Tensor | Params:
        """``A v``: a narrow direction as a wide one; see :meth:`Widening.lift`."""
        return self.on(net).lift(vector)

    @overload
    def restrict(self, vector: Tensor, net: MLP | None = None) -> Tensor: ...
    @overload
    def restrict(self, vector: Params, net: MLP | None = None) -> Params: ...
    def restrict(self, vector: Tensor | Params, net: MLP | None = None) -> Tensor | Params:
        """``Aᵀ g``: a wide covector as a narrow one; see :meth:`Widening.restrict`."""
        return self.on(net).restrict(vector)

    def verify(self, point: PointLike) -> None:
        """Raise :class:`InputError` unless the function is kept at this point on its data."""
        condition = self.preserves_output
        if isinstance(condition, Condition) and not condition.check(point).holds:
            raise InputError(f"{self!r} would change the function on these data: {condition.text}")

    def critical_where(self, text: str) -> Condition:
        """The condition that the embedded point is critical, told by its gradient."""
        return Condition(text, self._wide_gradient)

    def _wide_gradient(self, point: PointLike) -> tuple[float, float]:
        narrow = float(point.gradient_norm)
        wide = float(point.widened_by(self).gradient_norm)
        # A weight decay's own gradient has to be told from 0.
        largest = max(float(tensor.abs().max()) for tensor in point.params.values())
        decay = point.problem.decay.largest
        small = min(1e-10, 1e-3 * decay * largest) if decay else 1e-10
        # A critical point's own gradient is not 0 but rounding, which the added weights may scale.
        return wide, max(small, 100 * narrow) if narrow <= 1e-8 else small

    def _narrow(self, net: MLP | None) -> MLP:
        if net is not None and not isinstance(net, MLP):
            raise InputError(f"net must be the narrow network, an MLP, not {type(net).__name__}")
        known = net if net is not None else self.net
        if known is None:
            raise InputError(
                f"{type(self).__name__} fits any network that has its layer and unit; say which one, "
                "as in matrix(net), lift(vector, net) or restrict(vector, net)"
            )
        if self.net is not None and net is not None and net != self.net:
            raise InputError(
                f"{type(self).__name__} was made for widths {list(self.net.widths)}, not for "
                f"{list(net.widths)}"
            )
        return known

    def _over_steps(self, net: MLP | None, ask: Callable[[Embedding, MLP], int]) -> list[int]:
        at = Widening.identity(self._narrow(net))
        found = []
        for step in self.steps:
            found.append(ask(step, at.wide))
            at = step.extend(at)
        return found

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
    """Embeddings one after the other (Z22 Def. 4.6). Made by ``first >> then``; of none: identity.

    >>> import semiflat as sf
    >>> sf.Replicate(0, 0, [0.5, 0.5]) >> sf.NullUnits(0, [0.4])
    Replicate(layer=0, unit=0, weights=[0.5, 0.5]) >> NullUnits(layer=0, biases=[0.4])
    >>> both = sf.Composition([sf.NullUnits(0, [0.4]), sf.Permute(0, [1, 0])])
    >>> both.widen(sf.MLP([1, 1, 1])).widths, len(both.steps)
    ((1, 2, 1), 2)
    """

    def __init__(self, steps: Sequence[Embedding]) -> None:
        if not isinstance(steps, list | tuple) or not all(isinstance(s, Embedding) for s in steps):
            raise InputError(
                f"a composition is made of a list of embeddings, not of {steps!r:.200}"
            )
        self._steps = tuple(step for each in steps for step in each.steps)
        self.net = self._steps[0].net if self._steps else None

    @property
    def steps(self) -> tuple[Embedding, ...]:
        """The steps in order, those of compositions within it one by one."""
        return self._steps

    def extend(self, widening: Widening) -> Widening:
        """``widening`` followed by each step in turn."""
        for step in self._steps:
            widening = step.extend(widening)
        return widening

    @property
    def preserves_output(self) -> bool | Condition:
        """``True`` if every step keeps the outputs; else the steps' conditions, all of them together."""
        return self._together([step.preserves_output for step in self._steps])

    @property
    def preserves_criticality(self) -> bool | Condition:
        """``True`` if every step keeps critical points critical; else the steps' conditions together."""
        found = self._together([step.preserves_criticality for step in self._steps])
        if not isinstance(found, Condition):
            return found
        return Condition(found.text, partial(self._criticality, found))

    def _criticality(self, without_decay: Condition, point: PointLike) -> tuple[float, float]:
        # With weight decay steps that are always critical without it are so no longer.
        if not point.problem.outputs_alone:
            return self._wide_gradient(point)
        return without_decay.measure(point)

    def _together(self, answers: list[bool | Condition]) -> bool | Condition:
        conditions = [answer for answer in answers if isinstance(answer, Condition)]
        if False in [answer for answer in answers if isinstance(answer, bool)]:
            return False
        if not conditions:
            return True
        texts = dict.fromkeys(condition.text for condition in conditions)
        return Condition(", and ".join(texts), partial(self._worst, answers))

    def _worst(self, answers: list[bool | Condition], point: PointLike) -> tuple[float, float]:
        worst = (0.0, 0.0)
        for step, answer in zip(self._steps, answers, strict=True):
            if isinstance(answer, Condition):
                found = answer.measure(point)
                if found[0] - found[1] > worst[0] - worst[1] or worst == (0.0, 0.0):
                    worst = found
            point = point.widened_by(step)
        return worst

    def verify(self, point: PointLike) -> None:
        """Raise :class:`InputError` unless each step keeps the outputs at the point it is applied to."""
        for step in self._steps:
            if step.preserves_output is not True:
                step.verify(point)
            point = point.widened_by(step)

    def to_json(self) -> list[dict[str, Any]]:
        """The entries of all steps, in order."""
        return [entry for step in self._steps for entry in step.to_json()]

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self._steps)) or "Composition([])"
