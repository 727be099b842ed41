"""A model as the list of operations that it runs on an example: what is read off ``torch.export``."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from semiflat.errors import InputError

Example = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any]
"""Inputs of a model: one tensor, positional inputs, or inputs by name."""


def called_with(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named arguments that an example stands for.

    >>> called_with((1, 2)), called_with({"ids": 3})
    (((1, 2), {}), ((), {'ids': 3}))
    """
    if isinstance(example, Mapping):
        return (), {name: _alone(each) for name, each in example.items()}
    many = isinstance(example, tuple | list)
    return tuple(map(_alone, example if many else (example,))), {}


def _alone(value: Any) -> Any:
    """A tensor without the graph that made it."""
    return value.detach() if isinstance(value, Tensor) else value


def tensors_in(outputs: Any) -> list[Tensor]:
    """The tensors that a model gives back, in order, however they are packed."""
    if isinstance(outputs, Tensor):
        return [outputs]
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, tuple | list):
        return [tensor for each in outputs for tensor in tensors_in(each)]
    return []


def check_model(model: Any) -> nn.Module:
    """``model`` if it is a module that lies in memory and is not compiled or scripted.

    Raises:
        InputError: else.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model must be an nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule | fx.GraphModule):
        raise InputError(
            f"model is a {type(model).__name__}, which has no modules of its own to edit; give the model that "
            "it was made from"
        )
    if hasattr(model, "_orig_mod"):
        raise InputError(
            "model is what torch.compile made; give the module that it was made from (model._orig_mod)"
        )
    for name, module in model.named_modules():
        if type(module).__module__.startswith(("torch.ao.nn.", "torch.nn.quantized")):
            raise InputError(
                f"{name!r} is a quantised {type(module).__name__}, whose weights are packed; give the model as "
                "it was before"
            )
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta or isinstance(
            tensor, nn.parameter.UninitializedParameter | nn.parameter.UninitializedBuffer
        ):
            raise InputError(
                f"{name!r} has no values yet; run the model once on an example, or load its weights"
            )
        if tensor.is_complex():
            raise InputError(
                f"{name!r} is complex ({tensor.dtype}); expected real parameters and buffers"
            )
    return model


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Attention in plain operations: its fused kernels on a CPU have no second derivative."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what torch.export says of matters of its own."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._dynamo", "torch.fx")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # Where a number is taken out of a tensor, it prints the graph so far.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def same_random_state() -> Iterator[None]:
    """The random state of every device afterwards is what it was before."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        yield


