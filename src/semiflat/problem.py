"""A problem: a network, data and a loss, checked once so that nothing downstream has to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from semiflat.activations import Activation, Cross
from semiflat.data import Dataset, Preparation
from semiflat.decay import WeightDecay
from semiflat.errors import InputError
from semiflat.foreign import check_dtype, plain
from semiflat.losses import Loss, LossFunction, PerSample, loss_named
from semiflat.losses.check import checked_targets
from semiflat.networks import MLP, Params
from semiflat.records.shown import Shown
from semiflat.tables import frame_as_inputs, is_frame

FIT = 1e-20
"""What outputs of size 1 may lose to the best ones, and be these but for the last digits."""

PARTS = "net", "dtype", "decay", "loss", "X", "y", "sample_weight", "preparation"
"""What a problem is made of; all else follows."""


class Problem(Shown):
    """The risk ``R(θ) = mean_ν ℓ(f(x_ν; θ), y_ν) + ½ weight_decay ‖θ‖²`` of a network on data (theory §1).

    Weight decay is off unless it is asked for. With it everything that is said of the risk, its
    derivatives and its critical points is said of the sum; the papers' embeddings still keep the
    outputs, but neither the penalty nor criticality (docs/verdicts.md).

    With sample weights w the mean is ``Σ_ν w_ν ℓ_ν / Σ_ν w_ν``: a weight of 2 is the row twice, and rows
    of weight 0 are left out, of ``X`` and ``y``, too.

    Args:
        net: the architecture.
        X: inputs, shape (N, d); arrays, lists, tensors of any real dtype, and data frames of numbers. Or a
            :class:`Dataset`, with its targets, loss and sample weights; then leave out ``y``.
        y: targets: (N,) or (N, M) numbers; for ``"cross_entropy"`` (N,) classes or (N, M) probabilities.
        loss: ``"squared"`` (½‖f−y‖²; if none is given and X is no data set), ``"cross_entropy"``,
            ``"logistic"``, ``"log_cosh"``, ``"hinge2"``, ``"hinge3"``, a :class:`Loss`, or a function of one
            sample's output (M,) and target that gives a number.
        dtype: the precision of every computation; float64 unless you know why not.
        weight_decay: λ ≥ 0 of the penalty ½ λ ‖θ‖² on all parameters, biases included, as the
            ``weight_decay`` of torch's optimisers has it: its gradient is λθ. Or a λ for each group, as
            ``{"weight": 1e-3, "bias": 0}``, whose names may be those of single tensors (``"2.bias"``), too.
        sample_weight: what each sample counts with, (N,) numbers from 0 up; alike if none are given.
        preparation: what was done to the rows of a table that X is made of, for :meth:`Point.predict`; a
            data set's and a data frame's own if none is given.

    Raises:
        InputError: for shapes that do not fit, values that are not finite (with row and column),
            targets the loss cannot use, a loss or activation that gives two results for one
            input, a loss of your own whose derivatives are not those of its values, a weight decay
            that is no finite number from 0 up, weights that are below 0 or all 0.

    >>> net = MLP([2, 3, 1])
    >>> problem = Problem(net, [[0.0, 1.0], [1.0, 0.0]], [1.0, -1.0])
    >>> float(problem.risk(net.random_params(seed=0))) > 0
    True
    """

    def __init__(
        self,
        net: MLP,
        X: Any,
        y: Any = None,
        loss: str | Loss | LossFunction | None = None,
        dtype: torch.dtype = torch.float64,
        weight_decay: float | Mapping[str, float] | WeightDecay = 0.0,
        sample_weight: Any = None,
        preparation: Preparation | None = None,
    ) -> None:
        if not isinstance(net, MLP):
            raise InputError(
                f"net must be an MLP, not {type(net).__name__}; for an nn.Sequential use "
                "MLP.from_module"
            )
        check_dtype(dtype)
        if isinstance(X, Dataset):
            if y is not None:
                raise InputError("a Dataset has its targets; give Problem(net, data) without y")
            loss = X.loss if loss is None else loss
            sample_weight = X.sample_weight if sample_weight is None else sample_weight
            preparation, X, y = preparation or X.preparation, X.X, X.y
        elif y is None:
            raise InputError(
                "y is missing; give Problem(net, X, y), or Problem(net, data) with a Dataset"
            )
        elif is_frame(X):
            X, names = frame_as_inputs(X)
            preparation = preparation or Preparation(columns=names)
        self.preparation = preparation
        self.net = net
        self.dtype = dtype
        self.decay = WeightDecay.of(weight_decay)
        self.decay.check(net)
        self.loss = loss_named("squared" if loss is None else loss)
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
        self.sample_weight = None
        if sample_weight is not None:
            weights = _checked_weights(sample_weight, len(self.X))
            counted = weights > 0
            self.X, targets, weights = self.X[counted], targets[counted], weights[counted]
            if bool((weights != weights[0]).any()):
                self.sample_weight = weights
        self.y = checked_targets(self.loss, targets, len(self.X), net.outputs)
        self._probe_determinism()

    def _with(self, **changes: Any) -> Any:
        """A problem like this one, but for some of its parts; what follows from them is computed again."""
        other = object.__new__(type(self))
        other.__dict__ = {name: self.__dict__[name] for name in PARTS} | changes
        return other

    def with_net(self, net: MLP) -> Problem:
        """The same data, loss and weight decay for another network with the same input and output."""
        if not isinstance(net, MLP):
            raise InputError(f"net must be an MLP, not {type(net).__name__}")
        if (net.inputs, net.outputs) != (self.net.inputs, self.net.outputs):
            raise InputError(
                f"a network with {net.inputs} input(s) and {net.outputs} output(s) does not fit "
                f"data for {self.net.inputs} and {self.net.outputs}"
            )
        self.decay.check(net)
        found: Problem = self._with(net=net)
        return found

    def with_weight_decay(self, weight_decay: float | Mapping[str, float] | WeightDecay) -> Problem:
        """The same network, data and loss with another weight decay.

        >>> problem = Problem(MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0], weight_decay=0.1)
        >>> problem.with_weight_decay(0)
        Problem(widths=[1, 1], activation=[], loss='squared', samples=2)
        """
        decay = WeightDecay.of(weight_decay)
        decay.check(self.net)
        found: Problem = self._with(decay=decay)
        return found

    def on_samples(self, chosen: Tensor) -> Problem:
        """The samples chosen, (N,) of bool, alone; they count with the part of the risk that they have."""
        shares = self.weighed(torch.ones(self.samples, dtype=self.dtype))[chosen]
        found: Problem = self._with(X=self.X[chosen], y=self.y[chosen], sample_weight=shares)
        found.__dict__["_share_array"] = shares.numpy()
        return found

    # -- samples and what they count --------------------------------------------------------------

    @property
    def samples(self) -> int:
        """Number of samples N that count."""
        return self.X.shape[-2]

    # Kept as arrays: what is asked for first under torch.func would be a tensor of that call alone.

    @cached_property
    def _share_array(self) -> np.ndarray | None:
        w = None if self.sample_weight is None else self.sample_weight.numpy()
        return None if w is None else w / w.sum(-1, keepdims=True)

    @cached_property
    def _decay_array(self) -> np.ndarray:
        return self.decay.of_each(self.net).astype(str(self.dtype).removeprefix("torch."))

    @property
    def _shares(self) -> Tensor | None:
        return None if self._share_array is None else torch.from_numpy(self._share_array)

    def share(self, samples: slice | Tensor = slice(None)) -> float | Tensor:
        """What the loss of each of some samples counts with in the risk, (n,): 1/N where all count alike."""
        return 1.0 / self.samples if self._shares is None else self._shares[samples]

    def mean(self, values: Tensor, dim: int = 0) -> Tensor:
        """The mean over all samples, which lie along ``dim``, each with its weight.

        >>> weighted = Problem(MLP([1, 1]), [[0.0], [1.0]], [0.0, 1.0], sample_weight=[1, 3])
        >>> float(weighted.mean(torch.tensor([0.0, 1.0])))
        0.75
        """
        if self._shares is None:
            return values.mean(dim)
        share = self._shares.to(values.dtype)
        return (values.movedim(dim, -1) * share).sum(-1)

    def rms(self, values: Tensor) -> Tensor:
        """The root mean square over all samples, which come first."""
        return self.mean(values.square()).sqrt()

    def weighed(self, values: Tensor) -> Tensor:
        """Values of all samples, which come first, each times what its sample counts with in a mean."""
        if self._shares is None:
            return values / self.samples
        return values * self._shares.to(values.dtype).reshape(-1, *[1] * (values.ndim - 1))

    def spread(self, values: Tensor) -> Tensor:
        """The standard deviation over all samples, which come first."""
        if self._shares is None:
            return values.std(0, correction=0)
        return self.mean((values - self.mean(values)).square()).sqrt()

    def check_double(self, what: str) -> None:
        """Raise :class:`InputError`, naming what needs it, unless the problem computes in float64."""
        if self.dtype != torch.float64:
            raise InputError(
                f"the problem computes in {self.dtype}, and {what} needs float64; make the Problem with "
                "dtype=torch.float64"
            )

    def check_finite(self, what: str) -> None:
        """Raise :class:`InputError`, naming what is of finite networks, if units have run to infinity."""

    def check_plain(self, what: str) -> None:
        """Raise :class:`InputError`, naming what takes neither, for units at infinity and sample weights."""
        self.check_finite(what)
        if self.sample_weight is not None:
            raise InputError(
                f"{what} counts all samples alike, and the problem has sample weights; make one without, or "
                "repeat rows"
            )

    def targets(self, samples: slice) -> Tensor:
        """The targets of some samples."""
        return self.y[samples]

    def respond(
        self, layer: int, z: Tensor, samples: slice
    ) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """What a hidden layer makes of its pre-activations on some samples, see :meth:`MLP.respond`."""
        return self.net.respond(layer, z)

    @property
    def units_at_infinity(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """Of a limiting network, unit by unit through all hidden layers, what makes it one; else None.

        The forms' numbers and the bases of gates, (*batch, Σ width), and what is added to pre-activations,
        (*batch, Σ width, N).
        """
        return None

    def activate(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """The same on all samples, for z of shape (N, width), which is what comes back."""
        return *self.net.activations[layer].derivatives(z), None

    def outputs(self, params: Params, samples: slice = slice(None)) -> Tensor:
        """``f(x_ν)`` on some samples, (*batch, n, M); differentiable."""
        return self.net.forward(params, self.X[samples])

    def widened(self, widening: Any) -> Problem:
        """The problem of a wider network that an embedding has made of this one's."""
        return self.with_net(widening.wide)

    @property
    def outputs_alone(self) -> bool:
        """Whether the risk depends on the parameters through the outputs alone: without weight decay.

        Only then what keeps the outputs keeps the risk: embeddings, symmetries, flat families.
        """
        return not self.decay

    def check_outputs_alone(self, why: str) -> None:
        """Raise :class:`InputError`, saying why that matters, unless :attr:`outputs_alone`."""
        if not self.outputs_alone:
            raise InputError(
                f"with weight decay {self.decay} {why}; use problem.with_weight_decay(0)"
            )

    @property
    def by_algebra(self) -> bool:
        """Whether an embedded point's loss, gradient and inertia follow from its source's.

        Not with weight decay: embeddings keep the outputs, but not the penalty.
        """
        return self.outputs_alone

    def rows(self, chosen: slice | Tensor) -> Problem:
        """The problem of some runs of a batch: the same one, where all runs share the data."""
        return self

    # -- what the loss makes of the targets -------------------------------------------------------

    @cached_property
    def best_outputs(self) -> Tensor | None:
        """Finite outputs (N, M) at which every sample's loss is lowest; None where none are known."""
        return self.loss.best_outputs(self.y, self.net.outputs)

    @cached_property
    def least_loss(self) -> float | None:
        """The mean loss of the best outputs: no risk is lower. None where none are known."""
        best = self.best_outputs
        return None if best is None else float(self.mean(self.loss.value(best, self.y), -1))

    @cached_property
    def target_size(self) -> float:
        """Largest number that outputs are to be, at least 1: what parameters scale with."""
        best = self.best_outputs
        return 1.0 if best is None else max(1.0, float(best.abs().max()))

    @cached_property
    def value_noise(self) -> float:
        """What rounding may do to a risk near its infimum, where some outputs attain that."""
        return self.loss.value_noise(self.y, self.net.outputs)

    def fits(self, risk: float) -> bool:
        """Whether a risk is that of the best outputs but for the last digits."""
        if self.least_loss is None:
            return False
        return risk - self.least_loss <= max(FIT * self.target_size**2, 4 * self.value_noise)

    @property
    def no_critical_point_below(self) -> float:
        """A risk below which no finite parameters are critical; −∞ where none is known.

        Without weight decay it is the loss's, which rests on scaling the last layer up. A penalty
        keeps that from going on for ever: then every risk may be that of a critical point.
        """
        return -math.inf if self.decay else self._no_critical_point_below()

    def _no_critical_point_below(self) -> float:
        separated, bound = self.loss.separated_below(self.y), self.loss.lower_bound
        if separated is not None:  # no sample's loss is more than the risk over its share
            share = self.share()
            return separated * (share if isinstance(share, float) else float(share.min()))
        return -math.inf if bound is None else bound

    @cached_property
    def distinct_inputs(self) -> Tensor:
        """Which of the distinct inputs each sample has, (N,), in no order that means anything."""
        rows = np.ascontiguousarray(self.X.numpy() + 0.0)  # −0 is 0
        whole = rows.view(np.dtype((np.void, rows.itemsize * rows.shape[1]))).ravel()
        return torch.from_numpy(np.unique(whole, return_inverse=True)[1].reshape(-1))

    # -- the risk ---------------------------------------------------------------------------------

    def risk(self, params: Params) -> Tensor:
        """``R(θ)`` straight from the definition, shape ``(*batch,)``; differentiable."""
        mean = self.mean(self.loss.value(self.outputs(params), self.y), -1)
        return mean + self.penalty(params) if self.decay else mean

    def penalty(self, params: Params) -> Tensor:
        """``½ Σ_i λ_i θ_i²``, shape ``(*batch,)``; differentiable. Its Hessian is diagonal, of the λ_i."""
        return (self.decays / 2 * self.net.flatten(params).square()).sum(-1)

    @property
    def weight_decay(self) -> Any:
        """λ of the penalty ½ λ ‖θ‖²; a dictionary of groups where they differ."""
        return self.decay.plain

    @property
    def decays(self) -> Tensor:
        """λ_i of each parameter, (P,), in the flat order."""
        return torch.from_numpy(self._decay_array)

    @cached_property
    def coercive(self) -> bool:
        """Whether every parameter is decayed: then nothing lies at infinity."""
        return bool(self.decay) and bool((self.decays > 0).all())

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 of shapes and float64 values of X and y, and of the weights where samples have some."""
        digest = hashlib.sha256()
        weights = [] if self.sample_weight is None else [self.sample_weight]
        for tensor in (self.X, self.y, *weights):
            array = np.ascontiguousarray(tensor.to(torch.float64).numpy(), dtype="<f8")
            digest.update(repr(array.shape).encode())
            digest.update(array.tobytes())
        return digest.hexdigest()

    def _facts(self) -> dict[str, Any]:
        return {
            "widths": self.net.widths,
            "activations": [activation.name for activation in self.net.activations],
            "loss": self.loss.name,
            "samples": self.samples,
            "weight_decay": self.weight_decay,
            "weighted": self.sample_weight is not None,
        }

    def __repr__(self) -> str:
        return (
            f"Problem(widths={list(self.net.widths)}, "
            f"activation={[a.name for a in self.net.activations]}, loss={self.loss.name!r}, "
            f"samples={self.samples}"
            + (f", weight_decay={self.weight_decay!r}" if self.decay else "")
            + (", weighted)" if self.sample_weight is not None else ")")
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


def check_names(problem: Problem, otherwise: str) -> None:
    """Raise :class:`InputError` unless activations and loss are those that their names stand for."""
    named: list[Activation | Loss] = [*problem.net.activations, problem.loss]
    for each in named:
        if not each.known:
            function = each.name.startswith("<")
            what = "is a Python function" if function else "is not the one of that name"
            raise InputError(
                f"{each.name} {what}, and {otherwise}. Give it a name of its own: Activation.define, or a Loss"
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
        self.net, self.loss, self.dtype, self.decay = (
            first.net,
            first.loss,
            first.dtype,
            first.decay,
        )
        self.sample_weight = self.preparation = None
        if any(problem.sample_weight is not None for problem in problems):
            alike = torch.ones(first.samples, dtype=first.dtype)
            self.sample_weight = torch.stack(
                [alike if p.sample_weight is None else p.sample_weight for p in problems]
            )
        self.X = torch.stack([problem.X for problem in problems])
        self.y = torch.stack([problem.y for problem in problems])

    def targets(self, samples: slice) -> Tensor:
        """The targets of some samples, on every data set."""
        return self.y[:, samples]

    def share(self, samples: slice | Tensor = slice(None)) -> float | Tensor:
        """What the loss of each of some samples counts with in its data set's risk, (B, n)."""
        return 1.0 / self.samples if self._shares is None else self._shares[:, samples]

    def _no_critical_point_below(self) -> float:
        # Of each data set by itself, whose samples the loss counts; what lies below all lies below its own.
        alone = (self._with(y=y) for y in self.y)
        return min(Problem._no_critical_point_below(each) for each in alone)

    def rows(self, chosen: slice | Tensor) -> ProblemBatch:
        """The problem of some runs of the batch."""
        weights = None if self.sample_weight is None else self.sample_weight[chosen]
        found: ProblemBatch = self._with(X=self.X[chosen], y=self.y[chosen], sample_weight=weights)
        return found


