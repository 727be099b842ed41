"""Points of a loss landscape, plain, embedded and many at once, and their derivatives by name."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from semiflat.curvature.blocks import UnitBlocks, layer_blocks
from semiflat.curvature.gradient import output_jacobian, risk_gradient
from semiflat.curvature.hessian import risk_gradient_hessian
from semiflat.data import Preparation
from semiflat.decay import WeightDecay
from semiflat.embeddings.base import Embedding
from semiflat.embeddings.widening import Widening
from semiflat.errors import InputError, whole_number
from semiflat.evidence import Evidence
from semiflat.foreign import alpha_of, network_of, plain, standardised_by, targets_of
from semiflat.losses import Loss, LossFunction
from semiflat.memory import check_floats
from semiflat.networks import MLP, Params
from semiflat.pictures import Pictures
from semiflat.problem import Problem
from semiflat.records.shown import Shown
from semiflat.records.study import Standardisation
from semiflat.tables import inputs_of

KEPT = 16 * 2**20
"""Bytes of evidence that a point keeps at most."""
NOTE = 400
"""Characters of the longest note."""


def one_line(text: str, width: int = NOTE) -> str:
    r"""Text for people that may come from a file: one line, no control characters, of bounded length.

    >>> one_line("left\n  \x1b[31malone"), one_line("a b c d", 5)
    ('left [31malone', 'a b…')
    """
    plain = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.shorten(plain, width, placeholder="…")


class Point(Pictures):
    """Parameters of a problem's network; any at all, critical or not.

    Args:
        problem: network, data and loss.
        params: ``dict`` with the keys and shapes of ``problem.net.to_module().state_dict()``. Or a
            ``state_dict`` with other keys, see :meth:`MLP.own_keys`, or an ``nn.Sequential`` of that
            architecture, activations included, see :meth:`MLP.from_module`.
        note: see :attr:`note`.

    Raises:
        InputError: if keys, shapes or architecture do not fit, or a value is not finite; for parameters
            of many networks, with leading batch axes: those make a :class:`PointBatch`.

    >>> from semiflat import MLP, Problem
    >>> problem = Problem(MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = Point(problem, problem.net.random_params(seed=0))
    >>> gradient(point).shape, hessian(point).shape, round(point.loss, 3)
    (torch.Size([7]), torch.Size([7, 7]), 0.144)
    """

    def __init__(self, problem: Problem, params: Params | nn.Module, note: str = "") -> None:
        self._params, batch = _read(problem, params)
        if batch:
            raise InputError(
                f"a Point holds one set of parameters, and these are a batch of shape {batch}; "
                "PointBatch(problem, params) has the derivatives of all of them at once, or take them one by "
                "one"
            )
        self.problem = problem
        self._note = one_line(note)

    @staticmethod
    def from_module(
        module: nn.Sequential,
        X: Any,
        y: Any = None,
        loss: str | Loss | LossFunction | None = None,
        weight_decay: float | Mapping[str, float] | WeightDecay | Optimizer = 0.0,
        sample_weight: Any = None,
    ) -> Point:
        """The point where an ``nn.Sequential`` stands, on its data: network, problem and parameters.

        Args and errors: as for :meth:`MLP.from_module` and :class:`Problem`. The ``weight_decay`` may be the
        optimiser that trained the module: then it is that of its parameter groups, in units of this loss
        (torch's ``MSELoss`` is 2/M times ``"squared"``, and so is its penalty's weight). For several modules
        on one problem: ``Point(problem, module)``.

        >>> module = nn.Sequential(nn.Linear(1, 2), nn.Tanh(), nn.Linear(2, 1))
        >>> Point.from_module(module, [[0.0], [1.0]], [0.0, 1.0]).problem.net.widths
        (1, 2, 1)
        """
        net, params = MLP.from_module(module)
        if isinstance(weight_decay, Optimizer):
            weight_decay = WeightDecay.of_optimizer(weight_decay, module)
        problem = Problem(net, X, y, loss, weight_decay=weight_decay, sample_weight=sample_weight)
        return Point(problem, params)

    @staticmethod
    def from_sklearn(
        model: Any,
        X: Any,
        y: Any,
        weight_decay: float | Mapping[str, float] | WeightDecay | Literal["alpha"] = 0.0,
        sample_weight: Any = None,
    ) -> Point:
        """The point where a fitted scikit-learn network stands, on its data.

        The loss is the model's: squared for a regressor, logistic for a classifier of two classes or
        of several labels a sample, else cross-entropy. Classes are numbered as in ``model.classes_``.
        Of a ``Pipeline`` it is the last step's network, on inputs that the steps before have
        transformed; of a search that of its best estimator. Where the one step before is a
        ``StandardScaler``, :meth:`predict` takes the rows that the pipeline takes. Else it takes what the
        steps before make of them: ``point.predict(pipeline[:-1].transform(rows))``.

        scikit-learn's penalty ``alpha / (2N) ‖W‖²`` is on weights alone. With ``weight_decay="alpha"`` it is
        part of the problem; by default it is left out, and a model trained with ``alpha`` above 0 stands near
        a critical point of another risk. With M outputs the loss that scikit-learn prints is this one divided
        by M; the gradient that it follows is not.

        Raises:
            InputError: as for :meth:`MLP.from_sklearn` and :class:`Problem`, or for a y that is none of the
                model's classes.
        """
        network, inputs, before = network_of(model, X)
        net, params = MLP.from_sklearn(network)
        loss, targets = targets_of(network, y)
        if isinstance(weight_decay, str):
            total = len(inputs) if sample_weight is None else float(np.sum(sample_weight))
            weight_decay = alpha_of(network, weight_decay, total)
        problem = Problem(
            net, inputs, targets, loss, weight_decay=weight_decay, sample_weight=sample_weight
        )
        done = standardised_by(before, net.inputs)
        if done is not None:  # so that predict takes the rows that the pipeline takes
            names = getattr(before[0], "feature_names_in_", _numbered(net.inputs))
            problem.preparation = Preparation(
                columns=tuple(map(str, names)),
                standardisation=Standardisation(
                    X_mean=tuple(done[0].tolist()), X_scale=tuple(done[1].tolist())
                ),
            )
        if problem.loss.classifies and np.ndim(targets) == 1:
            known = problem.preparation or Preparation(columns=_numbered(net.inputs))
            classes = tuple(map(str, np.asarray(network.classes_).tolist()))
            problem.preparation = replace(known, classes=classes)
        return Point(problem, params)

    def predict(self, X: Any, *, probabilities: bool = False) -> np.ndarray:
        """What the network says of new rows, in the units of the table that its problem was made of.

        Rows are prepared as those of :func:`load_data` were: categories become 0 and 1, columns that were
        constant are left out, the rest is standardised. Numbers come back in the units of the targets. For a
        loss of classes it is the class with the largest output, and with an output for two classes the
        second where that is above 0 (at probability ½): its name, a whole number if the names are whole
        numbers, true or false if they are False and True, or the class's number where no names are known.

        Args:
            X: a data frame with the table's columns by name, or (n, d) rows of them in the order of
                ``problem.preparation.columns``. Of a problem made of arrays, its inputs.
            probabilities: of each class, (n, C), in place of the class; only for losses whose outputs are
                logarithms of odds.

        Returns:
            (n,), or (n, M) for several targets a row.

        Raises:
            InputError: for other columns, values that cannot be used, or units that are steps at infinity,
                which are known on the data alone.

        >>> import semiflat as sf
        >>> data = sf.load_data("iris")
        >>> point = sf.find_critical_point(sf.Problem(sf.MLP([4, 1, 3]), data, weight_decay=0.01), starts=2)
        >>> point.predict([[5.1, 3.5, 1.4, 0.2], [6.3, 3.3, 6.0, 2.5]]).tolist()
        ['setosa', 'virginica']
        >>> point.predict([[5.1, 3.5, 1.4, 0.2]], probabilities=True).round(2).shape
        (1, 3)
        """
        problem = self.problem
        how = problem.preparation or Preparation(columns=_numbered(problem.net.inputs))
        inputs = torch.from_numpy(inputs_of(how, X)).to(problem.dtype)
        with torch.no_grad():
            outputs = self._outputs_for(inputs)
        return meaning_of(problem, how, outputs, probabilities)

    def _outputs_for(self, inputs: Tensor) -> Tensor:
        """The network's outputs for other inputs than the problem's, (n, M)."""
        return self.problem.net.forward(self.params, inputs)

    @property
    def params(self) -> Params:
        """The parameters, in the problem's dtype."""
        return self._params

    @property
    def note(self) -> str:
        """What is known of the point from where it came, for people: one line, or ``""``.

        A search says here why it left a point that is not critical. It is kept in files.
        """
        return self._note

    @cached_property
    def loss(self) -> float:
        """The risk R(θ)."""
        return float(self.problem.risk(self.params))

    @property
    def accuracy(self) -> float | None:
        """The part of the samples that get their class, counted with their weights; None without classes.

        The class is that of the largest output; of outputs with two classes each, all have to be right.

        >>> import semiflat as sf
        >>> X, y = [[-2.0], [-1.0], [1.0], [2.0], [3.0]], [0, 0, 0, 1, 1]
        >>> problem = sf.Problem(sf.MLP([1, 1]), X, y, loss="logistic", weight_decay=1.0)
        >>> sf.find_critical_point(problem, starts=1).accuracy        # the third is on the wrong side
        0.8
        """
        problem = self.problem
        labels = problem.loss.labels(problem.y, problem.net.outputs)
        if labels is None:
            return None
        outputs = problem.outputs(self.params)
        if labels.shape == outputs.shape:
            right = (outputs * labels > 0).all(-1)
        else:
            right = outputs.argmax(-1) == labels
        return float(problem.mean(right.double(), -1))

    @cached_property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞``."""
        return float(gradient(self).abs().max())

    @property
    def evidence(self) -> Evidence:
        """Derivatives with their rounding noise, spectra, and what units do on the data, when asked for.

        Kept on the point where it is small, so that judging, escaping and reporting compute it once.

        Raises:
            InputError: if its Hessians are more than memory has room for.

        >>> import semiflat as sf
        >>> problem = sf.Problem(sf.MLP([1, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
        >>> point = sf.find_critical_point(problem, starts=2)
        >>> point.evidence.critical, point.evidence.spectrum.count()
        (True, (2, 0, 0))
        """
        known: Evidence | None = self.__dict__.get("_evidence")
        if known is None:
            known = Evidence(self)
            if 8 * 8 * self.problem.net.parameter_count**2 <= KEPT:
                self.__dict__["_evidence"] = known
        return known

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != "_evidence"}

    def widened_by(self, embedding: Embedding) -> EmbeddedPoint:
        """The point embedded in a wider network; the same as ``embedding(point)``."""
        return EmbeddedPoint(self, embedding)

    def _facts(self) -> dict[str, Any]:
        net = self.problem.net
        return {
            "widths": net.widths,
            "activations": [activation.name for activation in net.activations],
            "parameters": net.parameter_count,
            "loss_function": self.problem.loss.name,
            "loss": self.loss,
            "gradient_norm": self.gradient_norm,
            "note": self.note,
        }

    def __repr__(self) -> str:
        return f"{type(self).__name__}(widths={list(self.problem.net.widths)}, loss={self.loss!r})"


class EmbeddedPoint(Point):
    """A point of a wider network, known by its source and embedding.

    Lazy: the wide parameters are built when ``params`` is asked for and not before. Loss and
    gradient norm follow from the source by algebra; ``materialize()`` gives a plain point, whose
    loss and gradient are measured on the wide network. With weight decay they are measured in any
    case: embeddings keep the outputs, but not the penalty on the weights nor its gradient.

    Attributes:
        source: the narrow point.
        embedding: the embedding, composed if several were applied.
        widening: the embedding applied to the source's network: matrix, lift, restrict.
        core: the source, or the source with the added units that are no copies.

    Raises:
        InputError: if the embedding does not fit, or does not keep the function on these data.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> wide = sf.Replicate.uniform(0, 0, copies=10**6)(point)
    >>> wide.problem.net.hidden, abs(wide.loss - point.loss) < 1e-12        # nothing wide is built
    ((1000001,), True)
    >>> pair = sf.Replicate(0, 0, [0.25, 0.75])(point)
    >>> pair.params["0.weight"].shape, type(pair.materialize()).__name__
    (torch.Size([3, 1]), 'Point')
    """

    def __init__(self, source: Point, embedding: Embedding) -> None:
        check_one(source, "an embedding")
        inner = source if isinstance(source, EmbeddedPoint) else None
        self.source: Point = source if inner is None else inner.source
        self.embedding: Embedding = embedding if inner is None else inner.embedding >> embedding
        narrow = self.source.problem.net
        self.widening: Widening = (
            embedding.on(narrow) if inner is None else embedding.extend(inner.widening)
        )
        if embedding.preserves_output is not True:
            embedding.verify(source)
        self.unit_map = self.widening.units
        self.problem = self.source.problem.widened(self.widening)

    @cached_property
    def core(self) -> Point:
        """The point whose units the wide units copy: the source with units of their own added."""
        core = self.widening.core
        if core is None:
            return self.source
        problem = self.source.problem.with_net(core.wide)
        return Point(problem, core.parameters(self.source.params))

    @cached_property
    def _params(self) -> Params:  # type: ignore[override]
        check_floats(
            "the parameters of the wide network",
            self.problem.net.parameter_count,
            "judge(point) needs none of them; take fewer copies for what does",
        )
        params = self.unit_map.parameters(self.core.problem.net, self.core.params)
        for key, tensor in params.items():
            if not torch.isfinite(tensor).all():
                raise InputError(
                    f"wide parameter {key!r} overflows; use shares, scales and weights of ordinary size"
                )
        return params

    @property
    def note(self) -> str:
        """The source's."""
        return self.source.note

    @cached_property
    def loss(self) -> float:
        """The source's loss, as the function is the same; with weight decay the wide network's own."""
        return self.source.loss if self.problem.by_algebra else super().loss

    @cached_property
    def gradient_norm(self) -> float:
        """``‖∇R‖∞`` at the wide point, from the core's gradient or, with weight decay, its own."""
        if not self.problem.by_algebra:
            return super().gradient_norm
        net = self.core.problem.net
        narrow = net.unflatten(gradient(self.core))
        condensed = self.unit_map.condensed()  # the largest entry does not ask how many copies
        wide = condensed.gradient(net, narrow)
        return float(net.with_hidden(condensed.hidden).flatten(wide).abs().max())

    def _outputs_for(self, inputs: Tensor) -> Tensor:
        # Of the source, unless the outputs are kept on the data alone: nothing wide is built.
        if self.embedding.preserves_output is True:
            return self.source._outputs_for(inputs)
        return super()._outputs_for(inputs)

    def _facts(self) -> dict[str, Any]:
        source = self.source.problem.net.widths
        return super()._facts() | {"source_widths": source, "embedding": repr(self.embedding)}

    def __getstate__(self) -> dict[str, Any]:
        # The wide parameters are built again where they are asked for.
        return {key: value for key, value in super().__getstate__().items() if key != "_params"}

    def materialize(self) -> Point:
        """The wide point with its parameters built and its origin forgotten."""
        return Point(self.problem, self.params)


class PointBatch(Shown):
    """Parameters of many networks for one problem, for the losses and derivatives of all at once.

    :func:`gradient`, :func:`hessian`, :func:`jacobian`, :func:`unit_blocks` and :func:`layer_block` take it,
    and give tensors with its axes first. All else takes one point: there is one at each index, ``batch[k]``,
    or ``batch[i, j]`` with two axes. ``len`` counts the points, and a loop goes through them, the last axis
    fastest.

    Args:
        problem: network, data and loss.
        params: ``dict`` with the keys of ``problem.net.to_module().state_dict()`` and leading batch axes, the
            same for every key: weights ``(*batch, out, in)``, biases ``(*batch, out)``.

    Attributes:
        problem: network, data and loss.
        params: the parameters, in the problem's dtype.
        shape: of the batch axes.

    Raises:
        InputError: if keys or shapes do not fit, or a value is not finite; for parameters of one network,
            without batch axes; for an index that no point has.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> batch = sf.PointBatch(problem, problem.net.random_params(seed=0, batch=(4,)))
    >>> batch, len(batch)
    (PointBatch(widths=[1, 2, 1], shape=(4,)), 4)
    >>> batch.loss.shape, sf.gradient(batch).shape, sf.hessian(batch).shape
    (torch.Size([4]), torch.Size([4, 7]), torch.Size([4, 7, 7]))
    >>> lowest = batch[batch.loss.argmin()]
    >>> type(lowest).__name__, lowest.loss == min(point.loss for point in batch)
    ('Point', True)
    """

    def __init__(self, problem: Problem, params: Params) -> None:
        self.params, self.shape = _read(problem, params)
        if not self.shape:
            raise InputError(
                "a PointBatch holds the parameters of many networks, with leading batch axes, and these are "
                "those of one; make it Point(problem, params)"
            )
        self.problem = problem

    @cached_property
    def loss(self) -> Tensor:
        """The risk R(θ) of each, of the batch's shape."""
        return self.problem.risk(self.params)

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, index: Any) -> Point:
        given = index if isinstance(index, tuple) else (index,)
        at = tuple(map(whole_number, given))
        if len(at) != len(self.shape) or not all(
            k is not None and -size <= k < size for k, size in zip(at, self.shape, strict=True)
        ):
            raise InputError(
                f"no point of a PointBatch of shape {self.shape} has index {index!r:.60}; give "
                f"{len(self.shape)} whole number(s), one for each axis"
            )
        return Point(self.problem, {key: tensor[at] for key, tensor in self.params.items()})

    def __iter__(self) -> Iterator[Point]:
        return (self[at] for at in itertools.product(*map(range, self.shape)))

    def _facts(self) -> dict[str, Any]:
        return {"widths": self.problem.net.widths, "shape": self.shape, "loss": self.loss}

    def __repr__(self) -> str:
        return f"PointBatch(widths={list(self.problem.net.widths)}, shape={self.shape})"


def _read(problem: Problem, params: Params | nn.Module) -> tuple[Params, tuple[int, ...]]:
    """A copy of the parameters in the problem's dtype, checked, and the shape of their batch axes."""
    if not isinstance(problem, Problem):
        raise InputError(
            f"problem must be a Problem(net, X, y), not a {type(problem).__name__}; from a module and "
            "data to a point in one call: Point.from_module(module, X, y)"
        )
    if isinstance(params, nn.Module):
        params = _of_module(problem.net, params)
    params = problem.net.own_keys(params)
    batch = problem.net.check_params(params)
    read: Params = {}
    for key in problem.net.shapes:
        given = plain(f"parameter {key!r}", params[key])
        tensor = given.detach().to("cpu", problem.dtype, copy=True)
        if not torch.isfinite(tensor).all():
            raise InputError(
                f"parameter {key!r} holds a value that is not finite; a point needs finite ones"
            )
        read[key] = tensor
    return read, batch


def _numbered(count: int) -> tuple[str, ...]:
    """Names for inputs that have none."""
    return tuple(f"x{k}" for k in range(count))


def meaning_of(
    problem: Problem, how: Preparation, outputs: Tensor, probabilities: bool = False
) -> np.ndarray:
    """Outputs (n, M) as classes or numbers of the table, see :meth:`Point.predict`."""
    loss, single = problem.loss, problem.y.ndim == 1 or problem.net.outputs == 1
    if not loss.classifies:
        if probabilities:
            raise InputError(
                f"loss {loss.name!r} is of numbers, which have no probabilities; leave probabilities out"
            )
        found = outputs.double().numpy()
        done = how.standardisation
        if done is not None and done.y_mean is not None and done.y_scale is not None:
            found = found * np.array(done.y_scale) + np.array(done.y_mean)
        return found[:, 0] if single else found
    two = loss.codes is not None  # each output tells two classes apart
    if probabilities:
        if not loss.odds:
            raise InputError(
                f"the outputs of loss {loss.name!r} are no logarithms of odds, so they have no "
                "probabilities; leave probabilities out"
            )
        p = torch.sigmoid(outputs) if two else torch.softmax(outputs, -1)
        return (torch.cat([1 - p, p], -1) if two and single else p).double().numpy()
    classes = ((outputs > 0).long() if two else outputs.argmax(-1)).numpy()
    if two and single:
        classes = classes[:, 0]
    return classes if how.classes is None else _as_named(how.classes)[classes]


def _as_named(classes: tuple[str, ...]) -> np.ndarray:
    if classes == ("False", "True"):
        return np.array([False, True])
    whole = all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in classes)
    return np.array([int(name) for name in classes] if whole else classes)


def _of_module(net: MLP, module: nn.Module) -> Params:
    """The parameters of a module that is this network."""
    read, params = MLP.from_module(module)  # type: ignore[arg-type]  # refused if it is no Sequential
    if read != net:
        of_module, of_net = (
            f"widths {list(each.widths)}, activations {[a.name for a in each.activations]} and biases "
            f"{list(each.biases)}"
            for each in (read, net)
        )
        raise InputError(
            f"the module has {of_module}, and the problem's network {of_net}; make the problem with "
            "MLP.from_module(module), or take Point.from_module(module, X, y)"
        )
    return params


def _parts(point: Point | PointBatch) -> tuple[Problem, Params]:
    if not isinstance(point, Point | PointBatch):
        raise InputError(
            f"expected a Point or a PointBatch, not a {type(point).__name__}; make one with "
            "Point(problem, params), or with Point.from_module(module, X, y)"
        )
    return point.problem, point.params


def gradient(point: Point | PointBatch) -> Tensor:
    """``∇R``, flat in the order of the params dict, shape ``(P,)``; of a batch ``(*batch, P)``.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> sf.gradient(point).shape, float(sf.gradient(point).abs().max()) == point.gradient_norm
    (torch.Size([7]), True)
    """
    return risk_gradient(*_parts(point))[1]


def hessian(point: Point | PointBatch) -> Tensor:
    """The full Hessian ``∇²R`` in closed form, ``(P, P)``; of a batch ``(*batch, P, P)``.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> H = sf.hessian(point)
    >>> H.shape, bool((H - H.T).abs().max() < 1e-15)
    (torch.Size([7, 7]), True)
    """
    return risk_gradient_hessian(*_parts(point))[2]


def jacobian(point: Point | PointBatch) -> Tensor:
    """``∂f_k(x_ν)/∂θ`` for every sample and output, ``(N, M, P)``; of a batch ``(*batch, N, M, P)``.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> sf.jacobian(point).shape
    torch.Size([3, 1, 7])
    """
    return output_jacobian(*_parts(point))


def unit_blocks(point: Point | PointBatch, layer: int, unit: int) -> UnitBlocks:
    """F (M × D), G (D × D) and K of one hidden unit, D counting the bias (theory §1, F19 Lemma 4).

    Of the data's part of the risk: weight decay is not in them. Of a batch with the batch axes first.

    >>> from semiflat import MLP, Problem
    >>> problem = Problem(MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> unit_blocks(Point(problem, problem.net.random_params(0)), layer=0, unit=1).K.shape
    torch.Size([3, 3])
    """
    problem, params = _parts(point)
    problem.net.check_unit(layer, unit)
    blocks = layer_blocks(problem, params, layer)
    return UnitBlocks(blocks.F[..., unit, :, :], blocks.G[..., unit, :, :])


def layer_block(point: Point | PointBatch, layer: int) -> Tensor:
    """``F∅ = Σ_ν δ_{l+1} x̃ᵀ`` of a hidden layer, (M × D): the gradient of weights that skip it.

    Of the data's part of the risk: weight decay is not in it. Of a batch with the batch axes first.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0], [2.0]], [0.0, 1.0, 0.5])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> F0 = sf.layer_block(point, layer=0)
    >>> above = point.problem.net.unflatten(sf.gradient(point))["2.bias"]
    >>> F0.shape, bool(torch.allclose(F0[:, -1], above))        # its bias column is the gradient above
    (torch.Size([1, 2]), True)
    """
    problem, params = _parts(point)
    problem.net.check_layer(layer)
    return layer_blocks(problem, params, layer).F_null


def check_one(point: Any, what: str) -> None:
    """Raise :class:`InputError`, naming what takes one, for anything but one :class:`Point`."""
    if isinstance(point, PointBatch):
        raise InputError(
            f"{what} takes one point; this is a PointBatch of shape {point.shape}; take them one by one"
        )
    if not isinstance(point, Point):
        raise InputError(
            f"{what} takes a Point, not {type(point).__name__}; make one with Point(problem, params), or with "
            "Point.from_module(module, X, y)"
        )