@dataclass(frozen=True)
class Captured:
    """What a model does with an example.

    Attributes:
        model: the model, as given.
        graph: operations in the order they run.
        owners: for each placeholder of a parameter or buffer the names that tensor has in the model; the first
            is the one that it is called by.
        constants: tensors that are no parameters: buffers, and constants made while running.
        inputs: placeholders of the example's tensors and their values.
    """

    model: nn.Module
    graph: fx.Graph
    owners: dict[str, tuple[str, ...]]
    constants: dict[str, Tensor]
    inputs: dict[str, Any]

    @functools.cached_property
    def guards(self) -> tuple[str, ...]:
        """What of the inputs was taken as it is in the example: sizes, and what the graph asserts."""
        found = [
            f"{name} has sizes {tuple(value.shape)}"
            if isinstance(value, Tensor)
            else f"an input is {value!r:.60}"
            for name, value in self.inputs.items()
        ]
        for node in self.graph.nodes:
            if "_assert" in str(node.target) and "metadata" not in str(node.target):
                found += [each for each in node.args if isinstance(each, str)]
        return tuple(found)

    @functools.cached_property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters and buffers of the model, by name."""
        return dict((*self.model.named_parameters(), *self.model.named_buffers()))


def capture(model: nn.Module, example: Example) -> Captured:
    """Record what a model does with an example; the model, its buffers and the random state stay.

    Raises:
        InputError: if the model fails on the example, or what it does depends on values.
    """
    model = check_model(model)
    args, kwargs = called_with(example)
    if any(isinstance(each, Tensor) and not each.numel() for each in (*args, *kwargs.values())):
        raise InputError("the example has an input without elements; give at least one sample")
    for place, each in (*enumerate(args), *kwargs.items()):
        if isinstance(each, Tensor) and each.is_complex():
            raise InputError(f"input {place!r} is complex ({each.dtype}); expected real numbers")
    # A copy runs: batch normalisation in training mode changes its statistics.
    trial = copied(model)
    try:
        with torch.no_grad(), same_random_state():
            outputs = trial(*copy.deepcopy(args), **copy.deepcopy(kwargs))
    except Exception as error:
        line = str(error).strip().splitlines() or [type(error).__name__]
        expected = ", ".join(_arguments(model))
        raise InputError(
            f"the model fails on the example ({line[0]:.200}); give inputs as it takes them: a tensor, a tuple "
            f"of its arguments ({expected}), or a dict of them by name"
        ) from error
    if not tensors_in(outputs):
        raise InputError(f"the model gives back {type(outputs).__name__} without a tensor in it")
    try:
        with quiet(), torch.no_grad(), same_random_state():
            program = torch.export.export(trial, args, kwargs, strict=False)
    except Exception as error:
        raise InputError(_not_captured(error)) from error
    signature = program.graph_signature
    alike: dict[int, list[str]] = {}
    for name, tensor in _all_names(model):
        alike.setdefault(id(tensor), []).append(name)
    first = {name: names for names in alike.values() for name in names}
    named = signature.inputs_to_parameters | signature.inputs_to_buffers
    owners = {node: tuple(first[name]) for node, name in named.items() if name in first}
    held = program.state_dict | program.constants
    constants = {
        spec.arg.name: held[spec.target]
        for spec in signature.input_specs
        if spec.target is not None and isinstance(held.get(spec.target), Tensor)
    }
    flat = torch.utils._pytree.tree_leaves((args, kwargs))
    inputs = dict(zip(signature.user_inputs, flat, strict=False))
    return Captured(model, program.graph, owners, constants, {str(k): v for k, v in inputs.items()})


def _all_names(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def copied(model: nn.Module) -> nn.Module:
    """A copy of a model that shares nothing with it.

    Raises:
        InputError: if it cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"the model cannot be copied ({str(error).splitlines()[0]:.200}); remove what holds it from being "
            "copied: old-style weight_norm or spectral_norm, tensors of a graph kept as attributes, open files"
        ) from error


def _arguments(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _not_captured(error: Exception) -> str:
    text = str(error).strip()
    line = text.splitlines()[0] if text else type(error).__name__
    if "data-dependent" in text or "DataDependent" in type(error).__name__:
        return (
            "what the model does depends on the values of its inputs, so one example does not show all of it "
            f"({line:.200}); take the branch out of the part to be changed"
        )
    return f"torch.export cannot follow the model ({type(error).__name__}: {line:.200})"


def _hooks(module: nn.Module) -> list[Any]:
    every = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return [hook for hooks in every for hook in hooks.values()]


def _of_ours(hook: Any) -> bool:
    """Whether a hook runs a block that growth put there: it adds, by plain layers, and keeps no sizes."""
    return getattr(hook, "__module__", "") == "semiflat.growth.depth"


def not_plain(model: nn.Module) -> dict[str, str]:
    """Modules whose tensors cannot be edited by name, and why: parametrisations, hooks, quantised weights."""
    found = {}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            found[name] = "its weights are computed by a parametrisation"
        elif any(
            getattr(hook, "__module__", "").startswith("torch.nn.utils")
            or "torch.nn.utils" in type(hook).__module__
            for hook in module._forward_pre_hooks.values()
        ):
            found[name] = (
                "its weights are made by a hook (weight_norm, spectral_norm or a pruning mask)"
            )
        elif any(not _of_ours(hook) for hook in _hooks(module)):
            found[name] = "a hook is registered on it, which may change what it gives"
    return found
