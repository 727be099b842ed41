"""Any ``nn.Module`` as a function of one flat vector of its parameters, and derivatives of a loss of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from semiflat.errors import InputError
from semiflat.foreign import plain_parameters
from semiflat.losses import Loss
from semiflat.modules.capture import (
    check_model,
    copied,
    same_random_state,
    second_derivatives,
)
from semiflat.problem import finite

BATCHED = 64
"""Directions that the Hessian is applied to at a time: more are no faster, and take memory."""
PLACES = 32
"""Places of an output up to which a convolution is one product: at 16 three times as fast, at 64 no faster."""


class Columns(TorchFunctionMode):
    """Convolutions to a few places as one product of matrices for all samples.

    torch's own in float64 on a CPU are a product for each sample, and its second derivatives are slower still.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d and len(args) == 7 and not kwargs:  # as nn.Conv2d calls it
            x, weight, bias, stride, padding, dilation, groups = args
            plain = x.ndim == 4 and x.dtype == torch.float64 and x.device.type == "cpu"
            if plain and groups == 1 and not isinstance(padding, str):
                shape = [
                    (size + 2 * pad - gap * (width - 1) - 1) // step + 1
                    for size, pad, gap, width, step in zip(
                        x.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
                    )
                ]
                if shape[0] * shape[1] <= PLACES:
                    columns = nn.functional.unfold(
                        x, weight.shape[2:], dilation, padding, stride
                    ).mT
                    made = nn.functional.linear(columns.flatten(0, 1), weight.flatten(1), bias)
                    return made.unflatten(0, columns.shape[:2]).mT.unflatten(2, shape)
        return func(*args, **(kwargs or {}))


class FlatModule:
    """A copy of a module as a function of its parameters θ; the given module is left as it is.

    Parameters that need no gradient are held fixed and do not count in θ. Buffers are those of the given
    module at every call: what one call changes of them, the next does not see.

    Args:
        module: it.
        dtype: of the copy and of θ; None for that of the module's own parameters.
        device: of the copy; None for that of the module.

    Attributes:
        module: the copy.
        at: the parameters θ, flat, in the order of ``module.named_parameters()``.
        places: where each parameter stands in θ, by name.
        shapes: of each parameter, by name.
        held: names of the parameters that are held fixed.

    Raises:
        InputError: if nothing requires a gradient, or a parameter holds a value that is not finite.

    >>> flat = FlatModule(nn.Linear(2, 1))
    >>> flat.at.dtype, flat.places["bias"], flat(flat.at, torch.ones(3, 2).double()).shape
    (torch.float64, slice(2, 3, None), torch.Size([3, 1]))
    """

    def __init__(
        self,
        module: nn.Module,
        dtype: torch.dtype | None = torch.float64,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"expected an nn.Module, not {type(module).__name__}")
        plain_parameters(module)
        self.module = copied(check_model(module)).to(device=device, dtype=dtype)
        named = dict(self.module.named_parameters())
        trained = {name: p.detach() for name, p in named.items() if p.requires_grad}
        self._fixed = {name: p.detach() for name, p in named.items() if not p.requires_grad}
        self.held = tuple(self._fixed)
        if not trained:
            raise InputError("the module has no parameter that requires a gradient")
        kinds = {str(p.dtype).removeprefix("torch.") for p in trained.values()}
        if len(kinds) > 1:
            raise InputError(
                f"the parameters are of several types, {', '.join(sorted(kinds))}; give dtype=torch.float64"
            )
        self.shapes = {name: p.shape for name, p in trained.items()}
        self._sizes = [p.numel() for p in trained.values()]
        self.at = torch.cat([p.reshape(-1) for p in trained.values()])
        self.places: dict[str, slice] = {}
        start = 0
        for name, size in zip(trained, self._sizes, strict=True):
            self.places[name] = slice(start, start + size)
            start += size
            if not torch.isfinite(self.at[self.places[name]]).all():
                raise InputError(f"parameter {name!r} holds a value that is not finite")
        # What a module in training mode does to its buffers is done to copies of them.
        changing = any(each.training for each in self.module.modules())
        self._buffers = dict(self.module.named_buffers()) if changing else {}

    def named(self, vector: Tensor) -> dict[str, Tensor]:
        """The parts of a vector (P,) by the names of the parameters, in their shapes; differentiable."""
        parts = zip(self.shapes.items(), vector.split(self._sizes), strict=True)
        return {name: piece.reshape(shape) for (name, shape), piece in parts}

    def flat(self, named: dict[str, Tensor]) -> Tensor:
        """The vector (P,) whose parts these are."""
        return torch.cat([named[name].reshape(-1) for name in self.shapes])

    def __call__(self, vector: Tensor, *args: Any, **kwargs: Any) -> Any:
        """What the module gives for some inputs at flat parameters; twice differentiable."""
        buffers = {name: buffer.clone() for name, buffer in self._buffers.items()}
        state = self.named(vector) | self._fixed | buffers
        with second_derivatives(), Columns():
            return torch.func.functional_call(self.module, state, args, kwargs)


