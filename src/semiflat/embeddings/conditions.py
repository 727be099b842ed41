"""What an embedding keeps only on a condition, and how the condition is checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from semiflat.errors import InputError
from semiflat.problem import Located
from semiflat.records.shown import Shown


class PointLike(Located, Protocol):
    """What the conditions of an embedding are checked on.

    >>> import semiflat as sf
    >>> class Snapshot:
    ...     def __init__(self, problem, params):
    ...         self.problem, self.params, self.note = problem, params, ""
    ...         self.gradient_norm = sf.Point(problem, params).gradient_norm
    ...     def widened_by(self, embedding):
    ...         wide = embedding(sf.Point(self.problem, self.params))
    ...         return Snapshot(wide.problem, wide.params)
    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> taken = Snapshot(problem, sf.find_critical_point(problem, starts=4).params)
    >>> sf.NullUnits(0, [0.5]).keeps_critical(taken).holds
    True
    """

    @property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞``."""

    def widened_by(self, embedding: Any) -> PointLike:
        """The embedded point."""


def check_point_like(point: Any, what: str) -> None:
    """Raise :class:`InputError` for what cannot be embedded as one point can."""
    if not hasattr(point, "widened_by"):
        raise InputError(f"{what} one point, such as a Point, not at a {type(point).__name__}")


@dataclass(frozen=True)
class Checked(Shown):
    """Whether a condition holds at a point: ``residual`` against ``limit``.

    Attributes:
        holds: the answer.
        residual: what should be 0 (or below it).
        limit: how large it may be.
        text: the condition.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5], weight_decay=0.01)
    >>> point = sf.find_critical_point(problem, starts=4)
    >>> checked = sf.Replicate(0, 0, ["1/2", "1/2"]).keeps_critical(point)
    >>> checked.text, checked.holds, checked.residual > checked.limit
    ("the wide point's gradient is 0", False, True)
    """

    holds: bool
    residual: float
    limit: float
    text: str


@dataclass(frozen=True)
class Condition(Shown):
    """A property that an embedding has at some points and data only.

    Attributes:
        text: the condition, as the papers write it.

    >>> import semiflat as sf
    >>> condition = sf.InactivePropagation(0, [[1.0, 0.0]]).preserves_criticality
    >>> condition.text
    'Σ_ν δ_{l+1,ν} σ(u_j·x̃_ν) = 0 for every added unit'
    >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> fit = sf.find_critical_point(problem, starts=8)       # every sample exactly
    >>> condition.check(fit).holds
    True
    """

    text: str
    measure: Callable[[PointLike], tuple[float, float]]

    def check(self, point: PointLike) -> Checked:
        """Whether it holds at a narrow point, on the data of its problem.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0]], [0.0, 1.0])
        >>> point = sf.Point(problem, problem.net.random_params(0))
        >>> sf.InactivePropagation(0, [[1.0, 0.0]]).preserves_criticality.check(point).holds
        False
        """
        check_point_like(point, "a condition is checked at")
        residual, limit = self.measure(point)
        return Checked(residual <= limit, residual, limit, self.text)

    def __bool__(self) -> bool:
        raise TypeError(
            f"this holds on a condition ({self.text}); ask condition.check(point).holds"
        )
