"""What a study is asked to do."""

from __future__ import annotations

from dataclasses import dataclass

from semiflat.activations import activation
from semiflat.decay import WeightDecay
from semiflat.errors import InputError


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Attributes:
        hidden: widths of the hidden layers of the narrow network.
        activation: name of its activation.
        starts: random starts of the search.
        wider: largest number of units to add.
        points: how many critical points, lowest loss first, are embedded.
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
    starts: int = 64
    wider: int = 3
    points: int = 8
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
            if name == "max_iterations" and value is None:
                continue
            if not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")

    def iterations(self, parameters: int, decayed: bool = False) -> int:
        """Steps of one run of the search for a network of that many parameters."""
        if self.max_iterations is not None:
            return self.max_iterations
        if decayed:
            return 600
        return 500 if parameters <= 100 else 150

    def descents(self, parameters: int) -> int:
        """From how many wide points that are not critical, with weight decay, descent is followed."""
        return 48 if parameters <= 100 else 12
