"""What a loss is, and what may be known of one: the rest of the library asks here, and never by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.records.shown import Shown

LossDerivatives = tuple[Tensor, Tensor, Tensor]
"""ℓ, ∂ℓ/∂f and ∂²ℓ/∂f², of shapes ``(*batch, N)``, ``(*batch, N, M)`` and ``(*batch, N, M, M)``."""


class Margins(NamedTuple):
    """What a loss of classes falls along for ever: terms that vanish as their margins grow.

    Attributes:
        sizes: the margin of each term for outputs (N, M, …), shaped like them.
        counted: (N, M), which entries are such terms.
        ties: (c, …), combinations of outputs that must stay as they are while margins grow.

    >>> import torch
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 1.0], loss="logistic")
    >>> outputs = torch.tensor([[-3.0], [2.0], [-1.0]], dtype=torch.float64)
    >>> margins = problem.loss.margins(outputs, problem.y)
    >>> margins.sizes.flatten().tolist(), len(margins.ties)     # the last sample is on the wrong side
    ([3.0, 2.0, -1.0], 0)
    """

    sizes: Tensor
    counted: Tensor
    ties: Tensor


KINDS: dict[str, type[Loss]] = {}
"""The classes that are known by their names, as they were defined."""


def _of_the_library(kind: type | None) -> bool:
    return kind is not None and kind.__module__.startswith("semiflat.")


class Loss(Shown, ABC):
    """A loss of one sample, applied to outputs ``(*batch, N, M)`` and N targets.

    A subclass has a name and three methods. What more it states is used where it helps: nothing is asked
    of a loss by its name. Once defined it is known by its name, if it can be made without arguments.

    Attributes:
        name: its name, as ``Problem(loss=name)`` and files have it.
        convex: whether ℓ is convex in f.
        lower_bound: a value that ℓ never goes below, or None if none is known.
        shift_invariant: whether adding one number to all outputs leaves ℓ as it is.
        quadratic: whether ℓ is ``½‖f − y‖²``, for which projections and P21's theorems are exact.
        odds: whether outputs are logarithms of odds, so that 1 is what they are measured in.
        classifies: whether targets are classes by their nature, and not numbers that may happen to be.
        attains: whether a mean of such losses attains its infimum over every linear space of outputs.
        codes: what the two classes of a single output are, for a loss that has an output for two classes.
        smooth: whether ∂²ℓ/∂f² is continuous; where it jumps, :meth:`inside_flat` changes its sign.
        compiled: what the compiled engine calls it, said by each class for itself alone: a subclass may
            compute something else.

    >>> class PseudoHuber(Loss):
    ...     name = "pseudo_huber"
    ...     def targets(self, y, samples, outputs):
    ...         return real_targets(self.name, y, samples, outputs)
    ...     def value(self, f, y):
    ...         return ((1 + (f - y).square()).sqrt() - 1).sum(-1)
    ...     def derivatives(self, f, y):
    ...         root = (1 + (f - y).square()).sqrt()
    ...         return self.value(f, y), (f - y) / root, torch.diag_embed(root**-3)
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0], "pseudo_huber")
    >>> problem.loss
    Loss(pseudo_huber)
    """

    name: str
    convex: bool = True
    lower_bound: float | None = 0.0
    shift_invariant: bool = False
    quadratic: bool = False
    odds: bool = False
    classifies: bool = False
    attains: bool = False
    codes: tuple[float, float] | None = None
    smooth: bool = True
    compiled: str | None = None

    # -- what every loss has ----------------------------------------------------------------------

    @abstractmethod
    def targets(self, y: Tensor, samples: int, outputs: int) -> Tensor:
        """``y`` in the shape and dtype the loss wants, or :class:`InputError`."""

    @abstractmethod
    def value(self, f: Tensor, y: Tensor) -> Tensor:
        """ℓ for each sample, shape ``(*batch, N)``."""

    @abstractmethod
    def derivatives(self, f: Tensor, y: Tensor) -> LossDerivatives:
        """ℓ and its first and second derivative in f."""

    def first(self, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """ℓ and its first derivative alone, where the second would cost more."""
        value, first, _ = self.derivatives(f, y)
        return value, first

    def as_rows(self, y: Tensor, outputs: int) -> Tensor:
        """The targets as real numbers, one for each output, (*batch, N, M), for the compiled engine."""
        return y

    def in_words(self, outputs: int, standardised: bool) -> str:
        """What the loss is, and what it can be held against, for people: a sentence.

        Args:
            outputs: M.
            standardised: whether targets are numbers in units of their standard deviations.
        """
        return f"The loss is {self.name}, averaged over the samples."

    # -- its lowest value -------------------------------------------------------------------------

    def best_outputs(self, y: Tensor, outputs: int) -> Tensor | None:
        """Finite outputs at which every sample's loss is lowest, (*batch, N, M); None if none is known.

        Targets that are outputs themselves, if the loss is convex and level there.
        """
        if not self.convex or not y.is_floating_point() or y.shape[-1:] != (outputs,) or y.ndim < 2:
            return None
        return y if not bool(self.first(y, y)[1].any()) else None

    def target_spread(self, y: Tensor, outputs: int) -> Tensor | None:
        """What each output is measured in, (*batch, M), if that is the targets' units, else None."""
        best = None if self.odds else self.best_outputs(y, outputs)
        if best is None:
            return None
        spread, size = best.std(-2, correction=0), best.abs().amax(-2)
        # Targets that are all the same have the size they have, and those that are 0 none: then 1 is as good.
        spread = torch.where(spread > 1e-9 * size, spread, size)
        return torch.where(spread > 0, spread, torch.ones_like(spread))

    def value_noise(self, y: Tensor, outputs: int) -> float:
        """What rounding does to ℓ near the best outputs, measured; 0 where these are not known.

        ``√(1 + r²) − 1`` is right to 1e-16 at r = 1e-9, where it is 5e-19: no decrease of it can be seen.
        """
        best = self.best_outputs(y, outputs)
        if best is None:
            return 0.0
        value, _, second = self.derivatives(best, y)
        noise = 0.0
        for part in (1e-10, 1e-9, 1e-8):
            there = best + part * best.abs().clamp(min=1.0)
            move = there - best
            expected = value + (move * (second @ move[..., None])[..., 0]).sum(-1) / 2
            noise = max(noise, float((self.value(there, y) - expected).abs().max()))
        return noise

    def separated_below(self, y: Tensor) -> float | None:
        """A sample's loss below which it is on the right side of its decision; None without classes.

        Where all samples are, scaling the last layer up lowers the loss, and nothing is critical.
        """
        return None

    def inside_flat(self, f: Tensor, y: Tensor) -> Tensor | None:
        """How deep each output lies where ℓ does not change with it, (N, M): below 0 where it does.

        None if there are no such outputs.
        """
        return None

    # -- classes ----------------------------------------------------------------------------------

    def labels(self, y: Tensor, outputs: int) -> Tensor | None:
        """The targets as classes: (N,) classes 0..M−1, or (N, M) of −1 and 1; None if they are none.

        Numbers are classes if they are one output of −1 and 1 each, or one-hot rows.
        """
        if self.best_outputs(y, outputs) is None:
            return None
        if outputs == 1:
            return y if bool((y.abs() == 1).all()) else None
        one_hot = ((y == 0) | (y == 1)).all(-1) & (y.sum(-1) == 1)
        return y.argmax(-1) if bool(one_hot.all()) else None

    def best_constants(self, y: Tensor, outputs: int) -> Tensor | None:
        """Constant outputs (K, M) among which the best is, where a formula has it; else None."""
        return None

    def margins(self, f: Tensor, y: Tensor) -> Margins | None:
        """The terms that vanish in the limit as outputs ``f`` (N, M, …) grow; None where there are none."""
        return None

    def in_the_limit(self, f: Tensor, y: Tensor, vanishing: Tensor) -> Tensor:
        """Outputs with the ``vanishing`` terms (N, M) where they end: they then count nothing at all."""
        return f

    def dual(self, slope: Tensor, y: Tensor, vanishing: Tensor) -> Tensor | None:
        """``−ℓ*(slope)``, the infimum over f of ``ℓ(f) − ⟨slope, f⟩`` for each sample, (N,).

        Vanishing terms left out. −∞ where ``slope`` (N, M) is no slope of ℓ; None if the conjugate ℓ* is
        not known.
        """
        return None

    # -- proofs -----------------------------------------------------------------------------------

    def variation(
        self, bend: np.ndarray, move: np.ndarray, share: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """How much a sample's part of ∂R/∂f and ∂²R/∂f² may change where outputs move by ``move`` at most.

        Args:
            bend: bounds of |∂²R/∂f²| at the centre, (M, M, n).
            move: (M, n).
            share: what each sample's loss counts with in R, (n,).

        Returns:
            Bounds (M, n) and (M, M, n), in exact arithmetic; the caller rounds up. None if nothing is known.
        """
        return None

    @property
    def known(self) -> bool:
        """Whether its name stands for it: in files, and for the checker of certificates."""
        from semiflat.losses.known import known_loss

        return known_loss(self.name) == self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        name = cls.__dict__.get("name")
        own = cls.__module__.startswith("semiflat.")
        # The newest counts, as when a notebook's cell is run again; but no name of the library's changes.
        if isinstance(name, str) and (own or not _of_the_library(KINDS.get(name))):
            KINDS[name] = cls

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other) or vars(self).keys() != vars(other).keys():
            return self is other
        pairs = [(value, vars(other)[key]) for key, value in vars(self).items()]
        return all(
            torch.equal(a, b) if isinstance(a, Tensor) and isinstance(b, Tensor) else a == b
            for a, b in pairs
        )

    def __hash__(self) -> int:
        return hash((type(self), self.name))

    def __reduce_ex__(self, protocol: Any) -> Any:
        # By name where it is the library's, so that a copy from another process is the same object.
        from semiflat.losses.known import loss_named

        if _of_the_library(type(self)) and self.known:
            return loss_named, (self.name,)
        return super().__reduce_ex__(protocol)

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name}

    def __repr__(self) -> str:
        return f"Loss({self.name})"


