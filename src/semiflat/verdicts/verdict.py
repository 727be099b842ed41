"""What a judgement says: its kinds, its evidence and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Any, NamedTuple

from semiflat.certificates.certificate import Certificate
from semiflat.networks import Params
from semiflat.records.shown import Rows, Shown
from semiflat.records.study import Margin as Margin
from semiflat.symmetries.families import FlatFamily


class Kind(StrEnum):
    """What kind of point it is; the value is what files say, ``label`` what people read.

    >>> [kind.label for kind in Kind]
    ['strict minimum', 'minimum', 'strict saddle', 'not critical', 'undecided']
    """

    STRICT_MINIMUM = "STRICT_MINIMUM"
    MINIMUM = "MINIMUM"
    STRICT_SADDLE = "STRICT_SADDLE"
    NOT_CRITICAL = "NOT_CRITICAL"
    UNDECIDED = "UNDECIDED"

    @property
    def label(self) -> str:
        """``"strict minimum"`` for ``STRICT_MINIMUM``."""
        return self.value.lower().replace("_", " ")


MINIMA = (Kind.MINIMUM, Kind.STRICT_MINIMUM)


class Certainty(StrEnum):
    """How a verdict is known: by theorem or ball arithmetic, or by floating point with a margin.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[-1.0], [0.0], [1.0]], [0.0, 0.5, 0.2])
    >>> point = sf.find_critical_point(problem, starts=1)
    >>> sf.judge(point).certainty, sf.judge(point, proof=True).certainty
    (<Certainty.MEASURED: 'MEASURED'>, <Certainty.PROVED: 'PROVED'>)
    """

    PROVED = "PROVED"
    MEASURED = "MEASURED"


class _Signs(NamedTuple):
    positive: int
    zero: int
    negative: int


class Inertia(_Signs):
    """Numbers of positive, zero and negative eigenvalues of the Hessian: a triple.

    A zero is one of two things, and beside the triple stands how many are which. At a kink there is no
    Hessian, and the triple is (0, 0, 0).

    Attributes:
        zeros_explained: zeros along flat directions that are known, or proved; None where they were
            not looked for.
        zeros_within_noise: zeros that are only too small to tell from rounding, or from what the
            distance to the exact critical point may change; None where they were not looked for.

    >>> inertia = Inertia(3, 2, 0, zeros_explained=1)
    >>> tuple(inertia), inertia.zeros_within_noise
    ((3, 2, 0), 1)
    """

    zeros_explained: int | None

    def __new__(
        cls, positive: int, zero: int, negative: int, zeros_explained: int | None = None
    ) -> Inertia:
        self = super().__new__(cls, positive, zero, negative)
        self.zeros_explained = zeros_explained
        return self

    @property
    def zeros_within_noise(self) -> int | None:
        """Zeros that no flat direction explains; None where flat directions were not looked for."""
        return None if self.zeros_explained is None else self.zero - self.zeros_explained

    def __getnewargs__(self) -> tuple[int, int, int, int | None]:
        return *self, self.zeros_explained

    def __str__(self) -> str:
        if not sum(self):
            return "none: the loss has no Hessian here"
        words = f"{self.positive} positive, {self.zero} zero, {self.negative} negative"
        if not self.zeros_within_noise:
            return words
        return (
            f"{words} (of the zeros {self.zeros_explained} are flat directions, {self.zeros_within_noise} only "
            "within noise)"
        )


NO_HESSIAN = Inertia(0, 0, 0, zeros_explained=0)
"""What there is to count at a kink."""


@dataclass(frozen=True)
class FlatDirections(Rows):
    """Why a point is flat.

    Attributes:
        families: directions along which the loss is constant on the data, each with its dimension
            and reason; they may overlap.
        dimension: dimension of all of them together, overlaps counted once.
        zeros_explained: how many zero eigenvalues' directions lie in the families.
        zeros_unexplained: how many do not.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> flat = sf.judge(sf.Replicate(0, 0, ["1/3", "1/3", "1/3"])(point)).flat_directions
    >>> flat.dimension, flat.zeros_explained, flat.zeros_unexplained
    (2, 2, 0)
    >>> [family.name for family in flat]
    ['replicated unit']
    """

    families: tuple[FlatFamily, ...]
    dimension: int
    zeros_explained: int
    zeros_unexplained: int

    def __iter__(self) -> Iterator[FlatFamily]:
        """The families."""
        return iter(self.families)

    def __len__(self) -> int:
        """How many families there are."""
        return len(self.families)

    def __getitem__(self, place: int) -> FlatFamily:
        """One of the families."""
        return self.families[place]

    def _facts(self) -> dict[str, Any]:
        return {
            "dimension": self.dimension,
            "families": len(self.families),
            "zeros_explained": self.zeros_explained,
            "zeros_unexplained": self.zeros_unexplained,
        }

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"name": each.name, "dimension": each.dimension, "reason": each.reason} for each in self
        ]

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.families)


@dataclass(frozen=True, kw_only=True)
class Verdict(Shown):
    """What kind of point it is, how sure that is, and why.

    Attributes:
        kind: the answer.
        certainty: how it is known.
        inertia: signs of the Hessian's eigenvalues at the point, critical or not, and how many of the
            zeros are explained; (0, 0, 0) at a kink, where there is no Hessian; None where it was too
            large to build. Where a critical point is near, an eigenvalue that the distance to it may
            account for counts as zero; where none is, only below 1e-10 of the largest.
        flat_directions: the flat families; None where they were not looked for (too large).
        curvature: second derivative of the risk along ``descent_direction``, or None.
        margin: the deciding eigenvalue and its noise floor, parameters in natural units
            (docs/verdicts.md), or None if none decided. At an undecided point it is the one that is
            too near to zero to tell.
        reason: one sentence.
        method: ``"dense Hessian"``, ``"inertia law"`` (also over a core with added units),
            ``"irreversibility"`` or ``"Lanczos"``.
        gradient_norm: ``‖∇R‖∞``, NaN if it was not measured (an embedded point's: its source's, but with
            weight decay its own).
        tolerance: what the gradient's entry may be that criticality was decided on: the one that is
            largest beside what it would be if its terms did not cancel.
        at_least: for a point whose added units are no copies, the numbers of eigenvalues that it has
            at least, from the narrow Hessian alone (``AᵀH A`` is narrow: Z22 Thm 6.2), or from a proof
            that gives no more; else None.
        certificate: the proof, or what it failed on; None where none was asked for.
        descent: the proof that the loss falls along ``descent_direction``, where the kind is not proved.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> verdict = sf.judge(sf.Replicate(0, 0, ["1/4", "3/4"])(point))
    >>> verdict.kind.label, tuple(verdict.inertia), verdict.certainty, verdict.method
    ('strict saddle', (5, 1, 1), <Certainty.MEASURED: 'MEASURED'>, 'inertia law')
    >>> [family.reason for family in verdict.flat_directions.families]
    ['the copies of unit 0 of hidden layer 0 may share out its outgoing weights in any way']
    >>> verdict.curvature < 0, verdict.margin.ratio > 1000
    (True, True)
    """

    kind: Kind
    certainty: Certainty
    reason: str
    inertia: Inertia | None = None
    flat_directions: FlatDirections | None = None
    curvature: float | None = None
    margin: Margin | None = None
    method: str = ""
    gradient_norm: float = math.nan
    tolerance: float = math.nan
    build_direction: Callable[[], Params] | None = None
    at_least: Inertia | None = None
    certificate: Certificate | None = None
    descent: Certificate | None = None

    def _facts(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "certainty": self.certainty,
            "inertia": None if self.inertia is None else tuple(self.inertia),
            "curvature": self.curvature,
            "margin": None if self.margin is None else self.margin.ratio,
            "flat_dimension": None
            if self.flat_directions is None
            else self.flat_directions.dimension,
            "method": self.method,
            "gradient_norm": self.gradient_norm,
            "reason": self.reason,
        }

    @cached_property
    def descent_direction(self) -> Params | None:
        """A params-shaped direction of unit length along which the loss falls, or None.

        At a strict saddle it has negative curvature and the loss falls both ways; at a point that is
        not critical it is the negative gradient.
        """
        return None if self.build_direction is None else self.build_direction()

    def __getstate__(self) -> dict[str, Any]:
        # How to build the direction is small; the direction itself is as large as the network.
        return {key: value for key, value in vars(self).items() if key != "descent_direction"}

    def __bool__(self) -> bool:
        raise TypeError(
            "a Verdict is neither true nor false; compare its kind, as in "
            "verdict.kind is Kind.STRICT_MINIMUM"
        )

    def __str__(self) -> str:
        return f"{self.kind.label} ({self.certainty.lower()}): {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Everything but the direction's entries, as plain data."""
        flat = self.flat_directions
        return {
            "kind": str(self.kind),
            "certainty": str(self.certainty),
            "inertia": None if self.inertia is None else list(self.inertia),
            "zeros_within_noise": None if self.inertia is None else self.inertia.zeros_within_noise,
            "at_least": None if self.at_least is None else list(self.at_least),
            "reason": self.reason,
            "method": self.method,
            "gradient_norm": self.gradient_norm,
            "tolerance": self.tolerance,
            "curvature": self.curvature,
            "margin": None if self.margin is None else dict(vars(self.margin)),
            "flat_directions": None
            if flat is None
            else {
                "families": [
                    {"name": f.name, "dimension": f.dimension, "reason": f.reason}
                    for f in flat.families
                ],
                "dimension": flat.dimension,
                "zeros_explained": flat.zeros_explained,
                "zeros_unexplained": flat.zeros_unexplained,
            },
        }
