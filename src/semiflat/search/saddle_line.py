"""The line of replicated units that a channel to infinity runs beside."""

from __future__ import annotations

from dataclasses import dataclass

from semiflat.embeddings import Replicate
from semiflat.errors import InputError
from semiflat.limits import Form, Limit, LimitMLP, LimitProblem
from semiflat.points import EmbeddedPoint
from semiflat.records.shown import Shown
from semiflat.search.driver import Options, Phase, drive
from semiflat.search.methods import LevenbergMarquardt, TrustRegion
from semiflat.search.record import CriticalPoint
from semiflat.unit_surgery import chosen

PHASES = [
    Phase(TrustRegion(), 40),
    Phase(LevenbergMarquardt(), 400, until=1e-6),
    Phase(TrustRegion(), 100),
]


@dataclass(frozen=True)
class SaddleLine(Shown):
    """A unit replicated once, with shares λ and 1 − λ: one function along the line, λ → ±∞ its ends.

    A channel has Γ beside the unit, the line has not (Martinelli et al. 2025).

    Attributes:
        layer, unit: the unit that is replicated, counted in the narrow network.
        narrow: the critical point of the network with the merging pair as one unit that is reached
            from there. It is a finite point if no other units run off, and else a limit itself.
        height: ``R(line) − R(channel)``.

    >>> import torch
    >>> import semiflat as sf
    >>> X = torch.linspace(-2, 2, 12, dtype=torch.float64)[:, None]
    >>> gated = torch.tanh(X) + 0.5 * X / torch.cosh(X) ** 2       # what two merging tanh units tend to
    >>> problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, gated + 0.1 * torch.cos(3 * X))
    >>> found = sf.run_search(problem, starts=16)
    >>> runs = [run for run in found.runs if run.status == sf.Status.CHANNEL]
    >>> line = sf.saddle_lines(runs[0])[0]
    >>> line.height > 0, abs(line.at(0.3).loss - line.loss) < 1e-9
    (True, True)
    """

    layer: int
    unit: int
    narrow: Limit
    height: float

    @property
    def loss(self) -> float:
        """The risk all along the line."""
        return self.narrow.loss

    @property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞`` of the narrow network: how near to critical the line is."""
        return self.narrow.gradient_norm

    def at(self, share: float, scale: float = 1e3) -> EmbeddedPoint:
        """The point of the line where one copy has the share λ.

        Args:
            scale: how near to their limits other units are, where others run off too.
        """
        narrow = self.narrow.approach(scale)
        return Replicate(self.layer, self.unit, [share, 1 - share])(narrow)


def saddle_lines(run: CriticalPoint) -> list[SaddleLine]:
    """For each pair of units that merge in a run to infinity, the line it runs beside.

    Raises:
        InputError: if the run has no limit.

    >>> import semiflat as sf
    >>> from semiflat.search.record import LimitRecord, SearchRecord
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[-1.0], [0.5], [1.0]], [0.0, 1.0, 0.0])
    >>> run = sf.CriticalPoint(
    ...     problem, problem.net.random_params(0), SearchRecord(0, 0, 1, sf.Status.STALLED, "")
    ... )
    >>> saddle_lines(run)
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: the run ended STALLED and has no limit; ...
    """
    if not isinstance(run, CriticalPoint):
        raise InputError(f"saddle_lines takes a run of run_search, not a {type(run).__name__}")
    limit = run.limit
    if limit is None or not run.status.at_infinity:
        what = "has no limit" if limit is None else "its limit is no critical point"
        raise InputError(
            f"the run ended {run.status} and {what}; saddle lines are of runs that end CHANNEL"
        )
    return [
        _beside(limit, layer, unit)
        for layer, row in enumerate(limit.net.forms)
        for unit, form in enumerate(row)
        if form is Form.GATE
    ]


def _beside(limit: Limit, layer: int, gate: int) -> SaddleLine:
    """The line of the unit that the gate belongs to: the network without the gate, its base as it is."""
    forms = [list(row) for row in limit.net.forms]
    kept = [unit for unit in range(len(forms[layer])) if unit != gate]
    forms[layer] = [forms[layer][unit] for unit in kept]
    problem = limit.problem.with_net(limit.problem.net.with_hidden([len(row) for row in forms]))
    net = LimitMLP(problem.net, forms)
    offsets = list(limit.offsets)
    offsets[layer] = offsets[layer][kept]
    start, far = (chosen(limit.net, each, layer, kept) for each in (limit.params, limit.far))
    batch = LimitProblem([problem], [net], [offset[None] for offset in offsets])
    options = Options(tolerance=1e-12, max_iterations=2000, largest=1e9)
    runs, _ = drive(batch, net.flatten(start)[None], options, PHASES)
    narrow = Limit(problem, net, net.unflatten(runs.theta[0]), far)
    return SaddleLine(layer, limit.net.base(layer, gate), narrow, narrow.loss - limit.loss)
