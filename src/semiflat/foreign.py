"""Networks and tensors that others made, taken only where they are what they are read as.

A module or an estimator is read layer by layer: whatever is not known to be one of those understood is
refused with its name and place. Then it is evaluated beside what was read, on a few inputs, so that what
reading overlooked does not go on as another network.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from semiflat.activations import Activation, Elementwise, activation, activation_of_module
from semiflat.errors import InputError

UNDERSTOOD = (
    "Linear, then an activation (Tanh, Sigmoid, Softplus(beta=1, threshold from 20 up), "
    "GELU(approximate='none'), SiLU, ReLU, LeakyReLU, Identity), then Linear, and so on, "
    "ending on a Linear; between them Dropout and BatchNorm1d in eval mode, Flatten, and Sequential of these"
)


@dataclass
class Chain:
    """Linear layers with an activation between each two: what was read, and float64 copies of it.

    Attributes:
        weights: (out, in) for each layer.
        biases: (out,) for each layer, None where it has none.
        activations: one fewer.
    """

    weights: list[Tensor] = field(default_factory=list)
    biases: list[Tensor | None] = field(default_factory=list)
    activations: list[Activation] = field(default_factory=list)

    @property
    def open(self) -> bool:
        """Whether the last thing is a linear layer."""
        return len(self.activations) < len(self.weights)

    @property
    def widths(self) -> list[int]:
        """Input, hidden layers, output."""
        return [self.weights[0].shape[1], *(len(weight) for weight in self.weights)]

    def bound(self, inputs: Tensor, rounding: float) -> Tensor:
        """How far the outputs (n, M) may be off in arithmetic that rounds by ``rounding``."""
        h, error = inputs, rounding * inputs.abs()
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            offset = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
            size = h.abs() @ weight.abs().mT + offset.abs()
            error = error @ weight.abs().mT + (weight.shape[1] + 8) * rounding * size
            h = h @ weight.mT + offset
            if layer < len(self.activations):
                value, slope, _ = self.activations[layer].derivatives(h)
                # Twice the slope, for what lies beside.
                error = error * (2 * slope.abs()).clamp(min=1.2) + 8 * rounding * (1 + value.abs())
                error += self.activations[layer].module_error
                h = value
        return 2 * error


def plain(what: str, tensor: Tensor) -> Tensor:
    """The tensor, if it holds real numbers that can be read one by one.

    Raises:
        InputError: naming it, if it is none, has no values, or keeps them in another way.
    """
    if not isinstance(tensor, Tensor):
        raise InputError(f"{what} is of type {type(tensor).__name__}; expected a tensor of numbers")
    fault = None
    if is_lazy(tensor):
        fault = "has no shape yet; run the lazy module on a batch first"
    elif tensor.is_meta:
        fault = "is on the device 'meta' and has no values; load them first"
    elif tensor.is_quantized:
        fault = "is quantised; give tensor.dequantize()"
    elif tensor.layout is not torch.strided or tensor.is_nested:
        fault = f"is kept as {tensor.layout}, nested or sparse; give tensor.to_dense()"
    elif tensor.is_complex():
        fault = "holds complex numbers; expected real ones"
    if fault is not None:
        raise InputError(f"{what} {fault}")
    return tensor


def check_dtype(dtype: Any) -> None:
    """Raise :class:`InputError` for what is no floating-point type of torch."""
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise InputError(
            f"dtype must be a floating-point type such as torch.float64, not {dtype!r}"
        )


def plain_parameters(module: nn.Module) -> None:
    """Raise :class:`InputError`, with its name, for a parameter or buffer that is not :func:`plain`."""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        plain(f"{name!r} of the module", tensor)


# -- nn.Sequential --------------------------------------------------------------------------------


def read_module(module: Any) -> Chain:
    """The chain that an ``nn.Sequential`` computes.

    Raises:
        InputError: naming what is not understood, and its place.
    """
    if not isinstance(module, nn.Sequential):
        raise InputError(
            f"expected an nn.Sequential of Linear and activation modules, got {type(module).__name__}"
        )
    plain_parameters(module)
    children = list(_flat(module, ""))
    _used_once(module, children)
    chain = Chain()
    before: tuple[Tensor, Tensor] | None = None  # of a BatchNorm1d that the next Linear is fed by
    for place, child in children:
        where = f"module {place}, {child},"
        match child:
            case nn.Linear():
                _own_weights(where, child, {"weight", "bias"})
                weight, bias = _double(child.weight), None
                if child.bias is not None:
                    bias = _double(child.bias)
                if before is not None:
                    weight, bias = _fed_by(where, before, weight, bias)
                    before = None
                if chain.open:
                    chain.activations.append(activation("identity"))
                chain.weights.append(weight)
                chain.biases.append(bias)
            case nn.BatchNorm1d():
                scale, shift = _normalisation(where, child)
                if not chain.open:
                    first = before or (torch.ones_like(scale), torch.zeros_like(scale))
                    before = scale * first[0], scale * first[1] + shift
                else:
                    if chain.biases[-1] is None and not child.affine:
                        raise _no_bias(where)
                    bias = chain.biases[-1]
                    chain.biases[-1] = shift if bias is None else scale * bias + shift
                    chain.weights[-1] = scale[:, None] * chain.weights[-1]
            case nn.Dropout() | nn.AlphaDropout() | nn.FeatureAlphaDropout():
                if child.training and child.p > 0:
                    raise InputError(f"{where} is in training mode; call module.eval() first")
            case nn.Flatten() if (child.start_dim, child.end_dim) == (1, -1):
                pass
            case nn.Identity():
                pass
            case _:
                known = activation_of_module(child)
                if known is None:
                    raise InputError(f"{where} is not supported; supported is {UNDERSTOOD}")
                if known.linear:
                    continue
                if not chain.open or before is not None:
                    raise InputError(
                        f"{where} stands where a Linear is expected; supported is {UNDERSTOOD}"
                    )
                chain.activations.append(known)
    if not chain.weights:
        raise InputError("the nn.Sequential has no Linear module; expected at least one")
    if not chain.open:
        raise InputError(
            f"the network ends on the activation {chain.activations[-1].name}; the last layer must be "
            "linear. Drop it and put it into the loss (loss='logistic' for Sigmoid)"
        )
    return chain


def _flat(module: nn.Module, place: str) -> Iterator[tuple[str, nn.Module]]:
    """Every module in the order in which it is applied, those of nested Sequentials in their place."""
    if place == "" and (
        torch_module._global_forward_hooks or torch_module._global_forward_pre_hooks
    ):
        raise InputError(
            "a global forward hook is registered, which may change what any module computes; remove it"
        )
    where = f"module {place}, {type(module).__name__}," if place else type(module).__name__
    base = next(
        (
            each
            for each in type(module).__mro__
            if each is Elementwise or each.__module__.startswith("torch.nn.modules.")
        ),
        nn.Module,
    )
    own = base is not nn.Module and any(
        getattr(type(module), name, None) is not getattr(base, name, None)
        for name in ("forward", "__call__", "_call_impl", "__getattr__", "__getattribute__")
    )
    # A property or a descriptor may give another weight than the one that is trained.
    own = own or any(
        name in vars(each)
        for each in type(module).__mro__[: type(module).__mro__.index(base)]
        for name in (*module._parameters, *module._buffers)
    )
    if own or "forward" in vars(module):
        raise InputError(
            f"{where} has a forward of its own, or attributes in the place of its parameters, and is not "
            f"computed as a plain {base.__name__}; only plain modules are understood (gradient_basis_gap and "
            "module_hessian_operator take any module)"
        )
    if module._forward_hooks or module._forward_pre_hooks or "parametrizations" in module._modules:
        raise InputError(
            f"{where} has a forward hook, a parametrisation, a pruning mask or a weight or spectral norm, "
            "which change what it computes or what is trained; remove it (hook.remove(), "
            "parametrize.remove_parametrizations, prune.remove, remove_weight_norm) or copy the weights "
            "into a plain module"
        )
    if not isinstance(module, nn.Sequential):
        yield place, module
        return
    for name, child in module._modules.items():
        if child is not None:
            yield from _flat(child, f"{place}.{name}" if place else name)


def _used_once(module: nn.Module, children: list[tuple[str, nn.Module]]) -> None:
    """Refuse a network whose parameters are fewer than those of its layers, or not all trained."""
    seen: dict[int, str] = {}
    for place, child in children:
        first = seen.setdefault(id(child), place)
        if first != place and next(child.parameters(), None) is not None:
            raise InputError(
                f"module {place} is module {first} again, {child}: layers that share parameters are "
                "another problem than layers with parameters of their own; give each layer its own"
            )
    storages: dict[int, list[tuple[str, Tensor]]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            raise InputError(
                f"parameter {name!r} is frozen (requires_grad=False), and a point is judged in all "
                "parameters; if it is one in all of them, say module.requires_grad_(True) first"
            )
        memory = storages.setdefault(parameter.untyped_storage().data_ptr(), [])
        memory.append((name, parameter))
    for sharing in storages.values():
        # Parts of one vector share its storage, and no number of it.
        places = torch.cat([_places(parameter) for _, parameter in sharing])
        if len(places.unique()) < len(places):
            names = " and ".join(repr(name) for name, _ in sharing[:2])
            raise InputError(
                f"{names} share memory (tied layers, or an expanded tensor), which is another problem than "
                "layers with parameters of their own; give each its own (.clone())"
            )


def _places(tensor: Tensor) -> Tensor:
    """Where in its storage each entry of a tensor lies."""
    places = torch.full((), int(tensor.storage_offset()))
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places = places[..., None] + stride * torch.arange(size)
    return places.flatten()


def _own_weights(where: str, module: nn.Module, expected: set[str]) -> None:
    """Refuse weights that are computed from others, or are no parameters."""
    found = {name for name, parameter in module._parameters.items() if parameter is not None}
    if not found <= expected or "weight" not in found:
        raise InputError(
            f"{where} has the parameters {sorted(found)}; expected 'weight' and 'bias', trained as they are"
        )


def _normalisation(where: str, module: _BatchNorm) -> tuple[Tensor, Tensor]:
    """(scale, shift) that a batch normalisation applies to each feature in eval mode."""
    if module.training:
        raise InputError(
            f"{where} is in training mode, where a sample's output depends on its batch; call "
            "module.eval() first"
        )
    if module.running_mean is None or module.running_var is None:
        raise InputError(
            f"{where} has no running statistics, so that a sample's output depends on its batch; use "
            "track_running_stats=True"
        )
    scale = (_double(module.running_var) + module.eps).rsqrt()
    shift = -_double(module.running_mean) * scale
    if module.affine:
        _own_weights(where, module, {"weight", "bias"})
        gain = _double(module.weight)
        if (gain == 0).any():
            raise InputError(
                f"{where} has the weight 0 for a feature, whose linear layer then counts for nothing: "
                "folded into one layer that is another problem; leave that feature out"
            )
        scale, shift = gain * scale, gain * shift
        if module.bias is not None:
            shift = shift + _double(module.bias)
    return scale, shift


def _fed_by(
    where: str, before: tuple[Tensor, Tensor], weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """A linear layer with the scale and shift of its inputs folded in."""
    scale, shift = before
    if bias is None:
        raise _no_bias(where)
    if weight.shape[1] != len(scale):
        raise InputError(f"{where} is fed with {len(scale)} features by the module before it")
    return weight * scale, bias + weight @ shift


def _no_bias(where: str) -> InputError:
    return InputError(
        f"{where} would, folded with the module beside it, need a bias that is not trained; give the "
        "Linear a bias"
    )


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)


def replay_module(module: nn.Module, chain: Chain, forward: Callable[[Tensor], Tensor]) -> None:
    """Raise :class:`InputError` if the module computes anything else than ``forward``.

    Both are evaluated at a few inputs, the module as it is given: in its own type, on its own device.
    """
    one = next(module.parameters())
    inputs = _inputs(chain.widths[0]).to(one.dtype)
    with torch.no_grad():
        try:
            found = module(inputs.to(one.device)).to("cpu")
        except Exception as error:
            raise InputError(
                f"the module fails on inputs of shape {tuple(inputs.shape)}: "
                f"{str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error
        types = {parameter.dtype for parameter in module.parameters()} | {found.dtype}
    rounding = max(torch.finfo(each).eps for each in types)
    if one.is_cuda or torch.get_float32_matmul_precision() != "highest":
        rounding = max(rounding, 2.0**-8)  # products in shorter types
    _compare(
        "module", found.double(), forward(inputs.double()), chain.bound(inputs.double(), rounding)
    )


# -- scikit-learn ---------------------------------------------------------------------------------


def read_estimator(estimator: Any) -> Chain:
    """The chain that a fitted ``MLPRegressor`` or ``MLPClassifier`` computes before its output function.

    Raises:
        InputError: naming what it is instead, or an output function that no loss here takes up.
    """
    kind = type(estimator).__name__
    if not hasattr(estimator, "coefs_"):
        inside = {
            "steps": "network = model[-1], whose inputs are model[:-1].transform(X)",
            "best_estimator_": "model.best_estimator_",
            "regressor_": "model.regressor_, whose targets are model.transformer_.transform(y)",
            "estimators_": "one of model.estimators_",
            "estimator": "the estimator inside it",
        }
        for name, way in inside.items():
            if hasattr(estimator, name):
                raise InputError(
                    f"a {kind} is not a network but holds one, and may change what it is given; give {way}"
                )
        raise InputError(
            f"expected a fitted MLPRegressor or MLPClassifier, got {kind} without coefs_; call its fit "
            "first"
        )
    ends = getattr(estimator, "out_activation_", None)
    if ends not in ("identity", "logistic", "softmax"):
        raise InputError(
            f"the output function of this {kind} is {ends!r}, so it predicts {ends} of what its network "
            "computes, and no named loss takes that up; fit one with loss='squared_error'"
        )
    chain = Chain()
    for weight, bias in zip(estimator.coefs_, estimator.intercepts_, strict=True):
        chain.weights.append(torch.tensor(np.asarray(weight).T.copy(), dtype=torch.float64))
        chain.biases.append(torch.tensor(np.asarray(bias), dtype=torch.float64))
    names = {"logistic": "sigmoid"}
    named = activation(names.get(estimator.activation, estimator.activation))
    chain.activations = [named] * (len(chain.weights) - 1)
    return chain


def replay_estimator(estimator: Any, chain: Chain, forward: Callable[[Tensor], Tensor]) -> None:
    """Raise :class:`InputError` if the estimator predicts anything else than ``forward`` tells."""
    given = np.asarray(estimator.coefs_[0]).dtype
    inputs = _inputs(chain.widths[0]).numpy().astype(given)
    ask = getattr(estimator, "predict_proba", None) or estimator.predict
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these inputs have no column names
        found = torch.from_numpy(np.asarray(ask(inputs), dtype=np.float64))
    at = torch.from_numpy(inputs).double()
    expected = forward(at)
    if estimator.out_activation_ == "logistic":
        expected = torch.sigmoid(expected)
        if expected.shape[1] == 1:
            expected = torch.cat([1 - expected, expected], 1)
    elif estimator.out_activation_ == "softmax":
        expected = torch.softmax(expected, 1)
    rounding = float(np.finfo(given).eps)
    error = rounding + chain.bound(at, rounding).amax(1, keepdim=True)
    _compare(type(estimator).__name__, found.reshape(expected.shape), expected, error)


def network_of(model: Any, X: Any) -> tuple[Any, Any, list[Any]]:
    """The network inside searches and pipelines, the inputs as it is fed with them, and the steps before."""
    before: list[Any] = []
    while hasattr(model, "best_estimator_") or hasattr(model, "steps"):
        if hasattr(model, "best_estimator_"):
            model = model.best_estimator_
            continue
        if len(model.steps) > 1:
            try:
                X = model[:-1].transform(X)
            except Exception as error:
                raise InputError(
                    f"the steps before the network fail on X: {str(error).splitlines()[0]}"
                ) from error
            before += [step for step in model[:-1] if step not in (None, "passthrough")]
        model = model[-1]
    return model, X.toarray() if hasattr(X, "toarray") else X, before


def standardised_by(steps: list[Any], width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """What one ``StandardScaler`` subtracts from columns and divides them by, (width,) each; else None."""
    from sklearn.preprocessing import StandardScaler

    if len(steps) != 1 or type(steps[0]) is not StandardScaler:
        return None
    mean, scale = steps[0].mean_, steps[0].scale_
    return (
        np.zeros(width) if mean is None or not steps[0].with_mean else np.asarray(mean),
        np.ones(width) if scale is None else np.asarray(scale),
    )


def alpha_of(model: Any, given: str, samples: float) -> dict[str, float]:
    """What the penalty of a scikit-learn network is as a weight decay.

    Args:
        given: what the user says, ``"alpha"``.
        samples: N, or the sum of the samples' weights. A solver that takes batches divides ``alpha`` by
            their size instead.
    """
    if given != "alpha":
        raise InputError(
            f"weight_decay={given!r} is no number; the penalty that the model was trained with is "
            'weight_decay="alpha"'
        )
    if model.solver != "lbfgs":
        samples = min(200 if model.batch_size == "auto" else int(model.batch_size), samples)
    return {"weight": float(model.alpha) / samples, "bias": 0.0}


def targets_of(network: Any, y: Any) -> tuple[str, Any]:
    """(loss, targets) of a network that :func:`read_estimator` takes: classes by their number."""
    if network.out_activation_ == "identity":
        return "squared", y
    loss = "logistic" if network.out_activation_ == "logistic" else "cross_entropy"
    labels, classes = np.asarray(y), np.asarray(network.classes_)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:  # several labels a sample, each 0 or 1
        return loss, y
    same = labels[:, None] == classes
    unknown = ~same.any(1)
    if unknown.any():
        row = int(unknown.argmax())
        raise InputError(
            f"y[{row}] = {labels[row].item()!r} is none of the classes {classes.tolist()} that the "
            f"{type(network).__name__} was fitted with"
        )
    return loss, same.argmax(1)


# -- both -----------------------------------------------------------------------------------------


def _inputs(width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)  # the global one is left as it is
    sizes = torch.tensor([0.1, 1.0, 1.0, 1.0, 10.0], dtype=torch.float64)
    return sizes[:, None] * torch.randn((5, width), generator=generator, dtype=torch.float64)


def _compare(what: str, found: Tensor, expected: Tensor, error: Tensor) -> None:
    if found.shape != expected.shape:
        raise InputError(
            f"the {what} gives outputs of shape {tuple(found.shape)} where the network read from it gives "
            f"{tuple(expected.shape)}; it is not the plain network it looks like"
        )
    away = (found - expected).abs()
    if not bool((away <= error).all()):  # nor if it is nan
        raise InputError(
            f"the {what} is not the plain network it looks like: on a few inputs it gives other outputs "
            f"than its layers one after the other (off by {float(away.max()):.2g}, where rounding makes "
            f"up to {float(error.max()):.2g})"
        )
