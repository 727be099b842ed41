"""What a study is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from semiflat.activations import activation
from semiflat.decay import WeightDecay
from semiflat.errors import InputError
from semiflat.problem import Problem

LONG = 10_000_000
"""Samples times the square of the parameters, from which a study takes fewer starts and points by default."""


BALLS = 100_000_000
"""Samples times outputs times the square of the parameters, over all points, for which distinctness is proved:
some ten seconds, since that proves each point again without floating point."""


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        hidden: widths of the hidden layers of the narrow network.
        activation: name of its activation.
        starts: random starts of the search; None for 64, or 24 where a step takes long (:data:`LONG`).
        wider: largest number of units to add.
        points: how many critical points, lowest loss first, are embedded; None for 8, or 4 where a step takes
            long.
        seed: of the random starts.
        max_iterations: steps of one run of the search; None for 500, or 150 where the network has
            more than 100 parameters and a step costs that much more; with weight decay, where no run is lost
            at infinity, for 600.
        escape_iterations: steps of one run from a strict saddle.
        null_bias: bias of the null units.
        effective_tolerance: how much an output may change, relative to the outputs' spread, where the
            effective width of a trained wide network is told.
        proofs: whether to prove what kinds of points they are, in ball arithmetic.
        weight_decay: λ of the penalty ½ λ ‖θ‖², or a λ for each group; 0 for none; None for none, and
            :data:`semiflat.study.classes.DECAY` where classes are seen to be separable.
    """

    hidden: tuple[int, ...] = (3,)
    activation: str = "gelu"
    starts: int | None = None
    wider: int = 3
    points: int | None = None
    seed: int = 0
    max_iterations: int | None = None
    escape_iterations: int = 300
    null_bias: float = 0.5
    effective_tolerance: float = 0.01
    proofs: bool = True
    weight_decay: float | dict[str, float] | None = None

    def __post_init__(self) -> None:
        activation(self.activation)
        if self.weight_decay is not None:
            WeightDecay.of(self.weight_decay)
        if not self.hidden:
            raise InputError("a study needs at least one hidden layer, as in --hidden 3")
        for name in ("starts", "wider", "points", "max_iterations", "escape_iterations"):
            value = getattr(self, name)
            if value is None and name not in ("wider", "escape_iterations"):
                continue
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")

    def resolved(self, problem: Problem) -> Resolved:
        """What is left open, settled for a problem."""
        parameters = problem.net.parameter_count
        long = problem.samples * parameters**2 > LONG
        iterations = 500 if parameters <= 100 else 150
        if problem.decay:
            iterations = 600
        return Resolved(
            starts=self.starts or (24 if long else 64),
            points=self.points or (4 if long else 8),
            max_iterations=self.max_iterations or iterations,
            descents=6 if long else 24,
            proved=8 if long else None,
            told_apart=BALLS // (problem.samples * problem.net.outputs * parameters**2),
        )


@dataclass(frozen=True)
class Resolved:
    """The settings that depend on the problem.

    Attributes:
        starts, points, max_iterations: see :class:`Settings`.
        descents: with weight decay, from how many wide points that are not critical descent is followed.
        proved: how many narrow points are proved, with what is embedded from them; None for all.
        told_apart: how many of them are proved to be distinct.
    """

    starts: int
    points: int
    max_iterations: int
    descents: int
    proved: int | None
    told_apart: int
