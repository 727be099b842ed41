"""Fully connected networks: an architecture, and parameters as a plain ``state_dict``.

An :class:`MLP` holds no tensors. Its parameters are a ``dict[str, Tensor]`` with the keys and shapes
of ``net.to_module().state_dict()``, and every function takes them with any leading batch axes: a
batch of networks is the same dict with bigger tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from semiflat.activations import Activation, Cross, activation
from semiflat.errors import InputError, finite_number, whole, whole_number, whole_seed
from semiflat.foreign import (
    Chain,
    check_dtype,
    read_estimator,
    read_module,
    replay_estimator,
    replay_module,
)
from semiflat.memory import check_floats
from semiflat.records.shown import Shown

Params = dict[str, Tensor]
"""Parameters by ``state_dict`` key; weights ``(*batch, out, in)``, biases ``(*batch, out)``."""

ActivationLike = str | Activation | Callable[[Tensor], Tensor]


@dataclass(frozen=True, init=False)
class MLP(Shown):
    """A fully connected network: widths, one activation a hidden layer, biases or none.

    ``z_l = W_l h_{l-1} + b_l``, ``h_l = σ_l(z_l)``, the last layer linear (theory §1). Hidden layers
    and units count from 0, so hidden layer 0 is fed by the input.

    Args:
        widths: input, hidden layers, output, each at least 1: ``[2, 3, 1]``.
        activation: a name, an elementwise function, or one of either for each hidden layer.
        bias: whether the linear layers have a bias, or one bool for each of them.

    Raises:
        InputError: for fewer than two widths, a width below 1, an unknown activation, or a list of
            activations or biases of the wrong length.

    >>> net = MLP([2, 3, 1], activation="tanh")
    >>> net.parameter_count, net.hidden
    (13, (3,))
    >>> [(key, tuple(shape)) for key, shape in net.shapes.items()]
    [('0.weight', (3, 2)), ('0.bias', (3,)), ('2.weight', (1, 3)), ('2.bias', (1,))]
    """

    widths: tuple[int, ...]
    activations: tuple[Activation, ...]
    biases: tuple[bool, ...]

    def _facts(self) -> dict[str, Any]:
        names = tuple(activation.name for activation in self.activations)
        return {"widths": self.widths, "activations": names, "biases": self.biases}

    def __init__(
        self,
        widths: Sequence[int],
        activation: ActivationLike | Sequence[ActivationLike] = "tanh",
        bias: bool | Sequence[bool] = True,
    ) -> None:
        checked = _check_widths(widths)
        layers = len(checked) - 1
        object.__setattr__(self, "widths", checked)
        object.__setattr__(self, "activations", _per_layer_activations(activation, layers - 1))
        biases = (bias,) * layers if isinstance(bias, bool | np.bool_) else bias
        if not isinstance(biases, list | tuple) or not all(
            isinstance(b, bool | np.bool_) for b in biases
        ):
            raise InputError(
                f"bias must be a bool, or a list of one for each linear layer, not {bias!r}"
            )
        if len(biases) != layers:
            raise InputError(
                f"bias has {len(biases)} entries, but widths {list(checked)} make {layers} linear "
                "layers; give one bool, or one for each linear layer"
            )
        object.__setattr__(self, "biases", tuple(map(bool, biases)))

    # -- shape ------------------------------------------------------------------------------------

    @property
    def depth(self) -> int:
        """Number of linear layers L."""
        return len(self.widths) - 1

    @property
    def hidden(self) -> tuple[int, ...]:
        """Widths of the hidden layers."""
        return self.widths[1:-1]

    @property
    def inputs(self) -> int:
        """Width of the input."""
        return self.widths[0]

    @property
    def outputs(self) -> int:
        """Width of the output."""
        return self.widths[-1]

    def fan_in(self, layer: int) -> int:
        """Size D of ``x̃``, what linear layer ``layer`` is fed with, counting the bias's 1."""
        return self.widths[layer] + self.biases[layer]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter shapes by key, in ``state_dict`` order."""
        shapes: dict[str, tuple[int, ...]] = {}
        for layer in range(self.depth):
            shapes[weight_key(layer)] = (self.widths[layer + 1], self.widths[layer])
            if self.biases[layer]:
                shapes[bias_key(layer)] = (self.widths[layer + 1],)
        return shapes

    @property
    def parameter_count(self) -> int:
        """Number of parameters P."""
        return sum(self.widths[layer + 1] * self.fan_in(layer) for layer in range(self.depth))

    def check_layer(self, layer: int) -> None:
        """Raise :class:`InputError` unless hidden ``layer`` exists."""
        if not _is_int(layer) or not 0 <= layer < len(self.hidden):
            raise InputError(
                f"hidden layer {layer!r} does not exist: widths {list(self.widths)} have "
                f"{len(self.hidden)} hidden layer(s), counted from 0"
            )

    def check_unit(self, layer: int, unit: int) -> None:
        """Raise :class:`InputError` unless ``unit`` of hidden ``layer`` exists."""
        self.check_layer(layer)
        if not _is_int(unit) or not 0 <= unit < self.hidden[layer]:
            raise InputError(
                f"unit {unit!r} does not exist in hidden layer {layer}, which has "
                f"{self.hidden[layer]} unit(s), counted from 0"
            )

    def with_hidden(self, hidden: Sequence[int]) -> MLP:
        """The same network with other hidden widths."""
        return MLP([self.inputs, *hidden, self.outputs], self.activations, self.biases)

    def of_units(self, layers: Sequence[Sequence[Any]]) -> MLP:
        """The wide network whose hidden layers are made of runs of units, each with a ``count``."""
        return self.with_hidden([sum(run.count for run in runs) for runs in layers])

    def plain_units(self, layer: int) -> Tensor:
        """Which units of a hidden layer hand on σ of their own pre-activation: all, but in a limit."""
        return torch.ones(self.hidden[layer], dtype=torch.bool)

    def heads(self, layer: int) -> list[int]:
        """The units of a hidden layer that can be copied, each with its branch."""
        return list(range(self.hidden[layer]))

    def branch(self, layer: int, unit: int) -> list[int]:
        """A hidden unit and the units that lean on its pre-activation: in an MLP, the unit alone."""
        self.check_unit(layer, unit)
        return [unit]

    # -- parameters -------------------------------------------------------------------------------

    def check_params(self, params: Params) -> tuple[int, ...]:
        """The batch shape of ``params``.

        Raises:
            InputError: naming the first key that is missing, unexpected or of the wrong shape.
        """
        if not isinstance(params, Mapping):
            raise InputError(
                f"parameters must be a dict of tensors as in net.to_module().state_dict(), not a "
                f"{type(params).__name__}; a flat vector becomes one with net.unflatten(vector)"
            )
        shapes = self.shapes
        missing, extra = shapes.keys() - params.keys(), params.keys() - shapes.keys()
        if missing or extra:
            raise InputError(
                f"parameters do not fit widths {list(self.widths)}: "
                f"missing keys {sorted(missing)}, unexpected keys {sorted(extra)}"
            )
        batch: tuple[int, ...] | None = None
        for key, shape in shapes.items():
            if not isinstance(params[key], Tensor):
                raise InputError(
                    f"parameter {key!r} is of type {type(params[key]).__name__}; expected a tensor"
                )
            given = tuple(params[key].shape)
            cut = len(given) - len(shape)
            if cut < 0 or given[cut:] != shape or (batch is not None and given[:cut] != batch):
                expected = f"{shape}" if not batch else f"{(*batch, *shape)}"
                raise InputError(
                    f"parameter {key!r} has shape {given}, expected {expected} for widths "
                    f"{list(self.widths)} (leading batch axes the same for every key)"
                )
            batch = given[:cut]
        assert batch is not None
        return batch

    def own_keys(self, params: Params) -> Params:
        """A ``state_dict`` of the same layers under other keys, as ``fc1.weight``, under this network's.

        Layers are taken in order, where no other order fits: they are numbered, as in an
        ``nn.Sequential``, or no two have the same shape. Anything else is given back as it is.

        Raises:
            InputError: if another order of the layers would fit too.

        >>> net = MLP([2, 3, 1])
        >>> state = {key.replace("2", "out"): p for key, p in net.random_params(0).items()}
        >>> list(state), list(net.own_keys(state))
        (['0.weight', '0.bias', 'out.weight', 'out.bias'], ['0.weight', '0.bias', '2.weight', '2.bias'])
        """
        shapes = self.shapes
        if not isinstance(params, Mapping) or not all(isinstance(key, str) for key in params):
            return params
        if params.keys() == shapes.keys() or len(params) != len(shapes):
            return params
        layers: dict[str, list[Any]] = {}
        for (own, shape), (key, tensor) in zip(shapes.items(), params.items(), strict=True):
            name, _, leaf = key.rpartition(".")
            if leaf != own.rpartition(".")[2] or tuple(getattr(tensor, "shape", ())) != shape:
                return params
            layers.setdefault(name, []).append(shape)
        parents = {name.rpartition(".")[0] for name in layers}
        numbers = [name.rpartition(".")[2] for name in layers]
        numbered = all(map(str.isdecimal, numbers)) and len(parents) == 1
        in_order = numbered and sorted(numbers, key=int) == numbers
        if not in_order and len({str(shape) for shape in layers.values()}) < len(layers):
            raise InputError(
                f"layers {list(layers)} fit widths {list(self.widths)} in more than one order; rename the "
                f"keys in the order of the layers to {list(shapes)}"
            )
        return dict(zip(shapes, params.values(), strict=True))

    def flatten(self, params: Params) -> Tensor:
        """``(*batch, P)``: every parameter in the order of the dict, weights row by row.

        >>> net = MLP([1, 2, 1])
        >>> net.flatten(net.random_params(seed=0, batch=(5,))).shape
        torch.Size([5, 7])
        """
        batch = self.check_params(params)
        parts = [
            params[key].reshape(*batch, math.prod(shape)) for key, shape in self.shapes.items()
        ]
        return torch.cat(parts, dim=-1)

    def unflatten(self, vector: Tensor) -> Params:
        """The inverse of :meth:`flatten`: views of ``vector``, of shape ``(*batch, P)``."""
        if not isinstance(vector, Tensor) or not vector.ndim:
            raise InputError(f"expected a vector of parameters, not {vector!r:.60}")
        if vector.shape[-1] != self.parameter_count:
            raise InputError(
                f"a vector of length {vector.shape[-1]} does not fit widths {list(self.widths)}, "
                f"which have {self.parameter_count} parameters"
            )
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        parts = vector.split(sizes, dim=-1)
        return {
            key: part.reshape(*vector.shape[:-1], *shape)
            for (key, shape), part in zip(self.shapes.items(), parts, strict=True)
        }

    def layer(self, params: Params, layer: int) -> Tensor:
        """``[W_l, b_l]`` of linear layer ``layer``, shape ``(*batch, out, D)``."""
        weight = params[weight_key(layer)]
        if not self.biases[layer]:
            return weight
        return torch.cat([weight, params[bias_key(layer)][..., None]], dim=-1)

    def random_params(
        self,
        seed: int | None = None,
        batch: tuple[int, ...] = (),
        scale: float = 1.0,
        dtype: torch.dtype = torch.float64,
    ) -> Params:
        """Gaussian parameters: weights with deviation ``scale/√fan_in``, biases with ``scale/2``.

        Network k of a batch depends on ``seed`` and k alone, not on how many there are.
        """
        if not isinstance(batch, tuple | list):
            raise InputError(f"batch must be a tuple of whole numbers, not {batch!r}")
        batch, scale = tuple(whole("batch", size) for size in batch), finite_number("scale", scale)
        check_dtype(dtype)
        check_floats(
            f"the parameters of {math.prod(batch)} network(s) of widths {list(self.widths)}",
            math.prod(batch) * self.parameter_count,
            "take narrower ones, or fewer",
        )
        deviations = np.concatenate(
            [
                np.full(math.prod(shape), scale / shape[1] ** 0.5 if len(shape) == 2 else scale / 2)
                for shape in self.shapes.values()
            ]
        )
        entropy = (
            whole_seed(seed)
            if seed is not None
            else int(np.random.SeedSequence().generate_state(1)[0])
        )
        draws = np.empty((math.prod(batch), self.parameter_count))
        for k in range(len(draws)):
            draws[k] = np.random.default_rng([entropy, k]).standard_normal(self.parameter_count)
        drawn = torch.from_numpy(draws * deviations).reshape(*batch, self.parameter_count)
        return self.unflatten(drawn.to(dtype))

    def forward(self, params: Params, inputs: Tensor) -> Tensor:
        """Outputs ``(*batch, N, M)`` for inputs ``(N, d)`` or ``(*batch, N, d)``.

        >>> net = MLP([2, 3, 1])
        >>> net.forward(net.random_params(0, batch=(4,)), torch.zeros(7, 2).double()).shape
        torch.Size([4, 7, 1])
        """
        top = self.depth - 1
        return self._linear(params, self._below(params, inputs, top), top)

    def activity(self, layer: int, z: Tensor) -> Tensor:
        """``h`` of a hidden layer alone, for z of shape (*batch, N, width)."""
        return self.activations[layer].function(z)

    def _linear(self, params: Params, h: Tensor, layer: int) -> Tensor:
        z: Tensor = h @ params[weight_key(layer)].mT
        return z + params[bias_key(layer)][..., None, :] if self.biases[layer] else z

    def _below(self, params: Params, inputs: Tensor, layer: int) -> Tensor:
        """What the layer below linear layer ``layer`` hands on."""
        h = inputs
        for below in range(layer):
            h = self.activity(below, self._linear(params, h, below))
        return h

    def through(self, params: Params, h: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """What a linear layer is fed with, the bias's 1 last, and ``z``: (*batch, ·, n), samples last.

        Args:
            h: what the layer below hands on, (*batch, width, n).
        """
        z: Tensor = params[weight_key(layer)] @ h
        if not self.biases[layer]:
            return h, z
        ones = h.new_ones(()).expand(*h.shape[:-2], 1, h.shape[-1])
        return torch.cat([h, ones], dim=-2), z + params[bias_key(layer)][..., None]

    def respond(self, layer: int, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Cross | None]:
        """``h``, ``∂h_i/∂z_i`` and ``∂²h_i/∂z_i²`` of a hidden layer for z of shape (*batch, width, n).

        The last is what outputs have to do with other units' pre-activations: nothing here.
        """
        return *self.activations[layer].derivatives(z), None

    def fed(self, params: Params, inputs: Tensor, layer: int) -> Tensor:
        """``x̃`` of a linear layer, what it is fed with, the bias's 1 last: ``(*batch, N, D)``.

        >>> net = MLP([2, 3, 1])
        >>> net.fed(net.random_params(0), torch.zeros(7, 2).double(), layer=1).shape
        torch.Size([7, 4])
        """
        h = self._below(params, inputs, layer)
        return torch.cat([h, h.new_ones(*h.shape[:-1], 1)], dim=-1) if self.biases[layer] else h

    # -- to and from other libraries --------------------------------------------------------------

    def to_module(self, params: Params | None = None) -> nn.Sequential:
        """The same network as ``nn.Sequential`` of Linear and activation modules.

        Args:
            params: unbatched parameters to load; the module takes their dtype. Without them it has
                torch's own random initialisation in float32.

        >>> net = MLP([2, 3, 1]); params = net.random_params(0)
        >>> module = net.to_module(params); x = torch.ones(1, 2).double()
        >>> bool((module(x) == net.forward(params, x)).all())
        True
        """
        modules: list[nn.Module] = []
        for layer in range(self.depth):
            modules.append(
                nn.Linear(self.widths[layer], self.widths[layer + 1], bias=self.biases[layer])
            )
            if layer < len(self.activations):
                modules.append(self.activations[layer].module())
        module = nn.Sequential(*modules)
        if params is not None:
            if self.check_params(params) != ():
                raise InputError("to_module takes the parameters of one network, not of a batch")
            module = module.to(next(iter(params.values())).dtype)
            module.load_state_dict(params)
        return module

    @classmethod
    def from_module(cls, module: nn.Sequential) -> tuple[MLP, Params]:
        """Architecture and float64 parameters of an ``nn.Sequential`` of Linear and activations.

        Two Linear modules in a row count as an identity activation between them. ``nn.Identity``,
        ``nn.Flatten`` (of inputs that are flat already), ``nn.Dropout`` in eval mode or with p = 0, and
        plain nested Sequentials change nothing. ``nn.BatchNorm1d`` in eval mode is folded into the
        Linear before it, or else after it: the parameters are then those of the folded layers.

        What is read is evaluated beside the module at a few inputs. The module, its mode and the random
        numbers of others stay as they are.

        Raises:
            InputError: naming the first module that is not understood and its place: another type, or a
                subclass with a forward of its own; forward hooks, parametrisations, pruning masks;
                layers that share parameters; frozen, complex, sparse, quantised, meta or infinite
                parameters; Dropout or BatchNorm1d in training mode; or if module and network differ.

        >>> net, params = MLP.from_module(nn.Sequential(nn.Linear(2, 3), nn.GELU(), nn.Linear(3, 1)))
        >>> net.widths, net.activations
        ((2, 3, 1), (Activation(gelu),))
        """
        return cls._from_chain(read_module(module), partial(replay_module, module))

    @classmethod
    def from_sklearn(cls, estimator: Any) -> tuple[MLP, Params]:
        """Architecture and parameters of a fitted ``MLPRegressor`` or ``MLPClassifier``.

        The network gives what the estimator computes before its output function: predictions of a
        regressor, logits of a classifier (use ``loss="logistic"`` where it has one output or several
        labels a sample, ``"cross_entropy"`` where it has a class each). scikit-learn's penalty
        ``alpha`` is not part of the network.

        A ``Pipeline`` or a search is refused, as its network is fed with other inputs than it is; see
        ``Point.from_sklearn`` for one that comes with its data.

        Raises:
            InputError: if the estimator is not a fitted scikit-learn MLP, has an output function that no
                loss takes up (exp, of a Poisson regressor), or predicts anything else at a few inputs.
        """
        return cls._from_chain(read_estimator(estimator), partial(replay_estimator, estimator))

    @classmethod
    def _from_chain(
        cls, chain: Chain, replay: Callable[[Chain, Callable[[Tensor], Tensor]], None]
    ) -> tuple[MLP, Params]:
        net = cls(chain.widths, chain.activations, [bias is not None for bias in chain.biases])
        params: Params = {}
        for layer, (weight, bias) in enumerate(zip(chain.weights, chain.biases, strict=True)):
            params[weight_key(layer)] = weight
            if bias is not None:
                params[bias_key(layer)] = bias
        net.check_params(params)
        for key, tensor in params.items():
            if not torch.isfinite(tensor).all():
                raise InputError(f"parameter {key!r} holds a value that is not finite")
        replay(chain, partial(net.forward, params))
        return net, params


def weight_key(layer: int) -> str:
    """The ``state_dict`` key of linear layer ``layer``'s weight."""
    return f"{2 * layer}.weight"


def bias_key(layer: int) -> str:
    """The ``state_dict`` key of linear layer ``layer``'s bias."""
    return f"{2 * layer}.bias"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_widths(widths: Sequence[int]) -> tuple[int, ...]:
    try:
        whole = [whole_number(width) or 0 for width in widths]
    except Exception:  # whatever a foreign type makes of it
        whole = []
    if len(whole) < 2 or min(whole) < 1:
        raise InputError(
            f"widths {widths!r} cannot make a network; give input, hidden layers and output, each "
            "a whole number of at least 1, as in [2, 3, 1]"
        )
    return tuple(whole)


def _per_layer_activations(
    given: ActivationLike | Sequence[ActivationLike], layers: int
) -> tuple[Activation, ...]:
    if isinstance(given, Sequence) and not isinstance(given, str):
        if len(given) != layers:
            raise InputError(
                f"{len(given)} activations were given for {layers} hidden layers; give one for "
                "all, or one for each"
            )
        return tuple(activation(each) for each in given)
    return (activation(given),) * layers
