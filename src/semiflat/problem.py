"""A problem: a network, data and a loss, checked once so that nothing downstream has to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from semiflat.activations import Cross
from semiflat.errors import InputError
from semiflat.foreign import check_dtype, plain
from semiflat.losses import Loss, PerSample, loss_named
from semiflat.networks import MLP, Params


class Problem:
    """The risk ``R(θ) = mean_ν ℓ(f(x_ν; θ), y_ν) + ½ weight_decay ‖θ‖²`` of a network on data (theory §1).

    Weight decay is off unless it is asked for. With it everything that is said of the risk, its
    derivatives and its critical points is said of the sum; the papers' embeddings still keep the
    outputs, but neither the penalty nor criticality (docs/verdicts.md).

    Args:
        net: the architecture.
        X: inputs, shape (N, d); arrays, lists and tensors of any real dtype.
        y: targets: (N,) or (N, M) numbers, or (N,) classes for ``"cross_entropy"``.
        loss: ``"squared"`` (½‖f−y‖²), ``"cross_entropy"``, ``"logistic"``, or a function of one
            sample's output (M,) and target that gives a number.
        dtype: the precision of every computation; float64 unless you know why not.
        weight_decay: λ ≥ 0 of the penalty ½ λ ‖θ‖² on all parameters, biases included, as the
            ``weight_decay`` of torch's optimisers has it: its gradient is λθ.

    Raises:
        InputError: for shapes that do not fit, values that are not finite (with row and column),
            targets the loss cannot use, a loss or activation that gives two results for one
            input, and a weight decay that is no finite number from 0 up.

    >>> net = MLP([2, 3, 1])
    >>> problem = Problem(net, [[0.0, 1.0], [1.0, 0.0]], [1.0, -1.0])
    >>> float(problem.risk(net.random_params(seed=0))) > 0
    True
    """

    def __init__(
        self,
        net: MLP,
        X: Any,
        y: Any,
        loss: str | Loss | Callable[[Tensor, Tensor], Tensor] = "squared",
        dtype: torch.dtype = torch.float64,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(net, MLP):
            raise InputError(
                f"net must be an MLP, not {type(net).__name__}; for an nn.Sequential use "
                "MLP.from_module"
            )
        check_dtype(dtype)
        self.net = net
        self.dtype = dtype
        self.weight_decay = checked_weight_decay(weight_decay)
        self.loss = loss_named(loss)
        self.X = finite("X", X, dtype)
        if self.X.ndim != 2 or self.X.shape[1] != net.inputs or self.X.shape[0] == 0:
            raise InputError(
                f"X has shape {tuple(self.X.shape)}; a network with {net.inputs} input(s) needs "
                f"(N, {net.inputs}) with at least one sample"
            )
        targets = finite("y", y, dtype)
        if isinstance(self.loss, PerSample) and not _is_real(y):
            targets = targets.to(torch.int64)  # a user's loss may index with its classes
        if targets.ndim == 0 or targets.shape[0] != len(self.X):
            raise InputError(
                f"y has {len(targets) if targets.ndim else 'no'} rows, but X has {len(self.X)} "
                "samples; give one target a sample"
            )
        self.y = self.loss.targets(targets, len(self.X), net.outputs)
        self._probe_determinism()

    def with_net(self, net: MLP) -> Problem:
        """The same data, loss and weight decay for another network with the same input and output."""
        if not isinstance(net, MLP):
            raise InputError(f"net must be an MLP, not {type(net).__name__}")
        if (net.inputs, net.outputs) != (self.net.inputs, self.net.outputs):
            raise InputError(
                f"a network with {net.inputs} input(s) and {net.outputs} output(s) does not fit "
                f"data for {self.net.inputs} and {self.net.outputs}"
            )
        other = object.__new__(Problem)
        other.__dict__ = self.__dict__ | {"net": net}
        return other

    def with_weight_decay(self, weight_decay: float) -> Problem:
        """The same network, data and loss with another weight decay.

        >>> problem = Problem(MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0], weight_decay=0.1)
        >>> problem.with_weight_decay(0)
        Problem(widths=[1, 1], activation=[], loss='squared', samples=2)
        """
        other = object.__new__(type(self))
        other.__dict__ = self.__dict__ | {"weight_decay": checked_weight_decay(weight_decay)}
        return other

    @property
    def samples(self) -> int:
        """Number of samples N."""
        return self.X.shape[-2]

    def check_double(self, what: str) -> None:
        """Raise :class:`InputError`, naming what needs it, unless the problem computes in float64."""
        if self.dtype != torch.float64:
            raise InputError(
                f"the problem computes in {self.dtype}, and {what} needs float64; make the Problem with "
                "dtype=torch.float64"
            )

    def targets(self, samples: slice) -> Tensor:
        """The targets of some samples."""
        return self.y[samples]

    def respond(
        self, layer: int, z: Tensor, samples: slice
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """What a hidden layer makes of its pre-activations on some samples, see :meth:`MLP.respond`."""
        return self.net.respond(layer, z)

    def rows(self, chosen: slice | Tensor) -> Problem:
        """The problem of some runs of a batch: the same one, where all runs share the data."""
        return self

    @cached_property
    def target_size(self) -> float:
        """Largest number that a squared loss has to fit, at least 1: what parameters scale with."""
        return max(1.0, float(self.y.abs().max())) if self.loss.name == "squared" else 1.0

    def risk(self, params: Params) -> Tensor:
        """``R(θ)`` straight from the definition, shape ``(*batch,)``; differentiable."""
        mean = self.loss.value(self.net.forward(params, self.X), self.y).mean(-1)
        return mean + self.penalty(params) if self.weight_decay else mean

    def penalty(self, params: Params) -> Tensor:
        """``½ weight_decay ‖θ‖²``, shape ``(*batch,)``; differentiable. Its Hessian is weight_decay·I."""
        return self.weight_decay / 2 * self.net.flatten(params).square().sum(-1)

    @property
    def no_critical_point_below(self) -> float:
        """A risk below which no finite parameters are critical; −∞ where none is known.

        Without weight decay it is the loss's, which rests on scaling the last layer up. A penalty
        keeps that from going on for ever: then every risk may be that of a critical point.
        """
        return -math.inf if self.weight_decay else self._no_critical_point_below()

    def _no_critical_point_below(self) -> float:
        return self.loss.no_critical_point_below(self.y)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of shapes and float64 values of X and y."""
        digest = hashlib.sha256()
        for tensor in (self.X, self.y):
            array = np.ascontiguousarray(tensor.to(torch.float64).numpy(), dtype="<f8")
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        return (
            f"Problem(widths={list(self.net.widths)}, "
            f"activation={[a.name for a in self.net.activations]}, loss={self.loss.name!r}, "
            f"samples={self.samples}"
            + (f", weight_decay={self.weight_decay!r})" if self.weight_decay else ")")
        )

    def _probe_determinism(self) -> None:
        # A random loss or activation would make every derivative below meaningless.
        params = self.net.random_params(seed=0, dtype=self.dtype)
        first, second = self.risk(params), self.risk(params)
        if not torch.equal(first, second) and bool(torch.isfinite(first)):
            raise InputError(
                f"the risk of one network came out as {float(first)!r} and then {float(second)!r}; "
                "loss and activation must give the same result for the same input"
            )


