"""Any ``nn.Module`` as a function of one flat float64 vector of its parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from semiflat.errors import InputError
from semiflat.foreign import plain_parameters
from semiflat.losses import Loss
from semiflat.problem import finite


class FrozenModule:
    """A float64 copy of a module with its inputs; the given module is left as it is.

    Parameters that need no gradient are held fixed and do not count in θ.

    Attributes:
        inputs: the N inputs, float64 if they are real.
        at: the parameters θ, flat, in the order of ``module.named_parameters()``.
        width: number of outputs M.
        places: where each parameter stands in θ, by name.

    Raises:
        InputError: if nothing requires a gradient, or the module's outputs are not (N, M), differ from
            call to call, or depend on the other samples of a batch.
    """

    def __init__(self, module: nn.Module, X: Any) -> None:
        if not isinstance(module, nn.Module):
            raise InputError(f"expected an nn.Module, not {type(module).__name__}")
        plain_parameters(module)
        try:
            self.module = copy.deepcopy(module).to("cpu", torch.float64)
        except RuntimeError as error:  # of weights that are computed when the module is called
            raise InputError(
                f"the module cannot be copied ({str(error).splitlines()[0]}); remove weight_norm, "
                "spectral_norm or pruning masks, or use torch.nn.utils.parametrizations"
            ) from error
        inputs = finite("X", X)
        if not inputs.ndim or not len(inputs):
            raise InputError(f"X has shape {tuple(inputs.shape)}; expected at least one sample")
        given = torch.as_tensor(X) if isinstance(X, Tensor | np.ndarray) else inputs
        # Whole numbers that were given as such stay so: an embedding takes no others.
        self.inputs = inputs if given.is_floating_point() else given.detach().cpu()
        named = dict(self.module.named_parameters())
        self._trained = {k: p.detach() for k, p in named.items() if p.requires_grad}
        self._fixed = {k: p.detach() for k, p in named.items() if not p.requires_grad}
        if not self._trained:
            raise InputError("the module has no parameter that requires a gradient")
        self._sizes = [p.numel() for p in self._trained.values()]
        self.at = torch.cat([p.reshape(-1) for p in self._trained.values()])
        self.places: dict[str, slice] = {}
        start = 0
        for name, size in zip(self._trained, self._sizes, strict=True):
            self.places[name] = slice(start, start + size)
            start += size
            if not torch.isfinite(self.at[self.places[name]]).all():
                raise InputError(f"parameter {name!r} holds a value that is not finite")
        self.width = probe(self.outputs, self.at, len(self.inputs))

    @property
    def samples(self) -> int:
        """Number of samples N."""
        return len(self.inputs)

    def outputs(self, vector: Tensor, part: slice) -> Tensor:
        """Outputs (n, M) on some samples at flat parameters; differentiable."""
        return self.outputs_of(vector, self.inputs[part])

    def outputs_of(self, vector: Tensor, inputs: Tensor) -> Tensor:
        """Outputs (n, M) for other inputs."""
        parts = zip(self._trained.items(), vector.split(self._sizes), strict=True)
        params = {key: piece.reshape(p.shape) for (key, p), piece in parts}
        with sdpa_kernel(SDPBackend.MATH):  # the other kinds of attention have no second derivative
            result: Tensor = torch.func.functional_call(
                self.module, params | self._fixed, (inputs,)
            )
        return result

    def targets(self, y: Any, loss: Loss) -> Tensor:
        """``y`` as the loss takes it."""
        return loss.targets(finite("y", y), self.samples, self.width)

    def slices(self, batch_size: int) -> list[slice]:
        """Slices that cover the samples, ``batch_size`` at a time."""
        starts = range(0, self.samples, batch_size)
        return [slice(start, min(start + batch_size, self.samples)) for start in starts]


def probe(outputs: Callable[[Tensor, slice], Tensor], at: Tensor, samples: int) -> int:
    """The number of outputs M of a module that gives each sample the same (M,) every time."""
    few = min(4, samples)
    with torch.no_grad():
        try:
            once, twice = outputs(at, slice(0, few)), outputs(at, slice(0, few))
            one = outputs(at, slice(0, 1))
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
