"""Losses in [0, 1], chosen in the open: PAC-Bayes bounds say nothing of any other."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.problem import Problem
from semiflat.records.shown import Shown

CONSTANTS = 64
"""Targets that a constant output is tried at."""
SHIFTS = 20
"""Times it is moved to the mean of the targets near it."""


class BoundedLoss(Shown, ABC):
    """A loss in [0, 1] of a problem's outputs and targets.

    >>> import torch
    >>> import semiflat as sf
    >>> class Far(sf.BoundedLoss):                     # 1 where an output is off by more than 1
    ...     def value(self, problem, outputs, samples=slice(None)):
    ...         off = (outputs - problem.targets(samples)).abs().amax(-1)
    ...         return (~(off <= 1)).double()          # so that what is not a number counts, too
    ...     def check(self, problem):
    ...         pass
    ...     def trivial(self, problem):
    ...         return 1.0, "any network"
    >>> x = torch.linspace(-1, 1, 200).double()[:, None]
    >>> problem = sf.Problem(sf.MLP([1, 1]), x, 3 * x)
    >>> bound = sf.pac_bayes_bound(sf.find_critical_point(problem, starts=1), Far(), draws=200)
    >>> bound.point_risk, bound.vacuous
    (0.0, False)
    """

    @abstractmethod
    def value(self, problem: Problem, outputs: Tensor, samples: slice = slice(None)) -> Tensor:
        """The loss of some samples for outputs (*batch, n, M), shape ``(*batch, n)``.

        Outputs that are not finite cost 1.
        """

    @abstractmethod
    def check(self, problem: Problem) -> None:
        """Raise :class:`InputError` unless the loss fits the problem's own loss and targets."""

    @abstractmethod
    def trivial(self, problem: Problem) -> tuple[float, str]:
        """What is attained without learning from the inputs, and how: no bound above it says much."""


@dataclass(frozen=True)
class ZeroOne(BoundedLoss):
    """1 for a wrong class, 0 for the right one; a tie is wrong.

    ``"cross_entropy"``: the largest output must be the class's. ``"logistic"`` and hinge losses: every
    output must lie on its target's side of 0. Losses of numbers, such as ``"squared"``: one output must have
    the sign of a target −1 or 1; of several, the largest must be that of the one-hot target.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0, 1], loss="logistic")
    >>> ZeroOne().value(problem, torch.tensor([[-2.0], [-0.1]]))
    tensor([0., 1.], dtype=torch.float64)
    """

    def value(self, problem: Problem, outputs: Tensor, samples: slice = slice(None)) -> Tensor:
        """0.0 or 1.0 for each sample, ``(*batch, n)``; 1.0 where outputs are not finite."""
        labels = problem.loss.labels(problem.targets(samples), problem.net.outputs)
        assert labels is not None, "checked before"
        if labels.is_floating_point():
            right = (labels * outputs > 0).all(-1)
        else:
            chosen = torch.nn.functional.one_hot(labels, outputs.shape[-1]).bool()
            others = outputs.masked_fill(chosen, -torch.inf).amax(-1)
            own = outputs.gather(-1, labels.expand(outputs.shape[:-1])[..., None])[..., 0]
            right = own > others
        return (~(right & outputs.isfinite().all(-1))).double()

    def check(self, problem: Problem) -> None:
        """Raise :class:`InputError` unless the targets are classes."""
        if _labels(problem) is not None:
            return
        if problem.loss.classifies:
            raise InputError(
                "ZeroOne needs classes, and y holds probabilities between 0 and 1; use Clipped(at)"
            )
        raise InputError(
            f"ZeroOne needs classes, and loss {problem.loss.name!r} has targets that are none (a single −1 or "
            "1, or one-hot rows); use Clipped(at) with an at chosen before the data were seen"
        )

    def trivial(self, problem: Problem) -> tuple[float, str]:
        """The error of the most frequent class, or of guessing if that is less."""
        labels = _labels(problem)
        assert labels is not None, "checked before"
        counts = torch.unique(labels, dim=0, return_counts=True)[1]
        frequent = 1 - float(counts.max()) / problem.samples
        outputs = problem.net.outputs
        classes = 2**outputs if labels.is_floating_point() else outputs
        if frequent < 1 - 1 / classes:
            return frequent, "always saying the most frequent class, on these data"
        return 1 - 1 / classes, "guessing"

    def __str__(self) -> str:
        return "zero-one loss"