def _checked_weights(given: Any, samples: int) -> Tensor:
    weights = finite("sample_weight", given)
    if tuple(weights.shape) != (samples,):
        raise InputError(
            f"sample_weight has shape {tuple(weights.shape)}; {samples} samples need ({samples},), a number "
            "each"
        )
    if bool((weights < 0).any()):
        row = int((weights < 0).nonzero()[0, 0])
        raise InputError(
            f"sample_weight[{row}] = {float(weights[row]):g} is below 0; a sample counts with 0 or more"
        )
    if not bool(weights.any()):
        raise InputError("sample_weight is 0 for every sample; at least one has to count")
    return weights


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
            array = np.require(given, requirements="W")  # those of data frames cannot be written
            tensor = plain(name, torch.as_tensor(array))
        except (TypeError, ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            texts = [
                cell for cell in np.ravel(np.array(given, dtype=object)) if isinstance(cell, str)
            ]
            why = f"it holds the text {texts[0]!r:.60}; load_data takes tables" if texts else error
            raise InputError(f"{name} is not an array of numbers: {why}") from error
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


class Located(Protocol):
    """What evidence is of: a problem and parameters.

    >>> import torch
    >>> import semiflat as sf
    >>> from types import SimpleNamespace
    >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> params = {"0.weight": torch.ones(1, 1).double(), "0.bias": torch.zeros(1).double()}
    >>> located = SimpleNamespace(problem=problem, params=params, note="by hand")
    >>> sf.Evidence(located).critical
    True
    """

    @property
    def problem(self) -> Problem:
        """Network, data and loss."""

    @property
    def params(self) -> Params:
        """The parameters."""

    @property
    def note(self) -> str:
        """What is known of the point from where it came."""