def real_targets(name: str, y: Tensor, samples: int, outputs: int) -> Tensor:
    """Targets that are a number an output, (N, M); a single output's may come as (N,).

    Raises:
        InputError: if ``y`` has another shape.
    """
    if y.ndim == 1 and outputs == 1:
        y = y[:, None]
    if tuple(y.shape) != (samples, outputs):
        raise InputError(
            f"y has shape {tuple(y.shape)}; loss {name!r} with {samples} samples and {outputs} "
            f"output(s) needs ({samples}, {outputs})"
            + (f" or ({samples},)" if outputs == 1 else "")
            + ("; for classes say loss='cross_entropy'" if _classes(y, outputs) else "")
        )
    return y


def _classes(y: Tensor, outputs: int) -> bool:
    """Whether targets look like the classes 0..M−1 of a network with M outputs, one a sample."""
    whole = bool(((y == y.round()) & (y >= 0) & (y < outputs)).all())
    return whole and outputs > 1 and y.numel() == len(y)


def separable_variation(
    third: float, bend: np.ndarray, move: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """:meth:`Loss.variation` of a sum over outputs whose third derivative is at most ``third`` in size."""
    own = range(len(move))
    bent = bend * 0.0
    bent[own, own] = third * share * move
    return bend[own, own] * move + third / 2 * share * move * move, bent


LossFunction = Callable[[Tensor, Tensor], Tensor]
"""A user's loss of one sample's output and target."""