class ProblemBatch(Problem):
    """Problems with one network and loss, each with its own data: ``X`` is (B, N, d), ``y`` (B, N, M).

    What computes derivatives for a batch of networks takes it where it takes a :class:`Problem`:
    network b is then evaluated on data set b.

    Raises:
        InputError: if the problems differ in network, loss, weight decay, dtype or shape of the data.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        first = problems[0]
        for k, other in enumerate(problems):
            for what, one, two in (
                ("network", first.net, other.net),
                ("loss", first.loss, other.loss),
                ("weight decay", first.weight_decay, other.weight_decay),
                ("dtype", first.dtype, other.dtype),
                ("shape of X", tuple(first.X.shape), tuple(other.X.shape)),
                ("shape of y", tuple(first.y.shape), tuple(other.y.shape)),
            ):
                if one != two:
                    raise InputError(
                        f"problems searched together must agree in {what}: problem 0 has {one}, "
                        f"problem {k} has {two}; search them apart"
                    )
        self.net, self.loss, self.dtype = first.net, first.loss, first.dtype
        self.weight_decay = first.weight_decay
        self.X = torch.stack([problem.X for problem in problems])
        self.y = torch.stack([problem.y for problem in problems])

    def targets(self, samples: slice) -> Tensor:
        """The targets of some samples, on every data set."""
        return self.y[:, samples]

    def _no_critical_point_below(self) -> float:
        # Of each data set by itself, whose samples the loss counts; what lies below all lies below its own.
        return min(self.loss.no_critical_point_below(y) for y in self.y)

    def rows(self, chosen: slice | Tensor) -> ProblemBatch:
        """The problem of some runs of the batch."""
        some = object.__new__(ProblemBatch)
        some.__dict__ = self.__dict__ | {"X": self.X[chosen], "y": self.y[chosen]}
        return some


def checked_weight_decay(given: Any) -> float:
    """``given`` as a float, or :class:`InputError`."""
    number = isinstance(given, int | float | np.number) and not isinstance(given, bool)
    if not number or not math.isfinite(given) or given < 0:
        raise InputError(
            f"weight_decay must be a finite number from 0 up, the λ of the penalty ½ λ ‖θ‖² such as "
            f"1e-4; given is {given!r}"
        )
    return float(given)


def _is_real(given: Any) -> bool:
    return torch.as_tensor(given).is_floating_point()


def finite(name: str, given: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """``given`` as a tensor of its own, of real numbers that are all finite.

    Raises:
        InputError: if it is none.
    """
    if isinstance(given, Tensor):
        tensor = plain(name, given)
    else:
        try:
            tensor = plain(name, torch.as_tensor(np.asarray(given)))
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} is not an array of numbers: {error}") from error
    tensor = tensor.detach().to("cpu", dtype, copy=True)
    wrong = ~torch.isfinite(tensor)
    if wrong.any():
        where = wrong.nonzero()[0].tolist()
        value = tensor[tuple(where)].item()
        place = f"row {where[0]}" if where else "its only place"
        place += f", column {where[1]}" if len(where) > 1 else ""
        raise InputError(
            f"{name} holds {value} at {place} (counted from 0), one of "
            f"{int(wrong.sum())} values that are not finite; remove or impute them"
        )
    return tensor