class FrozenModule(FlatModule):
    """A float64 copy of a module with the inputs of N samples, which it treats one by one.

    Attributes:
        inputs: the N inputs, float64 if they are real.
        width: number of outputs M.

    Raises:
        InputError: if nothing requires a gradient, or the module's outputs are not (N, M), differ from
            call to call, or depend on the other samples of a batch.
    """

    def __init__(self, module: nn.Module, X: Any) -> None:
        super().__init__(module, torch.float64, "cpu")
        inputs = finite("X", X)
        if not inputs.ndim or not len(inputs):
            raise InputError(f"X has shape {tuple(inputs.shape)}; expected at least one sample")
        given = torch.as_tensor(X) if isinstance(X, Tensor | np.ndarray) else inputs
        # Whole numbers that were given as such stay so: an embedding takes no others.
        self.inputs = inputs if given.is_floating_point() else given.detach().cpu()
        self.width = _probe(self)

    @property
    def samples(self) -> int:
        """Number of samples N."""
        return len(self.inputs)

    def outputs(self, vector: Tensor, part: slice) -> Tensor:
        """Outputs (n, M) on some samples at flat parameters; differentiable."""
        return self.outputs_of(vector, self.inputs[part])

    def outputs_of(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (n, M) for other inputs."""
        result: Tensor = self(vector, inputs)
        return result

    def targets(self, y: Any, loss: Loss) -> Tensor:
        """``y`` as the loss takes it."""
        return loss.targets(finite("y", y), self.samples, self.width)

    def slices(self, batch_size: int) -> list[slice]:
        """Slices that cover the samples, ``batch_size`` at a time."""
        starts = range(0, self.samples, batch_size)
        return [slice(start, min(start + batch_size, self.samples)) for start in starts]


def _probe(frozen: FrozenModule) -> int:
    """The number of outputs M of a module that gives each sample the same (M,) every time."""
    few, at = min(4, frozen.samples), frozen.at
    with torch.no_grad(), same_random_state():
        try:
            once, twice = (frozen.outputs(at, slice(0, few)) for _ in range(2))
            one = frozen.outputs(at, slice(0, 1))
        except Exception as error:
            raise InputError(
                f"the module failed on {few} inputs or on one ({error}); expected it to map (n, …) "
                "to (n, M) for any n (batch normalisation in training mode? call module.eval() first)"
            ) from error
    if once.ndim != 2 or len(once) != few:
        raise InputError(
            f"the module maps {few} inputs to outputs of shape {tuple(once.shape)}; expected "
            f"({few}, M)"
        )
    if not torch.equal(once, twice) or not torch.allclose(once[:1], one, rtol=1e-9, atol=1e-12):
        raise InputError(
            "the module gives different outputs for the same input, or an output that depends on "
            "the rest of the batch (dropout or batch normalisation in training mode?); call "
            "module.eval() first"
        )
    return once.shape[1]


Term = Callable[[Tensor], Tensor]
"""A part of a loss: of parameters (P,) a number, or the losses of some parts."""


class Derivatives(ABC):
    """A loss that is a sum over parts of the data, with its derivatives, one part after the other.

    A module's second derivatives come by reverse over reverse differentiation, at a few gradients each.

    Attributes:
        at: the parameters θ, (P,).
        decay: λ of a penalty ``½ λ ‖θ‖²`` on top.
        keep: whether what slopes at θ are made of is kept from product to product, where memory has room.
    """

    at: Tensor
    decay: float = 0.0
    keep: bool = False
    _kept: list[tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def terms(self) -> Iterator[Term]:
        """The parts of the loss, with their shares in it."""

    def value(self, at: Tensor | None = None) -> Tensor:
        """The loss, a number."""
        at = self.at if at is None else at
        with torch.no_grad():
            total: Tensor = 0.5 * self.decay * at.square().sum()
            for term in self.terms():
                total = total + term(at)
        return total

    def slopes(self, at: Tensor | None = None) -> Iterator[Tensor]:
        """The gradient of each part, (P,)."""
        at = self.at if at is None else at
        for term in self.terms():
            here = at.detach().requires_grad_()
            yield torch.autograd.grad(term(here), here)[0]

    def gradient(self, at: Tensor | None = None) -> Tensor:
        """The gradient, (P,)."""
        total = self.decay * (self.at if at is None else at)
        for slope in self.slopes(at):
            total = total + slope
        return total

    def product(self, vector: Tensor, at: Tensor | None = None) -> Tensor:
        """``H v`` for v of shape (P,), or ``V H`` for directions V (k, P), one a row."""
        total = self.decay * vector
        for here, slope in self._curved(at):
            if slope.requires_grad:  # the loss of a linear model may be linear
                total = total + _turned(slope, here, vector, at is None and self.keep)
        return total

    def _curved(self, at: Tensor | None) -> Iterable[tuple[Tensor, Tensor]]:
        """Parameters and the slope of each part there, which can be differentiated again."""
        if at is not None or not self.keep:
            return self._slopes(self.at if at is None else at)
        if self._kept is None:
            self._kept = list(self._slopes(self.at))
        return self._kept

    def _slopes(self, at: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for term in self.terms():
            here = at.detach().requires_grad_()
            yield here, torch.autograd.grad(term(here), here, create_graph=True)[0]

    def hessian(self, at: Tensor | None = None) -> Tensor:
        """The Hessian, (P, P)."""
        size = len(self.at)
        eye = torch.eye(size, dtype=self.at.dtype, device=self.at.device)
        found = torch.cat([self.product(rows, at) for rows in eye.split(BATCHED)])
        # torch's batches of cotangents have been wrong before: one product alone tells.
        trial = torch.linspace(-1, 1, size).to(self.at).cos()
        apart = found @ trial - self.product(trial, at)
        if float(apart.abs().max()) > torch.finfo(trial.dtype).eps ** 0.5 * float(
            found.abs().max()
        ):
            found = torch.stack([self.product(row, at) for row in eye])
        return found


def _turned(slope: Tensor, at: Tensor, vector: Tensor, again: bool) -> Tensor:
    """What the derivative of a slope does to one direction (P,) or several (k, P)."""
    if vector.ndim == 1:
        return torch.autograd.grad(slope, at, vector, retain_graph=again)[0]
    try:
        return torch.autograd.grad(slope, at, vector, retain_graph=True, is_grads_batched=True)[0]
    except (RuntimeError, ValueError):  # an operation that takes no batch of cotangents
        each = [torch.autograd.grad(slope, at, row, retain_graph=True)[0] for row in vector]
        return torch.stack(each)