@dataclass(frozen=True)
class Clipped(BoundedLoss):
    """``min(ℓ, at) / at`` of the problem's own loss ℓ, weight decay left out.

    A bound on it times ``at`` bounds the mean of the clipped loss, not that of ℓ.

    Args:
        at: where ℓ is cut, above 0, in ℓ's own units. Chosen before the data were seen: a bound for
            an ``at`` that was tuned on them is none. A callable's ℓ below 0 counts as 0.

    Raises:
        InputError: if ``at`` is no finite number above 0.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0]], [0.0, 0.0])
    >>> Clipped(at=2.0).value(problem, torch.tensor([[1.0], [3.0]]).double())
    tensor([0.2500, 1.0000], dtype=torch.float64)
    """

    at: float

    def __post_init__(self) -> None:
        number = isinstance(self.at, int | float) and not isinstance(self.at, bool)
        if not number or not 0 < self.at < math.inf:
            raise InputError(
                f"Clipped is given at={self.at!r}; expected a finite number above 0, in units of the loss"
            )

    def value(self, problem: Problem, outputs: Tensor, samples: slice = slice(None)) -> Tensor:
        """``min(ℓ, at) / at`` for each sample, ``(*batch, n)``; 1.0 where ℓ is not a number."""
        found = problem.loss.value(outputs, problem.targets(samples)).double() / self.at
        # A loss that is not a number is as bad as can be, too.
        return found.nan_to_num(nan=1.0).clamp(0.0, 1.0)

    def check(self, problem: Problem) -> None:
        """Any loss can be clipped."""

    def trivial(self, problem: Problem) -> tuple[float, str]:
        """The lowest of 1, the zero-one loss of guessing, and that of the best constant output found."""
        found = [(1.0, "any network")]
        if problem.loss.classifies and _labels(problem) is not None:
            # Said with all confidence, a class costs 0 or 1.
            found.append(ZeroOne().trivial(problem))
        constants = _constants(problem)
        best = _real(problem)
        for _ in range(1 if best is None else SHIFTS):
            outputs = constants[:, None].expand(-1, problem.samples, -1)
            losses = self.value(problem, outputs)
            fitted = float(losses.mean(1).min())
            found.append((fitted, "the constant output that fits best, on these data"))
            if best is not None:
                # To the mean of the targets that are not cut off: downhill for the squared loss.
                near = (losses < 1).double()
                some = near.sum(1, keepdim=True).clamp(min=1)
                constants = torch.where(near.any(1)[:, None], near @ best / some, constants)
        return min(found, key=lambda each: each[0])

    def __str__(self) -> str:
        return f"loss clipped at {self.at:g}"


def _labels(problem: Problem) -> Tensor | None:
    return problem.loss.labels(problem.y, problem.net.outputs)


def _real(problem: Problem) -> Tensor | None:
    """The targets, if they are outputs that a network may have, (N, M)."""
    fit = tuple(problem.y.shape) == (problem.samples, problem.net.outputs)
    return problem.y.double() if fit and not problem.loss.odds else None


def _constants(problem: Problem) -> Tensor:
    """Constant outputs (K, M) to compare with: the best where a formula has it, else some targets."""
    known = problem.loss.best_constants(problem.y, problem.net.outputs)
    if known is not None:
        return known
    y = _real(problem)
    if y is None:
        return torch.zeros((1, problem.net.outputs), dtype=torch.float64)
    chosen = torch.linspace(0, len(y) - 1, min(len(y), CONSTANTS)).long()
    return torch.cat([y.mean(0, keepdim=True), y[y[:, 0].argsort()][chosen]])


def bounded_loss(problem: Problem, given: BoundedLoss | None) -> BoundedLoss:
    """The loss that is bounded: the given one if it fits; zero-one for classes if none is given.

    Raises:
        InputError: if none is given and the problem has no classes, or if it does not fit.
    """
    if given is None:
        if not problem.loss.classifies:
            raise InputError(
                f"a PAC-Bayes bound needs a loss between 0 and 1, and loss {problem.loss.name!r} has no "
                "upper end; give loss=Clipped(at) with an at chosen before the data were seen"
            )
        given = ZeroOne()
    if not isinstance(given, BoundedLoss):
        raise InputError(f"loss must be ZeroOne() or Clipped(at), not {given!r}")
    given.check(problem)
    return given
